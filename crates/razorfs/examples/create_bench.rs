//! How many small files a volume creates, finds, lists, reads and removes in a second.
//!
//! `cargo run --release --example create_bench [files] [directory]`

#![expect(clippy::disallowed_methods, reason = "a benchmark takes the time")]

use std::time::Instant;

use razorfs::{Ino, NewNode, Options, Result, Volume};

/// Files of one directory.
const EACH: usize = 1000;

fn name(n: usize) -> Vec<u8> {
    format!("file-{n:08}.txt").into_bytes()
}

/// Microseconds for which this thread has had a processor; 0 where the host does not tell.
fn processor_time() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = stat.split(' ').next().and_then(|n| n.parse::<u64>().ok());
    nanos.unwrap_or_default() as f64 / 1e3
}

/// Runs one phase over `n` things and prints what one of them cost: time, and processor time of
/// the thread that asks.
fn timed(what: &str, n: usize, run: impl FnOnce() -> Result<()>) -> Result<()> {
    let (start, busy) = (Instant::now(), processor_time());
    run()?;
    let seconds = start.elapsed().as_secs_f64();
    let busy = (processor_time() - busy) / n as f64;
    let (each, rate) = (seconds * 1e6 / n as f64, n as f64 / seconds);
    println!("{what:<10} {n:>8} {each:>9.3} us each {busy:>9.3} us busy {rate:>10.0} /s");
    Ok(())
}

fn run(volume: &Volume, files: usize) -> Result<()> {
    let mut dirs = Vec::new();
    for n in 0..files.div_ceil(EACH) {
        let name = format!("dir-{n:04}").into_bytes();
        dirs.push(
            volume
                .create_node(Ino::ROOT, &name, &NewNode::directory(0o755))?
                .ino,
        );
    }
    let place = |n: usize| dirs.get(n / EACH).copied().unwrap_or(Ino::ROOT);
    let data = [b'x'; 1024];
    let mut inos = Vec::with_capacity(files);
    timed("create", files, || {
        for n in 0..files {
            let stat = volume.create_node(place(n), &name(n), &NewNode::file(0o644))?;
            volume.write(stat.ino, 0, &data)?;
            inos.push(stat.ino);
        }
        Ok(())
    })?;
    timed("sync", files, || volume.sync())?;
    timed("stat", files, || {
        inos.iter().try_for_each(|ino| volume.stat(*ino).map(drop))
    })?;
    timed("lookup", files, || {
        (0..files).try_for_each(|n| volume.lookup(place(n), &name(n)).map(drop))
    })?;
    timed("by path", files, || {
        (0..files).try_for_each(|n| {
            let path = format!("/dir-{:04}/file-{n:08}.txt", n / EACH);
            volume.find_by_path(path.as_bytes()).map(drop)
        })
    })?;
    timed("list", files, || {
        dirs.iter()
            .try_for_each(|dir| volume.collect_children(*dir, 0, &mut |_| true))
    })?;
    timed("read", files, || {
        let mut buf = [0; 1024];
        inos.iter()
            .try_for_each(|ino| volume.read(*ino, 0, &mut buf).map(drop))
    })?;
    timed("unlink", files, || {
        (0..files).try_for_each(|n| volume.unlink(place(n), &name(n)))
    })?;
    timed("sync", files, || volume.sync())?;
    timed("temporary", files, || {
        for n in 0..files {
            let stat = volume.create_node(place(n), &name(n), &NewNode::file(0o644))?;
            volume.write(stat.ino, 0, &data)?;
            volume.unlink(place(n), &name(n))?;
        }
        Ok(())
    })
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let files = args.next().map_or(Ok(100_000), |n| n.parse())?;
    let base = args.next().map_or_else(std::env::temp_dir, Into::into);
    let dir = base.join(format!("razorfs-create-bench-{}", std::process::id()));
    let volume = Volume::open_or_create(&dir, Options::default())?;
    let outcome = run(&volume, files);
    drop(volume);
    std::fs::remove_dir_all(&dir)?;
    Ok(outcome?)
}
