//! Finding the blocks of a segment without its index, for repairs.
//!
//! Blocks follow each other from the header on, and each tells at its end where it began: its
//! checksum covers everything from its beginning. So the end of a block whose beginning is known
//! is the first place where the checksum fits. Behind a damaged block the next one begins at some
//! later place that looks like an end, and has an end of its own.

use super::HEADER_LEN;
use super::seal::{BlockKind, Handle, Identity, RAW_MAX, TRAILER_LEN};
use crate::crc::Crc;
use crate::record::Codec;

const KINDS: [BlockKind; 4] = [
    BlockKind::Data,
    BlockKind::Index,
    BlockKind::Top,
    BlockKind::Filter,
];
/// Bytes that are looked at to find where blocks go on behind damaged ones, at most.
const EFFORT: usize = 1 << 30;

/// A block that was found, and what it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FoundBlock {
    /// What it is.
    pub kind: BlockKind,
    /// Where it is, as its parent would say it.
    pub handle: Handle,
}

/// The blocks of segment `id`, of any kind, in the file `bytes`, in order. Whether anything is
/// between two of them their places tell.
#[must_use]
pub fn find_blocks(id: Identity, bytes: &[u8]) -> Vec<FoundBlock> {
    let mut found = Vec::new();
    let mut at = HEADER_LEN;
    let mut effort = EFFORT;
    while at < bytes.len() {
        if let Some(block) = block_at(id, bytes, at, &mut effort) {
            found.push(block);
            at += block.handle.len as usize;
            continue;
        }
        let next = (at + TRAILER_LEN + 1..bytes.len())
            .filter(|end| raw_len_before(bytes, *end).is_some())
            .find(|end| effort > 0 && block_at(id, bytes, *end, &mut effort).is_some());
        match next {
            Some(next) => at = next,
            None => break,
        }
    }
    found
}

/// What the trailer that would end at `end` says, if it can be one.
fn raw_len_before(bytes: &[u8], end: usize) -> Option<(Codec, usize)> {
    let trailer = bytes.get(end.checked_sub(TRAILER_LEN)?..end)?;
    let [codec, len @ ..] = trailer.first_chunk::<5>()?;
    let raw_len = u32::from_le_bytes(*len) as usize;
    let codec = Codec::from_byte(*codec)?;
    (1..=RAW_MAX).contains(&raw_len).then_some((codec, raw_len))
}

/// The block that begins at `start`.
fn block_at(id: Identity, bytes: &[u8], start: usize, effort: &mut usize) -> Option<FoundBlock> {
    let offset = u32::try_from(start).ok()?;
    let mut sums = KINDS.map(|kind| (kind, Crc::seeded(&id.seed(kind, offset))));
    let mut summed = start;
    let most = bytes.len().min(start + RAW_MAX + TRAILER_LEN);
    for end in start + TRAILER_LEN..=most {
        *effort = effort.saturating_sub(1);
        let Some((codec, raw_len)) = raw_len_before(bytes, end) else {
            continue;
        };
        let stored = end - start - TRAILER_LEN;
        let fits = match codec {
            Codec::None => stored == raw_len,
            Codec::Lz4 | Codec::Zstd => stored < raw_len,
        };
        if !fits {
            continue;
        }
        let (more, crc) = (bytes.get(summed..end - 4)?, bytes.get(end - 4..end)?);
        *effort = effort.saturating_sub(more.len());
        summed = end - 4;
        let crc = u32::from_le_bytes(*crc.first_chunk()?);
        sums = sums.map(|(kind, sum)| (kind, sum.with(more)));
        let right = sums.iter().find(|(_, sum)| sum.clone().finish() == crc);
        if let Some((kind, _)) = right {
            let len = (end - start) as u32;
            let handle = Handle { offset, len, crc };
            return Some(FoundBlock {
                kind: *kind,
                handle,
            });
        }
        if *effort == 0 {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Branch, Epoch, Ino, SegmentId, VolumeId};
    use crate::key::{Key, Tag};
    use crate::segment::{SegmentBuilder, Style};

    fn segment(codec: Codec, n: u64) -> (Identity, Vec<u8>) {
        let id = Identity {
            volume: VolumeId(7),
            segment: SegmentId(3),
            tag: Tag::Extent,
        };
        let style = Style {
            block_bytes: 1000,
            codec,
            filter: true,
        };
        let mut builder = SegmentBuilder::new(id, style);
        for i in 0..n {
            let key = Key::extent(Branch::HEAD, Ino(i / 3), i % 3);
            let value: Vec<u8> = (0..40 + i % 7).map(|b| (b * b + i) as u8 / 9).collect();
            builder.push(key, Epoch(1), Some(&value)).unwrap();
        }
        // What the manifest would say of it is not asked here.
        drop(builder.finish(0, 1));
        (id, builder.waiting().0.to_vec())
    }

    fn data(found: &[FoundBlock]) -> Vec<Handle> {
        let data = found.iter().filter(|b| b.kind == BlockKind::Data);
        data.map(|b| b.handle).collect()
    }

    #[test]
    fn all_blocks_are_found_without_an_index() {
        for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
            let (id, bytes) = segment(codec, 9000);
            let found = find_blocks(id, &bytes);
            let mut end = HEADER_LEN as u32;
            for block in &found {
                assert_eq!(block.handle.offset, end);
                end += block.handle.len;
            }
            let footer = crate::segment::FOOTER_LEN;
            assert_eq!(end as usize, bytes.len() - footer, "{codec:?}");
            assert!(data(&found).len() > 200);
            assert_eq!(found.last().unwrap().kind, BlockKind::Top);
        }
    }

    #[test]
    fn a_damaged_block_hides_itself_alone() {
        let (id, bytes) = segment(Codec::Lz4, 2000);
        let all = data(&find_blocks(id, &bytes));
        let mut rng = 1u64;
        for _ in 0..60 {
            rng = rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let victim = all[(rng >> 33) as usize % all.len()];
            // Not in the trailer, which would hide the beginning of the next block, too.
            let at = victim.offset + (rng >> 20) as u32 % (victim.len - TRAILER_LEN as u32);
            let mut hurt = bytes.clone();
            hurt[at as usize] ^= 0x10;
            let left = data(&find_blocks(id, &hurt));
            let expected: Vec<Handle> = all.iter().filter(|h| **h != victim).copied().collect();
            assert_eq!(left, expected, "damage at {at}");
        }
    }

    #[test]
    fn damage_of_any_size_never_makes_a_block() {
        let (id, bytes) = segment(Codec::None, 2000);
        let all = find_blocks(id, &bytes);
        for from in (64..bytes.len() - 5000).step_by(1777) {
            let mut hurt = bytes.clone();
            hurt[from..from + 4096].fill(0);
            let left = find_blocks(id, &hurt);
            let mut far = all.iter().filter(|b| {
                let (start, end) = (b.handle.offset, b.handle.offset + b.handle.len);
                end as usize <= from || start as usize > from + 4096 + 1200
            });
            assert!(far.all(|b| left.contains(b)), "damage at {from}");
            assert!(left.iter().all(|b| all.contains(b)), "damage at {from}");
        }
    }
}
