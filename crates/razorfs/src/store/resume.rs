//! Going on where a process has died: what it kept in the memory for redo and what becomes of it.
//!
//! Batches keep their numbers: what was in batch `b` goes into batch `b` again, so that the journal
//! says exactly which of the records it has, also if this process dies in the midst of it. Records
//! are freed where those of any batch are, when it is in the journal.

use crate::sync::atomic::Ordering;
use std::sync::Arc;

use razorfs_format::key::Tag;
use razorfs_format::op::{Mutation, OpType};
use razorfs_format::record::{FragmentKind, PackRef};
use razorfs_format::wire::Take;
use razorfs_format::{BatchSeq, Branch, Ino, Place, layout::FileName};

use super::batch::OpenBatch;
use super::tx::Step;
use super::{Core, Tx};
use crate::asker::Asker;
use crate::marks::{self, Mark};
use crate::redo::{Asked, OwnedPart, Part, Record, Room};
use crate::{Error, Result};

/// A transaction as it is written: its mutations, and where among them each change beside them
/// stands.
pub(super) struct Encoded {
    pub mutations: Vec<u8>,
    cuts: Vec<usize>,
}

impl Encoded {
    pub fn of(tx: &Tx<'_>, size: usize) -> Self {
        let mut mutations = Vec::with_capacity(size.min(4096));
        let mut cuts = Vec::new();
        for step in &tx.steps {
            if step.is_beside() {
                cuts.push(mutations.len());
            } else {
                step.encode(tx.branch, &mut mutations);
            }
        }
        Self { mutations, cuts }
    }

    /// Calls `each` for the parts of the transaction, in order.
    pub fn each_part(&self, tx: &Tx<'_>, each: &mut dyn FnMut(Part<'_>)) {
        let mut from = 0;
        let mut run = |to: usize, each: &mut dyn FnMut(Part<'_>)| {
            let mutations = self.mutations.get(from..to).unwrap_or_default();
            if !mutations.is_empty() {
                each(Part::Mutations(mutations));
            }
            from = to;
        };
        let beside = tx.steps.iter().filter(|step| step.is_beside());
        for (step, cut) in beside.zip(&self.cuts) {
            run(*cut, each);
            match step {
                Step::Touch(ino, value) => each(Part::Touch(tx.branch, *ino, value)),
                Step::Write { key, off, bytes } => each(Part::Write {
                    key: *key,
                    off: *off,
                    bytes,
                }),
                _ => {}
            }
        }
        run(self.mutations.len(), each);
    }

    /// Words of all parts.
    pub fn words(&self, tx: &Tx<'_>) -> usize {
        let mut words = 0;
        self.each_part(tx, &mut |part| words += part.words());
        words
    }
}

/// What a process that died has left.
pub(crate) struct Left(Vec<(BatchSeq, Vec<Tx<'static>>)>);

impl Left {
    /// From the records of the batches that are not in the journal.
    pub fn read(batches: Vec<(BatchSeq, Vec<Record>)>) -> Result<Self> {
        let txs = |records: Vec<Record>| records.into_iter().map(tx_of).collect::<Result<_>>();
        let batches = batches
            .into_iter()
            .map(|(seq, records)| Ok((seq, txs(records)?)));
        Ok(Self(batches.collect::<Result<_>>()?))
    }

    /// Number of transactions.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|(_, txs)| txs.len() as u64).sum()
    }

    fn steps(&self) -> impl Iterator<Item = &Step<'static>> {
        let txs = self.0.iter().flat_map(|(_, txs)| txs);
        txs.flat_map(|tx| &tx.steps)
    }

    /// The frames that it refers to: they are in packs, though no journal may say so.
    pub fn frames(&self) -> impl Iterator<Item = &PackRef> {
        self.steps().filter_map(|step| match step {
            Step::Patch(_, fragment) => match &fragment.kind {
                FragmentKind::Pack(frame) => Some(frame),
                _ => None,
            },
            _ => None,
        })
    }

    /// The inodes that it made.
    pub fn made(&self) -> impl Iterator<Item = Ino> {
        self.steps().filter_map(|step| match step {
            Step::Put { key, .. } if key.tag() == Tag::Inode => Some(key.ino()),
            _ => None,
        })
    }
}

/// A transaction again.
fn tx_of(record: Record) -> Result<Tx<'static>> {
    let place = Place::new(FileName::Journal(0), 0);
    let ty = OpType::from_byte(record.ty);
    let mut tx = Tx::new(ty.ok_or(Error::Invalid("the memory for redo has no such operation"))?);
    for part in record.parts {
        match part {
            OwnedPart::Touch(branch, ino, value) => {
                tx.branch = branch;
                tx.steps.push(Step::Touch(ino, value.into()));
            }
            OwnedPart::Write { key, off, bytes } => {
                tx.branch = key.branch();
                tx.steps.push(Step::Write {
                    key,
                    off,
                    bytes: bytes.into(),
                });
            }
            OwnedPart::Mutations(bytes) => {
                let mut take = Take::new(&bytes, place, "transaction in the memory for redo");
                while !take.is_empty() {
                    let mutation = Mutation::decode(&mut take)?;
                    tx.branch = branch_of(&mutation).unwrap_or(tx.branch);
                    tx.steps.extend(step_of(mutation));
                }
            }
        }
    }
    Ok(tx)
}

/// The branch that a mutation of a transaction changes: all of them change the same.
fn branch_of(mutation: &Mutation) -> Option<Branch> {
    match mutation {
        Mutation::Put { key, .. } | Mutation::Del { key } | Mutation::Patch { key, .. } => {
            Some(key.branch())
        }
        Mutation::Count { branch, .. } => Some(*branch),
        _ => None,
    }
}

fn step_of(mutation: Mutation) -> Option<Step<'static>> {
    Some(match mutation {
        Mutation::Put { key, value, new } => Step::Put {
            key,
            value: Arc::from(value),
            new,
        },
        Mutation::Del { key } => Step::Del(key),
        Mutation::Patch { key, fragment } => Step::Patch(key, fragment),
        Mutation::Count { counter, delta, .. } => Step::Count(counter, delta),
        Mutation::Who { uid, gid, pid } => Step::Who(Asker { uid, gid, pid }),
        // Those of snapshots are not done again: they are durable before anybody is told of them.
        Mutation::Take(_)
        | Mutation::Drop { .. }
        | Mutation::Back { .. }
        | Mutation::Fork(_)
        | Mutation::Prune { .. }
        // A branch gets another epoch when it is written to again.
        | Mutation::Begin { .. } => return None,
    })
}

impl Core {
    /// Room for a transaction in the memory for redo: `Some(None)` if there is no such memory,
    /// nothing if it is full.
    pub(super) fn reserve_redo(
        &self,
        open: &OpenBatch,
        tx: &Tx<'_>,
        words: usize,
    ) -> Result<Option<Option<Room>>> {
        let Some(redo) = &self.redo else {
            return Ok(Some(None));
        };
        let room = redo.reserve(open.seq, tx.ty as u8, words, asked(tx))?;
        Ok(room.map(Some))
    }

    /// Applies what a process that died has left, and writes it to the journal. Nothing else goes
    /// on meanwhile.
    pub(super) fn resume(&self, left: Left) -> Result<()> {
        let last = left.0.last().map(|(seq, _)| *seq);
        for (seq, txs) in left.0 {
            self.make_room_for(&txs)?;
            self.fill_up_to(seq)?;
            let next = self.open.lock().seq;
            if next != seq {
                let why = format!(
                    "batch {} is to be done again where {} is due",
                    seq.0, next.0
                );
                return Err(Error::Failed(why.into()));
            }
            for tx in txs {
                self.apply_again(tx);
            }
            match self.commit_now(last == Some(seq)) {
                // As it was when the process died: it is held, and the next one may be open.
                Err(Error::NoSpace) => marks::hit(Mark::ResumeHeld),
                done => {
                    done?;
                }
            }
        }
        Ok(())
    }

    /// Stands in for batches that had nothing but an operation on snapshots and did not get to the
    /// journal: of these nobody was told, but what came after has its number.
    fn fill_up_to(&self, seq: BatchSeq) -> Result<()> {
        loop {
            {
                let _gate = self.gate.read();
                let mut open = self.open.lock();
                if open.seq >= seq || self.is_stuck() {
                    return Ok(());
                }
                open.append(OpType::Note, &[]);
                open.is_used = true;
                open.journal_bytes += super::tx::OVERHEAD;
            }
            self.commit_now(false)?;
        }
    }

    fn make_room_for(&self, txs: &[Tx<'_>]) -> Result<()> {
        let bytes = txs.iter().map(|tx| self.journal_bytes(tx)).sum();
        for _ in 0..4 {
            if self.limits.fits(bytes) || self.is_stuck() {
                break;
            }
            marks::hit(Mark::ResumeCheckpointed);
            self.checkpoint_for_room()?;
        }
        Ok(())
    }

    /// Space was reserved for it when it was admitted.
    fn apply_again(&self, tx: Tx<'static>) {
        if tx.branch != Branch::HEAD {
            marks::hit(Mark::ResumeBranch);
        }
        let size = self.journal_bytes(&tx);
        let encoded = Encoded::of(&tx, size);
        let _gate = self.gate.read();
        let batch = {
            let mut open = self.open.lock();
            self.append(&mut open, &tx, &encoded.mutations, size).0
        };
        self.apply(tx, batch);
        self.counts.ops.fetch_add(1, Ordering::Relaxed);
    }
}

/// Whose transaction it is, if it is one that must not be done twice.
fn asked(tx: &Tx<'_>) -> Asked {
    let once = matches!(
        tx.ty,
        OpType::Create
            | OpType::Mkdir
            | OpType::Mknod
            | OpType::Symlink
            | OpType::Link
            | OpType::Unlink
            | OpType::Rmdir
            | OpType::Rename
            | OpType::Xattr
            | OpType::Setattr
            | OpType::Truncate
            | OpType::Allocate
            | OpType::Write
    );
    let request = if once { crate::redo::current() } else { 0 };
    let made = tx.steps.iter().find_map(|step| match step {
        Step::Put { key, new: true, .. } if key.tag() == Tag::Inode => Some(key.ino()),
        _ => None,
    });
    Asked::new(request, made, tx.copied)
}
