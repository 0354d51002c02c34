//! What a check finds, and what the numbers mean.

use std::fmt;

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Severity {
    /// Nothing is wrong: something that a user may want to know.
    Note,
    /// Something is not as it should be, but nothing is lost.
    Warning,
    /// Something is damaged or lost.
    Error,
    /// The volume cannot be read.
    Fatal,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Fatal => "fatal",
        })
    }
}

macro_rules! kinds {
    ($($name:ident = $number:literal $severity:ident $meaning:literal $remedy:literal;)*) => {
        /// What a finding is. The numbers never change their meaning.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u16)]
        pub enum FindingKind {
            $(#[doc = $meaning] $name = $number,)*
        }

        impl FindingKind {
            /// All of them, by number.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// How bad it is.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self { $(Self::$name => Severity::$severity,)* }
            }

            /// What it means for the user.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)* }
            }

            /// What to do about it.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$name => $remedy,)* }
            }
        }
    };
}

kinds! {
    NoSuperblock = 101 Fatal
        "No copy of the superblock can be used: the volume cannot be opened."
        "Check that this is the right directory. If it is, run `razorfs repair`.";
    SuperblockSlot = 102 Warning
        "One of the copies of the superblock is damaged or was cut off by a power failure."
        "None after a power failure: the next mount writes it again. Else check the disk.";
    SuperblockTwins = 103 Warning
        "The two copies of one superblock generation differ, as after a power failure."
        "None: the newer one counts, and the next mount writes the other one again.";
    SuperblockUnknownBytes = 104 Note
        "The superblock has bytes that this version does not know."
        "None: a newer version wrote them.";
    UnknownFeatures = 105 Fatal
        "The volume uses features that this version does not know."
        "Use a newer razorfs.";
    ReadOnlyFeatures = 106 Note
        "The volume uses features that this version can read but not write."
        "Use a newer razorfs for writing.";
    SuperblockLost = 107 Error
        "A newer superblock was written than any that can be read: changes may be missing."
        "Do not write to the volume; run `razorfs repair`.";
    WriteFailed = 108 Warning
        "A write to the disk failed for good; what was acknowledged before is there."
        "Check the disk, then mount again.";
    SuperblockLength = 109 Note
        "The superblock's file is not as long as it should be."
        "None if all copies are intact; else see the findings about them.";
    NewerVersion = 110 Fatal
        "The volume is of a newer version, or is being made one: this one must not touch it."
        "Use a newer razorfs.";
    NoManifest = 201 Fatal
        "The list of the volume's files is missing or damaged: the volume cannot be opened."
        "Run `razorfs repair`: it falls back to the generation before.";
    PreviousManifest = 202 Warning
        "The list of the generation before the newest is damaged: nothing is there to fall back to."
        "None: the next checkpoint makes a new one. Check the disk.";
    PreviousSegment = 203 Warning
        "A file that only the generation before the newest needs is missing or damaged."
        "None: the next checkpoint removes it. Check the disk.";
    PreviousPack = 204 Warning
        "A pack that only the generation before the newest needs is missing or damaged."
        "None: the next checkpoint removes it. Check the disk.";
    UnlistedFile = 205 Note
        "A file that no generation names, left by a crash."
        "None: the next mount removes it.";
    ForeignFile = 206 Note
        "A file that is not RazorFS's stands in the volume's directory."
        "Move it elsewhere if you know what it is.";
    Quarantined = 207 Note
        "A file that a repair has set aside."
        "Remove it once you are sure that nothing is missing.";
    ReserveNotZero = 208 Note
        "The ballast file holds something other than zeros."
        "None: it holds no data. Check the disk.";
    ManifestInconsistent = 209 Error
        "The list of the volume's files contradicts itself or the superblock."
        "Run `razorfs repair`, and report it: this is a bug or memory that fails.";
    JournalFileUnfinished = 301 Note
        "A journal file that was being added when the power failed."
        "None: the next mount removes it.";
    JournalFileHeader = 302 Warning
        "The beginning of a journal file is damaged or contradicts the rest of it."
        "None if there is no error beside it: the next mount uses the rest. Check the disk.";
    JournalSector = 303 Warning
        "A part of the journal that nothing needs any more is damaged."
        "None: it will be overwritten. Check the disk.";
    JournalTornTail = 304 Note
        "The journal ends with a batch that a power failure cut off; it was never acknowledged."
        "None: the next mount goes on before it.";
    JournalBatchDamaged = 305 Error
        "A journal batch is damaged: what was done from it on cannot be replayed."
        "The volume opens read-only. Run `razorfs repair` to go on without the rest.";
    JournalBatchLost = 306 Error
        "The disk lost a journal batch that it had acknowledged: what followed cannot be replayed."
        "The volume opens read-only. Run `razorfs repair` to go on without the rest.";
    JournalBatchMeaning = 307 Error
        "A journal batch is intact but says something that cannot be."
        "Run `razorfs repair`, and report it: this is a bug or memory that fails.";
    JournalUnusedBytes = 308 Note
        "Bytes of a journal file beyond its used part are not zero."
        "None: they are not used. Check the disk.";
    JournalTwinMissing = 309 Warning
        "One of the two copies of a journal file is missing; the other one has what was in it."
        "None: the next mount makes it again from the other copy. Check the disk.";
    JournalTwinDamaged = 310 Warning
        "One of the two copies of a journal file is damaged; the other one has what was in it."
        "None: the next mount heals it from the other copy. Check the disk.";
    JournalTwinOlder = 311 Warning
        "One of the two copies of a journal file is older than the other, as after a power failure."
        "None after a power failure: the next mount makes them equal. Else check the disk.";
    JournalFilling = 312 Note
        "A journal batch is intact, but what fills its last sectors is not zeros."
        "None: nothing reads it. Check the memory if nobody has made it so.";
    JournalTwinAlone = 313 Note
        "One of two copies of a journal file that nothing needs is missing, as after a power cut."
        "None: the next mount makes it again.";
    JournalChain = 314 Error
        "An entry of the log was edited or removed: what follows was made after another one."
        "Do not trust the log from there back. If nobody has edited it, check disk and memory.";
    SegmentMissing = 401 Error
        "A file of metadata is missing: names or files are lost."
        "Restore it from a backup, or run `razorfs repair`.";
    SegmentDamaged = 402 Error
        "A file of metadata is damaged."
        "Restore it from a backup, or run `razorfs repair`.";
    SegmentBlock = 403 Error
        "A block of metadata is damaged: the records in it are lost."
        "Restore the file from a backup, or run `razorfs repair`.";
    RecordUnreadable = 405 Error
        "A record is intact but cannot be understood."
        "Run `razorfs repair`, and report it: this is a bug or memory that fails.";
    RootMissing = 501 Error
        "The root directory is missing."
        "Run `razorfs repair`.";
    DirentDangling = 502 Error
        "A name leads to a file that does not exist."
        "Run `razorfs repair`: it removes the name.";
    DirentKind = 503 Error
        "A directory entry and the file that it leads to disagree on what the file is."
        "Run `razorfs repair`.";
    DirentCookie = 504 Error
        "A name stands at the wrong place in its directory: it is listed but cannot be opened."
        "Run `razorfs repair`.";
    DuplicateName = 505 Error
        "A directory has one name twice."
        "Run `razorfs repair`: it renames the second one.";
    DirentHomeless = 506 Error
        "A name stands in a directory that does not exist."
        "Run `razorfs repair`: it moves the file to lost+found.";
    LinkCount = 507 Error
        "The link count of a file is not the number of its names."
        "Run `razorfs repair`: it counts again.";
    InodeHome = 508 Error
        "A file remembers a name that it does not have."
        "Run `razorfs repair`.";
    LinkRecords = 509 Error
        "The list of a file's names is not that of its names."
        "Run `razorfs repair`.";
    EntryCount = 510 Error
        "The entry count of a directory is not the number of its entries."
        "Run `razorfs repair`: it counts again.";
    Unreachable = 511 Error
        "A directory cannot be reached from the root."
        "Run `razorfs repair`: it moves it to lost+found.";
    Nameless = 512 Error
        "A file without a name is not marked for removal: its space is lost."
        "Run `razorfs repair`: it moves the file to lost+found.";
    OrphanWrong = 513 Warning
        "A file is marked for removal or truncation without a reason."
        "Run `razorfs repair`.";
    XattrOwner = 514 Error
        "An extended attribute belongs to no file."
        "Run `razorfs repair`: it removes the attribute.";
    XattrFlag = 515 Error
        "A file has extended attributes but is not marked so, or the reverse: they cannot be read."
        "Run `razorfs repair`.";
    XattrKey = 516 Error
        "An extended attribute stands at the wrong place or twice: it cannot be read."
        "Run `razorfs repair`.";
    ExtentOwner = 517 Error
        "Data belong to no regular file: their space is lost."
        "Run `razorfs repair`.";
    ExtentBeyondSize = 518 Error
        "A file has data beyond its end, which would show if it grew."
        "Run `razorfs repair`: it removes them.";
    CounterInodes = 519 Warning
        "The number of files in the volume is not what the volume says."
        "Run `razorfs repair`: it counts again.";
    CounterBytes = 520 Warning
        "The sum of the sizes of all files is not what the volume says."
        "Run `razorfs repair`: it counts again.";
    CounterNextIno = 521 Error
        "A file has a number that is still to be given out."
        "Do not write to the volume; run `razorfs repair`.";
    NamespaceIncomplete = 522 Note
        "Metadata could not be read: findings about names and files may follow from that."
        "See to the errors about segments and the journal first.";
    DirectoryNames = 523 Error
        "A directory has more than one name."
        "Run `razorfs repair`.";
    OtherBranch = 524 Error
        "Records of a branch that is not there: nothing shows them."
        "Run `razorfs repair`.";
    PackMissing = 601 Error
        "A pack is missing: the data in it are lost."
        "Restore it from a backup, or run `razorfs repair`.";
    PackHeader = 602 Warning
        "The beginning of a pack is damaged; the data in it can still be read."
        "Run `razorfs repair`. Check the disk.";
    PackShort = 603 Error
        "A pack is shorter than it should be: data are lost."
        "Restore it from a backup, or run `razorfs repair`.";
    FrameReference = 604 Error
        "A file refers to data that are not where they should be: reading them fails."
        "Restore the file from a backup, or run `razorfs repair`: it keeps what is left.";
    FrameDamaged = 605 Error
        "The data of a file are damaged: reading them fails."
        "Restore the file from a backup, or run `razorfs repair`: it keeps what is left.";
    DeadFrame = 606 Warning
        "Data that no file refers to any more are damaged."
        "None: nothing is lost. Check the disk.";
    PackGap = 607 Warning
        "A part of a pack holds nothing that can be understood, and no file refers to it."
        "None: nothing is lost. Check the disk.";
    PackTrailer = 608 Warning
        "The list of a pack's contents is damaged or not that of its contents."
        "None: nothing needs it; a repair does without.";
    PackUnusedBytes = 609 Note
        "A pack has bytes beyond its end, left by a crash."
        "None: the next mount removes or ignores them.";
    PackAccountLow = 610 Error
        "More of a pack is in use than the volume says: it could be removed too early."
        "Do not write to the volume; run `razorfs repair`: it counts again.";
    PackAccountHigh = 611 Warning
        "Less of a pack is in use than the volume says: its space may not come back."
        "Run `razorfs repair`: it counts again.";
    PackTotal = 612 Warning
        "The size of a pack's contents is not what the volume says."
        "Run `razorfs repair`: it counts again.";
    PackBirth = 613 Error
        "A pack holds younger data than the volume says: it could be removed too early."
        "Do not write to the volume; run `razorfs repair`.";
    PackTornHole = 614 Note
        "Space of data that no file refers to was given back in part only, by a power failure."
        "None: the rest goes with the pack.";
    SharedCount = 615 Error
        "More blocks share data than the volume says: the data could be removed too early."
        "Do not write to the volume; run `razorfs repair`: it counts again.";
    SharedCountHigh = 616 Warning
        "Fewer blocks share data than the volume says: their space may not come back."
        "Run `razorfs repair`: it counts again.";
    DataLost = 617 Error
        "The record of these data was damaged, and a part of their block written: reading fails."
        "Restore the file from a backup, or run `razorfs repair`: it puts back what packs have.";
    HeldWrong = 618 Error
        "What snapshots hold is not what the volume says: data could be removed too early."
        "Do not write to the volume; run `razorfs repair`: it counts again.";
    HeldMissing = 619 Warning
        "Data that only snapshots show are not listed so: their space may not come back."
        "Run `razorfs repair`: it counts again.";
    Unreadable = 701 Error
        "The host could not read a part of the volume."
        "Check the disk; restore what is named beside it from a backup.";
    TooMany = 702 Note
        "There are more findings than can be listed."
        "See to those that are listed first.";
    ParityMissing = 801 Warning
        "A file of metadata has no parity: damage to it could not be healed."
        "Run `razorfs scrub`: it makes it anew.";
    ParityPending = 802 Note
        "A full pack has no parity yet."
        "None: a mount makes it in the background, unless the pack is damaged.";
    ParityDamaged = 803 Warning
        "The parity of a pack or of a file of metadata is damaged; what it is made of is not."
        "Run `razorfs scrub`: it makes it anew. Check the disk.";
    ParityForeign = 804 Warning
        "The parity of a pack or of a file of metadata is that of something else."
        "Run `razorfs scrub`: it makes it anew.";
    ShardDamaged = 805 Warning
        "A part of a full pack or of a file of metadata is damaged, and parity can heal it."
        "Run `razorfs scrub`, or `razorfs repair`. Check the disk.";
    ParityWrong = 806 Warning
        "Parity is intact, but not that of its pack or file of metadata: it would heal nothing."
        "Run `razorfs scrub`: it makes it anew, and report it: this is a bug or memory that fails.";
    ScrubRecord = 807 Note
        "What says how far a scrub is, and what the last one found, is damaged."
        "None: the next scrub begins at the beginning.";
}

impl FindingKind {
    /// The permanent number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }
}

/// One thing that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What it is.
    pub kind: FindingKind,
    /// The permanent number of the kind.
    pub number: u16,
    /// How bad it is.
    pub severity: Severity,
    /// Which file of the volume and where, or which file in the volume.
    pub object: String,
    /// What it means for the user.
    pub meaning: String,
    /// What to do about it.
    pub remedy: String,
    /// What was expected and what was found.
    pub detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}: {}: {} ({})",
            self.severity, self.number, self.object, self.meaning, self.detail
        )
    }
}

/// How much was checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "named after what is counted")]
pub struct Checked {
    pub superblock_slots: u64,
    pub manifests: u64,
    pub journal_sectors: u64,
    pub batches: u64,
    pub segments: u64,
    pub blocks: u64,
    pub records: u64,
    pub inodes: u64,
    pub dirents: u64,
    pub extents: u64,
    pub packs: u64,
    pub frames: u64,
    pub bytes: u64,
}

/// What a check found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The level that was asked for, at most [`crate::LEVEL_MAX`].
    pub level: u8,
    /// Findings in the order in which they were made.
    pub findings: Vec<Finding>,
    /// How much was checked.
    pub checked: Checked,
}

impl Report {
    /// The gravest finding; `None` if there is none.
    #[must_use]
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(|f| f.severity).max()
    }

    /// Nothing is damaged or lost: there are notes and warnings at most.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.worst().is_none_or(|worst| worst < Severity::Error)
    }
}
