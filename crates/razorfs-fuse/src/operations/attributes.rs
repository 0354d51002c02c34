//! Requests about attributes.

use razorfs::redo::as_request;
use razorfs::{Error, Ino, SetAttributes, XattrMode};
use razorfs_format::record::inode_flags;

use super::privileges::{CAPABILITY, without_set_ids};
use super::{Errno, Operations, Result};
use crate::clock::now;
use crate::protocol::{self, Operation, Request, SetAttr, flag, flags};
use crate::transport::Reply;

/// The ioctl that makes everything done before durable: `_IO('R', 'S')`, on any file or directory
/// of the mount. sync(2) and syncfs(2) do not reach a FUSE server.
pub const SYNC_IOCTL: u32 = 0x5253;

/// FS_IOC_SHUTDOWN.
const SHUTDOWN: u32 = 0x8004_587d;

const GET_FLAGS: u32 = 0x8008_6601;
const SET_FLAGS: u32 = 0x4008_6602;

/// The extended form, which the kernel asks for before it sets either.
const GET_FSX: u32 = 0x801c_581f;
const SET_FSX: u32 = 0x401c_5820;
/// Bytes of that form: flags and 24 bytes that we have nothing for.
const FSX: usize = 28;

/// Flags of the extended form and ours.
const FSX_FLAGS: [(u32, u32); 2] = [(0x8, inode_flags::IMMUTABLE), (0x10, inode_flags::APPEND)];

/// Flags of `chattr` and ours.
const FLAGS: [(u32, u32); 4] = [
    (0x4, inode_flags::ZSTD),
    (0x10, inode_flags::IMMUTABLE),
    (0x20, inode_flags::APPEND),
    (0x400, inode_flags::NO_COMPRESSION),
];

impl Operations {
    pub(super) fn get_attributes(&self, ino: Ino, out: &mut Vec<u8>) -> Result {
        protocol::put_attributes(out, &self.fs.stat(ino)?, self.validity);
        Ok(())
    }

    pub(super) fn statx(&self, ino: Ino, out: &mut Vec<u8>) -> Result {
        protocol::put_statx(out, &self.fs.stat(ino)?, self.validity);
        Ok(())
    }

    pub(super) fn statfs(&self, out: &mut Vec<u8>) -> Result {
        protocol::put_statfs(out, &self.fs.space()?);
        Ok(())
    }

    pub(super) fn set_attributes(
        &self,
        request: &Request<'_>,
        set: &SetAttr,
        out: &mut Vec<u8>,
    ) -> Result {
        let ino = Ino(request.header.node);
        let has = |bit| set.valid & bit != 0;
        let time = |given, present, value| match (has(present), has(given)) {
            // The kernel's idea of the present is as much as a tick old.
            (true, _) => Some(now()),
            (false, true) => Some(value),
            (false, false) => None,
        };
        let mut changes = SetAttributes {
            mode: has(flag::ATTR_MODE).then_some(set.mode & 0o7777),
            uid: has(flag::ATTR_UID).then_some(set.uid),
            gid: has(flag::ATTR_GID).then_some(set.gid),
            size: has(flag::ATTR_SIZE).then_some(set.size),
            atime: time(flag::ATTR_ATIME, flag::ATTR_ATIME_NOW, set.atime),
            mtime: time(flag::ATTR_MTIME, flag::ATTR_MTIME_NOW, set.mtime),
            ctime: has(flag::ATTR_CTIME).then_some(set.ctime),
            flags: None,
        };
        if has(flag::ATTR_KILL_SUIDGID) {
            let mode = match changes.mode {
                Some(mode) => mode,
                None => self.fs.stat(ino)?.mode & 0o7777,
            };
            if changes.mode.is_some() || without_set_ids(mode) != mode {
                changes.mode = Some(without_set_ids(mode));
            }
        }
        let stat = match self.applied(request) {
            // Done again it would undo what others have written or set since.
            Some(_) => self.fs.stat(ino)?,
            None => {
                self.check_times(ino, set)?;
                let set = || self.fs.set_attributes(ino, &changes);
                as_request(self.number(request), set)?
            }
        };
        if has(flag::ATTR_KILL_SUIDGID) {
            self.remove_capability(ino)?;
        }
        if changes.mode.is_some() {
            self.privileges.changed(ino);
        }
        protocol::put_attributes(out, &stat, self.validity);
        Ok(())
    }

    /// Fails if times other than the present are given to a file that is append-only.
    fn check_times(&self, ino: Ino, set: &SetAttr) -> Result {
        let is_given = |given, present| set.valid & (given | present) == given;
        let any = is_given(flag::ATTR_ATIME, flag::ATTR_ATIME_NOW)
            || is_given(flag::ATTR_MTIME, flag::ATTR_MTIME_NOW);
        if any && self.fs.stat(ino)?.flags & inode_flags::APPEND != 0 {
            return Err(Errno(libc::EPERM));
        }
        Ok(())
    }

    pub(super) fn remove_capability(&self, ino: Ino) -> Result {
        match self.fs.get_xattr(ino, CAPABILITY) {
            Ok(_) => Ok(self.fs.remove_xattr(ino, CAPABILITY)?),
            Err(Error::NoAttribute | Error::Unsupported(_)) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    pub(super) fn xattr(&self, request: &Request<'_>, out: &mut Vec<u8>) -> Result {
        let ino = Ino(request.header.node);
        match request.operation {
            Operation::SetXattr {
                name,
                value,
                flags,
                setxattr_flags,
            } => {
                self.check_name(name)?;
                let mode = match flags as i32 {
                    0 => XattrMode::Set,
                    libc::XATTR_CREATE => XattrMode::Create,
                    libc::XATTR_REPLACE => XattrMode::Replace,
                    _ => return Err(Errno(libc::EINVAL)),
                };
                if setxattr_flags & flag::SETXATTR_ACL_KILL_SGID != 0 {
                    // First: whatever happens between the two, nobody gets more rights by it.
                    self.clear_setgid(ino)?;
                }
                if self.applied(request).is_none() {
                    let set = || self.fs.set_xattr(ino, name, value, mode);
                    as_request(self.number(request), set)?;
                }
                if name == CAPABILITY {
                    self.privileges.changed(ino);
                }
                Ok(())
            }
            Operation::GetXattr { name, size } => {
                self.check_name(name)?;
                sized(&self.fs.get_xattr(ino, name)?, size, out)
            }
            Operation::ListXattr { size } => {
                let mut list = Vec::new();
                for name in self.fs.list_xattr(ino)? {
                    // As everywhere, only root sees these.
                    if request.header.uid == 0 || !name.starts_with(b"trusted.") {
                        list.extend_from_slice(&name);
                        list.push(0);
                    }
                }
                sized(&list, size, out)
            }
            Operation::RemoveXattr { name } => {
                self.check_name(name)?;
                if self.applied(request).is_some() {
                    return Ok(());
                }
                let remove = || self.fs.remove_xattr(ino, name);
                Ok(as_request(self.number(request), remove)?)
            }
            _ => Err(Errno(libc::ENOSYS)),
        }
    }

    /// Where the kernel does not know access lists they would be kept and not obeyed, so they are
    /// refused.
    fn check_name(&self, name: &[u8]) -> Result {
        if name.starts_with(b"system.posix_acl_") && !self.has(flags::POSIX_ACL) {
            return Err(Errno(libc::EOPNOTSUPP));
        }
        Ok(())
    }

    fn clear_setgid(&self, ino: Ino) -> Result {
        let mode = self.fs.stat(ino)?.mode & 0o7777;
        if mode & libc::S_ISGID != 0 {
            let changes = SetAttributes {
                mode: Some(mode & !libc::S_ISGID),
                ..SetAttributes::default()
            };
            self.fs.set_attributes(ino, &changes)?;
        }
        Ok(())
    }

    pub(super) fn ioctl(&self, request: &Request<'_>, reply: Reply, out: &mut Vec<u8>) {
        let ino = Ino(request.header.node);
        let Operation::Ioctl {
            cmd, arg, input, ..
        } = request.operation
        else {
            return self.fail(Errno(libc::ENOSYS), reply);
        };
        let result = match cmd {
            SYNC_IOCTL => {
                protocol::put_ioctl(out, &[]);
                return self.sync(reply, out);
            }
            SHUTDOWN => return self.shut_down(&request.header, arg, reply),
            GET_FLAGS => self.get_flags(ino, &FLAGS, 4, out),
            SET_FLAGS => self.set_flags(request, &FLAGS, input, out),
            GET_FSX => self.get_flags(ino, &FSX_FLAGS, FSX, out),
            SET_FSX => self.set_flags(request, &FSX_FLAGS, input, out),
            _ => Err(Errno(libc::ENOTTY)),
        };
        self.finish(result, reply, out);
    }

    /// Answers with the flags in the words of `table`, in a form of `len` bytes.
    fn get_flags(&self, ino: Ino, table: &[(u32, u32)], len: usize, out: &mut Vec<u8>) -> Result {
        let ours = self.fs.stat(ino)?.flags;
        let theirs = table.iter().filter(|(_, our)| ours & our != 0);
        let theirs = theirs.fold(0u32, |flags, (their, _)| flags | their);
        let mut form = theirs.to_ne_bytes().to_vec();
        form.resize(len, 0);
        protocol::put_ioctl(out, &form);
        Ok(())
    }

    /// Sets the flags that `table` has a word for and leaves the others. Kernels before 5.13 do not
    /// check who asks for it.
    fn set_flags(
        &self,
        request: &Request<'_>,
        table: &[(u32, u32)],
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result {
        if self.applied(request).is_some() {
            protocol::put_ioctl(out, &[]);
            return Ok(());
        }
        let (ino, caller) = (Ino(request.header.node), request.header.uid);
        let (theirs, rest) = input.split_first_chunk().ok_or(Errno(libc::EINVAL))?;
        let theirs = u32::from_ne_bytes(*theirs);
        let known = table
            .iter()
            .fold((0, 0), |(t, o), (their, our)| (t | their, o | our));
        if theirs & !known.0 != 0 || rest.iter().any(|&b| b != 0) {
            return Err(Errno(libc::EOPNOTSUPP));
        }
        let set = table.iter().filter(|(their, _)| theirs & their != 0);
        let set = set.fold(0, |flags, (_, our)| flags | our);
        let others = inode_flags::APPEND
            | inode_flags::IMMUTABLE
            | inode_flags::ZSTD
            | inode_flags::NO_COMPRESSION;
        let stat = self.fs.stat(ino)?;
        let guarded = inode_flags::IMMUTABLE | inode_flags::APPEND;
        let guards_change = (stat.flags ^ set) & known.1 & guarded != 0;
        if caller != 0 && (caller != stat.uid || guards_change) {
            return Err(Errno(libc::EPERM));
        }
        let kept = stat.flags & others & !known.1;
        let changes = SetAttributes {
            flags: Some(kept | set),
            ..SetAttributes::default()
        };
        let set = || self.fs.set_attributes(ino, &changes);
        as_request(self.number(request), set)?;
        protocol::put_ioctl(out, &[]);
        Ok(())
    }
}

/// Answers with a value that the caller has `size` bytes for, or with its size if that is 0.
fn sized(value: &[u8], size: u32, out: &mut Vec<u8>) -> Result {
    if size == 0 {
        let len = u32::try_from(value.len()).map_err(|_| Errno(libc::E2BIG))?;
        protocol::put_size(out, len);
    } else if value.len() > size as usize {
        return Err(Errno(libc::ERANGE));
    } else {
        out.extend_from_slice(value);
    }
    Ok(())
}
