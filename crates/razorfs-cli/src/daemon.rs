//! The process that has a volume mounted.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use razorfs::{Options, ReceiveOptions, Volume};
use razorfs_disk::os::{OsDisk, SharedMemory};
use razorfs_fuse::{Notifier, Statistics, forget_snapshot, forget_stale};
use serde_json::{Value, json};

use crate::autosnap::{Autosnap, Running};
use crate::commands::{create, info, scrub, stats, umount};
use crate::failure::{COULD_NOT_RUN, Failure, Result, plain, shown};
use crate::kept::{Beginning, Keeper};
use crate::log::Log;
use crate::options::MountOptions;
use crate::server::Server;
use crate::socket::{self, Points, Request};
use crate::unmount::{self, Outcome};
use crate::{
    check, diff, keeper, kept, mountinfo, place, points, program, remount, signals, streams,
};

/// More commands at a time are turned away.
const MAX_CLIENTS: usize = 16;

/// What to mount where, and how.
#[derive(Clone, Debug)]
pub struct Job {
    /// The volume, a path from the root of the host.
    pub volume: PathBuf,
    /// The mount point, likewise.
    pub dir: PathBuf,
    /// The snapshot that is shown, if not what is there now.
    pub snapshot: Option<String>,
    /// How.
    pub options: MountOptions,
}

/// What the main thread waits for.
enum Event {
    /// A signal to end.
    Signal,
    /// A command asks to unmount, and waits on this stream.
    Umount(UnixStream),
    /// The kernel has unmounted.
    Ended,
}

/// The daemon's life. What happens until the directory is usable is told on standard output:
/// `ready` or an exit code, a blank and a line.
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
    let outcome = serve(job, &beginning, &mut || {
        was_usable = true;
        say("ready ");
    });
    let failure = outcome.err();
    let code = failure.as_ref().map_or(0, |failure| failure.code);
    if let Some(failure) = &failure {
        tracing::error!("{failure}");
        say(&format!("{code} {failure}"));
    }
    if let Some(keeper) = &beginning.keeper {
        let refused = failure.filter(|_| beginning.is_resumed() && !was_usable);
        keeper.tell_end(code, refused.as_ref());
    }
    code
}

/// The same in the foreground.
pub fn in_foreground(job: &Job) -> Result<()> {
    Log::to_stderr(crate::env()).install();
    serve(job, &Beginning::default(), &mut || {
        eprintln!("razorfs: mounted on {}; Ctrl-C unmounts", shown(&job.dir));
    })
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

fn serve(job: &Job, beginning: &Beginning, ready: &mut dyn FnMut()) -> Result<()> {
    let (events, inbox) = channel();
    // Before there are any threads, so that all of them leave the signals alone.
    let sender = events.clone();
    signals::take(move || {
        // Nobody to tell means that the end is near anyway.
        let _ = sender.send(Event::Signal);
    })?;
    let opened = open(job, beginning)?;
    let volume = &opened.volume;
    // Ours to the end, even if another volume is at the path by then.
    let home = socket::home(opened.disk.path());
    let outcome = mounted(job, beginning, &opened, events, &inbox, ready);
    if outcome.is_err() && beginning.is_resumed() {
        // The volume is not closed: another daemon is to go on, as after a death.
        return outcome.map(|_| ());
    }
    if let Ok(home) = home {
        socket::remove(&home);
    }
    let closed = volume
        .clone()
        .close()
        .map_err(|e| Failure::engine("close", &job.volume, &e));
    match &closed {
        Ok(()) => tracing::info!("the volume is closed"),
        Err(failure) => tracing::error!("{failure}"),
    }
    let client = outcome?;
    if let Some(mut client) = client {
        let keeper = beginning.keeper.as_ref().map(|keeper| keeper.pid);
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
    if !beginning.is_resumed() && !place::is_volume(path) && !job.options.read_only {
        create::create(path, &create::options())?;
    }
    let no_memory = |e| Failure::host("share memory for", path, &e).code(COULD_NOT_RUN);
    let memory = beginning.memory(job.options.read_only).map_err(no_memory)?;
    let disk = match lock.map(OwnedFd::try_clone) {
        Some(lock) => OsDisk::with_lock(path, lock.map_err(no_memory)?),
        None => OsDisk::new(path),
    };
    let mut options = Options {
        durability: job.options.durability,
        read_only: job.options.read_only,
        redo: memory.as_ref().map(kept::redo_of).transpose()?,
        ..Options::default()
    };
    if let Some(bytes) = job.options.cache {
        options.cache_bytes = bytes;
    }
    let volume = place::open_on(disk.clone(), options)?;
    // Only who has the volume's lock writes its log.
    match Log::to_volume(path, crate::env()) {
        Ok(log) => log.install(),
        Err(_) if job.options.read_only => {}
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

/// Serves until the mount is gone; answers with the command that asked for it, if one did.
fn mounted(
    job: &Job,
    beginning: &Beginning,
    opened: &Opened,
    events: Sender<Event>,
    inbox: &Receiver<Event>,
    ready: &mut dyn FnMut(),
) -> Result<Option<UnixStream>> {
    let volume = &opened.volume;
    let served = match &job.snapshot {
        Some(name) => points::view(volume, &job.volume, name)?,
        None => volume.clone(),
    };
    let listener = listen(job, beginning)?;
    let (sender, left) = (events.clone(), beginning.estate.as_ref());
    let is_kept = beginning.keeper.is_some();
    let mut server = Server::start(served, job, is_kept, left, move || {
        let _ = sender.send(Event::Ended);
    })?;
    let kept = hand_over(beginning, opened, &mut server, listener.as_ref());
    let kept = kept.inspect_err(|_| {
        if beginning.is_resumed() {
            return;
        }
        // What nobody is going to serve must not stay.
        if let Err(failure) = unmount::lazily(&job.dir) {
            tracing::error!("{failure}");
        }
    })?;
    tracing::info!(dir = %shown(&job.dir), options = ?job.options, "mounted");
    let mounting = Arc::new(Mutex::new(()));
    let mut autosnap = None;
    if let Some(listener) = listener {
        let desk = Arc::new(Desk {
            volume: volume.clone(),
            job: job.clone(),
            keeper: kept.then(|| beginning.keeper.clone()).flatten(),
            transport: server.transport,
            statistics: Arc::clone(&server.statistics),
            notifier: server.notifier.clone(),
            clients: AtomicUsize::new(0),
        });
        autosnap = start_autosnap(&desk, &mounting)?;
        spawn("commands", move || accept(&listener, &desk, &events))?;
    }
    ready();
    let end = wait(job, inbox, &mounting);
    drop(autosnap);
    match end {
        End::Unmounted(client) => {
            let ended = server.finish();
            tracing::info!("unmounted");
            match ended {
                // Nobody goes on with it, and whoever used it has got errors.
                Err(e) if beginning.keeper.is_none() => {
                    let remedy = "mount it again, with -o transport=dev if that happens again";
                    Err(Failure::with("serve", &job.dir, plain(&e), remedy))
                }
                Err(_) | Ok(()) => Ok(client),
            }
        }
        // Who uses the mount gets errors from now on, when the process has ended at the latest.
        End::Ordered => Ok(None),
    }
}

/// Has snapshots taken by themselves, if that is wanted. `mounting` is held while the mount is in
/// use for one.
fn start_autosnap(desk: &Arc<Desk>, mounting: &Arc<Mutex<()>>) -> Result<Option<Running>> {
    let job = &desk.job;
    let Some(every) = job.options.autosnap else {
        return Ok(None);
    };
    let (job_of, mounting, told) = (job.clone(), Arc::clone(mounting), Arc::clone(desk));
    let flush = move || {
        let _held = mounting.lock();
        if is_there(&job_of) {
            program::flush(&job_of.dir)
        } else {
            Ok(())
        }
    };
    let autosnap = Autosnap {
        volume: desk.volume.clone(),
        every,
        keep: job.options.keep.clone().unwrap_or_default(),
        flush: Box::new(flush),
        changed: Box::new(move |name| told.snapshots_changed(name)),
    };
    autosnap.start().map(Some)
}

/// Where commands come in; nowhere, if the host's directory must not be written to.
fn listen(job: &Job, beginning: &Beginning) -> Result<Option<UnixListener>> {
    let failed = |e: std::io::Error| Failure::host("listen in", &job.volume, &e);
    if let Some(listener) = beginning.listener().map_err(failed)? {
        return Ok(Some(listener));
    }
    match socket::listen(&job.volume) {
        Ok(listener) => Ok(Some(listener)),
        Err(_) if job.options.read_only => Ok(None),
        Err(e) => Err(failed(e)),
    }
}

/// Gives the keeper what it needs, if there is one. Answers whether somebody keeps the mount.
fn hand_over(
    beginning: &Beginning,
    opened: &Opened,
    server: &mut Server,
    listener: Option<&UnixListener>,
) -> Result<bool> {
    let (Some(keeper), Some((fuse, agreed))) = (&beginning.keeper, server.connection.take()) else {
        return Ok(false);
    };
    let failed = |e: std::io::Error| {
        Failure::new(format!("cannot talk to the keeper: {e}")).code(COULD_NOT_RUN)
    };
    let memory = opened.memory.as_ref();
    let loses_nothing = memory.is_some() || opened.volume.info().read_only.is_some();
    if !agreed.can_resend() || !loses_nothing {
        let why = if loses_nothing {
            "the kernel cannot resend requests, which Linux 6.9 and newer do"
        } else {
            "it would lose what was acknowledged, without shared memory"
        };
        tracing::warn!("nobody keeps the mount: {why}");
        keeper.leave().map_err(failed)?;
        return Ok(false);
    }
    let handed = keeper.hand_over(fuse, agreed, &opened.disk, memory, listener);
    handed.and_then(|()| keeper.watch()).map_err(failed)?;
    Ok(true)
}

/// How serving ends.
enum End {
    /// The mount is gone; this command asked for it, if one did.
    Unmounted(Option<UnixStream>),
    /// A second signal has come while somebody uses the mount.
    Ordered,
}

/// Waits until the mount is gone. `mounting` is held by who uses the mount for a moment.
fn wait(job: &Job, inbox: &Receiver<Event>, mounting: &Mutex<()>) -> End {
    let mut client = None;
    let mut asked = false;
    loop {
        let event = inbox.recv();
        // Without it the mount would be busy with ourselves.
        let _held = mounting.lock();
        match event {
            Ok(Event::Signal) if asked => {
                tracing::warn!("a second signal: the volume is closed although it is in use");
                return End::Ordered;
            }
            Ok(Event::Signal) => {
                asked = true;
                tracing::info!("a signal asks to end");
                if is_there(job) && unmount::plainly(&job.dir) != Ok(Outcome::Done) {
                    tracing::warn!(
                        "the mount is in use; it is taken away, and served until nobody uses it \
                         or another signal comes"
                    );
                    if let Err(failure) = unmount::lazily(&job.dir) {
                        tracing::error!("{failure}");
                    }
                }
            }
            Ok(Event::Umount(mut stream)) => {
                let failure = match is_there(job).then(|| unmount::plainly(&job.dir)) {
                    Some(Ok(Outcome::Done)) => {
                        client = Some(stream);
                        continue;
                    }
                    Some(Ok(Outcome::Busy)) => umount::busy(&job.dir),
                    Some(Err(failure)) => failure,
                    None => taken_away(job),
                };
                // Who has gone away does not need the answer.
                let _ = socket::answer(&mut stream, &Err(failure));
            }
            Ok(Event::Ended) | Err(_) => return End::Unmounted(client),
        }
    }
}

/// Whether our mount is what is on the directory: it may have been taken away, as `umount -l`
/// does, and there may be another one by now.
fn is_there(job: &Job) -> bool {
    mountinfo::at(&job.dir).is_some_and(|mount| mount.volume == job.volume)
}

fn taken_away(job: &Job) -> Failure {
    let cause = "it was taken away while somebody used it, and is served until they let go";
    let pid = std::process::id();
    let signal = if rustix::process::geteuid().is_root() {
        format!("`sudo kill {pid}`")
    } else {
        format!("`kill {pid}`")
    };
    let remedy =
        format!("end what had been using it, or end the daemon by {signal}, once or twice");
    Failure::with("unmount", &job.dir, cause, remedy)
}

/// Takes requests until the process ends.
fn accept(listener: &UnixListener, desk: &Arc<Desk>, events: &Sender<Event>) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else {
            // Out of descriptors, perhaps: not a reason to spin.
            std::thread::sleep(std::time::Duration::from_millis(100));
            continue;
        };
        if desk.clients.fetch_add(1, Ordering::Relaxed) >= MAX_CLIENTS {
            desk.clients.fetch_sub(1, Ordering::Relaxed);
            let failure = Failure::new("the daemon is busy with other commands; try again");
            let _ = socket::answer(&mut stream, &Err(failure));
            continue;
        }
        let (of_thread, events) = (Arc::clone(desk), events.clone());
        let spawned = spawn("command", move || {
            of_thread.serve(stream, &events);
            of_thread.clients.fetch_sub(1, Ordering::Relaxed);
        });
        if let Err(failure) = spawned {
            desk.clients.fetch_sub(1, Ordering::Relaxed);
            tracing::error!("{failure}");
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .map(|_| ())
        .map_err(|e| Failure::new(format!("cannot start a thread: {e}")))
}

/// Where commands are answered.
struct Desk {
    volume: Volume,
    job: Job,
    keeper: Option<Keeper>,
    transport: &'static str,
    statistics: Arc<Statistics>,
    notifier: Notifier,
    clients: AtomicUsize,
}

impl Desk {
    fn serve(&self, mut stream: UnixStream, events: &Sender<Event>) {
        let outcome = match socket::accept(&mut stream) {
            Ok(Request::Umount) => {
                let _ = events.send(Event::Umount(stream));
                return;
            }
            Ok(request) => self.answer(request, &mut stream),
            Err(failure) => Err(failure),
        };
        // A command that has gone away does not need the answer.
        let _ = socket::answer(&mut stream, &outcome);
    }

    fn answer(&self, request: Request, stream: &mut UnixStream) -> Result<Value> {
        let path: &Path = &self.job.volume;
        match request {
            Request::Info => {
                let mut document = info::document(&self.volume, path, Some(&self.job.dir))?;
                if let Some(fields) = document.as_object_mut() {
                    fields.insert("snapshot".into(), self.job.snapshot.clone().into());
                    fields.insert("options".into(), self.job.options.document());
                    let keeper = self.keeper.as_ref().map(Keeper::document);
                    fields.insert("keeper".into(), keeper.unwrap_or(Value::Null));
                    fields.insert("transport".into(), self.transport.into());
                }
                Ok(document)
            }
            Request::Stats => Ok(stats::document(&self.volume, Some(&self.statistics))),
            Request::Sync => {
                let synced = self.volume.sync();
                synced.map_err(|e| Failure::engine("sync", path, &e))?;
                Ok(json!({}))
            }
            Request::Remounted => {
                let atime = remount::atime_of(&self.job.dir);
                self.volume.set_atime(atime);
                tracing::info!(?atime, "the flags of the mount have been changed");
                let synced = self.volume.sync();
                synced.map_err(|e| Failure::engine("sync", path, &e))?;
                Ok(json!({}))
            }
            Request::Snapshots(points) => self.snapshots(path, &points),
            Request::Diff(ends) => {
                let mut hand_on = |some: Value| {
                    let gone = |_| Failure::new("the command has gone away");
                    socket::progress(stream, &some).map_err(gone)
                };
                diff::find(&self.volume, path, &ends, &mut hand_on)?;
                Ok(json!({}))
            }
            Request::Send(what) => {
                let out = socket::take(stream)?;
                streams::send_for(&self.volume, path, &what, out, stream)
            }
            Request::Receive(options) => self.receive(path, options, stream),
            Request::Part { forget } => streams::part(&self.volume, path, forget),
            Request::Scrub(what) => scrub::answer(&self.volume, path, what),
            Request::Verify(level) => check::run(path, level, Some(&self.volume), &mut |step| {
                let gone = |_| Failure::new("the command has gone away");
                socket::progress(stream, step).map_err(gone)
            }),
            Request::Umount => Ok(json!({})),
        }
    }

    fn receive(
        &self,
        path: &Path,
        options: ReceiveOptions,
        stream: &mut UnixStream,
    ) -> Result<Value> {
        let input = socket::take(stream)?;
        let received = streams::receive_for(&self.volume, path, options, input, stream)?;
        let name = &received.snapshot.name;
        tracing::info!(name, bytes = received.bytes, "a stream was received");
        self.is_another(path, Ok(received.before.clone()));
        for snapshot in std::iter::once(&received.snapshot).chain(&received.safety) {
            self.snapshots_changed(&snapshot.name);
        }
        Ok(streams::document(&received))
    }

    fn snapshots(&self, path: &Path, points: &Points) -> Result<Value> {
        let done = points::answer(&self.volume, path, points)?;
        match points {
            Points::List => {}
            Points::Create(_) | Points::Delete(_) => {
                let name = done.get("name").and_then(Value::as_str);
                self.snapshots_changed(name.unwrap_or_default());
            }
            Points::Rollback(to) => {
                let safety = done.get("safety").and_then(Value::as_str);
                let safety = safety.unwrap_or_default();
                tracing::info!(to, safety, "the volume is back at a snapshot");
                self.is_another(path, self.volume.at_snapshot(safety));
                self.snapshots_changed(safety);
            }
        }
        Ok(done)
    }

    /// The volume is another one than it was before from now on.
    fn is_another(&self, path: &Path, before: razorfs::Result<Volume>) {
        let told = before.and_then(|before| forget_stale(&self.volume, &before, &self.notifier));
        if let Err(e) = told {
            tracing::error!(
                volume = %shown(path),
                error = %e,
                "the kernel may still show what was before; unmount and mount again"
            );
        }
    }

    /// A snapshot of this name has been taken or deleted.
    fn snapshots_changed(&self, name: &str) {
        tracing::info!(name, "a snapshot was taken or deleted");
        forget_snapshot(name, &self.notifier);
    }
}
