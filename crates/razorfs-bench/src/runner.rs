//! Runs every workload on every target, in turn, as processes of their own.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::clock::Stopwatch;
use crate::failure::{At, Result};
use crate::measures::{Group, MEASURES, Sizes};
use crate::room::Room;
use crate::spinners::Spinners;
use crate::system;
use crate::target::{Kind, Paths};
use crate::workloads;

/// The cores when nothing runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum State {
    /// Kept awake by threads of idle priority.
    Awake,
    /// As they are.
    Idle,
}

impl State {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Awake => "awake",
            Self::Idle => "idle",
        }
    }
}

/// What to run.
pub struct Plan {
    /// Which workloads.
    pub groups: Vec<Group>,
    /// On what.
    pub kinds: Vec<Kind>,
    /// In which states of the machine.
    pub states: Vec<State>,
    /// How often.
    pub repetitions: u32,
    /// How much.
    pub sizes: Sizes,
    /// Whether the sizes are the small ones.
    pub quick: bool,
    /// How long one workload may take.
    pub patience: Duration,
    /// Where.
    pub paths: Paths,
}

/// All values of a state, by measure and target.
pub type Samples = BTreeMap<(&'static str, &'static str), Vec<f64>>;

/// What came of it.
#[derive(Default)]
pub struct Outcome {
    /// By state.
    pub samples: Vec<(State, Samples)>,
    /// What the reader should know.
    pub notes: Vec<String>,
    /// Workloads that failed.
    pub failures: Vec<String>,
}

/// Runs the plan. A workload that fails is noted, and the rest goes on.
pub fn run(plan: &Plan, room: &Room) -> Outcome {
    let mut outcome = Outcome::default();
    for &state in &plan.states {
        let spinners = match state {
            State::Awake => match Spinners::start() {
                Ok(spinners) => Some(spinners),
                Err(e) => {
                    outcome.failures.push(e);
                    continue;
                }
            },
            State::Idle => None,
        };
        if spinners.as_ref().is_some_and(|s| !s.quite_idle) {
            let note = "The spinners take some time from the others: no group of idle priority \
                        could be made.";
            outcome.notes.push(note.into());
        }
        let mut samples = Samples::new();
        for repetition in 0..plan.repetitions {
            let told = format!("[{} {}/{}]", state.name(), repetition + 1, plan.repetitions);
            for &group in &plan.groups {
                for kind in in_turn(&plan.kinds, repetition) {
                    if !workloads::fits(group, kind) || system::interrupted() {
                        continue;
                    }
                    let told = format!("{told} {} on {}", group.name(), kind.name());
                    let failure = measure(plan, group, kind, &told, &mut samples);
                    outcome.failures.extend(failure);
                    room.sweep();
                }
            }
        }
        drop(spinners);
        outcome.samples.push((state, samples));
    }
    outcome
}

/// Runs one workload on one target, and says so; answers what went wrong.
fn measure(
    plan: &Plan,
    group: Group,
    kind: Kind,
    told: &str,
    samples: &mut Samples,
) -> Option<String> {
    let watch = Stopwatch::start();
    match cell(plan, group, kind) {
        Ok(values) => {
            eprintln!("{told}: {:.1} s", watch.seconds());
            for (id, value) in values {
                samples.entry((id, kind.name())).or_default().push(value);
            }
            None
        }
        Err(_) if system::interrupted() => None,
        Err(e) => {
            eprintln!("{told}: {e}");
            Some(format!("{told}: {e}"))
        }
    }
}

/// The targets, beginning with another one each time.
fn in_turn(kinds: &[Kind], repetition: u32) -> impl Iterator<Item = Kind> {
    let first = repetition as usize % kinds.len().max(1);
    kinds.iter().cycle().skip(first).take(kinds.len()).copied()
}

/// Runs one workload on one target, as a process.
fn cell(plan: &Plan, group: Group, kind: Kind) -> Result<Vec<(&'static str, f64)>> {
    let program = std::env::current_exe().when("find this program")?;
    let mut command = Command::new(program);
    command
        .arg("cell")
        .args([group.name(), kind.name()])
        .arg("--room")
        .arg(&plan.paths.room)
        .arg("--razorfs")
        .arg(&plan.paths.razorfs)
        .args(plan.quick.then_some("--quick"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let mut child = command.spawn().when("start the workload")?;
    system::guard(child.id());
    let ended = wait(&mut child, plan.patience);
    // Whatever it has started and left goes with it; the daemon is not of the group.
    system::kill(-i32::try_from(child.id()).unwrap_or(0));
    system::guard(0);
    let (mut out, mut err) = (String::new(), String::new());
    if let Some(mut pipe) = child.stdout.take() {
        let _ = pipe.read_to_string(&mut out);
    }
    if let Some(mut pipe) = child.stderr.take() {
        let _ = pipe.read_to_string(&mut err);
    }
    if !ended? {
        return Err(format!("not done after {} s", plan.patience.as_secs()));
    }
    let answer: BTreeMap<String, f64> = serde_json::from_str(&out).map_err(|_| {
        let said = err.trim();
        if said.is_empty() {
            "it died without a word".into()
        } else {
            said.to_string()
        }
    })?;
    let known = MEASURES.iter();
    Ok(known
        .filter_map(|m| answer.get(m.id).map(|&value| (m.id, value)))
        .collect())
}

/// Whether it ended in time; if not, it is killed.
fn wait(child: &mut Child, patience: Duration) -> Result<bool> {
    let watch = Stopwatch::start();
    loop {
        if child.try_wait().when("wait for the workload")?.is_some() {
            return Ok(true);
        }
        if watch.elapsed() > patience || system::interrupted() {
            system::kill(-i32::try_from(child.id()).unwrap_or(0));
            child.wait().when("wait for the workload")?;
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Fills the file below the loop device with real blocks, so that ext4 does not pay for their
/// allocation on the host; says whether ext4 can be mounted here at all.
pub fn prepare_ext4(paths: &Paths, mib: u64) -> Result<()> {
    let image = paths.image();
    fill(&image, mib).at("fill", &image)?;
    let target = crate::target::Target::start(Kind::Ext4, paths)?;
    target.finish()
}

fn fill(image: &Path, mib: u64) -> std::io::Result<()> {
    let mut file = fs::File::create(image)?;
    let zeros = vec![0; 1 << 20];
    for _ in 0..mib {
        std::io::Write::write_all(&mut file, &zeros)?;
    }
    file.sync_all()
}
