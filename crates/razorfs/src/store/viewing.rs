//! Who looks at a snapshot keeps it.

use std::sync::Arc;

use razorfs_format::manifest::SnapshotMeta;
use razorfs_format::timeline::{Timeline, View};

use super::Core;
use crate::{Error, Result};

/// Somebody looks at a snapshot: until this is dropped it is not released.
pub(crate) struct Viewing {
    core: Arc<Core>,
    pub snapshot: SnapshotMeta,
}

impl Viewing {
    /// Of a snapshot that was not given up.
    pub fn new(core: &Arc<Core>, name: &[u8]) -> Result<(Self, View)> {
        Self::of(core, |timeline| timeline.find(name).cloned())
    }

    /// Of any that nobody releases meanwhile.
    pub fn of(
        core: &Arc<Core>,
        find: impl FnOnce(&Timeline) -> Option<SnapshotMeta>,
    ) -> Result<(Self, View)> {
        let mut viewed = core.viewed.lock();
        // Under the lock: whoever gives it up from here on finds it in use.
        let timeline = Arc::clone(&core.version.load().timeline);
        let snapshot = find(&timeline).ok_or(Error::NotFound)?;
        *viewed.entry(snapshot.id).or_default() += 1;
        drop(viewed);
        let view = timeline.view(snapshot.epoch);
        let core = Arc::clone(core);
        Ok((Self { core, snapshot }, view))
    }
}

impl Drop for Viewing {
    fn drop(&mut self) {
        let mut viewed = self.core.viewed.lock();
        if let Some(n) = viewed.get_mut(&self.snapshot.id) {
            *n -= 1;
            if *n == 0 {
                viewed.remove(&self.snapshot.id);
            }
        }
    }
}

impl Core {
    /// Whether somebody looks at a snapshot.
    pub fn is_viewed(&self, id: u64) -> bool {
        self.viewed.lock().contains_key(&id)
    }
}
