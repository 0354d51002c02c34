//! How the cost of an operation grows with the number of files in a volume.
//!
//! Each size has a volume of its own, made by [`crate::bulk`]. The same operations run on each,
//! the sizes take turns, and each run is a process of its own, so that its memory is that run's.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use razorfs::{Options, Volume};

use crate::bulk::{self, PER_DIR};
use crate::clock::Stopwatch;
use crate::failure::{At, Result};
use crate::system;
use crate::target::run;
use crate::tree::{HostTree, LibraryTree, Tree};
use crate::workloads::peak_memory;

/// What to measure.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Numbers of files
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "10000,100000,1000000,10000000"
    )]
    sizes: Vec<u64>,
    /// How often each is measured
    #[arg(long, default_value_t = 3)]
    repetitions: u32,
    /// Operations of each kind in a run
    #[arg(long, default_value_t = 5000)]
    operations: u64,
    /// Through a mount, by the command at this path, and not by the library
    #[arg(long, value_name = "RAZORFS")]
    mount: Option<PathBuf>,
    /// Where the volumes are made; those that are there are used again
    #[arg(long, value_name = "DIR", default_value = "target/growth")]
    dir: PathBuf,
    /// Writes every run as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One run on one volume; hidden.
#[derive(clap::Args, Debug)]
pub struct CellArgs {
    volume: PathBuf,
    files: u64,
    #[arg(long)]
    operations: u64,
    #[arg(long)]
    seed: u64,
    #[arg(long)]
    mount: Option<PathBuf>,
    /// What comes after a run that ended as in a crash
    #[arg(long)]
    recover: bool,
}

/// The rows, in order: name in JSON, and for people.
const ROWS: &[(&str, &str)] = &[
    ("open", "open, cold, ms"),
    ("lookup.cold", "lookup and stat, cold, µs"),
    ("lookup.warm", "the same files again, µs"),
    ("list", "list directories, µs an entry"),
    ("create", "create, µs"),
    ("rename", "rename, µs"),
    ("unlink", "unlink, µs"),
    ("sync", "one sync of all that, ms"),
    ("recover", "open after a kill, ms"),
    ("memory", "peak memory, MiB"),
];

type Values = BTreeMap<String, f64>;

/// Measures, and prints the table.
pub fn main(args: &Args) -> Result<()> {
    std::fs::create_dir_all(&args.dir).at("make", &args.dir)?;
    for &files in &args.sizes {
        let volume = args.dir.join(format!("{files}.rzfs"));
        if volume.exists() {
            continue;
        }
        let watch = Stopwatch::start();
        let making = args.dir.join(format!("{files}.making"));
        if making.exists() {
            std::fs::remove_dir_all(&making).at("remove", &making)?;
        }
        bulk::make(&making, files)?;
        std::fs::rename(&making, &volume).at("rename", &making)?;
        eprintln!("made {files} files: {:.1} s", watch.seconds());
    }
    let mut samples: BTreeMap<(String, u64), Vec<f64>> = BTreeMap::new();
    for repetition in 0..args.repetitions.max(1) {
        for &files in &args.sizes {
            let watch = Stopwatch::start();
            for recover in [false, true] {
                for (name, value) in cell_process(args, files, repetition, recover)? {
                    samples.entry((name, files)).or_default().push(value);
                }
            }
            eprintln!(
                "[{}] {files} files: {:.1} s",
                repetition + 1,
                watch.seconds()
            );
        }
    }
    print!("{}", table(args, &samples));
    if let Some(path) = &args.json {
        let runs: Vec<_> = samples
            .iter()
            .map(|((name, files), values)| {
                serde_json::json!({"measure": name, "files": files, "runs": values})
            })
            .collect();
        let document = serde_json::json!({
            "schema": 1, "operations": args.operations, "through": through(args), "results": runs,
        });
        std::fs::write(path, format!("{document:#}\n")).at("write", path)?;
    }
    Ok(())
}

fn through(args: &Args) -> &'static str {
    match args.mount {
        Some(_) => "mount",
        None => "library",
    }
}

fn cell_process(args: &Args, files: u64, seed: u32, recover: bool) -> Result<Values> {
    let program = std::env::current_exe().when("find this program")?;
    let volume = args.dir.join(format!("{files}.rzfs"));
    let mut command = Command::new(program);
    command
        .arg("growth-cell")
        .arg(&volume)
        .arg(files.to_string());
    command.args(["--operations", &args.operations.to_string()]);
    command.args(["--seed", &seed.to_string()]);
    if let Some(mount) = &args.mount {
        command.arg("--mount").arg(mount);
    }
    if recover {
        command.arg("--recover");
    }
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .when("start a run")?;
    if !output.status.success() {
        return Err(format!("the run on {} failed", volume.display()));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.trim()).when("read what a run says")
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn table(args: &Args, samples: &BTreeMap<(String, u64), Vec<f64>>) -> String {
    let mut text = String::from("| |");
    for files in &args.sizes {
        let _ = write!(text, " {files} files |");
    }
    let _ = writeln!(text, " last : first |");
    let _ = writeln!(text, "|---|{}---|", "---|".repeat(args.sizes.len()));
    for (name, row) in ROWS {
        let values: Vec<f64> = args
            .sizes
            .iter()
            .filter_map(|files| samples.get(&((*name).to_string(), *files)))
            .map(|values| median(values))
            .collect();
        let (Some(first), Some(last)) = (values.first(), values.last()) else {
            continue;
        };
        let _ = write!(text, "| {row} |");
        for value in &values {
            let digits = if *value < 10.0 { 2 } else { 1 };
            let _ = write!(text, " {value:.digits$} |");
        }
        let _ = writeln!(text, " {:.2} |", last / first);
    }
    text
}

/// Where the volume is open.
enum Place {
    Library(Volume),
    Mount { razorfs: PathBuf, dir: PathBuf },
}

impl Place {
    fn open(args: &CellArgs) -> Result<Self> {
        match &args.mount {
            None => {
                let volume = Volume::open(&args.volume, Options::default());
                Ok(Self::Library(volume.at("open", &args.volume)?))
            }
            Some(razorfs) => {
                let dir = args.volume.with_extension("mnt");
                let nokeeper = Path::new("nokeeper");
                run(
                    razorfs,
                    &[
                        Path::new("mount"),
                        &args.volume,
                        &dir,
                        Path::new("-o"),
                        nokeeper,
                    ],
                )?;
                let razorfs = razorfs.clone();
                Ok(Self::Mount { razorfs, dir })
            }
        }
    }

    fn tree(&self) -> Box<dyn Tree> {
        match self {
            Self::Library(volume) => Box::new(LibraryTree(volume.clone())),
            Self::Mount { dir, .. } => Box::new(HostTree(dir.clone())),
        }
    }

    fn sync(&self) -> Result<()> {
        match self {
            Self::Library(volume) => volume.sync().when("sync"),
            Self::Mount { razorfs, dir } => run(razorfs, &[Path::new("sync"), dir]),
        }
    }

    fn daemon(&self) -> Result<Option<String>> {
        let Self::Mount { razorfs, dir } = self else {
            return Ok(None);
        };
        let mut info = Command::new(razorfs);
        let output = info.arg("info").arg(dir).arg("--json").output();
        let output = output.at("run", razorfs)?;
        let info: serde_json::Value =
            serde_json::from_slice(&output.stdout).when("read what info says")?;
        let pid = info.get("pid").and_then(serde_json::Value::as_u64);
        Ok(pid.map(|pid| pid.to_string()))
    }

    /// Ends it as a crash would, and answers the memory that it took.
    fn kill(self) -> Result<f64> {
        match self.daemon()? {
            None => {
                let memory = peak_memory("self")?;
                // The end of the process is the end of it.
                std::mem::forget(self);
                Ok(memory)
            }
            Some(pid) => {
                let memory = peak_memory(&pid)?;
                system::kill(pid.parse().when("read a process number")?);
                Ok(memory)
            }
        }
    }

    fn close(self) -> Result<()> {
        match self {
            Self::Library(volume) => volume.close().when("close the volume"),
            Self::Mount { razorfs, dir } => run(&razorfs, &[Path::new("umount"), &dir]),
        }
    }
}

/// Microseconds of each of `count` calls.
fn each(count: u64, mut call: impl FnMut(u64) -> Result<()>) -> Result<f64> {
    let watch = Stopwatch::start();
    (0..count).try_for_each(&mut call)?;
    Ok(watch.seconds() * 1e6 / count.max(1) as f64)
}

/// One run; prints its values as JSON.
pub fn cell(args: &CellArgs) -> Result<()> {
    if args.recover {
        return recover(args);
    }
    let mut values = Values::new();
    let count = args.operations;
    let mut state = args.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.wrapping_mul(0x2545_F491_4F6C_DD1D) % below.max(1)
    };
    let some: Vec<u64> = (0..count).map(|_| random(args.files)).collect();
    system::drop_caches();
    let watch = Stopwatch::start();
    let place = Place::open(args)?;
    values.insert("open".into(), watch.seconds() * 1e3);
    let tree = place.tree();
    let look = |n: &u64| tree.stat(&bulk::path(*n)).map(|_| ());
    let cold = each(count, |i| some.get(i as usize).map_or(Ok(()), look))?;
    values.insert("lookup.cold".into(), cold);
    let warm = each(count, |i| some.get(i as usize).map_or(Ok(()), look))?;
    values.insert("lookup.warm".into(), warm);
    let mut listed = 0;
    let watch = Stopwatch::start();
    for n in some.iter().take(20) {
        let dir = bulk::dir_name(n / PER_DIR);
        listed += tree.list(Path::new(&dir))?.len();
    }
    let list = watch.seconds() * 1e6 / listed.max(1) as f64;
    values.insert("list".into(), list);
    let new = |i: u64, what: &str| {
        let n = some.get(i as usize).copied().unwrap_or_default();
        let dir = bulk::dir_name(n / PER_DIR);
        PathBuf::from(format!("{dir}/{what}-{i}"))
    };
    let create = each(count, |i| tree.write(&new(i, "new"), b"", None))?;
    values.insert("create".into(), create);
    let rename = each(count, |i| tree.rename(&new(i, "new"), &new(i, "moved")))?;
    values.insert("rename".into(), rename);
    let unlink = each(count, |i| tree.unlink(&new(i, "moved")))?;
    values.insert("unlink".into(), unlink);
    let watch = Stopwatch::start();
    place.sync()?;
    values.insert("sync".into(), watch.seconds() * 1e3);
    for i in 0..count {
        tree.write(&crash_file(i), b"", None)?;
    }
    place.sync()?;
    drop(tree);
    values.insert("memory".into(), place.kill()?);
    print(&values)
}

fn crash_file(n: u64) -> PathBuf {
    PathBuf::from(format!("crash-{n}"))
}

fn print(values: &Values) -> Result<()> {
    println!("{}", serde_json::to_string(values).when("write values")?);
    Ok(())
}

/// What follows a run, in a process of its own: the volume is opened after the crash, and put back
/// to what it was.
fn recover(args: &CellArgs) -> Result<()> {
    if args.mount.is_some() {
        let dir = args.volume.with_extension("mnt");
        razorfs_fuse::mount::unmount(&dir, true).at("unmount", &dir)?;
    }
    let watch = Stopwatch::start();
    let place = Place::open(args)?;
    let values = Values::from([("recover".into(), watch.seconds() * 1e3)]);
    let tree = place.tree();
    for n in 0..args.operations {
        tree.unlink(&crash_file(n))?;
    }
    drop(tree);
    place.close()?;
    print(&values)
}
