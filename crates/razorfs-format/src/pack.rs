//! Packs: append-only files of data frames.
//!
//! | part | where | bytes |
//! |---|---|---|
//! | header | 0 | 4096, see below |
//! | frames | 4096 | one after the other, each on a multiple of 8 |
//! | trailer | end of the frames | one entry for each frame, zeros up to a multiple of 8 |
//! | footer | last 64 bytes of the file | see [`Footer`] |
//!
//! The header: `magic u32 RZPK | version u16 | frame alignment u16 | vid u64 | pack u64`, zeros, at
//! 4092 the CRC, seeded (vid, pack).
//!
//! An entry of the trailer: `gap v | stored length v | branch v | ino sv | block v`, `v` a varint,
//! `sv` a signed one; `gap` is the distance from the end of the frame before in units of 8 bytes,
//! `ino` the difference from the frame before.
//!
//! Trailer and footer are there only if the pack was sealed in peace; a pack that was given up
//! after a failed write has none, and its frames are found by walking their headers.
//!
//! A frame: 56 bytes of header, the stored bytes, zeros up to a multiple of 8.
//!
//! ```text
//!  0 u32 magic RZFR   4 u32 branch      8 u64 ino       16 u64 block
//! 24 u64 birth epoch 32 u32 offset     36 u32 raw_len   40 u32 stored_len
//! 44 u8 codec        45 u8 csum_shift  46 u16 zero      48 u32 data_crc  52 u32 hdr_crc
//! ```
//!
//! `hdr_crc` is seeded (vid, pack, position). The checksums that readers use stand in the extent
//! record: one for the stored bytes of a compressed frame (`csum_shift` 0), one for each 16 KiB
//! of a raw one (`csum_shift` 14). Each is seeded (vid, branch, ino, block, offset of its first
//! raw byte in the block, birth epoch): identity, not location, so that a frame can be moved as
//! it is, and a misdirected one is refused. `data_crc` is the checksum of those checksums under
//! the same identity: it lets a scrub check frames that nobody refers to, and lets the extents be
//! rebuilt from the packs alone.
//!
//! A frame is valid if its header's checksum holds, its fields are in their bounds, its padding is
//! zero and `data_crc` holds.

mod read;
mod scan;
mod trailer;

pub use read::FramePlan;
pub use scan::{CheckedData, Depth, ReadAt, Scanned, scan_frames};
pub use trailer::{Footer, TrailerEntry, decode_trailer, encode_trailer};

use crate::crc::{Crc, crc32c};
use crate::error::{Place, Result};
use crate::ids::{Branch, Epoch, Ino, PackId, VolumeId};
use crate::layout::FileName;
use crate::manifest::PackMeta;
use crate::record::{BLOCK, Codec, PackRef, RAW_CRC_CHUNK};
use crate::wire::Take;

/// Bytes of a pack's header: the position of the first frame.
pub const HEADER_LEN: u64 = 4096;
/// Bytes of a frame's header.
pub const FRAME_HEADER_LEN: u64 = 56;
/// Frames begin on multiples of this.
pub const FRAME_ALIGN: u64 = 8;
/// Bytes of the largest frame, with header and padding.
pub const FRAME_MAX: u64 = frame_len(BLOCK);
/// Version of the format of packs.
pub const VERSION: u16 = 1;

const MAGIC_PACK: u32 = u32::from_le_bytes(*b"RZPK");
const MAGIC_FRAME: u32 = u32::from_le_bytes(*b"RZFR");
const RAW_SHIFT: u8 = RAW_CRC_CHUNK.trailing_zeros() as u8;

const _: () = assert!(1 << RAW_SHIFT == RAW_CRC_CHUNK);
const _: () = assert!(HEADER_LEN.is_multiple_of(FRAME_ALIGN));
const _: () = assert!(FRAME_HEADER_LEN.is_multiple_of(FRAME_ALIGN));

/// Bytes that a frame with this many stored bytes takes in the pack: header and padding included.
#[must_use]
pub const fn frame_len(stored_len: u32) -> u64 {
    (FRAME_HEADER_LEN + stored_len as u64).next_multiple_of(FRAME_ALIGN)
}

/// One past the last byte of the frame that `r` refers to, in its pack.
#[must_use]
pub const fn frame_end(r: &PackRef) -> u64 {
    r.pos.saturating_add(frame_len(r.stored_len))
}

/// A pack as its writer knows it; the [`PackMeta`] of the manifest adds how much of it is live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PackState {
    /// The pack.
    pub id: PackId,
    /// Nothing is appended any more.
    pub sealed: bool,
    /// End of its frames: every byte before it was synced, nothing beyond it is referred to. The
    /// trailer of a sealed pack begins here.
    pub len: u64,
    /// Bytes of all its frames, with headers and padding.
    pub total: u64,
    /// The youngest frame's epoch.
    pub last_birth: Epoch,
}

impl PackState {
    /// A pack without frames.
    #[must_use]
    pub const fn new(id: PackId) -> Self {
        Self {
            id,
            sealed: false,
            len: HEADER_LEN,
            total: 0,
            last_birth: Epoch(0),
        }
    }

    /// The state that the manifest tells.
    #[must_use]
    pub const fn of(meta: &PackMeta) -> Self {
        Self {
            id: meta.id,
            sealed: meta.sealed,
            len: meta.len,
            total: meta.total,
            last_birth: meta.last_birth,
        }
    }

    /// What the manifest tells of this pack, if so many bytes of it are live.
    #[must_use]
    pub const fn meta(&self, live: u64) -> PackMeta {
        PackMeta {
            id: self.id,
            sealed: self.sealed,
            len: self.len,
            total: self.total,
            live,
            last_birth: self.last_birth,
        }
    }

    /// Takes over what a later or an earlier state of the same pack tells: a pack only grows.
    pub fn merge(&mut self, other: &Self) {
        self.sealed |= other.sealed;
        self.len = self.len.max(other.len);
        self.total = self.total.max(other.total);
        self.last_birth = self.last_birth.max(other.last_birth);
    }

    /// Makes the pack reach to the end of a frame that something durable refers to: recovery does
    /// so for each frame that the journal names.
    pub fn cover(&mut self, r: &PackRef) {
        self.len = self.len.max(frame_end(r));
        self.total = self.total.max(self.len.saturating_sub(HEADER_LEN));
        self.last_birth = self.last_birth.max(r.birth);
    }
}

/// The header of a pack.
#[must_use]
pub fn encode_header(vid: VolumeId, pack: PackId) -> [u8; HEADER_LEN as usize] {
    let mut out = [0; HEADER_LEN as usize];
    out[0..4].copy_from_slice(&MAGIC_PACK.to_le_bytes());
    out[4..6].copy_from_slice(&VERSION.to_le_bytes());
    out[6..8].copy_from_slice(&(FRAME_ALIGN as u16).to_le_bytes());
    out[8..16].copy_from_slice(&vid.0.to_le_bytes());
    out[16..24].copy_from_slice(&pack.0.to_le_bytes());
    let crc = crc32c(&[vid.0, pack.0], &out[..4092]);
    out[4092..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Checks the header of `pack`, the first [`HEADER_LEN`] bytes of the file.
pub fn check_header(bytes: &[u8], vid: VolumeId, pack: PackId) -> Result<()> {
    let place = Place::new(FileName::Pack(pack), 0);
    let mut t = Take::new(bytes, place, "pack header");
    let body = t.slice(HEADER_LEN as usize - 4)?;
    let at_crc = t;
    let (expected, got) = (crc32c(&[vid.0, pack.0], body), t.u32()?);
    let mut t = Take::new(body, place, "pack header");
    expect(&mut t, "magic RZPK", MAGIC_PACK, Take::u32)?;
    expect(&mut t, "version 1", VERSION, Take::u16)?;
    expect(&mut t, "alignment 8", FRAME_ALIGN as u16, Take::u16)?;
    expect(&mut t, "the volume's id", vid.0, Take::u64)?;
    expect(&mut t, "the pack's id", pack.0, Take::u64)?;
    if got != expected {
        return Err(at_crc.error(
            format_args!("CRC {expected:#010x}"),
            format_args!("{got:#010x}"),
        ));
    }
    if t.rest().iter().any(|b| *b != 0) {
        return Err(t.error("zeros", "other bytes"));
    }
    Ok(())
}

/// Takes a value that must be `want`.
fn expect<'a, T: PartialEq + std::fmt::LowerHex>(
    t: &mut Take<'a>,
    what: &str,
    want: T,
    take: fn(&mut Take<'a>) -> Result<T>,
) -> Result<()> {
    let start = *t;
    let got = take(t)?;
    if got != want {
        return Err(start.error(format_args!("{what} ({want:#x})"), format_args!("{got:#x}")));
    }
    Ok(())
}

/// Whose bytes a frame holds, and since when. Part of every checksum of the frame.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FrameIdentity {
    /// Branch at writing.
    pub branch: Branch,
    /// File at writing.
    pub ino: Ino,
    /// Block at writing.
    pub block: u64,
    /// Offset in that block of the first raw byte.
    pub off: u32,
    /// Epoch at writing.
    pub birth: Epoch,
}

impl FrameIdentity {
    /// Who wrote the frame behind `r`, found in block `block` of file `ino` at offset `off` of the
    /// block (where the *fragment* begins).
    #[must_use]
    pub fn of(r: &PackRef, branch: Branch, ino: Ino, block: u64, off: u32) -> Self {
        match &r.origin {
            Some(o) => Self {
                branch: o.branch,
                ino: o.ino,
                block: o.block,
                off: o.offset,
                birth: r.birth,
            },
            None => Self {
                branch,
                ino,
                block,
                off: off.wrapping_sub(r.skip),
                birth: r.birth,
            },
        }
    }

    fn crc(&self, vid: VolumeId, raw_offset: u32) -> Crc {
        Crc::seeded(&[
            vid.0,
            u64::from(self.branch.0),
            self.ino.0,
            self.block,
            u64::from(self.off) + u64::from(raw_offset),
            self.birth.0,
        ])
    }

    /// The checksums of a frame with these stored bytes, as the extent record holds them.
    #[must_use]
    pub fn checksums(&self, vid: VolumeId, codec: Codec, stored: &[u8]) -> Box<[u32]> {
        match codec {
            Codec::Lz4 | Codec::Zstd => Box::new([self.crc(vid, 0).with(stored).finish()]),
            Codec::None => stored
                .chunks(RAW_CRC_CHUNK as usize)
                .zip((0u32..).step_by(RAW_CRC_CHUNK as usize))
                .map(|(chunk, at)| self.crc(vid, at).with(chunk).finish())
                .collect(),
        }
    }

    /// The checksum of the checksums, as the frame's header holds it.
    #[must_use]
    pub fn data_crc(&self, vid: VolumeId, checksums: &[u32]) -> u32 {
        let mut crc = self.crc(vid, 0);
        for c in checksums {
            crc = crc.with(&c.to_le_bytes());
        }
        crc.finish()
    }
}

/// The header of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// Whose bytes they are.
    pub identity: FrameIdentity,
    /// Bytes after decompression: 1 to [`BLOCK`].
    pub raw_len: u32,
    /// Bytes stored after the header.
    pub stored_len: u32,
    /// Compression of the stored bytes.
    pub codec: Codec,
    /// Checksum of the checksums.
    pub data_crc: u32,
}

impl FrameHeader {
    /// Bytes of the frame in the pack, with header and padding.
    #[must_use]
    pub const fn frame_len(&self) -> u64 {
        frame_len(self.stored_len)
    }

    /// The header as it stands at `pos` of `pack`.
    #[must_use]
    pub fn encode(&self, vid: VolumeId, pack: PackId, pos: u64) -> [u8; FRAME_HEADER_LEN as usize] {
        let shift = match self.codec {
            Codec::None => RAW_SHIFT,
            Codec::Lz4 | Codec::Zstd => 0,
        };
        let id = &self.identity;
        let mut out = [0; FRAME_HEADER_LEN as usize];
        out[0..4].copy_from_slice(&MAGIC_FRAME.to_le_bytes());
        out[4..8].copy_from_slice(&id.branch.0.to_le_bytes());
        out[8..16].copy_from_slice(&id.ino.0.to_le_bytes());
        out[16..24].copy_from_slice(&id.block.to_le_bytes());
        out[24..32].copy_from_slice(&id.birth.0.to_le_bytes());
        out[32..36].copy_from_slice(&id.off.to_le_bytes());
        out[36..40].copy_from_slice(&self.raw_len.to_le_bytes());
        out[40..44].copy_from_slice(&self.stored_len.to_le_bytes());
        out[44] = self.codec as u8;
        out[45] = shift;
        out[48..52].copy_from_slice(&self.data_crc.to_le_bytes());
        let crc = crc32c(&[vid.0, pack.0, pos], &out[..52]);
        out[52..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the header at `pos` of `pack`; `bytes` begin with it.
    pub fn decode(bytes: &[u8], vid: VolumeId, pack: PackId, pos: u64) -> Result<Self> {
        let place = Place::new(FileName::Pack(pack), pos);
        let mut t = Take::new(bytes, place, "frame header");
        let body = t.slice(FRAME_HEADER_LEN as usize - 4)?;
        let at_crc = t;
        let got = t.u32()?;
        let mut t = Take::new(body, place, "frame header");
        expect(&mut t, "magic RZFR", MAGIC_FRAME, Take::u32)?;
        let expected = crc32c(&[vid.0, pack.0, pos], body);
        if got != expected {
            return Err(at_crc.error(
                format_args!("CRC {expected:#010x}"),
                format_args!("{got:#010x}"),
            ));
        }
        Self::decode_fields(&mut t)
    }

    fn decode_fields(t: &mut Take<'_>) -> Result<Self> {
        let branch = Branch(t.u32()?);
        let ino = Ino(t.u64()?);
        let block = t.u64()?;
        let birth = Epoch(t.u64()?);
        let at_off = *t;
        let off = t.u32()?;
        let raw_len = t.u32()?;
        if raw_len == 0 || raw_len > BLOCK || off > BLOCK - raw_len {
            return Err(at_off.error(
                format_args!("1 to {BLOCK} bytes inside a block"),
                format_args!("{raw_len} bytes at {off}"),
            ));
        }
        let at_stored = *t;
        let stored_len = t.u32()?;
        let codec = t.u8()?;
        let codec = Codec::from_byte(codec).ok_or_else(|| at_stored.error("a codec", codec))?;
        let (fits, shift) = match codec {
            Codec::None => (stored_len == raw_len, RAW_SHIFT),
            Codec::Lz4 | Codec::Zstd => (stored_len > 0 && stored_len <= raw_len, 0),
        };
        if !fits {
            return Err(at_stored.error(
                format_args!("a stored length for {raw_len} bytes with {codec:?}"),
                stored_len,
            ));
        }
        expect(t, "csum_shift", shift, Take::u8)?;
        expect(t, "zero", 0, Take::u16)?;
        Ok(Self {
            identity: FrameIdentity {
                branch,
                ino,
                block,
                off,
                birth,
            },
            raw_len,
            stored_len,
            codec,
            data_crc: t.u32()?,
        })
    }

    /// Checks the stored bytes of the frame at `pos` of `pack` and answers with their checksums.
    pub fn check(
        &self,
        vid: VolumeId,
        pack: PackId,
        pos: u64,
        stored: &[u8],
    ) -> Result<Box<[u32]>> {
        let place = Place::new(FileName::Pack(pack), pos.saturating_add(FRAME_HEADER_LEN));
        if stored.len() != self.stored_len as usize {
            return Err(place.error("stored bytes of a frame", self.stored_len, stored.len()));
        }
        let checksums = self.identity.checksums(vid, self.codec, stored);
        let got = self.identity.data_crc(vid, &checksums);
        if got != self.data_crc {
            return Err(place.error(
                "stored bytes of a frame",
                format_args!("CRC {:#010x}", self.data_crc),
                format_args!("{got:#010x}"),
            ));
        }
        Ok(checksums)
    }

    /// A reference to the whole frame at `pos` of `pack` by the file that wrote it.
    #[must_use]
    pub fn reference(&self, pack: PackId, pos: u64, crcs: Box<[u32]>) -> PackRef {
        PackRef {
            pack,
            pos,
            stored_len: self.stored_len,
            raw_len: self.raw_len,
            skip: 0,
            codec: self.codec,
            birth: self.identity.birth,
            origin: None,
            crcs,
        }
    }
}

#[cfg(test)]
#[path = "pack/pack_tests.rs"]
mod pack_tests;
