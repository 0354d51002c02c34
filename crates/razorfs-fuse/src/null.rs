//! A file system that keeps names and attributes in memory and no file data.
//!
//! It is what the server costs without an engine: the limit that benchmarks compare with, and a
//! file system to test the protocol on. Files keep their size and read as zeros.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use parking_lot::Mutex;
use razorfs::{
    AllocateMode, Entry, Error, FileKind, Ino, NewNode, RenameMode, Result, SeekFor, SetAttributes,
    Stat, VolumeSpace, XattrMode,
};

use crate::clock::now;
use crate::filesystem::{FileSystem, Synced};

/// Names and attributes in memory, no data.
pub struct NullFs {
    state: Mutex<State>,
}

struct State {
    nodes: HashMap<Ino, Node>,
    next: Ino,
}

struct Node {
    stat: Stat,
    parent: Ino,
    directory: Directory,
    target: Box<[u8]>,
    xattrs: BTreeMap<Box<[u8]>, Box<[u8]>>,
    pins: u64,
}

#[derive(Default)]
struct Directory {
    names: HashMap<Box<[u8]>, (u64, Ino, FileKind)>,
    order: BTreeMap<u64, Box<[u8]>>,
    last: u64,
}

impl Directory {
    fn insert(&mut self, name: &[u8], ino: Ino, kind: FileKind) {
        self.last = self.last.max(255) + 1;
        self.order.insert(self.last, name.into());
        self.names.insert(name.into(), (self.last, ino, kind));
    }

    fn remove(&mut self, name: &[u8]) {
        if let Some((cookie, ..)) = self.names.remove(name) {
            self.order.remove(&cookie);
        }
    }
}

impl Default for NullFs {
    fn default() -> Self {
        let mut state = State {
            nodes: HashMap::new(),
            next: Ino::ROOT,
        };
        state.make(Ino::ROOT, &NewNode::directory(0o755));
        state.next = Ino::FIRST;
        Self {
            state: Mutex::new(state),
        }
    }
}

impl State {
    fn node(&self, ino: Ino) -> Result<&Node> {
        self.nodes.get(&ino).ok_or(Error::NotFound)
    }

    fn node_mut(&mut self, ino: Ino) -> Result<&mut Node> {
        self.nodes.get_mut(&ino).ok_or(Error::NotFound)
    }

    fn directory(&mut self, ino: Ino) -> Result<&mut Node> {
        let node = self.node_mut(ino)?;
        if node.stat.kind() == FileKind::Directory {
            return Ok(node);
        }
        Err(Error::NotADirectory)
    }

    fn find(&self, parent: Ino, name: &[u8]) -> Result<(Ino, FileKind)> {
        let names = &self.node(parent)?.directory.names;
        names
            .get(name)
            .map(|&(_, ino, kind)| (ino, kind))
            .ok_or(Error::NotFound)
    }

    fn make(&mut self, parent: Ino, new: &NewNode<'_>) -> Stat {
        let ino = self.next;
        self.next = ino.next();
        let now = now();
        let directory = new.kind == FileKind::Directory;
        let mut stat = Stat {
            ino,
            mode: new.kind.mode_bits() | new.mode & !new.umask & 0o7777,
            nlink: if directory { 2 } else { 1 },
            uid: new.uid,
            gid: new.gid,
            rdev: new.rdev,
            flags: 0,
            size: new.target.len() as u64,
            blocks: 0,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
        };
        if let Ok(above) = self.node(parent)
            && above.stat.mode & libc::S_ISGID != 0
        {
            stat.gid = above.stat.gid;
            stat.mode |= if directory { libc::S_ISGID } else { 0 };
        }
        let node = Node {
            stat,
            parent,
            directory: Directory::default(),
            target: new.target.into(),
            xattrs: BTreeMap::new(),
            pins: 0,
        };
        self.nodes.insert(ino, node);
        stat
    }

    /// A name has come to or gone from a directory.
    fn changed(&mut self, dir: Ino, subdirectories: i32) -> Result<()> {
        let stat = &mut self.node_mut(dir)?.stat;
        stat.mtime = now();
        stat.ctime = stat.mtime;
        stat.nlink = stat.nlink.saturating_add_signed(subdirectories);
        Ok(())
    }

    fn unname(&mut self, ino: Ino) -> Result<()> {
        let node = self.node_mut(ino)?;
        node.stat.ctime = now();
        node.stat.nlink = match node.stat.kind() {
            FileKind::Directory => 0,
            _ => node.stat.nlink.saturating_sub(1),
        };
        self.reap(ino);
        Ok(())
    }

    fn reap(&mut self, ino: Ino) {
        if let Ok(node) = self.node(ino)
            && node.stat.nlink == 0
            && node.pins == 0
        {
            self.nodes.remove(&ino);
        }
    }

    fn remove(&mut self, parent: Ino, name: &[u8], directory: bool) -> Result<()> {
        let (ino, kind) = self.find(parent, name)?;
        match (kind == FileKind::Directory, directory) {
            (true, false) => return Err(Error::IsADirectory),
            (false, true) => return Err(Error::NotADirectory),
            (true, true) if !self.node(ino)?.directory.names.is_empty() => {
                return Err(Error::NotEmpty);
            }
            _ => {}
        }
        self.directory(parent)?.directory.remove(name);
        self.changed(parent, -i32::from(directory))?;
        self.unname(ino)
    }

    fn put(&mut self, dir: Ino, name: &[u8], ino: Ino, kind: FileKind) -> Result<()> {
        let node = self.directory(dir)?;
        node.directory.remove(name);
        node.directory.insert(name, ino, kind);
        self.changed(dir, 0)?;
        let node = self.node_mut(ino)?;
        node.parent = dir;
        node.stat.ctime = now();
        Ok(())
    }

    /// Moves the link of a subdirectory from one directory to another.
    fn move_link(&mut self, kind: FileKind, from: Ino, to: Ino) -> Result<()> {
        if kind == FileKind::Directory && from != to {
            self.changed(from, -1)?;
            self.changed(to, 1)?;
        }
        Ok(())
    }

    fn below(&self, mut dir: Ino, top: Ino) -> Result<bool> {
        while dir != Ino::ROOT {
            if dir == top {
                return Ok(true);
            }
            dir = self.node(dir)?.parent;
        }
        Ok(dir == top)
    }

    fn rename(
        &mut self,
        (dir, name): (Ino, &[u8]),
        (new_dir, new_name): (Ino, &[u8]),
        mode: RenameMode,
    ) -> Result<()> {
        let (ino, kind) = self.find(dir, name)?;
        self.directory(new_dir)?;
        let old = self.find(new_dir, new_name).ok();
        if kind == FileKind::Directory && self.below(new_dir, ino)? {
            return Err(Error::Invalid("a directory cannot be moved below itself"));
        }
        match (mode, old) {
            (RenameMode::NoReplace, Some(_)) => return Err(Error::Exists),
            (RenameMode::Whiteout { .. }, _) => return Err(Error::Invalid("no whiteouts here")),
            (RenameMode::Exchange, None) => return Err(Error::NotFound),
            (RenameMode::Exchange, Some((other, other_kind))) => {
                if other_kind == FileKind::Directory && self.below(dir, other)? {
                    return Err(Error::Invalid("a directory cannot be moved below itself"));
                }
                self.put(new_dir, new_name, ino, kind)?;
                self.put(dir, name, other, other_kind)?;
                self.move_link(kind, dir, new_dir)?;
                return self.move_link(other_kind, new_dir, dir);
            }
            (_, Some((other, _))) if other == ino => return Ok(()),
            (_, Some(_)) => self.remove(new_dir, new_name, kind == FileKind::Directory)?,
            (_, None) => {}
        }
        self.directory(dir)?.directory.remove(name);
        self.changed(dir, 0)?;
        self.put(new_dir, new_name, ino, kind)?;
        self.move_link(kind, dir, new_dir)
    }
}

impl FileSystem for NullFs {
    fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Stat> {
        #[cfg(test)]
        assert_ne!(name, b"panic", "a test wants to see a panic");
        check_name(name)?;
        let state = self.state.lock();
        let (ino, _) = state.find(parent, name)?;
        Ok(state.node(ino)?.stat)
    }

    fn stat(&self, ino: Ino) -> Result<Stat> {
        Ok(self.state.lock().node(ino)?.stat)
    }

    fn parent_of(&self, dir: Ino) -> Result<Ino> {
        Ok(self.state.lock().node(dir)?.parent)
    }

    fn create_node(&self, parent: Ino, name: &[u8], node: &NewNode<'_>) -> Result<Stat> {
        check_name(name)?;
        let mut state = self.state.lock();
        let above = state.directory(parent)?;
        if above.stat.nlink == 0 {
            return Err(Error::NotFound);
        }
        if above.directory.names.contains_key(name) {
            return Err(Error::Exists);
        }
        let stat = state.make(parent, node);
        state.put(parent, name, stat.ino, node.kind)?;
        state.changed(parent, i32::from(node.kind == FileKind::Directory))?;
        Ok(stat)
    }

    fn create_unnamed(&self, parent: Ino, node: &NewNode<'_>) -> Result<Stat> {
        let mut state = self.state.lock();
        let mut stat = state.make(parent, node);
        stat.nlink = 0;
        state.node_mut(stat.ino)?.stat = stat;
        Ok(stat)
    }

    fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Stat> {
        check_name(name)?;
        let mut state = self.state.lock();
        if state.directory(parent)?.directory.names.contains_key(name) {
            return Err(Error::Exists);
        }
        let kind = state.node(ino)?.stat.kind();
        state.put(parent, name, ino, kind)?;
        let node = state.node_mut(ino)?;
        node.stat.nlink += 1;
        Ok(node.stat)
    }

    fn unlink(&self, parent: Ino, name: &[u8]) -> Result<()> {
        self.state.lock().remove(parent, name, false)
    }

    fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<()> {
        self.state.lock().remove(parent, name, true)
    }

    fn rename(
        &self,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<()> {
        check_name(new_name)?;
        let mut state = self.state.lock();
        state.rename((parent, name), (new_parent, new_name), mode)
    }

    fn set_attributes(&self, ino: Ino, changes: &SetAttributes) -> Result<Stat> {
        let mut state = self.state.lock();
        let stat = &mut state.node_mut(ino)?.stat;
        let now = now();
        if let Some(mode) = changes.mode {
            stat.mode = stat.mode & libc::S_IFMT | mode & 0o7777;
        }
        if let Some(size) = changes.size {
            stat.size = size;
            stat.mtime = now;
        }
        stat.uid = changes.uid.unwrap_or(stat.uid);
        stat.gid = changes.gid.unwrap_or(stat.gid);
        stat.flags = changes.flags.unwrap_or(stat.flags);
        stat.atime = changes.atime.unwrap_or(stat.atime);
        stat.mtime = changes.mtime.unwrap_or(stat.mtime);
        stat.ctime = changes.ctime.unwrap_or(now);
        Ok(*stat)
    }

    fn read_link(&self, ino: Ino) -> Result<Box<[u8]>> {
        Ok(self.state.lock().node(ino)?.target.clone())
    }

    fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let left = self.stat(ino)?.size.saturating_sub(offset);
        let n = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        buf.iter_mut().take(n).for_each(|b| *b = 0);
        Ok(n)
    }

    fn write(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<usize> {
        let mut state = self.state.lock();
        let stat = &mut state.node_mut(ino)?.stat;
        let end = offset
            .checked_add(data.len() as u64)
            .ok_or(Error::FileTooLarge)?;
        stat.size = stat.size.max(end);
        stat.blocks = stat.size.div_ceil(512);
        stat.mtime = now();
        stat.ctime = stat.mtime;
        Ok(data.len())
    }

    fn allocate(&self, ino: Ino, mode: AllocateMode, offset: u64, len: u64) -> Result<()> {
        let mut state = self.state.lock();
        let stat = &mut state.node_mut(ino)?.stat;
        if matches!(mode, AllocateMode::Extend | AllocateMode::ZeroExtend) {
            let end = offset.checked_add(len).ok_or(Error::FileTooLarge)?;
            stat.size = stat.size.max(end);
        }
        stat.mtime = now();
        stat.ctime = stat.mtime;
        Ok(())
    }

    fn seek(&self, ino: Ino, offset: u64, what: SeekFor) -> Result<u64> {
        let size = self.stat(ino)?.size;
        match what {
            _ if offset >= size => Err(Error::BeyondEnd),
            SeekFor::Data => Ok(offset),
            SeekFor::Hole => Ok(size),
        }
    }

    fn copy_range(&self, from: Ino, from_off: u64, to: Ino, to_off: u64, len: u64) -> Result<u64> {
        let len = len.min(self.stat(from)?.size.saturating_sub(from_off));
        self.allocate(to, AllocateMode::Extend, to_off, len)?;
        Ok(len)
    }

    fn collect_children(
        &self,
        dir: Ino,
        after_cookie: u64,
        each: &mut dyn FnMut(Entry) -> bool,
    ) -> Result<()> {
        let mut state = self.state.lock();
        let Directory { names, order, .. } = &state.directory(dir)?.directory;
        for (&cookie, name) in order.range((Bound::Excluded(after_cookie), Bound::Unbounded)) {
            let Some(&(_, ino, kind)) = names.get(name) else {
                continue;
            };
            let name = name.clone();
            let entry = Entry {
                cookie,
                ino,
                kind,
                name,
            };
            if !each(entry) {
                break;
            }
        }
        Ok(())
    }

    fn get_xattr(&self, ino: Ino, name: &[u8]) -> Result<Box<[u8]>> {
        let state = self.state.lock();
        let value = state.node(ino)?.xattrs.get(name);
        value.cloned().ok_or(Error::NoAttribute)
    }

    fn set_xattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        let mut state = self.state.lock();
        let xattrs = &mut state.node_mut(ino)?.xattrs;
        match (mode, xattrs.contains_key(name)) {
            (XattrMode::Create, true) => Err(Error::Exists),
            (XattrMode::Replace, false) => Err(Error::NoAttribute),
            _ => {
                xattrs.insert(name.into(), value.into());
                Ok(())
            }
        }
    }

    fn list_xattr(&self, ino: Ino) -> Result<Vec<Box<[u8]>>> {
        Ok(self
            .state
            .lock()
            .node(ino)?
            .xattrs
            .keys()
            .cloned()
            .collect())
    }

    fn remove_xattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        let mut state = self.state.lock();
        let removed = state.node_mut(ino)?.xattrs.remove(name);
        removed.map(drop).ok_or(Error::NoAttribute)
    }

    fn space(&self) -> Result<VolumeSpace> {
        Ok(VolumeSpace {
            total: 1 << 40,
            free: 1 << 40,
            inodes: self.state.lock().nodes.len() as u64,
        })
    }

    fn pin(&self, ino: Ino, n: u64) {
        if let Ok(node) = self.state.lock().node_mut(ino) {
            node.pins += n;
        }
    }

    fn unpin(&self, ino: Ino, n: u64) {
        let mut state = self.state.lock();
        if let Ok(node) = state.node_mut(ino) {
            node.pins = node.pins.saturating_sub(n);
            state.reap(ino);
        }
    }

    fn shut_down(&self) -> Result<()> {
        Err(Error::Unsupported("there is no disk to be cut off from"))
    }

    fn sync_then(&self, done: Synced) {
        done(Ok(()));
    }

    fn accessed(&self, _ino: Ino) {}

    fn panicked(&self, request: &str) {
        tracing::error!("a {request} request ended with a panic");
    }

    fn session_ended(&self) {}

    // Nothing of it outlives its process.
    fn applied(&self, _request: u64) -> Option<u64> {
        None
    }

    fn doubtful(&self) -> Vec<Ino> {
        Vec::new()
    }

    fn all_came_again(&self) {}

    fn held(&self, _ino: Ino) {}

    fn not_held(&self, _ino: Ino) {}
}

fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > 255 {
        return Err(Error::NameTooLong);
    }
    Ok(())
}
