//! `razorfs commit`: what was changed in a branch, brought back.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::branches::Branches;
use crate::commands::{branch, print_json, print_text};
use crate::failure::{Failure, ORDINARY, Result, shown};
use crate::mountinfo;
use crate::place;
use crate::points::word;

/// Does in a volume what was changed in a branch of it
#[derive(clap::Args, Debug)]
#[command(
    after_help = "What was changed in the branch since it was made, or committed last, is \
done in the volume, or with --onto in another branch: all of it at once, while programs run. \
What was there before is a snapshot, whose name is printed: going back to that one undoes \
it. The branch stays as it is, and can be committed again. Files keep their inodes, links, \
attributes and times.

If both have changed the same file or name, these are listed, nothing is done, and the exit code \
is 1. Then either change one of the two, or say --on-conflict branch: the volume becomes what the \
branch is, and what was changed in the volume meanwhile is in the snapshot only.

--json prints one object: schema (1), done (boolean), safety (the snapshot of before, or null), \
conflicts (array of path and why).

Examples:
  razorfs commit demo.rzfs@attempt-1
  razorfs commit mnt@attempt-1 --onto attempt-2
  razorfs commit mnt@attempt-1 --on-conflict branch"
)]
pub struct Args {
    /// The branch: PLACE@NAME, or where it is mounted
    branch: PathBuf,
    /// Another branch in which it is done, instead of the volume itself
    #[arg(long, value_name = "NAME")]
    onto: Option<String>,
    /// What is done if both have changed the same
    #[arg(long, value_name = "HOW", default_value = "refuse")]
    on_conflict: How,
    /// Prints one JSON document
    #[arg(long)]
    json: bool,
}

/// What is done if both have changed the same.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// Nothing
    Refuse,
    /// The volume becomes what the branch is
    Branch,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8> {
    let spot = place::spot(&args.branch)?;
    let Some(name) = spot.shows()? else {
        let cause = "no branch is named";
        let remedy = "name it as PLACE@NAME; `razorfs branch list` shows all";
        return Err(Failure::with("commit", &args.branch, cause, remedy));
    };
    let what = Branches::Commit {
        name: name.clone(),
        onto: args.onto.clone(),
        take: args.on_conflict == How::Branch,
    };
    let mut answer = branch::do_at(&spot.place, &what)?;
    let conflicts = conflicts(&answer);
    if args.json {
        if let Some(fields) = answer.as_object_mut() {
            fields.insert("schema".into(), 1.into());
            fields.entry("safety").or_insert(Value::Null);
        }
        print_json(&answer)?;
    } else if conflicts.is_empty() {
        let target = volume_of(&spot.place)?;
        print_text(&done(&answer, &target, &name, args.onto.as_deref()))?;
    } else {
        print_text(&conflicts.join(""))?;
    }
    if conflicts.is_empty() {
        return Ok(0);
    }
    let what = format!("commit the branch {name:?} of");
    let cause = format!("{} conflicts, and nothing was done", conflicts.len());
    let remedy = "change one of the two, or use --on-conflict branch";
    Err(Failure::with(&what, &spot.place, cause, remedy).code(ORDINARY))
}

/// The place of what is there now: a mount point of a branch is none.
fn volume_of(place: &Path) -> Result<PathBuf> {
    let mount = mountinfo::at(&place::absolute(place)?);
    let other = mount.filter(|mount| mount.shows.is_some());
    Ok(other.map_or_else(|| place.to_owned(), |mount| mount.volume))
}

/// The conflicts, a line each.
pub fn conflicts(answer: &Value) -> Vec<String> {
    let all = answer.get("conflicts").and_then(Value::as_array);
    let text = |value: &Value, key| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let line = |one: &Value| {
        let (path, why) = (text(one, "path")?, text(one, "why")?);
        Some(format!("C /{path}  ({why})\n"))
    };
    all.into_iter().flatten().filter_map(line).collect()
}

/// What was done, for people.
pub fn done(answer: &Value, place: &Path, name: &str, onto: Option<&str>) -> String {
    if answer.get("done") != Some(&Value::Bool(true)) {
        return format!("{name} has changed nothing that is not there\n");
    }
    let Some(safety) = answer.get("safety").and_then(Value::as_str) else {
        return format!("committed {name}\n");
    };
    let mut target = shown(place);
    if let Some(onto) = onto {
        target = format!("{target}@{onto}");
    }
    let (target, point) = (word(Path::new(&target)), word(Path::new(safety)));
    format!(
        "committed {name}; what was until now is the snapshot {safety}\n\
         undo it with: razorfs rollback {target} {point}\n"
    )
}
