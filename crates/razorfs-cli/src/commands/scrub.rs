//! `razorfs scrub`: reads everything that a volume stores, heals what can be healed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use razorfs::{Options, ScrubState, ScrubStatus, Step, Volume};
use razorfs_disk::Env;
use razorfs_verify::FindingKind;
use serde_json::{Value, json};

use crate::commands::{print_json, print_text};
use crate::failure::{DAMAGE, Failure, Result};
use crate::place::{self, Live, Place};
use crate::progress::{Progress, Unit};
use crate::socket::{Request, Scrub};
use crate::{signals, size};

/// Bytes a second, unless told otherwise.
const RATE: u64 = 64 << 20;
/// How often a scrub that works elsewhere is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Reads everything that a volume stores, and heals what can be healed
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Superblock, manifest, segments, packs and their parity are read and checked. A \
lost twin of the superblock and a damaged manifest are written again; in a volume with parity \
(`razorfs create --parity`) damaged parts of segments and full packs are made again from the \
rest. What cannot be healed is told; `razorfs verify` tells which files it hits.

start   begins one, or goes on with one that was paused. That of a mounted volume works in the
        background, also after the next mount; with --wait the command waits for its end. In a
        volume that is not mounted the command does it, and Ctrl-C pauses it.
status  how far it is, what it has found, and when the last one came to its end
pause   stops it until resume or start, also over mounts
resume  goes on

Exit code 0: nothing is damaged, or all of it was healed; 4: damage was found that is still there.

--json prints one object: schema (1), state (running, paused or idle), position, done, total (in \
bytes), limit and rate (bytes a second), left_seconds (or null), healed, damaged, findings (array \
of number, severity, object, meaning, remedy, detail), started_ns, last (null, or ended_ns, \
healed, damaged), clean.

Examples:
  razorfs scrub mnt
  razorfs scrub mnt status
  razorfs scrub demo.rzfs start --rate 200M"
)]
pub struct Args {
    /// A volume or a mount point
    place: PathBuf,
    /// What to do
    #[arg(value_enum, default_value = "start")]
    action: Action,
    /// Bytes a second at most, 0 for as many as there are [default: 64M]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    rate: Option<u64>,
    /// Waits for the end of a scrub in the background
    #[arg(long)]
    wait: bool,
    /// Prints one JSON document
    #[arg(long)]
    json: bool,
    /// Shows no progress
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Action {
    Start,
    Status,
    Pause,
    Resume,
}

impl Args {
    fn request(&self) -> Scrub {
        match self.action {
            Action::Start => Scrub::Start(self.rate.unwrap_or(RATE)),
            Action::Status => Scrub::Status,
            Action::Pause => Scrub::Pause,
            Action::Resume => Scrub::Resume(self.rate),
        }
    }
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8> {
    let works = matches!(args.action, Action::Start | Action::Resume);
    let document = match Place::find(&args.place)? {
        Place::Live(mut live) => {
            let answer = live.ask(Request::Scrub(args.request()))?;
            match works && args.wait {
                true => wait(&live.volume.clone(), &mut live, args)?,
                false => answer,
            }
        }
        Place::Closed(path) => {
            let options = Options {
                // To look at it changes nothing.
                read_only: args.action == Action::Status,
                threads: false,
                ..Options::default()
            };
            if works {
                signals::note_interrupts()?;
            }
            let volume = place::open(&path, options)?;
            let answer = answer(&volume, &path, args.request());
            let done = match works {
                true => answer.and_then(|_| drive(&volume, &path, args)),
                false => answer,
            };
            let closed = volume.close();
            closed.map_err(|e| Failure::engine("close", &path, &e))?;
            done?
        }
    };
    if args.json {
        print_json(&document)?;
    } else {
        print_text(&text(&document))?;
    }
    let clean = document.get("clean").and_then(Value::as_bool) == Some(true);
    Ok(if clean { 0 } else { DAMAGE })
}

/// What the process that has the volume open does for a command.
pub fn answer(volume: &Volume, path: &Path, request: Scrub) -> Result<Value> {
    let done = match request {
        Scrub::Start(rate) => volume.scrub_start(rate),
        Scrub::Resume(rate) => volume.scrub_resume(rate),
        Scrub::Pause => volume.scrub_pause().map(drop),
        Scrub::Status => Ok(()),
    };
    done.map_err(|e| Failure::engine("scrub", path, &e))?;
    Ok(document(&volume.scrub_status()))
}

/// Scrubs a volume that nobody has mounted, until its end or Ctrl-C.
fn drive(volume: &Volume, path: &Path, args: &Args) -> Result<Value> {
    let failed = |e: razorfs::Error| Failure::engine("scrub", path, &e);
    let mut progress = Progress::new("scrub", Unit::Bytes, args.quiet);
    let (mut seen, mut looked) = (0, 0);
    let env = crate::env();
    while volume.step(Step::Scrub).map_err(failed)? {
        if signals::interrupted() {
            volume.scrub_pause().map_err(failed)?;
            break;
        }
        let now = Env::monotonic(env.as_ref());
        let status = volume.scrub_status();
        if status.done == seen {
            // It waits for its rate.
            std::thread::sleep(Duration::from_millis(2));
        }
        seen = status.done;
        if now.saturating_sub(looked) > LOOK.as_nanos() as u64 {
            looked = now;
            progress.set_total(status.total);
            progress.set(status.done);
        }
    }
    // Parity that was found damaged is made anew.
    while !signals::interrupted() && volume.step(Step::Parity).map_err(failed)? {}
    progress.clear();
    Ok(document(&volume.scrub_status()))
}

/// Waits for the end of a scrub of a mounted volume. Ctrl-C ends the waiting, not the scrub.
fn wait(volume: &Path, live: &mut Live, args: &Args) -> Result<Value> {
    let mut progress = Progress::new("scrub", Unit::Bytes, args.quiet);
    loop {
        std::thread::sleep(LOOK);
        // The daemon answers one request on each connection.
        if let Place::Live(again) = Place::find(volume)? {
            *live = again;
        }
        let seen = live.ask(Request::Scrub(Scrub::Status))?;
        let number = |key: &str| seen.get(key).and_then(Value::as_u64).unwrap_or(0);
        progress.set_total(number("total"));
        progress.set(number("done"));
        if seen.get("state").and_then(Value::as_str) != Some("running") {
            progress.clear();
            return Ok(seen);
        }
    }
}

/// The document of `scrub --json`.
pub fn document(status: &ScrubStatus) -> Value {
    let left = status
        .total
        .saturating_sub(status.done)
        .checked_div(status.rate);
    let findings = status.findings.iter().map(|found| {
        let kind = FindingKind::ALL
            .iter()
            .find(|kind| kind.number() == found.number);
        json!({
            "number": found.number,
            "severity": kind.map_or("error".into(), |kind| kind.severity().to_string()),
            "object": found.object,
            "meaning": kind.map_or("", |kind| kind.meaning()),
            "remedy": kind.map_or("", |kind| kind.remedy()),
            "detail": found.detail,
        })
    });
    json!({
        "schema": 1,
        "state": state(status.state),
        "position": status.position,
        "done": status.done,
        "total": status.total,
        "limit": status.limit,
        "rate": status.rate,
        "left_seconds": left,
        "healed": status.healed,
        "damaged": status.damaged,
        "findings": findings.collect::<Vec<_>>(),
        "started_ns": status.started,
        "last": status.last.map(|last| json!({
            "ended_ns": last.ended,
            "healed": last.healed,
            "damaged": last.damaged,
        })),
        "clean": status.damaged == 0,
    })
}

const fn state(state: ScrubState) -> &'static str {
    match state {
        ScrubState::Running => "running",
        ScrubState::Paused => "paused",
        ScrubState::Idle => "idle",
    }
}

/// How the last pass ended, in a few words.
pub fn last(document: &Value) -> String {
    let number = |key: &str| {
        let value = document
            .pointer(&format!("/last/{key}"))
            .and_then(Value::as_u64);
        value.unwrap_or(0)
    };
    match number("ended_ns") {
        0 => "never".into(),
        ended => format!(
            "{}: {} healed, {} damaged and left",
            size::date(i64::try_from(ended / 1_000_000_000).unwrap_or(i64::MAX)),
            number("healed"),
            number("damaged")
        ),
    }
}

/// The document for people.
fn text(document: &Value) -> String {
    let number = |key: &str| document.get(key).and_then(Value::as_u64).unwrap_or(0);
    let word = |key: &str| document.get(key).and_then(Value::as_str).unwrap_or("-");
    let mut lines = Vec::new();
    for finding in document
        .get("findings")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let word = |key: &str| finding.get(key).and_then(Value::as_str).unwrap_or("-");
        let number = finding.get("number").and_then(Value::as_u64).unwrap_or(0);
        lines.push(format!(
            "{number:04} {}: {}: {} ({}); {}",
            word("severity"),
            word("object"),
            word("meaning"),
            word("detail"),
            word("remedy")
        ));
    }
    if word("state") == "idle" {
        lines.push("scrub       idle".into());
    } else {
        let limit = match number("limit") {
            0 => "no limit".into(),
            limit => format!("at most {}/s", size::human(limit)),
        };
        let left = document.get("left_seconds").and_then(Value::as_u64);
        let left = left.map_or(String::new(), |s| format!(", {} left", size::span(s)));
        lines.push(format!(
            "scrub       {}, {} of {} ({}/s, {limit}{left}), next {}",
            word("state"),
            size::human(number("done")),
            size::human(number("total")),
            size::human(number("rate")),
            word("position")
        ));
        lines.push(format!(
            "found       {} healed, {} damaged and left",
            number("healed"),
            number("damaged")
        ));
    }
    lines.push(format!("last pass   {}", last(document)));
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_for_people_tells_what_counts() {
        let mut status = ScrubStatus::default();
        assert_eq!(
            text(&document(&status)),
            "scrub       idle\nlast pass   never\n"
        );
        status.state = ScrubState::Running;
        (status.done, status.total, status.rate) = (1 << 20, 3 << 20, 1 << 20);
        status.position = "pack/P-1.rp".into();
        status.damaged = 1;
        status.findings = vec![razorfs::ScrubFinding {
            number: 605,
            object: "inode 17".into(),
            detail: "expected 1, got 2".into(),
        }];
        let text = text(&document(&status));
        assert!(
            text.starts_with("0605 error: inode 17: The data of a file"),
            "{text}"
        );
        assert!(text.contains("running, 1.0 MiB of 3.0 MiB"), "{text}");
        assert!(text.contains("1 damaged and left"), "{text}");
    }

    #[test]
    fn an_odd_document_is_shown_without_a_panic() {
        assert!(text(&json!({"findings": [1, {}], "last": 7})).contains("never"));
    }
}
