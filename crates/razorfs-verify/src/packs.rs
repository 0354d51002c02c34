//! Level 3: packs and what refers to them.
//!
//! First each pack is walked from its first frame to its last, and what is damaged is remembered.
//! Then each reference is compared with the header of its frame; since that holds the checksum of
//! the checksums that the reference has, the walk has checked the data for it. What is damaged
//! and was not referred to is dead.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use razorfs_disk::File;
use razorfs_format::key::Key;
use razorfs_format::layout::FileName;
use razorfs_format::manifest::PackMeta;
use razorfs_format::pack::{
    Depth, FRAME_HEADER_LEN, Footer, FrameHeader, FrameIdentity, HEADER_LEN, PackState, Scanned,
    TrailerEntry, check_header, decode_trailer, frame_end, scan_frames,
};
use razorfs_format::parity::Object;
use razorfs_format::record::{BLOCK, Fragment, PackRef};
use razorfs_format::{Epoch, FormatError, PackId, VolumeId};

use crate::FindingKind as K;
use crate::extents::part_of;
use crate::journal::Replay;
use crate::parity;
use crate::roots::Roots;
use crate::session::{Opened, Session};

/// Most damaged frames that are remembered one by one.
const BAD_MAX: usize = 100_000;
/// Holes begin and end at multiples of this.
const PAGE: u64 = 4096;
/// Packs that are kept open.
const OPEN_MAX: usize = 16;

/// A pack as manifest and journal have it.
struct Pack {
    /// As the manifest has it.
    meta: Option<PackMeta>,
    /// End of its frames, those that only the journal knows included.
    len: u64,
    /// Bytes of frames that the segments refer to.
    live: u64,
    /// The youngest frame that was seen in it.
    birth: Epoch,
}

/// Whether space of dead frames was given back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hole {
    /// Not here.
    No,
    /// A power failure let some of it survive.
    Torn,
    Whole,
}

/// A frame whose data are not what they should be.
struct Bad {
    error: FormatError,
    hole: Hole,
    /// A file refers to it.
    referred: bool,
}

/// Reports a part of a pack that nothing refers to and that is not what it should be.
fn report_dead(s: &mut Session<'_>, kind: K, at: (PackId, u64), hole: Hole, detail: impl ToString) {
    let object = format!("{} at byte {}", FileName::Pack(at.0), at.1);
    match hole {
        Hole::Whole => {}
        Hole::Torn => {
            s.find(K::PackTornHole, object, detail);
        }
        Hole::No => {
            s.find(kind, object, detail);
        }
    }
}

/// All packs.
pub struct Packs {
    packs: BTreeMap<PackId, Pack>,
    bad: BTreeMap<(PackId, u64), Bad>,
    open: Vec<(PackId, Arc<dyn File>)>,
}

impl Packs {
    pub fn new(roots: &Roots, replay: &Replay) -> Self {
        let mut packs = BTreeMap::new();
        for meta in &roots.manifest.packs {
            let pack = Pack {
                meta: Some(*meta),
                len: meta.len,
                live: 0,
                birth: Epoch(0),
            };
            packs.insert(meta.id, pack);
        }
        for (id, end) in &replay.frames {
            let pack = packs.entry(*id).or_insert(Pack {
                meta: None,
                len: HEADER_LEN,
                live: 0,
                birth: Epoch(0),
            });
            pack.len = pack.len.max(*end);
        }
        Self {
            packs,
            bad: BTreeMap::new(),
            open: Vec::new(),
        }
    }

    /// Walks all packs.
    pub fn walk(&mut self, s: &mut Session<'_>, roots: &Roots) {
        let all = self
            .packs
            .iter()
            .map(|(id, p)| (*id, p.meta, p.len))
            .collect::<Vec<_>>();
        let total = all.len() as u64;
        for (done, (id, meta, len)) in (0..).zip(all) {
            s.progress("packs", done, total);
            let (bad, birth) = walk(s, id, meta.as_ref(), len, false);
            if let Some(pack) = self.packs.get_mut(&id) {
                pack.birth = birth;
            }
            // A repair has to know them all.
            let most = if s.salvage { usize::MAX } else { BAD_MAX };
            let room = most.saturating_sub(self.bad.len());
            self.bad.extend(
                bad.into_iter()
                    .take(room)
                    .map(|(pos, bad)| ((id, pos), bad)),
            );
        }
        for meta in roots.previous_packs() {
            if !self.packs.contains_key(&meta.id) {
                for (pos, bad) in walk(s, meta.id, Some(&meta), meta.len, true).0 {
                    report_dead(s, K::PreviousPack, (meta.id, pos), bad.hole, bad.error);
                }
            }
        }
        s.progress("packs", total, total);
    }

    /// Counts frames that the segments refer to, each once.
    pub fn count(&mut self, frames: Vec<(PackId, u64)>) {
        for (id, bytes) in frames {
            if let Some(pack) = self.packs.get_mut(&id) {
                pack.live = pack.live.saturating_add(bytes);
            }
        }
    }

    /// Checks a reference.
    pub fn refer(&mut self, s: &mut Session<'_>, key: &Key, fragment: &Fragment, r: &PackRef) {
        let (ino, part) = (key.ino(), part_of(key));
        let wrong = match self.packs.get(&r.pack) {
            None => Err(format!("{} is not listed", FileName::Pack(r.pack))),
            Some(pack) if frame_end(r) > pack.len => Err(format!(
                "expected data before byte {} of {}, got some up to {}",
                pack.len,
                FileName::Pack(r.pack),
                frame_end(r)
            )),
            Some(_) => Ok(()),
        };
        let id = FrameIdentity::of(r, key.branch(), ino, key.second(), fragment.off);
        let wrong = wrong.and_then(|()| self.compare(s, r, &id));
        if let Err(detail) = wrong {
            let at = (FileName::Pack(r.pack), r.pos);
            s.find_ino_at(K::FrameReference, (ino, &part), at, detail);
            return;
        }
        if let Some(bad) = self.bad.get_mut(&(r.pack, r.pos)) {
            let at = (FileName::Pack(r.pack), r.pos);
            s.find_ino_at(K::FrameDamaged, (ino, &part), at, &bad.error);
            bad.referred = true;
        }
    }

    /// Whether a reference, at `off` of its block, leads to an intact frame of that block.
    pub fn is_right(&mut self, s: &mut Session<'_>, key: &Key, off: u32, r: &PackRef) -> bool {
        let listed = self.packs.get(&r.pack);
        let id = FrameIdentity::of(r, key.branch(), key.ino(), key.second(), off);
        listed.is_some_and(|pack| frame_end(r) <= pack.len)
            && !self.bad.contains_key(&(r.pack, r.pos))
            && self.compare(s, r, &id).is_ok()
    }

    /// Reads bytes of a pack; nothing if it cannot be opened.
    pub fn read(
        &mut self,
        s: &mut Session<'_>,
        id: PackId,
        buf: &mut [u8],
        at: u64,
    ) -> Option<usize> {
        let file = self.file(s, id)?;
        Some(s.read(&*file, FileName::Pack(id), buf, at))
    }

    /// The packs that are listed or that the journal names: what is known of them, up to the end
    /// of their frames.
    pub fn metas(&self) -> impl Iterator<Item = PackMeta> {
        self.packs.iter().map(|(id, pack)| {
            let known = pack.meta.unwrap_or(PackState::new(*id).meta(0));
            PackMeta {
                len: pack.len,
                last_birth: known.last_birth.max(pack.birth),
                ..known
            }
        })
    }

    /// Compares a reference with the header of its frame.
    fn compare(
        &mut self,
        s: &mut Session<'_>,
        r: &PackRef,
        id: &FrameIdentity,
    ) -> Result<(), String> {
        let name = FileName::Pack(r.pack);
        let Some(file) = self.file(s, r.pack) else {
            return Err(format!("{name} cannot be read"));
        };
        let mut bytes = [0; FRAME_HEADER_LEN as usize];
        let got = s.read(&*file, name, &mut bytes, r.pos);
        let bytes = bytes.get(..got).unwrap_or_default();
        let header = FrameHeader::decode(bytes, s.vid, r.pack, r.pos).map_err(|e| e.to_string())?;
        let expected = FrameHeader {
            identity: *id,
            raw_len: r.raw_len,
            stored_len: r.stored_len,
            codec: r.codec,
            data_crc: id.data_crc(s.vid, &r.crcs),
        };
        if header != expected {
            let at = r.pos;
            return Err(format!(
                "{name} at byte {at}: expected {expected:?}, got {header:?}"
            ));
        }
        Ok(())
    }

    fn file(&mut self, s: &mut Session<'_>, id: PackId) -> Option<Arc<dyn File>> {
        if let Some(at) = self.open.iter().position(|(open, _)| *open == id) {
            let entry = self.open.remove(at);
            let file = Arc::clone(&entry.1);
            self.open.push(entry);
            return Some(file);
        }
        match s.open(FileName::Pack(id)) {
            Opened::File(file, _) => {
                if self.open.len() >= OPEN_MAX {
                    self.open.remove(0);
                }
                self.open.push((id, Arc::clone(&file)));
                Some(file)
            }
            Opened::Missing | Opened::Unreadable => None,
        }
    }

    /// What is left once all references are known.
    pub fn settle(&mut self, s: &mut Session<'_>) {
        let lost = |object, range: Range<u64>| {
            let Object::Pack(id) = object else {
                return true;
            };
            // No frame is longer.
            let from = range
                .start
                .saturating_sub(FRAME_HEADER_LEN + 2 * u64::from(BLOCK));
            let mut bad = self.bad.range((id, from)..(id, range.end));
            bad.any(|(_, bad)| bad.referred)
        };
        parity::tell_packs(s, &lost);
        for ((pack, pos), bad) in std::mem::take(&mut self.bad) {
            if !bad.referred {
                report_dead(s, K::DeadFrame, (pack, pos), bad.hole, bad.error);
            }
        }
        if s.incomplete {
            // What could not be read would be missing in the account.
            return;
        }
        for (id, pack) in &self.packs {
            let Some(meta) = &pack.meta else {
                continue;
            };
            let kind = match pack.live.cmp(&meta.live) {
                std::cmp::Ordering::Equal => continue,
                std::cmp::Ordering::Greater => K::PackAccountLow,
                std::cmp::Ordering::Less => K::PackAccountHigh,
            };
            let detail = format!("expected {} live bytes, got {}", pack.live, meta.live);
            s.find(kind, FileName::Pack(*id), detail);
        }
    }
}

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
    gaps: Vec<(Range<u64>, bool, FormatError)>,
    missing: Option<Range<u64>>,
    /// The frames, for the comparison with the trailer.
    entries: Vec<TrailerEntry>,
    frames: u64,
    last_birth: Epoch,
}

/// Walks pack `id` whose frames end at `len`; answers the frames that are damaged, and the birth of
/// the youngest one.
fn walk(
    s: &mut Session<'_>,
    id: PackId,
    meta: Option<&PackMeta>,
    len: u64,
    previous: bool,
) -> (Vec<(u64, Bad)>, Epoch) {
    let name = FileName::Pack(id);
    let kind = |kind| if previous { K::PreviousPack } else { kind };
    let (file, file_len) = match s.open(name) {
        Opened::File(file, file_len) => (file, file_len),
        // The check of the files has told of it.
        Opened::Missing | Opened::Unreadable => return (Vec::new(), Epoch(0)),
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
        bad_max: if s.salvage { usize::MAX } else { BAD_MAX },
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
    (walk.bad, walk.last_birth)
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
                if let Some(Err(error)) = data
                    && self.bad.len() < self.bad_max
                {
                    let bad = Bad {
                        error,
                        hole: Hole::No,
                        referred: false,
                    };
                    self.bad.push((pos, bad));
                }
            }
            Scanned::Gap { range, zero, error } => {
                if self.gaps.len() < BAD_MAX {
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
