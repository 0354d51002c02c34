//! The daemon's end of a connection.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use razorfs::library::OpenOptions;
use razorfs::{Dir, Durability, Error, File, FileKind, Ino, RenameMode, Stale, Volume};

use crate::others::{Kind, Moving, Others, Refusal};
use crate::seen::Seen;
use crate::wire::{self, How, PIECE, Put, Request, Step};

/// Files that one program may have open.
const MAX_FILES: usize = 4096;
/// Entries of a directory in one answer.
const MAX_ENTRIES: usize = 1024;

type Result<T> = std::result::Result<T, Refusal>;

/// Serves a program that has been greeted until it leaves or dies: what it has open is closed then,
/// and what it had asked for completely is done. `others` are told of what it changes before it is
/// answered itself.
///
/// An error is one of the connection, or says that the program asks for nothing that there is.
/// Where reading from it has a time limit, that is for the rest of a message, and not for the next.
pub fn serve(
    volume: &Volume,
    stream: &mut (impl Read + Write),
    others: &dyn Others,
) -> io::Result<()> {
    let mut program = Program::new(volume.clone(), others);
    while let Some(message) = wire::receive(stream)? {
        let request = Request::decode(&message);
        let request = request.ok_or_else(|| io::Error::other("an unknown request"))?;
        drop(message);
        wire::send(stream, &program.answer(request))?;
    }
    Ok(())
}

/// One that uses a volume.
pub(crate) struct Program<'a> {
    volume: Volume,
    root: Dir,
    files: BTreeMap<u32, File>,
    /// The largest number that one has had.
    latest: u32,
    others: &'a dyn Others,
}

impl<'a> Program<'a> {
    pub(crate) fn new(volume: Volume, others: &'a dyn Others) -> Self {
        Self {
            root: volume.root(),
            volume,
            files: BTreeMap::new(),
            latest: 0,
            others,
        }
    }

    /// Does what is asked for.
    pub(crate) fn answer(&mut self, request: Request) -> Vec<u8> {
        let mut answer = Put::default();
        answer.u32(0);
        if let Err(refusal) = self.carry_out(request, &mut answer) {
            answer = Put::default();
            answer.u32(refusal.errno.unsigned_abs());
            answer.out.extend_from_slice(refusal.text.as_bytes());
        }
        answer.out
    }

    fn carry_out(&mut self, request: Request, answer: &mut Put) -> Result<()> {
        match request {
            Request::Metadata(path, true) => answer.stat(self.root.metadata(path)?.stat()),
            Request::Metadata(path, false) => {
                answer.stat(self.root.symlink_metadata(path)?.stat());
            }
            Request::ReadLink(path) => {
                let target = self.root.read_link(path)?;
                answer.bytes(target.as_os_str().as_bytes());
            }
            Request::ReadDir(path, after) => self.read_dir(&path, after, answer)?,
            Request::Open(path, how) => answer.u32(self.open(&path, how)?),
            Request::Close(handle) => {
                self.file(handle)?;
                self.files.remove(&handle);
            }
            Request::Stat(handle) => answer.stat(self.file(handle)?.metadata()?.stat()),
            Request::ReadAt(handle, offset, len) => {
                let len = usize::try_from(len).unwrap_or(PIECE).min(PIECE);
                let mut bytes = vec![0; len];
                let read = self.file(handle)?.read_at(&mut bytes, offset)?;
                answer.bytes(bytes.get(..read).unwrap_or_default());
            }
            Request::WriteAt(handle, offset, data) => {
                let end = offset.saturating_add(data.len() as u64);
                self.change_file(handle, |_| end, |file| file.write_at(&data, offset))?;
            }
            Request::Append(handle, data) => {
                let more = data.len() as u64;
                answer.u64(self.change_file(
                    handle,
                    |size| size + more,
                    |file| Ok(self.volume.append(file.ino(), &data)? + more),
                )?);
            }
            Request::SetLen(handle, len) => {
                self.change_file(handle, |_| len, |file| file.set_len(len))?;
            }
            Request::Sync => self.volume.sync()?,
            Request::Change(steps, synced) => self.change(steps, synced)?,
            Request::GetXattr(path, name) => {
                let ino = self.root.metadata(path)?.ino();
                answer.bytes(&self.volume.get_xattr(ino, &name)?);
            }
            Request::ListXattr(path) => {
                let names = self.volume.list_xattr(self.root.metadata(path)?.ino())?;
                answer.list(&names, |put, name| put.bytes(name));
            }
            Request::SetXattr(path, name, value, mode) => {
                let ino = self.root.metadata(path)?.ino();
                let set = self.volume.set_xattr(ino, &name, &value, mode);
                self.tell(ino)?;
                set?;
            }
            Request::RemoveXattr(path, name) => {
                let ino = self.root.metadata(path)?.ino();
                let removed = self.volume.remove_xattr(ino, &name);
                self.tell(ino)?;
                removed?;
            }
            Request::List(kind) => self.list(kind, answer),
            Request::Create(kind, name) => self.create(kind, &name)?,
            Request::Delete(kind, name) => self.delete(kind, &name)?,
        }
        Ok(())
    }

    fn file(&self, handle: u32) -> Result<&File> {
        let file = self.files.get(&handle);
        Ok(file.ok_or(Error::Invalid("there is no such open file"))?)
    }

    fn open(&mut self, path: &Path, how: How) -> Result<u32> {
        if self.files.len() >= MAX_FILES {
            return Err(Refusal {
                errno: libc::EMFILE,
                text: format!("a program has {MAX_FILES} files open at most; close some"),
            });
        }
        let next = self.latest.checked_add(1).ok_or(Error::Invalid(
            "a connection has no more numbers for files; connect anew",
        ))?;
        let bit = |bit: u8| how.bits & bit != 0;
        let options = OpenOptions::new().read(bit(1)).write(bit(2)).append(bit(4));
        let options = options.truncate(bit(8)).create(bit(16)).create_new(bit(32));
        let options = options.mode(how.mode);
        let changes = bit(8) || bit(16) || bit(32);
        let mut seen = Seen::new(&self.volume, &self.root);
        if changes && self.others.are_there() {
            seen.look(path);
        }
        if let Ok(found) = self.root.metadata(path)
            && self.others.are_there()
            && found.is_file()
        {
            self.tell(found.ino())?;
        }
        let opened = options.open(&self.root, path);
        if changes && self.others.are_there() {
            seen.changed();
            seen.look(path);
            self.others.forget(&seen.stale());
        }
        let file = opened?;
        self.latest = next;
        self.files.insert(next, file);
        Ok(next)
    }

    fn read_dir(&self, path: &Path, after: u64, answer: &mut Put) -> Result<()> {
        let ino = self.root.metadata(path)?.ino();
        let mut all = Vec::new();
        self.volume.collect_children(ino, after, &mut |entry| {
            all.push(entry);
            all.len() < MAX_ENTRIES
        })?;
        answer.list(&all, |put, entry| {
            put.u64(entry.cookie);
            put.u64(entry.ino.0);
            put.u32(entry.kind.mode_bits());
            put.bytes(&entry.name);
        });
        Ok(())
    }

    /// Changes the content of a file; `needs` makes the size that it needs of the one that it has.
    fn change_file<T>(
        &self,
        handle: u32,
        needs: impl FnOnce(u64) -> u64,
        work: impl FnOnce(&File) -> razorfs::Result<T>,
    ) -> Result<T> {
        let file = self.file(handle)?;
        self.tell(file.ino())?;
        if self.others.are_there() {
            let size = self.volume.stat(file.ino())?.size;
            self.check_size(file.ino(), needs(size))?;
        }
        let done = work(file);
        // Also where it failed: a part may have been done.
        self.tell(file.ino())?;
        Ok(done?)
    }

    fn change(&self, steps: Vec<Step>, synced: bool) -> Result<()> {
        let watched = self.others.are_there();
        let mut seen = Seen::new(&self.volume, &self.root);
        // What is looked at afterwards: the data go to the transaction.
        let mut paths = Vec::new();
        let mut sizes = Vec::new();
        let mut transaction = self.root.transaction();
        for step in steps {
            if watched {
                seen.look_at(&step);
                paths.push(step.without_data());
            }
            match step {
                Step::CreateDir(path) => transaction.create_dir(path)?,
                Step::CreateDirAll(path) => transaction.create_dir_all(path)?,
                Step::Write(path, data) => {
                    sizes.push((path.clone(), data.len() as u64));
                    transaction.write(path, data)?;
                }
                Step::RemoveFile(path) => transaction.remove_file(path)?,
                Step::RemoveDir(path) => transaction.remove_dir(path)?,
                Step::RemoveDirAll(path) => transaction.remove_dir_all(path)?,
                Step::Rename(from, to) => transaction.rename(from, to)?,
                Step::RenameNew(from, to) => {
                    transaction.rename_with(from, to, RenameMode::NoReplace)?;
                }
                Step::Exchange(a, b) => transaction.rename_with(a, b, RenameMode::Exchange)?,
                Step::HardLink(original, link) => transaction.hard_link(original, link)?,
                Step::Symlink(target, link) => transaction.symlink(target, link)?,
                Step::SetPermissions(path, mode) => transaction.set_permissions(path, mode)?,
            }
        }
        if watched {
            self.others.forget(&seen.all());
            for (path, size) in sizes {
                if let Ok(found) = self.root.metadata(path)
                    && found.is_file()
                {
                    self.check_size(found.ino(), size)?;
                }
            }
        }
        let durability = match synced {
            true => Durability::Sync,
            false => Durability::Async,
        };
        let done = transaction.commit(durability);
        if watched {
            seen.changed();
            paths.iter().for_each(|step| seen.look_at(step));
            // Also where it failed: it may have been done, and not be durable.
            self.others.forget(&seen.stale());
        }
        Ok(done?)
    }

    /// What others remember of a file that is not a directory.
    fn of_file(&self, ino: Ino) -> Result<Stale> {
        let is_dir = match self.volume.stat(ino) {
            Ok(stat) => stat.kind() == FileKind::Directory,
            Err(Error::NotFound | Error::RolledBack) => false,
            Err(e) => return Err(e.into()),
        };
        let names = match is_dir {
            // Programs are in it.
            true => Vec::new(),
            false => self.volume.names_of(ino)?,
        };
        Ok(Stale {
            names,
            inodes: vec![ino],
            ..Stale::default()
        })
    }

    /// A file has changed, or is about to: what others hold back of it has to come before, as it
    /// would come later, over what is written now.
    fn tell(&self, ino: Ino) -> Result<()> {
        if self.others.are_there() {
            self.others.forget(&self.of_file(ino)?);
        }
        Ok(())
    }

    /// Refuses to make a file longer that somebody else has open. The kernel appends where it last
    /// knew the end to be (`O_APPEND` is for it to do), and cannot be told of another one: it would
    /// write over what is appended here.
    fn check_size(&self, ino: Ino, size: u64) -> Result<()> {
        if size <= self.volume.stat(ino)?.size || !self.others.have_open(ino) {
            return Ok(());
        }
        Err(Refusal {
            errno: libc::EBUSY,
            text: "a program in the mount has the file open, and would append where it ended \
                   before; write it there, or write a new file and rename it"
                .into(),
        })
    }

    fn list(&self, kind: Kind, answer: &mut Put) {
        match kind {
            Kind::Snapshot => answer.list(&self.volume.snapshots(), |put, s| {
                put.bytes(s.name.as_bytes());
                put.u64(s.id);
                put.time(s.time);
                put.u64(s.inodes);
                put.u64(s.bytes);
            }),
            Kind::Branch => answer.list(&self.volume.branches(), |put, b| {
                put.bytes(b.name.as_bytes());
                put.u64(b.id.into());
                put.time(b.time);
                put.u64(b.inodes);
                put.u64(b.bytes);
            }),
        }
    }

    fn create(&self, kind: Kind, name: &str) -> Result<()> {
        self.others.hand_over()?;
        let goes = false;
        self.others.moving(Moving { kind, name, goes }, &mut || {
            match kind {
                Kind::Snapshot => self.volume.snapshot(name).map(drop)?,
                Kind::Branch => self.volume.create_branch(name).map(drop)?,
            }
            Ok(())
        })
    }

    fn delete(&self, kind: Kind, name: &str) -> Result<()> {
        let goes = true;
        self.others.moving(Moving { kind, name, goes }, &mut || {
            match kind {
                Kind::Snapshot => self.volume.delete_snapshot(name)?,
                Kind::Branch => self.volume.delete_branch(name)?,
            }
            Ok(())
        })
    }
}
