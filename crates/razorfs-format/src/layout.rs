//! The files of a volume and their names. All names are made here.

use std::fmt;

use crate::ids::{ManifestId, PackId, SegmentId};

/// A file of a volume. `Display` gives its path inside the volume.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum FileName {
    /// `SUPER`: four superblock slots.
    Super,
    /// `LOCK`: the advisory lock, and who holds it.
    Lock,
    /// `RESERVE`: ballast that is given back when the host is full.
    Reserve,
    /// `CREATING`: the volume is being created; durable before any other file of a volume, and
    /// durably gone before the volume takes anything.
    Creating,
    /// `journal/J-<slot>`: one file of the journal ring; its header tells its current life.
    Journal(u32),
    /// `journal/J-<slot>.b`: the same once more, where a volume keeps two copies of its journal.
    JournalTwin(u32),
    /// `meta/M-<id>.rm`.
    Manifest(ManifestId),
    /// `meta/S-<id>.rs`.
    Segment(SegmentId),
    /// `pack/P-<id>.rp`.
    Pack(PackId),
    /// `pack/P-<id>.rq`: parity of a pack.
    PackParity(PackId),
    /// `meta/S-<id>.rq`: parity of a segment.
    SegmentParity(SegmentId),
    /// `meta/M-<id>.rm.tmp`: a manifest that is being written.
    ManifestTmp(ManifestId),
    /// `meta/S-<id>.rs.tmp`: a segment that is being written.
    SegmentTmp(SegmentId),
    /// `pack/P-<id>.rq.tmp`: parity of a pack that is being written.
    PackParityTmp(PackId),
    /// `meta/S-<id>.rq.tmp`: parity of a segment that is being written.
    SegmentParityTmp(SegmentId),
    /// `SCRUB`: how far a scrub is, and what the last one found.
    Scrub,
    /// `SCRUB.tmp`: the same, being written.
    ScrubTmp,
}

/// The directories of a volume. `""` is the volume itself.
pub const DIRECTORIES: [&str; 5] = ["journal", "meta", "pack", "archive", "quarantine"];

impl FileName {
    /// A copy of a file of the journal ring, 0 or 1.
    #[must_use]
    pub const fn journal(slot: u32, copy: u8) -> Self {
        match copy {
            0 => Self::Journal(slot),
            _ => Self::JournalTwin(slot),
        }
    }

    /// The directory inside the volume, `""` for the volume itself.
    #[must_use]
    pub const fn dir(self) -> &'static str {
        match self {
            Self::Super | Self::Lock | Self::Reserve | Self::Creating => "",
            Self::Scrub | Self::ScrubTmp => "",
            Self::Journal(_) | Self::JournalTwin(_) => "journal",
            Self::Manifest(_) | Self::Segment(_) | Self::ManifestTmp(_) | Self::SegmentTmp(_) => {
                "meta"
            }
            Self::SegmentParity(_) | Self::SegmentParityTmp(_) => "meta",
            Self::Pack(_) | Self::PackParity(_) | Self::PackParityTmp(_) => "pack",
        }
    }

    /// The name inside [`FileName::dir`].
    #[must_use]
    pub fn leaf(self) -> String {
        match self {
            Self::Super => "SUPER".into(),
            Self::Lock => "LOCK".into(),
            Self::Reserve => "RESERVE".into(),
            Self::Creating => "CREATING".into(),
            Self::Journal(slot) => format!("J-{slot:04}"),
            Self::JournalTwin(slot) => format!("J-{slot:04}.b"),
            Self::Manifest(id) => format!("M-{:016x}.rm", id.0),
            Self::Segment(id) => format!("S-{:016x}.rs", id.0),
            Self::Pack(id) => format!("P-{:016x}.rp", id.0),
            Self::ManifestTmp(id) => format!("M-{:016x}.rm.tmp", id.0),
            Self::SegmentTmp(id) => format!("S-{:016x}.rs.tmp", id.0),
            Self::PackParity(id) => format!("P-{:016x}.rq", id.0),
            Self::SegmentParity(id) => format!("S-{:016x}.rq", id.0),
            Self::PackParityTmp(id) => format!("P-{:016x}.rq.tmp", id.0),
            Self::SegmentParityTmp(id) => format!("S-{:016x}.rq.tmp", id.0),
            Self::Scrub => "SCRUB".into(),
            Self::ScrubTmp => "SCRUB.tmp".into(),
        }
    }

    /// The file that `leaf` in directory `dir` is, if the name is exactly one of ours.
    #[must_use]
    pub fn parse(dir: &str, leaf: &str) -> Option<Self> {
        let name = match dir {
            "" => match leaf {
                "SUPER" => Self::Super,
                "LOCK" => Self::Lock,
                "RESERVE" => Self::Reserve,
                "CREATING" => Self::Creating,
                "SCRUB" => Self::Scrub,
                "SCRUB.tmp" => Self::ScrubTmp,
                _ => return None,
            },
            "journal" => {
                let rest = leaf.strip_prefix("J-")?;
                match rest.strip_suffix(".b") {
                    Some(slot) => Self::JournalTwin(slot.parse().ok()?),
                    None => Self::Journal(rest.parse().ok()?),
                }
            }
            "meta" => {
                let (kind, id, extension) = numbered(leaf)?;
                match (kind, extension) {
                    ('M', "rm") => Self::Manifest(ManifestId(id)),
                    ('M', "rm.tmp") => Self::ManifestTmp(ManifestId(id)),
                    ('S', "rs") => Self::Segment(SegmentId(id)),
                    ('S', "rs.tmp") => Self::SegmentTmp(SegmentId(id)),
                    ('S', "rq") => Self::SegmentParity(SegmentId(id)),
                    ('S', "rq.tmp") => Self::SegmentParityTmp(SegmentId(id)),
                    _ => return None,
                }
            }
            "pack" => match numbered(leaf)? {
                ('P', id, "rp") => Self::Pack(PackId(id)),
                ('P', id, "rq") => Self::PackParity(PackId(id)),
                ('P', id, "rq.tmp") => Self::PackParityTmp(PackId(id)),
                _ => return None,
            },
            _ => return None,
        };
        // Only the canonical spelling is ours.
        (name.leaf() == leaf).then_some(name)
    }
}

/// Kind, number and extension of a numbered file.
fn numbered(leaf: &str) -> Option<(char, u64, &str)> {
    let (stem, extension) = leaf.split_once('.')?;
    let (kind, id) = stem.split_once('-')?;
    let id = u64::from_str_radix(id, 16).ok()?;
    Some((kind.parse().ok()?, id, extension))
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.dir() {
            "" => f.write_str(&self.leaf()),
            dir => write!(f, "{dir}/{}", self.leaf()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back_and_only_in_their_one_spelling() {
        for name in [
            FileName::Super,
            FileName::Lock,
            FileName::Reserve,
            FileName::Creating,
            FileName::Journal(3),
            FileName::JournalTwin(12345),
            FileName::Manifest(ManifestId(0xabc)),
            FileName::Segment(SegmentId(7)),
            FileName::Pack(PackId(u64::MAX)),
            FileName::ManifestTmp(ManifestId(1)),
            FileName::SegmentTmp(SegmentId(2)),
            FileName::PackParity(PackId(5)),
            FileName::PackParityTmp(PackId(5)),
            FileName::SegmentParity(SegmentId(6)),
            FileName::SegmentParityTmp(SegmentId(6)),
            FileName::Scrub,
            FileName::ScrubTmp,
        ] {
            assert_eq!(FileName::parse(name.dir(), &name.leaf()), Some(name));
        }
        assert_eq!(FileName::parse("journal", "J-3"), None);
        assert_eq!(FileName::parse("journal", "J-3.b"), None);
        assert_eq!(FileName::parse("journal", "J-0003.c"), None);
        assert_eq!(FileName::parse("meta", "S-07.rs"), None);
        assert_eq!(FileName::parse("", "super"), None);
    }
}
