//! Copying without copying: the target refers to the frames of the source.
//!
//! A step looks at some blocks of the source under the locks of both files and commits one
//! transaction: what stands in frames is referred to, what stands in RAM or in records is written,
//! and holes make holes. A frame that is the source's own becomes a shared one: its reference in
//! the source is laid over itself, with its origin, in the same transaction. A step takes at least
//! as much as one of [`Namespace::write`] does: a shorter copy happens wholly or not at all. A
//! crash between two steps leaves a shorter copy.

use std::ops::Range;

use razorfs_format::op::OpType;
use razorfs_format::record::{BLOCK, FILE_MAX, Fragment, FragmentKind, PackRef, inode_flags};
use razorfs_format::{Epoch, Ino, PackId};

use super::Namespace;
use super::file::{BLOCK64, WRITE_AT_ONCE, check_regular, pieces};
use crate::marks::{self, Mark};
use crate::redo::as_request;
use crate::store::{Core, Layout, OVERHEAD, Run, Ticket, What};
use crate::sync::atomic::Ordering;
use crate::{Error, Result};

/// Shorter parts of frames are copied. Two references, with the source's, the count of the frame
/// and their way through the journal take about 600 bytes, and a page that keeps a frame of up to
/// 128 KiB from being given back is no gain.
const SHARE_MIN: u32 = 4096;
/// A frame that shows in more pieces than this in a block is copied.
const MARKS_MAX: usize = 8;
/// Journal bytes of a step, about, if the journal takes so many.
const STEP_MOST: usize = 64 << 10;
/// A step goes on until it has copied so much; a hole that is longer has a step of its own.
const STEP_LEAST: u64 = WRITE_AT_ONCE as u64;
/// How often a step is tried anew because the memtable was frozen meanwhile, before it copies.
const TRIES: u32 = 3;

/// What is to be copied.
#[derive(Clone, Copy)]
struct Copy {
    from: Ino,
    from_off: u64,
    to: Ino,
    to_off: u64,
    len: u64,
}

impl Copy {
    /// What is left after `done` bytes.
    const fn after(self, done: u64) -> Self {
        Self {
            from_off: self.from_off.saturating_add(done),
            to_off: self.to_off.saturating_add(done),
            len: self.len.saturating_sub(done),
            ..self
        }
    }
}

/// How frames are copied.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// Shared, where the volume allows it.
    Share,
    /// Byte by byte.
    Write,
}

/// What became of a step.
enum Step {
    /// So many bytes were copied.
    Done(u64, Option<Ticket>),
    /// Nothing: the volume does not say yet that frames are shared.
    NotAllowed,
    /// Nothing: what was seen may have changed its place.
    Late,
}

/// What a step does; all of it happens at once.
#[derive(Default)]
struct Plan {
    /// Bytes that it copies.
    len: u64,
    /// Of the memtable in which frames were seen.
    epoch: Option<Epoch>,
    looked: Looked,
    /// References of the source that get their origin: block, and what is laid over it.
    marks: Vec<(u64, Fragment)>,
    /// References of the target.
    shares: Vec<(u64, Fragment)>,
    /// Offset in the target, and bytes.
    writes: Vec<(u64, Vec<u8>)>,
    holes: Vec<Range<u64>>,
    /// Bytes that are written.
    written: u64,
    /// Bytes that it takes in the journal, at most.
    cost: usize,
}

/// The frame that was looked at last, and whether it is there; often several pieces show one.
#[derive(Default)]
pub(super) struct Looked(Option<(PackRef, bool)>);

impl Looked {
    /// Whether a frame is there as its reference says. If not nothing else refers to it: what can
    /// be read of it is copied, and the rest is an error like that of reading it.
    pub(super) fn holds(&mut self, store: &Core, r: &PackRef) -> bool {
        let whole = PackRef {
            skip: 0,
            ..r.clone()
        };
        if let Some((last, holds)) = &self.0
            && *last == whole
        {
            return *holds;
        }
        let checked = store.check_frame(r);
        if let Err(e) = &checked {
            tracing::debug!(error = %e, "a frame is copied and not referred to");
        }
        self.0 = Some((whole, checked.is_ok()));
        checked.is_ok()
    }
}

impl Namespace {
    /// Copies bytes from one file to another, or within one; answers how many.
    pub(crate) fn copy_range(
        &self,
        from: Ino,
        from_off: u64,
        to: Ino,
        to_off: u64,
        len: u64,
    ) -> Result<u64> {
        let overlap =
            from_off < to_off.saturating_add(len) && to_off < from_off.saturating_add(len);
        if from == to && overlap && len > 0 {
            return Err(Error::Invalid("the ranges overlap"));
        }
        check_regular(&self.find_by_inode(to)?)?;
        let source = self.find_by_inode(from)?;
        check_regular(&source)?;
        let copy = Copy {
            from,
            from_off,
            to,
            to_off,
            // What the copy itself appends is not copied again.
            len: len.min(source.size.saturating_sub(from_off)),
        };
        let done = self.copy_steps(copy)?;
        if done == 0 {
            self.wait(None)?;
        }
        Ok(done)
    }

    fn copy_steps(&self, copy: Copy) -> Result<u64> {
        let (mut done, mut late, mut how) = (0, 0, How::Share);
        while done < copy.len {
            let this = match late {
                TRIES.. => How::Write,
                _ => how,
            };
            self.store.pace();
            let step = self.copy_step(copy.after(done), this, done);
            let step = step.and_then(|step| match step {
                Step::Done(n, ticket) if n > 0 => self.wait(ticket).map(|()| Step::Done(n, None)),
                step => Ok(step),
            });
            match step {
                Ok(Step::Done(0, _)) => break,
                Ok(Step::Done(n, _)) => (done, late) = (done + n, 0),
                Ok(Step::Late) => {
                    marks::hit(Mark::CopyLate);
                    late += 1;
                }
                Ok(Step::NotAllowed) => {
                    if let Err(e) = self.store.allow_sharing() {
                        tracing::debug!(error = %e, "a copy shares nothing");
                        how = How::Write;
                    }
                }
                Err(e) if done == 0 => return Err(e),
                // What is copied stays copied: the rest meets the error again, if it comes.
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Copies what one transaction takes, after `done` bytes. The last of them carries the request,
    /// with how much was copied in all: one of which the last step was not done is done again.
    fn copy_step(&self, copy: Copy, how: How, done: u64) -> Result<Step> {
        let _locks = self.locks.write_many([copy.from, copy.to]);
        let left = self
            .find_by_inode(copy.from)?
            .size
            .saturating_sub(copy.from_off);
        let room = FILE_MAX.saturating_sub(copy.to_off);
        if room == 0 {
            return Err(Error::FileTooLarge);
        }
        let len = copy.len.min(left).min(room);
        if len == 0 {
            return Ok(Step::Done(0, None));
        }
        let copy = Copy { len, ..copy };
        let mut op = self.begin(OpType::Write)?;
        let size = op.writable(copy.to)?.size;
        op.check_append_only(copy.to, copy.to_off)?;
        let gap = self.gap(copy)?;
        if gap > STEP_LEAST {
            let ends = (gap == len).then_some(done + len);
            return as_step(ends, || {
                self.copy_gap(copy.to, copy.to_off..copy.to_off + gap, ends)
            });
        }
        let plan = match self.plan(copy, how)? {
            Ok(plan) => plan,
            Err(step) => return Ok(step),
        };
        let end = copy.to_off + plan.len;
        self.make_room(copy.to, end)?;
        let bytes = plan.written + plan.cost as u64;
        self.store.reserve(bytes, end.saturating_sub(size))?;
        let ends = (plan.len == len).then_some(done + len);
        as_step(ends, || self.carry_out(copy, plan, ends))
    }

    /// How many bytes from the beginning are a hole.
    fn gap(&self, copy: Copy) -> Result<u64> {
        let off = (copy.from_off % BLOCK64) as u32;
        let first = self.store.layout(copy.from, copy.from_off / BLOCK64)?;
        let here = first.runs.iter().find(|run| run.off + run.len > off);
        if here.is_some_and(|run| !matches!(run.what, What::Hole)) {
            return Ok(0);
        }
        let end = copy.from_off + copy.len;
        let mut data = end;
        let blocks = copy.from_off / BLOCK64..end.div_ceil(BLOCK64);
        self.store
            .extents(copy.from, blocks.start, blocks.end, &mut |block, runs| {
                let at = |run: &&Range<u32>| block * BLOCK64 + u64::from(run.end) > copy.from_off;
                match runs.iter().find(at) {
                    Some(run) => data = block * BLOCK64 + u64::from(run.start),
                    None => return true,
                }
                false
            })?;
        Ok(data.min(end).saturating_sub(copy.from_off))
    }

    /// Makes a range of the target a hole, whatever stands there. The caller holds the lock.
    fn copy_gap(&self, to: Ino, range: Range<u64>, ends: Option<u64>) -> Result<Step> {
        let len = range.end - range.start;
        let size = self.make_room(to, range.end)?;
        self.store.reserve(0, range.end.saturating_sub(size))?;
        let mut op = self.begin(OpType::Write)?;
        if range.start < size {
            op = self.erase_most(op, to, range.start..range.end.min(size))?;
        }
        op.change(to)?.flags |= inode_flags::SPARSE;
        op.data_changed(to, size.max(range.end))?;
        op.ends_copy(ends);
        Ok(Step::Done(len, self.commit(op)?))
    }

    /// What the next step does, or why there is none. The caller holds the locks.
    fn plan(&self, copy: Copy, how: How) -> Result<std::result::Result<Plan, Step>> {
        let most = (self.store.limits.most() / 4).min(STEP_MOST);
        let mut plan = Plan::default();
        for (block, off, len) in pieces(copy.from_off..copy.from_off + copy.len) {
            let layout = self.store.layout(copy.from, block)?;
            let enough = plan.len >= STEP_LEAST;
            let is_hole = |run: &Run| matches!(run.what, What::Hole);
            if enough && layout.runs.iter().all(is_hole) {
                // It may be a long one.
                break;
            }
            if plan.epoch.is_some_and(|epoch| epoch != layout.epoch) {
                return Ok(Err(Step::Late));
            }
            if !layout.is_steady {
                marks::hit(Mark::CopyUnsteady);
            }
            let mut marked = Vec::new();
            for run in &layout.runs {
                let (from, to) = (run.off.max(off), (run.off + run.len).min(off + len));
                let at = copy.to_off + plan.len;
                for (_, target_off, len) in pieces(at..at + u64::from(to.saturating_sub(from))) {
                    let enough = plan.len >= STEP_LEAST;
                    if enough && (plan.cost > most || plan.written >= STEP_LEAST) {
                        return Ok(Ok(plan));
                    }
                    // A step that has become dear before it is long enough goes on in the way that
                    // takes the least of the journal.
                    let dear = plan.cost > most;
                    let fits = how == How::Share && len >= SHARE_MIN && layout.is_steady && !dear;
                    let piece = (target_off, len);
                    match &run.what {
                        What::Hole if !dear => plan.hole(copy, len),
                        What::Own(r) | What::Shared(r)
                            if fits
                                && is_markable(&layout, r)
                                && plan.looked.holds(&self.store, r) =>
                        {
                            if !self.store.sharing.load(Ordering::Acquire) {
                                return Ok(Err(Step::NotAllowed));
                            }
                            plan.epoch = Some(layout.epoch);
                            if matches!(run.what, What::Own(_)) {
                                plan.mark(block, &layout, r, &mut marked);
                            }
                            plan.share(copy, piece, r, block * BLOCK64 + u64::from(run.off));
                        }
                        _ => {
                            if let Err(e) = self.plan_write(&mut plan, copy, len) {
                                // What comes before a damaged part is copied.
                                return if enough { Ok(Ok(plan)) } else { Err(e) };
                            }
                        }
                    }
                    plan.len += u64::from(len);
                }
            }
        }
        Ok(Ok(plan))
    }

    /// Reads what is written to the target; it lies in one block of each file.
    fn plan_write(&self, plan: &mut Plan, copy: Copy, len: u32) -> Result<()> {
        let (source, target) = (copy.from_off + plan.len, copy.to_off + plan.len);
        let mut bytes = vec![0; len as usize];
        let (block, off) = (source / BLOCK64, (source % BLOCK64) as u32);
        self.store.read_block(copy.from, block, off, &mut bytes)?;
        plan.written += u64::from(len);
        plan.cost += bytes.len().min(self.store.tuning.inline_max);
        match plan.writes.last_mut() {
            Some((at, last))
                if *at + last.len() as u64 == target && !target.is_multiple_of(BLOCK64) =>
            {
                last.append(&mut bytes);
            }
            _ => {
                plan.cost += OVERHEAD;
                plan.writes.push((target, bytes));
            }
        }
        Ok(())
    }

    fn carry_out(&self, copy: Copy, plan: Plan, ends: Option<u64>) -> Result<Step> {
        let mut op = self.begin(OpType::Write)?;
        let size = op.inode(copy.to)?.size;
        // First what may reach into the target's range, for files may be copied within themselves.
        for (block, fragment) in plan.marks {
            op.refer(copy.from, block, fragment);
        }
        if copy.to_off > size || !plan.holes.is_empty() {
            op.change(copy.to)?.flags |= inode_flags::SPARSE;
        }
        for hole in plan.holes {
            // There is nothing beyond the end.
            for (block, off, len) in pieces(hole.start..hole.end.min(size)) {
                op.hole(copy.to, block, off, len);
            }
        }
        if !plan.shares.is_empty() {
            marks::hit(Mark::CopyShared);
        }
        for (block, fragment) in plan.shares {
            op.refer(copy.to, block, fragment);
        }
        for (at, bytes) in plan.writes {
            let off = (at % BLOCK64) as u32;
            op.data(copy.to, at / BLOCK64, off, bytes);
        }
        op.data_changed(copy.to, size.max(copy.to_off + plan.len))?;
        op.ends_copy(ends);
        let Some(epoch) = plan.epoch else {
            return Ok(Step::Done(plan.len, self.commit(op)?));
        };
        let (tx, afterwards) = op.into_tx();
        debug_assert!(afterwards.is_empty());
        let ticket = self.store.commit_in(tx, Some(epoch))?;
        Ok(match ticket {
            Some(ticket) => Step::Done(plan.len, Some(ticket)),
            None => Step::Late,
        })
    }
}

/// Does a step: as the request that this thread carries out if that ends with it, and otherwise as
/// none.
fn as_step<R>(ends: Option<u64>, step: impl FnOnce() -> R) -> R {
    match ends {
        Some(_) => step(),
        None => as_request(0, step),
    }
}

/// The runs of a block that show the frame of `r`.
fn same_frame<'l>(
    layout: &'l Layout,
    r: &'l PackRef,
) -> impl Iterator<Item = (&'l Run, &'l PackRef)> {
    layout.runs.iter().filter_map(move |run| match &run.what {
        What::Own(s) if (s.pack, s.pos) == (r.pack, r.pos) => Some((run, s)),
        _ => None,
    })
}

/// Whether few enough pieces of a block show the frame that all of them can get its origin.
fn is_markable(layout: &Layout, r: &PackRef) -> bool {
    same_frame(layout, r).count() <= MARKS_MAX
}

impl Plan {
    /// The next `len` bytes of the target, which lie in one block, are a hole.
    fn hole(&mut self, copy: Copy, len: u32) {
        let at = copy.to_off + self.len;
        let end = at + u64::from(len);
        self.cost += OVERHEAD;
        match self.holes.last_mut() {
            Some(last) if last.end == at => last.end = end,
            _ => self.holes.push(at..end),
        }
    }

    /// All that the source's block shows of a frame gets the origin: its reference is a shared one
    /// from now on, and would be an own one, too, if a piece of it stayed.
    fn mark(&mut self, block: u64, layout: &Layout, r: &PackRef, marked: &mut Vec<(PackId, u64)>) {
        if marked.contains(&(r.pack, r.pos)) {
            return;
        }
        marked.push((r.pack, r.pos));
        for (run, r) in same_frame(layout, r) {
            debug_assert!(run.off + run.len <= BLOCK);
            let fragment = Fragment {
                off: run.off,
                len: run.len,
                kind: FragmentKind::Pack(r.clone()),
            };
            self.cost += OVERHEAD;
            self.marks.push((block, fragment));
        }
    }

    /// The next bytes of the target, so many at this offset of their block, are those of the frame
    /// that the source shows from `begin` on.
    fn share(&mut self, copy: Copy, (off, len): (u32, u32), r: &PackRef, begin: u64) {
        let ahead = (copy.from_off + self.len).saturating_sub(begin);
        let r = PackRef {
            skip: r.skip + ahead as u32,
            ..r.clone()
        };
        let block = (copy.to_off + self.len) / BLOCK64;
        let kind = FragmentKind::Pack(r);
        self.cost += OVERHEAD;
        self.shares.push((block, Fragment { off, len, kind }));
    }
}
