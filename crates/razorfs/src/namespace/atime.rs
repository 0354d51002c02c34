//! The time of access.
//!
//! Nobody waits for it: the change goes with the open batch, and reading goes on where it cannot
//! be made, on a full disk or a volume that is read-only.

use razorfs_format::Ino;
use razorfs_format::op::OpType;
use razorfs_format::record::{Inode, Time};

use super::Namespace;
use crate::sync::atomic::{AtomicU8, Ordering};
use crate::{Atime, Result};

/// With [`Atime::Relative`], a time of access this old is set anew in any case.
const DAY: i64 = 24 * 60 * 60;

/// The policy in force, changed while the volume is in use.
#[derive(Default)]
pub(super) struct Policy(AtomicU8);

impl Policy {
    fn get(&self) -> Atime {
        match self.0.load(Ordering::Relaxed) {
            1 => Atime::Relative,
            2 => Atime::Strict,
            _ => Atime::Never,
        }
    }
}

/// Whether a look at the file now sets its time of access.
fn is_due(policy: Atime, inode: &Inode, now: Time) -> bool {
    match policy {
        Atime::Never => false,
        Atime::Strict => inode.atime != now,
        Atime::Relative => {
            let last = inode.atime;
            last <= inode.mtime || last <= inode.ctime || now.secs.saturating_sub(last.secs) >= DAY
        }
    }
}

impl Namespace {
    /// From now on reading does this to the time of access.
    pub(crate) fn set_atime(&self, policy: Atime) {
        self.atime.0.store(policy as u8, Ordering::Relaxed);
    }

    /// Somebody has read the inode.
    pub(crate) fn accessed(&self, ino: Ino) {
        let policy = self.atime.get();
        if policy == Atime::Never || self.store.check_writable().is_err() {
            return;
        }
        let due = |inode: Inode| is_due(policy, &inode, self.store.now());
        if self.find_by_inode(ino).is_ok_and(due) {
            // What was read is right without it; a volume that takes no writes says so elsewhere.
            let _ = self.set_accessed(ino, policy);
        }
    }

    fn set_accessed(&self, ino: Ino, policy: Atime) -> Result<()> {
        let _lock = self.locks.write(ino);
        let mut op = self.begin(OpType::Setattr)?;
        let now = op.now;
        // Others may have been here meanwhile.
        if is_due(policy, op.inode(ino)?, now) {
            op.change(ino)?.atime = now;
            self.commit(op)?;
        }
        Ok(())
    }
}
