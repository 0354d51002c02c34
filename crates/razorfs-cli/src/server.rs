//! The seam to the FUSE server.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use razorfs::{Atime, Volume};
use razorfs_fuse::protocol::Agreed;
use razorfs_fuse::{
    MountError, Mounted, Notifier, Session, SessionOptions, Statistics, TransportChoice,
    WithSnapshots,
};

use crate::failure::{COULD_NOT_RUN, Failure, Result, plain};
use crate::handover::Connection;
use crate::mounts::Plan;
use crate::remount;

/// A mount that is being served.
pub struct Server {
    thread: JoinHandle<std::io::Result<()>>,
    /// The connection to the kernel, and what was agreed on with it.
    pub connection: Option<Connection>,
    /// The way that requests come, as `transport=` names it.
    pub transport: &'static str,
    /// What it has served.
    pub statistics: Arc<Statistics>,
    /// Tells the kernel what has changed without it.
    pub notifier: Notifier,
}

type Usable = std::io::Result<Connection>;

/// What is served.
pub struct Serving<'a> {
    /// The volume, as it is shown.
    pub shown: Volume,
    /// Where it is.
    pub volume: &'a Path,
    /// What is mounted where and how.
    pub plan: &'a Plan,
    /// The number of the mount.
    pub id: u64,
    /// Whether somebody keeps the mount.
    pub is_kept: bool,
}

impl Server {
    /// Mounts, serves from threads of its own, and returns when the directory is usable. `ended`
    /// is called when the kernel has unmounted.
    /// With what a daemon that died has left, the mount is there already. Where somebody keeps
    /// the mount requests come over /dev/fuse, as another daemon could not go on otherwise.
    pub fn start(
        serving: Serving<'_>,
        left: Option<Connection>,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<Self> {
        let plan = serving.plan;
        let failed = |e: MountError| {
            let code = match &e {
                MountError::Device { .. } | MountError::NoHelper | MountError::NoRings(_) => {
                    COULD_NOT_RUN
                }
                _ => crate::failure::ORDINARY,
            };
            Failure::at("mount on", &plan.dir, e).code(code)
        };
        let options = serving.options();
        let volume = serving.shown;
        let session = match left {
            None => {
                volume.set_atime(plan.options.atime);
                Session::new(Arc::new(WithSnapshots::new(volume)), &plan.dir, &options)
            }
            Some(Connection { fuse: fd, agreed }) => {
                volume.set_atime(atime_of(plan, serving.volume));
                let dir = plan.dir.clone();
                let volume = Arc::new(WithSnapshots::new(volume));
                Session::resume(volume, Mounted { fd, dir }, agreed, &options)
            }
        };
        let session = session.map_err(failed)?;
        let statistics = session.statistics();
        let notifier = session.notifier();
        let (sender, receiver) = channel::<Usable>();
        let work = move || serve(session, &sender, ended);
        let thread = std::thread::Builder::new()
            .name("fuse".into())
            .spawn(work)
            .map_err(|e| Failure::host("serve", &plan.dir, &e).code(COULD_NOT_RUN))?;
        match receiver.recv() {
            Ok(Ok(connection)) => Ok(Self {
                thread,
                transport: match connection.agreed.is_over_io_uring() {
                    true => "uring",
                    false => "dev",
                },
                connection: Some(connection),
                statistics,
                notifier,
            }),
            Ok(Err(e)) => Err(Failure::at("serve", &plan.dir, plain(&e)).code(COULD_NOT_RUN)),
            Err(_) => {
                let cause = "the mount ended before it was usable";
                Err(Failure::with("serve", &plan.dir, cause, "try again").code(COULD_NOT_RUN))
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
    let outcome = session.run_kept(move |fuse: OwnedFd, agreed: Agreed| {
        // Who has stopped listening does not need to know.
        let _ = ready.send(Ok(Connection { fuse, agreed }));
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
fn atime_of(plan: &Plan, volume: &Path) -> Atime {
    match plan.is_there(volume) {
        true => remount::atime_of(&plan.dir),
        false => plan.options.atime,
    }
}

impl Serving<'_> {
    fn options(&self) -> SessionOptions {
        let (plan, given) = (self.plan, &self.plan.options);
        let mut options = SessionOptions {
            transport: match given.transport {
                TransportChoice::Auto if self.is_kept => TransportChoice::Device,
                given => given,
            },
            // Numbers begin anew when there have been very many.
            origin: (self.id % (1 << 15)) as u16,
            ..SessionOptions::default()
        };
        options.mount.source = plan.shows.source(self.volume);
        if given.allow_other {
            options.mount.allow_other = Some(true);
        }
        options.mount.read_only = given.read_only;
        options.mount.atime = given.atime;
        if !given.acl {
            options.limits = options.limits.without_access_lists();
        }
        if given.atime == Atime::Strict {
            options.limits = options.limits.seeing_opens();
        }
        for flag in &given.flags {
            let known = options.mount.set(flag);
            debug_assert!(known, "{flag}");
        }
        options
    }
}
