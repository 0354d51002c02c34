//! Snapshots and rollbacks against what the tree was: what each shows, after crashes as well, and
//! that a check by the format alone finds nothing, least of all in the account of what they hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::common::{Rng, check, create, image_of, open, options};
use razorfs::marks::{Mark, count};
use razorfs::{
    AllocateMode, Change, ChangeKind, Committed, Error, FileKind, Ino, NewNode, OnConflict,
    RenameMode, SetAttributes, Step, Volume,
};
use razorfs_disk::sim::{SimDisk, SimEnv};
use razorfs_verify::Report;

/// What a tree shows: by path the kind, the links and the content.
type Shown = BTreeMap<Vec<u8>, (u32, Vec<u8>)>;

fn show(volume: &Volume, dir: Ino, path: &[u8], out: &mut Shown) {
    let mut entries = Vec::new();
    let listed = volume.collect_children(dir, 0, &mut |e| {
        entries.push((e.name.to_vec(), e.ino, e.kind));
        true
    });
    listed.unwrap();
    for (name, ino, kind) in entries {
        let path = [path, b"/", &name].concat();
        let stat = volume.stat(ino).unwrap();
        let mut data = vec![0; stat.size as usize];
        if kind == FileKind::Directory {
            data.clear();
        } else {
            assert_eq!(volume.read(ino, 0, &mut data).unwrap(), data.len());
        }
        out.insert(path.clone(), (stat.nlink, data));
        if kind == FileKind::Directory {
            show(volume, ino, &path, out);
        }
    }
}

/// Of each inode its names and its content.
type ByInode = BTreeMap<Ino, (BTreeSet<(Ino, Vec<u8>)>, Vec<u8>)>;

fn by_inode(volume: &Volume) -> ByInode {
    let (mut found, mut dirs) = (ByInode::new(), vec![Ino::ROOT]);
    while let Some(dir) = dirs.pop() {
        let listed = volume.collect_children(dir, 0, &mut |e| {
            let mut data = Vec::new();
            if e.kind == FileKind::Directory {
                dirs.push(e.ino);
            } else {
                data = vec![0; volume.stat(e.ino).unwrap().size as usize];
                volume.read(e.ino, 0, &mut data).unwrap();
            }
            let inode = found.entry(e.ino).or_default();
            inode.0.insert((dir, e.name.to_vec()));
            inode.1 = data;
            true
        });
        listed.unwrap();
    }
    found
}

fn shown(volume: &Volume) -> Shown {
    let mut out = Shown::new();
    show(volume, Ino::ROOT, b"", &mut out);
    out
}

fn assert_clean(report: &Report, what: &str) {
    // What a crash leaves is no damage.
    let bad: Vec<_> = report
        .findings
        .iter()
        .filter(|f| f.number > 400 || f.severity >= razorfs_verify::Severity::Error)
        .filter(|f| !matches!(f.number, 609 | 614))
        .map(ToString::to_string)
        .collect();
    assert!(bad.is_empty(), "{what}: {bad:#?}");
}

struct World {
    /// The volume itself.
    head: Volume,
    disk: SimDisk,
    env: SimEnv,
    volume: Volume,
    rng: Rng,
    /// What each snapshot shows.
    taken: BTreeMap<String, Shown>,
    next: u64,
    /// The branch that is worked in, which is the volume that is open; the head has no name.
    branch: String,
    /// What the others show, the head among them.
    others: BTreeMap<String, Shown>,
    /// Branches are made.
    forks: bool,
    merged: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let (disk, env) = (SimDisk::new(), SimEnv::new(seed));
        create(&disk, &env);
        let head = open(&disk, &env);
        Self {
            volume: head.clone(),
            head,
            disk,
            env,
            rng: Rng(seed),
            taken: BTreeMap::new(),
            next: 0,
            branch: String::new(),
            others: BTreeMap::new(),
            forks: false,
            merged: 0,
        }
    }

    fn with_branches(seed: u64) -> Self {
        let mut world = Self::new(seed);
        world.forks = true;
        world
    }

    fn on(&self, branch: &str) -> Volume {
        match branch {
            "" => self.head.clone(),
            _ => self.head.branch(branch).unwrap(),
        }
    }

    /// Goes to another branch, and leaves this one as it is.
    fn switch(&mut self) {
        let all: Vec<String> = self.others.keys().cloned().collect();
        let Some(to) = self.pick(&all) else { return };
        let left = std::mem::replace(&mut self.branch, to.clone());
        self.others.insert(left, shown(&self.volume));
        self.volume = self.on(&to);
        assert_eq!(Some(shown(&self.volume)), self.others.remove(&to), "{to}");
    }

    fn fork(&mut self) {
        if self.others.len() < 4 {
            let name = format!("b{}", self.next);
            self.next += 1;
            let from = match self.rng.below(3) {
                0 => self.taken.keys().next().cloned(),
                _ => None,
            };
            let from = from.map(|name| (self.head.at_snapshot(&name).unwrap(), name));
            let (parent, tree) = match from {
                Some((at, name)) => (at, self.taken[&name].clone()),
                None => (self.volume.clone(), shown(&self.volume)),
            };
            parent.create_branch(&name).unwrap();
            self.others.insert(name, tree);
        }
    }

    /// What another branch has is done in this one.
    fn merge(&mut self) {
        let all: Vec<String> = self.others.keys().cloned().collect();
        let Some(from) = self.pick(&all) else { return };
        let (other, before) = (self.on(&from), shown(&self.volume));
        let force = self.rng.below(4) == 0;
        let how = match force {
            true => OnConflict::TakeBranch,
            false => OnConflict::Refuse,
        };
        match self.volume.commit_branch(&other, how).unwrap() {
            Committed::Done(safety) => {
                self.taken.insert(safety.name, before);
                if force {
                    assert_eq!(shown(&self.volume), self.others[&from], "from {from}");
                }
                let again = self.volume.commit_branch(&other, OnConflict::Refuse);
                assert_eq!(again.unwrap(), Committed::Nothing, "from {from}");
                self.merged += 1;
            }
            Committed::Nothing => assert_eq!(shown(&self.volume), before),
            Committed::Conflicts(all) => {
                assert!(!force && !all.is_empty());
                assert_eq!(shown(&self.volume), before);
            }
        }
        drop(other);
        self.check_others();
    }

    fn delete_branch(&mut self) {
        let all = self.others.keys().filter(|name| !name.is_empty());
        let all: Vec<String> = all.cloned().collect();
        if let Some(name) = self.pick(&all) {
            self.head.delete_branch(&name).unwrap();
            self.others.remove(&name);
        }
    }

    fn check_others(&self) {
        for (name, expected) in &self.others {
            assert_eq!(shown(&self.on(name)), *expected, "branch {name}");
        }
    }

    fn files(&self) -> Vec<(Ino, Vec<u8>, Ino, FileKind)> {
        let mut dirs = vec![Ino::ROOT];
        let mut found = Vec::new();
        while let Some(dir) = dirs.pop() {
            let listed = self.volume.collect_children(dir, 0, &mut |e| {
                found.push((dir, e.name.to_vec(), e.ino, e.kind));
                if e.kind == FileKind::Directory {
                    dirs.push(e.ino);
                }
                true
            });
            listed.unwrap();
        }
        found
    }

    fn pick<T: Clone>(&mut self, all: &[T]) -> Option<T> {
        let n = self.rng.below(all.len().max(1) as u64) as usize;
        all.get(n).cloned()
    }

    fn name(&mut self) -> Vec<u8> {
        format!("n{}", self.rng.below(12)).into_bytes()
    }

    fn data(&mut self) -> Vec<u8> {
        let len = [10, 300, 3000, 20_000, 140_000][self.rng.below(5) as usize];
        self.rng.bytes(len)
    }

    /// One change; what cannot be done is left.
    fn change(&mut self) {
        let all = self.files();
        let dirs: Vec<Ino> = all
            .iter()
            .filter(|f| f.3 == FileKind::Directory)
            .map(|f| f.2)
            .chain([Ino::ROOT])
            .collect();
        let files: Vec<Ino> = all
            .iter()
            .filter(|f| f.3 == FileKind::Regular)
            .map(|f| f.2)
            .collect();
        let dir = self.pick(&dirs).unwrap();
        let (name, v) = (self.name(), self.volume.clone());
        match self.rng.below(10) {
            0 => drop(v.create_node(dir, &name, &NewNode::directory(0o755))),
            1 | 2 => {
                if let Ok(made) = v.create_node(dir, &name, &NewNode::file(0o644)) {
                    v.write(made.ino, 0, &self.data()).unwrap();
                }
            }
            3 | 4 => {
                if let Some(ino) = self.pick(&files) {
                    let data = self.data();
                    v.write(ino, self.rng.below(150_000), &data).unwrap();
                }
            }
            5 => {
                if let Some((dir, name, _, kind)) = self.pick(&all) {
                    match kind {
                        FileKind::Directory => drop(v.rmdir(dir, &name)),
                        _ => v.unlink(dir, &name).unwrap(),
                    }
                }
            }
            6 => {
                if let Some((from, old, ..)) = self.pick(&all) {
                    drop(v.rename(from, &old, dir, &name, RenameMode::Replace));
                }
            }
            7 => {
                if let Some(ino) = self.pick(&files) {
                    let set = SetAttributes {
                        size: Some(self.rng.below(200_000)),
                        ..SetAttributes::default()
                    };
                    v.set_attributes(ino, &set).unwrap();
                }
            }
            8 => {
                if let (Some(from), Some(to)) = (self.pick(&files), self.pick(&files)) {
                    drop(v.copy_range(from, 0, to, 0, 100_000));
                }
            }
            _ => {
                if let Some(ino) = self.pick(&files) {
                    let (at, len) = (self.rng.below(100_000), 1 + self.rng.below(50_000));
                    drop(v.allocate(ino, AllocateMode::PunchHole, at, len));
                }
            }
        }
    }

    fn snapshot(&mut self) {
        let name = format!("s{}", self.next);
        self.next += 1;
        self.volume.snapshot(&name).unwrap();
        self.taken.insert(name, shown(&self.volume));
    }

    fn roll_back(&mut self) {
        let names: Vec<String> = self.taken.keys().cloned().collect();
        if let Some(to) = self.pick(&names) {
            let now = shown(&self.volume);
            let safety = self.volume.rollback(&to).unwrap();
            assert_eq!(shown(&self.volume), self.taken[&to], "after going to {to}");
            self.taken.insert(safety.name, now);
        }
    }

    fn delete(&mut self) {
        let names: Vec<String> = self.taken.keys().cloned().collect();
        if let Some(name) = self.pick(&names) {
            self.volume.delete_snapshot(&name).unwrap();
            self.taken.remove(&name);
        }
    }

    /// The power fails, or the process dies, and the volume is opened again.
    fn crash(&mut self) {
        self.volume.sync().unwrap();
        let now = shown(&self.volume);
        let image = image_of(&self.disk);
        let report = check(&image, 4);
        assert_clean(&report, "after a crash");
        self.disk = SimDisk::from_image(&image);
        self.head = open(&self.disk, &self.env);
        self.volume = self.on(&self.branch);
        assert_eq!(shown(&self.volume), now, "after a crash");
        self.check_others();
    }

    /// A checkpoint freezes the memtable, and the disk fails before its end.
    fn fail_checkpoint(&mut self) {
        self.volume.sync().unwrap();
        self.disk.fail_sync_at(self.disk.counts().syncs);
        // Where there is nothing to write it succeeds.
        let _ = self.volume.checkpoint();
        self.disk.clear_faults();
    }

    fn step(&mut self) {
        let v = self.volume.clone();
        if self.forks {
            match self.rng.below(30) {
                0 => return self.fork(),
                1 | 2 => return self.switch(),
                4 => return self.merge(),
                3 if self.rng.below(3) == 0 => return self.delete_branch(),
                5 => return self.fail_checkpoint(),
                _ => {}
            }
        }
        match self.rng.below(24) {
            0 | 1 => self.snapshot(),
            2 => self.roll_back(),
            3 => self.delete(),
            4 => self.crash(),
            11 => self.check_diff(),
            5 => drop(v.step(Step::Checkpoint).unwrap()),
            6 => drop(v.step(Step::Compact).unwrap()),
            7 => drop(v.step(Step::Release).unwrap()),
            8 => drop(v.step(Step::Clean).unwrap()),
            9 => drop(v.step(Step::Reap).unwrap()),
            10 => drop(v.step(Step::Commit).unwrap()),
            _ => self.change(),
        }
    }

    /// A diff tells exactly the names that differ, and each file with other bytes.
    fn check_diff(&mut self) {
        let names: Vec<String> = self.taken.keys().cloned().collect();
        let side = |world: &mut Self| match world.pick(&names) {
            Some(name) if world.rng.below(3) > 0 => world.volume.at_snapshot(name).unwrap(),
            _ => world.volume.clone(),
        };
        let (old, new) = (side(self), side(self));
        let (before, after) = (by_inode(&old), by_inode(&new));
        let told = old.diff(&new).unwrap();
        // A name that leads to another file is gone for the one and new for the other.
        let mut changes = Vec::new();
        for change in told {
            if change.kind != ChangeKind::Changed || before.contains_key(&change.ino) {
                changes.push(change);
                continue;
            }
            let path = change.path.as_os_str().as_encoded_bytes();
            let ino = old.find_by_path(path).unwrap();
            let of = |kind, ino| Change {
                kind,
                ino,
                ..change.clone()
            };
            changes.push(of(ChangeKind::Removed, ino));
            changes.push(of(ChangeKind::Added, change.ino));
        }
        let count = |kinds: &[ChangeKind], ino: Ino| {
            let of = |c: &&Change| c.ino == ino && kinds.contains(&c.kind);
            changes.iter().filter(of).count()
        };
        let none = (BTreeSet::new(), Vec::new());
        let all: BTreeSet<Ino> = before.keys().chain(after.keys()).copied().collect();
        for ino in all {
            let a = before.get(&ino).unwrap_or(&none);
            let b = after.get(&ino).unwrap_or(&none);
            let lost = count(&[ChangeKind::Removed, ChangeKind::Renamed], ino);
            let got = count(&[ChangeKind::Added, ChangeKind::Renamed], ino);
            let (names_lost, names_got) = (a.0.difference(&b.0), b.0.difference(&a.0));
            // A directory that was made anew is no difference.
            let is_dir = old.stat(ino).or(new.stat(ino)).unwrap().kind() == FileKind::Directory;
            let is_told = |told: usize, names: usize| told == names || (is_dir && told == 0);
            assert!(is_told(lost, names_lost.count()), "{ino}: {changes:#?}");
            assert!(is_told(got, names_got.count()), "{ino}: {changes:#?}");
            let told = changes.iter().any(|c| c.ino == ino && c.differs.content);
            let both = before.contains_key(&ino) && after.contains_key(&ino);
            assert!(told || !both || a.1 == b.1, "{ino}: {changes:#?}");
        }
        for change in &changes {
            assert!(before.contains_key(&change.ino) || after.contains_key(&change.ino));
        }
    }

    fn check(&self) {
        let listed: Vec<String> = self
            .volume
            .snapshots()
            .into_iter()
            .map(|s| s.name)
            .collect();
        let mut sorted = listed.clone();
        sorted.sort();
        assert_eq!(sorted, self.taken.keys().cloned().collect::<Vec<_>>());
        for (name, expected) in &self.taken {
            let at = self.volume.at_snapshot(name).unwrap();
            assert_eq!(shown(&at), *expected, "snapshot {name}");
        }
        self.check_others();
    }
}

/// Does all that is done in the background once something is given up.
fn give_back(volume: &Volume) {
    volume.checkpoint().unwrap();
    while volume.step(Step::Reap).unwrap() {}
    volume.checkpoint().unwrap();
    while volume.step(Step::Release).unwrap() {}
    while volume.step(Step::Compact).unwrap() {}
}

#[test]
fn branches_show_what_was_done_in_each_and_what_they_hold_is_accounted_for() {
    let seeds = std::env::var("RAZORFS_SEEDS").map_or(500..525, |n| {
        let n: u64 = n.parse().unwrap();
        n..n + 200
    });
    let mut merged = 0;
    for seed in seeds {
        println!("seed {seed}");
        let mut world = World::with_branches(seed);
        for _ in 0..160 {
            world.step();
        }
        world.check();
        world.volume.checkpoint().unwrap();
        let report = check(&image_of(&world.disk), 4);
        assert_clean(&report, "in the end");
        // Without snapshots and branches there is nothing left but what the head shows.
        world.volume = world.head.clone();
        let now = shown(&world.volume);
        for branch in world.head.branches() {
            world.head.delete_branch(&branch).unwrap();
        }
        for name in world.taken.keys() {
            world.head.delete_snapshot(name).unwrap();
        }
        let v = world.head.clone();
        give_back(&v);
        assert_eq!(shown(&v), now);
        let image = image_of(&world.disk);
        assert_clean(&check(&image, 4), "without branches");
        drop(world.volume);
        drop(v);
        world.head.close().unwrap();
        let volume = open(&world.disk, &world.env);
        assert_eq!(shown(&volume), now);
        assert!(volume.branches().is_empty() && volume.snapshots().is_empty());
        merged += world.merged;
    }
    assert!(merged > 10, "{merged} merges");
    for mark in [Mark::ForkBegan, Mark::ReleaseLine, Mark::FlushFrameHeld] {
        assert!(count(mark) > 0, "{}", mark.text());
    }
}

#[test]
fn snapshots_show_what_was_there_and_what_they_hold_is_accounted_for() {
    let seeds = std::env::var("RAZORFS_SEEDS").map_or(0..25, |n| {
        let n: u64 = n.parse().unwrap();
        n..n + 200
    });
    for seed in seeds {
        println!("seed {seed}");
        let mut world = World::new(seed);
        for _ in 0..120 {
            world.step();
        }
        world.check();
        world.volume.checkpoint().unwrap();
        let report = check(&image_of(&world.disk), 4);
        assert_clean(&report, "in the end");
        // Without snapshots there is nothing left but what is shown.
        let now = shown(&world.volume);
        for name in world.taken.keys() {
            world.volume.delete_snapshot(name).unwrap();
        }
        world.taken.clear();
        let v = world.volume.clone();
        give_back(&v);
        assert_eq!(shown(&v), now);
        let report = check(&image_of(&world.disk), 4);
        assert_clean(&report, "without snapshots");
        v.close().unwrap();
        let volume = open(&world.disk, &world.env);
        assert_eq!(shown(&volume), now);
        assert!(volume.snapshots().is_empty());
    }
    // What this is about has happened.
    for mark in [
        Mark::FlushFrameHeld,
        Mark::ReleaseDone,
        Mark::ReleaseFreed,
        Mark::ReleaseLine,
        Mark::ReleaseWaits,
        Mark::RecoverySnapshot,
    ] {
        println!("{}: {}", mark.text(), count(mark));
        assert!(count(mark) > 0, "{}", mark.text());
    }
}

/// What is told of one is what its deletion gives back; where it has to stay for now, because two
/// ways lead on from it, nothing comes back, and more later.
#[test]
fn what_a_snapshot_alone_holds_comes_back_when_it_is_deleted() {
    let (mut exact, mut freed) = (0, 0);
    for seed in 100..115 {
        let mut world = World::new(seed);
        for _ in 0..100 {
            world.step();
        }
        // Whoever had files open at a rollback may read them until the volume is closed.
        world.volume.close().unwrap();
        world.head = open(&world.disk, &world.env);
        world.volume = world.head.clone();
        let v = world.volume.clone();
        v.checkpoint().unwrap();
        while v.step(Step::Release).unwrap() {}
        let mut waiting = false;
        while let Some((snapshot, held)) = {
            let all = v.snapshots_held().unwrap();
            world.pick(&all)
        } {
            v.delete_snapshot(&snapshot).unwrap();
            v.checkpoint().unwrap();
            let before = v.info().pack_live_bytes;
            while v.step(Step::Release).unwrap() {}
            let back = before - v.info().pack_live_bytes;
            waiting |= held == 0;
            assert!(back >= held, "seed {seed}: {held} told, {back} came back");
            assert!(waiting || back == held, "seed {seed}, {}", snapshot.name);
            exact += u32::from(back == held && back > 0);
            freed += back;
        }
        assert_clean(&check(&image_of(&world.disk), 4), "in the end");
    }
    assert!(exact > 10 && freed > 1_000_000, "{exact}, {freed}");
}

#[test]
fn a_snapshot_that_is_looked_at_stays_until_nobody_does() {
    let mut world = World::new(7);
    for _ in 0..30 {
        world.change();
    }
    world.snapshot();
    let at = world.volume.at_snapshot("s0").unwrap();
    let expected = world.taken["s0"].clone();
    for (dir, name, _, kind) in world.files().into_iter().rev() {
        match kind {
            FileKind::Directory => world.volume.rmdir(dir, &name).unwrap(),
            _ => world.volume.unlink(dir, &name).unwrap(),
        }
    }
    let v = world.volume.clone();
    while v.step(Step::Reap).unwrap() {}
    v.delete_snapshot("s0").unwrap();
    v.checkpoint().unwrap();
    assert!(!v.step(Step::Release).unwrap());
    while v.step(Step::Compact).unwrap() {}
    assert_eq!(shown(&at), expected);
    let refused = at.create_node(Ino::ROOT, b"new", &NewNode::file(0o644));
    assert!(matches!(refused, Err(Error::ReadOnly(_))), "{refused:?}");
    assert!(matches!(v.at_snapshot("s0"), Err(Error::NotFound)));
    drop(at);
    let held = v.info().pack_live_bytes;
    assert!(v.step(Step::Release).unwrap());
    assert!(v.info().pack_live_bytes < held / 2, "{held}");
}

#[test]
fn who_has_a_file_open_that_a_rollback_takes_away_reads_on_and_is_told_when_writing() {
    let mut world = World::new(9);
    world.change();
    world.snapshot();
    let v = world.volume.clone();
    let file = v
        .create_node(Ino::ROOT, b"later", &NewNode::file(0o644))
        .unwrap()
        .ino;
    v.write(file, 0, b"what it was").unwrap();
    v.pin(file, 1);
    let safety = v.rollback("s0").unwrap();
    let mut buf = [0; 11];
    assert_eq!(v.read(file, 0, &mut buf).unwrap(), 11);
    assert_eq!(&buf, b"what it was");
    assert_eq!(v.stat(file).unwrap().size, 11);
    let written = v.write(file, 0, b"more");
    assert!(matches!(written, Err(Error::RolledBack)), "{written:?}");
    assert!(matches!(
        v.lookup(Ino::ROOT, b"later"),
        Err(Error::NotFound)
    ));
    v.unpin(file, 1);
    // Who deletes what it was in wants the space.
    let again = v.rollback("s0").unwrap();
    v.delete_snapshot(&again).unwrap();
    // And back again.
    v.rollback(&safety).unwrap();
    assert_eq!(v.lookup(Ino::ROOT, b"later").unwrap().ino, file);
    v.write(file, 0, b"more").unwrap();
}

#[test]
fn names_that_no_command_could_say_are_refused() {
    let world = World::new(1);
    let long = "x".repeat(256);
    for bad in ["", ".", "..", "a/b", "a@b", "-x", "a\nb", &long] {
        let taken = world.volume.snapshot(bad);
        assert!(matches!(taken, Err(Error::Invalid(_))), "{bad:?}");
    }
    world.volume.snapshot("größe 1").unwrap();
    let again = world.volume.snapshot("größe 1");
    assert!(matches!(again, Err(Error::Exists)), "{again:?}");
    let none = world.volume.delete_snapshot("none");
    assert!(matches!(none, Err(Error::NotFound)), "{none:?}");
    let none = world.volume.rollback("none");
    assert!(matches!(none, Err(Error::NotFound)), "{none:?}");
}

#[test]
fn a_volume_that_is_open_for_reading_only_shows_its_snapshots() {
    let mut world = World::new(11);
    for _ in 0..20 {
        world.change();
    }
    world.snapshot();
    for _ in 0..20 {
        world.change();
    }
    world.volume.sync().unwrap();
    let image = image_of(&world.disk);
    let options = razorfs::Options {
        read_only: true,
        ..options()
    };
    let disk = Arc::new(SimDisk::from_image(&image));
    let volume = Volume::open_on(disk, Arc::new(SimEnv::new(3)), options).unwrap();
    assert_eq!(shown(&volume), shown(&world.volume));
    let at = volume.at_snapshot("s0").unwrap();
    assert_eq!(shown(&at), world.taken["s0"]);
    assert!(matches!(
        volume.snapshot("another"),
        Err(Error::ReadOnly(_))
    ));
}
