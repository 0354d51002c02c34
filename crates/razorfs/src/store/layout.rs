//! Where the bytes of a block stand, for whoever wants to refer to the same frames.
//!
//! A frame that nothing refers to is given back some time after the flush that found so, and
//! nothing brings it back. Whoever makes a reference to a frame that another block shows has to be
//! sure that no flush lets go of it first:
//!
//! - Operations take it away under the lock of the block's inode, which the caller holds.
//! - A flush lets go of a frame that is still seen only where it moves it, and that is barred then
//!   ([`Core::check_frame`]), or where it writes a block of many pieces anew. That cannot happen to
//!   what is frozen if it has few pieces, and a block of which that is not certain is not
//!   [steady](Layout::is_steady).
//! - The memtable that is active is not being flushed; a transaction that is committed while it is
//!   active is part of the same flush. The [epoch](Layout::epoch) says which one it was, and
//!   [`Core::commit_in`] asks for it.
//!
//! So a reference that is committed was made while the frame was referred to, in the epoch of the
//! look or before, by something that the flush of that epoch sees too.

use std::sync::Arc;

use razorfs_format::key::Key;
use razorfs_format::layout::FileName;
use razorfs_format::record::{BLOCK, FragmentKind, Origin, PackRef};
use razorfs_format::{Branch, Epoch, Ino, Place};

use super::Core;
use super::read::{At, Sight, fill};
use crate::Result;
use crate::data::MAX_FRAGMENTS;
use crate::marks::{self, Mark};
use crate::tree::piece::Piece;

/// What the bytes of a run are.
pub(crate) enum What {
    /// Zeros, or reserved; nothing stored.
    Hole,
    /// In RAM or in a record.
    Bytes,
    /// In a frame whose reference has an origin.
    Shared(PackRef),
    /// In a frame that is this block's own; here the reference has the origin all the same.
    Own(PackRef),
}

/// A run of bytes of a block.
pub(crate) struct Run {
    /// Offset in the block.
    pub off: u32,
    /// Length, at least 1.
    pub len: u32,
    pub what: What,
}

/// The runs of a block.
pub(crate) struct Layout {
    /// In order, without gaps, and all of the block.
    pub runs: Vec<Run>,
    /// That of the active memtable.
    pub epoch: Epoch,
    /// No flush that has begun, or will of what is frozen, lets go of a frame that is seen here.
    pub is_steady: bool,
}

impl Core {
    /// Where the bytes of a block stand. Who is going to refer to the same frames holds the inode's
    /// lock, and looks at the present.
    pub fn layout_at(&self, at: &At, ino: Ino, block: u64) -> Result<Layout> {
        let key = Key::extent(Branch::HEAD, ino, block);
        self.with_sight(at, |sight| {
            let pieces = sight.pieces(&key)?;
            let mut holes = Vec::with_capacity(4);
            holes.push(0..BLOCK);
            let mut runs = Vec::with_capacity(pieces.len() + 2);
            let run = |part: std::ops::Range<u32>, what| Run {
                off: part.start,
                len: part.end - part.start,
                what,
            };
            for piece in &pieces {
                fill(&mut holes, &piece.range(), &mut |part| {
                    let what = what(piece, part.start, &key);
                    runs.push(run(part, what));
                    Ok(())
                })?;
            }
            runs.extend(holes.into_iter().map(|hole| run(hole, What::Hole)));
            runs.sort_unstable_by_key(|run| run.off);
            Ok(Layout {
                runs,
                epoch: sight.version.active.epoch,
                is_steady: sight.is_steady(&key)?,
            })
        })
    }
}

impl Core {
    /// Fails unless the frame that a block shows through `r`, which has its origin, is what `r`
    /// says: whoever makes another reference to it asks, for what is journaled must not name packs
    /// or frames that are not there, whatever the bytes on the disk say.
    pub fn check_frame(&self, r: &PackRef) -> Result<()> {
        let place = Place::new(FileName::Pack(r.pack), r.pos);
        if !self.ids.has_pack(r.pack) {
            return Err(place.error("frame", "a pack of the volume", r.pack).into());
        }
        if self.ids.is_barred(r.pack, r.pos) {
            marks::hit(Mark::CopyBarred);
            return Err(place
                .error("frame", "one that stays", "one that is moved")
                .into());
        }
        let now = self.version.load().active.epoch;
        if r.birth > now {
            let expected = format_args!("a birth in epoch {now} or before").to_string();
            return Err(place.error("frame", expected, r.birth).into());
        }
        self.reader.check_header(r)
    }
}

impl Sight<'_> {
    /// Whether no frozen memtable's flush writes the block anew. Each piece that is laid over a
    /// list makes it longer by two at most.
    fn is_steady(self, key: &Key) -> Result<bool> {
        let mut pieces = Vec::new();
        let active = &self.version.active;
        for (memtable, branch) in self.memtables().filter(|(m, _)| !Arc::ptr_eq(m, active)) {
            memtable.pieces(&key.on(branch), &mut pieces);
        }
        if pieces.is_empty() {
            return Ok(true);
        }
        Ok(self.base_extent(key)?.len() + 2 * pieces.len() <= MAX_FRAGMENTS)
    }
}

/// What a piece shows from `at` on.
fn what(piece: &Piece, at: u32, key: &Key) -> What {
    let Piece::Fixed(fragment) = piece else {
        return What::Bytes;
    };
    match &fragment.kind {
        FragmentKind::Hole | FragmentKind::Reserved => What::Hole,
        // Whoever reads what is lost is told.
        FragmentKind::Inline(_) | FragmentKind::Lost => What::Bytes,
        FragmentKind::Pack(r) => {
            let mut seen = r.clone();
            seen.skip += at - fragment.off;
            if r.origin.is_some() {
                return What::Shared(seen);
            }
            seen.origin = Some(Origin {
                branch: key.branch(),
                ino: key.ino(),
                block: key.second(),
                // Where the frame began in the block when it was written.
                offset: fragment.off.saturating_sub(r.skip),
            });
            What::Own(seen)
        }
    }
}
