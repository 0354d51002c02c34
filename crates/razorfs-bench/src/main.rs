//! Measures RazorFS beside what limits it and what it is compared with: the same driver, on one
//! disk, in turns.

mod branches;
mod bulk;
mod clock;
mod failure;
mod growth;
mod measures;
mod promises;
mod report;
mod room;
mod runner;
mod snapshots;
mod source;
mod space;
mod spinners;
mod system;
mod target;
mod tree;
mod workloads;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Parser;

use crate::failure::{At, Result};
use crate::measures::{Group, Sizes};
use crate::report::Scene;
use crate::room::Room;
use crate::runner::{Outcome, Plan, State};
use crate::source::{Found, Wanted};
use crate::target::{Kind, Paths};

/// Measures RazorFS beside ext4, the host and a file system without an engine
#[derive(Parser, Debug)]
struct Args {
    #[command(subcommand)]
    part: Option<Part>,
    /// Small sizes, one repetition
    #[arg(long)]
    quick: bool,
    /// Also a million files
    #[arg(long)]
    long: bool,
    /// Only these workloads
    #[arg(long, value_delimiter = ',')]
    only: Vec<Group>,
    /// Only these targets
    #[arg(long, value_delimiter = ',')]
    targets: Vec<Kind>,
    /// Only these states of the machine
    #[arg(long, value_delimiter = ',')]
    states: Vec<State>,
    /// How often each is measured; 3 if not given
    #[arg(long, value_name = "N")]
    repetitions: Option<u32>,
    /// Seconds after which a workload counts as hanging
    #[arg(long, value_name = "S", default_value_t = 900)]
    patience: u64,
    /// Also writes everything as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also puts the tables between the marks of this document
    #[arg(long, value_name = "FILE")]
    readme: Option<PathBuf>,
    /// Where to measure
    #[arg(long, value_name = "DIR", default_value = "target")]
    dir: PathBuf,
    /// The command to measure; the one beside this program if not given
    #[arg(long, value_name = "FILE")]
    razorfs: Option<PathBuf>,
}

/// What this program does in processes of its own.
#[derive(clap::Subcommand, Debug)]
enum Part {
    /// One workload on one target; prints the values as JSON
    #[command(hide = true)]
    Cell {
        group: Group,
        kind: Kind,
        #[arg(long)]
        room: PathBuf,
        #[arg(long)]
        razorfs: PathBuf,
        #[arg(long)]
        quick: bool,
    },
    /// Makes a volume of very many empty files, quickly
    Bulk { volume: PathBuf, files: u64 },
    /// Measures how the cost of operations grows with the number of files
    Growth(growth::Args),
    /// One run of that
    #[command(hide = true)]
    GrowthCell(growth::CellArgs),
    /// Writes a volume over at random, and tells what space and writes that takes
    Space(space::Args),
    /// Takes snapshots of a large volume, goes back, compares, and tells what that costs
    Snapshots(snapshots::Args),
    /// Forks a tree many times, works in the branches, commits, and tells what that costs
    Branches(branches::Args),
    /// What the prototype promised: what a save writes, how small names are, and what waits
    Promises(promises::Args),
    /// Serves the null file system on a directory
    #[command(hide = true)]
    ServeNull { dir: PathBuf, transport: String },
    /// Keeps the cores awake until the end of the input
    #[command(hide = true)]
    Spin,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = match &args.part {
        Some(Part::Space(args)) => space::run(args).map(|()| true),
        Some(Part::Promises(args)) => promises::run(args).map(|()| true),
        Some(Part::Branches(args)) => branches::run(args).map(|()| true),
        Some(Part::Snapshots(args)) => snapshots::run(args).map(|()| true),
        Some(Part::Bulk { volume, files }) => bulk::make(volume, *files).map(|()| true),
        Some(Part::Growth(args)) => growth::main(args).map(|()| true),
        Some(Part::GrowthCell(args)) => growth::cell(args).map(|()| true),
        Some(Part::ServeNull { dir, transport }) => {
            target::null_server(dir, transport).map(|()| true)
        }
        Some(Part::Spin) => spinners::spin().map(|()| true),
        Some(Part::Cell {
            group,
            kind,
            room,
            razorfs,
            quick,
        }) => {
            let paths = Paths {
                room: room.clone(),
                razorfs: razorfs.clone(),
            };
            cell(*group, *kind, &paths, *quick).map(|()| true)
        }
        None => bench(&args),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

const fn sizes(quick: bool) -> Sizes {
    if quick { Sizes::QUICK } else { Sizes::FULL }
}

fn cell(group: Group, kind: Kind, paths: &Paths, quick: bool) -> Result<()> {
    let values = workloads::run(group, kind, paths, &sizes(quick))?;
    let document: serde_json::Map<String, serde_json::Value> = values
        .into_iter()
        .map(|(id, value)| (id.to_string(), value.into()))
        .collect();
    println!("{}", serde_json::Value::from(document));
    Ok(())
}

/// Whether every workload ran.
fn bench(args: &Args) -> Result<bool> {
    system::take_signals();
    let razorfs = match &args.razorfs {
        Some(path) => path.clone(),
        None => std::env::current_exe()
            .when("find this program")?
            .with_file_name("razorfs"),
    };
    let razorfs = razorfs.canonicalize().at("find", &razorfs)?;
    let room = Room::make(&args.dir)?;
    let paths = Paths {
        room: room.path().to_path_buf(),
        razorfs,
    };
    let mut plan = plan(args, paths);
    let scene = prepare(&mut plan)?;
    let outcome = runner::run(&plan, &room);
    drop(room);
    print(args, &plan, &scene, &outcome)?;
    if system::interrupted() {
        return Err("interrupted; what is above was measured before".into());
    }
    Ok(outcome.failures.is_empty())
}

fn plan(args: &Args, paths: Paths) -> Plan {
    let or_all = |given: &[Group]| match given {
        [] => Group::ALL.to_vec(),
        given => given.to_vec(),
    };
    let mut groups = or_all(&args.only);
    if !args.long && args.only.is_empty() {
        groups.retain(|group| *group != Group::Million);
    }
    let mut kinds = args.targets.clone();
    if kinds.is_empty() {
        kinds = Kind::ALL.to_vec();
    }
    let mut states = args.states.clone();
    if states.is_empty() {
        states = vec![State::Awake, State::Idle];
    }
    Plan {
        groups,
        kinds,
        states,
        repetitions: args
            .repetitions
            .unwrap_or(if args.quick { 1 } else { 3 })
            .max(1),
        sizes: sizes(args.quick),
        quick: args.quick,
        patience: Duration::from_secs(args.patience),
        paths,
    }
}

/// Makes the image and the tree, looks at the machine, and leaves out what cannot be done here.
fn prepare(plan: &mut Plan) -> Result<Scene> {
    let mut notes = Vec::new();
    let load = first_line("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    if load.parse::<f64>().is_ok_and(|load| load > 0.8) {
        notes.push(format!(
            "The machine was busy with other things: load average {load}."
        ));
    }
    if plan.kinds.contains(&Kind::Ext4) {
        match runner::prepare_ext4(&plan.paths, plan.sizes.image) {
            Ok(()) => notes.push("ext4 is on a loop device over a file of the host.".into()),
            Err(e) => {
                plan.kinds.retain(|kind| *kind != Kind::Ext4);
                notes.push(format!(
                    "No loop device could be mounted ({e}), so that ratios to ext4 are missing; \
                     compare with the host."
                ));
            }
        }
    }
    let room = &plan.paths.room;
    notes.push(format!(
        "The host's directory is on {}.",
        file_system_of(room)
    ));
    if !system::is_root() {
        notes.push("Not root: caches are dropped file by file only.".into());
    }
    let mut tree = Found::default();
    if plan.groups.contains(&Group::Tree) {
        let wanted = Wanted {
            files: plan.sizes.tree_files,
            bytes: plan.sizes.tree_bytes,
        };
        tree = source::make(&plan.paths.source(), wanted)?;
    }
    Ok(Scene {
        machine: machine(),
        kernel: first_line("/proc/sys/kernel/osrelease"),
        date: output("date", &["-u", "+%Y-%m-%d"]),
        notes,
        tree,
    })
}

fn print(args: &Args, plan: &Plan, scene: &Scene, outcome: &Outcome) -> Result<()> {
    let text = report::markdown(plan, scene, outcome);
    println!("{text}");
    if let Some(path) = &args.readme {
        let document = fs::read_to_string(path).at("read", path)?;
        let document = report::put_between(&document, &text);
        let document = document
            .ok_or("no marks of a benchmark")
            .at("change", path)?;
        fs::write(path, document).at("write", path)?;
    }
    if let Some(path) = &args.json {
        let document = report::document(plan, scene, outcome);
        fs::write(path, format!("{document:#}\n")).at("write", path)?;
    }
    Ok(())
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find(|line| line.starts_with("model name"));
    let model = model
        .and_then(|line| line.split(": ").nth(1))
        .unwrap_or("unknown");
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = memory
        .and_then(|m| m.trim().strip_suffix(" kB"))
        .unwrap_or("0");
    let gib = kib.parse::<u64>().unwrap_or(0) >> 20;
    format!("{model}, {cores} cores, {gib} GiB")
}

fn file_system_of(path: &Path) -> String {
    let text = path.display().to_string();
    output("df", &["--output=fstype", &text])
}

fn first_line(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_string()
}

/// The last line that a command prints.
fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
    let text = text.unwrap_or_default();
    text.trim().lines().last().unwrap_or("?").to_string()
}
