//! Snapshots in a run: going back to one, what is open then and is not there any more, and looks
//! at a snapshot that outlast its deletion.

use razorfs::{Error, FileKind, Ino};

use crate::driver::{Failure, Runner, State};
use crate::dump::dump_tree;
use crate::looks::{check_stat, read};
use crate::model::{Model, Node, differences, time_differences};
use crate::op::{Op, SLOTS};
use crate::perform;
use crate::points::Which;
use crate::posix::Answer;
use crate::subject::{FileSystem, Machine};

/// Rollbacks after which nothing is said of what the first of them left.
const ROLLBACKS: u64 = 8;
/// Most bytes that are read of a file that a rollback left.
const MOST: u64 = 1 << 20;

/// The mark of a change of the snapshots that failed, and is on the disk perhaps.
pub(crate) const MAY_SHOW: &str = "a change of the snapshots failed, and may show later";

/// What is open and was there before a rollback, by its slot.
pub(crate) type Left = [Option<(Ino, Node)>; SLOTS as usize];

/// A look at a snapshot.
pub(crate) struct Look<F> {
    fs: F,
    name: String,
    /// What it shows.
    state: Model,
}

impl<M: Machine> Runner<M> {
    /// Asks the file system for what a changing operation says. A rollback answers the name of the
    /// snapshot that it took.
    pub(crate) fn ask(
        &mut self,
        op: &Op,
    ) -> Result<(Result<Answer, Error>, Option<String>), Failure> {
        if matches!(op, Op::Delete(Which::Safety(_))) {
            // What they are read from may be what goes.
            for slot in 0..SLOTS {
                self.close_left(slot)?;
            }
        }
        self.let_go_of(op);
        if let Op::Merge { from, force } = op {
            return self.ask_merge(*from, *force);
        }
        if matches!(op, Op::Restore(_) | Op::TakeThen { .. }) {
            return self.ask_moment(op);
        }
        let Op::Rollback(which) = op else {
            return Ok((perform::change(self.fs()?, &self.model, op), None));
        };
        self.close_what_is_unclear(*which)?;
        let name = self.model.name_of(*which).ok_or(Error::NotFound);
        let fs = self.fs()?;
        Ok(match name.and_then(|name| fs.rollback(&name)) {
            Ok(safety) => (Ok(Answer::Done), Some(safety)),
            Err(e) => (Err(e), None),
        })
    }

    /// Before a rollback, closes what the model cannot tell of afterwards.
    fn close_what_is_unclear(&mut self, to: Which) -> Result<(), Failure> {
        self.rollbacks += 1;
        for slot in 0..SLOTS {
            let open = self.model.slot(slot);
            if open.is_some_and(|ino| self.model.is_unclear_after(to, ino, false)) {
                self.replace_slot(slot, None)?;
            }
            let left = self.left.get(usize::from(slot)).and_then(Option::as_ref);
            let ino = left.map(|(ino, _)| *ino);
            let is_unclear = |ino| self.model.is_unclear_after(to, ino, true);
            if ino.is_some_and(is_unclear) || self.rollbacks >= ROLLBACKS {
                self.close_left(slot)?;
            }
        }
        Ok(())
    }

    /// The snapshots are as the model has them now, and all of that is durable.
    pub(crate) fn points_changed(
        &mut self,
        op: &Op,
        before: &Model,
        found: Answer,
    ) -> Result<(), Failure> {
        if let Op::Merge { from, .. } = op
            && !self.has_merged(*from, found)
        {
            return Ok(());
        }
        self.remember();
        self.acknowledge(self.now);
        self.note_moment();
        if op.goes_on_elsewhere() {
            self.rolled_back(before);
            self.check_all()?;
        }
        Ok(())
    }

    /// Whoever has something open that is not there any more keeps it; what is there again is open
    /// as ever.
    pub(crate) fn rolled_back(&mut self, before: &Model) {
        for (slot, place) in (0..SLOTS).zip(&mut self.left) {
            match place {
                Some((ino, _)) if self.model.node(*ino).is_some() => {
                    self.marks.hit("what a rollback left came back");
                    self.model.set_slot(slot, Some(*ino));
                    *place = None;
                }
                _ => {}
            }
            let Some(ino) = before.slot(slot) else {
                continue;
            };
            if self.model.slot(slot).is_none()
                && let Some(node) = before.node(ino)
            {
                self.marks.hit("a rollback left what was open");
                *place = Some((ino, node.clone()));
            }
        }
    }

    /// A rollback that failed and does not show may be on the disk, where the volume takes no
    /// change any more: then either is possible.
    pub(crate) fn may_show_later(&mut self, op: &Op) -> Result<(), Failure> {
        if !op.is_of_points() || self.volume()?.degraded().is_none() {
            return Ok(());
        }
        let mut done = self.model.clone();
        if done.apply_unanswered(op, self.next_ino()).is_ok() {
            self.marks.hit(MAY_SHOW);
            let op = self.now;
            self.history.push(State { op, model: done });
            let model = self.model.clone();
            self.history.push(State { op, model });
        }
        Ok(())
    }

    /// Closes what a slot has open of before a rollback.
    pub(crate) fn close_left(&mut self, slot: u8) -> Result<(), Failure> {
        let place = self.left.get_mut(usize::from(slot));
        if let Some((ino, node)) = place.and_then(Option::take) {
            self.check_one_left(ino, &node)?;
            self.fs()?.unpin(ino);
        }
        Ok(())
    }

    /// Nothing is open any more, nor looked at, no branch either.
    pub(crate) fn forget_what_was_left(&mut self) {
        self.left = Left::default();
        self.look = None;
        self.rollbacks = 0;
        self.branches.clear();
    }

    /// It can be read as it was, and nothing else.
    fn check_one_left(&self, ino: Ino, node: &Node) -> Result<(), Failure> {
        let fs = self.fs()?;
        let check = || {
            let stat = fs.stat(ino).map_err(|e| format!("stat: {e}"))?;
            check_stat(&stat, ino, node)?;
            if node.kind != FileKind::Regular {
                return Ok(());
            }
            read(fs, ino, node, 0, node.size.min(MOST) as u32)?;
            let tail = node.size.saturating_sub(1000);
            read(fs, ino, node, tail, 2000)?;
            match fs.write(ino, 0, b"too late") {
                Err(Error::RolledBack) => Ok(()),
                Err(_) if self.is_faulty() => Ok(()),
                written => Err(format!("a write answered {written:?}")),
            }
        };
        match check() {
            Err(_) if self.machine.is_dead() => Ok(()),
            Err(e) => Err(self.failure(format!("inode {ino}, left by a rollback: {e}"))),
            Ok(()) => Ok(()),
        }
    }

    /// What is looked at and what rollbacks left is as it was.
    pub(crate) fn check_left(&mut self) -> Result<(), Failure> {
        for (ino, node) in self.left.iter().flatten() {
            self.check_one_left(*ino, node)?;
        }
        if self.look.is_some() {
            self.marks.hit("a look at a snapshot compared");
        }
        match self.look.as_ref().map(check_look) {
            Some(Err(e)) if !self.machine.is_dead() => Err(self.failure(e)),
            _ => Ok(()),
        }
    }

    /// Looks at a snapshot from now on, and not any more at the one before.
    pub(crate) fn look_at(&mut self, which: Which) -> Result<(), Failure> {
        self.check_left()?;
        self.look = None;
        let Some(name) = self.model.name_of(which) else {
            return Ok(());
        };
        let point = self.model.snapshot(which).map(|p| p.state.clone());
        match (self.fs()?.at_snapshot(&name), point) {
            (Ok(fs), Some(state)) => self.look = Some(Look { fs, name, state }),
            (Err(Error::NotFound), None) => {}
            (Err(e), _) => return Err(self.failure(format!("snapshot {name}: {e}"))),
            (Ok(_), None) => return Err(self.failure(format!("snapshot {name} is there"))),
        }
        self.check_left()
    }
}

fn check_look<F: FileSystem>(look: &Look<F>) -> Result<(), String> {
    let told = |what: String| format!("a look at snapshot {}: {what}", look.name);
    let found = dump_tree(&look.fs).map_err(|e| told(e.to_string()))?;
    let mut words = time_differences(&look.state, &found);
    if look.state.hash() != found.hash() {
        words.extend(differences(&look.state, &found));
        words.insert(0, "another state".into());
    }
    match words.is_empty() {
        true => Ok(()),
        false => Err(told(words.join("\n    "))),
    }
}
