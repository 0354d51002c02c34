//! The name space that the repaired volume gets: which inodes there are, and which names lead to
//! them. Entries are read once to see what agrees; what does not is dropped, moved, or made up.

use std::collections::{BTreeMap, BTreeSet};

use razorfs_format::key::{Key, Tag};
use razorfs_format::record::{Dirent, FileKind, Inode, Orphan, inode_flags, name_cookie};
use razorfs_format::{Branch, Epoch, Ino};

use super::frames::Frames;
use super::report::{Lose, Outcome};
use super::source::Lost;
use crate::namespace::place_of;
use crate::session::Session;
use crate::view::View;

/// What becomes of an inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It keeps a name.
    Named,
    /// It gets one in `lost+found`.
    Found,
    /// It has none and stays, in a snapshot: one that was made without a name may have got one
    /// since.
    Nameless,
    /// It has been removed.
    Gone,
}

/// What is known of an inode.
pub struct Node {
    pub kind: FileKind,
    pub flags: u32,
    pub nlink: u32,
    pub size: u64,
    /// Its record is lost; what it would say is made up.
    pub made: bool,
    /// A newer record may be lost.
    pub stale: bool,
    /// It is what a snapshot shows of a file, put beside that.
    pub older: bool,
    /// Where its (first) name stands.
    pub home: Option<(Ino, u64)>,
    /// What its record tells.
    told: (Ino, u64),
    /// How many entries it tells of.
    told_entries: u64,
    pub names: u32,
    pub subdirs: u32,
    pub entries: u64,
    pub fate: Fate,
    /// Its extents from this block on are being removed.
    pub trim: Option<u64>,
    /// In a snapshot: what is being done to it, and is not finished by the repair.
    pub orphan: Option<Orphan>,
    pub has_xattrs: bool,
    reach: Reach,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Unknown,
    OnTheWay,
    Yes,
}

impl Node {
    fn new(inode: &Inode) -> Self {
        Self {
            kind: inode.kind(),
            flags: inode.flags,
            nlink: inode.nlink,
            size: inode.size,
            made: false,
            stale: false,
            older: false,
            home: None,
            told: (inode.parent, inode.cookie),
            told_entries: inode.entries,
            names: 0,
            subdirs: 0,
            entries: 0,
            fate: Fate::Named,
            trim: None,
            orphan: None,
            has_xattrs: false,
            reach: Reach::Unknown,
        }
    }

    /// An inode whose record is lost.
    pub fn made(kind: FileKind) -> Self {
        Self {
            kind,
            flags: inode_flags::SPARSE,
            nlink: 1,
            size: 0,
            made: true,
            stale: true,
            older: false,
            home: None,
            told: (Ino(0), 0),
            told_entries: 0,
            names: 0,
            subdirs: 0,
            entries: 0,
            fate: Fate::Named,
            trim: None,
            orphan: None,
            has_xattrs: false,
            reach: Reach::Unknown,
        }
    }

    /// What a snapshot shows of a file, to be put beside that.
    pub fn older(inode: &Inode) -> Self {
        Self {
            older: true,
            fate: Fate::Found,
            ..Self::new(inode)
        }
    }

    /// The truncation that is under way in a snapshot.
    pub fn trimming(&self) -> Option<Orphan> {
        self.orphan.filter(|o| matches!(o, Orphan::Trim { .. }))
    }

    /// Whether data in this block may lie beyond the end, as they are being removed.
    pub fn may_reach(&self, block: u64) -> bool {
        match self.trimming() {
            Some(Orphan::Trim { from }) => block >= from,
            _ => self.fate == Fate::Nameless,
        }
    }

    pub const fn is_dir(&self) -> bool {
        matches!(self.kind, FileKind::Directory)
    }

    pub const fn is_regular(&self) -> bool {
        matches!(self.kind, FileKind::Regular)
    }

    /// The link count that goes with what was found.
    pub fn right_nlink(&self) -> u32 {
        match self.is_dir() {
            true => self.subdirs.saturating_add(2),
            false => self.names,
        }
    }
}

/// A name that is to stand somewhere else, or was not there.
pub struct Addition {
    pub dir: Ino,
    pub name: Box<[u8]>,
    pub ino: Ino,
    pub kind: FileKind,
    /// Where it stood.
    pub was: Option<(Ino, u64)>,
}

/// A name, and what it leads to.
type Alike = (Box<[u8]>, Ino);

/// The name space.
#[derive(Default)]
pub struct Tree {
    pub nodes: BTreeMap<Ino, Node>,
    /// Names of files with several: inode, directory, cookie.
    pub links: BTreeSet<(Ino, Ino, u64)>,
    /// Entries that go.
    pub dropped: BTreeSet<(Ino, u64)>,
    /// Names that stay, though newer records of their places may be lost: of which inodes.
    pub stale_names: BTreeSet<(Ino, Ino, u64)>,
    /// Entries that come; they have no places yet.
    pub additions: Vec<Addition>,
    /// The names of one directory with one hash that were read last: the only ones that can be
    /// alike.
    alike: (Ino, u64, Vec<Alike>),
    /// Where `lost+found` is, if there is one.
    pub lost_and_found: Option<Ino>,
    /// Entries are to be given new places, as the key of the hash is a new one.
    pub rekey: bool,
    /// That key.
    pub hash_key: [u8; 16],
    /// It is that of a snapshot.
    pub is_past: bool,
}

pub const LOST_AND_FOUND: &[u8] = b"lost+found";

/// Records of this version's only branch.
pub fn is_head(key: &Key) -> bool {
    key.branch() == Branch::HEAD
}

impl Tree {
    /// An empty one, whose names are hashed with `hash_key`.
    pub fn new(hash_key: [u8; 16], rekey: bool, is_past: bool) -> Self {
        Self {
            hash_key,
            rekey,
            is_past,
            ..Self::default()
        }
    }

    /// Reads inodes and orphans.
    pub fn read_inodes(
        &mut self,
        s: &mut Session<'_>,
        view: &View,
        lost: &Lost,
        out: &mut Outcome,
    ) {
        s.progress("inodes", 0, 0);
        view.scan(s, Tag::Inode, &mut |_, found| {
            let Some(value) = found.value().filter(|_| is_head(&found.key)) else {
                return;
            };
            match Inode::decode(value, place_of()) {
                Ok(inode) => {
                    let mut node = Node::new(&inode);
                    node.stale = is_stale(lost, &found.key, found.epoch, found.change.is_some());
                    self.nodes.insert(found.key.ino(), node);
                }
                Err(_) => out.fixed("records that cannot be understood"),
            }
        });
        view.scan(s, Tag::Orphan, &mut |_, found| {
            let value = found.value().filter(|_| is_head(&found.key));
            let orphan = value.and_then(|value| Orphan::decode(value, place_of()).ok());
            let node = self.nodes.get_mut(&found.key.ino());
            match (orphan, node) {
                (Some(orphan), Some(node)) if self.is_past => node.orphan = Some(orphan),
                (Some(Orphan::Trim { from }), Some(node)) => node.trim = Some(from),
                _ => {}
            }
        });
    }

    /// Makes up inodes that data or frames tell of and whose records are lost.
    pub fn make_owners(&mut self, owners: &BTreeSet<Ino>, frames: &Frames, lost: &Lost) {
        for ino in owners.iter().copied().chain(frames.owners()) {
            let key = Key::inode(Branch::HEAD, ino);
            if !self.nodes.contains_key(&ino) && ino >= Ino::FIRST && lost.may_miss(&key) {
                self.nodes.insert(ino, Node::made(FileKind::Regular));
            }
        }
    }

    /// Reads the names.
    pub fn read_names(&mut self, s: &mut Session<'_>, view: &View, lost: &Lost, out: &mut Outcome) {
        if !self.nodes.get(&Ino::ROOT).is_some_and(Node::is_dir) {
            self.nodes
                .insert(Ino::ROOT, Node::made(FileKind::Directory));
            out.lose(Lose::Inode, Ino::ROOT);
        }
        self.make_dirs(s, view, lost);
        s.progress("names", 0, 0);
        view.scan(s, Tag::Dirent, &mut |_, found| {
            let Some(value) = found.value().filter(|_| is_head(&found.key)) else {
                return;
            };
            let stale = is_stale(lost, &found.key, found.epoch, found.change.is_some());
            let at = (found.key.ino(), found.key.second());
            match Dirent::decode(value, place_of()) {
                Ok(dirent) => self.name(at, dirent, stale, lost, out),
                Err(_) => {
                    self.dropped.insert(at);
                    out.fixed("records that cannot be understood");
                }
            }
        });
    }

    /// Makes up directories whose records are lost and that entries stand in or lead to, before
    /// the entries are judged.
    fn make_dirs(&mut self, s: &mut Session<'_>, view: &View, lost: &Lost) {
        if !lost.everything && lost.of(Tag::Inode).next().is_none() {
            return;
        }
        let may_miss = |ino: Ino| lost.may_miss(&Key::inode(Branch::HEAD, ino));
        view.scan(s, Tag::Dirent, &mut |_, found| {
            let Some(value) = found.value().filter(|_| is_head(&found.key)) else {
                return;
            };
            let Ok(dirent) = Dirent::decode(value, place_of()) else {
                return;
            };
            let to = (dirent.kind == FileKind::Directory).then_some(dirent.ino);
            for ino in [Some(found.key.ino()), to].into_iter().flatten() {
                let made = self.nodes.get(&ino).is_none_or(|node| node.made);
                if made && ino != Ino::ROOT && may_miss(ino) {
                    self.nodes.insert(ino, Node::made(FileKind::Directory));
                }
            }
        });
    }

    /// Judges one name.
    fn name(
        &mut self,
        at: (Ino, u64),
        mut dirent: Dirent,
        stale: bool,
        lost: &Lost,
        out: &mut Outcome,
    ) {
        if at.0 == Ino::ROOT && *dirent.name == *LOST_AND_FOUND {
            let is_dir = |node: &Node| node.is_dir();
            let dir = self.nodes.get(&dirent.ino).is_some_and(is_dir);
            self.lost_and_found = dir.then_some(dirent.ino);
        }
        let homeless = !self.nodes.get(&at.0).is_some_and(Node::is_dir);
        let Some(node) = self.nodes.get_mut(&dirent.ino) else {
            self.dropped.insert(at);
            // If it never had a record it was removed; the name only seems to be there.
            if lost.may_miss(&Key::inode(Branch::HEAD, dirent.ino)) {
                out.lose_entry(at.0, &dirent.name, dirent.ino);
            } else {
                out.fixed("names of nothing");
            }
            return;
        };
        if dirent.kind != node.kind {
            dirent.kind = node.kind;
            out.fixed("entries of another kind than their files");
        }
        let told = node.told == at;
        let elsewhere = !told && !node.stale && (node.nlink == 1 || node.is_dir());
        let second = node.is_dir() && node.names > 0 && !told;
        if homeless || dirent.ino == Ino::ROOT || second || (stale && elsewhere) {
            self.dropped.insert(at);
            out.fixed("names that lead nowhere or stand for others");
            return;
        }
        if node.is_dir()
            && node.names > 0
            && let Some(other) = node.home
        {
            // The one that was taken before is not the one that the directory remembers.
            self.dropped.insert(other);
            self.additions.retain(|a| a.was != Some(other));
            node.names -= 1;
            let (kind, parent) = (node.kind, other.0);
            self.count(parent, kind, false);
            out.fixed("second names of directories");
        }
        if (self.alike.0, self.alike.1) != (at.0, at.1 >> 8) {
            self.alike = (at.0, at.1 >> 8, Vec::new());
        }
        let same = self.alike.2.iter().find(|(name, _)| *name == dirent.name);
        let again = same.is_some();
        if same.is_some_and(|(_, ino)| *ino == dirent.ino) {
            self.dropped.insert(at);
            out.fixed("names that were there twice");
            return;
        }
        self.alike.2.push((dirent.name.clone(), dirent.ino));
        if stale && !told {
            self.stale_names.insert((dirent.ino, at.0, at.1));
        }
        self.take(at, dirent, told, again, out);
    }

    /// Counts a name that stays.
    fn take(&mut self, at: (Ino, u64), dirent: Dirent, told: bool, again: bool, out: &mut Outcome) {
        self.count(at.0, dirent.kind, true);
        let Some(node) = self.nodes.get_mut(&dirent.ino) else {
            return;
        };
        node.names = node.names.saturating_add(1);
        let first = node.home;
        if node.home.is_none() || told {
            node.home = Some(at);
        }
        if !node.is_dir() && (node.names > 1 || node.nlink > 1) {
            self.links.insert((dirent.ino, at.0, at.1));
            if let Some(first) = first {
                self.links.insert((dirent.ino, first.0, first.1));
            }
        }
        let right = name_cookie(&self.hash_key, &dirent.name) >> 8 == at.1 >> 8;
        if self.rekey || !right || again {
            if !right && !self.rekey {
                out.fixed("entries at the wrong place");
            }
            self.dropped.insert(at);
            self.additions.push(Addition {
                dir: at.0,
                name: dirent.name,
                ino: dirent.ino,
                kind: dirent.kind,
                was: Some(at),
            });
        }
    }

    /// An entry comes to a directory, or goes.
    pub fn count(&mut self, dir: Ino, kind: FileKind, comes: bool) {
        let Some(node) = self.nodes.get_mut(&dir) else {
            return;
        };
        let is_dir = u32::from(kind == FileKind::Directory);
        if comes {
            node.entries += 1;
            node.subdirs += is_dir;
        } else {
            node.entries = node.entries.saturating_sub(1);
            node.subdirs = node.subdirs.saturating_sub(is_dir);
        }
    }

    /// Says what becomes of each inode.
    pub fn settle(&mut self, out: &mut Outcome) {
        self.drop_stale_names(out);
        self.untie();
        let mut found = Vec::new();
        for (ino, node) in &mut self.nodes {
            if *ino == Ino::ROOT {
                if node.stale && !node.made {
                    out.lose(Lose::Old, *ino);
                }
                continue;
            }
            node.fate = match (node.names, node.nlink) {
                (0, 0) if node.entries == 0 && self.is_past => Fate::Nameless,
                (0, 0) if node.entries == 0 => Fate::Gone,
                (0, _) => Fate::Found,
                _ => Fate::Named,
            };
            if node.fate == Fate::Found {
                found.push(*ino);
            }
            if node.made {
                out.lose(Lose::Inode, *ino);
            } else if node.stale && node.fate != Fate::Gone {
                out.lose(Lose::Old, *ino);
            }
        }
        for ino in found {
            out.lose(Lose::Name, ino);
        }
        for (ino, node) in &self.nodes {
            if node.entries < node.told_entries && node.fate != Fate::Gone {
                out.lose(Lose::Names, *ino);
            }
            if (1..node.nlink).contains(&node.names) && !node.is_dir() && !node.stale {
                out.lose(Lose::Link, *ino);
            }
        }
        // One name is no list.
        let nodes = &self.nodes;
        self.links
            .retain(|(ino, _, _)| nodes.get(ino).is_some_and(|n| n.names > 1));
    }

    /// A file has more names than its inode says: those go whose removal may be lost, if that makes
    /// the number right. Where it cannot be told which ones, all stay.
    fn drop_stale_names(&mut self, out: &mut Outcome) {
        let mut of: BTreeMap<Ino, Vec<(Ino, u64)>> = BTreeMap::new();
        for (ino, dir, cookie) in &self.stale_names {
            of.entry(*ino).or_default().push((*dir, *cookie));
        }
        for (ino, names) in of {
            let Some(node) = self.nodes.get(&ino) else {
                continue;
            };
            let known = !node.stale && !node.is_dir() && node.nlink > 0;
            let surplus = node.names.saturating_sub(node.nlink) as usize;
            if !known || surplus != names.len() {
                if !node.stale {
                    out.lose(Lose::OldName, ino);
                }
                continue;
            }
            out.fixed("names that had been removed");
            for at in names {
                self.drop_name(ino, at);
            }
        }
    }

    /// One of several names of a file goes.
    fn drop_name(&mut self, ino: Ino, at: (Ino, u64)) {
        self.dropped.insert(at);
        self.additions.retain(|a| a.was != Some(at));
        self.links.remove(&(ino, at.0, at.1));
        let all = (ino, Ino(0), 0)..=(ino, Ino(u64::MAX), u64::MAX);
        let other = self.links.range(all).next().map(|l| (l.1, l.2));
        let Some(node) = self.nodes.get_mut(&ino) else {
            return;
        };
        node.names = node.names.saturating_sub(1);
        if node.home == Some(at) {
            node.home = other;
        }
        let kind = node.kind;
        self.count(at.0, kind, false);
    }

    /// Directories that the root is not above of: one of each circle loses its name.
    fn untie(&mut self) {
        let dirs: Vec<Ino> = self
            .nodes
            .iter()
            .filter(|(_, n)| n.is_dir())
            .map(|(ino, _)| *ino)
            .collect();
        for dir in dirs {
            let mut path = Vec::new();
            let mut at = dir;
            while let Some(node) = self.nodes.get_mut(&at) {
                match node.reach {
                    Reach::Yes => break,
                    Reach::OnTheWay => {
                        self.unname(at);
                        break;
                    }
                    Reach::Unknown => {}
                }
                node.reach = Reach::OnTheWay;
                path.push(at);
                match node.home.filter(|_| at != Ino::ROOT) {
                    Some((parent, _)) => at = parent,
                    None => break,
                }
            }
            for ino in path {
                if let Some(node) = self.nodes.get_mut(&ino) {
                    node.reach = Reach::Yes;
                }
            }
        }
    }

    /// A directory loses its name.
    fn unname(&mut self, ino: Ino) {
        let Some(node) = self.nodes.get_mut(&ino) else {
            return;
        };
        node.names = 0;
        node.nlink = node.nlink.max(1);
        let kind = node.kind;
        if let Some(home) = node.home.take() {
            self.dropped.insert(home);
            self.additions.retain(|a| a.was != Some(home));
            self.count(home.0, kind, false);
        }
    }
}

/// Whether a newer version may be lost than that of the segments, and the journal does not put
/// another in its place.
fn is_stale(lost: &Lost, key: &Key, epoch: Option<Epoch>, replaced: bool) -> bool {
    !replaced && lost.newer(key, epoch).is_some()
}
