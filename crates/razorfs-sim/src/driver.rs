//! Runs operations on a file system and on the model side by side. Every answer is compared; the
//! states since the last acknowledged sync are kept, because after a cut the volume must be in
//! one of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use razorfs::{Error, Ino};

use crate::dump::{dump, nameless_agree};
use crate::left::{Left, Look};
use crate::looks::{self, expect};
use crate::marks::Marks;
use crate::mirror::Mirror;
use crate::model::{Model, differences};
use crate::moments::Moment;
use crate::op::{Fault, Op};
use crate::points::details;
use crate::posix::Answer;
use crate::subject::{FileSystem, Machine};

/// What went wrong.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which operation of the run showed it.
    pub at: usize,
    /// What it is.
    pub what: String,
}

#[derive(Clone)]
pub(crate) struct State {
    /// The operation that led to it.
    pub(crate) op: usize,
    pub(crate) model: Model,
}

/// A run in progress.
pub struct Runner<M: Machine> {
    pub(crate) machine: M,
    /// The head.
    pub(crate) fs: Option<M::Fs>,
    /// The branches that are open.
    pub(crate) branches: BTreeMap<u8, M::Fs>,
    pub(crate) model: Model,
    /// The states that a cut may lead to, oldest first; the first is the last that was
    /// acknowledged as durable.
    pub(crate) history: Vec<State>,
    /// Hashes of states before that, to tell a lost acknowledgement from garbage.
    pub(crate) outdated: Vec<(usize, u64)>,
    acknowledged: Arc<Mutex<Option<usize>>>,
    pub(crate) now: usize,
    /// Number of inodes that the file system counts and nobody sees.
    pub(crate) hidden_inodes: u64,
    /// A fault is planted: errors of the disk are no surprise.
    pub(crate) faulty: bool,
    /// The disk failed a sync: the file system may refuse changes from here to the next open.
    pub(crate) latched: bool,
    /// Whether nothing was acknowledged that the next opening may not show: a process has died, and
    /// the power stayed on.
    pub(crate) died: bool,
    /// It was closed while that happened: then nothing is open any more.
    pub(crate) closing: bool,
    /// How the next cut treats what was not synced, and when the power goes again.
    pub(crate) cut_seed: u64,
    pub(crate) again: Vec<u64>,
    /// The highest inode number that was ever answered, whatever cuts lost.
    given: Ino,
    /// What is open and was there before a rollback.
    pub(crate) left: Left,
    /// The snapshot that is looked at.
    pub(crate) look: Option<Look<M::Fs>>,
    /// The volume that snapshots are sent to.
    pub(crate) mirror: Option<Mirror<M>>,
    /// What one can go back to.
    pub(crate) moments: Vec<Moment>,
    /// Number of rollbacks since it was opened.
    pub(crate) rollbacks: u64,
    /// Number of cuts survived.
    pub cuts: u64,
    /// What happened.
    pub marks: Marks,
}

/// Error numbers that a failing disk explains.
pub(crate) const DISK_ERRORS: [i32; 4] = [libc::EIO, libc::ENOSPC, libc::EROFS, libc::EDQUOT];

impl<M: Machine> Runner<M> {
    /// Makes a volume on the machine and opens it.
    pub fn start(mut machine: M) -> Result<Self, Failure> {
        let fail = |what: &str, e: Error| Failure {
            at: 0,
            what: format!("{what}: {e}"),
        };
        machine
            .format()
            .map_err(|e| fail("creating the volume", e))?;
        let fs = machine
            .open()
            .map_err(|e| fail("opening the new volume", e))?;
        let model = Model::default();
        let counted = fs.inodes().map_err(|e| fail("space", e))?;
        let found = dump(&fs).map_err(|e| Failure {
            at: 0,
            what: e.to_string(),
        })?;
        let hidden = counted.saturating_sub(model.visible() as u64);
        let mut runner = Self::of(machine, fs, model, hidden);
        // The owner and the mode of a new root are the volume's choice.
        if let Some(root) = found.node(Ino::ROOT) {
            runner.model.update(Ino::ROOT, |n| {
                (n.perm, n.uid, n.gid) = (root.perm, root.uid, root.gid);
            });
        }
        runner.compare(&found)?;
        runner.everything_durable();
        Ok(runner)
    }

    fn of(machine: M, fs: M::Fs, model: Model, hidden_inodes: u64) -> Self {
        Self {
            machine,
            fs: Some(fs),
            branches: BTreeMap::new(),
            history: Vec::new(),
            outdated: Vec::new(),
            acknowledged: Arc::default(),
            now: 0,
            hidden_inodes,
            faulty: false,
            latched: false,
            died: false,
            closing: false,
            cut_seed: 0,
            again: Vec::new(),
            given: Ino(0),
            left: Left::default(),
            look: None,
            mirror: None,
            moments: Vec::new(),
            rollbacks: 0,
            cuts: 0,
            marks: Marks::default(),
            model,
        }
    }

    /// Goes on with a volume that was opened and found to be in this state; its disk is not to be
    /// trusted.
    pub(crate) fn resume(machine: M, fs: M::Fs, model: Model) -> Result<Self, Failure> {
        let mut runner = Self::of(machine, fs, model.at_home(), 0);
        runner.faulty = true;
        runner.everything_durable();
        Ok(runner)
    }

    /// The model as it is now: workloads look at it to ask for what exists.
    #[must_use]
    pub const fn model(&self) -> &Model {
        &self.model
    }

    /// The machine.
    #[must_use]
    pub const fn machine(&self) -> &M {
        &self.machine
    }

    /// Gives the machine back, with the volume cut off, not closed.
    #[must_use]
    pub fn into_machine(mut self) -> M {
        self.machine.arm(0);
        self.forget_what_was_left();
        drop(self.fs.take());
        self.machine
    }

    /// Whether nothing but a new open helps: changes are refused.
    #[must_use]
    pub const fn is_latched(&self) -> bool {
        self.latched
    }

    pub(crate) fn failure(&self, what: impl Into<String>) -> Failure {
        Failure {
            at: self.now,
            what: what.into(),
        }
    }

    /// Whether a fault is planted.
    pub(crate) const fn is_faulty(&self) -> bool {
        self.faulty
    }

    /// The branch that the run is in.
    pub(crate) fn fs(&self) -> Result<&M::Fs, Failure> {
        match self.model.here() {
            None => self.volume(),
            Some(n) => self
                .branches
                .get(&n)
                .ok_or_else(|| self.failure("the branch is not open")),
        }
    }

    /// The head.
    pub(crate) fn volume(&self) -> Result<&M::Fs, Failure> {
        self.fs
            .as_ref()
            .ok_or_else(|| self.failure("the volume is not open"))
    }

    /// Performs one operation and checks all that can be checked.
    pub fn run(&mut self, op: &Op) -> Result<(), Failure> {
        self.now += 1;
        if op.changes() {
            if self.model.can_ask(op) && !self.lacks_moment(op) {
                self.change(op)?;
            }
        } else {
            match op {
                Op::Sync | Op::Checkpoint | Op::SyncThen => self.sync(op)?,
                Op::Step(work) => match self.fs()?.step(*work) {
                    Ok(true) => self.marks.hit(&format!("step {work:?} did something")),
                    Ok(false) => {}
                    Err(e) => self.disk_failed(op, &e)?,
                },
                Op::CheckAll => {
                    self.check_all()?;
                    self.check_left()?;
                }
                Op::View(which) => self.look_at(*which)?,
                Op::Go { to, closes } => self.go(*to, *closes)?,
                Op::Carry {
                    which,
                    force,
                    ending,
                    seed,
                } => self.carry(*which, *force, ending, *seed)?,
                Op::Reopen | Op::Cut { .. } if !self.machine.is_persistent() => {}
                Op::Reopen => self.reopen()?,
                Op::Cut { calls, seed, again } => self.cut(*calls, *seed, again)?,
                Op::Fault(fault) => self.plant(*fault),
                Op::Open { slot, who } => {
                    if let Some(ino) = self.model.resolve(who) {
                        self.fs()?.pin(ino);
                        self.replace_slot(*slot, Some(ino))?;
                    }
                }
                Op::Close(slot) => self.replace_slot(*slot, None)?,
                _ => {
                    if self.model.can_ask(op) {
                        let fs = match self.model.here() {
                            None => self.fs.as_ref(),
                            Some(n) => self.branches.get(&n),
                        };
                        let checked = fs.map_or(Ok(()), |fs| looks::look(fs, &mut self.model, op));
                        if !self.machine.is_dead() {
                            checked.map_err(|e| self.failure(e))?;
                        }
                    }
                }
            }
        }
        self.collect_acknowledgements();
        if self.machine.is_dead() {
            self.crash()?;
        }
        Ok(())
    }

    fn plant(&mut self, fault: Fault) {
        self.machine.fault(fault);
        self.faulty |= fault != Fault::None;
    }

    pub(crate) fn replace_slot(&mut self, slot: u8, ino: Option<Ino>) -> Result<(), Failure> {
        self.close_left(slot)?;
        if let Some(old) = self.model.set_slot(slot, ino) {
            self.fs()?.unpin(old);
        }
        Ok(())
    }

    fn change(&mut self, op: &Op) -> Result<(), Failure> {
        let (found, safety) = self.ask(op)?;
        let before = self.model.clone();
        let (fresh, most) = match &found {
            Ok(Answer::Inode(ino)) => (*ino, u64::MAX),
            Ok(Answer::Number(n)) => (self.next_ino(), *n),
            _ => (self.next_ino(), u64::MAX),
        };
        // What is in the slot now is let go only after the operation.
        let slot_before = match op {
            Op::Unnamed { slot, .. } => before.slot(*slot),
            _ => None,
        };
        let expected = self.model.apply(op, fresh, most);
        if let (Some(name), Ok(_)) = (&safety, &expected) {
            self.model.learn_safety(name);
        }
        if self.machine.is_dead() {
            return self.change_at_death(op, before, &found, expected.is_ok());
        }
        if let Err(e) = &found
            && let Some(done) = self.refused(op, &before, e)
        {
            return done;
        }
        let answered = expect(found, expected).map_err(|e| self.failure(e))?;
        let Some((found, expected)) = answered else {
            self.marks.hit(&format!("{} refused", op.word()));
            return Ok(());
        };
        self.marks.hit(&op.word());
        self.check_limit(&before)?;
        if op.is_of_points() {
            return self.points_changed(op, &before, found);
        }
        if let Op::Transaction { sync, .. } = op {
            return self.transaction_done(found, *sync);
        }
        if found != expected {
            return Err(self.failure(format!("answered {found:?}, expected {expected:?}")));
        }
        if matches!(op, Op::Create { .. } | Op::Unnamed { .. }) {
            if fresh <= self.given.max(before.highest()) {
                return Err(self.failure(format!("inode number {fresh} was given before")));
            }
            self.given = fresh;
        }
        if let Op::Copy { len, .. } = op {
            let most = before.clone().apply(op, fresh, u64::MAX);
            if found == Answer::Number(0) && *len > 0 && most != Ok(Answer::Number(0)) {
                return Err(self.failure("copied nothing"));
            }
        }
        if let Some(old) = slot_before {
            self.fs()?.unpin(old);
        }
        if let Op::Unnamed { slot, .. } = op {
            self.close_left(*slot)?;
        }
        self.remember();
        Ok(())
    }

    /// Nothing grows beyond the limit.
    fn check_limit(&self, before: &Model) -> Result<(), Failure> {
        match self.machine.limit() {
            Some(limit) if self.model.bytes() > limit.max(before.bytes()) => {
                let bytes = self.model.bytes();
                Err(self.failure(format!("{bytes} bytes, where the limit is {limit}")))
            }
            _ => Ok(()),
        }
    }

    fn transaction_done(&mut self, found: Answer, sync: bool) -> Result<(), Failure> {
        if let Answer::Inode(first) = found {
            if first <= self.given {
                return Err(self.failure(format!("inode number {first} was given before")));
            }
            self.given = first;
        }
        self.remember();
        if sync {
            self.acknowledge(self.now);
        }
        Ok(())
    }

    /// The number of the first inode that a change made, as a state shows it.
    pub(crate) fn made(before: &Model, op: &Op, found: &Model) -> Option<Ino> {
        let found = &found.seen_from(before.here());
        match op {
            Op::Create { at, .. } => found.child(before.resolve(&at.dir)?, at.name),
            Op::Transaction { steps, .. } => before.first_made(steps, found),
            _ => None,
        }
    }

    pub(crate) fn next_ino(&self) -> Ino {
        Ino(self.model.highest().0.saturating_add(1).max(Ino::FIRST.0))
    }

    /// The state after the current operation is one that a cut may lead to.
    pub(crate) fn remember(&mut self) {
        self.history.push(State {
            op: self.now,
            model: self.model.clone(),
        });
        if self.machine.is_synchronous() && !self.machine.is_dead() {
            self.acknowledge(self.now);
        }
    }

    fn change_at_death(
        &mut self,
        op: &Op,
        before: Model,
        found: &Result<Answer, Error>,
        possible: bool,
    ) -> Result<(), Failure> {
        self.marks.hit("power went during a change");
        if possible {
            // It may have become durable or not, whatever it answered. Its state counts, but with
            // the inode number that recovery will show where no answer told one.
            if let Op::Merge { from, .. } = op {
                self.model.doubt_merge(*from);
            }
            self.history.push(State {
                op: self.now,
                model: self.model.clone(),
            });
        }
        let again = if found.is_err() {
            Some((before, op.clone()))
        } else {
            None
        };
        self.crash_with(again)
    }

    /// Whether what is held open and has no name is as a state says.
    pub(crate) fn nameless_agree(&self, state: &Model) -> Result<bool, Failure> {
        nameless_agree(self.fs()?, state).map_err(|d| self.failure(d.to_string()))
    }

    fn sync(&mut self, op: &Op) -> Result<(), Failure> {
        let fs = self.fs()?;
        let result = match op {
            Op::Sync => fs.sync(),
            Op::Checkpoint => fs.checkpoint(),
            _ => {
                let (cell, now) = (Arc::clone(&self.acknowledged), self.now);
                fs.sync_then(Box::new(move |result| {
                    if result.is_ok()
                        && let Ok(mut cell) = cell.lock()
                    {
                        *cell = Some(cell.map_or(now, |old| old.max(now)));
                    }
                }));
                return Ok(());
            }
        };
        match result {
            Ok(()) => {
                self.acknowledge(self.now);
                self.note_moment();
                Ok(())
            }
            Err(e) => self.disk_failed(op, &e),
        }
    }

    /// Something other than a change failed: it may, if the disk did.
    fn disk_failed(&mut self, op: &Op, e: &Error) -> Result<(), Failure> {
        if self.machine.is_dead() {
            return Ok(());
        }
        if self.faulty && DISK_ERRORS.contains(&e.errno()) {
            self.marks.hit(&format!("{} failed by the disk", op.word()));
            self.latched |= e.errno() != libc::ENOSPC && e.errno() != libc::EDQUOT;
            return Ok(());
        }
        Err(self.failure(format!("{op}: {e}")))
    }

    pub(crate) fn collect_acknowledgements(&mut self) {
        let acknowledged = match self.acknowledged.lock() {
            Ok(mut cell) => cell.take(),
            Err(_) => None,
        };
        if let Some(op) = acknowledged {
            self.marks.hit("sync acknowledged later");
            self.acknowledge(op);
        }
    }

    /// Everything up to operation `op` is durable.
    pub(crate) fn acknowledge(&mut self, op: usize) {
        let keep = self.history.iter().rposition(|s| s.op <= op).unwrap_or(0);
        let gone = self.history.drain(..keep).map(|s| (s.op, s.model.hash()));
        self.outdated.extend(gone);
    }

    /// The present state, and only it, is what a cut may lead to.
    pub(crate) fn everything_durable(&mut self) {
        let gone = self.history.drain(..).map(|s| (s.op, s.model.hash()));
        self.outdated.extend(gone);
        self.history.push(State {
            op: self.now,
            model: self.model.clone(),
        });
    }

    pub(crate) fn compare(&self, found: &Model) -> Result<(), Failure> {
        let mut words = Vec::new();
        if self.model.hash() != found.hash() {
            words = differences(&self.model, found);
            words.insert(0, "another state than the model:".into());
        }
        words.extend(details(&self.model, found));
        if words.is_empty() {
            Ok(())
        } else {
            Err(self.failure(words.join("\n    ")))
        }
    }

    pub(crate) fn check_all(&mut self) -> Result<(), Failure> {
        let found = dump(self.volume()?);
        if self.machine.is_dead() {
            return Ok(());
        }
        let found = found.map_err(|e| self.failure(e.to_string()))?;
        self.compare(&found)
    }

    fn reopen(&mut self) -> Result<(), Failure> {
        self.check_left()?;
        self.forget_what_was_left();
        let Some(fs) = self.fs.take() else {
            return Err(self.failure("the volume is not open"));
        };
        let closed = fs.close();
        self.closing = true;
        if self.machine.is_dead() {
            return self.crash();
        }
        if let Err(e) = closed {
            if self.faulty {
                self.marks.hit("close failed by the disk");
                return self.crash();
            }
            return Err(self.failure(format!("close: {e}")));
        }
        self.collect_acknowledgements();
        self.marks.hit("clean close");
        self.model.close_all();
        self.model.go(None);
        self.everything_durable();
        self.machine.rest();
        self.machine
            .verify()
            .map_err(|e| self.failure(format!("verify after close: {e}")))?;
        match self.machine.open() {
            Ok(fs) => self.fs = Some(fs),
            Err(_) if self.machine.is_dead() => return self.crash(),
            Err(e) if self.faulty && DISK_ERRORS.contains(&e.errno()) => return self.crash(),
            Err(e) => return Err(self.failure(format!("open after close: {e}"))),
        }
        self.latched = false;
        self.closing = false;
        if let Some(why) = self.fs()?.degraded() {
            return Err(self.failure(format!("read-only after a clean close: {why}")));
        }
        self.check_all()?;
        self.check_counts()
    }

    /// Forgets the faults: the disk is whole again.
    pub(crate) fn healthy(&mut self) {
        self.machine.fault(Fault::None);
        self.faulty = false;
        self.latched = false;
    }
}
