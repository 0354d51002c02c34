//! The superblock: which generation of the volume counts, and where its journal begins.
//!
//! `SUPER` holds four slots of 4096 bytes. Generation `g` is written to slots `2·(g & 1)` and
//! `2·(g & 1) + 1`, its twins, so the twins of `g − 1` stay as they are.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | magic `0x7261_7A72` |
//! | 4 | 2+2 | major version 1, minor version 0 |
//! | 8 | 8 | family `RZFSVOL1` |
//! | 16 | 16 | uuid; its first eight bytes are the [`VolumeId`] |
//! | 32 | 8 | generation |
//! | 40 | 8+8+8 | features: compat, ro_compat, incompat |
//! | 64 | 8+4+4 | manifest: id, length, checksum |
//! | 80 | 8+8+8 | journal: jid, first batch, cut LSN |
//! | 104 | 4+4 | state (1 clean, 2 dirty, 3 I/O error), flags |
//! | 112 | 8 | last batch, if clean |
//! | 120 | 8 | mount nonce |
//! | 128 | 16 | key of the name hash |
//! | 144 | 64 | geometry (below) |
//! | 208 | 3884 | [names of features](names), zeros |
//! | 4092 | 4 | CRC of bytes 0 to 4092, seeded with the slot's number |
//!
//! | offset | size | geometry |
//! |---|---|---|
//! | 144 | 1 | log2 of the block, 17 |
//! | 145 | 1 | journal copies, 1 or 2 |
//! | 146 | 1 | recovery shards of a group of parity, 0 for none: 2 |
//! | 147 | 1 | compression: 0 none, 1 LZ4, 2 zstd |
//! | 148 | 4 | level of compression, signed |
//! | 152 | 4 | largest inline run of bytes |
//! | 156 | 4 | bytes of a segment |
//! | 160 | 4 | bytes of a segment's block |
//! | 164 | 4+4+4+4 | journal: first and largest size of a file, first and largest number of them |
//! | 180 | 1 | log2 of the bytes of a shard of parity, 0 for 16 |
//! | 181 | 3 | zeros |
//! | 184 | 8 | bytes of a pack |
//! | 192 | 8 | limit of the volume in bytes, 0 for none |
//! | 200 | 8 | zeros |
//!
//! A slot is valid if magic, family, major version and checksum are right and its generation
//! belongs to that slot. Bytes that a minor version may give a meaning to are not looked at. A slot
//! of a newer major version is told apart from a damaged one ([version]).

pub mod names;
pub mod version;

use crate::crc::crc32c;
use crate::error::{Place, Result};
use crate::ids::{BatchSeq, Generation, Jid, Lsn, ManifestId, VolumeId};
use crate::layout::FileName;
use crate::wire::{Put, Take};
use names::FeatureNames;

/// First four bytes of a slot, little endian.
pub const MAGIC: u32 = 0x7261_7A72;
/// Bytes 8 to 16 of a slot: tells this format from any other with the same magic.
pub const FAMILY: [u8; 8] = *b"RZFSVOL1";
/// Major version: another one is refused.
pub const MAJOR: u16 = 1;
/// Minor version: additions that an older reader may ignore.
pub const MINOR: u16 = 0;
/// Bytes of a slot.
pub const SLOT: usize = 4096;
/// Number of slots.
pub const SLOTS: usize = 4;
/// Compatible features this code knows.
pub const KNOWN_COMPAT: u64 = 0;
/// Features without which a volume may still be read.
pub const KNOWN_RO_COMPAT: u64 = JOURNAL_TWINS | PARITY;
/// Read-only compatible: sealed packs and segments have parity beside them ([`crate::parity`]).
/// Who does not know it would punch holes under it, and leave it behind.
pub const PARITY: u64 = 1;
/// Features without which a volume may not be touched.
pub const KNOWN_INCOMPAT: u64 = SHARED_FRAMES | LINKED_BATCHES;
/// What a volume that is created has of these: those who lack it are of an older version, and
/// `razorfs migrate` writes them anew.
pub const NEWEST_INCOMPAT: u64 = LINKED_BATCHES;
/// Incompatible, set when a volume is created: the batches of its journal have links. Who does not
/// know them takes them for operations.
pub const LINKED_BATCHES: u64 = 1 << 8;
/// Incompatible: blocks share frames, which `S` records count. Set durably before the first
/// reference with an origin is journaled: who does not count them would take the frames of a
/// removed file for dead.
pub const SHARED_FRAMES: u64 = 1;
/// Read-only compatible, set when a volume with two copies of its journal is created: who does not
/// know of the second one would write the first alone, and what it leaves of the second is older
/// than what it acknowledged. To read the first alone is no worse than one copy is.
pub const JOURNAL_TWINS: u64 = 2;

/// Where the fields stand in a slot.
pub mod offset {
    #![expect(missing_docs, reason = "named after the fields")]
    pub const MAGIC: usize = 0;
    pub const VERSION: usize = 4;
    pub const FAMILY: usize = 8;
    pub const UUID: usize = 16;
    pub const GENERATION: usize = 32;
    pub const FEATURES: usize = 40;
    pub const MANIFEST: usize = 64;
    pub const JOURNAL: usize = 80;
    pub const STATE: usize = 104;
    pub const END: usize = 112;
    pub const NONCE: usize = 120;
    pub const HASH_KEY: usize = 128;
    pub const GEOMETRY: usize = 144;
    pub const REST: usize = 208;
    pub const CRC: usize = 4092;
}

const _: () = {
    assert!(offset::VERSION == offset::MAGIC + 4);
    assert!(offset::FAMILY == offset::VERSION + 4);
    assert!(offset::UUID == offset::FAMILY + 8);
    assert!(offset::GENERATION == offset::UUID + 16);
    assert!(offset::FEATURES == offset::GENERATION + 8);
    assert!(offset::MANIFEST == offset::FEATURES + 24);
    assert!(offset::JOURNAL == offset::MANIFEST + 16);
    assert!(offset::STATE == offset::JOURNAL + 24);
    assert!(offset::END == offset::STATE + 8);
    assert!(offset::NONCE == offset::END + 8);
    assert!(offset::HASH_KEY == offset::NONCE + 8);
    assert!(offset::GEOMETRY == offset::HASH_KEY + 16);
    assert!(offset::REST == offset::GEOMETRY + 64);
    assert!(offset::CRC + 4 == SLOT);
};

/// The first batch to replay, and the life of a journal file that holds it or comes before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JournalStart {
    /// The life of a journal file.
    pub jid: Jid,
    /// The first batch that the manifest does not hold.
    pub batch: BatchSeq,
}

/// Sizes of the journal ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JournalGeometry {
    /// Bytes of a file when the volume is created; a multiple of 4096.
    pub initial_file: u32,
    /// Bytes of a file at most; a multiple of 4096.
    pub max_file: u32,
    /// Number of files when the volume is created; at least 3.
    pub initial_files: u32,
    /// Number of files at most.
    pub max_files: u32,
    /// How many copies there are of each file, 1 or 2.
    pub copies: u8,
}

impl Default for JournalGeometry {
    fn default() -> Self {
        Self {
            initial_file: 512 << 10,
            max_file: 16 << 20,
            initial_files: 3,
            max_files: 6,
            copies: 1,
        }
    }
}

/// The compression that new data gets unless a directory says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum DefaultCompression {
    /// None.
    None = 0,
    /// LZ4.
    Lz4 = 1,
    /// zstd, at the geometry's level.
    Zstd = 2,
}

/// The sizes and choices that a volume was created with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// log2 of the size of a logical block.
    pub block_log2: u8,
    /// Recovery shards of each group of parity; 0 for none.
    pub parity: u8,
    /// log2 of the bytes of a shard of parity.
    pub parity_log2: u8,
    /// Compression of new data.
    pub compression: DefaultCompression,
    /// Level of compression.
    pub compression_level: i32,
    /// Longest run of data that an extent record keeps inline, in bytes.
    pub inline_max: u32,
    /// Bytes of a segment, about.
    pub segment_bytes: u32,
    /// Bytes of a segment's block before compression, about.
    pub segment_block_bytes: u32,
    /// The journal ring.
    pub journal: JournalGeometry,
    /// Bytes after which a pack is sealed.
    pub pack_bytes: u64,
    /// Limit of the volume in bytes; `None` for what the host has.
    pub limit: Option<u64>,
}

impl Default for Geometry {
    fn default() -> Self {
        Self {
            block_log2: 17,
            parity: 0,
            parity_log2: 16,
            compression: DefaultCompression::Lz4,
            compression_level: 0,
            inline_max: 2048,
            segment_bytes: 32 << 20,
            segment_block_bytes: 16 << 10,
            journal: JournalGeometry::default(),
            pack_bytes: 128 << 20,
            limit: None,
        }
    }
}

/// How the volume was left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum State {
    /// Closed in order: the journal ends with [`Superblock::end`].
    Clean = 1,
    /// In use, or crashed.
    Dirty = 2,
    /// A write failed for good; what was acknowledged is there.
    IoError = 3,
}

/// Bits that name what a volume uses beyond the base format.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features {
    /// May be ignored.
    pub compat: u64,
    /// A reader may ignore them, a writer must know them.
    pub ro_compat: u64,
    /// Must be known.
    pub incompat: u64,
}

/// What this code may do with a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Read and write.
    Writable,
    /// Read only: these `ro_compat` bits are unknown.
    ReadOnly(u64),
    /// Nothing: these `incompat` bits are unknown.
    Refused(u64),
}

impl Features {
    /// What may be done with a volume that has these features.
    #[must_use]
    pub const fn access(self) -> Access {
        let refused = self.incompat & !KNOWN_INCOMPAT;
        let read_only = self.ro_compat & !KNOWN_RO_COMPAT;
        if refused != 0 {
            Access::Refused(refused)
        } else if read_only != 0 {
            Access::ReadOnly(read_only)
        } else {
            Access::Writable
        }
    }
}

/// The manifest that a generation names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ManifestRef {
    /// Its id.
    pub id: ManifestId,
    /// Its length in bytes.
    pub len: u32,
    /// The checksum of all its bytes.
    pub crc: u32,
}

/// One generation of the volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Superblock {
    /// The volume.
    pub uuid: [u8; 16],
    /// The generation; the highest valid one counts.
    pub generation: Generation,
    /// What the volume uses beyond the base format.
    pub features: Features,
    /// The manifest of this generation.
    pub manifest: ManifestRef,
    /// Where replay begins.
    pub journal: JournalStart,
    /// The first operation that the manifest does not hold.
    pub cut: Lsn,
    /// How the volume was left.
    pub state: State,
    /// Reserved, 0.
    pub flags: u32,
    /// The last batch of the journal, if the state is clean.
    pub end: BatchSeq,
    /// Changes with each mount: a second host that writes is noticed.
    pub nonce: u64,
    /// Key of the hash of names.
    pub hash_key: [u8; 16],
    /// Sizes and choices of the volume.
    pub geometry: Geometry,
    /// Names of features that not every version knows.
    pub names: FeatureNames,
}

/// The two slots that hold `generation`.
#[must_use]
pub const fn slots_of(generation: Generation) -> [usize; 2] {
    let first = 2 * (generation.0 & 1) as usize;
    [first, first + 1]
}

/// The slot that holds the same generation as `slot`.
#[must_use]
pub const fn twin_of(slot: usize) -> usize {
    slot ^ 1
}

/// The newest valid slot, and its number; of twins the first.
pub fn pick(slots: &[Result<Superblock>]) -> Option<(usize, &Superblock)> {
    let mut newest: Option<(usize, &Superblock)> = None;
    for (i, slot) in slots.iter().enumerate() {
        if let Ok(s) = slot
            && newest.is_none_or(|(_, n)| s.generation > n.generation)
        {
            newest = Some((i, s));
        }
    }
    newest
}

impl Superblock {
    /// The identity that seeds the volume's checksums.
    #[must_use]
    pub fn vid(&self) -> VolumeId {
        let [a, b, c, d, e, f, g, h, ..] = self.uuid;
        VolumeId(u64::from_le_bytes([a, b, c, d, e, f, g, h]))
    }

    /// The last batch of a volume that was closed in order.
    #[must_use]
    pub fn clean_end(&self) -> Option<BatchSeq> {
        (self.state == State::Clean).then_some(self.end)
    }

    /// The 4096 bytes of slot number `slot`.
    #[must_use]
    pub fn encode(&self, slot: usize) -> Vec<u8> {
        let mut v = Vec::with_capacity(SLOT);
        v.put_u32(MAGIC);
        v.put_u16(MAJOR);
        v.put_u16(MINOR);
        v.extend_from_slice(&FAMILY);
        v.extend_from_slice(&self.uuid);
        v.put_u64(self.generation.0);
        v.put_u64(self.features.compat);
        v.put_u64(self.features.ro_compat);
        v.put_u64(self.features.incompat);
        debug_assert_eq!(v.len(), offset::MANIFEST);
        v.put_u64(self.manifest.id.0);
        v.put_u32(self.manifest.len);
        v.put_u32(self.manifest.crc);
        v.put_u64(u64::from(self.journal.jid.0));
        v.put_u64(self.journal.batch.0);
        v.put_u64(self.cut.0);
        debug_assert_eq!(v.len(), offset::STATE);
        v.put_u32(self.state as u32);
        v.put_u32(self.flags);
        v.put_u64(self.end.0);
        v.put_u64(self.nonce);
        v.extend_from_slice(&self.hash_key);
        debug_assert_eq!(v.len(), offset::GEOMETRY);
        self.geometry.encode(&mut v);
        debug_assert_eq!(v.len(), offset::REST);
        self.names.encode(&mut v, offset::CRC);
        v.resize(offset::CRC, 0);
        let crc = crc32c(&[slot as u64], &v);
        v.put_u32(crc);
        v
    }

    /// Reads slot number `slot`.
    pub fn decode(slot: usize, bytes: &[u8]) -> Result<Self> {
        let place = Place::new(FileName::Super, (slot * SLOT) as u64);
        let mut t = Take::new(bytes, place, "superblock");
        let whole = t.slice(SLOT)?;
        let (body, crc) = whole.split_at(offset::CRC);
        let mut t = Take::new(body, place, "superblock");
        expect(&mut t, "the magic number", MAGIC, |t| t.u32())?;
        expect(&mut t, "major version", MAJOR, |t| t.u16())?;
        let _minor = t.u16()?;
        expect(&mut t, "family", FAMILY.escape_ascii().to_string(), |t| {
            Ok(t.array::<8>()?.escape_ascii().to_string())
        })?;
        let got = Take::new(crc, place.plus(offset::CRC as u64), "superblock").u32()?;
        let computed = crc32c(&[slot as u64], body);
        if got != computed {
            return Err(place.plus(offset::CRC as u64).error(
                "superblock checksum",
                format_args!("{computed:08x}"),
                format_args!("{got:08x}"),
            ));
        }
        let mut this = Self::decode_fields(&mut t)?;
        this.names = FeatureNames::decode(t.rest(), &this.features);
        if !slots_of(this.generation).contains(&slot) {
            return Err(place.plus(offset::GENERATION as u64).error(
                "superblock generation",
                format_args!("one that belongs to slot {slot}"),
                this.generation,
            ));
        }
        Ok(this)
    }

    fn decode_fields(t: &mut Take<'_>) -> Result<Self> {
        Ok(Self {
            uuid: t.array()?,
            generation: Generation(t.u64()?),
            features: Features {
                compat: t.u64()?,
                ro_compat: t.u64()?,
                incompat: t.u64()?,
            },
            manifest: ManifestRef {
                id: ManifestId(t.u64()?),
                len: t.u32()?,
                crc: t.u32()?,
            },
            journal: JournalStart {
                jid: {
                    let at = *t;
                    let jid = t.u64()?;
                    Jid(u32::try_from(jid).map_err(|_| at.error("a jid of 32 bits", jid))?)
                },
                batch: BatchSeq(t.u64()?),
            },
            cut: Lsn(t.u64()?),
            state: {
                let at = *t;
                match t.u32()? {
                    1 => State::Clean,
                    2 => State::Dirty,
                    3 => State::IoError,
                    other => return Err(at.error("state 1, 2 or 3", other)),
                }
            },
            flags: t.u32()?,
            end: BatchSeq(t.u64()?),
            nonce: t.u64()?,
            hash_key: t.array()?,
            geometry: Geometry::decode(t)?,
            names: FeatureNames::default(),
        })
    }
}

/// The next field must be `expected`.
fn expect<T: PartialEq + ToString>(
    t: &mut Take<'_>,
    what: &'static str,
    expected: T,
    read: impl FnOnce(&mut Take<'_>) -> Result<T>,
) -> Result<()> {
    let at = *t;
    let got = read(t)?;
    if got == expected {
        return Ok(());
    }
    Err(at
        .place()
        .error(what, expected.to_string(), got.to_string()))
}

impl Geometry {
    fn encode(&self, v: &mut Vec<u8>) {
        v.put_u8(self.block_log2);
        v.put_u8(self.journal.copies);
        v.put_u8(self.parity);
        v.put_u8(self.compression as u8);
        v.extend_from_slice(&self.compression_level.to_le_bytes());
        v.put_u32(self.inline_max);
        v.put_u32(self.segment_bytes);
        v.put_u32(self.segment_block_bytes);
        v.put_u32(self.journal.initial_file);
        v.put_u32(self.journal.max_file);
        v.put_u32(self.journal.initial_files);
        v.put_u32(self.journal.max_files);
        v.put_u8(if self.parity_log2 == 16 {
            0
        } else {
            self.parity_log2
        });
        v.extend_from_slice(&[0; 3]);
        v.put_u64(self.pack_bytes);
        v.put_u64(self.limit.unwrap_or(0));
        v.put_u64(0);
    }

    fn decode(t: &mut Take<'_>) -> Result<Self> {
        let start = *t;
        let block_log2 = t.u8()?;
        let copies = t.u8()?;
        let mut this = Self {
            block_log2,
            parity_log2: 16,
            parity: t.u8()?,
            compression: {
                let at = *t;
                match t.u8()? {
                    0 => DefaultCompression::None,
                    1 => DefaultCompression::Lz4,
                    2 => DefaultCompression::Zstd,
                    other => return Err(at.error("compression 0, 1 or 2", other)),
                }
            },
            compression_level: i32::from_le_bytes(t.array()?),
            inline_max: t.u32()?,
            segment_bytes: t.u32()?,
            segment_block_bytes: t.u32()?,
            journal: JournalGeometry {
                initial_file: t.u32()?,
                max_file: t.u32()?,
                initial_files: t.u32()?,
                max_files: t.u32()?,
                copies,
            },
            pack_bytes: 0,
            limit: None,
        };
        this.parity_log2 = match t.u8()? {
            0 => 16,
            log2 => log2,
        };
        let _zeros = t.array::<3>()?;
        this.pack_bytes = t.u64()?;
        let limit = t.u64()?;
        let _zero = t.u64()?;
        this.limit = (limit != 0).then_some(limit);
        this.check(start)?;
        Ok(this)
    }

    fn check(&self, start: Take<'_>) -> Result<()> {
        if self.block_log2 != 17 {
            return Err(start.error(
                "blocks of 2^17 bytes",
                format_args!("2^{}", self.block_log2),
            ));
        }
        if !(1..=2).contains(&self.journal.copies) {
            return Err(start.error("1 or 2 journal copies", self.journal.copies));
        }
        if !(6..=16).contains(&self.parity_log2) {
            return Err(start.error("shards of 2^6 to 2^16 bytes", self.parity_log2));
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "superblock_tests.rs"]
mod tests;
