//! Damage that parity makes up for: reads give the right bytes, and the disk is healed.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::sync::Arc;

use razorfs_disk::sim::{Image, SimDisk, SimEnv, SimRng};
use razorfs_disk::{Dir, Disk, Name, OpenHow};

use crate::marks::{Mark, count};
use crate::{Compression, CreateOptions, Geometry, Ino, NewNode, Options, Step, Volume};

fn options(geometry: Geometry) -> Options {
    Options {
        geometry,
        compression: Some(Compression::None),
        cache_bytes: 0,
        threads: false,
        ..Options::default()
    }
}

fn large() -> Geometry {
    Geometry {
        pack_bytes: 4 << 20,
        reserve_bytes: 0,
        ..Geometry::default()
    }
}

fn open(disk: &SimDisk, geometry: Geometry) -> Volume {
    let env = Arc::new(SimEnv::new(1));
    Volume::open_on(Arc::new(disk.clone()), env, options(geometry)).unwrap()
}

fn create(disk: &SimDisk, geometry: Geometry) -> Volume {
    let create = CreateOptions {
        parity: true,
        ..CreateOptions::from(&options(geometry))
    };
    let env = Arc::new(SimEnv::new(1));
    Volume::create_on(Arc::new(disk.clone()), env, &create).unwrap();
    open(disk, geometry)
}

fn settle(volume: &Volume) {
    volume.checkpoint().unwrap();
    while volume.step(Step::Parity).unwrap() {}
}

fn name(n: u64) -> String {
    format!("file {n}")
}

fn content(n: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    SimRng::new(n).fill(&mut bytes);
    bytes
}

fn write(volume: &Volume, files: std::ops::Range<u64>, len: usize) {
    for n in files {
        let node = NewNode::file(0o644);
        let node = volume.create_node(Ino::ROOT, name(n).as_bytes(), &node);
        let ino = node.unwrap().ino;
        volume.write(ino, 0, &content(n, len)).unwrap();
        volume.step(Step::Commit).unwrap();
    }
}

fn check(volume: &Volume, files: std::ops::Range<u64>, len: usize) {
    let mut got = vec![0; len];
    for n in files {
        let ino = volume.find_by_path(name(n).as_bytes()).unwrap();
        assert_eq!(volume.read(ino, 0, &mut got).unwrap(), len);
        assert!(got == content(n, len), "file {n}");
    }
}

fn with_ending(disk: &SimDisk, ending: &str) -> Vec<(Name, u64)> {
    let mut files = disk.files();
    files.retain(|(name, _)| name.leaf.ends_with(ending));
    files.sort();
    files
}

/// The packs that have parity.
fn sealed(disk: &SimDisk) -> Vec<(Name, u64)> {
    let parity = with_ending(disk, ".rq");
    let mut packs = with_ending(disk, ".rp");
    packs.retain(|(pack, _)| {
        let leaf = pack.leaf.replace(".rp", ".rq");
        parity.iter().any(|(name, _)| *name.leaf == *leaf)
    });
    packs
}

fn bytes_of(disk: &SimDisk, name: &Name) -> Vec<u8> {
    let file = disk.open(name, OpenHow::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
    bytes
}

/// What reading the disk gives.
fn image(disk: &SimDisk) -> Image {
    Image::load(disk).unwrap()
}

fn damage(disk: &SimDisk, name: &Name, at: u64, bytes: &[u8]) {
    let file = disk.open(name, OpenHow::ReadWrite).unwrap();
    file.write_at(&[IoSlice::new(bytes)], at).unwrap();
}

/// The bytes of zeros or noise that replace a run.
fn spoilt(rng: &mut SimRng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    if rng.below(2) == 0 {
        rng.fill(&mut bytes);
    }
    bytes
}

#[test]
fn any_lost_run_of_64_kib_of_a_sealed_pack_heals() {
    const RUN: u64 = 64 << 10;
    const LEN: usize = 300_000;
    const FILES: std::ops::Range<u64> = 0..30;
    let disk = SimDisk::new();
    let volume = create(&disk, large());
    write(&volume, FILES, LEN);
    settle(&volume);
    let packs = sealed(&disk);
    assert!(packs.len() >= 2, "{packs:?}");
    let before: BTreeMap<Name, Vec<u8>> = packs
        .iter()
        .map(|(name, _)| (name.clone(), bytes_of(&disk, name)))
        .collect();
    let (seeds, healed) = (300, count(Mark::ParityHealed));
    for seed in 0..seeds {
        let mut rng = SimRng::new(seed);
        let (pack, len) = rng.pick(&packs).cloned().unwrap();
        let last = len - RUN.min(len);
        let at = match rng.below(4) {
            0 => rng.below(last / RUN + 1) * RUN,
            1 => last,
            _ => rng.below(last + 1),
        };
        damage(&disk, &pack, at, &spoilt(&mut rng, RUN.min(len) as usize));
        check(&volume, FILES, LEN);
        // What no file's reading met, such as the list of frames, is found by a scrub.
        volume.scrub_start(0).unwrap();
        while volume.step(Step::Scrub).unwrap() {}
        assert_eq!(volume.scrub_status().damaged, 0, "seed {seed}");
        while volume.step(Step::Parity).unwrap() {}
        assert!(
            bytes_of(&disk, &pack) == before[&pack],
            "seed {seed}: {at} of {pack}"
        );
    }
    assert!(volume.stats().parity_reads >= seeds / 2);
    assert!(count(Mark::ParityHealed) > healed);
    assert_eq!(volume.info().parity_missing, 0);
}

#[test]
fn seven_percent_are_enough() {
    let disk = SimDisk::new();
    let volume = create(
        &disk,
        Geometry {
            pack_bytes: 32 << 20,
            ..large()
        },
    );
    write(&volume, 0..110, 1_000_000);
    settle(&volume);
    let packs = sealed(&disk);
    assert!(packs.len() >= 3);
    let sum = |files: &[(Name, u64)]| files.iter().map(|(_, len)| len).sum::<u64>();
    let mut parity = with_ending(&disk, ".rq");
    parity.retain(|(name, _)| name.dir == Dir::Pack);
    assert_eq!(parity.len(), packs.len());
    let (data, parity) = (sum(&packs), sum(&parity));
    assert!(parity * 100 <= data * 7, "{parity} for {data}");
}

#[test]
fn segments_heal_while_they_are_read() {
    const FILES: std::ops::Range<u64> = 0..60;
    let disk = SimDisk::new();
    let volume = create(&disk, Geometry::tiny());
    write(&volume, FILES, 3000);
    settle(&volume);
    drop(volume);
    let segments = with_ending(&disk, ".rs");
    assert!(segments.len() > 3);
    for (segment, len) in segments {
        for seed in 0..20 {
            let copy = SimDisk::from_image(&image(&disk));
            let mut rng = SimRng::new(seed);
            let run = 2048.min(len);
            let bytes = spoilt(&mut rng, run as usize);
            damage(&copy, &segment, rng.below(len - run + 1), &bytes);
            let volume = open(&copy, Geometry::tiny());
            check(&volume, FILES, 3000);
        }
    }
}

#[test]
fn what_cannot_be_read_heals_like_what_is_wrong() {
    let disk = SimDisk::new();
    let volume = create(&disk, large());
    write(&volume, 0..40, 300_000);
    settle(&volume);
    let (pack, _) = sealed(&disk).remove(0);
    disk.fail_reads(&pack, 1 << 20..(1 << 20) + 4096);
    check(&volume, 0..40, 300_000);
    assert!(volume.stats().parity_reads > 0);
    assert!(volume.step(Step::Parity).unwrap());
    // The host still cannot read it: what was written there proves nothing.
    check(&volume, 0..40, 300_000);
    while volume.step(Step::Parity).unwrap() {}
}

#[test]
fn more_than_two_lost_shards_of_a_group_are_an_error_and_no_bytes() {
    let disk = SimDisk::new();
    let volume = create(&disk, large());
    write(&volume, 0..40, 300_000);
    settle(&volume);
    let (pack, _) = sealed(&disk).remove(0);
    let before = image(&disk).bytes(&pack).unwrap();
    damage(&disk, &pack, 300_000, &vec![0x55; 3 << 16]);
    let mut got = vec![0; 300_000];
    let failed = (0..40).filter(|n| {
        let ino = volume.find_by_path(name(*n).as_bytes()).unwrap();
        match volume.read(ino, 0, &mut got) {
            Ok(_) => {
                assert!(got == content(*n, 300_000));
                false
            }
            Err(e) => {
                assert_eq!(e.errno(), libc::EIO);
                true
            }
        }
    });
    assert!(failed.count() > 0);
    while volume.step(Step::Parity).unwrap() {}
    damage(&disk, &pack, 0, &before);
    check(&volume, 0..40, 300_000);
}

#[test]
fn damage_is_not_made_the_truth() {
    let disk = SimDisk::new();
    let volume = create(&disk, large());
    write(&volume, 0..40, 300_000);
    volume.checkpoint().unwrap();
    let (pack, _) = with_ending(&disk, ".rp").remove(0);
    damage(&disk, &pack, 500_000, b"damaged before there was parity");
    settle(&volume);
    let made = sealed(&disk);
    assert!(made.iter().all(|(name, _)| *name != pack), "{made:?}");
    assert_eq!(volume.info().parity_missing, 1);
}

#[test]
fn parity_goes_with_its_object_and_leftovers_with_the_next_opening() {
    let disk = SimDisk::new();
    let volume = create(&disk, large());
    write(&volume, 0..40, 300_000);
    settle(&volume);
    assert!(!sealed(&disk).is_empty());
    let stray = Name::new(Dir::Pack, "P-0000000000000077.rq");
    for name in [&stray, &Name::new(Dir::Pack, "P-0000000000000078.rq.tmp")] {
        disk.open(name, OpenHow::CreateNew).unwrap();
    }
    for n in 0..40 {
        volume.unlink(Ino::ROOT, name(n).as_bytes()).unwrap();
    }
    while volume.step(Step::Reap).unwrap() {}
    for n in 100..103 {
        write(&volume, n..n + 1, 10);
        volume.checkpoint().unwrap();
    }
    assert_eq!(sealed(&disk), []);
    drop(volume);
    let volume = open(&disk, large());
    let parity = with_ending(&disk, ".rq");
    assert!(
        parity.iter().all(|(name, _)| name.dir == Dir::Meta),
        "{parity:?}"
    );
    assert!(with_ending(&disk, ".tmp").is_empty());
    check(&volume, 100..103, 10);
}

#[test]
fn only_whole_groups_are_punched_and_their_neighbours_still_heal() {
    const LEN: usize = 60_000;
    let geometry = Geometry {
        pack_bytes: 1 << 20,
        ..Geometry::tiny()
    };
    let disk = SimDisk::new();
    let volume = create(&disk, geometry);
    write(&volume, 0..60, LEN);
    settle(&volume);
    let gone = |n: &u64| (4..14).contains(n);
    for n in (0..60).filter(gone) {
        volume.unlink(Ino::ROOT, name(n).as_bytes()).unwrap();
    }
    while volume.step(Step::Reap).unwrap() {}
    for n in 100..104 {
        write(&volume, n..n + 1, 10);
        settle(&volume);
    }
    let (pack, len) = sealed(&disk).remove(0);
    let bytes = image(&disk).bytes(&pack).unwrap();
    let zeros = |group: &[u8]| group.iter().all(|b| *b == 0);
    let punched = bytes.chunks(64 << 10).filter(|group| zeros(group));
    assert!(punched.count() > 2);
    for at in (0..len).step_by(4096) {
        let end = (at + 2048).min(len);
        damage(&disk, &pack, at, &vec![0xEE; (end - at) as usize]);
        check(&volume, 0..4, LEN);
        check(&volume, 14..60, LEN);
        damage(&disk, &pack, at, &bytes[at as usize..end as usize]);
        while volume.step(Step::Parity).unwrap() {}
    }
    assert!(volume.stats().parity_reads > 0);
}

/// Parity takes space, and on a full host there is none before something is given back.
#[test]
fn a_full_host_gets_deleted_bytes_back_before_there_is_parity() {
    const LEN: usize = 900_000;
    let geometry = Geometry {
        pack_bytes: 20 << 20,
        ..Geometry::tiny()
    };
    let disk = SimDisk::new();
    let volume = create(&disk, geometry);
    write(&volume, 0..26, LEN);
    volume.checkpoint().unwrap();
    // One step has begun to make it, and read what will be a hole.
    assert!(volume.step(Step::Parity).unwrap());
    assert!(sealed(&disk).is_empty());
    let holes = |disk: &SimDisk| {
        let packs = with_ending(disk, ".rp").into_iter();
        let packs = packs.map(|(name, _)| image(disk).bytes(&name).unwrap());
        let pages = packs.map(|bytes| bytes.chunks(4096).filter(|p| *p == [0; 4096]).count());
        pages.sum::<usize>()
    };
    let used: u64 = disk
        .files()
        .iter()
        .map(|(_, len)| len.next_multiple_of(4096))
        .sum();
    disk.set_capacity(Some(used + (128 << 10)));
    let before = holes(&disk);
    for n in 4..12 {
        volume.unlink(Ino::ROOT, name(n).as_bytes()).unwrap();
        while volume.step(Step::Reap).unwrap() {}
        volume.checkpoint().unwrap();
    }
    assert!(holes(&disk) > before + 200, "{} {before}", holes(&disk));
    check(&volume, 0..4, LEN);
    check(&volume, 12..26, LEN);
    // With room there is parity again, of what is left.
    disk.set_capacity(None);
    settle(&volume);
    let (pack, _) = sealed(&disk).remove(0);
    drop(volume);
    // The power goes: the hole that it was made after is still one.
    let bytes = image(&disk).bytes(&pack).unwrap();
    let disk = disk.after_cut_with(|_| 0);
    let hole = bytes[4096..].chunks(4096).position(|p| *p == [0; 4096]);
    let group = (4096 + 4096 * hole.unwrap()) / (64 << 10) * (64 << 10);
    assert!(bytes[group..group + 2048].iter().any(|b| *b != 0));
    damage(&disk, &pack, group as u64, &[0xEE; 2048]);
    let volume = open(&disk, geometry);
    check(&volume, 0..4, LEN);
    check(&volume, 12..26, LEN);
}
