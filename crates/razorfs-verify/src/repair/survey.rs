//! Which files are hit by damage, for a check to tell: what a repair of it would lose. Nothing is
//! written, and data are read where the check has read them.

use razorfs_disk::{Disk, Env};

use super::report::{Loss, Outcome, Shown};
use super::{Made, RepairError, RepairOptions, heal, read, rebuild};
use crate::session::Session;
use crate::{LEVEL_MAX, Progress, Report, Result, Severity};

/// Most losses that are listed of the present, and as many of all snapshots and branches.
const LISTED_MAX: usize = 1000;

/// The level from which on data are read.
const DATA: u8 = 3;

/// Which files are hit.
#[derive(Clone, Debug, Default)]
pub struct Hit {
    /// What of them, as the present has them.
    pub losses: Vec<Loss>,
    /// Losses that are not listed, as there are too many.
    pub more_losses: u64,
    /// The snapshots and branches in which files are hit.
    pub moments: Vec<Shown>,
    /// Which of these are branches.
    pub branches: Vec<String>,
    /// Why it cannot be told which files are hit.
    pub untold: Option<String>,
}

impl Hit {
    /// Whether a file is hit, as far as can be told.
    #[must_use]
    pub fn is_any(&self) -> bool {
        !self.losses.is_empty() || !self.moments.is_empty()
    }
}

/// Nothing of what is read depends on it.
struct Still;

impl Env for Still {
    fn now(&self) -> u64 {
        0
    }

    fn monotonic(&self) -> u64 {
        0
    }

    fn random(&self) -> u64 {
        0
    }
}

/// Tells which files are hit by what a check has found, if that is more than warnings. A volume
/// that cannot be opened at all is left to a repair, and so is one of which no more than the
/// journal was looked at.
pub fn files_hit(
    disk: &dyn Disk,
    report: &Report,
    progress: &mut dyn FnMut(Progress),
) -> Result<Option<Hit>> {
    if report.worst() != Some(Severity::Error) || report.level == 0 {
        return Ok(None);
    }
    let data = report.level >= DATA;
    let mut out = Outcome::of_snapshot(LISTED_MAX);
    let untold = match survey(disk, data, progress, &mut out) {
        Ok(()) => None,
        Err(RepairError::Disk(e)) => return Err(e),
        Err(e @ (RepairError::Refused(_) | RepairError::Stopped)) => Some(e.to_string()),
    };
    let hit = |s: &Shown| !s.losses.is_empty() || s.more_losses > 0;
    out.snapshots.retain(hit);
    Ok(Some(Hit {
        losses: out.losses,
        more_losses: out.more_losses,
        moments: out.snapshots,
        branches: out.branches,
        untold,
    }))
}

fn survey(
    disk: &dyn Disk,
    data: bool,
    progress: &mut dyn FnMut(Progress),
    out: &mut Outcome,
) -> super::Done<()> {
    let healed = heal(disk, data, progress)?;
    let mut s = Session::new(&healed, LEVEL_MAX, progress);
    s.salvage = true;
    let options = RepairOptions::default();
    let mut volume = read(&mut s, &Still, &options, out)?;
    volume.reads_data = data;
    let (uid, gid) = options.owner;
    let now = razorfs_format::record::Time::from_unix_nanos(0);
    let made = Made { uid, gid, now };
    rebuild(&mut s, &mut volume, made, None, out).map(|_| ())
}
