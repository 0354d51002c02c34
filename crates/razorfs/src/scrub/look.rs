//! What one step of a scrub looks at.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use razorfs_disk::{Dir, DiskOp, File, OpenHow};
use razorfs_format::layout::FileName;
use razorfs_format::manifest::{Manifest, PackMeta, SegmentMeta};
use razorfs_format::pack::{Depth, HEADER_LEN, Scanned, TrailerEntry, check_header, scan_frames};
use razorfs_format::parity::{Builder, Object};
use razorfs_format::scrub::Position;
use razorfs_format::segment::check::check_segment;
use razorfs_format::{PackId, Place, SegmentId};

use crate::checkpoint::superfile::SuperFile;
use crate::checkpoint::{Checkpointer, Installer, name_of};
use crate::parity::Shards;
use crate::store::Version;
use crate::{Error, Result};

/// Bytes of a pack that one step reads.
const STEP: u64 = 4 << 20;
/// Larger segments are read by nobody at once.
const SEGMENT_MAX: u64 = 1 << 30;

const SUPERBLOCK: u8 = 0;
const MANIFEST: u8 = 1;
const SEGMENTS: u8 = 2;
const PACKS: u8 = 3;

/// The numbers that `verify` has for what is found.
mod number {
    pub const MANIFEST: u16 = 201;
    pub const SEGMENT_MISSING: u16 = 401;
    pub const SEGMENT_DAMAGED: u16 = 402;
    pub const PACK_MISSING: u16 = 601;
    pub const PACK_HEADER: u16 = 602;
    pub const PACK_SHORT: u16 = 603;
    pub const FRAME_REFERENCE: u16 = 604;
    pub const FRAME_DAMAGED: u16 = 605;
    pub const UNREADABLE: u16 = 701;
    pub const SHARD_DAMAGED: u16 = 805;
}

/// What a step has seen.
#[derive(Default)]
pub(super) struct Looked {
    pub bytes: u64,
    pub healed: u64,
    /// Number, object and detail of what cannot be healed.
    pub found: Vec<(u16, String, String)>,
    /// `None`: that was the end.
    pub next: Option<Position>,
}

impl Looked {
    fn tell(&mut self, number: u16, object: impl ToString, detail: impl ToString) {
        self.found
            .push((number, object.to_string(), detail.to_string()));
    }
}

/// A position, for people.
pub(super) fn shown(at: &Position) -> String {
    match at.kind {
        SUPERBLOCK => FileName::Super.to_string(),
        MANIFEST => "the manifest".into(),
        SEGMENTS => FileName::Segment(SegmentId(at.number)).to_string(),
        _ => format!(
            "{} at byte {}",
            FileName::Pack(PackId(at.number)),
            at.offset
        ),
    }
}

fn at(kind: u8, number: u64, offset: u64) -> Position {
    Position {
        kind,
        number,
        offset,
    }
}

/// Whether the host failed for this file, and not just for us, now.
fn is_damage(e: &Error) -> bool {
    e.is_loss()
}

impl Checkpointer {
    /// Bytes that a scrub reads of objects, but for parity.
    pub(super) fn scrub_total(&self) -> u64 {
        let installer = self.installer.lock();
        let manifest = &installer.manifest;
        let segments = manifest.segments.iter().map(|s| s.bytes);
        let packs = manifest.packs.iter().map(|p| p.len);
        segments.chain(packs).fold(0, u64::saturating_add)
    }

    /// Looks at what stands at a position.
    pub(super) fn look_at(&self, position: Position) -> Result<Looked> {
        match position.kind {
            SUPERBLOCK => self.look_at_superblock(),
            MANIFEST => self.look_at_manifest(),
            SEGMENTS => self.look_at_segments(position),
            _ => self.look_at_packs(position),
        }
    }

    fn look_at_superblock(&self) -> Result<Looked> {
        let _installer = self.installer.lock();
        self.core.fence.check()?;
        let read = SuperFile::read_and_heal(self.core.disk.as_ref())?;
        Ok(Looked {
            healed: u64::from(read.healed.is_some()),
            next: Some(at(MANIFEST, 0, 0)),
            ..Looked::default()
        })
    }

    fn look_at_manifest(&self) -> Result<Looked> {
        let core = &self.core;
        let mut looked = Looked {
            next: Some(at(SEGMENTS, 0, 0)),
            ..Looked::default()
        };
        let mut installer = self.installer.lock();
        let named = installer.superblock.manifest;
        let file = FileName::Manifest(named.id);
        let check = || -> Result<()> {
            let open = core.disk.open(&name_of(file), OpenHow::ReadUncached)?;
            let len = open.len()?;
            let place = Place::new(file, 0);
            if len != u64::from(named.len) {
                return Err(place.error("length of the manifest", named.len, len).into());
            }
            let mut bytes = vec![0; named.len as usize];
            let got = open.read_at(&mut bytes, 0)?;
            let bytes = bytes.get(..got).unwrap_or_default();
            let crc = Manifest::crc(bytes);
            if crc != named.crc {
                return Err(place.error("manifest checksum", named.crc, crc).into());
            }
            Manifest::decode(bytes, core.vid, named.id)?;
            Ok(())
        };
        match check() {
            Err(e) if is_damage(&e) => {
                tracing::warn!(error = %e, "a scrub writes the manifest anew");
                // What it says is in memory. Both generations that can be opened get a new one.
                for _ in 0..2 {
                    if let Err(e) = self.write_anew(&mut installer) {
                        looked.tell(number::MANIFEST, file, e);
                        return Ok(looked);
                    }
                }
                looked.healed += 1;
            }
            done => done?,
        }
        Ok(looked)
    }

    fn look_at_segments(&self, position: Position) -> Result<Looked> {
        let meta = {
            let installer = self.installer.lock();
            let segments = installer.manifest.segments.iter();
            let rest = segments.filter(|s| s.id.0 >= position.number);
            rest.min_by_key(|s| s.id).copied()
        };
        let Some(meta) = meta else {
            return Ok(Looked {
                next: Some(at(PACKS, 0, 0)),
                ..Looked::default()
            });
        };
        let mut looked = Looked {
            bytes: meta.bytes,
            next: Some(at(SEGMENTS, meta.id.0 + 1, 0)),
            ..Looked::default()
        };
        let object = Object::Segment(meta.id);
        let damaged = match self.check_segment(&meta) {
            Ok(bytes) => {
                self.scrub_parity_of_segment(&meta, &bytes, &mut looked)?;
                return Ok(looked);
            }
            Err(e) if is_damage(&e) => e,
            Err(e) => return Err(e),
        };
        let installer = self.installer.lock();
        if !installer.manifest.segments.iter().any(|s| s.id == meta.id) {
            return Ok(looked);
        }
        self.heal_object(object, &mut looked)?;
        match self.check_segment(&meta) {
            Ok(_) => {}
            Err(e) if is_damage(&e) => {
                let missing = matches!(&e, Error::Disk(e) if e.is_not_found());
                let number = match missing {
                    true => number::SEGMENT_MISSING,
                    false => number::SEGMENT_DAMAGED,
                };
                looked.tell(number, object.file(), damaged);
            }
            Err(e) => return Err(e),
        }
        Ok(looked)
    }

    /// Every byte of a segment; answers them.
    fn check_segment(&self, meta: &SegmentMeta) -> Result<Vec<u8>> {
        let name = FileName::Segment(meta.id);
        let file = self.core.disk.open(&name_of(name), OpenHow::ReadUncached)?;
        let len = file.len()?;
        if len != meta.bytes || len > SEGMENT_MAX {
            let place = Place::new(name, 0);
            return Err(place.error("length of the segment", meta.bytes, len).into());
        }
        let mut bytes = vec![0; len as usize];
        let got = file.read_at(&mut bytes, 0)?;
        bytes.truncate(got);
        check_segment(&bytes, self.core.vid, meta, &mut |_, _, _| {})?;
        Ok(bytes)
    }

    /// Heals every group of an object that is damaged and that parity makes up for; answers the
    /// groups that it does not make up for. The installer's lock is held.
    fn heal_object(&self, object: Object, looked: &mut Looked) -> Result<()> {
        let core = &self.core;
        if core.healer.is_none() {
            return Ok(());
        }
        let how = OpenHow::ReadUncached;
        let open = || core.disk.open(&name_of(object.file()), how);
        let Ok(file) = open() else { return Ok(()) };
        let Ok(shards) = Shards::open(core.disk.as_ref(), core.vid, object, file, how) else {
            return Ok(());
        };
        core.fence.check()?;
        for index in 0..shards.shape.groups() {
            match self.write_back(object, index) {
                Ok(healed) => looked.healed += healed as u64,
                Err(e) => tracing::debug!(error = %e, "a group cannot be healed"),
            }
        }
        Ok(())
    }

    /// Looks at the parity of a segment that is right; makes it anew if it is not.
    fn scrub_parity_of_segment(
        &self,
        meta: &SegmentMeta,
        bytes: &[u8],
        looked: &mut Looked,
    ) -> Result<()> {
        let core = &self.core;
        let installer = self.installer.lock();
        let Some(shard) = installer.segment_options.parity else {
            return Ok(());
        };
        if !installer.manifest.segments.iter().any(|s| s.id == meta.id) {
            return Ok(());
        }
        let object = Object::Segment(meta.id);
        let mut builder = Builder::new(core.vid, object, shard);
        builder.push(bytes)?;
        let parity = builder.finish(&[])?;
        let same = || -> Result<bool> {
            let file = core
                .disk
                .open(&name_of(object.parity()), OpenHow::ReadUncached)?;
            let mut held = vec![0; parity.len()];
            let whole = file.len()? == parity.len() as u64;
            Ok(whole && file.read_at(&mut held, 0)? == held.len() && held == parity)
        };
        match same() {
            Ok(true) => return Ok(()),
            Err(e) if !is_damage(&e) => return Err(e),
            _ => {}
        }
        core.fence.check()?;
        let (tmp, to) = (name_of(object.parity_tmp()), name_of(object.parity()));
        match core.disk.remove(&tmp) {
            Err(e) if !e.is_not_found() => return Err(e.into()),
            _ => {}
        }
        // The old one stays until the new one is whole: what is left of it may be needed.
        let file = core.disk.open(&tmp, OpenHow::CreateNew)?;
        file.write_at(&[std::io::IoSlice::new(&parity)], 0)?;
        file.sync_data()?;
        core.disk.rename(&tmp, &to)?;
        core.disk.sync_dir(Dir::Meta)?;
        tracing::info!(file = %object.parity(), "made anew");
        looked.healed += 1;
        Ok(())
    }

    fn look_at_packs(&self, position: Position) -> Result<Looked> {
        let meta = {
            let installer = self.installer.lock();
            let packs = installer.manifest.packs.iter();
            let rest = packs.filter(|p| p.id.0 >= position.number);
            rest.min_by_key(|p| p.id).copied()
        };
        let Some(meta) = meta else {
            return Ok(Looked::default());
        };
        let from = match meta.id.0 == position.number {
            true => position.offset,
            false => 0,
        };
        match self.look_at_shards(&meta, from) {
            Ok(Some(looked)) => Ok(looked),
            Ok(None) => self.look_at_frames(&meta, from),
            Err(e) => Err(e),
        }
    }

    /// A few groups of a pack, by its parity; `None` if it has none that can be used.
    fn look_at_shards(&self, meta: &PackMeta, from: u64) -> Result<Option<Looked>> {
        let core = &self.core;
        let object = Object::Pack(meta.id);
        if !self.has_parity(meta.id) {
            return Ok(None);
        }
        let how = OpenHow::ReadUncached;
        let shards = core
            .disk
            .open(&name_of(object.file()), how)
            .map_err(Error::from)
            .and_then(|file| Shards::open(core.disk.as_ref(), core.vid, object, file, how));
        let shards = match shards {
            Ok(shards) => shards,
            Err(e) if is_damage(&e) => {
                return self.parity_is_lost(meta, from, None).map(|()| None);
            }
            Err(e) => return Err(e),
        };
        let mut looked = Looked::default();
        let mut index = shards.shape.group_of(from);
        while index < shards.shape.groups() && looked.bytes < STEP {
            let group = shards.shape.group(index).range();
            let condition = match shards.read(index) {
                Ok(condition) => condition,
                Err(e) if is_damage(&e) => {
                    let shards = Some(&shards);
                    return self.parity_is_lost(meta, from, shards).map(|()| None);
                }
                Err(e) => return Err(e),
            };
            if !condition.bad.is_empty() || condition.bad_recovery > 0 {
                self.heal_group(meta, index, group.clone(), &mut looked)?;
            }
            looked.bytes += group.end - group.start;
            index += 1;
        }
        looked.next = Some(match index < shards.shape.groups() {
            true => at(PACKS, meta.id.0, shards.shape.group(index).range().start),
            false => at(PACKS, meta.id.0 + 1, 0),
        });
        Ok(Some(looked))
    }

    fn has_parity(&self, pack: PackId) -> bool {
        let installer = self.installer.lock();
        installer
            .parity
            .as_ref()
            .is_some_and(|parity| parity.has(pack))
    }

    /// The parity of a pack cannot be used, or a part of it: it goes, and is made anew in the
    /// background if the pack is whole. What the rest of it can heal is healed first.
    fn parity_is_lost(&self, meta: &PackMeta, from: u64, shards: Option<&Shards>) -> Result<()> {
        let core = &self.core;
        let mut looked = Looked::default();
        for index in shards.map_or(0..0, |shards| 0..shards.shape.groups()) {
            let Some(shards) = shards else { break };
            // A group that cannot be read here is what the parity is lost for.
            if let Ok(condition) = shards.read(index)
                && !condition.bad.is_empty()
            {
                let range = shards.shape.group(index).range();
                self.heal_group(meta, index, range, &mut looked)?;
            }
        }
        let mut installer = self.installer.lock();
        if !is_there(&installer, meta.id) {
            return Ok(());
        }
        core.fence.check()?;
        let object = Object::Pack(meta.id);
        tracing::warn!(file = %object.parity(), from, "damaged: it is made anew");
        match core.disk.remove(&name_of(object.parity())) {
            Err(e) if !e.is_not_found() => return Err(e.into()),
            _ => {}
        }
        core.disk.sync_dir(Dir::Pack)?;
        if let Some(parity) = &mut installer.parity {
            parity.lost(meta.id);
        }
        // What could not be healed is told where the frames are looked at.
        self.with_scrub(|run| run.record.healed += 1 + looked.healed);
        Ok(())
    }

    /// A group of a pack that is not what it was: healed, or given back to the host, or damaged.
    fn heal_group(
        &self,
        meta: &PackMeta,
        index: u32,
        range: Range<u64>,
        looked: &mut Looked,
    ) -> Result<()> {
        let core = &self.core;
        let installer = self.installer.lock();
        if !is_there(&installer, meta.id) {
            return Ok(());
        }
        core.fence.check()?;
        match self.write_back(Object::Pack(meta.id), index) {
            Ok(healed) => {
                looked.healed += healed as u64;
                Ok(())
            }
            Err(e) if is_damage(&e) => self.tell_frames(meta, &range, looked),
            // Reads go on being healed; what is behind it is looked at all the same.
            Err(e) => {
                let detail = format!("group {index} cannot be written back: {e}");
                looked.tell(number::SHARD_DAMAGED, FileName::Pack(meta.id), detail);
                Ok(())
            }
        }
    }

    /// Tells of what a file refers to in a damaged range. The installer's lock is held.
    fn tell_frames(&self, meta: &PackMeta, range: &Range<u64>, looked: &mut Looked) -> Result<()> {
        let core = &self.core;
        let name = FileName::Pack(meta.id);
        let version = core.version.load_full();
        let file = core.disk.open(&name_of(name), OpenHow::ReadUncached)?;
        for entry in core.reader.entries(meta.id, meta.len)? {
            if entry.pos >= range.end || entry.end() <= range.start {
                continue;
            }
            if let Err(e) = self.check_frame_at(&file, meta.id, &entry)
                && version.refers(meta.id, &entry)?
            {
                let object = format!("inode {} (block {})", entry.ino, entry.block);
                looked.tell(number::FRAME_DAMAGED, object, e);
            }
        }
        Ok(())
    }

    fn check_frame_at(
        &self,
        file: &Arc<dyn File>,
        pack: PackId,
        entry: &TrailerEntry,
    ) -> Result<()> {
        let mut read = |buf: &mut [u8], at| Ok::<_, Error>(file.read_at(buf, at)?);
        let mut checked = Ok(());
        let range = entry.pos..entry.end();
        scan_frames(
            &mut read,
            self.core.vid,
            pack,
            range,
            Depth::Data,
            &mut |met| {
                checked = match met {
                    Scanned::Frame { data, .. } => {
                        data.unwrap_or(Ok((&[], Box::new([])))).map(drop)
                    }
                    Scanned::Gap { error, .. } => Err(error),
                    Scanned::Missing(range) => Err(Place::new(FileName::Pack(pack), range.start)
                        .error("frame", "its bytes", "the end of the file")),
                };
                ControlFlow::Break(())
            },
        )?;
        Ok(checked?)
    }

    /// Some frames of a pack that has no parity.
    fn look_at_frames(&self, meta: &PackMeta, from: u64) -> Result<Looked> {
        let core = &self.core;
        let (id, name) = (meta.id, FileName::Pack(meta.id));
        let mut looked = Looked {
            next: Some(at(PACKS, id.0 + 1, 0)),
            ..Looked::default()
        };
        let mut bad: Vec<(Range<u64>, u16, String)> = Vec::new();
        let start = from.max(HEADER_LEN);
        let mut reached = meta.len;
        let scanned = core
            .disk
            .open(&name_of(name), OpenHow::ReadUncached)
            .map_err(Error::from)
            .and_then(|file| {
                if from == 0 {
                    let mut header = vec![0; HEADER_LEN as usize];
                    let got = file.read_at(&mut header, 0)?;
                    let header = header.get(..got).unwrap_or_default();
                    if let Err(e) = check_header(header, core.vid, id) {
                        bad.push((0..HEADER_LEN, number::PACK_HEADER, e.to_string()));
                    }
                }
                let mut read = |buf: &mut [u8], at| Ok::<_, Error>(file.read_at(buf, at)?);
                let range = start..meta.len;
                scan_frames(&mut read, core.vid, id, range, Depth::Data, &mut |met| {
                    let (range, what) = match met {
                        Scanned::Frame { pos, header, data } => {
                            let wrong = data.and_then(std::result::Result::err);
                            let range = pos..pos.saturating_add(header.frame_len());
                            (range, wrong.map(|e| (number::FRAME_DAMAGED, e.to_string())))
                        }
                        Scanned::Gap { range, error, .. } => {
                            (range, Some((number::FRAME_REFERENCE, error.to_string())))
                        }
                        Scanned::Missing(range) => {
                            let detail = format!("it ends at byte {}", range.start);
                            (range, Some((number::PACK_SHORT, detail)))
                        }
                    };
                    reached = range.end;
                    bad.extend(what.map(|(number, detail)| (range, number, detail)));
                    match reached < start.saturating_add(STEP) {
                        true => ControlFlow::Continue(()),
                        false => ControlFlow::Break(()),
                    }
                })
            });
        match scanned {
            Ok(()) => {}
            Err(e) if is_damage(&e) => {
                let number = match &e {
                    Error::Disk(e) if e.op == DiskOp::Read => number::UNREADABLE,
                    _ => number::PACK_MISSING,
                };
                reached = meta.len;
                bad.push((start..meta.len, number, e.to_string()));
            }
            Err(e) => return Err(e),
        }
        looked.bytes = reached.min(meta.len).saturating_sub(from);
        if reached < meta.len {
            looked.next = Some(at(PACKS, id.0, reached));
        }
        self.settle_bad(meta, bad, &mut looked)?;
        Ok(looked)
    }

    /// What of damaged ranges matters to a file.
    fn settle_bad(
        &self,
        meta: &PackMeta,
        bad: Vec<(Range<u64>, u16, String)>,
        looked: &mut Looked,
    ) -> Result<()> {
        if bad.is_empty() {
            return Ok(());
        }
        let installer = self.installer.lock();
        if !is_there(&installer, meta.id) {
            return Ok(());
        }
        let version: Arc<Version> = self.core.version.load_full();
        let entries = self.core.reader.entries(meta.id, meta.len);
        let frames = entries.unwrap_or_default(); // Without any, all is told by its place.
        for (range, number, detail) in bad {
            let object = format!("{} at byte {}", FileName::Pack(meta.id), range.start);
            let told = looked.found.len();
            let frames = frames
                .iter()
                .filter(|f| f.pos < range.end && f.end() > range.start);
            let mut dead = 0;
            for frame in frames {
                match version.refers(meta.id, frame)? {
                    true => {
                        let object = format!("inode {} (block {})", frame.ino, frame.block);
                        looked.tell(number, object, &detail);
                    }
                    false => dead += 1,
                }
            }
            // Frames that nobody refers to lose nothing; what no list knows might be needed.
            if looked.found.len() == told && dead == 0 {
                looked.tell(number, object, detail);
            }
        }
        Ok(())
    }
}

fn is_there(installer: &Installer, pack: PackId) -> bool {
    installer.manifest.packs.iter().any(|p| p.id == pack)
}
