//! One pack from its first frame to its last.

use std::ops::{ControlFlow, Range};

use razorfs_disk::File;
use razorfs_format::layout::FileName;
use razorfs_format::manifest::PackMeta;
use razorfs_format::pack::{
    Depth, FRAME_HEADER_LEN, Footer, HEADER_LEN, Scanned, TrailerEntry, check_header,
    decode_trailer, scan_frames,
};
use razorfs_format::{Epoch, FormatError, PackId, VolumeId};

use super::{Bad, Hole, PAGE, report_dead};
use crate::FindingKind as K;
use crate::session::{Opened, Session};

/// Most gaps of a pack that are told.
const GAPS_MAX: usize = 100_000;

/// A walk through one pack.
struct Walk<'w> {
    vid: VolumeId,
    id: PackId,
    file: &'w dyn File,
    sealed: bool,
    /// Holes begin and end where groups of shards do, and not with frames.
    parity: bool,
    bad: Vec<(u64, Bad)>,
    bad_max: usize,
    /// The first damaged frame that found no room there.
    unknown: Option<u64>,
    gaps: Vec<(Range<u64>, bool, FormatError)>,
    missing: Option<Range<u64>>,
    /// The frames, for the comparison with the trailer.
    entries: Vec<TrailerEntry>,
    frames: u64,
    last_birth: Epoch,
}

/// What a walk found.
#[derive(Default)]
pub(super) struct Walked {
    /// The frames that are damaged, as many as were asked for.
    pub bad: Vec<(u64, Bad)>,
    /// The first one beyond these.
    pub unknown: Option<u64>,
    /// The birth of the youngest frame.
    pub birth: Epoch,
}

/// Walks pack `id` whose frames end at `len`. `how` says whether it is one that only the generation
/// before has, and how many damaged frames are to be told at most.
pub(super) fn walk(
    s: &mut Session<'_>,
    id: PackId,
    meta: Option<&PackMeta>,
    len: u64,
    (previous, bad_max): (bool, usize),
) -> Walked {
    let name = FileName::Pack(id);
    let kind = |kind| if previous { K::PreviousPack } else { kind };
    let (file, file_len) = match s.open(name) {
        Opened::File(file, file_len) => (file, file_len),
        // The check of the files has told of it.
        Opened::Missing | Opened::Unreadable => return Walked::default(),
    };
    s.checked.packs += 1;
    let mut header = vec![0; HEADER_LEN as usize];
    let got = s.read(&*file, name, &mut header, 0);
    if let Err(e) = check_header(header.get(..got).unwrap_or_default(), s.vid, id) {
        s.find_bad(kind(K::PackHeader), &e);
    }
    let sealed = meta.is_some_and(|m| m.sealed);
    let mut walk = Walk {
        vid: s.vid,
        id,
        file: &*file,
        sealed,
        parity: s.parity,
        bad: Vec::new(),
        bad_max,
        unknown: None,
        gaps: Vec::new(),
        missing: None,
        entries: Vec::new(),
        frames: 0,
        last_birth: Epoch(0),
    };
    walk.run(s, len);
    s.checked.frames += walk.frames;
    if let Some(range) = walk.missing.take() {
        s.find(
            kind(K::PackShort),
            name,
            format!("expected {len} bytes, got {}", range.start),
        );
    }
    for (range, zero, error) in std::mem::take(&mut walk.gaps) {
        let hole = walk.hole_in_gap(s, &range, zero);
        let detail = format!("{} bytes; {error}", range.end - range.start);
        report_dead(s, kind(K::PackGap), (id, range.start), hole, detail);
    }
    if let Some(meta) = meta {
        walk.compare(s, meta, len, kind(K::PackBirth), kind(K::PackTotal));
    }
    if file_len > len {
        let told = if sealed {
            walk.trailer(s, len, file_len)
        } else {
            Err(None)
        };
        match told {
            Ok(()) => {}
            Err(Some(detail)) => {
                s.find(kind(K::PackTrailer), name, detail);
            }
            Err(None) => {
                let detail = format!("expected {len} bytes, got {file_len}");
                s.find(K::PackUnusedBytes, name, detail);
            }
        }
    }
    Walked {
        bad: walk.bad,
        unknown: walk.unknown,
        birth: walk.last_birth,
    }
}

impl Walk<'_> {
    fn run(&mut self, s: &mut Session<'_>, len: u64) {
        let (file, name) = (self.file, FileName::Pack(self.id));
        let (vid, id) = (self.vid, self.id);
        let mut read = |buf: &mut [u8], at: u64| -> Result<usize, std::convert::Infallible> {
            Ok(s.read(file, name, buf, at))
        };
        let Ok(()) = scan_frames(
            &mut read,
            vid,
            id,
            HEADER_LEN..len,
            Depth::Data,
            &mut |met| {
                self.meet(met);
                ControlFlow::Continue(())
            },
        );
        let mut bad = std::mem::take(&mut self.bad);
        for (pos, bad) in &mut bad {
            bad.hole = self.hole_in_frame(s, *pos);
        }
        self.bad = bad;
    }

    fn meet(&mut self, met: Scanned<'_>) {
        match met {
            Scanned::Frame { pos, header, data } => {
                self.frames += 1;
                let identity = &header.identity;
                self.last_birth = self.last_birth.max(identity.birth);
                self.entries.push(TrailerEntry {
                    pos,
                    stored_len: header.stored_len,
                    branch: identity.branch,
                    ino: identity.ino,
                    block: identity.block,
                });
                if let Some(Err(error)) = data {
                    if self.bad.len() >= self.bad_max {
                        self.unknown.get_or_insert(pos);
                        return;
                    }
                    let bad = Bad {
                        error,
                        hole: Hole::No,
                        referred: false,
                    };
                    self.bad.push((pos, bad));
                }
            }
            Scanned::Gap { range, zero, error } => {
                if self.gaps.len() < GAPS_MAX {
                    self.gaps.push((range, zero, error));
                }
            }
            Scanned::Missing(range) => self.missing = Some(range),
        }
    }

    /// Whether a hole begins inside the damaged frame at `pos`: its whole pages are zero.
    fn hole_in_frame(&self, s: &mut Session<'_>, pos: u64) -> Hole {
        let entry = self.entries.binary_search_by_key(&pos, |e| e.pos);
        let Some(entry) = entry.ok().and_then(|i| self.entries.get(i)) else {
            return Hole::No;
        };
        let data = pos + FRAME_HEADER_LEN..entry.end();
        let from = data.start.next_multiple_of(PAGE);
        // The hole may end in the last page of this frame, or go on behind it.
        let to = match data.end / PAGE * PAGE {
            last if last > from => last,
            _ => data.end,
        };
        let sealed_hole = |from: u64| self.sealed && from < to;
        if sealed_hole(from) && self.is_zero(s, from..to) {
            return Hole::Whole;
        }
        // The last page, if it begins in the frame.
        let last = to.saturating_sub(PAGE).next_multiple_of(PAGE).max(from);
        if self.parity && sealed_hole(last) && self.is_zero(s, last..to) {
            return Hole::Whole;
        }
        self.torn(s, data)
    }

    /// Whether a gap is a hole: zeros up to less than a page before its end.
    fn hole_in_gap(&self, s: &mut Session<'_>, range: &Range<u64>, zero: bool) -> Hole {
        let to = range.end / PAGE * PAGE;
        let mut whole = zero || to > range.start && self.is_zero(s, range.start..to);
        if self.parity && !whole {
            let first = range.start.next_multiple_of(PAGE) + PAGE;
            whole = first <= range.end && self.is_zero(s, range.start..first);
        }
        if self.sealed && whole {
            return Hole::Whole;
        }
        self.torn(s, range.clone())
    }

    /// Whether some sectors of a range are zero: a power cut keeps any of those that were punched.
    fn torn(&self, s: &mut Session<'_>, range: Range<u64>) -> Hole {
        const SECTOR: u64 = 512;
        let mut at = range.start;
        while self.sealed && at < range.end {
            let end = (at + 1).next_multiple_of(SECTOR).min(range.end);
            if self.is_zero(s, at..end) {
                return Hole::Torn;
            }
            at = end;
        }
        Hole::No
    }

    fn is_zero(&self, s: &mut Session<'_>, range: Range<u64>) -> bool {
        let mut window = vec![0; 64 << 10];
        let mut at = range.start;
        while at < range.end {
            let want = (range.end - at).min(window.len() as u64) as usize;
            let Some(room) = window.get_mut(..want) else {
                return false;
            };
            let got = s.read(self.file, FileName::Pack(self.id), room, at);
            if got == 0 || room.iter().take(got).any(|b| *b != 0) {
                return false;
            }
            at += got as u64;
        }
        true
    }

    /// What the manifest says of the pack.
    fn compare(&self, s: &mut Session<'_>, meta: &PackMeta, len: u64, birth: K, total: K) {
        // What only the journal knows is younger.
        if self.last_birth > meta.last_birth && len == meta.len {
            let detail = format!("expected {}, got {}", self.last_birth, meta.last_birth);
            s.find(birth, FileName::Pack(self.id), detail);
        }
        let expected = meta.len.saturating_sub(HEADER_LEN);
        if meta.total != expected {
            let detail = format!("expected {expected} bytes of frames, got {}", meta.total);
            s.find(total, FileName::Pack(self.id), detail);
        }
    }

    /// Checks the trailer of a sealed pack. `Err(None)`: there is none.
    fn trailer(&self, s: &mut Session<'_>, len: u64, file_len: u64) -> Result<(), Option<String>> {
        const MAGIC: &[u8] = b"RZPF";
        let name = FileName::Pack(self.id);
        let at = file_len.saturating_sub(Footer::LEN).max(len);
        let mut bytes = vec![0; (file_len - at) as usize];
        let got = s.read(self.file, name, &mut bytes, at);
        bytes.truncate(got);
        let footer = match Footer::decode(&bytes, self.vid, self.id, file_len) {
            Ok(footer) => footer,
            Err(e) if bytes.starts_with(MAGIC) => return Err(Some(e.to_string())),
            Err(_) => return Err(None),
        };
        if footer.end > len {
            // Frames that a crash took back were listed already.
            return Err(None);
        }
        if footer.end < len {
            return Err(Some(format!(
                "expected frames up to {len}, got {}",
                footer.end
            )));
        }
        // The list of frames is shorter than the frames; the bytes may say anything.
        if u64::from(footer.trailer_len) > len {
            return Err(Some(format!("a list of {} bytes", footer.trailer_len)));
        }
        let mut bytes = vec![0; footer.trailer_len as usize];
        let got = s.read(self.file, name, &mut bytes, footer.end);
        bytes.truncate(got);
        let listed = decode_trailer(&bytes, &footer, self.vid, self.id);
        let listed = listed.map_err(|e| Some(e.to_string()))?;
        // Frames whose space was given back are listed, but not found.
        let is_listed = |e: &&TrailerEntry| {
            let found = listed.binary_search_by_key(&e.pos, |l| l.pos);
            found.ok().and_then(|i| listed.get(i)) == Some(*e)
        };
        let unlisted = self.entries.iter().find(|e| !is_listed(e));
        if let Some(entry) = unlisted {
            return Err(Some(format!(
                "the frame at byte {} is not in the list",
                entry.pos
            )));
        }
        if footer.last_birth < self.last_birth {
            return Err(Some(format!(
                "expected {}, got {}",
                self.last_birth, footer.last_birth
            )));
        }
        Ok(())
    }
}
