//! How a transaction becomes visible, and how batches become durable (group commit).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use razorfs_format::key::{Key, Tag};
use razorfs_format::op::{Counter, Mutation, OpType, encode_op};
use razorfs_format::record::{Fragment, FragmentKind};
use razorfs_format::{BatchSeq, Branch, Generation, Ino};

use super::batch::Sealed;
use super::tx::{Step, Ticket};
use super::{Core, CountersAt, Frozen, Journal, Tx, Version, Waiter};
use crate::data::{FrameIdentity, FrameWrite};
use crate::journal::Batch;
use crate::{Error, Result};

/// Nanoseconds after which a batch without bulk data is written to the journal.
const METADATA_DELAY: u64 = 20_000_000;
/// Nanoseconds after which a batch with bulk data is: its packs must be flushed before it.
const DATA_DELAY: u64 = 100_000_000;
/// How often room is made for one transaction before it is refused.
const ROOM_TRIES: u64 = 4;
/// Nanoseconds after which what was written to the journal is flushed, waited for or not.
const SYNC_DELAY: u64 = 1_000_000_000;

impl Core {
    /// Makes a transaction visible, and durable with its batch. All of it or, on an error, nothing.
    pub fn commit(&self, tx: Tx<'_>) -> Result<Ticket> {
        if tx.is_empty() {
            return Ok(Ticket(()));
        }
        self.check_writable()?;
        let size = tx.journal_size(self.tuning.inline_max);
        self.wait_for_room(size, tx.data_size())?;
        let mut mutations = Vec::with_capacity(size.min(4096));
        for step in &tx.steps {
            step.encode(&mut mutations);
        }
        let _gate = self.gate.read();
        let (batch, first) = self.append(&tx, &mutations, size);
        self.apply(tx, batch);
        self.counts.ops.fetch_add(1, Ordering::Relaxed);
        if first {
            self.signals.commit.notify_one();
        }
        Ok(Ticket(()))
    }

    /// Appends to the open batch; answers its number and whether the journal should be woken.
    fn append(&self, tx: &Tx<'_>, mutations: &[u8], size: usize) -> (BatchSeq, bool) {
        let mut open = self.open.lock();
        let empty = open.is_empty();
        if empty {
            open.since = self.env.monotonic();
        }
        if !mutations.is_empty() {
            open.append(tx.ty, mutations);
        }
        for step in &tx.steps {
            match step {
                Step::Touch(ino, value) => {
                    open.touched.insert(*ino, Arc::clone(value));
                }
                // What is written among the operations must not be followed by an older touch.
                Step::Put { key, .. } | Step::Del(key) if key.tag() == Tag::Inode => {
                    open.touched.remove(&key.ino());
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

    fn apply(&self, tx: Tx<'_>, batch: BatchSeq) {
        let version = self.version.load();
        let memtable = &version.active;
        let mut pieces = Vec::new();
        let mut grown = 0;
        for step in tx.steps {
            match step {
                Step::Put { key, value, new } => memtable.put(key, value, new),
                Step::Del(key) => memtable.del(key),
                Step::Patch(key, fragment) => {
                    pieces.extend(memtable.patch(key, fragment, batch));
                }
                Step::Count(counter, delta) => self.count(counter, delta),
                Step::Touch(ino, value) => {
                    memtable.put(Key::inode(Branch::HEAD, ino), value, false);
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

    fn count(&self, counter: Counter, delta: i64) {
        match counter {
            Counter::Inodes => self.inodes.fetch_add(delta, Ordering::Relaxed),
            Counter::Bytes => self.bytes.fetch_add(delta, Ordering::Relaxed),
            Counter::NextIno => 0,
        };
    }

    /// Waits until the open batch, the journal and the dirty data have room for a transaction.
    fn wait_for_room(&self, size: usize, data: usize) -> Result<()> {
        let first = self.room_made.load(Ordering::Relaxed);
        loop {
            let mut open = self.open.lock();
            let dirty = self.dirty.load(Ordering::Relaxed);
            let full = (open.journal_bytes > 0
                && open.journal_bytes + size > self.limits.soft_batch())
                || (dirty > 0 && dirty + data > self.tuning.dirty_limit);
            let fits = size <= self.limits.most() && self.limits.fits(open.journal_bytes + size);
            if fits && !full {
                return Ok(());
            }
            self.check_writable()?;
            if !fits && self.room_made.load(Ordering::Relaxed) - first >= ROOM_TRIES {
                return Err(Error::Invalid(
                    "it is larger than the journal takes at once",
                ));
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
                self.commit_now(false)?;
            } else {
                self.checkpoint_for_room()?;
            }
        }
    }

    /// Calls `done` once everything that was done before is durable. If nothing is pending, at
    /// once; else from the thread that commits.
    pub fn sync_then(&self, done: Waiter) {
        if let Some(cause) = self.failure() {
            return done(Err(Error::Failed(cause)));
        }
        let mut open = self.open.lock();
        let settled = self.durable.load(Ordering::Acquire) >= self.sealed.load(Ordering::Acquire);
        if open.is_empty() && settled {
            drop(open);
            return done(Ok(()));
        }
        open.waiters.push(done);
        drop(open);
        self.signals.commit.notify_one();
    }

    /// Returns when everything that was done before is durable.
    pub fn sync(&self) -> Result<()> {
        if self.read_only.is_some() {
            return Ok(());
        }
        if !self.tuning.threads {
            if let Some(cause) = self.failure() {
                return Err(Error::Failed(cause));
            }
            return self.commit_now(true).map(|_| ());
        }
        let (send, receive) = crossbeam_channel::bounded(1);
        self.sync_then(Box::new(move |result| {
            // The receiver waits below and cannot be gone.
            let _ = send.send(result);
        }));
        match receive.recv() {
            Ok(result) => result,
            Err(_) => Err(Error::Failed("the journal's thread ended".into())),
        }
    }

    /// Seals the open batch and writes it to the journal; flushes it where `sync` demands it,
    /// somebody waits, or the last flush is long ago. Answers whether there was anything to do.
    pub fn commit_now(&self, sync: bool) -> Result<bool> {
        let mut journal = self.journal();
        let sealed = self.seal();
        let idle = sealed.is_empty() && sealed.waiters.is_empty();
        if idle && !(self.is_unsynced() && (sync || self.sync_is_due())) {
            return Ok(false);
        }
        self.write_sealed(&mut journal, sealed, sync)?;
        Ok(true)
    }

    fn is_unsynced(&self) -> bool {
        self.unsynced_since.load(Ordering::Relaxed) != 0
    }

    fn sync_is_due(&self) -> bool {
        let since = self.unsynced_since.load(Ordering::Relaxed);
        since != 0 && self.env.monotonic().saturating_sub(since) >= SYNC_DELAY
    }

    fn seal(&self) -> Sealed {
        let _gate = self.gate.write();
        let memtable = Arc::clone(&self.version.load().active);
        let mut open = self.open.lock();
        let sealed = open.seal(memtable);
        if !sealed.is_empty() {
            self.sealed.store(sealed.seq.0, Ordering::Release);
        }
        self.signals.room.notify_all();
        sealed
    }

    /// Seals the open batch, freezes the active memtable and writes the batch durably. Answers
    /// nothing if the memtable is empty.
    pub fn freeze(&self) -> Result<bool> {
        let mut journal = self.journal();
        let (sealed, frozen) = {
            let _gate = self.gate.write();
            let version = self.version.load_full();
            let mut open = self.open.lock();
            let sealed = open.seal(Arc::clone(&version.active));
            if !sealed.is_empty() {
                self.sealed.store(sealed.seq.0, Ordering::Release);
            }
            // Batches that annihilated each other are to be cut off too.
            let frozen = !version.active.is_empty()
                || !sealed.is_empty()
                || self.since_cut.load(Ordering::Relaxed) > 0;
            if frozen {
                self.push_frozen(&version, open.seq, open.first_lsn);
            }
            self.signals.room.notify_all();
            (sealed, frozen)
        };
        self.write_sealed(&mut journal, sealed, true)?;
        if frozen {
            self.since_cut.store(0, Ordering::Relaxed);
        }
        Ok(frozen)
    }

    fn push_frozen(&self, version: &Version, cut: BatchSeq, lsn: razorfs_format::Lsn) {
        let counters = CountersAt {
            inodes: self.inodes.load(Ordering::Relaxed).max(0) as u64,
            bytes: self.bytes.load(Ordering::Relaxed).max(0) as u64,
            next_ino: Ino(self.ids.ino.load(Ordering::Relaxed)),
            lsn,
        };
        let memtable = Arc::clone(&version.active);
        let active = Self::next_memtable(memtable.epoch);
        let mut frozen = vec![Arc::new(Frozen {
            memtable,
            cut,
            counters,
        })];
        frozen.extend(version.frozen.iter().cloned());
        self.version.store(Arc::new(Version {
            active,
            frozen,
            levels: version.levels.clone(),
        }));
    }

    /// Places the data of a sealed batch, appends it to the journal and flushes that if asked to,
    /// waited for or due. An error latches.
    fn write_sealed(&self, journal: &mut Journal, mut sealed: Sealed, sync: bool) -> Result<()> {
        let waiters = std::mem::take(&mut sealed.waiters);
        let result = match self.failure() {
            Some(cause) => Err(Error::Failed(cause)),
            None => self.write_batch(journal, &sealed, sync || !waiters.is_empty()),
        };
        if let Err(e) = &result {
            self.fail(e);
        }
        {
            // Under the lock, so that a writer cannot miss the wake-up between look and wait.
            let _open = self.open.lock();
            self.dirty.fetch_sub(sealed.dirty_bytes, Ordering::Relaxed);
            self.signals.room.notify_all();
        }
        for waiter in waiters {
            waiter(result.clone());
        }
        result
    }

    fn write_batch(&self, journal: &mut Journal, sealed: &Sealed, sync: bool) -> Result<()> {
        if !sealed.is_empty() {
            let payload = self.place(journal, sealed, sync)?;
            let bytes = payload.len() as u64;
            journal.ring.append(&Batch {
                seq: sealed.seq,
                first_lsn: sealed.first_lsn,
                n_ops: sealed.n_ops,
                durable: BatchSeq(self.durable.load(Ordering::Relaxed)),
                generation: Generation(self.generation.load(Ordering::Relaxed)),
                wall_ns: self.env.now(),
                payload,
            })?;
            journal.appended = sealed.seq;
            self.since_cut.fetch_add(bytes, Ordering::Relaxed);
            self.limits.note(&journal.ring);
            if !self.is_unsynced() {
                self.unsynced_since
                    .store(self.env.monotonic().max(1), Ordering::Relaxed);
            }
            self.counts.batches.fetch_add(1, Ordering::Relaxed);
            self.counts
                .journal_bytes
                .fetch_add(bytes, Ordering::Relaxed);
        }
        if self.is_unsynced() && (sync || self.sync_is_due()) {
            journal.ring.sync()?;
            self.unsynced_since.store(0, Ordering::Relaxed);
            self.durable.store(journal.appended.0, Ordering::Release);
            self.counts.journal_syncs.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Gives the data of a sealed batch its place, durably where that is a pack, and answers the
    /// payload of the batch: operations, data, touched inodes.
    fn place(&self, journal: &mut Journal, sealed: &Sealed, waited: bool) -> Result<Vec<u8>> {
        let total: usize = sealed.dirty.iter().map(|p| p.data.read().bytes.len()).sum();
        let most = self.limits.inline_sync();
        let inline = if waited && total <= most {
            most
        } else {
            self.tuning.inline_max
        };
        let is_inline = |len: usize| len <= inline;
        let mut payload = sealed.ops.clone();
        let guards: Vec<_> = sealed.dirty.iter().map(|p| (p, p.data.read())).collect();
        let mut frames = Vec::new();
        for (piece, data) in &guards {
            if !is_inline(data.bytes.len()) {
                frames.push(FrameWrite {
                    identity: FrameIdentity {
                        branch: piece.key.branch(),
                        ino: piece.key.ino(),
                        block: piece.key.second(),
                        off: data.off,
                        birth: sealed.memtable.epoch,
                    },
                    raw: data.bytes.as_slice().into(),
                    compression: self.tuning.compression,
                });
            }
        }
        let mut refs = journal.hot.write(&frames)?.into_iter();
        self.counts
            .data_bytes
            .fetch_add(total as u64, Ordering::Relaxed);
        let mut placed = Vec::new();
        for (piece, data) in &guards {
            let len = data.bytes.len() as u32;
            let kind = if is_inline(data.bytes.len()) {
                FragmentKind::Inline(data.bytes.as_slice().into())
            } else {
                match refs.next() {
                    Some(frame) => FragmentKind::Pack(frame),
                    None => unreachable!("a reference comes back for each frame"),
                }
            };
            let fragment = Fragment {
                off: data.off,
                len,
                kind,
            };
            let patch = Mutation::Patch {
                key: piece.key,
                fragment,
            };
            let mut mutations = Vec::new();
            patch.encode(&mut mutations);
            encode_op(OpType::Write, &mutations, &mut payload);
            match patch {
                Mutation::Patch { fragment, .. } if !is_inline(data.bytes.len()) => {
                    placed.push((Arc::clone(piece), fragment));
                }
                _ => piece.set_journaled(),
            }
        }
        drop(guards);
        for (piece, fragment) in placed {
            sealed.memtable.placed(&piece, fragment);
        }
        sealed.encode_touched(&mut payload);
        Ok(payload)
    }

    /// How long the journal's thread may sleep, in nanoseconds; `None`: until it is woken.
    pub fn commit_due(&self) -> Option<u64> {
        let now = self.env.monotonic();
        let open = self.open.lock();
        if !open.waiters.is_empty()
            || open.is_full
            || open.journal_bytes >= self.limits.soft_batch()
            || open.dirty_bytes >= self.tuning.batch_data
        {
            return Some(0);
        }
        let since = self.unsynced_since.load(Ordering::Relaxed);
        let flush = (since != 0).then(|| (since + SYNC_DELAY).saturating_sub(now));
        let bulk = open.dirty_bytes > self.tuning.inline_max;
        let delay = if bulk { DATA_DELAY } else { METADATA_DELAY };
        let write = (!open.is_empty()).then(|| (open.since + delay).saturating_sub(now));
        match (flush, write) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Sleeps until a batch should be written, or `stop` says so; the journal's thread only.
    pub fn wait_for_work(&self, stop: &dyn Fn() -> bool) {
        loop {
            let due = self.commit_due();
            let mut open = self.open.lock();
            if stop() || due == Some(0) {
                return;
            }
            match due {
                None if open.is_empty() && open.waiters.is_empty() => {
                    self.signals.commit.wait(&mut open);
                }
                // Work came between the look and the lock.
                None => {}
                Some(nanos) => {
                    let nap = std::time::Duration::from_nanos(nanos);
                    if self.signals.commit.wait_for(&mut open, nap).timed_out() {
                        return;
                    }
                }
            }
        }
    }

    /// Wakes whoever sleeps for work or room.
    pub fn wake_all(&self) {
        let _open = self.open.lock();
        self.signals.commit.notify_all();
        self.signals.room.notify_all();
    }
}
