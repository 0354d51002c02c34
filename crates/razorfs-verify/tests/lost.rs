//! A part of a block is written whose record is damaged on the disk: what that said is lost, and
//! nothing else is.

use crate::common::forge::{manifest, name_of, previous, superblock};
use crate::common::*;
use razorfs::{Error, Ino, Step, Volume};
use razorfs_disk::Name;
use razorfs_disk::sim::{SimDisk, SimEnv};
use razorfs_format::key::Tag;
use razorfs_format::layout::FileName;
use razorfs_verify::{FindingKind as K, Lose, RepairOptions, repair};

const SIZE: usize = 60_000;
const WRITTEN: &[u8] = b"part of a block";

/// A volume with a file and another one, and the segments with the first one's extents.
fn volume() -> (SimDisk, SimEnv, Vec<u8>, Vec<Name>) {
    let (disk, env) = (SimDisk::new(), SimEnv::new(17));
    create(&disk, &env);
    let v = open(&disk, &env);
    let data = Rng(4).bytes(SIZE);
    let files = ["f", "g"].map(|name| {
        let ino = create_file(&v, name);
        v.write(ino, 0, &data).unwrap();
        v.step(Step::Checkpoint).unwrap();
        ino
    });
    assert_eq!(files, [Ino(16), Ino(17)]);
    let image = image_of(&disk);
    let extents = manifest(&image, &superblock(&image)).segments;
    let extents = extents.into_iter().filter(|s| s.tag == Tag::Extent);
    let extents = extents.filter(|s| s.first.ino() == files[0]);
    let names: Vec<_> = extents.map(|s| name_of(FileName::Segment(s.id))).collect();
    assert_eq!(names.len(), 1);
    drop(v);
    (disk, env, data, names)
}

const F: Ino = Ino(16);
const G: Ino = Ino(17);

fn bytes(v: &Volume, at: u64, len: usize) -> razorfs::Result<Vec<u8>> {
    let mut bytes = vec![0xee; len];
    v.read(F, at, &mut bytes).map(|n| bytes[..n].to_vec())
}

fn is_refused(v: &Volume, at: u64, len: usize) -> bool {
    matches!(bytes(v, at, len), Err(Error::Corrupt(_)))
}

fn damaged() -> (SimDisk, SimEnv, Vec<u8>) {
    let (disk, env, data, segments) = volume();
    assert!(disk.flip_bit(&segments[0], 80, 3));
    (disk, env, data)
}

#[test]
fn a_write_to_a_part_of_a_damaged_block_stops_nothing() {
    let (disk, env, data) = damaged();
    let v = open(&disk, &env);
    v.write(F, 100, WRITTEN).unwrap();
    settle(&v);
    // More than the journal holds.
    for round in 0..40 {
        v.write(G, 0, &Rng(round).bytes(SIZE)).unwrap();
        v.sync().unwrap();
    }
    v.write(G, 0, &data).unwrap();
    v.close().unwrap();
    let v = open(&disk, &env);
    assert_eq!(v.info().read_only, None);
    assert_eq!(bytes(&v, 100, WRITTEN.len()).unwrap(), WRITTEN);
    assert!(is_refused(&v, 0, 100) && is_refused(&v, 0, SIZE));
    assert!(is_refused(&v, 100 + WRITTEN.len() as u64, 1));
    assert_eq!(read(&v, G), data);
    // A copy would be a way around.
    assert!(v.copy_range(F, 0, G, 0, 200).is_err());
    assert!(numbers(&check_disk(&disk, 3)).contains(&K::DataLost.number()));
    // Behind the end there was nothing, whatever the record said.
    assert!(!numbers(&check_disk(&disk, 3)).contains(&K::ExtentBeyondSize.number()));
    v.write(F, SIZE as u64, WRITTEN).unwrap();
    // What is written over is not missed any more.
    v.write(F, 0, &data[..100]).unwrap();
    let rest = 100 + WRITTEN.len();
    v.write(F, rest as u64, &data[rest..]).unwrap();
    settle(&v);
    let mut whole = data.clone();
    whole[100..rest].copy_from_slice(WRITTEN);
    whole.extend(WRITTEN);
    assert_eq!(read(&v, F), whole);
    assert!(!numbers(&check_disk(&disk, 3)).contains(&K::DataLost.number()));
    v.close().unwrap();
}

#[test]
fn a_block_in_many_pieces_of_which_some_is_lost_is_still_made_one() {
    let (disk, env, _) = damaged();
    let v = open(&disk, &env);
    for round in 0..6_u64 {
        for n in 0..40 {
            v.write(F, n * 1000 + round * 10, &[round as u8; 7])
                .unwrap();
        }
        v.step(Step::Checkpoint).unwrap();
    }
    for n in 0..40 {
        for round in 0..6_u64 {
            let at = n * 1000 + round * 10;
            assert_eq!(bytes(&v, at, 7).unwrap(), [round as u8; 7]);
            assert!(is_refused(&v, at + 7, 1));
        }
    }
    v.close().unwrap();
}

#[test]
fn a_damaged_table_does_not_keep_the_others_from_being_compacted() {
    let (disk, env, data) = damaged();
    let v = open(&disk, &env);
    for n in 0..20 {
        create_file(&v, &format!("file {n}"));
        v.write(G, 0, &data).unwrap();
        v.step(Step::Checkpoint).unwrap();
    }
    let mut failed = 0;
    let done = (0..20).find(|_| match v.step(Step::Compact) {
        Ok(more) => !more,
        Err(e) => {
            assert!(matches!(e, Error::Corrupt(_)), "{e}");
            failed += 1;
            false
        }
    });
    assert!(done.is_some());
    assert_eq!(failed, 1);
    assert!(v.stats().compactions >= 2, "{:?}", v.stats());
    assert_eq!(read(&v, G), data);
    assert!(is_refused(&v, 0, 10));
    v.close().unwrap();
}

#[test]
fn a_repair_puts_back_what_packs_have_of_a_lost_range_however_long_after() {
    let (disk, env, data) = damaged();
    let v = open(&disk, &env);
    v.write(F, 100, WRITTEN).unwrap();
    // Nothing refers to the frame now, and the search for dead ones leaves it where it is.
    for _ in 0..3 {
        settle(&v);
        while matches!(v.step(Step::Compact), Ok(true)) {}
    }
    v.close().unwrap();
    let v = open(&disk, &env);
    settle(&v);
    v.close().unwrap();
    let options = RepairOptions {
        commit: true,
        ..RepairOptions::default()
    };
    let done = repair(&disk, &SimEnv::new(1), &options, &mut |_| true).unwrap();
    let told: Vec<_> = done.losses.iter().filter(|l| l.ino == F).collect();
    assert!(!told.is_empty(), "{done:#?}");
    assert!(told.iter().all(|l| l.what == Lose::Unsure), "{done:#?}");
    let ranges: Vec<_> = told.iter().filter_map(|l| l.range.clone()).collect();
    let rest = 100 + WRITTEN.len() as u64;
    assert_eq!(ranges, [0..100, rest..SIZE as u64]);
    assert_clean(&check_disk(&disk, 3));
    let v = open(&disk, &env);
    let mut whole = data.clone();
    whole[100..rest as usize].copy_from_slice(WRITTEN);
    assert_eq!(read(&v, F), whole);
    assert_eq!(read(&v, G), data);
    v.close().unwrap();
}

#[test]
fn what_the_host_cannot_read_for_a_moment_is_not_lost() {
    let (disk, env, data, segments) = volume();
    let bad = || disk.fail_reads(&segments[0], 0..4096);
    bad();
    let v = open(&disk, &env);
    v.write(F, 100, WRITTEN).unwrap();
    assert!(v.step(Step::Checkpoint).is_err());
    env.advance(8_000_000_000);
    assert!(v.step(Step::Checkpoint).is_err());
    disk.clear_faults();
    v.step(Step::Checkpoint).unwrap();
    let mut whole = data;
    whole[100..100 + WRITTEN.len()].copy_from_slice(WRITTEN);
    assert_eq!(read(&v, F), whole);
    v.close().unwrap();
}

#[test]
fn what_the_host_cannot_read_for_long_stops_nothing_either() {
    let (disk, env, _, segments) = volume();
    disk.fail_reads(&segments[0], 0..4096);
    let v = open(&disk, &env);
    v.write(F, 100, WRITTEN).unwrap();
    assert!(v.step(Step::Checkpoint).is_err());
    env.advance(11_000_000_000);
    v.step(Step::Checkpoint).unwrap();
    assert_eq!(bytes(&v, 100, WRITTEN.len()).unwrap(), WRITTEN);
    assert!(is_refused(&v, 0, 100));
    v.close().unwrap();
}

/// What is written over a part of it.
const OVER: std::ops::Range<usize> = 10_000..50_000;

/// A volume in which cleaning has copied the frame of a file, and not the one that was written over
/// a part of it in the same epoch, for that is shared; and what the file holds.
fn cleaned() -> (SimDisk, SimEnv, Vec<u8>) {
    let (disk, env) = (SimDisk::new(), SimEnv::new(17));
    create(&disk, &env);
    let v = open(&disk, &env);
    let file = |name: &str, seed: u64, len: usize| {
        let ino = create_file(&v, name);
        v.write(ino, 0, &Rng(seed).bytes(len)).unwrap();
        ino
    };
    assert_eq!([file("f", 4, SIZE), file("g", 5, 1)], [F, G]);
    // Batches so large that their data go to a pack at once.
    v.step(Step::Commit).unwrap();
    let over = Rng(6).bytes(OVER.len());
    v.write(F, OVER.start as u64, &over).unwrap();
    v.step(Step::Commit).unwrap();
    // So small that they leave no holes.
    for n in 0..8 {
        file(&format!("dead {n}"), 100 + n, 9000);
        file(&format!("kept {n}"), 200 + n, 5000);
    }
    v.step(Step::Commit).unwrap();
    // It fills the pack up, and goes on in the next.
    file("filler", 8, 100_000);
    v.step(Step::Checkpoint).unwrap();
    let (at, len) = (OVER.start as u64, OVER.len() as u64);
    assert_eq!(v.copy_range(F, at, G, 0, len).unwrap(), len);
    v.step(Step::Checkpoint).unwrap();
    for n in 0..8 {
        remove(&v, &format!("dead {n}"));
    }
    v.step(Step::Checkpoint).unwrap();
    while v.step(Step::Clean).unwrap() {}
    assert!(v.stats().cleaned_bytes >= SIZE as u64);
    v.step(Step::Checkpoint).unwrap();
    let mut data = Rng(4).bytes(SIZE);
    data[OVER].copy_from_slice(&over);
    assert_eq!(read(&v, F), data);
    (disk, env, data)
}

/// All that says where the file's data are is damaged, and repaired. Answers what was told of it.
fn repaired_without_extents(disk: &SimDisk) -> Vec<std::ops::Range<u64>> {
    let image = image_of(disk);
    for meta in manifest(&image, &superblock(&image)).segments {
        let is_of = (meta.first.ino()..=meta.last.ino()).contains(&F);
        if meta.tag == Tag::Extent && is_of {
            assert!(disk.flip_bit(&name_of(FileName::Segment(meta.id)), 80, 3));
        }
    }
    // Less is lost of the generation before, which has not moved anything.
    let before = name_of(FileName::Manifest(previous(&image).manifest.id));
    assert!(disk.flip_bit(&before, 80, 3));
    let options = RepairOptions {
        commit: true,
        ..RepairOptions::default()
    };
    let done = repair(disk, &SimEnv::new(1), &options, &mut |_| true).unwrap();
    let of_f = done.losses.into_iter().filter(|l| l.ino == F);
    let unsure = of_f.filter(|l| l.what == Lose::Unsure);
    assert_clean(&check_disk(disk, 3));
    unsure.filter_map(|l| l.range).collect()
}

#[test]
fn a_copy_of_cleaning_does_not_lie_over_what_was_written_over_the_frame() {
    let (disk, env, data) = cleaned();
    // The frame is at its old place, too: a generation needs it still.
    let told = repaired_without_extents(&disk);
    assert!(!told.is_empty());
    let v = open(&disk, &env);
    assert_eq!(read(&v, F), data);
    v.close().unwrap();
}

#[test]
fn frames_of_one_birth_in_different_packs_are_told_as_unsure_where_they_overlap() {
    let (disk, env, data) = cleaned();
    let v = open(&disk, &env);
    // The old place is given back.
    settle(&v);
    v.close().unwrap();
    let told = repaired_without_extents(&disk);
    let is_told = |at: u64| told.iter().any(|range| range.contains(&at));
    let mut over = OVER.start as u64..OVER.end as u64;
    assert!(over.all(is_told), "{told:?}");
    let v = open(&disk, &env);
    let (got, frame) = (read(&v, F), Rng(4).bytes(SIZE));
    for (at, byte) in got.iter().enumerate() {
        // One of those that were written.
        assert!(*byte == data[at] || *byte == frame[at], "{at}");
    }
    v.close().unwrap();
}
