//! How a command talks to the daemon that has a volume mounted: `VOLUME/razorfs.sock`.
//!
//! A message is a length (u32, little endian) and a JSON document of that length. The command
//! sends one request, `{"v":1,"request":NAME,...}`; the daemon answers with any number of
//! `{"v":1,"progress":{...}}` and one `{"v":1,"done":...}` or `{"v":1,"failed":TEXT,"code":N}`.
//! Both sides bound what they read. Only the owner of the daemon and root are served, but for
//! programs that use the volume, which is for everybody who may connect.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use razorfs::{Asker, ReceiveOptions, When};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde_json::{Value, json};

use crate::branches::Branches;
use crate::diff::Ends;
use crate::failure::{Failure, Result};
use crate::history::Asked;
use crate::holders;
use crate::shows::{Shows, path_from_json, path_to_json};
use crate::streams::What;

/// Version of the protocol.
pub const VERSION: u64 = 1;
/// Name of the socket in the volume.
pub const NAME: &str = "razorfs.sock";
/// A request is never longer.
const MAX_REQUEST: usize = 64 << 10;
/// An answer is never longer.
const MAX_ANSWER: usize = 16 << 20;
/// How long the daemon waits for the bytes of a request.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is to be done with a scrub.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scrub {
    /// Begins, at most so many bytes a second.
    Start(u64),
    /// Tells how far it is.
    Status,
    /// Stops for a while.
    Pause,
    /// Goes on.
    Resume(Option<u64>),
}

impl Scrub {
    fn to_json(self) -> Value {
        let (word, rate) = match self {
            Self::Start(rate) => ("start", Some(rate)),
            Self::Status => ("status", None),
            Self::Pause => ("pause", None),
            Self::Resume(rate) => ("resume", rate),
        };
        json!({"v": VERSION, "request": "scrub", "do": word, "rate": rate})
    }

    fn from_json(value: &Value) -> std::result::Result<Self, String> {
        let rate = value.get("rate").and_then(Value::as_u64);
        match value.get("do").and_then(Value::as_str).unwrap_or_default() {
            "start" => Ok(Self::Start(rate.unwrap_or(0))),
            "status" => Ok(Self::Status),
            "pause" => Ok(Self::Pause),
            "resume" => Ok(Self::Resume(rate)),
            _ => Err("a scrub can start, tell its status, pause and resume".into()),
        }
    }
}

/// What is to be done with snapshots, those of a branch or of what is there now. The command has
/// brought what the kernel held to the daemon before it asks to take one or to go back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Points {
    /// Tells which there are.
    List,
    /// Takes one, under a name that is made of the time if none is given.
    Create(Option<String>),
    /// Deletes one.
    Delete(String),
    /// Goes back to one.
    Rollback(String),
    /// Takes one of what was at a moment, under such a name.
    Past(Option<String>, When),
}

impl Points {
    fn to_json(&self, of: Option<&str>) -> Value {
        let (word, name) = match self {
            Self::List => ("list", None),
            Self::Create(name) => ("create", name.as_deref()),
            Self::Delete(name) => ("delete", Some(name.as_str())),
            Self::Rollback(name) => ("rollback", Some(name.as_str())),
            Self::Past(name, _) => ("past", name.as_deref()),
        };
        let (lsn, time) = match self.when() {
            Some(When::Lsn(lsn)) => (Some(lsn), None),
            Some(When::Time(time)) => (None, Some(time)),
            _ => (None, None),
        };
        json!({
            "v": VERSION, "request": "snapshots", "do": word, "name": name, "of": of,
            "lsn": lsn, "time": time,
        })
    }

    /// The moment that it is about.
    fn when(&self) -> Option<When> {
        match self {
            Self::Past(_, when) => Some(*when),
            Self::List | Self::Create(_) | Self::Delete(_) | Self::Rollback(_) => None,
        }
    }

    /// Whether it is about what is there now, of the volume or of a branch.
    pub fn needs_present(&self) -> bool {
        !matches!(self, Self::List | Self::Delete(_))
    }

    fn from_json(value: &Value) -> std::result::Result<Self, String> {
        let name = value.get("name").and_then(Value::as_str).map(str::to_owned);
        let word = value.get("do").and_then(Value::as_str);
        let number = |key: &str| value.get(key).and_then(Value::as_u64);
        let when = match (number("lsn"), number("time")) {
            (Some(lsn), None) => Some(When::Lsn(lsn)),
            (None, Some(time)) => Some(When::Time(time)),
            _ => None,
        };
        if let (Some("past"), Some(when)) = (word, when) {
            return Ok(Self::Past(name, when));
        }
        match (word.unwrap_or_default(), name) {
            ("list", _) => Ok(Self::List),
            ("create", name) => Ok(Self::Create(name)),
            ("delete", Some(name)) => Ok(Self::Delete(name)),
            ("rollback", Some(name)) => Ok(Self::Rollback(name)),
            _ => {
                Err("snapshots can be listed, created, and by name deleted and gone back to".into())
            }
        }
    }
}

/// One more mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// The mount point.
    pub dir: PathBuf,
    /// What is to be shown there.
    pub shows: Shows,
    /// The options, each a word of `-o`.
    pub words: Vec<String>,
}

impl Wanted {
    /// For other processes.
    pub fn to_json(&self) -> Value {
        json!({
            "dir": path_to_json(&self.dir),
            "shows": self.shows.to_json(),
            "words": self.words,
        })
    }

    /// What they meant.
    pub fn from_json(value: &Value) -> Option<Self> {
        let words = value.get("words")?.as_array()?.iter();
        let words: Option<_> = words.map(|w| w.as_str().map(str::to_owned)).collect();
        Some(Self {
            dir: path_from_json(value.get("dir")?)?,
            shows: Shows::from_json(value.get("shows")?)?,
            words: words?,
        })
    }
}

/// What a command asks the daemon to do. Where it is about one of the mounts, that is the one on
/// the directory; without one it is the one of what is there now, or the oldest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// What `razorfs info` shows.
    Info(Option<PathBuf>),
    /// Mounts once more. The answer comes when the directory is usable.
    Mount(Wanted),
    /// Everything done so far becomes durable.
    Sync,
    /// What `razorfs stats` shows.
    Stats(Option<PathBuf>),
    /// Checks the volume at a level.
    Verify(u8),
    /// Has a scrub begin, pause and so on.
    Scrub(Scrub),
    /// Lists snapshots, takes one and so on.
    Snapshots(Points, Option<String>),
    /// Lists branches, makes one and so on.
    Branches(Branches),
    /// Tells what differs between two states.
    Diff(Ends),
    /// Sends a stream to the descriptor that follows ([`give`]).
    Send(What),
    /// Receives a stream from the descriptor that follows.
    Receive(ReceiveOptions),
    /// Tells where a stream that was broken off goes on, or forgets it.
    Part { forget: bool },
    /// Tells what was done.
    Log(Asked),
    /// Looks at what the flags of the mount have been changed to, and makes everything durable.
    Remounted(PathBuf),
    /// From here on a program uses the volume over this connection ([`razorfs_client`]).
    Library {
        /// The version of what they say.
        version: u64,
        /// What is shown.
        shows: Shows,
    },
    /// Unmounts this one, or all. With the last one the volume is closed and the daemon ends; the
    /// connection closes when the process is gone.
    Umount(Option<PathBuf>),
}

impl Request {
    fn to_json(&self) -> Value {
        let (name, dir) = match self {
            Self::Sync => ("sync", None),
            Self::Info(dir) => ("info", dir.as_ref()),
            Self::Stats(dir) => ("stats", dir.as_ref()),
            Self::Umount(dir) => ("umount", dir.as_ref()),
            Self::Remounted(dir) => ("remounted", Some(dir)),
            Self::Mount(wanted) => {
                return json!({"v": VERSION, "request": "mount", "mount": wanted.to_json()});
            }
            Self::Scrub(scrub) => return scrub.to_json(),
            Self::Snapshots(points, of) => return points.to_json(of.as_deref()),
            Self::Branches(what) => {
                return json!({"v": VERSION, "request": "branches", "what": what.to_json()});
            }
            Self::Diff(ends) => {
                return json!({"v": VERSION, "request": "diff", "ends": ends.to_json()});
            }
            Self::Send(what) => {
                return json!({"v": VERSION, "request": "send", "what": what.to_json()});
            }
            Self::Receive(options) => {
                return json!({"v": VERSION, "request": "receive", "force": options.force});
            }
            Self::Part { forget } => {
                return json!({"v": VERSION, "request": "part", "forget": forget});
            }
            Self::Log(asked) => {
                return json!({"v": VERSION, "request": "log", "asked": asked.to_json()});
            }
            Self::Library { version, shows } => {
                let of = shows.name();
                return json!({
                    "v": VERSION, "request": "library", "version": version, "of": of,
                });
            }
            Self::Verify(level) => {
                return json!({"v": VERSION, "request": "verify", "level": level});
            }
        };
        let dir = dir.map(|dir| path_to_json(dir));
        json!({"v": VERSION, "request": name, "dir": dir})
    }

    fn from_json(value: &Value) -> std::result::Result<Self, String> {
        let version = value.get("v").and_then(Value::as_u64);
        if version != Some(VERSION) {
            let theirs = version.map_or("none".into(), |v| v.to_string());
            return Err(format!(
                "the daemon speaks version {VERSION} of the protocol, the command {theirs}; \
                 unmount the volume and mount it with this razorfs"
            ));
        }
        let name = value.get("request").and_then(Value::as_str);
        let dir = match value.get("dir") {
            None | Some(Value::Null) => None,
            Some(dir) => Some(path_from_json(dir).ok_or("what is named is no path")?),
        };
        Ok(match name.unwrap_or_default() {
            "sync" => Self::Sync,
            "info" => Self::Info(dir),
            "stats" => Self::Stats(dir),
            "umount" => Self::Umount(dir),
            "remounted" => Self::Remounted(dir.ok_or("a mount point is missing")?),
            "mount" => {
                let wanted = value.get("mount").and_then(Wanted::from_json);
                Self::Mount(wanted.ok_or("what is to be mounted is not understood")?)
            }
            "scrub" => Self::Scrub(Scrub::from_json(value)?),
            "snapshots" => {
                let of = value.get("of").and_then(Value::as_str).map(str::to_owned);
                Self::Snapshots(Points::from_json(value)?, of)
            }
            "branches" => {
                let what = value.get("what").unwrap_or(&Value::Null);
                Self::Branches(Branches::from_json(what)?)
            }
            "diff" => Self::Diff(Ends::from_json(value.get("ends").unwrap_or(&Value::Null))?),
            "send" => Self::Send(What::from_json(value.get("what").unwrap_or(&Value::Null))?),
            "receive" => Self::Receive(ReceiveOptions {
                force: value.get("force").and_then(Value::as_bool).unwrap_or(false),
            }),
            "part" => Self::Part {
                forget: value
                    .get("forget")
                    .and_then(Value::as_bool)
                    .unwrap_or(false),
            },
            "log" => Self::Log(Asked::from_json(
                value.get("asked").unwrap_or(&Value::Null),
            )?),
            "library" => {
                let version = value.get("version").and_then(Value::as_u64);
                Self::Library {
                    version: version.ok_or("a program says which version it speaks")?,
                    shows: Shows::named(value.get("of").and_then(Value::as_str)),
                }
            }
            "verify" => {
                let level = value.get("level").and_then(Value::as_u64).unwrap_or(1);
                let level = u8::try_from(level).map_err(|_| "no such level".to_owned())?;
                Self::Verify(level)
            }
            _ => return Err("the daemon does not know this request; is it older?".into()),
        })
    }
}

/// Path to the socket that fits `sun_path` however long the volume's path is, together with the
/// open directory that it goes through.
fn short_path(volume: &Path) -> std::io::Result<(OwnedFd, PathBuf)> {
    let dir = home(volume)?;
    let path = format!("/proc/self/fd/{}/{NAME}", dir.as_raw_fd());
    Ok((dir, path.into()))
}

/// The directory of a volume, wherever it is moved.
pub fn home(volume: &Path) -> std::io::Result<OwnedFd> {
    // Not as a file: what is no directory, such as a pipe, might not answer.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(volume, flags, Mode::empty())?)
}

/// Connects to the daemon of a volume; `None` if there is none.
pub fn connect(volume: &Path) -> Option<UnixStream> {
    let (_dir, path) = short_path(volume).ok()?;
    UnixStream::connect(path).ok()
}

/// Starts to listen in a volume. The caller holds the volume's lock, so that a socket that is
/// there is the leftover of a daemon that died. Others than the owner may connect as `mode` says.
pub fn listen(volume: &Path, mode: Option<u32>) -> std::io::Result<UnixListener> {
    let (_dir, path) = short_path(volume)?;
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let before = rustix::process::umask(Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(&path);
    rustix::process::umask(before);
    let listener = listener?;
    if let Some(mode) = mode {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
    }
    Ok(listener)
}

/// Removes the socket of the volume in this directory.
pub fn remove(home: &OwnedFd) {
    // Nothing is lost if it stays: the next daemon removes it.
    let _ = rustix::fs::unlinkat(home, NAME, AtFlags::empty());
}

/// Asks, and waits for the answer; `progress` sees what comes before it.
pub fn ask(
    stream: &mut UnixStream,
    volume: &Path,
    request: Request,
    progress: &mut dyn FnMut(&Value),
) -> Result<Value> {
    ask_about(stream, volume, request, None, progress)
}

/// The same, of a request that is followed by the descriptor that it works on.
pub fn ask_about(
    stream: &mut UnixStream,
    volume: &Path,
    request: Request,
    descriptor: Option<BorrowedFd<'_>>,
    progress: &mut dyn FnMut(&Value),
) -> Result<Value> {
    let broken = |e: std::io::Error| {
        Failure::with(
            "talk to the daemon of",
            volume,
            crate::failure::plain(&e),
            "look at razorfs.log in the volume",
        )
    };
    exchange_about(stream, request, descriptor, progress).map_err(broken)?
}

/// The same; an error of the connection is told from an answer that says what failed.
pub fn exchange(
    stream: &mut UnixStream,
    request: Request,
    progress: &mut dyn FnMut(&Value),
) -> std::io::Result<Result<Value>> {
    exchange_about(stream, request, None, progress)
}

fn exchange_about(
    stream: &mut UnixStream,
    request: Request,
    descriptor: Option<BorrowedFd<'_>>,
    progress: &mut dyn FnMut(&Value),
) -> std::io::Result<Result<Value>> {
    send(stream, &request.to_json())?;
    if let Some(descriptor) = descriptor {
        give(stream, descriptor)?;
    }
    loop {
        let Some(answer) = receive(stream, MAX_ANSWER)? else {
            return Err(std::io::Error::other("it ended without an answer"));
        };
        if let Some(value) = answer.get("progress") {
            progress(value);
        } else if let Some(text) = answer.get("failed").and_then(Value::as_str) {
            let code = answer.get("code").and_then(Value::as_u64).unwrap_or(1);
            let code = u8::try_from(code).unwrap_or(1);
            return Ok(Err(Failure::new(text).code(code)));
        } else if let Some(value) = answer.get("done") {
            return Ok(Ok(value.clone()));
        } else {
            return Err(std::io::Error::other("its answer is of another version"));
        }
    }
}

/// Hands a descriptor over, with one byte.
fn give(stream: &UnixStream, descriptor: BorrowedFd<'_>) -> std::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    let byte = [IoSlice::new(b"d")];
    rustix::io::retry_on_intr(|| sendmsg(stream, &byte, &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// The descriptor that the command hands over.
pub fn take(stream: &UnixStream) -> Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = rustix::io::retry_on_intr(|| recvmsg(stream, &mut parts, &mut control, flags));
    received.map_err(|e| Failure::new(format!("no descriptor came: {e}")))?;
    let mut found = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    found
        .next()
        .ok_or_else(|| Failure::new("no descriptor came with the request"))
}

/// Waits until the processes of the other side are gone. The one that listened first may be so for
/// long.
pub fn wait_for_end(stream: &mut UnixStream, processes: &[u32]) {
    let mut rest = [0; 512];
    while let Ok(1..) = stream.read(&mut rest) {}
    // Its descriptors are closed a moment before it is gone.
    let Ok(peer) = rustix::net::sockopt::socket_peercred(&*stream) else {
        return;
    };
    let first = [peer.pid.as_raw_nonzero().get().unsigned_abs()];
    let processes = if processes.is_empty() {
        &first
    } else {
        processes
    };
    for _ in 0..1000 {
        if !processes.iter().any(|&pid| holders::is_running(pid)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Reads one request on the daemon's side, from who may command or not.
pub fn accept(stream: &mut UnixStream, is_owner: bool) -> Result<Request> {
    let timeout = |e: std::io::Error| Failure::new(format!("no request came: {e}"));
    stream.set_read_timeout(Some(PATIENCE)).map_err(timeout)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(timeout)?;
    let value = receive(stream, MAX_REQUEST).map_err(timeout)?;
    let value = value.ok_or_else(|| Failure::new("the connection closed"))?;
    let request = Request::from_json(&value).map_err(Failure::new)?;
    // Whether a program may use the volume is told by who may connect.
    if !is_owner && !matches!(request, Request::Library { .. }) {
        let message = "the daemon belongs to another user; ask them, or use root";
        return Err(Failure::new(message));
    }
    Ok(request)
}

/// Who is at the other end.
pub fn asker(stream: &UnixStream) -> std::io::Result<Asker> {
    let peer = rustix::net::sockopt::socket_peercred(stream)?;
    Ok(Asker {
        uid: peer.uid.as_raw(),
        gid: peer.gid.as_raw(),
        pid: peer.pid.as_raw_nonzero().get().unsigned_abs(),
    })
}

/// Whether somebody may command the daemon: its owner and root do.
pub fn is_owner(asker: &Asker) -> bool {
    asker.uid == 0 || asker.uid == rustix::process::geteuid().as_raw()
}

/// Sends a step of progress from the daemon.
pub fn progress(stream: &mut UnixStream, value: &Value) -> std::io::Result<()> {
    send(stream, &json!({"v": VERSION, "progress": value}))
}

/// Sends the last answer from the daemon.
pub fn answer(stream: &mut UnixStream, outcome: &Result<Value>) -> std::io::Result<()> {
    let message = match outcome {
        Ok(value) => json!({"v": VERSION, "done": value}),
        Err(failure) => {
            json!({"v": VERSION, "failed": failure.message, "code": failure.code})
        }
    };
    send(stream, &message)
}

fn send(stream: &mut impl Write, value: &Value) -> std::io::Result<()> {
    let body = value.to_string().into_bytes();
    let len = u32::try_from(body.len()).map_err(std::io::Error::other)?;
    let mut message = len.to_le_bytes().to_vec();
    message.extend(body);
    stream.write_all(&message)
}

/// The next message; `None` at the end of the stream.
fn receive(stream: &mut impl Read, max: usize) -> std::io::Result<Option<Value>> {
    let mut header = [0; 4];
    match stream.read_exact(&mut header) {
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let len = u32::from_le_bytes(header);
    if usize::try_from(len).is_ok_and(|len| len > max) {
        return Err(std::io::Error::other("the message is too long"));
    }
    // Grows with what really arrives: a length alone reserves nothing.
    let mut body = Vec::new();
    stream.take(u64::from(len)).read_to_end(&mut body)?;
    if body.len() != usize::try_from(len).unwrap_or(usize::MAX) {
        return Err(std::io::Error::other("the message is cut off"));
    }
    let value = serde_json::from_slice(&body).map_err(std::io::Error::other)?;
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_survive_the_wire() {
        for request in [
            Request::Info(None),
            Request::Info(Some("/d".into())),
            Request::Sync,
            Request::Stats(None),
            Request::Mount(Wanted {
                dir: "/d\\".into(),
                shows: Shows::Snapshot("\"".repeat(255)),
                words: vec!["ro".into(), "transport=dev".into()],
            }),
            Request::Verify(3),
            Request::Scrub(Scrub::Start(7)),
            Request::Scrub(Scrub::Status),
            Request::Scrub(Scrub::Pause),
            Request::Scrub(Scrub::Resume(None)),
            Request::Diff(Ends {
                from: Some("monday".into()),
                to: None,
            }),
            Request::Log(Asked::default()),
            Request::Log(Asked {
                from: u64::MAX,
                path: Some("a \" b".into()),
                branch: Some("b".into()),
            }),
            Request::Snapshots(Points::List, Some("b".into())),
            Request::Snapshots(Points::Create(None), None),
            Request::Snapshots(Points::Create(Some("vor dem Umbau".into())), None),
            Request::Branches(Branches::List),
            // Each byte may take two.
            Request::Snapshots(Points::Delete("\"".repeat(255)), Some("\"".repeat(255))),
            Request::Snapshots(Points::Rollback("ä\\".into()), None),
            Request::Umount(None),
            Request::Umount(Some("/d".into())),
            Request::Remounted("/d".into()),
            Request::Send(What::Snapshot {
                name: "b".into(),
                from: Some("a".into()),
            }),
            Request::Send(What::Rest("rzt1-00".into())),
            Request::Receive(ReceiveOptions { force: true }),
            Request::Part { forget: false },
            Request::Library {
                version: 1,
                shows: Shows::Head,
            },
            Request::Library {
                version: u64::MAX,
                shows: Shows::Named("\"".repeat(255)),
            },
        ] {
            let mut wire = Vec::new();
            send(&mut wire, &request.to_json()).unwrap();
            let value = receive(&mut wire.as_slice(), MAX_REQUEST).unwrap().unwrap();
            assert_eq!(Request::from_json(&value), Ok(request));
        }
    }

    #[test]
    fn hostile_messages_are_errors() {
        let too_long = u32::MAX.to_le_bytes();
        assert!(receive(&mut too_long.as_slice(), MAX_REQUEST).is_err());
        let cut = [10, 0, 0, 0, b'{'];
        assert!(receive(&mut cut.as_slice(), MAX_REQUEST).is_err());
        let deep = "[".repeat(4000);
        let mut wire = 4000u32.to_le_bytes().to_vec();
        wire.extend(deep.bytes());
        assert!(receive(&mut wire.as_slice(), MAX_REQUEST).is_err());
        assert!(receive(&mut [].as_slice(), 1).unwrap().is_none());
        for odd in [
            json!(null),
            json!([]),
            json!({"v": 2, "request": "info"}),
            json!({"v": 1, "request": "format my disk"}),
            json!({"v": 1, "request": "verify", "level": 999}),
            json!({"v": 1, "request": "umount", "dir": 7}),
            json!({"v": 1, "request": "remounted"}),
            json!({"v": 1, "request": "mount", "mount": {"dir": "/d", "words": []}}),
            json!({"v": 1, "request": "scrub", "do": "dance"}),
            json!({"v": 1, "request": "snapshots", "do": "frame", "name": "a"}),
            json!({"v": 1, "request": "snapshots", "do": "delete"}),
            json!({"v": 1, "request": "send", "what": {"name": 7}}),
            json!({"v": 1, "request": "snapshots", "do": "rollback", "name": 7}),
            json!({"v": "1", "request": 7}),
        ] {
            assert!(Request::from_json(&odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn a_volume_with_a_long_path_has_a_socket() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v".repeat(200));
        std::fs::create_dir(&volume).unwrap();
        let listener = listen(&volume, None).unwrap();
        let mut client = connect(&volume).unwrap();
        let (mut served, _) = listener.accept().unwrap();
        let server = std::thread::spawn(move || {
            assert_eq!(accept(&mut served, true).unwrap(), Request::Sync);
            progress(&mut served, &json!(1)).unwrap();
            answer(&mut served, &Err(Failure::new("no").code(4))).unwrap();
        });
        let mut steps = 0;
        let outcome = ask(&mut client, &volume, Request::Sync, &mut |_| steps += 1);
        assert_eq!(outcome, Err(Failure::new("no").code(4)));
        assert_eq!(steps, 1);
        server.join().unwrap();
        // A second daemon takes the name over.
        drop(listener);
        assert!(connect(&volume).is_none());
        listen(&volume, None).unwrap();
    }
}
