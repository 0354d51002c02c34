//! The whole engine, its own threads included, under a scheduler that decides who goes on: group
//! commit, the change of epochs, the caches, and how versions are published.
//!
//! ```text
//! RAZORFS_SCHEDULES=20000 cargo test -p razorfs --features shuttle --lib scheduled
//! ```

use std::sync::Arc;

use razorfs_disk::sim::{SimDisk, SimEnv, SimRng};
use shuttle::rand::Rng;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, MaxSteps, Runner};

use super::atomic::{AtomicU64, Ordering};
use super::thread;
use crate::store::stress_tests::{Writer, check, options};
use crate::{CreateOptions, Ino, NewNode, RenameMode, Step, Volume};

/// Interleavings of each test, unless `RAZORFS_SCHEDULES` says otherwise.
const SCHEDULES: usize = 150;
/// Steps after which a run counts as going round in circles.
const STEPS: usize = 2_000_000;

fn schedules() -> usize {
    let told = std::env::var("RAZORFS_SCHEDULES").ok();
    told.map_or(SCHEDULES, |n| {
        n.parse().expect("RAZORFS_SCHEDULES is a number")
    })
}

fn run_with(scheduler: impl Scheduler + 'static, test: fn()) {
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    config.max_steps = MaxSteps::FailAfter(STEPS);
    config.silence_warnings = true;
    Runner::new(scheduler, config).run(test);
}

/// Half of the interleavings at random, half by priorities that change at a few places.
fn run(test: fn()) {
    run_with(RandomScheduler::new(schedules() / 2), test);
    run_with(PctScheduler::new(3, schedules() / 2), test);
}

fn chance(n: u64) -> u64 {
    shuttle::rand::thread_rng().gen_range(0..n)
}

fn new_volume(disk: &SimDisk) -> Volume {
    let env = Arc::new(SimEnv::new(chance(u64::MAX)));
    // Each look at the clock is a millisecond, so that what waits for time gets it.
    env.set_tick(1_000_000);
    let create = CreateOptions::from(&options(true));
    Volume::create_on(Arc::new(disk.clone()), env.clone(), &create).unwrap();
    Volume::open_on(Arc::new(disk.clone()), env, options(true)).unwrap()
}

fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
    thread::Builder::new().spawn(work).unwrap()
}

/// Writers side by side, with checkpoints and compactions beside them.
fn work(volume: &Volume, writers: Vec<Writer>, steps: u64) -> Vec<Writer> {
    let busy = volume.clone();
    let beside = spawn(move || {
        for _ in 0..2 {
            // A disk without power is what some tests are about.
            let _ = busy.checkpoint();
            let _ = busy.step(Step::Compact);
            let _ = (busy.info(), busy.stats(), busy.space());
        }
    });
    let hands: Vec<_> = writers
        .into_iter()
        .map(|mut writer| {
            let volume = volume.clone();
            spawn(move || {
                for _ in 0..steps {
                    if !writer.step(&volume) {
                        break;
                    }
                }
                writer
            })
        })
        .collect();
    let writers = hands.into_iter().map(|hand| hand.join().unwrap()).collect();
    beside.join().unwrap();
    writers
}

fn writers(volume: &Volume) -> Vec<Writer> {
    let seed = chance(1 << 40);
    let writers = (0..3).map(|n| Writer::new(volume, n, seed)).collect();
    volume.sync().unwrap();
    writers
}

#[test]
fn scheduled_writers_are_whole_after_a_close() {
    run(|| {
        let disk = SimDisk::new();
        let volume = new_volume(&disk);
        let mut writers = work(&volume, writers(&volume), 8);
        volume.close().unwrap();
        writers.iter_mut().for_each(Writer::settled);
        check(&disk, &writers);
    });
}

#[test]
fn scheduled_syncs_survive_a_power_cut() {
    run(|| {
        let disk = SimDisk::new();
        let volume = new_volume(&disk);
        let writers = writers(&volume);
        disk.cut_after(disk.op_count() + chance(60));
        let writers = work(&volume, writers, 8);
        let after = disk.power_cut(&mut SimRng::new(chance(u64::MAX)));
        drop(volume);
        check(&after, &writers);
    });
}

#[test]
fn scheduled_waiters_get_one_answer_each_though_the_volume_is_closed() {
    run(|| {
        let disk = SimDisk::new();
        let volume = new_volume(&disk);
        let hands: Vec<_> = (0..3_u8)
            .map(|n| {
                let volume = volume.clone();
                spawn(move || {
                    let name = [b'a' + n];
                    let made = volume.create_node(Ino::ROOT, &name, &NewNode::file(0o644));
                    let synced = volume.sync();
                    (name, made.is_ok(), synced.is_ok())
                })
            })
            .collect();
        let closed = volume.close();
        let told: Vec<_> = hands.into_iter().map(|hand| hand.join().unwrap()).collect();
        assert!(closed.is_ok());
        let env = Arc::new(SimEnv::new(1));
        let volume = Volume::open_on(Arc::new(disk.clone()), env, options(false)).unwrap();
        for (name, made, synced) in told {
            let found = volume.lookup(Ino::ROOT, &name).is_ok();
            // What was made before the close is there; nothing that was refused is.
            assert_eq!(found, made, "{name:?}, synced: {synced}");
        }
        volume.close().unwrap();
    });
}

/// The content of a file that was written this often.
fn version(n: u64) -> Vec<u8> {
    vec![n as u8; 6000]
}

/// Reads what the file says of itself, and looks that its directory has it once.
fn read_version(volume: &Volume, dir: Ino, ino: Ino) -> u64 {
    let mut bytes = vec![0xee; 6001];
    assert_eq!(volume.read(ino, 0, &mut bytes).unwrap(), 6000);
    bytes.pop();
    let n = u64::from(bytes[0]);
    assert!(bytes == version(n), "a mixture of versions");
    let mut found = Vec::new();
    let mut each = |entry: crate::Entry| {
        found.push(entry.ino);
        true
    };
    volume.collect_children(dir, 0, &mut each).unwrap();
    assert_eq!(found, [ino], "it has one name at any time");
    n
}

#[test]
fn scheduled_readers_see_each_version_whole_and_never_an_older_one() {
    run(|| {
        let disk = SimDisk::new();
        let volume = new_volume(&disk);
        let node = NewNode::directory(0o755);
        let dir = volume.create_node(Ino::ROOT, b"d", &node).unwrap().ino;
        let file = volume.create_node(dir, b"0", &NewNode::file(0o644));
        let ino = file.unwrap().ino;
        volume.write(ino, 0, &version(0)).unwrap();
        let told = Arc::new(AtomicU64::new(0));
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (volume, told) = (volume.clone(), Arc::clone(&told));
                spawn(move || {
                    let mut seen = 0;
                    for _ in 0..6 {
                        seen = told.load(Ordering::SeqCst).max(seen);
                        let now = read_version(&volume, dir, ino);
                        assert!(now >= seen, "version {now} after {seen}");
                        seen = now;
                    }
                })
            })
            .collect();
        let busy = volume.clone();
        let beside = spawn(move || {
            for _ in 0..3 {
                busy.checkpoint().unwrap();
                busy.step(Step::Compact).unwrap();
            }
        });
        for n in 1..6_u64 {
            volume.write(ino, 0, &version(n)).unwrap();
            told.store(n, Ordering::SeqCst);
            let (from, to) = ([b'0' + n as u8 - 1], [b'0' + n as u8]);
            let how = RenameMode::Replace;
            volume.rename(dir, &from, dir, &to, how).unwrap();
            if chance(3) == 0 {
                volume.sync().unwrap();
            }
        }
        readers.into_iter().for_each(|hand| hand.join().unwrap());
        beside.join().unwrap();
        volume.close().unwrap();
    });
}
