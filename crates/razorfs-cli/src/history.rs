//! What was done in a volume, as commands and the daemon hand it on.

use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use razorfs::{Error, LogEntry, Time, Volume};
use serde_json::{Value, json};

use crate::clock;
use crate::failure::{Failure, Result, shown_bytes};
use crate::points;
use crate::size::human;

/// Entries that are handed on at a time.
const SOME: usize = 500;
const SECOND: u64 = 1_000_000_000;

/// What somebody wants to know.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Asked {
    /// What is before this batch is known already.
    pub from: u64,
    /// A file, or a directory with what is below; from the root on, as people see it.
    pub path: Option<String>,
    /// Only what was done in this branch.
    pub branch: Option<String>,
}

impl Asked {
    /// As a request says it.
    pub fn to_json(&self) -> Value {
        json!({"from": self.from, "path": self.path, "branch": self.branch})
    }

    /// From a request.
    pub fn from_json(value: &Value) -> std::result::Result<Self, String> {
        let from = value.get("from").and_then(Value::as_u64);
        let text = |key: &str| match value.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(format!("the {key} that is asked for is none")),
        };
        Ok(Self {
            from: from.ok_or("the log begins nowhere")?,
            path: text("path")?,
            branch: text("branch")?,
        })
    }
}

/// Finds what was done, and hands it on in pieces, each an array of documents. Answers with the
/// rest: the batch that comes next, and the versions of the file that snapshots have.
pub fn find(
    volume: &Volume,
    path: &Path,
    asked: &Asked,
    each: &mut dyn FnMut(Value) -> Result<()>,
) -> Result<Value> {
    let failed = |e: &Error| Failure::engine("read the log of", path, e);
    if asked.from == 0 && volume.info().read_only.is_none() {
        // What was done until now is in it.
        volume.sync().map_err(|e| failed(&e))?;
    }
    let shown = match &asked.branch {
        None => volume.clone(),
        Some(name) => volume.branch(name).map_err(|e| failed(&e))?,
    };
    let (entries, next) = volume.log(asked.from).map_err(|e| failed(&e))?;
    let now = asked.path.as_deref();
    let ino = now.and_then(|path| shown.find_by_path(path.as_bytes()).ok());
    let is_there = |entry: &&LogEntry| match &asked.branch {
        None => true,
        Some(name) => branch_of(entry).is_some_and(|branch| *name == branch),
    };
    let is_meant = |entry: &&LogEntry| {
        is_there(entry)
            && match now {
                None => true,
                // The same file may have had other names.
                Some(path) => entry.ino.is_some() && entry.ino == ino || is_below(entry, path),
            }
    };
    let meant: Vec<_> = entries.iter().filter(is_meant).collect();
    for some in meant.chunks(SOME) {
        each(some.iter().map(|entry| document(entry)).collect())?;
    }
    let versions = match now {
        Some(wanted) if asked.from == 0 => versions(volume, path, wanted)?,
        _ => Vec::new(),
    };
    Ok(json!({"next": next, "versions": versions}))
}

/// The branch in which it was done, as people see it; by number if its name is not known any more.
fn branch_of(entry: &LogEntry) -> Option<String> {
    let branch = entry.branch.as_ref()?;
    Some(match &branch.name {
        Some(name) => shown_bytes(name),
        None => format!("#{}", branch.id),
    })
}

/// Whether one of the paths of an entry is this one, or below it.
fn is_below(entry: &LogEntry, wanted: &str) -> bool {
    let wanted = Path::new(wanted);
    let mut paths = entry.path.iter().chain(&entry.to);
    paths.any(|path| Path::new(&text(path)).starts_with(wanted))
}

fn text(path: &Path) -> String {
    shown_bytes(path.as_os_str().as_bytes())
}

/// What snapshots have at a path.
fn versions(volume: &Volume, place: &Path, path: &str) -> Result<Vec<Value>> {
    let mut found = Vec::new();
    for snapshot in volume.snapshots() {
        let seen = points::view(volume, place, &snapshot.name)?;
        let stat = match seen.find_by_path(path.as_bytes()) {
            Ok(ino) => seen.stat(ino),
            Err(Error::NotFound | Error::NotADirectory) => continue,
            Err(e) => Err(e),
        };
        let stat = stat.map_err(|e| Failure::engine("read a snapshot of", place, &e))?;
        found.push(json!({
            "snapshot": snapshot.name,
            "ino": stat.ino.0,
            "size": stat.size,
            "mtime": clock::rfc3339(stat.mtime),
        }));
    }
    Ok(found)
}

/// One entry.
fn document(entry: &LogEntry) -> Value {
    let path = |path: &PathBuf| format!("/{}", text(path));
    let time = Time {
        secs: (entry.time / SECOND) as i64,
        nanos: (entry.time % SECOND) as u32,
    };
    json!({
        "lsn": entry.lsn,
        "time": clock::rfc3339(time),
        "seconds": time.secs,
        "operation": entry.what,
        "branch": branch_of(entry),
        "path": entry.path.as_ref().map(path),
        "name": entry.name.as_deref().map(shown_bytes),
        "to": entry.to.as_ref().map(path),
        "ino": entry.ino.map(|ino| ino.0),
        "bytes": entry.bytes,
        "uid": entry.asker.map(|who| who.uid),
        "gid": entry.asker.map(|who| who.gid),
        "pid": entry.asker.map(|who| who.pid).filter(|pid| *pid != 0),
    })
}

/// A line for people, of such a document.
pub fn line(entry: &Value) -> String {
    let word = |key: &str| entry.get(key).and_then(Value::as_str);
    let number = |key: &str| entry.get(key).and_then(Value::as_u64);
    let seconds = entry.get("seconds").and_then(Value::as_i64).unwrap_or(0);
    let operation = word("operation").unwrap_or("-");
    let mut line = format!("{}  {operation:<15} ", clock::local(seconds));
    if let Some(branch) = word("branch") {
        let _ = write!(line, "@{branch}:");
    }
    match (word("path"), word("name"), number("ino")) {
        (Some(path), ..) => line.push_str(path),
        (None, Some(name), None) => line.push_str(name),
        (None, Some(name), Some(_)) => drop(write!(line, "?/{name}")),
        (None, None, Some(ino)) => drop(write!(line, "? (inode {ino})")),
        (None, None, None) => line.push('-'),
    }
    if let Some(to) = word("to") {
        let _ = write!(line, " -> {to}");
    }
    if let Some(bytes) = number("bytes").filter(|bytes| *bytes > 0) {
        let _ = write!(line, "  ({})", human(bytes));
    }
    if let Some(uid) = number("uid") {
        let _ = write!(line, "  uid {uid}");
    }
    if let Some(pid) = number("pid") {
        let _ = write!(line, " pid {pid}");
    }
    line
}
