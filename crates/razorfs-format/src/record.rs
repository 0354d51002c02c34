//! The records that keys lead to.
//!
//! | record | bytes |
//! |---|---|
//! | inode | `version 1 u8 | mode v | nlink v | uid v | gid v | rdev v | flags v | size v | blocks v | atime, mtime, ctime, btime (seconds sv, nanoseconds v) | parent v | cookie u64 | entries v | target bytes` |
//! | dirent | `kind u8 | ino v | name bytes` |
//! | extent | fragments until the end, sorted, not overlapping |
//! | shared | `count v | bytes v`: blocks that refer to the frame, at least 1, and its bytes in the pack |
//! | held | `birth v | bytes v`: the epoch that wrote the frame, and its bytes in the pack |
//! | orphan | `1 u8` reap the inode; `2 u8 | from v` extents from block `from` on are being removed |
//! | xattr | `name bytes | value bytes` |
//!
//! `v` is a varint, `sv` a signed one, `bytes` a varint length and the bytes.
//!
//! A fragment: `kind u8 | offset in block v | length v | …`, kind 0 hole, 1 reserved, 4 lost,
//! 2 inline (`the bytes`, exactly `length`), 3 pack (`pack v | pos v | stored_len v | raw_len v |
//! skip v | codec u8 | birth v | flags u8 | [origin: branch v, ino v, block v, offset v, if flags &
//! 1] | crc u32 each: one for a compressed frame, one for each 16 KiB of a raw one`).

mod fragment;
mod held;
mod shared;

use crate::error::{Place, Result};
use crate::ids::Ino;
use crate::wire::{Put, Take};

pub use fragment::{Codec, Extent, Fragment, FragmentKind, Origin, PackRef};
pub use held::Held;
pub use shared::Shared;

/// log2 of the size of a logical block.
pub const BLOCK_LOG2: u32 = 17;
/// Bytes of a logical block: 128 KiB.
pub const BLOCK: u32 = 1 << BLOCK_LOG2;
/// Longest name of a directory entry, in bytes.
pub const NAME_MAX: usize = 255;
/// Longest target of a symbolic link, in bytes.
pub const TARGET_MAX: usize = 4095;
/// Longest name of an extended attribute, in bytes.
pub const XATTR_NAME_MAX: usize = 255;
/// Longest value of an extended attribute, in bytes.
pub const XATTR_VALUE_MAX: usize = 65536;
/// Bytes of a raw frame that one checksum covers.
pub const RAW_CRC_CHUNK: u32 = 16 * 1024;
/// Largest file, in bytes: the largest offset of Linux.
pub const FILE_MAX: u64 = i64::MAX as u64;

/// A point in time: seconds before or after 1970 and nanoseconds after that second.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Time {
    /// Seconds; negative before 1970.
    pub secs: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

impl Time {
    /// From nanoseconds since 1970.
    #[must_use]
    pub const fn from_unix_nanos(ns: u64) -> Self {
        Self {
            secs: (ns / 1_000_000_000) as i64,
            nanos: (ns % 1_000_000_000) as u32,
        }
    }

    fn encode(self, out: &mut Vec<u8>) {
        out.put_signed(self.secs);
        out.put_varint(u64::from(self.nanos));
    }

    fn decode(t: &mut Take<'_>) -> Result<Self> {
        Ok(Self {
            secs: t.signed()?,
            nanos: t.varint_max(999_999_999)? as u32,
        })
    }
}

/// What an inode is: the file type bits of its mode.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum FileKind {
    /// Named pipe.
    Fifo = 1,
    /// Character device.
    CharDevice = 2,
    /// Directory.
    Directory = 4,
    /// Block device.
    BlockDevice = 6,
    /// Regular file.
    Regular = 8,
    /// Symbolic link.
    Symlink = 10,
    /// Socket.
    Socket = 12,
}

impl FileKind {
    /// The kind that the type bits of `mode` (or a `d_type`) say.
    #[must_use]
    pub const fn from_mode(mode: u32) -> Option<Self> {
        Self::from_byte((mode >> 12 & 15) as u8)
    }

    /// The kind that the byte (`DT_*` of Linux) stands for.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Fifo,
            2 => Self::CharDevice,
            4 => Self::Directory,
            6 => Self::BlockDevice,
            8 => Self::Regular,
            10 => Self::Symlink,
            12 => Self::Socket,
            _ => return None,
        })
    }

    /// The type bits of a mode.
    #[must_use]
    pub const fn mode_bits(self) -> u32 {
        (self as u32) << 12
    }
}

/// Flags of an inode.
pub mod inode_flags {
    /// The file may have holes: its allocated blocks are counted from its extents.
    pub const SPARSE: u32 = 1;
    /// Only appending is allowed.
    pub const APPEND: u32 = 2;
    /// Nothing may change.
    pub const IMMUTABLE: u32 = 4;
    /// The inode has extended attributes.
    pub const HAS_XATTR: u32 = 8;
    /// An unfinished truncation is recorded as an orphan.
    pub const TRIMMING: u32 = 16;
    /// New data is compressed with zstd; inherited by what is created below.
    pub const ZSTD: u32 = 32;
    /// New data is not compressed; inherited by what is created below.
    pub const NO_COMPRESSION: u32 = 64;
}

/// An inode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inode {
    /// Type and permission bits, as in `st_mode`.
    pub mode: u32,
    /// Number of names; a directory has 2 and one for each subdirectory.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device file, as in `st_rdev`.
    pub rdev: u32,
    /// [`inode_flags`].
    pub flags: u32,
    /// Size in bytes; for a symbolic link the length of its target.
    pub size: u64,
    /// Number of 512-byte units allocated beyond the data that the size implies; reserved, zero.
    pub blocks: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of the data.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// Creation.
    pub btime: Time,
    /// The directory of its (first) name; of the root, itself.
    pub parent: Ino,
    /// Cookie of that name in `parent`; 0 for the root and for nameless inodes.
    pub cookie: u64,
    /// Number of entries of a directory.
    pub entries: u64,
    /// Target of a symbolic link.
    pub target: Box<[u8]>,
}

impl Inode {
    /// What it is.
    #[must_use]
    pub const fn kind(&self) -> FileKind {
        match FileKind::from_mode(self.mode) {
            Some(kind) => kind,
            // Decoding refuses other modes, and so does creation.
            None => FileKind::Regular,
        }
    }

    /// Whether it is a directory.
    #[must_use]
    pub const fn is_dir(&self) -> bool {
        matches!(self.kind(), FileKind::Directory)
    }

    /// Appends the encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(1);
        for v in [
            self.mode, self.nlink, self.uid, self.gid, self.rdev, self.flags,
        ] {
            out.put_varint(u64::from(v));
        }
        out.put_varint(self.size);
        out.put_varint(self.blocks);
        for time in [self.atime, self.mtime, self.ctime, self.btime] {
            time.encode(out);
        }
        out.put_varint(self.parent.0);
        out.put_u64(self.cookie);
        out.put_varint(self.entries);
        out.put_bytes(&self.target);
    }

    /// The encoding.
    #[must_use]
    pub fn to_bytes(&self) -> Box<[u8]> {
        let mut out = Vec::with_capacity(80 + self.target.len());
        self.encode(&mut out);
        out.into()
    }

    /// Reads an inode that fills `bytes`.
    pub fn decode(bytes: &[u8], place: Place) -> Result<Self> {
        let mut t = Take::new(bytes, place, "inode");
        let start = t;
        let version = t.u8()?;
        if version != 1 {
            return Err(start.error("version 1", version));
        }
        let at_mode = t;
        let mode = t.varint32()?;
        if FileKind::from_mode(mode).is_none() || mode > 0o177_777 {
            return Err(at_mode.error("a file type", format_args!("mode {mode:#o}")));
        }
        let inode = Self {
            mode,
            nlink: t.varint32()?,
            uid: t.varint32()?,
            gid: t.varint32()?,
            rdev: t.varint32()?,
            flags: t.varint32()?,
            size: t.varint_max(FILE_MAX)?,
            blocks: t.varint()?,
            atime: Time::decode(&mut t)?,
            mtime: Time::decode(&mut t)?,
            ctime: Time::decode(&mut t)?,
            btime: Time::decode(&mut t)?,
            parent: Ino(t.varint()?),
            cookie: t.u64()?,
            entries: t.varint()?,
            target: t.bytes(TARGET_MAX)?.into(),
        };
        t.end()?;
        Ok(inode)
    }
}

/// A directory entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dirent {
    /// The inode it leads to.
    pub ino: Ino,
    /// What that inode is.
    pub kind: FileKind,
    /// The name: 1 to 255 bytes, neither `/` nor NUL, not `.` or `..`.
    pub name: Box<[u8]>,
}

impl Dirent {
    /// Appends the encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(self.kind as u8);
        out.put_varint(self.ino.0);
        out.put_bytes(&self.name);
    }

    /// The encoding.
    #[must_use]
    pub fn to_bytes(&self) -> Box<[u8]> {
        let mut out = Vec::with_capacity(12 + self.name.len());
        self.encode(&mut out);
        out.into()
    }

    /// Reads an entry that fills `bytes`.
    pub fn decode(bytes: &[u8], place: Place) -> Result<Self> {
        let mut t = Take::new(bytes, place, "directory entry");
        let start = t;
        let kind = t.u8()?;
        let kind = FileKind::from_byte(kind).ok_or_else(|| start.error("a file type", kind))?;
        let ino = Ino(t.varint()?);
        let at_name = t;
        let name = t.bytes(NAME_MAX)?;
        if !is_name(name) {
            return Err(at_name.error("a name", format_args!("{:?}", name.escape_ascii())));
        }
        t.end()?;
        Ok(Self {
            ino,
            kind,
            name: name.into(),
        })
    }
}

/// Whether `name` can stand in a directory: 1 to 255 bytes, no `/`, no NUL, not `.` or `..`.
#[must_use]
pub fn is_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= NAME_MAX
        && name != b"."
        && name != b".."
        && !name.iter().any(|b| matches!(b, b'/' | 0))
}

/// What is left to be done about an inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Orphan {
    /// It has no name: remove it and all its records when nobody holds it open.
    Reap,
    /// Its extents from this block on are being removed.
    Trim {
        /// First block to remove.
        from: u64,
    },
}

impl Orphan {
    /// The encoding.
    #[must_use]
    pub fn to_bytes(self) -> Box<[u8]> {
        let mut out = Vec::new();
        match self {
            Self::Reap => out.put_u8(1),
            Self::Trim { from } => {
                out.put_u8(2);
                out.put_varint(from);
            }
        }
        out.into()
    }

    /// Reads an orphan record that fills `bytes`.
    pub fn decode(bytes: &[u8], place: Place) -> Result<Self> {
        let mut t = Take::new(bytes, place, "orphan");
        let start = t;
        let orphan = match t.u8()? {
            1 => Self::Reap,
            2 => Self::Trim { from: t.varint()? },
            other => return Err(start.error("kind 1 or 2", other)),
        };
        t.end()?;
        Ok(orphan)
    }
}

/// An extended attribute.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Xattr {
    /// Full name, with its name space (`user.…`).
    pub name: Box<[u8]>,
    /// Value, at most 64 KiB.
    pub value: Box<[u8]>,
}

impl Xattr {
    /// The encoding.
    #[must_use]
    pub fn to_bytes(&self) -> Box<[u8]> {
        let mut out = Vec::with_capacity(8 + self.name.len() + self.value.len());
        out.put_bytes(&self.name);
        out.put_bytes(&self.value);
        out.into()
    }

    /// Reads an attribute that fills `bytes`.
    pub fn decode(bytes: &[u8], place: Place) -> Result<Self> {
        let mut t = Take::new(bytes, place, "extended attribute");
        let xattr = Self {
            name: t.bytes(XATTR_NAME_MAX)?.into(),
            value: t.bytes(XATTR_VALUE_MAX)?.into(),
        };
        t.end()?;
        Ok(xattr)
    }
}

/// The first cookie of an entry's hash: 55 bits of keyed hash and a collision number of 0.
/// 1 and 2 stand for `.` and `..`; every entry's cookie is at least 256 and positive as an `i64`.
#[must_use]
pub fn name_cookie(hash_key: &[u8; 16], name: &[u8]) -> u64 {
    use std::hash::Hasher;
    let mut hasher = siphasher::sip::SipHasher24::new_with_key(hash_key);
    hasher.write(name);
    (hasher.finish() >> 9).max(1) << 8
}
