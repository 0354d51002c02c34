//! Reads a whole file system into a state of the model, so that the two can be compared.

use std::collections::HashSet;
use std::sync::Arc;

use razorfs::{Error, FileKind, Ino, Result, SeekFor, Stat};

use crate::branches;
use crate::flags::FORBIDDING;
use crate::model::{Model, Node};
use crate::names;
use crate::points::Point;
use crate::subject::FileSystem;

const PIECE: usize = 64 * 1024;
/// No workload writes as much to one file: a file system that says so has lost its holes.
const MOST_DATA: u64 = 1 << 30;

/// Why a file system cannot be told as a state.
#[derive(Debug)]
pub enum DumpError {
    /// A call failed.
    Call(String, Error),
    /// What the calls say does not fit together.
    Nonsense(String),
}

impl std::fmt::Display for DumpError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Call(what, error) => write!(f, "{what}: {error}"),
            Self::Nonsense(what) => f.write_str(what),
        }
    }
}

impl DumpError {
    /// The same of a part of the volume.
    fn of(self, part: &str) -> Self {
        match self {
            Self::Call(what, error) => Self::Call(format!("{part}: {what}"), error),
            Self::Nonsense(what) => Self::Nonsense(format!("{part}: {what}")),
        }
    }
}

fn call<T>(what: impl FnOnce() -> String, result: Result<T>) -> std::result::Result<T, DumpError> {
    result.map_err(|e| DumpError::Call(what(), e))
}

/// Reads all that is reachable from the root: names, attributes, bytes; and the same of each branch
/// and each snapshot. `fs` is the head.
pub fn dump<F: FileSystem>(fs: &F) -> std::result::Result<Model, DumpError> {
    let mut model = dump_tree(fs)?;
    for name in fs.branches() {
        let at = call(|| format!("branch {name}"), fs.branch(&name))?;
        let state = dump_tree(&at).map_err(|e| e.of(&format!("branch {name}")))?;
        let Some(n) = branches::number(&name) else {
            return Err(DumpError::Nonsense(format!("a branch {name}")));
        };
        model.add_branch(n, state);
    }
    for name in fs.snapshots() {
        let at = call(|| format!("snapshot {name}"), fs.at_snapshot(&name))?;
        let state = dump_tree(&at).map_err(|e| e.of(&format!("snapshot {name}")))?;
        model.add_point(Point::found(&name, state));
    }
    Ok(model)
}

/// The tree alone.
pub(crate) fn dump_tree<F: FileSystem>(fs: &F) -> std::result::Result<Model, DumpError> {
    let mut model = Model::empty();
    let mut seen = HashSet::new();
    let mut to_visit = vec![Ino::ROOT];
    seen.insert(Ino::ROOT);
    while let Some(ino) = to_visit.pop() {
        let stat = call(|| format!("stat of inode {ino}"), fs.stat(ino))?;
        if stat.ino != ino {
            return Err(DumpError::Nonsense(format!(
                "stat of inode {ino} tells {}",
                stat.ino
            )));
        }
        let mut node = read_node(fs, &stat)?;
        if node.is_dir() {
            node.parent = call(|| format!("parent of {ino}"), fs.parent_of(ino))?;
            for entry in list(fs, ino)? {
                let Some(name) = names::id(&entry.name) else {
                    return Err(DumpError::Nonsense(format!(
                        "inode {ino} holds the name {}",
                        entry.name.escape_ascii()
                    )));
                };
                let found = call(
                    || format!("lookup of {} in {ino}", entry.name.escape_ascii()),
                    fs.lookup(ino, &entry.name),
                )?;
                if found.ino != entry.ino || found.kind() != entry.kind {
                    return Err(DumpError::Nonsense(format!(
                        "{} in inode {ino} is listed as {} {:?} and found as {} {:?}",
                        entry.name.escape_ascii(),
                        entry.ino,
                        entry.kind,
                        found.ino,
                        found.kind()
                    )));
                }
                if node.entries.insert(name, entry.ino).is_some() {
                    return Err(DumpError::Nonsense(format!(
                        "inode {ino} lists {} twice",
                        entry.name.escape_ascii()
                    )));
                }
                if seen.insert(entry.ino) {
                    to_visit.push(entry.ino);
                } else if entry.kind == FileKind::Directory {
                    return Err(DumpError::Nonsense(format!(
                        "directory {} twice",
                        entry.ino
                    )));
                }
            }
        }
        model.insert(ino, node);
    }
    Ok(model)
}

/// Whether the inodes of `model` that have no name and are held open are as it says.
pub fn nameless_agree<F: FileSystem>(
    fs: &F,
    model: &Model,
) -> std::result::Result<bool, DumpError> {
    for (ino, node) in model.nodes().filter(|(_, n)| n.nlink == 0) {
        let stat = match fs.stat(ino) {
            Err(Error::NotFound) => return Ok(false),
            stat => call(|| format!("stat of inode {ino}"), stat)?,
        };
        let mut found = read_node(fs, &stat)?;
        // Where it was before it lost its name is nobody's business.
        found.parent = node.parent;
        if !node.is_like(&found, ino) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// All entries of a directory; their cookies must increase.
fn list<F: FileSystem>(fs: &F, dir: Ino) -> std::result::Result<Vec<razorfs::Entry>, DumpError> {
    let entries = call(|| format!("list of {dir}"), fs.entries(dir, 0, usize::MAX))?;
    let mut last = 255;
    for entry in &entries {
        if entry.cookie <= last || entry.cookie > i64::MAX as u64 {
            return Err(DumpError::Nonsense(format!(
                "inode {dir} lists cookie {:#x} after {last:#x}",
                entry.cookie
            )));
        }
        last = entry.cookie;
    }
    Ok(entries)
}

fn read_node<F: FileSystem>(fs: &F, stat: &Stat) -> std::result::Result<Node, DumpError> {
    let ino = stat.ino;
    let Some(kind) = FileKind::from_mode(stat.mode) else {
        return Err(DumpError::Nonsense(format!(
            "inode {ino} has mode {:o}",
            stat.mode
        )));
    };
    let mut node = Node::new(kind, stat.mode & 0o7777);
    (node.uid, node.gid, node.rdev) = (stat.uid, stat.gid, stat.rdev);
    node.flags = stat.flags & FORBIDDING;
    node.nlink = stat.nlink;
    (node.atime, node.mtime) = (Some(stat.atime), Some(stat.mtime));
    match kind {
        FileKind::Regular => {
            node.size = stat.size;
            read_content(fs, stat, &mut node)?;
        }
        FileKind::Symlink => {
            let target = call(|| format!("target of {ino}"), fs.read_link(ino))?;
            node.target = Arc::from(target);
            if stat.size != node.target.len() as u64 {
                return Err(DumpError::Nonsense(format!(
                    "link {ino} has size {}",
                    stat.size
                )));
            }
        }
        _ => {}
    }
    for name in call(|| format!("attributes of {ino}"), fs.list_xattr(ino))? {
        let value = call(|| format!("attribute of {ino}"), fs.get_xattr(ino, &name))?;
        let Some(id) = names::xattr_id(&name) else {
            return Err(DumpError::Nonsense(format!(
                "inode {ino} has the attribute {}",
                name.escape_ascii()
            )));
        };
        if node.xattrs.insert(id, value.into_vec().into()).is_some() {
            return Err(DumpError::Nonsense(format!(
                "inode {ino} has an attribute twice"
            )));
        }
    }
    Ok(node)
}

/// Reads the bytes; of a large file only where the file system says that there is data.
fn read_content<F: FileSystem>(
    fs: &F,
    stat: &Stat,
    node: &mut Node,
) -> std::result::Result<(), DumpError> {
    let ino = stat.ino;
    let mut at = 0;
    let mut piece = vec![0; PIECE];
    let mut read = 0;
    while at < stat.size {
        let mut end = stat.size;
        if stat.size > 4 << 20 {
            match fs.seek(ino, at, SeekFor::Data) {
                Ok(data) => at = data,
                Err(Error::BeyondEnd) => break,
                Err(e) => return Err(DumpError::Call(format!("seek in {ino} at {at}"), e)),
            }
            end = call(|| format!("seek in {ino}"), fs.seek(ino, at, SeekFor::Hole))?;
            if end <= at || end > stat.size {
                return Err(DumpError::Nonsense(format!(
                    "hole of {ino} after {at} at {end}"
                )));
            }
        }
        while at < end {
            let want = (end - at).min(PIECE as u64) as usize;
            let room = piece.get_mut(..want).unwrap_or_default();
            room.fill(0xaa);
            let got = call(
                || format!("read of {ino} at {at}+{want}"),
                fs.read(ino, at, room),
            )?;
            if got != want {
                return Err(DumpError::Nonsense(format!(
                    "read of inode {ino} at {at}+{want} of {} gave {got} bytes",
                    stat.size
                )));
            }
            node.content.write(at, room);
            at += want as u64;
            read += want as u64;
            if read > MOST_DATA {
                return Err(DumpError::Nonsense(format!(
                    "inode {ino} is full of data at {at}"
                )));
            }
        }
    }
    Ok(())
}
