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

/// A name, by its directory and cookie.
pub type Spot = (Ino, u64);

/// Names that were looked up, and those that were looked for in vain.
pub type Names = BTreeMap<Spot, Option<Box<[u8]>>>;

/// Adds paths to the findings about inodes, with one walk over the names.
pub fn name_findings(s: &mut Session<'_>, nodes: &Nodes, view: &View) {
    let home = |ino| nodes.get(&ino).map(|node| (node.parent, node.cookie));
    let mut wanted = Names::new();
    let about: Vec<Ino> = s.inodes_in_findings().collect();
    for ino in about {
        for spot in spots(&home, ino) {
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
    s.add_paths(&|ino| path_of(&home, &wanted, ino));
}

/// The names that make up the path of an inode, the last one first. `home` answers where an inode
/// is named.
pub fn spots(home: &dyn Fn(Ino) -> Option<Spot>, ino: Ino) -> Vec<Spot> {
    let mut spots = Vec::new();
    let mut at = ino;
    while at != Ino::ROOT && spots.len() < DEEP {
        let Some(spot) = home(at) else {
            break;
        };
        spots.push(spot);
        at = spot.0;
    }
    spots
}

/// The path of an inode, if all names in it are known.
pub fn path_of(home: &dyn Fn(Ino) -> Option<Spot>, names: &Names, ino: Ino) -> Option<String> {
    let mut path = String::new();
    for spot in spots(home, ino).iter().rev() {
        let name = names.get(spot)?.as_ref()?;
        path.push('/');
        path.push_str(&name.escape_ascii().to_string());
    }
    if path.is_empty() {
        return (ino == Ino::ROOT).then(|| "/".into());
    }
    Some(path)
}
