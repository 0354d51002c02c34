//! A volume, opened as a library, as a tree.

use std::cell::RefCell;
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use razorfs::{FileKind, Ino, NewNode, RenameMode, SeekFor, SetAttributes, Volume, XattrMode};

use super::{CHUNK, Meta, Piece, Source, Step, Tree, Xattr, inner, is_zero, pieces_by, read_full};
use crate::failure::{Failure, Result};

/// So many symbolic links in one path are a loop.
const MAX_LINKS: u32 = 40;

/// A volume that this process has opened.
pub struct VolumeTree {
    volume: Volume,
    /// Path of the volume, for messages.
    place: PathBuf,
    /// Where it is, if not there.
    home: Option<PathBuf>,
    /// The directory that was used last: most operations are next to the one before.
    last: RefCell<(PathBuf, Ino)>,
}

impl VolumeTree {
    /// The tree of `volume`, which is at `place`.
    pub fn new(volume: Volume, place: impl Into<PathBuf>) -> Self {
        Self {
            volume,
            place: place.into(),
            home: None,
            last: RefCell::new((PathBuf::new(), Ino::ROOT)),
        }
    }

    /// The same, of a volume that is elsewhere than its messages say.
    pub fn at_home(mut self, home: &Path) -> Self {
        self.home = Some(home.to_path_buf());
        self
    }

    /// Gives the volume back.
    pub fn into_volume(self) -> Volume {
        self.volume
    }

    /// The directory that is remembered may be gone, or be another one.
    fn forget(&self) {
        *self.last.borrow_mut() = (PathBuf::new(), Ino::ROOT);
    }

    fn failed(&self, what: &str, path: &Path, e: &razorfs::Error) -> Failure {
        Failure::engine(what, self.shown(path), e)
    }

    /// The inode at `path`, if there is one. Symbolic links on the way are followed.
    fn walk(&self, path: &Path) -> razorfs::Result<Option<Ino>> {
        match self.walk_strict(path) {
            Ok(ino) => Ok(Some(ino)),
            Err(razorfs::Error::NotFound | razorfs::Error::NotADirectory) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn walk_strict(&self, path: &Path) -> razorfs::Result<Ino> {
        let Some(name) = path.file_name() else {
            return Ok(Ino::ROOT);
        };
        let dir = self.directory(path.parent().unwrap_or(Path::new("")))?;
        Ok(self.volume.lookup(dir, name.as_bytes())?.ino)
    }

    /// The inode of a directory, through symbolic links.
    fn directory(&self, path: &Path) -> razorfs::Result<Ino> {
        if path.as_os_str().is_empty() {
            return Ok(Ino::ROOT);
        }
        if self.last.borrow().0 == path {
            return Ok(self.last.borrow().1);
        }
        let mut links = 0;
        let (ino, _) = self.follow(path, &mut links)?;
        *self.last.borrow_mut() = (path.to_path_buf(), ino);
        Ok(ino)
    }

    /// The inode at `path` and its path without symbolic links.
    fn follow(&self, path: &Path, links: &mut u32) -> razorfs::Result<(Ino, PathBuf)> {
        let mut at = (Ino::ROOT, PathBuf::new());
        for part in path.components() {
            match part {
                Component::Normal(name) => {
                    let stat = self.volume.lookup(at.0, name.as_bytes())?;
                    if stat.kind() == FileKind::Symlink {
                        *links += 1;
                        if *links > MAX_LINKS {
                            return Err(razorfs::Error::TooManySymlinks);
                        }
                        let target = self.volume.read_link(stat.ino)?;
                        let target = PathBuf::from(OsString::from_vec(target.into_vec()));
                        at = self.follow(&at.1.join(target), links)?;
                    } else {
                        at = (stat.ino, at.1.join(name));
                    }
                }
                // The root of the volume is its own parent.
                Component::ParentDir => {
                    at.1.pop();
                    let parent = at.1.clone();
                    at = self.follow(&parent, links)?;
                }
                Component::RootDir => at = (Ino::ROOT, PathBuf::new()),
                Component::CurDir | Component::Prefix(_) => {}
            }
        }
        Ok(at)
    }

    /// The directory and the name of a path, for an operation on the name.
    fn name<'p>(&self, what: &str, path: &'p Path) -> Result<(Ino, &'p [u8])> {
        let Some(name) = path.file_name() else {
            let cause = "it is the root of the volume";
            return Err(Failure::with(
                what,
                self.shown(path),
                cause,
                "name something in it",
            ));
        };
        let dir = self
            .directory(path.parent().unwrap_or(Path::new("")))
            .map_err(|e| self.failed(what, path, &e))?;
        Ok((dir, name.as_bytes()))
    }

    fn ino(&self, what: &str, path: &Path) -> Result<Ino> {
        self.walk_strict(path)
            .map_err(|e| self.failed(what, path, &e))
    }

    fn fill(&self, ino: Ino, path: &Path, data: &mut dyn Source, step: Step<'_>) -> Result<()> {
        let mut buf = vec![0; CHUNK];
        let mut len = 0u64;
        let mut hole = false;
        loop {
            let gap = data.hole();
            let gap = gap.map_err(|e| Failure::host("read the source of", self.shown(path), &e))?;
            if gap > 0 {
                hole = true;
                len = len.saturating_add(gap);
                step(gap)?;
                continue;
            }
            let n = read_full(data, &mut buf)
                .map_err(|e| Failure::host("read the source of", self.shown(path), &e))?;
            let Some(piece) = buf.get(..n).filter(|piece| !piece.is_empty()) else {
                break;
            };
            hole = is_zero(piece);
            if !hole {
                self.put(ino, len, piece)
                    .map_err(|e| self.failed("write", path, &e))?;
            }
            len += n as u64;
            step(n as u64)?;
        }
        if hole {
            let size = SetAttributes {
                size: Some(len),
                ..SetAttributes::default()
            };
            self.volume
                .set_attributes(ino, &size)
                .map_err(|e| self.failed("write", path, &e))?;
        }
        Ok(())
    }

    fn put(&self, ino: Ino, mut offset: u64, mut piece: &[u8]) -> razorfs::Result<()> {
        while !piece.is_empty() {
            let n = self.volume.write(ino, offset, piece)?;
            offset += n as u64;
            piece = piece.get(n.max(1)..).unwrap_or_default();
        }
        Ok(())
    }
}

impl Tree for VolumeTree {
    fn shown(&self, path: &Path) -> PathBuf {
        let mut shown = self.place.clone().into_os_string();
        shown.push(":/");
        shown.push(path);
        shown.into()
    }

    fn find(&self, path: &Path) -> Result<Option<Meta>> {
        let failed = |e| self.failed("find", path, &e);
        let Some(ino) = self.walk(path).map_err(failed)? else {
            return Ok(None);
        };
        Ok(Some(self.volume.stat(ino).map_err(failed)?.into()))
    }

    fn resolve(&self, path: &Path) -> Result<PathBuf> {
        let mut links = 0;
        let found = self.follow(path, &mut links);
        let (_, path) = found.map_err(|e| self.failed("find", path, &e))?;
        inner(&path)
    }

    fn list(&self, path: &Path) -> Result<Vec<OsString>> {
        let dir = self.ino("read", path)?;
        let mut names = Vec::new();
        self.volume
            .collect_children(dir, 0, &mut |entry| {
                names.push(OsString::from_vec(entry.name.into_vec()));
                true
            })
            .map_err(|e| self.failed("read", path, &e))?;
        Ok(names)
    }

    fn target(&self, path: &Path) -> Result<OsString> {
        let ino = self.ino("read", path)?;
        let target = self.volume.read_link(ino);
        let target = target.map_err(|e| self.failed("read", path, &e))?;
        Ok(OsString::from_vec(target.into_vec()))
    }

    fn read(&self, path: &Path) -> Result<Box<dyn Source + '_>> {
        let ino = self.ino("open", path)?;
        let stat = self.volume.stat(ino);
        let stat = stat.map_err(|e| self.failed("open", path, &e))?;
        if stat.kind() == FileKind::Directory {
            return Err(self.failed("read", path, &razorfs::Error::IsADirectory));
        }
        Ok(Box::new(Reader {
            volume: &self.volume,
            ino,
            offset: 0,
        }))
    }

    fn write(&self, path: &Path, meta: &Meta, data: &mut dyn Source, step: Step<'_>) -> Result<()> {
        let (dir, name) = self.name("create", path)?;
        let node = NewNode {
            uid: meta.uid,
            gid: meta.gid,
            ..NewNode::file(meta.mode)
        };
        let stat = self
            .volume
            .create_node(dir, name, &node)
            .map_err(|e| self.failed("create", path, &e))?;
        self.fill(stat.ino, path, data, step).inspect_err(|_| {
            // The failure that is reported is the first one.
            let _ = self.volume.unlink(dir, name);
        })
    }

    fn make(&self, path: &Path, meta: &Meta, target: &Path) -> Result<()> {
        let (dir, name) = self.name("create", path)?;
        let node = NewNode {
            kind: meta.kind,
            mode: meta.mode,
            umask: 0,
            uid: meta.uid,
            gid: meta.gid,
            rdev: meta.rdev,
            target: target.as_os_str().as_bytes(),
        };
        self.volume
            .create_node(dir, name, &node)
            .map(|_| ())
            .map_err(|e| self.failed("create", path, &e))
    }

    fn link(&self, existing: &Path, new: &Path) -> Result<()> {
        let ino = self.ino("link", existing)?;
        let (dir, name) = self.name("link", new)?;
        self.volume
            .link(ino, dir, name)
            .map(|_| ())
            .map_err(|e| self.failed("link", new, &e))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let (from_dir, from_name) = self.name("rename", from)?;
        let (to_dir, to_name) = self.name("rename", to)?;
        self.forget();
        self.volume
            .rename(from_dir, from_name, to_dir, to_name, RenameMode::Replace)
            .map_err(|e| self.failed("rename to", to, &e))
    }

    fn remove(&self, path: &Path, directory: bool) -> Result<()> {
        let (dir, name) = self.name("remove", path)?;
        if directory {
            self.forget();
        }
        let outcome = if directory {
            self.volume.rmdir(dir, name)
        } else {
            self.volume.unlink(dir, name)
        };
        outcome.map_err(|e| self.failed("remove", path, &e))
    }

    fn dress(&self, path: &Path, meta: &Meta) -> Result<()> {
        let ino = self.ino("set the attributes of", path)?;
        let attributes = SetAttributes {
            mode: (meta.kind != FileKind::Symlink).then_some(meta.mode),
            uid: Some(meta.uid),
            gid: Some(meta.gid),
            atime: Some(meta.atime),
            mtime: Some(meta.mtime),
            ..SetAttributes::default()
        };
        self.volume
            .set_attributes(ino, &attributes)
            .map(|_| ())
            .map_err(|e| self.failed("set the attributes of", path, &e))
    }

    fn xattrs(&self, path: &Path) -> Result<Vec<Xattr>> {
        let what = "read the extended attributes of";
        let ino = self.ino(what, path)?;
        let failed = |e| self.failed(what, path, &e);
        let mut found = Vec::new();
        for name in self.volume.list_xattr(ino).map_err(failed)? {
            let value = self.volume.get_xattr(ino, &name).map_err(failed)?;
            found.push((OsString::from_vec(name.into_vec()), value.into_vec()));
        }
        Ok(found)
    }

    fn set_xattr(&self, path: &Path, (name, value): &Xattr) -> Result<()> {
        let what = "set an extended attribute of";
        let ino = self.ino(what, path)?;
        self.volume
            .set_xattr(ino, name.as_bytes(), value, XattrMode::Set)
            .map_err(|e| self.failed(what, path, &e))
    }

    fn host_path(&self, _path: &Path) -> Option<PathBuf> {
        None
    }

    fn home(&self) -> Option<PathBuf> {
        let home = self.home.as_deref().unwrap_or(&self.place);
        crate::place::absolute(home).ok()
    }

    fn sync(&self) -> Result<()> {
        self.volume
            .sync()
            .map_err(|e| self.failed("sync", Path::new(""), &e))
    }
}

/// Reads a file of a volume from its beginning.
struct Reader<'a> {
    volume: &'a Volume,
    ino: Ino,
    offset: u64,
}

impl Read for Reader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self
            .volume
            .read(self.ino, self.offset, buf)
            .map_err(std::io::Error::other)?;
        self.offset += n as u64;
        Ok(n)
    }
}

impl Source for Reader<'_> {
    fn hole(&mut self) -> std::io::Result<u64> {
        let next = match self.volume.seek(self.ino, self.offset, SeekFor::Data) {
            Ok(next) => next,
            // Nothing but a hole up to the end.
            Err(razorfs::Error::BeyondEnd) => {
                let stat = self.volume.stat(self.ino);
                stat.map_err(std::io::Error::other)?.size
            }
            Err(e) => return Err(std::io::Error::other(e)),
        };
        let gap = next.saturating_sub(self.offset);
        self.offset += gap;
        Ok(gap)
    }

    fn pieces(&mut self) -> std::io::Result<Option<(Vec<Piece>, u64)>> {
        let size = self.volume.stat(self.ino).map_err(std::io::Error::other)?;
        let size = size.size;
        let pieces = pieces_by(size, |what, offset| {
            match self.volume.seek(self.ino, offset, what) {
                Ok(at) => Ok(Some(at)),
                Err(razorfs::Error::BeyondEnd) => Ok(None),
                Err(e) => Err(std::io::Error::other(e)),
            }
        })?;
        Ok(Some((pieces, size)))
    }

    fn go_to(&mut self, offset: u64) -> std::io::Result<()> {
        self.offset = offset;
        Ok(())
    }
}
