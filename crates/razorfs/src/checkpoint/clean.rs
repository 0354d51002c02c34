//! Cleaning: what a pack still holds is copied to another one, so that it can be removed.
//!
//! A step copies some frames, with the identity and the checksums that they have; the next flush
//! of a memtable lays their new places into the extents that it writes anyway, and into some more.
//! So the journal has nothing of it, no lock of a file is taken, and there is no race with whoever
//! writes: what was written over until the memtable was frozen is seen by the flush, and what is
//! written later lies over what it writes. A frame is moved only if, at the flush, the block still
//! has its own reference to it; a copy that is not taken is nobody's.
//!
//! That a frame dies while the tree still shows it is what whoever shares frames must know of (I7).
//! From before its copy until nobody can commit anything under a look at the old place, no new
//! reference to the frame is made ([`Ids::bar`]); and the flush that moves it is of the memtable
//! that was active then, or of a younger one, so that it counts every reference made before.
//!
//! What a snapshot shows stays where it is, for its references are never written anew; and so do
//! shared frames: nothing tells which blocks refer to them. Damaged ones stay, too: they are
//! read and checked before they are copied, under the checksums that the extent has.
//!
//! [`Ids::bar`]: crate::store::Ids::bar

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use razorfs_format::key::Key;
use razorfs_format::manifest::PackMeta;
use razorfs_format::pack::{FrameIdentity, TrailerEntry};
use razorfs_format::record::{Fragment, FragmentKind, PackRef};
use razorfs_format::timeline::Span;
use razorfs_format::{Epoch, PackId};

use super::{Checkpointer, Installer};
use crate::data::StoredFrame;
use crate::marks::{self, Mark};
use crate::store::Version;
use crate::sync::atomic::Ordering;
use crate::{Error, Result};

/// Bytes that a step copies, about. It has the installer's lock until they are flushed, which
/// whoever needs room in the journal may wait for; with less the flushes would cost more.
const STEP: u64 = 2 << 20;
/// Frames that a step looks at, at most.
const LOOKS: usize = 4 << 10;
/// Steps between two looks at what else is due, where there is time: programs have most of the
/// disk.
const STEPS: u32 = 4;
/// The same where space is short: with fewer, checkpoints that follow each other would leave no
/// time for it.
const URGENT_STEPS: u32 = 16;

/// Bytes of copies that wait for a flush, at most, and a step more.
const ENOUGH: u64 = 32 << 20;

/// Where a frame stands.
type Spot = (PackId, u64);

/// Frames that were copied and to which nothing refers yet at their new places.
#[derive(Clone, Default)]
pub(super) struct Moves {
    /// The flush of this epoch, or of a later one, has every reference that was made before new
    /// ones were barred.
    epoch: Epoch,
    to: BTreeMap<Spot, Spot>,
    /// The blocks that refer to them.
    blocks: BTreeSet<Key>,
    bytes: u64,
}

impl Moves {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.to.is_empty()
    }

    /// The blocks that have a reference to one of them, or had.
    pub fn blocks(&self) -> impl Iterator<Item = &Key> {
        self.blocks.iter()
    }

    /// Lets a block's own references follow. What was born up to epoch `pinned`, that of a snapshot
    /// which may have been taken since it was copied, stays: the snapshot refers to where it is.
    pub fn relocate(&self, block: &Key, pinned: Option<Epoch>, list: &mut [Fragment]) {
        if !self.blocks.contains(block) {
            return;
        }
        for fragment in list {
            let FragmentKind::Pack(r) = &mut fragment.kind else {
                continue;
            };
            let to = match r.origin {
                None if pinned.is_some_and(|pinned| r.birth <= pinned) => None,
                None => self.to.get(&(r.pack, r.pos)),
                Some(_) => None,
            };
            if let Some((pack, pos)) = to {
                (r.pack, r.pos) = (*pack, *pos);
            }
        }
    }
}

/// A pack that is being emptied.
struct Victim {
    pack: PackId,
    /// Its frames, by the blocks that wrote them.
    frames: Vec<TrailerEntry>,
    /// The next one to look at.
    next: usize,
}

/// What is being cleaned.
#[derive(Default)]
pub(super) struct Cleaning {
    victim: Option<Victim>,
    /// Packs that were gone through: what they still hold stays.
    done: BTreeSet<PackId>,
    moves: Moves,
}

impl Cleaning {
    /// Whether copies in this pack wait for their references: until then it looks dead.
    pub fn awaits(&self, pack: PackId) -> bool {
        self.moves.to.values().any(|(to, _)| *to == pack)
    }

    /// Packs that were gone through may have more to copy now.
    pub fn start_over(&mut self) {
        self.done.clear();
    }

    /// The pack is gone, or is as if nothing had been copied from it.
    pub fn forget(&mut self, pack: PackId) {
        self.done.remove(&pack);
        if self.victim.as_ref().is_some_and(|v| v.pack == pack) {
            self.victim = None;
        }
    }
}

/// What there is to be done.
enum Chosen {
    Nothing,
    /// The pack that is to be emptied is the victim.
    Victim,
    /// Whether this pack is worth it is not known before it was searched.
    Unknown(PackMeta),
}

/// A frame on its way.
struct Copy {
    key: Key,
    from: Spot,
    frame: StoredFrame,
}

impl Checkpointer {
    /// One step of cleaning; answers whether there was anything to do.
    pub fn clean(&self) -> Result<bool> {
        let done = self.clean_unlatched();
        if done.is_err() {
            // It is of no use to wait for it.
            self.core.waste_over.store(0, Ordering::Relaxed);
        }
        self.core.latching(done)
    }

    /// Some steps of cleaning; answers whether more should follow at once. Whoever asks for a
    /// checkpoint waits for one of them at most.
    pub fn clean_some(&self) -> Result<bool> {
        let is_urgent = self.core.is_confined();
        let most = if is_urgent { URGENT_STEPS } else { STEPS };
        let is_asked = || self.core.signals.wanted.lock().checkpoint;
        let mut steps = 0;
        while steps < most && !is_asked() && self.clean()? {
            steps += 1;
        }
        Ok(is_urgent && steps > 0)
    }

    /// Whether copies wait for a flush that has nothing else to hurry for.
    pub(super) fn moves_are_due(&self) -> bool {
        self.moves_due.load(Ordering::Relaxed)
    }

    fn clean_unlatched(&self) -> Result<bool> {
        if let Some(cause) = self.core.failure() {
            return Err(Error::Failed(cause));
        }
        let mut guard = self.installer.lock();
        let installer = &mut *guard;
        // A flush that failed is tried again with an older epoch than what is copied now would
        // have: no generation may come between that has neither those moves nor these.
        if !self.core.version.load().frozen.is_empty() {
            marks::hit(Mark::CleanAfterFlush);
            return Ok(false);
        }
        let enough = self.core.garbage_most().saturating_mul(2);
        if installer.cleaning.moves.bytes >= enough.min(ENOUGH) {
            self.moves_due.store(true, Ordering::Relaxed);
            return Ok(false);
        }
        if installer.cleaning.victim.is_none() {
            match self.choose(installer)? {
                Chosen::Victim => {}
                Chosen::Unknown(pack) => {
                    marks::hit(Mark::CleanSearched);
                    return self.search_in(guard, &pack).map(|()| true);
                }
                Chosen::Nothing => {
                    let waiting = installer.has_copies();
                    self.moves_due.store(waiting, Ordering::Relaxed);
                    return Ok(false);
                }
            }
        }
        self.core.fence.check()?;
        self.copy_some(installer)?;
        Ok(true)
    }

    /// Chooses the pack to be cleaned next, if one is worth it.
    fn choose(&self, installer: &mut Installer) -> Result<Chosen> {
        let core = &self.core;
        let free = core.disk.space()?.free;
        // What is copied takes space before any is given back.
        let room = match core.host_is_low(0)? {
            true => free / 2,
            false => free.saturating_sub(core.tuning.host_margin),
        };
        let flushed = installer.manifest.counters.epoch;
        let done = &installer.cleaning.done;
        let live = installer.account.totals().1;
        let soon = core.tuning.garbage_soon;
        let waste = match core.is_confined() {
            true => (soon / 16).max(live / 64),
            false => (soon / 2).max(live / 8),
        };
        let newest = core.version.load().timeline.before(Span::OPEN);
        // Nothing of a pack that a snapshot shows in full can be copied.
        let is_done =
            |p: &PackMeta| done.contains(&p.id) || newest.is_some_and(|at| p.last_birth <= at);
        let found = installer.account.to_clean(flushed, waste, room, &is_done);
        let over = found.map_or(0, |found| found.waste.saturating_sub(2 * waste));
        core.waste_over.store(over, Ordering::Relaxed);
        let meta = match found {
            None => return Ok(Chosen::Nothing),
            Some(found) if found.is_unknown => return Ok(Chosen::Unknown(found.pack)),
            Some(found) => found.pack,
        };
        let frames = core.reader.entries(meta.id, meta.len);
        let mut frames = match frames {
            Ok(frames) => frames,
            Err(e) => {
                marks::hit(Mark::CleanPackUnreadable);
                tracing::warn!(pack = %meta.id, error = %e, "a pack cannot be cleaned");
                installer.cleaning.done.insert(meta.id);
                return Ok(Chosen::Nothing);
            }
        };
        frames.sort_unstable_by_key(|f| (f.branch, f.ino, f.block, f.pos));
        installer.cleaning.victim = Some(Victim {
            pack: meta.id,
            frames,
            next: 0,
        });
        Ok(Chosen::Victim)
    }

    /// Copies some frames of the pack that is being cleaned.
    fn copy_some(&self, installer: &mut Installer) -> Result<()> {
        let core = &self.core;
        let Some(mut victim) = installer.cleaning.victim.take() else {
            return Ok(());
        };
        let version = core.version.load_full();
        let mut copies: Vec<Copy> = Vec::new();
        let (mut bytes, first) = (0, victim.next);
        let mut block = None;
        while let Some(entry) = victim.frames.get(victim.next) {
            if bytes >= STEP || victim.next - first >= LOOKS {
                break;
            }
            victim.next += 1;
            if let Some(copy) = self.look(&version, victim.pack, entry, &mut block) {
                bytes += copy.frame.header.frame_len();
                copies.push(copy);
            }
        }
        // After the frames were barred: what was shared before is in this epoch or before.
        let epoch = core.version.load().active.epoch;
        let frames: Vec<&StoredFrame> = copies.iter().map(|c| &c.frame).collect();
        // Without the ballast, which is for what has been accepted: this can wait.
        let placed = match installer.cleaned.copy(&frames, epoch) {
            Ok(placed) => placed,
            Err(e) => {
                marks::hit(Mark::CleanTakenBack);
                core.ids.unbar(copies.iter().map(|c| c.from));
                victim.next = first;
                installer.cleaning.victim = Some(victim);
                return Err(e);
            }
        };
        if !copies.is_empty() {
            marks::hit(Mark::CleanCopied);
        }
        core.counts
            .cleaned_bytes
            .fetch_add(bytes, Ordering::Relaxed);
        let moves = &mut installer.cleaning.moves;
        if !copies.is_empty() {
            moves.epoch = moves.epoch.max(epoch);
        }
        moves.bytes += bytes;
        for (copy, to) in copies.into_iter().zip(placed) {
            moves.to.insert(copy.from, (to.pack, to.pos));
            moves.blocks.insert(copy.key);
        }
        if victim.next < victim.frames.len() {
            installer.cleaning.victim = Some(victim);
        } else {
            core.counts.cleaned_packs.fetch_add(1, Ordering::Relaxed);
            installer.cleaning.done.insert(victim.pack);
        }
        Ok(())
    }

    /// A frame as it is to be copied, if its block still has it for its own. `block` is the one
    /// that was looked at last.
    fn look(
        &self,
        version: &Version,
        pack: PackId,
        entry: &TrailerEntry,
        block: &mut Option<(Key, Vec<Fragment>)>,
    ) -> Option<Copy> {
        let key = Key::extent(entry.branch, entry.ino, entry.block);
        if block.as_ref().is_none_or(|(last, _)| *last != key) {
            let list = version.head().base_extent(&key).unwrap_or_else(|e| {
                marks::hit(Mark::CleanDamaged);
                tracing::warn!(error = %e, "what a block refers to stays where it is");
                Vec::new()
            });
            *block = Some((key, list));
        }
        let (_, list) = block.as_ref()?;
        let (r, off) = list.iter().find_map(|f| match &f.kind {
            FragmentKind::Pack(r) if (r.pack, r.pos) == (pack, entry.pos) => Some((r, f.off)),
            _ => None,
        })?;
        if r.origin.is_some() {
            marks::hit(Mark::CleanShared);
            return None;
        }
        let newest = version.timeline.before(Span::OPEN);
        if newest.is_some_and(|newest| r.birth <= newest) {
            marks::hit(Mark::CleanSnapshot);
            return None;
        }
        if version.head().covers(&key, &shown(list, r)) {
            // It dies with the next flush.
            marks::hit(Mark::CleanCovered);
            return None;
        }
        let from = (pack, entry.pos);
        let identity = FrameIdentity::of(r, key.branch(), key.ino(), key.second(), off);
        self.core.ids.bar(from);
        match self.core.reader.read_stored(r, &identity) {
            Ok(frame) => Some(Copy { key, from, frame }),
            Err(e) => {
                marks::hit(Mark::CleanDamaged);
                tracing::warn!(error = %e, "a frame stays where it is");
                self.core.ids.unbar(std::iter::once(from));
                None
            }
        }
    }

    /// The host has no room for a flush that moves frames: what was copied is nobody's then, and
    /// is given back with its pack. Answers whether the flush of `epoch` would have moved any.
    pub(super) fn give_up_copies(&self, installer: &mut Installer, epoch: Epoch) -> bool {
        let cleaning = &mut installer.cleaning;
        if cleaning.moves.is_empty() || epoch < cleaning.moves.epoch {
            return false;
        }
        tracing::warn!("the host is full: what was copied by cleaning is given up");
        let moves = std::mem::take(&mut cleaning.moves);
        self.core.ids.unbar(moves.to.keys().copied());
        // They are gone through anew once it is worth it, and there is room.
        for (pack, _) in moves.to.keys() {
            cleaning.forget(*pack);
        }
        self.moves_due.store(false, Ordering::Relaxed);
        true
    }

    /// The flush of a memtable has moved these, and its generation is the newest.
    pub(super) fn moved(&self, installer: &mut Installer, moves: &Moves) {
        let core = &self.core;
        let flushed = installer.manifest.counters.epoch;
        core.ids.forget_barred(flushed);
        if moves.is_empty() {
            return;
        }
        marks::hit(Mark::CleanMoved);
        // Whoever looked at the version before commits while this memtable is active, or not.
        let until = core.version.load().active.epoch;
        core.ids.bar_until(moves.to.keys().copied(), until);
        installer.cleaning.moves = Moves::default();
        self.moves_due.store(false, Ordering::Relaxed);
    }
}

/// The ranges of the block that show a frame.
fn shown(list: &[Fragment], r: &PackRef) -> Vec<std::ops::Range<u32>> {
    list.iter()
        .filter(|f| match &f.kind {
            FragmentKind::Pack(s) => (s.pack, s.pos) == (r.pack, r.pos),
            _ => false,
        })
        .map(|f| f.off..f.end())
        .collect()
}

impl Installer {
    /// What a flush of `epoch` moves.
    pub(super) fn moves_for(&self, epoch: Epoch) -> Arc<Moves> {
        match epoch >= self.cleaning.moves.epoch {
            true => Arc::new(self.cleaning.moves.clone()),
            false => Arc::default(),
        }
    }

    /// Whether frames were copied to which no flush has moved the references yet.
    pub(crate) fn has_copies(&self) -> bool {
        !self.cleaning.moves.is_empty()
    }
}
