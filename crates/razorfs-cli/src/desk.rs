//! Where a daemon answers commands.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};

use razorfs::{Asker, ReceiveOptions};
use serde_json::{Value, json};

use crate::branches::{self, Branches};
use crate::commands::{info, scrub, stats};
use crate::daemon::{Event, spawn};
use crate::failure::{Failure, Result, shown};
use crate::kept::Keeper;
use crate::mounts::Mounts;
use crate::programs::Program;
use crate::shows::Shows;
use crate::socket::{self, Points, Request};
use crate::{check, diff, history, points, remount, streams};

/// More commands at a time are turned away.
const MAX_CLIENTS: usize = 64;
/// Nor more programs that use the volume; those who may not command count as such at once.
const MAX_PROGRAMS: usize = 64;

/// A place at the desk; free again when it is dropped.
struct Seat(Arc<AtomicUsize>);

impl Seat {
    fn take(taken: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let seat = Self(Arc::clone(taken));
        (taken.fetch_add(1, Ordering::Relaxed) < most).then_some(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where commands are answered.
pub struct Desk {
    mounts: Arc<Mounts>,
    /// Held while a mount is in use for a moment.
    in_use: Arc<Mutex<()>>,
    clients: Arc<AtomicUsize>,
    programs: Arc<AtomicUsize>,
}

impl Desk {
    /// Of a daemon with these mounts.
    pub fn new(mounts: Arc<Mounts>, in_use: Arc<Mutex<()>>) -> Self {
        Self {
            mounts,
            in_use,
            clients: Arc::default(),
            programs: Arc::default(),
        }
    }

    fn serve(&self, mut stream: UnixStream, who: Asker, seat: Seat, events: &Sender<Event>) {
        let outcome = match socket::accept(&mut stream, socket::is_owner(&who)) {
            // Where nobody listens any more the daemon is about to end, and the command sees that.
            Ok(Request::Umount(dir)) => {
                let _ = events.send(Event::Umount(dir, stream));
                return;
            }
            Ok(Request::Mount(wanted)) => {
                let _ = events.send(Event::Mount(wanted, stream));
                return;
            }
            Ok(Request::Library { version, shows }) => {
                match self.program(version, shows, seat, who) {
                    Ok((program, _seat)) => return program.serve(&mut stream),
                    Err(failure) => Err(failure),
                }
            }
            Ok(request) => self.answer(request, &mut stream),
            Err(failure) => Err(failure),
        };
        // A command that has gone away does not need the answer.
        let _ = socket::answer(&mut stream, &outcome);
    }

    /// A program wants to use the volume.
    fn program(
        &self,
        version: u64,
        shows: Shows,
        seat: Seat,
        who: Asker,
    ) -> Result<(Program, Seat)> {
        if version != razorfs_client::VERSION {
            let ours = razorfs_client::VERSION;
            let message = format!(
                "the daemon speaks version {ours} with programs, this one {version}; build it \
                 with the razorfs-client of this razorfs"
            );
            return Err(Failure::new(message));
        }
        // It is no command that others wait for.
        let seat = match Arc::ptr_eq(&seat.0, &self.programs) {
            true => Some(seat),
            false => Seat::take(&self.programs, MAX_PROGRAMS),
        };
        let seat = seat.ok_or_else(too_many_programs)?;
        let mounts = Arc::clone(&self.mounts);
        let shows = shows.in_volume(&mounts.volume);
        let program = Program {
            volume: shows.of(&mounts.volume, &mounts.path)?,
            in_use: Arc::clone(&self.in_use),
            mounts,
            shows,
            who,
        };
        Ok((program, seat))
    }

    fn answer(&self, request: Request, stream: &mut UnixStream) -> Result<Value> {
        let (volume, path) = (&self.mounts.volume, &*self.mounts.path);
        match request {
            Request::Info(dir) => self.info(dir.as_deref()),
            Request::Stats(dir) => {
                let mount = self.mounts.meant(dir.as_deref())?;
                Ok(stats::document(volume, Some(&mount.statistics)))
            }
            Request::Sync => self.sync(),
            Request::Remounted(dir) => self.remounted(&dir),
            Request::Snapshots(points, of) => self.snapshots(&points, of.as_deref()),
            Request::Branches(what) => self.branches(&what),
            Request::Diff(ends) => {
                let mut hand_on = |some: Value| {
                    let gone = |_| Failure::new("the command has gone away");
                    socket::progress(stream, &some).map_err(gone)
                };
                diff::find(volume, path, &ends, &mut hand_on)?;
                Ok(json!({}))
            }
            Request::Log(asked) => {
                let mut hand_on = |some: Value| {
                    let gone = |_| Failure::new("the command has gone away");
                    socket::progress(stream, &some).map_err(gone)
                };
                history::find(volume, path, &asked, &mut hand_on)
            }
            Request::Send(what) => {
                let out = socket::take(stream)?;
                streams::send_for(volume, path, &what, out, stream)
            }
            Request::Receive(options) => self.receive(options, stream),
            Request::Part { forget } => streams::part(volume, path, forget),
            Request::Scrub(what) => scrub::answer(volume, path, what),
            Request::Verify(level) => check::run(path, level, Some(volume), &mut |step| {
                let gone = |_| Failure::new("the command has gone away");
                socket::progress(stream, step).map_err(gone)
            }),
            // Whoever reads requests has handed these on.
            Request::Mount(_) | Request::Umount(_) | Request::Library { .. } => Ok(json!({})),
        }
    }

    fn info(&self, dir: Option<&Path>) -> Result<Value> {
        let mount = self.mounts.meant(dir)?;
        let (plan, all) = (&mount.plan, &self.mounts);
        let mut document = info::document(&all.volume, &all.path, Some(&plan.dir))?;
        let mut options = all.options.document();
        if let Some(fields) = options.as_object_mut() {
            fields.insert("acl".into(), plan.options.acl.into());
        }
        if let Some(fields) = document.as_object_mut() {
            fields.insert("snapshot".into(), plan.shows.snapshot().into());
            fields.insert("branch".into(), plan.shows.branch().into());
            fields.insert("options".into(), options);
            let keeper = all.keeper();
            let keeper = keeper.as_ref().map(Keeper::document);
            fields.insert("keeper".into(), keeper.unwrap_or(Value::Null));
            fields.insert("transport".into(), mount.transport.into());
            fields.insert("mounts".into(), all.document());
        }
        Ok(document)
    }

    fn sync(&self) -> Result<Value> {
        let synced = self.mounts.volume.sync();
        synced.map_err(|e| Failure::engine("sync", &self.mounts.path, &e))?;
        Ok(json!({}))
    }

    fn remounted(&self, dir: &Path) -> Result<Value> {
        let mount = self.mounts.meant(Some(dir))?;
        let atime = remount::atime_of(dir);
        mount.set_atime(atime);
        tracing::info!(dir = %shown(dir), ?atime, "the flags of a mount have been changed");
        self.sync()
    }

    fn receive(&self, options: ReceiveOptions, stream: &mut UnixStream) -> Result<Value> {
        let (mounts, path) = (&self.mounts, &self.mounts.path);
        let input = socket::take(stream)?;
        let _going = mounts.goes_back()?;
        let received = streams::receive_for(&mounts.volume, path, options, input, stream)?;
        let name = &received.snapshot.name;
        tracing::info!(name, bytes = received.bytes, "a stream was received");
        mounts.changing(|| {
            mounts.is_another(&Shows::Head, Ok(received.before.clone()));
            for snapshot in std::iter::once(&received.snapshot).chain(&received.safety) {
                mounts.snapshot_changed(&snapshot.name);
            }
        });
        Ok(streams::document(&received))
    }

    fn branches(&self, what: &Branches) -> Result<Value> {
        let (mounts, path) = (&self.mounts, &self.mounts.path);
        let answer = || branches::answer(&mounts.volume, path, what);
        match what {
            Branches::Commit { name, onto, take } => {
                let target = match onto {
                    Some(onto) => Shows::Branch(onto.clone()),
                    None => Shows::Head,
                };
                mounts.commit(&target, &format!("the branch {name}"), |seen| {
                    let onto = onto.as_deref();
                    branches::commit(&mounts.volume, path, (name, onto), *take, seen)
                })
            }
            Branches::Delete(name) => {
                mounts.changing(|| match mounts.dir_of(&Shows::Branch(name.clone())) {
                    Some(dir) => Err(points::is_mounted(path, "branch", name, &dir)),
                    None => answer(),
                })
            }
            Branches::Origin { snapshot, .. } => mounts.changing(|| {
                let done = answer()?;
                mounts.snapshot_changed(snapshot);
                Ok(done)
            }),
            Branches::List | Branches::Create { .. } => mounts.changing(answer),
        }
    }

    /// Of a branch, or of what is there now.
    fn snapshots(&self, points: &Points, of: Option<&str>) -> Result<Value> {
        let (mounts, path) = (&self.mounts, &self.mounts.path);
        let shows = match of {
            Some(name) => Shows::Named(name.to_owned()).in_volume(&mounts.volume),
            None => Shows::Head,
        };
        let answer = || points::answer_for(&mounts.volume, path, &shows, points);
        match points {
            Points::List => answer(),
            Points::Create(_) => mounts.changing(|| {
                let done = answer()?;
                mounts.snapshot_changed(text(&done, "name"));
                Ok(done)
            }),
            Points::Delete(name) => mounts.changing(|| {
                if let Some(dir) = mounts.dir_of(&Shows::Snapshot(name.clone())) {
                    return Err(points::is_mounted(path, "snapshot", name, &dir));
                }
                let done = answer()?;
                mounts.snapshot_changed(name);
                Ok(done)
            }),
            Points::Rollback(to) => mounts.changing(|| mounts.roll_back(&shows, to, answer)),
            // It may take long, and nobody waits for it.
            Points::Past(..) => {
                let done = answer()?;
                mounts.changing(|| mounts.snapshot_changed(text(&done, "name")));
                Ok(done)
            }
        }
    }
}

fn text<'a>(answer: &'a Value, key: &str) -> &'a str {
    answer.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn too_many_programs() -> Failure {
    Failure::new("the daemon serves too many programs; try again")
}

/// Takes requests until the process ends.
pub fn accept(listener: &UnixListener, desk: &Arc<Desk>, events: &Sender<Event>) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else {
            // Out of descriptors, perhaps: not a reason to spin.
            std::thread::sleep(std::time::Duration::from_millis(100));
            continue;
        };
        // Who cannot be told has gone.
        let Ok(who) = socket::asker(&stream) else {
            continue;
        };
        let busy = || Failure::new("the daemon is busy with other commands; try again");
        // Who may not command keeps no command waiting.
        let seat = match socket::is_owner(&who) {
            true => Seat::take(&desk.clients, MAX_CLIENTS).ok_or_else(busy),
            false => Seat::take(&desk.programs, MAX_PROGRAMS).ok_or_else(too_many_programs),
        };
        let seat = match seat {
            Ok(seat) => seat,
            Err(failure) => {
                let _ = socket::answer(&mut stream, &Err(failure));
                continue;
            }
        };
        let (of_thread, events) = (Arc::clone(desk), events.clone());
        let spawned = spawn("command", move || {
            of_thread.serve(stream, who, seat, &events);
        });
        if let Err(failure) = spawned {
            tracing::error!("{failure}");
        }
    }
}
