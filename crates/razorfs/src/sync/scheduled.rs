//! What `sync` offers, on the scheduler of the crate `shuttle` ("A Randomized Scheduler with
//! Probabilistic Guarantees of Finding Bugs", Burckhardt et al., 2010). All threads of a test are
//! coroutines of one thread: exactly one goes on, and gives way at each lock, atomic and
//! notification. There is no time: who waits with a limit is woken by chance.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use shuttle::rand::Rng;
use shuttle::sync as under;

/// Threads of the scheduler, with the one call of the engine that it makes something else of.
pub mod thread {
    pub use shuttle::thread::{Builder, JoinHandle, current, yield_now};
    pub use std::thread::panicking;

    /// Gives way once. There is no time that could pass, and being woken early is allowed.
    pub fn park_timeout(_: std::time::Duration) {
        yield_now();
    }
}

/// `parking_lot::Mutex`.
#[derive(Debug, Default)]
pub struct Mutex<T: ?Sized>(under::Mutex<T>);

/// `parking_lot::MutexGuard`.
pub struct MutexGuard<'a, T: ?Sized> {
    lock: &'a under::Mutex<T>,
    /// None only while its owner waits, in [`Condvar`].
    held: Option<under::MutexGuard<'a, T>>,
}

/// What `parking_lot` does as well: a lock is free again when who held it has panicked.
fn whole<G>(result: Result<G, std::sync::PoisonError<G>>) -> G {
    result.unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl<T> Mutex<T> {
    /// A free lock.
    pub const fn new(value: T) -> Self {
        Self(under::Mutex::new(value))
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Waits for the lock.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard {
            lock: &self.0,
            held: Some(whole(self.0.lock())),
        }
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.held {
            Some(held) => held,
            None => unreachable!("a guard is not used while its owner waits"),
        }
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        match &mut self.held {
            Some(held) => held,
            None => unreachable!("a guard is not used while its owner waits"),
        }
    }
}

/// `parking_lot::RwLock`.
#[derive(Debug, Default)]
pub struct RwLock<T: ?Sized>(under::RwLock<T>);

/// `parking_lot::RwLockReadGuard`.
pub type RwLockReadGuard<'a, T> = under::RwLockReadGuard<'a, T>;
/// `parking_lot::RwLockWriteGuard`.
pub type RwLockWriteGuard<'a, T> = under::RwLockWriteGuard<'a, T>;

impl<T> RwLock<T> {
    /// A free lock.
    pub const fn new(value: T) -> Self {
        Self(under::RwLock::new(value))
    }
}

impl<T: ?Sized> RwLock<T> {
    /// Waits for a share of the lock.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        whole(self.0.read())
    }

    /// Waits for the lock.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        whole(self.0.write())
    }
}

/// `parking_lot::Condvar`.
#[derive(Debug, Default)]
pub struct Condvar(under::Condvar);

/// Whether the limit was reached.
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// Whether it was.
    pub const fn timed_out(&self) -> bool {
        self.0
    }
}

impl Condvar {
    /// Waits to be notified.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        if let Some(held) = guard.held.take() {
            guard.held = Some(whole(self.0.wait(held)));
        }
    }

    /// Gives way, and was notified or not as chance wills: being woken for nothing is allowed.
    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _: Duration) -> WaitTimeoutResult {
        drop(guard.held.take());
        thread::yield_now();
        guard.held = Some(whole(guard.lock.lock()));
        WaitTimeoutResult(shuttle::rand::thread_rng().gen_bool(0.5))
    }

    /// Wakes one of those who wait; whether there was one is not known.
    pub fn notify_one(&self) -> bool {
        self.0.notify_one();
        true
    }

    /// Wakes all who wait.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// `arc_swap::ArcSwap`: each call is one step.
#[derive(Debug)]
pub struct ArcSwap<T>(arc_swap::ArcSwap<T>);

impl<T> ArcSwap<T> {
    /// Holds this.
    pub fn from_pointee(value: T) -> Self {
        Self(arc_swap::ArcSwap::from_pointee(value))
    }

    /// What it holds, borrowed.
    pub fn load(&self) -> arc_swap::Guard<Arc<T>> {
        thread::yield_now();
        self.0.load()
    }

    /// What it holds.
    pub fn load_full(&self) -> Arc<T> {
        thread::yield_now();
        self.0.load_full()
    }

    /// Holds something else from now on.
    pub fn store(&self, value: Arc<T>) {
        thread::yield_now();
        self.0.store(value);
    }
}
