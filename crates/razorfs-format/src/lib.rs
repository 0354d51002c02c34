//! The bytes of a RazorFS volume: how each record is encoded, decoded and checked.
//!
//! This crate is pure: no I/O, no threads, no clock. Every decoder takes any bytes and answers
//! with a value or a [`FormatError`] that names the file, the offset, what was expected and what
//! was found. Fixed-width integers are little endian; keys are big endian, so that comparing the
//! bytes compares the keys. All checksums are CRC-32C, seeded with identity and place.

pub mod compress;
pub mod crc;
pub mod error;
pub mod ids;
pub mod journal;
pub mod key;
pub mod layout;
pub mod manifest;
pub mod names;
pub mod op;
pub mod pack;
pub mod parity;
pub mod record;
pub mod scrub;
pub mod segment;
pub mod stream;
pub mod superblock;
pub mod timeline;
pub mod wire;

pub use error::{FormatError, Place};
pub use ids::{
    BatchSeq, Branch, Epoch, Generation, Ino, Jid, Lsn, ManifestId, PackId, SegmentId, VolumeId,
};
