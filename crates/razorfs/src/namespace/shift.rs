//! Taking a range out of a file, and putting a hole into one: all that comes after it moves.
//!
//! One transaction does it, or nothing does. What stands in frames is not copied: the blocks that
//! had it lose it, and those that get it refer to the same frames, with their origin. Of each frame
//! in the tail the own reference goes or gets its origin too, so that all that are left are shared
//! ones, which the flush counts. What is in RAM or in records is written at its new place; if that
//! is much, or what is seen of the frames may not last, everything is flushed and looked at anew.

use razorfs_format::key::Key;
use razorfs_format::op::OpType;
use razorfs_format::record::{BLOCK, FILE_MAX, Fragment, FragmentKind, PackRef, inode_flags};
use razorfs_format::{Branch, Epoch, Ino};

use super::Namespace;
use super::copy::Looked;
use super::file::{BLOCK64, WRITE_AT_ONCE, pieces};
use super::operation::Operation;
use crate::store::{Layout, OVERHEAD, Run, Ticket, What};
use crate::sync::atomic::Ordering;
use crate::{Error, Result};

/// Offsets and lengths are multiples of this.
const UNIT: u64 = 4096;
/// Bytes that are written again without flushing them first.
const WRITTEN_AT_ONCE: u64 = WRITE_AT_ONCE as u64;
/// How often everything is flushed, or looked at anew, before bytes are written instead.
const TRIES: u32 = 3;
/// How often in all, where those are too many.
const TRIES_MOST: u32 = 50;
/// Bytes that a removed block takes in the journal.
const REMOVED: usize = 48;

const TOO_LARGE: Error = Error::Unsupported(
    "moving more data than fits in the journal at once, which has grown as far as it can; clone \
     the parts into a new file and rename it over this one",
);
const TOO_BUSY: Error = Error::Unsupported(
    "moving so much data while so much else is written; try again later, or clone the parts into \
     a new file and rename it over this one",
);

/// What happens to the range.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// It is taken out.
    Collapse,
    /// It is put in.
    Insert,
}

#[derive(Clone, Copy)]
struct Shift {
    ino: Ino,
    way: Way,
    /// What comes before it stays.
    at: u64,
    len: u64,
}

impl Shift {
    /// The first byte that moves.
    const fn first(&self) -> u64 {
        match self.way {
            Way::Collapse => self.at + self.len,
            Way::Insert => self.at,
        }
    }

    /// Where a byte that moves goes.
    const fn to(&self, offset: u64) -> u64 {
        match self.way {
            Way::Collapse => offset - self.len,
            Way::Insert => offset + self.len,
        }
    }

    fn check(&self) -> Result<()> {
        if self.len == 0 {
            return Err(Error::Invalid("the length is zero"));
        }
        if !self.at.is_multiple_of(UNIT) || !self.len.is_multiple_of(UNIT) {
            return Err(Error::Invalid(
                "offset and length must be multiples of 4096 bytes",
            ));
        }
        Ok(())
    }

    /// Fails if a file of this size has no such range.
    fn check_range(&self, size: u64) -> Result<()> {
        match self.way {
            Way::Collapse if self.at.checked_add(self.len).is_none_or(|end| end >= size) => Err(
                Error::Invalid("the range reaches the end of the file; truncate it instead"),
            ),
            Way::Insert if self.len > FILE_MAX.saturating_sub(size) => Err(Error::FileTooLarge),
            Way::Insert if self.at >= size => Err(Error::Invalid(
                "the offset is not before the end of the file; extend it instead",
            )),
            _ => Ok(()),
        }
    }
}

/// How frames are moved.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// By references. Where that cannot be, or many bytes are in RAM, it says so.
    Share,
    /// By references where that can be.
    Anyhow,
    /// Byte by byte.
    Write,
}

/// What became of a try.
enum Step {
    Done(Ticket),
    /// Nothing: the volume does not say yet that frames are shared.
    NotAllowed,
    /// Nothing: everything should be flushed first.
    Unflushed,
    /// Nothing: what was seen may have changed its place.
    Late,
    /// Nothing: so many bytes, or more, are too many for the journal.
    TooLarge(usize),
    /// Nothing: too many bytes would be written.
    TooMuch,
}

/// What a shift does; all of it happens at once.
#[derive(Default)]
struct Plan {
    /// The blocks that have data at or after the offset.
    old: Vec<u64>,
    /// Of the memtable in which frames were seen.
    epoch: Option<Epoch>,
    looked: Looked,
    /// References that are laid over what has been emptied: block, and which.
    frames: Vec<(u64, Fragment)>,
    /// Offset, and bytes that are written there.
    writes: Vec<(u64, Vec<u8>)>,
    /// Bytes that are written.
    written: u64,
    /// Bytes that it takes in the journal, about.
    cost: usize,
}

impl Namespace {
    /// Takes a range out of a file: what comes after it moves to its place.
    pub(crate) fn collapse_range(&self, ino: Ino, at: u64, len: u64) -> Result<()> {
        let way = Way::Collapse;
        self.shift(Shift { ino, way, at, len })
    }

    /// Puts a hole into a file: what stands there and after it moves.
    pub(crate) fn insert_range(&self, ino: Ino, at: u64, len: u64) -> Result<()> {
        let way = Way::Insert;
        self.shift(Shift { ino, way, at, len })
    }

    fn shift(&self, shift: Shift) -> Result<()> {
        shift.check()?;
        self.store.pace();
        let (mut how, mut tries) = (How::Share, 0);
        // Why nothing is shared, or flushed.
        let mut hindered = None;
        while tries < TRIES_MOST {
            match self.shift_at_once(shift, how)? {
                Step::Done(ticket) => return self.wait(Some(ticket)),
                Step::NotAllowed => {
                    if let Err(e) = self.store.allow_sharing() {
                        tracing::debug!(error = %e, "what moves in a file shares nothing");
                        (how, hindered) = (How::Write, Some(e));
                    }
                }
                Step::Unflushed => {
                    tries += 1;
                    if let Err(e) = self.store.checkpoint() {
                        tracing::debug!(error = %e, "what moves in a file was not flushed");
                        (how, hindered) = (How::Anyhow, Some(e));
                    } else if tries >= TRIES {
                        how = How::Anyhow;
                    }
                }
                Step::Late => {
                    tries += 1;
                    how = match tries {
                        ..TRIES => how,
                        _ => How::Write,
                    };
                }
                Step::TooLarge(bytes) => {
                    if !self.store.grow_journal_for(bytes)? {
                        return Err(TOO_LARGE);
                    }
                }
                Step::TooMuch => {
                    if let Some(why) = hindered {
                        return Err(why);
                    }
                    tries += 1;
                    how = How::Share;
                }
            }
        }
        Err(TOO_BUSY)
    }

    fn shift_at_once(&self, shift: Shift, how: How) -> Result<Step> {
        let _lock = self.locks.write(shift.ino);
        let mut op = self.begin(OpType::Allocate)?;
        let inode = op.writable(shift.ino)?;
        let size = inode.size;
        if inode.flags & inode_flags::APPEND != 0 {
            return Err(Error::NotPermitted("the file is append-only"));
        }
        shift.check_range(size)?;
        let end = shift.to(size);
        self.make_room(shift.ino, end)?;
        let plan = match self.plan_shift(shift, size, how)? {
            Ok(plan) => plan,
            Err(step) => return Ok(step),
        };
        let op = self.begin(OpType::Allocate)?;
        let (epoch, written) = (plan.epoch, plan.written);
        let op = shift_by(op, shift, end, plan)?;
        let (tx, afterwards) = op.into_tx();
        debug_assert!(afterwards.is_empty());
        let bytes = self.store.journal_bytes(&tx);
        if bytes > self.store.limits.most() {
            return Ok(Step::TooLarge(bytes));
        }
        self.store
            .reserve(written + bytes as u64, end.saturating_sub(size))?;
        let committed = self.store.commit_in(tx, epoch)?;
        Ok(committed.map_or(Step::Late, Step::Done))
    }

    /// What the shift of a file of this size does, or why there is none. The caller holds the
    /// lock.
    fn plan_shift(
        &self,
        shift: Shift,
        size: u64,
        how: How,
    ) -> Result<std::result::Result<Plan, Step>> {
        let most = self.store.limits.most();
        let mut plan = Plan::default();
        let blocks = shift.at / BLOCK64..size.div_ceil(BLOCK64);
        self.store
            .extents(shift.ino, blocks.start, blocks.end, &mut |block, _| {
                plan.cost += REMOVED;
                plan.old.push(block);
                plan.cost <= most
            })?;
        let old = std::mem::take(&mut plan.old);
        for block in &old {
            if plan.cost > most {
                return Ok(Err(Step::TooLarge(plan.cost)));
            }
            if (block + 1).saturating_mul(BLOCK64) > shift.first()
                && let Some(step) = self.plan_block(&mut plan, shift, *block, size, how)?
            {
                return Ok(Err(step));
            }
        }
        plan.old = old;
        Ok(Ok(plan))
    }

    /// Adds where the bytes of a block go that move; answers why they cannot.
    fn plan_block(
        &self,
        plan: &mut Plan,
        shift: Shift,
        block: u64,
        size: u64,
        how: How,
    ) -> Result<Option<Step>> {
        let layout = self.store.layout(shift.ino, block)?;
        if plan.epoch.is_some_and(|epoch| epoch != layout.epoch) {
            return Ok(Some(Step::Late));
        }
        let begin = block * BLOCK64;
        let enough = self.store.tuning.dirty_limit as u64;
        for run in &layout.runs {
            let from = (begin + u64::from(run.off)).max(shift.first());
            let to = (begin + u64::from(run.off + run.len)).min(size);
            if from >= to {
                continue;
            }
            match &run.what {
                What::Hole => continue,
                What::Own(_) | What::Shared(_) if how == How::Share && !layout.is_steady => {
                    return Ok(Some(Step::Unflushed));
                }
                What::Own(r) | What::Shared(r)
                    if how != How::Write
                        && layout.is_steady
                        && plan.looked.holds(&self.store, r) =>
                {
                    if !self.store.sharing.load(Ordering::Acquire) {
                        return Ok(Some(Step::NotAllowed));
                    }
                    plan.epoch = Some(layout.epoch);
                    if matches!(run.what, What::Own(_)) && begin < shift.at {
                        plan.mark(shift, block, &layout, r);
                    }
                    let seen = r.skip + (from - begin) as u32 - run.off;
                    for (to_block, off, len) in pieces(shift.to(from)..shift.to(to)) {
                        let gone = to_block * BLOCK64 + u64::from(off) - shift.to(from);
                        let skip = seen + gone as u32;
                        let kind = FragmentKind::Pack(PackRef { skip, ..r.clone() });
                        plan.refer(to_block, Fragment { off, len, kind });
                    }
                }
                _ => {
                    let most = match how {
                        How::Share => WRITTEN_AT_ONCE,
                        How::Anyhow | How::Write => WRITTEN_AT_ONCE.max(enough),
                    };
                    if plan.written + (to - from) > most {
                        return Ok(Some(match how {
                            How::Share => Step::Unflushed,
                            How::Anyhow | How::Write => Step::TooMuch,
                        }));
                    }
                    self.plan_writes(plan, shift, from, to)?;
                }
            }
        }
        Ok(None)
    }

    /// Reads bytes of one block, to write them where they go.
    fn plan_writes(&self, plan: &mut Plan, shift: Shift, from: u64, to: u64) -> Result<()> {
        let mut bytes = vec![0; (to - from) as usize];
        let (block, off) = (from / BLOCK64, (from % BLOCK64) as u32);
        self.store.read_block(shift.ino, block, off, &mut bytes)?;
        plan.written += bytes.len() as u64;
        for (to_block, off, len) in pieces(shift.to(from)..shift.to(to)) {
            let rest = bytes.split_off(len as usize);
            let mut piece = std::mem::replace(&mut bytes, rest);
            let at = to_block * BLOCK64 + u64::from(off);
            plan.cost += piece.len().min(self.store.tuning.inline_max);
            match plan.writes.last_mut() {
                Some((last_at, last)) if *last_at + last.len() as u64 == at && off > 0 => {
                    last.append(&mut piece);
                }
                _ => {
                    plan.cost += OVERHEAD;
                    plan.writes.push((at, piece));
                }
            }
        }
        Ok(())
    }
}

/// What the plan says, added to `op`; the file has the size `end` then.
fn shift_by(mut op: Operation<'_>, shift: Shift, end: u64, plan: Plan) -> Result<Operation<'_>> {
    let ino = shift.ino;
    // First everything goes, since what comes may lie where something else goes.
    for block in plan.old {
        match shift.at.saturating_sub(block * BLOCK64) as u32 {
            0 => op.del(Key::extent(Branch::HEAD, ino, block)),
            off => op.hole(ino, block, off, BLOCK - off),
        }
    }
    for (block, fragment) in plan.frames {
        op.refer(ino, block, fragment);
    }
    for (at, bytes) in plan.writes {
        op.data(ino, at / BLOCK64, (at % BLOCK64) as u32, bytes);
    }
    if shift.way == Way::Insert {
        op.change(ino)?.flags |= inode_flags::SPARSE;
    }
    op.data_changed(ino, end)?;
    Ok(op)
}

impl Plan {
    /// What stays of an own frame in the block of which only the end moves gets the origin: its
    /// reference is a shared one from now on.
    fn mark(&mut self, shift: Shift, block: u64, layout: &Layout, r: &PackRef) {
        let stays = (shift.at - block * BLOCK64) as u32;
        let is_it = |run: &Run| match &run.what {
            What::Own(s) if (s.pack, s.pos) == (r.pack, r.pos) => Some(s.clone()),
            _ => None,
        };
        for run in layout.runs.iter().filter(|run| run.off < stays) {
            let Some(r) = is_it(run) else { continue };
            let (off, len) = (run.off, run.len.min(stays - run.off));
            let kind = FragmentKind::Pack(r);
            let fragment = Fragment { off, len, kind };
            let again = |(b, f): &(u64, Fragment)| *b == block && f.off == off;
            if !self.frames.iter().any(again) {
                self.cost += OVERHEAD;
                self.frames.push((block, fragment));
            }
        }
    }

    /// One more reference; it may go on where the last one ends.
    fn refer(&mut self, block: u64, fragment: Fragment) {
        if let Some((last_block, last)) = self.frames.last_mut()
            && *last_block == block
            && last.end() == fragment.off
            && let (FragmentKind::Pack(a), FragmentKind::Pack(b)) = (&last.kind, &fragment.kind)
            && (a.pack, a.pos, a.origin) == (b.pack, b.pos, b.origin)
            && a.skip + last.len == b.skip
        {
            last.len += fragment.len;
            return;
        }
        self.cost += OVERHEAD;
        self.frames.push((block, fragment));
    }
}
