//! Taking a mount away: with the system call where that is allowed, else with `fusermount3`.

use std::path::Path;
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::failure::{COULD_NOT_RUN, Failure, Result};

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is gone.
    Done,
    /// Somebody uses it.
    Busy,
}

/// Unmounts if nobody uses it.
pub fn plainly(dir: &Path) -> Result<Outcome> {
    match rustix::mount::unmount(dir, UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(Outcome::Done),
        Err(Errno::BUSY) => Ok(Outcome::Busy),
        // It is gone already.
        Err(Errno::INVAL | Errno::NOENT) => Ok(Outcome::Done),
        Err(Errno::PERM) => helper(dir, &["-u"]),
        Err(e) => Err(Failure::host("unmount", dir, &e.into())),
    }
}

/// Takes it out of the tree at once; who uses it keeps what they have open.
pub fn lazily(dir: &Path) -> Result<()> {
    let flags = UnmountFlags::NOFOLLOW | UnmountFlags::DETACH;
    match rustix::mount::unmount(dir, flags) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(Errno::PERM) => helper(dir, &["-u", "-z"]).map(|_| ()),
        Err(e) => Err(Failure::host("unmount", dir, &e.into())),
    }
}

fn helper(dir: &Path, flags: &[&str]) -> Result<Outcome> {
    let output = Command::new("fusermount3")
        .args(flags)
        .arg("--")
        .arg(dir)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| {
            let remedy = "install the package fuse3";
            Failure::with("run", "fusermount3", crate::failure::plain(&e), remedy)
                .code(COULD_NOT_RUN)
        })?;
    if output.status.success() {
        return Ok(Outcome::Done);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    if text.contains("busy") {
        return Ok(Outcome::Busy);
    }
    Err(Failure::at("unmount", dir, text.trim()))
}
