//! The threads of the rings: each waits for a request, carries it out and hands the answer over.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::Scope;

use rustix::thread::gettid;

use super::entry::Entry;
use super::gate::Failure;
use super::ring::{Ring, Sqe};
use super::{BETWEEN_TRIES, Handler, Place, Rings, SPARE, TRIES};
use crate::connection;
use crate::protocol::data_of;
use crate::transport::Scratch;
use crate::underway::Unanswered;

/// Bytes from which a request is large, and after how many of those in a row a thread runs on any
/// core: they take long enough for two cores to be of use.
const LARGE: u64 = 32 << 10;
const LARGE_ONES: u32 = 4;
/// Threads of a queue that keep the memory that large requests need.
const KEEPING: usize = 4;

const OP_POLL_ADD: u8 = 6;
/// What the answer to the poll is known by.
const STOP: u64 = u64::MAX;

/// What starts threads.
#[derive(Clone)]
pub(super) struct Threads<'scope, 'env> {
    pub(super) rings: &'scope Rings,
    pub(super) scope: &'scope Scope<'scope, 'env>,
    pub(super) handler: &'scope dyn Handler,
    pub(super) failed: Arc<dyn Fn(io::Error) + Send + Sync>,
}

impl<'scope> Threads<'scope, '_> {
    /// Starts a thread for these queues, which is one or all that are absent. One besides the first
    /// ones has a place.
    pub(super) fn start(&self, queues: Vec<u16>, place: Option<Place<'scope>>) -> io::Result<()> {
        let name = match &*queues {
            [queue] => format!("fuse-ring-{queue}"),
            _ => "fuse-rings".to_owned(),
        };
        let threads = self.clone();
        let run = move || {
            let is_first = place.is_none();
            let work = AssertUnwindSafe(|| threads.run(&queues, is_first));
            let ended = std::panic::catch_unwind(work)
                .unwrap_or_else(|_| Err(io::Error::other("a thread of a ring panicked")));
            if let Err(e) = ended {
                let is_told = is_first && threads.rings.gate.fail(Failure::doubtful(&e));
                if !is_told {
                    (threads.failed)(e);
                }
            }
            drop(place);
        };
        std::thread::Builder::new()
            .name(name)
            .spawn_scoped(self.scope, run)?;
        Ok(())
    }

    /// A thread's life. An error leaves requests without an answer.
    fn run(&self, queues: &[u16], is_first: bool) -> io::Result<()> {
        let rings = self.rings;
        let mut thread = match RingThread::new(self, queues) {
            Ok(thread) => thread,
            Err(e) if is_first => {
                rings.gate.fail(Failure::absent(&e));
                return Ok(());
            }
            Err(e) => {
                rings.one_less(&e);
                return Ok(());
            }
        };
        if is_first {
            if !rings.gate.is_let_in() || !rings.gate.register(|| thread.register()) {
                return Ok(());
            }
            return thread.serve();
        }
        match thread.register() {
            Ok(()) => thread.serve(),
            // Unmounted meanwhile.
            Err(_) if !connection::is_alive(&rings.fuse) => Ok(()),
            Err(Failure::Absent(why)) => {
                rings.one_less(&io::Error::other(why));
                Ok(())
            }
            Err(Failure::Doubtful(why)) => Err(io::Error::other(why)),
        }
    }
}

/// A thread with its ring.
pub(super) struct RingThread<'a, 'scope, 'env> {
    threads: &'a Threads<'scope, 'env>,
    // Gone before what the kernel writes to.
    ring: Ring,
    entries: Vec<Entry>,
    /// Entries that the kernel knows.
    living: usize,
    /// Whether the kernel has been told of any.
    pub(super) is_known: bool,
    /// How often in a row the kernel had no room for an answer.
    refusals: u32,
    /// Whether it keeps memory for large requests.
    keeps: bool,
    /// The only core that it runs on.
    core: Option<usize>,
    /// Large requests in a row.
    large: u32,
    /// What it has carried out since the kernel last took answers.
    unanswered: Vec<Unanswered>,
}

impl<'a, 'scope, 'env> RingThread<'a, 'scope, 'env> {
    pub(super) fn new(threads: &'a Threads<'scope, 'env>, queues: &[u16]) -> io::Result<Self> {
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
            is_known: false,
            refusals: 0,
            keeps,
            core: None,
            large: 0,
            unanswered: Vec::new(),
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

    pub(super) fn register(&mut self) -> Result<(), Failure> {
        let rings = self.threads.rings;
        let (fuse, stop) = (rings.fuse.as_raw_fd(), rings.stop.as_fd());
        let poll = Sqe {
            op_flags: libc::POLLIN as u32,
            ..Sqe::new(OP_POLL_ADD, stop.as_raw_fd(), STOP)
        };
        self.ring.push(poll);
        for (n, entry) in self.entries.iter().enumerate() {
            self.ring.push(entry.register(fuse, n as u64));
        }
        self.is_known = true;
        self.ring.enter(0).map_err(|e| Failure::doubtful(&e))?;
        // What was refused is answered by now, and what was not is not, unless a request is there.
        if let Some(refused) = self.ring.peek().filter(|answer| answer.result < 0) {
            // Others may have been taken.
            self.is_known = self.entries.len() > 1;
            let e = io::Error::from_raw_os_error(-refused.result);
            return Err(Failure::absent(&e));
        }
        self.living = self.entries.len();
        for entry in &self.entries {
            if let Some(queue) = rings.queue(entry.queue) {
                queue.waiting.fetch_add(1, Ordering::SeqCst);
            }
        }
        Ok(())
    }

    /// Serves until the mount is gone.
    fn serve(&mut self) -> io::Result<()> {
        let mut scratch = Scratch::default();
        self.place(true);
        while self.living > 0 {
            self.hand_over()?;
            self.give_back()?;
            if self.ring.peek().is_none() {
                self.ring.enter(1)?;
            }
            while let Some(answer) = self.ring.answer() {
                if answer.user_data == STOP {
                    return Ok(());
                }
                if answer.result < 0 {
                    self.refused(answer.user_data, -answer.result)?;
                } else {
                    self.refusals = 0;
                    self.carry_out(answer.user_data, &mut scratch);
                }
            }
        }
        Ok(())
    }

    /// Has the kernel take the answers. Not while it waits for the next request, for so long
    /// nobody would know that they are with the kernel.
    fn hand_over(&mut self) -> io::Result<()> {
        if self.unanswered.is_empty() {
            return Ok(());
        }
        self.ring.enter(0)?;
        // One that was refused is known by now, and handed over once more.
        let is_taken = self.ring.peek().is_none_or(|answer| answer.result >= 0);
        if is_taken && self.ring.pending() == 0 {
            self.unanswered.clear();
        }
        Ok(())
    }

    /// The kernel has not taken an answer, or has let go of an entry: it is short of memory for the
    /// moment, that is the end of the mount, or something is wrong.
    pub(super) fn refused(&mut self, number: u64, errno: i32) -> io::Result<()> {
        let rings = self.threads.rings;
        let Some(entry) = self.entries.get(number as usize) else {
            return Ok(());
        };
        let for_the_moment = matches!(errno, libc::ENOMEM | libc::EAGAIN);
        if for_the_moment && self.refusals < TRIES {
            self.refusals += 1;
            std::thread::sleep(BETWEEN_TRIES);
            let again = entry.again(rings.fuse.as_raw_fd(), number);
            self.ring.push(again);
            return Ok(());
        }
        let ends = matches!(errno, libc::ENOTCONN | libc::ECONNABORTED | libc::ECANCELED);
        // Looked at after the errno: who aborts cuts the connection first, and then takes requests
        // back, after which an answer to them is refused as to none that there is.
        if !ends && connection::is_alive(&rings.fuse) {
            let e = io::Error::from_raw_os_error(errno);
            let text = format!("the kernel refused an answer over io_uring: {e}");
            return Err(io::Error::other(text));
        }
        self.living = self.living.saturating_sub(1);
        if let Some(queue) = rings.queue(entry.queue) {
            queue.waiting.fetch_sub(1, Ordering::SeqCst);
        }
        Ok(())
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
        if left < SPARE
            && let Some(place) = rings.may_start_another(entry.queue)
            && let Err(e) = self.threads.start(vec![entry.queue], Some(place))
        {
            rings.one_less(&e);
        }
        let handler = self.threads.handler;
        let (mut bytes, unanswered) = (0, &mut self.unanswered);
        entry.serve(&mut |message, reply| {
            bytes = data_of(message);
            unanswered.push(handler.handle(message, reply, scratch));
        });
        queue.waiting.fetch_add(1, Ordering::SeqCst);
        let commit = entry.commit(rings.fuse.as_raw_fd(), number);
        // There is room: what was put before has been taken.
        self.ring.push(commit);
        self.served(bytes);
    }
}

impl Drop for RingThread<'_, '_, '_> {
    fn drop(&mut self) {
        if self.is_known {
            let memory = self.entries.iter().map(Entry::memory);
            self.threads.rings.kept.lock().extend(memory);
        }
    }
}
