//! Makes the repaired volume the volume. Order, and what a crash right after a step leaves:
//!
//! 1. segments are written as `.tmp`, flushed, renamed, the directory flushed: nobody names them;
//! 2. new journal files, empty, flushed, then the directory: free files of the old ring;
//! 3. the manifest is written as `.tmp`, flushed, renamed, the directory flushed; a copy of the old
//!    superblock is put into `quarantine`: nobody names them;
//! 4. the superblock of a generation that is newer than any, into the slots that do not hold the
//!    newest one that is valid, and a flush: the old or the repaired volume counts;
//! 5. the same once more under the next generation: there is no way back to the old one;
//! 6. headers of packs that are damaged are written again;
//! 7. what the repaired volume does not name is moved to `quarantine`.
//!
//! The journal begins behind every batch and every operation that anything knew of, so nothing old
//! is replayed in any case.

use std::collections::BTreeSet;
use std::io::IoSlice;

use razorfs_disk::{Dir, Disk, Name, OpenHow};
use razorfs_format::journal::FileHeader;
use razorfs_format::layout::FileName;
use razorfs_format::manifest::Manifest;
use razorfs_format::pack::{HEADER_LEN, check_header, encode_header};
use razorfs_format::parity::Object;
use razorfs_format::superblock::{
    JournalStart, ManifestRef, SLOT, SLOTS, State, Superblock, slots_of,
};
use razorfs_format::{BatchSeq, Generation, Jid, PackId, VolumeId};

use super::evidence::Evidence;
use crate::Result;
use crate::session::name_of;

/// Most files of a new ring, whatever the geometry says.
const RING_MAX: u32 = 16;

/// What is to be made the volume.
pub struct Commit<'d> {
    pub disk: &'d dyn Disk,
    pub vid: VolumeId,
    pub superblock: Superblock,
    pub manifest: Manifest,
    /// Packs whose headers are damaged.
    pub headless: Vec<PackId>,
    /// Packs that were sealed before.
    pub sealed: BTreeSet<PackId>,
    /// The numbers of the new journal files begin here.
    pub slot: u32,
}

/// The generation that a repair writes first: newer than any, and not in the slots of `newest`.
pub fn generation_after(evidence: &Evidence, newest: Option<Generation>) -> Generation {
    let next = evidence.highest.generation.next();
    match newest {
        Some(newest) if slots_of(newest) == slots_of(next) => next.next(),
        _ => next,
    }
}

impl Commit<'_> {
    /// Everything up to the superblock; nothing names it yet.
    pub fn prepare(&mut self, evidence: &Evidence) -> Result<()> {
        self.disk.create_dirs()?;
        self.publish_segments()?;
        self.make_journal(evidence.highest.jid)?;
        self.write_manifest()?;
        self.keep_superblock()
    }

    fn publish_segments(&self) -> Result<()> {
        for meta in &self.manifest.segments {
            if self.superblock.geometry.parity > 0 {
                let object = Object::Segment(meta.id);
                self.disk
                    .rename(&name_of(object.parity_tmp()), &name_of(object.parity()))?;
            }
            let from = name_of(FileName::SegmentTmp(meta.id));
            self.disk
                .rename(&from, &name_of(FileName::Segment(meta.id)))?;
        }
        self.disk.sync_dir(Dir::Meta)
    }

    fn journal_slots(&self) -> std::ops::Range<u32> {
        let files = self.superblock.geometry.journal.initial_files;
        self.slot..self.slot.saturating_add(files.min(RING_MAX))
    }

    fn journal_names(&self) -> impl Iterator<Item = FileName> + use<> {
        let copies = self.superblock.geometry.journal.copies;
        self.journal_slots()
            .flat_map(move |slot| (0..copies).map(move |copy| FileName::journal(slot, copy)))
    }

    fn make_journal(&self, previous: Jid) -> Result<()> {
        let len = u64::from(self.superblock.geometry.journal.initial_file);
        for name in self.journal_names() {
            let (FileName::Journal(slot) | FileName::JournalTwin(slot)) = name else {
                continue;
            };
            let file = self.disk.open(&name_of(name), OpenHow::CreateNew)?;
            // Zeros first, so that a file with a header is complete.
            file.allocate(0..len, true)?;
            file.sync_data()?;
            let header = FileHeader {
                jid: Jid(0),
                previous,
                slot,
                copy: 0,
                len,
            };
            file.write_at(&[IoSlice::new(&header.encode(self.vid))], 0)?;
            file.sync_data()?;
        }
        self.disk.sync_dir(Dir::Journal)
    }

    fn write_manifest(&mut self) -> Result<()> {
        let id = self.manifest.id;
        let bytes = self.manifest.to_bytes(self.vid);
        self.superblock.manifest = ManifestRef {
            id,
            len: bytes.len() as u32,
            crc: Manifest::crc(&bytes),
        };
        let tmp = name_of(FileName::ManifestTmp(id));
        let file = self.disk.open(&tmp, OpenHow::CreateNew)?;
        file.write_at(&[IoSlice::new(&bytes)], 0)?;
        file.sync_data()?;
        self.disk.rename(&tmp, &name_of(FileName::Manifest(id)))?;
        self.disk.sync_dir(Dir::Meta)
    }

    fn keep_superblock(&self) -> Result<()> {
        let old = match self.disk.open(&name_of(FileName::Super), OpenHow::Read) {
            Err(e) if e.is_not_found() => return Ok(()),
            old => old?,
        };
        let mut bytes = vec![0; SLOTS * SLOT];
        // What cannot be read is no loss: the valid slots were.
        let got = old.read_at(&mut bytes, 0).unwrap_or(0);
        bytes.truncate(got);
        let name = self.aside(&name_of(FileName::Super));
        match self.disk.open(&name, OpenHow::CreateNew) {
            Err(e) if e.is_exists() => return Ok(()),
            copy => {
                let copy = copy?;
                copy.write_at(&[IoSlice::new(&bytes)], 0)?;
                copy.sync_data()?;
            }
        }
        self.disk.sync_dir(Dir::Quarantine)
    }

    /// The name that a file gets in `quarantine`.
    fn aside(&self, name: &Name) -> Name {
        let generation = self.superblock.generation;
        Name::new(Dir::Quarantine, &format!("{generation}-{}", name.leaf))
    }

    /// Writes both generations.
    pub fn switch(&mut self) -> Result<()> {
        self.superblock.state = State::Clean;
        let name = name_of(FileName::Super);
        let file = match self.disk.open(&name, OpenHow::ReadWrite) {
            Err(e) if e.is_not_found() => {
                let file = self.disk.open(&name, OpenHow::CreateNew)?;
                file.allocate(0..(SLOTS * SLOT) as u64, true)?;
                file.sync_data()?;
                self.disk.sync_dir(Dir::Root)?;
                file
            }
            file => file?,
        };
        if file.len()? != (SLOTS * SLOT) as u64 {
            file.set_len((SLOTS * SLOT) as u64)?;
        }
        for again in [false, true] {
            let mut superblock = self.superblock.clone();
            if again {
                superblock.generation = superblock.generation.next();
            }
            for slot in slots_of(superblock.generation) {
                let bytes = superblock.encode(slot);
                file.write_at(&[IoSlice::new(&bytes)], (slot * SLOT) as u64)?;
            }
            file.sync_data()?;
        }
        Ok(())
    }

    /// What is done once the repaired volume is the volume; answers what was set aside.
    pub fn finish(&self) -> Result<Vec<String>> {
        for pack in &self.headless {
            let file = self
                .disk
                .open(&name_of(FileName::Pack(*pack)), OpenHow::ReadWrite)?;
            file.write_at(&[IoSlice::new(&encode_header(self.vid, *pack))], 0)?;
            file.sync_data()?;
        }
        let mut aside = Vec::new();
        let superblock = self.aside(&name_of(FileName::Super));
        if self.disk.list(Dir::Quarantine)?.contains(&superblock) {
            aside.push(superblock.to_string());
        }
        for dir in [Dir::Meta, Dir::Pack, Dir::Journal] {
            for name in self.disk.list(dir)? {
                match FileName::parse(dir.path(), &name.leaf) {
                    None => {}
                    Some(
                        FileName::SegmentTmp(_)
                        | FileName::ManifestTmp(_)
                        | FileName::SegmentParityTmp(_)
                        | FileName::PackParityTmp(_),
                    ) => {
                        self.disk.remove(&name)?;
                    }
                    Some(file) if self.names(file) => {}
                    Some(_) => {
                        let to = self.aside(&name);
                        self.disk.rename(&name, &to)?;
                        aside.push(to.to_string());
                    }
                }
            }
            self.disk.sync_dir(dir)?;
        }
        self.disk.sync_dir(Dir::Quarantine)?;
        Ok(aside)
    }

    fn names(&self, file: FileName) -> bool {
        match file {
            FileName::Manifest(id) => id == self.manifest.id,
            FileName::Segment(id) => self.manifest.segments.iter().any(|m| m.id == id),
            FileName::SegmentParity(id) => self.names(FileName::Segment(id)),
            FileName::Pack(id) => self.manifest.packs.iter().any(|m| m.id == id),
            // A mount makes those of packs that were not sealed.
            FileName::PackParity(id) => {
                let mut packs = self.manifest.packs.iter();
                packs.any(|m| m.id == id && self.sealed.contains(&id))
            }
            FileName::Journal(_) | FileName::JournalTwin(_) => {
                self.journal_names().any(|name| name == file)
            }
            _ => true,
        }
    }

    /// Removes what nobody names, as far as the disk lets us: the next repair or mount removes or
    /// sets aside what is left.
    pub fn take_back(&self) {
        let segments = self.manifest.segments.iter().map(|m| m.id);
        let segments = segments.flat_map(|id| {
            let object = Object::Segment(id);
            let files = [FileName::SegmentTmp(id), object.file()];
            files
                .into_iter()
                .chain([object.parity_tmp(), object.parity()])
        });
        let id = self.manifest.id;
        let manifest = [FileName::ManifestTmp(id), FileName::Manifest(id)];
        let journal = self.journal_names();
        // The manifest first: what it names must be there as long as it is.
        for file in manifest.into_iter().chain(segments).chain(journal) {
            let _ = self.disk.remove(&name_of(file));
        }
        let _ = self.disk.remove(&self.aside(&name_of(FileName::Super)));
    }
}

/// Where the journal of the repaired volume begins: behind everything that was there.
pub fn journal_after(evidence: &Evidence) -> JournalStart {
    JournalStart {
        jid: evidence.highest.jid,
        batch: BatchSeq(evidence.highest.batch.0.saturating_add(1)),
    }
}

/// Whether a pack's header must be written again.
pub fn is_headless(disk: &dyn Disk, vid: VolumeId, pack: PackId) -> bool {
    let mut bytes = vec![0; HEADER_LEN as usize];
    let file = disk.open(&name_of(FileName::Pack(pack)), OpenHow::ReadUncached);
    let got = file.and_then(|f| f.read_at(&mut bytes, 0));
    let got = got.unwrap_or(0);
    check_header(bytes.get(..got).unwrap_or_default(), vid, pack).is_err()
}
