//! The door to the store: its core, its checkpointer and, where the volume has threads, those.

use std::collections::BTreeSet;
use std::ops::{Deref, Range};
use std::sync::Arc;

use razorfs_disk::{Disk, Env, Guard};
use razorfs_format::key::{Key, Tag};
use razorfs_format::stream::{HIDDEN, RECEIVING};
use razorfs_format::timeline::INTERNAL;
use razorfs_format::{BatchSeq, Branch, Epoch, Ino};

use super::{At, Bytes, Core, Layout, Replayed, RoomMaker, Tenure, Ticket, Tx, Viewing};
use crate::checkpoint::Checkpointer;
use crate::journal::{Batch, history};
use crate::marks::{self, Mark};
use crate::recovery::{self, Opened};
use crate::scrub::Stepped;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{ArcSwap, Mutex, RwLock};
use crate::workers::{Maintenance, Workers};
use crate::{
    CreateOptions, Durability, Error, Info, Options, RecoverySummary, Result, Stats, Step,
    VolumeSpace,
};

/// The store of one volume.
pub(crate) struct Store {
    pub(super) checkpointer: Arc<Checkpointer>,
    durability: Durability,
    recovery: RecoverySummary,
    uuid: [u8; 16],
    /// What is read through this handle.
    pub(super) at: ArcSwap<At>,
    /// Which part of the volume it is.
    pub(super) role: Role,
    /// The snapshot that is shown in place of the present, while a stream is received below it.
    pub(super) covered: Mutex<Option<Viewing>>,
    is_covered: AtomicBool,
    /// What the volume was before it was rolled back, the newest last: for those who have files
    /// open that are gone.
    pub(super) left: Arc<Before>,
    /// The first inode that was not there when this process went on where one has died, for whoever
    /// uses the volume, if it did.
    first_new: Option<Ino>,
    workers: Mutex<Option<Workers>>,
    /// Held until the volume is closed.
    guard: Mutex<Option<Box<dyn Guard>>>,
}

/// What a handle shows of before rollbacks, the newest last.
pub(super) type Before = RwLock<Vec<Arc<Store>>>;

pub(super) fn is_internal(name: &[u8]) -> bool {
    name.starts_with(INTERNAL.as_bytes())
}

/// Whether nobody is to see a name, these or those of streams.
pub(crate) fn is_hidden(name: &[u8]) -> bool {
    is_internal(name) || name.first() == Some(&HIDDEN)
}

/// What a handle is for.
pub(super) enum Role {
    /// The volume: the head, and everything that is done once for all.
    Volume,
    /// The head, for what receives a stream below what everybody is shown.
    Below,
    /// A snapshot, for reading.
    Snapshot(Viewing),
    /// What two branches go on from: there is a snapshot of that as long as they are there.
    Past,
    /// A moment between snapshots, for reading.
    Moment(Replayed),
    /// A branch.
    Branch(Tenure),
}

impl Deref for Store {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.checkpointer.core
    }
}

/// Reaps in the background; given by the room that knows how.
pub(crate) type Reaper = Box<dyn Fn() -> Result<bool> + Send + Sync>;

struct Upkeep {
    checkpointer: Arc<Checkpointer>,
    reaper: Reaper,
    background: bool,
}

impl Maintenance for Upkeep {
    fn checkpoint_is_due(&self) -> bool {
        self.checkpointer.is_due()
    }
    fn checkpoint(&self) -> Result<bool> {
        RoomMaker::make_room(self.checkpointer.as_ref()).map(|()| true)
    }
    fn compact(&self) -> Result<bool> {
        if self.background {
            self.checkpointer.compact()
        } else {
            Ok(false)
        }
    }
    fn release(&self) -> Result<bool> {
        if self.background {
            self.checkpointer.release()
        } else {
            Ok(false)
        }
    }
    fn clean(&self) -> Result<bool> {
        if self.background {
            self.checkpointer.clean_some()
        } else {
            Ok(false)
        }
    }
    fn reap(&self) -> Result<bool> {
        (self.reaper)()
    }
    fn grow(&self) -> Result<bool> {
        self.checkpointer.grow()
    }
    fn parity(&self) -> Result<bool> {
        self.checkpointer.parity()
    }
    fn scrub(&self) -> Result<Stepped> {
        self.checkpointer.scrub_step()
    }
    fn give_back(&self) {
        if let Some(redo) = &self.checkpointer.core.redo {
            redo.give_back();
        }
    }
}

impl Store {
    /// Writes an empty volume.
    pub fn create(disk: &Arc<dyn Disk>, env: &Arc<dyn Env>, options: &CreateOptions) -> Result<()> {
        recovery::create(Arc::clone(disk), env.as_ref(), options)
    }

    /// Opens and recovers a volume. No thread runs yet: see [`Store::start`].
    pub fn open(disk: Arc<dyn Disk>, env: Arc<dyn Env>, options: &Options) -> Result<Self> {
        let Opened {
            checkpointer,
            guard,
            summary,
            uuid,
            left,
        } = recovery::open(disk, env, options)?;
        let room_maker: std::sync::Weak<Checkpointer> = Arc::downgrade(&checkpointer);
        checkpointer.core.set_room_maker(room_maker);
        let resumed = left.is_some();
        if let Some(left) = left {
            checkpointer.core.resume(left)?;
        }
        let next = Ino(checkpointer.core.ids.ino.load(Ordering::Relaxed));
        let store = Self {
            checkpointer,
            durability: options.durability,
            recovery: summary,
            uuid,
            at: ArcSwap::from_pointee(At::Tip(Branch::HEAD)),
            role: Role::Volume,
            covered: Mutex::new(None),
            is_covered: AtomicBool::new(false),
            left: Arc::default(),
            first_new: resumed.then_some(next),
            workers: Mutex::new(None),
            guard: Mutex::new(Some(guard)),
        };
        store.settle()?;
        Ok(store)
    }

    /// A stream that was being received has found no end: the volume is what it was before, and
    /// keeps what has come, for whoever goes on with it.
    fn settle(&self) -> Result<()> {
        if self.version.load().timeline.find(RECEIVING).is_none() {
            return Ok(());
        }
        if self.read_only.is_some() {
            return self.cover(RECEIVING);
        }
        marks::hit(Mark::ReceiveCut);
        if let Err(e) = self.put_away_part() {
            // The host may be full: it is seen as it was, and the next opening does it.
            tracing::warn!(error = %e, "what has come of a stream could not be put away");
            return self.cover(RECEIVING);
        }
        Ok(())
    }

    /// The same volume as one of its snapshots shows it. The snapshot stays at least until this is
    /// dropped.
    pub fn snapshot(&self, name: &[u8]) -> Result<Self> {
        let (viewing, view) = Viewing::new(&self.checkpointer.core, name)?;
        Ok(self.with_role(At::Snapshot(view), Role::Snapshot(viewing)))
    }

    /// One of the volume's branches, which stays at least until this is dropped.
    pub fn open_branch(&self, branch: Branch) -> Result<Self> {
        let tenure = Tenure::new(&self.checkpointer.core, branch)?;
        Ok(self.with_role(At::Tip(branch), Role::Branch(tenure)))
    }

    /// The same volume as it is below what [`Store::cover`] shows, for whoever receives a stream.
    pub fn below(&self) -> Self {
        self.with_role(At::Tip(Branch::HEAD), Role::Below)
    }

    pub(super) fn with_role(&self, at: At, role: Role) -> Self {
        Self {
            checkpointer: Arc::clone(&self.checkpointer),
            durability: self.durability,
            recovery: RecoverySummary::default(),
            uuid: self.uuid,
            at: ArcSwap::from_pointee(at),
            role,
            covered: Mutex::new(None),
            is_covered: AtomicBool::new(false),
            left: Arc::default(),
            first_new: self.first_new,
            workers: Mutex::new(None),
            guard: Mutex::new(None),
        }
    }

    /// The branch that is written to through this handle; of a snapshot it is the head.
    pub fn branch(&self) -> Branch {
        match &self.role {
            Role::Branch(tenure) => tenure.branch,
            Role::Volume | Role::Below | Role::Snapshot(_) | Role::Past | Role::Moment(_) => {
                Branch::HEAD
            }
        }
    }

    /// Makes a transaction visible, and durable with its batch. All of it or, on an error, nothing.
    pub fn commit(&self, tx: Tx<'_>) -> Result<Ticket> {
        Core::commit(self, tx.on(self.branch()))
    }

    /// The same if it becomes part of `epoch`; answers nothing, and changes nothing, if that was
    /// frozen before.
    pub fn commit_in(&self, tx: Tx<'_>, epoch: Option<Epoch>) -> Result<Option<Ticket>> {
        Core::commit_in(self, tx.on(self.branch()), epoch)
    }

    /// Reserves room for `bytes` of data, which let files grow by `growth`.
    pub fn reserve(&self, bytes: u64, growth: u64) -> Result<()> {
        Core::reserve(self, self.branch(), bytes, growth)
    }

    /// The inodes that wait to be reaped or trimmed.
    pub fn orphans(&self) -> Result<Vec<Ino>> {
        self.orphans_at(&self.at.load())
    }

    /// From now on this shows a snapshot in place of the present, and takes no changes. The caller
    /// keeps everybody out who changes anything or remembers what he reads.
    pub fn cover(&self, name: &[u8]) -> Result<()> {
        let (viewing, view) = Viewing::new(&self.checkpointer.core, name)?;
        *self.covered.lock() = Some(viewing);
        self.is_covered.store(true, Ordering::Release);
        self.at.store(Arc::new(At::Snapshot(view)));
        Ok(())
    }

    /// It shows the present again.
    pub fn uncover(&self) {
        self.at.store(Arc::new(At::Tip(Branch::HEAD)));
        self.is_covered.store(false, Ordering::Release);
        *self.covered.lock() = None;
    }

    /// Whether it shows a snapshot, for a stream is being received.
    pub fn is_covered(&self) -> bool {
        self.is_covered.load(Ordering::Acquire)
    }

    /// The uuid of the volume.
    pub fn uuid(&self) -> [u8; 16] {
        self.uuid
    }

    /// The first keys of a table that this shows, from `from` on, tombstones among them. It reads
    /// all of the memtables, so `most` is to be large.
    pub fn some_keys(&self, from: &Key, most: usize) -> Result<BTreeSet<Key>> {
        Core::some_keys(self, &self.at.load(), from, most)
    }

    /// Where the bytes of a block stand. Who is going to refer to the same frames holds the inode's
    /// lock, and shows the present.
    pub fn layout(&self, ino: Ino, block: u64) -> Result<Layout> {
        self.layout_at(&self.at.load(), ino, block)
    }

    /// A record; not for extents.
    pub fn get(&self, key: &Key) -> Result<Option<Bytes>> {
        self.get_at(&self.at.load(), key)
    }

    /// Hands the records of one table and one inode from `from` to before `to` to `each`, in
    /// order, until it answers false; not for extents.
    pub fn scan(
        &self,
        from: &Key,
        to: &Key,
        each: &mut dyn FnMut(&Key, &Bytes) -> bool,
    ) -> Result<()> {
        self.scan_at(&self.at.load_full(), from, to, each)
    }

    /// Reads `out.len()` bytes at `off` of a block; what was never written is zero.
    pub fn read_block(&self, ino: Ino, block: u64, off: u32, out: &mut [u8]) -> Result<()> {
        self.read_block_at(&self.at.load(), ino, block, off, out)
    }

    /// Tells for each block of `from..to` that has data which bytes are data, in order, until
    /// `each` answers false.
    pub fn extents(
        &self,
        ino: Ino,
        from: u64,
        to: u64,
        each: &mut dyn FnMut(u64, &[Range<u32>]) -> bool,
    ) -> Result<()> {
        self.extents_at(&self.at.load_full(), ino, from, to, each)
    }

    /// The keys of a table that were written in this or the other state and not in what both go
    /// back to; nothing if the other is one of another volume.
    pub fn written_apart(&self, other: &Self, tag: Tag) -> Result<Option<BTreeSet<Key>>> {
        let (a, b) = (&self.checkpointer.core, &other.checkpointer.core);
        if !Arc::ptr_eq(a, b) {
            return Ok(None);
        }
        Core::written_apart(a, &self.at.load(), &other.at.load(), tag).map(Some)
    }

    /// Fails if nothing can be changed through this handle.
    pub fn check_writable(&self) -> Result<()> {
        if self.is_covered() {
            let why = "a stream is being received, and until then it shows what was before";
            return Err(Error::ReadOnly(why.into()));
        }
        self.check_open()
    }

    /// Fails if nothing is written to the disk through this handle.
    pub(super) fn check_open(&self) -> Result<()> {
        match &self.role {
            Role::Snapshot(viewing) => {
                let name = String::from_utf8_lossy(&viewing.snapshot.name);
                Err(Error::ReadOnly(format!("it is the snapshot {name}").into()))
            }
            Role::Past | Role::Moment(_) => Err(Error::ReadOnly("it is what was".into())),
            Role::Volume | Role::Below | Role::Branch(_) => Core::check_writable(self),
        }
    }

    /// What the journal still has of batches, from `from` on, as far as it is durable.
    pub fn history(&self, from: BatchSeq) -> Result<Vec<Batch>> {
        let to = BatchSeq(self.durable.load(crate::sync::atomic::Ordering::Acquire));
        let copies = self.checkpointer.copies;
        history::read(self.disk.as_ref(), self.vid, copies, from, to)
    }

    /// Space of the volume.
    pub fn space(&self) -> Result<VolumeSpace> {
        if let Role::Moment(replayed) = &self.role {
            return Ok(replayed.space());
        }
        let space = Core::space(self, self.branch())?;
        let covered = self.covered.lock();
        let covered = covered.as_ref().map(|viewing| &viewing.snapshot);
        let Some(snapshot) = self.viewed().or(covered) else {
            return Ok(space);
        };
        Ok(VolumeSpace {
            total: u64::try_from(snapshot.bytes).unwrap_or(u64::MAX),
            free: 0,
            inodes: snapshot.inodes,
        })
    }

    /// Starts the threads, if the volume has any.
    pub fn start(&self, reaper: Reaper) -> Result<()> {
        if !self.tuning.threads || self.read_only.is_some() {
            return Ok(());
        }
        let checkpointer = Arc::clone(&self.checkpointer);
        let background = self.durability != Durability::JournalOnly;
        let upkeep = Upkeep {
            checkpointer,
            reaper,
            background,
        };
        let core = Arc::clone(&self.checkpointer.core);
        let timeline = Arc::clone(&core.version.load().timeline);
        if timeline.snapshots().iter().any(|s| s.gone) {
            // Space comes back once a generation knows of it, which only the journal may do so far.
            core.want_checkpoint();
        }
        *self.workers.lock() = Some(Workers::start(core, Arc::new(upkeep))?);
        Ok(())
    }

    /// Fails if every operation is to be durable and a batch waits for room on the host: what
    /// comes then is refused while nothing of it shows.
    pub fn check_unstuck(&self) -> Result<()> {
        match self.durability {
            Durability::Sync if self.is_stuck() => self.sync(),
            _ => Ok(()),
        }
    }

    /// Waits until a transaction is durable, if every operation is to be.
    pub fn wait(&self, ticket: Ticket) -> Result<()> {
        let Ticket(()) = ticket;
        match self.durability {
            Durability::Sync => self.sync(),
            Durability::Async | Durability::JournalOnly => Ok(()),
        }
    }

    /// Writes everything into segments.
    pub fn checkpoint(&self) -> Result<()> {
        self.check_open()?;
        self.checkpointer.checkpoint().map(|_| ())
    }

    /// One piece of background work, of all but reaping.
    pub fn step(&self, step: Step) -> Result<bool> {
        self.check_open()?;
        match step {
            Step::Commit => self.commit_now(true),
            Step::Checkpoint => self.checkpointer.checkpoint(),
            Step::Compact => self.checkpointer.compact(),
            Step::Grow => self.checkpointer.grow(),
            Step::Parity => self.checkpointer.parity(),
            Step::Clean => self.checkpointer.clean(),
            Step::Release => self.checkpointer.release(),
            Step::Scrub => match self.checkpointer.scrub_step()? {
                Stepped::Idle => Ok(false),
                Stepped::Next(_) => Ok(true),
            },
            Step::Reap => Ok(false),
        }
    }

    /// Lets blocks share frames. The first time it writes two generations; the caller holds no
    /// lock.
    pub fn allow_sharing(&self) -> Result<()> {
        if self.sharing.load(crate::sync::atomic::Ordering::Acquire) {
            return Ok(());
        }
        self.checkpointer.allow_sharing()
    }

    /// Lets the journal grow until it takes twice `bytes` at once, or as far as it can; answers
    /// whether it takes `bytes` now, or more than before. It may have grown before, for others. A
    /// host without room for it is an error. The caller holds no lock.
    pub fn grow_journal_for(&self, bytes: usize) -> Result<bool> {
        self.check_open()?;
        let had = self.limits.most();
        self.checkpointer.grow_journal_for(2 * bytes)?;
        let has = self.limits.most();
        let grew = has >= bytes || has > had;
        if !grew && self.checkpointer.is_short_of_files()? {
            return Err(Error::NoSpace);
        }
        Ok(grew)
    }

    /// From now on nothing is written any more, as if the disk had failed.
    pub fn shut_down(&self) {
        if !matches!(self.role, Role::Volume) {
            return;
        }
        let core = &self.checkpointer.core;
        core.fail(&Error::ReadOnly("a program has shut it down".into()));
        core.fail_waiters();
    }

    /// Makes everything durable and keeps it as it is while `look` reads the files.
    pub fn hold_still<R>(&self, look: impl FnOnce(&dyn Disk) -> R) -> Result<R> {
        if self.read_only.is_some() {
            return Ok(look(self.disk.as_ref()));
        }
        self.check_open()?;
        let mut installer = self.checkpointer.installer.lock();
        self.checkpointer.abandon_parity(&mut installer);
        if installer.has_copies() {
            // Whoever looks is to find no pack that no generation names.
            self.checkpointer.write_anew(&mut installer)?;
        }
        self.sync()?;
        let journal = self.journal();
        let seen = look(self.disk.as_ref());
        drop(journal);
        drop(installer);
        Ok(seen)
    }

    /// Ends the threads, makes everything durable and marks the volume clean.
    pub fn close(&self) -> Result<()> {
        let guard = self.guard.lock().take();
        if guard.is_none() {
            return Ok(());
        }
        // What other clones of the volume do from here on would be lost, or worse, written after
        // the lock is gone.
        self.close_door();
        if let Some(mut workers) = self.workers.lock().take() {
            workers.stop();
        }
        let result = match (self.read_only.is_some(), self.failure()) {
            (true, _) => Ok(()),
            (false, Some(cause)) => Err(Error::Failed(cause)),
            (false, None) => {
                if let Err(e) = self.checkpointer.scrub_save() {
                    tracing::warn!(error = %e, "how far the scrub is was not written down");
                }
                self.checkpointer.close()
            }
        };
        if let (Ok(()), Some(redo)) = (&result, &self.redo)
            && redo.is_nobody_left()
        {
            redo.end();
        }
        self.end();
        // The lock goes last: whoever gets it finds the volume as it will stay.
        drop(guard);
        result
    }

    /// The scrub of the volume, and what drives it.
    pub fn scrub(&self) -> &Checkpointer {
        &self.checkpointer
    }

    /// What recovery found.
    pub fn recovery(&self) -> &RecoverySummary {
        &self.recovery
    }

    /// The first inode number that nobody can have learnt from a process that died and for which
    /// this one goes on, if it does.
    pub const fn first_new(&self) -> Option<Ino> {
        self.first_new
    }

    /// Counts since the volume was opened.
    pub fn stats(&self) -> Stats {
        self.checkpointer.stats()
    }

    /// What the volume is.
    pub fn info(&self) -> Info {
        self.checkpointer.info(self.uuid)
    }
}

impl Drop for Store {
    /// Without [`Store::close`] the volume is left as a crash would leave it, but for what a last
    /// commit can save.
    fn drop(&mut self) {
        if !matches!(self.role, Role::Volume) {
            return;
        }
        self.close_door();
        if let Some(mut workers) = self.workers.lock().take() {
            workers.stop();
        }
        let open = self.guard.lock().is_some();
        if open && self.tuning.threads && self.read_only.is_none() && self.failure().is_none() {
            // There is nobody left to tell; whoever cares calls `close`.
            if let Err(e) = self.commit_now(true) {
                tracing::warn!(error = %e, "the last commit failed");
            }
        }
        self.end();
    }
}
