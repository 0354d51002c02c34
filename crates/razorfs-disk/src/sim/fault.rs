//! Faults to come, each planted at the number of a call.

use std::io;

use rustix::io::Errno;

use super::SimRng;
use crate::Name;

/// What goes wrong with one write.
#[derive(Clone, Debug)]
pub(super) enum WriteFault {
    /// Only so many bytes are written, then this error comes.
    Fail(Errno, u64),
    /// The disk reports success and writes nothing.
    Lose,
    /// The disk writes the bytes over those at another place.
    Misdirect(Name, u64),
}

/// What goes wrong with one read.
#[derive(Clone, Debug)]
pub(super) enum ReadFault {
    Fail(Errno),
    /// The disk answers with the bytes at another offset.
    Misdirect(u64),
    /// The disk answers with what was durable before the pending writes.
    Stale,
}

/// What goes wrong with one sync of a file.
#[derive(Clone, Debug)]
pub(super) enum SyncFault {
    /// It fails and drops the dirty pages; with a seed, some of them reached the disk before.
    Fail(Option<u64>),
    /// It reports success and does nothing.
    Lie,
}

/// The faults planted on a disk; each strikes once.
#[derive(Clone, Default)]
pub(super) struct Faults {
    pub(super) writes: Vec<(u64, WriteFault)>,
    pub(super) syncs: Vec<(u64, SyncFault)>,
    pub(super) dir_syncs: Vec<(u64, SyncFault)>,
    pub(super) reads: Vec<(u64, ReadFault)>,
    /// Mutating calls that fail with an error, by their number among all of them.
    pub(super) calls: Vec<(u64, Errno)>,
    /// Ranges of files that cannot be read until they are written again.
    pub(super) bad: Vec<(Name, std::ops::Range<u64>)>,
}

/// Takes the fault planted at `call`.
pub(super) fn take<T>(faults: &mut Vec<(u64, T)>, call: u64) -> Option<T> {
    let at = faults.iter().position(|(k, _)| *k == call)?;
    Some(faults.swap_remove(at).1)
}

impl SyncFault {
    pub(super) fn generator(seed: &Option<u64>) -> Option<SimRng> {
        seed.map(SimRng::new)
    }
}

/// Everything fails with this once the power is off.
#[derive(Debug, thiserror::Error)]
#[error("the power is off")]
pub(super) struct PowerOff;

pub(super) fn power_off() -> io::Error {
    io::Error::other(PowerOff)
}
