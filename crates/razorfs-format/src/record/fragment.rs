//! The data of a block: fragments, and the references to frames in packs. The bytes are told at
//! the head of [`super`].

use super::{BLOCK, RAW_CRC_CHUNK};
use crate::error::{Place, Result};
use crate::ids::{Branch, Epoch, Ino, PackId};
use crate::wire::{Put, Take};

/// How the bytes of a frame or of a segment block are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Codec {
    /// As they are.
    None = 0,
    /// LZ4 block format.
    Lz4 = 1,
    /// Zstandard frame.
    Zstd = 2,
}

impl Codec {
    /// The codec that `byte` stands for.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::None,
            1 => Self::Lz4,
            2 => Self::Zstd,
            _ => return None,
        })
    }
}

/// For which block a frame was written, in a reference that may be one of several to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin {
    /// Branch at writing.
    pub branch: Branch,
    /// File at writing.
    pub ino: Ino,
    /// Block at writing.
    pub block: u64,
    /// Offset in that block of the frame's first raw byte.
    pub offset: u32,
}

/// A reference to (a part of) a data frame in a pack.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PackRef {
    /// The pack.
    pub pack: PackId,
    /// Offset of the frame's header in the pack.
    pub pos: u64,
    /// Bytes stored after the header.
    pub stored_len: u32,
    /// Bytes after decompression, at most [`BLOCK`].
    pub raw_len: u32,
    /// Where in the raw bytes this fragment begins.
    pub skip: u32,
    /// Compression of the stored bytes.
    pub codec: Codec,
    /// Epoch in which the frame was written; part of its checksums.
    pub birth: Epoch,
    /// Set where others may refer to the frame, too: an `S` record counts such references. One
    /// without is the only one, and by the block that the frame was written for.
    pub origin: Option<Origin>,
    /// One checksum for a compressed frame; one for each 16 KiB of a raw one.
    pub crcs: Box<[u32]>,
}

impl PackRef {
    /// Number of checksums that a frame must have.
    #[must_use]
    pub const fn crc_count(codec: Codec, raw_len: u32) -> usize {
        match codec {
            Codec::None => raw_len.div_ceil(RAW_CRC_CHUNK) as usize,
            Codec::Lz4 | Codec::Zstd => 1,
        }
    }
}

/// What a fragment's bytes are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FragmentKind {
    /// Zeros, nothing stored. In a patch it erases; in an extent record it does not appear.
    Hole,
    /// Zeros, space reserved by fallocate.
    Reserved,
    /// The bytes themselves, as many as the fragment is long.
    Inline(Box<[u8]>),
    /// In a pack.
    Pack(PackRef),
    /// What a damaged record said of them is lost: reading them fails.
    Lost,
}

/// A run of bytes of one block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fragment {
    /// Offset in the block.
    pub off: u32,
    /// Length, at least 1; `off + len` is at most [`BLOCK`].
    pub len: u32,
    /// What they are.
    pub kind: FragmentKind,
}

impl Fragment {
    /// One past its last byte.
    #[must_use]
    pub const fn end(&self) -> u32 {
        self.off.saturating_add(self.len)
    }

    /// Appends the encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let kind = match &self.kind {
            FragmentKind::Hole => 0,
            FragmentKind::Reserved => 1,
            FragmentKind::Inline(_) => 2,
            FragmentKind::Pack(_) => 3,
            FragmentKind::Lost => 4,
        };
        out.put_u8(kind);
        out.put_varint(u64::from(self.off));
        out.put_varint(u64::from(self.len));
        match &self.kind {
            FragmentKind::Hole | FragmentKind::Reserved | FragmentKind::Lost => {}
            FragmentKind::Inline(bytes) => {
                debug_assert_eq!(bytes.len(), self.len as usize);
                out.extend_from_slice(bytes);
            }
            FragmentKind::Pack(p) => {
                debug_assert_eq!(p.crcs.len(), PackRef::crc_count(p.codec, p.raw_len));
                out.put_varint(p.pack.0);
                out.put_varint(p.pos);
                out.put_varint(u64::from(p.stored_len));
                out.put_varint(u64::from(p.raw_len));
                out.put_varint(u64::from(p.skip));
                out.put_u8(p.codec as u8);
                out.put_varint(p.birth.0);
                match &p.origin {
                    None => out.put_u8(0),
                    Some(o) => {
                        out.put_u8(1);
                        out.put_varint(u64::from(o.branch.0));
                        out.put_varint(o.ino.0);
                        out.put_varint(o.block);
                        out.put_varint(u64::from(o.offset));
                    }
                }
                for crc in &p.crcs {
                    out.put_u32(*crc);
                }
            }
        }
    }

    /// Reads one fragment.
    pub fn decode(t: &mut Take<'_>) -> Result<Self> {
        let start = *t;
        let kind = t.u8()?;
        let off = t.varint_max(u64::from(BLOCK) - 1)? as u32;
        let at_len = *t;
        let len = t.varint_max(u64::from(BLOCK - off))? as u32;
        if len == 0 {
            return Err(at_len.error("a length of at least 1", 0));
        }
        let kind = match kind {
            0 => FragmentKind::Hole,
            1 => FragmentKind::Reserved,
            2 => FragmentKind::Inline(t.slice(len as usize)?.into()),
            3 => FragmentKind::Pack(Self::decode_pack(t, off, len)?),
            4 => FragmentKind::Lost,
            other => return Err(start.error("a fragment", format_args!("kind {other}"))),
        };
        Ok(Self { off, len, kind })
    }

    fn decode_pack(t: &mut Take<'_>, off: u32, len: u32) -> Result<PackRef> {
        let pack = PackId(t.varint()?);
        let pos = t.varint_max(1 << 40)?;
        let stored_len = t.varint_max(u64::from(BLOCK))? as u32;
        let raw_len = t.varint_max(u64::from(BLOCK))? as u32;
        let at_skip = *t;
        let skip = t.varint_max(u64::from(BLOCK))? as u32;
        if skip.saturating_add(len) > raw_len {
            return Err(at_skip.error(
                format_args!("{len} bytes inside the frame of {raw_len}"),
                format_args!("skip {skip}"),
            ));
        }
        let at_codec = *t;
        let codec = t.u8()?;
        let codec = Codec::from_byte(codec).ok_or_else(|| at_codec.error("a codec", codec))?;
        if codec == Codec::None && stored_len != raw_len {
            return Err(at_codec.error("raw and stored length alike", stored_len));
        }
        let birth = Epoch(t.varint()?);
        let at_flags = *t;
        let origin = match t.u8()? {
            0 if skip > off => {
                return Err(at_skip.error(format_args!("skip of at most {off}"), skip));
            }
            // Its frame began there, and does not reach beyond the block either.
            0 if off - skip > BLOCK - raw_len => {
                let most = BLOCK - raw_len;
                return Err(at_skip.error(format_args!("a frame at {most} or before"), off - skip));
            }
            0 => None,
            1 => Some(Origin {
                branch: Branch(t.varint32()?),
                ino: Ino(t.varint()?),
                block: t.varint()?,
                offset: t.varint_max(u64::from(BLOCK - raw_len))? as u32,
            }),
            other => return Err(at_flags.error("flags 0 or 1", other)),
        };
        let crcs = (0..PackRef::crc_count(codec, raw_len))
            .map(|_| t.u32())
            .collect::<Result<Box<[u32]>>>()?;
        Ok(PackRef {
            pack,
            pos,
            stored_len,
            raw_len,
            skip,
            codec,
            birth,
            origin,
            crcs,
        })
    }
}

/// The data of one block: fragments, sorted, not overlapping, none a hole. What no fragment
/// covers is a hole.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Extent {
    /// The fragments.
    pub fragments: Vec<Fragment>,
}

impl Extent {
    /// The encoding.
    #[must_use]
    pub fn to_bytes(&self) -> Box<[u8]> {
        let mut out = Vec::new();
        for fragment in &self.fragments {
            fragment.encode(&mut out);
        }
        out.into()
    }

    /// Reads an extent that fills `bytes`.
    pub fn decode(bytes: &[u8], place: Place) -> Result<Self> {
        let mut t = Take::new(bytes, place, "extent");
        let mut fragments: Vec<Fragment> = Vec::new();
        let mut end = 0;
        while !t.is_empty() {
            let start = t;
            let fragment = Fragment::decode(&mut t)?;
            if fragment.off < end {
                return Err(start.error(format_args!("a fragment at {end} or later"), fragment.off));
            }
            if fragment.kind == FragmentKind::Hole {
                return Err(start.error("no hole in an extent", "a hole"));
            }
            end = fragment.end();
            fragments.push(fragment);
        }
        Ok(Self { fragments })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::FileName;

    #[test]
    fn a_lost_range_is_three_numbers() {
        let (off, len, kind) = (100, 300, FragmentKind::Lost);
        let mut bytes = Vec::new();
        let lost = Fragment { off, len, kind };
        lost.encode(&mut bytes);
        assert_eq!(bytes, [4, 100, 0xac, 2]);
        let place = Place::new(FileName::Super, 0);
        let extent = Extent::decode(&bytes, place).unwrap();
        assert_eq!(extent.fragments, [lost]);
    }

    /// A copy gives such a fragment its origin, which would then not be read.
    #[test]
    fn an_own_frame_that_would_reach_beyond_its_block_is_refused() {
        let read = |off: u32, skip: u32| {
            let raw_len = BLOCK - 4096;
            let kind = FragmentKind::Pack(PackRef {
                pack: PackId(1),
                pos: 4096,
                stored_len: raw_len,
                raw_len,
                skip,
                codec: Codec::None,
                birth: Epoch(1),
                origin: None,
                crcs: vec![0; PackRef::crc_count(Codec::None, raw_len)].into(),
            });
            let len = 4096;
            let mut bytes = Vec::new();
            Fragment { off, len, kind }.encode(&mut bytes);
            Fragment::decode(&mut Take::new(
                &bytes,
                Place::new(FileName::Super, 0),
                "test",
            ))
        };
        assert!(read(4096, 0).is_ok());
        assert!(read(65536, 61440).is_ok());
        let e = read(65536, 61439).unwrap_err().to_string();
        assert!(e.contains("4096") && e.contains("4097"), "{e}");
        assert!(read(0, 1).is_err());
    }
}
