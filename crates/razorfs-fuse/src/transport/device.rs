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
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::near::{self, Near};
use super::{Handler, ReplySink, ReplyTo, Scratch, Transport};

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
    near: Option<Near>,
    /// Whether somebody is the reader, the companion apart.
    reading: AtomicBool,
    /// Requests taken.
    taken: AtomicU64,
    /// Whether the deputy waits without looking.
    resting: AtomicBool,
    parked: Mutex<Parked>,
    wake: Condvar,
}

#[derive(Default)]
struct Parked {
    threads: usize,
    /// Threads called that have not come yet.
    called: usize,
    deputy: bool,
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
            near: options.stay_near.then(Near::new).flatten(),
            reading: AtomicBool::new(false),
            taken: AtomicU64::new(0),
            resting: AtomicBool::new(false),
            parked: Mutex::default(),
            wake: Condvar::new(),
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
        loop {
            let mut fds = [PollFd::from_borrowed_fd(self.fd(), PollFlags::IN)];
            match poll(&mut fds, patience.as_ref()) {
                Ok(0) => return Ok(Took::Nothing),
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            match self.take(buf)? {
                Took::Nothing => {}
                took => return Ok(took),
            }
        }
    }

    fn work(&self, handler: &dyn Handler) -> io::Result<()> {
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
                        if self.park() {
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
            if let Some(near) = &self.near {
                near.seen(message);
            }
            handler.handle(message, ReplyTo(self.sink()), &mut scratch);
        }
    }

    /// The companion's part: returns at the end.
    fn accompany(&self, near: &Near, handler: &dyn Handler) -> io::Result<()> {
        if !near.be_companion() {
            // Then there is none; the others serve until the end.
            return Ok(());
        }
        let mut buf = vec![0; self.options.message];
        let mut scratch = Scratch::default();
        while let Some(mut visit) = near.wait() {
            let mut stays = near.follow(&mut visit);
            while stays && near.is_wanted(&visit) {
                let n = match self.wait(&mut buf, Some(near::ROW))? {
                    Took::Message(n) => n,
                    Took::Nothing => break,
                    Took::End => {
                        self.end();
                        return Ok(());
                    }
                };
                self.rouse();
                let message = buf.get(..n).unwrap_or_default();
                stays = near.stays(&mut visit, message);
                handler.handle(message, ReplyTo(self.sink()), &mut scratch);
            }
            near.leave(&visit);
            // Somebody else has to read.
            self.call();
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
            self.wake.notify_one();
        }
    }

    /// The device is not idle any more.
    fn rouse(&self) {
        if self.resting.load(Ordering::SeqCst) {
            let _parked = self.parked.lock();
            self.wake.notify_all();
        }
    }

    /// Waits to be needed; true at the end.
    fn park(&self) -> bool {
        let mut parked = self.parked.lock();
        parked.threads += 1;
        let mut deputy = false;
        let mut seen = self.taken.load(Ordering::Relaxed);
        let mut quiet = 0;
        while !parked.ended && parked.called == 0 {
            if !deputy && !parked.deputy {
                parked.deputy = true;
                deputy = true;
            }
            if !deputy {
                self.wake.wait(&mut parked);
                continue;
            }
            if quiet >= QUIET_TICKS {
                self.resting.store(true, Ordering::SeqCst);
                // Either the reader sees that we rest, or we see that it has left.
                if self.reading.load(Ordering::SeqCst) && !self.is_near() {
                    self.wake.wait(&mut parked);
                }
                self.resting.store(false, Ordering::SeqCst);
                quiet = 0;
                continue;
            }
            if !self.wake.wait_for(&mut parked, TICK).timed_out() {
                continue;
            }
            let now = self.taken.load(Ordering::Relaxed);
            if now != seen {
                seen = now;
                quiet = 0;
            } else if let Some(near) = self.near.as_ref().filter(|near| near.is_here()) {
                // It goes by itself after a pause half as long.
                near.dismiss(self.is_asked());
                break;
            } else if self.reading.load(Ordering::SeqCst) {
                quiet += 1;
            } else {
                break;
            }
        }
        parked.threads -= 1;
        parked.called = parked.called.saturating_sub(1);
        if deputy {
            parked.deputy = false;
            if parked.threads > 0 {
                self.wake.notify_one();
            }
        }
        parked.ended
    }

    fn end(&self) {
        self.parked.lock().ended = true;
        self.wake.notify_all();
        if let Some(near) = &self.near {
            near.end();
        }
    }
}

impl Transport for Device {
    fn serve(&self, handler: &dyn Handler) -> io::Result<()> {
        let run = || {
            let result = self.work(handler);
            // The end is the same for all; an error ends all as well.
            self.end();
            result
        };
        std::thread::scope(|scope| {
            let mut others = Vec::new();
            for n in 1..self.options.threads {
                let name = format!("fuse-{n}");
                others.push(
                    std::thread::Builder::new()
                        .name(name)
                        .spawn_scoped(scope, run)?,
                );
            }
            if let Some(near) = &self.near {
                let accompany = move || {
                    let result = self.accompany(near, handler);
                    // The end is the same for all; where there is no companion, nothing has ended.
                    if result.is_err() {
                        self.end();
                    }
                    result
                };
                let builder = std::thread::Builder::new().name("fuse-near".to_owned());
                others.push(builder.spawn_scoped(scope, accompany)?);
            }
            let mut result = run();
            for other in others {
                let other = other.join();
                let other = other.unwrap_or_else(|_| Err(io::Error::other("a worker panicked")));
                result = result.and(other);
            }
            result
        })
    }

    fn sink(&self) -> Arc<dyn ReplySink> {
        self.channel.clone()
    }
}
