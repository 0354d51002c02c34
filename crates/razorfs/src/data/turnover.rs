//! What a flush changes in the references to frames.
//!
//! A frame has either one own reference, or any number of shared ones, which all carry its origin
//! and which a record of the tree counts. All blocks of a flush are looked at before anything is
//! concluded: sharing takes the own reference of one block and gives shared ones to two, so what
//! one block loses may be what another has got.
//!
//! A count that cannot be read, or that is too low for what goes, says nothing of what is left.
//! Then the frame stays for ever ([`Shared::KEPT`]): nothing is credited or debited for it any
//! more, and the record that says so lies over the damaged one: later flushes need not read that.

use std::collections::BTreeMap;
use std::ops::Range;

use razorfs_format::record::{Fragment, Held, Shared};
use razorfs_format::{Epoch, PackId};

use super::fragments::frames_of;
use crate::Result;

/// References of one kind to one frame in the blocks that a flush changes.
#[derive(Clone, Copy, Debug, Default)]
struct Refs {
    before: u64,
    after: u64,
}

#[derive(Clone, Copy, Debug)]
struct Change {
    /// What the references say of its bytes, the least and the most; they agree unless they are
    /// damaged.
    least: u64,
    most: u64,
    /// The epoch that wrote it.
    birth: Epoch,
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
    /// Frames that nothing but a snapshot refers to any more: pack and position.
    pub held: Vec<(PackId, u64, Held)>,
    /// New counts of shared frames by pack and position, in order; none where it became 0.
    pub counts: Vec<(PackId, u64, Option<Shared>)>,
}

impl Settled {
    /// Of frames that nothing refers to any more, since what held them has gone.
    pub fn released(died: Vec<(PackId, Range<u64>)>) -> Self {
        Self {
            died,
            ..Self::default()
        }
    }

    /// And what came of another part of the same flush, as far as the packs are concerned.
    pub fn add(&mut self, other: &Self) {
        self.born.extend_from_slice(&other.born);
        self.died.extend_from_slice(&other.died);
    }

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
                let change = self.frames.entry((f.pack, f.pos)).or_insert(Change {
                    least: f.bytes,
                    most: f.bytes,
                    birth: f.birth,
                    own: Refs::default(),
                    shared: Refs::default(),
                });
                change.least = change.least.min(f.bytes);
                change.most = change.most.max(f.bytes);
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

    /// Concludes. What was born up to epoch `newest`, that of a snapshot, is held by that.
    /// `counted` answers the record that the tree has of a frame, below the flush.
    pub fn settle(
        self,
        newest: Option<Epoch>,
        mut counted: impl FnMut(PackId, u64) -> Result<Option<Shared>>,
    ) -> Result<Settled> {
        let mut settled = Settled::default();
        let (mut kept, mut why) = (0, None);
        for ((pack, pos), change) in self.frames {
            let Change { own, shared, .. } = change;
            let is_new = own.before == 0 && shared.before == 0 && shared.after == 0;
            let known = match is_new {
                true => Some(0),
                false => match counted(pack, pos) {
                    Ok(record) => Some(record.map_or(0, |s| s.count)),
                    // What has an own reference is not shared.
                    Err(e) if e.is_loss() && own.before > 0 && shared.before == 0 => Some(0),
                    Err(e) if e.is_loss() => {
                        why = Some(e);
                        None
                    }
                    Err(e) => return Err(e),
                },
            };
            let was = known.unwrap_or(0).max(shared.before);
            let now = match known.and_then(|count| count.checked_sub(shared.before)) {
                Some(rest) if was < Shared::KEPT => rest.saturating_add(shared.after),
                _ => Shared::KEPT,
            };
            kept += u64::from(now == Shared::KEPT && was != now);
            let needed = |own: u64, shared: u64| own > 0 || shared > 0;
            // Rather too much credited, and too little debited.
            match (needed(own.before, was), needed(own.after, now)) {
                (false, true) => settled.born.push((pack, change.most)),
                (true, false) if newest.is_some_and(|newest| change.birth <= newest) => {
                    let (birth, bytes) = (change.birth, change.least);
                    settled.held.push((pack, pos, Held { birth, bytes }));
                }
                (true, false) => {
                    let frame = pos..pos.saturating_add(change.least);
                    settled.died.push((pack, frame));
                }
                _ => {}
            }
            if known != Some(now) {
                let (count, bytes) = (now, change.least);
                let record = (now > 0).then_some(Shared { count, bytes });
                settled.counts.push((pack, pos, record));
            }
        }
        if kept > 0 {
            let why = why.map_or_else(|| "they are counted too low".into(), |e| e.to_string());
            tracing::warn!(frames = kept, "shared frames stay for ever: {why}");
        }
        Ok(settled)
    }
}
