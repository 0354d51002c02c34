//! Replay: from the start that the superblock names to the end of the log.

use std::collections::BTreeMap;

use razorfs_disk::{Dir, Disk, OpenHow};
use razorfs_format::journal::{BatchHeader, Link};
use razorfs_format::layout::FileName;
use razorfs_format::{BatchSeq, FormatError, Generation, Jid, Lsn, Place, VolumeId};

use super::reader::{First, Image, Survey, Verdict};
use super::{Batch, JournalStart, RecoveryReport, TornTail, host};
use crate::error::Result;
use crate::marks::{self, Mark};

/// Makes durable whatever an earlier process left in the host's cache: a batch that is accepted
/// now must not be lost by a later power cut, while newer ones stay.
pub(super) fn settle(disk: &dyn Disk, copies: u8, contents: bool) -> Result<()> {
    if contents {
        for name in host::names(disk, copies)? {
            disk.open(&name, OpenHow::ReadWrite)?.sync_data()?;
        }
    }
    disk.sync_dir(Dir::Journal)?;
    Ok(())
}

/// Whether the journal goes on behind `end`, where it ended when the volume was closed: then it was
/// opened again since, and the superblock that tells so is lost.
pub(crate) fn goes_on(
    disk: &dyn Disk,
    vid: VolumeId,
    copies: u8,
    start: JournalStart,
    end: BatchSeq,
) -> Result<bool> {
    let files = Survey::read(disk, vid, copies)?.files;
    let mut later = files.iter().filter(|f| f.jid >= start.jid);
    // Each opening begins a new life.
    Ok(later.any(|f| matches!(f.first, First::Batch(first) if first > end)))
}

/// A replay, and what it found where.
pub(super) struct Replay {
    pub survey: Survey,
    pub report: RecoveryReport,
    /// The batches that were replayed out of each file of the survey.
    pub used: BTreeMap<usize, (BatchSeq, BatchSeq)>,
    vid: VolumeId,
    start: JournalStart,
    /// Which files of the survey have given their evidence.
    seen: Vec<bool>,
    /// The link of the last batch that was replayed.
    pub link: Option<Link>,
    /// The newest batch that any batch says is durable.
    durable: BatchSeq,
    /// All batches that were seen.
    batches: Vec<BatchSeq>,
}

/// Where the reader is.
struct Cursor {
    index: usize,
    image: Image,
    unit: u32,
}

/// More lives than one copy of a file can have named alone: no number is given out twice.
const LIVES_LOST: u32 = 1024;

/// Why the reader stopped.
enum End {
    /// The superblock says that the log ends here.
    Clean,
    Torn(Option<TornTail>),
    Damaged(FormatError),
}

impl Replay {
    /// Replays every batch from `start` on through `apply`, and judges the end of the log.
    pub fn run(
        disk: &dyn Disk,
        vid: VolumeId,
        copies: u8,
        start: JournalStart,
        clean_end: Option<BatchSeq>,
        apply: &mut dyn FnMut(&Batch) -> Result<()>,
    ) -> Result<Self> {
        let mut survey = Survey::read(disk, vid, copies)?;
        let damage = std::mem::take(&mut survey.damage);
        let mut this = Self {
            report: RecoveryReport {
                batches: 0,
                ops: 0,
                bytes: 0,
                last: BatchSeq(start.batch.0.saturating_sub(1)),
                last_lsn: Lsn(0),
                newest_generation: Generation(0),
                torn: None,
                discarded: 0,
                damage,
                healed: Vec::new(),
                read_only: false,
            },
            used: BTreeMap::new(),
            vid,
            start,
            seen: vec![false; survey.files.len()],
            link: None,
            durable: BatchSeq(0),
            batches: Vec::new(),
            survey,
        };
        let end = this.walk(clean_end, apply)?;
        this.judge(end, clean_end);
        Ok(this)
    }

    /// Makes the copies of every file equal, where there are two: what was pieced together of both
    /// must be whole in each before anything builds on it.
    pub fn heal(&mut self, disk: &dyn Disk, clean_end: Option<BatchSeq>) -> Result<()> {
        let before = BatchSeq(self.start.batch.0.saturating_sub(1));
        let durable = self.durable.max(clean_end.unwrap_or_default()).max(before);
        let mut changed = false;
        for (index, life) in self.survey.files.iter().enumerate() {
            let what = life.heal(disk, durable)?;
            changed |= !what.is_empty();
            // A power cut that comes while a file is added or removed leaves one copy, and nothing
            // in it that anybody needs.
            if life.lacks_a_copy() && !self.used.contains_key(&index) {
                marks::hit(Mark::JournalTwinAlone);
                continue;
            }
            self.report.healed.extend(what);
        }
        if changed {
            // What was lost with a copy may have named lives that no file names any more.
            self.survey.newest = Jid(self.survey.newest.0.saturating_add(LIVES_LOST));
        }
        Ok(())
    }

    fn walk(
        &mut self,
        clean_end: Option<BatchSeq>,
        apply: &mut dyn FnMut(&Batch) -> Result<()>,
    ) -> Result<End> {
        let at_end = |next: BatchSeq| clean_end.is_some_and(|end| next > end);
        let mut next = self.start.batch;
        if at_end(next) {
            return Ok(End::Clean);
        }
        let mut cursor = self.begin();
        while !at_end(next) {
            let (header, payload) = match self.step(&mut cursor, next) {
                Ok(found) => found,
                Err(end) => return Ok(end),
            };
            let batch = Batch::of(&header, payload);
            apply(&batch)?;
            self.count(&batch);
            next = BatchSeq(next.0.saturating_add(1));
        }
        Ok(End::Clean)
    }

    fn count(&mut self, batch: &Batch) {
        let r = &mut self.report;
        r.batches += 1;
        r.ops += u64::from(batch.n_ops);
        r.bytes += batch.payload.len() as u64;
        r.last = batch.seq;
        if batch.n_ops > 0 {
            r.last_lsn = Lsn(batch.first_lsn.0.saturating_add(u64::from(batch.n_ops) - 1));
        }
    }

    /// Reads a file, and notes what its batches say about others.
    fn load(&mut self, index: usize) -> Option<Image> {
        let image = Image::load(self.vid, self.survey.files.get(index)?);
        if let Some(seen) = self.seen.get_mut(index)
            && !*seen
        {
            *seen = true;
            for (_, jid, header) in image.batches() {
                if jid >= self.start.jid {
                    self.durable = self.durable.max(header.durable);
                    self.report.newest_generation =
                        self.report.newest_generation.max(header.generation);
                    self.batches.push(header.seq);
                }
                self.survey.newest = self.survey.newest.max(jid);
            }
        }
        Some(image)
    }

    /// The newest life that has the first batch to replay, or comes before it.
    ///
    /// That is the life that the superblock names, unless batches before the first one were
    /// written again after the name was taken down.
    fn begin(&mut self) -> Option<Cursor> {
        let first = self.start.batch;
        for index in (0..self.survey.files.len()).rev() {
            let life = self.survey.files.get(index)?;
            if life.jid < self.start.jid {
                return None;
            }
            let named = life.jid == self.start.jid;
            let here = match life.first {
                First::Batch(f) if f < first => true,
                First::Unclear => named || self.load(index)?.holds(first),
                _ => named,
            };
            if here {
                let image = self.load(index)?;
                let unit = image.locate(first);
                return Some(Cursor { index, image, unit });
            }
        }
        None
    }

    /// Finds batch `next`, and moves the cursor behind it.
    fn step(
        &mut self,
        cursor: &mut Option<Cursor>,
        next: BatchSeq,
    ) -> std::result::Result<(BatchHeader, Vec<u8>), End> {
        let mut end = End::Torn(None);
        for index in self.later(cursor.as_ref(), First::Batch(next)) {
            let Some(image) = self.load(index) else {
                continue;
            };
            match image.classify(1, next) {
                Verdict::Intact {
                    header,
                    payload,
                    link,
                    end: unit,
                } => {
                    self.link = link;
                    if cursor.as_ref().is_some_and(|c| c.index != index) {
                        marks::hit(Mark::ReplayNextLife);
                    }
                    *cursor = Some(Cursor { index, image, unit });
                    self.note_use(index, next);
                    return Ok((header, payload));
                }
                other => end = worse(end, &image, 1, next, other),
            }
        }
        if let Some(c) = cursor {
            match c.image.classify(c.unit, next) {
                Verdict::Intact {
                    header,
                    payload,
                    link,
                    end: unit,
                } => {
                    self.link = link;
                    c.unit = unit;
                    self.note_use(c.index, next);
                    if let End::Damaged(copy) = end {
                        self.report.damage.push(copy);
                    }
                    return Ok((header, payload));
                }
                other => end = worse(end, &c.image, c.unit, next, other),
            }
        }
        // A life that should begin with this batch may have lost just its first sector.
        for index in self.later(cursor.as_ref(), First::Unclear) {
            if let Some(image) = self.load(index) {
                let verdict = image.classify(1, next);
                end = worse(end, &image, 1, next, verdict);
            }
        }
        Err(end)
    }

    /// The lives after the cursor's with this beginning, newest first.
    fn later(&self, cursor: Option<&Cursor>, first: First) -> Vec<usize> {
        let from = match cursor {
            Some(c) => c.index + 1,
            None => self
                .survey
                .files
                .partition_point(|f| f.jid < self.start.jid),
        };
        let files = self.survey.files.iter().enumerate().skip(from).rev();
        files
            .filter(|(_, f)| f.first == first)
            .map(|(i, _)| i)
            .collect()
    }

    fn note_use(&mut self, index: usize, batch: BatchSeq) {
        let range = self.used.entry(index).or_insert((batch, batch));
        range.1 = batch;
    }

    /// Judges the end of the log by what all the batches behind it say.
    fn judge(&mut self, end: End, clean_end: Option<BatchSeq>) {
        let next = BatchSeq(self.report.last.0.saturating_add(1));
        if matches!(end, End::Clean) {
            return;
        }
        for index in 0..self.survey.files.len() {
            if !self.seen.get(index).copied().unwrap_or(true) {
                self.load(index);
            }
        }
        self.report.discarded = self.batches.iter().filter(|&&b| b > next).count() as u64;
        if self.report.discarded > 0 {
            marks::hit(Mark::ReplayDiscarded);
        }
        let durable = self.durable.max(clean_end.unwrap_or_default());
        match end {
            End::Clean => {}
            End::Damaged(e) => {
                marks::hit(Mark::ReplayDamaged);
                self.report.damage.push(e);
                self.report.read_only = true;
            }
            End::Torn(torn) if durable >= next => {
                marks::hit(Mark::ReplayLost);
                let place = torn.as_ref().map_or_else(|| self.somewhere(), |t| t.place);
                self.report.damage.push(place.error(
                    "acknowledged journal batch",
                    format_args!("batch {next}, as all to {durable} were durable"),
                    if torn.is_some() {
                        "a part of it"
                    } else {
                        "nothing"
                    },
                ));
                self.report.torn = torn;
                self.report.read_only = true;
            }
            End::Torn(torn) => {
                marks::hit(match torn {
                    Some(_) => Mark::ReplayTorn,
                    None => Mark::ReplayNothing,
                });
                self.report.torn = torn;
            }
        }
    }

    fn somewhere(&self) -> Place {
        let slot = self.survey.files.last().map_or(0, |f| f.slot);
        Place::new(FileName::Journal(slot), 0)
    }
}

/// The graver of what was known and one more verdict: damage, a torn batch, nothing.
fn worse(known: End, image: &Image, unit: u32, batch: BatchSeq, verdict: Verdict) -> End {
    match (known, verdict) {
        (End::Damaged(e), _) | (_, Verdict::Damaged(e)) => End::Damaged(e),
        (End::Torn(None), Verdict::Torn { written, sectors }) => End::Torn(Some(TornTail {
            batch,
            place: image.place(unit),
            written,
            sectors,
        })),
        (known, _) => known,
    }
}
