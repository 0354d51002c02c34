//! Parity in the background: that of packs is made once a generation says that they are sealed,
//! and shards that were found damaged are written back. Everything happens under the installer's
//! lock, a piece at a time, so that nothing is punched or removed meanwhile.

use std::collections::{BTreeSet, VecDeque};
use std::io::IoSlice;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use razorfs_disk::{Dir, File, OpenHow};
use razorfs_format::layout::FileName;
use razorfs_format::manifest::PackMeta;
use razorfs_format::pack::{Depth, HEADER_LEN, Scanned, TrailerEntry, check_header, scan_frames};
use razorfs_format::parity::{Object, Shape};
use razorfs_format::{PackId, Place, VolumeId};

use super::{Checkpointer, Installer, name_of};
use crate::marks::{self, Mark};
use crate::parity::Shards;
use crate::store::{Core, Version};
use crate::{Error, Result, fence};

/// Bytes of a pack that are read in one step.
const STEP: u64 = 16 << 20;
/// Bytes of a pack that are kept in memory, at least, while its frames are checked.
const HELD: usize = 2 << 20;

/// Which packs have parity.
#[derive(Default)]
pub(crate) struct Parity {
    /// Bytes of a shard.
    shard: u32,
    made: BTreeSet<PackId>,
    /// Those that are damaged, and others that failed, until the next opening.
    refused: BTreeSet<PackId>,
    making: Option<Making>,
}

impl Parity {
    /// That of a volume whose shards have `shard` bytes, and whose packs `made` have it.
    pub fn new(shard: u32, made: BTreeSet<PackId>) -> Self {
        Self {
            shard,
            made,
            ..Self::default()
        }
    }

    /// Whether holes may be punched into the pack: parity is made of the bytes before.
    pub(super) fn is_settled(&self, pack: PackId) -> bool {
        self.made.contains(&pack) || self.refused.contains(&pack)
    }

    pub(crate) fn has(&self, pack: PackId) -> bool {
        self.made.contains(&pack)
    }

    /// The pack is to be removed.
    pub(super) fn forget(&mut self, pack: PackId) -> bool {
        self.refused.remove(&pack);
        self.made.remove(&pack)
    }

    /// Its parity is lost; it is made anew.
    pub(crate) fn lost(&mut self, pack: PackId) {
        self.made.remove(&pack);
        self.refused.remove(&pack);
    }
}

/// The parity of a pack, half made.
struct Making {
    shape: Shape,
    /// End of the frames.
    end: u64,
    /// Where the next frame begins.
    next: u64,
    frames: Option<Vec<TrailerEntry>>,
    source: Source,
}

/// The bytes of a pack, each read once, with their parity on its way.
struct Source {
    shape: Shape,
    pack: Arc<dyn File>,
    tmp: Arc<dyn File>,
    /// Groups that were read.
    done: u32,
    /// The last of them.
    held: VecDeque<Vec<u8>>,
}

impl Source {
    fn next_group(&mut self) -> Result<()> {
        let group = self.shape.group(self.done);
        let range = group.range();
        let mut data = vec![0; group.padded()];
        let len = (range.end - range.start) as usize;
        let got = self
            .pack
            .read_at(data.get_mut(..len).unwrap_or_default(), range.start)?;
        if got < len {
            let place = Place::new(self.shape.object.file(), range.start + got as u64);
            return Err(place
                .error("length of the pack", self.shape.len, "its end")
                .into());
        }
        let record = group.encode(&data)?;
        self.tmp.write_at(&[IoSlice::new(&record)], group.record)?;
        self.done += 1;
        data.truncate(len);
        self.held.push_back(data);
        let full = self.shape.group_bytes() as usize;
        while self.held.len() > 1 && (self.held.len() - 1) * full > HELD {
            self.held.pop_front();
        }
        Ok(())
    }

    /// The bytes that the parity is made of.
    fn read(&mut self, buf: &mut [u8], at: u64) -> Result<usize> {
        let mut done = 0;
        while done < buf.len() && at + (done as u64) < self.shape.len {
            let from = at + done as u64;
            let index = self.shape.group_of(from);
            while self.done <= index {
                self.next_group()?;
            }
            let back = (self.done - 1 - index) as usize;
            let nth = self.held.len().checked_sub(back + 1);
            let skip = (from - self.shape.group(index).range().start) as usize;
            let held = nth.and_then(|nth| self.held.get(nth)?.get(skip..));
            let (Some(held), Some(room)) = (held, buf.get_mut(done..)) else {
                // A walk never goes back by more than a frame.
                return Err(Error::Invalid("a walk that goes back too far"));
            };
            let len = held.len().min(room.len());
            for (to, byte) in room.iter_mut().zip(held) {
                *to = *byte;
            }
            done += len;
        }
        Ok(done)
    }
}

impl Making {
    fn begin(core: &Core, shard: u32, meta: &PackMeta) -> Result<Self> {
        let object = Object::Pack(meta.id);
        let pack = core.disk.open(&name_of(object.file()), OpenHow::Read)?;
        // A full host may have got holes back. If the power went before they are durable, what was
        // in them would be damage in more shards of a group than parity makes up for.
        pack.sync_data()?;
        let shape = Shape::new(core.vid, object, pack.len()?, shard);
        let tmp = name_of(object.parity_tmp());
        match core.disk.remove(&tmp) {
            Err(e) if !e.is_not_found() => return Err(e.into()),
            _ => {}
        }
        let tmp = fence::create_for(core.disk.as_ref(), &tmp, &name_of(object.parity()))?;
        let mut source = Source {
            shape,
            pack,
            tmp,
            done: 0,
            held: VecDeque::new(),
        };
        let mut header = vec![0; HEADER_LEN as usize];
        let got = source.read(&mut header, 0)?;
        check_header(header.get(..got).unwrap_or_default(), core.vid, meta.id)?;
        Ok(Self {
            shape,
            end: meta.len,
            next: HEADER_LEN,
            frames: core.reader.trailer(meta.id, meta.len).ok(),
            source,
        })
    }

    /// Reads and checks some frames; answers whether there are more.
    fn go_on(&mut self, vid: VolumeId, id: PackId, version: &Version) -> Result<bool> {
        let (from, mut failed) = (self.next, Ok(()));
        let Self {
            end,
            next,
            frames,
            source,
            ..
        } = self;
        let mut read = |buf: &mut [u8], at| source.read(buf, at);
        scan_frames(&mut read, vid, id, from..*end, Depth::Data, &mut |met| {
            let (reached, bad) = match met {
                Scanned::Frame { pos, header, data } => {
                    let range = pos..pos.saturating_add(header.frame_len());
                    (
                        range.end,
                        data.and_then(std::result::Result::err).map(|e| (range, e)),
                    )
                }
                Scanned::Gap { range, error, .. } => (range.end, Some((range, error))),
                Scanned::Missing(range) => {
                    let place = Place::new(FileName::Pack(id), range.start);
                    let error = place.error("length of the pack", range.end, range.start);
                    (range.end, Some((range, error)))
                }
            };
            *next = reached;
            if let Some((range, error)) = bad {
                failed = match is_dead(version, id, frames.as_deref(), &range) {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(error.into()),
                    Err(e) => Err(e),
                };
            }
            match failed.is_ok() && reached < from.saturating_add(STEP) {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })?;
        failed?;
        Ok(self.next < self.end)
    }

    /// Reads the rest, and makes the parity durable, but for its name.
    fn finish(&mut self) -> Result<()> {
        while self.source.done < self.shape.groups() {
            self.source.next_group()?;
        }
        let tmp = &self.source.tmp;
        tmp.write_at(&[IoSlice::new(&self.shape.encode())], 0)?;
        tmp.sync_data()?;
        Ok(())
    }
}

/// Whether nothing refers to what stands in a range of a pack, all of which was flushed.
fn is_dead(
    version: &Version,
    pack: PackId,
    frames: Option<&[TrailerEntry]>,
    range: &Range<u64>,
) -> Result<bool> {
    let Some(frames) = frames else {
        return Ok(false);
    };
    for frame in frames {
        if frame.pos < range.end && frame.end() > range.start && version.refers(pack, frame)? {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Checkpointer {
    /// One step of what parity asks for; answers whether there was anything.
    pub fn parity(&self) -> Result<bool> {
        let done = self.parity_unlatched();
        self.core.latching(done)
    }

    fn parity_unlatched(&self) -> Result<bool> {
        let Some(healer) = &self.core.healer else {
            return Ok(false);
        };
        let mut installer = self.installer.lock();
        if let Some(group) = healer.next() {
            self.core.fence.check()?;
            let healed = self.write_back(group.0, group.1);
            if let Err(e) = &healed {
                tracing::warn!(file = %group.0.file(), error = %e, "damage was not written over");
            }
            // Where the disk is right the host's cache is not, and stays so.
            healer.settled(group, !matches!(healed, Ok(1..)));
            return Ok(true);
        }
        self.make_parity(&mut installer)
    }

    /// Heals a group of an object, and of its parity, on the disk; answers how many shards were
    /// damaged. The installer's lock is held.
    pub(crate) fn write_back(&self, object: Object, index: u32) -> Result<usize> {
        let core = &self.core;
        let open = |name| core.disk.open(&name_of(name), OpenHow::ReadWrite);
        let (file, parity) = (open(object.file())?, open(object.parity())?);
        // What the disk has counts, and not what the host's cache makes of it.
        let how = OpenHow::ReadUncached;
        let on_disk = core.disk.open(&name_of(object.file()), how)?;
        let shards = Shards::open(core.disk.as_ref(), core.vid, object, on_disk, how)?;
        let mut condition = shards.read(index)?;
        let damaged = condition.bad.len() + condition.bad_recovery;
        if damaged == 0 {
            return Ok(0);
        }
        shards.heal(index, &mut condition)?;
        shards.write_back(index, &condition, file.as_ref(), parity.as_ref())?;
        marks::hit(Mark::ParityHealed);
        if let Some(healer) = &core.healer {
            healer.count_healed(damaged);
        }
        tracing::info!(file = %object.file(), group = index, damaged, "healed with parity");
        Ok(damaged)
    }

    /// One step of making the parity of a pack.
    fn make_parity(&self, installer: &mut Installer) -> Result<bool> {
        let Some(parity) = &installer.parity else {
            return Ok(false);
        };
        let epoch = installer.manifest.counters.epoch;
        let wanted = installer.manifest.packs.iter().find(|p| {
            // What the journal alone refers to comes with the next generation.
            p.sealed && p.last_birth <= epoch && p.live > 0 && !parity.is_settled(p.id)
        });
        let wanted = wanted.copied();
        let making = parity.making.as_ref().map(|making| making.shape.object);
        if making.is_some() && making != wanted.map(|meta| Object::Pack(meta.id)) {
            // The pack has died since it was begun.
            self.abandon_parity(installer);
        }
        let (Some(meta), Some(parity)) = (wanted, &mut installer.parity) else {
            return Ok(false);
        };
        let object = Object::Pack(meta.id);
        let made = self.go_on_making(parity, &meta);
        match made {
            Ok(true) => return Ok(true),
            Ok(false) => {
                marks::hit(Mark::ParityMade);
                parity.made.insert(meta.id);
            }
            Err(e) => {
                parity.making = None;
                if fence::may_undo(&e) {
                    // What cannot be removed now is removed at the next mount. If its name was not
                    // synced it has it all the same, and the next try would take it for another
                    // host's.
                    for name in [object.parity_tmp(), object.parity()] {
                        let _ = self.core.disk.remove(&name_of(name));
                    }
                }
                if !e.is_loss() {
                    return Err(e);
                }
                tracing::warn!(file = %object.file(), error = %e, "damaged: it gets no parity");
                parity.refused.insert(meta.id);
            }
        }
        Ok(true)
    }

    fn go_on_making(&self, parity: &mut Parity, meta: &PackMeta) -> Result<bool> {
        let core = &self.core;
        core.fence.check()?;
        let object = Object::Pack(meta.id);
        let mut making = match parity.making.take() {
            Some(making) if making.shape.object == object => making,
            _ => Making::begin(core, parity.shard, meta)?,
        };
        let version = core.version.load_full();
        if making.go_on(core.vid, meta.id, &version)? {
            parity.making = Some(making);
            return Ok(true);
        }
        making.finish()?;
        let (tmp, to) = (name_of(object.parity_tmp()), name_of(object.parity()));
        core.disk.rename(&tmp, &to)?;
        core.disk.sync_dir(Dir::Pack)?;
        Ok(false)
    }

    /// Nothing half made is on the disk from here on, as long as the lock is held.
    pub(crate) fn abandon_parity(&self, installer: &mut Installer) {
        let making = installer.parity.as_mut().and_then(|p| p.making.take());
        if let Some(making) = making {
            // What cannot be removed is told by who looks, and removed at the next mount.
            let _ = self
                .core
                .disk
                .remove(&name_of(making.shape.object.parity_tmp()));
        }
    }

    /// The part of a hole under which no parity is that something else needs: whole groups.
    pub(super) fn hole_under_parity(&self, pack: PackId, hole: &Range<u64>) -> Result<Range<u64>> {
        let core = &self.core;
        let object = Object::Pack(pack);
        let file = core.disk.open(&name_of(object.file()), OpenHow::Read)?;
        let shards = Shards::open(core.disk.as_ref(), core.vid, object, file, OpenHow::Read)?;
        let shape = shards.shape;
        let full = shape.group_bytes();
        Ok(hole.start.next_multiple_of(full)..hole.end / full * full)
    }
}

impl Installer {
    /// About how many bytes parity takes, and how many sealed packs have none.
    pub(super) fn parity_bytes(&self, vid: VolumeId) -> Option<(u64, u64)> {
        let parity = self.parity.as_ref()?;
        let bytes = |object, len| Shape::new(vid, object, len, parity.shard).file_len();
        let (packs, segments) = (&self.manifest.packs, &self.manifest.segments);
        let (with, without): (Vec<&PackMeta>, Vec<&PackMeta>) = packs
            .iter()
            .filter(|p| p.sealed)
            .partition(|p| parity.has(p.id));
        let packs = with.iter().map(|p| bytes(Object::Pack(p.id), p.len));
        let segments = segments
            .iter()
            .map(|s| bytes(Object::Segment(s.id), s.bytes));
        Some((packs.chain(segments).sum(), without.len() as u64))
    }
}
