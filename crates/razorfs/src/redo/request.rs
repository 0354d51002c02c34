//! Which request a thread is carrying out.

use std::cell::Cell;

thread_local! {
    static REQUEST: Cell<u64> = const { Cell::new(0) };
    /// The slot of this thread, and of which memory.
    static SLOT: Cell<(u64, usize)> = const { Cell::new((0, 0)) };
}

/// Carries `work` out as the request of this number, or as none if that is 0: the transaction that
/// it makes carries the number, so that [`crate::Volume::applied`] knows it, also after the death
/// of this process. `work` makes one transaction, on this thread; what takes several makes all but
/// the last one as none.
pub fn as_request<R>(request: u64, work: impl FnOnce() -> R) -> R {
    struct Before(u64);
    impl Drop for Before {
        fn drop(&mut self) {
            REQUEST.set(self.0);
        }
    }
    let _before = Before(REQUEST.replace(request));
    work()
}

/// The request that this thread is carrying out; 0 if none.
#[must_use]
pub fn current() -> u64 {
    REQUEST.get()
}

/// The slot of this thread in the memory `instance`.
pub(super) fn slot_of(instance: u64, new: impl FnOnce() -> usize) -> usize {
    match SLOT.get() {
        (owner, slot) if owner == instance => slot,
        _ => {
            let slot = new();
            SLOT.set((instance, slot));
            slot
        }
    }
}
