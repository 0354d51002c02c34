//! Asks the file system for what an operation says.

use razorfs::{Error, FileKind, Ino, NewNode, Result};

use crate::branches;
use crate::model::Model;
use crate::names;
use crate::op::{At, Op, Ref};
use crate::points;
use crate::posix::{self, Answer};
use crate::subject::FileSystem;

/// Performs a changing operation on the file system, with objects as `model` has them.
pub fn change<F: FileSystem>(fs: &F, model: &Model, op: &Op) -> Result<Answer> {
    let ino = |who: &Ref| model.resolve(who).ok_or(Error::NotFound);
    let place = |at: &At| Ok::<_, Error>((ino(&at.dir)?, names::bytes(at.name)));
    match op {
        Op::Create {
            at,
            kind,
            mode,
            uid,
            gid,
            target,
        } => {
            let (dir, name) = place(at)?;
            let text = posix::target(*target);
            let device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
            let node = NewNode {
                kind: *kind,
                mode: *mode,
                umask: 0,
                uid: *uid,
                gid: *gid,
                rdev: if device { u32::from(*target) + 1 } else { 0 },
                target: if *kind == FileKind::Symlink {
                    &text
                } else {
                    b""
                },
            };
            fs.create_node(dir, name, &node)
                .map(|s| Answer::Inode(s.ino))
        }
        Op::Unnamed { dir, mode, .. } => {
            let stat = fs.create_unnamed(ino(dir)?, &NewNode::file(*mode))?;
            fs.pin(stat.ino);
            Ok(Answer::Inode(stat.ino))
        }
        Op::Link { from, to } => {
            let (dir, name) = place(to)?;
            fs.link(ino(from)?, dir, name).map(|s| Answer::Inode(s.ino))
        }
        Op::Unlink(at) => {
            let (dir, name) = place(at)?;
            fs.unlink(dir, name).map(|()| Answer::Done)
        }
        Op::Rmdir(at) => {
            let (dir, name) = place(at)?;
            fs.rmdir(dir, name).map(|()| Answer::Done)
        }
        Op::Rename { from, to, mode } => {
            let ((dir, name), (to, new)) = (place(from)?, place(to)?);
            fs.rename(dir, name, to, new, *mode).map(|()| Answer::Done)
        }
        Op::Transaction { steps, sync } => {
            fs.transaction(steps, *sync)?;
            Ok(match model.made_by(steps) {
                Some((path, nth)) => {
                    let mut at = Ino::ROOT;
                    for name in path {
                        at = fs.lookup(at, names::bytes(name))?.ino;
                    }
                    Answer::Inode(Ino(at.0.saturating_sub(nth)))
                }
                None => Answer::Done,
            })
        }
        Op::Take(_) | Op::Delete(_) | Op::Fork { .. } | Op::Prune(_) | Op::Origin { .. } => {
            change_points(fs, model, op)
        }
        _ => change_one(fs, ino, op),
    }
}

/// The changes of snapshots and branches.
fn change_points<F: FileSystem>(fs: &F, model: &Model, op: &Op) -> Result<Answer> {
    match op {
        Op::Take(n) => fs.snapshot(&points::name(*n)).map(|()| Answer::Done),
        Op::Delete(which) => {
            let name = model.name_of(*which).ok_or(Error::NotFound)?;
            fs.delete_snapshot(&name).map(|()| Answer::Done)
        }
        Op::Fork { name, from } => {
            let from = from.map(|which| model.name_of(which).ok_or(Error::NotFound));
            fork(fs, &branches::name(*name), from.transpose()?).map(|()| Answer::Done)
        }
        Op::Prune(n) => {
            let name = branches::name(*n);
            fs.delete_branch(&name).map(|()| Answer::Done)
        }
        Op::Origin { branch, name } => {
            let (branch, name) = (branches::name(*branch), points::name(*name));
            fs.snapshot_origin(&branch, &name).map(|()| Answer::Done)
        }
        _ => Ok(Answer::Done),
    }
}

/// Makes a branch of what is here, or of a snapshot.
fn fork<F: FileSystem>(fs: &F, name: &str, from: Option<String>) -> Result<()> {
    match from {
        None => fs.create_branch(name),
        Some(from) => fs.at_snapshot(&from)?.create_branch(name),
    }
}

/// The changes that concern an inode and not a name.
fn change_one<F: FileSystem>(fs: &F, ino: impl Fn(&Ref) -> Result<Ino>, op: &Op) -> Result<Answer> {
    match op {
        Op::Set { who, set } => {
            let stat = fs.set_attributes(ino(who)?, set)?;
            Ok(Answer::Inode(stat.ino))
        }
        Op::Write { who, offset, data } => {
            let n = fs.write(ino(who)?, *offset, &data.bytes())?;
            Ok(Answer::Number(n as u64))
        }
        Op::Append { who, data } => fs.append(ino(who)?, &data.bytes()).map(Answer::Number),
        Op::Allocate {
            who,
            mode,
            offset,
            len,
        } => fs
            .allocate(ino(who)?, *mode, *offset, *len)
            .map(|()| Answer::Done),
        Op::Copy {
            from,
            from_offset,
            to,
            to_offset,
            len,
        } => fs
            .copy_range(ino(from)?, *from_offset, ino(to)?, *to_offset, *len)
            .map(Answer::Number),
        Op::Collapse { who, offset, len } => fs
            .collapse_range(ino(who)?, *offset, *len)
            .map(|()| Answer::Done),
        Op::Insert { who, offset, len } => fs
            .insert_range(ino(who)?, *offset, *len)
            .map(|()| Answer::Done),
        Op::SetXattr {
            who,
            name,
            data,
            mode,
        } => fs
            .set_xattr(ino(who)?, &names::xattr(*name), &data.bytes(), *mode)
            .map(|()| Answer::Done),
        Op::RemoveXattr { who, name } => fs
            .remove_xattr(ino(who)?, &names::xattr(*name))
            .map(|()| Answer::Done),
        _ => Ok(Answer::Done),
    }
}
