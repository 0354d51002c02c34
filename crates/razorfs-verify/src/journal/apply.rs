//! What a batch changes.

use razorfs_format::journal::BatchHeader;
use razorfs_format::key::{Key, Tag};
use razorfs_format::op::{Counter, Mutation, decode_ops};
use razorfs_format::pack::frame_end;
use razorfs_format::record::FragmentKind;
use razorfs_format::timeline::View;
use razorfs_format::{Branch, Epoch, Ino, Place};

use super::{Layer, Replay};
use crate::FindingKind as K;
use crate::session::Session;
use crate::view::Change;

impl Replay {
    /// Applies a batch that passed its checksums.
    pub(super) fn apply(
        &mut self,
        s: &mut Session<'_>,
        header: &BatchHeader,
        payload: &[u8],
        place: Place,
    ) {
        let ops = match decode_ops(payload, place) {
            Ok(ops) => ops,
            Err(e) => {
                s.find_bad(K::JournalBatchMeaning, &e);
                s.incomplete = true;
                return;
            }
        };
        if ops.len() as u64 != u64::from(header.n_ops) {
            let object = format!("{} batch {}", place.file, header.seq);
            let detail = format!("expected {} operations, got {}", header.n_ops, ops.len());
            s.find(K::JournalBatchMeaning, object, detail);
        }
        let mut points = Vec::new();
        for mutation in ops.into_iter().flat_map(|op| op.mutations) {
            if let Some(branch) = self.stranger(&mutation) {
                let object = format!("{} batch {}", place.file, header.seq);
                s.find(K::OtherBranch, object, format!("branch {branch}"));
            }
            match self.redo(mutation) {
                Ok(point) => points.extend(point),
                Err(why) => {
                    let object = format!("{} batch {}", place.file, header.seq);
                    s.find(K::JournalBatchMeaning, object, why);
                }
            }
        }
        if !points.is_empty()
            && let Err(why) = self.redo_points(points)
        {
            let object = format!("{} batch {}", place.file, header.seq);
            s.find(K::JournalBatchMeaning, object, why);
        }
    }

    /// What was done to the snapshots, as the last thing of a batch.
    fn redo_points(&mut self, points: Vec<Mutation>) -> Result<(), &'static str> {
        let (mut end, mut goes_back, mut next) = (Epoch(0), false, None);
        // Of the head before anything else is done.
        let head = self.timeline.head();
        for point in points {
            match point {
                Mutation::Begin { epoch, .. } => next = Some(epoch),
                Mutation::Fork(meta) => {
                    self.forks.insert(meta.id, (meta.inodes, meta.bytes));
                    if !self.timeline.fork(meta) {
                        return Err("a branch that goes on from nothing, or is there already");
                    }
                }
                Mutation::Prune { branch } => {
                    self.forks.remove(&branch);
                    if !self.timeline.prune(branch) {
                        return Err("the end of a branch that is not there");
                    }
                }
                Mutation::Take(snapshot) => {
                    if snapshot.branch == Branch::HEAD {
                        end = end.max(snapshot.epoch);
                    }
                    if self.timeline.line(snapshot.epoch).is_none() {
                        return Err("a snapshot of an epoch that is no part of the volume");
                    }
                    self.timeline.add(snapshot);
                }
                Mutation::Drop { id } => {
                    // It may have been released since.
                    self.timeline.give_up(id);
                }
                Mutation::Back {
                    branch,
                    id,
                    end: at,
                } => {
                    if branch == Branch::HEAD {
                        end = end.max(at);
                        goes_back = true;
                    }
                    let mut all = self.timeline.snapshots().iter();
                    let to = all.find(|s| s.id == id).cloned();
                    let to = to.ok_or("a rollback to a snapshot that is not there")?;
                    if !self.timeline.roll_back(branch, to.epoch, at) {
                        return Err("a rollback to what is not before it");
                    }
                    let (inodes, bytes) = self.counts_of(branch);
                    (*inodes, *bytes) = (to.inodes, to.bytes);
                }
                _ => {}
            }
        }
        if let Some(next) = next {
            return self.end_epochs(end, next, &head);
        }
        if end < self.begun {
            let passed = self.layer.changes.is_empty() || !goes_back;
            return passed
                .then_some(())
                .ok_or("a rollback in an epoch that has passed");
        }
        // Frames may be of a later epoch, of which nothing was left when the snapshot was taken.
        self.begun = end.next();
        let next = self.layer.epoch.max(self.begun);
        self.layer.epoch = end;
        self.cut_off(next);
        Ok(())
    }

    /// Where there are branches: all that was changed until now is older than epoch `next`, that of
    /// the head is of `end` if that has not passed.
    fn end_epochs(&mut self, end: Epoch, next: Epoch, head: &View) -> Result<(), &'static str> {
        if next < self.begun || self.layer.forks.values().any(|epoch| *epoch >= next) {
            return Err("an epoch of the head that has passed");
        }
        let following = next.max(self.layer.epoch);
        let newest = head.newest(Epoch(next.0.saturating_sub(1)));
        self.layer.epoch = match end >= self.begun {
            true => end,
            false => newest.unwrap_or(self.layer.epoch),
        };
        self.begun = next;
        self.cut_off(following);
        Ok(())
    }

    fn cut_off(&mut self, next: Epoch) {
        let layer = std::mem::replace(&mut self.layer, Layer::new(next));
        if !layer.changes.is_empty() {
            self.cut_off.push(layer);
        }
    }

    /// Inodes and bytes of a branch.
    fn counts_of(&mut self, branch: Branch) -> (&mut u64, &mut u128) {
        match branch {
            Branch::HEAD => (&mut self.counters.inodes, &mut self.counters.bytes),
            _ => {
                let (inodes, bytes) = self.forks.entry(branch).or_default();
                (inodes, bytes)
            }
        }
    }

    /// The branch that a mutation is of, if that has not begun.
    fn stranger(&self, mutation: &Mutation) -> Option<Branch> {
        let (Mutation::Put { key, .. } | Mutation::Del { key } | Mutation::Patch { key, .. }) =
            mutation
        else {
            return None;
        };
        let branch = key.branch();
        (branch != Branch::HEAD && !self.layer.forks.contains_key(&branch)).then_some(branch)
    }

    /// Answers what is to be done at the end of the batch.
    fn redo(&mut self, mutation: Mutation) -> Result<Option<Mutation>, &'static str> {
        match mutation {
            Mutation::Put { key, value, .. } => {
                if key.tag() == Tag::Inode {
                    self.saw_ino(key.ino());
                }
                self.layer.changes.insert(key, Change::Put(value));
            }
            Mutation::Del { key } => {
                self.layer.changes.insert(key, Change::Del);
            }
            Mutation::Patch { key, fragment } => {
                if let FragmentKind::Pack(frame) = &fragment.kind {
                    let end = self.frames.entry(frame.pack).or_default();
                    *end = (*end).max(frame_end(frame));
                    // A checkpoint that did not come to its end had begun another epoch.
                    self.layer.epoch = self.layer.epoch.max(frame.birth);
                }
                self.change(key).patch(fragment);
            }
            Mutation::Count {
                branch,
                counter,
                delta,
            } => self.count(branch, counter, delta),
            Mutation::Who { .. } => {}
            Mutation::Begin { branch, epoch } if branch != Branch::HEAD => {
                if !self.timeline.begin(branch, epoch) {
                    return Err("an epoch of a branch that is not there, or not new");
                }
                self.layer.forks.insert(branch, epoch);
            }
            Mutation::Take(_)
            | Mutation::Drop { .. }
            | Mutation::Back { .. }
            | Mutation::Fork(_)
            | Mutation::Prune { .. }
            | Mutation::Begin { .. } => return Ok(Some(mutation)),
        }
        Ok(None)
    }

    fn change(&mut self, key: Key) -> &mut Change {
        let untouched = || Change::Block {
            below: true,
            pieces: Vec::new(),
        };
        self.layer.changes.entry(key).or_insert_with(untouched)
    }

    fn count(&mut self, branch: Branch, counter: Counter, delta: i64) {
        let next = &mut self.counters.next_ino;
        if counter == Counter::NextIno {
            *next = Ino(next.0.saturating_add_signed(delta));
        }
        let (inodes, bytes) = self.counts_of(branch);
        match counter {
            Counter::Inodes => *inodes = inodes.saturating_add_signed(delta),
            Counter::Bytes => *bytes = bytes.saturating_add_signed(delta.into()),
            Counter::NextIno => {}
        }
    }
}
