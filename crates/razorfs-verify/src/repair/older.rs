//! What snapshots show of files of which the present has lost something.
//!
//! Such a file is put beside, into `lost+found`, as the newest snapshot shows it that shows it
//! whole: one on the way to the present before one of a way that was left. Where a snapshot does
//! not have the inode, that is what had its name in its directory, for many programs write a new
//! file and give it the name of the old one. Where a snapshot shows what the present shows all the
//! same, nothing is put beside.
//!
//! Data are shared with the snapshot where that is the newest one on the way, else they are copied
//! into the records: what was let go of is not referred to again. A file whose newest record is
//! lost needs nothing of this: the record before it shows, and that is the snapshot's.

use std::collections::{BTreeMap, BTreeSet};

use razorfs_format::key::{Key, Tag};
use razorfs_format::manifest::SnapshotMeta;
use razorfs_format::pack::FrameIdentity;
use razorfs_format::record::{
    Dirent, Extent, FileKind, Fragment, FragmentKind, Inode, Origin, Xattr,
};
use razorfs_format::{Branch, Ino};

use super::data::merged;
use super::moment::Patch;
use super::past::Past;
use super::report::{Lose, Older, Outcome};
use super::tree::{Node, Tree, is_head};
use crate::namespace::place_of;
use crate::packs::Packs;
use crate::session::Session;
use crate::stream::Merge;
use crate::view::View;

/// A file as a snapshot shows it.
pub struct OlderFile {
    pub record: Inode,
    pub xattrs: Vec<Xattr>,
    /// Its name in `lost+found`.
    pub name: Box<[u8]>,
}

/// All of them, by the inodes that show them.
#[derive(Default)]
pub struct Olders {
    pub files: BTreeMap<Ino, OlderFile>,
    pub blocks: Blocks,
}

/// A file that is looked for, as a snapshot shows it.
struct Found {
    /// The inode that it has there.
    of: Ino,
    record: Inode,
}

/// By the inodes that the present has.
type AllFound = BTreeMap<Ino, Found>;

/// The data of files.
type Blocks = BTreeMap<(Ino, u64), Vec<Fragment>>;

impl Olders {
    /// They get inodes of their own, and are to be named in `lost+found`.
    pub fn join(&self, tree: &mut Tree) {
        for (ino, file) in &self.files {
            tree.nodes.insert(*ino, Node::older(&file.record));
        }
    }

    /// A number beyond those that these have.
    pub fn next_ino(&self) -> Ino {
        let last = self.files.last_key_value();
        last.map_or(Ino(0), |(ino, _)| ino.next())
    }
}

/// Who has a name in a directory.
type Spots = BTreeMap<(Ino, Box<[u8]>), Ino>;

/// What is known of the present before anything is put beside.
pub struct Present<'p> {
    pub view: &'p View,
    /// What it shows otherwise than the segments say.
    pub patch: &'p Patch,
    pub told: &'p Outcome,
}

impl Present<'_> {
    /// The files that are looked for; whether all that the present has of their data is right.
    fn wanted(&self) -> BTreeMap<Ino, bool> {
        let mut wanted = BTreeMap::new();
        for (ino, what) in &self.told.harmed {
            match what {
                Lose::Inode => drop(wanted.insert(*ino, true)),
                Lose::Data | Lose::Unsure | Lose::Old => {
                    wanted.entry(*ino).or_insert(false);
                }
                _ => {}
            }
        }
        wanted
    }

    /// Calls `each` with the records of a table.
    fn scan(&self, s: &mut Session<'_>, tag: Tag, each: &mut dyn FnMut(&Key, &[u8])) {
        let sight = self.view.sight().clone();
        let mut merge = Merge::new(self.view.segments(tag), Some(sight));
        while let Some(record) = merge.next(s) {
            let stays = |_: &&[u8]| !self.patch.contains_key(&record.key);
            if let Some(value) = record.value.as_deref().filter(stays) {
                each(&record.key, value);
            }
        }
        for (key, value) in self.patch.range(Key::first_of(tag)..=Key::last_of(tag)) {
            if let Some(value) = value {
                each(key, value);
            }
        }
    }

    /// Names of some files, with their directories.
    fn names(&self, s: &mut Session<'_>, wanted: &BTreeMap<Ino, bool>) -> Spots {
        let mut spots = Spots::new();
        if wanted.is_empty() {
            return spots;
        }
        self.scan(s, Tag::Dirent, &mut |key, value| {
            if let Ok(dirent) = Dirent::decode(value, place_of())
                && is_head(key)
                && wanted.contains_key(&dirent.ino)
            {
                spots.insert((key.ino(), dirent.name), dirent.ino);
            }
        });
        spots
    }

    /// Those of some files that the present shows as they were: of the same size, with the same
    /// data.
    fn unchanged(&self, s: &mut Session<'_>, found: &AllFound, blocks: &Blocks) -> BTreeSet<Ino> {
        // How many blocks each must have.
        let mut left: BTreeMap<Ino, usize> = BTreeMap::new();
        if found.is_empty() {
            return BTreeSet::new();
        }
        self.scan(s, Tag::Inode, &mut |key, value| {
            let now = Inode::decode(value, place_of())
                .ok()
                .map(|inode| inode.size);
            let then = found.get(&key.ino()).filter(|found| found.of == key.ino());
            let then = then.map(|found| found.record.size);
            if is_head(key) && then.is_some() && then == now {
                left.insert(key.ino(), 0);
            }
        });
        for (ino, _) in blocks.keys() {
            if let Some(count) = left.get_mut(ino) {
                *count += 1;
            }
        }
        self.scan(s, Tag::Extent, &mut |key, value| {
            let at = (key.ino(), key.second());
            let Some(count) = left.get_mut(&at.0).filter(|_| is_head(key)) else {
                return;
            };
            let now = Extent::decode(value, place_of()).unwrap_or_default();
            match blocks.get(&at) == Some(&now.fragments) {
                true => *count = count.saturating_sub(1),
                false => drop(left.remove(&at.0)),
            }
        });
        left.retain(|_, count| *count == 0);
        left.into_keys().collect()
    }
}

/// Looks through the snapshots for files that the present has harmed. They get the numbers from
/// `next` on.
pub fn choose(
    s: &mut Session<'_>,
    packs: &mut Packs,
    past: &Past,
    view_of: &dyn Fn(&SnapshotMeta) -> View,
    present: &Present<'_>,
    next: Ino,
) -> (Olders, Vec<Older>) {
    let (mut olders, mut told, mut next) = (Olders::default(), Vec::new(), next);
    let mut wanted = present.wanted();
    let spots = present.names(s, &wanted);
    for (index, snapshot, harmed) in past.by_preference() {
        if wanted.is_empty() {
            break;
        }
        let view = view_of(snapshot);
        let mut found = find(s, &view, (&wanted, &spots), harmed);
        let mut blocks = read_blocks(s, &view, &found);
        let same = present.unchanged(s, &found, &blocks);
        found.retain(|ino, _| !(wanted.remove(ino) == Some(false) && same.contains(ino)));
        if past.parent_of_head() != Some(index) {
            copy_data(s, packs, &mut found, &mut blocks);
        }
        let xattrs = read_xattrs(s, &view, &found);
        let name = String::from_utf8_lossy(&snapshot.name).into_owned();
        for (ino, Found { of, record }) in found {
            let file = OlderFile {
                record,
                xattrs: xattrs.get(&of).cloned().unwrap_or_default(),
                name: format!("#{ino}@{name}").into_bytes().into(),
            };
            olders.files.insert(next, file);
            for ((_, block), list) in blocks.range((of, 0)..=(of, u64::MAX)) {
                let mut list = list.clone();
                name_origins((of, *block), &mut list);
                olders.blocks.insert((next, *block), list);
            }
            told.push(Older {
                ino,
                path: None,
                of,
                snapshot: name.clone(),
                time: snapshot.time,
                shown_by: next,
                shown_at: None,
            });
            next = next.next();
        }
    }
    (olders, told)
}

/// The frames of a block get a second file that refers to them.
fn name_origins((ino, block): (Ino, u64), list: &mut [Fragment]) {
    for fragment in list {
        if let FragmentKind::Pack(r) = &mut fragment.kind {
            r.origin.get_or_insert(Origin {
                branch: Branch::HEAD,
                ino,
                block,
                offset: fragment.off.saturating_sub(r.skip),
            });
        }
    }
}

/// Files that a snapshot shows whole: those with the inode, else those with the name.
fn find(
    s: &mut Session<'_>,
    view: &View,
    (wanted, spots): (&BTreeMap<Ino, bool>, &Spots),
    harmed: &BTreeSet<Ino>,
) -> AllFound {
    // What has their names there.
    let mut named: BTreeMap<Ino, Vec<Ino>> = BTreeMap::new();
    if !spots.is_empty() {
        view.scan(s, Tag::Dirent, &mut |_, record| {
            let value = record.value().filter(|_| is_head(&record.key));
            let dirent = value.map(|value| Dirent::decode(value, place_of()));
            if let Some(Ok(dirent)) = dirent
                && let Some(ino) = spots.get(&(record.key.ino(), dirent.name))
                && *ino != dirent.ino
            {
                named.entry(dirent.ino).or_default().push(*ino);
            }
        });
    }
    let (mut found, mut by_name) = (AllFound::new(), AllFound::new());
    view.scan(s, Tag::Inode, &mut |_, record| {
        let of = record.key.ino();
        if harmed.contains(&of) || !is_head(&record.key) {
            return;
        }
        let inode = record.value().map(|value| Inode::decode(value, place_of()));
        let fits = |inode: &Inode| inode.kind() == FileKind::Regular && inode.nlink > 0;
        let Some(record) = inode.and_then(Result::ok).filter(fits) else {
            return;
        };
        for ino in named.get(&of).into_iter().flatten() {
            let record = record.clone();
            by_name.insert(*ino, Found { of, record });
        }
        if wanted.contains_key(&of) {
            found.insert(of, Found { of, record });
        }
    });
    for (ino, other) in by_name {
        if wanted.contains_key(&ino) && !harmed.contains(&ino) {
            found.entry(ino).or_insert(other);
        }
    }
    found
}

/// Their data.
fn read_blocks(s: &mut Session<'_>, view: &View, found: &AllFound) -> Blocks {
    let mut blocks = Blocks::new();
    if found.is_empty() {
        return blocks;
    }
    let of: BTreeSet<Ino> = found.values().map(|found| found.of).collect();
    view.scan(s, Tag::Extent, &mut |_, record| {
        let at = (record.key.ino(), record.key.second());
        if of.contains(&at.0) && is_head(&record.key) {
            let list = merged(&record);
            if !list.is_empty() {
                blocks.insert(at, list);
            }
        }
    });
    blocks
}

/// Takes the data of frames into the records. A file of which they cannot be had is not whole
/// after all.
fn copy_data(s: &mut Session<'_>, packs: &mut Packs, found: &mut AllFound, blocks: &mut Blocks) {
    let of: BTreeSet<Ino> = found.values().map(|found| found.of).collect();
    let mut damaged = BTreeSet::new();
    for ((ino, block), list) in blocks.iter_mut().filter(|((ino, _), _)| of.contains(ino)) {
        for fragment in list {
            let FragmentKind::Pack(r) = &fragment.kind else {
                continue;
            };
            let id = FrameIdentity::of(r, Branch::HEAD, *ino, *block, fragment.off);
            let want = r.skip..r.skip.saturating_add(fragment.len);
            match packs.fetch(s, &id, r, want) {
                Some(bytes) => fragment.kind = FragmentKind::Inline(bytes.into()),
                None => drop(damaged.insert(*ino)),
            }
        }
    }
    found.retain(|_, found| !damaged.contains(&found.of));
}

fn read_xattrs(s: &mut Session<'_>, view: &View, found: &AllFound) -> BTreeMap<Ino, Vec<Xattr>> {
    let mut xattrs: BTreeMap<Ino, Vec<Xattr>> = BTreeMap::new();
    if found.is_empty() {
        return xattrs;
    }
    let of: BTreeSet<Ino> = found.values().map(|found| found.of).collect();
    view.scan(s, Tag::Xattr, &mut |_, record| {
        let ino = record.key.ino();
        if of.contains(&ino)
            && is_head(&record.key)
            && let Some(value) = record.value()
            && let Ok(xattr) = Xattr::decode(value, place_of())
        {
            xattrs.entry(ino).or_default().push(xattr);
        }
    });
    xattrs
}
