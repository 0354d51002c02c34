//! Rare branches, and how often this process took each. A branch that no test takes is not tested,
//! however many tests there are: the simulation fails where one of these was never taken.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! marks {
    ($($name:ident = $text:literal,)+) => {
        /// A rare branch of the engine.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        #[expect(missing_docs, reason = "each says what it is in its text")]
        pub enum Mark {
            $($name,)+
        }

        impl Mark {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// What happened.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

marks! {
    JournalNextFile = "journal: the file was full, the next one was taken",
    JournalPrepared = "journal: the next file was prepared ahead",
    JournalSyncForced = "journal: too much was unsynced, it was synced early",
    JournalRescued = "journal: what could not be written was written to another file",
    JournalRescueFailed = "journal: that failed, too",
    JournalFileRetired = "journal: a file that failed was removed",
    JournalFileGrown = "journal: a file became larger",
    JournalFileAdded = "journal: a file was added",
    JournalGrowthFailed = "journal: growing failed",
    JournalOldestFreed = "journal: no file was free at opening, the oldest was taken",
    ReplayLost = "replay: a batch was lost that another one says was durable",
    ReplayDamaged = "replay: a batch was damaged",
    ReplayTorn = "replay: the last batch was torn",
    ReplayNothing = "replay: it ended where nothing was written",
    ReplayNextLife = "replay: a batch was found in a later file",
    ReplayHeaderDamaged = "replay: a file was known by its sectors, its header was not there",
    ReplayFileUnfinished = "replay: a file was being created",
    ResumeHeld = "resume: the host was full, a batch is held again",
    ResumeCheckpointed = "resume: the journal was full, a checkpoint came first",
    ReplayDiscarded = "replay: batches behind a lost one were discarded",
    JournalTwinHealed = "journal: one copy of a file was healed from the other",
    JournalTwinReplaced = "journal: a copy that could not be healed was made anew",
    JournalTwinMade = "journal: one copy of a file was missing and was made again",
    JournalTwinAlone = "journal: what a power cut left of two copies that nothing needs",
    CommitHeld = "commit: the host was full, a batch was held",
    CommitHeldWritten = "commit: a held batch was written",
    CommitNothingInline = "commit: data went to packs lest the batch grow too large",
    ResumeBranch = "resume: what was done in a branch was done again",
    MergeTheirs = "commit of a branch: the target had not changed, and goes on from the branch",
    MergeDone = "commit of a branch: both had changed, and what both have was made",
    MergeClashes = "commit of a branch: both had changed the same",
    MergeCircle = "commit of a branch: directories would be in each other",
    MergeAgain = "commit of a branch: it had been committed before",
    MergeLeftover = "commit of a branch: what was left of one was removed at opening",
    MomentOfGone = "moment: the snapshot below it had been given up",
    MomentOverwritten = "moment: some of its data had been overwritten",
    ReceiveRest = "receive: a stream that had broken off was gone on with",
    ReceiveBack = "receive: the volume went back first",
    ReceiveKept = "receive: what had come of a stream was kept",
    ReceiveCut = "receive: at opening the volume was what it was before a stream",
    ForkAwaited = "fork: a branch was opened before it was on the disk",
    ForkBeganAgain = "fork: a branch got another epoch in a memtable, the head's was younger",
    ForkBegan = "fork: a branch got an epoch of its own in a memtable",
    AdmitSealed = "admit: a full batch was written first",
    AdmitCheckpointed = "admit: the journal was full, a checkpoint came first",
    AdmitEpochPassed = "admit: the memtable of a look had been frozen",
    AdmitRedoFull = "admit: the memory for redo was full, the batch was written first",
    AdmitTooLarge = "admit: a transaction was too large",
    CheckpointTakenBack = "checkpoint: what a failed one wrote was removed",
    CheckpointNotInstalled = "checkpoint: a superblock could not be written",
    CheckpointOfOlder = "checkpoint: an earlier one had failed, its memtable went first",
    CheckpointTwice = "checkpoint: a second generation made room in the journal",
    CheckpointPackSealed = "checkpoint: a pack with dead bytes was closed, the host being low",
    GarbageFile = "garbage: a file was removed",
    GarbagePunched = "garbage: a hole was punched",
    GarbageFailed = "garbage: something could not be removed",
    CleanCopied = "cleaning: frames were copied",
    CleanMoved = "cleaning: a flush moved frames",
    CleanShared = "cleaning: a shared frame stayed",
    CleanSnapshot = "cleaning: a frame that a snapshot shows stayed",
    CleanCovered = "cleaning: a frame was left out, it was written over",
    CleanDamaged = "cleaning: what is damaged stayed",
    CleanPackUnreadable = "cleaning: the frames of a pack could not be listed",
    CleanTakenBack = "cleaning: copies could not be written",
    CleanAfterFlush = "cleaning: waits for a flush that has failed",
    PointWaitsForRoom = "snapshot: the journal was full, a checkpoint came first",
    ReleaseDone = "release: a snapshot was taken out",
    ReleaseFreed = "release: frames of a snapshot were given back",
    ReleaseLine = "release: a line of time ended earlier",
    ReleaseJoined = "release: a line that had ended goes on in the one way that is left",
    ReleaseWaits = "release: a snapshot has to stay, two ways lead on from it",
    CleanSearched = "cleaning: a pack was searched first",
    SearchFoundDead = "search: dead frames were found",
    FlushRewrote = "flush: a block of many pieces was written anew",
    FlushMovedToPack = "flush: bytes of records were moved to a pack",
    FlushFrameDied = "flush: a frame lost its last reference",
    FlushFrameHeld = "flush: a frame lost its last reference but for a snapshot",
    FlushBranches = "flush: branches had written in the memtable",
    FlushShared = "flush: the count of a shared frame changed",
    PackRescued = "packs: frames that could not be written went to another pack",
    PackSealed = "packs: a full one was closed",
    PackRewound = "packs: what a failed checkpoint wrote was given up",
    PackReopened = "packs: one was gone on with after opening",
    CompactionMoved = "compaction: a segment was moved, not merged",
    CompactionBuried = "compaction: tombstones were dropped where they are",
    RecoveryEpochs = "recovery: the epochs of branches in the journal came to their end",
    RecoverySnapshot = "recovery: a snapshot in the journal cut off a memtable",
    RecoveryLeftover = "recovery: a file that nothing names was removed",
    RecoverySlotHealed = "recovery: a superblock was written again from its twin",
    RecoveryGenerationLost = "recovery: the generation before the newest served",
    RecoveryBallast = "recovery: the host was full, and the ballast was given back",
    RecoveryPackSurplus = "recovery: more than three packs were open",
    CopyShared = "copy: frames were shared",
    CopyLate = "copy: what was seen may have changed its place",
    CopyBarred = "copy: a frame that is moved was copied",
    CopyUnsteady = "copy: a block that a flush may write anew was copied",
    TrimLater = "truncate: the rest was left to the reaper",
    TrimFinishedEarly = "truncate: a write finished what was pending",
    EraseSteps = "punch: it took several transactions",
    ParityRead = "parity: damaged bytes were read with it",
    ParityHealed = "parity: damaged shards were written back",
    ParityMade = "parity: that of a pack was made",
    ParityPunched = "parity: a hole was made as large as whole groups",
    ParityLeftover = "parity: that of a pack that is gone or goes on growing was removed",
    ReapPinned = "reap: the inode was open",
}

static COUNTS: [AtomicU64; Mark::ALL.len()] = [const { AtomicU64::new(0) }; Mark::ALL.len()];

/// It happened.
pub(crate) fn hit(mark: Mark) {
    if let Some(count) = COUNTS.get(mark as usize) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// How often it happened since the process began, in all of its volumes.
#[must_use]
pub fn count(mark: Mark) -> u64 {
    COUNTS
        .get(mark as usize)
        .map_or(0, |count| count.load(Ordering::Relaxed))
}
