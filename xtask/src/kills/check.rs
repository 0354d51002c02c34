//! Whether everything that was acknowledged is there, and nothing that never was.

use std::path::Path;
use std::process::{Command, Stdio};

use super::load::{ROW, commit_text, git, history};
use super::manifest::{COMMITS, FILES, ROWS, Told};
use super::model::{Model, Op, Seen, look};

/// How every loss begins to be told.
pub const LOST: &str = "what was acknowledged is not there";

/// Checks what a load of that seed has left in `dir`. Each worker must be seen at one moment
/// between what was acknowledged last and what it began last.
pub fn check(dir: &Path, told: &Told, seed: u64, files_only: bool) -> Result<(), String> {
    for worker in 0..FILES {
        files(&dir.join(worker.to_string()), told, seed, worker)?;
    }
    if !files_only {
        rows(dir, told)?;
        commits(dir, told)?;
    }
    Ok(())
}

fn range(told: &Told, worker: usize) -> (u64, u64) {
    let of = |all: &[u64]| all.get(worker).copied().unwrap_or(0);
    (of(&told.floor), of(&told.begun))
}

fn files(dir: &Path, told: &Told, seed: u64, worker: usize) -> Result<(), String> {
    let (floor, begun) = range(told, worker);
    let seen = look(dir).map_err(|e| format!("{LOST}: {}: {e}", dir.display()))?;
    let mut random = history(seed, worker);
    let mut model = Model::default();
    let mut wanted = Seen::new();
    for n in 0..=begun {
        if n > 0 {
            let op = model.next(&mut random);
            let op = told
                .short
                .get(&(worker, n))
                .map_or(op.clone(), |len| op.first(*len));
            if n > floor && is_in_between(&model, &op, &seen) {
                return Ok(());
            }
            if !told.refused.contains(&(worker, n)) {
                model.apply(&op);
            }
        }
        if n < floor {
            continue;
        }
        let state = model.seen();
        if state == seen {
            return Ok(());
        }
        if n == floor {
            wanted = state;
        }
    }
    Err(format!(
        "{LOST}: {} is at no moment between operation {floor}, which was acknowledged, and \
         {begun}, the last (seed {seed}, worker {worker}). As of the first:{}",
        dir.display(),
        differences(&wanted, &seen)
    ))
}

/// Whether a crash within an operation explains it.
fn is_in_between(model: &Model, op: &Op, seen: &Seen) -> bool {
    let Op::Write { path, .. } = op else {
        return false;
    };
    let mut before = model.clone();
    let others = before.seen();
    let differ = others
        .iter()
        .filter(|(name, shown)| seen.get(*name) != Some(shown));
    // Cheaper than to try all: nothing but the names of that file differs.
    let mut own = differ.map(|(name, _)| name);
    if others.len() != seen.len() || !own.all(|name| model.is_same(name, path)) {
        return false;
    }
    op.parts().iter().any(|part| {
        let mut after = model.clone();
        after.apply(part);
        after.seen() == *seen
    })
}

fn differences(wanted: &Seen, seen: &Seen) -> String {
    let mut text = String::new();
    let nothing = || "nothing".to_owned();
    for name in wanted
        .keys()
        .chain(seen.keys().filter(|n| !wanted.contains_key(*n)))
    {
        let (a, b) = (wanted.get(name), seen.get(name));
        if a != b {
            let a = a.cloned().unwrap_or_else(nothing);
            let b = b.cloned().unwrap_or_else(nothing);
            text.push_str(&format!("\n  {name}: {a}; there is: {b}"));
        }
    }
    text
}

fn said(command: &mut Command) -> Result<String, String> {
    crate::run::output(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
        .map_err(|e| format!("{LOST}: {e}"))
}

fn rows(dir: &Path, told: &Told) -> Result<(), String> {
    let (floor, begun) = range(told, ROWS);
    let question = format!(
        "PRAGMA integrity_check; SELECT count(*), coalesce(max(n), 0), \
         (SELECT n FROM last), count(CASE WHEN body IS NOT ({ROW}) THEN 1 END) FROM rows;"
    );
    let answer = said(Command::new("sqlite3").arg(dir.join("db")).arg(question))?;
    let n = answer.trim().strip_prefix("ok\n").and_then(|numbers| {
        let n = numbers.split('|').next()?;
        (numbers == format!("{n}|{n}|{n}|0")).then(|| n.parse::<u64>().ok())?
    });
    match n {
        Some(n) if (floor..=begun).contains(&n) => Ok(()),
        _ => Err(format!(
            "{LOST}: {}: {floor} rows were, {begun} were begun; the database says {answer:?}",
            dir.join("db").display()
        )),
    }
}

fn commits(dir: &Path, told: &Told) -> Result<(), String> {
    let (floor, begun) = range(told, COMMITS);
    let repository = dir.join("git");
    said(git(&repository).args(["fsck", "--full", "--strict", "--no-dangling"]))?;
    let message = said(git(&repository).args(["log", "-1", "--format=%s"]))?;
    let n = message.trim().parse().unwrap_or(u64::MAX);
    let file = said(git(&repository).args(["show", "HEAD:file"]))?;
    if (floor..=begun).contains(&n) && file == commit_text(n) {
        return Ok(());
    }
    let at = repository.display();
    Err(format!(
        "{LOST}: {at}: commit {floor} was, {begun} was begun; HEAD is {message:?}"
    ))
}
