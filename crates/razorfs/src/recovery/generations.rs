//! Whether the newest superblock that can be read is the newest there was.
//!
//! The generation before the newest stays mountable, and with the journal it gives the same state.
//! An older one does not: what it needs may have been removed, recycled and punched. So a volume
//! whose two newest generations cannot be read is refused, before anything is written.

use razorfs_disk::{Dir, Disk, OpenHow};
use razorfs_format::layout::FileName;
use razorfs_format::manifest::Manifest;
use razorfs_format::superblock::Superblock;
use razorfs_format::{FormatError, Generation, Place};

use crate::checkpoint::name_of;
use crate::marks::{self, Mark};
use crate::{Error, Result};

/// No manifest is longer.
const MOST: u64 = 1 << 28;

/// Fails if there was a generation two or more after `found`. `journal` is the newest one that the
/// journal names.
pub(super) fn check(disk: &dyn Disk, found: &Superblock, journal: Generation) -> Result<()> {
    let next = found.generation.next();
    if journal > next {
        return Err(refuse(found, journal, "the journal"));
    }
    // The manifest of a generation is written after the superblock of the one before it: one of
    // the generation after the next says that the next one was there.
    for name in disk.list(Dir::Meta)? {
        let file = FileName::parse(name.dir.path(), &name.leaf);
        if let Some(FileName::Manifest(id)) = file
            && id > found.manifest.id
            && let Some(generation) = generation_of(disk, found, file)
            && generation > next
        {
            return Err(refuse(found, generation, &name.to_string()));
        }
    }
    Ok(())
}

/// The generation of a manifest, if it is whole: one that a crash left half written says nothing.
fn generation_of(disk: &dyn Disk, own: &Superblock, file: Option<FileName>) -> Option<Generation> {
    let file @ FileName::Manifest(id) = file? else {
        return None;
    };
    let file = disk.open(&name_of(file), OpenHow::Read).ok()?;
    let len = file.len().ok().filter(|len| *len <= MOST)?;
    let mut bytes = vec![0; len as usize];
    file.read_at(&mut bytes, 0).ok()?;
    Some(Manifest::decode(&bytes, own.vid(), id).ok()?.generation)
}

/// That the newest superblock was lost, where the one before it serves as well.
pub(super) fn lost(found: &Superblock, journal: Generation) -> Option<FormatError> {
    (journal > found.generation).then(|| {
        marks::hit(Mark::RecoveryGenerationLost);
        let place = Place::new(FileName::Super, 0);
        let expected = format_args!("{journal}, which the journal names").to_string();
        let got = format_args!("{}, which serves as well", found.generation).to_string();
        place.error("newest generation", expected, got)
    })
}

fn refuse(found: &Superblock, newer: Generation, witness: &str) -> Error {
    let why = format!(
        "the newest superblock that can be read in SUPER is of generation {}, but {witness} tells \
         of generation {newer}: what the newest ones named is lost, and an older one would show an \
         older state. Nothing was changed; put back a copy of SUPER, or of the whole volume, that \
         is as new",
        found.generation
    );
    Error::NotAVolume(why.into())
}
