//! Who else uses the volume that a program uses.

use razorfs::{Error, Ino, Stale};

/// Why the daemon does not do what a program asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The error number of Linux for it.
    pub errno: i32,
    /// In words.
    pub text: String,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self {
            errno: error.errno(),
            text: error.to_string(),
        }
    }
}

/// What a volume has of its past and beside its present.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A snapshot.
    Snapshot,
    /// A branch.
    Branch,
}

/// A snapshot or a branch that comes or goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moving<'a> {
    /// Which of both.
    pub kind: Kind,
    /// Its name.
    pub name: &'a str,
    /// It goes, and does not come.
    pub goes: bool,
}

/// Who else uses the volume, and remembers names, attributes and data of it.
pub trait Others: Sync {
    /// Whether there may be anybody.
    fn are_there(&self) -> bool;

    /// They forget these. What they have held back of the inodes is handed over when this returns.
    fn forget(&self, stale: &Stale);

    /// Whether somebody has a file open. Its names have been forgotten before.
    fn have_open(&self, ino: Ino) -> bool;

    /// They hand over all that they hold back.
    fn hand_over(&self) -> Result<(), Refusal>;

    /// Does something to the snapshots and branches while nobody else does, unless they use what
    /// goes, and tells them of it.
    fn moving(
        &self,
        what: Moving<'_>,
        work: &mut dyn FnMut() -> Result<(), Refusal>,
    ) -> Result<(), Refusal>;
}

/// A volume that a program has for itself.
pub(crate) struct Nobody;

impl Others for Nobody {
    fn are_there(&self) -> bool {
        false
    }

    fn forget(&self, _stale: &Stale) {}

    fn have_open(&self, _ino: Ino) -> bool {
        false
    }

    fn hand_over(&self) -> Result<(), Refusal> {
        Ok(())
    }

    fn moving(
        &self,
        _what: Moving<'_>,
        work: &mut dyn FnMut() -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        work()
    }
}
