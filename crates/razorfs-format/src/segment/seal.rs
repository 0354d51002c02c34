//! The envelope of every block of a segment: `stored bytes | codec u8 | raw length u32 | crc u32`.
//!
//! Valid if the checksum over everything before it, seeded with (volume, segment, offset in the
//! file, kind and tag), is the one at the end *and* the one that the parent repeats, and the stored
//! bytes decompress to exactly the raw length.

use crate::crc::crc32c;
use crate::error::{Place, Result};
use crate::ids::{SegmentId, VolumeId};
use crate::key::Tag;
use crate::layout::FileName;
use crate::record::Codec;
use crate::wire::{Put, Take};

/// Bytes that follow the stored bytes.
pub const TRAILER_LEN: usize = 9;
/// Most raw bytes of a block. Nothing larger is allocated for, whatever the bytes say.
pub const RAW_MAX: usize = 1 << 20;

/// What a sealed block is; part of its checksum's seed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum BlockKind {
    /// Records.
    Data = 1,
    /// An index partition.
    Index = 2,
    /// The top index.
    Top = 3,
    /// A filter partition.
    Filter = 4,
}

/// Where a sealed block stands, and the checksum it must have. 12 bytes: three `u32`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Handle {
    /// Offset in the file.
    pub offset: u32,
    /// Length in the file, trailer included. Zero: there is no such block.
    pub len: u32,
    /// The checksum.
    pub crc: u32,
}

impl Handle {
    /// Bytes of its encoding.
    pub const LEN: usize = 12;

    pub(super) fn encode(self, out: &mut Vec<u8>) {
        out.put_u32(self.offset);
        out.put_u32(self.len);
        out.put_u32(self.crc);
    }

    pub(super) fn decode(t: &mut Take<'_>) -> Result<Self> {
        let handle = Self {
            offset: t.u32()?,
            len: t.u32()?,
            crc: t.u32()?,
        };
        if handle.len as usize > RAW_MAX + TRAILER_LEN {
            return Err(t.error("a block of at most 1 MiB", handle.len));
        }
        Ok(handle)
    }
}

/// Which segment's blocks are meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The volume.
    pub volume: VolumeId,
    /// The segment.
    pub segment: SegmentId,
    /// The table.
    pub tag: Tag,
}

impl Identity {
    pub(super) fn seed(self, kind: BlockKind, offset: u32) -> [u64; 4] {
        let what = u64::from(kind as u8) << 8 | u64::from(self.tag as u8);
        [self.volume.0, self.segment.0, u64::from(offset), what]
    }

    /// The place `offset` in the file of the segment.
    #[must_use]
    pub const fn place(self, offset: u64) -> Place {
        Place::new(FileName::Segment(self.segment), offset)
    }
}

/// Appends `raw`, sealed, to `out`; the block begins at `offset` in the file. It is compressed
/// with `codec` where that saves at least a sixteenth.
///
/// # Panics
///
/// If `raw` has more than [`RAW_MAX`] bytes: the writer limits its blocks.
pub fn seal(
    id: Identity,
    kind: BlockKind,
    codec: Codec,
    raw: &[u8],
    offset: u32,
    out: &mut Vec<u8>,
) -> Handle {
    assert!(raw.len() <= RAW_MAX, "a block has at most 1 MiB");
    let start = out.len();
    let small = match codec {
        Codec::None => None,
        Codec::Lz4 => Some(lz4_flex::block::compress(raw)),
        // A failure to compress is no failure to store.
        Codec::Zstd => zstd::bulk::compress(raw, 3).ok(),
    };
    match small.filter(|small| small.len() + raw.len() / 16 < raw.len()) {
        Some(small) => {
            out.extend_from_slice(&small);
            out.put_u8(codec as u8);
        }
        None => {
            out.extend_from_slice(raw);
            out.put_u8(Codec::None as u8);
        }
    }
    out.put_u32(raw.len() as u32);
    let crc = crc32c(&id.seed(kind, offset), out.get(start..).unwrap_or_default());
    out.put_u32(crc);
    Handle {
        offset,
        len: (out.len() - start) as u32,
        crc,
    }
}

/// Checks the sealed block `bytes`, which `handle` points to, and answers its raw bytes.
pub fn unseal(id: Identity, kind: BlockKind, handle: Handle, bytes: &[u8]) -> Result<Box<[u8]>> {
    let place = id.place(u64::from(handle.offset));
    let wrong = |what, expected: &dyn std::fmt::Display, got: &dyn std::fmt::Display| {
        Err(place.error(what, expected, got))
    };
    if bytes.len() != handle.len as usize {
        return wrong("block length", &handle.len, &bytes.len());
    }
    let (Some((covered, crc)), Some((stored, trailer))) = (
        bytes.split_last_chunk::<4>(),
        bytes.split_last_chunk::<TRAILER_LEN>(),
    ) else {
        return wrong(
            "block length",
            &format_args!("at least {TRAILER_LEN}"),
            &bytes.len(),
        );
    };
    let got = crc32c(&id.seed(kind, handle.offset), covered);
    if got != handle.crc || u32::from_le_bytes(*crc) != handle.crc {
        let expected = format_args!("{:#010x}", handle.crc).to_string();
        return wrong("block checksum", &expected, &format!("{got:#010x}"));
    }
    let mut t = Take::new(trailer, place, "block trailer");
    let byte = t.u8()?;
    let raw_len = t.u32()? as usize;
    let Some(codec) = Codec::from_byte(byte) else {
        return wrong("block codec", &"0, 1 or 2", &byte);
    };
    if raw_len > RAW_MAX {
        return wrong(
            "raw length of a block",
            &format_args!("at most {RAW_MAX}"),
            &raw_len,
        );
    }
    let raw = match codec {
        Codec::None => Some(stored.to_vec()),
        Codec::Lz4 => {
            let mut raw = vec![0; raw_len];
            let n = lz4_flex::block::decompress_into(stored, &mut raw);
            n.is_ok_and(|n| n == raw_len).then_some(raw)
        }
        Codec::Zstd => zstd::bulk::decompress(stored, raw_len).ok(),
    };
    match raw {
        Some(raw) if raw.len() == raw_len => Ok(raw.into_boxed_slice()),
        _ => wrong(
            "compressed block",
            &format_args!("{raw_len} bytes"),
            &"something else",
        ),
    }
}
