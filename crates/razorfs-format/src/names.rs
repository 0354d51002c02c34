//! The string table: sorted unique names, front-coded, with runs of lower-case hex digits packed
//! two to a byte. Every sixteenth name stands whole, so that one name is read without the others.
//!
//! ```text
//! restart offsets  u16 × ⌈n / 16⌉, from the first name on
//! names            n × name
//!
//! name             head u8 | [shared u8] | [length u8] | suffix
//! head             high nibble: bytes shared with the name before, 15 = the byte `shared` follows
//!                  low nibble:  1..=14 length of the suffix, its bytes follow;
//!                               15 = the byte `length` follows, then the bytes;
//!                               0  = the byte `length` follows, then tokens
//! token            0nnnnnnn: n + 1 bytes follow
//!                  1nnnnnnn: n + 1 hex digits follow, first in the high nibble, padded with 0
//! ```
//!
//! The number of names is not part of the table: whoever holds the table knows it. A name is 1 to
//! 255 bytes long.

use crate::error::{Place, Result};
use crate::wire::{Put, Take};

/// Names between two that stand whole.
pub const RESTART: usize = 16;
/// Shortest run of hex digits that is worth a token of its own.
const HEX_RUN_MIN: usize = 4;
/// Longest name, in bytes.
const LONGEST: usize = 255;

/// A name that was read from a table.
#[derive(Clone, Copy)]
pub struct NameBuf {
    bytes: [u8; LONGEST],
    len: u8,
}

impl Default for NameBuf {
    fn default() -> Self {
        Self {
            bytes: [0; LONGEST],
            len: 0,
        }
    }
}

impl NameBuf {
    /// The name.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// The bytes behind the first `shared`, `len` of them, if there is room.
    fn tail(&mut self, shared: usize, len: usize) -> Option<&mut [u8]> {
        if shared > usize::from(self.len) {
            return None;
        }
        let tail = self.bytes.get_mut(shared..shared + len)?;
        // At most 255, or the range above would not exist.
        self.len = (shared + len) as u8;
        Some(tail)
    }
}

fn is_hex(b: u8) -> bool {
    matches!(b, b'0'..=b'9' | b'a'..=b'f')
}

fn digit(b: u8) -> u8 {
    if b <= b'9' { b - b'0' } else { b - b'a' + 10 }
}

/// The tokens of `suffix`, if they take less room than its bytes.
fn tokens(suffix: &[u8]) -> Option<Vec<u8>> {
    let plain = suffix.len() + usize::from(suffix.len() > 14);
    let mut out = Vec::with_capacity(plain);
    let mut literal: &[u8] = &[];
    let mut rest = suffix;
    let mut start = suffix;
    let flush = |literal: &[u8], out: &mut Vec<u8>| {
        for part in literal.chunks(128) {
            out.put_u8((part.len() - 1) as u8);
            out.extend_from_slice(part);
        }
    };
    while !rest.is_empty() {
        let run = rest.iter().take_while(|b| is_hex(**b)).count();
        let (head, tail) = rest.split_at(run.max(1));
        if run >= HEX_RUN_MIN {
            flush(literal, &mut out);
            for part in head.chunks(128) {
                out.put_u8(0x80 | (part.len() - 1) as u8);
                for pair in part.chunks(2) {
                    let high = pair.first().map_or(0, |b| digit(*b));
                    out.put_u8(high << 4 | pair.get(1).map_or(0, |b| digit(*b)));
                }
            }
            literal = &[];
            start = tail;
        } else {
            let taken = start.len() - tail.len();
            literal = start.get(..taken).unwrap_or_default();
        }
        rest = tail;
    }
    flush(literal, &mut out);
    // The byte that holds the length counts too.
    (out.len() + 1 < plain).then_some(out)
}

fn encode_name(before: &[u8], name: &[u8], out: &mut Vec<u8>) {
    let shared = before.iter().zip(name).take_while(|(a, b)| a == b).count();
    let suffix = name.get(shared..).unwrap_or_default();
    let tokens = tokens(suffix);
    let low = match (&tokens, suffix.len()) {
        (Some(_), _) => 0,
        (None, len) => len.min(15) as u8,
    };
    out.put_u8((shared.min(15) as u8) << 4 | low);
    if shared >= 15 {
        out.put_u8(shared as u8);
    }
    if low == 0 || low == 15 {
        out.put_u8(suffix.len() as u8);
    }
    out.extend_from_slice(tokens.as_deref().unwrap_or(suffix));
}

/// Appends the table of `names`, which are sorted and unique, to `out`.
///
/// # Panics
///
/// If a name is empty or longer than 255 bytes, names are not sorted, or all of them take more
/// than 64 KiB: the caller limits what it puts into a block.
pub fn encode(names: &[&[u8]], out: &mut Vec<u8>) {
    let mut restarts = Vec::new();
    let mut body = Vec::new();
    let mut before: &[u8] = b"";
    for (i, name) in names.iter().enumerate() {
        assert!(
            (1..=LONGEST).contains(&name.len()),
            "a name has 1 to 255 bytes"
        );
        assert!(before < *name, "names are sorted and unique");
        if i % RESTART == 0 {
            let Ok(at) = u16::try_from(body.len()) else {
                panic!("a string table takes at most 64 KiB");
            };
            restarts.put_u16(at);
            before = b"";
        }
        encode_name(before, name, &mut body);
        before = name;
    }
    out.extend_from_slice(&restarts);
    out.extend_from_slice(&body);
}

/// A table in memory.
#[derive(Clone, Copy, Debug)]
pub struct NameTable<'a> {
    count: usize,
    restarts: &'a [u8],
    names: Take<'a>,
}

impl<'a> NameTable<'a> {
    /// The table of `count` names that fills `bytes`.
    pub fn parse(count: usize, bytes: &'a [u8], place: Place) -> Result<Self> {
        let mut t = Take::new(bytes, place, "string table");
        let restarts = t.slice(count.div_ceil(RESTART) * 2)?;
        Ok(Self {
            count,
            restarts,
            names: t,
        })
    }

    /// Number of names.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no name.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// A cursor at the first name of restart `group`.
    fn at_restart(&self, group: usize) -> Result<Take<'a>> {
        let mut t = self.names;
        let at = self
            .restarts
            .get(group * 2..)
            .and_then(<[u8]>::first_chunk::<2>);
        match at {
            Some(at) => t.slice(usize::from(u16::from_le_bytes(*at)))?,
            None => return Err(t.error(format_args!("{} names", self.count), group * RESTART)),
        };
        Ok(t)
    }

    /// Reads name `index` into `name`.
    pub fn get(&self, index: usize, name: &mut NameBuf) -> Result<()> {
        if index >= self.count {
            return Err(self
                .names
                .error(format_args!("a name below {}", self.count), index));
        }
        let mut t = self.at_restart(index / RESTART)?;
        name.len = 0;
        for _ in 0..=index % RESTART {
            decode_name(&mut t, name)?;
        }
        Ok(())
    }

    /// Calls `each` with all names in order, and checks that they are sorted, unique, where the
    /// restarts say, and fill the table.
    pub fn for_each(&self, mut each: impl FnMut(&[u8])) -> Result<()> {
        let mut t = self.names;
        let mut name = NameBuf::default();
        let mut before = NameBuf::default();
        for i in 0..self.count {
            let start = t;
            if i % RESTART == 0 {
                if self.at_restart(i / RESTART)?.rest().len() != t.rest().len() {
                    return Err(start.error("a restart", "none here"));
                }
                name.len = 0;
            }
            decode_name(&mut t, &mut name)?;
            if name.as_bytes() <= before.as_bytes() {
                return Err(start.error("a name after the one before", "a smaller one"));
            }
            each(name.as_bytes());
            before = name;
        }
        t.end()
    }
}

/// Reads the name at `t`; `name` holds the one before.
fn decode_name(t: &mut Take<'_>, name: &mut NameBuf) -> Result<()> {
    let start = *t;
    let head = t.u8()?;
    let shared = match head >> 4 {
        15 => usize::from(t.u8()?),
        n => usize::from(n),
    };
    let len = match head & 15 {
        0 | 15 => usize::from(t.u8()?),
        n => usize::from(n),
    };
    let Some(tail) = name.tail(shared, len) else {
        return Err(start.error(
            "a name of at most 255 bytes",
            format_args!("{len} bytes behind {shared} shared ones"),
        ));
    };
    if head & 15 == 0 {
        decode_tokens(t, tail)
    } else {
        tail.copy_from_slice(t.slice(len)?);
        Ok(())
    }
}

/// Reads tokens until `out` is full.
fn decode_tokens(t: &mut Take<'_>, mut out: &mut [u8]) -> Result<()> {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    while !out.is_empty() {
        let start = *t;
        let token = t.u8()?;
        let n = usize::from(token & 0x7f) + 1;
        let Some((here, rest)) = std::mem::take(&mut out).split_at_mut_checked(n) else {
            return Err(start.error("a token inside the name", format_args!("{n} bytes")));
        };
        if token & 0x80 == 0 {
            here.copy_from_slice(t.slice(n)?);
        } else {
            let packed = t.slice(n.div_ceil(2))?;
            for (pair, byte) in here.chunks_mut(2).zip(packed) {
                let digits = [byte >> 4, byte & 15];
                for (to, digit) in pair.iter_mut().zip(digits) {
                    *to = DIGITS.get(usize::from(digit)).copied().unwrap_or_default();
                }
            }
        }
        out = rest;
    }
    Ok(())
}

#[cfg(test)]
#[path = "names_tests.rs"]
mod tests;
