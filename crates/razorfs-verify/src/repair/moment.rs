//! One moment of the volume, the present or a snapshot, with everything put right that it shows.

use std::collections::{BTreeMap, BTreeSet};

use razorfs_format::key::Key;
use razorfs_format::record::Inode;
use razorfs_format::{Epoch, Ino};

use super::data::{self, Blocks, References};
use super::evidence::Evidence;
use super::frames::Frames;
use super::older::Olders;
use super::records::{self, Made};
use super::report::Outcome;
use super::source::Lost;
use super::tree::Tree;
use super::writer::Sink;
use super::{INO_GAP, names, paths};
use crate::namespace::place_of;
use crate::packs::Packs;
use crate::session::Session;
use crate::view::View;

/// Records that a snapshot shows otherwise than the segments say; nothing: it has no such record.
pub type Patch = BTreeMap<Key, Option<Box<[u8]>>>;

/// What is the same at every moment.
pub struct Ground<'g> {
    pub hash_key: [u8; 16],
    /// Names get new places.
    pub rekey: bool,
    pub lost: &'g Lost,
    /// All frames of blocks whose records may be lost.
    pub frames: Frames,
    pub packs: Packs,
    pub evidence: &'g Evidence,
    pub made: Made,
}

/// The newest snapshot on the way to a moment.
#[derive(Clone, Copy)]
pub struct Before<'m> {
    pub epoch: Epoch,
    pub patch: &'m Patch,
}

/// A moment.
pub struct Moment<'m> {
    pub view: &'m View,
    /// It is a snapshot.
    pub is_past: bool,
    pub before: Option<Before<'m>>,
    /// What it gets of older moments.
    pub olders: &'m Olders,
}

/// What came of it.
pub struct Mended {
    pub references: References,
    /// No inode has this number or a higher one.
    pub next_ino: Ino,
}

impl Ground<'_> {
    /// Reads everything that is left of a moment, and hands over what belongs together.
    pub fn mend(
        &mut self,
        s: &mut Session<'_>,
        moment: &Moment<'_>,
        out: &mut Outcome,
        sink: &mut dyn Sink,
    ) -> Mended {
        let (view, olders) = (moment.view, moment.olders);
        let lost = &self.lost.seen_by(view.sight());
        let frames = match self.frames.is_empty() {
            true => Frames::default(),
            false => {
                let torn = data::torn(s, view);
                self.frames.seen_by(view.sight(), lost, &torn)
            }
        };
        let mut tree = Tree::new(self.hash_key, self.rekey, moment.is_past);
        tree.read_inodes(s, view, lost, out);
        let (mut references, owners) = data::look(s, view, &tree);
        references.share_with(olders);
        tree.make_owners(&owners, &frames, lost);
        tree.read_names(s, view, lost, out);
        tree.settle(out);
        let mut next_ino = next_ino(self.evidence, view, &tree);
        olders.join(&mut tree);
        let (placed, taken) = names::place(s, view, &mut tree, (olders, next_ino), out);
        if taken {
            next_ino = next_ino.next();
        }
        records::write_xattrs(s, view, &mut tree, (lost, olders), out, sink);
        let blocks = Blocks {
            tree: &mut tree,
            references,
            packs: &mut self.packs,
            frames: &frames,
            lost,
            out,
            sink,
            moment,
            present: BTreeSet::new(),
        };
        let references = blocks.write(s, view);
        paths::name_losses(s, view, &tree, &placed, out);
        records::write_names(s, view, &tree, placed, sink);
        let made = owned_by_root(s, view, &tree, self.made);
        records::write_inodes(s, view, &tree, (made, olders), out, sink);
        if moment.is_past {
            records::write_orphans(s, &tree, sink);
        }
        Mended {
            references,
            next_ino: next_ino.max(olders.next_ino()),
        }
    }
}

/// A number that no inode has or had.
fn next_ino(evidence: &Evidence, view: &View, tree: &Tree) -> Ino {
    let last = tree.nodes.last_key_value().map_or(0, |(ino, _)| ino.0);
    let next = view.counters.next_ino.0.max(last.saturating_add(1));
    let next = next.max(evidence.ino.0.saturating_add(1)).max(Ino::FIRST.0);
    // One is left for `lost+found`.
    Ino(next.saturating_add(INO_GAP).min(u64::MAX - 1))
}

/// What is made up belongs to whoever has the root directory.
fn owned_by_root(s: &mut Session<'_>, view: &View, tree: &Tree, made: Made) -> Made {
    let mut made = made;
    if tree.nodes.get(&Ino::ROOT).is_none_or(|root| root.made) {
        return made;
    }
    view.scan(s, razorfs_format::key::Tag::Inode, &mut |_, found| {
        if found.key.ino() == Ino::ROOT
            && let Some(value) = found.value()
            && let Ok(root) = Inode::decode(value, place_of())
        {
            (made.uid, made.gid) = (root.uid, root.gid);
        }
    });
    made
}
