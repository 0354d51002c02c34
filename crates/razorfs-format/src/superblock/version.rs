//! Versions of the format, and what tells a volume of a newer one from a damaged one.
//!
//! Every major version keeps, of each of its slots: their number, length and places, the magic in
//! bytes 0 to 4, the version in bytes 4 to 8, and the checksum of this version in bytes 4092 to
//! 4096. All else may change. So a slot with a right checksum and a newer major version is not
//! damaged, and a volume that has even one is left alone: a newer razorfs may be in the middle of
//! writing it anew, and what it needs for that is not known here. A slot whose checksum is wrong
//! is damaged, whatever it says of its version.

use std::fmt;

use super::{MAGIC, MAJOR, MINOR, SLOT, offset};
use crate::crc::crc32c;
use crate::error::{Place, Result};
use crate::layout::FileName;
use crate::wire::Take;

/// A version of the format.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Version {
    /// Another one is refused.
    pub major: u16,
    /// A later one only adds what an older reader may ignore.
    pub minor: u16,
}

impl Version {
    /// The newest that this code knows.
    pub const NEWEST: Self = Self {
        major: MAJOR,
        minor: MINOR,
    };
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The version of slot number `slot`, if it is whole and of a newer major version than this code
/// knows.
#[must_use]
pub fn newer(slot: usize, bytes: &[u8]) -> Option<Version> {
    read(slot, bytes).ok().flatten()
}

fn read(slot: usize, bytes: &[u8]) -> Result<Option<Version>> {
    let place = Place::new(FileName::Super, (slot * SLOT) as u64);
    let whole = Take::new(bytes, place, "superblock").slice(SLOT)?;
    let (body, crc) = whole.split_at(offset::CRC);
    let mut t = Take::new(body, place, "superblock");
    let is_ours = t.u32()? == MAGIC;
    let (major, minor) = (t.u16()?, t.u16()?);
    let crc = Take::new(crc, place, "superblock").u32()?;
    let is_newer = is_ours && major > MAJOR && crc == crc32c(&[slot as u64], body);
    Ok(is_newer.then_some(Version { major, minor }))
}
