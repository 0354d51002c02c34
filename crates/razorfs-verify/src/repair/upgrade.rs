//! A volume of an older version, written in the newest one: a repair of a volume that is whole.
//!
//! The order of its writes is that of a repair, and so is what a crash leaves: the old volume or
//! the new one. Data stay where they are. The files of metadata and the journal of the old version
//! stay in `quarantine`, until somebody has looked at the new one. At last the features are set: a
//! crash before that leaves a volume of the old version, and all is done once more.

use razorfs_disk::Disk;
use razorfs_format::superblock::NEWEST_INCOMPAT;
use razorfs_format::superblock::names::Set;

use super::{Commit, Done, Outcome, RepairError, RepairOptions, Volume, candidates};
use crate::session::Session;
use crate::{LEVEL_MAX, Progress};

/// Whether the volume is of an older version, which `out` then tells. A damaged one is refused: it
/// would be repaired, and what is lost by that is not for a migration to decide.
pub fn is_due(disk: &dyn Disk, step: &mut dyn FnMut(Progress), out: &mut Outcome) -> Done<bool> {
    if out.needed || out.healed > 0 {
        let why = "it is damaged; `razorfs repair` it first";
        return Err(RepairError::Refused(why.into()));
    }
    let mut s = Session::new(disk, LEVEL_MAX, step);
    let slots = candidates::superblocks(&mut s);
    let Some(newest) = slots.first() else {
        return Ok(false);
    };
    let missing = NEWEST_INCOMPAT & !newest.features.incompat;
    out.missing = newest.names.of(Set::Incompat, missing);
    Ok(missing != 0)
}

/// Refuses a migration of what the newest version would show otherwise.
pub(super) fn prepare(options: &RepairOptions, volume: &Volume) -> Done<()> {
    if options.upgrade && !volume.source.replay.forks.is_empty() {
        let why = "it has branches, which would become snapshots; `razorfs commit` or `razorfs \
                   branch delete` them first";
        return Err(RepairError::Refused(why.into()));
    }
    Ok(())
}

/// Has the volume say that it is of the newest version, if that is asked for: two generations more,
/// now that nothing of the old one is left where it is looked for. Before, a check would have taken
/// the batches of the old journal for some whose links were removed.
pub(super) fn finish(options: &RepairOptions, commit: &mut Commit<'_>) -> Done<()> {
    if options.upgrade {
        commit.superblock.features.incompat |= NEWEST_INCOMPAT;
        commit.superblock.generation = commit.superblock.generation.next().next();
        commit.switch()?;
    }
    Ok(())
}

/// Refuses a migration by which anything would be lost.
pub fn check(options: &RepairOptions, out: &Outcome) -> Done<()> {
    if !options.upgrade || out.is_lossless() && !out.fallback {
        return Ok(());
    }
    let why = "something of it would be lost, although a check finds nothing; report this";
    Err(RepairError::Refused(why.into()))
}
