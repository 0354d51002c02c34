//! What programs do to a mount: unpack, git, cargo, SQLite, and writing with fsync.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use crate::support::{Random, run};

pub fn unpack(tar: &Path, to: &Path) -> Command {
    let mut command = Command::new("tar");
    command.arg("xf").arg(tar).arg("-C").arg(to);
    command
}

/// git in `dir`, with nothing of who runs the test.
pub fn git(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("git");
    command
        .args(["-c", "gc.auto=0", "-c", "maintenance.auto=false"])
        .args(["-c", "init.defaultBranch=main", "-c", "core.autocrlf=false"])
        .arg("-C")
        .arg(dir)
        .args(args)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_AUTHOR_NAME", "Test")
        .env("GIT_AUTHOR_EMAIL", "test@example.org")
        .env("GIT_COMMITTER_NAME", "Test")
        .env("GIT_COMMITTER_EMAIL", "test@example.org");
    command
}

/// A commit of everything in `dir`, from nothing.
pub fn git_steps(dir: &Path) -> Vec<Command> {
    vec![
        git(dir, &["init", "-q"]),
        git(dir, &["add", "--all", "--force", "."]),
        git(dir, &["commit", "-q", "-m", "everything"]),
        git(dir, &["status", "--porcelain"]),
    ]
}

/// The repository holds together, and nothing in the tree differs from the commit.
pub fn check_git(dir: &Path) {
    run(&mut git(dir, &["fsck", "--no-dangling"]));
    let status = run(&mut git(dir, &["status", "--porcelain"]));
    assert_eq!(status, "", "git status after a clean end");
}

/// Writes a crate of several modules to `dir`.
pub fn make_crate(dir: &Path, modules: usize) {
    fs::create_dir_all(dir.join("src")).unwrap();
    let manifest = "[package]\nname = \"small\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\
                    [workspace]\n";
    fs::write(dir.join("Cargo.toml"), manifest).unwrap();
    let mut main = String::new();
    for n in 0..modules {
        main.push_str(&format!("mod m{n};\n"));
        let module = format!("pub fn f(x: u64) -> u64 {{ x.wrapping_mul({n}).rotate_left(7) }}\n");
        fs::write(dir.join(format!("src/m{n}.rs")), module).unwrap();
    }
    main.push_str("fn main() {\n    let mut x = 1;\n");
    for n in 0..modules {
        main.push_str(&format!("    x ^= m{n}::f(x);\n"));
    }
    main.push_str("    println!(\"{x}\");\n}\n");
    fs::write(dir.join("src/main.rs"), main).unwrap();
}

pub fn cargo_build(dir: &Path) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--offline", "--quiet"])
        .current_dir(dir)
        .env("CARGO_TARGET_DIR", dir.join("target"))
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    command
}

/// A database in WAL mode that is written row by row. Each number that [`Database::acked`] tells
/// has been committed: SQLite has fsynced it.
pub struct Database {
    child: Child,
    feeder: JoinHandle<()>,
    reader: JoinHandle<()>,
    acked: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Database {
    pub fn start(path: &Path, first: u64) -> Self {
        let mut child = Command::new("sqlite3")
            .arg("-batch")
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let acked = Arc::new(AtomicU64::new(first - 1));
        let stop = Arc::new(AtomicBool::new(false));
        let mut input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let stopped = Arc::clone(&stop);
        let seen = Arc::clone(&acked);
        let feeder = std::thread::spawn(move || {
            let start = "PRAGMA journal_mode=WAL;\nPRAGMA synchronous=FULL;\n\
                         CREATE TABLE IF NOT EXISTS t(n INTEGER PRIMARY KEY, text TEXT);\n";
            let mut sent = input.write_all(start.as_bytes());
            let mut n = first;
            while sent.is_ok() && !stopped.load(Ordering::Relaxed) {
                let text = row(n);
                let line = format!("INSERT INTO t VALUES({n}, '{text}');\nSELECT 'ack {n}';\n");
                sent = input.write_all(line.as_bytes());
                n += 1;
                // Not far ahead of what it has done.
                while n > seen.load(Ordering::Relaxed) + 50 && !stopped.load(Ordering::Relaxed) {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            }
        });
        let told = Arc::clone(&acked);
        let reader = std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Some(n) = line.strip_prefix("ack ") {
                    // Rows after an error are errors too, but are answered all the same: only an
                    // unbroken row of numbers counts, and the check below finds a lie.
                    told.store(n.parse().unwrap(), Ordering::SeqCst);
                }
            }
        });
        Self {
            child,
            feeder,
            reader,
            acked,
            stop,
        }
    }

    /// The last row that was committed.
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::SeqCst)
    }

    /// Lets it end.
    pub fn finish(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.feeder.join().unwrap();
        self.child.wait().unwrap();
        self.reader.join().unwrap();
    }
}

fn row(n: u64) -> String {
    format!("row {n} ").repeat(usize::try_from(n % 40).unwrap() + 1)
}

/// The rows from 1 on are there without a gap, each as it was written, at least to `acked`.
/// Answers with the number of the last one.
pub fn check_database(path: &Path, acked: u64) -> u64 {
    let ask = |sql: &str| run(Command::new("sqlite3").arg("-batch").arg(path).arg(sql));
    assert_eq!(ask("PRAGMA integrity_check;").trim(), "ok");
    let tables = ask("SELECT count(*) FROM sqlite_master WHERE name = 't';");
    if tables.trim() == "0" {
        assert_eq!(acked, 0, "the table is lost");
        return 0;
    }
    let rows = ask("SELECT n || ':' || text FROM t ORDER BY n;");
    let mut last = 0;
    for line in rows.lines() {
        last += 1;
        assert_eq!(line, format!("{last}:{}", row(last)));
    }
    assert!(
        last >= acked,
        "rows up to {acked} were committed, {last} are there"
    );
    last
}

/// Writes files and fsyncs them: some new, some replaced by rename, some grown by appending.
pub struct Writer {
    thread: JoinHandle<Acked>,
    stop: Arc<AtomicBool>,
}

/// What had been fsynced.
#[derive(Default)]
pub struct Acked {
    /// Versions of the files that are replaced by rename.
    replaced: Vec<u64>,
    /// The number of the lines of the file that grows.
    lines: u64,
    /// The number of the files that are written once.
    pub once: u64,
}

/// How many files are replaced in turn.
const REPLACED: u64 = 8;

fn content(seed: u64, name: u64, version: u64) -> Vec<u8> {
    let mut random = Random(seed ^ (name << 32) ^ version);
    let len = random.between(1, 40_000);
    let mut bytes = format!("{version}\n").into_bytes();
    while (bytes.len() as u64) < len {
        bytes.extend(random.next().to_le_bytes());
    }
    bytes
}

impl Writer {
    /// Starts to write in `dir`, which must exist, until it is stopped or something fails.
    pub fn start(dir: &Path, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let dir = dir.to_path_buf();
        let thread = std::thread::spawn(move || {
            let mut acked = Acked::default();
            acked.replaced.resize(usize::try_from(REPLACED).unwrap(), 0);
            let mut version = 1;
            while !stopped.load(Ordering::Relaxed) {
                if step(&dir, seed, version, &mut acked).is_err() {
                    break;
                }
                version += 1;
            }
            acked
        });
        Self { thread, stop }
    }

    /// Lets it end; answers with what had been fsynced.
    pub fn finish(self) -> Acked {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

fn step(dir: &Path, seed: u64, version: u64, acked: &mut Acked) -> std::io::Result<()> {
    // Replaced by rename: after the fsync of the directory it is the new version.
    let name = version % REPLACED;
    let temporary = dir.join(format!("tmp-{name}"));
    let mut file = File::create(&temporary)?;
    file.write_all(&content(seed, name, version))?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join(format!("replaced-{name}")))?;
    File::open(dir)?.sync_all()?;
    acked.replaced[usize::try_from(name).unwrap()] = version;
    // Appended to.
    let mut log = File::options()
        .create(true)
        .append(true)
        .open(dir.join("log"))?;
    log.write_all(line(version).as_bytes())?;
    log.sync_data()?;
    acked.lines = version;
    // New, in one write without a rename.
    let mut once = File::create(dir.join(format!("once-{version}")))?;
    once.write_all(&content(seed, 1000, version))?;
    once.sync_all()?;
    acked.once = version;
    Ok(())
}

fn line(n: u64) -> String {
    format!(
        "line {n} {}\n",
        "x".repeat(usize::try_from(n % 60).unwrap())
    )
}

/// What had been fsynced is there byte for byte, and nothing is half there.
pub fn check_writer(dir: &Path, seed: u64, acked: &Acked) {
    for (name, version) in (0..).zip(&acked.replaced) {
        let path = dir.join(format!("replaced-{name}"));
        if *version > 0 || path.exists() {
            let bytes = fs::read(&path).unwrap();
            let end = bytes.iter().position(|b| *b == b'\n').expect("a version");
            let found: u64 = String::from_utf8_lossy(&bytes[..end]).parse().unwrap();
            // A later version may be there too: it was renamed but not yet acknowledged.
            assert!(
                found >= *version,
                "{path:?}: {found}, but {version} was synced"
            );
            assert!(
                bytes == content(seed, name, found),
                "{path:?} is no whole version {found}"
            );
        }
    }
    let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
    let mut expected = String::new();
    for n in 1..=acked.lines + 1 {
        if n == acked.lines + 1 {
            assert!(
                log.starts_with(&expected),
                "a synced line of the log is lost or torn"
            );
        }
        expected.push_str(&line(n));
    }
    assert!(
        expected.starts_with(&log),
        "the log has what was never written"
    );
    for n in 1..=acked.once {
        let path = dir.join(format!("once-{n}"));
        assert!(
            fs::read(&path).unwrap() == content(seed, 1000, n),
            "{path:?} differs"
        );
    }
}

/// The files of `dir` that are in `source` too hold a prefix of what they should, and nothing
/// else: what was written in order is there in order. Answers with the number of whole files.
pub fn check_prefixes(dir: &Path, source: &Path) -> usize {
    let mut whole = 0;
    for file in crate::tree::files_below(dir) {
        if file.starts_with(".git") {
            continue;
        }
        let expected = fs::read(source.join(&file)).unwrap();
        let found = fs::read(dir.join(&file)).unwrap();
        assert!(
            expected.starts_with(&found),
            "{file:?} holds what was never written"
        );
        whole += usize::from(expected.len() == found.len());
    }
    whole
}

/// Runs commands one after the other from a thread until one fails or all are done.
pub struct Jobs {
    thread: JoinHandle<()>,
    current: Arc<AtomicU64>,
}

impl Jobs {
    pub fn start(commands: Vec<Command>) -> Self {
        let current = Arc::new(AtomicU64::new(0));
        let step = Arc::clone(&current);
        let thread = std::thread::spawn(move || {
            for mut command in commands {
                step.fetch_add(1, Ordering::SeqCst);
                let child = command
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn();
                match child.and_then(|mut child| child.wait()) {
                    Ok(status) if status.success() => {}
                    _ => return,
                }
            }
            step.fetch_add(1, Ordering::SeqCst);
        });
        Self { thread, current }
    }

    /// The number of the command that is running, from 1 on.
    pub fn current(&self) -> u64 {
        self.current.load(Ordering::SeqCst)
    }

    pub fn finish(self) {
        self.thread.join().unwrap();
    }
}

/// A path in a mount, which is created.
pub fn directory(mount: &Path, name: &str) -> PathBuf {
    let path = mount.join(name);
    fs::create_dir_all(&path).unwrap();
    path
}
