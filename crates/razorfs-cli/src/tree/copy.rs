//! Copying from one tree to another.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use razorfs::{FileKind, Time};

use super::{Meta, Source, Tree};
use crate::failure::{Failure, Result};
use crate::progress::Progress;
use crate::signals;

/// How to copy.
#[derive(Clone, Copy, Debug)]
pub struct CopyOptions {
    /// Owner, times, special permission bits, extended attributes and hard links as they are; else
    /// a copy belongs to who makes it, now.
    pub preserve: bool,
    /// Directories with what is in them.
    pub recursive: bool,
}

/// A copy under way. A file appears under its name when it is complete, or is removed again.
pub struct Copy<'a> {
    from: &'a dyn Tree,
    to: &'a dyn Tree,
    options: CopyOptions,
    progress: &'a mut Progress,
    /// Where the inodes with several names have been copied to.
    links: HashMap<(u64, u64), PathBuf>,
    umask: u32,
    now: Time,
    temporary: u64,
}

/// A directory that is being copied.
struct Open {
    from: PathBuf,
    to: PathBuf,
    meta: Meta,
    names: std::vec::IntoIter<OsString>,
}

impl<'a> Copy<'a> {
    /// A copy from one tree to the other.
    pub fn new(
        from: &'a dyn Tree,
        to: &'a dyn Tree,
        options: CopyOptions,
        progress: &'a mut Progress,
    ) -> Self {
        let umask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        rustix::process::umask(umask);
        Self {
            from,
            to,
            options,
            progress,
            links: HashMap::new(),
            umask: umask.as_raw_mode(),
            now: Time::from_unix_nanos(crate::env().now()),
            temporary: 0,
        }
    }

    /// Copies what is at `from` to `to`. A directory that is there is merged with; what else is
    /// there is replaced.
    pub fn run(&mut self, from: &Path, to: &Path) -> Result<()> {
        // A stack of our own: how deep a tree is must not matter.
        let mut stack = Vec::new();
        if let Some(open) = self.one(from, to)? {
            stack.push(open);
        }
        while let Some(mut open) = stack.pop() {
            match open.names.next() {
                Some(name) => {
                    let (from, to) = (open.from.join(&name), open.to.join(&name));
                    stack.push(open);
                    if let Some(open) = self.one(&from, &to)? {
                        stack.push(open);
                    }
                }
                // Last, because filling a directory changes its time and may need permission.
                None => self.close(&open)?,
            }
        }
        Ok(())
    }

    /// Copies one thing; a directory is created and returned.
    fn one(&mut self, from: &Path, to: &Path) -> Result<Option<Open>> {
        signals::check()?;
        let source = self.from.meta(from)?;
        let meta = self.meta_of(&source);
        let there = self.to.find(to)?;
        if let Some(there) = there
            && (there.is_dir() != source.is_dir())
        {
            let (cause, remedy) = if there.is_dir() {
                (
                    "it is a directory",
                    "remove it first, or name another target",
                )
            } else {
                (
                    "it is not a directory",
                    "remove it first, or name another target",
                )
            };
            return Err(Failure::with("replace", self.to.shown(to), cause, remedy));
        }
        if source.is_dir() {
            return self.directory(from, to, &meta, there.is_some()).map(Some);
        }
        self.progress.item();
        let key = (source.dev, source.ino);
        if self.options.preserve && source.nlink > 1 {
            if let Some(first) = self.links.get(&key).cloned() {
                return self.place(to, there, |copy, at| copy.to.link(&first, at));
            }
            self.links.insert(key, to.to_path_buf());
        }
        self.place(to, there, |copy, at| copy.leaf(from, at, &meta))
    }

    fn directory(&mut self, from: &Path, to: &Path, meta: &Meta, there: bool) -> Result<Open> {
        if !self.options.recursive {
            let shown = self.from.shown(from);
            return Err(Failure::with("copy", shown, "it is a directory", "use -r"));
        }
        if !there {
            self.to.make(to, meta, Path::new(""))?;
        }
        Ok(Open {
            from: from.to_path_buf(),
            to: to.to_path_buf(),
            meta: *meta,
            names: self.from.list(from)?.into_iter(),
        })
    }

    fn close(&mut self, open: &Open) -> Result<()> {
        self.copy_xattrs(&open.from, &open.to)?;
        self.to.dress(&open.to, &open.meta)
    }

    /// Lets `create` create at `to`, or beside it and rename where something is there already.
    fn place(
        &mut self,
        to: &Path,
        there: Option<Meta>,
        create: impl FnOnce(&mut Self, &Path) -> Result<()>,
    ) -> Result<Option<Open>> {
        if there.is_none() {
            create(self, to)?;
            return Ok(None);
        }
        self.temporary += 1;
        let name = format!(".razorfs-{}-{}", std::process::id(), self.temporary);
        let beside = to.with_file_name(name);
        create(self, &beside)?;
        self.to.rename(&beside, to)?;
        // Two names of one inode are not renamed over each other.
        if self.to.find(&beside)?.is_some() {
            self.to.remove(&beside, false)?;
        }
        Ok(None)
    }

    /// Anything but a directory, at a path where nothing is.
    fn leaf(&mut self, from: &Path, at: &Path, meta: &Meta) -> Result<()> {
        match meta.kind {
            FileKind::Regular => {
                let mut data = self.from.read(from)?;
                self.file(at, meta, data.as_mut())?;
            }
            FileKind::Symlink => {
                let target = self.from.target(from)?;
                self.to.make(at, meta, Path::new(&target))?;
            }
            _ => self.to.make(at, meta, Path::new(""))?,
        }
        self.copy_xattrs(from, at)?;
        if self.options.preserve {
            self.to.dress(at, meta)?;
        }
        Ok(())
    }

    fn file(&mut self, at: &Path, meta: &Meta, data: &mut dyn Source) -> Result<()> {
        let progress = &mut *self.progress;
        self.to.write(at, meta, data, &mut |n| {
            progress.add(n);
            signals::check()
        })
    }

    fn copy_xattrs(&self, from: &Path, to: &Path) -> Result<()> {
        if self.options.preserve {
            for xattr in self.from.xattrs(from)? {
                self.to.set_xattr(to, &xattr)?;
            }
        }
        Ok(())
    }

    /// What the copy of `source` has.
    fn meta_of(&self, source: &Meta) -> Meta {
        if self.options.preserve {
            return *source;
        }
        Meta {
            rdev: source.rdev,
            atime: self.now,
            mtime: self.now,
            ..Meta::new(source.kind, source.mode & 0o777 & !self.umask)
        }
    }
}

/// Bytes and number of the files below `path`, for a progress bar.
pub fn measure(tree: &dyn Tree, path: &Path) -> Result<(u64, u64)> {
    let (mut bytes, mut files) = (0u64, 0u64);
    let mut stack = vec![path.to_path_buf()];
    while let Some(path) = stack.pop() {
        signals::check()?;
        let meta = tree.meta(&path)?;
        if meta.is_dir() {
            stack.extend(tree.list(&path)?.into_iter().map(|name| path.join(name)));
        } else {
            files += 1;
            if meta.kind == FileKind::Regular {
                bytes = bytes.saturating_add(meta.size);
            }
        }
    }
    Ok((bytes, files))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Unit;
    use crate::tree::HostTree;
    use std::os::unix::fs::MetadataExt;

    fn copy(from: &Path, to: &Path) {
        let (from, to) = (HostTree::new(from), HostTree::new(to));
        let options = CopyOptions {
            preserve: true,
            recursive: true,
        };
        let mut progress = Progress::new("copy", Unit::Bytes, true);
        let root = Path::new("");
        Copy::new(&from, &to, options, &mut progress)
            .run(root, root)
            .unwrap();
    }

    #[test]
    fn a_copy_keeps_links_holes_and_times_and_replaces_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::create_dir_all(a.join("sub")).unwrap();
        std::fs::write(a.join("sub/one"), b"one").unwrap();
        std::fs::hard_link(a.join("sub/one"), a.join("two")).unwrap();
        std::os::unix::fs::symlink("sub/one", a.join("link")).unwrap();
        // Reading all of its zeros would take a day.
        let file = std::fs::File::create(a.join("sparse")).unwrap();
        file.set_len(1 << 43).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"x", 1 << 42).unwrap();
        copy(&a, &b);
        std::fs::write(b.join("two"), b"changed").unwrap();
        copy(&a, &b);
        assert_eq!(std::fs::read(b.join("two")).unwrap(), b"one");
        let one = std::fs::metadata(b.join("sub/one")).unwrap();
        assert_eq!(one.ino(), std::fs::metadata(b.join("two")).unwrap().ino());
        let sparse = std::fs::metadata(b.join("sparse")).unwrap();
        assert_eq!(sparse.len(), 1 << 43);
        assert!(sparse.blocks() < 4096);
        let mut byte = [0];
        let file = std::fs::File::open(b.join("sparse")).unwrap();
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut byte, 1 << 42).unwrap();
        assert_eq!(&byte, b"x");
        let before = std::fs::metadata(a.join("sub")).unwrap();
        let after = std::fs::metadata(b.join("sub")).unwrap();
        assert_eq!(before.mtime_nsec(), after.mtime_nsec());
        assert_eq!(std::fs::read_dir(&b).unwrap().count(), 4);
        assert_eq!(
            std::fs::read_link(b.join("link")).unwrap(),
            Path::new("sub/one")
        );
        let tree = HostTree::new(&b);
        assert_eq!(measure(&tree, Path::new("")).unwrap(), ((1 << 43) + 6, 4));
    }
}
