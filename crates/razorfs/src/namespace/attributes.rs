//! What `stat` tells and `chmod`, `chown`, `utimens` and `truncate` change.

use razorfs_format::Ino;
use razorfs_format::op::OpType;
use razorfs_format::record::{BLOCK, FILE_MAX, FileKind, Inode, inode_flags};

use super::operation::{Operation, load_inode};
use super::{Namespace, SETGID, SETUID};
use crate::store::Store;
use crate::{Error, Result, SetAttributes, Stat};

/// What `stat` says of a directory's size: a page, as most file systems have it.
const DIRECTORY_SIZE: u64 = 4096;
/// Flags that users set.
pub(super) const SETTABLE: u32 =
    inode_flags::APPEND | inode_flags::IMMUTABLE | inode_flags::ZSTD | inode_flags::NO_COMPRESSION;

/// 512-byte units of `bytes`, in pages of 4 KiB.
const fn units(bytes: u64) -> u64 {
    bytes.div_ceil(4096) * 8
}

/// Allocated units of a file with holes.
fn sparse_units(store: &Store, ino: Ino, size: u64) -> Result<u64> {
    let mut sum = 0;
    store.extents(ino, 0, size.div_ceil(u64::from(BLOCK)), &mut |_, runs| {
        let bytes = runs.iter().map(|r| u64::from(r.end - r.start)).sum();
        sum += units(bytes);
        true
    })?;
    Ok(sum)
}

/// What `stat` says of an inode.
fn stat_of(store: &Store, ino: Ino, inode: &Inode) -> Result<Stat> {
    let (size, blocks) = match inode.kind() {
        FileKind::Directory => (DIRECTORY_SIZE, 0),
        FileKind::Regular if inode.flags & inode_flags::SPARSE != 0 => {
            (inode.size, sparse_units(store, ino, inode.size)?)
        }
        FileKind::Regular => (inode.size, units(inode.size)),
        _ => (inode.size, 0),
    };
    Ok(Stat {
        ino,
        mode: inode.mode,
        nlink: inode.nlink,
        uid: inode.uid,
        gid: inode.gid,
        rdev: inode.rdev,
        flags: inode.flags,
        size,
        blocks,
        atime: inode.atime,
        mtime: inode.mtime,
        ctime: inode.ctime,
        btime: inode.btime,
    })
}

impl Operation<'_> {
    /// What `stat` tells, as it is by now.
    pub(super) fn stat(&mut self, ino: Ino) -> Result<Stat> {
        let store = self.store;
        stat_of(store, ino, self.inode(ino)?)
    }

    /// Fails if the flags forbid to change these attributes.
    fn check_attributes_change(&mut self, ino: Ino, set: &SetAttributes) -> Result<()> {
        let flags = self.inode(ino)?.flags;
        let only_flags = SetAttributes {
            flags: set.flags,
            ctime: set.ctime,
            ..SetAttributes::default()
        };
        if *set == only_flags {
            return Ok(());
        }
        if flags & inode_flags::IMMUTABLE != 0 {
            return Err(Error::NotPermitted("the file is immutable"));
        }
        let only_times = SetAttributes {
            atime: set.atime,
            mtime: set.mtime,
            ..only_flags
        };
        if flags & inode_flags::APPEND != 0 && *set != only_times {
            return Err(Error::NotPermitted("the file is append-only"));
        }
        Ok(())
    }

    pub(super) fn set_attributes(&mut self, ino: Ino, set: &SetAttributes) -> Result<()> {
        self.check_attributes_change(ino, set)?;
        if let Some(size) = set.size {
            self.set_size(ino, size)?;
        }
        let now = self.now;
        let inode = self.change(ino)?;
        if let Some(mode) = set.mode {
            inode.mode = inode.kind().mode_bits() | mode & 0o7777;
        } else if (set.uid.is_some() || set.gid.is_some()) && !inode.is_dir() {
            drop_privileges(inode);
        }
        inode.uid = set.uid.unwrap_or(inode.uid);
        inode.gid = set.gid.unwrap_or(inode.gid);
        inode.atime = set.atime.unwrap_or(inode.atime);
        inode.mtime = set.mtime.unwrap_or(inode.mtime);
        inode.ctime = set.ctime.unwrap_or(now);
        if let Some(flags) = set.flags {
            inode.flags = inode.flags & !SETTABLE | flags & SETTABLE;
        }
        if set.mode.is_some() {
            self.access_list_follows(ino)?;
        }
        Ok(())
    }
}

/// A change of owner takes setuid away, and setgid where it does not merely mark mandatory locking.
fn drop_privileges(inode: &mut Inode) {
    inode.mode &= !SETUID;
    if inode.mode & 0o010 != 0 {
        inode.mode &= !SETGID;
    }
}

impl Namespace {
    /// What `stat` tells.
    pub(crate) fn stat(&self, ino: Ino) -> Result<Stat> {
        match self.reader().stat(ino) {
            Err(Error::RolledBack) => match self.store.left_with(ino) {
                Some(left) => stat_of(&left, ino, &load_inode(&left, ino)?),
                None => Err(Error::RolledBack),
            },
            stat => stat,
        }
    }

    /// Target of a symbolic link.
    pub(crate) fn read_link(&self, ino: Ino) -> Result<Box<[u8]>> {
        let inode = self.find_by_inode(ino)?;
        match inode.kind() {
            FileKind::Symlink => Ok(inode.target),
            _ => Err(Error::Invalid("not a symbolic link")),
        }
    }

    /// Changes attributes.
    pub(crate) fn set_attributes(&self, ino: Ino, set: &SetAttributes) -> Result<Stat> {
        let locks = self.locks.write(ino);
        if let Some(size) = set.size {
            let old = self.make_room(ino, size.min(FILE_MAX))?;
            self.store.reserve(0, size.saturating_sub(old))?;
        }
        let ty = match set.size {
            Some(_) => OpType::Truncate,
            None => OpType::Setattr,
        };
        let mut op = self.begin(ty)?;
        op.set_attributes(ino, set)?;
        if set.mode.is_some() || set.uid.is_some() || set.gid.is_some() {
            op.tell();
        }
        let ticket = self.commit(op)?;
        // After the commit: the extents of a sparse file are counted as they are now.
        let stat = self.reader().stat(ino)?;
        drop(locks);
        self.wait(ticket)?;
        Ok(stat)
    }
}
