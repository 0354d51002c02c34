//! Where the files are, afterwards, of which something is lost.

use razorfs_format::key::Tag;
use razorfs_format::record::Dirent;

use super::names::Placed;
use super::report::Outcome;
use super::tree::Tree;
use crate::namespace::place_of;
use crate::paths::{Names, path_of, spots};
use crate::session::Session;
use crate::view::View;

/// Adds their paths to the losses.
pub fn name_losses(
    s: &mut Session<'_>,
    view: &View,
    tree: &Tree,
    placed: &Placed,
    out: &mut Outcome,
) {
    let home = |ino| tree.nodes.get(&ino).and_then(|node| node.home);
    let mut names = Names::new();
    let dirs = out.entries.iter().map(|(_, dir, _)| *dir);
    let olders = out.olders.iter().flat_map(|o| [o.ino, o.shown_by]);
    for ino in out.losses.iter().map(|l| l.ino).chain(dirs).chain(olders) {
        for spot in spots(&home, ino) {
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
        loss.path = path_of(&home, &names, loss.ino);
    }
    for older in &mut out.olders {
        older.path = path_of(&home, &names, older.ino);
        older.shown_at = path_of(&home, &names, older.shown_by);
    }
    for (index, dir, name) in &out.entries {
        if let Some(loss) = out.losses.get_mut(*index) {
            let dir = path_of(&home, &names, *dir).unwrap_or_else(|| format!("(inode {dir})"));
            let dir = if dir == "/" { "" } else { &dir };
            loss.path = Some(format!("{dir}/{}", name.escape_ascii()));
        }
    }
}
