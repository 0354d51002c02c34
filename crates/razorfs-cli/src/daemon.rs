//! The process that has a volume mounted, on one directory or several.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use razorfs::{Options, Volume};
use razorfs_disk::os::{OsDisk, SharedMemory};
use serde_json::json;

use crate::autosnap::{Autosnap, Running};
use crate::commands::{create, stats, umount};
use crate::desk::{self, Desk};
use crate::failure::{COULD_NOT_RUN, Failure, Result, plain, shown};
use crate::kept::{self, Beginning};
use crate::log::Log;
use crate::metrics::{self, Endpoint};
use crate::mounts::{Mount, Mounts, Plan};
use crate::shows::Shows;
use crate::socket::{self, Wanted};
use crate::unmount::{self, Outcome};
use crate::{ground, keeper, place, prometheus, signals};

/// What a daemon begins with.
#[derive(Clone, Debug)]
pub struct Job {
    /// The volume, a path from the root of the host.
    pub volume: PathBuf,
    /// The first mount. Those of its options that are for the whole volume hold for all.
    pub first: Plan,
    /// The volume is not written to.
    pub read_only: bool,
}

/// What the main thread waits for.
pub enum Event {
    /// A signal to end.
    Signal,
    /// A command asks for one more mount, and waits on this stream.
    Mount(Wanted, UnixStream),
    /// A command asks to unmount this directory, or all, and waits on this stream.
    Umount(Option<PathBuf>, UnixStream),
    /// The kernel has unmounted the mount of this number.
    Ended(u64),
}

/// The daemon's life. What happens until the directory is usable is told on standard output:
/// `ready` or an exit code, a blank and what is to be said: notices, or a line.
pub fn in_background(job: &Job, kept: bool) -> u8 {
    leave_the_terminal();
    let beginning = if kept {
        kept::begin()
    } else {
        Ok(Beginning::default())
    };
    let beginning = match beginning {
        Ok(beginning) => beginning,
        Err(failure) => {
            say(&format!("{} {failure}", failure.code));
            return failure.code;
        }
    };
    let mut was_usable = false;
    let (keeper, is_resumed) = (beginning.keeper.clone(), beginning.is_resumed());
    let outcome = serve(job, beginning, &mut |notices| {
        was_usable = true;
        say(&format!("ready {}", json!(notices)));
    });
    let failure = outcome.err();
    let code = failure.as_ref().map_or(0, |failure| failure.code);
    if let Some(failure) = &failure {
        tracing::error!("{failure}");
        say(&format!("{code} {failure}"));
    }
    if let Some(keeper) = &keeper {
        let refused = failure.filter(|_| is_resumed && !was_usable);
        keeper.tell_end(code, refused.as_ref());
    }
    code
}

/// The same in the foreground.
pub fn in_foreground(job: &Job) -> Result<()> {
    Log::to_stderr(job.first.options.log, crate::env()).install();
    serve(job, Beginning::default(), &mut |notices| {
        print_notices(job, notices);
        eprintln!(
            "razorfs: mounted on {}; Ctrl-C unmounts",
            shown(&job.first.dir)
        );
    })
}

/// What who mounts should know of a volume that was opened all the same.
fn notices(opened: &Opened) -> Vec<String> {
    let damage = opened.volume.recovery_report().damage.clone();
    let damage = damage.first().map(|first| {
        let more = match damage.len() - 1 {
            0 => String::new(),
            n => format!(", and {n} more"),
        };
        format!(
            "it is damaged, or a copy that is not complete: {first}{more}; run `razorfs verify`"
        )
    });
    ground::warning(opened.disk.path())
        .into_iter()
        .chain(damage)
        .collect()
}

/// What the daemon said of its volume when it was ready.
pub fn read_notices(text: &str) -> Vec<String> {
    // Of a program of another version, perhaps, whose mount is usable whatever it says.
    serde_json::from_str(text).unwrap_or_default()
}

/// Prints them.
pub fn print_notices(job: &Job, notices: &[String]) {
    for notice in notices {
        eprintln!("razorfs: warning: {}: {notice}", shown(&job.volume));
    }
}

/// Tells the parent, which reads until the end of the stream, and lets go of the stream.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Without a parent nobody listens, and there is nothing to be done about it.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    let_go_of_output();
}

/// A process of its own session, which signals of the terminal do not reach, and that keeps no
/// directory busy.
pub fn leave_the_terminal() {
    // Fails for who leads a session already, which is what is wanted.
    let _ = rustix::process::setsid();
    // Without it a directory is busy as long as this process lives; nothing is lost by that.
    let _ = std::env::set_current_dir("/");
}

/// Whoever reads our output sees its end, if they wait for that.
pub fn let_go_of_output() {
    if let Ok(null) = std::fs::File::options().write(true).open("/dev/null") {
        // They read a line, and do not need the end.
        let _ = rustix::stdio::dup2_stdout(&null);
    }
}

fn serve(job: &Job, beginning: Beginning, ready: &mut dyn FnMut(&[String])) -> Result<()> {
    let is_resumed = beginning.is_resumed();
    let keeper = beginning.keeper.as_ref().map(|keeper| keeper.pid);
    let (events, inbox) = channel();
    // Before there are any threads, so that all of them leave the signals alone.
    let sender = events.clone();
    signals::take(move || {
        // Nobody to tell means that the end is near anyway.
        let _ = sender.send(Event::Signal);
    })?;
    let opened = open(job, &beginning)?;
    let volume = opened.volume.clone();
    // Ours to the end, even if another volume is at the path by then.
    let home = socket::home(opened.disk.path());
    let outcome = mounted(job, beginning, &opened, events, &inbox, ready);
    if outcome.is_err() && is_resumed {
        // The volume is not closed: another daemon is to go on, as after a death.
        return outcome.map(|_| ());
    }
    if let Ok(home) = home {
        socket::remove(&home);
    }
    let closed = volume
        .close()
        .map_err(|e| Failure::engine("close", &job.volume, &e));
    match &closed {
        Ok(()) => tracing::info!("the volume is closed"),
        Err(failure) => tracing::error!("{failure}"),
    }
    for mut client in outcome? {
        let processes: Vec<u32> = keeper.into_iter().chain([std::process::id()]).collect();
        let answer = closed.clone().map(|()| json!({"processes": processes}));
        // The command sees the end of the stream when this process is gone, and not earlier.
        let _ = socket::answer(&mut client, &answer);
        std::mem::forget(client);
    }
    closed
}

/// A volume that is open.
struct Opened {
    volume: Volume,
    disk: OsDisk,
    memory: Option<Arc<SharedMemory>>,
}

fn open(job: &Job, beginning: &Beginning) -> Result<Opened> {
    let lock = beginning.estate.as_ref().and_then(|e| e.lock.as_ref());
    let home = keeper::home_of(lock, &job.volume);
    let path = &home;
    let may_create = !beginning.is_resumed() && !job.read_only && !job.first.shows.is_fixed();
    if may_create && !place::is_volume(path) {
        create::create(path, &create::options())?;
    }
    let no_memory = |e| Failure::host("share memory for", path, &e).code(COULD_NOT_RUN);
    let memory = beginning.memory(job.read_only).map_err(no_memory)?;
    let disk = match lock.map(OwnedFd::try_clone) {
        Some(lock) => OsDisk::with_lock(path, lock.map_err(no_memory)?),
        None => OsDisk::new(path),
    };
    let mut options = Options {
        durability: job.first.options.durability,
        read_only: job.read_only,
        redo: memory.as_ref().map(kept::redo_of).transpose()?,
        ..Options::default()
    };
    if let Some(bytes) = job.first.options.cache {
        options.cache_bytes = bytes;
    }
    let volume = place::open_on(disk.clone(), options)?;
    // Only who has the volume's lock writes its log.
    match Log::to_volume(path, job.first.options.log, crate::env()) {
        Ok(log) => log.install(),
        Err(_) if job.read_only => {}
        Err(e) => return Err(Failure::host("write the log of", path, &e)),
    }
    let report = volume.recovery_report();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        clean = report.clean,
        ops = report.ops,
        bytes = report.bytes,
        torn = report.torn,
        orphans = report.orphans,
        redone = report.redone,
        "opened"
    );
    if let Some(warning) = ground::warning(path) {
        tracing::warn!("{warning}");
    }
    for damage in &report.damage {
        tracing::error!("damage: {damage}");
    }
    for healed in &report.healed {
        tracing::warn!("healed: {healed}; check the disk");
    }
    Ok(Opened {
        volume,
        disk,
        memory,
    })
}

/// Serves until all mounts are gone; answers with the commands that asked for it.
fn mounted(
    job: &Job,
    mut beginning: Beginning,
    opened: &Opened,
    events: Sender<Event>,
    inbox: &Receiver<Event>,
    ready: &mut dyn FnMut(&[String]),
) -> Result<Vec<UnixStream>> {
    let listener = listen(job, &beginning)?;
    let metrics = serve_metrics_at(job, beginning.is_resumed())?;
    let sender = Mutex::new(events.clone());
    let mounts = Arc::new(Mounts::new(
        opened.volume.clone(),
        job.volume.clone(),
        job.first.options.clone(),
        beginning.keeper.clone(),
        opened.memory.is_some() || opened.volume.info().read_only.is_some(),
        move |id| {
            let sender = sender.lock();
            // Nobody to tell means that the end is near anyway.
            let _ = sender.map(|sender| sender.send(Event::Ended(id)));
        },
    ));
    match beginning.is_resumed() {
        false => mounts.add(job.first.clone())?,
        true => {
            let mut left = std::mem::take(&mut beginning.mounts).into_iter();
            left.try_for_each(|held| mounts.go_on(held))?;
            opened.volume.all_have_come();
        }
    }
    hand_over(opened, &mounts, listener.as_ref()).inspect_err(|_| {
        if beginning.is_resumed() {
            return;
        }
        // What nobody is going to serve must not stay.
        if let Err(failure) = unmount::lazily(&job.first.dir) {
            tracing::error!("{failure}");
        }
    })?;
    let mut life = Life {
        mounts: Arc::clone(&mounts),
        in_use: Arc::default(),
        asked: false,
        leaving: Vec::new(),
        is_kept: beginning.keeper.is_some(),
    };
    if beginning.rolls_back {
        mounts.tell_of_newest_rollback();
    }
    if let Some(listener) = metrics {
        let mounts = Arc::clone(&mounts);
        spawn("metrics", move || {
            listener.serve(|| {
                let mount = mounts.meant(None)?;
                let document = stats::document(&mounts.volume, Some(&mount.statistics));
                Ok(prometheus::text(&document, &mounts.path))
            });
        })?;
    }
    let mut autosnap = None;
    if let Some(listener) = listener {
        let desk = Arc::new(Desk::new(Arc::clone(&mounts), Arc::clone(&life.in_use)));
        autosnap = start_autosnap(job, &mounts, &life.in_use)?;
        spawn("commands", move || desk::accept(&listener, &desk, &events))?;
    }
    ready(&notices(opened));
    let end = life.go_on(inbox);
    drop(autosnap);
    metrics::remove(job.first.options.metrics.as_ref());
    end
}

/// Where the counters are asked for, if they are served. A daemon that goes on for one that has
/// died does so without, if it must: the mounts are more.
fn serve_metrics_at(job: &Job, is_resumed: bool) -> Result<Option<metrics::Listener>> {
    let listener = job.first.options.metrics.as_ref().map(Endpoint::listen);
    match listener.transpose() {
        Err(failure) if is_resumed => {
            tracing::error!("{failure}");
            Ok(None)
        }
        listener => listener,
    }
}

/// Has snapshots taken by themselves, if that is wanted. `in_use` is held while a mount is in use
/// for one.
fn start_autosnap(
    job: &Job,
    mounts: &Arc<Mounts>,
    in_use: &Arc<Mutex<()>>,
) -> Result<Option<Running>> {
    let Some(every) = job.first.options.autosnap else {
        return Ok(None);
    };
    let (in_use, of_flush) = (Arc::clone(in_use), Arc::clone(mounts));
    let flush = move || {
        let _held = in_use.lock();
        of_flush.hand_over(&Shows::Head)
    };
    let autosnap = Autosnap {
        mounts: Arc::clone(mounts),
        every,
        // What is kept where nothing is said stands in the help of `mount`.
        keep: job.first.options.keep.clone().unwrap_or_default(),
        flush: Box::new(flush),
    };
    autosnap.start().map(Some)
}

/// Where commands come in; nowhere, if the host's directory must not be written to.
fn listen(job: &Job, beginning: &Beginning) -> Result<Option<UnixListener>> {
    let failed = |e: std::io::Error| Failure::host("listen in", &job.volume, &e);
    if let Some(listener) = beginning.listener().map_err(failed)? {
        return Ok(Some(listener));
    }
    match socket::listen(&job.volume, job.first.options.socket_mode) {
        Ok(listener) => Ok(Some(listener)),
        Err(_) if job.read_only => Ok(None),
        Err(e) => Err(failed(e)),
    }
}

/// Gives the keeper what it needs besides the mounts, if there is one.
fn hand_over(opened: &Opened, mounts: &Mounts, listener: Option<&UnixListener>) -> Result<()> {
    let Some(keeper) = mounts.keeper() else {
        return Ok(());
    };
    let handed = keeper.hand_over(&opened.disk, opened.memory.as_ref(), listener);
    handed
        .and_then(|()| keeper.watch())
        .map_err(|e| Failure::new(format!("cannot talk to the keeper: {e}")).code(COULD_NOT_RUN))
}

/// A command that waits until these mounts are gone.
struct Leaving {
    ids: BTreeSet<u64>,
    stream: UnixStream,
}

/// What the main thread does: mounts come and go one after the other.
struct Life {
    mounts: Arc<Mounts>,
    /// Held by who uses a mount for a moment. Without it that would be busy with ourselves.
    in_use: Arc<Mutex<()>>,
    /// A signal has come.
    asked: bool,
    leaving: Vec<Leaving>,
    /// Whether somebody keeps the mounts, or did at first.
    is_kept: bool,
}

impl Life {
    /// Goes on until all mounts are gone, or must not be waited for any longer; answers with the
    /// commands that are to be told of the end.
    fn go_on(&mut self, inbox: &Receiver<Event>) -> Result<Vec<UnixStream>> {
        let mut given_up = None;
        while !self.mounts.all().is_empty() {
            let event = inbox.recv();
            let in_use = Arc::clone(&self.in_use);
            let _held = in_use.lock();
            match event {
                Ok(Event::Signal) if self.asked => {
                    tracing::warn!("a second signal: the volume is closed although it is in use");
                    // Who uses the mounts gets errors from now on, when the process has ended at
                    // the latest.
                    return Ok(Vec::new());
                }
                Ok(Event::Signal) => self.signal(),
                // Another daemon may mount it.
                Ok(Event::Mount(..)) if self.asked => {}
                Ok(Event::Mount(wanted, mut stream)) => {
                    let done = Plan::new(wanted).and_then(|plan| self.mounts.add(plan));
                    if let Err(failure) = &done {
                        tracing::warn!("{failure}");
                    }
                    // Who has gone away does not need the answer; what went wrong is in the log.
                    let _ = socket::answer(&mut stream, &done.map(|()| json!({})));
                }
                Ok(Event::Umount(dir, stream)) => self.umount(dir, stream),
                Ok(Event::Ended(id)) => given_up = self.ended(id).err().or(given_up),
                Err(_) => break,
            }
        }
        match given_up {
            // Nobody goes on with it, and whoever used it has got errors.
            Some(failure) if !self.is_kept => Err(failure),
            _ => Ok(self
                .leaving
                .drain(..)
                .map(|leaving| leaving.stream)
                .collect()),
        }
    }

    fn signal(&mut self) {
        self.asked = true;
        tracing::info!("a signal asks to end");
        for mount in self.mounts.all() {
            let (plan, dir) = (&mount.plan, &mount.plan.dir);
            if !plan.is_there(&self.mounts.path) || unmount::plainly(dir) == Ok(Outcome::Done) {
                continue;
            }
            tracing::warn!(
                dir = %shown(dir),
                "the mount is in use; it is taken away, and served until nobody uses it or \
                 another signal comes"
            );
            if let Err(failure) = unmount::lazily(dir) {
                tracing::error!("{failure}");
            }
        }
    }

    /// Unmounts, the newest first. Those that are gone when one turns out to be in use stay so.
    fn umount(&mut self, dir: Option<PathBuf>, mut stream: UnixStream) {
        let meant = self.mounts.on(dir.as_deref());
        let gone = || self.mounts.meant(dir.as_deref()).map(|_| ());
        let mut outcome = if meant.is_empty() { gone() } else { Ok(()) };
        for (_, mount) in meant.iter().rev() {
            outcome = outcome.and_then(|()| self.unmount(mount));
        }
        match outcome {
            Ok(()) => self.leaving.push(Leaving {
                ids: meant.into_iter().map(|(id, _)| id).collect(),
                stream,
            }),
            Err(failure) => {
                // Who has gone away does not need the answer.
                let _ = socket::answer(&mut stream, &Err(failure));
            }
        }
    }

    fn unmount(&self, mount: &Mount) -> Result<()> {
        let dir = &mount.plan.dir;
        if !mount.plan.is_there(&self.mounts.path) {
            return Err(taken_away(mount));
        }
        match unmount::plainly(dir)? {
            Outcome::Done => Ok(()),
            Outcome::Busy => Err(umount::busy(dir)),
        }
    }

    /// A mount is gone. Whoever waited for it is told; if it was the last one, when the volume is
    /// closed. An error says why it was given up.
    fn ended(&mut self, id: u64) -> Result<()> {
        let dir = self.mounts.on(None).into_iter().find(|(of, _)| *of == id);
        let dir = dir.map(|(_, mount)| mount.plan.dir.clone());
        let finished = self.mounts.ended(id).map_err(|e| {
            let remedy = "mount it again, with -o transport=dev if that happens again";
            // One that the kernel has taken away already is told by its volume.
            let what = dir.unwrap_or_else(|| self.mounts.path.clone());
            Failure::with("serve", what, plain(&e), remedy)
        });
        if let Err(failure) = &finished {
            tracing::error!("{failure}");
        }
        for leaving in &mut self.leaving {
            leaving.ids.remove(&id);
        }
        if self.mounts.all().is_empty() {
            return finished;
        }
        let is_done = |leaving: &mut Leaving| leaving.ids.is_empty();
        for mut leaving in self.leaving.extract_if(.., is_done) {
            // What was written through it is on the disk when the command returns.
            let synced = self.mounts.volume.sync();
            let synced = synced.map_err(|e| Failure::engine("sync", &self.mounts.path, &e));
            if let Err(failure) = &synced {
                tracing::error!("{failure}");
            }
            let answer = synced.map(|()| json!({"stays": true}));
            // Who has gone away does not need the answer; what went wrong is in the log.
            let _ = socket::answer(&mut leaving.stream, &answer);
        }
        finished
    }
}

fn taken_away(mount: &Mount) -> Failure {
    let cause = "it was taken away while somebody used it, and is served until they let go";
    let pid = std::process::id();
    let signal = if rustix::process::geteuid().is_root() {
        format!("`sudo kill {pid}`")
    } else {
        format!("`kill {pid}`")
    };
    let remedy =
        format!("end what had been using it, or end the daemon by {signal}, once or twice");
    Failure::with("unmount", &mount.plan.dir, cause, remedy)
}

/// Starts a thread.
pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .map(|_| ())
        .map_err(|e| Failure::new(format!("cannot start a thread: {e}")))
}
