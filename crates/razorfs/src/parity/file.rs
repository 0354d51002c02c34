//! The shards of an object and of its parity, read and made again.

use std::collections::BTreeSet;
use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

use razorfs_disk::{Disk, DiskError, DiskOp, File, OpenHow};
use razorfs_format::parity::{HEADER_LEN, Object, Shape, Sums};
use razorfs_format::{Place, VolumeId};

use crate::checkpoint::name_of;
use crate::sync::Mutex;
use crate::{Error, Result};

/// An object and its parity, open.
pub(crate) struct Shards {
    pub shape: Shape,
    object: Arc<dyn File>,
    parity: Arc<dyn File>,
}

/// A group as it is on the disk.
pub(crate) struct Condition {
    /// Its bytes, filled up with zeros; healed by [`Condition::heal`].
    pub data: Vec<u8>,
    /// Shards of the object that are damaged.
    pub bad: Vec<usize>,
    /// Recovery shards that are damaged.
    pub bad_recovery: usize,
    record: Vec<u8>,
    sums: Sums,
}

impl Shards {
    /// Fails if there is no parity, or if its header is not right. `how` is how to read it.
    pub fn open(
        disk: &dyn Disk,
        vid: VolumeId,
        object: Object,
        file: Arc<dyn File>,
        how: OpenHow,
    ) -> Result<Self> {
        let parity = disk.open(&name_of(object.parity()), how)?;
        let len = parity.len()?;
        let mut header = [0; HEADER_LEN];
        let got = parity.read_at(&mut header, 0)?;
        let header = header.get(..got).unwrap_or_default();
        let shape = Shape::decode(header, vid, object, len)?;
        let whole = file.len()?;
        if whole > shape.len {
            // That of a shorter self: it would heal what was written since away.
            let place = Place::new(object.parity(), 0);
            return Err(place.error("length of the object", whole, shape.len).into());
        }
        Ok(Self {
            shape,
            object: file,
            parity,
        })
    }

    /// Reads a group with its parity; fails if its sums are damaged.
    pub fn read(&self, index: u32) -> Result<Condition> {
        let group = self.shape.group(index);
        let mut record = vec![0; group.record_len()];
        let mut unreadable = BTreeSet::new();
        // Recovery shards that cannot be read fail their sums.
        let from = |at: u64, buf: &mut [u8]| self.parity.read_at(buf, group.record + at);
        if from(0, &mut record).is_err() {
            let (sums, recovery) = record.split_at_mut(group.sums_len());
            from(0, sums)?;
            let mut at = group.sums_len() as u64;
            for shard in recovery.chunks_mut(self.shape.shard()) {
                if from(at, shard).is_err() {
                    shard.fill(0);
                }
                at += shard.len() as u64;
            }
        }
        let sums = group.sums(&record)?;
        let mut data = vec![0; group.padded()];
        let bytes = group.range();
        let len = (bytes.end - bytes.start) as usize;
        let room = data.get_mut(..len).unwrap_or_default();
        let short = match self.object.read_at(room, bytes.start) {
            Ok(got) => got,
            Err(_) => {
                for (nth, shard) in room.chunks_mut(self.shape.shard()).enumerate() {
                    let at = group.shard_range(nth).start;
                    if !matches!(self.object.read_at(shard, at), Ok(got) if got == shard.len()) {
                        unreadable.insert(nth);
                        shard.fill(0);
                    }
                }
                len
            }
        };
        // What the file lacks is not what it was, even if that was zeros.
        let lacking = (0..group.shards).filter(|n| {
            let range = group.shard_range(*n);
            range.end > bytes.start + short as u64
        });
        unreadable.extend(lacking);
        let unreadable: Vec<usize> = unreadable.into_iter().collect();
        let bad = group.bad_shards(&sums, &data, &unreadable);
        let bad_recovery = group.bad_recovery(&sums, &record);
        Ok(Condition {
            data,
            bad,
            bad_recovery,
            record,
            sums,
        })
    }

    /// Makes what is damaged in a group again, in memory. If that cannot be done, says why.
    pub fn heal(&self, index: u32, condition: &mut Condition) -> Result<()> {
        let group = self.shape.group(index);
        let Condition {
            data,
            bad,
            record,
            sums,
            ..
        } = condition;
        group.heal(sums, data, bad, record).map_err(|lost| {
            let place = razorfs_format::Place::new(self.shape.object.file(), group.range().start);
            Error::from(place.error("group of shards", "at most two that are lost", lost))
        })
    }

    /// Writes the damaged shards of the object, which are healed in `condition`, to `file`, and the
    /// recovery shards to the parity, which is open as `parity`; durable when it answers. If the
    /// power fails in between they are healed again from the same others.
    pub fn write_back(
        &self,
        index: u32,
        condition: &Condition,
        file: &dyn File,
        parity: &dyn File,
    ) -> Result<()> {
        let group = self.shape.group(index);
        for nth in &condition.bad {
            let range = group.shard_range(*nth);
            let from = nth * self.shape.shard();
            let len = (range.end - range.start) as usize;
            let bytes = condition.data.get(from..from + len).unwrap_or_default();
            file.write_at(&[IoSlice::new(bytes)], range.start)?;
        }
        if !condition.bad.is_empty() {
            file.sync_data()?;
        }
        if condition.bad_recovery > 0 {
            let record = group.encode(&condition.data)?;
            let recovery = record.get(group.sums_len()..).unwrap_or_default();
            let at = group.record + group.sums_len() as u64;
            parity.write_at(&[IoSlice::new(recovery)], at)?;
            parity.sync_data()?;
        }
        Ok(())
    }
}

/// An object that reads as it was written, where its parity makes up for what is lost.
pub(super) struct HealedFile {
    shards: Shards,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The group that was read last.
    last: Option<(u32, Vec<u8>)>,
    /// Those that were damaged.
    damaged: BTreeSet<u32>,
}

impl HealedFile {
    pub fn new(shards: Shards) -> Self {
        Self {
            shards,
            state: Mutex::default(),
        }
    }

    /// Groups that were healed for what was read.
    pub fn damaged(&self) -> BTreeSet<u32> {
        self.state.lock().damaged.clone()
    }

    fn read(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let shape = &self.shards.shape;
        let mut state = self.state.lock();
        let mut done = 0;
        while done < buf.len() {
            let at = offset.saturating_add(done as u64);
            if at >= shape.len {
                break;
            }
            let index = shape.group_of(at);
            if state.last.as_ref().is_none_or(|(last, _)| *last != index) {
                let mut condition = self.shards.read(index)?;
                if !condition.bad.is_empty() {
                    self.shards.heal(index, &mut condition)?;
                    state.damaged.insert(index);
                }
                state.last = Some((index, condition.data));
            }
            let range = shape.group(index).range();
            let from = (at - range.start) as usize;
            let held = (range.end - range.start) as usize;
            let bytes = state
                .last
                .as_ref()
                .and_then(|(_, data)| data.get(from..held));
            let bytes = bytes.unwrap_or_default();
            let room = buf.get_mut(done..).unwrap_or_default();
            let len = bytes.len().min(room.len());
            for (to, byte) in room.iter_mut().zip(bytes) {
                *to = *byte;
            }
            done += len;
        }
        Ok(done)
    }
}

impl File for HealedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> razorfs_disk::Result<usize> {
        self.read(buf, offset)
            .map_err(|e| refused(&self.shards, DiskOp::Read, &e.to_string()))
    }

    fn len(&self) -> razorfs_disk::Result<u64> {
        Ok(self.shards.shape.len)
    }

    fn write_at(&self, _: &[IoSlice<'_>], _: u64) -> razorfs_disk::Result<()> {
        Err(refused(&self.shards, DiskOp::Write, READ_ONLY))
    }

    fn sync_data(&self) -> razorfs_disk::Result<()> {
        Err(refused(&self.shards, DiskOp::Sync, READ_ONLY))
    }

    fn allocate(&self, _: Range<u64>, _: bool) -> razorfs_disk::Result<()> {
        Err(refused(&self.shards, DiskOp::Write, READ_ONLY))
    }

    fn punch(&self, _: Range<u64>) -> razorfs_disk::Result<()> {
        Err(refused(&self.shards, DiskOp::Write, READ_ONLY))
    }

    fn set_len(&self, _: u64) -> razorfs_disk::Result<()> {
        Err(refused(&self.shards, DiskOp::Write, READ_ONLY))
    }
}

const READ_ONLY: &str = "a healed file is only read";

fn refused(shards: &Shards, op: DiskOp, why: &str) -> DiskError {
    let name = name_of(shards.shape.object.file());
    DiskError::new(op, name.to_string(), std::io::Error::other(why.to_owned()))
}
