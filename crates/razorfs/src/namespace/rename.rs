//! Rename.

use razorfs_format::key::Key;
use razorfs_format::op::OpType;
use razorfs_format::record::{Dirent, FileKind};
use razorfs_format::{Branch, Ino};

use super::directory::{Slot, check_name, is_dots};
use super::operation::Operation;
use super::{LINK_MAX, Namespace};
use crate::{Error, NewNode, RenameMode, Result};

/// A name in a directory.
#[derive(Clone, Copy)]
pub(crate) struct Spot<'n> {
    pub(crate) dir: Ino,
    pub(crate) name: &'n [u8],
}

impl Operation<'_> {
    /// Moves `from` to `to`. Answers the inodes that were there: that moved, and that stood in
    /// its way.
    pub(super) fn rename(
        &mut self,
        from: Spot<'_>,
        to: Spot<'_>,
        mode: RenameMode,
    ) -> Result<(Ino, Option<Ino>)> {
        check_name(to.name)?;
        if is_dots(from.name) || is_dots(to.name) {
            return Err(Error::Invalid("`.` and `..` are not renamed"));
        }
        let (old_cookie, source) = self.entry(from.dir, from.name)?;
        self.live_directory(to.dir)?;
        let slot = self.find(to.dir, to.name)?;
        let touched = (
            source.ino,
            match &slot {
                Slot::Taken(_, target) => Some(target.ino),
                Slot::Free(_) => None,
            },
        );
        self.check_move(from.dir, to.dir, &source)?;
        let old = (from.dir, old_cookie);
        match (mode, slot) {
            (
                RenameMode::NoReplace
                | RenameMode::Whiteout {
                    no_replace: true, ..
                },
                Slot::Taken(..),
            ) => return Err(Error::Exists),
            (RenameMode::Exchange, Slot::Free(_)) => return Err(Error::NotFound),
            // Two names of one file, or the same name twice: nothing happens.
            (_, Slot::Taken(_, target)) if target.ino == source.ino => {}
            (RenameMode::Exchange, Slot::Taken(cookie, target)) => {
                self.check_move(to.dir, from.dir, &target)?;
                self.exchange(old, source, (to.dir, cookie), target)?;
            }
            (_, Slot::Taken(cookie, target)) => {
                self.replace(old, source, (to.dir, cookie), target, mode)?;
            }
            (_, Slot::Free(cookie)) => {
                self.check_entries_change(to.dir, false)?;
                let name = to.name.into();
                let (ino, kind) = (source.ino, source.kind);
                self.vacate(old, source, mode)?;
                self.add_entry(to.dir, cookie, &Dirent { ino, kind, name })?;
                self.moved(ino, old, (to.dir, cookie))?;
            }
        }
        Ok(touched)
    }

    /// Fails if `what` may not go from one directory to the other.
    fn check_move(&mut self, from: Ino, to: Ino, what: &Dirent) -> Result<()> {
        self.check_entries_change(from, true)?;
        self.check_names_change(what.ino)?;
        if what.kind != FileKind::Directory || from == to {
            return Ok(());
        }
        if self.inode(to)?.nlink >= LINK_MAX {
            return Err(Error::TooManyLinks);
        }
        // The walk meets no moving directory: those wait for the rename mutex, which we hold.
        self.climb(to, |above| match above == what.ino {
            true => Err(Error::Invalid("a directory cannot move into itself")),
            false => Ok(true),
        })
    }

    /// The name at `old` does not lead to the source any more.
    fn vacate(&mut self, old: (Ino, u64), source: Dirent, mode: RenameMode) -> Result<()> {
        let RenameMode::Whiteout { uid, gid, .. } = mode else {
            return self.remove_entry(old.0, old.1, &source);
        };
        let kind = FileKind::CharDevice;
        let mark = NewNode {
            kind,
            uid,
            gid,
            ..NewNode::file(0)
        };
        let ino = self.insert_child(old.0, &mark, old.1)?;
        let name = source.name;
        self.redirect_entry(old.0, old.1, source.kind, &Dirent { ino, kind, name })
    }

    fn replace(
        &mut self,
        old: (Ino, u64),
        source: Dirent,
        new: (Ino, u64),
        target: Dirent,
        mode: RenameMode,
    ) -> Result<()> {
        match (source.kind, target.kind) {
            (FileKind::Directory, FileKind::Directory) => self.check_empty(target.ino)?,
            (FileKind::Directory, _) => return Err(Error::NotADirectory),
            (_, FileKind::Directory) => return Err(Error::IsADirectory),
            _ => {}
        }
        self.check_entries_change(new.0, true)?;
        self.check_names_change(target.ino)?;
        let dirent = Dirent {
            ino: source.ino,
            kind: source.kind,
            name: target.name,
        };
        self.vacate(old, source, mode)?;
        self.redirect_entry(new.0, new.1, target.kind, &dirent)?;
        self.drop_name(target.ino, new.0, new.1)?;
        self.moved(dirent.ino, old, new)
    }

    fn exchange(
        &mut self,
        old: (Ino, u64),
        source: Dirent,
        new: (Ino, u64),
        target: Dirent,
    ) -> Result<()> {
        let there = Dirent {
            ino: source.ino,
            kind: source.kind,
            name: target.name,
        };
        let here = Dirent {
            ino: target.ino,
            kind: target.kind,
            name: source.name,
        };
        self.redirect_entry(new.0, new.1, here.kind, &there)?;
        self.redirect_entry(old.0, old.1, there.kind, &here)?;
        self.moved(there.ino, old, new)?;
        self.moved(here.ino, new, old)
    }

    /// The name of the inode has moved: its back links follow.
    fn moved(&mut self, ino: Ino, old: (Ino, u64), new: (Ino, u64)) -> Result<()> {
        let now = self.now;
        let inode = self.change(ino)?;
        inode.ctime = now;
        if (inode.parent, inode.cookie) == old {
            (inode.parent, inode.cookie) = new;
        }
        if !inode.is_dir() && inode.nlink > 1 {
            self.del(Key::link(Branch::HEAD, ino, old.0, old.1));
            self.put_new(Key::link(Branch::HEAD, ino, new.0, new.1), *b"");
        }
        Ok(())
    }
}

impl Namespace {
    /// Moves a name.
    pub(crate) fn rename(&self, from: Spot<'_>, to: Spot<'_>, mode: RenameMode) -> Result<()> {
        loop {
            // What moves, and what stands in its way, must be locked too, and is known only by
            // looking. If looking fails the operation says why, with the directories locked.
            let source = self.look(from.dir, from.name);
            let target = self.look(to.dir, to.name);
            let is_dir =
                |d: &Option<Dirent>| d.as_ref().is_some_and(|d| d.kind == FileKind::Directory);
            let moves_directory = from.dir != to.dir && (is_dir(&source) || is_dir(&target));
            let mutex = moves_directory.then(|| self.renames.lock());
            let source = source.map_or(from.dir, |d| d.ino);
            let locked_target = target.as_ref().map_or(to.dir, |d| d.ino);
            let inos = [from.dir, to.dir, source, locked_target];
            let locks = self.locks.write_many(inos);
            let mut op = self.begin(OpType::Rename)?;
            let touched = op.rename(from, to, mode)?;
            if touched == (source, target.map(|d| d.ino)) {
                self.finish(op, (locks, mutex))?;
                return Ok(());
            }
        }
    }
}
