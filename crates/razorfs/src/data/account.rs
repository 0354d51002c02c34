//! What in each pack is still referred to.
//!
//! Counting happens only when a memtable is flushed: a frame that the first reference came to is
//! credited, one that the last reference has left is debited ([`super::Turnover`]). So what was
//! written and overwritten within one epoch is never counted, and the sum over all flushes is what
//! a recount of all extents finds.

use std::collections::BTreeMap;
use std::ops::Range;

use razorfs_format::manifest::PackMeta;
use razorfs_format::pack::{HEADER_LEN, PackState};
use razorfs_format::{Epoch, PackId};

use super::dead::DeadRuns;
use super::turnover::Settled;

/// Waste of a pack that is worth cleaning it, as a part of what is live: one in so many bytes.
const CLEAN_LEAST: u64 = 20;

/// The pack whose cleaning gains most.
#[derive(Clone, Copy, Debug)]
pub struct ToClean {
    /// The pack.
    pub pack: PackMeta,
    /// It has to be searched for dead frames first: perhaps there is nothing to gain.
    pub is_unknown: bool,
    /// Bytes of waste in all packs that are worth it, as far as they are known.
    pub waste: u64,
}

/// All packs of a volume. Cloning it is how a checkpoint that may fail works on its own copy.
#[derive(Clone, Debug, Default)]
pub struct Account {
    packs: BTreeMap<PackId, PackMeta>,
    dead: DeadRuns,
}

impl Account {
    /// The account of these packs.
    #[must_use]
    pub fn new(packs: impl IntoIterator<Item = PackMeta>) -> Self {
        let packs: BTreeMap<PackId, PackMeta> = packs.into_iter().map(|p| (p.id, p)).collect();
        let dead = DeadRuns::unknown(packs.keys().copied());
        Self { packs, dead }
    }

    /// Takes over what a writer tells of a pack. A pack only grows until it is sealed, so states
    /// may come in any order.
    pub fn note(&mut self, state: &PackState) {
        let new = PackState::new(state.id).meta(0);
        let meta = self.packs.entry(state.id).or_insert(new);
        let mut known = PackState::of(meta);
        known.merge(state);
        *meta = known.meta(meta.live);
    }

    /// Counts what a flush has changed. Packs that the flush refers to were noted before; what is
    /// said of others, or of more bytes than were credited, is damaged. The first is left alone;
    /// a pack of the second kind stays for ever: frames are multiples of 8 bytes, so one that is
    /// left cannot be debited.
    pub fn apply(&mut self, settled: &Settled) {
        let mut wrong = None;
        for (pack, bytes) in &settled.born {
            match self.packs.get_mut(pack) {
                Some(used) => used.live = used.live.saturating_add(*bytes),
                None => wrong = Some(*pack),
            }
        }
        for (pack, frame) in &settled.died {
            let Some(used) = self.packs.get_mut(pack) else {
                wrong = Some(*pack);
                continue;
            };
            let left = used.live.checked_sub(frame.end - frame.start);
            if left.is_none() {
                wrong = Some(*pack);
            }
            used.live = left.unwrap_or(1);
            self.dead.died(*pack, frame.clone());
        }
        if let Some(pack) = wrong {
            tracing::warn!(%pack, "the account of a pack is wrong; run `razorfs verify`");
        }
    }

    /// What was applied until now belongs to the flush of `epoch`.
    pub fn flushed(&mut self, epoch: Epoch) {
        self.dead.flushed(epoch);
    }

    /// The sealed packs that nothing refers to, nor will: no frame of theirs is younger than
    /// `flushed`, the epoch up to which everything has been flushed. The caller waits until no
    /// older generation that can still be needed refers to them.
    #[must_use]
    pub fn fully_dead(&self, flushed: Epoch) -> Vec<PackId> {
        self.packs
            .values()
            .filter(|p| p.sealed && p.live == 0 && p.last_birth <= flushed)
            .map(|p| p.id)
            .collect()
    }

    /// The holes that can be punched once no generation older than the flush of `flushed` can be
    /// needed: 16 KiB and more of dead frames in sealed packs. Each is answered once, and again,
    /// whole, when it has grown; punching twice does no harm.
    pub fn take_punchable(&mut self, flushed: Epoch) -> Vec<(PackId, Range<u64>)> {
        let packs = &self.packs;
        self.dead.take(flushed, |pack| {
            packs.get(&pack).is_some_and(|p| p.sealed && p.live > 0)
        })
    }

    /// Sealed packs of which at least a quarter is dead, all flushed: what cleaning should copy
    /// first. Best first: much to gain, little to copy, and old, for what is old stays live.
    #[must_use]
    pub fn cleanable(&self, flushed: Epoch) -> Vec<PackId> {
        let mut found: Vec<(u128, PackId)> = self
            .packs
            .values()
            .filter(|p| p.sealed && p.live > 0 && p.last_birth <= flushed)
            .filter(|p| p.live < p.total / 4 * 3)
            .map(|p| {
                let age = u128::from(flushed.0 - p.last_birth.0) + 1;
                let (total, live) = (u128::from(p.total), u128::from(p.live));
                let gain = (total - live).saturating_mul(age).saturating_mul(1024);
                (gain / (total + live), p.id)
            })
            .collect();
        found.sort_unstable_by(|a, b| b.cmp(a));
        found.into_iter().map(|(_, id)| id).collect()
    }

    /// The pack whose cleaning gains most, if there is so much to gain: best is much waste, little
    /// to copy, and old, for what is old stays live. What it holds must fit into `room`. Nothing
    /// is answered as long as less than `least` bytes are waste. What was punched is none; in a
    /// pack that is not searched yet all that is dead may be waste, or nothing.
    #[must_use]
    pub fn to_clean(
        &self,
        flushed: Epoch,
        least: u64,
        room: u64,
        is_done: &dyn Fn(&PackMeta) -> bool,
    ) -> Option<ToClean> {
        let (mut sum, mut known) = (0u64, 0u64);
        let mut found: Vec<(u128, bool, PackMeta)> = Vec::new();
        let packs = self.packs.values().filter(|p| p.sealed && p.live > 0);
        for p in packs.filter(|p| p.last_birth <= flushed && !is_done(p)) {
            let waste = p.total.saturating_sub(p.live);
            let waste = waste.saturating_sub(self.dead.holes(p.id));
            if p.live > room || waste < p.live / CLEAN_LEAST {
                continue;
            }
            let is_unknown = self.dead.is_unknown(p.id);
            sum = sum.saturating_add(waste);
            if !is_unknown {
                known = known.saturating_add(waste);
            }
            let age = u128::from(flushed.0 - p.last_birth.0) + 1;
            let gain = u128::from(waste).saturating_mul(age).saturating_mul(1024);
            let gain = gain / (u128::from(waste) + 2 * u128::from(p.live));
            found.push((gain, is_unknown, *p));
        }
        if sum < least {
            return None;
        }
        // As long as it is not certain that so much is waste, more has to be known.
        found.retain(|(_, is_unknown, _)| known >= least || *is_unknown);
        let best = found
            .into_iter()
            .reduce(|a, b| if b.0 > a.0 { b } else { a });
        best.map(|(_, is_unknown, pack)| ToClean {
            pack,
            is_unknown,
            waste: known,
        })
    }

    /// The pack that a search for dead frames gains most in: what died in it before the volume was
    /// opened is not known.
    #[must_use]
    pub fn unsearched(&self, flushed: Epoch) -> Option<&PackMeta> {
        let pack = self
            .cleanable(flushed)
            .into_iter()
            .find(|id| self.dead.is_unknown(*id))?;
        self.packs.get(&pack)
    }

    /// A search of the pack begins; no flush is under way.
    pub fn search(&mut self, pack: PackId) {
        self.dead.search(pack);
    }

    /// The pack was searched, and has so many bytes of holes, or will have them.
    pub fn searched(&mut self, pack: PackId, holes: u64) {
        if self.packs.contains_key(&pack) {
            self.dead.found(pack, holes);
        }
    }

    /// Forgets a pack that was removed.
    pub fn remove(&mut self, pack: PackId) {
        self.packs.remove(&pack);
        self.dead.remove(pack);
    }

    /// One pack.
    #[must_use]
    pub fn get(&self, pack: PackId) -> Option<&PackMeta> {
        self.packs.get(&pack)
    }

    /// All packs, by id.
    pub fn packs(&self) -> impl Iterator<Item = &PackMeta> {
        self.packs.values()
    }

    /// Bytes of holes in packs, as far as they are known.
    #[must_use]
    pub fn holes(&self) -> u64 {
        self.packs.keys().map(|id| self.dead.holes(*id)).sum()
    }

    /// Bytes of host space in packs, and how many of them are needed.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        self.packs.values().fold((0u64, 0u64), |(total, live), p| {
            let more = p.total.saturating_add(HEADER_LEN);
            (total.saturating_add(more), live.saturating_add(p.live))
        })
    }
}

#[cfg(test)]
#[path = "account_tests.rs"]
mod account_tests;
