//! The `razorfs` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    razorfs_cli::main()
}
