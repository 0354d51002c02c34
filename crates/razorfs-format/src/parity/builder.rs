//! Parity of an object that is being written: its bytes come in order, but the first ones may be
//! written again at the end.

use super::{SHARDS, Shape};
use crate::error::Result;
use crate::ids::VolumeId;
use crate::parity::Object;

/// Takes the bytes of an object and gives those of its parity. Holds two groups of the object in
/// memory, and what the parity of the others takes.
pub struct Builder {
    vid: VolumeId,
    object: Object,
    shard: u32,
    first: Vec<u8>,
    /// Of the group after those that are done.
    current: Vec<u8>,
    done: u32,
    records: Vec<u8>,
}

impl Builder {
    /// For an object of shards of `shard` bytes, unless it is small.
    #[must_use]
    pub const fn new(vid: VolumeId, object: Object, shard: u32) -> Self {
        Self {
            vid,
            object,
            shard,
            first: Vec::new(),
            current: Vec::new(),
            done: 1,
            records: Vec::new(),
        }
    }

    fn full(&self) -> usize {
        self.shard as usize * usize::from(SHARDS)
    }

    /// The next bytes of the object.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let full = self.full();
            let group = match self.first.len() < full {
                true => &mut self.first,
                false => &mut self.current,
            };
            let (now, later) = bytes.split_at(bytes.len().min(full - group.len()));
            group.extend_from_slice(now);
            bytes = later;
            if self.current.len() == full {
                // More than a group: shards have their full length.
                let end = (u64::from(self.done) + 1) * full as u64;
                let shape = Shape::new(self.vid, self.object, end, self.shard);
                let record = shape.group(self.done).encode(&self.current)?;
                self.records.extend_from_slice(&record);
                self.current.clear();
                self.done += 1;
            }
        }
        Ok(())
    }

    /// The parity of all that was pushed, after the first bytes were replaced by `head`.
    pub fn finish(mut self, head: &[u8]) -> Result<Vec<u8>> {
        for (byte, new) in self.first.iter_mut().zip(head) {
            *byte = *new;
        }
        let full = self.full() as u64;
        let len = match self.first.len() as u64 {
            short if short < full => short,
            _ => u64::from(self.done) * full + self.current.len() as u64,
        };
        let shape = Shape::new(self.vid, self.object, len, self.shard);
        let mut out = shape.encode();
        let first = shape.group(0);
        self.first.resize(first.padded(), 0);
        out.extend_from_slice(&first.encode(&self.first)?);
        out.append(&mut self.records);
        if !self.current.is_empty() {
            let last = shape.group(self.done);
            self.current.resize(last.padded(), 0);
            out.extend_from_slice(&last.encode(&self.current)?);
        }
        Ok(out)
    }
}
