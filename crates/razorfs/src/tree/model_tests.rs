//! Levels against a map of everything that was ever written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use razorfs_disk::sim::{SimDisk, SimRng};
use razorfs_disk::{Disk, OpenHow};
use razorfs_format::key::{Key, Tag};
use razorfs_format::layout::FileName;
use razorfs_format::manifest::{SegmentMeta, SnapshotMeta};
use razorfs_format::record::{Codec, Dirent, FileKind};
use razorfs_format::segment::check::check_segment;
use razorfs_format::timeline::{Timeline, View};
use razorfs_format::{Branch, Epoch, Ino, SegmentId, VolumeId};

use super::segment_reader::name;
use super::*;
use crate::Error;

const VID: VolumeId = VolumeId(77);
type Value = Option<Vec<u8>>;

struct World {
    disk: SimDisk,
    levels: Levels,
    rng: SimRng,
    /// Every version of every key.
    history: BTreeMap<Key, BTreeMap<Epoch, Value>>,
    epoch: u64,
    next_id: u64,
    timeline: Timeline,
    write: SegmentOptions,
    compact: CompactionOptions,
}

fn open(disk: &SimDisk, segments: Vec<SegmentMeta>) -> Levels {
    let cache = Arc::new(BlockCache::new(200 << 10));
    Levels::open(Arc::new(disk.clone()), VID, cache, segments)
}

impl World {
    fn new(seed: u64) -> Self {
        let disk = SimDisk::new();
        disk.create_dirs().unwrap();
        let mut rng = SimRng::new(seed);
        let write = SegmentOptions {
            target_bytes: [3 << 10, 20 << 10, 1 << 20][rng.below(3) as usize],
            block_bytes: [64, 400, 16 << 10][rng.below(3) as usize],
            codec: [Codec::None, Codec::Lz4, Codec::Zstd][rng.below(3) as usize],
            filter: rng.below(4) > 0,
            split: None,
            parity: None,
        };
        let compact = CompactionOptions {
            l0_runs: 1 + rng.below(4) as usize,
            base_bytes: [6 << 10, 15 << 10, 30 << 10][rng.below(3) as usize],
            growth: 3,
            tombstone_percent: 30,
            tombstones_min: 5,
            small_bytes: [0, 8 << 10][rng.below(2) as usize],
            timeline: Arc::default(),
            without: Vec::new(),
        };
        Self {
            levels: open(&disk, Vec::new()),
            disk,
            rng,
            history: BTreeMap::new(),
            epoch: 1,
            next_id: 1,
            timeline: Timeline::default(),
            write,
            compact,
        }
    }

    fn key(&mut self) -> Key {
        let rng = &mut self.rng;
        let (ino, near) = (Ino(1 + rng.below(3)), rng.below(150));
        match rng.below(4) {
            0 => Key::inode(Branch::HEAD, Ino(near)),
            1 => Key::extent(Branch::HEAD, ino, near),
            2 => Key::xattr(Branch::HEAD, ino, near, rng.below(3) as u8),
            _ => Key::dirent(Branch::HEAD, ino, 0x100 * (1 + near) + rng.below(2)),
        }
    }

    fn value(&mut self, tag: Tag) -> Value {
        if self.rng.below(3) == 0 {
            return None;
        }
        let n = self.rng.below(1 << 16);
        Some(if tag == Tag::Dirent {
            let name = format!("{n:04x}_file.txt").into_bytes().into();
            Dirent {
                ino: Ino(n + 1),
                kind: FileKind::Regular,
                name,
            }
            .to_bytes()
            .into()
        } else {
            vec![n as u8; self.rng.below(120) as usize]
        })
    }

    fn flush(&mut self) {
        let epoch = Epoch(self.epoch);
        self.epoch += 1;
        let mut changes = BTreeMap::new();
        for _ in 0..1 + self.rng.below(120) {
            let key = self.key();
            let value = self.value(key.tag());
            changes.insert(key, value);
        }
        if self.rng.below(3) == 0 {
            self.write.split = changes.keys().nth(changes.len() / 2).copied();
        }
        let mut added = Vec::new();
        for tag in Tag::ALL {
            let mut records = changes
                .iter()
                .filter(|(k, _)| k.tag() == tag)
                .map(|(k, v)| {
                    Ok(Record {
                        key: *k,
                        epoch,
                        value: v.clone().map(Bytes::from),
                    })
                });
            let next_id = &mut self.next_id;
            let mut new_id = || {
                *next_id += 1;
                SegmentId(*next_id)
            };
            let (disk, opts) = (&self.disk, &self.write);
            let new = write_segments(disk, VID, tag, 0, epoch.0, &mut new_id, &mut records, opts);
            added.extend(new.unwrap());
        }
        publish(&self.disk, &added, false).unwrap();
        self.levels = self.levels.with(&added, &[]);
        for (key, value) in changes {
            self.history.entry(key).or_default().insert(epoch, value);
        }
    }

    /// Does one compaction, if one is due.
    fn compact(&mut self) -> bool {
        self.compact.timeline = Arc::new(self.timeline.clone());
        let Some(job) = compaction::pick(&self.levels, &self.compact) else {
            return false;
        };
        let next_id = &mut self.next_id;
        let mut new_id = || {
            *next_id += 1;
            SegmentId(*next_id)
        };
        let output = job
            .run(&self.disk, VID, &mut new_id, &self.timeline, &self.write)
            .unwrap();
        publish(&self.disk, &output.added, false).unwrap();
        let old = self.levels.clone();
        self.levels = output.apply(&self.levels);
        // A reader of the old version goes on while files go away.
        let (from, to) = (self.key(), self.key());
        self.check_range(&old, from, to);
        for id in output.removed {
            self.disk.remove(&name(FileName::Segment(id))).unwrap();
        }
        true
    }

    fn expected(&self, key: &Key, view: &View) -> Value {
        let mut versions = self.history.get(key)?.iter().rev();
        let (_, newest) = versions.find(|(epoch, _)| view.sees(**epoch))?;
        newest.clone()
    }

    /// What can be looked at.
    fn views(&self) -> Vec<View> {
        let snapshots = self.timeline.snapshots().iter();
        let at = |s: &Arc<SnapshotMeta>| self.timeline.view(s.epoch);
        let mut views: Vec<View> = snapshots.map(at).collect();
        views.push(self.timeline.head());
        views
    }

    /// A snapshot of what was flushed last.
    fn take(&mut self) -> Epoch {
        let epoch = Epoch(self.epoch - 1);
        self.next_id += 1;
        let snapshot = SnapshotMeta {
            id: self.next_id,
            branch: Branch::HEAD,
            epoch,
            gone: false,
            time: 0,
            inodes: 0,
            bytes: 0,
            name: Box::default(),
        };
        if epoch.0 > 0 && self.timeline.line(epoch).is_some() {
            self.timeline.add(snapshot);
        }
        epoch
    }

    fn chosen(&mut self) -> Option<Arc<SnapshotMeta>> {
        let all = self.timeline.snapshots();
        let n = self.rng.below(all.len().max(1) as u64) as usize;
        all.get(n).cloned()
    }

    fn roll_back(&mut self) {
        self.flush();
        let end = self.take();
        if let Some(to) = self.chosen() {
            assert!(self.timeline.roll_back(Branch::HEAD, to.epoch, end));
        }
    }

    fn release(&mut self) {
        if let Some(chosen) = self.chosen() {
            self.timeline.give_up(chosen.id);
            self.release_all();
        }
    }

    fn release_all(&mut self) {
        let gone = |t: &Timeline| -> Vec<u64> {
            let gone = t.snapshots().iter().filter(|s| s.gone);
            gone.map(|s| s.id).collect()
        };
        while gone(&self.timeline)
            .into_iter()
            .any(|id| self.timeline.release(id).is_some())
        {}
    }

    fn forget_snapshots(&mut self) {
        let all: Vec<u64> = self.timeline.snapshots().iter().map(|s| s.id).collect();
        for id in all {
            self.timeline.give_up(id);
        }
        self.release_all();
        assert!(self.timeline.snapshots().is_empty());
    }

    fn check_range(&self, levels: &Levels, a: Key, b: Key) {
        if a.tag() != b.tag() {
            return;
        }
        let (from, to) = (a.min(b), a.max(b));
        for at in self.views() {
            let got: Vec<(Key, Vec<u8>)> = levels
                .range(&from, &to, &at)
                .map(|r| r.unwrap())
                .filter_map(|r| r.value.map(|v| (r.key, v.to_vec())))
                .collect();
            let expected: Vec<(Key, Vec<u8>)> = self
                .history
                .range(from..to)
                .filter_map(|(k, _)| self.expected(k, &at).map(|v| (*k, v)))
                .collect();
            assert_eq!(got, expected, "{from:?}..{to:?} at {at:?}");
        }
    }

    fn check(&mut self) {
        for _ in 0..30 {
            let key = self.key();
            for at in self.views() {
                let got = self.levels.get(&key, &at).unwrap();
                let got = got.and_then(|r| r.value).map(|v| v.to_vec());
                assert_eq!(got, self.expected(&key, &at), "{key:?} at {at:?}");
            }
        }
        for _ in 0..5 {
            let (a, b) = (self.key(), self.key());
            self.check_range(&self.levels, a, b);
            if a.tag() == Tag::Dirent {
                let slot = |c| Key::dirent(Branch::HEAD, a.ino(), c);
                let start = a.second() & !0xff;
                self.check_range(&self.levels, slot(start), slot(start + 0x100));
            }
        }
    }

    fn read_file(&self, meta: &SegmentMeta) -> Vec<u8> {
        let file = self
            .disk
            .open(&name(FileName::Segment(meta.id)), OpenHow::Read)
            .unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(&mut bytes, 0).unwrap();
        bytes
    }

    /// Every file is sound, listed once, and levels do not overlap.
    fn check_files(&self) {
        let mut seen = BTreeSet::new();
        for meta in self.levels.segments() {
            assert!(seen.insert(meta.id));
            let bytes = self.read_file(meta);
            check_segment(&bytes, VID, meta, &mut |key, epoch, value| {
                let version = &self.history[key][&epoch];
                assert_eq!(version.as_deref(), value, "{key:?} of {epoch}");
            })
            .unwrap();
            for other in self.levels.segments() {
                let level = (meta.tag, meta.level, meta.run) == (other.tag, other.level, other.run);
                let apart = meta.last < other.first || other.last < meta.first;
                assert!(!level || apart || meta.id == other.id);
            }
        }
        assert_eq!(self.disk.files().len(), seen.len(), "no file is left over");
    }
}

#[test]
fn reads_agree_with_a_map_through_flushes_compactions_and_snapshots() {
    let mut deepest = [0u64; 256];
    for seed in 0..60 {
        let mut world = World::new(seed);
        for _ in 0..40 {
            match world.rng.below(12) {
                0 => drop(world.take()),
                1 => world.release(),
                10 => world.roll_back(),
                2 => {
                    let segments = world.levels.segments().copied().collect();
                    world.levels = open(&world.disk, segments);
                }
                3..=5 => drop((0..4).all(|_| world.compact())),
                _ => world.flush(),
            }
            world.check();
            let depth = world.levels.segments().map(|m| m.level).max().unwrap_or(0);
            deepest[usize::from(depth)] += 1;
        }
        world.forget_snapshots();
        let mut rounds = 0;
        while world.compact() {
            rounds += 1;
            assert!(rounds < 200, "compaction comes to an end");
        }
        world.check();
        world.check_files();
    }
    assert!(
        deepest[1..4].iter().all(|n| *n > 50),
        "the test goes deep: {deepest:?}"
    );
}

/// A tombstone for every key, on level 0.
fn delete_all(world: &mut World) {
    let dead: Vec<Key> = world.history.keys().copied().collect();
    let epoch = Epoch(world.epoch);
    let mut added = Vec::new();
    for tag in Tag::ALL {
        let mut records = dead.iter().filter(|k| k.tag() == tag).map(|k| {
            Ok(Record {
                key: *k,
                epoch,
                value: None,
            })
        });
        let mut new_id = || {
            world.next_id += 1;
            SegmentId(world.next_id)
        };
        let opts = &world.write;
        added.extend(
            write_segments(
                &world.disk,
                VID,
                tag,
                0,
                epoch.0,
                &mut new_id,
                &mut records,
                opts,
            )
            .unwrap(),
        );
    }
    publish(&world.disk, &added, false).unwrap();
    world.levels = world.levels.with(&added, &[]);
    for key in dead {
        world.history.entry(key).or_default().insert(epoch, None);
    }
}

#[test]
fn when_everything_is_deleted_compaction_leaves_nothing() {
    let mut world = World::new(3);
    world.compact.l0_runs = 1;
    for _ in 0..6 {
        world.flush();
    }
    delete_all(&mut world);
    while world.compact() {}
    let left: u64 = world
        .levels
        .segments()
        .map(|m| m.entries - m.tombstones)
        .sum();
    assert_eq!(left, 0);
    assert_eq!(world.levels.segments().count(), 0);
    world.check();
}

#[test]
fn tombstones_that_a_snapshot_kept_go_after_it() {
    let mut world = World::new(5);
    world.compact.l0_runs = 1;
    world.flush();
    world.take();
    delete_all(&mut world);
    world.epoch += 1;
    while world.compact() {}
    world.check();
    assert!(world.levels.segments().any(|m| m.tombstones > 0));
    world.forget_snapshots();
    while world.compact() {}
    world.check();
    assert_eq!(world.levels.segments().count(), 0);
    assert!(crate::marks::count(crate::marks::Mark::CompactionBuried) > 0);
}

#[test]
fn what_is_only_appended_is_moved_not_rewritten() {
    let mut world = World::new(1);
    world.write = SegmentOptions::default();
    world.compact = CompactionOptions {
        small_bytes: 0,
        ..CompactionOptions::default()
    };
    let mut added = Vec::new();
    for run in 1..=7u64 {
        let mut records = (run * 1000..run * 1000 + 500).map(|n| {
            let key = Key::inode(Branch::HEAD, Ino(n));
            Ok(Record {
                key,
                epoch: Epoch(run),
                value: Some(vec![1; 40].into()),
            })
        });
        let mut new_id = || SegmentId(run);
        let (disk, opts) = (&world.disk, &world.write);
        added.extend(
            write_segments(
                disk,
                VID,
                Tag::Inode,
                0,
                run,
                &mut new_id,
                &mut records,
                opts,
            )
            .unwrap(),
        );
    }
    publish(&world.disk, &added, false).unwrap();
    world.levels = world.levels.with(&added, &[]);
    let job = compaction::pick(&world.levels, &world.compact).unwrap();
    assert_eq!(job.bytes(), 0);
    let output = job
        .run(
            &world.disk,
            VID,
            &mut || unreachable!(),
            &Timeline::default(),
            &world.write,
        )
        .unwrap();
    assert_eq!(
        (output.added.len(), output.moved.len(), output.removed.len()),
        (0, 7, 0)
    );
    let levels = output.apply(&world.levels);
    assert!(levels.segments().all(|m| m.level == 1));
    let key = Key::inode(Branch::HEAD, Ino(3456));
    assert!(
        levels
            .get(&key, &View::everything())
            .unwrap()
            .unwrap()
            .value
            .is_some()
    );
    assert!(compaction::pick(&levels, &world.compact).is_none());
}

/// A world with one small segment of every kind of block.
fn small_world() -> World {
    let mut world = World::new(8);
    world.write = SegmentOptions {
        block_bytes: 200,
        ..SegmentOptions::default()
    };
    world.flush();
    world
}

#[test]
fn every_flipped_bit_is_found() {
    let world = small_world();
    for meta in world
        .levels
        .segments()
        .filter(|m| matches!(m.tag, Tag::Dirent | Tag::Extent))
    {
        let bytes = world.read_file(meta);
        let mut damaged = bytes.clone();
        for bit in 0..bytes.len() * 8 {
            // Of the footer's zeros a sample is enough.
            if bit / 8 > bytes.len() - 3900 && bit / 8 < bytes.len() - 4 && bit % 97 != 0 {
                continue;
            }
            damaged[bit / 8] ^= 1 << (bit % 8);
            let verdict = check_segment(&damaged, VID, meta, &mut |_, _, _| ());
            assert!(verdict.is_err(), "bit {bit} of {meta:?}");
            damaged[bit / 8] = bytes[bit / 8];
        }
        for len in (0..bytes.len()).step_by(53) {
            assert!(check_segment(&bytes[..len], VID, meta, &mut |_, _, _| ()).is_err());
        }
    }
}

#[test]
fn damage_is_never_read_as_data() {
    let mut world = small_world();
    let metas: Vec<SegmentMeta> = world.levels.segments().copied().collect();
    let mut found = 0;
    for _ in 0..400 {
        let meta = metas[world.rng.below(metas.len() as u64) as usize];
        let file = name(FileName::Segment(meta.id));
        let (byte, bit) = (world.rng.below(meta.bytes), world.rng.below(8) as u8);
        assert!(world.disk.flip_bit(&file, byte, bit));
        world.disk.drop_caches();
        let levels = open(&world.disk, metas.clone());
        for key in world.history.keys().filter(|k| k.tag() == meta.tag) {
            match levels.get(key, &View::everything()) {
                Ok(record) => {
                    let value = record.and_then(|r| r.value).map(|v| v.to_vec());
                    assert_eq!(value, world.expected(key, &View::everything()));
                }
                Err(Error::Corrupt(e)) => {
                    assert_eq!(e.0.place.file, FileName::Segment(meta.id));
                    found += 1;
                }
                Err(e) => panic!("{e}"),
            }
        }
        assert!(world.disk.flip_bit(&file, byte, bit));
    }
    assert!(found > 400, "{found}");
}

#[test]
fn a_segment_of_another_volume_or_another_id_is_refused() {
    let world = small_world();
    let metas: Vec<SegmentMeta> = world.levels.segments().copied().collect();
    let cache = Arc::new(BlockCache::new(1 << 20));
    let other = Levels::open(Arc::new(world.disk.clone()), VolumeId(78), cache, metas);
    let key = world.history.keys().next().unwrap();
    assert!(matches!(
        other.get(key, &View::everything()),
        Err(Error::Corrupt(_))
    ));
}

#[test]
fn an_error_while_writing_leaves_no_file() {
    let world = small_world();
    let before = world.disk.files();
    let mut records = (0..5000u64).map(|n| {
        if n == 4000 {
            return Err(Error::NoSpace);
        }
        let key = Key::inode(Branch::HEAD, Ino(n));
        Ok(Record {
            key,
            epoch: Epoch(1),
            value: Some(vec![n as u8; 50].into()),
        })
    });
    let mut ids = (100..).map(SegmentId);
    let opts = SegmentOptions {
        target_bytes: 10 << 10,
        ..SegmentOptions::default()
    };
    let mut new_id = || ids.next().unwrap();
    let failed = write_segments(
        &world.disk,
        VID,
        Tag::Inode,
        0,
        1,
        &mut new_id,
        &mut records,
        &opts,
    );
    assert!(failed.is_err());
    assert_eq!(world.disk.files(), before);
}

#[test]
fn one_key_may_have_more_versions_than_a_block_holds() {
    let disk = SimDisk::new();
    disk.create_dirs().unwrap();
    let opts = SegmentOptions {
        block_bytes: 64,
        ..SegmentOptions::default()
    };
    let keys = [1, 2, 3].map(|n| Key::inode(Branch::HEAD, Ino(n)));
    let mut records = keys.iter().flat_map(|key| {
        (1..=3000u64).rev().map(|e| {
            let value = Some(e.to_le_bytes().to_vec().into());
            Ok(Record {
                key: *key,
                epoch: Epoch(e * 2),
                value,
            })
        })
    });
    let metas = write_segments(
        &disk,
        VID,
        Tag::Inode,
        1,
        0,
        &mut || SegmentId(1),
        &mut records,
        &opts,
    );
    let metas = metas.unwrap();
    publish(&disk, &metas, false).unwrap();
    let levels = open(&disk, metas);
    for at in [1, 2, 3, 100, 2999, 5999, 6000, 9000u64] {
        for key in &keys {
            let got = levels
                .get(key, &View::up_to(Epoch(at)))
                .unwrap()
                .map(|r| r.epoch.0);
            let expected = (at >= 2).then_some((at / 2 * 2).min(6000));
            assert_eq!(got, expected);
        }
    }
    assert_eq!(
        levels
            .range(&keys[0], &keys[2], &View::everything())
            .count(),
        2
    );
}

#[test]
fn what_was_published_survives_every_power_cut() {
    for seed in 0..30 {
        let mut world = World::new(seed);
        for _ in 0..8 {
            world.flush();
            world.compact();
        }
        let segments: Vec<SegmentMeta> = world.levels.segments().copied().collect();
        world.disk = world.disk.power_cut(&mut SimRng::new(seed));
        world.levels = open(&world.disk, segments.clone());
        for meta in &segments {
            check_segment(&world.read_file(meta), VID, meta, &mut |_, _, _| ()).unwrap();
        }
        world.check();
    }
}
