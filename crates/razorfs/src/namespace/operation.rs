//! One operation under construction: reads through to the store, collects what changes.
//!
//! The rules of the file system are methods of [`Operation`], spread over the files of this room.
//! They assume that the caller holds the locks of the inodes they change; nothing becomes visible
//! before [`super::Namespace::commit`]. A single operation reads everything before it changes it,
//! so it can read the store directly; a transaction of several operations must see what its
//! earlier ones changed, and keeps that in an overlay.

use std::borrow::Cow;
use std::collections::BTreeMap;

use razorfs_format::error::Place;
use razorfs_format::key::Key;
use razorfs_format::layout::FileName;
use razorfs_format::op::{Counter, OpType};
use razorfs_format::record::{Fragment, FragmentKind, Inode, Time, inode_flags};
use razorfs_format::{Branch, Ino};

use super::Namespace;
use super::dentries::Dentries;
use super::pins::PinTable;
use crate::asker;
use crate::store::{Bytes, OVERHEAD, Store, Tx};
use crate::{Error, Result};

/// Records come from the store, which has checked them; a record that cannot be decoded is
/// reported as one of the journal's.
pub(super) const PLACE: Place = Place::new(FileName::Journal(0), 0);

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Clean,
    Changed,
    New,
    /// Removed by this operation; `true` if it was also created by it.
    Gone(bool),
}

struct Loaded {
    inode: Inode,
    state: State,
}

/// What the pin table learns once the operation is committed.
pub(super) enum Afterwards {
    LostName(Ino),
    GotName(Ino),
    BornNameless(Ino),
    Trimming(Ino),
}

/// Which locks the caller of an operation holds while that reads.
#[derive(Default)]
pub(super) enum Held {
    /// None that anybody has told of.
    #[default]
    None,
    /// That of one inode.
    One(Ino),
    /// Those of these inodes.
    These(Vec<Ino>),
}

impl Held {
    pub(super) fn has(&self, ino: Ino) -> bool {
        match self {
            Self::None => false,
            Self::One(one) => *one == ino,
            Self::These(these) => these.contains(&ino),
        }
    }
}

pub(crate) struct Operation<'a> {
    pub(super) store: &'a Store,
    pub(super) pins: &'a PinTable,
    pub(super) dentries: &'a Dentries,
    /// The directories whose locks the caller holds: entries that it reads there are remembered.
    pub(super) held: Held,
    /// Directories that were walked through by what is remembered of them.
    walked: Vec<Ino>,
    pub(super) now: Time,
    tx: Tx<'a>,
    /// Boxed: most operations have one or two, and a node of the tree has room for eleven.
    inodes: BTreeMap<Ino, Box<Loaded>>,
    overlay: Option<BTreeMap<Key, Option<Bytes>>>,
    data_bytes: u64,
    growth: i128,
    /// The journal says of each inode that it changes that this operation did.
    told: bool,
    pub(super) afterwards: Vec<Afterwards>,
}

impl<'a> Operation<'a> {
    pub(super) fn new(namespace: &'a Namespace, ty: OpType, now: Time) -> Self {
        Self {
            store: &namespace.store,
            pins: &namespace.pins,
            dentries: &namespace.dentries,
            held: Held::None,
            walked: Vec::new(),
            now,
            tx: Tx::new(ty),
            inodes: BTreeMap::new(),
            overlay: None,
            data_bytes: 0,
            growth: 0,
            told: false,
            afterwards: Vec::new(),
        }
    }

    /// From now on reads see what the operation has changed.
    pub(super) fn with_overlay(mut self) -> Self {
        self.overlay = Some(BTreeMap::new());
        self
    }

    /// Has the journal say of each inode that is changed that this operation did, instead of how
    /// the inode is in the end of the batch.
    pub(super) fn tell(&mut self) {
        self.told = true;
    }

    /// A copy of so many bytes ends with it.
    pub(super) const fn ends_copy(&mut self, bytes: Option<u64>) {
        self.tx.ends_copy(bytes);
    }

    /// Several operations in one.
    pub(super) fn is_transaction(&self) -> bool {
        self.overlay.is_some()
    }

    /// The inodes that were there before and were read, and whether they are changed.
    pub(super) fn involved(&self) -> impl Iterator<Item = (Ino, bool)> {
        let there = |state| !matches!(state, State::New | State::Gone(true));
        let read = self
            .inodes
            .iter()
            .filter(move |(_, loaded)| there(loaded.state))
            .map(|(ino, loaded)| (*ino, loaded.state != State::Clean));
        read.chain(self.walked.iter().map(|ino| (*ino, false)))
    }

    /// An entry of the directory was taken from what is remembered.
    pub(super) fn walk_through(&mut self, dir: Ino) {
        if self.is_transaction() && !self.inodes.contains_key(&dir) {
            self.walked.push(dir);
        }
    }

    /// Whether none of these records was changed by an earlier operation of the transaction.
    pub(super) fn is_untouched(&self, from: &Key, to: &Key) -> bool {
        self.overlay
            .as_ref()
            .is_none_or(|overlay| overlay.range(*from..*to).next().is_none())
    }

    /// The changed files among them that have an unfinished truncation.
    pub(super) fn trimming(&self) -> Vec<Ino> {
        let is_trimming = |l: &Loaded| {
            l.inode.flags & inode_flags::TRIMMING != 0
                && matches!(l.state, State::Changed)
                && l.inode.nlink > 0
        };
        let inodes = self.inodes.iter();
        inodes
            .filter(|(_, l)| is_trimming(l))
            .map(|(ino, _)| *ino)
            .collect()
    }

    /// Bytes of data that it lays down, and by how much the files grow in all.
    pub(super) fn volume_of_data(&self) -> (u64, u64) {
        let growth = u64::try_from(self.growth.max(0));
        (self.data_bytes, growth.unwrap_or(u64::MAX))
    }

    /// Bytes that it takes in the journal as it is by now, at most.
    pub(super) fn journal_bytes(&self) -> usize {
        let changed = self.inodes.values().filter(|l| l.state != State::Clean);
        let records = changed.map(|l| 2 * OVERHEAD + l.inode.target.len());
        self.store.journal_bytes(&self.tx) + records.sum::<usize>()
    }

    /// The transaction, and what to tell the pin table after its commit.
    pub(super) fn into_tx(mut self) -> (Tx<'a>, Vec<Afterwards>) {
        for (ino, loaded) in &self.inodes {
            let key = Key::inode(Branch::HEAD, *ino);
            match loaded.state {
                State::Clean | State::Gone(true) => {}
                State::Changed if self.told => self.tx.put(key, loaded.inode.to_bytes().into()),
                State::Changed => self.tx.touch(*ino, &loaded.inode),
                // Before its data: what is written to a file that is known to be new is known to
                // be new too, and goes without a trace if the file does.
                State::New => self.tx.put_first(key, loaded.inode.to_bytes().into()),
                // After its extents, for the same reason.
                State::Gone(false) => self.tx.del(key),
            }
        }
        if let Some(asker) = asker::current() {
            self.tx.asked_by(asker);
        }
        (self.tx, self.afterwards)
    }

    fn load(&mut self, ino: Ino) -> Result<&mut Loaded> {
        use std::collections::btree_map::Entry;
        match self.inodes.entry(ino) {
            Entry::Occupied(entry) => match entry.get().state {
                State::Gone(_) => Err(Error::NotFound),
                _ => Ok(entry.into_mut()),
            },
            Entry::Vacant(entry) => {
                let inode = load_inode(self.store, ino)?;
                let state = State::Clean;
                Ok(entry.insert(Box::new(Loaded { inode, state })))
            }
        }
    }

    /// The inode as it is by now.
    pub(super) fn inode(&mut self, ino: Ino) -> Result<&Inode> {
        Ok(&self.load(ino)?.inode)
    }

    /// The inode, to be changed.
    pub(super) fn change(&mut self, ino: Ino) -> Result<&mut Inode> {
        let loaded = self.load(ino)?;
        if loaded.state == State::Clean {
            loaded.state = State::Changed;
        }
        Ok(&mut loaded.inode)
    }

    /// A new inode.
    pub(super) fn insert(&mut self, inode: Inode) -> Ino {
        let ino = self.store.alloc_ino();
        self.insert_as(ino, inode);
        ino
    }

    /// A new inode whose number was given out before, and which is not there.
    pub(super) fn insert_as(&mut self, ino: Ino, inode: Inode) {
        self.count(Counter::Inodes, 1);
        let state = State::New;
        self.inodes.insert(ino, Box::new(Loaded { inode, state }));
    }

    /// The inode's record goes; its other records are the caller's business.
    pub(super) fn erase(&mut self, ino: Ino) -> Result<()> {
        self.count(Counter::Inodes, -1);
        let loaded = self.load(ino)?;
        loaded.state = State::Gone(loaded.state == State::New);
        Ok(())
    }

    pub(super) fn get(&self, key: &Key) -> Result<Option<Bytes>> {
        if let Some(changed) = self.overlay.as_ref().and_then(|o| o.get(key)) {
            return Ok(changed.clone());
        }
        self.store.get(key)
    }

    /// The records from `from` on, before `to`, until `each` answers false or fails.
    pub(super) fn scan(
        &self,
        from: &Key,
        to: &Key,
        mut each: impl FnMut(&Key, &Bytes) -> Result<bool>,
    ) -> Result<()> {
        let mut outcome = Ok(());
        let mut step = |key: &Key, value: &Bytes| match each(key, value) {
            Ok(more) => more,
            Err(e) => {
                outcome = Err(e);
                false
            }
        };
        let changed = self.overlay.as_ref().map(|o| o.range(*from..*to));
        match changed {
            None => self.store.scan(from, to, &mut step)?,
            Some(changed) => {
                let mut merged = BTreeMap::new();
                self.store.scan(from, to, &mut |key, value| {
                    merged.insert(*key, value.clone());
                    true
                })?;
                for (key, value) in changed {
                    match value {
                        Some(value) => merged.insert(*key, value.clone()),
                        None => merged.remove(key),
                    };
                }
                let _ = merged.iter().all(|(key, value)| step(key, value));
            }
        }
        outcome
    }

    /// Writes a record that may be there.
    pub(super) fn put(&mut self, key: Key, value: impl Into<Bytes>) {
        let value = value.into();
        self.lay_over(key, Some(&value));
        self.tx.put(key, value);
    }

    /// Writes a record that is not there: removing it again in the same epoch leaves no tombstone.
    pub(super) fn put_new(&mut self, key: Key, value: impl Into<Bytes>) {
        debug_assert!(!matches!(self.get(&key), Ok(Some(_))), "{key:?} is there");
        let value = value.into();
        self.lay_over(key, Some(&value));
        self.tx.put_new(key, value);
    }

    fn lay_over(&mut self, key: Key, value: Option<&Bytes>) {
        if let Some(overlay) = &mut self.overlay {
            overlay.insert(key, value.cloned());
        }
    }

    pub(super) fn del(&mut self, key: Key) {
        self.lay_over(key, None);
        self.tx.del(key);
    }

    /// The same; the journal says what the record was.
    pub(super) fn del_told(&mut self, key: Key, was: impl Into<Bytes>) {
        self.lay_over(key, None);
        self.tx.del_told(key, was.into());
    }

    pub(super) fn count(&mut self, counter: Counter, delta: i64) {
        if counter == Counter::Bytes {
            self.growth += i128::from(delta);
        }
        if delta != 0 {
            self.tx.count(counter, delta);
        }
    }

    /// Erases a part of a block.
    pub(super) fn hole(&mut self, ino: Ino, block: u64, off: u32, len: u32) {
        let kind = FragmentKind::Hole;
        let key = Key::extent(Branch::HEAD, ino, block);
        self.tx.patch(key, Fragment { off, len, kind });
    }

    /// Lays a part of a frame over a part of a block.
    pub(super) fn refer(&mut self, ino: Ino, block: u64, fragment: Fragment) {
        self.tx
            .patch(Key::extent(Branch::HEAD, ino, block), fragment);
    }

    /// Lays data over a part of a block.
    pub(super) fn data(&mut self, ino: Ino, block: u64, off: u32, bytes: impl Into<Cow<'a, [u8]>>) {
        let bytes = bytes.into();
        self.data_bytes += bytes.len() as u64;
        self.tx.write(ino, block, off, bytes);
    }
}

/// The inode as the store has it.
pub(super) fn load_inode(store: &Store, ino: Ino) -> Result<Inode> {
    match store.get(&Key::inode(Branch::HEAD, ino))? {
        Some(bytes) => Ok(Inode::decode(&bytes, PLACE)?),
        None if store.left_with(ino).is_some() => Err(Error::RolledBack),
        None => Err(Error::NotFound),
    }
}
