//! Reading through the layers: memtables, newest first, then the segments.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use razorfs_format::key::Key;
use razorfs_format::layout::FileName;
use razorfs_format::record::{BLOCK, Extent, Fragment, FragmentKind, Shared};
use razorfs_format::timeline::View;
use razorfs_format::{Branch, Ino, PackId, Place, SegmentId};

use super::{Core, Version};
use crate::data::{FrameIdentity, PackReader, lost_bytes};
use crate::tree::Bytes;
use crate::tree::memtable::Memtable;
use crate::tree::piece::Piece;
use crate::{Error, Result};

/// Live records of a scan, and where it goes on.
type Chunk = (Vec<(Key, Bytes)>, Option<Key>);
/// A memtable's part of a chunk.
type Layer = std::vec::IntoIter<(Key, Option<Bytes>)>;

/// Records of segments passed their block's checksum; the place only names the table.
const SEGMENTS: Place = Place::new(FileName::Segment(SegmentId(0)), 0);

/// Records taken from each layer at a time by a scan; few in tests, so that all scans have several.
const CHUNK: usize = if cfg!(test) { 3 } else { 256 };

/// What a reader looks at.
#[derive(Clone, Debug)]
pub(crate) enum At {
    /// The present of a branch.
    Tip(Branch),
    /// A snapshot.
    Snapshot(View),
    /// What was between two snapshots.
    Moment(Arc<Moment>),
}

/// What a branch was once: what a snapshot shows, and what was done since.
pub(crate) struct Moment {
    pub view: View,
    pub since: Arc<Memtable>,
}

impl std::fmt::Debug for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Moment").field(&self.view).finish()
    }
}

impl At {
    /// What was done after what a snapshot shows.
    pub(super) fn since(&self) -> Option<&Arc<Memtable>> {
        match self {
            Self::Moment(moment) => Some(&moment.since),
            Self::Tip(_) | Self::Snapshot(_) => None,
        }
    }
}

/// The layers of the tree as a reader sees them.
#[derive(Clone, Copy)]
pub(crate) struct Sight<'a> {
    pub(super) version: &'a Version,
    view: &'a View,
    /// What lies over all that, as records of the head.
    since: Option<&'a Arc<Memtable>>,
}

impl Version {
    /// The present.
    pub fn head(&self) -> Sight<'_> {
        self.at(&self.head)
    }

    /// What a reader looks at; fails if the branch is gone.
    pub fn view_at<'a>(&'a self, at: &'a At) -> Result<&'a View> {
        match at {
            At::Tip(Branch::HEAD) => Ok(&self.head),
            At::Tip(branch) => self.fork(*branch).ok_or(Error::NotFound),
            At::Snapshot(view) => Ok(view),
            At::Moment(moment) => Ok(&moment.view),
        }
    }

    /// What a reader sees; fails if the branch is gone.
    fn sight<'a>(&'a self, at: &'a At) -> Result<Sight<'a>> {
        let since = at.since();
        let sight = self.at(self.view_at(at)?);
        Ok(Sight { since, ..sight })
    }

    /// What a view shows.
    pub fn at<'a>(&'a self, view: &'a View) -> Sight<'a> {
        Sight {
            version: self,
            view,
            since: None,
        }
    }
}

impl Core {
    /// Runs a read against the newest version. A version that another one replaced meanwhile may
    /// have lost its files, or parts of them, under the reader; the newer one has what it needs.
    pub(super) fn with_sight<R>(
        &self,
        at: &At,
        mut read: impl FnMut(Sight<'_>) -> Result<R>,
    ) -> Result<R> {
        let mut version = self.version.load();
        loop {
            match read(version.sight(at)?) {
                Err(e @ (Error::Disk(_) | Error::Corrupt(_))) => {
                    let newer = self.version.load();
                    if Arc::ptr_eq(&newer, &version) {
                        return Err(e);
                    }
                    version = newer;
                }
                result => return result,
            }
        }
    }

    /// A record; not for extents.
    pub fn get_at(&self, at: &At, key: &Key) -> Result<Option<Bytes>> {
        self.with_sight(at, |sight| sight.get(key))
    }

    /// Hands the records of one table and one inode from `from` to before `to` to `each`, in
    /// order, until it answers false; not for extents.
    pub fn scan_at(
        &self,
        at: &At,
        from: &Key,
        to: &Key,
        each: &mut dyn FnMut(&Key, &Bytes) -> bool,
    ) -> Result<()> {
        let mut start = *from;
        // A range that ends before it begins is as empty as any.
        while start < *to {
            let (records, next) = self.with_sight(at, |sight| sight.chunk(&start, to))?;
            for (key, value) in &records {
                if !each(key, value) {
                    return Ok(());
                }
            }
            match next {
                Some(next) => start = next,
                None => break,
            }
        }
        Ok(())
    }

    /// Reads `out.len()` bytes at `off` of a block; what was never written is zero.
    pub fn read_block_at(
        &self,
        at: &At,
        ino: Ino,
        block: u64,
        off: u32,
        out: &mut [u8],
    ) -> Result<()> {
        let key = Key::extent(Branch::HEAD, ino, block);
        self.with_sight(at, |sight| {
            let pieces = sight.pieces(&key)?;
            // Nothing holds the data of these.
            let mut since = Vec::new();
            if let Some(memtable) = sight.since {
                memtable.pieces(&key, &mut since);
            }
            paint(&pieces, since.len(), &self.reader, &key, off, out)
        })
    }

    /// Tells for each block of `from..to` that has data which bytes are data, in order, until
    /// `each` answers false.
    pub fn extents_at(
        &self,
        at: &At,
        ino: Ino,
        from: u64,
        to: u64,
        each: &mut dyn FnMut(u64, &[Range<u32>]) -> bool,
    ) -> Result<()> {
        let mut start = Key::extent(Branch::HEAD, ino, from);
        let end = Key::extent(Branch::HEAD, ino, to);
        while start < end {
            let (blocks, next) = self.with_sight(at, |sight| {
                let (keys, next) = sight.extent_keys(&start, &end)?;
                let mut blocks = Vec::with_capacity(keys.len());
                for key in keys {
                    blocks.push((key.second(), covered(&sight.pieces(&key)?)));
                }
                Ok((blocks, next))
            })?;
            for (block, runs) in blocks {
                if !runs.is_empty() && !each(block, &runs) {
                    return Ok(());
                }
            }
            match next {
                Some(next) => start = next,
                None => break,
            }
        }
        Ok(())
    }
}

impl<'a> Sight<'a> {
    /// The memtables that are seen, newest first, and which branch's records of each.
    pub(super) fn memtables(self) -> impl Iterator<Item = (&'a Arc<Memtable>, Branch)> {
        let (version, view) = (self.version, self.view);
        let shown = move |m: &'a Arc<Memtable>| Some((m, m.shown_by(view)?));
        let since = self.since.map(|since| (since, Branch::HEAD));
        since
            .into_iter()
            .chain(version.memtables().filter_map(shown))
    }

    /// Its view.
    pub(super) fn view(self) -> &'a View {
        self.view
    }

    /// What the segments show of a range of one table.
    pub(super) fn segments(self, from: &Key, to: &Key) -> crate::tree::Range {
        self.version.levels.range(from, to, self.view)
    }

    fn get(self, key: &Key) -> Result<Option<Bytes>> {
        for (memtable, branch) in self.memtables() {
            if let Some(found) = memtable.get(&key.on(branch)) {
                return Ok(found);
            }
        }
        Ok(self
            .version
            .levels
            .get(key, self.view)?
            .and_then(|record| record.value))
    }

    /// Live records from `from`, and where to go on if there may be more before `to`.
    fn chunk(self, from: &Key, to: &Key) -> Result<Chunk> {
        let (mut layers, horizon) = self.memtable_chunks(from, to);
        let end = horizon.map_or(*to, |last| last.successor());
        let mut below = self.version.levels.range(from, &end, self.view).peekable();
        let mut records = Vec::new();
        let mut next = horizon.map(|last| last.successor());
        loop {
            if records.len() >= CHUNK {
                next = records
                    .last()
                    .map(|(key, _): &(Key, Bytes)| key.successor());
                break;
            }
            let mut least: Option<Key> = None;
            for layer in &layers {
                least = min(least, layer.as_slice().first().map(|(key, _)| *key));
            }
            let below_key = match below.peek() {
                Some(Ok(record)) => Some(record.key),
                Some(Err(_)) => match below.next() {
                    Some(Err(e)) => return Err(e),
                    _ => None,
                },
                None => None,
            };
            let Some(key) = min(least, below_key) else {
                break;
            };
            let mut newest: Option<Option<Bytes>> = None;
            for layer in &mut layers {
                if layer.as_slice().first().is_some_and(|(k, _)| *k == key) {
                    let value = layer.next().and_then(|(_, value)| value);
                    newest = newest.or(Some(value));
                }
            }
            if below_key == Some(key)
                && let Some(record) = below.next()
            {
                let value = record?.value;
                newest = newest.or(Some(value));
            }
            if let Some(Some(value)) = newest {
                records.push((key, value));
            }
        }
        Ok((records, next.filter(|key| key < to)))
    }

    /// A chunk of each memtable's records, newest memtable first, cut where the shortest full
    /// chunk ends; that key is answered too.
    fn memtable_chunks(self, from: &Key, to: &Key) -> (Vec<Layer>, Option<Key>) {
        let chunk = |(memtable, branch): (&Arc<Memtable>, Branch)| {
            let mut chunk = memtable.range(&from.on(branch), &to.on(branch), CHUNK);
            for (key, _) in &mut chunk {
                *key = key.on(Branch::HEAD);
            }
            chunk
        };
        let mut chunks: Vec<_> = self.memtables().map(chunk).collect();
        let full = chunks.iter().filter(|c| c.len() == CHUNK);
        let horizon = full.filter_map(|c| c.last().map(|(key, _)| *key)).min();
        if let Some(last) = horizon {
            for chunk in &mut chunks {
                chunk.retain(|(key, _)| *key <= last);
            }
        }
        (chunks.into_iter().map(Vec::into_iter).collect(), horizon)
    }

    /// The blocks from `from` that any layer knows, and where to go on.
    fn extent_keys(self, from: &Key, to: &Key) -> Result<(BTreeSet<Key>, Option<Key>)> {
        let (layers, horizon) = self.memtable_chunks(from, to);
        let mut keys: BTreeSet<Key> = layers.into_iter().flatten().map(|(key, _)| key).collect();
        let mut next = horizon.map(|last| last.successor());
        let end = next.unwrap_or(*to);
        for (n, record) in self.version.levels.range(from, &end, self.view).enumerate() {
            let key = record?.key;
            if n == CHUNK {
                // The merge goes on from here, so nothing at or after it may be answered yet.
                keys.retain(|k| *k < key);
                next = Some(key);
                break;
            }
            keys.insert(key);
        }
        Ok((keys, next.filter(|key| key < to)))
    }

    /// What lies over a block, newest first, the segments' extent included.
    pub(super) fn pieces(self, key: &Key) -> Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        for (memtable, branch) in self.memtables() {
            if !memtable.pieces(&key.on(branch), &mut pieces) {
                return Ok(pieces);
            }
        }
        for fragment in self.base_extent(key)? {
            pieces.push(Piece::Fixed(fragment.into()));
        }
        Ok(pieces)
    }

    /// Whether memtables show something else in all of these ranges of a block.
    pub fn covers(self, key: &Key, ranges: &[Range<u32>]) -> bool {
        let mut pieces = Vec::new();
        for (memtable, branch) in self.memtables() {
            if !memtable.pieces(&key.on(branch), &mut pieces) {
                return true;
            }
        }
        let mut seen = ranges.to_vec();
        for piece in &pieces {
            let filled = fill(&mut seen, &piece.range(), &mut |_| Ok(()));
            debug_assert!(filled.is_ok());
        }
        seen.is_empty()
    }

    /// How many blocks of the segments share a frame, if any do.
    pub fn shared(self, pack: PackId, pos: u64) -> Result<Option<Shared>> {
        let key = Key::shared(pack, pos);
        let Some(value) = self
            .version
            .levels
            .get(&key, self.view)?
            .and_then(|record| record.value)
        else {
            return Ok(None);
        };
        Ok(Some(Shared::decode(&value, SEGMENTS)?))
    }

    /// The record that the segments have; not for extents.
    pub fn flushed(self, key: &Key) -> Result<Option<Bytes>> {
        let record = self.version.levels.get(key, self.view)?;
        Ok(record.and_then(|record| record.value))
    }

    /// The extent record that the segments have for a block.
    pub fn base_extent(self, key: &Key) -> Result<Vec<Fragment>> {
        let Some(value) = self
            .version
            .levels
            .get(key, self.view)?
            .and_then(|record| record.value)
        else {
            return Ok(Vec::new());
        };
        Ok(Extent::decode(&value, SEGMENTS)?.fragments)
    }
}

fn min(a: Option<Key>, b: Option<Key>) -> Option<Key> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// What is left of `holes` when `range` is filled: calls `fill` with each part.
pub(super) fn fill(
    holes: &mut Vec<Range<u32>>,
    range: &Range<u32>,
    fill: &mut dyn FnMut(Range<u32>) -> Result<()>,
) -> Result<()> {
    let mut left = Vec::with_capacity(holes.len() + 1);
    for hole in holes.drain(..) {
        let part = hole.start.max(range.start)..hole.end.min(range.end);
        if part.is_empty() {
            left.push(hole);
            continue;
        }
        if hole.start < part.start {
            left.push(hole.start..part.start);
        }
        if part.end < hole.end {
            left.push(part.end..hole.end);
        }
        fill(part)?;
    }
    *holes = left;
    Ok(())
}

/// Reads the bytes at `off` that the pieces, newest first, show. The data of the first `unheld` may
/// be gone.
fn paint(
    pieces: &[Piece],
    unheld: usize,
    reader: &PackReader,
    key: &Key,
    off: u32,
    out: &mut [u8],
) -> Result<()> {
    let end = off + out.len() as u32;
    let mut holes = Vec::with_capacity(4);
    holes.push(off..end);
    for (n, piece) in pieces.iter().enumerate() {
        if holes.is_empty() {
            break;
        }
        fill(&mut holes, &piece.range(), &mut |part| {
            let at = (part.start - off) as usize..(part.end - off) as usize;
            let Some(target) = out.get_mut(at) else {
                unreachable!("parts lie inside what is asked for");
            };
            match read_piece(piece, reader, key, part, target) {
                Err(Error::Corrupt(_)) if n < unheld => Err(Error::Overwritten),
                Err(Error::Disk(e)) if n < unheld && e.is_not_found() => Err(Error::Overwritten),
                read => read,
            }
        })?;
    }
    for hole in holes {
        if let Some(target) = out.get_mut((hole.start - off) as usize..(hole.end - off) as usize) {
            target.fill(0);
        }
    }
    Ok(())
}

fn read_piece(
    piece: &Piece,
    reader: &PackReader,
    key: &Key,
    part: Range<u32>,
    out: &mut [u8],
) -> Result<()> {
    let copy = |from: u32, bytes: &[u8], out: &mut [u8]| {
        let at = (part.start - from) as usize..(part.end - from) as usize;
        match bytes.get(at) {
            Some(bytes) => out.copy_from_slice(bytes),
            None => unreachable!("the part lies inside the piece"),
        }
    };
    let fragment = match piece {
        Piece::Ram(ram) => {
            let data = ram.data.read();
            copy(data.off, &data.bytes, out);
            return Ok(());
        }
        Piece::Fixed(fragment) => fragment,
    };
    match &fragment.kind {
        FragmentKind::Hole | FragmentKind::Reserved => out.fill(0),
        FragmentKind::Inline(bytes) => copy(fragment.off, bytes, out),
        FragmentKind::Pack(frame) => {
            let identity = FrameIdentity {
                branch: key.branch(),
                ino: key.ino(),
                block: key.second(),
                // Where the frame began in the block when it was written.
                off: fragment.off.saturating_sub(frame.skip),
                birth: frame.birth,
            };
            let within = part.start - fragment.off..part.end - fragment.off;
            reader.read(frame, &identity, within, out)?;
        }
        FragmentKind::Lost => return Err(lost_bytes(key.ino(), key.second(), &part)),
    }
    Ok(())
}

/// Which bytes of a block are data.
fn covered(pieces: &[Piece]) -> Vec<Range<u32>> {
    let mut holes = Vec::with_capacity(4);
    holes.push(0..BLOCK);
    let mut runs: Vec<Range<u32>> = Vec::new();
    for piece in pieces {
        let hole = matches!(piece, Piece::Fixed(f) if f.kind == FragmentKind::Hole);
        let filled = fill(&mut holes, &piece.range(), &mut |part| {
            if !hole {
                runs.push(part);
            }
            Ok(())
        });
        debug_assert!(filled.is_ok());
    }
    runs.sort_unstable_by_key(|r| r.start);
    let mut joined: Vec<Range<u32>> = Vec::with_capacity(runs.len());
    for run in runs {
        match joined.last_mut() {
            Some(last) if last.end == run.start => last.end = run.end,
            _ => joined.push(run),
        }
    }
    joined
}

#[cfg(test)]
impl Core {
    /// The keys of all live records, in order.
    pub(crate) fn keys(&self) -> Vec<Key> {
        let version = self.version.load_full();
        let head = version.head();
        let mut keys = BTreeSet::new();
        for tag in razorfs_format::key::Tag::ALL {
            for (memtable, branch) in head.memtables() {
                keys.extend(
                    memtable
                        .sorted(branch, tag, |_| ())
                        .into_iter()
                        .map(|(key, ())| key),
                );
            }
            let (from, to) = (Key::first_of(tag), Key::last_of(tag));
            for record in version.levels.range(&from, &to, &version.head) {
                keys.insert(record.unwrap().key);
            }
        }
        let live = |key: &Key| match key.tag() {
            razorfs_format::key::Tag::Extent => !covered(&head.pieces(key).unwrap()).is_empty(),
            _ => head.get(key).unwrap().is_some(),
        };
        keys.into_iter().filter(live).collect()
    }
}
