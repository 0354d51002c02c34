//! Volumes whose bytes are valid and say what they should not.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use razorfs::{FileKind, Inode, Time};
use razorfs_disk::sim::{Image, SimDisk, SimEnv};
use razorfs_disk::{Dir, Name};
use razorfs_format::crc::crc32c;
use razorfs_format::journal::{
    BatchHeader, Link, SECTOR, SECTOR_HEAD, UNIT, encode_batch, read_linked,
};
use razorfs_format::key::{Key, Tag};
use razorfs_format::layout::FileName;
use razorfs_format::manifest::Manifest;
use razorfs_format::op::{Counter, Mutation, OpType, encode_op};
use razorfs_format::record::{Dirent, Extent, Fragment, FragmentKind, name_cookie};
use razorfs_format::superblock::{LINKED_BATCHES, MAGIC, SLOT, Superblock, pick, slots_of};
use razorfs_format::{BatchSeq, Branch, Generation, Ino, Jid, Lsn, Place};

pub fn name_of(file: FileName) -> Name {
    Name::new(Dir::from_path(file.dir()).unwrap(), &file.leaf())
}

pub fn superblocks(image: &Image) -> Vec<Superblock> {
    let bytes = image.bytes(&name_of(FileName::Super)).unwrap();
    let slots: Vec<_> = bytes
        .chunks(SLOT)
        .enumerate()
        .map(|(i, b)| Superblock::decode(i, b))
        .collect();
    slots.into_iter().flatten().collect()
}

/// The newest superblock.
pub fn superblock(image: &Image) -> Superblock {
    let all: Vec<_> = superblocks(image).into_iter().map(Ok).collect();
    pick(&all).unwrap().1.clone()
}

/// The one before it.
pub fn previous(image: &Image) -> Superblock {
    let newest = superblock(image).generation;
    superblocks(image)
        .into_iter()
        .find(|s| s.generation.0 + 1 == newest.0)
        .unwrap()
}

pub fn put_superblock(image: &mut Image, superblock: &Superblock) {
    for slot in slots_of(superblock.generation) {
        let offset = (slot * SLOT) as u64;
        image.write(&name_of(FileName::Super), offset, &superblock.encode(slot));
    }
}

pub fn edit_superblock(image: &mut Image, edit: impl FnOnce(&mut Superblock)) {
    let mut newest = superblock(image);
    edit(&mut newest);
    put_superblock(image, &newest);
}

/// A slot of this number as a newer major version may write it.
pub fn newer_slot(slot: usize) -> Vec<u8> {
    let mut bytes = vec![0xA7; SLOT];
    bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
    bytes[4..8].copy_from_slice(&[2, 0, 3, 0]);
    let crc = crc32c(&[slot as u64], &bytes[..4092]);
    bytes[4092..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Has these slots be of a newer major version.
pub fn make_newer(image: &mut Image, slots: &[usize]) {
    for slot in slots {
        let offset = (slot * SLOT) as u64;
        image.write(&name_of(FileName::Super), offset, &newer_slot(*slot));
    }
}

pub fn manifest(image: &Image, of: &Superblock) -> Manifest {
    let bytes = image
        .bytes(&name_of(FileName::Manifest(of.manifest.id)))
        .unwrap();
    Manifest::decode(&bytes, of.vid(), of.manifest.id).unwrap()
}

/// Changes the manifest of a generation.
pub fn edit_manifest(image: &mut Image, of: &Superblock, edit: impl FnOnce(&mut Manifest)) {
    let mut changed = manifest(image, of);
    edit(&mut changed);
    let bytes = changed.to_bytes(of.vid());
    let name = name_of(FileName::Manifest(changed.id));
    image.set_len(&name, 0);
    image.write(&name, 0, &bytes);
    for mut superblock in superblocks(image) {
        if superblock.manifest.id == changed.id {
            superblock.manifest.len = bytes.len() as u32;
            superblock.manifest.crc = Manifest::crc(&bytes);
            put_superblock(image, &superblock);
        }
    }
}

pub fn new_volume() -> Image {
    // The same each time, and an image shares its pages.
    static NEW: LazyLock<Image> = LazyLock::new(|| {
        let (disk, env) = (SimDisk::new(), SimEnv::new(77));
        super::create(&disk, &env);
        super::image_of(&disk)
    });
    NEW.clone()
}

pub fn journal() -> Name {
    name_of(FileName::Journal(0))
}

/// A batch of the new volume's journal, which begins at `unit`; answers the unit behind it.
pub fn put_batch(
    image: &mut Image,
    seq: u64,
    unit: u64,
    payload: &[u8],
    edit: impl FnOnce(&mut BatchHeader),
) -> u64 {
    let mut header = BatchHeader {
        seq: BatchSeq(seq),
        first_lsn: Lsn(seq),
        n_ops: 1,
        payload_len: 0,
        durable: BatchSeq(seq - 1),
        generation: Generation(1),
        wall_ns: 0,
        flags: 0,
        payload_crc: 0,
    };
    edit(&mut header);
    // It is linked to nothing.
    if superblock(image).features.incompat & LINKED_BATCHES != 0 {
        edit_superblock(image, |s| s.features.incompat &= !LINKED_BATCHES);
    }
    let vid = superblock(image).vid();
    let mut bytes = Vec::new();
    encode_batch(
        vid,
        Jid(1),
        unit as u32 * 8,
        &mut header,
        payload,
        &mut bytes,
    );
    image.write(&journal(), unit * UNIT as u64, &bytes);
    unit + (bytes.len() / UNIT) as u64
}

/// Changes the first batch of the first journal file as somebody does who knows of checksums: with
/// its link as it was, or with another one.
pub fn edit_first_batch(
    image: &mut Image,
    relink: bool,
    edit: impl FnOnce(&mut BatchHeader, &mut Vec<u8>),
) {
    let vid = superblock(image).vid();
    let file = image.bytes(&journal()).unwrap();
    let bytes = &file[UNIT..];
    let place = Place::new(FileName::Journal(0), UNIT as u64);
    let [j0, j1, j2, j3, s0, s1, s2, s3] = bytes[4..12].try_into().unwrap();
    let jid = Jid(u32::from_le_bytes([j0, j1, j2, j3]));
    let seq_lo = u32::from_le_bytes([s0, s1, s2, s3]);
    let head = BatchHeader::decode(vid, jid, seq_lo, &bytes[SECTOR_HEAD..SECTOR], place);
    let mut header = head.unwrap();
    let (mut payload, link) = read_linked(vid, jid, &header, bytes, place).unwrap();
    let mut link = link.unwrap();
    edit(&mut header, &mut payload);
    if relink {
        link = Link::UNKNOWN.next(vid, &header, &payload);
    }
    payload.extend(link.0);
    let mut again = Vec::new();
    encode_batch(vid, jid, 8, &mut header, &payload, &mut again);
    image.write(&journal(), UNIT as u64, &again);
}

/// A name space of its own, to be spoilt.
pub struct Tree {
    pub records: BTreeMap<Key, Box<[u8]>>,
    pub inodes: i64,
    pub bytes: i64,
    hash_key: [u8; 16],
    image: Image,
}

pub const ROOT: Ino = Ino::ROOT;
pub const DIR: Ino = Ino(16);
pub const FILE: Ino = Ino(17);
pub const TWICE: Ino = Ino(18);

impl Tree {
    /// `/dir`, `/dir/file` of 1000 bytes, and `/a` and `/dir/b`, which are one file.
    pub fn new() -> Self {
        let image = new_volume();
        let mut tree = Self {
            records: BTreeMap::new(),
            inodes: 3,
            bytes: 1000,
            hash_key: superblock(&image).hash_key,
            image,
        };
        tree.inode(ROOT, FileKind::Directory, 3, ROOT, 0, |i| i.entries = 2);
        let cookie = tree.name(ROOT, b"dir", DIR, FileKind::Directory);
        tree.inode(DIR, FileKind::Directory, 2, ROOT, cookie, |i| i.entries = 2);
        let cookie = tree.name(DIR, b"file", FILE, FileKind::Regular);
        tree.inode(FILE, FileKind::Regular, 1, DIR, cookie, |i| i.size = 1000);
        tree.data(FILE, 0, 1000);
        let a = tree.name(ROOT, b"a", TWICE, FileKind::Regular);
        let b = tree.name(DIR, b"b", TWICE, FileKind::Regular);
        tree.inode(TWICE, FileKind::Regular, 2, ROOT, a, |_| ());
        tree.put(Key::link(Branch::HEAD, TWICE, ROOT, a), b"");
        tree.put(Key::link(Branch::HEAD, TWICE, DIR, b), b"");
        tree
    }

    pub fn cookie(&self, name: &[u8]) -> u64 {
        name_cookie(&self.hash_key, name)
    }

    pub fn put(&mut self, key: Key, value: &[u8]) {
        self.records.insert(key, value.into());
    }

    pub fn inode(
        &mut self,
        ino: Ino,
        kind: FileKind,
        nlink: u32,
        parent: Ino,
        cookie: u64,
        edit: impl FnOnce(&mut Inode),
    ) {
        let mut inode = Inode {
            mode: kind.mode_bits() | 0o644,
            nlink,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            size: 0,
            blocks: 0,
            atime: Time::default(),
            mtime: Time::default(),
            ctime: Time::default(),
            btime: Time::default(),
            parent,
            cookie,
            entries: 0,
            target: [].into(),
        };
        edit(&mut inode);
        self.put(Key::inode(Branch::HEAD, ino), &inode.to_bytes());
    }

    pub fn edit(&mut self, ino: Ino, edit: impl FnOnce(&mut Inode)) {
        let key = Key::inode(Branch::HEAD, ino);
        let place = razorfs_format::Place::new(FileName::Super, 0);
        let mut inode = Inode::decode(&self.records[&key], place).unwrap();
        edit(&mut inode);
        self.put(key, &inode.to_bytes());
    }

    pub fn name(&mut self, dir: Ino, name: &[u8], ino: Ino, kind: FileKind) -> u64 {
        let cookie = self.cookie(name);
        self.name_at(dir, cookie, name, ino, kind);
        cookie
    }

    pub fn name_at(&mut self, dir: Ino, cookie: u64, name: &[u8], ino: Ino, kind: FileKind) {
        let name = name.into();
        let dirent = Dirent { ino, kind, name };
        self.put(Key::dirent(Branch::HEAD, dir, cookie), &dirent.to_bytes());
    }

    pub fn data(&mut self, ino: Ino, block: u64, len: u32) {
        let kind = FragmentKind::Inline(vec![7; len as usize].into());
        let fragment = Fragment { off: 0, len, kind };
        let extent = Extent {
            fragments: vec![fragment],
        };
        self.put(Key::extent(Branch::HEAD, ino, block), &extent.to_bytes());
    }

    pub fn remove(&mut self, key: Key) {
        assert!(self.records.remove(&key).is_some(), "{key:?} is there");
    }

    pub fn payload(&self) -> Vec<u8> {
        let mut mutations = Vec::new();
        let place = razorfs_format::Place::new(FileName::Super, 0);
        for (key, value) in &self.records {
            let key = *key;
            if key.tag() == Tag::Extent
                && let Ok(extent) = Extent::decode(value, place)
            {
                for fragment in extent.fragments {
                    Mutation::Patch { key, fragment }.encode(&mut mutations);
                }
                continue;
            }
            let value = value.clone();
            let new = true;
            Mutation::Put { key, value, new }.encode(&mut mutations);
        }
        for (counter, delta) in [(Counter::Inodes, self.inodes), (Counter::Bytes, self.bytes)] {
            let branch = Branch::HEAD;
            Mutation::Count {
                branch,
                counter,
                delta,
            }
            .encode(&mut mutations);
        }
        let mut payload = Vec::new();
        encode_op(OpType::Note, &mutations, &mut payload);
        payload
    }

    /// The volume.
    pub fn image(&self) -> Image {
        let mut image = self.image.clone();
        put_batch(&mut image, 2, 2, &self.payload(), |_| ());
        edit_superblock(&mut image, |s| s.end = BatchSeq(2));
        image
    }
}
