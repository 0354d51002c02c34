//! `cargo xtask fuzz`: each fuzz target for so long of its own CPU time, whatever else the machine
//! does meanwhile, and a table of what came of it.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::run;

/// CPU seconds of each target, if nobody says.
const SECONDS: u64 = 1200;
/// Seconds, by the clock, that a target runs at a time.
const CHUNK: u64 = 300;
/// More of one input is a hang.
const TIMEOUT: u64 = 20;
/// Memory of a target, in MiB.
const MEMORY: u64 = 2048;
/// Ticks of a second in `/proc`: the same on all machines that we know.
const TICKS: f64 = 100.0;
/// With what libFuzzer ends after a hang.
const HUNG: i32 = 70;

/// What the command line asks for.
struct Plan {
    seconds: u64,
    /// Whether to take the programs as they are.
    built: bool,
    targets: Vec<String>,
}

/// What came of a target.
struct Outcome {
    target: String,
    runs: u64,
    cpu: f64,
    coverage: u64,
    broken: Vec<String>,
}

/// Fuzzes, and prints the table. Inputs that broke something are an error, with the names of their
/// files.
pub fn main(root: &Path, args: &[String]) -> Result<(), String> {
    let plan = plan(root, args)?;
    // The versions that everything else is built with.
    let lock = std::fs::copy(root.join("Cargo.lock"), root.join("fuzz/Cargo.lock"));
    lock.map_err(|e| format!("fuzz/Cargo.lock: {e}"))?;
    let mut outcomes = Vec::new();
    for target in &plan.targets {
        if !plan.built {
            build(root, target)?;
        }
        let outcome = fuzz(root, target, plan.seconds)?;
        println!("{}", row(&outcome));
        outcomes.push(outcome);
    }
    println!("\n| target | runs | CPU seconds | coverage | broken by |");
    println!("|---|---|---|---|---|");
    for outcome in &outcomes {
        println!("{}", row(outcome));
    }
    let broken: Vec<&str> = outcomes
        .iter()
        .flat_map(|outcome| outcome.broken.iter().map(String::as_str))
        .collect();
    if broken.is_empty() {
        return Ok(());
    }
    Err(format!(
        "inputs that broke something:\n{}",
        broken.join("\n")
    ))
}

fn plan(root: &Path, args: &[String]) -> Result<Plan, String> {
    let all = targets(root)?;
    let mut plan = Plan {
        seconds: SECONDS,
        built: false,
        targets: Vec::new(),
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == "--seconds" {
            let value = args.next().and_then(|value| value.parse().ok());
            plan.seconds = value.ok_or("--seconds needs a number")?;
        } else if arg == "--built" {
            plan.built = true;
        } else if all.contains(arg) {
            plan.targets.push(arg.clone());
        } else {
            let all: Vec<&str> = all.iter().map(String::as_str).collect();
            return Err(format!(
                "fuzz: no target {arg}; there are {}",
                all.join(" ")
            ));
        }
    }
    if plan.targets.is_empty() {
        plan.targets.extend(all);
    }
    Ok(plan)
}

/// The targets, by their files.
fn targets(root: &Path) -> Result<BTreeSet<String>, String> {
    let dir = root.join("fuzz/fuzz_targets");
    let entries = std::fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let name = |entry: std::fs::DirEntry| Some(entry.path().file_stem()?.to_str()?.to_owned());
    Ok(entries.flatten().filter_map(name).collect())
}

fn build(root: &Path, target: &str) -> Result<(), String> {
    // Not the cargo that runs us: one that knows of toolchains.
    let mut command = Command::new("cargo");
    command.current_dir(root.join("fuzz"));
    command.args([
        "+nightly",
        "fuzz",
        "build",
        target,
        "--target-dir",
        "target",
    ]);
    run::check(command).map_err(|e| format!("{e}; see Fuzzing in CONTRIBUTING.md"))
}

/// Where cargo-fuzz has put the program of a target.
fn program(root: &Path, target: &str) -> Result<PathBuf, String> {
    let dir = root.join("fuzz/target");
    let hosts = std::fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let program = |host: std::fs::DirEntry| host.path().join("release").join(target);
    let found = hosts.flatten().map(program).find(|path| path.is_file());
    found.ok_or(format!("{target} was not built"))
}

fn fuzz(root: &Path, target: &str, seconds: u64) -> Result<Outcome, String> {
    let fuzz = root.join("fuzz");
    let (corpus, artifacts) = (format!("corpus/{target}"), format!("artifacts/{target}/"));
    for dir in [&corpus, &artifacts] {
        std::fs::create_dir_all(fuzz.join(dir)).map_err(|e| format!("{dir}: {e}"))?;
    }
    let mut outcome = Outcome {
        target: target.to_owned(),
        runs: 0,
        cpu: 0.0,
        coverage: 0,
        broken: Vec::new(),
    };
    while outcome.cpu < seconds as f64 && outcome.broken.is_empty() {
        let left = (seconds as f64 - outcome.cpu).ceil() as u64;
        let before = names(&fuzz.join(&artifacts))?;
        let mut command = limited(&program(root, target)?);
        command.current_dir(&fuzz).arg(&corpus);
        command.arg(format!("-max_total_time={}", left.clamp(5, CHUNK)));
        command.arg(format!("-artifact_prefix={artifacts}"));
        command.arg("-print_final_stats=1");
        let ended = watch(command)?;
        outcome.cpu += ended.cpu;
        outcome.runs += ended.runs;
        outcome.coverage = outcome.coverage.max(ended.coverage);
        let new: Vec<PathBuf> = names(&fuzz.join(&artifacts))?
            .difference(&before)
            .cloned()
            .collect();
        for input in &new {
            if ended.code == Some(HUNG) && !hangs(root, target, input)? {
                // It was somebody else who took the time: the machine stood still, or was busy.
                std::fs::remove_file(input).map_err(|e| e.to_string())?;
            } else {
                outcome.broken.push(input.display().to_string());
            }
        }
        if new.is_empty() && ended.code != Some(0) {
            let said = ended.said.join("\n");
            return Err(format!("{target} ended with {:?}:\n{said}", ended.code));
        }
        eprintln!("fuzz: {}", row(&outcome));
    }
    Ok(outcome)
}

/// Whether an input takes too long of its own time, however little of it the machine gives.
fn hangs(root: &Path, target: &str, input: &Path) -> Result<bool, String> {
    let mut command = Command::new("prlimit");
    command.arg(format!("--cpu={}", 2 * TIMEOUT));
    command
        .args(["nice", "-n", "19"])
        .arg(program(root, target)?);
    command.current_dir(root.join("fuzz")).arg(input);
    let ended = watch(command)?;
    Ok(ended.cpu >= TIMEOUT as f64 / 2.0)
}

/// The program with its bounds, behind everything else that wants to run.
fn limited(program: &Path) -> Command {
    let mut command = Command::new("nice");
    command.args(["-n", "19"]).arg(program);
    command.arg(format!("-rss_limit_mb={MEMORY}"));
    command.arg(format!("-timeout={TIMEOUT}"));
    // By the clock, which says nothing where the machine is busy.
    command.arg("-report_slow_units=1000000");
    command
}

/// How a program of libFuzzer ended.
struct Ended {
    code: Option<i32>,
    cpu: f64,
    runs: u64,
    coverage: u64,
    said: Vec<String>,
}

fn watch(mut command: Command) -> Result<Ended, String> {
    command.env("ASAN_OPTIONS", "detect_odr_violation=0");
    let command = command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = command
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("cannot run a fuzz target: {e}"))?;
    let (mut said, mut runs, mut coverage) = (Vec::new(), 0, 0);
    if let Some(err) = child.stderr.take() {
        let mut lines = BufReader::new(err).split(b'\n');
        while let Some(Ok(line)) = lines.next() {
            let line = String::from_utf8_lossy(&line).into_owned();
            coverage = behind(&line, " cov: ").unwrap_or(coverage);
            runs = behind(&line, "stat::number_of_executed_units:").unwrap_or(runs);
            if !line.starts_with('#') {
                said.push(line);
            }
            // The last of it says why it ended.
            said.drain(..said.len().saturating_sub(200));
        }
    }
    // It has ended, and until somebody waits for it what it has used stands there.
    let cpu = cpu_seconds(child.id())?;
    let status = child.wait().map_err(|e| e.to_string())?;
    if !status.success() {
        said.iter().for_each(|line| eprintln!("{line}"));
    }
    Ok(Ended {
        code: status.code(),
        cpu,
        runs,
        coverage,
        said,
    })
}

/// The number behind `mark` in a line.
fn behind(line: &str, mark: &str) -> Option<u64> {
    let (_, rest) = line.split_once(mark)?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Seconds that a process has computed outside of the kernel.
fn cpu_seconds(pid: u32) -> Result<f64, String> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    let ticks = user_ticks(&stat).ok_or(format!("{path} cannot be read: {stat}"))?;
    Ok(ticks as f64 / TICKS)
}

fn user_ticks(stat: &str) -> Option<u64> {
    // The name may have anything in it but ends with the last bracket.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(11)?.parse().ok()
}

fn names(dir: &Path) -> Result<BTreeSet<PathBuf>, String> {
    let entries = std::fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}

fn row(outcome: &Outcome) -> String {
    let Outcome {
        target,
        runs,
        cpu,
        coverage,
        broken,
    } = outcome;
    format!(
        "| `{target}` | {runs} | {cpu:.0} | {coverage} | {} |",
        broken.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libfuzzer_says_is_understood() {
        let line = "#4096\tpulse  cov: 812 ft: 2301 corp: 97/21Kb exec/s: 2048 rss: 71Mb";
        assert_eq!(behind(line, " cov: "), Some(812));
        let line = "stat::number_of_executed_units: 100000";
        assert_eq!(
            behind(line, "stat::number_of_executed_units:"),
            Some(100_000)
        );
        assert_eq!(behind("INFO: seed corpus", " cov: "), None);
    }

    #[test]
    fn the_time_of_a_process_is_told_from_its_name() {
        let stat = "7 (a) R (b) S 1 7 7 0 -1 4194560 90 0 0 0 1234 56 0 0 20 0 1 0";
        assert_eq!(user_ticks(stat), Some(1234));
        assert_eq!(user_ticks("7 (a"), None);
        assert!(cpu_seconds(std::process::id()).is_ok());
    }
}
