use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::ids::Branch;
use crate::manifest::ForkMeta;

fn snapshot(id: u64, epoch: u64) -> SnapshotMeta {
    SnapshotMeta {
        id,
        branch: Branch::HEAD,
        epoch: Epoch(epoch),
        gone: false,
        time: 0,
        inodes: 0,
        bytes: 0,
        name: format!("s{id}").into_bytes().into(),
    }
}

/// Epochs with the one that each goes on from, frames with where they are born and killed, and
/// what was freed, told from the timeline.
struct Model {
    timeline: Timeline,
    parents: BTreeMap<u64, u64>,
    /// The epoch that the head writes in.
    now: u64,
    /// The newest epoch that anybody got.
    last: u64,
    /// The newest epoch of each branch.
    forks: BTreeMap<u32, u64>,
    next_id: u64,
    /// Birth and kills of each frame.
    frames: Vec<(u64, Vec<u64>)>,
    /// Kills that were written down: epoch and frame.
    held: Vec<(u64, usize)>,
    freed: BTreeSet<usize>,
}

impl Model {
    fn new() -> Self {
        Self {
            timeline: Timeline::default(),
            parents: BTreeMap::from([(1, 0)]),
            now: 1,
            last: 1,
            forks: BTreeMap::new(),
            next_id: 1,
            frames: Vec::new(),
            held: Vec::new(),
            freed: BTreeSet::new(),
        }
    }

    fn path(&self, at: u64) -> BTreeSet<u64> {
        let mut path = BTreeSet::new();
        let mut at = at;
        while at != 0 {
            path.insert(at);
            at = self.parents[&at];
        }
        path
    }

    fn alive(&self, at: u64) -> Vec<usize> {
        let path = self.path(at);
        let is_alive = |(_, (birth, kills)): &(usize, &(u64, Vec<u64>))| {
            path.contains(birth) && !kills.iter().any(|k| path.contains(k))
        };
        let frames = self.frames.iter().enumerate();
        frames.filter(is_alive).map(|(n, _)| n).collect()
    }

    fn free(&mut self, frame: usize) {
        assert!(self.freed.insert(frame), "frame {frame} is freed twice");
    }

    fn change(&mut self, now: u64, births: usize, kills: &[usize]) {
        let alive = self.alive(now);
        let chosen: BTreeSet<usize> = kills
            .iter()
            .filter_map(|n| alive.get(n % alive.len().max(1)).copied())
            .collect();
        for frame in chosen {
            self.frames[frame].1.push(now);
            let birth = self.frames[frame].0;
            if self.timeline.is_held(Epoch(birth), Epoch(now)) {
                self.held.push((now, frame));
            } else {
                self.free(frame);
            }
        }
        for _ in 0..births {
            self.frames.push((now, Vec::new()));
        }
    }

    /// The present epoch is flushed, and the next one begins.
    fn flush(&mut self, births: usize, kills: &[usize]) {
        self.change(self.now, births, kills);
        self.last += 1;
        self.parents.insert(self.last, self.now);
        self.now = self.last;
    }

    /// The n-th branch, if there are any.
    fn branch(&self, n: usize) -> Option<u32> {
        let all: Vec<u32> = self.forks.keys().copied().collect();
        all.get(n % all.len().max(1)).copied()
    }

    /// A branch writes, and is flushed before the head.
    fn flush_branch(&mut self, n: usize, births: usize, kills: &[usize]) {
        let Some(branch) = self.branch(n) else { return };
        self.last += 1;
        let epoch = self.last;
        self.parents.insert(epoch, self.forks[&branch]);
        assert!(self.timeline.begin(Branch(branch), Epoch(epoch)));
        self.forks.insert(branch, epoch);
        self.change(epoch, births, kills);
    }

    fn take_at(&mut self, epoch: u64) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        if epoch != 0 {
            self.timeline.add(snapshot(id, epoch));
        }
        id
    }

    fn take(&mut self) -> u64 {
        // Of what was flushed last.
        let epoch = self.parents[&self.now];
        self.take_at(epoch);
        epoch
    }

    fn take_branch(&mut self, n: usize) {
        if let Some(branch) = self.branch(n) {
            self.take_at(self.forks[&branch]);
        }
    }

    /// Of the head, or of a branch.
    fn fork(&mut self, n: usize) {
        let parent = n.checked_sub(1).and_then(|n| self.branch(n));
        let epoch = match parent {
            Some(branch) => self.forks[&branch],
            None => self.parents[&self.now],
        };
        if epoch == 0 {
            return;
        }
        let point = self.take_at(epoch);
        let id = self.timeline.forks().next;
        let meta = ForkMeta {
            id,
            parent: parent.map_or(Branch::HEAD, Branch),
            epoch: Epoch(epoch),
            time: 0,
            inodes: 0,
            bytes: 0,
            name: format!("b{id}").into_bytes().into(),
        };
        assert!(self.timeline.fork(meta));
        assert!(self.timeline.give_up(point));
        self.forks.insert(id.0, epoch);
    }

    fn prune(&mut self, n: usize) {
        let Some(branch) = self.branch(n) else { return };
        let end = self.take_at(self.forks[&branch]);
        assert!(self.timeline.prune(Branch(branch)));
        assert!(self.timeline.give_up(end));
        self.forks.remove(&branch);
    }

    fn roll_branch_back(&mut self, n: usize) {
        let live = self.live();
        let to = live.get(n % live.len().max(1)).copied();
        let (Some(to), Some(branch)) = (to, self.branch(n)) else {
            return;
        };
        let end = self.forks[&branch];
        self.take_at(end);
        assert!(
            self.timeline
                .roll_back(Branch(branch), Epoch(to), Epoch(end))
        );
        self.forks.insert(branch, to);
    }

    fn live(&self) -> Vec<u64> {
        let snapshots = self.timeline.snapshots().iter();
        snapshots.filter(|s| !s.gone).map(|s| s.epoch.0).collect()
    }

    fn roll_back(&mut self, n: usize) {
        let live = self.live();
        let Some(to) = live.get(n % live.len().max(1)) else {
            return;
        };
        // A safety snapshot of an epoch of its own.
        self.flush(1, &[n]);
        let end = self.take();
        assert!(
            self.timeline
                .roll_back(Branch::HEAD, Epoch(*to), Epoch(end))
        );
        self.parents.insert(self.now, *to);
    }

    fn give_up(&mut self, n: usize) {
        let live = self.timeline.snapshots().iter().filter(|s| !s.gone);
        let ids: Vec<u64> = live.map(|s| s.id).collect();
        if let Some(id) = ids.get(n % ids.len().max(1)) {
            assert!(self.timeline.give_up(*id));
        }
    }

    fn release(&mut self) {
        loop {
            let gone = self.timeline.snapshots().iter().filter(|s| s.gone);
            let gone: Vec<(u64, u64)> = gone.map(|s| (s.id, s.epoch.0)).collect();
            let released = gone
                .iter()
                .find_map(|(id, epoch)| Some((*epoch, self.timeline.release(*id)?)));
            let Some((epoch, release)) = released else {
                return;
            };
            match release {
                Release::Nothing => {}
                Release::Held { killed, after } => {
                    let is_freed = |(at, frame): &&(u64, usize)| {
                        let birth = self.frames[*frame].0;
                        killed.iter().any(|(a, b)| a.0 <= *at && *at <= b.0)
                            && after.0 < birth
                            && birth <= epoch
                    };
                    let freed: Vec<usize> =
                        self.held.iter().filter(is_freed).map(|(_, f)| *f).collect();
                    for frame in freed {
                        self.free(frame);
                    }
                }
                Release::End { after } => {
                    let alive = self.alive(epoch).into_iter();
                    let young = alive.filter(|f| self.frames[*f].0 > after.0);
                    for frame in young.collect::<Vec<_>>() {
                        self.free(frame);
                    }
                }
            }
            // What is not held any more is what a compaction drops.
            let timeline = &self.timeline;
            let frames = &self.frames;
            self.held
                .retain(|(at, f)| timeline.is_held(Epoch(frames[*f].0), Epoch(*at)));
        }
    }

    fn check(&self) {
        let mut tips = self.live();
        tips.push(self.now);
        tips.extend(self.forks.values().filter(|tip| **tip != 0));
        for (branch, tip) in &self.forks {
            let view = self.timeline.view_of(Branch(*branch)).unwrap();
            let path = self.path(*tip);
            for epoch in 1..=self.last {
                let sees = view.sees(Epoch(epoch));
                assert_eq!(sees, path.contains(&epoch), "{epoch} in branch {branch}");
            }
        }
        for tip in &tips {
            for frame in self.alive(*tip) {
                assert!(
                    !self.freed.contains(&frame),
                    "{tip} shows a freed frame {frame}"
                );
            }
            let at = if *tip == self.now {
                Span::OPEN
            } else {
                Epoch(*tip)
            };
            let view = self.timeline.view(at);
            let path = self.path(*tip);
            for epoch in 1..=self.last {
                assert_eq!(
                    view.sees(Epoch(epoch)),
                    path.contains(&epoch),
                    "{epoch} at {tip}"
                );
            }
        }
        let (snapshots, spans) = (self.timeline.snapshots(), self.timeline.spans());
        let again = Timeline::with_forks(
            snapshots.iter().map(|s| SnapshotMeta::clone(s)).collect(),
            spans.to_vec(),
            self.timeline.forks().clone(),
        );
        assert_eq!(again.as_ref(), Ok(&self.timeline));
        self.check_seen(&tips);
        for (a, b) in tips.iter().flat_map(|a| tips.iter().map(move |b| (a, b))) {
            let view = |tip: u64| match tip == self.now {
                true => self.timeline.head(),
                false => self.timeline.view(Epoch(tip)),
            };
            let both = self.path(*a).intersection(&self.path(*b)).max().copied();
            let got = view(*a).parting(&view(*b));
            if got != Span::OPEN {
                assert_eq!(got, Epoch(both.unwrap_or(0)), "{a} and {b}");
            }
        }
    }

    /// A record that is written in some epochs: what a tip sees of it is kept.
    fn check_seen(&self, tips: &[u64]) {
        let written: Vec<u64> = (1..=self.last).filter(|e| e % 3 == 1).collect();
        let mut seen = Seen::default();
        let newest_first = written.iter().rev().copied();
        let kept: BTreeSet<u64> = newest_first
            .filter(|epoch| seen.is_seen(&self.timeline, Epoch(*epoch)))
            .collect();
        for tip in tips {
            let path = self.path(*tip);
            let seen = written.iter().rev().find(|e| path.contains(e));
            assert!(seen.is_none_or(|e| kept.contains(e)), "{seen:?} at {tip}");
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Flush(usize, Vec<usize>),
    Take,
    RollBack(usize),
    GiveUp(usize),
    Release,
    Fork(usize),
    FlushBranch(usize, usize, Vec<usize>),
    TakeBranch(usize),
    RollBranchBack(usize),
    Prune(usize),
}

fn changes() -> (std::ops::Range<usize>, impl Strategy<Value = Vec<usize>>) {
    (0..3usize, proptest::collection::vec(0..50usize, 0..3))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => changes()
            .prop_map(|(births, kills)| Step::Flush(births, kills)),
        4 => Just(Step::Take),
        2 => (0..50usize).prop_map(Step::RollBack),
        3 => (0..50usize).prop_map(Step::GiveUp),
        3 => Just(Step::Release),
        2 => (0..4usize).prop_map(Step::Fork),
        4 => (0..4usize, changes())
            .prop_map(|(n, (births, kills))| Step::FlushBranch(n, births, kills)),
        2 => (0..4usize).prop_map(Step::TakeBranch),
        1 => (0..50usize).prop_map(Step::RollBranchBack),
        1 => (0..4usize).prop_map(Step::Prune),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn each_frame_is_freed_once_and_when_nobody_sees_it(
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let mut model = Model::new();
        for step in steps {
            match step {
                Step::Flush(births, kills) => model.flush(births, &kills),
                Step::Take => drop(model.take()),
                Step::RollBack(n) => model.roll_back(n),
                Step::GiveUp(n) => model.give_up(n),
                Step::Release => model.release(),
                Step::Fork(n) => model.fork(n),
                Step::FlushBranch(n, births, kills) => model.flush_branch(n, births, &kills),
                Step::TakeBranch(n) => model.take_branch(n),
                Step::RollBranchBack(n) => model.roll_branch_back(n),
                Step::Prune(n) => model.prune(n),
            }
            model.check();
        }
        while !model.forks.is_empty() {
            model.prune(0);
        }
        while !model.live().is_empty() {
            model.give_up(0);
        }
        model.release();
        model.check();
        // One line is left, and what it shows.
        prop_assert!(model.timeline.snapshots().is_empty());
        let alive: BTreeSet<usize> = model.alive(model.now).into_iter().collect();
        let left: BTreeSet<usize> = (0..model.frames.len())
            .filter(|f| !model.freed.contains(f))
            .collect();
        prop_assert_eq!(alive, left);
        let lines: BTreeSet<u64> = model.timeline.spans().iter().map(|s| s.line).collect();
        prop_assert!(lines.len() <= 1, "{:?}", model.timeline.spans());
    }

    #[test]
    fn what_no_volume_has_is_refused_and_never_loops(
        spans in proptest::collection::vec((0..30u64, 0..30u64, 0..4u64, 0..30u64), 0..6),
        epochs in proptest::collection::vec(0..30u64, 0..4),
        open in any::<bool>(),
        forks in proptest::collection::vec((0..3u32, 0..5u64, 0..30u64), 0..3),
    ) {
        let fork = |(id, line, base)| Fork {
            meta: std::sync::Arc::new(ForkMeta {
                id: Branch(id),
                parent: Branch::HEAD,
                epoch: Epoch(base),
                time: 0,
                inodes: 0,
                bytes: 0,
                name: Box::default(),
            }),
            line,
            base: Epoch(base),
        };
        let forks = Forks {
            next: Branch(3),
            list: forks.into_iter().map(fork).collect(),
        };
        let span = |(first, last, line, parent)| Span {
            first: Epoch(first),
            last: Epoch(last),
            line,
            parent: Epoch(parent),
        };
        let mut spans: Vec<Span> = spans.into_iter().map(span).collect();
        if let Some(last) = spans.last_mut().filter(|_| open) {
            last.last = Span::OPEN;
        }
        let snapshots = (1..).zip(epochs).map(|(id, epoch)| snapshot(id, epoch)).collect();
        if let Ok(mut timeline) = Timeline::with_forks(snapshots, spans, forks) {
            for epoch in 0..32 {
                let _ = timeline.view(Epoch(epoch));
                let _ = timeline.before(Epoch(epoch));
                let _ = timeline.is_seen(Epoch(epoch), None);
            }
            for branch in 0..3 {
                let _ = timeline.view_of(Branch(branch));
                let _ = timeline.begin(Branch(branch), Epoch(31));
                let _ = timeline.prune(Branch(branch));
            }
            for id in 1..5 {
                let _ = timeline.would_release(id);
                let _ = timeline.give_up(id);
                let can = timeline.can_release(id);
                assert_eq!(timeline.release(id).is_some(), can);
            }
        }
    }
}

/// An image may have very many lines; what takes the square of their number is as good as a hang:
/// half a million took a quarter of an hour.
#[test]
fn very_many_lines_are_read_in_one_go() {
    let n = 500_000;
    let snapshots = (1..n).map(|i| snapshot(i, i * 2)).collect();
    let spans = (0..n).map(|i| Span {
        first: Epoch(if i == 0 { 0 } else { i * 2 + 1 }),
        last: match i + 1 == n {
            true => Span::OPEN,
            false => Epoch(i * 2 + 2),
        },
        line: i,
        parent: Epoch(i * 2),
    });
    let timeline = Timeline::new(snapshots, spans.collect()).unwrap();
    let head = timeline.head();
    assert!(head.sees(Epoch(2)) && head.sees(Epoch(n)) && head.sees(Epoch(n * 2)));
    assert_eq!(head.newest(Epoch(n - 1)), Some(Epoch(n - 1)));
}

#[test]
fn very_many_snapshots_are_released_in_one_go() {
    let n = 50_000;
    let gone = |i| SnapshotMeta {
        gone: true,
        ..snapshot(i, i * 2)
    };
    let mut timeline = Timeline::new((1..=n).map(gone).collect(), Vec::new()).unwrap();
    for id in 1..=n {
        assert!(timeline.can_release(id));
        let next = match id == n {
            true => Span::OPEN,
            false => Epoch(id * 2 + 2),
        };
        let killed = vec![(Epoch(id * 2 + 1), next)];
        let after = Epoch(0);
        assert_eq!(timeline.release(id), Some(Release::Held { killed, after }));
    }
    assert!(timeline.is_trivial());
}

/// With branches, each after something that the head has written; some have an epoch of their own.
fn forked(names: &[&[u8]]) -> Timeline {
    let mut timeline = Timeline::default();
    for (n, name) in names.iter().enumerate() {
        let at = 10 * n as u64 + 1;
        timeline.add(snapshot(n as u64 + 1, at));
        let meta = ForkMeta {
            id: timeline.forks().next,
            parent: Branch::HEAD,
            epoch: Epoch(at),
            time: 0,
            inodes: 0,
            bytes: 0,
            name: (*name).into(),
        };
        let id = meta.id;
        assert!(timeline.fork(meta));
        if n % 3 > 0 {
            assert!(timeline.begin(id, Epoch(at + 2)));
            assert!(timeline.begin(id, Epoch(at + 3 * n as u64)));
        }
    }
    timeline
}

/// Which of them a name stood for was a matter of luck.
#[test]
fn branches_of_one_name_are_refused() {
    let timeline = forked(&[b"a", b"b"]);
    let snapshots = || timeline.snapshots().iter().map(|s| SnapshotMeta::clone(s));
    let with = |name: &[u8]| {
        let mut forks = timeline.forks().clone();
        let last = forks.list.last_mut().unwrap();
        std::sync::Arc::make_mut(&mut last.meta).name = name.into();
        Timeline::with_forks(snapshots().collect(), timeline.spans().to_vec(), forks)
    };
    assert!(with(b"c").is_ok());
    assert_eq!(with(b"a"), Err("a name for each branch"));
}

/// It took the square of their number, of which an image may have very many.
#[test]
fn all_branches_end_at_once_as_they_would_one_by_one() {
    let (mut at_once, names) = (forked(&[b"a", b"b", b"c", b"d", b"e"]), 100..);
    let mut one_by_one = at_once.clone();
    let taken = |meta: &ForkMeta, epoch: Epoch, id| SnapshotMeta {
        branch: meta.id,
        ..snapshot(id, epoch.0)
    };
    for (fork, id) in one_by_one.forks().list.clone().iter().zip(names.clone()) {
        let newest = one_by_one.newest_of(fork.meta.id).unwrap();
        one_by_one.add(taken(&fork.meta, newest, id));
        one_by_one.prune(fork.meta.id);
    }
    let mut names = names.into_iter();
    at_once.prune_all(|meta, epoch| taken(meta, epoch, names.next().unwrap()));
    assert_eq!(at_once, one_by_one);
    assert_eq!(at_once.forks().list, []);
    assert_eq!(at_once.snapshots().len(), 10);
}
