//! Many runs on several threads, with their sum.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::driver::Failure;
use crate::engine::{EngineMachine, Setup, Verify};
use crate::marks::Marks;
use crate::op::Op;
use crate::rng::mix;
use crate::run::{Mode, Report, Size, replay, replay_to_cut, run_seed};
use crate::setup::Choice;
use crate::shrink::shrink;

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What to look for.
    pub mode: Mode,
    /// Size of each run.
    pub size: Size,
    /// The first seed.
    pub first_seed: u64,
    /// Most runs.
    pub runs: u64,
    /// Enough cuts.
    pub cuts: u64,
    /// Threads.
    pub jobs: usize,
    /// Failures after which to stop.
    pub most_failures: usize,
    /// Runs to spend on shrinking each failure.
    pub shrink_budget: usize,
    /// What the seed does not say.
    pub choice: Choice,
    /// Checker of the disk.
    pub verify: Option<Verify>,
}

impl Plan {
    /// The machine of a seed.
    #[must_use]
    pub fn machine(&self, seed: u64) -> EngineMachine {
        let machine = EngineMachine::new(self.choice.setup(seed), self.verify);
        match self.mode {
            Mode::Deaths => machine.with_deaths(),
            _ => machine,
        }
    }

    /// Runs one seed.
    #[must_use]
    pub fn run(&self, seed: u64) -> Report {
        run_seed(self.machine(seed), seed, self.mode, self.size)
    }
}

/// A run that failed, shrunk.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Its seed.
    pub seed: u64,
    /// How the whole run failed.
    pub first: Failure,
    /// Length of the whole run.
    pub length: usize,
    /// The operations that are left.
    pub ops: Vec<Op>,
    /// How they fail.
    pub failure: Failure,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "FAILURE seed {}: operation {} of the run: {}",
            self.seed, self.first.at, self.first.what
        )?;
        let setup = Setup::of(self.seed);
        writeln!(f, "  {:?}, {:?}", setup.durability, setup.compression)?;
        writeln!(
            f,
            "  shrunk from {} to {} operations:",
            self.length,
            self.ops.len()
        )?;
        for (i, op) in self.ops.iter().enumerate() {
            writeln!(f, "    {:>3}  {op}", i + 1)?;
        }
        write!(
            f,
            "  => operation {}: {}",
            self.failure.at, self.failure.what
        )
    }
}

/// What came of the runs.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Runs done.
    pub runs: u64,
    /// Power cuts survived.
    pub cuts: u64,
    /// Operations done.
    pub ops: u64,
    /// Changing calls to the disks.
    pub calls: u64,
    /// One past the highest seed that was run.
    pub end_seed: u64,
    /// What happened.
    pub marks: Marks,
    /// What went wrong.
    pub findings: Vec<Finding>,
}

impl Summary {
    /// Adds what others did.
    pub fn add(&mut self, other: Self) {
        self.runs += other.runs;
        self.cuts += other.cuts;
        self.ops += other.ops;
        self.calls += other.calls;
        self.end_seed = self.end_seed.max(other.end_seed);
        self.marks.merge(&other.marks);
        self.findings.extend(other.findings);
    }
}

/// Shrinks a failed run.
#[must_use]
pub fn finding(plan: &Plan, seed: u64, report: &Report, failure: &Failure) -> Finding {
    let shrunk = shrink(&report.ops, failure, plan.shrink_budget, |ops| {
        replay(plan.machine(seed), ops).failure
    });
    Finding {
        seed,
        first: failure.clone(),
        length: report.ops.len(),
        ops: shrunk.ops,
        failure: shrunk.failure,
    }
}

/// Cuts the power once at every changing call of one run, each time in a new run. `tick` sees the
/// sum after each.
pub fn exhaustive(plan: &Plan, seed: u64, tick: impl Fn(&Summary)) -> Summary {
    let calm = run_seed(plan.machine(seed), seed, Mode::Differential, plan.size);
    let mut sum = Summary {
        end_seed: seed + 1,
        ..Summary::default()
    };
    let mut ops = vec![Op::Sync];
    ops.extend(calm.ops);
    ops.push(Op::Cut {
        calls: 0,
        seed,
        again: Vec::new(),
    });
    for calls in 1..=calm.calls {
        if let Some(first) = ops.first_mut() {
            *first = Op::Cut {
                calls,
                seed: mix(seed, calls),
                again: Vec::new(),
            };
        }
        let report = replay_to_cut(plan.machine(seed), &ops);
        sum.runs += 1;
        sum.cuts += report.cuts;
        sum.ops += report.ops.len() as u64;
        sum.calls += report.calls;
        sum.marks.merge(&report.marks);
        if let Some(failure) = &report.failure {
            sum.findings.push(finding(plan, seed, &report, failure));
        }
        tick(&sum);
        if sum.findings.len() >= plan.most_failures {
            break;
        }
    }
    sum
}

/// Runs seeds until there are enough. `tick` sees the sum after each run and says whether to go
/// on.
pub fn run(plan: &Plan, tick: impl Fn(&Summary) -> bool + Sync) -> Summary {
    let next = AtomicU64::new(plan.first_seed);
    let stop = AtomicBool::new(false);
    let end = plan.first_seed.saturating_add(plan.runs);
    let sum = Arc::new(Mutex::new(Summary {
        end_seed: plan.first_seed,
        ..Summary::default()
    }));
    std::thread::scope(|scope| {
        for _ in 0..plan.jobs.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let report = plan.run(seed);
                    let found = report
                        .failure
                        .as_ref()
                        .map(|f| finding(plan, seed, &report, f));
                    let mut sum = sum.lock();
                    sum.runs += 1;
                    sum.cuts += report.cuts;
                    sum.ops += report.ops.len() as u64;
                    sum.calls += report.calls;
                    sum.end_seed = sum.end_seed.max(seed + 1);
                    sum.marks.merge(&report.marks);
                    sum.findings.extend(found);
                    let go_on = tick(&sum);
                    let enough =
                        !go_on || sum.cuts >= plan.cuts || sum.findings.len() >= plan.most_failures;
                    if enough {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    Arc::try_unwrap(sum)
        .map(Mutex::into_inner)
        .unwrap_or_default()
}

/// Each seed once, on several threads. `one` runs a seed, adds what came of it to the sum, and
/// answers whether to go on.
pub fn each_seed<S: Default + Send>(
    seeds: std::ops::Range<u64>,
    jobs: usize,
    one: impl Fn(u64, &Mutex<S>) -> bool + Sync,
) -> S {
    let next = AtomicU64::new(seeds.start);
    let sum = Mutex::new(S::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || !one(seed, &sum) {
                        return;
                    }
                }
            });
        }
    });
    sum.into_inner()
}
