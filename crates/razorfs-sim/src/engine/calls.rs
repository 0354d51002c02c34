//! The calls of a file system, as the engine has them.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use parking_lot::Mutex;
use razorfs::{
    AllocateMode, Committed, Durability, Entry, Incoming, Ino, NewNode, OnConflict, ReceiveOptions,
    RenameMode, Result, ScrubState, SeekFor, SendOptions, SetAttributes, Stat, Step as Chore,
    Token, Volume, When, XattrMode,
};

use super::EngineFs;
use crate::names;
use crate::op::{At, Step, Work};
use crate::posix;
use crate::subject::{Done, FileSystem, Merge};
use crate::transaction::path_of;

impl FileSystem for EngineFs {
    fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Stat> {
        self.volume.lookup(dir, name)
    }
    fn stat(&self, ino: Ino) -> Result<Stat> {
        self.volume.stat(ino)
    }
    fn find_by_path(&self, path: &[u8]) -> Result<Ino> {
        self.volume.find_by_path(path)
    }
    fn create_node(&self, dir: Ino, name: &[u8], node: &NewNode<'_>) -> Result<Stat> {
        self.volume.create_node(dir, name, node)
    }
    fn create_unnamed(&self, dir: Ino, node: &NewNode<'_>) -> Result<Stat> {
        self.volume.create_unnamed(dir, node)
    }
    fn link(&self, ino: Ino, dir: Ino, name: &[u8]) -> Result<Stat> {
        self.volume.link(ino, dir, name)
    }
    fn unlink(&self, dir: Ino, name: &[u8]) -> Result<()> {
        self.volume.unlink(dir, name)
    }
    fn rmdir(&self, dir: Ino, name: &[u8]) -> Result<()> {
        self.volume.rmdir(dir, name)
    }
    fn rename(&self, dir: Ino, name: &[u8], to: Ino, new: &[u8], mode: RenameMode) -> Result<()> {
        self.volume.rename(dir, name, to, new, mode)
    }
    fn set_attributes(&self, ino: Ino, set: &SetAttributes) -> Result<Stat> {
        self.volume.set_attributes(ino, set)
    }
    fn read_link(&self, ino: Ino) -> Result<Box<[u8]>> {
        self.volume.read_link(ino)
    }
    fn read(&self, ino: Ino, offset: u64, out: &mut [u8]) -> Result<usize> {
        self.volume.read(ino, offset, out)
    }
    fn write(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<usize> {
        self.volume.write(ino, offset, data)
    }
    fn append(&self, ino: Ino, data: &[u8]) -> Result<u64> {
        self.volume.append(ino, data)
    }
    fn allocate(&self, ino: Ino, mode: AllocateMode, offset: u64, len: u64) -> Result<()> {
        self.volume.allocate(ino, mode, offset, len)
    }
    fn seek(&self, ino: Ino, offset: u64, what: SeekFor) -> Result<u64> {
        self.volume.seek(ino, offset, what)
    }
    fn copy_range(&self, from: Ino, at: u64, to: Ino, to_at: u64, len: u64) -> Result<u64> {
        self.volume.copy_range(from, at, to, to_at, len)
    }
    fn collapse_range(&self, ino: Ino, offset: u64, len: u64) -> Result<()> {
        self.volume.collapse_range(ino, offset, len)
    }
    fn insert_range(&self, ino: Ino, offset: u64, len: u64) -> Result<()> {
        self.volume.insert_range(ino, offset, len)
    }
    fn parent_of(&self, dir: Ino) -> Result<Ino> {
        self.volume.parent_of(dir)
    }
    fn get_xattr(&self, ino: Ino, name: &[u8]) -> Result<Box<[u8]>> {
        self.volume.get_xattr(ino, name)
    }
    fn set_xattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        self.volume.set_xattr(ino, name, value, mode)
    }
    fn list_xattr(&self, ino: Ino) -> Result<Vec<Box<[u8]>>> {
        self.volume.list_xattr(ino)
    }
    fn remove_xattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        self.volume.remove_xattr(ino, name)
    }
    fn transaction(&self, steps: &[Step], sync: bool) -> Result<()> {
        let mut tx = self.volume.root().transaction();
        for step in steps {
            match step {
                Step::CreateDir(at) => tx.create_dir(path(at))?,
                Step::Write(at, data) => tx.write(path(at), data.bytes())?,
                Step::RemoveFile(at) => tx.remove_file(path(at))?,
                Step::RemoveDir(at) => tx.remove_dir(path(at))?,
                Step::RemoveDirAll(at) => tx.remove_dir_all(path(at))?,
                Step::Rename(from, to) => tx.rename(path(from), path(to))?,
                Step::HardLink(from, to) => tx.hard_link(path(from), path(to))?,
                Step::Symlink(len, at) => {
                    tx.symlink(OsString::from_vec(posix::target(*len)), path(at))?;
                }
                Step::Mode(at, mode) => tx.set_permissions(path(at), *mode)?,
            }
        }
        tx.commit(if sync {
            Durability::Synced
        } else {
            Durability::Async
        })
    }
    fn pin(&self, ino: Ino) {
        self.volume.pin(ino, 1);
    }
    fn unpin(&self, ino: Ino) {
        self.volume.unpin(ino, 1);
    }
    fn sync(&self) -> Result<()> {
        self.volume.sync()
    }
    fn sync_then(&self, done: Done) {
        self.volume.sync_then(done);
    }
    fn checkpoint(&self) -> Result<()> {
        self.volume.checkpoint()
    }
    fn snapshots(&self) -> Vec<String> {
        let snapshots = self.volume.snapshots().into_iter();
        snapshots.map(|s| s.name).collect()
    }
    fn snapshot(&self, name: &str) -> Result<()> {
        self.volume.snapshot(name).map(drop)
    }
    fn delete_snapshot(&self, name: &str) -> Result<()> {
        self.volume.delete_snapshot(name)
    }
    fn rollback(&self, to: &str) -> Result<String> {
        self.volume.rollback(to).map(|s| s.name)
    }
    fn at_snapshot(&self, name: &str) -> Result<Self> {
        let volume = self.volume.at_snapshot(name)?;
        Ok(Self { volume })
    }
    fn branches(&self) -> Vec<String> {
        let branches = self.volume.branches().into_iter();
        branches.map(|b| b.name).collect()
    }
    fn create_branch(&self, name: &str) -> Result<()> {
        self.volume.create_branch(name).map(drop)
    }
    fn delete_branch(&self, name: &str) -> Result<()> {
        self.volume.delete_branch(name)
    }
    fn branch(&self, name: &str) -> Result<Self> {
        let volume = self.volume.branch(name)?;
        Ok(Self { volume })
    }

    fn commit(&self, branch: &Self, force: bool) -> Result<Merge> {
        let how = match force {
            true => OnConflict::TakeBranch,
            false => OnConflict::Refuse,
        };
        Ok(match self.volume.commit_branch(&branch.volume, how)? {
            Committed::Nothing => Merge::Nothing,
            Committed::Conflicts(all) => {
                Merge::Conflicts(all.into_iter().map(|conflict| conflict.path).collect())
            }
            Committed::Done(before) => Merge::Done(before.name),
        })
    }

    fn snapshot_origin(&self, branch: &str, name: &str) -> Result<()> {
        self.volume.snapshot_origin(branch, name).map(drop)
    }
    fn snapshot_at(&self, name: &str, time: u64) -> Result<()> {
        self.volume.snapshot_at(name, When::Time(time)).map(drop)
    }
    fn restore(&self, time: u64) -> Result<String> {
        self.volume.restore(When::Time(time)).map(|s| s.name)
    }
    fn send(&self, what: &SendOptions) -> Result<Vec<u8>> {
        let mut stream = Vec::new();
        self.volume.send(what, &mut stream, &mut |_| Ok(()))?;
        Ok(stream)
    }
    fn receive(&self, stream: &[u8], force: bool, each: &mut dyn FnMut()) -> Result<()> {
        let options = ReceiveOptions { force };
        let received = self
            .volume
            .receive(Incoming::new(stream)?, options, &mut |_| {
                each();
                Ok(())
            });
        received.map(drop)
    }
    fn resume_token(&self) -> Result<Option<Token>> {
        self.volume.resume_token()
    }

    fn entries(&self, dir: Ino, after: u64, most: usize) -> Result<Vec<Entry>> {
        let found = Mutex::new(Vec::new());
        self.volume.collect_children(dir, after, &mut |entry| {
            let mut found = found.lock();
            found.push(entry);
            found.len() < most
        })?;
        Ok(found.into_inner())
    }

    fn step(&self, work: Work) -> Result<bool> {
        self.volume.step(match work {
            Work::Commit => Chore::Commit,
            Work::Checkpoint => Chore::Checkpoint,
            Work::Compact => Chore::Compact,
            Work::Reap => Chore::Reap,
            Work::Grow => Chore::Grow,
            Work::Parity => Chore::Parity,
            Work::Clean => return clean(&self.volume),
            Work::Release => Chore::Release,
            Work::Scrub => {
                if self.volume.scrub_status().state == ScrubState::Idle {
                    self.volume.scrub_start(0)?;
                }
                Chore::Scrub
            }
        })
    }

    fn inodes(&self) -> Result<u64> {
        self.volume.space().map(|s| s.inodes)
    }

    fn bytes(&self) -> Result<u64> {
        let space = self.volume.space()?;
        Ok(space.total - space.free)
    }

    fn tell_held(&self, is_held: &dyn Fn(Ino) -> bool) -> bool {
        let asked = self.volume.doubtful();
        let free = asked.into_iter().filter(|ino| !is_held(*ino));
        free.filter(|ino| self.volume.not_held(*ino)).count() > 0
    }

    fn degraded(&self) -> Option<String> {
        let damage = &self.volume.recovery_report().damage;
        let info = self.volume.info();
        match (info.read_only, damage.first()) {
            (Some(why), _) => Some(why),
            (None, Some(damage)) => Some(format!("damage was found: {damage}")),
            (None, None) => None,
        }
    }

    fn close(self) -> Result<()> {
        self.volume.nobody_is_left();
        self.volume.close()
    }
}

/// The path of a place as the library takes it.
fn path(at: &At) -> PathBuf {
    let names = path_of(at);
    let names: Vec<&[u8]> = names.iter().map(|name| names::bytes(*name)).collect();
    OsString::from_vec(names.join(&b'/')).into()
}

/// Steps of cleaning until one has copied something: after an opening packs are searched before.
fn clean(volume: &Volume) -> Result<bool> {
    let copied = || volume.stats().cleaned_bytes;
    let (before, mut steps) = (copied(), 0);
    while steps < 4 && copied() == before && volume.step(Chore::Clean)? {
        steps += 1;
    }
    Ok(steps > 0)
}
