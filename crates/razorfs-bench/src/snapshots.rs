//! What snapshots, rollbacks, diffs and streams cost in a large volume, and how many snapshots it
//! bears.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use razorfs::{Ino, NewNode, Options, SendOptions, Volume};

use crate::clock::Stopwatch;
use crate::failure::{At, Result};
use crate::report;
use crate::room::Room;
use crate::{bulk, system};

/// Files that are changed between the two states that are compared.
const CHANGES: u64 = 1000;
/// Lookups of a round.
const LOOKUPS: u64 = 20_000;
/// Rounds of lookups, before and after in turns is not possible: so there are several of each.
const ROUNDS: usize = 5;

/// What is done.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Files of the volume
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    files: u64,
    /// Snapshots that are taken while a program writes
    #[arg(long, value_name = "N", default_value_t = 100)]
    snapshots: usize,
    /// Snapshots that the volume has in the end
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    most: usize,
    /// Prints JSON
    #[arg(long)]
    json: bool,
    /// Where to measure
    #[arg(long, value_name = "DIR", default_value = "target")]
    dir: PathBuf,
}

/// Seconds that something took, each time.
pub struct Times(Vec<f64>);

impl Times {
    /// Of something that is done so often.
    pub fn of(n: usize, mut work: impl FnMut(usize) -> Result<()>) -> Result<Self> {
        let mut times = Vec::with_capacity(n);
        for i in 0..n {
            let watch = Stopwatch::start();
            work(i)?;
            times.push(watch.seconds());
        }
        Ok(Self::sorted(times))
    }

    fn sorted(mut times: Vec<f64>) -> Self {
        times.sort_unstable_by(f64::total_cmp);
        Self(times)
    }

    /// The time, in milliseconds, within which so many hundredths of them were done.
    pub fn ms(&self, hundredths: usize) -> f64 {
        let at = (self.0.len() * hundredths).div_ceil(100).saturating_sub(1);
        self.0.get(at).copied().unwrap_or(0.0) * 1e3
    }
}

/// Runs it and prints what was seen.
pub fn run(args: &Args) -> Result<()> {
    let room = Room::make(&args.dir)?;
    let dir = room.path().join("snapshots");
    bulk::make(&dir, args.files)?;
    let volume = Volume::open(&dir, Options::default()).at("open", &dir)?;
    let flush = flushes(room.path())?;
    let (with_writer, meanwhile) = with_writer(&volume, args.snapshots, &dir)?;
    volume.checkpoint().at("write a checkpoint of", &dir)?;
    let before = system::used(&dir)?;
    let idle = take(&volume, "idle", args.snapshots, &dir)?;
    volume.checkpoint().at("write a checkpoint of", &dir)?;
    let each = system::used(&dir)?.saturating_sub(before) / args.snapshots.max(1) as u64;
    let diff = diff(&volume, args.files, &dir)?;
    let (sent, bytes) = send(&volume, &dir)?;
    let rollback = rollback(&volume, &dir)?;
    let few = lookups(&volume, args.files, &dir)?;
    let many = many(&volume, args, &dir)?;
    let there = volume.snapshots().len();
    let loaded = lookups(&volume, args.files, &dir)?;
    volume.close().at("close", &dir)?;
    let watch = Stopwatch::start();
    let volume = Volume::open(&dir, Options::default()).at("open", &dir)?;
    let opening = watch.seconds() * 1e3;
    volume.close().at("close", &dir)?;
    let figures = [
        ("a flush of the host, p50, ms", flush.ms(50)),
        ("a flush of the host, p99, ms", flush.ms(99)),
        (
            "a flush of the host while a program writes, p50, ms",
            meanwhile.ms(50),
        ),
        (
            "a flush of the host while a program writes, p99, ms",
            meanwhile.ms(99),
        ),
        (
            "snapshot while a program writes, p50, ms",
            with_writer.ms(50),
        ),
        (
            "snapshot while a program writes, p99, ms",
            with_writer.ms(99),
        ),
        ("snapshot of an unchanged volume, p50, ms", idle.ms(50)),
        ("bytes of the host for one of those", each as f64),
        ("diff of 1000 changes, ms", diff.ms(50)),
        ("sending 1000 changes, p50, ms", sent.ms(50)),
        ("bytes of that stream", bytes as f64),
        ("rollback, p50, ms", rollback.ms(50)),
        ("snapshots in the end", there as f64),
        ("snapshot, one change after the other, p99, ms", many.ms(99)),
        ("lookup with few snapshots, us", few * 1e6),
        ("lookup with all snapshots, us", loaded * 1e6),
        ("opening with all snapshots, ms", opening),
    ];
    report::figures(args.files, &figures, args.json);
    Ok(())
}

/// A file of the host of which pages are made durable.
struct Page(std::fs::File, PathBuf);

impl Page {
    fn new(dir: &Path) -> Result<Self> {
        use std::os::unix::fs::FileExt;
        let path = dir.join("page");
        let file = std::fs::File::create(&path).at("create", &path)?;
        file.write_all_at(&[1; 1 << 20], 0).at("write to", &path)?;
        file.sync_all().at("sync", &path)?;
        Ok(Self(file, path))
    }

    fn flush(&self, n: usize) -> Result<()> {
        use std::os::unix::fs::FileExt;
        let Self(file, path) = self;
        file.write_all_at(&[n as u8; 4096], n as u64 % 256 * 4096)
            .at("write to", path)?;
        file.sync_data().at("sync", path)
    }
}

/// How long the host takes to make a page durable.
fn flushes(dir: &Path) -> Result<Times> {
    let page = Page::new(dir)?;
    Times::of(100, |n| page.flush(n))
}

fn take(volume: &Volume, prefix: &str, n: usize, dir: &Path) -> Result<Times> {
    Times::of(n, |i| {
        let taken = volume.snapshot(format!("{prefix}-{i}"));
        taken.map(drop).at("take a snapshot of", dir)
    })
}

/// Snapshots every twentieth of a second, while files are made as fast as it goes; and a flush of
/// the host before each, since others take longer then, too.
fn with_writer(volume: &Volume, n: usize, dir: &Path) -> Result<(Times, Times)> {
    let page = Page::new(dir.parent().unwrap_or(dir))?;
    let mut flushes = Vec::with_capacity(n);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| -> razorfs::Result<()> {
            let node = NewNode::directory(0o755);
            let dir = volume.create_node(Ino::ROOT, b"written", &node)?.ino;
            for i in 0u64.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let name = format!("file-{i}");
                let file = volume.create_node(dir, name.as_bytes(), &NewNode::file(0o644))?;
                volume.write(file.ino, 0, &[i as u8; 3000])?;
            }
            Ok(())
        });
        let mut times = Vec::with_capacity(n);
        let taken = (0..n).try_for_each(|i| {
            std::thread::sleep(Duration::from_millis(25));
            let watch = Stopwatch::start();
            page.flush(i)?;
            flushes.push(watch.seconds());
            std::thread::sleep(Duration::from_millis(25));
            let watch = Stopwatch::start();
            let taken = volume.snapshot(format!("written-{i}"));
            times.push(watch.seconds());
            taken.map(drop).at("take a snapshot of", dir)
        });
        over.store(true, Ordering::Relaxed);
        match writer.join() {
            Ok(written) => written.at("write to", dir)?,
            Err(_) => return Err("the writer ended with a panic".into()),
        }
        taken?;
        Ok((Times::sorted(times), Times::sorted(flushes)))
    })
}

/// Some files of the whole volume are changed, and found.
fn diff(volume: &Volume, files: u64, dir: &Path) -> Result<Times> {
    volume.snapshot("compared").at("take a snapshot of", dir)?;
    let old = volume
        .at_snapshot("compared")
        .at("look at a snapshot of", dir)?;
    let root = volume.root();
    for n in 0..CHANGES {
        let path = bulk::path(n * (files / CHANGES).max(1) % files);
        root.write(path, b"changed").at("write to", dir)?;
    }
    volume.checkpoint().at("write a checkpoint of", dir)?;
    Times::of(ROUNDS, |_| {
        let found = old.diff(volume).at("compare states of", dir)?;
        match found.len() as u64 {
            n if n >= CHANGES.min(files) => Ok(()),
            n => Err(format!("{n} differences were found, and not {CHANGES}")),
        }
    })
}

/// The same changes as a stream; answers how long it is, too.
fn send(volume: &Volume, dir: &Path) -> Result<(Times, u64)> {
    volume.snapshot("sent").at("take a snapshot of", dir)?;
    let what = SendOptions::Snapshot {
        name: "sent".into(),
        from: Some("compared".into()),
    };
    let mut bytes = 0;
    let times = Times::of(ROUNDS, |_| {
        let sent = volume.send(&what, &mut std::io::sink(), &mut |_| Ok(()));
        bytes = sent.at("send a snapshot of", dir)?.bytes;
        Ok(())
    })?;
    Ok((times, bytes))
}

fn rollback(volume: &Volume, dir: &Path) -> Result<Times> {
    Times::of(ROUNDS, |_| {
        volume.rollback("compared").map(drop).at("take back", dir)
    })
}

/// Seconds of a lookup; the median of the rounds, of which one before them does not count.
pub fn lookups(volume: &Volume, files: u64, dir: &Path) -> Result<f64> {
    let look = |round: usize| {
        for i in 0..LOOKUPS {
            let n = (i + round as u64 * LOOKUPS).wrapping_mul(0x9e37_79b9_7f4a_7c15) % files;
            let path = bulk::path(n);
            volume
                .find_by_path(path.as_os_str().as_encoded_bytes())
                .at("look up a file of", dir)?;
        }
        Ok(())
    };
    look(ROUNDS)?;
    let times = Times::of(ROUNDS, look)?;
    Ok(times.ms(50) / 1e3 / LOOKUPS as f64)
}

/// So many snapshots that there are `most`, with a change between each two.
fn many(volume: &Volume, args: &Args, dir: &Path) -> Result<Times> {
    let more = args.most.saturating_sub(volume.snapshots().len());
    let root = volume.root();
    Times::of(more, |i| {
        root.write("changing", i.to_le_bytes())
            .at("write to", dir)?;
        let taken = volume.snapshot(format!("many-{i}"));
        taken.map(drop).at("take a snapshot of", dir)
    })
}
