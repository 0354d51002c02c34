//! Level 0: the journal. Every sector of every file, and the batches that a mount would replay.

mod apply;
mod chain;
mod copies;
mod gap;
mod life;
mod replay;

use std::collections::{BTreeMap, BTreeSet};

use razorfs_disk::Dir;
use razorfs_format::layout::FileName;
use razorfs_format::manifest::Counters;
use razorfs_format::timeline::{self, Timeline};
use razorfs_format::{Branch, Epoch, Ino, PackId};

use crate::roots::Roots;
use crate::session::Session;
use crate::view::Change;
use crate::{FindingKind as K, Result};
use razorfs_format::key::Key;

pub use gap::{Behind, Highest, batch_of};
pub use life::Life;
pub use replay::Stop;

/// What the journal changes in records.
pub type Changes = BTreeMap<Key, Change>;

/// What replaying the journal gives.
pub struct Replay {
    /// What it changes, after the last snapshot in it.
    layer: Layer,
    /// The first epoch that this can be of.
    begun: Epoch,
    /// What it changes up to each snapshot; the oldest first.
    cut_off: Vec<Layer>,
    /// The snapshots after it.
    pub timeline: Timeline,
    /// Ends of the frames that it names, by pack.
    pub frames: BTreeMap<PackId, u64>,
    /// Inodes, bytes and the next inode number after it.
    pub counters: Counters,
    /// Inodes and bytes of each branch after it.
    pub forks: BTreeMap<Branch, (u64, u128)>,
}

/// What is changed between two snapshots.
pub struct Layer {
    /// The epoch of what the head changes, at least.
    epoch: Epoch,
    /// Those of the branches.
    forks: BTreeMap<Branch, Epoch>,
    /// By keys of the branches.
    changes: Changes,
}

impl Layer {
    fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            forks: BTreeMap::new(),
            changes: Changes::new(),
        }
    }

    /// The branch whose changes a view shows.
    fn shown_by(&self, view: &timeline::View) -> Option<Branch> {
        if view.sees(self.epoch) {
            return Some(Branch::HEAD);
        }
        let seen = self.forks.iter().find(|(_, epoch)| view.sees(**epoch));
        seen.map(|(branch, _)| *branch)
    }
}

impl Replay {
    /// One that changes nothing.
    pub fn of(roots: &Roots) -> Self {
        let forks = roots.manifest.timeline.forks().list.iter();
        Self {
            layer: Layer::new(roots.manifest.counters.epoch.next()),
            begun: roots.manifest.counters.epoch.next(),
            cut_off: Vec::new(),
            timeline: Timeline::clone(&roots.manifest.timeline),
            frames: BTreeMap::new(),
            counters: roots.manifest.counters,
            forks: forks
                .map(|f| (f.meta.id, (f.meta.inodes, f.meta.bytes)))
                .collect(),
        }
    }

    /// What the part of it changes that a view shows.
    pub fn changes_in(&self, view: &timeline::View) -> Changes {
        let mut all = Changes::new();
        for layer in self.cut_off.iter().chain([&self.layer]) {
            let Some(branch) = layer.shown_by(view) else {
                continue;
            };
            for (key, change) in layer.changes.iter().filter(|(k, _)| k.branch() == branch) {
                let key = key.on(Branch::HEAD);
                match all.get_mut(&key) {
                    Some(below) => below.then(change),
                    None => drop(all.insert(key, change.clone())),
                }
            }
        }
        all
    }

    fn saw_ino(&mut self, ino: Ino) {
        let next = &mut self.counters.next_ino;
        *next = (*next).max(Ino(ino.0.saturating_add(1)));
    }
}

/// Checks the journal and replays it.
pub fn check(s: &mut Session<'_>, roots: &Roots) -> Result<Replay> {
    let copies = roots.superblock.geometry.journal.copies;
    let lives = lives(s, copies)?;
    let mut result = Replay::of(roots);
    let end = replay::run(s, roots, &lives, &mut result);
    chain::check(s, roots, &lives, end.next);
    for life in &lives {
        report_bad(s, life, &end.told);
        if copies > 1 {
            life.report_missing(s, roots.superblock.journal.batch);
        }
    }
    Ok(result)
}

/// Replays the journal from where `roots` says, for a repair; answers where it stopped because of
/// damage, if it did.
pub fn replay(s: &mut Session<'_>, roots: &Roots, lives: &[Life]) -> (Replay, Option<Stop>) {
    let mut result = Replay::of(roots);
    let end = replay::run(s, roots, lives, &mut result);
    (result, end.stop)
}

/// Reads all journal files; the oldest life first.
pub fn lives(s: &mut Session<'_>, copies: u8) -> Result<Vec<Life>> {
    let mut slots = BTreeSet::new();
    for name in s.list(Dir::Journal)? {
        match FileName::parse(Dir::Journal.path(), &name.leaf) {
            Some(file @ FileName::JournalTwin(_)) if copies == 1 => {
                s.find(K::UnlistedFile, file, "the journal has one copy");
            }
            Some(FileName::Journal(slot) | FileName::JournalTwin(slot)) => {
                slots.insert(slot);
            }
            _ => {}
        }
    }
    let mut lives = Vec::new();
    for (done, slot) in (0..).zip(&slots) {
        s.progress("journal", done, slots.len() as u64);
        lives.extend(Life::read(s, *slot, copies));
    }
    lives.sort_by_key(|life| (life.jid, life.slot));
    s.progress("journal", slots.len() as u64, slots.len() as u64);
    Ok(lives)
}

/// Damaged sectors that the replay did not need. `told` is the extent, in sectors of a file, of a
/// damaged batch that was reported already.
fn report_bad(s: &mut Session<'_>, life: &Life, told: &Option<(u32, std::ops::Range<u32>)>) {
    for run in life.bad_runs() {
        let known = told.as_ref().is_some_and(|(slot, r)| {
            *slot == life.slot && r.start <= run.start && run.end <= r.end
        });
        if !known {
            let place = life.place(run.start);
            let object = format!("{} at byte {}", place.file, place.offset);
            let detail = format!("{} sectors with a wrong checksum", run.len());
            s.find(K::JournalSector, object, detail);
        }
    }
}
