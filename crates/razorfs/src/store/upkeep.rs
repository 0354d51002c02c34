//! What the store asks of those who keep it going, and what they ask of it.

use std::sync::Weak;

use super::{Core, Waiter};
use crate::journal::Grown;
use crate::sync::atomic::Ordering;
use crate::{Error, Result};

/// Makes room in the journal, by a checkpoint.
pub(crate) trait RoomMaker: Send + Sync {
    /// Returns when there is room, or with the reason why not.
    fn make_room(&self) -> Result<()>;
}

impl Core {
    /// Tells who makes room in the journal.
    pub fn set_room_maker(&self, maker: Weak<dyn RoomMaker>) {
        let first = self.room_maker.set(maker).is_ok();
        debug_assert!(first, "a store has one checkpointer");
    }

    /// Makes room in the journal on this thread.
    pub(super) fn checkpoint_for_room(&self) -> Result<()> {
        match self.room_maker.get().and_then(Weak::upgrade) {
            Some(maker) => maker.make_room(),
            None => Err(Error::Failed("the volume is being closed".into())),
        }
    }

    /// Asks the maintenance thread for a checkpoint.
    pub fn want_checkpoint(&self) {
        self.signals.wanted.lock().checkpoint = true;
        self.signals.maintain.notify_one();
    }

    /// Lets the maintenance thread look what is due.
    pub(super) fn wake_maintenance(&self) {
        self.signals.maintain.notify_one();
    }

    /// Whether the journal needs a checkpoint soon.
    pub fn journal_is_tight(&self) -> bool {
        self.limits.tight()
    }

    /// Whether the journal should grow.
    pub fn journal_is_pressed(&self) -> bool {
        self.limits.pressed()
    }

    /// The journal changed: looks at it anew.
    pub fn note_room(&self) {
        self.limits.note(&self.journal().ring);
    }

    /// Lets the journal go on in another file, if what was taken already fits there.
    pub fn turn_journal(&self) -> Result<()> {
        let mut journal = self.journal();
        let Some(places) = journal.ring.places_after_turn() else {
            return Ok(());
        };
        {
            let open = self.open.lock();
            // Whoever comes from here on does not count on the rest of the file.
            if !self.limits.give_up(open.journal_bytes, places) {
                return Ok(());
            }
        }
        let turned = journal.ring.turn();
        self.limits.note(&journal.ring);
        turned
    }

    /// One step of growing the journal; answers whether there was anything to do. A file that what
    /// was taken counts on grows another time. Nobody waits for the journal meanwhile.
    pub fn grow_ring(&self) -> Result<bool> {
        let _alone = self.growing.lock();
        let mut journal = self.journal();
        if let Some(places) = journal.ring.places_while_growing() {
            let open = self.open.lock();
            if !self.limits.give_up(open.journal_bytes, places) {
                return Ok(false);
            }
        }
        let mut grown = journal.ring.begin_step();
        if let Ok(Grown::Filling(filling)) = grown {
            drop(journal);
            let done = filling.run();
            journal = self.journal();
            grown = journal.ring.filled(filling, done).map(|()| Grown::Done);
        }
        self.limits.note(&journal.ring);
        Ok(!matches!(grown?, Grown::Nothing))
    }

    /// Takes nothing new from now on; what was taken is whole and in the open batch.
    pub fn close_door(&self) {
        self.closed.store(true, Ordering::Release);
        // Whoever was let in before is through with it.
        drop(self.gate.write());
        self.wake_all();
    }

    /// Whether the volume was closed, or is being closed.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Nobody commits from now on: whoever waits, or comes to wait, learns it.
    pub fn end(&self) {
        {
            let _open = self.open.lock();
            self.ended.store(true, Ordering::Release);
        }
        self.fail_waiters();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Whoever waits for the open batch learns that nothing will make it durable.
    pub fn fail_waiters(&self) {
        let waiters: Vec<Waiter> = std::mem::take(&mut self.open.lock().waiters);
        let cause = self.failure();
        for waiter in waiters {
            waiter(Err(match &cause {
                Some(cause) => Error::Failed(std::sync::Arc::clone(cause)),
                None => super::commit::closed(),
            }));
        }
    }

    /// Bytes of data that nothing may need any more since the last checkpoint, at most: what was
    /// written and made no file larger, and by how much files became smaller. What was never
    /// stored, as in files of holes, is none.
    pub fn garbage_since_cut(&self) -> u64 {
        let placed = self.placed_since_cut.load(Ordering::Relaxed);
        let was = self.bytes_at_cut.load(Ordering::Relaxed);
        let might = placed.saturating_add(was);
        let stored = self.stored.load(Ordering::Relaxed);
        let gone = might.saturating_sub(self.bytes_in_all());
        gone.min(placed.saturating_add(stored))
    }

    /// File data and records in RAM that are in no pack or segment.
    pub fn bytes_in_ram(&self) -> u64 {
        let version = self.version.load();
        version.memtables().map(|m| m.bytes() as u64).sum()
    }
}
