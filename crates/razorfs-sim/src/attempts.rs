//! Many attempts to damage a volume, with several threads, and what came of them.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::marks::Marks;

/// What came of the damage.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// How often each answer was seen.
    pub marks: Marks,
    /// Damage that was not noticed, or led to a panic.
    pub failures: Vec<String>,
    /// Damage tried.
    pub tried: u64,
}

/// Tries all of `items` with several threads, and sums up.
pub(crate) fn each<T: Sync>(
    items: &[T],
    jobs: usize,
    attempt: impl Fn(u64, &T, &mut Outcome) + Sync,
) -> Outcome {
    let next = AtomicU64::new(0);
    let outcome = Mutex::new(Outcome::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                let mut mine = Outcome::default();
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(at as usize) else {
                        break;
                    };
                    attempt(at, item, &mut mine);
                }
                let mut all = outcome.lock();
                all.marks.merge(&mine.marks);
                all.failures.append(&mut mine.failures);
                all.tried += mine.tried;
            });
        }
    });
    outcome.into_inner()
}
