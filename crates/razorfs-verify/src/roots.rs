//! Level 0: superblock and manifests, from which everything else hangs.

use std::collections::BTreeSet;

use razorfs_format::layout::FileName;
use razorfs_format::manifest::{Manifest, PackMeta, SegmentMeta};
use razorfs_format::pack::{FRAME_ALIGN, HEADER_LEN};
use razorfs_format::superblock::{ManifestRef, Superblock};

use crate::session::{Opened, Session, WHOLE_MAX};
use crate::{FindingKind as K, Result, superblock};

/// The newest generation, and the one before it as far as it can be read.
pub struct Roots {
    pub superblock: Superblock,
    pub manifest: Manifest,
    /// The manifest of the generation before, if it is another one.
    pub previous: Option<Manifest>,
}

impl Roots {
    /// Whether sealed packs and segments have parity.
    pub fn parity(&self) -> bool {
        self.superblock.geometry.parity > 0
    }

    /// Segments that only the generation before needs.
    pub fn previous_segments(&self) -> Vec<SegmentMeta> {
        let current: BTreeSet<_> = self.manifest.segments.iter().map(|m| m.id).collect();
        let all = self.previous.iter().flat_map(|m| &m.segments);
        all.filter(|m| !current.contains(&m.id)).copied().collect()
    }

    /// Packs that only the generation before needs.
    pub fn previous_packs(&self) -> Vec<PackMeta> {
        let current: BTreeSet<_> = self.manifest.packs.iter().map(|m| m.id).collect();
        let all = self.previous.iter().flat_map(|m| &m.packs);
        all.filter(|m| !current.contains(&m.id)).copied().collect()
    }
}

/// Checks superblock and manifests. `None`: the volume cannot be read.
pub fn check(s: &mut Session<'_>) -> Result<Option<Roots>> {
    let Some(generations) = superblock::check(s) else {
        return Ok(None);
    };
    let newest = generations.newest;
    s.parity = newest.geometry.parity > 0;
    let Some(manifest) = read(s, &newest.manifest, K::NoManifest) else {
        return Ok(None);
    };
    let other = generations
        .previous
        .filter(|p| p.manifest.id != newest.manifest.id);
    let previous = other.and_then(|p| read(s, &p.manifest, K::PreviousManifest));
    let roots = Roots {
        superblock: newest,
        manifest,
        previous,
    };
    check_manifest(s, &roots);
    Ok(Some(roots))
}

fn read(s: &mut Session<'_>, named: &ManifestRef, kind: K) -> Option<Manifest> {
    let name = FileName::Manifest(named.id);
    let (file, len) = match s.open(name) {
        Opened::File(file, len) => (file, len),
        Opened::Missing => {
            s.find(kind, name, "the file is missing");
            return None;
        }
        Opened::Unreadable => {
            s.find(kind, name, "the file cannot be opened");
            return None;
        }
    };
    if len != u64::from(named.len) || len > WHOLE_MAX {
        s.find(
            kind,
            name,
            format!("expected {} bytes, got {len}", named.len),
        );
        return None;
    }
    let bytes = s.read_all(&*file, name, len);
    let crc = Manifest::crc(&bytes);
    if crc != named.crc {
        let detail = format!("expected checksum {:#010x}, got {crc:#010x}", named.crc);
        s.find(kind, name, detail);
        return None;
    }
    match Manifest::decode(&bytes, s.vid, named.id) {
        Ok(manifest) => {
            s.checked.manifests += 1;
            Some(manifest)
        }
        Err(e) => {
            s.find_bad(kind, &e);
            None
        }
    }
}

/// What no checksum can catch.
fn check_manifest(s: &mut Session<'_>, roots: &Roots) {
    let (manifest, superblock) = (&roots.manifest, &roots.superblock);
    let counters = &manifest.counters;
    let mut wrong = Vec::new();
    if manifest.generation > superblock.generation {
        wrong.push(format!(
            "generation {} is newer than the superblock's {}",
            manifest.generation, superblock.generation
        ));
    }
    if counters.lsn != superblock.cut {
        wrong.push(format!(
            "it ends before operation {}, the superblock says {}",
            counters.lsn, superblock.cut
        ));
    }
    if manifest.id >= counters.next_manifest {
        wrong.push(format!("manifest {} is still to be given out", manifest.id));
    }
    for m in &manifest.segments {
        if m.id >= counters.next_segment {
            wrong.push(format!("segment {} is still to be given out", m.id));
        }
        if m.epoch_max > counters.epoch {
            wrong.push(format!(
                "segment {} has records of epoch {}",
                m.id, m.epoch_max
            ));
        }
    }
    for p in &manifest.packs {
        if p.id >= counters.next_pack {
            wrong.push(format!("pack {} is still to be given out", p.id));
        }
        let sane = p.len >= HEADER_LEN && p.len.is_multiple_of(FRAME_ALIGN);
        if !sane || p.live > p.total {
            wrong.push(format!("impossible sizes: {p:?}"));
        }
    }
    for snapshot in manifest.timeline.snapshots() {
        if snapshot.epoch > counters.epoch {
            wrong.push(format!("a snapshot is of epoch {}", snapshot.epoch));
        }
    }
    wrong.extend(overlaps(&manifest.segments));
    for detail in wrong {
        s.find(
            K::ManifestInconsistent,
            FileName::Manifest(manifest.id),
            detail,
        );
    }
}

/// In a level from 1 on, and in one run of level 0, segments of a table do not overlap.
fn overlaps(segments: &[SegmentMeta]) -> Vec<String> {
    let mut sorted: Vec<&SegmentMeta> = segments.iter().collect();
    let run = |m: &SegmentMeta| if m.level == 0 { m.run } else { 0 };
    sorted.sort_unstable_by_key(|m| (m.tag, m.level, run(m), m.first));
    let pairs = sorted.windows(2).filter_map(|pair| match pair {
        [a, b] => Some((a, b)),
        _ => None,
    });
    let same =
        |a: &SegmentMeta, b: &SegmentMeta| (a.tag, a.level, run(a)) == (b.tag, b.level, run(b));
    pairs
        .filter(|(a, b)| same(a, b) && a.last > b.first)
        .map(|(a, b)| format!("segments {} and {} of one level overlap", a.id, b.id))
        .collect()
}
