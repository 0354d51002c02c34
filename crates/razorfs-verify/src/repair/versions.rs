//! Writes the tables of a volume that has snapshots: what is put is the present, and below it
//! stands what each snapshot shows.
//!
//! Versions that snapshots see stay under their epochs. Where one of them is to show a record
//! otherwise, all versions of that record are written anew: from the oldest moment to the present,
//! each says what differs from the one before. What the present shows otherwise stands under the
//! epoch of the repair. Which frames are seen from where is counted on the way, and what is held
//! follows from that.

use std::collections::BTreeMap;
use std::collections::btree_set::Range;
use std::iter::Peekable;

use razorfs_format::key::{Key, Tag};
use razorfs_format::pack::frame_len;
use razorfs_format::record::{Extent, Held};
use razorfs_format::timeline::{Seen, Span, View};
use razorfs_format::{Epoch, PackId};

use super::data::frames_of;
use super::past::{Line, Past};
use super::writer::{Sink, Writer};
use crate::namespace::place_of;
use crate::session::Session;
use crate::stream::{Merge, Record};
use crate::view;

/// A version that is to be written.
type Version<'a> = (Epoch, Option<&'a [u8]>);

/// From where a frame is seen.
struct Life {
    birth: Epoch,
    bytes: u64,
    /// Of each line that sees it the last moment that does.
    last: Vec<(u64, Epoch)>,
}

/// A table under way.
struct Table<'p> {
    tag: Tag,
    merge: Merge,
    ahead: Option<Record>,
    /// What some snapshot is to show otherwise.
    keys: Peekable<Range<'p, Key>>,
}

/// All tables, one after the other.
pub struct Versions<'p, 'd> {
    past: &'p Past,
    view: &'p view::View,
    head: View,
    line: u64,
    writer: &'p mut Writer<'d>,
    table: Option<Table<'p>>,
    /// Tables that were not written yet.
    left: Vec<Tag>,
    frames: BTreeMap<(PackId, u64), Life>,
    /// Several blocks may refer to one frame.
    share: bool,
}

impl<'p, 'd> Versions<'p, 'd> {
    /// `view` is the present.
    pub fn new(past: &'p Past, view: &'p view::View, writer: &'p mut Writer<'d>) -> Self {
        Self {
            past,
            view,
            head: past.timeline.head(),
            line: past.timeline.line(writer.epoch).unwrap_or_default(),
            writer,
            table: None,
            left: Tag::ALL.into_iter().filter(|t| *t != Tag::Held).collect(),
            frames: BTreeMap::new(),
            share: false,
        }
    }

    /// Writes what is left of the past, and what it holds. Answers how many bytes of each pack
    /// anybody sees, and whether several blocks may refer to one frame.
    pub fn finish(mut self, s: &mut Session<'_>) -> (BTreeMap<PackId, u64>, bool) {
        self.drain(s);
        while let Some(tag) = self.left.last().copied() {
            self.open(s, tag);
            self.drain(s);
        }
        self.write_held();
        let mut live: BTreeMap<PackId, u64> = BTreeMap::new();
        for ((pack, _), life) in &self.frames {
            *live.entry(*pack).or_default() += life.bytes;
        }
        (live, self.share)
    }

    fn open(&mut self, s: &mut Session<'_>, tag: Tag) {
        self.left.retain(|t| *t != tag);
        let mut merge = Merge::new(self.view.segments(tag), None);
        let ahead = merge.next(s);
        let keys = self.past.keys.range(Key::first_of(tag)..=Key::last_of(tag));
        self.table = Some(Table {
            tag,
            merge,
            ahead,
            keys: keys.peekable(),
        });
    }

    /// The next key that the past has.
    fn next_key(&mut self) -> Option<Key> {
        let table = self.table.as_mut()?;
        let patched = table.keys.peek().map(|key| **key);
        let there = table.ahead.as_ref().map(|record| record.key);
        patched.into_iter().chain(there).min()
    }

    fn drain(&mut self, s: &mut Session<'_>) {
        while let Some(key) = self.next_key() {
            self.record(s, key, None);
        }
    }

    /// Writes all versions of a record, of which the present is to show `value`.
    fn record(&mut self, s: &mut Session<'_>, key: Key, value: Option<&[u8]>) {
        let mut there = Vec::new();
        let mut patched = false;
        if let Some(table) = &mut self.table {
            while let Some(record) = table.ahead.take_if(|r| r.key == key) {
                there.push(record);
                table.ahead = table.merge.next(s);
            }
            patched = table.keys.next_if(|k| **k == key).is_some();
        }
        let versions = match patched {
            true => self.anew(&key, &there, value),
            false => self.as_they_are(&there, value),
        };
        if key.tag() == Tag::Extent {
            self.count(&versions);
        }
        for (epoch, value) in versions {
            self.writer.put_at(key, epoch, value);
        }
    }

    /// The versions that somebody sees, and the present's if it is none of them; the newest first.
    fn as_they_are<'a>(&self, there: &'a [Record], value: Option<&'a [u8]>) -> Vec<Version<'a>> {
        let (mut versions, mut seen) = (Vec::new(), Seen::default());
        if value_in(there, &self.head) != value {
            versions.push((self.writer.epoch, value));
            seen.is_seen(&self.past.timeline, self.writer.epoch);
        }
        for record in there {
            if seen.is_seen(&self.past.timeline, record.epoch) {
                versions.push((record.epoch, record.value.as_deref()));
            }
        }
        versions
    }

    /// What each moment is to show, under its own epoch; the newest first.
    fn anew<'a>(&self, key: &Key, there: &'a [Record], value: Option<&'a [u8]>) -> Vec<Version<'a>>
    where
        'p: 'a,
    {
        let mut shown: Vec<Option<&'a [u8]>> = Vec::new();
        let mut versions = Vec::new();
        let past: &'p Past = self.past;
        for (viewer, patch) in past.viewers.iter().zip(&past.patches) {
            let value = match patch.get(key) {
                Some(patched) => patched.as_deref(),
                None => value_in(there, &viewer.sight),
            };
            if value != before(&shown, viewer.parent) {
                versions.push((viewer.epoch, value));
            }
            shown.push(value);
        }
        if value != before(&shown, past.parent_of_head()) {
            versions.push((self.writer.epoch, value));
        }
        versions.reverse();
        versions
    }

    /// Takes down from where the frames of a block's versions are seen.
    fn count(&mut self, versions: &[Version<'_>]) {
        let mut lasts: Vec<Vec<(u64, Epoch)>> = vec![Vec::new(); versions.len()];
        let viewers = self.past.viewers.iter();
        let viewers = viewers.map(|v| (&v.sight, v.line, v.epoch));
        // They come the oldest first.
        for (sight, line, epoch) in viewers.chain([(&self.head, self.line, Span::OPEN)]) {
            let mut pairs = versions.iter().zip(&mut lasts);
            if let Some((_, last)) = pairs.find(|((of, _), _)| sight.sees(*of)) {
                see(last, line, epoch);
            }
        }
        for ((_, value), last) in versions.iter().zip(lasts) {
            let extent = value.filter(|_| !last.is_empty());
            let extent = extent.and_then(|value| Extent::decode(value, place_of()).ok());
            let fragments = extent.unwrap_or_default().fragments;
            for (at, r) in frames_of(&fragments) {
                self.share |= r.origin.is_some();
                let life = self.frames.entry(at).or_insert_with(|| Life {
                    birth: r.birth,
                    bytes: frame_len(r.stored_len),
                    last: Vec::new(),
                });
                for (line, epoch) in &last {
                    see(&mut life.last, *line, *epoch);
                }
            }
        }
    }

    /// Writes what lines have let go of and snapshots hold.
    fn write_held(&mut self) {
        let mut held: BTreeMap<Key, Held> = BTreeMap::new();
        for ((pack, pos), life) in &self.frames {
            for line in &self.past.lines {
                if let Some(killed) = self.killed(life, line) {
                    let (birth, bytes) = (life.birth, life.bytes);
                    held.insert(Key::held(killed, *pack, *pos), Held { birth, bytes });
                }
            }
        }
        for (key, held) in held {
            let epoch = self.writer.epoch;
            self.writer.put_at(key, epoch, Some(&held.to_bytes()));
        }
    }

    /// When a line let go of a frame that it, or what it goes on from, had shown.
    fn killed(&self, life: &Life, line: &Line) -> Option<Epoch> {
        let last_on = |number: Option<u64>| {
            let mut all = life.last.iter();
            all.find(|(n, _)| Some(*n) == number)
                .map(|(_, epoch)| *epoch)
        };
        let parted = || {
            let seen = last_on(self.past.timeline.line(line.parent));
            let parted = (line.parent != Epoch(0)).then_some(line.parent)?;
            (seen? >= parted && life.birth <= parted).then_some(parted)
        };
        let last = last_on(Some(line.number)).or_else(parted)?;
        if last == line.end {
            return None;
        }
        let next = line.points.iter().find(|point| **point > last);
        let end = match line.end {
            Span::OPEN => self.writer.epoch,
            end => end,
        };
        Some(next.copied().unwrap_or(end))
    }
}

/// What a view shows of a record.
fn value_in<'a>(there: &'a [Record], sight: &View) -> Option<&'a [u8]> {
    let seen = there.iter().find(|record| sight.sees(record.epoch));
    seen.and_then(|record| record.value.as_deref())
}

fn before<'a>(shown: &[Option<&'a [u8]>], parent: Option<usize>) -> Option<&'a [u8]> {
    shown.get(parent?).copied().flatten()
}

fn see(last: &mut Vec<(u64, Epoch)>, line: u64, epoch: Epoch) {
    match last.iter_mut().find(|(l, _)| *l == line) {
        Some((_, newest)) => *newest = epoch.max(*newest),
        None => last.push((line, epoch)),
    }
}

impl Sink for Versions<'_, '_> {
    fn put(&mut self, s: &mut Session<'_>, key: Key, value: &[u8]) {
        if self.table.as_ref().is_none_or(|t| t.tag != key.tag()) {
            self.drain(s);
            self.open(s, key.tag());
        }
        while let Some(next) = self.next_key().filter(|next| *next < key) {
            self.record(s, next, None);
        }
        self.record(s, key, Some(value));
    }
}
