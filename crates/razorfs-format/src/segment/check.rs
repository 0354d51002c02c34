//! A whole segment checked against what the manifest says of it: every byte belongs to something
//! that is checksummed, the index tells the truth about the blocks, and filters deny no key.

use crate::error::Result;
use crate::ids::{Epoch, VolumeId};
use crate::key::Key;
use crate::manifest::SegmentMeta;
use crate::segment::seal::unseal;
use crate::segment::{
    Block, BlockKind, Filter, Footer, HEADER_LEN, Handle, Header, Identity, Index, IndexEntry,
    Position, ValueBuf, filter_hash,
};

/// Is called with key, epoch and value of every record; a tombstone has no value.
pub type EachRecord<'a> = dyn FnMut(&Key, Epoch, Option<&[u8]>) + 'a;

/// What was counted on the way.
#[derive(Default)]
struct Tally {
    entries: u64,
    tombstones: u64,
    blocks: u32,
    epochs: Option<(Epoch, Epoch)>,
    first: Option<Key>,
    last: Option<(Key, Epoch)>,
    /// One past the last byte that was accounted for.
    end: u64,
}

impl Tally {
    fn record(&mut self, key: Key, epoch: Epoch) -> bool {
        let ordered = self
            .last
            .is_none_or(|(k, e)| k < key || (k == key && e > epoch));
        self.entries += 1;
        self.first.get_or_insert(key);
        self.last = Some((key, epoch));
        let (low, high) = self.epochs.unwrap_or((epoch, epoch));
        self.epochs = Some((low.min(epoch), high.max(epoch)));
        ordered
    }
}

struct Checker<'a> {
    id: Identity,
    bytes: &'a [u8],
    tally: Tally,
}

/// Checks segment file `bytes` of `volume`, which the manifest describes as `meta`, and calls
/// `each` with every record. Stops at the first thing that is wrong.
pub fn check_segment(
    bytes: &[u8],
    volume: VolumeId,
    meta: &SegmentMeta,
    each: &mut EachRecord<'_>,
) -> Result<()> {
    let id = Identity {
        volume,
        segment: meta.id,
        tag: meta.tag,
    };
    let header = Header::decode(bytes, id)?;
    let at = bytes.len().saturating_sub(super::FOOTER_LEN);
    let footer = bytes.get(at..).unwrap_or_default();
    let footer = Footer::decode(footer, id, meta.footer_crc, at as u64)?;
    let mut checker = Checker {
        id,
        bytes,
        tally: Tally::default(),
    };
    checker.tally.end = HEADER_LEN as u64;
    let raw = checker.unseal(BlockKind::Top, footer.top)?;
    let top = Index::parse(id.tag, true, &raw, id.place(u64::from(footer.top.offset)))?;
    for i in 0..top.len() {
        if let Some(entry) = top.get(i)? {
            checker.partition(&entry, each)?;
        }
    }
    checker.follows(footer.top)?;
    let tally = &checker.tally;
    let footer_says = (
        footer.entries,
        footer.tombstones,
        footer.blocks,
        Some((footer.epoch_min, footer.epoch_max)),
        Some(footer.first),
        Some(footer.last),
        footer.bytes,
    );
    let found = (
        tally.entries,
        tally.tombstones,
        tally.blocks,
        tally.epochs,
        tally.first,
        tally.last.map(|(key, _)| key),
        tally.end + super::FOOTER_LEN as u64,
    );
    let manifest_says = (
        meta.entries,
        meta.tombstones,
        footer.blocks,
        Some((meta.epoch_min, meta.epoch_max)),
        Some(meta.first),
        Some(meta.last),
        meta.bytes,
    );
    let header_says = (header.epoch_min, header.epoch_max);
    if footer_says != found
        || manifest_says != found
        || header_says != (footer.epoch_min, footer.epoch_max)
        || found.6 != bytes.len() as u64
    {
        return Err(id.place(at as u64).error(
            "segment totals",
            format_args!("{manifest_says:?} of {} bytes", bytes.len()),
            format_args!("{found:?}"),
        ));
    }
    Ok(())
}

impl Checker<'_> {
    fn unseal(&self, kind: BlockKind, handle: Handle) -> Result<Box<[u8]>> {
        let start = handle.offset as usize;
        let bytes = self
            .bytes
            .get(start..start.saturating_add(handle.len as usize));
        unseal(self.id, kind, handle, bytes.unwrap_or_default())
    }

    /// The block at `handle` must follow what was seen before.
    fn follows(&mut self, handle: Handle) -> Result<()> {
        if u64::from(handle.offset) != self.tally.end {
            let place = self.id.place(self.tally.end);
            return Err(place.error("segment", "a block here", format_args!("{handle:?}")));
        }
        self.tally.end += u64::from(handle.len);
        Ok(())
    }

    fn partition(&mut self, entry: &IndexEntry, each: &mut EachRecord<'_>) -> Result<()> {
        let place = self.id.place(u64::from(entry.handle.offset));
        let raw = self.unseal(BlockKind::Index, entry.handle)?;
        let index = Index::parse(self.id.tag, false, &raw, place)?;
        let filter = match entry.filter.len {
            0 => None,
            _ => Some(self.unseal(BlockKind::Filter, entry.filter)?),
        };
        let filter = match &filter {
            Some(raw) => Some(Filter::parse(
                raw,
                self.id.place(entry.filter.offset.into()),
            )?),
            None => None,
        };
        // Wider than what they are compared with: no number of records wraps around.
        let mut sums = (0, 0, Epoch(0));
        for i in 0..index.len() {
            if let Some(block) = index.get(i)? {
                self.block(&block, filter, each)?;
                sums.0 += u64::from(block.entries);
                sums.1 += u64::from(block.tombstones);
                sums.2 = sums.2.max(block.epoch_max);
            }
        }
        if entry.filter.len != 0 {
            self.follows(entry.filter)?;
        }
        self.follows(entry.handle)?;
        self.agrees(entry, sums)
    }

    fn agrees(&self, entry: &IndexEntry, sums: (u64, u64, Epoch)) -> Result<()> {
        let last = self.tally.last.map(|(key, _)| key);
        let says = (
            u64::from(entry.entries),
            u64::from(entry.tombstones),
            entry.epoch_max,
        );
        if Some(entry.last) == last && says == sums {
            return Ok(());
        }
        let place = self.id.place(u64::from(entry.handle.offset));
        Err(place.error(
            "what the index says of a block",
            format_args!("{last:?}, {sums:?}"),
            format_args!("{entry:?}"),
        ))
    }

    fn block(
        &mut self,
        entry: &IndexEntry,
        filter: Option<Filter<'_>>,
        each: &mut EachRecord<'_>,
    ) -> Result<()> {
        self.follows(entry.handle)?;
        let place = self.id.place(u64::from(entry.handle.offset));
        let raw = self.unseal(BlockKind::Data, entry.handle)?;
        let block = Block::parse(self.id.tag, &raw, place)?;
        block.check()?;
        let mut position = Position::default();
        let mut room = ValueBuf::default();
        let mut sums = (0, 0, Epoch(0));
        while let Some(record) = block.next(&mut position, &mut room)? {
            if !self.tally.record(record.key, record.epoch) {
                return Err(place.error("segment block", "records in order", record.key_text()));
            }
            if filter.is_some_and(|f| !f.may_hold(filter_hash(&record.key))) {
                return Err(place.error("filter", "the key of a record", record.key_text()));
            }
            sums.0 += 1;
            sums.1 += u64::from(record.value.is_none());
            sums.2 = sums.2.max(record.epoch);
            each(&record.key, record.epoch, record.value);
        }
        self.tally.blocks = self.tally.blocks.saturating_add(1);
        self.tally.tombstones += sums.1;
        self.agrees(entry, sums)
    }
}
