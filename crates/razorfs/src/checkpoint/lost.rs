//! Blocks a part of which was written over, and whose record in the segments is damaged. What was
//! written has to get its record all the same, or one damaged block would stop all checkpoints, and
//! with them the journal: the new record says of the rest that it is lost.

use std::collections::BTreeMap;
use std::time::Duration;

use razorfs_format::key::Key;
use razorfs_format::layout::FileName;
use razorfs_format::record::{BLOCK, Fragment, FragmentKind, Inode};
use razorfs_format::{Branch, Place, SegmentId};

use crate::store::{Core, Frozen, Sight};
use crate::{Error, Result};

/// So long a record that the host cannot read is waited for: a disk may come back.
const PATIENCE: Duration = Duration::from_secs(10);

/// Since when the host has not been able to read what a flush needs, by block.
#[derive(Default)]
pub(super) struct Unreadable {
    since: BTreeMap<Key, Duration>,
}

impl Unreadable {
    /// The fragments of a block whose record could not be read, with `error`. They are one that is
    /// lost where it is damaged, at a second look as well, or out of reach for long enough.
    pub fn give_up(
        &mut self,
        core: &Core,
        base: Sight<'_>,
        frozen: (&Frozen, Branch),
        key: &Key,
        error: Error,
    ) -> Result<Vec<Fragment>> {
        let again = match base.base_extent(key) {
            Err(e) if e.is_loss() => e,
            read => {
                self.was_read(key);
                return read;
            }
        };
        if !matches!(again, Error::Corrupt(_)) {
            let now = Duration::from_nanos(core.env.monotonic());
            let since = *self.since.entry(*key).or_insert(now);
            if now.saturating_sub(since) < PATIENCE {
                return Err(again);
            }
        }
        tracing::error!(
            inode = key.ino().0,
            block = key.second(),
            error = %error,
            "a part of a block whose record is damaged was written over: the rest of it is lost"
        );
        let len = reach(base, frozen, key);
        let kind = FragmentKind::Lost;
        let lost = (len > 0).then_some(Fragment { off: 0, len, kind });
        Ok(lost.into_iter().collect())
    }

    /// What the host did not read for a while it reads again.
    pub fn was_read(&mut self, key: &Key) {
        self.since.remove(key);
    }

    /// A flush came through.
    pub fn forget(&mut self) {
        self.since.clear();
    }
}

/// How much of a block can have been in use when its record was written: what lies beyond the end
/// of the file is zeros, whatever the record said.
fn reach(base: Sight<'_>, (frozen, branch): (&Frozen, Branch), key: &Key) -> u32 {
    let inode = Key::inode(key.branch(), key.ino());
    let value = match base.flushed(&inode) {
        Ok(value) => value,
        // Damaged as well. What was written over is in a file whose inode has changed since.
        Err(_) => match frozen.memtable.get(&inode.on(branch)) {
            Some(value) => value,
            None => return BLOCK,
        },
    };
    let place = Place::new(FileName::Segment(SegmentId(0)), 0);
    let size = match value.map(|value| Inode::decode(&value, place)) {
        Some(Ok(inode)) => inode.size,
        Some(Err(_)) => return BLOCK,
        None => 0,
    };
    let start = key.second().saturating_mul(u64::from(BLOCK));
    size.saturating_sub(start).min(u64::from(BLOCK)) as u32
}
