//! Which bytes of the packs are dead and can be given back to the host.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use razorfs_format::pack::{FRAME_HEADER_LEN, TrailerEntry};
use razorfs_format::{Epoch, PackId};

use crate::error::Result;

/// Shortest run of dead bytes that is worth a hole: 16 KiB. Shorter ones give back less and less of
/// what they take, since holes are whole pages, and make files of many pieces.
pub const PUNCH_MIN: u64 = 16 * 1024;
/// Holes begin and end at multiples of this.
const PAGE: u64 = 4096;
/// Runs remembered in all; beyond it the packs with the most runs are forgotten, and are searched
/// again.
const RUNS_MAX: usize = 64 * 1024;

/// Frames, or holes, in packs.
type Frames = Vec<(PackId, Range<u64>)>;

/// A run of dead frames.
#[derive(Clone, Copy, Debug)]
struct Run {
    end: u64,
    /// It grew since it was last given out.
    grown: bool,
}

/// Dead frames, merged into runs.
#[derive(Clone, Debug, Default)]
pub(super) struct DeadRuns {
    /// Died in the flush that is under way.
    fresh: Frames,
    /// Died in the flush of this epoch.
    waiting: VecDeque<(Epoch, Frames)>,
    /// Died long enough ago.
    runs: BTreeMap<PackId, BTreeMap<u64, Run>>,
    count: usize,
    /// Bytes of holes that are not among the runs: a search has found them, or they were forgotten.
    elsewhere: BTreeMap<PackId, u64>,
    /// Packs of which not all dead frames are known.
    unknown: BTreeSet<PackId>,
}

impl DeadRuns {
    /// Nothing is known of these packs.
    pub(super) fn unknown(packs: impl Iterator<Item = PackId>) -> Self {
        Self {
            unknown: packs.collect(),
            ..Self::default()
        }
    }

    /// Whether there may be dead frames in the pack that are not known.
    pub(super) fn is_unknown(&self, pack: PackId) -> bool {
        self.unknown.contains(&pack)
    }

    /// Bytes of the pack that were given back, or will be.
    pub(super) fn holes(&self, pack: PackId) -> u64 {
        let elsewhere = self.elsewhere.get(&pack).copied().unwrap_or(0);
        let runs = self.runs.get(&pack).into_iter().flatten();
        let holes = runs.filter_map(|(start, run)| hole(*start..run.end));
        holes.fold(elsewhere, |sum, hole| sum + (hole.end - hole.start))
    }

    /// The pack is about to be searched: that finds what is known by now, too.
    pub(super) fn search(&mut self, pack: PackId) {
        self.forget_runs(pack);
    }

    /// What was dead in the pack when the search began was found: so many bytes of holes.
    pub(super) fn found(&mut self, pack: PackId, holes: u64) {
        self.unknown.remove(&pack);
        self.elsewhere.insert(pack, holes);
    }

    fn forget_runs(&mut self, pack: PackId) {
        let holes = self.holes(pack);
        self.elsewhere.insert(pack, holes);
        self.count -= self.runs.remove(&pack).map_or(0, |runs| runs.len());
    }

    pub(super) fn died(&mut self, pack: PackId, frame: Range<u64>) {
        self.fresh.push((pack, frame));
    }

    pub(super) fn flushed(&mut self, epoch: Epoch) {
        if !self.fresh.is_empty() {
            let fresh = std::mem::take(&mut self.fresh);
            self.waiting.push_back((epoch, fresh));
        }
    }

    pub(super) fn remove(&mut self, pack: PackId) {
        self.unknown.remove(&pack);
        self.forget_runs(pack);
        self.elsewhere.remove(&pack);
        self.fresh.retain(|(p, _)| *p != pack);
        for (_, frames) in &mut self.waiting {
            frames.retain(|(p, _)| *p != pack);
        }
    }

    /// The holes to punch in the packs that `punchable` names, for frames that died in the flush
    /// of `flushed` or before. Each is given out once, and again, whole, when it has grown.
    pub(super) fn take(&mut self, flushed: Epoch, punchable: impl Fn(PackId) -> bool) -> Frames {
        while self.waiting.front().is_some_and(|(e, _)| *e <= flushed) {
            for (pack, frame) in self.waiting.pop_front().into_iter().flat_map(|(_, f)| f) {
                self.insert(pack, frame);
            }
        }
        self.shrink();
        let mut out = Vec::new();
        for (pack, runs) in self.runs.iter_mut().filter(|(pack, _)| punchable(**pack)) {
            for (start, run) in runs.iter_mut().filter(|(_, run)| run.grown) {
                if let Some(hole) = hole(*start..run.end) {
                    run.grown = false;
                    out.push((*pack, hole));
                }
            }
        }
        out
    }

    fn insert(&mut self, pack: PackId, frame: Range<u64>) {
        let runs = self.runs.entry(pack).or_default();
        let held = runs.len();
        let (mut start, mut end) = (frame.start, frame.end);
        if let Some((s, run)) = runs.range(..=start).next_back()
            && run.end >= start
        {
            (start, end) = (*s, end.max(run.end));
        }
        while let Some((at, run)) = runs.range(start..=end).next() {
            end = end.max(run.end);
            let at = *at;
            runs.remove(&at);
        }
        runs.insert(start, Run { end, grown: true });
        self.count = self.count + runs.len() - held;
    }

    fn shrink(&mut self) {
        while self.count > RUNS_MAX {
            let most = self.runs.iter().max_by_key(|(_, runs)| runs.len());
            let Some(pack) = most.map(|(pack, _)| *pack) else {
                break;
            };
            self.forget_runs(pack);
            self.unknown.insert(pack);
        }
    }
}

/// The whole pages inside a run of dead frames that is long enough. The header of the first frame
/// stays, so that a walk by headers knows where it is.
fn hole(run: Range<u64>) -> Option<Range<u64>> {
    if run.end.saturating_sub(run.start) < PUNCH_MIN {
        return None;
    }
    let start = (run.start + FRAME_HEADER_LEN).next_multiple_of(PAGE);
    let end = run.end / PAGE * PAGE;
    (start < end).then_some(start..end)
}

/// The holes to punch in a sealed pack with these frames, of which `live` tells whether something
/// refers to them; bytes that no entry covers stay. For packs whose dead frames are not known any
/// more, say after a restart.
pub fn dead_runs(
    entries: &[TrailerEntry],
    live: &mut dyn FnMut(&TrailerEntry) -> Result<bool>,
) -> Result<Vec<Range<u64>>> {
    let mut holes = Vec::new();
    let mut run: Range<u64> = 0..0;
    for entry in entries {
        if live(entry)? {
            continue;
        }
        if run.end != entry.pos {
            holes.extend(hole(run));
            run = entry.pos..entry.pos;
        }
        run.end = entry.end();
    }
    holes.extend(hole(run));
    Ok(holes)
}
