//! Counters of requests by kind.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::protocol::opcode;

/// Number of kinds counted one by one; requests with a higher number count as unknown.
const KINDS: usize = 64;

/// How many times are told apart by [`Latency`].
const TIMES: usize = 25;

/// How long requests of a kind took, from when they were read to when they had been answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Latency {
    /// Nanoseconds of all together.
    pub sum: u64,
    /// How many took at most [`Latency::bound`] nanoseconds, and more than the one before; the last
    /// are those that took longer.
    pub counts: [u64; TIMES],
}

impl Latency {
    /// The longest time, in nanoseconds, that the entry of this number counts: from a microsecond
    /// to eight seconds, each twice that of the one before. None for the last.
    #[must_use]
    pub const fn bound(entry: usize) -> Option<u64> {
        match entry < TIMES - 1 {
            true => Some(1 << (10 + entry)),
            false => None,
        }
    }
}

/// Counters of [`Latency`].
#[derive(Debug)]
struct Times {
    sum: AtomicU64,
    counts: [AtomicU64; TIMES],
}

impl Times {
    const fn new() -> Self {
        Self {
            sum: AtomicU64::new(0),
            counts: [const { AtomicU64::new(0) }; TIMES],
        }
    }

    fn count(&self, nanoseconds: u64) {
        self.sum.fetch_add(nanoseconds, Ordering::Relaxed);
        let entry = entry_of(nanoseconds);
        if let Some(counter) = self.counts.get(entry) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn load(&self) -> Latency {
        let mut counts = [0; TIMES];
        for (count, counter) in counts.iter_mut().zip(&self.counts) {
            *count = counter.load(Ordering::Relaxed);
        }
        Latency {
            sum: self.sum.load(Ordering::Relaxed),
            counts,
        }
    }
}

/// The entry that counts a time.
const fn entry_of(nanoseconds: u64) -> usize {
    let bits = 64 - nanoseconds.saturating_sub(1).leading_zeros() as usize;
    let entry = bits.saturating_sub(10);
    if entry < TIMES { entry } else { TIMES - 1 }
}

/// Counters of a session. They only grow.
#[derive(Debug)]
pub struct Statistics {
    requests: [AtomicU64; KINDS],
    times: [Times; KINDS],
    failed: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
}

impl Default for Statistics {
    fn default() -> Self {
        Self {
            requests: [const { AtomicU64::new(0) }; KINDS],
            times: [const { Times::new() }; KINDS],
            failed: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
        }
    }
}

impl Statistics {
    /// Requests that came, by kind; only kinds that did.
    #[must_use]
    pub fn requests(&self) -> Vec<(&'static str, u64)> {
        let counts = self.requests.iter().enumerate();
        counts
            .map(|(kind, n)| (opcode::name(kind as u32), n.load(Ordering::Relaxed)))
            .filter(|&(_, n)| n > 0)
            .collect()
    }

    /// How long the requests of each kind took; only kinds of which one was answered.
    #[must_use]
    pub fn latencies(&self) -> Vec<(&'static str, Latency)> {
        let times = self.times.iter().enumerate();
        times
            .map(|(kind, times)| (opcode::name(kind as u32), times.load()))
            .filter(|(_, latency)| latency.counts.iter().any(|&n| n > 0))
            .collect()
    }

    /// Requests that came, of the kind with this number.
    #[must_use]
    pub fn of_kind(&self, opcode: u32) -> u64 {
        let counter = self.requests.get(opcode as usize);
        counter.map_or(0, |n| n.load(Ordering::Relaxed))
    }

    /// Requests answered with an error other than "no such name" and "not implemented".
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Bytes of file data handed to the kernel.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    /// Bytes of file data taken from the kernel.
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.bytes_written.load(Ordering::Relaxed)
    }

    pub(crate) fn count_request(&self, opcode: u32) {
        let counter = self.requests.get(opcode as usize).or(self.requests.first());
        if let Some(counter) = counter {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn count_time(&self, opcode: u32, nanoseconds: u64) {
        let times = self.times.get(opcode as usize).or(self.times.first());
        if let Some(times) = times {
            times.count(nanoseconds);
        }
    }

    pub(crate) fn count_failure(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_read(&self, bytes: usize) {
        self.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn count_written(&self, bytes: usize) {
        self.bytes_written
            .fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_counted_where_it_is_at_most_the_bound() {
        for (nanoseconds, entry) in [
            (0, 0),
            (1, 0),
            (1024, 0),
            (1025, 1),
            (2048, 1),
            (2049, 2),
            (1 << 33, 23),
            ((1 << 33) + 1, 24),
            (u64::MAX, 24),
        ] {
            assert_eq!(entry_of(nanoseconds), entry, "{nanoseconds}");
            assert!(Latency::bound(entry).is_none_or(|bound| nanoseconds <= bound));
        }
        assert_eq!(Latency::bound(23), Some(1 << 33));
        assert_eq!(Latency::bound(24), None);
    }

    #[test]
    fn times_are_told_by_kind() {
        let statistics = Statistics::default();
        statistics.count_time(opcode::LOOKUP, 1000);
        statistics.count_time(opcode::LOOKUP, 3000);
        statistics.count_time(1 << 20, 5);
        let latencies = statistics.latencies();
        let names: Vec<_> = latencies.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["unknown", "lookup"]);
        let lookup = &latencies[1].1;
        assert_eq!(lookup.sum, 4000);
        assert_eq!(lookup.counts[..4], [1, 0, 1, 0]);
    }
}
