//! Tars, plain, gzip or zstd, from and to trees.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use razorfs::{FileKind, Time};
use tar::{Archive, Entry, EntryType, Header};

use crate::bounded::Bounded;
use crate::failure::{Failure, Result, plain, shown};
use crate::sparse::{Layout, Marks, Sparse};
use crate::tree::{Meta, Source, Tree, inner, unpack_device};

/// How a tar is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Packing {
    /// Not at all.
    Plain,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

impl Packing {
    /// What the name of a file says; `None` if it is not the name of a tar.
    pub fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_string_lossy().to_lowercase();
        let ends = |suffixes: &[&str]| suffixes.iter().any(|s| name.ends_with(s));
        if ends(&[".tar.gz", ".tgz"]) {
            Some(Self::Gzip)
        } else if ends(&[".tar.zst", ".tzst", ".tar.zstd"]) {
            Some(Self::Zstd)
        } else if ends(&[".tar"]) {
            Some(Self::Plain)
        } else {
            None
        }
    }
}

/// Counts what is read.
pub struct Counted<R> {
    inner: R,
    count: Rc<Cell<u64>>,
}

impl<R: Read> Counted<R> {
    /// Counts what is read from `inner`.
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            count: Rc::default(),
        }
    }

    /// The count, which goes on while it is read.
    pub fn count(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.count)
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.count.set(self.count.get() + n as u64);
        Ok(n)
    }
}

/// Undoes the compression, which is told from the first bytes.
pub fn decompress<'a>(mut data: impl BufRead + 'a) -> Result<Box<dyn Read + 'a>> {
    let failed = |e: std::io::Error| Failure::new(format!("cannot read the tar: {}", plain(&e)));
    let start = data.fill_buf().map_err(failed)?;
    if start.starts_with(&[0x1F, 0x8B]) {
        Ok(Box::new(flate2::bufread::MultiGzDecoder::new(data)))
    } else if start.starts_with(&[0x28, 0xB5, 0x2F, 0xFD]) {
        let decoder = zstd::Decoder::with_buffer(data).map_err(failed)?;
        Ok(Box::new(decoder))
    } else {
        Ok(Box::new(data))
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

/// Unpacks a tar below `root`. `step` is called after each piece of data, and with true after
/// each file; an error of it stops the work between two operations.
pub fn unpack(
    data: impl Read,
    tree: &dyn Tree,
    root: &Path,
    step: &mut dyn FnMut(bool) -> Result<()>,
) -> Result<()> {
    let (data, bound) = Bounded::new(data);
    let mut archive = Archive::new(data);
    let mut unpack = Unpack {
        tree,
        root,
        step,
        directories: Vec::new(),
        real: HashSet::new(),
        temporary: 0,
    };
    let entries = archive.entries().map_err(broken)?;
    bound.headers(0);
    for entry in entries {
        bound.data();
        let mut entry = entry.map_err(broken)?;
        unpack.entry(&mut entry)?;
        // Of other kinds than these the data are passed over.
        let read = entry.header().entry_type() == EntryType::Regular;
        bound.headers(if read { 0 } else { entry.size() });
    }
    // The times of directories last, because filling them changes them; the deepest first.
    while let Some((path, meta)) = unpack.directories.pop() {
        if tree.find(&path)?.is_some_and(|there| there.is_dir()) {
            tree.dress(&path, &meta)?;
        }
    }
    Ok(())
}

fn broken(e: std::io::Error) -> Failure {
    let cause = plain(&e);
    Failure::new(format!(
        "cannot read the tar: {cause}; is it complete, and a tar (plain, gzip or zstd)?"
    ))
}

struct Unpack<'a> {
    tree: &'a dyn Tree,
    root: &'a Path,
    step: &'a mut dyn FnMut(bool) -> Result<()>,
    directories: Vec<(PathBuf, Meta)>,
    /// Paths that are known to be directories, and no symbolic links.
    real: HashSet<PathBuf>,
    temporary: u64,
}

impl Unpack<'_> {
    fn entry<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<()> {
        let Some(mut meta) = meta_of(entry.header()).map_err(broken)? else {
            return Ok(());
        };
        meta.size = entry.size();
        let Extensions { xattrs, sparse } = extensions(entry, &mut meta).map_err(broken)?;
        let name = sparse.name().unwrap_or_else(|| entry.path_bytes());
        let name = PathBuf::from(OsString::from_vec(name.into_owned()));
        let path = self.root.join(inner(&name)?);
        let sparse = sparse.size().map_err(broken)?;
        self.parents(&path)?;
        let there = self.tree.find(&path)?;
        let kind = entry.header().entry_type();
        let directory = meta.is_dir() && kind != EntryType::Link;
        if path == self.root || (directory && there.is_some_and(|there| there.is_dir())) {
            self.directories.push((path, meta));
            return (self.step)(false);
        }
        if let Some(there) = there
            && (there.is_dir() || directory)
        {
            let cause = "something of another kind is there";
            let remedy = "remove it, or unpack elsewhere";
            return Err(Failure::with(
                "replace",
                self.tree.shown(&path),
                cause,
                remedy,
            ));
        }
        let at = match there {
            None => path.clone(),
            Some(_) => {
                self.temporary += 1;
                let name = format!(".razorfs-{}-{}", std::process::id(), self.temporary);
                path.with_file_name(name)
            }
        };
        self.create(entry, &at, &meta, sparse)?;
        if kind != EntryType::Link {
            for xattr in &xattrs {
                self.tree.set_xattr(&at, xattr)?;
            }
            self.tree.dress(&at, &meta)?;
        }
        if at != path {
            self.tree.rename(&at, &path)?;
            // Two names of one inode are not renamed over each other.
            if self.tree.find(&at)?.is_some() {
                self.tree.remove(&at, false)?;
            }
        }
        if directory {
            self.directories.push((path, meta));
        }
        (self.step)(!directory)
    }

    /// Makes the missing directories above `path`. None of them may be a symbolic link: a tar
    /// could otherwise lead us out of the tree.
    fn parents(&mut self, path: &Path) -> Result<()> {
        let mut unknown = Vec::new();
        for dir in path.ancestors().skip(1) {
            if dir == self.root || self.real.contains(dir) || dir.as_os_str().is_empty() {
                break;
            }
            unknown.push(dir);
        }
        for dir in unknown.into_iter().rev() {
            make_directory(self.tree, dir)?;
            self.real.insert(dir.to_path_buf());
        }
        Ok(())
    }

    fn create<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        at: &Path,
        meta: &Meta,
        sparse: Option<u64>,
    ) -> Result<()> {
        let target = entry.link_name_bytes().unwrap_or_default().into_owned();
        let target = PathBuf::from(OsString::from_vec(target));
        if entry.header().entry_type() == EntryType::Link {
            let first = self.root.join(inner(&target)?);
            return self.tree.link(&first, at);
        }
        if meta.kind != FileKind::Regular {
            return self.tree.make(at, meta, &target);
        }
        let step = &mut *self.step;
        let mut data = Whole {
            left: entry.size(),
            inner: entry,
        };
        match sparse {
            None => self.tree.write(at, meta, &mut data, &mut |_| step(false)),
            Some(size) => {
                let mut data = Sparse::new(data, size).map_err(broken)?;
                self.tree.write(at, meta, &mut data, &mut |_| step(false))
            }
        }
    }
}

/// An entry whose end before its size is an error, and not the end of the file.
struct Whole<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buf)?;
        if n == 0 && self.left > 0 && !buf.is_empty() {
            return Err(std::io::Error::other("the tar is cut off"));
        }
        self.left = self.left.saturating_sub(n as u64);
        Ok(n)
    }
}

impl<R: Read> Source for Whole<R> {}

/// What a header says; `None` for entries that are no files.
fn meta_of(header: &Header) -> std::io::Result<Option<Meta>> {
    let kind = match header.entry_type() {
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => FileKind::Regular,
        EntryType::Link => FileKind::Regular,
        EntryType::Symlink => FileKind::Symlink,
        EntryType::Directory => FileKind::Directory,
        EntryType::Fifo => FileKind::Fifo,
        EntryType::Char => FileKind::CharDevice,
        EntryType::Block => FileKind::BlockDevice,
        _ => return Ok(None),
    };
    let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    // Some writers leave these fields empty.
    let time = Time {
        secs: i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(i64::MAX),
        nanos: 0,
    };
    let mut meta = Meta::new(kind, header.mode()? & 0o7777);
    meta.uid = number(header.uid().unwrap_or(0));
    meta.gid = number(header.gid().unwrap_or(0));
    // Other entries may have anything in these fields.
    if matches!(kind, FileKind::CharDevice | FileKind::BlockDevice) {
        let major = header.device_major()?.unwrap_or(0);
        let minor = header.device_minor()?.unwrap_or(0);
        meta.rdev = crate::tree::pack_device(rustix::fs::makedev(major, minor));
    }
    (meta.atime, meta.mtime) = (time, time);
    Ok(Some(meta))
}

/// What the extended header adds besides exact times and large ids.
#[derive(Default)]
struct Extensions {
    xattrs: Vec<(OsString, Vec<u8>)>,
    sparse: Marks,
}

fn extensions<R: Read>(entry: &mut Entry<'_, R>, meta: &mut Meta) -> std::io::Result<Extensions> {
    let mut found = Extensions::default();
    let Some(extensions) = entry.pax_extensions()? else {
        return Ok(found);
    };
    for extension in extensions {
        let extension = extension?;
        let value = extension.value_bytes();
        let text = std::str::from_utf8(value).unwrap_or_default();
        match extension.key_bytes() {
            b"mtime" => meta.mtime = time_of(text).unwrap_or(meta.mtime),
            b"atime" => meta.atime = time_of(text).unwrap_or(meta.atime),
            b"uid" => meta.uid = text.parse().unwrap_or(meta.uid),
            b"gid" => meta.gid = text.parse().unwrap_or(meta.gid),
            key => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    let name = OsString::from_vec(name.to_vec());
                    found.xattrs.push((name, value.to_vec()));
                }
                found.sparse.take(key, value);
            }
        }
    }
    Ok(found)
}

/// What extended attributes are called in a tar.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// `1700000000.123456789`, also negative.
fn time_of(text: &str) -> Option<Time> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = part.chars().chain("000000000".chars()).take(9).collect();
    let (secs, nanos): (i64, u32) = (whole.parse().ok()?, digits.parse().ok()?);
    if whole.starts_with('-') && nanos > 0 {
        return Some(Time {
            secs: secs.checked_sub(1)?,
            nanos: 1_000_000_000 - nanos,
        });
    }
    Some(Time { secs, nanos })
}

fn time_text(time: Time) -> String {
    if time.secs < 0 && time.nanos > 0 {
        let whole = (time.secs + 1).unsigned_abs();
        return format!("-{whole}.{:09}", 1_000_000_000 - time.nanos);
    }
    format!("{}.{:09}", time.secs, time.nanos)
}

/// Packs what is below `root` into a tar and gives the sink back. `target` is for messages.
/// `step` is called with the bytes of each piece of data, and with true after each file.
pub fn pack<W: Write>(
    tree: &dyn Tree,
    root: &Path,
    target: &Path,
    out: W,
    packing: Packing,
    step: &mut dyn FnMut(u64, bool) -> Result<()>,
) -> Result<W> {
    let failed = |e: std::io::Error| Failure::host("write to", target, &e);
    match packing {
        Packing::Plain => pack_into(tree, root, target, out, step),
        Packing::Gzip => {
            let out = flate2::write::GzEncoder::new(out, flate2::Compression::default());
            let out = pack_into(tree, root, target, out, step)?;
            out.finish().map_err(failed)
        }
        Packing::Zstd => {
            let out = zstd::Encoder::new(out, 3).map_err(failed)?;
            let out = pack_into(tree, root, target, out, step)?;
            out.finish().map_err(failed)
        }
    }
}

fn pack_into<W: Write>(
    tree: &dyn Tree,
    root: &Path,
    target: &Path,
    out: W,
    step: &mut dyn FnMut(u64, bool) -> Result<()>,
) -> Result<W> {
    let mut builder = tar::Builder::new(out);
    let mut links: HashMap<(u64, u64), PathBuf> = HashMap::new();
    let mut stack = vec![PathBuf::new()];
    while let Some(path) = stack.pop() {
        let full = root.join(&path);
        let meta = tree.meta(&full)?;
        let mut pack = Pack {
            tree,
            builder: &mut builder,
            target,
            full: &full,
            path: &path,
            meta: &meta,
        };
        if meta.is_dir() {
            pack.entry(EntryType::Directory, Path::new(""), step)?;
            let mut names = tree.list(&full)?;
            names.sort();
            stack.extend(names.into_iter().rev().map(|name| path.join(name)));
            continue;
        }
        let first = links.get(&(meta.dev, meta.ino));
        match first.filter(|_| meta.nlink > 1) {
            Some(first) => pack.entry(EntryType::Link, &first.clone(), step)?,
            None => {
                pack.leaf(step)?;
                links.insert((meta.dev, meta.ino), path.clone());
            }
        }
        step(0, true)?;
    }
    builder
        .into_inner()
        .map_err(|e| Failure::host("write to", target, &e))
}

struct Pack<'a, W: Write> {
    tree: &'a dyn Tree,
    builder: &'a mut tar::Builder<W>,
    target: &'a Path,
    full: &'a Path,
    path: &'a Path,
    meta: &'a Meta,
}

impl<W: Write> Pack<'_, W> {
    fn leaf(&mut self, step: &mut dyn FnMut(u64, bool) -> Result<()>) -> Result<()> {
        let none = Path::new("");
        match self.meta.kind {
            FileKind::Regular => self.entry(EntryType::Regular, none, step),
            FileKind::Symlink => {
                let target = PathBuf::from(self.tree.target(self.full)?);
                self.entry(EntryType::Symlink, &target, step)
            }
            FileKind::Fifo => self.entry(EntryType::Fifo, none, step),
            FileKind::CharDevice => self.entry(EntryType::Char, none, step),
            FileKind::BlockDevice => self.entry(EntryType::Block, none, step),
            FileKind::Directory => self.entry(EntryType::Directory, none, step),
            FileKind::Socket => {
                let shown = shown(&self.tree.shown(self.full));
                eprintln!("razorfs: {shown} is left out: a tar has no sockets");
                Ok(())
            }
        }
    }

    fn entry(
        &mut self,
        kind: EntryType,
        link: &Path,
        step: &mut dyn FnMut(u64, bool) -> Result<()>,
    ) -> Result<()> {
        let failed = |e: std::io::Error| Failure::host("write to", self.target, &e);
        let meta = self.meta;
        let mut more = vec![("mtime".to_owned(), time_text(meta.mtime).into_bytes())];
        if kind != EntryType::Link {
            for (name, value) in self.tree.xattrs(self.full)? {
                // A name that is no text cannot stand in the extended header.
                if let Some(name) = name.to_str() {
                    let prefix = String::from_utf8_lossy(XATTR);
                    more.push((format!("{prefix}{name}"), value));
                }
            }
        }
        let name = entry_name(self.path);
        let (mut data, mut layout) = (None, None);
        if kind == EntryType::Regular {
            let mut source = self.tree.read(self.full)?;
            if let Some((pieces, size)) = source.pieces().map_err(failed)? {
                layout = Layout::new(pieces, size).map(|layout| (layout, size));
            }
            data = Some(source);
        }
        if let Some((layout, size)) = &layout {
            more.extend(layout.marks(name.as_os_str().as_bytes(), *size));
        }
        let pairs = more.iter().map(|(k, v)| (k.as_str(), v.as_slice()));
        self.builder.append_pax_extensions(pairs).map_err(failed)?;
        // GNU tar looks for sparse files of this form in entries of the standard's form alone.
        let mut header = match layout {
            Some(_) => Header::new_ustar(),
            None => Header::new_gnu(),
        };
        header.set_entry_type(kind);
        header.set_mode(meta.mode);
        header.set_uid(u64::from(meta.uid));
        header.set_gid(u64::from(meta.gid));
        header.set_mtime(u64::try_from(meta.mtime.secs).unwrap_or(0));
        let (major, minor) = unpack_device(meta.rdev);
        header.set_device_major(major).map_err(failed)?;
        header.set_device_minor(minor).map_err(failed)?;
        if let (Some(data), Some((layout, size))) = (&mut data, &layout) {
            return self.sparse(&mut header, data.as_mut(), layout, *size, step);
        }
        if let Some(data) = data {
            header.set_size(meta.size);
            let mut refused = None;
            let source = Exact {
                inner: data,
                left: meta.size,
                step: &mut |n| step(n, false),
                refused: &mut refused,
            };
            let appended = self.builder.append_data(&mut header, name, source);
            return match (appended, refused) {
                (_, Some(failure)) => Err(failure),
                (appended, None) => appended.map_err(failed),
            };
        }
        header.set_size(0);
        let appended = match kind {
            EntryType::Link => self
                .builder
                .append_link(&mut header, name, entry_name(link)),
            EntryType::Symlink => self.builder.append_link(&mut header, name, link),
            _ => self
                .builder
                .append_data(&mut header, name, std::io::empty()),
        };
        appended.map_err(failed)
    }

    /// A file with holes: a list of its pieces and what is in them.
    fn sparse(
        &mut self,
        header: &mut Header,
        data: &mut dyn Source,
        layout: &Layout,
        size: u64,
        step: &mut dyn FnMut(u64, bool) -> Result<()>,
    ) -> Result<()> {
        let failed = |e: std::io::Error| Failure::host("write to", self.target, &e);
        // A reader that knows sparse files takes the name from the extended header.
        let base = self.path.file_name().unwrap_or_default().as_bytes();
        let base = OsStr::from_bytes(base.get(..90).unwrap_or(base));
        let name = Path::new("GNUSparseFile.0").join(base);
        header.set_path(name).map_err(failed)?;
        header.set_size(layout.stored);
        header.set_cksum();
        let mut refused = None;
        let holes = size.saturating_sub(layout.pieces.iter().map(|piece| piece.1).sum());
        step(holes, false)?;
        let pieces = Pieces {
            inner: data,
            pieces: layout.pieces.iter(),
            left: 0,
        };
        let exact = Exact {
            inner: pieces,
            left: layout.stored.saturating_sub(layout.list.len() as u64),
            step: &mut |n| step(n, false),
            refused: &mut refused,
        };
        let appended = self
            .builder
            .append(header, layout.list.as_slice().chain(exact));
        match (appended, refused) {
            (_, Some(failure)) => Err(failure),
            (appended, None) => appended.map_err(failed),
        }
    }
}

/// What is in the pieces of a file, one after the other; what is missing of one is zeros.
struct Pieces<'a> {
    inner: &'a mut dyn Source,
    pieces: std::slice::Iter<'a, (u64, u64)>,
    left: u64,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        while self.left == 0 {
            let Some((offset, len)) = self.pieces.next() else {
                return Ok(0);
            };
            self.inner.go_to(*offset)?;
            self.left = *len;
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let most = most.min(buf.len());
        let buf = buf.get_mut(..most).unwrap_or_default();
        let mut n = self.inner.read(buf)?;
        if n == 0 {
            buf.fill(0);
            n = buf.len();
        }
        self.left -= n as u64;
        Ok(n)
    }
}

/// The name in the tar; the root is `./`.
fn entry_name(path: &Path) -> &Path {
    if path.as_os_str() == OsStr::from_bytes(b"") {
        Path::new("./")
    } else {
        path
    }
}

/// Exactly as many bytes as the header says, even if the file changes meanwhile: what is missing
/// is zeros, as in other tars.
struct Exact<'a, R> {
    inner: R,
    left: u64,
    step: &'a mut dyn FnMut(u64) -> Result<()>,
    refused: &'a mut Option<Failure>,
}

impl<R: Read> Read for Exact<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let most = most.min(buf.len());
        let Some(buf) = buf.get_mut(..most).filter(|buf| !buf.is_empty()) else {
            return Ok(0);
        };
        let mut n = self.inner.read(buf)?;
        if n == 0 {
            buf.fill(0);
            n = buf.len();
        }
        self.left -= n as u64;
        if let Err(failure) = (self.step)(n as u64) {
            *self.refused = Some(failure);
            return Err(std::io::Error::other("stopped"));
        }
        Ok(n)
    }
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
