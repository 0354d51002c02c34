//! What stands in the journal's files: their lives, and what became of a batch.

use std::collections::BTreeMap;

use razorfs_disk::{Disk, OpenHow};
use razorfs_format::journal::{
    BatchHeader, FILE_MAX, FILE_MIN, FileHeader, Link, SECTOR, Sector, UNIT, UNIT_SECTORS,
    read_linked,
};
use razorfs_format::layout::FileName;
use razorfs_format::{BatchSeq, FormatError, Jid, Place, VolumeId};

use super::copies::Copies;
use super::host;
use crate::error::Result;
use crate::marks::{self, Mark};

/// What stands where the first batch of a life would begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum First {
    /// The header of this batch.
    Batch(BatchSeq),
    /// Nothing that this life wrote.
    Nothing,
    /// A damaged sector.
    Unclear,
}

/// A journal file in its current life.
pub(super) struct LifeFile {
    pub slot: u32,
    /// Its life; 0 if it was never used.
    pub jid: Jid,
    /// Bytes of it that are prepared.
    pub len: u64,
    pub first: First,
    copies: Copies,
}

impl LifeFile {
    /// Makes the copies of the file equal, and tells what was wrong with them.
    pub fn heal(&self, disk: &dyn Disk, durable: BatchSeq) -> Result<Vec<FormatError>> {
        self.copies.heal(disk, self.len, durable)
    }

    /// Whether a copy of it is not there.
    pub const fn lacks_a_copy(&self) -> bool {
        self.copies.lacks_one
    }
}

/// All journal files.
#[derive(Default)]
pub(super) struct Survey {
    /// Those that belong to the ring, by jid.
    pub files: Vec<LifeFile>,
    /// Files that somebody began to create: no header yet, nothing in them.
    pub unfinished: Vec<u32>,
    /// Damaged headers.
    pub damage: Vec<FormatError>,
    /// A number that no file has.
    pub free_slot: u32,
    /// The highest life that anything names.
    pub newest: Jid,
}

impl Survey {
    /// Reads the beginning of every journal file, past the host's cache.
    pub fn read(disk: &dyn Disk, vid: VolumeId, copies: u8) -> Result<Self> {
        let mut this = Self::default();
        for slot in host::slots(disk, copies)? {
            this.free_slot = slot.saturating_add(1);
            let file = Copies::open(disk, vid, slot, copies, OpenHow::ReadUncached)?;
            this.add(vid, slot, file)?;
        }
        this.files.sort_by_key(|f| (f.jid, f.slot));
        Ok(this)
    }

    fn add(&mut self, vid: VolumeId, slot: u32, copies: Copies) -> Result<()> {
        let host_len = copies.len()? / UNIT as u64 * UNIT as u64;
        let place = Place::new(FileName::Journal(slot), 0);
        let head = Image::load_range(vid, slot, &copies, 2 * UNIT as u64);
        let header = FileHeader::decode(vid, head.bytes.get(..SECTOR).unwrap_or(&[]), place);
        let first = head.sector(UNIT_SECTORS as u32);
        let stamped = match first {
            Sector::Stamped { jid, .. } => jid,
            _ => Jid(0),
        };
        let (jid, len) = match header {
            Ok(h) => {
                if stamped > h.jid {
                    let what = "life of a journal file";
                    self.damage.push(place.error(what, stamped, h.jid));
                }
                (h.jid.max(stamped), h.len)
            }
            Err(e) => {
                let len = host_len.min(FILE_MAX);
                let newest = Image::load_range(vid, slot, &copies, len).newest_life();
                if newest.is_none() && copies.was_never_used() {
                    marks::hit(Mark::ReplayFileUnfinished);
                    self.unfinished.push(slot);
                    return Ok(());
                }
                self.damage.push(e);
                match newest {
                    Some(jid) if len >= FILE_MIN => {
                        marks::hit(Mark::ReplayHeaderDamaged);
                        (jid, len)
                    }
                    _ => return Ok(()),
                }
            }
        };
        self.newest = self.newest.max(jid);
        let first = match first {
            Sector::Bad => First::Unclear,
            Sector::Stamped { .. } => match head.batch_at(1) {
                Some((j, header)) if j == jid => First::Batch(header.seq),
                Some(_) => First::Nothing,
                None if stamped == jid => First::Unclear,
                None => First::Nothing,
            },
            Sector::Zero => First::Nothing,
        };
        self.files.push(LifeFile {
            slot,
            jid,
            len,
            first,
            copies,
        });
        Ok(())
    }
}

/// What became of a batch.
pub(super) enum Verdict {
    /// It is there; the next one may begin at unit `end`.
    Intact {
        header: BatchHeader,
        payload: Vec<u8>,
        link: Option<Link>,
        end: u32,
    },
    /// Some of its sectors were never written.
    Torn { written: u32, sectors: u32 },
    /// Nothing of it is there.
    Nothing,
    /// All of its sectors were written, and some are damaged.
    Damaged(FormatError),
}

/// How a sector stands to the batch that is expected in it.
#[derive(PartialEq, Eq)]
enum Reached {
    Yes,
    Never,
    Damaged,
}

/// The bytes of a journal file. What cannot be read counts as damaged.
pub(super) struct Image {
    vid: VolumeId,
    slot: u32,
    /// The life of the file.
    pub jid: Jid,
    bytes: Vec<u8>,
    /// Units of the file that are prepared.
    units: u32,
}

impl Image {
    /// Reads the whole file.
    pub fn load(vid: VolumeId, life: &LifeFile) -> Self {
        let mut this = Self::load_range(vid, life.slot, &life.copies, life.len);
        this.jid = life.jid;
        this
    }

    fn load_range(vid: VolumeId, slot: u32, copies: &Copies, len: u64) -> Self {
        let bytes = copies.read(0..len);
        Self {
            vid,
            slot,
            jid: Jid(0),
            bytes,
            units: (len / UNIT as u64) as u32,
        }
    }

    fn raw(&self, sector: u32) -> Option<&[u8; SECTOR]> {
        let at = sector as usize * SECTOR;
        self.bytes.get(at..at + SECTOR)?.try_into().ok()
    }

    fn sector(&self, number: u32) -> Sector<'_> {
        match self.raw(number) {
            Some(bytes) => Sector::read(self.vid, number, bytes),
            None => Sector::Bad,
        }
    }

    /// Where a unit stands.
    pub fn place(&self, unit: u32) -> Place {
        self.sector_place(unit * UNIT_SECTORS as u32)
    }

    fn sector_place(&self, sector: u32) -> Place {
        let at = u64::from(sector) * SECTOR as u64;
        Place::new(FileName::Journal(self.slot), at)
    }

    fn sectors(from: u32, to: u32) -> std::ops::Range<u32> {
        from * UNIT_SECTORS as u32..to * UNIT_SECTORS as u32
    }

    /// The intact header, of any life, of a batch that begins at `unit`.
    pub fn batch_at(&self, unit: u32) -> Option<(Jid, BatchHeader)> {
        let number = unit * UNIT_SECTORS as u32;
        let Sector::Stamped {
            jid,
            seq_lo,
            payload,
        } = self.sector(number)
        else {
            return None;
        };
        let place = self.sector_place(number);
        let header = BatchHeader::decode(self.vid, jid, seq_lo, payload, place).ok()?;
        Some((jid, header))
    }

    /// The intact headers of batches, of any life. What a batch wrote behind its header is passed
    /// over: it may hold anything. Another one may have written over the end of it since.
    pub fn batches(&self) -> impl Iterator<Item = (u32, Jid, BatchHeader)> {
        let mut ends = BTreeMap::new();
        (1..self.units).filter_map(move |unit| {
            let (jid, header) = self.batch_at(unit)?;
            // A header has the number of the batch that wrote its sector.
            let writer = (jid, header.seq.0 as u32);
            if ends.get(&writer).is_some_and(|end| unit < *end) {
                return None;
            }
            ends.insert(writer, unit + units_of(&header));
            Some((unit, jid, header))
        })
    }

    /// The payload of a batch of any life, and its link, if it is whole.
    pub fn payload(
        &self,
        unit: u32,
        jid: Jid,
        header: &BatchHeader,
    ) -> Option<(Vec<u8>, Option<Link>)> {
        let end = unit.saturating_add(units_of(header)) as usize;
        let bytes = self.bytes.get(unit as usize * UNIT..end * UNIT)?;
        read_linked(self.vid, jid, header, bytes, self.place(unit)).ok()
    }

    /// The newest life that wrote any sector of the file.
    fn newest_life(&self) -> Option<Jid> {
        let sectors = Self::sectors(0, self.units);
        let stamped = sectors.filter_map(|n| match self.sector(n) {
            Sector::Stamped { jid, .. } => Some(jid),
            _ => None,
        });
        stamped.max()
    }

    /// The batch, near `near`, that wrote a sector in the current life.
    fn writer(&self, sector: u32, near: BatchSeq) -> Option<BatchSeq> {
        let raw = self.raw(sector)?;
        // The life is looked at before the checksum: most sectors need no more.
        let (_, rest) = raw.split_first_chunk::<4>()?;
        if *rest.first_chunk::<4>()? != self.jid.0.to_le_bytes() {
            return None;
        }
        match Sector::read(self.vid, sector, raw) {
            Sector::Stamped { jid, seq_lo, .. } if jid == self.jid => {
                let ahead = i64::from(seq_lo.wrapping_sub(near.0 as u32) as i32);
                Some(BatchSeq(near.0.wrapping_add_signed(ahead)))
            }
            _ => None,
        }
    }

    fn reached(&self, sector: u32, batch: BatchSeq) -> Reached {
        match self.sector(sector) {
            Sector::Zero => Reached::Never,
            Sector::Stamped { jid, .. } if jid < self.jid => Reached::Never,
            Sector::Stamped { jid, .. } if jid == self.jid => match self.writer(sector, batch) {
                Some(b) if b == batch => Reached::Yes,
                Some(b) if b < batch => Reached::Never,
                // A later batch here, in this life: not something the writer does.
                _ => Reached::Damaged,
            },
            _ => Reached::Damaged,
        }
    }

    /// Where `batch` stands in this life, or would stand: behind the last one before it.
    pub fn locate(&self, batch: BatchSeq) -> u32 {
        let mut unit = 1;
        let mut end = 1;
        while unit < self.units {
            match self.batch_at(unit) {
                Some((jid, header)) if jid == self.jid => {
                    if header.seq == batch {
                        return unit;
                    }
                    unit += units_of(&header);
                    if header.seq < batch {
                        end = unit;
                    }
                }
                _ => {
                    let mut sectors = Self::sectors(unit, unit + 1);
                    unit += 1;
                    if sectors.any(|s| self.writer(s, batch).is_some_and(|b| b < batch)) {
                        end = unit;
                    }
                }
            }
        }
        end
    }

    /// Whether this life holds the intact header of `batch`.
    pub fn holds(&self, batch: BatchSeq) -> bool {
        self.batches()
            .any(|(_, jid, header)| jid == self.jid && header.seq == batch)
    }

    /// What became of `batch`, which is expected at `unit`.
    pub fn classify(&self, unit: u32, batch: BatchSeq) -> Verdict {
        if unit >= self.units {
            return Verdict::Nothing;
        }
        match self.batch_at(unit) {
            Some((jid, header)) if jid == self.jid && header.seq == batch => {
                self.classify_extent(unit, &header)
            }
            _ => self.classify_headless(unit, batch),
        }
    }

    fn classify_extent(&self, unit: u32, header: &BatchHeader) -> Verdict {
        let end = unit.saturating_add(units_of(header));
        if end > self.units {
            let got = format_args!("one of {} bytes", header.payload_len).to_string();
            let e = self
                .place(unit)
                .error("batch", "one that ends in its file", got);
            return Verdict::Damaged(e);
        }
        if let Some(verdict) = self.unfit(unit, end, header.seq) {
            return verdict;
        }
        let place = self.place(unit);
        let bytes = self
            .bytes
            .get(unit as usize * UNIT..end as usize * UNIT)
            .unwrap_or(&[]);
        match read_linked(self.vid, self.jid, header, bytes, place) {
            Ok((payload, link)) => Verdict::Intact {
                header: *header,
                payload,
                link,
                end,
            },
            Err(e) => Verdict::Damaged(e),
        }
    }

    /// Without its header the extent of a batch is what its other sectors tell.
    fn classify_headless(&self, unit: u32, batch: BatchSeq) -> Verdict {
        let last = Self::sectors(unit, self.units)
            .rev()
            .find(|&s| self.writer(s, batch) == Some(batch));
        let end = last.map_or(unit, |s| s / UNIT_SECTORS as u32) + 1;
        self.unfit(unit, end, batch).unwrap_or_else(|| {
            let what = "header of a batch";
            Verdict::Damaged(self.place(unit).error(what, "a valid one", "another"))
        })
    }

    /// The verdict on the sectors of a batch, unless all of them are as they should be.
    fn unfit(&self, unit: u32, end: u32, batch: BatchSeq) -> Option<Verdict> {
        let (mut written, mut never, mut damaged) = (0, 0, None);
        for sector in Self::sectors(unit, end) {
            match self.reached(sector, batch) {
                Reached::Yes => written += 1,
                Reached::Never => never += 1,
                Reached::Damaged => damaged = damaged.or(Some(sector)),
            }
        }
        if never > 0 && written == 0 && damaged.is_none() {
            return Some(Verdict::Nothing);
        }
        if never > 0 {
            let sectors = (end - unit) * UNIT_SECTORS as u32;
            return Some(Verdict::Torn { written, sectors });
        }
        let what = "sector of a journal batch";
        let expected = format_args!("one of batch {batch}").to_string();
        damaged.map(|s| Verdict::Damaged(self.sector_place(s).error(what, expected, "another")))
    }
}

fn units_of(header: &BatchHeader) -> u32 {
    (header.extent_bytes() / UNIT) as u32
}
