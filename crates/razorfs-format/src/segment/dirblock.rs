//! Blocks of directory entries. One entry is read by a binary search in the cookies and the
//! decoding of one name, not of the block.
//!
//! | size | field |
//! |---|---|
//! | 2 | number of entries n, 1 to 1024 |
//! | 2 | number of directories (runs) |
//! | 2 | number of names |
//! | 1 | bits of an inode number |
//! | 1 | bits of an epoch; 0: all epochs are the base |
//! | 1 | 1: all collision numbers are 0 and left out; else 0 |
//! | 7 | zero |
//! | 8 | base epoch: the smallest |
//! | 8 | base inode number: the smallest |
//! | 14 × runs | `branch u32 | directory u64 | entries up to its last u16`, in key order |
//! | 7 × n | cookies without their collision numbers, little endian |
//! | n or 0 | collision numbers |
//! | packed | n inode numbers − base; 0 for a tombstone |
//! | packed | n epochs − base |
//! | 4 bits × n | kinds ([`FileKind`]); 0 is a tombstone |
//! | packed | n indexes of names; 0 for a tombstone |
//! | … | the names ([`crate::names`]) |
//!
//! Packed arrays have the width that the largest value needs (for indexes of names: the number of
//! names − 1), lowest bit first, and begin on a byte.

use std::collections::BTreeMap;

use crate::error::{FormatError, Place, Result};
use crate::ids::{Branch, Epoch, Ino};
use crate::key::Key;
use crate::names::{self, NameBuf, NameTable};
use crate::record::FileKind;
use crate::segment::bits;
use crate::segment::data::{Pending, Position};
use crate::segment::header::expect_zeros;
use crate::wire::{Put, Take};

/// Most entries of a block.
pub const ENTRIES_MAX: usize = 1024;
/// Most bytes of names and about 12 for each entry, so that the names stay below 64 KiB.
pub(super) const SIZE_MAX: usize = 48 * 1024;
const RUN_LEN: usize = 14;
const HASH_LEN: usize = 7;

/// Runs of entries of one directory: the directory, and the number of entries up to its last.
fn runs(records: &[Pending]) -> Vec<(Branch, Ino, u16)> {
    let mut runs: Vec<(Branch, Ino, u16)> = Vec::new();
    for (i, record) in records.iter().enumerate() {
        let dir = (record.key.branch(), record.key.ino());
        let end = i as u16 + 1;
        match runs.last_mut() {
            Some(run) if (run.0, run.1) == dir => run.2 = end,
            _ => runs.push((dir.0, dir.1, end)),
        }
    }
    runs
}

/// Builds the block of `records` whose names are ranges of `names`.
pub(super) fn encode(records: &[Pending], names: &[u8]) -> Vec<u8> {
    assert!(
        records.len() <= ENTRIES_MAX,
        "a block has at most {ENTRIES_MAX} entries"
    );
    let name_of = |r: &Pending| r.value.clone().and_then(|range| names.get(range));
    let mut unique: BTreeMap<&[u8], u64> = records
        .iter()
        .filter_map(name_of)
        .map(|name| (name, 0))
        .collect();
    for (index, at) in unique.values_mut().zip(0..) {
        *index = at;
    }
    let inos = || records.iter().filter_map(|r| r.entry).map(|(_, ino)| ino.0);
    let base_ino = inos().min().unwrap_or(0);
    let base = records.iter().map(|r| r.epoch.0).min().unwrap_or(0);
    let ino_bits = bits::width_of(inos().max().unwrap_or(0) - base_ino);
    let epoch_bits = bits::width_of(records.iter().map(|r| r.epoch.0 - base).max().unwrap_or(0));
    let no_seqs = records.iter().all(|r| r.key.second() & 0xff == 0);
    let runs = runs(records);

    let mut out = Vec::with_capacity(32 + records.len() * 16 + names.len());
    out.put_u16(records.len() as u16);
    out.put_u16(runs.len() as u16);
    out.put_u16(unique.len() as u16);
    out.put_u8(ino_bits);
    out.put_u8(epoch_bits);
    out.put_u8(u8::from(no_seqs));
    out.extend_from_slice(&[0; 7]);
    out.put_u64(base);
    out.put_u64(base_ino);
    for (branch, dir, end) in runs {
        out.put_u32(branch.0);
        out.put_u64(dir.0);
        out.put_u16(end);
    }
    for record in records {
        let hash = (record.key.second() >> 8).to_le_bytes();
        out.extend_from_slice(hash.first_chunk::<HASH_LEN>().unwrap_or(&[0; HASH_LEN]));
    }
    if !no_seqs {
        out.extend(records.iter().map(|r| r.key.second() as u8));
    }
    let ino_of = |r: &Pending| r.entry.map_or(0, |(_, ino)| ino.0 - base_ino);
    bits::pack(records.iter().map(ino_of), ino_bits, &mut out);
    bits::pack(
        records.iter().map(|r| r.epoch.0 - base),
        epoch_bits,
        &mut out,
    );
    let kind_of = |r: &Pending| r.entry.map_or(0, |(kind, _)| kind as u64);
    bits::pack(records.iter().map(kind_of), 4, &mut out);
    let index_of = |r: &Pending| name_of(r).and_then(|n| unique.get(n)).copied().unwrap_or(0);
    bits::pack(
        records.iter().map(index_of),
        index_bits(unique.len()),
        &mut out,
    );
    let sorted: Vec<&[u8]> = unique.into_keys().collect();
    names::encode(&sorted, &mut out);
    out
}

const fn index_bits(names: usize) -> u8 {
    bits::width_of(names.saturating_sub(1) as u64)
}

/// An entry without its name.
pub(super) struct RawEntry {
    pub(super) key: Key,
    pub(super) epoch: Epoch,
    /// Kind, inode and index of the name; `None` is a tombstone.
    pub(super) target: Option<(FileKind, Ino, usize)>,
}

/// All names of a block, decoded.
#[derive(Clone, Debug, Default)]
pub(super) struct AllNames {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl AllNames {
    pub(super) fn get(&self, i: usize) -> Option<&[u8]> {
        let start = match i.checked_sub(1) {
            None => 0,
            Some(before) => *self.ends.get(before)? as usize,
        };
        self.bytes.get(start..*self.ends.get(i)? as usize)
    }
}

/// A block in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dirents<'a> {
    place: Place,
    n: usize,
    base: Epoch,
    base_ino: u64,
    ino_bits: u8,
    epoch_bits: u8,
    runs: &'a [u8],
    hashes: &'a [u8],
    /// Empty: all are 0.
    seqs: &'a [u8],
    inos: &'a [u8],
    epochs: &'a [u8],
    kinds: &'a [u8],
    indexes: &'a [u8],
    names: NameTable<'a>,
}

impl<'a> Dirents<'a> {
    pub(super) fn parse(bytes: &'a [u8], place: Place) -> Result<Self> {
        let mut t = Take::new(bytes, place, "directory block");
        let start = t;
        let n = usize::from(t.u16()?);
        let run_count = usize::from(t.u16()?);
        let name_count = usize::from(t.u16()?);
        let at_bits = t;
        let ino_bits = t.u8()?;
        let epoch_bits = t.u8()?;
        let no_seqs = t.u8()?;
        expect_zeros(&mut t, 7)?;
        if n == 0 || n > ENTRIES_MAX || run_count == 0 || run_count > n || name_count > n {
            return Err(start.error(
                "1 to 1024 entries, and not more directories or names",
                format_args!("{n} entries, {run_count} directories, {name_count} names"),
            ));
        }
        if ino_bits > 64 || epoch_bits > 64 || no_seqs > 1 {
            return Err(at_bits.error(
                "widths of at most 64 bits and a flag",
                format_args!("{ino_bits}, {epoch_bits}, {no_seqs}"),
            ));
        }
        let base = Epoch(t.u64()?);
        let base_ino = t.u64()?;
        let runs = t.slice(run_count * RUN_LEN)?;
        let hashes = t.slice(n * HASH_LEN)?;
        let seqs = t.slice(if no_seqs == 1 { 0 } else { n })?;
        let inos = t.slice(bits::byte_len(n, ino_bits))?;
        let epochs = t.slice(bits::byte_len(n, epoch_bits))?;
        let kinds = t.slice(bits::byte_len(n, 4))?;
        let indexes = t.slice(bits::byte_len(n, index_bits(name_count)))?;
        let names = NameTable::parse(name_count, t.rest(), t.place())?;
        Ok(Self {
            place,
            n,
            base,
            base_ino,
            ino_bits,
            epoch_bits,
            runs,
            hashes,
            seqs,
            inos,
            epochs,
            kinds,
            indexes,
            names,
        })
    }

    pub(super) const fn len(&self) -> u32 {
        self.n as u32
    }

    fn error(&self, expected: &'static str, got: impl ToString) -> FormatError {
        self.place.error("directory block", expected, got)
    }

    fn run(&self, i: usize) -> Option<(Branch, Ino, usize)> {
        let (runs, _) = self.runs.as_chunks::<RUN_LEN>();
        let [b0, b1, b2, b3, d0, d1, d2, d3, d4, d5, d6, d7, e0, e1] = *runs.get(i)?;
        Some((
            Branch(u32::from_le_bytes([b0, b1, b2, b3])),
            Ino(u64::from_le_bytes([d0, d1, d2, d3, d4, d5, d6, d7])),
            usize::from(u16::from_le_bytes([e0, e1])),
        ))
    }

    /// The first run for which `right` holds, if it holds for none before it and all behind.
    fn first_run(&self, right: impl Fn((Branch, Ino, usize)) -> bool) -> usize {
        let (mut low, mut high) = (0, self.runs.len() / RUN_LEN);
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.run(middle).is_some_and(&right) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low
    }

    fn cookie(&self, i: usize) -> u64 {
        let (hashes, _) = self.hashes.as_chunks::<HASH_LEN>();
        let [a, b, c, d, e, f, g] = hashes.get(i).copied().unwrap_or_default();
        let seq = self.seqs.get(i).copied().unwrap_or_default();
        u64::from_le_bytes([seq, a, b, c, d, e, f, g])
    }

    /// The position before the first entry whose key is `key` or greater.
    pub(super) fn seek(&self, key: &Key) -> Result<Position> {
        let dir = (key.branch(), key.ino());
        let run = self.first_run(|(branch, ino, _)| (branch, ino) >= dir);
        let start = match run.checked_sub(1) {
            None => 0,
            Some(before) => self.run(before).map_or(self.n, |(_, _, end)| end),
        };
        let mut low = start;
        if let Some((branch, ino, end)) = self.run(run) {
            if start > end || end > self.n {
                return Err(self.error("directories in order", format_args!("{start}..{end}")));
            }
            if (branch, ino) == dir {
                let mut high = end;
                while low < high {
                    let middle = usize::midpoint(low, high);
                    if self.cookie(middle) < key.second() {
                        low = middle + 1;
                    } else {
                        high = middle;
                    }
                }
            }
        }
        Ok(Position {
            index: low as u32,
            ..Position::default()
        })
    }

    /// Entry `i`, or `None` behind the last.
    pub(super) fn entry(&self, i: u32) -> Result<Option<RawEntry>> {
        let i = i as usize;
        if i >= self.n {
            return Ok(None);
        }
        let run = self.first_run(|(_, _, end)| end > i);
        let Some((branch, dir, _)) = self.run(run) else {
            return Err(self.error("a directory for each entry", i));
        };
        let field = |bytes, width| {
            bits::get(bytes, width, i).ok_or_else(|| self.error("a field for each entry", i))
        };
        let kind = field(self.kinds, 4)? as u8;
        let target = if kind == 0 {
            None
        } else {
            let Some(kind) = FileKind::from_byte(kind) else {
                return Err(self.error("a file type", kind));
            };
            let ino = Ino(self
                .base_ino
                .saturating_add(field(self.inos, self.ino_bits)?));
            Some((
                kind,
                ino,
                field(self.indexes, index_bits(self.names.len()))? as usize,
            ))
        };
        let epoch = self
            .base
            .0
            .saturating_add(field(self.epochs, self.epoch_bits)?);
        Ok(Some(RawEntry {
            key: Key::dirent(branch, dir, self.cookie(i)),
            epoch: Epoch(epoch),
            target,
        }))
    }

    pub(super) fn name(&self, index: usize) -> Result<NameBuf> {
        let mut name = NameBuf::default();
        self.names.get(index, &mut name)?;
        Ok(name)
    }

    pub(super) fn all_names(&self) -> Result<AllNames> {
        let mut all = AllNames::default();
        self.names.for_each(|name| {
            all.bytes.extend_from_slice(name);
            all.ends.push(all.bytes.len() as u32);
        })?;
        Ok(all)
    }

    /// Checks what lookups do not: that the names are sorted, unique and fill the block.
    pub(super) fn check(&self) -> Result<()> {
        self.names.for_each(|_| ())
    }
}
