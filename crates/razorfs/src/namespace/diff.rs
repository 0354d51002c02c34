//! What differs between two states of the volume, by inode: numbers are never used again, so an
//! inode that both have is the same file, whatever it is called.
//!
//! Only what was written since the two parted is looked at. The names that an inode lost and those
//! that it got make up renames; what has no partner is a name that is new or gone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

use razorfs_format::key::{Key, Tag};
use razorfs_format::record::{Dirent, FileKind, Inode, Time, Xattr, inode_flags};
use razorfs_format::{Branch, Ino};

use super::Namespace;
use super::attributes::SETTABLE;
use super::operation::PLACE;
use super::xattr::is_own;
use crate::store::Store;
use crate::types::{Change, ChangeKind, Difference, Stale};
use crate::{Error, Result};

/// Deepest directory that is named.
const DEEP: usize = 4096;

/// A name in a directory.
pub(crate) type Name = (Ino, Box<[u8]>);

/// One of the two states.
pub(super) struct Side<'a> {
    pub(super) store: &'a Store,
    /// Paths of directories, `None` for those that cannot be reached.
    paths: HashMap<Ino, Option<Vec<u8>>>,
}

impl<'a> Side<'a> {
    pub(super) fn new(store: &'a Store) -> Self {
        let root = (Ino::ROOT, Some(Vec::new()));
        Self {
            store,
            paths: HashMap::from([root]),
        }
    }

    /// An inode that has a name.
    pub(super) fn inode(&self, ino: Ino) -> Result<Option<Inode>> {
        let Some(bytes) = self.store.get(&Key::inode(Branch::HEAD, ino))? else {
            return Ok(None);
        };
        Ok(Some(Inode::decode(&bytes, PLACE)?).filter(|inode| inode.nlink > 0))
    }

    /// Whether there is an inode that has lost its names.
    fn is_nameless(&self, ino: Ino) -> Result<bool> {
        let Some(bytes) = self.store.get(&Key::inode(Branch::HEAD, ino))? else {
            return Ok(false);
        };
        Ok(Inode::decode(&bytes, PLACE)?.nlink == 0)
    }

    /// An extended attribute, unless it is the volume's own.
    pub(super) fn xattr(&self, key: &Key) -> Result<Option<Xattr>> {
        let Some(bytes) = self.store.get(key)? else {
            return Ok(None);
        };
        let xattr = Xattr::decode(&bytes, PLACE)?;
        Ok(Some(xattr).filter(|xattr| !is_own(key.ino(), &xattr.name)))
    }

    pub(super) fn dirent(&self, key: &Key) -> Result<Option<Dirent>> {
        match self.store.get(key)? {
            Some(bytes) => Ok(Some(Dirent::decode(&bytes, PLACE)?)),
            None => Ok(None),
        }
    }

    /// The path of a directory, without the slash at its beginning.
    fn dir(&mut self, dir: Ino) -> Result<Option<Vec<u8>>> {
        let (mut below, mut at) = (Vec::new(), dir);
        let mut path = loop {
            if let Some(known) = self.paths.get(&at) {
                break known.clone();
            }
            let Some(inode) = self.inode(at)?.filter(|_| below.len() < DEEP) else {
                break None;
            };
            let key = Key::dirent(Branch::HEAD, inode.parent, inode.cookie);
            let Some(dirent) = self.dirent(&key)?.filter(|d| d.ino == at) else {
                break None;
            };
            below.push((at, dirent.name));
            at = inode.parent;
        };
        while let Some((ino, name)) = below.pop() {
            if let Some(path) = &mut path {
                push(path, &name);
            }
            self.paths.insert(ino, path.clone());
        }
        Ok(path)
    }

    pub(super) fn path(&mut self, (dir, name): &Name) -> Result<Option<PathBuf>> {
        use std::os::unix::ffi::OsStringExt;
        let Some(mut path) = self.dir(*dir)? else {
            return Ok(None);
        };
        push(&mut path, name);
        Ok(Some(std::ffi::OsString::from_vec(path).into()))
    }

    /// All names of an inode that is no directory.
    fn each_name(
        &self,
        ino: Ino,
        inode: &Inode,
        each: &mut dyn FnMut(Ino, Box<[u8]>),
    ) -> Result<()> {
        let mut spots = vec![(inode.parent, inode.cookie)];
        let from = Key::link(Branch::HEAD, ino, Ino(0), 0);
        let to = Key::link(Branch::HEAD, Ino(ino.0.saturating_add(1)), Ino(0), 0);
        self.store.scan(&from, &to, &mut |key, _| {
            spots.push((Ino(key.second()), key.link_cookie()));
            true
        })?;
        spots.sort_unstable();
        spots.dedup();
        for (dir, cookie) in spots {
            if let Some(dirent) = self.dirent(&Key::dirent(Branch::HEAD, dir, cookie))? {
                each(dir, dirent.name);
            }
        }
        Ok(())
    }

    /// One of the names of an inode.
    pub(super) fn home(&mut self, ino: Ino, inode: &Inode) -> Result<Option<PathBuf>> {
        if ino == Ino::ROOT {
            return Ok(Some(PathBuf::new()));
        }
        let key = Key::dirent(Branch::HEAD, inode.parent, inode.cookie);
        match self.dirent(&key)? {
            Some(dirent) => self.path(&(inode.parent, dirent.name)),
            None => Ok(None),
        }
    }
}

fn push(path: &mut Vec<u8>, name: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
}

/// The keys that were written apart.
pub(super) struct Written {
    pub dirents: BTreeSet<Key>,
    /// All inodes of which anything was written.
    pub inodes: BTreeSet<Key>,
    pub extents: BTreeSet<Key>,
    pub xattrs: BTreeSet<Key>,
}

impl Written {
    pub(super) fn new(old: &Side<'_>, new: &Side<'_>) -> Result<Self> {
        let keys = |tag| {
            let keys = old.store.written_apart(new.store, tag)?;
            keys.ok_or(Error::Invalid("the two are not of one volume"))
        };
        let (extents, xattrs) = (keys(Tag::Extent)?, keys(Tag::Xattr)?);
        let mut inodes = keys(Tag::Inode)?;
        let of = |key: &Key| Key::inode(Branch::HEAD, key.ino());
        inodes.extend(extents.iter().chain(&xattrs).map(of));
        Ok(Self {
            dirents: keys(Tag::Dirent)?,
            inodes,
            extents,
            xattrs,
        })
    }
}

/// What was written apart, by inode.
#[derive(Default)]
struct Touched {
    /// All inodes of which anything was written.
    inodes: BTreeSet<Ino>,
    /// Those with other data.
    data: BTreeSet<Ino>,
    /// Those with other extended attributes.
    xattrs: BTreeSet<Ino>,
    /// The names that each has lost.
    lost: BTreeMap<Ino, Vec<Name>>,
    /// The names that each has got.
    got: BTreeMap<Ino, Vec<Name>>,
}

impl Namespace {
    /// What differs from here to `newer`, ordered by path.
    pub(crate) fn diff(&self, newer: &Self) -> Result<Vec<Change>> {
        let (mut old, mut new) = (Side::new(&self.store), Side::new(&newer.store));
        let touched = touched(&old, &new)?;
        let mut changes = Vec::new();
        for ino in &touched.inodes {
            compare(&mut old, &mut new, &touched, *ino, &mut changes)?;
        }
        changes.sort_by(|a, b| (&a.path, a.kind).cmp(&(&b.path, b.kind)));
        join_replaced(&old, &new, changes)
    }
}

/// A name that is gone and there again, for a file of the same kind, is a file that has changed: so
/// do editors write, and whoever builds anew.
fn join_replaced(old: &Side<'_>, new: &Side<'_>, changes: Vec<Change>) -> Result<Vec<Change>> {
    let mut joined: Vec<Change> = Vec::with_capacity(changes.len());
    for change in changes {
        let added = joined.last_mut().filter(|last| {
            let kinds = (last.kind, change.kind);
            kinds == (ChangeKind::Added, ChangeKind::Removed)
                && (&last.path, last.file) == (&change.path, change.file)
        });
        let Some(added) = added else {
            joined.push(change);
            continue;
        };
        let (Some(before), Some(after)) = (old.inode(change.ino)?, new.inode(added.ino)?) else {
            joined.push(change);
            continue;
        };
        added.kind = ChangeKind::Changed;
        added.size_before = change.size_before;
        added.differs = Difference {
            content: match after.kind() {
                FileKind::Regular => true,
                FileKind::Directory => false,
                _ => (&before.target, before.rdev) != (&after.target, after.rdev),
            },
            attributes: (before.flags | after.flags) & inode_flags::HAS_XATTR != 0
                || before.flags & SETTABLE != after.flags & SETTABLE,
            ..attributes(&before, &after)
        };
        if added.differs == Difference::default() {
            joined.pop();
        }
    }
    Ok(joined)
}

impl Namespace {
    /// Whether anything but times of access is another than in `before`.
    pub(crate) fn has_changed_since(&self, before: &Self) -> Result<bool> {
        let (old, new) = (Side::new(&before.store), Side::new(&self.store));
        let touched = touched(&old, &new)?;
        if !touched.lost.is_empty() || !touched.got.is_empty() {
            return Ok(true);
        }
        let unread = |inode: Inode| Inode {
            atime: Time::default(),
            flags: inode.flags & !(inode_flags::TRIMMING | inode_flags::HAS_XATTR),
            ..inode
        };
        for ino in &touched.inodes {
            let (was, is) = (old.inode(*ino)?.map(unread), new.inode(*ino)?.map(unread));
            let inside = touched.data.contains(ino) || touched.xattrs.contains(ino);
            if was != is || (inside && is.is_some()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// All names of an inode, by their directories.
    pub(crate) fn names_of(&self, ino: Ino) -> Result<Vec<Name>> {
        let side = Side::new(&self.store);
        let mut names = Vec::new();
        if let Some(inode) = side.inode(ino)? {
            side.each_name(ino, &inode, &mut |dir, name| names.push((dir, name)))?;
        }
        Ok(names)
    }

    /// What whoever remembers names and attributes of `before`, and holds what he remembers, has to
    /// forget, now that the volume is this.
    pub(crate) fn stale_since(&self, before: &Self) -> Result<Stale> {
        let (old, new) = (Side::new(&before.store), Side::new(&self.store));
        let touched = touched(&old, &new)?;
        let mut stale = Stale::default();
        // Nobody is told of the root, and everybody knows it.
        let held = |ino| ino == Ino::ROOT || self.pins.is_pinned(ino);
        for names in [&touched.lost, &touched.got] {
            for (dir, name) in names.values().flatten().filter(|(dir, _)| held(*dir)) {
                stale.names.push((*dir, name.clone()));
            }
        }
        for ino in touched.inodes.into_iter().filter(|ino| held(*ino)) {
            let Some(inode) = new.inode(ino)? else {
                continue;
            };
            stale.inodes.push(ino);
            if inode.is_dir() {
                if old.is_nameless(ino)? {
                    stale.returned.push(ino);
                }
            } else {
                new.each_name(ino, &inode, &mut |dir, name| stale.names.push((dir, name)))?;
            }
        }
        Ok(stale)
    }
}

fn touched(old: &Side<'_>, new: &Side<'_>) -> Result<Touched> {
    let written = Written::new(old, new)?;
    let mut touched = Touched::default();
    for key in written.dirents {
        let (before, after) = (old.dirent(&key)?, new.dirent(&key)?);
        if before == after {
            continue;
        }
        for (entry, names) in [(before, &mut touched.lost), (after, &mut touched.got)] {
            if let Some(entry) = entry {
                touched.inodes.insert(entry.ino);
                let of_inode = names.entry(entry.ino).or_default();
                of_inode.push((key.ino(), entry.name));
            }
        }
    }
    let inos = |keys: &BTreeSet<Key>| keys.iter().map(Key::ino).collect::<Vec<_>>();
    touched.data.extend(inos(&written.extents));
    for key in &written.xattrs {
        if old.xattr(key)? != new.xattr(key)? {
            touched.xattrs.insert(key.ino());
        }
    }
    touched.inodes.extend(inos(&written.inodes));
    Ok(touched)
}

/// Adds what has become of an inode.
fn compare(
    old: &mut Side<'_>,
    new: &mut Side<'_>,
    touched: &Touched,
    ino: Ino,
    changes: &mut Vec<Change>,
) -> Result<()> {
    let (before, after) = (old.inode(ino)?, new.inode(ino)?);
    let names = |names: &BTreeMap<Ino, Vec<Name>>| names.get(&ino).cloned().unwrap_or_default();
    let (mut lost, mut got) = (names(&touched.lost), names(&touched.got));
    let kind = match (&before, &after) {
        (_, Some(inode)) | (Some(inode), None) => inode.kind(),
        (None, None) => return Ok(()),
    };
    let change = |kind_of_change, path, from| Change {
        kind: kind_of_change,
        path,
        from,
        ino,
        file: kind,
        size_before: before.as_ref().map(|inode| inode.size),
        size_after: after.as_ref().map(|inode| inode.size),
        differs: Difference::default(),
    };
    let mut differs = match (&before, &after) {
        (Some(before), Some(after)) => difference(touched, ino, before, after),
        _ => Difference::default(),
    };
    // In the order of their directories, so that the answer is always the same.
    lost.sort_unstable();
    got.sort_unstable();
    let both = if before.is_some() && after.is_some() {
        lost.len().min(got.len())
    } else {
        0
    };
    let (more_lost, more_got) = (lost.split_off(both), got.split_off(both));
    for (from, to) in lost.iter().zip(&got) {
        if let (Some(from), Some(path)) = (old.path(from)?, new.path(to)?) {
            let mut renamed = change(ChangeKind::Renamed, path, Some(from));
            // Told once.
            renamed.differs = std::mem::take(&mut differs);
            changes.push(renamed);
        }
    }
    for name in more_lost {
        if let Some(path) = old.path(&name)? {
            changes.push(change(ChangeKind::Removed, path, None));
        }
    }
    for name in more_got {
        if let Some(path) = new.path(&name)? {
            changes.push(change(ChangeKind::Added, path, None));
        }
    }
    if differs != Difference::default()
        && let Some(after) = &after
        && let Some(path) = new.home(ino, after)?
    {
        let mut changed = change(ChangeKind::Changed, path, None);
        changed.differs = differs;
        changes.push(changed);
    }
    Ok(())
}

/// What of an inode that both have is another.
fn difference(touched: &Touched, ino: Ino, before: &Inode, after: &Inode) -> Difference {
    let is_file = after.kind() == FileKind::Regular;
    let content = is_file && (touched.data.contains(&ino) || before.size != after.size);
    Difference {
        content,
        attributes: touched.xattrs.contains(&ino)
            || before.flags & SETTABLE != after.flags & SETTABLE,
        // Those of a directory change with its names, those of a file with what is in it.
        times: is_file && !content && before.mtime != after.mtime,
        ..attributes(before, after)
    }
}

fn attributes(before: &Inode, after: &Inode) -> Difference {
    Difference {
        mode: before.mode != after.mode,
        owner: (before.uid, before.gid) != (after.uid, after.gid),
        ..Difference::default()
    }
}
