//! The journal: durable order.
//!
//! Batches of operations, opaque here, are appended to a ring of preallocated files. [`Ring`]
//! writes; [`Ring::recover`] replays. Bytes are those of [`razorfs_format::journal`].
//!
//! # Lives
//!
//! A file is reused in place. Each use is a *life* with a number of its own, the jid, which only
//! grows; the header that names it is durable before the first batch is written. Within a life no
//! byte is written twice and batches follow each other without a gap. After a crash, and after a
//! sync that failed, writing goes on in a new life, at the first batch that is not known durable.
//!
//! So a life that begins with batch `f` replaces all batches from `f` on in older lives: they were
//! torn, or stand behind a torn one, or were written again. Hence the one rule of continuation:
//! where batch `b` is expected, the *newest* life whose first batch is `b`, intact, is where to go
//! on, and otherwise the next place in the current one. Lives whose first batch never got to the
//! disk (a crash after the header, however often) have no say.
//!
//! # Torn or damaged
//!
//! | sectors where batch b is expected | verdict |
//! |---|---|
//! | all of b, payload intact | accepted |
//! | one or more never reached by b | never complete, so never acknowledged: the log ends here |
//! | all reached, one or more damaged | damage: not cut off, the volume is read-only |
//! | never reached, but a later batch or a clean end says b was durable | a lost write: read-only |
//!
//! # Two copies
//!
//! With two copies of each file a sector is what the better of its versions says:
//!
//! | one copy | the other | the sector | why |
//! |---|---|---|---|
//! | written by b | anything | written by b | nothing but the writer of b can have made it |
//! | never reached | never reached | never reached | |
//! | never reached | damaged | never reached | an acknowledged batch is in both: one is right |
//! | damaged | damaged | damaged | both were reached, or two copies rotted |
//!
//! So with one damaged copy, power cut or not, the verdict is that of the intact copy alone, or
//! better: a batch that neither copy has whole, but both together, is accepted. It is made whole
//! in both, durably, before a new life begins and anything builds on it ([`copies`]).

mod copies;
mod growth;
pub(crate) mod history;
mod host;
mod links;
mod lives;
mod places;
mod reader;
mod recovery;
mod ring;
mod twins;

#[cfg(test)]
mod ring_tests;

use razorfs_format::journal::BatchHeader;
use razorfs_format::{BatchSeq, FormatError, Generation, Lsn, Place};

pub(crate) use growth::Grown;
pub use places::Places;
pub use razorfs_format::superblock::{JournalGeometry, JournalStart};
pub(crate) use recovery::goes_on;
pub use ring::Ring;
pub(crate) use twins::Flusher;

/// A batch of operations: what becomes durable together or not at all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    /// Its number; batches are numbered without gaps.
    pub seq: BatchSeq,
    /// Number of its first operation.
    pub first_lsn: Lsn,
    /// How many operations it holds.
    pub n_ops: u32,
    /// The newest batch known durable when this one was written. Set by the ring; what an
    /// appended batch says here is not looked at.
    pub durable: BatchSeq,
    /// Generation of the superblock when it was written.
    pub generation: Generation,
    /// Wall clock when it was written, nanoseconds since 1970.
    pub wall_ns: u64,
    /// The operations.
    pub payload: Vec<u8>,
}

impl Batch {
    /// As it was read.
    fn of(header: &BatchHeader, payload: Vec<u8>) -> Self {
        Self {
            seq: header.seq,
            first_lsn: header.first_lsn,
            n_ops: header.n_ops,
            durable: header.durable,
            generation: header.generation,
            wall_ns: header.wall_ns,
            payload,
        }
    }
}

/// A batch that a crash left incomplete at the end of the log. It was never acknowledged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TornTail {
    /// The batch.
    pub batch: BatchSeq,
    /// Where it stands.
    pub place: Place,
    /// Sectors of it that had reached the disk.
    pub written: u32,
    /// Sectors of it in all, as far as is known.
    pub sectors: u32,
}

/// What a replay found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecoveryReport {
    /// Batches replayed.
    pub batches: u64,
    /// Operations in them.
    pub ops: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// The last batch of the log: the last one replayed, or the one before the start.
    pub last: BatchSeq,
    /// The last operation replayed; 0 if there was none.
    pub last_lsn: Lsn,
    /// The newest superblock generation that any batch names. If it is newer than the superblock
    /// that was read, the newest superblock was lost.
    pub newest_generation: Generation,
    /// The incomplete batch at the end, if there is one.
    pub torn: Option<TornTail>,
    /// Intact batches behind the end of the log. They were never acknowledged.
    pub discarded: u64,
    /// What is damaged. Damage that loses nothing (a file header) is listed too.
    pub damage: Vec<FormatError>,
    /// Copies of journal files that were not as they should be, and were healed from their twins.
    pub healed: Vec<FormatError>,
    /// Damage loses acknowledged batches, or may: the volume must not be written to. Everything
    /// before the damage was replayed.
    pub read_only: bool,
}
