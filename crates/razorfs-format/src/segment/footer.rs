//! Footer of a segment: its last 4096 bytes.
//!
//! | off | size | field |
//! |---|---|---|
//! | 0 | 4 | magic `RZSF` |
//! | 4 | 2 | version 1 |
//! | 6 | 1 | tag of the table |
//! | 7 | 1 | zero |
//! | 8 | 8 | volume id |
//! | 16 | 8 | segment id |
//! | 24 | 8+8 | smallest and largest epoch |
//! | 40 | 8+8 | number of records, and of tombstones among them |
//! | 56 | 8 | length of the file, footer included |
//! | 64 | 12 | top index: offset, length, CRC |
//! | 76 | 4 | number of data blocks |
//! | 80 | 32 | first key, zero padded |
//! | 112 | 32 | last key, zero padded |
//! | 144 | 3948 | zero |
//! | 4092 | 4 | CRC over 0..4092, seeded (volume, segment, 4096); the manifest repeats it |

use crate::crc::crc32c;
use crate::error::Result;
use crate::ids::Epoch;
use crate::key::Key;
use crate::segment::header::{expect, expect_zeros};
use crate::segment::{Handle, Identity};
use crate::wire::{Put, Take};

/// Bytes of a footer.
pub const FOOTER_LEN: usize = 4096;
const MAGIC: u32 = u32::from_le_bytes(*b"RZSF");
const VERSION: u16 = 1;
const KEY_FIELD: usize = 32;

/// The footer of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Footer {
    /// Whose footer it is.
    pub id: Identity,
    /// Smallest epoch of a record.
    pub epoch_min: Epoch,
    /// Largest epoch of a record.
    pub epoch_max: Epoch,
    /// Number of records, tombstones included.
    pub entries: u64,
    /// Number of tombstones.
    pub tombstones: u64,
    /// Length of the file, footer included.
    pub bytes: u64,
    /// The top index.
    pub top: Handle,
    /// Number of data blocks.
    pub blocks: u32,
    /// First key.
    pub first: Key,
    /// Last key.
    pub last: Key,
}

fn seed(id: Identity) -> [u64; 3] {
    [id.volume.0, id.segment.0, FOOTER_LEN as u64]
}

impl Footer {
    /// The encoding, [`FOOTER_LEN`] bytes, and its checksum.
    #[must_use]
    pub fn to_bytes(&self) -> (Vec<u8>, u32) {
        let mut out = Vec::with_capacity(FOOTER_LEN);
        out.put_u32(MAGIC);
        out.put_u16(VERSION);
        out.put_u8(self.id.tag as u8);
        out.put_u8(0);
        for v in [
            self.id.volume.0,
            self.id.segment.0,
            self.epoch_min.0,
            self.epoch_max.0,
            self.entries,
            self.tombstones,
            self.bytes,
        ] {
            out.put_u64(v);
        }
        self.top.encode(&mut out);
        out.put_u32(self.blocks);
        for key in [self.first, self.last] {
            let end = out.len() + KEY_FIELD;
            out.extend_from_slice(key.as_bytes());
            out.resize(end, 0);
        }
        out.resize(FOOTER_LEN - 4, 0);
        let crc = crc32c(&seed(self.id), &out);
        out.put_u32(crc);
        (out, crc)
    }

    /// Reads the footer of segment `id`, whose checksum the manifest knows, from the last bytes of
    /// its file, which begin at `offset`.
    pub fn decode(bytes: &[u8], id: Identity, crc: u32, offset: u64) -> Result<Self> {
        let mut t = Take::new(bytes, id.place(offset), "segment footer");
        let mut tail = t;
        let covered = tail.slice(FOOTER_LEN - 4)?;
        expect(&mut tail, Take::u32, crc)?;
        tail.end()?;
        let got = crc32c(&seed(id), covered);
        if got != crc {
            return Err(t.error(
                format_args!("checksum {crc:#010x}"),
                format_args!("{got:#010x}"),
            ));
        }
        expect(&mut t, Take::u32, MAGIC)?;
        expect(&mut t, Take::u16, VERSION)?;
        expect(&mut t, Take::u8, id.tag as u8)?;
        expect_zeros(&mut t, 1)?;
        expect(&mut t, Take::u64, id.volume.0)?;
        expect(&mut t, Take::u64, id.segment.0)?;
        let footer = Self {
            id,
            epoch_min: Epoch(t.u64()?),
            epoch_max: Epoch(t.u64()?),
            entries: t.u64()?,
            tombstones: t.u64()?,
            bytes: t.u64()?,
            top: Handle::decode(&mut t)?,
            blocks: t.u32()?,
            first: key_field(&mut t, id)?,
            last: key_field(&mut t, id)?,
        };
        expect_zeros(&mut t, FOOTER_LEN - 148)?;
        Ok(footer)
    }
}

fn key_field(t: &mut Take<'_>, id: Identity) -> Result<Key> {
    let start = *t;
    let len = id.tag.key_len();
    let key = t.slice(len)?;
    expect_zeros(t, KEY_FIELD - len)?;
    Key::from_bytes(key)
        .filter(|key| key.tag() == id.tag)
        .ok_or_else(|| start.error("a key of the table", format_args!("bytes {key:02x?}")))
}
