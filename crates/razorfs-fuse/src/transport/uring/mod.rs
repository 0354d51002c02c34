//! FUSE over io_uring: the kernel puts requests into our memory and wakes one thread.
//!
//! The kernel keeps a queue for each core that there can be, and a program's requests go to that of
//! its core. A thread that runs there serves them: nobody else's core has to be woken, and one
//! system call hands an answer over and waits for the next request.
//!
//! A thread serves one request at a time, and waits until it is answered, also where that is done
//! by another thread later (fsync). So that a queue is not held up by a request that waits for the
//! disk, each has a few more threads than requests are being carried out: whoever takes a request
//! and leaves fewer waiting starts one. The kernel takes the thread that has waited for the
//! shortest time, so one program stays with one thread, however many there are.
//!
//! INIT, FORGET, INTERRUPT and notifications stay on /dev/fuse ([`super::Device`]). Until INIT is
//! answered the kernel sends nothing else; then it waits until all queues have a thread.

mod entry;
mod gate;
mod ring;
#[cfg(test)]
mod tests;
mod thread;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::Scope;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};

use super::Handler;
use super::cores::Cores;
use crate::clock::monotonic;
use crate::connection;
use entry::{Entry, Slot};
pub use gate::NotRegistered;
use gate::{Failure, Gate};
use ring::Ring;
use thread::Threads;

/// Threads of one queue that are to wait while others carry requests out. More than one: a request
/// that finds none goes to whoever is ready next with its own, and not to a thread that comes.
const SPARE: usize = 3;
/// Threads of one queue besides the first: requests beyond what they carry out at a time wait in
/// the kernel.
const MOST: usize = 32;
/// Those of all queues together.
const MOST_OTHERS: usize = 64;
/// After one could not be started, for so long no other is.
const PAUSE: Duration = Duration::from_secs(1);
/// What the kernel refuses for the moment is tried again so often, with so much time between.
const TRIES: u32 = 1000;
const BETWEEN_TRIES: Duration = Duration::from_millis(5);

/// How the rings are made.
#[derive(Clone, Copy, Debug)]
pub struct RingOptions {
    /// Bytes of the largest payload: the largest write or read.
    pub payload: usize,
}

/// Why requests cannot come over io_uring. The text says what to do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoRings(String);

impl NoRings {
    /// The kernel has it and does not offer it for this mount.
    #[must_use]
    pub fn not_offered() -> Self {
        Self("the kernel does not offer FUSE over io_uring for this mount".to_owned())
    }
}

/// The rings of a mount.
pub struct Rings {
    fuse: OwnedFd,
    /// Becomes readable when the threads are to end.
    stop: OwnedFd,
    options: RingOptions,
    /// Where threads of ours may run.
    cores: Cores,
    /// One for each core that there can be.
    queues: Vec<Queue>,
    others: AtomicUsize,
    /// When further threads may be started, in nanoseconds of the clock.
    pause_ends: AtomicU64,
    gate: Gate,
    /// Memory of threads that have ended. A kernel may write there as long as the connection is
    /// open, although the ring is not, so this is behind the descriptor.
    kept: Mutex<Vec<Arc<Slot>>>,
}

/// The threads of one queue.
#[derive(Default)]
struct Queue {
    threads: AtomicUsize,
    /// Those that wait for a request.
    waiting: AtomicUsize,
}

/// The parameter of the kernel's FUSE that switches this on.
const PARAMETER: &str = "/sys/module/fuse/parameters/enable_uring";

/// Whether requests could come over io_uring here.
pub fn available() -> Result<(), NoRings> {
    // Where FUSE is a module that nobody has used yet, this loads it, and the parameter is there.
    let device = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse");
    let parameter = std::fs::read_to_string(PARAMETER).ok();
    if let (Err(e), None) = (&device, &parameter) {
        return Err(NoRings(format!("/dev/fuse cannot be opened ({e})")));
    }
    is_switched_on(parameter.as_deref())?;
    if possible_cores().is_none() {
        let why = "how many cores there can be is not told in /sys/devices/system/cpu/possible";
        return Err(NoRings(why.to_owned()));
    }
    match Ring::new(2) {
        Ok(_) => Ok(()),
        Err(e) => Err(NoRings(format!(
            "no io_uring can be made ({e}); see `sysctl kernel.io_uring_disabled`, and in a \
             container what it is allowed to call"
        ))),
    }
}

/// Whether it is, by the value of the kernel's parameter.
fn is_switched_on(parameter: Option<&str>) -> Result<(), NoRings> {
    let why = match parameter.map(str::trim) {
        Some("Y" | "1") => return Ok(()),
        Some(_) => {
            "FUSE over io_uring is switched off; as root run \
             `echo Y > /sys/module/fuse/parameters/enable_uring`"
        }
        None => "the kernel has no FUSE over io_uring, which is since Linux 6.14",
    };
    Err(NoRings(why.to_owned()))
}

/// How many cores there can be: so many queues the kernel has.
fn possible_cores() -> Option<usize> {
    count(&std::fs::read_to_string("/sys/devices/system/cpu/possible").ok()?)
}

/// The numbers in a list such as `0-3,8`.
fn count(list: &str) -> Option<usize> {
    let mut cores = 0;
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        cores += last.checked_sub(first)? + 1;
    }
    // Queues have numbers of 16 bits.
    (cores <= usize::from(u16::MAX)).then_some(cores)
}

impl Rings {
    /// For the connection to the kernel that the mount was made with.
    pub fn new(fuse: OwnedFd, options: RingOptions) -> io::Result<Self> {
        let queues = possible_cores().ok_or_else(|| io::Error::other("no list of cores"))?;
        Ok(Self {
            fuse,
            stop: eventfd(0, EventfdFlags::CLOEXEC)?,
            options,
            cores: Cores::of(None)?,
            queues: (0..queues).map(|_| Queue::default()).collect(),
            others: AtomicUsize::new(0),
            pause_ends: AtomicU64::new(0),
            gate: Gate::default(),
            kept: Mutex::default(),
        })
    }

    /// Starts the first threads, and returns when they have what they need; they wait for
    /// [`Rings::register`]. `failed` is called if one cannot go on later: whoever waits for what it
    /// has in hand waits until the connection ends.
    pub fn start<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        handler: &'scope dyn Handler,
        failed: Arc<dyn Fn(io::Error) + Send + Sync>,
    ) -> Result<(), NoRings> {
        let all = 0..self.queues.len() as u16;
        let (ours, absent): (Vec<u16>, Vec<u16>) =
            all.partition(|&queue| self.cores.has(usize::from(queue)));
        // Nobody runs on a core that is absent, as a rule: one thread is enough for all of them.
        let sets = ours.into_iter().map(|queue| vec![queue]);
        let sets = sets.chain((!absent.is_empty()).then_some(absent));
        let sets: Vec<Vec<u16>> = sets.collect();
        self.gate.expect(sets.len());
        let threads = Threads {
            rings: self,
            scope,
            handler,
            failed,
        };
        for queues in sets {
            if let Err(e) = threads.start(queues, None) {
                self.gate.fail(Failure::absent(&e));
            }
        }
        self.gate
            .all_built()
            .map_err(|(Failure::Absent(why) | Failure::Doubtful(why))| NoRings(why))
    }

    /// Tells the kernel, which has been answered INIT, of the threads; requests come that way from
    /// now on. If this fails none does, and the threads are to end.
    pub fn register(&self) -> Result<(), NotRegistered> {
        self.gate.let_go(true);
        match self.gate.all_registered() {
            Ok(()) => Ok(()),
            Err(Failure::Absent(why)) => {
                self.refuse().map_err(NotRegistered::Unknown)?;
                Err(NotRegistered::Refused(NoRings(why)))
            }
            Err(Failure::Doubtful(why)) => Err(NotRegistered::Unknown(io::Error::other(why))),
        }
    }

    /// Has the kernel do without rings. It waits for all queues to have a thread until it has
    /// refused one, and what failed may not have come that far: here is one for a queue that
    /// cannot be.
    fn refuse(&self) -> io::Result<()> {
        let mut ring = Ring::new(1)?;
        let entry = Entry::new(u16::MAX, self.options.payload)?;
        for _ in 0..TRIES {
            ring.push(entry.register(self.fuse.as_raw_fd(), 0));
            ring.enter(1)?;
            let errno = ring.answer().map_or(0, |answer| -answer.result);
            match errno {
                libc::EINVAL => return Ok(()),
                // Memory, which the kernel's FUSE may not have been asked for yet.
                libc::ENOMEM | libc::EAGAIN => std::thread::sleep(BETWEEN_TRIES),
                _ if !connection::is_alive(&self.fuse) => return Ok(()),
                errno => return Err(io::Error::from_raw_os_error(errno)),
            }
        }
        Err(io::Error::from_raw_os_error(libc::ENOMEM))
    }

    /// Has all threads end; those that carry out a request, then.
    pub fn end(&self) {
        self.gate.let_go(false);
        // It cannot overflow: this is the only thing ever written.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
    }

    /// Puts another file in the place of the connection that the threads hand answers to.
    #[cfg(test)]
    #[expect(unsafe_code, reason = "the descriptor has an owner already")]
    pub(crate) fn put_instead(&self, file: impl std::os::fd::AsFd) {
        use std::os::fd::FromRawFd as _;
        // SAFETY: it is open as long as this lives, and not closed here.
        let fuse = unsafe { OwnedFd::from_raw_fd(self.fuse.as_raw_fd()) };
        let mut fuse = std::mem::ManuallyDrop::new(fuse);
        let put = rustix::io::dup3(file, &mut fuse, rustix::io::DupFlags::CLOEXEC);
        assert!(put.is_ok(), "{put:?}");
    }

    fn queue(&self, number: u16) -> Option<&Queue> {
        self.queues.get(usize::from(number))
    }

    /// Takes the right to start one more thread for a queue.
    fn may_start_another(&self, number: u16) -> Option<Place<'_>> {
        let queue = self.queue(number)?;
        if monotonic() < self.pause_ends.load(Ordering::Relaxed) {
            return None;
        }
        let take = |count: &AtomicUsize, most: usize| {
            let below = |n: usize| (n < most).then_some(n + 1);
            let taken = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below);
            taken.is_ok()
        };
        if !take(&queue.threads, MOST) {
            return None;
        }
        if !take(&self.others, MOST_OTHERS) {
            queue.threads.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Place { rings: self, queue })
    }

    /// A thread could not be started: with fewer it is slower, and that is all.
    fn one_less(&self, e: &io::Error) {
        let pause_ends = monotonic() + PAUSE.as_nanos() as u64;
        self.pause_ends.store(pause_ends, Ordering::Relaxed);
        tracing::warn!("one thread less serves the mount: {e}");
    }
}

/// The right to a thread besides the first ones, until it is dropped.
struct Place<'a> {
    rings: &'a Rings,
    queue: &'a Queue,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.queue.threads.fetch_sub(1, Ordering::Relaxed);
        self.rings.others.fetch_sub(1, Ordering::Relaxed);
    }
}
