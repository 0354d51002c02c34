//! The highest numbers that anything in a volume names: what is given out next is beyond them.

use razorfs_disk::Dir;
use razorfs_format::layout::FileName;
use razorfs_format::manifest::Manifest;
use razorfs_format::superblock::Superblock;
use razorfs_format::{Epoch, Ino, ManifestId, PackId, SegmentId};

use crate::Result;
use crate::journal::{Highest, Life};
use crate::session::Session;

/// What was seen.
#[derive(Default)]
pub struct Evidence {
    /// In the journal and in the superblock.
    pub highest: Highest,
    pub manifest: ManifestId,
    pub segment: SegmentId,
    pub pack: PackId,
    pub epoch: Epoch,
    pub ino: Ino,
    /// The number of some journal file that is there, whatever it holds.
    pub slot: u32,
}

impl Evidence {
    pub fn collect(s: &Session<'_>, slots: &[Superblock], lives: &[Life]) -> Result<Self> {
        let mut this = Self {
            highest: Highest::of(lives),
            ..Self::default()
        };
        for slot in slots {
            let h = &mut this.highest;
            h.generation = h.generation.max(slot.generation);
            h.jid = h.jid.max(slot.journal.jid);
            h.batch = h.batch.max(slot.journal.batch).max(slot.end);
            h.lsn = h.lsn.max(slot.cut);
            this.manifest = this.manifest.max(slot.manifest.id);
        }
        for dir in [Dir::Meta, Dir::Pack, Dir::Journal] {
            for name in s.list(dir)? {
                match FileName::parse(dir.path(), &name.leaf) {
                    Some(FileName::Manifest(id) | FileName::ManifestTmp(id)) => {
                        this.manifest = this.manifest.max(id);
                    }
                    Some(
                        FileName::Segment(id)
                        | FileName::SegmentTmp(id)
                        | FileName::SegmentParity(id)
                        | FileName::SegmentParityTmp(id),
                    ) => {
                        this.segment = this.segment.max(id);
                    }
                    Some(
                        FileName::Pack(id) | FileName::PackParity(id) | FileName::PackParityTmp(id),
                    ) => this.pack = this.pack.max(id),
                    Some(FileName::Journal(slot) | FileName::JournalTwin(slot)) => {
                        this.slot = this.slot.max(slot);
                    }
                    _ => {}
                }
            }
        }
        Ok(this)
    }

    /// Whether there are no numbers left. Counting them up takes longer than anything lasts.
    pub fn is_at_its_end(&self) -> bool {
        const END: u64 = 1 << 62;
        let h = &self.highest;
        [
            h.batch.0,
            h.lsn.0,
            h.generation.0,
            self.manifest.0,
            self.segment.0,
            self.pack.0,
            self.epoch.0,
        ]
        .iter()
        .any(|n| *n >= END)
            || self.slot > u32::MAX / 2
    }

    /// What a manifest has given out.
    pub fn see(&mut self, manifest: &Manifest) {
        let c = &manifest.counters;
        self.manifest = self.manifest.max(manifest.id);
        self.manifest = self
            .manifest
            .max(ManifestId(c.next_manifest.0.saturating_sub(1)));
        self.segment = self
            .segment
            .max(SegmentId(c.next_segment.0.saturating_sub(1)));
        self.pack = self.pack.max(PackId(c.next_pack.0.saturating_sub(1)));
        self.ino = self.ino.max(Ino(c.next_ino.0.saturating_sub(1)));
        self.epoch = self.epoch.max(c.epoch);
        self.highest.lsn = self.highest.lsn.max(c.lsn);
        self.highest.generation = self.highest.generation.max(manifest.generation);
        for segment in &manifest.segments {
            self.epoch = self.epoch.max(segment.epoch_max);
        }
        for pack in &manifest.packs {
            self.epoch = self.epoch.max(pack.last_birth);
        }
    }
}
