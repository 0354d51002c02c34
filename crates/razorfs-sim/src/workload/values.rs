//! Numbers, names and bytes that workloads ask with: few of each, and odd ones among them.

use razorfs::Time;
use razorfs_format::record::{BLOCK, FILE_MAX};

use super::Workload;
use crate::model::Model;
use crate::names::{self, NameId};
use crate::op::{Data, Op, Ref, SLOTS};

const BLOCK_BYTES: u64 = BLOCK as u64;

impl Workload {
    pub(super) fn owner(&mut self) -> u32 {
        self.rng
            .pick(&[0, 0, 0, 1, 1000, u32::MAX - 1])
            .copied()
            .unwrap_or(0)
    }

    pub(super) fn mode(&mut self) -> u32 {
        self.rng
            .pick(&[0o644, 0o755, 0o600, 0, 0o777, 0o1777])
            .copied()
            .unwrap_or(0o644)
    }

    pub(super) fn time(&mut self) -> Time {
        let secs = match self.rng.range(0..4) {
            0 => -(self.rng.range(0..4_000_000_000) as i64),
            1 => self.rng.range(0..9_999_999_999) as i64,
            _ => 1_700_000_000 + self.rng.range(0..1000) as i64,
        };
        Time {
            secs,
            nanos: self.rng.range(0..1_000_000_000) as u32,
        }
    }

    pub(super) fn xattr_name(&mut self) -> NameId {
        match self.rng.range(0..40) {
            0 => names::TOO_LONG,
            1 => 8,
            _ => self.rng.range(0..5) as NameId,
        }
    }

    pub(super) fn slot(&mut self) -> u8 {
        self.rng.range(0..u64::from(SLOTS)) as u8
    }

    pub(super) fn name(&mut self) -> NameId {
        if self.odd_names && self.rng.chance(20) {
            return match self.rng.range(0..9) {
                0 => names::TOO_LONG,
                _ => 8 + self.rng.range(0..4) as NameId,
            };
        }
        self.rng.range(0..u64::from(self.names)) as NameId
    }

    pub(super) fn len(&mut self) -> u64 {
        if self.rng.chance(self.big_percent) {
            return match self.rng.range(0..4) {
                0 => BLOCK_BYTES,
                1 => 2 * BLOCK_BYTES + self.rng.range(0..3),
                _ => self.rng.range(0..300_000),
            };
        }
        match self.rng.range(0..100) {
            0 | 1 => 0,
            2..50 => 1 + self.rng.range(0..120),
            50..62 => 2040 + self.rng.range(0..16),
            62..70 => 4096,
            70..90 => self.rng.range(0..8192),
            _ => self.rng.range(0..40_000),
        }
    }

    pub(super) fn data(&mut self) -> Data {
        Data {
            seed: self.rng.next() as u32,
            len: self.len() as u32,
        }
    }

    /// Takes a range out of a file, or puts one in.
    pub(super) fn shift(&mut self, who: Ref, size: u64) -> Op {
        let mut unit = |most| 4096 * self.rng.range(0..most);
        let (mut offset, mut len) = (unit(size.min(1 << 32) / 4096 + 1), 4096 + unit(40));
        match self.rng.range(0..12) {
            0 => (offset, len) = (0, 4096),
            1 | 2 => offset = offset / BLOCK_BYTES * BLOCK_BYTES,
            3 | 4 => len = BLOCK_BYTES * (1 + len % 3),
            5 => offset = size.saturating_sub(1) / 4096 * 4096,
            6 => len = (size / 2).max(1).next_multiple_of(4096),
            7 if self.rng.chance(20) => len += self.rng.range(0..600),
            _ => {}
        }
        if self.rng.chance(40) {
            return Op::Insert { who, offset, len };
        }
        if self.rng.chance(75) {
            // So that something is left behind it.
            let most = size.saturating_sub(offset + 1) / 4096 * 4096;
            len = len.min(most).max(4096);
        }
        Op::Collapse { who, offset, len }
    }

    pub(super) fn offset(&mut self, model: &Model, who: &Ref) -> u64 {
        let node = model.resolve(who).and_then(|i| model.node(i));
        let size = node.map_or(0, |n| n.size);
        if self.huge_offsets && self.rng.chance(8) {
            return match self.rng.range(0..6) {
                0 => FILE_MAX - self.rng.range(0..2) * 1000,
                1 => 1 << 40,
                2 => FILE_MAX / 2,
                _ => (130 << 20) + self.rng.range(0..400 << 20),
            };
        }
        match self.rng.range(0..12) {
            0 | 1 => 0,
            2 | 3 => size,
            4 => size.saturating_sub(self.rng.range(0..100)),
            5 => size.saturating_add(self.rng.range(0..5000)).min(FILE_MAX),
            6 => {
                let block = BLOCK_BYTES * self.rng.range(0..4);
                block.saturating_sub(self.rng.range(0..300))
            }
            7 => 4096 * self.rng.range(0..100),
            8 => self.rng.range(0..400_000),
            _ => self.rng.range(0..size.clamp(1, 1 << 40)),
        }
    }
}
