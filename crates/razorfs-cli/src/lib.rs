//! The `razorfs` command, as a library, so that fuzzing reaches what reads the files of others.

pub mod archive;
mod autosnap;
mod bounded;
mod branches;
mod check;
mod clock;
mod commands;
mod daemon;
mod descriptors;
mod desk;
mod diff;
pub mod failure;
mod ground;
mod handover;
mod history;
mod holders;
#[cfg(test)]
mod hostile_tests;
mod keeper;
mod kept;
mod latency;
pub mod legacy;
mod log;
mod memory;
mod metrics;
mod mountinfo;
mod mounts;
mod names;
mod onto;
mod options;
mod pack;
mod place;
mod placing;
mod points;
mod program;
mod programs;
mod progress;
mod prometheus;
pub mod prototype;
mod remount;
mod server;
mod shows;
mod signals;
mod size;
mod socket;
mod sparse;
mod streams;
mod top;
pub mod tree;
mod unmount;

#[cfg(test)]
// What tests and fuzzing share calls it by its name.
extern crate self as razorfs_cli;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use razorfs_disk::Env;

use failure::{COULD_NOT_RUN, Failure, ORDINARY, Result};

/// A crash-safe, end-to-end checksummed file system in a directory
#[derive(Parser, Debug)]
#[command(
    name = "razorfs",
    version,
    arg_required_else_help = true,
    after_help = "A VOLUME is a directory that holds a file system. A PLACE is a volume, mounted \
or not, or its mount point. Commands that read take PLACE@NAME for what a snapshot has. No command \
needs root.

Exit codes: 0 done; 1 an error, said in one line; 2 could not run; verify, \
repair, scrub and import --salvage: 4 damage was found and is still there.

Examples:
  razorfs mount demo.rzfs mnt     makes demo.rzfs and mnt if they are missing
  razorfs umount mnt
  razorfs help mount              more about a command, with examples"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Create(commands::create::Args),
    Mount(commands::mount::Args),
    #[command(visible_alias = "unmount")]
    Umount(commands::umount::Args),
    Sync(commands::sync::Args),
    Info(commands::info::Args),
    Verify(commands::verify::Args),
    Repair(commands::repair::Args),
    Scrub(commands::scrub::Args),
    Migrate(commands::migrate::Args),
    Snapshot(commands::snapshot::Args),
    Rollback(commands::rollback::Args),
    Restore(commands::restore::Args),
    Diff(commands::diff::Args),
    Branch(commands::branch::Args),
    Commit(commands::commit::Args),
    Transaction(commands::transaction::Args),
    Log(commands::log::Args),
    Clone(commands::clone::Args),
    Send(commands::send::Args),
    Receive(commands::receive::Args),
    Import(commands::import::Args),
    Export(commands::export::Args),
    Ls(commands::ls::Args),
    Cat(commands::cat::Args),
    Stat(commands::stat::Args),
    Cp(commands::cp::Args),
    Rm(commands::rm::Args),
    Mkdir(commands::mkdir::Args),
    Stats(commands::stats::Args),
    Top(commands::top::Args),
    Doctor(commands::doctor::Args),
    Completions(commands::completions::Args),
    Man(commands::man::Args),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let line: Vec<OsString> = std::env::args_os().collect();
    // A panic is a bug of ours: the command could not run.
    let outcome = std::panic::catch_unwind(|| names::run(&line));
    ExitCode::from(outcome.unwrap_or(COULD_NOT_RUN))
}

/// Runs a command line, the name of the program first, and answers with the exit code.
fn run_line(line: &[OsString]) -> u8 {
    match parse::<Cli>(line) {
        Ok(cli) => report(run(&cli.command)),
        Err(code) => code,
    }
}

/// What a command line asks for. Where it is wrong, or asks for help, that is printed, and the
/// exit code is what is left.
fn parse<P: Parser>(line: &[OsString]) -> std::result::Result<P, u8> {
    P::try_parse_from(line).map_err(|e| {
        let is_help = is_help(&e);
        if !is_help {
            let name = P::command().get_name().to_owned();
            return report(Err(Failure::new(usage(&e, &name)).code(ORDINARY)));
        }
        // Help that cannot be printed cannot be helped.
        let _ = e.print();
        if e.use_stderr() { ORDINARY } else { 0 }
    })
}

/// Whether the "error" of the parser is the help, which has many lines.
fn is_help(e: &clap::Error) -> bool {
    use clap::error::ErrorKind;
    matches!(
        e.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    )
}

/// A usage error of the program of this name, in one line.
fn usage(e: &clap::Error, name: &str) -> String {
    let text = e.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let end = text
        .find("\n\nUsage:")
        .or_else(|| text.find("\n\nFor more"));
    let text: String = text.chars().take(end.unwrap_or(text.len())).collect();
    let words: Vec<&str> = text.split_whitespace().collect();
    let help = match name {
        "razorfs" => "razorfs help".to_owned(),
        helper => format!("{helper} --help"),
    };
    format!("{}; see `{help}`", words.join(" "))
}

/// Says what went wrong and answers with the exit code.
fn report(outcome: Result<u8>) -> u8 {
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("razorfs: {failure}");
            failure.code
        }
    }
}

fn run(command: &Command) -> Result<u8> {
    match command {
        Command::Create(args) => commands::create::run(args),
        Command::Mount(args) => commands::mount::run(args),
        Command::Umount(args) => commands::umount::run(args),
        Command::Sync(args) => commands::sync::run(args),
        Command::Info(args) => commands::info::run(args),
        Command::Verify(args) => commands::verify::run(args),
        Command::Repair(args) => commands::repair::run(args),
        Command::Scrub(args) => commands::scrub::run(args),
        Command::Migrate(args) => commands::migrate::run(args),
        Command::Snapshot(args) => commands::snapshot::run(args),
        Command::Rollback(args) => commands::rollback::run(args),
        Command::Restore(args) => commands::restore::run(args),
        Command::Diff(args) => commands::diff::run(args),
        Command::Branch(args) => commands::branch::run(args),
        Command::Commit(args) => commands::commit::run(args),
        Command::Transaction(args) => commands::transaction::run(args),
        Command::Log(args) => commands::log::run(args),
        Command::Clone(args) => commands::clone::run(args),
        Command::Send(args) => commands::send::run(args),
        Command::Receive(args) => commands::receive::run(args),
        Command::Import(args) => commands::import::run(args),
        Command::Export(args) => commands::export::run(args),
        Command::Ls(args) => commands::ls::run(args),
        Command::Cat(args) => commands::cat::run(args),
        Command::Stat(args) => commands::stat::run(args),
        Command::Cp(args) => commands::cp::run(args),
        Command::Rm(args) => commands::rm::run(args),
        Command::Mkdir(args) => commands::mkdir::run(args),
        Command::Stats(args) => commands::stats::run(args),
        Command::Top(args) => commands::top::run(args),
        Command::Doctor(args) => commands::doctor::run(args),
        Command::Completions(args) => commands::completions::run(args),
        Command::Man(args) => commands::man::run(args),
    }
}

/// The clock of the host.
fn env() -> Box<dyn Env> {
    Box::new(razorfs_disk::os::OsEnv)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples() {
        let all = Cli::command();
        let mut commands: Vec<_> = all.get_subcommands().collect();
        while let Some(command) = commands.pop() {
            let help = command.get_after_help().map(ToString::to_string);
            let help = help.unwrap_or_default();
            assert!(help.contains("Examples:"), "{}", command.get_name());
            commands.extend(command.get_subcommands());
        }
    }

    #[test]
    fn usage_errors_are_one_line() {
        for line in [
            vec!["razorfs", "frob"],
            vec!["razorfs", "mount"],
            vec!["razorfs", "mount", "--frob", "a", "b"],
            vec!["razorfs", "verify", "v", "--level", "9"],
        ] {
            let e = Cli::try_parse_from(line).unwrap_err();
            let text = usage(&e, "razorfs");
            assert!(!text.contains('\n') && !text.contains("error:"), "{text}");
        }
    }
}
