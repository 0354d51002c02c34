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

/// No message is longer: a path has 4 KiB, of which each byte may take four.
const MOST: usize = 64 << 10;
/// Names of the descriptors, and the most that a message carries.
const NAMES: [&str; 3] = ["redo", "lock", "listener"];

/// What another daemon needs to go on with a volume, besides its mounts.
#[derive(Debug, Default)]
pub struct Estate {
    /// The memory for redo; a volume that is not written to has none.
    pub redo: Option<OwnedFd>,
    /// What holds the lock of the volume.
    pub lock: Option<OwnedFd>,
    /// Where commands come in, if they can.
    pub listener: Option<OwnedFd>,
}

/// The connection of a mount to the kernel, and what was agreed on over it.
#[derive(Debug)]
pub struct Connection {
    /// The descriptor.
    pub fuse: OwnedFd,
    /// Minor version and flags of the protocol.
    pub agreed: Agreed,
}

/// A mount, as the keeper has it.
#[derive(Debug)]
pub struct Held {
    /// Its number, which no other has had.
    pub id: u64,
    /// What is mounted where and how, which only daemons look at.
    pub what: Value,
    /// None until it can be used: if the daemon dies before, nobody can go on with it.
    pub connection: Option<Connection>,
}

/// What is told.
#[derive(Debug)]
pub enum Message {
    /// To a daemon: mount.
    Start,
    /// To a daemon: go on with what another one has left, who was the so-manieth that died, perhaps
    /// in the middle of a rollback. So many mounts follow.
    Resume {
        estate: Estate,
        deaths: u64,
        mounts: usize,
        rolls_back: bool,
    },
    /// To the keeper: what another daemon needs, and all mounts that it was told of are served.
    Ready(Estate),
    /// Either way: a mount there is, or is about to be.
    Mount(Held),
    /// To the keeper: this mount is gone.
    Gone(u64),
    /// To the keeper: a rollback begins, or the kernel has been told of all that it has changed.
    RollsBack(bool),
    /// To the keeper: mounts that cannot be gone on with. It is not needed.
    Leave,
    /// To the keeper: the daemon ends as it should, with this exit code; with the reason, where it
    /// should have gone on and did not.
    Ending { code: u8, refused: Option<String> },
}

impl Estate {
    fn descriptors(&self) -> impl Iterator<Item = (&'static str, BorrowedFd<'_>)> {
        let all = [&self.redo, &self.lock, &self.listener];
        let named = NAMES.into_iter().zip(all);
        named.filter_map(|(name, fd)| Some((name, fd.as_ref()?.as_fd())))
    }

    /// A copy for the next one.
    pub fn try_clone(&self) -> std::io::Result<Self> {
        let copy = |fd: &Option<OwnedFd>| fd.as_ref().map(OwnedFd::try_clone).transpose();
        Ok(Self {
            redo: copy(&self.redo)?,
            lock: copy(&self.lock)?,
            listener: copy(&self.listener)?,
        })
    }

    fn document(&self) -> Value {
        let names: Vec<&str> = self.descriptors().map(|(name, _)| name).collect();
        json!({"descriptors": names})
    }

    fn read(document: &Value, descriptors: Vec<OwnedFd>) -> Option<Self> {
        let names = document.get("descriptors")?.as_array()?;
        if names.len() != descriptors.len() {
            return None;
        }
        let mut estate = Self::default();
        for (name, fd) in names.iter().zip(descriptors) {
            let place = match name.as_str()? {
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

impl Held {
    /// A copy for the next one.
    pub fn try_clone(&self) -> std::io::Result<Self> {
        let copy = |held: &Connection| {
            Ok::<_, std::io::Error>(Connection {
                fuse: held.fuse.try_clone()?,
                agreed: held.agreed,
            })
        };
        Ok(Self {
            id: self.id,
            what: self.what.clone(),
            connection: self.connection.as_ref().map(copy).transpose()?,
        })
    }

    fn document(&self) -> Value {
        let agreed = self.connection.as_ref();
        let agreed = agreed.map(|c| json!([c.agreed.minor, c.agreed.flags]));
        json!({"say": "mount", "id": self.id, "what": self.what, "agreed": agreed})
    }

    fn read(document: &Value, descriptors: Vec<OwnedFd>) -> Option<Self> {
        let agreed = document.get("agreed")?;
        let number = |n: usize| agreed.get(n).and_then(Value::as_u64);
        let connection = match (agreed, descriptors.into_iter().next()) {
            (Value::Null, None) => None,
            (_, Some(fuse)) => Some(Connection {
                fuse,
                agreed: Agreed {
                    minor: u32::try_from(number(0)?).ok()?,
                    flags: number(1)?,
                },
            }),
            _ => return None,
        };
        Some(Self {
            id: document.get("id")?.as_u64()?,
            what: document.get("what")?.clone(),
            connection,
        })
    }
}

impl Message {
    fn document(&self) -> Value {
        match self {
            Self::Start => json!({"say": "start"}),
            Self::Leave => json!({"say": "leave"}),
            Self::Resume {
                estate,
                deaths,
                mounts,
                rolls_back,
            } => json!({
                "say": "resume",
                "estate": estate.document(),
                "deaths": deaths,
                "mounts": mounts,
                "rolls_back": rolls_back,
            }),
            Self::Ready(estate) => json!({"say": "ready", "estate": estate.document()}),
            Self::Mount(held) => held.document(),
            Self::Gone(id) => json!({"say": "gone", "id": id}),
            Self::RollsBack(yes) => json!({"say": "rolls back", "yes": yes}),
            Self::Ending { code, refused } => {
                json!({"say": "ending", "code": code, "refused": refused})
            }
        }
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::Resume { estate, .. } | Self::Ready(estate) => {
                estate.descriptors().map(|(_, fd)| fd).collect()
            }
            Self::Mount(held) => {
                let connection = held.connection.iter();
                connection.map(|c| c.fuse.as_fd()).collect()
            }
            Self::Start
            | Self::Leave
            | Self::Gone(_)
            | Self::RollsBack(_)
            | Self::Ending { .. } => Vec::new(),
        }
    }

    fn read(document: &Value, descriptors: Vec<OwnedFd>) -> Option<Self> {
        let number = |name| document.get(name).and_then(Value::as_u64);
        let is = |name| document.get(name).and_then(Value::as_bool);
        let estate = document.get("estate");
        Some(match document.get("say")?.as_str()? {
            "start" => Self::Start,
            "leave" => Self::Leave,
            "resume" => Self::Resume {
                estate: Estate::read(estate?, descriptors)?,
                deaths: number("deaths")?,
                mounts: usize::try_from(number("mounts")?).ok()?,
                rolls_back: is("rolls_back")?,
            },
            "ready" => Self::Ready(Estate::read(estate?, descriptors)?),
            "mount" => Self::Mount(Held::read(document, descriptors)?),
            "gone" => Self::Gone(number("id")?),
            "rolls back" => Self::RollsBack(is("yes")?),
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
    let descriptors = message.descriptors();
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

/// Whether nobody can get a message because the other process has ended.
pub fn is_gone(e: &std::io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET))
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

    fn file(len: u64) -> OwnedFd {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        file.into()
    }

    fn len(fd: OwnedFd) -> u64 {
        std::fs::File::from(fd).metadata().unwrap().len()
    }

    #[test]
    fn messages_arrive_with_their_descriptors() {
        let (here, there) = pair().unwrap();
        let estate = Estate {
            redo: Some(file(77)),
            ..Estate::default()
        };
        let (deaths, mounts) = (3, 2);
        let resume = Message::Resume {
            estate,
            deaths,
            mounts,
            rolls_back: true,
        };
        send(here.as_fd(), &resume).unwrap();
        let agreed = Agreed {
            minor: 45,
            flags: 1 << 39 | 1,
        };
        for connection in [None, Some(file(78))] {
            let connection = connection.map(|fuse| Connection { fuse, agreed });
            // As long as they come.
            let what = json!({"dir": vec![255; 4095], "words": ["ro"]});
            let held = Held {
                id: 7,
                what,
                connection,
            };
            send(here.as_fd(), &Message::Mount(held.try_clone().unwrap())).unwrap();
        }
        send(here.as_fd(), &Message::Gone(9)).unwrap();
        send(here.as_fd(), &Message::RollsBack(false)).unwrap();
        send(here.as_fd(), &Message::Leave).unwrap();
        let refused = Some("damaged".to_owned());
        send(here.as_fd(), &Message::Ending { code: 4, refused }).unwrap();
        drop(here);
        let next = || receive(there.as_fd()).unwrap();
        let Some(Message::Resume {
            estate,
            deaths: 3,
            mounts: 2,
            rolls_back: true,
        }) = next()
        else {
            panic!("another message");
        };
        assert!(estate.lock.is_none() && estate.listener.is_none());
        assert_eq!(len(estate.redo.unwrap()), 77);
        for connected in [false, true] {
            let Some(Message::Mount(held)) = next() else {
                panic!("another message");
            };
            assert_eq!((held.id, &held.what["words"][0]), (7, &json!("ro")));
            let found = held.connection.map(|c| (c.agreed, len(c.fuse)));
            assert_eq!(found, connected.then_some((agreed, 78)));
        }
        assert!(matches!(next(), Some(Message::Gone(9))));
        assert!(matches!(next(), Some(Message::RollsBack(false))));
        assert!(matches!(next(), Some(Message::Leave)));
        match next() {
            Some(Message::Ending { code: 4, refused }) => {
                assert_eq!(refused.as_deref(), Some("damaged"));
            }
            other => panic!("{other:?}"),
        }
        assert!(next().is_none());
    }

    #[test]
    fn odd_messages_are_refused() {
        let (here, there) = pair().unwrap();
        for odd in [
            &b"{}"[..],
            b"{\"say\": \"dance\"}",
            b"{\"say\": \"ready\"}",
            b"{\"say\":\"ready\",\"estate\":{\"descriptors\":[\"redo\"]}}",
            b"{\"say\":\"mount\",\"id\":1,\"what\":{},\"agreed\":[45,1]}",
            b"\xff",
        ] {
            rustix::net::send(&here, odd, SendFlags::empty()).unwrap();
            assert!(receive(there.as_fd()).is_err(), "{odd:?}");
        }
    }
}
