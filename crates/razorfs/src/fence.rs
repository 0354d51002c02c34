//! The fence against a second host. The lock keeps other processes of this host out, but on a
//! shared disk it may not reach another one. So each mount leaves a nonce of its own in the
//! superblock, and who finds another's there has lost the volume: it writes, removes and punches
//! nothing more.
//!
//! It looks before the first file of a checkpoint or a compaction, before a superblock, before
//! anything is removed, before a journal file is taken into use or grows, and once a second where
//! batches are written. Between two looks both may write; so whatever is made is made under a name
//! that did not exist ([`create`]): neither writes over a file of the other.

use std::sync::Arc;

use razorfs_disk::{Disk, DiskError, File, Name, OpenHow};
use razorfs_format::Generation;
use razorfs_format::superblock::Superblock;

use crate::checkpoint::superfile::SuperFile;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::{Error, Result};

/// Nanoseconds that batches are written without a look.
const LOOK_AGAIN: u64 = 1_000_000_000;

/// What this mount knows of its own right to write.
pub(crate) struct Fence {
    disk: Arc<dyn Disk>,
    nonce: u64,
    /// The generation that this mount began with.
    first: Generation,
    /// When it was looked at last, on the monotonic clock.
    looked: AtomicU64,
}

impl Fence {
    /// The fence of the mount that wrote this superblock.
    pub fn new(disk: Arc<dyn Disk>, own: &Superblock) -> Self {
        Self {
            disk,
            nonce: own.nonce,
            first: own.generation,
            looked: AtomicU64::new(0),
        }
    }

    /// Fails if another host opened the volume since.
    pub fn check(&self) -> Result<()> {
        let read = SuperFile::read(self.disk.as_ref());
        let found = read.map_err(unreadable)?.newest;
        if found.nonce == self.nonce {
            return Ok(());
        }
        if found.generation < self.first {
            let why = format!(
                "SUPER shows generation {}, but {} was written: it is damaged",
                found.generation, self.first
            );
            return Err(Error::Failed(why.into()));
        }
        let why = format!(
            "generation {} of SUPER is not of this mount",
            found.generation
        );
        Err(Error::Fenced(why.into()))
    }

    /// The same, if the last look was a second ago. A superblock that cannot be read is left to
    /// the next checkpoint: batches need none.
    pub fn check_at(&self, now: u64) -> Result<()> {
        if now.saturating_sub(self.looked.load(Ordering::Relaxed)) < LOOK_AGAIN {
            return Ok(());
        }
        self.looked.store(now, Ordering::Relaxed);
        match self.check() {
            Err(e @ Error::Fenced(_)) => Err(e),
            Err(e) => {
                tracing::warn!(error = %e, "the superblock could not be looked at");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}

/// That the superblock of a volume in use is gone is a failure of the disk.
fn unreadable(error: Error) -> Error {
    match error {
        Error::NotAVolume(why) => Error::Failed(why),
        // A mount writes its own version: another host has made it a newer one.
        Error::NewerVersion(version) => {
            Error::Fenced(format!("and made it one of version {version}").into())
        }
        Error::Disk(e) if e.is_not_found() => Error::Failed(e.to_string().into()),
        other => other,
    }
}

/// The error for a file that could not be made. Leftovers of a crash were removed when the volume
/// was opened, and no number is given out twice: what has the name is of another host.
pub(crate) fn not_created(error: DiskError) -> Error {
    if error.is_exists() {
        Error::Fenced(format!("{} is there and not of this mount", error.path).into())
    } else {
        error.into()
    }
}

/// Makes a file that must not exist yet.
pub(crate) fn create(disk: &dyn Disk, name: &Name) -> Result<Arc<dyn File>> {
    disk.open(name, OpenHow::CreateNew).map_err(not_created)
}

/// Makes the file `tmp`, which will be renamed to `to`: neither may exist. Whoever has `tmp` is
/// the only one who can make `to` from then on.
pub(crate) fn create_for(disk: &dyn Disk, tmp: &Name, to: &Name) -> Result<Arc<dyn File>> {
    let file = create(disk, tmp)?;
    match disk.open(to, OpenHow::Read) {
        Err(e) if e.is_not_found() => Ok(file),
        Err(e) => Err(e.into()),
        Ok(_) => Err(Error::Fenced(
            format!("{to} is there and not of this mount").into(),
        )),
    }
}

/// Whether what was begun may be taken back after this error: not where files of the same names
/// may be another host's.
pub(crate) const fn may_undo(error: &Error) -> bool {
    !matches!(error, Error::Fenced(_))
}
