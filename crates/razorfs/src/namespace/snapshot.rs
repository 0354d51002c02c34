//! Snapshots of the names and files, and going back to one.

use std::sync::Arc;

use razorfs_format::manifest::SnapshotMeta;

use super::Namespace;
use super::merge::or_later;
use crate::{Error, Result, When};

/// Longest name of a snapshot or a branch, in bytes.
const NAME_MAX: usize = 255;

/// Fails unless it is a name that a snapshot or a branch may have: such as commands and paths can
/// say.
pub(crate) fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(Error::Invalid(
            "the name of a snapshot or a branch has 1 to 255 bytes",
        ));
    }
    if matches!(name, "." | "..") || name.starts_with('-') {
        return Err(Error::Invalid(
            "the name of a snapshot or a branch is not `.` or `..`, and does not begin with `-`",
        ));
    }
    let is_bad = |c: char| matches!(c, '/' | '@') || c.is_control();
    if name.contains(is_bad) {
        return Err(Error::Invalid(
            "the name of a snapshot or a branch has no `/`, `@` or control characters",
        ));
    }
    Ok(())
}

impl Namespace {
    /// As one of the snapshots shows it.
    pub(crate) fn snapshot(&self, name: &str) -> Result<Self> {
        Self::of(
            self.store.snapshot(name.as_bytes())?,
            Arc::clone(&self.family),
        )
    }

    /// As it was at a moment.
    pub(crate) fn moment(&self, when: When) -> Result<Self> {
        Self::of(self.store.moment(when)?, Arc::clone(&self.family))
    }

    /// What was at the snapshot before one, or nothing at all.
    pub(crate) fn before_snapshot(&self, name: &str) -> Result<Self> {
        let store = self.store.before(name.as_bytes())?;
        Ok(Self::over(store, Arc::clone(&self.family)))
    }

    /// Goes back to a snapshot, after taking one of the present. Nobody is in the middle of
    /// anything meanwhile, so what is read or changed is all before or all after.
    pub(crate) fn roll_back(&self, to: &str, safety: &str) -> Result<SnapshotMeta> {
        let taken = {
            let _renames = self.renames.lock();
            let _all = self.locks.lock_all();
            let taken = self.store.go_back(to.as_bytes(), safety.as_bytes())?;
            self.dentries.forget_all();
            taken
        };
        or_later(self.enqueue_orphans());
        Ok(taken)
    }

    /// What had lost its name in what is the present now, and was open then, is not open now,
    /// unless it is held.
    pub(super) fn enqueue_orphans(&self) -> Result<()> {
        for ino in self.store.orphans()? {
            self.pins.enqueue(ino);
        }
        Ok(())
    }
}
