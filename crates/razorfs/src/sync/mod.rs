//! The locks, atomics and threads of the engine: those of `parking_lot`, `arc_swap` and the
//! standard library. With the feature `shuttle`, which is for tests only, they are those of a
//! scheduler that decides at each of them who goes on, so that one seed is one interleaving
//! (`scheduled`).

#[cfg(feature = "shuttle")]
mod scheduled;
#[cfg(test)]
#[cfg(feature = "shuttle")]
mod scheduled_tests;

#[cfg(not(feature = "shuttle"))]
pub use arc_swap::ArcSwap;
#[cfg(not(feature = "shuttle"))]
pub use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
#[cfg(not(feature = "shuttle"))]
pub use std::{
    sync::{atomic, mpsc},
    thread,
};

/// Unlocks, and lets whoever waits longest go first: for who locks again at once, over and over.
#[cfg(not(feature = "shuttle"))]
pub fn unlock_fairly<T>(guard: MutexGuard<'_, T>) {
    MutexGuard::unlock_fair(guard);
}

/// Unlocks; who goes first is the scheduler's choice.
#[cfg(feature = "shuttle")]
pub fn unlock_fairly<T>(guard: MutexGuard<'_, T>) {
    drop(guard);
}

#[cfg(feature = "shuttle")]
pub use scheduled::{
    ArcSwap, Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, thread,
};
#[cfg(feature = "shuttle")]
pub use shuttle::sync::{atomic, mpsc};
