//! Clearing of setuid, setgid and file capabilities when a file's content changes.
//!
//! The kernel asks for it with every write of an unprivileged caller, and nearly no file has any of
//! them; so files found without are remembered, in a small table without locks.

use std::sync::atomic::{AtomicU64, Ordering};

use razorfs::{FileKind, Ino, SetAttributes};

use super::{Operations, Result};
use crate::protocol::Request;

/// The extended attribute with the capabilities of a program.
pub(super) const CAPABILITY: &[u8] = b"security.capability";

const SLOTS: usize = 256;
/// Set in a slot that holds a count of changes and not an inode.
const COUNT: u64 = 1 << 63;

/// Files that are known to have nothing to clear.
#[derive(Debug)]
pub(super) struct Privileges {
    slots: [AtomicU64; SLOTS],
    changes: AtomicU64,
}

impl Default for Privileges {
    fn default() -> Self {
        Self {
            slots: [const { AtomicU64::new(COUNT) }; SLOTS],
            changes: AtomicU64::new(0),
        }
    }
}

impl Privileges {
    fn slot(&self, ino: Ino) -> &AtomicU64 {
        let n = (ino.0 % SLOTS as u64) as usize;
        // The remainder is always in range.
        self.slots.get(n).unwrap_or(&self.changes)
    }

    /// The mode or the capabilities of the file have been changed. A check that began before sees
    /// another value in the slot and does not fill it.
    pub(super) fn changed(&self, ino: Ino) {
        // From 1 on: a slot that was never used counts 0, and has to become another value too.
        let n = self.changes.fetch_add(1, Ordering::Relaxed).wrapping_add(1) & !COUNT;
        self.slot(ino).store(COUNT | n, Ordering::SeqCst);
    }
}

impl Operations {
    /// Clears what a write clears, before another request that changes the content. The kernel says
    /// nothing about these: here it is root who may keep what would be cleared.
    pub(super) fn changed_by(&self, request: &Request<'_>, ino: Ino) -> Result {
        match request.header.uid {
            0 => Ok(()),
            _ => self.clear_privileges(ino),
        }
    }

    /// Clears what a write clears.
    pub(super) fn clear_privileges(&self, ino: Ino) -> Result {
        let slot = self.privileges.slot(ino);
        let before = slot.load(Ordering::SeqCst);
        if before == ino.0 {
            return Ok(());
        }
        let stat = self.fs.stat(ino)?;
        let mode = without_set_ids(stat.mode);
        if stat.kind() == FileKind::Regular && mode != stat.mode {
            let changes = SetAttributes {
                mode: Some(mode & 0o7777),
                ..SetAttributes::default()
            };
            self.fs.set_attributes(ino, &changes)?;
        }
        self.remove_capability(ino)?;
        // If somebody was faster, the next write checks again.
        let _ = slot.compare_exchange(before, ino.0, Ordering::SeqCst, Ordering::SeqCst);
        Ok(())
    }
}

/// The mode without setuid, and without setgid where that means "run as the group".
pub(super) const fn without_set_ids(mode: u32) -> u32 {
    let mode = mode & !libc::S_ISUID;
    if mode & libc::S_IXGRP != 0 {
        mode & !libc::S_ISGID
    } else {
        mode
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_change_of_all_is_seen_by_a_check_that_began_before() {
        let privileges = Privileges::default();
        let slot = privileges.slot(Ino(7));
        let before = slot.load(Ordering::SeqCst);
        privileges.changed(Ino(7));
        let filled = slot.compare_exchange(before, 7, Ordering::SeqCst, Ordering::SeqCst);
        assert!(filled.is_err());
    }
}
