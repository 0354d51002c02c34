//! Branches in a run: going from one to another, and what of each is open.

use razorfs::Error;

use crate::branches::{self, Place};
use crate::driver::{Failure, Runner};
use crate::dump::nameless_agree;
use crate::model::Model;
use crate::op::{Op, SLOTS};
use crate::subject::{FileSystem, Machine};

impl<M: Machine> Runner<M> {
    /// What follows is done in another branch. The one that is left stays open, with what is open
    /// in it, unless it `closes`.
    pub(crate) fn go(&mut self, to: Place, closes: bool) -> Result<(), Failure> {
        let from = self.model.here();
        if to == from {
            return Ok(());
        }
        for slot in 0..SLOTS {
            self.close_left(slot)?;
        }
        if let Some(n) = to {
            match self.open_branch(n)? {
                true if self.model.has_branch(n) => {}
                true => return Err(self.failure(format!("branch {n} is there"))),
                false => return Ok(()),
            }
        }
        self.model.go(to);
        self.marks.hit("went to another branch");
        if let (true, Some(n)) = (closes, from) {
            self.close_branch(n);
        }
        match self.is_faulty() {
            true => Ok(()),
            false => self.check_counts(),
        }
    }

    /// Opens a branch; answers whether it is open.
    pub(crate) fn open_branch(&mut self, n: u8) -> Result<bool, Failure> {
        if self.branches.contains_key(&n) {
            return Ok(true);
        }
        match self.volume()?.branch(&branches::name(n)) {
            Ok(fs) => {
                self.branches.insert(n, fs);
                Ok(true)
            }
            Err(_) if self.machine.is_dead() => Ok(false),
            Err(Error::NotFound) if !self.model.has_branch(n) => Ok(false),
            Err(e) => Err(self.failure(format!("opening branch {n}: {e}"))),
        }
    }

    /// Closes a branch in which the run is not, and all that is open in it.
    fn close_branch(&mut self, n: u8) {
        if self.branches.remove(&n).is_some() {
            self.model.close_other(Some(n));
        }
    }

    /// Before a branch is deleted nobody has it open, but for a run that is in it.
    pub(crate) fn let_go_of(&mut self, op: &Op) {
        if let Op::Prune(n) = op
            && self.model.here() != Some(*n)
        {
            self.close_branch(*n);
        }
    }

    /// After background work is done, inodes without a name must be gone in each branch.
    pub(crate) fn check_branches(&mut self) -> Result<(), Failure> {
        for n in self.model.branches() {
            if !self.open_branch(n)? {
                return Ok(());
            }
            self.model.go(Some(n));
            let checked = self.check_counts();
            self.model.go(None);
            self.branches.remove(&n);
            checked?;
        }
        Ok(())
    }

    /// Whether what is held open in any branch and has no name is as a state says.
    pub(crate) fn nameless_agree_in_all(&self, state: &Model) -> Result<bool, Failure> {
        let home = state.at_home();
        let told = |e: &dyn std::fmt::Display| self.failure(e.to_string());
        let volume = self.volume()?;
        if !nameless_agree(volume, &home).map_err(|e| told(&e))? {
            return Ok(false);
        }
        for n in home.branches() {
            let Some(tree) = home.other(Some(n)) else {
                continue;
            };
            if tree.nodes().all(|(_, node)| node.nlink > 0) {
                continue;
            }
            let fs = volume.branch(&branches::name(n)).map_err(|e| told(&e))?;
            if !nameless_agree(&fs, tree).map_err(|e| told(&e))? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
