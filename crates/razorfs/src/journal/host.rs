//! Journal files on the host's disk: names, creation, headers.

use std::io::IoSlice;
use std::sync::Arc;

use razorfs_disk::{Dir, Disk, File, Name, OpenHow, Result};
use razorfs_format::VolumeId;
use razorfs_format::journal::FileHeader;
use razorfs_format::layout::FileName;

/// The name of the journal file with this number.
pub(super) fn name(slot: u32) -> Name {
    Name::new(Dir::Journal, &FileName::Journal(slot).leaf())
}

/// The numbers of the journal files there are, ascending.
pub(super) fn slots(disk: &dyn Disk) -> Result<Vec<u32>> {
    let mut slots: Vec<u32> = disk
        .list(Dir::Journal)?
        .iter()
        .filter_map(|n| match FileName::parse(n.dir.path(), &n.leaf) {
            Some(FileName::Journal(slot)) => Some(slot),
            _ => None,
        })
        .collect();
    slots.sort_unstable();
    Ok(slots)
}

/// Writes a file's header and makes it durable.
pub(super) fn write_header(file: &dyn File, vid: VolumeId, header: &FileHeader) -> Result<()> {
    file.write_at(&[IoSlice::new(&header.encode(vid))], 0)?;
    file.sync_data()
}

/// Creates a file of `header.len` zeros, with its header. Zeros are durable before the header, so
/// a file that has a header is complete. The caller syncs the directory.
pub(super) fn create(disk: &dyn Disk, vid: VolumeId, header: &FileHeader) -> Result<Arc<dyn File>> {
    let file = disk.open(&name(header.slot), OpenHow::CreateNew)?;
    file.allocate(0..header.len, true)?;
    file.sync_data()?;
    write_header(&*file, vid, header)?;
    Ok(file)
}
