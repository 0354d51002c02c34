//! What a run consists of: operations that name their objects by path or by open slot, so that a
//! list of them means something even after some were taken out.

mod words;

use razorfs::{AllocateMode, FileKind, Ino, RenameMode, SeekFor, SetAttributes, XattrMode};

use crate::branches::Place;
use crate::names::NameId;
use crate::points::Which;
use crate::rng::Rng;
use crate::transaction::path_of;

/// Number of slots that hold inodes open.
pub const SLOTS: u8 = 4;

/// An inode of the run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ref {
    /// What this path leads to from the root; the empty one is the root.
    Path(Vec<NameId>),
    /// What this slot holds open.
    Slot(u8),
    /// This very inode; workloads do not say so, because the number depends on the run.
    Inode(Ino),
}

/// A place for a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct At {
    /// The directory (or what should have been one).
    pub dir: Ref,
    /// The name in it.
    pub name: NameId,
}

/// Bytes that a seed stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Data {
    /// Which bytes.
    pub seed: u32,
    /// How many.
    pub len: u32,
}

impl Data {
    /// The bytes: noise, text that compresses, one byte over and over, or zeros.
    #[must_use]
    pub fn bytes(self) -> Vec<u8> {
        #[cfg(test)]
        LAST.with(|last| last.set(self.seed));
        let mut rng = Rng::new(u64::from(self.seed));
        let mut out = Vec::with_capacity(self.len as usize + 16);
        let style = rng.range(0..8);
        let period = 16 + rng.next() % 200;
        let noise = rng.next();
        while out.len() < self.len as usize {
            let word = match style {
                0..=3 => rng.next(),
                4 | 5 => (out.len() as u64 / 8 % period).wrapping_mul(noise | 1),
                6 => (noise & 0xff).max(1) * 0x0101_0101_0101_0101,
                _ => 0,
            };
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.truncate(self.len as usize);
        out
    }
}

/// The data that these bytes are, as far as this thread made them from a seed lately.
#[cfg(test)]
pub(crate) fn data_of(bytes: &[u8]) -> Data {
    let len = bytes.len() as u32;
    LAST.with(|last| Data {
        seed: last.get(),
        len,
    })
}

#[cfg(test)]
thread_local! {
    static LAST: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

/// A step of background work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "named after the engine's steps")]
pub enum Work {
    Commit,
    Checkpoint,
    Compact,
    Reap,
    Grow,
    Parity,
    Scrub,
    Clean,
    Release,
}

impl Work {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Commit,
        Self::Checkpoint,
        Self::Compact,
        Self::Reap,
        Self::Grow,
        Self::Parity,
        Self::Scrub,
        Self::Clean,
        Self::Release,
    ];
}

/// Something that goes wrong with the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The n-th sync from now fails and what it should have kept is gone.
    SyncFails(u64),
    /// The n-th changing call from now finds the disk full.
    Full(u64),
    /// The disk holds no more than this many bytes beyond what it holds now.
    Capacity(u64),
    /// The n-th write from now writes only a part and fails.
    ShortWrite(u64),
    /// The n-th sync of a file from now reports success and does nothing.
    Lie(u64),
    /// The n-th sync of a directory from now reports success and does nothing.
    LieOfNames(u64),
    /// The n-th write from now is lost, and reports success.
    Lose(u64),
    /// The n-th write from now goes to another place, and reports success.
    Misdirect(u64),
    /// No more faults.
    None,
}

/// How a receipt ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// With the stream.
    Whole,
    /// The stream breaks off somewhere.
    Broken(u64),
    /// A bit of the stream is another one.
    Flipped(u64),
    /// The power of the volume that receives goes, so many of its calls later.
    Cut(u64),
    /// The disk of the volume that receives fails.
    Fault(Fault),
}

/// One step of a transaction. Places are below paths, not slots.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "named after the library's calls")]
pub enum Step {
    CreateDir(At),
    Write(At, Data),
    RemoveFile(At),
    RemoveDir(At),
    RemoveDirAll(At),
    Rename(At, At),
    HardLink(At, At),
    /// A link to so many bytes.
    Symlink(u16, At),
    Mode(At, u32),
}

impl Step {
    /// The paths in it.
    #[must_use]
    pub fn paths(&self) -> Vec<Vec<NameId>> {
        match self {
            Self::Rename(a, b) | Self::HardLink(a, b) => vec![path_of(a), path_of(b)],
            Self::CreateDir(at)
            | Self::Write(at, _)
            | Self::RemoveFile(at)
            | Self::RemoveDir(at)
            | Self::RemoveDirAll(at)
            | Self::Symlink(_, at)
            | Self::Mode(at, _) => vec![path_of(at)],
        }
    }
}

/// One step of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(
    missing_docs,
    reason = "the fields are the arguments of the calls they are named after"
)]
pub enum Op {
    Create {
        at: At,
        kind: FileKind,
        mode: u32,
        uid: u32,
        gid: u32,
        target: u16,
    },
    Unnamed {
        dir: Ref,
        slot: u8,
        mode: u32,
    },
    Link {
        from: Ref,
        to: At,
    },
    Unlink(At),
    Rmdir(At),
    Rename {
        from: At,
        to: At,
        mode: RenameMode,
    },
    Set {
        who: Ref,
        set: SetAttributes,
    },
    Write {
        who: Ref,
        offset: u64,
        data: Data,
    },
    Append {
        who: Ref,
        data: Data,
    },
    Allocate {
        who: Ref,
        mode: AllocateMode,
        offset: u64,
        len: u64,
    },
    Copy {
        from: Ref,
        from_offset: u64,
        to: Ref,
        to_offset: u64,
        len: u64,
    },
    Collapse {
        who: Ref,
        offset: u64,
        len: u64,
    },
    Insert {
        who: Ref,
        offset: u64,
        len: u64,
    },
    SetXattr {
        who: Ref,
        name: NameId,
        data: Data,
        mode: XattrMode,
    },
    RemoveXattr {
        who: Ref,
        name: NameId,
    },
    /// All of the steps or none; on the disk at once with `sync`.
    Transaction {
        steps: Vec<Step>,
        sync: bool,
    },
    /// Takes a snapshot of this name.
    Take(u8),
    Delete(Which),
    Rollback(Which),
    /// Makes a branch of what is here, or of a snapshot.
    Fork {
        name: u8,
        from: Option<Which>,
    },
    /// Deletes a branch.
    Prune(u8),
    /// Goes back to a moment, counted from the last one that is remembered.
    Restore(u8),
    /// Takes a snapshot of what was then.
    TakeThen {
        name: u8,
        back: u8,
    },
    /// Takes a snapshot of what a branch was made of.
    Origin {
        branch: u8,
        name: u8,
    },
    /// Commits a branch to what is here.
    Merge {
        from: Place,
        force: bool,
    },
    // What changes nothing.
    Read {
        who: Ref,
        offset: u64,
        len: u32,
    },
    Seek {
        who: Ref,
        offset: u64,
        what: SeekFor,
    },
    /// Lists a directory, stopping after `first` entries and going on from there.
    List {
        who: Ref,
        first: u16,
    },
    Lookup(At),
    Stat(Ref),
    ReadLink(Ref),
    GetXattr {
        who: Ref,
        name: NameId,
    },
    ListXattr(Ref),
    ParentOf(Ref),
    FindPath(Vec<NameId>),
    /// Looks at a snapshot, and keeps it open until the next look.
    View(Which),
    /// Sends a snapshot to another volume.
    Carry {
        which: Which,
        force: bool,
        ending: Ending,
        seed: u64,
    },
    /// What follows is done in another branch; the one that is left is closed, or not.
    Go {
        to: Place,
        closes: bool,
    },
    // Open files.
    Open {
        slot: u8,
        who: Ref,
    },
    Close(u8),
    // Durability and background work.
    Sync,
    SyncThen,
    Checkpoint,
    Step(Work),
    /// Compares everything with the model.
    CheckAll,
    /// Clean close, open again, compare everything.
    Reopen,
    // The disk.
    /// The power goes `calls` changing disk calls from now; what was not synced survives as
    /// `seed` says. Recovery itself is interrupted after each of `again` calls.
    Cut {
        calls: u64,
        seed: u64,
        again: Vec<u64>,
    },
    Fault(Fault),
}

impl Op {
    /// Whether the operation asks for a change of the tree.
    #[must_use]
    pub const fn changes(&self) -> bool {
        matches!(
            self,
            Self::Create { .. }
                | Self::Unnamed { .. }
                | Self::Link { .. }
                | Self::Unlink(_)
                | Self::Rmdir(_)
                | Self::Rename { .. }
                | Self::Set { .. }
                | Self::Write { .. }
                | Self::Append { .. }
                | Self::Allocate { .. }
                | Self::Copy { .. }
                | Self::Collapse { .. }
                | Self::Insert { .. }
                | Self::SetXattr { .. }
                | Self::RemoveXattr { .. }
                | Self::Transaction { .. }
        ) || self.is_of_points()
    }

    /// Whether it changes snapshots or branches: then it is durable when its call returns.
    #[must_use]
    pub const fn is_of_points(&self) -> bool {
        matches!(
            self,
            Self::Take(_)
                | Self::Delete(_)
                | Self::Rollback(_)
                | Self::Fork { .. }
                | Self::Prune(_)
                | Self::Merge { .. }
                | Self::Restore(_)
                | Self::TakeThen { .. }
                | Self::Origin { .. }
        )
    }

    /// Whether what follows goes on from another state, with what is open as far as that has it.
    #[must_use]
    pub const fn goes_on_elsewhere(&self) -> bool {
        matches!(
            self,
            Self::Rollback(_) | Self::Merge { .. } | Self::Restore(_)
        )
    }

    /// A short word for statistics.
    #[must_use]
    pub fn word(&self) -> String {
        let text = format!("{self:?}");
        let end = text.find([' ', '(', '{']).unwrap_or(text.len());
        text.get(..end).unwrap_or_default().to_lowercase()
    }
}
