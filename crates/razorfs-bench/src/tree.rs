//! The file trees that workloads run on: directories of the host, and volumes without a mount.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use razorfs::{FileKind, Volume};

use crate::failure::{At, Result};

/// Attributes of a file that is unpacked.
#[derive(Clone, Copy)]
pub struct Unpacked {
    /// Permission bits.
    pub mode: u32,
    /// Seconds since 1970.
    pub modified: u64,
}

/// An open file.
pub trait Handle: Send {
    /// Writes at the end.
    fn append(&mut self, data: &[u8]) -> io::Result<()>;
    /// Fills the buffer as far as there is something.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Returns when it is on the disk.
    fn sync(&self) -> io::Result<()>;
}

/// A file tree; paths are relative to its root.
pub trait Tree: Sync {
    /// Makes a directory.
    fn mkdir(&self, path: &Path) -> Result<()>;
    /// Removes an empty directory.
    fn rmdir(&self, path: &Path) -> Result<()>;
    /// Creates a file.
    fn write(&self, path: &Path, data: &[u8], attributes: Option<Unpacked>) -> Result<()>;
    /// Reads a file; the buffer keeps its capacity.
    fn read(&self, path: &Path, buf: &mut Vec<u8>) -> Result<()>;
    /// Size of a file.
    fn stat(&self, path: &Path) -> Result<u64>;
    /// Names in a directory, and which are directories and files.
    fn list(&self, path: &Path) -> Result<Vec<(OsString, Kind)>>;
    /// Removes a file.
    fn unlink(&self, path: &Path) -> Result<()>;
    /// Moves a file.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;
    /// Makes a symbolic link.
    fn symlink(&self, target: &Path, link: &Path) -> Result<()>;
    /// Opens or creates a file.
    fn open(&self, path: &Path) -> Result<Box<dyn Handle>>;
}

/// What a name in a directory is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Dir,
    /// A regular file.
    File,
    /// Something else.
    Other,
}

/// A directory of the host, mounted or not.
pub struct HostTree(pub PathBuf);

impl Handle for fs::File {
    fn append(&mut self, data: &[u8]) -> io::Result<()> {
        self.write_all(data)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buf, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_all()
    }
}

impl Tree for HostTree {
    fn mkdir(&self, path: &Path) -> Result<()> {
        fs::create_dir(self.0.join(path)).at("make", path)
    }

    fn rmdir(&self, path: &Path) -> Result<()> {
        fs::remove_dir(self.0.join(path)).at("remove", path)
    }

    fn write(&self, path: &Path, data: &[u8], attributes: Option<Unpacked>) -> Result<()> {
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        if let Some(unpacked) = attributes {
            options.mode(unpacked.mode);
        }
        let mut file = options.open(self.0.join(path)).at("create", path)?;
        file.write_all(data).at("write", path)?;
        if let Some(unpacked) = attributes {
            let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(unpacked.modified);
            file.set_modified(modified).at("set times of", path)?;
        }
        Ok(())
    }

    fn read(&self, path: &Path, buf: &mut Vec<u8>) -> Result<()> {
        buf.clear();
        let mut file = fs::File::open(self.0.join(path)).at("open", path)?;
        file.read_to_end(buf).at("read", path)?;
        Ok(())
    }

    fn stat(&self, path: &Path) -> Result<u64> {
        let metadata = fs::symlink_metadata(self.0.join(path)).at("stat", path)?;
        Ok(metadata.len())
    }

    fn list(&self, path: &Path) -> Result<Vec<(OsString, Kind)>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.0.join(path)).at("list", path)? {
            let entry = entry.at("list", path)?;
            let kind = entry.file_type().at("list", path)?;
            names.push((entry.file_name(), kind_of(kind.is_dir(), kind.is_file())));
        }
        Ok(names)
    }

    fn unlink(&self, path: &Path) -> Result<()> {
        fs::remove_file(self.0.join(path)).at("remove", path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        fs::rename(self.0.join(from), self.0.join(to)).at("rename", from)
    }

    fn symlink(&self, target: &Path, link: &Path) -> Result<()> {
        std::os::unix::fs::symlink(target, self.0.join(link)).at("link", link)
    }

    fn open(&self, path: &Path) -> Result<Box<dyn Handle>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).append(true).create(true);
        let file = options.open(self.0.join(path)).at("open", path)?;
        Ok(Box::new(file))
    }
}

fn kind_of(dir: bool, file: bool) -> Kind {
    match (dir, file) {
        (true, _) => Kind::Dir,
        (false, true) => Kind::File,
        (false, false) => Kind::Other,
    }
}

/// A volume in this process.
pub struct LibraryTree(pub Volume);

struct LibraryHandle(razorfs::File);

impl Handle for LibraryHandle {
    fn append(&mut self, data: &[u8]) -> io::Result<()> {
        self.0.write_all(data)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset).map_err(io::Error::other)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_all().map_err(io::Error::other)
    }
}

impl Tree for LibraryTree {
    fn mkdir(&self, path: &Path) -> Result<()> {
        self.0.root().create_dir(path).at("make", path)
    }

    fn rmdir(&self, path: &Path) -> Result<()> {
        self.0.root().remove_dir(path).at("remove", path)
    }

    fn write(&self, path: &Path, data: &[u8], _attributes: Option<Unpacked>) -> Result<()> {
        self.0.root().write(path, data).at("write", path)
    }

    fn read(&self, path: &Path, buf: &mut Vec<u8>) -> Result<()> {
        *buf = self.0.root().read(path).at("read", path)?;
        Ok(())
    }

    fn stat(&self, path: &Path) -> Result<u64> {
        let metadata = self.0.root().symlink_metadata(path).at("stat", path)?;
        Ok(metadata.len())
    }

    fn list(&self, path: &Path) -> Result<Vec<(OsString, Kind)>> {
        let mut names = Vec::new();
        for entry in self
            .0
            .root()
            .read_dir(Path::new("/").join(path))
            .at("list", path)?
        {
            let entry = entry.at("list", path)?;
            let kind = match entry.kind() {
                FileKind::Directory => Kind::Dir,
                FileKind::Regular => Kind::File,
                _ => Kind::Other,
            };
            names.push((entry.file_name().to_os_string(), kind));
        }
        Ok(names)
    }

    fn unlink(&self, path: &Path) -> Result<()> {
        self.0.root().remove_file(path).at("remove", path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.0.root().rename(from, to).at("rename", from)
    }

    fn symlink(&self, target: &Path, link: &Path) -> Result<()> {
        self.0.root().symlink(target, link).at("link", link)
    }

    fn open(&self, path: &Path) -> Result<Box<dyn Handle>> {
        let options = razorfs::library::OpenOptions::new();
        let options = options.read(true).append(true).create(true);
        let file = options.open(&self.0.root(), path).at("open", path)?;
        Ok(Box::new(LibraryHandle(file)))
    }
}
