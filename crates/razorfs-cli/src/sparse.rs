//! Sparse files in tars, as GNU tar writes them.
//!
//! In the pax format the extended header of an entry names the file (`GNU.sparse.name`) and its
//! size (`GNU.sparse.realsize`), and the entry begins with a list of what has data: decimal
//! numbers, each ended by a newline, filled up with zeros to a multiple of 512 bytes. The first is
//! the number of pieces, and each piece has an offset and a length; the bytes of the pieces follow.
//! That is version 1.0 of the form; entries of older versions of it are refused. In the format of
//! GNU tar itself the list is in the header of the entry and in blocks between it and the data.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::{self, Read};

use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

use crate::tree::{Piece, Source};

/// Bytes of a block of a tar.
const BLOCK: usize = 512;
/// More pieces than anybody has.
const MAX_PIECES: u64 = 1 << 20;

/// What the extended header says of a sparse file.
#[derive(Default)]
pub struct Marks {
    any: bool,
    version: (Vec<u8>, Vec<u8>),
    name: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Marks {
    /// Looks at one keyword of the extended header.
    pub fn take(&mut self, key: &[u8], value: &[u8]) {
        let Some(key) = key.strip_prefix(b"GNU.sparse.") else {
            return;
        };
        self.any = true;
        match key {
            b"major" => self.version.0 = value.to_vec(),
            b"minor" => self.version.1 = value.to_vec(),
            b"name" => self.name = Some(value.to_vec()),
            b"realsize" => self.size = number(value).ok(),
            _ => {}
        }
    }

    /// The name of the file, where the entry has another.
    pub fn name(&self) -> Option<Cow<'static, [u8]>> {
        self.name.clone().map(Cow::Owned)
    }

    /// The size of the file, if it is a sparse one.
    pub fn size(&self) -> io::Result<Option<u64>> {
        match (
            self.any,
            self.version.0.as_slice(),
            self.version.1.as_slice(),
        ) {
            (false, ..) => Ok(None),
            (true, b"1", b"0") => self.size.map(Some).ok_or_else(odd),
            _ => Err(io::Error::other(
                "it has a sparse file in an old form, write it with `tar --sparse-version=1.0` \
                 or without --sparse",
            )),
        }
    }
}

fn odd() -> io::Error {
    io::Error::other("the list of a sparse file makes no sense")
}

fn number(digits: &[u8]) -> io::Result<u64> {
    let text = std::str::from_utf8(digits).map_err(|_| odd())?;
    text.parse().map_err(|_| odd())
}

/// How a sparse file is written: its list, the pieces that are in it, and the size of the entry.
pub struct Layout {
    /// The list, filled up to whole blocks.
    pub list: Vec<u8>,
    /// Offset and length of what has data, in order.
    pub pieces: Vec<(u64, u64)>,
    /// Bytes of the entry.
    pub stored: u64,
}

impl Layout {
    /// The layout of a file of `size` bytes with these pieces; `None` if it has no holes.
    pub fn new(mut pieces: Vec<(u64, u64)>, size: u64) -> Option<Self> {
        if pieces.iter().map(|piece| piece.1).sum::<u64>() >= size {
            return None;
        }
        // Small holes go first where there are more pieces than a reader takes.
        let mut gap = 512;
        while pieces.len() as u64 >= MAX_PIECES {
            pieces.dedup_by(|next, piece| {
                let joined = next.0.saturating_sub(piece.0.saturating_add(piece.1)) <= gap;
                if joined {
                    piece.1 = next.0.saturating_add(next.1).saturating_sub(piece.0);
                }
                joined
            });
            gap = gap.saturating_mul(2);
        }
        // As in other tars the list names the end, where the last thing is a hole.
        let end = pieces.last().is_none_or(|p| p.0.saturating_add(p.1) < size);
        let listed = pieces.iter().copied().chain(end.then_some((size, 0)));
        let count = pieces.len() + usize::from(end);
        let mut list = format!("{count}\n").into_bytes();
        for (offset, len) in listed {
            list.extend_from_slice(format!("{offset}\n{len}\n").as_bytes());
        }
        list.resize(list.len().next_multiple_of(BLOCK), 0);
        let data: u64 = pieces.iter().map(|piece| piece.1).sum();
        let stored = data.saturating_add(list.len() as u64);
        Some(Self {
            list,
            pieces,
            stored,
        })
    }

    /// What the extended header says of the file.
    pub fn marks(&self, name: &[u8], size: u64) -> [(String, Vec<u8>); 5] {
        let text = |n: u64| n.to_string().into_bytes();
        [
            ("GNU.sparse.major", text(1)),
            ("GNU.sparse.minor", text(0)),
            ("GNU.sparse.name", name.to_vec()),
            ("GNU.sparse.realsize", text(size)),
            ("size", text(self.stored)),
        ]
        .map(|(key, value)| (key.to_owned(), value))
    }
}

/// The bytes of a sparse file.
pub struct Sparse<R> {
    inner: R,
    /// Offset and length of what has data, in order.
    pieces: VecDeque<(u64, u64)>,
    at: u64,
    size: u64,
}

impl<R: Read> Sparse<R> {
    /// The file of `size` bytes whose entry is `inner`.
    pub fn new(mut inner: R, size: u64) -> io::Result<Self> {
        let mut list = List {
            inner: &mut inner,
            block: [0; BLOCK],
            next: BLOCK,
        };
        let count = list.number()?;
        if count > MAX_PIECES {
            return Err(odd());
        }
        let mut pieces = Vec::new();
        for _ in 0..count {
            pieces.push((list.number()?, list.number()?));
        }
        Self::of(inner, pieces, size)
    }

    /// The file of `size` bytes that has these pieces, which follow each other in `inner`.
    pub fn of(inner: R, mut pieces: Vec<Piece>, size: u64) -> io::Result<Self> {
        let mut end = 0;
        for (offset, len) in &pieces {
            let after = offset.checked_add(*len).ok_or_else(odd)?;
            if *offset < end || after > size {
                return Err(odd());
            }
            end = after;
        }
        pieces.retain(|(_, len)| *len > 0);
        Ok(Self {
            inner,
            pieces: pieces.into(),
            at: 0,
            size,
        })
    }
}

/// The list in the headers of an entry in the format of GNU tar: the header, and the blocks behind
/// it.
pub fn listed(headers: &[u8]) -> io::Result<Vec<Piece>> {
    let (blocks, _) = headers.as_chunks::<BLOCK>();
    let (header, more) = blocks.split_first().ok_or_else(odd)?;
    let header = Header::from_byte_slice(header).as_gnu().ok_or_else(odd)?;
    let mut pieces = Vec::new();
    let mut add = |listed: &[GnuSparseHeader]| {
        for one in listed.iter().filter(|one| !one.is_empty()) {
            pieces.push((one.offset()?, one.length()?));
        }
        io::Result::Ok(())
    };
    add(&header.sparse)?;
    for block in more {
        let mut part = GnuExtSparseHeader::new();
        *part.as_mut_bytes() = *block;
        add(part.sparse())?;
    }
    Ok(pieces)
}

/// The list at the head of an entry.
struct List<'a, R> {
    inner: &'a mut R,
    block: [u8; BLOCK],
    next: usize,
}

impl<R: Read> List<'_, R> {
    fn number(&mut self) -> io::Result<u64> {
        let mut digits = Vec::new();
        loop {
            if self.next == BLOCK {
                self.inner.read_exact(&mut self.block)?;
                self.next = 0;
            }
            let byte = self.block.get(self.next).copied().unwrap_or_default();
            self.next += 1;
            match byte {
                b'\n' => return number(&digits),
                b'0'..=b'9' if digits.len() < 20 => digits.push(byte),
                _ => return Err(odd()),
            }
        }
    }
}

impl<R: Read> Read for Sparse<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let room = buf.len() as u64;
        let (from, until) = match self.pieces.front() {
            Some((offset, _)) if self.at < *offset => (false, *offset),
            Some((offset, len)) => (true, offset.saturating_add(*len)),
            None => (false, self.size),
        };
        let n = usize::try_from(room.min(until.saturating_sub(self.at))).unwrap_or(buf.len());
        let part = buf.get_mut(..n).unwrap_or_default();
        if from {
            self.inner.read_exact(part)?;
        } else {
            part.fill(0);
        }
        self.at += n as u64;
        if from && self.at == until {
            self.pieces.pop_front();
        }
        Ok(n)
    }
}

impl<R: Read> Source for Sparse<R> {
    fn hole(&mut self) -> io::Result<u64> {
        let next = self.pieces.front().map_or(self.size, |piece| piece.0);
        let gap = next.saturating_sub(self.at);
        self.at += gap;
        Ok(gap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(list: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = list.as_bytes().to_vec();
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes.extend_from_slice(data);
        bytes
    }

    #[test]
    fn the_pieces_stand_where_they_belong() {
        let entry = entry("2\n3\n2\n1000\n1\n", b"abc");
        let mut content = Vec::new();
        let mut file = Sparse::new(entry.as_slice(), 1005).unwrap();
        file.read_to_end(&mut content).unwrap();
        let mut expected = vec![0; 1005];
        expected[3..5].copy_from_slice(b"ab");
        expected[1000] = b'c';
        assert_eq!(content, expected);
        let mut file = Sparse::new(entry.as_slice(), 1005).unwrap();
        assert_eq!(file.hole().unwrap(), 3);
        file.read_exact(&mut [0; 2]).unwrap();
        assert_eq!(file.hole().unwrap(), 995);
    }

    #[test]
    fn hostile_lists_are_errors() {
        for list in [
            "",
            "x\n",
            "-1\n",
            "99999999999999999999\n",
            "18446744073709551615\n",
            "1\n5\n",
            "1\n5\n10\n",
            "2\n3\n2\n4\n1\n",
            "1\n18446744073709551615\n1\n",
        ] {
            assert!(
                Sparse::new(entry(list, b"").as_slice(), 10).is_err(),
                "{list}"
            );
        }
        let cut = entry("1\n0\n5\n", b"abc");
        let mut file = Sparse::new(cut.as_slice(), 10).unwrap();
        assert!(file.read_to_end(&mut Vec::new()).is_err());
    }
}
