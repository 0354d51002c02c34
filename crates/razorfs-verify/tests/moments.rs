//! Going back to any moment, against what the tree was then: in place, and for reading.

use std::collections::BTreeMap;

use crate::common::{Rng, assert_sound, check_disk, create, open};
use razorfs::{
    Committed, Error, FileKind, Ino, OnConflict, SetAttributes, Step, Volume, When, XattrMode,
};
use razorfs_disk::sim::{SimDisk, SimEnv, SimRng};

/// What a file is: number, mode, links, when it was written, an attribute, and its bytes, which may
/// be gone.
type Seen = (Ino, u32, u32, i64, Option<Vec<u8>>, Option<Vec<u8>>);
type Tree = BTreeMap<String, Seen>;

fn look(volume: &Volume) -> Tree {
    let mut tree = Tree::new();
    let mut dirs = vec![(Ino::ROOT, String::new())];
    while let Some((dir, path)) = dirs.pop() {
        let mut entries = Vec::new();
        volume
            .collect_children(dir, 0, &mut |e| {
                let name = String::from_utf8(e.name.to_vec()).unwrap();
                entries.push((format!("{path}/{name}"), e.ino));
                true
            })
            .unwrap();
        for (path, ino) in entries {
            let stat = volume.stat(ino).unwrap();
            let data = match stat.kind() {
                FileKind::Directory => {
                    dirs.push((ino, path.clone()));
                    Some(Vec::new())
                }
                _ => {
                    let mut data = vec![0; stat.size as usize];
                    match volume.read(ino, 0, &mut data) {
                        Ok(n) => {
                            assert_eq!(n, data.len());
                            Some(data)
                        }
                        Err(Error::Overwritten) => None,
                        Err(e) => panic!("{path}: {e}"),
                    }
                }
            };
            let attribute = match volume.get_xattr(ino, b"user.a") {
                Ok(value) => Some(value.to_vec()),
                Err(Error::NoAttribute) => None,
                Err(e) => panic!("{path}: {e}"),
            };
            let seen = (ino, stat.mode, stat.nlink, stat.mtime.secs, attribute, data);
            tree.insert(path, seen);
        }
    }
    tree
}

/// Compares but for bytes that are gone. Answers how many files have some that are.
fn compare(got: &Tree, expected: &Tree, what: &str) -> u64 {
    let names = |tree: &Tree| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(got), names(expected), "{what}");
    let mut gone = 0;
    for (path, was) in expected {
        let now = &got[path];
        // A directory that is made again has its times from when its entries were.
        let is_dir = was.1 & 0o170_000 == 0o040_000;
        let attributes = |s: &Seen| (s.0, s.1, s.2, s.3 * i64::from(!is_dir), s.4.clone());
        assert_eq!(attributes(now), attributes(was), "{what}: {path}");
        match &now.5 {
            Some(data) => assert!(Some(data) == was.5.as_ref(), "{what}: {path}"),
            None => gone += 1,
        }
    }
    gone
}

struct World {
    disk: SimDisk,
    env: SimEnv,
    volume: Volume,
    rng: Rng,
    /// What was there after which operation.
    past: Vec<(u64, u64, Tree)>,
    snapshots: u32,
    checkpoints: bool,
}

impl World {
    fn new(seed: u64, checkpoints: bool) -> Self {
        let (disk, env) = (SimDisk::new(), SimEnv::new(seed));
        create(&disk, &env);
        let volume = open(&disk, &env);
        Self {
            disk,
            env,
            volume,
            rng: Rng(seed + 1),
            past: Vec::new(),
            snapshots: 0,
            checkpoints,
        }
    }

    fn below(&mut self, n: u64) -> u64 {
        self.rng.below(n)
    }

    fn any(&mut self, kind: Option<FileKind>) -> Option<String> {
        let tree = look(&self.volume);
        let fits = |ino| kind.is_none_or(|k| self.volume.stat(ino).unwrap().kind() == k);
        let all: Vec<_> = tree.iter().filter(|(_, s)| fits(s.0)).collect();
        let n = all.len() as u64;
        (n > 0).then(|| all[self.rng.below(n) as usize].0[1..].to_owned())
    }

    fn name(&mut self) -> String {
        let dir = self.any(Some(FileKind::Directory));
        let name = format!("n{}", self.below(9));
        match dir {
            Some(dir) if self.below(2) == 0 => format!("{dir}/{name}"),
            _ => name,
        }
    }

    /// What does not fit where it is tried is refused, as by any tree.
    fn step(&mut self) {
        let root = self.volume.root();
        let what = self.below(16);
        let new = self.name();
        let file = self.any(Some(FileKind::Regular));
        let any = self.any(None);
        let len = [10, 700, 30_000, 150_000][self.below(4) as usize];
        let data = self.rng.bytes(len);
        match (what, file, any) {
            (0..=3, _, _) => drop(root.write(&new, &data)),
            (4 | 5, Some(file), _) => {
                let ino = self.volume.find_by_path(file.as_bytes()).unwrap();
                let at = self.below(200_000);
                self.volume.write(ino, at, &data).unwrap();
            }
            (6, Some(file), _) => {
                let ino = self.volume.find_by_path(file.as_bytes()).unwrap();
                let set = SetAttributes {
                    size: Some(self.below(100_000)),
                    mode: Some(0o600 + self.below(8) as u32),
                    ..SetAttributes::default()
                };
                self.volume.set_attributes(ino, &set).unwrap();
            }
            (7, Some(file), _) => drop(root.hard_link(&file, &new)),
            (8, Some(file), _) => root.remove_file(&file).unwrap(),
            (9, _, Some(any)) => drop(root.rename(&any, &new)),
            (10, _, Some(any)) => {
                let ino = self.volume.find_by_path(any.as_bytes()).unwrap();
                let value = self.rng.bytes(9);
                self.volume
                    .set_xattr(ino, b"user.a", &value, XattrMode::Set)
                    .unwrap();
            }
            (11 | 12, _, _) => drop(root.create_dir(&new)),
            (13, _, _) => drop(root.remove_dir(&new)),
            (14, _, _) if self.below(3) == 0 => drop(root.remove_dir_all(&new)),
            _ => {}
        }
    }

    fn keep(&mut self) {
        self.volume.sync().unwrap();
        let now = self.volume.at_moment(When::Time(u64::MAX));
        self.remember(now.unwrap());
    }

    /// The same, where it is a moment that can be gone back to.
    fn keep_if_known(&mut self) {
        self.volume.sync().unwrap();
        match self.volume.at_moment(When::Time(u64::MAX)) {
            Ok(now) => self.remember(now),
            Err(e) => assert!(matches!(e, Error::NoMoment(_)), "{e}"),
        }
    }

    fn remember(&mut self, now: Volume) {
        let now = now.moment().unwrap();
        self.past.push((now.lsn, now.time, look(&self.volume)));
    }

    fn snapshot(&mut self) {
        self.snapshots += 1;
        self.volume
            .snapshot(format!("s{}", self.snapshots))
            .unwrap();
        self.keep();
    }

    fn upkeep(&mut self) {
        let steps = [
            Step::Checkpoint,
            Step::Compact,
            Step::Reap,
            Step::Clean,
            Step::Release,
            Step::Grow,
        ];
        for step in steps {
            if step != Step::Checkpoint || self.checkpoints {
                self.volume.step(step).unwrap();
            }
        }
    }

    /// Looks at each moment. Answers how many were there, how many not, and how many files had lost
    /// bytes.
    fn look_back(&self) -> (u64, u64, u64) {
        let (mut there, mut gone, mut lost) = (0, 0, 0);
        for (lsn, time, tree) in &self.past {
            match self.volume.at_moment(When::Lsn(*lsn)) {
                Ok(then) => {
                    there += 1;
                    lost += compare(&look(&then), tree, &format!("operation {lsn}"));
                    let by_time = self.volume.at_moment(When::Time(*time)).unwrap();
                    assert_eq!(by_time.moment().unwrap().time, *time);
                    assert!(by_time.moment().unwrap().lsn >= *lsn);
                    let refused = then.root().write("x", b"x").unwrap_err();
                    assert!(matches!(refused, Error::ReadOnly(_)), "{refused}");
                }
                Err(Error::NoMoment(_)) => gone += 1,
                Err(e) => panic!("operation {lsn}: {e}"),
            }
        }
        (there, gone, lost)
    }
}

#[test]
fn every_moment_since_the_volume_was_made_shows_what_was_there() {
    for seed in 0..4 {
        let mut world = World::new(seed, false);
        for n in 0..40 {
            world.step();
            world.keep();
            if n % 9 == 8 {
                world.upkeep();
            }
        }
        let found = world.look_back();
        assert_eq!(found, (40, 0, 0), "seed {seed}");
        // And after a crash.
        let cut = world.disk.power_cut(&mut SimRng::new(seed));
        drop(world.volume);
        world.volume = open(&cut, &world.env);
        world.disk = cut;
        assert_eq!(world.look_back(), (40, 0, 0), "seed {seed}");
    }
}

/// With checkpoints that let go of data and of the journal: what is there is right.
#[test]
fn what_is_left_of_the_past_is_right() {
    let mut there = 0;
    for seed in 10..20 {
        let mut world = World::new(seed, true);
        for n in 0..60 {
            world.step();
            world.keep();
            match n % 20 {
                7 => world.snapshot(),
                4 | 13 | 19 => world.upkeep(),
                16 => {
                    let to = format!("s{}", world.snapshots);
                    world.volume.rollback(&to).unwrap();
                    world.keep();
                }
                18 if world.snapshots > 1 => {
                    let old = format!("s{}", world.snapshots - 1);
                    world.volume.delete_snapshot(&old).unwrap();
                }
                _ => {}
            }
        }
        let found = world.look_back();
        there += found.0;
    }
    assert!(there > 100, "{there}");
}

/// The power fails anywhere in it: it has happened as a whole or not at all.
#[test]
fn a_cut_while_a_volume_is_taken_back_leaves_what_was_or_what_is() {
    let (mut befores, mut afters) = (0, 0);
    for cut_at in 0.. {
        let mut world = World::new(50, false);
        for n in 0..24 {
            world.step();
            world.keep();
            if n == 8 {
                world.snapshot();
            }
        }
        let (lsn, _, tree) = world.past[18].clone();
        let before = look(&world.volume);
        assert!(before != tree);
        world.disk.cut_after(world.disk.op_count() + cut_at);
        let restored = world.volume.restore(When::Lsn(lsn));
        let disk = world.disk.after_cut(&mut SimRng::new(cut_at));
        drop(world.volume);
        let volume = open(&disk, &world.env);
        let after = look(&volume);
        let what = format!("cut after {cut_at}");
        if restored.is_ok() || after != before {
            compare(&after, &tree, &what);
            afters += 1;
        } else {
            befores += 1;
        }
        assert!(volume.branches().is_empty(), "{what}");
        let kept = volume.snapshots().len();
        assert!(kept <= 2, "{what}: {kept}");
        volume.close().unwrap();
        assert_sound(&check_disk(&disk, 4));
        if restored.is_ok() {
            break;
        }
    }
    assert!(befores > 3 && afters > 0, "{befores} {afters}");
}

#[test]
fn a_moment_is_kept_as_a_snapshot() {
    let mut world = World::new(60, false);
    world.step();
    world.keep();
    let early = world.past[0].0;
    let refused = world.volume.snapshot_at("early", When::Lsn(early));
    assert!(matches!(refused, Err(Error::NoMoment(_))), "{refused:?}");
    world.snapshot();
    for _ in 0..20 {
        world.step();
        world.keep();
    }
    let now = look(&world.volume);
    for n in [5, 12, 20] {
        let (lsn, _, tree) = &world.past[n];
        let kept = world.volume.snapshot_at(format!("at-{n}"), When::Lsn(*lsn));
        let kept = world.volume.at_snapshot(kept.unwrap()).unwrap();
        assert_eq!(compare(&look(&kept), tree, "kept"), 0);
    }
    let taken = world.volume.snapshot_at("at-5", When::Lsn(world.past[7].0));
    assert!(matches!(taken, Err(Error::Exists)), "{taken:?}");
    assert_eq!(look(&world.volume), now);
    assert_eq!(world.volume.snapshots().len(), 4);
    world.volume.rollback("at-12").unwrap();
    assert_eq!(compare(&look(&world.volume), &world.past[12].2, "back"), 0);
    world.volume.close().unwrap();
    assert_sound(&check_disk(&world.disk, 4));
}

/// It took a snapshot of the past for the present, and what had been done since was gone.
#[test]
fn a_snapshot_of_what_a_branch_was_made_of_is_no_moment_of_the_volume() {
    let world = World::new(70, false);
    let root = world.volume.root();
    root.write("old", b"old").unwrap();
    world.volume.create_branch("side").unwrap();
    root.write("after-the-fork", b"new").unwrap();
    world.volume.snapshot_origin("side", "origin").unwrap();
    let there = look(&world.volume);
    root.write("later", b"later").unwrap();
    world.volume.sync().unwrap();
    let now = world.volume.at_moment(When::Time(u64::MAX)).unwrap();
    assert_eq!(look(&now), look(&world.volume));
    let lsn = now.moment().unwrap().lsn;
    for back in 1..=lsn {
        if let Ok(then) = world.volume.at_moment(When::Lsn(back)) {
            let then = look(&then);
            let is_past = then
                .keys()
                .all(|path| there.contains_key(path) || path == "/later");
            assert!(is_past, "{then:?}");
            if then.contains_key("/later") {
                assert_eq!(then, look(&world.volume));
            }
        }
    }
    let origin = world.volume.at_snapshot("origin").unwrap();
    assert_eq!(look(&origin).len(), 1);
}

/// Linking a file that had no name when the snapshot was taken ended the process.
#[test]
fn a_file_that_was_given_a_name_after_the_snapshot_comes_with_its_data() {
    let world = World::new(71, false);
    let volume = &world.volume;
    let node = razorfs::NewNode::file(0o644);
    let ino = volume.create_unnamed(Ino::ROOT, &node).unwrap().ino;
    volume.pin(ino, 1);
    let data = Rng(5).bytes(200_000);
    volume.write(ino, 0, &data).unwrap();
    volume
        .set_xattr(ino, b"user.a", b"before", XattrMode::Set)
        .unwrap();
    volume.snapshot("nameless").unwrap();
    let cut = SetAttributes {
        size: Some(150_000),
        ..SetAttributes::default()
    };
    volume.write(ino, 10, b"written later").unwrap();
    volume.set_attributes(ino, &cut).unwrap();
    volume.link(ino, Ino::ROOT, b"named").unwrap();
    volume.sync().unwrap();
    let then = look(volume);
    let lsn = volume.at_moment(When::Time(u64::MAX)).unwrap();
    let lsn = lsn.moment().unwrap().lsn;
    volume.unpin(ino, 1);
    volume.root().remove_file("named").unwrap();
    for step in [Step::Reap, Step::Checkpoint, Step::Reap] {
        volume.step(step).unwrap();
    }
    let kept = volume.snapshot_at("kept", When::Lsn(lsn)).unwrap();
    let kept = volume.at_snapshot(kept).unwrap();
    assert_eq!(compare(&look(&kept), &then, "kept"), 0);
    volume.restore(When::Lsn(lsn)).unwrap();
    assert_eq!(compare(&look(volume), &then, "restored"), 0);
    assert_sound(&check_disk(&world.disk, 4));
    volume.root().remove_file("named").unwrap();
    while volume.step(Step::Reap).unwrap() {}
    assert_sound(&check_disk(&world.disk, 4));
}

/// What a restore went to was given up: nothing after it could be had until the next snapshot.
#[test]
fn moments_after_a_restore_can_be_gone_back_to_as_well() {
    let mut world = World::new(72, false);
    world.step();
    world.snapshot();
    for _ in 0..6 {
        world.step();
        world.keep();
    }
    let back = world.past[3].0;
    world.volume.restore(When::Lsn(back)).unwrap();
    let first = world.past.len();
    for _ in 0..8 {
        world.step();
        world.keep();
        world.upkeep();
    }
    for (lsn, _, tree) in world.past.split_off(first) {
        world.volume.restore(When::Lsn(lsn)).unwrap();
        assert_eq!(compare(&look(&world.volume), &tree, "after"), 0);
        assert_sound(&check_disk(&world.disk, 4));
    }
}

/// What a commit and a restore go to is made in a branch that nobody sees, of which no snapshot is
/// left: once it was released, nothing can be gone back to but from the next snapshot on. What can
/// be is what it was.
#[test]
fn moments_after_commits_and_rollbacks_are_right_or_refused() {
    let mut there = 0;
    for seed in 80..88 {
        let mut world = World::new(seed, true);
        world.step();
        world.snapshot();
        for round in 0..4 {
            for _ in 0..4 {
                world.step();
                world.keep_if_known();
            }
            let name = format!("side{round}");
            world.volume.create_branch(&name).unwrap();
            let side = world.volume.branch(&name).unwrap();
            side.root().write(&name, name.as_bytes()).unwrap();
            if world.below(2) == 0 {
                world.step();
                world.keep_if_known();
            }
            let before = match world.volume.commit_branch(&side, OnConflict::TakeBranch) {
                Ok(Committed::Done(before)) => before.name,
                other => panic!("seed {seed}: {other:?}"),
            };
            world.keep_if_known();
            drop(side);
            world.volume.delete_branch(&name).unwrap();
            if world.below(2) == 0 {
                world.volume.rollback(&before).unwrap();
                world.keep_if_known();
            }
            // All but the first snapshot go.
            for snapshot in world.volume.snapshots() {
                if snapshot.name != "s1" {
                    world.volume.delete_snapshot(&snapshot.name).unwrap();
                }
            }
            world.upkeep();
            world.upkeep();
        }
        world.snapshot();
        let after = world.past.len();
        for _ in 0..4 {
            world.step();
            world.keep();
        }
        there += world.look_back().0;
        world.past.drain(..after);
        assert_eq!(world.look_back().1, 0, "seed {seed}");
    }
    assert!(there > 32, "{there}");
}

#[test]
fn a_volume_is_taken_back_to_a_moment_and_forth_again() {
    let mut restored = 0;
    for seed in 30..38 {
        let mut world = World::new(seed, seed % 2 == 0);
        for n in 0..45 {
            world.step();
            world.keep();
            match n % 15 {
                3 => world.snapshot(),
                10 => world.upkeep(),
                _ => {}
            }
        }
        for _ in 0..6 {
            let n = world.below(world.past.len() as u64) as usize;
            let (lsn, _, tree) = world.past[n].clone();
            let before = look(&world.volume);
            let what = format!("seed {seed}, operation {lsn}");
            match world.volume.restore(When::Lsn(lsn)) {
                Ok(taken) => {
                    restored += 1;
                    assert_eq!(compare(&look(&world.volume), &tree, &what), 0);
                    assert_sound(&check_disk(&world.disk, 4));
                    let past = world.volume.at_snapshot(&taken).unwrap();
                    assert_eq!(look(&past), before, "{what}: the way back");
                    world.step();
                    world.upkeep();
                }
                Err(Error::NoMoment(_) | Error::Overwritten) => {
                    assert_eq!(look(&world.volume), before, "{what}: nothing has changed");
                }
                Err(e) => panic!("{what}: {e}"),
            }
            assert!(world.volume.branches().is_empty(), "{what}");
            assert_sound(&check_disk(&world.disk, 4));
        }
        world.volume.close().unwrap();
        let again = open(&world.disk, &world.env);
        assert_sound(&check_disk(&world.disk, 4));
        again.close().unwrap();
    }
    assert!(restored > 15, "{restored}");
}
