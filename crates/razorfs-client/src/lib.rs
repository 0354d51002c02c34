//! A volume for programs, whether a daemon serves it or not.
//!
//! [`open`] connects to the daemon that has the volume mounted, and where there is none opens the
//! volume itself; what follows is the same. The names are those of the library ([`razorfs::Dir`],
//! [`razorfs::File`], [`razorfs::Transaction`]), and so is what they do; errors are those of
//! `std::io`, as what goes wrong may be the connection.
//!
//! Who may connect is told by the permissions of the socket, `VOLUME/razorfs.sock`
//! (`mount -o socket_mode=`); whoever may, may do anything in the volume, as with the library. What
//! is done here is seen in the mount of the volume at once, and what programs there write is seen
//! here. A file that one of them has open is not made longer from here: that fails with
//! `ResourceBusy`.
//!
//! ```no_run
//! # fn main() -> std::io::Result<()> {
//! let volume = razorfs_client::open("photos.rzfs", razorfs::Options::default())?;
//! let fs = volume.root();
//! fs.write("a.jpg", b"...")?; // visible now, in mounts too; durable at the next sync
//! let mut tx = fs.transaction(); // several files, all or nothing
//! tx.write("index.json", b"{}");
//! tx.rename("a.jpg", "b.jpg");
//! tx.commit(razorfs::Durability::Synced)?;
//! volume.create_branch("attempt-1")?;
//! let attempt = volume.view("attempt-1")?; // as `photos.rzfs@attempt-1`
//! attempt.root().remove_file("b.jpg")?;
//! volume.close()?;
//! # Ok(())
//! # }
//! ```

mod connect;
mod dir;
mod file;
mod others;
mod seen;
mod serve;
// For fuzzing.
#[doc(hidden)]
pub mod wire;

use std::fs::File as HostFile;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use razorfs::{Error, Options, Time, Volume};

pub use dir::{Dir, DirEntry, ReadDir, Transaction};
pub use file::{File, OpenOptions};
pub use others::{Kind, Moving, Others, Refusal};
pub use serve::serve;
pub use wire::VERSION;

use connect::Hello;
use others::Nobody;
use serve::Program;
use wire::{Answer, Get, Request};

/// How often it is tried to open a volume that somebody has, who may be a daemon that does not
/// listen yet, or not any more; and how long it takes until the next time.
const TRIES: u32 = 100;
const BETWEEN_TRIES: Duration = Duration::from_millis(50);

/// Connects to the daemon that serves the volume in the directory `path`, or opens the volume if
/// nobody serves it. `VOLUME@NAME` is a branch or a snapshot of one. The options are for who opens
/// it: a volume that is served was opened with others.
///
/// Two programs that open a volume which nobody serves do not get it both: the second one waits for
/// five seconds and fails with `ResourceBusy`. Mount the volume, and both use it.
pub fn open(path: impl AsRef<Path>, options: Options) -> io::Result<Client> {
    let (path, name) = connect::split(path.as_ref());
    let home = connect::home(path)?;
    let mut tries = 1..TRIES;
    loop {
        if let Hello::Done(stream) = connect::greet(&home, name)? {
            return Ok(Client::there(stream, home));
        }
        match Volume::open(path, options.clone()) {
            Err(Error::Locked(_)) if tries.next().is_some() => std::thread::sleep(BETWEEN_TRIES),
            Err(e) => return Err(e.into()),
            Ok(volume) => {
                let whole = Client::here(volume.clone(), volume);
                return name.map_or(Ok(whole.clone()), |name| whole.view(name));
            }
        }
    }
}

/// A volume: a connection to its daemon, or one that this program has opened. Clones are the same
/// one; any thread may call anything at any time, and waits for what others do.
#[derive(Clone)]
pub struct Client {
    end: Arc<End>,
}

enum End {
    /// A daemon serves it. The directory is the volume's.
    There(Mutex<UnixStream>, HostFile),
    /// It was opened here: the whole volume, and what is shown of it.
    Here(Volume, Volume, Mutex<Program<'static>>),
}

/// A snapshot or a branch.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Point {
    /// Its name, which no other one has.
    pub name: String,
    /// A number that no other one of its kind ever had, and that later ones exceed.
    pub id: u64,
    /// When it was taken or made.
    pub time: Time,
    /// Files, directories and the like that it has.
    pub inodes: u64,
    /// Bytes of its files.
    pub bytes: u64,
}

impl Client {
    /// Connects to the daemon that serves the volume in the directory `path`, or `VOLUME@NAME`, a
    /// branch or a snapshot of it. Fails with `NotConnected` if there is none: [`open`] would open
    /// the volume then.
    pub fn connect(path: impl AsRef<Path>) -> io::Result<Self> {
        let (path, name) = connect::split(path.as_ref());
        let home = connect::home(path)?;
        match connect::greet(&home, name)? {
            Hello::Done(stream) => Ok(Self::there(stream, home)),
            Hello::Nobody => Err(connect::nobody()),
        }
    }

    fn there(stream: UnixStream, home: HostFile) -> Self {
        let end = Arc::new(End::There(Mutex::new(stream), home));
        Self { end }
    }

    fn here(whole: Volume, shown: Volume) -> Self {
        let program = Mutex::new(Program::new(shown.clone(), &Nobody));
        let end = Arc::new(End::Here(whole, shown, program));
        Self { end }
    }

    /// Whether a daemon serves it, and others may use it too.
    #[must_use]
    pub fn is_served(&self) -> bool {
        matches!(*self.end, End::There(..))
    }

    /// A branch, to be read and written, or a snapshot, to be read, over a connection of its own. A
    /// branch that is open is not deleted.
    pub fn view(&self, name: impl AsRef<str>) -> io::Result<Self> {
        let name = name.as_ref();
        match &*self.end {
            End::There(_, home) => match connect::greet(home, Some(name))? {
                Hello::Done(stream) => Ok(Self::there(stream, home.try_clone()?)),
                Hello::Nobody => Err(connect::nobody()),
            },
            End::Here(whole, ..) => {
                let shown = match whole.branch(name) {
                    Err(Error::NotFound) => whole.at_snapshot(name),
                    other => other,
                };
                Ok(Self::here(whole.clone(), shown?))
            }
        }
    }

    /// The root directory.
    #[must_use]
    pub fn root(&self) -> Dir {
        Dir::new(self.clone(), "/".into())
    }

    /// Everything done so far, by whomever, is on the disk when this returns.
    pub fn sync(&self) -> io::Result<()> {
        self.tell(Request::Sync)
    }

    /// Makes everything durable, and closes the volume if it was opened here and this is all of it:
    /// what still works with it fails from now on. A connection ends with the last that has it, and
    /// so does a volume of which a view alone was opened.
    pub fn close(self) -> io::Result<()> {
        match &*self.end {
            End::There(..) => self.sync(),
            End::Here(_, shown, _) => Ok(shown.clone().close()?),
        }
    }

    /// The snapshots, in the order in which they were taken.
    pub fn snapshots(&self) -> io::Result<Vec<Point>> {
        self.ask(Request::List(Kind::Snapshot), wire::points)
    }

    /// Takes a snapshot of what this shows: the volume, or a branch. What programs in its mount
    /// have written is part of it, also where the kernel still held it back. It is on the disk when
    /// this returns. Fails with `AlreadyExists` if a snapshot or a branch has the name.
    pub fn snapshot(&self, name: impl AsRef<str>) -> io::Result<()> {
        self.tell(Request::Create(Kind::Snapshot, name.as_ref().into()))
    }

    /// Deletes a snapshot, and what only it has, which comes back in the background. Fails with
    /// `ResourceBusy` while it is mounted.
    pub fn delete_snapshot(&self, name: impl AsRef<str>) -> io::Result<()> {
        self.tell(Request::Delete(Kind::Snapshot, name.as_ref().into()))
    }

    /// The branches, in the order in which they were made.
    pub fn branches(&self) -> io::Result<Vec<Point>> {
        self.ask(Request::List(Kind::Branch), wire::points)
    }

    /// Makes a branch of what this shows: the volume, a branch or a snapshot. Otherwise as
    /// [`Client::snapshot`].
    pub fn create_branch(&self, name: impl AsRef<str>) -> io::Result<()> {
        self.tell(Request::Create(Kind::Branch, name.as_ref().into()))
    }

    /// Deletes a branch, and what only it has. Fails with `ResourceBusy` while it is mounted, or
    /// anybody has it open.
    pub fn delete_branch(&self, name: impl AsRef<str>) -> io::Result<()> {
        self.tell(Request::Delete(Kind::Branch, name.as_ref().into()))
    }

    /// Asks for what is not answered but by that it is done.
    fn tell(&self, request: Request) -> io::Result<()> {
        self.ask(request, |_| Some(()))
    }

    /// Asks, and takes the answer apart.
    fn ask<T>(
        &self,
        request: Request,
        take: impl FnOnce(&mut Get<'_>) -> Option<T>,
    ) -> io::Result<T> {
        let answer = match &*self.end {
            End::Here(.., program) => {
                let mut program = program.lock().unwrap_or_else(PoisonError::into_inner);
                program.answer(request)
            }
            End::There(stream, _) => {
                let message = request.encode().ok_or_else(|| {
                    let text = "a path has 4096 bytes at most, and a message 16 MiB";
                    io::Error::new(io::ErrorKind::InvalidInput, text)
                })?;
                let stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
                connect::exchange(&stream, &message).inspect_err(|_| {
                    // An answer that is broken off must not be taken for the next one.
                    let _ = stream.shutdown(std::net::Shutdown::Both);
                })?
            }
        };
        let odd = || io::Error::other("the daemon's answer is not understood");
        match Answer::decode(&answer).ok_or_else(odd)? {
            Answer::Failed(errno, text) => {
                let kind = io::Error::from_raw_os_error(errno).kind();
                Err(io::Error::new(kind, text))
            }
            Answer::Done(bytes) => {
                let mut rest = Get(bytes);
                let taken = take(&mut rest).filter(|_| rest.0.is_empty());
                taken.ok_or_else(odd)
            }
        }
    }
}

#[cfg(test)]
#[path = "lib_tests.rs"]
mod tests;
