//! Writes the tables of the repaired volume as segments under temporary names; in a dry run it
//! counts only.

use std::io::IoSlice;
use std::sync::Arc;

use razorfs_disk::{Disk, DiskError, DiskOp, File, OpenHow};
use razorfs_format::key::{Key, Tag};
use razorfs_format::layout::FileName;
use razorfs_format::manifest::SegmentMeta;
use razorfs_format::parity::{self, Object};
use razorfs_format::record::Codec;
use razorfs_format::segment::{Identity, SegmentBuilder, Style};
use razorfs_format::superblock::Geometry;
use razorfs_format::{Epoch, FormatError, SegmentId, VolumeId};

use crate::Result;
use crate::session::{Session, name_of};

/// Bytes that are gathered for one write.
const WRITE_BYTES: usize = 1 << 20;
/// No segment is larger, whatever the geometry says.
const TARGET_MAX: u64 = 256 << 20;
const TARGET_MIN: u64 = 16 << 10;

/// A segment under way.
struct Current {
    tag: Tag,
    file: Arc<dyn File>,
    builder: SegmentBuilder,
    last: Key,
    parity: Option<(Object, parity::Builder)>,
}

/// Takes the records of tables, each table at once and in the order of its keys.
pub trait Sink {
    /// Takes one record.
    fn put(&mut self, s: &mut Session<'_>, key: Key, value: &[u8]);
}

impl Sink for Writer<'_> {
    fn put(&mut self, _: &mut Session<'_>, key: Key, value: &[u8]) {
        self.put_at(key, self.epoch, Some(value));
    }
}

/// Writes tables one after the other, each in the order of its keys.
pub struct Writer<'d> {
    /// `None`: a dry run.
    disk: Option<&'d dyn Disk>,
    vid: VolumeId,
    style: Style,
    target: u64,
    /// Bytes of a shard, if segments have parity.
    shard: Option<u32>,
    /// Of what is not said to be older.
    pub epoch: Epoch,
    pub next: SegmentId,
    current: Option<Current>,
    pub metas: Vec<SegmentMeta>,
    failed: Option<DiskError>,
}

impl<'d> Writer<'d> {
    pub fn new(
        disk: Option<&'d dyn Disk>,
        vid: VolumeId,
        geometry: &Geometry,
        epoch: Epoch,
        next: SegmentId,
    ) -> Self {
        Self {
            disk,
            vid,
            style: Style {
                block_bytes: (geometry.segment_block_bytes as usize).clamp(1 << 10, 64 << 10),
                codec: Codec::Lz4,
                filter: true,
            },
            target: u64::from(geometry.segment_bytes).clamp(TARGET_MIN, TARGET_MAX),
            shard: (geometry.parity > 0).then(|| 1 << geometry.parity_log2.min(16)),
            epoch,
            next,
            current: None,
            metas: Vec::new(),
            failed: None,
        }
    }

    /// Writes one version of a record, without a value that there is none; those of one record
    /// come the newest first. The first error is kept for [`Writer::finish`], and nothing is
    /// written after it.
    pub fn put_at(&mut self, key: Key, epoch: Epoch, value: Option<&[u8]>) {
        if self.failed.is_none()
            && let Err(e) = self.try_put(key, epoch, value)
        {
            self.failed = Some(e);
        }
    }

    fn try_put(&mut self, key: Key, epoch: Epoch, value: Option<&[u8]>) -> Result<()> {
        let Some(disk) = self.disk else {
            return Ok(());
        };
        let tag = key.tag();
        // All versions of a record stand in one segment.
        let ends = |c: &Current| c.builder.size() >= self.target && c.last != key;
        let full = |c: &Current| c.tag != tag || ends(c);
        if self.current.as_ref().is_some_and(full) {
            self.end()?;
        }
        let current = match &mut self.current {
            Some(current) => current,
            empty => {
                let segment = self.next;
                self.next = segment.next();
                let id = Identity {
                    volume: self.vid,
                    segment,
                    tag,
                };
                let tmp = name_of(FileName::SegmentTmp(segment));
                let object = Object::Segment(segment);
                let parity = self
                    .shard
                    .map(|s| (object, parity::Builder::new(self.vid, object, s)));
                empty.insert(Current {
                    parity,
                    tag,
                    file: disk.open(&tmp, OpenHow::CreateNew)?,
                    builder: SegmentBuilder::new(id, self.style),
                    last: key,
                })
            }
        };
        current
            .builder
            .push(key, epoch, value)
            .map_err(|e| failed(&e))?;
        current.last = key;
        if current.builder.waiting().0.len() >= WRITE_BYTES {
            current.write()?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let Some(mut current) = self.current.take() else {
            return Ok(());
        };
        // Below level 0 segments of a table do not overlap, and these do not.
        let (meta, header) = current.builder.finish(1, 0);
        if let Some(header) = &header {
            current.file.write_at(&[IoSlice::new(header)], 0)?;
        }
        current.write()?;
        current.file.sync_data()?;
        if let (Some((object, parity)), Some(disk)) = (current.parity.take(), self.disk) {
            let bytes = parity.finish(header.as_deref().unwrap_or_default());
            let bytes = bytes.map_err(|e| failed(&e))?;
            let file = disk.open(&name_of(object.parity_tmp()), OpenHow::CreateNew)?;
            file.write_at(&[IoSlice::new(&bytes)], 0)?;
            file.sync_data()?;
        }
        self.metas.push(meta);
        Ok(())
    }

    /// Everything is written and flushed, the names are not: what it has become.
    pub fn finish(&mut self) -> Result<()> {
        if let Some(e) = self.failed.take() {
            return Err(e);
        }
        self.end()
    }
}

fn failed(e: &FormatError) -> DiskError {
    let source = std::io::Error::other(e.to_string());
    DiskError::new(DiskOp::Write, "a segment", source)
}

impl Current {
    fn write(&mut self) -> Result<()> {
        let (bytes, at) = self.builder.waiting();
        self.file.write_at(&[IoSlice::new(bytes)], at)?;
        if let Some((_, parity)) = &mut self.parity {
            parity.push(bytes).map_err(|e| failed(&e))?;
        }
        self.builder.written();
        Ok(())
    }
}
