//! Puts a damaged volume back into a state that is whole, and tells what is lost of it.
//!
//! The newest generation of which the least is lost is read, with the journal over it
//! ([`source`]); what agrees of its names and inodes stays ([`tree`], [`names`]), data are what
//! passes its checksums ([`data`], [`frames`]). The result is written as new metadata and then made
//! the volume ([`commit`]); packs stay where they are. Without `commit` nothing is written.
//! Snapshots are put right each by itself ([`past`]) and stay below the present ([`versions`]);
//! what one shows of a file that the present has harmed is put beside ([`older`]).
//!
//! Memory: what [`crate::verify`] needs at its highest level, which knows a bounded number of
//! damaged frames (the others are read once more where something refers to them), 24 bytes for
//! each name that goes, 100 for each that comes, and where extents are lost 150 for each frame that
//! may belong to them. Where no superblock is left every name comes anew. Where there are
//! snapshots, about 100 for each frame, and in each snapshot for each record that it is to show
//! otherwise than the segments say the bytes of that and 80 more.

mod candidates;
mod commit;
mod data;
mod evidence;
mod frames;
mod moment;
mod names;
mod older;
mod past;
mod paths;
mod records;
mod report;
mod source;
mod survey;
mod tree;
mod upgrade;
mod versions;
mod writer;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use razorfs_disk::{Dir, Disk, DiskError, Env};
use razorfs_format::layout::FileName;
use razorfs_format::manifest::{Counters, Manifest, PackMeta, SnapshotMeta};
use razorfs_format::pack::{FRAME_ALIGN, HEADER_LEN};
use razorfs_format::record::Time;
use razorfs_format::stream::{HIDDEN, PART, RECEIVING};
use razorfs_format::superblock::{Access, SHARED_FRAMES, Superblock};
use razorfs_format::timeline::Timeline;
use razorfs_format::{Epoch, Ino, ManifestId, PackId, SegmentId};

pub use report::{Gap, Lose, Loss, Older, Outcome, Shown};
pub use survey::{Hit, files_hit};

use crate::journal::{self, Behind};
use crate::packs::Packs;
use crate::parity::Healed;
use crate::roots::Roots;
use crate::session::{Opened, Session, name_of};
use crate::view::View;
use crate::{FindingKind as K, LEVEL_MAX, Progress, Severity};
use candidates::Known;
use commit::Commit;
use evidence::Evidence;
use frames::Frames;
use moment::{Ground, Moment};
use older::{Olders, Present};
use past::{Difference, Past};
use records::Made;
use source::Source;
use versions::Versions;
use writer::Writer;

/// Inode numbers skipped: some may have been given out and be lost.
const INO_GAP: u64 = 1 << 20;

/// How to repair.
#[derive(Clone, Copy, Debug, Default)]
pub struct RepairOptions {
    /// Write it. Else nothing is changed, and the outcome tells what would be.
    pub commit: bool,
    /// Apply the batches of the journal behind a damaged one, too.
    pub after_gap: bool,
    /// To whom inodes belong whose records are lost, if the root's is lost, too.
    pub owner: (u32, u32),
    /// Write a volume of an older version in the newest one, and nothing else: one that is damaged
    /// is refused, and so is whatever would lose anything. [`Outcome::needed`] tells whether it is
    /// of an older version.
    pub upgrade: bool,
    /// Most damaged frames that are remembered, if not 100,000. Those beyond are looked at again
    /// for each reference to them.
    pub remembered: Option<usize>,
}

/// Why there was no repair.
#[derive(Debug)]
pub enum RepairError {
    /// The host failed.
    Disk(DiskError),
    /// There is nothing that could be repaired, or nothing that this version may write.
    Refused(String),
    /// The caller stopped it; nothing is changed.
    Stopped,
}

impl fmt::Display for RepairError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(e) => e.fmt(f),
            Self::Refused(why) => f.write_str(why),
            Self::Stopped => f.write_str("interrupted; nothing was changed"),
        }
    }
}

impl std::error::Error for RepairError {}

impl From<DiskError> for RepairError {
    fn from(e: DiskError) -> Self {
        Self::Disk(e)
    }
}

type Done<T> = Result<T, RepairError>;

/// Findings that are no errors, and that a repair puts right all the same.
const REPAIRABLE: [K; 9] = [
    K::JournalFileHeader,
    K::OrphanWrong,
    K::CounterInodes,
    K::CounterBytes,
    K::PackHeader,
    K::PackAccountHigh,
    K::PackTotal,
    K::SharedCountHigh,
    K::HeldMissing,
];

/// Repairs the volume on `disk`, whose exclusive lock the caller holds. `progress` is called now
/// and then; if it answers `false` before the new generation is written, nothing is changed.
pub fn repair(
    disk: &dyn Disk,
    env: &dyn Env,
    options: &RepairOptions,
    progress: &mut dyn FnMut(Progress) -> bool,
) -> Done<Outcome> {
    let stopped = Cell::new(false);
    let mut step = |at: Progress| {
        let go_on = progress(at);
        stopped.set(stopped.get() || !go_on);
    };
    let real = disk;
    let healed = heal(real, true, &mut step)?;
    let disk = &healed as &dyn Disk;
    let findings = crate::verify(disk, LEVEL_MAX, &mut step)?;
    let mut out = Outcome::new(findings);
    out.healed = healed.damage.healable().count() as u64;
    refuse(&out)?;
    let wrong = |f: &crate::Finding| f.severity >= Severity::Error || REPAIRABLE.contains(&f.kind);
    out.needed = out.findings.findings.iter().any(wrong);
    if options.upgrade {
        out.needed = upgrade::is_due(disk, &mut step, &mut out)?;
    }
    if stopped.get() {
        return Err(RepairError::Stopped);
    }
    if !out.needed {
        if options.commit && !options.upgrade {
            healed.write_back()?;
        }
        return Ok(out);
    }
    let mut s = Session::new(disk, LEVEL_MAX, &mut step);
    s.salvage = true;
    s.bad_max = options.remembered.unwrap_or(s.bad_max);
    let mut volume = read(&mut s, env, options, &mut out)?;
    upgrade::prepare(options, &volume)?;
    let made = Made {
        uid: options.owner.0,
        gid: options.owner.1,
        now: Time::from_unix_nanos(env.now()),
    };
    let target = options.commit.then_some(real);
    let (mut writer, built) = rebuild(&mut s, &mut volume, made, target, &mut out)?;
    let wrote = writer.finish();
    let mut commit = plan(&mut s, &volume, &built, &mut writer, &out);
    commit.superblock.nonce = env.random();
    let whole = upgrade::check(options, &out);
    if !options.commit {
        return whole.map(|()| out);
    }
    let wrote = wrote.map_err(RepairError::from).and(whole);
    let ready = wrote.and_then(|()| {
        if stopped.get() {
            return Err(RepairError::Stopped);
        }
        // From the same shards again, if it is interrupted: it changes nothing that was right.
        healed.write_back()?;
        commit.prepare(&volume.evidence)?;
        if stopped.get() {
            return Err(RepairError::Stopped);
        }
        Ok(())
    });
    if let Err(e) = ready {
        commit.take_back();
        return Err(e);
    }
    commit.switch()?;
    out.set_aside = commit.finish()?;
    upgrade::finish(options, &mut commit)?;
    out.committed = Some(commit.superblock.generation.next());
    Ok(out)
}

/// The disk as parity makes it; without `data`, its metadata alone.
fn heal<'d>(disk: &'d dyn Disk, data: bool, step: &mut dyn FnMut(Progress)) -> Done<Healed<'d>> {
    let mut s = Session::new(disk, LEVEL_MAX, step);
    if let Some(roots) = crate::roots::check(&mut s)?
        && roots.parity()
    {
        crate::parity::segments(&mut s, &roots);
        if data {
            crate::parity::packs(&mut s, &roots);
        }
    }
    Ok(Healed {
        disk,
        vid: s.vid,
        damage: Arc::new(std::mem::take(&mut s.damage)),
    })
}

/// What must not be touched.
fn refuse(out: &Outcome) -> Done<()> {
    let unknown = |f: &&crate::Finding| {
        let kinds = [K::NewerVersion, K::UnknownFeatures, K::ReadOnlyFeatures];
        kinds.contains(&f.kind)
    };
    match out.findings.findings.iter().find(unknown) {
        Some(finding) => Err(RepairError::Refused(format!(
            "{} ({}); {}",
            finding.meaning, finding.detail, finding.remedy
        ))),
        None => Ok(()),
    }
}

/// The damaged volume, read as far as it can be.
struct Volume {
    source: Source,
    known: Known,
    evidence: Evidence,
    newest: Option<Superblock>,
    /// Every frame is looked at, also those whose headers are right.
    reads_data: bool,
}

fn read(
    s: &mut Session<'_>,
    env: &dyn Env,
    options: &RepairOptions,
    out: &mut Outcome,
) -> Done<Volume> {
    let slots = candidates::superblocks(s);
    let known = match slots.first() {
        Some(newest) => {
            s.vid = newest.vid();
            Known {
                superblock: newest.clone(),
                is_real: true,
            }
        }
        None => {
            s.vid = unnamed_volume(s)?;
            Known {
                superblock: candidates::made_up(s, &mut || env.random())?,
                is_real: false,
            }
        }
    };
    let copies = known.superblock.geometry.journal.copies;
    let lives = journal::lives(s, copies)?;
    let mut evidence = Evidence::collect(s, &slots, &lives)?;
    let candidates = candidates::find(s, &known, &slots, &lives, &mut evidence)?;
    if evidence.is_at_its_end() {
        let why = "it names numbers that no volume reaches: somebody has made it so";
        return Err(RepairError::Refused(why.into()));
    }
    let Some(mut source) = source::choose(s, candidates, &lives)? else {
        return Err(RepairError::Refused(
            "no generation of the volume is left".into(),
        ));
    };
    out.rekeyed = !known.is_real;
    out.listed = source.candidate.listed;
    out.source = source.candidate.roots.superblock.generation;
    out.fallback = slots.first().is_some_and(|n| out.source < n.generation);
    if let Some(stop) = source.stop {
        let h = &mut evidence.highest;
        h.batch = h.batch.max(stop.batch);
        let behind = Behind::find(&lives, stop);
        let applied = match options.after_gap {
            true => behind.apply(s, &lives, &mut source.replay),
            false => 0,
        };
        let times = |h: &razorfs_format::journal::BatchHeader| h.wall_ns;
        let written = behind.headers().map(times).min();
        out.gap = Some(Gap {
            batch: stop.batch,
            batches: behind.headers().count() as u64,
            operations: behind.headers().map(|h| u64::from(h.n_ops)).sum(),
            written: written.zip(behind.headers().map(times).max()),
            applied,
        });
    }
    Ok(Volume {
        source,
        known,
        evidence,
        newest: slots.into_iter().next(),
        reads_data: true,
    })
}

/// Which volume it is, where no superblock says so.
fn unnamed_volume(s: &mut Session<'_>) -> Done<razorfs_format::VolumeId> {
    let creating = name_of(FileName::Creating);
    if s.list(Dir::Root)?.contains(&creating) {
        let why = "its creation was interrupted, so it holds nothing; `razorfs create` makes it \
                   anew";
        return Err(RepairError::Refused(why.into()));
    }
    candidates::volume_of(s)?.ok_or_else(|| {
        let why = "no file of a volume is left that says which one it is; check that this is \
                   the right directory, and restore it from a backup";
        RepairError::Refused(why.into())
    })
}

/// What was written besides the segments.
struct Built {
    /// Several blocks may refer to one frame.
    share: bool,
    /// Bytes of each pack that anybody sees.
    live: BTreeMap<PackId, u64>,
    packs: Vec<PackMeta>,
    next_ino: Ino,
    epoch: Epoch,
    /// The snapshots that are kept.
    timeline: Timeline,
}

/// Which snapshots are kept: all, or none where it is not known what they show.
fn past_of(volume: &mut Volume, out: &mut Outcome) -> Past {
    let replay = &mut volume.source.replay;
    let timeline = &mut replay.timeline;
    out.branches = past::end_branches(timeline, &replay.forks);
    // Where a stream was being received, what was before is shown, and moments are not in order.
    let is_known = !volume.source.candidate.listed && timeline.find(RECEIVING).is_none();
    // A part of a stream is no state of the volume; it is sent again.
    if let Some(part) = timeline.find(PART).map(|part| part.id) {
        timeline.give_up(part);
    }
    if is_known && let Ok(past) = Past::new(timeline) {
        // What was given up needs nobody's attention.
        *timeline = past.timeline.clone();
        return past;
    }
    let live = timeline.snapshots().iter();
    let is_shown = |s: &&Arc<SnapshotMeta>| !s.gone && s.name.first() != Some(&HIDDEN);
    let mut live: Vec<_> = live.filter(is_shown).collect();
    live.sort_by_key(|s| s.id);
    out.snapshots = live.iter().map(|s| past::shown(s, None)).collect();
    Past::default()
}

/// The frames of blocks whose records may be lost from any moment.
fn frames_of(
    s: &mut Session<'_>,
    source: &Source,
    replay: &journal::Replay,
    metas: &[PackMeta],
    view: &View,
) -> Frames {
    let roots = &source.candidate.roots;
    let mut torn = data::torn(s, view);
    for snapshot in replay.timeline.snapshots() {
        torn.append(&mut data::torn(s, &View::of(roots, replay, snapshot)));
    }
    Frames::find(s, metas, &source.lost, &torn)
}

/// Reads everything that is left, and writes what belongs together.
fn rebuild<'d>(
    s: &mut Session<'_>,
    volume: &mut Volume,
    made: Made,
    target: Option<&'d dyn Disk>,
    out: &mut Outcome,
) -> Done<(Writer<'d>, Built)> {
    let mut past = past_of(volume, out);
    let source = &mut volume.source;
    let roots = &source.candidate.roots;
    let mut packs = Packs::new(roots, &source.replay);
    if volume.reads_data {
        packs.walk(s, roots);
    }
    let metas: Vec<PackMeta> = packs.metas().collect();
    let replay = std::mem::replace(&mut source.replay, journal::Replay::of(roots));
    let (source, evidence) = (&volume.source, &volume.evidence);
    let roots = &source.candidate.roots;
    let view = View::shown(roots, &replay);
    let mut ground = Ground {
        hash_key: roots.superblock.hash_key,
        rekey: !volume.known.is_real,
        lost: &source.lost,
        frames: frames_of(s, source, &replay, &metas, &view),
        packs,
        evidence,
        made,
    };
    let next = past.mend(s, &mut ground, (roots, &replay), out);
    let geometry = &volume.known.superblock.geometry;
    let youngest = metas.iter().map(|m| m.last_birth).max().unwrap_or_default();
    let youngest = youngest
        .max(past.newest_epoch())
        .max(data::youngest(s, &view));
    let epoch = Epoch(evidence.epoch.max(youngest).0.saturating_add(1));
    let first = SegmentId(evidence.segment.0.saturating_add(1));
    let mut writer = Writer::new(target, s.vid, geometry, epoch, first);
    let mut moment = Moment {
        view: &view,
        is_past: false,
        before: past.before(past.parent_of_head()),
        olders: &Olders::default(),
    };
    if past.is_empty() {
        let mended = ground.mend(s, &moment, out, &mut writer);
        let built = Built {
            share: mended.references.share(),
            live: mended.references.live,
            packs: metas,
            next_ino: mended.next_ino,
            epoch,
            timeline: Timeline::default(),
        };
        return Ok((writer, built));
    }
    let olders = besides(
        s,
        &mut ground,
        &past,
        (&moment, next),
        (roots, &replay),
        out,
    );
    moment.olders = &olders;
    let mut versions = Versions::new(&past, &view, &mut writer);
    let mended = ground.mend(s, &moment, out, &mut versions);
    let (live, share) = versions.finish(s);
    let timeline = past.counted();
    let timeline = timeline.map_err(|why| RepairError::Refused(format!("expected {why}")))?;
    let built = Built {
        share,
        live,
        packs: metas,
        next_ino: mended.next_ino.max(next),
        epoch,
        timeline,
    };
    Ok((writer, built))
}

/// What snapshots show of files of which the present has lost something: what that is has to be
/// known before anything can be put beside it. Their numbers are beyond `next`.
fn besides(
    s: &mut Session<'_>,
    ground: &mut Ground<'_>,
    past: &Past,
    (moment, next): (&Moment<'_>, Ino),
    (roots, replay): (&Roots, &journal::Replay),
    out: &mut Outcome,
) -> Olders {
    let mut told = Outcome::of_snapshot(out.room);
    let mut sink = Difference::new(moment.view);
    let mended = ground.mend(s, moment, &mut told, &mut sink);
    let next = next.max(mended.next_ino).next();
    let view_of = |snapshot: &SnapshotMeta| View::of(roots, replay, snapshot);
    let present = Present {
        view: moment.view,
        patch: &sink.finish(s),
        told: &told,
    };
    let packs = &mut ground.packs;
    let (olders, told) = older::choose(s, packs, past, &view_of, &present, next);
    out.olders = told;
    olders
}

/// The generation that is to be written.
fn plan<'d>(
    s: &mut Session<'d>,
    volume: &Volume,
    built: &Built,
    writer: &mut Writer<'_>,
    out: &Outcome,
) -> Commit<'d> {
    let evidence = &volume.evidence;
    let newest = volume.newest.as_ref().map(|n| n.generation);
    let generation = commit::generation_after(evidence, newest);
    let start = commit::journal_after(evidence);
    let (packs, headless) = packs_of(s, built);
    let next_manifest = evidence.manifest.next();
    let manifest = Manifest {
        id: next_manifest,
        generation,
        segments: std::mem::take(&mut writer.metas),
        packs,
        counters: Counters {
            next_ino: built.next_ino,
            next_segment: writer.next,
            next_pack: evidence.pack.next(),
            next_manifest: ManifestId(next_manifest.0 + 1),
            inodes: out.inodes,
            bytes: out.bytes,
            epoch: built.epoch,
            lsn: evidence.highest.lsn,
        },
        branches: Vec::new(),
        timeline: Arc::new(built.timeline.clone()),
    };
    let mut superblock = volume.known.superblock.clone();
    superblock.generation = generation;
    superblock.journal = start;
    superblock.cut = manifest.counters.lsn;
    superblock.end = razorfs_format::BatchSeq(start.batch.0.saturating_sub(1));
    if built.share {
        superblock.features.incompat |= SHARED_FRAMES;
    }
    debug_assert_eq!(superblock.features.access(), Access::Writable);
    Commit {
        disk: s.disk,
        vid: s.vid,
        superblock,
        manifest,
        headless,
        sealed: built
            .packs
            .iter()
            .filter(|p| p.sealed)
            .map(|p| p.id)
            .collect(),
        slot: evidence.slot.saturating_add(1),
    }
}

/// The packs that stay, and those of them whose headers are damaged. Nothing is appended to them.
fn packs_of(s: &mut Session<'_>, built: &Built) -> (Vec<PackMeta>, Vec<PackId>) {
    let (mut packs, mut headless) = (Vec::new(), Vec::new());
    for meta in &built.packs {
        let Opened::File(_, file_len) = s.open(FileName::Pack(meta.id)) else {
            continue;
        };
        let len = meta.len.min(file_len) / FRAME_ALIGN * FRAME_ALIGN;
        let live = built.live.get(&meta.id).copied().unwrap_or(0);
        let bad = commit::is_headless(s.disk, s.vid, meta.id);
        if len < HEADER_LEN || (bad && live == 0) {
            continue;
        }
        if bad {
            headless.push(meta.id);
        }
        packs.push(PackMeta {
            sealed: true,
            len,
            total: len - HEADER_LEN,
            live,
            ..*meta
        });
    }
    (packs, headless)
}
