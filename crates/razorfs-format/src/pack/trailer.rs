//! The list of a sealed pack's frames.

use super::{FRAME_ALIGN, FRAME_HEADER_LEN, HEADER_LEN, VERSION, expect, frame_len};
use crate::crc::crc32c;
use crate::error::{Place, Result};
use crate::ids::{Branch, Epoch, Ino, PackId, VolumeId};
use crate::layout::FileName;
use crate::record::BLOCK;
use crate::wire::{Put, Take};

const MAGIC_FOOTER: u32 = u32::from_le_bytes(*b"RZPF");
/// Fewest bytes of an entry: five varints.
const ENTRY_MIN: usize = 5;

/// One frame, as the trailer lists it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TrailerEntry {
    /// Position of its header.
    pub pos: u64,
    /// Bytes stored after the header.
    pub stored_len: u32,
    /// Branch at writing.
    pub branch: Branch,
    /// File at writing.
    pub ino: Ino,
    /// Block at writing.
    pub block: u64,
}

impl TrailerEntry {
    /// One past the last byte of the frame, padding included.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.pos.saturating_add(frame_len(self.stored_len))
    }
}

/// The last 64 bytes of a sealed pack.
///
/// ```text
///  0 u32 magic RZPF    4 u16 version    6 u16 zero    8 u64 vid   16 u64 pack
/// 24 u64 end of the frames             32 u32 number of frames    36 u32 trailer length
/// 40 u32 trailer CRC  44 u32 zero      48 u64 last birth epoch    56 u32 zero   60 u32 CRC
/// ```
///
/// Both checksums are seeded: the footer's (vid, pack), the trailer's (vid, pack, end).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Footer {
    /// End of the frames, beginning of the trailer.
    pub end: u64,
    /// Number of frames listed.
    pub count: u32,
    /// Bytes of the trailer, padding included.
    pub trailer_len: u32,
    /// Checksum of the trailer.
    pub trailer_crc: u32,
    /// The youngest frame's epoch.
    pub last_birth: Epoch,
}

impl Footer {
    /// Bytes of a footer.
    pub const LEN: u64 = 64;

    /// The footer of `pack`.
    #[must_use]
    pub fn encode(&self, vid: VolumeId, pack: PackId) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::LEN as usize);
        out.put_u32(MAGIC_FOOTER);
        out.put_u16(VERSION);
        out.put_u16(0);
        out.put_u64(vid.0);
        out.put_u64(pack.0);
        out.put_u64(self.end);
        out.put_u32(self.count);
        out.put_u32(self.trailer_len);
        out.put_u32(self.trailer_crc);
        out.put_u32(0);
        out.put_u64(self.last_birth.0);
        out.put_u32(0);
        out.put_u32(crc32c(&[vid.0, pack.0], &out));
        out
    }

    /// Reads the footer of `pack`, a file of `file_len` bytes whose last 64 are `bytes`.
    pub fn decode(bytes: &[u8], vid: VolumeId, pack: PackId, file_len: u64) -> Result<Self> {
        let place = Place::new(FileName::Pack(pack), file_len.saturating_sub(Self::LEN));
        let mut t = Take::new(bytes, place, "pack footer");
        let body = t.slice(Self::LEN as usize - 4)?;
        let at_crc = t;
        let got = t.u32()?;
        t.end()?;
        let mut t = Take::new(body, place, "pack footer");
        expect(&mut t, "magic RZPF", MAGIC_FOOTER, Take::u32)?;
        let expected = crc32c(&[vid.0, pack.0], body);
        if got != expected {
            return Err(at_crc.error(
                format_args!("CRC {expected:#010x}"),
                format_args!("{got:#010x}"),
            ));
        }
        expect(&mut t, "version 1", VERSION, Take::u16)?;
        expect(&mut t, "zero", 0, Take::u16)?;
        expect(&mut t, "the volume's id", vid.0, Take::u64)?;
        expect(&mut t, "the pack's id", pack.0, Take::u64)?;
        let at_end = t;
        let end = t.u64()?;
        let count = t.u32()?;
        let trailer_len = t.u32()?;
        let trailer_crc = t.u32()?;
        expect(&mut t, "zero", 0, Take::u32)?;
        let last_birth = Epoch(t.u64()?);
        expect(&mut t, "zero", 0, Take::u32)?;
        let adds_up = end
            .checked_add(u64::from(trailer_len))
            .and_then(|n| n.checked_add(Self::LEN))
            == Some(file_len);
        if end < HEADER_LEN || !end.is_multiple_of(FRAME_ALIGN) || !adds_up {
            return Err(at_end.error(
                format_args!("frames and trailer that fill {file_len} bytes"),
                format_args!("frames up to {end}, trailer of {trailer_len}"),
            ));
        }
        Ok(Self {
            end,
            count,
            trailer_len,
            trailer_crc,
            last_birth,
        })
    }
}

/// The trailer and its footer for a pack whose frames end at `end`; `entries` are in order.
#[must_use]
pub fn encode_trailer(
    vid: VolumeId,
    pack: PackId,
    end: u64,
    last_birth: Epoch,
    entries: &[TrailerEntry],
) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len() * 10 + 128);
    let (mut at, mut ino) = (HEADER_LEN, 0u64);
    for entry in entries {
        debug_assert!(entry.pos >= at && entry.end() <= end);
        out.put_varint(entry.pos.saturating_sub(at) / FRAME_ALIGN);
        out.put_varint(u64::from(entry.stored_len));
        out.put_varint(u64::from(entry.branch.0));
        out.put_signed(entry.ino.0.wrapping_sub(ino) as i64);
        out.put_varint(entry.block);
        (at, ino) = (entry.end(), entry.ino.0);
    }
    out.resize(out.len().next_multiple_of(FRAME_ALIGN as usize), 0);
    let footer = Footer {
        end,
        count: entries.len() as u32,
        trailer_len: out.len() as u32,
        trailer_crc: crc32c(&[vid.0, pack.0, end], &out),
        last_birth,
    };
    out.extend_from_slice(&footer.encode(vid, pack));
    out
}

/// Reads the trailer that `footer` describes: the bytes from `footer.end` on.
pub fn decode_trailer(
    bytes: &[u8],
    footer: &Footer,
    vid: VolumeId,
    pack: PackId,
) -> Result<Vec<TrailerEntry>> {
    let place = Place::new(FileName::Pack(pack), footer.end);
    let mut t = Take::new(bytes, place, "pack trailer");
    let start = t;
    let body = t.slice(footer.trailer_len as usize)?;
    t.end()?;
    let got = crc32c(&[vid.0, pack.0, footer.end], body);
    if got != footer.trailer_crc {
        return Err(start.error(
            format_args!("CRC {:#010x}", footer.trailer_crc),
            format_args!("{got:#010x}"),
        ));
    }
    // What the bytes can hold bounds the memory, not what the count says.
    if footer.count as usize > body.len() / ENTRY_MIN {
        return Err(start.error(
            format_args!("at most {} frames", body.len() / ENTRY_MIN),
            footer.count,
        ));
    }
    let mut entries = Vec::with_capacity(footer.count as usize);
    let mut t = Take::new(body, place, "pack trailer");
    let (mut at, mut ino) = (HEADER_LEN, 0u64);
    for _ in 0..footer.count {
        let start = t;
        let gap = t.varint_max(footer.end / FRAME_ALIGN)?;
        let stored_len = t.varint_max(u64::from(BLOCK))? as u32;
        let entry = TrailerEntry {
            pos: at.saturating_add(gap * FRAME_ALIGN),
            stored_len,
            branch: Branch(t.varint32()?),
            ino: Ino(ino.wrapping_add(t.signed()? as u64)),
            block: t.varint()?,
        };
        if entry.end() > footer.end {
            return Err(start.error(
                format_args!("a frame that ends by {}", footer.end),
                format_args!("{} bytes at {}", entry.stored_len, entry.pos),
            ));
        }
        (at, ino) = (entry.end(), entry.ino.0);
        entries.push(entry);
    }
    if t.rest().len() >= FRAME_ALIGN as usize || t.rest().iter().any(|b| *b != 0) {
        return Err(t.error("zeros up to a multiple of 8", "other bytes"));
    }
    Ok(entries)
}

const _: () = assert!(FRAME_HEADER_LEN < Footer::LEN);
