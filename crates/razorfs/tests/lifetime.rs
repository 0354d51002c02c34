//! What an open volume holds is given back when it is closed: threads, descriptors, memory. Alone
//! in its process, since it counts what the process has.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use razorfs::{CreateOptions, Durability, Ino, NewNode, Options, Volume};
use razorfs_disk::os::OsEnv;
use razorfs_disk::sim::SimDisk;

/// The system's allocator, with a count of the bytes that are in use.
struct Counting;

static LIVE: AtomicI64 = AtomicI64::new(0);

#[expect(unsafe_code, reason = "an allocator is unsafe by its contract")]
// SAFETY: every call is handed on as it is to the system's allocator, which keeps the contract;
// counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`, which is the same one.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: `at` came from `System.alloc` above, with this layout.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What the process has: bytes of memory, threads, descriptors.
#[derive(Debug)]
struct Held {
    bytes: i64,
    threads: usize,
    descriptors: usize,
}

impl Held {
    fn now() -> Self {
        let count = |dir| fs::read_dir(dir).unwrap().count();
        // A thread that was joined is listed for a moment longer.
        let mut threads = count("/proc/self/task");
        loop {
            std::thread::sleep(Duration::from_millis(50));
            match std::mem::replace(&mut threads, count("/proc/self/task")) {
                before if before == threads => break,
                _ => {}
            }
        }
        Self {
            threads,
            descriptors: count("/proc/self/fd"),
            bytes: LIVE.load(Ordering::Relaxed),
        }
    }
}

/// A little of everything: names, data inline and in packs, a checkpoint, a transaction, an orphan.
fn use_it(volume: &Volume, round: u64) {
    let root = volume.root();
    let name = format!("f{}", round % 50);
    let bytes = vec![round as u8; 200_000];
    root.write(&name, &bytes).unwrap();
    assert_eq!(root.read(name).unwrap(), bytes);
    root.write("small", b"a few bytes").unwrap();
    let mut tx = root.transaction();
    tx.write("t", round.to_le_bytes()).unwrap();
    tx.rename("small", "renamed").unwrap();
    tx.commit(Durability::Synced).unwrap();
    let made = volume
        .create_unnamed(Ino::ROOT, &NewNode::file(0o600))
        .unwrap();
    volume.write(made.ino, 0, b"nobody sees this").unwrap();
    if round.is_multiple_of(3) {
        volume.checkpoint().unwrap();
    }
}

const ROUNDS: u64 = 1000;
/// Rounds after which everything that is made once is there.
const WARM: u64 = 20;
/// Bytes that a process may hold for other reasons: buffers of its own output, say.
const SLACK: i64 = 64 << 10;

/// Runs `round` a thousand times; nothing may be left of any.
fn repeat(what: &str, mut round: impl FnMut(u64)) {
    (0..WARM).for_each(&mut round);
    let before = Held::now();
    (WARM..ROUNDS).for_each(&mut round);
    let after = Held::now();
    assert_eq!(
        before.threads, after.threads,
        "{what}: {before:?}, {after:?}"
    );
    assert_eq!(
        before.descriptors, after.descriptors,
        "{what}: {before:?}, {after:?}"
    );
    let grown = after.bytes - before.bytes;
    assert!(
        grown.abs() <= SLACK,
        "{what}: {grown} bytes more after {ROUNDS} rounds"
    );
}

// One test, since each counts what all of the process do.
#[test]
fn nothing_is_left_of_a_thousand_openings() {
    repeat("new volumes in memory", |n| {
        let (disk, env) = (SimDisk::new(), Arc::new(OsEnv));
        let disk = Arc::new(disk);
        let small = CreateOptions {
            geometry: razorfs::Geometry::tiny(),
            ..CreateOptions::default()
        };
        Volume::create_on(disk.clone(), env.clone(), &small).unwrap();
        let options = Options {
            geometry: razorfs::Geometry::tiny(),
            ..Options::default()
        };
        let volume = Volume::open_on(disk, env, options).unwrap();
        use_it(&volume, n);
        // Half of them are dropped and not closed.
        if n.is_multiple_of(2) {
            volume.close().unwrap();
        }
    });
    let home = tempfile::tempdir_in(memory()).unwrap();
    let path = home.path().join("volume");
    Volume::open_or_create(&path, Options::default())
        .unwrap()
        .close()
        .unwrap();
    repeat("one volume of the host", |n| {
        let volume = Volume::open_or_create(&path, Options::default()).unwrap();
        use_it(&volume, n);
        volume.close().unwrap();
    });
}

/// Where files need no disk, if there is such a place: a thousand openings sync ten thousand times.
fn memory() -> std::path::PathBuf {
    let shm = std::path::PathBuf::from("/dev/shm");
    match fs::metadata(&shm) {
        Ok(meta) if meta.is_dir() && tempfile::tempfile_in(&shm).is_ok() => shm,
        _ => std::env::temp_dir(),
    }
}
