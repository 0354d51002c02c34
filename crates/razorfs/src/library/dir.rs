//! A directory, and the calls by path below it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use razorfs_format::op::OpType;

use super::{File, Metadata, OpenOptions, ReadDir, Transaction, bytes};
use crate::namespace::{Hint, Operation};
use crate::{Error, FileKind, Ino, RenameMode, Result, SetAttributes, Volume};

/// Content up to this size is written in one transaction, so that a crash leaves the old or the
/// new content and nothing in between.
const WRITE_WHOLE: usize = 1 << 20;

/// A directory of a volume. It is held: if it is removed meanwhile, calls fail with
/// [`Error::NotFound`].
pub struct Dir {
    volume: Volume,
    ino: Ino,
}

impl Clone for Dir {
    fn clone(&self) -> Self {
        Self::new(self.volume.clone(), self.ino)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        self.volume.unpin(self.ino, 1);
    }
}

impl Dir {
    pub(crate) fn new(volume: Volume, ino: Ino) -> Self {
        volume.pin(ino, 1);
        Self { volume, ino }
    }

    /// The volume that it is in.
    #[must_use]
    pub const fn volume(&self) -> &Volume {
        &self.volume
    }

    /// Inode number.
    #[must_use]
    pub const fn ino(&self) -> Ino {
        self.ino
    }

    /// Does `steps` as one operation on `paths`.
    fn change<T, const N: usize>(
        &self,
        ty: OpType,
        paths: [&[u8]; N],
        steps: &dyn Fn(&mut Operation<'_>) -> Result<T>,
    ) -> Result<T> {
        let moves = ty == OpType::Rename;
        let mut hints = paths.into_iter().map(|path| Hint {
            base: self.ino,
            path,
            renames: ty != OpType::Setattr,
        });
        self.volume
            .inner
            .transact(ty, moves, &mut hints, &|op| steps(op))
    }

    /// The directory at `path`.
    pub fn open_dir(&self, path: impl AsRef<Path>) -> Result<Self> {
        let (ino, inode) = self
            .volume
            .inner
            .resolve(self.ino, bytes(path.as_ref()), true)?;
        if !inode.is_dir() {
            return Err(Error::NotADirectory);
        }
        Ok(Self::new(self.volume.clone(), ino))
    }

    /// Creates a directory; the one above it must exist.
    pub fn create_dir(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = bytes(path.as_ref());
        self.change(OpType::Mkdir, [path], &|op| {
            op.make_dir(self.ino, path, 0o755)
        })?;
        Ok(())
    }

    /// Creates a directory and all that are missing on the way to it, as one operation. It is fine
    /// if it is there already.
    pub fn create_dir_all(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = bytes(path.as_ref());
        if path.is_empty() {
            return Ok(());
        }
        self.change(OpType::Mkdir, [path], &|op| {
            op.make_dirs(self.ino, path, 0o755)
        })?;
        Ok(())
    }

    /// Makes `data` the content of a file, which is created if it is missing. Up to 1 MiB, a crash
    /// leaves the old content or the new one and nothing in between.
    pub fn write(&self, path: impl AsRef<Path>, data: impl AsRef<[u8]>) -> Result<()> {
        let (path, data) = (path.as_ref(), data.as_ref());
        if data.len() > WRITE_WHOLE {
            return self.create(path)?.write_at(data, 0);
        }
        write_whole(&self.volume, self.ino, bytes(path), data)
    }

    /// The content of a file.
    pub fn read(&self, path: impl AsRef<Path>) -> Result<Vec<u8>> {
        let file = self.open(path)?;
        let mut content = Vec::new();
        loop {
            // The size may change meanwhile; a short read is the end.
            let size = file.metadata()?.len();
            let old = content.len();
            let more = size.saturating_sub(old as u64).max(1);
            let more = usize::try_from(more).map_err(|_| Error::FileTooLarge)?;
            // A file that is all hole may be larger than any memory.
            let room = content.try_reserve_exact(more);
            room.map_err(|_| Error::FileTooLarge)?;
            content.resize(old + more, 0);
            let part = content.get_mut(old..).unwrap_or_default();
            let got = file.read_at(part, old as u64)?;
            content.truncate(old + got);
            if got < more {
                return Ok(content);
            }
        }
    }

    /// The content of a file that is UTF-8.
    pub fn read_to_string(&self, path: impl AsRef<Path>) -> Result<String> {
        let content = self.read(path)?;
        String::from_utf8(content).map_err(|_| Error::Invalid("the content is not UTF-8"))
    }

    /// Opens a file that exists, for reading and, where its flags allow, writing.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<File> {
        let options = OpenOptions::new().read(true);
        let path = path.as_ref();
        match self.volume.inner.store.check_writable() {
            Ok(()) => match options.write(true).open(self, path) {
                Err(Error::IsADirectory) => options.open(self, path),
                other => other,
            },
            Err(_) => options.open(self, path),
        }
    }

    /// Opens a file for reading and writing, empty; it is created if it is missing.
    pub fn create(&self, path: impl AsRef<Path>) -> Result<File> {
        let options = OpenOptions::new().read(true).write(true);
        options.create(true).truncate(true).open(self, path)
    }

    /// Removes a name of a file, and with its last name the file.
    pub fn remove_file(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = bytes(path.as_ref());
        self.change(OpType::Unlink, [path], &|op| op.remove_file(self.ino, path))
    }

    /// Removes an empty directory.
    pub fn remove_dir(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = bytes(path.as_ref());
        self.change(OpType::Rmdir, [path], &|op| op.remove_dir(self.ino, path))
    }

    /// Removes a directory and all below it, entry by entry; a symbolic link is removed, not
    /// followed. What others add meanwhile may make it fail with [`Error::NotEmpty`].
    pub fn remove_dir_all(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let (top, inode) = self.volume.inner.resolve(self.ino, bytes(path), false)?;
        if !inode.is_dir() {
            return Err(Error::NotADirectory);
        }
        let mut stack = vec![(Ino::ROOT, Box::default(), top, false)];
        while let Some((parent, name, dir, emptied)) = stack.pop() {
            if emptied {
                match dir == top {
                    true => self.remove_dir(path)?,
                    false => self.volume.rmdir(parent, &name)?,
                }
                continue;
            }
            if dir != top {
                // This fails where a forged entry leads back up.
                self.volume.lookup(parent, &name)?;
            }
            stack.push((parent, name, dir, true));
            let mut files = Vec::new();
            self.volume.collect_children(dir, 0, &mut |entry| {
                match entry.kind {
                    FileKind::Directory => stack.push((dir, entry.name, entry.ino, false)),
                    _ => files.push(entry.name),
                }
                true
            })?;
            for name in files {
                match self.volume.unlink(dir, &name) {
                    Ok(()) | Err(Error::NotFound) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(())
    }

    /// Moves a name, replacing a file or an empty directory that is there.
    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
        self.rename_with(from, to, RenameMode::Replace)
    }

    /// Moves a name; `mode` says what becomes of one that is there.
    pub fn rename_with(
        &self,
        from: impl AsRef<Path>,
        to: impl AsRef<Path>,
        mode: RenameMode,
    ) -> Result<()> {
        let (from, to) = (bytes(from.as_ref()), bytes(to.as_ref()));
        self.change(OpType::Rename, [from, to], &|op| {
            op.rename_path(self.ino, from, to, mode)
        })
    }

    /// Gives the file `original` one more name, `link`.
    pub fn hard_link(&self, original: impl AsRef<Path>, link: impl AsRef<Path>) -> Result<()> {
        let (original, link) = (bytes(original.as_ref()), bytes(link.as_ref()));
        self.change(OpType::Link, [original, link], &|op| {
            op.hard_link(self.ino, original, link)
        })
    }

    /// Creates a symbolic link at `link` that leads to `target`.
    pub fn symlink(&self, target: impl AsRef<Path>, link: impl AsRef<Path>) -> Result<()> {
        let (target, link) = (bytes(target.as_ref()), bytes(link.as_ref()));
        self.change(OpType::Symlink, [link], &|op| {
            op.symlink(self.ino, target, link)
        })
    }

    /// Where a symbolic link leads.
    pub fn read_link(&self, path: impl AsRef<Path>) -> Result<PathBuf> {
        let (ino, _) = self
            .volume
            .inner
            .resolve(self.ino, bytes(path.as_ref()), false)?;
        let target = self.volume.read_link(ino)?;
        Ok(OsString::from_vec(target.into_vec()).into())
    }

    /// What is known of a file; symbolic links are followed.
    pub fn metadata(&self, path: impl AsRef<Path>) -> Result<Metadata> {
        let (ino, _) = self
            .volume
            .inner
            .resolve(self.ino, bytes(path.as_ref()), true)?;
        Ok(Metadata::new(self.volume.stat(ino)?))
    }

    /// What is known of a file; a last symbolic link is not followed.
    pub fn symlink_metadata(&self, path: impl AsRef<Path>) -> Result<Metadata> {
        let (ino, _) = self
            .volume
            .inner
            .resolve(self.ino, bytes(path.as_ref()), false)?;
        Ok(Metadata::new(self.volume.stat(ino)?))
    }

    /// Whether something is there; symbolic links are followed.
    pub fn exists(&self, path: impl AsRef<Path>) -> Result<bool> {
        match self.metadata(path) {
            Ok(_) => Ok(true),
            Err(Error::NotFound | Error::NotADirectory) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// The entries of a directory.
    pub fn read_dir(&self, path: impl AsRef<Path>) -> Result<ReadDir> {
        let dir = self.open_dir(path.as_ref())?;
        Ok(ReadDir::new(self.volume.clone(), dir.ino, path.as_ref()))
    }

    /// Copies content and permission bits of a file; answers the number of bytes.
    pub fn copy(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<u64> {
        let source = OpenOptions::new().read(true).open(self, from)?;
        let mode = source.metadata()?.mode();
        let to = OpenOptions::new()
            .write(true)
            .create(true)
            .mode(mode)
            .open(self, to)?;
        if to.ino() == source.ino() {
            return Err(Error::Invalid("a file is not copied to itself"));
        }
        to.set_len(0)?;
        let set = SetAttributes {
            mode: Some(mode),
            ..SetAttributes::default()
        };
        self.volume.set_attributes(to.ino(), &set)?;
        self.volume
            .copy_range(source.ino(), 0, to.ino(), 0, i64::MAX as u64)
    }

    /// Sets permission bits; symbolic links are followed.
    pub fn set_permissions(&self, path: impl AsRef<Path>, mode: u32) -> Result<()> {
        let set = SetAttributes {
            mode: Some(mode),
            ..SetAttributes::default()
        };
        let path = bytes(path.as_ref());
        self.change(OpType::Setattr, [path], &|op| {
            op.set_by_path(self.ino, path, &set)
        })
    }

    /// Begins a transaction on paths from here.
    pub fn transaction(&self) -> Transaction {
        Transaction::new(self.clone())
    }
}

fn write_whole<'a>(volume: &'a Volume, base: Ino, path: &'a [u8], data: &'a [u8]) -> Result<()> {
    let write = |op: &mut Operation<'a>| op.write_file(base, path, data);
    let renames = false;
    let mut hints = std::iter::once(Hint {
        base,
        path,
        renames,
    });
    volume
        .inner
        .transact(OpType::Write, false, &mut hints, &write)
}
