//! Searching packs for dead frames: which ones died before the volume was opened stands nowhere.
//! It is found again in the background, a pack at a time, where the account says that it is worth
//! while, and given back like what dies now. What cleaning would copy is searched before: what can
//! be punched, or was before the volume was opened, is no waste.

use razorfs_format::PackId;
use razorfs_format::key::Key;
use razorfs_format::layout::FileName;
use razorfs_format::manifest::PackMeta;
use razorfs_format::pack::TrailerEntry;
use razorfs_format::record::{Extent, FragmentKind};
use razorfs_format::timeline::Seen;
use razorfs_format::{Place, SegmentId};

use super::garbage::{Garbage, Unneeded};
use super::{Checkpointer, Installer};
use crate::Result;
use crate::data::{dead_runs, frames_of};
use crate::marks::{self, Mark};
use crate::store::{Bytes, Version};
use crate::sync::MutexGuard;

/// Records of segments passed their block's checksum; the place only names the table.
const SEGMENTS: Place = Place::new(FileName::Segment(SegmentId(0)), 0);

impl Checkpointer {
    /// Searches one pack, if one is to be searched.
    pub(super) fn search(&self) -> Result<()> {
        let mut installer = self.installer.lock();
        let newest = installer.superblock.generation;
        if installer.searched == newest {
            return Ok(());
        }
        let flushed = installer.manifest.counters.epoch;
        match installer.account.unsearched(flushed).copied() {
            Some(pack) => self.search_in(installer, &pack),
            None => {
                installer.searched = newest;
                Ok(())
            }
        }
    }

    /// Searches this pack.
    pub(super) fn search_in(
        &self,
        mut installer: MutexGuard<'_, Installer>,
        &PackMeta { id: pack, len, .. }: &PackMeta,
    ) -> Result<()> {
        installer.account.search(pack);
        let version = self.core.version.load_full();
        drop(installer);
        // Without the lock, for this takes its time: what is dead stays so.
        let holes = self.holes(pack, len, &version);
        let mut installer = self.installer.lock();
        if holes.is_err() && !std::sync::Arc::ptr_eq(&version, &self.core.version.load()) {
            // A segment of that version may have gone; the next search has a newer one.
            return Ok(());
        }
        let bytes = |hole: &std::ops::Range<u64>| hole.end - hole.start;
        let sum = holes.iter().flatten().map(bytes).sum();
        // What is damaged is searched again after the next opening, and stays where it is.
        installer.account.searched(pack, sum);
        let holes = holes?;
        if !holes.is_empty() {
            marks::hit(Mark::SearchFoundDead);
        }
        Self::note_holes(&mut installer, pack, holes);
        Ok(())
    }

    /// The generation before the newest may refer to them still.
    fn note_holes(installer: &mut Installer, pack: PackId, holes: Vec<std::ops::Range<u64>>) {
        let unneeded_since = installer.superblock.generation;
        installer
            .garbage
            .extend(holes.into_iter().map(|hole| Garbage {
                unneeded_since,
                what: Unneeded::Bytes(pack, hole),
            }));
    }

    /// What can be given back of a pack. All of it was flushed, so the segments have every
    /// reference to it.
    fn holes(
        &self,
        pack: PackId,
        len: u64,
        version: &Version,
    ) -> Result<Vec<std::ops::Range<u64>>> {
        let frames = self.core.reader.entries(pack, len)?;
        dead_runs(&frames, &mut |frame| version.refers(pack, frame))
    }
}

impl Version {
    /// Whether the segments refer to a frame, in the present or in what a snapshot shows.
    pub fn refers(&self, pack: PackId, frame: &TrailerEntry) -> Result<bool> {
        // The file that wrote it may be gone, or have written over it.
        if !self.seen(&Key::shared(pack, frame.pos))?.is_empty() {
            return Ok(true);
        }
        let key = Key::extent(frame.branch, frame.ino, frame.block);
        for value in self.seen(&key)? {
            let fragments = Extent::decode(&value, SEGMENTS)?.fragments;
            // What a lost record referred to is all that a repair has to bring it back from.
            let is_lost = fragments.iter().any(|f| f.kind == FragmentKind::Lost);
            let mut used = frames_of(&fragments);
            if is_lost || used.any(|f| f.pack == pack && f.pos == frame.pos) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What the segments have of a record that anybody can see.
    fn seen(&self, key: &Key) -> Result<Vec<Bytes>> {
        let mut versions = self.levels.versions(key, &key.successor());
        let (mut seen, mut values) = (Seen::default(), Vec::new());
        while let Some(record) = versions.next()? {
            if seen.is_seen(&self.timeline, record.epoch) {
                values.extend(record.value);
            }
        }
        Ok(values)
    }
}
