//! The journal as a list of what was done, by path.
//!
//! An operation names inodes and places in directories. Which paths these were at that time
//! follows from the names that were given and taken since, and where there were none, from the
//! present. What neither tells is said not to be known.

use std::cell::RefCell;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use razorfs_format::key::{Key, Tag};
use razorfs_format::manifest::SnapshotMeta;
use razorfs_format::op::{Mutation, Op, OpType, decode_ops};
use razorfs_format::record::{Dirent, FileKind, Inode};
use razorfs_format::{BatchSeq, Branch, Epoch, Ino};

use super::Namespace;
use super::operation::PLACE;
use crate::asker::Asker;
use crate::journal::Batch;
use crate::store::{Store, is_hidden};
use crate::{Error, Result};

/// Deepest directory that is named.
const DEEP: usize = 4096;

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

/// A file, as one branch has it.
type Node = (Branch, Ino);

/// A name in a directory.
type Name = (Node, Box<[u8]>);

/// That a file got a name, or lost one.
struct Event {
    lsn: u64,
    lost: bool,
    name: Name,
}

/// What was done to a snapshot or a branch.
struct Point {
    what: &'static str,
    /// Of which branch.
    branch: Branch,
    /// The snapshot's number, or the branch's.
    id: u64,
    is_branch: bool,
    /// Its name where that is said.
    name: Option<Box<[u8]>>,
}

/// That a branch goes on from what a snapshot shows.
#[derive(Clone, Copy)]
enum Source {
    /// By its number.
    Snapshot(u64),
    /// By its epoch, of a branch.
    Epoch(Branch, Epoch),
}

/// What one operation says.
#[derive(Default)]
struct Said {
    lsn: u64,
    ty: Option<OpType>,
    made: Vec<(Node, Dirent)>,
    /// Names that were taken, and what they led to where that is said.
    gone: Vec<(Node, Option<Dirent>)>,
    nodes: Vec<Node>,
    bytes: u64,
    asker: Option<Asker>,
    points: Vec<Point>,
    /// Snapshots that were taken, whoever may see them.
    taken: Vec<SnapshotMeta>,
    jumps: Vec<(Branch, Source)>,
}

impl Said {
    fn of(lsn: u64, op: Op) -> Result<Self> {
        let mut said = Self {
            lsn,
            ty: Some(op.ty),
            ..Self::default()
        };
        let mut put: Vec<(Key, Dirent)> = Vec::new();
        for mutation in op.mutations {
            match mutation {
                Mutation::Put { key, value, .. } if key.tag() == Tag::Dirent => {
                    put.retain(|(other, _)| *other != key);
                    put.push((key, Dirent::decode(&value, PLACE)?));
                }
                Mutation::Del { key } if key.tag() == Tag::Dirent => {
                    let at = put.iter().position(|(other, _)| *other == key);
                    said.gone
                        .push((node(&key), at.map(|at| put.swap_remove(at).1)));
                }
                Mutation::Put { key, .. } | Mutation::Del { key } => said.involves(node(&key)),
                Mutation::Patch { key, fragment } => {
                    said.involves(node(&key));
                    said.bytes += u64::from(fragment.len);
                }
                Mutation::Who { uid, gid, pid } => said.asker = Some(Asker { uid, gid, pid }),
                Mutation::Take(snapshot) => {
                    if !snapshot.gone && !is_hidden(&snapshot.name) {
                        let name = Some(snapshot.name.clone());
                        said.point("snapshot", snapshot.branch, snapshot.id, name);
                    }
                    said.taken.push(snapshot);
                }
                Mutation::Drop { id } => said.point("snapshot-delete", Branch::HEAD, id, None),
                Mutation::Back { branch, id, .. } => {
                    said.point("rollback", branch, id, None);
                    said.jumps.push((branch, Source::Snapshot(id)));
                }
                Mutation::Fork(fork) => {
                    said.jumps
                        .push((fork.id, Source::Epoch(fork.parent, fork.epoch)));
                    said.points.push(Point {
                        what: "branch",
                        branch: fork.parent,
                        id: fork.id.0.into(),
                        is_branch: true,
                        name: Some(fork.name),
                    });
                }
                Mutation::Prune { branch } => said.points.push(Point {
                    what: "branch-delete",
                    branch: Branch::HEAD,
                    id: branch.0.into(),
                    is_branch: true,
                    name: None,
                }),
                Mutation::Count { .. } | Mutation::Begin { .. } => {}
            }
        }
        said.made
            .extend(put.into_iter().map(|(key, dirent)| (node(&key), dirent)));
        Ok(said)
    }

    fn point(&mut self, what: &'static str, branch: Branch, id: u64, name: Option<Box<[u8]>>) {
        self.points.push(Point {
            what,
            branch,
            id,
            is_branch: false,
            name,
        });
    }

    fn involves(&mut self, node: Node) {
        if !self.nodes.contains(&node) {
            self.nodes.push(node);
        }
    }

    /// Whether it says what inodes were in the end of their batch, beside what was done to them.
    fn is_summary(&self) -> bool {
        self.ty == Some(OpType::Note)
    }
}

/// Finds the paths.
struct Paths<'a> {
    namespace: &'a Namespace,
    events: HashMap<Node, Vec<Event>>,
    /// Since which operation each branch goes on from what, oldest first.
    jumps: HashMap<Branch, Vec<(u64, Source)>>,
    /// Snapshots by number, which is that of their operation.
    snapshots: BTreeMap<u64, SnapshotMeta>,
    branches: HashMap<Branch, Box<[u8]>>,
    /// The present of branches; nothing of those that are gone.
    present: RefCell<HashMap<Branch, Option<Store>>>,
}

impl<'a> Paths<'a> {
    fn new(namespace: &'a Namespace) -> Self {
        let store = &namespace.store;
        let snapshots = store.snapshots().into_iter();
        let forks = store.forks().into_iter();
        Self {
            namespace,
            events: HashMap::new(),
            jumps: HashMap::new(),
            snapshots: snapshots.map(|s| (s.id, SnapshotMeta::clone(&s))).collect(),
            branches: forks.map(|fork| (fork.id, fork.name)).collect(),
            present: RefCell::default(),
        }
    }

    /// Takes note of the names in an operation. They come in order.
    fn note(&mut self, said: &Said) {
        let lost = said.gone.iter();
        let lost = lost.filter_map(|(dir, was)| Some((true, *dir, was.as_ref()?)));
        let got = said.made.iter().map(|(dir, dirent)| (false, *dir, dirent));
        for (lost, dir, dirent) in lost.chain(got) {
            let node = (dir.0, dirent.ino);
            self.events.entry(node).or_default().push(Event {
                lsn: said.lsn,
                lost,
                name: (dir, dirent.name.clone()),
            });
        }
        for snapshot in &said.taken {
            self.snapshots.insert(snapshot.id, snapshot.clone());
        }
        for (branch, source) in &said.jumps {
            let of_branch = self.jumps.entry(*branch).or_default();
            of_branch.push((said.lsn, *source));
        }
        for point in said.points.iter().filter(|point| point.is_branch) {
            if let Some(name) = &point.name {
                self.branches.insert(branch_of(point.id), name.clone());
            }
        }
    }

    /// What a branch went on from, and the operation that it showed last.
    fn source(&self, branch: Branch, source: Source) -> Option<(Branch, u64)> {
        match source {
            Source::Snapshot(id) => {
                let of = self.snapshots.get(&id).map_or(branch, |s| s.branch);
                Some((of, id))
            }
            // The first that shows it: what came later in that branch is of later epochs.
            Source::Epoch(parent, epoch) => {
                let mut all = self.snapshots.values();
                let first = all.find(|s| s.branch == parent && s.epoch == epoch)?;
                Some((parent, first.id))
            }
        }
    }

    /// How a file was called once operation `lsn` was done; or just before, if it lost its name.
    fn name_at(&self, node: Node, lsn: u64) -> Result<Option<Name>> {
        let ((mut branch, ino), mut lsn) = (node, lsn);
        loop {
            let jumps = self.jumps.get(&branch).map_or(&[][..], Vec::as_slice);
            let passed = jumps.partition_point(|(at, _)| *at <= lsn);
            let since = passed.checked_sub(1).and_then(|last| jumps.get(last));
            let until = jumps.get(passed).map_or(u64::MAX, |(at, _)| *at);
            let events = self.events.get(&(branch, ino));
            let events = events.map_or(&[][..], Vec::as_slice);
            let before = events.partition_point(|event| event.lsn <= lsn);
            let last = before.checked_sub(1).and_then(|last| events.get(last));
            // What was before the branch went on from elsewhere is of another line.
            if let Some(last) = last.filter(|e| since.is_none_or(|(at, _)| e.lsn > *at)) {
                return Ok(Some(last.name.clone()));
            }
            let next = events.get(before);
            if let Some(next) = next.filter(|e| e.lost && e.lsn < until) {
                return Ok(Some(next.name.clone()));
            }
            let Some((at, source)) = since else {
                let is_as_now = next.is_none() && until == u64::MAX;
                return match is_as_now {
                    true => self.name_now((branch, ino)),
                    false => Ok(None),
                };
            };
            match self.source(branch, *source) {
                // What it goes on from is older: this comes to an end.
                Some((from, then)) if then < *at || from != branch => {
                    (branch, lsn) = (from, then.min(*at));
                }
                _ => return Ok(None),
            }
        }
    }

    fn name_now(&self, (branch, ino): Node) -> Result<Option<Name>> {
        let mut present = self.present.borrow_mut();
        let store = match present.entry(branch) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(self.open(branch)?),
        };
        let Some(store) = store else {
            return Ok(None);
        };
        let Some(bytes) = store.get(&Key::inode(Branch::HEAD, ino))? else {
            return Ok(None);
        };
        let inode = Inode::decode(&bytes, PLACE)?;
        let at = Key::dirent(Branch::HEAD, inode.parent, inode.cookie);
        let Some(bytes) = store.get(&at)? else {
            return Ok(None);
        };
        let dirent = Dirent::decode(&bytes, PLACE)?;
        Ok((dirent.ino == ino).then_some(((branch, inode.parent), dirent.name)))
    }

    fn open(&self, branch: Branch) -> Result<Option<Store>> {
        let store = &self.namespace.store;
        if branch == Branch::HEAD {
            return Ok(Some(store.below()));
        }
        match store.open_branch(branch) {
            Ok(branch) => Ok(Some(branch)),
            Err(Error::BranchGone) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The path of a name after operation `lsn`.
    fn path(&self, (dir, name): &Name, lsn: u64) -> Result<Option<PathBuf>> {
        let (mut parts, mut at) = (vec![name.clone()], *dir);
        while at.1 != Ino::ROOT {
            // Each is asked for where the branch had it.
            match self.name_at((dir.0, at.1), lsn)? {
                Some((above, name)) if parts.len() < DEEP => {
                    parts.push(name);
                    at = above;
                }
                _ => return Ok(None),
            }
        }
        parts.reverse();
        Ok(Some(OsString::from_vec(parts.join(&b'/')).into()))
    }

    /// The branch, for whoever reads of it.
    fn branch(&self, branch: Branch) -> Option<LogBranch> {
        (branch != Branch::HEAD).then(|| LogBranch {
            id: branch.0,
            name: self.branches.get(&branch).cloned(),
        })
    }
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

    fn named(
        &self,
        said: &Said,
        what: &'static str,
        (dir, dirent): (Node, &Dirent),
    ) -> Result<LogEntry> {
        let name = (dir, dirent.name.clone());
        Ok(LogEntry {
            path: self.paths.path(&name, said.lsn)?,
            name: Some(name.1),
            ino: Some(dirent.ino),
            ..self.entry(said, what, dir.0)
        })
    }

    /// Names that were given and taken. A file that lost one and got another was renamed.
    fn names(&mut self, said: &Said) -> Result<()> {
        let mut made: Vec<_> = said.made.iter().collect();
        for (dir, was) in &said.gone {
            let Some(was) = was else {
                self.entries.push(self.entry(said, word(said.ty), dir.0));
                continue;
            };
            let again = made.iter().position(|(_, dirent)| dirent.ino == was.ino);
            let what = match (again, was.kind) {
                (Some(_), _) => "rename",
                (None, FileKind::Directory) => "rmdir",
                (None, _) => "unlink",
            };
            let mut entry = self.named(said, what, (*dir, was))?;
            if let Some((dir, dirent)) = again.map(|at| made.remove(at)) {
                entry.to = self.paths.path(&(*dir, dirent.name.clone()), said.lsn)?;
            }
            self.entries.push(entry);
        }
        for (dir, dirent) in made {
            let what = match (said.ty, dirent.kind) {
                (Some(OpType::Link | OpType::Rename), _) => word(said.ty),
                (_, FileKind::Directory) => "mkdir",
                (_, FileKind::Symlink) => "symlink",
                (_, FileKind::Regular) => "create",
                _ => "mknod",
            };
            let entry = self.named(said, what, (*dir, dirent))?;
            self.entries.push(entry);
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
            } else if let Some(name) = self.paths.name_at(*node, said.lsn)? {
                let here = ((branch, name.0.1), name.1);
                entry.path = self.paths.path(&here, said.lsn)?;
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
            let name = point.name.clone().or_else(|| known.cloned());
            if name.as_deref().is_some_and(is_hidden) {
                continue;
            }
            self.entries.push(LogEntry {
                name,
                ..self.entry(said, point.what, point.branch)
            });
        }
    }
}

fn node(key: &Key) -> Node {
    (key.branch(), key.ino())
}

/// The branch of this number, which was one.
fn branch_of(id: u64) -> Branch {
    Branch(u32::try_from(id).unwrap_or(u32::MAX))
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
        told.extend(said.made.iter().flat_map(|(dir, d)| [*dir, (dir.0, d.ino)]));
        let gone = said.gone.iter();
        told.extend(
            gone.flat_map(|(dir, was)| [Some(*dir), was.as_ref().map(|w| (dir.0, w.ino))])
                .flatten(),
        );
        if !said.points.is_empty() {
            entries.points(said);
        } else if said.made.is_empty() && said.gone.is_empty() {
            entries.files(said, word(said.ty), &[])?;
        } else {
            entries.names(said)?;
        }
    }
    for said in all.iter().filter(|said| said.is_summary()) {
        entries.files(said, "touch", &told)?;
    }
    Ok(entries.entries)
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
#[path = "log_tests.rs"]
mod tests;
