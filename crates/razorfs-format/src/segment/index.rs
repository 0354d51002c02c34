//! Index partitions and the top index: entries of fixed length, searched in place.
//!
//! `entries u32 | key length u8 | 1 in a top index, else 0, u8 | zero u16`, then for each entry
//! `last key | offset, length, CRC u32 each | records u32 | tombstones u32 | largest epoch u64`,
//! in a top index followed by `offset, length, CRC` of the filter partition, all zero without one.
//! An entry of a partition stands for a data block, one of the top index for a partition.

use crate::error::{Place, Result};
use crate::ids::Epoch;
use crate::key::{Key, Tag};
use crate::segment::Handle;
use crate::segment::header::{expect, expect_key_len, expect_zeros};
use crate::wire::{Put, Take};

/// Most data blocks of one partition.
pub const PARTITION_BLOCKS: usize = 128;
const HEAD_LEN: usize = 8;
const FIXED_LEN: usize = Handle::LEN + 16;

/// What an index knows about a data block or a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IndexEntry {
    /// Last key in it.
    pub last: Key,
    /// Where it is.
    pub handle: Handle,
    /// Number of records in it, tombstones included.
    pub entries: u32,
    /// Number of tombstones in it.
    pub tombstones: u32,
    /// Largest epoch in it.
    pub epoch_max: Epoch,
    /// In a top index: the filter of the keys in it.
    pub filter: Handle,
}

/// The encoding of an index of table `tag`.
#[must_use]
pub fn encode(tag: Tag, top: bool, entries: &[IndexEntry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD_LEN + entries.len() * entry_len(tag, top));
    out.put_u32(entries.len() as u32);
    out.put_u8(tag.key_len() as u8);
    out.put_u8(u8::from(top));
    out.put_u16(0);
    for entry in entries {
        debug_assert_eq!(entry.last.tag(), tag);
        out.extend_from_slice(entry.last.as_bytes());
        entry.handle.encode(&mut out);
        out.put_u32(entry.entries);
        out.put_u32(entry.tombstones);
        out.put_u64(entry.epoch_max.0);
        if top {
            entry.filter.encode(&mut out);
        }
    }
    out
}

const fn entry_len(tag: Tag, top: bool) -> usize {
    tag.key_len() + FIXED_LEN + if top { Handle::LEN } else { 0 }
}

/// An index in memory.
#[derive(Clone, Copy, Debug)]
pub struct Index<'a> {
    tag: Tag,
    top: bool,
    entries: &'a [u8],
    place: Place,
}

impl<'a> Index<'a> {
    /// The index of table `tag` that fills `bytes`.
    pub fn parse(tag: Tag, top: bool, bytes: &'a [u8], place: Place) -> Result<Self> {
        let mut t = Take::new(bytes, place, "segment index");
        let start = t;
        let n = t.u32()? as usize;
        expect_key_len(&mut t, tag)?;
        expect(&mut t, Take::u8, u8::from(top))?;
        expect_zeros(&mut t, 2)?;
        if n == 0 || n.checked_mul(entry_len(tag, top)) != Some(t.rest().len()) {
            return Err(start.error(format_args!("entries of {} bytes", t.rest().len()), n));
        }
        Ok(Self {
            tag,
            top,
            entries: t.rest(),
            place,
        })
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len() / entry_len(self.tag, self.top)
    }

    /// Whether there is no entry; never true for a parsed index.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn raw(&self, i: usize) -> Option<&'a [u8]> {
        let len = entry_len(self.tag, self.top);
        self.entries.get(i.checked_mul(len)?..)?.get(..len)
    }

    /// Entry `i`, or `None` behind the last.
    pub fn get(&self, i: usize) -> Result<Option<IndexEntry>> {
        let Some(raw) = self.raw(i) else {
            return Ok(None);
        };
        let mut t = Take::new(raw, self.place, "segment index entry");
        let key = t.slice(self.tag.key_len())?;
        let Some(last) = Key::from_bytes(key).filter(|key| key.tag() == self.tag) else {
            return Err(t.error("a key of the table", format_args!("bytes {key:02x?}")));
        };
        Ok(Some(IndexEntry {
            last,
            handle: Handle::decode(&mut t)?,
            entries: t.u32()?,
            tombstones: t.u32()?,
            epoch_max: Epoch(t.u64()?),
            filter: if self.top {
                Handle::decode(&mut t)?
            } else {
                Handle::default()
            },
        }))
    }

    /// The first entry whose last key is `key` or greater: the only one that can hold it.
    #[must_use]
    pub fn seek(&self, key: &Key) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            let last = self
                .raw(middle)
                .and_then(|raw| raw.get(..self.tag.key_len()));
            if last.unwrap_or_default() < key.as_bytes() {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}
