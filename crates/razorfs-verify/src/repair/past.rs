//! The snapshots of a volume that is repaired.
//!
//! Each moment that a snapshot shows is put right by itself, as the present is. What that changes
//! of it is remembered, by key; everything else stays as it is, under the epochs that it has
//! ([`super::versions`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use razorfs_format::key::{Key, Tag};
use razorfs_format::manifest::SnapshotMeta;
use razorfs_format::timeline::{self, Forks, Span, Timeline};
use razorfs_format::{Branch, Epoch, Ino};

use super::moment::{Before, Ground, Moment, Patch};
use super::older::Olders;
use super::report::{Outcome, Shown};
use super::writer::Sink;
use crate::journal::Replay;
use crate::roots::Roots;
use crate::session::Session;
use crate::stream::{Merge, Record};
use crate::view::View;

/// A moment that snapshots show.
pub struct Viewer {
    pub epoch: Epoch,
    pub line: u64,
    /// The newest one on the way to it.
    pub parent: Option<usize>,
    pub sight: timeline::View,
    /// The snapshots that show it, the newest last.
    snapshots: Vec<Arc<SnapshotMeta>>,
    /// Files of which it has lost something.
    harmed: BTreeSet<Ino>,
    inodes: u64,
    bytes: u128,
}

/// A line of time.
pub struct Line {
    pub number: u64,
    /// What it goes on from; 0 if from nothing.
    pub parent: Epoch,
    pub end: Epoch,
    /// The moments on it that snapshots show.
    pub points: Vec<Epoch>,
}

/// All that is kept of the past.
#[derive(Default)]
pub struct Past {
    pub timeline: Timeline,
    /// The oldest first.
    pub viewers: Vec<Viewer>,
    /// What each shows otherwise than the segments say.
    pub patches: Vec<Patch>,
    /// The keys of all that.
    pub keys: BTreeSet<Key>,
    pub lines: Vec<Line>,
}

/// Takes away the snapshots that were given up: what they held is counted anew.
fn released(timeline: &Timeline) -> Timeline {
    let mut timeline = timeline.clone();
    loop {
        // One that goes may let another go. An image may have very many.
        let gone = timeline.snapshots().iter().filter(|s| s.gone);
        let gone: Vec<u64> = gone.map(|s| s.id).collect();
        let released = gone
            .into_iter()
            .filter(|id| timeline.release(*id).is_some());
        if released.count() == 0 {
            return timeline;
        }
    }
}

impl Past {
    /// What a timeline shows, or why that cannot be.
    pub fn new(timeline: &Timeline) -> Result<Self, &'static str> {
        let timeline = released(timeline);
        let mut viewers: BTreeMap<Epoch, Vec<Arc<SnapshotMeta>>> = BTreeMap::new();
        for snapshot in timeline.snapshots() {
            let same = viewers.entry(snapshot.epoch).or_default();
            same.push(Arc::clone(snapshot));
        }
        let epochs: Vec<Epoch> = viewers.keys().copied().collect();
        let index_of = |epoch: Epoch| epochs.binary_search(&epoch).ok();
        let viewer = |(epoch, snapshots): (Epoch, Vec<Arc<SnapshotMeta>>)| {
            Some(Viewer {
                epoch,
                line: timeline.line(epoch)?,
                parent: timeline.before(epoch).and_then(index_of),
                sight: timeline.view(epoch),
                snapshots,
                harmed: BTreeSet::new(),
                inodes: 0,
                bytes: 0,
            })
        };
        let viewers: Option<Vec<Viewer>> = viewers.into_iter().map(viewer).collect();
        let viewers = viewers.ok_or("snapshots on a line")?;
        let mut past = Self {
            lines: lines(&timeline, &viewers),
            patches: Vec::new(),
            keys: BTreeSet::new(),
            timeline,
            viewers,
        };
        // It is made again once everything was counted.
        past.timeline = past.counted()?;
        Ok(past)
    }

    /// Whether nothing is kept.
    pub const fn is_empty(&self) -> bool {
        self.viewers.is_empty()
    }

    /// The newest moment on the way to the present.
    pub fn parent_of_head(&self) -> Option<usize> {
        let before = self.timeline.before(Span::OPEN)?;
        self.viewers.iter().position(|v| v.epoch == before)
    }

    /// What a moment goes on from.
    pub fn before(&self, parent: Option<usize>) -> Option<Before<'_>> {
        let parent = parent?;
        Some(Before {
            epoch: self.viewers.get(parent)?.epoch,
            patch: self.patches.get(parent)?,
        })
    }

    /// No epoch that anything here has is younger.
    pub fn newest_epoch(&self) -> Epoch {
        let viewers = self.viewers.iter().map(|v| v.epoch);
        let begun = self.timeline.spans().iter().map(|s| s.first);
        viewers.chain(begun).max().unwrap_or_default()
    }

    /// Moments that can be seen, with their snapshots and the files that are not whole in them:
    /// first those on the way to the present, the newest first.
    pub fn by_preference(&self) -> Vec<(usize, &SnapshotMeta, &BTreeSet<Ino>)> {
        let head = self.timeline.head();
        let mut all: Vec<_> = self.viewers.iter().enumerate().rev().collect();
        all.sort_by_key(|(_, v)| !head.sees(v.epoch));
        let mut shown = Vec::new();
        for (index, viewer) in all {
            let live = viewer.snapshots.iter().rev().find(|s| !s.gone);
            shown.extend(live.map(|s| (index, &**s, &viewer.harmed)));
        }
        shown
    }

    /// Puts right what each of them shows, and tells what is lost. Answers a number beyond those
    /// of their inodes.
    pub fn mend(
        &mut self,
        s: &mut Session<'_>,
        ground: &mut Ground<'_>,
        (roots, replay): (&Roots, &Replay),
        out: &mut Outcome,
    ) -> Ino {
        let (mut next, mut listed, mut all) = (Ino(0), 0, Vec::new());
        let count = self.viewers.len();
        for index in 0..count {
            s.progress("snapshots", index as u64, count as u64);
            let Some(viewer) = self.viewers.get(index) else {
                break;
            };
            let Some(snapshot) = viewer.snapshots.last() else {
                continue;
            };
            let view = View::of(roots, replay, snapshot);
            let mut told = Outcome::of_snapshot(out.room.saturating_sub(listed));
            let mut sink = Difference::new(&view);
            let moment = Moment {
                view: &view,
                is_past: true,
                before: self.before(viewer.parent),
                olders: &Olders::default(),
            };
            next = next.max(ground.mend(s, &moment, &mut told, &mut sink).next_ino);
            let patch = sink.finish(s);
            self.keys.extend(patch.keys());
            self.patches.push(patch);
            listed += told.losses.len();
            let Some(viewer) = self.viewers.get_mut(index) else {
                break;
            };
            viewer.harmed = told.harmed.iter().map(|(ino, _)| *ino).collect();
            (viewer.inodes, viewer.bytes) = (told.inodes, told.bytes);
            let live = viewer.snapshots.iter().filter(|s| !s.gone);
            all.extend(live.map(|s| (s.id, shown(s, Some(&told)))));
        }
        all.sort_by_key(|(id, _)| *id);
        out.snapshots
            .extend(all.into_iter().map(|(_, shown)| shown));
        next
    }

    /// The timeline with what was counted.
    pub fn counted(&self) -> Result<Timeline, &'static str> {
        let mut all = Vec::new();
        for viewer in &self.viewers {
            all.extend(viewer.snapshots.iter().map(|s| SnapshotMeta {
                inodes: viewer.inodes,
                bytes: viewer.bytes,
                ..SnapshotMeta::clone(s)
            }));
        }
        let forks = Forks {
            next: self.timeline.forks().next,
            list: Vec::new(),
        };
        Timeline::with_forks(all, self.timeline.spans().to_vec(), forks)
    }
}

/// What is there now in each branch becomes a snapshot of the branch's name, and the branch ends:
/// what a snapshot shows is put right, and a branch can be made of it again. Answers the names; of
/// those that nobody sees nothing is kept.
pub fn end_branches(
    timeline: &mut Timeline,
    counts: &BTreeMap<Branch, (u64, u128)>,
) -> Vec<String> {
    let mut names = Vec::new();
    // The numbers of operations, of which none of the first was that of a snapshot.
    let taken: BTreeSet<u64> = timeline.snapshots().iter().map(|s| s.id).collect();
    let mut free = (1..).filter(|id| !taken.contains(id));
    timeline.prune_all(|meta, epoch| {
        let hidden = meta.name.starts_with(b"-");
        let (inodes, bytes) = counts.get(&meta.id).copied().unwrap_or_default();
        if !hidden {
            names.push(String::from_utf8_lossy(&meta.name).into_owned());
        }
        SnapshotMeta {
            id: free.next().unwrap_or(u64::MAX),
            branch: meta.id,
            epoch,
            gone: hidden,
            time: meta.time,
            inodes,
            bytes,
            name: meta.name.clone(),
        }
    });
    names
}

fn lines(timeline: &Timeline, viewers: &[Viewer]) -> Vec<Line> {
    let spans = match timeline.spans() {
        [] => &[Span::WHOLE],
        spans => spans,
    };
    // In the order in which they begin. An image may have very many.
    let mut lines: Vec<Line> = Vec::new();
    let mut known: BTreeMap<u64, usize> = BTreeMap::new();
    for span in spans {
        let at = *known.entry(span.line).or_insert(lines.len());
        match lines.get_mut(at) {
            Some(line) => line.end = span.last,
            None => lines.push(Line {
                number: span.line,
                parent: span.parent,
                end: span.last,
                points: Vec::new(),
            }),
        }
    }
    for viewer in viewers {
        if let Some(line) = known.get(&viewer.line).and_then(|at| lines.get_mut(*at)) {
            line.points.push(viewer.epoch);
        }
    }
    lines
}

/// What is told of a snapshot; one of which nothing is known is lost.
pub fn shown(snapshot: &SnapshotMeta, told: Option<&Outcome>) -> Shown {
    Shown {
        name: String::from_utf8_lossy(&snapshot.name).into_owned(),
        time: snapshot.time,
        kept: told.is_some(),
        losses: told.map(|t| t.losses.clone()).unwrap_or_default(),
        more_losses: told.map_or(0, |t| t.more_losses),
        fixes: told.map(|t| t.fixes.clone()).unwrap_or_default(),
    }
}

/// Compares what a moment is to show with what the segments say of it.
pub struct Difference<'v> {
    view: &'v View,
    table: Option<(Tag, Merge, Option<Record>)>,
    /// Tables that were not compared yet.
    left: Vec<Tag>,
    patch: Patch,
}

impl<'v> Difference<'v> {
    pub fn new(view: &'v View) -> Self {
        Self {
            view,
            table: None,
            // What snapshots hold is counted anew.
            left: Tag::ALL.into_iter().filter(|t| *t != Tag::Held).collect(),
            patch: Patch::new(),
        }
    }

    fn open(&mut self, s: &mut Session<'_>, tag: Tag) {
        self.left.retain(|t| *t != tag);
        let sight = self.view.sight().clone();
        let mut merge = Merge::new(self.view.segments(tag), Some(sight));
        let ahead = merge.next(s);
        self.table = Some((tag, merge, ahead));
    }

    /// The next record of the table, if it is not behind a key.
    fn next(&mut self, s: &mut Session<'_>, up_to: Option<&Key>) -> Option<Record> {
        let (_, merge, ahead) = self.table.as_mut()?;
        let next = ahead.take_if(|r| up_to.is_none_or(|key| r.key <= *key))?;
        *ahead = merge.next(s);
        Some(next)
    }

    /// What the segments have of the table and was not put is not shown.
    fn drain(&mut self, s: &mut Session<'_>) {
        while let Some(record) = self.next(s, None) {
            self.hide(record);
        }
    }

    fn hide(&mut self, record: Record) {
        if record.value.is_some() {
            self.patch.insert(record.key, None);
        }
    }

    /// All that differs.
    pub fn finish(mut self, s: &mut Session<'_>) -> Patch {
        self.drain(s);
        while let Some(tag) = self.left.last().copied() {
            self.open(s, tag);
            self.drain(s);
        }
        self.patch
    }
}

impl Sink for Difference<'_> {
    fn put(&mut self, s: &mut Session<'_>, key: Key, value: &[u8]) {
        if self
            .table
            .as_ref()
            .is_none_or(|(tag, _, _)| *tag != key.tag())
        {
            self.drain(s);
            self.open(s, key.tag());
        }
        while let Some(record) = self.next(s, Some(&key)) {
            if record.key < key {
                self.hide(record);
                continue;
            }
            if record.value.as_deref() == Some(value) {
                return;
            }
            break;
        }
        self.patch.insert(key, Some(value.into()));
    }
}
