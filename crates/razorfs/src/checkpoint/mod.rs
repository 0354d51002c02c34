//! Checkpoint: a frozen memtable becomes segments, a manifest names them, a superblock names the
//! manifest. One installer at a time does this, so that generations follow each other.
//!
//! Order, and what is on the disk if the power fails right after a step:
//!
//! 0. the superblock is looked at: another host that opened the volume on a shared disk has left
//!    its nonce there, and then nothing is written at all. All that follows makes new files only;
//!    before the superblock is written, and before anything is removed, it is looked at again;
//! 1. the open batch is sealed and durable, the memtable frozen: nothing else changed;
//! 2. inline data that grew is in packs, flushed: unreferenced bytes;
//! 3. segments are written as `.tmp` and flushed: removed at mount;
//! 4. segments are renamed, the directory flushed: unlisted, removed at mount;
//! 5. the manifest is written as `.tmp`, flushed, renamed, the directory flushed: nobody names it;
//! 6. both twin slots of the next generation are written, the superblock flushed: the old or the
//!    new generation counts, and everything that it names is durable;
//! 7. the version is published, the memtable dropped;
//! 8. what no generation from the previous one on needs is recycled, removed, punched.

mod clean;
#[cfg(test)]
mod clean_tests;
#[cfg(test)]
mod fence_tests;
mod flush;
mod garbage;
mod lost;
mod manifest;
mod packs;
mod parity;
mod release;
mod search;
pub mod superfile;
mod upkeep;

use std::collections::BTreeSet;
use std::sync::Arc;

use razorfs_disk::{Dir, Name};
use razorfs_format::layout::FileName;
use razorfs_format::manifest::{Manifest, SegmentMeta};
use razorfs_format::pack::PackState;
use razorfs_format::superblock::{State, Superblock};
use razorfs_format::timeline::Timeline;
use razorfs_format::{BatchSeq, Generation, PackId, SegmentId};

use crate::data::{Account, PackWriter, Position, Settled};
use crate::marks::{self, Mark};
use crate::scrub::Scrub;
use crate::store::{CHECKPOINT, Core, Frozen, Version};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::tree::{CompactionOptions, SegmentOptions, publish};
use crate::{Error, Result};
use clean::{Cleaning, Moves};
use flush::Flushed;
use garbage::{Garbage, Unneeded};
use lost::Unreadable;
pub(crate) use parity::Parity;
use superfile::SuperFile;

/// The state of the installer.
pub(crate) struct Installer {
    pub superblock: Superblock,
    pub manifest: Manifest,
    pub cold: PackWriter,
    /// Of what cleaning copies: what is old, and likely stays.
    pub cleaned: PackWriter,
    pub account: Account,
    pub segment_options: SegmentOptions,
    pub compaction_options: CompactionOptions,
    /// Where the volume has parity.
    pub parity: Option<Parity>,
    cleaning: Cleaning,
    garbage: Vec<Garbage>,
    unreadable: Unreadable,
    /// The generation in which no pack was left to be searched for dead frames.
    searched: Generation,
    /// Snapshots that were released while memtables were frozen that know them still.
    released: Vec<u64>,
    /// Snapshots of which it cannot be told what they hold, since records are damaged.
    unreleasable: BTreeSet<u64>,
    /// The journal's first needed batch of the newest generation.
    cut: BatchSeq,
    /// That of the generation before it.
    previous_cut: BatchSeq,
    next_run: u64,
}

/// What the installer starts with.
pub(crate) struct InstallerStart {
    pub superblock: Superblock,
    pub manifest: Manifest,
    pub cold: PackWriter,
    pub cleaned: PackWriter,
    pub account: Account,
    pub segment_options: SegmentOptions,
    pub compaction_options: CompactionOptions,
    pub parity: Option<Parity>,
}

impl Installer {
    /// An installer that goes on from a generation.
    pub fn new(start: InstallerStart) -> Self {
        let next_run = start
            .manifest
            .segments
            .iter()
            .map(|s| s.run)
            .max()
            .unwrap_or(0)
            + 1;
        Self {
            cut: start.superblock.journal.batch,
            previous_cut: start.superblock.journal.batch,
            superblock: start.superblock,
            manifest: start.manifest,
            cold: start.cold,
            cleaned: start.cleaned,
            cleaning: Cleaning::default(),
            account: start.account,
            segment_options: start.segment_options,
            compaction_options: start.compaction_options,
            parity: start.parity,
            garbage: Vec::new(),
            unreadable: Unreadable::default(),
            searched: Generation(0),
            released: Vec::new(),
            unreleasable: BTreeSet::new(),
            next_run,
        }
    }

    /// Bytes that segments and packs take; of the holes in these only what is known.
    fn stored(&self) -> u64 {
        let segments = self.manifest.segments.iter().map(|s| s.bytes);
        let packs = self.account.totals().0;
        segments.fold(
            packs.saturating_sub(self.account.holes()),
            u64::saturating_add,
        )
    }
}

/// Writes generations of a volume.
pub(crate) struct Checkpointer {
    pub core: Arc<Core>,
    pub installer: Mutex<Installer>,
    pub scrub: Scrub,
    /// Bytes of the largest file of the journal, all copies of it.
    largest_file: u64,
    /// Copies of the journal.
    pub copies: u8,
    /// When the last checkpoint was, on the monotonic clock.
    last: AtomicU64,
    /// Frames were copied, and wait for a flush to move them.
    moves_due: AtomicBool,
}

/// What the next generation changes.
#[derive(Default)]
struct Edit {
    added: Vec<SegmentMeta>,
    /// Those of `added` that are new files, and not moved ones.
    written: Vec<SegmentId>,
    /// Where the writer of cold packs was before.
    cold: Option<Position>,
    removed: Vec<SegmentId>,
    /// The frozen memtable that `added` holds.
    flushed: Option<Arc<Frozen>>,
    /// For the account of the packs.
    settled: Settled,
    /// Frames that were moved.
    moves: Arc<Moves>,
    /// The snapshots, if they change.
    timeline: Option<Arc<Timeline>>,
    /// Those that are not among them any more.
    released: Vec<u64>,
}

/// The next generation.
struct Next {
    superblock: Superblock,
    /// Unless they stay the same.
    tables: Option<(Manifest, Account)>,
    /// What the writers of packs told.
    packs: Vec<PackState>,
    /// The packs that hold nothing live.
    dead: Vec<PackId>,
}

impl Checkpointer {
    /// Goes on from a generation.
    pub fn new(core: Arc<Core>, installer: Installer) -> Self {
        let last = AtomicU64::new(core.env.monotonic());
        let journal = installer.superblock.geometry.journal;
        let largest_file = u64::from(journal.max_file) * u64::from(journal.copies);
        Self {
            core,
            installer: Mutex::new(installer),
            scrub: Scrub::default(),
            largest_file,
            copies: journal.copies,
            last,
            moves_due: AtomicBool::new(false),
        }
    }

    /// Flushes everything that is in RAM into a new generation. Answers whether there was anything.
    pub fn checkpoint(&self) -> Result<bool> {
        self.run(State::Dirty)
    }

    /// The last checkpoint: the volume is closed cleanly with it.
    pub fn close(&self) -> Result<()> {
        self.run(State::Clean)?;
        let mut installer = self.installer.lock();
        if installer.superblock.state != State::Clean {
            // Inode numbers that were skipped, or given to what is gone by now, are used up all
            // the same: then there is a new manifest to say so.
            let given = self.core.ids.ino.load(Ordering::Relaxed);
            let changed = given != installer.manifest.counters.next_ino.0;
            let edit = changed.then(Edit::default);
            let closed = self.install(&mut installer, edit, State::Clean);
            self.core.latching(closed)?;
        }
        Ok(())
    }

    fn run(&self, state: State) -> Result<bool> {
        let ran = self.run_unlatched(state);
        if ran.is_ok() {
            // Whoever made it: perhaps none is due now, and nobody tries again.
            self.core.signals.failing.lock().remove(CHECKPOINT);
        }
        self.core.latching(ran)
    }

    fn run_unlatched(&self, state: State) -> Result<bool> {
        let mut installer = self.installer.lock();
        self.core.fence.check()?;
        let mut done = false;
        // What an earlier, failed checkpoint froze goes first, once its last batch is durable.
        if !self.core.version.load().frozen.is_empty() {
            marks::hit(Mark::CheckpointOfOlder);
            self.core.commit_now(true)?;
            done |= self.flush_frozen(&mut installer, State::Dirty)?;
        }
        // Copies of frames get their references by a flush, of an empty memtable if need be.
        self.core.freeze(installer.has_copies())?;
        done |= self.flush_frozen(&mut installer, state)?;
        self.last
            .store(self.core.env.monotonic(), Ordering::Relaxed);
        Ok(done)
    }

    fn flush_frozen(&self, installer: &mut Installer, state: State) -> Result<bool> {
        let mut done = false;
        loop {
            let version = self.core.version.load_full();
            let Some(oldest) = version.frozen.last().cloned() else {
                return Ok(done);
            };
            let state = if version.frozen.len() == 1 {
                state
            } else {
                State::Dirty
            };
            let mut flushed = self.flush_one(installer, &version, &oldest, state);
            if matches!(flushed, Err(Error::NoSpace))
                && self.core.ballast.release(self.core.disk.as_ref())
            {
                flushed = self.flush_one(installer, &version, &oldest, state);
            }
            // What frees space must not fail for want of what cleaning has taken.
            if matches!(flushed, Err(Error::NoSpace))
                && self.give_up_copies(installer, oldest.memtable.epoch)
            {
                flushed = self.flush_one(installer, &version, &oldest, state);
            }
            flushed?;
            done = true;
        }
    }

    fn flush_one(
        &self,
        installer: &mut Installer,
        version: &Version,
        frozen: &Arc<Frozen>,
        state: State,
    ) -> Result<()> {
        if let Some(cause) = self.core.failure() {
            // Not all that was frozen may have got its place.
            return Err(Error::Failed(cause));
        }
        let cold = installer.cold.position();
        let moves = installer.moves_for(frozen.memtable.epoch);
        let timeline = installer.timeline_of(&frozen.timeline);
        let mut flushed = Flushed::new(Arc::clone(&moves), timeline);
        let written = flush::flush(&self.core, installer, version, frozen, &mut flushed)
            .and_then(|()| self.publish(&flushed.segments));
        if let Err(e) = written {
            let ids = flushed.segments.iter().map(|s| s.id);
            self.take_back(installer, Some(&cold), ids, &e);
            return Err(e);
        }
        installer.next_run += 1;
        installer.unreadable.forget();
        let edit = Edit {
            written: flushed.segments.iter().map(|s| s.id).collect(),
            added: flushed.segments,
            cold: Some(cold),
            removed: Vec::new(),
            flushed: Some(Arc::clone(frozen)),
            settled: flushed.settled,
            moves,
            timeline: Some(flushed.timeline),
            released: Vec::new(),
        };
        self.install(installer, Some(edit), state)?;
        self.core.counts.checkpoints.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// One compaction, if one is due; else one search for dead frames. Answers whether there was a
    /// compaction: searches are in no hurry.
    pub fn compact(&self) -> Result<bool> {
        let done = self.compact_unlatched();
        let compacted = self.core.latching(done)?;
        if !compacted {
            self.search()?;
        }
        Ok(compacted)
    }

    fn compact_unlatched(&self) -> Result<bool> {
        let mut installer = self.installer.lock();
        let version = self.core.version.load_full();
        let mut options = installer.compaction_options.clone();
        options.timeline = Arc::clone(&installer.manifest.timeline);
        let segment = installer.segment_options.clone();
        let Some(job) = crate::tree::compaction::pick(&version.levels, &options) else {
            return Ok(false);
        };
        self.core.fence.check()?;
        let mut new_id = || self.core.ids.segment();
        let disk = self.core.disk.as_ref();
        let timeline = &options.timeline;
        let run = job.run(disk, self.core.vid, &mut new_id, timeline, &segment);
        if let Err(Error::Corrupt(_)) = &run {
            // It will be as damaged the next time. The other tables go on.
            installer.compaction_options.without.push(job.tag);
        }
        let output = run?;
        let written: Vec<SegmentId> = output.added.iter().map(|s| s.id).collect();
        if let Err(e) = self.publish(&output.added) {
            self.take_back(&mut installer, None, written.into_iter(), &e);
            return Err(e);
        }
        let mut added = output.added;
        added.extend(output.moved);
        let edit = Edit {
            added,
            written,
            cold: None,
            removed: output.removed,
            ..Edit::default()
        };
        self.install(&mut installer, Some(edit), State::Dirty)?;
        self.core.counts.compactions.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    /// Makes room in the journal: two generations, since the one before the newest must stay
    /// mountable, and new files where some were given up.
    pub fn make_room(&self) -> Result<()> {
        let made = self.core.latching(self.try_make_room());
        *self.core.room_error.lock() = made.as_ref().err().cloned();
        self.core.room_made.fetch_add(1, Ordering::Relaxed);
        self.core.wake_all();
        made
    }

    fn try_make_room(&self) -> Result<()> {
        self.checkpoint()?;
        let mut installer = self.installer.lock();
        if installer.cut != installer.previous_cut {
            marks::hit(Mark::CheckpointTwice);
            self.install(&mut installer, None, State::Dirty)?;
        }
        let least = installer.superblock.geometry.journal;
        let least = u64::from(least.initial_file) * u64::from(least.initial_files - 1);
        // Sectors and headers take some of it.
        let least = least / 10 * 9;
        loop {
            let enough = self.core.journal_capacity() >= least && self.core.limits.is_roomy();
            if enough || !self.core.grow_ring()? {
                return Ok(());
            }
        }
    }

    /// Writes the next generation.
    fn install(&self, installer: &mut Installer, edit: Option<Edit>, state: State) -> Result<()> {
        let core = &self.core;
        let mut next = match self.prepare(installer, edit.as_ref(), state) {
            Ok(next) => next,
            Err(e) => {
                let cold = edit.as_ref().and_then(|e| e.cold.as_ref());
                let written = edit.iter().flat_map(|e| e.written.iter().copied());
                self.take_back(installer, cold, written, &e);
                return Err(e);
            }
        };
        if let Err(e) = SuperFile::write(core.disk.as_ref(), &next.superblock) {
            self.not_installed(installer, edit.as_ref(), &next, &e);
            return Err(e);
        }
        core.generation
            .store(next.superblock.generation.0, Ordering::Relaxed);
        self.count_segments(edit.as_ref());
        self.publish_version(edit.as_ref());
        self.collect(installer, edit.as_ref(), &mut next);
        if let Some((manifest, account)) = next.tables {
            installer.manifest = manifest;
            installer.account = account;
        }
        let cut = next.superblock.journal.batch;
        installer.previous_cut = std::mem::replace(&mut installer.cut, cut);
        installer.superblock = next.superblock;
        core.stored.store(installer.stored(), Ordering::Relaxed);
        installer.cold.forget_states(&next.packs);
        installer.cleaned.forget_states(&next.packs);
        if let Some(edit) = edit.as_ref().filter(|edit| edit.flushed.is_some()) {
            self.moved(installer, &edit.moves);
        }
        installer
            .released
            .extend(edit.iter().flat_map(|e| e.released.iter()));
        if core.version.load().frozen.is_empty() {
            installer.released.clear();
        }
        let mut journal = core.journal();
        journal.hot.forget_states(&next.packs);
        journal.ring.release(installer.previous_cut);
        drop(journal);
        core.note_room();
        self.remove_garbage(installer)?;
        core.wake_all();
        let generation = installer.superblock.generation;
        tracing::debug!(%generation, "a generation was installed");
        Ok(())
    }

    /// Everything of the next generation but its superblock; if this fails nothing names it.
    fn prepare(
        &self,
        installer: &mut Installer,
        edit: Option<&Edit>,
        state: State,
    ) -> Result<Next> {
        let core = &self.core;
        let mut superblock = installer.superblock.clone();
        superblock.generation = superblock.generation.next();
        superblock.state = state;
        let (mut packs, mut dead, mut tables) = (Vec::new(), Vec::new(), None);
        if let Some(edit) = edit {
            let mut account = installer.account.clone();
            // Packs that are new are known from their writers; no other becomes known.
            let known = self.core.journal().hot.states().into_iter();
            let known = known.chain(installer.cold.states());
            for state in known.chain(installer.cleaned.states()) {
                account.note(&state);
            }
            account.apply(&edit.settled);
            let mut manifest = self.next_manifest(installer, edit, superblock.generation);
            // An identity is used once, whatever comes of it: the superblock of a try that seems
            // to have failed may be on the disk, and name the manifest of that try.
            installer.manifest.counters.next_manifest = manifest.counters.next_manifest;
            packs = self.pack_states(installer, &account);
            let awaited = |pack| installer.cleaning.awaits(pack);
            dead = Self::settle_packs(&packs, &mut manifest, &mut account, awaited);
            superblock.manifest = self
                .write_manifest(&manifest)
                .inspect_err(|e| self.take_back_manifest(manifest.id, e))?;
            tables = Some((manifest, account));
        }
        if let Some(frozen) = edit.and_then(|e| e.flushed.as_ref()) {
            let journal = core.journal();
            superblock.journal = journal.ring.start_for(frozen.cut);
            superblock.cut = frozen.counters.lsn;
        }
        superblock.end = BatchSeq(core.durable.load(Ordering::Acquire));
        let next = Next {
            superblock,
            tables,
            packs,
            dead,
        };
        if let Err(e) = core.fence.check() {
            if let Some((manifest, _)) = &next.tables {
                self.take_back_manifest(manifest.id, &e);
            }
            return Err(e);
        }
        Ok(next)
    }

    /// The superblock could not be written, or only seems so: what it names stays until another
    /// one has taken its slots.
    fn not_installed(
        &self,
        installer: &mut Installer,
        edit: Option<&Edit>,
        next: &Next,
        e: &Error,
    ) {
        marks::hit(Mark::CheckpointNotInstalled);
        let ids = edit.iter().flat_map(|e| e.written.iter());
        let mut segments: Vec<_> = ids.clone().map(|id| FileName::Segment(*id)).collect();
        if installer.parity.is_some() {
            segments.extend(ids.map(|id| FileName::SegmentParity(*id)));
        }
        let manifest = next.tables.iter().map(|(m, _)| FileName::Manifest(m.id));
        let unneeded_since = installer.superblock.generation;
        let garbage = segments.into_iter().chain(manifest).map(|file| Garbage {
            unneeded_since,
            what: Unneeded::File(file),
        });
        installer.garbage.extend(garbage);
        if !matches!(e, Error::NoSpace) {
            // A flush that failed is not tried again, and there is no other place.
            self.core.fail(e);
        }
    }

    fn publish(&self, segments: &[SegmentMeta]) -> Result<()> {
        publish(
            self.core.disk.as_ref(),
            segments,
            self.core.healer.is_some(),
        )
    }

    fn publish_version(&self, edit: Option<&Edit>) {
        let Some(edit) = edit else { return };
        let _gate = self.core.gate.write();
        let version = self.core.version.load_full();
        let mut frozen = version.frozen.clone();
        if let Some(flushed) = &edit.flushed {
            frozen.retain(|f| !Arc::ptr_eq(f, flushed));
        }
        let mut timeline = Arc::clone(&version.timeline);
        for id in &edit.released {
            Arc::make_mut(&mut timeline).release(*id);
        }
        let levels = version.levels.with(&edit.added, &edit.removed);
        let active = Arc::clone(&version.active);
        let next = match edit.released.is_empty() {
            true => version.with_layers(active, frozen, levels),
            false => Version::new(active, frozen, levels, timeline),
        };
        self.core.version.store(Arc::new(next));
    }
}

/// The disk's name of a file.
pub(crate) fn name_of(file: FileName) -> Name {
    match Dir::from_path(file.dir()) {
        Some(dir) => Name::new(dir, &file.leaf()),
        None => unreachable!("every directory of the layout is a directory of the disk"),
    }
}
