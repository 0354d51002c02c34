//! What a flush changes in the references to frames.
//!
//! A frame has either one own reference, or any number of shared ones, which all carry its origin
//! and which a record of the tree counts. All blocks of a flush are looked at before anything is
//! concluded: sharing takes the own reference of one block and gives shared ones to two, so what
//! one block loses may be what another has got.

use std::collections::BTreeMap;
use std::ops::Range;

use razorfs_format::PackId;
use razorfs_format::record::{Fragment, Shared};

use super::fragments::frames_of;
use crate::Result;

/// References of one kind to one frame in the blocks that a flush changes.
#[derive(Clone, Copy, Debug, Default)]
struct Refs {
    before: u64,
    after: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Change {
    bytes: u64,
    own: Refs,
    shared: Refs,
}

/// The references of a flush, as its blocks are replaced.
#[derive(Debug, Default)]
pub struct Turnover {
    frames: BTreeMap<(PackId, u64), Change>,
}

/// What came of it: for the account of the packs, and for the tree.
#[derive(Clone, Debug, Default)]
pub struct Settled {
    /// Frames that something refers to now and nothing did before: pack, bytes.
    pub(super) born: Vec<(PackId, u64)>,
    /// Frames that nothing refers to any more.
    pub(super) died: Vec<(PackId, Range<u64>)>,
    /// New counts of shared frames by pack and position, in order; none where it became 0.
    pub counts: Vec<(PackId, u64, Option<Shared>)>,
}

impl Settled {
    /// Whether a frame lost its last reference.
    pub fn any_died(&self) -> bool {
        !self.died.is_empty()
    }
}

impl Turnover {
    /// One block's list is replaced by another.
    pub fn note(&mut self, before: &[Fragment], after: &[Fragment]) {
        for (list, is_after) in [(before, false), (after, true)] {
            for f in frames_of(list) {
                let change = self.frames.entry((f.pack, f.pos)).or_default();
                debug_assert!(change.bytes == 0 || change.bytes == f.bytes);
                // What they say differently is damaged; too little debited does no harm.
                change.bytes = match change.bytes {
                    0 => f.bytes,
                    known => known.min(f.bytes),
                };
                let refs = match f.foreign {
                    true => &mut change.shared,
                    false => &mut change.own,
                };
                *if is_after {
                    &mut refs.after
                } else {
                    &mut refs.before
                } += 1;
            }
        }
        // A block that keeps its references says nothing new; most of what changes is new frames.
        for f in frames_of(before) {
            let same =
                |c: &Change| c.own.before == c.own.after && c.shared.before == c.shared.after;
            if self.frames.get(&(f.pack, f.pos)).is_some_and(same) {
                self.frames.remove(&(f.pack, f.pos));
            }
        }
    }

    /// Concludes. `counted` answers the record that the tree has of a frame, below the flush.
    pub fn settle(
        self,
        mut counted: impl FnMut(PackId, u64) -> Result<Option<Shared>>,
    ) -> Result<Settled> {
        let mut settled = Settled::default();
        for ((pack, pos), change) in self.frames {
            let Change { bytes, own, shared } = change;
            let is_new = own.before == 0 && shared.before == 0 && shared.after == 0;
            let was = match is_new {
                true => 0,
                false => counted(pack, pos)?.map_or(0, |s| s.count),
            };
            debug_assert!(shared.before <= was, "a shared reference was not counted");
            // Rather a frame that stays for ever than one that goes too early.
            let now = was.saturating_add(shared.after).checked_sub(shared.before);
            let now = now.unwrap_or(1);
            debug_assert!(
                own.after == 0 || now == 0,
                "a shared frame has an own reference"
            );
            let needed = |own: u64, shared: u64| own > 0 || shared > 0;
            match (needed(own.before, was), needed(own.after, now)) {
                (false, true) => settled.born.push((pack, bytes)),
                (true, false) => {
                    let frame = pos..pos.saturating_add(bytes);
                    settled.died.push((pack, frame));
                }
                _ => {}
            }
            if now != was {
                let count = now;
                let record = (now > 0).then_some(Shared { count, bytes });
                settled.counts.push((pack, pos, record));
            }
        }
        Ok(settled)
    }
}
