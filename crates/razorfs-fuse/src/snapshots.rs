//! A volume and its snapshots as one file system: what every snapshot shows can be read at
//! `.razorfs/snapshots/NAME` in the root of the mount, a directory that no listing tells of.
//!
//! Node numbers of the volume are its inode numbers; those of a snapshot have a *slot* in their top
//! 16 bits, and the directories above them the last one. A slot follows from the snapshot's number,
//! so that a server which goes on after another's death gives the same snapshot the same one; only
//! where two that are in use at a time have the same, the second gets the next that is free.
//!
//! A snapshot is open as long as the kernel knows a node of it, and stays at least so long, even if
//! it is deleted.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use razorfs::{
    AllocateMode, Entry, Error, FileKind, Ino, NewNode, RenameMode, Result, SeekFor, SetAttributes,
    Snapshot, Stale, Stat, Volume, VolumeSpace, XattrMode,
};

use crate::filesystem::{FileSystem, Synced};
use crate::notify::{Changed, Notifier};

/// The directory in the root of a mount.
pub const HIDDEN: &str = ".razorfs";
/// The one in it that has the snapshots.
pub const SNAPSHOTS: &str = "snapshots";

/// Bits of a node number that are the inode's.
const INO_BITS: u32 = 48;
/// The slot of the directories that are in no volume.
const ABOVE: u64 = 0xffff;
/// Node of [`HIDDEN`].
const HIDDEN_NODE: Ino = Ino(ABOVE << INO_BITS | 1);
/// Node of [`SNAPSHOTS`].
const SNAPSHOTS_NODE: Ino = Ino(ABOVE << INO_BITS | 2);
/// Nodes from here on stand for snapshots that are listed and not open: nothing leads to them.
const LISTED: u64 = ABOVE << INO_BITS | 1 << 32;
/// Cookies below this one stand for `.` and `..`.
const FIRST_COOKIE: u64 = 256;

/// A snapshot that the kernel knows something of.
struct Open {
    volume: Volume,
    id: u64,
    slot: u64,
    /// How often the kernel knows a node of it.
    pins: AtomicU64,
}

impl Open {
    fn node(&self, ino: Ino) -> Ino {
        Ino(self.slot << INO_BITS | ino.0)
    }

    fn stat(&self, stat: Stat) -> Stat {
        let ino = self.node(stat.ino);
        Stat { ino, ..stat }
    }
}

/// Where a node is.
enum At {
    /// In the volume.
    Volume,
    /// In a snapshot.
    Snapshot(Arc<Open>, Ino),
    /// It is [`HIDDEN`].
    Hidden,
    /// It is [`SNAPSHOTS`].
    Snapshots,
}

/// A volume with its snapshots.
pub struct WithSnapshots {
    volume: Volume,
    open: Mutex<HashMap<u64, Arc<Open>>>,
}

impl WithSnapshots {
    /// Shows those of `volume`.
    #[must_use]
    pub fn new(volume: Volume) -> Self {
        volume.somebody_comes();
        Self {
            volume,
            open: Mutex::default(),
        }
    }

    fn at(&self, node: Ino) -> Result<At> {
        let slot = node.0 >> INO_BITS;
        if slot == 0 {
            return Ok(At::Volume);
        }
        match node {
            HIDDEN_NODE => return Ok(At::Hidden),
            SNAPSHOTS_NODE => return Ok(At::Snapshots),
            _ if slot == ABOVE => return Err(Error::Unsupported("it is listed and not open")),
            _ => {}
        }
        let ino = Ino(node.0 & ((1 << INO_BITS) - 1));
        if let Some(open) = self.open.lock().get(&slot) {
            return Ok(At::Snapshot(Arc::clone(open), ino));
        }
        // The server before this one had given it out.
        let mut of_slot = self.volume.snapshots().into_iter();
        let snapshot = of_slot.find(|s| slot_of(s.id) == slot);
        let open = self.open(&snapshot.ok_or(Error::RolledBack)?)?;
        Ok(At::Snapshot(open, ino))
    }

    /// Opens a snapshot, unless it is.
    fn open(&self, snapshot: &Snapshot) -> Result<Arc<Open>> {
        let mut all = self.open.lock();
        let mut slot = slot_of(snapshot.id);
        while let Some(open) = all.get(&slot) {
            if open.id == snapshot.id {
                return Ok(Arc::clone(open));
            }
            slot = if slot + 1 == ABOVE { 1 } else { slot + 1 };
        }
        let open = Arc::new(Open {
            volume: self.volume.at_snapshot(&snapshot.name)?,
            id: snapshot.id,
            slot,
            pins: AtomicU64::new(0),
        });
        all.insert(slot, Arc::clone(&open));
        Ok(open)
    }

    /// What `stat` says of a directory that is in no volume.
    fn above(&self, node: Ino) -> Result<Stat> {
        let root = self.volume.stat(Ino::ROOT)?;
        Ok(Stat {
            ino: node,
            mode: root.mode & 0o170_000 | 0o555,
            nlink: 2,
            flags: 0,
            ..root
        })
    }

    fn list(&self, after: u64, each: &mut dyn FnMut(Entry) -> bool) {
        let entry = |s: Snapshot| Entry {
            cookie: FIRST_COOKIE + s.id,
            ino: Ino(LISTED + s.id % (1 << 32)),
            kind: FileKind::Directory,
            name: s.name.into_bytes().into(),
        };
        let mut snapshots = self.volume.snapshots();
        // Their numbers grow with time, and with them the cookies.
        snapshots.sort_unstable_by_key(|s| s.id);
        let mut entries = snapshots.into_iter().map(entry);
        let _ = entries.all(|entry| entry.cookie <= after || each(entry));
    }
}

/// Makes the kernel forget what is not as it was `before` a rollback, or before a stream was
/// received.
///
/// With write-back caching the kernel goes by its own size of a file as long as it knows the inode,
/// so what has changed is looked up anew under all its names: then it is let go of, unless a
/// program has it open. Such a program sees the old size until it closes the file.
pub fn forget_stale(volume: &Volume, before: &Volume, notifier: &Notifier) -> Result<()> {
    // Before it is asked what the kernel holds, as answers tell it of more.
    let kernel = notifier.changed();
    let stale = volume.stale_since(before)?;
    tell(&kernel, &stale);
    Ok(())
}

/// Makes the kernel forget what somebody has changed who did not come through the mount.
pub fn forget(stale: &Stale, notifier: &Notifier) {
    tell(&notifier.changed(), stale);
}

fn tell(kernel: &Changed<'_>, stale: &Stale) {
    // Whether the mount is gone meanwhile is nothing to whoever has changed it.
    let told = |told: std::io::Result<()>| {
        if let Err(e) = told {
            tracing::debug!(error = %e, "the kernel could not be told of a change");
        }
    };
    for dir in &stale.returned {
        kernel.returned(*dir);
    }
    for (dir, name) in &stale.names {
        told(kernel.name(*dir, name));
    }
    // After the names: an inode that a program was just looking up is known by then.
    for ino in &stale.inodes {
        told(kernel.inode(*ino));
    }
}

/// Makes the kernel forget which snapshot a name leads to, or that it leads to none.
pub fn forget_snapshot(name: &str, notifier: &Notifier) {
    if let Err(e) = notifier.changed().name(SNAPSHOTS_NODE, name.as_bytes()) {
        tracing::debug!(error = %e, "the kernel could not be told of a snapshot");
    }
}

/// The slot that a snapshot has if it is free.
const fn slot_of(id: u64) -> u64 {
    id % (ABOVE - 1) + 1
}

/// The answer to whoever changes what cannot be changed.
fn refused<T>() -> Result<T> {
    Err(Error::ReadOnly("snapshots do not change".into()))
}

/// The volume, if both nodes are in it.
macro_rules! only_volume {
    ($self:ident, $($node:expr),+ => $call:expr) => {{
        $(match $self.at($node)? {
            At::Volume => {}
            At::Snapshot(..) | At::Hidden | At::Snapshots => return refused(),
        })+
        $call
    }};
}

impl FileSystem for WithSnapshots {
    fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Stat> {
        match self.at(parent)? {
            At::Volume => match self.volume.lookup(parent, name) {
                Err(Error::NotFound) if parent == Ino::ROOT && name == HIDDEN.as_bytes() => {
                    self.above(HIDDEN_NODE)
                }
                found => found,
            },
            At::Snapshot(open, ino) => Ok(open.stat(open.volume.lookup(ino, name)?)),
            At::Hidden if name == SNAPSHOTS.as_bytes() => self.above(SNAPSHOTS_NODE),
            At::Hidden => Err(Error::NotFound),
            At::Snapshots => {
                let mut all = self.volume.snapshots().into_iter();
                let snapshot = all.find(|s| s.name.as_bytes() == name);
                let open = self.open(&snapshot.ok_or(Error::NotFound)?)?;
                Ok(open.stat(open.volume.stat(Ino::ROOT)?))
            }
        }
    }

    fn stat(&self, ino: Ino) -> Result<Stat> {
        match self.at(ino)? {
            At::Volume => self.volume.stat(ino),
            At::Snapshot(open, ino) => Ok(open.stat(open.volume.stat(ino)?)),
            At::Hidden | At::Snapshots => self.above(ino),
        }
    }

    fn parent_of(&self, dir: Ino) -> Result<Ino> {
        match self.at(dir)? {
            At::Volume => self.volume.parent_of(dir),
            At::Snapshot(_, Ino::ROOT) => Ok(SNAPSHOTS_NODE),
            At::Snapshot(open, ino) => Ok(open.node(open.volume.parent_of(ino)?)),
            At::Hidden => Ok(Ino::ROOT),
            At::Snapshots => Ok(HIDDEN_NODE),
        }
    }

    fn create_node(&self, parent: Ino, name: &[u8], node: &NewNode<'_>) -> Result<Stat> {
        only_volume!(self, parent => self.volume.create_node(parent, name, node))
    }

    fn create_unnamed(&self, parent: Ino, node: &NewNode<'_>) -> Result<Stat> {
        only_volume!(self, parent => self.volume.create_unnamed(parent, node))
    }

    fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Stat> {
        only_volume!(self, ino, parent => self.volume.link(ino, parent, name))
    }

    fn unlink(&self, parent: Ino, name: &[u8]) -> Result<()> {
        only_volume!(self, parent => self.volume.unlink(parent, name))
    }

    fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<()> {
        only_volume!(self, parent => self.volume.rmdir(parent, name))
    }

    fn rename(
        &self,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<()> {
        only_volume!(self, parent, new_parent =>
            self.volume.rename(parent, name, new_parent, new_name, mode))
    }

    fn set_attributes(&self, ino: Ino, changes: &SetAttributes) -> Result<Stat> {
        only_volume!(self, ino => self.volume.set_attributes(ino, changes))
    }

    fn accessed(&self, ino: Ino) {
        if let Ok(At::Volume) = self.at(ino) {
            self.volume.accessed(ino);
        }
    }

    fn read_link(&self, ino: Ino) -> Result<Box<[u8]>> {
        match self.at(ino)? {
            At::Volume => self.volume.read_link(ino),
            At::Snapshot(open, ino) => open.volume.read_link(ino),
            At::Hidden | At::Snapshots => Err(Error::Invalid("not a symbolic link")),
        }
    }

    fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize> {
        match self.at(ino)? {
            At::Volume => self.volume.read(ino, offset, buf),
            At::Snapshot(open, ino) => open.volume.read(ino, offset, buf),
            At::Hidden | At::Snapshots => Err(Error::IsADirectory),
        }
    }

    fn write(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<usize> {
        only_volume!(self, ino => self.volume.write(ino, offset, data))
    }

    fn allocate(&self, ino: Ino, mode: AllocateMode, offset: u64, len: u64) -> Result<()> {
        only_volume!(self, ino => self.volume.allocate(ino, mode, offset, len))
    }

    fn seek(&self, ino: Ino, offset: u64, what: SeekFor) -> Result<u64> {
        match self.at(ino)? {
            At::Volume => self.volume.seek(ino, offset, what),
            At::Snapshot(open, ino) => open.volume.seek(ino, offset, what),
            At::Hidden | At::Snapshots => Err(Error::IsADirectory),
        }
    }

    fn copy_range(&self, from: Ino, from_off: u64, to: Ino, to_off: u64, len: u64) -> Result<u64> {
        match (self.at(from)?, self.at(to)?) {
            (At::Volume, At::Volume) => self.volume.copy_range(from, from_off, to, to_off, len),
            // The kernel copies it then.
            (_, At::Volume) => Err(Error::Unsupported("copying out of a snapshot in one step")),
            _ => refused(),
        }
    }

    fn collect_children(
        &self,
        dir: Ino,
        after_cookie: u64,
        each: &mut dyn FnMut(Entry) -> bool,
    ) -> Result<()> {
        match self.at(dir)? {
            At::Volume => self.volume.collect_children(dir, after_cookie, each),
            At::Snapshot(open, ino) => {
                let mut tagged = |entry: Entry| {
                    let ino = open.node(entry.ino);
                    each(Entry { ino, ..entry })
                };
                let volume = &open.volume;
                volume.collect_children(ino, after_cookie, &mut tagged)
            }
            At::Hidden => {
                if after_cookie < FIRST_COOKIE {
                    each(Entry {
                        cookie: FIRST_COOKIE,
                        ino: SNAPSHOTS_NODE,
                        kind: FileKind::Directory,
                        name: SNAPSHOTS.as_bytes().into(),
                    });
                }
                Ok(())
            }
            At::Snapshots => {
                self.list(after_cookie, each);
                Ok(())
            }
        }
    }

    fn get_xattr(&self, ino: Ino, name: &[u8]) -> Result<Box<[u8]>> {
        match self.at(ino)? {
            At::Volume => self.volume.get_xattr(ino, name),
            At::Snapshot(open, ino) => open.volume.get_xattr(ino, name),
            At::Hidden | At::Snapshots => Err(Error::NoAttribute),
        }
    }

    fn set_xattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        only_volume!(self, ino => self.volume.set_xattr(ino, name, value, mode))
    }

    fn list_xattr(&self, ino: Ino) -> Result<Vec<Box<[u8]>>> {
        match self.at(ino)? {
            At::Volume => self.volume.list_xattr(ino),
            At::Snapshot(open, ino) => open.volume.list_xattr(ino),
            At::Hidden | At::Snapshots => Ok(Vec::new()),
        }
    }

    fn remove_xattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        only_volume!(self, ino => self.volume.remove_xattr(ino, name))
    }

    fn space(&self) -> Result<VolumeSpace> {
        self.volume.space()
    }

    fn pin(&self, ino: Ino, n: u64) {
        match self.at(ino) {
            Ok(At::Volume) => self.volume.pin(ino, n),
            Ok(At::Snapshot(open, _)) => {
                open.pins.fetch_add(n, Ordering::Relaxed);
            }
            Ok(At::Hidden | At::Snapshots) | Err(_) => {}
        }
    }

    fn unpin(&self, ino: Ino, n: u64) {
        let slot = ino.0 >> INO_BITS;
        if slot == 0 {
            return self.volume.unpin(ino, n);
        }
        // Dropped without the lock: it may be the last that holds the snapshot.
        let mut last = None;
        let mut all = self.open.lock();
        if let Some(open) = all.get(&slot) {
            let before = open.pins.load(Ordering::Relaxed);
            let left = before.saturating_sub(n);
            open.pins.store(left, Ordering::Relaxed);
            // What a server before had counted is not known: then it stays.
            if left == 0 && before > 0 {
                last = all.remove(&slot);
            }
        }
        drop(all);
        drop(last);
    }

    fn shut_down(&self) -> Result<()> {
        self.volume.shut_down();
        Ok(())
    }

    fn sync_then(&self, done: Synced) {
        self.volume.sync_then(done);
    }

    fn session_ended(&self) {
        self.open.lock().clear();
        self.volume.nobody_is_left();
    }

    fn applied(&self, request: u64) -> Option<u64> {
        self.volume.applied(request)
    }

    fn doubtful(&self) -> Vec<Ino> {
        self.volume.doubtful()
    }

    fn held(&self, ino: Ino) {
        self.volume.held(ino);
    }

    fn not_held(&self, ino: Ino) {
        self.volume.not_held(ino);
    }

    fn all_came_again(&self) {
        self.volume.all_came_again();
    }

    fn panicked(&self, request: &str) {
        let why = format!("a {request} request ended with a panic");
        self.volume.refuse_writes(&why);
    }
}

#[cfg(test)]
#[path = "snapshots_tests.rs"]
mod tests;
