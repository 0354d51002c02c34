//! The open batch: what was done since the last one was sealed.

use std::collections::HashMap;
use std::sync::Arc;

use razorfs_format::key::Key;
use razorfs_format::op::{Mutation, OpType, encode_op};
use razorfs_format::{BatchSeq, Branch, Ino, Lsn};

use crate::Result;
use crate::tree::Bytes;
use crate::tree::memtable::Memtable;
use crate::tree::piece::RamPiece;

/// Called once what was done before it is durable, or cannot become so.
pub(crate) type Waiter = Box<dyn FnOnce(Result<()>) + Send>;

/// The batch that operations are appended to.
pub(super) struct OpenBatch {
    /// Its number.
    pub seq: BatchSeq,
    /// Number of its first operation.
    pub first_lsn: Lsn,
    /// Operations so far.
    pub n_ops: u32,
    /// Their encodings.
    pub ops: Vec<u8>,
    /// The newest record of each inode that changed beside them.
    pub touched: HashMap<(Branch, Ino), Bytes>,
    /// File data to be placed.
    pub dirty: Vec<Arc<RamPiece>>,
    /// Bytes of it, at most.
    pub dirty_bytes: usize,
    /// Bytes that it will take in the journal, at most.
    pub journal_bytes: usize,
    /// Who waits for it.
    pub waiters: Vec<Waiter>,
    /// Somebody waits for its end, for the next one has room.
    pub is_full: bool,
    /// When the first operation came, on the monotonic clock.
    pub since: u64,
    /// Something was done in it, even if it came to nothing.
    pub is_used: bool,
}

impl OpenBatch {
    pub fn new(seq: BatchSeq, first_lsn: Lsn) -> Self {
        Self {
            seq,
            first_lsn,
            n_ops: 0,
            ops: Vec::new(),
            touched: HashMap::new(),
            dirty: Vec::new(),
            dirty_bytes: 0,
            journal_bytes: 0,
            waiters: Vec::new(),
            is_full: false,
            since: 0,
            is_used: false,
        }
    }

    /// Whether nothing was done in it.
    pub fn is_empty(&self) -> bool {
        self.n_ops == 0 && self.touched.is_empty() && self.dirty.is_empty()
    }

    /// Appends one operation, whose encoded mutations are given.
    pub fn append(&mut self, ty: OpType, mutations: &[u8]) {
        encode_op(ty, mutations, &mut self.ops);
        self.n_ops += 1;
    }

    /// Takes what was done, as a sealed batch over `memtable`; this one is the next then. The
    /// caller keeps everyone else out.
    pub fn seal(&mut self, memtable: Arc<Memtable>) -> Sealed {
        // What an operation of the same batch removed or covered is not journaled; what a later
        // batch removes will be.
        self.dirty.retain(|piece| !piece.is_dead());
        let mut next = Self::new(self.seq, self.first_lsn);
        std::mem::swap(self, &mut next);
        let sealed = next;
        let mut n_ops = sealed.n_ops + sealed.dirty.len() as u32;
        if !sealed.touched.is_empty() {
            n_ops += 1;
        }
        let empty = n_ops == 0;
        if !empty {
            self.seq = sealed.seq.next();
            self.first_lsn = Lsn(sealed.first_lsn.0 + u64::from(n_ops));
        }
        Sealed {
            seq: sealed.seq,
            first_lsn: sealed.first_lsn,
            n_ops,
            ops: sealed.ops,
            touched: sealed.touched,
            dirty: sealed.dirty,
            dirty_bytes: sealed.dirty_bytes,
            journal_bytes: sealed.journal_bytes,
            inline_bytes: 0,
            waiters: sealed.waiters,
            is_used: sealed.is_used,
            memtable,
        }
    }
}

/// A batch that takes no more operations.
pub(super) struct Sealed {
    pub seq: BatchSeq,
    pub first_lsn: Lsn,
    /// Operations, data and touched inodes included; 0 if the batch is empty.
    pub n_ops: u32,
    pub ops: Vec<u8>,
    pub touched: HashMap<(Branch, Ino), Bytes>,
    pub dirty: Vec<Arc<RamPiece>>,
    pub dirty_bytes: usize,
    /// Bytes of the journal that were counted for it.
    pub journal_bytes: usize,
    /// Bytes of data that it may have in the journal beside these, if somebody waits for it.
    pub inline_bytes: usize,
    pub waiters: Vec<Waiter>,
    pub is_used: bool,
    /// Where its operations are visible.
    pub memtable: Arc<Memtable>,
}

impl Sealed {
    pub fn is_empty(&self) -> bool {
        self.n_ops == 0
    }

    /// Lengths of its runs of data.
    pub fn lengths(&self) -> impl Iterator<Item = usize> {
        self.dirty.iter().map(|p| p.data.read().bytes.len())
    }

    /// The operation that journals the touched inodes.
    pub fn encode_touched(&self, payload: &mut Vec<u8>) {
        if self.touched.is_empty() {
            return;
        }
        let mut mutations = Vec::new();
        let mut inodes: Vec<_> = self.touched.iter().collect();
        inodes.sort_unstable_by_key(|(of, _)| **of);
        for ((branch, ino), value) in inodes {
            let key = Key::inode(*branch, *ino);
            Mutation::Put {
                key,
                value: value.as_ref().into(),
                new: false,
            }
            .encode(&mut mutations);
        }
        encode_op(OpType::Note, &mutations, payload);
    }
}
