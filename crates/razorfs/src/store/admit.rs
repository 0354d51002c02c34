//! How a transaction gets room, becomes visible and part of the open batch: one step.

use std::sync::Arc;

use razorfs_format::key::{Key, Tag};
use razorfs_format::{BatchSeq, Branch, Epoch};

use super::batch::OpenBatch;
use super::resume::Encoded;
use super::tx::{Step, Ticket};
use super::{Core, Tx};
use crate::marks::{self, Mark};
use crate::redo::Room;
use crate::sync::RwLockReadGuard;
use crate::sync::atomic::Ordering;
use crate::{Error, Result};

/// How often room is made for one transaction before it is refused.
const ROOM_TRIES: u64 = 4;
/// The same for one that fits in the empty journal, where others compete for the room.
const MOST_TRIES: u64 = 1000;

/// What a transaction has while it is applied.
struct Admitted<'a> {
    _gate: RwLockReadGuard<'a, ()>,
    batch: BatchSeq,
    /// Whether the journal should be woken.
    wake: bool,
    /// Where it is kept until it is in the journal, if anywhere.
    room: Option<Room>,
}

impl Core {
    /// Bytes that a transaction takes in the journal, at most.
    pub fn journal_bytes(&self, tx: &Tx<'_>) -> usize {
        tx.journal_size(self.tuning.inline_max)
    }

    /// Makes a transaction visible, and durable with its batch. All of it or, on an error, nothing.
    pub fn commit(&self, tx: Tx<'_>) -> Result<Ticket> {
        match self.commit_in(tx, None)? {
            Some(ticket) => Ok(ticket),
            None => unreachable!("any epoch will do"),
        }
    }

    /// The same if it becomes part of `epoch`; answers nothing, and changes nothing, if that was
    /// frozen before.
    pub fn commit_in(&self, tx: Tx<'_>, epoch: Option<Epoch>) -> Result<Option<Ticket>> {
        if tx.is_empty() {
            return Ok(Some(Ticket(())));
        }
        self.check_writable()?;
        let size = self.journal_bytes(&tx);
        if tx.adds_records() {
            self.reserve(tx.branch, size as u64, 0)?;
        }
        let encoded = Encoded::of(&tx, size);
        let Some(admitted) = self.admit(&tx, &encoded, size, epoch)? else {
            return Ok(None);
        };
        let Admitted {
            _gate,
            batch,
            wake,
            room,
        } = admitted;
        // Nobody has seen it yet: what a process leaves unfinished here never happened.
        if let (Some(redo), Some(room)) = (&self.redo, room) {
            redo.fill(&room, |each| encoded.each_part(&tx, each));
        }
        self.apply(tx, batch);
        self.counts.ops.fetch_add(1, Ordering::Relaxed);
        if wake {
            self.signals.commit.notify_one();
        }
        Ok(Some(Ticket(())))
    }

    /// Appends a transaction to the open batch once that, the journal and the dirty data have room
    /// for it. Looking and appending are one step, or several writers would take the same room;
    /// and the gate is held from then on, so that the batch stays open until the transaction is
    /// applied. Answers whether the journal should be woken, too; nothing if the epoch has passed.
    fn admit(
        &self,
        tx: &Tx<'_>,
        encoded: &Encoded,
        size: usize,
        epoch: Option<Epoch>,
    ) -> Result<Option<Admitted<'_>>> {
        let data = tx.data_size();
        let words = self.redo.as_ref().map_or(0, |_| encoded.words(tx));
        let first = self.room_made.load(Ordering::Relaxed);
        loop {
            let gate = self.gate.read();
            let mut open = self.open.lock();
            // Again, under the gate: closing the volume waits for whoever is inside.
            self.check_writable()?;
            let version = self.version.load();
            if epoch.is_some_and(|epoch| epoch != version.active.epoch) {
                marks::hit(Mark::AdmitEpochPassed);
                return Ok(None);
            }
            if tx.branch != Branch::HEAD && version.timeline.fork_of(tx.branch).is_none() {
                return Err(Error::BranchGone);
            }
            drop(version);
            let dirty = self.dirty.load(Ordering::Relaxed);
            let enough = open.journal_bytes + size > self.limits.soft_batch()
                || self.is_left_small(&open, data);
            let mut full = (open.journal_bytes > 0 && enough)
                || (dirty > 0 && dirty + data > self.tuning.dirty_limit);
            let fits = size <= self.limits.most() && self.limits.fits(open.journal_bytes + size);
            if fits && !full {
                if let Some(room) = self.reserve_redo(&open, tx, words)? {
                    let (batch, wake) = self.append(&mut open, tx, &encoded.mutations, size);
                    return Ok(Some(Admitted {
                        _gate: gate,
                        batch,
                        wake,
                        room,
                    }));
                }
                marks::hit(Mark::AdmitRedoFull);
                full = true;
            }
            drop(gate);
            if full && self.tuning.threads && self.is_stuck() {
                return Err(Error::NoSpace);
            }
            if !fits {
                self.check_room_made(first, size)?;
            }
            if self.tuning.threads {
                if !fits {
                    self.want_checkpoint();
                }
                open.is_full = full && !open.is_empty();
                self.signals.commit.notify_one();
                self.signals.room.wait(&mut open);
                continue;
            }
            drop(open);
            if full {
                marks::hit(Mark::AdmitSealed);
                self.commit_now(false)?;
            } else {
                marks::hit(Mark::AdmitCheckpointed);
                self.checkpoint_for_room()?;
            }
        }
    }

    /// Fails if making room since the count was `first` was of no use.
    fn check_room_made(&self, first: u64, size: usize) -> Result<()> {
        let tries = self.room_made.load(Ordering::Relaxed) - first;
        if tries > 0
            && let Some(why) = self.room_error.lock().clone()
        {
            return Err(why);
        }
        // Other writers may have been faster, again and again.
        let patient = self.tuning.threads && size <= self.limits.most();
        if tries >= if patient { MOST_TRIES } else { ROOM_TRIES } {
            marks::hit(Mark::AdmitTooLarge);
            return Err(Error::Invalid(
                "it is larger than the journal takes at once",
            ));
        }
        Ok(())
    }

    /// Appends to the open batch; answers its number and whether the journal should be woken.
    pub(super) fn append(
        &self,
        open: &mut OpenBatch,
        tx: &Tx<'_>,
        mutations: &[u8],
        size: usize,
    ) -> (BatchSeq, bool) {
        let empty = open.is_empty();
        if tx.branch != Branch::HEAD {
            self.begin_on(open, tx.branch);
        }
        if empty {
            open.since = self.env.monotonic();
        }
        open.is_used = true;
        if !mutations.is_empty() {
            open.append(tx.ty, mutations);
        }
        for step in &tx.steps {
            match step {
                Step::Touch(ino, value) => {
                    let of = (tx.branch, *ino);
                    open.touched.insert(of, Arc::clone(value));
                }
                // What is written among the operations must not be followed by an older touch.
                Step::Put { key, .. } | Step::Del(key) if key.tag() == Tag::Inode => {
                    open.touched.remove(&(tx.branch, key.ino()));
                }
                _ => {}
            }
        }
        let was = open.journal_bytes;
        open.journal_bytes += size;
        let soft = self.limits.soft_batch();
        (
            open.seq,
            empty || (was < soft && open.journal_bytes >= soft),
        )
    }

    pub(super) fn apply(&self, tx: Tx<'_>, batch: BatchSeq) {
        let version = self.version.load();
        let memtable = &version.active;
        let mut pieces = Vec::new();
        let mut grown = 0;
        let branch = tx.branch;
        for step in tx.steps {
            match step {
                Step::Put { key, value, new } => memtable.put(key, value, new),
                Step::Del(key) => memtable.del(key),
                Step::Was(..) | Step::Who(_) => {}
                Step::Patch(key, fragment) => {
                    pieces.extend(memtable.patch(key, fragment, batch));
                }
                Step::Count(counter, delta) => self.count(branch, counter, delta),
                Step::Touch(ino, value) => {
                    memtable.put(Key::inode(branch, ino), value, false);
                }
                Step::Write { key, off, bytes } => {
                    let (new, more) = memtable.write(key, batch, off, &bytes);
                    pieces.extend(new);
                    grown += more;
                }
            }
        }
        if !pieces.is_empty() || grown > 0 {
            self.dirty.fetch_add(grown, Ordering::Relaxed);
            let mut open = self.open.lock();
            open.dirty.extend(pieces);
            let was = open.dirty_bytes;
            open.dirty_bytes += grown;
            if was < self.tuning.batch_data && open.dirty_bytes >= self.tuning.batch_data {
                self.signals.commit.notify_one();
            }
        }
    }
}
