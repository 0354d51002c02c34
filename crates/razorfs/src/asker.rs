//! Who asks for what a thread does, for the journal to say.

use std::cell::Cell;

thread_local! {
    static ASKER: Cell<Option<Asker>> = const { Cell::new(None) };
}

/// A program that asks for something.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Asker {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// The process; 0 if it is not known.
    pub pid: u32,
}

impl Asker {
    /// Carries `work` out on its behalf: the journal says so of each operation that `work` makes on
    /// this thread.
    pub fn asks<R>(self, work: impl FnOnce() -> R) -> R {
        struct Before(Option<Asker>);
        impl Drop for Before {
            fn drop(&mut self) {
                ASKER.set(self.0);
            }
        }
        let _before = Before(ASKER.replace(Some(self)));
        work()
    }
}

/// On whose behalf this thread works, if that is known.
pub(crate) fn current() -> Option<Asker> {
    ASKER.get()
}
