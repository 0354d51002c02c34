//! Merging of sorted sources, and what of the versions of a key is kept.

use std::collections::VecDeque;
use std::sync::Arc;

use razorfs_format::key::{Key, Tag};
use razorfs_format::layout::FileName;
use razorfs_format::record::Held;
use razorfs_format::segment::filter_hash;
use razorfs_format::timeline::{Seen, Timeline};
use razorfs_format::{Epoch, Place, SegmentId};

use super::Record;
use super::segment_reader::{Cursor, Segment};
use crate::Result;

/// Records of segments passed their block's checksum; the place only names the table.
const SEGMENTS: Place = Place::new(FileName::Segment(SegmentId(0)), 0);

/// Segments in key order that do not overlap: a run of level 0, or a level.
pub(super) type Sorted = Arc<[Arc<Segment>]>;

/// Which records a source gives, and how it reads.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    /// The first key.
    pub(super) from: Key,
    /// One past the last key; `None`: to the end.
    pub(super) to: Option<Key>,
    /// Through the block cache.
    pub(super) cached: bool,
    /// Records that are older may be left out; 0: none.
    pub(super) after: Epoch,
    /// The hash that all keys of the range have, if they share one: filters are asked first.
    pub(super) hash: Option<u64>,
}

impl Bounds {
    /// From `from` up to `to`, which is not part of it.
    pub(super) fn range(from: &Key, to: &Key) -> Self {
        let hash = one_prefix(from, to).then(|| filter_hash(from));
        Self {
            from: *from,
            to: Some(*to),
            cached: true,
            after: Epoch(0),
            hash,
        }
    }

    /// Everything in `segments`, past the cache.
    pub(super) fn all(segments: &[Arc<Segment>]) -> Option<Self> {
        let from = segments.first()?.meta.first;
        Some(Self {
            from,
            to: None,
            cached: false,
            after: Epoch(0),
            hash: None,
        })
    }
}

impl Segment {
    /// Whether a list that has this segment at the beginning of a range has records of it, as far
    /// as its filter tells. Most often a name is looked for in a list that does not have it, and no
    /// cursor is needed to find that out.
    pub(super) fn may_overlap(&self, bounds: &Bounds) -> bool {
        match (bounds.hash, bounds.to) {
            (Some(hash), Some(to)) if self.meta.last >= to => {
                // Whoever reads on meets the error.
                self.file.may_hold(&bounds.from, hash).unwrap_or(true)
            }
            _ => true,
        }
    }
}

/// Whether all keys of the range have the prefix that filters know.
fn one_prefix(from: &Key, to: &Key) -> bool {
    use razorfs_format::segment::filter::filter_prefix;
    let (a, b) = (filter_prefix(from), filter_prefix(to));
    if a.len() == from.as_bytes().len() {
        return false;
    }
    if a == b {
        return true;
    }
    // The next prefix with nothing behind it is the end of this one.
    let mut carry = true;
    let next_is_b = a.len() == b.len()
        && a.iter().zip(b).rev().all(|(a, b)| {
            let (sum, over) = a.overflowing_add(u8::from(carry));
            carry = over;
            sum == *b
        });
    next_is_b && to.as_bytes().last() == Some(&0)
}

/// The records of a sorted list of segments, opened one after the other.
pub(super) struct Source {
    segments: Sorted,
    next: usize,
    bounds: Bounds,
    cursor: Option<Cursor>,
    done: bool,
}

impl Source {
    pub(super) fn new(segments: Sorted, bounds: Bounds) -> Self {
        let next = segments.partition_point(|s| s.meta.last < bounds.from);
        Self {
            segments,
            next,
            bounds,
            cursor: None,
            done: false,
        }
    }

    fn next_segment(&mut self) -> Result<bool> {
        let Some(segment) = self.segments.get(self.next) else {
            return Ok(false);
        };
        if self.bounds.to.is_some_and(|to| segment.meta.first >= to) {
            return Ok(false);
        }
        self.next += 1;
        let from = &self.bounds.from;
        if let Some(hash) = self.bounds.hash
            && !segment.file.may_hold(from, hash)?
        {
            // Were the rest of the range in later segments, this one's last key would be in it.
            return Ok(segment.meta.last < *from && self.next_segment()?);
        }
        let cursor = Cursor::new(Arc::clone(&segment.file), self.bounds.cached);
        let mut cursor = cursor.younger(self.bounds.after);
        if segment.meta.first < *from {
            cursor.seek(from)?;
        }
        self.cursor = Some(cursor);
        Ok(true)
    }

    fn next(&mut self) -> Result<Option<Record>> {
        while !self.done {
            if let Some(cursor) = &mut self.cursor {
                if let Some(record) = cursor.next_before(self.bounds.to.as_ref())? {
                    return Ok(Some(record));
                }
                self.cursor = None;
            }
            if !self.next_segment()? {
                break;
            }
        }
        self.done = true;
        self.cursor = None;
        Ok(None)
    }
}

/// All versions from several sources, by key and then newest first.
pub(super) struct Merge {
    /// Newest source first, each with the record it stands at.
    sources: Vec<(Source, Option<Record>)>,
    started: bool,
}

impl Merge {
    /// `sources` come newest first.
    pub(super) fn new(sources: impl Iterator<Item = Source>) -> Self {
        Self {
            sources: sources.map(|source| (source, None)).collect(),
            started: false,
        }
    }

    /// The next version.
    pub(super) fn next(&mut self) -> Result<Option<Record>> {
        if !self.started {
            self.started = true;
            for (source, head) in &mut self.sources {
                *head = source.next()?;
            }
            self.sources.retain(|(_, head)| head.is_some());
        }
        let mut best: Option<(usize, Key, Epoch)> = None;
        for (i, (_, head)) in self.sources.iter().enumerate() {
            if let Some(head) = head {
                let better = best.is_none_or(|(_, key, epoch)| {
                    head.key < key || (head.key == key && head.epoch > epoch)
                });
                if better {
                    best = Some((i, head.key, head.epoch));
                }
            }
        }
        let Some((i, ..)) = best else {
            return Ok(None);
        };
        let Some((source, head)) = self.sources.get_mut(i) else {
            return Ok(None);
        };
        let following = source.next()?;
        Ok(std::mem::replace(head, following))
    }
}

/// Of each key the versions that somebody can still see: the newest state, or a snapshot
/// ([`Timeline::is_seen`]). A tombstone that would be the oldest version kept says nothing more if
/// nothing older lies below, and is dropped. What is known of frames that snapshots hold is kept as
/// long as one of them does.
pub(super) struct Retain<'a> {
    merge: Merge,
    timeline: &'a Timeline,
    /// Whether records of a key can lie below.
    below: &'a dyn Fn(&Key) -> bool,
    /// The first version of the next key.
    ahead: Option<Record>,
    ready: VecDeque<Record>,
    seen: Seen,
    failed: bool,
}

impl<'a> Retain<'a> {
    pub(super) fn new(
        merge: Merge,
        timeline: &'a Timeline,
        below: &'a dyn Fn(&Key) -> bool,
    ) -> Self {
        Self {
            merge,
            timeline,
            below,
            ahead: None,
            ready: VecDeque::new(),
            seen: Seen::default(),
            failed: false,
        }
    }

    /// Whether somebody sees the version, which comes after all newer ones of its key.
    fn is_seen(&mut self, record: &Record) -> Result<bool> {
        if record.key.tag() == Tag::Held {
            // Written once, and never deleted: it goes when it says nothing any more.
            let Some(value) = &record.value else {
                return Ok(false);
            };
            let held = Held::decode(value, SEGMENTS)?;
            return Ok(self.timeline.is_held(held.birth, record.key.killed()));
        }
        Ok(self.seen.is_seen(self.timeline, record.epoch))
    }

    /// Gathers the versions of the next key; `false` at the end.
    fn gather(&mut self) -> Result<bool> {
        let first = match self.ahead.take() {
            Some(record) => Some(record),
            None => self.merge.next()?,
        };
        let Some(first) = first else {
            return Ok(false);
        };
        self.seen.clear();
        let key = first.key;
        let mut next = Some(first);
        while let Some(record) = next {
            if record.key != key {
                self.ahead = Some(record);
                break;
            }
            if self.is_seen(&record)? {
                self.ready.push_back(record);
            }
            next = self.merge.next()?;
        }
        let tombstone = |r: &Record| r.value.is_none();
        while self.ready.back().is_some_and(tombstone) && !(self.below)(&key) {
            self.ready.pop_back();
        }
        Ok(true)
    }
}

impl Iterator for Retain<'_> {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.failed {
                return None;
            }
            if let Some(record) = self.ready.pop_front() {
                return Some(Ok(record));
            }
            match self.gather() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(e) => {
                    self.failed = true;
                    return Some(Err(e));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use razorfs_format::{Branch, Ino};

    #[test]
    fn the_slots_of_one_name_hash_share_a_prefix() {
        let d = |cookie| Key::dirent(Branch::HEAD, Ino(7), cookie);
        assert!(one_prefix(&d(0x1200), &d(0x1300)));
        assert!(one_prefix(&d(0x1200), &d(0x12ff)));
        assert!(one_prefix(&d(0xff00), &d(0x1_0000)));
        assert!(!one_prefix(&d(0x1200), &d(0x1301)));
        assert!(!one_prefix(&d(0x1200), &d(0x1400)));
        assert!(!one_prefix(&d(0), &d(u64::MAX)));
        let i = |n| Key::inode(Branch::HEAD, Ino(n));
        assert!(!one_prefix(&i(1), &i(1)));
    }
}
