//! The threads of the queues, over a real mount whose requests wait when the test wants it.

use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_setaffinity};
use tempfile::TempDir;

use super::*;
use crate::clock::monotonic;
use crate::protocol::{Limits, Validity, flags, opcode};
use crate::transport::{Device, DeviceOptions, ReplyTo, Transport};
use crate::{MountOptions, NullFs, mount, operations::Operations};

const PATIENCE: Duration = Duration::from_secs(30);

/// LOOKUPs of names that begin with `s` wait until told.
struct Waits {
    operations: Operations,
    waiting: Mutex<usize>,
    go_on: Mutex<bool>,
    may_go_on: Condvar,
}

impl Handler for Waits {
    fn handle(&self, message: &[u8], reply: ReplyTo, scratch: &mut Scratch) {
        let is_lookup = message[4..8] == opcode::LOOKUP.to_ne_bytes();
        if is_lookup && message.get(40) == Some(&b's') {
            *self.waiting.lock() += 1;
            let mut go_on = self.go_on.lock();
            while !*go_on {
                self.may_go_on.wait(&mut go_on);
            }
        }
        self.operations.handle(message, reply, scratch);
    }
}

/// Lets all requests go on when it is dropped.
struct GoOn<'a>(&'a Waits);

impl Drop for GoOn<'_> {
    fn drop(&mut self) {
        *self.0.go_on.lock() = true;
        self.0.may_go_on.notify_all();
    }
}

/// Takes a mount away when it is dropped.
struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        mount::unmount(self.0, true).unwrap();
    }
}

/// Waits until something is so; says whether it came to be.
fn comes_to_be(so: impl Fn() -> bool) -> bool {
    let start = monotonic();
    while !so() {
        if monotonic() - start > PATIENCE.as_nanos() as u64 {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

/// Runs `test` with a mount over io_uring.
fn served(test: impl Fn(PathBuf, &Waits, &Rings)) {
    let payload = MountOptions::default().max_read as usize;
    served_with(payload, |dir, handler, rings, registered| {
        registered.unwrap();
        test(dir, handler, rings);
    });
}

/// The same with places of so many bytes; the test also gets whether the kernel took them.
fn served_with(payload: usize, test: impl Fn(PathBuf, &Waits, &Rings, Result<(), NoRings>)) {
    if let Err(why) = available() {
        eprintln!("SKIPPED over io_uring: {why}");
        return;
    }
    let dir = TempDir::new().unwrap();
    let options = MountOptions::default();
    let Ok(mounted) = mount::mount(dir.path(), &options) else {
        assert!(std::env::var_os("CI").is_none(), "cannot test mounts");
        eprintln!("SKIPPED: nothing can be mounted here");
        return;
    };
    let rings = Rings::new(mounted.fd.try_clone().unwrap(), RingOptions { payload });
    let rings = Arc::new(rings.unwrap());
    let device = DeviceOptions {
        threads: 2,
        message: options.max_read as usize + 4096,
        stay_near: false,
    };
    let device = Device::new(mounted.fd, device).unwrap();
    let fs = Arc::new(NullFs::default());
    let handler = Waits {
        operations: Operations::new(fs, Limits::default(), Validity::default()),
        waiting: Mutex::new(0),
        go_on: Mutex::new(false),
        may_go_on: Condvar::new(),
    };
    let (ready, is_ready) = channel();
    let known = Arc::clone(&rings);
    handler.operations.when_ready(Box::new(move |agreed| {
        assert_ne!(agreed.flags & flags::OVER_IO_URING, 0);
        ready.send(known.register()).unwrap();
    }));
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| {
            std::thread::scope(|scope| {
                let failed = Arc::new(|e| panic!("{e}"));
                rings.start(scope, &handler, failed).unwrap();
                device.serve(&handler).unwrap();
                rings.end();
            });
        });
        {
            let _unmount = Unmount(dir.path());
            let registered = is_ready.recv_timeout(PATIENCE).unwrap();
            test(dir.path().to_owned(), &handler, &rings, registered);
        }
        serving.join().unwrap();
    });
}

/// One core that this process may use.
fn some_core() -> (CpuSet, usize) {
    let cores = Cores::of(None).unwrap();
    let core = (0..CpuSet::MAX_CPU).find(|&core| cores.has(core)).unwrap();
    let mut set = CpuSet::new();
    set.set(core);
    (set, core)
}

#[test]
fn requests_that_wait_do_not_hold_up_others_of_their_queue() {
    served(|dir, handler, rings| {
        let (set, core) = some_core();
        let slow = 20;
        std::thread::scope(|scope| {
            let _go_on = GoOn(handler);
            for n in 0..slow {
                let path = dir.join(format!("s{n}"));
                scope.spawn(move || {
                    sched_setaffinity(None, &set).unwrap();
                    assert!(std::fs::metadata(path).is_err());
                });
                let waits = comes_to_be(|| *handler.waiting.lock() > n);
                assert!(waits, "{n} slow requests hold up the next one");
                let waiting = &rings.queues[core].waiting;
                let spare = comes_to_be(|| waiting.load(Ordering::SeqCst) > 0);
                assert!(spare, "no thread waits besides {n} slow requests");
            }
            let (done, is_done) = channel();
            scope.spawn(move || {
                sched_setaffinity(None, &set).unwrap();
                // Nothing that changes the directory: that waits for the others in the kernel.
                assert!(std::fs::metadata(dir.join("x")).is_err());
                done.send(()).unwrap();
            });
            let waited = is_done.recv_timeout(PATIENCE);
            waited.expect("slow requests hold up others");
        });
        let threads = rings.queues[core].threads.load(Ordering::SeqCst);
        assert!((slow..=MOST).contains(&threads), "{threads}");
    });
}

#[test]
fn more_requests_than_threads_are_all_answered() {
    served(|dir, handler, rings| {
        let (set, core) = some_core();
        std::thread::scope(|scope| {
            let _go_on = GoOn(handler);
            for n in 0..3 * MOST {
                let path = dir.join(format!("s{n}"));
                scope.spawn(move || {
                    sched_setaffinity(None, &set).unwrap();
                    assert!(std::fs::metadata(path).is_err());
                });
            }
            let queue = &rings.queues[core];
            let busy =
                || *handler.waiting.lock() > SPARE && queue.threads.load(Ordering::SeqCst) > 3;
            assert!(comes_to_be(busy));
        });
        assert_eq!(*handler.waiting.lock(), 3 * MOST);
        assert!(rings.queues[core].threads.load(Ordering::SeqCst) <= MOST);
    });
}

#[test]
fn a_mount_whose_rings_the_kernel_refuses_is_served_all_the_same() {
    // The kernel wants places for its largest requests.
    served_with(4096, |dir, _, rings, registered| {
        let why = registered.unwrap_err().to_string();
        assert!(why.contains("cannot be set up"), "{why}");
        std::fs::write(dir.join("x"), vec![1; 3_000_000]).unwrap();
        assert_eq!(std::fs::read(dir.join("x")).unwrap().len(), 3_000_000);
        let started = |queue: &Queue| queue.threads.load(Ordering::SeqCst);
        assert_eq!(rings.queues.iter().map(started).sum::<usize>(), 0);
    });
}

#[test]
fn a_kernel_that_cannot_is_told_with_what_to_do() {
    assert_eq!(is_switched_on(Some("Y\n")), Ok(()));
    let off = is_switched_on(Some("N\n")).unwrap_err().to_string();
    assert!(off.contains("echo Y >"), "{off}");
    let none = is_switched_on(None).unwrap_err().to_string();
    assert!(none.contains("Linux 6.14"), "{none}");
}

#[test]
fn cores_are_counted_as_the_kernel_lists_them() {
    for (list, cores) in [
        ("0\n", Some(1)),
        ("0-1\n", Some(2)),
        ("0-3,8,10-11", Some(7)),
        ("0-65534", Some(65535)),
        ("0-65535", None),
        ("", None),
        ("3-1", None),
        ("a-b", None),
    ] {
        assert_eq!(count(list), cores, "{list:?}");
    }
}
