//! Level 3: packs and what refers to them.
//!
//! First each pack is walked from its first frame to its last, and what is damaged is remembered.
//! Then each reference is compared with the header of its frame; since that holds the checksum of
//! the checksums that the reference has, the walk has checked the data for it. What is damaged
//! and was not referred to is dead.

mod walk;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use razorfs_disk::File;
use razorfs_format::key::Key;
use razorfs_format::layout::FileName;
use razorfs_format::manifest::PackMeta;
use razorfs_format::pack::{
    FRAME_HEADER_LEN, FrameHeader, FrameIdentity, FramePlan, HEADER_LEN, PackState, frame_end,
};
use razorfs_format::parity::Object;
use razorfs_format::record::{BLOCK, Fragment, PackRef};
use razorfs_format::{Epoch, FormatError, PackId};

use crate::FindingKind as K;
use crate::extents::part_of;
use crate::journal::Replay;
use crate::parity;
use crate::roots::Roots;
use crate::session::{Opened, Session};
use walk::walk;

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
    /// The first damaged frame that is not among them: there are too many.
    unknown: Option<(PackId, u64)>,
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
            unknown: None,
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
            let room = s.bad_max.saturating_sub(self.bad.len());
            let walked = walk(s, id, meta.as_ref(), len, (false, room));
            if let Some(pack) = self.packs.get_mut(&id) {
                pack.birth = walked.birth;
            }
            self.unknown = self.unknown.or(walked.unknown.map(|pos| (id, pos)));
            let bad = walked.bad.into_iter();
            self.bad.extend(bad.map(|(pos, bad)| ((id, pos), bad)));
        }
        for meta in roots.previous_packs() {
            if !self.packs.contains_key(&meta.id) {
                let most = s.bad_max;
                for (pos, bad) in walk(s, meta.id, Some(&meta), meta.len, (true, most)).bad {
                    report_dead(s, K::PreviousPack, (meta.id, pos), bad.hole, bad.error);
                }
            }
        }
        s.progress("packs", total, total);
    }

    /// Whether there is damage to which nothing was found to refer.
    pub fn has_unclaimed(&self) -> bool {
        let mut bad = self.bad.values();
        bad.any(|bad| !bad.referred && bad.hole == Hole::No)
    }

    /// Counts frames that the segments refer to, each once.
    pub fn count(&mut self, frames: Vec<(PackId, u64)>) {
        for (id, bytes) in frames {
            if let Some(pack) = self.packs.get_mut(&id) {
                pack.live = pack.live.saturating_add(bytes);
            }
        }
    }

    /// Counts anew: what was counted until now is not all.
    pub fn count_anew(&mut self) {
        self.packs.values_mut().for_each(|pack| pack.live = 0);
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
            && (self.unknown.is_none_or(|first| (r.pack, r.pos) < first)
                || self.fetch(s, &id, r, 0..r.raw_len).is_some())
    }

    /// Raw bytes of a frame, if they are what the reference says.
    pub fn fetch(
        &mut self,
        s: &mut Session<'_>,
        id: &FrameIdentity,
        r: &PackRef,
        want: Range<u32>,
    ) -> Option<Vec<u8>> {
        let plan = FramePlan::new(r, want.clone()).ok()?;
        let mut stored = vec![0; plan.len()];
        let got = self.read(s, r.pack, &mut stored, plan.offset())?;
        stored.truncate(got);
        let mut out = vec![0; want.len()];
        let mut scratch = Vec::new();
        plan.extract(s.vid, id, &stored, &mut out, &mut scratch)
            .ok()?;
        Some(out)
    }

    /// Reads bytes of a pack; nothing if it cannot be opened.
    fn read(&mut self, s: &mut Session<'_>, id: PackId, buf: &mut [u8], at: u64) -> Option<usize> {
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
