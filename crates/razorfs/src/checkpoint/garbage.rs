//! What no generation needs any more, and when it goes: one generation after the one that stopped
//! needing it, so that a lost superblock is survivable.

use std::ops::Range;

use razorfs_disk::OpenHow;
use razorfs_format::layout::FileName;
use razorfs_format::parity::Object;
use razorfs_format::{Generation, ManifestId, PackId, SegmentId};

use super::{Checkpointer, Edit, Installer, Next, name_of};
use crate::data::Position;
use crate::marks::{self, Mark};
use crate::sync::atomic::Ordering;
use crate::{Error, Result, fence};

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
    /// Takes back what a try that failed with `e` wrote, and nothing where files of these names may
    /// be another host's.
    pub(super) fn take_back(
        &self,
        installer: &mut Installer,
        cold: Option<&Position>,
        segments: impl Iterator<Item = SegmentId>,
        e: &Error,
    ) {
        if !fence::may_undo(e) {
            return;
        }
        marks::hit(Mark::CheckpointTakenBack);
        if let Some(cold) = cold {
            installer.cold.rewind(cold);
        }
        self.discard(segments);
    }

    /// The same for a manifest.
    pub(super) fn take_back_manifest(&self, id: ManifestId, e: &Error) {
        if fence::may_undo(e) {
            for file in [FileName::ManifestTmp(id), FileName::Manifest(id)] {
                // What cannot be removed now is removed at the next mount.
                let _ = self.core.disk.remove(&name_of(file));
            }
        }
    }

    /// Removes segments that no generation names, under either name, so that checkpoints which
    /// fail on a full host do not fill it further.
    fn discard(&self, segments: impl Iterator<Item = SegmentId>) {
        for id in segments {
            let mut files = vec![FileName::SegmentTmp(id), FileName::Segment(id)];
            if self.core.healer.is_some() {
                let object = Object::Segment(id);
                files.extend([object.parity_tmp(), object.parity()]);
            }
            for file in files {
                // What cannot be removed now is removed at the next mount.
                let _ = self.core.disk.remove(&name_of(file));
            }
        }
    }

    /// Notes what the new generation does not need any more.
    pub(super) fn collect(&self, installer: &mut Installer, edit: Option<&Edit>, next: &mut Next) {
        let since = next.superblock.generation;
        let packs = std::mem::take(&mut next.dead);
        self.core.ids.forget_packs(&packs);
        for pack in &packs {
            installer.cleaning.forget(*pack);
        }
        let mut files: Vec<FileName> = packs.iter().copied().map(FileName::Pack).collect();
        if let Some(parity) = &mut installer.parity {
            let with = packs.into_iter().filter(|id| parity.forget(*id));
            files.extend(with.map(FileName::PackParity));
        }
        if let Some(edit) = edit {
            files.extend(edit.removed.iter().map(|id| FileName::Segment(*id)));
            if installer.parity.is_some() {
                files.extend(edit.removed.iter().map(|id| FileName::SegmentParity(*id)));
            }
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
    pub(super) fn remove_garbage(&self, installer: &mut Installer) -> Result<()> {
        let newest = installer.superblock.generation;
        let flushed = installer.manifest.counters.epoch;
        for (pack, range) in installer.account.take_punchable(flushed) {
            let what = Unneeded::Bytes(pack, range);
            installer.garbage.push(Garbage {
                unneeded_since: newest,
                what,
            });
        }
        if !installer.garbage.iter().any(|g| g.unneeded_since < newest) {
            return Ok(());
        }
        match self.core.fence.check() {
            Err(e @ Error::Fenced(_)) => return Err(e),
            // Who cannot tell removes nothing; the next checkpoint looks again.
            Err(_) => return Ok(()),
            Ok(()) => {}
        }
        let garbage = std::mem::take(&mut installer.garbage);
        // On a full host there is no room for it before something is given back.
        let is_low = installer.parity.is_some() && self.core.host_is_low(0).unwrap_or(false);
        let parity = installer.parity.as_ref();
        // Elsewhere parity comes first, and then holes are whole groups.
        let waits = |item: &Garbage| match (&item.what, parity) {
            (Unneeded::Bytes(pack, _), Some(parity)) => {
                !is_low && installer.account.get(*pack).is_some() && !parity.is_settled(*pack)
            }
            _ => false,
        };
        let (kept, gone): (Vec<Garbage>, Vec<Garbage>) = garbage
            .into_iter()
            .partition(|item| item.unneeded_since >= newest || waits(item));
        installer.garbage = kept;
        let is_hole = |item: &Garbage| matches!(item.what, Unneeded::Bytes(..));
        if is_low && gone.iter().any(is_hole) {
            // What is half made is of the bytes before the hole.
            self.abandon_parity(installer);
        }
        for item in gone {
            if let Err(e) = self.remove_one(installer, &item.what) {
                marks::hit(Mark::GarbageFailed);
                // It is found again at the next mount; a host that cannot punch keeps the bytes.
                tracing::debug!(error = %e, "something unneeded could not be removed");
            }
        }
        Ok(())
    }

    fn remove_one(&self, installer: &Installer, what: &Unneeded) -> Result<()> {
        match what {
            Unneeded::File(file) => {
                self.core.disk.remove(&name_of(*file))?;
                marks::hit(Mark::GarbageFile);
                if let FileName::Pack(pack) = file {
                    let count = &self.core.counts.removed_packs;
                    count.fetch_add(1, Ordering::Relaxed);
                    self.core.reader.forget(*pack);
                }
            }
            Unneeded::Bytes(pack, range) => {
                let file = self
                    .core
                    .disk
                    .open(&name_of(FileName::Pack(*pack)), OpenHow::ReadWrite)?;
                let mut range = range.clone();
                if installer.parity.as_ref().is_some_and(|p| p.has(*pack)) {
                    range = self.hole_under_parity(*pack, &range)?;
                    marks::hit(Mark::ParityPunched);
                }
                if range.is_empty() {
                    return Ok(());
                }
                file.punch(range)?;
                marks::hit(Mark::GarbagePunched);
            }
        }
        Ok(())
    }
}
