//! `SCRUB`: how far a scrub is, and what the last one found. It is written anew as a whole, under
//! a temporary name first; one that is damaged means that nothing is known, and the next scrub
//! begins at the beginning.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | magic `RZSC` |
//! | 4 | 2 | version, 1 |
//! | 6 | 1 | state: 1 running, 2 paused, 3 neither |
//! | 7 | 1 | what comes next: 0 superblock, 1 manifest, 2 a segment, 3 a pack |
//! | 8 | 8 | vid |
//! | 16 | 8 | number of the segment or pack |
//! | 24 | 8 | where in it |
//! | 32 | 8 | bytes a second at most, 0 for as many as there are |
//! | 40 | 8 | bytes that were looked at |
//! | 48 | 8 | shards and copies that were healed |
//! | 56 | 8 | things that are damaged and cannot be healed |
//! | 64 | 8 | when it began, nanoseconds since 1970 |
//! | 72 | 8 | when the last one that came to its end ended, 0 if there is none |
//! | 80 | 8 + 8 | what that one healed, and what it found damaged |
//! | 96 | 2 | findings listed, 256 at most |
//! | 98 | … | each: number (2), object and detail (length as varint, UTF-8, 1024 bytes at most) |
//! | end | 4 | CRC of all before, seeded (vid) |

use crate::crc::crc32c;
use crate::error::{Place, Result};
use crate::ids::VolumeId;
use crate::layout::FileName;
use crate::wire::{Put, Take};

/// First four bytes, little endian.
pub const MAGIC: u32 = u32::from_le_bytes(*b"RZSC");
const VERSION: u16 = 1;
/// Most findings that are listed.
pub const FINDINGS_MAX: usize = 256;
const TEXT_MAX: usize = 1024;
/// The file is never longer.
pub const FILE_MAX: usize = 1 << 20;

/// Whether it works.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum State {
    /// It goes on with the next mount.
    Running = 1,
    /// Somebody has stopped it for a while.
    Paused = 2,
    /// It came to its end, or there was none.
    #[default]
    Idle = 3,
}

/// What is looked at next.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Position {
    /// 0 superblock, 1 manifest, 2 a segment, 3 a pack.
    pub kind: u8,
    /// The first segment or pack that was not looked at, or not to its end.
    pub number: u64,
    /// Where in it.
    pub offset: u64,
}

/// Damage that cannot be healed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// The number that `verify` has for it.
    pub number: u16,
    /// Where.
    pub object: String,
    /// What was expected, and what was found.
    pub detail: String,
}

/// A scrub that came to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Last {
    /// When, in nanoseconds since 1970.
    pub ended: u64,
    /// What it healed.
    pub healed: u64,
    /// What it found damaged, and could not heal.
    pub damaged: u64,
}

/// All of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Record {
    /// Whether it works.
    pub state: State,
    /// What comes next.
    pub position: Position,
    /// Bytes a second at most, 0 for as many as there are.
    pub rate: u64,
    /// Bytes that were looked at.
    pub done: u64,
    /// Shards and copies that were healed.
    pub healed: u64,
    /// Things that are damaged and cannot be healed.
    pub damaged: u64,
    /// When it began, in nanoseconds since 1970.
    pub started: u64,
    /// The last one that came to its end.
    pub last: Option<Last>,
    /// Of this one, or of the last one: as many as are listed.
    pub findings: Vec<Found>,
}

/// As much of a text as is kept.
fn cut(text: &str) -> &str {
    let end = (0..=text.len().min(TEXT_MAX))
        .rev()
        .find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}

impl Record {
    /// The bytes of the file.
    #[must_use]
    pub fn encode(&self, vid: VolumeId) -> Vec<u8> {
        let mut v = Vec::new();
        v.put_u32(MAGIC);
        v.put_u16(VERSION);
        v.put_u8(self.state as u8);
        v.put_u8(self.position.kind);
        v.put_u64(vid.0);
        let last = self.last.unwrap_or(Last {
            ended: 0,
            healed: 0,
            damaged: 0,
        });
        for number in [
            self.position.number,
            self.position.offset,
            self.rate,
            self.done,
            self.healed,
            self.damaged,
            self.started,
            last.ended,
            last.healed,
            last.damaged,
        ] {
            v.put_u64(number);
        }
        let findings = self.findings.get(..FINDINGS_MAX).unwrap_or(&self.findings);
        v.put_u16(findings.len() as u16);
        for found in findings {
            v.put_u16(found.number);
            v.put_bytes(cut(&found.object).as_bytes());
            v.put_bytes(cut(&found.detail).as_bytes());
        }
        let crc = crc32c(&[vid.0], &v);
        v.put_u32(crc);
        v
    }

    /// Reads the file.
    pub fn decode(bytes: &[u8], vid: VolumeId) -> Result<Self> {
        let place = Place::new(FileName::Scrub, 0);
        let (body, crc) = bytes.split_at(bytes.len().saturating_sub(4));
        let at = Take::new(crc, place.plus(body.len() as u64), "scrub");
        let (got, expected) = (Take::u32(&mut { at })?, crc32c(&[vid.0], body));
        if got != expected {
            let got = format_args!("{got:08x}").to_string();
            return Err(at.error(format_args!("checksum {expected:08x}"), got));
        }
        let mut t = Take::new(body, place, "scrub");
        let at = t;
        let head = (t.u32()?, t.u16()?);
        if head != (MAGIC, VERSION) {
            return Err(at.error("magic RZSC, version 1", format_args!("{head:x?}")));
        }
        let at = t;
        let state = match t.u8()? {
            1 => State::Running,
            2 => State::Paused,
            3 => State::Idle,
            other => return Err(at.error("state 1, 2 or 3", other)),
        };
        let at = t;
        let kind = t.u8()?;
        if kind > 3 {
            return Err(at.error("0 to 3", kind));
        }
        let at = t;
        let got = t.u64()?;
        if got != vid.0 {
            return Err(at.error(
                format_args!("volume {:016x}", vid.0),
                format_args!("{got:016x}"),
            ));
        }
        let mut this = Self {
            state,
            position: Position {
                kind,
                number: t.u64()?,
                offset: t.u64()?,
            },
            rate: t.u64()?,
            done: t.u64()?,
            healed: t.u64()?,
            damaged: t.u64()?,
            started: t.u64()?,
            last: None,
            findings: Vec::new(),
        };
        let last = Last {
            ended: t.u64()?,
            healed: t.u64()?,
            damaged: t.u64()?,
        };
        this.last = (last.ended != 0).then_some(last);
        let at = t;
        let count = usize::from(t.u16()?);
        if count > FINDINGS_MAX {
            return Err(at.error("256 findings at most", count));
        }
        for _ in 0..count {
            let number = t.u16()?;
            let mut text = || -> Result<String> {
                let at = t;
                let bytes = t.bytes(TEXT_MAX)?;
                let text = std::str::from_utf8(bytes).map_err(|e| at.error("UTF-8", e))?;
                Ok(text.to_owned())
            };
            this.findings.push(Found {
                number,
                object: text()?,
                detail: text()?,
            });
        }
        t.end()?;
        Ok(this)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VID: VolumeId = VolumeId(7);

    fn record() -> Record {
        Record {
            state: State::Paused,
            position: Position {
                kind: 3,
                number: 9,
                offset: 4096,
            },
            rate: 1,
            done: 2,
            healed: 3,
            damaged: 4,
            started: 5,
            last: Some(Last {
                ended: 6,
                healed: 7,
                damaged: 8,
            }),
            findings: vec![Found {
                number: 605,
                object: "pack/P-1.rp".into(),
                detail: "é".repeat(700),
            }],
        }
    }

    #[test]
    fn a_record_reads_back() {
        let mut record = record();
        let bytes = record.encode(VID);
        assert_eq!(bytes[..8], *b"RZSC\x01\0\x02\x03");
        assert_eq!(bytes[8..16], 7u64.to_le_bytes());
        assert_eq!(bytes[72..80], 6u64.to_le_bytes());
        assert_eq!(bytes[96..100], [1, 0, 93, 2]);
        record.findings[0].detail = "é".repeat(512);
        assert_eq!(Record::decode(&bytes, VID).unwrap(), record);
        let empty = Record::default();
        assert_eq!(Record::decode(&empty.encode(VID), VID).unwrap(), empty);
    }

    #[test]
    fn a_damaged_one_is_told() {
        let bytes = record().encode(VID);
        assert!(Record::decode(&bytes, VolumeId(8)).is_err());
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(Record::decode(&bad, VID).is_err(), "byte {at}");
            assert!(Record::decode(&bytes[..at], VID).is_err(), "{at} bytes");
        }
    }
}
