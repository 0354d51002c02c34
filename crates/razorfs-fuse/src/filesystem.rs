//! What the server asks of a file system.

use razorfs::{
    AllocateMode, Entry, Ino, NewNode, RenameMode, Result, SeekFor, SetAttributes, Stat,
    VolumeSpace, XattrMode,
};

/// What is called when everything done before is durable, or cannot be made so.
pub type Synced = Box<dyn FnOnce(Result<()>) + Send>;

/// The inode level of a file system, as [`crate::Session`] serves it.
///
/// The kernel has checked permissions before (`default_permissions`), so that no method takes a
/// caller. Every method may be called from several threads at a time. None has a body here: a file
/// system over another one that does not hand something on is not to be told from one that does.
pub trait FileSystem: Send + Sync + 'static {
    /// The inode that `name` in `parent` leads to.
    fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Stat>;
    /// Attributes of an inode.
    fn stat(&self, ino: Ino) -> Result<Stat>;
    /// The directory above a directory; of the root, itself.
    fn parent_of(&self, dir: Ino) -> Result<Ino>;
    /// Makes a node; fails with `Exists` if there is one of that name.
    fn create_node(&self, parent: Ino, name: &[u8], node: &NewNode<'_>) -> Result<Stat>;
    /// Makes a node without a name, in the file system (and with the inheritance) of `parent`.
    fn create_unnamed(&self, parent: Ino, node: &NewNode<'_>) -> Result<Stat>;
    /// Gives an inode one more name.
    fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Stat>;
    /// Removes a name that is not a directory's.
    fn unlink(&self, parent: Ino, name: &[u8]) -> Result<()>;
    /// Removes an empty directory.
    fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<()>;
    /// Moves a name.
    fn rename(
        &self,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<()>;
    /// Changes attributes, all or none.
    fn set_attributes(&self, ino: Ino, changes: &SetAttributes) -> Result<Stat>;
    /// Somebody has read the inode, which may set its time of access.
    fn accessed(&self, ino: Ino);
    /// Target of a symbolic link.
    fn read_link(&self, ino: Ino) -> Result<Box<[u8]>>;
    /// Fills `buf` from `offset`; the number of bytes before the end of the file.
    fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize>;
    /// Writes; the number of bytes taken.
    fn write(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<usize>;
    /// `fallocate`.
    fn allocate(&self, ino: Ino, mode: AllocateMode, offset: u64, len: u64) -> Result<()>;
    /// The next data or hole.
    fn seek(&self, ino: Ino, offset: u64, what: SeekFor) -> Result<u64>;
    /// Copies within the file system; the number of bytes copied.
    fn copy_range(&self, from: Ino, from_off: u64, to: Ino, to_off: u64, len: u64) -> Result<u64>;
    /// Calls `each` for the entries after `after_cookie` (0: from the start), without `.` and
    /// `..`, until it says false.
    fn collect_children(
        &self,
        dir: Ino,
        after_cookie: u64,
        each: &mut dyn FnMut(Entry) -> bool,
    ) -> Result<()>;
    /// Value of an extended attribute.
    fn get_xattr(&self, ino: Ino, name: &[u8]) -> Result<Box<[u8]>>;
    /// Sets an extended attribute.
    fn set_xattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()>;
    /// Names of the extended attributes.
    fn list_xattr(&self, ino: Ino) -> Result<Vec<Box<[u8]>>>;
    /// Removes an extended attribute.
    fn remove_xattr(&self, ino: Ino, name: &[u8]) -> Result<()>;
    /// Space and number of inodes.
    fn space(&self) -> Result<VolumeSpace>;
    /// The kernel knows the inode `n` times more: without a name it lives on until it is forgotten
    /// as often.
    fn pin(&self, ino: Ino, n: u64);
    /// The kernel has forgotten the inode `n` times.
    fn unpin(&self, ino: Ino, n: u64);
    /// Calls `done` when everything done before is durable. Returns at once.
    fn sync_then(&self, done: Synced);
    /// Nothing is written any more, as if the disk had failed.
    fn shut_down(&self) -> Result<()>;
    /// A request of this kind has ended with a panic: what it was about to do may be half done in
    /// RAM, and must not reach the disk.
    fn panicked(&self, request: &str);
    /// The session has ended: the kernel holds nothing any more.
    fn session_ended(&self);
    /// Whether a request of this number was carried out by a server that has died, or may have
    /// been, with what it is answered with: the inode that it made, how many bytes it copied, or 0.
    fn applied(&self, request: u64) -> Option<u64>;
    /// The nameless inodes that go unless the kernel has held them since before a server died.
    fn doubtful(&self) -> Vec<Ino>;
    /// Every request that a server that has died had not answered has come again, and was carried
    /// out.
    fn all_came_again(&self);
    /// The kernel holds this one.
    fn held(&self, ino: Ino);
    /// The kernel does not hold this one.
    fn not_held(&self, ino: Ino);
}
