//! The seam to the FUSE server.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use razorfs::{Atime, Ino, Volume};
use razorfs_fuse::protocol::Agreed;
use razorfs_fuse::{
    MountError, Mounted, Notifier, Session, SessionOptions, Statistics, TransportChoice,
    WithSnapshots,
};

use crate::daemon::Job;
use crate::failure::{COULD_NOT_RUN, Failure, Result, plain};
use crate::handover::Estate;
use crate::{mountinfo, remount};

/// A mount that is being served.
pub struct Server {
    thread: JoinHandle<std::io::Result<()>>,
    /// The connection to the kernel, and what was agreed on with it.
    pub connection: Option<(OwnedFd, Agreed)>,
    /// The way that requests come, as `transport=` names it.
    pub transport: &'static str,
    /// What it has served.
    pub statistics: Arc<Statistics>,
    /// Tells the kernel what has changed without it.
    pub notifier: Notifier,
}

type Usable = std::io::Result<(OwnedFd, Agreed)>;

impl Server {
    /// Mounts, serves from threads of its own, and returns when the directory is usable. `ended`
    /// is called when the kernel has unmounted.
    /// With what a daemon that died has left, the mount is there already. Where somebody keeps
    /// the mount requests come over /dev/fuse, as another daemon could not go on otherwise.
    pub fn start(
        volume: Volume,
        job: &Job,
        is_kept: bool,
        left: Option<&Estate>,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<Self> {
        let failed = |e: MountError| {
            let code = match &e {
                MountError::Device { .. } | MountError::NoHelper | MountError::NoRings(_) => {
                    COULD_NOT_RUN
                }
                _ => crate::failure::ORDINARY,
            };
            Failure::at("mount on", &job.dir, e).code(code)
        };
        // The kernel knows the root from the beginning on, and never says so: names in it are to be
        // forgotten after a rollback, too.
        volume.pin(Ino::ROOT, 1);
        let mut options = options(job);
        if is_kept && options.transport == TransportChoice::Auto {
            options.transport = TransportChoice::Device;
        }
        let session = match left {
            None => {
                volume.set_atime(job.options.atime);
                Session::new(Arc::new(WithSnapshots::new(volume)), &job.dir, &options)
                    .map_err(failed)?
            }
            Some(estate) => {
                volume.set_atime(atime_of(job));
                let fd = estate.fuse.as_ref().map(OwnedFd::try_clone).transpose();
                let fd = fd.map_err(|e| Failure::host("serve", &job.dir, &e))?;
                let lost = || Failure::new("the connection to the kernel is lost");
                let (fd, dir) = (fd.ok_or_else(lost)?, job.dir.clone());
                let mounted = Mounted { fd, dir };
                let volume = Arc::new(WithSnapshots::new(volume));
                let session = Session::resume(volume, mounted, estate.agreed(), &options);
                session.map_err(failed)?
            }
        };
        let statistics = session.statistics();
        let notifier = session.notifier();
        let (sender, receiver) = channel::<Usable>();
        let work = move || serve(session, &sender, ended);
        let thread = std::thread::Builder::new()
            .name("fuse".into())
            .spawn(work)
            .map_err(|e| Failure::host("serve", &job.dir, &e).code(COULD_NOT_RUN))?;
        match receiver.recv() {
            Ok(Ok(connection)) => Ok(Self {
                thread,
                transport: match connection.1.is_over_io_uring() {
                    true => "uring",
                    false => "dev",
                },
                connection: Some(connection),
                statistics,
                notifier,
            }),
            Ok(Err(e)) => Err(Failure::at("serve", &job.dir, plain(&e)).code(COULD_NOT_RUN)),
            Err(_) => {
                let cause = "the mount ended before it was usable";
                Err(Failure::with("serve", &job.dir, cause, "try again").code(COULD_NOT_RUN))
            }
        }
    }

    /// Waits until no request is being served any more. An error says why it was given up while
    /// the mount was there.
    pub fn finish(self) -> std::io::Result<()> {
        let panicked = |_| Err(std::io::Error::other("the server ended with a panic"));
        self.thread.join().unwrap_or_else(panicked)
    }
}

/// Serves a mount until it is gone; tells once whether it became usable.
fn serve(session: Session, sender: &Sender<Usable>, ended: impl FnOnce()) -> std::io::Result<()> {
    let ready = sender.clone();
    let outcome = session.run_kept(move |fd, agreed| {
        // Who has stopped listening does not need to know.
        let _ = ready.send(Ok((fd, agreed)));
    });
    if let Err(e) = &outcome {
        tracing::error!("the server ended: {e}");
        let _ = sender.send(Err(std::io::Error::new(e.kind(), e.to_string())));
    }
    ended();
    outcome
}

/// What reading does to times of access on a mount that is there: its flags may have been changed
/// since it was made. One that was taken away has none.
fn atime_of(job: &Job) -> Atime {
    match mountinfo::at(&job.dir) {
        Some(mount) if mount.volume == job.volume => remount::atime_of(&job.dir),
        _ => job.options.atime,
    }
}

fn options(job: &Job) -> SessionOptions {
    let mut options = SessionOptions::default();
    options.transport = job.options.transport;
    options.mount.source = job.volume.clone().into_os_string();
    if job.options.allow_other {
        options.mount.allow_other = Some(true);
    }
    options.mount.read_only = job.options.read_only;
    options.mount.atime = job.options.atime;
    if !job.options.acl {
        options.limits = options.limits.without_access_lists();
    }
    if job.options.atime == Atime::Strict {
        options.limits = options.limits.seeing_opens();
    }
    for flag in &job.options.flags {
        let known = options.mount.set(flag);
        debug_assert!(known, "{flag}");
    }
    options
}
