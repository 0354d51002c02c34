//! What lies over one block of a file in a memtable: pieces, oldest first.
//!
//! A write becomes a piece in RAM that belongs to the open batch and may still grow, shrink or be
//! cut by later operations of that batch. When the batch is sealed the piece never changes again;
//! it is then journaled inline, or placed as a frame of a pack and replaced by its reference.

use std::ops::Range;
use std::sync::Arc;

use razorfs_format::BatchSeq;
use razorfs_format::key::Key;
use razorfs_format::record::{BLOCK, Fragment, FragmentKind};

use crate::sync::RwLock;
use crate::sync::atomic::{AtomicBool, Ordering};

/// The bytes of a piece in RAM.
#[derive(Default)]
pub(crate) struct RamBytes {
    /// Offset in the block.
    pub off: u32,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl RamBytes {
    fn range(&self) -> Range<u32> {
        self.off..self.off + self.bytes.len() as u32
    }
}

/// A written run of bytes that is not in a pack (yet).
pub(crate) struct RamPiece {
    /// The block.
    pub key: Key,
    /// The batch that it belongs to; only while that is open may the bytes change.
    pub batch: BatchSeq,
    /// The bytes.
    pub data: RwLock<RamBytes>,
    /// Removed or covered before its batch was sealed: never to be journaled.
    dead: AtomicBool,
    /// Journaled inline: it stays in RAM until the memtable is flushed.
    journaled: AtomicBool,
}

impl RamPiece {
    fn new(key: Key, batch: BatchSeq, off: u32, bytes: Vec<u8>) -> Arc<Self> {
        let data = RwLock::new(RamBytes { off, bytes });
        let (dead, journaled) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self {
            key,
            batch,
            data,
            dead,
            journaled,
        })
    }

    fn kill(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    /// Its bytes are in the journal.
    pub fn set_journaled(&self) {
        self.journaled.store(true, Ordering::Release);
    }

    /// Whether it must not be journaled.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }
}

/// One layer over a block.
#[derive(Clone)]
pub(crate) enum Piece {
    /// Journaled, in its final form.
    Fixed(Arc<Fragment>),
    /// In RAM: of the open batch, in flight, or journaled inline.
    Ram(Arc<RamPiece>),
}

impl Piece {
    /// Which bytes of the block it covers.
    pub fn range(&self) -> Range<u32> {
        match self {
            Self::Fixed(f) => f.off..f.end(),
            Self::Ram(p) => p.data.read().range(),
        }
    }

    /// The fragment that it is in an extent record. Only for pieces of sealed batches.
    pub fn to_fragment(&self) -> Fragment {
        match self {
            Self::Fixed(f) => (**f).clone(),
            Self::Ram(p) => {
                let data = p.data.read();
                Fragment {
                    off: data.off,
                    len: data.bytes.len() as u32,
                    kind: FragmentKind::Inline(data.bytes.as_slice().into()),
                }
            }
        }
    }

    fn open(&self, batch: BatchSeq) -> Option<&Arc<RamPiece>> {
        match self {
            Self::Ram(p) if p.batch == batch => Some(p),
            _ => None,
        }
    }
}

/// What a memtable knows of one block.
pub(crate) struct Block {
    /// Whether the layers below show through where no piece lies.
    pub below: bool,
    /// Whether the block cannot exist in the layers below at all.
    pub fresh: bool,
    /// The pieces, oldest first.
    pub pieces: Vec<Piece>,
}

fn overlaps(a: &Range<u32>, b: &Range<u32>) -> bool {
    a.start < b.end && b.start < a.end
}

/// More pieces than this are merged where they follow each other.
const MANY: usize = 64;

impl Block {
    /// A block that a memtable did not know before.
    pub fn new(fresh: bool) -> Self {
        Self {
            below: !fresh,
            fresh,
            pieces: Vec::new(),
        }
    }

    /// Lays written bytes over the block. Answers the pieces that came into being, and by how many
    /// bytes the RAM in use grew.
    ///
    /// Open pieces never overlap: their order in the journal is then of no account.
    pub fn write(
        &mut self,
        key: Key,
        batch: BatchSeq,
        off: u32,
        bytes: &[u8],
    ) -> (Vec<Arc<RamPiece>>, usize) {
        let range = off..off + bytes.len() as u32;
        if range == (0..BLOCK) {
            self.clear();
        }
        if let Some(ram) = self.extendable(batch, &range) {
            let new = self.cut_open(&range, batch, Some(&ram));
            return (new, extend(&mut ram.data.write(), &range, bytes));
        }
        let mut new = self.cut_open(&range, batch, None);
        self.merge_appended();
        let piece = RamPiece::new(key, batch, off, bytes.to_vec());
        self.pieces.push(Piece::Ram(Arc::clone(&piece)));
        new.push(piece);
        (new, bytes.len())
    }

    /// An open piece that the range overlaps or continues and that no other kind of piece hides
    /// there.
    fn extendable(&self, batch: BatchSeq, range: &Range<u32>) -> Option<Arc<RamPiece>> {
        for piece in self.pieces.iter().rev() {
            let have = piece.range();
            match piece.open(batch) {
                Some(ram) if have.start <= range.end && range.start <= have.end => {
                    return Some(Arc::clone(ram));
                }
                Some(_) => {}
                None if overlaps(&have, range) => return None,
                None => {}
            }
        }
        None
    }

    /// Joins runs of journaled pieces that follow each other, so that a log which is appended and
    /// synced line by line does not grow a piece a line.
    fn merge_appended(&mut self) {
        if self.pieces.len() < MANY {
            return;
        }
        let mut merged: Vec<Piece> = Vec::with_capacity(self.pieces.len());
        let mut run: Option<RamBytes> = None;
        for piece in self.pieces.drain(..) {
            let bytes = inline_bytes(&piece);
            match (&mut run, bytes) {
                (Some(run), Some(next)) if run.range().end == next.off => {
                    run.bytes.extend_from_slice(&next.bytes);
                }
                (run, next) => {
                    merged.extend(run.take().map(fixed));
                    match next {
                        Some(next) => *run = Some(next),
                        None => merged.push(piece),
                    }
                }
            }
        }
        merged.extend(run.map(fixed));
        self.pieces = merged;
    }

    /// Lays a fragment over the block that is journaled among the operations, before the data of
    /// the open batch: open pieces below it are cut. Answers the open pieces that were split
    /// off, and how many bytes in RAM were covered.
    pub fn patch(&mut self, fragment: Fragment, open: BatchSeq) -> (Vec<Arc<RamPiece>>, usize) {
        let range = fragment.off..fragment.end();
        let split = self.cut_open(&range, open, None);
        let freed = self.drop_covered(&range);
        if range == (0..BLOCK) {
            self.clear();
        }
        let erases = fragment.kind == FragmentKind::Hole;
        let nothing_under =
            !self.below && !self.pieces.iter().any(|p| overlaps(&p.range(), &range));
        if !(erases && nothing_under) {
            self.pieces.push(Piece::Fixed(Arc::new(fragment)));
        }
        (split, freed)
    }

    /// Forgets the pieces of sealed batches that lie wholly inside a range which is written over:
    /// else a place that is written over again and again would be as slow to read as often. They
    /// are in the journal, or on their way to it; nobody sees them any more, and a flush, which
    /// alone counts references, would find nothing of them in the list that it makes. Frames that
    /// were placed for them were never credited to their packs, so there is nothing to debit.
    /// Answers how many bytes in RAM they had.
    fn drop_covered(&mut self, range: &Range<u32>) -> usize {
        let mut freed = 0;
        self.pieces.retain(|piece| {
            let have = piece.range();
            let covered = range.start <= have.start && have.end <= range.end;
            if covered && matches!(piece, Piece::Ram(_)) {
                freed += have.len();
            }
            !covered
        });
        freed
    }

    /// Takes a range out of the open pieces, of all but `except`. Answers what was split off.
    fn cut_open(
        &mut self,
        range: &Range<u32>,
        open: BatchSeq,
        except: Option<&Arc<RamPiece>>,
    ) -> Vec<Arc<RamPiece>> {
        let mut split = Vec::new();
        let mut kept = Vec::with_capacity(self.pieces.len());
        for piece in self.pieces.drain(..) {
            let spared = |ram: &Arc<RamPiece>| except.is_some_and(|e| Arc::ptr_eq(e, ram));
            let Some(ram) = piece.open(open).filter(|ram| !spared(ram)).cloned() else {
                kept.push(piece);
                continue;
            };
            let have = piece.range();
            if !overlaps(&have, range) {
                kept.push(piece);
                continue;
            }
            let mut data = ram.data.write();
            let right = if have.end > range.end {
                data.bytes.split_off((range.end - have.start) as usize)
            } else {
                Vec::new()
            };
            data.bytes
                .truncate(range.start.saturating_sub(have.start) as usize);
            if data.bytes.is_empty() {
                if right.is_empty() {
                    ram.kill();
                    continue;
                }
                *data = RamBytes {
                    off: range.end,
                    bytes: right,
                };
                drop(data);
                kept.push(piece);
                continue;
            }
            drop(data);
            kept.push(piece);
            if !right.is_empty() {
                let new = RamPiece::new(ram.key, open, range.end, right);
                kept.push(Piece::Ram(Arc::clone(&new)));
                split.push(new);
            }
        }
        self.pieces = kept;
        split
    }

    /// Everything below is covered: forgets the pieces, open ones for good.
    fn clear(&mut self) {
        self.kill();
        self.pieces.clear();
        self.below = false;
    }

    /// Marks all its pieces in RAM as not to be journaled. Pieces of sealed batches ignore it:
    /// what is journaled was decided when their batch was sealed.
    pub fn kill(&self) {
        for piece in &self.pieces {
            if let Piece::Ram(p) = piece {
                p.kill();
            }
        }
    }

    /// The frame of `ram` is in a pack now: its reference takes the place of the bytes.
    pub fn placed(&mut self, ram: &Arc<RamPiece>, fragment: Fragment) -> usize {
        for piece in &mut self.pieces {
            if let Piece::Ram(p) = piece
                && Arc::ptr_eq(p, ram)
            {
                *piece = Piece::Fixed(Arc::new(fragment));
                return ram.data.read().bytes.len();
            }
        }
        0
    }
}

/// Puts bytes into a piece that they overlap or continue; answers by how much it grew.
fn extend(data: &mut RamBytes, range: &Range<u32>, bytes: &[u8]) -> usize {
    let have = data.range();
    let was = data.bytes.len();
    if range.start < have.start {
        let covered = (range.end.min(have.end) - have.start) as usize;
        let mut joined = Vec::with_capacity(bytes.len() + was - covered);
        joined.extend_from_slice(bytes);
        joined.extend_from_slice(data.bytes.get(covered..).unwrap_or_default());
        *data = RamBytes {
            off: range.start,
            bytes: joined,
        };
    } else {
        let at = (range.start - have.start) as usize;
        let (head, tail) = bytes.split_at((was - at).min(bytes.len()));
        if let Some(room) = data.bytes.get_mut(at..at + head.len()) {
            room.copy_from_slice(head);
        }
        data.bytes.extend_from_slice(tail);
    }
    data.bytes.len() - was
}

/// The bytes of a piece that is journaled inline.
fn inline_bytes(piece: &Piece) -> Option<RamBytes> {
    match piece {
        Piece::Fixed(f) => match &f.kind {
            FragmentKind::Inline(bytes) => Some(RamBytes {
                off: f.off,
                bytes: bytes.to_vec(),
            }),
            _ => None,
        },
        Piece::Ram(p) if p.journaled.load(Ordering::Acquire) => {
            let data = p.data.read();
            Some(RamBytes {
                off: data.off,
                bytes: data.bytes.clone(),
            })
        }
        Piece::Ram(_) => None,
    }
}

fn fixed(run: RamBytes) -> Piece {
    Piece::Fixed(Arc::new(Fragment {
        off: run.off,
        len: run.bytes.len() as u32,
        kind: FragmentKind::Inline(run.bytes.into()),
    }))
}

#[cfg(test)]
#[path = "piece_tests.rs"]
mod tests;
