//! What is different about requests that come over io_uring.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use razorfs_fuse::transport::rings_available;
use razorfs_fuse::{NullFs, SessionOptions, TransportChoice};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::{Mount, available, each_with};

fn over_io_uring() -> SessionOptions {
    SessionOptions {
        transport: TransportChoice::Uring,
        ..SessionOptions::default()
    }
}

/// A mount over io_uring; none, and that is said, where there is no such thing.
fn mount() -> Option<Mount> {
    if !available() {
        return None;
    }
    if let Err(why) = rings_available() {
        eprintln!("SKIPPED over io_uring: {why}");
        return None;
    }
    let fs = Arc::new(NullFs::default());
    Some(Mount::new(fs, false, &over_io_uring()))
}

/// Runs something on one core after the other.
fn on_each_core(mut run: impl FnMut(usize)) {
    let all = sched_getaffinity(None).unwrap();
    for core in (0..CpuSet::MAX_CPU).filter(|&core| all.is_set(core)) {
        let mut one = CpuSet::new();
        one.set(core);
        sched_setaffinity(None, &one).unwrap();
        run(core);
    }
    sched_setaffinity(None, &all).unwrap();
}

#[test]
fn programs_on_every_core_are_served() {
    let Some(mount) = mount() else { return };
    on_each_core(|core| {
        let path = mount.path(&format!("{core}"));
        fs::write(&path, vec![7; 3 << 20]).unwrap();
        assert_eq!(fs::read(&path).unwrap().len(), 3 << 20);
        fs::remove_file(&path).unwrap();
    });
    mount.end();
}

#[test]
fn auto_takes_what_there_is() {
    let options = SessionOptions {
        transport: TransportChoice::Auto,
        ..SessionOptions::default()
    };
    if available() {
        let mount = Mount::new(Arc::new(NullFs::default()), false, &options);
        assert_eq!(mount.is_over_io_uring, rings_available().is_ok());
        fs::write(mount.path("f"), b"x").unwrap();
        mount.end();
    }
}

#[test]
fn a_mount_that_was_taken_away_is_served_until_it_is_let_go() {
    let Some(mount) = mount() else { return };
    assert!(mount.is_over_io_uring);
    fs::write(mount.path("f"), vec![0; 5000]).unwrap();
    let file = File::options().read(true).write(true).open(mount.path("f"));
    let file = file.unwrap();
    mount.unmounter.unmount(true).unwrap();
    assert!(fs::metadata(mount.path("f")).is_err());
    for offset in 0..1000 {
        file.write_all_at(&[1; 4096], offset * 4096).unwrap();
    }
    assert_eq!(file.metadata().unwrap().len(), 4096 * 1000);
    file.sync_all().unwrap();
    let mut mount = mount;
    let served = mount.served.take().unwrap();
    assert!(!served.is_finished());
    drop(file);
    served.join().unwrap().unwrap();
}

/// Says that a test runs in a process of its own.
const ALONE: &str = "RAZORFS_TEST_ALONE";

fn names_of_threads() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .collect()
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn nothing_is_left_of_a_mount() {
    if std::env::var_os(ALONE).is_none() {
        let name = "uring::nothing_is_left_of_a_mount";
        let mut alone = Command::new(std::env::current_exe().unwrap());
        alone.args(["--exact", name, "--nocapture"]).env(ALONE, "1");
        assert!(alone.status().unwrap().success());
        return;
    }
    let before = descriptors();
    for _ in 0..5 {
        let Some(mount) = mount() else { return };
        assert!(descriptors() > before);
        std::thread::scope(|scope| {
            for t in 0..8 {
                let mount = &mount;
                scope.spawn(move || {
                    for n in 0..50 {
                        let path = mount.path(&format!("{t}-{n}"));
                        fs::write(&path, vec![0; 100_000]).unwrap();
                        // Programs that are started while it is served inherit nothing.
                        if n == 0 {
                            assert!(Command::new("true").status().unwrap().success());
                        }
                        fs::remove_file(&path).unwrap();
                    }
                });
            }
        });
        assert!(
            names_of_threads()
                .iter()
                .any(|n| n.starts_with("fuse-ring"))
        );
        mount.end();
        assert_eq!(descriptors(), before);
        // A thread that was joined is listed for a moment longer.
        for n in 0.. {
            let threads = names_of_threads();
            if !threads.iter().any(|name| name.starts_with("fuse")) {
                break;
            }
            assert!(n < 1000, "{threads:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn many_sync_at_a_time_beside_others() {
    each_with(&SessionOptions::default(), |mount| {
        std::thread::scope(|scope| {
            for t in 0..64 {
                scope.spawn(move || {
                    let file = File::create(mount.path(&format!("{t}"))).unwrap();
                    for n in 0..4 {
                        file.write_all_at(b"x", n).unwrap();
                        file.sync_all().unwrap();
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(mount.root()).unwrap().count(), 64);
    });
}
