//! Header of a segment, 64 bytes.
//!
//! | off | size | field |
//! |---|---|---|
//! | 0 | 4 | magic `RZSG` |
//! | 4 | 2 | version 1 |
//! | 6 | 1 | tag of the table |
//! | 7 | 1 | codec that blocks were offered to |
//! | 8 | 8 | volume id |
//! | 16 | 8 | segment id |
//! | 24 | 8 | smallest epoch |
//! | 32 | 8 | largest epoch |
//! | 40 | 20 | zero |
//! | 60 | 4 | CRC over 0..60, seeded (volume, segment) |
//!
//! Valid if magic, version, tag, codec, ids, zeros and CRC are right. Readers go by the footer; the
//! header is for whoever has nothing but the file.

use crate::crc::crc32c;
use crate::error::Result;
use crate::ids::Epoch;
use crate::key::Tag;
use crate::record::Codec;
use crate::segment::Identity;
use crate::wire::{Put, Take};

/// Bytes of a header.
pub const HEADER_LEN: usize = 64;
const MAGIC: u32 = u32::from_le_bytes(*b"RZSG");
const VERSION: u16 = 1;

/// The header of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Whose header it is.
    pub id: Identity,
    /// Codec that blocks were offered to.
    pub codec: Codec,
    /// Smallest epoch of a record.
    pub epoch_min: Epoch,
    /// Largest epoch of a record.
    pub epoch_max: Epoch,
}

impl Header {
    /// The encoding: [`HEADER_LEN`] bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN);
        out.put_u32(MAGIC);
        out.put_u16(VERSION);
        out.put_u8(self.id.tag as u8);
        out.put_u8(self.codec as u8);
        out.put_u64(self.id.volume.0);
        out.put_u64(self.id.segment.0);
        out.put_u64(self.epoch_min.0);
        out.put_u64(self.epoch_max.0);
        out.resize(HEADER_LEN - 4, 0);
        let crc = crc32c(&[self.id.volume.0, self.id.segment.0], &out);
        out.put_u32(crc);
        out
    }

    /// Reads the header of segment `id` from the first bytes of its file.
    pub fn decode(bytes: &[u8], id: Identity) -> Result<Self> {
        let mut t = Take::new(bytes, id.place(0), "segment header");
        let covered = Take::new(t.rest(), t.place(), "segment header").slice(HEADER_LEN - 4)?;
        let crc = crc32c(&[id.volume.0, id.segment.0], covered);
        expect(&mut t, Take::u32, MAGIC)?;
        expect(&mut t, Take::u16, VERSION)?;
        expect(&mut t, Take::u8, id.tag as u8)?;
        let at_codec = t;
        let byte = t.u8()?;
        let codec = Codec::from_byte(byte).ok_or_else(|| at_codec.error("a codec", byte))?;
        expect(&mut t, Take::u64, id.volume.0)?;
        expect(&mut t, Take::u64, id.segment.0)?;
        let (epoch_min, epoch_max) = (Epoch(t.u64()?), Epoch(t.u64()?));
        expect_zeros(&mut t, 20)?;
        expect(&mut t, Take::u32, crc)?;
        Ok(Self {
            id,
            codec,
            epoch_min,
            epoch_max,
        })
    }
}

/// Reads a field that must have one value.
pub(super) fn expect<'a, T: PartialEq + std::fmt::LowerHex>(
    t: &mut Take<'a>,
    read: fn(&mut Take<'a>) -> Result<T>,
    expected: T,
) -> Result<()> {
    let start = *t;
    let got = read(t)?;
    if got == expected {
        return Ok(());
    }
    Err(start.error(format_args!("{expected:#x}"), format_args!("{got:#x}")))
}

/// Reads bytes that must be zero.
pub(super) fn expect_zeros(t: &mut Take<'_>, n: usize) -> Result<()> {
    let start = *t;
    match t.slice(n)?.iter().find(|b| **b != 0) {
        None => Ok(()),
        Some(b) => Err(start.error("zeros", b)),
    }
}

/// Reads a tag that must be `expected`, for blocks that repeat it.
pub(super) fn expect_key_len(t: &mut Take<'_>, tag: Tag) -> Result<()> {
    expect(t, Take::u8, tag.key_len() as u8)
}
