//! Repairs: damage of many kinds is planted in small volumes, then they are repaired. Afterwards
//! the volume must be whole, and each file what it was, but for what the repair said that it lost.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;
use razorfs::{FileKind, Ino, NewNode};
use razorfs_disk::Name;
use razorfs_disk::sim::{Image, SimDisk, SimEnv, SimRng};
use razorfs_verify::{LEVEL_MAX, Lose, Loss, Outcome, RepairError, RepairOptions, repair, verify};

use crate::engine::{EngineFs, EngineMachine, is_refusal};
use crate::farm::each_seed;
use crate::flips::Victim;
use crate::looks::check_stat;
use crate::marks::Marks;
use crate::model::{Model, Node};
use crate::names;
use crate::panics::watch;
use crate::plant::Plant;
use crate::points::Point;
use crate::rng::{Rng, mix};
use crate::setup::Choice;
use crate::subject::{FileSystem, Machine};
use crate::survey::{Bad, PIECE, attributes, bad, read};

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
        if (&dry.losses, &dry.fixes, &dry.gap) != (&done.losses, &done.fixes, &done.gap) {
            return Err("the dry run told of other losses".into());
        }
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

    /// Each snapshot was named as one that is lost.
    fn check_snapshots(&self, done: &Outcome, marks: &mut Marks) -> Result<(), String> {
        let points = self.victim.model.points().iter();
        let names: Vec<&str> = points.filter_map(Point::name).collect();
        // Those of an older state are others.
        let is_newest = done.gap.is_none() && !done.listed && !self.torn;
        if !done.needed || !is_newest || names == done.snapshots {
            if done.needed && is_newest && !names.is_empty() {
                marks.hit("snapshots lost, and named");
            }
            return Ok(());
        }
        let told = &done.snapshots;
        Err(format!("it told of the snapshots {told:?}, of {names:?}"))
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
        if outcome.needed && !fs.snapshots().is_empty() {
            return Err(format!(
                "snapshots that were told lost: {:?}",
                fs.snapshots()
            ));
        }
        let mut losses = losses.to_vec();
        if let Some(touched) = &self.touched {
            marks.hit("files that were not touched compared");
            losses.retain(|loss| touched.contains(&loss.ino));
        }
        let told = Told::new(&losses, outcome.listed);
        let wrong = match told.compare(&fs, &self.victim.model, marks) {
            Ok(()) => None,
            Err(wrong) if outcome.gap.is_none() && !self.torn => Some(wrong),
            Err(wrong) => {
                let mut before = self.victim.before.iter().rev();
                let fits = |m: &Model| told.compare(&fs, m, &mut Marks::default()).is_ok();
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
            fs.close().map_err(|e| format!("closing: {e}"))?;
            sound(machine.disk()).map_err(|e| format!("after going on: {e}"))?;
        } else {
            machine.arm(0);
        }
        Ok(())
    }
}

fn sound(disk: &SimDisk) -> Result<(), String> {
    let report = verify(disk, LEVEL_MAX, &mut |_| ()).map_err(|e| e.to_string())?;
    if report.is_sound() {
        return Ok(());
    }
    let lines: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    Err(lines.join("\n"))
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

/// What the repair said that it lost.
struct Told<'l> {
    of: BTreeMap<Ino, Vec<&'l Loss>>,
    /// It could not tell, as no list of the volume's files was left.
    listed: bool,
}

impl<'l> Told<'l> {
    fn new(losses: &'l [Loss], listed: bool) -> Self {
        let mut of: BTreeMap<Ino, Vec<&Loss>> = BTreeMap::new();
        for loss in losses {
            of.entry(loss.ino).or_default().push(loss);
        }
        Self { of, listed }
    }

    fn has(&self, ino: Ino, any: &[Lose]) -> bool {
        let losses = self.of.get(&ino).into_iter().flatten();
        losses.into_iter().any(|loss| any.contains(&loss.what))
    }

    /// Whether the volume shows this state, but for what was told.
    fn compare(&self, fs: &EngineFs, model: &Model, marks: &mut Marks) -> Result<(), String> {
        // Files whose disappearance was told: the directories that lead to them are.
        let mut hidden = BTreeSet::new();
        for (ino, node) in model.nodes() {
            if self.has(ino, &[Lose::Names, Lose::Inode, Lose::Old, Lose::Name]) {
                hidden.extend(node.entries.values().copied());
            }
        }
        for (ino, node) in model.nodes().filter(|(_, n)| n.nlink > 0) {
            let what = |e: String| format!("{} (inode {ino}): {e}", model.path_of(ino));
            let told = self.of.contains_key(&ino);
            match fs.stat(ino) {
                Err(e) if is_refusal(&e) => return Err(what(format!("stat answered {e}"))),
                Err(_) if told || hidden.contains(&ino) => {
                    marks.hit("file gone, and told");
                    continue;
                }
                Err(e) => return Err(what(format!("stat answered {e}"))),
                Ok(_) => {}
            }
            self.node(fs, ino, node).map_err(what)?;
            marks.hit(if told {
                "file with a loss"
            } else {
                "file whole"
            });
        }
        Ok(())
    }

    fn node(&self, fs: &EngineFs, ino: Ino, node: &Node) -> Result<(), String> {
        let stat = fs.stat(ino).map_err(|e| e.to_string())?;
        let unsure = self.has(ino, &[Lose::Inode, Lose::Old]);
        if node.is_dir() {
            self.entries(fs, ino, node)?;
        }
        if !unsure {
            let mut expected = node.clone();
            let names = [Lose::Link, Lose::OldName, Lose::Name];
            if node.is_dir() || self.has(ino, &names) || self.listed {
                // Counted anew; entries were compared.
                expected.nlink = stat.nlink;
            }
            check_stat(&stat, ino, &expected)?;
        }
        if node.is_dir() && !self.has(ino, &[Lose::Name, Lose::Inode, Lose::Old]) {
            let parent = fs.parent_of(ino).map_err(|e| e.to_string())?;
            if parent != node.parent && !self.has(node.parent, &[Lose::Names]) {
                return Err(format!("parent {parent}, expected {}", node.parent));
            }
        }
        match node.kind {
            FileKind::Regular => self.bytes(fs, ino, node, stat.size, unsure)?,
            FileKind::Symlink if !unsure => {
                let target = fs.read_link(ino).map_err(|e| e.to_string())?;
                if *target != *node.target {
                    return Err("another target".into());
                }
            }
            _ => {}
        }
        if unsure || self.has(ino, &[Lose::Attributes]) {
            return Ok(());
        }
        attributes(fs, ino, node).map_err(|e| format!("{e:?}"))
    }

    /// What is missing was told, and nothing is there that was not.
    fn entries(&self, fs: &EngineFs, ino: Ino, node: &Node) -> Result<(), String> {
        let found = fs.entries(ino, 0, usize::MAX).map_err(|e| e.to_string())?;
        let unsure = self.has(ino, &[Lose::Names, Lose::Inode, Lose::Old, Lose::Name]);
        let mut there = BTreeMap::new();
        for entry in &found {
            match names::id(&entry.name) {
                Some(name) => {
                    there.insert(name, entry.ino);
                }
                None if ino == Ino::ROOT && &*entry.name == b"lost+found" => {}
                None if self.of.contains_key(&entry.ino) || self.listed => {}
                None => return Err(format!("an entry {:?}", entry.name.escape_ascii())),
            }
        }
        for (name, child) in &node.entries {
            let lost = [
                Lose::Name,
                Lose::OldName,
                Lose::Entry,
                Lose::Link,
                Lose::Inode,
                Lose::Old,
            ];
            match there.remove(name) {
                Some(found) if found == *child => {
                    let stat = fs.lookup(ino, names::bytes(*name));
                    let stat = stat.map_err(|e| format!("its entry is not found: {e}"))?;
                    if stat.ino != *child {
                        return Err("an entry leads to another inode".into());
                    }
                }
                _ if unsure || self.has(*child, &lost) => {}
                found => return Err(format!("entry of inode {child}: {found:?}")),
            }
        }
        let strange = |child: &Ino| !self.of.contains_key(child);
        match there.values().find(|child| strange(child)) {
            Some(child) if !unsure && !self.listed => {
                Err(format!("an entry of inode {child} that was not there"))
            }
            _ => Ok(()),
        }
    }

    /// Every byte is the right one, or in a range that was told; lost data read as zeros.
    fn bytes(
        &self,
        fs: &EngineFs,
        ino: Ino,
        node: &Node,
        size: u64,
        unsure: bool,
    ) -> Result<(), String> {
        let ranges: Vec<&Loss> = self.of.get(&ino).into_iter().flatten().copied().collect();
        if !unsure && ranges.iter().all(|l| l.range.is_none()) {
            let mut at = 0;
            while at < node.size {
                read(fs, ino, node, at).map_err(|e| format!("{e:?}"))?;
                at += PIECE as u64;
            }
            return Ok(());
        }
        let size = size.min(node.size);
        let mut at = 0;
        while at < size {
            let len = (size - at).min(PIECE as u64) as usize;
            let (mut found, mut expected) = (vec![0xee; len], vec![0; len]);
            fs.read(ino, at, &mut found).map_err(|e| match bad(e) {
                Bad::Refused => "a read is refused".to_string(),
                Bad::Wrong(e) => e,
            })?;
            node.content.read(at, &mut expected);
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let here = at + i as u64;
                if found == expected {
                    continue;
                }
                let told = ranges
                    .iter()
                    .find(|l| l.range.as_ref().is_some_and(|r| r.contains(&here)));
                match told.map(|l| l.what) {
                    Some(Lose::Unsure) => {}
                    Some(Lose::Data) if *found == 0 => {}
                    other => {
                        return Err(format!(
                            "byte {here} is {found}, not {expected} ({other:?})"
                        ));
                    }
                }
            }
            at += len as u64;
        }
        Ok(())
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
    // A repair does not know them yet.
    setup.branches = false;
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
