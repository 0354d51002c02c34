//! What the append-only and the immutable flag forbid.

use razorfs::{AllocateMode, Ino, RenameMode, SetAttributes};
use razorfs_format::record::inode_flags::{APPEND, IMMUTABLE};

use crate::model::Model;
use crate::op::{At, Op, Ref};

/// The flags that forbid something; the others change nothing that the model knows.
pub const FORBIDDING: u32 = APPEND | IMMUTABLE;

/// Whether flags let an operation happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Permission {
    /// They do.
    Allowed,
    /// They do not: EPERM, or another error that the operation has anyway.
    Forbidden,
    /// It changes nothing, and may be refused or not.
    Unclear,
}

impl Permission {
    fn forbidden_if(forbidden: bool) -> Self {
        if forbidden {
            Self::Forbidden
        } else {
            Self::Allowed
        }
    }
}

impl Model {
    fn has(&self, ino: Option<Ino>, flags: u32) -> bool {
        ino.and_then(|ino| self.node(ino))
            .is_some_and(|n| n.flags & flags != 0)
    }

    /// What a name leads to, and its directory.
    fn named_at(&self, at: &At) -> (Option<Ino>, Option<Ino>) {
        let dir = self.resolve(&at.dir);
        (dir, dir.and_then(|dir| self.child(dir, at.name)))
    }

    fn may_remove(&self, at: &At) -> bool {
        let (dir, ino) = self.named_at(at);
        !self.has(dir, FORBIDDING) && !self.has(ino, FORBIDDING)
    }

    fn may_write(&self, who: &Ref, offset: Option<u64>, empty: bool) -> Permission {
        let ino = self.resolve(who);
        let size = ino.and_then(|i| self.node(i)).map_or(0, |n| n.size);
        let over = offset.is_some_and(|offset| offset < size);
        if self.has(ino, IMMUTABLE) || (over && self.has(ino, APPEND)) {
            return if empty {
                Permission::Unclear
            } else {
                Permission::Forbidden
            };
        }
        Permission::Allowed
    }

    fn may_rename(&self, from: &At, to: &At, mode: RenameMode) -> bool {
        let ((_, source), (to_dir, target)) = (self.named_at(from), self.named_at(to));
        if !self.may_remove(from) {
            return false;
        }
        match target {
            None => !self.has(to_dir, IMMUTABLE),
            // Nothing happens.
            Some(_) if target == source => true,
            Some(_) if mode == RenameMode::NoReplace => true,
            Some(_) => self.may_remove(to),
        }
    }

    fn may_set(&self, who: &Ref, set: &SetAttributes) -> bool {
        let ino = self.resolve(who);
        let flags = SetAttributes {
            flags: set.flags,
            ..SetAttributes::default()
        };
        let times = SetAttributes {
            atime: set.atime,
            mtime: set.mtime,
            ..flags
        };
        *set == flags || !(self.has(ino, IMMUTABLE) || (self.has(ino, APPEND) && *set != times))
    }

    /// Whether the flags of the inodes that `op` is about let it happen.
    #[must_use]
    pub fn permission(&self, op: &Op) -> Permission {
        let forbidden = match op {
            Op::Create { at, .. } => self.has(self.named_at(at).0, IMMUTABLE),
            Op::Link { from, to } => {
                self.has(self.named_at(to).0, IMMUTABLE) || self.has(self.resolve(from), FORBIDDING)
            }
            Op::Unlink(at) | Op::Rmdir(at) => !self.may_remove(at),
            Op::Rename { from, to, mode } => !self.may_rename(from, to, *mode),
            Op::Set { who, set } => !self.may_set(who, set),
            Op::SetXattr { who, .. } | Op::RemoveXattr { who, .. } => {
                self.has(self.resolve(who), FORBIDDING)
            }
            Op::Write { who, offset, data } => {
                return self.may_write(who, Some(*offset), data.len == 0);
            }
            Op::Append { who, data } => return self.may_write(who, None, data.len == 0),
            Op::Allocate { who, mode, .. } => {
                let erases = !matches!(mode, AllocateMode::Extend | AllocateMode::KeepSize);
                return self.may_write(who, erases.then_some(0), false);
            }
            Op::Collapse { who, .. } | Op::Insert { who, .. } => {
                self.has(self.resolve(who), FORBIDDING)
            }
            Op::Copy {
                from,
                from_offset,
                to,
                to_offset,
                len,
            } => {
                let source = self.resolve(from).and_then(|i| self.node(i));
                let empty = *len == 0 || source.is_none_or(|n| *from_offset >= n.size);
                return self.may_write(to, Some(*to_offset), empty);
            }
            _ => false,
        };
        Permission::forbidden_if(forbidden)
    }
}
