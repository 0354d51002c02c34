//! Snapshots, as commands and the daemon handle them.

use std::fmt::Write;
use std::path::Path;

use razorfs::{Error, Snapshot, Volume};
use serde_json::{Value, json};

use crate::branches;
use crate::clock;
use crate::failure::{Failure, Result, shown, shown_bytes};
use crate::place::Live;
use crate::shows::Shows;
use crate::socket::{Points, Request};

/// Longest name of a snapshot, in bytes.
const NAME_MAX: usize = 255;
/// Where snapshots are to be read in a mount, each in a directory of its name.
pub const DIRECTORY: &str = ".razorfs/snapshots";

/// What the process that has the volume open does for a command.
pub fn answer(volume: &Volume, path: &Path, points: &Points) -> Result<Value> {
    match points {
        Points::List => list(volume, path),
        Points::Create(name) => {
            let taken = match name {
                Some(name) => take(volume, path, name)?,
                None => named_by_time(volume, path, &|name| volume.snapshot(name))?,
            };
            Ok(json!({"name": taken.name}))
        }
        Points::Delete(name) => {
            let deleted = volume.delete_snapshot(name);
            deleted.map_err(|e| failed(volume, path, "delete", name, &e))?;
            Ok(json!({"name": name}))
        }
        Points::Rollback(name) => {
            let safety = volume.rollback(name);
            let safety = safety.map_err(|e| failed(volume, path, "go back to", name, &e))?;
            Ok(json!({"name": name, "safety": safety.name}))
        }
        Points::Past(name, when) => {
            durable(volume, path)?;
            let taken = match name {
                Some(name) => volume
                    .snapshot_at(name, *when)
                    .map_err(|e| failed(volume, path, "take", name, &e))?,
                None => named_by_time(volume, path, &|name| volume.snapshot_at(name, *when))?,
            };
            Ok(json!({"name": taken.name}))
        }
        Points::Restore(when) => {
            durable(volume, path)?;
            let safety = volume.restore(*when);
            let safety = safety.map_err(|e| Failure::engine("restore", path, &e))?;
            Ok(json!({"safety": safety.name}))
        }
    }
}

/// Only what is durable is a moment of the past.
fn durable(volume: &Volume, path: &Path) -> Result<()> {
    let synced = volume.sync();
    synced.map_err(|e| Failure::engine("write what was done until now in", path, &e))
}

/// The same, of a branch or of what is there now.
pub fn answer_for(volume: &Volume, path: &Path, shows: &Shows, points: &Points) -> Result<Value> {
    if !points.needs_present() {
        return answer(volume, path, points);
    }
    if shows.is_fixed() {
        let cause = format!("{} stays as it is", shows.text());
        let remedy = format!("name the volume, {}, or a branch", word(path));
        return Err(Failure::with("change", path, cause, remedy));
    }
    answer(&shows.of(volume, path)?, path, points)
}

/// What a name stands for: a branch, or the volume as a snapshot shows it.
pub fn view(volume: &Volume, path: &Path, name: &str) -> Result<Volume> {
    match volume.branch(name) {
        Err(Error::NotFound) => snapshot(volume, path, name),
        branch => branch.map_err(|e| branches::failed(volume, path, "open", name, &e)),
    }
}

/// The volume as a snapshot shows it.
pub fn snapshot(volume: &Volume, path: &Path, name: &str) -> Result<Volume> {
    let seen = volume.at_snapshot(name);
    seen.map_err(|e| failed(volume, path, "read", name, &e))
}

/// The names of the snapshots of a mounted volume, if its daemon tells.
pub fn names(live: &mut Live) -> Option<Vec<String>> {
    let document = live.ask(Request::Snapshots(Points::List, None)).ok()?;
    Some(names_in(&document))
}

/// The names in the document of the list.
pub fn names_in(document: &Value) -> Vec<String> {
    let snapshots = document.get("snapshots").and_then(Value::as_array);
    let names = snapshots.into_iter().flatten();
    let names = names.filter_map(|s| s.get("name")?.as_str());
    names.map(str::to_owned).collect()
}

fn take(volume: &Volume, path: &Path, name: &str) -> Result<Snapshot> {
    let taken = volume.snapshot(name);
    taken.map_err(|e| failed(volume, path, "take", name, &e))
}

/// Takes one whose name says when that was done.
fn named_by_time(
    volume: &Volume,
    path: &Path,
    take: &dyn Fn(&str) -> razorfs::Result<Snapshot>,
) -> Result<Snapshot> {
    let now = crate::env().now() / 1_000_000_000;
    let stamp = clock::stamp(i64::try_from(now).unwrap_or(i64::MAX));
    let mut name = stamp.clone();
    // Several within a second are told apart by a number.
    for n in 2..1000 {
        match take(&name) {
            Err(Error::Exists) => name = format!("{stamp}-{n}"),
            other => return other.map_err(|e| failed(volume, path, "take", &name, &e)),
        }
    }
    take(&name).map_err(|e| failed(volume, path, "take", &name, &e))
}

fn list(volume: &Volume, path: &Path) -> Result<Value> {
    let branches = volume.branches();
    let branch_of = |snapshot: &Snapshot| {
        let mut all = branches.iter();
        let found = all.find(|branch| branch.id == snapshot.branch);
        found.map(|branch| branch.name.clone())
    };
    let held = volume.snapshots_held();
    let held = held.map_err(|e| Failure::engine("list the snapshots of", path, &e))?;
    let snapshots = held.iter().map(|(snapshot, held)| {
        json!({
            "name": snapshot.name,
            "id": snapshot.id,
            "time": clock::rfc3339(snapshot.time),
            "seconds": snapshot.time.secs,
            "files": snapshot.inodes,
            "bytes": snapshot.bytes,
            "held": held,
            "branch": branch_of(snapshot),
        })
    });
    Ok(json!({
        "schema": 1,
        "volume": shown(path),
        "snapshots": snapshots.collect::<Vec<_>>(),
    }))
}

/// Refuses a name that no snapshot can have because of its length: no message has room for it.
pub fn check_length(place: &Path, name: &str) -> Result<()> {
    if name.len() <= NAME_MAX {
        return Ok(());
    }
    let cause = format!("the name of a snapshot has 1 to {NAME_MAX} bytes");
    let what = "find a snapshot of such a long name in";
    Err(Failure::with(what, place, cause, "use a shorter one"))
}

/// What is said where something cannot be done with a snapshot.
fn failed(volume: &Volume, path: &Path, doing: &str, name: &str, error: &Error) -> Failure {
    match error {
        Error::NotFound => {
            let names = volume.snapshots();
            missing(path, doing, name, names.iter().map(|s| s.name.as_str()))
        }
        Error::Exists => {
            let remedy = "use another name, or delete that one with `razorfs snapshot delete`";
            Failure::with(&what(doing, name), path, error, remedy)
        }
        Error::Invalid(cause) => Failure::with(&what(doing, name), path, cause, "use another name"),
        Error::ReadOnly(_) => {
            let remedy = "mount it without `ro`, or repair what made it read-only";
            Failure::with(&what(doing, name), path, error, remedy)
        }
        _ => Failure::engine(&what(doing, name), path, error),
    }
}

fn what(doing: &str, name: &str) -> String {
    format!("{doing} the snapshot {name:?} of")
}

/// What is said where there is no such snapshot, of those that have these names.
pub fn missing<'a>(
    path: &Path,
    doing: &str,
    name: &str,
    names: impl Iterator<Item = &'a str>,
) -> Failure {
    let remedy = match nearest(name, names) {
        Some(near) => format!("perhaps {near:?} is meant"),
        None => format!("`razorfs snapshot list {}` shows all", word(path)),
    };
    let cause = "there is no such snapshot";
    Failure::with(&what(doing, name), path, cause, remedy)
}

/// What is said where a snapshot or a branch, as `kind` says, is to be deleted that is mounted.
pub fn is_mounted(path: &Path, kind: &str, name: &str, dir: &Path) -> Failure {
    let cause = format!("it is mounted on {}", shown(dir));
    let remedy = format!("`razorfs umount {}` first", word(dir));
    let what = format!("delete the {kind} {name:?} of");
    Failure::with(&what, path, cause, remedy)
}

/// The name that is most like this one, if any is.
pub fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let most = (name.chars().count() / 3).clamp(1, 4);
    let near = names.filter_map(|other| {
        // Most of many names are ruled out by their length.
        let apart = distance(name, other, most)?;
        Some((apart, other))
    });
    near.min_by_key(|(apart, _)| *apart).map(|(_, name)| name)
}

/// How many characters are to be put in, taken out or replaced to make one of the other, if not
/// more than `most`.
fn distance(a: &str, b: &str, most: usize) -> Option<usize> {
    let b: Vec<char> = b.chars().collect();
    if a.chars().count().abs_diff(b.len()) > most {
        return None;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (n, from) in a.chars().enumerate() {
        let mut next = vec![n + 1];
        let steps = row.iter().zip(row.iter().skip(1)).zip(&b);
        for ((diagonal, above), to) in steps {
            let left = next.last().copied().unwrap_or(usize::MAX - 1);
            let replaced = diagonal + usize::from(from != *to);
            next.push(replaced.min(above + 1).min(left + 1));
        }
        row = next;
    }
    row.last().copied().filter(|apart| *apart <= most)
}

/// A path or name as one word of a command line for a shell.
pub fn word(path: &Path) -> String {
    let text = shown(path);
    let plain = |c: char| c.is_alphanumeric() || "/._-+,:@%=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The document of the list for people.
pub fn table(document: &Value) -> String {
    let snapshots = document.get("snapshots").and_then(Value::as_array);
    let rows = snapshots.into_iter().flatten().map(|snapshot| {
        let number = |key: &str| snapshot.get(key).and_then(Value::as_u64).unwrap_or(0);
        let seconds = snapshot.get("seconds").and_then(Value::as_i64);
        let name = snapshot.get("name").and_then(Value::as_str);
        [
            shown_bytes(name.unwrap_or("-").as_bytes()),
            clock::local(seconds.unwrap_or(0)),
            number("files").to_string(),
            crate::size::human(number("bytes")),
            crate::size::human(number("held")),
        ]
    });
    let rows: Vec<[String; 5]> = rows.collect();
    if rows.is_empty() {
        return "no snapshots; `razorfs snapshot create` takes one\n".into();
    }
    let head = ["NAME", "TAKEN", "FILES", "BYTES", "HOLDS ALONE"];
    columns(head, rows, 2)
}

/// Rows below each other, in columns of which the first ones are texts, and the others numbers.
pub fn columns<const N: usize>(head: [&str; N], rows: Vec<[String; N]>, texts: usize) -> String {
    let head = head.map(str::to_owned);
    let rows: Vec<[String; N]> = std::iter::once(head).chain(rows).collect();
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (n, (cell, width)) in row.iter().zip(widths).enumerate() {
            let gap = if n == 0 { "" } else { "  " };
            // Writing to a string does not fail.
            let _ = match n < texts {
                true => write!(line, "{gap}{cell:width$}"),
                false => write!(line, "{gap}{cell:>width$}"),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_name_is_told_the_right_one() {
        let names = ["before-import", "daily-1", "daily-2", "x"];
        let of = |name| nearest(name, names.into_iter());
        assert_eq!(of("befor-import"), Some("before-import"));
        assert_eq!(of("before-imprort"), Some("before-import"));
        assert_eq!(of("daily2"), Some("daily-2"));
        assert_eq!(of("y"), Some("x"));
        assert_eq!(of("something else"), None);
        assert_eq!(of(""), Some("x"));
        assert_eq!(distance("kitten", "sitting", 3), Some(3));
        assert_eq!(distance("kitten", "sitting", 2), None);
        assert_eq!(distance("ä", "a", 1), Some(1));
    }

    #[test]
    fn failures_name_volume_snapshot_cause_and_remedy() {
        let names = || ["a1"].into_iter();
        let line = missing(Path::new("v"), "delete", "a2", names()).message;
        assert_eq!(
            line,
            "cannot delete the snapshot \"a2\" of v: there is no such snapshot; perhaps \"a1\" is \
             meant"
        );
        let line = missing(Path::new("my v"), "read", "other", names()).message;
        assert!(line.ends_with("`razorfs snapshot list 'my v'` shows all"));
    }

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(word(Path::new("/a/b-1.rzfs")), "/a/b-1.rzfs");
        assert_eq!(word(Path::new("it's")), r"'it'\''s'");
        assert_eq!(word(Path::new("$x")), "'$x'");
    }

    #[test]
    fn the_table_has_a_line_for_each_and_no_tricks() {
        assert!(table(&json!({})).starts_with("no snapshots"));
        let odd = json!({"snapshots": [{"name": "a\u{1b}[2J", "bytes": 2048}, 7]});
        let text = table(&odd);
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(
            text.contains("a\\u{1b}[2J") && text.contains("2.0 KiB"),
            "{text}"
        );
        assert!(text.starts_with("NAME "), "{text}");
    }
}
