//! Level 1: which files there are, and which there should be.

use std::collections::{BTreeMap, BTreeSet};

use razorfs_disk::Dir;
use razorfs_format::layout::FileName;
use razorfs_format::manifest::Manifest;
use razorfs_format::scrub::{FILE_MAX, Record};

use crate::journal::Replay;
use crate::roots::Roots;
use crate::session::{Opened, Session, WHOLE_MAX};
use crate::{FindingKind as K, Result};

/// Compares the directories with what the generations and the journal name.
pub fn check(s: &mut Session<'_>, roots: &Roots, replay: &Replay) -> Result<()> {
    let mut missing = named(roots, replay);
    for dir in [Dir::Meta, Dir::Pack] {
        for name in s.list(dir)? {
            match FileName::parse(dir.path(), &name.leaf) {
                Some(file) if missing.remove(&file).is_some() => {}
                // Those of the generation before go together with their objects.
                Some(file) if may_be_there(roots, file) => {}
                Some(file) => unlisted(s, roots, file),
                None => {
                    s.find(K::ForeignFile, name, "not one of the volume's names");
                }
            }
        }
    }
    for (file, kind) in missing {
        s.find(kind, file, "the file is missing");
        s.incomplete |= kind == K::SegmentMissing;
    }
    others(s)
}

/// A file that no generation names. The manifest of a generation is written after the superblock of
/// the one before it: one of the generation after the next says that the next one was there.
fn unlisted(s: &mut Session<'_>, roots: &Roots, file: FileName) {
    let known = roots.superblock.generation;
    if let FileName::Manifest(id) = file
        && id > roots.manifest.id
        && let Opened::File(open, len) = s.open(file)
    {
        let bytes = s.read_all(&*open, file, len.min(WHOLE_MAX));
        let manifest = Manifest::decode(&bytes, s.vid, id);
        if let Some(generation) = manifest.ok().map(|m| m.generation)
            && generation > known.next()
        {
            let detail = format!("it is of generation {generation}, {known} is the newest there");
            s.find(K::SuperblockLost, file, detail);
            return;
        }
    }
    s.find(K::UnlistedFile, file, "no generation names it");
}

/// The files that must be there, and what it is called if one is not.
fn named(roots: &Roots, replay: &Replay) -> BTreeMap<FileName, K> {
    let manifest = &roots.manifest;
    let mut files = BTreeMap::from([(FileName::Manifest(manifest.id), K::NoManifest)]);
    let segments = manifest.segments.iter();
    files.extend(segments.map(|m| (FileName::Segment(m.id), K::SegmentMissing)));
    let packs: BTreeSet<_> = manifest.packs.iter().map(|p| p.id).collect();
    let packs = packs.into_iter().chain(replay.frames.keys().copied());
    let packs: BTreeSet<_> = packs.collect();
    files.extend(packs.iter().map(|id| (FileName::Pack(*id), K::PackMissing)));
    if let Some(previous) = &roots.previous {
        files.insert(FileName::Manifest(previous.id), K::PreviousManifest);
    }
    let segments = roots.previous_segments().into_iter();
    files.extend(segments.map(|m| (FileName::Segment(m.id), K::PreviousSegment)));
    let packs = roots
        .previous_packs()
        .into_iter()
        .filter(|p| !packs.contains(&p.id));
    files.extend(packs.map(|p| (FileName::Pack(p.id), K::PreviousPack)));
    if roots.parity() {
        let segments = manifest.segments.iter();
        files.extend(segments.map(|m| (FileName::SegmentParity(m.id), K::ParityMissing)));
        let sealed = manifest.packs.iter().filter(|p| p.sealed);
        files.extend(sealed.map(|p| (FileName::PackParity(p.id), K::ParityPending)));
    }
    files
}

fn may_be_there(roots: &Roots, file: FileName) -> bool {
    match file {
        FileName::SegmentParity(id) => roots.previous_segments().iter().any(|m| m.id == id),
        FileName::PackParity(id) => roots.previous_packs().iter().any(|m| m.id == id),
        _ => false,
    }
}

/// What the daemon of a mount leaves beside the volume's own files.
const DAEMON: [&str; 3] = ["razorfs.log", "razorfs.log.1", "razorfs.sock"];

fn others(s: &mut Session<'_>) -> Result<()> {
    for name in s.list(Dir::Root)? {
        match FileName::parse("", &name.leaf) {
            Some(FileName::Reserve) => reserve(s),
            Some(FileName::Scrub) => scrub(s),
            Some(file @ FileName::ScrubTmp) => {
                s.find(K::UnlistedFile, file, "half written");
            }
            Some(_) => {}
            None if DAEMON.contains(&&*name.leaf) => {}
            None => {
                s.find(K::ForeignFile, name, "not one of the volume's names");
            }
        }
    }
    for name in s.list(Dir::Journal)? {
        if FileName::parse(Dir::Journal.path(), &name.leaf).is_none() {
            s.find(K::ForeignFile, name, "not one of the volume's names");
        }
    }
    for name in s.list(Dir::Archive)? {
        s.find(K::ForeignFile, name, "nothing is archived by this version");
    }
    for name in s.list(Dir::Quarantine)? {
        s.find(K::Quarantined, name, "set aside");
    }
    Ok(())
}

/// How far a scrub is.
fn scrub(s: &mut Session<'_>) {
    let Opened::File(file, len) = s.open(FileName::Scrub) else {
        return;
    };
    let bytes = s.read_all(&*file, FileName::Scrub, len.min(FILE_MAX as u64 + 1));
    if let Err(e) = Record::decode(&bytes, s.vid) {
        s.find_bad(K::ScrubRecord, &e);
    }
}

/// The ballast is zeros.
fn reserve(s: &mut Session<'_>) {
    let Opened::File(file, len) = s.open(FileName::Reserve) else {
        return;
    };
    let mut window = vec![0; 1 << 20];
    let mut at = 0;
    while at < len {
        let got = s.read(&*file, FileName::Reserve, &mut window, at);
        let bytes = window.get(..got).unwrap_or_default();
        if let Some(i) = bytes.iter().position(|b| *b != 0) {
            let object = format!("{} at byte {}", FileName::Reserve, at + i as u64);
            s.find(K::ReserveNotZero, object, "expected zeros");
            return;
        }
        if got == 0 {
            return;
        }
        at += got as u64;
    }
}
