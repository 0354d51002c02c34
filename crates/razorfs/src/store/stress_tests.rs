//! Writers on many threads, with the engine's own threads, checkpoints and compactions beside
//! them: what a close, a drop or a power cut leaves is what each writer knows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use razorfs_disk::os::OsEnv;
use razorfs_disk::sim::{SimDisk, SimRng};

use crate::{CreateOptions, Geometry, Ino, NewNode, Options, RenameMode, Step, Volume};

const WRITERS: u64 = 6;
const TIME: Duration = Duration::from_millis(900);

/// The files of one writer's directory.
type Files = BTreeMap<Vec<u8>, Vec<u8>>;

/// One thread's directory, and the states that it may be in after a cut: the last one is the
/// present, the first the last that a sync acknowledged.
pub(crate) struct Writer {
    dir: Ino,
    rng: SimRng,
    states: Vec<Files>,
}

impl Writer {
    pub(crate) fn new(volume: &Volume, n: u64, seed: u64) -> Self {
        let name = format!("dir{n}");
        let node = NewNode::directory(0o755);
        let dir = volume.create_node(Ino::ROOT, name.as_bytes(), &node);
        Self {
            dir: dir.unwrap().ino,
            rng: SimRng::new(seed * 100 + n),
            states: vec![Files::new()],
        }
    }

    /// What is durable is known: the present.
    pub(crate) fn settled(&mut self) {
        self.states.drain(..self.states.len() - 1);
    }

    fn below(&mut self, n: u64) -> u64 {
        self.rng.next_u64() % n
    }

    /// One operation or a sync; false once the disk is gone.
    pub(crate) fn step(&mut self, volume: &Volume) -> bool {
        if self.below(6) == 0 {
            return match volume.sync() {
                Ok(()) => {
                    self.settled();
                    true
                }
                Err(_) => false,
            };
        }
        let mut files = self.states.last().unwrap().clone();
        let name = format!("f{}", self.below(12)).into_bytes();
        let other = format!("f{}", self.below(12)).into_bytes();
        let kind = self.below(10);
        let fill = self.rng.next_u64() as u8;
        let dir = self.dir;
        let found = volume.lookup(dir, &name);
        let done = match (found, kind) {
            (Err(_), _) if !files.contains_key(&name) => {
                files.insert(name.clone(), Vec::new());
                self.states.push(files);
                let node = NewNode::file(0o644);
                volume.create_node(dir, &name, &node).map(|_| ())
            }
            (Err(_), _) => return false,
            (Ok(_), 0 | 1) => {
                files.remove(&name);
                self.states.push(files);
                volume.unlink(dir, &name)
            }
            (Ok(_), 2 | 3) => {
                if name != other {
                    let moved = files.remove(&name).unwrap();
                    files.insert(other.clone(), moved);
                }
                self.states.push(files);
                volume.rename(dir, &name, dir, &other, RenameMode::Replace)
            }
            (Ok(stat), 4) => {
                let bytes = files.get_mut(&name).unwrap();
                let size = bytes.len() / 2;
                bytes.truncate(size);
                self.states.push(files);
                let set = crate::SetAttributes {
                    size: Some(size as u64),
                    ..Default::default()
                };
                volume.set_attributes(stat.ino, &set).map(|_| ())
            }
            (Ok(stat), _) => {
                let bytes = files.get_mut(&name).unwrap();
                let most = [40, 3000, 20_000][kind as usize % 3];
                let at = self.rng.next_u64() as usize % (bytes.len() + 1);
                let data = vec![fill; 1 + self.rng.next_u64() as usize % most];
                bytes.resize(bytes.len().max(at + data.len()), 0);
                bytes[at..at + data.len()].copy_from_slice(&data);
                self.states.push(files);
                volume.write(stat.ino, at as u64, &data).map(|_| ())
            }
        };
        done.is_ok()
    }
}

pub(crate) fn options(threads: bool) -> Options {
    Options {
        geometry: Geometry::tiny(),
        cache_bytes: 64 << 10,
        threads,
        ..Options::default()
    }
}

fn new_volume(disk: &SimDisk) -> Volume {
    let env = Arc::new(OsEnv);
    let create = CreateOptions::from(&options(true));
    Volume::create_on(Arc::new(disk.clone()), env.clone(), &create).unwrap();
    Volume::open_on(Arc::new(disk.clone()), env, options(true)).unwrap()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the test runs for a while, not for a seed"
)]
/// Lets the writers work, with checkpoints, compactions and looks beside them.
fn work(volume: &Volume, writers: &mut [Writer]) {
    let over = AtomicBool::new(false);
    let end = Instant::now() + TIME;
    std::thread::scope(|scope| {
        let hands: Vec<_> = writers
            .iter_mut()
            .map(|writer| scope.spawn(move || while Instant::now() < end && writer.step(volume) {}))
            .collect();
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let _ = volume.checkpoint();
                let _ = volume.step(Step::Compact);
                let _ = (volume.info(), volume.stats(), volume.space());
            }
        });
        for hand in hands {
            hand.join().unwrap();
        }
        over.store(true, Ordering::Relaxed);
    });
}

fn found(volume: &Volume, n: u64) -> Files {
    let name = format!("dir{n}");
    let dir = volume.lookup(Ino::ROOT, name.as_bytes()).unwrap().ino;
    let mut entries = Vec::new();
    let mut each = |entry: crate::Entry| {
        entries.push((entry.name.to_vec(), entry.ino));
        true
    };
    volume.collect_children(dir, 0, &mut each).unwrap();
    let mut files = Files::new();
    for (name, ino) in entries {
        let mut bytes = vec![0; volume.stat(ino).unwrap().size as usize];
        assert_eq!(volume.read(ino, 0, &mut bytes).unwrap(), bytes.len());
        files.insert(name, bytes);
    }
    files
}

/// Opens what is left, and looks for each writer's directory among the states it may be in.
pub(crate) fn check(disk: &SimDisk, writers: &[Writer]) {
    let env = Arc::new(OsEnv);
    let volume = Volume::open_on(Arc::new(disk.clone()), env, options(false)).unwrap();
    assert_eq!(volume.info().read_only, None);
    let mut inodes = 1 + writers.len() as u64;
    for (n, writer) in (0..).zip(writers) {
        let files = found(&volume, n);
        assert!(
            writer.states.contains(&files),
            "directory {n} is in none of its {} states",
            writer.states.len()
        );
        inodes += files.len() as u64;
    }
    while volume.step(Step::Reap).unwrap() {}
    assert_eq!(volume.space().unwrap().inodes, inodes);
    volume.close().unwrap();
}

fn writers(volume: &Volume, seed: u64) -> Vec<Writer> {
    let writers = (0..WRITERS).map(|n| Writer::new(volume, n, seed)).collect();
    volume.sync().unwrap();
    writers
}

#[test]
fn what_many_threads_wrote_is_there_after_a_close() {
    let disk = SimDisk::new();
    let volume = new_volume(&disk);
    let mut writers = writers(&volume, 1);
    work(&volume, &mut writers);
    let clone = volume.clone();
    volume.close().unwrap();
    writers.iter_mut().for_each(Writer::settled);
    // What comes after the close is refused, and nobody waits for ever.
    let late = clone.create_node(Ino::ROOT, b"late", &NewNode::file(0o644));
    assert!(late.is_err());
    clone.sync().unwrap();
    drop(clone);
    check(&disk, &writers);
}

#[test]
fn what_many_threads_wrote_is_there_after_a_drop() {
    let disk = SimDisk::new();
    let volume = new_volume(&disk);
    let mut writers = writers(&volume, 2);
    work(&volume, &mut writers);
    drop(volume);
    writers.iter_mut().for_each(Writer::settled);
    check(&disk, &writers);
}

#[test]
fn what_many_threads_synced_survives_a_power_cut() {
    for seed in 0..3 {
        let disk = SimDisk::new();
        let volume = new_volume(&disk);
        let mut writers = writers(&volume, 10 + seed);
        disk.cut_after(disk.op_count() + 50 + seed * 150);
        work(&volume, &mut writers);
        let after = disk.power_cut(&mut SimRng::new(seed));
        drop(volume);
        check(&after, &writers);
    }
}

#[test]
fn a_waiter_may_ask_the_volume() {
    let disk = SimDisk::new();
    let volume = new_volume(&disk);
    volume
        .create_node(Ino::ROOT, b"f", &NewNode::file(0o644))
        .unwrap();
    let (send, receive) = std::sync::mpsc::channel();
    let clone = volume.clone();
    volume.sync_then(Box::new(move |result| {
        send.send((result.is_ok(), clone.info().journal_bytes))
            .unwrap();
    }));
    let (ok, bytes) = receive.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(ok && bytes > 0);
    volume.close().unwrap();
}

#[test]
fn large_records_of_many_threads_do_not_overfill_the_journal() {
    let disk = SimDisk::new();
    let volume = new_volume(&disk);
    std::thread::scope(|scope| {
        for n in 0..12_u8 {
            let volume = &volume;
            scope.spawn(move || {
                let name = [b'a' + n];
                let node = NewNode::file(0o644);
                let ino = volume.create_node(Ino::ROOT, &name, &node).unwrap().ino;
                for round in 0..20_u8 {
                    let value = vec![round; 40_000];
                    volume
                        .set_xattr(ino, b"user.x", &value, crate::XattrMode::Set)
                        .unwrap();
                }
            });
        }
    });
    volume.close().unwrap();
}

#[test]
fn a_latched_volume_answers_and_rests() {
    let disk = SimDisk::new();
    let volume = new_volume(&disk);
    let node = NewNode::file(0o644);
    volume.create_node(Ino::ROOT, b"f", &node).unwrap();
    disk.cut_after(disk.op_count());
    assert!(volume.sync().is_err());
    let reads = disk.counts().reads;
    assert!(volume.sync().is_err());
    assert!(volume.create_node(Ino::ROOT, b"g", &node).is_err());
    // The journal's thread has nothing to do any more, unsynced or not.
    let core = &*volume.inner.store;
    let open = core.open.lock();
    assert_eq!(core.commit_due(&open), None);
    drop(open);
    assert_eq!(disk.counts().reads, reads);
    assert!(volume.close().is_err());
}
