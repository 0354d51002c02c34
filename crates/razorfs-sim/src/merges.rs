//! What a commit of one branch to another makes of them, and what stands against it.
//!
//! Three states are compared: the one that both go on from, theirs, which is committed, and ours,
//! which it is committed to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use razorfs::Ino;

use crate::branches::Place;
use crate::lines::{self, Knot, goes_on_from, parting};
use crate::model::{Errnos, Model, Node, Value};
use crate::names::{self, NameId};
use crate::posix::Answer;

/// The answer to a commit that found nothing to do.
pub const NOTHING: u64 = 0;
/// The answer to one that was done.
pub const DONE: u64 = 1;
/// The answer to one that did nothing, as both have changed something.
pub const CONFLICTS: u64 = 2;

/// What was committed last of one branch to another.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    of: (Place, Place),
    /// The branch then.
    at: Arc<Knot>,
    /// What it was committed to, after it; it counts for what goes on from there.
    done: Arc<Knot>,
}

/// What was committed of which branch to which one.
#[derive(Clone, Default, Debug)]
pub(crate) struct Merges {
    last: Vec<Base>,
    /// A crash or a fault came between, and nobody knows what is remembered.
    unclear: BTreeSet<(Place, Place)>,
}

/// A conflict, by all the paths that it may be told by.
pub(crate) type Clash = BTreeSet<PathBuf>;

/// What a commit comes to.
pub(crate) struct Plan {
    /// The tree after it, or what stands against it.
    pub(crate) tree: Result<Model, Vec<Clash>>,
    /// Nothing has changed in the branch.
    is_idle: bool,
    /// Nothing that shows has changed in what it is committed to.
    is_still: bool,
    /// It goes on from what was committed before.
    pub(crate) is_again: bool,
}

/// What a name in a directory leads to.
type Names = BTreeMap<(Ino, NameId), Ino>;

fn names_of(state: &Model) -> Names {
    let dirs = state.nodes().filter(|(_, node)| node.nlink > 0);
    dirs.flat_map(|(dir, node)| node.entries.iter().map(move |(n, i)| ((dir, *n), *i)))
        .collect()
}

/// The place of a directory. A file may have several.
fn place_of(state: &Model, ino: Ino) -> Option<(Ino, NameId)> {
    let parent = state.node(ino)?.parent;
    let mut entries = state.node(parent)?.entries.iter();
    let (name, _) = entries.find(|(_, child)| **child == ino)?;
    Some((parent, *name))
}

fn stamp_of(state: &Model, ino: Ino) -> Option<u64> {
    state.named(ino).map(|node| node.stamp)
}

/// What has changed since, of what has a name.
fn touched(base: &Model, state: &Model) -> BTreeSet<Ino> {
    let all = base.nodes().chain(state.nodes()).map(|(ino, _)| ino);
    let is_other = |ino: &Ino| stamp_of(base, *ino) != stamp_of(state, *ino);
    all.filter(is_other).collect()
}

/// The attributes that are others, with their new values.
fn attributes<'n>(base: &Node, node: &'n Node) -> BTreeMap<NameId, Option<&'n Value>> {
    let all = base.xattrs.keys().chain(node.xattrs.keys());
    let bytes = |n: &Node, name: NameId| n.xattrs.get(&name).map(|v| Arc::clone(&v.bytes));
    let other = |name: &&NameId| bytes(base, **name) != bytes(node, **name);
    let new = |name: &NameId| (*name, node.xattrs.get(name));
    all.filter(other).map(new).collect()
}

/// The value of one of three; none if both have another.
fn one<T: PartialEq>(base: T, theirs: T, ours: T) -> Option<T> {
    match (theirs == base, ours == base) {
        (true, _) => Some(ours),
        (_, true) => Some(theirs),
        _ => (theirs == ours).then_some(ours),
    }
}

/// All paths of a directory's name; there is none if the directory has no name.
fn path(state: &Model, (mut dir, name): (Ino, NameId)) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    let mut parts = vec![name];
    while dir != Ino::ROOT {
        state.named(dir)?;
        let (parent, name) = place_of(state, dir)?;
        parts.push(name);
        dir = parent;
    }
    let parts = parts.iter().rev();
    Some(
        parts
            .map(|n| std::ffi::OsStr::from_bytes(names::bytes(*n)))
            .collect(),
    )
}

/// Whether a way leads from the root to a directory.
fn is_reached(state: &Model, dir: Ino) -> bool {
    let parent = |dir: &Ino| state.node(*dir).map(|node| node.parent);
    let mut way = std::iter::successors(Some(dir), parent);
    way.by_ref().take(state.visible()).any(|at| at == Ino::ROOT)
}

struct Three<'m> {
    base: &'m Model,
    theirs: &'m Model,
    ours: &'m Model,
}

impl Three<'_> {
    fn all(&self) -> [&Model; 3] {
        [self.ours, self.theirs, self.base]
    }

    /// A conflict about an inode.
    fn of_inode(&self, ino: Ino) -> Clash {
        let mut paths = Clash::new();
        for state in self.all() {
            if ino == Ino::ROOT {
                paths.insert(PathBuf::new());
            }
            let spots = names_of(state).into_iter().filter(|(_, to)| *to == ino);
            paths.extend(spots.filter_map(|(spot, _)| path(state, spot)));
        }
        paths
    }

    /// A conflict about a name.
    fn of_name(&self, spot: (Ino, NameId)) -> Clash {
        let all = self.all();
        all.iter().filter_map(|state| path(state, spot)).collect()
    }

    /// Whether nobody knows what is to come out: what has a name there may be here without one, or
    /// be gone.
    fn is_unclear(&self) -> bool {
        let is_blurred = |(_, node): (Ino, &Node)| node.stamp == lines::UNCLEAR;
        if self.all().iter().any(|state| state.nodes().any(is_blurred)) {
            return true;
        }
        let theirs = self.theirs.nodes().filter(|(_, node)| node.nlink > 0);
        let mut new = theirs.filter(|(ino, _)| self.base.named(*ino).is_none());
        new.any(|(ino, _)| self.ours.may_linger(ino) || self.base.may_linger(ino))
    }

    /// The record of a directory that both may have changed, but for its entries and attributes.
    fn dir(base: &Node, theirs: &Node, ours: &Node) -> Option<Node> {
        let mut node = ours.clone();
        node.perm = one(base.perm, theirs.perm, ours.perm)?;
        node.uid = one(base.uid, theirs.uid, ours.uid)?;
        node.gid = one(base.gid, theirs.gid, ours.gid)?;
        let flags = |n: &Node| (n.flags, n.hints);
        (node.flags, node.hints) = one(flags(base), flags(theirs), flags(ours))?;
        Some(node)
    }

    /// Whether both have changed it, so that neither will do.
    fn is_clash(&self, ino: Ino) -> bool {
        let [ours, theirs, base] = self.all().map(|state| state.named(ino));
        match (base, theirs, ours) {
            (_, None, None) => false,
            (Some(base), Some(theirs), Some(ours)) if base.is_dir() => {
                let [o, t, b] = self.all().map(|state| place_of(state, ino));
                let (our, mut their) = (attributes(base, ours), attributes(base, theirs));
                let bytes = |value: Option<&Value>| value.map(|v| Arc::clone(&v.bytes));
                their.retain(|name, value| our.get(name).map(|v| bytes(*v)) != Some(bytes(*value)));
                let both = !our.is_empty() && !their.is_empty();
                one(b, t, o).is_none() || Self::dir(base, theirs, ours).is_none() || both
            }
            (_, Some(theirs), Some(ours)) => theirs.stamp != ours.stamp,
            (_, Some(_), None) | (_, None, Some(_)) => true,
        }
    }

    fn clashes(&self) -> Vec<Clash> {
        let theirs = touched(self.base, self.theirs);
        let ours = touched(self.base, self.ours);
        let both = theirs.intersection(&ours);
        let inodes = both.filter(|ino| self.is_clash(**ino));
        let mut all: Vec<Clash> = inodes.map(|ino| self.of_inode(*ino)).collect();
        let [ours, theirs, base] = self.all().map(names_of);
        let spots: BTreeSet<_> = theirs.keys().chain(base.keys()).collect();
        for spot in spots {
            let [o, t, b] = [&ours, &theirs, &base].map(|names| names.get(spot));
            if one(b, t, o).is_none() {
                all.push(self.of_name(*spot));
            }
        }
        all
    }

    /// The node of an inode that theirs has changed.
    fn node(&self, ino: Ino) -> Option<Node> {
        let [ours, theirs, base] = self.all().map(|state| state.named(ino));
        let theirs = theirs?;
        let (Some(base), Some(ours)) = (base.filter(|b| b.is_dir()), ours) else {
            return Some(theirs.clone());
        };
        let mut node = Self::dir(base, theirs, ours)?;
        let is_ours = ours.stamp != base.stamp;
        // Where both have changed entries, which of the times it is depends on the clock.
        node.mtime = if is_ours { None } else { theirs.mtime };
        node.stamp = if is_ours {
            lines::stamp()
        } else {
            theirs.stamp
        };
        if node.atime != theirs.atime {
            node.atime = None;
        }
        for (name, value) in attributes(base, theirs) {
            match value {
                Some(value) => drop(node.xattrs.insert(name, value.clone())),
                None => drop(node.xattrs.remove(&name)),
            }
        }
        Some(node)
    }

    /// Ours with what theirs has changed, or the directories that would be in themselves.
    fn tree(&self) -> Result<Model, Vec<Clash>> {
        let mut nodes: BTreeMap<Ino, Node> = BTreeMap::new();
        let named = self.ours.nodes().filter(|(_, node)| node.nlink > 0);
        nodes.extend(named.map(|(ino, node)| (ino, node.clone())));
        for ino in touched(self.base, self.theirs) {
            match self.node(ino) {
                Some(node) => drop(nodes.insert(ino, node)),
                None => drop(nodes.remove(&ino)),
            }
        }
        let [mut entries, theirs, base] = self.all().map(names_of);
        for spot in theirs.keys().chain(base.keys()) {
            let changed = theirs.get(spot);
            if changed != base.get(spot) {
                match changed {
                    Some(to) => drop(entries.insert(*spot, *to)),
                    None => drop(entries.remove(spot)),
                }
            }
        }
        for node in nodes.values_mut().filter(|node| node.is_dir()) {
            node.entries.clear();
            node.nlink = 2;
        }
        for ((dir, name), to) in entries {
            let is_dir = nodes.get(&to).is_some_and(Node::is_dir);
            if let (true, Some(node)) = (is_dir, nodes.get_mut(&to)) {
                node.parent = dir;
            }
            if let Some(node) = nodes.get_mut(&dir) {
                node.entries.insert(name, to);
                node.nlink += u32::from(is_dir);
            }
        }
        let mut tree = Model::empty();
        nodes
            .into_iter()
            .for_each(|(ino, node)| tree.insert(ino, node));
        let lost = self.moved().filter(|ino| !is_reached(&tree, *ino));
        let circles: Vec<Clash> = lost.map(|ino| self.of_inode(ino)).collect();
        match circles.is_empty() {
            true => Ok(tree),
            false => Err(circles),
        }
    }

    /// The directories that theirs has moved to other ones.
    fn moved(&self) -> impl Iterator<Item = Ino> {
        let dirs = self.theirs.nodes().filter(|(_, node)| node.is_dir());
        let is_moved = |(ino, node): &(Ino, &Node)| {
            let before = self.base.named(*ino).map(|before| before.parent);
            node.nlink > 0 && before.is_some_and(|before| before != node.parent)
        };
        dirs.filter(is_moved).map(|(ino, _)| ino)
    }
}

impl Model {
    /// What a commit of a branch to where the run is comes to; none if that is not known.
    pub(crate) fn plan(&self, from: Place, force: bool) -> Option<Plan> {
        let theirs = self.other(from)?;
        let of = (from, self.here());
        let merges = self.merges();
        if merges.unclear.contains(&of) {
            return None;
        }
        let last = merges.last.iter().filter(|base| base.of == of);
        let mut last = last.filter(|base| goes_on_from(self, &base.done));
        let (base, is_again) = match last.next_back() {
            Some(last) => {
                let stands = !last.done.is_unclear || goes_on_from(theirs, &last.at);
                stands.then(|| (Arc::clone(&last.at), true))?
            }
            None => (parting(self, theirs)?, false),
        };
        let base = &base.state;
        let three = Three {
            base,
            theirs,
            ours: self,
        };
        if three.is_unclear() {
            return None;
        }
        let tree = if force {
            Ok(theirs.clone())
        } else {
            let clashes = three.clashes();
            if clashes.is_empty() {
                three.tree()
            } else {
                Err(clashes)
            }
        };
        Some(Plan {
            tree,
            is_idle: touched(base, theirs).is_empty(),
            is_still: touched(base, self).is_empty(),
            is_again,
        })
    }

    /// Commits a branch to where the run is. `did` is what the volume answered, if it did.
    pub(crate) fn merge(&mut self, from: Place, force: bool, did: u64) -> Result<Answer, Errnos> {
        let impossible = Err(&[libc::EINVAL] as Errnos);
        if from == self.here() {
            return impossible;
        }
        let Some(plan) = self.plan(from, force) else {
            return impossible;
        };
        let tree = match (plan.tree, did) {
            (Err(_), CONFLICTS) => return Ok(Answer::Number(CONFLICTS)),
            (Err(_), _) | (Ok(_), CONFLICTS) => return impossible,
            (Ok(tree), _) => tree,
        };
        if did == NOTHING {
            let is_done = plan.is_idle || (!force && self.looks_like(&tree));
            return match is_done {
                true => Ok(Answer::Number(NOTHING)),
                false => impossible,
            };
        }
        self.become_merged(tree, from, force, plan.is_still);
        Ok(Answer::Number(DONE))
    }

    fn become_merged(&mut self, tree: Self, from: Place, force: bool, is_still: bool) {
        let theirs = self.tie_other(from);
        let parted = self.tie();
        let before = self.clone();
        self.go_on_as(tree.alone());
        self.take_gone(&before);
        let state = self;
        state.line = Some(parted);
        let of = (from, state.here());
        state.change_merges(|merges| merges.last.retain(|base| base.of != of));
        match (force, theirs) {
            (true, Some(theirs)) => state.line = Some(theirs),
            (_, Some(at)) => {
                let done = Arc::new(Knot {
                    state: state.alone(),
                    is_unclear: is_still,
                });
                state.line = Some(Arc::clone(&done));
                state.change_merges(|merges| merges.last.push(Base { of, at, done }));
            }
            (_, None) => {}
        }
    }

    /// What a commit remembers last may not have come to the disk.
    pub(crate) fn doubt_merge(&mut self, from: Place) {
        let of = (from, self.here());
        self.change_merges(|merges| merges.unclear.extend([of]));
    }

    /// Nothing is left of what was committed of a branch, or to it.
    pub(crate) fn forget_merges_of(&mut self, n: u8) {
        let is_of = |of: (Place, Place)| of.0 == Some(n) || of.1 == Some(n);
        self.change_merges(|merges| {
            merges.last.retain(|base| !is_of(base.of));
            merges.unclear.retain(|of| !is_of(*of));
        });
    }
}

/// Whether conflicts were told as they are: each of them, and nothing else.
pub(crate) fn told_right(told: &[PathBuf], clashes: &[Clash]) -> Result<(), String> {
    let is_known = |path: &&PathBuf| clashes.iter().any(|clash| clash.contains(*path));
    if let Some(path) = told.iter().find(|path| !is_known(path)) {
        return Err(format!(
            "{} is told as a conflict, and is none",
            path.display()
        ));
    }
    let is_told = |clash: &&Clash| told.iter().any(|path| clash.contains(path));
    match clashes.iter().find(|clash| !is_told(clash)) {
        Some(clash) => Err(format!(
            "of the conflict {clash:?} nothing is told, but {told:?}"
        )),
        None => Ok(()),
    }
}
