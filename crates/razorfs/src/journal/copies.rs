//! The copies of a journal file, as recovery reads them, and how they become whole again.
//!
//! A sector that is valid in either copy is valid. Where both are, and differ, the younger one
//! counts: sectors are written once in a life, so the other one never got this far. Where one copy
//! says that a sector was never reached and the other is damaged there, it was never reached: of
//! two copies one is right, and a batch that was acknowledged is in both. What neither says is
//! damaged.

use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

use razorfs_disk::{Dir, Disk, DiskOp, File, OpenHow};
use razorfs_format::journal::{FileHeader, Rank, SECTOR, Sector, UNIT, rank};
use razorfs_format::layout::FileName;
use razorfs_format::{BatchSeq, FormatError, Jid, Place, VolumeId};

use super::host;
use crate::error::{Error, Result};
use crate::marks::{self, Mark};

/// No sector with these bytes is valid, and they are not zeros.
const UNREADABLE: u8 = 0xA5;
/// Bytes of each copy that are in memory at a time while they are made equal.
const WINDOW: u64 = 1 << 20;

/// The copies of one file; one that is not there is none.
pub(super) struct Copies {
    vid: VolumeId,
    slot: u32,
    files: Vec<Option<Arc<dyn File>>>,
    /// Not all of them are there.
    pub lacks_one: bool,
    /// The life that the headers name; the highest one of all where none does.
    life: Jid,
}

impl Copies {
    /// Opens them. A copy whose header is of another file is damaged as a whole.
    pub fn open(
        disk: &dyn Disk,
        vid: VolumeId,
        slot: u32,
        copies: u8,
        how: OpenHow,
    ) -> Result<Self> {
        let files = (0..copies).map(|copy| match disk.open(&host::name(slot, copy), how) {
            Ok(file) => Ok(Some(file)),
            Err(e) if e.is_not_found() && copies > 1 => Ok(None),
            Err(e) => Err(e),
        });
        let files: razorfs_disk::Result<Vec<_>> = files.collect();
        let mut this = Self {
            vid,
            slot,
            files: files?,
            lacks_one: false,
            life: Jid(u32::MAX),
        };
        this.lacks_one = this.files.iter().any(Option::is_none);
        if copies > 1 {
            let headers: Vec<Option<FileHeader>> =
                (0..copies).map(|copy| this.header(copy)).collect();
            let own = headers.iter().flatten().filter(|h| h.slot == slot);
            this.life = own.map(|h| h.jid).max().unwrap_or(this.life);
            for (file, header) in this.files.iter_mut().zip(&headers) {
                if header.is_some_and(|h| h.slot != slot) {
                    *file = None;
                }
            }
        }
        Ok(this)
    }

    /// Whether a file in which nothing valid was found was never used: of two copies one is right,
    /// and this one holds nothing.
    pub fn was_never_used(&self) -> bool {
        let blank = |file: &Arc<dyn File>| read(&**file, 0..SECTOR as u64).iter().all(|b| *b == 0);
        self.files.iter().any(|f| f.as_ref().is_none_or(blank))
    }

    fn header(&self, copy: u8) -> Option<FileHeader> {
        let file = self.files.get(usize::from(copy))?.as_ref()?;
        let bytes = read(&**file, 0..SECTOR as u64);
        let place = Place::new(FileName::journal(self.slot, copy), 0);
        FileHeader::decode(self.vid, &bytes, place).ok()
    }

    /// The length of the longest.
    pub fn len(&self) -> razorfs_disk::Result<u64> {
        let mut longest = 0;
        for file in self.files.iter().flatten() {
            longest = longest.max(file.len()?);
        }
        Ok(longest)
    }

    /// The bytes of a range that begins with a sector, as far as there are any.
    pub fn read(&self, range: Range<u64>) -> Vec<u8> {
        let mut all = self.files.iter().flatten();
        let mut bytes = all
            .next()
            .map_or_else(Vec::new, |f| read(&**f, range.clone()));
        for file in all {
            let other = read(&**file, range.clone());
            self.merge(&mut bytes, other, range.start);
        }
        bytes
    }

    fn rank(&self, number: u32, bytes: &[u8; SECTOR]) -> Option<Rank> {
        rank(self.vid, self.life, number, bytes)
    }

    fn merge(&self, bytes: &mut Vec<u8>, mut other: Vec<u8>, at: u64) {
        if *bytes == other {
            return;
        }
        if bytes.len() < other.len() {
            std::mem::swap(bytes, &mut other);
        }
        let (sectors, _) = bytes.as_chunks_mut::<SECTOR>();
        let (others, _) = other.as_chunks::<SECTOR>();
        let first = (at / SECTOR as u64) as u32;
        for (number, (sector, other)) in (first..).zip(sectors.iter_mut().zip(others)) {
            if sector != other && self.rank(number, other) > self.rank(number, sector) {
                *sector = *other;
            }
        }
    }

    /// Makes the copies equal, and whole up to `len`, durably. Tells of each that a power cut does
    /// not explain: of batches up to `durable` both must have had everything. What is damaged in
    /// all of them stays.
    pub fn heal(&self, disk: &dyn Disk, len: u64, durable: BatchSeq) -> Result<Vec<FormatError>> {
        let (mut told, mut sick) = (Vec::new(), None);
        // A copy, or a part of one, that is not there and comes.
        let mut comes = false;
        for file in &self.files {
            comes |= match file {
                Some(file) => file.len()? < len,
                None => true,
            };
        }
        let all = (0u8..).take(self.files.len());
        for copy in all.clone() {
            match self.heal_one(disk, copy, len, durable) {
                Ok(what) => told.extend(what),
                Err(e) if self.files.len() > 1 && sick.is_none() && is_refused(&e) => {
                    sick = Some((copy, e));
                }
                Err(e) => return Err(e),
            }
        }
        if let Some((copy, why)) = sick {
            told.extend(self.replace(disk, copy, len, durable, &why)?);
            comes = true;
        }
        if comes {
            // What was damaged in the other one is blank in what has come.
            let count = self.files.len() as u8;
            let how = OpenHow::ReadUncached;
            let whole = Self::open(disk, self.vid, self.slot, count, how)?;
            for copy in all {
                told.extend(whole.heal_one(disk, copy, len, durable)?);
            }
        }
        Ok(told)
    }

    /// Makes a copy anew that the disk did not take where it was; perhaps it does elsewhere. The
    /// others are whole by now, so that nothing is lost with it.
    fn replace(
        &self,
        disk: &dyn Disk,
        copy: u8,
        len: u64,
        durable: BatchSeq,
        why: &Error,
    ) -> Result<Option<FormatError>> {
        let name = host::name(self.slot, copy);
        tracing::warn!(file = %name, error = %why, "it cannot be healed and is made anew");
        marks::hit(Mark::JournalTwinReplaced);
        disk.remove(&name)?;
        let count = self.files.len() as u8;
        let rest = Self::open(disk, self.vid, self.slot, count, OpenHow::ReadUncached)?;
        rest.heal_one(disk, copy, len, durable)
    }

    fn heal_one(
        &self,
        disk: &dyn Disk,
        copy: u8,
        len: u64,
        durable: BatchSeq,
    ) -> Result<Option<FormatError>> {
        let name = host::name(self.slot, copy);
        let place = Place::new(FileName::journal(self.slot, copy), 0);
        let (file, is_new) = match disk.open(&name, OpenHow::ReadWrite) {
            Err(e) if e.is_not_found() => (disk.open(&name, OpenHow::CreateNew)?, true),
            file => (file?, false),
        };
        let there = file.len()?;
        let short = there < len;
        let mut wrong = Wrong::default();
        if short {
            file.allocate(there / SECTOR as u64 * SECTOR as u64..len, true)?;
        } else if !is_blank(&*file, len..there) {
            // It had begun to grow; what is there was to be zeros.
            file.set_len(len)?;
            (wrong.damaged, wrong.written) = (1, true);
        }
        let mut at = 0;
        while at < len {
            let range = at..len.min(at + WINDOW);
            self.heal_range(&*file, range, durable, &mut wrong)?;
            at += WINDOW;
        }
        if is_new || short || wrong.written {
            marks::hit(Mark::JournalTwinHealed);
            file.sync_data()?;
        }
        if is_new {
            marks::hit(Mark::JournalTwinMade);
            disk.sync_dir(Dir::Journal)?;
        }
        let what = "copy of a journal file";
        Ok(if is_new {
            Some(place.error(what, "one", "none; it was made again"))
        } else if short {
            let got = format_args!("{there}; it was healed from the other copy").to_string();
            Some(place.error("length of a journal file", len, got))
        } else if wrong.damaged + wrong.stale > 0 {
            let Wrong { damaged, stale, .. } = wrong;
            let got = format!(
                "{damaged} damaged and {stale} old ones; they were healed from the other copy"
            );
            Some(place.error(what, "intact sectors", got))
        } else {
            None
        })
    }

    fn heal_range(
        &self,
        file: &dyn File,
        range: Range<u64>,
        durable: BatchSeq,
        wrong: &mut Wrong,
    ) -> Result<()> {
        let mut at = range.start;
        let (good, own) = (self.read(range.clone()), read(file, range));
        if good == own {
            return Ok(());
        }
        let (sectors, _) = good.as_chunks::<SECTOR>();
        let (owns, _) = own.as_chunks::<SECTOR>();
        for (sector, own) in sectors.iter().zip(owns) {
            let number = (at / SECTOR as u64) as u32;
            if sector != own
                && let Some(rank) = self.rank(number, sector)
            {
                match self.rank(number, own) {
                    Some(had) if had <= rank => {
                        wrong.stale += u32::from(self.was_durable(number, sector, durable));
                    }
                    _ => wrong.damaged += 1,
                }
                wrong.written = true;
                file.write_at(&[IoSlice::new(sector)], at)?;
            }
            at += SECTOR as u64;
        }
        Ok(())
    }

    /// Whether a sector is of a batch up to this one, so that both copies had it.
    fn was_durable(&self, number: u32, bytes: &[u8; SECTOR], durable: BatchSeq) -> bool {
        match Sector::read(self.vid, number, bytes) {
            Sector::Stamped { seq_lo, .. } if number > 0 => {
                seq_lo.wrapping_sub(durable.0 as u32) as i32 <= 0
            }
            _ => false,
        }
    }
}

/// Whether the disk did not take bytes where they were to go; files that cannot be opened stay.
fn is_refused(error: &Error) -> bool {
    matches!(error, Error::Disk(e) if matches!(e.op, DiskOp::Write | DiskOp::Sync))
}

/// What was wrong with a copy.
#[derive(Default)]
struct Wrong {
    /// Sectors that were damaged.
    damaged: u32,
    /// Sectors of durable batches that were as they had been before.
    stale: u32,
    /// Something was written.
    written: bool,
}

/// The bytes of a range, as far as the file goes. What cannot be read counts as damaged.
fn read(file: &dyn File, range: Range<u64>) -> Vec<u8> {
    let there = file.len().unwrap_or(0).min(range.end);
    let mut bytes = vec![0; there.saturating_sub(range.start) as usize];
    if file.read_at(&mut bytes, range.start).ok() != Some(bytes.len()) {
        let mut at = range.start;
        for unit in bytes.chunks_mut(UNIT) {
            if file.read_at(unit, at).ok() != Some(unit.len()) {
                unit.fill(UNREADABLE);
            }
            at += UNIT as u64;
        }
    }
    bytes
}

/// Whether a range is zeros, as far as the file goes.
fn is_blank(file: &dyn File, range: Range<u64>) -> bool {
    let mut at = range.start;
    while at < range.end {
        let part = read(file, at..range.end.min(at + WINDOW));
        if part.iter().any(|b| *b != 0) {
            return false;
        }
        at += WINDOW;
    }
    true
}
