//! Slowing writers down where they write over data faster than its space is given back.
//!
//! What is written over takes space until two generations were written, and until the pack that
//! holds it was cleaned, if it lies among what is still needed. Where the host, or the
//! limit of the volume, leaves much more than the volume takes, nobody waits; where it does not,
//! each write waits a little, the more the further the garbage is beyond what starts a checkpoint,
//! and the waste beyond what starts cleaning, so that all come to the same rate.

use std::time::Duration;

use super::Core;
use crate::sync::atomic::Ordering;
use crate::sync::thread;

/// Nanoseconds that a write waits at most.
const MOST: u64 = 10_000_000;

impl Core {
    /// Bytes of data that may have become garbage at which a checkpoint is due at once.
    pub fn garbage_most(&self) -> u64 {
        let stored = self.stored.load(Ordering::Relaxed);
        let soon = self.tuning.garbage_soon;
        match self.is_confined() {
            true => (soon / 16).max(stored / 512),
            false => soon.max(stored / 32),
        }
    }

    /// Waits, if writers are to be slowed down. The caller holds no lock.
    pub fn pace(&self) {
        if !self.tuning.threads || self.tuning.journal_only {
            return;
        }
        let most = self.garbage_most();
        let over = self.garbage_since_cut().saturating_sub(most);
        let waste = self.waste_over.load(Ordering::Relaxed);
        if over.max(waste) > 0 && self.is_confined() {
            let stored = self.stored.load(Ordering::Relaxed);
            let nap = pause(over, most).max(pause(waste, stored / 16));
            if nap > 0 {
                thread::park_timeout(Duration::from_nanos(nap));
                self.counts.slowed_ns.fetch_add(nap, Ordering::Relaxed);
            }
        }
    }

    /// Whether there is not much more space than what the volume takes.
    pub fn is_confined(&self) -> bool {
        let stored = self.stored.load(Ordering::Relaxed);
        let free = self.host_free.load(Ordering::Relaxed);
        let limit = self.tuning.limit;
        limit.is_some_and(|limit| self.bytes.saturated() > limit / 2)
            || free < i64::try_from(stored.saturating_mul(2)).unwrap_or(i64::MAX)
    }
}

/// How long a write waits with so much garbage beyond what there should be.
fn pause(over: u64, most: u64) -> u64 {
    let most = u128::from(most.max(1));
    let part = u128::from(over).min(most);
    // The square: little beyond costs next to nothing.
    (u128::from(MOST) * part * part / (most * most)) as u64
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use razorfs_disk::sim::{SimDisk, SimEnv};

    use super::*;
    use crate::{CreateOptions, Durability, Options, Volume};

    /// Whether it waits where there is much waste.
    fn is_slowed(volume: &Volume, what: &dyn Fn()) -> bool {
        // A step of cleaning beside it finds that there is none.
        (0..50).any(|_| {
            let waste = &volume.inner.store.waste_over;
            waste.store(u64::MAX, Ordering::Relaxed);
            let before = volume.stats().slowed_ns;
            what();
            volume.stats().slowed_ns > before
        })
    }

    #[test]
    fn all_that_write_data_are_slowed_down_and_nobody_else() {
        let (disk, env) = (Arc::new(SimDisk::new()), Arc::new(SimEnv::new(1)));
        let create = CreateOptions {
            limit: Some(1 << 20),
            ..CreateOptions::default()
        };
        Volume::create_on(disk.clone(), env.clone(), &create).unwrap();
        let volume = Volume::open_on(disk, env, Options::default()).unwrap();
        let fs = volume.root();
        fs.write("a", vec![1; 400_000]).unwrap();
        fs.write("b", vec![2; 400_000]).unwrap();
        let ino = |name: &str| volume.find_by_path(name.as_bytes()).unwrap();
        let (a, b) = (ino("a"), ino("b"));
        let is_slowed = |what: &dyn Fn()| is_slowed(&volume, what);
        assert!(is_slowed(&|| {
            volume.write(a, 0, b"x").unwrap();
        }));
        assert!(is_slowed(&|| {
            volume.append(a, b"x").unwrap();
        }));
        assert!(is_slowed(&|| {
            let mut tx = fs.transaction();
            tx.write("c", b"x").unwrap();
            tx.commit(Durability::Async).unwrap();
        }));
        assert!(is_slowed(&|| {
            assert_eq!(volume.copy_range(a, 0, b, 0, 8192).unwrap(), 8192);
        }));
        assert!(is_slowed(&|| volume.collapse_range(a, 0, 4096).unwrap()));
        assert!(is_slowed(&|| volume.insert_range(b, 4096, 4096).unwrap()));
        let rename = || fs.rename("c", "d").and_then(|()| fs.rename("d", "c"));
        assert!(!is_slowed(&|| rename().unwrap()));
        volume.close().unwrap();
    }

    #[test]
    fn writers_are_slowed_down_smoothly_and_by_no_more_than_ten_milliseconds() {
        assert_eq!(pause(0, 1000), 0);
        assert!(pause(10, 1000) < 2000);
        assert_eq!(pause(500, 1000), MOST / 4);
        assert_eq!(pause(1000, 1000), MOST);
        assert_eq!(pause(u64::MAX, 1000), MOST);
        assert_eq!(pause(1, 0), MOST);
        let pauses: Vec<u64> = (0..100).map(|n| pause(n, 90)).collect();
        assert!(pauses.is_sorted());
    }
}
