//! Signals, taken by a thread of their own.
#![expect(unsafe_code, reason = "the standard library has no signals")]

use std::io::Read;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::failure::{COULD_NOT_RUN, Failure, Result};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Whether Ctrl-C came. Long work looks at it between two operations.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// From now on SIGINT, SIGTERM and SIGHUP call `action` from a thread, and nothing else. To be
/// called while the process has one thread: threads that exist keep the old behaviour.
pub fn take(action: impl Fn() + Send + 'static) -> Result<()> {
    let set = block()?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            loop {
                let mut signal = 0;
                // SAFETY: both pointers are to live values of the right types.
                if unsafe { libc::sigwait(&raw const set, &raw mut signal) } == 0 {
                    action();
                }
            }
        })
        .map(|_| ())
        .map_err(|e| Failure::new(format!("cannot start a thread: {e}")).code(COULD_NOT_RUN))
}

/// From now on SIGINT, SIGTERM and SIGHUP make the descriptor readable, and do nothing else. To be
/// called while the process has one thread.
pub fn as_descriptor() -> Result<OwnedFd> {
    let set = block()?;
    // SAFETY: the set is initialised and lives for the call; what comes back is a new descriptor
    // that nothing else has, or an error.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        let e = std::io::Error::last_os_error();
        return Err(Failure::new(format!("cannot take signals: {e}")).code(COULD_NOT_RUN));
    }
    // SAFETY: it is open and ours alone, as said above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A signal that came.
pub struct Came {
    /// Which.
    pub number: i32,
    /// Whether somebody has typed it, so that all processes in the foreground have got it.
    pub from_terminal: bool,
}

/// Takes one signal off the descriptor, if there is one.
pub fn next(signals: &OwnedFd) -> Option<Came> {
    let mut info = [0; size_of::<libc::signalfd_siginfo>()];
    let read = rustix::io::read(signals, &mut info).ok()?;
    // It begins with the number, the error and the code, which says where it came from.
    let (words, _) = info.get(..read)?.as_chunks();
    let word = |n: usize| words.get(n).map(|word| i32::from_ne_bytes(*word));
    Some(Came {
        number: word(0)?,
        from_terminal: word(2)? == libc::SI_KERNEL,
    })
}

/// The same, whatever it is.
pub fn take_one(signals: &OwnedFd) -> bool {
    next(signals).is_some()
}

/// Has a command begin as others do, though we have kept signals from ourselves.
pub fn let_through(command: &mut Command) -> &mut Command {
    let free = || {
        // SAFETY: a signal set is plain data, and sigemptyset initialises it before it is used;
        // both calls may be made between fork and exec.
        let outcome = unsafe {
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut())
        };
        match outcome {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure calls nothing that may not be called there, and takes no memory.
    unsafe { command.pre_exec(free) }
}

/// From now on Ctrl-C only makes [`interrupted`] true; a second one ends the process.
pub fn note_interrupts() -> Result<()> {
    take(|| {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })
}

/// An error if Ctrl-C came.
pub fn check() -> Result<()> {
    if interrupted() {
        return Err(Failure::new("interrupted"));
    }
    Ok(())
}

/// Reads as `R` does, but stops waiting for bytes when Ctrl-C came.
pub struct Interruptible<R>(pub R);

impl<R: Read + AsFd> Read for Interruptible<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let patience = Timespec {
            tv_sec: 0,
            tv_nsec: 100_000_000,
        };
        loop {
            let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
            match poll(&mut fds, Some(&patience)) {
                Ok(0) | Err(Errno::INTR) if interrupted() => {
                    return Err(std::io::Error::other("interrupted"));
                }
                Ok(0) | Err(Errno::INTR) => {}
                // Also where it cannot be waited for: reading tells.
                _ => return self.0.read(buf),
            }
        }
    }
}

fn block() -> Result<libc::sigset_t> {
    // SAFETY: a signal set is plain data, and sigemptyset initialises it before it is used; the
    // pointers are to live values.
    let (set, outcome) = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::sigaddset(&raw mut set, signal);
        }
        let none = std::ptr::null_mut();
        let mut blocked = set;
        // A limit to the size of files is an error of the write, and not the end of us.
        libc::sigaddset(&raw mut blocked, libc::SIGXFSZ);
        (
            set,
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const blocked, none),
        )
    };
    if outcome == 0 {
        Ok(set)
    } else {
        let e = std::io::Error::from_raw_os_error(outcome);
        Err(Failure::new(format!("cannot take signals: {e}")).code(COULD_NOT_RUN))
    }
}
