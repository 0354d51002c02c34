//! How the first threads of all queues come up together, or none does.
//!
//! The kernel sends requests to the rings when each queue has a thread, and until then holds them
//! back. They become known to it one after the other, so that after a failure no further one does:
//! a queue lacks a thread then, and it is certain that the kernel has not begun.

use std::io;

use parking_lot::{Condvar, Mutex};

use super::NoRings;

/// Why the kernel does not send requests to the rings.
#[derive(Debug, thiserror::Error)]
pub enum NotRegistered {
    /// A queue lacks its thread, and the kernel knows that: everything comes over /dev/fuse.
    #[error("{0}")]
    Refused(NoRings),
    /// What the kernel does is not known: it may wait for the rings, so the mount has to end.
    #[error("{0}")]
    Unknown(io::Error),
}

/// How a first thread failed.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// The kernel does not know of it.
    Absent(String),
    /// The kernel may know of it, and nobody serves it.
    Doubtful(String),
}

impl Failure {
    pub(super) fn absent(e: &io::Error) -> Self {
        Self::Absent(format!("a ring of requests cannot be set up ({e})"))
    }

    pub(super) fn doubtful(e: &io::Error) -> Self {
        Self::Doubtful(format!("a ring of requests has broken ({e})"))
    }
}

/// How far the first threads of all queues are.
#[derive(Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// How many there are, have what they need, and are known to the kernel.
    threads: usize,
    built: usize,
    registered: usize,
    failure: Option<Failure>,
    /// Whether they are to go on.
    go: Option<bool>,
}

impl Gate {
    /// So many threads are going to come.
    pub(super) fn expect(&self, threads: usize) {
        self.state.lock().threads = threads;
    }

    /// A thread has what it needs: waits until it is told whether it is needed.
    pub(super) fn is_let_in(&self) -> bool {
        let mut state = self.state.lock();
        state.built += 1;
        self.changed.notify_all();
        loop {
            if let Some(go) = state.go {
                return go;
            }
            self.changed.wait(&mut state);
        }
    }

    /// Has `register` tell the kernel of a thread, unless one has failed; says whether it is known
    /// to the kernel now. One at a time, and each does not take long.
    pub(super) fn register(&self, register: impl FnOnce() -> Result<(), Failure>) -> bool {
        let mut state = self.state.lock();
        if state.failure.is_some() || state.go != Some(true) {
            return false;
        }
        match register() {
            Ok(()) => state.registered += 1,
            Err(failure) => state.failure = Some(failure),
        }
        self.changed.notify_all();
        state.failure.is_none()
    }

    /// A first thread has failed. False if all are known to the kernel, so that nobody looks for
    /// that here any more.
    pub(super) fn fail(&self, failure: Failure) -> bool {
        let mut state = self.state.lock();
        if state.registered == state.threads {
            return false;
        }
        // One that leaves doubt is worse than one that does not.
        if !matches!(state.failure, Some(Failure::Doubtful(_))) {
            state.failure = Some(failure);
        }
        self.changed.notify_all();
        true
    }

    /// They are to go on, or to end; the first word counts.
    pub(super) fn let_go(&self, on: bool) {
        self.state.lock().go.get_or_insert(on);
        self.changed.notify_all();
    }

    /// Waits until all have what they need.
    pub(super) fn all_built(&self) -> Result<(), Failure> {
        self.wait_for(|state| state.built == state.threads)
    }

    /// Waits until all are known to the kernel.
    pub(super) fn all_registered(&self) -> Result<(), Failure> {
        self.wait_for(|state| state.registered == state.threads)
    }

    fn wait_for(&self, there: impl Fn(&State) -> bool) -> Result<(), Failure> {
        let mut state = self.state.lock();
        loop {
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            if there(&state) {
                return Ok(());
            }
            if state.go == Some(false) {
                return Err(Failure::Absent("the mount has ended".to_owned()));
            }
            self.changed.wait(&mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn absent() -> Failure {
        Failure::absent(&io::Error::other("x"))
    }

    fn doubtful() -> Failure {
        Failure::doubtful(&io::Error::other("y"))
    }

    fn gate() -> Gate {
        let gate = Gate::default();
        gate.expect(3);
        gate.let_go(true);
        gate
    }

    #[test]
    fn after_one_thread_is_refused_none_becomes_known_to_the_kernel() {
        let gate = gate();
        assert!(gate.register(|| Ok(())));
        assert!(!gate.register(|| Err(absent())));
        assert!(!gate.register(|| panic!("the kernel would believe that all are there")));
        assert!(matches!(gate.all_registered(), Err(Failure::Absent(_))));
    }

    #[test]
    fn a_failure_beside_threads_that_come_up_is_told_to_who_waits_for_them() {
        let gate = gate();
        assert!(gate.register(|| Ok(())));
        assert!(gate.fail(doubtful()));
        assert!(gate.fail(absent()));
        assert!(matches!(gate.all_registered(), Err(Failure::Doubtful(_))));
    }

    #[test]
    fn a_failure_when_all_are_up_is_for_somebody_else() {
        let gate = gate();
        assert!((0..3).all(|_| gate.register(|| Ok(()))));
        assert!(!gate.fail(doubtful()));
        assert!(gate.all_registered().is_ok());
    }

    #[test]
    fn a_thread_that_panics_while_it_registers_does_not_hold_up_the_others() {
        let gate = gate();
        let panics = std::panic::AssertUnwindSafe(|| gate.register(|| panic!("on purpose")));
        assert!(std::panic::catch_unwind(panics).is_err());
        assert!(gate.fail(doubtful()));
        assert!(!gate.register(|| Ok(())));
        assert!(matches!(gate.all_registered(), Err(Failure::Doubtful(_))));
    }
}
