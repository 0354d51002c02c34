//! Writes segments, which the format's builder makes of records in order.

use std::io::IoSlice;
use std::sync::Arc;

use razorfs_disk::{Dir, Disk, File};
use razorfs_format::key::{Key, Tag};
use razorfs_format::layout::FileName;
use razorfs_format::manifest::SegmentMeta;
use razorfs_format::parity::{self, Object};
use razorfs_format::record::Codec;
use razorfs_format::segment::{Identity, SegmentBuilder, Style};
use razorfs_format::{SegmentId, VolumeId};

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
    /// Bytes of a shard, if segments get parity.
    pub parity: Option<u32>,
}

impl Default for SegmentOptions {
    fn default() -> Self {
        Self {
            target_bytes: 32 << 20,
            block_bytes: 16 << 10,
            codec: Codec::Lz4,
            filter: true,
            split: None,
            parity: None,
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
            if opts.parity.is_some() {
                let _ = disk.remove(&name(FileName::SegmentParityTmp(id)));
            }
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

/// Gives segments that were written, with `parity` or without, their final names, durably.
pub fn publish(disk: &dyn Disk, segments: &[SegmentMeta], parity: bool) -> Result<()> {
    for meta in segments {
        let object = Object::Segment(meta.id);
        if parity {
            disk.rename(&name(object.parity_tmp()), &name(object.parity()))?;
        }
        disk.rename(&name(FileName::SegmentTmp(meta.id)), &name(object.file()))?;
    }
    if !segments.is_empty() {
        disk.sync_dir(Dir::Meta)?;
    }
    Ok(())
}

struct Writer<'a> {
    disk: &'a dyn Disk,
    opts: &'a SegmentOptions,
    file: Arc<dyn File>,
    builder: SegmentBuilder,
    parity: Option<(Object, parity::Builder)>,
}

impl<'a> Writer<'a> {
    fn create(disk: &'a dyn Disk, id: Identity, opts: &'a SegmentOptions) -> Result<Self> {
        let tmp = name(FileName::SegmentTmp(id.segment));
        let file = fence::create_for(disk, &tmp, &name(FileName::Segment(id.segment)))?;
        let style = Style {
            block_bytes: opts.block_bytes,
            codec: opts.codec,
            filter: opts.filter,
        };
        let object = Object::Segment(id.segment);
        let parity = opts
            .parity
            .map(|shard| parity::Builder::new(id.volume, object, shard));
        Ok(Self {
            disk,
            opts,
            file,
            parity: parity.map(|parity| (object, parity)),
            builder: SegmentBuilder::new(id, style),
        })
    }

    /// Whether `key` belongs to the next segment. Versions of one key stay together.
    fn ends_before(&self, key: &Key) -> bool {
        let Some(last) = self.builder.last_key().filter(|last| last != key) else {
            return false;
        };
        let target = self.opts.target_bytes.min(TARGET_MAX);
        self.builder.size() >= target
            || self
                .opts
                .split
                .is_some_and(|split| last < split && split <= *key)
    }

    fn push(&mut self, record: Record) -> Result<()> {
        let value = record.value.as_deref();
        self.builder.push(record.key, record.epoch, value)?;
        if self.builder.waiting().0.len() >= WRITE_BYTES {
            self.write_waiting()?;
        }
        Ok(())
    }

    fn write_waiting(&mut self) -> Result<()> {
        let (bytes, at) = self.builder.waiting();
        self.file.write_at(&[IoSlice::new(bytes)], at)?;
        if let Some((_, parity)) = &mut self.parity {
            parity.push(bytes)?;
        }
        self.builder.written();
        Ok(())
    }

    fn finish(mut self, level: u8, run: u64) -> Result<SegmentMeta> {
        let (meta, header) = self.builder.finish(level, run);
        if let Some(header) = &header {
            self.file.write_at(&[IoSlice::new(header)], 0)?;
        }
        self.write_waiting()?;
        self.file.sync_data()?;
        if let Some((object, parity)) = self.parity.take() {
            // Of the bytes as they were made: nothing that a disk did to them gets in.
            let head: &[u8] = header.as_ref().map_or(&[], |header| header.as_ref());
            let bytes = parity.finish(head)?;
            let (tmp, to) = (name(object.parity_tmp()), name(object.parity()));
            let file = fence::create_for(self.disk, &tmp, &to)?;
            file.write_at(&[IoSlice::new(&bytes)], 0)?;
            file.sync_data()?;
        }
        Ok(meta)
    }
}
