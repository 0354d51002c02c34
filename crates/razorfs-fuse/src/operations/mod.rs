//! Carries typed requests out on a [`FileSystem`] and knows no transport.
//!
//! | file | requests |
//! |---|---|
//! | `names` | lookup, create, link, unlink, rename, forget |
//! | `attributes` | getattr, setattr, statx, statfs, extended attributes, ioctl |
//! | `data` | read, write, fsync, fallocate, lseek, copy |
//! | `directories` | readdir, readdirplus |

mod attributes;
mod data;
mod directories;
mod names;
mod privileges;
mod shutdown;
#[cfg(test)]
mod tests;

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use razorfs::{Asker, Error, Ino};

use crate::clock::monotonic;
use crate::filesystem::FileSystem;
use crate::protocol::{
    self, Agreed, Dialect, Header, InitIn, Limits, Negotiated, Operation, Request, Validity, flags,
    opcode,
};
use crate::statistics::Statistics;
use crate::transport::{Handler, Reply, ReplyTo, Scratch};
use crate::underway::{Unanswered, Underway};
use privileges::Privileges;

pub use attributes::SYNC_IOCTL;

/// An error number of Linux.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Errno(i32);

type Result<T = ()> = std::result::Result<T, Errno>;

impl From<Error> for Errno {
    fn from(e: Error) -> Self {
        let errno = e.errno();
        if errno == libc::EIO {
            tracing::error!("{e}");
        }
        Self(errno)
    }
}

/// Where the number of a mount stands in that of a request, which the kernel counts up from a small
/// one.
const ORIGIN_SHIFT: u32 = 47;

/// OPEN: pages cached from an earlier open stay good, as nobody else changes them.
const OPEN_KEEP_CACHE: u32 = 1 << 1;

/// Carries requests out.
pub struct Operations {
    fs: Arc<dyn FileSystem>,
    limits: Limits,
    /// Features to leave out besides.
    without: AtomicU64,
    validity: Validity,
    origin: u64,
    negotiated: OnceLock<Negotiated>,
    privileges: Privileges,
    statistics: Arc<Statistics>,
    underway: Arc<Underway>,
    ready: Mutex<Option<Ready>>,
}

/// What is called once the kernel and we have agreed.
type Ready = Box<dyn FnOnce(Agreed) + Send>;

impl Operations {
    /// Serves `fs`.
    #[must_use]
    pub fn new(fs: Arc<dyn FileSystem>, limits: Limits, validity: Validity) -> Self {
        Self {
            fs,
            limits,
            without: AtomicU64::new(0),
            validity,
            origin: 0,
            negotiated: OnceLock::new(),
            privileges: Privileges::default(),
            statistics: Arc::default(),
            underway: Arc::default(),
            ready: Mutex::new(None),
        }
    }

    /// Tells its requests from those of another mount of the same volume.
    #[must_use]
    pub fn of_mount(self, origin: u16) -> Self {
        let origin = u64::from(origin);
        Self { origin, ..self }
    }

    /// Has features left out that turn out not to be possible, before INIT comes.
    pub(crate) fn do_without(&self, flags: u64) {
        self.without.fetch_or(flags, Ordering::SeqCst);
    }

    /// Has `ready` called once the kernel and we have agreed.
    pub fn when_ready(&self, ready: Ready) {
        *self.ready.lock() = Some(ready);
    }

    /// What a server that has died had agreed on with the kernel holds on.
    pub(crate) fn resume(&self, agreed: Agreed) {
        let _first = self.negotiated.set(agreed.into());
    }

    /// The kernel and we have agreed.
    pub(crate) fn ready(&self) {
        if let (Some(ready), Some(negotiated)) = (self.ready.lock().take(), self.negotiated.get()) {
            ready(negotiated.agreed());
        }
    }

    /// The counters.
    #[must_use]
    pub fn statistics(&self) -> Arc<Statistics> {
        self.statistics.clone()
    }

    /// The requests that are being carried out.
    pub(crate) fn underway(&self) -> Arc<Underway> {
        Arc::clone(&self.underway)
    }

    /// The mount has ended.
    pub fn ended(&self) {
        self.fs.session_ended();
    }

    fn dialect(&self) -> Dialect {
        self.negotiated
            .get()
            .map_or_else(Dialect::default, |n| n.dialect)
    }

    /// What an opened file is answered with.
    fn open_flags(&self) -> u32 {
        if self.limits.keep_cache {
            OPEN_KEEP_CACHE
        } else {
            0
        }
    }

    fn has(&self, flag: u64) -> bool {
        self.negotiated.get().is_some_and(|n| n.flags & flag != 0)
    }

    fn init(&self, offer: &InitIn, reply: Reply) {
        let mut limits = self.limits;
        limits.without |= self.without.load(Ordering::SeqCst);
        match protocol::negotiate(offer, &limits) {
            Err(e) => {
                tracing::error!("{e}");
                reply.error(libc::EPROTO);
            }
            Ok((answer, None)) => {
                reply.bytes(&answer);
            }
            Ok((answer, Some(negotiated))) => {
                tracing::info!(
                    minor = negotiated.minor,
                    flags = format_args!("{:#x}", negotiated.flags),
                    "mounted"
                );
                // Before the answer: requests follow it at once.
                let _ = self.negotiated.set(negotiated);
                reply.bytes(&answer);
                self.ready();
            }
        }
    }

    /// Whether a server that has died had carried this request out, of those that must not be
    /// carried out twice; with the inode that it made or the bytes that it copied. It is only to be
    /// answered then.
    fn applied(&self, request: &Request<'_>) -> Option<u64> {
        let is_resent = request.header.is_resent();
        is_resent.then(|| self.fs.applied(self.number(request)))?
    }

    /// The number that a request is noted by: the kernel counts those of each mount by itself, and
    /// a volume that has several notes all of them in one place.
    fn number(&self, request: &Request<'_>) -> u64 {
        request.header.request() ^ self.origin << ORIGIN_SHIFT
    }

    /// Sends what `out` holds, or the error.
    fn finish(&self, result: Result, reply: Reply, out: &[u8]) {
        match result {
            Ok(()) => {
                reply.bytes(out);
            }
            Err(e) => self.fail(e, reply),
        }
    }

    fn fail(&self, Errno(errno): Errno, reply: Reply) {
        self.count(errno);
        reply.error(errno);
    }

    /// Counts an error, if it is one that tells of something unusual.
    fn count(&self, errno: i32) {
        if !matches!(errno, libc::ENOENT | libc::ENOSYS | libc::ENODATA) {
            self.statistics.count_failure();
        }
    }

    fn dispatch(&self, request: &Request<'_>, reply: Reply, scratch: &mut Scratch) {
        let ino = Ino(request.header.node);
        scratch.out.clear();
        match &request.operation {
            Operation::Init(offer) => self.init(offer, reply),
            Operation::Forget { nlookup } => {
                reply.none();
                self.fs.unpin(ino, *nlookup);
            }
            Operation::BatchForget(forgotten) => {
                reply.none();
                for (ino, nlookup) in *forgotten {
                    self.fs.unpin(Ino(ino), nlookup);
                }
            }
            // The kernel knows how to go on waiting.
            Operation::Interrupt { .. } => reply.none(),
            Operation::Destroy | Operation::Release | Operation::ReleaseDir => reply.done(),
            Operation::Fsync | Operation::SyncFs => self.sync(reply, &[]),
            Operation::Open { .. } if !self.has(flags::NO_OPEN_SUPPORT) => {
                protocol::put_open(&mut scratch.out, self.open_flags());
                reply.bytes(&scratch.out);
            }
            Operation::OpenDir if !self.has(flags::NO_OPENDIR_SUPPORT) => {
                protocol::put_open(&mut scratch.out, 0);
                reply.bytes(&scratch.out);
            }
            // The kernel asks for these no more. Handles carry no state and permissions are the
            // kernel's affair, so nothing is lost.
            Operation::Open { .. }
            | Operation::OpenDir
            | Operation::Flush
            | Operation::Access
            | Operation::Unknown => reply.error(libc::ENOSYS),
            Operation::Lookup { .. }
            | Operation::Symlink { .. }
            | Operation::MkNod { .. }
            | Operation::MkDir { .. }
            | Operation::Create { .. }
            | Operation::TmpFile { .. }
            | Operation::Link { .. } => self.entry(request, reply, &mut scratch.out),
            Operation::Unlink { .. } | Operation::RmDir { .. } | Operation::Rename { .. } => {
                let result = match self.applied(request) {
                    Some(_) => Ok(()),
                    None => self.change_names(request),
                };
                self.finish(result, reply, &[]);
            }
            Operation::Read { .. } => self.read(ino, &request.operation, reply, scratch),
            Operation::ReadDir { .. } => {
                self.read_dir(ino, &request.operation, reply, &mut scratch.out);
            }
            Operation::Ioctl { .. } => self.ioctl(request, reply, &mut scratch.out),
            _ => {
                let result = self.attributes_or_data(request, &mut scratch.out);
                self.finish(result, reply, &scratch.out);
            }
        }
    }

    fn attributes_or_data(&self, request: &Request<'_>, out: &mut Vec<u8>) -> Result {
        let ino = Ino(request.header.node);
        match &request.operation {
            Operation::GetAttr => self.get_attributes(ino, out),
            Operation::SetAttr(set) => self.set_attributes(request, set, out),
            Operation::Statx { .. } => self.statx(ino, out),
            Operation::StatFs => self.statfs(out),
            Operation::ReadLink => {
                out.extend_from_slice(&self.fs.read_link(ino)?);
                self.fs.accessed(ino);
                Ok(())
            }
            Operation::SetXattr { .. }
            | Operation::GetXattr { .. }
            | Operation::ListXattr { .. }
            | Operation::RemoveXattr { .. } => self.xattr(request, out),
            Operation::Write {
                offset,
                data,
                write_flags,
            } => self.write(request, *offset, data, *write_flags, out),
            Operation::Fallocate {
                offset,
                length,
                mode,
            } => {
                self.changed_by(request, ino)?;
                self.allocate(request, *offset, *length, *mode)
            }
            Operation::Lseek { offset, whence } => self.seek(ino, *offset, *whence, out),
            Operation::CopyFileRange { to, .. } => {
                self.changed_by(request, Ino(*to))?;
                self.copy(request, out)
            }
            _ => Err(Errno(libc::ENOSYS)),
        }
    }
}

impl Handler for Operations {
    fn handle(&self, message: &[u8], reply: ReplyTo, scratch: &mut Scratch) -> Unanswered {
        let unanswered = self.underway.begin();
        match protocol::parse(message, self.dialect()) {
            Ok(request) => {
                let kind = request.header.opcode;
                self.statistics.count_request(kind);
                let begun = monotonic();
                let reply = reply.request(request.header.unique);
                let Header { uid, gid, pid, .. } = request.header;
                let work = || self.dispatch(&request, reply, scratch);
                let work = AssertUnwindSafe(|| Asker { uid, gid, pid }.asks(work));
                // A thread that went with it would be missed, and the mount hang with the last one.
                // The caller gets EIO, as the answer has been dropped.
                if std::panic::catch_unwind(work).is_err() {
                    self.statistics.count_failure();
                    self.fs.panicked(opcode::name(kind));
                }
                let took = monotonic().saturating_sub(begun);
                self.statistics.count_time(kind, took);
            }
            Err(e) => {
                tracing::error!("{e}");
                self.statistics.count_failure();
                let unanswered = [opcode::FORGET, opcode::BATCH_FORGET, opcode::INTERRUPT];
                if e.unique != 0 && !unanswered.contains(&e.opcode) {
                    reply.request(e.unique).error(libc::EIO);
                }
            }
        }
        unanswered
    }
}
