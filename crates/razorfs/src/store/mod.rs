//! The store: what is visible, and how changes become visible and durable.
//!
//! An operation's transaction is appended to the open batch and applied to the active memtable
//! under the *gate* (shared); sealing a batch and freezing a memtable take the gate exclusively,
//! for microseconds; over I/O only where a rollback must not be seen before it is durable, or
//! somebody writes as fast as the disk while a snapshot is taken. So every batch, and every epoch,
//! holds whole operations.
//! Lock order: inode locks, gate, open batch, memtable shard. The journal's lock is taken before
//! the gate and held over I/O; no request takes it.

mod admit;
mod ballast;
mod batch;
mod changes;
mod commit;
// Locks are only tried here, which the scheduler of the tests has not.
#[cfg(test)]
#[cfg(not(feature = "shuttle"))]
mod crowd_tests;
mod forks;
#[cfg(test)]
mod full_tests;
#[cfg(test)]
mod group_tests;
mod handle;
mod ids;
mod layout;
mod limits;
mod moments;
mod pace;
mod points;
mod read;
#[cfg(test)]
mod refusal_tests;
mod resume;
#[cfg(test)]
mod resume_tests;
#[cfg(test)]
mod scan_tests;
mod states;
#[cfg(test)]
pub(crate) mod stress_tests;
mod sum;
mod tx;
mod upkeep;
mod version;
mod viewing;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};

use razorfs_disk::{Disk, Env};
use razorfs_format::key::{Key, Tag};
use razorfs_format::op::Mutation;
use razorfs_format::record::Time;
use razorfs_format::{BatchSeq, Branch, Generation, Ino, Lsn, VolumeId};

use crate::data::{Compression, PackReader, PackWriter};
use crate::fence::Fence;
use crate::journal::{Flusher, Ring};
use crate::parity::Healer;
use crate::redo::RedoMemory;
use crate::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{ArcSwap, Condvar, Mutex, MutexGuard, RwLock};
use crate::tree::memtable::{Memtable, Slot};
use crate::{Error, Result, VolumeSpace};

pub(crate) use ballast::Ballast;
pub(crate) use batch::Waiter;
use batch::{OpenBatch, Sealed};
use forks::Tally;
pub(crate) use forks::Tenure;
use handle::Before;
pub(crate) use handle::{Store, is_hidden};
pub(crate) use ids::Ids;
pub(crate) use layout::{Layout, Run, What};
pub(crate) use limits::Limits;
pub(crate) use moments::Replayed;
pub use moments::{Reached, When};
pub(crate) use points::Point;
pub(crate) use read::{At, Sight};
pub(crate) use resume::Left;
use sum::Sum;
pub(crate) use tx::{OVERHEAD, Ticket, Tx};
pub(crate) use upkeep::RoomMaker;
pub(crate) use version::{CountersAt, Frozen, Version};
pub(crate) use viewing::Viewing;

pub(crate) use crate::tree::Bytes;

/// How the store behaves; from the volume's options.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tuning {
    /// Data runs up to this many bytes are kept inline.
    pub inline_max: usize,
    /// Compression of data.
    pub compression: Compression,
    /// Bytes of file data in RAM at which writers wait.
    pub dirty_limit: usize,
    /// Bytes of data in the open batch at which it is sealed.
    pub batch_data: usize,
    /// Bytes of the active memtable at which it is frozen.
    pub memtable_bytes: usize,
    /// Bytes of journal since the last checkpoint at which the next is due.
    pub checkpoint_journal: u64,
    /// Nanoseconds since the last checkpoint after which the next is due.
    pub checkpoint_interval: u64,
    /// Bytes of data that may have become garbage since the last checkpoint at which the next is
    /// due at once.
    pub garbage_soon: u64,
    /// Checkpoints only where the journal is full.
    pub journal_only: bool,
    /// Bytes of data after which what the volume may hold ends; `None`: as much as the host.
    pub limit: Option<u64>,
    /// Bytes of the host that are left free.
    pub host_margin: u64,
    /// Whether threads do the work; otherwise whoever waits for it does.
    pub threads: bool,
}

/// The journal and what feeds it.
pub(crate) struct Journal {
    pub ring: Ring,
    pub hot: PackWriter,
    /// The last batch that was appended.
    pub appended: BatchSeq,
    /// The batch after it, if the host had no room for its data.
    held: Option<Sealed>,
}

impl Journal {
    /// A journal whose last batch is `last`.
    pub fn new(ring: Ring, hot: PackWriter, last: BatchSeq) -> Self {
        Self {
            ring,
            hot,
            appended: last,
            held: None,
        }
    }
}

/// What wakes the threads, and those who wait for them.
#[derive(Default)]
pub(crate) struct Signals {
    /// There is something to commit, or to stop for.
    pub commit: Condvar,
    /// A batch was sealed or its data placed; goes with the open batch's lock.
    pub room: Condvar,
    /// There is something to checkpoint, compact or reap.
    pub maintain: Condvar,
    /// What the maintenance thread was asked for.
    pub wanted: Mutex<Wanted>,
    /// Maintenance whose last try failed, and why. For whoever asks what is wrong.
    pub failing: Mutex<BTreeMap<&'static str, Error>>,
}

/// The name of checkpoints among the maintenance that may fail.
pub(crate) const CHECKPOINT: &str = "checkpoint";

/// What the maintenance thread was asked for.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Wanted {
    pub checkpoint: bool,
    pub stop: bool,
}

/// Counts for `stats`.
#[derive(Default)]
pub(crate) struct Counts {
    pub ops: AtomicU64,
    pub batches: AtomicU64,
    pub journal_bytes: AtomicU64,
    pub journal_syncs: AtomicU64,
    pub data_bytes: AtomicU64,
    pub checkpoints: AtomicU64,
    pub compactions: AtomicU64,
    /// Bytes of frames that cleaning has copied.
    pub cleaned_bytes: AtomicU64,
    /// Packs that it has gone through.
    pub cleaned_packs: AtomicU64,
    /// Packs that were removed.
    pub removed_packs: AtomicU64,
    /// Nanoseconds that writers were told to wait, so that space comes back.
    pub slowed_ns: AtomicU64,
    /// Bytes written to packs.
    pub pack_bytes: Arc<AtomicU64>,
    /// Bytes written to segments.
    pub segment_bytes: AtomicU64,
}

/// The core of the store of one volume: everything but its upkeep.
pub(crate) struct Core {
    pub disk: Arc<dyn Disk>,
    pub env: Arc<dyn Env>,
    pub vid: VolumeId,
    pub hash_key: [u8; 16],
    pub tuning: Tuning,
    pub version: ArcSwap<Version>,
    pub reader: PackReader,
    pub gate: RwLock<()>,
    open: Mutex<OpenBatch>,
    /// None if the volume is open for reading only.
    journal: Option<Mutex<Journal>>,
    /// Held by who lets the journal grow; taken before the journal's lock.
    growing: Mutex<()>,
    /// How many wait for an operation on snapshots.
    points: AtomicUsize,
    /// Everything up to this batch is durable.
    pub durable: AtomicU64,
    /// The last batch that was sealed.
    sealed: AtomicU64,
    /// When the first batch that is not durable was appended, on the monotonic clock; 0: none.
    unsynced_since: AtomicU64,
    /// How much the journal takes, as of its last change.
    pub limits: Limits,
    /// How often somebody tried to make room in the journal.
    pub room_made: AtomicU64,
    /// Why the last try failed, if it did.
    pub room_error: Mutex<Option<Error>>,
    /// Journal bytes appended since the last cut.
    pub since_cut: AtomicU64,
    /// Bytes of data that got a place since then.
    pub placed_since_cut: AtomicU64,
    /// Sum of the sizes of all files at that cut.
    pub bytes_at_cut: AtomicU64,
    /// Waste in packs beyond what there should be, that cleaning can make good.
    pub waste_over: AtomicU64,
    /// The newest generation of the superblock.
    pub generation: AtomicU64,
    /// Whether blocks may share frames: the superblock says so.
    pub sharing: AtomicBool,
    /// File data in RAM that has no place yet.
    dirty: AtomicUsize,
    pub ids: Arc<Ids>,
    pub inodes: AtomicI64,
    /// Sum of the sizes of all files.
    pub bytes: Sum,
    /// The same of each branch.
    forks: RwLock<BTreeMap<Branch, Arc<Tally>>>,
    failed: OnceLock<Arc<str>>,
    /// Whether the volume is still this host's.
    pub fence: Arc<Fence>,
    /// Makes up for damage, where the volume has parity.
    pub healer: Option<Arc<Healer>>,
    /// The volume is being closed: nothing new is taken.
    closed: AtomicBool,
    /// Nobody commits any more.
    ended: AtomicBool,
    /// When the batch that the host had no room for is tried again, on the monotonic clock; 0:
    /// there is none.
    stuck_until: AtomicU64,
    /// Space to fall back on when the host is full.
    pub ballast: Ballast,
    /// Bytes that segments and packs take.
    pub stored: AtomicU64,
    /// Why nothing may be written, if the volume is open for reading only.
    pub read_only: Option<Arc<str>>,
    /// What outlives this process, for a volume that is written to.
    pub redo: Option<Arc<RedoMemory>>,
    pub signals: Signals,
    pub counts: Counts,
    /// Free space of the host, as of the last look, less what was reserved since.
    host_free: AtomicI64,
    host_looked: AtomicU64,
    room_maker: OnceLock<Weak<dyn RoomMaker>>,
    /// How many look at each snapshot.
    viewed: Mutex<BTreeMap<u64, usize>>,
    /// What handles hold of before rollbacks, of those that have gone back.
    befores: Mutex<Vec<Weak<Before>>>,
    /// How many have each branch open.
    tenures: Mutex<BTreeMap<Branch, usize>>,
    /// The last batch in which a branch begins.
    forked: AtomicU64,
}

/// What a store starts with.
pub(crate) struct Start {
    pub disk: Arc<dyn Disk>,
    pub env: Arc<dyn Env>,
    pub vid: VolumeId,
    pub hash_key: [u8; 16],
    pub tuning: Tuning,
    pub version: Version,
    pub reader: PackReader,
    /// None to read only.
    pub journal: Option<Journal>,
    /// The last batch that was replayed.
    pub last: BatchSeq,
    /// Bytes of journal that were replayed.
    pub replayed: u64,
    pub next_lsn: Lsn,
    pub generation: Generation,
    /// Whether the superblock says that blocks share frames.
    pub sharing: bool,
    pub ids: Arc<Ids>,
    pub inodes: i64,
    pub bytes: u128,
    /// Inodes and bytes of each branch.
    pub forks: BTreeMap<Branch, (u64, u128)>,
    pub read_only: Option<Arc<str>>,
    pub fence: Arc<Fence>,
    pub healer: Option<Arc<Healer>>,
    pub ballast: Ballast,
    /// Bytes that segments and packs take.
    pub stored: u64,
    pub redo: Option<Arc<RedoMemory>>,
    /// Counts the bytes written to packs.
    pub pack_bytes: Arc<AtomicU64>,
}

impl Core {
    /// A store over what was recovered.
    pub fn new(start: Start) -> Self {
        let last = start.last;
        let limits = Limits::default();
        if let Some(journal) = &start.journal {
            limits.note(&journal.ring);
        }
        Self {
            disk: start.disk,
            env: start.env,
            vid: start.vid,
            hash_key: start.hash_key,
            tuning: start.tuning,
            version: ArcSwap::from_pointee(start.version),
            reader: start.reader,
            gate: RwLock::new(()),
            open: Mutex::new(OpenBatch::new(last.next(), start.next_lsn)),
            journal: start.journal.map(Mutex::new),
            growing: Mutex::default(),
            points: AtomicUsize::new(0),
            durable: AtomicU64::new(last.0),
            sealed: AtomicU64::new(last.0),
            unsynced_since: AtomicU64::new(0),
            limits,
            room_made: AtomicU64::new(0),
            room_error: Mutex::new(None),
            since_cut: AtomicU64::new(start.replayed),
            placed_since_cut: AtomicU64::new(0),
            waste_over: AtomicU64::new(0),
            bytes_at_cut: AtomicU64::new(u64::try_from(start.bytes).unwrap_or(u64::MAX)),
            generation: AtomicU64::new(start.generation.0),
            sharing: AtomicBool::new(start.sharing),
            dirty: AtomicUsize::new(0),
            ids: start.ids,
            inodes: AtomicI64::new(start.inodes),
            bytes: Sum::new(start.bytes),
            forks: RwLock::new(forks::tallies(start.forks)),
            failed: OnceLock::new(),
            fence: start.fence,
            healer: start.healer,
            closed: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            stuck_until: AtomicU64::new(0),
            ballast: start.ballast,
            stored: AtomicU64::new(start.stored),
            read_only: start.read_only,
            redo: start.redo,
            signals: Signals::default(),
            counts: Counts {
                pack_bytes: start.pack_bytes,
                ..Counts::default()
            },
            host_free: AtomicI64::new(0),
            host_looked: AtomicU64::new(0),
            room_maker: OnceLock::new(),
            viewed: Mutex::default(),
            befores: Mutex::default(),
            tenures: Mutex::default(),
            forked: AtomicU64::new(0),
        }
    }

    /// The key of the hash of names.
    pub fn hash_key(&self) -> &[u8; 16] {
        &self.hash_key
    }

    /// The present.
    pub fn now(&self) -> Time {
        Time::from_unix_nanos(self.env.now())
    }

    /// The journal. Only writers come here, and [`Core::check_writable`] has stopped all others.
    pub fn journal(&self) -> MutexGuard<'_, Journal> {
        match &self.journal {
            Some(journal) => journal.lock(),
            None => unreachable!("a volume that is open for reading only is not written to"),
        }
    }

    /// What flushes the two copies of the journal at the same time, if there are two.
    pub fn flusher(&self) -> Option<Arc<Flusher>> {
        let journal = self.journal.as_ref()?;
        journal.lock().ring.flusher()
    }

    /// Bytes that the journal's files take on the host.
    pub fn journal_host_bytes(&self) -> u64 {
        self.journal
            .as_ref()
            .map_or(0, |journal| journal.lock().ring.host_bytes())
    }

    /// Bytes of the journal that are in use, and how many it holds.
    pub fn journal_fill(&self) -> (u64, u64) {
        self.journal.as_ref().map_or((0, 0), |journal| {
            let journal = journal.lock();
            let capacity = journal.ring.capacity();
            (capacity.saturating_sub(journal.ring.room()), capacity)
        })
    }

    /// Bytes that the journal's files hold.
    pub fn journal_capacity(&self) -> u64 {
        self.journal
            .as_ref()
            .map_or(0, |journal| journal.lock().ring.capacity())
    }

    /// A new inode number.
    pub fn alloc_ino(&self) -> Ino {
        Ino(self.ids.ino.fetch_add(1, Ordering::Relaxed))
    }

    /// Fails if the volume takes no writes.
    pub fn check_writable(&self) -> Result<()> {
        if let Some(cause) = self.failed.get() {
            return Err(Error::Failed(Arc::clone(cause)));
        }
        match &self.read_only {
            Some(why) => Err(Error::ReadOnly(Arc::clone(why))),
            None if self.closed.load(Ordering::Acquire) => Err(commit::closed()),
            None => Ok(()),
        }
    }

    /// The first fatal error latches: every later write refuses and names it.
    pub fn fail(&self, cause: &Error) {
        let why = match cause {
            // Whoever is refused puts the same around it.
            Error::Failed(why) => Arc::clone(why),
            _ => cause.to_string().into(),
        };
        if self.failed.set(Arc::clone(&why)).is_ok() {
            tracing::error!(%cause, "the volume takes no more writes");
            if let Some(redo) = &self.redo {
                redo.latch(&why);
            }
        }
        // Under the lock, so that nobody misses it between look and wait.
        let _open = self.open.lock();
        self.signals.room.notify_all();
    }

    /// A result as it is; that another host has the volume latches.
    pub fn latching<T>(&self, result: Result<T>) -> Result<T> {
        result.inspect_err(|e| {
            if matches!(e, Error::Fenced(_)) {
                self.fail(e);
            }
        })
    }

    /// The error that made the volume refuse writes.
    pub fn failure(&self) -> Option<Arc<str>> {
        self.failed.get().cloned()
    }

    /// Reserves room for `bytes` of data, which let files of a branch grow by `growth`, so that
    /// running out of space is told here and not at a later sync.
    pub fn reserve(&self, branch: Branch, bytes: u64, growth: u64) -> Result<()> {
        let used = self.bytes_of(branch);
        if let Some(limit) = self.tuning.limit
            && growth > 0
            && used.saturating_add(growth) > limit
        {
            return Err(Error::LimitReached);
        }
        let now = self.env.monotonic();
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let need = bytes.saturating_add_unsigned(self.tuning.host_margin);
        let stale = now.saturating_sub(self.host_looked.load(Ordering::Relaxed)) > LOOK_AGAIN;
        if stale || self.host_free.load(Ordering::Relaxed) < need {
            let free = self.disk.space()?.free;
            // What is in RAM, and what the journal holds inline, goes to packs and segments.
            let pending = self.bytes_in_ram();
            let free = free.saturating_sub(pending).min(i64::MAX as u64) as i64;
            self.host_free.store(free, Ordering::Relaxed);
            self.host_looked.store(now.max(1), Ordering::Relaxed);
        }
        let take = |free: i64| (free >= need).then(|| free - bytes);
        let taken = self
            .host_free
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        if taken.is_err() {
            // What waits for the checkpoint may take less than was counted for it, and what was
            // deleted comes free with it.
            self.want_checkpoint();
            return Err(Error::NoSpace);
        }
        Ok(())
    }

    /// Whether the host is so full that what can be given back should be, and nothing be taken
    /// that can wait.
    pub fn host_is_low(&self, wanted: u64) -> Result<bool> {
        let least = self.tuning.host_margin.saturating_add(wanted);
        Ok(self.disk.space()?.free < least.saturating_mul(2))
    }

    /// Space of the volume: what it holds, and what the host and the limit leave it. What others
    /// have on the same host is no part of it.
    pub fn space(&self, branch: Branch) -> Result<VolumeSpace> {
        let host = self.disk.space()?;
        let used = self.bytes_of(branch);
        let inodes = self.inodes_of(branch);
        let left = self
            .tuning
            .limit
            .map_or(u64::MAX, |limit| limit.saturating_sub(used));
        let free = host.free.saturating_sub(self.tuning.host_margin).min(left);
        Ok(VolumeSpace {
            total: used.saturating_add(free),
            free,
            inodes,
        })
    }

    /// The inodes that wait to be reaped or trimmed in what a reader looks at.
    pub fn orphans_at(&self, at: &At) -> Result<Vec<Ino>> {
        let from = Key::orphan(Branch::HEAD, Ino(0));
        let to = Key::orphan(Branch::HEAD, Ino(u64::MAX));
        let version = self.version.load_full();
        let mut alive = std::collections::BTreeMap::new();
        let sight = version.at(version.view_at(at)?);
        for record in version.levels.range(&from, &to, sight.view()) {
            let record = record?;
            alive.insert(record.key.ino(), record.value.is_some());
        }
        let mut oldest_first: Vec<_> = sight.memtables().collect();
        oldest_first.reverse();
        for (memtable, branch) in oldest_first {
            let is_put = |slot: &Slot| matches!(slot, Slot::Put { .. });
            let records = memtable.sorted(branch, Tag::Orphan, is_put);
            alive.extend(records.into_iter().map(|(key, put)| (key.ino(), put)));
        }
        Ok(alive
            .into_iter()
            .filter(|(_, put)| *put)
            .map(|(ino, _)| ino)
            .collect())
    }

    /// Applies one journaled mutation to a memtable; used by recovery, where no batch is open.
    pub fn redo(memtable: &Memtable, mutation: Mutation, counters: &mut CountersAt) {
        match mutation {
            Mutation::Put { key, value, new } => {
                if key.tag() == Tag::Inode {
                    counters.next_ino = counters.next_ino.max(key.ino().next());
                }
                memtable.put(key, Arc::from(value), new);
            }
            Mutation::Del { key } => memtable.del(key),
            Mutation::Patch { key, fragment } => {
                let split = memtable.patch(key, fragment, BatchSeq(u64::MAX));
                debug_assert!(split.is_empty());
            }
            Mutation::Count {
                branch,
                counter,
                delta,
            } => counters.add(branch, counter, delta),
            Mutation::Begin { branch, epoch } if branch != Branch::HEAD => {
                memtable.begin(branch, epoch);
            }
            // Those of the snapshots come at the end of their batch.
            Mutation::Who { .. }
            | Mutation::Take(_)
            | Mutation::Drop { .. }
            | Mutation::Back { .. }
            | Mutation::Fork(_)
            | Mutation::Prune { .. }
            | Mutation::Begin { .. } => {}
        }
    }

    /// The memtable that follows another one.
    pub fn next_memtable(memtable: &Memtable) -> Arc<Memtable> {
        Arc::new(Memtable::new(memtable.last_epoch().next()))
    }
}

/// Nanoseconds after which the host's free space is asked for again.
const LOOK_AGAIN: u64 = 200_000_000;
