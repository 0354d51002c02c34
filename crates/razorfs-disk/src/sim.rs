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
//! - reads that fail, once or until the range is written again; flipped bits.
//!
//! Not modelled: hard links, host file systems that lose what was synced, sectors torn inside.

mod content;
mod cut;
mod env;
mod fault;
mod file;
mod image;
mod names;
mod rng;
#[cfg(test)]
mod sim_tests;

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use rustix::io::Errno;

pub use cut::Choices;
pub use env::SimEnv;
pub use image::Image;
pub use rng::SimRng;

use crate::{Dir, Disk, DiskError, DiskOp, File, Guard, LockMode, Name, OpenHow, Result, Space};
use content::Content;
use cut::{Choose, Random, Told};
use fault::{Faults, PowerOff, SyncFault, WriteFault, power_off, take};
use file::SimFileState;
use names::{Change, FileId, Names};

/// No file may be longer.
const MAX_LEN: u64 = 1 << 40;
/// No byte may be written behind this: the page table is flat.
const MAX_EXTENT: u64 = 1 << 36;
/// What a disk without a limit says it holds.
const UNLIMITED: u64 = 1 << 44;

/// How many calls there were since the disk was made.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counts {
    /// Calls that change something or make it durable, failed ones included.
    pub mutations: u64,
    /// [`File::write_at`].
    pub writes: u64,
    /// Bytes given to [`File::write_at`].
    pub bytes_written: u64,
    /// [`File::sync_data`].
    pub syncs: u64,
    /// [`Disk::sync_dir`].
    pub dir_syncs: u64,
    /// [`File::read_at`].
    pub reads: u64,
    /// Bytes read by [`File::read_at`].
    pub bytes_read: u64,
}

/// A simulated disk. Cloning gives another handle to the same disk.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    off: bool,
    cut_at: Option<u64>,
    /// The directories there are, with whether each is durable.
    dirs: BTreeMap<Dir, bool>,
    names: Names,
    files: Vec<SimFileState>,
    counts: Counts,
    faults: Faults,
    capacity: Option<u64>,
    writer: bool,
    readers: usize,
    trace: Option<Vec<String>>,
}

/// Whether a call goes through, or is the one in which the power goes off.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq)]
enum Begun {
    Going,
    Cut,
}

impl Begun {
    /// The answer of a call that did, or left pending, what it should.
    fn end(self, op: DiskOp, path: &dyn ToString) -> Result<()> {
        match self {
            Self::Going => Ok(()),
            Self::Cut => Err(DiskError::new(op, path.to_string(), power_off())),
        }
    }
}

fn fail<T>(op: DiskOp, name: &Name, errno: Errno) -> Result<T> {
    Err(DiskError::on(op, name, errno.into()))
}

impl State {
    /// For calls that change nothing.
    fn powered(&self, op: DiskOp, path: &dyn ToString) -> Result<()> {
        match self.off {
            false => Ok(()),
            true => Err(DiskError::new(op, path.to_string(), power_off())),
        }
    }

    /// Counts a mutating call.
    fn begin(
        &mut self,
        op: DiskOp,
        path: &dyn ToString,
        what: impl FnOnce() -> String,
    ) -> Result<Begun> {
        self.powered(op, path)?;
        let call = self.counts.mutations;
        self.counts.mutations += 1;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{call} {op:?} {} {}", path.to_string(), what()));
        }
        if self.cut_at.is_some_and(|at| call >= at) {
            self.turn_off();
            return Ok(Begun::Cut);
        }
        match take(&mut self.faults.calls, call) {
            Some(errno) => Err(DiskError::new(op, path.to_string(), errno.into())),
            None => Ok(Begun::Going),
        }
    }

    fn turn_off(&mut self) {
        self.off = true;
        self.writer = false;
        self.readers = 0;
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "files are never taken out of the table"
    )]
    fn file(&mut self, file: FileId) -> &mut SimFileState {
        &mut self.files[file]
    }

    fn used(&self) -> u64 {
        let counted = self.files.iter().filter(|f| f.counted);
        counted.map(|f| f.live().allocated()).sum()
    }

    fn free(&self) -> u64 {
        self.capacity
            .unwrap_or(UNLIMITED)
            .saturating_sub(self.used())
    }

    fn add_file(&mut self, file: SimFileState) -> FileId {
        self.files.push(file);
        self.files.len() - 1
    }

    fn require_dir(&self, op: DiskOp, name: &Name) -> Result<()> {
        match self.dirs.contains_key(&name.dir) {
            true => Ok(()),
            false => fail(op, name, Errno::NOENT),
        }
    }

    /// Frees the bytes of files that nothing reaches any more.
    fn forget_unreachable(&mut self) {
        let names = &self.names;
        let gone = |(id, f): &(FileId, &mut SimFileState)| {
            !f.counted && f.handles == 0 && !names.reaches(*id)
        };
        let files = self.files.iter_mut().enumerate();
        files.filter(gone).for_each(|(_, f)| f.forget());
    }

    fn after_cut(&self, choose: &mut dyn Choose) -> State {
        let mut dirs = BTreeMap::new();
        for (dir, durable) in &self.dirs {
            if *durable || choose.choose(2) == 1 {
                dirs.insert(*dir, true);
            }
        }
        let mut files = Vec::new();
        let mut names = self.names.cut(choose);
        names.retain(|name, _| dirs.contains_key(&name.dir));
        for id in names.values_mut() {
            if let Some(file) = self.files.get(*id) {
                files.push(SimFileState::durable(file.cut(choose)));
                *id = files.len() - 1;
            }
        }
        State {
            dirs,
            names: Names::durable(names),
            files,
            capacity: self.capacity,
            ..State::default()
        }
    }
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimDisk {
    /// An empty disk: [`Disk::create_dirs`] comes first, as on a host.
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
        self.lock_state().faults.reads.push((k, Errno::IO));
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

    /// Starts again from `image`: all else on this disk, planted faults, counts and the lock are
    /// gone, and files that are open must not be used any more.
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
        *self.lock_state() = state;
    }
}

impl Disk for SimDisk {
    fn open(&self, name: &Name, how: OpenHow) -> Result<Arc<dyn File>> {
        let mut state = self.lock_state();
        let op = DiskOp::Open;
        let mut begun = Begun::Going;
        let id = match (how, state.names.get(name)) {
            (OpenHow::CreateNew, found) => {
                begun = state.begin(op, name, || "create".to_owned())?;
                state.require_dir(op, name)?;
                if found.is_some() {
                    return fail(op, name, Errno::EXIST);
                }
                let id = state.add_file(SimFileState::durable(Content::default()));
                state.names.change(Change::Create(name.clone(), id));
                id
            }
            (_, Some(id)) => {
                state.powered(op, name)?;
                id
            }
            (_, None) => {
                state.powered(op, name)?;
                return fail(op, name, Errno::NOENT);
            }
        };
        begun.end(op, name)?;
        state.file(id).handles += 1;
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            id,
            name: name.clone(),
            how,
        }))
    }

    fn rename(&self, from: &Name, to: &Name) -> Result<()> {
        let mut state = self.lock_state();
        let begun = state.begin(DiskOp::Rename, from, || format!("to {to}"))?;
        let Some(id) = state.names.get(from) else {
            return fail(DiskOp::Rename, from, Errno::NOENT);
        };
        state.require_dir(DiskOp::Rename, to)?;
        if from == to {
            return begun.end(DiskOp::Rename, from);
        }
        if let Some(replaced) = state.names.get(to) {
            state.file(replaced).counted = false;
        }
        let change = Change::Rename(from.clone(), to.clone(), id);
        state.names.change(change);
        begun.end(DiskOp::Rename, from)
    }

    fn remove(&self, name: &Name) -> Result<()> {
        let mut state = self.lock_state();
        let begun = state.begin(DiskOp::Remove, name, String::new)?;
        let Some(id) = state.names.get(name) else {
            return fail(DiskOp::Remove, name, Errno::NOENT);
        };
        state.file(id).counted = false;
        state.names.change(Change::Remove(name.clone()));
        begun.end(DiskOp::Remove, name)
    }

    fn list(&self, dir: Dir) -> Result<Vec<Name>> {
        let state = self.lock_state();
        state.powered(DiskOp::List, &dir.path())?;
        if !state.dirs.contains_key(&dir) {
            return Err(DiskError::new(
                DiskOp::List,
                dir.path(),
                Errno::NOENT.into(),
            ));
        }
        let names = state.names.live().keys();
        Ok(names.filter(|n| n.dir == dir).cloned().collect())
    }

    fn sync_dir(&self, dir: Dir) -> Result<()> {
        let mut state = self.lock_state();
        let (op, path) = (DiskOp::SyncDir, dir.path());
        let begun = state.begin(op, &path, String::new)?;
        let call = state.counts.dir_syncs;
        state.counts.dir_syncs += 1;
        if begun == Begun::Cut {
            return begun.end(op, &path);
        }
        if !state.dirs.contains_key(&dir) {
            return Err(DiskError::new(op, path, Errno::NOENT.into()));
        }
        match take(&mut state.faults.dir_syncs, call) {
            Some(SyncFault::Fail(_)) => return Err(DiskError::new(op, path, Errno::IO.into())),
            Some(SyncFault::Lie) => return Ok(()),
            None => {}
        }
        state.names.sync(dir);
        state.forget_unreachable();
        Ok(())
    }

    fn create_dirs(&self) -> Result<()> {
        let mut state = self.lock_state();
        let begun = state.begin(DiskOp::CreateDirs, &"", String::new)?;
        for dir in Dir::ALL {
            let durable = state.dirs.entry(dir).or_insert(false);
            *durable |= begun == Begun::Going;
        }
        begun.end(DiskOp::CreateDirs, &"")
    }

    fn lock(&self, mode: LockMode) -> Result<Box<dyn Guard>> {
        let mut state = self.lock_state();
        state.powered(DiskOp::Lock, &"LOCK")?;
        let taken = match mode {
            LockMode::Exclusive => state.writer || state.readers > 0,
            LockMode::Shared => state.writer,
        };
        if taken {
            let cause = io::Error::from(Errno::WOULDBLOCK);
            let mut error = DiskError::new(DiskOp::Lock, "LOCK", cause);
            error.holder = Some("another user of this simulated disk".to_owned());
            return Err(error);
        }
        match mode {
            LockMode::Exclusive => state.writer = true,
            LockMode::Shared => state.readers += 1,
        }
        Ok(Box::new(SimGuard {
            disk: self.clone(),
            mode,
        }))
    }

    fn space(&self) -> Result<Space> {
        let state = self.lock_state();
        state.powered(DiskOp::Space, &"")?;
        Ok(Space {
            total: state.capacity.unwrap_or(UNLIMITED),
            free: state.free(),
        })
    }
}

struct SimGuard {
    disk: SimDisk,
    mode: LockMode,
}

impl Guard for SimGuard {}

impl Drop for SimGuard {
    fn drop(&mut self) {
        let mut state = self.disk.lock_state();
        match self.mode {
            LockMode::Exclusive => state.writer = false,
            LockMode::Shared => state.readers = state.readers.saturating_sub(1),
        }
    }
}

struct SimFile {
    disk: SimDisk,
    id: FileId,
    name: Name,
    how: OpenHow,
}

impl SimFile {
    /// Begins a call that changes the file up to `end`.
    fn begin(
        &self,
        state: &mut State,
        op: DiskOp,
        end: u64,
        what: impl FnOnce() -> String,
    ) -> Result<Begun> {
        let begun = state.begin(op, &self.name, what)?;
        if matches!(self.how, OpenHow::Read | OpenHow::ReadUncached) {
            return fail(op, &self.name, Errno::BADF);
        }
        let max = match op {
            DiskOp::SetLen => MAX_LEN,
            _ => MAX_EXTENT,
        };
        if end > max {
            return fail(op, &self.name, Errno::FBIG);
        }
        Ok(begun)
    }

    fn misdirected(&self, state: &mut State, bufs: &[IoSlice<'_>], to: &Name, offset: u64) {
        let bytes: Vec<u8> = bufs.iter().flat_map(|b| b.iter().copied()).collect();
        if let Some(victim) = state.names.get(to) {
            state.file(victim).hit(offset, &bytes);
        }
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = self.disk.lock_state();
        if let Some(file) = state.files.get_mut(self.id) {
            file.handles = file.handles.saturating_sub(1);
            if file.handles == 0 && !file.counted {
                state.forget_unreachable();
            }
        }
    }
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let mut state = self.disk.lock_state();
        state.powered(DiskOp::Read, &self.name)?;
        let call = state.counts.reads;
        state.counts.reads += 1;
        if let Some(errno) = take(&mut state.faults.reads, call) {
            return fail(DiskOp::Read, &self.name, errno);
        }
        let n = {
            let uncached = self.how == OpenHow::ReadUncached;
            state.file(self.id).read(offset, buf, uncached)
        };
        let end = offset.saturating_add(n as u64);
        let bad = |(name, range): &(Name, Range<u64>)| {
            *name == self.name && range.start < end && offset < range.end
        };
        if state.faults.bad.iter().any(bad) {
            return fail(DiskOp::Read, &self.name, Errno::IO);
        }
        state.counts.bytes_read += n as u64;
        Ok(n)
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<()> {
        let mut state = self.disk.lock_state();
        let op = DiskOp::Write;
        let len: u64 = bufs.iter().map(|b| b.len() as u64).sum();
        let end = offset.saturating_add(len);
        let begun = self.begin(&mut state, op, end, || format!("{offset}+{len}"))?;
        let call = state.counts.writes;
        state.counts.writes += 1;
        state.counts.bytes_written += len;
        let mut error = None;
        let mut fits = len;
        match take(&mut state.faults.writes, call) {
            Some(WriteFault::Fail(errno, written)) => {
                fits = fits.min(written);
                error = Some(errno);
            }
            Some(WriteFault::Lose) => {
                state.file(self.id).write_lost(bufs, offset);
                return begun.end(op, &self.name);
            }
            Some(WriteFault::Misdirect(to, at)) => {
                state.file(self.id).write_lost(bufs, offset);
                self.misdirected(&mut state, bufs, &to, at);
                return begun.end(op, &self.name);
            }
            None => {}
        }
        if state.capacity.is_some() {
            let free = state.free();
            let room = state.file(self.id).live().fits(offset..end, free);
            if room < fits {
                fits = room;
                error = Some(Errno::NOSPC);
            }
        }
        state.file(self.id).write(bufs, offset, fits);
        let healed = |(name, range): &(Name, Range<u64>)| {
            *name == self.name && range.start < end && offset < range.end
        };
        state.faults.bad.retain(|bad| !healed(bad));
        match error {
            Some(errno) => fail(op, &self.name, errno),
            None => begun.end(op, &self.name),
        }
    }

    fn sync_data(&self) -> Result<()> {
        let mut state = self.disk.lock_state();
        let begun = state.begin(DiskOp::Sync, &self.name, String::new)?;
        let call = state.counts.syncs;
        state.counts.syncs += 1;
        if begun == Begun::Cut {
            return begun.end(DiskOp::Sync, &self.name);
        }
        match take(&mut state.faults.syncs, call) {
            Some(SyncFault::Fail(seed)) => {
                let mut rng = SyncFault::generator(&seed);
                state.file(self.id).fail_sync(rng.as_mut());
                fail(DiskOp::Sync, &self.name, Errno::IO)
            }
            Some(SyncFault::Lie) => Ok(()),
            None => {
                state.file(self.id).sync();
                Ok(())
            }
        }
    }

    fn allocate(&self, range: Range<u64>, zero: bool) -> Result<()> {
        let mut state = self.disk.lock_state();
        let op = DiskOp::Allocate;
        let begun = self.begin(&mut state, op, range.end, || {
            format!("{range:?} zero={zero}")
        })?;
        if range.is_empty() {
            return begun.end(op, &self.name);
        }
        if state.capacity.is_some() {
            let free = state.free();
            let room = state.file(self.id).live().fits(range.clone(), free);
            if room < range.end - range.start {
                return fail(op, &self.name, Errno::NOSPC);
            }
        }
        state.file(self.id).allocate(range, zero);
        begun.end(op, &self.name)
    }

    fn punch(&self, range: Range<u64>) -> Result<()> {
        let mut state = self.disk.lock_state();
        let begun = self.begin(&mut state, DiskOp::Punch, 0, || format!("{range:?}"))?;
        if range.is_empty() {
            return begun.end(DiskOp::Punch, &self.name);
        }
        state.file(self.id).punch(range);
        begun.end(DiskOp::Punch, &self.name)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let mut state = self.disk.lock_state();
        let begun = self.begin(&mut state, DiskOp::SetLen, len, || len.to_string())?;
        state.file(self.id).set_len(len);
        begun.end(DiskOp::SetLen, &self.name)
    }

    fn len(&self) -> Result<u64> {
        let mut state = self.disk.lock_state();
        state.powered(DiskOp::Len, &self.name)?;
        Ok(state.file(self.id).live().len())
    }
}
