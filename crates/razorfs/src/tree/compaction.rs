//! Compaction: merges runs and levels downwards, so that reads look at few segments and what is
//! dead goes away. [`pick`] chooses, [`Job::run`] does it, the caller installs the result.

use std::sync::Arc;

use razorfs_disk::Disk;
use razorfs_format::key::{Key, Tag};
use razorfs_format::layout::FileName;
use razorfs_format::manifest::SegmentMeta;
use razorfs_format::timeline::Timeline;
use razorfs_format::{SegmentId, VolumeId};

use super::levels::{Levels, Table};
use super::merge::{Bounds, Merge, Retain, Sorted, Source};
use super::segment_reader::{Segment, name};
use super::segment_writer::{SegmentOptions, write_segments};
use crate::marks::{self, Mark};
use crate::{Result, fence};

/// When to compact.
#[derive(Clone, Debug)]
pub struct CompactionOptions {
    /// Level 0 is merged down when it has more runs than this.
    pub l0_runs: usize,
    /// Bytes that level 1 may have.
    pub base_bytes: u64,
    /// How many times more each level below may have.
    pub growth: u64,
    /// Segments below level 0, or all of level 0, with a greater share of tombstones are compacted.
    pub tombstone_percent: u64,
    /// Fewer tombstones than this do not trigger anything.
    pub tombstones_min: u64,
    /// A smaller segment is rather merged with its neighbours than moved: no crowd of small files.
    pub small_bytes: u64,
    /// What somebody can see: tombstones that a snapshot keeps alive trigger nothing.
    pub timeline: Arc<Timeline>,
    /// Tables that stay as they are.
    pub without: Vec<Tag>,
}

impl Default for CompactionOptions {
    fn default() -> Self {
        Self {
            l0_runs: 6,
            base_bytes: 256 << 20,
            growth: 10,
            tombstone_percent: 30,
            tombstones_min: 1024,
            small_bytes: 8 << 20,
            timeline: Arc::default(),
            without: Vec::new(),
        }
    }
}

impl CompactionOptions {
    fn crowded(&self, tombstones: u64, entries: u64) -> bool {
        tombstones >= self.tombstones_min.max(1)
            && tombstones * 100 > entries * self.tombstone_percent
    }
}

/// What a job changed.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// New segments, still under their temporary names: [`super::publish`].
    pub added: Vec<SegmentMeta>,
    /// Segments that moved to another level as they are: same id, same file.
    pub moved: Vec<SegmentMeta>,
    /// Segments that are replaced: their files go when no generation needs them.
    pub removed: Vec<SegmentId>,
}

impl Output {
    /// The version after the job.
    #[must_use]
    pub fn apply(&self, levels: &Levels) -> Levels {
        let added: Vec<_> = self.added.iter().chain(&self.moved).copied().collect();
        levels.with(&added, &self.removed)
    }
}

/// A merge of sorted lists of segments, newest first.
type Sources = Vec<Sorted>;

/// What is to be compacted.
pub struct Job {
    /// The table.
    pub tag: Tag,
    output_level: u8,
    merges: Vec<Sources>,
    moved: Vec<SegmentMeta>,
    /// Levels below the output.
    below: Vec<Sorted>,
}

fn overlapping(sorted: &[Arc<Segment>], first: Key, last: Key) -> &[Arc<Segment>] {
    let start = sorted.partition_point(|s| s.meta.last < first);
    let end = sorted.partition_point(|s| s.meta.first <= last);
    sorted.get(start..end).unwrap_or_default()
}

fn bytes(segments: &[Arc<Segment>]) -> u64 {
    segments.iter().map(|s| s.meta.bytes).sum()
}

fn below(table: &Table, level: u8) -> Vec<Sorted> {
    table
        .levels
        .iter()
        .skip(level.into())
        .filter(|l| !l.is_empty())
        .cloned()
        .collect()
}

fn holds(below: &[Sorted], first: Key, last: Key) -> bool {
    below
        .iter()
        .any(|list| !overlapping(list, first, last).is_empty())
}

/// The most urgent job, if there is any.
#[must_use]
pub fn pick(levels: &Levels, options: &CompactionOptions) -> Option<Job> {
    let mut best: Option<(u64, Tag, u8)> = None;
    let tags = || {
        Tag::ALL
            .into_iter()
            .filter(|t| !options.without.contains(t))
    };
    for tag in tags() {
        let table = levels.table(tag);
        let mut offer = |pressure: u64, level: u8| {
            if pressure > 100 && best.is_none_or(|(most, ..)| pressure > most) {
                best = Some((pressure, tag, level));
            }
        };
        offer((table.runs.len() * 100 / options.l0_runs.max(1)) as u64, 0);
        let mut limit = options.base_bytes.max(1);
        for (level, list) in (1..).zip(&table.levels) {
            offer(bytes(list).saturating_mul(100) / limit, level);
            limit = limit.saturating_mul(options.growth);
        }
    }
    match best {
        Some((_, tag, 0)) => Some(flatten_runs(levels.table(tag), tag, options)),
        Some((_, tag, level)) => push_down(levels.table(tag), tag, level),
        None => tags().find_map(|tag| bury(levels.table(tag), tag, options)),
    }
}

/// All runs of level 0 into level 1. Segments fall into clusters by overlap; a cluster of one large
/// segment moves, the others are merged, small neighbours together.
fn flatten_runs(table: &Table, tag: Tag, options: &CompactionOptions) -> Job {
    let below = below(table, 1);
    let mut all: Vec<&Arc<Segment>> = table.runs.iter().flat_map(|run| run.iter()).collect();
    all.extend(table.level(1));
    all.sort_unstable_by_key(|s| s.meta.first);
    let mut clusters: Vec<Cluster> = Vec::new();
    for segment in all {
        match clusters.last_mut() {
            Some(cluster) if segment.meta.first <= cluster.last => cluster.take(segment),
            _ => clusters.push(Cluster::new(segment)),
        }
    }
    let mut job = Job {
        tag,
        output_level: 1,
        merges: Vec::new(),
        moved: Vec::new(),
        below,
    };
    let mut group: Option<Cluster> = None;
    for cluster in clusters {
        let alone = cluster.segments.len() == 1;
        let small = cluster.bytes() < options.small_bytes;
        let stays = alone && !small && cluster.may_move(&job.below);
        if stays {
            job.close(group.take(), table);
            job.moved.extend(
                cluster
                    .segments
                    .iter()
                    .filter(|s| s.meta.level == 0)
                    .map(|s| SegmentMeta {
                        level: 1,
                        run: 0,
                        ..s.meta
                    }),
            );
        } else if !small && cluster.segments.iter().all(|s| s.meta.level > 0) {
            job.close(group.take(), table);
        } else {
            match &mut group {
                Some(group) => cluster.segments.iter().for_each(|s| group.take(s)),
                None => group = Some(cluster),
            }
        }
    }
    job.close(group, table);
    job
}

/// Segments that overlap, directly or over others.
struct Cluster {
    segments: Vec<Arc<Segment>>,
    last: Key,
}

impl Cluster {
    fn new(segment: &Arc<Segment>) -> Self {
        Self {
            segments: vec![Arc::clone(segment)],
            last: segment.meta.last,
        }
    }

    fn take(&mut self, segment: &Arc<Segment>) {
        self.segments.push(Arc::clone(segment));
        self.last = self.last.max(segment.meta.last);
    }

    fn bytes(&self) -> u64 {
        bytes(&self.segments)
    }

    /// Whether moving loses nothing: there are no tombstones that a merge would drop.
    fn may_move(&self, below: &[Sorted]) -> bool {
        self.segments.iter().all(|s| {
            s.meta.level > 0 || s.meta.tombstones == 0 || holds(below, s.meta.first, s.meta.last)
        })
    }
}

impl Job {
    /// Plans the merge of a group of clusters, if anything in it comes from level 0.
    fn close(&mut self, group: Option<Cluster>, table: &Table) {
        let Some(group) = group.filter(|g| g.segments.iter().any(|s| s.meta.level == 0)) else {
            return;
        };
        let inside = |list: &Sorted| -> Sorted {
            let ids = &group.segments;
            list.iter()
                .filter(|s| ids.iter().any(|g| g.meta.id == s.meta.id))
                .cloned()
                .collect()
        };
        let lists = table.runs.iter().chain(table.levels.first()).map(inside);
        self.merges
            .push(lists.filter(|list| !list.is_empty()).collect());
    }
}

/// The segment of `level` that is cheapest to merge, into the level below.
fn push_down(table: &Table, tag: Tag, level: u8) -> Option<Job> {
    let under = table.level(level + 1);
    let cost = |s: &&Arc<Segment>| {
        let touched = bytes(overlapping(under, s.meta.first, s.meta.last));
        (touched.saturating_mul(100) / s.meta.bytes.max(1), s.meta.id)
    };
    let chosen = table.level(level).iter().min_by_key(cost)?;
    Some(sink(table, tag, chosen, level))
}

/// `chosen` of `level` into the level below.
fn sink(table: &Table, tag: Tag, chosen: &Arc<Segment>, level: u8) -> Job {
    let output_level = level + 1;
    let below = below(table, output_level);
    let (first, last) = (chosen.meta.first, chosen.meta.last);
    let touched = overlapping(table.level(output_level), first, last);
    let mut job = Job {
        tag,
        output_level,
        merges: Vec::new(),
        moved: Vec::new(),
        below,
    };
    if touched.is_empty() && (chosen.meta.tombstones == 0 || holds(&job.below, first, last)) {
        job.moved.push(SegmentMeta {
            level: output_level,
            run: 0,
            ..chosen.meta
        });
    } else {
        let upper: Sorted = [Arc::clone(chosen)].into();
        let lists = [upper, touched.into()];
        job.merges
            .push(lists.into_iter().filter(|list| !list.is_empty()).collect());
    }
    job
}

/// A job that rids the table of tombstones, where they are many.
fn bury(table: &Table, tag: Tag, options: &CompactionOptions) -> Option<Job> {
    let l0 = table.runs.iter().flat_map(|run| run.iter());
    let (tombstones, entries) = l0.fold((0, 0), |sum, s| {
        (sum.0 + s.meta.tombstones, sum.1 + s.meta.entries)
    });
    if options.crowded(tombstones, entries) {
        return Some(flatten_runs(table, tag, options));
    }
    // Their keys only grow: nothing newer is ever merged with what no snapshot needs any more.
    let oldest = options.timeline.snapshots().first().map(|s| s.epoch);
    let is_void = |meta: &SegmentMeta| {
        tag == Tag::Held && oldest.is_none_or(|oldest| oldest >= meta.last.killed())
    };
    for (level, list) in (1u8..).zip(&table.levels) {
        for segment in list.iter() {
            let meta = &segment.meta;
            if is_void(meta) {
                return Some(rewrite(table, tag, segment, level));
            }
            if !options.crowded(meta.tombstones, meta.entries) {
                continue;
            }
            if holds(&below(table, level), meta.first, meta.last) {
                return Some(sink(table, tag, segment, level));
            }
            // Nothing below: rewritten where it is, unless a snapshot needs what they hide.
            let snapshots = options.timeline.snapshots();
            if snapshots.iter().all(|s| s.epoch >= meta.epoch_max) {
                marks::hit(Mark::CompactionBuried);
                return Some(rewrite(table, tag, segment, level));
            }
        }
    }
    None
}

/// A segment of `level` without what nobody sees, where it is.
fn rewrite(table: &Table, tag: Tag, segment: &Arc<Segment>, level: u8) -> Job {
    Job {
        tag,
        output_level: level,
        merges: vec![vec![[Arc::clone(segment)].into()]],
        moved: Vec::new(),
        below: below(table, level),
    }
}

impl Job {
    /// The table.
    #[must_use]
    pub const fn tag(&self) -> Tag {
        self.tag
    }

    /// Bytes that will be read; 0 if segments are only moved.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.merges.iter().flatten().map(|list| bytes(list)).sum()
    }

    /// Does it: writes and syncs new segments under temporary names. Keeps of each key what
    /// somebody sees by the timeline; drops tombstones that hide nothing. Nothing is removed; after
    /// an error nothing has changed.
    pub fn run(
        &self,
        disk: &dyn Disk,
        vid: VolumeId,
        new_id: &mut dyn FnMut() -> SegmentId,
        timeline: &Timeline,
        opts: &SegmentOptions,
    ) -> Result<Output> {
        let mut output = Output {
            moved: self.moved.clone(),
            ..Output::default()
        };
        // The last level of inodes and extents is asked for what is there: no filter helps.
        let asked_for_what_is_there = matches!(self.tag, Tag::Inode | Tag::Extent)
            && self.output_level >= 2
            && self.below.is_empty();
        let filter = opts.filter && !asked_for_what_is_there;
        let opts = SegmentOptions {
            filter,
            split: None,
            ..opts.clone()
        };
        if !self.moved.is_empty() {
            marks::hit(Mark::CompactionMoved);
        }
        let below = |key: &Key| holds(&self.below, *key, *key);
        for lists in &self.merges {
            let sources = lists.iter().filter_map(|list| {
                Bounds::all(list).map(|bounds| Source::new(Arc::clone(list), bounds))
            });
            let mut kept = Retain::new(Merge::new(sources), timeline, &below);
            let level = self.output_level;
            match write_segments(disk, vid, self.tag, level, 0, new_id, &mut kept, &opts) {
                Ok(added) => output.added.extend(added),
                Err(e) if !fence::may_undo(&e) => return Err(e),
                Err(e) => {
                    for meta in output.added {
                        // What cannot be removed now is removed at the next mount.
                        let _ = disk.remove(&name(FileName::SegmentTmp(meta.id)));
                    }
                    return Err(e);
                }
            }
            output
                .removed
                .extend(lists.iter().flat_map(|l| l.iter()).map(|s| s.meta.id));
        }
        Ok(output)
    }
}
