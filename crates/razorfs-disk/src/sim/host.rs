//! The simulated disk as the engine sees it.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;

use parking_lot::MutexGuard;
use rustix::io::Errno;

use super::SimDisk;
use super::content::Content;
use super::fault::{ReadFault, SyncFault, WriteFault, power_off, take};
use super::file::SimFileState;
use super::names::{Change, FileId};
use super::state::{Begun, State, UNLIMITED, fail};
use crate::{Dir, Disk, DiskError, DiskOp, File, Guard, LockMode, Name, OpenHow, Result, Space};

/// No file may be longer.
const MAX_LEN: u64 = 1 << 40;
/// No byte may be written behind this: the page table is flat.
const MAX_EXTENT: u64 = 1 << 36;
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
            life: state.life,
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
        let life = state.life;
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
            life,
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
    life: u64,
    mode: LockMode,
}

impl Guard for SimGuard {}

impl Drop for SimGuard {
    fn drop(&mut self) {
        let mut state = self.disk.lock_state();
        match self.mode {
            _ if state.life != self.life => {}
            LockMode::Exclusive => state.writer = false,
            LockMode::Shared => state.readers = state.readers.saturating_sub(1),
        }
    }
}

struct SimFile {
    disk: SimDisk,
    life: u64,
    id: FileId,
    name: Name,
    how: OpenHow,
}

impl SimFile {
    /// The disk, if its power is on and it was not restored since the file was opened.
    fn state(&self, op: DiskOp) -> Result<MutexGuard<'_, State>> {
        let state = self.disk.lock_state();
        match state.life == self.life {
            true => state.powered(op, &self.name)?,
            false => return Err(DiskError::on(op, &self.name, power_off())),
        }
        Ok(state)
    }

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
            let errno = match op {
                DiskOp::SetLen => Errno::INVAL,
                _ => Errno::BADF,
            };
            return fail(op, &self.name, errno);
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
        if state.life != self.life {
            return;
        }
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
        let mut state = self.state(DiskOp::Read)?;
        let call = state.counts.reads;
        state.counts.reads += 1;
        let uncached = self.how == OpenHow::ReadUncached;
        let fault = take(&mut state.faults.reads, call);
        let file = state.file(self.id);
        let n = match fault {
            Some(ReadFault::Fail(errno)) => return fail(DiskOp::Read, &self.name, errno),
            Some(ReadFault::Misdirect(at)) => {
                // As many bytes as were asked for: a disk knows no end of a file.
                let n = file.read(offset, buf, uncached);
                let (asked, _) = buf.split_at_mut(n);
                asked.fill(0);
                file.read(at, asked, uncached);
                n
            }
            Some(ReadFault::Stale) => {
                let n = file.read(offset, buf, uncached);
                let (asked, _) = buf.split_at_mut(n);
                asked.fill(0);
                file.durable_content().read(offset, asked);
                n
            }
            None => file.read(offset, buf, uncached),
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
        let op = DiskOp::Write;
        let mut state = self.state(op)?;
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
        let mut state = self.state(DiskOp::Sync)?;
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
        let op = DiskOp::Allocate;
        let mut state = self.state(op)?;
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
        let mut state = self.state(DiskOp::Punch)?;
        let begun = self.begin(&mut state, DiskOp::Punch, 0, || format!("{range:?}"))?;
        if range.is_empty() {
            return begun.end(DiskOp::Punch, &self.name);
        }
        state.file(self.id).punch(range);
        begun.end(DiskOp::Punch, &self.name)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let mut state = self.state(DiskOp::SetLen)?;
        let begun = self.begin(&mut state, DiskOp::SetLen, len, || len.to_string())?;
        state.file(self.id).set_len(len);
        begun.end(DiskOp::SetLen, &self.name)
    }

    fn len(&self) -> Result<u64> {
        let mut state = self.state(DiskOp::Len)?;
        Ok(state.file(self.id).live().len())
    }
}
