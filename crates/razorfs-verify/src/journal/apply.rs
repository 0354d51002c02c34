//! What a batch changes.

use razorfs_format::journal::BatchHeader;
use razorfs_format::key::{Key, Tag};
use razorfs_format::op::{Counter, Mutation, decode_ops};
use razorfs_format::pack::frame_end;
use razorfs_format::record::FragmentKind;
use razorfs_format::{Epoch, Ino, Place};

use super::Replay;
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
            points.extend(self.redo(mutation));
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
        let (mut end, mut goes_back) = (Epoch(0), false);
        for point in points {
            match point {
                Mutation::Take(snapshot) => {
                    end = end.max(snapshot.epoch);
                    if self.timeline.line(snapshot.epoch).is_none() {
                        return Err("a snapshot of an epoch that is no part of the volume");
                    }
                    self.timeline.add(snapshot);
                }
                Mutation::Drop { id } => {
                    // It may have been released since.
                    self.timeline.give_up(id);
                }
                Mutation::Back { id, end: at } => {
                    end = end.max(at);
                    goes_back = true;
                    let mut all = self.timeline.snapshots().iter();
                    let to = all.find(|s| s.id == id).cloned();
                    let to = to.ok_or("a rollback to a snapshot that is not there")?;
                    if !self.timeline.roll_back(to.epoch, at) {
                        return Err("a rollback to what is not before it");
                    }
                    (self.counters.inodes, self.counters.bytes) = (to.inodes, to.bytes);
                }
                _ => {}
            }
        }
        if end < self.begun {
            let passed = self.changes.is_empty() || !goes_back;
            return passed
                .then_some(())
                .ok_or("a rollback in an epoch that has passed");
        }
        // Frames may be of a later epoch, of which nothing was left when the snapshot was taken.
        self.begun = end.next();
        self.epoch = self.epoch.max(self.begun);
        let changes = std::mem::take(&mut self.changes);
        if !changes.is_empty() {
            self.cut_off.push((end, changes));
        }
        Ok(())
    }

    /// Answers what is to be done at the end of the batch.
    fn redo(&mut self, mutation: Mutation) -> Option<Mutation> {
        match mutation {
            Mutation::Put { key, value, .. } => {
                if key.tag() == Tag::Inode {
                    self.saw_ino(key.ino());
                }
                self.changes.insert(key, Change::Put(value));
            }
            Mutation::Del { key } => {
                self.changes.insert(key, Change::Del);
            }
            Mutation::Patch { key, fragment } => {
                if let FragmentKind::Pack(frame) = &fragment.kind {
                    let end = self.frames.entry(frame.pack).or_default();
                    *end = (*end).max(frame_end(frame));
                    // A checkpoint that did not come to its end had begun another epoch.
                    self.epoch = self.epoch.max(frame.birth);
                }
                self.change(key).patch(fragment);
            }
            Mutation::Count { counter, delta } => self.count(counter, delta),
            Mutation::Who { .. } => {}
            Mutation::Take(_) | Mutation::Drop { .. } | Mutation::Back { .. } => {
                return Some(mutation);
            }
        }
        None
    }

    fn change(&mut self, key: Key) -> &mut Change {
        let untouched = || Change::Block {
            below: true,
            pieces: Vec::new(),
        };
        self.changes.entry(key).or_insert_with(untouched)
    }

    fn count(&mut self, counter: Counter, delta: i64) {
        let c = &mut self.counters;
        match counter {
            Counter::Inodes => c.inodes = c.inodes.saturating_add_signed(delta),
            Counter::Bytes => c.bytes = c.bytes.saturating_add_signed(delta.into()),
            Counter::NextIno => c.next_ino = Ino(c.next_ino.0.saturating_add_signed(delta)),
        }
    }
}
