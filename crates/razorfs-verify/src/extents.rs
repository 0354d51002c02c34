//! Level 2: the owners and the places of data. With packs, level 3: what they refer to.

use razorfs_format::key::{Key, Tag};
use razorfs_format::record::{BLOCK, Extent, FileKind, Fragment, FragmentKind, Orphan};
use razorfs_format::{Branch, FormatError};

use crate::FindingKind as K;
use crate::namespace::{Node, Nodes, place_of, unreadable};
use crate::packs::Packs;
use crate::session::Session;
use crate::shares::Shares;
use crate::view::{Found, View};

const BLOCK64: u64 = BLOCK as u64;

/// What references are compared with; those of snapshots are no part of any count of shares.
type Data = (Option<Shares>, Packs);

/// Checks all extents.
pub fn check(s: &mut Session<'_>, nodes: &Nodes, view: &View, mut data: Option<&mut Data>) {
    let mut done = 0;
    view.scan(s, Tag::Extent, &mut |s, found| {
        if done % 4096 == 0 {
            s.progress("extents", done, 0);
        }
        done += 1;
        if found.key.branch() != Branch::HEAD {
            return;
        }
        let data = data.as_deref_mut();
        if let Err(e) = extent(s, (view, nodes), &found, data) {
            unreadable(s, &found.key, &e);
        }
    });
}

fn extent(
    s: &mut Session<'_>,
    all: (&View, &Nodes),
    found: &Found<'_>,
    data: Option<&mut Data>,
) -> Result<(), FormatError> {
    let flushed = match found.flushed {
        Some(value) => Extent::decode(value, place_of())?.fragments,
        None => Vec::new(),
    };
    let fragments = found.fragments(&flushed, place_of())?;
    if !fragments.is_empty() {
        s.checked.extents += 1;
        place(s, all, &found.key, &fragments);
        lost(s, &found.key, &fragments);
    }
    if let Some((shares, packs)) = data {
        if let Some(shares) = shares {
            packs.count(shares.refer(s, &found.key, &flushed));
        }
        for fragment in &fragments {
            if let FragmentKind::Pack(r) = &fragment.kind {
                packs.refer(s, &found.key, fragment, r);
            }
        }
    }
    Ok(())
}

/// What a damaged record took with it stays lost when a part of its block is written.
fn lost(s: &mut Session<'_>, key: &Key, fragments: &[Fragment]) {
    for fragment in fragments.iter().filter(|f| f.kind == FragmentKind::Lost) {
        let start = key.second().saturating_mul(BLOCK64);
        let from = start.saturating_add(u64::from(fragment.off));
        let part = format!(" offset {from}");
        let detail = format!("{} bytes cannot be read", fragment.len);
        s.find_ino(K::DataLost, key.ino(), &part, detail);
    }
}

/// Data lie inside their file, but where a merge has got half way: what is cut off there goes last.
fn place(s: &mut Session<'_>, (view, nodes): (&View, &Nodes), key: &Key, fragments: &[Fragment]) {
    let (ino, block) = (key.ino(), key.second());
    let part = part_of(key);
    let node = match nodes.get(&ino) {
        Some(node) if node.kind == FileKind::Regular => node,
        other => {
            let got = other.map_or("nothing".into(), |n| format!("{:?}", n.kind));
            s.find_ino(
                K::ExtentOwner,
                ino,
                &part,
                format!("expected a regular file, got {got}"),
            );
            return;
        }
    };
    let data = fragments
        .iter()
        .filter(|f| f.kind != FragmentKind::Reserved);
    let end = data.map(Fragment::end).max().unwrap_or(0);
    let end = block.saturating_mul(BLOCK64).saturating_add(u64::from(end));
    let is_beyond = end > node.size && !may_reach(node, block) && !view.is_part;
    if is_beyond && fragments.iter().any(is_data) {
        let detail = format!("expected data up to {}, got some up to {end}", node.size);
        s.find_ino(K::ExtentBeyondSize, ino, &part, detail);
    }
}

const fn is_data(fragment: &Fragment) -> bool {
    !matches!(fragment.kind, FragmentKind::Reserved)
}

/// Whether the inode may have data in this block beyond its size: they are being removed.
fn may_reach(node: &Node, block: u64) -> bool {
    match node.orphan {
        Some(Orphan::Reap) => node.nlink == 0,
        Some(Orphan::Trim { from }) => block >= from,
        None => false,
    }
}

/// Which part of its file an extent is.
pub fn part_of(key: &Key) -> String {
    format!(" offset {}", key.second().saturating_mul(BLOCK64))
}
