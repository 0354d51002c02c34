//! The threads of an open volume: the only ones the engine has. One commits batches, one
//! checkpoints, compacts and makes parity, one reaps, one scrubs, one flushes the second copy of
//! the journal if there is one. Without them (`Options::threads` off) whoever needs the work done
//! does it, step by step, which is how the simulator replays a seed.

mod backoff;

use std::sync::Arc;
use std::time::Duration;

use crate::journal::Flusher;
use crate::scrub::Stepped;
use crate::store::{CHECKPOINT, Core};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::thread::{self, JoinHandle};
use crate::{Error, Result};
use backoff::Backoff;

/// Maintenance that the engine's rooms offer, in the order in which it is tried.
pub(crate) trait Maintenance: Send + Sync + 'static {
    /// Whether a checkpoint is due.
    fn checkpoint_is_due(&self) -> bool;
    /// Writes a checkpoint.
    fn checkpoint(&self) -> Result<bool>;
    /// One compaction.
    fn compact(&self) -> Result<bool>;
    /// One step of cleaning.
    fn clean(&self) -> Result<bool>;
    /// Releases what was given up.
    fn release(&self) -> Result<bool> {
        Ok(false)
    }
    /// One step of reaping.
    fn reap(&self) -> Result<bool>;
    /// One step of growing the journal.
    fn grow(&self) -> Result<bool>;
    /// One step of a scrub.
    fn scrub(&self) -> Result<Stepped>;
    /// One step of healing, or of making parity.
    fn parity(&self) -> Result<bool>;
    /// Gives back memory that was not used for a while.
    fn give_back(&self) {}
}

/// The running threads.
pub(crate) struct Workers {
    store: Arc<Core>,
    stop: Arc<AtomicBool>,
    /// The reaper stops first: what it does may have to wait for the others.
    stop_reaping: Arc<AtomicBool>,
    reaper: Option<JoinHandle<()>>,
    /// Where the journal has two copies.
    flusher: Option<(Arc<Flusher>, JoinHandle<()>)>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts them.
    pub fn start(store: Arc<Core>, maintenance: Arc<dyn Maintenance>) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut workers = Self {
            store: Arc::clone(&store),
            stop,
            stop_reaping: Arc::new(AtomicBool::new(false)),
            reaper: None,
            flusher: None,
            threads: Vec::new(),
        };
        let (journal_store, journal_stop) = (Arc::clone(&store), Arc::clone(&workers.stop));
        let journal = workers.spawn("razorfs-journal", move || {
            journal_loop(&journal_store, &journal_stop)
        })?;
        workers.threads.push(journal);
        if let Some(flusher) = workers.store.flusher() {
            let serving = Arc::clone(&flusher);
            let thread = workers.spawn("razorfs-twin", move || serving.serve())?;
            workers.flusher = Some((flusher, thread));
        }
        let (upkeep_stop, upkeep_work) = (Arc::clone(&workers.stop), Arc::clone(&maintenance));
        let upkeep = workers.spawn("razorfs-upkeep", move || {
            upkeep_loop(&store, upkeep_work.as_ref(), &upkeep_stop);
        })?;
        workers.threads.push(upkeep);
        let (scrub_store, scrub_stop) = (Arc::clone(&workers.store), Arc::clone(&workers.stop));
        let scrub_work = Arc::clone(&maintenance);
        let scrub = workers.spawn("razorfs-scrub", move || {
            scrub_loop(&scrub_store, scrub_work.as_ref(), &scrub_stop);
        })?;
        workers.threads.push(scrub);
        let reaper_stop = Arc::clone(&workers.stop_reaping);
        let reaper_store = Arc::clone(&workers.store);
        let reaper = workers.spawn("razorfs-reaper", move || {
            reaper_loop(&reaper_store, maintenance.as_ref(), &reaper_stop);
        })?;
        workers.reaper = Some(reaper);
        Ok(workers)
    }

    fn spawn(&self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
        let last_words = LastWords(Arc::clone(&self.store));
        thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                let _told = last_words;
                body();
            })
            .map_err(|e| Error::Failed(format!("no thread could be started ({e})").into()))
    }

    /// Stops them and waits for their end. What is not committed is left to the caller.
    pub fn stop(&mut self) {
        self.stop_reaping.store(true, Ordering::Release);
        if let Some(reaper) = self.reaper.take() {
            reaper.thread().unpark();
            join(reaper);
        }
        self.stop.store(true, Ordering::Release);
        self.store.wake_all();
        {
            self.store.signals.wanted.lock().stop = true;
            self.store.signals.maintain.notify_all();
        }
        self.threads.drain(..).for_each(join);
        if let Some((flusher, thread)) = self.flusher.take() {
            flusher.stop();
            join(thread);
        }
    }
}

/// Waits for the end of a thread, unless it is this one: the last clone of a volume may be dropped
/// by the thread that reaps for it.
fn join(thread: JoinHandle<()>) {
    thread.thread().unpark();
    if thread.thread().id() != thread::current().id() {
        // If it panicked it has said so.
        let _ended = thread.join();
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Tells those who wait for a thread when it panics: nobody else would.
struct LastWords(Arc<Core>);

impl Drop for LastWords {
    fn drop(&mut self) {
        if thread::panicking() {
            let cause = Error::Failed("a thread of the volume panicked".into());
            self.0.fail(&cause);
            self.0.fail_waiters();
        }
    }
}

fn journal_loop(store: &Core, stop: &AtomicBool) {
    let stopped = || stop.load(Ordering::Acquire);
    while !stopped() {
        store.wait_for_work(&stopped);
        if store.commit_now(false).is_err() {
            // The error latched and every waiter has it; those to come get it at once.
            store.fail_waiters();
        }
    }
}

/// How long the reaper sleeps when there is nothing to reap.
const REAPER_NAP: Duration = Duration::from_millis(100);

/// Reaping writes like any program does, and waits for room in the journal like one: so it must
/// not be done by the thread that makes the room.
fn reaper_loop(store: &Core, maintenance: &dyn Maintenance, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) && store.failure().is_none() {
        let nap = match maintenance.reap() {
            Ok(true) => continue,
            Ok(false) => REAPER_NAP,
            Err(e) => {
                tracing::warn!(error = %e, "removing a nameless file was put off");
                REAPER_NAP * 50
            }
        };
        thread::park_timeout(nap);
    }
}

/// How long a scrub sleeps when none runs.
const SCRUB_NAP: Duration = Duration::from_millis(500);

/// It reads what nobody waits for, at the rate that it was given, so it has a thread that may wait.
fn scrub_loop(store: &Core, maintenance: &dyn Maintenance, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) && store.failure().is_none() {
        let nap = match maintenance.scrub() {
            Ok(Stepped::Next(0)) => continue,
            Ok(Stepped::Next(wait)) => Duration::from_nanos(wait),
            Ok(Stepped::Idle) => SCRUB_NAP,
            Err(e) => {
                tracing::warn!(error = %e, "a step of the scrub was put off");
                SCRUB_NAP * 20
            }
        };
        thread::park_timeout(nap);
    }
}

/// How long the maintenance thread sleeps when nothing is asked of it.
const UPKEEP_NAP: Duration = Duration::from_millis(500);

/// After how long memory that was not used is given back.
const UNUSED: Duration = Duration::from_secs(5);

fn upkeep_loop(store: &Core, maintenance: &dyn Maintenance, stop: &AtomicBool) {
    let mut pauses = Pauses::default();
    let mut given_back = Duration::ZERO;
    while !stop.load(Ordering::Acquire) {
        let now = Duration::from_nanos(store.env.monotonic());
        if now.saturating_sub(given_back) >= UNUSED {
            maintenance.give_back();
            given_back = now;
        }
        if !upkeep_step(store, maintenance, &mut pauses, now) {
            let mut wanted = store.signals.wanted.lock();
            if !(wanted.checkpoint || wanted.stop) {
                store.signals.maintain.wait_for(&mut wanted, UPKEEP_NAP);
            }
        }
    }
}

/// A try may use up a number and a file, so what fails is not tried all the time.
#[derive(Default)]
struct Pauses {
    checkpoint: Backoff,
    grow: Backoff,
    release: Backoff,
    compact: Backoff,
    parity: Backoff,
    clean: Backoff,
}

/// Does what is due; answers whether there was anything, without a failure.
fn upkeep_step(
    store: &Core,
    maintenance: &dyn Maintenance,
    pauses: &mut Pauses,
    now: Duration,
) -> bool {
    let asked = {
        let mut wanted = store.signals.wanted.lock();
        std::mem::take(&mut wanted.checkpoint)
    };
    if store.failure().is_some() {
        return false;
    }
    let (mut busy, mut failed) = (false, false);
    let mut step = |what, pause: &mut Backoff, work: &dyn Fn() -> Result<bool>| {
        // The last clone of a volume may have been dropped by the reaper, here: then it is not
        // ours to write to any more.
        if store.is_closed() || !pause.is_due(asked, now) {
            return;
        }
        // What fails keeps nothing else from being done: reaping and compaction are what a
        // full host needs.
        match work() {
            Ok(done) => {
                busy |= done;
                if pause.succeeded() {
                    store.signals.failing.lock().remove(what);
                    tracing::info!(what, "maintenance succeeds again");
                }
            }
            Err(e) => {
                failed = true;
                if pause.failed(&e, now) {
                    tracing::warn!(
                        what,
                        error = %e,
                        "maintenance failed; it is tried again after ever longer pauses, and \
                         this is told once"
                    );
                }
                store.signals.failing.lock().insert(what, e);
            }
        }
    };
    if asked || maintenance.checkpoint_is_due() {
        let work = || maintenance.checkpoint();
        step(CHECKPOINT, &mut pauses.checkpoint, &work);
    }
    step("journal", &mut pauses.grow, &|| maintenance.grow());
    step("release", &mut pauses.release, &|| maintenance.release());
    step("compaction", &mut pauses.compact, &|| maintenance.compact());
    step("parity", &mut pauses.parity, &|| maintenance.parity());
    step("cleaning", &mut pauses.clean, &|| maintenance.clean());
    busy && !failed
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;
    use crate::{Options, Volume};

    /// Whose every try fails.
    #[derive(Default)]
    struct Failing {
        tries: AtomicU32,
    }

    impl Failing {
        fn fail(&self) -> Result<bool> {
            self.tries.fetch_add(1, Ordering::Relaxed);
            Err(Error::Failed("too many open files".into()))
        }
    }

    impl Maintenance for Failing {
        fn checkpoint_is_due(&self) -> bool {
            true
        }
        fn checkpoint(&self) -> Result<bool> {
            self.fail()
        }
        fn compact(&self) -> Result<bool> {
            self.fail()
        }
        fn clean(&self) -> Result<bool> {
            Ok(false)
        }
        fn scrub(&self) -> Result<Stepped> {
            Ok(Stepped::Idle)
        }
        fn parity(&self) -> Result<bool> {
            Ok(false)
        }
        fn reap(&self) -> Result<bool> {
            Ok(false)
        }
        fn grow(&self) -> Result<bool> {
            Ok(false)
        }
    }

    #[test]
    fn maintenance_that_fails_is_tried_ever_less_often_but_at_once_if_asked_for() {
        let volume = Volume::for_tests(Options::default());
        let store: &Core = &volume.inner.store;
        let (work, mut pauses) = (Failing::default(), Pauses::default());
        let start = Duration::from_secs(7);
        // Half an hour, with two looks a second.
        for n in 0..3600 {
            let now = start + UPKEEP_NAP * n;
            assert!(!upkeep_step(store, &work, &mut pauses, now));
        }
        let tries = work.tries.load(Ordering::Relaxed);
        assert!((2 * 30..2 * 40).contains(&tries), "{tries} tries");
        let cause = work.fail().unwrap_err();
        work.tries.fetch_sub(1, Ordering::Relaxed);
        let told = ["checkpoint", "compaction"].map(|what| format!("{what}: {cause}"));
        assert_eq!(volume.info().failing, told);
        store.signals.wanted.lock().checkpoint = true;
        upkeep_step(store, &work, &mut pauses, start + UPKEEP_NAP * 3600);
        assert_eq!(work.tries.load(Ordering::Relaxed), tries + 2);
    }

    /// None is due after that, so the thread would not find out.
    #[test]
    fn a_checkpoint_that_somebody_else_makes_ends_the_failure() {
        let volume = Volume::for_tests(Options::default());
        let (work, mut pauses) = (Failing::default(), Pauses::default());
        upkeep_step(&volume.inner.store, &work, &mut pauses, UPKEEP_NAP);
        let names = || {
            let lines = volume.info().failing.into_iter();
            let names = lines.filter_map(|line| Some(line.split_once(':')?.0.to_owned()));
            names.collect::<Vec<_>>()
        };
        assert_eq!(names(), ["checkpoint", "compaction"]);
        volume.checkpoint().unwrap();
        assert_eq!(names(), ["compaction"]);
    }
}
