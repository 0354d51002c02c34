//! What goes over the socket once a program and the daemon have greeted each other.
//!
//! A message is a length (u32) and so many bytes, at most [`MAX`]. A program sends requests, each a
//! byte that says which and what belongs to it; the daemon answers each with an errno (u32) and
//! either, where that is 0, what was asked for, or the text of the error. Numbers are little
//! endian; bytes have their length (u32) before them, and lists their number (u32). Whatever does
//! not fit exactly is refused.

mod bytes;

use std::io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
use std::io::{self, Read, Write};
use std::path::PathBuf;

use razorfs::{FileKind, XattrMode};

use crate::others::Kind;
use crate::{DirEntry, Point};
pub use bytes::{Get, Put};

/// Version of all this.
pub const VERSION: u64 = 1;
/// A message is never longer.
pub const MAX: usize = 16 << 20;
/// A path is never longer; it is that of the kernel.
pub const MAX_PATH: usize = 4096;
/// Bytes of a file in one message.
pub const PIECE: usize = 1 << 20;

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct How {
    /// Bits: read 1, write 2, append 4, truncate 8, create 16, create new 32.
    pub bits: u8,
    /// Permission bits of a file that is created.
    pub mode: u32,
}

/// A change by path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    CreateDir(PathBuf),
    CreateDirAll(PathBuf),
    Write(PathBuf, Vec<u8>),
    RemoveFile(PathBuf),
    RemoveDir(PathBuf),
    RemoveDirAll(PathBuf),
    Rename(PathBuf, PathBuf),
    /// What is there stays.
    RenameNew(PathBuf, PathBuf),
    Exchange(PathBuf, PathBuf),
    HardLink(PathBuf, PathBuf),
    /// Target and link.
    Symlink(PathBuf, PathBuf),
    SetPermissions(PathBuf, u32),
}

/// What a program asks for. Paths begin at the root of the volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// What is known of a file; the last symbolic link is followed or not.
    Metadata(PathBuf, bool),
    ReadLink(PathBuf),
    /// Entries after a cookie.
    ReadDir(PathBuf, u64),
    Open(PathBuf, How),
    Close(u32),
    Stat(u32),
    /// Handle, offset and length.
    ReadAt(u32, u64, u32),
    /// Handle, offset and data.
    WriteAt(u32, u64, Vec<u8>),
    Append(u32, Vec<u8>),
    SetLen(u32, u64),
    Sync,
    /// All of them or none, and whether it is durable before the answer.
    Change(Vec<Step>, bool),
    /// Path, which is followed, and the name of an attribute.
    GetXattr(PathBuf, Vec<u8>),
    SetXattr(PathBuf, Vec<u8>, Vec<u8>, XattrMode),
    ListXattr(PathBuf),
    RemoveXattr(PathBuf, Vec<u8>),
    /// Snapshots or branches.
    List(Kind),
    Create(Kind, String),
    Delete(Kind, String),
}

/// What comes back.
pub enum Answer<'a> {
    /// An errno and a text.
    Failed(i32, String),
    Done(&'a [u8]),
}

impl<'a> Answer<'a> {
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut get = Get(bytes);
        match get.u32()? {
            0 => Some(Self::Done(get.0)),
            errno => {
                let text = String::from_utf8_lossy(get.0).into_owned();
                Some(Self::Failed(i32::try_from(errno).ok()?, text))
            }
        }
    }
}

impl Step {
    fn encode(&self, put: &mut Put) {
        let (word, paths) = match self {
            Self::CreateDir(path) => (0, [Some(path), None]),
            Self::CreateDirAll(path) => (1, [Some(path), None]),
            Self::Write(path, _) => (2, [Some(path), None]),
            Self::RemoveFile(path) => (3, [Some(path), None]),
            Self::RemoveDir(path) => (4, [Some(path), None]),
            Self::RemoveDirAll(path) => (5, [Some(path), None]),
            Self::Rename(from, to) => (6, [Some(from), Some(to)]),
            Self::HardLink(original, link) => (7, [Some(original), Some(link)]),
            Self::Symlink(target, link) => (8, [Some(target), Some(link)]),
            Self::SetPermissions(path, _) => (9, [Some(path), None]),
            Self::RenameNew(from, to) => (10, [Some(from), Some(to)]),
            Self::Exchange(a, b) => (11, [Some(a), Some(b)]),
        };
        put.u8(word);
        for path in paths.into_iter().flatten() {
            put.path(path);
        }
        match self {
            Self::Write(_, data) => put.bytes(data),
            Self::SetPermissions(_, mode) => put.u32(*mode),
            _ => {}
        }
    }

    fn decode(get: &mut Get<'_>) -> Option<Self> {
        let word = get.u8()?;
        let path = get.path()?;
        Some(match word {
            0 => Self::CreateDir(path),
            1 => Self::CreateDirAll(path),
            2 => Self::Write(path, get.vec()?),
            3 => Self::RemoveFile(path),
            4 => Self::RemoveDir(path),
            5 => Self::RemoveDirAll(path),
            6 => Self::Rename(path, get.path()?),
            7 => Self::HardLink(path, get.path()?),
            8 => Self::Symlink(path, get.path()?),
            9 => Self::SetPermissions(path, get.u32()?),
            10 => Self::RenameNew(path, get.path()?),
            11 => Self::Exchange(path, get.path()?),
            _ => return None,
        })
    }

    /// The same on the same paths, for who does not look at what is written.
    pub fn without_data(&self) -> Self {
        match self {
            Self::Write(path, _) => Self::Write(path.clone(), Vec::new()),
            other => other.clone(),
        }
    }
}

impl Request {
    /// As a message; none if a path or the whole is too long for one.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let mut put = Put::default();
        self.put(&mut put);
        (!put.is_too_long && put.out.len() <= MAX).then_some(put.out)
    }

    fn put(&self, put: &mut Put) {
        match self {
            Self::Metadata(path, follow) => {
                put.at(0, path);
                put.u8((*follow).into());
            }
            Self::ReadLink(path) => put.at(1, path),
            Self::ReadDir(path, after) => {
                put.at(2, path);
                put.u64(*after);
            }
            Self::Open(path, how) => {
                put.at(3, path);
                put.u8(how.bits);
                put.u32(how.mode);
            }
            Self::Close(handle) => put.handle(4, *handle),
            Self::Stat(handle) => put.handle(5, *handle),
            Self::ReadAt(handle, offset, len) => {
                put.handle(6, *handle);
                put.u64(*offset);
                put.u32(*len);
            }
            Self::WriteAt(handle, offset, data) => {
                put.handle(7, *handle);
                put.u64(*offset);
                put.bytes(data);
            }
            Self::Append(handle, data) => {
                put.handle(8, *handle);
                put.bytes(data);
            }
            Self::SetLen(handle, len) => {
                put.handle(9, *handle);
                put.u64(*len);
            }
            Self::Sync => put.u8(10),
            Self::Change(steps, synced) => {
                put.u8(11);
                put.u8((*synced).into());
                put.list(steps, |put, step| step.encode(put));
            }
            Self::GetXattr(path, name) => {
                put.at(12, path);
                put.bytes(name);
            }
            Self::SetXattr(path, name, value, mode) => {
                put.at(13, path);
                put.bytes(name);
                put.bytes(value);
                put.u8(match mode {
                    XattrMode::Set => 0,
                    XattrMode::Create => 1,
                    XattrMode::Replace => 2,
                });
            }
            Self::ListXattr(path) => put.at(14, path),
            Self::RemoveXattr(path, name) => {
                put.at(15, path);
                put.bytes(name);
            }
            Self::List(kind) => {
                put.u8(16);
                put.kind(*kind);
            }
            Self::Create(kind, name) => put.point(17, *kind, name),
            Self::Delete(kind, name) => put.point(18, *kind, name),
        }
    }

    /// From a message; nothing if it is none.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut get = Get(bytes);
        let request = Self::take(&mut get)?;
        get.0.is_empty().then_some(request)
    }

    fn take(get: &mut Get<'_>) -> Option<Self> {
        Some(match get.u8()? {
            0 => Self::Metadata(get.path()?, get.bool()?),
            1 => Self::ReadLink(get.path()?),
            2 => Self::ReadDir(get.path()?, get.u64()?),
            3 => {
                let path = get.path()?;
                let (bits, mode) = (get.u8()?, get.u32()?);
                Self::Open(path, How { bits, mode })
            }
            4 => Self::Close(get.u32()?),
            5 => Self::Stat(get.u32()?),
            6 => Self::ReadAt(get.u32()?, get.u64()?, get.u32()?),
            7 => Self::WriteAt(get.u32()?, get.u64()?, get.vec()?),
            8 => Self::Append(get.u32()?, get.vec()?),
            9 => Self::SetLen(get.u32()?, get.u64()?),
            10 => Self::Sync,
            11 => {
                let synced = get.bool()?;
                Self::Change(get.list(Step::decode)?, synced)
            }
            12 => Self::GetXattr(get.path()?, get.vec()?),
            13 => {
                let (path, name, value) = (get.path()?, get.vec()?, get.vec()?);
                let mode = match get.u8()? {
                    0 => XattrMode::Set,
                    1 => XattrMode::Create,
                    2 => XattrMode::Replace,
                    _ => return None,
                };
                Self::SetXattr(path, name, value, mode)
            }
            14 => Self::ListXattr(get.path()?),
            15 => Self::RemoveXattr(get.path()?, get.vec()?),
            16 => Self::List(get.kind()?),
            17 => Self::Create(get.kind()?, get.string()?),
            18 => Self::Delete(get.kind()?, get.string()?),
            _ => return None,
        })
    }
}

/// Entries of a directory, each with the cookie after which the next ones come.
pub fn entries(get: &mut Get<'_>) -> Option<Vec<(u64, DirEntry)>> {
    get.list(|get| {
        let (cookie, ino) = (get.u64()?, get.ino()?);
        let kind = FileKind::from_mode(get.u32()?)?;
        let name = get.os_string()?;
        Some((cookie, DirEntry { name, ino, kind }))
    })
}

/// Snapshots or branches.
pub fn points(get: &mut Get<'_>) -> Option<Vec<Point>> {
    get.list(|get| {
        Some(Point {
            name: get.string()?,
            id: get.u64()?,
            time: get.time()?,
            inodes: get.u64()?,
            bytes: get.u64()?,
        })
    })
}

/// Sends a message.
pub fn send(stream: &mut impl Write, message: &[u8]) -> io::Result<()> {
    let len = u32::try_from(message.len()).map_err(io::Error::other)?;
    let mut whole = Vec::with_capacity(message.len() + 4);
    whole.extend_from_slice(&len.to_le_bytes());
    whole.extend_from_slice(message);
    stream.write_all(&whole)
}

/// Receives a message; nothing at the end. A time limit for reading is for the rest of a message
/// that has begun.
pub fn receive(stream: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut len = [0; 4];
    let (first, others) = len.split_at_mut(1);
    loop {
        match stream.read(first) {
            Ok(0) => return Ok(None),
            Ok(_) => break,
            Err(e) if matches!(e.kind(), WouldBlock | TimedOut | Interrupted) => {}
            Err(e) => return Err(e),
        }
    }
    stream.read_exact(others)?;
    let len = u64::from(u32::from_le_bytes(len));
    if len > MAX as u64 {
        return Err(io::Error::other("the message is too long"));
    }
    // As it comes: a length alone takes no memory.
    let mut message = Vec::new();
    let read = stream.take(len).read_to_end(&mut message)?;
    if (read as u64) < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(message))
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
