//! Branches: forks of the volume that can be written to, each on its own.

use razorfs_format::manifest::ForkMeta;
use razorfs_format::record::Time;

use crate::{Result, Volume};

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

    /// Deletes a branch, and what only it has. Its snapshots stay. Fails with
    /// [`crate::Error::BranchInUse`] as long as somebody has it open. That it is gone is on the
    /// disk when this returns; the space comes back in the background.
    pub fn delete_branch(&self, name: impl AsRef<str>) -> Result<()> {
        self.inner.delete_branch(name.as_ref())
    }
}
