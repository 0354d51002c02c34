//! Files that no generation names: a crash left them on their way in or out.

use razorfs_disk::Dir;
use razorfs_format::layout::FileName;
use razorfs_format::{ManifestId, PackId, SegmentId};

use super::Opening;
use crate::Result;
use crate::checkpoint::name_of;
use crate::marks::{self, Mark};

impl Opening {
    fn listing(&self) -> Result<Vec<FileName>> {
        let mut found = Vec::new();
        for dir in [Dir::Meta, Dir::Pack] {
            for name in self.disk.list(dir)? {
                // A file that is not ours is left alone; verify tells of it.
                found.extend(FileName::parse(dir.path(), &name.leaf));
            }
        }
        Ok(found)
    }

    /// Identities of files that exist are never given out again, whatever the manifest says.
    pub(super) fn adopt_listing(&mut self) -> Result<()> {
        let counters = &mut self.manifest.counters;
        for pack in self.replay.frames.keys() {
            counters.next_pack = counters.next_pack.max(pack.next());
        }
        for file in self.listing()? {
            let counters = &mut self.manifest.counters;
            match file {
                FileName::Manifest(id) | FileName::ManifestTmp(id) => {
                    counters.next_manifest = ManifestId(counters.next_manifest.0.max(id.0 + 1));
                }
                FileName::Segment(id) | FileName::SegmentTmp(id) => {
                    counters.next_segment = SegmentId(counters.next_segment.0.max(id.0 + 1));
                }
                FileName::Pack(id) => {
                    counters.next_pack = PackId(counters.next_pack.0.max(id.0 + 1));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes what neither the newest generation nor the one before it, which has the same
    /// manifest, names, and what the journal does not refer to.
    pub(super) fn remove_leftovers(&self) -> Result<()> {
        let named = |file: &FileName| match file {
            FileName::Manifest(id) => *id == self.manifest.id,
            FileName::Segment(id) => self.manifest.segments.iter().any(|s| s.id == *id),
            FileName::Pack(id) => {
                self.manifest.packs.iter().any(|p| p.id == *id)
                    || self.replay.frames.contains_key(id)
            }
            FileName::ManifestTmp(_) | FileName::SegmentTmp(_) => false,
            FileName::Super
            | FileName::Lock
            | FileName::Reserve
            | FileName::Creating
            | FileName::Journal(_) => true,
        };
        for file in self.listing()? {
            if !named(&file) {
                self.disk.remove(&name_of(file))?;
                marks::hit(Mark::RecoveryLeftover);
            }
        }
        Ok(())
    }
}
