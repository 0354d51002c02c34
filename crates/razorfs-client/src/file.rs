//! An open file.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use razorfs::Stat;

use crate::wire::{How, PIECE, Request};
use crate::{Client, Dir};

/// How a file is opened; as [`razorfs::OpenOptions`].
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    how: How,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl OpenOptions {
    /// Nothing is asked for yet.
    #[must_use]
    pub const fn new() -> Self {
        let how = How {
            bits: 0,
            mode: 0o644,
        };
        Self { how }
    }

    const fn with(mut self, bit: u8, yes: bool) -> Self {
        self.how.bits = match yes {
            true => self.how.bits | bit,
            false => self.how.bits & !bit,
        };
        self
    }

    /// For reading.
    #[must_use]
    pub const fn read(self, yes: bool) -> Self {
        self.with(1, yes)
    }

    /// For writing.
    #[must_use]
    pub const fn write(self, yes: bool) -> Self {
        self.with(2, yes)
    }

    /// For writing at the end, wherever that is then.
    #[must_use]
    pub const fn append(self, yes: bool) -> Self {
        self.with(4, yes)
    }

    /// Empties the file.
    #[must_use]
    pub const fn truncate(self, yes: bool) -> Self {
        self.with(8, yes)
    }

    /// Creates the file if it is missing.
    #[must_use]
    pub const fn create(self, yes: bool) -> Self {
        self.with(16, yes)
    }

    /// Creates the file, which must be missing.
    #[must_use]
    pub const fn create_new(self, yes: bool) -> Self {
        self.with(32, yes)
    }

    /// Permission bits of a file that is created.
    #[must_use]
    pub const fn mode(mut self, mode: u32) -> Self {
        self.how.mode = mode;
        self
    }

    /// Opens a file.
    pub fn open(&self, dir: &Dir, path: impl AsRef<Path>) -> io::Result<File> {
        let client = dir.client().clone();
        let request = Request::Open(dir.full(path), self.how);
        let handle = client.ask(request, |get| get.u32())?;
        Ok(File {
            client,
            handle,
            appends: self.how.bits & 4 != 0,
            position: Mutex::new(0),
        })
    }
}

/// An open file. It stays, whatever becomes of its names, until this is dropped or the connection
/// ends.
pub struct File {
    client: Client,
    handle: u32,
    appends: bool,
    position: Mutex<u64>,
}

impl Drop for File {
    fn drop(&mut self) {
        // If the connection is lost it is closed.
        let _ = self.client.tell(Request::Close(self.handle));
    }
}

impl File {
    /// Reads from an offset; 0 bytes at the end.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let len = buf.len().min(PIECE);
        let len = u32::try_from(len).map_err(io::Error::other)?;
        let request = Request::ReadAt(self.handle, offset, len);
        self.client.ask(request, |get| {
            let bytes = get.bytes()?;
            buf.get_mut(..bytes.len())?.copy_from_slice(bytes);
            Some(bytes.len())
        })
    }

    /// Writes all of `data` at an offset.
    pub fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut at = offset;
        for piece in data.chunks(PIECE) {
            let request = Request::WriteAt(self.handle, at, piece.to_vec());
            self.client.tell(request)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Makes the file shorter, or longer with zeros.
    pub fn set_len(&self, len: u64) -> io::Result<()> {
        let request = Request::SetLen(self.handle, len);
        self.client.tell(request)
    }

    /// What is known of it.
    pub fn metadata(&self) -> io::Result<Stat> {
        self.client
            .ask(Request::Stat(self.handle), |get| get.stat())
    }

    /// What was written is on the disk when this returns.
    pub fn sync_all(&self) -> io::Result<()> {
        self.client.sync()
    }

    /// The same: there is no cheaper one.
    pub fn sync_data(&self) -> io::Result<()> {
        self.sync_all()
    }
}

impl Read for File {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buf)
    }
}

impl Read for &File {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut position = self.position.lock().unwrap_or_else(PoisonError::into_inner);
        let read = self.read_at(buf, *position)?;
        *position += read as u64;
        Ok(read)
    }
}

impl Write for File {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        (&*self).write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for &File {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut position = self.position.lock().unwrap_or_else(PoisonError::into_inner);
        let piece = data.get(..PIECE).unwrap_or(data);
        if self.appends {
            let request = Request::Append(self.handle, piece.to_vec());
            *position = self.client.ask(request, |get| get.u64())?;
        } else {
            self.write_at(piece, *position)?;
            *position += piece.len() as u64;
        }
        Ok(piece.len())
    }

    /// Nothing is held back here.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for File {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let end = match to {
            SeekFrom::End(_) => self.metadata()?.size,
            _ => 0,
        };
        let mut position = self.position.lock().unwrap_or_else(PoisonError::into_inner);
        let next = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => position.checked_add_signed(by),
            SeekFrom::End(by) => end.checked_add_signed(by),
        };
        let next = next.ok_or(io::ErrorKind::InvalidInput)?;
        *position = next;
        Ok(next)
    }
}
