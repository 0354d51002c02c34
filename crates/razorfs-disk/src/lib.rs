//! The door between RazorFS and its host.
//!
//! All host I/O of the engine goes through [`Disk`] and [`File`], the clock and randomness through
//! [`Env`]. [`os`] is the real host, and the only user of the host's files; [`sim`] is a simulated
//! disk that loses what was not synced and plants faults.

mod error;
mod memory;
mod name;
pub mod os;
pub mod sim;

use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

pub use error::{DiskError, DiskOp};
pub use memory::{Memory, Ram};
pub use name::{Dir, Name};

/// Result of a call to the disk.
pub type Result<T> = std::result::Result<T, DiskError>;

/// How to open a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenHow {
    /// It must exist; reading only.
    Read,
    /// It must exist; reading only, past the host's cache where the host can (`O_DIRECT`, else the
    /// cache is dropped first), so that what comes back is what the disk has. Any buffer and
    /// offset may be used: the implementation aligns.
    ReadUncached,
    /// It must exist; reading and writing.
    ReadWrite,
    /// It must not exist; reading and writing.
    CreateNew,
}

/// How to lock the volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockMode {
    /// Readers only.
    Shared,
    /// One writer.
    Exclusive,
}

/// Space of the host file system that holds the volume, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    /// In all.
    pub total: u64,
    /// Free for us.
    pub free: u64,
}

/// Holds the volume's lock until dropped.
pub trait Guard: Send + Sync {}

/// The files of one volume.
pub trait Disk: Send + Sync {
    /// Opens or creates a file. A created file's *name* is durable only after
    /// [`Disk::sync_dir`].
    fn open(&self, name: &Name, how: OpenHow) -> Result<Arc<dyn File>>;
    /// Renames, replacing `to` atomically if it exists. Durable after [`Disk::sync_dir`] (of both
    /// directories).
    fn rename(&self, from: &Name, to: &Name) -> Result<()>;
    /// Removes a name. Durable after [`Disk::sync_dir`].
    fn remove(&self, name: &Name) -> Result<()>;
    /// The names of the regular files in `dir`, in no order.
    fn list(&self, dir: Dir) -> Result<Vec<Name>>;
    /// Makes what was created, renamed and removed in `dir` durable.
    fn sync_dir(&self, dir: Dir) -> Result<()>;
    /// Creates the directories of a volume where they are missing, and syncs them.
    fn create_dirs(&self) -> Result<()>;
    /// Takes the volume's lock, or fails at once with an error whose
    /// [`DiskError::holder`] tells who has it.
    fn lock(&self, mode: LockMode) -> Result<Box<dyn Guard>>;
    /// Space of the host file system.
    fn space(&self) -> Result<Space>;
}

/// An open file of a volume.
pub trait File: Send + Sync {
    /// Reads at an offset until `buf` is full or the file ends; answers how many bytes were read.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize>;
    /// Writes all of `bufs`, one after the other, at an offset. After an error any part of them
    /// may have been written.
    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<()>;
    /// Makes the data and the length durable (`fdatasync`). An error means that nothing may be
    /// assumed of what was written since the last success; a later success proves nothing.
    fn sync_data(&self) -> Result<()>;
    /// Allocates space for a range, growing the file where needed; with `zero` the bytes are
    /// really written as zeros, so that later overwriting changes no metadata of the host.
    fn allocate(&self, range: Range<u64>, zero: bool) -> Result<()>;
    /// Gives the space of a range back; it reads as zeros. A host that cannot answers with an
    /// error for which [`DiskError::is_unsupported`] holds.
    fn punch(&self, range: Range<u64>) -> Result<()>;
    /// Sets the length.
    fn set_len(&self, len: u64) -> Result<()>;
    /// The length.
    fn len(&self) -> Result<u64>;
    /// Whether the length is zero.
    fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// The clock and randomness.
pub trait Env: Send + Sync {
    /// Wall clock: nanoseconds since 1970.
    fn now(&self) -> u64;
    /// Monotonic clock: nanoseconds since some moment.
    fn monotonic(&self) -> u64;
    /// 64 random bits.
    fn random(&self) -> u64;
}
