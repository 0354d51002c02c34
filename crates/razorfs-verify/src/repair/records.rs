//! Writes everything of the repaired volume but its data: names, attributes, links, inodes.

use std::collections::BTreeSet;

use razorfs_format::key::{Key, Tag};
use razorfs_format::record::{
    Dirent, FileKind, Inode, Orphan, Time, Xattr, inode_flags, name_cookie,
};
use razorfs_format::{Branch, Ino};

use super::names::Placed;
use super::older::Olders;
use super::report::{Lose, Outcome};
use super::source::Lost;
use super::tree::{Fate, Node, Tree, is_head};
use super::writer::Sink;
use crate::namespace::place_of;
use crate::session::Session;
use crate::view::View;

const HEAD: Branch = Branch::HEAD;

/// What inodes get whose records are lost.
#[derive(Clone, Copy)]
pub struct Made {
    pub uid: u32,
    pub gid: u32,
    pub now: Time,
}

/// Writes the extended attributes that have an owner.
pub fn write_xattrs(
    s: &mut Session<'_>,
    view: &View,
    tree: &mut Tree,
    (lost, olders): (&Lost, &Olders),
    out: &mut Outcome,
    sink: &mut dyn Sink,
) {
    s.progress("attributes", 0, 0);
    // Those of one inode: each name once, in the order of the new keys.
    let mut of = (Ino(0), Vec::<Xattr>::new());
    view.scan(s, Tag::Xattr, &mut |s, found| {
        let Some(value) = found.value().filter(|_| is_head(&found.key)) else {
            return;
        };
        let ino = found.key.ino();
        let stays = |node: &Node| node.fate != Fate::Gone;
        if !tree.nodes.get(&ino).is_some_and(stays) {
            out.fixed("attributes of nothing");
            return;
        }
        // Its removal is lost, if the inode has none.
        let unmarked = |node: &Node| !node.stale && node.flags & inode_flags::HAS_XATTR == 0;
        if tree.nodes.get(&ino).is_some_and(unmarked)
            && lost.newer(&found.key, found.epoch).is_some()
        {
            out.fixed("attributes that had been removed");
            return;
        }
        let Ok(xattr) = Xattr::decode(value, place_of()) else {
            out.fixed("records that cannot be understood");
            return;
        };
        if of.0 != ino {
            put_xattrs(s, tree, &mut of, sink);
            of.0 = ino;
        }
        if of.1.iter().any(|x| x.name == xattr.name) {
            out.fixed("attributes that were there twice");
        } else {
            of.1.push(xattr);
        }
    });
    put_xattrs(s, tree, &mut of, sink);
    for (ino, file) in &olders.files {
        of = (*ino, file.xattrs.clone());
        put_xattrs(s, tree, &mut of, sink);
    }
    for range in lost.of(Tag::Xattr) {
        for (ino, node) in tree.nodes.range(range.first.ino()..=range.last.ino()) {
            if node.flags & inode_flags::HAS_XATTR != 0 && node.fate != Fate::Gone {
                out.lose(Lose::Attributes, *ino);
            }
        }
    }
}

fn put_xattrs(
    s: &mut Session<'_>,
    tree: &mut Tree,
    of: &mut (Ino, Vec<Xattr>),
    sink: &mut dyn Sink,
) {
    let hash_key = tree.hash_key;
    let mut list: Vec<(u64, Xattr)> = std::mem::take(&mut of.1)
        .into_iter()
        .map(|x| (name_cookie(&hash_key, &x.name) >> 8, x))
        .collect();
    list.sort_by_key(|(hash, _)| *hash);
    let mut last = (0, 0u8);
    for (hash, xattr) in list {
        let number = if last.0 == hash {
            last.1.saturating_add(1)
        } else {
            0
        };
        if last == (hash, u8::MAX) {
            continue;
        }
        last = (hash, number);
        sink.put(s, Key::xattr(HEAD, of.0, hash, number), &xattr.to_bytes());
        if let Some(node) = tree.nodes.get_mut(&of.0) {
            node.has_xattrs = true;
        }
    }
}

/// Writes the names, and the lists of names of the files that have several.
pub fn write_names(
    s: &mut Session<'_>,
    view: &View,
    tree: &Tree,
    placed: Placed,
    sink: &mut dyn Sink,
) {
    s.progress("names", 0, 0);
    let mut coming = placed.into_iter().peekable();
    view.scan(s, Tag::Dirent, &mut |s, found| {
        let at = (found.key.ino(), found.key.second());
        let Some(value) = found.value().filter(|_| is_head(&found.key)) else {
            return;
        };
        if tree.dropped.contains(&at) {
            return;
        }
        let Ok(mut dirent) = Dirent::decode(value, place_of()) else {
            return;
        };
        while let Some((before, dirent)) = coming.next_if(|(other, _)| *other < at) {
            put_name(s, sink, before, &dirent);
        }
        if let Some(node) = tree.nodes.get(&dirent.ino) {
            dirent.kind = node.kind;
        }
        put_name(s, sink, at, &dirent);
    });
    for (at, dirent) in coming {
        put_name(s, sink, at, &dirent);
    }
    for (ino, dir, cookie) in &tree.links {
        sink.put(s, Key::link(HEAD, *ino, *dir, *cookie), &[]);
    }
}

fn put_name(s: &mut Session<'_>, sink: &mut dyn Sink, at: (Ino, u64), dirent: &Dirent) {
    sink.put(s, Key::dirent(HEAD, at.0, at.1), &dirent.to_bytes());
}

/// Writes the inodes, and counts them.
pub fn write_inodes(
    s: &mut Session<'_>,
    view: &View,
    tree: &Tree,
    (made, olders): (Made, &Olders),
    out: &mut Outcome,
    sink: &mut dyn Sink,
) {
    s.progress("inodes", 0, 0);
    let holed: BTreeSet<Ino> = out
        .losses
        .iter()
        .filter(|l| l.range.is_some())
        .map(|l| l.ino)
        .collect();
    let stays = |(ino, node): &(&Ino, &Node)| node.fate != Fate::Gone || **ino == Ino::ROOT;
    let mut nodes = tree.nodes.iter().filter(stays).peekable();
    let mut put = |s: &mut Session<'_>, ino: Ino, node: &Node, record: Option<Inode>| {
        let older = || olders.files.get(&ino).map(|file| file.record.clone());
        let record = record.or_else(older);
        let mut inode = record.unwrap_or_else(|| new_inode(ino, node, made));
        put_right(&mut inode, ino, node, tree.is_past, out);
        if holed.contains(&ino) && node.is_regular() {
            inode.flags |= inode_flags::SPARSE;
        }
        out.inodes += 1;
        if node.is_regular() {
            out.bytes = out.bytes.saturating_add(inode.size.into());
        }
        sink.put(s, Key::inode(HEAD, ino), &inode.to_bytes());
    };
    view.scan(s, Tag::Inode, &mut |s, found| {
        let Some(value) = found.value().filter(|_| is_head(&found.key)) else {
            return;
        };
        let Ok(inode) = Inode::decode(value, place_of()) else {
            return;
        };
        let at = found.key.ino();
        while let Some((ino, node)) = nodes.next_if(|(ino, _)| **ino < at) {
            put(s, *ino, node, None);
        }
        if let Some((ino, node)) = nodes.next_if(|(ino, _)| **ino == at) {
            // A record that a made-up inode takes the place of is of another kind.
            put(s, *ino, node, Some(inode).filter(|_| !node.made));
        }
    });
    for (ino, node) in nodes {
        put(s, *ino, node, None);
    }
}

/// Writes what a snapshot has of files without a name, and of unfinished truncations.
pub fn write_orphans(s: &mut Session<'_>, tree: &Tree, sink: &mut dyn Sink) {
    for (ino, node) in &tree.nodes {
        let orphan = match node.fate {
            Fate::Nameless => Some(Orphan::Reap),
            Fate::Gone => None,
            Fate::Named | Fate::Found => node.trimming(),
        };
        if let Some(orphan) = orphan {
            sink.put(s, Key::orphan(HEAD, *ino), &orphan.to_bytes());
        }
    }
}

/// What follows from the rest is what the rest says.
fn put_right(inode: &mut Inode, ino: Ino, node: &Node, is_past: bool, out: &mut Outcome) {
    let before = inode.clone();
    if is_past && node.stale && node.is_regular() {
        // What lies beyond an older size is not cut off, for a later moment may show it.
        inode.size = inode.size.max(node.size);
    }
    if node.fate == Fate::Nameless {
        if node.has_xattrs {
            inode.flags |= inode_flags::HAS_XATTR;
        }
        return;
    }
    inode.nlink = node.right_nlink();
    inode.entries = node.entries;
    inode.flags &= !(inode_flags::TRIMMING | inode_flags::HAS_XATTR);
    if node.has_xattrs {
        inode.flags |= inode_flags::HAS_XATTR;
    }
    if node.trimming().is_some() {
        inode.flags |= inode_flags::TRIMMING;
    }
    let home = if ino == Ino::ROOT { None } else { node.home };
    (inode.parent, inode.cookie) = home.unwrap_or((Ino::ROOT, 0));
    if node.made || node.older {
        return;
    }
    if inode.nlink != before.nlink {
        out.fixed("link counts");
    }
    if inode.entries != before.entries {
        out.fixed("entry counts");
    }
    if (inode.parent, inode.cookie) != (before.parent, before.cookie) {
        out.fixed("inodes that remembered another name");
    }
}

fn new_inode(ino: Ino, node: &Node, made: Made) -> Inode {
    let perm = match node.kind {
        FileKind::Directory if ino == Ino::ROOT => 0o755,
        FileKind::Directory => 0o700,
        _ => 0o600,
    };
    Inode {
        mode: node.kind.mode_bits() | perm,
        nlink: 1,
        uid: made.uid,
        gid: made.gid,
        rdev: 0,
        flags: if node.is_regular() {
            inode_flags::SPARSE
        } else {
            0
        },
        size: node.size,
        blocks: 0,
        atime: made.now,
        mtime: made.now,
        ctime: made.now,
        btime: made.now,
        parent: Ino::ROOT,
        cookie: 0,
        entries: 0,
        target: Box::new([]),
    }
}
