//! An open file.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use razorfs_format::op::OpType;

use super::{Dir, Metadata, bytes};
use crate::namespace::{Hint, OpenHow};
use crate::sync::Mutex;
use crate::{Error, Ino, Result, SetAttributes, Volume};

/// How to open a file. The names are those of `std::fs::OpenOptions`.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    read: bool,
    write: bool,
    append: bool,
    truncate: bool,
    create: bool,
    create_new: bool,
    mode: u32,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl OpenOptions {
    /// Neither reading nor writing, until asked for.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            read: false,
            write: false,
            append: false,
            truncate: false,
            create: false,
            create_new: false,
            mode: 0o644,
        }
    }

    /// For reading.
    #[must_use]
    pub const fn read(mut self, yes: bool) -> Self {
        self.read = yes;
        self
    }

    /// For writing.
    #[must_use]
    pub const fn write(mut self, yes: bool) -> Self {
        self.write = yes;
        self
    }

    /// For writing at the end, wherever that is at each write.
    #[must_use]
    pub const fn append(mut self, yes: bool) -> Self {
        self.append = yes;
        self
    }

    /// Empties the file.
    #[must_use]
    pub const fn truncate(mut self, yes: bool) -> Self {
        self.truncate = yes;
        self
    }

    /// Creates the file if it is missing.
    #[must_use]
    pub const fn create(mut self, yes: bool) -> Self {
        self.create = yes;
        self
    }

    /// Creates the file, which must be missing.
    #[must_use]
    pub const fn create_new(mut self, yes: bool) -> Self {
        self.create_new = yes;
        self
    }

    /// Permission bits of a file that is created; 0o644 if not given.
    #[must_use]
    pub const fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Opens `path` in `dir`.
    pub fn open(&self, dir: &Dir, path: impl AsRef<Path>) -> Result<File> {
        let write = self.write || self.append;
        if !write && (self.truncate || self.create || self.create_new) {
            return Err(Error::Invalid("creating and emptying a file is writing"));
        }
        if !write && !self.read {
            return Err(Error::Invalid("neither reading nor writing was asked for"));
        }
        let how = OpenHow {
            write,
            create: self.create || self.create_new,
            create_new: self.create_new,
            truncate: self.truncate && !self.create_new,
            mode: self.mode,
        };
        let path = bytes(path.as_ref());
        let (volume, base) = (dir.volume(), dir.ino());
        loop {
            let ino = match write {
                true => {
                    let ty = OpType::Create;
                    let steps = |op: &mut _| open(op, base, path, how);
                    let hint = Hint {
                        base,
                        path,
                        renames: false,
                    };
                    let mut hints = std::iter::once(hint);
                    volume.inner.transact(ty, false, &mut hints, &steps)?
                }
                false => volume.inner.resolve(base, path, true)?.0,
            };
            volume.pin(ino, 1);
            let file = File {
                volume: volume.clone(),
                ino,
                options: *self,
                position: Mutex::new(0),
            };
            // Another may have removed it before it was pinned.
            match volume.stat(ino) {
                Ok(_) => return Ok(file),
                Err(Error::NotFound) => drop(file),
                Err(e) => return Err(e),
            }
        }
    }
}

fn open(
    op: &mut crate::namespace::Operation<'_>,
    base: Ino,
    path: &[u8],
    how: OpenHow,
) -> Result<Ino> {
    op.open(base, path, how)
}

/// An open file: it stays, also without a name, until this is dropped.
///
/// What is written is visible to all at once, and on the disk after [`File::sync_data`].
pub struct File {
    volume: Volume,
    ino: Ino,
    options: OpenOptions,
    position: Mutex<u64>,
}

impl File {
    /// Inode number.
    #[must_use]
    pub const fn ino(&self) -> Ino {
        self.ino
    }

    fn check_readable(&self) -> Result<()> {
        match self.options.read {
            true => Ok(()),
            false => Err(Error::NotPermitted("the file is not open for reading")),
        }
    }

    fn check_writable(&self) -> Result<()> {
        match self.options.write || self.options.append {
            true => Ok(()),
            false => Err(Error::NotPermitted("the file is not open for writing")),
        }
    }

    /// Reads at `offset` until `buf` is full or the file ends; answers how much that was.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.check_readable()?;
        self.volume.read(self.ino, offset, buf)
    }

    /// Writes all of `data` at `offset`.
    pub fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.check_writable()?;
        match self.volume.write(self.ino, offset, data)? {
            written if written < data.len() => Err(Error::FileTooLarge),
            _ => Ok(()),
        }
    }

    /// Lays `len` bytes of `from`, or all from `from_offset` on if that is 0, over this file at
    /// `offset`, as `FICLONERANGE` does. Data are shared and take no space until one of both files
    /// is written over; what cannot be shared, which is less than 4 KiB of a run of data, or was
    /// written while this ran, is copied. Everything is on the disk first. After an error a first
    /// part may have been cloned.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if the range passes the end of `from`, or the ranges of one file overlap;
    /// [`Error::Unsupported`] if `from` is of another volume.
    pub fn clone_range(&self, from: &Self, from_offset: u64, len: u64, offset: u64) -> Result<()> {
        self.check_writable()?;
        from.check_readable()?;
        if !std::sync::Arc::ptr_eq(&self.volume.inner, &from.volume.inner) {
            return Err(Error::Unsupported("a clone from another volume"));
        }
        if self.options.append {
            return Err(Error::NotPermitted("the file is open for appending"));
        }
        let left = from.metadata()?.len().checked_sub(from_offset);
        let len = match (left, len) {
            (Some(left), 0) => left,
            (Some(left), len) if len <= left => len,
            _ => return Err(Error::Invalid("the range passes the end of the file")),
        };
        if len == 0 {
            return Ok(());
        }
        // What is in RAM could only be copied.
        self.volume.sync()?;
        let mut done = 0;
        while done < len {
            let (at, to) = (from_offset + done, offset.saturating_add(done));
            match self
                .volume
                .copy_range(from.ino, at, self.ino, to, len - done)?
            {
                0 => return Err(Error::Invalid("the file has become shorter meanwhile")),
                n => done += n,
            }
        }
        Ok(())
    }

    /// Takes `len` bytes out of the file at `offset`, as `FALLOC_FL_COLLAPSE_RANGE` does: what
    /// comes after them moves to their place, and the file is `len` bytes shorter.
    ///
    /// All of it happens or nothing, also if the power goes; it is on the disk after
    /// [`File::sync_data`]. What moves is not copied but referred to at its new place: the cost is
    /// about 200 bytes of journal for each 128 KiB of data behind `offset`, holes not counted.
    /// Where more than 1 MiB of that is not in its place on the disk yet, everything is flushed
    /// first, as by [`Volume::checkpoint`]. Holes stay holes, and what [`Volume::allocate`] has
    /// reserved becomes one.
    ///
    /// All that moves has to fit in the journal at once, which grows for it if the host has the
    /// room: with a journal of the usual size that is 5 GiB of data, less if they are in many small
    /// pieces, however large the holes between them.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if `offset` or `len` is not a multiple of 4096 bytes, `len` is 0, or the
    /// range reaches the end of the file, where [`File::set_len`] is right;
    /// [`Error::NotPermitted`] if the file is append-only or immutable; [`Error::Unsupported`] if
    /// too much would move: clone the parts into a new file then, and rename it over this one;
    /// that of reading it if something that would move is damaged.
    /// After an error the file is as it was.
    pub fn collapse_range(&self, offset: u64, len: u64) -> Result<()> {
        self.check_writable()?;
        self.volume.collapse_range(self.ino, offset, len)
    }

    /// Puts a hole of `len` bytes into the file at `offset`, as `FALLOC_FL_INSERT_RANGE` does: what
    /// stands there and after it moves, and the file is `len` bytes longer. What is said of
    /// [`File::collapse_range`] on costs, limits and crashes is so here, too.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if `offset` or `len` is not a multiple of 4096 bytes, `len` is 0, or
    /// `offset` is not before the end of the file, where [`File::set_len`] is right;
    /// [`Error::FileTooLarge`] if the file would pass the largest offset; [`Error::LimitReached`]
    /// if the volume would pass its limit; the others as for [`File::collapse_range`].
    pub fn insert_range(&self, offset: u64, len: u64) -> Result<()> {
        self.check_writable()?;
        self.volume.insert_range(self.ino, offset, len)
    }

    /// Truncates, or extends with zeros that take no space.
    pub fn set_len(&self, size: u64) -> Result<()> {
        self.check_writable()?;
        let set = SetAttributes {
            size: Some(size),
            ..SetAttributes::default()
        };
        self.volume.set_attributes(self.ino, &set)?;
        Ok(())
    }

    /// Everything written so far, to this file and to all others, is on the disk on return.
    pub fn sync_data(&self) -> Result<()> {
        self.volume.sync()
    }

    /// The same as [`File::sync_data`]: attributes are never behind the data.
    pub fn sync_all(&self) -> Result<()> {
        self.volume.sync()
    }

    /// What is known of the file.
    pub fn metadata(&self) -> Result<Metadata> {
        Ok(Metadata::new(self.volume.stat(self.ino)?))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.volume.unpin(self.ino, 1);
    }
}

impl Read for &File {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut position = self.position.lock();
        let read = self.read_at(buf, *position)?;
        *position += read as u64;
        Ok(read)
    }
}

impl Write for &File {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut position = self.position.lock();
        if self.options.append {
            let offset = self.volume.append(self.ino, data)?;
            *position = offset + data.len() as u64;
            return Ok(data.len());
        }
        self.check_writable()?;
        let written = self.volume.write(self.ino, *position, data)?;
        *position += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for &File {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let mut position = self.position.lock();
        let to = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(by) => position.checked_add_signed(by),
            SeekFrom::End(by) => self.metadata()?.len().checked_add_signed(by),
        };
        *position = to.ok_or(Error::Invalid("a position before the file's first byte"))?;
        Ok(*position)
    }
}

impl Read for File {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buf)
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

impl Seek for File {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        (&*self).seek(to)
    }
}
