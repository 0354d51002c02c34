//! Which core a thread runs on, and at which priority.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

/// Nanoseconds that a thread of idle priority asks for at a time. The less it asks for the sooner
/// it gets it beside busy ones: in some 30 ms, and in a second with what is usual.
const SLICE: u64 = 100_000;

/// The cores that a thread may run on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cores(CpuSet);

impl Cores {
    /// Those of a thread; none is the calling one.
    pub(super) fn of(thread: Option<Pid>) -> io::Result<Self> {
        Ok(Self(sched_getaffinity(thread)?))
    }

    /// How many there are.
    pub(super) fn count(&self) -> u32 {
        self.0.count()
    }

    /// Whether this core is one of them.
    pub(super) fn has(&self, core: usize) -> bool {
        core < CpuSet::MAX_CPU && self.0.is_set(core)
    }

    /// Has a thread of this process run on this core only; false where it may not.
    pub(super) fn pin(&self, thread: Pid, core: usize) -> bool {
        if !self.has(core) {
            return false;
        }
        let mut set = CpuSet::new();
        set.set(core);
        sched_setaffinity(Some(thread), &set).is_ok()
    }

    /// Has a thread run on any of them again.
    pub(super) fn unpin(&self, thread: Pid) {
        // Fails where the cores were taken from the process meanwhile; the kernel has then given
        // the thread those that are left.
        let _ = sched_setaffinity(Some(thread), &self.0);
    }
}

/// What the kernel tells of a thread, of this process or another.
#[derive(Debug)]
pub(super) struct Status(File);

impl Status {
    /// Fails where the thread is gone, or hidden from this user.
    pub(super) fn of(thread: u32) -> io::Result<Self> {
        Ok(Self(File::open(format!("/proc/{thread}/stat"))?))
    }

    /// The core that it runs on, or ran on last.
    pub(super) fn core(&self) -> Option<usize> {
        self.field(PROCESSOR)?.parse().ok()
    }

    /// Whether it runs or waits for a core.
    pub(super) fn wants_to_run(&self) -> bool {
        self.field(STATE).is_some_and(|state| state == "R")
    }

    fn field(&self, number: usize) -> Option<String> {
        // Its 52 numbers have at most 20 digits each.
        let mut text = [0; 1536];
        let n = self.0.read_at(&mut text, 0).ok()?;
        field(text.get(..n)?, number).map(str::to_owned)
    }
}

/// Fields of `stat` by the numbers that proc(5) gives them.
const STATE: usize = 3;
const PROCESSOR: usize = 39;

/// One from the third on. The second is a name in parentheses, which may hold anything.
fn field(stat: &[u8], number: usize) -> Option<&str> {
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    rest.split_ascii_whitespace().nth(number.checked_sub(3)?)
}

/// Whether a thread of idle priority is let run beside busy ones within some 30 ms. Since Linux 6.6
/// it waits as long as its slice, weighed, is; and only since 6.12 it may ask for a short one.
pub(super) fn slices_are_short() -> bool {
    kernel_has_short_slices(rustix::system::uname().release().to_bytes())
}

fn kernel_has_short_slices(release: &[u8]) -> bool {
    let release = String::from_utf8_lossy(release);
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().and_then(|n| n.parse::<u32>().ok());
    !matches!((next(), next()), (None, _) | (Some(6), Some(6..12)))
}

/// Gives the calling thread the lowest priority there is, and not those that it may start;
/// everybody may do that.
pub(super) fn be_idle() -> bool {
    ask_for_short_slices();
    set_policy(0, libc::SCHED_IDLE | libc::SCHED_RESET_ON_FORK)
}

/// Gives a thread of this process the usual priority; not everybody may do that.
pub(super) fn be_usual(thread: Pid) -> bool {
    let policy = libc::SCHED_OTHER | libc::SCHED_RESET_ON_FORK;
    set_policy(thread.as_raw_nonzero().get(), policy)
}

#[expect(unsafe_code, reason = "nothing safe sets the policy of a thread")]
fn set_policy(thread: libc::pid_t, policy: libc::c_int) -> bool {
    // SAFETY: the structure is plain data and lives for the call.
    unsafe {
        let parameter: libc::sched_param = std::mem::zeroed();
        libc::sched_setscheduler(thread, policy, &raw const parameter) == 0
    }
}

#[expect(unsafe_code, reason = "nothing safe sets the slice of a thread")]
fn ask_for_short_slices() {
    // SAFETY: the structure is plain data of the size given and lives for the call.
    unsafe {
        let mut attributes: libc::sched_attr = std::mem::zeroed();
        attributes.size = size_of::<libc::sched_attr>() as u32;
        attributes.sched_runtime = SLICE;
        // A request; kernels before 6.12 take no notice of it.
        libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0);
    }
}

#[cfg(test)]
mod tests {
    use rustix::thread::gettid;

    use super::*;

    #[test]
    fn the_core_is_found_after_any_name() {
        let fields = "S 1 2 3 0 -1 4 5 6 7 8 9 10 11 12 20 0 1 0 100 200 300 18 1 1 1 0 0 0 0 0 \
                      17 0 0 0 17 5 0 0";
        for name in ["(tar)", "(a) S 1 ( b)", "()"] {
            let stat = format!("7 {name} {fields}");
            assert_eq!(field(stat.as_bytes(), PROCESSOR), Some("5"));
            assert_eq!(field(stat.as_bytes(), STATE), Some("S"));
        }
        assert_eq!(field(b"7 (\xff) S 1", PROCESSOR), None);
        assert_eq!(field(b"", STATE), None);
    }

    #[test]
    fn kernels_that_let_it_wait_for_long_are_known() {
        for (release, short) in [
            ("5.15.0-119-generic", true),
            ("6.1.0-28-amd64", true),
            ("6.6.1", false),
            ("6.11-rc2", false),
            ("6.12.0", true),
            ("6.18.44", true),
            ("7.0", true),
            ("x", false),
            ("", false),
        ] {
            assert_eq!(
                kernel_has_short_slices(release.as_bytes()),
                short,
                "{release}"
            );
        }
    }

    #[test]
    fn a_thread_runs_where_it_was_put() {
        let cores = Cores::of(None).unwrap();
        let me = gettid();
        let status = Status::of(me.as_raw_nonzero().get().unsigned_abs()).unwrap();
        for core in (0..CpuSet::MAX_CPU).filter(|&core| cores.0.is_set(core)) {
            assert!(cores.pin(me, core));
            assert_eq!(status.core(), Some(core));
            assert_eq!(Cores::of(None).unwrap().count(), 1);
        }
        cores.unpin(me);
        assert_eq!(Cores::of(None).unwrap().count(), cores.count());
        assert!(!cores.pin(me, CpuSet::MAX_CPU), "there is no such core");
    }
}
