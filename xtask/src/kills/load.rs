//! The load: a program of its own, which works on a mount until the mount is gone.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::manifest::{COMMITS, Done, FILES, Manifest, ROWS};
use super::model::{Model, Op, look};
use super::random::Random;

/// Without room on the disk of the host.
const ENOSPC: i32 = 28;

/// How the database of a seed keeps its journal, and what makes a commit durable in that mode.
const JOURNALS: [(&str, &str); 4] = [
    ("wal", "full"),
    ("truncate", "full"),
    ("persist", "full"),
    // The end of a transaction is that a name goes: only this syncs the directory.
    ("delete", "extra"),
];

/// What a load is given.
pub struct Load {
    /// The directory on the mount that [`prepare`] has made.
    pub dir: PathBuf,
    /// Where the manifests go.
    pub manifests: PathBuf,
    /// The command, for `razorfs sync`.
    pub razorfs: PathBuf,
    pub seed: u64,
    /// Only files, and what the host has no room for is left out.
    pub files_only: bool,
}

/// Makes what the load starts from.
pub fn prepare(dir: &Path, seed: u64, files_only: bool) -> Result<(), String> {
    let made = fs::create_dir(dir).and_then(|()| {
        (0..FILES).try_for_each(|worker| Model::make_directories(&dir.join(worker.to_string())))
    });
    made.map_err(|e| format!("{}: {e}", dir.display()))?;
    if files_only {
        return Ok(());
    }
    let (journal, _) = journal(seed);
    let tables = format!(
        "PRAGMA journal_mode={journal}; CREATE TABLE rows(n INTEGER PRIMARY KEY, body TEXT);
         CREATE TABLE last(n INTEGER); INSERT INTO last VALUES(0);"
    );
    crate::run::check_quietly(Command::new("sqlite3").arg(dir.join("db")).arg(tables))?;
    let repository = dir.join("git");
    crate::run::check_quietly(Command::new("git").args(["init", "-q"]).arg(&repository))?;
    fs::write(repository.join("file"), commit_text(0)).map_err(|e| e.to_string())?;
    crate::run::check_quietly(git(&repository).args(["add", "file"]))?;
    crate::run::check_quietly(git(&repository).args(["commit", "-q", "-m", "0"]))
}

/// git in a repository, with nobody's settings and everything synced.
pub fn git(repository: &Path) -> Command {
    let mut command = Command::new("git");
    command.arg("-C").arg(repository);
    for setting in [
        "core.fsync=all",
        "core.fsyncMethod=fsync",
        "gc.auto=0",
        "user.name=kills",
        "user.email=kills@localhost",
        "safe.directory=*",
    ] {
        command.args(["-c", setting]);
    }
    command
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// What the file of the repository holds in the commit of that number.
pub fn commit_text(n: u64) -> String {
    format!("commit {n}\n").repeat(100)
}

/// What the row of that number holds.
pub const ROW: &str = "hex(n * 7919) || substr(hex(zeroblob(400)), 1, n % 800)";

fn journal(seed: u64) -> (&'static str, &'static str) {
    let journal = Random(seed).pick(&JOURNALS).copied();
    journal.unwrap_or(("wal", "full"))
}

impl Load {
    /// Works until every worker got an error, which is how a mount ends. An error of this is one
    /// of the test.
    pub fn run(&self) -> Result<(), String> {
        let done = Done::default();
        std::thread::scope(|scope| {
            let mut workers = Vec::new();
            for worker in 0..FILES {
                let done = &done;
                workers.push(scope.spawn(move || self.files(worker, done)));
            }
            if !self.files_only {
                workers.push(scope.spawn(|| self.rows(&done)));
                workers.push(scope.spawn(|| self.commits(&done)));
            }
            for worker in workers {
                worker.join().map_err(|_| "a worker panicked")??;
            }
            Ok(())
        })
    }

    fn manifest(&self, worker: usize) -> Result<Manifest, String> {
        Manifest::create(&self.manifests, worker).map_err(noting)
    }

    fn files(&self, worker: usize, done: &Done) -> Result<(), String> {
        let dir = self.dir.join(worker.to_string());
        let mut manifest = self.manifest(worker)?;
        let mut random = history(self.seed, worker);
        // How it syncs must not move what it does.
        let mut syncs = Random(random.clone().next());
        let mut model = Model::default();
        for n in 1.. {
            let op = model.next(&mut random);
            manifest.begin(n).map_err(noting)?;
            let before = done.now();
            match op.run(&dir) {
                Ok(part) => {
                    if let Some(len) = part.len().filter(|_| part != op) {
                        manifest.short(n, len).map_err(noting)?;
                    }
                    model.apply(&part);
                    done.set(worker, n);
                    if op.is_synced() {
                        let mut acknowledged = before;
                        if let Some(own) = acknowledged.get_mut(worker) {
                            *own = n;
                        }
                        manifest.acknowledged(acknowledged).map_err(noting)?;
                    }
                }
                Err(e) if self.goes_on(&e) => {
                    match what_was_done(&dir, &model, &op) {
                        Ok(Some(Some(part))) => {
                            if let Some(len) = part.len().filter(|_| part != op) {
                                manifest.short(n, len).map_err(noting)?;
                            }
                            model.apply(&part);
                        }
                        Ok(Some(None)) => manifest.refused(n, &e).map_err(noting)?,
                        Ok(None) => {
                            let shown = dir.display();
                            return Err(format!("{shown}: neither done nor refused: {op:?}"));
                        }
                        // The mount has ended meanwhile; whether it was done nobody knows.
                        Err(e) => return manifest.ended(&e.to_string()).map_err(noting),
                    }
                    done.set(worker, n);
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
                Err(e) => return manifest.ended(&e.to_string()).map_err(noting),
            }
            if syncs.one_in(4) {
                let before = done.now();
                match self.sync(&dir, &model, &mut syncs) {
                    Ok(()) => manifest.acknowledged(before).map_err(noting)?,
                    Err(e) if self.goes_on(&e) => manifest.unsynced(&e).map_err(noting)?,
                    Err(e) => return manifest.ended(&e.to_string()).map_err(noting),
                }
            }
        }
        Ok(())
    }

    fn goes_on(&self, e: &io::Error) -> bool {
        self.files_only && e.raw_os_error() == Some(ENOSPC)
    }

    /// All ways of having everything on the disk.
    fn sync(&self, dir: &Path, model: &Model, random: &mut Random) -> io::Result<()> {
        let files = model.files();
        let file = random.pick(&files).map(|name| dir.join(name));
        let file = file.unwrap_or_else(|| dir.to_path_buf());
        let for_writing = fs::OpenOptions::new().write(true).open(&file);
        match random.below(24) {
            0..6 if file != dir => for_writing?.sync_all(),
            6..10 if file != dir => for_writing?.sync_data(),
            10..15 => File::open(&file)?.sync_all(),
            15..18 => File::open(&file)?.sync_data(),
            18..23 => File::open(dir.join("a"))?.sync_all(),
            _ => {
                let mut command = Command::new(&self.razorfs);
                command
                    .arg("sync")
                    .arg(self.dir.parent().unwrap_or(&self.dir));
                let output = command.stdin(Stdio::null()).output()?;
                let said = String::from_utf8_lossy(&output.stderr);
                if output.status.success() {
                    Ok(())
                } else if said.contains("space") {
                    Err(io::Error::from_raw_os_error(ENOSPC))
                } else {
                    Err(io::Error::other(said.into_owned()))
                }
            }
        }
    }

    fn rows(&self, done: &Done) -> Result<(), String> {
        let mut manifest = self.manifest(ROWS)?;
        let (journal, synchronous) = journal(self.seed);
        let mut child = Command::new("sqlite3")
            .args(["-batch", "-bail"])
            .arg(self.dir.join("db"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| format!("cannot run sqlite3: {e}"))?;
        let (Some(mut ask), Some(answer)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("sqlite3: no pipes".into());
        };
        let mut answer = BufReader::new(answer).lines();
        // Both are the connection's own, but for the journal `wal`; the first one answers.
        let modes = format!("PRAGMA journal_mode={journal}; PRAGMA synchronous={synchronous};\n");
        let mut said = ask.write_all(modes.as_bytes());
        if answer.next().and_then(Result::ok).as_deref() != Some(journal) {
            said = Err(io::ErrorKind::Other.into());
        }
        for n in 1.. {
            manifest.begin(n).map_err(noting)?;
            let before = done.now();
            let text = format!(
                "BEGIN IMMEDIATE; INSERT INTO rows SELECT n, {ROW} FROM (SELECT {n} AS n); \
                 UPDATE last SET n = {n}; COMMIT; SELECT 'row {n}';\n"
            );
            said = said.and_then(|()| ask.write_all(text.as_bytes()));
            let line = answer.next().and_then(Result::ok).unwrap_or_default();
            if said.is_err() || line != format!("row {n}") {
                manifest.ended("sqlite3 has ended").map_err(noting)?;
                break;
            }
            // If the directory cannot be opened for its sync, SQLite acknowledges all the same. A
            // mount that is there now was there then.
            if let Err(e) = fs::read_dir(&self.dir) {
                manifest.ended(&e.to_string()).map_err(noting)?;
                break;
            }
            done.set(ROWS, n);
            let mut acknowledged = before;
            if let Some(own) = acknowledged.get_mut(ROWS) {
                *own = n;
            }
            manifest.acknowledged(acknowledged).map_err(noting)?;
        }
        drop(ask);
        child.wait().map(drop).map_err(|e| format!("sqlite3: {e}"))
    }

    fn commits(&self, done: &Done) -> Result<(), String> {
        let mut manifest = self.manifest(COMMITS)?;
        let repository = self.dir.join("git");
        for n in 1.. {
            manifest.begin(n).map_err(noting)?;
            let mut commit = git(&repository);
            commit.args(["commit", "-q", "-a", "-m", &n.to_string()]);
            let committed = fs::write(repository.join("file"), commit_text(n))
                .is_ok_and(|()| commit.status().is_ok_and(|status| status.success()));
            if !committed {
                manifest.ended("git has failed").map_err(noting)?;
                break;
            }
            done.set(COMMITS, n);
            // git itself does not sync the name of the branch; now and then nobody does.
            if n % 2 == 0 {
                let before = done.now();
                let heads = File::open(repository.join(".git/refs/heads"));
                if let Err(e) = heads.and_then(|heads| heads.sync_all()) {
                    manifest.ended(&e.to_string()).map_err(noting)?;
                    break;
                }
                manifest.acknowledged(before).map_err(noting)?;
            }
        }
        Ok(())
    }
}

/// What a worker draws its operations from.
pub fn history(seed: u64, worker: usize) -> Random {
    Random(seed.wrapping_mul(31).wrapping_add(worker as u64))
}

fn noting(e: io::Error) -> String {
    format!("the manifest of the load cannot be written: {e}")
}

/// What of an operation that answered with an error has been done all the same, if it is anything
/// that may be.
fn what_was_done(dir: &Path, model: &Model, op: &Op) -> io::Result<Option<Option<Op>>> {
    let seen = look(dir)?;
    if seen == model.clone().seen() {
        return Ok(Some(None));
    }
    let mut all = op.parts();
    all.push(op.clone());
    let found = all.into_iter().find(|part| {
        let mut after = model.clone();
        after.apply(part);
        after.seen() == seen
    });
    Ok(found.map(Some))
}
