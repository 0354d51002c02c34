//! Serving a program on its own core.
//!
//! Waking a core is most of what a request costs that a program waits for, most of all in a virtual
//! machine: the request wakes the core of the reader, and the answer that of the program. Where
//! both are on one core nobody is woken: one runs while the other waits. So when requests of one
//! thread come in a row, a thread of its own, the *companion*, follows it to its core and reads
//! there.
//!
//! The program has to stay there, too. A scheduler that wakes a thread looks for an idle core, first
//! at the one that the thread ran on last; and a core that is at work for threads of idle priority
//! only counts as idle. So the companion has idle priority. It is never in the way of anybody
//! either, but where others keep its core busy it is not let run: then it is *dismissed* by a thread
//! that looks, the others serve as they do without it, and it stays away for a while.
//!
//! This is for small requests, which come one after another. Large ones take long enough for two
//! cores to be of use, and requests of several programs at a time have several cores anyway.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::thread::{Pid, gettid};

use super::cores::{Cores, Status, be_idle, runnable};
use crate::clock::monotonic;
use crate::protocol::{data_of, header_of};

/// Requests farther apart than this do not come in a row.
pub(super) const ROW: Duration = Duration::from_millis(1);
/// The companion comes at this request of a row.
const FIRST: u32 = 4;
/// Bytes from which a request is large, and after how many of those in a row the companion goes.
const LARGE: u64 = 32 << 10;
const LARGE_ONES: u32 = 4;
/// After how many requests the companion looks where the program is: a look costs about as much as
/// a request does less when it finds it elsewhere.
const LOOK: u32 = 16;
/// For how long the companion stays away once dismissed, in nanoseconds: at first, and at most.
const SHORTEST_REST: u64 = 10_000_000;
const LONGEST_REST: u64 = 1_000_000_000;
/// Requests after which the next rest is a short one again.
const RECOVERED: u32 = 4096;

/// What the threads of one device share.
pub(super) struct Near {
    cores: Cores,
    /// The thread that the latest request is from, when it came, and how many of it came in a row.
    program: AtomicU32,
    last: AtomicU64,
    row: AtomicU32,
    /// The visit during which the companion reads and nobody else has to; 0 for none.
    visit: AtomicU64,
    /// What it read since it was last not let run.
    served: AtomicU32,
    rest: AtomicU64,
    rest_until: AtomicU64,
    invitation: Mutex<Invitation>,
    wake: Condvar,
}

#[derive(Default)]
struct Invitation {
    companion: Option<Pid>,
    /// The latest visit, and the program if the companion has not come yet.
    visit: u64,
    program: Option<u32>,
    ended: bool,
}

/// What the companion knows of the program that it is with.
pub(super) struct Visit {
    number: u64,
    program: u32,
    status: Option<Status>,
    me: Pid,
    core: Option<usize>,
    /// Its requests that were read, and the large ones among them since the last small one.
    served: u32,
    large: u32,
}

impl Near {
    /// None where there is no use in a companion.
    pub(super) fn new() -> Option<Self> {
        let cores = Cores::allowed().ok().filter(|cores| cores.count() > 1)?;
        Some(Self {
            cores,
            program: AtomicU32::new(0),
            last: AtomicU64::new(0),
            row: AtomicU32::new(0),
            visit: AtomicU64::new(0),
            served: AtomicU32::new(0),
            rest: AtomicU64::new(0),
            rest_until: AtomicU64::new(0),
            invitation: Mutex::default(),
            wake: Condvar::new(),
        })
    }

    /// Whether the companion reads, so that nobody else has to.
    pub(super) fn is_here(&self) -> bool {
        self.visit.load(Ordering::SeqCst) != 0
    }

    /// Whether the companion was not dismissed meanwhile.
    pub(super) fn is_wanted(&self, visit: &Visit) -> bool {
        self.visit.load(Ordering::SeqCst) == visit.number
    }

    /// Another thread than the companion read this message.
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
        let row = self.row.fetch_add(1, Ordering::Relaxed) + 1;
        if row == FIRST {
            self.row.store(0, Ordering::Relaxed);
            // Where others have enough to do for all cores, it would not be let run.
            let busy = || runnable().is_none_or(|threads| threads > self.cores.count());
            if now >= self.rest_until.load(Ordering::Relaxed) && !busy() {
                self.invite(program);
            }
        }
    }

    fn invite(&self, program: u32) {
        let mut invitation = self.invitation.lock();
        if invitation.companion.is_some() && !self.is_here() {
            invitation.visit += 1;
            invitation.program = Some(program);
            self.visit.store(invitation.visit, Ordering::SeqCst);
            self.wake.notify_one();
        }
    }

    /// The calling thread becomes the companion; false where it may not.
    pub(super) fn be_companion(&self) -> bool {
        let able = be_idle();
        self.invitation.lock().companion = able.then(gettid);
        able
    }

    /// The companion waits to be invited; none at the end.
    pub(super) fn wait(&self) -> Option<Visit> {
        let mut invitation = self.invitation.lock();
        loop {
            if invitation.ended {
                return None;
            }
            if let Some(program) = invitation.program.take() {
                return Some(Visit {
                    number: invitation.visit,
                    program,
                    me: gettid(),
                    status: None,
                    core: None,
                    served: 0,
                    large: 0,
                });
            }
            self.wake.wait(&mut invitation);
        }
    }

    /// The companion goes where the program is; false where that cannot be.
    pub(super) fn follow(&self, visit: &mut Visit) -> bool {
        if visit.status.is_none() {
            visit.status = Status::of(visit.program).ok();
        }
        // None where it is gone, or hidden from this user.
        let Some(core) = visit.status.as_ref().and_then(Status::core) else {
            return false;
        };
        visit.core == Some(core) || {
            visit.core = Some(core);
            self.cores.pin(visit.me, core)
        }
    }

    /// The companion read this message; says whether it stays.
    pub(super) fn stays(&self, visit: &mut Visit, message: &[u8]) -> bool {
        let program = header_of(message).map_or(0, |header| header.pid);
        if program == 0 {
            // The kernel's own.
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
            visit.large = 0;
        }
        visit.served += 1;
        if self.served.fetch_add(1, Ordering::Relaxed) == RECOVERED {
            self.rest.store(0, Ordering::Relaxed);
        }
        visit.large = if data_of(message) < LARGE {
            0
        } else {
            visit.large + 1
        };
        if visit.large == LARGE_ONES {
            return false;
        }
        !(visit.served == 1 || visit.served % LOOK == 0) || self.follow(visit)
    }

    /// The companion was of no use: each time it stays away for longer.
    fn stay_away(&self) {
        let rest = self.rest.load(Ordering::Relaxed) * 2;
        let rest = rest.clamp(SHORTEST_REST, LONGEST_REST);
        self.rest.store(rest, Ordering::Relaxed);
        self.rest_until.store(monotonic() + rest, Ordering::Relaxed);
        self.served.store(0, Ordering::Relaxed);
    }

    /// The companion goes.
    pub(super) fn leave(&self, visit: &Visit) {
        self.cores.unpin(visit.me);
        let invitation = self.invitation.lock();
        if self.is_wanted(visit) {
            self.visit.store(0, Ordering::SeqCst);
        }
        drop(invitation);
    }

    /// The companion read nothing for long: others must. If somebody `waits` for it and it is not
    /// let run, it stays away, each time for longer.
    pub(super) fn dismiss(&self, waits: bool) {
        let invitation = self.invitation.lock();
        let (Some(companion), true) = (invitation.companion, self.is_here()) else {
            return;
        };
        self.visit.store(0, Ordering::SeqCst);
        let id = companion.as_raw_nonzero().get().unsigned_abs();
        if waits && Status::of(id).is_ok_and(|status| status.wants_to_run()) {
            self.stay_away();
        }
        // Some other core may let it run.
        self.cores.unpin(companion);
    }

    /// Ends the companion.
    pub(super) fn end(&self) {
        self.invitation.lock().ended = true;
        self.wake.notify_all();
    }
}
