//! What a few operations cost in requests and microseconds, over each transport, of the null file
//! system and of a volume: the table of docs/performance.md.
//!
//! `requests [DIR [FILES [ROUNDS]]]`: the volume and the mount points are made in DIR.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, mpsc};

use razorfs::{Options, Volume};
use razorfs_disk::Env as _;
use razorfs_disk::os::OsEnv;
use razorfs_fuse::transport::rings_available;
use razorfs_fuse::{
    FileSystem, NullFs, Session, SessionOptions, Statistics, TransportChoice, WithSnapshots,
};

type Failure = Box<dyn std::error::Error>;

const OPERATIONS: [&str; 4] = [
    "create + write 1 KiB + close",
    "stat, not cached",
    "unlink",
    "one file of an unpack (tar)",
];

/// Requests and microseconds of each operation.
type Costs = [(f64, f64); OPERATIONS.len()];

fn main() -> Result<(), Failure> {
    let mut words = std::env::args().skip(1);
    let room = PathBuf::from(words.next().unwrap_or_else(|| "target".to_owned()));
    let files = words.next().map_or(Ok(2000), |word| word.parse())?;
    let rounds = words.next().map_or(Ok(5), |word| word.parse())?;
    let room = room.join(format!("requests-{}", std::process::id()));
    fs::create_dir_all(&room)?;
    let measured = measure(&room.canonicalize()?, files, rounds);
    fs::remove_dir_all(&room)?;
    measured
}

fn measure(room: &Path, files: usize, rounds: usize) -> Result<(), Failure> {
    let tar = make_tar(room, files)?;
    let mut ways = vec![("dev", TransportChoice::Device)];
    match rings_available() {
        Ok(()) => ways.push(("uring", TransportChoice::Uring)),
        Err(why) => eprintln!("not over io_uring: {why}"),
    }
    let mut targets = Vec::new();
    for (way, transport) in ways {
        for name in ["null", "razorfs"] {
            targets.push((format!("{name}, {way}"), name, transport, Vec::new()));
        }
    }
    // In turns, as the machine is not always equally busy.
    for _ in 0..rounds {
        for (_, name, transport, costs) in &mut targets {
            costs.push(one(room, name, *transport, files, &tar)?);
        }
    }
    let mut head = String::from("| requests, µs |");
    let mut line = String::from("|---|");
    for (name, ..) in &targets {
        head.push_str(&format!(" {name} |"));
        line.push_str("---|");
    }
    println!("{head}\n{line}");
    for (n, operation) in OPERATIONS.iter().enumerate() {
        let mut row = format!("| {operation} |");
        for (.., costs) in &targets {
            let of = |part: fn(&(f64, f64)) -> f64| {
                median(
                    costs
                        .iter()
                        .filter_map(|c: &Costs| c.get(n))
                        .map(part)
                        .collect(),
                )
            };
            row.push_str(&format!(" {:.1}, {:.0} |", of(|c| c.0), of(|c| c.1)));
        }
        println!("{row}");
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A tar with so many files of 1 KiB, 50 a directory.
fn make_tar(room: &Path, files: usize) -> Result<PathBuf, Failure> {
    let tree = room.join("tree");
    for n in 0..files {
        let dir = tree.join(format!("{}", n / 50));
        if n % 50 == 0 {
            fs::create_dir_all(&dir)?;
        }
        fs::write(dir.join(format!("{n}")), [n as u8; 1024])?;
    }
    let tar = room.join("tree.tar");
    run(Command::new("tar")
        .arg("-cf")
        .arg(&tar)
        .arg("-C")
        .arg(&tree)
        .arg("."))?;
    fs::remove_dir_all(&tree)?;
    Ok(tar)
}

fn run(command: &mut Command) -> Result<(), Failure> {
    match command.status()?.success() {
        true => Ok(()),
        false => Err(format!("{command:?} failed").into()),
    }
}

/// Mounts one file system, once, and measures it.
fn one(
    room: &Path,
    name: &str,
    transport: TransportChoice,
    files: usize,
    tar: &Path,
) -> Result<Costs, Failure> {
    let (home, dir) = (room.join("volume.rzfs"), room.join("mnt"));
    fs::create_dir_all(&dir)?;
    let volume = match name {
        "null" => None,
        _ => Some(Volume::open_or_create(&home, Options::default())?),
    };
    let fs: Arc<dyn FileSystem> = match &volume {
        None => Arc::new(NullFs::default()),
        Some(volume) => Arc::new(WithSnapshots::new(volume.clone())),
    };
    let options = SessionOptions {
        transport,
        ..SessionOptions::default()
    };
    let session = Session::new(fs, &dir, &options)?;
    let (unmounter, statistics) = (session.unmounter(), session.statistics());
    let (ready, is_ready) = mpsc::channel();
    let served = std::thread::spawn(move || {
        // Who has stopped listening does not need to know.
        session.run(move || {
            let _ = ready.send(());
        })
    });
    is_ready.recv()?;
    let costs = costs(&dir, files, tar, &statistics);
    unmounter.unmount(true)?;
    served.join().map_err(|_| "the server panicked")??;
    if let Some(volume) = volume {
        volume.close()?;
        fs::remove_dir_all(&home)?;
    }
    costs
}

fn costs(dir: &Path, files: usize, tar: &Path, statistics: &Statistics) -> Result<Costs, Failure> {
    let path = |n: usize| dir.join(format!("f{n}"));
    let each = |work: &dyn Fn(usize) -> io::Result<()>| -> Result<(f64, f64), Failure> {
        let (before, start) = (requests(statistics), OsEnv.monotonic());
        (0..files).try_for_each(work)?;
        let took = (OsEnv.monotonic() - start) as f64 / 1e3;
        let asked = requests(statistics) - before;
        Ok((asked as f64 / files as f64, took / files as f64))
    };
    let created = each(&|n| File::create_new(path(n))?.write_all(&[7; 1024]))?;
    // What is still cached costs nothing; where that is not allowed it is said.
    if let Err(e) = fs::write("/proc/sys/vm/drop_caches", "2") {
        eprintln!("what is cached stays, so that stat asks nothing: {e}");
    }
    let looked = each(&|n| fs::metadata(path(n)).map(drop))?;
    let removed = each(&|n| fs::remove_file(path(n)))?;
    let (before, start) = (requests(statistics), OsEnv.monotonic());
    run(Command::new("tar").arg("-xf").arg(tar).arg("-C").arg(dir))?;
    let took = (OsEnv.monotonic() - start) as f64 / 1e3;
    let asked = requests(statistics) - before;
    let unpacked = (asked as f64 / files as f64, took / files as f64);
    Ok([created, looked, removed, unpacked])
}

fn requests(statistics: &Statistics) -> u64 {
    statistics.requests().iter().map(|(_, n)| n).sum()
}
