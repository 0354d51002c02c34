//! Operations that change nothing: each answer must be the model's.

use libc::{EINVAL, EISDIR, ENAMETOOLONG, ENODATA, ENOENT, ENOTDIR, ENXIO, ERANGE};
use razorfs::{Error, FileKind, Ino, SeekFor, Stat};

use crate::flags::FORBIDDING;
use crate::model::{Errnos, Model, Node};
use crate::names::{self, NameId, TOO_LONG};
use crate::op::{At, Op};
use crate::subject::FileSystem;

type Check = Result<(), String>;

/// Whether the answer is the expected success or one of the expected errors.
pub fn expect<T, U>(
    found: Result<T, Error>,
    expected: Result<U, Errnos>,
) -> Result<Option<(T, U)>, String> {
    match (found, expected) {
        (Ok(found), Ok(expected)) => Ok(Some((found, expected))),
        (Err(e), Err(allowed)) if allowed.contains(&e.errno()) => Ok(None),
        (Err(e), Err(allowed)) => Err(format!(
            "answered \"{e}\" (errno {}), expected {allowed:?}",
            e.errno()
        )),
        (Ok(_), Err(allowed)) => Err(format!("succeeded, expected errno {allowed:?}")),
        (Err(e), Ok(_)) => Err(format!(
            "answered \"{e}\" (errno {}), expected success",
            e.errno()
        )),
    }
}

/// Whether what stat tells is what the model has.
pub fn check_stat(found: &Stat, ino: Ino, node: &Node) -> Check {
    let mut wrong = Vec::new();
    let mut field = |name: &str, found: u64, expected: u64| {
        if found != expected {
            wrong.push(format!("{name} {found}, expected {expected}"));
        }
    };
    field("ino", found.ino.0, ino.0);
    field(
        "mode",
        found.mode.into(),
        (node.kind.mode_bits() | node.perm).into(),
    );
    field("nlink", found.nlink.into(), node.nlink.into());
    field("uid", found.uid.into(), node.uid.into());
    field("gid", found.gid.into(), node.gid.into());
    field("rdev", found.rdev.into(), node.rdev.into());
    field(
        "flags",
        (found.flags & FORBIDDING).into(),
        node.flags.into(),
    );
    match node.kind {
        FileKind::Regular => field("size", found.size, node.size),
        FileKind::Symlink => field("size", found.size, node.target.len() as u64),
        _ => {}
    }
    for (name, found, expected) in [
        ("atime", found.atime, node.atime),
        ("mtime", found.mtime, node.mtime),
    ] {
        if expected.is_some_and(|e| e != found) {
            wrong.push(format!("{name} {found:?}, expected {expected:?}"));
        }
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(format!("stat: {}", wrong.join(", ")))
    }
}

/// Performs an operation that changes nothing and compares its answer.
pub fn look<F: FileSystem>(fs: &F, model: &mut Model, op: &Op) -> Check {
    let target = match op {
        Op::Lookup(at) => return lookup(fs, model, at),
        Op::FindPath(path) => return find_path(fs, model, path),
        Op::Read { who, .. }
        | Op::Seek { who, .. }
        | Op::List { who, .. }
        | Op::Stat(who)
        | Op::ReadLink(who)
        | Op::GetXattr { who, .. }
        | Op::ListXattr(who)
        | Op::ParentOf(who) => model.resolve(who),
        _ => return Ok(()),
    };
    let Some(ino) = target else { return Ok(()) };
    if matches!(op, Op::Read { .. }) {
        // An access time that was set may have moved.
        model.was_read(ino);
    }
    let Some(node) = model.node(ino) else {
        return Ok(());
    };
    match op {
        Op::Read { offset, len, .. } => read(fs, ino, node, *offset, *len),
        Op::Seek { offset, what, .. } => seek(fs, ino, node, *offset, *what),
        Op::List { first, .. } => list(fs, model, ino, node, *first),
        Op::Stat(_) => match expect(fs.stat(ino), Ok(()))? {
            Some((stat, ())) => check_stat(&stat, ino, node),
            None => Ok(()),
        },
        Op::ReadLink(_) => {
            let is_link = node.kind == FileKind::Symlink;
            let expected: Result<(), Errnos> = if is_link { Ok(()) } else { Err(&[EINVAL]) };
            match expect(fs.read_link(ino), expected)? {
                Some((target, ())) if *target != *node.target => Err("another target".into()),
                _ => Ok(()),
            }
        }
        Op::ParentOf(_) => {
            let expected: Result<Ino, Errnos> = if node.is_dir() {
                Ok(node.parent)
            } else {
                Err(&[ENOTDIR])
            };
            if node.nlink == 0 {
                return Ok(());
            }
            match expect(fs.parent_of(ino), expected)? {
                Some((found, parent)) if found != parent => {
                    Err(format!("parent {found}, expected {parent}"))
                }
                _ => Ok(()),
            }
        }
        _ => xattr(fs, ino, node, op),
    }
}

fn lookup<F: FileSystem>(fs: &F, model: &Model, at: &At) -> Check {
    let Some(dir) = model.resolve(&at.dir) else {
        return Ok(());
    };
    let found = fs.lookup(dir, names::bytes(at.name));
    let expected: Result<Ino, Errnos> = match model.node(dir) {
        Some(node) if !node.is_dir() && at.name == TOO_LONG => Err(&[ENOTDIR, ENAMETOOLONG]),
        Some(node) if !node.is_dir() => Err(&[ENOTDIR]),
        _ if at.name == TOO_LONG => Err(&[ENAMETOOLONG, ENOENT]),
        _ => model.child(dir, at.name).ok_or(&[ENOENT]),
    };
    match expect(found, expected)? {
        Some((stat, ino)) => model
            .node(ino)
            .map_or(Ok(()), |n| check_stat(&stat, ino, n)),
        None => Ok(()),
    }
}

fn find_path<F: FileSystem>(fs: &F, model: &Model, path: &[NameId]) -> Check {
    let mut text = Vec::new();
    let mut expected: Result<Ino, Errnos> = Ok(Ino::ROOT);
    for name in path {
        text.push(b'/');
        text.extend_from_slice(names::bytes(*name));
        expected = expected.and_then(|dir| match model.node(dir) {
            Some(node) if node.is_dir() => model.child(dir, *name).ok_or(&[ENOENT]),
            _ => Err(&[ENOTDIR]),
        });
        if *name == TOO_LONG {
            // Where a long name is refused is not fixed.
            return Ok(());
        }
    }
    if text.is_empty() {
        text.push(b'/');
    }
    match expect(fs.find_by_path(&text), expected)? {
        Some((found, ino)) if found != ino => Err(format!("inode {found}, expected {ino}")),
        _ => Ok(()),
    }
}

/// Compares what a read answers.
pub(crate) fn read<F: FileSystem>(fs: &F, ino: Ino, node: &Node, offset: u64, len: u32) -> Check {
    let mut buffer = vec![0x5a; len as usize];
    let found = fs.read(ino, offset, &mut buffer);
    if node.kind != FileKind::Regular {
        expect::<_, ()>(found, Err(&[EISDIR, EINVAL]))?;
        return Ok(());
    }
    let want = node.size.saturating_sub(offset).min(u64::from(len)) as usize;
    let Some((got, ())) = expect(found, Ok(()))? else {
        return Ok(());
    };
    if got != want {
        return Err(format!("read {got} bytes, expected {want}"));
    }
    let mut expected = vec![0; want];
    node.content.read(offset, &mut expected);
    let differ = buffer.iter().zip(&expected).position(|(a, b)| a != b);
    match differ {
        None => Ok(()),
        Some(at) => {
            let show = |b: &[u8]| format!("{:x?}", b.get(at..b.len().min(at + 8)).unwrap_or(&[]));
            Err(format!(
                "bytes from {} on are {}, expected {}",
                offset + at as u64,
                show(buffer.get(..want).unwrap_or(&[])),
                show(&expected)
            ))
        }
    }
}

fn seek<F: FileSystem>(fs: &F, ino: Ino, node: &Node, offset: u64, what: SeekFor) -> Check {
    let found = fs.seek(ino, offset, what);
    if node.kind != FileKind::Regular {
        return if found.is_err() || node.is_dir() {
            Ok(())
        } else {
            Err("succeeded on what is not a regular file".into())
        };
    }
    let next = node.content.next_nonzero(offset);
    let found = match found {
        Ok(at) => at,
        Err(e) if e.errno() != ENXIO => return Err(format!("answered {e}")),
        Err(_) => {
            let must = offset < node.size && (what == SeekFor::Hole || next.is_some());
            return if must {
                Err(format!("found nothing, but byte {next:?} is not zero"))
            } else {
                Ok(())
            };
        }
    };
    if offset >= node.size {
        return Err(format!("answered {found} beyond the end"));
    }
    match what {
        SeekFor::Data if found < offset || found >= node.size => {
            Err(format!("data at {found}, which is out of range"))
        }
        SeekFor::Data if next.is_some_and(|n| n < found) => {
            Err(format!("data at {found}, but byte {next:?} is not zero"))
        }
        SeekFor::Hole if found < offset || found > node.size => {
            Err(format!("hole at {found}, which is out of range"))
        }
        SeekFor::Hole if found < node.size && node.content.next_nonzero(found) == Some(found) => {
            Err(format!("hole at {found}, but that byte is not zero"))
        }
        _ => Ok(()),
    }
}

fn list<F: FileSystem>(fs: &F, model: &Model, ino: Ino, node: &Node, first: u16) -> Check {
    let expected: Result<(), Errnos> = if node.is_dir() {
        Ok(())
    } else {
        Err(&[ENOTDIR])
    };
    let part = fs.entries(ino, 0, usize::from(first).max(1));
    let Some((mut entries, ())) = expect(part, expected)? else {
        return Ok(());
    };
    if entries.len() > usize::from(first).max(1) {
        return Err("went on after it was told to stop".into());
    }
    let last = entries.last().map_or(0, |e| e.cookie);
    let rest = fs
        .entries(ino, last, usize::MAX)
        .map_err(|e| format!("going on: {e}"))?;
    if last != 0 || entries.is_empty() {
        entries.extend(rest);
    }
    if entries
        .windows(2)
        .any(|w| matches!(w, [a, b] if a.cookie >= b.cookie))
    {
        return Err("the cookies do not increase".into());
    }
    let mut found: Vec<_> = entries
        .iter()
        .map(|e| (names::id(&e.name), e.ino, e.kind as u8))
        .collect();
    found.sort_unstable();
    let kind = |ino| model.node(ino).map_or(0, |n| n.kind as u8);
    let want: Vec<_> = node
        .entries
        .iter()
        .map(|(n, i)| (Some(*n), *i, kind(*i)))
        .collect();
    if found == want {
        Ok(())
    } else {
        Err(format!("lists {found:?}, expected {want:?}"))
    }
}

fn xattr<F: FileSystem>(fs: &F, ino: Ino, node: &Node, op: &Op) -> Check {
    match op {
        Op::GetXattr { name, .. } => {
            let expected: Result<_, Errnos> = match node.xattrs.get(name) {
                Some(value) => Ok(value),
                None if *name == TOO_LONG => Err(&[ENODATA, ERANGE, ENAMETOOLONG]),
                None => Err(&[ENODATA]),
            };
            match expect(fs.get_xattr(ino, &names::xattr(*name)), expected)? {
                Some((found, value)) if *found != *value.bytes => Err("another value".into()),
                _ => Ok(()),
            }
        }
        Op::ListXattr(_) => {
            let found = fs.list_xattr(ino).map_err(|e| e.to_string())?;
            let mut found: Vec<_> = found.iter().map(|n| names::xattr_id(n)).collect();
            found.sort_unstable();
            let want: Vec<_> = node.xattrs.keys().map(|n| Some(*n)).collect();
            if found == want {
                Ok(())
            } else {
                Err(format!("lists attributes {found:?}, expected {want:?}"))
            }
        }
        _ => Ok(()),
    }
}
