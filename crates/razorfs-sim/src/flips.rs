//! Rot: one bit after the other of a small volume is flipped, and sectors are overwritten. Whatever
//! the volume then answers must be right, or an error that says so; never wrong bytes, never a
//! panic.

use razorfs_disk::sim::Image;
use razorfs_disk::{Dir, Name};
use razorfs_format::layout::FileName;
use razorfs_format::parity::Object;
use razorfs_format::superblock::{SLOT, SLOTS, Superblock};

use crate::attempts::{Outcome, each};
use crate::driver::{Failure, Runner};
use crate::engine::{EngineFs, EngineMachine, Setup, is_refusal};
use crate::model::Model;
use crate::op::{Op, Work};
use crate::panics::watch;
use crate::rng::{Rng, mix};
use crate::setup::Choice;
use crate::subject::{FileSystem, Machine};
use crate::survey::survey;
use crate::workload::Workload;

/// A volume to damage, and the states it may show.
pub struct Victim {
    /// Its files.
    pub image: Image,
    pub(crate) setup: Setup,
    pub(crate) closed: bool,
    /// The state it is in.
    pub(crate) model: Model,
    /// The states before, which it may show if it says that it lost the later ones.
    pub(crate) before: Vec<Model>,
    /// What its files were before.
    pub(crate) older: Vec<Image>,
}

impl Victim {
    /// A volume after `ops` operations of a seed's workload: closed, or cut off after a sync.
    pub fn make(
        seed: u64,
        ops: usize,
        close: bool,
        choice: Choice,
    ) -> std::result::Result<Self, Failure> {
        let mut setup = choice.setup(seed);
        // Most of a young volume is its ring; a small one leaves time for every bit.
        setup.geometry.journal_initial_file = 32 << 10;
        setup.geometry.journal_max_file = 64 << 10;
        Self::of(setup, seed, ops, close)
    }

    /// A closed volume with parity, all of it made.
    fn with_parity(seed: u64, ops: usize, choice: Choice) -> std::result::Result<Self, Failure> {
        let mut setup = Setup::of(seed);
        setup.snapshots = choice.snapshots.unwrap_or(setup.snapshots);
        setup.branches = choice.branches.unwrap_or(setup.branches);
        setup.parity = true;
        setup.limit = None;
        // Full packs come after a few operations, and are many shards long.
        setup.geometry.pack_bytes = 64 << 10;
        setup.geometry.parity_shard = 4 << 10;
        setup.geometry.journal_initial_file = 32 << 10;
        setup.geometry.journal_max_file = 64 << 10;
        Self::of(setup, seed, ops, true)
    }

    /// Whether parity makes up for this damage, whatever it is.
    fn heals(&self, damage: &Damage) -> bool {
        let (Damage::Bit(name, ..)
        | Damage::Block(name, _, _, Instead::Zeros | Instead::Noise | Instead::Older)) = damage
        else {
            return false;
        };
        let file = FileName::parse(name.dir.path(), &name.leaf);
        let parity = file.and_then(Object::of).map(|object| object.parity());
        let Some(parity) = parity.filter(|_| self.setup.parity) else {
            return false;
        };
        let dir = Dir::from_path(parity.dir()).unwrap_or(Dir::Root);
        self.image.bytes(&Name::new(dir, &parity.leaf())).is_some()
    }

    /// The same with other sizes.
    pub(crate) fn of(
        setup: Setup,
        seed: u64,
        ops: usize,
        close: bool,
    ) -> std::result::Result<Self, Failure> {
        let mut runner = Runner::start(EngineMachine::new(setup.clone(), None))?;
        let mut workload = Workload::small(mix(seed, 5))
            .with_snapshots(setup.snapshots, seed)
            .with_branches(setup.branches, seed);
        let (mut before, mut older) = (vec![runner.model().clone()], Vec::new());
        for n in 0..ops {
            if n == ops / 2 {
                runner.run(&Op::Checkpoint)?;
            }
            let op = workload.next(runner.model());
            // The small journal does not take the longest values.
            if matches!(&op, Op::SetXattr { data, .. } if data.len > 8192) {
                continue;
            }
            runner.run(&op)?;
            if n % 10 == 9 {
                older.push(runner.machine().disk().image());
            }
            let mut state = runner.model().clone();
            state.close_all();
            before.push(state);
        }
        if setup.parity {
            runner.run(&Op::Checkpoint)?;
            for _ in 0..20 {
                runner.run(&Op::Step(Work::Parity))?;
            }
        }
        runner.run(&if close { Op::Reopen } else { Op::Sync })?;
        let mut model = runner.model().at_home();
        model.close_all();
        let machine = runner.into_machine();
        Ok(Self {
            image: machine.disk().image(),
            older,
            setup,
            closed: close,
            model,
            before,
        })
    }

    /// The last batch with a sector of zeros in it, or without its file, looks like one that was
    /// never written whole: no format can tell, as long as nothing after it says that it was.
    pub(crate) fn may_look_torn(&self, damage: &Damage) -> bool {
        self.setup.journal_copies == 1 && self.looks_torn_in_one_copy(damage)
    }

    /// Damage to a journal that has a second copy, which must be healed, whatever it is.
    fn must_be_healed(&self, damage: &Damage) -> bool {
        let of_journal = |name: &Name| name.dir == Dir::Journal;
        let inside = match damage {
            Damage::Block(name, _, _, Instead::Swapped(other, _)) => {
                of_journal(name) && of_journal(other)
            }
            Damage::Bit(name, ..) | Damage::Block(name, ..) => of_journal(name),
            Damage::Short(name, _) | Damage::Gone(name) => of_journal(name),
            Damage::Newest => false,
        };
        self.setup.journal_copies > 1 && inside
    }

    fn looks_torn_in_one_copy(&self, damage: &Damage) -> bool {
        match damage {
            Damage::Block(name, .., Instead::Zeros | Instead::Older)
            | Damage::Gone(name)
            | Damage::Short(name, _) => !self.closed && name.dir == Dir::Journal,
            // One of the two may have been zeros, or what an older life of the file wrote.
            Damage::Block(name, _, _, Instead::Swapped(other, _)) => {
                !self.closed && (name.dir == Dir::Journal || other.dir == Dir::Journal)
            }
            _ => false,
        }
    }

    /// What verify finds, notes included.
    pub(crate) fn findings(&self, image: &Image) -> Vec<String> {
        let machine = EngineMachine::with_image(self.setup.clone(), image);
        let report = razorfs_verify::verify(machine.disk(), razorfs_verify::LEVEL_MAX, &mut |_| ());
        match report {
            Ok(report) => report.findings.iter().map(ToString::to_string).collect(),
            Err(e) => vec![e.to_string()],
        }
    }

    /// What the volume answers if it is on a disk with these files.
    pub(crate) fn examine(
        &self,
        image: &Image,
        torn: bool,
    ) -> std::result::Result<&'static str, String> {
        let mut machine = EngineMachine::with_image(self.setup.clone(), image);
        let fs = match machine.open() {
            Ok(fs) => fs,
            Err(e) if is_refusal(&e) || e.errno() == libc::ENOENT => return Ok("open refused"),
            Err(e) => return Err(format!("open answered \"{e}\"")),
        };
        let verdict = self.compare(&fs, torn);
        machine.arm(0);
        drop(fs);
        verdict
    }

    fn compare(&self, fs: &EngineFs, torn: bool) -> std::result::Result<&'static str, String> {
        let degraded = fs.degraded();
        let wrong = match survey(fs, &self.model) {
            Ok(0) if degraded.is_some() => return Ok("all there, damage reported at opening"),
            Ok(0) => return Ok(ALL_THERE),
            Ok(_) => return Ok("some reads refused"),
            Err(wrong) => wrong,
        };
        if degraded.is_none() && !torn {
            return Err(wrong);
        }
        // The end of the journal is lost, and the volume says so.
        let older = |state: &Model| survey(fs, state).is_ok();
        if !self.before.iter().rev().any(older) {
            return Err(format!("{wrong} ({})", degraded.unwrap_or_default()));
        }
        Ok(match degraded {
            Some(_) => "opened as of before the damage, and said so",
            None => LOOKS_TORN,
        })
    }
}

/// It lost the end of its journal without a trace.
const LOOKS_TORN: &str = "the end of the journal taken for torn";
const HEALED: &str = "healed from the other copy of the journal";
/// Damage did not reach it.
const ALL_THERE: &str = "all there";

/// What stands where something else should.
#[derive(Clone, Debug)]
pub enum Instead {
    /// Nothing.
    Zeros,
    /// Anything.
    Noise,
    /// What stood there half a run before.
    Older,
    /// What stands in another place, where what was here is now.
    Swapped(Name, u64),
}

/// Damage to one place of one file.
#[derive(Clone, Debug)]
pub enum Damage {
    /// One bit is flipped.
    Bit(Name, u64, u8),
    /// So many bytes are overwritten.
    Block(Name, u64, usize, Instead),
    /// No superblock of the newest generation can be read.
    Newest,
    /// The file is cut short.
    Short(Name, u64),
    /// The file is gone.
    Gone(Name),
}

impl Damage {
    /// Whether it is in a file that one of the findings is about.
    pub(crate) fn is_in(&self, findings: &[String]) -> bool {
        let name = match self {
            Self::Bit(name, ..) | Self::Block(name, ..) => name,
            Self::Short(name, _) | Self::Gone(name) => name,
            Self::Newest => return false,
        };
        findings
            .iter()
            .any(|finding| finding.contains(&name.to_string()))
    }

    pub(crate) fn apply(&self, victim: &Victim, image: &mut Image) -> bool {
        match self {
            Self::Bit(name, byte, bit) => image.flip_bit(name, *byte, *bit),
            Self::Block(name, at, len, Instead::Swapped(other, from)) => {
                let (here, there) = (cut(image, name, *at, *len), cut(image, other, *from, *len));
                let different = here != there && here.len() == there.len();
                if different {
                    image.write(name, *at, &there);
                    image.write(other, *from, &here);
                }
                different
            }
            Self::Block(name, at, len, instead) => {
                let old = cut(image, name, *at, *len);
                let mut rng = Rng::new(*at);
                let new = match instead {
                    Instead::Noise => old.iter().map(|_| rng.next() as u8).collect(),
                    Instead::Older => match victim.older.get(victim.older.len() / 2) {
                        Some(older) => cut(older, name, *at, *len),
                        None => old.clone(),
                    },
                    Instead::Zeros | Instead::Swapped(..) => vec![0; old.len()],
                };
                let different = old != new && old.len() == new.len();
                if different {
                    image.write(name, *at, &new);
                }
                different
            }
            Self::Newest => {
                let name = Name::new(Dir::Root, &FileName::Super.leaf());
                let generation = |slot: usize| {
                    let bytes = cut(image, &name, (slot * SLOT) as u64, SLOT);
                    Superblock::decode(slot, &bytes).ok().map(|s| s.generation)
                };
                let found: Vec<_> = (0..SLOTS).map(generation).collect();
                let newest = found.iter().max().copied().flatten();
                for (slot, _) in found.iter().enumerate().filter(|(_, g)| **g == newest) {
                    image.write(&name, (slot * SLOT) as u64, &[0; SLOT]);
                }
                newest.is_some()
            }
            Self::Short(name, len) => image.set_len(name, *len),
            Self::Gone(name) => image.remove(name),
        }
    }
}

/// Some bytes of a file, as many of them as there are.
fn cut(image: &Image, name: &Name, at: u64, len: usize) -> Vec<u8> {
    let bytes = image.bytes(name).unwrap_or_default();
    let rest = bytes.get(at as usize..).unwrap_or_default();
    rest.get(..len.min(rest.len())).unwrap_or_default().to_vec()
}

/// Which damage is tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effort {
    /// Every bit of every file; every sector and page.
    EveryBit,
    /// One bit of every byte that is not zero and of some that are; every sector and page.
    Quick,
    /// Every sector and page.
    Blocks,
    /// A sample for ordinary test runs: about this many bits.
    Sample(u64),
}

/// All the damage to try on a volume.
#[must_use]
pub fn damages(victim: &Victim, effort: Effort, seed: u64) -> Vec<Damage> {
    let image = &victim.image;
    let mut rng = Rng::new(seed);
    let mut out = vec![Damage::Newest];
    for (name, len) in image.files() {
        bits(image, name, effort, &mut rng, &mut out);
        for size in [512, 4096] {
            for at in (0..len).step_by(size) {
                if !matches!(effort, Effort::Sample(_)) || rng.chance(5) {
                    let (other, from) = elsewhere(image, size, &mut rng);
                    let noise = if rng.chance(50) {
                        Instead::Noise
                    } else {
                        Instead::Older
                    };
                    for instead in [Instead::Zeros, Instead::Swapped(other, from), noise] {
                        out.push(Damage::Block(name.clone(), at, size, instead));
                    }
                    out.push(Damage::Block(name.clone(), at, size, Instead::Older));
                }
            }
        }
        if len > 0 {
            out.push(Damage::Short(name.clone(), rng.range(0..len)));
        }
        out.push(Damage::Gone(name.clone()));
    }
    out
}

/// A block of any file.
fn elsewhere(image: &Image, size: usize, rng: &mut Rng) -> (Name, u64) {
    let blocks: u64 = image.files().map(|(_, len)| len / size as u64).sum();
    let mut left = rng.range(0..blocks.max(1));
    for (name, len) in image.files() {
        let here = len / size as u64;
        if left < here {
            return (name.clone(), left * size as u64);
        }
        left -= here;
    }
    (Name::new(Dir::Root, &FileName::Super.leaf()), 0)
}

fn bits(image: &Image, name: &Name, effort: Effort, rng: &mut Rng, out: &mut Vec<Damage>) {
    let total = image.total_len().max(1);
    let bytes = image.bytes(name).unwrap_or_default();
    for (at, byte) in bytes.iter().enumerate() {
        let one = match effort {
            Effort::EveryBit => {
                out.extend((0..8).map(|bit| Damage::Bit(name.clone(), at as u64, bit)));
                false
            }
            Effort::Quick => *byte != 0 || rng.chance(2),
            Effort::Blocks => false,
            // What holds something is the more telling.
            Effort::Sample(n) if *byte != 0 && rng.range(0..total) < 8 * n => true,
            Effort::Sample(n) => rng.range(0..total) < n / 8,
        };
        if one {
            let bit = rng.range(0..8) as u8;
            out.push(Damage::Bit(name.clone(), at as u64, bit));
        }
    }
}

/// Tries damage on a volume with several threads. `tick` sees how much was tried.
pub fn run(victim: &Victim, damages: &[Damage], jobs: usize, tick: impl Fn(u64) + Sync) -> Outcome {
    let unharmed = victim.findings(&victim.image);
    each(damages, jobs, |at, damage, out| {
        tick(at);
        try_one(victim, damage, &unharmed, out);
    })
}

pub(crate) fn try_one(victim: &Victim, damage: &Damage, unharmed: &[String], out: &mut Outcome) {
    let mut image = victim.image.clone();
    if !damage.apply(victim, &mut image) {
        return;
    }
    out.tried += 1;
    let result = watch(|| victim.examine(&image, victim.may_look_torn(damage))).unwrap_or_else(Err);
    let what = match result {
        Ok(what) if what != ALL_THERE && victim.must_be_healed(damage) => {
            out.failures
                .push(format!("{damage:?}: {what}, though there is a second copy"));
            return;
        }
        Ok(_) if victim.must_be_healed(damage) => HEALED,
        Ok(what) => what,
        Err(what) => {
            out.failures.push(format!("{damage:?}: {what}"));
            return;
        }
    };
    if victim.heals(damage) {
        if what != ALL_THERE {
            let missed = format!("{damage:?}: {what}, where parity heals");
            out.failures.push(missed);
            return;
        }
        out.marks.hit("healed, or of no use");
    }
    out.marks.hit(what);
    match watch(|| victim.findings(&image)) {
        Ok(findings) if findings != unharmed => out.marks.hit("verify told of it"),
        // Whole sectors can be replaced by what stood there before, where nothing counts.
        Ok(_) if [ALL_THERE, HEALED].contains(&what) && !matches!(damage, Damage::Bit(..)) => {
            out.marks.hit("harmless, and verify did not tell");
        }
        // As `docs/faults.md` says: without its end the journal looks torn.
        Ok(_) if what == LOOKS_TORN && !matches!(damage, Damage::Bit(..)) => {
            out.marks.hit("looks torn to verify, too");
        }
        // What a file holds that no generation names is nobody's; verify told of the file before.
        Ok(_) if what == ALL_THERE && damage.is_in(unharmed) => {
            out.marks.hit("harmless, in a file that nothing names");
        }
        Ok(_) => out
            .failures
            .push(format!("{damage:?}: {what}, and verify does not tell")),
        Err(panic) => out.failures.push(format!("{damage:?}: verify: {panic}")),
    }
}

/// The volumes that are damaged: one closed, one cut off, one with parity.
pub fn victims(seed: u64, choice: Choice) -> std::result::Result<Vec<Victim>, Failure> {
    Ok(vec![
        Victim::make(seed, 60, true, choice)?,
        Victim::make(seed + 1, 60, false, choice)?,
        Victim::with_parity(seed, 60, choice)?,
    ])
}
