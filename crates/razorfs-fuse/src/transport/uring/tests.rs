//! The threads of the queues, over a real mount whose requests wait when the test wants it.

use std::path::Path;
use std::sync::mpsc::{Receiver, channel};

use parking_lot::Condvar;
use rustix::thread::{CpuSet, sched_setaffinity};
use tempfile::TempDir;

use super::thread::RingThread;
use super::*;
use crate::connection::Identity;
use crate::protocol::{Limits, Validity, flags, header_of, opcode};
use crate::transport::{Device, DeviceOptions, ReplyTo, Scratch, Transport};
use crate::underway::Unanswered;
use crate::{MountOptions, NullFs, mount, operations::Operations};

const PATIENCE: Duration = Duration::from_secs(30);

/// What is done within a request, which has this number.
type Within = Box<dyn FnOnce(u64) + Send>;

/// LOOKUPs of names that begin with `s` wait until told; one that begins with `w` does `within`.
struct Waits {
    operations: Operations,
    waiting: Mutex<usize>,
    go_on: Mutex<bool>,
    may_go_on: Condvar,
    within: Mutex<Option<Within>>,
}

impl Waits {
    fn new() -> Self {
        let fs = Arc::new(NullFs::default());
        Self {
            operations: Operations::new(fs, Limits::default(), Validity::default()),
            waiting: Mutex::new(0),
            go_on: Mutex::new(false),
            may_go_on: Condvar::new(),
            within: Mutex::default(),
        }
    }
}

impl Handler for Waits {
    fn handle(&self, message: &[u8], reply: ReplyTo, scratch: &mut Scratch) -> Unanswered {
        let is_lookup = message[4..8] == opcode::LOOKUP.to_ne_bytes();
        let within =
            (is_lookup && message.get(40) == Some(&b'w')).then(|| self.within.lock().take());
        if let Some(within) = within.flatten() {
            within(header_of(message).unwrap().unique);
        }
        if is_lookup && message.get(40) == Some(&b's') {
            *self.waiting.lock() += 1;
            let mut go_on = self.go_on.lock();
            while !*go_on {
                self.may_go_on.wait(&mut go_on);
            }
        }
        self.operations.handle(message, reply, scratch)
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
        // One that was aborted is gone.
        let _ = mount::unmount(self.0, true);
    }
}

/// Waits until something is so; says whether it came to be.
fn comes_to_be(mut so: impl FnMut() -> bool) -> bool {
    let start = monotonic();
    while !so() {
        if monotonic() - start > PATIENCE.as_nanos() as u64 {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

/// A mount that is served.
struct Served<'a> {
    dir: &'a Path,
    handler: &'a Waits,
    rings: &'a Arc<Rings>,
    fuse: &'a Arc<OwnedFd>,
    /// Whether the kernel took the threads.
    registered: Result<(), NotRegistered>,
    /// How serving failed.
    failures: &'a Receiver<io::Error>,
}

/// Runs `test` with a mount over io_uring.
fn served(test: impl Fn(Served<'_>)) {
    let payload = MountOptions::default().max_read as usize;
    served_with(
        payload,
        |_| {},
        |served| {
            served.registered.as_ref().unwrap();
            let failures = served.failures;
            test(served);
            let failure = failures.try_recv();
            assert!(failure.is_err(), "{failure:?}");
        },
    );
}

/// The same with places of so many bytes, and rings that are changed before they are used. What
/// fails aborts the connection.
fn served_with(payload: usize, change: impl Fn(&mut Rings), test: impl Fn(Served<'_>)) {
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
    let mut rings = rings.unwrap();
    change(&mut rings);
    let rings = Arc::new(rings);
    let device = DeviceOptions {
        threads: 2,
        message: options.max_read as usize + 4096,
        stay_near: false,
    };
    let fuse = Arc::new(mounted.fd.try_clone().unwrap());
    let device = Device::new(mounted.fd, device).unwrap();
    let handler = Waits::new();
    let (ready, is_ready) = channel();
    let known = Arc::clone(&rings);
    handler.operations.when_ready(Box::new(move |agreed| {
        assert_ne!(agreed.flags & flags::OVER_IO_URING, 0);
        ready.send(known.register()).unwrap();
    }));
    let (sender, failures) = channel();
    let sender = Mutex::new(sender);
    let (identity, mount_point) = (Identity::of(dir.path()), dir.path().to_owned());
    let descriptor = Arc::clone(&fuse);
    let failed = Arc::new(move |e| {
        sender.lock().send(e).unwrap();
        identity.abort(&descriptor, &mount_point);
    });
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| {
            std::thread::scope(|scope| {
                rings.start(scope, &handler, failed).unwrap();
                device.serve(&handler).unwrap();
                rings.end();
            });
        });
        {
            let _unmount = Unmount(dir.path());
            let registered = is_ready.recv_timeout(PATIENCE).unwrap();
            test(Served {
                dir: dir.path(),
                handler: &handler,
                rings: &rings,
                fuse: &fuse,
                registered,
                failures: &failures,
            });
        }
        serving.join().unwrap();
    });
}

/// Asks for a name from another thread; fails if there is no answer in time.
fn ask(dir: &Path, name: &str) -> io::Result<()> {
    let (path, (sender, answer)) = (dir.join(name), channel());
    std::thread::spawn(move || sender.send(std::fs::metadata(path).map(|_| ())));
    let answer = answer.recv_timeout(PATIENCE);
    answer.expect("who asked hangs")
}

fn errno(answer: io::Result<()>) -> i32 {
    answer.unwrap_err().raw_os_error().unwrap()
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
    served(|served| {
        let (dir, handler, rings) = (served.dir, served.handler, served.rings);
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
    served(|served| {
        let (dir, handler, rings) = (served.dir, served.handler, served.rings);
        let (set, core) = some_core();
        std::thread::scope(|scope| {
            let _go_on = GoOn(handler);
            let queue = &rings.queues[core];
            // Requests that come while no thread waits are taken when an answer is handed over.
            let warm = scope.spawn(move || {
                sched_setaffinity(None, &set).unwrap();
                let mut names = (0..).map(|n| dir.join(format!("x{n}")));
                comes_to_be(|| {
                    assert!(std::fs::metadata(names.next().unwrap()).is_err());
                    queue.waiting.load(Ordering::SeqCst) > SPARE
                })
            });
            assert!(warm.join().unwrap());
            for n in 0..3 * MOST {
                let path = dir.join(format!("s{n}"));
                scope.spawn(move || {
                    sched_setaffinity(None, &set).unwrap();
                    assert!(std::fs::metadata(path).is_err());
                });
            }
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
    served_with(
        4096,
        |_| {},
        |served| {
            let Err(NotRegistered::Refused(why)) = &served.registered else {
                panic!("{:?}", served.registered);
            };
            assert!(why.to_string().contains("cannot be set up"), "{why}");
            let path = served.dir.join("x");
            std::fs::write(&path, vec![1; 3_000_000]).unwrap();
            assert_eq!(std::fs::read(&path).unwrap().len(), 3_000_000);
            let started = |queue: &Queue| queue.threads.load(Ordering::SeqCst);
            assert_eq!(served.rings.queues.iter().map(started).sum::<usize>(), 0);
        },
    );
}

#[test]
fn a_mount_of_which_the_kernel_knows_some_threads_only_is_served_all_the_same() {
    let payload = MountOptions::default().max_read as usize;
    // A queue gets no thread, and the kernel, which has refused none, waits for one.
    let lacks_one = |rings: &mut Rings| assert!(rings.queues.pop().is_some());
    served_with(payload, lacks_one, |served| {
        served.registered.as_ref().unwrap();
        served.rings.refuse().unwrap();
        assert_eq!(errno(ask(served.dir, "x")), libc::ENOENT);
        let path = served.dir.join("x");
        std::fs::write(&path, vec![1; 3_000_000]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap().len(), 3_000_000);
        // The memory of those that it knows stays.
        served.rings.end();
        let known = served.rings.queues.len();
        let all_kept = || served.rings.kept.lock().len() == known;
        assert!(comes_to_be(all_kept), "{known}");
    });
}

/// Serves, has `within` done in a request, and expects that nobody hangs then.
fn broken_by(within: impl Fn(&Served<'_>) -> Within) -> Option<String> {
    let payload = MountOptions::default().max_read as usize;
    let failure = Mutex::new(None);
    served_with(
        payload,
        |_| {},
        |served| {
            let _go_on = GoOn(served.handler);
            assert_eq!(errno(ask(served.dir, "x")), libc::ENOENT);
            let (dir, (sender, answer)) = (served.dir.join("slow"), channel());
            std::thread::spawn(move || sender.send(std::fs::metadata(dir).map(|_| ())));
            assert!(comes_to_be(|| *served.handler.waiting.lock() == 1));
            *served.handler.within.lock() = Some(within(&served));
            ask(served.dir, "within").unwrap_err();
            // Nor who waits for something that is still being done.
            let slow = answer.recv_timeout(PATIENCE);
            assert_ne!(errno(slow.expect("who waits hangs")), libc::ENOENT);
            assert!(!connection::is_alive(served.fuse));
            *failure.lock() = served.failures.try_recv().ok().map(|e| e.to_string());
        },
    );
    failure.into_inner()
}

fn is_root() -> bool {
    let is = rustix::process::geteuid().is_root();
    if !is {
        eprintln!("SKIPPED: only root is sure to be let abort a connection");
    }
    is && available().is_ok()
}

#[test]
fn nobody_hangs_when_an_answer_is_refused_though_the_mount_is_there() {
    if !is_root() {
        return;
    }
    // Somebody else hands over an answer to the same request.
    let failure = broken_by(|served| {
        let rings = Arc::clone(served.rings);
        Box::new(move |unique| {
            let fuse = rings.fuse.as_raw_fd();
            for queue in 0..rings.queues.len() as u16 {
                let mut ring = Ring::new(1).unwrap();
                let mut entry = Entry::new(queue, 4096).unwrap();
                entry.commit_is(unique);
                ring.push(entry.commit(fuse, 0));
                ring.enter(0).unwrap();
            }
        })
    });
    let failure = failure.expect("it went on, with a thread less");
    assert!(failure.contains("No such file"), "{failure}");
}

#[test]
fn nobody_hangs_when_a_thread_of_a_ring_panics() {
    if !is_root() {
        return;
    }
    let failure = broken_by(|_| Box::new(|_| panic!("on purpose")));
    assert!(failure.unwrap().contains("panicked"));
}

#[test]
fn answers_that_come_after_an_abort_are_no_failure() {
    if !is_root() {
        return;
    }
    let failure = broken_by(|served| {
        let (identity, fuse) = (Identity::of(served.dir), Arc::clone(served.fuse));
        let dir = served.dir.to_owned();
        Box::new(move |_| identity.abort(&fuse, &dir))
    });
    assert_eq!(failure, None);
}

#[test]
fn an_answer_that_the_kernel_has_no_room_for_is_handed_over_again() {
    served(|served| {
        // A connection whose INIT is not answered yet has the kernel say EAGAIN.
        let dir = TempDir::new().unwrap();
        let other = mount::mount(dir.path(), &MountOptions::default()).unwrap();
        let _unmount = Unmount(dir.path());
        let (rings, fuse) = (Arc::clone(served.rings), Arc::clone(served.fuse));
        *served.handler.within.lock() = Some(Box::new(move |_| {
            rings.put_instead(&other.fd);
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(100));
                rings.put_instead(&*fuse);
            });
        }));
        assert_eq!(errno(ask(served.dir, "within")), libc::ENOENT);
        assert_eq!(errno(ask(served.dir, "x")), libc::ENOENT);
    });
}

/// A thread of these rings that serves nobody.
fn with_thread(rings: &Rings, test: impl FnOnce(&mut RingThread<'_, '_, '_>)) {
    let handler = Waits::new();
    std::thread::scope(|scope| {
        let threads = Threads {
            rings,
            scope,
            handler: &handler,
            failed: Arc::new(|e| panic!("{e}")),
        };
        test(&mut RingThread::new(&threads, &[0]).unwrap());
    });
}

#[test]
fn an_answer_to_a_request_that_is_gone_is_a_failure_only_while_the_connection_is_there() {
    if available().is_err() {
        return;
    }
    let dir = TempDir::new().unwrap();
    let Ok(mounted) = mount::mount(dir.path(), &MountOptions::default()) else {
        return;
    };
    let rings = Rings::new(mounted.fd, RingOptions { payload: 4096 }).unwrap();
    with_thread(&rings, |thread| {
        assert!(thread.refused(0, libc::ENOTCONN).is_ok());
        assert!(thread.refused(0, libc::ENOENT).is_err());
        mount::unmount(dir.path(), true).unwrap();
        assert!(comes_to_be(|| !connection::is_alive(&rings.fuse)));
        assert!(thread.refused(0, libc::ENOENT).is_ok());
    });
}

#[test]
fn a_thread_that_could_not_be_started_takes_no_place() {
    // Not a thing that takes commands.
    let file = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let rings = Rings::new(file, RingOptions { payload: 4096 }).unwrap();
    let counts = || {
        let queue = &rings.queues[0];
        let counts = [&queue.threads, &rings.others, &queue.waiting];
        counts.map(|count| count.load(Ordering::SeqCst))
    };
    let places: Vec<_> = (0..MOST).map(|_| rings.may_start_another(0)).collect();
    assert!(places.iter().all(Option::is_some));
    assert!(rings.may_start_another(0).is_none());
    assert_eq!(counts(), [MOST, MOST, 0]);
    drop(places);
    assert_eq!(counts(), [0, 0, 0]);
    if available().is_err() {
        return;
    }
    with_thread(&rings, |thread| {
        assert!(matches!(thread.register(), Err(Failure::Absent(_))));
        assert!(!thread.is_known);
    });
    let handler = Waits::new();
    std::thread::scope(|scope| {
        let place = rings.may_start_another(0).unwrap();
        let threads = Threads {
            rings: &rings,
            scope,
            handler: &handler,
            failed: Arc::new(|e| panic!("{e}")),
        };
        threads.start(vec![0], Some(place)).unwrap();
    });
    assert_eq!(counts(), [0, 0, 0]);
    // And not again for every request.
    assert!(rings.may_start_another(0).is_none());
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
