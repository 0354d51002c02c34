//! What is to be done, and what stands against it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use razorfs_format::key::{Key, Tag};
use razorfs_format::record::{Dirent, Inode, Time, inode_flags};
use razorfs_format::{Branch, Ino};

use super::Clash;
use crate::namespace::diff::Side;
use crate::namespace::operation::PLACE;
use crate::store::{Bytes, Store};
use crate::{Error, Result};

/// A record before and after.
type Pair<T> = (Option<T>, Option<T>);

/// What was changed since the common state.
#[derive(Default)]
pub(super) struct Changes {
    /// Entries of directories.
    pub names: BTreeMap<Key, Pair<Dirent>>,
    /// Inodes that have a name.
    pub inodes: BTreeMap<Ino, Pair<Inode>>,
    /// Links and attributes.
    pub records: BTreeMap<Key, Option<Bytes>>,
    /// Blocks of data that were written.
    pub blocks: BTreeSet<(Ino, u64)>,
}

impl Changes {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        let Self {
            names,
            inodes,
            records,
            blocks,
        } = self;
        names.is_empty() && inodes.is_empty() && records.is_empty() && blocks.is_empty()
    }

    fn between(base: &Store, side: &Store) -> Result<Self> {
        let keys = |tag| {
            let keys = base.written_apart(side, tag)?;
            keys.ok_or(Error::Invalid("the two are not of one volume"))
        };
        let mut changes = Self::default();
        let (old, new) = (Side::new(base), Side::new(side));
        for key in keys(Tag::Dirent)? {
            let pair = (old.dirent(&key)?, new.dirent(&key)?);
            if pair.0 != pair.1 {
                changes.names.insert(key, pair);
            }
        }
        for key in keys(Tag::Inode)? {
            let (before, after) = (old.inode(key.ino())?, new.inode(key.ino())?);
            if !is_same(before.as_ref(), after.as_ref()) {
                changes.inodes.insert(key.ino(), (before, after));
            }
        }
        for tag in [Tag::Link, Tag::Xattr] {
            for key in keys(tag)? {
                let after = side.get(&key)?;
                // A file that has no name there does not come along, nor what it has.
                let comes = after.is_none() || new.inode(key.ino())?.is_some();
                if comes && base.get(&key)? != after {
                    changes.records.insert(key, after);
                }
            }
        }
        for key in keys(Tag::Extent)? {
            // Whoever writes to a file changes its times, to the nanosecond: where these are the
            // same it was written as it was. What has no name any more goes with its inode.
            let pair = changes.inodes.get(&key.ino());
            if pair.is_some_and(|(_, after)| after.is_some()) {
                changes.blocks.insert((key.ino(), key.second()));
            }
        }
        Ok(changes)
    }

    /// The inodes of which anything is another, but the entries of directories.
    fn touched(&self) -> BTreeSet<Ino> {
        let inodes = self.inodes.keys().copied();
        let records = self.records.keys().map(Key::ino);
        let blocks = self.blocks.iter().map(|(ino, _)| *ino);
        inodes.chain(records).chain(blocks).collect()
    }

    fn has_records(&self, ino: Ino, tag: Tag) -> bool {
        let mut of_tag = self.records.keys().filter(|key| key.tag() == tag);
        of_tag.any(|key| key.ino() == ino)
    }
}

/// Whether two records say the same; when it was read last does not count, nor whether blocks
/// behind its end are still to be removed.
fn is_same(a: Option<&Inode>, b: Option<&Inode>) -> bool {
    let timeless = |inode: &Inode| Inode {
        atime: Time::default(),
        flags: inode.flags & !inode_flags::TRIMMING,
        ..inode.clone()
    };
    match (a, b) {
        (Some(a), Some(b)) => timeless(a) == timeless(b),
        (a, b) => a.is_none() && b.is_none(),
    }
}

/// Whether anything was written in one of two states since they parted that is more than when
/// something was read.
pub(super) fn differ(a: &Store, b: &Store) -> Result<bool> {
    let apart = |tag| {
        let keys = a.written_apart(b, tag)?;
        keys.ok_or(Error::Invalid("the two are not of one volume"))
    };
    for tag in [Tag::Dirent, Tag::Extent, Tag::Xattr, Tag::Link] {
        if !apart(tag)?.is_empty() {
            return Ok(true);
        }
    }
    // Those that have no name too: somebody may have them open.
    let inode = |store: &Store, key: &Key| -> Result<Option<Inode>> {
        let value = store.get(key)?;
        Ok(value.map(|v| Inode::decode(&v, PLACE)).transpose()?)
    };
    for key in apart(Tag::Inode)? {
        if !is_same(inode(a, &key)?.as_ref(), inode(b, &key)?.as_ref()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What is to be done so that one state has what was changed in another one.
pub(super) struct Plan {
    pub theirs: Changes,
    /// When the directories that ours has changed were changed there.
    pub times: BTreeMap<Ino, (Time, Time)>,
}

impl Plan {
    /// Where ours is what both go on from.
    pub fn of(base: &Store, theirs: &Store) -> Result<Self> {
        Ok(Self {
            theirs: Changes::between(base, theirs)?,
            times: BTreeMap::new(),
        })
    }
}

/// Compares what both sides have changed: the plan, or what stands against it.
pub(super) fn compare(
    base: &Store,
    theirs: &Store,
    ours: &Store,
) -> Result<std::result::Result<Plan, Vec<Clash>>> {
    let mut their_changes = Changes::between(base, theirs)?;
    let our_changes = Changes::between(base, ours)?;
    let mut compared = Compared {
        base: Side::new(base),
        theirs: Side::new(theirs),
        ours: Side::new(ours),
        clashes: BTreeSet::new(),
    };
    Compared::leave_out_done(&mut their_changes, &our_changes);
    compared.names(&their_changes, &our_changes)?;
    let both = their_changes.touched();
    let both: Vec<Ino> = our_changes.touched().intersection(&both).copied().collect();
    for ino in both {
        compared.inode(ino, &their_changes, &our_changes)?;
    }
    for (ino, pair) in &their_changes.inodes {
        if let (None, Some(_)) = pair
            && ours.get(&inode_key(*ino))?.is_some()
            && compared.ours.inode(*ino)?.is_none()
        {
            compared.inode(*ino, &their_changes, &our_changes)?;
        }
    }
    if !compared.clashes.is_empty() {
        return Ok(Err(compared.clashes.into_iter().collect()));
    }
    let times = |(ino, (_, after)): (Ino, Pair<Inode>)| {
        let dir = after.filter(Inode::is_dir)?;
        Some((ino, (dir.mtime, dir.ctime)))
    };
    Ok(Ok(Plan {
        theirs: their_changes,
        times: our_changes.inodes.into_iter().filter_map(times).collect(),
    }))
}

struct Compared<'a> {
    base: Side<'a>,
    theirs: Side<'a>,
    ours: Side<'a>,
    clashes: BTreeSet<Clash>,
}

impl Compared<'_> {
    fn clash(&mut self, path: Option<PathBuf>, ino: Ino, why: &'static str) {
        self.clashes.insert(Clash::new(path, ino, why));
    }

    /// What both have done alike is not to be done: the branch may have been merged before.
    fn leave_out_done(theirs: &mut Changes, ours: &Changes) {
        let mut alike = BTreeSet::new();
        for (ino, (before, after)) in &theirs.inodes {
            let Some((_, here)) = ours.inodes.get(ino) else {
                continue;
            };
            let is_alike = match (before, after, here) {
                (Some(base), Some(their), Some(our)) if our.is_dir() => {
                    let merged = merge_dir(base, their, our);
                    merged.is_some_and(|merged| is_same(Some(&merged), Some(our)))
                }
                // To the nanosecond: it is that of the branch.
                _ => is_same(after.as_ref(), here.as_ref()),
            };
            if is_alike {
                alike.insert(*ino);
            }
        }
        theirs.inodes.retain(|ino, _| !alike.contains(ino));
        theirs.blocks.retain(|(ino, _)| !alike.contains(ino));
        let same = |pair: &Pair<Dirent>, here: Option<&Pair<Dirent>>| {
            here.is_some_and(|here| here.1 == pair.1)
        };
        let names = &ours.names;
        theirs.names.retain(|key, pair| !same(pair, names.get(key)));
        let records = &ours.records;
        theirs
            .records
            .retain(|key, value| records.get(key) != Some(value));
    }

    /// Names that lead elsewhere in each.
    fn names(&mut self, theirs: &Changes, ours: &Changes) -> Result<()> {
        for (key, (before, after)) in &theirs.names {
            let name = match (after, before) {
                (Some(entry), _) | (None, Some(entry)) => entry.name.clone(),
                (None, None) => continue,
            };
            let theirs_at = (key.ino(), name);
            let is_ours = ours.names.contains_key(key);
            let other = match after {
                // There may be the same name at another place of its hash.
                Some(entry) => self.ours.find(key.ino(), &entry.name)?,
                None => self.ours.dirent(key)?,
            };
            let same = other.as_ref() == after.as_ref();
            let is_free = other.is_none() || other.as_ref() == before.as_ref();
            if same || (is_free && !is_ours) {
                continue;
            }
            let path = match self.theirs.path(&theirs_at)? {
                Some(path) => Some(path),
                None => self.base.path(&theirs_at)?,
            };
            self.clash(path, key.ino(), "this name leads to another file in each");
        }
        Ok(())
    }

    /// An inode of which both have changed something.
    fn inode(&mut self, ino: Ino, theirs: &Changes, ours: &Changes) -> Result<()> {
        let (base, their, our) = (
            self.base.inode(ino)?,
            self.theirs.inode(ino)?,
            self.ours.inode(ino)?,
        );
        let why = match (&base, &their, &our) {
            (_, None, None) => return Ok(()),
            (_, None, Some(_)) => Some("the branch has removed it, and it has changed here"),
            (_, Some(_), None) => Some("it was removed here, and has changed in the branch"),
            (Some(base), Some(their), Some(our)) if base.is_dir() => {
                let both = |tag| theirs.has_records(ino, tag) && ours.has_records(ino, tag);
                match merge_dir(base, their, our) {
                    None => Some("both have changed this directory's place, owner or mode"),
                    Some(_) if both(Tag::Xattr) => {
                        Some("both have changed this directory's attributes")
                    }
                    Some(_) => None,
                }
            }
            _ => Some("both have changed it"),
        };
        let Some(why) = why else { return Ok(()) };
        let mut path = None;
        for (side, inode) in [
            (&mut self.ours, our),
            (&mut self.theirs, their),
            (&mut self.base, base),
        ] {
            if let (None, Some(inode)) = (&path, inode) {
                path = side.home(ino, &inode)?;
            }
        }
        self.clash(path, ino, why);
        Ok(())
    }
}

/// The record of a directory that both have changed, but for the entries, which the names bring;
/// nothing if both have changed the same.
pub(super) fn merge_dir(base: &Inode, theirs: &Inode, ours: &Inode) -> Option<Inode> {
    fn one<T: PartialEq + Copy>(base: T, theirs: T, ours: T) -> Option<T> {
        match (theirs == base, ours == base) {
            (true, _) => Some(ours),
            (_, true) => Some(theirs),
            _ => (theirs == ours).then_some(ours),
        }
    }
    let place = |inode: &Inode| (inode.parent, inode.cookie);
    let (parent, cookie) = one(place(base), place(theirs), place(ours))?;
    // Whether there are attributes follows from both.
    let plain = |inode: &Inode| inode.flags & !HAS_XATTR;
    let has = |inode: &Inode| inode.flags & HAS_XATTR != 0;
    let attributes = match one(has(base), has(theirs), has(ours))? {
        true => HAS_XATTR,
        false => 0,
    };
    Some(Inode {
        mode: one(base.mode, theirs.mode, ours.mode)?,
        uid: one(base.uid, theirs.uid, ours.uid)?,
        gid: one(base.gid, theirs.gid, ours.gid)?,
        flags: one(plain(base), plain(theirs), plain(ours))? | attributes,
        parent,
        cookie,
        mtime: theirs.mtime.max(ours.mtime),
        ctime: theirs.ctime.max(ours.ctime),
        ..ours.clone()
    })
}

const HAS_XATTR: u32 = inode_flags::HAS_XATTR;

impl Side<'_> {
    /// The entry of this name.
    fn find(&self, dir: Ino, name: &[u8]) -> Result<Option<Dirent>> {
        let first = razorfs_format::record::name_cookie(self.store.hash_key(), name);
        let (from, to) = crate::namespace::directory::slots(dir, first);
        let (mut found, mut outcome) = (None, Ok(()));
        self.store.scan(&from, &to, &mut |_, value| {
            match Dirent::decode(value, PLACE) {
                Ok(entry) if *entry.name == *name => found = Some(entry),
                Ok(_) => {}
                Err(e) => outcome = Err(e),
            }
            found.is_none() && outcome.is_ok()
        })?;
        outcome?;
        Ok(found)
    }
}

/// The key of an inode.
pub(super) fn inode_key(ino: Ino) -> Key {
    Key::inode(Branch::HEAD, ino)
}
