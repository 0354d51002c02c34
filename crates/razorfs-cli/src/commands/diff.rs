//! `razorfs diff`: what was added, changed, removed and renamed.

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use razorfs::Options;
use serde_json::{Value, json};
use similar::TextDiff;

use crate::commands::print_json;
use crate::diff::{self, Colours, Ends};
use crate::failure::{Failure, Result, shown};
use crate::mountinfo;
use crate::place::{self, Opened, Place, Spot, spot};
use crate::socket::Request;

/// Largest file of which the lines are compared.
const TEXT_MAX: u64 = 8 << 20;

/// Shows what differs between two states of a volume
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Each line has a letter (A added, D removed, R renamed, M changed), the path and \
what is another. Files are told apart by inode: what was renamed is shown as such, and what is \
below a renamed directory is not shown unless it is another, too. Only what was written since the \
two states parted is looked at. On a terminal the text has colours (not with NO_COLOR) and goes \
through $PAGER, or less.

--json prints one object: schema (1), from and to (names of snapshots, or null for the present), \
changes: an array, ordered by path, of change (added, removed, renamed, changed), path, from (of a \
renamed one, else null), path_bytes and from_bytes (only where the path has control bytes or is no \
text), kind, ino, size_before and size_after (or null), differs (array of \
content, mode, owner, attributes, times).

Examples:
  razorfs diff mnt@before-import               from the snapshot to now
  razorfs diff mnt@monday mnt@tuesday
  razorfs diff demo.rzfs@monday --json | jq -r '.changes[].path'
  razorfs diff mnt@before-import --patch > import.patch"
)]
pub struct Args {
    /// The older state, as PLACE@SNAPSHOT
    from: PathBuf,
    /// The newer state, as PLACE@SNAPSHOT; the present if none is given
    to: Option<PathBuf>,
    /// Prints one JSON document
    #[arg(long, conflicts_with = "patch")]
    json: bool,
    /// Shows the lines that differ, of text files, as `diff -u` does
    #[arg(long)]
    patch: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8> {
    let (from, to) = ends(args)?;
    let ends = Ends {
        from: from.shows()?,
        to: to.shows()?,
    };
    let changes = find(&from.place, &ends)?;
    if args.json {
        print_json(&json!({
            "schema": 1, "from": ends.from, "to": ends.to, "changes": changes,
        }))?;
        return Ok(0);
    }
    let mut out = Output::new();
    let outcome = match args.patch {
        false => show(&changes, &mut out),
        true => patches(&from, &to, &changes, &mut out),
    };
    out.end();
    outcome.map(|()| 0)
}

/// The two states.
fn ends(args: &Args) -> Result<(Spot, Spot)> {
    let from = spot(&args.from)?;
    let to = match &args.to {
        Some(to) => spot(to)?,
        None => Spot {
            place: volume_of(&from.place)?,
            snapshot: None,
            ..from.clone()
        },
    };
    if !from.path.as_os_str().is_empty() || !to.path.as_os_str().is_empty() {
        let remedy = "name the place alone, and filter the paths of --json";
        let cause = "whole states are compared, not directories";
        return Err(Failure::with("compare", &args.from, cause, remedy));
    }
    if volume_of(&from.place)? != volume_of(&to.place)? {
        let cause = format!("{} is another place", shown(&to.place));
        let remedy = "compare two states of one volume";
        return Err(Failure::with("compare", &from.place, cause, remedy));
    }
    Ok((from, to))
}

/// The volume that a place is of.
fn volume_of(place: &Path) -> Result<PathBuf> {
    let full = place::absolute(place)?;
    Ok(mountinfo::at(&full).map_or(full, |mount| mount.volume))
}

/// Asks whoever has the volume open.
pub fn find(place: &Path, ends: &Ends) -> Result<Vec<Value>> {
    let mut changes = Vec::new();
    let mut gather = |some: &Value| changes.extend(some.as_array().into_iter().flatten().cloned());
    match Place::find(place)? {
        Place::Live(mut live) => {
            live.ask_with(Request::Diff(ends.clone()), &mut gather)?;
        }
        Place::Closed(path) => {
            let options = Options {
                read_only: true,
                ..Options::default()
            };
            let volume = place::open(&path, options)?;
            let found = diff::find(&volume, &path, ends, &mut |some| {
                gather(&some);
                Ok(())
            });
            let closed = volume.close();
            found?;
            closed.map_err(|e| Failure::engine("close", &path, &e))?;
        }
    }
    Ok(changes)
}

/// Where the text goes.
struct Output {
    pager: Option<Child>,
    colours: Colours,
}

impl Output {
    fn new() -> Self {
        let is_terminal = std::io::stdout().is_terminal();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        Self {
            pager: is_terminal.then(pager).flatten(),
            colours: Colours(is_terminal && !plain),
        }
    }

    fn line(&mut self, line: &str) -> Result<()> {
        let line = format!("{line}\n");
        let pipe = self.pager.as_mut().and_then(|pager| pager.stdin.as_mut());
        let Some(pipe) = pipe else {
            return crate::commands::print(line.as_bytes());
        };
        match pipe.write_all(line.as_bytes()) {
            // Whoever has seen enough leaves.
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
            written => written.map_err(|e| Failure::host("write to", "the pager", &e)),
        }
    }

    fn end(mut self) {
        if let Some(pager) = &mut self.pager {
            drop(pager.stdin.take());
            // How it ends is between it and its user.
            let _ = pager.wait();
        }
    }
}

/// What shows long text page by page, if there is such a program.
fn pager() -> Option<Child> {
    let named = std::env::var_os("PAGER").filter(|pager| !pager.is_empty());
    let mut command = match &named {
        // With arguments, as others understand it.
        Some(pager) => {
            let mut command = Command::new("sh");
            command.arg("-c").arg(pager);
            command
        }
        None => Command::new("less"),
    };
    command.env("LESS", std::env::var_os("LESS").unwrap_or("FRX".into()));
    command.stdin(Stdio::piped()).spawn().ok()
}

fn show(changes: &[Value], out: &mut Output) -> Result<()> {
    for change in changes {
        out.line(&diff::line(change, out.colours))?;
    }
    Ok(())
}

/// The differences of text files, line by line.
fn patches(from: &Spot, to: &Spot, changes: &[Value], out: &mut Output) -> Result<()> {
    let old = Opened::open(from, false)?;
    let new = match Opened::open(to, false) {
        Ok(new) => new,
        Err(e) => {
            old.close()?;
            return Err(e);
        }
    };
    let outcome = changes
        .iter()
        .try_for_each(|change| patch(&old, &new, change, out));
    old.close()?;
    new.close()?;
    outcome
}

fn patch(old: &Opened, new: &Opened, change: &Value, out: &mut Output) -> Result<()> {
    let colours = out.colours;
    let text = |name: &str| change.get(name).and_then(Value::as_str).unwrap_or_default();
    if text("kind") != "file" {
        return out.line(&diff::line(change, colours));
    }
    let (word, path) = (text("change"), text("path"));
    let differs = change.get("differs").and_then(Value::as_array);
    let is_other = differs.is_some_and(|d| d.iter().any(|word| word == "content"));
    if matches!(word, "renamed" | "changed") && !is_other {
        return out.line(&diff::line(change, colours));
    }
    let before = match text("from") {
        "" => path,
        from => from,
    };
    let old_text = match word {
        "added" => Some(String::new()),
        _ => read(old, before)?,
    };
    let new_text = match word {
        "removed" => Some(String::new()),
        _ => read(new, path)?,
    };
    let (Some(old_text), Some(new_text)) = (old_text, new_text) else {
        return out.line(&format!("{}: not text", diff::line(change, colours)));
    };
    let (a, b) = match word {
        "added" => ("/dev/null".to_owned(), format!("b{path}")),
        "removed" => (format!("a{path}"), "/dev/null".to_owned()),
        _ => (format!("a{before}"), format!("b{path}")),
    };
    let lines = TextDiff::from_lines(&old_text, &new_text);
    let unified = lines.unified_diff().header(&a, &b).to_string();
    for line in unified.lines() {
        out.line(&colours.patch(line))?;
    }
    Ok(())
}

/// A file, if it is text and not too large.
fn read(opened: &Opened, path: &str) -> Result<Option<String>> {
    let tree = opened.tree();
    let path = Path::new(path.trim_start_matches('/'));
    let Some(meta) = tree.find(path)?.filter(|meta| meta.size <= TEXT_MAX) else {
        return Ok(None);
    };
    let mut bytes = Vec::with_capacity(usize::try_from(meta.size).unwrap_or(0));
    let read = tree.read(path)?.read_to_end(&mut bytes);
    read.map_err(|e| Failure::host("read", tree.shown(path), &e))?;
    Ok(String::from_utf8(bytes)
        .ok()
        .filter(|text| !text.contains('\0')))
}
