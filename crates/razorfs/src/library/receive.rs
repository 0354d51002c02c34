//! Receiving snapshots of other volumes.

use std::io::{ErrorKind, Read};
use std::sync::Arc;

use razorfs_format::manifest::SnapshotMeta;
use razorfs_format::stream::{
    End, FRAME_PRELUDE, FrameKind, Header, PRELUDE, frame_rest, take_frame, what_is_wrong,
};
use razorfs_format::{Branch, FormatError};

use super::{Snapshot, Token};
use crate::namespace::Receiving;
use crate::{Error, Result, Volume};

/// What the names begin with that are given to what was before a stream was received, where the
/// volume was another than the stream goes on from.
pub const BEFORE_RECEIVE: &str = "before-receive-";

/// A stream that is coming in, of which the header has been read.
pub struct Incoming<R> {
    header: Header,
    input: R,
    bytes: u64,
}

/// How a stream is received.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReceiveOptions {
    /// Where the volume is not as the snapshot that the stream goes on from, it goes back to that
    /// first; what it was is kept as a snapshot, as with [`Volume::rollback`].
    pub force: bool,
}

/// What was received.
#[derive(Clone)]
#[non_exhaustive]
pub struct Received {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// The one of what the volume was before it went back, if it did.
    pub safety: Option<Snapshot>,
    /// Bytes of the stream.
    pub bytes: u64,
    /// Files, directories and the like that are new or have other attributes.
    pub inodes: u64,
    /// Bytes of their data that came.
    pub data: u64,
    /// What the volume showed before: for [`Volume::stale_since`].
    pub before: Volume,
}

/// A frame: what it is, and its payload.
type Frame<'b> = (FrameKind, &'b [u8]);

/// How much has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Came {
    inodes: u64,
    data: u64,
}

fn refuse<T>(why: impl Into<String>) -> Result<T> {
    Err(Error::Stream(why.into().into()))
}

/// Reads as many bytes as there are to be, or says that the stream ended before.
fn fill(input: &mut impl Read, bytes: &mut [u8]) -> Result<()> {
    input.read_exact(bytes).map_err(|e| match e.kind() {
        ErrorKind::UnexpectedEof => Error::Stream("the stream breaks off".into()),
        _ => Error::Stream(format!("the stream cannot be read: {e}").into()),
    })
}

/// The bytes after a prelude. No more memory is taken than bytes come.
fn append(input: &mut impl Read, len: usize, bytes: &mut Vec<u8>) -> Result<()> {
    let had = bytes.len();
    let read = input.take(len as u64).read_to_end(bytes);
    read.map_err(|e| Error::Stream(format!("the stream cannot be read: {e}").into()))?;
    match bytes.len() - had == len {
        true => Ok(()),
        false => refuse("the stream breaks off"),
    }
}

fn damaged(e: &FormatError) -> Error {
    Error::Stream(format!("the stream is damaged: {}", what_is_wrong(e)).into())
}

impl<R: Read> Incoming<R> {
    /// Reads the header: whether it is a stream at all, and what it brings.
    pub fn new(mut input: R) -> Result<Self> {
        let mut prelude = [0; PRELUDE];
        fill(&mut input, &mut prelude)?;
        let rest = Header::rest_len(&prelude);
        let rest = rest.map_err(|e| Error::Stream(what_is_wrong(&e).into()))?;
        let mut bytes = prelude.to_vec();
        append(&mut input, rest, &mut bytes)?;
        let header = Header::decode(&bytes).map_err(|e| damaged(&e))?;
        let bytes = bytes.len() as u64;
        Ok(Self {
            header,
            input,
            bytes,
        })
    }

    /// The name of the snapshot that it brings.
    pub fn name(&self) -> String {
        String::from_utf8_lossy(&self.header.snapshot.name).into_owned()
    }

    /// The name, at the sender, of the snapshot that it goes on from; none if it has everything.
    pub fn base(&self) -> Option<String> {
        let base = self.header.base.as_ref()?;
        Some(String::from_utf8_lossy(&base.name).into_owned())
    }

    /// Whether it is the rest of one that was broken off.
    pub const fn is_rest(&self) -> bool {
        self.header.goes_on.is_some()
    }

    /// The next frame, which has this number.
    fn frame<'b>(&mut self, number: u64, buf: &'b mut Vec<u8>) -> Result<Frame<'b>> {
        buf.clear();
        buf.resize(FRAME_PRELUDE, 0);
        fill(&mut self.input, buf)?;
        let rest = match buf.first_chunk() {
            Some(prelude) => frame_rest(prelude).map_err(|e| damaged(&e))?,
            None => return refuse("the stream breaks off"),
        };
        append(&mut self.input, rest, buf)?;
        self.bytes += buf.len() as u64;
        take_frame(self.header.seed(), number, buf).map_err(|e| damaged(&e))
    }

    /// Nothing may follow the end.
    fn check_end(&mut self) -> Result<()> {
        match self.input.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => refuse("the stream has more bytes than it should"),
            Err(e) => refuse(format!("the stream cannot be read: {e}")),
        }
    }
}

/// All batches from the first on, to the end.
fn take_all<R: Read>(
    stream: &mut Incoming<R>,
    receiving: &mut Receiving,
    first: Frame<'_>,
    each: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Came> {
    let mut came = Came::default();
    let mut end = take(receiving, first, &mut came)?;
    let mut buf = Vec::new();
    while !end {
        each(stream.bytes)?;
        let frame = stream.frame(receiving.sequence(), &mut buf)?;
        end = take(receiving, frame, &mut came)?;
    }
    stream.check_end()?;
    Ok(came)
}

/// A frame; answers whether it is the last.
fn take(receiving: &mut Receiving, (kind, payload): Frame<'_>, came: &mut Came) -> Result<bool> {
    if kind == FrameKind::Batch {
        let (inodes, data) = receiving.apply(payload)?;
        came.inodes += inodes;
        came.data += data;
        return Ok(false);
    }
    let end = End::decode(payload).map_err(|e| damaged(&e))?;
    match end.link == receiving.link() && end.frames == receiving.sequence() {
        true => Ok(true),
        false => refuse("the stream is damaged: its parts do not belong together"),
    }
}

/// Receiving.
impl Volume {
    /// Makes what a stream brings the state of the volume, all or nothing, and a snapshot of it
    /// that has the name and the time of the one that was sent. It is on the disk when this
    /// returns. Where the stream has what differs from a snapshot the volume must have that, and be
    /// as it, but for times of access; where it has everything the volume must be empty.
    ///
    /// Until it has all come everybody else is shown the volume as it was, and cannot change it
    /// ([`Error::ReadOnly`]). If the stream breaks off, or is refused, or the process dies, nothing
    /// has happened; but what has come in whole batches is kept, and [`Volume::resume_token`] tells
    /// the sender where to go on. It takes memory for one batch. `each` is told how many bytes have
    /// come, after every batch, and ends it by an error.
    pub fn receive<R: Read>(
        &self,
        mut stream: Incoming<R>,
        options: ReceiveOptions,
        each: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<Received> {
        let (safety, base) = self.prepare(&stream.header, options)?;
        let base = base.as_deref();
        // The volume is not held before there is something.
        let mut buf = Vec::new();
        let number = stream.header.goes_on.map_or(0, |goes_on| goes_on.sequence);
        let first = stream.frame(number, &mut buf)?;
        let header = stream.header.clone();
        let mut receiving = Receiving::begin(&self.inner, header, base, safety.clone())?;
        let before = Self {
            inner: Arc::new(receiving.before()?),
        };
        match take_all(&mut stream, &mut receiving, first, each) {
            Ok(came) => {
                let taken = receiving.finish()?;
                let mut all = self.snapshots().into_iter();
                let safety = all.find(|s| safety.as_ref() == Some(&s.name));
                Ok(Received {
                    snapshot: Snapshot::of(&taken),
                    safety,
                    bytes: stream.bytes,
                    inodes: came.inodes,
                    data: came.data,
                    before,
                })
            }
            Err(e) => {
                if let Err(failed) = receiving.break_off() {
                    tracing::error!(error = %failed, "what has come of a stream is not put away");
                }
                Err(e)
            }
        }
    }

    /// Finds what the stream goes on from, and how what is now will be called if that is another
    /// state.
    fn prepare(
        &self,
        header: &Header,
        options: ReceiveOptions,
    ) -> Result<(Option<String>, Option<Arc<SnapshotMeta>>)> {
        self.inner.store.check_writable()?;
        if self.inner.store.branch() != Branch::HEAD {
            return refuse("a stream is received by the volume itself, not by one of its branches");
        }
        let name = String::from_utf8_lossy(&header.snapshot.name);
        if self
            .inner
            .find_identity(&header.snapshot.identity)?
            .is_some()
        {
            return refuse(format!("the volume has the snapshot {name:?} already"));
        }
        if self.snapshots().iter().any(|s| s.name == name) {
            return refuse(format!(
                "the volume has another snapshot that is called {name:?}; delete it with `razorfs \
                 snapshot delete`, or send one of another name"
            ));
        }
        if self.branches().iter().any(|branch| branch.name == name) {
            return refuse(format!(
                "the volume has a branch that is called {name:?}; delete it with `razorfs branch \
                 delete`, or send a snapshot of another name"
            ));
        }
        let Some(named) = &header.base else {
            return match self.inner.is_at(None)? {
                true => Ok((None, None)),
                false => refuse(
                    "the stream has a whole volume, and this one is not empty; receive it into a \
                     new one, or send what differs from a snapshot that this one has with `razorfs \
                     send --from`",
                ),
            };
        };
        let base_name = String::from_utf8_lossy(&named.name);
        let Some(base) = self.inner.find_identity(&named.identity)? else {
            return refuse(format!(
                "the stream has what differs from the snapshot {base_name:?}, which this volume \
                 has not received; send that first, or all with `razorfs send` without --from"
            ));
        };
        if self.inner.is_at(Some(&base))? {
            return Ok((None, Some(base)));
        }
        let here = Snapshot::of(&base).name;
        if !options.force {
            return refuse(format!(
                "the volume was changed since the snapshot {here:?}, which the stream goes on \
                 from; go back to it with `razorfs receive --force`, which keeps what is now as a \
                 snapshot"
            ));
        }
        Ok((Some(self.safety_name(BEFORE_RECEIVE)), Some(base)))
    }

    /// What tells the sender where to go on with a stream that was broken off, if there is one.
    pub fn resume_token(&self) -> Result<Option<Token>> {
        Ok(self.inner.received_part()?.map(Token::of))
    }

    /// Lets go of what has come of a stream that was broken off; answers whether there was any.
    /// So does the next stream that is received from its beginning.
    pub fn forget_received(&self) -> Result<bool> {
        self.inner.forget_part()
    }
}
