//! Names that go, and inodes that go with their last name.

use razorfs_format::key::Key;
use razorfs_format::op::{Counter, OpType};
use razorfs_format::record::{BLOCK, FileKind, Inode, Orphan, inode_flags};
use razorfs_format::{Branch, Ino};

use super::Namespace;
use super::directory::is_dots;
use super::operation::{Afterwards, Operation};
use crate::{Error, Result};

/// A file of at most so many blocks goes together with its last name; a larger one is left to the
/// reaper.
const SMALL: u64 = 16;

/// Bytes that the inode adds to the volume's sum.
pub(super) fn counted_bytes(inode: &Inode) -> i64 {
    match inode.kind() {
        // Sizes are at most `i64::MAX`.
        FileKind::Regular => inode.size as i64,
        _ => 0,
    }
}

impl Operation<'_> {
    /// Removes a name of anything but a directory. Answers what it led to.
    pub(super) fn unlink(&mut self, parent: Ino, name: &[u8]) -> Result<Ino> {
        if is_dots(name) {
            return Err(Error::IsADirectory);
        }
        let (cookie, dirent) = self.entry(parent, name)?;
        if dirent.kind == FileKind::Directory {
            return Err(Error::IsADirectory);
        }
        self.check_entries_change(parent, true)?;
        self.check_names_change(dirent.ino)?;
        self.remove_entry(parent, cookie, &dirent)?;
        self.drop_name(dirent.ino, parent, cookie)?;
        Ok(dirent.ino)
    }

    /// Removes an empty directory. Answers which it was.
    pub(super) fn rmdir(&mut self, parent: Ino, name: &[u8]) -> Result<Ino> {
        match name {
            b"." => return Err(Error::Invalid("a directory is not removed as `.`")),
            b".." => return Err(Error::NotEmpty),
            _ => {}
        }
        let (cookie, dirent) = self.entry(parent, name)?;
        if dirent.kind != FileKind::Directory {
            return Err(Error::NotADirectory);
        }
        self.check_entries_change(parent, true)?;
        self.check_names_change(dirent.ino)?;
        self.check_empty(dirent.ino)?;
        self.remove_entry(parent, cookie, &dirent)?;
        self.drop_name(dirent.ino, parent, cookie)?;
        Ok(dirent.ino)
    }

    /// Fails unless the directory has no entries.
    pub(super) fn check_empty(&mut self, dir: Ino) -> Result<()> {
        match self.directory(dir)?.entries {
            0 => Ok(()),
            _ => Err(Error::NotEmpty),
        }
    }

    /// The inode's name in `parent` at `cookie` has gone.
    pub(super) fn drop_name(&mut self, ino: Ino, parent: Ino, cookie: u64) -> Result<()> {
        let now = self.now;
        let inode = self.change(ino)?;
        inode.ctime = now;
        if inode.is_dir() {
            inode.nlink = 0;
            return self.lose(ino);
        }
        inode.nlink = inode.nlink.saturating_sub(1);
        let (left, first) = (inode.nlink, (inode.parent, inode.cookie));
        if left == 0 {
            return self.lose(ino);
        }
        self.forget_link(ino, (parent, cookie), left, first)
    }

    /// One of the names of an inode has gone; so many are `left`, of which the inode itself
    /// remembers `first`, if it is not the one that has gone.
    pub(super) fn forget_link(
        &mut self,
        ino: Ino,
        (parent, cookie): (Ino, u64),
        left: u32,
        first: (Ino, u64),
    ) -> Result<()> {
        self.del(Key::link(Branch::HEAD, ino, parent, cookie));
        if left > 1 && first != (parent, cookie) {
            return Ok(());
        }
        // Another name becomes the one that the inode itself remembers.
        let from = Key::link(Branch::HEAD, ino, Ino(0), 0);
        let to = Key::link(Branch::HEAD, ino, Ino(u64::MAX), 0);
        let mut other = None;
        self.scan(&from, &to, |key, _| {
            let name = (Ino(key.second()), key.link_cookie());
            if name != (parent, cookie) {
                other = Some(name);
            }
            Ok(other.is_none())
        })?;
        if let Some(other) = other {
            let inode = self.change(ino)?;
            (inode.parent, inode.cookie) = other;
            if left == 1 {
                self.del(Key::link(Branch::HEAD, ino, other.0, other.1));
            }
        }
        Ok(())
    }

    /// The inode has lost its last name: it goes now if that is little work and nobody holds it.
    pub(super) fn lose(&mut self, ino: Ino) -> Result<()> {
        let inode = self.change(ino)?;
        inode.cookie = 0;
        let blocks = match inode.kind() {
            FileKind::Regular => inode.size.div_ceil(u64::from(BLOCK)),
            _ => 0,
        };
        let bytes = counted_bytes(inode);
        let trimming = inode.flags & inode_flags::TRIMMING != 0;
        let more_records = trimming || inode.flags & inode_flags::HAS_XATTR != 0;
        if blocks > SMALL || more_records || self.pins.is_pinned(ino) {
            let key = Key::orphan(Branch::HEAD, ino);
            if trimming {
                self.put(key, Orphan::Reap.to_bytes());
            } else {
                self.put_new(key, Orphan::Reap.to_bytes());
            }
            self.afterwards.push(Afterwards::LostName(ino));
            return Ok(());
        }
        for block in 0..blocks {
            self.del(Key::extent(Branch::HEAD, ino, block));
        }
        self.count(Counter::Bytes, -bytes);
        self.erase(ino)
    }
}

impl Namespace {
    /// Removes a name of anything but a directory.
    pub(crate) fn unlink(&self, parent: Ino, name: &[u8]) -> Result<()> {
        self.remove(parent, name, OpType::Unlink)
    }

    /// Removes an empty directory.
    pub(crate) fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<()> {
        self.remove(parent, name, OpType::Rmdir)
    }

    fn remove(&self, parent: Ino, name: &[u8], ty: OpType) -> Result<()> {
        loop {
            // What the name leads to must be locked too, and is known only by looking.
            // If looking fails the operation says what is wrong, with the directory locked.
            let child = self.look(parent, name).map_or(parent, |dirent| dirent.ino);
            let locks = self.locks.write_many([parent, child]);
            let mut op = self.begin(ty)?;
            let removed = match ty {
                OpType::Rmdir => op.rmdir(parent, name)?,
                _ => op.unlink(parent, name)?,
            };
            if removed == child {
                return self.finish(op, locks);
            }
        }
    }
}
