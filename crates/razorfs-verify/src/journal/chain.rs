//! The links between batches: whether the log is what was written, also of batches that nothing
//! needs any more. Checksums tell of bytes that have changed by themselves; who edits an entry
//! makes them anew, but does not have what the entry after it was linked to.

use std::collections::BTreeMap;

use razorfs_format::journal::{BatchHeader, Link};
use razorfs_format::superblock::LINKED_BATCHES;
use razorfs_format::{BatchSeq, Jid};

use super::Life;
use crate::FindingKind as K;
use crate::roots::Roots;
use crate::session::Session;

/// Where the newest copy of a batch is.
struct Spot<'a> {
    jid: Jid,
    life: &'a Life,
    unit: u32,
    header: BatchHeader,
}

impl Spot<'_> {
    /// Whether what is here was written right after `before`, as far as the files tell. Between
    /// the two there may be a time line whose files are used for something else by now.
    fn follows(&self, before: &Self) -> bool {
        let same = self.jid == before.jid;
        let next = self.jid == self.life.jid && self.life.previous == before.jid;
        self.header.seq == before.header.seq.next() && (same || next)
    }
}

/// Checks the links of all batches before `next`.
pub fn check(s: &mut Session<'_>, roots: &Roots, lives: &[Life], next: BatchSeq) {
    if roots.superblock.features.incompat & LINKED_BATCHES == 0 {
        return;
    }
    let mut spots: BTreeMap<BatchSeq, Spot<'_>> = BTreeMap::new();
    for life in lives {
        for (unit, jid, header) in life.batches() {
            let newer = spots.get(&header.seq).is_none_or(|known| known.jid < jid);
            if header.seq < next && newer {
                let spot = Spot {
                    jid,
                    life,
                    unit,
                    header,
                };
                spots.insert(header.seq, spot);
            }
        }
    }
    let mut before: Option<(&Spot<'_>, Link)> = None;
    for spot in spots.values() {
        let Some((payload, link)) = spot.life.payload(s, spot.unit, spot.jid, &spot.header) else {
            // Written over in part, or damaged: others tell of that.
            before = None;
            continue;
        };
        let after = |link: Link| link.next(s.vid, &spot.header, &payload);
        let fits = match (link, &before) {
            (None, _) => false,
            // What came before was not known when it was written, or is not any more.
            (Some(own), _) if own == after(Link::UNKNOWN) => true,
            // Nothing was before it.
            (Some(_), None) if spot.header.seq == BatchSeq(1) => false,
            (Some(own), Some((last, link))) if spot.follows(last) => own == after(*link),
            _ => true,
        };
        if !fits {
            let place = spot.life.place(spot.unit.saturating_mul(8));
            let object = format!("{} at byte {}", place.file, place.offset);
            let detail = format!(
                "batch {} is not linked to the one before it",
                spot.header.seq
            );
            s.find(K::JournalChain, object, detail);
        }
        before = Some((spot, link.unwrap_or_default()));
    }
}
