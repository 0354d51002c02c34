//! What one operation of the journal says.

use razorfs_format::key::{Key, Tag};
use razorfs_format::manifest::SnapshotMeta;
use razorfs_format::op::{Mutation, Op, OpType};
use razorfs_format::record::Dirent;
use razorfs_format::{Branch, Epoch, Ino};

use super::super::operation::PLACE;
use crate::Result;
use crate::asker::Asker;
use crate::store::is_hidden;

/// A file, as one branch has it.
pub(super) type Node = (Branch, Ino);

/// A name in a directory.
pub(super) type Name = (Node, Box<[u8]>);

/// When a file got a name or lost one: number of the operation, and the how manieth of it.
pub(super) type Moment = (u64, usize);

/// That a file got a name, or lost one.
/// That a directory got an entry, or lost one.
pub(super) struct Change {
    pub lost: bool,
    pub dir: Node,
    /// None of a lost one, if the journal does not say what it was.
    pub dirent: Option<Dirent>,
}

impl Change {
    pub(super) fn is_of(&self, ino: Ino) -> bool {
        self.dirent.as_ref().is_some_and(|d| d.ino == ino)
    }
}

/// What was done to a snapshot or a branch.
pub(super) struct Point {
    pub what: &'static str,
    /// Of which branch.
    pub branch: Branch,
    /// The snapshot's number, or the branch's.
    pub id: u64,
    pub is_branch: bool,
    /// Its name where that is said.
    pub name: Option<Box<[u8]>>,
}

/// That a branch goes on from what a snapshot shows.
#[derive(Clone, Copy)]
pub(super) enum Source {
    /// By its number.
    Snapshot(u64),
    /// By its epoch, of a branch.
    Epoch(Branch, Epoch),
}

/// What one operation says.
#[derive(Default)]
pub(super) struct Said {
    pub lsn: u64,
    pub ty: Option<OpType>,
    /// Names that were given and taken, in the order in which that was done.
    pub names: Vec<Change>,
    pub nodes: Vec<Node>,
    pub bytes: u64,
    pub asker: Option<Asker>,
    pub points: Vec<Point>,
    /// Snapshots that were taken, whoever may see them.
    pub taken: Vec<SnapshotMeta>,
    pub jumps: Vec<(Branch, Source)>,
}

impl Said {
    pub(super) fn of(lsn: u64, op: Op) -> Result<Self> {
        let mut said = Self {
            lsn,
            ty: Some(op.ty),
            ..Self::default()
        };
        // What is put without being new, and deleted next, says what was there.
        let mut was: Option<Key> = None;
        let mut put: Vec<(Key, Dirent)> = Vec::new();
        for mutation in op.mutations {
            let last = was.take();
            match mutation {
                Mutation::Put { key, value, new } if key.tag() == Tag::Dirent => {
                    let dirent = Dirent::decode(&value, PLACE)?;
                    was = (!new).then_some(key);
                    put.retain(|(other, _)| *other != key);
                    put.push((key, dirent.clone()));
                    said.name(false, &key, Some(dirent));
                }
                Mutation::Del { key } if key.tag() == Tag::Dirent => {
                    if last == Some(key) {
                        said.names.pop();
                    }
                    let at = put.iter().position(|(other, _)| *other == key);
                    let dirent = at.map(|at| put.swap_remove(at).1);
                    said.name(true, &key, dirent);
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
        Ok(said)
    }

    fn name(&mut self, lost: bool, key: &Key, dirent: Option<Dirent>) {
        let dir = node(key);
        self.names.push(Change { lost, dir, dirent });
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
    pub(super) fn is_summary(&self) -> bool {
        self.ty == Some(OpType::Note)
    }
}

pub(super) fn node(key: &Key) -> Node {
    (key.branch(), key.ino())
}
