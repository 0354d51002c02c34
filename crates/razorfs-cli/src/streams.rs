//! Streams of snapshots, as commands and the daemon send and receive them.

use std::fs::File;
use std::io::{Error as IoError, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use razorfs::{Error, Incoming, ReceiveOptions, Received, SendOptions, Volume};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::FileType;
use rustix::io::Errno;
use serde_json::{Value, json};

use crate::failure::{Failure, Result};
use crate::points::{self, word};
use crate::socket;

/// A pipe that can be written to takes so many bytes at once.
const PIPE: usize = 4096;

/// What is to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// A snapshot, or what differs from an older one.
    Snapshot { name: String, from: Option<String> },
    /// The rest of what a token tells.
    Rest(String),
}

impl What {
    /// As a request says it.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Snapshot { name, from } => json!({"name": name, "from": from}),
            Self::Rest(token) => json!({"token": token}),
        }
    }

    /// From a request.
    pub fn from_json(value: &Value) -> std::result::Result<Self, String> {
        let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        match (text("name"), text("token")) {
            (Some(name), None) => Ok(Self::Snapshot {
                name,
                from: text("from"),
            }),
            (None, Some(token)) => Ok(Self::Rest(token)),
            _ => Err("a snapshot is sent by name, or the rest of one by a token".into()),
        }
    }
}

/// Writes a stream; `each` is told how many bytes it has so far.
pub fn send(
    volume: &Volume,
    path: &Path,
    what: &What,
    out: &mut dyn Write,
    each: &mut dyn FnMut(u64) -> razorfs::Result<()>,
) -> Result<Value> {
    let failed = |e: Error| Failure::engine("send a snapshot of", path, &e);
    let options = match what {
        What::Snapshot { name, from } => {
            for name in std::iter::once(name).chain(from) {
                // Here for what is said where there is none.
                drop(points::view(volume, path, name)?);
            }
            let (name, from) = (name.clone(), from.clone());
            SendOptions::Snapshot { name, from }
        }
        What::Rest(token) => SendOptions::Rest(token.parse().map_err(failed)?),
    };
    let sent = volume.send(&options, out, &mut |sent| each(sent.bytes));
    let sent = sent.map_err(failed)?;
    Ok(json!({"bytes": sent.bytes, "batches": sent.batches}))
}

/// Reads a stream into a volume; `each` is told how many bytes have come.
pub fn receive<R: Read>(
    volume: &Volume,
    path: &Path,
    incoming: Incoming<R>,
    options: ReceiveOptions,
    each: &mut dyn FnMut(u64) -> razorfs::Result<()>,
) -> Result<Received> {
    volume.receive(incoming, options, each).map_err(|e| {
        let cause = e.to_string();
        match volume.resume_token() {
            Ok(Some(_)) => {
                let remedy = format!(
                    "nothing has changed, and what has come is kept: `razorfs receive \
                     --resume-token {}` makes a token for `razorfs send --resume`",
                    word(path)
                );
                Failure::with("receive into", path, cause, remedy)
            }
            _ => Failure::at("receive into", path, cause),
        }
    })
}

/// What a stream begins with.
pub fn incoming<R: Read>(path: &Path, input: R) -> Result<Incoming<R>> {
    Incoming::new(input).map_err(|e| Failure::engine("receive into", path, &e))
}

/// What is said of what was received.
pub fn document(received: &Received) -> Value {
    json!({
        "schema": 1,
        "snapshot": received.snapshot.name,
        "safety": received.safety.as_ref().map(|s| &s.name),
        "bytes": received.bytes,
        "inodes": received.inodes,
        "data": received.data,
    })
}

/// Where a stream that was broken off goes on, if there is one; or lets go of it.
pub fn part(volume: &Volume, path: &Path, forget: bool) -> Result<Value> {
    let failed = |e: Error| Failure::engine("look for a part of a stream in", path, &e);
    if forget {
        let forgot = volume.forget_received().map_err(failed)?;
        return Ok(json!({"forgot": forgot}));
    }
    let token = volume.resume_token().map_err(failed)?;
    Ok(json!({"token": token.map(|token| token.to_string())}))
}

/// Sends to a command's descriptor.
pub fn send_for(
    volume: &Volume,
    path: &Path,
    what: &What,
    out: OwnedFd,
    client: &mut UnixStream,
) -> Result<Value> {
    let mut out = Watched::new(out, client)?;
    send(volume, path, what, &mut out, &mut |bytes| {
        told(client, bytes)
    })
}

/// Receives from a command's descriptor.
pub fn receive_for(
    volume: &Volume,
    path: &Path,
    options: ReceiveOptions,
    input: OwnedFd,
    client: &mut UnixStream,
) -> Result<Received> {
    let incoming = incoming(path, Watched::new(input, client)?)?;
    receive(volume, path, incoming, options, &mut |bytes| {
        told(client, bytes)
    })
}

fn told(client: &mut UnixStream, bytes: u64) -> razorfs::Result<()> {
    let told = socket::progress(client, &json!(bytes));
    told.map_err(|_| Error::Stream(GONE.into()))
}

const GONE: &str = "the command has gone away";

/// The end of a command's pipe, as long as the command is there: whoever interrupts it does not end
/// what is at the other end.
struct Watched {
    file: File,
    is_pipe: bool,
    client: UnixStream,
}

impl Watched {
    fn new(fd: OwnedFd, client: &UnixStream) -> Result<Self> {
        let failed = |e: IoError| Failure::new(format!("cannot use the stream: {e}"));
        let kind = rustix::fs::fstat(&fd)
            .map_err(|e| failed(e.into()))?
            .st_mode;
        Ok(Self {
            file: fd.into(),
            is_pipe: FileType::from_raw_mode(kind) == FileType::Fifo,
            client: client.try_clone().map_err(failed)?,
        })
    }

    /// Waits until it can be read or written.
    fn wait(&self, what: PollFlags) -> std::io::Result<()> {
        loop {
            // The command sends nothing more, so that there is something to read is its end.
            let mut fds = [
                PollFd::new(&self.file, what),
                PollFd::new(&self.client, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Err(Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
                Ok(_) => {}
            }
            let [file, client] = fds;
            if !client.revents().is_empty() {
                return Err(IoError::other(GONE));
            }
            if !file.revents().is_empty() {
                return Ok(());
            }
        }
    }
}

impl Read for Watched {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.wait(PollFlags::IN)?;
        self.file.read(buf)
    }
}

impl Write for Watched {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.wait(PollFlags::OUT)?;
        let most = if self.is_pipe { PIPE } else { buf.len() };
        self.file.write(buf.get(..most).unwrap_or(buf))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}
