//! A transaction: the changes of one operation, applied and journaled all or nothing.

use std::borrow::Cow;
use std::sync::Arc;

use razorfs_format::key::{Key, Tag};
use razorfs_format::op::{Counter, Mutation, OpType, encode_put};
use razorfs_format::record::{Fragment, FragmentKind, Inode};
use razorfs_format::{Branch, Ino};

use crate::asker::Asker;
use crate::tree::Bytes;

/// One change.
pub(super) enum Step<'a> {
    /// A record is written.
    Put { key: Key, value: Bytes, new: bool },
    /// A record is deleted.
    Del(Key),
    /// A fragment is laid over a block.
    Patch(Key, Fragment),
    /// What a record was that is deleted next: for who reads the journal.
    Was(Key, Bytes),
    /// Who asked: for who reads the journal.
    Who(Asker),
    /// A counter changes.
    Count(Counter, i64),
    /// The inode record changed: visible at once, journaled once with its batch.
    Touch(Ino, Bytes),
    /// File data: visible at once, placed when its batch is sealed.
    Write {
        key: Key,
        off: u32,
        bytes: Cow<'a, [u8]>,
    },
}

impl Step<'_> {
    /// Whether it is none of the mutations of the operation.
    pub fn is_beside(&self) -> bool {
        matches!(self, Self::Touch(..) | Self::Write { .. })
    }

    /// Appends the mutation, of what is journaled among the operations.
    pub fn encode(&self, branch: Branch, out: &mut Vec<u8>) {
        match self {
            Self::Put { key, value, new } => encode_put(key, value, *new, out),
            Self::Was(key, value) => encode_put(key, value, false, out),
            Self::Who(Asker { uid, gid, pid }) => {
                Mutation::Who {
                    uid: *uid,
                    gid: *gid,
                    pid: *pid,
                }
                .encode(out);
            }
            Self::Del(key) => Mutation::Del { key: *key }.encode(out),
            Self::Patch(key, fragment) => {
                Mutation::Patch {
                    key: *key,
                    fragment: fragment.clone(),
                }
                .encode(out);
            }
            Self::Count(counter, delta) => {
                Mutation::Count {
                    branch,
                    counter: *counter,
                    delta: *delta,
                }
                .encode(out);
            }
            Self::Touch(..) | Self::Write { .. } => {}
        }
    }
}

/// The changes of one operation.
pub(crate) struct Tx<'a> {
    pub(super) ty: OpType,
    pub(super) steps: Vec<Step<'a>>,
    /// The branch that it changes: all keys are of it.
    pub(super) branch: Branch,
    /// How many bytes a copy has copied that ends with it.
    pub(super) copied: Option<u64>,
}

/// Stands for a committed transaction until it is durable.
#[must_use]
pub(crate) struct Ticket(pub(super) ());

impl Ticket {
    /// Of a transaction that changed nothing.
    pub const NOTHING: Self = Self(());
}

/// Bytes that a touched inode or a placed piece takes in the journal, at most, besides its data.
pub(crate) const OVERHEAD: usize = 160;

impl<'a> Tx<'a> {
    /// An empty transaction for an operation.
    pub fn new(ty: OpType) -> Self {
        Self {
            ty,
            steps: Vec::with_capacity(8),
            branch: Branch::HEAD,
            copied: None,
        }
    }

    /// The same in a branch, of one that was made for the head.
    pub fn on(mut self, branch: Branch) -> Self {
        if branch == self.branch {
            return self;
        }
        self.branch = branch;
        for step in &mut self.steps {
            match step {
                Step::Put { key, .. }
                | Step::Del(key)
                | Step::Patch(key, _)
                | Step::Was(key, _)
                | Step::Write { key, .. } => *key = key.on(branch),
                Step::Count(..) | Step::Touch(..) | Step::Who(_) => {}
            }
        }
        self
    }

    /// Writes a record that may exist.
    pub fn put(&mut self, key: Key, value: Bytes) {
        debug_assert_ne!(key.tag(), Tag::Extent);
        self.steps.push(Step::Put {
            key,
            value,
            new: false,
        });
    }

    /// Writes a record that does not exist.
    pub fn put_new(&mut self, key: Key, value: Bytes) {
        debug_assert_ne!(key.tag(), Tag::Extent);
        self.steps.push(Step::Put {
            key,
            value,
            new: true,
        });
    }

    /// Writes a record that does not exist, before all else that the transaction does.
    pub fn put_first(&mut self, key: Key, value: Bytes) {
        debug_assert_ne!(key.tag(), Tag::Extent);
        let step = Step::Put {
            key,
            value,
            new: true,
        };
        self.steps.insert(0, step);
    }

    /// Deletes a record. Extents of a file go before its inode.
    pub fn del(&mut self, key: Key) {
        self.steps.push(Step::Del(key));
    }

    /// Deletes a record, and has the journal say what it was.
    pub fn del_told(&mut self, key: Key, was: Bytes) {
        self.steps.push(Step::Was(key, was));
        self.steps.push(Step::Del(key));
    }

    /// A copy of so many bytes ends with it.
    pub const fn ends_copy(&mut self, bytes: Option<u64>) {
        self.copied = bytes;
    }

    /// Has the journal say who asked, if it says anything of the operation itself.
    pub fn asked_by(&mut self, asker: Asker) {
        if self.steps.iter().any(|step| !step.is_beside()) {
            self.steps.push(Step::Who(asker));
        }
    }

    /// Lays a fragment over a block.
    pub fn patch(&mut self, key: Key, fragment: Fragment) {
        debug_assert_eq!(key.tag(), Tag::Extent);
        self.steps.push(Step::Patch(key, fragment));
    }

    /// Changes a counter of the volume.
    pub fn count(&mut self, counter: Counter, delta: i64) {
        if delta != 0 {
            self.steps.push(Step::Count(counter, delta));
        }
    }

    /// An existing inode changed.
    pub fn touch(&mut self, ino: Ino, inode: &Inode) {
        self.steps
            .push(Step::Touch(ino, Arc::from(inode.to_bytes())));
    }

    /// Bytes written to one block of a file, which they do not exceed.
    pub fn write(&mut self, ino: Ino, block: u64, off: u32, bytes: impl Into<Cow<'a, [u8]>>) {
        let bytes = bytes.into();
        if !bytes.is_empty() {
            let key = Key::extent(self.branch, ino, block);
            self.steps.push(Step::Write { key, off, bytes });
        }
    }

    /// The keys of one table whose records are written or deleted.
    pub fn written(&self, tag: Tag) -> impl Iterator<Item = Key> {
        let key = |step: &'_ Step<'a>| match step {
            Step::Put { key, .. } | Step::Del(key) => Some(*key),
            _ => None,
        };
        self.steps
            .iter()
            .filter_map(key)
            .filter(move |key| key.tag() == tag)
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Bytes that it takes in the journal, at most, if data of `inline` bytes and less is inline.
    pub(super) fn journal_size(&self, inline: usize) -> usize {
        let size = |step: &Step<'_>| match step {
            Step::Put { value, .. } | Step::Touch(_, value) | Step::Was(_, value) => {
                value.len() + 48
            }
            Step::Who(_) => 24,
            Step::Patch(_, fragment) => match &fragment.kind {
                FragmentKind::Inline(bytes) => bytes.len() + 64,
                _ => OVERHEAD,
            },
            Step::Del(_) | Step::Count(..) => 48,
            Step::Write { bytes, .. } if bytes.len() <= inline => bytes.len() + OVERHEAD,
            Step::Write { .. } => OVERHEAD,
        };
        // A branch may have to get an epoch first.
        let begin = match self.branch {
            Branch::HEAD => 0,
            _ => OVERHEAD,
        };
        self.steps.iter().map(size).sum::<usize>() + begin
    }

    /// Whether it makes something that stays: what a full host refuses, unlike what removes or
    /// moves. Data is reserved where it is written.
    pub(super) fn adds_records(&self) -> bool {
        let adds = matches!(
            self.ty,
            OpType::Create
                | OpType::Mkdir
                | OpType::Symlink
                | OpType::Mknod
                | OpType::Link
                | OpType::Xattr
                | OpType::Transaction
        );
        adds && self.steps.iter().any(|s| matches!(s, Step::Put { .. }))
    }

    /// Bytes of file data that it writes.
    pub(super) fn data_size(&self) -> usize {
        let size = |step: &Step<'_>| match step {
            Step::Write { bytes, .. } => bytes.len(),
            _ => 0,
        };
        self.steps.iter().map(size).sum()
    }
}
