//! How a transaction becomes visible, and how batches become durable (group commit).

use std::sync::Arc;

use razorfs_format::op::{Mutation, OpType, encode_op};
use razorfs_format::record::{Fragment, FragmentKind};
use razorfs_format::timeline::Timeline;
use razorfs_format::{BatchSeq, Branch, Generation, Ino};

use super::batch::{OpenBatch, Sealed};
use super::tx::OVERHEAD;
use super::{Core, CountersAt, Frozen, Journal, Version, Waiter};
use crate::data::{FrameIdentity, FrameWrite};
use crate::journal::Batch;
use crate::marks::{self, Mark};
use crate::sync::atomic::Ordering;
use crate::sync::{RwLockWriteGuard, mpsc, unlock_fairly};
use crate::tree::memtable::Memtable;
use crate::{Error, Result};

/// Nanoseconds after which a batch without bulk data is written to the journal.
const METADATA_DELAY: u64 = 20_000_000;
/// Nanoseconds after which a batch with bulk data is: its packs must be flushed before it.
const DATA_DELAY: u64 = 100_000_000;
/// Nanoseconds after which a batch that the host had no room for is tried again.
const FULL_DELAY: u64 = 100_000_000;
/// Nanoseconds after which what was written to the journal is flushed, waited for or not.
const SYNC_DELAY: u64 = 1_000_000_000;

/// How often the open batch is written, in vain, before those are shut out who fill it.
const BULK_TRIES: u32 = 3;

/// Who waits for several batches.
#[derive(Default)]
pub(super) struct Waiting {
    /// What these waited for is durable.
    served: Vec<Waiter>,
    /// These wait for what comes now.
    pub now: Vec<Waiter>,
}

impl Waiting {
    /// What they waited for was written: whatever comes next is none of their business.
    fn serve(&mut self) {
        self.served.append(&mut self.now);
    }

    /// Tells all of them, these what became of what came last.
    pub fn answer(self, last: &Result<bool>) {
        answer(self.served, &Ok(true));
        answer(self.now, last);
    }
}

impl Core {
    /// Calls `done` once everything that was done before is durable. If nothing is pending, at
    /// once; else from the thread that commits.
    pub fn sync_then(&self, done: Waiter) {
        let mut open = self.open.lock();
        let settled = self.durable.load(Ordering::Acquire) >= self.sealed.load(Ordering::Acquire);
        // Looked at under the lock: whoever answers the last waiters takes it after these change.
        let answer = if let Some(cause) = self.failure() {
            Err(Error::Failed(cause))
        } else if open.is_empty() && settled {
            Ok(())
        } else if self.has_ended() {
            Err(closed())
        } else {
            open.waiters.push(done);
            drop(open);
            self.signals.commit.notify_one();
            return;
        };
        drop(open);
        done(answer);
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
        let (send, receive) = mpsc::sync_channel(1);
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
        let mut waiters = Vec::new();
        let result = self.commit_locked(&mut journal, sync, &mut waiters);
        // What those who waited do next may need the journal; and whoever freezes the memtable
        // would wait for batch after batch while writers are fast.
        unlock_fairly(journal);
        answer(waiters, &result);
        result
    }

    pub(super) fn commit_locked(
        &self,
        journal: &mut Journal,
        sync: bool,
        waiters: &mut Vec<Waiter>,
    ) -> Result<bool> {
        if let Some(held) = journal.held.take() {
            if let Err(e) = self.write_sealed(journal, held, false) {
                // Batches follow each other: nothing younger can be written either.
                waiters.append(&mut self.open.lock().waiters);
                return Err(e);
            }
            marks::hit(Mark::CommitHeldWritten);
        }
        let mut sealed = self.seal();
        waiters.append(&mut sealed.waiters);
        let sync = sync || !waiters.is_empty();
        if sealed.is_empty() && !(self.is_unsynced() && (sync || self.sync_is_due())) {
            return self
                .failure()
                .map_or(Ok(!waiters.is_empty()), |cause| Err(Error::Failed(cause)));
        }
        self.write_sealed(journal, sealed, sync)?;
        Ok(true)
    }

    /// Writes the open batch, and answers with the gate shut over one whose data all goes inline:
    /// the host may have no room for more, and whoever shuts the gate must learn of that while he
    /// has changed nothing.
    pub(super) fn shut_without_bulk(
        &self,
        journal: &mut Journal,
        waiting: &mut Waiting,
    ) -> Result<RwLockWriteGuard<'_, ()>> {
        for _ in 0..BULK_TRIES {
            self.commit_locked(journal, false, &mut waiting.now)?;
            waiting.serve();
            let gate = self.gate.write();
            if self.open.lock().dirty_bytes <= self.limits.inline_sync() {
                return Ok(gate);
            }
        }
        // Somebody writes as fast as the disk does, and waits for this one now.
        let gate = self.gate.write();
        let memtable = Arc::clone(&self.version.load().active);
        let mut sealed = self.seal_over(&mut self.open.lock(), memtable);
        waiting.now.append(&mut sealed.waiters);
        let sync = !waiting.now.is_empty();
        self.write_sealed(journal, sealed, sync)?;
        waiting.serve();
        Ok(gate)
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
        self.seal_over(&mut self.open.lock(), memtable)
    }

    /// Seals the open batch. The caller has the gate for itself.
    pub(super) fn seal_over(&self, open: &mut OpenBatch, memtable: Arc<Memtable>) -> Sealed {
        let mut sealed = open.seal(memtable);
        if !sealed.is_empty() {
            self.sealed.store(sealed.seq.0, Ordering::Release);
            sealed.inline_bytes = self.limits.hold(sealed.journal_bytes);
        } else if let Some(redo) = self.redo.as_ref().filter(|_| sealed.is_used) {
            // What was done came to nothing, and the next batch has this number. What is still to
            // be done again in a batch that nothing was done in stays.
            redo.trim(sealed.seq);
        }
        self.signals.room.notify_all();
        sealed
    }

    /// Seals the open batch, freezes the active memtable and writes the batch durably. Answers
    /// nothing if the memtable is empty, unless `anyway` asks for an empty one.
    pub fn freeze(&self, anyway: bool) -> Result<bool> {
        let mut journal = self.journal();
        let mut waiters = Vec::new();
        let result = self.freeze_locked(&mut journal, &mut waiters, anyway);
        drop(journal);
        answer(waiters, &result);
        result
    }

    fn freeze_locked(
        &self,
        journal: &mut Journal,
        waiters: &mut Vec<Waiter>,
        anyway: bool,
    ) -> Result<bool> {
        // The bulk first: if the host has no room for it nothing is frozen yet.
        self.commit_locked(journal, false, waiters)?;
        let (mut sealed, frozen) = {
            let _gate = self.gate.write();
            let version = self.version.load_full();
            let mut open = self.open.lock();
            let sealed = self.seal_over(&mut open, Arc::clone(&version.active));
            // Batches that annihilated each other are to be cut off too.
            let frozen = anyway
                || !version.active.is_empty()
                || !sealed.is_empty()
                || self.since_cut.load(Ordering::Relaxed) > 0;
            if frozen {
                let counters = self.counters_at(open.first_lsn);
                let timeline = Arc::clone(&version.timeline);
                self.push_frozen(&version, open.seq, counters, timeline);
            }
            (sealed, frozen)
        };
        waiters.append(&mut sealed.waiters);
        self.write_sealed(journal, sealed, true)?;
        if frozen {
            self.begin_cut();
        }
        Ok(frozen)
    }

    /// Counts what comes after a cut.
    pub(super) fn begin_cut(&self) {
        self.since_cut.store(0, Ordering::Relaxed);
        self.placed_since_cut.store(0, Ordering::Relaxed);
        let bytes = self.bytes_in_all();
        self.bytes_at_cut.store(bytes, Ordering::Relaxed);
    }

    /// The counters as they are. The caller has the gate for itself.
    pub(super) fn counters_at(&self, lsn: razorfs_format::Lsn) -> CountersAt {
        CountersAt {
            inodes: self.inodes.load(Ordering::Relaxed).max(0) as u64,
            bytes: self.bytes.get(),
            next_ino: Ino(self.ids.ino.load(Ordering::Relaxed)),
            lsn,
            forks: self.fork_counts(),
        }
    }

    /// Freezes the active memtable. The caller has the gate for itself.
    pub(super) fn push_frozen(
        &self,
        version: &Version,
        cut: BatchSeq,
        counters: CountersAt,
        timeline: Arc<Timeline>,
    ) {
        let memtable = Arc::clone(&version.active);
        let active = Self::next_memtable(&memtable);
        let mut frozen = vec![Arc::new(Frozen {
            memtable,
            cut,
            counters,
            timeline: Arc::clone(&timeline),
        })];
        frozen.extend(version.frozen.iter().cloned());
        let levels = version.levels.clone();
        let next = match Arc::ptr_eq(&timeline, &version.timeline) {
            true => version.with_layers(active, frozen, levels),
            false => Version::new(active, frozen, levels, timeline),
        };
        self.version.store(Arc::new(next));
    }

    /// Places the data of a sealed batch, appends it to the journal and flushes that if asked to
    /// or due. An error latches; but if the host has no room for the data, the batch is held, and
    /// written before the next.
    pub(super) fn write_sealed(
        &self,
        journal: &mut Journal,
        sealed: Sealed,
        sync: bool,
    ) -> Result<()> {
        let allowed = match self.failure() {
            Some(cause) => Err(Error::Failed(cause)),
            None => self.fence.check_at(self.env.monotonic()),
        };
        let payload = match allowed {
            Err(e) => Err(e),
            Ok(()) if sealed.is_empty() => Ok(Vec::new()),
            Ok(()) => self.place(journal, &sealed, sync),
        };
        let payload = match payload {
            // The ballast is there for this.
            Err(Error::NoSpace) if self.ballast.release(self.disk.as_ref()) => {
                self.place(journal, &sealed, sync)
            }
            payload => payload,
        };
        let result = match payload {
            Err(Error::NoSpace) => {
                self.hold(journal, sealed);
                return Err(Error::NoSpace);
            }
            Err(e) => Err(e),
            Ok(payload) => self.write_batch(journal, &sealed, payload, sync),
        };
        if let Err(e) = &result {
            self.fail(e);
            self.unsynced_since.store(0, Ordering::Relaxed);
        }
        // Under the lock, so that a writer cannot miss the wake-up between look and wait.
        let _open = self.open.lock();
        self.stuck_until.store(0, Ordering::Relaxed);
        self.dirty.fetch_sub(sealed.dirty_bytes, Ordering::Relaxed);
        self.signals.room.notify_all();
        result
    }

    /// Keeps a batch that the host has no room for. Writers learn that the host is full once the
    /// next batch is full too; syncs at once.
    fn hold(&self, journal: &mut Journal, sealed: Sealed) {
        marks::hit(Mark::CommitHeld);
        tracing::warn!(
            batch = sealed.seq.0,
            "the host is full: a batch waits for room"
        );
        journal.held = Some(sealed);
        // Whoever writes next looks at the host anew.
        self.host_free.store(0, Ordering::Relaxed);
        let _open = self.open.lock();
        let again = self.env.monotonic().saturating_add(FULL_DELAY);
        self.stuck_until.store(again, Ordering::Relaxed);
        self.signals.room.notify_all();
    }

    /// Whether a batch waits for room on the host.
    pub(super) fn is_stuck(&self) -> bool {
        self.stuck_until.load(Ordering::Relaxed) != 0
    }

    fn write_batch(
        &self,
        journal: &mut Journal,
        sealed: &Sealed,
        payload: Vec<u8>,
        sync: bool,
    ) -> Result<()> {
        if !sealed.is_empty() {
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
            if let Some(redo) = &self.redo {
                redo.trim(sealed.seq);
            }
            self.since_cut.fetch_add(bytes, Ordering::Relaxed);
            self.limits.written(&journal.ring);
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
            // A sync that failed at first has taken a file.
            self.limits.note(&journal.ring);
            self.unsynced_since.store(0, Ordering::Relaxed);
            self.durable.store(journal.appended.0, Ordering::Release);
            self.counts.journal_syncs.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Data runs of a sealed batch up to this length go inline. Operations that cut what others
    /// wrote leave more and shorter runs than were counted when they came: then all go to packs,
    /// or the batch might not fit in the journal.
    fn inline_limit(&self, sealed: &Sealed, waited: bool, total: usize) -> usize {
        let most = sealed.inline_bytes;
        if waited && total <= most {
            return most;
        }
        let inline = self.tuning.inline_max;
        let size = |len: usize| OVERHEAD + if len <= inline { len } else { 0 };
        let data: usize = sealed.lengths().map(size).sum();
        let touched: usize = sealed.touched.values().map(|v| v.len() + 48).sum();
        if sealed.ops.len() + touched + data <= sealed.journal_bytes {
            inline
        } else {
            marks::hit(Mark::CommitNothingInline);
            0
        }
    }

    /// Gives the data of a sealed batch its place, durably where that is a pack, and answers the
    /// payload of the batch: operations, data, touched inodes.
    fn place(&self, journal: &mut Journal, sealed: &Sealed, waited: bool) -> Result<Vec<u8>> {
        let total: usize = sealed.lengths().sum();
        let inline = self.inline_limit(sealed, waited, total);
        let is_inline = |len: usize| len <= inline;
        let mut payload = sealed.ops.clone();
        let guards: Vec<_> = sealed.dirty.iter().map(|p| (p, p.data.read())).collect();
        let mut frames = Vec::new();
        for (piece, data) in &guards {
            if !is_inline(data.bytes.len()) {
                frames.push(FrameWrite {
                    identity: FrameIdentity {
                        // Segments have no branches, and it is found by what they have.
                        branch: Branch::HEAD,
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
        let counts = [&self.counts.data_bytes, &self.placed_since_cut];
        for count in counts {
            count.fetch_add(total as u64, Ordering::Relaxed);
        }
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
    pub(super) fn commit_due(&self, open: &OpenBatch) -> Option<u64> {
        if !open.waiters.is_empty() {
            return Some(0);
        }
        if self.failure().is_some() {
            return None;
        }
        let now = self.env.monotonic();
        let again = self.stuck_until.load(Ordering::Relaxed);
        if again != 0 {
            return Some(again.saturating_sub(now));
        }
        if open.is_full
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
        let mut open = self.open.lock();
        while !stop() {
            match self.commit_due(&open) {
                Some(0) => return,
                None => self.signals.commit.wait(&mut open),
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

/// Tells those who waited for a batch what became of it.
fn answer(waiters: Vec<Waiter>, result: &Result<bool>) {
    for waiter in waiters {
        waiter(result.clone().map(|_| ()));
    }
}

/// The error of whoever comes after the volume was closed.
pub(super) fn closed() -> Error {
    Error::ReadOnly("it was closed".into())
}
