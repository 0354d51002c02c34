//! How much of the host a volume takes while it is written over at random, what that writes, and
//! when the host gets space back after everything was deleted.

use std::fs;

use std::path::{Path, PathBuf};
use std::time::Duration;

use razorfs::{Compression, CreateOptions, Geometry, Ino, NewNode, Options, Volume};
use serde_json::json;

use crate::clock::Stopwatch;
use crate::failure::{At, Result};
use crate::room::Room;
use crate::system;

/// Bytes of one write: a page.
const PAGE: usize = 4096;
/// Bytes of each file.
const FILE: u64 = 16 << 20;
/// Shares of the run between two looks.
const LOOKS: u64 = 200;
/// Seconds after a delete at which the host is looked at.
const AFTER_DELETE: [u64; 6] = [2, 10, 20, 30, 45, 60];

/// What is done.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Most bytes of file data that the volume takes, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1280)]
    limit: u64,
    /// How much of the limit is filled, in hundredths
    #[arg(long, value_name = "PERCENT", default_value_t = 80)]
    full: u64,
    /// How often as many bytes as the volume holds are written over
    #[arg(long, value_name = "N", default_value_t = 10)]
    times: u64,
    /// Writes that go to a tenth of the files, in hundredths; all files alike if not given
    #[arg(long, value_name = "PERCENT")]
    hot: Option<u64>,
    /// Bytes of a full pack, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 128)]
    pack: u64,
    /// With parity
    #[arg(long)]
    parity: bool,
    /// Seed of what is written
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Does not wait for what becomes of a delete
    #[arg(long)]
    no_delete: bool,
    /// Prints JSON
    #[arg(long)]
    json: bool,
    /// Where to measure
    #[arg(long, value_name = "DIR", default_value = "target")]
    dir: PathBuf,
}

/// A small generator (`SplitMix64`).
pub struct Random(pub u64);

impl Random {
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_exact_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes());
        }
    }
}

/// One look at the host.
struct Look {
    seconds: f64,
    /// Bytes that were written over.
    user: u64,
    /// Bytes of the host that the volume takes.
    host: u64,
    /// Bytes of packs, and what of them is referred to.
    packs: u64,
    referred: u64,
    /// Bytes of everything else.
    other: u64,
}

/// Runs it and prints what was seen.
pub fn run(args: &Args) -> Result<()> {
    let room = Room::make(&args.dir)?;
    let dir = room.path().join("space");
    let create = CreateOptions {
        limit: Some(args.limit << 20),
        compression: Compression::None,
        geometry: Geometry {
            pack_bytes: args.pack << 20,
            ..Geometry::default()
        },
        parity: args.parity,
        ..CreateOptions::default()
    };
    Volume::create(&dir, &create).at("create", &dir)?;
    let volume = Volume::open(&dir, Options::default()).at("open", &dir)?;
    let mut random = Random(args.seed);
    let live = (args.limit << 20) / 100 * args.full / FILE * FILE;
    let files = fill(&volume, live / FILE, &mut random)?;
    volume.checkpoint().when("make a checkpoint")?;
    let begun = written()?;
    let looks = overwrite(args, &volume, &dir, &files, &mut random)?;
    volume.sync().when("sync")?;
    let stats = volume.stats();
    let amplified = written()?.saturating_sub(begun) as f64 / (live * args.times) as f64;
    tell(args, live, &looks, amplified);
    if !args.json {
        println!(
            "to journal, packs and segments {:.2} bytes for each; copied by cleaning {} MiB of {} \
             packs; {} packs removed, {} checkpoints",
            stats.write_amplification().unwrap_or(0) as f64 / 100.0,
            stats.cleaned_bytes >> 20,
            stats.cleaned_packs,
            stats.removed_packs,
            stats.checkpoints,
        );
    }
    if !args.no_delete {
        delete(args, &volume, &dir, files.len())?;
    }
    volume.close().when("close the volume")
}

fn fill(volume: &Volume, files: u64, random: &mut Random) -> Result<Vec<Ino>> {
    let mut bytes = vec![0; 1 << 20];
    let mut made = Vec::new();
    for n in 0..files {
        let stat = volume
            .create_node(Ino::ROOT, name(n).as_bytes(), &NewNode::file(0o644))
            .when("create a file")?;
        for at in (0..FILE).step_by(bytes.len()) {
            random.fill(&mut bytes);
            volume.write(stat.ino, at, &bytes).when("fill a file")?;
        }
        made.push(stat.ino);
    }
    Ok(made)
}

fn name(n: u64) -> String {
    format!("file{n}")
}

fn overwrite(
    args: &Args,
    volume: &Volume,
    dir: &Path,
    files: &[Ino],
    random: &mut Random,
) -> Result<Vec<Look>> {
    let watch = Stopwatch::start();
    let mut page = [0; PAGE];
    let pages = files.len() as u64 * FILE / PAGE as u64;
    let total = pages * args.times;
    let mut looks = Vec::new();
    for n in 0..total {
        random.fill(&mut page);
        let many = files.len() as u64;
        let hot = args.hot.is_some_and(|hot| random.next() % 100 < hot);
        let file = random.next() % if hot { (many / 10).max(1) } else { many };
        let at = random.next() % (FILE / PAGE as u64) * PAGE as u64;
        let ino = files.get(file as usize).ok_or("there is no file")?;
        volume.write(*ino, at, &page).when("write over a file")?;
        if n % (total / LOOKS).max(1) == 0 || n + 1 == total {
            looks.push(look(volume, dir, watch.seconds(), (n + 1) * PAGE as u64)?);
        }
    }
    Ok(looks)
}

fn look(volume: &Volume, dir: &Path, seconds: f64, user: u64) -> Result<Look> {
    let info = volume.info();
    Ok(Look {
        seconds,
        user,
        host: system::used(dir)?,
        other: system::used(dir)?.saturating_sub(system::used(&dir.join("pack"))?),
        packs: info.pack_bytes,
        referred: info.pack_live_bytes,
    })
}

/// Bytes that this process has sent to disks.
fn written() -> Result<u64> {
    let path = Path::new("/proc/self/io");
    let text = fs::read_to_string(path).at("read", path)?;
    let line = text.lines().find_map(|l| l.strip_prefix("write_bytes: "));
    line.unwrap_or_default().parse().at("read", path)
}

fn tell(args: &Args, live: u64, looks: &[Look], amplified: f64) {
    let of_live = |bytes: u64| bytes as f64 / live as f64;
    let peak = looks.iter().map(|l| l.host).max().unwrap_or(0);
    let mean = looks.iter().map(|l| l.host).sum::<u64>() / looks.len().max(1) as u64;
    let end = looks.last();
    let rate = end.map_or(0.0, |l| l.user as f64 / l.seconds / 1e6);
    if args.json {
        let looks = looks.iter().map(|l| {
            json!({"seconds": l.seconds, "user": l.user, "host": l.host, "packs": l.packs,
                "referred": l.referred, "other": l.other})
        });
        let document = json!({
            "live": live, "peak": of_live(peak), "mean": of_live(mean),
            "written": amplified, "rate": rate * 1e6, "looks": looks.collect::<Vec<_>>(),
        });
        println!("{document:#}");
        return;
    }
    println!(
        "| s | written over | host / live | of it no packs | packs with holes | referred to |"
    );
    println!("|--:|--:|--:|--:|--:|--:|");
    for l in looks.iter().step_by(LOOKS as usize / 20) {
        println!(
            "| {:.0} | {:.2} | {:.3} | {:.3} | {:.3} | {:.3} |",
            l.seconds,
            of_live(l.user),
            of_live(l.host),
            of_live(l.other),
            of_live(l.packs),
            of_live(l.referred),
        );
    }
    println!(
        "\nlive {} MiB, space amplification: peak {:.3}, mean {:.3}; write amplification \
         {amplified:.2}; {rate:.0} MB/s",
        live >> 20,
        of_live(peak),
        of_live(mean),
    );
}

/// Deletes everything and looks at what the host has back.
fn delete(args: &Args, volume: &Volume, dir: &Path, files: usize) -> Result<()> {
    for n in 0..files as u64 {
        let name = name(n);
        volume
            .unlink(Ino::ROOT, name.as_bytes())
            .when("delete a file")?;
    }
    let watch = Stopwatch::start();
    let mut before = written()?;
    for after in AFTER_DELETE {
        let wait = Duration::from_secs(after).saturating_sub(watch.elapsed());
        std::thread::sleep(wait);
        let (host, now) = (system::used(dir)?, written()?);
        let wrote = now.saturating_sub(before);
        before = now;
        if args.json {
            println!("{}", json!({"after": after, "host": host, "wrote": wrote}));
        } else {
            println!(
                "{after:>3} s after everything was deleted: {} MiB of the host, {} KiB written",
                host >> 20,
                wrote >> 10,
            );
        }
    }
    Ok(())
}
