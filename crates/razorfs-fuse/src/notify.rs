//! Telling the kernel what has changed without it.

use std::io::{self, IoSlice};
use std::sync::Arc;

use razorfs::Ino;

use crate::protocol::{Encode, put_notification};
use crate::transport::ReplySink;
use crate::underway::Underway;

const INVALIDATE_INODE: i32 = 2;
const INVALIDATE_ENTRY: i32 = 3;
const RESEND: i32 = 7;

/// Makes the kernel forget what it has cached, after a change that did not come through the mount.
///
/// Never use it from within a method of [`crate::FileSystem`]: the kernel may hold locks that wait
/// for that very answer, and so may [`Notifier::changed`].
#[derive(Clone)]
pub struct Notifier {
    pub(crate) sink: Arc<dyn ReplySink>,
    pub(crate) underway: Arc<Underway>,
}

/// Tells the kernel what to forget, after a change that nothing which is still to be answered has
/// been looked at before.
pub struct Changed<'a>(&'a Notifier);

impl Notifier {
    /// A change has happened, and everybody sees it. Waits until all that was asked for before is
    /// answered: what the kernel is told to forget then does not come to it again.
    #[must_use]
    pub fn changed(&self) -> Changed<'_> {
        self.underway.settle();
        Changed(self)
    }

    /// Has the kernel send all requests again that were read and not answered.
    pub(crate) fn resend(&self) -> io::Result<()> {
        let header = put_notification(RESEND, 0);
        self.sink.send(&[IoSlice::new(&header)])
    }

    /// Whether the kernel holds an inode. What it has cached of its attributes is asked for again.
    pub fn holds(&self, ino: Ino) -> io::Result<bool> {
        let mut body = Vec::with_capacity(24);
        body.u64(ino.0);
        // From before the first byte on: the cached pages stay.
        body.u64(u64::MAX);
        body.u64(0);
        let header = put_notification(INVALIDATE_INODE, body.len());
        let asked = self
            .sink
            .send(&[IoSlice::new(&header), IoSlice::new(&body)]);
        match asked {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

impl Changed<'_> {
    /// A directory is there again that the kernel has seen removed. It never lets anybody into that
    /// one again (Linux: `S_DEAD`), so that it is another one from now on.
    pub fn returned(&self, dir: Ino) {
        self.0.underway.returned(dir);
    }

    /// Attributes and cached pages of the inode are out of date.
    pub fn inode(&self, ino: Ino) -> io::Result<()> {
        let mut body = Vec::with_capacity(24);
        body.u64(ino.0);
        // All bytes from 0 on.
        body.u64(0);
        body.u64(0);
        self.send(INVALIDATE_INODE, &body)
    }

    /// What `name` in `parent` leads to has changed. Whoever is looking that name up, and has got
    /// the answer, has kept it when this returns.
    pub fn name(&self, parent: Ino, name: &[u8]) -> io::Result<()> {
        let mut body = Vec::with_capacity(17 + name.len());
        body.u64(parent.0);
        // Names have at most 255 bytes.
        body.u32(name.len() as u32);
        body.u32(0);
        body.extend_from_slice(name);
        body.push(0);
        self.send(INVALIDATE_ENTRY, &body)
    }

    fn send(&self, code: i32, body: &[u8]) -> io::Result<()> {
        let header = put_notification(code, body.len());
        let parts = [IoSlice::new(&header), IoSlice::new(body)];
        let sent = self.0.sink.send(&parts);
        match sent {
            // The kernel had nothing cached.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            sent => sent,
        }
    }
}
