//! What is in segments: written once, searched in place, merged in the background.

mod cache;
pub mod compaction;
mod levels;
pub(crate) mod memtable;
mod merge;
pub(crate) mod piece;
mod segment_reader;
mod segment_writer;

use std::sync::Arc;

use razorfs_format::Epoch;
use razorfs_format::key::Key;

pub use cache::BlockCache;
pub use compaction::CompactionOptions;
pub use levels::{Levels, Range};
pub use segment_writer::{SegmentOptions, publish, write_segments};

/// An encoded value, shared.
pub type Bytes = Arc<[u8]>;

/// One version of one record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Its key.
    pub key: Key,
    /// The epoch that wrote this version.
    pub epoch: Epoch,
    /// Its value; `None` is a tombstone.
    pub value: Option<Bytes>,
}

#[cfg(test)]
mod model_tests;
