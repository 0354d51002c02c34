//! The connection of a mount to the kernel: whether it is alive, which mount it belongs to, and its
//! end where it cannot be served any more.
//!
//! A program that has asked for something waits until it is answered or the connection ends, and
//! nothing but that ends its waiting: a mount that is only taken out of the tree keeps it waiting.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::UnmountFlags;

use crate::mount::device_of;

/// Where the kernel has a directory for each connection, if that is mounted.
const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// Whether the kernel still asks over this descriptor of /dev/fuse.
pub(crate) fn is_alive(fuse: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&fuse, PollFlags::empty())];
    // An error says nothing of the connection; that of a mount that is gone is an event.
    let asked = poll(&mut fds, Some(&Timespec::default()));
    let [fd] = &fds;
    asked.is_err() || !fd.revents().contains(PollFlags::ERR)
}

/// Which mount is ours: at its mount point there may be another one by now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Identity {
    /// The kernel's list cannot be read.
    Unknown,
    /// It has been taken out of the tree.
    Nowhere,
    /// `major:minor`, which no other mount has while the connection is alive.
    Device(String),
}

impl Identity {
    /// That of the mount on `dir`, if there is one.
    pub(crate) fn of(dir: &Path) -> Self {
        match device_of(dir) {
            Ok(Some(device)) => Self::Device(device),
            Ok(None) => Self::Nowhere,
            Err(_) => Self::Unknown,
        }
    }

    /// Whether it is what is on `dir`, as far as can be told.
    pub(crate) fn is_on(&self, dir: &Path) -> bool {
        match (self, Self::of(dir)) {
            (Self::Unknown, _) | (Self::Device(_), Self::Unknown) => true,
            (Self::Nowhere, _) => false,
            (ours, found) => *ours == found,
        }
    }

    /// Ends the connection, if the kernel lets us: whoever waits for an answer gets an error. Where
    /// it does not, closing all descriptors of it does the same. `dir` is the mount point.
    pub(crate) fn abort(&self, fuse: &OwnedFd, dir: &Path) {
        // Its number may be another one's once it is not.
        if !is_alive(fuse) {
            return;
        }
        if let Self::Device(device) = self
            && let Some((_, number)) = device.split_once(':')
            && fs::write(format!("{CONNECTIONS}/{number}/abort"), "1").is_ok()
            && !is_alive(fuse)
        {
            return;
        }
        if self.is_on(dir) {
            let flags = UnmountFlags::FORCE | UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
            if let Err(e) = rustix::mount::unmount(dir, flags) {
                tracing::debug!("the connection cannot be aborted: {e}");
            }
        }
    }
}
