//! The items of a stream; their bytes are told at the head of [`super`].

use super::{FLAGS, INO_END};
use crate::compress::{Compression, compress, decompress};
use crate::error::Result;
use crate::ids::Ino;
use crate::record::{
    BLOCK, Codec, FILE_MAX, FileKind, NAME_MAX, TARGET_MAX, Time, XATTR_NAME_MAX, XATTR_VALUE_MAX,
    is_name,
};
use crate::wire::{Put, Take};

/// Attributes of an inode. Names, and what follows from them, come by themselves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// Which.
    pub ino: Ino,
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number; 0 unless it is a device.
    pub rdev: u32,
    /// Those of [`FLAGS`].
    pub flags: u32,
    /// Size of a regular file; else 0.
    pub size: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of the data.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// Creation.
    pub btime: Time,
    /// Target of a symbolic link; else empty.
    pub target: Box<[u8]>,
}

impl Attributes {
    /// What it is.
    #[must_use]
    pub const fn kind(&self) -> FileKind {
        match FileKind::from_mode(self.mode) {
            Some(kind) => kind,
            // Decoding refuses other modes, and so does creation.
            None => FileKind::Regular,
        }
    }
}

/// One change.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the fields are told at the head of the file")]
pub enum Item {
    /// An inode is there, with these attributes.
    Inode(Attributes),
    /// A name leads to an inode.
    Name { dir: Ino, name: Box<[u8]>, ino: Ino },
    /// A name leads nowhere any more.
    NoName { dir: Ino, name: Box<[u8]> },
    /// An extended attribute has a value.
    Xattr {
        ino: Ino,
        name: Box<[u8]>,
        value: Box<[u8]>,
    },
    /// There is no such extended attribute any more.
    NoXattr { ino: Ino, name: Box<[u8]> },
    /// Bytes of a file, within one block.
    Data {
        ino: Ino,
        offset: u64,
        bytes: Vec<u8>,
    },
    /// A hole in a file, within one block.
    Hole { ino: Ino, offset: u64, len: u32 },
    /// An inode has lost its last name.
    Gone { ino: Ino },
}

impl Item {
    /// Appends the encoding. Data is compressed with LZ4 where that saves enough.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Inode(attributes) => put_attributes(attributes, out),
            Self::Name { dir, name, ino } => {
                out.put_u8(2);
                out.put_varint(dir.0);
                out.put_bytes(name);
                out.put_varint(ino.0);
            }
            Self::NoName { dir, name } => {
                out.put_u8(3);
                out.put_varint(dir.0);
                out.put_bytes(name);
            }
            Self::Xattr { ino, name, value } => {
                out.put_u8(4);
                out.put_varint(ino.0);
                out.put_bytes(name);
                out.put_bytes(value);
            }
            Self::NoXattr { ino, name } => {
                out.put_u8(5);
                out.put_varint(ino.0);
                out.put_bytes(name);
            }
            Self::Data { ino, offset, bytes } => {
                out.put_u8(6);
                out.put_varint(ino.0);
                out.put_varint(*offset);
                out.put_varint(bytes.len() as u64);
                let mut small = Vec::new();
                let codec = compress(Compression::Lz4, bytes, &mut small);
                out.put_u8(codec as u8);
                match codec {
                    Codec::None => out.put_bytes(bytes),
                    Codec::Lz4 | Codec::Zstd => out.put_bytes(&small),
                }
            }
            Self::Hole { ino, offset, len } => {
                out.put_u8(7);
                out.put_varint(ino.0);
                out.put_varint(*offset);
                out.put_varint(u64::from(*len));
            }
            Self::Gone { ino } => {
                out.put_u8(8);
                out.put_varint(ino.0);
            }
        }
    }

    /// Reads one item. `raw` is how many bytes of data may still be decompressed, and becomes less.
    pub fn decode(t: &mut Take<'_>, raw: &mut usize) -> Result<Self> {
        let start = *t;
        Ok(match t.u8()? {
            1 => Self::Inode(take_attributes(t)?),
            2 => Self::Name {
                dir: ino(t)?,
                name: name(t)?,
                ino: ino(t)?,
            },
            3 => Self::NoName {
                dir: ino(t)?,
                name: name(t)?,
            },
            4 => Self::Xattr {
                ino: ino(t)?,
                name: xattr_name(t)?,
                value: t.bytes(XATTR_VALUE_MAX)?.into(),
            },
            5 => Self::NoXattr {
                ino: ino(t)?,
                name: xattr_name(t)?,
            },
            6 => take_data(t, raw)?,
            7 => {
                let ino = ino(t)?;
                let (offset, len) = range(t)?;
                Self::Hole { ino, offset, len }
            }
            8 => Self::Gone { ino: ino(t)? },
            other => return Err(start.error("an item", other)),
        })
    }
}

fn put_time(time: Time, out: &mut Vec<u8>) {
    out.put_signed(time.secs);
    out.put_varint(u64::from(time.nanos));
}

fn take_time(t: &mut Take<'_>) -> Result<Time> {
    Ok(Time {
        secs: t.signed()?,
        nanos: t.varint_max(999_999_999)? as u32,
    })
}

fn put_attributes(a: &Attributes, out: &mut Vec<u8>) {
    out.put_u8(1);
    out.put_varint(a.ino.0);
    for v in [a.mode, a.uid, a.gid, a.rdev, a.flags] {
        out.put_varint(u64::from(v));
    }
    out.put_varint(a.size);
    for time in [a.atime, a.mtime, a.ctime, a.btime] {
        put_time(time, out);
    }
    out.put_bytes(&a.target);
}

fn take_attributes(t: &mut Take<'_>) -> Result<Attributes> {
    let ino = ino(t)?;
    let at = *t;
    let mode = t.varint_max(0o177_777)? as u32;
    let Some(kind) = FileKind::from_mode(mode) else {
        return Err(at.error("a file type", format_args!("mode {mode:#o}")));
    };
    let (uid, gid) = (t.varint32()?, t.varint32()?);
    let at = *t;
    let rdev = t.varint32()?;
    if rdev != 0 && !matches!(kind, FileKind::CharDevice | FileKind::BlockDevice) {
        return Err(at.error("no device number", rdev));
    }
    let at = *t;
    let flags = t.varint32()?;
    if flags & !FLAGS != 0 {
        return Err(at.error("flags that a stream carries", format_args!("{flags:#x}")));
    }
    let at = *t;
    let size = t.varint_max(FILE_MAX)?;
    if size != 0 && kind != FileKind::Regular {
        return Err(at.error("no size", size));
    }
    let (atime, mtime) = (take_time(t)?, take_time(t)?);
    let (ctime, btime) = (take_time(t)?, take_time(t)?);
    let at = *t;
    let target: Box<[u8]> = t.bytes(TARGET_MAX)?.into();
    if target.is_empty() == (kind == FileKind::Symlink) || target.contains(&0) {
        return Err(at.error("a target where there is a link", "another"));
    }
    Ok(Attributes {
        ino,
        mode,
        uid,
        gid,
        rdev,
        flags,
        size,
        atime,
        mtime,
        ctime,
        btime,
        target,
    })
}

fn ino(t: &mut Take<'_>) -> Result<Ino> {
    let at = *t;
    match Ino(t.varint_max(INO_END)?) {
        ino if ino == Ino::ROOT || ino >= Ino::FIRST => Ok(ino),
        other => Err(at.error("an inode", other)),
    }
}

fn name(t: &mut Take<'_>) -> Result<Box<[u8]>> {
    let at = *t;
    let name = t.bytes(NAME_MAX)?;
    if !is_name(name) {
        return Err(at.error("a name", format_args!("{:?}", name.escape_ascii())));
    }
    Ok(name.into())
}

fn xattr_name(t: &mut Take<'_>) -> Result<Box<[u8]>> {
    let at = *t;
    let name = t.bytes(XATTR_NAME_MAX)?;
    if name.is_empty() || name.contains(&0) {
        return Err(at.error("the name of an attribute", "another"));
    }
    Ok(name.into())
}

/// A range within one block.
fn range(t: &mut Take<'_>) -> Result<(u64, u32)> {
    let offset = t.varint_max(FILE_MAX)?;
    let at = *t;
    let len = t.varint_max(u64::from(BLOCK))? as u32;
    let room = u64::from(BLOCK) - offset % u64::from(BLOCK);
    if len == 0 || u64::from(len) > room.min(FILE_MAX - offset) {
        return Err(at.error(format_args!("1 to {room} bytes"), len));
    }
    Ok((offset, len))
}

fn take_data(t: &mut Take<'_>, raw: &mut usize) -> Result<Item> {
    let ino = ino(t)?;
    let at = *t;
    let (offset, len) = range(t)?;
    let len = len as usize;
    match raw.checked_sub(len) {
        Some(left) => *raw = left,
        None => return Err(at.error(format_args!("at most {raw} more bytes of data"), len)),
    }
    let at = *t;
    let byte = t.u8()?;
    let codec = Codec::from_byte(byte).ok_or_else(|| at.error("a codec", byte))?;
    let at = *t;
    let stored = t.bytes(BLOCK as usize)?;
    let bytes = match codec {
        Codec::None if stored.len() != len => {
            return Err(at.error(format_args!("{len} bytes"), stored.len()));
        }
        Codec::None => stored.to_vec(),
        Codec::Lz4 | Codec::Zstd => {
            let mut bytes = vec![0; len];
            decompress(codec, stored, &mut bytes, at.place())?;
            bytes
        }
    };
    Ok(Item::Data { ino, offset, bytes })
}
