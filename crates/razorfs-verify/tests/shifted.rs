//! Files out of which ranges were taken, and into which they were put: what that costs, and that
//! the counts of frames stay right whatever follows.

use crate::common::*;
use razorfs::{CreateOptions, Geometry, Ino, Options, Step, Volume};
use razorfs_disk::sim::{SimDisk, SimEnv, SimRng};
use std::sync::Arc;

const BLOCK: u64 = 128 << 10;

fn clean(disk: &SimDisk) {
    for level in 0..=3 {
        assert_clean(&check_disk(disk, level));
    }
}

fn collapse(v: &Volume, f: Ino, data: &mut Vec<u8>, at: usize, len: usize) {
    v.collapse_range(f, at as u64, len as u64).unwrap();
    data.drain(at..at + len);
}

fn insert(v: &Volume, f: Ino, data: &mut Vec<u8>, at: usize, len: usize) {
    v.insert_range(f, at as u64, len as u64).unwrap();
    data.splice(at..at, std::iter::repeat_n(0, len));
}

#[test]
fn what_moves_of_64_mib_costs_no_pack_bytes_to_speak_of() {
    let (disk, env) = (SimDisk::new(), SimEnv::new(1));
    let arcs = || (Arc::new(disk.clone()), Arc::new(env.clone()));
    let (d, e) = arcs();
    let geometry = Geometry::default();
    let create = CreateOptions {
        geometry,
        ..CreateOptions::default()
    };
    Volume::create_on(d, e, &create).unwrap();
    let options = Options {
        threads: false,
        ..Options::default()
    };
    let (d, e) = arcs();
    let v = Volume::open_on(d, e, options).unwrap();
    let f = create_file(&v, "f");
    let mut data = Rng(3).bytes(64 << 20);
    v.write(f, 0, &data).unwrap();
    v.step(Step::Checkpoint).unwrap();
    let (before, written) = (pack_bytes(&disk), v.stats().journal_bytes);
    collapse(&v, f, &mut data, 4096, 4096);
    insert(&v, f, &mut data, 1 << 20, 12_288);
    collapse(&v, f, &mut data, 0, BLOCK as usize);
    v.step(Step::Commit).unwrap();
    assert_eq!(pack_bytes(&disk), before);
    assert!(v.stats().journal_bytes - written < 512 << 10);
    v.step(Step::Checkpoint).unwrap();
    assert!(pack_bytes(&disk) - before < 1 << 20);
    assert!(read(&v, f) == data);
    clean(&disk);
    // What was taken out is the only thing that is not needed any more.
    let live = v.info().pack_live_bytes;
    assert!(live >= data.len() as u64 && live <= before);
    remove(&v, "f");
    settle(&v);
    clean(&disk);
    assert_eq!(v.info().pack_live_bytes, 0);
}

/// One operation on one of the files, and on what it should hold.
fn some_operation(v: &Volume, files: &mut [(Ino, Vec<u8>)], rng: &mut Rng) {
    let n = rng.below(files.len() as u64) as usize;
    let other = files[rng.below(files.len() as u64) as usize].clone();
    let (f, data) = &mut files[n];
    let size = data.len() as u64;
    let at = (4096 * rng.below(size / 4096 + 1)) as usize;
    let len = match rng.below(4) {
        0 => BLOCK * (1 + rng.below(2)),
        _ => 4096 * (1 + rng.below(40)),
    } as usize;
    match rng.below(10) {
        0..3 if (at as u64) < size && size < 1_000_000 => insert(v, *f, data, at, len),
        0..6 if ((at + len) as u64) < size => collapse(v, *f, data, at, len),
        6 | 7 => {
            let from = rng.below(other.1.len() as u64 + 1);
            let (to, len) = (rng.below(400_000), rng.below(300_000));
            let len = len.min(other.1.len() as u64 - from);
            if *f == other.0 && from < to + len && to < from + len {
                return;
            }
            assert_eq!(v.copy_range(other.0, from, *f, to, len).unwrap(), len);
            if len > 0 {
                let end = (to + len) as usize;
                data.resize(data.len().max(end), 0);
                data[to as usize..end].copy_from_slice(&other.1[from as usize..][..len as usize]);
            }
        }
        _ => {
            let at = rng.below(size + 50_000) as usize;
            let len = [100, 3000, 40_000, 300_000][rng.below(4) as usize];
            let new = rng.bytes(len);
            v.write(*f, at as u64, &new).unwrap();
            data.resize(data.len().max(at + len), 0);
            data[at..at + len].copy_from_slice(&new);
        }
    }
}

/// Files that share with themselves and each other, across flushes, closings and power cuts.
#[test]
fn files_that_share_are_what_a_vector_is_after_the_same() {
    for seed in 0..6 {
        let (mut disk, env) = (SimDisk::new(), SimEnv::new(seed));
        create(&disk, &env);
        let mut v = open(&disk, &env);
        let mut rng = Rng(seed);
        let mut files: Vec<_> = (0..3)
            .map(|n| (create_file(&v, &format!("{n}")), Vec::new()))
            .collect();
        for n in 0..160 {
            some_operation(&v, &mut files, &mut rng);
            match rng.below(24) {
                0..4 => drop(v.step(Step::Commit).unwrap()),
                4..6 => drop(v.step(Step::Checkpoint).unwrap()),
                6 => drop(v.step(Step::Compact).unwrap()),
                7 => {
                    v.close().unwrap();
                    clean(&disk);
                    v = open(&disk, &env);
                }
                8 => {
                    v.sync().unwrap();
                    disk = disk.power_cut(&mut SimRng::new(n));
                    drop(v);
                    v = open(&disk, &env);
                }
                _ => {}
            }
            for (f, data) in &files {
                assert!(read(&v, *f) == *data, "seed {seed}, step {n}, inode {f}");
            }
        }
        settle(&v);
        clean(&disk);
        (0..3).for_each(|n| remove(&v, &format!("{n}")));
        settle(&v);
        clean(&disk);
        assert_eq!(v.info().pack_live_bytes, 0);
    }
}

/// Flushes come when they like: what was seen before them is looked at anew.
#[test]
fn threads_that_move_what_they_share_lose_nothing() {
    let (disk, env) = (SimDisk::new(), SimEnv::new(15));
    create(&disk, &env);
    let threads = Options {
        threads: true,
        ..options()
    };
    let open = || {
        let (disk, env) = (Arc::new(disk.clone()), Arc::new(env.clone()));
        Volume::open_on(disk, env, threads.clone()).unwrap()
    };
    let v = open();
    let work = |id: u64| {
        let v = v.clone();
        std::thread::spawn(move || {
            let mut rng = Rng(id);
            let mut files: Vec<_> = (0..3)
                .map(|n| (create_file(&v, &format!("{id}-{n}")), Vec::new()))
                .collect();
            // On a busy machine flushes come late.
            for n in (0..).take_while(|n| *n < 400 || v.stats().checkpoints < 4) {
                some_operation(&v, &mut files, &mut rng);
                if n % 20 == 0 {
                    for (f, data) in &files {
                        assert!(read(&v, *f) == *data, "step {n}, inode {f}");
                    }
                }
            }
            files
        })
    };
    let hands: Vec<_> = (1..=3).map(work).collect();
    let files: Vec<_> = hands.into_iter().flat_map(|h| h.join().unwrap()).collect();
    v.checkpoint().unwrap();
    v.close().unwrap();
    clean(&disk);
    let v = open();
    for (f, data) in &files {
        assert!(read(&v, *f) == *data, "inode {f}");
    }
}
