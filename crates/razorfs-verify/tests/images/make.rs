//! The volumes that are kept: small, with every kind of record, whole and damaged.

use std::sync::Arc;

use razorfs::{
    AllocateMode, Asker, Compression, CreateOptions, FileKind, Geometry, Ino, NewNode, Options,
    RenameMode, SetAttributes, Step, Volume, XattrMode,
};
use razorfs_disk::Dir;
use razorfs_disk::sim::{Image, SimDisk, SimEnv, SimRng};

use crate::common::forge::{name_of, superblock};
use crate::common::{check, files, image_of, numbers};
use razorfs_format::layout::FileName;
use razorfs_verify::{FindingKind as K, Severity};

const SEED: u64 = 20_260_101;

fn geometry() -> Geometry {
    Geometry {
        pack_bytes: 24 << 10,
        ..Geometry::tiny()
    }
}

fn open(disk: &SimDisk, env: &SimEnv, compression: Compression) -> Volume {
    let options = Options {
        threads: false,
        geometry: geometry(),
        compression: Some(compression),
        cache_bytes: 1 << 20,
        ..Options::default()
    };
    Volume::open_on(Arc::new(disk.clone()), Arc::new(env.clone()), options).unwrap()
}

/// Text that compresses in the container but, in pieces, hardly with LZ4.
fn text(n: usize, salt: u32) -> Vec<u8> {
    (0u32..)
        .flat_map(|i| {
            format!("line {} of {salt}\n", i.wrapping_mul(2_654_435_761) >> 20).into_bytes()
        })
        .take(n)
        .collect()
}

fn put(volume: &Volume, dir: Ino, name: &str, data: &[u8]) -> Ino {
    let made = volume.create_node(dir, name.as_bytes(), &NewNode::file(0o644));
    let ino = made.unwrap().ino;
    volume.write(ino, 0, data).unwrap();
    ino
}

fn kinds(volume: &Volume, dir: Ino) {
    let node = |kind| NewNode {
        kind,
        uid: 1000,
        gid: 100,
        ..NewNode::file(0o640)
    };
    let device = |kind, rdev| NewNode { rdev, ..node(kind) };
    for (name, node) in [
        ("fifo", node(FileKind::Fifo)),
        ("socket", node(FileKind::Socket)),
        ("null", device(FileKind::CharDevice, 0x103)),
        ("disk", device(FileKind::BlockDevice, 0x800)),
    ] {
        volume.create_node(dir, name.as_bytes(), &node).unwrap();
    }
    let link = NewNode {
        target: b"../somewhere/else",
        ..node(FileKind::Symlink)
    };
    volume.create_node(dir, b"link", &link).unwrap();
}

/// One round of everything; rounds after the first change what the one before made.
fn round(volume: &Volume, n: u32) {
    let root = Ino::ROOT;
    let name = format!("round-{n}");
    let made = volume.create_node(root, name.as_bytes(), &NewNode::directory(0o750));
    let dir = made.unwrap().ino;
    kinds(volume, dir);
    for i in 0..9u32 {
        put(
            volume,
            dir,
            &format!("{i:02x}-{:016x}", 0x9e37_79b9u64 * u64::from(i + n)),
            b"small",
        );
    }
    let inline = put(volume, dir, "inline", &text(700, n));
    volume.write(inline, 900, b"behind a gap").unwrap();
    let raw = put(volume, dir, "frames", &text(3000, n));
    volume
        .write(raw, 131_072 - 100, &text(2200, n + 50))
        .unwrap();
    let big = put(volume, dir, "zeros", &vec![0; 150_000]);
    volume
        .allocate(big, AllocateMode::PunchHole, 20_000, 30_000)
        .unwrap();
    volume
        .allocate(big, AllocateMode::Extend, 200_000, 5000)
        .unwrap();
    volume.copy_range(raw, 0, inline, 8192, 2500).unwrap();
    for (ino, xattr, value) in [
        (raw, "user.note", text(40, n)),
        (raw, "user.long", text(500, n)),
        (dir, "trusted.razor", b"sharp".to_vec()),
    ] {
        volume
            .set_xattr(ino, xattr.as_bytes(), &value, XattrMode::Set)
            .unwrap();
    }
    volume
        .link(raw, root, format!("hard-{n}").as_bytes())
        .unwrap();
    volume.step(Step::Commit).unwrap();
    if let Ok(before) = volume.lookup(root, format!("round-{}", n.wrapping_sub(1)).as_bytes()) {
        volume.unlink(before.ino, b"zeros").unwrap();
        volume.unlink(before.ino, b"fifo").unwrap();
        let old = volume.lookup(before.ino, b"frames").unwrap().ino;
        volume.write(old, 500, &text(2100, n + 90)).unwrap();
        volume
            .rename(before.ino, b"link", dir, b"moved", RenameMode::Replace)
            .unwrap();
        volume
            .rename(before.ino, b"inline", dir, b"inline", RenameMode::Exchange)
            .unwrap();
    }
    // What stays behind as an orphan if nobody comes back for it.
    let held = put(volume, dir, "held", &text(2100, n + 7));
    volume.pin(held, 1);
    volume.unlink(dir, b"held").unwrap();
    let sparse = put(volume, dir, "sparse", b"the beginning");
    volume.write(sparse, 800 << 20, b"the end").unwrap();
    let set = SetAttributes {
        size: Some(5),
        ..SetAttributes::default()
    };
    volume.set_attributes(sparse, &set).unwrap();
}

fn clean() -> Image {
    let (disk, env) = (SimDisk::new(), SimEnv::new(SEED));
    let create = CreateOptions {
        limit: Some(1 << 30),
        geometry: geometry(),
        root_uid: 7,
        ..CreateOptions::default()
    };
    Volume::create_on(Arc::new(disk.clone()), Arc::new(env.clone()), &create).unwrap();
    for (n, compression) in (0..).zip([Compression::Lz4, Compression::None, Compression::Zstd(3)]) {
        let volume = open(&disk, &env, compression);
        round(&volume, n);
        volume.step(Step::Commit).unwrap();
        if n == 1 {
            volume.checkpoint().unwrap();
            while volume.step(Step::Compact).unwrap() {}
        }
        volume.close().unwrap();
    }
    image_of(&disk)
}

/// A volume whose daemon was killed after a sync: the journal has operations of every kind.
fn unclean(clean: &Image) -> SimDisk {
    let (disk, env) = (SimDisk::from_image(clean), SimEnv::new(SEED + 1));
    let volume = open(&disk, &env, Compression::Lz4);
    round(&volume, 3);
    volume.sync().unwrap();
    put(&volume, Ino::ROOT, "after the sync", &text(1000, 1));
    volume.step(Step::Commit).unwrap();
    let copy = SimDisk::from_image(&image_of(&disk));
    // It goes on without leaving a trace in the copy.
    drop(volume);
    copy
}

/// A volume of files that share data, some of it as the segments and some as the journal has it.
fn shared(clean: &Image) -> Image {
    let (disk, env) = (SimDisk::from_image(clean), SimEnv::new(SEED + 3));
    let volume = open(&disk, &env, Compression::Lz4);
    let source = put(&volume, Ino::ROOT, "shared", &text(40_000, 11));
    volume.write(source, 200_000, &text(9000, 12)).unwrap();
    volume.step(Step::Commit).unwrap();
    let copy = put(&volume, Ino::ROOT, "copy", b"");
    volume.copy_range(source, 0, copy, 0, u64::MAX).unwrap();
    let parts = put(&volume, Ino::ROOT, "parts", b"");
    volume
        .copy_range(copy, 5000, parts, 130_000, 20_000)
        .unwrap();
    volume.checkpoint().unwrap();
    volume.unlink(Ino::ROOT, b"shared").unwrap();
    volume.write(copy, 10_000, &text(8000, 13)).unwrap();
    volume.checkpoint().unwrap();
    let again = put(&volume, Ino::ROOT, "again", b"");
    volume.copy_range(copy, 0, again, 4000, u64::MAX).unwrap();
    volume.sync().unwrap();
    let image = image_of(&disk);
    drop(volume);
    image
}

/// A volume with files.
fn begun(seed: u64) -> (SimDisk, Volume) {
    let (disk, env) = (SimDisk::new(), SimEnv::new(seed));
    let create = CreateOptions {
        geometry: geometry(),
        ..CreateOptions::default()
    };
    Volume::create_on(Arc::new(disk.clone()), Arc::new(env.clone()), &create).unwrap();
    let volume = open(&disk, &env, Compression::Lz4);
    round(&volume, 0);
    (disk, volume)
}

/// A volume with snapshots, some in the manifest and some in the journal, that was rolled back
/// twice.
fn snapshots() -> Image {
    let (disk, volume) = begun(SEED + 6);
    volume.snapshot("first").unwrap();
    round(&volume, 1);
    volume.checkpoint().unwrap();
    volume.snapshot("second").unwrap();
    volume.rollback("first").unwrap();
    round(&volume, 2);
    volume.snapshot("third").unwrap();
    volume.delete_snapshot("second").unwrap();
    volume.checkpoint().unwrap();
    round(&volume, 3);
    volume.snapshot("fourth").unwrap();
    volume.rollback("third").unwrap();
    volume.delete_snapshot("fourth").unwrap();
    put(&volume, Ino::ROOT, "after going back", &text(3000, 7));
    volume.sync().unwrap();
    let image = image_of(&disk);
    drop(volume);
    image
}

/// Everything that a branch does with its own files.
fn branch_round(branch: &Volume, n: u32) {
    let dir = branch.create_node(Ino::ROOT, b"of the branch", &NewNode::directory(0o755));
    let dir = dir.unwrap().ino;
    kinds(branch, dir);
    let file = put(branch, dir, "data", &text(9000, 20 + n));
    let copy = put(branch, dir, "copy", b"");
    branch.copy_range(file, 0, copy, 100, u64::MAX).unwrap();
    branch.write(file, 4000, &text(300, 30 + n)).unwrap();
}

/// A volume with three branches: one never written to, one with a snapshot and a rollback of its
/// own, one of a snapshot; and one that was deleted. Some of that is in the journal alone.
fn branches() -> Image {
    let (disk, volume) = begun(SEED + 7);
    volume.snapshot("before").unwrap();
    round(&volume, 1);
    volume.create_branch("idle").unwrap();
    let work = volume.create_branch("work").unwrap();
    volume.create_branch("deleted").unwrap();
    let work = volume.branch(work).unwrap();
    branch_round(&work, 0);
    put(
        &volume.branch("deleted").unwrap(),
        Ino::ROOT,
        "gone",
        &text(7000, 40),
    );
    volume.checkpoint().unwrap();
    work.snapshot("in work").unwrap();
    round(&volume, 2);
    put(&work, Ino::ROOT, "left", &text(5000, 41));
    let made = volume.at_snapshot("before").unwrap().create_branch("old");
    let old = volume.branch(made.unwrap()).unwrap();
    branch_round(&old, 1);
    volume.delete_branch("deleted").unwrap();
    volume.checkpoint().unwrap();
    work.rollback("in work").unwrap();
    put(&work, Ino::ROOT, "after going back", &text(6000, 42));
    volume.unlink(Ino::ROOT, b"after going back").unwrap_err();
    put(&old, Ino::ROOT, "in the journal", &text(200, 43));
    put(&volume, Ino::ROOT, "in the head", &text(3000, 44));
    volume.sync().unwrap();
    let image = image_of(&disk);
    drop((work, old));
    drop(volume);
    image
}

/// A volume whose journal says who asked, killed with operations to replay that are linked.
fn linked() -> Image {
    let (disk, volume) = begun(SEED + 8);
    let asker = Asker {
        uid: 1000,
        gid: 100,
        pid: 4711,
    };
    asker.asks(|| round(&volume, 1));
    volume.checkpoint().unwrap();
    asker.asks(|| round(&volume, 2));
    round(&volume, 3);
    volume.sync().unwrap();
    let image = image_of(&disk);
    drop(volume);
    image
}

/// A volume with two copies of its journal, whose daemon was killed; one file is overwritten.
fn twins() -> Image {
    let (disk, env) = (SimDisk::new(), SimEnv::new(SEED + 4));
    let create = CreateOptions {
        journal_copies: 2,
        geometry: geometry(),
        ..CreateOptions::default()
    };
    Volume::create_on(Arc::new(disk.clone()), Arc::new(env.clone()), &create).unwrap();
    let volume = open(&disk, &env, Compression::Lz4);
    round(&volume, 0);
    volume.sync().unwrap();
    let mut image = image_of(&disk);
    drop(volume);
    // The second file is the first one that a mount writes to.
    for file in [
        FileName::Journal(0),
        FileName::Journal(1),
        FileName::Journal(2),
    ] {
        let mut bytes = image.bytes(&name_of(file)).unwrap();
        if bytes.iter().skip(4096).any(|b| *b != 0) && file != FileName::Journal(0) {
            bytes.fill(0x5a);
            image.write(&name_of(file), 0, &bytes);
        }
    }
    image
}

/// A volume with parity: that of segments and of full packs, and a scrub's record.
fn parity() -> Image {
    let (disk, env) = (SimDisk::new(), SimEnv::new(SEED + 5));
    let create = CreateOptions {
        geometry: geometry(),
        parity: true,
        ..CreateOptions::default()
    };
    Volume::create_on(Arc::new(disk.clone()), Arc::new(env.clone()), &create).unwrap();
    let volume = open(&disk, &env, Compression::None);
    for n in 0..3 {
        round(&volume, n);
        volume.checkpoint().unwrap();
    }
    while volume.step(Step::Parity).unwrap() {}
    volume.scrub_start(0).unwrap();
    while volume.step(Step::Scrub).unwrap() {}
    volume.close().unwrap();
    image_of(&disk)
}

/// The power fails while a batch is written: the first seed that leaves a torn one.
fn torn(unclean: &Image) -> Image {
    for seed in 0..400 {
        let (disk, env) = (SimDisk::from_image(unclean), SimEnv::new(SEED + 2));
        let volume = open(&disk, &env, Compression::Lz4);
        put(&volume, Ino::ROOT, "never synced", &text(9000, 2));
        disk.cut_after(disk.op_count() + seed % 8);
        let _ = volume.sync();
        let cut = disk.after_cut(&mut SimRng::new(seed));
        drop(volume);
        let image = image_of(&cut);
        let report = check(&image, 3);
        let torn = numbers(&report).contains(&K::JournalTornTail.number());
        if torn && report.worst() == Some(Severity::Note) {
            return image;
        }
    }
    unreachable!("some cut tears a batch")
}

/// The last flipped bit of a file of `dir` that is found as `kind` alone.
fn flipped(image: &Image, dir: Dir, kind: K) -> Image {
    for (name, len) in files(image, dir).into_iter().rev() {
        for byte in (0..len).rev().step_by(97) {
            let mut image = image.clone();
            image.flip_bit(&name, byte, 3);
            let report = check(&image, 3);
            let found = numbers(&report).contains(&kind.number());
            if found && report.worst() == Some(kind.severity()) {
                return image;
            }
        }
    }
    unreachable!("some bit is of that kind")
}

/// The names of all of them.
pub const NAMES: [&str; 14] = [
    "linked",
    "branches",
    "snapshots",
    "twins",
    "parity",
    "shared",
    "torn",
    "journal-damaged",
    "segment-damaged",
    "pack-damaged",
    "superblock-damaged",
    "manifest-short",
    "unclean",
    "clean",
];

/// All of them, by name.
pub fn all() -> Vec<(&'static str, Image)> {
    let clean = clean();
    let unclean = image_of(&unclean(&clean));
    let mut slot = clean.clone();
    slot.flip_bit(&name_of(FileName::Super), 33, 1);
    let mut short = clean.clone();
    let manifest = name_of(FileName::Manifest(superblock(&clean).manifest.id));
    short.set_len(&manifest, 100);
    let images = [
        linked(),
        branches(),
        snapshots(),
        twins(),
        parity(),
        shared(&clean),
        torn(&unclean),
        flipped(&unclean, Dir::Journal, K::JournalBatchDamaged),
        flipped(&clean, Dir::Meta, K::SegmentBlock),
        flipped(&clean, Dir::Pack, K::FrameDamaged),
        slot,
        short,
        unclean,
        clean,
    ];
    NAMES.into_iter().zip(images).collect()
}
