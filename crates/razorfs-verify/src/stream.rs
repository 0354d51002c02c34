//! The records of a segment in order, read block by block; what is damaged is passed over.

use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use razorfs_disk::File;
use razorfs_format::key::Key;
use razorfs_format::layout::FileName;
use razorfs_format::manifest::SegmentMeta;
use razorfs_format::segment::seal::unseal;
use razorfs_format::segment::search::find_blocks;
use razorfs_format::segment::{
    Block, BlockKind, FOOTER_LEN, Filter, Footer, HEADER_LEN, Handle, Identity, Index, IndexEntry,
    Position, ValueBuf, filter_hash,
};
use razorfs_format::timeline::View;
use razorfs_format::{Epoch, FormatError};

use crate::session::{Opened, Session, WHOLE_MAX};

/// One version of a record; without a value it is a tombstone.
pub struct Record {
    pub key: Key,
    pub epoch: Epoch,
    pub value: Option<Box<[u8]>>,
}

/// Records that are lost with a part of a segment: some of the keys from `first` to `last`.
#[derive(Clone)]
pub struct LostRange {
    /// The segment.
    pub file: FileName,
    pub first: Key,
    pub last: Key,
    /// The last key is not one of them.
    before: bool,
    /// None of them was older, and none younger.
    pub epoch_min: Epoch,
    pub epoch_max: Epoch,
    /// Of the keys that were there, and others.
    filter: Option<Arc<[u8]>>,
}

impl LostRange {
    /// Whether a version of `key` may have been here.
    pub fn may_hold(&self, key: &Key) -> bool {
        let place = razorfs_format::Place::new(self.file, 0);
        let filter = self.filter.as_deref();
        let filter = filter.and_then(|raw| Filter::parse(raw, place).ok());
        (self.first..=self.last).contains(key)
            && !(self.before && *key == self.last)
            && filter.is_none_or(|f| f.may_hold(filter_hash(key)))
    }

    /// Those that a view shows, if it shows any.
    pub fn seen_by(&self, sight: &View) -> Option<Self> {
        let newest = sight.newest(self.epoch_max);
        let epoch_max = newest.filter(|newest| *newest >= self.epoch_min)?;
        Some(Self {
            epoch_max,
            ..self.clone()
        })
    }
}

/// A segment that is read from one end to the other.
pub struct SegmentStream {
    id: Identity,
    meta: SegmentMeta,
    file: Option<Arc<dyn File>>,
    /// Partitions and blocks that are still to be read, the next one last.
    partitions: Vec<IndexEntry>,
    /// With what the index says of them, if there is one.
    blocks: Vec<(Handle, BlockKind, Option<IndexEntry>)>,
    records: VecDeque<Record>,
    /// What could not be read.
    pub errors: Vec<FormatError>,
    /// What is lost with that.
    pub lost: Vec<LostRange>,
    /// All before this byte was read, or passed over.
    at: u64,
    /// There is no index: blocks are those that were found.
    searching: bool,
    /// The last block was seen.
    complete: bool,
    /// Between the blocks that were found were bytes that are none.
    gap: bool,
    /// All keys up to this one were read, or are lost.
    last: Option<Key>,
    filter: Option<Arc<[u8]>>,
}

impl SegmentStream {
    /// Opens the segment that the manifest describes as `meta`. If that is not possible there
    /// are no records; the check of the segments says why.
    pub fn open(s: &mut Session<'_>, meta: &SegmentMeta) -> Self {
        let id = Identity {
            volume: s.vid,
            segment: meta.id,
            tag: meta.tag,
        };
        let mut this = Self {
            id,
            meta: *meta,
            file: None,
            partitions: Vec::new(),
            blocks: Vec::new(),
            records: VecDeque::new(),
            errors: Vec::new(),
            lost: Vec::new(),
            at: HEADER_LEN as u64,
            searching: false,
            complete: false,
            gap: false,
            last: None,
            filter: None,
        };
        let name = FileName::Segment(meta.id);
        let Opened::File(file, len) = s.open(name) else {
            s.incomplete = true;
            this.lose_up_to(meta.last, false);
            return this;
        };
        this.file = Some(file);
        if let Err(e) = this.read_top(s, meta, len.min(meta.bytes)) {
            this.failed(s, e);
            this.search(s);
        }
        this
    }

    fn failed(&mut self, s: &mut Session<'_>, error: FormatError) {
        s.incomplete = true;
        self.errors.push(error);
    }

    /// The records behind the last one that was read are lost up to `last`; `before`: without it.
    fn lose_up_to(&mut self, last: Key, before: bool) {
        self.lose(last, before, self.meta.epoch_max);
    }

    fn lose(&mut self, last: Key, before: bool, epoch_max: Epoch) {
        let first = self.last.map_or(self.meta.first, |key| key.successor());
        if first < last || (first == last && !before) {
            self.lost.push(LostRange {
                file: FileName::Segment(self.id.segment),
                first,
                last,
                before,
                epoch_min: self.meta.epoch_min,
                epoch_max,
                filter: self.filter.clone(),
            });
        }
        self.last = self.last.max(Some(last));
    }

    /// Without an index: the blocks that are found in the file, behind those that were read.
    fn search(&mut self, s: &mut Session<'_>) {
        self.partitions.clear();
        self.blocks.clear();
        self.filter = None;
        self.searching = true;
        self.complete = false;
        let Some(file) = self.file.clone().filter(|_| s.salvage) else {
            return;
        };
        let len = file.len().unwrap_or(0).min(WHOLE_MAX);
        let bytes = s.read_all(&*file, FileName::Segment(self.id.segment), len);
        let found = find_blocks(self.id, &bytes);
        let blocks = found.iter().map(|b| (b.handle, b.kind, None));
        self.blocks = blocks
            .filter(|(h, _, _)| u64::from(h.offset) >= self.at)
            .collect();
        self.blocks.reverse();
    }

    fn read_top(
        &mut self,
        s: &mut Session<'_>,
        meta: &SegmentMeta,
        len: u64,
    ) -> Result<(), FormatError> {
        let at = len.saturating_sub(FOOTER_LEN as u64);
        let bytes = self.bytes(s, at, FOOTER_LEN);
        let footer = Footer::decode(&bytes, self.id, meta.footer_crc, at)?;
        let (raw, place) = (
            self.unseal(s, BlockKind::Top, footer.top)?,
            footer.top.offset,
        );
        let place = self.id.place(u64::from(place));
        let index = Index::parse(self.id.tag, true, &raw, place)?;
        self.partitions = entries(&index)?;
        Ok(())
    }

    fn bytes(&self, s: &mut Session<'_>, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let Some(file) = &self.file else {
            return Vec::new();
        };
        let name = FileName::Segment(self.id.segment);
        let got = s.read(&**file, name, &mut bytes, offset);
        bytes.truncate(got);
        bytes
    }

    fn unseal(
        &self,
        s: &mut Session<'_>,
        kind: BlockKind,
        handle: Handle,
    ) -> Result<Box<[u8]>, FormatError> {
        // A handle says at most 1 MiB, or it would not have been decoded.
        let bytes = self.bytes(s, u64::from(handle.offset), handle.len as usize);
        unseal(self.id, kind, handle, &bytes)
    }

    /// The next record that can be read.
    pub fn next(&mut self, s: &mut Session<'_>) -> Option<Record> {
        loop {
            if let Some(record) = self.records.pop_front() {
                return Some(record);
            }
            if let Some((handle, kind, entry)) = self.blocks.pop() {
                self.pass(handle);
                let last = entry.map(|e| e.last);
                if kind == BlockKind::Data
                    && let Err(e) = self.read_block(s, handle, last)
                {
                    self.failed(s, e);
                    if let Some(entry) = entry {
                        self.lose(entry.last, false, entry.epoch_max);
                    }
                    self.gap |= self.searching;
                }
                if self.searching {
                    self.complete = kind == BlockKind::Top;
                }
            } else if let Some(partition) = self.partitions.pop() {
                self.complete = self.partitions.is_empty();
                if let Err(e) = self.read_partition(s, &partition) {
                    self.failed(s, e);
                    self.search(s);
                }
            } else {
                if self.gap || !self.complete {
                    self.gap = false;
                    self.complete = true;
                    self.lose_up_to(self.meta.last, false);
                }
                return None;
            }
        }
    }

    /// Goes on behind a block.
    fn pass(&mut self, handle: Handle) {
        if self.searching && u64::from(handle.offset) != self.at {
            self.gap = true;
        }
        self.at = u64::from(handle.offset) + u64::from(handle.len);
    }

    fn read_partition(
        &mut self,
        s: &mut Session<'_>,
        entry: &IndexEntry,
    ) -> Result<(), FormatError> {
        let raw = self.unseal(s, BlockKind::Index, entry.handle)?;
        let place = self.id.place(u64::from(entry.handle.offset));
        let blocks = entries(&Index::parse(self.id.tag, false, &raw, place)?)?;
        let data = |e: IndexEntry| (e.handle, BlockKind::Data, Some(e));
        self.blocks = blocks.into_iter().map(data).collect();
        self.filter = None;
        if s.salvage && entry.filter.len > 0 {
            // One that is damaged denies nothing.
            let raw = self.unseal(s, BlockKind::Filter, entry.filter).ok();
            self.filter = raw.map(Arc::from);
        }
        Ok(())
    }

    fn read_block(
        &mut self,
        s: &mut Session<'_>,
        handle: Handle,
        last: Option<Key>,
    ) -> Result<(), FormatError> {
        let raw = self.unseal(s, BlockKind::Data, handle)?;
        let place = self.id.place(u64::from(handle.offset));
        let block = Block::parse(self.id.tag, &raw, place)?;
        let mut position = Position::default();
        let mut room = ValueBuf::default();
        let mut records = VecDeque::new();
        while let Some(record) = block.next(&mut position, &mut room)? {
            records.push_back(Record {
                key: record.key,
                epoch: record.epoch,
                value: record.value.map(Into::into),
            });
        }
        if let Some(first) = records.front().filter(|_| self.gap) {
            self.lose_up_to(first.key, true);
            self.gap = false;
        }
        self.last = last.or(records.back().map(|r| r.key)).or(self.last);
        self.records = records;
        Ok(())
    }
}

/// All entries, the first one last.
fn entries(index: &Index<'_>) -> Result<Vec<IndexEntry>, FormatError> {
    let mut entries = Vec::with_capacity(index.len());
    for i in (0..index.len()).rev() {
        entries.extend(index.get(i)?);
    }
    Ok(entries)
}

/// What the merge waits for: a segment that is not open yet, or the next record of one that is.
struct Head {
    key: Key,
    epoch: Epoch,
    /// Which of the segments.
    index: usize,
    /// `None`: not open yet.
    record: Option<Record>,
}

impl Head {
    /// In order of the keys, of one key the newest first; what is not open yet before all.
    fn rank(&self) -> impl Ord {
        let newest = std::cmp::Reverse(self.epoch);
        (self.key, self.record.is_some(), newest, self.index)
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Head {}
impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Head {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // The heap gives out its greatest.
        other.rank().cmp(&self.rank())
    }
}

/// The records of several segments, in the order of their keys and of one key the newest first: of
/// each key the newest version that a view shows, or all. A segment is open only while its keys are
/// passed.
pub struct Merge {
    metas: Vec<SegmentMeta>,
    streams: Vec<Option<SegmentStream>>,
    heads: BinaryHeap<Head>,
    last: Option<Key>,
    view: Option<View>,
}

impl Merge {
    pub fn new(metas: Vec<SegmentMeta>, view: Option<View>) -> Self {
        let heads = metas.iter().enumerate().map(|(index, meta)| Head {
            key: meta.first,
            epoch: Epoch(0),
            index,
            record: None,
        });
        Self {
            heads: heads.collect(),
            streams: metas.iter().map(|_| None).collect(),
            metas,
            last: None,
            view,
        }
    }

    /// The next record.
    pub fn next(&mut self, s: &mut Session<'_>) -> Option<Record> {
        loop {
            let head = self.heads.pop()?;
            if head.record.is_none()
                && let Some(meta) = self.metas.get(head.index)
            {
                let stream = SegmentStream::open(s, meta);
                if let Some(slot) = self.streams.get_mut(head.index) {
                    *slot = Some(stream);
                }
            }
            self.refill(s, head.index);
            if let Some(record) = head.record
                && self.is_wanted(&record)
            {
                self.last = Some(record.key);
                return Some(record);
            }
        }
    }

    fn is_wanted(&self, record: &Record) -> bool {
        match &self.view {
            None => true,
            Some(view) => self.last != Some(record.key) && view.sees(record.epoch),
        }
    }

    fn refill(&mut self, s: &mut Session<'_>, index: usize) {
        let Some(slot) = self.streams.get_mut(index) else {
            return;
        };
        match slot.as_mut().and_then(|stream| stream.next(s)) {
            Some(record) => self.heads.push(Head {
                key: record.key,
                epoch: record.epoch,
                index,
                record: Some(record),
            }),
            None => *slot = None,
        }
    }
}
