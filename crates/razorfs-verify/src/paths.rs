//! Paths for the inodes that findings are about.

use std::collections::BTreeMap;

use razorfs_format::Ino;
use razorfs_format::key::Tag;
use razorfs_format::record::Dirent;

use crate::namespace::{Nodes, place_of};
use crate::session::Session;
use crate::view::View;

/// Deepest directory that is named, and most names that are looked up.
const DEEP: usize = 1024;
const WANTED_MAX: usize = 200_000;

/// Adds paths to the findings about inodes, with one walk over the names.
pub fn name_findings(s: &mut Session<'_>, nodes: &Nodes, view: &View) {
    let mut wanted: BTreeMap<(Ino, u64), Option<Box<[u8]>>> = BTreeMap::new();
    let about: Vec<Ino> = s.inodes_in_findings().collect();
    for ino in about {
        for spot in spots(nodes, ino) {
            if wanted.len() < WANTED_MAX {
                wanted.entry(spot).or_default();
            }
        }
    }
    if wanted.is_empty() {
        return;
    }
    s.progress("paths", 0, 0);
    view.scan(s, Tag::Dirent, &mut |_, found| {
        let spot = (found.key.ino(), found.key.second());
        if let (Some(name), Some(value)) = (wanted.get_mut(&spot), found.value()) {
            *name = Dirent::decode(value, place_of()).ok().map(|d| d.name);
        }
    });
    s.add_paths(&|ino| path_of(nodes, &wanted, ino));
}

/// The names that make up the path of an inode, the last one first.
fn spots(nodes: &Nodes, ino: Ino) -> Vec<(Ino, u64)> {
    let mut spots = Vec::new();
    let mut at = ino;
    while at != Ino::ROOT && spots.len() < DEEP {
        let Some(node) = nodes.get(&at) else {
            break;
        };
        spots.push((node.parent, node.cookie));
        at = node.parent;
    }
    spots
}

fn path_of(
    nodes: &Nodes,
    names: &BTreeMap<(Ino, u64), Option<Box<[u8]>>>,
    ino: Ino,
) -> Option<String> {
    let mut path = String::new();
    for spot in spots(nodes, ino).iter().rev() {
        let name = names.get(spot)?.as_ref()?;
        path.push('/');
        path.push_str(&name.escape_ascii().to_string());
    }
    if path.is_empty() {
        return (ino == Ino::ROOT).then(|| "/".into());
    }
    Some(path)
}
