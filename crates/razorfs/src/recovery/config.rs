//! From the options of a volume and the geometry that it was created with to the settings of the
//! rooms.

use razorfs_format::compress::Compression;
use razorfs_format::parity::{RECOVERY, SHARD_MAX};
use razorfs_format::record::Codec;
use razorfs_format::superblock::{DefaultCompression, Geometry, JournalGeometry};

use crate::store::Tuning;
use crate::tree::{CompactionOptions, SegmentOptions};
use crate::{CreateOptions, Durability, Options};

/// Bytes of data in the open batch at which it is sealed: enough for large sequential writes to
/// the packs, small beside what may wait in RAM.
const BATCH_DATA: u64 = 24 << 20;
/// Bytes of the host that are left to checkpoints when writers are told that it is full.
const HOST_MARGIN: u64 = 16 << 20;

/// What a volume is created with.
pub(super) fn geometry_of(options: &CreateOptions) -> Geometry {
    let g = &options.geometry;
    let (compression, compression_level) = match options.compression {
        Compression::None => (DefaultCompression::None, 0),
        Compression::Lz4 => (DefaultCompression::Lz4, 0),
        Compression::Zstd(level) => (DefaultCompression::Zstd, level),
    };
    Geometry {
        parity: if options.parity { RECOVERY } else { 0 },
        parity_log2: g.parity_shard.clamp(64, SHARD_MAX).ilog2() as u8,
        compression,
        compression_level,
        segment_bytes: u32::try_from(g.segment_bytes).unwrap_or(u32::MAX),
        segment_block_bytes: g.segment_block,
        journal: JournalGeometry {
            initial_file: g.journal_initial_file,
            max_file: g.journal_max_file,
            initial_files: g.journal_initial_files,
            max_files: g.journal_max_files,
            copies: options.journal_copies,
        },
        pack_bytes: g.pack_bytes,
        limit: options.limit,
        ..Geometry::default()
    }
}

/// How the store behaves.
pub(super) fn tuning(geometry: &Geometry, options: &Options) -> Tuning {
    let compression = options.compression.unwrap_or(match geometry.compression {
        DefaultCompression::None => Compression::None,
        DefaultCompression::Lz4 => Compression::Lz4,
        DefaultCompression::Zstd => Compression::Zstd(geometry.compression_level),
    });
    let sizes = &options.geometry;
    let bytes = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    Tuning {
        inline_max: geometry.inline_max as usize,
        compression,
        dirty_limit: bytes(sizes.dirty_bytes),
        batch_data: bytes(BATCH_DATA.min(sizes.dirty_bytes / 4)),
        memtable_bytes: bytes(sizes.memtable_bytes),
        checkpoint_journal: sizes.checkpoint_journal,
        checkpoint_interval: sizes.checkpoint_interval,
        garbage_soon: geometry.pack_bytes / 4,
        journal_only: options.durability == Durability::JournalOnly,
        limit: geometry.limit,
        host_margin: HOST_MARGIN.min(sizes.dirty_bytes / 4),
        threads: options.threads,
    }
}

/// Bytes of a shard, if there is parity.
pub(super) fn parity_shard(geometry: &Geometry) -> Option<u32> {
    (geometry.parity > 0).then(|| 1 << geometry.parity_log2)
}

pub(super) fn segment_options(geometry: &Geometry) -> SegmentOptions {
    SegmentOptions {
        target_bytes: u64::from(geometry.segment_bytes),
        block_bytes: geometry.segment_block_bytes as usize,
        codec: Codec::Lz4,
        parity: parity_shard(geometry),
        ..SegmentOptions::default()
    }
}

pub(super) fn compaction_options(geometry: &Geometry) -> CompactionOptions {
    let defaults = CompactionOptions::default();
    CompactionOptions {
        // So few are not worth writing a segment anew; small segments hold fewer.
        tombstones_min: u64::from(geometry.segment_bytes / 4096).clamp(1, defaults.tombstones_min),
        // The first level of merged segments; each further one holds ten times as much.
        base_bytes: u64::from(geometry.segment_bytes) * 8,
        small_bytes: u64::from(geometry.segment_bytes) / 4,
        ..defaults
    }
}
