//! What the volume is put back from: one generation with the journal over it, and what is lost.

use std::ops::ControlFlow;

use razorfs_disk::Dir;
use razorfs_format::key::{Key, Tag};
use razorfs_format::layout::FileName;
use razorfs_format::manifest::PackMeta;
use razorfs_format::pack::{Depth, HEADER_LEN, PackState, Scanned, scan_frames};
use razorfs_format::timeline::View;
use razorfs_format::{Epoch, PackId};

use super::candidates::Candidate;
use crate::Result;
use crate::journal::{self, Life, Replay, Stop};
use crate::session::{Opened, Session};
use crate::stream::{LostRange, SegmentStream};

/// A generation, read.
pub struct Source {
    pub candidate: Candidate,
    pub replay: Replay,
    /// The journal is damaged here.
    pub stop: Option<Stop>,
    pub lost: Lost,
}

/// Records of the segments that cannot be read.
#[derive(Default)]
pub struct Lost {
    pub ranges: Vec<LostRange>,
    /// Which segments there were is not known.
    pub everything: bool,
}

impl Lost {
    /// Whether a version of `key` newer than `epoch`, which is there, may be lost; answers from
    /// which epoch at most.
    pub fn newer(&self, key: &Key, epoch: Option<Epoch>) -> Option<Epoch> {
        let holds = |range: &&LostRange| {
            epoch.is_none_or(|epoch| range.epoch_max > epoch) && range.may_hold(key)
        };
        let ranges = self.ranges.iter().filter(holds);
        ranges.map(|range| range.epoch_max).max()
    }

    /// Whether there may have been a record that is not there.
    pub fn may_miss(&self, key: &Key) -> bool {
        self.everything || self.newer(key, None).is_some()
    }

    /// What of it a view shows.
    pub fn seen_by(&self, sight: &View) -> Self {
        let seen = self.ranges.iter().filter_map(|range| range.seen_by(sight));
        Self {
            ranges: seen.collect(),
            everything: self.everything,
        }
    }

    /// Those of a table.
    pub fn of(&self, tag: Tag) -> impl Iterator<Item = &LostRange> {
        self.ranges.iter().filter(move |r| r.first.tag() == tag)
    }
}

impl Source {
    /// How much of the generation is lost.
    fn score(&self) -> (bool, bool, usize) {
        let listed = self.candidate.listed;
        (listed, self.stop.is_some(), self.lost.ranges.len())
    }

    fn read(s: &mut Session<'_>, candidate: Candidate, lives: &[Life]) -> Self {
        let (replay, stop) = journal::replay(s, &candidate.roots, lives);
        let mut lost = Lost {
            ranges: Vec::new(),
            everything: candidate.listed,
        };
        let segments = &candidate.roots.manifest.segments;
        for (done, meta) in (0..).zip(segments) {
            s.progress("segments", done, segments.len() as u64);
            let mut stream = SegmentStream::open(s, meta);
            while stream.next(s).is_some() {}
            lost.ranges.append(&mut stream.lost);
        }
        Self {
            candidate,
            replay,
            stop,
            lost,
        }
    }
}

/// Takes the newest generation of which the least is lost.
pub fn choose(
    s: &mut Session<'_>,
    candidates: Vec<Candidate>,
    lives: &[Life],
) -> Result<Option<Source>> {
    let mut best: Option<Source> = None;
    for candidate in candidates {
        let source = Source::read(s, candidate, lives);
        if best.as_ref().is_none_or(|b| source.score() < b.score()) {
            best = Some(source);
        }
        if best
            .as_ref()
            .is_some_and(|b| b.score() == (false, false, 0))
        {
            break;
        }
    }
    if let Some(best) = best.as_mut().filter(|b| b.candidate.listed) {
        best.candidate.roots.manifest.packs = list_packs(s)?;
    }
    Ok(best)
}

/// Without a manifest: the packs that are there, up to their last frames.
fn list_packs(s: &mut Session<'_>) -> Result<Vec<PackMeta>> {
    let mut packs = Vec::new();
    for name in s.list(Dir::Pack)? {
        if let Some(FileName::Pack(id)) = FileName::parse(Dir::Pack.path(), &name.leaf) {
            packs.extend(measure(s, id));
        }
    }
    Ok(packs)
}

fn measure(s: &mut Session<'_>, id: PackId) -> Option<PackMeta> {
    let name = FileName::Pack(id);
    let Opened::File(file, len) = s.open(name) else {
        return None;
    };
    let vid = s.vid;
    let mut state = PackState::new(id);
    state.sealed = true;
    let mut read =
        |buf: &mut [u8], at: u64| -> std::result::Result<usize, std::convert::Infallible> {
            Ok(s.read(&*file, name, buf, at))
        };
    let Ok(()) = scan_frames(
        &mut read,
        vid,
        id,
        HEADER_LEN..len,
        Depth::Headers,
        &mut |met| {
            if let Scanned::Frame { pos, header, .. } = met {
                state.len = pos.saturating_add(header.frame_len());
                state.last_birth = state.last_birth.max(header.identity.birth);
            }
            ControlFlow::Continue(())
        },
    );
    state.total = state.len.saturating_sub(HEADER_LEN);
    (state.total > 0).then(|| state.meta(0))
}
