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
    let mut bytes = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "razorfs", &mut bytes);
    print(&bytes)?;
    Ok(0)
}
