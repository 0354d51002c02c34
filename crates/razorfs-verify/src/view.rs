//! The records as a mount would show them: segments with the replayed journal over them.

use razorfs_format::key::{Key, Tag};
use razorfs_format::manifest::{Counters, SegmentMeta, SnapshotMeta};
use razorfs_format::record::{Extent, Fragment, FragmentKind, PackRef};
use razorfs_format::stream::{PART, RECEIVING};
use razorfs_format::timeline::{self, INTERNAL};
use razorfs_format::{Epoch, FormatError, Place};

use crate::journal::{Changes, Replay};
use crate::roots::Roots;
use crate::session::Session;
use crate::stream::{Merge, Record};

/// What the journal does to a record.
#[derive(Clone)]
pub enum Change {
    Put(Box<[u8]>),
    Del,
    /// Pieces are laid over a block, oldest first.
    Block {
        /// What the segments have shows through.
        below: bool,
        pieces: Vec<Fragment>,
    },
}

impl Change {
    /// What comes later is done as well.
    pub fn then(&mut self, later: &Self) {
        match later {
            Self::Block {
                below: true,
                pieces,
            } => pieces.iter().for_each(|piece| self.patch(piece.clone())),
            _ => *self = later.clone(),
        }
    }

    /// Lays one more piece over the block.
    pub fn patch(&mut self, fragment: Fragment) {
        match self {
            Self::Block { pieces, .. } => pieces.push(fragment),
            Self::Del | Self::Put(_) => {
                *self = Self::Block {
                    below: false,
                    pieces: vec![fragment],
                };
            }
        }
    }
}

/// A record of the view.
pub struct Found<'a> {
    pub key: Key,
    /// What the segments have.
    pub flushed: Option<&'a [u8]>,
    /// Which epoch that is of, a tombstone's included.
    pub epoch: Option<Epoch>,
    /// What the journal does to it.
    pub change: Option<&'a Change>,
}

impl<'a> Found<'a> {
    /// The value of a record that is no extent.
    pub fn value(&self) -> Option<&'a [u8]> {
        match self.change {
            None => self.flushed,
            Some(Change::Put(value)) => Some(value),
            Some(Change::Del | Change::Block { .. }) => None,
        }
    }

    /// The fragments of a block, given those that the segments have.
    pub fn fragments(
        &self,
        flushed: &[Fragment],
        place: Place,
    ) -> Result<Vec<Fragment>, FormatError> {
        Ok(match self.change {
            None => flushed.to_vec(),
            Some(Change::Put(value)) => Extent::decode(value, place)?.fragments,
            Some(Change::Del) => Vec::new(),
            Some(Change::Block { below, pieces }) => {
                let mut list = if *below { flushed.to_vec() } else { Vec::new() };
                for piece in pieces {
                    lay_over(&mut list, piece);
                }
                list
            }
        })
    }
}

/// Segments and journal together, as the head, a branch or a snapshot shows them.
pub struct View {
    segments: Vec<SegmentMeta>,
    changes: Changes,
    /// Which epochs it shows.
    sight: timeline::View,
    /// What the volume says of it.
    pub counters: Counters,
    /// A stream is being received, and this is what has come of it: not all inodes have names yet.
    pub is_part: bool,
}

impl View {
    /// The present.
    pub fn new(roots: &Roots, replay: &Replay) -> Self {
        let sight = replay.timeline.head();
        Self {
            segments: roots.manifest.segments.clone(),
            changes: replay.changes_in(&sight),
            sight,
            counters: replay.counters,
            is_part: replay.timeline.find(RECEIVING).is_some(),
        }
    }

    /// A branch.
    pub fn branch(roots: &Roots, replay: &Replay, fork: &timeline::Fork) -> Self {
        let id = fork.meta.id;
        let head = || replay.timeline.head();
        let sight = replay.timeline.view_of(id).unwrap_or_else(head);
        let (inodes, bytes) = replay.forks.get(&id).copied().unwrap_or_default();
        Self {
            segments: roots.manifest.segments.clone(),
            changes: replay.changes_in(&sight),
            sight,
            counters: Counters {
                inodes,
                bytes,
                ..replay.counters
            },
            // A merge is done in such a branch, and may have got half way; who opens the volume for
            // writing removes it.
            is_part: fork.meta.name.starts_with(INTERNAL.as_bytes()),
        }
    }

    /// A snapshot.
    pub fn of(roots: &Roots, replay: &Replay, snapshot: &SnapshotMeta) -> Self {
        let sight = replay.timeline.view(snapshot.epoch);
        Self {
            segments: roots.manifest.segments.clone(),
            changes: replay.changes_in(&sight),
            sight,
            counters: Counters {
                inodes: snapshot.inodes,
                bytes: snapshot.bytes,
                ..replay.counters
            },
            is_part: *snapshot.name == *PART,
        }
    }

    /// What the volume shows: the present, or what was before a stream that is being received.
    pub fn shown(roots: &Roots, replay: &Replay) -> Self {
        match replay.timeline.find(RECEIVING) {
            Some(before) => Self::of(roots, replay, before),
            None => Self::new(roots, replay),
        }
    }

    /// Which epochs it shows.
    pub const fn sight(&self) -> &timeline::View {
        &self.sight
    }

    /// The segments of a table.
    pub fn segments(&self, tag: Tag) -> Vec<SegmentMeta> {
        let segments = self.segments.iter().filter(|m| m.tag == tag);
        segments.copied().collect()
    }

    /// Calls `each` with every record of a table in the order of the keys, those included that
    /// only the segments or only the journal knows.
    pub fn scan(
        &self,
        s: &mut Session<'_>,
        tag: Tag,
        each: &mut dyn FnMut(&mut Session<'_>, Found<'_>),
    ) {
        let mut merge = Merge::new(self.segments(tag), Some(self.sight.clone()));
        let mut changes = self
            .changes
            .iter()
            .filter(|(key, _)| key.tag() == tag)
            .peekable();
        let mut record = merge.next(s);
        loop {
            let change = changes.peek().map(|(key, _)| **key);
            let key = match (&record, change) {
                (None, None) => return,
                (Some(r), None) => r.key,
                (None, Some(key)) => key,
                (Some(r), Some(key)) => r.key.min(key),
            };
            let flushed = record.take_if(|r: &mut Record| r.key == key);
            let found = Found {
                key,
                epoch: flushed.as_ref().map(|r| r.epoch),
                flushed: flushed.as_ref().and_then(|r| r.value.as_deref()),
                change: changes
                    .next_if(|(k, _)| **k == key)
                    .map(|(_, change)| change),
            };
            each(s, found);
            if record.is_none() {
                record = merge.next(s);
            }
        }
    }
}

/// Lays a piece over a sorted list without overlaps; a hole erases.
pub fn lay_over(list: &mut Vec<Fragment>, piece: &Fragment) {
    let mut result = Vec::with_capacity(list.len() + 2);
    let mut rest = Vec::new();
    for fragment in list.drain(..) {
        result.extend(part(&fragment, fragment.off, fragment.end().min(piece.off)));
        rest.extend(part(
            &fragment,
            fragment.off.max(piece.end()),
            fragment.end(),
        ));
    }
    if piece.kind != FragmentKind::Hole {
        result.push(piece.clone());
    }
    result.extend(rest);
    *list = result;
}

/// The bytes `from..to` of a block out of a fragment that holds them.
pub fn part(fragment: &Fragment, from: u32, to: u32) -> Option<Fragment> {
    let len = to.checked_sub(from).filter(|len| *len > 0)?;
    let skip = from.checked_sub(fragment.off)?;
    let kind = match &fragment.kind {
        FragmentKind::Hole => FragmentKind::Hole,
        FragmentKind::Reserved => FragmentKind::Reserved,
        FragmentKind::Lost => FragmentKind::Lost,
        FragmentKind::Inline(bytes) => {
            let bytes = bytes.get(skip as usize..skip as usize + len as usize)?;
            FragmentKind::Inline(bytes.into())
        }
        FragmentKind::Pack(r) => FragmentKind::Pack(PackRef {
            skip: r.skip.saturating_add(skip),
            ..r.clone()
        }),
    };
    Some(Fragment {
        off: from,
        len,
        kind,
    })
}
