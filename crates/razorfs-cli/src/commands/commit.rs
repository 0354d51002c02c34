//! `razorfs commit`: what was changed in a branch, brought back.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::branches::Branches;
use crate::commands::{branch, print_json, print_text};
use crate::failure::{Failure, ORDINARY, Result, shown};
use crate::mountinfo;
use crate::onto::Clash;
use crate::place;
use crate::points::word;

mod onto_host;

/// Does in a volume what was changed in a branch of it
#[derive(clap::Args, Debug)]
#[command(
    after_help = "What was changed in the branch since it was made, or committed last, is \
done in the volume, or with --onto in another branch: all of it at once, while programs run. \
What was there before is a snapshot, whose name is printed: going back to that one undoes \
it. The branch stays as it is, and can be committed again. Files keep their inodes, links, \
attributes and times.

With --to what was changed in the branch since it was made is done in a directory of the host, \
which has what the branch began with: files are added, replaced and removed, with their modes, \
times, attributes, links and holes. What else is in the directory stays, and so do modes, owners \
and attributes that were not changed in the branch. A file, a mode, an owner or an attribute that \
is another on the host than the one that the branch began with is a conflict, unless it is what \
the branch has now. A file is whole at any moment, and if it is interrupted another run does the \
rest. What is changed on the host while it runs is left as it is: it stops there, that is the one \
conflict, and the exit code is 1. With --since it is what was changed since that snapshot, such as \
one that was taken of the branch at the last time.

If both have changed the same file or name, or data of the branch is damaged, these are listed, \
nothing is done, and the exit code is 1. That a file was read is no change. Then either change \
one of the two, or say --on-conflict branch: the volume becomes what the branch is, and what was \
changed in the volume meanwhile is in the snapshot only.

--json prints one object: schema (1), done (boolean), safety (the snapshot of before, or null), \
conflicts (array of path and why). \
With --to: schema (1), done (boolean), changes (how many paths differ), conflicts.

Examples:
  razorfs commit demo.rzfs@attempt-1
  razorfs commit mnt@attempt-1 --onto attempt-2
  razorfs commit mnt@attempt-1 --on-conflict branch
  razorfs commit demo.rzfs@attempt-1 --to ~/src/project"
)]
pub struct Args {
    /// The branch: PLACE@NAME, or where it is mounted
    branch: PathBuf,
    /// Another branch in which it is done, instead of the volume itself
    #[arg(long, value_name = "NAME")]
    onto: Option<String>,
    /// A directory of the host in which it is done, instead of the volume
    #[arg(long, value_name = "DIR", conflicts_with = "onto")]
    to: Option<PathBuf>,
    /// The snapshot since which it counts, instead of what the branch was made of
    #[arg(long, value_name = "NAME", requires = "to")]
    since: Option<String>,
    /// What is done if both have changed the same
    #[arg(long, value_name = "HOW", default_value = "refuse")]
    on_conflict: How,
    /// Prints one JSON document
    #[arg(long)]
    json: bool,
    /// Shows no progress
    #[arg(short, long)]
    quiet: bool,
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
    if let Some(dir) = &args.to {
        let asked = onto_host::Asked {
            place: &spot.place,
            branch: &name,
            since: args.since.as_deref(),
            take: args.on_conflict == How::Branch,
            quiet: args.json || args.quiet,
        };
        return told(args, &name, dir, &onto_host::commit(&asked, dir)?);
    }
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

/// Says what came of a commit to the host.
fn told(args: &Args, name: &str, dir: &Path, done: &onto_host::Done) -> Result<u8> {
    let conflict = |clash: &Clash| json!({"path": shown(&clash.path), "why": clash.why});
    let conflicts: Vec<Value> = done
        .clashes
        .iter()
        .chain(&done.stopped)
        .map(conflict)
        .collect();
    let is_done = conflicts.is_empty();
    let answer = json!({
        "schema": 1,
        "done": is_done && done.changes > 0,
        "changes": done.changes,
        "conflicts": conflicts,
    });
    if args.json {
        print_json(&answer)?;
    } else if is_done {
        let changes = done.changes;
        print_text(&format!(
            "committed {name} to {}: {changes} changes\n",
            shown(dir)
        ))?;
    } else {
        print_text(&self::conflicts(&answer).join(""))?;
    }
    if is_done {
        return Ok(0);
    }
    let what = format!("commit the branch {name:?} to");
    let (cause, remedy) = match (&done.stopped, done.clashes.iter().any(|clash| clash.stays)) {
        (Some(_), _) => (
            "somebody changed it meanwhile, and not all was done".to_owned(),
            "look at it; the same command again does the rest",
        ),
        (None, stays) => (
            format!("{} conflicts, and nothing was done", done.clashes.len()),
            match stays {
                true => "move these out of the way",
                false => "look at these, or use --on-conflict branch",
            },
        ),
    };
    Err(Failure::with(&what, dir, cause, remedy).code(ORDINARY))
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
