//! The ring's background work, in short steps: removing, preparing and adding files. What takes
//! long, filling with zeros, is done beside the ring, so that nobody waits for it who commits.

use std::sync::Arc;

use razorfs_disk::{Dir, Disk, File};
use razorfs_format::journal::{FileHeader, UNIT};
use razorfs_format::{Jid, VolumeId};

use super::host;
use super::ring::{Ring, RingFile, Role};
use crate::error::Result;
use crate::marks::{self, Mark};

/// Bytes that one step fills with zeros and syncs.
const STEP: u64 = 1 << 20;

/// A file that is being filled with zeros.
pub(super) struct Growth {
    slot: u32,
    file: Arc<dyn File>,
    /// It is not a file of the ring yet.
    new: bool,
    done: u64,
    target: u64,
}

/// What a step of growing turned out to be.
pub enum Grown {
    /// There is nothing to do.
    Nothing,
    /// It is done.
    Done,
    /// It is done once this was filled, and [`Ring::filled`] told. Meanwhile the ring grows no
    /// further.
    Filling(Filling),
}

/// A part of a file that nobody else uses meanwhile.
pub struct Filling {
    growth: Growth,
    to: u64,
    /// Of a file that is new and whole with this part.
    header: Option<FileHeader>,
    disk: Arc<dyn Disk>,
    vid: VolumeId,
}

impl Filling {
    /// Fills it with zeros, and makes these durable.
    pub fn run(&self) -> razorfs_disk::Result<()> {
        let file = &self.growth.file;
        file.allocate(self.growth.done..self.to, true)?;
        file.sync_data()?;
        if let Some(header) = &self.header {
            host::write_header(&**file, self.vid, header)?;
            self.disk.sync_dir(Dir::Journal)?;
        }
        Ok(())
    }
}

impl Ring {
    /// Whether [`Ring::grow`] should be called until it has added a file: more than half of the
    /// ring is in use.
    #[must_use]
    pub fn pressed(&self) -> bool {
        self.room() < self.capacity() / 2
    }

    /// Writes the header of the file that comes next, once the active one is half full, so that
    /// the change of files costs no sync. Answers whether it did anything.
    pub fn prepare(&mut self) -> Result<bool> {
        self.check_running()?;
        let due = self.fill().is_some_and(|(at, len)| at > len / 2);
        let waiting = self.available().any(|f| f.role == Role::Prepared);
        if !due || waiting || self.available().count() < 2 {
            return Ok(false);
        }
        let Some(slot) = self.best_free() else {
            return Ok(false);
        };
        self.check_fence()?;
        self.write_life(slot)?;
        if let Some(file) = self.file(slot) {
            file.role = Role::Prepared;
        }
        marks::hit(Mark::JournalPrepared);
        Ok(true)
    }

    /// One step of background work: removes a file that failed or is too many, or fills a
    /// megabyte of a new or larger file with zeros and syncs it. Answers whether there was
    /// anything to do; the ring is at its largest when there was not.
    ///
    /// An error leaves the ring as it was; growing starts anew with the next call.
    #[cfg(test)]
    pub fn grow(&mut self) -> Result<bool> {
        match self.begin_step()? {
            Grown::Nothing => return Ok(false),
            Grown::Done => {}
            Grown::Filling(filling) => {
                let done = filling.run();
                self.filled(filling, done)?;
            }
        }
        Ok(true)
    }

    /// Begins such a step.
    pub fn begin_step(&mut self) -> Result<Grown> {
        self.check_running()?;
        if !self.can_grow() {
            return Ok(Grown::Nothing);
        }
        self.check_fence()?;
        if let Some(slot) = self.doomed.pop() {
            self.remove(slot)?;
            return Ok(Grown::Done);
        }
        if self.files.len() > self.geometry.max_files as usize
            && let Some((slot, _)) = self.smallest_free()
        {
            self.files.retain(|f| f.slot != slot);
            self.remove(slot)?;
            return Ok(Grown::Done);
        }
        let growth = match self.growth.take() {
            Some(growth) => growth,
            None => match self.begin_growth()? {
                Some(growth) => growth,
                None => return Ok(Grown::Nothing),
            },
        };
        let to = (growth.done + STEP).min(growth.target);
        let whole = growth.new && to == growth.target;
        Ok(Grown::Filling(Filling {
            to,
            header: whole.then(|| self.header(growth.slot, Jid(0), growth.target)),
            disk: Arc::clone(&self.host.disk),
            vid: self.vid,
            growth,
        }))
    }

    /// Whether a step has anything to do.
    fn can_grow(&self) -> bool {
        let max = u64::from(self.geometry.max_file);
        !self.doomed.is_empty()
            || self.growth.is_some()
            || self.files.len() != self.geometry.max_files as usize
            || self.smallest_free().is_some_and(|(_, len)| len < max)
    }

    /// The free file that the next step takes out of use, to fill or to remove it.
    pub(super) fn growth_takes(&self) -> Option<u32> {
        if !self.doomed.is_empty() || self.growth.is_some() {
            return None;
        }
        let (slot, len) = self.smallest_free()?;
        let most = self.geometry.max_files as usize;
        let small = self.files.len() == most && len < self.target();
        (small || self.files.len() > most).then_some(slot)
    }

    /// How long the next file that grows will be.
    fn target(&self) -> u64 {
        let largest = self.files.iter().map(|f| f.len).max().unwrap_or(0);
        (2 * largest).min(u64::from(self.geometry.max_file))
    }

    fn remove(&mut self, slot: u32) -> Result<()> {
        Ok(self.host.remove(slot)?)
    }

    /// The smallest free file, if it is not the only one that a life can be opened in.
    fn smallest_free(&self) -> Option<(u32, u64)> {
        if self.available().count() < 2 {
            return None;
        }
        let free = self.available().filter(|f| f.role == Role::Free);
        free.min_by_key(|f| f.len).map(|f| (f.slot, f.len))
    }

    fn begin_growth(&mut self) -> Result<Option<Growth>> {
        let most = self.geometry.max_files as usize;
        let target = self.target();
        if self.files.len() < most {
            let slot = self.next_slot()?;
            let file = self
                .host
                .create_empty(slot)
                .map_err(|e| self.undo(slot, e))?;
            return Ok(Some(Growth {
                slot,
                file,
                new: true,
                done: 0,
                target,
            }));
        }
        let Some((slot, len)) = self.smallest_free() else {
            return Ok(None);
        };
        if len >= target {
            return Ok(None);
        }
        let file = self.host.open(slot)?;
        self.set_role(slot, Role::Growing);
        Ok(Some(Growth {
            slot,
            file,
            new: false,
            done: len,
            target,
        }))
    }

    /// Ends a step whose part was filled, or not.
    pub fn filled(&mut self, filling: Filling, done: razorfs_disk::Result<()>) -> Result<()> {
        let Filling { mut growth, to, .. } = filling;
        if let Err(e) = done {
            self.abandon(&growth);
            return Err(e.into());
        }
        growth.done = to;
        if to < growth.target {
            self.growth = Some(growth);
        } else if growth.new {
            debug_assert!(growth.target.is_multiple_of(UNIT as u64));
            marks::hit(Mark::JournalFileAdded);
            self.files.push(RingFile {
                slot: growth.slot,
                jid: Jid(0),
                len: growth.target,
                role: Role::Free,
                batches: None,
            });
        } else if let Some(file) = self.file(growth.slot) {
            marks::hit(Mark::JournalFileGrown);
            file.len = growth.target;
            file.role = Role::Free;
        }
        Ok(())
    }

    fn abandon(&mut self, growth: &Growth) {
        marks::hit(Mark::JournalGrowthFailed);
        if growth.new {
            self.doomed.push(growth.slot);
        } else {
            self.set_role(growth.slot, Role::Free);
        }
    }

    fn set_role(&mut self, slot: u32, role: Role) {
        if let Some(file) = self.file(slot) {
            file.role = role;
        }
    }
}
