//! Crashes of volumes whose files share data: the power goes during a long copy, or the newest
//! superblock is lost after files began to share what its flush has written.

use crate::common::forge::{manifest, name_of, superblock};
use crate::common::*;
use razorfs::{Durability, Ino, NewNode, Options, SetAttributes, Step, Volume};
use razorfs_disk::Dir;
use razorfs_disk::sim::{Image, SimDisk, SimEnv, SimRng};
use razorfs_format::layout::FileName;
use razorfs_format::manifest::PackMeta;
use razorfs_format::superblock::{SLOT, slots_of};
use razorfs_verify::{FindingKind as K, Severity};
use std::collections::BTreeSet;
use std::sync::Arc;

const BLOCK: u64 = 128 << 10;

/// A volume and what its files hold.
struct World {
    disk: SimDisk,
    env: SimEnv,
    v: Volume,
    rng: Rng,
    files: Vec<(Ino, Vec<u8>)>,
}

impl World {
    fn new(seed: u64) -> Self {
        let (disk, env) = (SimDisk::new(), SimEnv::new(seed));
        create(&disk, &env);
        let v = open(&disk, &env);
        let mut world = Self {
            disk,
            env,
            v,
            rng: Rng(seed),
            files: Vec::new(),
        };
        // Something is shared already, so that the volume says so.
        let first = world.file(60_000);
        world.copy(first);
        world.checkpoint();
        world
    }

    fn add(&mut self, bytes: Vec<u8>) -> usize {
        let name = format!("file-{}", self.files.len());
        let node = NewNode::file(0o644);
        let stat = self.v.create_node(Ino::ROOT, name.as_bytes(), &node);
        self.files.push((stat.unwrap().ino, bytes));
        self.files.len() - 1
    }

    /// A file of one write, in the pack of the journal once it is committed.
    fn file(&mut self, len: usize) -> usize {
        let bytes = self.rng.bytes(len);
        let n = self.add(bytes);
        self.v.write(self.files[n].0, 0, &self.files[n].1).unwrap();
        self.v.step(Step::Commit).unwrap();
        n
    }

    /// A file whose blocks are in so many pieces that the next flush makes frames of them.
    fn pieces(&mut self, blocks: u64) -> usize {
        let bytes = self.rng.bytes((blocks * BLOCK) as usize);
        let n = self.add(bytes);
        for piece in 0..20 {
            for block in 0..blocks as usize {
                let at = block * BLOCK as usize + piece * 6500;
                let end = (at + 6500).min((block + 1) * BLOCK as usize);
                let (ino, bytes) = &self.files[n];
                self.v.write(*ino, at as u64, &bytes[at..end]).unwrap();
            }
            self.v.step(Step::Commit).unwrap();
        }
        let end = 20 * 6500;
        assert!(end < BLOCK as usize);
        for block in self.files[n].1.chunks_mut(BLOCK as usize) {
            block[end..].fill(0);
        }
        let size = (blocks - 1) * BLOCK + end as u64;
        self.files[n].1.truncate(size as usize);
        n
    }

    fn copy(&mut self, from: usize) -> usize {
        let (from, bytes) = self.files[from].clone();
        let n = self.add(bytes.clone());
        let before = self.pack_bytes();
        let copied = self.v.copy_range(from, 0, self.files[n].0, 0, u64::MAX);
        assert_eq!(copied.unwrap(), bytes.len() as u64);
        self.v.sync().unwrap();
        // It only refers to them.
        assert_eq!(self.pack_bytes(), before);
        n
    }

    fn checkpoint(&mut self) {
        let set = SetAttributes {
            uid: Some(self.rng.next() as u32 >> 1),
            ..SetAttributes::default()
        };
        self.v.set_attributes(Ino::ROOT, &set).unwrap();
        self.v.step(Step::Checkpoint).unwrap();
    }

    fn pack_bytes(&self) -> u64 {
        let files = files(&image_of(&self.disk), Dir::Pack);
        files.iter().map(|(_, len)| len).sum()
    }

    /// The packs as the newest generation has them.
    fn packs(&self) -> Vec<PackMeta> {
        let image = image_of(&self.disk);
        manifest(&image, &superblock(&image)).packs
    }

    /// Those that go on growing.
    fn unsealed(&self) -> usize {
        self.packs().iter().filter(|p| !p.sealed).count()
    }

    /// Whether all files are as they were.
    fn check(&self, v: &Volume, what: &str) {
        for (n, (ino, bytes)) in self.files.iter().enumerate() {
            let size = v.stat(*ino).unwrap().size;
            assert_eq!(size, bytes.len() as u64, "{what}: file {n}");
            let mut got = vec![0xee; bytes.len()];
            v.read(*ino, 0, &mut got)
                .unwrap_or_else(|e| panic!("{what}: file {n}: {e}"));
            assert!(got == *bytes, "{what}: file {n}");
        }
    }

    /// Takes the power, and both slots of the newest superblock, and looks.
    fn lose(&self) {
        self.v.sync().unwrap();
        let newest = superblock(&image_of(&self.disk));
        let cuts = (0..6).map(|seed| match seed {
            0 => self.disk.power_cut_with(|_| 0),
            1 => self.disk.power_cut_with(|n| n - 1),
            seed => self.disk.power_cut(&mut SimRng::new(seed)),
        });
        for (n, disk) in cuts.enumerate() {
            let what = format!("cut {n}");
            for slot in slots_of(newest.generation) {
                let at = (slot * SLOT) as u64 + 100;
                assert!(disk.flip_bit(&name_of(FileName::Super), at, 1));
            }
            let left = superblock(&image_of(&disk));
            assert_eq!(left.generation.next(), newest.generation);
            // It does not have what was flushed then.
            assert_ne!(left.manifest.id, newest.manifest.id);
            // Nothing else is wrong, which can be known before it is mounted.
            let report = check_disk(&disk, 3);
            let known =
                |n: u16| [K::SuperblockSlot.number(), K::SuperblockLost.number()].contains(&n);
            let mut found = report
                .findings
                .iter()
                .filter(|f| f.severity > Severity::Note);
            assert!(found.all(|f| known(f.number)), "{what}: {}", told(&report));
            let v = open(&disk, &self.env);
            let damage = &v.recovery_report().damage;
            assert!(damage.iter().any(|d| d.contains("SUPER")), "{damage:?}");
            self.check(&v, &what);
            self.go_on(&disk, v, &what);
        }
    }

    /// The volume goes on: it is written to, packs come and go, and it is opened again.
    fn go_on(&self, disk: &SimDisk, v: Volume, what: &str) {
        let mut rng = Rng(77);
        let node = NewNode::file(0o600);
        for round in 0..3 {
            let name = format!("more-{round}");
            let more = v
                .create_node(Ino::ROOT, name.as_bytes(), &node)
                .unwrap()
                .ino;
            v.write(more, 0, &rng.bytes(300_000)).unwrap();
            v.copy_range(self.files[0].0, 0, more, 0, 50_000).unwrap();
            v.step(Step::Checkpoint).unwrap();
            v.unlink(Ino::ROOT, name.as_bytes()).unwrap();
            while v.step(Step::Reap).unwrap() {}
            v.step(Step::Checkpoint).unwrap();
            while v.step(Step::Compact).unwrap() {}
            self.check(&v, &format!("{what}, round {round}"));
            assert_clean(&check_disk(disk, 3));
        }
        v.close().unwrap();
        assert_clean(&check_disk(disk, 3));
        self.check(&open(disk, &self.env), what);
    }
}

#[test]
fn what_shares_a_frame_of_the_newest_flush_survives_the_loss_of_its_superblock() {
    for seed in 0..3 {
        let mut world = World::new(seed);
        let many = world.pieces(2);
        let before = world.packs().len();
        world.checkpoint();
        assert!(world.packs().len() >= before);
        world.copy(many);
        // Its own reference is gone, too.
        let (ino, bytes) = &mut world.files[many];
        bytes[..100_000].fill(7);
        world.v.write(*ino, 0, &[7; 100_000]).unwrap();
        world.lose();
    }
}

#[test]
fn so_does_what_shares_a_pack_that_the_newest_flush_has_sealed() {
    for seed in 10..13 {
        let mut world = World::new(seed);
        // The generation before knows the pack, and that it grows.
        let small = world.pieces(1);
        world.checkpoint();
        let grows: Vec<_> = world.packs().into_iter().filter(|p| !p.sealed).collect();
        let many = world.pieces(9);
        world.checkpoint();
        let packs = world.packs();
        let sealed = |p: &PackMeta| {
            packs
                .iter()
                .any(|q| q.id == p.id && q.sealed && q.len > p.len)
        };
        assert!(grows.iter().any(sealed), "{grows:?} {packs:?}");
        let copy = world.copy(many);
        world.copy(small);
        world.copy(copy);
        world.lose();
    }
}

#[test]
fn so_does_what_shares_three_packs_and_more_that_the_generation_before_has_not_seen_sealed() {
    for seed in 20..23 {
        let mut world = World::new(seed);
        let small = world.pieces(1);
        world.checkpoint();
        let known = world.unsealed();
        let many = world.pieces(9);
        // So that no checkpoint comes for want of room that the test does not know of.
        while world.v.step(Step::Grow).unwrap() {}
        let next = world.packs().iter().map(|p| p.id).max().unwrap();
        world.checkpoint();
        world.copy(small);
        world.copy(many);
        // The journal's pack is filled as well, and the next one begun.
        let data = world.file(300_000);
        world.copy(data);
        let data = world.file(200_000);
        world.copy(data);
        world.v.sync().unwrap();
        let image = image_of(&world.disk);
        let new = files(&image, Dir::Pack);
        let new = new
            .iter()
            .filter(|(name, _)| *name > name_of(FileName::Pack(next)));
        let unsealed = known + new.count();
        assert!(unsealed >= 3, "{unsealed}");
        world.lose();
    }
}

/// A volume that was not closed, with a file of 3 MiB: a third of it in whole frames, a third in
/// frames of a page each, and the last in runs that are too short to be shared. And an empty file.
fn long() -> (Image, Ino, Ino, Vec<u8>) {
    let (disk, env) = (SimDisk::new(), SimEnv::new(40));
    create(&disk, &env);
    let v = open(&disk, &env);
    let node = NewNode::file(0o644);
    let [from, to] = [&b"from"[..], b"to"].map(|name| {
        let made = v.create_node(Ino::ROOT, name, &node);
        made.unwrap().ino
    });
    let data = Rng(40).bytes(3 << 20);
    for (third, len) in (0..).zip([1 << 17, 4096, 3000]) {
        // What a batch writes side by side is one frame.
        for odd in [0, 1] {
            let bytes = &data[third << 20..][..1 << 20];
            for (n, run) in bytes.chunks(len).enumerate().filter(|(n, _)| n % 2 == odd) {
                let at = (third << 20) + n * len;
                v.write(from, at as u64, run).unwrap();
            }
            v.step(Step::Commit).unwrap();
        }
        if third == 0 {
            // Now something is shared, and the volume says so.
            v.copy_range(from, 0, to, 0, 60_000).unwrap();
            let set = SetAttributes {
                size: Some(0),
                ..SetAttributes::default()
            };
            v.set_attributes(to, &set).unwrap();
            v.step(Step::Checkpoint).unwrap();
        }
    }
    (image_of(&disk), from, to, data)
}

/// The same volume, where every operation is durable when it returns.
fn synced(image: &Image) -> (SimDisk, Volume) {
    let disk = SimDisk::from_image(image);
    let options = Options {
        durability: Durability::Sync,
        ..options()
    };
    let v = Volume::open_on(Arc::new(disk.clone()), Arc::new(SimEnv::new(42)), options);
    (disk, v.unwrap())
}

#[test]
fn a_power_cut_in_a_long_copy_leaves_a_copy_of_some_steps() {
    let (image, from, to, data) = long();
    let (disk, v) = synced(&image);
    let first = disk.op_count();
    assert_eq!(v.copy_range(from, 0, to, 0, u64::MAX).unwrap(), 3 << 20);
    let steps = disk.op_count() - first;
    drop(v);
    let mut sizes = BTreeSet::new();
    for step in 0..=steps {
        let (disk, v) = synced(&image);
        disk.cut_after(disk.op_count() + step);
        let copied = v.copy_range(from, 0, to, 0, u64::MAX).unwrap_or(0);
        drop(v);
        let cuts = [
            disk.after_cut_with(|_| 0),
            disk.after_cut_with(|n| n - 1),
            disk.after_cut(&mut SimRng::new(step)),
        ];
        for (n, disk) in cuts.iter().enumerate() {
            let what = format!("step {step} of {steps}, cut {n}");
            assert_clean(&check_disk(disk, 3));
            let v = open(disk, &SimEnv::new(41));
            let size = v.stat(to).unwrap().size;
            assert!(size >= copied, "{what}: {size}, {copied} acknowledged");
            sizes.insert(size);
            for (ino, len) in [(from, 3 << 20), (to, size)] {
                let mut bytes = vec![0; len as usize];
                assert_eq!(v.read(ino, 0, &mut bytes).unwrap() as u64, len, "{what}");
                assert!(bytes[..] == data[..len as usize], "{what}: inode {ino}");
            }
            v.step(Step::Checkpoint).unwrap();
            v.close().unwrap();
            assert_clean(&check_disk(disk, 3));
        }
    }
    // Steps of a mebibyte at least, but the last.
    let sizes: Vec<u64> = sizes.into_iter().collect();
    assert!(sizes.len() > 2 && sizes[0] == 0, "{sizes:?}");
    assert_eq!(sizes.last(), Some(&(3 << 20)), "{sizes:?}");
    for pair in sizes.windows(2) {
        assert!(
            pair[1] - pair[0] >= 1 << 20 || pair[1] == 3 << 20,
            "{sizes:?}"
        );
    }
}
