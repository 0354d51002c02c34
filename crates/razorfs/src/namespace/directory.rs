//! Entries of directories.
//!
//! An entry's cookie is its key: the keyed hash of its name and the lowest collision number that
//! was free when it was added. So a lookup reads the few slots of one hash, and a listing goes on
//! after any cookie, whatever happened in between.

use razorfs_format::key::Key;
use razorfs_format::record::{Dirent, FileKind, Inode, NAME_MAX, inode_flags, name_cookie};
use razorfs_format::{Branch, Ino};

use super::Namespace;
use super::operation::{Held, Operation, PLACE, load_inode};
use crate::{Entry, Error, Result, Stat};

/// Slots of one hash.
const SLOTS: u64 = 256;
/// How often an entry that leads to a directory of another one is looked at anew.
const LOOKS: u32 = 16;
/// Entries that a listing takes from the store at a time.
const CHUNK: usize = 256;

/// Where a name is in a directory, or could be.
#[derive(Clone)]
pub(super) enum Slot {
    Taken(u64, Dirent),
    Free(u64),
}

/// Fails for what cannot be an entry's name. `.` and `..` pass.
pub(super) fn check_name(name: &[u8]) -> Result<()> {
    if name.is_empty() {
        return Err(Error::Invalid("the name is empty"));
    }
    if name.len() > NAME_MAX {
        return Err(Error::NameTooLong);
    }
    if name.iter().any(|b| matches!(b, b'/' | 0)) {
        return Err(Error::Invalid("the name contains a slash or a NUL"));
    }
    Ok(())
}

/// Fails if an entry says that an inode is of another kind than it is, as no operation leaves it.
/// Of directories that would lead round in circles: it is by its entry that one is told from a
/// file that may have several names.
pub(super) fn check_kind(ino: Ino, entry: FileKind, inode: FileKind) -> Result<()> {
    if entry == inode {
        return Ok(());
    }
    let what = "kind of an inode, by its entry and by itself";
    let got = format!("{inode:?}, inode {ino}");
    Err(PLACE.error(what, format!("{entry:?}"), got).into())
}

/// `.` and `..` exist in every directory without a record.
pub(super) fn is_dots(name: &[u8]) -> bool {
    matches!(name, b"." | b"..")
}

/// The keys of the entries whose names have one hash.
pub(super) fn slots(dir: Ino, first: u64) -> (Key, Key) {
    (
        Key::dirent(Branch::HEAD, dir, first),
        Key::dirent(Branch::HEAD, dir, first + SLOTS),
    )
}

impl Operation<'_> {
    /// The inode of a directory.
    pub(super) fn directory(&mut self, ino: Ino) -> Result<&Inode> {
        let inode = self.inode(ino)?;
        if inode.is_dir() {
            Ok(inode)
        } else {
            Err(Error::NotADirectory)
        }
    }

    /// The inode of a directory that still has a name, and so can get entries.
    pub(super) fn live_directory(&mut self, ino: Ino) -> Result<&Inode> {
        let inode = self.directory(ino)?;
        if inode.nlink == 0 {
            return Err(Error::NotFound);
        }
        Ok(inode)
    }

    /// Fails if entries of the directory may not be added or, with `removing`, removed.
    pub(super) fn check_entries_change(&mut self, dir: Ino, removing: bool) -> Result<()> {
        let flags = self.inode(dir)?.flags;
        if flags & inode_flags::IMMUTABLE != 0 {
            return Err(Error::NotPermitted("the directory is immutable"));
        }
        if removing && flags & inode_flags::APPEND != 0 {
            return Err(Error::NotPermitted("the directory is append-only"));
        }
        Ok(())
    }

    /// Fails if no name of the inode may be added, moved or removed.
    pub(super) fn check_names_change(&mut self, ino: Ino) -> Result<()> {
        if self.inode(ino)?.flags & (inode_flags::IMMUTABLE | inode_flags::APPEND) != 0 {
            return Err(Error::NotPermitted("the file is immutable or append-only"));
        }
        Ok(())
    }

    /// Where `name` is in `dir`, or where it would go.
    pub(super) fn find(&self, dir: Ino, name: &[u8]) -> Result<Slot> {
        let first = name_cookie(self.store.hash_key(), name);
        if let Some(slot) = self.remembered(dir, first, name) {
            return Ok(slot);
        }
        let mut slot = self.find_in_store(dir, first, name)?;
        if !self.is_as_stored(dir, first) {
            return Ok(slot);
        }
        // Whoever goes down to a directory that is in another one might come by again and again. No
        // operation leaves such an entry; but without the lock it may move between two looks.
        let mut looks = 0;
        while let Some(elsewhere) = self.leads_elsewhere(dir, &slot) {
            if looks == LOOKS {
                let what = "directory that an entry leads to, which is in another one";
                let (expected, got) = (format!("inode {dir}"), format!("inode {elsewhere}"));
                return Err(PLACE.error(what, expected, got).into());
            }
            looks += 1;
            slot = self.find_in_store(dir, first, name)?;
        }
        if self.held.has(dir) {
            self.dentries.remember(dir, first, name, &slot);
        }
        Ok(slot)
    }

    /// The directory that has what an entry leads to, if that is a directory and of another one.
    fn leads_elsewhere(&self, dir: Ino, slot: &Slot) -> Option<Ino> {
        let Slot::Taken(_, dirent) = slot else {
            return None;
        };
        if dirent.kind != FileKind::Directory {
            return None;
        }
        // One that cannot be read is an error of those who use it.
        let inode = load_inode(self.store, dirent.ino).ok()?;
        (inode.is_dir() && inode.parent != dir).then_some(inode.parent)
    }

    /// Hands a directory and all those above it to `each`, up to the root, until it answers false.
    /// Fails where they are a circle, as no operation leaves it (R. P. Brent's algorithm, 1980).
    pub(super) fn climb(
        &mut self,
        from: Ino,
        mut each: impl FnMut(Ino) -> Result<bool>,
    ) -> Result<()> {
        let (mut at, mut mark, mut steps, mut enough) = (from, from, 0u64, 1);
        while at != Ino::ROOT && at != Ino(0) && each(at)? {
            at = self.directory(at)?.parent;
            if at == mark {
                let what = "directories above this one";
                return Err(PLACE
                    .error(what, "the root", format!("inode {at} again"))
                    .into());
            }
            steps += 1;
            if steps == enough {
                (mark, steps, enough) = (at, 0, enough * 2);
            }
        }
        Ok(())
    }

    /// Where the name was found last, unless the transaction that this is has changed that.
    fn remembered(&self, dir: Ino, first: u64, name: &[u8]) -> Option<Slot> {
        let slot = self.dentries.get(dir, first, name)?;
        self.is_as_stored(dir, first).then_some(slot)
    }

    fn is_as_stored(&self, dir: Ino, first: u64) -> bool {
        let (from, to) = slots(dir, first);
        self.is_untouched(&from, &to)
    }

    /// The inode of a directory's entry as it was found last; its directory is not read then.
    pub(super) fn remembered_entry(&mut self, dir: Ino, name: &[u8]) -> Option<Dirent> {
        let first = name_cookie(self.store.hash_key(), name);
        match self.remembered(dir, first, name) {
            Some(Slot::Taken(_, dirent)) => {
                // Where there is an entry there is a directory.
                self.walk_through(dir);
                Some(dirent)
            }
            _ => None,
        }
    }

    fn find_in_store(&self, dir: Ino, first: u64, name: &[u8]) -> Result<Slot> {
        let (from, to) = slots(dir, first);
        let mut free = first;
        let mut found = None;
        self.scan(&from, &to, |key, value| {
            let cookie = key.second();
            if cookie == free {
                free += 1;
            }
            let dirent = Dirent::decode(value, PLACE)?;
            if *dirent.name == *name {
                found = Some(Slot::Taken(cookie, dirent));
            }
            Ok(found.is_none())
        })?;
        match found {
            Some(taken) => Ok(taken),
            None if free < first + SLOTS => Ok(Slot::Free(free)),
            None => Err(Error::NoSpace),
        }
    }

    /// The entry `name` of `dir`.
    pub(super) fn entry(&mut self, dir: Ino, name: &[u8]) -> Result<(u64, Dirent)> {
        check_name(name)?;
        self.directory(dir)?;
        match self.find(dir, name)? {
            Slot::Taken(cookie, dirent) => Ok((cookie, dirent)),
            Slot::Free(_) => Err(Error::NotFound),
        }
    }

    /// The inode that `name` in `dir` leads to, and what kind its entry says that it is; knows `.`
    /// and `..`.
    pub(super) fn walk(&mut self, dir: Ino, name: &[u8]) -> Result<(Ino, FileKind)> {
        let dirent = match name {
            b"." => return self.directory(dir).map(|_| (dir, FileKind::Directory)),
            b".." => {
                let parent = self.directory(dir)?.parent;
                return Ok((parent, FileKind::Directory));
            }
            _ => {
                check_name(name)?;
                match self.remembered_entry(dir, name) {
                    Some(dirent) => dirent,
                    None => self.entry(dir, name)?.1,
                }
            }
        };
        Ok((dirent.ino, dirent.kind))
    }

    /// Puts an entry into a free slot.
    pub(super) fn add_entry(&mut self, dir: Ino, cookie: u64, dirent: &Dirent) -> Result<()> {
        let key = Key::dirent(Branch::HEAD, dir, cookie);
        self.put_new(key, dirent.to_bytes());
        let now = self.now;
        let inode = self.change(dir)?;
        inode.entries += 1;
        if dirent.kind == FileKind::Directory {
            inode.nlink += 1;
        }
        (inode.mtime, inode.ctime) = (now, now);
        Ok(())
    }

    /// Takes an entry out.
    pub(super) fn remove_entry(&mut self, dir: Ino, cookie: u64, was: &Dirent) -> Result<()> {
        let kind = was.kind;
        self.del_told(Key::dirent(Branch::HEAD, dir, cookie), was.to_bytes());
        let now = self.now;
        let inode = self.change(dir)?;
        inode.entries = inode.entries.saturating_sub(1);
        if kind == FileKind::Directory {
            inode.nlink = inode.nlink.saturating_sub(1);
        }
        (inode.mtime, inode.ctime) = (now, now);
        Ok(())
    }

    /// Makes the entry lead to another inode.
    pub(super) fn redirect_entry(
        &mut self,
        dir: Ino,
        cookie: u64,
        from: FileKind,
        to: &Dirent,
    ) -> Result<()> {
        let key = Key::dirent(Branch::HEAD, dir, cookie);
        self.put(key, to.to_bytes());
        let now = self.now;
        let inode = self.change(dir)?;
        match (from, to.kind) {
            (FileKind::Directory, FileKind::Directory) => {}
            (FileKind::Directory, _) => inode.nlink = inode.nlink.saturating_sub(1),
            (_, FileKind::Directory) => inode.nlink += 1,
            _ => {}
        }
        (inode.mtime, inode.ctime) = (now, now);
        Ok(())
    }
}

impl Namespace {
    /// What `name` in `parent` leads to; knows `.` and `..`.
    pub(crate) fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Stat> {
        let (ino, kind) = self.step(parent, name)?;
        let stat = self.reader().stat(ino)?;
        check_kind(ino, kind, stat.kind())?;
        Ok(stat)
    }

    /// The inode that `name` in `dir` leads to, remembered for the next time, and its kind.
    fn step(&self, dir: Ino, name: &[u8]) -> Result<(Ino, FileKind)> {
        let _lock = self.locks.read(dir);
        let mut op = self.reader();
        op.held = Held::One(dir);
        op.walk(dir, name)
    }

    /// The entry `name` of `dir`, to know what to lock.
    pub(super) fn look(&self, dir: Ino, name: &[u8]) -> Option<Dirent> {
        let _lock = self.locks.read(dir);
        let mut op = self.reader();
        op.held = Held::One(dir);
        op.entry(dir, name).ok().map(|(_, dirent)| dirent)
    }

    /// The inode that a path leads to. Symbolic links are not followed.
    pub(crate) fn find_by_path(&self, path: &[u8]) -> Result<Ino> {
        let (mut at, mut kind) = (Ino::ROOT, FileKind::Directory);
        for name in path.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
            if kind != FileKind::Directory {
                return Err(Error::NotADirectory);
            }
            (at, kind) = self.step(at, name)?;
        }
        if path.last() == Some(&b'/') {
            self.reader().directory(at)?;
        }
        Ok(at)
    }

    /// The directory that holds a directory; the root holds itself.
    pub(crate) fn parent_of(&self, dir: Ino) -> Result<Ino> {
        Ok(self.reader().directory(dir)?.parent)
    }

    /// Hands the entries after a cookie to `each`, until it answers false.
    pub(crate) fn collect_children(
        &self,
        dir: Ino,
        after_cookie: u64,
        each: &mut dyn FnMut(Entry) -> bool,
    ) -> Result<()> {
        self.reader().directory(dir)?;
        let to = Key::dirent(Branch::HEAD, dir, u64::MAX);
        let mut after = after_cookie;
        loop {
            // No lock and no scan is open while `each` runs: it may call anything.
            let chunk = self.children_after(dir, after, &to)?;
            let full = chunk.len() == CHUNK;
            for entry in chunk {
                after = entry.cookie;
                if !each(entry) {
                    return Ok(());
                }
            }
            if !full {
                return Ok(());
            }
        }
    }

    fn children_after(&self, dir: Ino, after: u64, to: &Key) -> Result<Vec<Entry>> {
        let mut chunk = Vec::new();
        if after >= i64::MAX as u64 {
            return Ok(chunk);
        }
        let from = Key::dirent(Branch::HEAD, dir, after + 1);
        let _lock = self.locks.read(dir);
        self.reader().scan(&from, to, |key, value| {
            let Dirent { ino, kind, name } = Dirent::decode(value, PLACE)?;
            chunk.push(Entry {
                cookie: key.second(),
                ino,
                kind,
                name,
            });
            Ok(chunk.len() < CHUNK)
        })?;
        Ok(chunk)
    }
}
