//! One segment, open for reading. Footer and top index stay in memory from the first use on;
//! everything else goes through the block cache, checked when it is loaded.

use std::sync::{Arc, OnceLock};

use razorfs_disk::{Dir, File, Name};
use razorfs_format::key::{Key, Tag};
use razorfs_format::layout::FileName;
use razorfs_format::manifest::SegmentMeta;
use razorfs_format::parity::Object;
use razorfs_format::segment::{
    Block, BlockKind, FOOTER_LEN, Filter, Footer, Handle, Identity, Index, IndexEntry, Position,
    ValueBuf, seal,
};
use razorfs_format::{Epoch, VolumeId};

use super::cache::{BlockCache, BlockId, Cached};
use super::{Bytes, Record};
use crate::Result;
use crate::parity::Host;

/// Bytes that a scan past the cache reads at once.
const READ_AHEAD: usize = 256 << 10;

/// A segment at its level. Moving it to another level makes another one over the same file.
pub(crate) struct Segment {
    pub(super) meta: SegmentMeta,
    pub(super) file: Arc<SegmentFile>,
}

/// The file of a segment, opened at its first use.
pub(crate) struct SegmentFile {
    id: Identity,
    bytes: u64,
    footer_crc: u32,
    host: Host,
    cache: Arc<BlockCache>,
    open: OnceLock<Open>,
}

struct Open {
    file: Arc<dyn File>,
    top: Box<[u8]>,
    top_offset: u32,
}

/// The name of a segment's file.
pub(super) fn name(file: FileName) -> Name {
    Name::new(Dir::Meta, &file.leaf())
}

/// Reads exactly `len` bytes; a file that is too short is damage.
fn read_exactly(file: &dyn File, id: Identity, offset: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let got = file.read_at(&mut bytes, offset)?;
    if got != len {
        let place = id.place(offset);
        return Err(place
            .error("segment", format_args!("{len} bytes"), got)
            .into());
    }
    Ok(bytes)
}

impl SegmentFile {
    pub(super) fn new(
        host: Host,
        volume: VolumeId,
        cache: Arc<BlockCache>,
        meta: &SegmentMeta,
    ) -> Self {
        Self {
            id: Identity {
                volume,
                segment: meta.id,
                tag: meta.tag,
            },
            bytes: meta.bytes,
            footer_crc: meta.footer_crc,
            host,
            cache,
            open: OnceLock::new(),
        }
    }

    fn open(&self) -> Result<&Open> {
        if let Some(open) = self.open.get() {
            return Ok(open);
        }
        let file = self.host.open(self.object())?;
        let at = self.bytes.saturating_sub(FOOTER_LEN as u64);
        let (footer, top) = self.host.checked(self.object(), &file, &mut |file| {
            let footer = read_exactly(file, self.id, at, FOOTER_LEN)?;
            let footer = Footer::decode(&footer, self.id, self.footer_crc, at)?;
            let (from, len) = (footer.top.offset.into(), footer.top.len as usize);
            let sealed = read_exactly(file, self.id, from, len)?;
            let top = seal::unseal(self.id, BlockKind::Top, footer.top, &sealed)?;
            Ok((footer, top))
        })?;
        // Two threads may both have opened it; one wins, the other's file is closed.
        Ok(self.open.get_or_init(|| Open {
            file,
            top,
            top_offset: footer.top.offset,
        }))
    }

    fn object(&self) -> Object {
        Object::Segment(self.id.segment)
    }

    fn top(&self) -> Result<Index<'_>> {
        let open = self.open()?;
        let place = self.id.place(open.top_offset.into());
        Ok(Index::parse(self.id.tag, true, &open.top, place)?)
    }

    fn load(&self, kind: BlockKind, handle: Handle) -> Result<Box<[u8]>> {
        let file = &self.open()?.file;
        self.host.checked(self.object(), file, &mut |file| {
            let sealed = read_exactly(file, self.id, handle.offset.into(), handle.len as usize)?;
            Ok(seal::unseal(self.id, kind, handle, &sealed)?)
        })
    }

    fn block(&self, kind: BlockKind, handle: Handle) -> Result<Cached> {
        let id = BlockId {
            segment: self.id.segment,
            offset: handle.offset,
        };
        self.cache.get(id, || self.load(kind, handle))
    }

    /// The partition that `key` is in, if it is there at all, unless its filter denies `hash`.
    fn partition(&self, key: &Key, hash: u64) -> Result<Option<IndexEntry>> {
        let top = self.top()?;
        let Some(entry) = top.get(top.seek(key))? else {
            return Ok(None);
        };
        if entry.filter.len == 0 {
            return Ok(Some(entry));
        }
        let raw = self.block(BlockKind::Filter, entry.filter)?;
        let filter = Filter::parse(&raw, self.id.place(entry.filter.offset.into()))?;
        Ok(filter.may_hold(hash).then_some(entry))
    }

    /// Whether a key with `key`'s prefix, whose hash is `hash`, can be at or behind `key`.
    pub(super) fn may_hold(&self, key: &Key, hash: u64) -> Result<bool> {
        Ok(self.partition(key, hash)?.is_some())
    }

    /// The newest version of `key` that is not newer than `at`; `hash` is the key's.
    pub(super) fn get(self: &Arc<Self>, key: &Key, hash: u64, at: Epoch) -> Result<Option<Record>> {
        let Some(partition) = self.partition(key, hash)? else {
            return Ok(None);
        };
        let raw = self.block(BlockKind::Index, partition.handle)?;
        let place = self.id.place(partition.handle.offset.into());
        let index = Index::parse(self.id.tag, false, &raw, place)?;
        let Some(entry) = index.get(index.seek(key))? else {
            return Ok(None);
        };
        let raw = self.block(BlockKind::Data, entry.handle)?;
        let place = self.id.place(entry.handle.offset.into());
        let block = Block::parse(self.id.tag, &raw, place)?;
        let mut room = ValueBuf::default();
        if let Some(found) = block.find(key, at, &mut room)? {
            let value = found.value.map(Bytes::from);
            return Ok(Some(Record {
                key: found.key,
                epoch: found.epoch,
                value,
            }));
        }
        if entry.last != *key {
            return Ok(None);
        }
        // Older versions of the key may stand in the next block.
        let mut cursor = Cursor::new(Arc::clone(self), true);
        cursor.seek(key)?;
        while let Some(record) = cursor.next_before(None)?.filter(|r| r.key == *key) {
            if record.epoch <= at {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }
}

/// Walks over the records of a segment, all versions, in order.
pub(super) struct Cursor {
    file: Arc<SegmentFile>,
    /// Whether blocks come from and go to the cache: a scan of everything would only flush it.
    cached: bool,
    /// Blocks in which nothing is younger are passed over.
    after: Epoch,
    /// The next partition of the top index.
    partition: usize,
    /// Offset of the index partition, its bytes, and the next block in it.
    index: Option<(u32, Cached, usize)>,
    block: Option<(u32, Cached)>,
    /// Last key of the block.
    last: Option<Key>,
    position: Position,
    room: ValueBuf,
    ahead: (u64, Vec<u8>),
}

impl Cursor {
    /// Before the first record.
    pub(super) fn new(file: Arc<SegmentFile>, cached: bool) -> Self {
        Self {
            file,
            cached,
            after: Epoch(0),
            partition: 0,
            index: None,
            block: None,
            last: None,
            position: Position::default(),
            room: ValueBuf::default(),
            ahead: (0, Vec::new()),
        }
    }

    /// Only what may be younger than `after` is read.
    pub(super) fn younger(mut self, after: Epoch) -> Self {
        self.after = after;
        self
    }

    /// Whether a block or a partition has nothing that is wanted.
    fn is_too_old(&self, entry: &IndexEntry) -> bool {
        self.after > Epoch(0) && entry.epoch_max <= self.after
    }

    fn tag(&self) -> Tag {
        self.file.id.tag
    }

    /// Moves before the first record whose key is `key` or greater.
    pub(super) fn seek(&mut self, key: &Key) -> Result<()> {
        self.partition = self.file.top()?.seek(key);
        self.index = None;
        self.block = None;
        if self.next_partition()? {
            if let Some((offset, raw, next)) = &mut self.index {
                let place = self.file.id.place(u64::from(*offset));
                *next = Index::parse(self.file.id.tag, false, raw, place)?.seek(key);
            }
            if self.next_block()?
                && let Some((offset, raw)) = &self.block
            {
                let place = self.file.id.place(u64::from(*offset));
                self.position = Block::parse(self.tag(), raw, place)?.seek(key)?;
            }
        }
        Ok(())
    }

    /// The next record whose key is smaller than `to`; all of them have been seen after `None`.
    pub(super) fn next_before(&mut self, to: Option<&Key>) -> Result<Option<Record>> {
        loop {
            if let Some((offset, raw)) = &self.block {
                let place = self.file.id.place(u64::from(*offset));
                let block = Block::parse(self.file.id.tag, raw, place)?;
                if let Some(entry) = block.next_before(to, &mut self.position, &mut self.room)? {
                    let value = entry.value.map(Bytes::from);
                    return Ok(Some(Record {
                        key: entry.key,
                        epoch: entry.epoch,
                        value,
                    }));
                }
                // The block is at its end, or the range is: then its last key is behind it.
                if to.is_some_and(|to| self.last >= Some(*to)) {
                    return Ok(None);
                }
                self.block = None;
            }
            if !self.next_block()? && !self.next_partition()? {
                return Ok(None);
            }
        }
    }

    fn next_partition(&mut self) -> Result<bool> {
        let entry = loop {
            let Some(entry) = self.file.top()?.get(self.partition)? else {
                return Ok(false);
            };
            self.partition += 1;
            if !self.is_too_old(&entry) {
                break entry;
            }
        };
        let raw = self.fetch(BlockKind::Index, entry.handle)?;
        self.index = Some((entry.handle.offset, raw, 0));
        Ok(true)
    }

    fn next_block(&mut self) -> Result<bool> {
        let entry = loop {
            let Some((offset, raw, next)) = &mut self.index else {
                return Ok(false);
            };
            let place = self.file.id.place(u64::from(*offset));
            let Some(entry) = Index::parse(self.file.id.tag, false, raw, place)?.get(*next)? else {
                self.index = None;
                return Ok(false);
            };
            *next += 1;
            if !self.is_too_old(&entry) {
                break entry;
            }
        };
        self.last = Some(entry.last);
        self.block = Some((
            entry.handle.offset,
            self.fetch(BlockKind::Data, entry.handle)?,
        ));
        self.position = Position::default();
        Ok(true)
    }

    fn fetch(&mut self, kind: BlockKind, handle: Handle) -> Result<Cached> {
        if self.cached {
            return self.file.block(kind, handle);
        }
        if kind != BlockKind::Data {
            return self.file.load(kind, handle).map(Arc::new);
        }
        let (start, len) = (u64::from(handle.offset), handle.len as usize);
        let skip = start.checked_sub(self.ahead.0).map(|skip| skip as usize);
        let held = skip.and_then(|skip| self.ahead.1.get(skip..skip.checked_add(len)?));
        if let Some(sealed) = held {
            return match seal::unseal(self.file.id, kind, handle, sealed) {
                Ok(raw) => Ok(Arc::new(raw)),
                // This block alone, with parity if need be.
                Err(_) => self.file.load(kind, handle).map(Arc::new),
            };
        }
        let most = self.file.bytes.saturating_sub(start) as usize;
        let want = len.max(READ_AHEAD).min(most.max(len));
        self.ahead = (start, Vec::new());
        if let Ok(ahead) = read_exactly(&*self.file.open()?.file, self.file.id, start, want) {
            self.ahead.1 = ahead;
        }
        let sealed = self.ahead.1.get(..len).unwrap_or_default();
        match seal::unseal(self.file.id, kind, handle, sealed) {
            Ok(raw) => Ok(Arc::new(raw)),
            // This block alone, with parity if need be.
            Err(_) => self.file.load(kind, handle).map(Arc::new),
        }
    }
}
