//! RazorFS: a crash-safe, end-to-end checksummed file system as a library.
//!
//! The road of an operation, room by room: [`namespace`] turns it into a transaction, the
//! transaction is appended to the open batch of the [`journal`] and becomes visible in the memtable
//! of the [`tree`]; [`checkpoint`] turns a frozen memtable into segments, a manifest and a
//! superblock. File bytes go through [`data`] into packs. [`recovery`] is the same road in reverse.

mod asker;
mod checkpoint;
pub mod data;
mod error;
mod fence;
pub mod journal;
pub mod library;
pub mod marks;
mod namespace;
mod options;
pub mod parity;
mod recovery;
pub mod redo;
mod report;
mod scrub;
mod store;
mod sync;
pub mod tree;
mod types;
mod volume;
mod workers;

pub use asker::Asker;
pub use error::{Error, Result};
pub use namespace::{LogBranch, LogEntry};
pub use razorfs_format::Ino;
pub use razorfs_format::record::{FileKind, Inode, Time, inode_flags};

pub use library::{
    BEFORE_COMMIT, BEFORE_RECEIVE, BEFORE_RESTORE, BEFORE_ROLLBACK, Branch, Committed, Conflict,
    Dir, File, Incoming, OnConflict, ReceiveOptions, Received, SendOptions, Sent, Snapshot, Token,
    Transaction,
};
pub use options::{Atime, Compression, CreateOptions, Durability, Geometry, Options};
pub use report::{
    Info, RecoverySummary, ScrubFinding, ScrubPass, ScrubState, ScrubStatus, Stats, Step,
};
pub use store::{Reached, When};
pub use types::*;
pub use volume::Volume;
