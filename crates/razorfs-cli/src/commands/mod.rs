//! The commands, each in a file of its own.

pub mod branch;
pub mod cat;
pub mod clone;
pub mod commit;
pub mod completions;
pub mod cp;
pub mod create;
pub mod diff;
pub mod doctor;
pub mod export;
pub mod import;
pub mod info;
pub mod log;
pub mod ls;
pub mod mkdir;
pub mod mount;
pub mod receive;
pub mod repair;
pub mod restore;
pub mod rm;
pub mod rollback;
pub mod scrub;
pub mod send;
pub mod snapshot;
pub mod stat;
pub mod stats;
pub mod sync;
pub mod transaction;
pub mod umount;
pub mod verify;

use std::io::Write;

use serde_json::Value;

use crate::failure::{Failure, Result, shown_bytes};

/// Prints the one document of `--json`.
pub fn print_json(value: &Value) -> Result<()> {
    print(format!("{value:#}\n").as_bytes())
}

/// Prints lines with what a volume or a daemon says, which may belong to somebody else: nothing in
/// them plays with the terminal.
pub fn print_text(lines: &str) -> Result<()> {
    let lines = lines.split('\n').map(|line| shown_bytes(line.as_bytes()));
    print(lines.collect::<Vec<_>>().join("\n").as_bytes())
}

/// Writes to standard output. A reader that has gone away, as in `razorfs ls | head`, ends the
/// command quietly.
pub fn print(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.map_err(|e| Failure::host("write to", "standard output", &e)),
    }
}
