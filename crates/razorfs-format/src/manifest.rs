//! The manifest: the complete list of what a generation consists of. Never a delta.
//!
//! ```text
//! header   magic `RZMF` u32 | version u16 | zero u16 | volume u64 | manifest id u64 |
//!          generation u64 | length of the file u64 | sections u32 | crc u32
//! section  kind u32 | length of the payload u32 | payload | crc u32      (once for each kind)
//! end      crc u32
//! ```
//!
//! The header's CRC covers the bytes before it, seeded (volume, manifest id); a section's its kind,
//! length and payload, seeded (volume, manifest id, kind); the last one everything before it,
//! seeded (volume, manifest id), and the superblock repeats it. Valid if all of them, the ids and
//! the length are right. Sections stand in the order of their kinds, of which the first five must
//! be there; a kind from 0x8000_0000 on that is not known is passed over, any other one is refused.
//!
//! `v` is a varint, `bytes` a varint length and the bytes:
//!
//! | kind | payload |
//! |---|---|
//! | 1 SEGMENTS | each: `id v | tag u8 | level u8 | first bytes | last bytes | epoch min v | epoch max v | bytes v | entries v | tombstones v | footer crc u32 | run v` |
//! | 2 PACKS | each: `id v | sealed u8 | length v | total v | live v | last birth v` |
//! | 3 COUNTERS | `next ino u64 | next segment u64 | next pack u64 | next manifest u64 | inodes u64 | bytes u64 | epoch u64 | lsn u64` |
//! | 4 BRANCHES | each: `id v | parent v | epoch v | name bytes` |
//! | 5 SNAPSHOTS | each: `id v | branch v | epoch v | flags u8 | time u64 | inodes v | bytes u128 | name bytes`; flag 1: it was given up, and what only it holds is not released yet |
//! | 6 LINES | each: `first v | last v | line v | parent v` ([`crate::timeline`]); only where the volume was rolled back |
//! | 7 FORKS | `number of the next branch v`, then each: `id v | parent v | epoch v | time u64 | inodes v | bytes u128 | name bytes | line v | base v` ([`crate::timeline::Fork`]), no two of one name; only where there ever was a branch |
//! | 2³¹ SIZES | `bytes u128`; only where `bytes` of COUNTERS is all ones, because the sum needs more than 64 bits |

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::crc::{Crc, crc32c};
use crate::error::{Place, Result};
use crate::ids::{Branch, Epoch, Generation, Ino, Lsn, ManifestId, PackId, SegmentId, VolumeId};
use crate::key::{Key, Tag};
use crate::layout::FileName;
use crate::record::NAME_MAX;
use crate::timeline::{Forks, Span, Timeline};
use crate::wire::{Put, Take};

mod points;

pub use points::{ForkMeta, SnapshotMeta};
pub(crate) use points::{put_fork, put_snapshot, take_fork, take_snapshot};
use points::{put_forks, take_forks};

const MAGIC: u32 = u32::from_le_bytes(*b"RZMF");
const VERSION: u16 = 1;
const HEADER_LEN: usize = 48;
/// Kinds from here on may be passed over by whoever does not know them.
const OPTIONAL: u32 = 0x8000_0000;
/// The sum of sizes that is too large for its counter.
const SIZES: u32 = OPTIONAL;

/// A segment, as the manifest lists it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentMeta {
    /// The segment.
    pub id: SegmentId,
    /// Its table.
    pub tag: Tag,
    /// Its level; 0 is what was flushed.
    pub level: u8,
    /// First key.
    pub first: Key,
    /// Last key.
    pub last: Key,
    /// Smallest epoch of a record.
    pub epoch_min: Epoch,
    /// Largest epoch of a record.
    pub epoch_max: Epoch,
    /// Length of the file.
    pub bytes: u64,
    /// Number of records, tombstones included.
    pub entries: u64,
    /// Number of tombstones.
    pub tombstones: u64,
    /// Checksum of the footer.
    pub footer_crc: u32,
    /// In level 0: the run it belongs to; a greater number is newer.
    pub run: u64,
}

/// A pack, as the manifest lists it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PackMeta {
    /// The pack.
    pub id: PackId,
    /// Nothing is appended any more.
    pub sealed: bool,
    /// Bytes that are in use; what follows them in the file is nobody's.
    pub len: u64,
    /// Bytes of all its frames, headers included.
    pub total: u64,
    /// Bytes of the frames that something refers to.
    pub live: u64,
    /// Epoch in which its last frame was written.
    pub last_birth: Epoch,
}

/// Counters of the volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// The lowest inode number never given out.
    pub next_ino: Ino,
    /// The lowest segment id never given out.
    pub next_segment: SegmentId,
    /// The lowest pack id never given out.
    pub next_pack: PackId,
    /// The lowest manifest id never given out.
    pub next_manifest: ManifestId,
    /// Inodes that have a name or are held open.
    pub inodes: u64,
    /// Sum of the sizes of regular files, at most `i128::MAX`.
    pub bytes: u128,
    /// Everything up to this epoch is in segments.
    pub epoch: Epoch,
    /// Everything before this operation is in segments.
    pub lsn: Lsn,
}

/// A branch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BranchMeta {
    /// The branch.
    pub id: Branch,
    /// The branch it was forked from; itself for the first.
    pub parent: Branch,
    /// Epoch of the parent that it was forked at.
    pub epoch: Epoch,
    /// Its name, at most 255 bytes.
    pub name: Box<[u8]>,
}

/// A manifest.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Manifest {
    /// Its number.
    pub id: ManifestId,
    /// The generation of the superblock that was to name it first.
    pub generation: Generation,
    /// All segments.
    pub segments: Vec<SegmentMeta>,
    /// All packs.
    pub packs: Vec<PackMeta>,
    /// The counters.
    pub counters: Counters,
    /// The head; what was forked stands in the timeline.
    pub branches: Vec<BranchMeta>,
    /// The snapshots, and the branches, and the lines of time that they stand on.
    pub timeline: Arc<Timeline>,
}

fn put_segment(meta: &SegmentMeta, out: &mut Vec<u8>) {
    out.put_varint(meta.id.0);
    out.put_u8(meta.tag as u8);
    out.put_u8(meta.level);
    out.put_bytes(meta.first.as_bytes());
    out.put_bytes(meta.last.as_bytes());
    out.put_varint(meta.epoch_min.0);
    out.put_varint(meta.epoch_max.0);
    out.put_varint(meta.bytes);
    out.put_varint(meta.entries);
    out.put_varint(meta.tombstones);
    out.put_u32(meta.footer_crc);
    out.put_varint(meta.run);
}

fn take_key(t: &mut Take<'_>, tag: Tag) -> Result<Key> {
    let start = *t;
    let bytes = t.bytes(tag.key_len())?;
    Key::from_bytes(bytes)
        .filter(|key| key.tag() == tag)
        .ok_or_else(|| start.error("a key of the table", format_args!("bytes {bytes:02x?}")))
}

fn take_segment(t: &mut Take<'_>) -> Result<SegmentMeta> {
    let start = *t;
    let id = SegmentId(t.varint()?);
    let at_tag = *t;
    let byte = t.u8()?;
    let tag = Tag::from_byte(byte).ok_or_else(|| at_tag.error("a table", byte))?;
    let meta = SegmentMeta {
        id,
        tag,
        level: t.u8()?,
        first: take_key(t, tag)?,
        last: take_key(t, tag)?,
        epoch_min: Epoch(t.varint()?),
        epoch_max: Epoch(t.varint()?),
        bytes: t.varint()?,
        entries: t.varint()?,
        tombstones: t.varint()?,
        footer_crc: t.u32()?,
        run: t.varint()?,
    };
    let ordered = meta.first <= meta.last && meta.epoch_min <= meta.epoch_max;
    if !ordered || meta.tombstones > meta.entries {
        return Err(start.error("ranges in order", format_args!("{meta:?}")));
    }
    Ok(meta)
}

fn put_pack(meta: &PackMeta, out: &mut Vec<u8>) {
    out.put_varint(meta.id.0);
    out.put_u8(u8::from(meta.sealed));
    out.put_varint(meta.len);
    out.put_varint(meta.total);
    out.put_varint(meta.live);
    out.put_varint(meta.last_birth.0);
}

fn take_pack(t: &mut Take<'_>) -> Result<PackMeta> {
    let id = PackId(t.varint()?);
    let at_sealed = *t;
    let sealed = match t.u8()? {
        0 => false,
        1 => true,
        other => return Err(at_sealed.error("0 or 1", other)),
    };
    Ok(PackMeta {
        id,
        sealed,
        len: t.varint()?,
        total: t.varint()?,
        live: t.varint()?,
        last_birth: Epoch(t.varint()?),
    })
}

fn put_counters(counters: &Counters, out: &mut Vec<u8>) {
    for v in [
        counters.next_ino.0,
        counters.next_segment.0,
        counters.next_pack.0,
        counters.next_manifest.0,
        counters.inodes,
        u64::try_from(counters.bytes).unwrap_or(u64::MAX),
        counters.epoch.0,
        counters.lsn.0,
    ] {
        out.put_u64(v);
    }
}

fn take_counters(t: &mut Take<'_>) -> Result<Counters> {
    Ok(Counters {
        next_ino: Ino(t.u64()?),
        next_segment: SegmentId(t.u64()?),
        next_pack: PackId(t.u64()?),
        next_manifest: ManifestId(t.u64()?),
        inodes: t.u64()?,
        bytes: u128::from(t.u64()?),
        epoch: Epoch(t.u64()?),
        lsn: Lsn(t.u64()?),
    })
}

/// The sum of sizes in full, where the counter is `at_least`, all ones.
fn take_sizes(t: &mut Take<'_>, at_least: u128) -> Result<u128> {
    let start = *t;
    let bytes = u128::from_le_bytes(t.array()?);
    if at_least != u128::from(u64::MAX) || bytes <= at_least || bytes > i128::MAX as u128 {
        let expected = "a sum of more than 64 bits, where the counter is all ones";
        return Err(start.error(expected, bytes));
    }
    Ok(bytes)
}

fn put_branch(meta: &BranchMeta, out: &mut Vec<u8>) {
    out.put_varint(u64::from(meta.id.0));
    out.put_varint(u64::from(meta.parent.0));
    out.put_varint(meta.epoch.0);
    out.put_bytes(&meta.name);
}

fn take_branch(t: &mut Take<'_>) -> Result<BranchMeta> {
    Ok(BranchMeta {
        id: Branch(t.varint32()?),
        parent: Branch(t.varint32()?),
        epoch: Epoch(t.varint()?),
        name: t.bytes(NAME_MAX)?.into(),
    })
}

fn put_span(span: &Span, out: &mut Vec<u8>) {
    for v in [span.first.0, span.last.0, span.line, span.parent.0] {
        out.put_varint(v);
    }
}

fn take_span(t: &mut Take<'_>) -> Result<Span> {
    Ok(Span {
        first: Epoch(t.varint()?),
        last: Epoch(t.varint()?),
        line: t.varint()?,
        parent: Epoch(t.varint()?),
    })
}

fn put_all<T>(items: &[T], put: fn(&T, &mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    for item in items {
        put(item, &mut out);
    }
    out
}

fn take_all<T>(mut t: Take<'_>, take: fn(&mut Take<'_>) -> Result<T>) -> Result<Vec<T>> {
    let mut items = Vec::new();
    while !t.is_empty() {
        items.push(take(&mut t)?);
    }
    Ok(items)
}

/// No id may stand twice.
fn unique<T: Ord + std::fmt::Display>(t: Take<'_>, mut ids: impl Iterator<Item = T>) -> Result<()> {
    let mut seen = BTreeSet::new();
    let mut twice = None;
    while let (None, Some(id)) = (&twice, ids.next()) {
        let text = id.to_string();
        if !seen.insert(id) {
            twice = Some(text);
        }
    }
    match twice {
        None => Ok(()),
        Some(id) => Err(t.error("each id once", format_args!("{id} twice"))),
    }
}

impl Manifest {
    /// The encoding, for a file of `volume`. Its last four bytes are the checksum that the
    /// superblock repeats ([`Manifest::crc`]).
    #[must_use]
    pub fn to_bytes(&self, volume: VolumeId) -> Vec<u8> {
        let mut counters = Vec::new();
        put_counters(&self.counters, &mut counters);
        let mut sections = vec![
            (1, put_all(&self.segments, put_segment)),
            (2, put_all(&self.packs, put_pack)),
            (3, counters),
            (4, put_all(&self.branches, put_branch)),
            (
                5,
                put_all(self.timeline.snapshots(), |s, out| put_snapshot(s, out)),
            ),
        ];
        let forks = self.timeline.forks();
        if !self.timeline.spans().is_empty() || !forks.is_trivial() {
            sections.push((6, put_all(self.timeline.spans(), put_span)));
        }
        if !forks.is_trivial() {
            sections.push((7, put_forks(forks)));
        }
        if self.counters.bytes > u128::from(u64::MAX) {
            sections.push((SIZES, self.counters.bytes.to_le_bytes().to_vec()));
        }
        let len = HEADER_LEN + sections.iter().map(|(_, p)| p.len() + 12).sum::<usize>() + 4;
        let mut out = Vec::with_capacity(len);
        out.put_u32(MAGIC);
        out.put_u16(VERSION);
        out.put_u16(0);
        out.put_u64(volume.0);
        out.put_u64(self.id.0);
        out.put_u64(self.generation.0);
        out.put_u64(len as u64);
        out.put_u32(sections.len() as u32);
        let crc = crc32c(&[volume.0, self.id.0], &out);
        out.put_u32(crc);
        for (kind, payload) in sections {
            let start = out.len();
            out.put_u32(kind);
            out.put_u32(payload.len() as u32);
            out.extend_from_slice(&payload);
            let covered = out.get(start..).unwrap_or_default();
            let crc = crc32c(&[volume.0, self.id.0, u64::from(kind)], covered);
            out.put_u32(crc);
        }
        let crc = crc32c(&[volume.0, self.id.0], &out);
        out.put_u32(crc);
        out
    }

    /// The checksum over all of an encoded manifest, as it stands in its last four bytes.
    #[must_use]
    pub fn crc(bytes: &[u8]) -> u32 {
        bytes
            .last_chunk::<4>()
            .map_or(0, |crc| u32::from_le_bytes(*crc))
    }

    /// Reads manifest `id` of `volume`, which fills `bytes`.
    pub fn decode(bytes: &[u8], volume: VolumeId, id: ManifestId) -> Result<Self> {
        let place = Place::new(FileName::Manifest(id), 0);
        let mut t = Take::new(bytes, place, "manifest");
        let (generation, sections) = decode_header(&mut t, volume, id)?;
        let mut manifest = Self {
            id,
            generation,
            ..Self::default()
        };
        let (mut known, mut snapshots, mut spans) = (0, Vec::new(), Vec::new());
        let mut forks = Forks::default();
        for _ in 0..sections {
            let (kind, payload) = decode_section(&mut t, volume, id)?;
            if kind < OPTIONAL {
                known += 1;
                if kind != known {
                    return Err(payload.error(format_args!("section {known}"), kind));
                }
            }
            match kind {
                1 => manifest.segments = take_all(payload, take_segment)?,
                2 => manifest.packs = take_all(payload, take_pack)?,
                3 => {
                    let mut payload = payload;
                    manifest.counters = take_counters(&mut payload)?;
                    payload.end()?;
                }
                4 => manifest.branches = take_all(payload, take_branch)?,
                5 => snapshots = take_all(payload, take_snapshot)?,
                6 => spans = take_all(payload, take_span)?,
                7 => forks = take_forks(payload)?,
                SIZES => {
                    let mut payload = payload;
                    let counter = manifest.counters.bytes;
                    manifest.counters.bytes = take_sizes(&mut payload, counter)?;
                    payload.end()?;
                }
                _ if kind >= OPTIONAL => {}
                _ => return Err(payload.error("a section that is known", kind)),
            }
        }
        if known < 5 {
            return Err(t.error("at least five sections", known));
        }
        let covered = bytes
            .get(..bytes.len() - t.rest().len())
            .unwrap_or_default();
        expect_crc(
            &mut t,
            Crc::seeded(&[volume.0, id.0]).with(covered).finish(),
        )?;
        t.end()?;
        unique(t, manifest.segments.iter().map(|m| m.id))?;
        unique(t, manifest.packs.iter().map(|m| m.id))?;
        unique(t, snapshots.iter().map(|m| m.id))?;
        let (found, lines) = (snapshots.len(), spans.len());
        let got = format_args!("{found} snapshots and {lines} runs of epochs").to_string();
        let timeline = Timeline::with_forks(snapshots, spans, forks);
        let timeline = timeline.map_err(|why| t.error(why, got))?;
        let epoch = manifest.counters.epoch;
        let begun = timeline
            .spans()
            .last()
            .is_none_or(|s| s.first <= epoch.next());
        let mut taken = timeline.snapshots().iter();
        if !begun || taken.any(|s| s.epoch > epoch) {
            // What is written next would not be seen, or be seen by a snapshot.
            return Err(t.error(format_args!("snapshots up to epoch {epoch}"), "later ones"));
        }
        manifest.timeline = Arc::new(timeline);
        Ok(manifest)
    }
}

fn expect_crc(t: &mut Take<'_>, expected: u32) -> Result<()> {
    let start = *t;
    let got = t.u32()?;
    if got == expected {
        return Ok(());
    }
    // What was computed from the bytes is what is found; what is stored is what was expected.
    Err(start.error(
        format_args!("checksum {got:#010x}"),
        format_args!("{expected:#010x}"),
    ))
}

fn decode_header(t: &mut Take<'_>, volume: VolumeId, id: ManifestId) -> Result<(Generation, u32)> {
    let whole = *t;
    let mut tail = *t;
    let covered = tail.slice(HEADER_LEN - 4)?;
    expect_crc(&mut tail, crc32c(&[volume.0, id.0], covered))?;
    let start = *t;
    let (magic, version, zero) = (t.u32()?, t.u16()?, t.u16()?);
    let (got_volume, got_id, generation) = (t.u64()?, t.u64()?, Generation(t.u64()?));
    let (len, sections) = (t.u64()?, t.u32()?);
    let got = (magic, version, zero, got_volume, got_id, len);
    let expected = (MAGIC, VERSION, 0, volume.0, id.0, whole.rest().len() as u64);
    if got != expected {
        return Err(start.error(
            format_args!("magic, version, 0, volume, id, length {expected:x?}"),
            format_args!("{got:x?}"),
        ));
    }
    t.u32()?;
    Ok((generation, sections))
}

fn decode_section<'a>(
    t: &mut Take<'a>,
    volume: VolumeId,
    id: ManifestId,
) -> Result<(u32, Take<'a>)> {
    let start = *t;
    let kind = t.u32()?;
    let len = t.u32()? as usize;
    let place = t.place();
    let payload = t.slice(len)?;
    let covered = start.rest().get(..8 + len).unwrap_or_default();
    expect_crc(t, crc32c(&[volume.0, id.0, u64::from(kind)], covered))?;
    Ok((kind, Take::new(payload, place, "manifest section")))
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
