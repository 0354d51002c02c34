//! The process that stays when a daemon dies, and starts the next one.
//!
//! It has what mounts are made of, in copies of the daemon's descriptors: the connections to the
//! kernel, where requests wait meanwhile; the volume's lock, which nobody else can get in between;
//! the socket for commands; the memory with all that was acknowledged and is in no journal yet. It
//! opens no volume, has one thread and does nothing but wait.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::daemon::{self, Job};
use crate::failure::{COULD_NOT_RUN, Failure, Result, plain};
use crate::handover::{self, Estate, Held, Message};
use crate::log::Log;
use crate::{signals, socket};

/// So many deaths within [`PERIOD`], and the mount is given up.
const DEATHS: usize = 5;
/// The environment may say another number, for tests that kill more often.
const DEATHS_VARIABLE: &str = "RAZORFS_DEATHS";
/// Nanoseconds.
const PERIOD: u64 = 60_000_000_000;

/// A daemon that runs.
struct Daemon {
    child: Child,
    /// Becomes readable when it has ended.
    ended: OwnedFd,
    socket: OwnedFd,
    /// What it said of its end.
    ending: Option<(u8, Option<String>)>,
    /// Whether it serves the mounts.
    is_ready: bool,
    /// Whether it was asked to end.
    is_asked: bool,
}

impl Daemon {
    fn ask_to_end(&mut self) {
        self.is_asked = true;
        // It may have ended meanwhile.
        let _ = kill_process(pid_of(&self.child), Signal::TERM);
    }
}

/// What the next daemon needs.
#[derive(Default)]
struct Kept {
    /// None as long as nothing is mounted.
    estate: Option<Estate>,
    mounts: BTreeMap<u64, Held>,
    /// The kernel may have to be told of a rollback.
    rolls_back: bool,
}

impl Kept {
    /// What it is told.
    fn messages(&self, estate: &Estate, deaths: u64) -> std::io::Result<Vec<Message>> {
        let mut messages = vec![Message::Resume {
            estate: estate.try_clone()?,
            deaths,
            mounts: self.mounts.len(),
            rolls_back: self.rolls_back,
        }];
        for held in self.mounts.values() {
            messages.push(Message::Mount(held.try_clone()?));
        }
        Ok(messages)
    }
}

/// How a daemon ended.
enum End {
    /// As it should.
    Done(u8),
    /// It should have gone on and could not, for this reason.
    Refused(String),
    /// Not as it should.
    Died(ExitStatus),
    /// It does not need a keeper, and goes on.
    Alone,
}

/// The keeper's life: starts the daemon with this command line, and another one whenever it dies.
pub fn run(job: &Job, line: &[OsString]) -> Result<u8> {
    daemon::leave_the_terminal();
    let mut deaths = Deaths::new()?;
    let signals = signals::as_descriptor()?;
    let mut daemon = start(line, Stdio::inherit(), &[Message::Start])?;
    // What the daemon says until the directory is usable goes to whoever started us, from it.
    daemon::let_go_of_output();
    let home = socket::home(&job.volume);
    let (mut all, mut asked) = (Kept::default(), false);
    loop {
        let killed = daemon.child.id();
        let (reason, waits) = match serve(&mut daemon, &signals, &mut all, &mut asked) {
            End::Done(code) => return Ok(code),
            End::Alone => return Ok(0),
            End::Refused(why) => (format!("cannot go on: {why}"), true),
            // It never came to be mounted; whoever waits for it sees how it ended.
            End::Died(status) if all.estate.is_none() => {
                return Ok(status.code().map_or(1, |code| code as u8));
            }
            End::Died(status) => (what_happened(status), false),
        };
        let Some(kept) = &all.estate else {
            return Ok(COULD_NOT_RUN);
        };
        if deaths.are_too_many(crate::env().monotonic()) {
            let text = format!(
                "the daemon (process {killed}) {reason}: death {} within a minute; the mount is \
                 given up, `razorfs umount` it and mount it again",
                deaths.latest.len()
            );
            return Ok(give_up(job, kept, home.as_ref().ok(), &text));
        }
        if waits {
            // It may pass: the host may be out of memory, of descriptors, of space.
            let text = format!("the daemon (process {killed}) {reason}; another one will try");
            log(job, kept, &text);
            pause(&signals, deaths.latest.len(), &mut asked);
        }
        let next = all.messages(kept, deaths.count).and_then(|messages| {
            let started = start(line, Stdio::null(), &messages);
            started.map_err(|e| std::io::Error::other(e.message))
        });
        daemon = match next {
            Ok(daemon) => {
                let next = daemon.child.id();
                let text =
                    format!("the daemon (process {killed}) {reason}; process {next} goes on");
                log(job, kept, &text);
                daemon
            }
            Err(e) => {
                let text = format!(
                    "the daemon (process {killed}) {reason}, and another one cannot be started \
                     ({e}); the mount is given up"
                );
                return Ok(give_up(job, kept, home.as_ref().ok(), &text));
            }
        };
    }
}

/// Waits, the longer the more often it was in vain. A signal is for the next daemon.
fn pause(signals: &OwnedFd, failures: usize, asked: &mut bool) {
    let patience = Timespec {
        tv_sec: 1 << failures.clamp(1, 4) >> 1,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(signals, PollFlags::IN)];
    // An error means that the wait is over.
    let _ = poll(&mut fds, Some(&patience));
    *asked |= signals::take_one(signals);
}

/// The deaths so far.
struct Deaths {
    count: u64,
    latest: Vec<u64>,
    most: usize,
}

impl Deaths {
    fn new() -> Result<Self> {
        let most = match std::env::var(DEATHS_VARIABLE) {
            Err(std::env::VarError::NotPresent) => DEATHS,
            told => told.ok().and_then(|n| n.parse().ok()).ok_or_else(|| {
                Failure::new(format!(
                    "{DEATHS_VARIABLE} is not a number; set one or unset it"
                ))
            })?,
        };
        Ok(Self {
            count: 0,
            latest: Vec::new(),
            most,
        })
    }

    /// One more; whether it was one too many.
    fn are_too_many(&mut self, now: u64) -> bool {
        self.count += 1;
        self.latest.retain(|&at| now.saturating_sub(at) < PERIOD);
        self.latest.push(now);
        self.latest.len() >= self.most
    }
}

fn start(line: &[OsString], stdout: Stdio, messages: &[Message]) -> Result<Daemon> {
    let failed = |e: std::io::Error| {
        let message = format!("cannot start the daemon: {}", plain(&e));
        Failure::new(message).code(COULD_NOT_RUN)
    };
    let (ours, theirs) = handover::pair().map_err(failed)?;
    let child = Command::new("/proc/self/exe")
        .arg0("razorfs")
        .args(line)
        .stdin(theirs)
        .stdout(stdout)
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let ended = pidfd_open(pid_of(&child), PidfdFlags::empty()).map_err(|e| failed(e.into()))?;
    let mut messages = messages.iter();
    match messages.try_for_each(|message| handover::send(ours.as_fd(), message)) {
        // It has died already, which is seen in a moment, and is a death like any other.
        Err(e) if handover::is_gone(&e) => {}
        sent => sent.map_err(failed)?,
    }
    Ok(Daemon {
        child,
        ended,
        socket: ours,
        ending: None,
        is_ready: false,
        is_asked: false,
    })
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// Waits for the daemon's end, and hands signals on to it meanwhile. One that was asked to end and
/// died leaves that to the next.
fn serve(daemon: &mut Daemon, signals: &OwnedFd, kept: &mut Kept, asked: &mut bool) -> End {
    let mut talks = true;
    loop {
        let (signal, message, ended) = {
            let mut fds = vec![
                PollFd::new(signals, PollFlags::IN),
                PollFd::new(&daemon.ended, PollFlags::IN),
            ];
            if talks {
                fds.push(PollFd::new(&daemon.socket, PollFlags::IN));
            }
            let _ = rustix::io::retry_on_intr(|| poll(&mut fds, None));
            let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
            let mut next = || ready.next().unwrap_or(false);
            let (signal, ended) = (next(), next());
            (signal, next(), ended)
        };
        if signal && signals::take_one(signals) {
            *asked = true;
            // One that is to go on would take it for its death before it has begun to listen.
            if daemon.is_ready || kept.estate.is_none() {
                daemon.ask_to_end();
            }
        }
        // What it said last comes before its end.
        if message {
            match handover::receive(daemon.socket.as_fd()) {
                Ok(Some(Message::Mount(held))) => {
                    kept.mounts.insert(held.id, held);
                }
                Ok(Some(Message::Gone(id))) => {
                    kept.mounts.remove(&id);
                }
                Ok(Some(Message::RollsBack(yes))) => kept.rolls_back = yes,
                Ok(Some(Message::Ready(estate))) => {
                    kept.estate = Some(estate);
                    daemon.is_ready = true;
                    if *asked && !daemon.is_asked {
                        daemon.ask_to_end();
                    }
                }
                Ok(Some(Message::Leave)) => return End::Alone,
                Ok(Some(Message::Ending { code, refused })) => {
                    daemon.ending = Some((code, refused));
                }
                Ok(Some(Message::Start | Message::Resume { .. })) => {}
                Ok(None) | Err(_) => talks = false,
            }
            continue;
        }
        if ended {
            return end_of(daemon);
        }
    }
}

fn end_of(daemon: &mut Daemon) -> End {
    let status = daemon.child.wait();
    match (daemon.ending.take(), status) {
        (Some((_, Some(why))), _) => End::Refused(why),
        (Some((code, None)), _) => End::Done(code),
        (None, Ok(status)) => End::Died(status),
        // Not ours to wait for: somebody else has taken its status.
        (None, Err(_)) => End::Died(ExitStatus::from_raw(0)),
    }
}

fn what_happened(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("was killed by signal {signal}"),
        (None, Some(code)) => format!("ended with code {code} and did not say why"),
        (None, None) => "is gone".into(),
    }
}

/// Where the volume is by now.
pub fn home_of(lock: Option<&OwnedFd>, volume: &Path) -> std::path::PathBuf {
    use std::os::fd::AsRawFd;
    let link =
        lock.and_then(|fd| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok());
    let home = link.as_deref().and_then(Path::parent);
    match home {
        Some(home) if home.join("LOCK").exists() => home.to_owned(),
        _ => volume.to_owned(),
    }
}

/// Writes a line to the log of the volume.
fn log(job: &Job, estate: &Estate, text: &str) {
    let home = home_of(estate.lock.as_ref(), &job.volume);
    // Opened for the line: the daemon may begin another file at any time.
    if let Ok(log) = Log::to_volume(&home, job.first.options.log, crate::env()) {
        tracing::subscriber::with_default(log, || tracing::error!("keeper: {text}"));
    }
}

/// Whoever uses the mount gets errors as soon as this process is gone.
fn give_up(job: &Job, estate: &Estate, home: Option<&OwnedFd>, text: &str) -> u8 {
    log(job, estate, text);
    if let Some(home) = home {
        socket::remove(home);
    }
    COULD_NOT_RUN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_dies_before_it_is_told_anything_has_died() {
        // The program of the tests does not know these words, and ends at once.
        for _ in 0..20 {
            let line = ["--no-such-option".into()];
            let daemon = start(&line, Stdio::null(), &[Message::Start]);
            let mut daemon = daemon.map_err(|e| e.message).unwrap();
            assert!(matches!(end_of(&mut daemon), End::Died(_)));
        }
        let (ours, theirs) = handover::pair().unwrap();
        drop(theirs);
        let e = handover::send(ours.as_fd(), &Message::Start).unwrap_err();
        assert!(handover::is_gone(&e), "{e}");
    }

    #[test]
    fn the_fifth_death_within_a_minute_is_one_too_many() {
        let second = 1_000_000_000;
        let mut deaths = Deaths::new().unwrap();
        for at in [0, 10, 20, 30] {
            assert!(!deaths.are_too_many(at * second));
        }
        // The first one was too long ago.
        assert!(!deaths.are_too_many(60 * second));
        assert!(deaths.are_too_many(61 * second));
        assert_eq!(deaths.count, 6);
    }
}
