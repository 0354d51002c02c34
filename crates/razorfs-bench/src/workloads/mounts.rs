//! How long it takes to mount, and what an empty volume takes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::many::peak_memory;
use super::{Values, files, path};
use crate::clock::Stopwatch;
use crate::failure::{At, Result};
use crate::measures::Sizes;
use crate::system;
use crate::target::{Kind, Paths, Target};
use crate::tree::{HostTree, Tree};

/// Runs it.
pub fn run(paths: &Paths, sizes: &Sizes) -> Result<Values> {
    let mut values = Values::new();
    // Makes room, and takes everything away again on an error.
    let mut target = Target::start(Kind::Razorfs, paths)?;
    target.detach()?;
    fs::remove_dir_all(paths.volume()).at("remove", &paths.volume())?;
    rustix::fs::sync();
    values.push(("mount.create", attach(&mut target)?));
    target.detach()?;
    values.push((
        "mount.empty",
        disk_usage(&paths.volume())? as f64 / f64::from(1 << 20),
    ));
    values.push(("mount.clean", attach(&mut target)?));
    let tree = HostTree(paths.dir());
    files::make_dirs(&tree, sizes.files)?;
    for n in 0..sizes.files {
        tree.write(&path(n), &[7; 4096], None)?;
    }
    target.sync()?;
    let (keeper, pid) = processes(paths)?;
    values.push(("mount.memory", peak_memory(&pid.to_string())?));
    // Until the moment it is killed there is something that is not yet checkpointed.
    for n in 0..sizes.files / 10 {
        tree.write(&path(n).with_extension("late"), &[8; 4096], None)?;
    }
    // A crash of all: the keeper would start another daemon.
    for process in keeper.into_iter().chain([pid]) {
        system::kill(process);
        wait_for_end(process);
    }
    razorfs_fuse::mount::unmount(&paths.dir(), true).at("unmount", &paths.dir())?;
    system::drop_caches();
    values.push(("mount.killed", attach(&mut target)?));
    target.detach()?;
    system::drop_caches();
    values.push(("mount.filled", attach(&mut target)?));
    target.finish()?;
    Ok(values)
}

/// Milliseconds until the command has mounted it.
fn attach(target: &mut Target) -> Result<f64> {
    let watch = Stopwatch::start();
    target.attach()?;
    let elapsed = watch.seconds() * 1e3;
    target.tree()?.list(Path::new(""))?;
    Ok(elapsed)
}

/// Bytes of the blocks of everything in `dir`.
fn disk_usage(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir).at("list", dir)? {
        let entry = entry.at("list", dir)?;
        let metadata = entry.metadata().at("stat", &entry.path())?;
        bytes += metadata.blocks() * 512;
        if metadata.is_dir() {
            bytes += disk_usage(&entry.path())?;
        }
    }
    Ok(bytes)
}

/// The keeper, if there is one, and the daemon.
fn processes(paths: &Paths) -> Result<(Option<i32>, i32)> {
    let output = Command::new(&paths.razorfs)
        .arg("info")
        .arg(paths.volume())
        .arg("--json")
        .output()
        .at("run", &paths.razorfs)?;
    let info: serde_json::Value = serde_json::from_slice(&output.stdout).when("read its answer")?;
    let pid = |at: &str| {
        let pid = info.pointer(at).and_then(serde_json::Value::as_i64);
        pid.and_then(|pid| i32::try_from(pid).ok())
    };
    let daemon = pid("/pid").ok_or("razorfs info does not name its daemon")?;
    Ok((pid("/keeper/pid"), daemon))
}

fn wait_for_end(pid: i32) {
    let watch = Stopwatch::start();
    while watch.elapsed() < Duration::from_secs(10) {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit(") ").next().unwrap_or_default();
        if state.is_empty() || state.starts_with(['Z', 'X']) {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
