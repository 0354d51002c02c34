//! What a generation says of the packs.

use razorfs_format::PackId;
use razorfs_format::manifest::{Manifest, PackMeta};
use razorfs_format::pack::PackState;

use super::{Checkpointer, Edit, Installer};
use crate::data::Account;
use crate::marks::{self, Mark};
use crate::sync::atomic::Ordering;

impl Checkpointer {
    /// The packs as their writers know them. Those that hold much dead data are closed, at once
    /// if the host is low: only what nobody appends to is removed, punched and cleaned.
    pub(super) fn pack_states(
        &self,
        installer: &mut Installer,
        account: &Account,
    ) -> Vec<PackState> {
        let core = &self.core;
        let is_low = core.host_is_low(0).unwrap_or(false);
        let least = (core.tuning.garbage_soon / 16).max(account.totals().1 / 256);
        // What came since the memtable was frozen is not counted yet, and not dead.
        let young = core.placed_since_cut.load(Ordering::Relaxed);
        let is_dead = |id| {
            let dead = |p: &PackMeta| (p.total - p.live.min(p.total)).saturating_sub(young);
            account
                .get(id)
                .is_some_and(|p| (is_low && p.live < p.total / 2) || dead(p) > least)
        };
        let cleaning = &installer.cleaning;
        let is_dead = |id| is_dead(id) && !cleaning.awaits(id);
        let mut journal = core.journal();
        let writers = [
            &mut journal.hot,
            &mut installer.cold,
            &mut installer.cleaned,
        ];
        let mut states = Vec::new();
        for writer in writers {
            if writer.current().is_some_and(is_dead) {
                marks::hit(Mark::CheckpointPackSealed);
                if let Err(e) = writer.seal() {
                    tracing::warn!(error = %e, "a pack could not be closed");
                }
            }
            states.extend(writer.states());
        }
        states
    }

    /// Brings the packs of the manifest up to date; answers those that hold nothing live.
    pub(super) fn settle_packs(
        states: &[PackState],
        next: &mut Manifest,
        account: &mut Account,
        awaited: impl Fn(PackId) -> bool,
    ) -> Vec<PackId> {
        for state in states {
            account.note(state);
        }
        account.flushed(next.counters.epoch);
        let mut dead = account.fully_dead(next.counters.epoch);
        dead.retain(|pack| !awaited(*pack));
        for pack in &dead {
            account.remove(*pack);
        }
        next.packs = account.packs().copied().collect();
        dead
    }

    /// Counts the bytes of the segments that are new.
    pub(super) fn count_segments(&self, edit: Option<&Edit>) {
        let Some(edit) = edit else { return };
        let written = edit.added.iter().filter(|s| edit.written.contains(&s.id));
        let bytes = written.map(|s| s.bytes).sum();
        let count = &self.core.counts.segment_bytes;
        count.fetch_add(bytes, Ordering::Relaxed);
    }
}
