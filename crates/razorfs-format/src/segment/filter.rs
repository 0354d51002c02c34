//! Filter partitions: split-block Bloom filters (with the salts of Parquet's), 10 bits a key, about
//! 1 % false positives, one cache line a question.
//!
//! `blocks u32 | zero u32 | blocks × 8 × u32`. A key's hash chooses the block with its high 32
//! bits and, with its low 32 bits times eight odd constants, one bit in each of the eight words.
//!
//! The hash is SipHash-1-3 with a zero key over the key's bytes; for `D` and `X` without the last
//! byte, so that one question answers for all collision numbers of a name's hash.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use crate::error::{Place, Result};
use crate::key::{Key, Tag};
use crate::segment::header::expect;
use crate::wire::{Put, Take};

/// Bits of filter for each key.
pub const BITS_PER_KEY: usize = 10;
/// Most keys of one partition: 32 KiB of filter.
pub const PARTITION_KEYS: usize = 32 * 1024 * 8 / BITS_PER_KEY;
const BLOCK_BYTES: usize = 32;
const SALT: [u32; 8] = [
    0x47b6_137b,
    0x4497_4d91,
    0x8824_ad5b,
    0xa2b7_289d,
    0x7054_95c7,
    0x2df1_424b,
    0x9efc_4947,
    0x5c6b_fb31,
];

/// The part of `key` that its filter hash covers: all collision numbers share it.
#[must_use]
pub fn filter_prefix(key: &Key) -> &[u8] {
    let bytes = key.as_bytes();
    match key.tag() {
        Tag::Dirent | Tag::Xattr => bytes.split_last().map_or(bytes, |(_, prefix)| prefix),
        Tag::Extent | Tag::Inode | Tag::Link | Tag::Orphan | Tag::Shared | Tag::Held => bytes,
    }
}

/// The hash under which filters know `key`.
#[must_use]
pub fn filter_hash(key: &Key) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(filter_prefix(key));
    hasher.finish()
}

fn masks(hash: u64) -> impl Iterator<Item = u32> {
    let low = hash as u32;
    SALT.into_iter()
        .map(move |salt| 1 << (low.wrapping_mul(salt) >> 27))
}

fn block_of(hash: u64, blocks: usize) -> usize {
    (((hash >> 32) * blocks as u64) >> 32) as usize
}

/// Builds the filter of these hashes.
#[must_use]
pub fn encode(hashes: &[u64]) -> Vec<u8> {
    let blocks = (hashes.len() * BITS_PER_KEY)
        .div_ceil(BLOCK_BYTES * 8)
        .max(1);
    let mut words = vec![[0u32; 8]; blocks];
    for hash in hashes {
        if let Some(block) = words.get_mut(block_of(*hash, blocks)) {
            for (word, mask) in block.iter_mut().zip(masks(*hash)) {
                *word |= mask;
            }
        }
    }
    let mut out = Vec::with_capacity(8 + blocks * BLOCK_BYTES);
    out.put_u32(blocks as u32);
    out.put_u32(0);
    for word in words.as_flattened() {
        out.put_u32(*word);
    }
    out
}

/// A filter partition in memory.
#[derive(Clone, Copy, Debug)]
pub struct Filter<'a>(&'a [u8]);

impl<'a> Filter<'a> {
    /// The filter that fills `bytes`.
    pub fn parse(bytes: &'a [u8], place: Place) -> Result<Self> {
        let mut t = Take::new(bytes, place, "filter");
        let start = t;
        let blocks = t.u32()? as usize;
        expect(&mut t, Take::u32, 0)?;
        if blocks == 0 || blocks.checked_mul(BLOCK_BYTES) != Some(t.rest().len()) {
            return Err(start.error(format_args!("blocks of {} bytes", t.rest().len()), blocks));
        }
        Ok(Self(t.rest()))
    }

    /// `false`: no key with this hash is there.
    #[must_use]
    pub fn may_hold(&self, hash: u64) -> bool {
        let (blocks, _) = self.0.as_chunks::<BLOCK_BYTES>();
        let Some(block) = blocks.get(block_of(hash, blocks.len())) else {
            return true;
        };
        let (words, _) = block.as_chunks::<4>();
        words
            .iter()
            .zip(masks(hash))
            .all(|(word, mask)| u32::from_le_bytes(*word) & mask != 0)
    }
}
