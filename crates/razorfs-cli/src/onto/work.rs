//! Doing it.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use razorfs::FileKind;

use super::attributes::Wanted;
use super::part::Parts;
use super::{At, Clash, Item, Plan, Seen, Sides, Stop, has_links};
use crate::failure::Result;
use crate::progress::Progress;
use crate::signals;
use crate::tree::{HostTree, Meta, Tree};

type Done = std::result::Result<(), Stop>;

/// What is done in a directory of the host.
pub struct Work<'a> {
    /// The two states.
    pub sides: &'a Sides<'a>,
    /// What is to be done.
    pub plan: &'a Plan,
    /// The directory.
    pub host: &'a HostTree,
    /// What the check has seen there, and what was done since: of what is another by now nothing
    /// is replaced or removed.
    pub seen: Seen,
    /// What new files are called until they are complete.
    pub parts: &'a Parts,
    /// How far it is.
    pub progress: &'a mut Progress,
    /// Where files with several names are by now.
    pub links: HashMap<u64, PathBuf>,
    /// Files of the host with several names, as they are since we have changed them: what was seen
    /// at another of their names is older.
    pub dressed: HashMap<(u64, u64), Meta>,
    /// Directories whose names are not durable yet.
    pub unsynced: BTreeSet<PathBuf>,
}

impl Work<'_> {
    /// Does all of it. Whatever stops it, what is at each path is whole, and another run finishes.
    pub fn run(&mut self) -> Done {
        let plan = self.plan;
        let dirs = || plan.iter().filter(|(_, item)| item.becomes_dir());
        for (path, item) in dirs() {
            self.make_dir(path, item)?;
        }
        let leaves = plan.iter().filter_map(|(path, item)| {
            let meta = item.after.filter(|meta| !meta.is_dir())?;
            Some((path, item, meta))
        });
        let mut later = Vec::new();
        for (path, item, meta) in leaves {
            match self.seen(path) {
                Some(there) if there.is_dir() => later.push((path, item, meta)),
                _ => self.leaf(path, item, &meta)?,
            }
        }
        // What is new is durable before anything goes: some of it had another name.
        self.sync()?;
        for (path, item) in plan.iter().rev() {
            self.remove(path, item)?;
        }
        for (path, item, meta) in later {
            self.leaf(path, item, &meta)?;
        }
        for (path, item) in dirs().collect::<Vec<_>>().into_iter().rev() {
            if let Some(meta) = item.after {
                self.still(path)?;
                self.dress(path, item, &meta)?;
                self.unsynced.insert(path.clone());
            }
        }
        Ok(self.sync()?)
    }

    fn seen(&self, path: &Path) -> Option<Meta> {
        let seen = self.seen.get(path).copied().flatten()?;
        let dressed = self.dressed.get(&(seen.dev, seen.ino)).copied();
        Some(dressed.unwrap_or(seen))
    }

    /// What is at a path, which is what was there when it was looked at.
    fn still(&self, path: &Path) -> std::result::Result<Option<Meta>, Stop> {
        let there = self.host.find(path)?;
        match is_same(self.seen(path), there) {
            true => Ok(there),
            false => Err(changed(path, "it was changed on the host meanwhile")),
        }
    }

    /// What is at a path from now on.
    fn look(&mut self, path: &Path) -> Result<()> {
        let there = self.host.find(path)?;
        if let Some(meta) = there.filter(has_links) {
            self.dressed.insert((meta.dev, meta.ino), meta);
        }
        self.seen.insert(path.to_path_buf(), there);
        self.touched(path);
        Ok(())
    }

    /// Gives what was made beside a path its name.
    fn put(&mut self, beside: &Path, path: &Path, is_dir: bool) -> Done {
        if self.still(path)?.is_some() {
            self.host.rename(beside, path)?;
        } else if !self.host.rename_new(beside, path, is_dir)? {
            return Err(changed(path, "it was made on the host meanwhile"));
        }
        Ok(self.look(path)?)
    }

    /// Removes what is at a path.
    fn take_away(&mut self, path: &Path) -> Done {
        let there = self.still(path)?;
        let is_dir = there.is_some_and(|meta| meta.is_dir());
        if is_dir && let Some(name) = self.host.list(path)?.first() {
            let why = "it came meanwhile into a directory that the branch has removed";
            return Err(changed(&path.join(name), why));
        }
        self.host.remove(path, is_dir)?;
        Ok(self.look(path)?)
    }

    /// Makes something beside a path, and gives it its name.
    fn beside(
        &mut self,
        path: &Path,
        is_dir: bool,
        make: impl FnOnce(&mut Self, &Path) -> Result<()>,
    ) -> Done {
        let beside = path.with_file_name(self.parts.name());
        let made = make(self, &beside).map_err(Stop::Failed);
        made.and_then(|()| self.put(&beside, path, is_dir))
            .inspect_err(|_| {
                // What is reported is the first one.
                let _ = self.host.remove(&beside, is_dir);
            })
    }

    fn wanted(&self, path: &Path, item: &Item, meta: &Meta) -> Result<Wanted> {
        let there = self.host.find(path)?;
        Wanted::find(self.sides, self.host, (path, item), (meta, there))
    }

    fn sync(&mut self) -> Result<()> {
        for dir in std::mem::take(&mut self.unsynced) {
            // Of what is gone the directory above tells.
            if self.host.find(&dir)?.is_some() {
                self.host.sync_one(&dir)?;
            }
        }
        Ok(())
    }

    fn touched(&mut self, path: &Path) {
        let parent = path.parent().unwrap_or(Path::new(""));
        self.unsynced.insert(parent.to_path_buf());
    }

    fn make_dir(&mut self, path: &Path, item: &Item) -> Done {
        signals::check()?;
        let there = self.still(path)?;
        let Some(meta) = item
            .after
            .filter(|_| there.is_none_or(|meta| !meta.is_dir()))
        else {
            return Ok(());
        };
        if there.is_some() {
            self.take_away(path)?;
        }
        self.beside(path, true, |work, beside| {
            let wanted = work.wanted(path, item, &meta)?;
            work.host.make(beside, &meta, Path::new(""))?;
            work.host.set(beside, &wanted.of_new_dir())
        })
    }

    fn remove(&mut self, path: &Path, item: &Item) -> Done {
        signals::check()?;
        let Some(there) = self.seen(path) else {
            return Ok(());
        };
        let is_in_the_way = there.is_dir() && !item.becomes_dir();
        let goes = item.after.is_none() || is_in_the_way;
        // It is right if somebody else has removed it.
        if goes && self.host.find(path)?.is_some() {
            self.take_away(path)?;
        }
        Ok(())
    }

    /// Anything but a directory.
    fn leaf(&mut self, path: &Path, item: &Item, meta: &Meta) -> Done {
        signals::check()?;
        self.progress.item();
        let there = self.still(path)?;
        let first = self.links.get(&meta.ino).filter(|_| has_links(meta));
        if let Some(first) = first.cloned() {
            return self.link(&first, path, there);
        }
        if has_links(meta) {
            self.links.insert(meta.ino, path.to_path_buf());
        }
        let on_host = At {
            tree: self.host,
            path,
            meta: there,
        };
        let wanted = At {
            tree: self.sides.after,
            path,
            meta: Some(*meta),
        };
        if on_host.is_like(&wanted)? {
            self.still(path)?;
            self.dress(path, item, meta)?;
            return Ok(self.look(path)?);
        }
        self.beside(path, false, |work, beside| {
            work.make_leaf(path, beside, item, meta)
        })
    }

    fn make_leaf(&mut self, path: &Path, beside: &Path, item: &Item, meta: &Meta) -> Result<()> {
        let after = self.sides.after;
        match meta.kind {
            FileKind::Regular => {
                let mut data = after.read(path)?;
                let progress = &mut *self.progress;
                self.host.write(beside, meta, data.as_mut(), &mut |n| {
                    progress.add(n);
                    signals::check()
                })?;
            }
            FileKind::Symlink => {
                let target = after.target(path)?;
                self.host.make(beside, meta, Path::new(&target))?;
            }
            _ => self.host.make(beside, meta, Path::new(""))?,
        }
        if meta.kind == FileKind::Regular {
            // Before its permissions may forbid to open it.
            self.host.sync_one(beside)?;
        }
        let wanted = self.wanted(path, item, meta)?;
        self.host.set(beside, &wanted.all())
    }

    fn link(&mut self, first: &Path, path: &Path, there: Option<Meta>) -> Done {
        let one = self.host.meta(first)?;
        if there.is_some_and(|there| (there.dev, there.ino) == (one.dev, one.ino)) {
            return Ok(());
        }
        self.beside(path, false, |work, beside| work.host.link(first, beside))
    }

    /// Gives what is at a path the attributes that were changed in the branch.
    fn dress(&self, path: &Path, item: &Item, meta: &Meta) -> Result<()> {
        let wanted = self.wanted(path, item, meta)?;
        self.host.set(path, &wanted.changes())
    }
}

fn changed(path: &Path, why: &'static str) -> Stop {
    Stop::Clash(Clash {
        path: path.to_path_buf(),
        why,
        stays: true,
    })
}

/// Whether nobody has changed what was seen. The time of the last change tells it best, but is
/// another after each of our own changes to another name of the file, or to what is in a directory.
fn is_same(seen: Option<Meta>, there: Option<Meta>) -> bool {
    let (seen, there) = match (seen, there) {
        (None, None) => return true,
        (Some(seen), Some(there)) => (seen, there),
        _ => return false,
    };
    let file = |meta: &Meta| (meta.dev, meta.ino, meta.kind);
    let attributes = |meta: &Meta| (meta.mode, meta.uid, meta.gid);
    let content = |meta: &Meta| (meta.size, meta.mtime);
    let is_file = !seen.is_dir();
    file(&seen) == file(&there)
        && attributes(&seen) == attributes(&there)
        && !(is_file && content(&seen) != content(&there))
        && !(is_file && seen.nlink == 1 && seen.ctime != there.ctime)
}
