//! A walk through a pack by the headers of its frames, for verify, repair and sealing.

use std::ops::{ControlFlow, Range};

use super::{FRAME_ALIGN, FRAME_HEADER_LEN, FrameHeader, HEADER_LEN, MAGIC_FRAME};
use crate::error::{FormatError, Place};
use crate::ids::{PackId, VolumeId};
use crate::layout::FileName;

/// Fills a buffer from an offset of a file; answers how many bytes were read, short only at the
/// end.
pub type ReadAt<'r, E> = dyn FnMut(&mut [u8], u64) -> Result<usize, E> + 'r;

/// The stored bytes of a frame that passed its checks, with their checksums, or why it did not.
pub type CheckedData<'a> = Result<(&'a [u8], Box<[u32]>), FormatError>;

/// How much a walk reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Depth {
    /// The headers only.
    Headers,
    /// Every byte.
    Data,
}

/// What a walk met.
#[derive(Debug)]
pub enum Scanned<'a> {
    /// A frame with a valid header.
    Frame {
        /// Position of the header.
        pos: u64,
        /// The header.
        header: FrameHeader,
        /// At [`Depth::Data`] the stored bytes; at [`Depth::Headers`] nothing.
        data: Option<CheckedData<'a>>,
    },
    /// Bytes that begin no frame: a damaged header, or a run of dead frames whose space was given
    /// back.
    Gap {
        /// Which.
        range: Range<u64>,
        /// All of them are zero.
        zero: bool,
        /// What is wrong with the header that was expected at its beginning.
        error: FormatError,
    },
    /// The file ends before these bytes.
    Missing(Range<u64>),
}

/// A piece of the file in memory.
struct Window<'r, E> {
    read: &'r mut ReadAt<'r, E>,
    buf: Vec<u8>,
    base: u64,
    end: u64,
    ahead: usize,
}

impl<E> Window<'_, E> {
    /// The bytes from `pos` on: at least `need`, unless the file or the range ends before.
    fn at(&mut self, pos: u64, need: usize) -> Result<&[u8], E> {
        let held = self.base..self.base.saturating_add(self.buf.len() as u64);
        let want = need.min(self.end.saturating_sub(pos) as usize);
        if !(held.contains(&pos) && held.end - pos >= want as u64) {
            let room = self.end.saturating_sub(pos);
            let len = (want.max(self.ahead) as u64).min(room) as usize;
            self.buf.resize(len, 0);
            self.base = pos;
            let got = (self.read)(&mut self.buf, pos)?;
            self.buf.truncate(got);
        }
        Ok(self
            .buf
            .get((pos - self.base) as usize..)
            .unwrap_or_default())
    }
}

const WINDOW: usize = 1 << 20;

/// Walks the frames of `pack` whose headers stand in `range`, in order, until `each` breaks.
/// Memory is bounded by about 1 MiB whatever the bytes say.
///
/// After bytes that are no frame the walk goes on at the next valid header.
pub fn scan_frames<'r, E>(
    read: &'r mut ReadAt<'r, E>,
    vid: VolumeId,
    pack: PackId,
    range: Range<u64>,
    depth: Depth,
    each: &mut dyn FnMut(Scanned<'_>) -> ControlFlow<()>,
) -> Result<(), E> {
    let mut window = Window {
        read,
        buf: Vec::new(),
        base: 0,
        end: range.end,
        ahead: match depth {
            Depth::Headers => FRAME_HEADER_LEN as usize,
            Depth::Data => WINDOW,
        },
    };
    let start = range.start.max(HEADER_LEN);
    let mut pos = start
        .checked_next_multiple_of(FRAME_ALIGN)
        .unwrap_or(range.end);
    while pos < range.end {
        let bytes = window.at(pos, FRAME_HEADER_LEN as usize)?;
        if bytes.is_empty() {
            let _ = each(Scanned::Missing(pos..range.end));
            return Ok(());
        }
        let header = match FrameHeader::decode(bytes, vid, pack, pos) {
            Ok(header) => header,
            Err(error) => {
                let (end, zero) = gap(&mut window, vid, pack, pos)?;
                let range = pos..end;
                if each(Scanned::Gap { range, zero, error }).is_break() {
                    return Ok(());
                }
                pos = end;
                continue;
            }
        };
        let data = match depth {
            Depth::Headers => None,
            Depth::Data => {
                let bytes = window.at(pos, header.frame_len() as usize)?;
                Some(check(bytes, &header, vid, pack, pos))
            }
        };
        if each(Scanned::Frame { pos, header, data }).is_break() {
            return Ok(());
        }
        pos = pos.saturating_add(header.frame_len());
    }
    Ok(())
}

/// Checks the frame that `bytes` begin with, its padding included.
fn check<'a>(
    bytes: &'a [u8],
    header: &FrameHeader,
    vid: VolumeId,
    pack: PackId,
    pos: u64,
) -> CheckedData<'a> {
    let place = Place::new(FileName::Pack(pack), pos);
    let len = header.frame_len() as usize;
    let frame = bytes
        .get(FRAME_HEADER_LEN as usize..len)
        .ok_or_else(|| place.error("frame", len, bytes.len()))?;
    let (stored, padding) = frame.split_at(frame.len().min(header.stored_len as usize));
    let checksums = header.check(vid, pack, pos, stored)?;
    if padding.iter().any(|b| *b != 0) {
        return Err(place.error("padding of a frame", "zeros", "other bytes"));
    }
    Ok((stored, checksums))
}

/// The next valid header after `pos`, or the end of what can be read; and whether all before it is
/// zero.
fn gap<E>(
    window: &mut Window<'_, E>,
    vid: VolumeId,
    pack: PackId,
    from: u64,
) -> Result<(u64, bool), E> {
    let mut zero = true;
    let mut pos = from;
    loop {
        let bytes = window.at(pos, WINDOW)?;
        // Less than asked for: the range or the file ends here.
        let last = bytes.len() < WINDOW;
        // A header that the window cuts off is looked at again in the next one.
        let whole = (bytes.len() + 1).saturating_sub(FRAME_HEADER_LEN as usize);
        let found = (0..whole).step_by(FRAME_ALIGN as usize).find(|at| {
            let here = pos + *at as u64;
            bytes.get(*at..).is_some_and(|rest| {
                here > from
                    && rest.starts_with(&MAGIC_FRAME.to_le_bytes())
                    && FrameHeader::decode(rest, vid, pack, here).is_ok()
            })
        });
        let skip = match found {
            Some(at) => at,
            None if last => bytes.len(),
            None => whole.next_multiple_of(FRAME_ALIGN as usize),
        };
        zero &= bytes.iter().take(skip).all(|b| *b == 0);
        pos += skip as u64;
        if found.is_some() || last {
            return Ok((pos, zero));
        }
    }
}
