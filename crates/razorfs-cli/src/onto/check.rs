//! What is in the way on the host.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::attributes::Wanted;
use super::{At, Item, Plan, Seen, Sides};
use crate::failure::Result;
use crate::signals;
use crate::tree::{HostTree, Tree};

/// Something that is in the way.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Clash {
    /// Where.
    pub path: PathBuf,
    /// What, in words.
    pub why: &'static str,
    /// Whether it stays in the way even if the branch is to be right.
    pub stays: bool,
}

/// What the host has that the branch did not begin with, and does not have now; and what is there
/// at each path.
pub fn check(sides: &Sides<'_>, plan: &Plan, host: &HostTree) -> Result<(BTreeSet<Clash>, Seen)> {
    let (mut clashes, mut seen) = (BTreeSet::new(), Seen::new());
    for (path, item) in plan {
        signals::check()?;
        let meta = match way(plan, host, path, item)? {
            Way::Open => host.find(path)?,
            Way::Missing => None,
            Way::Blocked(path) => {
                let (why, stays) = ("it is no directory on the host", true);
                clashes.insert(Clash { path, why, stays });
                continue;
            }
        };
        // Before its content is: what is written while that is read is found later.
        seen.insert(path.clone(), meta);
        let tree: &dyn Tree = host;
        let there = At { tree, path, meta };
        if there.meta.is_some_and(|meta| meta.is_dir()) && !item.becomes_dir() {
            strangers(plan, host, path, &mut clashes)?;
        }
        let side = |tree, meta| At { tree, path, meta };
        let is_known = there.is_like(&side(sides.after, item.after))?
            || there.is_like(&side(sides.before, item.before))?;
        if !is_known {
            let why = match there.meta {
                None => "the branch has changed it, and on the host it is gone",
                Some(_) => "on the host it is not what the branch began with",
            };
            let (path, stays) = (path.clone(), false);
            clashes.insert(Clash { path, why, stays });
        } else if let Some(after) = &item.after {
            let wanted = Wanted::find(sides, host, (path, item), (after, there.meta))?;
            let clash = |why| Clash {
                path: path.clone(),
                why,
                stays: false,
            };
            clashes.extend(wanted.clashes.into_iter().map(clash));
        }
    }
    Ok((clashes, seen))
}

/// Whether directories lead to a path.
enum Way {
    Open,
    /// They do not, and so nothing is there; they will where something is to be.
    Missing,
    /// This is none.
    Blocked(PathBuf),
}

fn way(plan: &Plan, host: &HostTree, path: &Path, item: &Item) -> Result<Way> {
    let mut at = PathBuf::new();
    for part in path.parent().unwrap_or(Path::new("")).components() {
        at.push(part);
        let there = host.find(&at)?;
        if there.is_some_and(|meta| meta.is_dir()) {
            continue;
        }
        let parent = plan.get(&at);
        let becomes_dir = parent.is_some_and(Item::becomes_dir);
        // Where nothing is to be, nothing has to be done; what is there instead is looked at by
        // itself, unless it is none of ours.
        let is_ours = there.is_none() || parent.is_some();
        return Ok(match becomes_dir || item.after.is_none() && is_ours {
            true => Way::Missing,
            false => Way::Blocked(at),
        });
    }
    Ok(Way::Open)
}

/// What is in a directory that is to go, and is not known.
fn strangers(
    plan: &Plan,
    host: &HostTree,
    dir: &Path,
    clashes: &mut BTreeSet<Clash>,
) -> Result<()> {
    for name in host.list(dir)? {
        let path = dir.join(name);
        if plan.get(&path).is_none_or(|item| item.after.is_some()) {
            clashes.insert(Clash {
                path,
                why: "the branch has removed the directory that it is in",
                stays: true,
            });
        }
    }
    Ok(())
}
