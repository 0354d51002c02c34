//! New inodes and new names.

use razorfs_format::key::Key;
use razorfs_format::op::OpType;
use razorfs_format::record::{Dirent, FileKind, Inode, Orphan, TARGET_MAX, Time, inode_flags};
use razorfs_format::{Branch, Ino};

use super::acl::Inherited;
use super::directory::{Slot, check_name, is_dots};
use super::operation::{Afterwards, Operation};
use super::{LINK_MAX, Namespace, SETGID};
use crate::{CreateOptions, Error, NewNode, Result, Stat};

/// Flags that what is created in a directory has from it.
const INHERITED: u32 = inode_flags::ZSTD | inode_flags::NO_COMPRESSION;

/// The root directory of a new volume.
pub(crate) fn root_inode(now: Time, options: &CreateOptions) -> Inode {
    let node = NewNode {
        uid: options.root_uid,
        gid: options.root_gid,
        ..NewNode::directory(options.root_mode)
    };
    new_inode(&node, Ino::ROOT, 0, now)
}

fn new_inode(node: &NewNode<'_>, parent: Ino, cookie: u64, now: Time) -> Inode {
    let is_device = matches!(node.kind, FileKind::CharDevice | FileKind::BlockDevice);
    let target = match node.kind {
        FileKind::Symlink => node.target,
        _ => b"",
    };
    Inode {
        mode: node.kind.mode_bits() | node.mode & 0o7777,
        nlink: if node.kind == FileKind::Directory {
            2
        } else {
            1
        },
        uid: node.uid,
        gid: node.gid,
        rdev: if is_device { node.rdev } else { 0 },
        flags: 0,
        size: target.len() as u64,
        blocks: 0,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
        parent,
        cookie,
        entries: 0,
        target: target.into(),
    }
}

fn check_target(node: &NewNode<'_>) -> Result<()> {
    if node.kind != FileKind::Symlink {
        return Ok(());
    }
    match node.target {
        // As symlink(2) has it.
        [] => Err(Error::NotFound),
        target if target.len() > TARGET_MAX => Err(Error::NameTooLong),
        target if target.contains(&0) => Err(Error::Invalid("the target contains a NUL")),
        _ => Ok(()),
    }
}

impl Operation<'_> {
    /// The inode that `node` becomes in `parent`, with what it has from its directory.
    fn child_of(
        &mut self,
        parent: Ino,
        node: &NewNode<'_>,
        cookie: u64,
    ) -> Result<(Inode, Inherited)> {
        let now = self.now;
        let dir = self.live_directory(parent)?;
        let mut inode = new_inode(node, parent, cookie, now);
        inode.flags = dir.flags & INHERITED;
        if dir.mode & SETGID != 0 {
            inode.gid = dir.gid;
            if inode.is_dir() {
                inode.mode |= SETGID;
            }
        }
        let inherited = self.inherit(parent, &mut inode, node.umask)?;
        Ok((inode, inherited))
    }

    /// The same, inserted. The entry is the caller's business.
    pub(super) fn insert_child(
        &mut self,
        parent: Ino,
        node: &NewNode<'_>,
        cookie: u64,
    ) -> Result<Ino> {
        let (inode, inherited) = self.child_of(parent, node, cookie)?;
        let ino = self.insert(inode);
        self.put_inherited(ino, inherited);
        Ok(ino)
    }

    /// A free slot for a new `name` in `dir`.
    fn free_slot(&mut self, dir: Ino, name: &[u8]) -> Result<u64> {
        check_name(name)?;
        self.live_directory(dir)?;
        if is_dots(name) {
            return Err(Error::Exists);
        }
        match self.find(dir, name)? {
            Slot::Taken(..) => Err(Error::Exists),
            Slot::Free(cookie) => {
                self.check_entries_change(dir, false)?;
                Ok(cookie)
            }
        }
    }

    /// A new inode under a name that must be free.
    pub(super) fn create(&mut self, parent: Ino, name: &[u8], node: &NewNode<'_>) -> Result<Ino> {
        let cookie = self.free_slot(parent, name)?;
        check_target(node)?;
        let kind = node.kind;
        if kind == FileKind::Directory && self.inode(parent)?.nlink >= LINK_MAX {
            return Err(Error::TooManyLinks);
        }
        let ino = self.insert_child(parent, node, cookie)?;
        let name = name.into();
        self.add_entry(parent, cookie, &Dirent { ino, kind, name })?;
        Ok(ino)
    }

    /// A new file without a name; it goes when its holder does, unless it is given one.
    pub(super) fn create_unnamed(&mut self, parent: Ino, node: &NewNode<'_>) -> Result<Ino> {
        if node.kind != FileKind::Regular {
            return Err(Error::Invalid("only a regular file can be without a name"));
        }
        let (mut inode, inherited) = self.child_of(parent, node, 0)?;
        inode.nlink = 0;
        let ino = self.insert(inode);
        self.put_inherited(ino, inherited);
        self.put_new(Key::orphan(Branch::HEAD, ino), Orphan::Reap.to_bytes());
        self.afterwards.push(Afterwards::BornNameless(ino));
        Ok(ino)
    }

    /// One more name for a file.
    pub(super) fn link(&mut self, ino: Ino, parent: Ino, name: &[u8]) -> Result<()> {
        let inode = self.inode(ino)?;
        let (kind, nlink, first) = (inode.kind(), inode.nlink, (inode.parent, inode.cookie));
        let cookie = self.free_slot(parent, name)?;
        if kind == FileKind::Directory {
            return Err(Error::NotPermitted("a directory has one name only"));
        }
        self.check_names_change(ino)?;
        if nlink >= LINK_MAX {
            return Err(Error::TooManyLinks);
        }
        let name = name.into();
        self.add_entry(parent, cookie, &Dirent { ino, kind, name })?;
        if nlink == 0 {
            let key = Key::orphan(Branch::HEAD, ino);
            match self.pending_trim(ino)? {
                Some(from) => {
                    self.put(key, Orphan::Trim { from }.to_bytes());
                    self.afterwards.push(Afterwards::Trimming(ino));
                }
                None => self.del(key),
            }
            self.afterwards.push(Afterwards::GotName(ino));
        } else {
            if nlink == 1 {
                self.put_new(Key::link(Branch::HEAD, ino, first.0, first.1), *b"");
            }
            self.put_new(Key::link(Branch::HEAD, ino, parent, cookie), *b"");
        }
        let now = self.now;
        let inode = self.change(ino)?;
        inode.nlink += 1;
        inode.ctime = now;
        if nlink == 0 {
            (inode.parent, inode.cookie) = (parent, cookie);
        }
        Ok(())
    }
}

impl Namespace {
    /// A new inode under a name that must be free.
    pub(crate) fn create_node(&self, parent: Ino, name: &[u8], node: &NewNode<'_>) -> Result<Stat> {
        let ty = match node.kind {
            FileKind::Regular => OpType::Create,
            FileKind::Directory => OpType::Mkdir,
            FileKind::Symlink => OpType::Symlink,
            _ => OpType::Mknod,
        };
        let locks = self.locks.write(parent);
        let mut op = self.begin(ty)?;
        let ino = op.create(parent, name, node)?;
        let stat = op.stat(ino)?;
        self.finish(op, locks)?;
        Ok(stat)
    }

    /// A new regular file without a name.
    pub(crate) fn create_unnamed(&self, parent: Ino, node: &NewNode<'_>) -> Result<Stat> {
        let locks = self.locks.write(parent);
        let mut op = self.begin(OpType::Create)?;
        let ino = op.create_unnamed(parent, node)?;
        let stat = op.stat(ino)?;
        // It may be there and only not be durable; but nobody learns its number then.
        self.finish(op, locks)
            .inspect_err(|_| self.pins.unpin(ino, 1))?;
        Ok(stat)
    }

    /// One more name for a file.
    pub(crate) fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Stat> {
        let locks = self.locks.write_many([ino, parent]);
        let mut op = self.begin(OpType::Link)?;
        op.link(ino, parent, name)?;
        let stat = op.stat(ino)?;
        self.finish(op, locks)?;
        Ok(stat)
    }
}
