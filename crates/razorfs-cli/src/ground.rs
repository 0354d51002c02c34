//! What the file system below a volume is, and what it promises less than a disk of this host.

use std::path::Path;

/// A file system, by its number of statfs(2).
pub struct Ground {
    /// What it is, as in "is NFS".
    pub found: String,
    /// What is weaker there, or what to do about it.
    pub remedy: Option<&'static str>,
    /// Somebody else keeps the data: a volume there is told so when it is mounted.
    pub is_elsewhere: bool,
}

const NETWORK: &str = "volumes on a disk of this host are safer and faster: here locks, syncs and \
                       what is left after an outage are as good as the server's";
const PROGRAM: &str = "see what serves it: a sync is as good as that program's";

impl Ground {
    fn disk(found: impl Into<String>) -> Self {
        Self {
            found: found.into(),
            remedy: None,
            is_elsewhere: false,
        }
    }

    fn weak(found: &str, remedy: &'static str) -> Self {
        Self {
            remedy: Some(remedy),
            ..Self::disk(found)
        }
    }

    fn elsewhere(found: &str, remedy: &'static str) -> Self {
        Self {
            is_elsewhere: true,
            ..Self::weak(found, remedy)
        }
    }

    /// By the number.
    pub fn of(kind: u64) -> Self {
        match kind {
            0xEF53 => Self::disk("is ext4 (or ext3, ext2)"),
            0x5846_5342 => Self::disk("is xfs"),
            0x9123_683E => Self::disk("is btrfs"),
            0x2FC1_2FC1 => Self::disk("is zfs"),
            0xF2F5_2010 => Self::disk("is f2fs"),
            0xCA45_1A4E => Self::disk("is bcachefs"),
            0x6969 => Self::elsewhere("is NFS", NETWORK),
            0x517B | 0xFE53_4D42 | 0xFF53_4D42 => Self::elsewhere("is SMB", NETWORK),
            0x00C3_6400 => Self::elsewhere("is Ceph", NETWORK),
            0x0102_1997 => Self::elsewhere("is 9p", NETWORK),
            0x5346_414F | 0x7375_7245 => Self::elsewhere("is AFS or Coda", NETWORK),
            0x6573_5546 => Self::elsewhere("is FUSE", PROGRAM),
            0x0102_1994 | 0x8584_58F6 => Self::weak(
                "is in memory: nothing is left after a restart",
                "use a directory on a disk for what is to stay",
            ),
            0x794C_7630 => Self::weak(
                "is an overlay: that of a container goes with the container",
                "use a directory of the host that is mounted into it",
            ),
            0x4D44 | 0x2011_BAB0 => Self::weak(
                "is FAT, which does not survive an outage by itself",
                "use ext4, xfs or btrfs",
            ),
            other => Self::disk(format!("is none that is known here ({other:#x})")),
        }
    }

    /// What is said of a volume there when it is mounted.
    fn warning(&self) -> Option<String> {
        let remedy = self.remedy.filter(|_| self.is_elsewhere)?;
        let found = &self.found;
        Some(format!(
            "what it lies on {found}, so that only one host at a time has it open, and that a sync \
             has brought data to a disk, is not for this host to promise; {remedy}"
        ))
    }
}

/// What is said of a volume at `path` when it is mounted, if it is not there yet by what is above.
pub fn warning(path: &Path) -> Option<String> {
    let stat = path
        .ancestors()
        .find_map(|dir| rustix::fs::statfs(dir).ok())?;
    Ground::of(stat.f_type as u64).warning()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_tells_of_what_somebody_else_keeps_and_of_nothing_else() {
        for kind in [
            0x6969,
            0x517B,
            0xFE53_4D42,
            0xFF53_4D42,
            0x0102_1997,
            0x6573_5546,
        ] {
            let told = Ground::of(kind).warning().unwrap();
            assert!(!told.contains('\n') && told.contains("; "), "{told}");
        }
        let told = Ground::of(0x6969).warning().unwrap();
        assert!(
            told.contains("is NFS") && told.contains("one host"),
            "{told}"
        );
        for kind in [
            0xEF53,
            0x5846_5342,
            0x9123_683E,
            0x0102_1994,
            0x794C_7630,
            1,
        ] {
            assert!(Ground::of(kind).warning().is_none(), "{kind:#x}");
        }
    }

    #[test]
    fn where_a_volume_is_yet_to_be_made_what_is_above_counts() {
        let dir = tempfile::tempdir().unwrap();
        let kind = rustix::fs::statfs(dir.path()).unwrap().f_type as u64;
        let below = dir.path().join("not/there/yet");
        assert_eq!(warning(&below), Ground::of(kind).warning());
    }
}
