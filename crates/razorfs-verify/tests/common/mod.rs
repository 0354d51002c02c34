//! Volumes on simulated disks, made through the engine.
#![allow(dead_code, reason = "each test uses a part of it")]

pub mod forge;
pub mod parities;

use std::sync::Arc;

use razorfs::{
    AllocateMode, Compression, CreateOptions, FileKind, Geometry, Ino, NewNode, Options,
    RenameMode, SetAttributes, Step, Volume, XattrMode,
};
use razorfs_disk::sim::{Image, SimDisk, SimEnv};
use razorfs_disk::{Dir, Name};
use razorfs_verify::{Report, Severity, verify};

/// SplitMix64.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }
}

pub fn options() -> Options {
    Options {
        threads: false,
        geometry: Geometry::tiny(),
        cache_bytes: 1 << 20,
        ..Options::default()
    }
}

pub fn create(disk: &SimDisk, env: &SimEnv) {
    create_with(disk, env, 1);
}

pub fn create_with(disk: &SimDisk, env: &SimEnv, journal_copies: u8) {
    let create = CreateOptions {
        geometry: Geometry::tiny(),
        compression: Compression::Lz4,
        journal_copies,
        ..CreateOptions::default()
    };
    Volume::create_on(Arc::new(disk.clone()), Arc::new(env.clone()), &create).unwrap();
}

pub fn try_open(disk: &SimDisk, env: &SimEnv) -> razorfs::Result<Volume> {
    Volume::open_on(Arc::new(disk.clone()), Arc::new(env.clone()), options())
}

pub fn open(disk: &SimDisk, env: &SimEnv) -> Volume {
    try_open(disk, env).unwrap()
}

/// Every kind of record: names, files of all kinds, inline and packed data, links, attributes,
/// an unlinked file that is held, a long truncation.
pub fn populate(volume: &Volume, rng: &mut Rng, round: u64) {
    let root = Ino::ROOT;
    let dir = |name: &str| {
        let made = volume.create_node(root, name.as_bytes(), &NewNode::directory(0o755));
        made.unwrap().ino
    };
    let d = dir(&format!("dir{round}"));
    let sub = volume
        .create_node(d, b"sub", &NewNode::directory(0o700))
        .unwrap()
        .ino;
    for i in 0..12u64 {
        let name = format!("file-{round}-{i:x}");
        let file = volume
            .create_node(d, name.as_bytes(), &NewNode::file(0o644))
            .unwrap()
            .ino;
        let len = [10, 300, 3000, 20_000, 140_000][(i % 5) as usize];
        let data = if i % 2 == 0 {
            rng.bytes(len)
        } else {
            vec![i as u8; len]
        };
        volume.write(file, i * 777, &data).unwrap();
        if i % 4 == 0 {
            volume
                .set_xattr(file, b"user.note", b"value", XattrMode::Set)
                .unwrap();
        }
        if i % 3 == 0 {
            volume.link(file, sub, name.as_bytes()).unwrap();
        }
        if i % 5 == 4 {
            volume
                .allocate(file, AllocateMode::PunchHole, 30_000, 50_000)
                .unwrap();
        }
        if i == 7 {
            volume.step(Step::Commit).unwrap();
        }
    }
    let link = NewNode {
        kind: FileKind::Symlink,
        target: b"dir0/sub",
        ..NewNode::file(0o777)
    };
    volume.create_node(sub, b"link", &link).unwrap();
    let fifo = NewNode {
        kind: FileKind::Fifo,
        ..NewNode::file(0o600)
    };
    volume.create_node(sub, b"fifo", &fifo).unwrap();
    let held = volume
        .create_node(d, b"held", &NewNode::file(0o600))
        .unwrap()
        .ino;
    volume.write(held, 0, &rng.bytes(9000)).unwrap();
    volume.pin(held, 1);
    volume.unlink(d, b"held").unwrap();
    let sparse = volume
        .create_node(d, b"sparse", &NewNode::file(0o600))
        .unwrap()
        .ino;
    volume.write(sparse, 400 << 20, b"the end").unwrap();
    let set = SetAttributes {
        size: Some(5),
        ..SetAttributes::default()
    };
    volume.set_attributes(sparse, &set).unwrap();
    volume
        .rename(
            d,
            format!("file-{round}-1").as_bytes(),
            sub,
            b"moved",
            RenameMode::Replace,
        )
        .unwrap();
    volume
        .unlink(d, format!("file-{round}-9").as_bytes())
        .unwrap();
}

/// A volume that was closed, with several generations of everything.
pub fn closed(seed: u64) -> Image {
    closed_with(seed, 1)
}

/// The same with so many copies of the journal.
pub fn closed_with(seed: u64, journal_copies: u8) -> Image {
    let (disk, env) = (SimDisk::new(), SimEnv::new(seed));
    let mut rng = Rng(seed);
    create_with(&disk, &env, journal_copies);
    for round in 0..3 {
        let volume = open(&disk, &env);
        populate(&volume, &mut rng, round);
        volume.step(Step::Commit).unwrap();
        if round == 1 {
            volume.step(Step::Checkpoint).unwrap();
            volume.step(Step::Compact).unwrap();
        }
        volume.close().unwrap();
    }
    image_of(&disk)
}

/// A volume that was not closed: segments, and a journal to replay.
pub fn dirty(seed: u64) -> Image {
    let (disk, env) = (SimDisk::from_image(&closed(seed)), SimEnv::new(seed + 1));
    let mut rng = Rng(seed + 1);
    let volume = open(&disk, &env);
    populate(&volume, &mut rng, 7);
    volume.sync().unwrap();
    let image = image_of(&disk);
    // The volume goes on without leaving a trace in the image.
    drop(volume);
    image
}

pub fn image_of(disk: &SimDisk) -> Image {
    Image::load(disk).unwrap()
}

pub fn check(image: &Image, level: u8) -> Report {
    check_disk(&SimDisk::from_image(image), level)
}

pub fn check_disk(disk: &SimDisk, level: u8) -> Report {
    verify(disk, level, &mut |_| ()).unwrap()
}

pub fn numbers(report: &Report) -> Vec<u16> {
    let mut numbers: Vec<u16> = report.findings.iter().map(|f| f.number).collect();
    numbers.dedup();
    numbers
}

pub fn told(report: &Report) -> String {
    let lines: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

pub fn assert_sound(report: &Report) {
    assert!(report.is_sound(), "{}", told(report));
}

pub fn assert_clean(report: &Report) {
    assert!(
        report.worst().is_none_or(|w| w <= Severity::Note),
        "{}",
        told(report)
    );
}

pub fn file(dir: Dir, leaf: &str) -> Name {
    Name::new(dir, leaf)
}

/// The files of a directory, with their lengths.
pub fn files(image: &Image, dir: Dir) -> Vec<(Name, u64)> {
    let all = image.files().filter(|(name, _)| name.dir == dir);
    all.map(|(name, len)| (name.clone(), len)).collect()
}

pub fn create_file(v: &Volume, name: &str) -> Ino {
    let node = NewNode::file(0o644);
    let stat = v.create_node(Ino::ROOT, name.as_bytes(), &node).unwrap();
    stat.ino
}

pub fn read(v: &Volume, ino: Ino) -> Vec<u8> {
    let mut bytes = vec![0xee; v.stat(ino).unwrap().size as usize];
    assert_eq!(v.read(ino, 0, &mut bytes).unwrap(), bytes.len());
    bytes
}

pub fn remove(v: &Volume, name: &str) {
    v.unlink(Ino::ROOT, name.as_bytes()).unwrap();
    while v.step(Step::Reap).unwrap() {}
}

/// Two checkpoints, so that what no generation needs is gone.
pub fn settle(v: &Volume) {
    for n in 0..4 {
        v.set_attributes(
            Ino::ROOT,
            &SetAttributes {
                uid: Some(n),
                ..SetAttributes::default()
            },
        )
        .unwrap();
        v.step(Step::Checkpoint).unwrap();
    }
}

pub fn pack_bytes(disk: &SimDisk) -> u64 {
    let image = image_of(disk);
    files(&image, Dir::Pack).iter().map(|(_, len)| len).sum()
}
