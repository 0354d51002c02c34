//! `razorfs-sim`: runs seeds against the engine on a simulated disk, and says what broke.

mod corpus;

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use razorfs::marks::Mark;
use razorfs_disk::Env;
use razorfs_disk::os::OsEnv;
use razorfs_sim::attempts::Outcome;
use razorfs_sim::bits;
use razorfs_sim::coverage;
use razorfs_sim::farm::{self, Plan, Summary};
use razorfs_sim::flips::{self, Effort};
use razorfs_sim::mended;
use razorfs_sim::outcomes;
use razorfs_sim::repairs;
use razorfs_sim::rotten;
use razorfs_sim::run::{Mode, Size};
use razorfs_sim::setup::Choice;
use razorfs_sim::short::{self, Depth};

const USAGE: &str = "razorfs-sim [WHAT] [--seed S] [--runs N] [--jobs J] [--minutes M]

WHAT is one of
  --cuts N        power cuts, until N were survived (default: 10000)
  --deaths N      deaths of the process, or power cuts, until N were survived
  --faults        syncs that fail, short writes, full disks
  --diff          no cuts: answers compared with the reference file system
  --exhaustive    with --seed: a cut at every changing call of the disk of one run
  --corpus        all runs that failed once
  --short         all workloads of one and two operations, cut at every call, with all outcomes
                  of a cut that has few
  --table         what cuts leave of each operation, as a table
  --flips         every bit of a small volume flipped, one at a time
  --bits N        N random bits of a volume of 64 MiB
  --rotten N      N runs on disks that lie about syncs, lose and misplace writes
  --repair N      volumes damaged in many ways and repaired, N of them
and more
  --seed S        with nothing else but WHAT: replays this run and prints it; else the first seed
  --runs N        most runs
  --ops N         operations between two cuts, or damage to a volume (default: 40)
  --failures N    stop after N failures (default: 5)
  --quick         --flips: one bit of every byte, and whole sectors and pages
  --blocks        --flips: sectors and pages alone: zeroed, swapped, replaced by their older selves
  --copies N      copies of the journal, 1 or 2; else the seed says it
  --snapshots N   1: snapshots are among what is done, 0: they are not; else the seed says it
  --branches N    1: branches are among what is done, 0: they are not; else the seed says it
  --merges N      1: branches are committed to each other; else they are not
  --streams N     1: snapshots are sent to another volume, 0: they are not; else the seed says it
  --moments N     1: moments are gone back to; else they are not
  --singles N     --short: of the workloads of one operation, one of N as the seed says
  --every N       --short: of the workloads of two operations, one of N as the seed says
  --part K        --short: part K, counted from 0, of --parts N, which together are all
  --parts N
  --marks         print how often what happened
  --complete      fail unless every rare branch of the engine was taken that such runs lead to";

struct Args {
    mode: Option<Mode>,
    exhaustive: bool,
    short: bool,
    corpus: bool,
    table: bool,
    every: usize,
    part: (usize, usize),
    singles: usize,
    flips: bool,
    repair: Option<u64>,
    bits: Option<u64>,
    rotten: Option<u64>,
    quick: bool,
    blocks: bool,
    cuts: u64,
    seed: Option<u64>,
    runs: Option<u64>,
    jobs: usize,
    minutes: Option<u64>,
    ops: u64,
    choice: Choice,
    failures: usize,
    marks: bool,
    complete: bool,
}

fn parse() -> Result<Args, String> {
    let mut args = Args {
        mode: None,
        exhaustive: false,
        short: false,
        corpus: false,
        table: false,
        every: 1,
        part: (0, 1),
        singles: 1,
        flips: false,
        repair: None,
        bits: None,
        rotten: None,
        quick: false,
        blocks: false,
        cuts: u64::MAX,
        seed: None,
        runs: None,
        jobs: 1,
        minutes: None,
        ops: 40,
        choice: Choice::default(),
        failures: 5,
        marks: false,
        complete: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || -> Result<u64, String> {
            let text = words.next().ok_or(format!("{word} needs a number"))?;
            let hex = text.strip_prefix("0x").map(|t| u64::from_str_radix(t, 16));
            hex.unwrap_or_else(|| text.replace('_', "").parse())
                .map_err(|_| format!("{word} needs a number, not {text}"))
        };
        match word.as_str() {
            "--cuts" => (args.mode, args.cuts) = (Some(Mode::Cuts), number()?),
            "--deaths" => (args.mode, args.cuts) = (Some(Mode::Deaths), number()?),
            "--faults" => args.mode = Some(Mode::Faults),
            "--diff" => args.mode = Some(Mode::Differential),
            "--exhaustive" => args.exhaustive = true,
            "--short" => args.short = true,
            "--corpus" => args.corpus = true,
            "--table" => args.table = true,
            "--singles" => args.singles = number()?.max(1) as usize,
            "--every" => args.every = number()?.max(1) as usize,
            "--part" => args.part.0 = number()? as usize,
            "--parts" => args.part.1 = number()?.max(1) as usize,
            "--flips" => args.flips = true,
            "--bits" => args.bits = Some(number()?),
            "--repair" => args.repair = Some(number()?),
            "--rotten" => args.rotten = Some(number()?),
            "--quick" => args.quick = true,
            "--blocks" => args.blocks = true,
            "--seed" => args.seed = Some(number()?),
            "--runs" => args.runs = Some(number()?),
            "--jobs" => args.jobs = number()? as usize,
            "--minutes" => args.minutes = Some(number()?),
            "--copies" => args.choice.copies = Some(number()?.clamp(1, 2) as u8),
            "--snapshots" => args.choice.snapshots = Some(number()? > 0),
            "--branches" => args.choice.branches = Some(number()? > 0),
            "--streams" => args.choice.streams = Some(number()? > 0),
            "--moments" => args.choice.moments = Some(number()? > 0),
            "--merges" => args.choice.merges = Some(number()? > 0),
            "--ops" => args.ops = number()?.max(1),
            "--failures" => args.failures = number()? as usize,
            "--marks" => args.marks = true,
            "--complete" => args.complete = true,
            _ => return Err(format!("{word} is not known\n\n{USAGE}")),
        }
    }
    Ok(args)
}

fn plan(args: &Args) -> Plan {
    let mode = args.mode.unwrap_or(Mode::Cuts);
    let unbounded = args.minutes.is_some() || args.cuts < u64::MAX;
    let cuts = if args.mode.is_none() && !unbounded {
        10_000
    } else {
        args.cuts
    };
    let runs = match mode {
        Mode::Differential | Mode::Faults if !unbounded => 1000,
        _ => u64::MAX,
    };
    Plan {
        mode,
        size: Size {
            ops: args.ops,
            rounds: 5,
        },
        first_seed: args.seed.unwrap_or(0),
        runs: args.runs.unwrap_or(runs),
        cuts,
        jobs: args.jobs,
        most_failures: args.failures.max(1),
        shrink_budget: 3000,
        choice: args.choice,
        verify: razorfs_sim::VERIFY,
    }
}

fn line(summary: &Summary, first: u64) -> String {
    format!(
        "cuts: {}, failures: {}, seeds {first}..{} ({} runs, {} operations, {} disk calls)",
        summary.cuts,
        summary.findings.len(),
        summary.end_seed,
        summary.runs,
        summary.ops,
        summary.calls
    )
}

fn many(plan: &Plan, args: &Args) -> ExitCode {
    let env = OsEnv;
    let start = env.monotonic();
    let limit = args.minutes.map(|m| m.saturating_mul(60_000_000_000));
    let (printed, shown) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut summary = farm::run(plan, |sum| {
        let seen = shown.swap(sum.findings.len() as u64, Ordering::Relaxed);
        for finding in sum.findings.iter().skip(seen as usize) {
            println!("{finding}\n");
        }
        let elapsed = env.monotonic() - start;
        let due = elapsed / 5_000_000_000;
        if printed.swap(due, Ordering::Relaxed) < due {
            println!(
                "{} s: {}",
                elapsed / 1_000_000_000,
                line(sum, plan.first_seed)
            );
        }
        limit.is_none_or(|limit| elapsed < limit)
    });
    for _ in 0..MORE {
        let complete = !args.complete
            || coverage::missing(plan.mode, args.choice.merges == Some(true)).is_empty();
        if complete || !summary.findings.is_empty() {
            break;
        }
        let first_seed = summary.end_seed;
        summary.add(farm::run(
            &Plan {
                first_seed,
                ..*plan
            },
            |_| true,
        ));
    }
    let elapsed = env.monotonic() - start;
    if args.marks {
        println!("{}\n{}", summary.marks, coverage::taken());
    }
    println!("{} µs a run", elapsed / 1000 / summary.runs.max(1));
    println!("{}", line(&summary, plan.first_seed));
    let complete = !args.complete
        || is_complete(&coverage::missing(
            plan.mode,
            args.choice.merges == Some(true),
        ));
    ExitCode::from(u8::from(!summary.findings.is_empty() || !complete))
}

/// The rarest branches come with luck: as many runs again, that often, before one counts as never
/// taken.
const MORE: u64 = 4;

/// Tells of the branches that were not taken.
fn is_complete(missing: &[Mark]) -> bool {
    for mark in missing {
        println!("NEVER TAKEN: {}", mark.text());
    }
    missing.is_empty()
}

/// One seed, step by step.
fn one(plan: &Plan, seed: u64, args: &Args) -> ExitCode {
    let report = plan.run(seed);
    for (i, op) in report.ops.iter().enumerate() {
        println!("{:>5}  {op}", i + 1);
    }
    if args.marks {
        println!("{}", report.marks);
    }
    println!(
        "seed {seed}: {} operations, {} cuts, {} disk calls",
        report.ops.len(),
        report.cuts,
        report.calls
    );
    match &report.failure {
        Some(failure) => {
            println!("{}", farm::finding(plan, seed, &report, failure));
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

/// One seed, cut at every call.
fn every_call(plan: &Plan, seed: u64, args: &Args) -> ExitCode {
    let shown = AtomicU64::new(0);
    let summary = farm::exhaustive(plan, seed, |sum| {
        let seen = shown.swap(sum.findings.len() as u64, Ordering::Relaxed);
        for finding in sum.findings.iter().skip(seen as usize) {
            println!("{finding}\n");
        }
    });
    if args.marks {
        println!("{}\n{}", summary.marks, coverage::taken());
    }
    println!("{}", line(&summary, seed));
    ExitCode::from(u8::from(!summary.findings.is_empty()))
}

/// The crash table of docs/faults.md.
fn table(plan: &Plan) -> ExitCode {
    let effort = outcomes::Effort {
        all: 1024,
        sample: 64,
    };
    let rows = match short::table(plan, effort) {
        Ok(rows) => rows,
        Err(finding) => {
            println!("{finding}");
            return ExitCode::FAILURE;
        }
    };
    println!("| operation | before a sync | during the sync | after it |");
    println!("|---|---|---|---|");
    // What nobody sees after a crash, such as a file without a name, looks as before.
    for row in rows.iter().filter(|row| row.moments[0].before > 0) {
        let [before, during, after] = row.moments;
        println!("| {} | {before} | {during} | {after} |", row.op);
    }
    ExitCode::SUCCESS
}

/// Every short workload.
fn all_short(plan: &Plan, args: &Args) -> ExitCode {
    let depth = Depth {
        effort: outcomes::Effort {
            all: 256,
            sample: 12,
        },
        nested: 1,
        singles: args.singles,
        every: args.every,
        part: args.part,
    };
    let (env, printed) = (OsEnv, AtomicU64::new(0));
    let start = env.monotonic();
    let summary = short::run(plan, depth, |sum| {
        let elapsed = env.monotonic() - start;
        let due = elapsed / 5_000_000_000;
        if printed.swap(due, Ordering::Relaxed) < due {
            let seconds = elapsed / 1_000_000_000;
            println!(
                "{seconds} s: workloads: {}, cuts: {}, failures: {}",
                sum.marks.count(short::WORKLOAD),
                sum.cuts,
                sum.findings.len()
            );
        }
        true
    });
    for finding in &summary.findings {
        println!("{finding}\n");
    }
    if args.marks {
        println!("{}\n{}", summary.marks, coverage::taken());
    }
    println!(
        "short workloads: {}, cuts: {} ({} of them left what others had left), failures: {}",
        summary.marks.count(short::WORKLOAD),
        summary.cuts,
        summary.marks.count(short::SEEN_BEFORE),
        summary.findings.len()
    );
    ExitCode::from(u8::from(!summary.findings.is_empty()))
}

/// Rot.
fn flip(plan: &Plan, args: &Args) -> ExitCode {
    let effort = match (args.quick, args.blocks) {
        (_, true) => Effort::Blocks,
        (true, _) => Effort::Quick,
        _ => Effort::EveryBit,
    };
    let mut failed = false;
    let volumes = args.runs.unwrap_or(1);
    for n in 0..volumes.saturating_mul(1 + MORE) {
        let complete = !args.complete || coverage::missing_of_damage().is_empty();
        if n >= volumes && (complete || failed) {
            break;
        }
        let seed = plan.first_seed.saturating_add(n * 2);
        let victims = match flips::victims(seed, args.choice) {
            Ok(victims) => victims,
            Err(failure) => {
                println!("seed {seed}: operation {}: {}", failure.at, failure.what);
                return ExitCode::FAILURE;
            }
        };
        for (victim, how) in victims.iter().zip(["closed", "cut off", "with parity"]) {
            failed |= !flip_one(victim, how, effort, seed, plan.jobs);
        }
    }
    if args.marks {
        println!("{}", coverage::taken());
    }
    failed |= args.complete && !is_complete(&coverage::missing_of_damage());
    ExitCode::from(u8::from(failed))
}

/// Rot in one volume; whether nothing went wrong.
fn flip_one(victim: &flips::Victim, how: &str, effort: Effort, seed: u64, jobs: usize) -> bool {
    let damages = flips::damages(victim, effort, seed);
    let (all, bytes) = (damages.len() as u64, victim.image.total_len());
    println!("seed {seed}, {how}: {bytes} bytes, {all} times damaged");
    let outcome = flips::run(victim, &damages, jobs, |at| {
        if at > 0 && at.is_multiple_of(100_000) {
            println!("  {at} of {all}");
        }
    });
    show(&outcome);
    println!(
        "flips: {}, failures: {}",
        outcome.tried,
        outcome.failures.len()
    );
    outcome.failures.is_empty()
}

/// What came of damage.
fn show(outcome: &Outcome) {
    for failure in outcome.failures.iter().take(20) {
        println!("  FAILURE {failure}");
    }
    print!("{}", outcome.marks);
}

/// Bytes of the volume of which single bits are flipped.
const LARGE: u64 = 64 << 20;

/// Random bits of a larger volume.
fn flip_bits(plan: &Plan, count: u64) -> ExitCode {
    let seed = plan.first_seed;
    let victim = match bits::large(seed, LARGE) {
        Ok(victim) => victim,
        Err(failure) => {
            println!("seed {seed}: operation {}: {}", failure.at, failure.what);
            return ExitCode::FAILURE;
        }
    };
    let looks = bits::looks(&victim, count, seed);
    let shown = AtomicU64::new(0);
    let outcome = bits::run(&victim, &looks, plan.jobs, |done| {
        if done / 100_000 > shown.fetch_max(done / 100_000, Ordering::Relaxed) {
            println!("  {done} of {count}");
        }
    });
    show(&outcome);
    println!(
        "bits: {} of {} bytes, by {} looks, failures: {} (seed {seed})",
        outcome.tried,
        victim.image.total_len(),
        looks.len(),
        outcome.failures.len()
    );
    ExitCode::from(u8::from(!outcome.failures.is_empty()))
}

/// Repairs.
fn mend(plan: &Plan, volumes: u64, args: &Args) -> ExitCode {
    let first = plan.first_seed;
    let effort = repairs::Effort {
        plants: args.ops,
        cuts: 4,
        choice: args.choice,
    };
    let shown = AtomicU64::new(0);
    let run = |seeds| {
        repairs::run(seeds, effort, plan.jobs, |sum| {
            let seen = shown.swap(sum.failures.len() as u64, Ordering::Relaxed);
            for failure in sum.failures.iter().skip(seen as usize) {
                println!("FAILURE {failure}\n");
            }
            sum.failures.len() < plan.most_failures
        })
    };
    let mut end = first.saturating_add(volumes);
    let mut summary = run(first..end);
    for _ in 0..MORE {
        let complete = !args.complete || mended::missing(&summary.marks).is_empty();
        if complete || !summary.failures.is_empty() {
            break;
        }
        let more = run(end..end.saturating_add(volumes));
        end = end.saturating_add(volumes);
        summary.tried += more.tried;
        summary.marks.merge(&more.marks);
        summary.failures.extend(more.failures);
    }
    print!("{}", summary.marks);
    println!(
        "repairs: {}, failures: {}, seeds {first}..{end}",
        summary.tried,
        summary.failures.len()
    );
    let mut missing = mended::missing(&summary.marks);
    missing.retain(|_| args.complete);
    for mark in &missing {
        println!("NEVER TAKEN: {mark}");
    }
    let good = summary.failures.is_empty() && missing.is_empty();
    ExitCode::from(u8::from(!good))
}

/// Disks that lie.
fn rot(plan: &Plan, runs: u64, args: &Args) -> ExitCode {
    let first = plan.first_seed;
    let shown = AtomicU64::new(0);
    let tick = |sum: &rotten::Summary| {
        let seen = shown.swap(sum.failures.len() as u64, Ordering::Relaxed);
        for failure in sum.failures.iter().skip(seen as usize) {
            println!("FAILURE {failure}\n");
        }
        sum.failures.len() < plan.most_failures
    };
    let mut end = first.saturating_add(runs);
    let mut summary = rotten::run(first..end, args.choice, plan.jobs, tick);
    for _ in 0..MORE {
        let complete = !args.complete || coverage::missing_of_rot().is_empty();
        if complete || !summary.failures.is_empty() {
            break;
        }
        let more = end..end.saturating_add(runs);
        end = more.end;
        summary.add(rotten::run(more, args.choice, plan.jobs, |_| true));
    }
    print!("{}", summary.marks);
    if args.marks {
        println!("{}", coverage::taken());
    }
    println!(
        "rotten disks: {} runs, {} faults planted, {} times opened again, failures: {}, \
         seeds {first}..{}",
        summary.runs,
        summary.faults,
        summary.opened,
        summary.failures.len(),
        end
    );
    let complete = !args.complete || is_complete(&coverage::missing_of_rot());
    ExitCode::from(u8::from(!summary.failures.is_empty() || !complete))
}

fn main() -> ExitCode {
    let args = match parse() {
        Ok(args) => args,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    let plan = plan(&args);
    if args.flips {
        return flip(&plan, &args);
    }
    if let Some(count) = args.bits {
        return flip_bits(&plan, count);
    }
    if let Some(volumes) = args.repair {
        return mend(&plan, volumes, &args);
    }
    if let Some(runs) = args.rotten {
        return rot(&plan, runs, &args);
    }
    if args.short {
        return all_short(&plan, &args);
    }
    if args.table {
        return table(&plan);
    }
    if args.corpus {
        return corpus::run(&plan);
    }
    match args.seed {
        Some(seed) if args.exhaustive => every_call(&plan, seed, &args),
        Some(seed) if args.runs.is_none() && args.minutes.is_none() && args.cuts == u64::MAX => {
            one(&plan, seed, &args)
        }
        _ => many(&plan, &args),
    }
}
