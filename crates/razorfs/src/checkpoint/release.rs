//! Giving back what only a snapshot held that was given up.
//!
//! A flush that takes a frame from the present while a snapshot shows it writes that down, with the
//! frame's birth, under the epoch of the flush; so what one snapshot alone holds lies in the epochs
//! between it and the next, and is found without looking at anything else
//! ([`Timeline::release`]). Where a rollback has left a line of time and its last snapshot goes,
//! what that line had written is found in the records that it wrote.
//!
//! What is to be freed is told from the snapshots as they are now, for one that was just taken may
//! show the same; and it is in the same generation as the list without the snapshot.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use razorfs_format::key::{Key, Tag};
use razorfs_format::layout::FileName;
use razorfs_format::manifest::SnapshotMeta;
use razorfs_format::record::{Extent, Held};
use razorfs_format::superblock::State;
use razorfs_format::timeline::{Release, Span, Timeline, View};
use razorfs_format::{Epoch, PackId, Place, SegmentId};

use super::{Checkpointer, Edit, Installer};
use crate::data::{Settled, frames_of};
use crate::marks::{self, Mark};
use crate::store::Version;
use crate::{Error, Result};

/// Frames that one generation gives back, about.
const AT_ONCE: usize = 64 << 10;
/// Snapshots that one generation releases, at most: whoever does anything waits while they are
/// taken from the list.
const SNAPSHOTS_AT_ONCE: usize = 256;

/// Records of segments passed their block's checksum; the place only names the table.
const SEGMENTS: Place = Place::new(FileName::Segment(SegmentId(0)), 0);

/// Frames by pack and position, with their bytes.
type Frames = BTreeMap<(PackId, u64), u64>;

impl Checkpointer {
    /// Releases snapshots that were given up; answers whether there were any.
    pub fn release(&self) -> Result<bool> {
        let mut released = self.release_unlatched();
        // On a full host this is what gives space back.
        if matches!(released, Err(Error::NoSpace))
            && self.core.ballast.release(self.core.disk.as_ref())
        {
            released = self.release_unlatched();
        }
        self.core.latching(released)
    }

    /// Looks at something while no snapshot is released.
    pub fn releasing_none<T>(&self, look: impl FnOnce() -> T) -> T {
        let _installer = self.installer.lock();
        look()
    }

    fn release_unlatched(&self) -> Result<bool> {
        let mut installer = self.installer.lock();
        if let Some(cause) = self.core.failure() {
            return Err(Error::Failed(cause));
        }
        let mut flushed = Timeline::clone(&installer.manifest.timeline);
        let gone: Vec<Arc<SnapshotMeta>> = flushed
            .snapshots()
            .iter()
            .filter(|s| s.gone && !self.core.is_viewed(s.id))
            .filter(|s| !installer.unreleasable.contains(&s.id))
            .cloned()
            .collect();
        if gone.is_empty() {
            return Ok(false);
        }
        let version = self.core.version.load_full();
        let mut now = Timeline::clone(&version.timeline);
        let (mut frames, mut ids) = (Frames::new(), Vec::new());
        for snapshot in gone {
            if frames.len() >= AT_ONCE || ids.len() >= SNAPSHOTS_AT_ONCE {
                break;
            }
            let id = snapshot.id;
            if !flushed.can_release(id) || !flushed.releases_alike(&now, id) {
                marks::hit(Mark::ReleaseWaits);
                continue;
            }
            let view = now.view(snapshot.epoch);
            let Some(release) = now.would_release(id) else {
                marks::hit(Mark::ReleaseWaits);
                continue;
            };
            let mut more = Frames::new();
            match gather(&version, &snapshot, &view, release, &mut more) {
                Ok(()) => {}
                Err(e) if e.is_loss() => {
                    // It will be as damaged the next time. The others go on.
                    tracing::warn!(error = %e, "what a deleted snapshot holds is not given back");
                    installer.unreleasable.insert(id);
                    continue;
                }
                Err(e) => return Err(e),
            }
            frames.extend(more);
            now.release(id);
            flushed.release(id);
            ids.push(id);
        }
        if ids.is_empty() {
            return Ok(false);
        }
        self.core.fence.check()?;
        marks::hit(Mark::ReleaseDone);
        let died = frames
            .into_iter()
            .map(|((pack, pos), bytes)| (pack, pos..pos.saturating_add(bytes)));
        let died: Vec<(PackId, Range<u64>)> = died.collect();
        if !died.is_empty() {
            marks::hit(Mark::ReleaseFreed);
        }
        let edit = Edit {
            settled: Settled::released(died),
            timeline: Some(Arc::new(flushed)),
            released: ids,
            ..Edit::default()
        };
        self.install(&mut installer, Some(edit), State::Dirty)?;
        // What a snapshot kept in its place may be moved.
        installer.cleaning.start_over();
        Ok(true)
    }

    /// Bytes of frames that each snapshot alone holds, by its number: what giving it up alone would
    /// give back.
    pub fn held_by(&self) -> Result<BTreeMap<u64, u64>> {
        let installer = self.installer.lock();
        let version = self.core.version.load_full();
        let timeline = &version.timeline;
        let mut held = BTreeMap::new();
        for snapshot in timeline.snapshots().iter().filter(|s| !s.gone) {
            let mut frames = Frames::new();
            if let Some(release) = timeline.would_release(snapshot.id) {
                let view = timeline.view(snapshot.epoch);
                gather(&version, snapshot, &view, release, &mut frames)?;
            }
            held.insert(snapshot.id, frames.values().sum());
        }
        drop(installer);
        Ok(held)
    }
}

/// Adds what releasing a snapshot frees.
fn gather(
    version: &Version,
    snapshot: &SnapshotMeta,
    view: &View,
    release: Release,
    frames: &mut Frames,
) -> Result<()> {
    match release {
        Release::Nothing => {}
        Release::Held { killed, after } => {
            let line = |epoch| version.timeline.line(epoch);
            let mut lines = killed.iter().map(|(first, _)| line(*first));
            if lines.any(|other| other != line(snapshot.epoch)) {
                marks::hit(Mark::ReleaseJoined);
            }
            for (first, last) in killed {
                gather_held(version, first, last, after..=snapshot.epoch, frames)?;
            }
        }
        Release::End { after } => {
            marks::hit(Mark::ReleaseLine);
            gather_line(version, view, after, frames)?;
        }
    }
    Ok(())
}

/// The frames that were killed between two epochs, both among them, and born after the beginning of
/// `born`, and up to its end.
fn gather_held(
    version: &Version,
    first: Epoch,
    last: Epoch,
    born: std::ops::RangeInclusive<Epoch>,
    frames: &mut Frames,
) -> Result<()> {
    let from = Key::held(first, PackId(0), 0);
    let to = match last {
        Span::OPEN => Key::last_of(Tag::Held),
        _ => Key::held(last.next(), PackId(0), 0),
    };
    // They are written once and belong to no line.
    for record in version.levels.range(&from, &to, &View::everything()) {
        let record = record?;
        let Some(value) = record.value else { continue };
        let held = Held::decode(&value, SEGMENTS)?;
        if *born.start() < held.birth && held.birth <= *born.end() {
            frames.insert(record.key.frame(), held.bytes);
        }
    }
    Ok(())
}

/// The frames that a line shows at its end and that were born after an epoch.
fn gather_line(version: &Version, view: &View, after: Epoch, frames: &mut Frames) -> Result<()> {
    let mut young = version.levels.written_after(Tag::Extent, after);
    let mut last = None;
    while let Some(record) = young.next()? {
        // Of each block the newest that the line has.
        if record.epoch <= after || !view.sees(record.epoch) {
            continue;
        }
        if last.replace(record.key) == Some(record.key) {
            continue;
        }
        let Some(value) = record.value else {
            continue;
        };
        let extent = Extent::decode(&value, SEGMENTS)?;
        let young = frames_of(&extent.fragments).filter(|f| f.birth > after);
        frames.extend(young.map(|f| ((f.pack, f.pos), f.bytes)));
    }
    Ok(())
}

impl Installer {
    /// The snapshots as of the end of a frozen memtable, without those that were released since.
    pub(super) fn timeline_of(&self, frozen: &Arc<Timeline>) -> Arc<Timeline> {
        if self.released.is_empty() {
            return Arc::clone(frozen);
        }
        let mut timeline = Timeline::clone(frozen);
        for id in &self.released {
            timeline.release(*id);
        }
        Arc::new(timeline)
    }
}

#[cfg(test)]
#[path = "release_tests.rs"]
mod tests;
