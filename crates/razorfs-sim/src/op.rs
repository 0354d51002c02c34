//! What a run consists of: operations that name their objects by path or by open slot, so that a
//! list of them means something even after some were taken out.

use std::fmt;

use razorfs::{AllocateMode, FileKind, Ino, RenameMode, SeekFor, SetAttributes, XattrMode};

use crate::branches::{self, Place};
use crate::names::{self, NameId};
use crate::points::{self, Which};
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

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateDir(at) => write!(f, "mkdir {at}"),
            Self::Write(at, data) => write!(f, "write {at} {data}"),
            Self::RemoveFile(at) => write!(f, "unlink {at}"),
            Self::RemoveDir(at) => write!(f, "rmdir {at}"),
            Self::RemoveDirAll(at) => write!(f, "rm -r {at}"),
            Self::Rename(from, to) => write!(f, "rename {from} {to}"),
            Self::HardLink(from, to) => write!(f, "link {from} {to}"),
            Self::Symlink(len, at) => write!(f, "symlink {at} -> {len} bytes"),
            Self::Mode(at, mode) => write!(f, "chmod {at} {mode:o}"),
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
        )
    }

    fn fmt_of_snapshot(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Take(n) => write!(f, "snapshot {}", points::name(*n)),
            Self::Delete(which) => write!(f, "delete snapshot {which}"),
            Self::Rollback(which) => write!(f, "rollback {which}"),
            Self::View(which) => write!(f, "look at snapshot {which}"),
            Self::Fork { name, from } => {
                write!(f, "branch {} of ", branches::name(*name))?;
                match from {
                    Some(which) => write!(f, "snapshot {which}"),
                    None => f.write_str("what is here"),
                }
            }
            Self::Prune(n) => write!(f, "delete branch {}", branches::name(*n)),
            Self::Go { to, closes } => {
                write!(f, "go to {}, closes: {closes}", branches::words(*to))
            }
            _ => Ok(()),
        }
    }

    /// A short word for statistics.
    #[must_use]
    pub fn word(&self) -> String {
        let text = format!("{self:?}");
        let end = text.find([' ', '(', '{']).unwrap_or(text.len());
        text.get(..end).unwrap_or_default().to_lowercase()
    }
}

impl fmt::Display for Ref {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slot(n) => write!(f, "@{n}"),
            Self::Inode(ino) => write!(f, "inode {ino}"),
            Self::Path(path) => write!(f, "/{}", join(path)),
        }
    }
}

fn short(name: NameId) -> String {
    let bytes = names::bytes(name);
    let text = bytes
        .get(..bytes.len().min(24))
        .unwrap_or_default()
        .escape_ascii()
        .to_string();
    if bytes.len() > 24 {
        format!("{text}..({})", bytes.len())
    } else {
        text
    }
}

fn join(path: &[NameId]) -> String {
    path.iter().map(|n| short(*n)).collect::<Vec<_>>().join("/")
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.dir {
            Ref::Path(path) if path.is_empty() => write!(f, "/{}", short(self.name)),
            dir => write!(f, "{dir}/{}", short(self.name)),
        }
    }
}

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of {:#x}", self.len, self.seed)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create {
                at,
                kind,
                mode,
                uid,
                gid,
                target,
            } => {
                write!(f, "create {at} {kind:?} {mode:o} {uid}:{gid}")?;
                if *kind == FileKind::Symlink {
                    write!(f, " -> {target} bytes")?;
                }
                Ok(())
            }
            Self::Unnamed { dir, slot, mode } => write!(f, "tmpfile {dir} {mode:o} as @{slot}"),
            Self::Link { from, to } => write!(f, "link {from} {to}"),
            Self::Unlink(at) => write!(f, "unlink {at}"),
            Self::Rmdir(at) => write!(f, "rmdir {at}"),
            Self::Rename { from, to, mode } => write!(f, "rename {from} {to} {mode:?}"),
            Self::Set { who, set } => write!(f, "set {who}{}", changes(set)),
            Self::Write { who, offset, data } => write!(f, "write {who} at {offset} {data}"),
            Self::Append { who, data } => write!(f, "append {who} {data}"),
            Self::Allocate {
                who,
                mode,
                offset,
                len,
            } => {
                write!(f, "allocate {who} {mode:?} {offset}+{len}")
            }
            Self::Copy {
                from,
                from_offset,
                to,
                to_offset,
                len,
            } => {
                write!(f, "copy {from} {from_offset}+{len} to {to} {to_offset}")
            }
            Self::Collapse { who, offset, len } => write!(f, "collapse {who} {offset}+{len}"),
            Self::Insert { who, offset, len } => write!(f, "insert {who} {offset}+{len}"),
            Self::SetXattr {
                who,
                name,
                data,
                mode,
            } => {
                write!(f, "setxattr {who} user.{} {data} {mode:?}", short(*name))
            }
            Self::RemoveXattr { who, name } => write!(f, "removexattr {who} user.{}", short(*name)),
            Self::Transaction { steps, sync } => {
                write!(f, "transaction [{}], synced: {sync}", steps_of(steps))
            }
            Self::Cut { calls, seed, again } => {
                write!(f, "cut after {calls} calls, seed {seed:#x}, ")?;
                write!(f, "again {again:?}")
            }
            Self::Read { who, offset, len } => write!(f, "read {who} {offset}+{len}"),
            Self::Seek { who, offset, what } => write!(f, "seek {who} {offset} {what:?}"),
            Self::List { who, first } => write!(f, "list {who}, {first} first"),
            Self::Lookup(at) => write!(f, "lookup {at}"),
            Self::Stat(who) => write!(f, "stat {who}"),
            Self::ReadLink(who) => write!(f, "readlink {who}"),
            Self::GetXattr { who, name } => write!(f, "getxattr {who} user.{}", short(*name)),
            Self::ListXattr(who) => write!(f, "listxattr {who}"),
            Self::ParentOf(who) => write!(f, "parent {who}"),
            Self::FindPath(path) => write!(f, "find /{}", join(path)),
            Self::Open { slot, who } => write!(f, "open {who} as @{slot}"),
            Self::Close(slot) => write!(f, "close @{slot}"),
            Self::Step(work) => write!(f, "step {work:?}"),
            Self::Fault(fault) => write!(f, "fault {fault:?}"),
            Self::View(_) | Self::Go { .. } => self.fmt_of_snapshot(f),
            op if op.is_of_points() => op.fmt_of_snapshot(f),
            Self::CheckAll => f.write_str("compare everything"),
            Self::Reopen => f.write_str("close and open"),
            _ => f.write_str(&self.word()),
        }
    }
}

fn steps_of(steps: &[Step]) -> String {
    let steps: Vec<String> = steps.iter().map(ToString::to_string).collect();
    steps.join("; ")
}

fn changes(set: &SetAttributes) -> String {
    let mut out = String::new();
    let mut add = |what: &str, value: Option<String>| {
        if let Some(value) = value {
            out += &format!(" {what}={value}");
        }
    };
    add("mode", set.mode.map(|v| format!("{v:o}")));
    add("uid", set.uid.map(|v| v.to_string()));
    add("gid", set.gid.map(|v| v.to_string()));
    add("size", set.size.map(|v| v.to_string()));
    add(
        "atime",
        set.atime.map(|v| format!("{}.{}", v.secs, v.nanos)),
    );
    add(
        "mtime",
        set.mtime.map(|v| format!("{}.{}", v.secs, v.nanos)),
    );
    add("flags", set.flags.map(|v| format!("{v:#x}")));
    out
}
