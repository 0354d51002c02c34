//! A daemon's side of its keeper.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use razorfs::redo::RedoMemory;
use razorfs_disk::os::{OsDisk, SharedMemory};
use serde_json::{Value, json};

use crate::failure::{COULD_NOT_RUN, Failure, Result};
use crate::handover::{self, Estate, Held, Message};

/// Bytes of the memory for redo: what is acknowledged and in no journal yet has room in it, and
/// writers wait if it has not.
const REDO_BYTES: u64 = 128 << 20;

/// The keeper of this daemon.
#[derive(Clone)]
pub struct Keeper {
    socket: Arc<OwnedFd>,
    /// Its process.
    pub pid: u32,
    /// How many daemons of the volume have died before this one.
    pub deaths: u64,
    lives: Arc<AtomicBool>,
}

/// What a daemon begins with.
#[derive(Default)]
pub struct Beginning {
    /// None where nobody keeps the mounts.
    pub keeper: Option<Keeper>,
    /// What a daemon that died has left.
    pub estate: Option<Estate>,
    /// Its mounts.
    pub mounts: Vec<Held>,
    /// It may have died in a rollback, before the kernel was told of it.
    pub rolls_back: bool,
}

/// Asks the keeper, who is at standard input, how to begin.
pub fn begin() -> Result<Beginning> {
    let failed = |e: std::io::Error| {
        Failure::new(format!("cannot talk to the keeper: {e}")).code(COULD_NOT_RUN)
    };
    let socket = std::io::stdin().as_fd().try_clone_to_owned();
    let socket = socket.map_err(failed)?;
    let next = || handover::receive(socket.as_fd()).map_err(failed);
    let odd = || failed(std::io::Error::other("it said something else"));
    let (estate, deaths, count, rolls_back) = match next()? {
        Some(Message::Start) => (None, 0, 0, false),
        Some(Message::Resume {
            estate,
            deaths,
            mounts,
            rolls_back,
        }) => (Some(estate), deaths, mounts, rolls_back),
        _ => return Err(odd()),
    };
    let mut mounts = Vec::new();
    for _ in 0..count {
        match next()? {
            Some(Message::Mount(held)) => mounts.push(held),
            _ => return Err(odd()),
        }
    }
    if let Ok(null) = std::fs::File::open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&null);
    }
    let parent = rustix::process::getppid();
    let pid = parent.map_or(0, |pid| pid.as_raw_nonzero().get().unsigned_abs());
    let keeper = Keeper {
        socket: Arc::new(socket),
        pid,
        deaths,
        lives: Arc::new(AtomicBool::new(true)),
    };
    Ok(Beginning {
        keeper: Some(keeper),
        estate,
        mounts,
        rolls_back,
    })
}

impl Beginning {
    /// Whether a daemon has died that this one goes on for.
    pub const fn is_resumed(&self) -> bool {
        self.estate.is_some()
    }

    /// The memory for redo, if the mount is written to and kept.
    pub fn memory(&self, read_only: bool) -> std::io::Result<Option<Arc<SharedMemory>>> {
        let memory = match (&self.estate, &self.keeper) {
            (Some(estate), _) => match &estate.redo {
                Some(fd) => SharedMemory::adopt(fd.try_clone()?)?,
                None => return Ok(None),
            },
            (None, Some(_)) if !read_only => match SharedMemory::create(REDO_BYTES) {
                Ok(memory) => memory,
                Err(e) => {
                    // Such as a limit to the size of files.
                    tracing::warn!("no memory can be shared with a keeper: {e}");
                    return Ok(None);
                }
            },
            _ => return Ok(None),
        };
        Ok(Some(Arc::new(memory)))
    }

    /// The listener that commands wait at.
    pub fn listener(&self) -> std::io::Result<Option<UnixListener>> {
        let fd = self.estate.as_ref().and_then(|e| e.listener.as_ref());
        let fd = fd.map(OwnedFd::try_clone).transpose()?;
        Ok(fd.map(UnixListener::from))
    }
}

/// The engine's view of the memory.
pub fn redo_of(memory: &Arc<SharedMemory>) -> Result<Arc<RedoMemory>> {
    RedoMemory::new(Arc::clone(memory))
        .map(Arc::new)
        .map_err(|e| Failure::new(format!("cannot use the memory for redo: {e}")))
}

impl Keeper {
    /// Nobody is needed to keep the mount, as nobody could go on with it.
    pub fn leave(&self) -> std::io::Result<()> {
        self.lives.store(false, Ordering::Relaxed);
        handover::send(self.socket.as_fd(), &Message::Leave)
    }

    /// Has it hold a mount, or know that there is about to be one.
    pub fn hold(&self, held: Held) -> std::io::Result<()> {
        self.tell(&Message::Mount(held))
    }

    /// A rollback begins, or the kernel has been told of all that it has changed.
    pub fn rolls_back(&self, yes: bool) -> std::io::Result<()> {
        self.tell(&Message::RollsBack(yes))
    }

    /// A mount is gone.
    pub fn gone(&self, id: u64) {
        if let Err(e) = self.tell(&Message::Gone(id)) {
            // Another daemon would find that out by itself.
            tracing::warn!("the keeper cannot be told of the end of a mount: {e}");
        }
    }

    /// Tells it something; nothing if it has died, without which the mounts go on.
    fn tell(&self, message: &Message) -> std::io::Result<()> {
        match handover::send(self.socket.as_fd(), message) {
            Err(e) if handover::is_gone(&e) => Ok(()),
            sent => sent,
        }
    }

    /// Hands over what another daemon would need besides the mounts, all of which are served.
    pub fn hand_over(
        &self,
        disk: &OsDisk,
        memory: Option<&Arc<SharedMemory>>,
        listener: Option<&UnixListener>,
    ) -> std::io::Result<()> {
        let copy = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned();
        let estate = Estate {
            redo: memory.map(|m| copy(m.as_fd())).transpose()?,
            lock: disk.lock_descriptor().transpose()?,
            listener: listener.map(|l| copy(l.as_fd())).transpose()?,
        };
        handover::send(self.socket.as_fd(), &Message::Ready(estate))
    }

    /// Tells when the keeper is gone: the mount goes on without.
    pub fn watch(&self) -> std::io::Result<()> {
        let (socket, lives) = (Arc::clone(&self.socket), Arc::clone(&self.lives));
        let watch = move || {
            while let Ok(Some(_)) = handover::receive(socket.as_fd()) {}
            if lives.swap(false, Ordering::Relaxed) {
                tracing::error!(
                    "the keeper has died: the mount goes on, and will be lost if this process \
                     dies, too"
                );
            }
        };
        let thread = std::thread::Builder::new().name("keeper".into());
        thread.spawn(watch).map(|_| ())
    }

    /// This daemon ends as it should; with the reason if it could not go on.
    pub fn tell_end(&self, code: u8, refused: Option<&Failure>) {
        self.lives.store(false, Ordering::Relaxed);
        let refused = refused.map(|failure| failure.message.clone());
        // If it is gone nobody waits for this.
        let _ = handover::send(self.socket.as_fd(), &Message::Ending { code, refused });
    }

    /// What `info` shows of it.
    pub fn document(&self) -> Value {
        let lives = self.lives.load(Ordering::Relaxed);
        json!({"pid": lives.then_some(self.pid), "restarts": self.deaths})
    }
}
