//! Files that share data: what a copy costs, how long the data stay, and what is found where the
//! counts are wrong.

use crate::common::*;
use razorfs::{CreateOptions, Geometry, Ino, Options, SetAttributes, Step, Volume};
use razorfs_disk::sim::{Image, SimDisk, SimEnv, SimRng};
use razorfs_disk::{Dir, Name};
use razorfs_format::key::Tag;
use razorfs_format::layout::FileName;
use razorfs_format::manifest::Manifest;
use razorfs_format::superblock::{LINKED_BATCHES, SHARED_FRAMES, SLOT, Superblock};
use razorfs_verify::FindingKind as K;
use std::sync::Arc;

const BLOCK: u64 = 128 << 10;

fn clean(disk: &SimDisk) {
    let report = check_disk(disk, 3);
    assert_clean(&report);
}

fn tiny(seed: u64) -> (SimDisk, SimEnv, Volume) {
    let (disk, env) = (SimDisk::new(), SimEnv::new(seed));
    create(&disk, &env);
    let volume = open(&disk, &env);
    (disk, env, volume)
}

#[test]
fn a_copy_of_64_mib_costs_no_pack_bytes_to_speak_of() {
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
    let source = create_file(&v, "source");
    let mut rng = Rng(3);
    let data = rng.bytes(64 << 20);
    for (n, piece) in data.chunks(1 << 20).enumerate() {
        v.write(source, (n as u64) << 20, piece).unwrap();
    }
    v.step(Step::Commit).unwrap();
    let before = pack_bytes(&disk);
    let written = v.stats().journal_bytes;
    let copy = create_file(&v, "copy");
    assert_eq!(
        v.copy_range(source, 0, copy, 0, u64::MAX).unwrap(),
        64 << 20
    );
    // At another offset, too, so that blocks of the target need parts of two of the source.
    assert_eq!(
        v.copy_range(source, 5000, copy, (64 << 20) + 1000, 32 << 20)
            .unwrap(),
        32 << 20
    );
    v.step(Step::Commit).unwrap();
    assert!(pack_bytes(&disk) - before < 1 << 20);
    assert!(v.stats().journal_bytes - written < 2 << 20);
    v.step(Step::Checkpoint).unwrap();
    assert!(pack_bytes(&disk) - before < 1 << 20);
    let got = read(&v, copy);
    assert!(got[..64 << 20] == data[..]);
    assert!(got[64 << 20..][..1000].iter().all(|b| *b == 0));
    assert!(got[(64 << 20) + 1000..] == data[5000..][..32 << 20]);
    clean(&disk);
}

#[test]
fn data_stay_until_the_last_that_shares_them_goes() {
    for first in ["source", "copy"] {
        let (disk, env, v) = tiny(7);
        let source = create_file(&v, "source");
        let data = Rng(5).bytes(1_500_000);
        v.write(source, 0, &data).unwrap();
        v.step(Step::Checkpoint).unwrap();
        let copy = create_file(&v, "copy");
        v.copy_range(source, 0, copy, 0, u64::MAX).unwrap();
        // A copy of the copy shares with both.
        let again = create_file(&v, "again");
        v.copy_range(copy, BLOCK, again, 0, 3 * BLOCK).unwrap();
        settle(&v);
        clean(&disk);
        let full = pack_bytes(&disk);
        remove(&v, first);
        settle(&v);
        clean(&disk);
        assert!(pack_bytes(&disk) >= full, "{first}");
        let v = {
            v.close().unwrap();
            open(&disk, &env)
        };
        let left = if first == "copy" { source } else { copy };
        assert!(read(&v, left) == data);
        remove(&v, if first == "copy" { "source" } else { "copy" });
        settle(&v);
        clean(&disk);
        // What the third one has of it.
        assert!(pack_bytes(&disk) < full / 2);
        let some = &data[BLOCK as usize..][..3 * BLOCK as usize];
        assert!(read(&v, again) == some);
        remove(&v, "again");
        settle(&v);
        clean(&disk);
        assert!(
            pack_bytes(&disk) < full / 4,
            "{} of {full}",
            pack_bytes(&disk)
        );
        assert_eq!(v.info().pack_live_bytes, 0);
    }
}

#[test]
fn a_copy_that_is_written_over_leaves_its_source_alone() {
    let (disk, env, v) = tiny(8);
    let source = create_file(&v, "source");
    let mut data = Rng(6).bytes(600_000);
    v.write(source, 0, &data).unwrap();
    v.step(Step::Commit).unwrap();
    let copy = create_file(&v, "copy");
    v.copy_range(source, 0, copy, 0, u64::MAX).unwrap();
    v.step(Step::Checkpoint).unwrap();
    v.write(copy, 100_000, &[1; 300_000]).unwrap();
    v.write(source, 500_000, &[2; 10]).unwrap();
    v.step(Step::Commit).unwrap();
    // As a power cut would leave it.
    let disk = disk.power_cut(&mut SimRng::new(1));
    drop(v);
    clean(&disk);
    let v = open(&disk, &env);
    let mut other = data.clone();
    other[100_000..400_000].fill(1);
    data[500_000..500_010].fill(2);
    assert!(read(&v, copy) == other && read(&v, source) == data);
    settle(&v);
    clean(&disk);
    assert!(read(&v, copy) == other && read(&v, source) == data);
}

#[test]
fn a_block_shares_with_itself_and_with_its_neighbour() {
    let (disk, _, v) = tiny(9);
    let f = create_file(&v, "f");
    let mut data = Rng(7).bytes(2 * BLOCK as usize);
    v.write(f, 0, &data).unwrap();
    v.step(Step::Commit).unwrap();
    for (from, to, len) in [
        (0, 70_000, 40_000),
        (70_000, 125_000, 30_000),
        (130_000, 0, 60_000),
    ] {
        v.copy_range(f, from as u64, f, to as u64, len as u64)
            .unwrap();
        data.copy_within(from..from + len, to);
        assert!(read(&v, f) == data, "{from} to {to}");
        v.step(Step::Commit).unwrap();
        clean(&disk);
    }
    settle(&v);
    assert!(read(&v, f) == data);
    clean(&disk);
}

#[test]
fn a_copy_has_the_holes_of_its_source() {
    let (disk, _, v) = tiny(10);
    let (f, g) = (create_file(&v, "f"), create_file(&v, "g"));
    v.write(f, 0, &[1; 20_000]).unwrap();
    v.write(f, 40 * BLOCK + 9000, &[2; 50_000]).unwrap();
    v.write(g, 0, &vec![3; 8 * BLOCK as usize]).unwrap();
    v.step(Step::Commit).unwrap();
    let size = v.stat(f).unwrap().size;
    assert_eq!(v.copy_range(f, 0, g, 777, u64::MAX).unwrap(), size);
    let got = read(&v, g);
    assert!(got[..777] == [3; 777] && got[777..] == read(&v, f)[..]);
    let seek = |at, what| v.seek(g, at, what).unwrap();
    assert_eq!(seek(777, razorfs::SeekFor::Hole), 20_777);
    assert_eq!(seek(20_777, razorfs::SeekFor::Data), 40 * BLOCK + 9777);
    settle(&v);
    clean(&disk);
}

/// The incompatible features that each slot of the superblock names.
fn incompat(disk: &SimDisk) -> Vec<u64> {
    let image = image_of(disk);
    let bytes = image.bytes(&file(Dir::Root, "SUPER")).unwrap();
    let slots = bytes.chunks(SLOT).enumerate();
    let slots = slots.map(|(i, b)| Superblock::decode(i, b).unwrap());
    slots.map(|s| s.features.incompat).collect()
}

#[test]
fn the_first_sharing_marks_both_generations() {
    let (disk, _, v) = tiny(11);
    let f = create_file(&v, "f");
    v.write(f, 0, &[7; 60_000]).unwrap();
    v.step(Step::Checkpoint).unwrap();
    let bits = incompat;
    assert_eq!(bits(&disk), [LINKED_BATCHES; 4]);
    // What is only written, or too short to be shared, needs no newer version.
    let g = create_file(&v, "g");
    v.copy_range(f, 0, g, 0, 100).unwrap();
    v.step(Step::Checkpoint).unwrap();
    assert_eq!(bits(&disk), [LINKED_BATCHES; 4]);
    v.copy_range(f, 0, g, 0, 50_000).unwrap();
    assert_eq!(bits(&disk), [SHARED_FRAMES | LINKED_BATCHES; 4]);
}

/// Which frames died before the volume was opened stands nowhere; they are found again by asking
/// who wrote them, who may be gone while others refer to them.
#[test]
fn the_search_for_dead_frames_spares_shared_ones() {
    let (disk, env, v) = tiny(13);
    let source = create_file(&v, "source");
    // Several frames a pack.
    let piece = |n: u64, round: u64| Rng(100 * round + n).bytes(60_000);
    for n in 0..30 {
        v.write(source, n * BLOCK, &piece(n, 1)).unwrap();
    }
    v.step(Step::Commit).unwrap();
    let copy = create_file(&v, "copy");
    v.copy_range(source, 0, copy, 0, u64::MAX).unwrap();
    v.step(Step::Checkpoint).unwrap();
    remove(&v, "source");
    // Every other block of the copy is its own, so that the packs are worth a search.
    for n in (0..30).step_by(2) {
        v.write(copy, n * BLOCK, &piece(n, 2)).unwrap();
    }
    v.step(Step::Checkpoint).unwrap();
    // What died now is known, so it is a crash that loses the knowledge.
    drop(v);
    let v = open(&disk, &env);
    for n in 0..60 {
        v.step(Step::Compact).unwrap();
        let set = SetAttributes {
            uid: Some(n),
            ..SetAttributes::default()
        };
        v.set_attributes(Ino::ROOT, &set).unwrap();
        v.step(Step::Checkpoint).unwrap();
    }
    let got = read(&v, copy);
    for n in 0..30 {
        let at = (n * BLOCK) as usize;
        let round = if n % 2 == 0 { 2 } else { 1 };
        assert!(got[at..at + 60_000] == piece(n, round), "block {n}");
    }
    clean(&disk);
}

fn newest(image: &Image) -> (Superblock, Manifest) {
    let bytes = image.bytes(&file(Dir::Root, "SUPER")).unwrap();
    let slots = bytes.chunks(SLOT).enumerate();
    let slots = slots.filter_map(|(i, b)| Superblock::decode(i, b).ok());
    let newest = slots.max_by_key(|s| s.generation).unwrap();
    let name = name_of(FileName::Manifest(newest.manifest.id));
    let manifest = image.bytes(&name).unwrap();
    let manifest = Manifest::decode(&manifest, newest.vid(), newest.manifest.id).unwrap();
    (newest, manifest)
}

fn name_of(file: FileName) -> Name {
    Name::new(Dir::from_path(file.dir()).unwrap(), &file.leaf())
}

/// Without the newest segment of a table, as if it had never been written.
fn without(image: &Image, tag: Tag) -> Vec<u16> {
    let mut image = image.clone();
    let (superblock, mut manifest) = newest(&image);
    let run = manifest.segments.iter().filter(|s| s.tag == tag);
    let run = run.map(|s| s.run).max().unwrap();
    manifest.segments.retain(|s| s.tag != tag || s.run != run);
    let bytes = manifest.to_bytes(superblock.vid());
    let name = name_of(FileName::Manifest(manifest.id));
    image.set_len(&name, 0);
    image.write(&name, 0, &bytes);
    for slot in 0..4 {
        let mut changed = superblock.clone();
        changed.manifest.len = bytes.len() as u32;
        changed.manifest.crc = Manifest::crc(&bytes);
        if changed.generation.0 % 2 == slot / 2 {
            let at = slot as usize;
            let super_name = file(Dir::Root, "SUPER");
            image.write(&super_name, (at * SLOT) as u64, &changed.encode(at));
        }
    }
    let (changed, _) = newest(&image);
    assert_eq!(changed.manifest.len as usize, bytes.len());
    numbers(&check(&image, 3))
}

#[test]
fn wrong_counts_of_shared_frames_are_found() {
    let (disk, _, v) = tiny(12);
    let f = create_file(&v, "f");
    v.write(f, 0, &Rng(1).bytes(60_000)).unwrap();
    v.step(Step::Checkpoint).unwrap();
    let g = create_file(&v, "g");
    v.copy_range(f, 0, g, 0, 60_000).unwrap();
    v.step(Step::Checkpoint).unwrap();
    let shared = image_of(&disk);
    remove(&v, "g");
    v.step(Step::Checkpoint).unwrap();
    let removed = image_of(&disk);
    let has = |numbers: Vec<u16>, kind: K| numbers.contains(&kind.number());
    assert!(!has(numbers(&check(&shared, 3)), K::SharedCount));
    // References without a record; a record beside an own reference.
    assert!(has(without(&shared, Tag::Shared), K::SharedCount));
    let own = without(&shared, Tag::Extent);
    assert!(has(own.clone(), K::SharedCount) && has(own, K::SharedCountHigh));
    // The removal is counted, but not done; and done, but not counted.
    assert!(has(without(&removed, Tag::Extent), K::SharedCount));
    assert!(has(without(&removed, Tag::Shared), K::SharedCountHigh));
}

/// The first superblock that would say so cannot be written.
#[test]
fn what_was_not_allowed_leaves_the_volume_as_it_was() {
    let (disk, _, v) = tiny(15);
    let (f, g) = (create_file(&v, "f"), create_file(&v, "g"));
    let data = Rng(2).bytes(60_000);
    v.write(f, 0, &data).unwrap();
    v.step(Step::Checkpoint).unwrap();
    for (after, bits) in [(0, 0), (1, SHARED_FRAMES)] {
        disk.short_write_at(disk.counts().writes + after, 0);
        assert_eq!(v.copy_range(f, 0, g, 0, u64::MAX).unwrap(), 60_000);
        disk.clear_faults();
        assert!(read(&v, g) == data);
        for round in 0..2 {
            let set = SetAttributes {
                uid: Some(round),
                ..SetAttributes::default()
            };
            v.set_attributes(Ino::ROOT, &set).unwrap();
            v.step(Step::Checkpoint).unwrap();
        }
        assert_eq!(
            incompat(&disk),
            [bits | LINKED_BATCHES; 4],
            "write {after} failed"
        );
        assert_eq!(numbers(&check_disk(&disk, 3)), []);
    }
    // Then it is, and only now anything is shared.
    let before = pack_bytes(&disk);
    v.copy_range(f, 0, g, 0, u64::MAX).unwrap();
    settle(&v);
    assert!(pack_bytes(&disk) <= before && read(&v, g) == data);
    clean(&disk);
}

/// A block of the counts is damaged: what it would say is not needed for anything but giving space
/// back, so flushes go on without.
#[test]
fn damaged_counts_stop_no_flush_and_free_no_frame() {
    let (disk, env, v) = tiny(16);
    let data = Rng(4).bytes(700_000);
    let files = ["f", "g", "h"].map(|name| create_file(&v, name));
    v.write(files[0], 0, &data).unwrap();
    v.step(Step::Checkpoint).unwrap();
    v.copy_range(files[0], 0, files[1], 0, u64::MAX).unwrap();
    v.step(Step::Checkpoint).unwrap();
    let image = image_of(&disk);
    let (_, manifest) = newest(&image);
    let counts = manifest.segments.iter().find(|s| s.tag == Tag::Shared);
    let segment = name_of(FileName::Segment(counts.unwrap().id));
    assert!(disk.flip_bit(&segment, 80, 3));
    drop(v);
    let v = open(&disk, &env);
    let damage = numbers(&check_disk(&disk, 3));
    assert!(!damage.is_empty());
    // One reference more, and then one after the other goes.
    v.copy_range(files[1], 0, files[2], 0, u64::MAX).unwrap();
    for name in ["f", "g"] {
        v.step(Step::Checkpoint).unwrap();
        remove(&v, name);
        settle(&v);
        assert!(read(&v, files[2]) == data, "without {name}");
    }
    let numbers_now = numbers(&check_disk(&disk, 3));
    assert!(
        damage.iter().all(|n| numbers_now.contains(n)),
        "{numbers_now:?}"
    );
    assert!(!numbers_now.contains(&K::PackAccountLow.number()));
    // What belongs to one file alone is given back as ever.
    let live = v.info().pack_live_bytes;
    let own = create_file(&v, "own");
    v.write(own, 0, &data).unwrap();
    v.step(Step::Checkpoint).unwrap();
    remove(&v, "own");
    settle(&v);
    assert_eq!(v.info().pack_live_bytes, live);
    // The rest stays for ever.
    remove(&v, "h");
    settle(&v);
    assert_eq!(v.info().pack_live_bytes, live);
    v.close().unwrap();
    open(&disk, &env).close().unwrap();
}

/// The same in the extents of a file: it can be removed, or written anew.
#[test]
fn a_file_with_damaged_extents_can_be_removed_and_stops_no_flush_then() {
    let (disk, env, v) = tiny(17);
    let data = Rng(4).bytes(60_000);
    let files = ["f", "g", "h"].map(|name| create_file(&v, name));
    v.write(files[0], 0, &data).unwrap();
    v.step(Step::Checkpoint).unwrap();
    v.copy_range(files[0], 0, files[1], 0, u64::MAX).unwrap();
    v.step(Step::Checkpoint).unwrap();
    v.write(files[2], 0, &data).unwrap();
    v.step(Step::Checkpoint).unwrap();
    let (_, manifest) = newest(&image_of(&disk));
    // That of both files that share, and not the third's.
    let extents = manifest.segments.iter().filter(|s| s.tag == Tag::Extent);
    let shared = extents.filter(|s| s.first.ino() <= files[1]);
    let shared: Vec<_> = shared.map(|s| name_of(FileName::Segment(s.id))).collect();
    for segment in &shared {
        assert!(disk.flip_bit(segment, 80, 3));
    }
    drop(v);
    let v = open(&disk, &env);
    let live = v.info().pack_live_bytes;
    let mut byte = [0];
    assert!(v.read(files[0], 0, &mut byte).is_err() && v.read(files[1], 0, &mut byte).is_err());
    // What is left of a block that is written in part cannot be told: that is not guessed.
    v.write(files[0], 100, b"part of a block").unwrap();
    v.step(Step::Checkpoint).unwrap();
    assert!(v.read(files[0], 0, &mut byte).is_err() && v.read(files[0], 100, &mut byte).is_ok());
    v.close().unwrap();
    let v = open(&disk, &env);
    remove(&v, "f");
    v.write(files[1], 0, &vec![5; BLOCK as usize]).unwrap();
    settle(&v);
    assert!(read(&v, files[1]) == vec![5; BLOCK as usize] && read(&v, files[2]) == data);
    assert!(v.info().pack_live_bytes >= live);
    remove(&v, "g");
    settle(&v);
    v.close().unwrap();
    let v = open(&disk, &env);
    assert!(read(&v, files[2]) == data);
}

/// One of several threads that work on files of their own, and copy from some that all have.
struct Hand {
    v: Volume,
    rng: Rng,
    id: u64,
    common: Vec<(Ino, Vec<u8>)>,
    files: Vec<(Ino, Vec<u8>)>,
    made: u64,
}

impl Hand {
    fn file(&mut self) -> (Ino, Vec<u8>) {
        self.made += 1;
        let name = format!("{}-{}", self.id, self.made);
        (create_file(&self.v, &name), Vec::new())
    }

    fn step(&mut self) {
        let n = self.rng.below(self.files.len() as u64) as usize;
        match self.rng.below(10) {
            0..=4 => {
                let from = match self.rng.below(2) {
                    0 => self.common[self.rng.below(self.common.len() as u64) as usize].clone(),
                    _ => self.files[self.rng.below(self.files.len() as u64) as usize].clone(),
                };
                let at = self.rng.below(from.1.len() as u64 + 1);
                let to = self.rng.below(200_000);
                let len = self.rng.below(150_000).min(from.1.len() as u64 - at);
                let (ino, bytes) = &mut self.files[n];
                if *ino == from.0 && at < to + len && to < at + len {
                    return;
                }
                let copied = self.v.copy_range(from.0, at, *ino, to, len);
                assert_eq!(copied.unwrap(), len);
                if len > 0 {
                    let end = (to + len) as usize;
                    bytes.resize(bytes.len().max(end), 0);
                    let part = &from.1[at as usize..(at + len) as usize];
                    bytes[to as usize..end].copy_from_slice(part);
                }
            }
            5..=7 => {
                // Many pieces make a block that is written anew.
                let len = [3000, 9000, 60_000][self.rng.below(3) as usize];
                let (at, new) = (self.rng.below(150_000) as usize, self.rng.bytes(len));
                let (ino, bytes) = &mut self.files[n];
                self.v.write(*ino, at as u64, &new).unwrap();
                bytes.resize(bytes.len().max(at + len), 0);
                bytes[at..at + len].copy_from_slice(&new);
            }
            8 => {
                let size = self.rng.below(200_000);
                let set = SetAttributes {
                    size: Some(size),
                    ..SetAttributes::default()
                };
                let (ino, bytes) = &mut self.files[n];
                self.v.set_attributes(*ino, &set).unwrap();
                bytes.resize(size as usize, 0);
            }
            _ => {
                // The oldest goes, and a new one comes.
                let name = format!("{}-{}", self.id, self.made + 1 - self.files.len() as u64);
                self.v.unlink(Ino::ROOT, name.as_bytes()).unwrap();
                self.files.remove(0);
                let new = self.file();
                self.files.push(new);
            }
        }
    }

    fn check(&self) {
        for (ino, bytes) in self.common.iter().chain(&self.files) {
            assert!(
                read(&self.v, *ino) == *bytes,
                "inode {ino} of thread {}",
                self.id
            );
        }
    }
}

#[test]
fn threads_that_copy_from_each_other_lose_nothing() {
    let (disk, env) = (SimDisk::new(), SimEnv::new(14));
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
    let mut rng = Rng(14);
    let common: Vec<_> = (0..3)
        .map(|n| {
            let (ino, bytes) = (create_file(&v, &format!("common-{n}")), rng.bytes(180_000));
            v.write(ino, 0, &bytes).unwrap();
            (ino, bytes)
        })
        .collect();
    v.sync().unwrap();
    let work = |id: u64| {
        let (v, rng, common) = (v.clone(), Rng(id), common.clone());
        std::thread::spawn(move || {
            let mut hand = Hand {
                v,
                rng,
                id,
                common,
                files: Vec::new(),
                made: 0,
            };
            for _ in 0..4 {
                let new = hand.file();
                hand.files.push(new);
            }
            for n in 0..2500 {
                hand.step();
                if n % 100 == 0 {
                    hand.check();
                }
            }
            hand.check();
            hand
        })
    };
    let hands: Vec<_> = (1..=3).map(work).collect();
    let mut hands: Vec<Hand> = hands.into_iter().map(|h| h.join().unwrap()).collect();
    v.checkpoint().unwrap();
    hands.iter().for_each(Hand::check);
    hands.iter_mut().for_each(|hand| hand.v = v.clone());
    assert!(v.stats().checkpoints > 3, "{:?}", v.stats());
    let kept: Vec<_> = hands
        .into_iter()
        .map(|h| (h.id, h.common, h.files))
        .collect();
    v.close().unwrap();
    clean(&disk);
    let v = open();
    for (id, common, files) in kept {
        let hand = Hand {
            v: v.clone(),
            rng: Rng(0),
            id,
            common,
            files,
            made: 0,
        };
        hand.check();
    }
}
