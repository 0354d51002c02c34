//! The tour of the documentation, line by line.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{RAZORFS, mounted_below, razorfs, room};

const TOUR: &str = include_str!("../../../docs/tour.md");

/// A command, and what it prints.
#[derive(Default)]
struct Step {
    line: usize,
    command: String,
    prints: Vec<String>,
}

/// What stands in the blocks of the document: after `$ ` and `> ` what is typed, and then what
/// comes.
fn steps(document: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for (n, line) in document.lines().enumerate() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if let (true, Some(command)) = (inside, line.strip_prefix("$ ")) {
            steps.push(Step {
                line: n + 1,
                command: command.to_owned(),
                prints: Vec::new(),
            });
        } else if inside {
            let step = steps.last_mut().expect("a block begins with a command");
            match line.strip_prefix("> ") {
                Some(more) => step.command += &format!("\n{more}"),
                None => step.prints.push(line.to_owned()),
            }
        }
    }
    steps
}

/// Whether a line is as it stands there: `…` is anything.
fn fits(line: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('…');
    let first = parts.next().unwrap();
    let Some(mut rest) = line.strip_prefix(first) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, between)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in between {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Whether all lines are as they stand there: a line that is only `…` is any number of them.
fn all_fit(lines: &[&str], patterns: &[String]) -> bool {
    match patterns.split_first() {
        None => lines.is_empty(),
        Some((any, rest)) if any == "…" => (0..=lines.len()).any(|n| all_fit(&lines[n..], rest)),
        Some((first, rest)) => match lines.split_first() {
            Some((line, lines)) => fits(line, first) && all_fit(lines, rest),
            None => false,
        },
    }
}

#[test]
fn lines_are_compared_but_for_what_is_different_each_time() {
    assert!(fits("back at 5; undo", "back at …; undo"));
    assert!(fits("a b c", "a…b…c") && fits("abc", "…") && fits("abc", "abc"));
    for (line, pattern) in [
        ("abcd", "abc"),
        ("xabc", "abc"),
        ("a c", "a…b…c"),
        ("ab", "a…c"),
    ] {
        assert!(!fits(line, pattern), "{line} {pattern}");
    }
    let patterns = ["1".to_owned(), "…".to_owned(), "3".to_owned()];
    assert!(all_fit(&["1", "2", "2", "3"], &patterns) && all_fit(&["1", "3"], &patterns));
    assert!(!all_fit(&["1", "2"], &patterns) && !all_fit(&["1", "3", "4"], &patterns));
}

/// Unmounts what the tour left mounted when it failed.
struct Mounts<'a>(&'a Path);

impl Drop for Mounts<'_> {
    fn drop(&mut self) {
        for dir in mounted_below(self.0) {
            drop(razorfs(["umount".as_ref(), dir.as_os_str()]));
        }
    }
}

#[test]
fn the_tour_goes_as_it_is_told() {
    const END: &str = "\u{1e}";
    let steps = steps(TOUR);
    assert!(steps.len() > 30);
    let room = room();
    let here = room.path().canonicalize().unwrap();
    let _mounts = Mounts(&here);
    let program = Path::new(RAZORFS).parent().unwrap();
    let path = std::env::var("PATH").unwrap();
    let script = steps.iter().map(|step| {
        let command = &step.command;
        format!("{command}\nprintf '{END}%s{END}' $?\n")
    });
    let output = Command::new("bash")
        .args(["-c", &format!("exec 2>&1\n{}", script.collect::<String>())])
        .current_dir(&here)
        .env("PATH", format!("{}:{path}", program.display()))
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let mut parts = said.split(END);
    for step in &steps {
        let (said, status) = (parts.next(), parts.next());
        let (Some(said), Some(status)) = (said, status) else {
            panic!(
                "docs/tour.md:{}: {}: the shell has ended",
                step.line, step.command
            );
        };
        let lines: Vec<&str> = said.lines().collect();
        assert!(
            all_fit(&lines, &step.prints) && status == "0",
            "docs/tour.md:{}: {}\nends with {status} and prints\n{said}",
            step.line,
            step.command
        );
    }
}
