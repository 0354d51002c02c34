//! Receiving a stream: what a snapshot of another volume has becomes what this one has, all or
//! nothing.
//!
//! The present is changed step by step, and nobody sees it: from the beginning to the end everybody
//! is shown a snapshot that was taken before, and can change nothing. At the end that snapshot
//! goes, one of the new state is taken, and everybody sees it: one operation of the journal. Where
//! the stream breaks off the volume goes back to the snapshot, and keeps what has come as another
//! one: to go on, the two change places. Each of these takes no time that grows with the volume,
//! and a crash at any moment is a stream that broke off.
//!
//! A batch of the stream is one transaction, and how far the stream is stands in the same one. What
//! has to be remembered lies in attributes of the root, which nobody else sees: so it is a part of
//! each state, goes back with it, and is read from a snapshot as that has it.

use std::collections::BTreeSet;
use std::sync::Arc;

use razorfs_format::key::Key;
use razorfs_format::layout::FileName;
use razorfs_format::manifest::SnapshotMeta;
use razorfs_format::op::OpType;
use razorfs_format::record::{BLOCK, FileKind, Inode, Time, inode_flags};
use razorfs_format::stream::{
    CURSOR_MAX, GoesOn, Header, Identity, Item, Link, Named, Origin, PART, RECEIVING, put_origins,
    take_batch, take_origins, what_is_wrong,
};
use razorfs_format::wire::{Put, Take};
use razorfs_format::{Branch, Ino, Place};

use super::merge::or_later;
use super::origins::{Known, Translation, give_out};
use super::receive_items::{check_goes_on, wrong};
use super::{Namespace, Operation, check_name, root_inode};
use crate::marks::{self, Mark};
use crate::store::Store;
use crate::{CreateOptions, Error, Result};

/// The numbers of inodes that came from elsewhere.
const ORIGINS: &[u8] = b"razorfs.origins";
/// The stream that is being received, and what its numbers are here.
const STREAM: &[u8] = b"razorfs.stream";
/// How far it is.
const PROGRESS: &[u8] = b"razorfs.progress";
/// Which snapshot of which volume was received last.
const RECEIVED: &[u8] = b"razorfs.received";

/// Bytes that an item takes in the journal, at most, beside its own.
const ITEM_BYTES: usize = 400;
/// Blocks beyond the end of a file that are removed at a time.
const CUT_STEP: usize = 4096;

/// Attributes of the root came from the volume; the place says nothing more.
const OWN: Place = Place::new(FileName::Journal(0), 0);

/// How far a stream is.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Progress {
    /// Batches that were applied.
    sequence: u64,
    link: Link,
    /// Inodes without a name.
    loose: i64,
    /// Where the sender goes on.
    cursor: Vec<u8>,
}

impl Progress {
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_varint(self.sequence);
        out.extend_from_slice(&self.link.0);
        out.put_signed(self.loose);
        out.put_bytes(&self.cursor);
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let mut t = Take::new(bytes, OWN, "progress of a stream");
        let progress = Self {
            sequence: t.varint()?,
            link: Link(t.array()?),
            loose: t.signed()?,
            cursor: t.bytes(CURSOR_MAX)?.to_vec(),
        };
        t.end()?;
        Ok(progress)
    }
}

/// What is left of a stream that was broken off.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    /// The snapshot that it is going to be.
    pub snapshot: Named,
    /// What it goes on from.
    pub base: Option<Named>,
    /// Where it goes on.
    pub goes_on: GoesOn,
    /// The same, as the sender knows it.
    pub cursor: Vec<u8>,
}

/// A stream that is being received.
pub(crate) struct Receiving {
    /// What everybody sees.
    upper: Arc<Namespace>,
    /// What it becomes.
    below: Namespace,
    header: Header,
    translation: Translation,
    progress: Progress,
    /// The snapshot of what there was, where the volume goes back first.
    safety: Option<String>,
    /// It has come to its end.
    is_done: bool,
}

impl Operation<'_> {
    fn own(&mut self, name: &[u8]) -> Result<Option<Box<[u8]>>> {
        Ok(self.find_xattr(Ino::ROOT, name)?.1.map(|xattr| xattr.value))
    }

    fn set_own(&mut self, name: &[u8], value: &[u8]) -> Result<()> {
        self.put_xattr(Ino::ROOT, name, value)
    }
}

impl Namespace {
    /// The same volume, below what everybody is shown.
    fn below(&self) -> Self {
        Self::over(self.store.below(), Arc::clone(&self.family))
    }

    /// Which snapshot it is that this shows, in whatever volume that was taken.
    pub(crate) fn identity(&self, meta: &SnapshotMeta) -> Result<Identity> {
        if let Some(bytes) = self.reader().own(RECEIVED)? {
            let mut t = Take::new(&bytes, OWN, "snapshot that was received");
            let identity = Identity {
                volume: t.array()?,
                id: t.varint()?,
                time: t.varint()?,
            };
            let name = t.bytes(usize::from(u8::MAX))?;
            t.end()?;
            // One that was taken later shows the same, but is not the same.
            if *name == *meta.name && identity.time == meta.time {
                return Ok(identity);
            }
        }
        Ok(Identity {
            volume: self.store.uuid(),
            id: meta.id,
            time: meta.time,
        })
    }

    /// The snapshot here that is this one, if it is here.
    pub(crate) fn find_identity(&self, wanted: &Identity) -> Result<Option<Arc<SnapshotMeta>>> {
        let all = self.store.snapshots();
        for meta in all.into_iter().rev().filter(|s| s.time == wanted.time) {
            let seen = Self::new(self.store.snapshot(&meta.name)?)?;
            if seen.identity(&meta)? == *wanted {
                return Ok(Some(meta));
            }
        }
        Ok(None)
    }

    /// The numbers of inodes that came from elsewhere.
    pub(crate) fn origins(&self) -> Result<Vec<Origin>> {
        match self.reader().own(ORIGINS)? {
            Some(bytes) => Ok(take_origins(&mut Take::new(&bytes, OWN, "origins"))?),
            None => Ok(Vec::new()),
        }
    }

    /// What came of a stream that was broken off, if there is any.
    pub(crate) fn received_part(&self) -> Result<Option<Part>> {
        let part = match self.store.snapshot(PART) {
            Ok(part) => Self::new(part)?,
            Err(Error::NotFound) => return Ok(None),
            Err(e) => return Err(e),
        };
        let has_some = |(_, _, progress): &(Header, Translation, Progress)| progress.sequence > 0;
        let loaded = load(&part)?.filter(has_some);
        Ok(loaded.map(|(header, _, progress)| Part {
            snapshot: header.snapshot,
            base: header.base,
            goes_on: GoesOn {
                sequence: progress.sequence,
                link: progress.link,
            },
            cursor: progress.cursor,
        }))
    }

    /// Forgets what came of a stream that was broken off. Answers whether there was any.
    pub(crate) fn forget_part(&self) -> Result<bool> {
        match self.store.give_up(PART) {
            Ok(_) => Ok(true),
            Err(Error::NotFound) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Whether the present is what a stream goes on from: the base, or nothing.
    pub(crate) fn is_at(&self, base: Option<&SnapshotMeta>) -> Result<bool> {
        let Some(base) = base else {
            let root = self.find_by_inode(Ino::ROOT)?;
            return Ok(root.entries == 0 && self.store.snapshots().is_empty());
        };
        let before = Self::new(self.store.snapshot(&base.name)?)?;
        Ok(!self.has_changed_since(&before)?)
    }
}

/// The stream that a state is a part of; none if that was not begun, or had come to its end.
fn load(part: &Namespace) -> Result<Option<(Header, Translation, Progress)>> {
    let mut op = part.reader();
    let (Some(stream), Some(progress)) = (op.own(STREAM)?, op.own(PROGRESS)?) else {
        return Ok(None);
    };
    let mut t = Take::new(&stream, OWN, "stream that is being received");
    let header = t.bytes(stream.len())?;
    let header = Header::decode(header).map_err(|e| Error::Stream(what_is_wrong(&e).into()))?;
    let translation = Translation::decode(&mut t)?;
    Ok(Some((header, translation, Progress::decode(&progress)?)))
}

impl Receiving {
    /// Begins, or goes on, where the volume is at `base`, or goes back to it first, after a
    /// snapshot of this name was taken. From here on everybody is shown what is now, and can change
    /// nothing, until this is done or dropped.
    pub fn begin(
        upper: &Arc<Namespace>,
        header: Header,
        base: Option<&SnapshotMeta>,
        safety: Option<String>,
    ) -> Result<Self> {
        let name = std::str::from_utf8(&header.snapshot.name);
        let name = name.map_err(|_| Error::Invalid("the name of a snapshot is no text"))?;
        check_name(name)?;
        upper.store.check_writable()?;
        if let Some(goes_on) = header.goes_on {
            check_goes_on(upper.received_part()?.as_ref(), &header, goes_on)?;
        }
        {
            let _renames = upper.renames.lock();
            let _all = upper.locks.lock_all();
            // Once more: nobody comes between from here on.
            upper.store.check_writable()?;
            match &safety {
                Some(_) => {}
                None if upper.is_at(base)? => {}
                None => return Err(Error::Stream("the volume was changed just now".into())),
            }
            if header.goes_on.is_none() {
                upper.forget_part()?;
            }
            let begun = match (header.goes_on, base.filter(|_| safety.is_some())) {
                (Some(_), _) => {
                    marks::hit(Mark::ReceiveRest);
                    upper.store.change_places(PART, RECEIVING)
                }
                (None, Some(base)) => {
                    marks::hit(Mark::ReceiveBack);
                    upper.store.roll_back(Branch::HEAD, &base.name, RECEIVING)
                }
                (None, None) => upper.store.take_snapshot(Branch::HEAD, RECEIVING),
            };
            begun?;
            // Else the next opening would take everything back that is done from here on.
            let covered = upper.store.cover(RECEIVING);
            covered.inspect_err(|e| upper.store.fail(e))?;
        }
        let below = upper.below();
        let progress = Progress {
            sequence: 0,
            link: header.first_link(),
            loose: 0,
            cursor: Vec::new(),
        };
        let mut receiving = Self {
            upper: Arc::clone(upper),
            below,
            header,
            translation: Translation::default(),
            progress,
            safety,
            is_done: false,
        };
        receiving.prepare()?;
        Ok(receiving)
    }

    /// Writes down what the stream is, or reads how far it is.
    fn prepare(&mut self) -> Result<()> {
        if self.header.goes_on.is_some() {
            let Some((_, translation, progress)) = load(&self.below)? else {
                return wrong("what it goes on with was not begun");
            };
            (self.translation, self.progress) = (translation, progress);
            return Ok(());
        }
        let store = &self.below.store;
        let Header { sender, end, .. } = self.header;
        let (first, next, origins) = give_out(&store.ids.ino, |next| {
            let mut origins = self.below.origins()?;
            let mut known = Known {
                own: store.uuid(),
                origins: &mut origins,
                next,
            };
            self.translation = Translation::new(sender, end, &self.header.origins, &mut known)?;
            Ok((known.next, origins))
        })?;
        let header = Header {
            origins: Vec::new(),
            ..self.header.clone()
        };
        let mut stream = Vec::new();
        stream.put_bytes(&header.to_bytes());
        self.translation.encode(&mut stream);
        let mut known = Vec::new();
        put_origins(&origins, &mut known);
        let mut op = self.operation()?;
        op.set_own(STREAM, &stream)?;
        op.set_own(ORIGINS, &known)?;
        op.set_own(PROGRESS, &self.progress.to_bytes())?;
        if next > first {
            // So that a replay knows the numbers as given out: it goes by the inodes that were
            // made.
            let last = Key::inode(Branch::HEAD, Ino(next - 1));
            op.put_new(last, never().to_bytes());
            op.del(last);
        }
        self.commit(op, stream.len() + known.len())
    }

    fn operation(&self) -> Result<Operation<'_>> {
        let op = self.below.begin(OpType::Transaction)?;
        Ok(op.with_overlay())
    }

    /// Commits what takes about so many bytes of the journal.
    fn commit(&self, op: Operation<'_>, bytes: usize) -> Result<()> {
        let (data, growth) = op.volume_of_data();
        let store = &self.below.store;
        store.reserve(data, growth)?;
        if bytes > store.limits.most() {
            store.grow_journal_for(bytes)?;
        }
        self.below.commit(op)?;
        store.pace();
        Ok(())
    }

    /// What everybody is shown meanwhile.
    pub fn before(&self) -> Result<Namespace> {
        Namespace::new(self.upper.store.snapshot(RECEIVING)?)
    }

    /// How many batches were applied.
    pub const fn sequence(&self) -> u64 {
        self.progress.sequence
    }

    /// The chain up to here.
    pub const fn link(&self) -> Link {
        self.progress.link
    }

    /// Applies a batch. Answers how many inodes are new or have other attributes, and how many
    /// bytes of data came.
    pub fn apply(&mut self, payload: &[u8]) -> Result<(u64, u64)> {
        let (cursor, items) = match take_batch(payload) {
            Ok(batch) => batch,
            Err(e) => return wrong(what_is_wrong(&e)),
        };
        let bytes = payload.len() + items.len() * ITEM_BYTES;
        let items = items.into_iter().map(|item| self.translate(item));
        let items = items.collect::<Result<Vec<_>>>()?;
        self.cut(&items)?;
        let mut next = Progress {
            sequence: self.progress.sequence + 1,
            link: self.progress.link.then(payload),
            loose: self.progress.loose,
            cursor: cursor.to_vec(),
        };
        let mut op = self.operation()?;
        let (mut inodes, mut data) = (0, 0);
        for item in items {
            match &item {
                Item::Inode(_) => inodes += 1,
                Item::Data { bytes, .. } => data += bytes.len() as u64,
                _ => {}
            }
            next.loose += apply(&mut op, item)?;
        }
        op.set_own(PROGRESS, &next.to_bytes())?;
        self.commit(op, bytes)?;
        self.progress = next;
        Ok((inodes, data))
    }

    /// With the numbers that its inodes have here.
    fn translate(&self, mut item: Item) -> Result<Item> {
        let here = |ino: &mut Ino| match self.translation.here(*ino) {
            Some(here) => {
                *ino = here;
                Ok(())
            }
            None => wrong(format_args!("there is no inode {ino} in it")),
        };
        match &mut item {
            Item::Inode(attributes) => here(&mut attributes.ino)?,
            Item::Name { dir, ino, .. } => {
                here(dir)?;
                here(ino)?;
            }
            Item::NoName { dir, .. } => here(dir)?,
            Item::Xattr { ino, .. }
            | Item::NoXattr { ino, .. }
            | Item::Data { ino, .. }
            | Item::Hole { ino, .. }
            | Item::Gone { ino } => here(ino)?,
        }
        Ok(item)
    }

    /// Removes the blocks of files that the items make shorter, however many these are: in steps of
    /// their own, for a transaction has not room for all. Doing that again does no harm.
    fn cut(&self, items: &[Item]) -> Result<()> {
        let mut seen = BTreeSet::new();
        for item in items {
            let attributes = match item {
                Item::Data { ino, .. } | Item::Hole { ino, .. } => {
                    seen.insert(*ino);
                    continue;
                }
                Item::Inode(attributes) => attributes,
                _ => continue,
            };
            let ino = attributes.ino;
            if !seen.insert(ino) {
                return wrong(format_args!("inode {ino} is there twice"));
            }
            let mut found = self.below.find_by_inode(ino);
            if found.as_ref().is_ok_and(|inode| inode.nlink == 0) {
                // It was removed, and comes back as the stream has it.
                self.below.remove_now(ino)?;
                found = self.below.find_by_inode(ino);
            }
            match found {
                Ok(inode) => self.cut_file(ino, &inode, attributes.size)?,
                Err(Error::NotFound) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn cut_file(&self, ino: Ino, inode: &Inode, size: u64) -> Result<()> {
        if inode.flags & inode_flags::TRIMMING != 0 {
            while self.below.trim_step(ino)? {}
        }
        if inode.kind() != FileKind::Regular || size >= inode.size {
            return Ok(());
        }
        loop {
            let mut op = self.below.begin(OpType::Truncate)?;
            let done = op.reap_blocks(ino, size.div_ceil(u64::from(BLOCK)))?;
            self.commit(op, CUT_STEP * ITEM_BYTES / 4)?;
            if done {
                return Ok(());
            }
        }
    }

    /// The stream is at its end: everybody sees what it has brought, and there is a snapshot of it.
    pub fn finish(mut self) -> Result<SnapshotMeta> {
        if self.progress.loose != 0 {
            return wrong("it has files without a name");
        }
        let Named { identity, name } = &self.header.snapshot;
        let mut received = identity.volume.to_vec();
        received.put_varint(identity.id);
        received.put_varint(identity.time);
        received.put_bytes(name);
        let mut op = self.operation()?;
        // No snapshot has them: what was taken for one to go on with could else be whole.
        op.forget_xattr(Ino::ROOT, STREAM)?;
        op.forget_xattr(Ino::ROOT, PROGRESS)?;
        op.set_own(RECEIVED, &received)?;
        self.commit(op, 0)?;
        let upper = Arc::clone(&self.upper);
        let taken = {
            let _renames = upper.renames.lock();
            let _all = upper.locks.lock_all();
            let store: &Store = &upper.store;
            if let Some(safety) = &self.safety {
                store.keep_covered(safety.as_bytes())?;
            }
            let taken = store.take_received(name, identity.time, RECEIVING)?;
            self.is_done = true;
            if let Some(safety) = &self.safety {
                store.leave(safety.as_bytes());
            }
            store.uncover();
            upper.dentries.forget_all();
            taken
        };
        or_later(upper.enqueue_orphans());
        Ok(taken)
    }

    /// The stream has broken off: the volume is what it was, and what has come is kept, if that is
    /// more than nothing.
    pub fn break_off(mut self) -> Result<()> {
        self.take_back()
    }

    fn take_back(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.is_done, true) {
            return Ok(());
        }
        let upper = &self.upper;
        {
            let _renames = upper.renames.lock();
            let _all = upper.locks.lock_all();
            // If that fails everybody goes on to see what was before, and the next opening does it.
            upper.store.put_away_part()?;
            upper.store.uncover();
            upper.dentries.forget_all();
        }
        match self.progress.sequence {
            0 => drop(upper.forget_part()?),
            _ => marks::hit(Mark::ReceiveKept),
        }
        Ok(())
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        if let Err(e) = self.take_back() {
            tracing::error!(error = %e, "the volume could not go back to before a stream");
        }
    }
}

/// Does what an item says; answers how many more inodes are loose.
fn apply(op: &mut Operation<'_>, item: Item) -> Result<i64> {
    Ok(match item {
        Item::Inode(attributes) => i64::from(op.receive_inode(attributes.ino, &attributes)?),
        Item::Name { dir, name, ino } => -i64::from(op.receive_name(dir, &name, ino)?),
        Item::NoName { dir, name } => i64::from(op.receive_no_name(dir, &name)?),
        Item::Xattr { ino, name, value } => {
            op.receive_xattr(ino, &name, Some(&value))?;
            0
        }
        Item::NoXattr { ino, name } => {
            op.receive_xattr(ino, &name, None)?;
            0
        }
        Item::Data { ino, offset, bytes } => {
            op.receive_data(ino, offset, bytes)?;
            0
        }
        Item::Hole { ino, offset, len } => {
            op.receive_hole(ino, offset, len)?;
            0
        }
        Item::Gone { ino } => {
            op.receive_gone(ino)?;
            -1
        }
    })
}

/// An inode that never was.
fn never() -> Inode {
    root_inode(Time::default(), &CreateOptions::default())
}
