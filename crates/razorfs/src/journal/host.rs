//! Journal files on the host's disk: names, creation, headers. Where the journal has two copies,
//! whoever writes a file has both behind one door.

use std::collections::BTreeSet;
use std::io::IoSlice;
use std::sync::Arc;

use razorfs_disk::{Dir, Disk, File, Name, OpenHow, Result};
use razorfs_format::VolumeId;
use razorfs_format::journal::FileHeader;
use razorfs_format::layout::FileName;

use super::twins::{Flusher, Twins};

/// The files of a journal, each with all of its copies.
#[derive(Clone)]
pub(super) struct Host {
    pub disk: Arc<dyn Disk>,
    pub copies: u8,
    pub flusher: Arc<Flusher>,
}

/// The name of a copy of the journal file with this number.
pub(super) fn name(slot: u32, copy: u8) -> Name {
    Name::new(Dir::Journal, &FileName::journal(slot, copy).leaf())
}

/// The numbers of the journal files of which there is a copy, ascending.
pub(super) fn slots(disk: &dyn Disk, copies: u8) -> Result<BTreeSet<u32>> {
    let names = disk.list(Dir::Journal)?;
    let slots = names
        .iter()
        .filter_map(|n| match FileName::parse(n.dir.path(), &n.leaf) {
            Some(FileName::Journal(slot)) => Some(slot),
            Some(FileName::JournalTwin(slot)) if copies > 1 => Some(slot),
            _ => None,
        });
    Ok(slots.collect())
}

/// The names of all copies of journal files there are.
pub(super) fn names(disk: &dyn Disk, copies: u8) -> Result<Vec<Name>> {
    let mut names = disk.list(Dir::Journal)?;
    names.retain(|n| match FileName::parse(n.dir.path(), &n.leaf) {
        Some(FileName::JournalTwin(_)) => copies > 1,
        Some(FileName::Journal(_)) => true,
        _ => false,
    });
    names.sort_unstable();
    Ok(names)
}

/// Writes a file's header and makes it durable.
pub(super) fn write_header(file: &dyn File, vid: VolumeId, header: &FileHeader) -> Result<()> {
    file.write_at(&[IoSlice::new(&header.encode(vid))], 0)?;
    file.sync_data()
}

impl Host {
    pub fn new(disk: Arc<dyn Disk>, copies: u8) -> Self {
        let flusher = Arc::default();
        Self {
            disk,
            copies,
            flusher,
        }
    }

    /// Opens a file, to write to it.
    pub fn open(&self, slot: u32) -> Result<Arc<dyn File>> {
        self.all(slot, OpenHow::ReadWrite)
    }

    /// Makes a file that must not exist. After an error there may be one copy of it.
    pub fn create_empty(&self, slot: u32) -> Result<Arc<dyn File>> {
        self.all(slot, OpenHow::CreateNew)
    }

    fn all(&self, slot: u32, how: OpenHow) -> Result<Arc<dyn File>> {
        let first = self.disk.open(&name(slot, 0), how)?;
        if self.copies < 2 {
            return Ok(first);
        }
        let second = self.disk.open(&name(slot, 1), how)?;
        Ok(Arc::new(Twins::new(
            first,
            second,
            Arc::clone(&self.flusher),
        )))
    }

    /// Creates a file of `header.len` zeros, with its header. Zeros are durable before the header,
    /// so a file that has a header is complete. The caller syncs the directory.
    pub fn create(&self, vid: VolumeId, header: &FileHeader) -> Result<Arc<dyn File>> {
        let file = self.create_empty(header.slot)?;
        file.allocate(0..header.len, true)?;
        file.sync_data()?;
        write_header(&*file, vid, header)?;
        Ok(file)
    }

    /// Removes what there is of a file, durably.
    pub fn remove(&self, slot: u32) -> Result<()> {
        for copy in 0..self.copies {
            match self.disk.remove(&name(slot, copy)) {
                Err(e) if !e.is_not_found() => return Err(e),
                _ => {}
            }
        }
        self.disk.sync_dir(Dir::Journal)
    }
}
