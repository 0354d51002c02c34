//! A stream: what a snapshot has that an older one has not, carried from a volume to another.
//!
//! ```text
//! header  magic `RZSTREAM` | version u16 | zero u16 | length of the body u32 | features u64 |
//!         body | crc u32
//! body    sender's uuid 16 B | the snapshot: identity, name bytes | flags u8 |
//!         flags & 1: the base: identity, name bytes | end of the inode numbers v |
//!         origins: count v, each `first v | count v | uuid 16 B | first there v` |
//!         flags & 2: goes on at `sequence number v | link 16 B`
//! frame   magic `RZSF` u32 | kind u8 | zero 3 B | length of the payload u32 |
//!         sequence number u64 | payload | crc u32
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

mod item;

use siphasher::sip128::{Hasher128, SipHasher13};
use std::hash::Hasher;

use crate::crc::crc32c;
use crate::error::{FormatError, Place, Result};
use crate::ids::Ino;
use crate::layout::FileName;
use crate::record::{NAME_MAX, inode_flags};
use crate::wire::{Put, Take};

pub use item::{Attributes, Item};

/// Snapshots whose names begin so are the volume's own: no name that is given to one can.
pub const HIDDEN: u8 = b'@';
/// The volume before a stream that is being received: what everybody is shown meanwhile, and what
/// it goes back to if the stream comes to no end. While there is one the present is a part of what
/// is going to be, in which inodes may have no name.
pub const RECEIVING: &[u8] = b"@receiving";
/// What came of a stream that was broken off: such a part.
pub const PART: &[u8] = b"@received-part";

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
/// Most items of a batch.
pub const ITEMS_MAX: usize = 16 << 10;
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
        let base = (flags & 1 != 0)
            .then(|| Named::decode(&mut t))
            .transpose()?;
        let end = t.varint_max(INO_END)?;
        let at = t;
        let origins = take_origins(&mut t)?;
        if origins
            .last()
            .is_some_and(|last| last.first + last.count > end)
        {
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

/// Splits the payload of a batch into its cursor and its items.
pub fn take_batch(payload: &[u8]) -> Result<(&[u8], Vec<Item>)> {
    let mut t = Take::new(payload, place(), "batch of a stream");
    let cursor = t.bytes(CURSOR_MAX)?;
    let mut raw = RAW_MAX;
    let mut items = Vec::new();
    while !t.is_empty() {
        if items.len() == ITEMS_MAX {
            return Err(t.error(format_args!("at most {ITEMS_MAX} items"), "more"));
        }
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
