//! Segments: immutable sorted files of records of one table.
//!
//! ```text
//! header 64 B | data blocks, index and filter partitions | top index | footer 4096 B
//! ```
//!
//! Data blocks stand in key order. After at most [`index::PARTITION_BLOCKS`] of them follow the
//! filter partition of their keys (if the segment has filters) and their index partition; the top
//! index lists the partitions, the footer points to the top index. All of them are *sealed*
//! ([`seal`]): each is followed by codec, raw length and a checksum that covers identity, place and
//! kind, and that the parent repeats. The manifest holds the checksum of the footer. So a block
//! that is intact but stale or out of place is as detectable as a damaged one.

mod bits;
pub mod block;
pub mod builder;
pub mod check;
pub mod data;
pub mod dirblock;
pub mod filter;
pub mod footer;
pub mod header;
pub mod index;
pub mod seal;
pub mod search;

pub use builder::{SegmentBuilder, Style};
pub use data::{Block, BlockBuilder, Entry, Position, ValueBuf};
pub use filter::{Filter, filter_hash};
pub use footer::{FOOTER_LEN, Footer};
pub use header::{HEADER_LEN, Header};
pub use index::{Index, IndexEntry};
pub use seal::{BlockKind, Handle, Identity};

#[cfg(test)]
mod golden_tests;
