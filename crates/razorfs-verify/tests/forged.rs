//! Volumes whose journal refers to packs and frames that are not what it says. Whatever that is, no
//! pack comes into being for it, and a copy makes no reference to it.

use crate::common::forge::{
    DIR, FILE, ROOT, TWICE, Tree, edit_superblock, name_of, new_volume, put_batch, superblock,
};
use crate::common::*;
use razorfs::{Error, FileKind, Ino, NewNode, RenameMode, SetAttributes, Step, Volume};
use razorfs_disk::sim::{Image, SimDisk, SimEnv};
use razorfs_format::key::Key;
use razorfs_format::layout::FileName;
use razorfs_format::op::{Mutation, OpType, encode_op};
use razorfs_format::pack::{FrameHeader, FrameIdentity, HEADER_LEN, encode_header, frame_len};
use razorfs_format::record::{BLOCK, Codec, Fragment, FragmentKind, Origin, PackRef};
use razorfs_format::superblock::SHARED_FRAMES;
use razorfs_format::{BatchSeq, Branch, Epoch, PackId, VolumeId};

const LEN: u32 = 50_000;
const PACK: PackId = PackId(1);

fn data(block: u64) -> Vec<u8> {
    Rng(8 + block).bytes(LEN as usize)
}

/// A frame of `LEN` bytes that block `block` of the file wrote, and where it stands.
fn frame(vid: VolumeId, block: u64, pos: u64) -> (FrameHeader, PackRef) {
    let identity = FrameIdentity {
        branch: Branch::HEAD,
        ino: FILE,
        block,
        off: 0,
        birth: Epoch(1),
    };
    let crcs = identity.checksums(vid, Codec::None, &data(block));
    let header = FrameHeader {
        identity,
        raw_len: LEN,
        stored_len: LEN,
        codec: Codec::None,
        data_crc: identity.data_crc(vid, &crcs),
    };
    (header, header.reference(PACK, pos, crcs))
}

/// A volume with one pack of two frames, of the blocks 0 and 1 of `FILE`, whose blocks from 0 on
/// refer to `refs`.
fn forge(refs: &[PackRef]) -> Image {
    let mut tree = Tree::new();
    tree.remove(Key::extent(Branch::HEAD, FILE, 0));
    tree.edit(FILE, |i| i.size = refs.len() as u64 * u64::from(BLOCK));
    let mut payload = tree.payload();
    for (block, r) in (0..).zip(refs) {
        let fragment = Fragment {
            off: 0,
            len: LEN,
            kind: FragmentKind::Pack(r.clone()),
        };
        let key = Key::extent(Branch::HEAD, FILE, block);
        let mut patch = Vec::new();
        Mutation::Patch { key, fragment }.encode(&mut patch);
        encode_op(OpType::Write, &patch, &mut payload);
    }
    let mut image = new_volume();
    let vid = superblock(&image).vid();
    let pack = name_of(FileName::Pack(PACK));
    image.write(&pack, 0, &encode_header(vid, PACK));
    for block in 0..2 {
        let pos = HEADER_LEN + block * frame_len(LEN);
        let (header, _) = frame(vid, block, pos);
        let mut bytes = header.encode(vid, PACK, pos).to_vec();
        bytes.extend(data(block));
        bytes.resize(header.frame_len() as usize, 0);
        image.write(&pack, pos, &bytes);
    }
    let n_ops = 1 + refs.len() as u32;
    put_batch(&mut image, 2, 2, &payload, |h| h.n_ops = n_ops);
    edit_superblock(&mut image, |s| {
        s.end = BatchSeq(2);
        s.features.incompat |= SHARED_FRAMES;
    });
    image
}

/// What a reference may say that is not so, of the frame of block 1, which is the second.
fn wrong(good: &PackRef) -> Vec<PackRef> {
    let with = |edit: &dyn Fn(&mut PackRef)| {
        let mut r = good.clone();
        edit(&mut r);
        r
    };
    let origin = |ino, block, offset| {
        Some(Origin {
            branch: Branch::HEAD,
            ino,
            block,
            offset,
        })
    };
    vec![
        with(&|r| r.pack = PackId(999)),
        with(&|r| r.pack = PackId(1 << 60)),
        with(&|r| (r.pack, r.origin) = (PackId(999), origin(FILE, 1, 0))),
        with(&|r| r.pos = 1 << 40),
        with(&|r| r.pos += 8),
        // That of another block.
        with(&|r| r.pos = HEADER_LEN),
        with(&|r| r.birth = Epoch(2)),
        with(&|r| r.birth = Epoch(1 << 60)),
        with(&|r| r.crcs[1] ^= 1),
        with(&|r| r.origin = origin(TWICE, 1, 0)),
        with(&|r| r.origin = origin(FILE, 0, 0)),
        with(&|r| r.origin = origin(FILE, 1, 8)),
        with(&|r| (r.codec, r.crcs) = (Codec::Lz4, [r.crcs[0]].into())),
        with(&|r| {
            (r.stored_len, r.raw_len) = (LEN + 16_384, LEN + 16_384);
            r.crcs = [&r.crcs[..], &[7]].concat().into();
        }),
    ]
}

fn read(v: &Volume, ino: Ino, block: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; LEN as usize];
    v.read(ino, block * u64::from(BLOCK), &mut bytes)?;
    Ok(bytes)
}

fn touch(v: &Volume, uid: u32) {
    let set = SetAttributes {
        uid: Some(uid),
        ..SetAttributes::default()
    };
    v.set_attributes(Ino::ROOT, &set).unwrap();
}

#[test]
fn a_copy_of_what_is_not_there_fails_as_reading_it_does_and_refers_to_nothing() {
    let vid = superblock(&new_volume()).vid();
    let (first, second) = (frame(vid, 0, HEADER_LEN).1, HEADER_LEN + frame_len(LEN));
    let good = frame(vid, 1, second).1;
    for (n, bad) in wrong(&good).into_iter().enumerate() {
        let (disk, env) = (
            SimDisk::from_image(&forge(&[first.clone(), bad])),
            SimEnv::new(1),
        );
        let mut v = open(&disk, &env);
        // First as the journal has it, then as the segments do.
        for round in 0..2 {
            let said = format!("reference {n}, round {round}");
            let name = format!("copy-{round}");
            let node = NewNode::file(0o600);
            let copy = v
                .create_node(Ino::ROOT, name.as_bytes(), &node)
                .unwrap()
                .ino;
            assert!(read(&v, FILE, 1).is_err(), "{said}");
            let block = u64::from(BLOCK);
            assert!(
                v.copy_range(FILE, block, copy, block, LEN.into()).is_err(),
                "{said}"
            );
            assert_eq!(v.stat(copy).unwrap().size, 0, "{said}");
            // What is in order beside it is shared.
            let copied = v.copy_range(FILE, 0, copy, 0, LEN.into());
            assert_eq!(copied.unwrap(), u64::from(LEN), "{said}");
            for uid in 0..3 {
                touch(&v, uid);
                v.step(Step::Checkpoint).unwrap();
            }
            assert!(read(&v, copy, 0).unwrap() == data(0), "{said}");
            assert_eq!(v.info().packs, 1, "{said}");
            // A pack that is there reaches as far as the journal says.
            let longest = if n == 3 { 2 << 40 } else { 1 << 20 };
            assert!(v.info().pack_bytes < longest, "{said}");
            let _ = check_disk(&disk, 3);
            drop(v);
            v = open(&disk, &env);
        }
        // What goes is debited no more than it was credited.
        v.unlink(common_dir(&v), b"file").unwrap();
        while v.step(Step::Reap).unwrap() {}
        v.step(Step::Checkpoint).unwrap();
        let copy = v.lookup(Ino::ROOT, b"copy-1").unwrap().ino;
        assert!(read(&v, copy, 0).unwrap() == data(0), "reference {n}");
        v.close().unwrap();
        open(&disk, &env).close().unwrap();
    }
}

/// What moves in a file is referred to at its new place: a reference to nothing does not move, and
/// no recovery takes it for real.
#[test]
fn what_is_not_there_does_not_move_and_nothing_refers_to_it() {
    let vid = superblock(&new_volume()).vid();
    let (first, second) = (frame(vid, 0, HEADER_LEN).1, HEADER_LEN + frame_len(LEN));
    let good = frame(vid, 1, second).1;
    for (n, bad) in wrong(&good).into_iter().enumerate() {
        let image = forge(&[first.clone(), bad]);
        let (disk, env) = (SimDisk::from_image(&image), SimEnv::new(1));
        let mut v = open(&disk, &env);
        for round in 0..2 {
            let said = format!("reference {n}, round {round}");
            let was = v.stat(FILE).unwrap();
            for refused in [
                v.insert_range(FILE, 0, 4096),
                v.collapse_range(FILE, 4096, 8192),
                v.insert_range(FILE, u64::from(BLOCK), 4096),
            ] {
                let damage = matches!(refused, Err(Error::Corrupt(_) | Error::Disk(_)));
                assert!(damage, "{said}: {refused:?}");
            }
            assert!(v.stat(FILE).unwrap() == was, "{said}");
            assert!(read(&v, FILE, 0).unwrap() == data(0), "{said}");
            touch(&v, round);
            v.step(Step::Checkpoint).unwrap();
            v.sync().unwrap();
            assert_eq!(v.info().packs, 1, "{said}");
            drop(v);
            v = open(&disk, &env);
        }
        v.close().unwrap();
    }
}

fn common_dir(v: &Volume) -> Ino {
    v.lookup(Ino::ROOT, b"dir").unwrap().ino
}

/// The header alone is damaged: nobody needs it to read the frame.
#[test]
fn a_frame_with_a_damaged_header_is_copied_and_not_shared() {
    let vid = superblock(&new_volume()).vid();
    let disk = SimDisk::from_image(&forge(&[frame(vid, 0, HEADER_LEN).1]));
    let pack = name_of(FileName::Pack(PACK));
    assert!(disk.flip_bit(&pack, HEADER_LEN + 20, 1));
    let v = open(&disk, &SimEnv::new(1));
    v.copy_range(FILE, 0, TWICE, 0, LEN.into()).unwrap();
    v.step(Step::Checkpoint).unwrap();
    assert!(read(&v, TWICE, 0).unwrap() == data(0));
    // It is one of its own, which does not need the other.
    assert!(disk.flip_bit(&pack, HEADER_LEN + 10_000, 1));
    assert!(read(&v, FILE, 0).is_err() && read(&v, TWICE, 0).unwrap() == data(0));
}

#[test]
fn numbers_that_nothing_can_follow_are_refused() {
    let vid = superblock(&new_volume()).vid();
    let good = frame(vid, 0, HEADER_LEN).1;
    let refused = |image: &Image, part: &str| {
        let opened = try_open(&SimDisk::from_image(image), &SimEnv::new(1)).map(drop);
        let error = opened.unwrap_err();
        assert!(matches!(error, Error::Corrupt(_)), "{error}");
        assert!(error.to_string().contains(part), "{error}");
    };
    for pack in [u64::MAX, u64::MAX - 1, 1 << 63] {
        let mut r = good.clone();
        r.pack = PackId(pack);
        refused(&forge(&[r]), "pack/P-");
    }
    let mut r = good.clone();
    r.birth = Epoch(u64::MAX);
    refused(&forge(&[r]), "2^62");
    for file in [
        FileName::Pack(PackId(u64::MAX)),
        FileName::Segment(razorfs_format::SegmentId(u64::MAX)),
        FileName::ManifestTmp(razorfs_format::ManifestId(u64::MAX)),
    ] {
        let mut image = forge(std::slice::from_ref(&good));
        image.write(&name_of(file), 0, &[0]);
        refused(&image, &file.to_string());
    }
}

/// Directories that lead back up, or stand above each other: nobody goes round and round in them.
#[test]
fn directories_in_a_circle_are_damage_and_no_endless_loop() {
    const DIRECTORY: FileKind = FileKind::Directory;
    let up = {
        let mut tree = Tree::new();
        tree.name(DIR, b"up", ROOT, DIRECTORY);
        tree.edit(DIR, |i| (i.entries, i.nlink) = (3, 3));
        tree.image()
    };
    let circle = {
        let (x, y) = (Ino(20), Ino(21));
        let mut tree = Tree::new();
        tree.name(ROOT, b"x", x, DIRECTORY);
        tree.edit(ROOT, |i| (i.entries, i.nlink) = (3, 4));
        for (dir, below, name) in [(x, y, b"y"), (y, x, b"x")] {
            let cookie = tree.name(dir, name, below, DIRECTORY);
            tree.inode(below, DIRECTORY, 3, dir, cookie, |i| i.entries = 1);
        }
        tree.inodes += 2;
        tree.image()
    };
    // The same, by an entry that says that it leads to a file.
    let lie = {
        let mut tree = Tree::new();
        tree.name(DIR, b"up", ROOT, FileKind::Regular);
        tree.edit(DIR, |i| i.entries = 3);
        tree.image()
    };
    let v = open(&SimDisk::from_image(&lie), &SimEnv::new(1));
    for path in ["dir/up", "dir/up/dir"] {
        assert!(v.root().metadata(path).is_err() && v.root().read_dir(path).is_err());
    }
    assert!(v.find_by_path(b"dir/up/dir").is_err() && v.lookup(DIR, b"up").is_err());
    for (image, path) in [
        (&up, "dir/up"),
        (&up, "dir/up/dir/up/a"),
        (&circle, "x/y/x/y"),
    ] {
        let v = open(&SimDisk::from_image(image), &SimEnv::new(1));
        let found = v.find_by_path(path.as_bytes());
        assert!(matches!(found, Err(Error::Corrupt(_))), "{path}: {found:?}");
        let top = path.split('/').next().unwrap();
        let removed = v.root().remove_dir_all(top);
        assert!(matches!(removed, Err(Error::Corrupt(_))), "{removed:?}");
        assert!(!check(image, 4).is_sound());
    }
    // From within, by number.
    let v = open(&SimDisk::from_image(&circle), &SimEnv::new(1));
    let moved = v.rename(ROOT, b"dir", Ino(20), b"moved", RenameMode::Replace);
    assert!(matches!(moved, Err(Error::Corrupt(_))), "{moved:?}");
}
