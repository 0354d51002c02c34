//! Repairs: damage of many kinds is planted in small volumes, then they are repaired. Afterwards
//! the volume must be whole, and each file what it was, but for what the repair said that it lost.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;
use razorfs::{FileKind, Ino, NewNode, SetAttributes};
use razorfs_disk::Name;
use razorfs_disk::sim::{Image, SimDisk, SimEnv, SimRng};
use razorfs_verify::{
    FindingKind as K, LEVEL_MAX, Loss, Older, Outcome, RepairError, RepairOptions, Severity, Shown,
    repair, verify,
};

use crate::branches;
use crate::dump::dump_tree;
use crate::engine::{EngineFs, EngineMachine};
use crate::farm::each_seed;
use crate::flips::Victim;
use crate::looks::check_stat;
use crate::marks::Marks;
use crate::mended;
use crate::model::{Model, differences};
use crate::op::Work;
use crate::panics::watch;
use crate::plant::Plant;
use crate::points::Point;
use crate::rng::{Rng, mix};
use crate::setup::Choice;
use crate::subject::{FileSystem, Machine};
use crate::survey::{PIECE, attributes, read};
use crate::told::Told;

/// What is checked.
struct Trial<'v> {
    victim: &'v Victim,
    image: Image,
    torn: bool,
    /// Other files must be what they were, whatever the repair tells.
    touched: Option<BTreeSet<Ino>>,
    seed: u64,
    /// The call at which the power failed during the repair.
    cut: Option<u64>,
}

fn run_repair(disk: &SimDisk, seed: u64, commit: bool) -> Result<Outcome, RepairError> {
    let options = RepairOptions {
        commit,
        // Half of them have more damage than they remember, perhaps.
        remembered: seed.is_multiple_of(2).then_some(seed as usize / 2 % 4),
        ..RepairOptions::default()
    };
    repair(disk, &SimEnv::new(seed), &options, &mut |_| true)
}

/// The bytes of all files.
fn contents(image: &Image) -> BTreeMap<Name, Option<Vec<u8>>> {
    let files = image.files();
    files.map(|(n, _)| (n.clone(), image.bytes(n))).collect()
}

impl Trial<'_> {
    fn run(&self, cuts: u64, marks: &mut Marks) -> Result<(), String> {
        let disk = SimDisk::from_image(&self.image);
        let dry = run_repair(&disk, self.seed, false).map_err(|e| format!("dry run: {e}"))?;
        if contents(&disk.image()) != contents(&self.image) {
            return Err("a dry run changed something".into());
        }
        let before = disk.op_count();
        let done = run_repair(&disk, self.seed, true).map_err(|e| format!("repair: {e}"))?;
        let calls = disk.op_count() - before;
        let told = |o: &Outcome| {
            let of_snapshots = (o.snapshots.clone(), o.olders.clone());
            (
                o.losses.clone(),
                o.fixes.clone(),
                o.gap.clone(),
                of_snapshots,
            )
        };
        if told(&dry) != told(&done) {
            return Err("the dry run told of other losses".into());
        }
        mended::note(&done, marks);
        if done.needed != done.committed.is_some() {
            return Err("it was to be committed, and was not".into());
        }
        self.examine(&disk, &done.losses, &done, marks)?;
        self.check_snapshots(&done, marks)?;
        if !done.needed {
            marks.hit("nothing to do");
            return Ok(());
        }
        marks.hit(match done.is_lossless() {
            true => "repaired without a loss",
            false => "repaired with losses told",
        });
        let mut rng = Rng::new(mix(self.seed, 9));
        for _ in 0..cuts {
            let cut = Self {
                cut: Some(rng.range(0..calls + 1)),
                image: self.image.clone(),
                touched: self.touched.clone(),
                ..*self
            };
            cut.again(&done, &mut rng, marks)?;
        }
        Ok(())
    }

    /// Each snapshot was named.
    fn check_snapshots(&self, done: &Outcome, marks: &mut Marks) -> Result<(), String> {
        for shown in &done.snapshots {
            marks.hit(match (shown.kept, shown.losses.is_empty()) {
                (true, true) => "snapshot kept whole",
                (true, false) => "snapshot kept with losses told",
                (false, _) => "snapshot lost, and named",
            });
        }
        if !done.branches.is_empty() {
            marks.hit("branches ended");
        }
        let points = self.victim.model.points().iter();
        let names: Vec<&str> = points.filter_map(Point::name).collect();
        let told = done.snapshots.iter().map(|s| &s.name);
        let told: Vec<&str> = told
            .filter(|n| !done.branches.contains(n))
            .map(|n| &**n)
            .collect();
        // Those of an older state are others.
        let is_newest = done.gap.is_none() && !done.listed && !self.torn;
        if !done.needed || !is_newest {
            return Ok(());
        }
        if names != told {
            return Err(format!("it told of the snapshots {told:?}, of {names:?}"));
        }
        let branches = self.victim.model.branches().into_iter();
        let branches: BTreeSet<String> = branches.map(branches::name).collect();
        if branches != done.branches.iter().cloned().collect() {
            let told = &done.branches;
            return Err(format!("it told of the branches {told:?}, of {branches:?}"));
        }
        Ok(())
    }

    /// The power fails during the repair; then it is repaired again.
    fn again(&self, done: &Outcome, rng: &mut Rng, marks: &mut Marks) -> Result<(), String> {
        let at = self.cut.unwrap_or_default();
        let disk = SimDisk::from_image(&self.image);
        disk.cut_after(at);
        let first = run_repair(&disk, self.seed, true);
        let disk = disk.power_cut(&mut SimRng::new(rng.next()));
        let again = run_repair(&disk, mix(self.seed, at), true)
            .map_err(|e| format!("cut at {at}, repaired again: {e}"))?;
        // What the first one found may not be there to be found any more.
        let mut losses = done.losses.clone();
        losses.extend(again.losses.iter().cloned());
        marks.hit(match first {
            Ok(_) => "cut behind the end",
            Err(_) => "cut during the repair",
        });
        let mut told = done.clone();
        told.gap = told.gap.or_else(|| again.gap.clone());
        if again.needed {
            let before = std::mem::replace(&mut told.snapshots, again.snapshots);
            for shown in &mut told.snapshots {
                let mut before = before.iter().filter(|b| b.name == shown.name);
                let more = before.next().map(|b| b.losses.clone());
                shown.losses.extend(more.unwrap_or_default());
            }
        }
        // What is put beside is not put there twice.
        told.olders.clear();
        self.examine(&disk, &losses, &told, &mut Marks::default())
            .map_err(|e| format!("cut at {at}: {e}"))
    }

    /// The repaired volume.
    fn examine(
        &self,
        disk: &SimDisk,
        losses: &[Loss],
        outcome: &Outcome,
        marks: &mut Marks,
    ) -> Result<(), String> {
        sound(disk).map_err(|e| format!("after the repair: {e}"))?;
        let again = run_repair(disk, self.seed + 1, true).map_err(|e| format!("again: {e}"))?;
        if again.needed {
            return Err(format!("again: {:?}", again.findings.findings));
        }
        let image = disk.image();
        let mut machine = EngineMachine::with_image(self.victim.setup.clone(), &image);
        let fs = machine
            .open()
            .map_err(|e| format!("the engine does not open it: {e}"))?;
        if let Some(why) = fs.degraded().filter(|_| outcome.needed) {
            return Err(format!(
                "the engine opens it read-only, or complains: {why}"
            ));
        }
        let mut losses = losses.to_vec();
        let mut snapshots = outcome.snapshots.clone();
        if let Some(touched) = &self.touched {
            marks.hit("files that were not touched compared");
            losses.retain(|loss| touched.contains(&loss.ino));
            for shown in &mut snapshots {
                shown.losses.retain(|loss| touched.contains(&loss.ino));
            }
        }
        let told = Told::new(&losses, outcome.listed);
        let fits = |model: &Model, marks: &mut Marks| -> Result<(), String> {
            let model = &model.at_home();
            told.compare(&fs, model, marks)?;
            check_olders(&fs, model, &outcome.olders, marks)?;
            if outcome.needed {
                check_kept(&fs, model, &snapshots)?;
            }
            Ok(())
        };
        let wrong = match fits(&self.victim.model, marks) {
            Ok(()) => None,
            Err(wrong) if outcome.gap.is_none() && !self.torn => Some(wrong),
            Err(wrong) => {
                let mut before = self.victim.before.iter().rev();
                let fits = |m: &Model| fits(m, &mut Marks::default()).is_ok();
                (!before.any(fits)).then_some(wrong)
            }
        };
        if let Some(wrong) = wrong {
            let losses: Vec<String> = losses.iter().map(|l| format!("  {l}")).collect();
            let from = format!(
                "from generation {}, fallback {}, listed {}, gap {:?}, fixes {:?}",
                outcome.source.0, outcome.fallback, outcome.listed, outcome.gap, outcome.fixes
            );
            return Err(format!("{wrong}\n {from}; told:\n{}", losses.join("\n")));
        }
        if outcome.needed {
            goes_on(&fs)?;
            gives_up(&fs, self.seed, marks)?;
            fs.close().map_err(|e| format!("closing: {e}"))?;
            sound(machine.disk()).map_err(|e| format!("after going on: {e}"))?;
        } else {
            machine.arm(0);
        }
        Ok(())
    }
}

/// What is counted of packs and of what snapshots hold.
const ACCOUNTS: [K; 6] = [
    K::PackAccountHigh,
    K::PackTotal,
    K::SharedCountHigh,
    K::HeldMissing,
    K::CounterInodes,
    K::CounterBytes,
];

/// Nothing is damaged or counted wrong.
fn sound(disk: &SimDisk) -> Result<(), String> {
    let report = verify(disk, LEVEL_MAX, &mut |_| ()).map_err(|e| e.to_string())?;
    let is_bad = |severity, kind| severity >= Severity::Error || ACCOUNTS.contains(&kind);
    let bad = report
        .findings
        .iter()
        .filter(|f| is_bad(f.severity, f.kind));
    let lines: Vec<String> = bad.map(ToString::to_string).collect();
    match lines.is_empty() {
        true => Ok(()),
        false => Err(lines.join("\n")),
    }
}

/// The snapshots that were kept, and no others, show what they showed, but for what was told.
fn check_kept(fs: &EngineFs, model: &Model, told: &[Shown]) -> Result<(), String> {
    let kept: Vec<&Shown> = told.iter().filter(|s| s.kept).collect();
    let names: Vec<&str> = kept.iter().map(|s| &*s.name).collect();
    let found = fs.snapshots();
    if found != names {
        return Err(format!("snapshots {found:?}, of {names:?} that were kept"));
    }
    for shown in kept {
        let what = |e: String| {
            let losses: Vec<String> = shown.losses.iter().map(|l| format!("\n  {l}")).collect();
            format!(
                "in the snapshot {}: {e}; told: {}",
                shown.name,
                losses.concat()
            )
        };
        let mut points = model.points().iter();
        let point = points.find(|p| p.name() == Some(&shown.name));
        // What was a branch is a snapshot now.
        let branch = branches::number(&shown.name).and_then(|n| model.other(Some(n)));
        let state = point.map(|p| &p.state).or(branch);
        let state = state.ok_or_else(|| what("there was none".into()))?;
        let at = fs
            .at_snapshot(&shown.name)
            .map_err(|e| what(e.to_string()))?;
        let told = Told::new(&shown.losses, false);
        let compared = told.compare(&at, state, &mut Marks::default());
        compared.map_err(what)?;
    }
    Ok(())
}

/// What was put beside of older versions is what the snapshots have.
fn check_olders(
    fs: &EngineFs,
    model: &Model,
    olders: &[Older],
    marks: &mut Marks,
) -> Result<(), String> {
    for older in olders {
        let what = |e: String| format!("{older:?}: {e}");
        let path = older
            .shown_at
            .as_deref()
            .ok_or_else(|| what("no path".into()))?;
        let ino = fs.find_by_path(path.as_bytes());
        let ino = ino.map_err(|e| what(e.to_string()))?;
        let mut points = model.points().iter();
        let point = points.find(|p| p.name() == Some(&older.snapshot));
        let branch = branches::number(&older.snapshot).and_then(|n| model.other(Some(n)));
        let node = point.map(|p| &p.state).or(branch);
        let node = node.and_then(|state| state.node(older.of));
        let node = node.ok_or_else(|| what("the snapshot does not have it".into()))?;
        let stat = fs.stat(ino).map_err(|e| what(e.to_string()))?;
        let mut expected = node.clone();
        expected.nlink = 1;
        check_stat(&stat, ino, &expected).map_err(what)?;
        attributes(fs, ino, node).map_err(|e| what(format!("{e:?}")))?;
        if ino != older.shown_by || ino == older.ino || node.kind != FileKind::Regular {
            return Err(what(format!("{stat:?}")));
        }
        let mut at = 0;
        while at < node.size {
            read(fs, ino, node, at).map_err(|e| what(format!("{e:?}")))?;
            at += PIECE as u64;
        }
        marks.hit(match older.of == older.ino {
            true => "older version put beside",
            false => "older version put beside, told by its name",
        });
    }
    Ok(())
}

/// Cuts off all files that take it: what snapshots show of them is held from then on.
fn empty(fs: &EngineFs) -> razorfs::Result<()> {
    let (mut dirs, mut seen) = (vec![Ino::ROOT], BTreeSet::new());
    let set = SetAttributes {
        size: Some(0),
        ..SetAttributes::default()
    };
    while let Some(dir) = dirs.pop() {
        for entry in fs.entries(dir, 0, usize::MAX)? {
            match entry.kind {
                FileKind::Directory if seen.insert(entry.ino) => dirs.push(entry.ino),
                FileKind::Regular => match fs.set_attributes(entry.ino, &set) {
                    Err(e) if e.errno() != libc::EPERM => return Err(e),
                    _ => {}
                },
                _ => {}
            }
        }
    }
    fs.checkpoint()
}

/// Snapshots can be gone back to, and what they hold comes back when they are deleted.
fn gives_up(fs: &EngineFs, seed: u64, marks: &mut Marks) -> Result<(), String> {
    let mut rng = Rng::new(mix(seed, 13));
    let names = fs.snapshots();
    if let Some(name) = rng.pick(&names).filter(|_| rng.chance(50)) {
        let what = |e: String| format!("rollback to {name}: {e}");
        let at = fs.at_snapshot(name).map_err(|e| what(e.to_string()))?;
        // One with names that no workload gives is not told as a state.
        let expected = dump_tree(&at).ok();
        drop(at);
        let back = fs.rollback(name).and_then(|_| fs.checkpoint());
        back.map_err(|e| what(e.to_string()))?;
        if let Some(expected) = expected {
            let found = dump_tree(fs).map_err(|e| what(e.to_string()))?;
            let words = differences(&expected, &found);
            if !words.is_empty() {
                return Err(what(words.join("; ")));
            }
            marks.hit("gone back after the repair, and compared");
        }
        marks.hit("gone back after the repair");
    }
    for name in fs.snapshots() {
        if rng.chance(60) {
            let deleted = fs.delete_snapshot(&name);
            deleted.map_err(|e| format!("deleting {name}: {e}"))?;
        }
    }
    if rng.chance(50) {
        empty(fs).map_err(|e| format!("emptying files: {e}"))?;
        marks.hit("emptied after the repair");
    }
    for _ in 0..20 {
        let step = fs.step(Work::Release).and_then(|_| fs.checkpoint());
        step.map_err(|e| format!("releasing: {e}"))?;
    }
    Ok(())
}

/// The volume takes new files.
fn goes_on(fs: &EngineFs) -> Result<(), String> {
    let name = b"made after the repair";
    let made = fs
        .create_node(Ino::ROOT, name, &NewNode::file(0o644))
        .and_then(|stat| fs.write(stat.ino, 0, &[7; 9000]))
        .and_then(|_| fs.sync())
        .and_then(|()| fs.checkpoint());
    match made {
        Err(e) if e.errno() == libc::ENOSPC || e.errno() == libc::EPERM => Ok(()),
        made => made.map_err(|e| format!("it takes no new file: {e}")),
    }
}

/// What came of the trials.
#[derive(Default)]
pub struct Summary {
    /// How often each answer was seen.
    pub marks: Marks,
    /// What went wrong.
    pub failures: Vec<String>,
    /// Trials.
    pub tried: u64,
}

/// How much is tried.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Damage planted in each volume.
    pub plants: u64,
    /// Power cuts in one of ten repairs.
    pub cuts: u64,
    /// What the seeds do not say.
    pub choice: Choice,
}

/// One seed: a volume that was closed or cut off, damaged in many ways.
pub fn run_seed(seed: u64, effort: Effort) -> Summary {
    let mut sum = Summary::default();
    let ops = 40 + mix(seed, 11) % 120;
    let mut setup = effort.choice.setup(seed);
    // Afterwards there must be room for a file.
    setup.limit = None;
    let victim = match Victim::of(setup, seed, ops as usize, seed.is_multiple_of(2)) {
        Ok(victim) => victim,
        Err(failure) => {
            sum.failures
                .push(format!("operation {}: {}", failure.at, failure.what));
            return sum;
        }
    };
    let mut rng = Rng::new(mix(seed, 12));
    for n in 0..effort.plants {
        let plant = Plant::any(&victim, &mut rng);
        let mut image = victim.image.clone();
        if !plant.apply(&victim, &mut image) {
            continue;
        }
        let trial = Trial {
            torn: plant.may_look_torn(&victim),
            touched: plant.touched(&victim),
            victim: &victim,
            image,
            seed: mix(seed, n),
            cut: None,
        };
        sum.tried += 1;
        let cuts = if n % 10 == 0 { effort.cuts } else { 0 };
        let result = watch(|| {
            let mut marks = Marks::default();
            let result = trial.run(cuts, &mut marks);
            (result, marks)
        });
        match result {
            Ok((result, marks)) => {
                sum.marks.merge(&marks);
                if let Err(wrong) = result {
                    sum.failures
                        .push(format!("seed {seed}, {plant:?}: {wrong}"));
                }
            }
            Err(panic) => sum
                .failures
                .push(format!("seed {seed}, {plant:?}: {panic}")),
        }
    }
    sum
}

/// Many seeds, with several threads; `tick` sees what there is so far, and ends it with `false`.
pub fn run(
    seeds: std::ops::Range<u64>,
    effort: Effort,
    jobs: usize,
    tick: impl Fn(&Summary) -> bool + Sync,
) -> Summary {
    each_seed(seeds, jobs, |seed, all: &Mutex<Summary>| {
        let mut mine = run_seed(seed, effort);
        let mut all = all.lock();
        all.marks.merge(&mine.marks);
        all.failures.append(&mut mine.failures);
        all.tried += mine.tried;
        tick(&all)
    })
}
