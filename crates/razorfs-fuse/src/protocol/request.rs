//! Requests, typed.
//!
//! A message is a header of 40 bytes (`len u32 | opcode u32 | unique u64 | node u64 | uid u32 |
//! gid u32 | pid u32 | extensions u16 (in 8 bytes) | padding u16`), the fixed part of the request,
//! its strings or data, and extensions, which we do not ask for and pass over.

use razorfs::Time;

use super::init::{Dialect, InitIn};
use super::opcode;
use super::take::{Short, Take};

/// Bytes of the header of a request.
pub const IN_HEADER: usize = 40;

/// Flags within requests.
pub mod flag {
    /// SETATTR: the mode is given.
    pub const ATTR_MODE: u32 = 1 << 0;
    /// SETATTR: the owner is given.
    pub const ATTR_UID: u32 = 1 << 1;
    /// SETATTR: the group is given.
    pub const ATTR_GID: u32 = 1 << 2;
    /// SETATTR: the size is given.
    pub const ATTR_SIZE: u32 = 1 << 3;
    /// SETATTR: the time of access is given.
    pub const ATTR_ATIME: u32 = 1 << 4;
    /// SETATTR: the time of modification is given.
    pub const ATTR_MTIME: u32 = 1 << 5;
    /// SETATTR: the time of access is the present.
    pub const ATTR_ATIME_NOW: u32 = 1 << 7;
    /// SETATTR: the time of modification is the present.
    pub const ATTR_MTIME_NOW: u32 = 1 << 8;
    /// SETATTR: the time of change is given.
    pub const ATTR_CTIME: u32 = 1 << 10;
    /// SETATTR: setuid and setgid are to be cleared.
    pub const ATTR_KILL_SUIDGID: u32 = 1 << 11;
    /// WRITE: setuid and setgid are to be cleared.
    pub const WRITE_KILL_SUIDGID: u32 = 1 << 2;
    /// SETXATTR: setgid is to be cleared with the access list.
    pub const SETXATTR_ACL_KILL_SGID: u32 = 1;
}

/// Who asks for what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Length of the message.
    pub len: u32,
    /// [`opcode`].
    pub opcode: u32,
    /// The answer must carry it.
    pub unique: u64,
    /// The inode.
    pub node: u64,
    /// User of the caller.
    pub uid: u32,
    /// Group of the caller.
    pub gid: u32,
    /// Process of the caller.
    pub pid: u32,
    /// Length of the extensions at the end, in units of 8 bytes.
    pub extensions: u16,
}

/// Set in [`Header::unique`] of a request that was sent to another server of this mount before.
pub const RESENT: u64 = 1 << 63;

impl Header {
    /// The number of the request, the same when it is sent again.
    #[must_use]
    pub const fn request(&self) -> u64 {
        self.unique & !RESENT
    }

    /// Whether it was sent to another server of this mount before.
    #[must_use]
    pub const fn is_resent(&self) -> bool {
        self.unique & RESENT != 0
    }
}

/// A request.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Who asks.
    pub header: Header,
    /// For what.
    pub operation: Operation<'a>,
}

/// A message that is not what its header says. It is answered with EIO if `unique` is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("malformed {} request of {len} bytes", opcode::name(*.opcode))]
pub struct Malformed {
    /// The number to answer to; 0 if the header is incomplete.
    pub unique: u64,
    /// Kind of the request.
    pub opcode: u32,
    /// Bytes that came.
    pub len: usize,
}

/// What SETATTR changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SetAttr {
    /// Which of the fields count: `flag::ATTR_*`.
    pub valid: u32,
    /// Size.
    pub size: u64,
    /// Access.
    pub atime: Time,
    /// Modification.
    pub mtime: Time,
    /// Change.
    pub ctime: Time,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What the kernel forgets: pairs of inode and number of lookups.
#[derive(Clone, Copy, Debug)]
pub struct Forget<'a>(&'a [u8]);

impl Iterator for Forget<'_> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        let mut t = Take(self.0);
        let pair = (t.u64().ok()?, t.u64().ok()?);
        self.0 = t.0;
        Some(pair)
    }
}

/// What is asked for. The inode it is about, or the directory of the first name, is in the header.
#[derive(Clone, Debug)]
#[expect(
    missing_docs,
    reason = "the fields carry the names that the protocol has for them"
)]
pub enum Operation<'a> {
    Init(InitIn),
    Destroy,
    Lookup {
        name: &'a [u8],
    },
    Forget {
        nlookup: u64,
    },
    BatchForget(Forget<'a>),
    GetAttr,
    SetAttr(SetAttr),
    Statx {
        mask: u32,
    },
    ReadLink,
    Symlink {
        name: &'a [u8],
        target: &'a [u8],
    },
    MkNod {
        name: &'a [u8],
        mode: u32,
        rdev: u32,
        umask: u32,
    },
    MkDir {
        name: &'a [u8],
        mode: u32,
        umask: u32,
    },
    Create {
        name: &'a [u8],
        flags: u32,
        mode: u32,
        umask: u32,
    },
    TmpFile {
        flags: u32,
        mode: u32,
        umask: u32,
    },
    Unlink {
        name: &'a [u8],
    },
    RmDir {
        name: &'a [u8],
    },
    Rename {
        name: &'a [u8],
        new_parent: u64,
        new_name: &'a [u8],
        flags: u32,
    },
    Link {
        ino: u64,
        name: &'a [u8],
    },
    Open {
        flags: u32,
    },
    Release,
    Flush,
    Read {
        offset: u64,
        size: u32,
        flags: u32,
    },
    Write {
        offset: u64,
        data: &'a [u8],
        write_flags: u32,
    },
    Fsync,
    SyncFs,
    StatFs,
    SetXattr {
        name: &'a [u8],
        value: &'a [u8],
        flags: u32,
        setxattr_flags: u32,
    },
    GetXattr {
        name: &'a [u8],
        size: u32,
    },
    ListXattr {
        size: u32,
    },
    RemoveXattr {
        name: &'a [u8],
    },
    OpenDir,
    ReadDir {
        offset: u64,
        size: u32,
        flags: u32,
        plus: bool,
    },
    ReleaseDir,
    Access,
    Interrupt {
        unique: u64,
    },
    Fallocate {
        offset: u64,
        length: u64,
        mode: u32,
    },
    Lseek {
        offset: u64,
        whence: u32,
    },
    CopyFileRange {
        off_in: u64,
        to: u64,
        off_out: u64,
        len: u64,
        wide: bool,
    },
    Ioctl {
        cmd: u32,
        arg: u64,
        input: &'a [u8],
        out_size: u32,
    },
    Unknown,
}

/// The header of a message.
#[must_use]
pub fn header_of(message: &[u8]) -> Option<Header> {
    read_header(&mut Take(message)).ok()
}

/// Whether a message says that none follows that was sent to another server before: those come
/// first in the kernel's queue. What it forgets and interrupts comes beside that.
#[must_use]
pub fn is_first_sent(message: &[u8]) -> bool {
    const BESIDE: [u32; 3] = [opcode::FORGET, opcode::BATCH_FORGET, opcode::INTERRUPT];
    header_of(message).is_some_and(|h| !h.is_resent() && !BESIDE.contains(&h.opcode))
}

/// Bytes of data that a message brings or asks for, as far as its shape tells.
#[must_use]
pub fn data_of(message: &[u8]) -> u64 {
    let asked = |message: &[u8]| {
        let mut t = Take(message);
        let header = read_header(&mut t)?;
        if header.opcode != opcode::READ {
            return Ok(0);
        }
        // The handle and the offset come before.
        t.skip(16)?;
        t.u32().map(u64::from)
    };
    asked(message).unwrap_or(0).max(message.len() as u64)
}

fn read_header(t: &mut Take<'_>) -> Result<Header, Short> {
    let header = Header {
        len: t.u32()?,
        opcode: t.u32()?,
        unique: t.u64()?,
        node: t.u64()?,
        uid: t.u32()?,
        gid: t.u32()?,
        pid: t.u32()?,
        extensions: t.u16()?,
    };
    t.skip(2)?;
    Ok(header)
}

/// Reads one message. Any bytes give a request or an error.
pub fn parse(message: &[u8], dialect: Dialect) -> Result<Request<'_>, Malformed> {
    let mut t = Take(message);
    let header = read_header(&mut t).map_err(|Short| Malformed {
        unique: 0,
        opcode: 0,
        len: message.len(),
    })?;
    let malformed = Malformed {
        unique: header.unique,
        opcode: header.opcode,
        len: message.len(),
    };
    if header.len as usize != message.len() {
        return Err(malformed);
    }
    let body = t.0.len().checked_sub(usize::from(header.extensions) * 8);
    let mut body = Take(body.and_then(|n| t.0.get(..n)).ok_or(malformed)?);
    let operation = read_operation(header.opcode, &mut body, dialect);
    let operation = operation.map_err(|Short| malformed)?;
    Ok(Request { header, operation })
}

fn read_operation<'a>(
    code: u32,
    t: &mut Take<'a>,
    dialect: Dialect,
) -> Result<Operation<'a>, Short> {
    Ok(match code {
        opcode::INIT => Operation::Init(InitIn::read(t)?),
        opcode::DESTROY => Operation::Destroy,
        opcode::INTERRUPT => Operation::Interrupt { unique: t.u64()? },
        opcode::STATFS => Operation::StatFs,
        opcode::FORGET => Operation::Forget { nlookup: t.u64()? },
        opcode::BATCH_FORGET => {
            let count = t.u32()? as usize;
            t.skip(4)?;
            let bytes = count.checked_mul(16).ok_or(Short)?;
            Operation::BatchForget(Forget(t.slice(bytes)?))
        }
        opcode::LOOKUP..=opcode::LINK
        | opcode::CREATE
        | opcode::TMPFILE
        | opcode::RENAME2
        | opcode::STATX => read_name_operation(code, t)?,
        opcode::SETXATTR..=opcode::REMOVEXATTR => read_xattr_operation(code, t, dialect)?,
        _ => read_file_operation(code, t)?,
    })
}

fn read_name_operation<'a>(code: u32, t: &mut Take<'a>) -> Result<Operation<'a>, Short> {
    Ok(match code {
        opcode::LOOKUP => Operation::Lookup { name: t.string()? },
        opcode::GETATTR => Operation::GetAttr,
        opcode::SETATTR => Operation::SetAttr(read_setattr(t)?),
        opcode::STATX => {
            t.skip(20)?;
            Operation::Statx { mask: t.u32()? }
        }
        opcode::READLINK => Operation::ReadLink,
        opcode::SYMLINK => Operation::Symlink {
            name: t.string()?,
            target: t.string()?,
        },
        opcode::MKNOD => {
            let (mode, rdev, umask) = (t.u32()?, t.u32()?, t.u32()?);
            t.skip(4)?;
            Operation::MkNod {
                name: t.string()?,
                mode,
                rdev,
                umask,
            }
        }
        opcode::MKDIR => {
            let (mode, umask) = (t.u32()?, t.u32()?);
            Operation::MkDir {
                name: t.string()?,
                mode,
                umask,
            }
        }
        opcode::CREATE | opcode::TMPFILE => {
            let (flags, mode, umask) = (t.u32()?, t.u32()?, t.u32()?);
            t.skip(4)?;
            if code == opcode::TMPFILE {
                return Ok(Operation::TmpFile { flags, mode, umask });
            }
            Operation::Create {
                name: t.string()?,
                flags,
                mode,
                umask,
            }
        }
        opcode::UNLINK => Operation::Unlink { name: t.string()? },
        opcode::RMDIR => Operation::RmDir { name: t.string()? },
        opcode::RENAME | opcode::RENAME2 => {
            let new_parent = t.u64()?;
            let mut flags = 0;
            if code == opcode::RENAME2 {
                flags = t.u32()?;
                t.skip(4)?;
            }
            let (name, new_name) = (t.string()?, t.string()?);
            Operation::Rename {
                name,
                new_parent,
                new_name,
                flags,
            }
        }
        opcode::LINK => {
            let ino = t.u64()?;
            Operation::Link {
                ino,
                name: t.string()?,
            }
        }
        _ => Operation::Unknown,
    })
}

fn read_setattr(t: &mut Take<'_>) -> Result<SetAttr, Short> {
    let valid = t.u32()?;
    // Padding and the handle.
    t.skip(12)?;
    let size = t.u64()?;
    // The owner of locks.
    t.skip(8)?;
    let secs = [t.i64()?, t.i64()?, t.i64()?];
    let nanos = [t.u32()?, t.u32()?, t.u32()?];
    let time = |secs, nanos: u32| Time {
        secs,
        nanos: nanos.min(999_999_999),
    };
    let mode = t.u32()?;
    t.skip(4)?;
    let (uid, gid) = (t.u32()?, t.u32()?);
    t.skip(4)?;
    let ([a, m, c], [an, mn, cn]) = (secs, nanos);
    Ok(SetAttr {
        valid,
        size,
        atime: time(a, an),
        mtime: time(m, mn),
        ctime: time(c, cn),
        mode,
        uid,
        gid,
    })
}

fn read_xattr_operation<'a>(
    code: u32,
    t: &mut Take<'a>,
    dialect: Dialect,
) -> Result<Operation<'a>, Short> {
    Ok(match code {
        opcode::SETXATTR => {
            let (size, flags) = (t.u32()?, t.u32()?);
            let mut setxattr_flags = 0;
            if dialect.setxattr_ext {
                setxattr_flags = t.u32()?;
                t.skip(4)?;
            }
            let name = t.string()?;
            let value = t.slice(size as usize)?;
            Operation::SetXattr {
                name,
                value,
                flags,
                setxattr_flags,
            }
        }
        opcode::GETXATTR => {
            let size = t.u32()?;
            t.skip(4)?;
            Operation::GetXattr {
                name: t.string()?,
                size,
            }
        }
        opcode::LISTXATTR => Operation::ListXattr { size: t.u32()? },
        opcode::REMOVEXATTR => Operation::RemoveXattr { name: t.string()? },
        _ => Operation::Unknown,
    })
}

fn read_file_operation<'a>(code: u32, t: &mut Take<'a>) -> Result<Operation<'a>, Short> {
    Ok(match code {
        opcode::OPEN => Operation::Open { flags: t.u32()? },
        opcode::RELEASE => Operation::Release,
        opcode::FLUSH => Operation::Flush,
        opcode::FSYNC | opcode::FSYNCDIR => Operation::Fsync,
        opcode::SYNCFS => Operation::SyncFs,
        opcode::OPENDIR => Operation::OpenDir,
        opcode::RELEASEDIR => Operation::ReleaseDir,
        opcode::ACCESS => Operation::Access,
        opcode::READ | opcode::READDIR | opcode::READDIRPLUS => read_read(code, t)?,
        opcode::WRITE => {
            t.skip(8)?;
            let (offset, size, write_flags) = (t.u64()?, t.u32()?, t.u32()?);
            t.skip(16)?;
            Operation::Write {
                offset,
                data: t.slice(size as usize)?,
                write_flags,
            }
        }
        opcode::FALLOCATE => {
            t.skip(8)?;
            Operation::Fallocate {
                offset: t.u64()?,
                length: t.u64()?,
                mode: t.u32()?,
            }
        }
        opcode::LSEEK => {
            t.skip(8)?;
            Operation::Lseek {
                offset: t.u64()?,
                whence: t.u32()?,
            }
        }
        opcode::COPY_FILE_RANGE | opcode::COPY_FILE_RANGE_64 => {
            t.skip(8)?;
            let (off_in, to) = (t.u64()?, t.u64()?);
            t.skip(8)?;
            let (off_out, len) = (t.u64()?, t.u64()?);
            let wide = code == opcode::COPY_FILE_RANGE_64;
            Operation::CopyFileRange {
                off_in,
                to,
                off_out,
                len,
                wide,
            }
        }
        opcode::IOCTL => {
            t.skip(12)?;
            let (cmd, arg) = (t.u32()?, t.u64()?);
            let (in_size, out_size) = (t.u32()?, t.u32()?);
            Operation::Ioctl {
                cmd,
                arg,
                input: t.slice(in_size as usize)?,
                out_size,
            }
        }
        _ => Operation::Unknown,
    })
}

fn read_read<'a>(code: u32, t: &mut Take<'a>) -> Result<Operation<'a>, Short> {
    t.skip(8)?;
    let (offset, size) = (t.u64()?, t.u32()?);
    // Flags of the request and the owner of locks come before those of the file.
    t.skip(12)?;
    let flags = t.u32()?;
    if code == opcode::READ {
        return Ok(Operation::Read {
            offset,
            size,
            flags,
        });
    }
    Ok(Operation::ReadDir {
        offset,
        size,
        flags,
        plus: code == opcode::READDIRPLUS,
    })
}
