//! Snapshots of a state of the model, and going back to one.

use std::fmt;
use std::sync::Arc;

use razorfs::Ino;

use crate::branches::{Branches, branch_times};
use crate::lines::stamp;
use crate::model::{Errnos, Model, differences, time_differences};
use crate::rng::{mix, scatter};

/// Number of names that workloads give to snapshots.
pub const NAMES: u8 = 6;
/// How the names of the snapshots begin that rollbacks take.
pub const SAFETY: &str = "before-rollback-";

/// A snapshot, by what a run knows of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// The one that the run gave this name.
    Named(u8),
    /// One that a rollback took, counted from the youngest.
    Safety(u8),
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(n) => f.write_str(&name(*n)),
            Self::Safety(n) => write!(f, "{SAFETY}({n} from the last)"),
        }
    }
}

/// The name that a run gives to a snapshot.
#[must_use]
pub fn name(n: u8) -> String {
    format!("s{n}")
}

/// A snapshot.
#[derive(Clone, Debug)]
pub struct Point {
    /// The name that the run gave it; none if a rollback took it.
    named: Option<u8>,
    /// The name that the volume gave it, once that is known.
    name: Option<Arc<str>>,
    /// What it shows. What was open without a name then is in it as well.
    pub state: Model,
    /// No other one has it, whatever became of this.
    pub(crate) id: u64,
}

impl Point {
    /// Of this name, as a volume shows it.
    #[must_use]
    pub fn found(name: &str, state: Model) -> Self {
        let named = name.strip_prefix('s').and_then(|n| n.parse().ok());
        Self {
            named,
            name: Some(name.into()),
            state,
            id: stamp(),
        }
    }

    /// One that is taken before something else, of a name that nobody knows yet.
    pub(crate) fn safety(state: Model) -> Self {
        Self {
            named: None,
            name: None,
            state,
            id: stamp(),
        }
    }

    /// Its name, if that is known.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    fn hash(&self) -> u64 {
        let kind = self.named.map_or(0, |n| 1 + u64::from(n));
        scatter(mix(kind, self.state.hash()))
    }
}

impl Model {
    /// The snapshots, oldest first.
    #[must_use]
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// What is here alone, without snapshots and other branches.
    #[must_use]
    pub fn alone(&self) -> Self {
        let mut state = self.clone();
        state.points = Arc::default();
        state.branches = Branches::default();
        state.aim = None;
        state.rehash_points();
        state
    }

    fn rehash_points(&mut self) {
        let hashes = self.points.iter().map(Point::hash);
        self.points_hash = hashes.fold(0, |sum, hash| scatter(mix(sum, hash)));
    }

    /// Adds a snapshot that is younger than the others.
    pub fn add_point(&mut self, point: Point) {
        Arc::make_mut(&mut self.points).push(point);
        self.rehash_points();
    }

    fn position(&self, which: Which) -> Option<usize> {
        match which {
            Which::Named(n) => self.points.iter().position(|p| p.named == Some(n)),
            Which::Safety(n) => {
                let points = self.points.iter().enumerate().rev();
                let mut taken = points.filter(|(_, p)| p.named.is_none());
                taken.nth(usize::from(n)).map(|(at, _)| at)
            }
        }
    }

    /// The snapshot.
    #[must_use]
    pub fn snapshot(&self, which: Which) -> Option<&Point> {
        self.points.get(self.position(which)?)
    }

    /// The name to ask for it; none if a rollback took it and it is not there.
    #[must_use]
    pub fn name_of(&self, which: Which) -> Option<String> {
        match which {
            Which::Named(n) => Some(name(n)),
            Which::Safety(_) => self.snapshot(which)?.name().map(Into::into),
        }
    }

    /// Takes a snapshot.
    pub(crate) fn take(&mut self, n: u8) -> Result<(), Errnos> {
        if self.snapshot(Which::Named(n)).is_some() {
            return Err(&[libc::EEXIST]);
        }
        self.tie();
        self.add_point(Point::found(&name(n), self.alone()));
        Ok(())
    }

    /// Gives a snapshot up.
    pub(crate) fn delete(&mut self, which: Which) -> Result<(), Errnos> {
        let at = self.position(which).ok_or(&[libc::ENOENT] as Errnos)?;
        Arc::make_mut(&mut self.points).remove(at);
        self.rehash_points();
        Ok(())
    }

    /// Goes back to a snapshot, after taking one of the present, whose name nobody knows yet. What
    /// is open stays open as far as the snapshot has it; numbers of inodes stay given.
    pub(crate) fn roll_back(&mut self, which: Which) -> Result<(), Errnos> {
        let point = self.snapshot(which).ok_or(&[libc::ENOENT] as Errnos)?;
        let state = point.state.clone();
        self.go_on_as(state);
        Ok(())
    }

    /// Goes on from another tree, after taking a snapshot of the present.
    pub(crate) fn go_on_as(&mut self, mut state: Self) {
        state.points = Arc::clone(&self.points);
        state.branches = self.branches.clone();
        self.tie();
        state.add_point(Point::safety(self.alone()));
        state.set_highest(self.highest().max(state.highest()));
        state.keep_open(self);
        *self = state;
    }

    /// Learns the names of snapshots from a volume in the same state, or from an answer.
    pub(crate) fn learn_names<'n>(&mut self, names: impl Iterator<Item = Option<&'n str>>) {
        for (point, name) in Arc::make_mut(&mut self.points).iter_mut().zip(names) {
            if point.name.is_none() {
                point.name = name.map(Into::into);
            }
        }
    }

    /// The youngest snapshot has this name.
    pub(crate) fn learn_safety(&mut self, name: &str) {
        if let Some(point) = Arc::make_mut(&mut self.points).last_mut() {
            point.name = Some(name.into());
        }
    }

    /// Whether what has this inode open at a rollback is not told by the model: the snapshot may
    /// have it among what it had not yet removed.
    pub(crate) fn is_unclear_after(&self, which: Which, ino: Ino, was_left: bool) -> bool {
        let Some(state) = self.snapshot(which).map(|p| &p.state) else {
            return false;
        };
        match state.node(ino) {
            Some(node) => was_left && node.nlink == 0,
            None => ino <= state.highest(),
        }
    }
}

/// How the snapshots of two states differ, in words.
pub(crate) fn point_differences(expected: &Model, found: &Model, out: &mut Vec<String>) {
    let names = |m: &Model| -> Vec<String> {
        let name = |p: &Point| p.name().unwrap_or("one of a rollback").to_owned();
        m.points().iter().map(name).collect()
    };
    let kinds = |m: &Model| -> Vec<_> { m.points().iter().map(|p| p.named).collect() };
    if kinds(expected) != kinds(found) {
        let (found, expected) = (names(found), names(expected));
        out.push(format!("snapshots {found:?}, expected {expected:?}"));
        return;
    }
    for (want, got) in expected.points().iter().zip(found.points()) {
        let name = got.name().unwrap_or_default();
        let words = differences(&want.state, &got.state);
        out.extend(words.iter().map(|w| format!("snapshot {name}: {w}")));
    }
}

/// What the hashes of two states leave out: times, also those in branches and snapshots, and names
/// of the latter.
#[must_use]
pub fn details(expected: &Model, found: &Model) -> Vec<String> {
    let (expected, found) = (&expected.at_home(), &found.at_home());
    let mut out = time_differences(expected, found);
    out.extend(branch_times(expected, found));
    for (want, got) in expected.points().iter().zip(found.points()) {
        let name = got.name().unwrap_or_default();
        if want.name().is_some_and(|want| want != name) {
            out.push(format!("a snapshot {name}, expected {:?}", want.name()));
        }
        let times = time_differences(&want.state, &got.state);
        out.extend(times.iter().map(|w| format!("snapshot {name}: {w}")));
    }
    out
}
