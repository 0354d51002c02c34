//! What no generation needs any more, and when it goes: one generation after the one that stopped
//! needing it, so that a lost superblock is survivable.

use std::ops::Range;

use razorfs_disk::OpenHow;
use razorfs_format::layout::FileName;
use razorfs_format::{Generation, PackId, SegmentId};

use super::{Checkpointer, Edit, Installer, Next, name_of};
use crate::Result;

/// What may go once no generation that could be mounted needs it.
pub(super) struct Garbage {
    /// The first generation that does not need it.
    pub unneeded_since: Generation,
    pub what: Unneeded,
}

pub(super) enum Unneeded {
    File(FileName),
    Bytes(PackId, Range<u64>),
}

impl Checkpointer {
    /// Removes segments that no generation names, under either name, so that checkpoints which
    /// fail on a full host do not fill it further.
    pub(super) fn discard(&self, segments: impl Iterator<Item = SegmentId>) {
        for id in segments {
            for file in [FileName::SegmentTmp(id), FileName::Segment(id)] {
                // What cannot be removed now is removed at the next mount.
                let _ = self.core.disk.remove(&name_of(file));
            }
        }
    }

    /// Notes what the new generation does not need any more.
    pub(super) fn collect(&self, installer: &mut Installer, edit: Option<&Edit>, next: &mut Next) {
        let since = next.superblock.generation;
        let packs = std::mem::take(&mut next.dead).into_iter();
        let mut files: Vec<FileName> = packs.map(FileName::Pack).collect();
        if let Some(edit) = edit {
            files.extend(edit.removed.iter().map(|id| FileName::Segment(*id)));
        }
        if next.tables.is_some() {
            files.push(FileName::Manifest(installer.manifest.id));
        }
        let garbage = files.into_iter().map(Unneeded::File);
        installer.garbage.extend(garbage.map(|what| Garbage {
            unneeded_since: since,
            what,
        }));
    }

    /// Removes what neither the newest generation nor the one before it needs.
    pub(super) fn remove_garbage(&self, installer: &mut Installer) {
        let newest = installer.superblock.generation;
        let flushed = installer.manifest.counters.epoch;
        for (pack, range) in installer.account.take_punchable(flushed) {
            let what = Unneeded::Bytes(pack, range);
            installer.garbage.push(Garbage {
                unneeded_since: newest,
                what,
            });
        }
        let garbage = std::mem::take(&mut installer.garbage);
        for item in garbage {
            if item.unneeded_since >= newest {
                installer.garbage.push(item);
                continue;
            }
            if let Err(e) = self.remove_one(&item.what) {
                // It is found again at the next mount; a host that cannot punch keeps the bytes.
                tracing::debug!(error = %e, "something unneeded could not be removed");
            }
        }
    }

    fn remove_one(&self, what: &Unneeded) -> Result<()> {
        match what {
            Unneeded::File(file) => {
                self.core.disk.remove(&name_of(*file))?;
                if let FileName::Pack(pack) = file {
                    self.core.reader.forget(*pack);
                }
            }
            Unneeded::Bytes(pack, range) => {
                let file = self
                    .core
                    .disk
                    .open(&name_of(FileName::Pack(*pack)), OpenHow::ReadWrite)?;
                file.punch(range.clone())?;
            }
        }
        Ok(())
    }
}
