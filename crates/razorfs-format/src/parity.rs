//! Parity of a sealed pack or a segment, in a file of its own beside it: what a disk loses of the
//! object is made again from the rest.
//!
//! The object is cut into shards, the last one filled up with zeros, and the shards into groups of
//! 32, the last one shorter. Each group has two recovery shards of a Reed-Solomon code: any two
//! shards of a group can be lost. A run of as many bytes as a shard has touches two at most.
//!
//! The file is written once, after the object, and never changes:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | magic `RZRQ` |
//! | 4 | 2 | version, 1 |
//! | 6 | 1 | kind of the object: 1 pack, 2 segment |
//! | 7 | 1 | recovery shards of a group, 2 |
//! | 8 | 8 | vid |
//! | 16 | 8 | number of the object |
//! | 24 | 8 | bytes of the object |
//! | 32 | 4 | bytes of a shard: a multiple of 64, 65536 at most |
//! | 36 | 2 | shards of a full group, 32 |
//! | 38 | 22 | zeros |
//! | 60 | 4 | CRC of bytes 0 to 60, seeded (vid, kind, number) |
//!
//! and then, for each group,
//!
//! | size | field |
//! |---|---|
//! | 4 each | CRC of each shard of the object, seeded (vid, kind, number, group, place in the group) |
//! | 4 + 4 | CRC of the recovery shards, whose places follow those of the object's |
//! | 4 | CRC of these sums, seeded (vid, kind, number, group) |
//! | a shard each | the recovery shards |
//!
//! An object below 128 KiB has two shards of half its length, so the whole of it can be lost; the
//! parity of a larger one has 128 KiB for each 2 MiB or part of them, and 140 bytes of sums: 6.26 %
//! from 2 MiB on, and less than 7 % of any object above 54 MiB, whatever its last group is.
//!
//! The code is that of the crate reed-solomon-simd (Leopard, over fields of 2^16); a test keeps
//! its bytes.

mod builder;
mod code;

pub use builder::Builder;
pub use code::{Group, Lost, Sums};

use crate::crc::crc32c;
use crate::error::{Place, Result};
use crate::ids::{PackId, SegmentId, VolumeId};
use crate::layout::FileName;
use crate::wire::{Put, Take};

/// First four bytes, little endian.
pub const MAGIC: u32 = u32::from_le_bytes(*b"RZRQ");
/// Version of the file.
pub const VERSION: u16 = 1;
/// Bytes of the header.
pub const HEADER_LEN: usize = 64;
/// Shards of the object in a full group.
pub const SHARDS: u16 = 32;
/// Recovery shards of a group.
pub const RECOVERY: u8 = 2;
/// Bytes of a shard at most.
pub const SHARD_MAX: u32 = 1 << 16;
/// The code works on multiples of this.
const SHARD_STEP: u64 = 64;
/// No object is longer.
const OBJECT_MAX: u64 = 1 << 48;

/// What has parity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Object {
    /// A sealed pack.
    Pack(PackId),
    /// A segment.
    Segment(SegmentId),
}

impl Object {
    /// The object that a file is, if it can have parity.
    #[must_use]
    pub const fn of(file: FileName) -> Option<Self> {
        match file {
            FileName::Pack(id) => Some(Self::Pack(id)),
            FileName::Segment(id) => Some(Self::Segment(id)),
            _ => None,
        }
    }

    /// Its file.
    #[must_use]
    pub const fn file(self) -> FileName {
        match self {
            Self::Pack(id) => FileName::Pack(id),
            Self::Segment(id) => FileName::Segment(id),
        }
    }

    /// The file of its parity.
    #[must_use]
    pub const fn parity(self) -> FileName {
        match self {
            Self::Pack(id) => FileName::PackParity(id),
            Self::Segment(id) => FileName::SegmentParity(id),
        }
    }

    /// The same while it is written.
    #[must_use]
    pub const fn parity_tmp(self) -> FileName {
        match self {
            Self::Pack(id) => FileName::PackParityTmp(id),
            Self::Segment(id) => FileName::SegmentParityTmp(id),
        }
    }

    const fn kind(self) -> u8 {
        match self {
            Self::Pack(_) => 1,
            Self::Segment(_) => 2,
        }
    }

    const fn number(self) -> u64 {
        match self {
            Self::Pack(id) => id.0,
            Self::Segment(id) => id.0,
        }
    }
}

/// Which object, and how it is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// The volume.
    pub vid: VolumeId,
    /// The object.
    pub object: Object,
    /// Its bytes.
    pub len: u64,
    /// Bytes of a shard.
    shard: u32,
}

impl Shape {
    /// How an object of `len` bytes, at least one, is cut, into shards of `most` bytes, unless it
    /// is small.
    #[must_use]
    pub fn new(vid: VolumeId, object: Object, len: u64, most: u32) -> Self {
        let half = len.clamp(1, OBJECT_MAX).div_ceil(2);
        let half = half.next_multiple_of(SHARD_STEP);
        let most = most.clamp(SHARD_STEP as u32, SHARD_MAX) / SHARD_STEP as u32;
        let most = most * SHARD_STEP as u32;
        Self {
            vid,
            object,
            len: len.clamp(1, OBJECT_MAX),
            shard: u32::try_from(half).map_or(most, |half| half.min(most)),
        }
    }

    /// Bytes of a shard.
    #[must_use]
    pub const fn shard(&self) -> usize {
        self.shard as usize
    }

    /// Bytes of the object in a full group.
    #[must_use]
    pub const fn group_bytes(&self) -> u64 {
        self.shard as u64 * SHARDS as u64
    }

    /// Number of groups.
    #[must_use]
    pub fn groups(&self) -> u32 {
        // At most 2^48 bytes in groups of 2^11 at least; what does not fit was refused.
        u32::try_from(self.len.div_ceil(self.group_bytes())).unwrap_or(u32::MAX)
    }

    /// The group that holds a byte of the object.
    #[must_use]
    pub fn group_of(&self, offset: u64) -> u32 {
        u32::try_from(offset / self.group_bytes()).unwrap_or(u32::MAX)
    }

    /// One group.
    #[must_use]
    pub fn group(&self, index: u32) -> Group {
        let start = u64::from(index) * self.group_bytes();
        let end = start.saturating_add(self.group_bytes()).min(self.len);
        let bytes = end.saturating_sub(start);
        let shards = bytes.div_ceil(u64::from(self.shard)) as usize;
        let full = code::record_len(SHARDS.into(), self.shard());
        Group {
            shape: *self,
            index,
            start,
            bytes: bytes as usize,
            shards,
            record: HEADER_LEN as u64 + u64::from(index) * full as u64,
        }
    }

    /// Bytes of the file of the parity.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        let last = self.group(self.groups().saturating_sub(1));
        last.record + last.record_len() as u64
    }

    fn place(&self, offset: u64) -> Place {
        Place::new(self.object.parity(), offset)
    }

    fn crc(&self, more: &[u64], bytes: &[u8]) -> u32 {
        let (kind, number) = (u64::from(self.object.kind()), self.object.number());
        let seed = [&[self.vid.0, kind, number], more].concat();
        crc32c(&seed, bytes)
    }

    /// The header.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut v = Vec::with_capacity(HEADER_LEN);
        v.put_u32(MAGIC);
        v.put_u16(VERSION);
        v.put_u8(self.object.kind());
        v.put_u8(RECOVERY);
        v.put_u64(self.vid.0);
        v.put_u64(self.object.number());
        v.put_u64(self.len);
        v.put_u32(self.shard);
        v.put_u16(SHARDS);
        v.resize(HEADER_LEN - 4, 0);
        let crc = self.crc(&[], &v);
        v.put_u32(crc);
        v
    }

    /// Reads the header of the parity of `object`, whose file has `file_len` bytes.
    pub fn decode(bytes: &[u8], vid: VolumeId, object: Object, file_len: u64) -> Result<Self> {
        let place = Place::new(object.parity(), 0);
        let mut t = Take::new(bytes, place, "header of parity");
        let head = t.slice(HEADER_LEN)?;
        let mut this = Self {
            vid,
            object,
            len: 1,
            shard: SHARD_STEP as u32,
        };
        let mut t = Take::new(head, place, "header of parity");
        let same = |t: &mut Take<'_>, name, expected: u64, got: u64| match got == expected {
            true => Ok(()),
            false => Err(t.error(
                format_args!("{name} {expected:#x}"),
                format_args!("{got:#x}"),
            )),
        };
        let got = t.u32()?;
        same(&mut t, "magic", MAGIC.into(), got.into())?;
        let got = t.u16()?;
        same(&mut t, "version", VERSION.into(), got.into())?;
        let got = t.u8()?;
        same(&mut t, "kind", object.kind().into(), got.into())?;
        let got = t.u8()?;
        same(&mut t, "recovery shards", RECOVERY.into(), got.into())?;
        let got = t.u64()?;
        same(&mut t, "volume", vid.0, got)?;
        let got = t.u64()?;
        same(&mut t, "object", object.number(), got)?;
        let at = t;
        this.len = t.u64()?;
        if !(1..=OBJECT_MAX).contains(&this.len) {
            return Err(at.error("an object of 1 to 2^48 bytes", this.len));
        }
        let at = t;
        this.shard = t.u32()?;
        let whole = u64::from(this.shard).is_multiple_of(SHARD_STEP);
        if this.shard == 0 || this.shard > SHARD_MAX || !whole {
            return Err(at.error("a shard of 64 to 65536 bytes", this.shard));
        }
        let got = t.u16()?;
        same(&mut t, "shards", SHARDS.into(), got.into())?;
        let zeros = t.slice(HEADER_LEN - 4 - 38)?;
        if zeros.iter().any(|b| *b != 0) {
            return Err(t.error("zeros", "other bytes"));
        }
        let at = t;
        let (got, body) = (t.u32()?, head.get(..HEADER_LEN - 4).unwrap_or_default());
        let expected = this.crc(&[], body);
        if got != expected {
            let got = format_args!("{got:08x}").to_string();
            return Err(at.error(format_args!("checksum {expected:08x}"), got));
        }
        if this.len.div_ceil(this.group_bytes()) >= u64::from(u32::MAX)
            || this.file_len() != file_len
        {
            let expected = format_args!("{} bytes", this.file_len()).to_string();
            return Err(place.error("length of parity", expected, file_len));
        }
        Ok(this)
    }
}

/// Whose parity an intact header says that it is.
#[must_use]
pub fn claimed(header: &[u8]) -> Option<(VolumeId, Object)> {
    let mut t = Take::new(header, Place::new(FileName::Super, 0), "header of parity");
    let _magic_and_version = t.slice(6).ok()?;
    let kind = t.u8().ok()?;
    let _recovery = t.u8().ok()?;
    let (vid, number) = (VolumeId(t.u64().ok()?), t.u64().ok()?);
    let len = t.u64().ok()?;
    let shard = t.u32().ok()?;
    let object = match kind {
        1 => Object::Pack(PackId(number)),
        2 => Object::Segment(SegmentId(number)),
        _ => return None,
    };
    let shape = Shape {
        vid,
        object,
        len,
        shard,
    };
    (header.get(..HEADER_LEN)? == shape.encode()).then_some((vid, object))
}

#[cfg(test)]
#[path = "parity/parity_tests.rs"]
mod parity_tests;
