//! What was changed in one branch is done in another one as well.
//!
//! Three states are compared by inode: the one that both go on from, the one that is merged, and
//! the one that it is merged into. Inode numbers are never used twice, in whatever branch, so what
//! is new keeps its number, and hard links, attributes and times are those of the branch. A file
//! that both have changed is a conflict, and so is a name that leads elsewhere in each; of a
//! directory both may have changed the entries.
//!
//! It is done in a branch that nobody sees, in as many transactions as it takes; then the target
//! goes on from there in one operation, as it would go back to a snapshot. Where the target has not
//! changed it goes on from the branch itself, and nothing is copied. So it happens as a whole, and
//! what was before is a snapshot.
//!
//! What was merged once is what the two have in common the next time, as long as the target has it:
//! it stays as a branch that nobody sees ([`Base`]). That it is missing costs nothing but conflicts
//! that are none, so it is made after all else is done.

mod apply;
mod compare;

use std::path::PathBuf;

use razorfs_format::manifest::{ForkMeta, SnapshotMeta};
use razorfs_format::timeline::INTERNAL;
use razorfs_format::{Branch, Epoch, Ino};

use self::compare::Plan;
use super::Namespace;
use crate::marks::{self, Mark};
use crate::store::Store;
use crate::{Error, Result, When};

/// What both have changed, or what cannot be done.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Clash {
    pub path: PathBuf,
    pub why: &'static str,
}

impl Clash {
    /// About a file, where that is if it has a place.
    fn new(path: Option<PathBuf>, ino: Ino, why: &'static str) -> Self {
        let path = path.unwrap_or_else(|| format!("inode {ino}").into());
        Self { path, why }
    }
}

/// What was merged before.
pub(super) struct Base {
    branch: Branch,
    /// That of which branch, into which one.
    pub of: (Branch, Branch),
    /// The target has it if it shows this epoch.
    done: Epoch,
}

/// What the names of such branches begin with.
const BASE: &str = "-base-";

impl Base {
    fn name((from, onto): (Branch, Branch), done: Epoch) -> String {
        format!("{BASE}{from}-{onto}-{done}")
    }

    /// One that a branch stands for, if it does.
    pub fn of(meta: &ForkMeta) -> Option<Self> {
        let name = std::str::from_utf8(&meta.name).ok()?;
        let mut numbers = name.strip_prefix(BASE)?.split('-');
        let (from, onto) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
        let done = numbers.next()?.parse().ok()?;
        Some(Self {
            branch: meta.id,
            of: (Branch(from), Branch(onto)),
            done: Epoch(done),
        })
    }
}

/// What came of it.
pub(crate) enum Merged {
    /// The branch has nothing that the target does not have.
    Nothing,
    /// Nothing was done.
    Clashes(Vec<Clash>),
    /// All of it, and what was before.
    Done(SnapshotMeta),
}

/// How it is done.
pub(crate) struct Order<'a> {
    /// The name of the snapshot of what was before.
    pub safety: &'a str,
    /// This becomes what the branch is, and what was changed here alone is in that snapshot only.
    pub force: bool,
    /// Is told as soon as it can be seen, with what was before; nobody is kept out any more.
    pub seen: &'a mut dyn FnMut(&SnapshotMeta),
}

/// What the target is to go on from.
enum Onto {
    /// Itself: everything was done before.
    Ours,
    /// What is merged.
    Theirs,
    /// The branch that it was done in.
    Scratch,
    Clashes(Vec<Clash>),
}

/// Of what follows once something is done and durable, as a merge or the end of a branch: that it
/// failed would be the wrong answer, and what is left then goes at the next opening.
pub(super) fn or_later<T>(done: Result<T>) -> Option<T> {
    done.inspect_err(
        |e| tracing::warn!(error = %e, "something is left that goes at the next opening"),
    )
    .ok()
}

/// How often it is done anew because the target has changed meanwhile, before everybody waits.
const TRIES: u32 = 3;

impl Namespace {
    /// Does in this what was changed in `branch` since the two parted.
    pub(crate) fn merge(&self, branch: &Self, order: &mut Order<'_>) -> Result<Merged> {
        self.store.check_writable()?;
        let from = branch.store.branch();
        if self.store.branch() == from || branch.store.is_past() {
            return Err(Error::Invalid("a branch is committed to another one"));
        }
        // Nobody can give such a name, and none can be left: what a crash leaves of these goes at
        // the next opening.
        let name = self.hidden_name(&format!("{from}"));
        branch.store.take(name.as_bytes())?;
        let merged = self.merge_from(branch, &name, order);
        let given_up = self.store.give_up(name.as_bytes());
        let merged = merged?;
        match merged {
            Merged::Done(_) => drop(or_later(given_up)),
            Merged::Nothing | Merged::Clashes(_) => drop(given_up?),
        }
        Ok(merged)
    }

    /// A name for what nobody sees. On a host that is full what has failed may have left another
    /// one, which stays until the next opening.
    fn hidden_name(&self, what: &str) -> String {
        format!("{INTERNAL}{what}-{:016x}", self.store.env.random())
    }

    /// Makes this what it was at a moment.
    pub(crate) fn restore(&self, when: When, safety: &str) -> Result<SnapshotMeta> {
        let point = self.hidden_name("restore");
        self.snapshot_at(when, &point)?;
        let done = self.roll_back(&point, safety);
        let given_up = self.store.give_up(point.as_bytes());
        let taken = done?;
        or_later(given_up);
        Ok(taken)
    }

    /// Takes a snapshot of what was at a moment. That is made again in a branch that nobody sees,
    /// of the snapshot before it.
    pub(crate) fn snapshot_at(&self, when: When, name: &str) -> Result<SnapshotMeta> {
        self.store.check_writable()?;
        let past = self.store.moment(when)?;
        let base = past.replayed().and_then(|replayed| replayed.base());
        let base = base.ok_or_else(|| {
            let why = "no snapshot stands before that moment, so it can be read, but not kept";
            Error::NoMoment(why.into())
        })?;
        let scratch = self.hidden_name("at");
        // Where it was given up it has no name to fork it by.
        let again = format!("{scratch}-base");
        let is_gone = base.snapshot.gone;
        let base = match is_gone {
            true => {
                marks::hit(Mark::MomentOfGone);
                self.store.take_again(base, again.as_bytes())?.name
            }
            false => base.snapshot.name.clone(),
        };
        let made = self.make_again(&scratch, &past, &base, name);
        let given_up = is_gone.then(|| self.store.give_up(&base));
        let taken = made?;
        given_up.and_then(or_later);
        Ok(taken)
    }

    /// Takes a snapshot of what was at a moment, which rests on the snapshot `base`.
    fn make_again(
        &self,
        scratch: &str,
        past: &Store,
        base: &[u8],
        name: &str,
    ) -> Result<SnapshotMeta> {
        let fork = self.store.fork(scratch.as_bytes(), Some(base))?;
        let made = self.make_in(fork.id, past, base, name);
        let ended = self.store.end_branch(fork.id);
        let taken = made?;
        or_later(ended);
        Ok(taken)
    }

    /// Does in a branch of `base` what was done from there to a moment, and takes a snapshot of it.
    fn make_in(&self, fork: Branch, past: &Store, base: &[u8], name: &str) -> Result<SnapshotMeta> {
        let base = self.store.snapshot(base)?;
        // What has no name in it stays: it may have got one by then.
        let scratch = Self::over(self.store.open_branch(fork)?, self.family.clone());
        let lost = apply::apply(&scratch, past, &Plan::of(&base, past)?)?;
        if let Some(first) = lost.first() {
            marks::hit(Mark::MomentOverwritten);
            let others = match lost.len() - 1 {
                0 => String::new(),
                n => format!(" (and {n} files more)"),
            };
            let path = first.path.display();
            let why = format!("{path}{others}: {}", Error::Overwritten);
            return Err(Error::NoMoment(why.into()));
        }
        scratch.store.take(name.as_bytes())
    }

    /// What was merged last of a branch, if this has it still, and all that was merged of it.
    fn last_base(&self, of: (Branch, Branch)) -> Result<(Option<Store>, Vec<Branch>)> {
        let all = self.store.internal().0;
        let all: Vec<Base> = all.iter().filter_map(Base::of).collect();
        let all: Vec<Base> = all.into_iter().filter(|base| base.of == of).collect();
        let mut seen = Vec::new();
        for base in &all {
            if self.store.shows(base.done)? {
                seen.push((base.done, base.branch));
            }
        }
        let last = seen.into_iter().max();
        let store = last.map(|(_, branch)| self.store.open_branch(branch));
        let others = all.into_iter().map(|base| base.branch).collect();
        Ok((store.transpose()?, others))
    }

    fn merge_from(&self, branch: &Self, from: &str, order: &mut Order<'_>) -> Result<Merged> {
        let of = (branch.store.branch(), self.store.branch());
        let theirs = self.store.snapshot(from.as_bytes())?;
        let (last, old) = self.last_base(of)?;
        let base = match last {
            Some(base) => {
                marks::hit(Mark::MergeAgain);
                base
            }
            None => self.store.parting(&branch.store)?,
        };
        if !compare::differ(&base, &theirs)? {
            return Ok(Merged::Nothing);
        }
        let (merged, done) = self.try_merge(&base, &theirs, from, order)?;
        drop(base);
        if let Merged::Done(_) = merged {
            or_later(self.remember(of, done, from, &old));
        }
        Ok(merged)
    }

    /// What was merged last is from here on what stands at `from`, and no longer any of `old`.
    fn remember(
        &self,
        of: (Branch, Branch),
        done: Option<Epoch>,
        from: &str,
        old: &[Branch],
    ) -> Result<()> {
        for ino in self.store.orphans()? {
            self.pins.enqueue(ino);
        }
        if let Some(done) = done {
            let name = Base::name(of, done);
            self.store.fork(name.as_bytes(), Some(from.as_bytes()))?;
        }
        for base in old {
            self.store.end_branch(*base)?;
        }
        Ok(())
    }

    /// Merges until nothing has changed here meanwhile. Answers the epoch too that shows that it
    /// was done, unless that follows from where the two part.
    fn try_merge(
        &self,
        base: &Store,
        theirs: &Store,
        from: &str,
        order: &mut Order<'_>,
    ) -> Result<(Merged, Option<Epoch>)> {
        for attempt in 1.. {
            let locks = (attempt > TRIES).then(|| (self.renames.lock(), self.locks.lock_all()));
            let name = format!("{from}-{attempt}");
            let scratch = self.store.fork(name.as_bytes(), None)?;
            let scratch = Self::of(self.store.open_branch(scratch.id)?, self.family.clone())?;
            let merged = self.merge_in(&scratch, base, theirs, (from, &name), order.force);
            let done = match &merged {
                Ok((Onto::Clashes(_) | Onto::Ours, _)) | Err(_) => Ok(None),
                Ok((_, point)) => {
                    let _locks =
                        locks.unwrap_or_else(|| (self.renames.lock(), self.locks.lock_all()));
                    self.go_on_from(&scratch, point, order.safety)
                }
            };
            if let Ok(Some(taken)) = &done {
                // Before what is left is put away, which takes its time.
                (order.seen)(taken);
            }
            let id = scratch.store.branch();
            drop(scratch);
            let ended = self.store.end_branch(id);
            if let Ok(Some(taken)) = done {
                or_later(ended);
                let point = match merged {
                    Ok((Onto::Scratch, point)) => or_later(self.store.give_up(point.as_bytes())),
                    _ => None,
                };
                return Ok((Merged::Done(taken), point.map(|point| point.epoch)));
            }
            ended?;
            match merged? {
                (Onto::Clashes(clashes), _) => return Ok((Merged::Clashes(clashes), None)),
                (Onto::Ours, _) => return Ok((Merged::Nothing, None)),
                (Onto::Theirs, _) => {}
                (Onto::Scratch, point) => drop(self.store.give_up(point.as_bytes())?),
            }
            done?;
        }
        unreachable!("with everybody kept out nothing changes meanwhile")
    }

    /// Merges in a branch that nobody sees. Answers what to go on from, and the snapshot of that.
    fn merge_in(
        &self,
        scratch: &Self,
        base: &Store,
        theirs: &Store,
        (from, name): (&str, &str),
        force: bool,
    ) -> Result<(Onto, String)> {
        let ours = &scratch.store;
        if force || !compare::differ(base, ours)? {
            marks::hit(Mark::MergeTheirs);
            return Ok((Onto::Theirs, from.to_owned()));
        }
        let plan = match compare::compare(base, theirs, ours)? {
            Ok(plan) => plan,
            Err(clashes) => {
                marks::hit(Mark::MergeClashes);
                return Ok((Onto::Clashes(clashes), String::new()));
            }
        };
        if plan.theirs.is_empty() {
            return Ok((Onto::Ours, String::new()));
        }
        let mut clashes = apply::apply(scratch, theirs, &plan)?;
        let circles = apply::circles(scratch, base, &plan)?;
        if !circles.is_empty() {
            marks::hit(Mark::MergeCircle);
        }
        clashes.extend(circles);
        if !clashes.is_empty() {
            return Ok((Onto::Clashes(clashes), String::new()));
        }
        marks::hit(Mark::MergeDone);
        let point = format!("{name}-done");
        scratch.store.take(point.as_bytes())?;
        Ok((Onto::Scratch, point))
    }

    /// Goes on from a snapshot, unless this has changed since `scratch` was forked from it. The
    /// caller keeps everybody out.
    fn go_on_from(
        &self,
        scratch: &Self,
        point: &str,
        safety: &str,
    ) -> Result<Option<SnapshotMeta>> {
        let before = self.store.parting(&scratch.store)?;
        if compare::differ(&before, &self.store)? {
            return Ok(None);
        }
        let taken = self.store.go_back(point.as_bytes(), safety.as_bytes())?;
        self.dentries.forget_all();
        Ok(Some(taken))
    }
}
