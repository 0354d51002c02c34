//! Files of an archive, put in their places in a tree: each is there as a whole or not at all, and
//! none leads out of the tree.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use razorfs::{FileKind, Time};

use crate::failure::{Failure, Result};
use crate::tree::{Meta, Tree, Xattr};

/// The attribute of a directory that others have from it.
const INHERITED: &str = "system.posix_acl_default";

/// Where files are put.
pub struct Placing<'a> {
    /// The tree.
    pub tree: &'a dyn Tree,
    /// What is put stands below this path of it.
    pub root: &'a Path,
    /// Called after each piece of data, and with true after each file; an error of it stops the
    /// work between two operations.
    pub step: &'a mut dyn FnMut(bool) -> Result<()>,
    directories: Vec<(PathBuf, Meta, Vec<Xattr>)>,
    /// Paths that are known to be directories, and no symbolic links.
    real: HashSet<PathBuf>,
    temporary: u64,
}

impl<'a> Placing<'a> {
    /// Below `root` in `tree`.
    pub fn new(
        tree: &'a dyn Tree,
        root: &'a Path,
        step: &'a mut dyn FnMut(bool) -> Result<()>,
    ) -> Self {
        Self {
            tree,
            root,
            step,
            directories: Vec::new(),
            real: HashSet::new(),
            temporary: 0,
        }
    }

    /// Where to make what shall be at `path`, below directories that are made if they are missing:
    /// at `path`, or under another name where something is there that it shall replace. `None`
    /// where nothing is to be made, as the directory is there.
    pub fn spot(&mut self, path: &Path, directory: bool) -> Result<Option<PathBuf>> {
        self.parents(path, true)?;
        let there = self.tree.find(path)?;
        if path == self.root || (directory && there.is_some_and(|there| there.is_dir())) {
            return Ok(None);
        }
        let Some(there) = there else {
            return Ok(Some(path.to_path_buf()));
        };
        if there.is_dir() || directory {
            let cause = "something of another kind is there";
            let remedy = "remove it, or unpack elsewhere";
            let shown = self.tree.shown(path);
            return Err(Failure::with("replace", shown, cause, remedy));
        }
        self.temporary += 1;
        let name = format!(".razorfs-{}-{}", std::process::id(), self.temporary);
        Ok(Some(path.with_file_name(name)))
    }

    /// What was made at `at` is whole: it takes its place.
    pub fn settle(&mut self, at: &Path, path: &Path) -> Result<()> {
        if at == path {
            return Ok(());
        }
        self.tree.rename(at, path)?;
        // Two names of one inode are not renamed over each other.
        if self.tree.find(at)?.is_some() {
            self.tree.remove(at, false)?;
        }
        Ok(())
    }

    /// A directory gets its times when nothing in it changes any more, and with them what its
    /// children would have from it. Other attributes are not kept for that long: a tar can have
    /// more of them than there is memory.
    pub fn dress_later(&mut self, path: PathBuf, meta: Meta, xattrs: Vec<Xattr>) -> Result<()> {
        let mut kept = Vec::new();
        for xattr in xattrs {
            if xattr.0 == INHERITED {
                kept.push(xattr);
            } else {
                self.tree.set_xattr(&path, &xattr)?;
            }
        }
        self.directories.push((path, meta, kept));
        Ok(())
    }

    /// Makes the missing directories above `path`, if `make`. None of them may be a symbolic link:
    /// a tar could otherwise lead us out of the tree.
    pub fn parents(&mut self, path: &Path, make: bool) -> Result<()> {
        let mut unknown = Vec::new();
        for dir in path.ancestors().skip(1) {
            if dir == self.root || self.real.contains(dir) || dir.as_os_str().is_empty() {
                break;
            }
            unknown.push(dir);
        }
        for dir in unknown.into_iter().rev() {
            if !make && self.tree.find(dir)?.is_none() {
                return Ok(());
            }
            make_directory(self.tree, dir)?;
            self.real.insert(dir.to_path_buf());
            (self.step)(false)?;
        }
        Ok(())
    }

    /// Everything is in its place. The times of directories come last, because filling them changes
    /// them; the deepest first. Their attributes too: what is created in a directory inherits its
    /// default access list.
    pub fn finish(mut self) -> Result<()> {
        while let Some((path, meta, xattrs)) = self.directories.pop() {
            if self.tree.find(&path)?.is_some_and(|there| there.is_dir()) {
                for xattr in &xattrs {
                    self.tree.set_xattr(&path, xattr)?;
                }
                self.tree.dress(&path, &meta)?;
            }
        }
        Ok(())
    }
}

/// Makes the directories above and at `path` that are missing.
pub fn make_parents(tree: &dyn Tree, path: &Path) -> Result<()> {
    let mut dirs: Vec<&Path> = path.ancestors().collect();
    dirs.pop();
    dirs.into_iter()
        .rev()
        .try_for_each(|dir| make_directory(tree, dir))
}

/// Makes a directory if it is missing.
fn make_directory(tree: &dyn Tree, dir: &Path) -> Result<()> {
    match tree.find(dir)? {
        Some(meta) if meta.is_dir() => Ok(()),
        Some(_) => {
            let (cause, remedy) = ("it is not a directory", "name another target");
            Err(Failure::with("write to", tree.shown(dir), cause, remedy))
        }
        None => {
            let now = Time::from_unix_nanos(crate::env().now());
            let mut meta = Meta::new(FileKind::Directory, 0o755);
            (meta.atime, meta.mtime) = (now, now);
            tree.make(dir, &meta, Path::new(""))?;
            tree.dress(dir, &meta)
        }
    }
}
