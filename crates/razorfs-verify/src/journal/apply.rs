//! What a batch changes.

use razorfs_format::journal::BatchHeader;
use razorfs_format::key::{Key, Tag};
use razorfs_format::op::{Counter, Mutation, decode_ops};
use razorfs_format::pack::frame_end;
use razorfs_format::record::FragmentKind;
use razorfs_format::{Ino, Place};

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
        for mutation in ops.into_iter().flat_map(|op| op.mutations) {
            self.redo(mutation);
        }
    }

    fn redo(&mut self, mutation: Mutation) {
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
                }
                self.change(key).patch(fragment);
            }
            Mutation::Count { counter, delta } => self.count(counter, delta),
            Mutation::Who { .. } => {}
        }
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
