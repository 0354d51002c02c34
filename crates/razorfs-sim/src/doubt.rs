//! Changes that were refused or failed: whether they may have been, and what is there then.

use razorfs::Error;

use crate::driver::{DISK_ERRORS, Failure, Runner, State};
use crate::dump::dump;
use crate::flags::Permission;
use crate::model::{Model, differences};
use crate::op::Op;
use crate::points::{Point, details};
use crate::subject::Machine;

/// Whether a change that is one transaction whatever its size was refused because of that, which
/// depends on the journal's.
fn is_too_large(op: &Op, error: &Error) -> bool {
    let refused = match error {
        Error::Unsupported(_) => true,
        Error::Invalid(why) => why.contains("takes at once"),
        _ => false,
    };
    let is_one = matches!(
        op,
        Op::Transaction { .. } | Op::Collapse { .. } | Op::Insert { .. }
    );
    refused && is_one
}

impl<M: Machine> Runner<M> {
    /// What becomes of a change that was refused for a reason that the model does not know of, or
    /// not for certain: its size, a flag, the limit, the disk.
    pub(crate) fn refused(
        &mut self,
        op: &Op,
        before: &Model,
        e: &Error,
    ) -> Option<Result<(), Failure>> {
        let nameless_source = match op {
            Op::Link { from, .. } => before
                .resolve(from)
                .and_then(|i| before.node(i))
                .is_some_and(|n| n.nlink == 0),
            _ => false,
        };
        let forbidden = before.permission(op) != Permission::Allowed && e.errno() == libc::EPERM;
        if forbidden || (nameless_source && e.errno() == libc::ENOENT) {
            self.model = before.clone();
            self.marks.hit(if forbidden {
                "change forbidden by a flag"
            } else {
                "link of a nameless inode refused"
            });
            return Some(Ok(()));
        }
        if self.is_past(op, before, e) {
            self.model = before.clone();
            self.marks.hit("what was is not to be had any more");
            return Some(self.check_all());
        }
        if is_too_large(op, e) {
            self.model = before.clone();
            self.marks.hit("transaction too large");
            return Some(self.check_all());
        }
        let limited = e.errno() == libc::EDQUOT && self.machine.limit().is_some();
        if limited || (self.faulty && DISK_ERRORS.contains(&e.errno())) {
            self.marks.hit(if limited {
                "change refused by the limit"
            } else {
                "change failed by the disk"
            });
            return Some(self.uncertain(op, before.clone(), e));
        }
        None
    }

    /// A change failed because of the disk: it must have happened wholly or not at all.
    fn uncertain(&mut self, op: &Op, before: Model, e: &Error) -> Result<(), Failure> {
        self.model = before;
        self.latched |= e.errno() != libc::ENOSPC && e.errno() != libc::EDQUOT;
        let found = dump(self.volume()?)
            .map_err(|d| self.failure(format!("after the error \"{e}\" of {op}: {d}")))?;
        // Times are no part of the hash, and may be all that changes.
        let shows =
            |state: &Model| state.hash() == found.hash() && details(state, &found).is_empty();
        let shows_nothing = shows(&self.model) && self.nameless_agree(&self.model)?;
        let fresh = Self::made(&self.model, op, &found);
        let mut done = self.model.clone();
        let is_possible = done
            .apply_unanswered(op, fresh.unwrap_or(self.next_ino()))
            .is_ok()
            && shows(&done)
            && self.nameless_agree(&done)?;
        if shows_nothing {
            if is_possible {
                self.model.blur(&done);
            }
            return self.may_show_later(op);
        }
        if is_possible {
            self.marks.hit("change failed and yet happened");
            done.learn_names(found.points().iter().map(Point::name));
            let before = std::mem::replace(&mut self.model, done);
            if op.goes_on_elsewhere() {
                self.rolled_back(&before);
            }
            // Visible, and perhaps not durable: its error is no acknowledgement.
            self.history.push(State {
                op: self.now,
                model: self.model.clone(),
            });
            return Ok(());
        }
        let words = differences(&self.model, &found).join("\n    ");
        Err(self.failure(format!("\"{e}\" left the change half done:\n    {words}")))
    }
}
