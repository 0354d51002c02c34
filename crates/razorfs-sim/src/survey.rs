//! Reads all of a volume that may be damaged: each answer is right, or refuses.

use std::collections::BTreeSet;

use razorfs::{Error, FileKind, Ino};

use crate::branches;
use crate::engine::{EngineFs, is_refusal};
use crate::looks::check_stat;
use crate::model::{Model, Node};
use crate::names;
use crate::points::Point;
use crate::subject::FileSystem;

/// Reads everything that `model` has, branches and snapshots among it; answers how many calls were
/// refused, or what was wrong.
pub(crate) fn survey(fs: &EngineFs, model: &Model) -> std::result::Result<u64, String> {
    let model = &model.at_home();
    let mut refused = survey_tree(fs, model)?;
    refused += survey_branches(fs, model)?;
    let (found, points) = (fs.snapshots(), model.points());
    let same = |(found, point): (&String, &Point)| point.name().is_none_or(|name| name == found);
    if found.len() != points.len() || !found.iter().zip(points).all(same) {
        let expected: Vec<_> = points.iter().map(Point::name).collect();
        return Err(format!("snapshots {found:?}, expected {expected:?}"));
    }
    for (name, point) in found.iter().zip(points) {
        let at = match fs.at_snapshot(name) {
            Ok(at) => at,
            Err(e) if is_refusal(&e) => {
                refused += 1;
                continue;
            }
            Err(e) => return Err(format!("snapshot {name}: answered \"{e}\"")),
        };
        let tree = survey_tree(&at, &point.state);
        refused += tree.map_err(|e| format!("snapshot {name}: {e}"))?;
    }
    Ok(refused)
}

fn survey_branches(fs: &EngineFs, model: &Model) -> std::result::Result<u64, String> {
    let mut refused = 0;
    let mut found = fs.branches();
    found.sort_unstable();
    let expected: Vec<String> = model.branches().into_iter().map(branches::name).collect();
    if found != expected {
        return Err(format!("branches {found:?}, expected {expected:?}"));
    }
    for n in model.branches() {
        let name = branches::name(n);
        match (fs.branch(&name), model.other(Some(n))) {
            (Ok(at), Some(state)) => {
                let tree = survey_tree(&at, state);
                refused += tree.map_err(|e| format!("branch {name}: {e}"))?;
            }
            (Err(e), _) if is_refusal(&e) => refused += 1,
            (Err(e), _) => return Err(format!("branch {name}: answered \"{e}\"")),
            (Ok(_), None) => return Err(format!("branch {name} is there")),
        }
    }
    Ok(refused)
}

fn survey_tree(fs: &EngineFs, model: &Model) -> std::result::Result<u64, String> {
    let mut refused = 0;
    for (ino, node) in model.nodes().filter(|(_, n)| n.nlink > 0) {
        let what = |e: String| format!("{} (inode {ino}): {e}", model.path_of(ino));
        let mut answer = |result: std::result::Result<(), Bad>| match result {
            Ok(()) => Ok(()),
            Err(Bad::Refused) => {
                refused += 1;
                Ok(())
            }
            Err(Bad::Wrong(e)) => Err(what(e)),
        };
        answer(
            fs.stat(ino)
                .map_err(bad)
                .and_then(|s| check_stat(&s, ino, node).map_err(Bad::Wrong)),
        )?;
        match node.kind {
            FileKind::Directory => {
                answer(list(fs, ino, node))?;
                for (name, child) in &node.entries {
                    let found = fs.lookup(ino, names::bytes(*name)).map_err(bad);
                    answer(found.and_then(|s| same(s.ino, *child, "another inode")))?;
                }
                answer(
                    fs.parent_of(ino)
                        .map_err(bad)
                        .and_then(|p| same(p, node.parent, "parent")),
                )?;
            }
            FileKind::Regular => {
                let mut at = 0;
                while at < node.size {
                    answer(read(fs, ino, node, at))?;
                    at += PIECE as u64;
                }
            }
            FileKind::Symlink => {
                let found = fs.read_link(ino).map_err(bad);
                answer(found.and_then(|t| same(&*t, &*node.target, "another target")))?;
            }
            _ => {}
        }
        answer(attributes(fs, ino, node))?;
    }
    Ok(refused)
}

pub(crate) const PIECE: usize = 16 * 1024;

#[derive(Debug)]
pub(crate) enum Bad {
    Refused,
    Wrong(String),
}

pub(crate) fn bad(error: Error) -> Bad {
    if is_refusal(&error) {
        Bad::Refused
    } else {
        Bad::Wrong(format!("answered \"{error}\""))
    }
}

fn same<T: PartialEq>(found: T, expected: T, what: &str) -> std::result::Result<(), Bad> {
    if found == expected {
        Ok(())
    } else {
        Err(Bad::Wrong(what.into()))
    }
}

pub(crate) fn list(fs: &EngineFs, ino: Ino, node: &Node) -> std::result::Result<(), Bad> {
    let found = fs.entries(ino, 0, usize::MAX).map_err(bad)?;
    let found: BTreeSet<_> = found.iter().map(|e| (names::id(&e.name), e.ino)).collect();
    let want: BTreeSet<_> = node.entries.iter().map(|(n, i)| (Some(*n), *i)).collect();
    same(found, want, "other entries")
}

pub(crate) fn read(fs: &EngineFs, ino: Ino, node: &Node, at: u64) -> std::result::Result<(), Bad> {
    let want = (node.size - at).min(PIECE as u64) as usize;
    let (mut found, mut expected) = (vec![0xee; want], vec![0; want]);
    let got = fs.read(ino, at, &mut found).map_err(bad)?;
    node.content.read(at, &mut expected);
    same(
        (got, found),
        (want, expected),
        &format!("wrong bytes in {at}+{want}"),
    )
}

pub(crate) fn attributes(fs: &EngineFs, ino: Ino, node: &Node) -> std::result::Result<(), Bad> {
    let found = fs.list_xattr(ino).map_err(bad)?;
    let found: BTreeSet<_> = found.iter().map(|n| names::xattr_id(n)).collect();
    let want: BTreeSet<_> = node.xattrs.keys().map(|n| Some(*n)).collect();
    same(found, want, "other attributes")?;
    for (name, value) in &node.xattrs {
        let found = fs.get_xattr(ino, &names::xattr(*name)).map_err(bad)?;
        same(&*found, &*value.bytes, "another attribute's value")?;
    }
    Ok(())
}
