//! The daemon alone is SIGKILLed, again and again, and the programs on its mount must not notice:
//! git commits, SQLite inserts and tar unpacks, and all of it ends well and is there.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::load::{commit_text, git};
use super::random::Random;
use super::stage::{Daemon, Stage, is_alive, kill_alone, step};
use crate::run;

/// Milliseconds from one death to the next: a third of them come while the next daemon begins.
const WINDOW: (u64, u64) = (100, 1200);
const WHILE_BEGINNING: (u64, u64) = (1, 60);
/// Files of the archive.
const FILES: u64 = 700;

/// Deaths that often.
pub fn main(stage: &Stage, deaths: u64, seed: u64) -> Result<(), String> {
    let volume = stage.place.join("deaths.rzfs");
    // As often as we like, where five times a minute would be enough.
    let mount = Daemon::mount(stage, &volume, &["env", "RAZORFS_DEATHS=1000000"])?;
    if mount.keeper() == 0 {
        mount.umount()?;
        let why = "the kernel cannot resend requests, which Linux 6.9 and newer do";
        return super::left_out("deaths of the daemon alone", why);
    }
    let source = source(stage, seed)?;
    let stop = AtomicBool::new(false);
    let go_on = || !stop.load(Ordering::Relaxed);
    let worked = std::thread::scope(|scope| {
        let commits = scope.spawn(|| commits(&mount.dir.join("git"), &go_on));
        let rows = scope.spawn(|| rows(&mount.dir.join("db"), &go_on));
        let trees = scope.spawn(|| trees(&mount.dir, &source, &go_on));
        let killed = kill_often(&mount, deaths, Random(seed), &|| {
            commits.is_finished() || rows.is_finished() || trees.is_finished()
        });
        stop.store(true, Ordering::Relaxed);
        let panicked = |_| "a worker panicked".to_owned();
        let commits = commits.join().map_err(panicked)??;
        let rows = rows.join().map_err(panicked)??;
        let trees = trees.join().map_err(panicked)??;
        killed.map(|pauses| (commits, rows, trees, pauses))
    });
    let (commits, rows, trees, mut pauses) =
        worked.map_err(|e| format!("deaths, seed {seed}: {e}\n{}", mount.log()))?;
    let info = mount.info()?;
    if !info.contains(&format!("\"restarts\":{deaths}"))
        && !info.contains(&format!("\"restarts\": {deaths}"))
    {
        return Err(format!("{deaths} deaths, and info says: {info}"));
    }
    mount.umount()?;
    stage.verify(&volume)?;
    fs::remove_dir_all(&volume).map_err(|e| format!("{}: {e}", volume.display()))?;
    println!(
        "deaths: the daemon alone SIGKILLed {deaths} times under {commits} git commits, {rows} \
         SQLite transactions and {trees} unpacked trees; all of them ended well, nothing is \
         missing (seed {seed})"
    );
    pauses.sort_unstable();
    let longest = pauses.last().map_or(0, Duration::as_millis);
    let half = pauses.get(pauses.len() / 2).map_or(0, Duration::as_millis);
    println!(
        "deaths: until a request was answered again: median {half} ms, longest {longest} ms, of {}",
        pauses.len()
    );
    Ok(())
}

/// Kills whatever daemon there is, that often, as long as nobody has ended. Answers how long a
/// request waited that came right after a death, where no other death followed at once.
fn kill_often(
    mount: &Daemon,
    deaths: u64,
    mut random: Random,
    has_ended: &dyn Fn() -> bool,
) -> Result<Vec<Duration>, String> {
    let (mut last, mut pauses) = (0, Vec::new());
    let mut window = WINDOW;
    for n in 1..=deaths {
        std::thread::sleep(Duration::from_millis(random.between(window.0, window.1)));
        if has_ended() {
            return Err(format!("a program has ended before death {n}"));
        }
        step();
        last = daemon_of(mount.keeper(), last)?;
        kill_alone(last)?;
        window = if random.one_in(3) {
            WHILE_BEGINNING
        } else {
            pauses.push(pause(&mount.dir.join(format!("no-{n}")))?);
            WINDOW
        };
        if n % 50 == 0 {
            println!("deaths: {n} of {deaths} so far");
        }
    }
    Ok(pauses)
}

/// How long it takes to be told that a name is not there that nobody has asked for before.
#[expect(
    clippy::disallowed_methods,
    reason = "no seed replays how long a daemon takes to begin"
)]
fn pause(name: &Path) -> Result<Duration, String> {
    let before = std::time::Instant::now();
    match fs::symlink_metadata(name) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(before.elapsed()),
        other => Err(format!("{}: {other:?}", name.display())),
    }
}

/// The daemon that a keeper has now, after the `last` one. It comes within a second, but for what a
/// busy machine takes besides.
fn daemon_of(keeper: u32, last: u32) -> Result<u32, String> {
    for _ in 0..500 {
        let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children"));
        let children = children.map_err(|e| format!("the keeper is gone: {e}"))?;
        let mut living = children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok());
        if let Some(pid) = living.find(|&pid| pid != last && is_alive(pid)) {
            return Ok(pid);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err("no daemon came within five seconds".into())
}

/// An archive, and the tree that it is of, beside the volume.
fn source(stage: &Stage, seed: u64) -> Result<std::path::PathBuf, String> {
    let tree = stage.dir("deaths-source/tree")?;
    let failed = |e: std::io::Error| format!("{}: {e}", tree.display());
    let mut random = Random(seed ^ 1);
    for n in 0..FILES {
        let dir = tree.join(format!("{}/{}", n % 7, n % 31));
        fs::create_dir_all(&dir).map_err(failed)?;
        let len = match n % 40 {
            0 => 300_000,
            _ => random.below(6000),
        };
        let bytes = random.bytes(usize::try_from(len).unwrap_or(0));
        fs::write(dir.join(n.to_string()), bytes).map_err(failed)?;
    }
    let source = stage.place.join("deaths-source");
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(&source).args(["-cf"]);
    run::check_quietly(tar.arg(source.join("tar")).arg("tree"))?;
    Ok(source)
}

/// Commits until it is told to stop; nothing may fail, and all must be there.
fn commits(repository: &Path, go_on: &dyn Fn() -> bool) -> Result<u64, String> {
    let failed = |what: &str, e: &dyn std::fmt::Display| format!("git: {what}: {e}");
    run::check_quietly(Command::new("git").args(["init", "-q"]).arg(repository))?;
    let run = |words: &[&str]| {
        let mut command = git(repository);
        // Nothing is to be synced: what is acknowledged stays all the same.
        command.args(["-c", "core.fsync=none"]).args(words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        run::output(&mut command).map_err(|e| failed(&words.join(" "), &e))
    };
    let mut n = 0;
    while go_on() || n == 0 {
        n += 1;
        let file = repository.join("file");
        fs::write(file, commit_text(n)).map_err(|e| failed("write", &e))?;
        run(&["add", "file"])?;
        run(&["commit", "-q", "-m", &n.to_string()])?;
    }
    run(&["fsck", "--strict"])?;
    let count = run(&["rev-list", "--count", "HEAD"])?;
    let subject = run(&["log", "-1", "--format=%s"])?;
    if count.trim() != n.to_string() || subject.trim() != n.to_string() {
        return Err(format!(
            "git: {n} commits were made, {count} are there, the last one is {subject}"
        ));
    }
    Ok(n)
}

/// Inserts rows, one to a transaction, until it is told to stop; all must be there.
fn rows(database: &Path, go_on: &dyn Fn() -> bool) -> Result<u64, String> {
    let mut child = Command::new("sqlite3")
        .args(["-batch", "-bail"])
        .arg(database)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("cannot run sqlite3: {e}"))?;
    let (Some(mut ask), Some(answer)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("sqlite3: no pipes".into());
    };
    let mut answer = BufReader::new(answer).lines();
    let mut say = |text: &str| -> Result<String, String> {
        let said = ask.write_all(text.as_bytes()).map(|()| answer.next());
        match said {
            Ok(Some(Ok(line))) => Ok(line),
            _ => Err(format!("sqlite3 has ended at {text}")),
        }
    };
    say(
        "PRAGMA synchronous=off; CREATE TABLE rows(n INTEGER PRIMARY KEY, body TEXT); \
         SELECT 'made';\n",
    )?;
    let mut n: u64 = 0;
    while go_on() || n == 0 {
        n += 1;
        let body = "x".repeat(usize::try_from(n % 3000).unwrap_or(0));
        let text =
            format!("BEGIN; INSERT INTO rows VALUES({n}, '{body}'); COMMIT; SELECT 'row {n}';\n");
        let line = say(&text)?;
        if line != format!("row {n}") {
            return Err(format!("sqlite3: row {n} was answered with {line}"));
        }
    }
    let counted = say("SELECT count(*) || ' ' || sum(length(body) = n % 3000) FROM rows;\n")?;
    let whole = say("PRAGMA integrity_check;\n")?;
    if counted != format!("{n} {n}") || whole != "ok" {
        return Err(format!(
            "sqlite3: of {n} rows {counted} are there; integrity_check says {whole}"
        ));
    }
    drop(ask);
    let status = child.wait().map_err(|e| format!("sqlite3: {e}"))?;
    if !status.success() {
        return Err(format!("sqlite3 has ended with {status}"));
    }
    Ok(n)
}

/// Unpacks the archive, compares and removes it until it is told to stop.
fn trees(dir: &Path, source: &Path, go_on: &dyn Fn() -> bool) -> Result<u64, String> {
    let mut n = 0;
    while go_on() || n == 0 {
        let to = dir.join(format!("unpacked-{n}"));
        fs::create_dir(&to).map_err(|e| format!("{}: {e}", to.display()))?;
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&to).arg("-xf").arg(source.join("tar"));
        run::check_quietly(&mut tar)?;
        let mut diff = Command::new("diff");
        run::check_quietly(diff.arg("-r").arg(source.join("tree")).arg(to.join("tree")))?;
        if n % 4 != 3 {
            fs::remove_dir_all(&to).map_err(|e| format!("{}: {e}", to.display()))?;
        }
        n += 1;
    }
    Ok(n)
}
