//! A creation that was interrupted: telling it from a volume, and from one that is damaged.
//!
//! `CREATING` is durable before any other file of a volume is made, and durably gone before the
//! creation is acknowledged or an opened volume takes anything. So where it is and no superblock
//! is valid nothing was ever kept, and the files may go. Where it is missing nothing is removed:
//! files without a valid superblock are then what is left of a volume.

use std::sync::Arc;

use razorfs_disk::{Dir, Disk, Name, OpenHow};
use razorfs_format::journal::{FileHeader, SECTOR, SECTOR_HEAD};
use razorfs_format::layout::FileName;
use razorfs_format::superblock::SLOT;
use razorfs_format::{Jid, ManifestId, Place, VolumeId};

use crate::checkpoint::name_of;
use crate::checkpoint::superfile::SuperFile;
use crate::{Error, Result};

/// The directories that a creation puts files in.
const DIRS: [Dir; 3] = [Dir::Journal, Dir::Meta, Dir::Pack];

/// Marks that a volume is being created, and removes what an interrupted creation has left.
pub(super) fn begin(disk: &dyn Disk) -> Result<()> {
    let mark = name_of(FileName::Creating);
    let left = leavings(disk)?;
    if !has(disk, FileName::Creating)? {
        disk.open(&mark, OpenHow::CreateNew)?;
    }
    // Also if it was there: that a process saw it does not make it durable.
    disk.sync_dir(Dir::Root)?;
    for file in &left {
        disk.remove(&name_of(*file))?;
    }
    if !left.is_empty() {
        for dir in [Dir::Root, Dir::Journal, Dir::Meta] {
            disk.sync_dir(dir)?;
        }
    }
    Ok(())
}

/// Makes durable that there is a volume, and takes the mark away, if there is one.
pub(super) fn finish(disk: &dyn Disk) -> Result<()> {
    if !has(disk, FileName::Creating)? {
        return Ok(());
    }
    // The name of the superblock first: a process may have ended before that.
    disk.sync_dir(Dir::Root)?;
    disk.remove(&name_of(FileName::Creating))?;
    disk.sync_dir(Dir::Root)?;
    Ok(())
}

/// Whether there is neither a volume nor what may be left of one, but at most an interrupted
/// creation. Nothing is changed.
pub(crate) fn is_free(disk: &dyn Disk) -> Result<bool> {
    match leavings(disk) {
        Ok(_) => Ok(true),
        Err(Error::Exists | Error::NotAVolume(_)) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Says of a volume that does not open that its creation was interrupted, if that is so.
pub(super) fn explain(disk: &dyn Disk, error: Error) -> Error {
    let interrupted = || Ok::<_, Error>(has(disk, FileName::Creating)? && is_free(disk)?);
    match (&error, interrupted()) {
        (Error::NotAVolume(_), Ok(true)) => Error::NotAVolume(
            "its creation was interrupted, so it holds nothing; `razorfs create` makes it anew"
                .into(),
        ),
        _ => error,
    }
}

fn has(disk: &dyn Disk, file: FileName) -> Result<bool> {
    Ok(disk.list(Dir::Root)?.contains(&name_of(file)))
}

/// The files of an interrupted creation but the mark; an error if there is a volume, or what may
/// be left of one.
fn leavings(disk: &dyn Disk) -> Result<Vec<FileName>> {
    let mut files = Vec::new();
    for dir in DIRS {
        match disk.list(dir) {
            Ok(names) => files.extend(names.iter().filter_map(parse)),
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e.into()),
        }
    }
    for dir in [Dir::Archive, Dir::Quarantine] {
        match disk.list(dir) {
            Ok(names) => names.first().map_or(Ok(()), |name| Err(damaged(name)))?,
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e.into()),
        }
    }
    let marked = has(disk, FileName::Creating)?;
    let with_super = has(disk, FileName::Super)?;
    if !marked {
        return match files.first() {
            _ if with_super => Err(Error::Exists),
            Some(file) => Err(damaged(file)),
            None => Ok(files),
        };
    }
    if with_super {
        check_super(disk)?;
    }
    for file in &files {
        check(disk, *file)?;
    }
    files.extend(with_super.then_some(FileName::Super));
    Ok(files)
}

fn parse(name: &Name) -> Option<FileName> {
    FileName::parse(name.dir.path(), &name.leaf)
}

/// The creation writes the first generation alone, so the slots of the other are zeros.
fn check_super(disk: &dyn Disk) -> Result<()> {
    match SuperFile::read(disk) {
        Ok(_) | Err(Error::NewerVersion(_)) => return Err(Error::Exists),
        Err(_) => {}
    }
    let file = disk.open(&name_of(FileName::Super), OpenHow::ReadUncached)?;
    let mut slots = vec![0; 2 * SLOT];
    file.read_at(&mut slots, 0)?;
    match slots.iter().all(|b| *b == 0) {
        true => Ok(()),
        false => Err(damaged(&FileName::Super)),
    }
}

/// That a file is one which the creation makes, and that nothing was done with it since.
fn check(disk: &dyn Disk, file: FileName) -> Result<()> {
    let ours = match file {
        FileName::Manifest(id) => id == ManifestId(1),
        FileName::Journal(_) | FileName::JournalTwin(_) => is_first_life(disk, file)?,
        _ => false,
    };
    if ours { Ok(()) } else { Err(damaged(&file)) }
}

fn is_first_life(disk: &dyn Disk, name: FileName) -> Result<bool> {
    let file = disk.open(&name_of(name), OpenHow::Read)?;
    let mut sector = [0; SECTOR];
    file.read_at(&mut sector, 0)?;
    if sector == [0; SECTOR] {
        return Ok(true);
    }
    // Which volume it was to be is told by nothing else yet.
    let vid = sector.get(SECTOR_HEAD + 8..).and_then(<[u8]>::first_chunk);
    let vid = VolumeId(vid.map_or(0, |b| u64::from_le_bytes(*b)));
    let header = FileHeader::decode(vid, &sector, Place::new(name, 0));
    Ok(header.is_ok_and(|h| h.jid <= Jid(1)))
}

fn damaged(file: &dyn std::fmt::Display) -> Error {
    let why = format!(
        "there is {file} of a volume, but no valid superblock; it is not overwritten: \
         run `razorfs verify`, or name another path"
    );
    Error::NotAVolume(Arc::from(why))
}
