//! Which paths names had, and when.

use std::cell::RefCell;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use razorfs_format::key::Key;
use razorfs_format::manifest::SnapshotMeta;
use razorfs_format::record::{Dirent, Inode};
use razorfs_format::{Branch, Ino};

use super::super::Namespace;
use super::super::operation::PLACE;
use super::LogBranch;
use super::said::{Moment, Name, Node, Said, Source};
use crate::store::Store;
use crate::{Error, Result};

/// Deepest directory that is named.
const DEEP: usize = 4096;

/// That a file got a name, or lost one.
pub(super) struct Event {
    pub at: Moment,
    pub lost: bool,
    pub name: Name,
}
/// Finds the paths.
pub(super) struct Paths<'a> {
    pub namespace: &'a Namespace,
    pub events: HashMap<Node, Vec<Event>>,
    /// Since which operation each branch goes on from what, oldest first.
    pub jumps: HashMap<Branch, Vec<(u64, Source)>>,
    /// Snapshots by number, which is that of their operation.
    pub snapshots: BTreeMap<u64, SnapshotMeta>,
    pub branches: HashMap<Branch, Box<[u8]>>,
    /// The present of branches; nothing of those that are gone.
    pub present: RefCell<HashMap<Branch, Option<Store>>>,
}

impl<'a> Paths<'a> {
    pub(super) fn new(namespace: &'a Namespace) -> Self {
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
    pub(super) fn note(&mut self, said: &Said) {
        for (n, change) in said.names.iter().enumerate() {
            let Some(dirent) = &change.dirent else {
                continue;
            };
            let node = (change.dir.0, dirent.ino);
            self.events.entry(node).or_default().push(Event {
                at: (said.lsn, n),
                lost: change.lost,
                name: (change.dir, dirent.name.clone()),
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

    /// How a file was called at a moment; or just before, if it lost its name.
    pub(super) fn name_at(&self, node: Node, moment: Moment) -> Result<Option<Name>> {
        let ((mut branch, ino), mut moment) = (node, moment);
        // What was written over is checked by nobody: there may be a circle in it.
        for _ in 0..DEEP {
            let jumps = self.jumps.get(&branch).map_or(&[][..], Vec::as_slice);
            let passed = jumps.partition_point(|(at, _)| *at <= moment.0);
            let since = passed.checked_sub(1).and_then(|last| jumps.get(last));
            let until = jumps.get(passed).map_or(u64::MAX, |(at, _)| *at);
            let events = self.events.get(&(branch, ino));
            let events = events.map_or(&[][..], Vec::as_slice);
            let before = events.partition_point(|event| event.at <= moment);
            let last = before.checked_sub(1).and_then(|last| events.get(last));
            // What was before the branch went on from elsewhere is of another line.
            if let Some(last) = last.filter(|e| since.is_none_or(|(at, _)| e.at.0 > *at)) {
                return Ok(Some(last.name.clone()));
            }
            let next = events.get(before);
            if let Some(next) = next.filter(|e| e.lost && e.at.0 < until) {
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
                    (branch, moment) = (from, end_of(then.min(*at)));
                }
                _ => return Ok(None),
            }
        }
        Ok(None)
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

    /// The path of a name at a moment.
    pub(super) fn path(&self, (dir, name): &Name, moment: Moment) -> Result<Option<PathBuf>> {
        let (mut parts, mut at) = (vec![name.clone()], *dir);
        while at.1 != Ino::ROOT {
            // Each is asked for where the branch had it.
            match self.name_at((dir.0, at.1), moment)? {
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
    pub(super) fn branch(&self, branch: Branch) -> Option<LogBranch> {
        (branch != Branch::HEAD).then(|| LogBranch {
            id: branch.0,
            name: self.branches.get(&branch).cloned(),
        })
    }
}

/// The moment at which an operation was done.
pub(super) const fn end_of(lsn: u64) -> Moment {
    (lsn, usize::MAX)
}

/// The branch of this number, which was one.
pub(super) fn branch_of(id: u64) -> Branch {
    Branch(u32::try_from(id).unwrap_or(u32::MAX))
}
