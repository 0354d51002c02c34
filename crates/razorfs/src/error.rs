//! What can go wrong, in the few kinds that tell a caller what to do.

use std::sync::Arc;

use razorfs_disk::{DiskError, DiskOp};
use razorfs_format::FormatError;
use razorfs_format::superblock::version::Version;

/// Result of a call to the volume.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of the engine. [`Error::errno`] gives the number that POSIX has for it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// ENOENT.
    #[error("no such file or directory")]
    NotFound,
    /// ESTALE: an open file that the volume does not have any more since it was rolled back. What
    /// was in it can be read as long as it is open.
    #[error("the file is gone since the volume was rolled back; open it anew")]
    RolledBack,
    /// ESTALE: the branch was deleted.
    #[error("the branch is gone: it was deleted")]
    BranchGone,
    /// EBUSY: somebody has the branch open.
    #[error("the branch is in use; unmount it, or close it")]
    BranchInUse,
    /// ENODATA: what the volume was at a moment is not known any more, with why and what to do.
    #[error("{0}")]
    NoMoment(Arc<str>),
    /// ENODATA: data of a moment of the past that were overwritten since.
    #[error(
        "what it had then was overwritten since, and no snapshot held it; choose a moment nearer \
         to a snapshot, or `razorfs verify` if it should be there"
    )]
    Overwritten,
    /// EEXIST.
    #[error("it exists already")]
    Exists,
    /// ENOTDIR.
    #[error("not a directory")]
    NotADirectory,
    /// EISDIR.
    #[error("it is a directory")]
    IsADirectory,
    /// ENOTEMPTY.
    #[error("the directory is not empty")]
    NotEmpty,
    /// EINVAL, with what is wrong.
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    /// ENAMETOOLONG.
    #[error("the name is longer than 255 bytes")]
    NameTooLong,
    /// ELOOP.
    #[error("too many symbolic links")]
    TooManySymlinks,
    /// EMLINK.
    #[error("too many hard links")]
    TooManyLinks,
    /// EFBIG.
    #[error("the file would be larger than the largest offset")]
    FileTooLarge,
    /// ENOSPC.
    #[error("the host file system is full; free space on it, or delete files in the volume")]
    NoSpace,
    /// EDQUOT.
    #[error("the limit of the volume is reached; delete files, or raise the limit")]
    LimitReached,
    /// EROFS, with why.
    #[error("the volume is read-only: {0}")]
    ReadOnly(Arc<str>),
    /// EPERM, with what forbids it.
    #[error("not permitted: {0}")]
    NotPermitted(&'static str),
    /// ENODATA.
    #[error("no such extended attribute")]
    NoAttribute,
    /// ERANGE.
    #[error("the buffer is too small for the extended attribute")]
    BufferTooSmall,
    /// E2BIG.
    #[error("the extended attribute is larger than 64 KiB")]
    AttributeTooLarge,
    /// ENXIO: no data or hole at or after the offset.
    #[error("the offset is beyond the end of the file")]
    BeyondEnd,
    /// EOPNOTSUPP, with what is not supported.
    #[error("not supported: {0}")]
    Unsupported(&'static str),
    /// EBUSY: somebody has the volume.
    #[error("the volume is in use by {0}; unmount it there, or wait for it to end")]
    Locked(Arc<str>),
    /// EIO: damaged bytes, which were not used.
    #[error("damaged: {0}; run `razorfs verify` for all damage")]
    Corrupt(#[from] Arc<FormatError>),
    /// The disk failed.
    #[error("{0}")]
    Disk(#[from] Arc<DiskError>),
    /// EIO: an earlier error made the volume refuse writes.
    #[error("the volume stopped taking writes after: {0}; unmount it and mount it again")]
    Failed(Arc<str>),
    /// EIO: another host has the volume open, which the lock should have kept out; with what told.
    #[error("another host has opened the volume ({0}); mount it on one host at a time")]
    Fenced(Arc<str>),
    /// EBADMSG: a stream cannot be sent or received, with why and what to do.
    #[error("{0}")]
    Stream(Arc<str>),
    /// EINVAL: not a volume, or one with features of another version, with what to do.
    #[error("{0}")]
    NotAVolume(Arc<str>),
    /// EINVAL: a volume of a newer major version of the format, or one that is being made one.
    #[error(
        "it is of version {0} of the format, and the newest that this program knows is {newest}; \
         use a newer razorfs, nothing was changed",
        newest = Version::NEWEST
    )]
    NewerVersion(Version),
}

impl From<FormatError> for Error {
    fn from(e: FormatError) -> Self {
        Self::Corrupt(Arc::new(e))
    }
}

impl From<DiskError> for Error {
    fn from(e: DiskError) -> Self {
        if e.is_full() {
            Self::NoSpace
        } else {
            Self::Disk(Arc::new(e))
        }
    }
}

impl Error {
    /// Whether what was to be read is damaged, cannot be read, or is gone; and not just out of
    /// reach, as if too many files were open.
    pub(crate) fn is_loss(&self) -> bool {
        match self {
            Self::Corrupt(_) | Self::Overwritten => true,
            Self::Disk(e) => e.op == DiskOp::Read || e.is_not_found(),
            _ => false,
        }
    }

    /// The error number of Linux for it.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::NotFound => libc::ENOENT,
            Self::RolledBack | Self::BranchGone => libc::ESTALE,
            Self::Exists => libc::EEXIST,
            Self::NotADirectory => libc::ENOTDIR,
            Self::IsADirectory => libc::EISDIR,
            Self::NotEmpty => libc::ENOTEMPTY,
            Self::Invalid(_) | Self::NotAVolume(_) | Self::NewerVersion(_) => libc::EINVAL,
            Self::NameTooLong => libc::ENAMETOOLONG,
            Self::TooManySymlinks => libc::ELOOP,
            Self::TooManyLinks => libc::EMLINK,
            Self::FileTooLarge => libc::EFBIG,
            Self::NoSpace => libc::ENOSPC,
            Self::LimitReached => libc::EDQUOT,
            Self::ReadOnly(_) => libc::EROFS,
            Self::NotPermitted(_) => libc::EPERM,
            Self::NoAttribute | Self::NoMoment(_) | Self::Overwritten => libc::ENODATA,
            Self::BufferTooSmall => libc::ERANGE,
            Self::AttributeTooLarge => libc::E2BIG,
            Self::BranchInUse => libc::EBUSY,
            Self::BeyondEnd => libc::ENXIO,
            Self::Unsupported(_) => libc::EOPNOTSUPP,
            Self::Locked(_) => libc::EBUSY,
            Self::Stream(_) => libc::EBADMSG,
            Self::Corrupt(_) | Self::Disk(_) | Self::Failed(_) | Self::Fenced(_) => libc::EIO,
        }
    }
}
