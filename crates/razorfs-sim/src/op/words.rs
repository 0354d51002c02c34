//! Operations in words.

use std::fmt;

use razorfs::{FileKind, SetAttributes};

use super::{At, Data, Op, Ref, Step};
use crate::branches;
use crate::moments;
use crate::names::{self, NameId};
use crate::points;

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

impl Op {
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
            Self::Merge { from, force } => {
                write!(f, "commit {}, forced: {force}", branches::words(*from))
            }
            Self::Carry {
                which,
                force,
                ending,
                seed,
            } => {
                write!(f, "send snapshot {which}, forced: {force}, {ending:?}, ")?;
                write!(f, "seed {seed:#x}")
            }
            Self::Go { to, closes } => {
                write!(f, "go to {}, closes: {closes}", branches::words(*to))
            }
            other => moments::words(other, f),
        }
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
            Self::View(_) | Self::Carry { .. } | Self::Go { .. } => self.fmt_of_snapshot(f),
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
