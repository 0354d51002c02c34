//! What the toy answers.

use razorfs::{Error, FileKind, Ino, Stat};

use crate::model::{Errnos, Node};
use crate::names;
use crate::op::{At, Ref};

pub(super) fn error(errnos: Errnos) -> Error {
    match errnos.first().copied().unwrap_or(0) {
        libc::ENOENT => Error::NotFound,
        libc::EEXIST => Error::Exists,
        libc::ENOTDIR => Error::NotADirectory,
        libc::EISDIR => Error::IsADirectory,
        libc::ENOTEMPTY => Error::NotEmpty,
        libc::ENAMETOOLONG => Error::NameTooLong,
        libc::EPERM => Error::NotPermitted("toy"),
        libc::EFBIG => Error::FileTooLarge,
        libc::ENODATA => Error::NoAttribute,
        libc::E2BIG => Error::AttributeTooLarge,
        libc::ERANGE => Error::BufferTooSmall,
        libc::EBUSY => Error::BranchInUse,
        libc::ENXIO => Error::BeyondEnd,
        _ => Error::Invalid("toy"),
    }
}

pub(super) fn at(dir: Ino, name: &[u8]) -> At {
    At {
        dir: Ref::Inode(dir),
        name: names::id(name).unwrap_or(names::TOO_LONG),
    }
}

pub(super) fn stat(ino: Ino, node: &Node) -> Stat {
    let zero = razorfs::Time::default();
    Stat {
        ino,
        mode: node.kind.mode_bits() | node.perm,
        nlink: node.nlink,
        uid: node.uid,
        gid: node.gid,
        rdev: node.rdev,
        flags: node.flags,
        size: match node.kind {
            FileKind::Symlink => node.target.len() as u64,
            _ => node.size,
        },
        blocks: 0,
        atime: node.atime.unwrap_or(zero),
        mtime: node.mtime.unwrap_or(zero),
        ctime: zero,
        btime: zero,
    }
}
