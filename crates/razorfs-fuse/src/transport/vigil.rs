//! Keeping two cores from sleeping while a program waits for answers.
//!
//! Waking a sleeping core is most of what a request costs that a program waits for: the core of the
//! reader sleeps until the request is there, and the core of the program until the answer is, most
//! of all in a virtual machine, where sleeping means leaving it. So while requests come in a row,
//! two threads of idle priority keep those two cores busy with nothing. Without requests they sleep
//! after a moment; requests that come now and then do not wake them; and where others have enough
//! to do for all cores, none sleeps anyway and they rest. Idle priority alone would not see to
//! that: it holds among the threads of one session, and a scheduler that shares the cores between
//! sessions gives a session of idle threads as much as any.
#![expect(unsafe_code, reason = "nothing safe sets the scheduling of one thread")]

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex};

use crate::clock::monotonic;

/// For how long, in nanoseconds, the cores are kept awake after a request.
const LINGER: u64 = 200_000;
/// Requests farther apart than this do not come in a row.
const ROW: u64 = 1_000_000;
/// How often it is looked where the reader and the program run, and what else does.
const LOOK: u64 = 1_000_000;
/// For how long there is no vigil where others need the cores, at first and at most.
const SHORTEST_REST: u64 = 50_000_000;
const LONGEST_REST: u64 = 2_000_000_000;

/// Which core a thread keeps awake.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kept {
    /// The reader's.
    Reader,
    /// The waiting program's.
    Client,
    /// This one.
    Core(u32),
}

/// The threads' common state. None of it needs to be exact: a mistake costs some microseconds.
#[derive(Debug, Default)]
pub(super) struct Vigil {
    last_request: AtomicU64,
    until: AtomicU64,
    /// The core that the latest request was read on.
    reader: AtomicU32,
    /// The thread that the latest request is from.
    client: AtomicU32,
    /// The threads that are not asleep.
    awake: AtomicU32,
    asleep: AtomicBool,
    /// No vigil before this moment.
    rest_until: AtomicU64,
    rest: AtomicU64,
    ended: Mutex<bool>,
    wake: Condvar,
}

impl Vigil {
    /// What the threads are to keep: nothing on a single core, or where a quota limits the time on
    /// the cores, which the vigil would use up.
    pub(super) fn kept() -> Vec<Kept> {
        let granted = std::thread::available_parallelism().map_or(1, usize::from);
        match cores().as_slice() {
            cores if cores.len() > granted => Vec::new(),
            [] | [_] => Vec::new(),
            // These are all, so nobody has to be followed.
            &[first, second] => vec![Kept::Core(first), Kept::Core(second)],
            _ => vec![Kept::Reader, Kept::Client],
        }
    }

    /// A request of this thread was read.
    pub(super) fn request(&self, client: u32) {
        let now = monotonic();
        let last = self.last_request.swap(now, Ordering::Relaxed);
        if now.saturating_sub(last) > ROW || now < self.rest_until.load(Ordering::Relaxed) {
            return;
        }
        self.until.store(now + LINGER, Ordering::Relaxed);
        self.client.store(client, Ordering::Relaxed);
        self.reader.store(this_core(), Ordering::Relaxed);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            let _ended = self.ended.lock();
            self.wake.notify_all();
        }
    }

    /// Ends the threads.
    pub(super) fn end(&self) {
        *self.ended.lock() = true;
        self.until.store(0, Ordering::Relaxed);
        self.wake.notify_all();
    }

    /// One thread's part: returns at the end.
    pub(super) fn watch(&self, kept: Kept) {
        if !be_idle() {
            return;
        }
        let mut at = None;
        loop {
            self.awake.fetch_add(1, Ordering::Relaxed);
            self.stay_awake(kept, &mut at);
            self.awake.fetch_sub(1, Ordering::Relaxed);
            let mut ended = self.ended.lock();
            if *ended {
                return;
            }
            self.asleep.store(true, Ordering::Relaxed);
            if monotonic() >= self.until.load(Ordering::Relaxed) {
                self.wake.wait(&mut ended);
            }
        }
    }

    fn stay_awake(&self, kept: Kept, at: &mut Option<u32>) {
        let mut look = 0;
        let mut others = Others::default();
        loop {
            let now = monotonic();
            if now >= self.until.load(Ordering::Relaxed) {
                return;
            }
            if now >= look {
                look = now + LOOK;
                self.follow(kept, at);
                let seen = runnable().map(|n| n.saturating_sub(self.awake.load(Ordering::Relaxed)));
                match others.enough(seen) {
                    Some(true) => return self.rest(now),
                    Some(false) => self.rest.store(0, Ordering::Relaxed),
                    None => {}
                }
            }
            // Not only a pause: on a core that is needed this gives way sooner than the scheduler
            // would.
            std::thread::yield_now();
        }
    }

    /// Others need the cores: each time for longer.
    fn rest(&self, now: u64) {
        let rest = self.rest.load(Ordering::Relaxed) * 2;
        let rest = rest.clamp(SHORTEST_REST, LONGEST_REST);
        self.rest.store(rest, Ordering::Relaxed);
        self.rest_until.store(now + rest, Ordering::Relaxed);
        self.until.store(0, Ordering::Relaxed);
    }

    fn follow(&self, kept: Kept, at: &mut Option<u32>) {
        let core = match kept {
            Kept::Reader => Some(self.reader.load(Ordering::Relaxed)),
            Kept::Client => core_of(self.client.load(Ordering::Relaxed)),
            Kept::Core(core) => Some(core),
        };
        if core.is_some() && core != *at {
            *at = core.filter(|&core| move_to(core));
        }
    }
}

/// How many others want to run, looked at a few times.
#[derive(Default)]
struct Others {
    looks: u32,
    sum: u32,
}

impl Others {
    /// Looks until one may say something.
    const LOOKS: u32 = 8;

    /// Whether they have enough to do for all cores, each time it can be told: a program and the
    /// server that take turns are one, and now and then two.
    fn enough(&mut self, seen: Option<u32>) -> Option<bool> {
        self.sum += seen?;
        self.looks += 1;
        if self.looks < Self::LOOKS {
            return None;
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as u32;
        // More than the number of cores less a quarter of one, on average.
        let enough = 4 * self.sum > (4 * cores - 1) * self.looks;
        *self = Self::default();
        Some(enough)
    }
}

/// The threads of the machine that run or could.
fn runnable() -> Option<u32> {
    running(&std::fs::read_to_string("/proc/loadavg").ok()?)
}

/// The number before the slash in the fourth field, as proc(5) has it.
fn running(loadavg: &str) -> Option<u32> {
    let field = loadavg.split_ascii_whitespace().nth(3)?;
    field.split_once('/')?.0.parse().ok()
}

/// The core that a thread ran on last, as proc(5) has it.
fn core_of(thread: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{thread}/stat")).ok()?;
    processor(&stat)
}

/// Field 39. The second is a name in parentheses, which may hold anything.
fn processor(stat: &str) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(36)?.parse().ok()
}

fn this_core() -> u32 {
    // SAFETY: takes nothing and touches nothing.
    let core = unsafe { libc::sched_getcpu() };
    u32::try_from(core).unwrap_or(0)
}

/// The cores that this thread may run on.
fn cores() -> Vec<u32> {
    // SAFETY: a set is plain data, and the kernel fills no more than its size.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) != 0 {
            return Vec::new();
        }
        set
    };
    (0..libc::CPU_SETSIZE as u32)
        // SAFETY: the number is within the set.
        .filter(|&core| unsafe { libc::CPU_ISSET(core as usize, &set) })
        .collect()
}

/// Moves this thread to a core; false where it may not run there.
fn move_to(core: u32) -> bool {
    if core >= libc::CPU_SETSIZE as u32 {
        return false;
    }
    // SAFETY: the set is plain data of the size given, and the number within it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core as usize, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) == 0
    }
}

/// Gives this thread the lowest priority there is; everybody may do that.
fn be_idle() -> bool {
    // SAFETY: the structure is plain data and lives for the call.
    unsafe {
        let parameter: libc::sched_param = std::mem::zeroed();
        libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameter) == 0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_core_is_found_after_any_name() {
        let fields = "S 1 2 3 0 -1 4 5 6 7 8 9 10 11 12 20 0 1 0 100 200 300 18 1 1 1 0 0 0 0 0 \
                      17 0 0 0 17 5 0 0";
        for name in ["(tar)", "(a) S 1 ( b)", "()"] {
            assert_eq!(processor(&format!("7 {name} {fields}")), Some(5));
        }
        assert_eq!(processor("7 (tar) S 1"), None);
        assert_eq!(processor(""), None);
        let own = core_of(std::process::id()).expect("this process has one");
        assert!(cores().contains(&own));
    }

    #[test]
    fn there_is_no_vigil_where_others_have_enough_to_do() {
        assert_eq!(running("8.16 12.80 12.26 11/141 29539\n"), Some(11));
        assert_eq!(running(""), None);
        assert!(runnable().is_some_and(|n| n > 0));
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as u32;
        for (n, enough) in [(0, false), (cores - 1, false), (cores, true)] {
            let mut others = Others::default();
            for _ in 1..Others::LOOKS {
                assert_eq!(others.enough(Some(n)), None);
            }
            assert_eq!(others.enough(Some(n)), Some(enough), "{n} of {cores}");
        }
        let vigil = Vigil::default();
        let mut now = monotonic();
        for _ in 0..10 {
            vigil.rest(now);
            now += LONGEST_REST;
        }
        vigil.rest(now);
        assert_eq!(vigil.rest_until.load(Ordering::Relaxed), now + LONGEST_REST);
        vigil.request(1);
        vigil.request(1);
        assert_eq!(vigil.until.load(Ordering::Relaxed), 0, "not while it rests");
    }

    /// Whether the threads are awake within a while.
    fn awake(vigil: &Vigil, expected: bool) -> bool {
        for _ in 0..2000 {
            if vigil.asleep.load(Ordering::Relaxed) != expected {
                return true;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        false
    }

    #[test]
    fn requests_in_a_row_keep_the_vigil_and_single_ones_do_not() {
        let vigil = Vigil::default();
        std::thread::scope(|scope| {
            for kept in [Kept::Reader, Kept::Client, Kept::Core(cores()[0])] {
                let vigil = &vigil;
                scope.spawn(move || vigil.watch(kept));
            }
            assert!(awake(&vigil, false), "they rest at first");
            vigil.request(std::process::id());
            assert!(vigil.asleep.load(Ordering::Relaxed), "one is not a row");
            std::thread::sleep(Duration::from_millis(5));
            vigil.request(std::process::id());
            assert!(vigil.asleep.load(Ordering::Relaxed), "nor two far apart");
            vigil.request(std::process::id());
            assert!(awake(&vigil, false), "they rest again soon after a row");
            vigil.end();
        });
        let until = vigil.until.load(Ordering::Relaxed);
        assert_eq!(until, 0, "the end is the end");
    }
}
