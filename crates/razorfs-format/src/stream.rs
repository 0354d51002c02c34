//! A stream: what a snapshot has that an older one has not, carried from a volume to another.
//!
//! ```text
//! header  magic `RZSTREAM` | version u16 | zero u16 | length of the body u32 | features u64 |
//!         body | crc u32
//! body    sender's uuid 16 B | the snapshot: identity, name bytes | flags u8 |
//!         flags & 1: the base: identity, name bytes | end of the inode numbers v |
//!         origins: count v, each `first v | count v | uuid 16 B | first there v` |
//!         flags & 2: goes on at `sequence number v | link 16 B`
//! frame   magic `RZSF` u32 | kind u8 | zero 3 B | length of the payload u32 | sequence number u64 |
//!         payload | crc u32
//! ```
//!
//! An identity is `uuid 16 B | id v | time v`: the volume where the snapshot was taken, its number
//! there and when, in nanoseconds since 1970. The header's CRC covers all of it before the CRC; a
//! frame's too, seeded (id of the snapshot, id of the base or 0). Unknown features refuse.
//!
//! Frames are numbered from 0. The payload of kind 1, a *batch*, is `cursor bytes` and then items
//! until its end; the cursor tells the sender where to go on after it. Kind 2, the last frame, has
//! `link 16 B | frames v`. The link is a chain of hashes over the identities and all payloads
//! ([`Link`]), the same whether the stream came in one piece or not.
//!
//! | item | bytes after its kind |
//! |---|---|
//! | 1 inode | `ino v | mode v | uid v | gid v | rdev v | flags v | size v | atime, mtime, ctime, btime (seconds sv, nanoseconds v) | target bytes` |
//! | 2 name | `dir v | name bytes | ino v`: the name leads to the inode |
//! | 3 no name | `dir v | name bytes`: it leads nowhere any more |
//! | 4 attribute | `ino v | name bytes | value bytes` |
//! | 5 no attribute | `ino v | name bytes` |
//! | 6 data | `ino v | offset v | length v | codec u8 | stored bytes`: within one block of 128 KiB |
//! | 7 hole | `ino v | offset v | length v`: within one block |
//! | 8 gone | `ino v`: it has lost its last name |
//!
//! Inode numbers are the sender's, and below `end`. Of the origins each says that a run of them
//! came from another volume and what they were there; the rest are the sender's own.

use siphasher::sip128::{Hasher128, SipHasher13};
use std::hash::Hasher;

use crate::compress::{Compression, compress, decompress};
use crate::crc::crc32c;
use crate::error::{FormatError, Place, Result};
use crate::ids::Ino;
use crate::layout::FileName;
use crate::record::{
    BLOCK, Codec, FILE_MAX, FileKind, NAME_MAX, TARGET_MAX, Time, XATTR_NAME_MAX, XATTR_VALUE_MAX,
    inode_flags, is_name,
};
use crate::wire::{Put, Take};

/// Begins every stream.
pub const MAGIC: [u8; 8] = *b"RZSTREAM";
/// The version of streams that are written, and the newest that is read.
pub const VERSION: u16 = 1;
/// Bytes of a header before its body.
pub const PRELUDE: usize = 24;
/// Longest body of a header.
pub const BODY_MAX: usize = 64 << 10;
const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"RZSF");
/// Bytes of a frame before its payload.
pub const FRAME_PRELUDE: usize = 20;
/// Longest payload of a frame.
pub const PAYLOAD_MAX: usize = 1 << 20;
/// Most bytes of file data that the items of a frame decompress to.
pub const RAW_MAX: usize = 1 << 20;
/// Longest cursor.
pub const CURSOR_MAX: usize = 64;
/// Most origins.
pub const ORIGINS_MAX: usize = 1000;
/// Inode numbers end here: what a stream claims never uses them up.
pub const INO_END: u64 = 1 << 62;
/// Flags of an inode that a stream carries; the others follow from the rest.
pub const FLAGS: u32 = inode_flags::SPARSE
    | inode_flags::APPEND
    | inode_flags::IMMUTABLE
    | inode_flags::ZSTD
    | inode_flags::NO_COMPRESSION;

/// Bytes of a stream are told by their offset in the header or the frame alone.
const fn place() -> Place {
    Place::new(FileName::Super, 0)
}

/// Which snapshot it is, in whatever volume it is found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Identity {
    /// The volume where it was taken.
    pub volume: [u8; 16],
    /// Its number there.
    pub id: u64,
    /// When it was taken, in nanoseconds since 1970. Of two copies of a volume that go on by
    /// themselves each may take a snapshot of one number, but not at one time.
    pub time: u64,
}

impl Identity {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.volume);
        out.put_varint(self.id);
        out.put_varint(self.time);
    }

    fn decode(t: &mut Take<'_>) -> Result<Self> {
        Ok(Self {
            volume: t.array()?,
            id: t.varint()?,
            time: t.varint()?,
        })
    }
}

/// A snapshot as a stream names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Named {
    /// Which it is.
    pub identity: Identity,
    /// What it is called: 1 to 255 bytes.
    pub name: Box<[u8]>,
}

impl Named {
    fn encode(&self, out: &mut Vec<u8>) {
        self.identity.encode(out);
        out.put_bytes(&self.name);
    }

    fn decode(t: &mut Take<'_>) -> Result<Self> {
        let identity = Identity::decode(t)?;
        let at = *t;
        let name: Box<[u8]> = t.bytes(NAME_MAX)?.into();
        if name.is_empty() {
            return Err(at.error("the name of a snapshot", "no byte"));
        }
        Ok(Self { identity, name })
    }
}

/// A run of inode numbers that came from another volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin {
    /// The first of them here.
    pub first: u64,
    /// How many, at least 1.
    pub count: u64,
    /// The volume.
    pub volume: [u8; 16],
    /// What the first was there.
    pub there: u64,
}

/// Appends a list of origins.
pub fn put_origins(origins: &[Origin], out: &mut Vec<u8>) {
    out.put_varint(origins.len() as u64);
    for origin in origins {
        out.put_varint(origin.first);
        out.put_varint(origin.count);
        out.extend_from_slice(&origin.volume);
        out.put_varint(origin.there);
    }
}

/// Reads a list of origins: in order, apart, and of numbers that inodes have.
pub fn take_origins(t: &mut Take<'_>) -> Result<Vec<Origin>> {
    let count = t.varint_max(ORIGINS_MAX as u64)?;
    let mut origins: Vec<Origin> = Vec::new();
    let mut end = Ino::FIRST.0;
    for _ in 0..count {
        let at = *t;
        let first = t.varint_max(INO_END)?;
        let origin = Origin {
            first,
            count: t.varint_max(INO_END)?,
            volume: t.array()?,
            there: t.varint_max(INO_END)?,
        };
        if first < end || origin.count == 0 || origin.there < Ino::FIRST.0 {
            return Err(at.error("runs of inodes, in order", format_args!("{first}")));
        }
        end = first + origin.count;
        origins.push(origin);
    }
    Ok(origins)
}

/// The chain of hashes: of what was sent so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link(pub [u8; 16]);

impl Link {
    /// The key is no secret: the chain tells damage, not forgery.
    const KEY: [u8; 16] = *b"razorfs stream 1";

    /// Before the first frame.
    #[must_use]
    pub fn first(snapshot: &Identity, base: Option<&Identity>) -> Self {
        let mut bytes = Vec::new();
        snapshot.encode(&mut bytes);
        bytes.put_u8(u8::from(base.is_some()));
        if let Some(base) = base {
            base.encode(&mut bytes);
        }
        Self([0; 16]).then(&bytes)
    }

    /// After one more payload.
    #[must_use]
    pub fn then(self, payload: &[u8]) -> Self {
        let mut hasher = SipHasher13::new_with_key(&Self::KEY);
        hasher.write(&self.0);
        hasher.write(payload);
        Self(hasher.finish128().as_bytes())
    }
}

/// Where a stream that was broken off goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GoesOn {
    /// Number of the first frame.
    pub sequence: u64,
    /// The chain up to there.
    pub link: Link,
}

/// The header of a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// The volume that sends.
    pub sender: [u8; 16],
    /// What the receiver will have.
    pub snapshot: Named,
    /// What it must have, unless the stream has everything.
    pub base: Option<Named>,
    /// All inode numbers are below.
    pub end: u64,
    /// Those that came from elsewhere.
    pub origins: Vec<Origin>,
    /// Where it goes on, unless it begins.
    pub goes_on: Option<GoesOn>,
}

impl Header {
    /// The bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend_from_slice(&self.sender);
        self.snapshot.encode(&mut body);
        body.put_u8(u8::from(self.base.is_some()) | u8::from(self.goes_on.is_some()) << 1);
        if let Some(base) = &self.base {
            base.encode(&mut body);
        }
        body.put_varint(self.end);
        put_origins(&self.origins, &mut body);
        if let Some(GoesOn { sequence, link }) = &self.goes_on {
            body.put_varint(*sequence);
            body.extend_from_slice(&link.0);
        }
        let mut out = Vec::with_capacity(PRELUDE + body.len() + 4);
        out.extend_from_slice(&MAGIC);
        out.put_u16(VERSION);
        out.put_u16(0);
        out.put_u32(body.len() as u32);
        out.put_u64(0);
        out.extend_from_slice(&body);
        let crc = crc32c(&[], &out);
        out.put_u32(crc);
        out
    }

    /// How many bytes follow the first [`PRELUDE`], the CRC among them. They are not checked yet,
    /// but for what makes reading on pointless.
    pub fn rest_len(prelude: &[u8; PRELUDE]) -> Result<usize> {
        let mut t = Take::new(prelude, place(), "header of a stream");
        let start = t;
        let magic: [u8; 8] = t.array()?;
        if magic != MAGIC {
            let got = format_args!("{:?}", magic.escape_ascii().to_string()).to_string();
            return Err(start.error("a stream of `razorfs send`", got));
        }
        let at = t;
        let version = t.u16()?;
        if version == 0 || version > VERSION {
            let expected = format_args!("version {VERSION} or older").to_string();
            return Err(at.error(expected, format_args!("version {version}")));
        }
        t.u16()?;
        let at = t;
        let body = t.u32()? as usize;
        if body > BODY_MAX {
            return Err(at.error(format_args!("at most {BODY_MAX} bytes"), body));
        }
        let at = t;
        let features = t.u64()?;
        if features != 0 {
            let got = format_args!("{features:#x}").to_string();
            return Err(at.error("features that are known", got));
        }
        Ok(body + 4)
    }

    /// Reads a header that fills `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut t = Take::new(bytes, place(), "header of a stream");
        let len = Self::rest_len(&t.array()?)?;
        let body = t.slice(len - 4)?;
        let at = t;
        let crc = t.u32()?;
        t.end()?;
        let covered = bytes.len().saturating_sub(4);
        if crc != crc32c(&[], bytes.get(..covered).unwrap_or_default()) {
            return Err(at.error("another checksum", "damaged bytes"));
        }
        let mut t = Take::new(body, place().plus(PRELUDE as u64), "header of a stream");
        let sender = t.array()?;
        let snapshot = Named::decode(&mut t)?;
        let at = t;
        let flags = t.u8()?;
        if flags > 3 {
            return Err(at.error("flags 0 to 3", flags));
        }
        let base = (flags & 1 != 0).then(|| Named::decode(&mut t)).transpose()?;
        let end = t.varint_max(INO_END)?;
        let at = t;
        let origins = take_origins(&mut t)?;
        if origins.last().is_some_and(|last| last.first + last.count > end) {
            return Err(at.error(format_args!("numbers below {end}"), "a larger one"));
        }
        let goes_on = match flags & 2 {
            0 => None,
            _ => Some(GoesOn {
                sequence: t.varint()?,
                link: Link(t.array()?),
            }),
        };
        t.end()?;
        Ok(Self {
            sender,
            snapshot,
            base,
            end,
            origins,
            goes_on,
        })
    }

    /// What the checksums of frames are seeded with.
    #[must_use]
    pub fn seed(&self) -> [u64; 2] {
        let base = self.base.as_ref().map_or(0, |base| base.identity.id);
        [self.snapshot.identity.id, base]
    }

    /// The chain before the first frame of all.
    #[must_use]
    pub fn first_link(&self) -> Link {
        let base = self.base.as_ref().map(|base| &base.identity);
        Link::first(&self.snapshot.identity, base)
    }
}

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum FrameKind {
    /// Items that are applied together.
    Batch = 1,
    /// Nothing follows.
    End = 2,
}

/// Appends a frame.
pub fn put_frame(
    seed: [u64; 2],
    kind: FrameKind,
    sequence: u64,
    payload: &[u8],
    out: &mut Vec<u8>,
) {
    debug_assert!(payload.len() <= PAYLOAD_MAX);
    let start = out.len();
    out.put_u32(FRAME_MAGIC);
    out.extend_from_slice(&[kind as u8, 0, 0, 0]);
    out.put_u32(payload.len() as u32);
    out.put_u64(sequence);
    out.extend_from_slice(payload);
    let crc = crc32c(&seed, out.get(start..).unwrap_or_default());
    out.put_u32(crc);
}

/// How many bytes follow the first [`FRAME_PRELUDE`] of a frame, the CRC among them.
pub fn frame_rest(prelude: &[u8; FRAME_PRELUDE]) -> Result<usize> {
    let mut t = Take::new(prelude, place(), "frame of a stream");
    let start = t;
    if t.u32()? != FRAME_MAGIC {
        return Err(start.error("a frame", "other bytes"));
    }
    t.u32()?;
    let at = t;
    let len = t.u32()? as usize;
    if len > PAYLOAD_MAX {
        return Err(at.error(format_args!("at most {PAYLOAD_MAX} bytes"), len));
    }
    Ok(len + 4)
}

/// Reads a frame that fills `bytes` and must be the one of this number.
pub fn take_frame(seed: [u64; 2], sequence: u64, bytes: &[u8]) -> Result<(FrameKind, &[u8])> {
    let mut t = Take::new(bytes, place(), "frame of a stream");
    let len = frame_rest(&t.array()?)?;
    let payload = t.slice(len - 4)?;
    let at = t;
    let crc = t.u32()?;
    t.end()?;
    let covered = bytes.len().saturating_sub(4);
    if crc != crc32c(&seed, bytes.get(..covered).unwrap_or_default()) {
        return Err(at.error("another checksum", "damaged bytes"));
    }
    let mut t = Take::new(bytes, place(), "frame of a stream");
    t.u32()?;
    let at = t;
    let kind = match t.array()? {
        [1, 0, 0, 0] => FrameKind::Batch,
        [2, 0, 0, 0] => FrameKind::End,
        other => return Err(at.error("kind 1 or 2", format_args!("{other:?}"))),
    };
    t.u32()?;
    let at = t;
    let found = t.u64()?;
    if found != sequence {
        return Err(at.error(format_args!("frame {sequence}"), format_args!("{found}")));
    }
    Ok((kind, payload))
}

/// What the last frame says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct End {
    /// The chain over all batches.
    pub link: Link,
    /// How many there were.
    pub frames: u64,
}

impl End {
    /// The payload.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.link.0.to_vec();
        out.put_varint(self.frames);
        out
    }

    /// Reads it.
    pub fn decode(payload: &[u8]) -> Result<Self> {
        let mut t = Take::new(payload, place(), "end of a stream");
        let end = Self {
            link: Link(t.array()?),
            frames: t.varint()?,
        };
        t.end()?;
        Ok(end)
    }
}

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

/// Splits the payload of a batch into its cursor and its items.
pub fn take_batch(payload: &[u8]) -> Result<(&[u8], Vec<Item>)> {
    let mut t = Take::new(payload, place(), "batch of a stream");
    let cursor = t.bytes(CURSOR_MAX)?;
    let mut raw = RAW_MAX;
    let mut items = Vec::new();
    while !t.is_empty() {
        items.push(Item::decode(&mut t, &mut raw)?);
    }
    Ok((cursor, items))
}

/// What is wrong with a stream, without the name of a file, which it has not.
#[must_use]
pub fn what_is_wrong(e: &FormatError) -> String {
    let m = &e.0;
    format!("{}: expected {}, got {}", m.what, m.expected, m.got)
}
