//! What is known of a file.

use std::time::{Duration, SystemTime};

use crate::{FileKind, Ino, Stat, Time};

/// What is known of a file, as of the call that answered it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Metadata {
    stat: Stat,
}

/// The clock of the host at `time`.
fn system_time(time: Time) -> SystemTime {
    let nanos = Duration::from_nanos(u64::from(time.nanos));
    let secs = Duration::from_secs(time.secs.unsigned_abs());
    let whole = match time.secs {
        0.. => SystemTime::UNIX_EPOCH.checked_add(secs),
        _ => SystemTime::UNIX_EPOCH.checked_sub(secs),
    };
    let exact = whole.and_then(|whole| whole.checked_add(nanos));
    exact.unwrap_or(SystemTime::UNIX_EPOCH)
}

impl Metadata {
    pub(super) const fn new(stat: Stat) -> Self {
        Self { stat }
    }

    /// All that `stat` tells.
    #[must_use]
    pub const fn stat(&self) -> &Stat {
        &self.stat
    }

    /// Inode number: stable, never reused.
    #[must_use]
    pub const fn ino(&self) -> Ino {
        self.stat.ino
    }

    /// What it is.
    #[must_use]
    pub const fn kind(&self) -> FileKind {
        self.stat.kind()
    }

    /// It is a regular file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.kind() == FileKind::Regular
    }

    /// It is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.kind() == FileKind::Directory
    }

    /// It is a symbolic link.
    #[must_use]
    pub fn is_symlink(&self) -> bool {
        self.kind() == FileKind::Symlink
    }

    /// Size in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "as std::fs::Metadata has it")]
    pub const fn len(&self) -> u64 {
        self.stat.size
    }

    /// Permission bits, with setuid, setgid and sticky.
    #[must_use]
    pub const fn mode(&self) -> u32 {
        self.stat.mode & 0o7777
    }

    /// When its data last changed.
    #[must_use]
    pub fn modified(&self) -> SystemTime {
        system_time(self.stat.mtime)
    }

    /// When it was last read, as far as that is kept.
    #[must_use]
    pub fn accessed(&self) -> SystemTime {
        system_time(self.stat.atime)
    }

    /// When it was created.
    #[must_use]
    pub fn created(&self) -> SystemTime {
        system_time(self.stat.btime)
    }
}
