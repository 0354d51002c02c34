//! Makes volumes of very many files, faster than by creating them: their segments are written
//! directly, in the order of their keys, as a compaction of everything would leave them.
//!
//! The files are empty and lie in directories of 1000, so that what is large is the tree of names
//! and inodes.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use razorfs::{CreateOptions, Options, Volume};
use razorfs_disk::os::OsDisk;
use razorfs_disk::{Dir, Disk, File, Name, OpenHow};
use razorfs_format::key::{Key, Tag};
use razorfs_format::layout::FileName;
use razorfs_format::manifest::{Manifest, SegmentMeta};
use razorfs_format::record::{Codec, Dirent, FileKind, Inode, Time, name_cookie};
use razorfs_format::segment::{Identity, SegmentBuilder, Style};
use razorfs_format::superblock::{ManifestRef, SLOT, SLOTS, Superblock, pick, slots_of};
use razorfs_format::{Branch, Epoch, Ino, SegmentId, VolumeId};

use crate::failure::{At, Result};

/// Files of a directory.
pub const PER_DIR: u64 = 1000;
/// Bytes that are gathered for one write.
const WRITE_BYTES: usize = 1 << 20;

/// The path of file `n`.
pub fn path(n: u64) -> PathBuf {
    PathBuf::from(format!("{}/{}", dir_name(n / PER_DIR), file_name(n)))
}

/// The name of a directory.
pub fn dir_name(d: u64) -> String {
    format!("dir-{d:06}")
}

/// The name of a file.
fn file_name(n: u64) -> String {
    format!("file-{n:09}.txt")
}

fn name_of(file: FileName) -> Name {
    Name::new(
        Dir::from_path(file.dir()).unwrap_or(Dir::Root),
        &file.leaf(),
    )
}

/// Makes a volume of `files` empty files, which must not exist.
pub fn make(path: &Path, files: u64) -> Result<()> {
    Volume::create(path, &CreateOptions::default()).at("create", path)?;
    // Opened and closed once, the root is in a segment and the journal is not needed.
    let volume = Volume::open(path, Options::default()).at("open", path)?;
    volume.close().at("close", path)?;
    let disk = OsDisk::new(path);
    let mut superblock = superblock(&disk).at("read the superblock of", path)?;
    let mut manifest = manifest(&disk, &superblock).at("read the manifest of", path)?;
    let old = disk.list(Dir::Meta).at("list", path)?;
    let mut writer = Writer {
        disk: &disk,
        vid: superblock.vid(),
        target: u64::from(superblock.geometry.segment_bytes),
        block_bytes: superblock.geometry.segment_block_bytes as usize,
        epoch: manifest.counters.epoch,
        next: manifest.counters.next_segment,
        current: None,
        metas: Vec::new(),
    };
    let tree = Tree::new(files, &superblock);
    tree.write(&mut writer).at("write segments of", path)?;
    manifest.segments = writer.metas;
    manifest.counters.next_segment = writer.next;
    manifest.counters.next_ino = tree.next_ino();
    manifest.counters.inodes = 1 + tree.dirs + files;
    publish(&disk, &mut superblock, &mut manifest).at("write the manifest of", path)?;
    for name in old {
        disk.remove(&name).at("clean up", path)?;
    }
    disk.sync_dir(Dir::Meta).at("clean up", path)
}

/// What is going to be in the volume.
struct Tree {
    files: u64,
    dirs: u64,
    now: Time,
    hash_key: [u8; 16],
}

impl Tree {
    fn new(files: u64, superblock: &Superblock) -> Self {
        Self {
            files,
            dirs: files.div_ceil(PER_DIR),
            now: Time::from_unix_nanos(1_700_000_000_000_000_000),
            hash_key: superblock.hash_key,
        }
    }

    fn dir(&self, d: u64) -> Ino {
        Ino(Ino::FIRST.0 + d * (PER_DIR + 1))
    }

    fn next_ino(&self) -> Ino {
        self.dir(self.dirs)
    }

    fn files_of(&self, d: u64) -> u64 {
        PER_DIR.min(self.files - d * PER_DIR)
    }

    fn inode(&self, mode: u32, parent: Ino, cookie: u64, entries: u64) -> Inode {
        Inode {
            mode,
            nlink: 1,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            rdev: 0,
            flags: 0,
            size: 0,
            blocks: 0,
            atime: self.now,
            mtime: self.now,
            ctime: self.now,
            btime: self.now,
            parent,
            cookie,
            entries,
            target: Box::default(),
        }
    }

    /// The cookies of names, none of which has the hash of another one.
    fn cookies(&self, names: impl Iterator<Item = String>) -> Result<Vec<u64>> {
        let cookies: Vec<u64> = names
            .map(|name| name_cookie(&self.hash_key, name.as_bytes()))
            .collect();
        let mut sorted = cookies.clone();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.len() == cookies.len() {
            return Ok(cookies);
        }
        Err("two names have one hash; try again".into())
    }

    fn write(&self, writer: &mut Writer<'_>) -> Result<()> {
        let dirs = self.cookies((0..self.dirs).map(dir_name))?;
        self.entries(writer, Ino::ROOT, &dirs, FileKind::Directory, |d| {
            (self.dir(d), dir_name(d))
        })?;
        for d in 0..self.dirs {
            let names = (0..self.files_of(d)).map(|n| file_name(d * PER_DIR + n));
            let cookies = self.cookies(names)?;
            self.entries(writer, self.dir(d), &cookies, FileKind::Regular, |n| {
                (Ino(self.dir(d).0 + 1 + n), file_name(d * PER_DIR + n))
            })?;
        }
        let mut root = self.inode(0o040_755, Ino::ROOT, 0, self.dirs);
        root.nlink = u32::try_from(2 + self.dirs).when("count directories")?;
        writer.put(Key::inode(Branch::HEAD, Ino::ROOT), &root.to_bytes())?;
        for (d, cookie) in (0..self.dirs).zip(&dirs) {
            let mut inode = self.inode(0o040_755, Ino::ROOT, *cookie, self.files_of(d));
            inode.nlink = 2;
            writer.put(Key::inode(Branch::HEAD, self.dir(d)), &inode.to_bytes())?;
            let names = (0..self.files_of(d)).map(|n| file_name(d * PER_DIR + n));
            for (n, cookie) in (0..).zip(self.cookies(names)?) {
                let inode = self.inode(0o100_644, self.dir(d), cookie, 0);
                let key = Key::inode(Branch::HEAD, Ino(self.dir(d).0 + 1 + n));
                writer.put(key, &inode.to_bytes())?;
            }
        }
        writer.end()
    }

    /// The entries of one directory, in the order of their cookies.
    fn entries(
        &self,
        writer: &mut Writer<'_>,
        dir: Ino,
        cookies: &[u64],
        kind: FileKind,
        what: impl Fn(u64) -> (Ino, String),
    ) -> Result<()> {
        let mut order: Vec<(u64, u64)> = cookies.iter().copied().zip(0..).collect();
        order.sort_unstable();
        for (cookie, n) in order {
            let (ino, name) = what(n);
            let name = name.into_bytes().into();
            let dirent = Dirent { ino, kind, name };
            writer.put(Key::dirent(Branch::HEAD, dir, cookie), &dirent.to_bytes())?;
        }
        Ok(())
    }
}

/// Writes segments one after the other.
struct Writer<'d> {
    disk: &'d OsDisk,
    vid: VolumeId,
    target: u64,
    block_bytes: usize,
    epoch: Epoch,
    next: SegmentId,
    current: Option<(Tag, Arc<dyn File>, SegmentBuilder)>,
    metas: Vec<SegmentMeta>,
}

impl Writer<'_> {
    fn put(&mut self, key: Key, value: &[u8]) -> Result<()> {
        let tag = key.tag();
        let full = |(of, _, builder): &(Tag, _, SegmentBuilder)| {
            *of != tag || builder.size() >= self.target
        };
        if self.current.as_ref().is_some_and(full) {
            self.end()?;
        }
        if self.current.is_none() {
            let id = Identity {
                volume: self.vid,
                segment: self.next,
                tag,
            };
            let style = Style {
                block_bytes: self.block_bytes,
                codec: Codec::Lz4,
                filter: true,
            };
            let name = name_of(FileName::Segment(self.next));
            let file = self.disk.open(&name, OpenHow::CreateNew);
            let file = file.when("create a segment")?;
            self.next = self.next.next();
            self.current = Some((tag, file, SegmentBuilder::new(id, style)));
        }
        if let Some((_, file, builder)) = &mut self.current {
            let pushed = builder.push(key, self.epoch, Some(value));
            pushed.when("add a record")?;
            if builder.waiting().0.len() >= WRITE_BYTES {
                write_waiting(file.as_ref(), builder)?;
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let Some((_, file, mut builder)) = self.current.take() else {
            return Ok(());
        };
        // Below level 0 segments of a table do not overlap, and these do not.
        let (meta, header) = builder.finish(1, 0);
        if let Some(header) = header {
            let header = [IoSlice::new(&header)];
            file.write_at(&header, 0).when("write a segment")?;
        }
        write_waiting(file.as_ref(), &mut builder)?;
        file.sync_data().when("flush a segment")?;
        self.metas.push(meta);
        Ok(())
    }
}

fn write_waiting(file: &dyn File, builder: &mut SegmentBuilder) -> Result<()> {
    let (bytes, at) = builder.waiting();
    let written = file.write_at(&[IoSlice::new(bytes)], at);
    written.when("write a segment")?;
    builder.written();
    Ok(())
}

fn superblock(disk: &OsDisk) -> Result<Superblock> {
    let file = disk.open(&name_of(FileName::Super), OpenHow::Read);
    let file = file.when("open it")?;
    let mut bytes = vec![0; SLOTS * SLOT];
    file.read_at(&mut bytes, 0).when("read it")?;
    let slots: Vec<_> = bytes
        .chunks(SLOT)
        .enumerate()
        .map(|(n, slot)| Superblock::decode(n, slot))
        .collect();
    let (_, newest) = pick(&slots).ok_or("no slot of it is valid")?;
    Ok(newest.clone())
}

fn manifest(disk: &OsDisk, superblock: &Superblock) -> Result<Manifest> {
    let ManifestRef { id, len, .. } = superblock.manifest;
    let file = disk.open(&name_of(FileName::Manifest(id)), OpenHow::Read);
    let mut bytes = vec![0; len as usize];
    file.and_then(|f| f.read_at(&mut bytes, 0))
        .when("read it")?;
    Manifest::decode(&bytes, superblock.vid(), id).when("decode it")
}

/// Makes the manifest that of the two newest generations, so that nothing leads back.
fn publish(disk: &OsDisk, superblock: &mut Superblock, manifest: &mut Manifest) -> Result<()> {
    disk.sync_dir(Dir::Meta).when("flush names")?;
    let file = disk.open(&name_of(FileName::Super), OpenHow::ReadWrite);
    let file = file.when("open the superblock")?;
    for _ in 0..2 {
        let id = manifest.counters.next_manifest;
        let generation = superblock.generation.next();
        manifest.counters.next_manifest = id.next();
        (manifest.id, manifest.generation) = (id, generation);
        let bytes = manifest.to_bytes(superblock.vid());
        let name = name_of(FileName::Manifest(id));
        let written = disk.open(&name, OpenHow::CreateNew).and_then(|m| {
            m.write_at(&[IoSlice::new(&bytes)], 0)?;
            m.sync_data()?;
            disk.sync_dir(Dir::Meta)
        });
        written.when("write it")?;
        superblock.generation = generation;
        superblock.manifest = ManifestRef {
            id,
            len: bytes.len() as u32,
            crc: Manifest::crc(&bytes),
        };
        for slot in slots_of(generation) {
            let bytes = superblock.encode(slot);
            let written = file.write_at(&[IoSlice::new(&bytes)], (slot * SLOT) as u64);
            written.when("write the superblock")?;
        }
        file.sync_data().when("flush the superblock")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_made_in_bulk_is_like_any_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v");
        let files = 2 * PER_DIR + 345;
        make(&path, files).unwrap();
        let check = || {
            let report = razorfs_verify::verify(&OsDisk::new(&path), 3, &mut |_| ());
            let findings = report.unwrap().findings;
            assert!(findings.is_empty(), "{findings:?}");
        };
        check();
        let volume = Volume::open(&path, Options::default()).unwrap();
        let root = volume.root();
        let listed = root.read_dir("/").unwrap().map(|entry| {
            let entry = entry.unwrap();
            root.read_dir(entry.file_name()).unwrap().count() as u64
        });
        assert_eq!(listed.sum::<u64>(), files);
        for n in [0, PER_DIR - 1, PER_DIR, files - 1] {
            assert_eq!(root.metadata(self::path(n)).unwrap().len(), 0);
        }
        assert!(root.metadata(self::path(files)).is_err());
        root.write(self::path(files), b"one more").unwrap();
        root.remove_file(self::path(7)).unwrap();
        volume.close().unwrap();
        check();
    }
}
