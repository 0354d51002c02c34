//! One transaction in the memory.

use std::sync::atomic::{AtomicU64, Ordering};

use razorfs_format::crc::Crc;
use razorfs_format::key::Key;
use razorfs_format::{BatchSeq, Branch, Ino};

use super::{Asked, HEADER};

const MUTATIONS: u64 = 1;
const TOUCH: u64 = 2;
const WRITE: u64 = 3;
/// The same as a touch, in a branch other than the head.
const TOUCH_OF: u64 = 4;
const COMPLETE: u64 = 1 << 32;
/// Bytes that are copied and summed at a time, while they are in the processor's cache.
const PIECE: usize = 16 << 10;

/// A part of a transaction.
pub(crate) enum Part<'a> {
    /// Encoded mutations.
    Mutations(&'a [u8]),
    /// The record of an inode.
    Touch(Branch, Ino, &'a [u8]),
    /// Bytes of a block of a file.
    Write { key: Key, off: u32, bytes: &'a [u8] },
}

/// The same, read.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum OwnedPart {
    Mutations(Vec<u8>),
    Touch(Branch, Ino, Vec<u8>),
    Write { key: Key, off: u32, bytes: Vec<u8> },
}

/// A complete record.
#[derive(Debug)]
pub(crate) struct Record {
    pub ty: u8,
    pub slot: usize,
    pub asked: Asked,
    pub parts: Vec<OwnedPart>,
}

impl Part<'_> {
    /// Words that it takes.
    pub fn words(&self) -> usize {
        let (_, extra, bytes) = self.open();
        1 + extra.len() + bytes.len().div_ceil(8)
    }

    fn open(&self) -> (u64, Extra, &[u8]) {
        match self {
            Part::Mutations(bytes) => (MUTATIONS, Extra::none(), bytes),
            Part::Touch(Branch::HEAD, ino, bytes) => (TOUCH, Extra::of([ino.0, 0, 0], 1), bytes),
            Part::Touch(branch, ino, bytes) => {
                let extra = Extra::of([ino.0, u64::from(branch.0), 0], 2);
                (TOUCH_OF, extra, bytes)
            }
            Part::Write { key, off, bytes } => {
                let place = u64::from(key.branch().0) << 32 | u64::from(*off);
                let extra = Extra::of([key.ino().0, key.second(), place], 3);
                (WRITE, extra, bytes)
            }
        }
    }
}

/// Up to three words between the head of a part and its bytes.
struct Extra {
    words: [u64; 3],
    used: usize,
}

impl Extra {
    const fn none() -> Self {
        Self::of([0; 3], 0)
    }

    const fn of(words: [u64; 3], used: usize) -> Self {
        Self { words, used }
    }

    const fn len(&self) -> usize {
        self.used
    }

    fn words(&self) -> &[u64] {
        self.words.get(..self.used).unwrap_or_default()
    }
}

/// Copies bytes to words; what is left of the last word becomes 0.
pub(super) fn copy(words: &[AtomicU64], bytes: &[u8]) {
    let (whole, rest) = bytes.as_chunks::<8>();
    for (word, bytes) in words.iter().zip(whole) {
        word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
    }
    if let (false, Some(word)) = (rest.is_empty(), words.get(whole.len())) {
        let mut last = [0; 8];
        last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        word.store(u64::from_le_bytes(last), Ordering::Relaxed);
    }
}

/// The first `len` bytes of words.
pub(super) fn bytes(words: &[AtomicU64], len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(words.len() * 8);
    for word in words {
        bytes.extend_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Splits words off; none if there are too few.
fn split(words: &mut &[AtomicU64], count: usize) -> Option<Vec<u64>> {
    let (first, rest) = words.split_at_checked(count)?;
    *words = rest;
    Some(first.iter().map(|w| w.load(Ordering::Relaxed)).collect())
}

fn seed(words: &[AtomicU64], batch: BatchSeq) -> Crc {
    let mut identity = [batch.0, 0, 0, 0];
    for (to, word) in identity.iter_mut().skip(1).zip(words) {
        *to = word.load(Ordering::Relaxed);
    }
    Crc::seeded(&identity)
}

/// Writes the body of a record behind its header, and completes it.
pub(super) fn write(
    words: &[AtomicU64],
    batch: BatchSeq,
    parts: impl FnOnce(&mut dyn FnMut(Part<'_>)),
) {
    let mut crc = seed(words, batch);
    let mut at = HEADER;
    parts(&mut |part| {
        let (kind, extra, bytes) = part.open();
        let head = bytes.len() as u64 | kind << 56;
        let numbers = std::iter::once(&head).chain(extra.words());
        for (word, number) in words.iter().skip(at).zip(numbers) {
            word.store(*number, Ordering::Relaxed);
            crc.add(&number.to_le_bytes());
        }
        at += 1 + extra.len();
        for piece in bytes.chunks(PIECE) {
            crc.add(piece);
            copy(words.get(at..).unwrap_or_default(), piece);
            at += piece.len().div_ceil(8);
        }
    });
    debug_assert_eq!(at, words.len(), "the parts are those that were measured");
    if let Some(word) = words.get(HEADER - 1) {
        word.store(u64::from(crc.finish()) | COMPLETE, Ordering::Release);
    }
}

/// Reads the first record, if it is complete, and answers what follows it.
pub(super) fn read(
    words: &[AtomicU64],
    batch: BatchSeq,
) -> Result<(Option<Record>, &[AtomicU64]), String> {
    let damaged = || format!("the memory for redo is damaged, in batch {}", batch.0);
    let mut rest = words;
    let header = split(&mut rest, HEADER).ok_or_else(damaged)?;
    let [head, request, answer, sum] = header.as_slice() else {
        return Err(damaged());
    };
    let len = (*head & u64::from(u32::MAX)) as usize;
    let (mut body, after) = rest.split_at_checked(len).ok_or_else(damaged)?;
    if sum & COMPLETE == 0 {
        return Ok((None, after));
    }
    let mut crc = seed(words, batch);
    let mut parts = Vec::new();
    while !body.is_empty() {
        parts.push(read_part(&mut body, &mut crc).ok_or_else(damaged)?);
    }
    if u64::from(crc.finish()) | COMPLETE != *sum {
        return Err(damaged());
    }
    let (request, answer) = (*request, *answer);
    let record = Record {
        ty: (head >> 32) as u8,
        slot: (head >> 40) as usize,
        asked: Asked { request, answer },
        parts,
    };
    Ok((Some(record), after))
}

fn read_part(body: &mut &[AtomicU64], crc: &mut Crc) -> Option<OwnedPart> {
    let mut take = |count, crc: &mut Crc| -> Option<Vec<u64>> {
        let words = split(body, count)?;
        for word in &words {
            crc.add(&word.to_le_bytes());
        }
        Some(words)
    };
    let head = take(1, crc)?.first().copied()?;
    let len = usize::try_from(head & (u64::MAX >> 8)).ok()?;
    let extra = match head >> 56 {
        MUTATIONS => take(0, crc)?,
        TOUCH => take(1, crc)?,
        TOUCH_OF => take(2, crc)?,
        WRITE => take(3, crc)?,
        _ => return None,
    };
    let (words, rest) = body.split_at_checked(len.div_ceil(8))?;
    *body = rest;
    let bytes = bytes(words, len);
    crc.add(&bytes);
    Some(match extra.as_slice() {
        [] => OwnedPart::Mutations(bytes),
        [ino] => OwnedPart::Touch(Branch::HEAD, Ino(*ino), bytes),
        [ino, branch] => {
            let branch = Branch(u32::try_from(*branch).ok()?);
            OwnedPart::Touch(branch, Ino(*ino), bytes)
        }
        [ino, block, place] => OwnedPart::Write {
            key: Key::extent(Branch((place >> 32) as u32), Ino(*ino), *block),
            off: *place as u32,
            bytes,
        },
        _ => return None,
    })
}
