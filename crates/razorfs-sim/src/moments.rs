//! Going back to a moment that the journal knows, and keeping what was then as a snapshot; and
//! what a branch was made of.

use std::collections::BTreeSet;
use std::sync::Arc;

use razorfs::Error;

use crate::branches;
use crate::driver::{Failure, Runner};
use crate::lines::{Knot, way};
use crate::model::{Errnos, Model};
use crate::op::{Op, SLOTS};
use crate::points::{self, Point, Which};
use crate::posix::Answer;
use crate::subject::{FileSystem, Machine};

/// Moments that are remembered.
const MOST: usize = 12;

/// A moment at which everything was durable.
pub(crate) struct Moment {
    /// When that was, by the machine's clock.
    time: u64,
    state: Model,
}

/// What a branch was made of.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) knot: Arc<Knot>,
    /// Which of the branches that have had its name it is.
    pub(crate) stamp: u64,
}

impl Model {
    /// What has a name in a state, as one that more may go on from, whatever that went on from.
    fn kept(&self) -> Self {
        let mut state = self.alone();
        state.close_all();
        state.line = None;
        state.tie();
        state
    }

    /// Goes back to a moment, after taking a snapshot of the present.
    pub(crate) fn restore(&mut self) -> Result<(), Errnos> {
        let aim = self.aim.clone().ok_or(&[libc::EINVAL] as Errnos)?;
        let before = self.clone();
        self.go_on_as(aim.kept());
        self.take_gone(&before);
        Ok(())
    }

    /// Keeps a moment as a snapshot.
    pub(crate) fn take_then(&mut self, n: u8) -> Result<(), Errnos> {
        let aim = self.aim.clone().ok_or(&[libc::EINVAL] as Errnos)?;
        if self.snapshot(Which::Named(n)).is_some() {
            return Err(&[libc::EEXIST]);
        }
        self.add_point(Point::found(&points::name(n), aim.kept()));
        Ok(())
    }

    /// Keeps what a branch was made of as a snapshot.
    pub(crate) fn take_origin(&mut self, branch: u8, n: u8) -> Result<(), Errnos> {
        let Some(origin) = self.origin(branch).cloned() else {
            return Err(&[libc::ENOENT]);
        };
        if self.snapshot(Which::Named(n)).is_some() {
            return Err(&[libc::EEXIST, libc::ENOENT]);
        }
        let mut state = origin.knot.state.alone();
        state.close_all();
        state.line = Some(origin.knot);
        self.add_point(Point::found(&points::name(n), state));
        Ok(())
    }

    /// Whether nothing but the branch goes on from what it was made of, as far as that is known:
    /// then it may be gone.
    pub(crate) fn may_lack_origin(&self, branch: u8) -> bool {
        let Some(origin) = self.origin(branch) else {
            return true;
        };
        let others = self.others().chain(self.points().iter().map(|p| &p.state));
        let step = |state: &Model| {
            let mut last = std::ptr::from_ref(state).cast::<Knot>();
            for knot in way(state) {
                if Arc::ptr_eq(knot, &origin.knot) {
                    return Some(last);
                }
                if knot.is_unclear {
                    return None;
                }
                last = Arc::as_ptr(knot);
            }
            None
        };
        let ways = others.chain([self]).filter_map(step);
        ways.collect::<BTreeSet<_>>().len() < 2
    }
}

impl<M: Machine> Runner<M> {
    /// Everything is durable as it is now: one can come back here.
    pub(crate) fn note_moment(&mut self) {
        let Some(time) = self.machine.now() else {
            return;
        };
        let mut state = self.model.clone();
        state.aim = None;
        if self.moments.len() >= MOST {
            self.moments.remove(0);
        }
        self.moments.push(Moment { time, state });
    }

    /// A moment of where the run is, counted from the last one.
    fn moment(&self, back: u8) -> Option<(u64, Model)> {
        let here = self.model.here();
        let stamp = |state: &Model| here.map(|n| state.origin(n).map(|o| o.stamp));
        let now = stamp(&self.model);
        let all = self.moments.iter().rev();
        let mut all = all.filter(|m| m.state.has_place(here) && stamp(&m.state) == now);
        let moment = all.nth(usize::from(back))?;
        Some((moment.time, moment.state.seen_from(here)))
    }

    /// Whether an operation goes to a moment that nobody remembers.
    pub(crate) fn lacks_moment(&self, op: &Op) -> bool {
        match op {
            Op::Restore(back) | Op::TakeThen { back, .. } => self.moment(*back).is_none(),
            _ => false,
        }
    }

    /// Asks the file system for a moment.
    pub(crate) fn ask_moment(
        &mut self,
        op: &Op,
    ) -> Result<(Result<Answer, Error>, Option<String>), Failure> {
        let (Op::Restore(back) | Op::TakeThen { back, .. }) = op else {
            return Err(self.failure("no moment is asked for"));
        };
        let moment = self.moment(*back);
        let (time, state) = moment.ok_or_else(|| self.failure("nobody knows the moment"))?;
        if let Op::TakeThen { name, .. } = op {
            self.model.aim = Some(Arc::new(state));
            let taken = self.fs()?.snapshot_at(&points::name(*name), time);
            return Ok((taken.map(|()| Answer::Done), None));
        }
        self.close_but(&state)?;
        self.model.aim = Some(Arc::new(state));
        Ok(match self.fs()?.restore(time) {
            Ok(safety) => (Ok(Answer::Done), Some(safety)),
            Err(e) => (Err(e), None),
        })
    }

    /// Closes what has not a name both now and in what is gone on from: when that goes is the
    /// reaper's business, in whatever branch.
    pub(crate) fn close_but(&mut self, state: &Model) -> Result<(), Failure> {
        for slot in 0..SLOTS {
            self.close_left(slot)?;
            let open = self.model.slot(slot);
            let stays = |ino| [state, &self.model].iter().all(|s| s.named(ino).is_some());
            if open.is_some_and(|ino| !stays(ino)) {
                self.replace_slot(slot, None)?;
            }
        }
        Ok(())
    }

    /// Whether an operation was refused because what it goes to is not to be had any more, as it
    /// may be.
    pub(crate) fn is_past(&self, op: &Op, before: &Model, e: &Error) -> bool {
        match (op, e) {
            (Op::Restore(_) | Op::TakeThen { .. }, Error::NoMoment(_)) => true,
            (Op::Origin { branch, .. }, Error::NotFound) => before.may_lack_origin(*branch),
            _ => false,
        }
    }
}

/// What is asked for, in words.
pub(crate) fn words(op: &Op, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
    match op {
        Op::Restore(back) => write!(f, "restore the moment {back} from the last"),
        Op::TakeThen { name, back } => {
            let name = points::name(*name);
            write!(f, "snapshot {name} of the moment {back} from the last")
        }
        Op::Origin { branch, name } => {
            let (branch, name) = (branches::name(*branch), points::name(*name));
            write!(f, "snapshot {name} of what {branch} was made of")
        }
        _ => Ok(()),
    }
}
