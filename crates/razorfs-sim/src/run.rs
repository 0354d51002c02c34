//! Whole runs: what one seed does, and replaying a list of operations.

use crate::driver::{Failure, Runner};
use crate::marks::Marks;
use crate::op::{Fault, Op};
use crate::panics::watch;
use crate::rng::{Rng, mix};
use crate::subject::Machine;
use crate::workload::Workload;

/// What a run is to find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Answers that differ from the model's; the power stays on.
    Differential,
    /// What a power cut breaks.
    Cuts,
    /// What the death of the process breaks.
    Deaths,
    /// What a failing or full disk breaks.
    Faults,
}

/// How large a run is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Operations between two cuts.
    pub ops: u64,
    /// Cuts in one run.
    pub rounds: u64,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// The operations.
    pub ops: Vec<Op>,
    /// What went wrong, if something did.
    pub failure: Option<Failure>,
    /// Power cuts survived.
    pub cuts: u64,
    /// Changing calls to the disk.
    pub calls: u64,
    /// What happened.
    pub marks: Marks,
}

/// Runs what `next` gives until it gives nothing, or something fails.
fn drive<M: Machine>(machine: M, mut next: impl FnMut(&Runner<M>, usize) -> Option<Op>) -> Report {
    let mut report = Report {
        ops: Vec::new(),
        failure: None,
        cuts: 0,
        calls: 0,
        marks: Marks::default(),
    };
    let started = watch(|| Runner::start(machine));
    let mut runner = match started {
        Ok(Ok(runner)) => runner,
        Ok(Err(failure)) => {
            report.failure = Some(failure);
            return report;
        }
        Err(what) => {
            report.failure = Some(Failure { at: 0, what });
            return report;
        }
    };
    while let Some(op) = next(&runner, report.ops.len()) {
        report.ops.push(op.clone());
        let at = report.ops.len();
        report.failure = match watch(|| runner.run(&op)) {
            Ok(Ok(())) => continue,
            Ok(Err(failure)) => Some(failure),
            Err(what) => Some(Failure { at, what }),
        };
        break;
    }
    report.cuts = runner.cuts;
    report.calls = runner.machine().calls();
    report.marks = std::mem::take(&mut runner.marks);
    // A panic may have left locks behind that dropping would wait for.
    if report
        .failure
        .as_ref()
        .is_some_and(|f| f.what.starts_with("panic"))
    {
        std::mem::forget(runner);
    } else {
        let closed = watch(|| drop(runner.into_machine()));
        if let (Err(what), None) = (closed, &report.failure) {
            report.failure = Some(Failure {
                at: report.ops.len(),
                what,
            });
        }
    }
    report
}

/// Runs a list of operations.
pub fn replay<M: Machine>(machine: M, ops: &[Op]) -> Report {
    drive(machine, |_, at| ops.get(at).cloned())
}

/// Runs a list of operations until the power has gone once.
pub fn replay_to_cut<M: Machine>(machine: M, ops: &[Op]) -> Report {
    drive(machine, |runner, at| {
        if runner.cuts > 0 {
            None
        } else {
            ops.get(at).cloned()
        }
    })
}

/// Runs what a seed says.
pub fn run_seed<M: Machine>(machine: M, seed: u64, mode: Mode, size: Size) -> Report {
    let mut workload = Workload::new(mix(seed, 1))
        .with_snapshots(machine.has_snapshots(), seed)
        .with_branches(machine.has_branches(), seed)
        .with_merges(machine.has_merges(), seed)
        .with_streams(machine.has_streams(), seed)
        .with_moments(machine.has_moments(), seed);
    let mut script = Script::new(seed, mode, size);
    drive(machine, |runner, at| {
        script.next(at as u64, runner, &mut workload)
    })
}

/// Where in the workload the power goes, faults strike, and everything is compared.
struct Script {
    rng: Rng,
    mode: Mode,
    size: Size,
    round: u64,
    /// The operation before which the next event comes.
    event: u64,
    /// Whether the next event is the start (arming, planting) or the end of a round.
    armed: bool,
    cuts_seen: u64,
    ending: u8,
}

impl Script {
    fn new(seed: u64, mode: Mode, size: Size) -> Self {
        let mut script = Self {
            rng: Rng::new(mix(seed, 2)),
            mode,
            size,
            round: 0,
            event: 0,
            armed: false,
            cuts_seen: 0,
            ending: 0,
        };
        script.event = script.gap();
        script
    }

    fn gap(&mut self) -> u64 {
        1 + self.rng.range(0..self.size.ops * 2)
    }

    fn cut(&mut self, calls: u64) -> Op {
        let again = match self.rng.range(0..6) {
            0 => vec![self.rng.range(0..30)],
            1 => vec![
                self.rng.range(0..12),
                self.rng.range(0..20),
                self.rng.range(0..60),
            ],
            _ => Vec::new(),
        };
        Op::Cut {
            calls,
            seed: self.rng.next(),
            again,
        }
    }

    fn next<M: Machine>(
        &mut self,
        at: u64,
        runner: &Runner<M>,
        workload: &mut Workload,
    ) -> Option<Op> {
        if self.mode == Mode::Differential {
            if at < self.size.ops * self.size.rounds {
                return Some(workload.next(runner.model()));
            }
            self.ending += 1;
            return match self.ending {
                1 => Some(Op::CheckAll),
                2 => Some(Op::Reopen),
                _ => None,
            };
        }
        if runner.cuts > self.cuts_seen {
            // The armed cut came.
            self.cuts_seen = runner.cuts;
            self.armed = false;
            self.round += 1;
            self.event = at + self.gap();
        }
        if self.round >= self.size.rounds {
            return None;
        }
        if at < self.event {
            return Some(workload.next(runner.model()));
        }
        self.event = at + 1 + self.gap();
        if self.armed {
            return Some(self.cut(0));
        }
        if self.mode == Mode::Faults && !self.rng.chance(30) {
            // The round goes on after the fault, then the power goes.
            if runner.is_latched() || self.rng.chance(20) {
                return Some(self.cut(0));
            }
            return Some(Op::Fault(self.fault()));
        }
        self.armed = true;
        let calls = match self.rng.range(0..4) {
            0 => self.rng.range(0..6),
            1 => self.rng.range(0..200),
            _ => self.rng.range(0..40),
        };
        Some(self.cut(calls))
    }

    fn fault(&mut self) -> Fault {
        match self.rng.range(0..8) {
            0 | 1 => Fault::SyncFails(self.rng.range(0..6)),
            2 => Fault::Full(self.rng.range(0..30)),
            3 | 4 => Fault::Capacity(self.rng.range(0..600_000)),
            5 | 6 => Fault::ShortWrite(self.rng.range(0..10)),
            _ => Fault::None,
        }
    }
}
