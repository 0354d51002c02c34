//! Which versions of a record somebody can see, where a volume has snapshots and was rolled back.
//!
//! Epochs only grow, but time need not be a line: a rollback to a snapshot goes on from there, and
//! what was written since belongs to a *line* of its own, which ends with the snapshot that was
//! taken before the rollback. So lines form a tree; each has a *parent*, the epoch of an older line
//! that it goes on from. The line of the newest epoch is the *head*.
//!
//! What is seen at an epoch is what was written on the way back from it to the beginning: a
//! [`View`]. Only the epochs of snapshots, the *points*, and the head are ever looked at, so of
//! each record the versions have to be kept that one of them sees ([`Timeline::is_seen`]), and a
//! frame that the head does not show any more as long as a point lies in its life
//! ([`Timeline::is_held`]).
//!
//! A snapshot that was given up stays a point until what only it held has been released
//! ([`Timeline::release`]). One from which two ways lead on, its own line and a rollback's, or two
//! rollbacks, stays until one of them has gone: what it shows is shown by both.
//!
//! A branch is a line that stays open besides the head: see [`Fork`].
//!
//! Source: the births and kill times of blocks are those of ZFS's dead lists (Bonwick and others),
//! kept by the epoch of the kill, so that giving up a snapshot moves no list.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::ids::{Branch, Epoch};
use crate::manifest::SnapshotMeta;

mod forks;

pub use forks::{Fork, Forks, INTERNAL};

/// A run of epochs that belongs to one line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// Its first epoch.
    pub first: Epoch,
    /// Its last one; of the newest run, which is the head's, [`Span::OPEN`].
    pub last: Epoch,
    /// The line: a number that tells lines apart and nothing else.
    pub line: u64,
    /// The epoch that the line goes on from; 0 for the first line. The same in all its spans.
    pub parent: Epoch,
}

impl Span {
    /// The last epoch of the head.
    pub const OPEN: Epoch = Epoch(u64::MAX);

    /// All there is, where nothing was ever rolled back.
    pub const WHOLE: Self = Self {
        first: Epoch(0),
        last: Self::OPEN,
        line: 0,
        parent: Epoch(0),
    };

    fn has(&self, epoch: Epoch) -> bool {
        self.first <= epoch && epoch <= self.last
    }
}

/// What is visible at an epoch: runs of epochs, the newest first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View(Arc<[(Epoch, Epoch)]>);

impl View {
    /// Everything.
    #[must_use]
    pub fn everything() -> Self {
        Self([(Epoch(0), Span::OPEN)].into())
    }

    /// All epochs up to this one.
    #[must_use]
    pub fn up_to(at: Epoch) -> Self {
        Self([(Epoch(0), at)].into())
    }

    /// Whether it shows what was written in an epoch.
    #[must_use]
    pub fn sees(&self, epoch: Epoch) -> bool {
        self.newest(epoch) == Some(epoch)
    }

    /// The newest epoch it shows that is not newer than `at`.
    #[must_use]
    pub fn newest(&self, at: Epoch) -> Option<Epoch> {
        let run = self.0.partition_point(|(first, _)| *first > at);
        self.0.get(run).map(|(_, last)| (*last).min(at))
    }

    /// The newest epoch that both show: what was written up to it, both have.
    #[must_use]
    pub fn parting(&self, other: &Self) -> Epoch {
        let newest = |epoch: &Epoch| self.newest(*epoch);
        let mut at = self.tip().min(other.tip());
        // Where they do not meet, the next one that either shows is older: this ends.
        while let Some(mine) = newest(&at) {
            match other.newest(mine) {
                Some(both) if both == mine => return both,
                Some(older) => at = older,
                None => break,
            }
        }
        Epoch(0)
    }

    /// The newest epoch it shows.
    #[must_use]
    pub fn tip(&self) -> Epoch {
        self.0.first().map_or(Epoch(0), |(_, last)| *last)
    }
}

/// What giving up a snapshot changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Release {
    /// Other snapshots, or other ways, show all that it does: nothing is freed.
    Nothing,
    /// The frames that were killed in one of `killed` and born after `after`, and up to the epoch
    /// of the snapshot, are nobody's.
    Held {
        /// Runs of epochs, both ends in them.
        killed: Vec<(Epoch, Epoch)>,
        /// Exclusive.
        after: Epoch,
    },
    /// It is the end of a line that was left: the frames that it shows and that were born after
    /// `after` are nobody's, and the line ends there now, or is gone.
    End {
        /// Exclusive.
        after: Epoch,
    },
}

/// Lines and snapshots.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Timeline {
    /// By epoch, then by id. Shared, for a volume may have very many and each change of them makes
    /// another timeline.
    snapshots: Vec<Arc<SnapshotMeta>>,
    /// By epoch.
    spans: Vec<Span>,
    /// The points of each line: (line, epoch), ordered.
    points: Vec<(u64, Epoch)>,
    forks: Forks,
    /// The lines of the branches: asked for with every version of a record.
    open: BTreeSet<u64>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self::assemble(Vec::new(), vec![Span::WHOLE])
    }
}

impl Timeline {
    /// From what a manifest lists. Answers why not, if it cannot be.
    pub fn new(snapshots: Vec<SnapshotMeta>, spans: Vec<Span>) -> Result<Self, &'static str> {
        Self::with_forks(snapshots, spans, Forks::default())
    }

    fn unforked(snapshots: Vec<SnapshotMeta>, spans: Vec<Span>) -> Result<Self, &'static str> {
        if spans.is_empty() {
            return Ok(Self::assemble(snapshots, vec![Span::WHOLE]));
        }
        let ordered = spans.windows(2).all(|w| match w {
            [a, b] => a.last < b.first,
            _ => true,
        });
        if !ordered || spans.iter().any(|s| s.first > s.last) {
            return Err("lines whose epochs are in order");
        }
        if spans.last().is_none_or(|s| s.last != Span::OPEN)
            || spans.first().is_none_or(|s| s.first != Epoch(0))
        {
            return Err("lines from the first epoch to the last");
        }
        let timeline = Self::assemble(snapshots, spans);
        // The first run of each line; an image may have very many.
        let mut begins: BTreeMap<u64, &Span> = BTreeMap::new();
        for span in &timeline.spans {
            begins.entry(span.line).or_insert(span);
        }
        for span in &timeline.spans {
            let begins = begins.get(&span.line);
            let root = begins.is_some_and(|s| s.first == Epoch(0));
            let parent = timeline.span(span.parent);
            let agrees = begins.is_some_and(|s| s.parent == span.parent);
            let goes_on = span.parent < begins.map_or(Epoch(0), |s| s.first)
                && parent.is_some_and(|p| p.line != span.line);
            if !agrees || root != (span.parent == Epoch(0)) || !(root || goes_on) {
                return Err("lines that go on from an older one");
            }
        }
        let mut snapshots = timeline.snapshots.iter();
        if snapshots.any(|s| timeline.span(s.epoch).is_none()) {
            return Err("snapshots on a line");
        }
        let mut parents = timeline.spans.iter().map(|s| s.parent);
        if !parents.all(|p| p == Epoch(0) || timeline.count_at(p) > 0) {
            return Err("lines that go on from snapshots");
        }
        Ok(timeline)
    }

    fn assemble(mut snapshots: Vec<SnapshotMeta>, spans: Vec<Span>) -> Self {
        snapshots.sort_by_key(|s| (s.epoch, s.id));
        let mut timeline = Self {
            snapshots: snapshots.into_iter().map(Arc::new).collect(),
            spans,
            points: Vec::new(),
            forks: Forks::default(),
            open: BTreeSet::new(),
        };
        timeline.find_points();
        timeline
    }

    fn find_points(&mut self) {
        let of = |s: &Arc<SnapshotMeta>| Some((self.span(s.epoch)?.line, s.epoch));
        let mut points: Vec<_> = self.snapshots.iter().filter_map(of).collect();
        points.sort_unstable();
        points.dedup();
        self.points = points;
    }

    /// The snapshots, oldest first, those that are given up among them.
    #[must_use]
    pub fn snapshots(&self) -> &[Arc<SnapshotMeta>] {
        &self.snapshots
    }

    /// The lines, to be written down; none if nothing was ever rolled back.
    #[must_use]
    pub fn spans(&self) -> &[Span] {
        match &*self.spans {
            [Span::WHOLE] => &[],
            spans => spans,
        }
    }

    /// Whether there is nothing but the head.
    #[must_use]
    pub fn is_trivial(&self) -> bool {
        self.snapshots.is_empty() && self.spans().is_empty() && self.forks.is_trivial()
    }

    /// The snapshot of this name that was not given up.
    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<&SnapshotMeta> {
        let mut all = self.snapshots.iter().map(|s| &**s);
        all.find(|s| !s.gone && *s.name == *name)
    }

    fn span(&self, epoch: Epoch) -> Option<&Span> {
        let next = self.spans.partition_point(|s| s.first <= epoch);
        let span = self.spans.get(next.checked_sub(1)?)?;
        span.has(epoch).then_some(span)
    }

    /// The line that an epoch belongs to; none if that line has gone.
    #[must_use]
    pub fn line(&self, epoch: Epoch) -> Option<u64> {
        self.span(epoch).map(|span| span.line)
    }

    fn tip(&self, line: u64) -> Option<Epoch> {
        let span = self.spans.iter().rev().find(|s| s.line == line);
        span.map(|s| s.last)
    }

    /// Snapshots of an epoch; of more than one two are enough to know.
    fn count_at(&self, epoch: Epoch) -> usize {
        let from = self.snapshots.partition_point(|s| s.epoch < epoch);
        let here = self.snapshots.iter().skip(from);
        here.take(2).take_while(|s| s.epoch == epoch).count()
    }

    fn points_of(&self, line: u64) -> &[(u64, Epoch)] {
        let from = self.points.partition_point(|(l, _)| *l < line);
        let to = self.points.partition_point(|(l, _)| *l <= line);
        self.points.get(from..to).unwrap_or_default()
    }

    /// What the head shows.
    #[must_use]
    pub fn head(&self) -> View {
        self.view(Span::OPEN)
    }

    /// What is visible at an epoch.
    #[must_use]
    pub fn view(&self, at: Epoch) -> View {
        let mut runs = Vec::new();
        // The end of what is seen of a line, its number and what it goes on from. All of a line is
        // younger than that, so one way through the runs of epochs meets everything.
        let start = |tip| self.span(tip).map(|s| (tip, s.line, s.parent));
        let mut at = start(at);
        for span in self.spans.iter().rev() {
            let Some((mut tip, mut line, parent)) = at else {
                break;
            };
            if span.line != line && parent != Epoch(0) && span.has(parent) {
                at = start(parent);
                (tip, line) = (parent, span.line);
            }
            if span.line == line && span.first <= tip {
                runs.push((span.first, span.last.min(tip)));
            }
        }
        View(runs.into())
    }

    /// Whether a point or the head sees the version of `epoch`, which one of `newer` follows on the
    /// same line, if any does. Versions that are only below another line's are asked for with none:
    /// the point where the lines part sees them.
    #[must_use]
    pub fn is_seen(&self, epoch: Epoch, newer: Option<Epoch>) -> bool {
        let Some(line) = self.line(epoch) else {
            return false;
        };
        if newer.is_none() && self.is_open(line) {
            return true;
        }
        let points = self.points_of(line);
        let first = points.partition_point(|(_, at)| *at < epoch);
        points
            .get(first)
            .is_some_and(|(_, at)| newer.is_none_or(|newer| *at < newer))
    }

    /// The newest point on the way back from an epoch, and older than it.
    #[must_use]
    pub fn before(&self, epoch: Epoch) -> Option<Epoch> {
        let span = self.span(epoch)?;
        let points = self.points_of(span.line);
        let below = points.partition_point(|(_, at)| *at < epoch);
        match below.checked_sub(1).and_then(|i| points.get(i)) {
            Some((_, point)) => Some(*point),
            // Where a line goes on from is a point.
            None => (span.parent != Epoch(0)).then_some(span.parent),
        }
    }

    /// Whether a point sees a frame that was born in one epoch and killed in another, on the same
    /// way.
    #[must_use]
    pub fn is_held(&self, birth: Epoch, killed: Epoch) -> bool {
        self.before(killed).is_some_and(|point| birth <= point)
    }

    /// The next point of the same line, or the end of that.
    fn next_on(&self, line: u64, after: Epoch) -> Epoch {
        let points = self.points_of(line);
        let next = points.partition_point(|(_, at)| *at <= after);
        match points.get(next) {
            Some((_, at)) => *at,
            None if self.is_open(line) => Span::OPEN,
            None => self.tip(line).unwrap_or(after),
        }
    }

    fn runs(&self, line: u64, from: Epoch, to: Epoch) -> Vec<(Epoch, Epoch)> {
        let mine = self.spans.iter().filter(|s| s.line == line);
        let clipped = mine.map(|s| (s.first.max(from), s.last.min(to)));
        clipped.filter(|(first, last)| first <= last).collect()
    }

    fn children(&self, of: Epoch) -> Vec<u64> {
        let mut lines: Vec<u64> = Vec::new();
        for span in self
            .spans
            .iter()
            .filter(|s| of != Epoch(0) && s.parent == of)
        {
            if !lines.contains(&span.line) {
                lines.push(span.line);
            }
        }
        // Those to which nothing was written yet.
        for fork in self.forks.list.iter().filter(|f| f.base == of) {
            if of != Epoch(0) && !lines.contains(&fork.line) {
                lines.push(fork.line);
            }
        }
        lines
    }

    /// Adds a snapshot.
    pub fn add(&mut self, snapshot: SnapshotMeta) {
        if self.snapshots.iter().all(|s| s.id != snapshot.id) {
            // Nearly always the last.
            let at = (snapshot.epoch, snapshot.id);
            let at = self.snapshots.partition_point(|s| (s.epoch, s.id) < at);
            self.snapshots.insert(at, Arc::new(snapshot));
            self.find_points();
        }
    }

    /// Gives a snapshot up. Answers whether there is such a one.
    pub fn give_up(&mut self, id: u64) -> bool {
        let found = self.snapshots.iter_mut().find(|s| s.id == id);
        found.is_some_and(|s| !std::mem::replace(&mut Arc::make_mut(s).gone, true))
    }

    /// A branch goes on from the point `to` after epoch `end`, the newest that it has written in.
    /// Answers false if it cannot.
    pub fn roll_back(&mut self, branch: Branch, to: Epoch, end: Epoch) -> bool {
        let is_point = self.snapshots.iter().any(|s| s.epoch == to);
        if !is_point || end >= Span::OPEN || to == Epoch(0) {
            return false;
        }
        if branch != Branch::HEAD {
            return self.newest_of(branch) == Some(end) && self.roll_fork_back(branch, to);
        }
        let line = self.next_line();
        let Some(head) = self.spans.pop() else {
            return false;
        };
        // Branches may have got epochs since the head got its own.
        let newest = self.spans.iter().rev().find(|s| s.line == head.line);
        let is_its_own = end >= head.first || newest.is_some_and(|newest| newest.has(end));
        let first = head.first.max(end.next());
        if !is_its_own || to >= first {
            self.spans.push(head);
            return false;
        }
        if head.first <= end {
            self.spans.push(Span { last: end, ..head });
        }
        self.spans.push(Span {
            first,
            last: Span::OPEN,
            line,
            parent: to,
        });
        self.find_points();
        true
    }

    /// What giving up the last snapshot of an epoch frees, or nothing if it has to stay for now.
    fn freed_at(&self, epoch: Epoch) -> Option<Release> {
        if self.count_at(epoch) > 1 {
            return Some(Release::Nothing);
        }
        let line = self.line(epoch)?;
        let is_end = !self.is_open(line) && self.tip(line) == Some(epoch);
        let after = self.before(epoch).unwrap_or(Epoch(0));
        let held = |line| {
            let next = self.next_on(line, epoch);
            let killed = self.runs(line, epoch.next(), next);
            Some(Release::Held { killed, after })
        };
        match (is_end, &*self.children(epoch)) {
            (true, []) => Some(Release::End { after }),
            (false, []) => held(line),
            (true, [child]) => held(*child),
            _ => None,
        }
    }

    /// Whether [`Self::release`] takes the snapshot away.
    #[must_use]
    pub fn can_release(&self, id: u64) -> bool {
        let found = self.snapshots.iter().find(|s| s.id == id && s.gone);
        found.is_some_and(|s| self.freed_at(s.epoch).is_some())
    }

    /// Whether releasing a snapshot comes to the same here and in a later state of this. What was
    /// done with snapshots in between comes after the release, if there is a crash: where another
    /// one has come to the same epoch since, this would end its line at it, or join that with the
    /// next one, and the ways that go on from the other one would miss what was before it.
    #[must_use]
    pub fn releases_alike(&self, later: &Self, id: u64) -> bool {
        let kind = |timeline: &Self| {
            let epoch = timeline.snapshots.iter().find(|s| s.id == id)?.epoch;
            let freed = timeline.freed_at(epoch)?;
            Some((std::mem::discriminant(&freed), timeline.children(epoch)))
        };
        kind(self) == kind(later)
    }

    /// Takes a snapshot away that was given up. Answers what that frees, or nothing if it has to
    /// stay for now.
    pub fn release(&mut self, id: u64) -> Option<Release> {
        let at = self.snapshots.iter().position(|s| s.id == id && s.gone)?;
        let epoch = self.snapshots.get(at)?.epoch;
        let span = *self.span(epoch)?;
        let release = self.freed_at(epoch)?;
        self.snapshots.remove(at);
        match (&release, &*self.children(epoch)) {
            (Release::Nothing, _) => {}
            (Release::End { after }, _) => {
                self.cut_back(span.line, *after);
                self.find_points();
            }
            (Release::Held { .. }, [child]) => {
                self.join(span, *child);
                self.find_points();
            }
            // Nothing else changes, and there may be very many to be released.
            (Release::Held { .. }, _) => {
                if let Ok(point) = self.points.binary_search(&(span.line, epoch)) {
                    self.points.remove(point);
                }
            }
        }
        Some(release)
    }

    /// The line ends at `to` now, or is gone if that is no epoch of it.
    fn cut_back(&mut self, line: u64, to: Epoch) {
        let stays = self.line(to) == Some(line) && to != Epoch(0);
        self.spans.retain_mut(|span| {
            if span.line != line {
                return true;
            }
            span.last = span.last.min(to);
            stays && span.first <= span.last
        });
    }

    /// The line `child` becomes a part of the one that it goes on from.
    fn join(&mut self, to: Span, child: u64) {
        for span in self.spans.iter_mut().filter(|s| s.line == child) {
            span.line = to.line;
            span.parent = to.parent;
        }
        for fork in self.forks.list.iter_mut().filter(|f| f.line == child) {
            (fork.line, fork.base) = (to.line, to.parent);
            self.open.remove(&child);
            self.open.insert(to.line);
        }
    }

    /// What releasing a snapshot would free now, and leaves everything as it is.
    #[must_use]
    pub fn would_release(&self, id: u64) -> Option<Release> {
        let found = self.snapshots.iter().find(|s| s.id == id);
        self.freed_at(found?.epoch)
    }
}

/// Which versions of one key are seen, asked for the newest first.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Of each line the oldest version that was met.
    lines: Vec<(u64, Epoch)>,
}

impl Seen {
    /// Whether somebody sees the version of an epoch, after all newer ones were asked for.
    pub fn is_seen(&mut self, timeline: &Timeline, epoch: Epoch) -> bool {
        let Some(line) = timeline.line(epoch) else {
            return false;
        };
        let newer = match self.lines.iter_mut().find(|(l, _)| *l == line) {
            Some((_, oldest)) => Some(std::mem::replace(oldest, epoch)),
            None => {
                self.lines.push((line, epoch));
                None
            }
        };
        timeline.is_seen(epoch, newer)
    }

    /// The next key.
    pub fn clear(&mut self) {
        self.lines.clear();
    }
}

#[cfg(test)]
#[path = "timeline_tests.rs"]
mod tests;
