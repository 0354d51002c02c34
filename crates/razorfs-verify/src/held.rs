//! Level 3, where there are snapshots: what they hold.
//!
//! Of each block all versions are looked at that the present or a snapshot sees. The frames of all
//! of them together are what is needed of the packs. Those that neither the present shows, nor what
//! the volume was before a rollback, have to be listed as held, with their births and bytes.

use std::collections::BTreeMap;

use razorfs_format::key::{Key, Tag};
use razorfs_format::layout::FileName;
use razorfs_format::pack::frame_len;
use razorfs_format::record::{Extent, FragmentKind, Held};
use razorfs_format::timeline::{Seen, Span, View};
use razorfs_format::{Branch, Epoch, FormatError, PackId};

use crate::FindingKind as K;
use crate::journal::Replay;
use crate::namespace::{place_of, unreadable};
use crate::packs::Packs;
use crate::roots::Roots;
use crate::session::Session;
use crate::stream::{Merge, Record};

/// A frame that somebody sees.
struct Frame {
    birth: Epoch,
    bytes: u64,
    /// Somebody sees it at the end of a line.
    at_an_end: bool,
    listed: bool,
}

type Frames = BTreeMap<(PackId, u64), Frame>;

/// Counts what the packs are needed for, and compares the list of what is held.
pub fn check(s: &mut Session<'_>, roots: &Roots, replay: &Replay, packs: &mut Packs) {
    s.progress("snapshots", 0, 0);
    let mut frames = read_frames(s, roots, replay);
    packs.count_anew();
    let bytes = frames.iter().map(|((pack, _), f)| (*pack, f.bytes));
    packs.count(bytes.collect());
    read_held(s, roots, replay, &mut frames);
    if s.incomplete {
        // What could not be read would be missing.
        return;
    }
    let missing = frames.iter().filter(|(_, f)| !f.at_an_end && !f.listed);
    for (at, frame) in missing {
        let detail = format!("{} bytes, written in epoch {}", frame.bytes, frame.birth);
        s.find(K::HeldMissing, object(*at), detail);
    }
}

fn of(roots: &Roots, tag: Tag) -> Merge {
    let segments = roots.manifest.segments.iter().filter(|m| m.tag == tag);
    Merge::new(segments.copied().collect(), None)
}

/// The frames of all versions of all blocks that somebody sees.
fn read_frames(s: &mut Session<'_>, roots: &Roots, replay: &Replay) -> Frames {
    let timeline = &replay.timeline;
    // The last epoch of each line.
    let spans = match timeline.spans() {
        [] => &[Span::WHOLE],
        spans => spans,
    };
    let mut ends: BTreeMap<u64, Epoch> = BTreeMap::new();
    for span in spans {
        ends.insert(span.line, span.last);
    }
    let ends: Vec<View> = ends.values().map(|end| timeline.view(*end)).collect();
    let mut frames = Frames::new();
    let mut merge = of(roots, Tag::Extent);
    let (mut seen, mut last): (Seen, Option<Key>) = (Seen::default(), None);
    // The ends of lines that have met no version of the block yet.
    let mut waiting: Vec<&View> = Vec::new();
    while let Some(record) = merge.next(s) {
        if last != Some(record.key) {
            seen.clear();
            waiting = ends.iter().collect();
            last = Some(record.key);
        }
        let were = waiting.len();
        waiting.retain(|view| !view.sees(record.epoch));
        let at_an_end = waiting.len() < were;
        if !seen.is_seen(timeline, record.epoch) || record.key.branch() != Branch::HEAD {
            continue;
        }
        if let Err(e) = add(&mut frames, &record, at_an_end) {
            unreadable(s, &record.key, &e);
        }
    }
    frames
}

fn add(frames: &mut Frames, record: &Record, at_an_end: bool) -> Result<(), FormatError> {
    let Some(value) = &record.value else {
        return Ok(());
    };
    for fragment in Extent::decode(value, place_of())?.fragments {
        if let FragmentKind::Pack(r) = &fragment.kind {
            let frame = frames.entry((r.pack, r.pos)).or_insert(Frame {
                birth: r.birth,
                bytes: frame_len(r.stored_len),
                at_an_end: false,
                listed: false,
            });
            frame.at_an_end |= at_an_end;
        }
    }
    Ok(())
}

/// Compares the list of what is held with what is seen.
fn read_held(s: &mut Session<'_>, roots: &Roots, replay: &Replay, frames: &mut Frames) {
    let mut merge = of(roots, Tag::Held);
    while let Some(record) = merge.next(s) {
        let Some(value) = &record.value else {
            continue;
        };
        let held = match Held::decode(value, place_of()) {
            Ok(held) => held,
            Err(e) => {
                unreadable(s, &record.key, &e);
                continue;
            }
        };
        // What says nothing any more goes with the next compaction.
        if !replay.timeline.is_held(held.birth, record.key.killed()) {
            continue;
        }
        let at = record.key.frame();
        match frames.get_mut(&at) {
            Some(frame) if (frame.birth, frame.bytes) == (held.birth, held.bytes) => {
                frame.listed = true;
            }
            _ if s.incomplete => {}
            Some(frame) => {
                let (birth, bytes) = (frame.birth, frame.bytes);
                let detail = format!("expected {bytes} bytes of epoch {birth}, got {held:?}");
                s.find(K::HeldWrong, object(at), detail);
            }
            None => {
                let detail = format!("no snapshot shows it: {held:?}");
                s.find(K::HeldWrong, object(at), detail);
            }
        }
    }
}

fn object(at: (PackId, u64)) -> String {
    format!("{} at byte {}", FileName::Pack(at.0), at.1)
}
