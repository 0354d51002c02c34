//! Which generations of a volume there may be: what the superblock names, and, where that is lost
//! or older than the rest, what the manifests say that are there.

use std::collections::BTreeMap;

use razorfs_disk::{Dir, Name};
use razorfs_format::journal::{SECTOR, SECTOR_HEAD};
use razorfs_format::key::Tag;
use razorfs_format::layout::FileName;
use razorfs_format::manifest::{Counters, Manifest, SegmentMeta};
use razorfs_format::pack::{HEADER_LEN as PACK_HEADER_LEN, check_header};
use razorfs_format::segment::{FOOTER_LEN, Footer, HEADER_LEN, Header, Identity};
use razorfs_format::superblock::names::FeatureNames;
use razorfs_format::superblock::{
    Features, Geometry, JOURNAL_TWINS, JournalStart, ManifestRef, SLOT, SLOTS, State, Superblock,
};
use razorfs_format::{
    BatchSeq, Epoch, Generation, Ino, Jid, Lsn, ManifestId, PackId, SegmentId, VolumeId,
};

use super::evidence::Evidence;
use crate::Result;
use crate::journal::{Life, batch_of};
use crate::roots::Roots;
use crate::session::{Opened, Session, WHOLE_MAX};

/// A generation that the volume may be put back to.
pub struct Candidate {
    pub roots: Roots,
    /// There is no manifest: all segments that are there are taken.
    pub listed: bool,
}

/// What is known of the volume whatever becomes of its generations.
pub struct Known {
    /// The newest superblock, or one that is made up.
    pub superblock: Superblock,
    /// That one is real: the key of the name hash is known.
    pub is_real: bool,
}

/// The valid slots of the superblock, newest first.
pub fn superblocks(s: &mut Session<'_>) -> Vec<Superblock> {
    let Opened::File(file, len) = s.open(FileName::Super) else {
        return Vec::new();
    };
    let bytes = s.read_all(&*file, FileName::Super, len.min((SLOTS * SLOT) as u64));
    let slots = bytes.chunks(SLOT).enumerate();
    let mut valid: Vec<Superblock> = slots
        .filter_map(|(slot, bytes)| Superblock::decode(slot, bytes).ok())
        .collect();
    valid.sort_by_key(|s| std::cmp::Reverse(s.generation));
    valid
}

/// The volume that the files belong to, told by what they say of themselves.
pub fn volume_of(s: &mut Session<'_>) -> Result<Option<VolumeId>> {
    for dir in [Dir::Meta, Dir::Pack, Dir::Journal] {
        for name in s.list(dir)? {
            let Some(file) = FileName::parse(dir.path(), &name.leaf) else {
                continue;
            };
            let Opened::File(f, len) = s.open(file) else {
                continue;
            };
            let most = match file {
                FileName::Manifest(_) => len.min(WHOLE_MAX),
                _ => len.min(PACK_HEADER_LEN),
            };
            let bytes = s.read_all(&*f, file, most);
            if let Some(vid) = volume_in(file, &bytes) {
                return Ok(Some(vid));
            }
        }
    }
    Ok(None)
}

/// Whose file this is, if its checksum agrees.
fn volume_in(file: FileName, bytes: &[u8]) -> Option<VolumeId> {
    let at = |offset: usize| {
        let bytes = bytes.get(offset..)?.first_chunk::<8>()?;
        Some(VolumeId(u64::from_le_bytes(*bytes)))
    };
    match file {
        FileName::Manifest(id) => at(8).filter(|vid| Manifest::decode(bytes, *vid, id).is_ok()),
        FileName::Segment(id) => at(8).filter(|vid| tag_of(bytes, *vid, id).is_some()),
        FileName::Pack(id) => at(8).filter(|vid| check_header(bytes, *vid, id).is_ok()),
        FileName::Journal(_) | FileName::JournalTwin(_) => {
            let head = bytes.get(..SECTOR)?;
            let place = razorfs_format::Place::new(file, 0);
            at(SECTOR_HEAD + 8).filter(|vid| {
                razorfs_format::journal::FileHeader::decode(*vid, head, place).is_ok()
            })
        }
        _ => None,
    }
}

fn tag_of(bytes: &[u8], volume: VolumeId, segment: SegmentId) -> Option<Tag> {
    Tag::ALL.into_iter().find(|tag| {
        let id = Identity {
            volume,
            segment,
            tag: *tag,
        };
        Header::decode(bytes, id).is_ok()
    })
}

/// What stands for a superblock where there is none. The second half of the uuid and the key of
/// the name hash are new.
pub fn made_up(s: &Session<'_>, random: &mut dyn FnMut() -> u64) -> Result<Superblock> {
    let is_twin = |name: &Name| {
        let file = FileName::parse(Dir::Journal.path(), &name.leaf);
        matches!(file, Some(FileName::JournalTwin(_)))
    };
    let mut geometry = Geometry::default();
    let mut features = Features::default();
    if s.list(Dir::Journal)?.iter().any(is_twin) {
        geometry.journal.copies = 2;
        features.ro_compat = JOURNAL_TWINS;
    }
    let halves = [s.vid.0, random(), random(), random()].map(u64::to_le_bytes);
    let [a, b, c, d] = halves;
    let join = |a: [u8; 8], b: [u8; 8]| {
        let mut both = [0; 16];
        both[..8].copy_from_slice(&a);
        both[8..].copy_from_slice(&b);
        both
    };
    Ok(Superblock {
        uuid: join(a, b),
        generation: Generation(0),
        features,
        manifest: ManifestRef {
            id: ManifestId(0),
            len: 0,
            crc: 0,
        },
        journal: JournalStart {
            jid: Jid(0),
            batch: BatchSeq(1),
        },
        cut: Lsn(1),
        state: State::Dirty,
        flags: 0,
        end: BatchSeq(0),
        nonce: 0,
        hash_key: join(c, d),
        geometry,
        names: FeatureNames::default(),
    })
}

/// All generations there may be, the one that counts first.
pub fn find(
    s: &mut Session<'_>,
    known: &Known,
    slots: &[Superblock],
    lives: &[Life],
    evidence: &mut Evidence,
) -> Result<Vec<Candidate>> {
    let manifests = manifests(s)?;
    let named = |m: &(Manifest, ManifestRef)| slots.iter().find(|slot| slot.manifest == m.1);
    let newest = slots.first().map(|slot| slot.generation);
    // Manifests that no superblock names count where a newer superblock is lost: what a crash
    // kept from being named was never the volume's state.
    let lost = newest.is_none_or(|newest| {
        let of_manifests = manifests.iter().map(|(m, _)| m.generation).max();
        evidence.highest.generation > newest
            || of_manifests > Some(Generation(newest.0.saturating_add(1)))
    });
    let any_named = manifests.iter().any(|m| named(m).is_some());
    let mut found: BTreeMap<(Generation, ManifestId), Candidate> = BTreeMap::new();
    for entry in &manifests {
        let (manifest, reference) = entry;
        let superblock = match named(entry) {
            Some(slot) => reopened(slot, evidence),
            None if lost || !any_named => unnamed(known, manifest, *reference, lives),
            None => continue,
        };
        let roots = Roots {
            superblock,
            manifest: manifest.clone(),
            previous: None,
        };
        let candidate = Candidate {
            roots,
            listed: false,
        };
        let rank = candidate
            .roots
            .superblock
            .generation
            .max(manifest.generation);
        found.insert((rank, manifest.id), candidate);
    }
    let mut all: Vec<Candidate> = found.into_values().rev().collect();
    if all.is_empty() {
        all.push(listed(s, known, slots, lives, evidence)?);
    }
    for (manifest, _) in &manifests {
        evidence.see(manifest);
    }
    Ok(all)
}

/// A superblock that says where the journal ended when the volume was closed does not count if
/// the volume was opened again since, and the superblock that says so is lost.
fn reopened(slot: &Superblock, evidence: &Evidence) -> Superblock {
    let mut superblock = slot.clone();
    if evidence.highest.generation > slot.generation {
        superblock.state = State::Dirty;
    }
    superblock
}

/// The superblock that would name this manifest.
fn unnamed(
    known: &Known,
    manifest: &Manifest,
    reference: ManifestRef,
    lives: &[Life],
) -> Superblock {
    let lsn = manifest.counters.lsn;
    Superblock {
        generation: manifest.generation,
        manifest: reference,
        journal: JournalStart {
            jid: Jid(0),
            batch: batch_of(lives, lsn),
        },
        cut: lsn,
        state: State::Dirty,
        ..known.superblock.clone()
    }
}

/// The manifests that are whole.
fn manifests(s: &mut Session<'_>) -> Result<Vec<(Manifest, ManifestRef)>> {
    let mut found = Vec::new();
    for name in s.list(Dir::Meta)? {
        let Some(file @ FileName::Manifest(id)) = FileName::parse(Dir::Meta.path(), &name.leaf)
        else {
            continue;
        };
        let Opened::File(f, len) = s.open(file) else {
            continue;
        };
        let bytes = s.read_all(&*f, file, len.min(WHOLE_MAX));
        if let Ok(manifest) = Manifest::decode(&bytes, s.vid, id) {
            let reference = ManifestRef {
                id,
                len: bytes.len() as u32,
                crc: Manifest::crc(&bytes),
            };
            found.push((manifest, reference));
        }
    }
    Ok(found)
}

/// Without a manifest: all segments that are there, and no packs but those that are there.
fn listed(
    s: &mut Session<'_>,
    known: &Known,
    slots: &[Superblock],
    lives: &[Life],
    evidence: &Evidence,
) -> Result<Candidate> {
    let mut segments = Vec::new();
    for name in s.list(Dir::Meta)? {
        if let Some(FileName::Segment(id)) = FileName::parse(Dir::Meta.path(), &name.leaf) {
            segments.extend(describe(s, id));
        }
    }
    let epoch = segments.iter().map(|m| m.epoch_max).max();
    let mut superblock = reopened(slots.first().unwrap_or(&known.superblock), evidence);
    if slots.is_empty() {
        // Nothing says what is in segments already: replaying it again does no harm.
        let first = lives.iter().flat_map(Life::batches).map(|(_, _, h)| h.seq);
        superblock.journal.batch = first.min().unwrap_or(evidence.highest.batch);
    }
    let manifest = Manifest {
        id: superblock.manifest.id,
        generation: superblock.generation,
        segments,
        packs: Vec::new(),
        counters: Counters {
            next_ino: Ino::FIRST,
            next_segment: SegmentId(1),
            next_pack: PackId(1),
            next_manifest: ManifestId(1),
            epoch: epoch.unwrap_or(Epoch(0)),
            lsn: superblock.cut,
            ..Counters::default()
        },
        ..Manifest::default()
    };
    let roots = Roots {
        superblock,
        manifest,
        previous: None,
    };
    Ok(Candidate {
        roots,
        listed: true,
    })
}

/// What a manifest would say of a segment, as far as the segment tells.
fn describe(s: &mut Session<'_>, segment: SegmentId) -> Option<SegmentMeta> {
    let name = FileName::Segment(segment);
    let Opened::File(file, len) = s.open(name) else {
        return None;
    };
    let mut head = vec![0; HEADER_LEN];
    let got = s.read(&*file, name, &mut head, 0);
    head.truncate(got);
    let at = len.saturating_sub(FOOTER_LEN as u64);
    let mut foot = vec![0; FOOTER_LEN];
    let got = s.read(&*file, name, &mut foot, at);
    foot.truncate(got);
    let crc = u32::from_le_bytes(*foot.last_chunk()?);
    let volume = s.vid;
    let footer = Tag::ALL.into_iter().find_map(|tag| {
        let id = Identity {
            volume,
            segment,
            tag,
        };
        Footer::decode(&foot, id, crc, at).ok()
    });
    if let Some(f) = footer {
        return Some(SegmentMeta {
            id: segment,
            tag: f.id.tag,
            level: 0,
            first: f.first,
            last: f.last,
            epoch_min: f.epoch_min,
            epoch_max: f.epoch_max,
            bytes: f.bytes,
            entries: f.entries,
            tombstones: f.tombstones,
            footer_crc: crc,
            run: 0,
        });
    }
    let tag = tag_of(&head, volume, segment)?;
    let id = Identity {
        volume,
        segment,
        tag,
    };
    let header = Header::decode(&head, id).ok()?;
    let mut first = vec![0; tag.key_len()];
    let mut last = vec![0xff; tag.key_len()];
    for key in [&mut first, &mut last] {
        if let Some(byte) = key.first_mut() {
            *byte = tag as u8;
        }
    }
    Some(SegmentMeta {
        id: segment,
        tag,
        level: 0,
        first: razorfs_format::key::Key::from_bytes(&first)?,
        last: razorfs_format::key::Key::from_bytes(&last)?,
        epoch_min: header.epoch_min,
        epoch_max: header.epoch_max,
        bytes: len,
        entries: 0,
        tombstones: 0,
        // No footer has it: the blocks are searched for.
        footer_crc: !crc,
        run: 0,
    })
}
