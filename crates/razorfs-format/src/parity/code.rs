//! One group: its sums, its recovery shards, and making lost shards again.

use std::ops::Range;

use super::{RECOVERY, SHARDS, Shape};
use crate::error::{Place, Result};
use crate::layout::FileName;
use crate::wire::{Put, Take};

/// Shards of a group that stand beside each other in the object, and their recovery shards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Group {
    pub(super) shape: Shape,
    /// Its place among the groups.
    pub index: u32,
    pub(super) start: u64,
    pub(super) bytes: usize,
    /// Shards of the object, all but the last one whole.
    pub shards: usize,
    /// Where its sums begin in the file of the parity.
    pub record: u64,
}

/// Checksums of the shards of a group, checked themselves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sums(Vec<u32>);

/// More of a group is lost than its recovery shards make up for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lost {
    /// Shards of the object that are lost.
    pub shards: usize,
    /// Recovery shards that are there.
    pub recovery: usize,
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { shards, recovery } = self;
        write!(
            f,
            "{shards} shards are lost, {recovery} recovery shards are there"
        )
    }
}

const RECOVERY_SHARDS: usize = RECOVERY as usize;

/// Bytes of sums and recovery shards.
pub(super) const fn record_len(shards: usize, shard: usize) -> usize {
    sums_len(shards) + RECOVERY_SHARDS * shard
}

const fn sums_len(shards: usize) -> usize {
    4 * (shards + RECOVERY_SHARDS + 1)
}

impl Group {
    /// The file of the parity.
    #[must_use]
    pub const fn file(&self) -> FileName {
        self.shape.object.parity()
    }

    /// The bytes of the object.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.start..self.start.saturating_add(self.bytes as u64)
    }

    /// The bytes of the object in one shard; less than a shard in the last one.
    #[must_use]
    pub fn shard_range(&self, nth: usize) -> Range<u64> {
        let shard = self.shape.shard() as u64;
        let start = self.start.saturating_add(nth as u64 * shard);
        let end = self.range().end;
        start.min(end)..start.saturating_add(shard).min(end)
    }

    /// Bytes of its shards, the filling of the last one included: the length of a buffer for
    /// them.
    #[must_use]
    pub const fn padded(&self) -> usize {
        self.shards * self.shape.shard()
    }

    /// Bytes of its sums and recovery shards.
    #[must_use]
    pub const fn record_len(&self) -> usize {
        record_len(self.shards, self.shape.shard())
    }

    /// Bytes of its sums.
    #[must_use]
    pub const fn sums_len(&self) -> usize {
        sums_len(self.shards)
    }

    fn place(&self) -> Place {
        self.shape.place(self.record)
    }

    fn sum(&self, nth: usize, bytes: &[u8]) -> u32 {
        self.shape.crc(&[self.index.into(), nth as u64], bytes)
    }

    /// The sums and the recovery shards of `data`, which is as long as [`Group::padded`] says.
    pub fn encode(&self, data: &[u8]) -> Result<Vec<u8>> {
        let error = |e: &dyn std::fmt::Display| self.place().error("parity", "shards", e);
        let shards: Vec<&[u8]> = data.chunks(self.shape.shard()).collect();
        let recovery = reed_solomon_simd::encode(self.shards, RECOVERY_SHARDS, &shards)
            .map_err(|e| error(&e))?;
        let mut record = Vec::with_capacity(self.record_len());
        let all = shards
            .iter()
            .copied()
            .chain(recovery.iter().map(Vec::as_slice));
        for (nth, shard) in all.enumerate() {
            record.put_u32(self.sum(nth, shard));
        }
        let crc = self.shape.crc(&[self.index.into()], &record);
        record.put_u32(crc);
        for shard in &recovery {
            record.extend_from_slice(shard);
        }
        Ok(record)
    }

    /// Reads the sums that a record begins with.
    pub fn sums(&self, record: &[u8]) -> Result<Sums> {
        let mut t = Take::new(record, self.place(), "sums of parity");
        let bytes = t.slice(self.sums_len() - 4)?;
        let at = t;
        let (got, expected) = (t.u32()?, self.shape.crc(&[self.index.into()], bytes));
        if got != expected {
            let got = format_args!("{got:08x}").to_string();
            return Err(at.error(format_args!("checksum {expected:08x}"), got));
        }
        let mut t = Take::new(bytes, self.place(), "sums of parity");
        let sums = (0..self.shards + RECOVERY_SHARDS).map(|_| t.u32());
        Ok(Sums(sums.collect::<Result<_>>()?))
    }

    /// The shards of the object that are not what they were, those that could not be read
    /// included.
    #[must_use]
    pub fn bad_shards(&self, sums: &Sums, data: &[u8], unreadable: &[usize]) -> Vec<usize> {
        let shards = data
            .chunks(self.shape.shard())
            .chain(std::iter::repeat(&[][..]));
        let wrong = |(nth, shard): &(usize, &[u8])| {
            unreadable.contains(nth) || sums.0.get(*nth) != Some(&self.sum(*nth, shard))
        };
        let bad = shards.take(self.shards).enumerate().filter(wrong);
        bad.map(|(nth, _)| nth).collect()
    }

    /// The recovery shards of a record, with their places, that are what they were.
    fn recovery<'r>(&self, sums: &Sums, record: &'r [u8]) -> Vec<(usize, &'r [u8])> {
        let shards = record.get(self.sums_len()..).unwrap_or_default();
        let shards = shards.chunks(self.shape.shard()).take(RECOVERY_SHARDS);
        let right = |(nth, shard): &(usize, &[u8])| {
            let at = self.shards + nth;
            sums.0.get(at) == Some(&self.sum(at, shard))
        };
        shards.enumerate().filter(right).collect()
    }

    /// How many recovery shards of a record are damaged.
    #[must_use]
    pub fn bad_recovery(&self, sums: &Sums, record: &[u8]) -> usize {
        RECOVERY_SHARDS - self.recovery(sums, record).len()
    }

    /// Makes the shards `bad` of `data`, which is as long as [`Group::padded`] says, again from the
    /// others and from the record.
    pub fn heal(
        &self,
        sums: &Sums,
        data: &mut [u8],
        bad: &[usize],
        record: &[u8],
    ) -> std::result::Result<(), Lost> {
        let recovery = self.recovery(sums, record);
        let lost = Lost {
            shards: bad.len(),
            recovery: recovery.len(),
        };
        if bad.is_empty() {
            return Ok(());
        }
        if bad.len() > recovery.len() {
            return Err(lost);
        }
        let shard = self.shape.shard();
        let good = data
            .chunks(shard)
            .enumerate()
            .filter(|(n, _)| !bad.contains(n));
        let made = reed_solomon_simd::decode(self.shards, RECOVERY_SHARDS, good, recovery);
        // Not more of any is missing than there is recovery: only bytes of the wrong length fail.
        let made = made.map_err(|_| lost)?;
        for nth in bad {
            let bytes = made
                .get(nth)
                .filter(|b| sums.0.get(*nth) == Some(&self.sum(*nth, b)));
            let room = data.get_mut(nth * shard..(nth + 1) * shard);
            match (bytes, room) {
                (Some(bytes), Some(room)) => room.copy_from_slice(bytes),
                _ => return Err(lost),
            }
        }
        Ok(())
    }
}

const _: () = assert!(SHARDS as usize + RECOVERY_SHARDS <= u16::MAX as usize);
