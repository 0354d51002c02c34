//! The clocks: the real ones, as nothing that a seed replays runs through the kernel.

use razorfs::Time;
use rustix::time::{ClockId, clock_gettime};

/// Wall clock.
pub(crate) fn now() -> Time {
    let now = clock_gettime(ClockId::Realtime);
    Time {
        secs: now.tv_sec,
        nanos: now.tv_nsec as u32,
    }
}

/// Nanoseconds since some moment.
pub(crate) fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
