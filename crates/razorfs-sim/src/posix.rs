//! What each changing operation does to a state of the model, and which errors it may give.

use libc::{
    E2BIG, EEXIST, EFBIG, EINVAL, EISDIR, ENAMETOOLONG, ENODATA, ENOENT, ENOTDIR, ENOTEMPTY,
    EOPNOTSUPP, EPERM, ERANGE,
};
use razorfs::{AllocateMode, FileKind, Ino, RenameMode, SetAttributes, XattrMode};
use razorfs_format::record::{FILE_MAX, XATTR_VALUE_MAX};

use crate::flags::{FORBIDDING, Permission};
use crate::model::{Errnos, Model, Node};
use crate::names::{NameId, TOO_LONG};
use crate::op::{At, Data, Op, Ref};

/// What a changing operation answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Nothing.
    Done,
    /// This inode, new or known.
    Inode(Ino),
    /// A number of bytes, or an offset.
    Number(u64),
}

type Outcome = Result<Answer, Errnos>;

/// Any error that says "not a regular file".
const NOT_REGULAR: Errnos = &[EISDIR, EINVAL, EFBIG];
/// Those that fallocate has for it.
const NOT_ALLOCATABLE: Errnos = &[
    EFBIG,
    EISDIR,
    EINVAL,
    libc::ENODEV,
    libc::ESPIPE,
    EOPNOTSUPP,
    EPERM,
];

/// The target of a symbolic link of this length.
#[must_use]
pub fn target(len: u16) -> Vec<u8> {
    let mut rng = crate::rng::Rng::new(u64::from(len));
    (0..len)
        .map(|_| rng.pick(b"/abc.").copied().unwrap_or(b'x'))
        .collect()
}

/// Whether a range that is taken out or put in is none of whole units.
const fn is_odd(offset: u64, len: u64) -> bool {
    len == 0 || !offset.is_multiple_of(4096) || !len.is_multiple_of(4096)
}

impl Model {
    /// Does what `op` asks for, or changes nothing and answers with the errors it may give.
    /// A new inode gets the number `fresh`; a copy copies at most `most` bytes.
    pub fn apply(&mut self, op: &Op, fresh: Ino, most: u64) -> Outcome {
        let outcome = if self.permission(op) == Permission::Forbidden {
            match self.clone().dispatch(op, fresh, most) {
                Ok(_) => Err(&[EPERM] as Errnos),
                Err(e) => Err(e),
            }
        } else {
            self.dispatch(op, fresh, most)
        };
        if outcome.is_ok() {
            self.reap();
        }
        outcome
    }

    /// The same of an operation that answered nothing, or that it failed.
    pub(crate) fn apply_unanswered(&mut self, op: &Op, fresh: Ino) -> Outcome {
        let outcome = self.apply(op, fresh, u64::MAX);
        if let Op::Merge { from, .. } = op {
            self.doubt_merge(*from);
        }
        outcome
    }

    fn dispatch(&mut self, op: &Op, fresh: Ino, most: u64) -> Outcome {
        match op {
            Op::Create { .. } => self.create_any(op, fresh),
            Op::Unnamed { dir, slot, mode } => {
                let dir = self.known(dir)?;
                let node = self.inherit(dir, Node::new(FileKind::Regular, *mode))?;
                self.insert(fresh, node);
                self.set_slot(*slot, Some(fresh));
                Ok(Answer::Inode(fresh))
            }
            Op::Link { from, to } => self.link(from, to),
            Op::Unlink(at) => self.unlink(at),
            Op::Rmdir(at) => self.rmdir(at),
            Op::Rename { from, to, mode } => self.rename(from, to, *mode),
            Op::Set { who, set } => self.set(who, set),
            Op::Write { who, offset, data } => {
                let ino = self.regular(who, NOT_REGULAR)?;
                self.write(ino, *offset, &data.bytes())
            }
            Op::Append { who, data } => {
                let ino = self.regular(who, NOT_REGULAR)?;
                let at = self.node(ino).map_or(0, |n| n.size);
                self.write(ino, at, &data.bytes())?;
                Ok(Answer::Number(at))
            }
            Op::Allocate {
                who,
                mode,
                offset,
                len,
            } => self.allocate(who, *mode, *offset, *len),
            Op::Copy {
                from,
                from_offset,
                to,
                to_offset,
                len,
            } => self.copy(
                (from, *from_offset),
                (to, *to_offset),
                (*len).min(most),
                *len,
            ),
            Op::Collapse { who, offset, len } => self.collapse(who, *offset, *len),
            Op::Insert { who, offset, len } => self.insert_hole(who, *offset, *len),
            Op::SetXattr {
                who,
                name,
                data,
                mode,
            } => self.set_xattr(who, *name, *data, *mode),
            Op::RemoveXattr { who, name } => {
                let ino = self.known(who)?;
                if *name == TOO_LONG {
                    return Err(&[ENODATA, ERANGE, ENAMETOOLONG]);
                }
                if self.node(ino).is_some_and(|n| !n.xattrs.contains_key(name)) {
                    return Err(&[ENODATA]);
                }
                self.update(ino, |n| {
                    n.xattrs.remove(name);
                });
                Ok(Answer::Done)
            }
            Op::Transaction { steps, .. } => {
                self.transact(steps, fresh)?;
                Ok(Answer::Done)
            }
            Op::Take(n) => self.take(*n).map(|()| Answer::Done),
            Op::Delete(which) => self.delete(*which).map(|()| Answer::Done),
            Op::Rollback(which) => self.roll_back(*which).map(|()| Answer::Done),
            Op::Fork { name, from } => self.fork(*name, *from).map(|()| Answer::Done),
            Op::Prune(n) => self.prune(*n).map(|()| Answer::Done),
            Op::Restore(_) => self.restore().map(|()| Answer::Done),
            Op::TakeThen { name, .. } => self.take_then(*name).map(|()| Answer::Done),
            Op::Origin { branch, name } => self.take_origin(*branch, *name).map(|()| Answer::Done),
            Op::Merge { from, force } => self.merge(*from, *force, most),
            _ => Ok(Answer::Done),
        }
    }

    fn create_any(&mut self, op: &Op, fresh: Ino) -> Outcome {
        let Op::Create {
            at,
            kind,
            mode,
            uid,
            gid,
            target: len,
        } = op
        else {
            return Ok(Answer::Done);
        };
        let mut node = Node::new(*kind, *mode);
        (node.uid, node.gid) = (*uid, *gid);
        if matches!(kind, FileKind::CharDevice | FileKind::BlockDevice) {
            node.rdev = u32::from(*len) + 1;
        }
        if *kind == FileKind::Symlink {
            node.target = target(*len).into();
        }
        self.create(at, node, fresh)
    }

    fn known(&self, who: &Ref) -> Result<Ino, Errnos> {
        self.resolve(who).ok_or(&[ENOENT])
    }

    fn regular(&self, who: &Ref, error: Errnos) -> Result<Ino, Errnos> {
        let ino = self.known(who)?;
        match self.node(ino) {
            Some(node) if node.kind == FileKind::Regular => Ok(ino),
            _ => Err(error),
        }
    }

    /// The directory of a place, and what the name leads to there.
    fn place(&self, at: &At) -> Result<(Ino, Option<Ino>), Errnos> {
        let dir = self.known(&at.dir)?;
        match self.node(dir) {
            Some(node) if node.is_dir() => Ok((dir, self.child(dir, at.name))),
            _ => Err(&[ENOTDIR]),
        }
    }

    /// The same for a name that is to be made: the directory must have a name itself.
    fn new_place(&self, at: &At) -> Result<(Ino, Option<Ino>), Errnos> {
        let place = self.place(at);
        if at.name == TOO_LONG {
            return Err(if place.is_ok() {
                &[ENAMETOOLONG]
            } else {
                &[ENAMETOOLONG, ENOTDIR]
            });
        }
        let place = place?;
        if self.node(place.0).is_some_and(|n| n.nlink == 0) {
            return Err(&[ENOENT]);
        }
        Ok(place)
    }

    fn old_place(&self, at: &At) -> Result<(Ino, Ino), Errnos> {
        match self.place(at) {
            Err(_) if at.name == TOO_LONG => Err(&[ENAMETOOLONG, ENOTDIR]),
            Err(e) => Err(e),
            Ok((dir, Some(ino))) => Ok((dir, ino)),
            Ok((_, None)) if at.name == TOO_LONG => Err(&[ENAMETOOLONG, ENOENT]),
            Ok((_, None)) => Err(&[ENOENT]),
        }
    }

    fn inherit(&self, dir: Ino, mut node: Node) -> Result<Node, Errnos> {
        let parent = self
            .node(dir)
            .filter(|n| n.is_dir())
            .ok_or(&[ENOTDIR] as Errnos)?;
        if parent.nlink == 0 {
            return Err(&[ENOENT]);
        }
        if parent.perm & 0o2000 != 0 {
            node.gid = parent.gid;
            if node.is_dir() {
                node.perm |= 0o2000;
            }
        }
        Ok(node)
    }

    fn is_dir(&self, ino: Ino) -> bool {
        self.node(ino).is_some_and(Node::is_dir)
    }

    /// Lets `name` of `dir` lead to `ino`, or to nothing; counts links of subdirectories.
    fn point(&mut self, dir: Ino, name: NameId, to: Option<Ino>) {
        let subdir = |m: &Self, ino: Option<Ino>| u32::from(ino.is_some_and(|i| m.is_dir(i)));
        let gone = subdir(self, self.child(dir, name));
        let come = subdir(self, to);
        self.update(dir, |n| {
            match to {
                Some(ino) => n.entries.insert(name, ino),
                None => n.entries.remove(&name),
            };
            n.nlink = n.nlink + come - gone;
            n.mtime = None;
        });
        if let Some(ino) = to {
            self.update(ino, |n| {
                if come == 1 {
                    n.parent = dir;
                    n.mtime = None;
                }
            });
        }
    }

    fn drop_link(&mut self, ino: Ino) {
        self.update(ino, |n| n.nlink = if n.is_dir() { 0 } else { n.nlink - 1 });
    }

    pub(crate) fn create(&mut self, at: &At, node: Node, fresh: Ino) -> Outcome {
        let (dir, found) = self.new_place(at)?;
        if found.is_some() {
            return Err(&[EEXIST]);
        }
        let mut node = self.inherit(dir, node)?;
        node.nlink = 1 + u32::from(node.is_dir());
        self.insert(fresh, node);
        self.point(dir, at.name, Some(fresh));
        Ok(Answer::Inode(fresh))
    }

    fn link(&mut self, from: &Ref, to: &At) -> Outcome {
        let ino = self.known(from)?;
        let is_dir = self.is_dir(ino);
        let place = self.new_place(to);
        if is_dir {
            return Err(if place.is_ok_and(|p| p.1.is_none()) {
                &[EPERM]
            } else {
                &[EPERM, EEXIST, ENOTDIR, ENOENT, ENAMETOOLONG]
            });
        }
        let (dir, found) = place?;
        if found.is_some() {
            return Err(&[EEXIST]);
        }
        self.update(ino, |n| n.nlink += 1);
        self.point(dir, to.name, Some(ino));
        Ok(Answer::Inode(ino))
    }

    fn unlink(&mut self, at: &At) -> Outcome {
        let (dir, ino) = self.old_place(at)?;
        if self.is_dir(ino) {
            return Err(&[EISDIR]);
        }
        self.point(dir, at.name, None);
        self.drop_link(ino);
        Ok(Answer::Done)
    }

    fn rmdir(&mut self, at: &At) -> Outcome {
        let (dir, ino) = self.old_place(at)?;
        match self.node(ino) {
            Some(node) if !node.is_dir() => Err(&[ENOTDIR]),
            Some(node) if !node.entries.is_empty() => Err(&[ENOTEMPTY]),
            _ => {
                self.point(dir, at.name, None);
                self.drop_link(ino);
                Ok(Answer::Done)
            }
        }
    }

    fn rename(&mut self, from: &At, to: &At, mode: RenameMode) -> Outcome {
        // Where two things are wrong at once, either may be said.
        let (source, target) = (self.old_place(from), self.new_place(to));
        let ((dir, ino), (to_dir, found)) = match (source, target) {
            (Ok(source), Ok(target)) => (source, target),
            (Err(e), Ok(_)) => return Err(e),
            (Ok(_), Err(e)) => return Err(e),
            (Err(_), Err(_)) => return Err(&[ENOENT, ENOTDIR, ENAMETOOLONG]),
        };
        match (mode, found) {
            (RenameMode::Exchange, None) => return Err(&[ENOENT, EINVAL]),
            (RenameMode::NoReplace, Some(_)) => return Err(&[EEXIST, EINVAL, ENOTEMPTY]),
            _ => {}
        }
        if self.is_dir(ino) && self.is_below(to_dir, ino) {
            return Err(&[EINVAL]);
        }
        let Some(old) = found else {
            self.point(dir, from.name, None);
            self.point(to_dir, to.name, Some(ino));
            return Ok(Answer::Done);
        };
        if old == ino {
            return Ok(Answer::Done);
        }
        if mode == RenameMode::Exchange {
            if self.is_dir(old) && self.is_below(dir, old) {
                return Err(&[EINVAL]);
            }
            self.point(dir, from.name, Some(old));
            self.point(to_dir, to.name, Some(ino));
            return Ok(Answer::Done);
        }
        match (self.is_dir(ino), self.is_dir(old)) {
            (true, false) => return Err(&[ENOTDIR]),
            (false, true) if self.is_below(dir, old) => return Err(&[EISDIR, ENOTEMPTY]),
            (false, true) => return Err(&[EISDIR]),
            (true, true) if self.node(old).is_some_and(|n| !n.entries.is_empty()) => {
                return Err(&[ENOTEMPTY]);
            }
            _ => {}
        }
        self.point(dir, from.name, None);
        self.point(to_dir, to.name, Some(ino));
        self.drop_link(old);
        Ok(Answer::Done)
    }

    fn set(&mut self, who: &Ref, set: &SetAttributes) -> Outcome {
        let ino = if set.size.is_some() {
            self.regular(who, NOT_REGULAR)?
        } else {
            self.known(who)?
        };
        if set.size.is_some_and(|size| size > FILE_MAX) {
            return Err(&[EFBIG, EINVAL]);
        }
        self.update(ino, |n| {
            if let Some(size) = set.size {
                n.content.zero(size, u64::MAX);
                n.size = size;
                n.mtime = None;
            }
            n.perm = set.mode.map_or(n.perm, |m| m & 0o7777);
            n.uid = set.uid.unwrap_or(n.uid);
            n.gid = set.gid.unwrap_or(n.gid);
            n.atime = set.atime.or(n.atime);
            n.mtime = set.mtime.or(n.mtime);
            n.flags = set.flags.map_or(n.flags, |f| f & FORBIDDING);
            n.hints = set.flags.map_or(n.hints, |f| f & !FORBIDDING);
        });
        Ok(Answer::Inode(ino))
    }

    fn write(&mut self, ino: Ino, offset: u64, data: &[u8]) -> Outcome {
        if data.is_empty() {
            return Ok(Answer::Number(0));
        }
        let room = FILE_MAX.saturating_sub(offset).min(data.len() as u64);
        if room == 0 {
            return Err(&[EFBIG]);
        }
        self.update(ino, |n| {
            n.content
                .write(offset, data.get(..room as usize).unwrap_or_default());
            n.size = n.size.max(offset + room);
            n.mtime = None;
        });
        Ok(Answer::Number(room))
    }

    fn allocate(&mut self, who: &Ref, mode: AllocateMode, offset: u64, len: u64) -> Outcome {
        let ino = self.regular(who, NOT_ALLOCATABLE)?;
        if len == 0 {
            return Err(&[EINVAL]);
        }
        let end = offset.saturating_add(len);
        if end > FILE_MAX {
            return Err(&[EFBIG]);
        }
        let grows = matches!(mode, AllocateMode::Extend | AllocateMode::ZeroExtend);
        let zeros = !matches!(mode, AllocateMode::Extend | AllocateMode::KeepSize);
        self.update(ino, |n| {
            if zeros {
                n.content.zero(offset, end);
            }
            if grows {
                n.size = n.size.max(end);
            }
            n.mtime = None;
        });
        Ok(Answer::Done)
    }

    fn copy(&mut self, from: (&Ref, u64), to: (&Ref, u64), len: u64, asked: u64) -> Outcome {
        let source = self.regular(from.0, NOT_REGULAR)?;
        let target = self.regular(to.0, NOT_REGULAR)?;
        let size = self.node(source).map_or(0, |n| n.size);
        let most = size.saturating_sub(from.1);
        let overlap = from.1 < to.1.saturating_add(asked) && to.1 < from.1.saturating_add(asked);
        if source == target && overlap && asked > 0 {
            return Err(&[EINVAL]);
        }
        let n = len.min(most);
        let mut bytes = vec![0; n as usize];
        if let Some(node) = self.node(source) {
            node.content.read(from.1, &mut bytes);
        }
        let written = self.write(target, to.1, &bytes)?;
        self.was_read(source);
        Ok(written)
    }

    fn collapse(&mut self, who: &Ref, offset: u64, len: u64) -> Outcome {
        let ino = self.regular(who, NOT_ALLOCATABLE)?;
        let size = self.node(ino).map_or(0, |n| n.size);
        let end = offset.saturating_add(len);
        if is_odd(offset, len) || end >= size {
            return Err(&[EINVAL]);
        }
        self.update(ino, |n| {
            n.content.collapse(offset, end);
            n.size -= len;
            n.mtime = None;
        });
        Ok(Answer::Done)
    }

    fn insert_hole(&mut self, who: &Ref, offset: u64, len: u64) -> Outcome {
        let ino = self.regular(who, NOT_ALLOCATABLE)?;
        let size = self.node(ino).map_or(0, |n| n.size);
        if is_odd(offset, len) {
            return Err(&[EINVAL]);
        }
        match (offset >= size, size.saturating_add(len) > FILE_MAX) {
            (true, true) => return Err(&[EINVAL, EFBIG]),
            (true, false) => return Err(&[EINVAL]),
            (false, true) => return Err(&[EFBIG]),
            (false, false) => {}
        }
        self.update(ino, |n| {
            n.content.insert(offset, len);
            n.size += len;
            n.mtime = None;
        });
        Ok(Answer::Done)
    }

    fn set_xattr(&mut self, who: &Ref, name: NameId, data: Data, mode: XattrMode) -> Outcome {
        let ino = self.known(who)?;
        if name == TOO_LONG {
            return Err(&[ERANGE, ENAMETOOLONG, E2BIG]);
        }
        if data.len as usize > XATTR_VALUE_MAX {
            return Err(&[E2BIG]);
        }
        let there = self.node(ino).is_some_and(|n| n.xattrs.contains_key(&name));
        match (mode, there) {
            (XattrMode::Create, true) => return Err(&[EEXIST]),
            (XattrMode::Replace, false) => return Err(&[ENODATA]),
            _ => {}
        }
        self.update(ino, |n| {
            n.xattrs.insert(name, data.bytes().into());
        });
        Ok(Answer::Done)
    }
}
