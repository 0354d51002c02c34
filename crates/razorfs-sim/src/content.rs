//! The bytes of a file of the model: 4 KiB chunks shared between states, none of them all zero,
//! so that equal contents are equal maps, and a hash that is kept up to date.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::rng::{hash_bytes, mix, scatter};

const CHUNK: u64 = 4096;

#[derive(Clone, Debug)]
struct Chunk {
    bytes: Box<[u8]>,
    hash: u64,
}

/// Sparse bytes without a length: what was never written reads as zeros.
#[derive(Clone, Debug, Default)]
pub struct Content {
    chunks: BTreeMap<u64, Arc<Chunk>>,
    hash: u64,
}

impl Content {
    /// A hash of the bytes: equal contents have equal hashes however they were written.
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    fn set(&mut self, index: u64, bytes: Option<Box<[u8]>>) {
        let new = bytes
            .filter(|b| **b != [0; CHUNK as usize])
            .map(|bytes| Chunk {
                hash: scatter(mix(hash_bytes(&bytes), index)),
                bytes,
            });
        let added = new.as_ref().map_or(0, |c| c.hash);
        let old = match new {
            Some(chunk) => self.chunks.insert(index, Arc::new(chunk)),
            None => self.chunks.remove(&index),
        };
        let removed = old.map_or(0, |c| c.hash);
        self.hash = self.hash.wrapping_sub(removed).wrapping_add(added);
    }

    /// Lays `data` at `offset`.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let (index, within) = (at / CHUNK, (at % CHUNK) as usize);
            let n = rest.len().min(CHUNK as usize - within);
            let (now, later) = rest.split_at(n);
            let mut bytes = match self.chunks.get(&index) {
                Some(chunk) => chunk.bytes.clone(),
                None => vec![0; CHUNK as usize].into(),
            };
            if let Some(room) = bytes.get_mut(within..within + n) {
                room.copy_from_slice(now);
            }
            self.set(index, Some(bytes));
            at += n as u64;
            rest = later;
        }
    }

    /// Makes `from..to` read as zeros.
    pub fn zero(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        let first = from / CHUNK;
        let touched: Vec<u64> = self
            .chunks
            .range(first..=(to - 1) / CHUNK)
            .map(|c| *c.0)
            .collect();
        for index in touched {
            let start = index * CHUNK;
            let lo = from.saturating_sub(start).min(CHUNK) as usize;
            let hi = to.saturating_sub(start).min(CHUNK) as usize;
            let bytes = self.chunks.get(&index).map(|c| {
                let mut bytes = c.bytes.clone();
                if let Some(room) = bytes.get_mut(lo..hi) {
                    room.fill(0);
                }
                bytes
            });
            self.set(index, bytes);
        }
    }

    /// Takes `from..to` out; both are multiples of 4 KiB.
    pub fn collapse(&mut self, from: u64, to: u64) {
        self.zero(from, to);
        let tail = self.chunks.split_off(&(to / CHUNK));
        for (index, chunk) in tail {
            self.hash = self.hash.wrapping_sub(chunk.hash);
            self.set(index - (to - from) / CHUNK, Some(chunk.bytes.clone()));
        }
    }

    /// Puts `len` zeros in at `at`; both are multiples of 4 KiB.
    pub fn insert(&mut self, at: u64, len: u64) {
        let tail = self.chunks.split_off(&(at / CHUNK));
        for (index, chunk) in tail {
            self.hash = self.hash.wrapping_sub(chunk.hash);
            self.set(index + len / CHUNK, Some(chunk.bytes.clone()));
        }
    }

    /// Fills `out` with the bytes from `offset` on.
    pub fn read(&self, offset: u64, out: &mut [u8]) {
        out.fill(0);
        let end = offset.saturating_add(out.len() as u64);
        if end == offset {
            return;
        }
        for (index, chunk) in self.chunks.range(offset / CHUNK..=(end - 1) / CHUNK) {
            let start = index * CHUNK;
            let lo = offset.max(start);
            let hi = end.min(start + CHUNK);
            let from = chunk
                .bytes
                .get((lo - start) as usize..(hi - start) as usize);
            let to = out.get_mut((lo - offset) as usize..(hi - offset) as usize);
            if let (Some(from), Some(to)) = (from, to) {
                to.copy_from_slice(from);
            }
        }
    }

    /// The first byte at or after `offset` that is not zero.
    #[must_use]
    pub fn next_nonzero(&self, offset: u64) -> Option<u64> {
        for (index, chunk) in self.chunks.range(offset / CHUNK..) {
            let start = index * CHUNK;
            let skip = offset.saturating_sub(start) as usize;
            let found = chunk.bytes.iter().skip(skip).position(|b| *b != 0);
            if let Some(found) = found {
                return Some(start + (skip + found) as u64);
            }
        }
        None
    }

    /// The first offset at which two contents differ.
    #[must_use]
    pub fn first_difference(&self, other: &Self) -> Option<u64> {
        let mut indexes: Vec<u64> = self
            .chunks
            .keys()
            .chain(other.chunks.keys())
            .copied()
            .collect();
        indexes.sort_unstable();
        let (mut a, mut b) = (vec![0; CHUNK as usize], vec![0; CHUNK as usize]);
        indexes.into_iter().find_map(|index| {
            self.read(index * CHUNK, &mut a);
            other.read(index * CHUNK, &mut b);
            let at = a.iter().zip(&b).position(|(a, b)| a != b)?;
            Some(index * CHUNK + at as u64)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn sparse_bytes_behave_like_a_plain_vector_and_hash_alike() {
        let mut rng = Rng::new(7);
        for _ in 0..50 {
            let mut plain = vec![0u8; 40_000];
            let mut content = Content::default();
            for _ in 0..30 {
                let from = rng.below(plain.len());
                let to = from + rng.below(plain.len() - from);
                let (at, len) = (from / 4096 * 4096, 4096 * (1 + rng.below(3)));
                if rng.chance(15) && at + len < plain.len() {
                    plain.drain(at..at + len);
                    plain.resize(40_000, 0);
                    content.collapse(at as u64, (at + len) as u64);
                } else if rng.chance(15) {
                    plain.splice(at..at, vec![0; len]);
                    plain.truncate(40_000);
                    content.insert(at as u64, len as u64);
                    content.zero(40_000, u64::MAX);
                } else if rng.chance(60) {
                    let byte = rng.next() as u8;
                    plain[from..to].fill(byte);
                    content.write(from as u64, &vec![byte; to - from]);
                } else {
                    plain[from..to].fill(0);
                    content.zero(from as u64, to as u64);
                }
            }
            let mut out = vec![1; plain.len()];
            content.read(0, &mut out);
            assert!(out == plain);
            let mut again = Content::default();
            again.write(0, &plain);
            assert_eq!(again.hash(), content.hash());
            assert_eq!(again.first_difference(&content), None);
            let nonzero = plain.iter().position(|b| *b != 0).map(|p| p as u64);
            assert_eq!(content.next_nonzero(0), nonzero);
        }
    }
}
