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
    /// `meta/M-<id>.rm.tmp`: a manifest that is being written.
    ManifestTmp(ManifestId),
    /// `meta/S-<id>.rs.tmp`: a segment that is being written.
    SegmentTmp(SegmentId),
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
            Self::Journal(_) | Self::JournalTwin(_) => "journal",
            Self::Manifest(_) | Self::Segment(_) | Self::ManifestTmp(_) | Self::SegmentTmp(_) => {
                "meta"
            }
            Self::Pack(_) => "pack",
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
        }
    }

    /// The file that `leaf` in directory `dir` is, if the name is exactly one of ours.
    #[must_use]
    pub fn parse(dir: &str, leaf: &str) -> Option<Self> {
        let hex = |s: &str| u64::from_str_radix(s, 16).ok();
        let name = match dir {
            "" => match leaf {
                "SUPER" => Self::Super,
                "LOCK" => Self::Lock,
                "RESERVE" => Self::Reserve,
                "CREATING" => Self::Creating,
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
                if let Some(rest) = leaf.strip_prefix("M-") {
                    match rest.strip_suffix(".rm.tmp") {
                        Some(id) => Self::ManifestTmp(ManifestId(hex(id)?)),
                        None => Self::Manifest(ManifestId(hex(rest.strip_suffix(".rm")?)?)),
                    }
                } else {
                    let rest = leaf.strip_prefix("S-")?;
                    match rest.strip_suffix(".rs.tmp") {
                        Some(id) => Self::SegmentTmp(SegmentId(hex(id)?)),
                        None => Self::Segment(SegmentId(hex(rest.strip_suffix(".rs")?)?)),
                    }
                }
            }
            "pack" => Self::Pack(PackId(hex(leaf
                .strip_prefix("P-")?
                .strip_suffix(".rp")?)?)),
            _ => return None,
        };
        // Only the canonical spelling is ours.
        (name.leaf() == leaf).then_some(name)
    }
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
