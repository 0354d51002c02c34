//! Opening a volume: the road of an operation in reverse, bounded by the journal's ring.
//!
//! Superblock, manifest, journal replay into a memtable, a new generation that fences off any
//! other host, and the removal of files that no generation names. Nothing is overwritten before
//! the new generation is durable, so a crash during recovery only makes the next one start again.

mod config;
mod create;
mod generations;
mod leftovers;
mod replay;
mod unfinished;

use std::collections::BTreeMap;
use std::sync::Arc;

use razorfs_disk::{Disk, DiskError, Env, Guard, LockMode, OpenHow};
use razorfs_format::layout::FileName;
use razorfs_format::manifest::{Manifest, PackMeta};
use razorfs_format::pack;
use razorfs_format::superblock::names::Set;
use razorfs_format::superblock::{self, Access, ManifestRef, SHARED_FRAMES, State, Superblock};
use razorfs_format::{BatchSeq, Epoch, Ino, PackId, Place, VolumeId};

pub(crate) use create::create;
pub(crate) use unfinished::is_free;

use crate::checkpoint::superfile::SuperFile;
use crate::checkpoint::{Checkpointer, Installer, InstallerStart, Parity, name_of};
use crate::data::{Account, PackReader, PackWriter};
use crate::fence::Fence;
use crate::journal::{RecoveryReport, Ring, goes_on};
use crate::marks::{self, Mark};
use crate::redo::RedoMemory;
use crate::store::{Ballast, Core, Ids, Journal, Left, Start, Version};
use crate::sync::atomic::AtomicU64;
use crate::{Error, Options, RecoverySummary, Result};
use replay::Replay;

/// An open volume, before its threads run.
pub(crate) struct Opened {
    pub checkpointer: Arc<Checkpointer>,
    pub guard: Box<dyn Guard>,
    pub summary: RecoverySummary,
    pub uuid: [u8; 16],
    /// What is to be done again before anything else.
    pub left: Option<Left>,
}

/// More checkpoints than a resume makes, for what is one batch, or a few where the host is full.
const RESUME_EPOCHS: u64 = 64;

/// Inode numbers skipped after a crash, for each mount since the manifest: those that were given
/// out and never became durable are not given out again, since somebody may still hold them.
const INO_GAP: u64 = 1 << 20;
/// No volume is mounted so often between two checkpoints; a superblock that says so is not right.
const MOUNTS_MAX: u64 = 1 << 24;

/// Opens and recovers a volume. Where the host has no room for what must be written first, as a
/// copy of a journal file, the ballast makes room, and recovery begins anew as after a crash.
pub(crate) fn open(disk: Arc<dyn Disk>, env: Arc<dyn Env>, options: &Options) -> Result<Opened> {
    match recover(Arc::clone(&disk), Arc::clone(&env), options) {
        Err(Error::NoSpace) if Ballast::open(disk.as_ref(), 0).release(disk.as_ref()) => {
            marks::hit(Mark::RecoveryBallast);
            recover(disk, env, options)
        }
        Err(Error::Disk(e)) if e.is_not_found() => Err(incomplete(&e)),
        opened => opened,
    }
}

/// What is said of a volume of which something is missing that no opening can do without.
fn incomplete(missing: &DiskError) -> Error {
    let why = format!(
        "a part of it is missing ({missing}); if this is a copy, copy all of it again, else run \
         `razorfs verify`"
    );
    Error::NotAVolume(why.into())
}

fn recover(disk: Arc<dyn Disk>, env: Arc<dyn Env>, options: &Options) -> Result<Opened> {
    let mode = if options.read_only {
        LockMode::Shared
    } else {
        LockMode::Exclusive
    };
    let guard = lock(disk.as_ref(), mode)?;
    let read = SuperFile::read(disk.as_ref());
    let mut superblock = read
        .map_err(|e| unfinished::explain(disk.as_ref(), e))?
        .newest;
    let read_only = access(&superblock, options)?;
    let manifest = read_manifest(disk.as_ref(), superblock.vid(), &superblock.manifest)?;
    // What is not to be gone on with is refused while it is as it was.
    let redo = options.redo.as_deref().filter(|_| read_only.is_none());
    let resumes = redo.map_or(Ok(false), |redo| {
        redo.attach(superblock.vid(), superblock.nonce)
    })?;
    let clean_end = clean_end(disk.as_ref(), &superblock)?;
    let found = superblock.clone();
    let mut replay = Replay::new(&found, &manifest, options, &disk);
    let mut agree = |report: &RecoveryReport| {
        generations::check(disk.as_ref(), &found, report.newest_generation)?;
        if read_only.is_none() && !report.read_only {
            unfinished::finish(disk.as_ref())?;
            SuperFile::read_and_heal(disk.as_ref())?;
            fence(&disk, env.as_ref(), &mut superblock, redo)?;
        }
        Ok(())
    };
    let (ring, mut report) = replay.run(&found, clean_end, read_only.is_some(), &mut agree)?;
    if report.read_only
        && !replay.has_root()?
        && let Some(damage) = report.damage.pop()
    {
        // The volume was never checkpointed, and what made its root is damaged: there is nothing
        // to show, and an empty tree would be a wrong answer.
        return Err(damage.into());
    }
    report
        .damage
        .extend(generations::lost(&found, report.newest_generation));
    let read_only = read_only.or_else(|| damaged(&report));
    let left = match (redo.filter(|_| resumes), &read_only) {
        (Some(_), Some(why)) => return Err(Error::ReadOnly(Arc::clone(why))),
        (Some(redo), None) => Some(replay.adopt(Left::read(redo.left(report.last)?)?)),
        (None, _) => None,
    };
    let clean = clean_end.is_some();
    let mut opening = Opening {
        disk,
        env,
        superblock,
        manifest,
        replay,
        read_only,
        clean,
    };
    report.damage.extend(opening.missing()?);
    opening.adopt_listing()?;
    if opening.read_only.is_none() {
        opening.remove_leftovers()?;
    }
    let mut summary = opening.summary(&report);
    summary.redone = left.as_ref().map(Left::count);
    let uuid = opening.superblock.uuid;
    let checkpointer = opening.build(ring, &report, options)?;
    Ok(Opened {
        checkpointer: Arc::new(checkpointer),
        guard,
        summary,
        uuid,
        left,
    })
}

/// The last batch of a volume that was closed in order and not opened since.
fn clean_end(disk: &dyn Disk, superblock: &Superblock) -> Result<Option<BatchSeq>> {
    let Some(end) = superblock.clean_end() else {
        return Ok(None);
    };
    let copies = superblock.geometry.journal.copies;
    let opened = goes_on(disk, superblock.vid(), copies, superblock.journal, end)?;
    Ok((!opened).then_some(end))
}

/// Why nothing may be written, if the journal says so.
fn damaged(report: &RecoveryReport) -> Option<Arc<str>> {
    let first = report.damage.first().map(ToString::to_string);
    let first = first.unwrap_or_default();
    let why = || format!("its journal is damaged ({first}); run `razorfs verify`").into();
    report.read_only.then(why)
}

fn lock(disk: &dyn Disk, mode: LockMode) -> Result<Box<dyn Guard>> {
    disk.lock(mode).map_err(|e| match &e.holder {
        Some(holder) => Error::Locked(holder.as_str().into()),
        None if e.is_not_found() => Error::NotAVolume(
            format!(
                "{} is missing: not a RazorFS volume; `razorfs create` makes one",
                e.path
            )
            .into(),
        ),
        None => e.into(),
    })
}

/// Whether, and how, the volume may be opened; answers why not for writing.
fn access(superblock: &Superblock, options: &Options) -> Result<Option<Arc<str>>> {
    match superblock.features.access() {
        Access::Writable if options.read_only => Ok(Some("it was opened so".into())),
        Access::Writable => Ok(None),
        Access::ReadOnly(bits) => {
            let features = superblock.names.of(Set::RoCompat, bits);
            let why = format!(
                "this version does not know its feature {features}, and can only read it; use a \
                 newer one"
            );
            Ok(Some(why.into()))
        }
        Access::Refused(bits) => {
            let features = superblock.names.of(Set::Incompat, bits);
            let why = format!(
                "this version does not know the volume's feature {features}; use a newer razorfs"
            );
            Err(Error::NotAVolume(why.into()))
        }
    }
}

/// Writes the next generation: the same manifest and the same start of the journal under a new
/// nonce, so that a second host that has the volume open notices at its next checkpoint. From here
/// on both valid generations need the same files, so recovery may take any other for its own.
fn fence(
    disk: &Arc<dyn Disk>,
    env: &dyn Env,
    superblock: &mut Superblock,
    redo: Option<&RedoMemory>,
) -> Result<()> {
    superblock.generation = superblock.generation.next();
    superblock.nonce = env.random();
    superblock.state = State::Dirty;
    // It may die in the midst of it.
    if let Some(redo) = redo {
        redo.expect_nonce(superblock.nonce);
    }
    SuperFile::write(disk.as_ref(), superblock)?;
    // Of two that open at the same time one has lost.
    Fence::new(Arc::clone(disk), superblock).check()?;
    if let Some(redo) = redo {
        redo.settle_nonce();
    }
    Ok(())
}

fn read_manifest(disk: &dyn Disk, vid: VolumeId, named: &ManifestRef) -> Result<Manifest> {
    let name = FileName::Manifest(named.id);
    let file = match disk.open(&name_of(name), OpenHow::Read) {
        // As where a copy of the volume is not complete.
        Err(e) if e.is_not_found() => {
            let place = Place::new(name, 0);
            return Err(place
                .error("manifest", "the file that SUPER names", "none")
                .into());
        }
        file => file?,
    };
    let len = file.len()?;
    if len != u64::from(named.len) {
        let place = Place::new(name, 0);
        return Err(place
            .error("manifest", format_args!("{} bytes", named.len), len)
            .into());
    }
    let mut bytes = vec![0; named.len as usize];
    file.read_at(&mut bytes, 0)?;
    if Manifest::crc(&bytes) != named.crc {
        let place = Place::new(name, u64::from(named.len).saturating_sub(4));
        let (expected, got) = (named.crc, Manifest::crc(&bytes));
        return Err(place.error("manifest checksum", expected, got).into());
    }
    Ok(Manifest::decode(&bytes, vid, named.id)?)
}

/// A volume whose journal is replayed.
struct Opening {
    disk: Arc<dyn Disk>,
    env: Arc<dyn Env>,
    superblock: Superblock,
    manifest: Manifest,
    replay: Replay,
    read_only: Option<Arc<str>>,
    /// It had been closed in order.
    clean: bool,
}

impl Opening {
    fn summary(&self, report: &RecoveryReport) -> RecoverySummary {
        RecoverySummary {
            clean: self.clean,
            batches: report.batches,
            ops: report.ops,
            bytes: report.bytes,
            torn: report.torn.is_some(),
            damage: report.damage.iter().map(ToString::to_string).collect(),
            healed: report.healed.iter().map(ToString::to_string).collect(),
            orphans: 0,
            redone: None,
        }
    }

    /// The packs as the manifest and the journal have them; at most three go on growing.
    fn packs(&self) -> (Vec<PackMeta>, Vec<PackMeta>) {
        let birth = self.replay.memtable.last_epoch();
        let mut packs: BTreeMap<PackId, PackMeta> =
            self.manifest.packs.iter().map(|p| (p.id, *p)).collect();
        for (id, end) in &self.replay.frames {
            let meta = packs.entry(*id).or_insert_with(|| PackMeta {
                id: *id,
                sealed: false,
                len: pack::HEADER_LEN,
                total: 0,
                live: 0,
                last_birth: birth,
            });
            let more = end.saturating_sub(meta.len);
            meta.len = meta.len.saturating_add(more);
            meta.total = meta.total.saturating_add(more);
            meta.last_birth = meta.last_birth.max(birth);
        }
        // What is to be done again may refer to them, and is in no memtable when the first
        // checkpoints are made: these are not the ones to find them dead.
        for id in &self.replay.awaited {
            if let Some(meta) = packs.get_mut(id) {
                meta.last_birth = Epoch(birth.0.saturating_add(RESUME_EPOCHS));
            }
        }
        let mut open: Vec<PackMeta> = packs.values().filter(|p| !p.sealed).cloned().collect();
        let surplus = open.len().saturating_sub(3);
        for meta in open.drain(..surplus) {
            marks::hit(Mark::RecoveryPackSurplus);
            if let Some(meta) = packs.get_mut(&meta.id) {
                meta.sealed = true;
            }
        }
        (packs.into_values().collect(), open)
    }

    /// A writer of packs that goes on with one, or begins a new one.
    fn writer(
        &self,
        ids: &Arc<Ids>,
        reopen: Option<PackMeta>,
        written: &Arc<AtomicU64>,
    ) -> PackWriter {
        let ids = Arc::clone(ids);
        let new_id = Arc::new(move || ids.pack());
        let (disk, vid) = (Arc::clone(&self.disk), self.superblock.vid());
        let pack_bytes = self.superblock.geometry.pack_bytes;
        PackWriter::new(disk, vid, pack_bytes, new_id, reopen).counting(Arc::clone(written))
    }

    fn build(
        self,
        mut ring: Option<Ring>,
        report: &RecoveryReport,
        options: &Options,
    ) -> Result<Checkpointer> {
        let fence = Arc::new(Fence::new(Arc::clone(&self.disk), &self.superblock));
        if let Some(ring) = &mut ring {
            // The generation before the fence begins at the same batch.
            ring.release(self.superblock.journal.batch);
            ring.set_fence(Arc::clone(&fence));
            ring.set_linked(self.superblock.features.incompat & superblock::LINKED_BATCHES != 0);
        }
        let (packs, mut open) = self.packs();
        let vid = self.superblock.vid();
        let geometry = self.superblock.geometry;
        let next = &self.manifest.counters;
        let ids = Arc::new(Ids::new(
            self.next_ino(report),
            next.next_segment,
            next.next_pack,
            packs.iter().map(|p| p.id),
        ));
        let pack_bytes = Arc::default();
        let mut writer = || self.writer(&ids, open.pop(), &pack_bytes);
        let (hot, cold, cleaned) = (writer(), writer(), writer());
        let account = Account::new(packs);
        let parity = match config::parity_shard(&geometry) {
            Some(shard) => Some(Parity::new(shard, self.packs_with_parity()?)),
            None => None,
        };
        let segments = self.manifest.segments.iter().map(|s| s.bytes);
        let counters = self.replay.counters.clone();
        let version = Version::new(
            Arc::new(self.replay.memtable),
            self.replay.frozen,
            self.replay.levels,
            Arc::new(self.replay.timeline),
        );
        let core = Core::new(Start {
            disk: Arc::clone(&self.disk),
            env: self.env,
            vid,
            hash_key: self.superblock.hash_key,
            tuning: config::tuning(&geometry, options),
            version,
            ballast: Ballast::open(self.disk.as_ref(), options.geometry.reserve_bytes),
            stored: segments.fold(account.totals().0, u64::saturating_add),
            reader: PackReader::new(self.replay.host.clone(), vid),
            healer: self.replay.host.healer,
            journal: ring.map(|ring| Journal::new(ring, hot, report.last)),
            last: report.last,
            replayed: report.bytes,
            next_lsn: counters.lsn,
            generation: self.superblock.generation,
            sharing: self.superblock.features.incompat & SHARED_FRAMES != 0,
            ids,
            inodes: counters.inodes as i64,
            bytes: counters.bytes,
            forks: counters.forks,
            pack_bytes: Arc::clone(&pack_bytes),
            redo: options.redo.clone().filter(|_| self.read_only.is_none()),
            read_only: self.read_only,
            fence,
        });
        let installer = Installer::new(InstallerStart {
            superblock: self.superblock,
            manifest: self.manifest,
            cold,
            cleaned,
            account,
            parity,
            segment_options: config::segment_options(&geometry),
            compaction_options: config::compaction_options(&geometry),
        });
        Ok(Checkpointer::new(Arc::new(core), installer))
    }

    /// The first inode number to give out. A volume that was closed has it in its manifest. After a
    /// crash any mount since the manifest was written may have given out numbers that nothing on
    /// the disk shows; each had a generation of its own.
    fn next_ino(&self, report: &RecoveryReport) -> Ino {
        let next = self.replay.counters.next_ino;
        if self.clean {
            return next;
        }
        let generation = self
            .superblock
            .generation
            .max(report.newest_generation.next());
        let since = generation.0.saturating_sub(self.manifest.generation.0);
        let skipped = INO_GAP.saturating_mul(since.clamp(1, MOUNTS_MAX));
        Ino(next.0.saturating_add(skipped))
    }
}

#[cfg(test)]
mod recovery_tests;
#[cfg(test)]
mod unfinished_tests;
