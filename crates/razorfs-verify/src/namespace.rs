//! Level 2: inodes, names, links, orphans, attributes. Data are [`crate::extents`]'s.

use std::collections::{BTreeMap, BTreeSet};

use razorfs_format::key::{Key, Tag};
use razorfs_format::layout::FileName;
use razorfs_format::record::{Dirent, FileKind, Inode, Orphan, Xattr, inode_flags, name_cookie};
use razorfs_format::{Branch, Ino, Place};

use crate::FindingKind as K;
use crate::roots::Roots;
use crate::session::Session;
use crate::view::{Found, View};

/// What is known of an inode: what its record says, and what was found.
pub struct Node {
    pub kind: FileKind,
    pub flags: u32,
    pub nlink: u32,
    pub size: u64,
    pub parent: Ino,
    pub cookie: u64,
    entries: u64,
    names: u32,
    subdirs: u32,
    found_entries: u64,
    has_home: bool,
    has_xattrs: bool,
    pub orphan: Option<Orphan>,
    reach: Reach,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Unknown,
    OnTheWay,
    Yes,
    No,
}

impl Node {
    fn new(inode: &Inode) -> Self {
        Self {
            kind: inode.kind(),
            flags: inode.flags,
            nlink: inode.nlink,
            size: inode.size,
            parent: inode.parent,
            cookie: inode.cookie,
            entries: inode.entries,
            names: 0,
            subdirs: 0,
            found_entries: 0,
            has_home: false,
            has_xattrs: false,
            orphan: None,
            reach: Reach::Unknown,
        }
    }

    const fn is_dir(&self) -> bool {
        matches!(self.kind, FileKind::Directory)
    }
}

/// All inodes.
pub type Nodes = BTreeMap<Ino, Node>;

/// Where a record stands, for decoders: replayed ones have no place of their own.
pub const fn place_of() -> Place {
    Place::new(FileName::Journal(0), 0)
}

/// A record that cannot be understood.
pub fn unreadable(s: &mut Session<'_>, key: &Key, error: &razorfs_format::FormatError) {
    let detail = format!(
        "{}: expected {}, got {}",
        error.0.what, error.0.expected, error.0.got
    );
    s.find(K::RecordUnreadable, format!("record {key:?}"), detail);
    s.incomplete = true;
}

struct Check<'v> {
    view: &'v View,
    hash_key: [u8; 16],
    nodes: Nodes,
    /// Names of files with several: inode, directory, cookie.
    names: BTreeSet<(Ino, Ino, u64)>,
    other_branches: u64,
}

/// Checks everything but data; answers the inodes.
pub fn check(s: &mut Session<'_>, roots: &Roots, view: &View) -> Nodes {
    let mut check = Check {
        view,
        hash_key: roots.superblock.hash_key,
        nodes: Nodes::new(),
        names: BTreeSet::new(),
        other_branches: 0,
    };
    if s.incomplete {
        s.find(
            K::NamespaceIncomplete,
            "name space",
            "metadata could not be read",
        );
    }
    s.progress("inodes", 0, 0);
    check.inodes(s);
    check.orphans(s);
    s.progress("names", 0, 0);
    check.dirents(s);
    check.links(s);
    s.progress("attributes", 0, 0);
    check.xattrs(s);
    s.progress("tree", 0, 0);
    check.reach(s);
    check.settle(s);
    check.counters(s);
    if check.other_branches > 0 {
        s.find(
            K::OtherBranch,
            "name space",
            format!("{} records", check.other_branches),
        );
    }
    check.nodes
}

/// What is done with a record of a table.
type Each<'f, C> = dyn FnMut(&mut C, &mut Session<'_>, &Key, &[u8]) + 'f;

impl Check<'_> {
    /// Calls `each` with the records of a table that are there.
    fn scan(&mut self, s: &mut Session<'_>, tag: Tag, each: &mut Each<'_, Self>) {
        let view = self.view;
        view.scan(s, tag, &mut |s, found: Found<'_>| {
            let Some(value) = found.value() else {
                return;
            };
            if found.key.branch() == Branch::HEAD {
                each(self, s, &found.key, value);
            } else {
                self.other_branches += 1;
            }
        });
    }

    fn inodes(&mut self, s: &mut Session<'_>) {
        self.scan(s, Tag::Inode, &mut |this, s, key, value| {
            s.checked.inodes += 1;
            match Inode::decode(value, place_of()) {
                Ok(inode) => {
                    this.nodes.insert(key.ino(), Node::new(&inode));
                }
                Err(e) => unreadable(s, key, &e),
            }
        });
    }

    fn orphans(&mut self, s: &mut Session<'_>) {
        self.scan(s, Tag::Orphan, &mut |this, s, key, value| match (
            Orphan::decode(value, place_of()),
            this.nodes.get_mut(&key.ino()),
        ) {
            (Ok(orphan), Some(node)) => node.orphan = Some(orphan),
            (Ok(orphan), None) => {
                let detail = format!("{orphan:?}, but there is no inode");
                s.find_ino(K::OrphanWrong, key.ino(), "", detail);
            }
            (Err(e), _) => unreadable(s, key, &e),
        });
    }

    fn dirents(&mut self, s: &mut Session<'_>) {
        // The names of one directory with one hash: the only ones that can be alike.
        let mut alike: (Ino, u64, Vec<Box<[u8]>>) = (Ino(0), 0, Vec::new());
        self.scan(s, Tag::Dirent, &mut |this, s, key, value| {
            s.checked.dirents += 1;
            let dirent = match Dirent::decode(value, place_of()) {
                Ok(dirent) => dirent,
                Err(e) => return unreadable(s, key, &e),
            };
            let (dir, cookie) = (key.ino(), key.second());
            let part = format!(" entry {:?}", dirent.name.escape_ascii().to_string());
            let hash = name_cookie(&this.hash_key, &dirent.name) >> 8;
            if cookie >> 8 != hash {
                let detail = format!("expected a cookie of hash {hash:#x}, got {cookie:#x}");
                s.find_ino(K::DirentCookie, dir, &part, detail);
            }
            if (alike.0, alike.1) != (dir, cookie >> 8) {
                alike = (dir, cookie >> 8, Vec::new());
            }
            if alike.2.contains(&dirent.name) {
                s.find_ino(
                    K::DuplicateName,
                    dir,
                    &part,
                    format!("again at {cookie:#x}"),
                );
            }
            this.dirent(s, dir, cookie, &dirent, &part);
            alike.2.push(dirent.name);
        });
    }

    fn dirent(&mut self, s: &mut Session<'_>, dir: Ino, cookie: u64, dirent: &Dirent, part: &str) {
        match self.nodes.get_mut(&dir) {
            Some(node) if node.is_dir() => {
                node.found_entries += 1;
                node.subdirs += u32::from(dirent.kind == FileKind::Directory);
            }
            other => {
                let got = other.map_or("nothing".into(), |node| format!("{:?}", node.kind));
                s.find_ino(
                    K::DirentHomeless,
                    dir,
                    part,
                    format!("expected a directory, got {got}"),
                );
            }
        }
        let Some(node) = self.nodes.get_mut(&dirent.ino) else {
            s.find_ino(
                K::DirentDangling,
                dir,
                part,
                format!("there is no inode {}", dirent.ino),
            );
            return;
        };
        if node.kind != dirent.kind {
            let detail = format!(
                "the entry says {:?}, inode {} is {:?}",
                dirent.kind, dirent.ino, node.kind
            );
            s.find_ino(K::DirentKind, dir, part, detail);
        }
        node.names = node.names.saturating_add(1);
        node.has_home |= (node.parent, node.cookie) == (dir, cookie);
        if node.nlink > 1 && !node.is_dir() {
            self.names.insert((dirent.ino, dir, cookie));
        }
    }

    fn links(&mut self, s: &mut Session<'_>) {
        self.scan(s, Tag::Link, &mut |this, s, key, value| {
            let name = (key.ino(), Ino(key.second()), key.link_cookie());
            if !this.names.remove(&name) || !value.is_empty() {
                let detail = format!(
                    "there is no name of it in inode {} at {:#x}, or no other one",
                    name.1, name.2
                );
                s.find_ino(K::LinkRecords, name.0, "", detail);
            }
        });
        for (ino, dir, cookie) in std::mem::take(&mut self.names) {
            let detail = format!("its name in inode {dir} at {cookie:#x} is not listed");
            s.find_ino(K::LinkRecords, ino, "", detail);
        }
    }

    fn xattrs(&mut self, s: &mut Session<'_>) {
        let mut alike: (Ino, u64, Vec<Box<[u8]>>) = (Ino(0), 0, Vec::new());
        self.scan(s, Tag::Xattr, &mut |this, s, key, value| {
            let (ino, hash) = (key.ino(), key.second());
            let name = match Xattr::decode(value, place_of()) {
                Ok(xattr) => xattr.name,
                Err(e) => return unreadable(s, key, &e),
            };
            let part = format!(" attribute {:?}", name.escape_ascii().to_string());
            match this.nodes.get_mut(&ino) {
                Some(node) => node.has_xattrs = true,
                None => s.find_ino(K::XattrOwner, ino, &part, "there is no such inode"),
            }
            let right = name_cookie(&this.hash_key, &name) >> 8;
            if right != hash {
                let detail = format!("expected hash {right:#x}, got {hash:#x}");
                s.find_ino(K::XattrKey, ino, &part, detail);
            }
            if (alike.0, alike.1) != (ino, hash) {
                alike = (ino, hash, Vec::new());
            }
            if alike.2.contains(&name) {
                s.find_ino(K::XattrKey, ino, &part, "it is there twice");
            }
            alike.2.push(name);
        });
    }

    /// Which directories the root is above of.
    fn reach(&mut self, s: &mut Session<'_>) {
        match self.nodes.get_mut(&Ino::ROOT) {
            Some(root) if root.is_dir() => root.reach = Reach::Yes,
            _ => {
                s.find(K::RootMissing, "inode 1", "there is no such directory");
            }
        }
        let dirs: Vec<Ino> = self
            .nodes
            .iter()
            .filter(|(_, n)| n.is_dir())
            .map(|(i, _)| *i)
            .collect();
        for dir in dirs {
            let mut path = Vec::new();
            let mut at = dir;
            let verdict = loop {
                match self.nodes.get_mut(&at) {
                    Some(node) if node.is_dir() => match node.reach {
                        Reach::Unknown => {
                            node.reach = Reach::OnTheWay;
                            path.push(at);
                            at = node.parent;
                        }
                        // A circle.
                        Reach::OnTheWay => break Reach::No,
                        known => break known,
                    },
                    _ => break Reach::No,
                }
            };
            for ino in path {
                if let Some(node) = self.nodes.get_mut(&ino) {
                    node.reach = verdict;
                }
            }
        }
    }

    /// What each inode says against what was found.
    fn settle(&self, s: &mut Session<'_>) {
        for (ino, node) in &self.nodes {
            match node.nlink {
                _ if self.view.is_part => {}
                0 => nameless(s, *ino, node),
                _ => named(s, *ino, node),
            }
            if node.found_entries != node.entries {
                let detail = format!("expected {}, got {}", node.found_entries, node.entries);
                s.find_ino(K::EntryCount, *ino, "", detail);
            }
            let flag = node.flags & inode_flags::HAS_XATTR != 0;
            // An inode that is being removed may have lost its attributes already, and where a
            // merge has got half way its record comes before them, or after.
            let may_differ = self.view.is_part || (node.nlink == 0 && flag);
            if flag != node.has_xattrs && !may_differ {
                let detail = format!("marked: {flag}, found: {}", node.has_xattrs);
                s.find_ino(K::XattrFlag, *ino, "", detail);
            }
            let trimming = node.flags & inode_flags::TRIMMING != 0;
            let wrong = match node.orphan {
                None => trimming,
                Some(Orphan::Trim { .. }) => !trimming,
                Some(Orphan::Reap) => node.nlink > 0,
            };
            if wrong {
                let detail = format!(
                    "{} names, marked as being truncated: {trimming}, {:?}",
                    node.nlink, node.orphan
                );
                s.find_ino(K::OrphanWrong, *ino, "", detail);
            }
        }
    }

    fn counters(&self, s: &mut Session<'_>) {
        let says = &self.view.counters;
        let inodes = self.nodes.len() as u64;
        if says.inodes != inodes {
            let detail = format!("expected {inodes}, got {}", says.inodes);
            s.find(K::CounterInodes, "counters", detail);
        }
        let regular = self.nodes.values().filter(|n| n.kind == FileKind::Regular);
        let bytes = regular.fold(0, |sum: u128, n| sum.saturating_add(n.size.into()));
        if says.bytes != bytes {
            let detail = format!("expected {bytes}, got {}", says.bytes);
            s.find(K::CounterBytes, "counters", detail);
        }
        if let Some((last, _)) = self.nodes.last_key_value()
            && *last >= says.next_ino
        {
            let detail = format!("the next to be given out is {}", says.next_ino);
            s.find_ino(K::CounterNextIno, *last, "", detail);
        }
    }
}

fn nameless(s: &mut Session<'_>, ino: Ino, node: &Node) {
    if node.names > 0 {
        let detail = format!("expected {}, got 0", node.names);
        s.find_ino(K::LinkCount, ino, "", detail);
    } else if node.orphan != Some(Orphan::Reap) {
        s.find_ino(K::Nameless, ino, "", format!("{:?}", node.orphan));
    }
}

fn named(s: &mut Session<'_>, ino: Ino, node: &Node) {
    let root = ino == Ino::ROOT;
    let (expected, names) = match node.is_dir() {
        true => (node.subdirs.saturating_add(2), u32::from(!root)),
        false => (node.names, node.names),
    };
    if node.nlink != expected {
        let detail = format!("expected {expected}, got {}", node.nlink);
        s.find_ino(K::LinkCount, ino, "", detail);
    }
    if node.names > names {
        s.find_ino(
            K::DirectoryNames,
            ino,
            "",
            format!("expected {names}, got {}", node.names),
        );
    }
    let home = match root {
        true => (node.parent, node.cookie) == (Ino::ROOT, 0),
        false => node.has_home,
    };
    if !home {
        let detail = format!("no name in inode {} at {:#x}", node.parent, node.cookie);
        s.find_ino(K::InodeHome, ino, "", detail);
    }
    if node.is_dir() && node.reach != Reach::Yes {
        s.find_ino(
            K::Unreachable,
            ino,
            "",
            format!("its parent is inode {}", node.parent),
        );
    }
}
