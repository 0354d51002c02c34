//! The journal's way into memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use razorfs_disk::Disk;
use razorfs_format::key::Key;
use razorfs_format::layout::FileName;
use razorfs_format::manifest::Manifest;
use razorfs_format::op::{Mutation, decode_ops};
use razorfs_format::pack;
use razorfs_format::record::{FragmentKind, PackRef};
use razorfs_format::superblock::Superblock;
use razorfs_format::timeline::Timeline;
use razorfs_format::{BatchSeq, Branch, Epoch, Ino, Lsn, PackId, Place, VolumeId};

use super::config;
use crate::journal::{Batch, RecoveryReport, Ring};
use crate::marks::{self, Mark};
use crate::parity::{Healer, Host};
use crate::store::{Core, CountersAt, Frozen, Left, Point};
use crate::tree::memtable::Memtable;
use crate::tree::{BlockCache, Levels};
use crate::{Options, Result};

/// The journal's way into a memtable.
pub(super) struct Replay {
    pub host: Host,
    vid: VolumeId,
    pub memtable: Memtable,
    /// The first epoch that what is in it can be of; its own one is the last.
    begun: Epoch,
    /// What snapshots in the journal cut off, newest first.
    pub frozen: Vec<Arc<Frozen>>,
    pub levels: Levels,
    pub timeline: Timeline,
    pub counters: CountersAt,
    /// Ends of the journaled frames of each pack.
    pub frames: BTreeMap<PackId, u64>,
    /// Packs that what is to be done again refers to.
    pub awaited: BTreeSet<PackId>,
}

impl Replay {
    pub fn new(
        superblock: &Superblock,
        manifest: &Manifest,
        options: &Options,
        disk: &Arc<dyn Disk>,
    ) -> Self {
        let vid = superblock.vid();
        let cache = Arc::new(BlockCache::new(options.cache_bytes));
        let parity = config::parity_shard(&superblock.geometry).is_some();
        let host = Host {
            disk: Arc::clone(disk),
            healer: parity.then(|| Arc::new(Healer::new(vid))),
        };
        let levels = Levels::open(host.clone(), vid, cache, manifest.segments.clone());
        let forks = manifest.timeline.forks().list.iter();
        let counters = CountersAt {
            inodes: manifest.counters.inodes,
            bytes: manifest.counters.bytes,
            next_ino: manifest.counters.next_ino,
            lsn: manifest.counters.lsn,
            forks: forks
                .map(|f| (f.meta.id, (f.meta.inodes, f.meta.bytes)))
                .collect(),
        };
        let begun = manifest.counters.epoch.next();
        Self {
            host,
            vid,
            memtable: Memtable::new(begun),
            begun,
            frozen: Vec::new(),
            levels,
            timeline: Timeline::clone(&manifest.timeline),
            counters,
            frames: BTreeMap::new(),
            awaited: BTreeSet::new(),
        }
    }

    pub fn run(
        &mut self,
        superblock: &Superblock,
        end: Option<BatchSeq>,
        read_only: bool,
        agree: &mut dyn FnMut(&RecoveryReport) -> Result<()>,
    ) -> Result<(Option<Ring>, RecoveryReport)> {
        let (disk, vid) = (Arc::clone(&self.host.disk), self.vid);
        let (geometry, start) = (superblock.geometry.journal, superblock.journal);
        let mut apply = |batch: &Batch| self.apply(batch);
        if read_only {
            let report = Ring::open_read_only(disk, vid, geometry.copies, start, end, &mut apply)?;
            agree(&report)?;
            return Ok((None, report));
        }
        let (ring, report) = Ring::recover(disk, vid, geometry, start, end, &mut apply, agree)?;
        Ok((Some(ring), report))
    }

    /// Whether there is a tree at all.
    pub fn has_root(&self) -> Result<bool> {
        let key = Key::inode(Branch::HEAD, Ino::ROOT);
        let frozen = self.frozen.iter().map(|f| &*f.memtable);
        let view = self.timeline.head();
        let seen = std::iter::once(&self.memtable).chain(frozen);
        for memtable in seen.filter(|m| view.sees(m.epoch)) {
            if let Some(root) = memtable.get(&key) {
                return Ok(root.is_some());
            }
        }
        let record = self.levels.get(&key, &view)?;
        Ok(record.is_some_and(|r| r.value.is_some()))
    }

    /// A frame that is referred to.
    fn refer(&mut self, frame: &PackRef) {
        let end = self.frames.entry(frame.pack).or_default();
        *end = (*end).max(pack::frame_end(frame));
        // A checkpoint that did not come to its end had begun another epoch.
        self.memtable.epoch = self.memtable.epoch.max(frame.birth);
    }

    /// What is to be done after the journal's: a frame may have been placed by a batch that never
    /// got to the journal and be referred to by the next.
    pub fn adopt(&mut self, left: Left) -> Left {
        for frame in left.frames() {
            self.refer(frame);
            self.awaited.insert(frame.pack);
        }
        let made = left.made().map(Ino::next);
        let next = &mut self.counters.next_ino;
        *next = made.fold(*next, Ord::max);
        left
    }

    fn apply(&mut self, batch: &Batch) -> Result<()> {
        // The batch passed its checksums; the place names the journal for what they cannot catch.
        let place = Place::new(FileName::Journal(0), 0);
        let mut points = Vec::new();
        for op in decode_ops(&batch.payload, place)? {
            for mutation in op.mutations {
                points.extend(Point::of(&mutation));
                if let Mutation::Patch { fragment, .. } = &mutation
                    && let FragmentKind::Pack(frame) = &fragment.kind
                {
                    self.refer(frame);
                }
                if let Mutation::Begin { branch, epoch } = &mutation
                    && *branch != Branch::HEAD
                {
                    self.begin(*branch, *epoch, place)?;
                }
                self.check_begun(&mutation, place)?;
                Core::redo(&self.memtable, mutation, &mut self.counters);
            }
        }
        self.counters.lsn = Lsn(batch.first_lsn.0.saturating_add(batch.n_ops.into()));
        if !points.is_empty() {
            let what = format!("{points:?}");
            let done = self.redo_points(batch.seq.next(), points);
            done.map_err(|why| place.error("journal", why, what))?;
        }
        Ok(())
    }

    /// Fails if something is of a branch that has no epoch in this memtable: it would be of none,
    /// and nobody would see it.
    fn check_begun(&self, mutation: &Mutation, place: Place) -> Result<()> {
        let (Mutation::Put { key, .. } | Mutation::Del { key } | Mutation::Patch { key, .. }) =
            mutation
        else {
            return Ok(());
        };
        let branch = key.branch();
        match self.memtable.epoch_of(branch) {
            Some(_) => Ok(()),
            None => {
                let got = format_args!("{key:?} of branch {branch}").to_string();
                Err(place
                    .error("journal", "a record of a branch that has begun", got)
                    .into())
            }
        }
    }

    /// A branch writes in an epoch from here on.
    fn begin(&mut self, branch: Branch, epoch: Epoch, place: Place) -> Result<()> {
        if !self.timeline.begin(branch, epoch) {
            let got = format_args!("{epoch} of branch {branch}").to_string();
            return Err(place.error("journal", "an epoch that is new", got).into());
        }
        // A memtable of the head that was frozen before may be a part of this one: then branches
        // have epochs between that one's and what the head has now, which must be its newest.
        let before = Epoch(epoch.0.saturating_sub(1));
        let newest = self.timeline.head().newest(before);
        let head = &mut self.memtable.epoch;
        *head = newest.map_or(*head, |newest| newest.max(*head));
        Ok(())
    }

    /// What was done to the snapshots, as the last thing of the batch before `cut`.
    fn redo_points(
        &mut self,
        cut: BatchSeq,
        points: Vec<Point>,
    ) -> std::result::Result<(), &'static str> {
        let (mut end, mut goes_back, mut next) = (Epoch(0), false, None);
        for point in &points {
            match point {
                Point::Take(taken) if taken.branch == Branch::HEAD => end = end.max(taken.epoch),
                Point::Back {
                    branch: Branch::HEAD,
                    end: at,
                    ..
                } => {
                    end = end.max(*at);
                    goes_back = true;
                }
                Point::Next(epoch) => next = Some(*epoch),
                _ => {}
            }
        }
        if let Some(next) = next {
            return self.end_epochs(cut, points, end, next);
        }
        for point in points {
            point.redo(&mut self.timeline, &mut self.counters)?;
        }
        if end < self.begun {
            // What is in the memtable came later, and a snapshot does not show it.
            let passed = self.memtable.is_empty() || !goes_back;
            return passed
                .then_some(())
                .ok_or("a rollback in an epoch that has passed");
        }
        // Frames may be of a later epoch, of which nothing was left when the snapshot was taken.
        self.begun = end.next();
        let next = self.begun.max(self.memtable.epoch);
        self.memtable.epoch = end;
        self.freeze(cut, next);
        Ok(())
    }

    /// Whatever is in the memtable is older than epoch `next`, of branches too, and of the head it
    /// is of epoch `end` if that has not passed.
    fn end_epochs(
        &mut self,
        cut: BatchSeq,
        points: Vec<Point>,
        end: Epoch,
        next: Epoch,
    ) -> std::result::Result<(), &'static str> {
        let newest = self.timeline.head().newest(Epoch(next.0.saturating_sub(1)));
        if self.memtable.writers().iter().skip(1).any(|w| w.1 >= next) || next < self.begun {
            return Err("an epoch of the head that has passed");
        }
        for point in points {
            point.redo(&mut self.timeline, &mut self.counters)?;
        }
        if self.memtable.has_forks() {
            marks::hit(Mark::RecoveryEpochs);
        }
        let following = next.max(self.memtable.epoch);
        self.memtable.epoch = match end >= self.begun {
            true => end,
            false => newest.unwrap_or(self.memtable.epoch),
        };
        self.begun = next;
        self.freeze(cut, following);
        Ok(())
    }

    /// What is in the memtable is complete; what follows is of epoch `next` or a later one.
    fn freeze(&mut self, cut: BatchSeq, next: Epoch) {
        let next = Memtable::new(next);
        let memtable = std::mem::replace(&mut self.memtable, next);
        if !memtable.is_empty() {
            marks::hit(Mark::RecoverySnapshot);
            let frozen = Frozen {
                memtable: Arc::new(memtable),
                cut,
                counters: self.counters.clone(),
                timeline: Arc::new(self.timeline.clone()),
            };
            self.frozen.insert(0, Arc::new(frozen));
        }
    }
}
