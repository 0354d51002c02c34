//! What a daemon and its keeper tell each other: messages over a pair of sockets, which carry
//! descriptors.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use razorfs_fuse::protocol::Agreed;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde_json::{Value, json};

/// No message is longer.
const MOST: usize = 4 << 10;
/// Names of the descriptors, and the most that a message carries.
const NAMES: [&str; 4] = ["fuse", "redo", "lock", "listener"];

/// What another daemon needs to go on with a mount.
#[derive(Debug, Default)]
pub struct Estate {
    /// The connection to the kernel.
    pub fuse: Option<OwnedFd>,
    /// The memory for redo; a mount that is not written to has none.
    pub redo: Option<OwnedFd>,
    /// What holds the lock of the volume.
    pub lock: Option<OwnedFd>,
    /// Where commands come in, if they can.
    pub listener: Option<OwnedFd>,
    /// Minor version and flags of the protocol, as agreed on with the kernel.
    pub agreed: (u32, u64),
}

/// What is told.
#[derive(Debug)]
pub enum Message {
    /// To a daemon: mount.
    Start,
    /// To a daemon: go on with what another one has left, who was the so-manieth that died.
    Resume { estate: Estate, deaths: u64 },
    /// To the keeper: the mount can be used, and this is what another daemon needs.
    Ready(Estate),
    /// To the keeper: a mount that cannot be gone on with. It is not needed.
    Leave,
    /// To the keeper: the daemon ends as it should, with this exit code; with the reason, where it
    /// should have gone on and did not.
    Ending { code: u8, refused: Option<String> },
}

impl Estate {
    fn descriptors(&self) -> impl Iterator<Item = (&'static str, BorrowedFd<'_>)> {
        let all = [&self.fuse, &self.redo, &self.lock, &self.listener];
        let named = NAMES.into_iter().zip(all);
        named.filter_map(|(name, fd)| Some((name, fd.as_ref()?.as_fd())))
    }

    /// What was agreed on with the kernel.
    pub const fn agreed(&self) -> Agreed {
        let (minor, flags) = self.agreed;
        Agreed { minor, flags }
    }

    /// A copy for the next one.
    pub fn try_clone(&self) -> std::io::Result<Self> {
        let copy = |fd: &Option<OwnedFd>| fd.as_ref().map(OwnedFd::try_clone).transpose();
        Ok(Self {
            fuse: copy(&self.fuse)?,
            redo: copy(&self.redo)?,
            lock: copy(&self.lock)?,
            listener: copy(&self.listener)?,
            agreed: self.agreed,
        })
    }

    fn document(&self) -> Value {
        let names: Vec<&str> = self.descriptors().map(|(name, _)| name).collect();
        json!({"descriptors": names, "minor": self.agreed.0, "flags": self.agreed.1})
    }

    fn read(document: &Value, descriptors: Vec<OwnedFd>) -> Option<Self> {
        let names = document.get("descriptors")?.as_array()?;
        if names.len() != descriptors.len() {
            return None;
        }
        let minor = u32::try_from(document.get("minor")?.as_u64()?).ok()?;
        let mut estate = Self {
            agreed: (minor, document.get("flags")?.as_u64()?),
            ..Self::default()
        };
        for (name, fd) in names.iter().zip(descriptors) {
            let place = match name.as_str()? {
                "fuse" => &mut estate.fuse,
                "redo" => &mut estate.redo,
                "lock" => &mut estate.lock,
                "listener" => &mut estate.listener,
                _ => return None,
            };
            *place = Some(fd);
        }
        Some(estate)
    }
}

impl Message {
    fn document(&self) -> Value {
        match self {
            Self::Start => json!({"say": "start"}),
            Self::Leave => json!({"say": "leave"}),
            Self::Resume { estate, deaths } => {
                json!({"say": "resume", "estate": estate.document(), "deaths": deaths})
            }
            Self::Ready(estate) => json!({"say": "ready", "estate": estate.document()}),
            Self::Ending { code, refused } => {
                json!({"say": "ending", "code": code, "refused": refused})
            }
        }
    }

    fn estate(&self) -> Option<&Estate> {
        match self {
            Self::Resume { estate, .. } | Self::Ready(estate) => Some(estate),
            _ => None,
        }
    }

    fn read(document: &Value, descriptors: Vec<OwnedFd>) -> Option<Self> {
        let number = |name| document.get(name).and_then(Value::as_u64);
        let estate = document.get("estate");
        Some(match document.get("say")?.as_str()? {
            "start" => Self::Start,
            "leave" => Self::Leave,
            "resume" => Self::Resume {
                estate: Estate::read(estate?, descriptors)?,
                deaths: number("deaths")?,
            },
            "ready" => Self::Ready(Estate::read(estate?, descriptors)?),
            "ending" => Self::Ending {
                code: u8::try_from(number("code")?).ok()?,
                refused: document.get("refused")?.as_str().map(str::to_owned),
            },
            _ => return None,
        })
    }
}

/// Sends a message.
pub fn send(socket: BorrowedFd<'_>, message: &Message) -> std::io::Result<()> {
    let mut text = message.document().to_string().into_bytes();
    text.truncate(MOST);
    let descriptors: Vec<BorrowedFd<'_>> = match message.estate() {
        Some(estate) => estate.descriptors().map(|(_, fd)| fd).collect(),
        None => Vec::new(),
    };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(NAMES.len()))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    let parts = [IoSlice::new(&text)];
    rustix::io::retry_on_intr(|| sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Waits for a message; none when the other side is gone.
pub fn receive(socket: BorrowedFd<'_>) -> std::io::Result<Option<Message>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(NAMES.len()))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut text = vec![0; MOST];
    let mut parts = [IoSliceMut::new(&mut text)];
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
    });
    let bytes = match received {
        Ok(received) => received.bytes,
        Err(rustix::io::Errno::CONNRESET) => 0,
        Err(e) => return Err(e.into()),
    };
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            descriptors.extend(fds);
        }
    }
    if bytes == 0 {
        return Ok(None);
    }
    let document = serde_json::from_slice(text.get(..bytes).unwrap_or_default());
    let document: Value = document.map_err(std::io::Error::other)?;
    let message = Message::read(&document, descriptors);
    let odd = || std::io::Error::other("a message that is not understood");
    message.map(Some).ok_or_else(odd)
}

/// Two ends for messages.
pub fn pair() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let (family, kind) = (
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
    );
    let flags = rustix::net::SocketFlags::CLOEXEC;
    Ok(rustix::net::socketpair(family, kind, flags, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_with_their_descriptors() {
        let (here, there) = pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        file.set_len(77).unwrap();
        let estate = Estate {
            redo: Some(file.into()),
            agreed: (45, 1 << 39 | 1),
            ..Estate::default()
        };
        let deaths = 3;
        send(here.as_fd(), &Message::Resume { estate, deaths }).unwrap();
        send(here.as_fd(), &Message::Leave).unwrap();
        let refused = Some("damaged".to_owned());
        send(here.as_fd(), &Message::Ending { code: 4, refused }).unwrap();
        drop(here);
        let Some(Message::Resume { estate, deaths }) = receive(there.as_fd()).unwrap() else {
            panic!("another message");
        };
        assert_eq!((deaths, estate.agreed), (3, (45, 1 << 39 | 1)));
        assert!(estate.fuse.is_none() && estate.listener.is_none());
        let file = std::fs::File::from(estate.redo.unwrap());
        assert_eq!(file.metadata().unwrap().len(), 77);
        assert!(matches!(receive(there.as_fd()), Ok(Some(Message::Leave))));
        match receive(there.as_fd()).unwrap() {
            Some(Message::Ending { code: 4, refused }) => {
                assert_eq!(refused.as_deref(), Some("damaged"));
            }
            other => panic!("{other:?}"),
        }
        assert!(receive(there.as_fd()).unwrap().is_none());
    }

    #[test]
    fn odd_messages_are_refused() {
        let (here, there) = pair().unwrap();
        for odd in [
            &b"{}"[..],
            b"{\"say\": \"dance\"}",
            b"{\"say\": \"ready\"}",
            b"{\"say\":\"ready\",\"estate\":{\"descriptors\":[\"fuse\"],\"minor\":1,\"flags\":1}}",
            b"\xff",
        ] {
            rustix::net::send(&here, odd, SendFlags::empty()).unwrap();
            assert!(receive(there.as_fd()).is_err(), "{odd:?}");
        }
    }
}
