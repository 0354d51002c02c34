//! `razorfs doctor`: what a mount needs on this host, and what it could have besides.

mod disk;
mod host;

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::commands::{print_json, print_text};
use crate::failure::Result;

/// Looks at what a mount needs on this host, and what it could have besides
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Each line begins with `ok`, `warning` (it works, and could be better) or `problem` \
(something will not work), and says what to do:

  /dev/fuse, mounting, fusermount3, allow_other   whether you can mount, and for others
  kernel, io_uring, read-ahead                    what the kernel has to make it fast
  file size, clock                                limits and the time of this process

With a PLACE, a volume or the directory that is to hold one, also what the file system below it can \
do; nothing is left there:

  file system, space            what it is, and what is free
  writing, O_TMPFILE, fallocate, holes, O_DIRECT, flock, sync

The exit code is 1 if there is a problem.

--json prints one object: schema (2), state (the worst), checks (array of {name, state, found, \
remedy (or null)}).

Examples:
  razorfs doctor
  razorfs doctor /srv/demo.rzfs
  razorfs doctor --json | jq '.checks[] | select(.state != \"ok\")'"
)]
pub struct Args {
    /// A volume, its mount point, or a directory
    place: Option<PathBuf>,
    /// Prints one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum State {
    Ok,
    Warning,
    Problem,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// What was found about one thing.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Check {
    name: &'static str,
    state: State,
    found: String,
    remedy: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            state: State::Ok,
            found: found.into(),
            remedy: None,
        }
    }

    fn warning(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            state: State::Warning,
            remedy: Some(remedy.into()),
            ..Self::ok(name, found)
        }
    }

    fn problem(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            state: State::Problem,
            ..Self::warning(name, found, remedy)
        }
    }

    fn document(&self) -> Value {
        json!({
            "name": self.name,
            "state": self.state.name(),
            "found": self.found,
            "remedy": self.remedy,
        })
    }

    fn line(&self) -> String {
        let (state, name) = (self.state.name(), self.name);
        let remedy = self.remedy.as_ref().map(|remedy| format!("; {remedy}"));
        let remedy = remedy.unwrap_or_default();
        format!("{state:<8} {name:<12} {}{remedy}", self.found)
    }
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8> {
    let mut checks = host::checks();
    if let Some(path) = &args.place {
        checks.extend(disk::checks(path)?);
    }
    let worst = checks.iter().map(|check| check.state).max();
    let worst = worst.unwrap_or(State::Ok);
    if args.json {
        let checks: Vec<Value> = checks.iter().map(Check::document).collect();
        print_json(&json!({"schema": 2, "state": worst.name(), "checks": checks}))?;
    } else {
        let lines: Vec<String> = checks.iter().map(Check::line).collect();
        print_text(&format!("{}\n", lines.join("\n")))?;
    }
    Ok(u8::from(worst == State::Problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_state_is_the_greatest() {
        assert!(State::Problem > State::Warning && State::Warning > State::Ok);
    }
}
