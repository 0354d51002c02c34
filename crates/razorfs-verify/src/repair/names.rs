//! Places for the names that come: in `lost+found`, and where an entry cannot stay where it is.

use std::collections::{BTreeMap, BTreeSet};

use razorfs_format::Ino;
use razorfs_format::key::Tag;
use razorfs_format::record::{Dirent, FileKind, NAME_MAX, name_cookie};

use super::older::Olders;
use super::report::Outcome;
use super::tree::{Addition, Fate, LOST_AND_FOUND, Node, Tree, is_head};
use crate::namespace::place_of;
use crate::session::Session;
use crate::view::View;

/// New entries, by directory and cookie.
pub type Placed = BTreeMap<(Ino, u64), Dirent>;

/// The names of one hash in a directory that are there already, by cookie.
type Taken = BTreeMap<(Ino, u64), Vec<(u64, Box<[u8]>)>>;

/// Gives inodes without a name one in `lost+found`, which is made with `next` if it is missing;
/// then finds places for all that come. Answers these, and whether `next` was taken.
pub fn place(
    s: &mut Session<'_>,
    view: &View,
    tree: &mut Tree,
    (olders, next): (&Olders, Ino),
    out: &mut Outcome,
) -> (Placed, bool) {
    let made = name_the_found(tree, olders, next);
    let hashes: BTreeSet<(Ino, u64)> = tree
        .additions
        .iter()
        .flat_map(|a| variants(a).map(|name| (a.dir, name_cookie(&tree.hash_key, &name) >> 8)))
        .collect();
    let mut taken = look(s, view, tree, &hashes);
    let mut placed = Placed::new();
    for addition in std::mem::take(&mut tree.additions) {
        let name = free_name(tree, &taken, &addition).unwrap_or_default();
        if name != addition.name {
            out.fixed("names that were there twice");
        }
        let hash = name_cookie(&tree.hash_key, &name) >> 8;
        let used = taken.entry((addition.dir, hash)).or_default();
        let number = (0..=255u64).find(|n| used.iter().all(|(c, _)| *c != hash << 8 | n));
        let cookie = number.filter(|_| !name.is_empty()).map(|n| hash << 8 | n);
        let Some(cookie) = cookie else {
            // Such names, or 256 of one hash of 55 bits, are there only if somebody made them so.
            unplaced(tree, &addition);
            out.lose_entry(addition.dir, &addition.name, addition.ino);
            continue;
        };
        used.push((cookie, name.clone()));
        settle(tree, &addition, cookie);
        let dirent = Dirent {
            ino: addition.ino,
            kind: addition.kind,
            name,
        };
        placed.insert((addition.dir, cookie), dirent);
    }
    (placed, made)
}

fn name_the_found(tree: &mut Tree, olders: &Olders, next: Ino) -> bool {
    let found: Vec<(Ino, FileKind)> = tree
        .nodes
        .iter()
        .filter(|(_, n)| n.fate == Fate::Found)
        .map(|(ino, n)| (*ino, n.kind))
        .collect();
    if found.is_empty() {
        return false;
    }
    let older = |ino: Ino| olders.files.get(&ino).map(|file| file.name.clone());
    let there = tree.lost_and_found.filter(|ino| {
        let node = tree.nodes.get(ino);
        node.is_some_and(|n| n.fate == Fate::Named)
    });
    let dir = there.unwrap_or(next);
    if there.is_none() {
        let mut node = Node::made(FileKind::Directory);
        node.stale = false;
        tree.nodes.insert(dir, node);
        add(
            tree,
            Ino::ROOT,
            LOST_AND_FOUND.into(),
            dir,
            FileKind::Directory,
        );
    }
    for (ino, kind) in found {
        let name = older(ino).unwrap_or_else(|| format!("#{ino}").into_bytes().into());
        add(tree, dir, name, ino, kind);
    }
    there.is_none()
}

fn add(tree: &mut Tree, dir: Ino, name: Box<[u8]>, ino: Ino, kind: FileKind) {
    tree.count(dir, kind, true);
    if let Some(node) = tree.nodes.get_mut(&ino) {
        node.names = 1;
        node.home = None;
    }
    tree.additions.push(Addition {
        dir,
        name,
        ino,
        kind,
        was: None,
    });
}

/// The entries that stay, of these hashes.
fn look(s: &mut Session<'_>, view: &View, tree: &Tree, hashes: &BTreeSet<(Ino, u64)>) -> Taken {
    let mut taken = Taken::new();
    if hashes.is_empty() || tree.rekey {
        return taken;
    }
    view.scan(s, Tag::Dirent, &mut |_, found| {
        let at = (found.key.ino(), found.key.second());
        let of = (at.0, at.1 >> 8);
        if !is_head(&found.key) || !hashes.contains(&of) || tree.dropped.contains(&at) {
            return;
        }
        if let Some(dirent) = found
            .value()
            .and_then(|v| Dirent::decode(v, place_of()).ok())
        {
            taken.entry(of).or_default().push((at.1, dirent.name));
        }
    });
    taken
}

/// The names that an addition may get: its own, or, if that is there, one with the number of the
/// inode. More than that nobody needs who has not made such names on purpose.
fn variants(addition: &Addition) -> impl Iterator<Item = Box<[u8]>> {
    (0..4u32).map(|tries| {
        let tail = match tries {
            0 => String::new(),
            1 => format!(".#{}", addition.ino),
            n => format!(".#{}.{n}", addition.ino),
        };
        let keep = addition.name.len().min(NAME_MAX.saturating_sub(tail.len()));
        let mut name = addition.name.get(..keep).unwrap_or_default().to_vec();
        name.extend_from_slice(tail.as_bytes());
        name.into()
    })
}

fn free_name(tree: &Tree, taken: &Taken, addition: &Addition) -> Option<Box<[u8]>> {
    variants(addition).find(|name| {
        let hash = name_cookie(&tree.hash_key, name) >> 8;
        let used = taken.get(&(addition.dir, hash));
        used.is_none_or(|used| used.iter().all(|(_, n)| n != name))
    })
}

/// There is no place: the name goes, and a file without any other one with it.
fn unplaced(tree: &mut Tree, addition: &Addition) {
    tree.count(addition.dir, addition.kind, false);
    if let Some((dir, old)) = addition.was {
        tree.links.remove(&(addition.ino, dir, old));
    }
    let links = tree
        .links
        .range((addition.ino, Ino(0), 0)..)
        .next()
        .copied();
    let Some(node) = tree.nodes.get_mut(&addition.ino) else {
        return;
    };
    node.names = node.names.saturating_sub(1);
    if node.home == addition.was {
        let other = links.filter(|(ino, _, _)| *ino == addition.ino);
        node.home = other.map(|(_, dir, cookie)| (dir, cookie));
    }
    if node.names == 0 {
        node.fate = Fate::Gone;
    }
    if node.names == 1 {
        let only: Vec<_> = tree
            .links
            .iter()
            .filter(|l| l.0 == addition.ino)
            .copied()
            .collect();
        for link in only {
            tree.links.remove(&link);
        }
    }
}

/// The inode learns where its name stands now.
fn settle(tree: &mut Tree, addition: &Addition, cookie: u64) {
    let now = (addition.dir, cookie);
    if let Some(node) = tree.nodes.get_mut(&addition.ino)
        && (node.home.is_none() || node.home == addition.was)
    {
        node.home = Some(now);
    }
    if let Some((dir, old)) = addition.was
        && tree.links.remove(&(addition.ino, dir, old))
    {
        tree.links.insert((addition.ino, now.0, now.1));
    }
}
