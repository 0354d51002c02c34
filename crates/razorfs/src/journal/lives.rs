//! Opening lives: which file comes next, its header, and what happens if it cannot be written.

use std::sync::Arc;

use razorfs_disk::{Dir, DiskError, File};
use razorfs_format::journal::UNIT;
use razorfs_format::{BatchSeq, Jid};

use super::host;
use super::ring::{Active, Ring, RingFile, Role};
use crate::error::{Error, Result};
use crate::fence;

impl Ring {
    /// Frees the oldest file that holds nothing but batches before the start of the replay.
    pub(super) fn free_oldest(&mut self, start: Jid) {
        let unused = |f: &&mut RingFile| {
            f.jid <= start && f.batches.is_some_and(|(first, _)| first == BatchSeq(0))
        };
        if let Some(file) = self.files.iter_mut().filter(unused).min_by_key(|f| f.jid) {
            file.batches = None;
        }
        self.settle_roles();
    }

    /// Opens a new life in a free file; the batches to come go there.
    pub(super) fn open_life(&mut self) -> Result<()> {
        self.check_fence()?;
        let mut last = None;
        while let Some(slot) = self.best_free() {
            match self.open_life_in(slot) {
                Ok(()) => return Ok(()),
                // It is not the file's fault, which would have been given up.
                Err(e) if self.file(slot).is_some() => return Err(e),
                Err(e) => last = Some(e),
            }
        }
        match last {
            Some(e) => Err(e),
            None => self.create_spare(),
        }
    }

    /// Goes on in another file, so that the one in use can be emptied and grow; if a file is left
    /// for the day that a sync fails.
    pub fn turn(&mut self) -> Result<()> {
        self.check_running()?;
        let rescues = self.rescues();
        self.sync()?;
        // Where the sync failed another file is in use already.
        if self.rescues() != rescues || self.available().count() < 2 {
            return Ok(());
        }
        self.open_life().map_err(|e| self.stop(e))
    }

    /// The prepared file, or the largest free one; of these the one that was used longest ago.
    pub(super) fn best_free(&self) -> Option<u32> {
        let best = self.available().max_by_key(|f| f.rank());
        best.map(|f| f.slot)
    }

    fn open_life_in(&mut self, slot: u32) -> Result<()> {
        let prepared = self
            .files
            .iter()
            .find(|f| f.slot == slot && f.role == Role::Prepared);
        let (jid, file) = match prepared.map(|f| f.jid) {
            Some(jid) => match self.host.open(slot) {
                Ok(file) => (jid, file),
                Err(e) => return Err(self.give_up(slot, e)),
            },
            None => self.write_life(slot)?,
        };
        self.activate(slot, jid, file);
        Ok(())
    }

    /// The number of a life that there never was.
    fn next_life(&mut self) -> Result<Jid> {
        let next = self.newest.0.checked_add(1).map(Jid);
        self.newest = next.ok_or_else(|| used_up("life"))?;
        Ok(self.newest)
    }

    /// A number that no file has.
    pub(super) fn next_slot(&mut self) -> Result<u32> {
        let slot = self.free_slot;
        self.free_slot = slot.checked_add(1).ok_or_else(|| used_up("file"))?;
        Ok(slot)
    }

    /// Writes a new life's header to a free file. If that fails the file is not used again.
    pub(super) fn write_life(&mut self, slot: u32) -> Result<(Jid, Arc<dyn File>)> {
        let jid = self.next_life()?;
        let len = self.file(slot).map_or(0, |f| f.len);
        let header = self.header(slot, jid, len);
        let written = self
            .host
            .open(slot)
            .and_then(|file| host::write_header(&*file, self.vid, &header).map(|()| file));
        let file = written.map_err(|e| self.give_up(slot, e))?;
        if let Some(f) = self.file(slot) {
            f.jid = jid;
        }
        Ok((jid, file))
    }

    fn give_up(&mut self, slot: u32, cause: DiskError) -> Error {
        tracing::warn!(%cause, slot, "a journal file is given up");
        self.files.retain(|f| f.slot != slot);
        self.doomed.push(slot);
        cause.into()
    }

    /// Adds a file and opens a life in it, where none is free.
    fn create_spare(&mut self) -> Result<()> {
        let jid = self.next_life()?;
        let slot = self.next_slot()?;
        let header = self.header(slot, jid, self.smallest());
        let created = self.host.create(self.vid, &header);
        let file = created
            .and_then(|file| self.host.disk.sync_dir(Dir::Journal).map(|()| file))
            .map_err(|e| self.undo(slot, e))?;
        self.files.push(RingFile {
            slot,
            jid,
            len: header.len,
            role: Role::Free,
            batches: None,
        });
        self.activate(slot, jid, file);
        Ok(())
    }

    /// What was begun of a new file is to be removed, unless it may be another host's.
    pub(super) fn undo(&mut self, slot: u32, cause: DiskError) -> Error {
        let error = fence::not_created(cause);
        if fence::may_undo(&error) {
            self.doomed.push(slot);
        }
        error
    }

    pub(super) fn activate(&mut self, slot: u32, jid: Jid, file: Arc<dyn File>) {
        let mut len = 0;
        for f in &mut self.files {
            if f.role == Role::Active {
                f.role = Role::Full;
            }
            if f.slot == slot {
                f.role = Role::Active;
                len = f.len;
            }
        }
        self.settle_roles();
        self.active = Some(Active {
            slot,
            jid,
            file,
            at: UNIT as u64,
            len,
        });
    }
}

/// Nobody writes that often; files that say so were forged.
fn used_up(what: &str) -> Error {
    Error::Failed(format!("the journal has used up its {what} numbers").into())
}
