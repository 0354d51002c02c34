//! `razorfs transaction run`: a command, and what it did as a whole or not at all.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::Transaction;
use crate::commands::commit;
use crate::failure::{COULD_NOT_RUN, Failure, Result, shown};
use crate::signals;

/// How often, and after what time each, it is tried to unmount what the command has just left.
const TRIES: u32 = 20;
const BETWEEN_TRIES: Duration = Duration::from_millis(100);

/// Runs a command in a transaction of its own; answers with the exit code.
pub fn run(place: &Path, command: &[OsString], no_undo: bool) -> Result<u8> {
    // From here on a signal waits until somebody looks.
    let signals = signals::as_descriptor()?;
    let begun = Transaction::begin(place, None)?;
    let dir = match room(&begun.name) {
        Ok(dir) => dir,
        Err(failure) => return begun.give_up(failure).map(|()| 0),
    };
    let ended = begun
        .mount(&dir)
        .and_then(|()| work(&begun, &dir, command, &signals));
    let outcome = match ended {
        Ok(0) => left(&begun).and_then(|()| done(&begun, no_undo)),
        Ok(code) => left(&begun).and_then(|()| begun.abort()).map(|()| code),
        Err(failure) => {
            let gone = left(&begun).and_then(|()| begun.give_up(failure));
            gone.map(|()| 0)
        }
    };
    // Where it is still mounted it stays.
    for dir in dir.ancestors().take(2) {
        let _ = std::fs::remove_dir(dir);
    }
    outcome
}

/// A directory to mount on, in one that only we may enter: what is mounted has the permissions that
/// the root of the volume has, and may be in a directory that keeps others out of it.
fn room(name: &str) -> Result<PathBuf> {
    let outer = std::env::temp_dir().join(format!("razorfs-{name}"));
    let inner = outer.join("root");
    for dir in [&outer, &inner] {
        // It fails if there is anything of that name.
        let made = DirBuilder::new().mode(0o700).create(dir);
        made.map_err(|e| Failure::host("create", dir, &e))?;
    }
    Ok(inner)
}

/// Unmounts what a command has left; what it has started may need a moment to end.
fn left(begun: &Transaction) -> Result<()> {
    let mut outcome = Ok(());
    for _ in 0..TRIES {
        outcome = begun.unmount().map(|_| ());
        if outcome.is_ok() {
            return outcome;
        }
        std::thread::sleep(BETWEEN_TRIES);
    }
    outcome.map_err(|failure| {
        let remedy = "then commit or abort it";
        begun.failure("end", failure, remedy)
    })
}

fn done(begun: &Transaction, no_undo: bool) -> Result<u8> {
    let answer = begun.commit(false, no_undo)?;
    let conflicts = commit::conflicts(&answer);
    if conflicts.is_empty() {
        return Ok(0);
    }
    // Standard output is that of the command.
    eprint!("{}", conflicts.join(""));
    let cause = format!("{} conflicts, and nothing was done", conflicts.len());
    let remedy = "abort it and run it again, or commit it with --on-conflict branch";
    Err(begun.failure("commit", cause, remedy))
}

/// Runs the command to its end.
fn work(
    begun: &Transaction,
    dir: &Path,
    command: &[OsString],
    signals: &std::os::fd::OwnedFd,
) -> Result<u8> {
    let Some((program, args)) = command.split_first() else {
        return Ok(0);
    };
    let failed = |e: std::io::Error| Failure::host("run", program, &e).code(COULD_NOT_RUN);
    let mut child = Command::new(program);
    child.args(args).current_dir(dir);
    child.env("RAZORFS_TRANSACTION", &begun.name);
    child.env("RAZORFS_TRANSACTION_DIR", dir);
    let mut child = signals::let_through(&mut child).spawn().map_err(failed)?;
    let (status, signal) = wait(&mut child, signals).map_err(failed)?;
    if let Some(signal) = signal {
        eprintln!(
            "razorfs: interrupted; nothing of what was done in {} is kept",
            shown(dir)
        );
        return Ok(of_signal(signal));
    }
    Ok(code(status))
}

fn of_signal(signal: i32) -> u8 {
    u8::try_from(signal).map_or(u8::MAX, |signal| signal.saturating_add(128))
}

/// The exit code as a shell has it.
fn code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(u8::MAX),
        (None, Some(signal)) => of_signal(signal),
        (None, None) => u8::MAX,
    }
}

/// Waits for the end of a process, and hands on to it what asks us to end. Answers with the signal
/// that did, if one came.
fn wait(
    child: &mut Child,
    signals: &std::os::fd::OwnedFd,
) -> std::io::Result<(ExitStatus, Option<i32>)> {
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let mut asked = None;
    loop {
        let mut fds = [
            PollFd::new(signals, PollFlags::IN),
            PollFd::new(&process, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        while let Some(signal) = signals::next(signals) {
            asked = Some(signal.number);
            // A terminal sends it to all processes in the foreground.
            if !signal.from_terminal {
                let number = Signal::from_named_raw(signal.number).unwrap_or(Signal::TERM);
                match pidfd_send_signal(&process, number) {
                    Ok(()) | Err(Errno::SRCH) => {}
                    Err(e) => return Err(e.into()),
                }
            }
        }
        if let Some(status) = child.try_wait()? {
            return Ok((status, asked));
        }
    }
}
