//! Several changes that happen together or not at all.

use std::path::{Path, PathBuf};

use razorfs_format::op::OpType;

use super::{Dir, bytes};
use crate::namespace::{Hint, Operation};
use crate::{Durability, Error, Ino, RenameMode, Result, SetAttributes};

/// Changes to any number of files, recorded here and done by [`Transaction::commit`]: all of them,
/// in order, in one batch of the journal, or none. Nobody ever sees a part of them, also not after
/// a crash. Together they hold at most 64 MiB of data.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let volume = razorfs::Volume::open_or_create(dir.path().join("v"), Default::default())?;
/// let fs = volume.root();
/// fs.write("a", b"old")?;
/// let mut tx = fs.transaction();
/// tx.write("a", b"new")?;
/// tx.remove_file("missing")?;
/// assert!(tx.commit(razorfs::Durability::Async).is_err());
/// assert_eq!(fs.read("a")?, b"old"); // nothing has happened
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "nothing happens before `commit`"]
pub struct Transaction {
    dir: Dir,
    steps: Vec<Step>,
}

enum Step {
    CreateDir(PathBuf),
    CreateDirAll(PathBuf),
    Write(PathBuf, Vec<u8>),
    RemoveFile(PathBuf),
    RemoveDir(PathBuf),
    RemoveDirAll(PathBuf),
    Rename(PathBuf, PathBuf, RenameMode),
    HardLink(PathBuf, PathBuf),
    Symlink(PathBuf, PathBuf),
    SetPermissions(PathBuf, u32),
}

impl Step {
    fn run<'a>(&'a self, op: &mut Operation<'a>, base: Ino) -> Result<()> {
        match self {
            Self::CreateDir(path) => op.make_dir(base, bytes(path), 0o755).map(drop),
            Self::CreateDirAll(path) => op.make_dirs(base, bytes(path), 0o755).map(drop),
            Self::Write(path, data) => op.write_file(base, bytes(path), data),
            Self::RemoveFile(path) => op.remove_file(base, bytes(path)),
            Self::RemoveDir(path) => op.remove_dir(base, bytes(path)),
            Self::RemoveDirAll(path) => op.remove_dir_all(base, bytes(path)),
            Self::Rename(from, to, mode) => op.rename_path(base, bytes(from), bytes(to), *mode),
            Self::HardLink(original, link) => op.hard_link(base, bytes(original), bytes(link)),
            Self::Symlink(target, link) => op.symlink(base, bytes(target), bytes(link)),
            Self::SetPermissions(path, mode) => {
                let set = SetAttributes {
                    mode: Some(*mode),
                    ..SetAttributes::default()
                };
                op.set_by_path(base, bytes(path), &set)
            }
        }
    }
}

impl Step {
    /// The paths that it works on.
    fn hints(&self, base: Ino) -> impl Iterator<Item = Hint<'_>> {
        let (first, second, renames) = match self {
            Self::Write(path, _) | Self::SetPermissions(path, _) => (path, None, false),
            Self::CreateDir(path)
            | Self::CreateDirAll(path)
            | Self::RemoveFile(path)
            | Self::RemoveDir(path)
            | Self::RemoveDirAll(path)
            | Self::Symlink(_, path) => (path, None, true),
            Self::Rename(a, b, _) | Self::HardLink(a, b) => (a, Some(b), true),
        };
        let paths = std::iter::once(first).chain(second);
        paths.map(move |path| Hint {
            base,
            path: bytes(path),
            renames,
        })
    }
}

impl Transaction {
    pub(super) const fn new(dir: Dir) -> Self {
        Self {
            dir,
            steps: Vec::new(),
        }
    }

    fn push(&mut self, step: Step, paths: &[&Path]) -> Result<()> {
        if paths.iter().any(|path| path.as_os_str().is_empty()) {
            return Err(Error::NotFound);
        }
        self.steps.push(step);
        Ok(())
    }

    /// Creates a directory.
    pub fn create_dir(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        self.push(Step::CreateDir(path.into()), &[path])
    }

    /// Creates a directory and all that are missing on the way to it.
    pub fn create_dir_all(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        self.push(Step::CreateDirAll(path.into()), &[path])
    }

    /// Makes `data` the content of a file, which is created if it is missing.
    pub fn write(&mut self, path: impl AsRef<Path>, data: impl Into<Vec<u8>>) -> Result<()> {
        let path = path.as_ref();
        self.push(Step::Write(path.into(), data.into()), &[path])
    }

    /// Removes a name of a file.
    pub fn remove_file(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        self.push(Step::RemoveFile(path.into()), &[path])
    }

    /// Removes an empty directory.
    pub fn remove_dir(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        self.push(Step::RemoveDir(path.into()), &[path])
    }

    /// Removes a directory and all below it.
    pub fn remove_dir_all(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        self.push(Step::RemoveDirAll(path.into()), &[path])
    }

    /// Moves a name, replacing a file or an empty directory that is there.
    pub fn rename(&mut self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
        self.rename_with(from, to, RenameMode::Replace)
    }

    /// Moves a name; `mode` says what becomes of one that is there.
    pub fn rename_with(
        &mut self,
        from: impl AsRef<Path>,
        to: impl AsRef<Path>,
        mode: RenameMode,
    ) -> Result<()> {
        let (from, to) = (from.as_ref(), to.as_ref());
        self.push(Step::Rename(from.into(), to.into(), mode), &[from, to])
    }

    /// Gives the file `original` one more name, `link`.
    pub fn hard_link(&mut self, original: impl AsRef<Path>, link: impl AsRef<Path>) -> Result<()> {
        let (original, link) = (original.as_ref(), link.as_ref());
        self.push(
            Step::HardLink(original.into(), link.into()),
            &[original, link],
        )
    }

    /// Creates a symbolic link at `link` that leads to `target`.
    pub fn symlink(&mut self, target: impl AsRef<Path>, link: impl AsRef<Path>) -> Result<()> {
        let (target, link) = (target.as_ref(), link.as_ref());
        self.push(Step::Symlink(target.into(), link.into()), &[target, link])
    }

    /// Sets permission bits.
    pub fn set_permissions(&mut self, path: impl AsRef<Path>, mode: u32) -> Result<()> {
        let path = path.as_ref();
        self.push(Step::SetPermissions(path.into(), mode), &[path])
    }

    /// Does all that was recorded, or nothing of it. With [`Durability::Synced`] it is on the disk
    /// on return, otherwise at the next sync; never in part.
    pub fn commit(self, durability: Durability) -> Result<()> {
        let volume = self.dir.volume();
        let base = self.dir.ino();
        let moves = self
            .steps
            .iter()
            .any(|step| matches!(step, Step::Rename(..)));
        commit_steps(&self.dir, &self.steps, base, moves)?;
        match durability {
            Durability::Sync => volume.sync(),
            Durability::Async | Durability::JournalOnly => Ok(()),
        }
    }
}

fn commit_steps<'a>(dir: &'a Dir, steps: &'a [Step], base: Ino, moves: bool) -> Result<()> {
    let mut hints = steps.iter().flat_map(|step| step.hints(base));
    let run = |op: &mut Operation<'a>| steps.iter().try_for_each(|step| step.run(op, base));
    dir.volume()
        .inner
        .transact(OpType::Transaction, moves, &mut hints, &run)
}
