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
mod ring;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Scope;

use parking_lot::{Condvar, Mutex};
use rustix::event::{EventfdFlags, eventfd};
use rustix::thread::gettid;

use super::cores::Cores;
use super::{Handler, Scratch};
use crate::protocol::data_of;
use entry::Entry;
use ring::{Ring, Sqe};

/// Threads of one queue that are to wait while others carry requests out. More than one: a request
/// that finds none goes to whoever is ready next with its own, and not to a thread that comes.
const SPARE: usize = 3;
/// Threads of one queue besides the first: requests beyond what they carry out at a time wait in
/// the kernel.
const MOST: usize = 32;
/// Those of all queues together.
const MOST_OTHERS: usize = 64;
/// Bytes from which a request is large, and after how many of those in a row a thread runs on any
/// core: they take long enough for two cores to be of use.
const LARGE: u64 = 32 << 10;
const LARGE_ONES: u32 = 4;
/// Threads of a queue that keep the memory that large requests need.
const KEEPING: usize = 4;

const OP_POLL_ADD: u8 = 6;
/// What the answer to the poll is known by.
const STOP: u64 = u64::MAX;

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
    gate: Mutex<Gate>,
    changed: Condvar,
}

/// The threads of one queue.
#[derive(Default)]
struct Queue {
    threads: AtomicUsize,
    /// Those that wait for a request.
    waiting: AtomicUsize,
}

/// How far the first threads of all queues are.
#[derive(Default)]
struct Gate {
    /// How many there are, have what they need, and are known to the kernel.
    threads: usize,
    built: usize,
    registered: usize,
    failed: Option<String>,
    /// Whether they are to go on.
    go: Option<bool>,
}

/// The parameter of the kernel's FUSE that switches this on.
const PARAMETER: &str = "/sys/module/fuse/parameters/enable_uring";

/// Whether requests could come over io_uring here.
pub fn available() -> Result<(), NoRings> {
    is_switched_on(std::fs::read_to_string(PARAMETER).ok().as_deref())?;
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
            gate: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Starts the first threads, and returns when they have what they need; they wait for
    /// [`Rings::register`]. `failed` is called if one cannot go on later.
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
        self.gate.lock().threads = sets.len();
        let threads = Threads {
            rings: self,
            scope,
            handler,
            failed,
        };
        for queues in sets {
            if let Err(e) = threads.start(queues, true) {
                self.fail(&e);
            }
        }
        self.wait_for(|gate| gate.built == gate.threads)
    }

    /// Tells the kernel, which has been answered INIT, of the threads; requests come that way from
    /// now on. If this fails they come over /dev/fuse.
    pub fn register(&self) -> Result<(), NoRings> {
        self.let_go(true);
        self.wait_for(|gate| gate.registered == gate.threads)
    }

    /// Has all threads end; those that carry out a request, then.
    pub fn end(&self) {
        self.let_go(false);
        // It cannot overflow: this is the only thing ever written.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
    }

    fn let_go(&self, on: bool) {
        self.gate.lock().go.get_or_insert(on);
        self.changed.notify_all();
    }

    fn wait_for(&self, there: impl Fn(&Gate) -> bool) -> Result<(), NoRings> {
        let mut gate = self.gate.lock();
        loop {
            if let Some(why) = &gate.failed {
                return Err(NoRings(why.clone()));
            }
            if there(&gate) {
                return Ok(());
            }
            self.changed.wait(&mut gate);
        }
    }

    fn fail(&self, e: &io::Error) {
        self.gate.lock().failed = Some(format!("a ring of requests cannot be set up ({e})"));
        self.changed.notify_all();
    }

    fn queue(&self, number: u16) -> Option<&Queue> {
        self.queues.get(usize::from(number))
    }

    /// Takes the right to start one more thread for a queue.
    fn may_start_another(&self, queue: &Queue) -> bool {
        let below = |most: usize| move |n: usize| (n < most).then_some(n + 1);
        let relaxed = Ordering::Relaxed;
        if queue
            .threads
            .fetch_update(relaxed, relaxed, below(MOST))
            .is_err()
        {
            return false;
        }
        let free = self
            .others
            .fetch_update(relaxed, relaxed, below(MOST_OTHERS));
        if free.is_err() {
            queue.threads.fetch_sub(1, relaxed);
        }
        free.is_ok()
    }
}

/// What starts threads.
#[derive(Clone)]
struct Threads<'scope, 'env> {
    rings: &'scope Rings,
    scope: &'scope Scope<'scope, 'env>,
    handler: &'scope dyn Handler,
    failed: Arc<dyn Fn(io::Error) + Send + Sync>,
}

impl<'scope> Threads<'scope, '_> {
    /// Starts a thread for these queues, which is one or all that are absent.
    fn start(&self, queues: Vec<u16>, first: bool) -> io::Result<()> {
        let name = match &*queues {
            [queue] => format!("fuse-ring-{queue}"),
            _ => "fuse-rings".to_owned(),
        };
        let threads = self.clone();
        let run = move || {
            let work = AssertUnwindSafe(|| threads.run(&queues, first));
            let ended = std::panic::catch_unwind(work)
                .unwrap_or_else(|_| Err(io::Error::other("a thread of a ring panicked")));
            if let Err(e) = ended {
                (threads.failed)(e);
            }
        };
        std::thread::Builder::new()
            .name(name)
            .spawn_scoped(self.scope, run)?;
        Ok(())
    }

    /// A thread's life.
    fn run(&self, queues: &[u16], first: bool) -> io::Result<()> {
        let rings = self.rings;
        let mut thread = match RingThread::new(self, queues) {
            Ok(thread) => thread,
            Err(e) if first => {
                rings.fail(&e);
                return Ok(());
            }
            Err(e) => {
                tracing::warn!("one thread less serves the mount: {e}");
                return Ok(());
            }
        };
        if first && !thread.is_let_in() {
            return Ok(());
        }
        let registered = thread.register();
        if first {
            if let Err(e) = &registered {
                rings.fail(e);
                return Ok(());
            }
            rings.gate.lock().registered += 1;
            rings.changed.notify_all();
        } else if registered.is_err() {
            // Unmounted meanwhile.
            return Ok(());
        }
        thread.serve()
    }
}

/// A thread with its ring.
struct RingThread<'a, 'scope, 'env> {
    threads: &'a Threads<'scope, 'env>,
    // Gone before what the kernel writes to.
    ring: Ring,
    entries: Vec<Entry>,
    /// Entries that the kernel knows.
    living: usize,
    /// Whether it keeps memory for large requests.
    keeps: bool,
    /// The only core that it runs on.
    core: Option<usize>,
    /// Large requests in a row.
    large: u32,
}

impl<'a, 'scope, 'env> RingThread<'a, 'scope, 'env> {
    fn new(threads: &'a Threads<'scope, 'env>, queues: &[u16]) -> io::Result<Self> {
        let rings = threads.rings;
        let entry = |&queue: &u16| Entry::new(queue, rings.options.payload);
        let entries: Vec<Entry> = queues.iter().map(entry).collect::<io::Result<_>>()?;
        // And one for the poll.
        let ring = Ring::new(u32::try_from(entries.len() + 1).unwrap_or(u32::MAX))?;
        let of_queue =
            |entry: &Entry| Some(rings.queue(entry.queue)?.threads.load(Ordering::Relaxed));
        let keeps = entries
            .iter()
            .all(|entry| of_queue(entry).is_some_and(|n| n <= KEEPING));
        Ok(Self {
            threads,
            ring,
            entries,
            living: 0,
            keeps,
            core: None,
            large: 0,
        })
    }

    /// Goes to the core of its queue, and stays there; or leaves it for any.
    fn place(&mut self, stays: bool) {
        let cores = &self.threads.rings.cores;
        match (&*self.entries, self.core) {
            ([entry], None) if stays => {
                let core = usize::from(entry.queue);
                // Where it may not, it is slower and that is all.
                self.core = cores.pin(gettid(), core).then_some(core);
            }
            (_, Some(_)) if !stays => {
                cores.unpin(gettid());
                self.core = None;
            }
            _ => {}
        }
    }

    /// It has carried out a request of this size.
    fn served(&mut self, bytes: u64) {
        self.large = if bytes < LARGE {
            0
        } else {
            self.large.saturating_add(1)
        };
        if self.large == 0 || self.large == LARGE_ONES {
            self.place(self.large == 0);
        }
    }

    /// Has the host take memory back that was used for something large. What waits to be handed
    /// over is handed over first, and a request that comes with that may be in the memory.
    fn give_back(&mut self) -> io::Result<()> {
        let large = |entry: &mut Entry| entry.was_large();
        if self.keeps || !self.entries.iter_mut().map(large).fold(false, |a, b| a | b) {
            return Ok(());
        }
        self.ring.enter(0)?;
        if self.ring.peek().is_none() {
            self.entries.iter().for_each(Entry::give_back);
        }
        Ok(())
    }

    /// Says that all is there, and waits to be told whether it is needed.
    fn is_let_in(&self) -> bool {
        let rings = self.threads.rings;
        let mut gate = rings.gate.lock();
        gate.built += 1;
        rings.changed.notify_all();
        loop {
            if let Some(go) = gate.go {
                return go;
            }
            rings.changed.wait(&mut gate);
        }
    }

    fn register(&mut self) -> io::Result<()> {
        let rings = self.threads.rings;
        let (fuse, stop) = (rings.fuse.as_raw_fd(), rings.stop.as_fd());
        let poll = Sqe {
            op_flags: libc::POLLIN as u32,
            ..Sqe::new(OP_POLL_ADD, stop.as_raw_fd(), STOP)
        };
        self.ring.push(poll);
        for (n, entry) in self.entries.iter().enumerate() {
            self.ring.push(entry.register(fuse, n as u64));
            self.living += 1;
            if let Some(queue) = rings.queue(entry.queue) {
                queue.waiting.fetch_add(1, Ordering::SeqCst);
            }
        }
        self.ring.enter(0)?;
        // What was refused is answered by now, and what was not is not, unless a request is there.
        let refused = self.ring.peek().filter(|answer| answer.result < 0);
        refused.map_or(Ok(()), |answer| {
            Err(io::Error::from_raw_os_error(-answer.result))
        })
    }

    /// Serves until the mount is gone.
    fn serve(&mut self) -> io::Result<()> {
        let mut scratch = Scratch::default();
        self.place(true);
        while self.living > 0 {
            self.give_back()?;
            self.ring.enter(1)?;
            while let Some(answer) = self.ring.answer() {
                if answer.user_data == STOP {
                    return Ok(());
                }
                if answer.result < 0 {
                    self.lost(-answer.result)?;
                } else {
                    self.carry_out(answer.user_data, &mut scratch);
                }
            }
        }
        Ok(())
    }

    /// The kernel has let go of an entry: that is the end of the mount, or something is wrong.
    fn lost(&mut self, errno: i32) -> io::Result<()> {
        self.living = self.living.saturating_sub(1);
        let expected = [libc::ENOTCONN, libc::ECONNABORTED, libc::ECANCELED];
        if expected.contains(&errno) {
            return Ok(());
        }
        Err(io::Error::from_raw_os_error(errno))
    }

    fn carry_out(&mut self, number: u64, scratch: &mut Scratch) {
        let rings = self.threads.rings;
        let Some(entry) = self.entries.get_mut(number as usize) else {
            return;
        };
        let Some(queue) = rings.queue(entry.queue) else {
            return;
        };
        let left = queue.waiting.fetch_sub(1, Ordering::SeqCst) - 1;
        if left < SPARE && rings.may_start_another(queue) {
            // With fewer it is slower, and that is all.
            if let Err(e) = self.threads.start(vec![entry.queue], false) {
                tracing::warn!("one thread less serves the mount: {e}");
            }
        }
        let handler = self.threads.handler;
        let mut bytes = 0;
        entry.serve(&mut |message, reply| {
            bytes = data_of(message);
            handler.handle(message, reply, scratch);
        });
        queue.waiting.fetch_add(1, Ordering::SeqCst);
        let commit = entry.commit(rings.fuse.as_raw_fd(), number);
        // There is room: what was put before has been taken.
        self.ring.push(commit);
        self.served(bytes);
    }
}
