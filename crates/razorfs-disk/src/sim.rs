//! A simulated disk: it loses what was not synced and plants faults.
//!
//! # The fault model
//!
//! **Files.** Programs see every change at once. On the disk a file has a durable image and a
//! list of changes that are pending: writes, zeroing, punching, truncation, growth.
//! [`File::sync_data`] makes data and length durable, but not the file's name. A power cut
//! decides
//!
//! - for each sector of 512 bytes on its own which of its versions since the last sync is kept:
//!   the durable one or the one after any of the pending changes. So writes of several sectors
//!   are torn, and newer writes survive older ones; a sector itself is never torn;
//! - for the length, independently of the data, which of its values since the last sync is kept.
//!   What is behind it is gone; what was not written before it reads as zeros.
//!
//! **Names.** Creating, renaming and removing are pending until [`Disk::sync_dir`]; a rename from
//! one directory to another until both were synced. A power cut keeps any subset of the pending
//! changes in which none builds on a lost one that touched the same name. A rename is atomic: the
//! file has its old name or its new one, and a replaced file is there until it is replaced. A
//! name can survive while the data of its file do not (the file is then empty or has zeros in
//! it), and a synced file can vanish because its name was not.
//!
//! **Power cuts.** [`SimDisk::power_cut`] gives a new, independent disk with what survived; on
//! the old one every call fails from then on ([`SimDisk::is_power_off`]). A cut can be set before
//! a mutating call ([`SimDisk::cut_after`]): that call fails, and its effect is pending, so that
//! it has happened in full, in part or not at all. [`SimDisk::after_cut`] shows what a cut now
//! would leave without cutting.
//!
//! **Faults**, each at the number of a call, counted from 0 ([`SimDisk::counts`]):
//!
//! - a write that fails, in part or at once; a full host, planted or by a limit of its size;
//! - a sync that fails: as on Linux the dirty pages count as clean from then on, reads from the
//!   cache still show them, the disk does not have them, and later syncs report success;
//! - a sync that lies: it reports success and everything stays pending;
//! - writes that the disk loses (so that a sector is stale) or puts in the wrong place, which
//!   reads from the cache do not show, but [`OpenHow::ReadUncached`] and [`SimDisk::drop_caches`]
//!   do;
//! - reads that fail, once or until the range is written again, that answer with what was
//!   there before, or with the bytes of another place; flipped bits.
//!
//! Not modelled: hard links, host file systems that lose what was synced, sectors torn inside.
//!
//! [`File::sync_data`]: crate::File::sync_data
//! [`Disk::sync_dir`]: crate::Disk::sync_dir
//! [`OpenHow::ReadUncached`]: crate::OpenHow::ReadUncached

mod content;
mod cut;
mod env;
mod fault;
mod file;
mod host;
mod image;
mod names;
mod rng;
#[cfg(test)]
mod sim_tests;
mod state;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use rustix::io::Errno;

pub use cut::Choices;
pub use env::SimEnv;
pub use image::Image;
pub use rng::SimRng;
pub use state::Counts;

use crate::{Dir, DiskError, Name};
use cut::{Random, Told};
use fault::{Faults, PowerOff, ReadFault, SyncFault, WriteFault};
use file::SimFileState;
use names::{FileId, Names};
use state::State;

/// A simulated disk. Cloning gives another handle to the same disk.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimDisk {
    /// An empty disk: [`crate::Disk::create_dirs`] comes first, as on a host.
    #[must_use]
    pub fn new() -> Self {
        let state = State {
            dirs: BTreeMap::from([(Dir::Root, true)]),
            ..State::default()
        };
        Self::of(state)
    }

    fn of(state: State) -> Self {
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    fn lock_state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    // Power.

    /// Cuts the power: a new, independent disk with what survived, some of what was pending
    /// included at random. Calls on this disk fail from now on, but it can be cut again, for
    /// another outcome. Planted faults, counts and the lock are not taken over.
    #[must_use]
    pub fn power_cut(&self, rng: &mut SimRng) -> Self {
        self.lock_state().turn_off();
        self.after_cut(rng)
    }

    /// [`Self::power_cut`] with choices of the caller's, in an order that depends on nothing but
    /// the calls so far: `choice(n)` answers a number below n, 0 for what is durable and n − 1
    /// for the newest version. See [`Choices`] to go through all of them.
    #[must_use]
    pub fn power_cut_with(&self, choice: impl FnMut(usize) -> usize) -> Self {
        self.lock_state().turn_off();
        self.after_cut_with(choice)
    }

    /// What a power cut now would leave. This disk goes on as if nothing had happened.
    #[must_use]
    pub fn after_cut(&self, rng: &mut SimRng) -> Self {
        Self::of(self.lock_state().after_cut(&mut Random::new(rng)))
    }

    /// [`Self::after_cut`] with choices of the caller's.
    #[must_use]
    pub fn after_cut_with(&self, choice: impl FnMut(usize) -> usize) -> Self {
        Self::of(self.lock_state().after_cut(&mut Told(choice)))
    }

    /// Lets the mutating calls 0 to `n` − 1 through (counted since the disk was made) and cuts
    /// the power in call `n`.
    pub fn cut_after(&self, n: u64) {
        self.lock_state().cut_at = Some(n);
    }

    /// Whether the power is off: it was cut, or the call of [`Self::cut_after`] has come.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.lock_state().off
    }

    /// Whether an error came from the power being off.
    #[must_use]
    pub fn is_power_off(error: &DiskError) -> bool {
        let cause = error.source.get_ref();
        cause.is_some_and(|c| c.is::<PowerOff>())
    }

    // Counts.

    /// How many mutating calls there were.
    #[must_use]
    pub fn op_count(&self) -> u64 {
        self.lock_state().counts.mutations
    }

    /// How many calls of each kind there were.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.lock_state().counts
    }

    /// Writes down every mutating call from now on, one line each.
    pub fn start_trace(&self) {
        self.lock_state().trace = Some(Vec::new());
    }

    /// The lines written down since the last look.
    #[must_use]
    pub fn take_trace(&self) -> Vec<String> {
        let mut state = self.lock_state();
        state.trace.as_mut().map(std::mem::take).unwrap_or_default()
    }

    // Faults.

    /// Sync `k` of a file fails (EIO); none of its dirty pages reaches the disk.
    pub fn fail_sync_at(&self, k: u64) {
        self.lock_state()
            .faults
            .syncs
            .push((k, SyncFault::Fail(None)));
    }

    /// Sync `k` of a file fails (EIO); some sectors reached the disk before that.
    pub fn fail_sync_partly_at(&self, k: u64, seed: u64) {
        self.lock_state()
            .faults
            .syncs
            .push((k, SyncFault::Fail(Some(seed))));
    }

    /// Sync `k` of a file reports success; everything stays pending.
    pub fn lie_at_sync(&self, k: u64) {
        self.lock_state().faults.syncs.push((k, SyncFault::Lie));
    }

    /// Sync `k` of a directory fails (EIO); its changes stay pending.
    pub fn fail_dir_sync_at(&self, k: u64) {
        self.lock_state()
            .faults
            .dir_syncs
            .push((k, SyncFault::Fail(None)));
    }

    /// Sync `k` of a directory reports success; its changes stay pending.
    pub fn lie_at_dir_sync(&self, k: u64) {
        self.lock_state().faults.dir_syncs.push((k, SyncFault::Lie));
    }

    /// Write `k` fails (EIO) after `written` bytes.
    pub fn fail_write_at(&self, k: u64, written: u64) {
        let fault = WriteFault::Fail(Errno::IO, written);
        self.lock_state().faults.writes.push((k, fault));
    }

    /// Write `k` is cut short after `written` bytes because the host is full (ENOSPC).
    pub fn short_write_at(&self, k: u64, written: u64) {
        let fault = WriteFault::Fail(Errno::NOSPC, written);
        self.lock_state().faults.writes.push((k, fault));
    }

    /// The disk loses write `k`, although it reports success: what was there before stays.
    pub fn lose_write_at(&self, k: u64) {
        self.lock_state().faults.writes.push((k, WriteFault::Lose));
    }

    /// The disk puts write `k` over the bytes of `name` at `offset` and not where it belongs.
    pub fn misdirect_write_at(&self, k: u64, name: &Name, offset: u64) {
        let fault = WriteFault::Misdirect(name.clone(), offset);
        self.lock_state().faults.writes.push((k, fault));
    }

    /// Read `k` fails (EIO), once.
    pub fn fail_read_at(&self, k: u64) {
        let fault = ReadFault::Fail(Errno::IO);
        self.lock_state().faults.reads.push((k, fault));
    }

    /// Read `k` answers with the bytes at `offset` and not with those that were asked for.
    pub fn misdirect_read_at(&self, k: u64, offset: u64) {
        let fault = ReadFault::Misdirect(offset);
        self.lock_state().faults.reads.push((k, fault));
    }

    /// Read `k` answers with the durable bytes, without what was written since.
    pub fn stale_read_at(&self, k: u64) {
        self.lock_state().faults.reads.push((k, ReadFault::Stale));
    }

    /// Reads that touch this range of a file fail (EIO) until a write touches it.
    pub fn fail_reads(&self, name: &Name, range: Range<u64>) {
        self.lock_state().faults.bad.push((name.clone(), range));
    }

    /// The mutating call `k` fails (ENOSPC) and does nothing.
    pub fn enospc_at(&self, k: u64) {
        self.lock_state().faults.calls.push((k, Errno::NOSPC));
    }

    /// The mutating call `k` fails (EIO) and does nothing.
    pub fn fail_call_at(&self, k: u64) {
        self.lock_state().faults.calls.push((k, Errno::IO));
    }

    /// Limits the space of the host, in bytes; files take whole pages of 4096 bytes.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock_state().capacity = bytes;
    }

    /// Takes back all faults that have not struck yet, a planned power cut included.
    pub fn clear_faults(&self) {
        let mut state = self.lock_state();
        state.faults = Faults::default();
        state.cut_at = None;
    }

    /// Flips one bit of a file, as rot does; false if there is no such byte.
    pub fn flip_bit(&self, name: &Name, byte: u64, bit: u8) -> bool {
        let mut state = self.lock_state();
        match state.names.get(name) {
            Some(file) => state.file(file).flip(byte, bit),
            None => false,
        }
    }

    /// The host gives up its clean pages: lost and misdirected writes, and those that a failed
    /// sync dropped, come to light. Dirty pages stay.
    pub fn drop_caches(&self) {
        let mut state = self.lock_state();
        state.files.iter_mut().for_each(SimFileState::drop_cache);
    }

    // Looking inside.

    /// The files and their lengths as programs see them, in the order of their names.
    #[must_use]
    pub fn files(&self) -> Vec<(Name, u64)> {
        let state = self.lock_state();
        let len = |id: &FileId| state.files.get(*id).map_or(0, |f| f.live().len());
        let files = state.names.live().iter();
        files.map(|(name, id)| (name.clone(), len(id))).collect()
    }

    /// A snapshot of what is durable, names and bytes.
    #[must_use]
    pub fn image(&self) -> Image {
        let state = self.lock_state();
        let dirs = state.dirs.iter().filter(|(_, durable)| **durable);
        let content = |id: &FileId| state.files.get(*id).map(|f| f.durable_content().clone());
        let files = state.names.durable_names().iter();
        Image {
            dirs: dirs.map(|(dir, _)| *dir).collect(),
            files: files
                .filter_map(|(name, id)| Some((name.clone(), content(id)?)))
                .collect(),
        }
    }

    /// A disk with the files of `image`, all durable.
    #[must_use]
    pub fn from_image(image: &Image) -> Self {
        let disk = Self::new();
        disk.restore(image);
        disk
    }

    /// Starts again from `image`, with the power on: all else on this disk, planted faults,
    /// counts and the lock are gone, and calls on files that are open fail from now on.
    pub fn restore(&self, image: &Image) {
        let mut state = State::default();
        state.dirs.extend(image.dirs.iter().map(|dir| (*dir, true)));
        state.dirs.insert(Dir::Root, true);
        let mut names = BTreeMap::new();
        for (name, content) in &image.files {
            let id = state.add_file(SimFileState::durable(content.clone()));
            names.insert(name.clone(), id);
        }
        state.names = Names::durable(names);
        let mut current = self.lock_state();
        state.life = current.life + 1;
        *current = state;
    }
}
