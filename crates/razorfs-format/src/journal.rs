//! The journal's bytes: sectors, the file header, batches.
//!
//! A journal file is an array of **sectors** of 512 bytes, and reused in place: each life of a file
//! has its own number, the jid. A sector says which life and batch wrote it:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | CRC, seeded with (vid, jid ‖ batch, sector number), of the 500 bytes |
//! | 4 | 4 | jid |
//! | 8 | 4 | lower half of the batch number |
//! | 12 | 500 | payload |
//!
//! A sector that was never written is all zeros. So a reader can tell a sector that a batch never
//! reached (zeros, or intact under an older life or batch) from one that was damaged afterwards.
//!
//! Sector 0 is the **file header**, of batch number 0; sectors 1 to 7 stay zeros:
//!
//! | offset in payload | size | field |
//! |---|---|---|
//! | 0 | 4 | magic `RZJF` |
//! | 4 | 2 | version 1 |
//! | 6 | 2 | 0, also in the second copy of the journal: two copies have the same bytes |
//! | 8 | 8 | vid |
//! | 16 | 4 | jid; 0 for a file that is ready but was never used |
//! | 20 | 4 | jid that was written before this one |
//! | 24 | 4 | slot: the number in the file's name |
//! | 28 | 4 | zeros |
//! | 32 | 8 | bytes of the file that are prepared; a multiple of 4096 |
//!
//! A **batch** starts at a multiple of 4096 bytes (a *unit*) and ends before the next one, in one
//! file; all its sectors, those of the padding too, are stamped. Its bytes are the payloads of its
//! sectors, one after the other: a header, what the batch carries, zeros.
//!
//! | offset | size | field of the batch header |
//! |---|---|---|
//! | 0 | 4 | magic `RZJB` |
//! | 4 | 2 | length of this header, 64 |
//! | 6 | 2 | flags; 1: the payload ends with a link |
//! | 8 | 8 | batch number |
//! | 16 | 8 | number of the first operation |
//! | 24 | 4 | number of operations |
//! | 28 | 4 | bytes of payload |
//! | 32 | 8 | the newest batch that was known durable when this one was written |
//! | 40 | 8 | generation of the superblock at that time |
//! | 48 | 8 | wall clock, nanoseconds since 1970 |
//! | 56 | 4 | CRC of the payload, seeded with (vid, jid, batch number) |
//! | 60 | 4 | CRC of bytes 0 to 60, seeded likewise |
//!
//! The 16 bytes of a **link** are SipHash-2-4 with 128 bits, keyed with (vid, 0), of the link of
//! the batch before (zeros where that is not known), then of batch number, number of the first
//! operation, number of operations, wall clock, and the payload without the link. So nobody edits
//! or takes out an entry without making all links anew that follow. That is no proof against who
//! does.

use siphasher::sip128::{Hasher128, SipHasher24};

use crate::crc::{Crc, crc32c};
use crate::error::{Place, Result};
use crate::ids::{BatchSeq, Generation, Jid, Lsn, VolumeId};
use crate::wire::{Put, Take};

/// Bytes of a sector: what a disk writes whole or not at all.
pub const SECTOR: usize = 512;
/// Bytes of a sector before its payload.
pub const SECTOR_HEAD: usize = 12;
/// Bytes of a sector's payload.
pub const SECTOR_PAYLOAD: usize = SECTOR - SECTOR_HEAD;
/// Batches begin at multiples of this many bytes.
pub const UNIT: usize = 4096;
/// Sectors of a unit.
pub const UNIT_SECTORS: usize = UNIT / SECTOR;
/// Bytes of a batch's header.
pub const BATCH_HEADER: usize = 64;
/// Bytes of a link.
pub const LINK: usize = 16;
/// Flag of a batch header: the payload ends with a link.
pub const LINKED: u16 = 1;
/// Bytes of a journal file at least: the header's unit and one for a batch.
pub const FILE_MIN: u64 = 2 * UNIT as u64;
/// Bytes of a journal file at most.
pub const FILE_MAX: u64 = 1 << 30;

const FILE_MAGIC: [u8; 4] = *b"RZJF";
const BATCH_MAGIC: [u8; 4] = *b"RZJB";
const VERSION: u16 = 1;

/// Where the fields of a batch header stand.
pub mod offset {
    #![expect(missing_docs, reason = "named after the fields")]
    pub const MAGIC: usize = 0;
    pub const HDR_LEN: usize = 4;
    pub const FLAGS: usize = 6;
    pub const SEQ: usize = 8;
    pub const FIRST_LSN: usize = 16;
    pub const N_OPS: usize = 24;
    pub const PAYLOAD_LEN: usize = 28;
    pub const DURABLE: usize = 32;
    pub const GENERATION: usize = 40;
    pub const WALL_NS: usize = 48;
    pub const PAYLOAD_CRC: usize = 56;
    pub const HEADER_CRC: usize = 60;
}

const _: () = {
    assert!(UNIT.is_multiple_of(SECTOR));
    assert!(SECTOR_PAYLOAD > BATCH_HEADER);
    assert!(offset::SEQ == offset::FLAGS + 2);
    assert!(offset::N_OPS == offset::FIRST_LSN + 8);
    assert!(offset::DURABLE == offset::PAYLOAD_LEN + 4);
    assert!(offset::PAYLOAD_CRC == offset::WALL_NS + 8);
    assert!(offset::HEADER_CRC + 4 == BATCH_HEADER);
};

/// Bytes that a batch with a payload of `payload_len` bytes takes in its file.
#[must_use]
pub const fn extent_bytes(payload_len: usize) -> usize {
    let sectors = (BATCH_HEADER + payload_len).div_ceil(SECTOR_PAYLOAD);
    sectors.next_multiple_of(UNIT_SECTORS) * SECTOR
}

/// Largest payload of a batch that takes at most `bytes` in its file.
#[must_use]
pub const fn payload_room(bytes: u64) -> u64 {
    let units = bytes / UNIT as u64;
    (units * (UNIT_SECTORS * SECTOR_PAYLOAD) as u64).saturating_sub(BATCH_HEADER as u64)
}

/// What a sector turns out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sector<'a> {
    /// Never written.
    Zero,
    /// Intact, written in life `jid` of the file for a batch whose number ends in `seq_lo`.
    Stamped {
        /// The life of the file.
        jid: Jid,
        /// Lower half of the batch number.
        seq_lo: u32,
        /// The 500 bytes.
        payload: &'a [u8; SECTOR_PAYLOAD],
    },
    /// Neither: damaged, or not of this volume, or not of this place.
    Bad,
}

impl<'a> Sector<'a> {
    /// Looks at sector number `number` of a journal file.
    #[must_use]
    pub fn read(vid: VolumeId, number: u32, bytes: &'a [u8; SECTOR]) -> Self {
        let [c0, c1, c2, c3, j0, j1, j2, j3, s0, s1, s2, s3, payload @ ..] = bytes;
        let crc = u32::from_le_bytes([*c0, *c1, *c2, *c3]);
        let jid = Jid(u32::from_le_bytes([*j0, *j1, *j2, *j3]));
        let seq_lo = u32::from_le_bytes([*s0, *s1, *s2, *s3]);
        if crc == sector_crc(vid, jid, number, seq_lo, payload) {
            return Self::Stamped {
                jid,
                seq_lo,
                payload,
            };
        }
        if *bytes == [0; SECTOR] {
            return Self::Zero;
        }
        Self::Bad
    }
}

/// How two versions of a sector compare, where a file is kept twice: the higher one counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Rank {
    class: u8,
    jid: Jid,
    seq_lo: u32,
}

/// The rank of sector number `number` of a file whose header is of life `life`; none if it is
/// damaged.
///
/// In a life a sector is written once, so what is of a later life or batch is what was written
/// last. What claims to be of a later life than the file was put there by mistake, and counts less
/// than a sector that was never written.
#[must_use]
pub fn rank(vid: VolumeId, life: Jid, number: u32, bytes: &[u8; SECTOR]) -> Option<Rank> {
    let (class, jid, seq_lo) = match Sector::read(vid, number, bytes) {
        Sector::Bad => return None,
        Sector::Zero => (1, Jid(0), 0),
        Sector::Stamped { jid, seq_lo, .. } if jid > life => (0, jid, seq_lo),
        Sector::Stamped { jid, seq_lo, .. } => (2, jid, seq_lo),
    };
    Some(Rank { class, jid, seq_lo })
}

fn sector_crc(vid: VolumeId, jid: Jid, number: u32, seq_lo: u32, payload: &[u8]) -> u32 {
    let life = u64::from(jid.0) << 32 | u64::from(seq_lo);
    crc32c(&[vid.0, life, u64::from(number)], payload)
}

/// Writes the first 12 bytes of each sector of `bytes`, whose payloads are in place.
fn stamp(vid: VolumeId, jid: Jid, first_sector: u32, seq_lo: u32, bytes: &mut [u8]) {
    debug_assert!(bytes.len().is_multiple_of(SECTOR));
    let mut number = first_sector;
    for sector in bytes.chunks_exact_mut(SECTOR) {
        let (head, payload) = sector.split_at_mut(SECTOR_HEAD);
        let crc = sector_crc(vid, jid, number, seq_lo, payload);
        let parts = [crc, jid.0, seq_lo];
        for (at, part) in head.chunks_exact_mut(4).zip(parts) {
            at.copy_from_slice(&part.to_le_bytes());
        }
        number = number.wrapping_add(1);
    }
}

/// The first sector of a journal file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileHeader {
    /// This life of the file; 0 if it was never used.
    pub jid: Jid,
    /// The life, of whatever file, that came before it.
    pub previous: Jid,
    /// The number in the file's name.
    pub slot: u32,
    /// Reserved, 0.
    pub copy: u16,
    /// Bytes of the file that are prepared.
    pub len: u64,
}

impl FileHeader {
    /// The bytes of sector 0.
    #[must_use]
    pub fn encode(&self, vid: VolumeId) -> Vec<u8> {
        let mut v = Vec::with_capacity(SECTOR);
        v.resize(SECTOR_HEAD, 0);
        v.extend_from_slice(&FILE_MAGIC);
        v.put_u16(VERSION);
        v.put_u16(self.copy);
        v.put_u64(vid.0);
        v.put_u32(self.jid.0);
        v.put_u32(self.previous.0);
        v.put_u32(self.slot);
        v.put_u32(0);
        v.put_u64(self.len);
        v.resize(SECTOR, 0);
        stamp(vid, self.jid, 0, 0, &mut v);
        v
    }

    /// Reads sector 0 of a file, which stands at `place`.
    pub fn decode(vid: VolumeId, bytes: &[u8], place: Place) -> Result<Self> {
        let sector: [u8; SECTOR] = Take::new(bytes, place, "journal file header").array()?;
        let (jid, payload) = match Sector::read(vid, 0, &sector) {
            Sector::Stamped {
                jid,
                seq_lo: 0,
                payload,
            } => (jid, payload),
            Sector::Stamped { seq_lo, .. } => {
                return Err(place.error("journal file header", "batch number 0", seq_lo));
            }
            Sector::Zero => return Err(place.error("journal file header", "a header", "zeros")),
            Sector::Bad => {
                return Err(place.error("journal file header", "a valid checksum", "another"));
            }
        };
        let at = place.plus(SECTOR_HEAD as u64);
        let mut t = Take::new(payload, at, "journal file header");
        let magic: [u8; 4] = t.array()?;
        if magic != FILE_MAGIC {
            return Err(at.error(
                "journal file header",
                "the magic RZJF",
                magic.escape_ascii(),
            ));
        }
        let version = t.u16()?;
        if version != VERSION {
            return Err(at.error("journal file version", VERSION, version));
        }
        let copy = t.u16()?;
        let inner_vid = t.u64()?;
        let inner_jid = t.u32()?;
        if inner_vid != vid.0 || inner_jid != jid.0 {
            return Err(at.error(
                "journal file header",
                "the identity of its sector",
                inner_jid,
            ));
        }
        let header = Self {
            jid,
            previous: Jid(t.u32()?),
            slot: t.u32()?,
            copy,
            len: {
                let _zero = t.u32()?;
                t.u64()?
            },
        };
        if !(FILE_MIN..=FILE_MAX).contains(&header.len) || !header.len.is_multiple_of(UNIT as u64) {
            return Err(t.error("a multiple of 4096 from 8 KiB to 1 GiB", header.len));
        }
        Ok(header)
    }
}

/// What stands before the payload of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchHeader {
    /// The batch.
    pub seq: BatchSeq,
    /// Number of its first operation.
    pub first_lsn: Lsn,
    /// How many operations it holds.
    pub n_ops: u32,
    /// Bytes of its payload.
    pub payload_len: u32,
    /// The newest batch that was known durable when this one was written.
    pub durable: BatchSeq,
    /// The generation of the superblock at that time.
    pub generation: Generation,
    /// Wall clock at that time, nanoseconds since 1970.
    pub wall_ns: u64,
    /// Reserved, 0.
    pub flags: u16,
    /// Checksum of the payload.
    pub payload_crc: u32,
}

impl BatchHeader {
    /// Bytes that the batch takes in its file.
    #[must_use]
    pub const fn extent_bytes(&self) -> usize {
        extent_bytes(self.payload_len as usize)
    }

    fn encode(&self, vid: VolumeId, jid: Jid) -> Vec<u8> {
        let mut v = Vec::with_capacity(BATCH_HEADER);
        v.extend_from_slice(&BATCH_MAGIC);
        v.put_u16(BATCH_HEADER as u16);
        v.put_u16(self.flags);
        v.put_u64(self.seq.0);
        v.put_u64(self.first_lsn.0);
        v.put_u32(self.n_ops);
        v.put_u32(self.payload_len);
        v.put_u64(self.durable.0);
        v.put_u64(self.generation.0);
        v.put_u64(self.wall_ns);
        v.put_u32(self.payload_crc);
        let crc = crc32c(&[vid.0, u64::from(jid.0), self.seq.0], &v);
        v.put_u32(crc);
        v
    }

    /// Reads the header at the beginning of the payload of a batch's first sector, which was
    /// stamped with `jid` and `seq_lo` and stands at `place`.
    pub fn decode(
        vid: VolumeId,
        jid: Jid,
        seq_lo: u32,
        payload: &[u8],
        place: Place,
    ) -> Result<Self> {
        let mut t = Take::new(payload, place, "batch header");
        let bytes = t.slice(BATCH_HEADER)?;
        let (body, crc) = bytes.split_at(offset::HEADER_CRC);
        let mut t = Take::new(body, place, "batch header");
        let magic: [u8; 4] = t.array()?;
        if magic != BATCH_MAGIC {
            return Err(place.error("batch header", "the magic RZJB", magic.escape_ascii()));
        }
        let hdr_len = t.u16()?;
        if usize::from(hdr_len) != BATCH_HEADER {
            return Err(place.error("length of a batch header", BATCH_HEADER, hdr_len));
        }
        let flags = t.u16()?;
        let header = Self {
            seq: BatchSeq(t.u64()?),
            first_lsn: Lsn(t.u64()?),
            n_ops: t.u32()?,
            payload_len: t.u32()?,
            durable: BatchSeq(t.u64()?),
            generation: Generation(t.u64()?),
            wall_ns: t.u64()?,
            flags,
            payload_crc: t.u32()?,
        };
        let computed = crc32c(&[vid.0, u64::from(jid.0), header.seq.0], body);
        if crc != computed.to_le_bytes() {
            return Err(place.error("checksum of a batch header", computed, "another"));
        }
        if header.seq.0 as u32 != seq_lo {
            return Err(place.error(
                "batch number",
                format_args!("one ending in {seq_lo}"),
                header.seq,
            ));
        }
        Ok(header)
    }
}

/// What ties a batch to the one before it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Link(pub [u8; LINK]);

impl Link {
    /// Stands for that of a batch that is not known.
    pub const UNKNOWN: Self = Self([0; LINK]);

    /// The link of the batch that follows, whose payload is given without it.
    #[must_use]
    pub fn next(self, vid: VolumeId, header: &BatchHeader, payload: &[u8]) -> Self {
        use std::hash::Hasher;
        let mut hasher = SipHasher24::new_with_keys(vid.0, 0);
        hasher.write(&self.0);
        let numbers = [header.seq.0, header.first_lsn.0, header.n_ops.into()];
        for number in numbers.into_iter().chain([header.wall_ns]) {
            hasher.write(&number.to_le_bytes());
        }
        hasher.write(payload);
        Self(hasher.finish128().as_bytes())
    }
}

/// Splits the link off a batch's payload, if the header says that there is one. A payload that is
/// too short for it has none.
#[must_use]
pub fn split_link<'a>(header: &BatchHeader, payload: &'a [u8]) -> (&'a [u8], Option<Link>) {
    match payload.split_last_chunk() {
        Some((rest, link)) if header.flags & LINKED != 0 => (rest, Some(Link(*link))),
        _ => (payload, None),
    }
}

/// Lays a batch out as the bytes that go to its file at sector `first_sector`, in `out`, whose
/// space is reused. The header's length and checksum of the payload are filled in.
pub fn encode_batch(
    vid: VolumeId,
    jid: Jid,
    first_sector: u32,
    header: &mut BatchHeader,
    payload: &[u8],
    out: &mut Vec<u8>,
) {
    header.payload_len = payload.len() as u32;
    header.payload_crc = crc32c(&[vid.0, u64::from(jid.0), header.seq.0], payload);
    let extent = header.extent_bytes();
    out.clear();
    out.reserve(extent);
    let first = payload.len().min(SECTOR_PAYLOAD - BATCH_HEADER);
    let (first, rest) = payload.split_at(first);
    out.resize(SECTOR_HEAD + BATCH_HEADER, 0);
    out.extend_from_slice(first);
    for chunk in rest.chunks(SECTOR_PAYLOAD) {
        out.resize(out.len() + SECTOR_HEAD, 0);
        out.extend_from_slice(chunk);
    }
    out.resize(extent, 0);
    seal(vid, jid, first_sector, header, out);
}

/// Gives the bytes of a batch that [`encode_batch`] laid out to another place: a new life, another
/// sector. The payload is not touched.
pub fn move_batch(
    vid: VolumeId,
    jid: Jid,
    first_sector: u32,
    header: &mut BatchHeader,
    bytes: &mut [u8],
) {
    let mut crc = Crc::seeded(&[vid.0, u64::from(jid.0), header.seq.0]);
    for part in payload_parts(bytes, header.payload_len as usize) {
        crc = crc.with(part);
    }
    header.payload_crc = crc.finish();
    seal(vid, jid, first_sector, header, bytes);
}

fn seal(vid: VolumeId, jid: Jid, first_sector: u32, header: &BatchHeader, bytes: &mut [u8]) {
    let head = header.encode(vid, jid);
    for (to, from) in bytes.iter_mut().skip(SECTOR_HEAD).zip(head) {
        *to = from;
    }
    stamp(vid, jid, first_sector, header.seq.0 as u32, bytes);
}

/// The pieces of the payload, in order, out of the sectors of a batch.
fn payload_parts(bytes: &[u8], payload_len: usize) -> impl Iterator<Item = &[u8]> {
    let mut skip = SECTOR_HEAD + BATCH_HEADER;
    let mut left = payload_len;
    bytes.chunks_exact(SECTOR).map_while(move |sector| {
        let payload = sector.get(skip..)?;
        skip = SECTOR_HEAD;
        let part = payload.get(..left.min(payload.len()))?;
        left -= part.len();
        (!part.is_empty()).then_some(part)
    })
}

/// Whether what follows the payload in the sectors of a batch is zeros.
#[must_use]
pub fn filling_is_zero(bytes: &[u8], payload_len: usize) -> bool {
    let mut skip = BATCH_HEADER.saturating_add(payload_len);
    bytes.chunks_exact(SECTOR).all(|sector| {
        let payload = sector.get(SECTOR_HEAD..).unwrap_or_default();
        let used = skip.min(payload.len());
        skip -= used;
        payload.iter().skip(used).all(|b| *b == 0)
    })
}

/// Takes the payload out of the sectors of a batch, which stand at `place`, and checks it. The
/// sectors themselves were checked before. A link is no part of it.
pub fn read_payload(
    vid: VolumeId,
    jid: Jid,
    header: &BatchHeader,
    bytes: &[u8],
    place: Place,
) -> Result<Vec<u8>> {
    Ok(read_linked(vid, jid, header, bytes, place)?.0)
}

/// The same, and the link.
pub fn read_linked(
    vid: VolumeId,
    jid: Jid,
    header: &BatchHeader,
    bytes: &[u8],
    place: Place,
) -> Result<(Vec<u8>, Option<Link>)> {
    let len = header.payload_len as usize;
    if bytes.len() < extent_bytes(len) {
        return Err(place.error("payload of a batch", format_args!("{len} bytes"), "fewer"));
    }
    let mut payload = Vec::with_capacity(len);
    for part in payload_parts(bytes, len) {
        payload.extend_from_slice(part);
    }
    let crc = crc32c(&[vid.0, u64::from(jid.0), header.seq.0], &payload);
    if payload.len() != len || crc != header.payload_crc {
        return Err(place.error(
            "checksum of a batch's payload",
            format_args!("{:08x}", header.payload_crc),
            format_args!("{crc:08x}"),
        ));
    }
    let (rest, link) = split_link(header, &payload);
    let len = rest.len();
    payload.truncate(len);
    Ok((payload, link))
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
