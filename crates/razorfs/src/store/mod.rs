//! Records and blocks in RAM, behind the door through which the namespace sees them.
//!
//! The store knows nothing of files and names: it keeps records by key and bytes by block, applies
//! one [`Tx`] as a whole, and tells what is there.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use razorfs_disk::{Disk, Env};
use razorfs_format::key::{Key, Tag};
use razorfs_format::op::{Counter, OpType};
use razorfs_format::record::{BLOCK, Fragment, FragmentKind, Inode, Time};
use razorfs_format::{Branch, Ino};

use crate::{
    CreateOptions, Error, Info, Options, RecoverySummary, Result, Stats, Step, VolumeSpace,
    namespace,
};

/// Bytes of a record.
pub(crate) type Bytes = Arc<[u8]>;

/// One change of a transaction, in the order in which it was asked for.
enum Change<'a> {
    Put(Key, Bytes),
    Del(Key),
    Patch(Key, Fragment),
    Count(Counter, i64),
    Write {
        ino: Ino,
        block: u64,
        off: u32,
        bytes: &'a [u8],
    },
}

/// Changes that happen together or not at all.
pub(crate) struct Tx<'a> {
    changes: Vec<Change<'a>>,
}

impl<'a> Tx<'a> {
    pub(crate) fn new(_op: OpType) -> Self {
        Self {
            changes: Vec::with_capacity(6),
        }
    }

    /// Nothing has been asked for.
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The record becomes `value`.
    pub(crate) fn put(&mut self, key: Key, value: Bytes) {
        self.changes.push(Change::Put(key, value));
    }

    /// As [`Tx::put`], for a key that never existed before.
    pub(crate) fn put_new(&mut self, key: Key, value: Bytes) {
        self.changes.push(Change::Put(key, value));
    }

    /// The record is gone; of an extent's key, the whole block.
    pub(crate) fn del(&mut self, key: Key) {
        self.changes.push(Change::Del(key));
    }

    /// Lays a hole over a part of a block.
    pub(crate) fn patch(&mut self, key: Key, fragment: Fragment) {
        debug_assert!(matches!(fragment.kind, FragmentKind::Hole));
        self.changes.push(Change::Patch(key, fragment));
    }

    /// A counter changes.
    pub(crate) fn count(&mut self, counter: Counter, delta: i64) {
        self.changes.push(Change::Count(counter, delta));
    }

    /// The inode's record changed: visible at once, journaled once a batch.
    pub(crate) fn touch(&mut self, ino: Ino, inode: &Inode) {
        let key = Key::inode(Branch::HEAD, ino);
        self.changes.push(Change::Put(key, inode.to_bytes().into()));
    }

    /// Lays data over a part of a block.
    pub(crate) fn write(&mut self, ino: Ino, block: u64, off: u32, bytes: &'a [u8]) {
        self.changes.push(Change::Write {
            ino,
            block,
            off,
            bytes,
        });
    }
}

/// Stands for a committed transaction until it is durable.
#[must_use]
pub(crate) struct Ticket(());

/// The bytes of one block and which of them are data.
#[derive(Default)]
struct Block {
    bytes: Vec<u8>,
    runs: Vec<Range<u32>>,
}

impl Block {
    fn erase(&mut self, hole: Range<u32>) {
        let mut runs = Vec::with_capacity(self.runs.len() + 1);
        for run in self.runs.drain(..) {
            if run.start < hole.start {
                runs.push(run.start..run.end.min(hole.start));
            }
            if run.end > hole.end {
                runs.push(run.start.max(hole.end)..run.end);
            }
        }
        self.runs = runs;
        let end = self.bytes.len().min(hole.end as usize);
        if let Some(part) = self.bytes.get_mut(hole.start as usize..end) {
            part.fill(0);
        }
    }

    fn write(&mut self, off: u32, data: &[u8]) {
        let range = off..off + data.len() as u32;
        if self.bytes.len() < range.end as usize {
            self.bytes.resize(range.end as usize, 0);
        }
        if let Some(part) = self.bytes.get_mut(off as usize..range.end as usize) {
            part.copy_from_slice(data);
        }
        let mut merged = range;
        self.runs.retain(|run| {
            let apart = run.end < merged.start || run.start > merged.end;
            if !apart {
                merged = merged.start.min(run.start)..merged.end.max(run.end);
            }
            apart
        });
        let at = self.runs.partition_point(|run| run.start < merged.start);
        self.runs.insert(at, merged);
    }
}

#[derive(Default)]
struct State {
    records: BTreeMap<Key, Bytes>,
    blocks: BTreeMap<(Ino, u64), Block>,
    inodes: i64,
    bytes: i64,
}

impl State {
    fn apply(&mut self, change: Change<'_>) {
        match change {
            Change::Put(key, value) => {
                self.records.insert(key, value);
            }
            Change::Del(key) if key.tag() == Tag::Extent => {
                self.blocks.remove(&(key.ino(), key.second()));
            }
            Change::Del(key) => {
                self.records.remove(&key);
            }
            Change::Patch(key, fragment) => {
                let at = (key.ino(), key.second());
                if let Some(block) = self.blocks.get_mut(&at) {
                    block.erase(fragment.off..fragment.end());
                    if block.runs.is_empty() {
                        self.blocks.remove(&at);
                    }
                }
            }
            Change::Count(Counter::Inodes, delta) => self.inodes += delta,
            Change::Count(Counter::Bytes, delta) => self.bytes += delta,
            Change::Count(Counter::NextIno, _) => {}
            Change::Write {
                ino,
                block,
                off,
                bytes,
            } => {
                let block = self.blocks.entry((ino, block)).or_default();
                block.write(off, bytes);
            }
        }
    }
}

/// Records and blocks of one volume.
pub(crate) struct Store {
    state: RwLock<State>,
    env: Arc<dyn Env>,
    next_ino: AtomicU64,
    ops: AtomicU64,
    hash_key: [u8; 16],
    options: Options,
    recovery: RecoverySummary,
}

impl Store {
    /// Makes the files of a new, empty volume.
    pub(crate) fn create(
        _disk: &Arc<dyn Disk>,
        _env: &Arc<dyn Env>,
        _options: &CreateOptions,
    ) -> Result<()> {
        Ok(())
    }

    /// Opens a volume and recovers it.
    pub(crate) fn open(
        _disk: Option<Arc<dyn Disk>>,
        env: Arc<dyn Env>,
        options: Options,
    ) -> Result<Self> {
        let mut hash_key = [0; 16];
        for (byte, random) in hash_key.iter_mut().zip(env.random().to_le_bytes()) {
            *byte = random;
        }
        let root = namespace::root_inode(
            Time::from_unix_nanos(env.now()),
            &CreateOptions::from(&options),
        );
        let mut state = State::default();
        state
            .records
            .insert(Key::inode(Branch::HEAD, Ino::ROOT), root.to_bytes().into());
        state.inodes = 1;
        Ok(Self {
            state: RwLock::new(state),
            env,
            next_ino: AtomicU64::new(Ino::FIRST.0),
            ops: AtomicU64::new(0),
            hash_key,
            options,
            recovery: RecoverySummary {
                clean: true,
                ..RecoverySummary::default()
            },
        })
    }

    /// The newest version of a record. Not for extents.
    pub(crate) fn get(&self, key: &Key) -> Result<Option<Bytes>> {
        debug_assert!(key.tag() != Tag::Extent);
        Ok(self.state.read().records.get(key).cloned())
    }

    /// The live records from `from` on, before `to`, in order, until `each` answers false. Both
    /// keys are of one table and one inode. Not for extents.
    pub(crate) fn scan(
        &self,
        from: &Key,
        to: &Key,
        each: &mut dyn FnMut(&Key, &Bytes) -> bool,
    ) -> Result<()> {
        debug_assert!(from.tag() == to.tag() && from.ino() == to.ino() && from <= to);
        for (key, value) in self.state.read().records.range(*from..*to) {
            if !each(key, value) {
                break;
            }
        }
        Ok(())
    }

    /// The inodes with an orphan record.
    pub(crate) fn orphans(&self) -> Result<Vec<Ino>> {
        let from = Key::orphan(Branch::HEAD, Ino(0));
        let to = Key::orphan(Branch::HEAD, Ino(u64::MAX));
        let state = self.state.read();
        Ok(state
            .records
            .range(from..to)
            .map(|(k, _)| k.ino())
            .collect())
    }

    /// Which bytes of which blocks are data, in order, until `each` answers false.
    pub(crate) fn extents(
        &self,
        ino: Ino,
        from: u64,
        to: u64,
        each: &mut dyn FnMut(u64, &[Range<u32>]) -> bool,
    ) -> Result<()> {
        if from < to {
            for ((_, block), data) in self.state.read().blocks.range((ino, from)..(ino, to)) {
                if !each(*block, &data.runs) {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Fills `out` with the bytes of a block from `off` on; holes read as zeros.
    pub(crate) fn read_block(&self, ino: Ino, block: u64, off: u32, out: &mut [u8]) -> Result<()> {
        debug_assert!(off as usize + out.len() <= BLOCK as usize);
        out.fill(0);
        let state = self.state.read();
        let stored = state.blocks.get(&(ino, block));
        let stored = stored.and_then(|b| b.bytes.get(off as usize..));
        for (to, from) in out.iter_mut().zip(stored.unwrap_or_default()) {
            *to = *from;
        }
        Ok(())
    }

    /// Makes the transaction visible and appends it to the open batch. It does not wait: see
    /// [`Store::wait`].
    pub(crate) fn commit(&self, tx: Tx<'_>) -> Result<Ticket> {
        self.check_writable()?;
        let mut state = self.state.write();
        for change in tx.changes {
            state.apply(change);
        }
        self.ops.fetch_add(1, Ordering::Relaxed);
        Ok(Ticket(()))
    }

    /// Waits, where the volume's durability demands it, until the transaction is on the disk. To
    /// be called without any lock.
    pub(crate) fn wait(&self, _ticket: Ticket) -> Result<()> {
        Ok(())
    }

    /// An inode number that was never given out.
    pub(crate) fn alloc_ino(&self) -> Ino {
        Ino(self.next_ino.fetch_add(1, Ordering::Relaxed))
    }

    /// Key of the hash of names.
    pub(crate) fn hash_key(&self) -> &[u8; 16] {
        &self.hash_key
    }

    /// The present.
    pub(crate) fn now(&self) -> Time {
        Time::from_unix_nanos(self.env.now())
    }

    /// Fails if the volume takes no changes.
    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.options.read_only {
            return Err(Error::ReadOnly("it was opened so".into()));
        }
        Ok(())
    }

    /// Fails if there is no space for `data` bytes of data, or if the files may not grow by
    /// `growth` bytes.
    pub(crate) fn reserve(&self, _data: u64, growth: u64) -> Result<()> {
        match self.options.limit {
            Some(limit) if growth > 0 => {
                let used = self.state.read().bytes.max(0) as u64;
                if used.saturating_add(growth) > limit {
                    return Err(Error::LimitReached);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Space of the volume.
    pub(crate) fn space(&self) -> Result<VolumeSpace> {
        let state = self.state.read();
        let total = self.options.limit.unwrap_or(1 << 40);
        Ok(VolumeSpace {
            total,
            free: total.saturating_sub(state.bytes.max(0) as u64),
            inodes: state.inodes.max(0) as u64,
        })
    }

    /// Everything committed before is durable on return.
    pub(crate) fn sync(&self) -> Result<()> {
        Ok(())
    }

    /// Calls `done` when everything committed before is durable.
    pub(crate) fn sync_then(&self, done: Box<dyn FnOnce(Result<()>) + Send>) {
        done(self.sync());
    }

    /// Makes everything durable without the journal.
    pub(crate) fn checkpoint(&self) -> Result<()> {
        Ok(())
    }

    /// One step of background work, except reaping, which is the namespace's.
    pub(crate) fn step(&self, _step: Step) -> Result<bool> {
        Ok(false)
    }

    /// Commits, checkpoints and marks the volume clean.
    pub(crate) fn close(&self) -> Result<()> {
        Ok(())
    }

    /// Counts since opening.
    pub(crate) fn stats(&self) -> Stats {
        Stats {
            ops: self.ops.load(Ordering::Relaxed),
            ..Stats::default()
        }
    }

    /// What the volume is.
    pub(crate) fn info(&self) -> Info {
        let state = self.state.read();
        Info {
            version: (1, 0),
            inodes: state.inodes.max(0) as u64,
            bytes: state.bytes.max(0) as u64,
            limit: self.options.limit,
            ..Info::default()
        }
    }

    /// What recovery found.
    pub(crate) fn recovery(&self) -> &RecoverySummary {
        &self.recovery
    }

    /// Compares two stores record by record, for tests.
    #[cfg(test)]
    pub(crate) fn keys(&self) -> Vec<Key> {
        let state = self.state.read();
        let blocks = state
            .blocks
            .keys()
            .map(|(i, b)| Key::extent(Branch::HEAD, *i, *b));
        state.records.keys().copied().chain(blocks).collect()
    }
}

/// The host's clock and randomness.
pub(crate) struct HostEnv;

#[expect(
    clippy::disallowed_methods,
    reason = "stands in for the environment of the host"
)]
impl Env for HostEnv {
    fn now(&self) -> u64 {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| d.as_nanos() as u64)
    }

    fn monotonic(&self) -> u64 {
        self.now()
    }

    fn random(&self) -> u64 {
        use std::hash::{BuildHasher, Hasher};
        std::hash::RandomState::new().build_hasher().finish()
    }
}
