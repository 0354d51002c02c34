//! The door to the store: its core, its checkpointer and, where the volume has threads, those.

use std::ops::Deref;
use std::sync::Arc;

use razorfs_disk::{Disk, Env, Guard};

use super::{Core, RoomMaker, Ticket};
use crate::checkpoint::Checkpointer;
use crate::recovery::{self, Opened};
use crate::scrub::Stepped;
use crate::sync::Mutex;
use crate::workers::{Maintenance, Workers};
use crate::{
    CreateOptions, Durability, Error, Info, Options, RecoverySummary, Result, Stats, Step,
};

/// The store of one volume.
pub(crate) struct Store {
    checkpointer: Arc<Checkpointer>,
    durability: Durability,
    recovery: RecoverySummary,
    uuid: [u8; 16],
    /// It goes on where a process has died, for whoever uses the volume.
    resumed: bool,
    workers: Mutex<Option<Workers>>,
    /// Held until the volume is closed.
    guard: Mutex<Option<Box<dyn Guard>>>,
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
        Ok(Self {
            checkpointer,
            durability: options.durability,
            recovery: summary,
            uuid,
            resumed,
            workers: Mutex::new(None),
            guard: Mutex::new(Some(guard)),
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
        self.check_writable()?;
        self.checkpointer.checkpoint().map(|_| ())
    }

    /// One piece of background work, of all but reaping.
    pub fn step(&self, step: Step) -> Result<bool> {
        self.check_writable()?;
        match step {
            Step::Commit => self.commit_now(true),
            Step::Checkpoint => self.checkpointer.checkpoint(),
            Step::Compact => self.checkpointer.compact(),
            Step::Grow => self.checkpointer.grow(),
            Step::Parity => self.checkpointer.parity(),
            Step::Clean => self.checkpointer.clean(),
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
        self.check_writable()?;
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
        let core = &self.checkpointer.core;
        core.fail(&Error::ReadOnly("a program has shut it down".into()));
        core.fail_waiters();
    }

    /// Makes everything durable and keeps it as it is while `look` reads the files.
    pub fn hold_still<R>(&self, look: impl FnOnce(&dyn Disk) -> R) -> Result<R> {
        if self.read_only.is_some() {
            return Ok(look(self.disk.as_ref()));
        }
        self.check_writable()?;
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
    pub fn first_new(&self) -> Option<razorfs_format::Ino> {
        let next = self.ids.ino.load(crate::sync::atomic::Ordering::Relaxed);
        self.resumed.then_some(razorfs_format::Ino(next))
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
