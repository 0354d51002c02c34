//! Tars, plain, gzip or zstd, unpacked into trees.

use std::cell::Cell;
use std::ffi::OsString;
use std::io::{BufRead, ErrorKind, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use razorfs::{FileKind, Time};
use tar::{Archive, Entry, EntryType, Header};

use crate::bounded::{Bound, Bounded};
use crate::failure::{Failure, Result, plain};
use crate::placing::Placing;
use crate::sparse::{Marks, Sparse, listed};
use crate::tree::{Meta, Piece, Source, Tree, id, inner};

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
    let mut unpack = Unpack(Placing::new(tree, root, step));
    let entries = archive.entries().map_err(broken)?;
    bound.headers(0);
    for entry in entries {
        bound.data();
        let mut entry = entry.map_err(broken)?;
        unpack.entry(&mut entry, &bound)?;
        // The size of a sparse file is another one than that of its entry.
        let stored = match entry.header().entry_type() {
            EntryType::GNUSparse => pieces_of(&entry, &bound)?.1,
            _ => entry.size(),
        };
        bound.headers(stored);
    }
    unpack.0.finish()
}

/// What has data in a sparse file in the format of GNU tar, and how many bytes these are.
fn pieces_of<R: Read>(entry: &Tarred<'_, R>, bound: &Bound<R>) -> Result<(Vec<Piece>, u64)> {
    let headers = bound.headers_from(entry.raw_header_position());
    let pieces = listed(&headers).map_err(broken)?;
    let stored = pieces
        .iter()
        .fold(0, |sum: u64, piece| sum.saturating_add(piece.1));
    Ok((pieces, stored))
}

fn broken(e: std::io::Error) -> Failure {
    let cause = plain(&e);
    Failure::new(format!(
        "cannot read the tar: {cause}; is it complete, and a tar (plain, gzip or zstd)?"
    ))
}

/// An entry of a tar that is read within bounds.
type Tarred<'a, R> = Entry<'a, Bounded<R>>;

struct Unpack<'a>(Placing<'a>);

impl Unpack<'_> {
    fn entry<R: Read>(&mut self, entry: &mut Tarred<'_, R>, bound: &Bound<R>) -> Result<()> {
        let Some(mut meta) = meta_of(entry.header()).map_err(broken)? else {
            return Ok(());
        };
        meta.size = entry.size();
        let Extensions { xattrs, sparse } = extensions(entry, &mut meta).map_err(broken)?;
        let name = sparse.name().unwrap_or_else(|| entry.path_bytes());
        let name = PathBuf::from(OsString::from_vec(name.into_owned()));
        check_depth(&name)?;
        let path = self.0.root.join(inner(&name)?);
        let sparse = sparse.size().map_err(broken)?;
        let kind = entry.header().entry_type();
        let directory = meta.is_dir() && kind != EntryType::Link;
        let Some(at) = self.0.spot(&path, directory)? else {
            self.0.dress_later(path, meta, xattrs)?;
            return (self.0.step)(false);
        };
        self.create(entry, bound, &at, &meta, sparse)?;
        if kind != EntryType::Link {
            for xattr in xattrs.iter().filter(|_| !directory) {
                self.0.tree.set_xattr(&at, xattr)?;
            }
            self.0.tree.dress(&at, &meta)?;
        }
        self.0.settle(&at, &path)?;
        if directory {
            self.0.dress_later(path, meta, xattrs)?;
        }
        (self.0.step)(!directory)
    }

    fn create<R: Read>(
        &mut self,
        entry: &mut Tarred<'_, R>,
        bound: &Bound<R>,
        at: &Path,
        meta: &Meta,
        sparse: Option<u64>,
    ) -> Result<()> {
        let target = entry.link_name_bytes().unwrap_or_default().into_owned();
        let target = PathBuf::from(OsString::from_vec(target));
        if entry.header().entry_type() == EntryType::Link {
            check_depth(&target)?;
            let first = self.0.root.join(inner(&target)?);
            // A link to something outside would let it be read and written from inside.
            self.0.parents(&first, false)?;
            return self.0.tree.link(&first, at);
        }
        if meta.kind != FileKind::Regular {
            return self.0.tree.make(at, meta, &target);
        }
        let step = &mut *self.0.step;
        if entry.header().entry_type() == EntryType::GNUSparse {
            let (pieces, left) = pieces_of(entry, bound)?;
            let inner = bound.past();
            let data = Whole { inner, left };
            let mut data = Sparse::of(data, pieces, entry.size()).map_err(broken)?;
            return self.0.tree.write(at, meta, &mut data, &mut |_| step(false));
        }
        let mut data = Whole {
            left: entry.size(),
            inner: entry,
        };
        match sparse {
            None => self.0.tree.write(at, meta, &mut data, &mut |_| step(false)),
            Some(size) => {
                let mut data = Sparse::new(data, size).map_err(broken)?;
                self.0.tree.write(at, meta, &mut data, &mut |_| step(false))
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
    // Some writers leave these fields empty.
    let time = Time {
        secs: i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(i64::MAX),
        nanos: 0,
    };
    let mut meta = Meta::new(kind, header.mode()? & 0o7777);
    meta.uid = id(header.uid().unwrap_or(0));
    meta.gid = id(header.gid().unwrap_or(0));
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
            b"uid" => meta.uid = text.parse().map_or(meta.uid, id),
            b"gid" => meta.gid = text.parse().map_or(meta.gid, id),
            key => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    if value.len() > XATTR_MAX {
                        let why = format!("an extended attribute has {} bytes", value.len());
                        return Err(std::io::Error::new(ErrorKind::InvalidData, why));
                    }
                    let name = OsString::from_vec(name.to_vec());
                    found.xattrs.push((name, value.to_vec()));
                }
                found.sparse.take(key, value);
            }
        }
    }
    Ok(found)
}

/// Bytes of an extended attribute, at most: as Linux has it.
const XATTR_MAX: usize = 64 << 10;
/// Bytes of a path in a tar, at most.
const PATH_MAX: usize = 128 << 10;
/// Names in it, at most. Each is looked for from the root, so that work grows with their square.
const DEPTH_MAX: usize = 2048;

/// Refuses a path that would take hours or all memory to make.
fn check_depth(path: &Path) -> Result<()> {
    let bytes = path.as_os_str().len();
    if bytes <= PATH_MAX && path.components().take(DEPTH_MAX + 1).count() <= DEPTH_MAX {
        return Ok(());
    }
    Err(Failure::new(format!(
        "cannot unpack a path of {bytes} bytes: at most {PATH_MAX} bytes and {DEPTH_MAX} names"
    )))
}

/// What extended attributes are called in a tar.
pub const XATTR: &[u8] = b"SCHILY.xattr.";

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

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
