//! The volume as a program sees it that embeds it: directories and files by path.
//!
//! Names follow `std::fs` where it has one. Relative paths start at the [`Dir`] that is asked,
//! absolute ones at the root of the volume; symbolic links are followed, up to 40 of them. What is
//! created belongs to the owner of its directory. Nothing here checks permissions.
//!
//! ```
//! use razorfs::{Durability, Options, Volume};
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("photos.rzfs");
//! let volume = Volume::open_or_create(path, Options::default())?;
//! let fs = volume.root();
//! fs.create_dir_all("2026/11")?;
//! fs.write("2026/11/a.jpg", b"...")?; // visible now, durable at the next sync
//!
//! let mut tx = fs.transaction(); // several files, all or nothing
//! tx.write("index.json", b"{}")?;
//! tx.rename("2026/11/a.jpg", "2026/11/b.jpg")?;
//! tx.commit(Durability::Synced)?; // on the disk when this returns
//!
//! let names: Vec<_> = fs
//!     .read_dir("2026/11")?
//!     .map(|entry| entry.map(|e| e.file_name().to_owned()))
//!     .collect::<Result<_, _>>()?;
//! assert_eq!(names, ["b.jpg"]);
//!
//! let before = volume.snapshot("before-import")?; // the whole volume, at once
//! fs.remove_dir_all("2026")?;
//! volume.rollback(before)?;
//! assert!(fs.exists("2026/11/b.jpg")?);
//! volume.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod branch;
mod dir;
mod file;
mod metadata;
mod moment;
mod read_dir;
mod receive;
mod send;
mod snapshot;
mod transaction;

#[cfg(test)]
mod branch_tests;
#[cfg(test)]
mod library_tests;
#[cfg(test)]
mod stream_tests;

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub use branch::{BEFORE_COMMIT, Branch, Committed, Conflict, OnConflict};
pub use dir::Dir;
pub use file::{File, OpenOptions};
pub use metadata::Metadata;
pub use moment::BEFORE_RESTORE;
pub use read_dir::{DirEntry, ReadDir};
pub use receive::{BEFORE_RECEIVE, Incoming, ReceiveOptions, Received};
pub use send::{SendOptions, Sent, Token};
pub use snapshot::{BEFORE_ROLLBACK, Snapshot};
pub use transaction::Transaction;

use crate::Error;

/// The bytes of a path.
fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

impl From<Error> for io::Error {
    /// The kind is that of [`Error::errno`]; the message is kept.
    fn from(error: Error) -> Self {
        let kind = Self::from_raw_os_error(error.errno()).kind();
        Self::new(kind, error)
    }
}
