//! The batches behind one that is lost: they were acknowledged, but build on what is missing.

use std::collections::BTreeMap;

use razorfs_format::journal::BatchHeader;
use razorfs_format::{BatchSeq, Generation, Jid, Lsn};

use super::life::Verdict;
use super::{Life, Replay, Stop};
use crate::session::Session;

/// What stands behind a gap.
pub struct Behind {
    /// The newest copy of each batch: which life, and where in it.
    batches: BTreeMap<BatchSeq, (Jid, usize, u32, BatchHeader)>,
}

impl Behind {
    /// The batches behind `stop`. Lives before that of the gap may hold some of a time line that
    /// a crash had ended.
    pub fn find(lives: &[Life], stop: Stop) -> Self {
        let mut batches = BTreeMap::new();
        for (index, life) in lives.iter().enumerate().filter(|(_, l)| l.jid >= stop.jid) {
            for (unit, jid, header) in life.batches() {
                if jid == life.jid && header.seq > stop.batch {
                    // The lives come in order: the newest copy stays.
                    batches.insert(header.seq, (jid, index, unit, header));
                }
            }
        }
        Self { batches }
    }

    /// Their headers, oldest first.
    pub fn headers(&self) -> impl DoubleEndedIterator<Item = &BatchHeader> {
        self.batches.values().map(|(_, _, _, header)| header)
    }

    /// Applies those that are intact; answers how many.
    pub fn apply(&self, s: &mut Session<'_>, lives: &[Life], replay: &mut Replay) -> u64 {
        let mut applied = 0;
        for (seq, (_, index, unit, _)) in &self.batches {
            let Some(life) = lives.get(*index) else {
                continue;
            };
            if let Verdict::Intact(header, payload, _) = life.judge(s, *unit, *seq) {
                let place = life.place(unit.saturating_mul(8));
                replay.apply(s, &header, &payload, place);
                applied += 1;
            }
        }
        applied
    }
}

/// The highest numbers that anything in the journal names.
#[derive(Default)]
pub struct Highest {
    pub jid: Jid,
    pub batch: BatchSeq,
    pub lsn: Lsn,
    pub generation: Generation,
    pub slot: u32,
}

impl Highest {
    pub fn of(lives: &[Life]) -> Self {
        let mut highest = Self::default();
        for life in lives {
            highest.jid = highest.jid.max(life.jid);
            highest.slot = highest.slot.max(life.slot);
            for (_, jid, header) in life.batches() {
                let end = header.first_lsn.0.saturating_add(header.n_ops.into());
                highest.jid = highest.jid.max(jid);
                highest.batch = highest.batch.max(header.seq).max(header.durable);
                highest.lsn = highest.lsn.max(Lsn(end));
                highest.generation = highest.generation.max(header.generation);
            }
        }
        highest
    }
}

/// The batch that begins with operation `lsn`, for a manifest whose superblock is lost: the first
/// one that does, or else the one before which something is missing.
pub fn batch_of(lives: &[Life], lsn: Lsn) -> BatchSeq {
    let mut exact: Option<BatchSeq> = None;
    let mut later: Option<BatchSeq> = None;
    let mut highest = BatchSeq(0);
    for (_, _, header) in lives.iter().flat_map(Life::batches) {
        highest = highest.max(header.seq);
        let to = match header.first_lsn.cmp(&lsn) {
            std::cmp::Ordering::Less => continue,
            std::cmp::Ordering::Equal => &mut exact,
            std::cmp::Ordering::Greater => &mut later,
        };
        *to = Some(to.map_or(header.seq, |seq| seq.min(header.seq)));
    }
    let before = |seq: BatchSeq| BatchSeq(seq.0.saturating_sub(1).max(1));
    exact
        .or(later.map(before))
        .unwrap_or(BatchSeq(highest.0.saturating_add(1)))
}
