//! Commits of branches in a run.

use razorfs::Error;

use crate::branches::Place;
use crate::driver::{Failure, Runner};
use crate::merges::{self, told_right};
use crate::posix::Answer;
use crate::subject::{FileSystem, Machine, Merge};

impl<M: Machine> Runner<M> {
    /// Asks the file system to commit a branch to where the run is.
    pub(crate) fn ask_merge(
        &mut self,
        from: Place,
        force: bool,
    ) -> Result<(Result<Answer, Error>, Option<String>), Failure> {
        let plan = self.model.plan(from, force);
        let plan = plan.ok_or_else(|| self.failure("nobody knows what the commit comes to"))?;
        if let Ok(tree) = &plan.tree {
            self.close_but(tree)?;
        }
        let theirs = match from {
            Some(n) if !self.open_branch(n)? => return Ok((Err(Error::NotFound), None)),
            Some(n) => self.branches.get(&n),
            None => self.fs.as_ref(),
        };
        let theirs = theirs.ok_or_else(|| self.failure("the branch is not open"))?;
        let merged = match self.fs()?.commit(theirs, force) {
            Ok(merged) => merged,
            Err(e) => return Ok((Err(e), None)),
        };
        if plan.is_again {
            self.marks.hit("commit of what was committed before");
        }
        Ok(match (merged, &plan.tree) {
            (Merge::Nothing, _) => (Ok(Answer::Number(merges::NOTHING)), None),
            (Merge::Done(safety), _) => (Ok(Answer::Number(merges::DONE)), Some(safety)),
            (Merge::Conflicts(told), Err(clashes)) => {
                told_right(&told, clashes).map_err(|e| self.failure(e))?;
                (Ok(Answer::Number(merges::CONFLICTS)), None)
            }
            (Merge::Conflicts(told), Ok(_)) => {
                return Err(self.failure(format!("conflicts {told:?}, where there are none")));
            }
        })
    }

    /// Whether a commit was done.
    pub(crate) fn has_merged(&mut self, from: Place, found: Answer) -> bool {
        self.marks.hit(match found {
            Answer::Number(merges::NOTHING) => "commit of nothing",
            Answer::Number(merges::CONFLICTS) => "commit with conflicts",
            _ => "commit done",
        });
        if found != Answer::Number(merges::DONE) {
            return false;
        }
        if self.is_faulty() {
            // What is remembered of it was not to be had, perhaps.
            self.model.doubt_merge(from);
        }
        true
    }
}
