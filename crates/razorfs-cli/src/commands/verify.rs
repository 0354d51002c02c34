//! `razorfs verify`: looks for damage.

use std::path::PathBuf;

use razorfs_verify::FindingKind;
use serde_json::Value;

use crate::check;
use crate::commands::{print_json, print_text};
use crate::failure::{COULD_NOT_RUN, DAMAGE, Failure, Result};
use crate::place::Place;
use crate::progress::{Progress, Unit};
use crate::signals;
use crate::socket::Request;

/// Looks for damage, and changes nothing
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Levels: 0 superblock, manifest and the end of the journal; 1 all metadata, and \
its parity; 2 also that names, inodes and extents fit each other; 3 also every byte of data and of \
its parity; 4 also that parity is that of its data, what fills journal batches, and the same for \
each snapshot.
A mounted volume is held still meanwhile: what it has done is brought to the disk first, and what
programs change waits for the end.

Exit code 0: clean, at most notes and warnings; 4: damage was found; 2: the volume is of a newer \
version, and was not looked at. Each finding is a line: \
number, severity, path or object, what it means, what to do. Behind them stands for each file that \
is hit which bytes of it are, or what else a repair would lose of it, also in snapshots and \
branches; from level 3 on as far as data are concerned. At most 1000 of the present are listed, \
and as many of all others.

--json prints one object: schema (1), level, clean, findings (array of number, severity, object, \
meaning, remedy, detail), files (null, or losses (array of what, inode, path, from, to, meaning), \
more_losses, moments (array of kind, name, losses, more_losses), untold (null, or why)), checked \
(object of counters).

Examples:
  razorfs verify demo.rzfs
  razorfs verify mnt --level 4 --json"
)]
pub struct Args {
    /// A volume or a mount point
    place: PathBuf,
    /// How deep to look
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=4))]
    level: u8,
    /// Prints one JSON document
    #[arg(long)]
    json: bool,
    /// Shows no progress
    #[arg(short, long)]
    quiet: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8> {
    let mut progress = Progress::new("verify", Unit::Items, args.quiet);
    let document = match Place::find(&args.place)? {
        // Ctrl-C ends this process at once, and the daemon stops when it cannot tell its progress.
        Place::Live(mut live) => live.ask_with(Request::Verify(args.level), &mut |step| {
            show(&mut progress, step);
        })?,
        Place::Closed(volume) => {
            signals::note_interrupts()?;
            check::run(&volume, args.level, None, &mut |step| {
                show(&mut progress, step);
                signals::check()
            })?
        }
    };
    progress.clear();
    let clean = document.get("clean").and_then(Value::as_bool) == Some(true);
    if args.json {
        print_json(&document)?;
    } else {
        print_text(&text(&document, args.quiet))?;
    }
    if let Some(finding) = newer(&document) {
        let word = |key| finding.get(key).and_then(Value::as_str).unwrap_or_default();
        let failure = Failure::with("verify", &args.place, word("detail"), word("remedy"));
        return Err(failure.code(COULD_NOT_RUN));
    }
    Ok(if clean { 0 } else { DAMAGE })
}

/// The finding that the volume is of a newer version, which is no damage.
fn newer(document: &Value) -> Option<&Value> {
    let number = u64::from(FindingKind::NewerVersion.number());
    let mut findings = document.get("findings")?.as_array()?.iter();
    findings.find(|finding| finding.get("number").and_then(Value::as_u64) == Some(number))
}

fn show(progress: &mut Progress, step: &Value) {
    let number = |key: &str| step.get(key).and_then(Value::as_u64);
    if let Some(total) = number("total") {
        progress.set_total(total);
    }
    if let Some(done) = number("done") {
        progress.set(done);
    }
}

/// The document for people.
fn text(document: &Value, quiet: bool) -> String {
    let mut text = String::new();
    let findings = document.pointer("/findings").and_then(Value::as_array);
    for finding in findings.into_iter().flatten() {
        let word = |key: &str| {
            let word = finding.get(key).and_then(Value::as_str);
            word.unwrap_or("-").to_owned()
        };
        let number = finding.get("number").and_then(Value::as_u64).unwrap_or(0);
        text.push_str(&format!(
            "{number:04} {}: {}: {} ({}); {}\n",
            word("severity"),
            word("object"),
            word("meaning"),
            word("detail"),
            word("remedy")
        ));
    }
    if let Some(files) = document.get("files").filter(|files| !files.is_null()) {
        text.push_str(&check::lines(files));
    }
    let clean = document.get("clean").and_then(Value::as_bool) == Some(true);
    if clean && !quiet {
        let checked = document.get("checked").and_then(Value::as_object);
        let checked: Vec<String> = checked
            .into_iter()
            .flatten()
            .filter(|(_, n)| n.as_u64() != Some(0))
            .map(|(what, n)| format!("{n} {}", what.replace('_', " ")))
            .collect();
        text.push_str(&format!("clean: {}\n", checked.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_finding_is_a_line() {
        let finding = json!({"number": 12, "severity": "error", "object": "meta/S-1.rs",
            "meaning": "3 names are lost", "detail": "expected 1, got 2",
            "remedy": "copy what is left"});
        let document = json!({"clean": false, "findings": [finding], "checked": {"blocks": 3}});
        assert_eq!(
            text(&document, false),
            "0012 error: meta/S-1.rs: 3 names are lost (expected 1, got 2); copy what is left\n"
        );
        let clean = json!({"clean": true, "findings": [], "checked": {"blocks": 3, "packs": 0}});
        assert_eq!(text(&clean, false), "clean: 3 blocks\n");
    }
}
