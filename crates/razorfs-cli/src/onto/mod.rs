//! What was changed in a branch, done in a directory of the host.
//!
//! Two states of the volume are compared, and each path that differs is one [`Item`]: what was
//! there before, and what is to be there. A file that was renamed is gone at one path and there at
//! another, so that no order of renames has to be found, and a run that was cut off is followed by
//! one that does the rest: what is there already is left as it is.
//!
//! [`check`] says what is in the way, [`work`] does it: new files under another name first, durable
//! before they are renamed over the old ones; what is to go goes last. What was changed on the host
//! since it was looked at is neither replaced nor removed. No symbolic link of the directory is
//! followed.

mod attributes;
mod check;
mod part;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use razorfs::FileKind;
use serde_json::Value;

use crate::failure::{Failure, Result};
use crate::signals;
use crate::tree::{Meta, Tree};

pub use check::{Clash, check};
pub use part::Parts;
pub use work::Work;

/// A path that differs.
#[derive(Clone, Copy, Debug)]
pub struct Item {
    /// What the branch began with.
    pub before: Option<Meta>,
    /// What it has now.
    pub after: Option<Meta>,
}

impl Item {
    /// Whether a directory is to be there.
    fn becomes_dir(&self) -> bool {
        self.after.is_some_and(|meta| meta.is_dir())
    }
}

/// What is to be done, by path: a directory comes before what is in it.
pub type Plan = BTreeMap<PathBuf, Item>;

/// What was seen on the host at the paths of a plan.
pub type Seen = BTreeMap<PathBuf, Option<Meta>>;

/// Why the work stopped.
#[derive(Debug)]
pub enum Stop {
    /// It cannot be done.
    Failed(Failure),
    /// Somebody has changed something since it was looked at.
    Clash(Clash),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// The two states, and where the newer one is to be.
pub struct Sides<'a> {
    /// What the branch began with.
    pub before: &'a dyn Tree,
    /// What it has now.
    pub after: &'a dyn Tree,
}

impl Sides<'_> {
    /// What is to be done, by the differences as `diff` tells them.
    pub fn plan(&self, changes: &[Value]) -> Result<Plan> {
        let mut paths = BTreeSet::new();
        for change in changes {
            let path = crate::diff::exact(change, "path").ok_or_else(odd)?;
            let is_dir = change.get("kind").and_then(Value::as_str) == Some("directory");
            if let Some(from) = crate::diff::exact(change, "from") {
                // What is in a directory that was renamed is not told.
                if is_dir {
                    below(self.before, &from, &mut paths)?;
                    below(self.after, &path, &mut paths)?;
                }
                paths.insert(from);
            }
            paths.insert(path);
        }
        let mut plan = self.items(paths)?;
        let more = self.other_names(&plan)?;
        plan.append(&mut self.items(more)?);
        Ok(plan)
    }

    fn items(&self, paths: BTreeSet<PathBuf>) -> Result<Plan> {
        let item = |path: PathBuf| {
            let item = Item {
                before: self.before.find(&path)?,
                after: self.after.find(&path)?,
            };
            Ok((path, item))
        };
        paths.into_iter().map(item).collect()
    }

    /// All names of the files that have several: a file that is replaced has none of them on the
    /// host, and only one of them is told.
    fn other_names(&self, plan: &Plan) -> Result<BTreeSet<PathBuf>> {
        let of = |item: &Item| item.after.filter(has_links).map(|meta| meta.ino);
        let wanted: BTreeSet<u64> = plan.values().filter_map(of).collect();
        let mut found = BTreeSet::new();
        if wanted.is_empty() {
            return Ok(found);
        }
        walk(self.after, Path::new(""), &mut |path, meta| {
            if has_links(meta) && wanted.contains(&meta.ino) && !plan.contains_key(path) {
                found.insert(path.to_path_buf());
            }
        })?;
        Ok(found)
    }
}

fn odd() -> Failure {
    Failure::new("the daemon's list of differences is not understood; is it older?")
}

fn has_links(meta: &Meta) -> bool {
    !meta.is_dir() && meta.nlink > 1
}

/// All paths below a directory.
fn below(tree: &dyn Tree, dir: &Path, paths: &mut BTreeSet<PathBuf>) -> Result<()> {
    walk(tree, dir, &mut |path, _| {
        paths.insert(path.to_path_buf());
    })
}

fn walk(tree: &dyn Tree, dir: &Path, each: &mut dyn FnMut(&Path, &Meta)) -> Result<()> {
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        signals::check()?;
        for name in tree.list(&dir)? {
            let path = dir.join(name);
            let meta = tree.meta(&path)?;
            each(&path, &meta);
            if meta.is_dir() {
                dirs.push(path);
            }
        }
    }
    Ok(())
}

/// Something at a path of a tree.
#[derive(Clone, Copy)]
struct At<'a> {
    tree: &'a dyn Tree,
    path: &'a Path,
    meta: Option<Meta>,
}

impl At<'_> {
    /// Whether both are of the same kind and have the same content.
    fn is_like(&self, other: &Self) -> Result<bool> {
        let (a, b) = match (self.meta, other.meta) {
            (None, None) => return Ok(true),
            (Some(a), Some(b)) if a.kind == b.kind => (a, b),
            _ => return Ok(false),
        };
        match a.kind {
            FileKind::Regular if a.size != b.size => Ok(false),
            FileKind::Regular => self.has_bytes_of(other),
            FileKind::Symlink => Ok(self.tree.target(self.path)? == other.tree.target(other.path)?),
            _ => Ok(a.rdev == b.rdev),
        }
    }

    fn has_bytes_of(&self, other: &Self) -> Result<bool> {
        use crate::tree::CHUNK;
        let (mut a, mut b) = (self.tree.read(self.path)?, other.tree.read(other.path)?);
        let (mut mine, mut theirs) = (vec![0; CHUNK], vec![0; CHUNK]);
        let failed = |e| Failure::host("read", self.tree.shown(self.path), &e);
        let mut at = 0;
        loop {
            signals::check()?;
            let gap = a.hole().map_err(failed)?.min(b.hole().map_err(failed)?);
            at += gap;
            a.go_to(at).map_err(failed)?;
            b.go_to(at).map_err(failed)?;
            if gap > 0 {
                continue;
            }
            let n = crate::tree::read_full(a.as_mut(), &mut mine).map_err(failed)?;
            let m = crate::tree::read_full(b.as_mut(), &mut theirs).map_err(failed)?;
            if mine.get(..n) != theirs.get(..m) {
                return Ok(false);
            }
            if n == 0 {
                return Ok(true);
            }
            at += n as u64;
        }
    }
}

#[cfg(test)]
mod onto_tests;
