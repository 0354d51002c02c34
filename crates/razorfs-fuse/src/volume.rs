//! The engine's volume as a [`FileSystem`].

use razorfs::{
    AllocateMode, Entry, Ino, NewNode, RenameMode, Result, SeekFor, SetAttributes, Stat, Volume,
    VolumeSpace, XattrMode,
};

use crate::filesystem::{FileSystem, Synced};

// `Self::f(self, …)` is the volume's own method: inherent ones come before those of traits.
impl FileSystem for Volume {
    fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Stat> {
        Self::lookup(self, parent, name)
    }

    fn stat(&self, ino: Ino) -> Result<Stat> {
        Self::stat(self, ino)
    }

    fn parent_of(&self, dir: Ino) -> Result<Ino> {
        Self::parent_of(self, dir)
    }

    fn create_node(&self, parent: Ino, name: &[u8], node: &NewNode<'_>) -> Result<Stat> {
        Self::create_node(self, parent, name, node)
    }

    fn create_unnamed(&self, parent: Ino, node: &NewNode<'_>) -> Result<Stat> {
        Self::create_unnamed(self, parent, node)
    }

    fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Stat> {
        Self::link(self, ino, parent, name)
    }

    fn unlink(&self, parent: Ino, name: &[u8]) -> Result<()> {
        Self::unlink(self, parent, name)
    }

    fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<()> {
        Self::rmdir(self, parent, name)
    }

    fn rename(
        &self,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<()> {
        Self::rename(self, parent, name, new_parent, new_name, mode)
    }

    fn set_attributes(&self, ino: Ino, changes: &SetAttributes) -> Result<Stat> {
        Self::set_attributes(self, ino, changes)
    }

    fn accessed(&self, ino: Ino) {
        Self::accessed(self, ino);
    }

    fn read_link(&self, ino: Ino) -> Result<Box<[u8]>> {
        Self::read_link(self, ino)
    }

    fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize> {
        Self::read(self, ino, offset, buf)
    }

    fn write(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<usize> {
        Self::write(self, ino, offset, data)
    }

    fn allocate(&self, ino: Ino, mode: AllocateMode, offset: u64, len: u64) -> Result<()> {
        Self::allocate(self, ino, mode, offset, len)
    }

    fn seek(&self, ino: Ino, offset: u64, what: SeekFor) -> Result<u64> {
        Self::seek(self, ino, offset, what)
    }

    fn copy_range(&self, from: Ino, from_off: u64, to: Ino, to_off: u64, len: u64) -> Result<u64> {
        Self::copy_range(self, from, from_off, to, to_off, len)
    }

    fn collect_children(
        &self,
        dir: Ino,
        after_cookie: u64,
        each: &mut dyn FnMut(Entry) -> bool,
    ) -> Result<()> {
        Self::collect_children(self, dir, after_cookie, each)
    }

    fn get_xattr(&self, ino: Ino, name: &[u8]) -> Result<Box<[u8]>> {
        Self::get_xattr(self, ino, name)
    }

    fn set_xattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        Self::set_xattr(self, ino, name, value, mode)
    }

    fn list_xattr(&self, ino: Ino) -> Result<Vec<Box<[u8]>>> {
        Self::list_xattr(self, ino)
    }

    fn remove_xattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        Self::remove_xattr(self, ino, name)
    }

    fn space(&self) -> Result<VolumeSpace> {
        Self::space(self)
    }

    fn pin(&self, ino: Ino, n: u64) {
        Self::pin(self, ino, n)
    }

    fn unpin(&self, ino: Ino, n: u64) {
        Self::unpin(self, ino, n)
    }

    fn shut_down(&self) -> Result<()> {
        Self::shut_down(self);
        Ok(())
    }

    fn sync_then(&self, done: Synced) {
        Self::sync_then(self, done)
    }

    fn session_ended(&self) {
        self.nobody_is_left();
    }

    fn applied(&self, request: u64) -> Option<Ino> {
        Self::applied(self, request)
    }

    fn doubtful(&self) -> Vec<Ino> {
        Self::doubtful(self)
    }

    fn all_came_again(&self) {
        Self::all_came_again(self);
    }

    fn held(&self, ino: Ino) {
        Self::held(self, ino);
    }

    fn not_held(&self, ino: Ino) {
        Self::not_held(self, ino);
    }

    fn panicked(&self, request: &str) {
        Self::refuse_writes(self, &format!("a {request} request ended with a panic"));
    }
}
