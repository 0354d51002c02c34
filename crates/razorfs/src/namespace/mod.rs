//! POSIX meaning: an operation on names and files becomes one transaction over the store.
//!
//! Every operation takes the locks of the inodes that it changes (see [`locks`]), reads through the
//! store, builds one [`Operation`] and commits it: so it happens as a whole, in one journal batch,
//! or not at all. The locks are released before anybody waits for durability. What an operation
//! means stands in the methods of [`Operation`], by subject; the methods of [`Namespace`] of the
//! same names add the locks. Permissions are the business of whoever calls (the kernel checks them
//! for a mount); the append-only and immutable flags are kept here.

mod acl;
mod atime;
mod attributes;
mod branches;
mod copy;
mod create;
mod dentries;
mod diff;
mod directory;
mod file;
mod locks;
mod log;
mod merge;
mod operation;
mod origins;
mod path;
mod pins;
mod reap;
mod receive;
mod receive_items;
mod remove;
mod rename;
mod send;
mod shift;
mod snapshot;
mod xattr;

#[cfg(test)]
mod attributes_tests;
#[cfg(test)]
mod copy_tests;
#[cfg(test)]
mod file_tests;
#[cfg(test)]
mod frames_fixture;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod names_tests;
#[cfg(test)]
mod shift_flush_tests;
#[cfg(test)]
mod shift_tests;

use branches::Family;
use dentries::Dentries;
use locks::LockTable;
use operation::Afterwards;
use pins::PinTable;
use razorfs_format::key::Tag;
use razorfs_format::op::OpType;
use razorfs_format::record::{Inode, Time};

use std::sync::Arc;

pub(crate) use create::root_inode;
pub use log::{LogBranch, LogEntry};
pub(crate) use merge::{Clash, Merged, Order};
pub(crate) use operation::Operation;
pub(crate) use path::Hint;
pub(crate) use receive::{Part, Receiving};
pub(crate) use rename::Spot;
pub(crate) use send::{Place as SendFrom, Sending};
pub(crate) use snapshot::check_name;

use crate::redo::RedoMemory;
use crate::store::{Store, Ticket};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::{Ino, Result};

/// Most names of an inode, and most subdirectories of a directory.
const LINK_MAX: u32 = i32::MAX as u32;
/// The setuid bit of a mode.
const SETUID: u32 = 0o4000;
/// The setgid bit of a mode.
const SETGID: u32 = 0o2000;

/// What opening a file does if it is there, or is not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenHow {
    pub(crate) write: bool,
    pub(crate) create: bool,
    pub(crate) create_new: bool,
    pub(crate) truncate: bool,
    /// Permission bits of a file that is created.
    pub(crate) mode: u32,
}

impl OpenHow {
    /// To replace the whole content.
    pub(crate) const WRITE_ALL: Self = Self {
        write: true,
        create: true,
        create_new: false,
        truncate: true,
        mode: 0o644,
    };
}

/// The names and files of one volume.
pub(crate) struct Namespace {
    pub(crate) store: Store,
    locks: LockTable,
    pins: PinTable,
    dentries: Dentries,
    /// Held while a directory moves to another one, so that no two moves make a circle.
    renames: Mutex<()>,
    /// What reading does to the time of access.
    atime: atime::Policy,
    /// The branches that are open.
    family: Arc<Family>,
    /// Somebody has come who may hold something.
    is_visited: AtomicBool,
}

impl Namespace {
    /// Over a store, whose orphans are left to others.
    fn over(store: Store, family: Arc<Family>) -> Self {
        Self {
            store,
            locks: LockTable::new(),
            pins: PinTable::new(),
            dentries: Dentries::new(),
            renames: Mutex::new(()),
            atime: atime::Policy::default(),
            family,
            is_visited: AtomicBool::new(false),
        }
    }

    /// Over an opened store, whose orphans are handed to the reaper.
    pub(crate) fn new(store: Store) -> Result<Self> {
        Self::of(store, Arc::default())
    }

    fn of(store: Store, family: Arc<Family>) -> Result<Self> {
        let namespace = Self::over(store, family);
        if namespace.store.is_past() {
            return Ok(namespace);
        }
        if let Some(first) = namespace.store.first_new()
            && !namespace.family.have_come()
        {
            namespace.pins.doubt_below(first);
            let redo = namespace.store.redo.iter();
            namespace.pins.untold(redo.flat_map(|redo| redo.made()));
        }
        for ino in namespace.store.orphans()? {
            namespace.pins.enqueue(ino);
        }
        Ok(namespace)
    }

    /// An operation that changes nothing.
    fn reader(&self) -> Operation<'_> {
        Operation::new(self, OpType::Note, Time::default())
    }

    /// An operation that is going to change something.
    fn begin(&self, ty: OpType) -> Result<Operation<'_>> {
        self.store.check_unstuck()?;
        self.begin_undo(ty)
    }

    /// An operation that takes back what an earlier one has done, even if it waits for room.
    fn begin_undo(&self, ty: OpType) -> Result<Operation<'_>> {
        self.store.check_writable()?;
        Ok(Operation::new(self, ty, self.store.now()))
    }

    /// Commits, and does not wait for durability. The caller holds the locks.
    fn commit(&self, op: Operation<'_>) -> Result<Option<Ticket>> {
        let (tx, afterwards) = op.into_tx();
        // Before the change is visible, and nobody can remember them again before it is.
        for key in tx.written(Tag::Dirent) {
            self.dentries.forget(key.ino(), key.second());
        }
        if tx.is_empty() {
            return Ok(None);
        }
        let ticket = self.store.commit(tx)?;
        for what in afterwards {
            match what {
                Afterwards::LostName(ino) => self.pins.lost_its_name(ino),
                Afterwards::Trimming(ino) => self.pins.enqueue(ino),
                Afterwards::GotName(ino) => self.pins.got_a_name(ino),
                Afterwards::BornNameless(ino) => self.pins.born_nameless(ino),
            }
        }
        Ok(Some(ticket))
    }

    /// Commits, releases the locks, then waits as the volume's durability demands.
    fn finish<L>(&self, op: Operation<'_>, locks: L) -> Result<()> {
        let ticket = self.commit(op)?;
        drop(locks);
        self.wait(ticket)
    }

    fn wait(&self, ticket: Option<Ticket>) -> Result<()> {
        // What changed nothing waits too: what it saw may not be durable yet.
        self.store.wait(ticket.unwrap_or(Ticket::NOTHING))
    }

    /// The record of an inode.
    pub(crate) fn find_by_inode(&self, ino: Ino) -> Result<Inode> {
        operation::load_inode(&self.store, ino)
    }

    /// `n` more holders of an inode.
    pub(crate) fn pin(&self, ino: Ino, n: u64) {
        self.pins.pin(ino, n);
    }

    /// `n` holders fewer.
    pub(crate) fn unpin(&self, ino: Ino, n: u64) {
        self.pins.unpin(ino, n);
    }

    /// The nameless inodes of which only their users can tell whether they are held.
    pub(crate) fn doubtful(&self) -> Vec<Ino> {
        self.pins.doubtful()
    }

    /// Nobody holds this one but those that were counted.
    pub(crate) fn not_held(&self, ino: Ino) -> bool {
        self.pins.not_held(ino)
    }

    /// Somebody holds this one, and so has been told of it.
    pub(crate) fn held(&self, ino: Ino) {
        self.pins.told(ino);
    }

    /// Whoever asked for something before has been told of it.
    pub(crate) fn all_came_again(&self) {
        self.pins.all_told();
    }

    /// Somebody comes who may hold something.
    pub(crate) fn somebody_comes(&self) {
        self.is_visited.store(true, Ordering::Release);
        if let Some(redo) = self.noted() {
            redo.somebody_comes();
        }
    }

    /// Nobody holds anything from before.
    pub(crate) fn nobody_is_left(&self) {
        self.pins.nobody_is_left();
        if let Some(redo) = self.noted() {
            redo.nobody_is_left();
        }
    }

    /// Where requests are noted, if they are: those of who looks at a snapshot are not.
    pub(crate) fn noted(&self) -> Option<&RedoMemory> {
        let redo = self.store.redo.as_deref();
        redo.filter(|_| !self.store.is_past())
    }

    /// Number of inodes that wait for the reaper.
    pub(crate) fn waiting_for_reaper(&self) -> u64 {
        self.pins.queued() as u64
    }
}
