//! Which segments there are: for each table the runs that were flushed, newest first, and below
//! them the levels, each sorted and without overlaps. A value: changing it makes another one.

use std::sync::Arc;

use razorfs_format::key::{Key, Tag};
use razorfs_format::manifest::SegmentMeta;
use razorfs_format::segment::filter_hash;
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

    fn all(&self) -> impl Iterator<Item = &Arc<Segment>> {
        self.0.tables.iter().flat_map(Table::segments)
    }

    /// What the manifest lists, newest first within each table.
    pub fn segments(&self) -> impl Iterator<Item = &SegmentMeta> {
        self.all().map(|s| &s.meta)
    }

    pub(super) fn table(&self, tag: Tag) -> &Table {
        // The match makes the index certain.
        let [d, e, i, l, o, s, x] = &self.0.tables;
        match tag {
            Tag::Dirent => d,
            Tag::Extent => e,
            Tag::Inode => i,
            Tag::Link => l,
            Tag::Orphan => o,
            Tag::Shared => s,
            Tag::Xattr => x,
        }
    }

    /// The newest version of `key`; a tombstone is a record, too.
    pub fn get(&self, key: &Key) -> Result<Option<Record>> {
        self.get_at(key, Epoch(u64::MAX))
    }

    /// The newest version of `key` that is not newer than `at`; a tombstone is a record, too.
    pub fn get_at(&self, key: &Key, at: Epoch) -> Result<Option<Record>> {
        let hash = filter_hash(key);
        for list in self.table(key.tag()).lists() {
            let segment = list.get(list.partition_point(|s| s.meta.last < *key));
            let Some(segment) = segment.filter(|s| s.meta.first <= *key) else {
                continue;
            };
            // Lists come newest first, so the first version found is the newest.
            if let Some(record) = segment.file.get(key, hash, at)? {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    /// The newest version of each key from `from` up to `to`, which is not part of it, in order,
    /// tombstones included. Both are of one table. A range over the collision numbers of one name's
    /// hash asks the filters first.
    #[must_use]
    pub fn range(&self, from: &Key, to: &Key) -> Range {
        self.range_at(from, to, Epoch(u64::MAX))
    }

    /// As [`Levels::range`], but of each key the newest version that is not newer than `at`.
    #[must_use]
    pub fn range_at(&self, from: &Key, to: &Key, at: Epoch) -> Range {
        debug_assert_eq!(from.tag(), to.tag(), "a range lies in one table");
        let bounds = Bounds::range(from, to);
        let sources = self.table(from.tag()).lists().filter(|list| {
            let near = list.get(list.partition_point(|s| s.meta.last < *from));
            near.is_some_and(|s| s.meta.first < *to && s.may_overlap(&bounds))
        });
        let sources = sources.map(|list| Source::new(Arc::clone(list), bounds));
        Range {
            merge: Merge::new(sources),
            at,
            last: None,
            failed: false,
        }
    }
}

/// Records of a range, in order. After an error it ends.
pub struct Range {
    merge: Merge,
    at: Epoch,
    last: Option<Key>,
    failed: bool,
}

impl Iterator for Range {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.failed {
            match self.merge.next() {
                Ok(Some(record)) => {
                    if record.epoch > self.at || self.last == Some(record.key) {
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
