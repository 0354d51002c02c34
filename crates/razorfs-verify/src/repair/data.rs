//! The data of the repaired volume: references to frames that are as they should be, and what is
//! left of the others.

use std::collections::{BTreeMap, BTreeSet};

use razorfs_format::key::{Key, Tag};
use razorfs_format::op::MAX_VALUE;
use razorfs_format::pack::{FrameIdentity, frame_len};
use razorfs_format::record::{
    BLOCK, Codec, Extent, Fragment, FragmentKind, Origin, PackRef, RAW_CRC_CHUNK, Shared,
};
use razorfs_format::{Branch, Epoch, Ino, PackId};

use super::frames::Frames;
use super::moment::Moment;
use super::older::Olders;
use super::report::{Lose, Outcome};
use super::source::Lost;
use super::tree::{Fate, Node, Tree, is_head};
use super::writer::Sink;
use crate::namespace::place_of;
use crate::packs::Packs;
use crate::session::Session;
use crate::view::{Change, Found, View, part};

const BLOCK64: u64 = BLOCK as u64;
/// A longer record is written anew, without references.
const RECORD_MAX: usize = MAX_VALUE / 2;
/// Blocks of one file in one lost range that are told one by one.
const TOLD_MAX: u64 = 4096;

/// What refers to frames.
#[derive(Default)]
pub struct References {
    /// Frames that several blocks may refer to, how many do, and their bytes.
    shared: BTreeMap<(PackId, u64), (u64, u64)>,
    /// Those of them that became so by what is put beside.
    beside: BTreeSet<(PackId, u64)>,
    /// Bytes of the frames that something refers to.
    pub live: BTreeMap<PackId, u64>,
}

/// The youngest frame that a moment refers to.
pub fn youngest(s: &mut Session<'_>, view: &View) -> Epoch {
    let mut youngest = Epoch(0);
    view.scan(s, Tag::Extent, &mut |_, found| {
        for (_, r) in frames_of(&merged(&found)) {
            youngest = youngest.max(r.birth);
        }
    });
    youngest
}

/// A first look at the extents: which files they belong to, and which frames are shared.
pub fn look(s: &mut Session<'_>, view: &View, tree: &Tree) -> (References, BTreeSet<Ino>) {
    let (mut references, mut owners) = (References::default(), BTreeSet::new());
    s.progress("extents", 0, 0);
    view.scan(s, Tag::Extent, &mut |_, found| {
        let fragments = if is_head(&found.key) {
            merged(&found)
        } else {
            Vec::new()
        };
        if !fragments.is_empty() && !tree.nodes.contains_key(&found.key.ino()) {
            owners.insert(found.key.ino());
        }
        for (at, r) in frames_of(&fragments).filter(|(_, r)| r.origin.is_some()) {
            references.shared.insert(at, (0, frame_len(r.stored_len)));
        }
    });
    (references, owners)
}

/// The frames that some fragments refer to.
pub fn frames_of(list: &[Fragment]) -> impl Iterator<Item = ((PackId, u64), &PackRef)> {
    list.iter().filter_map(|fragment| match &fragment.kind {
        FragmentKind::Pack(r) => Some(((r.pack, r.pos), r)),
        _ => None,
    })
}

/// The blocks of which the record says that something is lost.
pub fn torn(s: &mut Session<'_>, view: &View) -> BTreeSet<(Ino, u64)> {
    let mut torn = BTreeSet::new();
    view.scan(s, Tag::Extent, &mut |_, found| {
        if is_head(&found.key) && merged(&found).iter().any(|f| f.kind == FragmentKind::Lost) {
            torn.insert((found.key.ino(), found.key.second()));
        }
    });
    torn
}

fn flushed(found: &Found<'_>) -> Vec<Fragment> {
    let extent = found.flushed.map(|value| Extent::decode(value, place_of()));
    extent.and_then(Result::ok).unwrap_or_default().fragments
}

/// What the record of a block says.
pub fn merged(found: &Found<'_>) -> Vec<Fragment> {
    found
        .fragments(&flushed(found), place_of())
        .unwrap_or_default()
}

/// The second look, which writes.
pub struct Blocks<'a> {
    pub tree: &'a mut Tree,
    pub references: References,
    pub packs: &'a mut Packs,
    pub frames: &'a Frames,
    pub lost: &'a Lost,
    pub out: &'a mut Outcome,
    pub sink: &'a mut dyn Sink,
    pub moment: &'a Moment<'a>,
    /// Blocks with a record, where others are lost.
    pub present: BTreeSet<(Ino, u64)>,
}

impl References {
    /// What is put beside shares frames.
    pub fn share_with(&mut self, olders: &Olders) {
        for list in olders.blocks.values() {
            for (at, r) in frames_of(list).filter(|(_, r)| r.origin.is_some()) {
                let bytes = frame_len(r.stored_len);
                if self.shared.insert(at, (0, bytes)).is_none() {
                    self.beside.insert(at);
                }
            }
        }
    }

    /// Whether several blocks may refer to one frame.
    pub fn share(&self) -> bool {
        self.shared.values().any(|(count, _)| *count > 0)
    }
}

impl Blocks<'_> {
    /// Writes all extents and the counts of shared frames; answers what they refer to.
    pub fn write(mut self, s: &mut Session<'_>, view: &View) -> References {
        let older = self.moment.olders.blocks.keys().copied();
        let coming: BTreeSet<(Ino, u64)> = self.frames.blocks().chain(older).collect();
        let mut coming = coming.into_iter().peekable();
        let mut done = 0;
        view.scan(s, Tag::Extent, &mut |s, found| {
            if done % 4096 == 0 {
                s.progress("extents", done, 0);
            }
            done += 1;
            if !is_head(&found.key) {
                return;
            }
            let at = (found.key.ino(), found.key.second());
            while let Some(before) = coming.next_if(|b| *b < at) {
                self.block(s, before, None);
            }
            let _ = coming.next_if(|b| *b == at);
            self.block(s, at, Some(&found));
        });
        for at in coming {
            self.block(s, at, None);
        }
        self.tell_lost();
        for ((pack, pos), (count, bytes)) in &self.references.shared {
            if *count > 0 {
                let shared = Shared {
                    count: *count,
                    bytes: *bytes,
                };
                self.sink
                    .put(s, Key::shared(*pack, *pos), &shared.to_bytes());
            }
        }
        self.references
    }

    /// One block, of which there is a record or only frames.
    fn block(&mut self, s: &mut Session<'_>, at: (Ino, u64), found: Option<&Found<'_>>) {
        let (ino, block) = at;
        let key = Key::extent(Branch::HEAD, ino, block);
        let epoch = found.and_then(|f| f.epoch);
        let newer = self.lost.newer(&key, epoch);
        let replaced = found
            .and_then(|f| f.change)
            .is_some_and(|change| match change {
                Change::Put(_) | Change::Del => true,
                Change::Block { below, .. } => !below,
            });
        let older = self.moment.olders.blocks.get(&at);
        let stale = newer.is_some() && !replaced && older.is_none();
        if found.is_some() && self.lost.of(Tag::Extent).any(|r| r.may_hold(&key)) {
            self.present.insert(at);
        }
        let mut base = match (found, older) {
            (Some(found), _) => flushed(found),
            (None, older) => older.cloned().unwrap_or_default(),
        };
        let own: BTreeSet<_> = frames_of(&base).map(|(at, _)| at).collect();
        if stale {
            self.frames.lay_over(ino, block, epoch, &mut base);
        }
        let mut list = match found {
            Some(found) => found.fragments(&base, place_of()).unwrap_or_default(),
            None => base,
        };
        let Some(size) = self.size_of(at) else {
            return;
        };
        if list.iter().any(|f| f.kind == FragmentKind::Lost) {
            list = self.found_again(at, list);
        }
        let mut list = self.not_again(s, &key, &own, list);
        if let Some(size) = size {
            self.clip(&mut list, block, size);
        }
        let start = block.saturating_mul(BLOCK64);
        if stale && found.is_some() {
            let end = start.saturating_add(BLOCK64).min(size.unwrap_or(u64::MAX));
            self.out.lose_bytes(Lose::Unsure, ino, start..end);
        }
        let list = self.checked(s, &key, list);
        let list = self.shortened(s, &key, list);
        if list.is_empty() {
            return;
        }
        self.refer(&list);
        let grows = |node: &&mut Node| node.made || (self.moment.is_past && node.stale);
        if let Some(node) = self.tree.nodes.get_mut(&ino).filter(grows) {
            let end = list.last().map_or(0, Fragment::end);
            node.size = node.size.max(start.saturating_add(u64::from(end)));
        }
        let extent = Extent { fragments: list };
        self.sink.put(s, key, &extent.to_bytes());
    }

    /// A block of which something is lost, with what packs have of that in its place.
    fn found_again(&mut self, (ino, block): (Ino, u64), list: Vec<Fragment>) -> Vec<Fragment> {
        let mut frames = Vec::new();
        self.frames.lay_over(ino, block, None, &mut frames);
        let start = block.saturating_mul(BLOCK64);
        let mut again = Vec::with_capacity(list.len());
        for fragment in list {
            if fragment.kind != FragmentKind::Lost {
                again.push(fragment);
                continue;
            }
            let (from, to) = (fragment.off, fragment.end());
            let inside = |f: &Fragment| part(f, f.off.max(from), f.end().min(to));
            again.extend(frames.iter().filter_map(inside));
            let range = start.saturating_add(from.into())..start.saturating_add(to.into());
            self.out.lose_bytes(Lose::Unsure, ino, range);
        }
        again
    }

    /// A frame that a snapshot could show and the one before this moment does not was let go of
    /// before that, and what was let go of is not referred to again, or it could not be told any
    /// more until when it is held: its data become a part of the record.
    fn not_again(
        &mut self,
        s: &mut Session<'_>,
        key: &Key,
        own: &BTreeSet<(PackId, u64)>,
        mut list: Vec<Fragment>,
    ) -> Vec<Fragment> {
        let Some(before) = self.moment.before else {
            return list;
        };
        let found_again = |r: &PackRef| r.birth <= before.epoch && !own.contains(&(r.pack, r.pos));
        if !frames_of(&list).any(|(_, r)| found_again(r)) {
            return list;
        }
        let shown = before.patch.get(key).and_then(Option::as_deref);
        let shown = shown.map(|value| Extent::decode(value, place_of()));
        let shown = shown.and_then(Result::ok).unwrap_or_default().fragments;
        let shown: BTreeSet<_> = frames_of(&shown).map(|(at, _)| at).collect();
        for fragment in &mut list {
            let FragmentKind::Pack(r) = &fragment.kind else {
                continue;
            };
            let r = r.clone();
            if !found_again(&r) || shown.contains(&(r.pack, r.pos)) {
                continue;
            }
            let want = r.skip..r.skip.saturating_add(fragment.len);
            // One that is damaged is looked at piece by piece, later.
            if let Some(bytes) = self.fetch(s, key, fragment.off, &r, want) {
                fragment.kind = FragmentKind::Inline(bytes.into());
            }
        }
        list
    }

    /// The size that a block's file has, if the block is to stay; `Some(None)` where it is what
    /// its data say.
    fn size_of(&mut self, at: (Ino, u64)) -> Option<Option<u64>> {
        let node = self.tree.nodes.get(&at.0)?;
        let stays = node.is_regular() && node.fate != Fate::Gone;
        if !stays {
            return None;
        }
        if node.trim.is_some_and(|from| at.1 >= from) {
            return None;
        }
        let open = node.made || node.may_reach(at.1) || (self.moment.is_past && node.stale);
        Some((!open).then_some(node.size))
    }

    /// Nothing but reserved space lies beyond the end of a file.
    fn clip(&mut self, list: &mut Vec<Fragment>, block: u64, size: u64) {
        let room = size
            .saturating_sub(block.saturating_mul(BLOCK64))
            .min(BLOCK64) as u32;
        let mut clipped = false;
        *list = std::mem::take(list)
            .into_iter()
            .filter_map(|fragment| {
                if fragment.kind == FragmentKind::Reserved || fragment.end() <= room {
                    return Some(fragment);
                }
                clipped = true;
                part(&fragment, fragment.off, room.max(fragment.off))
            })
            .collect();
        if clipped {
            self.out.fixed("data beyond the ends of files");
        }
    }

    /// Replaces references to frames that are not as they should be by what is left of them.
    fn checked(&mut self, s: &mut Session<'_>, key: &Key, list: Vec<Fragment>) -> Vec<Fragment> {
        let mut checked = Vec::with_capacity(list.len());
        for mut fragment in list {
            let FragmentKind::Pack(r) = &mut fragment.kind else {
                checked.push(fragment);
                continue;
            };
            if r.origin.is_none() && self.references.shared.contains_key(&(r.pack, r.pos)) {
                r.origin = Some(Origin {
                    branch: key.branch(),
                    ino: key.ino(),
                    block: key.second(),
                    offset: fragment.off.saturating_sub(r.skip),
                });
                if !self.references.beside.contains(&(r.pack, r.pos)) {
                    self.out.fixed("references to shared frames");
                }
            }
            let r = r.clone();
            if self.packs.is_right(s, key, fragment.off, &r) {
                checked.push(fragment);
            } else {
                self.rest_of(s, key, &fragment, &r, &mut checked);
            }
        }
        checked
    }

    /// The pieces of a damaged frame that pass their own checksums.
    fn rest_of(
        &mut self,
        s: &mut Session<'_>,
        key: &Key,
        fragment: &Fragment,
        r: &PackRef,
        to: &mut Vec<Fragment>,
    ) {
        let end = r.skip.saturating_add(fragment.len);
        let step = match r.codec {
            Codec::None => RAW_CRC_CHUNK,
            Codec::Lz4 | Codec::Zstd => BLOCK,
        };
        let start = key.second().saturating_mul(BLOCK64);
        let mut at = r.skip;
        while at < end {
            let next = (at / step + 1).saturating_mul(step).min(end);
            let off = fragment.off + (at - r.skip);
            let len = next - at;
            match self.fetch(s, key, fragment.off, r, at..next) {
                Some(bytes) => to.push(Fragment {
                    off,
                    len,
                    kind: FragmentKind::Inline(bytes.into()),
                }),
                None => {
                    let from = start.saturating_add(u64::from(off));
                    let lost = from..from.saturating_add(u64::from(len));
                    self.out.lose_bytes(Lose::Data, key.ino(), lost);
                }
            }
            at = next;
        }
    }

    /// Raw bytes of a frame, if they are what the reference says.
    fn fetch(
        &mut self,
        s: &mut Session<'_>,
        key: &Key,
        off: u32,
        r: &PackRef,
        want: std::ops::Range<u32>,
    ) -> Option<Vec<u8>> {
        let id = FrameIdentity::of(r, key.branch(), key.ino(), key.second(), off);
        self.packs.fetch(s, &id, r, want)
    }

    /// Inline pieces that follow each other become one. A block of so many pieces that its record
    /// would be too long becomes a single one.
    fn shortened(&mut self, s: &mut Session<'_>, key: &Key, list: Vec<Fragment>) -> Vec<Fragment> {
        let mut joined: Vec<Fragment> = Vec::with_capacity(list.len());
        for fragment in list {
            let FragmentKind::Inline(bytes) = &fragment.kind else {
                joined.push(fragment);
                continue;
            };
            if let Some(last) = joined.last_mut()
                && last.end() == fragment.off
                && let FragmentKind::Inline(before) = &mut last.kind
            {
                *before = [&**before, &**bytes].concat().into();
                last.len += fragment.len;
                continue;
            }
            joined.push(fragment);
        }
        let bytes = |f: &Fragment| match &f.kind {
            FragmentKind::Inline(bytes) => bytes.len() + 8,
            FragmentKind::Pack(r) => 80 + 4 * r.crcs.len(),
            FragmentKind::Hole | FragmentKind::Reserved | FragmentKind::Lost => 8,
        };
        if joined.len() < 16 || joined.iter().map(bytes).sum::<usize>() <= RECORD_MAX {
            return joined;
        }
        self.flattened(s, key, &joined)
    }

    fn flattened(&mut self, s: &mut Session<'_>, key: &Key, list: &[Fragment]) -> Vec<Fragment> {
        let (Some(first), Some(last)) = (list.first(), list.last()) else {
            return Vec::new();
        };
        let off = first.off;
        let mut bytes = vec![0; (last.end() - off) as usize];
        for fragment in list {
            let range = (fragment.off - off) as usize..(fragment.end() - off) as usize;
            let part = match &fragment.kind {
                FragmentKind::Inline(bytes) => Some(bytes.to_vec()),
                FragmentKind::Pack(r) => {
                    let want = r.skip..r.skip + fragment.len;
                    self.fetch(s, key, fragment.off, r, want)
                }
                FragmentKind::Hole | FragmentKind::Reserved | FragmentKind::Lost => None,
            };
            if let (Some(part), Some(room)) = (part, bytes.get_mut(range)) {
                room.copy_from_slice(&part);
            }
        }
        vec![Fragment {
            off,
            len: bytes.len() as u32,
            kind: FragmentKind::Inline(bytes.into()),
        }]
    }

    /// Counts the frames of a block, each once.
    fn refer(&mut self, list: &[Fragment]) {
        let frames: BTreeMap<(PackId, u64), &PackRef> = frames_of(list).collect();
        let references = &mut self.references;
        for (at, r) in frames {
            let bytes = frame_len(r.stored_len);
            let first = match references.shared.get_mut(&at) {
                Some((count, known)) => {
                    *count += 1;
                    *known = bytes;
                    *count == 1
                }
                None => true,
            };
            if first {
                *references.live.entry(r.pack).or_default() += bytes;
            }
        }
    }

    /// Tells of the blocks that may have had a record that is lost, and have none now.
    fn tell_lost(&mut self) {
        let ranges: Vec<_> = self.lost.of(Tag::Extent).cloned().collect();
        for range in &ranges {
            let inos = range.first.ino()..=range.last.ino();
            for (ino, node) in self.tree.nodes.range(inos) {
                if node.is_regular() && node.fate != Fate::Gone {
                    tell(self.out, &self.present, range, *ino, node);
                }
            }
        }
    }
}

/// The blocks of one file in one lost range.
fn tell(
    out: &mut Outcome,
    present: &BTreeSet<(Ino, u64)>,
    range: &crate::stream::LostRange,
    ino: Ino,
    node: &Node,
) {
    let from = match range.first.ino() == ino {
        true => range.first.second(),
        false => 0,
    };
    let end = node.size.div_ceil(BLOCK64);
    let to = match range.last.ino() == ino {
        true => end.min(range.last.second().saturating_add(1)),
        false => end,
    };
    if to.saturating_sub(from) > TOLD_MAX {
        out.lose_bytes(Lose::Unsure, ino, from.saturating_mul(BLOCK64)..node.size);
        return;
    }
    for block in from..to {
        let key = Key::extent(Branch::HEAD, ino, block);
        if !present.contains(&(ino, block)) && range.may_hold(&key) {
            let start = block.saturating_mul(BLOCK64);
            let end = start.saturating_add(BLOCK64).min(node.size);
            out.lose_bytes(Lose::Unsure, ino, start..end);
        }
    }
}
