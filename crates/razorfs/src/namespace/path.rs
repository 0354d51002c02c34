//! Operations by path, as steps of a transaction.
//!
//! Unlike the inode level these follow symbolic links, at most 40 of them. A path that begins with
//! `/` starts at the root of the volume, any other at a base directory.

use std::collections::BTreeMap;

use razorfs_format::key::Key;
use razorfs_format::op::OpType;
use razorfs_format::record::{Dirent, FileKind, Inode, inode_flags, name_cookie};
use razorfs_format::{Branch, Ino};

use super::directory::{Slot, check_kind, check_name};
use super::operation::{Held, Operation, PLACE};
use super::rename::Spot;
use super::{Namespace, OpenHow};
use crate::{Error, NewNode, RenameMode, Result, SetAttributes};

/// Most symbolic links that a path leads through.
const SYMLINKS: u32 = 40;
/// Most bytes of data in one transaction: it is one batch of the journal.
const TRANSACTION_MAX: u64 = 64 << 20;
/// Tries with the locks that the last try turned out to need, before everything is locked.
const TRIES: u32 = 4;

/// A path that a transaction is going to work on.
pub(crate) struct Hint<'p> {
    /// Where it begins.
    pub(crate) base: Ino,
    pub(crate) path: &'p [u8],
    /// Its last name is going to be changed even if it is there.
    pub(crate) renames: bool,
}

/// Where a path leads.
pub(crate) struct Place {
    /// The directory of the last name.
    dir: Ino,
    /// The last name; none if the path ends in `.`, `..` or `/` alone.
    name: Option<Box<[u8]>>,
    /// What is there.
    found: Option<(Ino, FileKind)>,
    /// The path ends in a slash, so only a directory will do.
    slash: bool,
}

impl Place {
    /// The inode that is there.
    pub(crate) fn ino(&self) -> Result<Ino> {
        Ok(self.found()?.0)
    }

    /// The inode that is there, and its kind.
    fn found(&self) -> Result<(Ino, FileKind)> {
        match self.found {
            Some((_, kind)) if self.slash && kind != FileKind::Directory => {
                Err(Error::NotADirectory)
            }
            Some(found) => Ok(found),
            None => Err(Error::NotFound),
        }
    }

    fn spot(&self, dots: Error) -> Result<Spot<'_>> {
        match &self.name {
            Some(name) => Ok(Spot {
                dir: self.dir,
                name,
            }),
            None => Err(dots),
        }
    }
}

/// The names of a path, the first one last.
fn push_names(path: &[u8], names: &mut Vec<Box<[u8]>>) {
    let parts = path.split(|b| *b == b'/').rev();
    names.extend(parts.filter(|name| !name.is_empty()).map(Box::from));
}

impl Operation<'_> {
    /// Where `path` leads from `base`. A last symbolic link is followed only with `follow`, or if
    /// a slash comes after it.
    pub(crate) fn resolve(&mut self, base: Ino, path: &[u8], follow: bool) -> Result<Place> {
        if path.is_empty() {
            return Err(Error::NotFound);
        }
        let slash = path.last() == Some(&b'/');
        let mut names = Vec::new();
        push_names(path, &mut names);
        let mut at = if path.first() == Some(&b'/') {
            Ino::ROOT
        } else {
            base
        };
        let mut links = 0;
        while let Some(name) = names.pop() {
            if matches!(*name, [b'.'] | [b'.', b'.']) {
                at = self.walk(at, &name)?.0;
                continue;
            }
            check_name(&name)?;
            let last = names.is_empty();
            let found = self
                .look_for(at, &name)?
                .map(|found| (found.ino, found.kind));
            match found {
                Some((ino, FileKind::Symlink)) if !last || follow || slash => {
                    links += 1;
                    if links > SYMLINKS {
                        return Err(Error::TooManySymlinks);
                    }
                    let target = &self.inode(ino)?.target;
                    if target.first() == Some(&b'/') {
                        at = Ino::ROOT;
                    }
                    push_names(target, &mut names);
                }
                Some((ino, FileKind::Directory)) if !last => at = ino,
                Some(_) if !last => return Err(Error::NotADirectory),
                None if !last => return Err(Error::NotFound),
                found => {
                    return Ok(Place {
                        dir: at,
                        name: Some(name),
                        found,
                        slash,
                    });
                }
            }
        }
        Ok(Place {
            dir: at,
            name: None,
            found: Some((at, self.directory(at)?.kind())),
            slash,
        })
    }

    /// The entry `name` of `dir`, if there is one.
    fn look_for(&mut self, dir: Ino, name: &[u8]) -> Result<Option<Dirent>> {
        if let Some(dirent) = self.remembered_entry(dir, name) {
            return Ok(Some(dirent));
        }
        self.directory(dir)?;
        Ok(match self.find(dir, name)? {
            Slot::Taken(_, dirent) => Some(dirent),
            Slot::Free(_) => None,
        })
    }

    /// A node owned by whoever owns the directory.
    fn create_owned(&mut self, spot: Spot<'_>, node: NewNode<'_>) -> Result<Ino> {
        let dir = self.directory(spot.dir)?;
        let (uid, gid) = (dir.uid, dir.gid);
        self.create(spot.dir, spot.name, &NewNode { uid, gid, ..node })
    }

    /// A new directory.
    pub(crate) fn make_dir(&mut self, base: Ino, path: &[u8], mode: u32) -> Result<Ino> {
        let place = self.resolve(base, path, false)?;
        self.create_owned(place.spot(Error::Exists)?, NewNode::directory(mode))
    }

    /// A directory and all that are missing on the way to it, however many: nothing here grows with
    /// the depth of a path but a list.
    pub(crate) fn make_dirs(&mut self, base: Ino, path: &[u8], mode: u32) -> Result<Ino> {
        let (mut path, mut missing) = (path, Vec::new());
        let mut made = loop {
            match self.resolve(base, path, true) {
                Ok(place) => match place.found {
                    Some((ino, FileKind::Directory)) => break ino,
                    Some(_) => return Err(Error::Exists),
                    None => {
                        let spot = place.spot(Error::Exists)?;
                        break self.create_owned(spot, NewNode::directory(mode))?;
                    }
                },
                Err(Error::NotFound) => {
                    let trimmed = without_slashes(path);
                    // Before the first name is the base, which is gone then.
                    let slash = trimmed.iter().rposition(|b| *b == b'/');
                    let (above, name) = trimmed.split_at(slash.ok_or(Error::NotFound)?);
                    missing.push(name.get(1..).unwrap_or_default());
                    path = above;
                }
                Err(e) => return Err(e),
            }
        };
        for name in missing.into_iter().rev() {
            made = self.make_dir(made, name, mode)?;
        }
        Ok(made)
    }

    /// What opening a path does to the tree. Answers the inode.
    pub(crate) fn open(&mut self, base: Ino, path: &[u8], how: OpenHow) -> Result<Ino> {
        let place = self.resolve(base, path, !how.create_new)?;
        let Some((ino, kind)) = place.found else {
            if !how.create {
                return Err(Error::NotFound);
            }
            if place.slash {
                return Err(Error::IsADirectory);
            }
            return self.create_owned(place.spot(Error::Exists)?, NewNode::file(how.mode));
        };
        if how.create_new {
            return Err(Error::Exists);
        }
        if place.slash && kind != FileKind::Directory {
            return Err(Error::NotADirectory);
        }
        if how.write && kind == FileKind::Directory {
            return Err(Error::IsADirectory);
        }
        if how.truncate {
            let inode = self.inode(ino)?;
            if inode.flags & inode_flags::APPEND != 0 {
                return Err(Error::NotPermitted("the file is append-only"));
            }
            if inode.size > 0 {
                self.set_size(ino, 0)?;
            }
        }
        Ok(ino)
    }

    /// Removes a file's name.
    pub(crate) fn remove_file(&mut self, base: Ino, path: &[u8]) -> Result<()> {
        let place = self.resolve(base, path, false)?;
        place.ino()?;
        let spot = place.spot(Error::IsADirectory)?;
        self.unlink(spot.dir, spot.name)?;
        Ok(())
    }

    /// Removes an empty directory.
    pub(crate) fn remove_dir(&mut self, base: Ino, path: &[u8]) -> Result<()> {
        let place = self.resolve(base, path, false)?;
        let spot = place.spot(Error::Invalid("the path ends in `.` or `..`"))?;
        self.rmdir(spot.dir, spot.name)?;
        Ok(())
    }

    /// The entries of a directory.
    fn entries(&mut self, dir: Ino) -> Result<Vec<Dirent>> {
        self.directory(dir)?;
        let from = Key::dirent(Branch::HEAD, dir, 0);
        let to = Key::dirent(Branch::HEAD, dir, u64::MAX);
        let mut entries = Vec::new();
        self.scan(&from, &to, |_, value| {
            entries.push(Dirent::decode(value, PLACE)?);
            Ok(true)
        })?;
        Ok(entries)
    }

    /// Removes a directory and all below it.
    pub(crate) fn remove_dir_all(&mut self, base: Ino, path: &[u8]) -> Result<()> {
        let place = self.resolve(base, path, false)?;
        let top = place.ino()?;
        let spot = place.spot(Error::Invalid("the path ends in `.` or `..`"))?;
        let mut stack = vec![(spot.dir, Box::from(spot.name), top, false)];
        while let Some((dir, name, ino, emptied)) = stack.pop() {
            if emptied {
                self.rmdir(dir, &name)?;
                continue;
            }
            stack.push((dir, name, ino, true));
            for Dirent {
                ino: child,
                kind,
                name,
            } in self.entries(ino)?
            {
                if kind == FileKind::Directory {
                    stack.push((ino, name, child, false));
                } else {
                    self.unlink(ino, &name)?;
                }
            }
        }
        Ok(())
    }

    /// Moves a name.
    pub(crate) fn rename_path(
        &mut self,
        base: Ino,
        from: &[u8],
        to: &[u8],
        mode: RenameMode,
    ) -> Result<()> {
        let dots = || Error::Invalid("`.` and `..` are not renamed");
        let from = self.resolve(base, from, false)?;
        let to = self.resolve(base, to, false)?;
        let kind = from.found.map(|f| f.1);
        if (from.slash || to.slash) && kind.is_some_and(|k| k != FileKind::Directory) {
            return Err(Error::NotADirectory);
        }
        self.rename(from.spot(dots())?, to.spot(dots())?, mode)?;
        Ok(())
    }

    /// One more name for a file.
    pub(crate) fn hard_link(&mut self, base: Ino, original: &[u8], link: &[u8]) -> Result<()> {
        let ino = self.resolve(base, original, false)?.ino()?;
        let place = self.resolve(base, link, false)?;
        let spot = place.spot(Error::Exists)?;
        self.link(ino, spot.dir, spot.name)
    }

    /// A symbolic link.
    pub(crate) fn symlink(&mut self, base: Ino, target: &[u8], link: &[u8]) -> Result<()> {
        let place = self.resolve(base, link, false)?;
        let node = NewNode {
            kind: FileKind::Symlink,
            target,
            ..NewNode::file(0o777)
        };
        self.create_owned(place.spot(Error::Exists)?, node)?;
        Ok(())
    }

    /// Changes attributes.
    pub(crate) fn set_by_path(
        &mut self,
        base: Ino,
        path: &[u8],
        set: &SetAttributes,
    ) -> Result<()> {
        let ino = self.resolve(base, path, true)?.ino()?;
        self.set_attributes(ino, set)
    }
}

impl<'a> Operation<'a> {
    /// The file's content becomes `data`; it is created if it is missing.
    pub(crate) fn write_file(&mut self, base: Ino, path: &[u8], data: &'a [u8]) -> Result<()> {
        let ino = self.open(base, path, OpenHow::WRITE_ALL)?;
        self.write(ino, 0, data)
    }
}

/// `path` without the slashes at its end.
fn without_slashes(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|b| *b != b'/').map_or(0, |at| at + 1);
    path.get(..end).unwrap_or_default()
}

impl Namespace {
    /// Where a path leads.
    pub(crate) fn resolve(&self, base: Ino, path: &[u8], follow: bool) -> Result<(Ino, Inode)> {
        let mut op = self.reader();
        let (ino, kind) = op.resolve(base, path, follow)?.found()?;
        let inode = op.inode(ino)?.clone();
        check_kind(ino, kind, inode.kind())?;
        Ok((ino, inode))
    }

    /// The inodes that an operation on `path` is going to need, as far as they are remembered, and
    /// whether it changes them. Guesses, which save a try where they are right.
    fn expect(&self, hint: &Hint<'_>, wanted: &mut BTreeMap<Ino, bool>) {
        let mut at = if hint.path.first() == Some(&b'/') {
            Ino::ROOT
        } else {
            hint.base
        };
        let names = hint.path.split(|b| *b == b'/');
        let mut names = names.filter(|name| !name.is_empty()).peekable();
        while let Some(name) = names.next() {
            let last = names.peek().is_none();
            let first = name_cookie(self.store.hash_key(), name);
            let found = match self.dentries.get(at, first, name) {
                Some(Slot::Taken(_, dirent)) => Some(dirent),
                Some(Slot::Free(_)) | None => None,
            };
            *wanted.entry(at).or_default() |= last && (hint.renames || found.is_none());
            match found {
                Some(dirent) if last => *wanted.entry(dirent.ino).or_default() = true,
                Some(dirent) if dirent.kind == FileKind::Directory => at = dirent.ino,
                _ => return,
            }
        }
    }

    /// Runs `steps` as one transaction: all of it, in one batch of the journal, or nothing.
    ///
    /// `moves` says that directories may move. Which inodes must be locked is known only after the
    /// steps have run: so they run with the locks that `hints` lets expect, then again with those
    /// that this needed, until no more are needed.
    pub(crate) fn transact<'a, T>(
        &'a self,
        ty: OpType,
        moves: bool,
        hints: &mut dyn Iterator<Item = Hint<'_>>,
        steps: &dyn Fn(&mut Operation<'a>) -> Result<T>,
    ) -> Result<T> {
        let mutex = moves.then(|| self.renames.lock());
        let mut wanted = BTreeMap::new();
        hints.for_each(|hint| self.expect(&hint, &mut wanted));
        for attempt in 0.. {
            let locks = match attempt {
                0..TRIES => self.locks.lock_set(&wanted),
                _ => self.locks.lock_all(),
            };
            let mut op = self.begin(ty)?.with_overlay();
            op.held = Held::These(wanted.keys().copied().collect());
            let outcome = steps(&mut op);
            let trimming = op.trimming();
            if !trimming.is_empty() {
                drop((op, locks));
                self.finish_trims(&trimming)?;
                continue;
            }
            let mut enough = true;
            for (ino, exclusive) in op.involved() {
                let has = wanted.entry(ino).or_insert_with(|| {
                    enough = false;
                    exclusive
                });
                enough &= *has >= exclusive;
                *has |= exclusive;
            }
            if enough || attempt >= TRIES {
                let value = outcome?;
                let (data, growth) = op.volume_of_data();
                if data > TRANSACTION_MAX {
                    return Err(Error::Invalid("a transaction holds at most 64 MiB of data"));
                }
                self.store.reserve(data, growth)?;
                self.finish(op, (locks, mutex))?;
                if data > 0 {
                    self.store.pace();
                }
                return Ok(value);
            }
        }
        unreachable!("the loop ends when everything is locked")
    }

    pub(super) fn finish_trims(&self, inos: &[Ino]) -> Result<()> {
        for ino in inos {
            let _lock = self.locks.write(*ino);
            while self.trim_step(*ino)? {}
        }
        Ok(())
    }
}
