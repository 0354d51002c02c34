//! Snapshots and branches, as the manifest and the journal have them.

use std::sync::Arc;

use super::take_all;
use crate::error::Result;
use crate::ids::{Branch, Epoch};
use crate::record::NAME_MAX;
use crate::timeline::{Fork, Forks, Span};
use crate::wire::{Put, Take};

/// A branch that was forked from another one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForkMeta {
    /// The branch; never reused, and never [`Branch::HEAD`].
    pub id: Branch,
    /// The branch it was forked from, which may be gone.
    pub parent: Branch,
    /// It goes on from what its parent showed up to this epoch.
    pub epoch: Epoch,
    /// When it was forked, in nanoseconds since 1970.
    pub time: u64,
    /// Inodes that it shows.
    pub inodes: u64,
    /// Sum of the sizes of the files that it shows.
    pub bytes: u128,
    /// Its name, at most 255 bytes.
    pub name: Box<[u8]>,
}

/// A snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotMeta {
    /// Its number; never reused.
    pub id: u64,
    /// The branch it shows.
    pub branch: Branch,
    /// It shows what was written up to this epoch.
    pub epoch: Epoch,
    /// It was given up: nobody sees it, but what only it holds is not released yet.
    pub gone: bool,
    /// When it was taken, in nanoseconds since 1970.
    pub time: u64,
    /// Inodes that it shows.
    pub inodes: u64,
    /// Sum of the sizes of the files that it shows.
    pub bytes: u128,
    /// Its name, at most 255 bytes.
    pub name: Box<[u8]>,
}

/// Appends a snapshot.
pub fn put_snapshot(meta: &SnapshotMeta, out: &mut Vec<u8>) {
    out.put_varint(meta.id);
    out.put_varint(u64::from(meta.branch.0));
    out.put_varint(meta.epoch.0);
    out.put_u8(u8::from(meta.gone));
    out.put_u64(meta.time);
    out.put_varint(meta.inodes);
    out.extend_from_slice(&meta.bytes.to_le_bytes());
    out.put_bytes(&meta.name);
}

/// When something was made, and its inodes and the sum of its sizes.
fn take_counts(t: &mut Take<'_>) -> Result<(u64, u64, u128)> {
    let (time, inodes) = (t.u64()?, t.varint()?);
    let at_bytes = *t;
    let bytes = u128::from_le_bytes(t.array()?);
    if bytes > i128::MAX as u128 {
        return Err(at_bytes.error("a sum of sizes", bytes));
    }
    Ok((time, inodes, bytes))
}

/// Appends a branch.
pub fn put_fork(meta: &ForkMeta, out: &mut Vec<u8>) {
    out.put_varint(u64::from(meta.id.0));
    out.put_varint(u64::from(meta.parent.0));
    out.put_varint(meta.epoch.0);
    out.put_u64(meta.time);
    out.put_varint(meta.inodes);
    out.extend_from_slice(&meta.bytes.to_le_bytes());
    out.put_bytes(&meta.name);
}

/// A branch, as the manifest and the journal have it.
pub fn take_fork(t: &mut Take<'_>) -> Result<ForkMeta> {
    let (id, parent) = (Branch(t.varint32()?), Branch(t.varint32()?));
    let at_epoch = *t;
    let epoch = Epoch(t.varint()?);
    if epoch >= Span::OPEN {
        return Err(at_epoch.error("an epoch that has an end", epoch));
    }
    let (time, inodes, bytes) = take_counts(t)?;
    Ok(ForkMeta {
        id,
        parent,
        epoch,
        time,
        inodes,
        bytes,
        name: t.bytes(NAME_MAX)?.into(),
    })
}

/// Appends all branches.
pub fn put_forks(forks: &Forks) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_varint(u64::from(forks.next.0));
    for fork in &forks.list {
        put_fork(&fork.meta, &mut out);
        out.put_varint(fork.line);
        out.put_varint(fork.base.0);
    }
    out
}

/// All branches.
pub fn take_forks(mut t: Take<'_>) -> Result<Forks> {
    let next = Branch(t.varint32()?);
    let take = |t: &mut Take<'_>| {
        Ok(Fork {
            meta: Arc::new(take_fork(t)?),
            line: t.varint()?,
            base: Epoch(t.varint()?),
        })
    };
    let list = take_all(t, take)?;
    Ok(Forks { next, list })
}

/// A snapshot, as the manifest and the journal have it.
pub fn take_snapshot(t: &mut Take<'_>) -> Result<SnapshotMeta> {
    let (id, branch) = (t.varint()?, Branch(t.varint32()?));
    let at_epoch = *t;
    let epoch = Epoch(t.varint()?);
    if epoch >= Span::OPEN {
        // Releasing it would take the head away.
        return Err(at_epoch.error("an epoch that has an end", epoch));
    }
    let at_flags = *t;
    let gone = match t.u8()? {
        0 => false,
        1 => true,
        other => return Err(at_flags.error("0 or 1", other)),
    };
    let (time, inodes, bytes) = take_counts(t)?;
    Ok(SnapshotMeta {
        id,
        branch,
        epoch,
        gone,
        time,
        inodes,
        bytes,
        name: t.bytes(NAME_MAX)?.into(),
    })
}
