//! The types that cross the door of the engine.

use std::path::PathBuf;

use razorfs_format::Ino;
use razorfs_format::record::{FileKind, Time};

/// What `stat` tells of an inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    /// Inode number: stable, never reused.
    pub ino: Ino,
    /// Type and permission bits.
    pub mode: u32,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device file.
    pub rdev: u32,
    /// [`razorfs_format::record::inode_flags`].
    pub flags: u32,
    /// Size in bytes.
    pub size: u64,
    /// 512-byte units allocated.
    pub blocks: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of the data.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// Creation.
    pub btime: Time,
}

impl Stat {
    /// What it is.
    #[must_use]
    pub const fn kind(&self) -> FileKind {
        match FileKind::from_mode(self.mode) {
            Some(kind) => kind,
            // The engine only hands out modes with a known type.
            None => FileKind::Regular,
        }
    }
}

/// What to create.
#[derive(Clone, Copy, Debug)]
pub struct NewNode<'a> {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits, with setuid, setgid and sticky; the type bits are ignored.
    pub mode: u32,
    /// Permission bits that `mode` loses, unless the directory has a default access list, which
    /// then says what is lost.
    pub umask: u32,
    /// Owner.
    pub uid: u32,
    /// Group; a setgid directory overrides it.
    pub gid: u32,
    /// Device number, for device files.
    pub rdev: u32,
    /// Target, for symbolic links.
    pub target: &'a [u8],
}

impl NewNode<'_> {
    /// A regular file, owner 0, with these permission bits.
    #[must_use]
    pub const fn file(mode: u32) -> Self {
        Self {
            kind: FileKind::Regular,
            mode,
            umask: 0,
            uid: 0,
            gid: 0,
            rdev: 0,
            target: b"",
        }
    }

    /// A directory, owner 0, with these permission bits.
    #[must_use]
    pub const fn directory(mode: u32) -> Self {
        Self {
            kind: FileKind::Directory,
            mode,
            umask: 0,
            uid: 0,
            gid: 0,
            rdev: 0,
            target: b"",
        }
    }
}

/// What to change of an inode; `None` leaves it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SetAttributes {
    /// Permission bits (the type bits are ignored).
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size: truncates or extends with a hole.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<Time>,
    /// Last change of the data.
    pub mtime: Option<Time>,
    /// Last change of the inode; the present if not given.
    pub ctime: Option<Time>,
    /// [`razorfs_format::record::inode_flags`]: those that users can set.
    pub flags: Option<u32>,
}

/// An entry of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Position for going on after this entry: stable across any change, restart or compaction.
    pub cookie: u64,
    /// The inode.
    pub ino: Ino,
    /// What it is.
    pub kind: FileKind,
    /// Its name.
    pub name: Box<[u8]>,
}

/// What rename does with a target that exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RenameMode {
    /// Replaces it.
    #[default]
    Replace,
    /// Fails with [`crate::Error::Exists`].
    NoReplace,
    /// Swaps the two; both must exist.
    Exchange,
    /// Leaves a character device 0:0 where the name was: overlayfs takes it as the mark of a file
    /// that has been removed.
    Whiteout {
        /// Whether a target that exists is an error.
        no_replace: bool,
        /// Owner of the mark.
        uid: u32,
        /// Group of the mark; a setgid directory overrides it.
        gid: u32,
    },
}

/// What `setxattr` does if the attribute exists or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum XattrMode {
    /// Creates or replaces.
    #[default]
    Set,
    /// Must not exist.
    Create,
    /// Must exist.
    Replace,
}

/// What `fallocate` does with a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AllocateMode {
    /// Reserves; the size grows if needed.
    Extend,
    /// Reserves; the size stays.
    KeepSize,
    /// Deallocates: the range reads as zeros; the size stays.
    PunchHole,
    /// Reads as zeros; the size grows if needed.
    ZeroExtend,
    /// Reads as zeros; the size stays.
    ZeroKeepSize,
}

/// What `lseek` looks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SeekFor {
    /// The first byte of data at or after the offset.
    Data,
    /// The first hole at or after the offset; the end of the file counts as one.
    Hole,
}

/// What `statfs` tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VolumeSpace {
    /// Bytes that the volume could hold in all.
    pub total: u64,
    /// Bytes free.
    pub free: u64,
    /// Number of inodes in use.
    pub inodes: u64,
}

/// What became of a name between two states of a volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ChangeKind {
    /// It is there in the newer state only.
    Added,
    /// It is there in the older state only.
    Removed,
    /// The file had another name in the older state.
    Renamed,
    /// The name is there in both, and the file, or what is in it, is another.
    Changed,
}

/// What of a file that both states have is another.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Difference {
    /// Its bytes were written, or its size is another.
    pub content: bool,
    /// Its permission bits.
    pub mode: bool,
    /// Its owner or group.
    pub owner: bool,
    /// Its extended attributes or flags.
    pub attributes: bool,
    /// The time of its last change alone.
    pub times: bool,
}

/// One difference between two states of a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// What became of it.
    pub kind: ChangeKind,
    /// Its path: in the newer state, or in the older one if it is there only.
    pub path: PathBuf,
    /// Of a renamed one the path in the older state.
    pub from: Option<PathBuf>,
    /// The inode; in the newer state, if the name leads to another one there.
    pub ino: Ino,
    /// What it is.
    pub file: FileKind,
    /// Its size in the older state, if it is there.
    pub size_before: Option<u64>,
    /// Its size in the newer state, if it is there.
    pub size_after: Option<u64>,
    /// What else is another. Told once for an inode, however many names it has.
    pub differs: Difference,
}

/// What whoever remembers a volume as it was has to forget after a rollback.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stale {
    /// Names, by their directories, that lead elsewhere, or to a file of which something is
    /// another.
    pub names: Vec<(Ino, Box<[u8]>)>,
    /// Inodes of which something is another.
    pub inodes: Vec<Ino>,
    /// Directories of these that somebody holds who has seen them removed.
    pub returned: Vec<Ino>,
}
