//! What the load has begun, what was refused, and what was acknowledged as being on the disk:
//! kept outside of the mount, one file a worker.
//!
//! A sync of one worker covers what every worker had done before it began
//! (`docs/durability.md`), so an acknowledgement names a number for each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Those who work at a time.
pub const WORKERS: usize = 4;
/// The first of them change files, each in a directory of its own.
pub const FILES: usize = 2;
/// Adds rows to a database.
pub const ROWS: usize = 2;
/// Commits to a git repository.
pub const COMMITS: usize = 3;

/// How much each worker has done; its operations count from 1.
#[derive(Default)]
pub struct Done([AtomicU64; WORKERS]);

impl Done {
    /// A worker has done its operation of that number.
    pub fn set(&self, worker: usize, n: u64) {
        if let Some(done) = self.0.get(worker) {
            done.store(n, Ordering::SeqCst);
        }
    }

    /// What a sync that begins now makes durable.
    pub fn now(&self) -> [u64; WORKERS] {
        self.0.each_ref().map(|done| done.load(Ordering::SeqCst))
    }
}

/// The file that a worker writes.
pub struct Manifest(File);

impl Manifest {
    /// A new one.
    pub fn create(dir: &Path, worker: usize) -> io::Result<Self> {
        let mut options = fs::OpenOptions::new();
        options.append(true).create_new(true);
        options.open(path(dir, worker)).map(Self)
    }

    /// The operation of that number is about to be done.
    pub fn begin(&mut self, n: u64) -> io::Result<()> {
        self.0.write_all(format!("begin {n}\n").as_bytes())
    }

    /// It was refused, and has changed nothing.
    pub fn refused(&mut self, n: u64, why: &io::Error) -> io::Result<()> {
        let why = why.raw_os_error().unwrap_or(0);
        self.0.write_all(format!("refused {n} {why}\n").as_bytes())
    }

    /// Only so many bytes of it were written.
    pub fn short(&mut self, n: u64, len: usize) -> io::Result<()> {
        self.0.write_all(format!("short {n} {len}\n").as_bytes())
    }

    /// A sync was refused: what it stood for may be lost.
    pub fn unsynced(&mut self, why: &io::Error) -> io::Result<()> {
        let why = why.raw_os_error().unwrap_or(0);
        self.0.write_all(format!("unsynced 0 {why}\n").as_bytes())
    }

    /// The worker ends, for this reason.
    pub fn ended(&mut self, why: &str) -> io::Result<()> {
        let why = why.trim().replace('\n', "; ");
        self.0.write_all(format!("ended {why}\n").as_bytes())
    }

    /// All that is on the disk, as somebody was told. This returns when the manifest is too.
    pub fn acknowledged(&mut self, done: [u64; WORKERS]) -> io::Result<()> {
        let done = done.map(|n| n.to_string()).join(" ");
        self.0
            .write_all(format!("acknowledged {done}\n").as_bytes())?;
        self.0.sync_data()
    }
}

fn path(dir: &Path, worker: usize) -> PathBuf {
    dir.join(format!("worker-{worker}"))
}

/// What the manifests of one run say together.
#[derive(Default, Debug)]
pub struct Told {
    /// The last operation that each worker began.
    pub begun: [u64; WORKERS],
    /// What must be there of each.
    pub floor: [u64; WORKERS],
    /// The operations that were refused, as worker and number.
    pub refused: BTreeSet<(usize, u64)>,
    /// How many bytes of a write were written, where not all were, by worker and number.
    pub short: BTreeMap<(usize, u64), usize>,
    /// How many syncs were acknowledged, and how many refused.
    pub syncs: u64,
    pub unsynced: u64,
    /// Why workers have ended.
    pub ended: Vec<String>,
}

impl Told {
    /// Reads them.
    pub fn read(dir: &Path) -> Result<Self, String> {
        let mut told = Self::default();
        for worker in 0..WORKERS {
            let path = path(dir, worker);
            let text = fs::read_to_string(&path).unwrap_or_default();
            for line in text.lines() {
                let known = told.line(worker, line);
                known.ok_or_else(|| format!("{}: unknown line {line:?}", path.display()))?;
            }
        }
        Ok(told)
    }

    fn line(&mut self, worker: usize, line: &str) -> Option<()> {
        let (word, rest) = line.split_once(' ')?;
        if word == "ended" {
            self.ended.push(format!("worker {worker}: {rest}"));
            return Some(());
        }
        let numbers: Option<Vec<u64>> = rest.split(' ').map(|n| n.parse().ok()).collect();
        let numbers = numbers?;
        let first = *numbers.first()?;
        match word {
            "begin" => *self.begun.get_mut(worker)? = first,
            "refused" => {
                self.refused.insert((worker, first));
            }
            "short" => {
                let len = usize::try_from(*numbers.get(1)?).ok()?;
                self.short.insert((worker, first), len);
            }
            "unsynced" => self.unsynced += 1,
            "acknowledged" if numbers.len() == WORKERS => {
                self.syncs += 1;
                for (floor, n) in self.floor.iter_mut().zip(numbers) {
                    *floor = n.max(*floor);
                }
            }
            _ => return None,
        }
        Some(())
    }
}
