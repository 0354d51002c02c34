//! Checks a volume by the bytes of its format alone, without the engine, and changes nothing; and
//! repairs one ([`repair`]).
//!
//! | level | what is checked besides the levels below it |
//! |---|---|
//! | 0 | superblock, manifest, every sector of the journal, the batches to replay |
//! | 1 | every byte of every segment, and that no file is missing or unlisted |
//! | 2 | the name space, also that of each branch: segments and replayed journal together |
//! | 3 | every frame of every pack, every reference to one, those of snapshots too if damage is found that nothing else refers to, the counts of shared frames, what snapshots hold, the account of the packs, and their parity |
//! | 4 | that recovery shards are those of their objects; the filling of batches; names, files and references of each snapshot |
//!
//! What is wrong becomes a [`Finding`] with a permanent number; checking goes on with the next
//! object. Only a volume without a usable superblock or manifest ends it early. An `Err` means
//! that the host could not even list the files.
//!
//! The volume should not change meanwhile: the caller takes the lock ([`razorfs_disk::Disk::lock`])
//! or asks the process that holds it.
//!
//! Memory: one block of each segment that overlaps others, 12 bytes for each journal sector, what
//! the journal's replay changed, and from level 2 on about 150 bytes for each inode and 24 for each
//! name of a file with several, at level 3 about 60 for each shared frame and, where there are
//! snapshots, about 80 for each frame. Bytes that say otherwise are not believed.
//!
//! Bytes that no level covers: the text in `LOCK`; in a pack, up to 4 KiB at either end of a run
//! of dead frames whose space was given back; files that no generation names (told as such).

mod extents;
mod files;
mod finding;
mod held;
mod journal;
mod namespace;
mod packs;
mod parity;
mod paths;
mod repair;
mod roots;
mod segments;
mod session;
mod shares;
mod stream;
mod superblock;
mod view;

use razorfs_disk::Disk;

pub use finding::{Checked, Finding, FindingKind, Report, Severity};
pub use repair::{
    Gap, Hit, Lose, Loss, Older, Outcome, RepairError, RepairOptions, Shown, files_hit, repair,
};

use session::Session;

/// The highest level.
pub const LEVEL_MAX: u8 = 4;

/// Result of [`verify`].
pub type Result<T> = razorfs_disk::Result<T>;

/// How far a check is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// What is being checked.
    pub phase: &'static str,
    /// How many objects of this phase are done.
    pub done: u64,
    /// How many there are; 0 if that is not known.
    pub total: u64,
}

/// Checks the volume on `disk` up to `level`; a higher one than [`LEVEL_MAX`] means that.
pub fn verify(disk: &dyn Disk, level: u8, progress: &mut dyn FnMut(Progress)) -> Result<Report> {
    let level = level.min(LEVEL_MAX);
    let mut session = Session::new(disk, level, progress);
    run(&mut session, level)?;
    Ok(session.into_report())
}

/// Compares the counts of shared frames of one branch, all of whose blocks were looked at.
fn settle(s: &mut Session<'_>, data: &mut Option<(Option<shares::Shares>, packs::Packs)>) {
    if let Some(shares) = data.as_mut().and_then(|(shares, _)| shares.take()) {
        shares.settle(s);
    }
}

fn run(s: &mut Session<'_>, level: u8) -> Result<()> {
    s.progress("superblock", 0, 1);
    let Some(roots) = roots::check(s)? else {
        return Ok(());
    };
    s.progress("journal", 0, 0);
    let replay = journal::check(s, &roots)?;
    if level < 1 {
        return Ok(());
    }
    files::check(s, &roots, &replay)?;
    if roots.parity() {
        parity::segments(s, &roots);
    }
    segments::check(s, &roots);
    if level < 2 {
        return Ok(());
    }
    let mut packs = packs::Packs::new(&roots, &replay);
    if level >= 3 {
        if roots.parity() {
            parity::packs(s, &roots);
        }
        packs.walk(s, &roots);
    }
    let view = view::View::new(&roots, &replay);
    let nodes = namespace::check(s, &roots, &view);
    let mut data = (level >= 3).then(|| (Some(shares::Shares::read(s, &view)), packs));
    extents::check(s, &nodes, &view, data.as_mut());
    paths::name_findings(s, &nodes, &view);
    settle(s, &mut data);
    for fork in &replay.timeline.forks().list {
        s.look_at(Some(("branch", &fork.meta.name)));
        let view = view::View::branch(&roots, &replay, fork);
        let nodes = namespace::check(s, &roots, &view);
        if let Some((shares, _)) = &mut data {
            *shares = Some(shares::Shares::read(s, &view));
        }
        extents::check(s, &nodes, &view, data.as_mut());
        paths::name_findings(s, &nodes, &view);
        settle(s, &mut data);
    }
    s.look_at(None);
    if let Some((_, packs)) = data.as_mut().filter(|_| !replay.timeline.is_trivial()) {
        held::check(s, &roots, &replay, packs);
    }
    // Damage that nothing of the present refers to is not dead if a snapshot shows it.
    let unclaimed = data
        .as_ref()
        .is_some_and(|(_, packs)| packs.has_unclaimed());
    if level >= 4 || unclaimed {
        for snapshot in replay.timeline.snapshots().iter().filter(|s| !s.gone) {
            s.look_at(Some(("snapshot", &snapshot.name)));
            let view = view::View::of(&roots, &replay, snapshot);
            let nodes = namespace::check(s, &roots, &view);
            extents::check(s, &nodes, &view, data.as_mut());
            paths::name_findings(s, &nodes, &view);
        }
        s.look_at(None);
    }
    if let Some((_, mut packs)) = data {
        packs.settle(s);
    }
    Ok(())
}
