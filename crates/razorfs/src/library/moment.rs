//! The volume at any moment that the journal and the snapshots know.

use std::sync::Arc;

use super::Snapshot;
use crate::namespace::check_name;
use crate::{Reached, Result, Volume, When};

/// What the names of the snapshots begin with that [`Volume::restore`] takes.
pub const BEFORE_RESTORE: &str = "before-restore-";

/// Moments.
impl Volume {
    /// The volume, or this branch of it, as it was at a moment, for reading. A moment is the end of
    /// a batch of the journal: a state that a crash could have left. What was written before the
    /// call, and is not durable yet, is no part of any.
    ///
    /// There is such a state where the journal is whole from a snapshot on, or from the first
    /// operation on; else this fails with [`crate::Error::NoMoment`]. The journal is a ring, so
    /// that is about what was written since the last two checkpoints, and up to the size of the
    /// journal. Data that were overwritten after the snapshot before that moment may be gone, which
    /// reading them tells with [`crate::Error::Overwritten`]; names, attributes and what is stored
    /// in the journal itself are there. The time it takes grows with what was done since the
    /// snapshot, and so does the memory, up to a few times the size of the journal.
    pub fn at_moment(&self, when: When) -> Result<Self> {
        let inner = Arc::new(self.inner.moment(when)?);
        Ok(Self { inner })
    }

    /// The moment that this shows, if it came from [`Volume::at_moment`].
    #[must_use]
    pub fn moment(&self) -> Option<Reached> {
        self.inner.store.replayed().map(|replayed| replayed.reached)
    }

    /// Keeps what the volume, or this branch, was at a moment as a snapshot, as if it had been
    /// taken then; names are as for [`Volume::snapshot`]. It is on the disk when this returns. Time
    /// and space grow with what was done between the snapshot before that moment and the moment:
    /// its data are written anew.
    ///
    /// Fails as [`Volume::at_moment`] does, also where there is no snapshot before the moment, or
    /// data are gone; there is none then.
    pub fn snapshot_at(&self, name: impl AsRef<str>, when: When) -> Result<Snapshot> {
        check_name(name.as_ref())?;
        let taken = self.inner.snapshot_at(when, name.as_ref())?;
        Ok(Snapshot::of(&taken))
    }

    /// Takes the volume, or this branch, back to a moment in place, and answers a snapshot of what
    /// it was until now. It happens as a whole or not at all, and all of it is on the disk when
    /// this returns. The time it takes grows with what was done between the snapshot before that
    /// moment and the moment. Open files go on as after [`Volume::rollback`].
    ///
    /// Fails as [`Volume::snapshot_at`] does; nothing has changed then.
    pub fn restore(&self, when: When) -> Result<Snapshot> {
        let safety = self.safety_name(BEFORE_RESTORE);
        let taken = self.inner.restore(when, &safety)?;
        Ok(Snapshot::of(&taken))
    }
}
