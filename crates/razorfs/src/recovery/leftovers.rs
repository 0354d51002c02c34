//! Files that no generation names: a crash left them on their way in or out.

use std::collections::BTreeSet;

use razorfs_disk::{Dir, Name};
use razorfs_format::layout::FileName;
use razorfs_format::{FormatError, PackId, Place};

use super::Opening;
use crate::checkpoint::name_of;
use crate::marks::{self, Mark};
use crate::{Error, Result};

/// No volume ever comes to larger numbers: what says so is damaged, and there must be others to
/// follow.
const NUMBER_MAX: u64 = 1 << 62;

fn too_large(file: FileName, got: u64) -> Error {
    let place = Place::new(file, 0);
    place.error("number", "one below 2^62", got).into()
}

impl Opening {
    fn listing(&self) -> Result<Vec<FileName>> {
        let mut found = Vec::new();
        for dir in [Dir::Root, Dir::Meta, Dir::Pack] {
            for name in self.disk.list(dir)? {
                // A file that is not ours is left alone; verify tells of it.
                found.extend(FileName::parse(dir.path(), &name.leaf));
            }
        }
        Ok(found)
    }

    /// The files that the manifest names and that are not there, as where a copy of the volume is
    /// not complete. What is in the others can be read all the same.
    pub(super) fn missing(&self) -> Result<Vec<FormatError>> {
        let there: BTreeSet<FileName> = self.listing()?.into_iter().collect();
        let segments = self
            .manifest
            .segments
            .iter()
            .map(|s| FileName::Segment(s.id));
        let packs = self.manifest.packs.iter().map(|p| FileName::Pack(p.id));
        let gone = segments.chain(packs).filter(|file| !there.contains(file));
        let error = |file| Place::new(file, 0).error("file", "one that the manifest names", "none");
        Ok(gone.map(error).collect())
    }

    /// Identities of files that exist, or that the journal names, are never given out again,
    /// whatever the manifest says.
    pub(super) fn adopt_listing(&mut self) -> Result<()> {
        let named = self.replay.frames.keys().map(|id| FileName::Pack(*id));
        let files: Vec<FileName> = named.chain(self.listing()?).collect();
        let counters = &mut self.manifest.counters;
        for file in files {
            let (next, id) = match file {
                FileName::Manifest(id) | FileName::ManifestTmp(id) => {
                    (&mut counters.next_manifest.0, id.0)
                }
                FileName::Segment(id)
                | FileName::SegmentTmp(id)
                | FileName::SegmentParity(id)
                | FileName::SegmentParityTmp(id) => (&mut counters.next_segment.0, id.0),
                FileName::Pack(id) | FileName::PackParity(id) | FileName::PackParityTmp(id) => {
                    (&mut counters.next_pack.0, id.0)
                }
                _ => continue,
            };
            *next = id.saturating_add(1).max(*next);
            if *next > NUMBER_MAX {
                return Err(too_large(file, *next));
            }
        }
        let c = &self.manifest.counters;
        let numbers = [
            c.next_manifest.0,
            c.next_segment.0,
            c.next_pack.0,
            self.replay.memtable.last_epoch().0,
            self.replay.counters.lsn.0,
        ];
        let most = numbers.into_iter().max().unwrap_or_default();
        if most > NUMBER_MAX {
            return Err(too_large(FileName::Manifest(self.manifest.id), most));
        }
        self.adopt_frames()
    }

    /// A batch is written after the packs that it names. If one is not there its frames are lost,
    /// and whoever reads them is told; no pack comes into being for them.
    fn adopt_frames(&mut self) -> Result<()> {
        let there: BTreeSet<Name> = self.disk.list(Dir::Pack)?.into_iter().collect();
        let known: BTreeSet<PackId> = self.manifest.packs.iter().map(|p| p.id).collect();
        self.replay.frames.retain(|id, _| {
            let file = FileName::Pack(*id);
            let is_there = known.contains(id) || there.contains(&name_of(file));
            if !is_there {
                tracing::warn!(%file, "a pack that the journal names is not there");
            }
            is_there
        });
        Ok(())
    }

    /// Removes what neither the newest generation nor the one before it, which has the same
    /// manifest, names, and what the journal does not refer to.
    pub(super) fn remove_leftovers(&self) -> Result<()> {
        let parity = self.superblock.geometry.parity > 0;
        let named = |file: &FileName| match file {
            FileName::Manifest(id) => *id == self.manifest.id,
            FileName::Segment(id) => self.manifest.segments.iter().any(|s| s.id == *id),
            FileName::Pack(id) => {
                self.manifest.packs.iter().any(|p| p.id == *id)
                    || self.replay.frames.contains_key(id)
            }
            FileName::SegmentParity(id) => {
                parity && self.manifest.segments.iter().any(|s| s.id == *id)
            }
            // One that goes on growing has none.
            FileName::PackParity(id) => parity && self.is_sealed(*id),
            FileName::ManifestTmp(_)
            | FileName::SegmentTmp(_)
            | FileName::PackParityTmp(_)
            | FileName::SegmentParityTmp(_)
            | FileName::ScrubTmp => false,
            FileName::Super
            | FileName::Lock
            | FileName::Reserve
            | FileName::Creating
            | FileName::Scrub
            | FileName::Journal(_)
            | FileName::JournalTwin(_) => true,
        };
        let mut of_packs = false;
        for file in self.listing()? {
            if !named(&file) {
                self.disk.remove(&name_of(file))?;
                marks::hit(Mark::RecoveryLeftover);
                if let FileName::PackParity(_) = file {
                    marks::hit(Mark::ParityLeftover);
                    of_packs = true;
                }
            }
        }
        if of_packs {
            // A pack that grows and is sealed again must not find the parity of its shorter self.
            self.disk.sync_dir(Dir::Pack)?;
        }
        Ok(())
    }

    fn is_sealed(&self, id: PackId) -> bool {
        let mut packs = self.manifest.packs.iter();
        packs.any(|p| p.id == id && p.sealed)
    }

    /// The packs that have parity, by the names of the files.
    pub(super) fn packs_with_parity(&self) -> Result<BTreeSet<PackId>> {
        let found = self.listing()?.into_iter().filter_map(|file| match file {
            FileName::PackParity(id) if self.is_sealed(id) => Some(id),
            _ => None,
        });
        Ok(found.collect())
    }
}
