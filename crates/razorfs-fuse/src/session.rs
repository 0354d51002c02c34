//! A mount and what serves it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::filesystem::FileSystem;
use crate::mount::{self, MountError, MountOptions};
use crate::notify::Notifier;
use crate::operations::Operations;
use crate::protocol::{Limits, Validity};
use crate::statistics::Statistics;
use crate::transport::{Device, DeviceOptions, Transport};

/// How a file system is mounted and served.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// The mount.
    pub mount: MountOptions,
    /// Number of threads that serve it.
    pub threads: usize,
    /// Whether a program whose requests come in a row is served on its own core, where nobody has
    /// to be woken: several times as fast.
    pub stay_near: bool,
    /// Sizes.
    pub limits: Limits,
    /// For how long the kernel caches.
    pub validity: Validity,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            mount: MountOptions::default(),
            threads: 4,
            stay_near: true,
            limits: Limits::default(),
            validity: Validity::default(),
        }
    }
}

/// A mounted file system, to be served by [`Session::run`].
pub struct Session {
    operations: Operations,
    transport: Box<dyn Transport>,
    unmounter: Unmounter,
    read_ahead: u32,
}

/// Ends a mount from anywhere, such as a signal handler's thread.
#[derive(Clone, Debug)]
pub struct Unmounter {
    dir: Arc<PathBuf>,
    ended: Arc<AtomicBool>,
}

impl Unmounter {
    /// Unmounts; with `detach` also if the mount is in use: it disappears at once and is served on
    /// until nobody uses it. [`Session::run`] returns when it is gone. Does nothing if it is.
    pub fn unmount(&self, detach: bool) -> Result<(), MountError> {
        if self.ended.load(Ordering::SeqCst) {
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

impl Session {
    /// Mounts `fs` on `dir`. Requests wait until [`Session::run`].
    pub fn new(
        fs: Arc<dyn FileSystem>,
        dir: &Path,
        options: &SessionOptions,
    ) -> Result<Self, MountError> {
        let mut mount = options.mount.clone();
        mount.max_read = options.limits.max_write;
        let mounted = mount::mount(dir, &mount)?;
        let device = DeviceOptions {
            threads: options.threads.max(1),
            // The kernel wants room for the headers besides the data.
            message: options.limits.max_write as usize + 4096,
            stay_near: options.stay_near,
        };
        let transport = Device::new(mounted.fd, device).map_err(|error| MountError::Other {
            what: "the descriptor of the mount",
            error: Arc::new(error),
        })?;
        let operations = Operations::new(fs, options.limits, options.validity);
        Ok(Self {
            operations,
            transport: Box::new(transport),
            unmounter: Unmounter {
                dir: Arc::new(mounted.dir),
                ended: Arc::default(),
            },
            read_ahead: mount.read_ahead,
        })
    }

    /// Serves the mount until it is unmounted. `ready` is called once it can be used.
    pub fn run(self, ready: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let (unmounter, read_ahead) = (self.unmounter(), self.read_ahead);
        self.operations.when_ready(Box::new(move || {
            // INIT sets it, so this comes after.
            mount::raise_read_ahead(unmounter.dir(), read_ahead);
            ready();
        }));
        let result = self.transport.serve(&self.operations);
        // After an error the mount is still there: it is taken away when this is dropped.
        self.unmounter.ended.store(result.is_ok(), Ordering::SeqCst);
        self.operations.ended();
        result
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
        Notifier(self.transport.sink())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // A mount that nobody serves would hang whoever looks at it.
        let _ = self.unmounter.unmount(true);
    }
}
