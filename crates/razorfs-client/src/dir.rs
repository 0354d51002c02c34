//! A directory, and the calls by path below it.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use razorfs::{Durability, FileKind, Ino, Stat, XattrMode};

use crate::wire::{self, Request, Step};
use crate::{Client, File, OpenOptions};

/// A directory of a volume, by its path: if that leads elsewhere later, so does this.
#[derive(Clone)]
pub struct Dir {
    client: Client,
    path: PathBuf,
}

impl Dir {
    pub(crate) const fn new(client: Client, path: PathBuf) -> Self {
        Self { client, path }
    }

    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }

    /// The path from the root. An absolute path is from there already.
    pub(crate) fn full(&self, path: impl AsRef<Path>) -> PathBuf {
        self.path.join(path)
    }

    fn change(&self, step: Step) -> io::Result<()> {
        let request = Request::Change(vec![step], false);
        self.client.tell(request)
    }

    fn find(&self, path: &Path, follow: bool) -> io::Result<Stat> {
        let request = Request::Metadata(self.full(path), follow);
        self.client.ask(request, |get| get.stat())
    }

    /// The directory at `path`.
    pub fn open_dir(&self, path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        if self.metadata(path)?.kind() != FileKind::Directory {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self::new(self.client.clone(), self.full(path)))
    }

    /// Creates a directory; the one above it must exist.
    pub fn create_dir(&self, path: impl AsRef<Path>) -> io::Result<()> {
        self.change(Step::CreateDir(self.full(path)))
    }

    /// Creates a directory and all that are missing on the way to it.
    pub fn create_dir_all(&self, path: impl AsRef<Path>) -> io::Result<()> {
        self.change(Step::CreateDirAll(self.full(path)))
    }

    /// Makes `data` the content of a file, which is created if it is missing. What is too much for
    /// one message is written piece by piece, and then a crash may leave a part of it.
    pub fn write(&self, path: impl AsRef<Path>, data: impl AsRef<[u8]>) -> io::Result<()> {
        let (path, data) = (path.as_ref(), data.as_ref());
        if data.len() > crate::wire::PIECE {
            return self.create(path)?.write_at(data, 0);
        }
        self.change(Step::Write(self.full(path), data.to_vec()))
    }

    /// The content of a file.
    pub fn read(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        let mut file = OpenOptions::new().read(true).open(self, path)?;
        io::Read::read_to_end(&mut file, &mut content)?;
        Ok(content)
    }

    /// The content of a file that is UTF-8.
    pub fn read_to_string(&self, path: impl AsRef<Path>) -> io::Result<String> {
        String::from_utf8(self.read(path)?)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }

    /// Opens a file that exists, for reading.
    pub fn open(&self, path: impl AsRef<Path>) -> io::Result<File> {
        OpenOptions::new().read(true).open(self, path)
    }

    /// Opens a file for reading and writing, empty; it is created if it is missing.
    pub fn create(&self, path: impl AsRef<Path>) -> io::Result<File> {
        let options = OpenOptions::new().read(true).write(true);
        options.create(true).truncate(true).open(self, path)
    }

    /// Removes a name of a file, and with its last name the file.
    pub fn remove_file(&self, path: impl AsRef<Path>) -> io::Result<()> {
        self.change(Step::RemoveFile(self.full(path)))
    }

    /// Removes an empty directory.
    pub fn remove_dir(&self, path: impl AsRef<Path>) -> io::Result<()> {
        self.change(Step::RemoveDir(self.full(path)))
    }

    /// Removes a directory and all below it, as one operation.
    pub fn remove_dir_all(&self, path: impl AsRef<Path>) -> io::Result<()> {
        self.change(Step::RemoveDirAll(self.full(path)))
    }

    /// Moves a name, replacing a file or an empty directory that is there.
    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
        self.change(Step::Rename(self.full(from), self.full(to)))
    }

    /// Moves a name; fails with `AlreadyExists` if something is there.
    pub fn rename_new(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
        self.change(Step::RenameNew(self.full(from), self.full(to)))
    }

    /// Swaps what two names lead to.
    pub fn exchange(&self, a: impl AsRef<Path>, b: impl AsRef<Path>) -> io::Result<()> {
        self.change(Step::Exchange(self.full(a), self.full(b)))
    }

    /// Gives the file `original` one more name, `link`.
    pub fn hard_link(&self, original: impl AsRef<Path>, link: impl AsRef<Path>) -> io::Result<()> {
        self.change(Step::HardLink(self.full(original), self.full(link)))
    }

    /// Creates a symbolic link at `link` that leads to `target`.
    pub fn symlink(&self, target: impl AsRef<Path>, link: impl AsRef<Path>) -> io::Result<()> {
        self.change(Step::Symlink(target.as_ref().into(), self.full(link)))
    }

    /// Where a symbolic link leads.
    pub fn read_link(&self, path: impl AsRef<Path>) -> io::Result<PathBuf> {
        let request = Request::ReadLink(self.full(path));
        Ok(self.client.ask(request, |get| get.os_string())?.into())
    }

    /// What is known of a file; symbolic links are followed.
    pub fn metadata(&self, path: impl AsRef<Path>) -> io::Result<Stat> {
        self.find(path.as_ref(), true)
    }

    /// What is known of a file; a last symbolic link is not followed.
    pub fn symlink_metadata(&self, path: impl AsRef<Path>) -> io::Result<Stat> {
        self.find(path.as_ref(), false)
    }

    /// Whether something is there; symbolic links are followed.
    pub fn exists(&self, path: impl AsRef<Path>) -> io::Result<bool> {
        use io::ErrorKind::{NotADirectory, NotFound};
        match self.metadata(path) {
            Ok(_) => Ok(true),
            Err(e) if matches!(e.kind(), NotFound | NotADirectory) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// The entries of a directory.
    pub fn read_dir(&self, path: impl AsRef<Path>) -> io::Result<ReadDir> {
        let mut entries = ReadDir {
            dir: self.open_dir(path)?,
            some: VecDeque::new(),
            after: 0,
            is_all: false,
        };
        entries.more()?;
        Ok(entries)
    }

    /// Sets permission bits; symbolic links are followed.
    pub fn set_permissions(&self, path: impl AsRef<Path>, mode: u32) -> io::Result<()> {
        self.change(Step::SetPermissions(self.full(path), mode))
    }

    /// An extended attribute, such as `user.comment`; symbolic links are followed.
    pub fn xattr(&self, path: impl AsRef<Path>, name: impl AsRef<OsStr>) -> io::Result<Vec<u8>> {
        let request = Request::GetXattr(self.full(path), name.as_ref().as_bytes().into());
        self.client.ask(request, |get| get.vec())
    }

    /// The names of the extended attributes; symbolic links are followed.
    pub fn xattrs(&self, path: impl AsRef<Path>) -> io::Result<Vec<OsString>> {
        let request = Request::ListXattr(self.full(path));
        let names = |get: &mut wire::Get<'_>| get.list(wire::Get::os_string);
        self.client.ask(request, names)
    }

    /// Sets an extended attribute; symbolic links are followed.
    pub fn set_xattr(
        &self,
        path: impl AsRef<Path>,
        name: impl AsRef<OsStr>,
        value: impl AsRef<[u8]>,
        mode: XattrMode,
    ) -> io::Result<()> {
        let name = name.as_ref().as_bytes().into();
        let value = value.as_ref().into();
        let request = Request::SetXattr(self.full(path), name, value, mode);
        self.client.tell(request)
    }

    /// Removes an extended attribute; symbolic links are followed.
    pub fn remove_xattr(&self, path: impl AsRef<Path>, name: impl AsRef<OsStr>) -> io::Result<()> {
        let name = name.as_ref().as_bytes().into();
        let request = Request::RemoveXattr(self.full(path), name);
        self.client.tell(request)
    }

    /// Begins a transaction on paths from here.
    pub fn transaction(&self) -> Transaction {
        Transaction {
            dir: self.clone(),
            steps: Vec::new(),
        }
    }
}

/// An entry of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirEntry {
    pub(crate) name: OsString,
    pub(crate) ino: Ino,
    pub(crate) kind: FileKind,
}

impl DirEntry {
    /// Its name.
    #[must_use]
    pub fn file_name(&self) -> &OsStr {
        &self.name
    }

    /// Inode number.
    #[must_use]
    pub const fn ino(&self) -> Ino {
        self.ino
    }

    /// What it is.
    #[must_use]
    pub const fn kind(&self) -> FileKind {
        self.kind
    }
}

/// The entries of a directory, as they come.
pub struct ReadDir {
    dir: Dir,
    some: VecDeque<DirEntry>,
    after: u64,
    is_all: bool,
}

impl ReadDir {
    fn more(&mut self) -> io::Result<()> {
        let request = Request::ReadDir(self.dir.path.clone(), self.after);
        let some = self.dir.client.ask(request, wire::entries)?;
        self.is_all = some.is_empty();
        self.after = some.last().map_or(0, |(cookie, _)| *cookie);
        self.some = some.into_iter().map(|(_, entry)| entry).collect();
        Ok(())
    }
}

impl Iterator for ReadDir {
    type Item = io::Result<DirEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.some.is_empty()
            && !self.is_all
            && let Err(e) = self.more()
        {
            self.is_all = true;
            return Some(Err(e));
        }
        self.some.pop_front().map(Ok)
    }
}

/// Several changes that happen together or not at all, in the order in which they were told.
#[must_use = "nothing happens before `commit`"]
pub struct Transaction {
    dir: Dir,
    steps: Vec<Step>,
}

impl Transaction {
    /// Creates a directory.
    pub fn create_dir(&mut self, path: impl AsRef<Path>) {
        self.steps.push(Step::CreateDir(self.dir.full(path)));
    }

    /// Creates a directory and all that are missing on the way to it.
    pub fn create_dir_all(&mut self, path: impl AsRef<Path>) {
        self.steps.push(Step::CreateDirAll(self.dir.full(path)));
    }

    /// Makes `data` the content of a file.
    pub fn write(&mut self, path: impl AsRef<Path>, data: impl Into<Vec<u8>>) {
        let path = self.dir.full(path);
        self.steps.push(Step::Write(path, data.into()));
    }

    /// Removes a name of a file.
    pub fn remove_file(&mut self, path: impl AsRef<Path>) {
        self.steps.push(Step::RemoveFile(self.dir.full(path)));
    }

    /// Removes an empty directory.
    pub fn remove_dir(&mut self, path: impl AsRef<Path>) {
        self.steps.push(Step::RemoveDir(self.dir.full(path)));
    }

    /// Removes a directory and all below it.
    pub fn remove_dir_all(&mut self, path: impl AsRef<Path>) {
        self.steps.push(Step::RemoveDirAll(self.dir.full(path)));
    }

    /// Moves a name.
    pub fn rename(&mut self, from: impl AsRef<Path>, to: impl AsRef<Path>) {
        let (from, to) = (self.dir.full(from), self.dir.full(to));
        self.steps.push(Step::Rename(from, to));
    }

    /// Moves a name; all of it fails if something is there.
    pub fn rename_new(&mut self, from: impl AsRef<Path>, to: impl AsRef<Path>) {
        let (from, to) = (self.dir.full(from), self.dir.full(to));
        self.steps.push(Step::RenameNew(from, to));
    }

    /// Swaps what two names lead to.
    pub fn exchange(&mut self, a: impl AsRef<Path>, b: impl AsRef<Path>) {
        let (a, b) = (self.dir.full(a), self.dir.full(b));
        self.steps.push(Step::Exchange(a, b));
    }

    /// Gives a file one more name.
    pub fn hard_link(&mut self, original: impl AsRef<Path>, link: impl AsRef<Path>) {
        let (original, link) = (self.dir.full(original), self.dir.full(link));
        self.steps.push(Step::HardLink(original, link));
    }

    /// Creates a symbolic link.
    pub fn symlink(&mut self, target: impl AsRef<Path>, link: impl AsRef<Path>) {
        let target = target.as_ref().into();
        self.steps.push(Step::Symlink(target, self.dir.full(link)));
    }

    /// Sets permission bits.
    pub fn set_permissions(&mut self, path: impl AsRef<Path>, mode: u32) {
        let path = self.dir.full(path);
        self.steps.push(Step::SetPermissions(path, mode));
    }

    /// Does all of it, or none if one of the steps fails. All of it is one message of at most
    /// 16 MiB.
    pub fn commit(self, durability: Durability) -> io::Result<()> {
        let request = Request::Change(self.steps, durability == Durability::Sync);
        self.dir.client.tell(request)
    }
}
