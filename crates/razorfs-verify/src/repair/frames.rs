//! Data whose extent records are lost, found again by the headers of their frames: these tell for
//! which block of which file, and when, they were written.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use razorfs_format::key::{Key, Tag};
use razorfs_format::layout::FileName;
use razorfs_format::manifest::PackMeta;
use razorfs_format::pack::{Depth, HEADER_LEN, Scanned, scan_frames};
use razorfs_format::record::{Fragment, FragmentKind};
use razorfs_format::timeline::View;
use razorfs_format::{Branch, Epoch, Ino};

use super::source::Lost;
use crate::session::{Opened, Session};
use crate::view::lay_over;

/// Intact frames of blocks whose records may be lost.
#[derive(Default)]
pub struct Frames {
    found: BTreeMap<(Ino, u64), Vec<Fragment>>,
}

impl Frames {
    /// Looks through the packs, if records of extents are lost, or some say that something is.
    pub fn find(
        s: &mut Session<'_>,
        packs: &[PackMeta],
        lost: &Lost,
        torn: &BTreeSet<(Ino, u64)>,
    ) -> Self {
        let mut this = Self::default();
        if lost.of(Tag::Extent).next().is_none() && torn.is_empty() {
            return this;
        }
        for (done, meta) in (0..).zip(packs) {
            s.progress("packs", done, packs.len() as u64);
            this.search(s, meta, lost, torn);
        }
        for list in this.found.values_mut() {
            put_in_order(list);
        }
        this
    }

    fn search(
        &mut self,
        s: &mut Session<'_>,
        meta: &PackMeta,
        lost: &Lost,
        torn: &BTreeSet<(Ino, u64)>,
    ) {
        let name = FileName::Pack(meta.id);
        let Opened::File(file, _) = s.open(name) else {
            return;
        };
        let vid = s.vid;
        let mut read =
            |buf: &mut [u8], at: u64| -> std::result::Result<usize, std::convert::Infallible> {
                Ok(s.read(&*file, name, buf, at))
            };
        let Ok(()) = scan_frames(
            &mut read,
            vid,
            meta.id,
            HEADER_LEN..meta.len,
            Depth::Data,
            &mut |met| {
                if let Scanned::Frame { pos, header, data } = met
                    && let Some(Ok((_, crcs))) = data
                {
                    let id = &header.identity;
                    let key = Key::extent(id.branch, id.ino, id.block);
                    let newer = lost.newer(&key, None);
                    let wanted = newer.is_some_and(|epoch| id.birth <= epoch)
                        || torn.contains(&(id.ino, id.block));
                    if wanted && id.branch == Branch::HEAD {
                        let fragment = Fragment {
                            off: id.off,
                            len: header.raw_len,
                            kind: FragmentKind::Pack(header.reference(meta.id, pos, crcs)),
                        };
                        self.found
                            .entry((id.ino, id.block))
                            .or_default()
                            .push(fragment);
                    }
                }
                ControlFlow::Continue(())
            },
        );
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Those of blocks whose records may be lost from a view, as far as it shows their epochs.
    pub fn seen_by(&self, sight: &View, lost: &Lost, torn: &BTreeSet<(Ino, u64)>) -> Self {
        let mut this = Self::default();
        for (at, list) in &self.found {
            let newer = lost.newer(&Key::extent(Branch::HEAD, at.0, at.1), None);
            let is_torn = torn.contains(at);
            let is_seen = |f: &&Fragment| match &f.kind {
                FragmentKind::Pack(r) => {
                    sight.sees(r.birth) && (is_torn || newer.is_some_and(|e| r.birth <= e))
                }
                _ => false,
            };
            let seen: Vec<Fragment> = list.iter().filter(is_seen).cloned().collect();
            if !seen.is_empty() {
                this.found.insert(*at, seen);
            }
        }
        this
    }

    /// The files that there are frames of.
    pub fn owners(&self) -> impl Iterator<Item = Ino> {
        self.found.keys().map(|(ino, _)| *ino)
    }

    /// The blocks that there are frames of.
    pub fn blocks(&self) -> impl Iterator<Item = (Ino, u64)> {
        self.found.keys().copied()
    }

    /// Lays the frames of a block that are younger than `epoch` over what is known of it.
    pub fn lay_over(&self, ino: Ino, block: u64, epoch: Option<Epoch>, list: &mut Vec<Fragment>) {
        for fragment in self.found.get(&(ino, block)).into_iter().flatten() {
            let FragmentKind::Pack(r) = &fragment.kind else {
                continue;
            };
            if epoch.is_none_or(|epoch| r.birth > epoch) {
                lay_over(list, fragment);
            }
        }
    }
}

/// Puts the frames of a block into the order in which they are laid over each other: by birth, and
/// in one epoch by where they stand. That is the order in which they were written only within a
/// pack that no cleaning wrote: copies keep their birth. Of a frame that is there twice the copy
/// goes, or it would lie over what was written over the frame; what else lies over what between
/// packs is a guess, and all that is put back is told as [unsure](super::report::Lose::Unsure).
fn put_in_order(list: &mut Vec<Fragment>) {
    let place = |f: &Fragment| match &f.kind {
        FragmentKind::Pack(r) => (r.birth, r.pack, r.pos),
        _ => Default::default(),
    };
    list.sort_by_key(place);
    let mut first = BTreeMap::new();
    list.retain(|f| match &f.kind {
        // In one pack they are two writes of the same bytes, and the later one counts.
        FragmentKind::Pack(r) => {
            let same = (r.birth, f.off, f.len, r.stored_len, r.crcs.clone());
            *first.entry(same).or_insert(r.pack) == r.pack
        }
        _ => true,
    });
}
