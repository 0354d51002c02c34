//! When a checkpoint is due, the journal's growth, and what the volume tells of itself.

use razorfs_format::superblock::{SHARED_FRAMES, State};

use super::{Checkpointer, Edit, Installer};
use crate::store::RoomMaker;
use crate::sync::atomic::Ordering;
use crate::{Error, Info, Result, Stats};

impl RoomMaker for Checkpointer {
    fn make_room(&self) -> Result<()> {
        Checkpointer::make_room(self)
    }
}

impl Checkpointer {
    /// Whether enough was done, or long enough ago, for a checkpoint.
    pub fn is_due(&self) -> bool {
        let core = &self.core;
        let policy = &core.tuning;
        let version = core.version.load();
        if !version.frozen.is_empty() || self.moves_are_due() {
            return true;
        }
        if version.active.is_empty() {
            return false;
        }
        if core.journal_is_tight() || version.active.bytes() >= policy.memtable_bytes {
            return true;
        }
        if policy.journal_only {
            return false;
        }
        let since = core.since_cut.load(Ordering::Relaxed);
        let last = self.last.load(Ordering::Relaxed);
        let age = core.env.monotonic().saturating_sub(last);
        let garbage = core.garbage_since_cut();
        since >= policy.checkpoint_journal
            || age >= policy.checkpoint_interval
            // Garbage is given back by checkpoints alone: some of it within a minute, much at once.
            || garbage >= core.garbage_most()
            || (garbage >= policy.garbage_soon / 16 && age >= policy.checkpoint_interval / 3)
    }

    /// One step of growing the journal, if it is small for what is written.
    pub fn grow(&self) -> Result<bool> {
        let core = &self.core;
        if core.failure().is_some() {
            return Ok(false);
        }
        if self.grow_ballast()? {
            return Ok(true);
        }
        let grown = self.grow_journal();
        core.note_room();
        core.latching(grown)
    }

    fn grow_journal(&self) -> Result<bool> {
        let core = &self.core;
        // A header that is ready spares the commit that changes files a flush.
        let mut busy = core.journal().ring.prepare()?;
        let enough = core.since_cut.load(Ordering::Relaxed) > core.journal_capacity() / 4;
        if (enough || core.journal_is_pressed()) && !core.host_is_low(self.largest_file)? {
            busy |= core.grow_ring()?;
        }
        Ok(busy)
    }

    /// Lets the journal grow until it takes a transaction of `bytes`, or as far as it and the host
    /// can. Files that are empty grow: first all but the one in use, whose length is the limit
    /// then; and that one, too, once another has taken its place.
    pub fn grow_journal_for(&self, bytes: usize) -> Result<()> {
        self.make_room()?;
        self.grow_empty_files(bytes)?;
        if self.core.limits.most() < bytes {
            self.core.latching(self.core.turn_journal())?;
            self.make_room()?;
            let installer = self.installer.lock();
            self.core.journal().ring.release(installer.previous_cut);
            drop(installer);
            self.grow_empty_files(bytes)?;
        }
        Ok(())
    }

    /// Whether the journal gets no more files for want of space.
    pub fn is_short_of_files(&self) -> Result<bool> {
        self.core.host_is_low(self.largest_file)
    }

    fn grow_empty_files(&self, bytes: usize) -> Result<()> {
        self.core.note_room();
        while self.core.limits.most() < bytes && !self.is_short_of_files()? {
            if !self.core.latching(self.core.grow_ring())? {
                break;
            }
        }
        Ok(())
    }

    /// One step of growing the ballast with what the volume stores, where the host has plenty.
    fn grow_ballast(&self) -> Result<bool> {
        let core = &self.core;
        let more = core.ballast.wanted(core.stored.load(Ordering::Relaxed));
        if more == 0 || core.host_is_low(2 * more)? {
            return Ok(false);
        }
        core.ballast.grow(core.disk.as_ref(), more)?;
        Ok(true)
    }

    /// Lets blocks share frames from now on. Both generations that could be mounted say so before:
    /// a version that does not count shared frames must open neither.
    pub fn allow_sharing(&self) -> Result<()> {
        let mut installer = self.installer.lock();
        if self.core.sharing.load(Ordering::Acquire) {
            return Ok(());
        }
        self.core.check_writable()?;
        for _ in 0..2 {
            let was = (
                installer.superblock.generation,
                installer.superblock.features,
            );
            installer.superblock.features.incompat |= SHARED_FRAMES;
            let installed = self.install(&mut installer, None, State::Dirty);
            if installer.superblock.generation == was.0 {
                // Nothing is shared: what is written next does not say so either.
                installer.superblock.features = was.1;
            }
            self.core.latching(installed)?;
        }
        self.core.sharing.store(true, Ordering::Release);
        Ok(())
    }

    /// Writes another generation, with a manifest of its own, that says the same.
    pub fn write_anew(&self, installer: &mut Installer) -> Result<()> {
        self.core.check_writable()?;
        let installed = self.install(installer, Some(Edit::default()), State::Dirty);
        self.core.latching(installed)
    }

    /// Counts since the volume was opened.
    pub fn stats(&self) -> Stats {
        let core = &self.core;
        let counts = &core.counts;
        let load = |count: &crate::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        let version = core.version.load();
        let cache = version.levels.cache();
        let (cache_lookups, cache_misses) = cache.counts();
        let (journal_used, journal_capacity) = core.journal_fill();
        Stats {
            ops: load(&counts.ops),
            batches: load(&counts.batches),
            journal_bytes: load(&counts.journal_bytes),
            written_bytes: load(&counts.data_bytes),
            disk_syncs: load(&counts.journal_syncs),
            checkpoints: load(&counts.checkpoints),
            compactions: load(&counts.compactions),
            cleaned_bytes: load(&counts.cleaned_bytes),
            cleaned_packs: load(&counts.cleaned_packs),
            removed_packs: load(&counts.removed_packs),
            slowed_ns: load(&counts.slowed_ns),
            pack_bytes: load(&counts.pack_bytes),
            segment_bytes: load(&counts.segment_bytes),
            dirty_bytes: core.bytes_in_ram(),
            parity_reads: core.healer.as_ref().map_or(0, |h| h.counts().0),
            parity_healed: core.healer.as_ref().map_or(0, |h| h.counts().1),
            cache_bytes: cache.used(),
            cache_limit: cache.budget(),
            cache_lookups,
            cache_misses,
            journal_used,
            journal_capacity,
            ..Stats::default()
        }
    }

    /// What the volume is.
    pub fn info(&self, uuid: [u8; 16]) -> Info {
        let core = &self.core;
        let installer = self.installer.lock();
        let segments = &installer.manifest.segments;
        let superblock = &installer.superblock;
        let features = superblock.features;
        Info {
            uuid,
            version: (1, 0),
            features: [features.compat, features.ro_compat, features.incompat],
            generation: superblock.generation.0,
            inodes: core.inodes.load(Ordering::Relaxed).max(0) as u64,
            bytes: core.bytes.saturated(),
            limit: superblock.geometry.limit,
            segments: segments.len() as u64,
            segment_bytes: segments.iter().map(|s| s.bytes).sum(),
            packs: installer.account.packs().count() as u64,
            pack_bytes: installer.account.totals().0,
            pack_live_bytes: installer.account.totals().1,
            journal_bytes: core.journal_host_bytes(),
            parity_bytes: installer.parity_bytes(core.vid).map(|(bytes, _)| bytes),
            parity_missing: installer
                .parity_bytes(core.vid)
                .map_or(0, |(_, missing)| missing),
            read_only: core
                .read_only
                .as_deref()
                .map(str::to_owned)
                .or_else(|| core.failure().map(|cause| Error::Failed(cause).to_string())),
            failing: {
                let failing = core.signals.failing.lock();
                let line = |(what, error)| format!("{what}: {error}");
                failing.iter().map(line).collect()
            },
        }
    }
}
