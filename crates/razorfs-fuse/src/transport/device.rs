//! /dev/fuse, read by a few threads.
//!
//! At most one thread, the reader, waits for requests. Having got a request it gives the role up,
//! carries the request out and takes the role again; so one program's requests stay on one warm
//! thread, and nobody else is woken for nothing. The others are parked. They step in when
//!
//! - requests come without a pause, so that there is work for more than one thread, or
//! - a whole tick has passed with a request being carried out and nobody reading. One parked
//!   thread, the deputy, looks for that; it stops looking while the device is idle.
//!
//! While one program asks for little things in a row, the reader is a companion of it; see
//! [`super::near`].

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{Scope, ScopedJoinHandle, Thread};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::thread::{Pid, gettid};

use super::near::{self, Near};
use super::{Handler, ReplySink, ReplyTo, Scratch, Transport};
use crate::clock::monotonic;
use crate::protocol;

/// Requests in a row without a pause after which another thread is called.
const ROW: u32 = 8;
/// How often the deputy looks whether somebody reads.
const TICK: Duration = Duration::from_millis(2);
/// Ticks without a request after which the deputy rests.
const QUIET_TICKS: u32 = 10;

/// How the device is served.
#[derive(Clone, Copy, Debug)]
pub struct DeviceOptions {
    /// Number of threads.
    pub threads: usize,
    /// Bytes of the largest message: the largest write and its headers.
    pub message: usize,
    /// Whether a program whose requests come in a row is served on its own core.
    pub stay_near: bool,
}

struct Channel {
    fd: OwnedFd,
}

impl ReplySink for Channel {
    fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        rustix::io::retry_on_intr(|| rustix::io::writev(&self.fd, parts))?;
        Ok(())
    }
}

/// The transport over /dev/fuse.
pub struct Device {
    channel: Arc<Channel>,
    options: DeviceOptions,
    /// Becomes readable when serving is to end although the mount is there; see
    /// [`Device::with_stop`].
    stop: Option<OwnedFd>,
    pub(super) near: Option<Near>,
    /// Whether somebody is the reader, the companion apart.
    reading: AtomicBool,
    /// Requests taken.
    taken: AtomicU64,
    /// Each by its number.
    workers: Vec<OnceLock<Worker>>,
    /// The number of the deputy.
    deputy: AtomicUsize,
    /// Whether the deputy waits without looking.
    resting: AtomicBool,
    /// Whether the companion has gone since the deputy last looked.
    left: AtomicBool,
    parked: Mutex<Parked>,
    wake: Condvar,
}

/// No worker's number.
const NOBODY: usize = usize::MAX;

struct Worker {
    thread: Thread,
    id: Pid,
}

impl Worker {
    fn current() -> Self {
        Self {
            thread: std::thread::current(),
            id: gettid(),
        }
    }
}

/// The workers that wait to be needed; the companion does not come near this.
#[derive(Default)]
struct Parked {
    threads: usize,
    /// Threads called that have not come yet.
    called: usize,
    ended: bool,
}

enum Took {
    Message(usize),
    Nothing,
    End,
}

impl Device {
    /// Serves the descriptor that the mount was made with.
    pub fn new(fd: OwnedFd, options: DeviceOptions) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        Ok(Self {
            channel: Arc::new(Channel { fd }),
            options,
            stop: None,
            near: options.stay_near.then(Near::new).flatten(),
            reading: AtomicBool::new(false),
            taken: AtomicU64::new(0),
            workers: (0..options.threads).map(|_| OnceLock::new()).collect(),
            deputy: AtomicUsize::new(NOBODY),
            resting: AtomicBool::new(false),
            left: AtomicBool::new(false),
            parked: Mutex::default(),
            wake: Condvar::new(),
        })
    }

    /// The same; [`Transport::end`] ends it even while nothing comes.
    pub fn with_stop(self) -> io::Result<Self> {
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        Ok(Self {
            stop: Some(stop),
            ..self
        })
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.channel.fd.as_fd()
    }

    fn take(&self, buf: &mut [u8]) -> io::Result<Took> {
        match rustix::io::read(&self.channel.fd, buf) {
            Ok(0) => Ok(Took::End),
            Ok(n) => {
                self.taken.fetch_add(1, Ordering::Relaxed);
                Ok(Took::Message(n))
            }
            // ENOENT: the request was taken back while it was copied.
            Err(Errno::AGAIN | Errno::INTR | Errno::NOENT) => Ok(Took::Nothing),
            Err(Errno::NODEV | Errno::CONNABORTED) => Ok(Took::End),
            Err(e) => Err(e.into()),
        }
    }

    /// The reader's part: returns with a message, at the end, or with nothing after `patience`.
    fn wait(&self, buf: &mut [u8], patience: Option<Duration>) -> io::Result<Took> {
        let patience = patience.map(|patience| Timespec {
            tv_sec: 0,
            tv_nsec: patience.subsec_nanos().into(),
        });
        // Two only where they are wanted: this is done for every request.
        let stop = self.stop.as_ref().map_or(self.fd(), OwnedFd::as_fd);
        let watched = 1 + usize::from(self.stop.is_some());
        loop {
            let mut fds = [self.fd(), stop].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
            let fds = fds.get_mut(..watched).unwrap_or_default();
            match poll(fds, patience.as_ref()) {
                Ok(0) => return Ok(Took::Nothing),
                Ok(_) if fds.get(1).is_some_and(|stop| !stop.revents().is_empty()) => {
                    return Ok(Took::End);
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            match self.take(buf)? {
                Took::Nothing => {}
                took => return Ok(took),
            }
        }
    }

    /// A worker's part: returns at the end. `me` is its number.
    fn work(&self, me: usize, handler: &dyn Handler) -> io::Result<()> {
        if let Some(worker) = self.workers.get(me) {
            worker.get_or_init(Worker::current);
        }
        let mut buf = vec![0; self.options.message];
        let mut scratch = Scratch::default();
        let mut row = 0;
        loop {
            let n = match self.take(&mut buf)? {
                Took::Message(n) => {
                    row += 1;
                    if row == ROW {
                        row = 0;
                        self.call();
                    }
                    n
                }
                Took::End => return Ok(()),
                Took::Nothing => {
                    row = 0;
                    if self.is_near() || self.reading.swap(true, Ordering::SeqCst) {
                        if self.park(me) {
                            return Ok(());
                        }
                        continue;
                    }
                    let took = self.wait(&mut buf, None);
                    self.reading.store(false, Ordering::SeqCst);
                    match took? {
                        Took::Message(n) => {
                            self.rouse();
                            n
                        }
                        Took::Nothing => continue,
                        Took::End => return Ok(()),
                    }
                }
            };
            let message = buf.get(..n).unwrap_or_default();
            drop(handler.handle(message, ReplyTo(self.sink()), &mut scratch));
            if let Some(near) = &self.near
                && !self.reading.load(Ordering::SeqCst)
            {
                near.seen(message);
            }
        }
    }

    /// The companion's part: returns at the end.
    fn accompany(&self, near: &Near, handler: &dyn Handler) -> io::Result<()> {
        if !near.be_companion() {
            // Then there is none; the others serve.
            return Ok(());
        }
        let mut buf = vec![0; self.options.message];
        let mut scratch = Scratch::default();
        let worker = || self.workers.iter().find_map(|w| w.get()).map(|w| w.id);
        while let Some(mut visit) = near.wait(worker()) {
            let mut stays = near.follow(&mut visit);
            // Looked at after it moved, which undoes what the dismissal did.
            while stays && near.is_wanted(&visit) {
                match self.wait(&mut buf, Some(near::ROW))? {
                    Took::Message(n) => {
                        self.rouse();
                        let message = buf.get(..n).unwrap_or_default();
                        drop(handler.handle(message, ReplyTo(self.sink()), &mut scratch));
                        stays = near.stays(&mut visit, message);
                    }
                    Took::Nothing => stays = false,
                    // The others see it as well.
                    Took::End => return Ok(()),
                }
            }
            near.leave(&visit);
            self.left.store(true, Ordering::SeqCst);
            self.wake_deputy();
        }
        Ok(())
    }

    /// Whether a message waits to be read.
    fn is_asked(&self) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(self.fd(), PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Whether the companion reads.
    fn is_near(&self) -> bool {
        self.near.as_ref().is_some_and(Near::is_here)
    }

    /// There is work for one more.
    fn call(&self) {
        let mut parked = self.parked.lock();
        if parked.threads > parked.called {
            parked.called += 1;
            drop(parked);
            if !self.wake.notify_one() {
                self.wake_deputy();
            }
        }
    }

    /// The device is not idle any more.
    fn rouse(&self) {
        if self.resting.load(Ordering::SeqCst) {
            self.wake_deputy();
        }
    }

    /// Takes no lock: the companion does this too.
    fn wake_deputy(&self) {
        let deputy = self.deputy.load(Ordering::SeqCst);
        if let Some(worker) = self.workers.get(deputy).and_then(OnceLock::get) {
            worker.thread.unpark();
        }
    }

    /// Waits to be needed; true at the end. `me` is the number of this worker.
    fn park(&self, me: usize) -> bool {
        let mut parked = self.parked.lock();
        parked.threads += 1;
        let mut watch = None;
        while !parked.ended && parked.called == 0 {
            if watch.is_none() && self.deputy.load(Ordering::SeqCst) != NOBODY {
                self.wake.wait(&mut parked);
                continue;
            }
            self.deputy.store(me, Ordering::SeqCst);
            drop(parked);
            let watch = watch.get_or_insert_with(|| Watch::new(self));
            let needed = self.look(watch);
            parked = self.parked.lock();
            if needed {
                break;
            }
        }
        parked.threads -= 1;
        parked.called = parked.called.saturating_sub(1);
        if watch.is_some() {
            self.deputy.store(NOBODY, Ordering::SeqCst);
            if parked.threads > 0 {
                self.wake.notify_one();
            }
        }
        parked.ended
    }

    /// The deputy's part: waits for a tick, or to be woken, and says whether somebody has to read.
    fn look(&self, watch: &mut Watch) -> bool {
        if watch.quiet >= QUIET_TICKS {
            self.resting.store(true, Ordering::SeqCst);
            // Either the reader sees that we rest, or we see that it has left.
            if self.reading.load(Ordering::SeqCst) && !self.is_near() {
                std::thread::park();
            }
            self.resting.store(false, Ordering::SeqCst);
            *watch = Watch::new(self);
            return false;
        }
        std::thread::park_timeout(TICK);
        let reading = self.reading.load(Ordering::SeqCst);
        if self.left.swap(false, Ordering::SeqCst) && !reading && !self.is_near() {
            return true;
        }
        let taken = self.taken.load(Ordering::Relaxed);
        if taken != watch.taken {
            *watch = Watch::new(self);
            return false;
        }
        if monotonic() - watch.since < TICK.as_nanos() as u64 {
            // Woken for something else.
            return false;
        }
        if let Some(near) = self.near.as_ref().filter(|near| near.is_here()) {
            // It goes by itself after a pause half as long.
            near.dismiss(self.is_asked());
            return true;
        }
        watch.since = monotonic();
        watch.quiet += 1;
        !reading
    }

    /// Nobody waits to be needed any more.
    fn dismiss_all(&self) {
        self.parked.lock().ended = true;
        self.wake.notify_all();
        self.wake_deputy();
        if let Some(near) = &self.near {
            near.end();
        }
    }
}

/// What the deputy has seen.
struct Watch {
    /// Requests taken, since when no other was, and ticks since then.
    taken: u64,
    since: u64,
    quiet: u32,
}

impl Watch {
    fn new(device: &Device) -> Self {
        Self {
            taken: device.taken.load(Ordering::Relaxed),
            since: monotonic(),
            quiet: 0,
        }
    }
}

/// Starts a thread. With fewer than wanted it is slower, and that is all.
fn start<'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: String,
    run: impl FnOnce() -> io::Result<()> + Send + 'scope,
) -> Option<ScopedJoinHandle<'scope, io::Result<()>>> {
    let builder = std::thread::Builder::new().name(name.clone());
    let started = builder.spawn_scoped(scope, run);
    started
        .inspect_err(|e| tracing::warn!("the thread {name} cannot be started: {e}"))
        .ok()
}

impl Transport for Device {
    fn serve(&self, handler: &dyn Handler) -> io::Result<()> {
        let run = &|me| {
            let result = self.work(me, handler);
            // The end is the same for all; an error ends all as well.
            self.dismiss_all();
            result
        };
        std::thread::scope(|scope| {
            let mut others = Vec::new();
            for n in 1..self.options.threads {
                others.extend(start(scope, format!("fuse-{n}"), move || run(n)));
            }
            if let Some(near) = &self.near {
                let accompany = move || self.accompany(near, handler);
                others.extend(start(scope, "fuse-near".to_owned(), accompany));
            }
            let mut result = run(0);
            for other in others {
                let other = other.join();
                let other = other.unwrap_or_else(|_| Err(io::Error::other("a worker panicked")));
                result = result.and(other);
            }
            result
        })
    }

    fn serve_resent(&self, handler: &dyn Handler) -> io::Result<()> {
        let mut buf = vec![0; self.options.message];
        let mut scratch = Scratch::default();
        loop {
            let n = match self.take(&mut buf)? {
                Took::Message(n) => n,
                // A message that was taken back is not the last one.
                Took::Nothing if self.is_asked() => continue,
                Took::Nothing | Took::End => return Ok(()),
            };
            let message = buf.get(..n).unwrap_or_default();
            drop(handler.handle(message, ReplyTo(self.sink()), &mut scratch));
            if protocol::is_first_sent(message) {
                return Ok(());
            }
        }
    }

    fn sink(&self) -> Arc<dyn ReplySink> {
        self.channel.clone()
    }

    fn end(&self) {
        if let Some(stop) = &self.stop {
            // It cannot overflow: this is written once or twice.
            let _ = rustix::io::write(stop, &1u64.to_ne_bytes());
        }
        self.dismiss_all();
    }
}
