//! Moving messages between the kernel and a [`Handler`], without knowing what they say.

mod cores;
mod device;
#[cfg(test)]
mod device_tests;
mod near;
mod uring;

use std::io::{self, IoSlice};
use std::sync::Arc;

pub use device::{Device, DeviceOptions};
pub use uring::{NoRings, NotRegistered, RingOptions, Rings, available as rings_available};

use crate::protocol::reply_header;
use crate::underway::Unanswered;

/// Where answers go. Every answer is one write.
pub trait ReplySink: Send + Sync {
    /// Sends one message made of these parts. ENOENT says that nobody waits for it any more.
    fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<()>;

    /// Has `fill` write so many bytes at most where the kernel takes them from, and sends what it
    /// wrote as the answer to request `unique`. None, and nothing is done, where that is not
    /// possible.
    fn fill(&self, _unique: u64, _len: usize, _fill: Fill<'_>) -> Option<Result<(), i32>> {
        None
    }
}

/// What writes an answer: says how many bytes it has, or an error number.
pub type Fill<'a> = &'a mut dyn FnMut(&mut [u8]) -> Result<usize, i32>;

/// Room that a worker keeps between requests.
#[derive(Debug, Default)]
pub struct Scratch {
    /// For answers.
    pub out: Vec<u8>,
    /// For file data.
    pub data: Vec<u8>,
}

/// What carries requests out. Called from several threads at a time.
pub trait Handler: Sync {
    /// Carries one message out and answers now, or keeps `reply` and answers later. What this
    /// returns is to be kept until the answer, if it was given, is with the kernel.
    fn handle(&self, message: &[u8], reply: ReplyTo, scratch: &mut Scratch) -> Unanswered;
}

/// A way for messages to come and go.
pub trait Transport: Send + Sync {
    /// Hands messages to `handler` until the mount ends.
    fn serve(&self, handler: &dyn Handler) -> io::Result<()>;
    /// Hands over, one after the other, what was sent to another server before, which comes before
    /// all else, and returns when all of it has been carried out. Nobody serves meanwhile.
    fn serve_resent(&self, handler: &dyn Handler) -> io::Result<()>;
    /// Where notifications go.
    fn sink(&self) -> Arc<dyn ReplySink>;
    /// Has [`Transport::serve`] return although the mount is there; what is being carried out is
    /// finished first. Nobody answers what the kernel asks from then on.
    fn end(&self);
}

/// The way back, before it is known to which request.
#[derive(Clone)]
pub struct ReplyTo(pub(crate) Arc<dyn ReplySink>);

impl ReplyTo {
    /// The answer to request `unique`.
    #[must_use]
    pub fn request(self, unique: u64) -> Reply {
        Reply {
            sink: Some(self.0),
            unique,
        }
    }
}

/// An answer that is owed. It can be sent from any thread; dropped unsent, it answers EIO, so that
/// no caller waits for ever.
pub struct Reply {
    sink: Option<Arc<dyn ReplySink>>,
    unique: u64,
}

impl Reply {
    /// Sends an answer made of these parts; says whether somebody took it.
    pub fn parts(mut self, first: &[u8], second: &[u8]) -> bool {
        let header = reply_header(self.unique, 0, first.len() + second.len());
        let parts = [
            IoSlice::new(&header),
            IoSlice::new(first),
            IoSlice::new(second),
        ];
        let used = if second.is_empty() { 2 } else { 3 };
        self.send(parts.get(..used).unwrap_or(&parts))
    }

    /// Sends an answer.
    pub fn bytes(self, body: &[u8]) -> bool {
        self.parts(body, &[])
    }

    /// Sends what `fill` writes, of so many bytes at most: to where the kernel takes it from, if
    /// that is possible, otherwise to `room`. Its error is sent, and told.
    pub fn fill(mut self, len: usize, room: &mut Vec<u8>, fill: Fill<'_>) -> Result<(), i32> {
        let filled = self.sink.as_ref();
        match filled.and_then(|sink| sink.fill(self.unique, len, &mut *fill)) {
            Some(Ok(())) => {
                self.sink = None;
                return Ok(());
            }
            Some(Err(errno)) => {
                self.error(errno);
                return Err(errno);
            }
            None => {}
        }
        if room.len() < len {
            room.resize(len, 0);
        }
        let room = room.get_mut(..len).unwrap_or_default();
        match fill(room) {
            Ok(n) => {
                self.bytes(room.get(..n).unwrap_or_default());
                Ok(())
            }
            Err(errno) => {
                self.error(errno);
                Err(errno)
            }
        }
    }

    /// Sends an answer without content.
    pub fn done(self) {
        self.parts(&[], &[]);
    }

    /// Sends an error number.
    pub fn error(mut self, errno: i32) {
        self.send_error(errno);
    }

    /// This request has no answer.
    pub fn none(mut self) {
        self.sink = None;
    }

    fn send_error(&mut self, errno: i32) {
        let header = reply_header(self.unique, errno, 0);
        self.send(&[IoSlice::new(&header)]);
    }

    fn send(&mut self, parts: &[IoSlice<'_>]) -> bool {
        let Some(sink) = self.sink.take() else {
            return false;
        };
        match sink.send(parts) {
            Ok(()) => true,
            Err(e) => {
                // ENOENT: the caller was killed. ENODEV: the mount is gone.
                let gone = matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV));
                if !gone {
                    tracing::warn!(unique = self.unique, "the kernel refused an answer: {e}");
                    if parts.len() > 1 {
                        // What it refused must not leave the caller waiting.
                        let header = reply_header(self.unique, libc::EIO, 0);
                        let _ = sink.send(&[IoSlice::new(&header)]);
                    }
                }
                false
            }
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if self.sink.is_some() {
            self.send_error(libc::EIO);
        }
    }
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reply({})", self.unique)
    }
}
