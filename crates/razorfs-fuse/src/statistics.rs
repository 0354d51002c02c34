//! Counters of requests by kind.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::protocol::opcode;

/// Number of kinds counted one by one; requests with a higher number count as unknown.
const KINDS: usize = 64;

/// Counters of a session. They only grow.
#[derive(Debug)]
pub struct Statistics {
    requests: [AtomicU64; KINDS],
    failed: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
}

impl Default for Statistics {
    fn default() -> Self {
        Self {
            requests: [const { AtomicU64::new(0) }; KINDS],
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
