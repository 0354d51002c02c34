//! The bytes of a whole segment: records in order become blocks, partitions, a top index and a
//! footer. Whoever has the file writes what [`SegmentBuilder::waiting`] shows.

use crate::error::Result;
use crate::ids::Epoch;
use crate::key::{Key, Tag};
use crate::manifest::SegmentMeta;
use crate::record::Codec;
use crate::segment::{
    BlockBuilder, BlockKind, FOOTER_LEN, Footer, HEADER_LEN, Handle, Header, Identity, IndexEntry,
    filter, filter_hash, index, seal,
};

/// How the blocks of a segment are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Style {
    /// Raw bytes of a block, about; blocks of directory entries are twice as large.
    pub block_bytes: usize,
    /// Compression of blocks, where it saves a sixteenth.
    pub codec: Codec,
    /// Whether filters are written.
    pub filter: bool,
}

/// Sums over a segment.
#[derive(Default)]
struct Totals {
    entries: u64,
    tombstones: u64,
    epochs: Option<(Epoch, Epoch)>,
}

/// A segment under way.
pub struct SegmentBuilder {
    style: Style,
    id: Identity,
    /// Bytes that wait to be written, and where in the file they begin.
    waiting: Vec<u8>,
    waiting_at: u64,
    builder: BlockBuilder,
    /// Blocks of the partition under way, and its filter hashes.
    partition: Vec<IndexEntry>,
    hashes: Vec<u64>,
    top: Vec<IndexEntry>,
    totals: Totals,
    blocks: u32,
    first: Option<Key>,
    last: Option<(Key, Epoch)>,
}

impl SegmentBuilder {
    /// A segment without records.
    #[must_use]
    pub fn new(id: Identity, style: Style) -> Self {
        Self {
            style,
            id,
            // Room for the header, which is known at the end.
            waiting: vec![0; HEADER_LEN],
            waiting_at: 0,
            builder: BlockBuilder::new(id.tag),
            partition: Vec::new(),
            hashes: Vec::new(),
            top: Vec::new(),
            totals: Totals::default(),
            blocks: 0,
            first: None,
            last: None,
        }
    }

    fn offset(&self) -> u64 {
        self.waiting_at + self.waiting.len() as u64
    }

    /// About how many bytes the file has so far. Offsets in it have 32 bits: a segment must end
    /// long before that.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.offset() + self.builder.size() as u64
    }

    /// The last key that was added.
    #[must_use]
    pub fn last_key(&self) -> Option<Key> {
        self.last.map(|(key, _)| key)
    }

    /// The bytes to be written next, and where in the file they go.
    #[must_use]
    pub fn waiting(&self) -> (&[u8], u64) {
        (&self.waiting, self.waiting_at)
    }

    /// What was waiting is written.
    pub fn written(&mut self) {
        self.waiting_at += self.waiting.len() as u64;
        self.waiting.clear();
    }

    /// Adds a record; `None` is a tombstone.
    ///
    /// # Panics
    ///
    /// If the record is of another table or not in order.
    pub fn push(&mut self, key: Key, epoch: Epoch, value: Option<&[u8]>) -> Result<()> {
        let limit = match self.id.tag {
            Tag::Dirent => self.style.block_bytes * 2,
            _ => self.style.block_bytes,
        };
        let coming = value.map_or(0, <[u8]>::len);
        let crowded = self.builder.size() + coming > limit.max(seal::RAW_MAX / 2);
        if self.builder.is_full(limit) || (crowded && !self.builder.is_empty()) {
            self.end_block();
        }
        if let Some((before, at)) = self.last {
            let ordered = before < key || (before == key && at > epoch);
            assert!(ordered, "{key:?} comes after {before:?}");
        }
        if self.style.filter {
            let hash = filter_hash(&key);
            if self.hashes.last() != Some(&hash) {
                self.hashes.push(hash);
            }
        }
        let place = self.id.place(self.offset());
        self.builder.push(key, epoch, value, place)?;
        self.first.get_or_insert(key);
        self.last = Some((key, epoch));
        Ok(())
    }

    fn append(&mut self, kind: BlockKind, codec: Codec, raw: &[u8]) -> Handle {
        // A segment ends soon after its target, which is far below what 32 bits hold.
        let offset = self.offset() as u32;
        seal::seal(self.id, kind, codec, raw, offset, &mut self.waiting)
    }

    fn end_block(&mut self) {
        let (Some(last), Some(epochs)) = (self.builder.last_key(), self.builder.epochs()) else {
            return;
        };
        let entries = self.builder.len() as u32;
        let tombstones = self.builder.tombstones();
        let raw = self.builder.finish();
        let handle = self.append(BlockKind::Data, self.style.codec, &raw);
        self.partition.push(IndexEntry {
            last,
            handle,
            entries,
            tombstones,
            epoch_max: epochs.1,
            filter: Handle::default(),
        });
        self.blocks += 1;
        self.totals.entries += u64::from(entries);
        self.totals.tombstones += u64::from(tombstones);
        let (low, high) = self.totals.epochs.unwrap_or(epochs);
        self.totals.epochs = Some((low.min(epochs.0), high.max(epochs.1)));
        let full = self.partition.len() >= index::PARTITION_BLOCKS
            || self.hashes.len() + entries as usize >= filter::PARTITION_KEYS;
        if full {
            self.end_partition();
        }
    }

    fn end_partition(&mut self) {
        let Some(end) = self.partition.last() else {
            return;
        };
        let (last, epoch) = (end.last, end.epoch_max);
        let filter = if self.style.filter {
            // Compression finds nothing in a filter.
            let raw = filter::encode(&self.hashes);
            self.append(BlockKind::Filter, Codec::None, &raw)
        } else {
            Handle::default()
        };
        let raw = index::encode(self.id.tag, false, &self.partition);
        let handle = self.append(BlockKind::Index, self.style.codec, &raw);
        let epochs = self.partition.iter().map(|e| e.epoch_max);
        self.top.push(IndexEntry {
            last,
            handle,
            entries: self.partition.iter().map(|e| e.entries).sum(),
            tombstones: self.partition.iter().map(|e| e.tombstones).sum(),
            epoch_max: epochs.fold(epoch, Epoch::max),
            filter,
        });
        self.partition.clear();
        self.hashes.clear();
    }

    /// Ends the segment: the rest is waiting now. Answers what the manifest says of it, and the
    /// header, to be written at the beginning of the file, if that was written before.
    ///
    /// # Panics
    ///
    /// If it has no record.
    pub fn finish(&mut self, level: u8, run: u64) -> (SegmentMeta, Option<Vec<u8>>) {
        self.end_block();
        self.end_partition();
        let raw = index::encode(self.id.tag, true, &self.top);
        let top = self.append(BlockKind::Top, self.style.codec, &raw);
        let (Some(first), Some((last, _)), Some((epoch_min, epoch_max))) =
            (self.first, self.last, self.totals.epochs)
        else {
            unreachable!("a segment is begun for a record");
        };
        let footer = Footer {
            id: self.id,
            epoch_min,
            epoch_max,
            entries: self.totals.entries,
            tombstones: self.totals.tombstones,
            bytes: self.offset() + FOOTER_LEN as u64,
            top,
            blocks: self.blocks,
            first,
            last,
        };
        let (footer_bytes, footer_crc) = footer.to_bytes();
        self.waiting.extend_from_slice(&footer_bytes);
        let header = Header {
            id: self.id,
            codec: self.style.codec,
            epoch_min,
            epoch_max,
        };
        let mut header = Some(header.to_bytes());
        if self.waiting_at == 0
            && let Some(room) = self.waiting.get_mut(..HEADER_LEN)
            && let Some(header) = header.take()
        {
            room.copy_from_slice(&header);
        }
        let meta = SegmentMeta {
            id: self.id.segment,
            tag: self.id.tag,
            level,
            first,
            last,
            epoch_min,
            epoch_max,
            bytes: footer.bytes,
            entries: footer.entries,
            tombstones: footer.tombstones,
            footer_crc,
            run,
        };
        (meta, header)
    }
}
