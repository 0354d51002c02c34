//! `cargo xtask kills`: crashes that are not simulated. The daemon is SIGKILLed under load, with
//! its keeper, and alone, which nobody must notice; the power of a disk with a write cache is cut
//! under a mounted volume; and hosts fail. Whatever was acknowledged must be there afterwards.
//!
//! As root it runs in namespaces of its own, so that nothing it has started or mounted outlives it.

mod check;
mod daemon;
mod deaths;
mod host;
mod load;
mod manifest;
mod model;
mod power;
mod random;
mod stage;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::posix::is_root;
use crate::run;
use stage::Stage;

/// How often, if nobody says: what CI does.
const KILLS: u64 = 25;
const CUTS: u64 = 6;
const DEATHS: u64 = 10;

/// Makes this a process in its namespaces.
const INSIDE: &str = "--inside";
/// Makes this the load.
const LOAD: &str = "--load";

/// A directory that goes when it is dropped.
struct Place(PathBuf);

impl Place {
    fn new(parent: &Path) -> Result<Self, String> {
        let path = parent.join(format!("razorfs-kills-{}", std::process::id()));
        let made = std::fs::create_dir_all(parent).and_then(|()| std::fs::create_dir(&path));
        // Tools tell paths as the kernel has them.
        let made = made.and_then(|()| path.canonicalize());
        made.map(Self)
            .map_err(|e| format!("{}: {e}", path.display()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What is still mounted there stays, so that it can be looked at.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What the command line asks for.
struct Plan {
    kills: u64,
    cuts: u64,
    deaths: u64,
    seed: u64,
    /// Where it keeps its things; set by whoever has started this in its namespaces.
    inside: Option<PathBuf>,
}

/// `--kills N`: how often the daemon is killed. `--deaths N`: how often alone, with its
/// keeper left. `--cuts N`: how often the power is cut. `--seed S`: what happens when.
pub fn main(root: &Path, args: &[String]) -> Result<(), String> {
    if let Some((LOAD, rest)) = args.split_first().map(|(a, b)| (a.as_str(), b)) {
        return work(rest);
    }
    let plan = plan(args)?;
    let razorfs = target(root).join("debug/razorfs");
    if let Some(place) = &plan.inside {
        return all(&Stage::new(place, &razorfs), &plan);
    }
    run::check(run::cargo(root, &["build", "-p", "razorfs-cli"]))?;
    // On the disk that the build is on: not a tmpfs. It goes when this ends, whatever happens.
    let place = Place::new(&target(root).join("tmp"))?;
    if is_root() {
        return inside(root, &plan, &place.0);
    }
    all(&Stage::new(&place.0, &razorfs), &plan)
}

fn all(stage: &Stage, plan: &Plan) -> Result<(), String> {
    stage::watch();
    if plan.kills > 0 {
        daemon::main(stage, plan.kills, plan.seed)?;
    }
    if plan.deaths > 0 {
        deaths::main(stage, plan.deaths, plan.seed)?;
    }
    if plan.cuts > 0 {
        power::main(stage, plan.cuts, plan.seed)?;
    }
    host::main(stage, plan.seed)
}

/// Where cargo builds.
fn target(root: &Path) -> PathBuf {
    let other = std::env::var_os("CARGO_TARGET_DIR");
    other.map_or_else(|| root.join("target"), |dir| root.join(dir))
}

fn plan(args: &[String]) -> Result<Plan, String> {
    let mut plan = Plan {
        kills: KILLS,
        cuts: CUTS,
        deaths: DEATHS,
        seed: crate::test::fresh_seed().parse().unwrap_or(1),
        inside: None,
    };
    let mut words = args.iter();
    while let Some(word) = words.next() {
        let mut number = || {
            let number = words.next().and_then(|n| n.parse().ok());
            number.ok_or_else(|| format!("{word} needs a number"))
        };
        match word.as_str() {
            "--kills" => plan.kills = number()?,
            "--cuts" => plan.cuts = number()?,
            "--deaths" => plan.deaths = number()?,
            "--seed" => plan.seed = number()?,
            INSIDE => plan.inside = words.next().map(PathBuf::from),
            _ => return Err(format!("kills: unknown argument {word}")),
        }
    }
    Ok(plan)
}

/// The same in namespaces of its own: of mounts, and of processes, which end with the first.
fn inside(root: &Path, plan: &Plan, place: &Path) -> Result<(), String> {
    let program = std::env::current_exe().map_err(|e| format!("cannot find myself: {e}"))?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private"]);
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    command.arg(program).args(["kills", INSIDE]).arg(place);
    for (word, n) in [
        ("--kills", plan.kills),
        ("--cuts", plan.cuts),
        ("--deaths", plan.deaths),
        ("--seed", plan.seed),
    ] {
        command.args([word, &n.to_string()]);
    }
    command.current_dir(root);
    run::check(command)
}

fn work(words: &[String]) -> Result<(), String> {
    let [dir, manifests, razorfs, seed, files_only] = words else {
        return Err("kills --load is not for people".into());
    };
    let load = load::Load {
        dir: dir.into(),
        manifests: manifests.into(),
        razorfs: razorfs.into(),
        seed: seed.parse().map_err(|_| "no seed")?,
        files_only: files_only == "true",
    };
    load.run()
}

/// Something is not installed: in CI, which installs it, that is an error. What is not permitted
/// is left out there too.
fn left_out(what: &str, why: &str) -> Result<(), String> {
    if std::env::var_os("CI").is_some() {
        return Err(format!("{what} cannot run: {why}"));
    }
    println!("{what}: left out: {why}");
    Ok(())
}

/// The first of these programs that is not here.
fn missing(programs: &[&str]) -> Option<String> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let here = |name: &str| {
        // Those of the administrator are not on everybody's path.
        std::env::split_paths(&paths)
            .chain(["/sbin".into(), "/usr/sbin".into()])
            .any(|dir| dir.join(name).exists())
    };
    let program = programs.iter().find(|name| !here(name))?;
    Some(format!("{program} is not installed"))
}
