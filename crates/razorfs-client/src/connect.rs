//! Finding the daemon of a volume, and greeting it.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};

use crate::wire;

/// Name of the socket in a volume.
const SOCKET: &str = "razorfs.sock";
/// The version of what daemons say to commands.
const HELLO: u64 = 1;

/// What came of greeting a daemon.
pub(crate) enum Hello {
    Done(UnixStream),
    /// There is none, or it is about to end.
    Nobody,
}

/// Splits `VOLUME@NAME`. It is one if nothing is there of that whole name, and what precedes the
/// last `@` is a directory.
pub(crate) fn split(text: &Path) -> (&Path, Option<&str>) {
    let bytes = text.as_os_str().as_bytes();
    let parts = || {
        let at = bytes.iter().rposition(|b| *b == b'@')?;
        let (path, name) = (bytes.get(..at)?, bytes.get(at + 1..)?);
        let name = std::str::from_utf8(name).ok().filter(|n| !n.is_empty())?;
        Some((Path::new(OsStr::from_bytes(path)), name))
    };
    match parts() {
        Some((path, name)) if path.is_dir() && text.symlink_metadata().is_err() => {
            (path, Some(name))
        }
        _ => (text, None),
    }
}

/// The directory of a volume. Whoever may pass it may connect, also where he may not list it.
pub(crate) fn home(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
    options.read(true).custom_flags(flags).open(path)
}

/// Connects, and says what is to be shown.
pub(crate) fn greet(home: &File, name: Option<&str>) -> io::Result<Hello> {
    // By the directory, as the path of a socket has a hundred bytes at most.
    let socket = format!("/proc/self/fd/{}/{SOCKET}", home.as_raw_fd());
    let stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            return Ok(Hello::Nobody);
        }
        Err(e) => return Err(e),
    };
    let hello = json!({
        "v": HELLO, "request": "library", "version": wire::VERSION, "of": name,
    });
    let answer = match exchange(&stream, hello.to_string().as_bytes()) {
        Ok(answer) => answer,
        Err(e) if e.kind() == ErrorKind::ConnectionAborted => return Ok(Hello::Nobody),
        Err(e) => return Err(e),
    };
    let answer: Value = serde_json::from_slice(&answer)?;
    if let Some(failed) = answer.get("failed").and_then(Value::as_str) {
        return Err(io::Error::other(failed.to_owned()));
    }
    if answer.get("done").is_none() {
        return Err(io::Error::other("the daemon is of another version"));
    }
    Ok(Hello::Done(stream))
}

/// What is said where nobody serves a volume.
pub(crate) fn nobody() -> io::Error {
    let text = "no daemon serves the volume";
    io::Error::new(ErrorKind::NotConnected, text)
}

/// Sends a message, and waits for the answer.
pub(crate) fn exchange(mut stream: &UnixStream, message: &[u8]) -> io::Result<Vec<u8>> {
    let sent = wire::send(&mut stream, message);
    let gone = || {
        let text = "the daemon has ended, or the volume is unmounted; open it again";
        io::Error::new(ErrorKind::ConnectionAborted, text)
    };
    match sent.and_then(|()| wire::receive(&mut stream)) {
        Ok(answer) => answer.ok_or_else(gone),
        Err(e) => match e.kind() {
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => {
                Err(gone())
            }
            _ => Err(e),
        },
    }
}
