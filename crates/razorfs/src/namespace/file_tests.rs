//! Rules of the bytes of files.

use std::sync::Arc;

use razorfs_disk::sim::{SimDisk, SimEnv, SimRng};
use razorfs_format::key::Tag;
use razorfs_format::record::FILE_MAX;

use crate::{
    AllocateMode, CreateOptions, Durability, Error, Geometry, Ino, NewNode, Options, SeekFor,
    SetAttributes, Stat, Step, Volume, inode_flags,
};

const BLOCK: u64 = 128 * 1024;

fn with_file() -> (Volume, Ino) {
    let v = Volume::for_tests(Options::default());
    let ino = v
        .create_node(Ino::ROOT, b"f", &NewNode::file(0o644))
        .unwrap()
        .ino;
    (v, ino)
}

fn resize(v: &Volume, ino: Ino, size: u64) -> Stat {
    let set = SetAttributes {
        size: Some(size),
        ..SetAttributes::default()
    };
    v.set_attributes(ino, &set).unwrap()
}

fn read(v: &Volume, ino: Ino, at: u64, len: usize) -> Vec<u8> {
    let mut buf = vec![0xee; len];
    let got = v.read(ino, at, &mut buf).unwrap();
    buf.truncate(got);
    buf
}

fn blocks(v: &Volume) -> usize {
    let keys = v.inner.store.keys();
    keys.iter().filter(|key| key.tag() == Tag::Extent).count()
}

#[test]
fn writes_cross_blocks_and_reads_stop_at_the_end() {
    let (v, f) = with_file();
    let data: Vec<u8> = (0..300_000_u32).map(|i| (i % 251) as u8).collect();
    assert_eq!(v.write(f, BLOCK - 7, &data).unwrap(), data.len());
    assert_eq!(read(&v, f, BLOCK - 7, 400_000), data);
    assert_eq!(read(&v, f, 10, 5), [0; 5]);
    assert!(read(&v, f, BLOCK + 300_000, 5).is_empty());
    assert!(read(&v, f, u64::MAX, 5).is_empty());
    assert_eq!(v.append(f, b"end").unwrap(), BLOCK - 7 + 300_000);
    let before = v.stat(f).unwrap();
    assert_eq!(v.write(f, 0, b"").unwrap(), 0);
    assert_eq!(v.stat(f).unwrap(), before);
    assert!(matches!(
        v.write(Ino::ROOT, 0, b"x"),
        Err(Error::IsADirectory)
    ));
    assert!(matches!(
        v.read(Ino::ROOT, 0, &mut [0]),
        Err(Error::IsADirectory)
    ));
}

#[test]
fn a_write_of_several_mebibytes_arrives_whole() {
    let (v, f) = with_file();
    let data: Vec<u8> = (0..5_000_000_u32).map(|i| (i / 7) as u8).collect();
    assert_eq!(v.write(f, 3, &data).unwrap(), data.len());
    assert!(read(&v, f, 3, data.len()) == data);
}

#[test]
fn what_was_cut_off_never_comes_back() {
    let (v, f) = with_file();
    v.write(f, 0, &vec![7; 300_000]).unwrap();
    let before = v.stat(f).unwrap();
    let stat = resize(&v, f, 1000);
    assert!(stat.size == 1000 && stat.mtime > before.mtime && stat.ctime > before.ctime);
    assert_eq!(blocks(&v), 1);
    resize(&v, f, 300_000);
    assert_eq!(read(&v, f, 0, 1000), [7; 1000]);
    assert!(read(&v, f, 1000, 299_000).iter().all(|b| *b == 0));
    resize(&v, f, 0);
    assert_eq!((blocks(&v), v.info().bytes), (0, 0));
}

#[test]
fn a_long_truncation_is_finished_later_and_never_shows() {
    let (v, f) = with_file();
    for block in 0..2000 {
        v.write(f, block * BLOCK, b"old").unwrap();
    }
    let stat = resize(&v, f, BLOCK + 1);
    assert!(stat.flags & inode_flags::TRIMMING != 0 && blocks(&v) == 2000);
    assert_eq!(read(&v, f, BLOCK, 9), b"o");
    // Growing inside the last block need not wait; growing beyond finishes the truncation.
    v.write(f, BLOCK + 2, b"new").unwrap();
    assert_eq!(
        (blocks(&v), read(&v, f, BLOCK, 9)),
        (2000, b"o\0new".to_vec())
    );
    v.write(f, 5 * BLOCK, b"new").unwrap();
    assert_eq!(blocks(&v), 3);
    assert_eq!(read(&v, f, 2 * BLOCK, 3), [0; 3]);
    assert_eq!(v.stat(f).unwrap().flags & inode_flags::TRIMMING, 0);
    while v.step(Step::Reap).unwrap() {}
    assert_eq!(
        (blocks(&v), read(&v, f, 5 * BLOCK, 3)),
        (3, b"new".to_vec())
    );
}

#[test]
fn the_reaper_finishes_a_long_truncation() {
    let (v, f) = with_file();
    for block in 0..1500 {
        v.write(f, block * BLOCK, b"old").unwrap();
    }
    resize(&v, f, 2);
    while v.step(Step::Reap).unwrap() {}
    assert_eq!((blocks(&v), read(&v, f, 0, 9)), (1, b"ol".to_vec()));
    assert_eq!(v.stat(f).unwrap().flags & inode_flags::TRIMMING, 0);
}

#[test]
fn a_long_truncation_of_a_nameless_file_shows_nothing_old() {
    let (v, f) = with_file();
    for block in 0..1500 {
        v.write(f, block * BLOCK, b"old").unwrap();
    }
    v.pin(f, 1);
    v.unlink(Ino::ROOT, b"f").unwrap();
    resize(&v, f, 0);
    resize(&v, f, 1500 * BLOCK);
    assert_eq!(read(&v, f, 7 * BLOCK, 3), [0; 3]);
    resize(&v, f, 0);
    v.unpin(f, 1);
    while v.step(Step::Reap).unwrap() {}
    assert_eq!(v.inner.store.keys().len(), 1);
}

#[test]
fn no_file_passes_the_largest_offset() {
    let (v, f) = with_file();
    assert!(matches!(
        v.write(f, FILE_MAX, b"x"),
        Err(Error::FileTooLarge)
    ));
    assert!(matches!(
        v.write(f, u64::MAX, b"x"),
        Err(Error::FileTooLarge)
    ));
    assert_eq!(v.write(f, FILE_MAX - 2, b"xyz").unwrap(), 2);
    assert_eq!(v.stat(f).unwrap().size, FILE_MAX);
    assert!(matches!(v.append(f, b"x"), Err(Error::FileTooLarge)));
    let set = SetAttributes {
        size: Some(FILE_MAX + 1),
        ..SetAttributes::default()
    };
    assert!(matches!(
        v.set_attributes(f, &set),
        Err(Error::FileTooLarge)
    ));
    v.unlink(Ino::ROOT, b"f").unwrap();
    while v.step(Step::Reap).unwrap() {}
    assert_eq!(v.inner.store.keys().len(), 1);
}

#[test]
fn blocks_are_counted_as_they_are_allocated() {
    let (v, f) = with_file();
    v.write(f, 0, &[1; 5000]).unwrap();
    assert_eq!(v.stat(f).unwrap().blocks, 16);
    assert_eq!(resize(&v, f, 1 << 40).blocks, 16);
    v.write(f, 1 << 30, &[1; 4096]).unwrap();
    assert_eq!(v.stat(f).unwrap().blocks, 24);
    v.allocate(f, AllocateMode::PunchHole, 0, 1 << 35).unwrap();
    let stat = v.stat(f).unwrap();
    assert_eq!((stat.blocks, stat.size), (0, 1 << 40));
    assert_eq!(resize(&v, f, 0).flags & inode_flags::SPARSE, 0);
}

#[test]
fn seeking_finds_data_and_holes() {
    let (v, f) = with_file();
    let seek = |at, what| v.seek(f, at, what);
    assert!(matches!(seek(0, SeekFor::Data), Err(Error::BeyondEnd)));
    v.write(f, 0, &[1; 100]).unwrap();
    assert_eq!(seek(5, SeekFor::Data).unwrap(), 5);
    assert_eq!(seek(5, SeekFor::Hole).unwrap(), 100);
    v.write(f, 10 * BLOCK - 50, &[1; 100]).unwrap();
    resize(&v, f, 20 * BLOCK);
    assert_eq!(seek(50, SeekFor::Hole).unwrap(), 100);
    assert_eq!(seek(100, SeekFor::Hole).unwrap(), 100);
    assert_eq!(seek(100, SeekFor::Data).unwrap(), 10 * BLOCK - 50);
    assert_eq!(
        seek(10 * BLOCK - 20, SeekFor::Hole).unwrap(),
        10 * BLOCK + 50
    );
    assert!(matches!(
        seek(10 * BLOCK + 50, SeekFor::Data),
        Err(Error::BeyondEnd)
    ));
    assert_eq!(seek(15 * BLOCK, SeekFor::Hole).unwrap(), 15 * BLOCK);
    assert!(matches!(
        seek(20 * BLOCK, SeekFor::Hole),
        Err(Error::BeyondEnd)
    ));
}

#[test]
fn allocation_keeps_or_extends_the_size_and_punching_zeroes() {
    let (v, f) = with_file();
    v.write(f, 0, &vec![9; 3 * BLOCK as usize]).unwrap();
    v.allocate(f, AllocateMode::KeepSize, 0, 9 * BLOCK).unwrap();
    assert_eq!(v.stat(f).unwrap().size, 3 * BLOCK);
    v.allocate(f, AllocateMode::PunchHole, 100, 2 * BLOCK)
        .unwrap();
    assert_eq!(blocks(&v), 2);
    assert_eq!(read(&v, f, 99, 3), [9, 0, 0]);
    assert_eq!(read(&v, f, 2 * BLOCK + 99, 3), [0, 9, 9]);
    v.allocate(f, AllocateMode::ZeroExtend, 3 * BLOCK - 1, 5)
        .unwrap();
    assert_eq!(v.stat(f).unwrap().size, 3 * BLOCK + 4);
    assert_eq!(read(&v, f, 3 * BLOCK - 2, 9), [9, 0, 0, 0, 0, 0]);
    v.allocate(f, AllocateMode::Extend, 0, 5 * BLOCK).unwrap();
    assert_eq!(v.stat(f).unwrap().size, 5 * BLOCK);
    assert!(matches!(
        v.allocate(f, AllocateMode::Extend, 0, 0),
        Err(Error::Invalid(_))
    ));
    let past = v.allocate(f, AllocateMode::Extend, FILE_MAX, 1);
    assert!(matches!(past, Err(Error::FileTooLarge)));
}

#[test]
fn copying_stops_at_the_end_of_the_source() {
    let (v, f) = with_file();
    let data: Vec<u8> = (0..200_000_u32).map(|i| (i % 253) as u8).collect();
    v.write(f, 0, &data).unwrap();
    let g = v
        .create_node(Ino::ROOT, b"g", &NewNode::file(0))
        .unwrap()
        .ino;
    assert_eq!(
        v.copy_range(f, 5, g, 9, u64::MAX).unwrap(),
        data.len() as u64 - 5
    );
    assert!(read(&v, g, 9, 300_000) == data[5..]);
    assert!(matches!(
        v.copy_range(f, 0, f, 5, 10),
        Err(Error::Invalid(_))
    ));
    // A copy of the end of a file to its own end does not follow itself.
    assert_eq!(v.copy_range(f, 199_990, f, 200_000, 20).unwrap_or(10), 10);
}

#[test]
fn a_limit_stops_growth_and_nothing_else() {
    let options = Options {
        limit: Some(1000),
        ..Options::default()
    };
    let v = Volume::for_tests(options);
    let f = v
        .create_node(Ino::ROOT, b"f", &NewNode::file(0))
        .unwrap()
        .ino;
    v.write(f, 0, &[1; 1000]).unwrap();
    assert!(matches!(v.append(f, b"x"), Err(Error::LimitReached)));
    v.write(f, 0, &[2; 1000]).unwrap();
    let set = SetAttributes {
        size: Some(1001),
        ..SetAttributes::default()
    };
    assert!(matches!(
        v.set_attributes(f, &set),
        Err(Error::LimitReached)
    ));
    assert_eq!(v.space().unwrap().free, 0);
    resize(&v, f, 10);
    v.append(f, b"x").unwrap();
}

#[test]
fn an_allocation_is_one_operation_whatever_it_does() {
    let (v, f) = with_file();
    let count = 40;
    for block in 0..count {
        v.write(f, block * BLOCK, &[7; 100]).unwrap();
    }
    let size = v.stat(f).unwrap().size;
    let before = v.stats().ops;
    v.allocate(f, AllocateMode::ZeroExtend, 50, size + BLOCK)
        .unwrap();
    assert_eq!(v.stats().ops, before + 1);
    assert_eq!(v.stat(f).unwrap().size, size + BLOCK + 50);
    assert_eq!(read(&v, f, 0, 100), [[7; 50], [0; 50]].concat());
    assert_eq!(blocks(&v), 1);
    v.allocate(f, AllocateMode::PunchHole, 0, 2 * size).unwrap();
    assert_eq!(v.stats().ops, before + 2);
    assert_eq!(blocks(&v), 0);
}

#[test]
fn what_the_journal_does_not_take_at_once_is_erased_in_steps() {
    let geometry = crate::Geometry::tiny();
    let v = Volume::for_tests(Options {
        geometry,
        ..Options::default()
    });
    let node = NewNode::file(0o644);
    let f = v.create_node(Ino::ROOT, b"f", &node).unwrap().ino;
    let most = v.inner.store.limits.most() as u64;
    let count = most / 64 + 10;
    for block in 0..count {
        v.write(f, block * BLOCK + 1, b"x").unwrap();
    }
    let before = v.stats().ops;
    v.allocate(f, AllocateMode::ZeroExtend, 0, count * BLOCK)
        .unwrap();
    assert!(v.stats().ops > before + 1, "{most}");
    assert_eq!(v.stat(f).unwrap().size, count * BLOCK);
    assert_eq!(blocks(&v), 0);
    assert!(crate::marks::count(crate::marks::Mark::EraseSteps) > 0);
}

/// Two programs work at the same time: what one wrote is in the batch that the other waits for,
/// and the host has no room for it.
#[test]
fn a_nameless_file_that_nobody_was_told_of_is_removed() {
    let disk = SimDisk::new();
    let options = Options {
        geometry: Geometry::tiny(),
        durability: Durability::Sync,
        threads: false,
        ..Options::default()
    };
    let (door, env) = (Arc::new(disk.clone()), Arc::new(SimEnv::new(1)));
    Volume::create_on(door.clone(), env.clone(), &CreateOptions::from(&options)).unwrap();
    let v = Volume::open_on(door, env, options).unwrap();
    let node = NewNode::file(0o644);
    let f = v.create_node(Ino::ROOT, b"f", &node).unwrap().ino;
    let mut noise = vec![0; 60_000];
    SimRng::new(1).fill(&mut noise);
    v.inner.write_piece(f, 0, &noise).unwrap();
    let before = v.space().unwrap().inodes;
    disk.set_capacity(Some(0));
    let error = v.create_unnamed(Ino::ROOT, &node).unwrap_err();
    assert!(matches!(error, Error::NoSpace), "{error}");
    disk.set_capacity(None);
    v.sync().unwrap();
    while v.step(Step::Reap).unwrap() {}
    assert_eq!(v.space().unwrap().inodes, before);
}

#[test]
fn sizes_that_need_more_than_64_bits_are_counted_over_checkpoint_crash_and_opening() {
    let options = Options {
        threads: false,
        ..Options::default()
    };
    let disk = SimDisk::new();
    let create = CreateOptions::from(&options);
    Volume::create_on(Arc::new(disk.clone()), Arc::new(SimEnv::new(1)), &create).unwrap();
    let open = |disk: &SimDisk| {
        let env = Arc::new(SimEnv::new(2));
        Volume::open_on(Arc::new(disk.clone()), env, options.clone()).unwrap()
    };
    let sum = |volume: &Volume| volume.inner.store.bytes.get();
    let volume = open(&disk);
    let most = i64::MAX as u64;
    let mut files = Vec::new();
    for name in [b"a", b"b", b"c"] {
        let node = NewNode::file(0o644);
        files.push(volume.create_node(Ino::ROOT, name, &node).unwrap().ino);
    }
    resize(&volume, files[0], most);
    volume.write(files[1], 0, b"more").unwrap();
    assert_eq!(volume.info().bytes, most + 4);
    for ino in &files {
        resize(&volume, *ino, most);
    }
    assert_eq!(sum(&volume), 3 * u128::from(most));
    assert_eq!(volume.info().bytes, u64::MAX);
    // Once from the journal, once from the manifest.
    volume.sync().unwrap();
    let volume = open(&disk.power_cut_with(|_| 0));
    assert_eq!(sum(&volume), 3 * u128::from(most));
    let disk = SimDisk::new();
    Volume::create_on(Arc::new(disk.clone()), Arc::new(SimEnv::new(1)), &create).unwrap();
    let volume = open(&disk);
    for name in [b"a", b"b", b"c"] {
        let node = NewNode::file(0o644);
        let ino = volume.create_node(Ino::ROOT, name, &node).unwrap().ino;
        resize(&volume, ino, most);
    }
    volume.close().unwrap();
    let volume = open(&disk);
    assert_eq!(sum(&volume), 3 * u128::from(most));
    let ino = volume.lookup(Ino::ROOT, b"a").unwrap().ino;
    resize(&volume, ino, 1);
    assert_eq!(sum(&volume), 2 * u128::from(most) + 1);
    assert_eq!(volume.info().bytes, u64::MAX);
    let ino = volume.lookup(Ino::ROOT, b"c").unwrap().ino;
    resize(&volume, ino, 1);
    assert_eq!(volume.info().bytes, most + 2);
}
