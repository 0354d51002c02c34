//! Requests about names.

use razorfs::redo::as_request;
use razorfs::{Error, FileKind, Ino, NewNode, RenameMode, SetAttributes, Stat};

use super::{Errno, Operations, Result};
use crate::protocol::{self, Operation, Request};
use crate::transport::Reply;

impl Operations {
    /// Requests that are answered with an inode, which the kernel then knows once more.
    pub(super) fn entry(&self, request: &Request<'_>, reply: Reply, out: &mut Vec<u8>) {
        let found = match self.applied(request) {
            Some(made) => self.made_before(request, Ino(made)),
            None => self.find_or_make(request),
        };
        let stat = match found {
            Ok(stat) => stat,
            Err(Errno(libc::ENOENT)) if is_lookup(request) => {
                protocol::put_negative_entry(out, self.validity);
                reply.bytes(out);
                return;
            }
            Err(e) => return self.fail(e, reply),
        };
        let generation = self.underway.generation(stat.ino);
        protocol::put_entry(out, &stat, generation, self.validity);
        let opened = matches!(
            request.operation,
            Operation::Create { .. } | Operation::TmpFile { .. }
        );
        if opened {
            protocol::put_open(out, self.open_flags());
        }
        // Before the answer: the kernel may forget it right after.
        self.fs.pin(stat.ino, 1);
        if !reply.bytes(out) {
            self.fs.unpin(stat.ino, 1);
        }
    }

    /// What a request has led to that was carried out before.
    fn made_before(&self, request: &Request<'_>, made: Ino) -> Result<Stat> {
        let ino = match request.operation {
            Operation::Link { ino, .. } => Ino(ino),
            _ => made,
        };
        Ok(self.fs.stat(ino)?)
    }

    fn find_or_make(&self, request: &Request<'_>) -> Result<Stat> {
        let parent = Ino(request.header.node);
        let number = self.number(request);
        let create = |name: &[u8], node: &NewNode<'_>| {
            as_request(number, || self.fs.create_node(parent, name, node))
        };
        let make = |name: &[u8], node: NewNode<'_>| Ok(create(name, &node)?);
        let new = |kind, mode, umask| new_node(request, kind, mode, umask);
        match request.operation {
            // A file handle of NFS or open_by_handle_at(2) leads here.
            Operation::Lookup { name: b"." } => match self.fs.stat(parent)? {
                // It lives on for whoever holds it open, and nobody else comes to it.
                stat if stat.nlink == 0 => Err(Errno(libc::ENOENT)),
                stat => Ok(stat),
            },
            Operation::Lookup { name: b".." } => Ok(self.fs.stat(self.fs.parent_of(parent)?)?),
            Operation::Lookup { name } => Ok(self.fs.lookup(parent, name)?),
            Operation::Symlink { name, target } => {
                let link = new(FileKind::Symlink, 0o777, 0);
                make(name, NewNode { target, ..link })
            }
            Operation::MkDir { name, mode, umask } => {
                make(name, new(FileKind::Directory, mode, umask))
            }
            Operation::MkNod {
                name,
                mode,
                rdev,
                umask,
            } => {
                let kind = match mode & libc::S_IFMT {
                    0 => Some(FileKind::Regular),
                    _ => FileKind::from_mode(mode),
                };
                let kind = kind.filter(|&kind| kind != FileKind::Directory);
                let node = new(kind.ok_or(Errno(libc::EINVAL))?, mode, umask);
                make(name, NewNode { rdev, ..node })
            }
            Operation::Create {
                name,
                flags,
                mode,
                umask,
            } => {
                let node = new(FileKind::Regular, mode, umask);
                match create(name, &node) {
                    Err(Error::Exists) if flags & libc::O_EXCL as u32 == 0 => {
                        self.open_existing(parent, name, flags)
                    }
                    made => Ok(made?),
                }
            }
            Operation::TmpFile { mode, umask, .. } => {
                let node = new(FileKind::Regular, mode, umask);
                Ok(as_request(number, || {
                    self.fs.create_unnamed(parent, &node)
                })?)
            }
            Operation::Link { ino, name } => {
                Ok(as_request(number, || self.fs.link(Ino(ino), parent, name))?)
            }
            _ => Err(Errno(libc::ENOSYS)),
        }
    }

    /// The kernel thought that there was no such name, but somebody using the volume as a library
    /// has made it since.
    fn open_existing(&self, parent: Ino, name: &[u8], flags: u32) -> Result<Stat> {
        let stat = self.fs.lookup(parent, name)?;
        if stat.kind() != FileKind::Regular {
            // The kernel looks the name up again.
            return Err(Errno(libc::ESTALE));
        }
        if flags & libc::O_TRUNC as u32 == 0 {
            return Ok(stat);
        }
        let empty = SetAttributes {
            size: Some(0),
            ..SetAttributes::default()
        };
        Ok(self.fs.set_attributes(stat.ino, &empty)?)
    }

    pub(super) fn change_names(&self, request: &Request<'_>) -> Result {
        as_request(self.number(request), || self.change_names_once(request))
    }

    fn change_names_once(&self, request: &Request<'_>) -> Result {
        let parent = Ino(request.header.node);
        match request.operation {
            Operation::Unlink { name } => self.fs.unlink(parent, name)?,
            Operation::RmDir { name } => self.fs.rmdir(parent, name)?,
            Operation::Rename {
                name,
                new_parent,
                new_name,
                flags,
            } => {
                let mode = match flags {
                    0 => RenameMode::Replace,
                    libc::RENAME_NOREPLACE => RenameMode::NoReplace,
                    libc::RENAME_EXCHANGE => RenameMode::Exchange,
                    _ if flags & !libc::RENAME_NOREPLACE == libc::RENAME_WHITEOUT => {
                        RenameMode::Whiteout {
                            no_replace: flags & libc::RENAME_NOREPLACE != 0,
                            uid: request.header.uid,
                            gid: request.header.gid,
                        }
                    }
                    // Never ignore a flag: that would lose somebody's file.
                    _ => return Err(Errno(libc::EINVAL)),
                };
                let to = Ino(new_parent);
                self.fs.rename(parent, name, to, new_name, mode)?;
            }
            _ => return Err(Errno(libc::ENOSYS)),
        }
        Ok(())
    }
}

fn is_lookup(request: &Request<'_>) -> bool {
    // A handle whose inode is gone must not become a cached negative name.
    matches!(request.operation, Operation::Lookup { name } if name != b"." && name != b"..")
}

fn new_node<'a>(request: &Request<'_>, kind: FileKind, mode: u32, umask: u32) -> NewNode<'a> {
    NewNode {
        kind,
        mode: mode & 0o7777,
        umask,
        uid: request.header.uid,
        gid: request.header.gid,
        rdev: 0,
        target: b"",
    }
}
