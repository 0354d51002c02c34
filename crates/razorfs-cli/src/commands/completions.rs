//! `razorfs completions`: what a shell needs to complete our commands.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::Cli;
use crate::commands::print;
use crate::failure::Result;

/// Prints a shell's completions
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  razorfs completions bash > ~/.local/share/bash-completion/completions/razorfs
  razorfs completions fish > ~/.config/fish/completions/razorfs.fish")]
pub struct Args {
    /// The shell
    shell: Shell,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8> {
    print(&script(args.shell))?;
    Ok(0)
}

fn script(shell: Shell) -> Vec<u8> {
    let mut bytes = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "razorfs", &mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;
    use std::process::Command;

    #[test]
    fn every_shell_is_told_every_command_and_its_options() {
        for shell in Shell::value_variants() {
            let script = String::from_utf8(script(*shell)).unwrap();
            for command in Cli::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell}: {command}");
            }
            for option in ["journal-copies", "prometheus", "after-gap"] {
                assert!(script.contains(option), "{shell}: {option}");
            }
        }
    }

    /// What a shell says of a program that it completes a word with.
    fn completed(line: &str) -> Option<Vec<String>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("razorfs.bash");
        std::fs::write(&path, script(Shell::Bash)).unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let commands = format!(
            "set -e; source '{}'; COMP_WORDS=({line}); COMP_CWORD={}; \
             _razorfs razorfs '{}' '{}' || true; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            path.display(),
            words.len() - 1,
            words[words.len() - 1],
            words[words.len() - 2],
        );
        let output = Command::new("bash")
            .args(["--norc", "-c", &commands])
            .output();
        let output = output.ok()?;
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8(output.stdout).unwrap();
        Some(said.lines().map(str::to_owned).collect())
    }

    #[test]
    fn bash_completes_commands_and_options() {
        let Some(commands) = completed("razorfs um") else {
            return eprintln!("SKIPPED: there is no bash");
        };
        assert_eq!(commands, ["umount"]);
        assert_eq!(completed("razorfs mount --f").unwrap(), ["--foreground"]);
        assert_eq!(completed("razorfs snapshot cre").unwrap(), ["create"]);
    }
}
