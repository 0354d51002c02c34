//! A directory of the host as a tree.

mod attributes;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::ops::Deref;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use razorfs::{FileKind, SeekFor, Time};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, SeekFrom, XattrFlags};
use rustix::io::Errno;

use super::{
    CHUNK, Meta, Piece, Source, Step, Tree, Xattr, is_zero, pack_device, pieces_by, read_full,
    unpack_device,
};
use crate::failure::{Failure, Result};

pub use attributes::Attributes;

/// A directory of the host.
///
/// The tree of a mount is held by a descriptor, and every path in it is looked up with that as the
/// root: a symbolic link then means what it means in the volume when it is not mounted, and cannot
/// lead us to a file of the host, not even if it takes the place of a directory meanwhile.
pub struct HostTree {
    root: PathBuf,
    held: Option<Held>,
}

struct Held {
    root: OwnedFd,
    /// Of what volume it is a mount, if it is one.
    volume: Option<PathBuf>,
    /// What symbolic links on the way to something do.
    links: ResolveFlags,
}

/// Where something is: a path that counts as long as this lives.
struct Located {
    path: PathBuf,
    _dir: Option<OwnedFd>,
}

impl Deref for Located {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

impl HostTree {
    /// The tree below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        Self { root, held: None }
    }

    /// The tree of `volume`, which is mounted on `dir`.
    pub fn of_mount(dir: &Path, volume: &Path) -> Result<Self> {
        let links = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        Self::held(dir, Some(volume.to_path_buf()), links)
    }

    /// The tree below a directory, in which no symbolic link is followed.
    pub fn without_links(dir: &Path) -> Result<Self> {
        Self::held(dir, None, NO_LINKS)
    }

    fn held(dir: &Path, volume: Option<PathBuf>, links: ResolveFlags) -> Result<Self> {
        let root = rustix::fs::open(dir, DIRECTORY, Mode::empty())
            .map_err(|e| Failure::host("use", dir, &e.into()))?;
        Ok(Self {
            root: dir.to_path_buf(),
            held: Some(Held {
                root,
                volume,
                links,
            }),
        })
    }

    /// The tree below a directory of this one, out of which no symbolic link leads, either.
    pub fn below(mut self, path: &Path) -> std::io::Result<Self> {
        if let Some(held) = &mut self.held {
            held.root = held.open(path, DIRECTORY)?;
        }
        self.root = self.root.join(path);
        Ok(self)
    }

    fn has_no_links(&self) -> bool {
        self.held
            .as_ref()
            .is_some_and(|held| held.links == NO_LINKS)
    }

    fn full(&self, path: &Path) -> PathBuf {
        if path.as_os_str().is_empty() {
            self.root.clone()
        } else {
            self.root.join(path)
        }
    }

    /// Where `path` is. What its last part leads to, if it is a symbolic link, is not looked at.
    fn locate(&self, path: &Path) -> std::io::Result<Located> {
        let Some(held) = &self.held else {
            return locate_on_host(self.full(path));
        };
        let (parent, name) = match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => (parent, name),
            _ => (Path::new(""), OsStr::new(".")),
        };
        let dir = held.open(parent, DIRECTORY)?;
        Ok(Located {
            path: at_descriptor(&dir).join(name),
            _dir: Some(dir),
        })
    }

    /// Opens `path`, which must not be a symbolic link, unless it is the root.
    fn open(&self, path: &Path, flags: OFlags) -> std::io::Result<OwnedFd> {
        let mut flags = flags | OFlags::CLOEXEC;
        flags.set(OFlags::NOFOLLOW, !path.as_os_str().is_empty());
        let fd = rustix::fs::open(&*self.locate(path)?, flags, Mode::empty());
        Ok(fd?)
    }

    fn failed(&self, what: &str, path: &Path, e: impl Into<std::io::Error>) -> Failure {
        Failure::host(what, self.full(path), &e.into())
    }

    fn fill(
        &self,
        file: &mut File,
        path: &Path,
        data: &mut dyn Source,
        step: Step<'_>,
    ) -> Result<()> {
        let mut buf = vec![0; CHUNK];
        let mut len = 0u64;
        let mut hole = false;
        loop {
            let gap = data.hole();
            let gap = gap.map_err(|e| self.failed("read", path, e))?;
            if gap > 0 {
                hole = true;
                len = len.saturating_add(gap);
                step(gap)?;
                continue;
            }
            let n = read_full(data, &mut buf).map_err(|e| self.failed("read", path, e))?;
            let Some(piece) = buf.get(..n).filter(|piece| !piece.is_empty()) else {
                break;
            };
            let at = |e| self.failed("write", path, e);
            hole = is_zero(piece);
            if !hole {
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

impl Held {
    /// Opens a path in the tree, through symbolic links where these are followed.
    fn open(&self, path: &Path, flags: OFlags) -> std::io::Result<OwnedFd> {
        let mut inside = self.links;
        let mut dir = None;
        let mut steps = steps(path).into_iter().peekable();
        while let Some(step) = steps.next() {
            let flags = match steps.peek() {
                Some(_) => DIRECTORY,
                None => flags | OFlags::CLOEXEC,
            };
            let from = dir.as_ref().unwrap_or(&self.root);
            dir = Some(open_inside(from, &step, flags, inside)?);
            // A later step does not begin at the root, which a link would lead back to.
            inside = NO_LINKS;
        }
        dir.ok_or_else(|| Errno::NOENT.into())
    }
}

fn open_inside(
    dir: &OwnedFd,
    path: &Path,
    flags: OFlags,
    inside: ResolveFlags,
) -> std::io::Result<OwnedFd> {
    loop {
        match rustix::fs::openat2(dir, path, flags, Mode::empty(), inside) {
            // Something was renamed meanwhile.
            Err(Errno::AGAIN) => {}
            other => return Ok(other?),
        }
    }
}

/// Bytes of a path that the kernel takes in one call, with room to spare.
const STEP: usize = 3072;

/// A path in pieces that the kernel takes, each to be looked up in what the one before leads to.
fn steps(path: &Path) -> Vec<PathBuf> {
    if path.as_os_str().is_empty() {
        return vec![".".into()];
    }
    if path.as_os_str().len() <= STEP {
        return vec![path.into()];
    }
    let mut steps = vec![PathBuf::new()];
    for part in path.components() {
        match steps.last_mut() {
            Some(last) if last.as_os_str().len() + part.as_os_str().len() < STEP => last.push(part),
            _ => steps.push(part.as_os_str().into()),
        }
    }
    steps
}

/// Where a path of the host is. One that is too long for the kernel is walked by descriptors.
fn locate_on_host(path: PathBuf) -> std::io::Result<Located> {
    if path.as_os_str().len() <= STEP {
        return Ok(Located { path, _dir: None });
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::NAMETOOLONG.into());
    };
    let mut dir = None;
    for step in steps(parent) {
        let opened = match &dir {
            None => rustix::fs::open(&step, DIRECTORY, Mode::empty())?,
            Some(dir) => rustix::fs::openat(dir, &step, DIRECTORY, Mode::empty())?,
        };
        dir = Some(opened);
    }
    let dir: OwnedFd = dir.ok_or(Errno::NOENT)?;
    Ok(Located {
        path: at_descriptor(&dir).join(name),
        _dir: Some(dir),
    })
}

/// For holding a file without opening it, be it a symbolic link.
const HELD: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

const NO_LINKS: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Whether nothing is at a path, be it that there is no such directory.
fn is_missing(e: &std::io::Error) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    matches!(e.kind(), NotFound | NotADirectory)
}

fn at_descriptor(fd: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

impl Tree for HostTree {
    fn shown(&self, path: &Path) -> PathBuf {
        self.full(path)
    }

    fn find(&self, path: &Path) -> Result<Option<Meta>> {
        let found = self.locate(path);
        match found.and_then(|found| std::fs::symlink_metadata(&*found)) {
            Ok(meta) => Ok(Some(from_host(&meta))),
            Err(e) if is_missing(&e) => Ok(None),
            // A link is on the way, and leads nowhere in this tree.
            Err(e) if self.has_no_links() && e.raw_os_error() == Some(libc::ELOOP) => Ok(None),
            Err(e) => Err(self.failed("find", path, e)),
        }
    }

    fn resolve(&self, path: &Path) -> Result<PathBuf> {
        let failed = |e: std::io::Error| self.failed("find", path, e);
        let Some(held) = &self.held else {
            // Absolute paths name themselves in a tree: joining them replaces the root.
            return self.full(path).canonicalize().map_err(failed);
        };
        let found = held.open(path, OFlags::PATH).map_err(failed)?;
        let of = |fd| std::fs::read_link(at_descriptor(fd)).map_err(failed);
        let (found, root) = (of(&found)?, of(&held.root)?);
        let inside = found.strip_prefix(root).map(Path::to_path_buf);
        inside.map_err(|e| failed(std::io::Error::other(e)))
    }

    fn list(&self, path: &Path) -> Result<Vec<OsString>> {
        let failed = |e| self.failed("read", path, e);
        let dir = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY);
        let dir = dir.map_err(failed)?;
        let entries = std::fs::read_dir(at_descriptor(&dir)).map_err(failed)?;
        entries
            .map(|entry| entry.map(|e| e.file_name()).map_err(failed))
            .collect()
    }

    fn target(&self, path: &Path) -> Result<OsString> {
        let found = self.locate(path);
        let target = found.and_then(|found| std::fs::read_link(&*found));
        Ok(target
            .map_err(|e| self.failed("read", path, e))?
            .into_os_string())
    }

    fn read(&self, path: &Path) -> Result<Box<dyn Source + '_>> {
        let failed = |e| self.failed("open", path, e);
        // A pipe would make us wait.
        let file = self.open(path, OFlags::RDONLY | OFlags::NONBLOCK);
        let file = File::from(file.map_err(failed)?);
        let meta = file.metadata().map_err(failed)?;
        if meta.is_dir() {
            return Err(failed(Errno::ISDIR.into()));
        }
        if !meta.is_file() {
            let (cause, remedy) = ("it is not a regular file", "name a file");
            return Err(Failure::with("read", self.full(path), cause, remedy));
        }
        Ok(Box::new(HostFile { file, at: 0 }))
    }

    fn write(&self, path: &Path, meta: &Meta, data: &mut dyn Source, step: Step<'_>) -> Result<()> {
        let failed = |e| self.failed("create", path, e);
        let full = self.locate(path).map_err(failed)?;
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(meta.mode & 0o777)
            .open(&*full)
            .map_err(failed)?;
        self.fill(&mut file, path, data, step).inspect_err(|_| {
            // The failure that is reported is the first one.
            let _ = std::fs::remove_file(&*full);
        })
    }

    fn make(&self, path: &Path, meta: &Meta, target: &Path) -> Result<()> {
        let full = self.locate(path);
        let full = full.map_err(|e| self.failed("create", path, e))?;
        let outcome = match meta.kind {
            FileKind::Directory => rustix::fs::mkdir(&*full, Mode::from_raw_mode(0o700)),
            FileKind::Symlink => rustix::fs::symlink(target, &*full),
            kind => {
                let (major, minor) = unpack_device(meta.rdev);
                let device = rustix::fs::makedev(major, minor);
                let file = rustix::fs::FileType::from_raw_mode(kind.mode_bits());
                let mode = Mode::from_raw_mode(meta.mode & 0o777);
                rustix::fs::mknodat(CWD, &*full, file, mode, device)
            }
        };
        outcome.map_err(|e| self.failed("create", path, e))
    }

    fn link(&self, existing: &Path, new: &Path) -> Result<()> {
        let located = (self.locate(existing), self.locate(new));
        let linked = match located {
            (Ok(existing), Ok(new)) => std::fs::hard_link(&*existing, &*new),
            (Err(e), _) | (_, Err(e)) => Err(e),
        };
        linked.map_err(|e| self.failed("link", new, e))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let located = (self.locate(from), self.locate(to));
        let renamed = match located {
            (Ok(from), Ok(to)) => std::fs::rename(&*from, &*to),
            (Err(e), _) | (_, Err(e)) => Err(e),
        };
        renamed.map_err(|e| self.failed("rename to", to, e))
    }

    fn remove(&self, path: &Path, directory: bool) -> Result<()> {
        let outcome = self.locate(path).and_then(|full| match directory {
            true => std::fs::remove_dir(&*full),
            false => std::fs::remove_file(&*full),
        });
        outcome.map_err(|e| self.failed("remove", path, e))
    }

    fn dress(&self, path: &Path, meta: &Meta) -> Result<()> {
        self.set(
            path,
            &Attributes {
                owner: Some((meta.uid, meta.gid)),
                xattrs: Vec::new(),
                mode: (meta.kind != FileKind::Symlink).then_some(meta.mode),
                atime: Some(meta.atime),
                mtime: Some(meta.mtime),
            },
        )
    }

    fn xattrs(&self, path: &Path) -> Result<Vec<Xattr>> {
        let what = "read the extended attributes of";
        let failed = |e: Errno| self.failed(what, path, e);
        let full = self.locate(path).map_err(|e| self.failed(what, path, e))?;
        let mut names = vec![0; 65_536];
        let n = match rustix::fs::llistxattr(&*full, names.as_mut_slice()) {
            Err(Errno::NOTSUP) => return Ok(Vec::new()),
            other => other.map_err(failed)?,
        };
        names.truncate(n);
        let mut found = Vec::new();
        for name in names.split(|b| *b == 0).filter(|name| portable(name)) {
            let mut value = vec![0; 65_536];
            match rustix::fs::lgetxattr(&*full, name, value.as_mut_slice()) {
                Ok(n) => value.truncate(n),
                Err(Errno::NODATA) => continue,
                Err(e) => return Err(failed(e)),
            }
            found.push((OsString::from_vec(name.to_vec()), value));
        }
        Ok(found)
    }

    fn set_xattr(&self, path: &Path, (name, value): &Xattr) -> Result<()> {
        let what = "set an extended attribute of";
        let full = self.locate(path).map_err(|e| self.failed(what, path, e))?;
        let flags = XattrFlags::empty();
        match rustix::fs::lsetxattr(&*full, name.as_os_str(), value.as_slice(), flags) {
            // Some attributes are for root only, and some file systems have none.
            Err(Errno::PERM | Errno::NOTSUP) => Ok(()),
            other => other.map_err(|e| self.failed(what, path, e)),
        }
    }

    fn host_path(&self, path: &Path) -> Option<PathBuf> {
        let full = std::path::absolute(self.full(path)).ok()?;
        // The part that does not exist yet has no symbolic links.
        let real = |dir: &Path| {
            let rest = full.strip_prefix(dir).ok()?;
            dir.canonicalize().ok().map(|real| real.join(rest))
        };
        full.ancestors().find_map(real).or(Some(full.clone()))
    }

    fn home(&self) -> Option<PathBuf> {
        self.held.as_ref().and_then(|held| held.volume.clone())
    }

    fn sync(&self) -> Result<()> {
        let dir = self.open(Path::new(""), OFlags::RDONLY | OFlags::DIRECTORY);
        let dir = dir.map_err(|e| self.failed("open", Path::new(""), e))?;
        rustix::fs::syncfs(dir).map_err(|e| self.failed("sync", Path::new(""), e))
    }
}

/// Reads a file of the host from its beginning.
struct HostFile {
    file: File,
    at: u64,
}

impl Read for HostFile {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read_at(buf, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Source for HostFile {
    fn hole(&mut self) -> std::io::Result<u64> {
        let next = match rustix::fs::seek(&self.file, SeekFrom::Data(self.at)) {
            Ok(next) => next,
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => self.file.metadata()?.len(),
            // A file system that does not tell.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(0),
            Err(e) => return Err(e.into()),
        };
        let gap = next.saturating_sub(self.at);
        self.at += gap;
        Ok(gap)
    }

    fn pieces(&mut self) -> std::io::Result<Option<(Vec<Piece>, u64)>> {
        let size = self.file.metadata()?.len();
        let mut told = true;
        let pieces = pieces_by(size, |what, offset| {
            let from = match what {
                SeekFor::Data => SeekFrom::Data(offset),
                SeekFor::Hole => SeekFrom::Hole(offset),
            };
            match rustix::fs::seek(&self.file, from) {
                Ok(at) => Ok(Some(at)),
                Err(Errno::NXIO) => Ok(None),
                // A file system that does not tell.
                Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                    told = false;
                    Ok(None)
                }
                Err(e) => Err(e.into()),
            }
        })?;
        Ok(told.then_some((pieces, size)))
    }

    fn go_to(&mut self, offset: u64) -> std::io::Result<()> {
        self.at = offset;
        Ok(())
    }
}

/// Attributes that mean the same on another file system: not the labels of this host.
fn portable(name: &[u8]) -> bool {
    !name.is_empty() && name != b"security.selinux" && name != b"security.ima"
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

#[cfg(test)]
#[path = "host_tests.rs"]
mod tests;
