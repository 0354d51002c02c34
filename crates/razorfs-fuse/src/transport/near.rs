//! Serving a program on its own core.
//!
//! Waking a core is most of what a request costs that a program waits for, most of all in a virtual
//! machine: the request wakes the core of the reader, and the answer that of the program. Where
//! both are on one core nobody is woken: one runs while the other waits. So when requests of one
//! thread come in a row, a thread of its own, the *companion*, follows it to its core and reads
//! there.
//!
//! The program has to stay there, too. A scheduler that wakes a thread looks for an idle core,
//! first at the one that the thread ran on last; and a core that is at work for threads of idle
//! priority only counts as idle. So the companion has idle priority. It is never in the way of
//! anybody either, but where others keep its core busy it is not let run: then it is *dismissed* by
//! a thread that looks, the others serve as they do without it, and it stays away for a while.
//!
//! While it is not let run it may hold whatever it took. So it takes no lock of the transport,
//! which the thread that dismisses it needs; all they share is atomic. The locks of the engine it
//! takes like any other thread; docs/decisions/0007 tells what that may cost.
//!
//! This is for small requests, which come one after another. Large ones take long enough for two
//! cores to be of use, and requests of several programs at a time have several cores anyway.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::Thread;
use std::time::Duration;

use rustix::thread::{Pid, gettid};

use super::cores::{self, Cores, Status};
use crate::clock::monotonic;
use crate::protocol::{data_of, header_of};

/// Requests farther apart than this do not come in a row.
pub(super) const ROW: Duration = Duration::from_millis(1);
/// The companion comes after this request of a row.
const FIRST: u32 = 4;
/// Bytes from which a request is large, and after how many of those in a row the companion goes.
const LARGE: u64 = 32 << 10;
const LARGE_ONES: u32 = 4;
/// After how many requests the companion looks where the program is: a look costs about as much as
/// a request does less when it finds it elsewhere.
const LOOK: u32 = 16;
/// After how many requests of nobody in a row the companion goes.
const NOBODYS: u32 = 16;
/// For how long the companion stays away when it is of no use, in nanoseconds: at first, and at
/// most.
const SHORTEST_REST: u64 = 10_000_000;
const LONGEST_REST: u64 = 1_000_000_000;
/// Requests after which the next rest is a short one again.
const RECOVERED: u32 = 4096;

/// What the threads of one device share.
#[derive(Default)]
pub(super) struct Near {
    /// The companion, once it can come.
    companion: OnceLock<(Thread, Pid)>,
    /// Whether it waits to be invited.
    waits: AtomicBool,
    /// The visit during which the companion reads and nobody else has to; 0 for none.
    visit: AtomicU64,
    visits: AtomicU64,
    ended: AtomicBool,
    /// Whether it was given the usual priority, to have it finish.
    hurried: AtomicBool,
    /// The thread that the latest request is from, when it came, and how many of it came in a row.
    program: AtomicU32,
    last: AtomicU64,
    row: AtomicU32,
    /// What the companion read since it was last of no use.
    served: AtomicU32,
    rest: AtomicU64,
    rest_until: AtomicU64,
}

/// What the companion knows of the program that it is with.
pub(super) struct Visit {
    number: u64,
    program: u32,
    status: Option<Status>,
    me: Pid,
    cores: Cores,
    core: Option<usize>,
    /// Its requests that were read, and the large ones among them since the last small one.
    served: u32,
    large: u32,
    /// Requests of nobody since the last of a program.
    nobodys: u32,
}

impl Near {
    /// None where there is no use in a companion.
    pub(super) fn new() -> Option<Self> {
        let useful = Cores::of(None).is_ok_and(|cores| cores.count() > 1);
        (useful && cores::slices_are_short()).then(Self::default)
    }

    /// Whether the companion reads, so that nobody else has to.
    pub(super) fn is_here(&self) -> bool {
        self.visit.load(Ordering::SeqCst) != 0
    }

    /// Whether the companion was not dismissed meanwhile.
    pub(super) fn is_wanted(&self, visit: &Visit) -> bool {
        self.visit.load(Ordering::SeqCst) == visit.number
    }

    /// Another thread than the companion carried this message out.
    pub(super) fn seen(&self, message: &[u8]) {
        let Some(program) = header_of(message).map(|h| h.pid).filter(|&pid| pid != 0) else {
            return;
        };
        let now = monotonic();
        let pause = now.saturating_sub(self.last.swap(now, Ordering::Relaxed));
        let another = self.program.swap(program, Ordering::Relaxed) != program;
        if another || pause > ROW.as_nanos() as u64 || data_of(message) >= LARGE {
            self.row.store(0, Ordering::Relaxed);
        }
        if self.row.fetch_add(1, Ordering::Relaxed) + 1 < FIRST {
            return;
        }
        self.row.store(0, Ordering::Relaxed);
        if now >= self.rest_until.load(Ordering::Relaxed) {
            self.invite();
        }
    }

    /// Has the companion come to where the program is that asked last.
    pub(super) fn invite(&self) {
        if let Some((companion, _)) = self.companion.get()
            && self.waits.swap(false, Ordering::SeqCst)
        {
            let number = self.visits.fetch_add(1, Ordering::Relaxed) + 1;
            self.visit.store(number, Ordering::SeqCst);
            companion.unpark();
        }
    }

    /// The calling thread becomes the companion; false where it may not.
    pub(super) fn be_companion(&self) -> bool {
        let able = cores::be_idle();
        if able {
            let me = (std::thread::current(), gettid());
            self.companion.get_or_init(|| me);
        }
        able
    }

    /// The companion waits to be invited; none at the end. `worker` is a thread that runs wherever
    /// the process may.
    pub(super) fn wait(&self, worker: Option<Pid>) -> Option<Visit> {
        if self.hurried.swap(false, Ordering::SeqCst) && !cores::be_idle() {
            // What was possible before; without it the others serve.
            return None;
        }
        loop {
            if self.ended.load(Ordering::SeqCst) {
                return None;
            }
            let number = self.visit.load(Ordering::SeqCst);
            if number != 0
                && let Ok(cores) = Cores::of(worker)
            {
                self.waits.store(false, Ordering::SeqCst);
                return Some(Visit {
                    number,
                    program: self.program.load(Ordering::Relaxed),
                    status: None,
                    me: gettid(),
                    cores,
                    core: None,
                    served: 0,
                    large: 0,
                    nobodys: 0,
                });
            }
            self.waits.store(true, Ordering::SeqCst);
            // Also ended by what was meant for an earlier visit; then it waits once more.
            std::thread::park();
        }
    }

    /// The companion goes where the program is; false where that cannot be.
    pub(super) fn follow(&self, visit: &mut Visit) -> bool {
        if visit.status.is_none() {
            visit.status = Status::of(visit.program).ok();
        }
        // None where it is gone, or hidden from this user.
        let core = visit.status.as_ref().and_then(Status::core);
        if core.is_some() && core == visit.core {
            return true;
        }
        visit.core = core;
        let there = core.is_some_and(|core| visit.cores.pin(visit.me, core));
        if !there {
            self.stay_away();
        }
        there
    }

    /// The companion carried this message out; says whether it stays.
    pub(super) fn stays(&self, visit: &mut Visit, message: &[u8]) -> bool {
        let program = header_of(message).map_or(0, |header| header.pid);
        let large = data_of(message) >= LARGE;
        visit.large = if large { visit.large + 1 } else { 0 };
        visit.nobodys = if program == 0 { visit.nobodys + 1 } else { 0 };
        if visit.large == LARGE_ONES || visit.nobodys == NOBODYS {
            return false;
        }
        if program == 0 {
            return true;
        }
        if program != visit.program {
            if visit.served < FIRST {
                // Several ask at a time.
                self.stay_away();
                return false;
            }
            visit.program = program;
            visit.status = None;
            visit.served = 0;
        }
        visit.served += 1;
        if self.served.fetch_add(1, Ordering::Relaxed) == RECOVERED {
            self.rest.store(0, Ordering::Relaxed);
        }
        !(visit.served == 1 || visit.served.is_multiple_of(LOOK)) || self.follow(visit)
    }

    /// The companion is of no use: each time it stays away for longer.
    fn stay_away(&self) {
        let rest = self.rest.load(Ordering::Relaxed) * 2;
        let rest = rest.clamp(SHORTEST_REST, LONGEST_REST);
        self.rest.store(rest, Ordering::Relaxed);
        self.rest_until.store(monotonic() + rest, Ordering::Relaxed);
        self.served.store(0, Ordering::Relaxed);
    }

    /// The companion goes.
    pub(super) fn leave(&self, visit: &Visit) {
        visit.cores.unpin(visit.me);
        let (number, none) = (visit.number, 0);
        // Fails where it was dismissed.
        let _ = self
            .visit
            .compare_exchange(number, none, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// The companion read nothing for long: others must. If somebody `asks` meanwhile, it stays
    /// away, each time for longer.
    pub(super) fn dismiss(&self, asks: bool) {
        if self.visit.swap(0, Ordering::SeqCst) == 0 {
            return;
        }
        let Some(&(_, companion)) = self.companion.get() else {
            return;
        };
        if asks {
            self.stay_away();
        }
        let id = companion.as_raw_nonzero().get().unsigned_abs();
        if Status::of(id).is_ok_and(|status| status.wants_to_run()) {
            // It may hold what others need: some other core may let it run, or a higher priority.
            if let Ok(cores) = Cores::of(None) {
                cores.unpin(companion);
            }
            self.hurried
                .store(cores::be_usual(companion), Ordering::SeqCst);
        }
    }

    /// Ends the companion.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        if let Some((companion, _)) = self.companion.get() {
            companion.unpark();
        }
    }
}
