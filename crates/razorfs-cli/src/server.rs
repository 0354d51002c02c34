//! The seam to the FUSE server.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use razorfs::{Atime, Volume};
use razorfs_fuse::{MountError, Session, SessionOptions};

use crate::daemon::Job;
use crate::failure::{COULD_NOT_RUN, Failure, Result, plain};

/// A mount that is being served.
pub struct Server {
    thread: JoinHandle<()>,
}

impl Server {
    /// Mounts, serves from threads of its own, and returns when the directory is usable. `ended`
    /// is called when the kernel has unmounted.
    pub fn start(volume: Volume, job: &Job, ended: impl FnOnce() + Send + 'static) -> Result<Self> {
        let failed = |e: MountError| {
            let code = match &e {
                MountError::Device { .. } | MountError::NoHelper => COULD_NOT_RUN,
                _ => crate::failure::ORDINARY,
            };
            Failure::at("mount on", &job.dir, e).code(code)
        };
        volume.set_atime(job.options.atime);
        let session = Session::new(Arc::new(volume), &job.dir, &options(job)).map_err(failed)?;
        let (sender, receiver) = channel::<std::io::Result<()>>();
        let work = move || serve(session, &sender, ended);
        let thread = std::thread::Builder::new()
            .name("fuse".into())
            .spawn(work)
            .map_err(|e| Failure::host("serve", &job.dir, &e).code(COULD_NOT_RUN))?;
        match receiver.recv() {
            Ok(Ok(())) => Ok(Self { thread }),
            Ok(Err(e)) => Err(Failure::at("serve", &job.dir, plain(&e)).code(COULD_NOT_RUN)),
            Err(_) => {
                let cause = "the mount ended before it was usable";
                Err(Failure::with("serve", &job.dir, cause, "try again").code(COULD_NOT_RUN))
            }
        }
    }

    /// Waits until no request is being served any more.
    pub fn finish(self) {
        if self.thread.join().is_err() {
            tracing::error!("the server ended with a panic");
        }
    }
}

/// Serves a mount until it is gone; tells once whether it became usable.
fn serve(session: Session, sender: &Sender<std::io::Result<()>>, ended: impl FnOnce()) {
    let ready = sender.clone();
    let outcome = session.run(move || {
        // Who has stopped listening does not need to know.
        let _ = ready.send(Ok(()));
    });
    if let Err(e) = outcome {
        tracing::error!("the server ended: {e}");
        let _ = sender.send(Err(e));
    }
    ended();
}

fn options(job: &Job) -> SessionOptions {
    let mut options = SessionOptions::default();
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
