//! Requests that are being carried out, and waiting until those of a moment have been answered.
//!
//! What the kernel is told to forget must not come to it afterwards, in the answer to a request
//! that had looked at the volume before the change. So whoever tells it first waits for all of
//! these, and there is no request that this would not hold for.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use parking_lot::{Mutex, RwLock};
use razorfs::Ino;

/// The requests that are being carried out, and what their answers have to say of the past.
pub(crate) struct Underway {
    /// Each request of the present has a sender; the receiver sees when the last one is gone.
    present: Mutex<(Sender<()>, Receiver<()>)>,
    /// Held by who waits. A second one has a new receiver, and would not see those that the first
    /// still waits for: they may have looked before the second one's change, too.
    settling: Mutex<()>,
    /// Directories that have come back after the kernel had seen them removed, and how often that
    /// was: one for each that it held then.
    returned: RwLock<HashMap<Ino, u64>>,
    has_returned: AtomicBool,
    /// Is called by who is about to wait.
    #[cfg(test)]
    pub(crate) waits: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

/// A request, to be dropped when its answer is with the kernel, and not before.
#[must_use = "dropped before the kernel has the answer it is for nothing"]
pub struct Unanswered {
    _sender: Option<Sender<()>>,
}

impl Unanswered {
    /// One that nobody waits for, as it tells the kernel nothing of what may change.
    pub const fn alone() -> Self {
        Self { _sender: None }
    }
}

impl Default for Underway {
    fn default() -> Self {
        Self {
            present: Mutex::new(channel()),
            settling: Mutex::default(),
            returned: RwLock::default(),
            has_returned: AtomicBool::new(false),
            #[cfg(test)]
            waits: Mutex::default(),
        }
    }
}

impl Underway {
    /// A directory is another one to the kernel from now on.
    pub(crate) fn returned(&self, dir: Ino) {
        *self.returned.write().entry(dir).or_default() += 1;
        self.has_returned.store(true, Ordering::Release);
    }

    /// What tells an inode from one that had its number before: numbers are never used again but by
    /// what has come back.
    pub(crate) fn generation(&self, ino: Ino) -> u64 {
        if !self.has_returned.load(Ordering::Acquire) {
            return 0;
        }
        self.returned.read().get(&ino).copied().unwrap_or(0)
    }

    /// A request comes, and nothing was looked at for it yet.
    pub(crate) fn begin(&self) -> Unanswered {
        Unanswered {
            _sender: Some(self.present.lock().0.clone()),
        }
    }

    /// Waits until all that have begun by now are answered. Those that begin meanwhile are not
    /// waited for, nor do they wait.
    pub(crate) fn settle(&self) {
        let _settling = self.settling.lock();
        let (sender, gone) = std::mem::replace(&mut *self.present.lock(), channel());
        drop(sender);
        #[cfg(test)]
        if let Some(waits) = self.waits.lock().take() {
            waits();
        }
        // Nobody sends: it is the end of the last sender that is waited for.
        let _ = gone.recv();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_begun_is_waited_for_and_who_comes_later_is_not() {
        let underway = Underway::default();
        underway.settle();
        let before = underway.begin();
        *underway.waits.lock() = Some(Box::new(|| {}));
        std::thread::scope(|scope| {
            let settled = scope.spawn(|| underway.settle());
            while underway.waits.lock().is_some() {
                std::thread::yield_now();
            }
            let later = underway.begin();
            assert!(!settled.is_finished());
            drop(before);
            settled.join().unwrap();
            drop(later);
        });
    }

    #[test]
    fn what_one_waits_for_another_waits_for_as_well() {
        let underway = Underway::default();
        let before = underway.begin();
        let ended = AtomicBool::new(false);
        *underway.waits.lock() = Some(Box::new(|| {}));
        std::thread::scope(|scope| {
            let first = scope.spawn(|| underway.settle());
            while underway.waits.lock().is_some() {
                std::thread::yield_now();
            }
            let second = scope.spawn(|| {
                underway.settle();
                assert!(ended.load(Ordering::Acquire), "the request is not answered");
            });
            // Long enough for who does not wait.
            std::thread::sleep(std::time::Duration::from_millis(50));
            ended.store(true, Ordering::Release);
            drop(before);
            first.join().unwrap();
            second.join().unwrap();
        });
    }
}
