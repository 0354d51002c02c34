//! A mount and what serves it.

#[cfg(test)]
mod session_tests;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::connection::Identity;
use crate::filesystem::FileSystem;
use crate::mount::{self, MountError, MountOptions, Mounted};
use crate::notify::Notifier;
use crate::operations::Operations;
use crate::protocol::{Agreed, Limits, Validity, flags};
use crate::statistics::Statistics;
use crate::transport::rings_available;
use crate::transport::{
    Device, DeviceOptions, NoRings, NotRegistered, RingOptions, Rings, Transport,
};

/// Which way requests come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TransportChoice {
    /// Over io_uring where that is possible, otherwise over /dev/fuse.
    Auto,
    /// Over io_uring, or not at all.
    Uring,
    /// Over /dev/fuse.
    #[default]
    Device,
}

/// How a file system is mounted and served.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// The mount.
    pub mount: MountOptions,
    /// Which way requests come.
    pub transport: TransportChoice,
    /// Number of threads that serve /dev/fuse.
    pub threads: usize,
    /// Whether a program whose requests come in a row is served on its own core, where nobody has
    /// to be woken: several times as fast.
    pub stay_near: bool,
    /// Sizes.
    pub limits: Limits,
    /// For how long the kernel caches.
    pub validity: Validity,
    /// A number that no other mount of the volume has had since it was opened; what goes on for a
    /// server that has died has that one's.
    pub origin: u16,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            mount: MountOptions::default(),
            transport: TransportChoice::default(),
            threads: 4,
            stay_near: true,
            limits: Limits::default(),
            validity: Validity::default(),
            origin: 0,
        }
    }
}

/// A mounted file system, to be served by [`Session::run`].
pub struct Session {
    operations: Operations,
    transport: Arc<dyn Transport>,
    /// Without the rings it is not served.
    needs_rings: bool,
    unmounter: Unmounter,
    read_ahead: u32,
    fs: Arc<dyn FileSystem>,
    /// It goes on for a server that has died.
    resumed: bool,
    descriptor: Arc<OwnedFd>,
    /// Behind everything that keeps the connection open: the kernel writes to their memory.
    rings: Option<Arc<Rings>>,
}

/// How long after a death the kernel is asked first what it holds: answers that were sent before
/// have arrived by then.
const FIRST_QUESTION: Duration = Duration::from_secs(3);
/// How often it is asked.
const QUESTIONS: Duration = Duration::from_secs(1);

/// Ends a mount from anywhere, such as a signal handler's thread.
#[derive(Clone, Debug)]
pub struct Unmounter {
    dir: Arc<PathBuf>,
    ended: Arc<AtomicBool>,
    identity: Arc<Identity>,
}

impl Unmounter {
    /// Unmounts; with `detach` also if the mount is in use: it disappears at once and is served on
    /// until nobody uses it. [`Session::run`] returns when it is gone. Does nothing if it is, or if
    /// another one is at its mount point.
    pub fn unmount(&self, detach: bool) -> Result<(), MountError> {
        if self.ended.load(Ordering::SeqCst) || !self.identity.is_on(&self.dir) {
            return Ok(());
        }
        mount::unmount(&self.dir, detach)
    }

    /// The mount point.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// Ends serving when a part of it cannot go on.
#[derive(Clone)]
struct Breaker {
    transport: Arc<dyn Transport>,
    descriptor: Arc<OwnedFd>,
    unmounter: Unmounter,
    /// Why, if it was.
    why: Arc<Mutex<Option<io::Error>>>,
}

impl Breaker {
    /// Whoever waits for an answer gets an error: as soon as the kernel lets us have it so, and
    /// when all descriptors are closed at the latest, which they are once nothing is served.
    fn end(&self, why: io::Error) {
        tracing::error!("the mount is taken away, as it cannot be served: {why}");
        self.why.lock().get_or_insert(why);
        self.unmounter
            .identity
            .abort(&self.descriptor, &self.unmounter.dir);
        self.transport.end();
    }
}

impl Session {
    /// Mounts `fs` on `dir`. Requests wait until [`Session::run`].
    pub fn new(
        fs: Arc<dyn FileSystem>,
        dir: &Path,
        options: &SessionOptions,
    ) -> Result<Self, MountError> {
        let has_rings = match (options.transport, rings_available()) {
            (TransportChoice::Device, _) => false,
            (_, Ok(())) => true,
            (TransportChoice::Uring, Err(why)) => return Err(MountError::NoRings(why)),
            (TransportChoice::Auto, Err(why)) => {
                tracing::info!("requests come over /dev/fuse: {why}");
                false
            }
        };
        let mut mount = options.mount.clone();
        mount.max_read = options.limits.max_write;
        let mounted = mount::mount(dir, &mount)?;
        Self::over(fs, mounted, options, has_rings)
    }

    /// Goes on with a mount whose server has died, and what that had agreed on with the kernel.
    pub fn resume(
        fs: Arc<dyn FileSystem>,
        mounted: Mounted,
        agreed: Agreed,
        options: &SessionOptions,
    ) -> Result<Self, MountError> {
        let mut session = Self::over(fs, mounted, options, false)?;
        session.operations.resume(agreed);
        session.resumed = true;
        Ok(session)
    }

    fn over(
        fs: Arc<dyn FileSystem>,
        mounted: Mounted,
        options: &SessionOptions,
        has_rings: bool,
    ) -> Result<Self, MountError> {
        let device = DeviceOptions {
            threads: options.threads.max(1),
            // The kernel wants room for the headers besides the data.
            message: options.limits.max_write as usize + 4096,
            stay_near: options.stay_near,
        };
        let failed = |error| MountError::Other {
            what: "the descriptor of the mount",
            error: Arc::new(error),
        };
        let descriptor = Arc::new(mounted.fd.try_clone().map_err(failed)?);
        let rings = has_rings.then(|| {
            let payload = options.limits.max_write as usize;
            Rings::new(mounted.fd.try_clone()?, RingOptions { payload })
        });
        let rings = rings.transpose().map_err(failed)?;
        let transport = Device::new(mounted.fd, device).map_err(failed)?;
        let transport = match &rings {
            Some(_) => transport.with_stop().map_err(failed)?,
            None => transport,
        };
        let operations = Operations::new(Arc::clone(&fs), options.limits, options.validity)
            .of_mount(options.origin);
        if rings.is_none() {
            operations.do_without(flags::OVER_IO_URING);
        }
        Ok(Self {
            operations,
            transport: Arc::new(transport),
            needs_rings: options.transport == TransportChoice::Uring,
            unmounter: Unmounter {
                identity: Arc::new(Identity::of(&mounted.dir)),
                dir: Arc::new(mounted.dir),
                ended: Arc::default(),
            },
            read_ahead: options.mount.read_ahead,
            fs,
            resumed: false,
            descriptor,
            rings: rings.map(Arc::new),
        })
    }

    /// Serves the mount until it is unmounted. `ready` is called once it can be used.
    pub fn run(self, ready: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.run_kept(move |_, _| ready())
    }

    /// The same; `ready` gets what another server needs to go on if this one dies.
    pub fn run_kept(self, ready: impl FnOnce(OwnedFd, Agreed) + Send + 'static) -> io::Result<()> {
        let breaker = Breaker {
            transport: Arc::clone(&self.transport),
            descriptor: Arc::clone(&self.descriptor),
            unmounter: self.unmounter(),
            why: Arc::default(),
        };
        self.operations
            .when_ready(self.when_ready(ready, &breaker)?);
        let result = if self.resumed {
            self.go_on()
        } else {
            self.serve(&breaker)
        };
        let result = match breaker.why.lock().take() {
            Some(why) => Err(why),
            None => result,
        };
        // After an error the mount is still there: it is taken away when this is dropped.
        self.unmounter.ended.store(result.is_ok(), Ordering::SeqCst);
        self.operations.ended();
        result
    }

    /// What happens once the kernel and we have agreed, before anything else is asked for.
    fn when_ready(
        &self,
        ready: impl FnOnce(OwnedFd, Agreed) + Send + 'static,
        breaker: &Breaker,
    ) -> io::Result<Box<dyn FnOnce(Agreed) + Send>> {
        let (breaker, read_ahead) = (breaker.clone(), self.read_ahead);
        let descriptor = self.descriptor.try_clone()?;
        let (rings, needs_rings) = (self.rings.clone(), self.needs_rings);
        Ok(Box::new(move |mut agreed| {
            let registered = match &rings {
                Some(rings) if agreed.is_over_io_uring() => rings.register(),
                _ if needs_rings => Err(NotRegistered::Refused(NoRings::not_offered())),
                _ => Ok(()),
            };
            match registered {
                Ok(()) => {}
                Err(NotRegistered::Refused(why)) if !needs_rings => {
                    tracing::warn!("requests come over /dev/fuse: {why}");
                    agreed.flags &= !flags::OVER_IO_URING;
                    if let Some(rings) = rings {
                        rings.end();
                    }
                }
                Err(NotRegistered::Refused(why)) => return breaker.end(io::Error::other(why)),
                Err(NotRegistered::Unknown(why)) => return breaker.end(why),
            }
            // INIT sets it, so this comes after.
            mount::raise_read_ahead(breaker.unmounter.dir(), read_ahead);
            ready(descriptor, agreed);
        }))
    }

    /// Serves both ways that requests may come.
    fn serve(&self, breaker: &Breaker) -> io::Result<()> {
        let Some(rings) = &self.rings else {
            return self.transport.serve(&self.operations);
        };
        let breaker = breaker.clone();
        let failed = move |e| breaker.end(e);
        std::thread::scope(|scope| {
            let started = rings.start(scope, &self.operations, Arc::new(failed));
            let served = match started {
                Err(why) if self.needs_rings => Err(io::Error::other(why)),
                Err(why) => {
                    tracing::warn!("requests come over /dev/fuse: {why}");
                    self.operations.do_without(flags::OVER_IO_URING);
                    self.transport.serve(&self.operations)
                }
                Ok(()) => self.transport.serve(&self.operations),
            };
            rings.end();
            served
        })
    }

    /// Serves what another server had begun to.
    fn go_on(&self) -> io::Result<()> {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| self.ask_what_is_held(&over));
            self.operations.ready();
            let resent = match self.notifier().resend() {
                // It was unmounted meanwhile, which serving finds out.
                Err(e) if e.raw_os_error() != Some(libc::ENODEV) => Err(e),
                _ => self.transport.serve_resent(&self.operations),
            };
            let result = resent.and_then(|()| {
                self.fs.all_came_again();
                self.transport.serve(&self.operations)
            });
            over.store(true, Ordering::SeqCst);
            asking.thread().unpark();
            result
        })
    }

    /// Who counted what the kernel holds has died with the counts: the kernel is asked for every
    /// nameless inode that may be held.
    fn ask_what_is_held(&self, over: &AtomicBool) {
        let notifier = self.notifier();
        let mut pause = FIRST_QUESTION;
        while !over.load(Ordering::SeqCst) {
            std::thread::park_timeout(pause);
            pause = QUESTIONS;
            for ino in self.fs.doubtful() {
                match notifier.holds(ino) {
                    Ok(true) => self.fs.held(ino),
                    Ok(false) => self.fs.not_held(ino),
                    // Unmounted: then nothing is.
                    Err(_) => break,
                }
            }
        }
    }

    /// A handle that ends the mount.
    #[must_use]
    pub fn unmounter(&self) -> Unmounter {
        self.unmounter.clone()
    }

    /// The counters.
    #[must_use]
    pub fn statistics(&self) -> Arc<Statistics> {
        self.operations.statistics()
    }

    /// What tells the kernel of changes that do not come through the mount.
    #[must_use]
    pub fn notifier(&self) -> Notifier {
        Notifier {
            sink: self.transport.sink(),
            underway: self.operations.underway(),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // A mount that nobody serves would hang whoever looks at it.
        let _ = self.unmounter.unmount(true);
    }
}
