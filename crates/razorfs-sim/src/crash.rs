//! The power goes: what was not synced survives or not, the volume is opened again, and must be
//! in one of the states that the model says it may be in.

use razorfs::Ino;

use crate::branches::words;
use crate::driver::{Failure, Runner};
use crate::dump::dump;
use crate::model::{Model, differences};
use crate::op::{Op, Work};
use crate::points::{Point, details};
use crate::rng::mix;
use crate::subject::{FileSystem, Machine};

/// Most steps of background work after recovery until the reaper must be done.
const MOST_STEPS: usize = 10_000;
/// The mark of a recovery that was over before the power was to go again.
pub(crate) const CAME_THROUGH: &str = "recovery came through before the next cut";

/// The mark of a disk that an earlier cut had left as well.
pub const SEEN_BEFORE: &str = "cut: left what an earlier one had left";

impl<M: Machine> Runner<M> {
    pub(crate) fn cut(&mut self, calls: u64, seed: u64, again: &[u64]) -> Result<(), Failure> {
        self.again = again.to_vec();
        self.cut_seed = seed;
        if calls == 0 {
            self.machine.arm(0);
            return self.crash();
        }
        self.machine.arm(calls);
        Ok(())
    }

    pub(crate) fn crash(&mut self) -> Result<(), Failure> {
        self.crash_with(None)
    }

    /// Recovers. `last` is an operation during which the power went and that told no answer, with
    /// the state before it.
    pub(crate) fn crash_with(&mut self, last: Option<(Model, Op)>) -> Result<(), Failure> {
        self.forget_what_was_left();
        drop(self.fs.take());
        self.collect_acknowledgements();
        self.note_what_is_open(last.as_ref());
        self.model.go(None);
        self.died = true;
        self.end_life(self.cut_seed);
        self.healthy();
        self.cuts += 1;
        let again = std::mem::take(&mut self.again);
        for (round, calls) in again.into_iter().enumerate() {
            self.machine.arm(calls);
            let opened = self.machine.open();
            let done = match opened {
                Ok(fs) => {
                    // The power may go a little later, while background work goes on.
                    self.work_to_the_end(&fs);
                    drop(fs);
                    true
                }
                Err(e) if !self.machine.is_dead() => {
                    return Err(self.failure(format!("recovery: {e}")));
                }
                Err(_) => false,
            };
            if round == 0 && !self.machine.is_dead() {
                self.marks.hit(CAME_THROUGH);
            }
            self.marks.hit(match (done, self.machine.is_dead()) {
                (true, true) => "power went again after recovery",
                (true, false) => "dropped without a close after recovery",
                (false, _) => "power went again during recovery",
            });
            self.cuts += 1;
            self.end_life(mix(self.cut_seed, round as u64 + 1));
        }
        self.machine.disarm();
        let before = (
            self.model.clone(),
            self.history.clone(),
            self.outdated.clone(),
        );
        loop {
            match self.machine.known() {
                Some(found) => {
                    self.marks.hit(SEEN_BEFORE);
                    self.state_of(&found, last.clone())?;
                }
                None => {
                    let found = self.recover(last.clone())?;
                    self.machine.learn(&found);
                }
            }
            if !self.machine.next_outcome() {
                return Ok(());
            }
            self.forget_what_was_left();
            drop(self.fs.take());
            self.cuts += 1;
            (self.model, self.history, self.outdated) = before.clone();
        }
    }

    /// The process dies or the power goes. What a process that takes no writes has left is not
    /// gone on with.
    fn end_life(&mut self, seed: u64) {
        let died = if self.is_latched() {
            self.machine.revive(seed);
            false
        } else {
            self.machine.die(seed)
        };
        self.died &= died;
    }

    /// Opens what the cut has left, and compares it with what it may be; answers what it is.
    fn recover(&mut self, last: Option<(Model, Op)>) -> Result<Model, Failure> {
        self.machine
            .verify()
            .map_err(|e| self.failure(format!("verify after the cut: {e}")))?;
        let fs = self
            .machine
            .open()
            .map_err(|e| self.failure(format!("recovery: {e}")))?;
        if let Some(why) = fs.degraded() {
            return Err(self.failure(format!("read-only after the cut: {why}")));
        }
        let found = dump(&fs).map_err(|e| self.failure(format!("after the cut: {e}")))?;
        self.fs = Some(fs);
        let mut state = self.state_of(&found, last)?;
        state.go(None);
        if std::mem::take(&mut self.closing) {
            state.close_all();
        } else if self.died {
            self.marks
                .hit("a process died, nothing acknowledged was lost");
        } else {
            state.close_all();
        }
        self.model = state;
        self.everything_durable();
        self.check_counts()?;
        self.check_branches()?;
        self.machine
            .verify_open()
            .map_err(|e| self.failure(format!("verify: {e}")))?;
        Ok(found)
    }

    /// Opening and closing files changes nothing that a power cut leaves, and is in no history; the
    /// death of a process leaves files open.
    fn note_what_is_open(&mut self, last: Option<&(Model, Op)>) {
        let newest = match last {
            None => (self.model.clone(), 0),
            Some((before, op)) => {
                let mut after = before.clone();
                let fresh = self.next_ino();
                let possible = after.apply(op, fresh, u64::MAX).is_ok();
                (before.clone(), usize::from(possible))
            }
        };
        let (model, later) = newest;
        if let Some(state) = self.history.iter_mut().rev().nth(later) {
            state.model = model;
        }
    }

    /// Whether what is open is as a state says, if anything can be.
    fn is_open_as(&self, state: &Model) -> Result<bool, Failure> {
        Ok(!self.died || self.closing || self.nameless_agree_in_all(state)?)
    }

    fn work_to_the_end(&self, fs: &M::Fs) {
        for _ in 0..8 {
            let mut busy = false;
            // A scrub begins again at its end.
            for work in Work::ALL.into_iter().filter(|work| *work != Work::Scrub) {
                busy |= fs.step(work).unwrap_or(false);
            }
            if !busy || self.machine.is_dead() {
                return;
            }
        }
    }

    /// The state of the history that the volume is in.
    fn state_of(&mut self, found: &Model, last: Option<(Model, Op)>) -> Result<Model, Failure> {
        let mut candidates: Vec<(usize, Model)> = Vec::new();
        if let Some((before, op)) = last {
            let fresh = Self::made(&before, &op, found);
            let fresh = fresh.unwrap_or(Ino(before.highest().0 + 1)).max(Ino::FIRST);
            let mut after = before;
            if after.apply_unanswered(&op, fresh).is_ok() {
                candidates.push((self.now, after));
            }
        }
        // After a death, only what an operation without an answer has made or not.
        let most = if self.died {
            1 + candidates.len()
        } else {
            usize::MAX
        };
        let history = self.history.iter().rev().take(most);
        candidates.extend(history.map(|s| (s.op, s.model.clone())));
        let mut times = Vec::new();
        for (op, model) in &candidates {
            if model.hash() == found.hash() && self.is_open_as(model)? {
                times = details(model, found);
                if times.is_empty() {
                    let newest = candidates.first().map_or(*op, |c| c.0);
                    self.marks.hit(if *op == newest {
                        "cut: everything survived"
                    } else if self.history.first().is_some_and(|s| s.op == *op) {
                        "cut: only what was acknowledged survived"
                    } else {
                        "cut: something between survived"
                    });
                    // Several states may look alike, and in the oldest of them the fewest inode
                    // numbers had been given.
                    let alike = candidates.iter().filter(|(_, m)| m.hash() == found.hash());
                    let highest = alike.map(|(_, m)| m.highest()).min();
                    let others = candidates.iter().filter(|(at, _)| at != op);
                    let alike = others
                        .filter(|(_, m)| m.hash() == found.hash() && details(m, found).is_empty());
                    let mut model = model.clone();
                    alike.for_each(|(_, other)| model.blur(other));
                    model.set_highest(highest.unwrap_or(Ino(0)));
                    model.learn_names(found.points().iter().map(Point::name));
                    return Ok(model);
                }
            }
        }
        if !times.is_empty() {
            return Err(self.failure(format!("times after the cut: {}", times.join(", "))));
        }
        Err(self.failure(self.what_is_wrong(found, &candidates)))
    }

    fn what_is_wrong(&self, found: &Model, candidates: &[(usize, Model)]) -> String {
        let acknowledged = self.history.first().map_or(0, |s| s.op);
        let older = self
            .outdated
            .iter()
            .rev()
            .find(|(_, hash)| *hash == found.hash());
        if let Some((op, _)) = older {
            let lost = self.history.last().map(|s| differences(&s.model, found));
            return format!(
                "acknowledged work is lost: the state is that after operation {op}, but \
                 everything up to {acknowledged} was acknowledged as durable:\n    {}",
                lost.unwrap_or_default().join("\n    ")
            );
        }
        let nearest = candidates
            .iter()
            .map(|(op, model)| (differences(model, found), *op))
            .min_by_key(|(words, _)| words.len());
        let (words, op) = nearest.unwrap_or_default();
        format!(
            "the state is none of the {} possible ones (operations {acknowledged} to {}); the \
             nearest is that after {op}:\n    {}",
            candidates.len(),
            self.now,
            words.join("\n    ")
        )
    }

    /// After background work is done, inodes without a name must be gone.
    pub(crate) fn check_counts(&mut self) -> Result<(), Failure> {
        let fs = self.fs()?;
        for _ in 0..MOST_STEPS {
            match fs.step(Work::Reap) {
                Ok(true) => {}
                Ok(false) if fs.tell_held(&|ino| self.model.is_held(ino)) => {}
                Ok(false) => break,
                Err(_) if self.machine.is_dead() => return Ok(()),
                Err(e) => return Err(self.failure(format!("reaping: {e}"))),
            }
        }
        let (counted, bytes) = match fs.inodes().and_then(|n| Ok((n, fs.bytes()?))) {
            Ok(counted) => counted,
            Err(_) if self.machine.is_dead() => return Ok(()),
            Err(e) => return Err(self.failure(format!("space: {e}"))),
        };
        let nameless = self.model.nodes().filter(|(_, n)| n.nlink == 0).count();
        let want = (self.model.visible() + nameless) as u64 + self.hidden_inodes;
        let here = words(self.model.here());
        if self.machine.is_dead() {
            return Ok(());
        }
        if counted != want {
            let what = format!("{here}: {counted} inodes are in use, expected {want}");
            return Err(self.failure(what));
        }
        let sizes = self.model.bytes();
        // A volume that is nearly as large as numbers go is told with as much as fits.
        if sizes < 1 << 62 && bytes != sizes {
            return Err(self.failure(format!("{here}: {bytes} bytes, expected {sizes}")));
        }
        Ok(())
    }
}
