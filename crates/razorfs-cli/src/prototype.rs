//! Importing what the C++ prototype has written: `legacy/` decodes it, and here it is read, and put
//! in its place in a tree.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use razorfs::{FileKind, Time};
use tar::Header;

use crate::failure::{Failure, Result, shown};
use crate::legacy::{self, Form, Found, Item};
use crate::placing::Placing;
use crate::progress::Progress;
use crate::signals::{self, Interruptible};
use crate::tree::{self, Meta, Source, Tree};

/// A file of the prototype, with the journal that lies beside it.
pub struct Prototype {
    path: PathBuf,
    form: Form,
    bytes: Vec<u8>,
    journal: Option<Vec<u8>>,
    /// When the file was written: a dump does not say.
    written: Time,
}

impl Prototype {
    /// Reads what is at `path`, and its journal, if it is a file of the prototype. It was in the
    /// prototype's memory as a whole, and is in ours. With `hint`, whatever is no tar is one.
    pub fn read(path: &Path, hint: bool) -> Result<Option<Self>> {
        // Whoever looks at it next says why it cannot be read; of pipes there is but one reading.
        let is_file = || std::fs::metadata(path).is_ok_and(|meta| meta.is_file());
        if path == Path::new("-") || !is_file() {
            return Ok(None);
        }
        let failed = |e| Failure::host("read", path, &e);
        let file = File::open(path).map_err(|e| Failure::host("open", path, &e))?;
        let mut start = [0; 512];
        let n = read_start(&file, &mut start).map_err(failed)?;
        let start = start.get(..n).unwrap_or_default();
        let form = match Form::of(start) {
            _ if is_archive(start) => return Ok(None),
            None if hint => Form::Dump,
            None => return Ok(None),
            Some(form) => form,
        };
        let written = file.metadata().and_then(|meta| meta.modified());
        let written = written.map_err(failed)?;
        let written = written.duration_since(std::time::UNIX_EPOCH);
        let journal = match form {
            Form::Dump => None,
            Form::Razr => journal_of(path)?,
        };
        Ok(Some(Self {
            path: path.to_path_buf(),
            form,
            bytes: slurp(path, &file)?,
            journal,
            written: Time {
                secs: written.map_or(0, |since| since.as_secs() as i64),
                nanos: 0,
            },
        }))
    }

    /// Decodes it. What does not make sense to the last byte is a failure, unless what is whole
    /// shall be saved.
    pub fn decode(&self, salvage: bool) -> Result<Found<'_>> {
        let found = legacy::decode(self.form, &self.bytes, self.journal.as_deref());
        let found = found.map_err(|refusal| Failure::at("import", &self.path, refusal))?;
        let Some(first) = found.findings.first() else {
            return Ok(found);
        };
        let more = match found.findings.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        let remedy = match salvage {
            true if !found.items.is_empty() => return Ok(found),
            true => "nothing in it is whole; check that it is the right file",
            false => "`--salvage` imports the files that are whole and lists the rest",
        };
        let cause = format!("{first}{more}");
        Err(Failure::with("import", &self.path, cause, remedy))
    }

    /// Says what was left out: of the journal, which is nothing unusual where the prototype has
    /// crashed, and of what is damaged.
    pub fn tell(&self, found: &Found<'_>) {
        let replay = found.journal.as_ref();
        let cut = replay.and_then(|replay| Some((replay.entries, replay.cut.as_ref()?)));
        if let (Some((entries, (at, cause))), Some(journal)) = (cut, &self.journal) {
            let rest = journal.len() as u64 - at;
            let path = shown(&beside(&self.path));
            eprintln!(
                "razorfs: {path} counts up to byte {at}, {entries} entries: {cause}; the last \
                 {rest} bytes are left out"
            );
        }
        let path = shown(&self.path);
        for finding in &found.findings {
            let what = if finding.lost { "left out" } else { "doubtful" };
            eprintln!("razorfs: {what}: {path} {finding}");
        }
    }

    /// Puts the files in their places below `root`.
    pub fn fill(
        &self,
        found: &Found<'_>,
        tree: &dyn Tree,
        root: &Path,
        progress: &mut Progress,
    ) -> Result<()> {
        let bytes = found.items.iter().filter_map(|item| item.bytes);
        progress.set_total(bytes.map(|bytes| bytes.len() as u64).sum());
        place(found, self.written, tree, root, &mut |done, item| {
            progress.set(done);
            if item {
                progress.item();
            }
            signals::check()
        })
    }
}

/// Puts files in their places below `root`; those without a time get `written`. `step` is called
/// with the bytes that are done, and with true after each file.
pub fn place(
    found: &Found<'_>,
    written: Time,
    tree: &dyn Tree,
    root: &Path,
    step: &mut dyn FnMut(u64, bool) -> Result<()>,
) -> Result<()> {
    let done = Cell::new(0);
    let mut stepped = |item| step(done.get(), item);
    let mut placing = Placing::new(tree, root, &mut stepped);
    for item in &found.items {
        let path = root.join(tree::inner(Path::new(OsStr::from_bytes(item.path)))?);
        let meta = meta_of(item, written);
        let at = placing.spot(&path, meta.is_dir())?;
        if let Some(at) = &at {
            match item.bytes {
                None => tree.make(at, &meta, Path::new(""))?,
                Some(bytes) => {
                    let step = &mut *placing.step;
                    tree.write(at, &meta, &mut Bytes(bytes), &mut |n| {
                        done.set(done.get() + n);
                        step(false)
                    })?;
                }
            }
            tree.dress(at, &meta)?;
            placing.settle(at, &path)?;
        }
        if meta.is_dir() {
            placing.dress_later(path, meta, Vec::new())?;
        }
        (placing.step)(!meta.is_dir())?;
    }
    placing.finish()
}

/// The bytes of a file.
struct Bytes<'a>(&'a [u8]);

impl Read for Bytes<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buf)
    }
}

impl Source for Bytes<'_> {}

fn meta_of(item: &Item<'_>, written: Time) -> Meta {
    let kind = match item.bytes {
        None => FileKind::Directory,
        Some(_) => FileKind::Regular,
    };
    let mut meta = Meta::new(kind, item.mode);
    let time = item.millis.map_or(written, |millis| Time {
        secs: (millis / 1000) as i64,
        nanos: (millis % 1000) as u32 * 1_000_000,
    });
    (meta.atime, meta.mtime) = (time, time);
    meta
}

/// Whether a file begins as a tar does, or one that is compressed.
fn is_archive(start: &[u8]) -> bool {
    if start.starts_with(&[0x1F, 0x8B]) || start.starts_with(&[0x28, 0xB5, 0x2F, 0xFD]) {
        return true;
    }
    if start.len() < 512 {
        return false;
    }
    let before = start.iter().take(148);
    let after = start.iter().skip(156);
    let sum: u32 = before.chain(after).map(|byte| u32::from(*byte)).sum();
    let header = Header::from_byte_slice(start);
    // The checksum itself counts as spaces. A tar without files is all zeros.
    sum == 0 || header.cksum().is_ok_and(|said| said == sum + 8 * 32)
}

fn read_start(file: &File, start: &mut [u8]) -> std::io::Result<usize> {
    let mut n = 0;
    while let Some(rest) = start.get_mut(n..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, n as u64)? {
            0 => break,
            more => n += more,
        }
    }
    Ok(n)
}

/// Where the journal of a file lies.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".journal");
    name.into()
}

fn journal_of(path: &Path) -> Result<Option<Vec<u8>>> {
    let path = beside(path);
    match File::open(&path) {
        Ok(file) => slurp(&path, &file).map(Some),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Failure::host("open", path, &e)),
    }
}

/// All bytes of a file, if there is memory for them.
fn slurp(path: &Path, file: &File) -> Result<Vec<u8>> {
    let failed = |e| Failure::host("read", path, &e);
    let len = file.metadata().map_err(failed)?.len();
    let mut bytes = Vec::new();
    let room = usize::try_from(len).ok();
    if room.is_none_or(|room| bytes.try_reserve_exact(room).is_err()) {
        let cause = format!("its {len} bytes do not fit into memory");
        let remedy = "use a machine with more";
        return Err(Failure::with("read", path, cause, remedy));
    }
    let mut file = Interruptible(file);
    file.read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}
