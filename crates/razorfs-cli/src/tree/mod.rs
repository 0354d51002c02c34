//! A tree of files, be it a directory of the host (a mount of a volume also is one) or a volume
//! that is opened as a library. Commands work on either.

mod copy;
mod host;
mod inside;

use std::ffi::OsString;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use razorfs::{FileKind, SeekFor, Stat, Time};

pub use copy::{Copy, CopyOptions, measure};
pub use host::{Attributes, HostTree};
pub use inside::VolumeTree;

use crate::failure::{Failure, Result, shown};

/// Bytes that are read and written at a time.
pub const CHUNK: usize = 1 << 20;

/// What is known of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meta {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    /// Number of names.
    pub nlink: u64,
    /// Inode number.
    pub ino: u64,
    /// The file system that the inode number belongs to.
    pub dev: u64,
    /// Device number of a device file, as Linux packs it into 32 bits.
    pub rdev: u32,
    /// 512-byte units allocated.
    pub blocks: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of the data.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// Creation, where known.
    pub btime: Option<Time>,
}

impl From<Stat> for Meta {
    fn from(stat: Stat) -> Self {
        Self {
            kind: stat.kind(),
            mode: stat.mode & 0o7777,
            uid: stat.uid,
            gid: stat.gid,
            size: stat.size,
            nlink: u64::from(stat.nlink),
            ino: stat.ino.0,
            dev: 0,
            rdev: stat.rdev,
            blocks: stat.blocks,
            atime: stat.atime,
            mtime: stat.mtime,
            ctime: stat.ctime,
            btime: Some(stat.btime),
        }
    }
}

impl Meta {
    /// What to make where nothing is known but the kind and the permissions.
    pub fn new(kind: FileKind, mode: u32) -> Self {
        let zero = Time::default();
        Self {
            kind,
            mode,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            size: 0,
            nlink: 1,
            ino: 0,
            dev: 0,
            rdev: 0,
            blocks: 0,
            atime: zero,
            mtime: zero,
            ctime: zero,
            btime: None,
        }
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }
}

/// An extended attribute.
pub type Xattr = (OsString, Vec<u8>);

/// Called with the number of bytes after each piece of a file; an error stops the work.
pub type Step<'a> = &'a mut dyn FnMut(u64) -> Result<()>;

/// Offset and length of what has data in a file.
pub type Piece = (u64, u64);

/// The bytes of a file, with its holes.
pub trait Source: Read {
    /// Passes over the hole that begins here, if one does, and answers how long it is.
    fn hole(&mut self) -> std::io::Result<u64> {
        Ok(0)
    }

    /// Offset and length of what has data from the beginning on, in order, and the size of the
    /// file; `None` if that is not known beforehand.
    fn pieces(&mut self) -> std::io::Result<Option<(Vec<Piece>, u64)>> {
        Ok(None)
    }

    /// Goes on at an offset.
    fn go_to(&mut self, _offset: u64) -> std::io::Result<()> {
        Err(std::io::ErrorKind::NotSeekable.into())
    }
}

/// The pieces of a file of `size` bytes, by what tells where data or a hole begins at or after an
/// offset, `None` if nowhere.
fn pieces_by(
    size: u64,
    mut seek: impl FnMut(SeekFor, u64) -> std::io::Result<Option<u64>>,
) -> std::io::Result<Vec<Piece>> {
    let (mut pieces, mut at) = (Vec::new(), 0);
    while at < size
        && let Some(start) = seek(SeekFor::Data, at)?.filter(|start| *start < size)
    {
        let end = seek(SeekFor::Hole, start)?.unwrap_or(size).min(size);
        if end <= start {
            // It is being changed; the next look may be another one.
            break;
        }
        pieces.push((start, end - start));
        at = end;
    }
    Ok(pieces)
}

/// The operations that the commands need. Paths are relative to the root of the tree, and `""`
/// is the root. No operation follows a symbolic link in the last part of a path, but
/// [`Tree::resolve`].
pub trait Tree {
    /// The path as it is shown in messages.
    fn shown(&self, path: &Path) -> PathBuf;
    /// What is at `path`; `None` if nothing is.
    fn find(&self, path: &Path) -> Result<Option<Meta>>;
    /// The path without symbolic links.
    fn resolve(&self, path: &Path) -> Result<PathBuf>;
    /// The names in a directory, in the order of the directory.
    fn list(&self, path: &Path) -> Result<Vec<OsString>>;
    /// The target of a symbolic link.
    fn target(&self, path: &Path) -> Result<OsString>;
    /// The bytes of a file.
    fn read(&self, path: &Path) -> Result<Box<dyn Source + '_>>;
    /// Creates a file, which must not exist, with these bytes. On failure nothing stays. Runs of
    /// zeros become holes.
    fn write(&self, path: &Path, meta: &Meta, data: &mut dyn Source, step: Step<'_>) -> Result<()>;
    /// Creates anything but a regular file.
    fn make(&self, path: &Path, meta: &Meta, target: &Path) -> Result<()>;
    /// Gives a file another name.
    fn link(&self, existing: &Path, new: &Path) -> Result<()>;
    /// Renames, replacing what is there.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;
    /// Removes a name; of a directory, which must be empty, if `directory`.
    fn remove(&self, path: &Path, directory: bool) -> Result<()>;
    /// Sets owner, permissions and times as in `meta`.
    fn dress(&self, path: &Path, meta: &Meta) -> Result<()>;
    /// The extended attributes.
    fn xattrs(&self, path: &Path) -> Result<Vec<Xattr>>;
    /// Sets one extended attribute.
    fn set_xattr(&self, path: &Path, xattr: &Xattr) -> Result<()>;
    /// The path on the host, without symbolic links, if the tree is one of the host.
    fn host_path(&self, path: &Path) -> Option<PathBuf>;
    /// The directory of the host that holds the volume, if the tree is that of one.
    fn home(&self) -> Option<PathBuf>;
    /// Makes everything done so far durable.
    fn sync(&self) -> Result<()>;

    /// What is at `path`, which must exist.
    fn meta(&self, path: &Path) -> Result<Meta> {
        let missing = || {
            let shown = self.shown(path);
            Failure::with("find", shown, "no such file or directory", "check the path")
        };
        self.find(path)?.ok_or_else(missing)
    }
}

/// Refuses to copy a directory into itself: there would be no end of it. The same holds for a
/// directory that the volume copied to is in, and a volume's own directory is no place to copy to.
pub fn keep_apart(from: &dyn Tree, source: &Path, to: &dyn Tree, target: &Path) -> Result<()> {
    let within = to.host_path(target);
    if let Some(source) = from.host_path(source) {
        for inner in [&within, &to.home()].into_iter().flatten() {
            if inner.starts_with(&source) {
                let cause = format!("{} is in it", shown(inner));
                let remedy = "name a target outside of it";
                return Err(Failure::with("copy", source, cause, remedy));
            }
        }
    }
    match (within, from.home()) {
        (Some(target), Some(home)) if target.starts_with(&home) => {
            let cause = "the volume keeps its own files there";
            Err(Failure::with(
                "write to",
                target,
                cause,
                "name another target",
            ))
        }
        _ => Ok(()),
    }
}

/// `path` as the trees take it: relative, without `.`; `..` is refused.
pub fn inner(path: &Path) -> Result<PathBuf> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                let remedy = "write the path without `..`";
                return Err(Failure::with("use", path, "it has `..` in it", remedy));
            }
        }
    }
    Ok(clean)
}

/// Whose files are that belong to nobody the kernel can name.
const NOBODY: u32 = 65_534;

/// The owner or group of this number. The last one of 32 bits means none to the kernel, and larger
/// ones are none either.
pub fn id(number: u64) -> u32 {
    let id = u32::try_from(number).ok();
    id.filter(|id| *id != u32::MAX).unwrap_or(NOBODY)
}

/// Packs a device number of the host into 32 bits, as Linux passes it to file systems.
pub fn pack_device(device: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    (minor & 0xFF) | ((major & 0xFFF) << 8) | ((minor & 0xF_FF00) << 12)
}

/// Major and minor of a packed device number.
pub fn unpack_device(packed: u32) -> (u32, u32) {
    let major = packed >> 8 & 0xFFF;
    let minor = (packed & 0xFF) | (packed >> 12 & 0xF_FF00);
    (major, minor)
}

/// Whether a piece is nothing but zeros.
fn is_zero(piece: &[u8]) -> bool {
    piece.iter().all(|b| *b == 0)
}

/// Reads until `buf` is full or the end.
pub fn read_full(data: &mut dyn Source, buf: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match data.read(rest) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inner_paths_cannot_climb() {
        assert_eq!(inner(Path::new("/a//./b/")).unwrap(), Path::new("a/b"));
        assert_eq!(inner(Path::new("/")).unwrap(), Path::new(""));
        assert!(inner(Path::new("a/../../etc")).is_err());
    }

    #[test]
    fn device_numbers_survive_packing() {
        for (major, minor) in [(1, 3), (8, 1), (259, 300), (4095, 0xF_FFFF)] {
            let device = rustix::fs::makedev(major, minor);
            assert_eq!(unpack_device(pack_device(device)), (major, minor));
        }
    }
}
