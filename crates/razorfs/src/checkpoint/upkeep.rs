//! When a checkpoint is due, and the journal's growth.

use super::Checkpointer;
use crate::Result;

impl Checkpointer {
    /// Whether enough was done, or long enough ago, for a checkpoint.
    pub fn is_due(&self) -> bool {
        let core = &self.core;
        let policy = &core.tuning;
        let version = core.version.load();
        if !version.frozen.is_empty() {
            return true;
        }
        let Some(journal) = core.journal.try_lock() else { return false };
        // With one generation's lag the ring holds two intervals and slack.
        let third = journal.ring.capacity() / 3;
        let (since, tight) = (journal.since_cut, journal.ring.room() < third);
        drop(journal);
        if version.active.is_empty() {
            return false;
        }
        if tight || version.active.bytes() >= policy.memtable_bytes {
            return true;
        }
        if policy.journal_only {
            return false;
        }
        let installer = self.installer.lock();
        let age = core.env.monotonic().saturating_sub(installer.last);
        since >= policy.checkpoint_journal.min(third) || age >= policy.checkpoint_interval
    }

    /// One step of growing the journal, if it is small for what is written.
    pub fn grow(&self) -> Result<bool> {
        let core = &self.core;
        if core.failure().is_some() {
            return Ok(false);
        }
        let mut journal = core.journal.lock();
        if journal.since_cut < journal.ring.capacity() / 4 {
            return Ok(false);
        }
        journal.ring.grow()
    }
}
