//! Snapshots: the whole volume as it was, kept and gone back to.

use std::sync::Arc;

use razorfs_format::manifest::SnapshotMeta;
use razorfs_format::record::Time;

use crate::namespace::check_name;
use crate::store::is_hidden;
use crate::{Change, Error, Ino, Result, Stale, Volume};

/// What the names of the snapshots begin with that [`Volume::rollback`] takes.
pub const BEFORE_ROLLBACK: &str = "before-rollback-";

/// The volume as it was at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// Its name, which no other one has.
    pub name: String,
    /// A number that no other snapshot of the volume ever had, and that later ones exceed.
    pub id: u64,
    /// The number of the branch that it was taken of; 0 if it was the volume itself.
    pub branch: u32,
    /// When it was taken.
    pub time: Time,
    /// Files, directories and the like that it has.
    pub inodes: u64,
    /// Bytes of its files.
    pub bytes: u64,
}

/// Nobody knows of those that the volume has for itself.
fn check_known(name: &str) -> Result<()> {
    match is_hidden(name.as_bytes()) {
        true => Err(Error::NotFound),
        false => Ok(()),
    }
}

impl Snapshot {
    pub(super) fn of(meta: &SnapshotMeta) -> Self {
        Self {
            // Names are checked where they are given; what is not one came from elsewhere.
            name: String::from_utf8_lossy(&meta.name).into_owned(),
            id: meta.id,
            branch: meta.branch.0,
            time: Time::from_unix_nanos(meta.time),
            inodes: meta.inodes,
            bytes: u64::try_from(meta.bytes).unwrap_or(u64::MAX),
        }
    }
}

impl AsRef<str> for Snapshot {
    fn as_ref(&self) -> &str {
        &self.name
    }
}

/// Snapshots.
impl Volume {
    /// Keeps the whole volume as it is now, under a name of 1 to 255 bytes that has no `/`, `@` or
    /// control characters and does not begin with `-`; fails with [`crate::Error::Exists`] if
    /// another snapshot has it. What it shows, and that it is there, is on the disk when this
    /// returns. It takes no time that grows with the volume, and no space but for what is changed
    /// later.
    pub fn snapshot(&self, name: impl AsRef<str>) -> Result<Snapshot> {
        check_name(name.as_ref())?;
        let taken = self.inner.store.take(name.as_ref().as_bytes())?;
        Ok(Snapshot::of(&taken))
    }

    /// The snapshots, oldest first.
    #[must_use]
    pub fn snapshots(&self) -> Vec<Snapshot> {
        let snapshots = self.inner.store.snapshots();
        snapshots.iter().map(|s| Snapshot::of(s)).collect()
    }

    /// The snapshots, oldest first, with the bytes of file data, as they are stored, that each
    /// alone holds: what deleting it would give back. The time it takes grows with what was changed
    /// since the oldest.
    pub fn snapshots_held(&self) -> Result<Vec<(Snapshot, u64)>> {
        let held = self.inner.store.held_by_snapshots()?;
        let of = |s: Snapshot| (held.get(&s.id).copied().unwrap_or(0), s);
        let both = self.snapshots().into_iter().map(of);
        Ok(both.map(|(held, snapshot)| (snapshot, held)).collect())
    }

    /// Deletes a snapshot; fails with [`crate::Error::NotFound`] if there is none of this name. It
    /// is gone, on the disk too, when this returns; what only it held is given back in the
    /// background, once nobody looks at it any more.
    pub fn delete_snapshot(&self, name: impl AsRef<str>) -> Result<()> {
        check_known(name.as_ref())?;
        self.inner.store.give_up(name.as_ref().as_bytes()).map(drop)
    }

    /// The volume as a snapshot shows it, for reading. It stays even if it is deleted, until the
    /// last clone of this is dropped; closing it does nothing.
    pub fn at_snapshot(&self, name: impl AsRef<str>) -> Result<Self> {
        check_known(name.as_ref())?;
        let inner = Arc::new(self.inner.snapshot(name.as_ref())?);
        Ok(Self { inner })
    }

    /// Takes the whole volume back to a snapshot, in place, and answers a snapshot of what it was
    /// until now, to which one can go back as well. All of it is on the disk when this returns, and
    /// after a crash it has happened as a whole or not at all. It takes no time that grows with the
    /// volume.
    ///
    /// Files that are open go on: those that the snapshot has show what it has; those that it does
    /// not have can be read as they were, until the snapshot of that is deleted, and everything
    /// else fails with [`crate::Error::RolledBack`]. That holds for the last eight rollbacks since
    /// the volume was opened.
    pub fn rollback(&self, to: impl AsRef<str>) -> Result<Snapshot> {
        check_known(to.as_ref())?;
        let safety = self.safety_name(BEFORE_ROLLBACK);
        let taken = self.inner.roll_back(to.as_ref(), &safety)?;
        Ok(Snapshot::of(&taken))
    }

    /// What differs from the state that this shows to the one that `newer` shows, ordered by path:
    /// either is the volume itself or one of its snapshots ([`Volume::at_snapshot`]); fails with
    /// [`crate::Error::Invalid`] if they are not of one volume. Files are told apart by inode, so
    /// what was renamed is found as such, and names below a directory that was renamed are no
    /// differences. A name that leads to another file of the same kind is one that has changed. The
    /// time it takes grows with what was changed, not with the volume, and so does the memory.
    pub fn diff(&self, newer: &Self) -> Result<Vec<Change>> {
        self.inner.diff(&newer.inner)
    }

    /// What is not as in `before`, a snapshot of this volume, of all that somebody holds
    /// ([`Volume::pin`]): for who has handed out names and attributes that others remember.
    pub fn stale_since(&self, before: &Self) -> Result<Stale> {
        self.inner.stale_since(&before.inner)
    }

    /// All names that an inode has now, by their directories; none of the root.
    pub fn names_of(&self, ino: Ino) -> Result<Vec<(Ino, Box<[u8]>)>> {
        self.inner.names_of(ino)
    }

    /// What the volume was before something came of which a snapshot was taken at once, as it is
    /// when a stream is received, or an older state: for [`Volume::stale_since`] only, where nobody
    /// knows what was before.
    pub fn before_snapshot(&self, name: impl AsRef<str>) -> Result<Self> {
        check_known(name.as_ref())?;
        let inner = Arc::new(self.inner.before_snapshot(name.as_ref())?);
        Ok(Self { inner })
    }

    /// A name that says what the snapshot is, and that none has.
    pub(super) fn safety_name(&self, what: &str) -> String {
        let now = self.inner.store.env.now();
        let taken = self.snapshots();
        let base = format!("{what}{}", utc(now / 1_000_000_000));
        let tries = (1u32..).map(|n| match n {
            1 => base.clone(),
            _ => format!("{base}-{n}"),
        });
        let branches = self.branches();
        let is_free = |name: &String| {
            taken.iter().all(|s| s.name != *name) && branches.iter().all(|b| b.name != *name)
        };
        let mut free = tries.filter(is_free);
        match free.next() {
            Some(name) => name,
            None => unreachable!("there are more numbers than snapshots"),
        }
    }
}

/// A time in seconds since 1970 as `20261130T054213Z`. Days become a date by the algorithm of
/// Howard Hinnant (`civil_from_days`).
fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}{month:02}{date:02}T{hour:02}{minute:02}{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn times_have_names_that_sort() {
        assert_eq!(utc(0), "19700101T000000Z");
        assert_eq!(utc(951_782_400), "20000229T000000Z");
        assert_eq!(utc(1_796_016_133), "20261130T052213Z");
        assert_eq!(utc(4_107_542_399), "21000228T235959Z");
    }
}
