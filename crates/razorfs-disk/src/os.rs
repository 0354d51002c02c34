//! The real host: the only user of the host's files.
//!
//! A volume is a directory; [`Name`]s are paths in it. Files and directories are made for their
//! owner alone, since what lies in a volume has permissions of its own.

mod direct;
mod env;
mod lock;
#[cfg(test)]
mod os_tests;
mod own;
mod shared;

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::{Dir, Disk, DiskError, DiskOp, File, Guard, LockMode, Name, OpenHow, Result, Space};
use direct::Uncached;
use lock::LockFile;

pub use env::OsEnv;
pub use shared::SharedMemory;

/// Zeros are written in pieces of this many bytes.
const ZEROS: usize = 1 << 20;
/// The most buffers that the kernel takes in one call (`IOV_MAX`).
const MAX_BUFS: usize = 1024;

/// A volume in a directory of the host.
///
/// From [`Disk::lock`] on it is that very directory, wherever it is moved: what another one at its
/// old path holds is not ours to write to.
#[derive(Clone, Debug)]
pub struct OsDisk {
    root: PathBuf,
    held: Arc<OnceLock<OwnedFd>>,
    /// The open `LOCK`: a copy of what was locked here, or what another process has locked.
    lock: Arc<Mutex<LockFile>>,
}

fn failed(op: DiskOp, path: &Path, source: impl Into<io::Error>) -> DiskError {
    DiskError::new(op, path.display(), source.into())
}

/// Calls again what a signal interrupted.
fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

/// Errors with which a file system says that it does not know a call.
fn is_unknown_call(errno: Errno) -> bool {
    matches!(errno, Errno::OPNOTSUPP | Errno::NOSYS)
}

impl OsDisk {
    /// The volume in the directory `path`. Nothing on the host is touched: a missing directory
    /// shows at the first call, and only [`Self::create`] makes it.
    #[must_use]
    pub fn new(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        // A later change of the working directory must not move the volume.
        let root = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Self {
            root,
            held: Arc::default(),
            lock: Arc::default(),
        }
    }

    /// The same, with the lock that another process took and has handed over: a descriptor of
    /// [`Self::lock_descriptor`]. Nobody else can have locked the volume in between.
    #[must_use]
    pub fn with_lock(path: impl AsRef<Path>, lock: OwnedFd) -> Self {
        let disk = Self::new(path);
        disk.lock_file().handed_over = Some(lock);
        disk
    }

    /// What holds the lock of the volume, once [`Disk::lock`] has taken it: as long as anybody has
    /// a copy of it, nobody else gets the lock, unless the guard is dropped.
    pub fn lock_descriptor(&self) -> Option<io::Result<OwnedFd>> {
        self.lock_file().locked.as_ref().map(OwnedFd::try_clone)
    }

    fn lock_file(&self) -> MutexGuard<'_, LockFile> {
        // What a panic leaves is whole: each is one descriptor.
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, making the directory (not its parents) if it is missing; its name is durable on
    /// return. [`Disk::create_dirs`] makes the rest.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        let disk = Self::new(path);
        if make_dir(&disk.root)?
            && let Some(parent) = disk.root.parent()
        {
            sync_path(parent)?;
        }
        Ok(disk)
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Holds the directory, if it is there and can be reached by its descriptor.
    fn hold(&self) {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if self.held.get().is_none()
            && let Ok(fd) = rustix::fs::open(&self.root, flags, Mode::empty())
            && by_descriptor(&fd).is_dir()
        {
            // Who was faster holds the same.
            let _ = self.held.set(fd);
        }
    }

    /// Where what `path` names is now; the path itself is for messages.
    fn real(&self, path: &Path) -> PathBuf {
        match (self.held.get(), path.strip_prefix(&self.root)) {
            (Some(fd), Ok(below)) => by_descriptor(fd).join(below),
            _ => path.to_owned(),
        }
    }

    fn dir_path(&self, dir: Dir) -> PathBuf {
        match dir {
            Dir::Root => self.root.clone(),
            dir => self.root.join(dir.path()),
        }
    }

    fn file_path(&self, name: &Name) -> PathBuf {
        let mut path = self.dir_path(name.dir);
        path.push(&*name.leaf);
        path
    }
}

/// A directory by its descriptor. Where there is no /proc, nothing is there.
fn by_descriptor(fd: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

/// Makes a directory; answers whether it was missing.
fn make_dir(path: &Path) -> Result<bool> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(true),
        Err(_) if path.is_dir() => Ok(false),
        Err(e) => Err(failed(DiskOp::CreateDirs, path, e)),
    }
}

fn sync_path(path: &Path) -> Result<()> {
    let error = |e: io::Error| failed(DiskOp::SyncDir, path, e);
    let dir = std::fs::File::open(path).map_err(error)?;
    match rustix::fs::fsync(&dir) {
        // Some network file systems know no sync of directories: they have nothing to sync.
        Err(Errno::INVAL) => Ok(()),
        Err(e) if is_unknown_call(e) => Ok(()),
        done => done.map_err(|e| error(e.into())),
    }
}

impl Disk for OsDisk {
    fn open(&self, name: &Name, how: OpenHow) -> Result<Arc<dyn File>> {
        let path = self.file_path(name);
        let real = self.real(&path);
        let mut options = OpenOptions::new();
        options.read(true).mode(0o600);
        match how {
            OpenHow::Read | OpenHow::ReadUncached => &mut options,
            OpenHow::ReadWrite => options.write(true),
            OpenHow::CreateNew => options.write(true).create_new(true),
        };
        let opened = match how {
            OpenHow::ReadUncached => Uncached::open(&real, &options).map(|(f, u)| (f, Some(u))),
            _ => own::open(&real, &options, OFlags::empty()).map(|f| (f, None)),
        };
        let (file, uncached) = opened.map_err(|e| failed(DiskOp::Open, &path, e))?;
        Ok(Arc::new(OsFile {
            file,
            uncached,
            path,
        }))
    }

    fn rename(&self, from: &Name, to: &Name) -> Result<()> {
        let path = self.file_path(from);
        std::fs::rename(self.real(&path), self.real(&self.file_path(to)))
            .map_err(|e| failed(DiskOp::Rename, &path, e))
    }

    fn remove(&self, name: &Name) -> Result<()> {
        let path = self.file_path(name);
        std::fs::remove_file(self.real(&path)).map_err(|e| failed(DiskOp::Remove, &path, e))
    }

    fn list(&self, dir: Dir) -> Result<Vec<Name>> {
        let path = self.dir_path(dir);
        let error = |e: io::Error| failed(DiskOp::List, &path, e);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.real(&path)).map_err(error)? {
            let entry = entry.map_err(error)?;
            // A name that is no UTF-8 is none of ours.
            if let Some(leaf) = entry.file_name().to_str()
                && entry.file_type().map_err(error)?.is_file()
            {
                names.push(Name::new(dir, leaf));
            }
        }
        Ok(names)
    }

    fn sync_dir(&self, dir: Dir) -> Result<()> {
        let path = self.dir_path(dir);
        sync_path(&self.real(&path)).map_err(|e| failed(DiskOp::SyncDir, &path, e.source))
    }

    fn create_dirs(&self) -> Result<()> {
        for dir in Dir::ALL.into_iter().filter(|dir| *dir != Dir::Root) {
            let path = self.dir_path(dir);
            if make_dir(&path)? {
                sync_path(&path)?;
            }
        }
        sync_path(&self.root)
    }

    fn lock(&self, mode: LockMode) -> Result<Box<dyn Guard>> {
        // Whoever uses a volume comes by here first.
        self.hold();
        let real = self.real(&self.root);
        own::check_dirs(&real).map_err(|e| failed(DiskOp::Lock, &self.root, e))?;
        let path = self.root.join("LOCK");
        lock::take(&path, &real.join("LOCK"), mode, &mut self.lock_file())
    }

    fn space(&self) -> Result<Space> {
        let stat = retry(|| rustix::fs::statvfs(self.real(&self.root)));
        let stat = stat.map_err(|e| failed(DiskOp::Space, &self.root, e))?;
        Ok(Space {
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }
}

/// An open file of the host.
struct OsFile {
    file: std::fs::File,
    /// For a file that is read past the host's cache.
    uncached: Option<Uncached>,
    path: PathBuf,
}

impl OsFile {
    fn error(&self, op: DiskOp, source: impl Into<io::Error>) -> DiskError {
        failed(op, &self.path, source)
    }

    fn write_all(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut bufs = bufs.to_vec();
        let mut rest = bufs.as_mut_slice();
        let mut at = offset;
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let (some, _) = rest.split_at(rest.len().min(MAX_BUFS));
            let n = match some {
                [one] => retry(|| rustix::io::pwrite(&self.file, one, at))?,
                some => retry(|| rustix::io::pwritev(&self.file, some, at))?,
            };
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            at += n as u64;
            IoSlice::advance_slices(&mut rest, n);
        }
        Ok(())
    }

    fn fallocate(&self, flags: FallocateFlags, range: &Range<u64>) -> rustix::io::Result<()> {
        let len = range.end - range.start;
        retry(|| rustix::fs::fallocate(&self.file, flags, range.start, len))
    }
}

/// Reads until `buf` is full or the file ends.
fn read_all(file: &std::fs::File, buf: &mut [u8], offset: u64) -> rustix::io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match retry(|| rustix::io::pread(file, &mut *rest, offset + done as u64))? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

impl File for OsFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let read = match &self.uncached {
            None => read_all(&self.file, buf, offset),
            Some(uncached) => uncached.read(&self.file, buf, offset),
        };
        read.map_err(|e| self.error(DiskOp::Read, e))
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<()> {
        self.write_all(bufs, offset)
            .map_err(|e| self.error(DiskOp::Write, e))
    }

    fn sync_data(&self) -> Result<()> {
        // Not called again whatever the error: a second success would prove nothing.
        rustix::fs::fdatasync(&self.file).map_err(|e| self.error(DiskOp::Sync, e))
    }

    fn allocate(&self, range: Range<u64>, zero: bool) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let error = |e: io::Error| self.error(DiskOp::Allocate, e);
        match self.fallocate(FallocateFlags::empty(), &range) {
            Err(e) if is_unknown_call(e) => {
                if self.len()? < range.end {
                    self.set_len(range.end)?;
                }
            }
            done => done.map_err(|e| error(e.into()))?,
        }
        if zero {
            let len = range.end - range.start;
            let zeros = vec![0; ZEROS.min(usize::try_from(len).unwrap_or(ZEROS))];
            let mut at = range.start;
            while at < range.end {
                let n = usize::try_from(range.end - at).unwrap_or(usize::MAX);
                let (part, _) = zeros.split_at(n.min(zeros.len()));
                self.write_all(&[IoSlice::new(part)], at).map_err(error)?;
                at += part.len() as u64;
            }
        }
        Ok(())
    }

    fn punch(&self, range: Range<u64>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.fallocate(flags, &range).map_err(|e| {
            let source = io::Error::from(e);
            let source = match is_unknown_call(e) {
                true => io::Error::new(io::ErrorKind::Unsupported, source),
                false => source,
            };
            self.error(DiskOp::Punch, source)
        })
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let done = retry(|| rustix::fs::ftruncate(&self.file, len));
        done.map_err(|e| self.error(DiskOp::SetLen, e))
    }

    fn len(&self) -> Result<u64> {
        let metadata = self.file.metadata();
        Ok(metadata.map_err(|e| self.error(DiskOp::Len, e))?.len())
    }
}
