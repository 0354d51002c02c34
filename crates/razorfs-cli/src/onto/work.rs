//! Doing it.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use razorfs::FileKind;

use super::{At, Item, Plan, Sides, has_links};
use crate::failure::Result;
use crate::progress::Progress;
use crate::signals;
use crate::tree::{HostTree, Meta, Tree};

/// What a file is called until it is complete. Only one command works in a directory at a time, so
/// one that is there was left by another that has died.
const UNFINISHED: &str = ".razorfs-commit.part";

/// What is done in a directory of the host.
pub struct Work<'a> {
    /// The two states.
    pub sides: &'a Sides<'a>,
    /// What is to be done.
    pub plan: &'a Plan,
    /// The directory.
    pub host: &'a HostTree,
    /// How far it is.
    pub progress: &'a mut Progress,
    /// Where files with several names are by now.
    pub links: HashMap<u64, PathBuf>,
    /// Directories whose names are not durable yet.
    pub unsynced: BTreeSet<PathBuf>,
}

impl Work<'_> {
    /// Does all of it. Whatever stops it, what is at each path is whole, and another run finishes.
    pub fn run(&mut self) -> Result<()> {
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
            match self.host.find(path)? {
                Some(there) if there.is_dir() => later.push((path, item, meta)),
                there => self.leaf(path, item, &meta, there)?,
            }
        }
        // What is new is durable before anything goes: some of it had another name.
        self.sync()?;
        for (path, item) in plan.iter().rev() {
            self.remove(path, item)?;
        }
        for (path, item, meta) in later {
            let there = self.host.find(path)?;
            self.leaf(path, item, &meta, there)?;
        }
        for (path, item) in dirs().collect::<Vec<_>>().into_iter().rev() {
            if let Some(meta) = item.after {
                self.dress(path, item, &meta)?;
                self.unsynced.insert(path.clone());
            }
        }
        self.sync()
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

    fn make_dir(&mut self, path: &Path, item: &Item) -> Result<()> {
        signals::check()?;
        let there = self.host.find(path)?;
        if there.is_some_and(|meta| meta.is_dir()) {
            return Ok(());
        }
        if there.is_some() {
            self.host.remove(path, false)?;
        }
        if let Some(meta) = item.after {
            self.host.make(path, &meta, Path::new(""))?;
        }
        self.touched(path);
        Ok(())
    }

    fn remove(&mut self, path: &Path, item: &Item) -> Result<()> {
        signals::check()?;
        let Some(there) = self.host.find(path)? else {
            return Ok(());
        };
        let is_in_the_way = there.is_dir() && !item.becomes_dir();
        if item.after.is_none() || is_in_the_way {
            self.host.remove(path, there.is_dir())?;
            self.touched(path);
        }
        Ok(())
    }

    /// Anything but a directory.
    fn leaf(&mut self, path: &Path, item: &Item, meta: &Meta, there: Option<Meta>) -> Result<()> {
        signals::check()?;
        self.progress.item();
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
            return self.dress(path, item, meta);
        }
        let beside = self.beside(path)?;
        let made = self.make_leaf(path, &beside, item, meta);
        made.and_then(|()| self.host.rename(&beside, path))
            .inspect_err(|_| {
                // The failure that is reported is the first one.
                let _ = self.host.remove(&beside, false);
            })?;
        self.touched(path);
        Ok(())
    }

    /// Where a file is made, in the directory that it comes to. Nothing is there.
    fn beside(&self, path: &Path) -> Result<PathBuf> {
        let beside = path.with_file_name(UNFINISHED);
        if self.host.find(&beside)?.is_some() {
            self.host.remove(&beside, false)?;
        }
        Ok(beside)
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
        self.dress_as(path, beside, item, meta)
    }

    fn link(&mut self, first: &Path, path: &Path, there: Option<Meta>) -> Result<()> {
        let one = self.host.meta(first)?;
        if there.is_some_and(|there| (there.dev, there.ino) == (one.dev, one.ino)) {
            return Ok(());
        }
        let beside = self.beside(path)?;
        self.host.link(first, &beside)?;
        self.host.rename(&beside, path)?;
        self.touched(path);
        Ok(())
    }

    /// Gives what is at a path the attributes that it has in the branch.
    fn dress(&self, path: &Path, item: &Item, meta: &Meta) -> Result<()> {
        self.dress_as(path, path, item, meta)
    }

    fn dress_as(&self, path: &Path, at: &Path, item: &Item, meta: &Meta) -> Result<()> {
        let xattrs = self.sides.after.xattrs(path)?;
        if item.before.is_some() {
            // Those that only the host has stay.
            for (name, _) in self.sides.before.xattrs(path)? {
                if xattrs.iter().all(|(other, _)| *other != name) {
                    self.host.remove_xattr(at, &name)?;
                }
            }
        }
        for xattr in &xattrs {
            self.host.set_xattr(at, xattr)?;
        }
        self.host.dress(at, meta)
    }
}
