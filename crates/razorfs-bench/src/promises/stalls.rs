//! How long a creation takes while checkpoints and compactions run, and while none does.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use razorfs::{CreateOptions, Options, Step, Volume};
use serde_json::{Value, json};

use super::Args;
use crate::clock::Stopwatch;
use crate::failure::{At, Result};

/// Of creations, in microseconds.
#[derive(Clone, Copy)]
struct Times {
    median: f64,
    p99: f64,
    worst: f64,
}

impl Times {
    fn of(mut micros: Vec<f64>) -> Self {
        micros.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let at = (micros.len() as f64 * share) as usize;
            let last = micros.len().saturating_sub(1);
            micros.get(at.min(last)).copied().unwrap_or(0.0)
        };
        Self {
            median: at(0.5),
            p99: at(0.99),
            worst: at(1.0),
        }
    }

    fn json(self) -> Value {
        json!({"median_us": self.median, "p99_us": self.p99, "worst_us": self.worst})
    }
}

/// Without and with work in the background.
pub struct Stalls {
    quiet: Times,
    busy: Times,
    /// A write of a page to a file of the host that is synced then, in microseconds.
    flush: Times,
    checkpoints: u64,
}

impl Stalls {
    pub fn json(&self) -> Value {
        json!({
            "quiet": self.quiet.json(),
            "busy": self.busy.json(),
            "flush": self.flush.json(),
            "checkpoints": self.checkpoints,
        })
    }

    pub fn tell(&self) {
        println!("A creation, by the library, in µs:\n");
        println!("| | median | p99 | longest |\n|---|---|---|---|");
        let row = |what: &str, t: Times| {
            println!(
                "| {what} | {:.1} | {:.1} | {:.0} |",
                t.median, t.p99, t.worst
            );
        };
        row("nothing else goes on", self.quiet);
        let busy = format!("during {} checkpoints and compactions", self.checkpoints);
        row(&busy, self.busy);
        row("a flush of the host's disk, to compare", self.flush);
    }
}

/// The same number of creations twice.
pub fn measure(args: &Args, room: &Path) -> Result<Stalls> {
    let dir = room.join("stalls");
    Volume::create(&dir, &CreateOptions::default()).at("create", &dir)?;
    let volume = Volume::open(&dir, Options::default()).at("open", &dir)?;
    let root = volume.root();
    let create = |what: &str| -> Result<Times> {
        root.create_dir(what).at("make a directory in", &dir)?;
        let mut micros = Vec::new();
        for n in 0..args.creations {
            let path = format!("{what}/{n}");
            let watch = Stopwatch::start();
            root.write(&path, b"").at("create a file in", &dir)?;
            micros.push(watch.seconds() * 1e6);
        }
        Ok(Times::of(micros))
    };
    create("warm")?;
    volume.checkpoint().at("write a checkpoint of", &dir)?;
    let quiet = create("quiet")?;
    let before = volume.stats().checkpoints;
    let done = AtomicBool::new(false);
    let busy = std::thread::scope(|scope| {
        let work = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                volume.checkpoint().at("write a checkpoint of", &dir)?;
                volume.step(Step::Compact).at("compact", &dir)?;
            }
            Ok::<(), String>(())
        });
        let times = create("busy");
        done.store(true, Ordering::Relaxed);
        work.join()
            .map_err(|_| "a thread has panicked".to_owned())??;
        times
    })?;
    let checkpoints = volume.stats().checkpoints.saturating_sub(before);
    volume.close().at("close", &dir)?;
    Ok(Stalls {
        quiet,
        busy,
        flush: flushes(room)?,
        checkpoints,
    })
}

fn flushes(room: &Path) -> Result<Times> {
    use std::os::unix::fs::FileExt as _;
    let path = room.join("flush");
    let file = std::fs::File::create(&path).at("create", &path)?;
    let mut micros = Vec::new();
    for n in 0..200u8 {
        let watch = Stopwatch::start();
        file.write_all_at(&[n; 4096], 0).at("write to", &path)?;
        file.sync_data().at("sync", &path)?;
        micros.push(watch.seconds() * 1e6);
    }
    Ok(Times::of(micros))
}
