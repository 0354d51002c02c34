//! Level 1: segments.

use razorfs_format::layout::FileName;
use razorfs_format::manifest::SegmentMeta;
use razorfs_format::segment::check::check_segment;
use razorfs_format::segment::{FOOTER_LEN, Footer, Identity};
use razorfs_format::{FormatError, Place};

use crate::FindingKind as K;
use crate::roots::Roots;
use crate::session::{Opened, Session, WHOLE_MAX};
use crate::stream::SegmentStream;

/// Checks every byte of every segment of the newest generation and of the one before it.
pub fn check(s: &mut Session<'_>, roots: &Roots) {
    let previous = roots.previous_segments();
    let current = roots.manifest.segments.iter().map(|m| (m, true));
    let all: Vec<_> = current.chain(previous.iter().map(|m| (m, false))).collect();
    let total = all.len() as u64;
    for (done, (meta, current)) in (0..).zip(all) {
        s.progress("segments", done, total);
        segment(s, meta, current);
    }
    s.progress("segments", total, total);
}

fn segment(s: &mut Session<'_>, meta: &SegmentMeta, current: bool) {
    let name = FileName::Segment(meta.id);
    let (file, len) = match s.open(name) {
        Opened::File(file, len) => (file, len),
        // The check of the files has told of it.
        Opened::Missing | Opened::Unreadable => return,
    };
    s.checked.segments += 1;
    let checked = if len == meta.bytes && len <= WHOLE_MAX {
        let bytes = s.read_all(&*file, name, len);
        let mut records = 0;
        let result = check_segment(&bytes, s.vid, meta, &mut |_, _, _| records += 1);
        s.checked.records += records;
        s.checked.blocks += blocks(s, meta, &bytes);
        result
    } else {
        let expected = format_args!("{} bytes", meta.bytes).to_string();
        Err(Place::new(name, 0).error("length of the file", expected, len))
    };
    if let Err(e) = checked {
        damaged(s, meta, current, &e);
    }
}

/// Number of data blocks, as the footer has it.
fn blocks(s: &Session<'_>, meta: &SegmentMeta, bytes: &[u8]) -> u64 {
    let id = Identity {
        volume: s.vid,
        segment: meta.id,
        tag: meta.tag,
    };
    let at = bytes.len().saturating_sub(FOOTER_LEN);
    let footer = bytes.get(at..).unwrap_or_default();
    let footer = Footer::decode(footer, id, meta.footer_crc, at as u64);
    footer.map_or(0, |footer| u64::from(footer.blocks))
}

/// Tells what is wrong, and which blocks of the segment cannot be read.
fn damaged(s: &mut Session<'_>, meta: &SegmentMeta, current: bool, error: &FormatError) {
    if !current {
        s.find_bad(K::PreviousSegment, error);
        return;
    }
    s.find_bad(K::SegmentDamaged, error);
    let mut stream = SegmentStream::open(s, meta);
    while stream.next(s).is_some() {}
    for e in &stream.errors {
        s.find_bad(K::SegmentBlock, e);
    }
}
