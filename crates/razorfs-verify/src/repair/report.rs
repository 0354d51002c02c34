//! What a repair finds, loses and does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use razorfs_format::{BatchSeq, Generation, Ino};

use crate::Report;

/// Most losses that are listed one by one.
const LOSSES_MAX: usize = 100_000;

/// What is lost of a file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Lose {
    /// These bytes are damaged: they read as zeros.
    Data,
    /// The record that says where these bytes are is lost. What packs still have of them is put
    /// back, or what an older record says; the rest reads as zeros.
    Unsure,
    /// Owner, mode, times and size are lost: the file belongs to whoever has the root, nobody else
    /// may use it, and it ends with its last data.
    Inode,
    /// A newer version of owner, mode, times and size may be lost; or the file had been removed.
    Old,
    /// Its name is lost: it is in `lost+found`, as `#` and its number.
    Name,
    /// Some of its names are lost, but not all.
    Link,
    /// One of its names may have been removed, or be an older one.
    OldName,
    /// The directory had more entries than are left. What they led to, and is left, is in
    /// `lost+found`, if it has no other name.
    Names,
    /// Nothing but its name is left of the file: the name goes.
    Entry,
    /// Extended attributes may be lost.
    Attributes,
}

impl Lose {
    /// What it means, in a few words.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Data => "data are lost, and read as zeros",
            Self::Unsure => {
                "what says where data are is lost: older data, or zeros, may stand here"
            }
            Self::Inode => "owner, mode, times and size are lost",
            Self::Old => "owner, mode, times or size may be older ones, or the file was removed",
            Self::Name => "its name is lost: it goes to lost+found",
            Self::Link => "some of its names are lost",
            Self::OldName => "one of its names may be an older one, or had been removed",
            Self::Names => "some of the names in this directory are lost",
            Self::Entry => "nothing is left of it but the name, which goes",
            Self::Attributes => "extended attributes may be lost",
        }
    }

    /// One word for programs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Unsure => "unsure",
            Self::Inode => "inode",
            Self::Old => "old",
            Self::Name => "name",
            Self::Link => "link",
            Self::OldName => "old-name",
            Self::Names => "names",
            Self::Entry => "entry",
            Self::Attributes => "attributes",
        }
    }
}

/// One loss.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loss {
    /// What is lost.
    pub what: Lose,
    /// Of which file.
    pub ino: Ino,
    /// Where the file is afterwards, as far as that is known.
    pub path: Option<String>,
    /// Which bytes of it.
    pub range: Option<Range<u64>>,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{path} (inode {})", self.ino)?,
            None => write!(f, "inode {}", self.ino)?,
        }
        if let Some(range) = &self.range {
            write!(f, ": bytes {} to {}", range.start, range.end)?;
        }
        write!(f, ": {}", self.what.meaning())
    }
}

/// Batches of the journal behind a damaged one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gap {
    /// The batch that is damaged or lost.
    pub batch: BatchSeq,
    /// How many batches stand behind it.
    pub batches: u64,
    /// How many operations they hold.
    pub operations: u64,
    /// When the first and the last of them were written: nanoseconds since 1970; none if there
    /// are none.
    pub written: Option<(u64, u64)>,
    /// How many of them were applied.
    pub applied: u64,
}

/// What becomes of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shown {
    /// Its name.
    pub name: String,
    /// When it was taken, in nanoseconds since 1970.
    pub time: u64,
    /// It is there afterwards.
    pub kept: bool,
    /// What is lost of that which it showed.
    pub losses: Vec<Loss>,
    /// Losses that are not listed, as there are too many.
    pub more_losses: u64,
    /// How often what was put right.
    pub fixes: BTreeMap<&'static str, u64>,
}

/// What a snapshot shows of a file of which the present has lost something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Older {
    /// The file.
    pub ino: Ino,
    /// Where it is, as far as that is known.
    pub path: Option<String>,
    /// The inode that it has in the snapshot: the same, or that which had its name.
    pub of: Ino,
    /// The snapshot.
    pub snapshot: String,
    /// When that was taken, in nanoseconds since 1970.
    pub time: u64,
    /// The inode that shows it afterwards.
    pub shown_by: Ino,
    /// Where that is: in `lost+found`.
    pub shown_at: Option<String>,
}

/// What a repair has found and done, or would do.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What the check before found.
    pub findings: Report,
    /// There is something to repair.
    pub needed: bool,
    /// For a volume of an older version, the features of the newest one that it lacks.
    pub missing: String,
    /// Groups of shards that parity heals: nothing of them is lost.
    pub healed: u64,
    /// The generation that the volume is put back to.
    pub source: Generation,
    /// A newer one cannot be read.
    pub fallback: bool,
    /// No list of the volume's files is left: every segment that is there was taken.
    pub listed: bool,
    /// No superblock is left: the sizes that the volume was created with are lost.
    pub rekeyed: bool,
    /// Where the journal is damaged.
    pub gap: Option<Gap>,
    /// What is lost, by file.
    pub losses: Vec<Loss>,
    /// Losses that are not listed, as there are too many.
    pub more_losses: u64,
    /// The snapshots, oldest first.
    pub snapshots: Vec<Shown>,
    /// The branches: each is a snapshot of its name now.
    pub branches: Vec<String>,
    /// What snapshots show of files of which the present has lost something.
    pub olders: Vec<Older>,
    /// How often what was put right.
    pub fixes: BTreeMap<&'static str, u64>,
    /// Inodes of the repaired volume.
    pub inodes: u64,
    /// Bytes in its regular files.
    pub bytes: u128,
    /// The generation that was written; nothing was without `commit`.
    pub committed: Option<Generation>,
    /// The files that were moved to `quarantine`, with the names that they have there.
    pub set_aside: Vec<String>,
    /// Names that are lost: which loss, in which directory.
    pub(super) entries: Vec<(usize, Ino, Box<[u8]>)>,
    /// What each file has lost, also where that is not listed.
    pub(super) harmed: BTreeSet<(Ino, Lose)>,
    /// Most losses that are listed.
    pub(super) room: usize,
}

impl Outcome {
    pub(super) const fn new(findings: Report) -> Self {
        Self {
            findings,
            needed: false,
            missing: String::new(),
            healed: 0,
            source: Generation(0),
            fallback: false,
            listed: false,
            rekeyed: false,
            gap: None,
            losses: Vec::new(),
            more_losses: 0,
            snapshots: Vec::new(),
            branches: Vec::new(),
            olders: Vec::new(),
            fixes: BTreeMap::new(),
            inodes: 0,
            bytes: 0,
            committed: None,
            set_aside: Vec::new(),
            entries: Vec::new(),
            harmed: BTreeSet::new(),
            room: LOSSES_MAX,
        }
    }

    /// That of a snapshot, with room for so many losses.
    pub(super) fn of_snapshot(room: usize) -> Self {
        let findings = Report {
            level: 0,
            findings: Vec::new(),
            checked: crate::Checked::default(),
        };
        Self {
            room,
            ..Self::new(findings)
        }
    }

    /// Nothing is lost: the repaired volume is what it was.
    #[must_use]
    pub fn is_lossless(&self) -> bool {
        let whole = |s: &Shown| s.kept && s.losses.is_empty() && s.more_losses == 0;
        let present = self.losses.is_empty() && self.gap.is_none() && !self.listed;
        present && self.snapshots.iter().all(whole)
    }

    pub(super) fn fixed(&mut self, what: &'static str) {
        *self.fixes.entry(what).or_default() += 1;
    }

    pub(super) fn lose(&mut self, what: Lose, ino: Ino) {
        self.push(Loss {
            what,
            ino,
            path: None,
            range: None,
        });
    }

    /// A name of which nothing else is left; its path is told by its directory's in the end.
    pub(super) fn lose_entry(&mut self, dir: Ino, name: &[u8], ino: Ino) {
        if self.losses.len() < self.room {
            self.entries.push((self.losses.len(), dir, name.into()));
        }
        self.lose(Lose::Entry, ino);
    }

    /// Bytes of a file; those that follow the ones before are told together.
    pub(super) fn lose_bytes(&mut self, what: Lose, ino: Ino, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        if let Some(last) = self.losses.last_mut()
            && (last.what, last.ino) == (what, ino)
            && let Some(before) = last.range.as_mut().filter(|b| b.end == range.start)
        {
            before.end = range.end;
            return;
        }
        self.push(Loss {
            what,
            ino,
            path: None,
            range: Some(range),
        });
    }

    fn push(&mut self, loss: Loss) {
        self.harmed.insert((loss.ino, loss.what));
        if self.losses.len() < self.room {
            self.losses.push(loss);
        } else {
            self.more_losses += 1;
        }
    }
}
