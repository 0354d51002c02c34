//! What the C++ prototype of RazorFS has written, decoded: its dump, and its 'razr' 1.0 file with
//! the journal of that. `docs/legacy.md` says what is known of them.
//!
//! This room is pure: no I/O, no clock. Any bytes give an answer, whose paths stay below the root,
//! and which takes a bounded multiple of the bytes: contents and names are borrowed from them, and
//! no length is believed before the bytes are there.

mod dump;
mod journal;
mod paths;
mod razr;
mod take;

use std::borrow::Cow;
use std::fmt;

/// The first four bytes of a 'razr' file, and of each entry of its journal.
pub const MAGIC: [u8; 4] = 0x7261_7A72_u32.to_le_bytes();

/// What a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// The dump, which has neither magic nor checksums.
    Dump,
    /// The 'razr' file.
    Razr,
}

impl Form {
    /// What a file that begins with `start` can be, if it is of the prototype at all. 32 bytes are
    /// enough to tell.
    pub fn of(start: &[u8]) -> Option<Self> {
        if start.starts_with(&MAGIC) {
            return Some(Self::Razr);
        }
        dump::is_likely(start).then_some(Self::Dump)
    }
}

/// What a file of the prototype holds.
#[derive(Debug)]
pub struct Found<'a> {
    /// The files and directories that are whole, without the root; parents before children.
    pub items: Vec<Item<'a>>,
    /// What is not as it should be, in the order of the bytes. None if every byte makes sense.
    pub findings: Vec<Finding<'a>>,
    /// What came of the journal, if there was one.
    pub journal: Option<Replay>,
}

/// A file or a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item<'a> {
    /// The path below the root: names with `/` between them.
    pub path: &'a [u8],
    /// The bytes of a file; `None` for a directory.
    pub bytes: Option<&'a [u8]>,
    /// Permission bits.
    pub mode: u32,
    /// When it was saved last, in milliseconds since 1970, where that is known.
    pub millis: Option<u64>,
}

/// Something that is not as the prototype wrote it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding<'a> {
    /// Offset of the byte.
    pub at: u64,
    /// Whether that is an offset in the journal.
    pub in_journal: bool,
    /// Whether something could not be taken because of it.
    pub lost: bool,
    /// The name it is about, as it stands in the file.
    pub name: Option<&'a [u8]>,
    /// What is wrong.
    pub cause: Cow<'static, str>,
}

impl<'a> Finding<'a> {
    /// Nothing is lost by it alone.
    fn doubt(at: u64, cause: impl Into<Cow<'static, str>>) -> Self {
        Self {
            at,
            in_journal: false,
            lost: false,
            name: None,
            cause: cause.into(),
        }
    }

    /// Something is lost.
    fn lost(at: u64, name: Option<&'a [u8]>, cause: impl Into<Cow<'static, str>>) -> Self {
        Self {
            lost: true,
            name,
            ..Self::doubt(at, cause)
        }
    }
}

impl fmt::Display for Finding<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let journal = if self.in_journal {
            " of its journal"
        } else {
            ""
        };
        write!(f, "at byte {}{journal}", self.at)?;
        if let Some(name) = self.name.filter(|name| !name.is_empty()) {
            write!(f, ", {}", crate::failure::shown_bytes(name))?;
        }
        write!(f, ": {}", self.cause)
    }
}

/// Why a file is none that can be read, and what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// Offset of the byte that says so.
    pub at: u64,
    /// What is wrong.
    pub cause: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: {}; {}", self.at, self.cause, self.remedy)
    }
}

/// What came of a journal.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Replay {
    /// Entries that were applied.
    pub entries: u64,
    /// Where the first bad entry begins, and what is wrong with it. Nothing from there on counts.
    pub cut: Option<(u64, Cow<'static, str>)>,
}

/// Decodes a file and, if it is a 'razr' file, the journal that lies beside it.
pub fn decode<'a>(
    form: Form,
    bytes: &'a [u8],
    journal: Option<&'a [u8]>,
) -> Result<Found<'a>, Refusal> {
    let mut findings = Vec::new();
    let (named, replay) = match form {
        Form::Dump => (dump::decode(bytes, &mut findings), None),
        Form::Razr => {
            let mut named = razr::decode(bytes, &mut findings)?;
            let replay = journal.map(|journal| {
                let replay;
                (named, replay) =
                    journal::apply(journal, std::mem::take(&mut named), &mut findings);
                replay
            });
            (named, replay)
        }
    };
    let items = paths::place(named, &mut findings);
    findings.sort_by_key(|finding| (finding.in_journal, finding.at));
    Ok(Found {
        items,
        findings,
        journal: replay,
    })
}

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Content<'a> {
    Directory,
    File(&'a [u8]),
    /// A directory or a file whose bytes are not there.
    Unknown,
}

/// A name that was found, with what it stands for; not looked at yet.
#[derive(Clone, Debug)]
struct Named<'a> {
    /// Where that stands.
    at: u64,
    in_journal: bool,
    ino: u64,
    name: &'a [u8],
    content: Content<'a>,
    mode: u32,
    millis: Option<u64>,
}

/// Permission bits where none are stored.
const fn mode_of(content: Content<'_>) -> u32 {
    match content {
        Content::File(_) => 0o644,
        Content::Directory | Content::Unknown => 0o755,
    }
}

/// CRC-32 (IEEE 802.3) of bytes that follow each other.
fn crc32(parts: &[&[u8]]) -> u32 {
    let mut crc = flate2::Crc::new();
    for part in parts {
        crc.update(part);
    }
    crc.sum()
}

#[cfg(test)]
#[path = "legacy_tests.rs"]
mod tests;
