//! Branches: forks of the volume that can be written to, each on its own.

use razorfs_format::manifest::ForkMeta;
use razorfs_format::record::Time;

use std::path::PathBuf;

use crate::library::Snapshot;
use crate::namespace::{Clash, Merged, Order};
use crate::{Result, Volume};

/// What the names begin with that are given to what was before a commit.
pub const BEFORE_COMMIT: &str = "before-commit-";

/// A branch of the volume.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Branch {
    /// Its name, which no other one and no snapshot has.
    pub name: String,
    /// A number that no other branch of the volume ever had, and that later ones exceed.
    pub id: u32,
    /// When it was made.
    pub time: Time,
    /// Files, directories and the like that it has.
    pub inodes: u64,
    /// Bytes of its files, those that it shares with others included.
    pub bytes: u64,
}

impl Branch {
    fn of(meta: &ForkMeta) -> Self {
        Self {
            // Names are checked where they are given; what is not one came from elsewhere.
            name: String::from_utf8_lossy(&meta.name).into_owned(),
            id: meta.id.0,
            time: Time::from_unix_nanos(meta.time),
            inodes: meta.inodes,
            bytes: u64::try_from(meta.bytes).unwrap_or(u64::MAX),
        }
    }
}

impl AsRef<str> for Branch {
    fn as_ref(&self) -> &str {
        &self.name
    }
}

/// What both have changed since a branch and its target parted, or a file of the branch whose data
/// is damaged where it would have to be copied.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Conflict {
    /// Which file or name, in the target if it is there.
    pub path: PathBuf,
    /// What is in the way, in words.
    pub why: &'static str,
}

/// What came of [`Volume::commit_branch`].
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use = "nothing was done if there are conflicts"]
pub enum Committed {
    /// The branch has changed nothing that the target does not have.
    Nothing,
    /// Nothing was done, because of these.
    Conflicts(Vec<Conflict>),
    /// The target has what was changed in the branch. What it was before is this snapshot.
    Done(Snapshot),
}

/// What is done about conflicts.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum OnConflict {
    /// They are told, and nothing is done.
    #[default]
    Refuse,
    /// The target becomes what the branch is: what was changed in the target since they parted is
    /// in the snapshot of before only.
    TakeBranch,
}

/// Branches.
impl Volume {
    /// Makes a branch of what this shows: the volume as it is now, one of its branches, or one of
    /// its snapshots ([`Volume::at_snapshot`]). The name is as that of a snapshot; fails with
    /// [`crate::Error::Exists`] if a snapshot or another branch has it. The branch is on the disk
    /// when this returns. It takes no time that grows with the volume, and no space but for what is
    /// changed later, there or here.
    pub fn create_branch(&self, name: impl AsRef<str>) -> Result<Branch> {
        let made = self.inner.create_branch(name.as_ref())?;
        Ok(Branch::of(&made))
    }

    /// The branches, in the order in which they were made. The volume itself is none of them.
    #[must_use]
    pub fn branches(&self) -> Vec<Branch> {
        self.inner.store.forks().iter().map(Branch::of).collect()
    }

    /// One of the branches, to be read and written like the volume: nothing of what is done in one
    /// shows in any other, and all are made durable together ([`Volume::sync`]). Inode numbers are
    /// shared: what a branch had when it was made has the same ones there. The branch stays until
    /// this is dropped; of one that is open already it is another handle. Fails with
    /// [`crate::Error::NotFound`] if there is none of this name.
    pub fn branch(&self, name: impl AsRef<str>) -> Result<Self> {
        let inner = self.inner.branch(name.as_ref())?;
        Ok(Self { inner })
    }

    /// The name of the branch that this is, if it is one.
    #[must_use]
    pub fn branch_name(&self) -> Option<String> {
        let id = self.inner.store.branch().0;
        let mut all = self.branches().into_iter();
        all.find(|branch| branch.id == id).map(|branch| branch.name)
    }

    /// Does here what was changed in `branch` since the two parted: files are told apart by inode,
    /// and keep their numbers, links, attributes and times. This may be the volume itself or
    /// another branch; `branch` stays as it is, and what is changed in it from here on can be
    /// committed again. All of it happens at once, and is on the disk when this returns; what was
    /// before is a snapshot, to which one can go back. If both have changed the same file or name,
    /// or the branch has data that cannot be read, nothing is done unless `on_conflict` says how.
    /// That a file was read is no change.
    ///
    /// The time it takes grows with what was changed; if nothing was changed here since, it is that
    /// of a rollback. Files that are open here go on as after a rollback ([`Volume::rollback`]).
    pub fn commit_branch(&self, branch: &Self, on_conflict: OnConflict) -> Result<Committed> {
        self.commit_branch_telling(branch, on_conflict, &mut |_| ())
    }

    /// The same; `seen` is told as soon as it can be seen, with the snapshot of what was before:
    /// for who has handed out names and attributes that others remember ([`Volume::stale_since`]).
    /// By then it is on the disk, and what follows puts away what is of no use any more.
    pub fn commit_branch_telling(
        &self,
        branch: &Self,
        on_conflict: OnConflict,
        seen: &mut dyn FnMut(&Snapshot),
    ) -> Result<Committed> {
        let mut order = Order {
            safety: &self.safety_name(BEFORE_COMMIT),
            force: on_conflict == OnConflict::TakeBranch,
            seen: &mut |taken| seen(&Snapshot::of(taken)),
        };
        let conflict = |Clash { path, why }| Conflict { path, why };
        Ok(match self.inner.merge(&branch.inner, &mut order)? {
            Merged::Nothing => Committed::Nothing,
            Merged::Clashes(all) => Committed::Conflicts(all.into_iter().map(conflict).collect()),
            Merged::Done(taken) => Committed::Done(Snapshot::of(&taken)),
        })
    }

    /// Keeps what a branch was made of, as it was then, under the name of a snapshot
    /// ([`Volume::snapshot`]). Fails with [`crate::Error::NotFound`] if there is no such branch, or
    /// nothing else goes on from there any more and it was given back.
    pub fn snapshot_origin(
        &self,
        branch: impl AsRef<str>,
        name: impl AsRef<str>,
    ) -> Result<Snapshot> {
        let taken = self.inner.snapshot_origin(branch.as_ref(), name.as_ref())?;
        Ok(Snapshot::of(&taken))
    }

    /// Deletes a branch, and what only it has. Its snapshots stay. Fails with
    /// [`crate::Error::BranchInUse`] as long as somebody has it open. That it is gone is on the
    /// disk when this returns; the space comes back in the background.
    pub fn delete_branch(&self, name: impl AsRef<str>) -> Result<()> {
        self.inner.delete_branch(name.as_ref())
    }
}
