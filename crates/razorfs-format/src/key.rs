//! Keys of the tables. `tag u8 | branch u32 | …`, all big endian, so that comparing the bytes
//! compares the keys, and one directory's entries, one file's extents, stand together.
//!
//! | tag | rest of the key | record |
//! |---|---|---|
//! | `D` | directory ino, cookie | [`crate::record::Dirent`] |
//! | `E` | ino, block number (128 KiB each) | [`crate::record::Extent`] |
//! | `I` | ino | [`crate::record::Inode`] |
//! | `L` | ino, parent ino, cookie | empty: a back link, kept only while nlink > 1 |
//! | `O` | ino | [`crate::record::Orphan`] |
//! | `S` | pack, position of the frame | [`crate::record::Shared`] |
//! | `X` | ino, hash of the name, seq u8 | [`crate::record::Xattr`] |
//! | `Z` | epoch of the kill, pack, position of the frame | [`crate::record::Held`] |
//!
//! The branch tells what is in the journal and in RAM apart. Segments have [`Branch::HEAD`] in all
//! keys: there the epoch of a record says whose it is ([`crate::timeline`]).
//!
//! `P` and `R` are reserved. Ino is always the eight bytes at offset 5; in an `S` key they are the
//! pack, in a `Z` key the epoch; the branch of both is that of the head.

use crate::ids::{Branch, Epoch, Ino, PackId};

/// Which table a key belongs to. The discriminant is the byte on the disk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Tag {
    /// Directory entries.
    Dirent = b'D',
    /// File data.
    Extent = b'E',
    /// Inodes.
    Inode = b'I',
    /// Back links of inodes with several names.
    Link = b'L',
    /// Inodes to be reaped, or truncations to be finished.
    Orphan = b'O',
    /// How many blocks share a frame; written by flushes alone, never journaled.
    Shared = b'S',
    /// Extended attributes.
    Xattr = b'X',
    /// Frames that the head let go of and a snapshot holds; written by flushes alone, never
    /// journaled.
    Held = b'Z',
}

impl Tag {
    /// All tables, in key order.
    pub const ALL: [Self; 8] = [
        Self::Dirent,
        Self::Extent,
        Self::Inode,
        Self::Link,
        Self::Orphan,
        Self::Shared,
        Self::Xattr,
        Self::Held,
    ];

    /// The tag that `byte` stands for.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            b'D' => Self::Dirent,
            b'E' => Self::Extent,
            b'I' => Self::Inode,
            b'L' => Self::Link,
            b'O' => Self::Orphan,
            b'S' => Self::Shared,
            b'X' => Self::Xattr,
            b'Z' => Self::Held,
            _ => return None,
        })
    }

    /// Length of every key of this table, in bytes.
    #[must_use]
    pub const fn key_len(self) -> usize {
        match self {
            Self::Inode | Self::Orphan => 13,
            Self::Dirent | Self::Extent | Self::Shared => 21,
            Self::Xattr => 22,
            Self::Link | Self::Held => 29,
        }
    }
}

const CAP: usize = 31;

/// A key, at most 31 bytes, without allocation. Order is the order of its bytes.
#[derive(Clone, Copy)]
pub struct Key {
    buf: [u8; CAP],
    len: u8,
}

impl Key {
    fn start(tag: Tag, branch: Branch, ino: Ino) -> Self {
        let mut key = Self {
            buf: [0; CAP],
            len: 0,
        };
        key.push(&[tag as u8]);
        key.push(&branch.0.to_be_bytes());
        key.push(&ino.0.to_be_bytes());
        key
    }

    fn push(&mut self, bytes: &[u8]) {
        let at = usize::from(self.len);
        if let Some(room) = self.buf.get_mut(at..at + bytes.len()) {
            room.copy_from_slice(bytes);
            self.len += bytes.len() as u8;
        } else {
            unreachable!("no key is longer than {CAP} bytes");
        }
    }

    /// The entry of directory `dir` with `cookie`.
    #[must_use]
    pub fn dirent(branch: Branch, dir: Ino, cookie: u64) -> Self {
        let mut key = Self::start(Tag::Dirent, branch, dir);
        key.push(&cookie.to_be_bytes());
        key
    }

    /// Block `block` of file `ino`.
    #[must_use]
    pub fn extent(branch: Branch, ino: Ino, block: u64) -> Self {
        let mut key = Self::start(Tag::Extent, branch, ino);
        key.push(&block.to_be_bytes());
        key
    }

    /// Inode `ino`.
    #[must_use]
    pub fn inode(branch: Branch, ino: Ino) -> Self {
        Self::start(Tag::Inode, branch, ino)
    }

    /// The name of `ino` in `parent` at `cookie`.
    #[must_use]
    pub fn link(branch: Branch, ino: Ino, parent: Ino, cookie: u64) -> Self {
        let mut key = Self::start(Tag::Link, branch, ino);
        key.push(&parent.0.to_be_bytes());
        key.push(&cookie.to_be_bytes());
        key
    }

    /// Orphan `ino`.
    #[must_use]
    pub fn orphan(branch: Branch, ino: Ino) -> Self {
        Self::start(Tag::Orphan, branch, ino)
    }

    /// The frame whose header stands at `pos` of `pack`.
    #[must_use]
    pub fn shared(pack: PackId, pos: u64) -> Self {
        let mut key = Self::start(Tag::Shared, Branch::HEAD, Ino(pack.0));
        key.push(&pos.to_be_bytes());
        key
    }

    /// The frame whose header stands at `pos` of `pack`, as a flush of this epoch let go of it.
    #[must_use]
    pub fn held(killed: Epoch, pack: PackId, pos: u64) -> Self {
        let mut key = Self::start(Tag::Held, Branch::HEAD, Ino(killed.0));
        key.push(&pack.0.to_be_bytes());
        key.push(&pos.to_be_bytes());
        key
    }

    /// Extended attribute of `ino` with this name hash; `seq` tells colliding names apart.
    #[must_use]
    pub fn xattr(branch: Branch, ino: Ino, hash: u64, seq: u8) -> Self {
        let mut key = Self::start(Tag::Xattr, branch, ino);
        key.push(&hash.to_be_bytes());
        key.push(&[seq]);
        key
    }

    /// The first key that a table can have.
    #[must_use]
    pub fn first_of(tag: Tag) -> Self {
        Self::filled(tag, 0)
    }

    /// The last key that a table can have.
    #[must_use]
    pub fn last_of(tag: Tag) -> Self {
        Self::filled(tag, 0xff)
    }

    fn filled(tag: Tag, byte: u8) -> Self {
        let mut key = Self {
            buf: [0; CAP],
            len: 0,
        };
        key.push(&[tag as u8]);
        let rest = [byte; CAP];
        key.push(rest.get(1..tag.key_len()).unwrap_or_default());
        key
    }

    /// The key that `bytes` are, if the tag is known and the length is that tag's.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let tag = Tag::from_byte(*bytes.first()?)?;
        if bytes.len() != tag.key_len() {
            return None;
        }
        let mut key = Self {
            buf: [0; CAP],
            len: 0,
        };
        key.push(bytes);
        Some(key)
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.buf.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// The key that follows this one among keys of the same table.
    #[must_use]
    pub fn successor(&self) -> Self {
        let mut next = *self;
        let len = usize::from(self.len);
        for byte in next.buf.iter_mut().take(len).rev() {
            *byte = byte.wrapping_add(1);
            if *byte != 0 {
                break;
            }
        }
        next
    }

    /// The buffer as numbers that order as its bytes do; the last two share a byte.
    fn words(&self) -> [u64; 4] {
        [0, 8, 16, CAP - 8].map(|at| self.u64_at(at))
    }

    fn u64_at(&self, at: usize) -> u64 {
        match self.buf.get(at..).and_then(<[u8]>::first_chunk::<8>) {
            Some(b) => u64::from_be_bytes(*b),
            None => unreachable!("offsets of key fields lie inside the key"),
        }
    }

    /// The table.
    #[must_use]
    pub fn tag(&self) -> Tag {
        match self.buf.first().copied().and_then(Tag::from_byte) {
            Some(tag) => tag,
            None => unreachable!("a key is only made with a known tag"),
        }
    }

    /// The same key in another branch.
    #[must_use]
    pub fn on(&self, branch: Branch) -> Self {
        let mut key = *self;
        if let Some(room) = key.buf.get_mut(1..5) {
            room.copy_from_slice(&branch.0.to_be_bytes());
        }
        key
    }

    /// The branch.
    #[must_use]
    pub fn branch(&self) -> Branch {
        match self.buf.get(1..).and_then(<[u8]>::first_chunk::<4>) {
            Some(b) => Branch(u32::from_be_bytes(*b)),
            None => unreachable!("a key has a branch"),
        }
    }

    /// The inode: the directory of an entry, the file of an extent, else the inode itself. Of a
    /// shared frame it is [`Key::pack`], of a held one [`Key::killed`].
    #[must_use]
    pub fn ino(&self) -> Ino {
        Ino(self.u64_at(5))
    }

    /// The epoch whose flush let go of a held frame.
    #[must_use]
    pub fn killed(&self) -> Epoch {
        Epoch(self.u64_at(5))
    }

    /// The frame of a shared or held one: its pack, and where its header stands there.
    #[must_use]
    pub fn frame(&self) -> (PackId, u64) {
        match self.tag() {
            Tag::Held => (PackId(self.second()), self.u64_at(21)),
            _ => (self.pack(), self.second()),
        }
    }

    /// The pack of a shared frame.
    #[must_use]
    pub fn pack(&self) -> PackId {
        PackId(self.u64_at(5))
    }

    /// The second number: cookie of an entry, block of an extent, parent of a link, name hash of
    /// an attribute, position of a shared frame, pack of a held one. Zero for inodes and orphans.
    #[must_use]
    pub fn second(&self) -> u64 {
        self.u64_at(13)
    }

    /// The cookie of a back link.
    #[must_use]
    pub fn link_cookie(&self) -> u64 {
        self.u64_at(21)
    }

    /// The collision number of an attribute.
    #[must_use]
    pub fn xattr_seq(&self) -> u8 {
        self.buf.get(21).copied().unwrap_or_default()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.buf == other.buf && self.len == other.len
    }
}
impl Eq for Key {}
impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Key {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // Unused bytes are zero, so the whole buffer orders as the bytes do, then the length.
        let order = self.words().cmp(&other.words());
        order.then(self.len.cmp(&other.len))
    }
}
impl std::hash::Hash for Key {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (branch, ino) = (self.branch().0, self.ino().0);
        match self.tag() {
            Tag::Dirent => write!(f, "D[{branch}]{ino}/{:#x}", self.second()),
            Tag::Extent => write!(f, "E[{branch}]{ino}+{}", self.second()),
            Tag::Inode => write!(f, "I[{branch}]{ino}"),
            Tag::Link => {
                write!(
                    f,
                    "L[{branch}]{ino}<{}/{:#x}",
                    self.second(),
                    self.link_cookie()
                )
            }
            Tag::Orphan => write!(f, "O[{branch}]{ino}"),
            Tag::Shared => write!(f, "S[{branch}]{ino}@{}", self.second()),
            Tag::Held => {
                let (pack, pos) = self.frame();
                write!(f, "Z{ino}-{pack}@{pos}")
            }
            Tag::Xattr => write!(
                f,
                "X[{branch}]{ino}:{:#x}.{}",
                self.second(),
                self.xattr_seq()
            ),
        }
    }
}
