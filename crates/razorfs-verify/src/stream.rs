//! The records of a segment in order, read block by block; what is damaged is passed over.

use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use razorfs_disk::File;
use razorfs_format::key::Key;
use razorfs_format::layout::FileName;
use razorfs_format::manifest::SegmentMeta;
use razorfs_format::segment::seal::unseal;
use razorfs_format::segment::{
    Block, BlockKind, FOOTER_LEN, Footer, Handle, Identity, Index, IndexEntry, Position, ValueBuf,
};
use razorfs_format::{Epoch, FormatError};

use crate::session::{Opened, Session};

/// One version of a record; without a value it is a tombstone.
pub struct Record {
    pub key: Key,
    pub epoch: Epoch,
    pub value: Option<Box<[u8]>>,
}

/// A segment that is read from one end to the other.
pub struct SegmentStream {
    id: Identity,
    file: Option<Arc<dyn File>>,
    /// Partitions and blocks that are still to be read, the next one last.
    partitions: Vec<IndexEntry>,
    blocks: Vec<IndexEntry>,
    records: VecDeque<Record>,
    /// What could not be read.
    pub errors: Vec<FormatError>,
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
            file: None,
            partitions: Vec::new(),
            blocks: Vec::new(),
            records: VecDeque::new(),
            errors: Vec::new(),
        };
        let name = FileName::Segment(meta.id);
        let Opened::File(file, len) = s.open(name) else {
            s.incomplete = true;
            return this;
        };
        this.file = Some(file);
        if let Err(e) = this.read_top(s, meta, len.min(meta.bytes)) {
            this.failed(s, e);
        }
        this
    }

    fn failed(&mut self, s: &mut Session<'_>, error: FormatError) {
        s.incomplete = true;
        self.errors.push(error);
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
            let done = if let Some(block) = self.blocks.pop() {
                self.read_block(s, &block)
            } else if let Some(partition) = self.partitions.pop() {
                self.read_partition(s, &partition)
            } else {
                return None;
            };
            if let Err(e) = done {
                self.failed(s, e);
            }
        }
    }

    fn read_partition(
        &mut self,
        s: &mut Session<'_>,
        entry: &IndexEntry,
    ) -> Result<(), FormatError> {
        let raw = self.unseal(s, BlockKind::Index, entry.handle)?;
        let place = self.id.place(u64::from(entry.handle.offset));
        self.blocks = entries(&Index::parse(self.id.tag, false, &raw, place)?)?;
        Ok(())
    }

    fn read_block(&mut self, s: &mut Session<'_>, entry: &IndexEntry) -> Result<(), FormatError> {
        let raw = self.unseal(s, BlockKind::Data, entry.handle)?;
        let place = self.id.place(u64::from(entry.handle.offset));
        let block = Block::parse(self.id.tag, &raw, place)?;
        let mut position = Position::default();
        let mut room = ValueBuf::default();
        while let Some(record) = block.next(&mut position, &mut room)? {
            self.records.push_back(Record {
                key: record.key,
                epoch: record.epoch,
                value: record.value.map(Into::into),
            });
        }
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

/// The newest versions of the records of several segments, in the order of their keys. A segment
/// is open only while its keys are passed.
pub struct Merge {
    metas: Vec<SegmentMeta>,
    streams: Vec<Option<SegmentStream>>,
    heads: BinaryHeap<Head>,
    last: Option<Key>,
}

impl Merge {
    pub fn new(metas: Vec<SegmentMeta>) -> Self {
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
        }
    }

    /// The newest version of the next key.
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
                && self.last != Some(record.key)
            {
                self.last = Some(record.key);
                return Some(record);
            }
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
