//! Replay: which batches a mount would apply, and whether the log ends where it may.
//!
//! Where batch b is expected it is looked for in later lives first (after a crash the ring goes on
//! in a new one), then behind the batch before it. A batch with sectors that nobody wrote was
//! never acknowledged: the log ends there, unless something says that it was durable. A batch
//! without such sectors was written completely, and what is wrong with it is damage.

use std::ops::Range;

use razorfs_format::journal::BatchHeader;
use razorfs_format::{BatchSeq, FormatError, Generation, Jid, Lsn, Place};

use super::Replay;
use super::life::{First, Life, Verdict};
use crate::FindingKind as K;
use crate::roots::Roots;
use crate::session::Session;

/// Where the log ends, and why.
enum End {
    /// The superblock says so.
    Clean,
    /// Nothing follows.
    Nothing,
    /// A part of a batch follows.
    Torn {
        place: Place,
        written: u32,
        sectors: u32,
    },
    Damaged(FormatError, u32, Range<u32>),
}

struct Cursor {
    index: usize,
    unit: u32,
}

/// Sectors of a file.
pub type Extent = Option<(u32, Range<u32>)>;

/// A batch that was durable and is not there any more.
#[derive(Clone, Copy)]
pub struct Stop {
    /// The batch.
    pub batch: BatchSeq,
    /// The life that it would be in, or an older one.
    pub jid: Jid,
}

/// How the replay ended.
pub struct Ended {
    /// The extent of a damaged batch that was reported.
    pub told: Extent,
    /// Where it stopped before its time.
    pub stop: Option<Stop>,
    /// The batch that would have come next.
    pub next: BatchSeq,
}

/// Replays the journal into `replay`.
pub fn run(s: &mut Session<'_>, roots: &Roots, lives: &[Life], replay: &mut Replay) -> Ended {
    let start = roots.superblock.journal;
    let clean_end = roots.superblock.clean_end();
    let at_end = |next: BatchSeq| clean_end.is_some_and(|end| next > end);
    let mut next = start.batch;
    let mut lsn = roots.superblock.cut;
    let mut end = End::Clean;
    let mut cursor = None;
    if !at_end(next) {
        cursor = begin(roots, lives);
        while !at_end(next) {
            match step(s, roots, lives, &mut cursor, next) {
                Ok((header, payload, place)) => {
                    check_numbers(s, &header, lsn, place);
                    lsn = Lsn(header.first_lsn.0.saturating_add(u64::from(header.n_ops)));
                    replay.apply(s, &header, &payload, place);
                    s.checked.batches += 1;
                }
                Err(stop) => {
                    end = stop;
                    break;
                }
            }
            next = BatchSeq(next.0.saturating_add(1));
        }
    }
    let slot = match &end {
        End::Damaged(_, slot, _) => Some(*slot),
        _ => None,
    };
    let (told, stopped) = judge(s, roots, lives, next, end);
    let of_slot = lives.iter().find(|life| Some(life.slot) == slot);
    let life = of_slot.or(cursor.and_then(|c| lives.get(c.index)));
    let stop = Stop {
        batch: next,
        jid: life.map_or(start.jid, |life| life.jid),
    };
    Ended {
        told,
        stop: stopped.then_some(stop),
        next,
    }
}

fn check_numbers(s: &mut Session<'_>, header: &BatchHeader, lsn: Lsn, place: Place) {
    if header.first_lsn != lsn {
        let object = format!("{} batch {}", place.file, header.seq);
        let detail = format!("expected first operation {lsn}, got {}", header.first_lsn);
        s.find(K::JournalBatchMeaning, object, detail);
    }
}

/// The newest life that holds the first batch to replay, or what comes before it.
fn begin(roots: &Roots, lives: &[Life]) -> Option<Cursor> {
    let start = roots.superblock.journal;
    let found = lives.iter().enumerate().rev().find(|(_, life)| {
        let named = life.jid == start.jid;
        life.jid < start.jid
            || match life.first() {
                First::Batch(first) if first < start.batch => true,
                First::Unclear => named || life.holds(start.batch),
                _ => named,
            }
    });
    let (index, life) = found.filter(|(_, life)| life.jid >= start.jid)?;
    let unit = life.locate(start.batch);
    Some(Cursor { index, unit })
}

/// Finds batch `next`, and moves the cursor behind it.
fn step(
    s: &mut Session<'_>,
    roots: &Roots,
    lives: &[Life],
    cursor: &mut Option<Cursor>,
    next: BatchSeq,
) -> Result<(BatchHeader, Vec<u8>, Place), End> {
    let from = match cursor {
        Some(c) => c.index + 1,
        None => lives.partition_point(|life| life.jid < roots.superblock.journal.jid),
    };
    let later = |first: First| {
        let all = lives.iter().enumerate().skip(from).rev();
        all.filter(move |(_, life)| life.first() == first)
            .map(|(index, _)| (index, 1))
    };
    let mut places: Vec<(usize, u32)> = later(First::Batch(next)).collect();
    places.extend(cursor.as_ref().map(|c| (c.index, c.unit)));
    // A life that should begin with this batch may have lost its first sector only.
    let unclear: Vec<(usize, u32)> = later(First::Unclear).collect();
    let mut end = End::Nothing;
    for (position, (index, unit)) in (0..).zip(places.iter().chain(&unclear)) {
        let Some(life) = lives.get(*index) else {
            continue;
        };
        let place = life.place(unit.saturating_mul(8));
        match life.judge(s, *unit, next) {
            Verdict::Intact(header, payload, unit) if position < places.len() => {
                if let End::Damaged(copy, _, _) = end {
                    s.find_bad(K::JournalSector, &copy);
                }
                *cursor = Some(Cursor {
                    index: *index,
                    unit,
                });
                return Ok((header, payload, place));
            }
            Verdict::Intact(..) | Verdict::Nothing => {}
            Verdict::Torn { written, sectors } => {
                if matches!(end, End::Nothing) {
                    end = End::Torn {
                        place,
                        written,
                        sectors,
                    };
                }
            }
            Verdict::Damaged(e, sectors) => {
                if !matches!(end, End::Damaged(..)) {
                    end = End::Damaged(e, life.slot, sectors);
                }
            }
        }
    }
    Err(end)
}

/// Judges the end of the log by what all batches say; answers whether something is lost.
fn judge(
    s: &mut Session<'_>,
    roots: &Roots,
    lives: &[Life],
    next: BatchSeq,
    end: End,
) -> (Extent, bool) {
    let start = roots.superblock.journal;
    let mut durable = roots.superblock.clean_end().unwrap_or_default();
    let mut generation = Generation(0);
    for (_, jid, header) in lives.iter().flat_map(Life::batches) {
        if jid >= start.jid {
            durable = durable.max(header.durable);
            generation = generation.max(header.generation);
        }
    }
    let known = roots.superblock.generation;
    if generation > known {
        let detail = format!("generation {generation} was written, {known} is the newest there");
        s.find(K::SuperblockLost, "journal", detail);
    }
    let lost = durable >= next;
    let expected = format!("expected batch {next}, as all to {durable} were durable");
    match end {
        End::Clean => {}
        End::Damaged(e, slot, sectors) => {
            s.find_bad(K::JournalBatchDamaged, &e);
            s.incomplete = true;
            return (Some((slot, sectors)), true);
        }
        End::Nothing if lost => {
            s.find(
                K::JournalBatchLost,
                "journal",
                format!("{expected}, got nothing"),
            );
            s.incomplete = true;
            return (None, true);
        }
        End::Nothing => {}
        End::Torn {
            place,
            written,
            sectors,
        } => {
            let object = format!("{} at byte {}", place.file, place.offset);
            let got = format!("{written} of {sectors} sectors of batch {next}");
            if lost {
                s.find(
                    K::JournalBatchLost,
                    object,
                    format!("{expected}, got {got}"),
                );
                s.incomplete = true;
                return (None, true);
            }
            s.find(K::JournalTornTail, object, got);
        }
    }
    (None, false)
}
