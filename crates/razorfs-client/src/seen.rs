//! What somebody else may remember of what is about to change.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use razorfs::library::Metadata;
use razorfs::{Dir, FileKind, Ino, Stale, Stat, Volume};

use crate::wire::Step;

/// The library follows no more symbolic links than that.
const SYMLINKS: u32 = 40;

/// A name in a directory.
type Name = (Ino, Box<[u8]>);

/// What was to be seen where something changes, before and after.
pub(crate) struct Seen<'a> {
    volume: &'a Volume,
    root: &'a Dir,
    /// It has changed by now.
    is_after: bool,
    /// What each name led to, if it was looked at before.
    names: BTreeMap<Name, Option<Option<Ino>>>,
    inodes: BTreeSet<Ino>,
    /// Names of files that are not the names that change.
    others: Vec<Name>,
}

impl<'a> Seen<'a> {
    pub(crate) fn new(volume: &'a Volume, root: &'a Dir) -> Self {
        Self {
            volume,
            root,
            is_after: false,
            names: BTreeMap::new(),
            inodes: BTreeSet::new(),
            others: Vec::new(),
        }
    }

    /// All of it, and the names of its files: for who is to hand over what he holds back of them.
    pub(crate) fn all(&self) -> Stale {
        Stale {
            names: self.others.clone(),
            inodes: self.inodes.iter().copied().collect(),
            ..Stale::default()
        }
    }

    /// It has changed: what is looked at from here on is what has come of it.
    pub(crate) const fn changed(&mut self) {
        self.is_after = true;
    }

    pub(crate) fn look_at(&mut self, step: &Step) {
        match step {
            Step::CreateDirAll(path) => {
                for path in path.ancestors() {
                    self.look(path);
                }
            }
            Step::RemoveDirAll(path) => self.below(path),
            Step::CreateDir(path)
            | Step::Write(path, _)
            | Step::RemoveFile(path)
            | Step::RemoveDir(path)
            | Step::Symlink(_, path)
            | Step::SetPermissions(path, _) => self.look(path),
            Step::Rename(one, other)
            | Step::RenameNew(one, other)
            | Step::Exchange(one, other)
            | Step::HardLink(one, other) => {
                self.look(one);
                self.look(other);
            }
        }
    }

    /// A name and what it leads to. Where nothing is, nobody remembers more than that. A link may
    /// lead to a name where something comes into being.
    pub(crate) fn look(&mut self, path: &Path) {
        // From the root, and without a slash at its end, which would follow a link.
        let mut path: PathBuf = Path::new("/").join(path).components().collect();
        for _ in 0..=SYMLINKS {
            self.name(&path);
            let Ok(found) = self.root.symlink_metadata(&path) else {
                return;
            };
            self.inode(&found);
            match self.root.read_link(&path) {
                Ok(target) if found.is_symlink() => {
                    path.pop();
                    path.push(target);
                }
                _ => return,
            }
        }
    }

    fn name(&mut self, path: &Path) {
        let (Some(name), Some(parent)) = (path.file_name(), path.parent()) else {
            return;
        };
        if let Ok(dir) = self.root.metadata(parent) {
            let (dir, name) = (dir.ino(), name.as_bytes());
            let there = match self.is_after {
                false => Some(self.at(dir, name).map(|stat| stat.ino)),
                true => None,
            };
            self.names.entry((dir, name.into())).or_insert(there);
            self.inodes.insert(dir);
        }
    }

    fn inode(&mut self, found: &Metadata) {
        // What a directory is called is let alone unless it changes: programs are in it.
        if self.inodes.insert(found.ino())
            && !found.is_dir()
            && let Ok(names) = self.volume.names_of(found.ino())
        {
            // One that comes by a link that led nowhere changes a directory that is on no path.
            self.inodes.extend(names.iter().map(|(dir, _)| *dir));
            self.others.extend(names);
        }
    }

    /// All that goes with a directory: some of it may have names elsewhere.
    fn below(&mut self, path: &Path) {
        self.look(path);
        // What a link leads to stays.
        let is_dir = |path: &Path| {
            let found = self.root.symlink_metadata(path);
            found.is_ok_and(|found| found.is_dir())
        };
        let mut dirs: Vec<PathBuf> = Vec::new();
        if is_dir(path) {
            dirs.push(path.to_path_buf());
        }
        while let Some(dir) = dirs.pop() {
            let Ok(found) = self.root.read_dir(&dir) else {
                continue;
            };
            for entry in found.flatten() {
                let path = dir.join(entry.file_name());
                self.look(&path);
                if entry.kind() == FileKind::Directory {
                    dirs.push(path);
                }
            }
        }
    }

    /// What a name leads to.
    fn at(&self, dir: Ino, name: &[u8]) -> Option<Stat> {
        self.volume.lookup(dir, name).ok()
    }

    /// What is to be forgotten, now that it has changed.
    pub(crate) fn stale(mut self) -> Stale {
        let names = std::mem::take(&mut self.names).into_iter();
        let is_other = |((dir, name), was): (Name, Option<Option<Ino>>)| {
            let is = self.at(dir, &name);
            let same = match (was, is) {
                (Some(was), is) => is.map(|is| is.ino) == was,
                // The way there has changed as well, and whoever is in the directory stays in it.
                (None, Some(is)) => is.kind() == FileKind::Directory,
                (None, None) => false,
            };
            (!same).then_some((dir, name))
        };
        let mut names: Vec<_> = names.filter_map(is_other).collect();
        names.extend(self.others);
        Stale {
            names,
            inodes: self.inodes.into_iter().collect(),
            ..Stale::default()
        }
    }
}
