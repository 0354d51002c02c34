//! Ranges that are taken out of files, and put into them.

use razorfs_disk::sim::{SimDisk, SimRng};
use razorfs_format::record::FILE_MAX;

use crate::{
    AllocateMode, Durability, Error, Ino, Options, SeekFor, SetAttributes, Step, Volume,
    inode_flags,
};

use super::frames_fixture::{BLOCK, bytes, create, frames, read, shared, volume, volume_on};

const B: usize = BLOCK as usize;

fn collapse(data: &mut Vec<u8>, at: usize, len: usize) {
    data.drain(at..at + len);
}

fn insert(data: &mut Vec<u8>, at: usize, len: usize) {
    data.splice(at..at, std::iter::repeat_n(0, len));
}

#[test]
fn what_is_no_range_of_the_file_is_refused() {
    let v = volume();
    let f = create(&v, b"f");
    v.write(f, 0, &bytes(1, 20_000)).unwrap();
    let was = (v.stat(f).unwrap(), read(&v, f));
    for (at, len) in [(0, 0), (4096, 0), (1, 4096), (4096, 4095), (512, 512)] {
        assert!(matches!(
            v.collapse_range(f, at, len),
            Err(Error::Invalid(_))
        ));
        assert!(matches!(v.insert_range(f, at, len), Err(Error::Invalid(_))));
    }
    let last = !4095;
    for (at, len) in [
        (0, 20_480),
        (16_384, 4096),
        (20_480, 4096),
        (4096, last),
        (last, last),
    ] {
        assert!(matches!(
            v.collapse_range(f, at, len),
            Err(Error::Invalid(_))
        ));
    }
    assert!(matches!(
        v.insert_range(f, 20_480, 4096),
        Err(Error::Invalid(_))
    ));
    for len in [last, FILE_MAX & !4095] {
        assert!(matches!(
            v.insert_range(f, 0, len),
            Err(Error::FileTooLarge)
        ));
    }
    let directory = v.insert_range(Ino::ROOT, 0, 4096);
    assert!(matches!(directory, Err(Error::IsADirectory)));
    assert!(matches!(
        v.collapse_range(Ino(99), 0, 4096),
        Err(Error::NotFound)
    ));
    for flags in [inode_flags::APPEND, inode_flags::IMMUTABLE] {
        let set = |flags| {
            let set = SetAttributes {
                flags: Some(flags),
                ..SetAttributes::default()
            };
            v.set_attributes(f, &set).unwrap();
        };
        set(flags);
        let refused = |r| matches!(r, Err(Error::NotPermitted(_)));
        assert!(refused(v.collapse_range(f, 0, 4096)) && refused(v.insert_range(f, 0, 4096)));
        set(0);
    }
    let mut now = v.stat(f).unwrap();
    now.ctime = was.0.ctime;
    assert!((now, read(&v, f)) == was);
}

#[test]
fn what_is_in_ram_moves_at_once_and_times_and_size_change() {
    let v = volume();
    let f = create(&v, b"f");
    let mut data = bytes(2, 300_000);
    v.write(f, 0, &data).unwrap();
    let was = v.stat(f).unwrap();
    let checkpoints = v.stats().checkpoints;
    v.insert_range(f, 8192, 4096).unwrap();
    insert(&mut data, 8192, 4096);
    assert!(read(&v, f) == data);
    assert_eq!(v.seek(f, 0, SeekFor::Hole).unwrap(), 8192);
    v.collapse_range(f, 4096, 135_168).unwrap();
    collapse(&mut data, 4096, 135_168);
    assert!(read(&v, f) == data);
    let now = v.stat(f).unwrap();
    assert!(now.mtime > was.mtime && now.ctime > was.ctime);
    assert_eq!(v.info().bytes, data.len() as u64);
    assert_eq!(v.stats().checkpoints, checkpoints);
    v.step(Step::Commit).unwrap();
    v.step(Step::Checkpoint).unwrap();
    assert!(read(&v, f) == data);
    assert_eq!(v.seek(f, 0, SeekFor::Hole).unwrap(), data.len() as u64);
}

#[test]
fn much_that_is_in_ram_is_flushed_first_and_then_referred_to() {
    let v = Volume::for_tests(Options::default());
    let f = create(&v, b"f");
    let mut data = bytes(3, 20 * B);
    v.write(f, 0, &data).unwrap();
    let written = v.stats().written_bytes;
    v.insert_range(f, 0, BLOCK).unwrap();
    insert(&mut data, 0, B);
    assert!(read(&v, f) == data);
    assert_eq!(frames(&v, f, 0), (0, 0));
    assert!((1..=20).all(|block| frames(&v, f, block) == (1, 0)));
    v.step(Step::Commit).unwrap();
    assert!(v.stats().written_bytes - written <= 20 * BLOCK);
    v.step(Step::Checkpoint).unwrap();
    assert_eq!(shared(&v), 20);
    assert!(read(&v, f) == data);
}

/// What stays of a frame in the block of which the end has moved is a shared reference, too, and
/// all are counted: the frame goes with the last.
#[test]
fn the_block_at_the_edge_shares_its_frame_with_the_ones_behind() {
    let v = volume();
    let f = create(&v, b"f");
    let mut data = bytes(4, 3 * B);
    v.write(f, 0, &data).unwrap();
    v.step(Step::Commit).unwrap();
    // In three pieces, of which the second lies on both sides.
    v.write(f, 30_000, &[7; 100]).unwrap();
    data[30_000..30_100].fill(7);
    v.insert_range(f, 65_536, 4096).unwrap();
    insert(&mut data, 65_536, 4096);
    assert_eq!(frames(&v, f, 0).1, 0);
    assert_eq!(frames(&v, f, 1), (2, 0));
    assert!(read(&v, f) == data);
    v.step(Step::Checkpoint).unwrap();
    assert_eq!(shared(&v), 3);
    assert!(read(&v, f) == data);
    // Within one block: what comes in between goes, both its sides stay.
    v.collapse_range(f, 8192, 8192).unwrap();
    collapse(&mut data, 8192, 8192);
    assert!(read(&v, f) == data);
    v.step(Step::Checkpoint).unwrap();
    assert!(read(&v, f) == data);
    v.unlink(Ino::ROOT, b"f").unwrap();
    while v.step(Step::Reap).unwrap() {}
    v.step(Step::Checkpoint).unwrap();
    assert_eq!((shared(&v), v.info().pack_live_bytes), (0, 0));
}

/// A frame of the last block that stays is cut, and stays an own one.
#[test]
fn a_frame_that_is_only_cut_stays_an_own_one() {
    let v = volume();
    let f = create(&v, b"f");
    let mut data = bytes(5, 4 * B);
    v.write(f, 0, &data).unwrap();
    v.step(Step::Checkpoint).unwrap();
    v.collapse_range(f, 4096, 2 * BLOCK).unwrap();
    collapse(&mut data, 4096, 2 * B);
    // Of the first block the beginning, and then what has come.
    assert_eq!(frames(&v, f, 0), (1, 1));
    assert!(read(&v, f) == data);
    v.step(Step::Checkpoint).unwrap();
    assert_eq!(shared(&v), 2);
    assert!(read(&v, f) == data);
}

/// Deleting a block, referring and writing to it are one transaction; then it is one batch with
/// the writes before and after it, and then one journal that is replayed.
#[test]
fn blocks_that_go_and_come_in_one_batch_are_the_same_after_a_replay() {
    use razorfs_disk::sim::{SimDisk, SimEnv};
    use std::sync::Arc;
    for flushed in [false, true] {
        let (disk, env) = (SimDisk::new(), Arc::new(SimEnv::new(1)));
        let options = Options {
            threads: false,
            ..Options::default()
        };
        let create_options = crate::CreateOptions::from(&options);
        Volume::create_on(Arc::new(disk.clone()), env.clone(), &create_options).unwrap();
        let v = Volume::open_on(Arc::new(disk.clone()), env.clone(), options.clone()).unwrap();
        let f = create(&v, b"f");
        let mut data = bytes(6, 3 * B);
        v.write(f, 0, &data).unwrap();
        v.step(if flushed {
            Step::Checkpoint
        } else {
            Step::Commit
        })
        .unwrap();
        v.write(f, BLOCK + 5000, &bytes(7, 9000)).unwrap();
        data[B + 5000..B + 14_000].copy_from_slice(&bytes(7, 9000));
        v.insert_range(f, 4096, 8192).unwrap();
        insert(&mut data, 4096, 8192);
        v.write(f, BLOCK + 1000, &bytes(8, 20_000)).unwrap();
        data[B + 1000..B + 21_000].copy_from_slice(&bytes(8, 20_000));
        v.collapse_range(f, BLOCK, 12_288).unwrap();
        collapse(&mut data, B, 12_288);
        v.insert_range(f, BLOCK, 4096).unwrap();
        insert(&mut data, B, 4096);
        assert!(read(&v, f) == data);
        v.sync().unwrap();
        let disk = disk.power_cut(&mut SimRng::new(1));
        drop(v);
        let v = Volume::open_on(Arc::new(disk), env, options).unwrap();
        assert!(read(&v, f) == data);
        v.step(Step::Checkpoint).unwrap();
        assert!(read(&v, f) == data);
    }
}

#[test]
fn holes_move_and_cost_nothing() {
    let v = volume();
    let f = create(&v, b"f");
    v.write(f, 5 * BLOCK, &bytes(9, 6000)).unwrap();
    v.write(f, 1 << 50, &bytes(10, 50_000)).unwrap();
    v.step(Step::Checkpoint).unwrap();
    let (was, size) = (v.stats().journal_bytes, v.stat(f).unwrap().size);
    v.insert_range(f, 0, 3 * BLOCK + 4096).unwrap();
    v.insert_range(f, 1 << 49, 1 << 51).unwrap();
    v.collapse_range(f, 1 << 49, 1 << 50).unwrap();
    v.collapse_range(f, 0, 4096).unwrap();
    v.step(Step::Commit).unwrap();
    assert!(v.stats().journal_bytes - was < 8192);
    let far = (1 << 50) + (1 << 50) + 3 * BLOCK;
    assert_eq!(v.stat(f).unwrap().size, size + (1 << 50) + 3 * BLOCK);
    assert_eq!(v.seek(f, 0, SeekFor::Data).unwrap(), 8 * BLOCK);
    assert_eq!(
        v.seek(f, 8 * BLOCK, SeekFor::Hole).unwrap(),
        8 * BLOCK + 6000
    );
    assert_eq!(v.seek(f, 9 * BLOCK, SeekFor::Data).unwrap(), far);
    let mut got = vec![0; 50_000];
    assert_eq!(v.read(f, far, &mut got).unwrap(), got.len());
    assert!(got == bytes(10, 50_000));
}

/// As far as offsets go: what would be pushed beyond is refused, what fits is moved.
#[test]
fn a_range_is_inserted_up_to_the_largest_offset() {
    let v = volume();
    let f = create(&v, b"f");
    v.write(f, FILE_MAX - 8192 - 3, &[5; 3]).unwrap();
    v.insert_range(f, 0, 8192).unwrap();
    assert_eq!(v.stat(f).unwrap().size, FILE_MAX);
    assert_eq!(v.seek(f, 0, SeekFor::Data).unwrap(), FILE_MAX - 3);
    assert!(matches!(
        v.insert_range(f, 0, 4096),
        Err(Error::FileTooLarge)
    ));
    v.collapse_range(f, 0, 1 << 62).unwrap();
    assert_eq!(
        v.seek(f, 0, SeekFor::Data).unwrap(),
        FILE_MAX - (1 << 62) - 3
    );
}

/// A truncation whose blocks the reaper has not removed yet leaves nothing where a range moves to.
#[test]
fn a_range_is_inserted_over_an_unfinished_truncation() {
    let v = volume();
    let f = create(&v, b"f");
    v.write(f, 0, &vec![6; 2 * B]).unwrap();
    for n in 1..1100 {
        v.write(f, n * 2 * BLOCK, &[n as u8; 10]).unwrap();
    }
    let set = SetAttributes {
        size: Some(BLOCK + 5000),
        ..SetAttributes::default()
    };
    v.set_attributes(f, &set).unwrap();
    assert!(v.stat(f).unwrap().size == BLOCK + 5000);
    v.insert_range(f, BLOCK, 30 * BLOCK).unwrap();
    let mut want = vec![6; B + 5000];
    insert(&mut want, B, 30 * B);
    assert!(read(&v, f) == want);
    while v.step(Step::Reap).unwrap() {}
    assert!(read(&v, f) == want);
}

#[test]
fn a_limit_stops_inserting_and_counts_what_is_taken_out() {
    let v = Volume::for_tests(Options {
        limit: Some(100_000),
        durability: Durability::Sync,
        ..Options::default()
    });
    let f = create(&v, b"f");
    v.write(f, 0, &bytes(11, 90_000)).unwrap();
    assert!(matches!(
        v.insert_range(f, 0, 12_288),
        Err(Error::LimitReached)
    ));
    v.insert_range(f, 0, 8192).unwrap();
    assert_eq!(v.info().bytes, 98_192);
    v.collapse_range(f, 4096, 90_112).unwrap();
    assert_eq!(v.info().bytes, 8080);
    v.insert_range(f, 4096, 90_112).unwrap();
    assert_eq!(v.info().bytes, 98_192);
}

/// Lets a file grow from one number of blocks to another, each as its first.
fn double(v: &Volume, f: Ino, blocks: std::ops::Range<u64>) {
    let mut now = blocks.start;
    while now < blocks.end {
        let copied = v.copy_range(f, 0, f, now * BLOCK, now * BLOCK);
        assert_eq!(copied.unwrap(), now * BLOCK);
        v.step(Step::Checkpoint).unwrap();
        now *= 2;
    }
}

/// What does not fit in the journal lets it grow first, the file in use too, and is refused where
/// that is not enough; nothing has changed then.
#[test]
fn the_journal_grows_for_what_moves_and_has_its_limit() {
    let v = volume();
    let (f, piece) = (create(&v, b"f"), bytes(12, B));
    v.write(f, 0, &piece).unwrap();
    v.step(Step::Checkpoint).unwrap();
    double(&v, f, 1..1024);
    let has = |block: u64, gap: u64| {
        let mut got = vec![0; B];
        v.read(f, block * BLOCK + gap, &mut got).unwrap();
        got == piece
    };
    let (most, journal) = (v.inner.store.limits.most(), v.info().journal_bytes);
    assert!(most < 1024 * 300);
    v.insert_range(f, 0, 4096).unwrap();
    assert!(v.inner.store.limits.most() > most && v.info().journal_bytes > journal);
    assert!((0..1024).all(|block| has(block, 4096)));
    v.step(Step::Checkpoint).unwrap();
    assert!((0..1024).all(|block| has(block, 4096)));
    v.collapse_range(f, 0, 4096).unwrap();
    double(&v, f, 1024..8192);
    let was = v.stat(f).unwrap();
    let refused = v.insert_range(f, 0, 4096);
    assert!(matches!(refused, Err(Error::Unsupported(why)) if why.contains("journal")));
    assert!(v.stat(f).unwrap() == was && has(0, 0) && has(8191, 0));
    // Of the same file a shorter tail.
    v.insert_range(f, 8000 * BLOCK, 4096).unwrap();
    assert!(has(7999, 0) && has(8191, 4096));
}

/// More space is the remedy there, and not another way to do the same.
#[test]
fn where_the_host_has_no_room_for_the_journal_to_grow_that_is_what_is_told() {
    let disk = SimDisk::new();
    let v = volume_on(&disk);
    let f = create(&v, b"f");
    v.write(f, 0, &bytes(12, B)).unwrap();
    v.step(Step::Checkpoint).unwrap();
    double(&v, f, 1..1024);
    assert!(v.inner.store.limits.most() < 1024 * 300);
    let used: u64 = disk.files().iter().map(|(_, len)| *len).sum();
    disk.set_capacity(Some(used + (600 << 10)));
    let was = v.stat(f).unwrap();
    let refused = v.insert_range(f, 0, 4096);
    assert!(matches!(refused, Err(Error::NoSpace)), "{refused:?}");
    assert!(v.stat(f).unwrap() == was);
    disk.set_capacity(None);
    v.insert_range(f, 0, 4096).unwrap();
}

/// Whoever comes second finds the journal as large as it can be: that is no reason to refuse what
/// fits in it by now.
#[test]
fn a_journal_that_others_let_grow_takes_what_it_takes() {
    let v = volume();
    let store = &v.inner.store;
    let least = store.limits.most() + 1;
    while store.grow_journal_for(store.limits.most() + 1).unwrap() {}
    assert!(store.grow_journal_for(least).unwrap());
    assert!(!store.grow_journal_for(store.limits.most() + 1).unwrap());
}

/// The power goes at each call to the disk while the journal grows for what moves.
#[test]
fn a_cut_while_the_journal_grows_leaves_the_file_before_or_after() {
    use razorfs_disk::sim::{SimDisk, SimEnv};
    use std::sync::Arc;
    let options = Options {
        geometry: crate::Geometry::tiny(),
        threads: false,
        ..Options::default()
    };
    let env = Arc::new(SimEnv::new(1));
    let open = |disk: &SimDisk| {
        Volume::open_on(Arc::new(disk.clone()), env.clone(), options.clone()).unwrap()
    };
    let disk = SimDisk::new();
    let create_options = crate::CreateOptions::from(&options);
    Volume::create_on(Arc::new(disk.clone()), env.clone(), &create_options).unwrap();
    let v = open(&disk);
    let (f, piece) = (create(&v, b"f"), bytes(13, B));
    v.write(f, 0, &piece).unwrap();
    v.step(Step::Commit).unwrap();
    for n in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512] {
        v.copy_range(f, 0, f, n * BLOCK, n * BLOCK).unwrap();
    }
    v.sync().unwrap();
    let image = razorfs_disk::sim::Image::load(&disk).unwrap();
    drop(v);
    let (mut before, mut after, mut calls) = (0, 0, 1);
    loop {
        let disk = SimDisk::from_image(&image);
        let v = open(&disk);
        let first = disk.op_count();
        disk.cut_after(first + calls);
        let done = v.insert_range(f, 4096, 4096).and_then(|()| v.sync());
        drop(v);
        let disk = disk.power_cut(&mut SimRng::new(calls));
        let v = open(&disk);
        let gap = v.stat(f).unwrap().size - 1024 * BLOCK;
        assert!(gap == 4096 || (gap == 0 && done.is_err()));
        for block in [0, 1, 500, 1022] {
            let mut got = vec![0; B];
            v.read(f, block * BLOCK + 4096 + gap, &mut got).unwrap();
            assert!(got[..B - 4096] == piece[4096..] && got[B - 4096..] == piece[..4096]);
        }
        v.insert_range(f, 4096, 4096).unwrap();
        v.step(Step::Checkpoint).unwrap();
        (before, after) = match gap {
            0 => (before + 1, after),
            _ => (before, after + 1),
        };
        if done.is_ok() {
            break;
        }
        calls += 1;
    }
    assert!(before > 20 && after > 0, "{before} {after}");
}

#[derive(Clone, Copy, Debug)]
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0 += 1;
        SimRng::new(self.0 * 7919).fill(&mut bytes);
        u64::from_le_bytes(bytes) % n.max(1)
    }
}

/// One operation on a file and on what it should hold.
fn some_operation(v: &Volume, f: Ino, data: &mut Vec<u8>, rng: &mut Rng) {
    let size = data.len() as u64;
    let at = 4096 * rng.below(size / 4096 + 1);
    let len = match rng.below(4) {
        0 => BLOCK * (1 + rng.below(2)),
        _ => 4096 * (1 + rng.below(40)),
    };
    match rng.below(10) {
        0..3 if at < size && size < 1_500_000 => {
            v.insert_range(f, at, len).unwrap();
            insert(data, at as usize, len as usize);
        }
        0..6 if at + len < size => {
            v.collapse_range(f, at, len).unwrap();
            collapse(data, at as usize, len as usize);
        }
        6 => {
            let (from, to) = (rng.below(size + 1), rng.below(600_000));
            let len = rng.below(200_000).min(size - from);
            if from < to + len && to < from + len {
                return;
            }
            assert_eq!(v.copy_range(f, from, f, to, len).unwrap(), len);
            if len > 0 {
                let end = (to + len) as usize;
                data.resize(data.len().max(end), 0);
                data.copy_within(from as usize..(from + len) as usize, to as usize);
            }
        }
        7 => {
            let (at, len) = (rng.below(size + 1), 1 + rng.below(200_000));
            let mode = AllocateMode::PunchHole;
            v.allocate(f, mode, at, len).unwrap();
            let end = (at + len).min(size).max(at) as usize;
            data[at as usize..end].fill(0);
        }
        n => {
            let at = rng.below(size + 50_000) as usize;
            let len = [100, 3000, 40_000, 300_000][rng.below(4) as usize];
            let new = bytes(rng.0 + n, len);
            v.write(f, at as u64, &new).unwrap();
            data.resize(data.len().max(at + len), 0);
            data[at..at + len].copy_from_slice(&new);
        }
    }
}

#[test]
fn files_are_what_a_vector_is_after_the_same() {
    for seed in 0..12 {
        let v = volume();
        let mut rng = Rng(seed * 1_000_000);
        let mut files: Vec<_> = (0..2u8)
            .map(|n| (create(&v, &[b'a' + n]), Vec::new()))
            .collect();
        for n in 0..150 {
            let (f, data) = &mut files[rng.below(2) as usize];
            some_operation(&v, *f, data, &mut rng);
            assert!(read(&v, *f) == *data, "seed {seed}, step {n}");
            let step = match rng.below(12) {
                0 | 1 => Step::Commit,
                2 => Step::Checkpoint,
                3 => Step::Compact,
                4 => Step::Grow,
                5 => {
                    v.inner.store.freeze(false).unwrap();
                    continue;
                }
                _ => continue,
            };
            v.step(step).unwrap();
        }
        v.step(Step::Checkpoint).unwrap();
        for (f, data) in &files {
            assert!(read(&v, *f) == *data, "seed {seed}");
        }
        for name in [b"a", b"b"] {
            v.unlink(Ino::ROOT, name).unwrap();
        }
        while v.step(Step::Reap).unwrap() {}
        v.step(Step::Checkpoint).unwrap();
        assert_eq!((shared(&v), v.info().pack_live_bytes), (0, 0));
    }
}
