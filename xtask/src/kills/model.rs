//! What one worker does to its directory, one system call that changes something at a time, and
//! what is there after each. Both the load and the check get it from the seed.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hasher as _};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, symlink};
use std::path::Path;

use super::random::Random;

/// Where files may be, below the directory of the worker.
const DIRS: [&str; 3] = ["", "a/", "b/"];
const NAMES: u64 = 8;
/// No file gets longer than this.
const LONGEST: u64 = 256 << 10;
/// A write of this length is still one operation of the volume.
const LONGEST_WRITE: u64 = 100 << 10;

/// Of the kernel's cache.
const PAGE: u64 = 4096;

/// As open(2) has them on Linux.
const O_SYNC: i32 = 0o4_010_000;
const O_DSYNC: i32 = 0o10_000;

/// One change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// A new file.
    Create(String),
    /// Bytes at a place of a file.
    Write {
        path: String,
        at: u64,
        bytes: Vec<u8>,
        /// What the file is opened with: 0, `O_SYNC` or `O_DSYNC`.
        flags: i32,
    },
    /// A file gets this length.
    Truncate(String, u64),
    /// A name takes the place of another.
    Rename(String, String),
    /// One more name of a file.
    Link(String, String),
    /// A symbolic link to a text.
    Symlink(String, String),
    /// A name goes.
    Unlink(String),
}

impl Op {
    /// Whether what it does is on the disk when it returns.
    pub fn is_synced(&self) -> bool {
        matches!(self, Self::Write { flags, .. } if *flags != 0)
    }

    /// The write of its first bytes; anything else as it is.
    pub fn first(&self, len: usize) -> Self {
        let mut op = self.clone();
        if let Self::Write { bytes, .. } = &mut op {
            bytes.truncate(len);
        }
        op
    }

    /// What it may be found as if a crash came in between. The kernel hands a write over in
    /// several requests if a page that is written in part is not in its cache.
    pub fn parts(&self) -> Vec<Self> {
        let Self::Write { at, bytes, .. } = self else {
            return Vec::new();
        };
        let end = at + bytes.len() as u64;
        let pages = (at / PAGE + 1..).map(|page| page * PAGE);
        let cuts = pages.take_while(|cut| *cut < end);
        cuts.map(|cut| self.first(usize::try_from(cut - at).unwrap_or(0)))
            .collect()
    }

    /// The bytes that a write writes.
    pub fn len(&self) -> Option<usize> {
        match self {
            Self::Write { bytes, .. } => Some(bytes.len()),
            _ => None,
        }
    }

    /// Does it below `dir`; answers with what of it was done, which is less than all of it if
    /// there is room for a part of a write.
    pub fn run(&self, dir: &Path) -> io::Result<Self> {
        let writing = |path: &str| fs::OpenOptions::new().write(true).open(dir.join(path));
        match self {
            Self::Create(path) => {
                let mut options = fs::OpenOptions::new();
                options.write(true).create_new(true);
                options.open(dir.join(path)).map(drop)?;
            }
            Self::Write {
                path,
                at,
                bytes,
                flags,
            } => {
                let mut options = fs::OpenOptions::new();
                options.write(true).custom_flags(*flags);
                let written = options.open(dir.join(path))?.write_at(bytes, *at)?;
                return Ok(self.first(written));
            }
            Self::Truncate(path, len) => writing(path)?.set_len(*len)?,
            Self::Rename(from, to) => fs::rename(dir.join(from), dir.join(to))?,
            Self::Link(from, to) => fs::hard_link(dir.join(from), dir.join(to))?,
            Self::Symlink(text, path) => symlink(text, dir.join(path))?,
            Self::Unlink(path) => fs::remove_file(dir.join(path))?,
        }
        Ok(self.clone())
    }
}

/// What a name stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Node {
    /// The file of that number.
    File(usize),
    Symlink(String),
}

/// The bytes of a file, and what tells them from others once somebody asked.
#[derive(Clone, Default)]
struct Content {
    bytes: Vec<u8>,
    sum: Option<u64>,
}

/// What the directory of a worker holds.
#[derive(Clone, Default)]
pub struct Model {
    names: BTreeMap<String, Node>,
    files: Vec<Content>,
}

/// Each path with what is seen of it.
pub type Seen = BTreeMap<String, String>;

impl Model {
    /// The directories that all of it happens in.
    pub fn make_directories(dir: &Path) -> io::Result<()> {
        fs::create_dir(dir)?;
        for sub in DIRS.iter().filter(|sub| !sub.is_empty()) {
            fs::create_dir(dir.join(sub))?;
        }
        Ok(())
    }

    /// The next change: one that is possible now.
    pub fn next(&self, random: &mut Random) -> Op {
        let path = |random: &mut Random| {
            let dir = random.pick(&DIRS).copied().unwrap_or_default();
            format!("{dir}f{}", random.below(NAMES))
        };
        let files: Vec<&String> = self
            .names
            .iter()
            .filter(|(_, node)| matches!(node, Node::File(_)))
            .map(|(name, _)| name)
            .collect();
        let some = path(random);
        let Some(file) = random.pick(&files).map(|file| (*file).clone()) else {
            return if self.names.contains_key(&some) {
                Op::Unlink(some)
            } else {
                Op::Create(some)
            };
        };
        let is_free = !self.names.contains_key(&some);
        match random.below(20) {
            0..3 if is_free => Op::Create(some),
            3 if is_free => Op::Link(file, some),
            4 if is_free => Op::Symlink(format!("text {}", random.next()), some),
            0..2 if !is_free => Op::Unlink(some),
            // Of two names of one file rename takes none away.
            5..8 if self.names.get(&some) != self.names.get(&file) => Op::Rename(file, some),
            8 => Op::Truncate(file, random.below(LONGEST)),
            _ => self.write(file, random),
        }
    }

    fn write(&self, path: String, random: &mut Random) -> Op {
        let len = match random.below(20) {
            0 => random.between(1, LONGEST_WRITE),
            1..5 => random.between(1, 16 << 10),
            _ => random.between(1, 3000),
        };
        let end = self.content(&path).map_or(0, |bytes| bytes.len() as u64);
        let at = match random.below(3) {
            // Behind the end, where there is room for that.
            0 if end + len <= LONGEST => end,
            1 => random.below(end + 1).min(LONGEST - len),
            _ => random.below(LONGEST - len),
        };
        let flags = match random.below(12) {
            0 => O_SYNC,
            1 => O_DSYNC,
            _ => 0,
        };
        Op::Write {
            path,
            at,
            bytes: random.bytes(usize::try_from(len).unwrap_or(0)),
            flags,
        }
    }

    /// The bytes of the file of that name.
    pub fn content(&self, path: &str) -> Option<&[u8]> {
        match self.names.get(path)? {
            Node::File(n) => self.files.get(*n).map(|file| file.bytes.as_slice()),
            Node::Symlink(_) => None,
        }
    }

    /// Whether two names are of one file.
    pub fn is_same(&self, a: &str, b: &str) -> bool {
        self.names.get(a) == self.names.get(b)
    }

    /// All files.
    pub fn files(&self) -> Vec<&String> {
        let names = self.names.keys();
        names.filter(|name| self.content(name).is_some()).collect()
    }

    /// It has been done.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Create(path) => {
                self.names
                    .insert(path.clone(), Node::File(self.files.len()));
                self.files.push(Content::default());
            }
            Op::Write {
                path, at, bytes, ..
            } => {
                let at = usize::try_from(*at).unwrap_or(usize::MAX);
                self.change(path, |old| {
                    let end = at + bytes.len();
                    if old.len() < end {
                        old.resize(end, 0);
                    }
                    if let Some(part) = old.get_mut(at..end) {
                        part.copy_from_slice(bytes);
                    }
                });
            }
            Op::Truncate(path, len) => {
                let len = usize::try_from(*len).unwrap_or(usize::MAX);
                self.change(path, |old| old.resize(len, 0));
            }
            Op::Rename(from, to) => {
                if let Some(node) = self.names.remove(from) {
                    self.names.insert(to.clone(), node);
                }
            }
            Op::Link(from, to) => {
                if let Some(node) = self.names.get(from).cloned() {
                    self.names.insert(to.clone(), node);
                }
            }
            Op::Symlink(text, path) => {
                self.names.insert(path.clone(), Node::Symlink(text.clone()));
            }
            Op::Unlink(path) => {
                self.names.remove(path);
            }
        }
    }

    fn change(&mut self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some(Node::File(n)) = self.names.get(path)
            && let Some(file) = self.files.get_mut(*n)
        {
            change(&mut file.bytes);
            file.sum = None;
        }
    }

    /// What is to be seen of it.
    pub fn seen(&mut self) -> Seen {
        let mut links = BTreeMap::new();
        for node in self.names.values() {
            if let Node::File(n) = node {
                *links.entry(*n).or_insert(0) += 1;
            }
        }
        let mut seen = Seen::new();
        for (name, node) in &self.names {
            let shown = match node {
                Node::Symlink(text) => format!("-> {text}"),
                Node::File(n) => {
                    let links = links.get(n).copied().unwrap_or(0);
                    self.files.get_mut(*n).map_or_else(String::new, |file| {
                        let sum = *file.sum.get_or_insert_with(|| sum(&file.bytes));
                        describe(links, file.bytes.len(), sum)
                    })
                }
            };
            seen.insert(name.clone(), shown);
        }
        seen
    }
}

fn describe(links: u64, len: usize, sum: u64) -> String {
    format!("{links} links, {len} bytes, sum {sum:016x}")
}

fn sum(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// What is to be seen in a directory.
pub fn look(dir: &Path) -> io::Result<Seen> {
    let mut seen = Seen::new();
    for sub in DIRS {
        for entry in fs::read_dir(dir.join(sub))? {
            let entry = entry?;
            let path = format!("{sub}{}", entry.file_name().to_string_lossy());
            let meta = fs::symlink_metadata(entry.path())?;
            let shown = if meta.is_symlink() {
                let text = fs::read_link(entry.path())?;
                format!("-> {}", text.display())
            } else if meta.is_dir() {
                if DIRS.contains(&format!("{path}/").as_str()) {
                    continue;
                }
                "a directory".into()
            } else {
                let bytes = fs::read(entry.path())?;
                if bytes.len() as u64 != meta.len() {
                    let (len, read) = (meta.len(), bytes.len());
                    let message = format!("{path}: {len} bytes long, {read} are read");
                    return Err(io::Error::other(message));
                }
                describe(meta.nlink(), bytes.len(), sum(&bytes))
            };
            seen.insert(path, shown);
        }
    }
    Ok(seen)
}
