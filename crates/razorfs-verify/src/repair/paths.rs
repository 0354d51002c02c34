//! Where the files are, afterwards, of which something is lost.

use std::collections::BTreeMap;

use razorfs_format::Ino;
use razorfs_format::key::Tag;
use razorfs_format::record::Dirent;

use super::names::Placed;
use super::report::Outcome;
use super::tree::Tree;
use crate::namespace::place_of;
use crate::session::Session;
use crate::view::View;

/// Deepest directory that is named.
const DEEP: usize = 1024;

/// Adds their paths to the losses.
pub fn name_losses(
    s: &mut Session<'_>,
    view: &View,
    tree: &Tree,
    placed: &Placed,
    out: &mut Outcome,
) {
    let mut names: BTreeMap<(Ino, u64), Option<Box<[u8]>>> = BTreeMap::new();
    let dirs = out.entries.iter().map(|(_, dir, _)| *dir);
    for ino in out.losses.iter().map(|l| l.ino).chain(dirs) {
        for spot in spots(tree, ino) {
            let name = placed.get(&spot).map(|dirent| dirent.name.clone());
            names.entry(spot).or_insert(name);
        }
    }
    if names.values().any(Option::is_none) {
        s.progress("paths", 0, 0);
        view.scan(s, Tag::Dirent, &mut |_, found| {
            let spot = (found.key.ino(), found.key.second());
            if let (Some(name @ None), Some(value)) = (names.get_mut(&spot), found.value()) {
                *name = Dirent::decode(value, place_of()).ok().map(|d| d.name);
            }
        });
    }
    for loss in &mut out.losses {
        loss.path = path_of(tree, &names, loss.ino);
    }
    for (index, dir, name) in &out.entries {
        if let Some(loss) = out.losses.get_mut(*index) {
            let dir = path_of(tree, &names, *dir).unwrap_or_else(|| format!("(inode {dir})"));
            let dir = if dir == "/" { "" } else { &dir };
            loss.path = Some(format!("{dir}/{}", name.escape_ascii()));
        }
    }
}

/// The names that make up the path of an inode, the last one first.
fn spots(tree: &Tree, ino: Ino) -> Vec<(Ino, u64)> {
    let mut spots = Vec::new();
    let mut at = ino;
    while at != Ino::ROOT && spots.len() < DEEP {
        let Some(home) = tree.nodes.get(&at).and_then(|node| node.home) else {
            break;
        };
        spots.push(home);
        at = home.0;
    }
    spots
}

fn path_of(
    tree: &Tree,
    names: &BTreeMap<(Ino, u64), Option<Box<[u8]>>>,
    ino: Ino,
) -> Option<String> {
    let mut path = String::new();
    for spot in spots(tree, ino).iter().rev() {
        let name = names.get(spot)?.as_ref()?;
        path.push('/');
        path.push_str(&name.escape_ascii().to_string());
    }
    if path.is_empty() {
        return (ino == Ino::ROOT).then(|| "/".into());
    }
    Some(path)
}
