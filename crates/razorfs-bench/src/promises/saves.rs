//! The same operations, saved every so often, by a volume and by the prototype's ways.

use std::path::Path;

use razorfs::{Compression, CreateOptions, Options, Volume};
use serde_json::{Value, json};

use super::Args;
use super::old::{Old, Way};
use crate::clock::Stopwatch;
use crate::failure::{At, Result};
use crate::growth::median;
use crate::space::Random;

/// Bytes of a file, at most.
const FILE: u64 = 2048;

/// What saves.
trait Target {
    fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()>;
    fn remove(&mut self, name: &str) -> Result<()>;
    fn rename(&mut self, from: &str, to: &str) -> Result<()>;
    fn save(&mut self) -> Result<()>;
    fn end(self: Box<Self>) -> Result<()>;
}

impl Target for Old {
    fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        Self::write(self, name.as_bytes(), bytes)
    }

    fn remove(&mut self, name: &str) -> Result<()> {
        Self::remove(self, name.as_bytes())
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<()> {
        Self::rename(self, from.as_bytes(), to.as_bytes())
    }

    fn save(&mut self) -> Result<()> {
        Self::save(self)
    }

    fn end(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

impl Target for Volume {
    fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.root().write(name, bytes).when("write a file")
    }

    fn remove(&mut self, name: &str) -> Result<()> {
        self.root().remove_file(name).when("remove a file")
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<()> {
        self.root().rename(from, to).when("rename a file")
    }

    fn save(&mut self) -> Result<()> {
        self.sync().when("sync")
    }

    fn end(self: Box<Self>) -> Result<()> {
        self.close().when("close the volume")
    }
}

/// What one way wrote and took for each save.
#[derive(Clone, Copy)]
struct Cost {
    bytes: f64,
    seconds: f64,
}

/// The ways in the order of [`WAYS`], medians of their turns.
pub struct Saved {
    files: u64,
    costs: [Cost; 3],
}

const WAYS: [&str; 3] = ["dump", "journaled", "razorfs"];

impl Saved {
    pub fn json(&self) -> Value {
        let ways = WAYS.iter().zip(&self.costs);
        let ways = ways.map(|(way, cost)| {
            let (bytes, seconds) = (cost.bytes, cost.seconds);
            (
                (*way).to_owned(),
                json!({"bytes": bytes, "seconds": seconds}),
            )
        });
        json!({"files": self.files, "each_save": ways.collect::<serde_json::Map<_, _>>()})
    }
}

/// All ways in turns, with so many files.
pub fn measure(args: &Args, files: u64, room: &Path) -> Result<Saved> {
    let mut costs: [Vec<Cost>; 3] = Default::default();
    for round in 0..args.rounds.max(1) {
        for (n, costs) in costs.iter_mut().enumerate() {
            let dir = room.join(format!("saves-{files}-{round}-{n}"));
            std::fs::create_dir(&dir).at("make", &dir)?;
            let target: Box<dyn Target> = match n {
                0 => Box::new(Old::new(Way::Dump, &dir)?),
                1 => Box::new(Old::new(Way::Journaled, &dir)?),
                _ => Box::new(volume(&dir.join("volume"))?),
            };
            costs.push(work(args, files, target)?);
            std::fs::remove_dir_all(&dir).at("remove", &dir)?;
        }
    }
    let middle = |costs: Vec<Cost>| Cost {
        bytes: median(&costs.iter().map(|c| c.bytes).collect::<Vec<_>>()),
        seconds: median(&costs.iter().map(|c| c.seconds).collect::<Vec<_>>()),
    };
    Ok(Saved {
        files,
        costs: costs.map(middle),
    })
}

fn volume(path: &Path) -> Result<Volume> {
    // The prototype compressed nothing.
    let create = CreateOptions {
        compression: Compression::None,
        ..CreateOptions::default()
    };
    Volume::create(path, &create).at("create", path)?;
    Volume::open(path, Options::default()).at("open", path)
}

/// Fills the target, and then changes and saves it. What a volume writes when it is closed counts,
/// too.
fn work(args: &Args, files: u64, mut target: Box<dyn Target>) -> Result<Cost> {
    let mut random = Random(args.seed);
    let mut bytes = vec![0; FILE as usize];
    let mut content = |random: &mut Random| {
        random.fill(&mut bytes);
        let len = random.next() % FILE;
        bytes.get(..len as usize).unwrap_or_default().to_vec()
    };
    let mut names: Vec<String> = (0..files).map(|n| format!("file-{n:08}.dat")).collect();
    for name in &names {
        let bytes = content(&mut random);
        target.write(name, &bytes)?;
    }
    target.save()?;
    let (begun, watch) = (written()?, Stopwatch::start());
    let mut next = files;
    for _ in 0..args.saves {
        for _ in 0..args.operations {
            let at = (random.next() % files) as usize;
            let name = names.get_mut(at).ok_or("there are no files")?;
            let new = format!("file-{next:08}.dat");
            match random.next() % 4 {
                0 => target.write(name, &content(&mut random))?,
                1 => {
                    target.rename(name, &new)?;
                    *name = new;
                }
                2 => {
                    target.remove(name)?;
                    target.write(&new, &content(&mut random))?;
                    *name = new;
                }
                _ => target.write(name, &content(&mut random))?,
            }
            next += 1;
        }
        target.save()?;
    }
    target.end()?;
    let saves = args.saves.max(1) as f64;
    Ok(Cost {
        bytes: written()?.saturating_sub(begun) as f64 / saves,
        seconds: watch.seconds() / saves,
    })
}

/// Bytes that this process has handed to the kernel to be written. Not `write_bytes`, which counts
/// a whole folio of the page cache for each byte that is written in it.
fn written() -> Result<u64> {
    let path = Path::new("/proc/self/io");
    let text = std::fs::read_to_string(path).at("read", path)?;
    let line = text.lines().find_map(|l| l.strip_prefix("wchar: "));
    line.unwrap_or_default().parse().at("read", path)
}

fn kib(bytes: f64) -> u64 {
    bytes as u64 >> 10
}

pub fn tell(args: &Args, all: &[Saved]) {
    println!(
        "A save after each {} operations (writes of up to {FILE} bytes, renames, removals), \
         median of {} turns:\n",
        args.operations, args.rounds
    );
    println!(
        "| files | written: dump | journaled | RazorFS | fewer than both by | ms: dump \
         | journaled | RazorFS |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for saved in all {
        let [dump, journaled, ours] = saved.costs;
        let least = dump.bytes.min(journaled.bytes);
        println!(
            "| {} | {} KiB | {} KiB | {} KiB | {:.0} × | {:.1} | {:.1} | {:.1} |",
            saved.files,
            kib(dump.bytes),
            kib(journaled.bytes),
            kib(ours.bytes),
            least / ours.bytes.max(1.0),
            dump.seconds * 1e3,
            journaled.seconds * 1e3,
            ours.seconds * 1e3,
        );
    }
    println!();
}
