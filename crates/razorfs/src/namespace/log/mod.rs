//! The journal as a list of what was done, by path.
//!
//! An operation names inodes and places in directories. Which paths these were at that time
//! follows from the names that were given and taken since, and where there were none, from the
//! present. What neither tells is said not to be known.

mod paths;
mod said;

use std::path::PathBuf;

use razorfs_format::op::{OpType, decode_ops};
use razorfs_format::record::FileKind;
use razorfs_format::{BatchSeq, Branch, Ino};

use self::paths::{Paths, branch_of, end_of};
use self::said::{Change, Node, Said};
use super::Namespace;
use super::operation::PLACE;
use crate::asker::Asker;
use crate::journal::Batch;
use crate::store::is_hidden;
use crate::{Error, Result};

/// One thing that was done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogEntry {
    /// Number of its operation; what one operation did to several files has one number.
    pub lsn: u64,
    /// The batch that it became durable with.
    pub batch: u64,
    /// When that was written, in nanoseconds since 1970.
    pub time: u64,
    /// What it was, as a word that stays the same.
    pub what: &'static str,
    /// The file, from the root on, as it was called then; `None` if that is not known any more.
    pub path: Option<PathBuf>,
    /// The last part of the path, which may be known alone; of a snapshot its name.
    pub name: Option<Box<[u8]>>,
    /// How it is called since, if it was renamed.
    pub to: Option<PathBuf>,
    /// The file.
    pub ino: Option<Ino>,
    /// The branch in which it was done; `None` for the volume itself.
    pub branch: Option<LogBranch>,
    /// Bytes that were written, or let go of.
    pub bytes: u64,
    /// Who asked, if the journal says so.
    pub asker: Option<Asker>,
}

/// A branch, in which something was done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogBranch {
    /// Its number; never reused.
    pub id: u32,
    /// Its name, unless that is not known any more.
    pub name: Option<Box<[u8]>>,
}

/// The entries of one batch, as they come.
struct Entries<'a> {
    paths: &'a Paths<'a>,
    batch: &'a Batch,
    entries: Vec<LogEntry>,
}

impl Entries<'_> {
    fn entry(&self, said: &Said, what: &'static str, branch: Branch) -> LogEntry {
        LogEntry {
            branch: self.paths.branch(branch),
            lsn: said.lsn,
            batch: self.batch.seq.0,
            time: self.batch.wall_ns,
            what,
            path: None,
            name: None,
            to: None,
            ino: None,
            bytes: said.bytes,
            asker: said.asker,
        }
    }

    /// What was done to the name that was the `n`th of an operation.
    fn named(&self, said: &Said, what: &'static str, n: usize) -> Result<Option<LogEntry>> {
        let Some(Change { dir, dirent, .. }) = said.names.get(n) else {
            return Ok(None);
        };
        let Some(dirent) = dirent else {
            return Ok(Some(self.entry(said, what, dir.0)));
        };
        let name = (*dir, dirent.name.clone());
        Ok(Some(LogEntry {
            path: self.paths.path(&name, (said.lsn, n))?,
            name: Some(name.1),
            ino: Some(dirent.ino),
            ..self.entry(said, what, dir.0)
        }))
    }

    /// Names that were given and taken. A file that lost one and got another next was renamed,
    /// perhaps over one that lost its name in between.
    fn names(&mut self, said: &Said) -> Result<()> {
        // Where those began that were lost in a row.
        let mut lost_from = 0;
        for (n, change) in said.names.iter().enumerate() {
            let kind = change.dirent.as_ref().map(|d| (d.ino, d.kind));
            let entry = match (kind, change.lost) {
                (None, _) => self.named(said, word(said.ty), n)?,
                (Some((ino, kind)), true) => {
                    let after = || said.names.iter().skip(n + 1);
                    let is_last = !after().take_while(|c| c.lost).any(|c| c.is_of(ino));
                    let next = after().find(|c| !c.lost);
                    if is_last && next.is_some_and(|next| next.is_of(ino)) {
                        continue;
                    }
                    let is_dir = kind == FileKind::Directory;
                    self.named(said, if is_dir { "rmdir" } else { "unlink" }, n)?
                }
                (Some((ino, kind)), false) => {
                    let mut lost = (lost_from..n).rev();
                    let from = lost.find(|n| said.names.get(*n).is_some_and(|c| c.is_of(ino)));
                    lost_from = n + 1;
                    match from {
                        Some(from) => {
                            let to = self.named(said, "rename", n)?.and_then(|e| e.path);
                            let from = self.named(said, "rename", from)?;
                            from.map(|from| LogEntry { to, ..from })
                        }
                        None => self.named(said, word_of_new(said.ty, kind), n)?,
                    }
                }
            };
            self.entries.extend(entry);
        }
        Ok(())
    }

    /// What was done to files whatever they are called.
    fn files(&mut self, said: &Said, what: &'static str, except: &[Node]) -> Result<()> {
        for node in said.nodes.iter().filter(|node| !except.contains(node)) {
            let (branch, ino) = *node;
            let branch_id = (branch != Branch::HEAD).then_some(branch.0);
            let last = self.entries.last_mut();
            if let Some(last) = last.filter(|e| e.what == "write" && what == e.what)
                && last.ino == Some(ino)
                && last.branch.as_ref().map(|b| b.id) == branch_id
            {
                last.bytes += said.bytes;
                continue;
            }
            let mut entry = LogEntry {
                ino: Some(ino),
                ..self.entry(said, what, branch)
            };
            if ino == Ino::ROOT {
                entry.path = Some(PathBuf::new());
            } else if let Some(name) = self.paths.name_at(*node, end_of(said.lsn))? {
                let here = ((branch, name.0.1), name.1);
                entry.path = self.paths.path(&here, end_of(said.lsn))?;
                entry.name = Some(here.1);
            }
            self.entries.push(entry);
        }
        Ok(())
    }

    fn points(&mut self, said: &Said) {
        for point in &said.points {
            let known = match point.is_branch {
                true => self.paths.branches.get(&branch_of(point.id)),
                false => self.paths.snapshots.get(&point.id).map(|s| &s.name),
            };
            let mut name = point.name.clone().or_else(|| known.cloned());
            if name.as_deref().is_some_and(is_hidden) {
                if point.what != "rollback" {
                    continue;
                }
                // To what was made for that alone: by a commit, a receive or a restore.
                name = None;
            }
            self.entries.push(LogEntry {
                name,
                ..self.entry(said, point.what, point.branch)
            });
        }
    }
}

impl Namespace {
    /// What was done, as far as the journal still has it and it is durable, oldest first, from the
    /// batch `from` on; and the batch that comes next.
    pub(crate) fn log(&self, from: u64) -> Result<(Vec<LogEntry>, u64)> {
        let batches = self.store.history(BatchSeq(from))?;
        let next = batches.last().map_or(from, |last| last.seq.0 + 1);
        let mut paths = Paths::new(self);
        let mut said = Vec::new();
        for batch in &batches {
            let ops = decode_ops(&batch.payload, PLACE).map_err(Error::from)?;
            let lsns = batch.first_lsn.0..;
            let of_batch = lsns.zip(ops).map(|(lsn, op)| Said::of(lsn, op));
            let of_batch: Vec<Said> = of_batch.collect::<Result<_>>()?;
            of_batch.iter().for_each(|said| paths.note(said));
            said.push(of_batch);
        }
        let mut entries = Vec::new();
        for (batch, all) in batches.iter().zip(&said) {
            entries.extend(of_batch(&paths, batch, all)?);
        }
        Ok((entries, next))
    }
}

fn of_batch(paths: &Paths<'_>, batch: &Batch, all: &[Said]) -> Result<Vec<LogEntry>> {
    let mut entries = Entries {
        paths,
        batch,
        entries: Vec::new(),
    };
    // What is told of already: their times follow from it.
    let mut told: Vec<Node> = Vec::new();
    for said in all.iter().filter(|said| !said.is_summary()) {
        told.extend(&said.nodes);
        for change in &said.names {
            told.push(change.dir);
            let file = change.dirent.as_ref();
            told.extend(file.map(|file| (change.dir.0, file.ino)));
        }
        if !said.points.is_empty() {
            entries.points(said);
        } else if said.names.is_empty() {
            entries.files(said, word(said.ty), &[])?;
        } else {
            entries.names(said)?;
        }
    }
    for said in all.iter().filter(|said| said.is_summary()) {
        entries.files(said, "touch", &told)?;
    }
    // What a commit or the like does in a branch that nobody sees is seen when it is gone to.
    entries.entries.retain(|entry| {
        let name = entry
            .branch
            .as_ref()
            .and_then(|branch| branch.name.as_deref());
        !name.is_some_and(is_hidden)
    });
    Ok(entries.entries)
}

fn word_of_new(ty: Option<OpType>, kind: FileKind) -> &'static str {
    match (ty, kind) {
        (Some(OpType::Link | OpType::Rename), _) => word(ty),
        (_, FileKind::Directory) => "mkdir",
        (_, FileKind::Symlink) => "symlink",
        (_, FileKind::Regular) => "create",
        _ => "mknod",
    }
}

fn word(ty: Option<OpType>) -> &'static str {
    match ty {
        Some(OpType::Create) => "create",
        Some(OpType::Mkdir) => "mkdir",
        Some(OpType::Unlink) => "unlink",
        Some(OpType::Rmdir) => "rmdir",
        Some(OpType::Rename) => "rename",
        Some(OpType::Link) => "link",
        Some(OpType::Symlink) => "symlink",
        Some(OpType::Mknod) => "mknod",
        Some(OpType::Write) => "write",
        Some(OpType::Truncate) => "truncate",
        Some(OpType::Setattr) => "setattr",
        Some(OpType::Xattr) => "xattr",
        Some(OpType::Reap) => "reap",
        Some(OpType::GcMove) => "move-data",
        Some(OpType::Snapshot) => "snapshot",
        Some(OpType::Branch) => "branch",
        Some(OpType::Allocate) => "allocate",
        Some(OpType::Transaction) => "transaction",
        Some(OpType::Note) | None => "note",
    }
}

#[cfg(test)]
mod tests;
