//! What the items of a stream do.
//!
//! Nobody sees the volume while they are applied, so they may stand in any order that has names go
//! before others come; but whatever they say, what they leave is a tree. An inode that has no name
//! is *loose*; these are counted, and none is left at the end but by mistake, which refuses the
//! stream. A loose directory has the parent 0, and keeps its entries. So renames, also of
//! directories into what was below them, need no order either: a directory that gets a name is
//! refused where that would make a circle.

use razorfs_format::key::Key;
use razorfs_format::op::Counter;
use razorfs_format::record::{BLOCK, Dirent, FileKind, Inode, Orphan, Xattr, inode_flags};
use razorfs_format::stream::{Attributes, FLAGS, GoesOn, Header, Named};
use razorfs_format::{Branch, Ino};

use super::LINK_MAX;
use super::directory::Slot;
use super::file::{BLOCK64, check_regular};
use super::operation::Operation;
use super::receive::Part;
use super::xattr::is_own;
use crate::{Error, Result};

/// The directory of snapshots in the root of a mount, which no file can be called.
const HIDDEN_NAME: &[u8] = b".razorfs";

/// The stream says what cannot be.
pub(super) fn wrong<T>(what: impl std::fmt::Display) -> Result<T> {
    let why = format!("the stream is damaged, or no stream of razorfs: {what}");
    Err(Error::Stream(why.into()))
}

/// Fails unless the part that is here is the one that the stream goes on with.
pub(super) fn check_goes_on(part: Option<&Part>, header: &Header, goes_on: GoesOn) -> Result<()> {
    let refuse = |why: &str| Err(Error::Stream(why.into()));
    let Some(part) = part else {
        return refuse(
            "the stream goes on with one that was broken off, of which nothing is here; send it \
             from the beginning",
        );
    };
    let base = |base: &Option<Named>| base.as_ref().map(|base| base.identity);
    let is_other = part.snapshot.identity != header.snapshot.identity
        || base(&part.base) != base(&header.base)
        || part.goes_on != goes_on;
    if is_other {
        return refuse(
            "the stream goes on with another one than what is here of one that was broken off; \
             make a token of this volume with `razorfs receive --resume-token`",
        );
    }
    Ok(())
}

impl Operation<'_> {
    fn is_there(&mut self, ino: Ino) -> Result<bool> {
        match self.inode(ino) {
            Ok(_) => Ok(true),
            Err(Error::NotFound) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Fails unless the inode is there.
    fn check_there(&mut self, ino: Ino) -> Result<()> {
        match self.is_there(ino)? {
            true => Ok(()),
            false => wrong(format_args!("inode {ino} is not there")),
        }
    }

    /// Does something to an inode that is no reason for its times to change.
    fn keeping_times(
        &mut self,
        ino: Ino,
        change: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let inode = self.inode(ino)?;
        let times = (inode.mtime, inode.ctime);
        change(self)?;
        let inode = self.change(ino)?;
        (inode.mtime, inode.ctime) = times;
        Ok(())
    }

    /// An inode has these attributes; answers whether it is new, and so loose.
    pub(super) fn receive_inode(&mut self, ino: Ino, a: &Attributes) -> Result<bool> {
        let kind = a.kind();
        let is_new = !self.is_there(ino)?;
        if is_new {
            self.insert_as(ino, loose(a));
            self.count(Counter::Bytes, a.size as i64);
        } else {
            let inode = self.inode(ino)?;
            if inode.kind() != kind || inode.target != a.target {
                return wrong(format_args!("inode {ino} is of another kind"));
            }
            if kind == FileKind::Regular {
                let size = inode.size;
                self.receive_size(ino, size, a.size)?;
            }
        }
        let inode = self.change(ino)?;
        inode.mode = a.mode;
        (inode.uid, inode.gid, inode.rdev) = (a.uid, a.gid, a.rdev);
        inode.flags = inode.flags & !FLAGS | a.flags;
        (inode.atime, inode.mtime) = (a.atime, a.mtime);
        (inode.ctime, inode.btime) = (a.ctime, a.btime);
        Ok(is_new)
    }

    /// The file becomes shorter or longer. Whole blocks beyond the new end are gone already.
    fn receive_size(&mut self, ino: Ino, old: u64, size: u64) -> Result<()> {
        let off = (size % BLOCK64) as u32;
        if size < old && off > 0 {
            self.hole(ino, size / BLOCK64, off, BLOCK - off);
        }
        self.count(Counter::Bytes, size as i64 - old as i64);
        self.change(ino)?.size = size;
        Ok(())
    }

    /// Bytes of a file, within a block.
    pub(super) fn receive_data(&mut self, ino: Ino, offset: u64, bytes: Vec<u8>) -> Result<()> {
        self.check_range(ino, offset, bytes.len() as u64)?;
        self.data(ino, offset / BLOCK64, (offset % BLOCK64) as u32, bytes);
        Ok(())
    }

    /// A hole in a file, within a block.
    pub(super) fn receive_hole(&mut self, ino: Ino, offset: u64, len: u32) -> Result<()> {
        self.check_range(ino, offset, u64::from(len))?;
        self.hole(ino, offset / BLOCK64, (offset % BLOCK64) as u32, len);
        Ok(())
    }

    fn check_range(&mut self, ino: Ino, offset: u64, len: u64) -> Result<()> {
        self.check_there(ino)?;
        let inode = self.inode(ino)?;
        if check_regular(inode).is_err() || offset + len > inode.size {
            return wrong(format_args!("inode {ino} has no data there"));
        }
        Ok(())
    }

    /// An attribute has a value, or is not there any more.
    pub(super) fn receive_xattr(
        &mut self,
        ino: Ino,
        name: &[u8],
        value: Option<&[u8]>,
    ) -> Result<()> {
        self.check_there(ino)?;
        if is_own(ino, name) {
            return wrong("an attribute that no volume sends");
        }
        match value {
            Some(value) => self.put_xattr(ino, name, value),
            None => self.forget_xattr(ino, name),
        }
    }

    /// An attribute gets a value, whatever the flags of the inode.
    pub(super) fn put_xattr(&mut self, ino: Ino, name: &[u8], value: &[u8]) -> Result<()> {
        let (key, old) = self.find_xattr(ino, name)?;
        let xattr = Xattr {
            name: name.into(),
            value: value.into(),
        };
        match old {
            Some(_) => self.put(key, xattr.to_bytes()),
            None => self.put_new(key, xattr.to_bytes()),
        }
        self.change(ino)?.flags |= inode_flags::HAS_XATTR;
        Ok(())
    }

    /// An attribute goes, if it is there, whatever the flags of the inode.
    pub(super) fn forget_xattr(&mut self, ino: Ino, name: &[u8]) -> Result<()> {
        let (key, old) = self.find_xattr(ino, name)?;
        match old {
            Some(_) => self.keeping_times(ino, |op| op.take_out(ino, key)),
            None => Ok(()),
        }
    }

    /// A name leads to an inode; answers whether that was loose.
    pub(super) fn receive_name(&mut self, dir: Ino, name: &[u8], ino: Ino) -> Result<bool> {
        if dir == Ino::ROOT && name == HIDDEN_NAME {
            return wrong("a name that is not for files");
        }
        self.check_there(dir)?;
        self.check_there(ino)?;
        if !self.inode(dir)?.is_dir() {
            return wrong(format_args!("inode {dir} is no directory"));
        }
        let Slot::Free(cookie) = self.find(dir, name)? else {
            return wrong(format_args!(
                "{:?} is there twice",
                name.escape_ascii().to_string()
            ));
        };
        let inode = self.inode(ino)?;
        let (kind, nlink) = (inode.kind(), inode.nlink);
        let was_loose = match kind {
            FileKind::Directory => {
                self.attach(dir, ino)?;
                true
            }
            _ => nlink == 0,
        };
        if was_loose && self.orphan(ino)? == Some(Orphan::Reap) {
            return wrong(format_args!("inode {ino} is gone"));
        }
        if kind != FileKind::Directory {
            self.one_more_link(ino, (dir, cookie))?;
        }
        let inode = self.change(ino)?;
        if was_loose {
            (inode.parent, inode.cookie) = (dir, cookie);
        }
        let name = name.into();
        self.keeping_times(dir, |op| {
            op.add_entry(dir, cookie, &Dirent { ino, kind, name })
        })?;
        Ok(was_loose)
    }

    /// Fails unless the directory `ino` is loose and may stand in `dir`.
    fn attach(&mut self, dir: Ino, ino: Ino) -> Result<()> {
        let inode = self.inode(ino)?;
        if ino == Ino::ROOT || inode.parent != Ino(0) {
            return wrong(format_args!("directory {ino} has two names"));
        }
        let is_empty = inode.entries == 0;
        if self.inode(dir)?.nlink >= LINK_MAX {
            return Err(Error::TooManyLinks);
        }
        // What is empty has nothing below it: only itself is to be kept out.
        self.climb(dir, |above| match above == ino {
            true => wrong(format_args!("directory {ino} is below itself")),
            false => Ok(!is_empty),
        })
    }

    /// A file gets one more name.
    fn one_more_link(&mut self, ino: Ino, (dir, cookie): (Ino, u64)) -> Result<()> {
        let inode = self.inode(ino)?;
        let (nlink, first) = (inode.nlink, (inode.parent, inode.cookie));
        if nlink >= LINK_MAX {
            return Err(Error::TooManyLinks);
        }
        if nlink == 1 {
            self.put_new(Key::link(Branch::HEAD, ino, first.0, first.1), *b"");
        }
        if nlink > 0 {
            self.put_new(Key::link(Branch::HEAD, ino, dir, cookie), *b"");
        }
        self.change(ino)?.nlink += 1;
        Ok(())
    }

    /// A name leads nowhere any more; answers whether what it led to is loose now.
    pub(super) fn receive_no_name(&mut self, dir: Ino, name: &[u8]) -> Result<bool> {
        self.check_there(dir)?;
        let found = match self.inode(dir)?.is_dir() {
            true => self.find(dir, name)?,
            false => return wrong(format_args!("inode {dir} is no directory")),
        };
        let Slot::Taken(cookie, dirent) = found else {
            return wrong(format_args!(
                "{:?} is not there",
                name.escape_ascii().to_string()
            ));
        };
        self.keeping_times(dir, |op| op.remove_entry(dir, cookie, &dirent))?;
        let Dirent { ino, kind, .. } = dirent;
        let inode = self.change(ino)?;
        if kind == FileKind::Directory {
            (inode.parent, inode.cookie) = (Ino(0), 0);
            return Ok(true);
        }
        inode.nlink = inode.nlink.saturating_sub(1);
        let (left, first) = (inode.nlink, (inode.parent, inode.cookie));
        if left == 0 {
            inode.cookie = 0;
            return Ok(true);
        }
        self.forget_link(ino, (dir, cookie), left, first)?;
        Ok(false)
    }

    /// A loose inode has come to its end: the reaper takes it once the stream has been received.
    pub(super) fn receive_gone(&mut self, ino: Ino) -> Result<()> {
        self.check_there(ino)?;
        let inode = self.inode(ino)?;
        let is_loose = match inode.kind() {
            FileKind::Directory => inode.parent == Ino(0) && inode.entries == 0,
            _ => inode.nlink == 0,
        };
        if !is_loose || self.orphan(ino)? == Some(Orphan::Reap) {
            return wrong(format_args!("inode {ino} is not to go"));
        }
        self.change(ino)?.nlink = 0;
        self.put(Key::orphan(Branch::HEAD, ino), Orphan::Reap.to_bytes());
        Ok(())
    }
}

/// An inode that has no name yet.
fn loose(a: &Attributes) -> Inode {
    let is_dir = a.kind() == FileKind::Directory;
    Inode {
        mode: a.mode,
        nlink: if is_dir { 2 } else { 0 },
        uid: a.uid,
        gid: a.gid,
        rdev: a.rdev,
        flags: a.flags,
        size: match a.kind() {
            FileKind::Symlink => a.target.len() as u64,
            _ => a.size,
        },
        blocks: 0,
        atime: a.atime,
        mtime: a.mtime,
        ctime: a.ctime,
        btime: a.btime,
        parent: Ino(0),
        cookie: 0,
        entries: 0,
        target: a.target.clone(),
    }
}
