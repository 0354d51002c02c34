//! Operations as the journal holds them: a type for people and tools, and the mutations that redo
//! it. `u8 type | varint len | mutations`; replay looks at the mutations only and reads nothing.
//!
//! | mutation | bytes |
//! |---|---|
//! | PUT | `1 | key string | value string` |
//! | DEL | `2 | key string` |
//! | PATCH | `3 | E key string | fragment` ([`Fragment::encode`]) |
//! | CTR | `4 | counter u8 | signed varint` |
//! | NEW | `5 | key string | value string`: a PUT of a key that never existed before, so that deleting it again needs no tombstone |
//! | WHO | `6 | uid varint | gid varint | pid varint`: who asked, for the audit trail; changes nothing |
//! | TAKE | `7 | a snapshot as in the manifest`: what is before it, in this batch and those before, belongs to its epoch or an earlier one; what follows, to a later one |
//! | DROP | `8 | id varint`: the snapshot is given up |
//! | BACK | `9 | id varint | end varint`: the volume goes on from the snapshot; epoch `end` is the last of what was before, and the counters become the snapshot's |
//! | FORK | `10 | a branch as in the manifest`: a branch of that name goes on from its epoch, of which there is a snapshot |
//! | PRUNE | `11 | branch varint`: the branch is gone |
//! | EPOCH | `12 | branch varint | epoch varint`: what a branch writes from here on is of that epoch; if it is the head, of that one or a later one, and all that is before in the journal is of older ones |
//! | CTR OF | `13 | branch varint | counter u8 | signed varint`: CTR, of a branch other than the head |
//! | BACK OF | `14 | branch varint | id varint | end varint`: BACK, of a branch other than the head |
//!
//! TAKE, DROP, BACK, FORK, PRUNE and the EPOCH of the head follow everything else in their batch,
//! in the order in which they stand.
//!
//! Keys are those of any table but `S` and `Z`, which follow from the extents. What is PUT, or NEW,
//! is no extent: those are patched.
//!
//! A PATCH lays one fragment over whatever the block already holds; it is resolved when the
//! memtable is flushed, so that redo reads nothing and an appended log line is logged once.

use crate::error::{Place, Result};
use crate::ids::{Branch, Epoch};
use crate::key::{Key, Tag};
use crate::manifest::{ForkMeta, SnapshotMeta, put_fork, put_snapshot, take_fork, take_snapshot};
use crate::record::Fragment;
use crate::wire::{Put, Take};

/// What the operation was, for the log, the statistics and point-in-time recovery.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are those of the system calls")]
pub enum OpType {
    Create = 1,
    Mkdir = 2,
    Unlink = 3,
    Rmdir = 4,
    Rename = 5,
    Link = 6,
    Symlink = 7,
    Mknod = 8,
    Write = 9,
    Truncate = 10,
    Setattr = 11,
    Xattr = 12,
    Reap = 13,
    GcMove = 14,
    Snapshot = 15,
    Branch = 16,
    Note = 17,
    Allocate = 18,
    Transaction = 19,
}

impl OpType {
    /// The type that `byte` stands for.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Create,
            2 => Self::Mkdir,
            3 => Self::Unlink,
            4 => Self::Rmdir,
            5 => Self::Rename,
            6 => Self::Link,
            7 => Self::Symlink,
            8 => Self::Mknod,
            9 => Self::Write,
            10 => Self::Truncate,
            11 => Self::Setattr,
            12 => Self::Xattr,
            13 => Self::Reap,
            14 => Self::GcMove,
            15 => Self::Snapshot,
            16 => Self::Branch,
            17 => Self::Note,
            18 => Self::Allocate,
            19 => Self::Transaction,
            _ => return None,
        })
    }
}

/// Counters of the volume, kept exact by deltas.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Counter {
    /// Inodes that have a name or are held open.
    Inodes = 1,
    /// Sum of the sizes of regular files, in bytes.
    Bytes = 2,
    /// The lowest inode number never given out, as an offset to the manifest's.
    NextIno = 3,
}

impl Counter {
    /// The counter that `byte` stands for.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Inodes,
            2 => Self::Bytes,
            3 => Self::NextIno,
            _ => return None,
        })
    }
}

/// One change of one record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Mutation {
    /// The record becomes `value`.
    Put {
        /// Which record.
        key: Key,
        /// Its encoded value.
        value: Box<[u8]>,
        /// The key never existed before.
        new: bool,
    },
    /// The record is gone.
    Del {
        /// Which record.
        key: Key,
    },
    /// A fragment is laid over the block.
    Patch {
        /// The block: an `E` key.
        key: Key,
        /// What is laid over it.
        fragment: Fragment,
    },
    /// A counter changes.
    Count {
        /// Of which branch.
        branch: Branch,
        /// Which.
        counter: Counter,
        /// By how much.
        delta: i64,
    },
    /// Who asked.
    Who {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
        /// Process.
        pid: u32,
    },
    /// A snapshot is taken.
    Take(SnapshotMeta),
    /// A snapshot is given up.
    Drop {
        /// Its number.
        id: u64,
    },
    /// A branch goes back to a snapshot.
    Back {
        /// Which branch.
        branch: Branch,
        /// Its number.
        id: u64,
        /// The last epoch before.
        end: Epoch,
    },
    /// A branch begins.
    Fork(ForkMeta),
    /// A branch ends.
    Prune {
        /// Which.
        branch: Branch,
    },
    /// A branch writes in an epoch from here on; of the head: in that one or a later one.
    Begin {
        /// Which branch.
        branch: Branch,
        /// The epoch.
        epoch: Epoch,
    },
}

/// Longest value of a record: an attribute of 64 KiB with its name, or a full extent list.
pub const MAX_VALUE: usize = 192 * 1024;

impl Mutation {
    /// Appends the encoding to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Put { key, value, new } => encode_put(key, value, *new, out),
            Self::Del { key } => {
                out.put_u8(2);
                out.put_bytes(key.as_bytes());
            }
            Self::Patch { key, fragment } => {
                out.put_u8(3);
                out.put_bytes(key.as_bytes());
                fragment.encode(out);
            }
            Self::Count {
                branch,
                counter,
                delta,
            } => {
                put_kind(4, 13, *branch, out);
                out.put_u8(*counter as u8);
                out.put_signed(*delta);
            }
            Self::Who { uid, gid, pid } => {
                out.put_u8(6);
                out.put_varint(u64::from(*uid));
                out.put_varint(u64::from(*gid));
                out.put_varint(u64::from(*pid));
            }
            Self::Take(snapshot) => {
                out.put_u8(7);
                put_snapshot(snapshot, out);
            }
            Self::Drop { id } => {
                out.put_u8(8);
                out.put_varint(*id);
            }
            Self::Back { branch, id, end } => {
                put_kind(9, 14, *branch, out);
                out.put_varint(*id);
                out.put_varint(end.0);
            }
            Self::Fork(meta) => {
                out.put_u8(10);
                put_fork(meta, out);
            }
            Self::Prune { branch } => {
                out.put_u8(11);
                out.put_varint(u64::from(branch.0));
            }
            Self::Begin { branch, epoch } => {
                out.put_u8(12);
                out.put_varint(u64::from(branch.0));
                out.put_varint(epoch.0);
            }
        }
    }

    /// Reads one mutation.
    pub fn decode(t: &mut Take<'_>) -> Result<Self> {
        fn key(t: &mut Take<'_>) -> Result<Key> {
            let start = *t;
            let bytes = t.bytes(32)?;
            // What is known of frames follows from the extents, and only flushes write it.
            Key::from_bytes(bytes)
                .filter(|key| !matches!(key.tag(), Tag::Shared | Tag::Held))
                .ok_or_else(|| start.error("a key", format_args!("bytes {bytes:02x?}")))
        }
        let start = *t;
        Ok(match t.u8()? {
            kind @ (1 | 5) => {
                let at = *t;
                let key = key(t)?;
                if key.tag() == Tag::Extent {
                    return Err(at.error("the key of a record other than an extent", "an E key"));
                }
                Self::Put {
                    key,
                    value: t.bytes(MAX_VALUE)?.into(),
                    new: kind == 5,
                }
            }
            2 => Self::Del { key: key(t)? },
            3 => {
                let at = *t;
                let key = key(t)?;
                if key.tag() != Tag::Extent {
                    return Err(at.error("an extent's key", format_args!("{key:?}")));
                }
                Self::Patch {
                    key,
                    fragment: Fragment::decode(t)?,
                }
            }
            kind @ (4 | 13) => {
                let branch = take_branch(kind == 13, t)?;
                let at = *t;
                let byte = t.u8()?;
                let counter =
                    Counter::from_byte(byte).ok_or_else(|| at.error("a counter", byte))?;
                Self::Count {
                    branch,
                    counter,
                    delta: t.signed()?,
                }
            }
            6 => Self::Who {
                uid: t.varint32()?,
                gid: t.varint32()?,
                pid: t.varint32()?,
            },
            7 => Self::Take(take_snapshot(t)?),
            8 => Self::Drop { id: t.varint()? },
            kind @ (9 | 14) => Self::Back {
                branch: take_branch(kind == 14, t)?,
                id: t.varint()?,
                end: Epoch(t.varint()?),
            },
            10 => Self::Fork(take_fork(t)?),
            11 => Self::Prune {
                branch: take_branch(true, t)?,
            },
            12 => Self::Begin {
                branch: Branch(t.varint32()?),
                epoch: Epoch(t.varint()?),
            },
            other => return Err(start.error("a mutation", other)),
        })
    }
}

/// Appends the kind of a mutation of the head, or that of another branch and which.
fn put_kind(head: u8, other: u8, branch: Branch, out: &mut Vec<u8>) {
    if branch == Branch::HEAD {
        out.put_u8(head);
    } else {
        out.put_u8(other);
        out.put_varint(u64::from(branch.0));
    }
}

/// The branch of a mutation, which stands there if it is not the head.
fn take_branch(stands: bool, t: &mut Take<'_>) -> Result<Branch> {
    if !stands {
        return Ok(Branch::HEAD);
    }
    let start = *t;
    match Branch(t.varint32()?) {
        Branch::HEAD => Err(start.error("a branch other than the head", 0)),
        branch => Ok(branch),
    }
}

/// Appends the encoding of a PUT, or of a NEW.
pub fn encode_put(key: &Key, value: &[u8], new: bool, out: &mut Vec<u8>) {
    out.put_u8(if new { 5 } else { 1 });
    out.put_bytes(key.as_bytes());
    out.put_bytes(value);
}

/// Appends the operation `ty` whose encoded mutations are `mutations`.
pub fn encode_op(ty: OpType, mutations: &[u8], out: &mut Vec<u8>) {
    out.put_u8(ty as u8);
    out.put_bytes(mutations);
}

/// One operation read from a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Op {
    /// What it was.
    pub ty: OpType,
    /// What redoes it.
    pub mutations: Vec<Mutation>,
}

/// Reads the operations of a batch's payload.
pub fn decode_ops(payload: &[u8], place: Place) -> Result<Vec<Op>> {
    let mut t = Take::new(payload, place, "journal operation");
    let mut ops = Vec::new();
    while !t.is_empty() {
        let start = t;
        let byte = t.u8()?;
        let ty = OpType::from_byte(byte).ok_or_else(|| start.error("an operation", byte))?;
        let len = t.varint_max(t.rest().len() as u64)?;
        let mut inner = Take::new(t.slice(len as usize)?, t.place(), "journal mutation");
        let mut mutations = Vec::new();
        while !inner.is_empty() {
            mutations.push(Mutation::decode(&mut inner)?);
        }
        ops.push(Op { ty, mutations });
    }
    Ok(ops)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::PackId;
    use crate::layout::FileName;

    /// A memtable holds a block as what was laid over it, so there would be no place for it.
    #[test]
    fn an_extent_is_patched_and_never_put() {
        let key = Key::extent(crate::Branch::HEAD, crate::Ino(20), 3);
        for new in [false, true] {
            let mut bytes = Vec::new();
            encode_put(&key, &[], new, &mut bytes);
            let place = Place::new(FileName::Journal(0), 0);
            let read = Mutation::decode(&mut Take::new(&bytes, place, "test"));
            assert!(read.is_err(), "{read:?}");
        }
    }

    #[test]
    fn the_count_of_a_shared_frame_is_never_journaled() {
        let key = Key::shared(PackId(3), 4096);
        let put = Mutation::Put {
            key,
            value: [1, 56].into(),
            new: true,
        };
        for mutation in [put, Mutation::Del { key }] {
            let mut bytes = Vec::new();
            mutation.encode(&mut bytes);
            let place = Place::new(FileName::Journal(0), 0);
            let read = Mutation::decode(&mut Take::new(&bytes, place, "test"));
            assert!(read.is_err(), "{read:?}");
        }
    }
}
