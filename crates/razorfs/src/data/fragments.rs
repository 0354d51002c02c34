//! The fragments of one block: laying one over the others, and asking what is there.
//!
//! A list is sorted, its fragments do not overlap, and none of them is a hole: what no fragment
//! covers reads as zeros.

use std::ops::Range;

use razorfs_format::layout::FileName;
use razorfs_format::pack::frame_len;
use razorfs_format::record::{Fragment, FragmentKind, PackRef};
use razorfs_format::{Epoch, Ino, PackId, Place, SegmentId};

use crate::Error;

/// A block with more fragments than this is rewritten as one frame. A frame counts as a whole as
/// long as a part of it shows: what is written over by pages takes up to a sixth more.
pub const MAX_FRAGMENTS: usize = 12;

/// Neighbouring inline fragments are joined up to this many bytes, so that a log line by line
/// appended does not become a fragment a line.
const JOIN: u32 = 2048;

/// Lays `patch` over the list; a hole erases what it covers.
pub fn overlay(list: &mut Vec<Fragment>, patch: Fragment) {
    let (from, to) = (patch.off, patch.end());
    if from >= to {
        return;
    }
    let first = list.partition_point(|f| f.end() <= from);
    let last = list.partition_point(|f| f.off < to).max(first);
    let hit = list.get(first..last).unwrap_or_default();
    let left = hit
        .first()
        .filter(|f| f.off < from)
        .map(|f| part(f, f.off..from));
    let right = hit
        .last()
        .filter(|f| f.end() > to)
        .map(|f| part(f, to..f.end()));
    let patch = (patch.kind != FragmentKind::Hole).then_some(patch);
    let at = first + usize::from(left.is_some());
    list.splice(first..last, [left, patch, right].into_iter().flatten());
    // What came next to each other may be one: at the right end of the patch, then at the left.
    join(list, at);
    if let Some(before) = at.checked_sub(1) {
        join(list, before);
    }
}

/// The part of `f` that covers these bytes of the block.
fn part(f: &Fragment, range: Range<u32>) -> Fragment {
    debug_assert!(f.off <= range.start && range.end <= f.end() && !range.is_empty());
    let skip = range.start - f.off;
    let len = range.end - range.start;
    let kind = match &f.kind {
        FragmentKind::Hole => FragmentKind::Hole,
        FragmentKind::Reserved => FragmentKind::Reserved,
        FragmentKind::Lost => FragmentKind::Lost,
        FragmentKind::Inline(bytes) => FragmentKind::Inline(
            bytes
                .get(skip as usize..(skip + len) as usize)
                .unwrap_or_default()
                .into(),
        ),
        FragmentKind::Pack(r) => FragmentKind::Pack(PackRef {
            skip: r.skip + skip,
            ..r.clone()
        }),
    };
    Fragment {
        off: range.start,
        len,
        kind,
    }
}

/// Joins fragment `at` with the next one, if they touch and can be one.
fn join(list: &mut Vec<Fragment>, at: usize) {
    let Some([a, b]) = list
        .get_mut(at..)
        .and_then(|rest| rest.first_chunk_mut::<2>())
    else {
        return;
    };
    if a.end() != b.off {
        return;
    }
    match (&mut a.kind, &b.kind) {
        (FragmentKind::Reserved, FragmentKind::Reserved)
        | (FragmentKind::Lost, FragmentKind::Lost) => {}
        (FragmentKind::Inline(x), FragmentKind::Inline(y)) if a.len + b.len <= JOIN => {
            *x = [&**x, &**y].concat().into();
        }
        (FragmentKind::Pack(x), FragmentKind::Pack(y))
            if (x.pack, x.pos, &x.origin) == (y.pack, y.pos, &y.origin)
                && x.skip + a.len == y.skip => {}
        _ => return,
    }
    a.len += b.len;
    list.remove(at + 1);
}

/// The bytes of the block that fragments cover, reserved ones included and lost ones not;
/// neighbouring runs joined.
#[must_use]
pub fn covered(list: &[Fragment]) -> Vec<Range<u32>> {
    let mut runs: Vec<Range<u32>> = Vec::new();
    let bytes = |f: &&Fragment| !matches!(f.kind, FragmentKind::Hole | FragmentKind::Lost);
    for f in list.iter().filter(bytes) {
        match runs.last_mut() {
            Some(run) if run.end == f.off => run.end = f.end(),
            _ => runs.push(f.off..f.end()),
        }
    }
    runs
}

/// The answer to whoever reads a range that is lost.
pub fn lost_bytes(ino: Ino, block: u64, range: &Range<u32>) -> Error {
    let wanted = format!(
        "bytes {} to {} of block {block} of inode {ino}",
        range.start, range.end
    );
    // The segment that had them has gone, or will.
    let place = Place::new(FileName::Segment(SegmentId(0)), 0);
    let got = "a range whose record was damaged";
    place.error("extent", wanted, got).into()
}

/// How many bytes of the list are inline.
#[must_use]
pub fn inline_bytes(list: &[Fragment]) -> u32 {
    list.iter()
        .filter(|f| matches!(f.kind, FragmentKind::Inline(_)))
        .map(|f| f.len)
        .sum()
}

/// Whether the block has so many fragments that it should be rewritten as one frame.
#[must_use]
pub fn needs_rewrite(list: &[Fragment]) -> bool {
    list.len() > MAX_FRAGMENTS
}

/// Whether all bytes are zero, so that they need no frame.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<64>();
    chunks.iter().all(|c| *c == [0; 64]) && rest.iter().all(|b| *b == 0)
}

/// A frame that a list refers to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FrameUse {
    /// The pack.
    pub pack: PackId,
    /// Position of the frame's header.
    pub pos: u64,
    /// Bytes of the frame in the pack, header and padding included.
    pub bytes: u64,
    /// The epoch that wrote it.
    pub birth: Epoch,
    /// It is shared: the reference has an origin, and is counted in the tree.
    pub foreign: bool,
}

/// The frames that the list refers to, each once, ordered by pack and position.
pub fn frames_of(list: &[Fragment]) -> impl Iterator<Item = FrameUse> + use<> {
    let mut frames: Vec<FrameUse> = list
        .iter()
        .filter_map(|f| match &f.kind {
            FragmentKind::Pack(r) => Some(FrameUse {
                pack: r.pack,
                pos: r.pos,
                bytes: frame_len(r.stored_len),
                birth: r.birth,
                foreign: r.origin.is_some(),
            }),
            _ => None,
        })
        .collect();
    // One of both kinds would be a mistake, and then the frame had better be counted.
    frames.sort_unstable_by_key(|f| (f.pack, f.pos, !f.foreign));
    frames.dedup_by_key(|f| (f.pack, f.pos));
    frames.into_iter()
}

#[cfg(test)]
#[path = "fragments_tests.rs"]
mod fragments_tests;
