//! The host's clock and randomness.

use std::hash::{BuildHasher, RandomState};

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::Env;

/// The host's clock and randomness.
#[derive(Clone, Copy, Default, Debug)]
pub struct OsEnv;

fn nanoseconds(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let fraction = u64::try_from(time.tv_nsec).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000) + fraction
}

impl Env for OsEnv {
    fn now(&self) -> u64 {
        nanoseconds(clock_gettime(ClockId::Realtime))
    }

    fn monotonic(&self) -> u64 {
        nanoseconds(clock_gettime(ClockId::Monotonic))
    }

    fn random(&self) -> u64 {
        let mut bytes = [0; 8];
        loop {
            match getrandom(&mut bytes, GetRandomFlags::empty()) {
                Ok(n) if n == bytes.len() => return u64::from_le_bytes(bytes),
                Ok(_) | Err(Errno::INTR) => {}
                // A sandbox that forbids the call: the standard library finds other ways.
                Err(_) => return RandomState::new().hash_one(self.monotonic()),
            }
        }
    }
}
