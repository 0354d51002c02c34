//! A directory of the host as a tree.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use razorfs::{FileKind, Time};
use rustix::fs::{AtFlags, CWD, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};

use super::{CHUNK, Meta, Step, Tree, Xattr, is_zero, pack_device, read_full, unpack_device};
use crate::failure::{Failure, Result};

/// A directory of the host.
pub struct HostTree {
    root: PathBuf,
}

impl HostTree {
    /// The tree below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn full(&self, path: &Path) -> PathBuf {
        if path.as_os_str().is_empty() {
            self.root.clone()
        } else {
            self.root.join(path)
        }
    }

    fn failed(&self, what: &str, path: &Path, e: impl Into<std::io::Error>) -> Failure {
        Failure::host(what, self.full(path), &e.into())
    }

    fn fill(
        &self,
        file: &mut File,
        path: &Path,
        data: &mut dyn Read,
        step: Step<'_>,
    ) -> Result<()> {
        let mut buf = vec![0; CHUNK];
        let mut len = 0u64;
        let mut hole = false;
        loop {
            let n = read_full(data, &mut buf).map_err(|e| self.failed("read", path, e))?;
            let Some(piece) = buf.get(..n).filter(|piece| !piece.is_empty()) else {
                break;
            };
            let at = |e| self.failed("write", path, e);
            hole = is_zero(piece);
            if !hole {
                use std::os::unix::fs::FileExt;
                file.write_all_at(piece, len).map_err(at)?;
            }
            len += n as u64;
            step(n as u64)?;
        }
        if hole {
            file.set_len(len)
                .map_err(|e| self.failed("write", path, e))?;
        }
        file.flush().map_err(|e| self.failed("write", path, e))
    }
}

impl Tree for HostTree {
    fn shown(&self, path: &Path) -> PathBuf {
        self.full(path)
    }

    fn find(&self, path: &Path) -> Result<Option<Meta>> {
        match std::fs::symlink_metadata(self.full(path)) {
            Ok(meta) => Ok(Some(from_host(&meta))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.failed("find", path, e)),
        }
    }

    fn resolve(&self, path: &Path) -> Result<PathBuf> {
        let full = self.full(path);
        let real = full
            .canonicalize()
            .map_err(|e| self.failed("find", path, e))?;
        // Absolute paths name themselves in a tree: joining them replaces the root.
        Ok(real)
    }

    fn list(&self, path: &Path) -> Result<Vec<OsString>> {
        let failed = |e| self.failed("read", path, e);
        let entries = std::fs::read_dir(self.full(path)).map_err(failed)?;
        entries
            .map(|entry| entry.map(|e| e.file_name()).map_err(failed))
            .collect()
    }

    fn target(&self, path: &Path) -> Result<OsString> {
        let target = std::fs::read_link(self.full(path));
        Ok(target
            .map_err(|e| self.failed("read", path, e))?
            .into_os_string())
    }

    fn read(&self, path: &Path) -> Result<Box<dyn Read + '_>> {
        let file = File::open(self.full(path)).map_err(|e| self.failed("open", path, e))?;
        Ok(Box::new(file))
    }

    fn write(&self, path: &Path, meta: &Meta, data: &mut dyn Read, step: Step<'_>) -> Result<()> {
        let full = self.full(path);
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(meta.mode & 0o777)
            .open(&full)
            .map_err(|e| self.failed("create", path, e))?;
        self.fill(&mut file, path, data, step).inspect_err(|_| {
            // The failure that is reported is the first one.
            let _ = std::fs::remove_file(&full);
        })
    }

    fn make(&self, path: &Path, meta: &Meta, target: &Path) -> Result<()> {
        let full = self.full(path);
        let outcome = match meta.kind {
            FileKind::Directory => rustix::fs::mkdir(&full, Mode::from_raw_mode(0o700)),
            FileKind::Symlink => rustix::fs::symlink(target, &full),
            kind => {
                let (major, minor) = unpack_device(meta.rdev);
                let device = rustix::fs::makedev(major, minor);
                let file = rustix::fs::FileType::from_raw_mode(kind.mode_bits());
                let mode = Mode::from_raw_mode(meta.mode & 0o777);
                rustix::fs::mknodat(CWD, &full, file, mode, device)
            }
        };
        outcome.map_err(|e| self.failed("create", path, e))
    }

    fn link(&self, existing: &Path, new: &Path) -> Result<()> {
        std::fs::hard_link(self.full(existing), self.full(new))
            .map_err(|e| self.failed("link", new, e))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        std::fs::rename(self.full(from), self.full(to)).map_err(|e| self.failed("rename to", to, e))
    }

    fn remove(&self, path: &Path, directory: bool) -> Result<()> {
        let full = self.full(path);
        let outcome = if directory {
            std::fs::remove_dir(full)
        } else {
            std::fs::remove_file(full)
        };
        outcome.map_err(|e| self.failed("remove", path, e))
    }

    fn dress(&self, path: &Path, meta: &Meta) -> Result<()> {
        let full = self.full(path);
        let failed = |e| self.failed("set the attributes of", path, e);
        let owner = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        let no_follow = AtFlags::SYMLINK_NOFOLLOW;
        match rustix::fs::chownat(CWD, &full, Some(owner.0), Some(owner.1), no_follow) {
            // Only root gives files away; others keep what they create.
            Err(rustix::io::Errno::PERM | rustix::io::Errno::INVAL)
                if !rustix::process::geteuid().is_root() => {}
            other => other.map_err(failed)?,
        }
        if meta.kind != FileKind::Symlink {
            let mode = Mode::from_raw_mode(meta.mode);
            rustix::fs::chmodat(CWD, &full, mode, AtFlags::empty()).map_err(failed)?;
        }
        let times = Timestamps {
            last_access: timespec(meta.atime),
            last_modification: timespec(meta.mtime),
        };
        rustix::fs::utimensat(CWD, &full, &times, no_follow).map_err(failed)
    }

    fn xattrs(&self, path: &Path) -> Result<Vec<Xattr>> {
        let full = self.full(path);
        let failed = |e| self.failed("read the extended attributes of", path, e);
        let mut names = vec![0; 65_536];
        let n = match rustix::fs::llistxattr(&full, names.as_mut_slice()) {
            Err(rustix::io::Errno::NOTSUP) => return Ok(Vec::new()),
            other => other.map_err(failed)?,
        };
        names.truncate(n);
        let mut found = Vec::new();
        for name in names.split(|b| *b == 0).filter(|name| portable(name)) {
            let mut value = vec![0; 65_536];
            match rustix::fs::lgetxattr(&full, name, value.as_mut_slice()) {
                Ok(n) => value.truncate(n),
                Err(rustix::io::Errno::NODATA) => continue,
                Err(e) => return Err(failed(e)),
            }
            found.push((OsString::from_vec(name.to_vec()), value));
        }
        Ok(found)
    }

    fn set_xattr(&self, path: &Path, (name, value): &Xattr) -> Result<()> {
        let full = self.full(path);
        let flags = XattrFlags::empty();
        match rustix::fs::lsetxattr(&full, name.as_os_str(), value.as_slice(), flags) {
            // Some attributes are for root only, and some file systems have none.
            Err(rustix::io::Errno::PERM | rustix::io::Errno::NOTSUP) => Ok(()),
            other => other.map_err(|e| self.failed("set an extended attribute of", path, e)),
        }
    }

    fn sync(&self) -> Result<()> {
        let dir = File::open(&self.root).map_err(|e| self.failed("open", Path::new(""), e))?;
        rustix::fs::syncfs(dir).map_err(|e| self.failed("sync", Path::new(""), e))
    }
}

/// Attributes that mean the same on another file system: not the labels of this host.
fn portable(name: &[u8]) -> bool {
    !name.is_empty() && name != b"security.selinux" && name != b"security.ima"
}

fn timespec(time: Time) -> Timespec {
    Timespec {
        tv_sec: time.secs,
        tv_nsec: i64::from(time.nanos),
    }
}

fn from_host(meta: &std::fs::Metadata) -> Meta {
    let time = |secs, nanos: i64| Time {
        secs,
        nanos: u32::try_from(nanos).unwrap_or_default(),
    };
    Meta {
        kind: FileKind::from_mode(meta.mode()).unwrap_or(FileKind::Regular),
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        size: meta.size(),
        nlink: meta.nlink(),
        ino: meta.ino(),
        dev: meta.dev(),
        rdev: pack_device(meta.rdev()),
        blocks: meta.blocks(),
        atime: time(meta.atime(), meta.atime_nsec()),
        mtime: time(meta.mtime(), meta.mtime_nsec()),
        ctime: time(meta.ctime(), meta.ctime_nsec()),
        btime: None,
    }
}
