//! Bugs that a toy can have.

/// What is wrong with the toy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// Nothing.
    None,
    /// A sync answers before anything is durable.
    LyingSync,
    /// A cut may lose a change and keep a later one.
    NotAPrefix,
    /// A cut may leave a rename half done.
    TornRename,
    /// Extending after a truncation shows the old bytes.
    OldBytes,
    /// Unlinked files are never reaped after a cut.
    LeakedOrphans,
    /// Replacing a directory that is not empty.
    WrongError,
    /// An inode number is given twice after a cut.
    ReusedInode,
    /// A cut makes numbers free that were given out and never durable.
    ForgottenNumbers,
    /// Recovery that is interrupted loses what was durable.
    FragileRecovery,
    /// Unlinking the fifth name panics.
    Panics,
    /// A seek for data misses some.
    BlindSeek,
    /// Snapshots are durable later.
    FleetingSnapshot,
    /// Deleted snapshots come back after a cut.
    UndeadSnapshot,
    /// Snapshots show the present.
    BlindSnapshot,
    /// A rollback takes no snapshot of what was there.
    ForgetfulRollback,
    /// A rollback gives inode numbers again.
    RollbackReusesInode,
    /// Branches are durable later.
    FleetingBranch,
    /// Deleted branches come back after a cut.
    UndeadBranch,
    /// A cut leaves of each branch another prefix.
    LooseBranches,
    /// What is written in a branch shows in the head as well.
    LeakyBranch,
    /// Commits of branches are durable later.
    FleetingMerge,
    /// A commit overlooks what both have changed.
    BlindMerge,
}
