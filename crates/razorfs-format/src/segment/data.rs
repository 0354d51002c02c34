//! Data blocks of any table behind one door: [`BlockBuilder`] makes them, [`Block`] searches them
//! in place. [`super::block`] and [`super::dirblock`] know the bytes.

use std::ops::Range;

use crate::error::{Place, Result};
use crate::ids::{Epoch, Ino};
use crate::key::{Key, Tag};
use crate::record::{Dirent, FileKind};
use crate::segment::block::{self, Plain};
use crate::segment::dirblock::{self, AllNames, Dirents};
use crate::wire::Put;

/// A record that waits for its block to be full.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) key: Key,
    pub(super) epoch: Epoch,
    /// Where the value, or for a directory entry the name, stands in the builder's buffer.
    pub(super) value: Option<Range<usize>>,
    /// Of a directory entry that is no tombstone.
    pub(super) entry: Option<(FileKind, Ino)>,
}

/// Collects the records of one block.
pub struct BlockBuilder {
    tag: Tag,
    records: Vec<Pending>,
    values: Vec<u8>,
    size: usize,
    tombstones: u32,
    epochs: Option<(Epoch, Epoch)>,
}

impl BlockBuilder {
    /// A block of table `tag`.
    #[must_use]
    pub const fn new(tag: Tag) -> Self {
        Self {
            tag,
            records: Vec::new(),
            values: Vec::new(),
            size: 0,
            tombstones: 0,
            epochs: None,
        }
    }

    /// Adds a record; `None` is a tombstone. The value of a directory entry is parsed, so it must
    /// be one; `place` is for the error if it is not.
    ///
    /// # Panics
    ///
    /// If the record is of another table, or not behind the one before: greater key, or the same
    /// key and a smaller epoch.
    pub fn push(
        &mut self,
        key: Key,
        epoch: Epoch,
        value: Option<&[u8]>,
        place: Place,
    ) -> Result<()> {
        assert_eq!(key.tag(), self.tag, "a block holds records of one table");
        if let Some(before) = self.records.last() {
            let ordered = before.key < key || (before.key == key && before.epoch > epoch);
            assert!(ordered, "{key:?} at {epoch} stands behind {:?}", before.key);
        }
        let start = self.values.len();
        let mut entry = None;
        if let Some(value) = value {
            if self.tag == Tag::Dirent {
                let dirent = Dirent::decode(value, place)?;
                self.values.extend_from_slice(&dirent.name);
                entry = Some((dirent.kind, dirent.ino));
            } else {
                self.values.extend_from_slice(value);
            }
        } else {
            self.tombstones += 1;
        }
        let range = start..self.values.len();
        self.size += range.len() + 12;
        let (low, high) = self.epochs.unwrap_or((epoch, epoch));
        self.epochs = Some((low.min(epoch), high.max(epoch)));
        let value = value.is_some().then_some(range);
        self.records.push(Pending {
            key,
            epoch,
            value,
            entry,
        });
        Ok(())
    }

    /// Whether a record more would make it larger than `limit` raw bytes, about, or too many.
    #[must_use]
    pub fn is_full(&self, limit: usize) -> bool {
        let most = match self.tag {
            Tag::Dirent => dirblock::ENTRIES_MAX,
            _ => usize::MAX,
        };
        let limit = if self.tag == Tag::Dirent {
            limit.min(dirblock::SIZE_MAX)
        } else {
            limit
        };
        self.size >= limit || self.records.len() >= most
    }

    /// Whether nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Number of records added.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// About how many raw bytes were added.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.size
    }

    /// Number of tombstones added.
    #[must_use]
    pub const fn tombstones(&self) -> u32 {
        self.tombstones
    }

    /// Smallest and largest epoch added.
    #[must_use]
    pub const fn epochs(&self) -> Option<(Epoch, Epoch)> {
        self.epochs
    }

    /// The last key added.
    #[must_use]
    pub fn last_key(&self) -> Option<Key> {
        self.records.last().map(|r| r.key)
    }

    /// The raw bytes of the block; the builder is empty again.
    #[must_use]
    pub fn finish(&mut self) -> Vec<u8> {
        let bytes = match self.tag {
            Tag::Dirent => dirblock::encode(&self.records, &self.values),
            _ => block::encode(&self.records, &self.values),
        };
        self.records.clear();
        self.values.clear();
        self.size = 0;
        self.tombstones = 0;
        self.epochs = None;
        bytes
    }
}

/// A position between two records of a block. The default is before the first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Position {
    pub(super) index: u32,
    pub(super) offset: u32,
    pub(super) key: [u8; 31],
    pub(super) key_len: u8,
}

impl Position {
    pub(super) fn key(&self) -> &[u8] {
        self.key
            .get(..usize::from(self.key_len))
            .unwrap_or_default()
    }

    /// Replaces what follows the first `shared` bytes of the key.
    pub(super) fn set_key(&mut self, shared: usize, rest: &[u8]) {
        if let Some(room) = self.key.get_mut(shared..shared + rest.len()) {
            room.copy_from_slice(rest);
            self.key_len = (shared + rest.len()) as u8;
        }
    }
}

/// Room for a value that does not stand in its block as such. Whoever reads a block from one end to
/// the other keeps one, and then the names of a directory block are decoded once, all together.
#[derive(Clone, Debug, Default)]
pub struct ValueBuf {
    value: Vec<u8>,
    /// The block that the rest is about.
    block: Option<Place>,
    /// Names that were asked for one by one.
    asked: u32,
    names: Option<AllNames>,
}

/// Names asked for one by one, after which all of the block are decoded.
const PATIENCE: u32 = 24;

impl ValueBuf {
    /// The value of the directory entry that leads to `ino` with name `index` of `block`.
    fn dirent(
        &mut self,
        block: &Dirents<'_>,
        place: Place,
        (kind, ino, index): (FileKind, Ino, usize),
    ) -> Result<&[u8]> {
        if self.block != Some(place) {
            self.block = Some(place);
            self.asked = 0;
            self.names = None;
        }
        self.asked += 1;
        if self.asked > PATIENCE && self.names.is_none() {
            self.names = Some(block.all_names()?);
        }
        let one;
        let name = match self.names.as_ref().and_then(|all| all.get(index)) {
            Some(name) => name,
            None => {
                one = block.name(index)?;
                one.as_bytes()
            }
        };
        self.value.clear();
        self.value.put_u8(kind as u8);
        self.value.put_varint(ino.0);
        self.value.put_bytes(name);
        Ok(&self.value)
    }
}

/// A record of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry<'a> {
    /// Its key.
    pub key: Key,
    /// The epoch that wrote this version.
    pub epoch: Epoch,
    /// Its value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
}

impl Entry<'_> {
    pub(super) fn key_text(&self) -> String {
        format!("{:?} of epoch {}", self.key, self.epoch)
    }
}

/// A data block in memory, decompressed, searched in place.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    place: Place,
    kind: Kind<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Kind<'a> {
    Plain(Plain<'a>),
    Dirents(Dirents<'a>),
}

impl<'a> Block<'a> {
    /// The block of table `tag` that fills `bytes`.
    pub fn parse(tag: Tag, bytes: &'a [u8], place: Place) -> Result<Self> {
        let kind = match tag {
            Tag::Dirent => Kind::Dirents(Dirents::parse(bytes, place)?),
            _ => Kind::Plain(Plain::parse(tag, bytes, place)?),
        };
        Ok(Self { place, kind })
    }

    /// Number of records, tombstones included.
    #[must_use]
    pub const fn len(&self) -> u32 {
        match &self.kind {
            Kind::Plain(b) => b.len(),
            Kind::Dirents(b) => b.len(),
        }
    }

    /// Whether there is no record; never true for a parsed block.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The position before the first record whose key is `key` or greater.
    pub fn seek(&self, key: &Key) -> Result<Position> {
        match &self.kind {
            Kind::Plain(b) => b.seek(key),
            Kind::Dirents(b) => b.seek(key),
        }
    }

    /// The record behind `position`, which moves over it; `None` at the end. `room` may hold the
    /// value afterwards.
    pub fn next<'v>(
        &'v self,
        position: &mut Position,
        room: &'v mut ValueBuf,
    ) -> Result<Option<Entry<'v>>> {
        self.next_before(None, position, room)
    }

    /// As [`Block::next`], but `None` too if the record's key is `to` or greater; its value is not
    /// looked at then.
    pub fn next_before<'v>(
        &'v self,
        to: Option<&Key>,
        position: &mut Position,
        room: &'v mut ValueBuf,
    ) -> Result<Option<Entry<'v>>> {
        let ends = |key: &Key| to.is_some_and(|to| key >= to);
        match &self.kind {
            Kind::Plain(b) => {
                let Some(raw) = b.next(position)? else {
                    return Ok(None);
                };
                let key = self.key(position.key())?;
                let (epoch, value) = (raw.epoch, raw.value);
                Ok(Some(Entry { key, epoch, value }).filter(|entry| !ends(&entry.key)))
            }
            Kind::Dirents(b) => {
                let Some(entry) = b.entry(position.index)?.filter(|e| !ends(&e.key)) else {
                    return Ok(None);
                };
                position.index += 1;
                let value = match entry.target {
                    None => None,
                    Some(target) => Some(room.dirent(b, self.place, target)?),
                };
                Ok(Some(Entry {
                    key: entry.key,
                    epoch: entry.epoch,
                    value,
                }))
            }
        }
    }

    fn key(&self, bytes: &[u8]) -> Result<Key> {
        Key::from_bytes(bytes).ok_or_else(|| {
            self.place.error(
                "segment record",
                "a key",
                format_args!("bytes {bytes:02x?}"),
            )
        })
    }

    /// Checks what searching does not: the order and the extent of the names of a directory block.
    pub fn check(&self) -> Result<()> {
        match &self.kind {
            Kind::Plain(_) => Ok(()),
            Kind::Dirents(b) => b.check(),
        }
    }

    /// The newest version of `key` that is not newer than `at`.
    pub fn find<'v>(
        &'v self,
        key: &Key,
        at: Epoch,
        room: &'v mut ValueBuf,
    ) -> Result<Option<Entry<'v>>> {
        let mut position = self.seek(key)?;
        match &self.kind {
            Kind::Plain(b) => {
                while let Some(raw) = b.next(&mut position)? {
                    if position.key() != key.as_bytes() {
                        break;
                    }
                    if raw.epoch <= at {
                        return Ok(Some(Entry {
                            key: *key,
                            epoch: raw.epoch,
                            value: raw.value,
                        }));
                    }
                }
            }
            Kind::Dirents(b) => {
                while let Some(entry) = b.entry(position.index)? {
                    if entry.key != *key {
                        break;
                    }
                    if entry.epoch <= at {
                        return self.next(&mut position, room);
                    }
                    position.index += 1;
                }
            }
        }
        Ok(None)
    }
}
