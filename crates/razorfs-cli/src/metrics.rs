//! The counters of a mounted volume over HTTP, for Prometheus: `mount -o metrics=WHERE`.
//!
//! One thread answers one client after the other, each for a few seconds at most, however it deals
//! out what it sends and takes. What a client sends is read up to a bound; nothing but
//! `GET /metrics` gets an answer, and nothing can be changed here.

use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::Mode;

use crate::failure::{Failure, Result, shown};

/// How long a client may take to ask and to take the answer, all in all.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest request.
const MAX_REQUEST: usize = 8 << 10;

/// Where the counters are served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Endpoint {
    /// A socket in the file system, for the owner of the daemon and root.
    Path(PathBuf),
    /// A port, for everybody who reaches it.
    Port(SocketAddr),
}

impl Endpoint {
    /// What a path from the root, or `ADDRESS:PORT`, stands for.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        if text.starts_with('/') {
            return Ok(Self::Path(text.into()));
        }
        let port = text.parse().map(Self::Port);
        port.map_err(|_| {
            format!(
                "{text:?} is neither a path from the root, as of a socket, nor an address with a \
                 port, such as 127.0.0.1:9631"
            )
        })
    }

    /// Begins to listen.
    pub fn listen(&self) -> Result<Listener> {
        let listening = match self {
            Self::Port(address) => TcpListener::bind(address).map(Socket::Port),
            Self::Path(path) => {
                // What a daemon that has died has left. Where one still listens it stays.
                if is_left(path) {
                    std::fs::remove_file(path).map_err(|e| Failure::host("listen at", path, &e))?;
                }
                // Nobody can connect before the permissions are right.
                let before = rustix::process::umask(Mode::from_raw_mode(0o177));
                let listener = UnixListener::bind(path);
                rustix::process::umask(before);
                listener.map(Socket::Path)
            }
        };
        let socket = listening.map_err(|e| {
            let remedy = "choose another place for `-o metrics=`";
            let cause = crate::failure::plain(&e);
            Failure::new(format!("cannot serve metrics at {self}: {cause}; {remedy}"))
        })?;
        Ok(Listener(socket))
    }
}

/// Whether a socket is there and nobody listens at it. A file that is no socket takes nobody in
/// either, and is none of ours.
fn is_left(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    let refused = |e: std::io::Error| e.kind() == std::io::ErrorKind::ConnectionRefused;
    is_socket && UnixStream::connect(path).is_err_and(refused)
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => f.write_str(&shown(path)),
            Self::Port(address) => address.fmt(f),
        }
    }
}

enum Socket {
    Path(UnixListener),
    Port(TcpListener),
}

/// Clients can connect.
pub struct Listener(Socket);

impl Listener {
    /// Answers clients with what `text` makes, until the process ends.
    pub fn serve(&self, text: impl Fn() -> Result<String>) {
        loop {
            let served = match &self.0 {
                Socket::Path(listener) => {
                    listener.accept().map(|(stream, _)| client(stream, &text))
                }
                Socket::Port(listener) => {
                    listener.accept().map(|(stream, _)| client(stream, &text))
                }
            };
            match served {
                Ok(Ok(())) => {}
                // A client that goes away, or says nothing, is none of our concern.
                Ok(Err(e)) => tracing::debug!("a client of the metrics: {e}"),
                Err(e) => {
                    // Out of descriptors, perhaps: not a reason to spin.
                    tracing::debug!("no client of the metrics can come: {e}");
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }
}

/// Forgets the socket that a daemon which ends has listened at.
pub fn remove(endpoint: Option<&Endpoint>) {
    if let Some(Endpoint::Path(path)) = endpoint {
        // Nothing is lost if it stays: the next daemon removes it.
        let _ = std::fs::remove_file(path);
    }
}

/// The connection of a client.
trait Connection: Read + Write {
    /// How long the next call to read or write may take.
    fn wait(&self, time: Duration) -> std::io::Result<()>;
}

impl Connection for UnixStream {
    fn wait(&self, time: Duration) -> std::io::Result<()> {
        self.set_read_timeout(Some(time))?;
        self.set_write_timeout(Some(time))
    }
}

impl Connection for TcpStream {
    fn wait(&self, time: Duration) -> std::io::Result<()> {
        self.set_read_timeout(Some(time))?;
        self.set_write_timeout(Some(time))
    }
}

/// A connection up to a moment.
struct Until<C> {
    connection: C,
    /// By the clock that only goes on, in nanoseconds.
    end: u64,
}

impl<C: Connection> Until<C> {
    /// What is left of the time.
    fn wait(&self) -> std::io::Result<()> {
        let left = Duration::from_nanos(self.end.saturating_sub(crate::env().monotonic()));
        if left.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        self.connection.wait(left)
    }
}

impl<C: Connection> Read for Until<C> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.wait()?;
        self.connection.read(buf)
    }
}

impl<C: Connection> Write for Until<C> {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.wait()?;
        self.connection.write(buf)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.connection.flush()
    }
}

/// Answers a client, as long as there is patience for it.
fn client(connection: impl Connection, text: impl Fn() -> Result<String>) -> std::io::Result<()> {
    let patience = u64::try_from(PATIENCE.as_nanos()).unwrap_or(u64::MAX);
    let end = crate::env().monotonic().saturating_add(patience);
    let mut connection = Until { connection, end };
    let request = ask(&mut connection)?;
    match request {
        Some(request) => answer(&request, &mut connection, text),
        None => Ok(()),
    }
}

/// Reads a request; `None` if the client goes away.
fn ask(mut from: impl Read) -> std::io::Result<Option<Vec<u8>>> {
    let mut request = Vec::new();
    let mut part = [0; 1024];
    while !ends(&request) && request.len() < MAX_REQUEST {
        match from.read(&mut part)? {
            0 => return Ok(None),
            n => request.extend(part.iter().take(n)),
        }
    }
    Ok(Some(request))
}

/// Answers a request.
fn answer(
    request: &[u8],
    mut to: impl Write,
    text: impl Fn() -> Result<String>,
) -> std::io::Result<()> {
    let (status, body) = respond(request, text);
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    to.write_all(head.as_bytes())?;
    to.write_all(body.as_bytes())?;
    to.flush()
}

/// Whether the head of a request is complete.
fn ends(request: &[u8]) -> bool {
    request.windows(4).any(|end| end == b"\r\n\r\n") || request.windows(2).any(|end| end == b"\n\n")
}

fn respond(request: &[u8], text: impl Fn() -> Result<String>) -> (&'static str, String) {
    let first = request.split(|&byte| byte == b'\n').next();
    let first = String::from_utf8_lossy(first.unwrap_or_default());
    let mut words = first.split_whitespace();
    match (words.next(), words.next(), ends(request)) {
        (_, _, false) => ("431 Request Header Fields Too Large", "too long\n".into()),
        (Some("GET"), Some("/metrics"), true) => match text() {
            Ok(text) => ("200 OK", text),
            Err(failure) => ("503 Service Unavailable", format!("{failure}\n")),
        },
        (Some("GET"), Some(_), true) => ("404 Not Found", "look at /metrics\n".into()),
        _ => ("405 Method Not Allowed", "only GET\n".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_paths_or_addresses_with_a_port() {
        let port = Endpoint::parse("127.0.0.1:9631").unwrap();
        assert_eq!(port.to_string(), "127.0.0.1:9631");
        assert_eq!(Endpoint::parse("/a/b"), Ok(Endpoint::Path("/a/b".into())));
        for bad in ["", "a/b", "9631", "localhost:9631", "127.0.0.1"] {
            assert!(Endpoint::parse(bad).unwrap_err().contains("127.0.0.1:9631"));
        }
    }

    #[test]
    fn only_the_metrics_are_served() {
        let respond = |request: &[u8]| respond(request, || Ok("counters".into()));
        let get = respond(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(get, ("200 OK", "counters".into()));
        assert_eq!(respond(b"GET /metrics\n\n").0, "200 OK");
        for (request, status) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], "404 Not Found"),
            (b"POST /metrics HTTP/1.1\r\n\r\n", "405 Method Not Allowed"),
            (b"\xff\0\r\n\r\n", "405 Method Not Allowed"),
            (b"\r\n\r\n", "405 Method Not Allowed"),
            (&[b'a'; MAX_REQUEST], "431 Request Header Fields Too Large"),
        ] {
            assert_eq!(respond(request).0, status);
        }
        let ended = super::respond(b"GET /metrics\n\n", || Err(Failure::new("gone")));
        assert_eq!(ended, ("503 Service Unavailable", "gone\n".into()));
    }

    #[test]
    fn a_request_may_come_in_parts_and_never_grows_beyond_its_bound() {
        let parts = (&b"GET /met"[..]).chain(&b"rics HTTP/1.0\r\n\r\n"[..]);
        let request = ask(parts).unwrap().unwrap();
        let mut said = Vec::new();
        answer(&request, &mut said, || Ok("7\n".into())).unwrap();
        let said = String::from_utf8(said).unwrap();
        assert!(said.starts_with("HTTP/1.1 200 OK\r\n") && said.ends_with("\r\n\r\n7\n"));
        assert!(said.contains("Content-Length: 2\r\n"));
        let request = ask(std::io::repeat(b'x')).unwrap().unwrap();
        let mut said = Vec::new();
        answer(&request, &mut said, || Ok(String::new())).unwrap();
        assert!(said.starts_with(b"HTTP/1.1 431"));
        let gone = ask(&b"GET /metrics"[..]).unwrap();
        assert_eq!(gone, None, "it went away");
    }

    #[test]
    fn a_client_that_sends_a_byte_now_and_then_is_waited_for_no_longer_than_any() {
        let (server, mut slow) = UnixStream::pair().unwrap();
        let (told, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || told.send(client(server, || Ok(String::new())).is_err()));
        // Until nobody reads any more.
        let mut sent = 0;
        while slow.write_all(b"x").is_ok() {
            sent += 1;
            assert!(sent < 60, "it is still read");
            std::thread::sleep(PATIENCE / 4);
        }
        assert!(ended.recv().unwrap(), "it had no answer");
    }

    #[test]
    fn a_socket_that_was_left_is_taken_over_and_nothing_else_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let endpoint = Endpoint::Path(dir.path().join("m.sock"));
        let first = endpoint.listen().unwrap();
        let refused = endpoint.listen().err().unwrap();
        assert!(
            refused.message.contains("choose another place"),
            "{refused}"
        );
        drop(first);
        endpoint.listen().unwrap();
        remove(Some(&endpoint));
        assert!(!dir.path().join("m.sock").exists());
        // What is no socket is not removed.
        let file = dir.path().join("file");
        std::fs::write(&file, "precious").unwrap();
        assert!(Endpoint::Path(file.clone()).listen().is_err());
        assert_eq!(std::fs::read(file).unwrap(), b"precious");
    }
}
