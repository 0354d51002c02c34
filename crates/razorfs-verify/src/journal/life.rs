//! One journal file: which life it is in, and who wrote each sector.

use std::collections::BTreeMap;
use std::ops::Range;

use razorfs_format::journal::{
    BatchHeader, FILE_MAX, FILE_MIN, FileHeader, Link, SECTOR, Sector, UNIT, UNIT_SECTORS,
    filling_is_zero, read_linked, read_payload,
};
use razorfs_format::layout::FileName;
use razorfs_format::{BatchSeq, FormatError, Jid, Place, VolumeId};

use super::copies::Copies;
use crate::FindingKind as K;
use crate::session::Session;

const PER_UNIT: u32 = UNIT_SECTORS as u32;

/// Who wrote a sector.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writer {
    Nobody,
    Batch { jid: Jid, seq_lo: u32 },
    Damaged,
}

/// What stands where the first batch of a life would begin.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum First {
    Batch(BatchSeq),
    /// Nothing that this life wrote.
    Nothing,
    /// It cannot be told.
    Unclear,
}

/// How a sector stands to the batch that is expected there.
#[derive(PartialEq, Eq)]
enum Reached {
    Yes,
    Never,
    Damaged,
}

/// What became of a batch.
pub enum Verdict {
    /// It is there, and ends before this unit.
    Intact(BatchHeader, Vec<u8>, u32),
    /// Some of its sectors were never written.
    Torn { written: u32, sectors: u32 },
    /// Nothing of it is there.
    Nothing,
    /// It was written, and these sectors are damaged.
    Damaged(FormatError, Range<u32>),
}

/// A journal file.
pub struct Life {
    vid: VolumeId,
    pub slot: u32,
    /// Its current life.
    pub jid: Jid,
    /// The life that was written before it; 0 if that is not known.
    pub previous: Jid,
    copies: Copies,
    /// Units that are prepared.
    units: u32,
    writers: Vec<Writer>,
    /// Intact batch headers, of any life, by unit.
    headers: BTreeMap<u32, (Jid, BatchHeader)>,
}

impl Life {
    /// Reads journal file `slot`, and reports what is wrong with it as a file. `None` if it is
    /// no part of the ring.
    pub fn read(s: &mut Session<'_>, slot: u32, copies: u8) -> Option<Self> {
        let copies = Copies::open(s, slot, copies)?;
        let len = copies.len();
        let mut life = Self {
            vid: s.vid,
            slot,
            jid: Jid(0),
            previous: Jid(0),
            copies,
            units: (len.min(FILE_MAX) / UNIT as u64) as u32,
            writers: Vec::new(),
            headers: BTreeMap::new(),
        };
        let head = life.scan(s, len);
        life.settle(s, &head, len).then_some(life)
    }

    /// Looks at every sector; answers the first one's bytes.
    fn scan(&mut self, s: &mut Session<'_>, len: u64) -> Vec<u8> {
        const WINDOW: usize = 1 << 20;
        let mut window = vec![0; WINDOW.min(len as usize)];
        let mut head = Vec::new();
        let (mut at, mut number) = (0, 0u32);
        while at < len.min(FILE_MAX) {
            let got = self.copies.read(s, &mut window, at);
            let bytes = window.get(..got).unwrap_or_default();
            let (sectors, _) = bytes.as_chunks::<SECTOR>();
            for sector in sectors {
                if number == 0 {
                    head = sector.to_vec();
                }
                self.look(number, sector);
                number += 1;
            }
            if got < WINDOW {
                break;
            }
            at += got as u64;
        }
        s.checked.journal_sectors += u64::from(number);
        head
    }

    fn look(&mut self, number: u32, bytes: &[u8; SECTOR]) {
        let writer = match Sector::read(self.vid, number, bytes) {
            Sector::Zero => Writer::Nobody,
            Sector::Bad => Writer::Damaged,
            Sector::Stamped {
                jid,
                seq_lo,
                payload,
            } => {
                if number.is_multiple_of(PER_UNIT) && number > 0 {
                    let place = self.place(number);
                    let header = BatchHeader::decode(self.vid, jid, seq_lo, payload, place);
                    if let Ok(header) = header {
                        self.headers.insert(number / PER_UNIT, (jid, header));
                    }
                }
                Writer::Batch { jid, seq_lo }
            }
        };
        self.writers.push(writer);
    }

    /// Finds out the life and the prepared length; answers whether the file is part of the ring.
    fn settle(&mut self, s: &mut Session<'_>, head: &[u8], len: u64) -> bool {
        let place = self.place(0);
        let stamped = match self.writer(PER_UNIT) {
            Writer::Batch { jid, .. } => jid,
            _ => Jid(0),
        };
        match FileHeader::decode(self.vid, head, place) {
            Ok(header) => {
                self.jid = header.jid.max(stamped);
                if header.jid == self.jid {
                    self.previous = header.previous;
                }
                self.units = (header.len / UNIT as u64) as u32;
                let expected = (self.slot, 0, header.jid);
                let got = (header.slot, header.copy, self.jid);
                if expected != got {
                    let detail = format!("expected slot, copy, life {expected:?}, got {got:?}");
                    s.find(K::JournalFileHeader, place.file, detail);
                }
                if header.len > len {
                    let detail = format!("expected {} bytes, got {len}", header.len);
                    s.find(K::JournalFileHeader, place.file, detail);
                }
                self.check_unused(s);
                true
            }
            Err(e) => {
                let lives = self.writers.iter().filter_map(|w| match w {
                    Writer::Batch { jid, .. } => Some(*jid),
                    _ => None,
                });
                let newest = lives.max();
                if newest.is_none() && head.iter().all(|b| *b == 0) {
                    s.find(
                        K::JournalFileUnfinished,
                        place.file,
                        "no header, no batches",
                    );
                    self.units = 0;
                    self.check_unused(s);
                    return false;
                }
                s.find_bad(K::JournalFileHeader, &e);
                self.jid = newest.unwrap_or_default();
                newest.is_some() && len >= FILE_MIN
            }
        }
    }

    /// Reports the copies that are not there, given the first batch that a mount replays.
    pub fn report_missing(&self, s: &mut Session<'_>, first: BatchSeq) {
        let own = |(jid, header): &(Jid, BatchHeader)| *jid == self.jid && header.seq >= first;
        let kind = if self.headers.values().any(own) {
            K::JournalTwinMissing
        } else {
            K::JournalTwinAlone
        };
        for name in &self.copies.missing {
            s.find(kind, *name, "the file is missing");
        }
    }

    /// Bytes beyond the prepared part are zeros: the file was being extended.
    fn check_unused(&mut self, s: &mut Session<'_>) {
        let from = self.units.saturating_mul(PER_UNIT) as usize;
        let beyond = self.writers.get(from..).unwrap_or_default();
        if let Some(i) = beyond.iter().position(|w| *w != Writer::Nobody) {
            let place = self.place((from + i) as u32);
            let object = format!("{} at byte {}", place.file, place.offset);
            s.find(K::JournalUnusedBytes, object, "expected zeros");
        }
        self.writers.truncate(from);
    }

    /// Where a sector stands.
    pub fn place(&self, sector: u32) -> Place {
        let at = u64::from(sector) * SECTOR as u64;
        Place::new(FileName::Journal(self.slot), at)
    }

    /// Runs of damaged sectors.
    pub fn bad_runs(&self) -> Vec<Range<u32>> {
        let mut runs: Vec<Range<u32>> = Vec::new();
        for (number, writer) in (0u32..).zip(&self.writers) {
            // The first sector is the header's business.
            if *writer != Writer::Damaged || number == 0 {
                continue;
            }
            match runs.last_mut() {
                Some(run) if run.end == number => run.end += 1,
                _ => runs.push(number..number + 1),
            }
        }
        runs
    }

    fn writer(&self, sector: u32) -> Writer {
        self.writers
            .get(sector as usize)
            .copied()
            .unwrap_or(Writer::Damaged)
    }

    /// The batch, near `near`, that wrote a sector in the current life.
    fn batch_of(&self, sector: u32, near: BatchSeq) -> Option<BatchSeq> {
        match self.writer(sector) {
            Writer::Batch { jid, seq_lo } if jid == self.jid => {
                let ahead = i64::from(seq_lo.wrapping_sub(near.0 as u32) as i32);
                Some(BatchSeq(near.0.wrapping_add_signed(ahead)))
            }
            _ => None,
        }
    }

    fn reached(&self, sector: u32, batch: BatchSeq) -> Reached {
        match self.writer(sector) {
            Writer::Nobody => Reached::Never,
            Writer::Batch { jid, .. } if jid < self.jid => Reached::Never,
            Writer::Batch { .. } => match self.batch_of(sector, batch) {
                Some(b) if b == batch => Reached::Yes,
                Some(b) if b < batch => Reached::Never,
                // Of a later life or batch: no writer does that.
                _ => Reached::Damaged,
            },
            Writer::Damaged => Reached::Damaged,
        }
    }

    /// The intact batch headers, of any life, that do not stand inside another batch. What a later
    /// one wrote over the end of an older one is not inside of it.
    pub fn batches(&self) -> Vec<(u32, Jid, BatchHeader)> {
        let mut found = Vec::new();
        let mut ends = BTreeMap::new();
        for (unit, (jid, header)) in &self.headers {
            // A header has the number of the batch that wrote its sector.
            let writer = (*jid, header.seq.0 as u32);
            let inside = ends.get(&writer).is_some_and(|end| unit < end);
            if *unit < self.units && !inside {
                found.push((*unit, *jid, *header));
                ends.insert(writer, unit.saturating_add(units_of(header)));
            }
        }
        found
    }

    /// Whether this life has the intact header of `batch`.
    pub fn holds(&self, batch: BatchSeq) -> bool {
        let all = self.batches();
        all.iter()
            .any(|(_, jid, h)| *jid == self.jid && h.seq == batch)
    }

    /// What stands where the first batch of this life would begin.
    pub fn first(&self) -> First {
        match self.writer(PER_UNIT) {
            Writer::Damaged => First::Unclear,
            Writer::Nobody => First::Nothing,
            Writer::Batch { jid, .. } => match self.headers.get(&1) {
                Some((j, header)) if *j == self.jid => First::Batch(header.seq),
                None if jid == self.jid => First::Unclear,
                _ => First::Nothing,
            },
        }
    }

    /// The unit where `batch` begins in this life, or would: behind all batches before it.
    pub fn locate(&self, batch: BatchSeq) -> u32 {
        let (mut unit, mut end) = (1, 1);
        while unit < self.units {
            match self.headers.get(&unit) {
                Some((jid, header)) if *jid == self.jid => {
                    if header.seq == batch {
                        return unit;
                    }
                    unit = unit.saturating_add(units_of(header));
                    if header.seq < batch {
                        end = unit;
                    }
                }
                _ => {
                    let mut sectors = unit * PER_UNIT..(unit + 1) * PER_UNIT;
                    unit += 1;
                    if sectors.any(|n| self.batch_of(n, batch).is_some_and(|b| b < batch)) {
                        end = unit;
                    }
                }
            }
        }
        end
    }

    /// What became of `batch`, which is expected at `unit`.
    pub fn judge(&self, s: &mut Session<'_>, unit: u32, batch: BatchSeq) -> Verdict {
        if unit >= self.units {
            return Verdict::Nothing;
        }
        let header = match self.headers.get(&unit) {
            Some((jid, header)) if *jid == self.jid && header.seq == batch => *header,
            _ => return self.judge_headless(unit, batch),
        };
        let end = unit.saturating_add(units_of(&header));
        let sectors = unit * PER_UNIT..end.min(self.units) * PER_UNIT;
        if end > self.units {
            let got = format_args!("one of {} bytes", header.payload_len).to_string();
            let place = self.place(sectors.start);
            return Verdict::Damaged(
                place.error("batch", "one that ends in its file", got),
                sectors,
            );
        }
        if let Some(verdict) = self.unfit(sectors.clone(), batch) {
            return verdict;
        }
        // The extent lies in the file, so the file bounds the memory.
        let mut bytes = vec![0; sectors.len() * SECTOR];
        let place = self.place(sectors.start);
        let got = self.copies.read(s, &mut bytes, place.offset);
        bytes.truncate(got);
        match read_payload(self.vid, self.jid, &header, &bytes, place) {
            Ok(payload) => {
                if s.deep && !filling_is_zero(&bytes, header.payload_len as usize) {
                    let file = FileName::Journal(self.slot);
                    let object = format!("{file} at byte {}", place.offset);
                    s.find(K::JournalFilling, object, format!("batch {batch}"));
                }
                Verdict::Intact(header, payload, end)
            }
            Err(e) => Verdict::Damaged(e, sectors),
        }
    }

    /// The payload of a batch of any life, and its link, if it is whole.
    pub fn payload(
        &self,
        s: &mut Session<'_>,
        unit: u32,
        jid: Jid,
        header: &BatchHeader,
    ) -> Option<(Vec<u8>, Option<Link>)> {
        let end = unit.saturating_add(units_of(header));
        if end > self.units {
            return None;
        }
        let mut bytes = vec![0; (end - unit) as usize * UNIT];
        let place = self.place(unit * PER_UNIT);
        let got = self.copies.read(s, &mut bytes, place.offset);
        bytes.truncate(got);
        read_linked(self.vid, jid, header, &bytes, place).ok()
    }

    /// Without its header, a batch reaches as far as its other sectors tell.
    fn judge_headless(&self, unit: u32, batch: BatchSeq) -> Verdict {
        let start = unit * PER_UNIT;
        let mut own = (start..self.units * PER_UNIT).rev();
        let last = own.find(|n| self.batch_of(*n, batch) == Some(batch));
        let end = last.map_or(unit, |n| n / PER_UNIT) + 1;
        let sectors = start..end * PER_UNIT;
        self.unfit(sectors.clone(), batch).unwrap_or_else(|| {
            let e = self
                .place(start)
                .error("header of a batch", "a valid one", "another");
            Verdict::Damaged(e, sectors)
        })
    }

    /// The verdict on these sectors of a batch, unless all are as they should be.
    fn unfit(&self, sectors: Range<u32>, batch: BatchSeq) -> Option<Verdict> {
        let (mut written, mut never, mut damaged) = (0, 0, None);
        for n in sectors.clone() {
            match self.reached(n, batch) {
                Reached::Yes => written += 1,
                Reached::Never => never += 1,
                Reached::Damaged => damaged = damaged.or(Some(n)),
            }
        }
        match damaged {
            None if never == 0 => None,
            None if written == 0 => Some(Verdict::Nothing),
            _ if never > 0 => Some(Verdict::Torn {
                written,
                sectors: sectors.len() as u32,
            }),
            damaged => {
                let place = self.place(damaged.unwrap_or(sectors.start));
                let expected = format_args!("one of batch {batch}").to_string();
                let e = place.error("sector of a journal batch", expected, "another");
                Some(Verdict::Damaged(e, sectors))
            }
        }
    }
}

fn units_of(header: &BatchHeader) -> u32 {
    u32::try_from(header.extent_bytes() / UNIT).unwrap_or(u32::MAX)
}
