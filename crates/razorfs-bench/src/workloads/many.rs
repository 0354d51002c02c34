//! Very many tiny files, as programs that use the library would write them.

use super::files::make_dirs;
use super::{Values, noise, path, synced};
use crate::clock::Stopwatch;
use crate::failure::{At, Result};
use crate::measures::Sizes;
use crate::target::{Kind, Paths, Target};
use crate::tree::Tree;

const FILE: usize = 1024;

/// Files of 1 KiB with one sync at the end.
pub fn run(target: &Target, sizes: &Sizes) -> Result<Values> {
    let create = || create(target.tree()?, sizes.many);
    Ok(vec![("many.create", synced(target, create)?)])
}

fn create(tree: &dyn Tree, files: u64) -> Result<()> {
    let data = noise(FILE * 256, 4);
    make_dirs(tree, files)?;
    for (n, data) in (0..files).zip(data.chunks(FILE).cycle()) {
        tree.write(&path(n), data, None)?;
    }
    Ok(())
}

/// A million files through the library, and the memory that takes.
pub fn million(paths: &Paths, sizes: &Sizes) -> Result<Values> {
    let target = Target::start(Kind::Embedded, paths)?;
    let tree = target.tree()?;
    let created = synced(&target, || create(tree, sizes.million))?;
    let watch = Stopwatch::start();
    let mut listed = 0;
    for (dir, _) in tree.list("".as_ref())? {
        listed += tree.list(dir.as_ref())?.len() as u64;
    }
    let list = watch.seconds();
    if listed != sizes.million {
        return Err(format!("{listed} names are listed of {}", sizes.million));
    }
    let memory = peak_memory("self")?;
    target.finish()?;
    Ok(vec![
        ("million.create", created),
        ("million.list", list),
        ("million.memory", memory),
    ])
}

/// The most memory, in MiB, that a process had.
pub fn peak_memory(pid: &str) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
    let status = status.when("look at the memory of a process")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB"));
    let kib: f64 = kib.unwrap_or_default().trim().parse().when("read a size")?;
    Ok(kib / 1024.0)
}
