//! A reference file system in memory. A state is a map of shared nodes: cloning one costs a
//! pointer, and each state knows the hash of its visible tree, so the states since the last
//! acknowledged sync can all be kept and a recovered volume be told from all of them at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use razorfs::{FileKind, Ino, Time};

use crate::branches::{Branches, branch_differences};
use crate::content::Content;
use crate::lines::{self, Knot};
use crate::names::{self, NameId};
use crate::op::{At, Op, Ref, SLOTS};
use crate::points::{Point, point_differences};
use crate::rng::{hash_bytes, mix, scatter};

/// The errors that an operation may answer with, as error numbers.
pub type Errnos = &'static [i32];

/// An extended attribute's value.
#[derive(Clone, Debug)]
pub struct Value {
    /// The bytes.
    pub bytes: Arc<[u8]>,
    hash: u64,
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Self {
            hash: hash_bytes(&bytes),
            bytes: bytes.into(),
        }
    }
}

/// An inode.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits.
    pub perm: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device file.
    pub rdev: u32,
    /// The flags that forbid changes.
    pub flags: u32,
    /// Number of names; 2 and the number of subdirectories for a directory.
    pub nlink: u32,
    /// Size of a regular file.
    pub size: u64,
    /// The directory that holds a directory.
    pub parent: Ino,
    /// What a directory holds.
    pub entries: BTreeMap<NameId, Ino>,
    /// What a symbolic link leads to.
    pub target: Arc<[u8]>,
    /// The bytes of a regular file.
    pub content: Content,
    /// Extended attributes.
    pub xattrs: BTreeMap<NameId, Value>,
    /// Last access, if an operation said it and none changed it since.
    pub atime: Option<Time>,
    /// Last modification, if an operation said it and none changed it since.
    pub mtime: Option<Time>,
    /// Flags that forbid nothing, as far as an operation said them.
    pub(crate) hints: u32,
    /// Another one after each change, and in whatever branch never the same again.
    pub(crate) stamp: u64,
    hash: u64,
}

impl Node {
    /// A new inode without a name.
    #[must_use]
    pub fn new(kind: FileKind, perm: u32) -> Self {
        Self {
            kind,
            perm,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            nlink: 0,
            size: 0,
            parent: Ino(0),
            entries: BTreeMap::new(),
            target: Arc::new([]),
            content: Content::default(),
            xattrs: BTreeMap::new(),
            atime: None,
            mtime: None,
            hints: 0,
            stamp: 0,
            hash: 0,
        }
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }

    /// Whether the other one is the same but for times.
    #[must_use]
    pub fn is_like(&self, other: &Self, ino: Ino) -> bool {
        let hash = |node: &Self| {
            let mut node = node.clone();
            node.rehash(ino);
            node.hash
        };
        hash(self) == hash(other)
    }

    fn rehash(&mut self, ino: Ino) {
        let mut h = mix(ino.0, self.kind as u64);
        for field in [
            self.perm, self.uid, self.gid, self.rdev, self.flags, self.nlink,
        ] {
            h = mix(h, u64::from(field));
        }
        for field in [self.size, self.parent.0, self.content.hash()] {
            h = mix(h, field);
        }
        let mut sum = hash_bytes(&self.target);
        for (name, ino) in &self.entries {
            sum = sum.wrapping_add(scatter(mix(scatter(u64::from(*name)), ino.0)));
        }
        for (name, value) in &self.xattrs {
            sum = sum.wrapping_add(scatter(mix(value.hash, u64::from(*name))));
        }
        self.hash = scatter(mix(h, sum));
    }
}

/// A state of the file system.
#[derive(Clone, Debug)]
pub struct Model {
    nodes: Arc<BTreeMap<Ino, Arc<Node>>>,
    nameless: Vec<Ino>,
    hash: u64,
    highest: Ino,
    /// What had no name in it at any time.
    gone: Arc<BTreeSet<Ino>>,
    /// The state that an operation goes back to that does not say it itself.
    pub(crate) aim: Option<Arc<Model>>,
    /// What it goes on from; none if that is not known.
    pub(crate) line: Option<Arc<Knot>>,
    slots: [Option<Ino>; SLOTS as usize],
    /// What else is held open, once for each holder.
    held: Vec<Ino>,
    /// Snapshots, oldest first.
    pub(crate) points: Arc<Vec<Point>>,
    pub(crate) points_hash: u64,
    pub(crate) branches: Branches,
}

impl Default for Model {
    fn default() -> Self {
        let mut model = Self::empty();
        let mut root = Node::new(FileKind::Directory, 0o755);
        root.nlink = 2;
        root.parent = Ino::ROOT;
        model.insert(Ino::ROOT, root);
        model
    }
}

impl Model {
    /// Without even a root: for a state that is read from a volume node by node.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            nodes: Arc::default(),
            nameless: Vec::new(),
            hash: 0,
            highest: Ino(0),
            gone: Arc::default(),
            aim: None,
            line: None,
            slots: [None; SLOTS as usize],
            held: Vec::new(),
            points: Arc::default(),
            points_hash: 0,
            branches: Branches::default(),
        }
    }

    /// Hash of the visible tree: names, kinds, links, modes, owners, sizes, contents, attributes
    /// and inode numbers; and of those of all branches and snapshots. What has no name any more
    /// does not count, nor do times.
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.branches.hash(self.hash).wrapping_add(self.points_hash)
    }

    /// Puts a node.
    pub fn insert(&mut self, ino: Ino, mut node: Node) {
        node.rehash(ino);
        if node.stamp == 0 {
            node.stamp = lines::stamp();
        }
        if node.nlink > 0 {
            self.hash = self.hash.wrapping_add(node.hash);
        } else {
            self.nameless.push(ino);
            self.note_gone(ino);
        }
        self.highest = self.highest.max(ino);
        Arc::make_mut(&mut self.nodes).insert(ino, Arc::new(node));
    }

    /// The node.
    #[must_use]
    pub fn node(&self, ino: Ino) -> Option<&Node> {
        self.nodes.get(&ino).map(AsRef::as_ref)
    }

    /// All nodes.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = (Ino, &Node)> {
        self.nodes.iter().map(|(ino, node)| (*ino, node.as_ref()))
    }

    /// Number of inodes that have a name.
    #[must_use]
    pub fn visible(&self) -> usize {
        self.nodes.values().filter(|n| n.nlink > 0).count()
    }

    /// Bytes of the regular files, those without a name included.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let sizes = self.nodes.values().map(|n| n.size);
        sizes.fold(0, u64::saturating_add)
    }

    /// The inode of `name` in `dir`.
    #[must_use]
    pub fn child(&self, dir: Ino, name: NameId) -> Option<Ino> {
        self.node(dir)?.entries.get(&name).copied()
    }

    /// The highest inode number ever given.
    #[must_use]
    pub const fn highest(&self) -> Ino {
        self.highest
    }

    pub(crate) fn set_highest(&mut self, highest: Ino) {
        self.highest = highest;
    }

    /// The inode that a reference leads to now.
    #[must_use]
    pub fn resolve(&self, at: &Ref) -> Option<Ino> {
        match at {
            Ref::Inode(ino) => Some(*ino).filter(|ino| self.nodes.contains_key(ino)),
            Ref::Slot(n) => self.slots.get(usize::from(*n)).copied().flatten(),
            Ref::Path(path) => path
                .iter()
                .try_fold(Ino::ROOT, |dir, name| self.child(dir, *name)),
        }
    }

    /// What a slot holds open.
    #[must_use]
    pub fn slot(&self, slot: u8) -> Option<Ino> {
        self.resolve(&Ref::Slot(slot))
    }

    /// Puts an inode into a slot, or nothing; answers what was in it.
    pub fn set_slot(&mut self, slot: u8, ino: Option<Ino>) -> Option<Ino> {
        let place = self.slots.get_mut(usize::from(slot))?;
        let old = std::mem::replace(place, ino);
        self.reap();
        old
    }

    /// One more holder of an inode.
    pub fn hold(&mut self, ino: Ino) {
        self.held.push(ino);
    }

    /// One holder fewer.
    pub fn release(&mut self, ino: Ino) {
        if let Some(at) = self.held.iter().position(|held| *held == ino) {
            self.held.swap_remove(at);
        }
        self.reap();
    }

    /// Whether somebody holds the inode open.
    #[must_use]
    pub fn is_held(&self, ino: Ino) -> bool {
        self.slots.contains(&Some(ino)) || self.held.contains(&ino)
    }

    /// What the other state has open is open in this one, as far as it is there.
    pub(crate) fn keep_open(&mut self, other: &Self) {
        let nodes = &self.nodes;
        let there = |ino: &Ino| nodes.contains_key(ino);
        self.slots = other.slots.map(|slot| slot.filter(there));
        self.held = other.held.iter().copied().filter(there).collect();
        self.reap();
    }

    /// What a crash or a clean close does: nothing is open any more.
    pub fn close_all(&mut self) {
        self.slots = [None; SLOTS as usize];
        self.held.clear();
        self.reap();
        self.close_others();
    }

    /// Removes what has no name and is not held open.
    pub fn reap(&mut self) {
        if self.nameless.is_empty() {
            return;
        }
        let (slots, held, nodes) = (&self.slots, &self.held, &mut self.nodes);
        self.nameless.retain(|ino| {
            match nodes.get(ino) {
                Some(node) if node.nlink > 0 => return false,
                Some(_) if slots.contains(&Some(*ino)) || held.contains(ino) => return true,
                _ => {}
            }
            Arc::make_mut(nodes).remove(ino);
            false
        });
    }

    pub(crate) fn update(&mut self, ino: Ino, change: impl FnOnce(&mut Node)) {
        let Some(shared) = Arc::make_mut(&mut self.nodes).get_mut(&ino) else {
            return;
        };
        let visible = |n: &Node| if n.nlink > 0 { n.hash } else { 0 };
        let before = visible(shared);
        let had_name = shared.nlink > 0;
        let node = Arc::make_mut(shared);
        change(node);
        node.rehash(ino);
        node.stamp = lines::stamp();
        let after = visible(node);
        self.hash = self.hash.wrapping_sub(before).wrapping_add(after);
        if had_name && node.nlink == 0 {
            self.nameless.push(ino);
            self.note_gone(ino);
        }
    }

    fn note_gone(&mut self, ino: Ino) {
        Arc::make_mut(&mut self.gone).insert(ino);
    }

    /// Whether it has no name here, and may be there all the same: nobody says when that ends.
    pub(crate) fn may_linger(&self, ino: Ino) -> bool {
        self.gone.contains(&ino) && self.named(ino).is_none()
    }

    pub(crate) fn blur_tree(&mut self, other: &Self) {
        if Arc::ptr_eq(&self.nodes, &other.nodes) {
            return;
        }
        let stamp = |node: &Node| node.stamp;
        let differs = |(ino, node): &(Ino, &Node)| other.node(*ino).map(stamp) != Some(node.stamp);
        let all: Vec<Ino> = self.nodes().filter(differs).map(|(ino, _)| ino).collect();
        let nodes = Arc::make_mut(&mut self.nodes);
        for ino in all {
            if let Some(node) = nodes.get_mut(&ino) {
                Arc::make_mut(node).stamp = lines::UNCLEAR;
            }
        }
    }

    /// What has no name here any more, or had none in another state, and may linger.
    pub(crate) fn take_gone(&mut self, before: &Self) {
        let lost = before.nodes().map(|(ino, _)| ino);
        let lost: Vec<Ino> = lost.filter(|ino| self.named(*ino).is_none()).collect();
        let gone = Arc::make_mut(&mut self.gone);
        gone.extend(before.gone.iter().copied());
        gone.extend(lost);
    }

    /// Whether the trees are alike, but for times.
    pub(crate) const fn looks_like(&self, other: &Self) -> bool {
        self.hash == other.hash
    }

    /// It was read: when that was is not known any more.
    pub(crate) fn was_read(&mut self, ino: Ino) {
        if let Some(shared) = Arc::make_mut(&mut self.nodes).get_mut(&ino)
            && shared.atime.is_some()
        {
            Arc::make_mut(shared).atime = None;
        }
    }

    /// The node, if it has a name.
    #[must_use]
    pub fn named(&self, ino: Ino) -> Option<&Node> {
        self.node(ino).filter(|node| node.nlink > 0)
    }

    pub(crate) fn is_below(&self, mut dir: Ino, ancestor: Ino) -> bool {
        loop {
            if dir == ancestor {
                return true;
            }
            match self.node(dir) {
                Some(node) if node.parent != dir && node.parent != Ino(0) => dir = node.parent,
                _ => return false,
            }
        }
    }

    /// The inodes that a changing operation names, if all of them exist: only then can it be
    /// asked of the volume.
    #[must_use]
    pub fn can_ask(&self, op: &Op) -> bool {
        let place = |at: &At| self.resolve(&at.dir).is_some();
        let there = |who: &Ref| self.resolve(who).is_some();
        match op {
            Op::Create { at, .. } | Op::Unlink(at) | Op::Rmdir(at) | Op::Lookup(at) => place(at),
            Op::Unnamed { dir, .. } => there(dir),
            Op::Link { from, to } => there(from) && place(to),
            Op::Rename { from, to, .. } => place(from) && place(to),
            Op::Copy { from, to, .. } => there(from) && there(to),
            Op::Set { who, .. }
            | Op::Write { who, .. }
            | Op::Append { who, .. }
            | Op::Allocate { who, .. }
            | Op::Collapse { who, .. }
            | Op::Insert { who, .. }
            | Op::SetXattr { who, .. }
            | Op::RemoveXattr { who, .. }
            | Op::Read { who, .. }
            | Op::Seek { who, .. }
            | Op::List { who, .. }
            | Op::Stat(who)
            | Op::ReadLink(who)
            | Op::GetXattr { who, .. }
            | Op::ListXattr(who)
            | Op::ParentOf(who)
            | Op::Open { who, .. } => there(who),
            Op::Close(slot) => self.slot(*slot).is_some(),
            Op::Delete(which) | Op::Rollback(which) | Op::View(which) => {
                self.name_of(*which).is_some()
            }
            Op::Fork {
                from: Some(which), ..
            } => self.name_of(*which).is_some(),
            Op::Merge { from, force } => self.plan(*from, *force).is_some(),
            Op::Transaction { steps, .. } => self.is_clear(steps),
            _ => true,
        }
    }

    /// One path of an inode, for messages.
    #[must_use]
    pub fn path_of(&self, ino: Ino) -> String {
        if ino == Ino::ROOT {
            return "/".into();
        }
        for (dir, node) in self.nodes() {
            for (name, child) in &node.entries {
                if *child == ino {
                    let parent = self.path_of(dir);
                    let name = names::bytes(*name);
                    let name = name.get(..name.len().min(24)).unwrap_or_default();
                    return format!("{}/{}", parent.trim_end_matches('/'), name.escape_ascii());
                }
            }
        }
        format!("inode {ino}")
    }
}

/// How two states differ, in words, at most eight of them; empty if they are alike.
#[must_use]
pub fn differences(expected: &Model, found: &Model) -> Vec<String> {
    let mut out = Vec::new();
    let (expected, found) = (&expected.at_home(), &found.at_home());
    let visible = |m: &Model, ino| m.node(ino).is_some_and(|n| n.nlink > 0);
    for (ino, want) in expected.nodes().filter(|(_, n)| n.nlink > 0) {
        let path = expected.path_of(ino);
        match found.node(ino) {
            Some(got) if got.nlink > 0 => node_differences(&path, ino, want, got, &mut out),
            _ => out.push(format!("{path} (inode {ino}) is missing")),
        }
    }
    for (ino, node) in found.nodes() {
        if node.nlink > 0 && !visible(expected, ino) {
            let path = found.path_of(ino);
            out.push(format!(
                "{path} (inode {ino}, {:?}) should not be there",
                node.kind
            ));
        }
    }
    branch_differences(expected, found, &mut out);
    point_differences(expected, found, &mut out);
    out.truncate(8);
    out
}

fn node_differences(path: &str, ino: Ino, want: &Node, got: &Node, out: &mut Vec<String>) {
    let mut field = |name: &str, want: u64, got: u64| {
        if want != got {
            out.push(format!(
                "{path} (inode {ino}): {name} {got}, expected {want}"
            ));
        }
    };
    field("kind", want.kind as u64, got.kind as u64);
    field("mode", want.perm.into(), got.perm.into());
    field("uid", want.uid.into(), got.uid.into());
    field("gid", want.gid.into(), got.gid.into());
    field("rdev", want.rdev.into(), got.rdev.into());
    field("flags", want.flags.into(), got.flags.into());
    field("nlink", want.nlink.into(), got.nlink.into());
    field("size", want.size, got.size);
    field("parent", want.parent.0, got.parent.0);
    if let Some(at) = want.content.first_difference(&got.content) {
        let (mut a, mut b) = ([0; 8], [0; 8]);
        want.content.read(at, &mut a);
        got.content.read(at, &mut b);
        out.push(format!(
            "{path} (inode {ino}): bytes at {at} are {b:x?}, expected {a:x?}"
        ));
    }
    if want.target != got.target {
        out.push(format!("{path} (inode {ino}): another target"));
    }
    if want.entries != got.entries {
        out.push(format!(
            "{path} (inode {ino}): entries {:?}, expected {:?}",
            got.entries, want.entries
        ));
    }
    let values = |n: &Node| {
        n.xattrs
            .iter()
            .map(|(k, v)| (*k, v.hash))
            .collect::<Vec<_>>()
    };
    if values(want) != values(got) {
        out.push(format!(
            "{path} (inode {ino}): attributes {:?}, expected {:?}",
            got.xattrs.keys().collect::<Vec<_>>(),
            want.xattrs.keys().collect::<Vec<_>>()
        ));
    }
}

/// Times that operations set and the other state does not have.
#[must_use]
pub fn time_differences(expected: &Model, found: &Model) -> Vec<String> {
    let mut out = Vec::new();
    for (ino, want) in expected.nodes() {
        let Some(got) = found.node(ino) else { continue };
        for (name, want, got) in [
            ("atime", want.atime, got.atime),
            ("mtime", want.mtime, got.mtime),
        ] {
            if want.is_some() && want != got {
                let path = expected.path_of(ino);
                out.push(format!(
                    "{path} (inode {ino}): {name} {got:?}, expected {want:?}"
                ));
            }
        }
    }
    out.truncate(8);
    out
}
