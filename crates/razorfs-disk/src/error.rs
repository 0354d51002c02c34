//! What the disk answers when it cannot.

use std::io;

use crate::Name;

/// What was asked of the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "named after the calls")]
pub enum DiskOp {
    Open,
    Read,
    Write,
    Sync,
    SyncDir,
    Allocate,
    Punch,
    SetLen,
    Len,
    Rename,
    Remove,
    List,
    CreateDirs,
    Lock,
    Space,
}

/// A call to the disk that failed.
#[derive(Debug, thiserror::Error)]
#[error("{op:?} of {path} failed: {source}")]
pub struct DiskError {
    /// The call.
    pub op: DiskOp,
    /// The file or directory, as the host names it where there is a host.
    pub path: String,
    /// For a lock: who holds it, as far as is known.
    pub holder: Option<String>,
    /// The cause.
    #[source]
    pub source: io::Error,
}

impl DiskError {
    /// `op` on `name` failed because of `source`.
    #[must_use]
    pub fn new(op: DiskOp, path: impl ToString, source: io::Error) -> Self {
        Self {
            op,
            path: path.to_string(),
            holder: None,
            source,
        }
    }

    /// `op` on `name` failed because of `source`.
    #[must_use]
    pub fn on(op: DiskOp, name: &Name, source: io::Error) -> Self {
        Self::new(op, name, source)
    }

    /// The file does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// A file that should have been new exists.
    #[must_use]
    pub fn is_exists(&self) -> bool {
        self.source.kind() == io::ErrorKind::AlreadyExists
    }

    /// The host cannot do this at all.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        self.source.kind() == io::ErrorKind::Unsupported
    }

    /// The host is full, or a quota is.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    }
}
