//! Doing it, in a branch that nobody else writes to.
//!
//! Inodes come first, directories without entries; then the names, which bring the entries and the
//! links of directories; then everything else that the records of inodes say, and last the data.

use std::collections::BTreeSet;

use razorfs_format::key::Key;
use razorfs_format::op::{Counter, OpType};
use razorfs_format::record::{BLOCK, Dirent, FileKind, Inode, Time, inode_flags};
use razorfs_format::{Branch, Ino};

use super::Clash;
use super::compare::{Plan, inode_key, merge_dir};
use crate::namespace::Namespace;
use crate::namespace::diff::Side;
use crate::namespace::operation::{Operation, PLACE};
use crate::namespace::remove::counted_bytes;
use crate::store::{OVERHEAD, Store};
use crate::{Error, Result};

/// Changes that one transaction makes, if these are small.
const AT_ONCE: usize = 512;
/// Bytes of the journal that a change takes at most, but for blocks of very many pieces: it is the
/// largest attribute.
const LARGEST: usize = (64 << 10) + 4 * OVERHEAD;
/// Blocks of data that one transaction copies.
const BLOCKS_AT_ONCE: usize = 32;
/// Deepest directory.
const DEEP: usize = 4096;

/// Does what the plan says. Answers the files of which that cannot be done.
pub(super) fn apply(ours: &Namespace, theirs: &Store, plan: &Plan) -> Result<Vec<Clash>> {
    let changes = &plan.theirs;
    finish_trims(ours, plan)?;
    let new = changes.inodes.iter().filter_map(|(ino, pair)| match pair {
        (None, Some(inode)) => Some((*ino, inode)),
        _ => None,
    });
    in_parts(ours, new, AT_ONCE, &mut |op, (ino, inode)| {
        match op.inode(ino) {
            Ok(_) => return named_again(op, ino, inode),
            Err(Error::NotFound) => {}
            Err(e) => return Err(e),
        }
        op.count(Counter::Bytes, counted_bytes(inode));
        op.insert_as(ino, first(inode));
        Ok(())
    })?;
    let names = changes.names.iter();
    in_parts(ours, names, AT_ONCE, &mut |op, (key, (before, after))| {
        name(op, key, before.as_ref(), after.as_ref())
    })?;
    let records = changes.records.iter();
    in_parts(ours, records, AT_ONCE, &mut |op, (key, value)| {
        // What both have removed, or set to the same.
        if op.get(key)? == *value || !has_inode(op, key.ino(), value.is_some())? {
            return Ok(());
        }
        match value {
            Some(value) => op.put(*key, value.clone()),
            None => op.del(*key),
        }
        Ok(())
    })?;
    cut(ours, plan)?;
    let inodes = changes.inodes.iter();
    in_parts(ours, inodes, AT_ONCE, &mut |op, (ino, (before, after))| {
        let times = plan.times.get(ino).copied();
        inode(op, *ino, before.as_ref(), after.as_ref(), times)
    })?;
    let blocks = changes.blocks.iter();
    let mut lost = BTreeSet::new();
    in_parts(
        ours,
        blocks,
        BLOCKS_AT_ONCE,
        &mut |op, (ino, block)| match copy_block(op, theirs, *ino, *block) {
            Err(e) if e.is_loss() => {
                tracing::warn!(%ino, block, error = %e, "a block cannot be committed");
                lost.insert(*ino);
                Ok(())
            }
            copied => copied,
        },
    )?;
    unreadable(theirs, lost)
}

/// Files of which something is lost in the branch.
fn unreadable(theirs: &Store, lost: BTreeSet<Ino>) -> Result<Vec<Clash>> {
    let mut side = Side::new(theirs);
    let clash = |ino| {
        let path = match side.inode(ino)? {
            Some(inode) => side.home(ino, &inode)?,
            None => None,
        };
        let why = "its data is damaged in the branch, and cannot be read";
        Ok(Clash::new(path, ino, why))
    };
    lost.into_iter().map(clash).collect()
}

/// Files that are written over have no truncation that goes on.
fn finish_trims(ours: &Namespace, plan: &Plan) -> Result<()> {
    for ino in plan.theirs.inodes.keys() {
        let Some(value) = ours.store.get(&inode_key(*ino))? else {
            continue;
        };
        if Inode::decode(&value, PLACE)?.flags & inode_flags::TRIMMING != 0 {
            ours.finish_trims(&[*ino])?;
        }
    }
    Ok(())
}

/// Removes the blocks of files that became shorter, however many these are: the branch may not have
/// removed its own yet.
fn cut(ours: &Namespace, plan: &Plan) -> Result<()> {
    for (ino, pair) in &plan.theirs.inodes {
        let Some(theirs) = &pair.1 else {
            continue;
        };
        let Some(value) = ours.store.get(&inode_key(*ino))? else {
            continue;
        };
        let is_cut = theirs.size < Inode::decode(&value, PLACE)?.size;
        let mut more = is_cut && theirs.kind() == FileKind::Regular;
        while more {
            let mut op = ours.begin(OpType::Truncate)?;
            more = !op.reap_blocks(*ino, theirs.size.div_ceil(u64::from(BLOCK)))?;
            ours.commit(op)?;
        }
    }
    Ok(())
}

/// Does each in transactions of so many, or fewer if they are large.
fn in_parts<'a, T>(
    ours: &'a Namespace,
    all: impl Iterator<Item = T>,
    at_once: usize,
    each: &mut dyn FnMut(&mut Operation<'a>, T) -> Result<()>,
) -> Result<()> {
    let mut all = all.peekable();
    while all.peek().is_some() {
        let limits = &ours.store.limits;
        let enough = limits.most().saturating_sub(LARGEST);
        let enough = enough.min(limits.soft_batch());
        let mut op = ours.begin(OpType::Transaction)?.with_overlay();
        for one in all.by_ref().take(at_once) {
            each(&mut op, one)?;
            if op.journal_bytes() >= enough {
                break;
            }
        }
        let bytes = op.journal_bytes();
        if bytes > limits.most() {
            ours.store.grow_journal_for(bytes)?;
        }
        let (data, growth) = op.volume_of_data();
        ours.store.reserve(data, growth)?;
        ours.commit(op)?;
    }
    Ok(())
}

/// A file that had lost its name, or never had one, and was given one: it has its data.
fn named_again(op: &mut Operation<'_>, ino: Ino, inode: &Inode) -> Result<()> {
    let before = op.inode(ino)?.clone();
    let next = Inode {
        // Until what is behind the end is gone.
        size: before.size.max(inode.size),
        ..first(inode)
    };
    op.count(
        Counter::Bytes,
        counted_bytes(&next) - counted_bytes(&before),
    );
    *op.change(ino)? = next;
    op.del(Key::orphan(Branch::HEAD, ino));
    Ok(())
}

/// A new inode before it has entries: those of a directory come with the names.
fn first(inode: &Inode) -> Inode {
    match inode.is_dir() {
        true => Inode {
            nlink: 2,
            entries: 0,
            ..inode.clone()
        },
        false => inode.clone(),
    }
}

fn name(
    op: &mut Operation<'_>,
    key: &Key,
    before: Option<&Dirent>,
    after: Option<&Dirent>,
) -> Result<()> {
    let (dir, cookie) = (key.ino(), key.second());
    let here = match op.get(key)? {
        Some(value) => Some(Dirent::decode(&value, PLACE)?),
        None => None,
    };
    if here.as_ref() == after {
        // Both have done it.
        return Ok(());
    }
    if here.as_ref() != before {
        return Err(Error::Invalid("a name has changed while it was merged"));
    }
    match (before, after) {
        (Some(before), Some(after)) => op.redirect_entry(dir, cookie, before.kind, after),
        (Some(before), None) => op.remove_entry(dir, cookie, before),
        (None, Some(after)) => op.add_entry(dir, cookie, after),
        (None, None) => Ok(()),
    }
}

/// Whether the inode that a record is of is there, where it has to be.
fn has_inode(op: &mut Operation<'_>, ino: Ino, has_to: bool) -> Result<bool> {
    match op.inode(ino) {
        Ok(_) => Ok(true),
        Err(Error::NotFound) if !has_to => Ok(false),
        Err(e) => Err(e),
    }
}

fn inode(
    op: &mut Operation<'_>,
    ino: Ino,
    before: Option<&Inode>,
    after: Option<&Inode>,
    times: Option<(Time, Time)>,
) -> Result<()> {
    let ours = match op.inode(ino) {
        Ok(inode) => inode.clone(),
        // Both have removed it.
        Err(Error::NotFound) => return Ok(()),
        Err(e) => return Err(e),
    };
    let Some(theirs) = after else {
        if ours.nlink > 0 {
            op.change(ino)?.nlink = 0;
            return op.lose(ino);
        }
        return Ok(());
    };
    let next = match (theirs.is_dir(), before) {
        // What is left of a truncation there does not come along.
        (false, _) => Inode {
            flags: theirs.flags & !inode_flags::TRIMMING,
            ..theirs.clone()
        },
        // The entries came with the names.
        (true, None) => Inode {
            nlink: ours.nlink,
            entries: ours.entries,
            ..theirs.clone()
        },
        (true, Some(base)) => {
            // The names have set the times of ours to now.
            let merged = merge_dir(base, theirs, &ours);
            let merged = merged.ok_or(Error::Invalid("a directory changed while it was merged"))?;
            let (mtime, ctime) = times.unwrap_or((theirs.mtime, theirs.ctime));
            let is_read = ours.atime != base.atime;
            Inode {
                atime: if is_read { ours.atime } else { theirs.atime },
                mtime: theirs.mtime.max(mtime),
                ctime: theirs.ctime.max(ctime),
                ..merged
            }
        }
    };
    op.count(Counter::Bytes, counted_bytes(&next) - counted_bytes(&ours));
    *op.change(ino)? = next;
    Ok(())
}

/// Makes a block what it is in the branch.
fn copy_block(op: &mut Operation<'_>, theirs: &Store, ino: Ino, block: u64) -> Result<()> {
    let inode = op.inode(ino)?;
    if inode.kind() != FileKind::Regular {
        return Ok(());
    }
    let start = block.saturating_mul(u64::from(BLOCK));
    // What a truncation has not removed yet stays behind.
    let size = inode.size.saturating_sub(start).min(u64::from(BLOCK)) as u32;
    let mut runs = Vec::new();
    theirs.extents(ino, block, block.saturating_add(1), &mut |_, found| {
        runs.extend_from_slice(found);
        true
    })?;
    op.hole(ino, block, 0, BLOCK);
    for run in runs {
        let run = run.start..run.end.min(size);
        if run.is_empty() {
            continue;
        }
        let mut bytes = vec![0; (run.end - run.start) as usize];
        theirs.read_block(ino, block, run.start, &mut bytes)?;
        op.data(ino, block, run.start, bytes);
    }
    Ok(())
}

/// Directories that were moved in both, into each other.
pub(super) fn circles(ours: &Namespace, base: &Store, plan: &Plan) -> Result<Vec<Clash>> {
    let mut side = Side::new(base);
    let mut clashes = Vec::new();
    let inodes = plan.theirs.inodes.iter();
    let moved = inodes.filter_map(|(ino, pair)| match pair {
        (Some(before), Some(after)) if after.is_dir() && before.parent != after.parent => {
            Some((ino, before))
        }
        _ => None,
    });
    for (ino, before) in moved {
        let mut at = *ino;
        let mut steps = 0;
        while at != Ino::ROOT && steps < DEEP {
            at = match ours.store.get(&inode_key(at))? {
                Some(value) => Inode::decode(&value, PLACE)?.parent,
                None => return Err(Error::NotFound),
            };
            steps += 1;
        }
        if at != Ino::ROOT {
            let path = side.home(*ino, before)?;
            let why = "both have moved this directory, and one would be in itself";
            clashes.push(Clash::new(path, *ino, why));
        }
    }
    Ok(clashes)
}
