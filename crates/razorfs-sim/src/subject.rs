//! What is under test: a file system on a disk whose power can be cut. The engine is one, and the
//! toys of this crate's tests, with a bug planted in each, are others.

use std::path::PathBuf;
use std::sync::Arc;

use razorfs::{
    AllocateMode, Entry, Error, Ino, NewNode, RenameMode, Result, SeekFor, SendOptions,
    SetAttributes, Stat, Token, XattrMode,
};

use crate::model::Model;
use crate::op::{Fault, Step, Work};

/// What is called when something became durable, or failed to.
pub type Done = Box<dyn FnOnce(Result<()>) + Send>;

/// What came of a commit of a branch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Merge {
    /// There was nothing to do.
    Nothing,
    /// Nothing was done, as both have changed something there.
    Conflicts(Vec<PathBuf>),
    /// All of it; what was before is this snapshot.
    Done(String),
}

/// An open file system: the inode level of [`razorfs`], by the same names.
#[expect(missing_docs, reason = "the calls are those of the engine")]
pub trait FileSystem {
    fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Stat>;
    fn stat(&self, ino: Ino) -> Result<Stat>;
    fn find_by_path(&self, path: &[u8]) -> Result<Ino>;
    fn create_node(&self, dir: Ino, name: &[u8], node: &NewNode<'_>) -> Result<Stat>;
    fn create_unnamed(&self, dir: Ino, node: &NewNode<'_>) -> Result<Stat>;
    fn link(&self, ino: Ino, dir: Ino, name: &[u8]) -> Result<Stat>;
    fn unlink(&self, dir: Ino, name: &[u8]) -> Result<()>;
    fn rmdir(&self, dir: Ino, name: &[u8]) -> Result<()>;
    fn rename(&self, dir: Ino, name: &[u8], to: Ino, new: &[u8], mode: RenameMode) -> Result<()>;
    fn set_attributes(&self, ino: Ino, set: &SetAttributes) -> Result<Stat>;
    fn read_link(&self, ino: Ino) -> Result<Box<[u8]>>;
    fn read(&self, ino: Ino, offset: u64, out: &mut [u8]) -> Result<usize>;
    fn write(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<usize>;
    fn append(&self, ino: Ino, data: &[u8]) -> Result<u64>;
    fn allocate(&self, ino: Ino, mode: AllocateMode, offset: u64, len: u64) -> Result<()>;
    fn seek(&self, ino: Ino, offset: u64, what: SeekFor) -> Result<u64>;
    fn copy_range(&self, from: Ino, at: u64, to: Ino, to_at: u64, len: u64) -> Result<u64>;
    fn collapse_range(&self, ino: Ino, offset: u64, len: u64) -> Result<()>;
    fn insert_range(&self, ino: Ino, offset: u64, len: u64) -> Result<()>;
    fn parent_of(&self, dir: Ino) -> Result<Ino>;
    fn get_xattr(&self, ino: Ino, name: &[u8]) -> Result<Box<[u8]>>;
    fn set_xattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()>;
    fn list_xattr(&self, ino: Ino) -> Result<Vec<Box<[u8]>>>;
    fn remove_xattr(&self, ino: Ino, name: &[u8]) -> Result<()>;
    /// Does all steps or none; durable on return with `sync`.
    fn transaction(&self, steps: &[Step], sync: bool) -> Result<()>;
    fn pin(&self, ino: Ino);
    fn unpin(&self, ino: Ino);
    fn sync(&self) -> Result<()>;
    fn sync_then(&self, done: Done);
    fn checkpoint(&self) -> Result<()>;
    /// The names of the snapshots, oldest first.
    fn snapshots(&self) -> Vec<String>;
    fn snapshot(&self, name: &str) -> Result<()>;
    fn delete_snapshot(&self, name: &str) -> Result<()>;
    /// Goes back to a snapshot; answers the name of the one that is taken before.
    fn rollback(&self, to: &str) -> Result<String>;
    /// The file system as a snapshot shows it.
    fn at_snapshot(&self, name: &str) -> Result<Self>
    where
        Self: Sized;
    /// The names of the branches.
    fn branches(&self) -> Vec<String>;
    /// Makes a branch of what this shows.
    fn create_branch(&self, name: &str) -> Result<()>;
    fn delete_branch(&self, name: &str) -> Result<()>;
    /// A branch, to be read and written.
    fn branch(&self, name: &str) -> Result<Self>
    where
        Self: Sized;

    /// Does here what was done in a branch since the two parted; if both have changed something,
    /// nothing, or this becomes what the branch is.
    fn commit(&self, branch: &Self, force: bool) -> Result<Merge>
    where
        Self: Sized;

    /// Keeps what a branch was made of as a snapshot.
    fn snapshot_origin(&self, _branch: &str, _name: &str) -> Result<()> {
        Err(Error::Unsupported("it remembers nothing"))
    }
    /// Keeps what was at a time as a snapshot.
    fn snapshot_at(&self, _name: &str, _time: u64) -> Result<()> {
        Err(Error::Unsupported("it remembers nothing"))
    }
    /// Goes back to a time; answers the name of the snapshot that is taken before.
    fn restore(&self, _time: u64) -> Result<String> {
        Err(Error::Unsupported("it remembers nothing"))
    }
    /// The stream of a snapshot.
    fn send(&self, _what: &SendOptions) -> Result<Vec<u8>> {
        Err(Error::Unsupported("it sends nothing"))
    }
    /// Receives a stream; `each` is called after every batch.
    fn receive(&self, _stream: &[u8], _force: bool, _each: &mut dyn FnMut()) -> Result<()> {
        Err(Error::Unsupported("it receives nothing"))
    }
    /// What a stream that broke off is gone on with by.
    fn resume_token(&self) -> Result<Option<Token>> {
        Ok(None)
    }

    /// The entries after a cookie, at most `most` of them.
    fn entries(&self, dir: Ino, after: u64, most: usize) -> Result<Vec<Entry>>;
    /// One step of background work; whether it did something.
    fn step(&self, work: Work) -> Result<bool>;
    /// Number of inodes in use.
    fn inodes(&self) -> Result<u64>;
    /// Bytes of the files, as they are long; no more than all that fits into 64 bits.
    fn bytes(&self) -> Result<u64>;
    /// Tells a file system that goes on after a death which of the nameless inodes that it asks for
    /// are held; answers whether it asked.
    fn tell_held(&self, _is_held: &dyn Fn(Ino) -> bool) -> bool {
        false
    }
    /// Why the file system takes no changes though it was opened for them.
    fn degraded(&self) -> Option<String>;
    /// Clean close.
    fn close(self) -> Result<()>;
}

/// A disk with a volume on it.
pub trait Machine {
    /// What opening the volume gives.
    type Fs: FileSystem;

    /// Makes the volume.
    fn format(&mut self) -> Result<()>;
    /// Opens it: recovery, after a cut.
    fn open(&mut self) -> Result<Self::Fs>;
    /// The power goes before the changing call after `calls` more of them.
    fn arm(&mut self, calls: u64);
    /// The power does not go after all.
    fn disarm(&mut self);
    /// Whether the power is gone.
    fn is_dead(&self) -> bool;
    /// The power goes if it has not, some of what was not synced is lost, the power comes back.
    fn revive(&mut self, seed: u64);
    /// The volume was closed and is not open: what may happen to it then.
    fn rest(&mut self) {}
    /// The process dies, or the power goes if that is what the seed says, and both are back.
    /// Answers whether it was the process: then what it had acknowledged is still there.
    fn die(&mut self, seed: u64) -> bool {
        self.revive(seed);
        false
    }
    /// Puts the disk back to another outcome of the last cut; false if there is none left.
    fn next_outcome(&mut self) -> bool {
        false
    }
    /// What was found on a disk that has the same on it as this one now, if that was looked at.
    fn known(&mut self) -> Option<Arc<Model>> {
        None
    }
    /// This was found on the disk that [`Self::known`] was last asked about, and nothing was wrong.
    fn learn(&mut self, _found: &Model) {}
    /// Plants a fault, or takes all away.
    fn fault(&mut self, fault: Fault);
    /// Number of changing calls so far.
    fn calls(&self) -> u64;
    /// Checks the volume, closed or cut off, without the engine.
    fn verify(&self) -> std::result::Result<(), String>;
    /// Checks the volume while it is open, where the checker can.
    fn verify_open(&self) -> std::result::Result<(), String> {
        Ok(())
    }
    /// Whether there is a disk behind it at all: without, nothing can be closed and opened.
    fn is_persistent(&self) -> bool {
        true
    }
    /// Most bytes of file data that the volume takes.
    fn limit(&self) -> Option<u64> {
        None
    }
    /// Whether workloads take snapshots of it.
    fn has_snapshots(&self) -> bool {
        false
    }
    /// Whether they make branches of it.
    fn has_branches(&self) -> bool {
        false
    }
    /// Whether they commit branches to each other.
    fn has_merges(&self) -> bool {
        false
    }
    /// Whether they send snapshots of it to another one.
    fn has_streams(&self) -> bool {
        false
    }
    /// Whether they go back to moments, and to what branches were made of.
    fn has_moments(&self) -> bool {
        false
    }
    /// The time, if the volume can go back to it.
    fn now(&self) -> Option<u64> {
        None
    }
    /// Another one, without a volume, whose power goes by itself.
    fn mirror(&self) -> Option<Self>
    where
        Self: Sized,
    {
        None
    }
    /// Whether every change is durable when its call returns.
    fn is_synchronous(&self) -> bool;
}
