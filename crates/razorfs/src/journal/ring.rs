//! The writer: appends batches to the ring and makes them durable.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use razorfs_disk::{Dir, Disk, DiskError, File};
use razorfs_format::journal::{
    BatchHeader, FILE_MAX, FILE_MIN, FileHeader, LINK, Link, SECTOR, UNIT, encode_batch,
    extent_bytes, move_batch, payload_room,
};
use razorfs_format::{BatchSeq, Jid, VolumeId};

use super::growth::Growth;
use super::host::Host;
use super::recovery::{Replay, settle};
use super::twins::Flusher;
use super::{Batch, JournalGeometry, JournalStart, RecoveryReport};
use crate::error::{Error, Result};
use crate::fence::Fence;
use crate::marks::{self, Mark};

/// Bytes of batches that were written but not synced, at most. They are kept in memory, and fit
/// in one journal file, so that a sync that fails can be made good.
const UNSYNCED_MAX: u64 = 8 << 20;

/// What a file of the ring is there for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// Nothing in it is needed.
    Free,
    /// Its zeros are being extended.
    Growing,
    /// Its header names the next life; nothing is in it.
    Prepared,
    /// Batches are appended to it.
    Active,
    /// It holds batches that are needed.
    Full,
    /// It holds batches that are needed, and a sync of it failed: it is not used again.
    Retired,
}

#[derive(Debug)]
pub(super) struct RingFile {
    pub slot: u32,
    pub jid: Jid,
    /// Bytes that are prepared.
    pub len: u64,
    pub role: Role,
    /// First and last batch in it.
    pub batches: Option<(BatchSeq, BatchSeq)>,
}

impl RingFile {
    pub(super) fn room(&self) -> u64 {
        payload_room(self.len - UNIT as u64)
    }
}

/// The file that is being written.
pub(super) struct Active {
    pub slot: u32,
    pub jid: Jid,
    pub file: Arc<dyn File>,
    /// Where the next batch goes.
    pub at: u64,
    pub len: u64,
}

/// A batch that was written, but is not known durable.
struct Unsynced {
    slot: u32,
    file: Arc<dyn File>,
    header: BatchHeader,
    bytes: Vec<u8>,
}

/// The journal of a volume that is open for writing.
///
/// One file is kept free at all times where that is possible, for the day a sync fails.
pub struct Ring {
    pub(super) host: Host,
    pub(super) vid: VolumeId,
    pub(super) geometry: JournalGeometry,
    pub(super) files: Vec<RingFile>,
    /// Files to be removed.
    pub(super) doomed: Vec<u32>,
    pub(super) growth: Option<Growth>,
    pub(super) free_slot: u32,
    pub(super) active: Option<Active>,
    /// The highest life number that was given out.
    pub(super) newest: Jid,
    next: BatchSeq,
    durable: BatchSeq,
    unsynced: VecDeque<Unsynced>,
    unsynced_bytes: u64,
    /// Buffers to be used again.
    buffers: Vec<Vec<u8>>,
    rescues: u64,
    /// A sync failed, and the file that was kept for that day is in use: what was taken in before
    /// may need yet another one.
    spent: bool,
    /// Whether batches have links; and that of the last one.
    pub(super) linked: bool,
    pub(super) link: Option<Link>,
    stopped: Option<Error>,
    /// Asked before a file is taken into use.
    fence: Option<Arc<Fence>>,
}

impl Ring {
    /// Makes the journal of a new volume: zero-filled files, durable with their names. The first
    /// batch is number 1.
    pub fn create(
        disk: Arc<dyn Disk>,
        vid: VolumeId,
        geometry: JournalGeometry,
    ) -> Result<(Self, JournalStart)> {
        check(&geometry)?;
        let mut ring = Self::empty(disk, vid, geometry, BatchSeq(1));
        for slot in 0..geometry.initial_files {
            let jid = Jid(u32::from(slot == 0));
            let header = ring.header(slot, jid, u64::from(geometry.initial_file));
            let file = ring.host.create(vid, &header)?;
            ring.files.push(RingFile {
                slot,
                jid,
                len: header.len,
                role: Role::Free,
                batches: None,
            });
            if slot == 0 {
                ring.newest = jid;
                ring.activate(slot, jid, file);
            }
        }
        ring.host.disk.sync_dir(Dir::Journal)?;
        ring.free_slot = geometry.initial_files;
        let start = JournalStart {
            jid: Jid(1),
            batch: BatchSeq(1),
        };
        Ok((ring, start))
    }

    /// Replays every batch from `start` on, in order, through `apply`, and opens a new life for
    /// the next one. `clean_end` is the last batch of a volume that was closed in order.
    ///
    /// Files with nothing but batches before `start` are kept until [`Ring::release`], except that
    /// the oldest is used where no other file is free. So the caller first writes a superblock
    /// with this very start: then no older one needs them, and it may release them at once.
    /// If acknowledged batches are
    /// damaged or lost, the report says `read_only` and the ring takes no batch.
    ///
    /// `agree` sees what the replay found before anything is written; its error ends the recovery.
    pub fn recover(
        disk: Arc<dyn Disk>,
        vid: VolumeId,
        geometry: JournalGeometry,
        start: JournalStart,
        clean_end: Option<BatchSeq>,
        apply: &mut dyn FnMut(&Batch) -> Result<()>,
        agree: &mut dyn FnMut(&RecoveryReport) -> Result<()>,
    ) -> Result<(Self, RecoveryReport)> {
        check(&geometry)?;
        settle(&*disk, geometry.copies, clean_end.is_none())?;
        let mut replay = Replay::run(&*disk, vid, geometry.copies, start, clean_end, apply)?;
        agree(&replay.report)?;
        if geometry.copies > 1 && !replay.report.read_only {
            replay.heal(&*disk, clean_end)?;
        }
        let next = BatchSeq(replay.report.last.0.saturating_add(1));
        let mut ring = Self::empty(disk, vid, geometry, next);
        ring.newest = replay.survey.newest.max(start.jid);
        ring.link = replay.link;
        ring.free_slot = replay.survey.free_slot;
        ring.doomed.clone_from(&replay.survey.unfinished);
        let before = BatchSeq(start.batch.0.saturating_sub(1));
        for (i, life) in replay.survey.files.iter().enumerate() {
            let used = replay.used.get(&i).copied();
            // What an older superblock may still need is not known here.
            let older = life.jid != Jid(0) && life.jid <= start.jid;
            let batches = used.or(older.then_some((BatchSeq(0), before)));
            ring.files.push(RingFile {
                slot: life.slot,
                jid: life.jid,
                len: life.len,
                role: if batches.is_some() {
                    Role::Full
                } else {
                    Role::Free
                },
                batches,
            });
        }
        if replay.report.read_only {
            let why = replay.report.damage.last().map(ToString::to_string);
            ring.stopped = Some(Error::ReadOnly(why.unwrap_or_default().into()));
        } else {
            if ring.best_free().is_none() {
                marks::hit(Mark::JournalOldestFreed);
                ring.free_oldest(start.jid);
            }
            ring.open_life()?;
        }
        Ok((ring, replay.report))
    }

    /// Replays like [`Ring::recover`], but writes nothing.
    pub fn open_read_only(
        disk: Arc<dyn Disk>,
        vid: VolumeId,
        copies: u8,
        start: JournalStart,
        clean_end: Option<BatchSeq>,
        apply: &mut dyn FnMut(&Batch) -> Result<()>,
    ) -> Result<RecoveryReport> {
        Ok(Replay::run(&*disk, vid, copies, start, clean_end, apply)?.report)
    }

    fn empty(
        disk: Arc<dyn Disk>,
        vid: VolumeId,
        geometry: JournalGeometry,
        next: BatchSeq,
    ) -> Self {
        Self {
            host: Host::new(disk, geometry.copies),
            vid,
            geometry,
            files: Vec::new(),
            doomed: Vec::new(),
            growth: None,
            free_slot: 0,
            active: None,
            newest: Jid(0),
            next,
            durable: BatchSeq(next.0.saturating_sub(1)),
            unsynced: VecDeque::new(),
            unsynced_bytes: 0,
            buffers: Vec::new(),
            rescues: 0,
            spent: false,
            linked: false,
            link: None,
            stopped: None,
            fence: None,
        }
    }

    /// From now on no file is taken into use, or changed beside appending to the active one,
    /// before this was asked.
    pub(crate) fn set_fence(&mut self, fence: Arc<Fence>) {
        self.fence = Some(fence);
    }

    pub(super) fn check_fence(&self) -> Result<()> {
        self.fence.as_ref().map_or(Ok(()), |fence| fence.check())
    }

    /// Hands a batch to the host. It is durable after the next [`Ring::sync`] that succeeds.
    ///
    /// Batches come numbered without gaps. If the batch does not fit ([`Ring::room`],
    /// [`Ring::max_batch`]) nothing happens and the error is [`Error::Invalid`]; after any other
    /// error the ring takes no more.
    pub fn append(&mut self, batch: &Batch) -> Result<()> {
        self.check_running()?;
        if batch.seq != self.next {
            return Err(Error::Invalid(
                "journal batches must be numbered without gaps",
            ));
        }
        if batch.payload.len() > self.max_batch() {
            return Err(Error::Invalid("the batch is larger than a journal file"));
        }
        let extent = extent_bytes(batch.payload.len() + LINK) as u64;
        let fits = |r: &Self| {
            let here = r.active.as_ref().is_some_and(|a| a.at + extent <= a.len);
            (here, here || r.spent || r.available().count() >= 2)
        };
        if !fits(self).1 {
            return Err(Error::Invalid("the journal is full: it needs a checkpoint"));
        }
        if self.unsynced_bytes + extent > UNSYNCED_MAX.min(self.smallest() - UNIT as u64) {
            marks::hit(Mark::JournalSyncForced);
            self.sync()?;
        }
        // The sync may have had to use up a file. What fitted before it still does.
        if !fits(self).0 {
            marks::hit(Mark::JournalNextFile);
            self.open_life().map_err(|e| self.stop(e))?;
        }
        let mut header = BatchHeader {
            seq: batch.seq,
            first_lsn: batch.first_lsn,
            n_ops: batch.n_ops,
            payload_len: 0,
            durable: self.durable,
            generation: batch.generation,
            wall_ns: batch.wall_ns,
            flags: 0,
            payload_crc: 0,
        };
        let payload = self.with_link(&mut header, &batch.payload);
        let mut bytes = self.buffers.pop().unwrap_or_default();
        let active = self.active()?;
        let first_sector = (active.at / SECTOR as u64) as u32;
        let (vid, jid) = (self.vid, active.jid);
        encode_batch(vid, jid, first_sector, &mut header, &payload, &mut bytes);
        self.next = batch.seq.next();
        let written = self.put(&header, &bytes);
        let active = self.active()?;
        let (slot, file) = (active.slot, active.file.clone());
        self.unsynced_bytes += bytes.len() as u64;
        self.unsynced.push_back(Unsynced {
            slot,
            file,
            header,
            bytes,
        });
        match written {
            Ok(()) => Ok(()),
            Err(e) => self.rescue(slot, e),
        }
    }

    /// Writes the bytes of a batch at the end of the active file.
    fn put(&mut self, header: &BatchHeader, bytes: &[u8]) -> razorfs_disk::Result<()> {
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        debug_assert!(active.at + bytes.len() as u64 <= active.len);
        let at = active.at;
        active.at += bytes.len() as u64;
        let slot = active.slot;
        let written = active.file.write_at(&[IoSlice::new(bytes)], at);
        if let Some(file) = self.file(slot) {
            let first = file.batches.map_or(header.seq, |(first, _)| first);
            file.batches = Some((first, header.seq));
        }
        written
    }

    /// Makes all appended batches durable.
    ///
    /// If the host fails, the batches that are not durable are written again to another file, and
    /// that is synced: success then counts. If that fails too, nothing more is taken, ever.
    pub fn sync(&mut self) -> Result<()> {
        self.check_running()?;
        while let Some(oldest) = self.unsynced.front() {
            let (slot, file) = (oldest.slot, oldest.file.clone());
            if let Err(e) = file.sync_data() {
                return self.rescue(slot, e);
            }
            while self.unsynced.front().is_some_and(|u| u.slot == slot) {
                self.settle_oldest();
            }
        }
        Ok(())
    }

    /// The oldest unsynced batch is durable.
    fn settle_oldest(&mut self) {
        let Some(done) = self.unsynced.pop_front() else {
            return;
        };
        self.durable = done.header.seq;
        self.unsynced_bytes -= done.bytes.len() as u64;
        if self.buffers.len() < 4 && done.bytes.capacity() <= 2 << 20 {
            self.buffers.push(done.bytes);
        }
    }

    /// Writes what is not known durable again, to a file that did not fail.
    fn rescue(&mut self, failed: u32, cause: DiskError) -> Result<()> {
        tracing::warn!(%cause, "the journal could not be written; writing it again elsewhere");
        match self.try_rescue(failed) {
            Ok(()) => {
                self.rescues += 1;
                marks::hit(Mark::JournalRescued);
                Ok(())
            }
            Err(second) => {
                marks::hit(Mark::JournalRescueFailed);
                let why = format!("{cause}; and then, in another file: {second}");
                Err(self.stop(Error::Failed(why.into())))
            }
        }
    }

    fn try_rescue(&mut self, failed: u32) -> Result<()> {
        let Some(first) = self.unsynced.front().map(|u| u.header.seq) else {
            return Ok(());
        };
        self.active = None;
        for file in &mut self.files {
            if file.role == Role::Active {
                file.role = Role::Full;
            }
            if file.slot == failed {
                file.role = Role::Retired;
            }
            // The new life replaces what stands here from `first` on.
            if let Some((from, to)) = file.batches
                && to >= first
            {
                file.batches = (from < first).then(|| (from, BatchSeq(first.0 - 1)));
            }
        }
        self.settle_roles();
        self.spent = true;
        self.open_life()?;
        let mut moving = std::mem::take(&mut self.unsynced);
        let done = moving.iter_mut().try_for_each(|u| self.move_one(u));
        self.unsynced = moving;
        done?;
        self.active()?.file.sync_data()?;
        while !self.unsynced.is_empty() {
            self.settle_oldest();
        }
        Ok(())
    }

    fn move_one(&mut self, u: &mut Unsynced) -> Result<()> {
        let active = self.active()?;
        let first_sector = (active.at / SECTOR as u64) as u32;
        (u.slot, u.file) = (active.slot, active.file.clone());
        let jid = active.jid;
        move_batch(self.vid, jid, first_sector, &mut u.header, &mut u.bytes);
        self.put(&u.header, &u.bytes)?;
        Ok(())
    }

    /// Where a superblock whose first batch to replay is `batch` tells replay to begin. `batch`
    /// may be the next one to be appended. To be called after the [`Ring::sync`] that made the
    /// batches before it durable.
    #[must_use]
    pub fn start_for(&self, batch: BatchSeq) -> JournalStart {
        let within = |f: &&RingFile| {
            let holds = |(from, to)| from <= batch && batch <= to;
            f.batches.is_some_and(holds)
        };
        let jid = match self.files.iter().filter(within).map(|f| f.jid).max() {
            Some(jid) => jid,
            None => self.active.as_ref().map_or(self.newest, |a| a.jid),
        };
        JournalStart { jid, batch }
    }

    /// Says that no superblock that counts, and not the one before it either, needs batches
    /// before `before`: the files that hold none but those may be reused.
    pub fn release(&mut self, before: BatchSeq) {
        let before = before.min(self.durable.next());
        for file in &mut self.files {
            if matches!(file.role, Role::Full | Role::Retired)
                && file.batches.is_some_and(|(_, last)| last < before)
            {
                file.batches = None;
            }
        }
        self.settle_roles();
        self.spent &= self.available().count() < 2;
    }

    /// Files without batches are free, or to be removed.
    pub(super) fn settle_roles(&mut self) {
        for file in self.files.iter_mut().filter(|f| f.batches.is_none()) {
            match file.role {
                Role::Full => file.role = Role::Free,
                Role::Retired => {
                    marks::hit(Mark::JournalFileRetired);
                    self.doomed.push(file.slot);
                }
                _ => {}
            }
        }
        self.files
            .retain(|f| f.role != Role::Retired || f.batches.is_some());
    }

    /// Bytes of payload that can be appended before a [`Ring::release`]. A single batch of up to
    /// this and [`Ring::max_batch`] fits.
    #[must_use]
    pub fn room(&self) -> u64 {
        let here = self
            .active
            .as_ref()
            .map_or(0, |a| payload_room(a.len - a.at));
        let reserve = self.available().map(RingFile::room).max().unwrap_or(0);
        let all = here + self.available().map(RingFile::room).sum::<u64>() - reserve;
        all.saturating_sub(LINK as u64)
    }

    /// Bytes of payload that the empty ring takes.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        let rooms = self.files.iter().map(RingFile::room);
        rooms.clone().sum::<u64>() - rooms.max().unwrap_or(0)
    }

    /// The largest payload that [`Ring::append`] takes, in bytes.
    #[must_use]
    pub fn max_batch(&self) -> usize {
        payload_room(self.smallest() - UNIT as u64) as usize - LINK
    }

    /// The number that the next batch must have.
    #[must_use]
    pub const fn next(&self) -> BatchSeq {
        self.next
    }

    /// The newest batch that is known durable.
    #[must_use]
    pub const fn durable(&self) -> BatchSeq {
        self.durable
    }

    /// Bytes that were appended and not synced.
    #[must_use]
    pub const fn unsynced_bytes(&self) -> u64 {
        self.unsynced_bytes
    }

    /// How often the host failed and the batches were written elsewhere.
    #[must_use]
    pub const fn rescues(&self) -> u64 {
        self.rescues
    }

    /// Bytes that the files of the ring take on the host.
    #[must_use]
    pub fn host_bytes(&self) -> u64 {
        self.files.iter().map(|f| f.len).sum::<u64>() * u64::from(self.geometry.copies)
    }

    /// What flushes two copies at the same time; none if there is one.
    pub(crate) fn flusher(&self) -> Option<Arc<Flusher>> {
        (self.geometry.copies > 1).then(|| Arc::clone(&self.host.flusher))
    }

    pub(super) fn smallest(&self) -> u64 {
        let smallest = self.files.iter().map(|f| f.len).min();
        smallest.unwrap_or(u64::from(self.geometry.initial_file))
    }

    /// The files that a life can be opened in.
    pub(super) fn available(&self) -> impl Iterator<Item = &RingFile> {
        let usable = |f: &&RingFile| matches!(f.role, Role::Free | Role::Prepared);
        self.files.iter().filter(usable)
    }

    pub(super) fn file(&mut self, slot: u32) -> Option<&mut RingFile> {
        self.files.iter_mut().find(|f| f.slot == slot)
    }

    /// How much of the active file is written, in bytes, and its length.
    pub(super) fn fill(&self) -> Option<(u64, u64)> {
        self.active.as_ref().map(|a| (a.at, a.len))
    }

    fn active(&self) -> Result<&Active> {
        self.active
            .as_ref()
            .ok_or(Error::Invalid("the journal has no file to write to"))
    }

    pub(super) fn check_running(&self) -> Result<()> {
        self.stopped.clone().map_or(Ok(()), Err)
    }

    pub(super) fn stop(&mut self, why: Error) -> Error {
        self.stopped.get_or_insert(why).clone()
    }

    pub(super) fn header(&self, slot: u32, jid: Jid, len: u64) -> FileHeader {
        FileHeader {
            jid,
            previous: self.life_before(jid),
            slot,
            copy: 0,
            len,
        }
    }
}

fn check(g: &JournalGeometry) -> Result<()> {
    let range = FILE_MIN..=FILE_MAX;
    let whole = |n: u32| u64::from(n).is_multiple_of(UNIT as u64) && range.contains(&u64::from(n));
    if !whole(g.initial_file) || !whole(g.max_file) || g.max_file < g.initial_file {
        return Err(Error::Invalid(
            "journal files must be multiples of 4 KiB, 8 KiB to 1 GiB",
        ));
    }
    if g.initial_files < 3 || g.max_files < g.initial_files {
        return Err(Error::Invalid("a journal needs three files or more"));
    }
    Ok(())
}
