//! Transactions of several steps by path: all of them happen, or none.
//!
//! Paths of steps lead through directories only: where one leads through a symbolic link, which
//! the engine follows there and the model does not, the transaction is not asked for.

use razorfs::{FileKind, Ino, RenameMode, SetAttributes};

use crate::flags::{FORBIDDING, Permission};
use crate::model::{Errnos, Model, Node};
use crate::names::NameId;
use crate::op::{At, Op, Ref, Step};
use crate::posix;

/// What may be wrong with a step. Which of several is told is not looked at.
const ERRORS: Errnos = &[
    libc::ENOENT,
    libc::ENOTDIR,
    libc::EEXIST,
    libc::EISDIR,
    libc::ENOTEMPTY,
    libc::EINVAL,
    libc::ENAMETOOLONG,
    libc::EPERM,
];

/// Inode numbers that no volume has, to see which inodes a transaction makes.
const SOMEWHERE: Ino = Ino(1 << 48);

/// The number of inodes made so far is added to the first one's number.
struct Run {
    state: Model,
    fresh: Ino,
    clear: bool,
}

impl Run {
    fn apply(&mut self, op: &Op) -> Result<(), Errnos> {
        self.clear &= self.state.permission(op) != Permission::Unclear;
        self.state.apply(op, self.fresh, u64::MAX).map(drop)
    }

    fn create(&mut self, at: &At, mut node: Node) -> Result<(), Errnos> {
        let owner = self.state.resolve(&at.dir).and_then(|d| self.state.node(d));
        (node.uid, node.gid) = owner.map_or((0, 0), |n| (n.uid, n.gid));
        let forbidden = owner.is_some_and(|n| {
            n.flags & FORBIDDING & !razorfs_format::record::inode_flags::APPEND != 0
        });
        self.state.create(at, node, self.fresh)?;
        self.fresh = self.fresh.next();
        if forbidden { Err(ERRORS) } else { Ok(()) }
    }

    /// A path whose last name is followed if it is a link.
    fn followed(&mut self, path: &[NameId]) -> Result<Ref, Errnos> {
        let who = Ref::Path(path.to_vec());
        let ino = self.state.resolve(&who).ok_or(ERRORS)?;
        let kind = self.state.node(ino).map(|n| n.kind);
        self.clear &= kind != Some(FileKind::Symlink);
        Ok(who)
    }

    fn write(&mut self, at: &At, data: crate::op::Data) -> Result<(), Errnos> {
        let path = path_of(at);
        if self.state.resolve(&Ref::Path(path.clone())).is_none() {
            self.create(at, Node::new(FileKind::Regular, 0o644))?;
        }
        let who = self.followed(&path)?;
        let node = self.state.resolve(&who).and_then(|i| self.state.node(i));
        let (size, flags) = node.map_or((0, 0), |n| (n.size, n.flags));
        // What an empty file that is left empty may be told is not fixed.
        self.clear &= flags == 0 || size > 0 || data.len > 0;
        if flags != 0 {
            return Err(ERRORS);
        }
        let set = SetAttributes {
            size: Some(0),
            ..SetAttributes::default()
        };
        self.apply(&Op::Set {
            who: who.clone(),
            set,
        })?;
        let offset = 0;
        self.apply(&Op::Write { who, offset, data })
    }

    fn remove_all(&mut self, at: &At) -> Result<(), Errnos> {
        let path = path_of(at);
        let ino = self.state.resolve(&Ref::Path(path.clone())).ok_or(ERRORS)?;
        let Some(node) = self.state.node(ino).filter(|n| n.is_dir()) else {
            return Err(ERRORS);
        };
        let children: Vec<(NameId, Ino)> = node.entries.iter().map(|(n, i)| (*n, *i)).collect();
        for (name, child) in children {
            let inside = At {
                dir: Ref::Path(path.clone()),
                name,
            };
            if self.state.node(child).is_some_and(Node::is_dir) {
                self.remove_all(&inside)?;
            } else {
                self.apply(&Op::Unlink(inside))?;
            }
        }
        self.apply(&Op::Rmdir(at.clone()))
    }

    fn step(&mut self, step: &Step) -> Result<(), Errnos> {
        for path in step.paths() {
            self.clear &= !leads_through_a_link(&self.state, &path);
        }
        match step {
            Step::CreateDir(at) => self.create(at, Node::new(FileKind::Directory, 0o755)),
            Step::Symlink(len, at) => {
                let mut node = Node::new(FileKind::Symlink, 0o777);
                node.target = posix::target(*len).into();
                self.create(at, node)
            }
            Step::Write(at, data) => self.write(at, *data),
            Step::RemoveFile(at) => self.apply(&Op::Unlink(at.clone())),
            Step::RemoveDir(at) => self.apply(&Op::Rmdir(at.clone())),
            Step::RemoveDirAll(at) => self.remove_all(at),
            Step::Rename(from, to) => self.apply(&Op::Rename {
                from: from.clone(),
                to: to.clone(),
                mode: RenameMode::Replace,
            }),
            Step::HardLink(from, to) => self.apply(&Op::Link {
                from: Ref::Path(path_of(from)),
                to: to.clone(),
            }),
            Step::Mode(at, mode) => {
                let who = self.followed(&path_of(at))?;
                let set = SetAttributes {
                    mode: Some(*mode),
                    ..SetAttributes::default()
                };
                self.apply(&Op::Set { who, set })
            }
        }
    }
}

/// The whole path of a place. Places in transactions are below paths.
#[must_use]
pub fn path_of(at: &At) -> Vec<NameId> {
    let mut path = match &at.dir {
        Ref::Path(path) => path.clone(),
        _ => Vec::new(),
    };
    path.push(at.name);
    path
}

fn leads_through_a_link(state: &Model, path: &[NameId]) -> bool {
    let mut dir = Ino::ROOT;
    for name in path.iter().take(path.len().saturating_sub(1)) {
        match state.child(dir, *name) {
            Some(ino) => dir = ino,
            None => return false,
        }
        if state.node(dir).is_some_and(|n| n.kind == FileKind::Symlink) {
            return true;
        }
    }
    false
}

impl Model {
    fn run(&self, steps: &[Step], fresh: Ino) -> (Run, Result<(), Errnos>) {
        let mut run = Run {
            state: self.clone(),
            fresh,
            clear: true,
        };
        let outcome = steps.iter().try_for_each(|step| run.step(step));
        (run, outcome)
    }

    /// Whether the outcome of a transaction is known.
    #[must_use]
    pub fn is_clear(&self, steps: &[Step]) -> bool {
        self.run(steps, SOMEWHERE).0.clear
    }

    /// Does all steps, or nothing. The inodes that are made get `fresh` and the numbers after it.
    pub(crate) fn transact(&mut self, steps: &[Step], fresh: Ino) -> Result<(), Errnos> {
        let (run, outcome) = self.run(steps, fresh);
        outcome.map_err(|_| ERRORS)?;
        *self = run.state;
        Ok(())
    }

    /// The path of an inode that a transaction makes and leaves there, and which of those that it
    /// makes it is.
    #[must_use]
    pub fn made_by(&self, steps: &[Step]) -> Option<(Vec<NameId>, u64)> {
        let (run, outcome) = self.run(steps, SOMEWHERE);
        outcome.ok()?;
        let (ino, _) = run
            .state
            .nodes()
            .find(|(i, n)| *i >= SOMEWHERE && n.nlink > 0)?;
        Some((run.state.names_to(ino)?, ino.0 - SOMEWHERE.0))
    }

    /// The names on one way to an inode.
    fn names_to(&self, ino: Ino) -> Option<Vec<NameId>> {
        if ino == Ino::ROOT {
            return Some(Vec::new());
        }
        let (dir, name) = self.nodes().find_map(|(dir, node)| {
            let found = node.entries.iter().find(|(_, child)| **child == ino);
            found.map(|(name, _)| (dir, *name))
        })?;
        let mut path = self.names_to(dir)?;
        path.push(name);
        Some(path)
    }

    /// The number of the first inode that a transaction made, as `found` shows it.
    #[must_use]
    pub fn first_made(&self, steps: &[Step], found: &Self) -> Option<Ino> {
        let (path, nth) = self.made_by(steps)?;
        let ino = found.resolve(&Ref::Path(path))?;
        ino.0.checked_sub(nth).map(Ino)
    }
}
