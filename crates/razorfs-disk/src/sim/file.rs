//! One simulated file: what programs see, what is durable, and the changes between.

use std::collections::BTreeSet;
use std::io::IoSlice;
use std::ops::Range;

use super::SimRng;
use super::content::{Content, SECTOR, Sector};
use super::cut::Choose;

#[derive(Clone, Copy)]
enum Kind {
    /// The bytes stand in the arena from here on.
    Write(usize),
    /// The range became zeros and stays allocated.
    Zero,
    /// The range became zeros and its space was given back.
    Punch,
    /// The range was cut off.
    Shrink,
    /// The range got its space; its bytes are as before.
    Reserve,
}

#[derive(Clone)]
struct Change {
    kind: Kind,
    range: Range<u64>,
}

/// A simulated file.
#[derive(Clone, Default)]
pub(super) struct SimFileState {
    /// As programs see it.
    live: Content,
    /// As it is on the disk for certain.
    durable: Content,
    changes: Vec<Change>,
    /// The bytes of pending writes.
    arena: Vec<u8>,
    /// Every length since the last sync.
    lens: Vec<u64>,
    /// Sectors whose bytes in the host's cache are not what the disk has or will get: the host
    /// believes they are clean.
    deceived: BTreeSet<u64>,
    /// How many handles are open.
    pub(super) handles: usize,
    /// Whether its space is counted: not any more once its name is gone.
    pub(super) counted: bool,
    /// Whether nobody can reach it any more.
    pub(super) forgotten: bool,
}

fn sectors(range: &Range<u64>) -> Range<u64> {
    let sector = SECTOR as u64;
    if range.is_empty() {
        return 0..0;
    }
    range.start / sector..range.end.div_ceil(sector)
}

/// What of `sector` the `range` covers, as positions in the sector.
fn part_of(sector: u64, range: &Range<u64>) -> Range<usize> {
    let start = sector * SECTOR as u64;
    let from = range.start.saturating_sub(start).min(SECTOR as u64) as usize;
    let to = range.end.saturating_sub(start).min(SECTOR as u64) as usize;
    from..to
}

impl SimFileState {
    /// A file whose bytes are all durable.
    pub(super) fn durable(content: Content) -> Self {
        Self {
            live: content.clone(),
            durable: content,
            counted: true,
            ..Self::default()
        }
    }

    pub(super) fn live(&self) -> &Content {
        &self.live
    }

    pub(super) fn durable_content(&self) -> &Content {
        &self.durable
    }

    /// Frees the bytes of a file that nobody can reach any more.
    pub(super) fn forget(&mut self) {
        *self = Self {
            forgotten: true,
            ..Self::default()
        };
    }

    fn push(&mut self, kind: Kind, range: Range<u64>) {
        self.changes.push(Change { kind, range });
    }

    fn note_len(&mut self, before: u64) {
        let len = self.live.len();
        if len != before {
            self.lens.push(len);
        }
    }

    /// Writes the first `limit` bytes of `bufs`.
    pub(super) fn write(&mut self, bufs: &[IoSlice<'_>], offset: u64, limit: u64) {
        let before = self.live.len();
        let at = self.arena.len();
        for buf in bufs {
            let left = (limit as usize).saturating_sub(self.arena.len() - at);
            let (part, _) = buf.split_at(left.min(buf.len()));
            self.arena.extend_from_slice(part);
        }
        if let Some(data) = self.arena.get(at..).filter(|d| !d.is_empty()) {
            self.live.write(offset, data);
            let end = offset + data.len() as u64;
            self.push(Kind::Write(at), offset..end);
            self.note_len(before);
        }
    }

    /// A write that the host believes in and the disk never gets.
    pub(super) fn write_lost(&mut self, bufs: &[IoSlice<'_>], offset: u64) {
        let before = self.live.len();
        let mut at = offset;
        for buf in bufs {
            self.live.write(at, buf);
            at += buf.len() as u64;
        }
        self.note_len(before);
        self.deceived.extend(sectors(&(offset..at)));
    }

    /// The disk writes `bytes` here although nobody asked for it; what lies behind the end is
    /// dropped.
    pub(super) fn hit(&mut self, offset: u64, bytes: &[u8]) {
        let end = self.durable.len().min(offset + bytes.len() as u64);
        let keep = end.saturating_sub(offset) as usize;
        let bytes = bytes.get(..keep).unwrap_or_default();
        self.durable.write(offset, bytes);
        self.deceived
            .extend(sectors(&(offset..offset + keep as u64)));
    }

    /// Flips one bit of the medium, and of the cache so that it is seen at once.
    pub(super) fn flip(&mut self, byte: u64, bit: u8) -> bool {
        let mut found = false;
        for content in [&mut self.durable, &mut self.live] {
            let mut old = [0];
            if content.read(byte, &mut old) == 1 {
                content.write(byte, &old.map(|b| b ^ (1 << (bit & 7))));
                found = true;
            }
        }
        found
    }

    pub(super) fn allocate(&mut self, range: Range<u64>, zero: bool) {
        let before = self.live.len();
        if zero {
            self.live.zero(range.clone(), true);
            self.push(Kind::Zero, range.clone());
        } else {
            self.live.reserve(range.clone());
            self.push(Kind::Reserve, range.clone());
        }
        if range.end > before {
            self.live.set_len(range.end);
        }
        self.note_len(before);
    }

    pub(super) fn punch(&mut self, range: Range<u64>) {
        let range = range.start..range.end.min(self.live.len());
        if range.start < range.end {
            self.live.zero(range.clone(), false);
            self.push(Kind::Punch, range);
        }
    }

    pub(super) fn set_len(&mut self, len: u64) {
        let before = self.live.len();
        let end = before.min(self.live.extent().max(self.durable.extent()));
        self.live.set_len(len);
        // Growing brings nothing but zeros where already nothing but zeros was.
        if len < end {
            self.push(Kind::Shrink, len..end);
        }
        self.note_len(before);
    }

    /// Reads what programs see; with `uncached` what the disk would answer.
    pub(super) fn read(&self, offset: u64, buf: &mut [u8], uncached: bool) -> usize {
        let n = self.live.read(offset, buf);
        if uncached && !self.deceived.is_empty() {
            let range = offset..offset + n as u64;
            let dirty = |s: u64| self.changes.iter().any(|c| sectors(&c.range).contains(&s));
            // Reading past the cache first writes out what is dirty in it.
            for sector in self.deceived.range(sectors(&range)).filter(|s| !dirty(**s)) {
                let on_disk = self.durable.sector(*sector);
                let part = part_of(*sector, &range);
                let to = (*sector * SECTOR as u64 + part.start as u64 - offset) as usize;
                if let (Some(room), Some(bytes)) =
                    (buf.get_mut(to..to + part.len()), on_disk.get(part))
                {
                    room.copy_from_slice(bytes);
                }
            }
        }
        n
    }

    /// Everything pending becomes durable.
    pub(super) fn sync(&mut self) {
        if self.deceived.is_empty() {
            for change in &self.changes {
                self.durable.take_pages(&self.live, change.range.clone());
            }
        } else {
            for sector in self.changes.iter().flat_map(|c| sectors(&c.range)) {
                self.durable.set_sector(sector, &self.live.sector(sector));
                self.deceived.remove(&sector);
            }
        }
        self.durable.clip(self.live.len());
        self.settle();
        self.lens.clear();
    }

    fn settle(&mut self) {
        self.changes.clear();
        self.arena.clear();
    }

    /// A sync that fails: the host forgets which pages were dirty. With a generator each sector
    /// may have reached the disk before the error, without one none has. The length stays
    /// pending.
    pub(super) fn fail_sync(&mut self, rng: Option<&mut SimRng>) {
        let touched = self.changes.iter().flat_map(|c| sectors(&c.range));
        let touched: BTreeSet<u64> = touched.collect();
        if let Some(rng) = rng {
            let len = self.durable.len();
            let reached = |_: &u64| rng.chance(1, 2);
            for sector in touched.iter().copied().filter(reached) {
                self.durable.set_sector(sector, &self.live.sector(sector));
            }
            // What reached the disk behind the durable length is not part of the file yet.
            self.durable.clip(len);
        }
        self.deceived.extend(touched);
        self.settle();
    }

    /// The host gives up its clean pages: what it was deceived about comes to light.
    pub(super) fn drop_cache(&mut self) {
        let len = self.live.len();
        for sector in std::mem::take(&mut self.deceived) {
            self.live.set_sector(sector, &self.durable.sector(sector));
        }
        self.live.clip(len);
    }

    /// What a power cut leaves: each sector in any of its versions, and any of the lengths.
    pub(super) fn cut(&self, choose: &mut dyn Choose) -> Content {
        choose.next_file();
        let mut kept = self.durable.clone();
        let mut lens = vec![kept.len()];
        lens.extend(&self.lens);
        lens.dedup();
        let (mut order, versions) = self.versions();
        order.sort_by_key(|(sector, _)| *sector);
        for group in order.chunk_by(|a, b| a.0 == b.0) {
            let newer = choose.choose(group.len() + 1);
            let version = newer.checked_sub(1).and_then(|v| group.get(v));
            if let Some((sector, version)) = version
                && let Some(bytes) = versions.get(*version)
            {
                kept.set_sector(*sector, bytes);
            }
        }
        let len = match lens.len() {
            1 => 0,
            n => choose.choose(n),
        };
        kept.clip(lens.get(len).copied().unwrap_or_default());
        kept
    }

    /// Every version that a sector had since the last sync, after the durable one: sectors with
    /// the number of their version, in the order of time.
    fn versions(&self) -> (Vec<(u64, usize)>, Vec<Sector>) {
        let mut order = Vec::new();
        let mut versions = Vec::new();
        let mut now = self.durable.clone();
        for sector in &self.deceived {
            // The cache is what later partial writes of the sector are laid over.
            now.set_sector(*sector, &self.live.sector(*sector));
        }
        for change in &self.changes {
            for sector in sectors(&change.range) {
                let part = part_of(sector, &change.range);
                let old = now.sector(sector);
                let mut new = old;
                let room = new.get_mut(part.clone()).unwrap_or_default();
                match change.kind {
                    Kind::Reserve => continue,
                    Kind::Write(at) => {
                        let into = sector * SECTOR as u64 + part.start as u64 - change.range.start;
                        let at = at + into as usize;
                        let bytes = self.arena.get(at..at + part.len());
                        room.copy_from_slice(bytes.unwrap_or_default());
                    }
                    Kind::Zero | Kind::Punch | Kind::Shrink if now.is_blank(sector) => continue,
                    Kind::Zero | Kind::Punch | Kind::Shrink => room.fill(0),
                }
                if new != old || self.deceived.contains(&sector) {
                    now.set_sector(sector, &new);
                    order.push((sector, versions.len()));
                    versions.push(new);
                }
            }
        }
        (order, versions)
    }
}
