//! This program, run again as another process.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::failure::{Failure, Result};

/// This program, by its path, which gives the process its name, unless that is gone meanwhile.
pub fn command() -> Command {
    let path = std::env::current_exe().ok().filter(|path| path.exists());
    let mut command = Command::new(path.unwrap_or_else(|| "/proc/self/exe".into()));
    command.arg0("razorfs");
    command
}

/// Brings what only the kernel has to us. Another process asks for that: one of our threads,
/// waiting for ourselves within the kernel, could not be killed, and the mount with it.
pub fn flush(dir: &Path) -> Result<()> {
    let failed = |e: std::io::Error| Failure::host("sync", dir, &e);
    let status = command()
        .arg("sync")
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(failed)?;
    match status.success() {
        true => Ok(()),
        false => Err(Failure::at(
            "sync",
            dir,
            format!("`razorfs sync` ended with {status}"),
        )),
    }
}
