//! The volume: what programs and the FUSE layer call, by inode.

use std::path::Path;
use std::sync::Arc;

use razorfs_disk::os::{OsDisk, OsEnv};
use razorfs_disk::{Disk, Env};
use razorfs_format::record::Inode;

use crate::namespace::{LogEntry, Namespace, Spot};
use crate::store::Store;
use crate::{
    AllocateMode, Atime, CreateOptions, Dir, Entry, Error, Info, Ino, NewNode, Options,
    RecoverySummary, RenameMode, Result, ScrubStatus, SeekFor, SetAttributes, Stat, Stats, Step,
    VolumeSpace, XattrMode,
};

/// An open volume. Clones are the same volume; any thread may call anything at any time.
///
/// Every call that changes something happens as a whole or not at all, also across a crash. When
/// it is on the disk depends on [`crate::Durability`]: with `Sync` it is when the call returns,
/// otherwise after the next [`Volume::sync`], and within a second anyway.
///
/// Names are any bytes but `/` and NUL, 1 to 255 of them. Permissions are not checked here; the
/// append-only and immutable flags are.
#[derive(Clone)]
pub struct Volume {
    pub(crate) inner: Arc<Namespace>,
}

/// Making, opening and closing.
impl Volume {
    /// Creates a volume in the directory `path`, which is made if it is missing and must hold no
    /// volume yet. The volume is durable when this returns; what a creation that was interrupted
    /// has left is removed first.
    pub fn create(path: impl AsRef<Path>, options: &CreateOptions) -> Result<()> {
        let disk = Arc::new(OsDisk::create(path)?);
        Self::create_on(disk, Arc::new(OsEnv), options)
    }

    /// Opens the volume in the directory `path`, and recovers it if it was not closed. Fails with
    /// [`Error::Locked`] while another process has it: where that may be the daemon of a mount, the
    /// crate `razorfs-client` opens it or connects.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Self> {
        Self::open_on(Arc::new(OsDisk::new(path)), Arc::new(OsEnv), options)
    }

    /// Opens the volume in the directory `path`, and creates it first if it is missing.
    pub fn open_or_create(path: impl AsRef<Path>, options: Options) -> Result<Self> {
        let path = path.as_ref();
        match Self::create(path, &CreateOptions::from(&options)) {
            Ok(()) | Err(Error::Exists | Error::Locked(_)) => {}
            Err(e) => return Err(e),
        }
        Self::open(path, options)
    }

    /// Whether [`Volume::create`] finds neither a volume in the directory `path` nor files that
    /// may be left of one. What an interrupted creation has left does not count.
    pub fn may_create(path: impl AsRef<Path>) -> Result<bool> {
        crate::recovery::is_free(&OsDisk::new(path))
    }

    /// Creates a volume on a disk.
    pub fn create_on(
        disk: Arc<dyn Disk>,
        env: Arc<dyn Env>,
        options: &CreateOptions,
    ) -> Result<()> {
        Store::create(&disk, &env, options)
    }

    /// Opens the volume on a disk.
    pub fn open_on(disk: Arc<dyn Disk>, env: Arc<dyn Env>, options: Options) -> Result<Self> {
        let store = Store::open(disk, env, &options)?;
        let inner = Arc::new(Namespace::new(store)?);
        // Where the host is full the next opening does it; the volume is as it should be without.
        if let Err(e) = inner.remove_leftovers() {
            tracing::warn!(error = %e, "what a commit of a branch has left is not removed yet");
        }
        let weak = Arc::downgrade(&inner);
        inner.store.start(Box::new(move || match weak.upgrade() {
            Some(namespace) => namespace.reap_any(),
            None => Ok(false),
        }))?;
        Ok(Self { inner })
    }

    /// A new volume on a simulated disk that is stepped by the test.
    #[cfg(test)]
    pub(crate) fn for_tests(options: Options) -> Self {
        Self::on_sim(Options {
            threads: false,
            ..options
        })
    }

    /// A new volume on a simulated disk.
    #[cfg(test)]
    pub(crate) fn on_sim(options: Options) -> Self {
        use razorfs_disk::sim::{SimDisk, SimEnv};
        let (disk, env) = (Arc::new(SimDisk::new()), Arc::new(SimEnv::new(1)));
        let create = CreateOptions::from(&options);
        let created = Self::create_on(disk.clone(), env.clone(), &create);
        match created.and_then(|()| Self::open_on(disk, env, options)) {
            Ok(volume) => volume,
            Err(e) => panic!("a new volume: {e}"),
        }
    }

    /// Writes everything to the disk, marks the volume as properly closed and lets go of it.
    /// Dropping the last clone without it is safe too, but the next opening has to recover.
    ///
    /// A branch ([`Volume::branch`]) is synced, and the volume stays open.
    pub fn close(self) -> Result<()> {
        if self.branch_name().is_some() {
            return self.sync();
        }
        self.inner.store.close()
    }
}

/// Names.
impl Volume {
    /// What `name` in the directory `parent` leads to; knows `.` and `..`.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Stat> {
        self.inner.lookup(parent, name)
    }

    /// The inode that a path from the root leads to. `.` and `..` are understood, symbolic links
    /// are not followed.
    pub fn find_by_path(&self, path: &[u8]) -> Result<Ino> {
        self.inner.find_by_path(path)
    }

    /// The record of an inode.
    pub fn find_by_inode(&self, ino: Ino) -> Result<Inode> {
        self.inner.find_by_inode(ino)
    }

    /// Creates an inode of any kind; fails with [`crate::Error::Exists`] if the name is taken.
    pub fn create_node(&self, parent: Ino, name: &[u8], node: &NewNode<'_>) -> Result<Stat> {
        self.inner.create_node(parent, name, node)
    }

    /// Creates a regular file without a name, as `O_TMPFILE` does. It goes when its last holder
    /// lets go ([`Volume::unpin`]), unless it was linked by then.
    pub fn create_unnamed(&self, parent: Ino, node: &NewNode<'_>) -> Result<Stat> {
        self.inner.create_unnamed(parent, node)
    }

    /// Gives a file that is not a directory one more name.
    pub fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Stat> {
        self.inner.link(ino, parent, name)
    }

    /// Removes a name of anything but a directory, and with the last name the file, unless it is
    /// held open.
    pub fn unlink(&self, parent: Ino, name: &[u8]) -> Result<()> {
        self.inner.unlink(parent, name)
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<()> {
        self.inner.rmdir(parent, name)
    }

    /// Moves a name. If `new_name` exists, `mode` says what happens.
    pub fn rename(
        &self,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<()> {
        let from = Spot { dir: parent, name };
        let to = Spot {
            dir: new_parent,
            name: new_name,
        };
        self.inner.rename(from, to, mode)
    }

    /// Hands the entries of a directory after a cookie (0 for all) to `each`, until it answers
    /// false. `.` and `..` are not among them. An entry that is there all the time is handed out
    /// exactly once, whatever else changes between the calls. `each` may call the volume.
    pub fn collect_children(
        &self,
        dir: Ino,
        after_cookie: u64,
        each: &mut dyn FnMut(Entry) -> bool,
    ) -> Result<()> {
        self.inner.collect_children(dir, after_cookie, each)
    }

    /// The directory that holds a directory; the root holds itself.
    pub fn parent_of(&self, dir: Ino) -> Result<Ino> {
        self.inner.parent_of(dir)
    }
}

/// Attributes.
impl Volume {
    /// What `stat` tells of an inode.
    pub fn stat(&self, ino: Ino) -> Result<Stat> {
        self.inner.stat(ino)
    }

    /// [`Volume::stat`] by the name of the tree interface.
    pub fn node_to_stat(&self, ino: Ino) -> Result<Stat> {
        self.stat(ino)
    }

    /// Changes attributes; with a size, truncates or extends with a hole.
    pub fn set_attributes(&self, ino: Ino, set: &SetAttributes) -> Result<Stat> {
        self.inner.set_attributes(ino, set)
    }

    /// What reading does to times of access from now on; nothing, as long as this is not called.
    pub fn set_atime(&self, policy: Atime) {
        self.inner.set_atime(policy);
    }

    /// Somebody has read the inode: sets its time of access if the policy says so. No call that
    /// reads does that by itself. Nobody waits for it, and where nothing can be written it is left
    /// out.
    pub fn accessed(&self, ino: Ino) {
        self.inner.accessed(ino);
    }

    /// Target of a symbolic link.
    pub fn read_link(&self, ino: Ino) -> Result<Box<[u8]>> {
        self.inner.read_link(ino)
    }

    /// Value of an extended attribute.
    pub fn get_xattr(&self, ino: Ino, name: &[u8]) -> Result<Box<[u8]>> {
        self.inner.get_xattr(ino, name)
    }

    /// Sets an extended attribute: name up to 255 bytes, value up to 64 KiB.
    pub fn set_xattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        self.inner.set_xattr(ino, name, value, mode)
    }

    /// Names of the extended attributes, in no order that means anything.
    pub fn list_xattr(&self, ino: Ino) -> Result<Vec<Box<[u8]>>> {
        self.inner.list_xattr(ino)
    }

    /// Removes an extended attribute.
    pub fn remove_xattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        self.inner.remove_xattr(ino, name)
    }
}

/// Bytes of regular files.
impl Volume {
    /// Reads at `offset` until `buf` is full or the file ends; answers how much that was.
    pub fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.inner.read(ino, offset, buf)
    }

    /// Writes at `offset`, extending the file where needed. Answers how much was written: all,
    /// unless the file would pass the largest offset. Up to 1 MiB is written as a whole or not at
    /// all; more, as several such writes in order.
    pub fn write(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<usize> {
        self.inner.write(ino, offset, data)
    }

    /// Writes at the end, wherever that is by then; answers the offset.
    pub fn append(&self, ino: Ino, data: &[u8]) -> Result<u64> {
        self.inner.append(ino, data)
    }

    /// Reserves, punches or zeroes a range.
    pub fn allocate(&self, ino: Ino, mode: AllocateMode, offset: u64, len: u64) -> Result<()> {
        self.inner.allocate(ino, mode, offset, len)
    }

    /// The next data, or the next hole, at or after `offset`.
    pub fn seek(&self, ino: Ino, offset: u64, what: SeekFor) -> Result<u64> {
        self.inner.seek(ino, offset, what)
    }

    /// Copies bytes between files, or between ranges of one that do not overlap; answers how many.
    /// What stands in packs is shared and not copied, so that it takes no space until one of both
    /// is written over; that is all that was synced. Up to 1 MiB is copied wholly or not at all.
    pub fn copy_range(
        &self,
        from: Ino,
        from_off: u64,
        to: Ino,
        to_off: u64,
        len: u64,
    ) -> Result<u64> {
        self.inner.copy_range(from, from_off, to, to_off, len)
    }

    /// Takes a range out of a file, as `FALLOC_FL_COLLAPSE_RANGE` does: see
    /// [`File::collapse_range`](crate::File::collapse_range).
    pub fn collapse_range(&self, ino: Ino, offset: u64, len: u64) -> Result<()> {
        self.inner.collapse_range(ino, offset, len)
    }

    /// Puts a hole into a file, as `FALLOC_FL_INSERT_RANGE` does: see
    /// [`File::insert_range`](crate::File::insert_range).
    pub fn insert_range(&self, ino: Ino, offset: u64, len: u64) -> Result<()> {
        self.inner.insert_range(ino, offset, len)
    }

    /// `n` more holders of an inode: while it has any, it stays, even without a name.
    pub fn pin(&self, ino: Ino, n: u64) {
        self.inner.pin(ino, n);
    }

    /// `n` holders fewer.
    pub fn unpin(&self, ino: Ino, n: u64) {
        self.inner.unpin(ino, n);
    }
}

/// Going on where a process has died ([`Options::redo`]).
impl Volume {
    /// Whether the request of this number ([`crate::redo::as_request`]) was carried out, by this
    /// process or one before it, and its answer may not have been sent; with what that tells: the
    /// inode that it made, how many bytes it copied, or 0.
    #[must_use]
    pub fn applied(&self, request: u64) -> Option<u64> {
        self.inner.noted().and_then(|redo| redo.applied(request))
    }

    /// The nameless inodes that would be removed if those who used the volume by the process that
    /// died did not hold them, which only they can tell.
    #[must_use]
    pub fn doubtful(&self) -> Vec<Ino> {
        self.inner.doubtful()
    }

    /// They hold this one.
    pub fn held(&self, ino: Ino) {
        self.inner.held(ino);
    }

    /// They do not hold this one: it goes, unless somebody has pinned it since, or a request has
    /// made it whose answer they may not have had.
    pub fn not_held(&self, ino: Ino) -> bool {
        self.inner.not_held(ino)
    }

    /// Whatever they had asked for without having had an answer was asked for again by now, and
    /// answered, so that they know of all that was made for them.
    pub fn all_came_again(&self) {
        self.inner.all_came_again();
    }

    /// Users come, after others or as the first.
    pub fn somebody_comes(&self) {
        self.inner.somebody_comes();
    }

    /// All of them have come ([`Volume::somebody_comes`]) who go on from before, here or to
    /// branches that are open: nobody holds anything in what is opened from here on, or here if
    /// none came.
    pub fn all_have_come(&self) {
        self.inner.all_have_come();
    }

    /// They hold nothing any more. Without that, what a volume that is closed has in
    /// [`Options::redo`] stays for whoever goes on for them.
    pub fn nobody_is_left(&self) {
        self.inner.nobody_is_left();
    }
}

/// Paths.
impl Volume {
    /// The root directory, where the calls by path begin.
    #[must_use]
    pub fn root(&self) -> Dir {
        Dir::new(self.clone(), Ino::ROOT)
    }
}

/// The disk, and what the volume tells of itself.
impl Volume {
    /// Everything done before is on the disk on return.
    pub fn sync(&self) -> Result<()> {
        self.inner.store.sync()
    }

    /// Calls `done`, from another thread, as soon as everything done before is on the disk.
    pub fn sync_then(&self, done: Box<dyn FnOnce(Result<()>) + Send>) {
        self.inner.store.sync_then(done);
    }

    /// Cuts the volume off from its disk: what is not durable by now never becomes so, and every
    /// later change fails. To see what a crash at this moment leaves, let go of the volume, which
    /// then cannot be closed properly, and open it again.
    pub fn shut_down(&self) {
        self.inner.store.shut_down();
    }

    /// Has every later write refused with [`Error::Failed`], which names the reason, as after an
    /// error of the disk: for who finds that what is in RAM cannot be trusted any more. What is on
    /// the disk stays as it is, and the next opening recovers it.
    pub fn refuse_writes(&self, why: &str) {
        self.inner.store.fail(&Error::Failed(why.into()));
    }

    /// Writes everything to where it stays, so that the next opening has nothing to replay.
    pub fn checkpoint(&self) -> Result<()> {
        self.inner.store.checkpoint()
    }

    /// Does one step of background work, for volumes opened without threads. Answers whether there
    /// was anything to do.
    pub fn step(&self, step: Step) -> Result<bool> {
        match step {
            Step::Reap => self.inner.reap_step(),
            _ => self.inner.store.step(step),
        }
    }

    /// Space of the volume.
    pub fn space(&self) -> Result<VolumeSpace> {
        self.inner.store.space()
    }

    /// What was done, oldest first, from the batch `from` on, as far as it is durable and the
    /// journal still has it; and the batch that comes next. A journal file is used again once a
    /// checkpoint has made it unneeded.
    pub fn log(&self, from: u64) -> Result<(Vec<LogEntry>, u64)> {
        self.inner.log(from)
    }

    /// Counts since the volume was opened.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            orphans: self.inner.waiting_for_reaper(),
            ..self.inner.store.stats()
        }
    }

    /// Brings everything that was done to the disk and holds the volume still while `look` reads
    /// its files: nothing is written, removed or recycled meanwhile. What programs change waits in
    /// RAM, and for long, where that is full.
    pub fn hold_still<R>(&self, look: impl FnOnce(&dyn Disk) -> R) -> Result<R> {
        self.inner.store.hold_still(look)
    }

    /// What the volume is.
    #[must_use]
    pub fn info(&self) -> Info {
        self.inner.store.info()
    }

    /// Begins to read everything that the volume stores, in the background, to heal what can be
    /// healed and to tell what cannot, at `rate` bytes a second at most; 0: as many as there are.
    /// One that was paused or interrupted goes on; one that is running gets the rate.
    pub fn scrub_start(&self, rate: u64) -> Result<()> {
        self.inner.store.scrub().scrub_start(rate)
    }

    /// Stops a scrub for a while, also if the volume is closed meanwhile; answers whether one was
    /// running.
    pub fn scrub_pause(&self) -> Result<bool> {
        self.inner.store.scrub().scrub_pause()
    }

    /// Goes on with a scrub that was paused; `None`: at the rate that it had.
    pub fn scrub_resume(&self, rate: Option<u64>) -> Result<()> {
        self.inner.store.scrub().scrub_resume(rate)
    }

    /// How far the scrub is, and what it or the last one found.
    #[must_use]
    pub fn scrub_status(&self) -> ScrubStatus {
        self.inner.store.scrub().scrub_status()
    }

    /// What recovery found when the volume was opened.
    #[must_use]
    pub fn recovery_report(&self) -> &RecoverySummary {
        self.inner.store.recovery()
    }
}
