//! Many who sync at once share the flushes of the disk.

use std::io::IoSlice;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use razorfs_disk::sim::{SimDisk, SimEnv};
use razorfs_disk::{Dir, Disk, File, Guard, LockMode, Name, OpenHow, Result as DiskResult, Space};

use crate::{CreateOptions, Ino, NewNode, Options, Volume};

const CLIENTS: u64 = 64;
const WAVES: u64 = 20;
/// Bytes that each writes.
const SIZE: u64 = 1000;

/// Of a wave.
#[derive(Default)]
struct Wave {
    /// Whether there is one.
    begun: AtomicU64,
    /// Clients that have written and are about to sync.
    arrived: AtomicU64,
    flushed: Mutex<Vec<Name>>,
}

/// A disk of which a flush takes until everybody of the wave has come.
struct Slow(SimDisk, Arc<Wave>);

struct SlowFile(Arc<dyn File>, Name, Arc<Wave>);

impl Disk for Slow {
    fn open(&self, name: &Name, how: OpenHow) -> DiskResult<Arc<dyn File>> {
        let file = self.0.open(name, how)?;
        Ok(Arc::new(SlowFile(file, name.clone(), Arc::clone(&self.1))))
    }
    fn rename(&self, from: &Name, to: &Name) -> DiskResult<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, name: &Name) -> DiskResult<()> {
        self.0.remove(name)
    }
    fn list(&self, dir: Dir) -> DiskResult<Vec<Name>> {
        self.0.list(dir)
    }
    fn sync_dir(&self, dir: Dir) -> DiskResult<()> {
        self.0.sync_dir(dir)
    }
    fn create_dirs(&self) -> DiskResult<()> {
        self.0.create_dirs()
    }
    fn lock(&self, mode: LockMode) -> DiskResult<Box<dyn Guard>> {
        self.0.lock(mode)
    }
    fn space(&self) -> DiskResult<Space> {
        self.0.space()
    }
}

impl File for SlowFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> DiskResult<usize> {
        self.0.read_at(buf, offset)
    }
    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> DiskResult<()> {
        self.0.write_at(bufs, offset)
    }
    fn sync_data(&self) -> DiskResult<()> {
        let wave = &self.2;
        wave.flushed.lock().unwrap().push(self.1.clone());
        while wave.begun.load(Ordering::SeqCst) > 0 && wave.arrived.load(Ordering::SeqCst) < CLIENTS
        {
            std::thread::yield_now();
        }
        self.0.sync_data()
    }
    fn allocate(&self, range: Range<u64>, zero: bool) -> DiskResult<()> {
        self.0.allocate(range, zero)
    }
    fn punch(&self, range: Range<u64>) -> DiskResult<()> {
        self.0.punch(range)
    }
    fn set_len(&self, len: u64) -> DiskResult<()> {
        self.0.set_len(len)
    }
    fn len(&self) -> DiskResult<u64> {
        self.0.len()
    }
}

/// The first flush has those that came before it, the second one all others, who came meanwhile.
/// (If these have written more than 64 KiB together, that goes to a pack first, with a flush of its
/// own.)
#[test]
fn sixty_four_who_sync_at_once_cost_at_most_two_flushes() {
    let wave = Arc::new(Wave::default());
    let disk = Arc::new(Slow(SimDisk::new(), Arc::clone(&wave)));
    let env = Arc::new(SimEnv::new(1));
    let options = || Options {
        threads: false,
        ..Options::default()
    };
    Volume::create_on(disk.clone(), env.clone(), &CreateOptions::from(&options())).unwrap();
    let volume = Volume::open_on(disk, env, options()).unwrap();
    let files: Vec<Ino> = (0..CLIENTS)
        .map(|n| {
            let node = NewNode::file(0o644);
            let made = volume.create_node(Ino::ROOT, format!("f{n}").as_bytes(), &node);
            made.unwrap().ino
        })
        .collect();
    volume.sync().unwrap();
    for n in 0..WAVES {
        // There is room in the journal: nobody has to wait for a checkpoint.
        volume.checkpoint().unwrap();
        wave.arrived.store(0, Ordering::SeqCst);
        wave.flushed.lock().unwrap().clear();
        wave.begun.store(1, Ordering::SeqCst);
        std::thread::scope(|scope| {
            for ino in &files {
                scope.spawn(|| {
                    volume
                        .write(*ino, n * SIZE, &[n as u8; SIZE as usize])
                        .unwrap();
                    wave.arrived.fetch_add(1, Ordering::SeqCst);
                    volume.sync().unwrap();
                });
            }
        });
        wave.begun.store(0, Ordering::SeqCst);
        let flushed = wave.flushed.lock().unwrap();
        // Where the ring goes on to its next file, that is begun with one more.
        let most = match flushed.iter().all(|name| *name == flushed[0]) {
            true => 2,
            false => 3,
        };
        assert!((1..=most).contains(&flushed.len()), "wave {n}: {flushed:?}");
    }
    volume.close().unwrap();
}
