//! A frozen memtable becomes segments: patches are resolved against what lies below, inline bytes
//! that grew too large move into packs, and what came and went of the references to frames is
//! summed up. Each branch that has written in it is a part of its own, over what that branch shows,
//! and with an epoch of its own.

use std::cmp::Reverse;
use std::sync::Arc;

use razorfs_format::key::{Key, Tag};
use razorfs_format::manifest::SegmentMeta;
use razorfs_format::record::{Extent, Fragment, FragmentKind, Held};
use razorfs_format::timeline::{Timeline, View};
use razorfs_format::{Branch, Epoch, PackId, SegmentId};

use super::Installer;
use super::clean::Moves;
use super::lost::Unreadable;
use crate::Result;
use crate::data::{self, FrameIdentity, FrameWrite, Settled, Turnover};
use crate::marks::{self, Mark};
use crate::store::{Core, Frozen, Sight, Version};
use crate::tree::memtable::Slot;
use crate::tree::piece::Piece;
use crate::tree::{Record, write_segments};

/// Raw bytes of frames that are gathered for one write.
const GATHER: usize = 8 << 20;

/// What a flush wrote.
pub(super) struct Flushed {
    /// The segments, under their temporary names.
    pub segments: Vec<SegmentMeta>,
    /// Frames that have other places now.
    moves: Arc<Moves>,
    /// What that means for the packs.
    pub settled: Settled,
    /// The snapshots, as of the end of the memtable.
    pub timeline: Arc<Timeline>,
}

impl Flushed {
    /// Of a flush that moves these frames, and has written nothing.
    pub fn new(moves: Arc<Moves>, timeline: Arc<Timeline>) -> Self {
        Self {
            timeline,
            segments: Vec::new(),
            moves,
            settled: Settled::default(),
        }
    }
}

/// What one branch has written.
struct Part {
    branch: Branch,
    epoch: Epoch,
    /// The references to frames that came and went.
    turnover: Turnover,
    /// What that means for the tree.
    settled: Settled,
}

/// Writes the segments of a frozen memtable. After an error `flushed` has those that were written.
pub(super) fn flush(
    core: &Core,
    installer: &mut Installer,
    version: &Version,
    frozen: &Frozen,
    flushed: &mut Flushed,
) -> Result<()> {
    let run = installer.next_run;
    let writers = frozen.memtable.writers().into_iter();
    let mut parts: Vec<(Part, View)> = writers
        .map(|(branch, epoch)| {
            // What is below it, which is not what the present shows if that was rolled back since.
            let view = flushed.timeline.view(epoch);
            let part = Part {
                branch,
                epoch,
                turnover: Turnover::default(),
                settled: Settled::default(),
            };
            (part, view)
        })
        .collect();
    if parts.len() > 1 {
        marks::hit(Mark::FlushBranches);
    }
    for tag in Tag::ALL {
        let mut records: Vec<Record> = Vec::new();
        for (part, view) in &mut parts {
            let base = version.at(view);
            records.extend(records_of(
                core, installer, tag, base, frozen, part, flushed,
            )?);
        }
        if records.is_empty() {
            continue;
        }
        if parts.len() > 1 {
            records.sort_unstable_by_key(|r| (r.key, Reverse(r.epoch)));
        }
        let mut new_id = || -> SegmentId { core.ids.segment() };
        let mut records = records.into_iter().map(Ok);
        flushed.segments.extend(write_segments(
            core.disk.as_ref(),
            core.vid,
            tag,
            0,
            run,
            &mut new_id,
            &mut records,
            &installer.segment_options,
        )?);
    }
    Ok(())
}

/// What a branch has written of a table.
fn records_of(
    core: &Core,
    installer: &mut Installer,
    tag: Tag,
    base: Sight<'_>,
    frozen: &Frozen,
    part: &mut Part,
    flushed: &mut Flushed,
) -> Result<Vec<Record>> {
    let epoch = part.epoch;
    Ok(match tag {
        Tag::Extent => extents(core, installer, base, frozen, part, flushed)?,
        // After the extents, from which they follow.
        Tag::Shared => shared(base, part, flushed)?,
        Tag::Held => held(part),
        _ => {
            let records = frozen.memtable.sorted(part.branch, tag, |slot| match slot {
                Slot::Put { value, .. } => Some(Arc::clone(value)),
                Slot::Del | Slot::Block(_) => None,
            });
            let records = records.into_iter();
            let record = |(key, value)| Record { key, epoch, value };
            records.map(record).collect()
        }
    })
}

/// The counts of shared frames that the flush changes.
fn shared(base: Sight<'_>, part: &mut Part, flushed: &mut Flushed) -> Result<Vec<Record>> {
    let epoch = part.epoch;
    let turnover = std::mem::take(&mut part.turnover);
    // The newest snapshot that shows what was there before.
    let newest = flushed.timeline.before(epoch);
    part.settled = turnover.settle(newest, |pack, pos| base.shared(pack, pos))?;
    if part.settled.any_died() {
        marks::hit(Mark::FlushFrameDied);
    }
    flushed.settled.add(&part.settled);
    let counts = part.settled.counts.iter();
    if counts.len() > 0 {
        marks::hit(Mark::FlushShared);
    }
    Ok(counts
        .map(|(pack, pos, count)| Record {
            key: Key::shared(*pack, *pos),
            epoch,
            value: count.map(|c| c.to_bytes().into()),
        })
        .collect())
}

/// The frames that the flush takes from the present and a snapshot holds.
fn held(part: &Part) -> Vec<Record> {
    let epoch = part.epoch;
    let mut frames: Vec<_> = part.settled.held.iter().collect();
    if !frames.is_empty() {
        marks::hit(Mark::FlushFrameHeld);
    }
    frames.sort_unstable_by_key(|(pack, pos, _)| (*pack, *pos));
    let record = |(pack, pos, held): &(PackId, u64, Held)| Record {
        key: Key::held(epoch, *pack, *pos),
        epoch,
        value: Some(held.to_bytes().into()),
    };
    frames.into_iter().map(record).collect()
}

/// A block on its way to its record.
struct Resolved {
    key: Key,
    before: Vec<Fragment>,
    after: Vec<Fragment>,
    /// Otherwise nothing but the places of frames may change, for what else it shows may be shared
    /// right now: see `store/layout.rs`.
    is_written: bool,
}

fn extents(
    core: &Core,
    installer: &mut Installer,
    base: Sight<'_>,
    frozen: &Frozen,
    part: &mut Part,
    flushed: &mut Flushed,
) -> Result<Vec<Record>> {
    let pinned = flushed.timeline.before(part.epoch);
    let each = |slot: &Slot| match slot {
        Slot::Block(block) => Changed {
            below: block.below,
            fresh: block.fresh,
            pieces: block.pieces.clone(),
            is_written: true,
        },
        Slot::Put { .. } | Slot::Del => Changed {
            below: true,
            fresh: false,
            pieces: Vec::new(),
            is_written: true,
        },
    };
    let blocks = frozen.memtable.sorted(part.branch, Tag::Extent, each);
    // What cleaning moves is nobody's but the head's.
    let moves = match part.branch {
        Branch::HEAD => Arc::clone(&flushed.moves),
        _ => Arc::default(),
    };
    let blocks = with_moved(blocks, &moves);
    let mut records = Vec::with_capacity(blocks.len());
    let mut gathered: Vec<Resolved> = Vec::new();
    let mut bytes = 0;
    for (key, block) in blocks {
        let is_written = block.is_written;
        let unreadable = &mut installer.unreadable;
        let of = (frozen, part.branch);
        let Some(before) = before(core, unreadable, base, of, &key, &block)? else {
            continue;
        };
        let mut after = resolve(&before, block.below, &block.pieces);
        moves.relocate(&key, pinned, &mut after);
        if !is_written && after == before {
            continue;
        }
        bytes += data::inline_bytes(&after).max(64) as usize;
        gathered.push(Resolved {
            key,
            before,
            after,
            is_written,
        });
        if bytes >= GATHER {
            finish(core, installer, part, &mut gathered, &mut records)?;
            bytes = 0;
        }
    }
    finish(core, installer, part, &mut gathered, &mut records)?;
    Ok(records)
}

/// What a memtable has over a block.
struct Changed {
    below: bool,
    fresh: bool,
    pieces: Vec<Piece>,
    /// Otherwise the block is only looked at for frames to move.
    is_written: bool,
}

/// What the segments have for a block; nothing if that cannot be told, and need not be.
fn before(
    core: &Core,
    unreadable: &mut Unreadable,
    base: Sight<'_>,
    frozen: (&Frozen, Branch),
    key: &Key,
    block: &Changed,
) -> Result<Option<Vec<Fragment>>> {
    if block.fresh {
        return Ok(Some(Vec::new()));
    }
    match base.base_extent(key) {
        // Its frames stay where they are.
        Err(e) if !block.is_written && e.is_loss() => {
            tracing::warn!(error = %e, "what a block refers to is not moved");
            Ok(None)
        }
        // Nothing of it stays, so that only the space of its frames is lost. A file whose extents
        // are damaged can be removed, and does not stop the checkpoints then.
        Err(e) if !block.below && e.is_loss() => {
            tracing::warn!(error = %e, "what a block referred to is not given back");
            Ok(Some(Vec::new()))
        }
        Err(e) if e.is_loss() => {
            let given_up = unreadable.give_up(core, base, frozen, key, e);
            given_up.map(Some)
        }
        before => {
            unreadable.was_read(key);
            before.map(Some)
        }
    }
}

/// The blocks, with those whose frames have other places now, in order.
fn with_moved(mut blocks: Vec<(Key, Changed)>, moves: &Moves) -> Vec<(Key, Changed)> {
    let moved = |key: &&Key| blocks.binary_search_by(|(at, _)| at.cmp(key)).is_err();
    let more: Vec<Key> = moves.blocks().filter(moved).copied().collect();
    blocks.extend(more.into_iter().map(|key| {
        let untouched = Changed {
            below: true,
            fresh: false,
            pieces: Vec::new(),
            is_written: false,
        };
        (key, untouched)
    }));
    blocks.sort_unstable_by_key(|(key, _)| *key);
    blocks
}

fn resolve(before: &[Fragment], below: bool, pieces: &[Piece]) -> Vec<Fragment> {
    let mut list = if below { before.to_vec() } else { Vec::new() };
    for piece in pieces {
        data::overlay(&mut list, piece.to_fragment());
    }
    list
}

/// A run of bytes that becomes a frame.
struct Run {
    /// Which of the gathered blocks.
    block: usize,
    off: u32,
    raw: Vec<u8>,
}

/// Moves into packs what has grown too large, accounts, and emits the records.
fn finish(
    core: &Core,
    installer: &mut Installer,
    part: &mut Part,
    gathered: &mut Vec<Resolved>,
    records: &mut Vec<Record>,
) -> Result<()> {
    let epoch = part.epoch;
    let mut runs = Vec::new();
    for (n, block) in gathered.iter().enumerate() {
        collect_runs(core, n, block, &mut runs);
    }
    let writes: Vec<FrameWrite<'_>> = runs
        .iter()
        .filter_map(|run| {
            let key = gathered.get(run.block)?.key;
            Some(FrameWrite {
                identity: FrameIdentity {
                    branch: key.branch(),
                    ino: key.ino(),
                    block: key.second(),
                    off: run.off,
                    birth: epoch,
                },
                raw: run.raw.as_slice().into(),
                compression: core.tuning.compression,
            })
        })
        .collect();
    let frames = if writes.is_empty() {
        Vec::new()
    } else {
        installer.cold.write(&writes)?
    };
    for (run, frame) in runs.iter().zip(frames) {
        if let Some(block) = gathered.get_mut(run.block) {
            let len = run.raw.len() as u32;
            let kind = FragmentKind::Pack(frame);
            data::overlay(
                &mut block.after,
                Fragment {
                    off: run.off,
                    len,
                    kind,
                },
            );
        }
    }
    for block in gathered.drain(..) {
        let key = block.key;
        let extent = Extent {
            fragments: block.after,
        };
        let value = (!extent.fragments.is_empty()).then(|| extent.to_bytes().into());
        records.push(Record { key, epoch, value });
        if block.before != extent.fragments {
            part.turnover.note(&block.before, &extent.fragments);
        }
    }
    Ok(())
}

/// The runs of a block that become frames: its inline bytes if they are too many to keep, all of
/// it if it is in too many pieces.
fn collect_runs(core: &Core, n: usize, block: &Resolved, runs: &mut Vec<Run>) {
    if !block.is_written {
        return;
    }
    if data::needs_rewrite(&block.after) {
        for range in data::covered(&block.after) {
            let mut raw = vec![0; (range.end - range.start) as usize];
            let (ino, number) = (block.key.ino(), block.key.second());
            let read = data::read_fragments(
                &block.after,
                &core.reader,
                ino,
                number,
                range.start,
                &mut raw,
            );
            match read {
                Ok(()) => {
                    marks::hit(Mark::FlushRewrote);
                    runs.push(Run {
                        block: n,
                        off: range.start,
                        raw,
                    });
                }
                // Damaged bytes are not copied under a new checksum: the pieces stay as they are,
                // and so does the error for whoever reads them.
                Err(e) => tracing::warn!(error = %e, "a fragmented block was not rewritten"),
            }
        }
        return;
    }
    if data::inline_bytes(&block.after) as usize <= core.tuning.inline_max {
        return;
    }
    marks::hit(Mark::FlushMovedToPack);
    for fragment in &block.after {
        let FragmentKind::Inline(bytes) = &fragment.kind else {
            continue;
        };
        match runs.last_mut() {
            Some(run) if run.block == n && run.off + run.raw.len() as u32 == fragment.off => {
                run.raw.extend_from_slice(bytes);
            }
            _ => runs.push(Run {
                block: n,
                off: fragment.off,
                raw: bytes.to_vec(),
            }),
        }
    }
}
