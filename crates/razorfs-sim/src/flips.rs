//! Rot: one bit after the other of a small volume is flipped, and sectors are overwritten. Whatever
//! the volume then answers must be right, or an error that says so; never wrong bytes, never a
//! panic.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use razorfs::{Error, FileKind, Ino};
use razorfs_disk::sim::Image;
use razorfs_disk::{Dir, Name};

use crate::driver::{Failure, Runner};
use crate::engine::{EngineFs, EngineMachine, Setup, is_refusal};
use crate::looks::check_stat;
use crate::marks::Marks;
use crate::model::{Model, Node};
use crate::names;
use crate::op::Op;
use crate::panics::watch;
use crate::rng::{Rng, mix};
use crate::subject::{FileSystem, Machine};
use crate::workload::Workload;

/// A volume to damage, and the states it may show.
pub struct Victim {
    /// Its files.
    pub image: Image,
    pub(crate) setup: Setup,
    closed: bool,
    /// The state it is in.
    pub(crate) model: Model,
    /// The states before, which it may show if it says that it lost the later ones.
    pub(crate) before: Vec<Model>,
    /// What its files were before.
    pub(crate) older: Vec<Image>,
}

impl Victim {
    /// A volume after `ops` operations of a seed's workload: closed, or cut off after a sync.
    pub fn make(seed: u64, ops: usize, close: bool) -> std::result::Result<Self, Failure> {
        let mut setup = Setup::of(seed);
        // Most of a young volume is its ring; a small one leaves time for every bit.
        setup.geometry.journal_initial_file = 32 << 10;
        setup.geometry.journal_max_file = 64 << 10;
        Self::of(setup, seed, ops, close)
    }

    /// The same with other sizes.
    pub(crate) fn of(
        setup: Setup,
        seed: u64,
        ops: usize,
        close: bool,
    ) -> std::result::Result<Self, Failure> {
        let mut runner = Runner::start(EngineMachine::new(setup.clone(), None))?;
        let mut workload = Workload::small(mix(seed, 5));
        let (mut before, mut older) = (vec![runner.model().clone()], Vec::new());
        for n in 0..ops {
            let op = workload.next(runner.model());
            runner.run(&op)?;
            if n % 10 == 9 {
                older.push(runner.machine().disk().image());
            }
            let mut state = runner.model().clone();
            state.close_all();
            before.push(state);
        }
        runner.run(&if close { Op::Reopen } else { Op::Sync })?;
        let mut model = runner.model().clone();
        model.close_all();
        let machine = runner.into_machine();
        Ok(Self {
            image: machine.disk().image(),
            setup,
            closed: close,
            model,
            before,
            older,
        })
    }

    /// The last batch with a sector of zeros in it, or without its file, looks like one that was
    /// never written whole: no format can tell, as long as nothing after it says that it was.
    pub(crate) fn may_look_torn(&self, damage: &Damage) -> bool {
        match damage {
            Damage::Sector(name, _, false) | Damage::Gone(name) | Damage::Short(name, _) => {
                !self.closed && name.dir == Dir::Journal
            }
            _ => false,
        }
    }

    /// What verify finds, notes included.
    fn findings(&self, image: &Image) -> Vec<String> {
        let machine = EngineMachine::with_image(self.setup.clone(), image);
        let report = razorfs_verify::verify(machine.disk(), razorfs_verify::LEVEL_MAX, &mut |_| ());
        match report {
            Ok(report) => report.findings.iter().map(ToString::to_string).collect(),
            Err(e) => vec![e.to_string()],
        }
    }

    /// What the volume answers if it is on a disk with these files.
    fn examine(&self, image: &Image, torn: bool) -> std::result::Result<&'static str, String> {
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

/// The answer of a volume that lost the end of its journal without a trace.
const LOOKS_TORN: &str = "the end of the journal taken for torn";
/// The answer of a volume that damage did not reach.
const ALL_THERE: &str = "all there";

/// Reads everything that `model` has; answers how many calls were refused, or what was wrong.
fn survey(fs: &EngineFs, model: &Model) -> std::result::Result<u64, String> {
    let mut refused = 0;
    for (ino, node) in model.nodes().filter(|(_, n)| n.nlink > 0) {
        let what = |e: String| format!("{} (inode {ino}): {e}", model.path_of(ino));
        let mut answer = |result: std::result::Result<(), Bad>| match result {
            Ok(()) => Ok(()),
            Err(Bad::Refused) => {
                refused += 1;
                Ok(())
            }
            Err(Bad::Wrong(e)) => Err(what(e)),
        };
        answer(
            fs.stat(ino)
                .map_err(bad)
                .and_then(|s| check_stat(&s, ino, node).map_err(Bad::Wrong)),
        )?;
        match node.kind {
            FileKind::Directory => {
                answer(list(fs, ino, node))?;
                for (name, child) in &node.entries {
                    let found = fs.lookup(ino, names::bytes(*name)).map_err(bad);
                    answer(found.and_then(|s| same(s.ino, *child, "another inode")))?;
                }
                answer(
                    fs.parent_of(ino)
                        .map_err(bad)
                        .and_then(|p| same(p, node.parent, "parent")),
                )?;
            }
            FileKind::Regular => {
                let mut at = 0;
                while at < node.size {
                    answer(read(fs, ino, node, at))?;
                    at += PIECE as u64;
                }
            }
            FileKind::Symlink => {
                let found = fs.read_link(ino).map_err(bad);
                answer(found.and_then(|t| same(&*t, &*node.target, "another target")))?;
            }
            _ => {}
        }
        answer(attributes(fs, ino, node))?;
    }
    Ok(refused)
}

pub(crate) const PIECE: usize = 16 * 1024;

#[derive(Debug)]
pub(crate) enum Bad {
    Refused,
    Wrong(String),
}

pub(crate) fn bad(error: Error) -> Bad {
    if is_refusal(&error) {
        Bad::Refused
    } else {
        Bad::Wrong(format!("answered \"{error}\""))
    }
}

fn same<T: PartialEq>(found: T, expected: T, what: &str) -> std::result::Result<(), Bad> {
    if found == expected {
        Ok(())
    } else {
        Err(Bad::Wrong(what.into()))
    }
}

pub(crate) fn list(fs: &EngineFs, ino: Ino, node: &Node) -> std::result::Result<(), Bad> {
    let found = fs.entries(ino, 0, usize::MAX).map_err(bad)?;
    let found: BTreeSet<_> = found.iter().map(|e| (names::id(&e.name), e.ino)).collect();
    let want: BTreeSet<_> = node.entries.iter().map(|(n, i)| (Some(*n), *i)).collect();
    same(found, want, "other entries")
}

pub(crate) fn read(fs: &EngineFs, ino: Ino, node: &Node, at: u64) -> std::result::Result<(), Bad> {
    let want = (node.size - at).min(PIECE as u64) as usize;
    let (mut found, mut expected) = (vec![0xee; want], vec![0; want]);
    let got = fs.read(ino, at, &mut found).map_err(bad)?;
    node.content.read(at, &mut expected);
    same(
        (got, found),
        (want, expected),
        &format!("wrong bytes in {at}+{want}"),
    )
}

pub(crate) fn attributes(fs: &EngineFs, ino: Ino, node: &Node) -> std::result::Result<(), Bad> {
    let found = fs.list_xattr(ino).map_err(bad)?;
    let found: BTreeSet<_> = found.iter().map(|n| names::xattr_id(n)).collect();
    let want: BTreeSet<_> = node.xattrs.keys().map(|n| Some(*n)).collect();
    same(found, want, "other attributes")?;
    for (name, value) in &node.xattrs {
        let found = fs.get_xattr(ino, &names::xattr(*name)).map_err(bad)?;
        same(&*found, &*value.bytes, "another attribute's value")?;
    }
    Ok(())
}

/// Damage to one place of one file.
#[derive(Clone, Debug)]
pub enum Damage {
    /// One bit is flipped.
    Bit(Name, u64, u8),
    /// A sector of 512 bytes is overwritten: with zeros, or with noise.
    Sector(Name, u64, bool),
    /// The file is cut short.
    Short(Name, u64),
    /// The file is gone.
    Gone(Name),
}

impl Damage {
    /// Whether it is in a file that one of the findings is about.
    fn is_in(&self, findings: &[String]) -> bool {
        let (Self::Bit(name, ..)
        | Self::Sector(name, ..)
        | Self::Short(name, _)
        | Self::Gone(name)) = self;
        findings
            .iter()
            .any(|finding| finding.contains(&name.to_string()))
    }

    pub(crate) fn apply(&self, image: &mut Image) -> bool {
        match self {
            Self::Bit(name, byte, bit) => image.flip_bit(name, *byte, *bit),
            Self::Sector(name, at, noise) => {
                let mut rng = Rng::new(*at);
                let fill = |_| if *noise { rng.next() as u8 } else { 0 };
                let bytes: Vec<u8> = (0..512).map(fill).collect();
                let old = image.bytes(name).unwrap_or_default();
                let range = *at as usize..(*at as usize + 512).min(old.len());
                let old = old.get(range).unwrap_or_default();
                let new = bytes.get(..old.len()).unwrap_or_default();
                image.write(name, *at, new);
                old != new
            }
            Self::Short(name, len) => image.set_len(name, *len),
            Self::Gone(name) => image.remove(name),
        }
    }
}

/// Which damage is tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effort {
    /// Every bit of every file.
    EveryBit,
    /// One bit of every byte that is not zero and of some that are; every sector.
    Quick,
    /// A sample for ordinary test runs: about this many bits.
    Sample(u64),
}

/// All the damage to try on an image.
#[must_use]
pub fn damages(image: &Image, effort: Effort, seed: u64) -> Vec<Damage> {
    let mut rng = Rng::new(seed);
    let mut out = Vec::new();
    let total = image.total_len().max(1);
    for (name, len) in image.files() {
        let bytes = image.bytes(name).unwrap_or_default();
        for (at, byte) in bytes.iter().enumerate() {
            let at = at as u64;
            let bits: &[u8] = match effort {
                Effort::EveryBit => &[0, 1, 2, 3, 4, 5, 6, 7],
                Effort::Quick if *byte != 0 || rng.chance(2) => &[8],
                // What holds something is the more telling.
                Effort::Sample(n) if *byte != 0 && rng.range(0..total) < 8 * n => &[8],
                Effort::Sample(n) if rng.range(0..total) < n / 8 => &[8],
                _ => &[],
            };
            for bit in bits {
                let bit = if *bit == 8 {
                    rng.range(0..8) as u8
                } else {
                    *bit
                };
                out.push(Damage::Bit(name.clone(), at, bit));
            }
            let sector =
                at.is_multiple_of(512) && (!matches!(effort, Effort::Sample(_)) || rng.chance(5));
            if sector {
                let noise = rng.chance(50);
                out.push(Damage::Sector(name.clone(), at, noise));
            }
        }
        if len > 0 {
            out.push(Damage::Short(name.clone(), rng.range(0..len)));
        }
        out.push(Damage::Gone(name.clone()));
    }
    out
}

/// What came of the damage.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// How often each answer was seen.
    pub marks: Marks,
    /// Damage that was not noticed, or led to a panic.
    pub failures: Vec<String>,
    /// Damage tried.
    pub tried: u64,
}

/// Tries damage on a volume with several threads. `tick` sees how much was tried.
pub fn run(victim: &Victim, damages: &[Damage], jobs: usize, tick: impl Fn(u64) + Sync) -> Outcome {
    let next = AtomicU64::new(0);
    let outcome = Mutex::new(Outcome::default());
    let unharmed = victim.findings(&victim.image);
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                let mut mine = Outcome::default();
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(damage) = damages.get(at as usize) else {
                        break;
                    };
                    tick(at);
                    try_one(victim, damage, &unharmed, &mut mine);
                }
                let mut all = outcome.lock();
                all.marks.merge(&mine.marks);
                all.failures.append(&mut mine.failures);
                all.tried += mine.tried;
            });
        }
    });
    outcome.into_inner()
}

fn try_one(victim: &Victim, damage: &Damage, unharmed: &[String], out: &mut Outcome) {
    let mut image = victim.image.clone();
    if !damage.apply(&mut image) {
        return;
    }
    out.tried += 1;
    let result = watch(|| victim.examine(&image, victim.may_look_torn(damage))).unwrap_or_else(Err);
    let what = match result {
        Ok(what) => what,
        Err(what) => {
            out.failures.push(format!("{damage:?}: {what}"));
            return;
        }
    };
    out.marks.hit(what);
    match watch(|| victim.findings(&image)) {
        Ok(findings) if findings != unharmed => out.marks.hit("verify told of it"),
        // Whole sectors can be replaced by what stood there before, where nothing counts.
        Ok(_) if what == ALL_THERE && !matches!(damage, Damage::Bit(..)) => {
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

/// The volumes that are damaged: one closed, one cut off.
pub fn victims(seed: u64) -> std::result::Result<Vec<Victim>, Failure> {
    Ok(vec![
        Victim::make(seed, 60, true)?,
        Victim::make(seed + 1, 60, false)?,
    ])
}
