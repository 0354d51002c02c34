//! Sending snapshots to other volumes.

use std::fmt;
use std::io::Write;
use std::str::FromStr;
use std::sync::Arc;

use razorfs_format::crc::crc32c;
use razorfs_format::layout::FileName;
use razorfs_format::manifest::SnapshotMeta;
use razorfs_format::stream::{
    CURSOR_MAX, End, FrameKind, GoesOn, Header, Identity, Link, Named, put_frame,
};
use razorfs_format::wire::{Put, Take};
use razorfs_format::{FormatError, Place};

use crate::namespace::{Namespace, Part, SendFrom, Sending};
use crate::sync::atomic::Ordering;
use crate::{Error, Result, Volume};

/// What is sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SendOptions {
    /// A snapshot.
    Snapshot {
        /// Its name.
        name: String,
        /// The name of an older one, which the receiver has: only what differs is sent. Without,
        /// everything is.
        from: Option<String>,
    },
    /// The rest of a stream that was broken off.
    Rest(Token),
}

/// How much was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Sent {
    /// Bytes of the stream.
    pub bytes: u64,
    /// Its batches.
    pub batches: u64,
}

/// Where a stream goes on that was broken off: made by the volume that receives
/// ([`Volume::resume_token`]) and understood by the one that sends. As text it is one word.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Token {
    snapshot: Identity,
    base: Option<Identity>,
    goes_on: GoesOn,
    cursor: Vec<u8>,
}

/// Begins every token.
const TOKEN: &str = "rzt1-";

impl Token {
    pub(super) fn of(part: Part) -> Self {
        Self {
            snapshot: part.snapshot.identity,
            base: part.base.map(|base| base.identity),
            goes_on: part.goes_on,
            cursor: part.cursor,
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_u8(u8::from(self.base.is_some()));
        for identity in std::iter::once(&self.snapshot).chain(&self.base) {
            out.extend_from_slice(&identity.volume);
            out.put_varint(identity.id);
            out.put_varint(identity.time);
        }
        out.put_varint(self.goes_on.sequence);
        out.extend_from_slice(&self.goes_on.link.0);
        out.put_bytes(&self.cursor);
        let crc = crc32c(&[], &out);
        out.put_u32(crc);
        out
    }

    fn decode(bytes: &[u8]) -> std::result::Result<Self, FormatError> {
        fn identity(t: &mut Take<'_>) -> std::result::Result<Identity, FormatError> {
            Ok(Identity {
                volume: t.array()?,
                id: t.varint()?,
                time: t.varint()?,
            })
        }
        let (covered, crc) = bytes.split_at(bytes.len().saturating_sub(4));
        let mut t = Take::new(covered, Place::new(FileName::Super, 0), "token");
        if crc32c(&[], covered).to_le_bytes() != *crc {
            return Err(t.error("another checksum", "a damaged token"));
        }
        let has_base = t.u8()? != 0;
        let token = Self {
            snapshot: identity(&mut t)?,
            base: has_base.then(|| identity(&mut t)).transpose()?,
            goes_on: GoesOn {
                sequence: t.varint()?,
                link: Link(t.array()?),
            },
            cursor: t.bytes(CURSOR_MAX)?.to_vec(),
        };
        t.end()?;
        Ok(token)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(TOKEN)?;
        self.to_bytes()
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Token {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refused = || Error::Stream("it is no token of `razorfs receive --resume-token`".into());
        let digits = text.trim().strip_prefix(TOKEN).ok_or_else(refused)?;
        let pairs = digits.as_bytes().chunks(2);
        let byte = |pair: &[u8]| {
            let pair = std::str::from_utf8(pair)
                .ok()
                .filter(|pair| pair.len() == 2)?;
            u8::from_str_radix(pair, 16).ok()
        };
        let bytes = pairs
            .map(byte)
            .collect::<Option<Vec<u8>>>()
            .ok_or_else(refused)?;
        Self::decode(&bytes).map_err(|_| refused())
    }
}

/// A snapshot that takes part in a stream.
struct Point {
    view: Namespace,
    named: Named,
}

/// Sending.
impl Volume {
    /// Writes a snapshot to `out` as a stream from which [`Volume::receive`] makes the same
    /// snapshot elsewhere: all of it, or what differs from an older one, as `docs/stream.md` has
    /// it. The time and the bytes that the latter takes grow with what was changed, not with the
    /// volume. `each` is told how much was sent, after every batch, and ends it by an error. The
    /// volume may be used, and changed, meanwhile.
    pub fn send(
        &self,
        what: &SendOptions,
        out: &mut dyn Write,
        each: &mut dyn FnMut(&Sent) -> Result<()>,
    ) -> Result<Sent> {
        let (new, old, goes_on, from) = self.ends_of(what)?;
        let header = Header {
            sender: self.inner.store.uuid(),
            snapshot: new.named,
            base: old.as_ref().map(|old| old.named.clone()),
            end: self.inner.store.ids.ino.load(Ordering::Acquire),
            origins: new.view.origins()?,
            goes_on,
        };
        let mut sent = Sent::default();
        write(out, &header.to_bytes(), &mut sent)?;
        let (mut sequence, mut link) = match goes_on {
            Some(goes_on) => (goes_on.sequence, goes_on.link),
            None => (0, header.first_link()),
        };
        let seed = header.seed();
        let mut frame = Vec::new();
        let mut sending = Sending::new(&new.view, old.as_ref().map(|old| &old.view))?;
        sending.run(from, &mut |after, items| {
            let mut payload = Vec::with_capacity(items.len() + CURSOR_MAX);
            payload.put_bytes(&after.to_bytes());
            payload.extend_from_slice(items);
            frame.clear();
            put_frame(seed, FrameKind::Batch, sequence, &payload, &mut frame);
            link = link.then(&payload);
            sequence += 1;
            sent.batches += 1;
            write(out, &frame, &mut sent)?;
            each(&sent)
        })?;
        let end = End {
            link,
            frames: sequence,
        };
        frame.clear();
        put_frame(seed, FrameKind::End, sequence, &end.to_bytes(), &mut frame);
        write(out, &frame, &mut sent)?;
        out.flush().map_err(|e| not_written(&e))?;
        Ok(sent)
    }

    fn ends_of(
        &self,
        what: &SendOptions,
    ) -> Result<(Point, Option<Point>, Option<GoesOn>, SendFrom)> {
        match what {
            SendOptions::Snapshot { name, from } => {
                let new = self.end(&*self.meta(name)?)?;
                let old = from.as_ref().map(|from| self.end(&*self.meta(from)?));
                Ok((new, old.transpose()?, None, SendFrom::START))
            }
            SendOptions::Rest(token) => {
                let find = |identity: &Identity| {
                    let found = self.inner.find_identity(identity)?;
                    let gone = "the stream cannot be gone on with: a snapshot of it is not here, \
                                or not any more; send it from the beginning";
                    self.end(&*found.ok_or_else(|| Error::Stream(gone.into()))?)
                };
                let old = token.base.as_ref().map(find).transpose()?;
                let from = SendFrom::decode(&token.cursor);
                let unknown = "the token is of another version; send from the beginning";
                let from = from.ok_or_else(|| Error::Stream(unknown.into()))?;
                Ok((find(&token.snapshot)?, old, Some(token.goes_on), from))
            }
        }
    }

    fn meta(&self, name: &str) -> Result<Arc<SnapshotMeta>> {
        let all = self.inner.store.snapshots();
        let found = all.into_iter().find(|s| *s.name == *name.as_bytes());
        let missing = || Error::Stream(format!("there is no snapshot {name:?}").into());
        found.ok_or_else(missing)
    }

    fn end(&self, meta: &SnapshotMeta) -> Result<Point> {
        let view = Namespace::new(self.inner.store.snapshot(&meta.name)?)?;
        let identity = view.identity(meta)?;
        let name = meta.name.clone();
        let named = Named { identity, name };
        Ok(Point { view, named })
    }
}

fn not_written(e: &std::io::Error) -> Error {
    Error::Stream(format!("the stream cannot be written: {e}").into())
}

fn write(out: &mut dyn Write, bytes: &[u8], sent: &mut Sent) -> Result<()> {
    sent.bytes += bytes.len() as u64;
    out.write_all(bytes).map_err(|e| not_written(&e))
}
