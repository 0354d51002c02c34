//! What a generation consists of, written down.

use std::sync::Arc;

use razorfs_disk::Dir;
use razorfs_format::layout::FileName;
use razorfs_format::manifest::Manifest;
use razorfs_format::superblock::ManifestRef;
use razorfs_format::{Generation, Ino, PackId, SegmentId};

use super::{Checkpointer, Edit, Installer, name_of};
use crate::sync::atomic::Ordering;
use crate::{Result, fence};

impl Checkpointer {
    /// The manifest that follows.
    pub(super) fn next_manifest(
        &self,
        installer: &Installer,
        edit: &Edit,
        generation: Generation,
    ) -> Manifest {
        let mut next = installer.manifest.clone();
        next.id = next.counters.next_manifest;
        next.generation = generation;
        next.counters.next_manifest = next.id.next();
        let moved = |id| edit.added.iter().any(|a| a.id == id);
        next.segments
            .retain(|s| !edit.removed.contains(&s.id) && !moved(s.id));
        next.segments.extend(edit.added.iter().cloned());
        next.counters.next_segment = SegmentId(self.core.ids.segment.load(Ordering::Relaxed));
        next.counters.next_pack = PackId(self.core.ids.pack.load(Ordering::Relaxed));
        next.counters.next_ino = Ino(self.core.ids.ino.load(Ordering::Relaxed));
        if let Some(timeline) = &edit.timeline {
            next.timeline = Arc::clone(timeline);
        }
        if let Some(frozen) = &edit.flushed {
            next.counters.epoch = frozen.memtable.last_epoch();
            next.counters.inodes = frozen.counters.inodes;
            next.counters.bytes = frozen.counters.bytes;
            next.counters.lsn = frozen.counters.lsn;
            for (branch, (inodes, bytes)) in &frozen.counters.forks {
                Arc::make_mut(&mut next.timeline).count_fork(*branch, *inodes, *bytes);
            }
        }
        next
    }

    /// Writes a manifest, that no superblock names yet.
    pub(super) fn write_manifest(&self, manifest: &Manifest) -> Result<ManifestRef> {
        let core = &self.core;
        let bytes = manifest.to_bytes(core.vid);
        let crc = Manifest::crc(&bytes);
        let tmp = name_of(FileName::ManifestTmp(manifest.id));
        let name = name_of(FileName::Manifest(manifest.id));
        let file = fence::create_for(core.disk.as_ref(), &tmp, &name)?;
        file.write_at(&[std::io::IoSlice::new(&bytes)], 0)?;
        file.sync_data()?;
        core.disk.rename(&tmp, &name)?;
        core.disk.sync_dir(Dir::Meta)?;
        Ok(ManifestRef {
            id: manifest.id,
            len: bytes.len() as u32,
            crc,
        })
    }
}
