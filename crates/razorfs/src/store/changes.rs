//! What was written since two states of the volume parted.

use std::collections::BTreeSet;
use std::sync::Arc;

use razorfs_format::Branch;
use razorfs_format::key::{Key, Tag};

use super::{At, Core, Version};
use crate::{Error, Result};

impl Core {
    /// The keys of a table that were written in one of two states and not in what both go back to.
    /// The time it takes grows with what was written, and very little with the volume.
    pub fn written_apart(&self, a: &At, b: &At, tag: Tag) -> Result<BTreeSet<Key>> {
        let mut version = self.version.load_full();
        loop {
            match version.written_apart(a, b, tag) {
                Err(e @ (Error::Disk(_) | Error::Corrupt(_))) => {
                    // A segment may have gone meanwhile: the newer version has what it needs.
                    let newer = self.version.load_full();
                    if Arc::ptr_eq(&newer, &version) {
                        return Err(e);
                    }
                    version = newer;
                }
                found => return found,
            }
        }
    }
}

impl Core {
    /// The first keys of a table from `from` on that a state has, or once had.
    pub fn some_keys(&self, at: &At, from: &Key, most: usize) -> Result<BTreeSet<Key>> {
        let tag = from.tag();
        self.with_sight(at, |sight| {
            let mut keys = BTreeSet::new();
            for (memtable, branch) in sight.memtables() {
                let known = memtable.sorted(branch, tag, |_| ());
                keys.extend(known.into_iter().map(|(key, ())| key).filter(|k| k >= from));
            }
            for record in sight.segments(from, &Key::last_of(tag)).take(most) {
                keys.insert(record?.key);
            }
            // What comes after the last of a layer that was not read to its end is not all there.
            while keys.len() > most {
                keys.pop_last();
            }
            Ok(keys)
        })
    }
}

impl Version {
    fn written_apart(&self, a: &At, b: &At, tag: Tag) -> Result<BTreeSet<Key>> {
        let mut keys = BTreeSet::new();
        for since in [a, b].into_iter().filter_map(At::since) {
            let written = since.sorted(Branch::HEAD, tag, |_| ());
            keys.extend(written.into_iter().map(|(key, ())| key));
        }
        let (a, b) = (self.view_at(a)?, self.view_at(b)?);
        let parted = a.parting(b);
        let is_apart = |epoch| epoch > parted && (a.sees(epoch) || b.sees(epoch));
        for memtable in self.memtables() {
            for (branch, _) in memtable.writers().into_iter().filter(|w| is_apart(w.1)) {
                let written = memtable.sorted(branch, tag, |_| ());
                keys.extend(written.into_iter().map(|(key, ())| key));
            }
        }
        let mut young = self.levels.written_after(tag, parted);
        while let Some(record) = young.next()? {
            if is_apart(record.epoch) {
                keys.insert(record.key);
            }
        }
        Ok(keys)
    }
}
