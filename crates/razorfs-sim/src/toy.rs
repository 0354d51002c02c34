//! A toy under test, for testing the tests: a file system in RAM whose every change is one call to
//! a disk that keeps any prefix of them, and into which bugs can be planted. A simulator that
//! does not find a planted bug would not find a real one.

mod answers;
mod bug;
mod machine;

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use razorfs::{
    AllocateMode, Entry, Error, FileKind, Ino, NewNode, RenameMode, Result, SeekFor, SetAttributes,
    Stat, XattrMode,
};

use crate::branches::{self, Place};
use crate::model::{Model, Node};
use crate::names;
use crate::op::{Data, Op, Ref, Step, Work};
use crate::points::{Point, SAFETY, Which};
use crate::posix::Answer;
use crate::subject::{Done, FileSystem, Merge};
use answers::{at, error, stat};
pub use bug::Bug;

struct Disk {
    durable: Model,
    /// The highest inode number given out, known for good as soon as it is.
    given: Ino,
    /// The states after each change since.
    pending: Vec<(Op, Model)>,
    calls: u64,
    cut_at: u64,
    dead: bool,
    recovering: bool,
    leaked: u64,
    removed: u64,
}

/// The disk of the toy.
pub struct ToyMachine {
    disk: Arc<Mutex<Disk>>,
    bug: Bug,
}

/// A state that all branches share.
type Live = Arc<Mutex<Model>>;

/// The toy, open.
pub struct ToyFs {
    disk: Arc<Mutex<Disk>>,
    live: Live,
    place: Place,
    /// Of which volume this is a snapshot, if it is one.
    of: Option<(Live, Which)>,
    /// What it was before rollbacks.
    left: Mutex<Vec<Model>>,
    /// What is held through this.
    held: Mutex<Vec<Ino>>,
    bug: Bug,
}

impl Drop for ToyFs {
    /// Nobody holds anything through it any more.
    fn drop(&mut self) {
        let held = std::mem::take(&mut *self.held.lock());
        let mut model = self.model();
        for ino in held {
            model.release(ino);
        }
    }
}

impl ToyMachine {
    /// A toy with this bug.
    #[must_use]
    pub fn new(bug: Bug) -> Self {
        let disk = Disk {
            durable: Model::default(),
            given: Ino(0),
            pending: Vec::new(),
            calls: 0,
            cut_at: u64::MAX,
            dead: false,
            recovering: false,
            leaked: 0,
            removed: 0,
        };
        Self {
            disk: Arc::new(Mutex::new(disk)),
            bug,
        }
    }
}

impl Disk {
    fn call(&mut self) -> Result<()> {
        if self.dead || self.calls >= self.cut_at {
            self.dead = true;
            return Err(Error::Failed("the power is off".into()));
        }
        self.calls += 1;
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.call()?;
        if let Some((_, last)) = self.pending.pop() {
            self.durable = last;
            self.pending.clear();
        }
        Ok(())
    }
}

/// The snapshot of a name that runs give.
fn which(name: &str) -> Which {
    let number = name.strip_prefix('s').and_then(|n| n.parse().ok());
    number.map_or(Which::Safety(0), Which::Named)
}

impl ToyFs {
    fn model(&self) -> MutexGuard<'_, Model> {
        let mut live = self.live.lock();
        live.go(self.place);
        live
    }

    fn part(&self, live: Live, place: Place, of: Option<(Live, Which)>) -> Self {
        Self {
            disk: Arc::clone(&self.disk),
            live,
            place,
            of,
            left: Mutex::default(),
            held: Mutex::default(),
            bug: self.bug,
        }
    }

    fn change_branches(&self, op: &Op) -> Result<()> {
        self.change(op)?;
        match (self.bug, op) {
            (Bug::FleetingBranch, Op::Fork { .. }) | (Bug::UndeadBranch, Op::Prune(_)) => Ok(()),
            _ => self.sync(),
        }
    }

    fn change(&self, op: &Op) -> Result<Answer> {
        self.change_then(op, |_| ())
    }

    /// What is done to the state after the operation is a part of it.
    fn change_then(&self, op: &Op, then: impl FnOnce(&mut Model)) -> Result<Answer> {
        let mut live = self.model();
        let before = live.clone();
        let given = self.disk.lock().given;
        let fresh = live.highest().max(given).next().max(Ino::FIRST);
        let answer = live.apply(op, fresh, u64::MAX).map_err(error)?;
        if matches!(op, Op::Rollback(_)) {
            self.left.lock().push(before);
        }
        if self.bug == Bug::LeakyBranch && matches!(op, Op::Write { .. }) && live.go(None) {
            // Where the head has no such file nothing shows.
            let _ = live.apply(op, fresh, u64::MAX);
            live.go(self.place);
        }
        let highest = live.highest();
        then(&mut live);
        let mut disk = self.disk.lock();
        if live.highest() == highest {
            disk.given = disk.given.max(highest);
        }
        disk.call()?;
        disk.pending.push((op.clone(), live.clone()));
        Ok(answer)
    }

    /// The snapshot of this name.
    fn find(&self, name: &str) -> Result<Which> {
        let model = self.model();
        let safeties = (0..=u8::MAX).map(Which::Safety);
        let all = [which(name)].into_iter().chain(safeties);
        let named = |w: &Which| model.snapshot(*w).is_some_and(|p| p.name() == Some(name));
        all.into_iter().find(named).ok_or(Error::NotFound)
    }

    /// Whether it was there before a rollback, and is not now.
    fn is_left(&self, ino: Ino) -> bool {
        self.model().node(ino).is_none()
            && self
                .left
                .lock()
                .iter()
                .any(|state| state.node(ino).is_some())
    }

    fn node<T>(&self, ino: Ino, look: impl FnOnce(&Node) -> T) -> Result<T> {
        if self.is_left(ino) {
            let left = self.left.lock();
            let mut states = left.iter().rev();
            let node = states.find_map(|state| state.node(ino));
            return node.map(look).ok_or(Error::NotFound);
        }
        self.model().node(ino).map(look).ok_or(Error::NotFound)
    }

    fn stat_of(&self, answer: Result<Answer>) -> Result<Stat> {
        match answer? {
            Answer::Inode(ino) => self.stat(ino),
            _ => Err(Error::NotFound),
        }
    }

    fn data(data: &[u8]) -> Data {
        // The toy is only given bytes that a seed made; they are found again by their seed.
        crate::op::data_of(data)
    }
}

impl FileSystem for ToyFs {
    fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Stat> {
        if !self.node(dir, Node::is_dir)? {
            return Err(Error::NotADirectory);
        }
        let child = names::id(name).and_then(|name| self.model().child(dir, name));
        self.stat(child.ok_or(Error::NotFound)?)
    }
    fn stat(&self, ino: Ino) -> Result<Stat> {
        self.node(ino, |n| stat(ino, n))
    }
    fn find_by_path(&self, path: &[u8]) -> Result<Ino> {
        let parts = path.split(|b| *b == b'/').filter(|p| !p.is_empty());
        parts
            .into_iter()
            .try_fold(Ino::ROOT, |dir, name| self.lookup(dir, name).map(|s| s.ino))
    }
    fn create_node(&self, dir: Ino, name: &[u8], node: &NewNode<'_>) -> Result<Stat> {
        let device = matches!(node.kind, FileKind::CharDevice | FileKind::BlockDevice);
        let target = if device {
            node.rdev as u16 - 1
        } else {
            node.target.len() as u16
        };
        self.stat_of(self.change(&Op::Create {
            at: at(dir, name),
            kind: node.kind,
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            target,
        }))
    }
    fn create_unnamed(&self, dir: Ino, node: &NewNode<'_>) -> Result<Stat> {
        let op = Op::Unnamed {
            dir: Ref::Inode(dir),
            slot: 0,
            mode: node.mode,
        };
        self.stat_of(self.change(&op))
    }
    fn link(&self, ino: Ino, dir: Ino, name: &[u8]) -> Result<Stat> {
        self.stat_of(self.change(&Op::Link {
            from: Ref::Inode(ino),
            to: at(dir, name),
        }))
    }
    fn unlink(&self, dir: Ino, name: &[u8]) -> Result<()> {
        self.change(&Op::Unlink(at(dir, name)))?;
        let mut disk = self.disk.lock();
        disk.removed += 1;
        assert!(self.bug != Bug::Panics || disk.removed < 5, "planted");
        Ok(())
    }
    fn rmdir(&self, dir: Ino, name: &[u8]) -> Result<()> {
        self.change(&Op::Rmdir(at(dir, name))).map(|_| ())
    }
    fn rename(&self, dir: Ino, name: &[u8], to: Ino, new: &[u8], mode: RenameMode) -> Result<()> {
        let op = Op::Rename {
            from: at(dir, name),
            to: at(to, new),
            mode,
        };
        match self.change(&op) {
            Err(Error::NotEmpty) if self.bug == Bug::WrongError => Err(Error::Exists),
            other => other.map(|_| ()),
        }
    }
    fn set_attributes(&self, ino: Ino, set: &SetAttributes) -> Result<Stat> {
        let old = self.node(ino, |n| (n.size, n.content.clone()))?;
        let stat = self.stat_of(self.change(&Op::Set {
            who: Ref::Inode(ino),
            set: *set,
        }))?;
        if self.bug == Bug::OldBytes && set.size.is_some_and(|size| size < old.0) {
            self.model().update(ino, |n| n.content = old.1);
        }
        Ok(stat)
    }
    fn read_link(&self, ino: Ino) -> Result<Box<[u8]>> {
        match self.node(ino, |n| (n.kind, n.target.clone()))? {
            (FileKind::Symlink, target) => Ok((*target).into()),
            _ => Err(Error::Invalid("not a link")),
        }
    }
    fn read(&self, ino: Ino, offset: u64, out: &mut [u8]) -> Result<usize> {
        self.node(ino, |node| {
            if node.kind != FileKind::Regular {
                return Err(Error::IsADirectory);
            }
            let n = node.size.saturating_sub(offset).min(out.len() as u64) as usize;
            if let Some(room) = out.get_mut(..n) {
                node.content.read(offset, room);
            }
            Ok(n)
        })?
    }
    fn write(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<usize> {
        if self.is_left(ino) {
            return Err(Error::RolledBack);
        }
        let op = Op::Write {
            who: Ref::Inode(ino),
            offset,
            data: Self::data(data),
        };
        match self.change(&op)? {
            Answer::Number(n) => Ok(n as usize),
            _ => Ok(data.len()),
        }
    }
    fn append(&self, ino: Ino, data: &[u8]) -> Result<u64> {
        match self.change(&Op::Append {
            who: Ref::Inode(ino),
            data: Self::data(data),
        })? {
            Answer::Number(n) => Ok(n),
            _ => Ok(0),
        }
    }
    fn allocate(&self, ino: Ino, mode: AllocateMode, offset: u64, len: u64) -> Result<()> {
        let op = Op::Allocate {
            who: Ref::Inode(ino),
            mode,
            offset,
            len,
        };
        self.change(&op).map(|_| ())
    }
    fn seek(&self, ino: Ino, offset: u64, what: SeekFor) -> Result<u64> {
        let (kind, size, next) =
            self.node(ino, |n| (n.kind, n.size, n.content.next_nonzero(offset)))?;
        if kind != FileKind::Regular {
            return Err(Error::Invalid("toy"));
        }
        if offset >= size {
            return Err(Error::BeyondEnd);
        }
        let late = u64::from(self.bug == Bug::BlindSeek && offset > 0);
        match what {
            SeekFor::Data => next
                .map(|n| n + late)
                .filter(|n| *n < size)
                .ok_or(Error::BeyondEnd),
            SeekFor::Hole => {
                let mut at = offset;
                while let Some(next) = self.node(ino, |n| n.content.next_nonzero(at))? {
                    if next - at > 4096 {
                        break;
                    }
                    at = next + 1;
                }
                Ok(at.min(size))
            }
        }
    }
    fn copy_range(&self, from: Ino, at: u64, to: Ino, to_at: u64, len: u64) -> Result<u64> {
        let op = Op::Copy {
            from: Ref::Inode(from),
            from_offset: at,
            to: Ref::Inode(to),
            to_offset: to_at,
            len,
        };
        match self.change(&op)? {
            Answer::Number(n) => Ok(n),
            _ => Ok(0),
        }
    }
    fn collapse_range(&self, ino: Ino, offset: u64, len: u64) -> Result<()> {
        let who = Ref::Inode(ino);
        self.change(&Op::Collapse { who, offset, len }).map(|_| ())
    }
    fn insert_range(&self, ino: Ino, offset: u64, len: u64) -> Result<()> {
        let who = Ref::Inode(ino);
        self.change(&Op::Insert { who, offset, len }).map(|_| ())
    }
    fn parent_of(&self, dir: Ino) -> Result<Ino> {
        match self.node(dir, |n| (n.is_dir(), n.parent))? {
            (true, parent) => Ok(parent),
            _ => Err(Error::NotADirectory),
        }
    }
    fn get_xattr(&self, ino: Ino, name: &[u8]) -> Result<Box<[u8]>> {
        let value = self.node(ino, |n| {
            let value = names::xattr_id(name).and_then(|id| n.xattrs.get(&id));
            value.map(|v| Box::from(&*v.bytes))
        })?;
        value.ok_or(Error::NoAttribute)
    }
    fn set_xattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        let (who, data) = (Ref::Inode(ino), Self::data(value));
        let name = names::xattr_id(name).unwrap_or(names::TOO_LONG);
        self.change(&Op::SetXattr {
            who,
            name,
            data,
            mode,
        })
        .map(|_| ())
    }
    fn list_xattr(&self, ino: Ino) -> Result<Vec<Box<[u8]>>> {
        self.node(ino, |n| {
            n.xattrs.keys().map(|id| names::xattr(*id).into()).collect()
        })
    }
    fn remove_xattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        let name = names::xattr_id(name).unwrap_or(names::TOO_LONG);
        self.change(&Op::RemoveXattr {
            who: Ref::Inode(ino),
            name,
        })
        .map(|_| ())
    }
    fn transaction(&self, steps: &[Step], sync: bool) -> Result<()> {
        self.change(&Op::Transaction {
            steps: steps.to_vec(),
            sync,
        })?;
        if sync { self.sync() } else { Ok(()) }
    }
    fn pin(&self, ino: Ino) {
        self.held.lock().push(ino);
        self.model().hold(ino);
    }
    fn unpin(&self, ino: Ino) {
        let mut held = self.held.lock();
        if let Some(at) = held.iter().position(|h| *h == ino) {
            held.swap_remove(at);
        }
        drop(held);
        self.model().release(ino);
    }
    fn sync(&self) -> Result<()> {
        match self.bug {
            Bug::LyingSync => Ok(()),
            _ => self.disk.lock().sync(),
        }
    }
    fn sync_then(&self, done: Done) {
        done(self.sync());
    }
    fn checkpoint(&self) -> Result<()> {
        self.sync()
    }
    fn snapshots(&self) -> Vec<String> {
        let model = self.model();
        let names = model.points().iter().filter_map(Point::name);
        names.map(Into::into).collect()
    }
    fn snapshot(&self, name: &str) -> Result<()> {
        match which(name) {
            Which::Named(n) => self.change(&Op::Take(n))?,
            Which::Safety(_) => return Err(Error::Invalid("toy")),
        };
        match self.bug {
            Bug::FleetingSnapshot => Ok(()),
            _ => self.sync(),
        }
    }
    fn delete_snapshot(&self, name: &str) -> Result<()> {
        let which = self.find(name)?;
        self.change(&Op::Delete(which))?;
        match self.bug {
            Bug::UndeadSnapshot => Ok(()),
            _ => self.sync(),
        }
    }
    fn rollback(&self, to: &str) -> Result<String> {
        let which = self.find(to)?;
        let name = format!("{SAFETY}{}", self.disk.lock().calls);
        self.change_then(&Op::Rollback(which), |live| {
            live.learn_safety(&name);
            match self.bug {
                Bug::ForgetfulRollback => drop(live.delete(Which::Safety(0))),
                Bug::RollbackReusesInode => {
                    let highest = live.nodes().next_back().map(|n| n.0);
                    live.set_highest(highest.unwrap_or(Ino::ROOT));
                    self.disk.lock().given = Ino(0);
                }
                _ => {}
            }
        })?;
        self.sync()?;
        Ok(name)
    }
    fn at_snapshot(&self, name: &str) -> Result<Self> {
        let state = match (self.bug, self.find(name)?) {
            (Bug::BlindSnapshot, _) => self.model().alone(),
            (_, which) => {
                let model = self.model();
                let point = model.snapshot(which).ok_or(Error::NotFound)?;
                point.state.clone()
            }
        };
        let of = Some((Arc::clone(&self.live), self.find(name)?));
        Ok(self.part(Arc::new(Mutex::new(state)), None, of))
    }
    fn branches(&self) -> Vec<String> {
        let all = self.model().branches().into_iter();
        all.map(branches::name).collect()
    }
    fn create_branch(&self, name: &str) -> Result<()> {
        let name = branches::number(name).ok_or(Error::Invalid("toy"))?;
        match &self.of {
            None => self.change_branches(&Op::Fork { name, from: None }),
            Some((live, from)) => {
                let from = Some(*from);
                let volume = self.part(Arc::clone(live), None, None);
                volume.change_branches(&Op::Fork { name, from })
            }
        }
    }
    fn delete_branch(&self, name: &str) -> Result<()> {
        let n = branches::number(name).ok_or(Error::NotFound)?;
        self.change_branches(&Op::Prune(n))
    }
    fn branch(&self, name: &str) -> Result<Self> {
        let n = branches::number(name).ok_or(Error::NotFound)?;
        if !self.model().has_branch(n) {
            return Err(Error::NotFound);
        }
        Ok(self.part(Arc::clone(&self.live), Some(n), None))
    }
    fn commit(&self, branch: &Self, force: bool) -> Result<Merge> {
        let force = force || self.bug == Bug::BlindMerge;
        let (from, name) = (branch.place, format!("{SAFETY}{}", self.disk.lock().calls));
        let plan = self.model().plan(from, force).ok_or(Error::NotFound)?;
        if let Err(clashes) = plan.tree {
            return Ok(Merge::Conflicts(clashes.into_iter().flatten().collect()));
        }
        self.change_then(&Op::Merge { from, force }, |live| live.learn_safety(&name))?;
        if self.bug != Bug::FleetingMerge {
            self.sync()?;
        }
        Ok(Merge::Done(name))
    }
    fn entries(&self, dir: Ino, after: u64, most: usize) -> Result<Vec<Entry>> {
        let model = self.model();
        let node = model.node(dir).ok_or(Error::NotFound)?;
        if !node.is_dir() {
            return Err(Error::NotADirectory);
        }
        let entry = |(name, ino): (&names::NameId, &Ino)| Entry {
            cookie: u64::from(*name) + 256,
            ino: *ino,
            kind: model.node(*ino).map_or(FileKind::Regular, |n| n.kind),
            name: names::bytes(*name).into(),
        };
        let all = node.entries.iter().map(entry).filter(|e| e.cookie > after);
        Ok(all.take(most).collect())
    }
    fn step(&self, _work: Work) -> Result<bool> {
        Ok(false)
    }
    fn inodes(&self) -> Result<u64> {
        let held = self.held.lock().clone();
        let model = self.model();
        // What nobody holds is as good as gone.
        let nameless = model.nodes().filter(|(_, node)| node.nlink == 0);
        let nameless = nameless.filter(|(ino, _)| held.contains(ino)).count();
        let here = model.visible() + nameless;
        Ok(here as u64 + self.disk.lock().leaked)
    }
    fn bytes(&self) -> Result<u64> {
        let held = self.held.lock().clone();
        let model = self.model();
        let gone = |(ino, node): &(Ino, &Node)| node.nlink == 0 && !held.contains(ino);
        let sizes = model.nodes().filter(gone).map(|(_, node)| node.size);
        let sizes = sizes.fold(0, u64::saturating_add);
        Ok(model.bytes().saturating_sub(sizes))
    }
    fn degraded(&self) -> Option<String> {
        None
    }
    fn close(self) -> Result<()> {
        self.disk.lock().sync()
    }
}
