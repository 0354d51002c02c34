//! `cargo xtask test`: everything that must hold before a change goes in.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::path::Path;
use std::time::Duration;

use crate::{kills, posix, programs, run, tidy};

/// What the command line asks for.
struct Plan {
    cuts: String,
    seed: Option<String>,
    quick: bool,
}

/// Runs all steps in order and stops at the first that fails.
pub fn main(root: &Path, args: &[String]) -> Result<(), String> {
    let plan = plan(args)?;
    let mut steps = Steps::default();
    steps.run("formatting", || {
        run::check(run::cargo(root, &["fmt", "--all", "--", "--check"]))?;
        Ok(Vec::new())
    })?;
    steps.run("tidy", || tidy::main(root).map(|()| Vec::new()))?;
    steps.run("lints", || lints(root).map(|()| Vec::new()))?;
    steps.run("unit and property tests", || unit_tests(root))?;
    steps.run("threads under a scheduler", || {
        let args = [
            "-p",
            "razorfs",
            "--features",
            "shuttle",
            "--lib",
            "scheduled",
        ];
        let mut command = run::cargo(root, &["test"]);
        command.args(args).env("RAZORFS_SCHEDULES", SCHEDULES);
        run::check_tests(command)
    })?;
    if plan.quick {
        steps.skip("simulated power cuts", "--quick");
        steps.skip("tests on a real mount", "--quick");
        steps.skip("others' suites on a mount", "--quick");
        steps.skip("real programs on a mount", "--quick");
        steps.skip("real kills and power cuts", "--quick");
    } else {
        steps.run("simulated power cuts", || simulate(root, &plan))?;
        match mounts_missing() {
            None => {
                steps.run("tests on a real mount", || mount_tests(root, &plan))?;
                steps.run("others' suites on a mount", || {
                    posix::main(root, &[]).map(|()| Vec::new())
                })?;
                let again = "others' suites on a mount over io_uring";
                match uring_missing() {
                    None => steps.run(again, || {
                        let way = ["--transport".to_owned(), "uring".to_owned()];
                        posix::main(root, &way).map(|()| Vec::new())
                    })?,
                    Some(why) => steps.skip(again, why),
                }
                steps.run("real programs on a mount", || {
                    programs::main(root, &[]).map(|()| Vec::new())
                })?;
                steps.run("real kills and power cuts", || {
                    let seed: &[String] = match &plan.seed {
                        Some(seed) => &["--seed".into(), seed.clone()],
                        None => &[],
                    };
                    kills::main(root, seed).map(|()| Vec::new())
                })?;
            }
            Some(why) if std::env::var_os("CI").is_some() => {
                return Err(format!("tests on a real mount cannot run: {why}"));
            }
            Some(why) => {
                steps.skip("tests on a real mount", &why);
                steps.skip("others' suites on a mount", &why);
                steps.skip("real programs on a mount", &why);
                steps.skip("real kills and power cuts", &why);
            }
        }
    }
    steps.close();
    Ok(())
}

fn lints(root: &Path) -> Result<(), String> {
    for what in [
        &["--workspace"][..],
        &["-p", "razorfs", "--features", "shuttle"],
    ] {
        let mut command = run::cargo(root, &["clippy", "--all-targets"]);
        command.args(what).args(["--", "-D", "warnings"]);
        run::check(command)?;
    }
    Ok(())
}

fn unit_tests(root: &Path) -> Result<Vec<String>, String> {
    let all = ["test", "--workspace", "--exclude", "razorfs-cli"];
    let mut closing = run::check_tests(run::cargo(root, &all))?;
    let cli = ["test", "-p", "razorfs-cli", "--lib"];
    closing.extend(run::check_tests(run::cargo(root, &cli))?);
    Ok(closing)
}

fn plan(args: &[String]) -> Result<Plan, String> {
    let mut plan = Plan {
        cuts: "60000".into(),
        seed: None,
        quick: false,
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || {
            let value = args.next().ok_or(format!("{arg} needs a number"))?;
            value
                .parse::<u64>()
                .map_err(|_| format!("{arg} {value}: not a number"))?;
            Ok::<String, String>(value.clone())
        };
        match arg.as_str() {
            "--cuts" => plan.cuts = value()?,
            "--seed" => plan.seed = Some(value()?),
            "--quick" => plan.quick = true,
            _ => return Err(format!("test: unknown argument {arg}")),
        }
    }
    Ok(plan)
}

/// Interleavings of each test of the engine's threads.
const SCHEDULES: &str = "1000";

/// What the simulation does besides power cuts.
const SIMULATIONS: [&[&str]; 8] = [
    // Always the same: what the reference does not know of commits is not met by these seeds.
    &[
        "--cuts",
        "6000",
        "--branches",
        "1",
        "--merges",
        "1",
        "--seed",
        "20000",
    ],
    &["--deaths", "2500", "--complete"],
    &["--faults", "--runs", "800", "--complete"],
    &["--short", "--singles", "16", "--every", "6400"],
    &["--flips", "--blocks", "--runs", "6", "--complete"],
    &["--flips", "--blocks", "--copies", "2", "--runs", "1"],
    &["--rotten", "1500", "--complete"],
    &["--repair", "60", "--complete"],
];

fn simulate(root: &Path, plan: &Plan) -> Result<Vec<String>, String> {
    // Fresh ones each time; a failure prints the seed that replays it.
    let seed = plan.seed.clone().unwrap_or_else(fresh_seed);
    println!("simulation: seed {seed}");
    let cuts = ["--cuts", &plan.cuts, "--complete"];
    let mut runs: Vec<&[&str]> = vec![&["--corpus"], &cuts];
    runs.extend(SIMULATIONS);
    for words in runs {
        // The profile of the tests, so that nothing is built twice.
        let args = [
            "run",
            "--quiet",
            "--profile",
            "test",
            "-p",
            "razorfs-sim",
            "--",
        ];
        let mut command = run::cargo(root, &args);
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        command.args(["--jobs", &jobs.to_string()]);
        // That many runs, from there on.
        command.args(["--seed", &seed]).args(words);
        run::check(command)?;
    }
    Ok(Vec::new())
}

/// Another one each time.
pub fn fresh_seed() -> String {
    // The keys of a new hasher are random, and no clock is needed.
    let random = RandomState::new().build_hasher().finish();
    (random % 1_000_000_000).to_string()
}

fn mount_tests(root: &Path, plan: &Plan) -> Result<Vec<String>, String> {
    let args = ["test", "-p", "razorfs-cli", "--test", "main", "--"];
    let mut command = run::cargo(root, &args);
    command.args(["--nocapture", "--test-threads", "3"]);
    if let Some(seed) = &plan.seed {
        command.env("RAZORFS_SEED", seed);
    }
    run::check_tests(command)
}

/// Why nothing can come over io_uring here.
fn uring_missing() -> Option<&'static str> {
    let parameter = std::fs::read_to_string("/sys/module/fuse/parameters/enable_uring");
    match parameter.as_deref().map(str::trim) {
        Ok("Y") => None,
        Ok(_) => Some("the parameter enable_uring of the kernel's FUSE is off"),
        Err(_) => Some("the kernel has no FUSE over io_uring"),
    }
}

/// Why nothing can be mounted here, if so.
fn mounts_missing() -> Option<String> {
    let device = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse");
    if let Err(e) = device {
        return Some(format!("/dev/fuse: {e}"));
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    for program in ["fusermount3", "git", "sqlite3", "diff"] {
        if !std::env::split_paths(&paths).any(|dir| dir.join(program).exists()) {
            return Some(format!("{program} is not installed"));
        }
    }
    None
}

/// The steps so far, and what they said.
#[derive(Default)]
struct Steps {
    report: Vec<String>,
}

impl Steps {
    fn run(
        &mut self,
        name: &str,
        step: impl FnOnce() -> Result<Vec<String>, String>,
    ) -> Result<(), String> {
        println!("\n=== {name}");
        let before = now();
        let closing = step().map_err(|e| format!("{name}: {e}"))?;
        let took = now().saturating_sub(before);
        self.report
            .push(format!("ok       {name} ({:.0} s)", took.as_secs_f64()));
        self.report
            .extend(closing.into_iter().map(|line| format!("           {line}")));
        Ok(())
    }

    fn skip(&mut self, name: &str, why: &str) {
        println!("\n=== {name}: SKIPPED, {why}");
        self.report.push(format!("SKIPPED  {name}: {why}"));
    }

    fn close(&self) {
        println!("\n=== summary");
        for line in &self.report {
            println!("{line}");
        }
    }
}

/// Time since 1970. Only for telling how long a step took.
#[expect(
    clippy::disallowed_methods,
    reason = "no seed replays how long a build took"
)]
fn now() -> Duration {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
}
