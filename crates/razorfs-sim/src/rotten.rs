//! Disks that lie: a sync that reports success and does nothing, writes that are lost or go to
//! another place, bits that flip at rest. A few of them strike in the course of a run. The host's
//! cache hides them until the power goes, the process dies, or the volume is closed and the cache
//! dropped; then the volume is opened again.
//!
//! Whatever it then answers must be right, or an error. If it shows a state older than what was
//! acknowledged, it must say so, or the checker must: unless nothing on the disk proves that more
//! was durable, as with the very last batches on a disk that lied about them.

use parking_lot::Mutex;
use razorfs::{Ino, NewNode};
use razorfs_disk::sim::{Image, SimDisk};
use razorfs_disk::{Dir, Name};
use razorfs_format::journal::{BatchHeader, SECTOR, Sector, UNIT};
use razorfs_format::layout::FileName;
use razorfs_format::superblock::{SLOT, Superblock, pick};
use razorfs_format::{BatchSeq, Place};

use crate::driver::Runner;
use crate::engine::{EngineFs, EngineMachine, is_refusal};
use crate::farm::each_seed;
use crate::marks::Marks;
use crate::model::Model;
use crate::op::{Fault, Op, Work};
use crate::panics::watch;
use crate::rng::{Rng, mix};
use crate::setup::Choice;
use crate::subject::{FileSystem, Machine};
use crate::survey::survey;
use crate::workload::Workload;

/// Times that a volume goes on after it was opened again, at most.
const ROUNDS: u64 = 3;
/// More changing calls than any round needs: who goes on for ever is stopped.
const CALLS_MAX: u64 = 400_000;

/// What came of the runs.
#[derive(Default)]
pub struct Summary {
    /// How often what happened.
    pub marks: Marks,
    /// What went wrong, with the seed.
    pub failures: Vec<String>,
    /// Runs.
    pub runs: u64,
    /// Faults that were planted.
    pub faults: u64,
    /// Volumes that were opened again.
    pub opened: u64,
}

impl Summary {
    /// Adds what others did.
    pub fn add(&mut self, other: Self) {
        self.marks.merge(&other.marks);
        self.failures.extend(other.failures);
        self.runs += other.runs;
        self.faults += other.faults;
        self.opened += other.opened;
    }
}

/// A round, and an operation in it.
type Moment = (u64, usize);

/// A state that the volume was in, and after which operation.
type State = (Moment, Model);

/// One run.
struct Run {
    rng: Rng,
    states: Vec<State>,
    /// The operation up to which everything was acknowledged.
    acknowledged: Moment,
    round: u64,
    marks: Marks,
    faults: u64,
    opened: u64,
}

/// What the volume is found to be.
enum Found {
    /// In the state of this number, in full.
    State(usize),
    /// Something is lost, and that was told; the run ends.
    Told,
}

impl Run {
    fn new(seed: u64) -> Self {
        Self {
            rng: Rng::new(mix(seed, 21)),
            states: Vec::new(),
            acknowledged: (0, 0),
            round: 0,
            marks: Marks::default(),
            faults: 0,
            opened: 0,
        }
    }

    fn all(&mut self, seed: u64, choice: Choice) -> Result<(), String> {
        let setup = choice.setup(seed);
        let (has_snapshots, has_branches) = (setup.snapshots, setup.branches);
        let machine = EngineMachine::new(setup, None).left_alone();
        let told = |f: crate::driver::Failure| format!("operation {}: {}", f.at, f.what);
        let mut runner = Runner::start(machine).map_err(told)?;
        let mut workload = Workload::small(mix(seed, 22))
            .with_snapshots(has_snapshots, seed)
            .with_branches(has_branches, seed);
        for round in 0..=ROUNDS {
            self.work(&mut runner, &mut workload).map_err(told)?;
            let mut machine = self.end(runner);
            let Some((fs, found)) = self.examine(&mut machine)? else {
                return Ok(());
            };
            match found {
                Found::State(at) if round < ROUNDS => {
                    // What came after it is no state of this volume any more.
                    self.states.truncate(at + 1);
                    let mut model = self.states.last().map(|s| s.1.clone());
                    if let Some(model) = &mut model {
                        let names = fs.snapshots();
                        model.learn_names(names.iter().map(|n| Some(n.as_str())));
                    }
                    self.round = round + 1;
                    self.acknowledged = (self.round, 0);
                    let model = model.unwrap_or_default();
                    runner = Runner::resume(machine, fs, model).map_err(told)?;
                }
                _ => {
                    let done = self.go_on(&fs);
                    if machine.is_dead() {
                        return Err("going on comes to no end".into());
                    }
                    machine.arm(0);
                    drop(fs);
                    return done;
                }
            }
        }
        Ok(())
    }

    /// A part of the workload, with faults among it.
    fn work(
        &mut self,
        runner: &mut Runner<EngineMachine>,
        workload: &mut Workload,
    ) -> Result<(), crate::driver::Failure> {
        let ops = self.rng.range(5..90);
        let planted = self.rng.range(1..4);
        let mut at: Vec<u64> = (0..planted).map(|_| self.rng.range(0..ops)).collect();
        at.sort_unstable();
        self.note(runner);
        for n in 0..ops {
            for _ in at.iter().filter(|at| **at == n) {
                let fault = self.fault();
                self.faults += 1;
                runner.run(&Op::Fault(fault))?;
            }
            let op = match self.rng.range(0..30) {
                0 => Op::Sync,
                1 => Op::Checkpoint,
                2 => Op::Step(Work::Commit),
                _ => workload.next(runner.model()),
            };
            // What happens to a volume that is closed is looked at below.
            if !matches!(op, Op::Reopen | Op::Cut { .. } | Op::Fault(_)) {
                runner.run(&op)?;
                self.note(runner);
            }
        }
        if self.rng.chance(60) {
            runner.run(&Op::Sync)?;
            self.note(runner);
        }
        Ok(())
    }

    fn fault(&mut self) -> Fault {
        let n = self.rng.range(0..12);
        match self.rng.range(0..10) {
            0..3 => Fault::Lie(n / 3),
            3 => Fault::LieOfNames(n / 4),
            4..7 => Fault::Lose(n),
            _ => Fault::Misdirect(n),
        }
    }

    /// Keeps the state that the volume is in, and what is acknowledged.
    fn note(&mut self, runner: &Runner<EngineMachine>) {
        if let Some(first) = runner.history.first() {
            self.acknowledged = (self.round, first.op);
        }
        for state in &runner.history {
            let at = (self.round, state.op);
            if self.states.last().is_none_or(|(last, _)| *last < at) {
                let mut model = state.model.clone();
                model.close_all();
                self.states.push((at, model));
            }
        }
    }

    /// The power goes, the process dies or the volume is closed; and then the cache is gone.
    fn end(&mut self, mut runner: Runner<EngineMachine>) -> EngineMachine {
        runner.collect_acknowledgements();
        self.note(&runner);
        runner.forget_what_was_left();
        let how = self.rng.range(0..3);
        if how == 0
            && let Some(fs) = runner.fs.take()
        {
            if fs.close().is_ok() {
                self.acknowledged = self.states.last().map_or((0, 0), |s| s.0);
            }
            self.marks.hit("closed");
        }
        let mut machine = runner.into_machine();
        match how {
            0 | 1 => {
                self.marks.hit("the cache was dropped");
                machine.lose_cache();
            }
            _ => {
                self.marks.hit("cut");
                machine.revive(self.rng.next());
            }
        }
        if self.rng.chance(15) {
            self.flip(machine.disk());
        }
        machine
    }

    /// A bit flips at rest.
    fn flip(&mut self, disk: &SimDisk) {
        let files = disk.files();
        let files: Vec<_> = files.iter().filter(|(_, len)| *len > 0).collect();
        if let Some((name, len)) = self.rng.pick(&files) {
            self.marks.hit("a bit flipped");
            self.faults += 1;
            disk.flip_bit(name, self.rng.range(0..*len), self.rng.range(0..8) as u8);
        }
    }

    /// Opens the volume, and finds out what it is; nothing if it was refused.
    fn examine(
        &mut self,
        machine: &mut EngineMachine,
    ) -> Result<Option<(EngineFs, Found)>, String> {
        let image = machine.disk().image();
        let sound = razorfs_verify::verify(machine.disk(), razorfs_verify::LEVEL_MAX, &mut |_| ());
        let sound = sound.is_ok_and(|report| report.is_sound());
        if self.rng.chance(30) {
            self.faults += 1;
            machine.fault(self.fault());
        }
        machine.arm(CALLS_MAX);
        self.opened += 1;
        let fs = match machine.open() {
            Ok(fs) => fs,
            Err(_) if machine.is_dead() => return Err("recovery comes to no end".into()),
            Err(e) if is_refusal(&e) || e.errno() == libc::ENOENT => {
                self.marks.hit("opening was refused");
                return Ok(None);
            }
            Err(e) => return Err(format!("open answered \"{e}\"")),
        };
        let degraded = fs.degraded();
        let mut wrong = Vec::new();
        let mut found = None;
        for (at, (op, model)) in self.states.iter().enumerate().rev() {
            match survey(&fs, model) {
                Ok(refused) => {
                    found = Some((at, *op, refused));
                    break;
                }
                Err(what) => wrong.push(format!("not as after {op:?}: {what}")),
            }
        }
        let Some((at, op, refused)) = found else {
            wrong.truncate(3);
            return Err(format!(
                "what it shows was never there ({degraded:?}, sound: {sound}): {}",
                wrong.join("; ")
            ));
        };
        let older = op < self.acknowledged;
        let told = degraded.is_some() || !sound || refused > 0;
        self.marks.hit(match (older, &degraded, refused) {
            (_, Some(_), _) => "damage was told at opening",
            (_, None, 1..) => "some reads were refused",
            (false, None, 0) if sound => "all there",
            (false, None, 0) => "all there, verify tells of damage",
            (true, None, 0) if told => "acknowledged work is lost, verify tells",
            (true, None, 0) => "acknowledged work is lost, and nothing proves it",
        });
        if told {
            return Ok(Some((fs, Found::Told)));
        }
        let last = fs.last_replayed(&image);
        let proved = proved(&image);
        if older && proved > last {
            return Err(format!(
                "acknowledged work is lost and not told: the state is that after {op:?}, \
                 {:?} was acknowledged; replayed to batch {last}, {proved} was durable",
                self.acknowledged
            ));
        }
        Ok(Some((fs, Found::State(at))))
    }

    /// Whatever became of the volume, it goes on being used: answers are right, or errors.
    fn go_on(&mut self, fs: &EngineFs) -> Result<(), String> {
        let mut kept = Vec::new();
        for n in 0..6u64 {
            let name = format!("after the damage {n}");
            let made = fs.create_node(Ino::ROOT, name.as_bytes(), &NewNode::file(0o600));
            let Ok(stat) = made else {
                continue;
            };
            let data: Vec<u8> = (0..self.rng.range(1..40_000))
                .map(|i| (i * n) as u8)
                .collect();
            if fs.write(stat.ino, 0, &data).is_ok() {
                kept.push((stat.ino, data));
            }
            for work in Work::ALL {
                let _: Result<bool, _> = fs.step(work);
            }
            if n % 2 == 0 {
                let _: Result<(), _> = fs.sync();
            }
        }
        for (ino, data) in kept {
            let mut read = vec![0xee; data.len() + 1];
            match fs.read(ino, 0, &mut read) {
                Ok(got) if read.get(..got) == Some(&*data) => {}
                Ok(got) => return Err(format!("{got} wrong bytes of a file written just now")),
                Err(_) => self.marks.hit("a read was refused after the damage"),
            }
        }
        Ok(())
    }
}

/// The newest batch that anything on the disk says was durable.
fn proved(image: &Image) -> BatchSeq {
    let Some(newest) = newest(image) else {
        return BatchSeq(0);
    };
    let (vid, start) = (newest.vid(), newest.journal);
    let mut durable = newest.clean_end().unwrap_or_default();
    for (name, _) in image.files().filter(|f| f.0.dir == Dir::Journal) {
        let bytes = image.bytes(name).unwrap_or_default();
        for (unit, sectors) in bytes.chunks(UNIT).enumerate().skip(1) {
            let Some(first) = sectors.first_chunk::<SECTOR>() else {
                continue;
            };
            let number = (unit * UNIT / SECTOR) as u32;
            let Sector::Stamped {
                jid,
                seq_lo,
                payload,
            } = Sector::read(vid, number, first)
            else {
                continue;
            };
            let place = Place::new(FileName::Journal(0), 0);
            let header = BatchHeader::decode(vid, jid, seq_lo, payload, place);
            if let Ok(header) = header
                && jid >= start.jid
            {
                durable = durable.max(header.durable);
            }
        }
    }
    durable
}

/// The newest superblock.
pub fn newest(image: &Image) -> Option<Superblock> {
    let bytes = image.bytes(&Name::new(Dir::Root, &FileName::Super.leaf()))?;
    let slots = bytes.chunks(SLOT).enumerate();
    let slots: Vec<_> = slots
        .map(|(n, bytes)| Superblock::decode(n, bytes))
        .collect();
    pick(&slots).map(|(_, superblock)| superblock.clone())
}

/// One seed.
pub fn run_seed(seed: u64, choice: Choice) -> Summary {
    let mut sum = Summary {
        runs: 1,
        ..Summary::default()
    };
    let result = watch(|| {
        let mut run = Run::new(seed);
        let result = run.all(seed, choice);
        (result, run.marks, run.faults, run.opened)
    });
    let failure = match result {
        Ok((result, marks, faults, opened)) => {
            (sum.marks, sum.faults, sum.opened) = (marks, faults, opened);
            result.err()
        }
        Err(panic) => Some(panic),
    };
    sum.failures
        .extend(failure.map(|what| format!("seed {seed}: {what}")));
    sum
}

/// Many seeds, with several threads; `tick` sees what there is so far, and ends it with `false`.
pub fn run(
    seeds: std::ops::Range<u64>,
    choice: Choice,
    jobs: usize,
    tick: impl Fn(&Summary) -> bool + Sync,
) -> Summary {
    each_seed(seeds, jobs, |seed, all: &Mutex<Summary>| {
        let mine = run_seed(seed, choice);
        let mut all = all.lock();
        all.add(mine);
        tick(&all)
    })
}
