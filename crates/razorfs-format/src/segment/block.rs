//! Blocks of records of every table but directory entries.
//!
//! | off | size | field |
//! |---|---|---|
//! | 0 | 4 | number of records n, at least 1 |
//! | 4 | 4 | offset of the restarts |
//! | 8 | 8 | base epoch: the smallest |
//! | 16 | 1 | 1: all epochs are the base; else 0 |
//! | 17 | 3 | zero |
//! | 20 | … | n records |
//! | … | 4 × ⌈n / 16⌉ | offsets of every sixteenth record, from the first |
//!
//! A record: `shared u8 | rest of the key | [epoch − base v] | v | value`. `shared` is the number
//! of bytes that its key shares with the one before, 0 at a restart; keys of a table are all of the
//! same length. `v` before the value is 0 for a tombstone, else the value's length + 1. Records
//! stand in the order of their keys, versions of one key newest first.

use crate::error::{Place, Result};
use crate::ids::Epoch;
use crate::key::{Key, Tag};
use crate::op::MAX_VALUE;
use crate::segment::data::{Pending, Position};
use crate::segment::header::expect_zeros;
use crate::wire::{Put, Take};

/// Records between two restarts.
pub const RESTART: usize = 16;
const HEAD_LEN: usize = 20;

/// Builds a block of `records` whose values are ranges of `values`.
pub(super) fn encode(records: &[Pending], values: &[u8]) -> Vec<u8> {
    let base = records.iter().map(|r| r.epoch).min().unwrap_or_default();
    let same = records.iter().all(|r| r.epoch == base);
    let mut out = Vec::with_capacity(values.len() + records.len() * 16 + 64);
    out.put_u32(records.len() as u32);
    out.put_u32(0);
    out.put_u64(base.0);
    out.put_u8(u8::from(same));
    out.extend_from_slice(&[0; 3]);
    let mut restarts = Vec::new();
    let mut before: &[u8] = &[];
    for (i, record) in records.iter().enumerate() {
        if i % RESTART == 0 {
            restarts.put_u32(out.len() as u32);
            before = &[];
        }
        let key = record.key.as_bytes();
        let shared = before.iter().zip(key).take_while(|(a, b)| a == b).count();
        out.put_u8(shared as u8);
        out.extend_from_slice(key.get(shared..).unwrap_or_default());
        if !same {
            out.put_varint(record.epoch.0 - base.0);
        }
        match record.value.clone().and_then(|range| values.get(range)) {
            None => out.put_varint(0),
            Some(value) => {
                out.put_varint(value.len() as u64 + 1);
                out.extend_from_slice(value);
            }
        }
        before = key;
    }
    let at = (out.len() as u32).to_le_bytes();
    if let Some(field) = out.get_mut(4..8) {
        field.copy_from_slice(&at);
    }
    out.extend_from_slice(&restarts);
    out
}

/// A record as it stands in a block.
pub(super) struct Raw<'a> {
    pub(super) epoch: Epoch,
    pub(super) value: Option<&'a [u8]>,
}

/// A block in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plain<'a> {
    tag: Tag,
    n: u32,
    base: Epoch,
    same: bool,
    /// From the first record to the restarts.
    records: Take<'a>,
    restarts: &'a [u8],
}

impl<'a> Plain<'a> {
    pub(super) fn parse(tag: Tag, bytes: &'a [u8], place: Place) -> Result<Self> {
        let mut t = Take::new(bytes, place, "segment block");
        let start = t;
        let n = t.u32()?;
        let restarts_at = t.u32()? as usize;
        let base = Epoch(t.u64()?);
        let at_same = t;
        let same = match t.u8()? {
            0 => false,
            1 => true,
            other => return Err(at_same.error("0 or 1", other)),
        };
        expect_zeros(&mut t, 3)?;
        let restarts_len = (n as usize).div_ceil(RESTART) * 4;
        let records_len = restarts_at.checked_sub(HEAD_LEN);
        match records_len {
            Some(len) if n > 0 && restarts_at.checked_add(restarts_len) == Some(bytes.len()) => {
                let records = Take::new(t.slice(len)?, place.plus(20), "segment record");
                Ok(Self {
                    tag,
                    n,
                    base,
                    same,
                    records,
                    restarts: t.rest(),
                })
            }
            _ => Err(start.error(
                format_args!("records and restarts that fill {} bytes", bytes.len()),
                format_args!("{n} records, restarts at {restarts_at}"),
            )),
        }
    }

    pub(super) const fn len(&self) -> u32 {
        self.n
    }

    /// A cursor at `offset` behind the first record.
    fn at(&self, offset: u32) -> Result<Take<'a>> {
        let mut t = self.records;
        t.slice(offset as usize)?;
        Ok(t)
    }

    /// Offset of restart `i`, and the key there.
    fn restart(&self, i: usize) -> Result<(u32, &'a [u8])> {
        let offset = self
            .restarts
            .get(i * 4..)
            .and_then(<[u8]>::first_chunk::<4>);
        let offset = offset.map(|b| u32::from_le_bytes(*b));
        let Some(offset) = offset.and_then(|at| at.checked_sub(HEAD_LEN as u32)) else {
            return Err(self.records.error("a restart", i));
        };
        let mut t = self.at(offset)?;
        let start = t;
        match t.u8()? {
            0 => Ok((offset, t.slice(self.tag.key_len())?)),
            shared => Err(start.error("a whole key at a restart", shared)),
        }
    }

    /// The position of the first record whose key is `key` or greater.
    pub(super) fn seek(&self, key: &Key) -> Result<Position> {
        // The last restart whose key is smaller: versions of one key may reach over a restart.
        let (mut low, mut high) = (0, self.restarts.len() / 4);
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.restart(middle)?.1 < key.as_bytes() {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let group = low.saturating_sub(1);
        let mut position = Position {
            offset: self.restart(group)?.0,
            index: (group * RESTART) as u32,
            ..Position::default()
        };
        loop {
            let here = position;
            if self.next(&mut position)?.is_none() || position.key() >= key.as_bytes() {
                return Ok(here);
            }
        }
    }

    /// The record at `position`, whose key is then in `position`, which moves behind it.
    pub(super) fn next(&self, position: &mut Position) -> Result<Option<Raw<'a>>> {
        if position.index >= self.n {
            return Ok(None);
        }
        let mut t = self.at(position.offset)?;
        let start = t;
        let shared = usize::from(t.u8()?);
        let len = self.tag.key_len();
        if shared > usize::from(position.key_len) || shared > len {
            return Err(start.error("a prefix of the key before", shared));
        }
        let rest = t.slice(len - shared)?;
        position.set_key(shared, rest);
        let delta = if self.same { 0 } else { t.varint()? };
        let value = match t.varint_max(MAX_VALUE as u64 + 1)? {
            0 => None,
            n => Some(t.slice(n as usize - 1)?),
        };
        position.index += 1;
        position.offset = (self.records.rest().len() - t.rest().len()) as u32;
        if position.index == self.n {
            t.end()?;
        }
        Ok(Some(Raw {
            epoch: Epoch(self.base.0.saturating_add(delta)),
            value,
        }))
    }
}
