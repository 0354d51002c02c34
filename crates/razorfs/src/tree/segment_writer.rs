//! Writes segments: records in order become blocks, partitions, a top index and a footer.

use std::io::IoSlice;
use std::sync::Arc;

use razorfs_disk::{Dir, Disk, File};
use razorfs_format::key::{Key, Tag};
use razorfs_format::layout::FileName;
use razorfs_format::manifest::SegmentMeta;
use razorfs_format::record::Codec;
use razorfs_format::segment::{
    BlockBuilder, BlockKind, Footer, HEADER_LEN, Handle, Header, Identity, IndexEntry, filter,
    filter_hash, index, seal,
};
use razorfs_format::{Epoch, SegmentId, VolumeId};

use super::Record;
use super::segment_reader::name;
use crate::{Result, fence};

/// Bytes that are gathered for one write.
const WRITE_BYTES: usize = 1 << 20;
/// No segment is larger, whatever is asked for: offsets in it have 32 bits.
const TARGET_MAX: u64 = 1 << 30;

/// How segments are written.
#[derive(Clone, Debug)]
pub struct SegmentOptions {
    /// A segment ends at the first key after so many bytes.
    pub target_bytes: u64,
    /// Raw bytes of a block, about; blocks of directory entries are twice as large.
    pub block_bytes: usize,
    /// Compression of blocks, where it saves a sixteenth.
    pub codec: Codec,
    /// Whether filters are written.
    pub filter: bool,
    /// A segment ends before this key, too: a flush that says here where its new inodes begin keeps
    /// them apart from old ones that changed, and what is only appended is moved down unchanged.
    pub split: Option<Key>,
}

impl Default for SegmentOptions {
    fn default() -> Self {
        Self {
            target_bytes: 32 << 20,
            block_bytes: 16 << 10,
            codec: Codec::Lz4,
            filter: true,
            split: None,
        }
    }
}

/// Writes `records`, which come in the order of their keys, versions of one key newest first, to as
/// many segments of table `tag` as they need. The files have their temporary names and are durable,
/// the names not yet: [`publish`]. After an error the files that were begun are removed, if the
/// disk lets us.
///
/// # Panics
///
/// If a record is of another table or not in order.
#[expect(
    clippy::too_many_arguments,
    reason = "each is a plain fact about the new segments"
)]
pub fn write_segments(
    disk: &dyn Disk,
    vid: VolumeId,
    tag: Tag,
    level: u8,
    run: u64,
    new_id: &mut dyn FnMut() -> SegmentId,
    records: &mut dyn Iterator<Item = Result<Record>>,
    opts: &SegmentOptions,
) -> Result<Vec<SegmentMeta>> {
    let mut begun = Vec::new();
    let mut new_id = || {
        let id = new_id();
        begun.push(id);
        id
    };
    let done = write_all(disk, vid, tag, level, run, &mut new_id, records, opts);
    if done.as_ref().is_err_and(fence::may_undo) {
        for id in begun {
            // What cannot be removed now is removed at the next mount.
            let _ = disk.remove(&name(FileName::SegmentTmp(id)));
        }
    }
    done
}

#[expect(clippy::too_many_arguments, reason = "as its caller")]
fn write_all(
    disk: &dyn Disk,
    vid: VolumeId,
    tag: Tag,
    level: u8,
    run: u64,
    new_id: &mut dyn FnMut() -> SegmentId,
    records: &mut dyn Iterator<Item = Result<Record>>,
    opts: &SegmentOptions,
) -> Result<Vec<SegmentMeta>> {
    let mut metas = Vec::new();
    let mut writer: Option<Writer<'_>> = None;
    for record in records {
        let record = record?;
        if let Some(full) = writer.take_if(|w| w.ends_before(&record.key)) {
            metas.push(full.finish(level, run)?);
        }
        let writer = match &mut writer {
            Some(writer) => writer,
            empty => {
                let id = Identity {
                    volume: vid,
                    segment: new_id(),
                    tag,
                };
                empty.insert(Writer::create(disk, id, opts)?)
            }
        };
        writer.push(record)?;
    }
    if let Some(last) = writer {
        metas.push(last.finish(level, run)?);
    }
    Ok(metas)
}

/// Gives segments that were written their final names, durably.
pub fn publish(disk: &dyn Disk, segments: &[SegmentMeta]) -> Result<()> {
    for meta in segments {
        disk.rename(
            &name(FileName::SegmentTmp(meta.id)),
            &name(FileName::Segment(meta.id)),
        )?;
    }
    if !segments.is_empty() {
        disk.sync_dir(Dir::Meta)?;
    }
    Ok(())
}

/// Sums over a partition or a segment.
#[derive(Default)]
struct Totals {
    entries: u64,
    tombstones: u64,
    epochs: Option<(Epoch, Epoch)>,
}

struct Writer<'a> {
    opts: &'a SegmentOptions,
    id: Identity,
    file: Arc<dyn File>,
    /// Bytes that wait to be written, and where in the file they begin.
    pending: Vec<u8>,
    pending_at: u64,
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

impl<'a> Writer<'a> {
    fn create(disk: &dyn Disk, id: Identity, opts: &'a SegmentOptions) -> Result<Self> {
        let tmp = name(FileName::SegmentTmp(id.segment));
        let file = fence::create_for(disk, &tmp, &name(FileName::Segment(id.segment)))?;
        Ok(Self {
            opts,
            id,
            file,
            pending: vec![0; HEADER_LEN],
            pending_at: 0,
            builder: BlockBuilder::new(id.tag),
            partition: Vec::new(),
            hashes: Vec::new(),
            top: Vec::new(),
            totals: Totals::default(),
            blocks: 0,
            first: None,
            last: None,
        })
    }

    fn offset(&self) -> u64 {
        self.pending_at + self.pending.len() as u64
    }

    /// Whether `key` belongs to the next segment. Versions of one key stay together.
    fn ends_before(&self, key: &Key) -> bool {
        let Some((last, _)) = self.last.filter(|(last, _)| last != key) else {
            return false;
        };
        let target = self.opts.target_bytes.min(TARGET_MAX);
        let full = self.offset() + self.builder.size() as u64 >= target;
        full || self
            .opts
            .split
            .is_some_and(|split| last < split && split <= *key)
    }

    fn push(&mut self, record: Record) -> Result<()> {
        let limit = match self.id.tag {
            Tag::Dirent => self.opts.block_bytes * 2,
            _ => self.opts.block_bytes,
        };
        let coming = record.value.as_ref().map_or(0, |v| v.len());
        let crowded = self.builder.size() + coming > limit.max(seal::RAW_MAX / 2);
        if self.builder.is_full(limit) || (crowded && !self.builder.is_empty()) {
            self.end_block()?;
        }
        if let Some((key, epoch)) = self.last {
            let ordered = key < record.key || (key == record.key && epoch > record.epoch);
            assert!(ordered, "{:?} comes after {key:?}", record.key);
        }
        if self.opts.filter {
            let hash = filter_hash(&record.key);
            if self.hashes.last() != Some(&hash) {
                self.hashes.push(hash);
            }
        }
        let place = self.id.place(self.offset());
        self.builder
            .push(record.key, record.epoch, record.value.as_deref(), place)?;
        self.first.get_or_insert(record.key);
        self.last = Some((record.key, record.epoch));
        Ok(())
    }

    fn append(&mut self, kind: BlockKind, codec: Codec, raw: &[u8]) -> Result<Handle> {
        // A segment ends soon after its target, which is far below what 32 bits hold.
        let offset = self.offset() as u32;
        let handle = seal::seal(self.id, kind, codec, raw, offset, &mut self.pending);
        if self.pending.len() >= WRITE_BYTES {
            self.write_pending()?;
        }
        Ok(handle)
    }

    fn write_pending(&mut self) -> Result<()> {
        self.file
            .write_at(&[IoSlice::new(&self.pending)], self.pending_at)?;
        self.pending_at += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    fn end_block(&mut self) -> Result<()> {
        let (Some(last), Some(epochs)) = (self.builder.last_key(), self.builder.epochs()) else {
            return Ok(());
        };
        let entries = self.builder.len() as u32;
        let tombstones = self.builder.tombstones();
        let raw = self.builder.finish();
        let handle = self.append(BlockKind::Data, self.opts.codec, &raw)?;
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
        if full { self.end_partition() } else { Ok(()) }
    }

    fn end_partition(&mut self) -> Result<()> {
        let Some(last) = self.partition.last().map(|entry| entry.last) else {
            return Ok(());
        };
        let filter = if self.opts.filter {
            // Compression finds nothing in a filter.
            self.append(
                BlockKind::Filter,
                Codec::None,
                &filter::encode(&self.hashes),
            )?
        } else {
            Handle::default()
        };
        let raw = index::encode(self.id.tag, false, &self.partition);
        let handle = self.append(BlockKind::Index, self.opts.codec, &raw)?;
        self.top.push(IndexEntry {
            last,
            handle,
            entries: self.partition.iter().map(|e| e.entries).sum(),
            tombstones: self.partition.iter().map(|e| e.tombstones).sum(),
            epoch_max: self
                .partition
                .iter()
                .map(|e| e.epoch_max)
                .max()
                .unwrap_or_default(),
            filter,
        });
        self.partition.clear();
        self.hashes.clear();
        Ok(())
    }

    fn finish(mut self, level: u8, run: u64) -> Result<SegmentMeta> {
        self.end_block()?;
        self.end_partition()?;
        let raw = index::encode(self.id.tag, true, &self.top);
        let top = self.append(BlockKind::Top, self.opts.codec, &raw)?;
        let (Some(first), Some((last, _)), Some((epoch_min, epoch_max))) =
            (self.first, self.last, self.totals.epochs)
        else {
            unreachable!("a segment is begun for a record");
        };
        let bytes = self.offset() + razorfs_format::segment::FOOTER_LEN as u64;
        let footer = Footer {
            id: self.id,
            epoch_min,
            epoch_max,
            entries: self.totals.entries,
            tombstones: self.totals.tombstones,
            bytes,
            top,
            blocks: self.blocks,
            first,
            last,
        };
        let (footer_bytes, footer_crc) = footer.to_bytes();
        self.pending.extend_from_slice(&footer_bytes);
        let header = Header {
            id: self.id,
            codec: self.opts.codec,
            epoch_min,
            epoch_max,
        };
        let header = header.to_bytes();
        match self.pending.get_mut(..HEADER_LEN) {
            Some(room) if self.pending_at == 0 => room.copy_from_slice(&header),
            _ => self.file.write_at(&[IoSlice::new(&header)], 0)?,
        }
        self.write_pending()?;
        self.file.sync_data()?;
        Ok(SegmentMeta {
            id: self.id.segment,
            tag: self.id.tag,
            level,
            first,
            last,
            epoch_min,
            epoch_max,
            bytes,
            entries: footer.entries,
            tombstones: footer.tombstones,
            footer_crc,
            run,
        })
    }
}
