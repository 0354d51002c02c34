//! Packing trees into tars.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use razorfs::{FileKind, Time};
use tar::{EntryType, Header};

use crate::archive::{Packing, XATTR};
use crate::failure::{Failure, Result, shown};
use crate::sparse::Layout;
use crate::tree::{Meta, Source, Tree, unpack_device};

/// `1700000000.123456789`, also negative.
pub fn time_text(time: Time) -> String {
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
