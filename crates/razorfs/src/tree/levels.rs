//! Which segments there are: for each table the runs that were flushed, newest first, and below
//! them the levels, each sorted and without overlaps. A value: changing it makes another one.

use std::sync::Arc;

use razorfs_format::key::{Key, Tag};
use razorfs_format::manifest::SegmentMeta;
use razorfs_format::segment::filter_hash;
use razorfs_format::timeline::View;
use razorfs_format::{Epoch, SegmentId, VolumeId};

use super::Record;
use super::cache::BlockCache;
use super::merge::{Bounds, Merge, Sorted, Source};
use super::segment_reader::{Segment, SegmentFile};
use crate::Result;
use crate::parity::Host;

/// The segments of one table.
#[derive(Clone, Default)]
pub(super) struct Table {
    /// Runs of level 0, newest first.
    pub(super) runs: Vec<Sorted>,
    /// Level 1 and on; may end in empty ones.
    pub(super) levels: Vec<Sorted>,
}

impl Table {
    fn new(mut segments: Vec<Arc<Segment>>) -> Self {
        segments.sort_unstable_by_key(|s| (s.meta.level, u64::MAX - s.meta.run, s.meta.first));
        let mut table = Self::default();
        let list_of = |s: &Segment| (s.meta.level, if s.meta.level == 0 { s.meta.run } else { 0 });
        for group in segments.chunk_by(|a, b| list_of(a) == list_of(b)) {
            debug_assert!(
                group
                    .windows(2)
                    .all(|w| matches!(w, [a, b] if a.meta.last < b.meta.first)),
                "segments of a run or level do not overlap"
            );
            let level = group.first().map_or(0, |s| usize::from(s.meta.level));
            match level.checked_sub(1) {
                None => table.runs.push(group.into()),
                Some(below) => {
                    table.levels.resize_with(below, || [].into());
                    table.levels.push(group.into());
                }
            }
        }
        table
    }

    /// All sorted lists, newest first.
    pub(super) fn lists(&self) -> impl Iterator<Item = &Sorted> {
        self.runs.iter().chain(&self.levels)
    }

    pub(super) fn segments(&self) -> impl Iterator<Item = &Arc<Segment>> {
        self.lists().flat_map(|list| list.iter())
    }

    /// The segments of level `level`, which is at least 1.
    pub(super) fn level(&self, level: u8) -> &[Arc<Segment>] {
        let below = usize::from(level).checked_sub(1);
        below
            .and_then(|i| self.levels.get(i))
            .map_or(&[], |list| list)
    }
}

/// Everything a reader needs of the segments of a version. Immutable, cheap to clone.
#[derive(Clone)]
pub struct Levels(Arc<Inner>);

struct Inner {
    host: Host,
    volume: VolumeId,
    cache: Arc<BlockCache>,
    /// In the order of [`Tag::ALL`].
    tables: [Table; Tag::ALL.len()],
}

impl Levels {
    /// The segments that a manifest lists. None is opened yet: the first use of each opens and
    /// checks it.
    #[must_use]
    pub fn open(
        host: impl Into<Host>,
        vid: VolumeId,
        cache: Arc<BlockCache>,
        segments: Vec<SegmentMeta>,
    ) -> Self {
        let host = host.into();
        let segments = segments
            .into_iter()
            .map(|meta| {
                let file = SegmentFile::new(host.clone(), vid, Arc::clone(&cache), &meta).into();
                Arc::new(Segment { meta, file })
            })
            .collect();
        Self::assemble(host, vid, cache, segments)
    }

    fn assemble(
        host: Host,
        volume: VolumeId,
        cache: Arc<BlockCache>,
        segments: Vec<Arc<Segment>>,
    ) -> Self {
        let mut by_tag = Tag::ALL.map(|_| Vec::new());
        for segment in segments {
            let tag = segment.meta.tag;
            if let Some((_, list)) = Tag::ALL.iter().zip(&mut by_tag).find(|(t, _)| **t == tag) {
                list.push(segment);
            }
        }
        Self(Arc::new(Inner {
            host,
            volume,
            cache,
            tables: by_tag.map(Table::new),
        }))
    }

    /// The version without `removed` and with `added`. A segment that is in `added` under an id
    /// that is here already has moved to another level; it may be in `removed` as well.
    #[must_use]
    pub fn with(&self, added: &[SegmentMeta], removed: &[SegmentId]) -> Self {
        let inner = &self.0;
        let mut segments: Vec<_> = self.all().cloned().collect();
        let news = added.iter().map(|meta| {
            let file = match segments.iter().find(|s| s.meta.id == meta.id) {
                Some(here) => Arc::clone(&here.file),
                None => {
                    let (host, cache) = (inner.host.clone(), Arc::clone(&inner.cache));
                    Arc::new(SegmentFile::new(host, inner.volume, cache, meta))
                }
            };
            Arc::new(Segment { meta: *meta, file })
        });
        let news: Vec<_> = news.collect();
        segments.retain(|s| {
            !removed.contains(&s.meta.id) && !news.iter().any(|n| n.meta.id == s.meta.id)
        });
        segments.extend(news);
        let (host, cache) = (inner.host.clone(), Arc::clone(&inner.cache));
        Self::assemble(host, inner.volume, cache, segments)
    }

    /// The blocks that were read lately, of this version and of all others.
    #[must_use]
    pub fn cache(&self) -> &BlockCache {
        &self.0.cache
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Segment>> {
        self.0.tables.iter().flat_map(Table::segments)
    }

    /// What the manifest lists, newest first within each table.
    pub fn segments(&self) -> impl Iterator<Item = &SegmentMeta> {
        self.all().map(|s| &s.meta)
    }

    pub(super) fn table(&self, tag: Tag) -> &Table {
        // The match makes the index certain.
        let [d, e, i, l, o, s, x, z] = &self.0.tables;
        match tag {
            Tag::Dirent => d,
            Tag::Extent => e,
            Tag::Inode => i,
            Tag::Link => l,
            Tag::Orphan => o,
            Tag::Shared => s,
            Tag::Xattr => x,
            Tag::Held => z,
        }
    }

    /// The newest version of `key` that a view shows; a tombstone is a record, too.
    pub fn get(&self, key: &Key, view: &View) -> Result<Option<Record>> {
        let hash = filter_hash(key);
        for list in self.table(key.tag()).lists() {
            let segment = list.get(list.partition_point(|s| s.meta.last < *key));
            let Some(segment) = segment.filter(|s| s.meta.first <= *key) else {
                continue;
            };
            // Lists come newest first, so the first version found is the newest.
            let mut at = view.newest(segment.meta.epoch_max);
            while let Some(newest) = at {
                let Some(record) = segment.file.get(key, hash, newest)? else {
                    break;
                };
                at = view.newest(record.epoch);
                if at == Some(record.epoch) {
                    return Ok(Some(record));
                }
            }
        }
        Ok(None)
    }

    /// The newest version that a view shows of each key from `from` up to `to`, which is not part
    /// of it, in order, tombstones included. Both are of one table. A range over the collision
    /// numbers of one name's hash asks the filters first.
    #[must_use]
    pub fn range(&self, from: &Key, to: &Key, view: &View) -> Range {
        Range {
            merge: self.merge(from, to, Epoch(0)),
            view: view.clone(),
            last: None,
            failed: false,
        }
    }

    /// All versions of each key from `from` up to `to`, the newest first.
    #[must_use]
    pub fn versions(&self, from: &Key, to: &Key) -> Versions {
        Versions(self.merge(from, to, Epoch(0)))
    }

    /// All versions of a table that were written after epoch `after`; more of them, perhaps, that
    /// were written before. What is older is, as far as that goes, not read.
    #[must_use]
    pub fn written_after(&self, tag: Tag, after: Epoch) -> Versions {
        let (from, to) = (Key::first_of(tag), Key::last_of(tag));
        Versions(self.merge(&from, &to, after))
    }

    /// Merges what is newer than `after` of the lists that have something of a range.
    fn merge(&self, from: &Key, to: &Key, after: Epoch) -> Merge {
        debug_assert_eq!(from.tag(), to.tag(), "a range lies in one table");
        let mut bounds = Bounds::range(from, to);
        if after > Epoch(0) {
            // A whole table would only flush the cache.
            (bounds.after, bounds.cached) = (after, false);
        }
        let sources = self.table(from.tag()).lists().filter_map(|list| {
            let list = match after {
                Epoch(0) => Arc::clone(list),
                _ => {
                    let young = list.iter().filter(|s| s.meta.epoch_max > after);
                    young.cloned().collect()
                }
            };
            let near = list.get(list.partition_point(|s| s.meta.last < *from));
            let has = near.is_some_and(|s| s.meta.first < *to && s.may_overlap(&bounds));
            has.then(|| Source::new(list, bounds))
        });
        Merge::new(sources)
    }
}

/// All versions of a range, by key and then newest first.
pub struct Versions(Merge);

impl Versions {
    /// The next one. After an error there is none.
    pub fn next(&mut self) -> Result<Option<Record>> {
        self.0.next()
    }
}

/// Records of a range, in order. After an error it ends.
pub struct Range {
    merge: Merge,
    view: View,
    last: Option<Key>,
    failed: bool,
}

impl Iterator for Range {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.failed {
            match self.merge.next() {
                Ok(Some(record)) => {
                    if self.last == Some(record.key) || !self.view.sees(record.epoch) {
                        continue;
                    }
                    self.last = Some(record.key);
                    return Some(Ok(record));
                }
                Ok(None) => return None,
                Err(e) => {
                    self.failed = true;
                    return Some(Err(e));
                }
            }
        }
        None
    }
}
