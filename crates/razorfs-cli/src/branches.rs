//! Branches, as commands and the daemon handle them.

use std::path::Path;

use razorfs::{Branch, Committed, Error, OnConflict, Volume};
use serde_json::{Value, json};

use crate::clock;
use crate::failure::{Failure, Result, shown, shown_bytes};
use crate::place::Live;
use crate::points::{self, nearest, word};
use crate::socket::Request;

/// What is to be done with branches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Branches {
    /// Tells which there are.
    List,
    /// Makes one, of what is there now, or of a snapshot or another branch.
    Create {
        /// Its name.
        name: String,
        /// What it goes on from.
        from: Option<String>,
    },
    /// Keeps what one was made of as a snapshot.
    Origin {
        /// Which.
        name: String,
        /// The name of the snapshot.
        snapshot: String,
    },
    /// Deletes one.
    Delete(String),
    /// Has what was changed in one done in another, or in what is there now.
    Commit {
        /// Which.
        name: String,
        /// The other one.
        onto: Option<String>,
        /// The other one becomes what this is, whatever was changed there.
        take: bool,
    },
}

impl Branches {
    /// For another process.
    pub fn to_json(&self) -> Value {
        match self {
            Self::List => json!({"do": "list"}),
            Self::Create { name, from } => json!({"do": "create", "name": name, "from": from}),
            Self::Origin { name, snapshot } => {
                json!({"do": "origin", "name": name, "snapshot": snapshot})
            }
            Self::Delete(name) => json!({"do": "delete", "name": name}),
            Self::Commit { name, onto, take } => {
                json!({"do": "commit", "name": name, "onto": onto, "take": take})
            }
        }
    }

    /// What it meant.
    pub fn from_json(value: &Value) -> std::result::Result<Self, String> {
        let text = |key| value.get(key).and_then(Value::as_str).map(str::to_owned);
        match (text("do").as_deref(), text("name")) {
            (Some("list"), _) => Ok(Self::List),
            (Some("create"), Some(name)) => Ok(Self::Create {
                name,
                from: text("from"),
            }),
            (Some("origin"), Some(name)) => Ok(Self::Origin {
                name,
                snapshot: text("snapshot").ok_or("a snapshot has a name")?,
            }),
            (Some("delete"), Some(name)) => Ok(Self::Delete(name)),
            (Some("commit"), Some(name)) => Ok(Self::Commit {
                name,
                onto: text("onto"),
                take: value.get("take").and_then(Value::as_bool).unwrap_or(false),
            }),
            _ => Err("branches can be listed, and by name created, deleted and committed".into()),
        }
    }

    /// Whether what the kernel still holds has to come to the daemon first.
    pub const fn needs_all(&self) -> bool {
        matches!(self, Self::Create { .. } | Self::Commit { .. })
    }
}

/// What the process that has the volume open does for a command.
pub fn answer(volume: &Volume, path: &Path, what: &Branches) -> Result<Value> {
    match what {
        Branches::List => Ok(list(volume, path)),
        Branches::Create { name, from } => {
            let parent = match from {
                Some(from) => points::view(volume, path, from)?,
                None => volume.clone(),
            };
            let made = parent.create_branch(name);
            let made = made.map_err(|e| failed(volume, path, "make", name, &e))?;
            Ok(json!({"name": made.name}))
        }
        Branches::Origin { name, snapshot } => {
            let taken = volume.snapshot_origin(name, snapshot);
            let taken = taken.map_err(|e| match e {
                Error::NotFound if volume.branches().iter().any(|b| b.name == *name) => {
                    let cause = "what it was made of was given back";
                    let remedy = "name a snapshot with --since";
                    let what = format!("find the beginning of the branch {name:?} of");
                    Failure::with(&what, path, cause, remedy)
                }
                e => failed(volume, path, "find the beginning of", name, &e),
            })?;
            Ok(json!({"name": taken.name}))
        }
        Branches::Delete(name) => {
            let deleted = volume.delete_branch(name);
            deleted.map_err(|e| failed(volume, path, "delete", name, &e))?;
            Ok(json!({"name": name}))
        }
        Branches::Commit { name, onto, take } => {
            let which = (&**name, onto.as_deref());
            commit(volume, path, which, *take, &mut |_| ())
        }
    }
}

/// Commits a branch, to another one or to what is there now. `seen` is told the name of the
/// snapshot of before as soon as the change can be seen.
pub fn commit(
    volume: &Volume,
    path: &Path,
    (name, onto): (&str, Option<&str>),
    take: bool,
    seen: &mut dyn FnMut(&str),
) -> Result<Value> {
    let target = match onto {
        Some(onto) => open(volume, path, onto)?,
        None => volume.clone(),
    };
    let branch = open(volume, path, name)?;
    let how = match take {
        true => OnConflict::TakeBranch,
        false => OnConflict::Refuse,
    };
    let seen = &mut |safety: &razorfs::Snapshot| seen(&safety.name);
    let done = target.commit_branch_telling(&branch, how, seen);
    let done = done.map_err(|e| failed(volume, path, "commit", name, &e))?;
    Ok(committed(&done))
}

fn committed(done: &Committed) -> Value {
    match done {
        Committed::Nothing => json!({"done": false, "conflicts": []}),
        Committed::Conflicts(all) => {
            let conflict = |c: &razorfs::Conflict| json!({"path": shown(&c.path), "why": c.why});
            let all: Vec<Value> = all.iter().map(conflict).collect();
            json!({"done": false, "conflicts": all})
        }
        Committed::Done(safety) => {
            json!({"done": true, "conflicts": [], "safety": safety.name})
        }
    }
}

/// A branch, to be read and written.
pub fn open(volume: &Volume, path: &Path, name: &str) -> Result<Volume> {
    let branch = volume.branch(name);
    branch.map_err(|e| failed(volume, path, "open", name, &e))
}

/// The names of the branches of a mounted volume; none if its daemon does not tell.
pub fn names(live: &mut Live) -> Vec<String> {
    let document = live.ask(Request::Branches(Branches::List));
    document.map_or_else(|_| Vec::new(), |document| names_in(&document))
}

/// The names in the document of the list.
pub fn names_in(document: &Value) -> Vec<String> {
    let all = document.get("branches").and_then(Value::as_array);
    let names = all.into_iter().flatten();
    let names = names.filter_map(|branch| branch.get("name")?.as_str());
    names.map(str::to_owned).collect()
}

fn list(volume: &Volume, path: &Path) -> Value {
    let branch = |branch: &Branch| {
        json!({
            "name": branch.name,
            "id": branch.id,
            "time": clock::rfc3339(branch.time),
            "seconds": branch.time.secs,
            "files": branch.inodes,
            "bytes": branch.bytes,
        })
    };
    json!({
        "schema": 1,
        "volume": shown(path),
        "branches": volume.branches().iter().map(branch).collect::<Vec<_>>(),
    })
}

/// What is said where there is no such branch, of those that have these names.
pub fn missing<'a>(
    path: &Path,
    doing: &str,
    name: &str,
    names: impl Iterator<Item = &'a str>,
) -> Failure {
    let what = format!("{doing} the branch {name:?} of");
    let remedy = match nearest(name, names) {
        Some(near) => format!("perhaps {near:?} is meant"),
        None => format!("`razorfs branch list {}` shows all", word(path)),
    };
    Failure::with(&what, path, "there is no such branch", remedy)
}

/// What is said where something cannot be done with a branch.
pub fn failed(volume: &Volume, path: &Path, doing: &str, name: &str, error: &Error) -> Failure {
    let what = format!("{doing} the branch {name:?} of");
    match error {
        Error::NotFound | Error::BranchGone => {
            let names = volume.branches();
            missing(path, doing, name, names.iter().map(|b| b.name.as_str()))
        }
        Error::BranchInUse => {
            // One that is mounted has been told apart before: a command is at work on it.
            Failure::with(&what, path, "it is in use", "try again when that has ended")
        }
        Error::Exists => {
            let cause = "a snapshot or a branch has that name";
            Failure::with(&what, path, cause, "use another name")
        }
        Error::Invalid(cause) => Failure::with(&what, path, cause, "use another name"),
        Error::ReadOnly(_) => {
            let remedy = "mount it without `ro`, or repair what made it read-only";
            Failure::with(&what, path, error, remedy)
        }
        _ => Failure::engine(&what, path, error),
    }
}

/// The document of the list for people.
pub fn table(document: &Value) -> String {
    let branches = document.get("branches").and_then(Value::as_array);
    let rows = branches.into_iter().flatten().map(|branch| {
        let number = |key: &str| branch.get(key).and_then(Value::as_u64).unwrap_or(0);
        let seconds = branch.get("seconds").and_then(Value::as_i64);
        let name = branch.get("name").and_then(Value::as_str);
        [
            shown_bytes(name.unwrap_or("-").as_bytes()),
            clock::local(seconds.unwrap_or(0)),
            number("files").to_string(),
            crate::size::human(number("bytes")),
        ]
    });
    let rows: Vec<[String; 4]> = rows.collect();
    if rows.is_empty() {
        return "no branches; `razorfs clone PLACE --branch NAME` makes one\n".into();
    }
    points::columns(["NAME", "MADE", "FILES", "BYTES"], rows, 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_done_survives_the_wire() {
        let name = || "a \"ä\"".to_owned();
        for what in [
            Branches::List,
            Branches::Create {
                name: name(),
                from: None,
            },
            Branches::Create {
                name: name(),
                from: Some("x".into()),
            },
            Branches::Origin {
                name: name(),
                snapshot: "s".into(),
            },
            Branches::Delete(name()),
            Branches::Commit {
                name: name(),
                onto: Some("y".into()),
                take: true,
            },
        ] {
            assert_eq!(Branches::from_json(&what.to_json()), Ok(what));
        }
        for odd in [json!(null), json!({"do": "delete"}), json!({"do": 7})] {
            assert!(Branches::from_json(&odd).is_err(), "{odd}");
        }
    }
}
