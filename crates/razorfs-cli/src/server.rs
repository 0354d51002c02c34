//! The seam to the FUSE server.

use razorfs::Volume;

use crate::daemon::Job;
use crate::failure::Result;

/// A mount that is being served.
pub struct Server;

impl Server {
    /// Mounts, and serves from threads of its own. `ended` is called when the kernel has
    /// unmounted.
    pub fn start(volume: Volume, job: &Job, ended: impl Fn() + Send + 'static) -> Result<Self> {
        let _ = (volume, job, ended);
        Ok(Self)
    }

    /// Waits until the threads have ended.
    pub fn finish(self) {}
}
