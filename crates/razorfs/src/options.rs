//! How a volume is created and opened.

use std::sync::Arc;

use crate::redo::RedoMemory;

/// When what was done is on the disk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Durability {
    /// Every operation is on the disk when it returns.
    Sync,
    /// Operations return at once and are on the disk within a second, or at the next sync.
    #[default]
    Async,
    /// As `Async`, without background checkpoints: the journal alone holds what is new until it is
    /// full or the volume is closed.
    JournalOnly,
}

impl Durability {
    /// [`Durability::Sync`], by the name that reads well where a transaction is committed.
    #[expect(non_upper_case_globals, reason = "it stands for a variant")]
    pub const Synced: Self = Self::Sync;
}

pub use razorfs_format::compress::Compression;

/// When reading sets the time of access.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum Atime {
    /// Never, as with `noatime`.
    #[default]
    Never,
    /// If it is not later than the last change, or a day old, as with `relatime`.
    Relative,
    /// Always, as with `strictatime`.
    Strict,
}

/// Sizes of the volume's files, and when the engine acts. The defaults suit almost everybody;
/// tests use [`Geometry::tiny`] to reach every state with a few operations.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Geometry {
    /// Bytes of the first journal files.
    pub journal_initial_file: u32,
    /// Bytes of the largest journal file.
    pub journal_max_file: u32,
    /// Number of journal files at creation.
    pub journal_initial_files: u32,
    /// Number of journal files of a grown volume.
    pub journal_max_files: u32,
    /// Bytes of a full pack.
    pub pack_bytes: u64,
    /// Bytes of a full segment.
    pub segment_bytes: u64,
    /// Raw bytes of a block of a segment.
    pub segment_block: u32,
    /// Bytes of records in RAM that start a checkpoint.
    pub memtable_bytes: u64,
    /// Bytes of journal since the last checkpoint that start the next.
    pub checkpoint_journal: u64,
    /// Nanoseconds since the last checkpoint that start the next if anything changed.
    pub checkpoint_interval: u64,
    /// Bytes of file data in RAM, not yet in a pack, that make writers wait.
    pub dirty_bytes: u64,
    /// Bytes of a shard of parity: the longest run of lost bytes that is healed wherever it is.
    pub parity_shard: u32,
    /// Bytes of the ballast of a grown volume, at least; it is given back when the host is full,
    /// and a small volume has less. 0 for none.
    pub reserve_bytes: u64,
}

impl Default for Geometry {
    fn default() -> Self {
        const MIB: u64 = 1 << 20;
        Self {
            journal_initial_file: 1 << 20,
            journal_max_file: 16 << 20,
            journal_initial_files: 3,
            journal_max_files: 6,
            pack_bytes: 128 * MIB,
            segment_bytes: 32 * MIB,
            segment_block: 16 << 10,
            memtable_bytes: 64 * MIB,
            checkpoint_journal: 32 * MIB,
            checkpoint_interval: 60_000_000_000,
            dirty_bytes: 96 * MIB,
            parity_shard: 64 << 10,
            reserve_bytes: 16 * MIB,
        }
    }
}

impl Geometry {
    /// So small that checkpoints, compactions and full files come after a few operations.
    #[must_use]
    pub const fn tiny() -> Self {
        Self {
            journal_initial_file: 192 << 10,
            journal_max_file: 512 << 10,
            journal_initial_files: 3,
            journal_max_files: 6,
            pack_bytes: 256 << 10,
            segment_bytes: 16 << 10,
            segment_block: 1 << 10,
            memtable_bytes: 32 << 10,
            checkpoint_journal: 128 << 10,
            checkpoint_interval: 60_000_000_000,
            dirty_bytes: 1 << 20,
            parity_shard: 2 << 10,
            reserve_bytes: 0,
        }
    }
}

/// How to create a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CreateOptions {
    /// Most bytes of file data that the volume takes; none if not given.
    pub limit: Option<u64>,
    /// Compression of new data, unless an inode's flags say otherwise.
    pub compression: Compression,
    /// Sizes, fixed for the life of the volume.
    pub geometry: Geometry,
    /// Copies of the journal: 1, or 2 to heal a damaged one from the other.
    pub journal_copies: u8,
    /// Whether sealed packs and segments have parity, to heal what is damaged.
    pub parity: bool,
    /// Permission bits of the root directory.
    pub root_mode: u32,
    /// Owner of the root directory.
    pub root_uid: u32,
    /// Group of the root directory.
    pub root_gid: u32,
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self {
            limit: None,
            compression: Compression::default(),
            geometry: Geometry::default(),
            journal_copies: 1,
            parity: false,
            root_mode: 0o755,
            root_uid: 0,
            root_gid: 0,
        }
    }
}

/// How to open a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// When operations are on the disk.
    pub durability: Durability,
    /// Bytes of RAM for records read from the disk.
    pub cache_bytes: u64,
    /// Changes nothing, not even to recover: the journal is replayed in RAM only.
    pub read_only: bool,
    /// Compression of new data; `None`: as the volume was created.
    pub compression: Option<Compression>,
    /// Whether the engine runs its own threads; without them the caller calls
    /// [`crate::Volume::step`].
    pub threads: bool,
    /// Sizes, for a volume that is created by opening it.
    pub geometry: Geometry,
    /// Most bytes of file data that the volume takes, for a volume created by opening it.
    pub limit: Option<u64>,
    /// Memory that outlives this process, so that its death loses nothing that was acknowledged:
    /// with what a process that died has left there the volume goes on where that one was.
    pub redo: Option<Arc<RedoMemory>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            durability: Durability::default(),
            cache_bytes: 256 << 20,
            read_only: false,
            compression: None,
            threads: true,
            geometry: Geometry::default(),
            limit: None,
            redo: None,
        }
    }
}

impl From<&Options> for CreateOptions {
    /// How a volume is created that is missing when it is opened with these options.
    fn from(options: &Options) -> Self {
        Self {
            limit: options.limit,
            compression: options.compression.unwrap_or_default(),
            geometry: options.geometry,
            ..Self::default()
        }
    }
}
