//! What outlives the process: the transactions that were acknowledged and are in no journal yet.
//!
//! An operation is acknowledged when it is in the open batch, which is RAM, and in the journal some
//! milliseconds later. A power cut may take what is between; the death of the process need not.
//! Where [`crate::Options::redo`] gives such memory, every transaction is written there too before
//! it becomes visible, without a system call; the next process applies what the journal has not.
//!
//! # Layout, in words of eight bytes
//!
//! | words | what |
//! |---|---|
//! | 0 | magic; 0: nobody has used the memory |
//! | 1 | number of words |
//! | 2 | volume |
//! | 3 | the next slot to be given out |
//! | 4 | bytes of the text why the volume takes no more writes, 0 if it does |
//! | 5, 6 | mount nonce of the superblock, and the one that it is about to get, or the same |
//! | 8..64 | that text |
//! | 64..2112 | 1024 slots: `request | answer` |
//! | then | a line for each chunk: `batch (0: none) | order | chunks | words used` |
//! | from the next page on | chunks |
//!
//! A *run* is a row of chunks, described by the line of its first; it holds records of one batch,
//! one after the other:
//!
//! ```text
//! words | type << 32 | slot << 40     request     answer         checksum | complete << 32    body
//! ```
//!
//! The body is a list of parts: `length | kind << 56`, what the kind needs, then the bytes, padded.
//!
//! # Order
//!
//! Room for a record is taken under the lock of the open batch, so that records stand in the order
//! in which transactions that depend on each other were let in: a record is known from the moment
//! when `words used` covers it, and counts once it is complete. It is completed under the gate,
//! before the transaction is applied: nobody has seen what an incomplete record was to do, and
//! sealing waits for it. When a batch is in the journal its runs are freed; until then they stay,
//! also while the next process writes the same batch anew, so its death in the midst of that loses
//! nothing.
//!
//! # Exactly once
//!
//! A request that must not be carried out twice is known by a number ([`as_request`]), which the
//! record carries. Each thread has a slot for the last one, written before the gate is released and
//! overwritten by that thread's next such request, hence after the answer was sent. So the slots
//! and the records left together name every request that may have been applied and not answered.
//!
//! The memory takes at most its size, 128 MiB in the daemon, while much is being written; the
//! lowest free chunks are used first, and what was not used for a while is given back.

mod record;
mod request;
mod runs;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::sync::Mutex;
use razorfs_disk::Memory;
use razorfs_format::{BatchSeq, Ino, VolumeId};

pub(crate) use record::{OwnedPart, Part, Record};
use request::slot_of;
pub use request::{as_request, current};
use runs::Runs;

use crate::{Error, Result};

const MAGIC: u64 = u64::from_be_bytes(*b"RZREDO01");
const AT_WORDS: usize = 1;
const AT_VOLUME: usize = 2;
const AT_NEXT_SLOT: usize = 3;
const AT_CAUSE: usize = 4;
const AT_NONCE: usize = 5;
const AT_NEXT_NONCE: usize = 6;
const CAUSE: std::ops::Range<usize> = 8..64;
const SLOTS_AT: usize = 64;
const SLOTS: usize = 1024;
/// The line of the first chunk.
const TABLE_AT: usize = SLOTS_AT + 2 * SLOTS;
/// Words of a line.
const LINE: usize = 4;
const PAGE_WORDS: usize = 512;
/// Words of a header of a record.
const HEADER: usize = 4;

/// Memory for the transactions that are in no journal yet. What it is backed by decides what it
/// outlives.
pub struct RedoMemory {
    memory: Box<dyn Memory>,
    shape: Shape,
    runs: Mutex<Runs>,
    /// Tells this one from others of the same process.
    instance: u64,
    /// How many use the volume, of those that are known: each mount is one.
    users: AtomicU64,
    /// Some who used the volume are gone.
    left: AtomicBool,
}

/// Where what is.
#[derive(Clone, Copy, Debug)]
struct Shape {
    chunk_words: usize,
    chunks: usize,
    data_at: usize,
}

impl Shape {
    fn of(words: usize) -> Option<Self> {
        // Small ones are for tests, which want many chunks all the same.
        let chunk_words = if words < 1 << 22 { PAGE_WORDS } else { 1 << 13 };
        let room = words.checked_sub(TABLE_AT + PAGE_WORDS)?;
        let chunks = room / (chunk_words + LINE);
        let data_at = (TABLE_AT + chunks * LINE).next_multiple_of(PAGE_WORDS);
        (chunks >= 16).then_some(Self {
            chunk_words,
            chunks,
            data_at,
        })
    }

    fn line(self, chunk: usize) -> usize {
        TABLE_AT + chunk * LINE
    }

    fn chunk(self, chunk: usize) -> usize {
        self.data_at + chunk * self.chunk_words
    }
}

/// What asked for a transaction.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Asked {
    /// The request; 0 if none that must not be done twice.
    pub request: u64,
    /// What it is answered with: the inode that it makes, or [`COUNT`] and how many bytes it
    /// copies; otherwise 0.
    pub answer: u64,
}

/// Tells a number of bytes from one of an inode.
const COUNT: u64 = 1 << 63;

impl Asked {
    /// Of a transaction that makes this inode, or copies so many bytes.
    pub fn new(request: u64, made: Option<Ino>, copied: Option<u64>) -> Self {
        let answer = match (made, copied) {
            (Some(ino), _) => ino.0,
            (None, Some(copied)) => COUNT | copied,
            (None, None) => 0,
        };
        Self { request, answer }
    }
}

/// The room of one record.
#[must_use]
pub(crate) struct Room {
    at: usize,
    words: usize,
    batch: BatchSeq,
    slot: usize,
    asked: Asked,
}

impl std::fmt::Debug for RedoMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RedoMemory({} chunks)", self.shape.chunks)
    }
}

impl PartialEq for RedoMemory {
    fn eq(&self, other: &Self) -> bool {
        self.instance == other.instance
    }
}

impl Eq for RedoMemory {}

fn refused(why: impl Into<Arc<str>>) -> Error {
    Error::Failed(why.into())
}

impl RedoMemory {
    /// Over memory that is new or holds what another process has left. Fails if there is too
    /// little of it.
    pub fn new(memory: impl Memory + 'static) -> Result<Self> {
        static INSTANCES: AtomicU64 = AtomicU64::new(1);
        let shape = Shape::of(memory.words().len())
            .ok_or(Error::Invalid("there is too little memory for redo"))?;
        Ok(Self {
            memory: Box::new(memory),
            shape,
            runs: Mutex::new(Runs::new(shape.chunks)),
            users: AtomicU64::new(0),
            left: AtomicBool::new(false),
            instance: INSTANCES.fetch_add(1, Ordering::Relaxed),
        })
    }

    fn load(&self, at: usize) -> u64 {
        let word = self.memory.words().get(at);
        word.map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn store(&self, at: usize, value: u64) {
        if let Some(word) = self.memory.words().get(at) {
            word.store(value, Ordering::Release);
        }
    }

    /// Begins to use the memory for a volume with this mount nonce. Answers whether it holds what a
    /// process that died has left; fails if that is not to be gone on with.
    pub(crate) fn attach(&self, volume: VolumeId, nonce: u64) -> Result<bool> {
        let words = self.memory.words().len() as u64;
        match self.load(0) {
            0 => {
                self.store(AT_CAUSE, 0);
                for at in SLOTS_AT..self.shape.data_at {
                    self.store(at, 0);
                }
                self.store(AT_WORDS, words);
                self.store(AT_VOLUME, volume.0);
                self.store(AT_NONCE, nonce);
                self.store(AT_NEXT_NONCE, nonce);
                self.store(0, MAGIC);
                return Ok(false);
            }
            MAGIC => {}
            _ => return Err(refused("the memory for redo is not ours")),
        }
        if self.load(AT_WORDS) != words || self.load(AT_VOLUME) != volume.0 {
            return Err(refused("the memory for redo belongs to another volume"));
        }
        if let Some(cause) = self.cause() {
            return Err(Error::Failed(cause.into()));
        }
        // What was acknowledged here does not follow from what another host has written since.
        if ![AT_NONCE, AT_NEXT_NONCE]
            .map(|at| self.load(at))
            .contains(&nonce)
        {
            return Err(refused(
                "the volume was opened elsewhere after the process that used it had died; what no \
                 journal had is not applied to what is there now",
            ));
        }
        let mut runs = self.runs.lock();
        runs.find(self.shape, &|at| self.load(at))
            .map_err(refused)?;
        self.keep_identities(&runs)?;
        self.store(AT_NONCE, nonce);
        Ok(true)
    }

    /// The superblock is about to get this nonce; to be called before it is written.
    pub(crate) fn expect_nonce(&self, nonce: u64) {
        self.store(AT_NEXT_NONCE, nonce);
    }

    /// The superblock has the nonce that was expected.
    pub(crate) fn settle_nonce(&self) {
        self.store(AT_NONCE, self.load(AT_NEXT_NONCE));
    }

    /// One who used the volume is gone.
    pub(crate) fn nobody_is_left(&self) {
        // One that was not told of may have been there before.
        let _ = self
            .users
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| {
                Some(n.saturating_sub(1))
            });
        self.left.store(true, Ordering::Release);
    }

    /// Somebody comes, perhaps beside others.
    pub(crate) fn somebody_comes(&self) {
        self.users.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether all who used the volume are gone.
    pub(crate) fn is_nobody_left(&self) -> bool {
        self.left.load(Ordering::Acquire) && self.users.load(Ordering::Acquire) == 0
    }

    /// Everything is where it stays, and those who used the volume are gone: nothing is to be gone
    /// on with.
    pub(crate) fn end(&self) {
        self.store(0, 0);
    }

    /// The slots have every request that was applied, but for the last of each thread, of which the
    /// record may be all there is. Records go with their batches, so those go to the slots now.
    fn keep_identities(&self, runs: &Runs) -> Result<()> {
        for run in runs.all() {
            self.each_record(run, &mut |record| {
                let slot = record.slot % SLOTS;
                if record.asked.request != 0 {
                    self.note(slot, record.asked);
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn note(&self, slot: usize, asked: Asked) {
        let at = SLOTS_AT + 2 * slot;
        self.store(at, 0);
        self.store(at + 1, asked.answer);
        self.store(at, asked.request);
    }

    /// Whether a request was applied by this process or one before it; then with what it is
    /// answered with: the inode that it made, how many bytes it copied, or 0.
    pub(crate) fn applied(&self, request: u64) -> Option<u64> {
        let slots = (0..SLOTS).map(|slot| SLOTS_AT + 2 * slot);
        let mut found = slots.filter(|&at| request != 0 && self.load(at) == request);
        found.next().map(|at| self.load(at + 1) & !COUNT)
    }

    /// The inodes that requests have made which may not have been answered.
    pub(crate) fn made(&self) -> impl Iterator<Item = Ino> {
        let slots = (0..SLOTS).map(|slot| SLOTS_AT + 2 * slot);
        let made = slots.filter(|&at| self.load(at) != 0);
        let made = made.map(|at| self.load(at + 1));
        made.filter(|&made| made != 0 && made & COUNT == 0).map(Ino)
    }

    /// The volume takes no more writes: what is here is not to be applied by another process.
    pub(crate) fn latch(&self, cause: &str) {
        if self.load(AT_CAUSE) != 0 {
            return;
        }
        let mut len = cause.len().min(CAUSE.len() * 8);
        while !cause.is_char_boundary(len) {
            len -= 1;
        }
        let text = cause.as_bytes().get(..len).unwrap_or_default();
        record::copy(self.words(CAUSE.start, CAUSE.len()), text);
        self.store(AT_CAUSE, len.max(1) as u64);
    }

    /// The failure that the process before met is no more, though it kept the volume from taking
    /// writes: for simulations, in which a process dies by the failure of its disk.
    pub fn overlook_failure(&self) {
        self.store(AT_CAUSE, 0);
    }

    fn cause(&self) -> Option<String> {
        let len = self.load(AT_CAUSE) as usize;
        let text = record::bytes(self.words(CAUSE.start, CAUSE.len()), len);
        (len > 0).then(|| String::from_utf8_lossy(&text).into_owned())
    }

    fn words(&self, at: usize, count: usize) -> &[AtomicU64] {
        let end = at.saturating_add(count);
        self.memory.words().get(at..end).unwrap_or_default()
    }

    /// Words that a body may have if nothing else is here.
    fn most(&self) -> usize {
        self.shape.chunks * self.shape.chunk_words - HEADER
    }

    /// Takes room for a record of the batch, after all that were taken before; nothing if there is
    /// none now. Fails if there never is. The caller has the lock of the open batch.
    pub(crate) fn reserve(
        &self,
        batch: BatchSeq,
        ty: u8,
        body: usize,
        asked: Asked,
    ) -> Result<Option<Room>> {
        if body > self.most() {
            return Err(Error::Invalid(
                "it is larger than the memory for redo takes at once",
            ));
        }
        let mut runs = self.runs.lock();
        let store = |at, value| self.store(at, value);
        let Some(place) = runs.take(self.shape, batch, HEADER + body, &store) else {
            return Ok(None);
        };
        let slot = match asked.request {
            0 => 0,
            _ => slot_of(self.instance, || self.new_slot()),
        };
        let head = body as u64 | u64::from(ty) << 32 | (slot as u64) << 40;
        for (n, word) in [head, asked.request, asked.answer, 0]
            .into_iter()
            .enumerate()
        {
            self.store(place.at + n, word);
        }
        self.store(place.tail_at, place.tail);
        Ok(Some(Room {
            at: place.at,
            words: body,
            batch,
            slot,
            asked,
        }))
    }

    fn new_slot(&self) -> usize {
        let word = self.memory.words().get(AT_NEXT_SLOT);
        let next = word.map_or(0, |word| word.fetch_add(1, Ordering::Relaxed));
        next as usize % SLOTS
    }

    /// Writes a record, which counts from then on. The caller has the gate.
    pub(crate) fn fill(&self, room: &Room, parts: impl FnOnce(&mut dyn FnMut(Part<'_>))) {
        let words = self.words(room.at, HEADER + room.words);
        record::write(words, room.batch, parts);
        if room.asked.request != 0 {
            self.note(room.slot, room.asked);
        }
    }

    /// The journal has everything up to this batch.
    pub(crate) fn trim(&self, through: BatchSeq) {
        self.runs
            .lock()
            .free(self.shape, through, &|at, value| self.store(at, value));
    }

    /// The records of batches after `last`, by batch and in order; of those before it nothing is
    /// needed any more.
    pub(crate) fn left(&self, last: BatchSeq) -> Result<Vec<(BatchSeq, Vec<Record>)>> {
        self.trim(last);
        let mut batches: Vec<(BatchSeq, Vec<Record>)> = Vec::new();
        let runs = self.runs.lock();
        for run in runs.all() {
            if batches.last().is_none_or(|(batch, _)| *batch != run.batch) {
                batches.push((run.batch, Vec::new()));
            }
            self.each_record(run, &mut |record| {
                if let Some((_, records)) = batches.last_mut() {
                    records.push(record);
                }
                Ok(())
            })?;
        }
        Ok(batches)
    }

    /// The complete records of a run.
    fn each_record(
        &self,
        run: &runs::Run,
        each: &mut dyn FnMut(Record) -> Result<()>,
    ) -> Result<()> {
        let mut rest = self.words(self.shape.chunk(run.first), run.used);
        while !rest.is_empty() {
            let (record, after) = record::read(rest, run.batch).map_err(refused)?;
            if let Some(record) = record {
                each(record)?;
            }
            rest = after;
        }
        Ok(())
    }

    /// Gives memory that was not used since the last call back to the host, all but a little.
    pub(crate) fn give_back(&self) {
        // Held to the end: what somebody takes meanwhile must not be given back under them.
        let mut runs = self.runs.lock();
        for range in runs.unused() {
            let words = range.len() * self.shape.chunk_words;
            self.memory.give_back(self.shape.chunk(range.start), words);
        }
    }
}
