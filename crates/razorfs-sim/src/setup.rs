//! How the volumes of a run are made.

use razorfs::{Compression, Durability, Geometry};

use crate::rng::{Rng, mix};

/// How the volumes of a run are made.
#[derive(Clone, Debug)]
pub struct Setup {
    /// When operations are durable.
    pub durability: Durability,
    /// Compression of data.
    pub compression: Compression,
    /// Sizes of files.
    pub geometry: Geometry,
    /// Copies of the journal.
    pub journal_copies: u8,
    /// Most bytes of file data.
    pub limit: Option<u64>,
    /// Bytes of the block cache.
    pub cache_bytes: u64,
    /// Whether packs and segments have parity.
    pub parity: bool,
    /// Whether workloads take snapshots.
    pub snapshots: bool,
    /// Whether they make branches.
    pub branches: bool,
    /// Whether they commit these to each other.
    pub merges: bool,
    /// Whether they send snapshots to another volume.
    pub streams: bool,
    /// Whether they go back to moments, and to what branches were made of.
    pub moments: bool,
    /// Seed of the disk's and the clock's randomness.
    pub seed: u64,
}

/// What is said beside a seed; else the seed says it.
#[derive(Clone, Copy, Default, Debug)]
pub struct Choice {
    /// Copies of the journal.
    pub copies: Option<u8>,
    /// Whether workloads take snapshots.
    pub snapshots: Option<bool>,
    /// Whether they make branches.
    pub branches: Option<bool>,
    /// Whether they commit these to each other.
    pub merges: Option<bool>,
    /// Whether they send snapshots to another volume.
    pub streams: Option<bool>,
    /// Whether they go back to moments, and to what branches were made of.
    pub moments: Option<bool>,
}

impl Choice {
    /// The setup of a seed with it.
    #[must_use]
    pub fn setup(self, seed: u64) -> Setup {
        let mut setup = Setup::of(seed);
        setup.journal_copies = self.copies.unwrap_or(setup.journal_copies);
        setup.snapshots = self.snapshots.unwrap_or(setup.snapshots);
        setup.branches = self.branches.unwrap_or(setup.branches);
        setup.moments = self.moments.unwrap_or(setup.moments);
        setup.streams = self.streams.unwrap_or(setup.streams);
        setup.merges = setup.branches && self.merges.unwrap_or(setup.merges);
        setup
    }
}

impl Setup {
    /// What a seed says.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::new(mix(seed, 3));
        let durability = match rng.range(0..20) {
            0 | 1 => Durability::Sync,
            2..5 => Durability::JournalOnly,
            _ => Durability::Async,
        };
        let compression = match rng.range(0..6) {
            0 => Compression::Zstd(1),
            1 | 2 => Compression::None,
            _ => Compression::Lz4,
        };
        let mut geometry = Geometry::tiny();
        if rng.chance(30) {
            // Fewer operations to each checkpoint and each full pack.
            geometry.memtable_bytes = 8 << 10;
            geometry.pack_bytes = 192 << 10;
            geometry.checkpoint_journal = 32 << 10;
        } else if rng.chance(15) {
            // More to each, so that the journal fills up.
            geometry.memtable_bytes = 1 << 20;
            geometry.checkpoint_journal = 4 << 20;
        }
        Self {
            durability,
            compression,
            geometry,
            cache_bytes: [0, 16 << 10, 1 << 20]
                .get(rng.below(3))
                .copied()
                .unwrap_or(1 << 20),
            journal_copies: if mix(seed, 7).is_multiple_of(4) { 2 } else { 1 },
            limit: (mix(seed, 5).is_multiple_of(8)).then(|| 50_000 + mix(seed, 6) % 2_000_000),
            parity: mix(seed, 7).is_multiple_of(3),
            snapshots: mix(seed, 9).is_multiple_of(2),
            branches: mix(seed, 10).is_multiple_of(2),
            // Only where it is said: of a flag that nothing shows but a commit, the reference does
            // not know whether it survived a cut.
            merges: false,
            streams: mix(seed, 16).is_multiple_of(10),
            // Only where it is said: what others do is not disturbed by what is new.
            moments: false,
            seed,
        }
    }
}
