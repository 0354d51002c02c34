use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use razorfs_disk::sim::{SimDisk, SimEnv, SimRng};
use razorfs_disk::{Dir, Env};

use crate::marks::{Mark, count};
use crate::sync::Mutex;
use crate::{
    Committed, CreateOptions, Error, Geometry, OnConflict, Options, SetAttributes, Step, Volume,
    XattrMode,
};

/// The main tree, or a branch.
type Which = Option<String>;
/// Files with their contents.
type Tree = BTreeMap<String, Vec<u8>>;

/// A volume with branches beside what it should show.
struct World {
    disk: SimDisk,
    env: Arc<SimEnv>,
    volume: Volume,
    trees: BTreeMap<Which, Tree>,
    snapshots: BTreeMap<String, Tree>,
    made: u32,
}

fn options() -> Options {
    Options {
        geometry: Geometry::tiny(),
        threads: false,
        ..Options::default()
    }
}

impl World {
    fn new() -> Self {
        let (disk, env) = (SimDisk::new(), Arc::new(SimEnv::new(1)));
        let create = CreateOptions::from(&options());
        Volume::create_on(Arc::new(disk.clone()), env.clone(), &create).unwrap();
        let volume = Volume::open_on(Arc::new(disk.clone()), env.clone(), options()).unwrap();
        Self {
            disk,
            env,
            volume,
            trees: BTreeMap::from([(None, Tree::new())]),
            snapshots: BTreeMap::new(),
            made: 0,
        }
    }

    fn which(&self, n: usize) -> Which {
        let all: Vec<&Which> = self.trees.keys().collect();
        all[n % all.len()].clone()
    }

    fn open(&self, which: &Which) -> Volume {
        match which {
            None => self.volume.clone(),
            Some(name) => self.volume.branch(name).unwrap(),
        }
    }

    fn name(&mut self, what: &str) -> String {
        self.made += 1;
        format!("{what}{}", self.made)
    }

    fn write(&mut self, which: &Which, file: u8, bytes: Vec<u8>) {
        let path = format!("f{file}");
        self.open(which).root().write(&path, &bytes).unwrap();
        self.trees.get_mut(which).unwrap().insert(path, bytes);
    }

    /// Lays bytes over a part of a file that is there.
    fn overwrite(&mut self, which: &Which, file: u8, at: usize, bytes: &[u8]) {
        let path = format!("f{file}");
        let Some(old) = self.trees.get_mut(which).unwrap().get_mut(&path) else {
            return;
        };
        let at = at % (old.len() + 1);
        old.resize(old.len().max(at + bytes.len()), 0);
        old[at..at + bytes.len()].copy_from_slice(bytes);
        let volume = self.open(which);
        let ino = volume.find_by_path(format!("/{path}").as_bytes()).unwrap();
        volume.write(ino, at as u64, bytes).unwrap();
    }

    fn remove(&mut self, which: &Which, file: u8) {
        let path = format!("f{file}");
        let had = self.trees.get_mut(which).unwrap().remove(&path).is_some();
        let removed = self.open(which).root().remove_file(&path);
        assert_eq!(removed.is_ok(), had, "{removed:?}");
    }

    fn fork(&mut self, which: &Which) {
        if self.trees.len() < 6 {
            let name = self.name("b");
            self.open(which).create_branch(&name).unwrap();
            let tree = self.trees[which].clone();
            self.trees.insert(Some(name), tree);
        }
    }

    fn delete(&mut self, which: &Which) {
        if let Some(name) = which {
            let held = self.open(which);
            assert!(matches!(
                self.volume.delete_branch(name),
                Err(Error::BranchInUse)
            ));
            drop(held);
            self.volume.delete_branch(name).unwrap();
            self.trees.remove(which);
        }
    }

    fn take(&mut self, which: &Which) {
        let name = self.name("s");
        self.open(which).snapshot(&name).unwrap();
        self.snapshots.insert(name, self.trees[which].clone());
    }

    fn roll_back(&mut self, which: &Which, n: usize) {
        let Some(to) = self.snapshots.keys().nth(n % self.snapshots.len().max(1)) else {
            return;
        };
        let to = to.clone();
        let safety = self.open(which).rollback(&to).unwrap();
        let tree = self.snapshots[&to].clone();
        let before = self.trees.insert(which.clone(), tree).unwrap();
        self.snapshots.insert(safety.name, before);
    }

    fn give_up(&mut self, n: usize) {
        let name = self.snapshots.keys().nth(n % self.snapshots.len().max(1));
        if let Some(name) = name.cloned() {
            self.volume.delete_snapshot(&name).unwrap();
            self.snapshots.remove(&name);
        }
    }

    fn step(&self, n: usize) {
        let steps = [
            Step::Commit,
            Step::Checkpoint,
            Step::Compact,
            Step::Release,
            Step::Clean,
        ];
        self.volume.step(steps[n % steps.len()]).unwrap();
        for which in self.trees.keys() {
            while self.open(which).step(Step::Reap).unwrap() {}
        }
    }

    /// The power fails after a sync, and the volume is opened again.
    fn crash(&mut self) {
        self.volume.sync().unwrap();
        self.made += 1;
        self.disk = self.disk.power_cut(&mut SimRng::new(self.made.into()));
        let (disk, env) = (Arc::new(self.disk.clone()), self.env.clone());
        self.volume = Volume::open_on(disk, env, options()).unwrap();
    }

    /// A checkpoint freezes the memtable, and does not come to its end.
    fn fail_checkpoint(&self) {
        self.volume.sync().unwrap();
        self.disk.fail_sync_at(self.disk.counts().syncs);
        // Where there is nothing to write it succeeds.
        let _ = self.volume.checkpoint();
        self.disk.clear_faults();
    }

    fn check(&self) {
        for (which, tree) in &self.trees {
            check_tree(&self.open(which), tree, &format!("{which:?}"));
        }
        for (name, tree) in &self.snapshots {
            let shown = self.volume.at_snapshot(name).unwrap();
            check_tree(&shown, tree, name);
        }
        let names: BTreeSet<String> = self.volume.branches().into_iter().map(|b| b.name).collect();
        let expected: BTreeSet<String> = self.trees.keys().flatten().cloned().collect();
        assert_eq!(names, expected);
    }
}

fn check_tree(volume: &Volume, tree: &Tree, what: &str) {
    let fs = volume.root();
    let names: BTreeSet<String> = fs
        .read_dir("/")
        .unwrap()
        .map(|e| e.unwrap().file_name().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, tree.keys().cloned().collect(), "names of {what}");
    for (path, bytes) in tree {
        assert_eq!(&fs.read(path).unwrap(), bytes, "{path} of {what}");
    }
    if let Some(branch) = volume.branch_name() {
        let all = volume.branches();
        let sum: usize = tree.values().map(Vec::len).sum();
        let of = all.iter().find(|b| b.name == branch).unwrap();
        assert_eq!(of.bytes, sum as u64, "bytes of {what}");
        assert_eq!(of.inodes, tree.len() as u64 + 1, "inodes of {what}");
    }
}

#[derive(Clone, Debug)]
enum Do {
    Write(usize, u8, Vec<u8>),
    Overwrite(usize, u8, usize, Vec<u8>),
    Remove(usize, u8),
    Fork(usize),
    Delete(usize),
    Take(usize),
    RollBack(usize, usize),
    GiveUp(usize),
    Step(usize),
    Fail,
    Crash,
}

fn one() -> impl Strategy<Value = Do> {
    let bytes = || {
        let some = proptest::collection::vec(any::<u8>(), 0..3000);
        // Some of them become frames.
        let times = prop_oneof![3 => Just(1), 1 => Just(20)];
        (some, times).prop_map(|(some, times): (Vec<u8>, usize)| some.repeat(times))
    };
    let n = || 0..20usize;
    prop_oneof![
        8 => (n(), 0..5u8, bytes()).prop_map(|(b, f, bytes)| Do::Write(b, f, bytes)),
        8 => (n(), 0..5u8, 0..3000usize, bytes())
            .prop_map(|(b, f, at, bytes)| Do::Overwrite(b, f, at, bytes)),
        4 => (n(), 0..5u8).prop_map(|(b, f)| Do::Remove(b, f)),
        3 => n().prop_map(Do::Fork),
        1 => n().prop_map(Do::Delete),
        3 => n().prop_map(Do::Take),
        1 => (n(), n()).prop_map(|(b, s)| Do::RollBack(b, s)),
        1 => n().prop_map(Do::GiveUp),
        8 => n().prop_map(Do::Step),
        1 => Just(Do::Fail),
        2 => Just(Do::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn each_branch_shows_what_was_done_in_it(todo in proptest::collection::vec(one(), 1..120)) {
        let mut world = World::new();
        for what in todo {
            match what {
                Do::Write(b, file, bytes) => world.write(&world.which(b), file, bytes),
                Do::Overwrite(b, file, at, bytes) => {
                    world.overwrite(&world.which(b), file, at, &bytes);
                }
                Do::Remove(b, file) => world.remove(&world.which(b), file),
                Do::Fork(b) => world.fork(&world.which(b)),
                Do::Delete(b) => world.delete(&world.which(b)),
                Do::Take(b) => world.take(&world.which(b)),
                Do::RollBack(b, to) => world.roll_back(&world.which(b), to),
                Do::GiveUp(n) => world.give_up(n),
                Do::Step(n) => world.step(n),
                Do::Fail => world.fail_checkpoint(),
                Do::Crash => world.crash(),
            }
            world.check();
        }
        world.crash();
        world.check();
    }
}

/// A checkpoint that failed leaves two memtables, in each of which a branch has another epoch, and
/// a replay makes one of them.
#[test]
fn the_head_goes_back_after_a_checkpoint_that_failed_and_a_crash() {
    let mut world = World::new();
    world.write(&None, 1, vec![1; 3000]);
    world.take(&None);
    world.fork(&None);
    let branch = world.which(1);
    assert!(branch.is_some());
    world.write(&branch, 1, vec![2; 3000]);
    world.fail_checkpoint();
    assert_eq!(world.volume.stats().checkpoints, 0);
    world.write(&branch, 2, vec![3; 3000]);
    world.write(&None, 2, vec![4; 300]);
    world.crash();
    world.check();
    world.roll_back(&None, 0);
    world.check();
    world.crash();
    world.check();
}

/// What a branch writes is born in the epoch of the memtable. After a replay of two memtables that
/// was younger than the epoch which the branch had, and so than a snapshot of it.
#[test]
fn a_snapshot_of_a_branch_holds_what_was_written_after_a_checkpoint_failed_and_a_crash() {
    let mut world = World::new();
    world.write(&None, 1, vec![1; 3000]);
    world.fork(&None);
    let branch = world.which(1);
    world.write(&branch, 1, vec![2; 3000]);
    world.fail_checkpoint();
    assert_eq!(world.volume.stats().checkpoints, 0);
    world.write(
        &None,
        2,
        (0..40_000u32).map(|n| ((n * n) >> 5) as u8).collect(),
    );
    world.crash();
    world.write(
        &branch,
        3,
        (0..40_000u32).map(|n| ((n * n) >> 7) as u8).collect(),
    );
    world.take(&branch);
    world.remove(&branch, 3);
    for step in [1, 3, 1, 4, 1, 2, 1] {
        world.step(step);
        world.write(&None, 4, vec![step as u8; 50_000]);
    }
    world.step(1);
    world.check();
    world.crash();
    world.check();
}

/// The reaper looks at all branches that are open, and so had them open itself for a moment.
#[test]
fn a_branch_that_everybody_has_left_is_deleted_while_the_reaper_is_at_work() {
    let (disk, env) = (Arc::new(SimDisk::new()), Arc::new(SimEnv::new(1)));
    let options = Options {
        threads: true,
        ..options()
    };
    let create = CreateOptions::from(&options);
    Volume::create_on(disk.clone(), env.clone(), &create).unwrap();
    let volume = Volume::open_on(disk, env, options).unwrap();
    for n in 0..150 {
        let name = format!("b{n}");
        volume.create_branch(&name).unwrap();
        let branch = volume.branch(&name).unwrap();
        for file in 0..20 {
            let path = format!("f{file}");
            branch.root().write(&path, b"data").unwrap();
            branch.root().remove_file(&path).unwrap();
        }
        drop(branch);
        volume.delete_branch(&name).unwrap();
    }
    assert!(volume.branches().is_empty());
    volume.close().unwrap();
}

/// A clock that calls somebody when it is looked at.
struct Watched {
    env: SimEnv,
    look: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Env for Watched {
    fn now(&self) -> u64 {
        let look = self.look.lock().take();
        if let Some(look) = look {
            look();
        }
        self.env.now()
    }
    fn monotonic(&self) -> u64 {
        self.env.monotonic()
    }
    fn random(&self) -> u64 {
        self.env.random()
    }
}

/// What is done in a branch is acknowledged before it is on the disk, and done again after the
/// death of a process: the branch has to be there then.
#[test]
fn a_branch_that_somebody_has_open_is_there_after_a_power_cut() {
    let disk = SimDisk::new();
    let create = CreateOptions::from(&options());
    let env = SimEnv::new(1);
    Volume::create_on(Arc::new(disk.clone()), Arc::new(env.clone()), &create).unwrap();
    let env = Arc::new(Watched {
        env,
        look: Mutex::new(None),
    });
    let volume = Volume::open_on(Arc::new(disk.clone()), env.clone(), options()).unwrap();
    volume.root().write("file", b"data").unwrap();
    volume.sync().unwrap();
    // The first look names the time of the branch; the second is that of its batch, when everybody
    // sees it.
    let (send, receive) = std::sync::mpsc::channel();
    let (other, left) = (volume.clone(), disk.clone());
    let opener = move || {
        let opened = loop {
            match other.branch("b") {
                Err(Error::NotFound) => std::thread::yield_now(),
                opened => break opened.unwrap(),
            }
        };
        let cut = left.after_cut_with(|_| 0);
        drop(opened);
        send.send(cut).unwrap();
    };
    let opener = std::thread::spawn(opener);
    let slow = || std::thread::sleep(std::time::Duration::from_millis(100));
    let watched = Arc::clone(&env);
    *env.look.lock() = Some(Box::new(move || {
        *watched.look.lock() = Some(Box::new(slow))
    }));
    let before = count(Mark::ForkAwaited);
    volume.create_branch("b").unwrap();
    opener.join().unwrap();
    assert!(count(Mark::ForkAwaited) > before);
    let cut = receive.recv().unwrap();
    let after = Volume::open_on(Arc::new(cut), Arc::new(SimEnv::new(2)), options()).unwrap();
    assert_eq!(after.branches().len(), 1, "it was opened");
}

/// A volume with a directory, two files, and a branch of that.
fn forked() -> (Volume, Volume) {
    let volume = Volume::on_sim(options());
    let fs = volume.root();
    fs.create_dir_all("d/e").unwrap();
    fs.write("d/one", b"one").unwrap();
    fs.write("d/two", vec![2; 5000]).unwrap();
    fs.write("gone", b"to be removed").unwrap();
    volume.create_branch("work").unwrap();
    let branch = volume.branch("work").unwrap();
    (volume, branch)
}

fn commit(volume: &Volume, branch: &Volume) -> Committed {
    volume.commit_branch(branch, OnConflict::Refuse).unwrap()
}

#[test]
fn a_commit_brings_what_was_changed_in_the_branch_and_keeps_what_was_changed_here() {
    let (volume, branch) = forked();
    let (here, there) = (volume.root(), branch.root());
    assert_eq!(commit(&volume, &branch), Committed::Nothing);
    there.write("d/one", vec![1; 300_000]).unwrap();
    there.write("d/new", b"new").unwrap();
    there.hard_link("d/new", "d/e/linked").unwrap();
    there.create_dir_all("x/y").unwrap();
    there.rename("d/e", "x/y/e").unwrap();
    there.remove_file("gone").unwrap();
    here.write("d/two", b"changed here").unwrap();
    here.write("d/mine", b"mine").unwrap();
    let Committed::Done(before) = commit(&volume, &branch) else {
        panic!("there is no conflict");
    };
    assert_eq!(here.read("d/one").unwrap(), vec![1; 300_000]);
    assert_eq!(here.read("d/two").unwrap(), b"changed here");
    assert_eq!(here.read("d/mine").unwrap(), b"mine");
    assert_eq!(here.read("x/y/e/linked").unwrap(), b"new");
    let ino = |v: &Volume, path: &str| v.find_by_path(path.as_bytes()).unwrap();
    assert_eq!(ino(&volume, "/d/new"), ino(&branch, "/d/new"));
    assert_eq!(volume.stat(ino(&volume, "/d/new")).unwrap().nlink, 2);
    assert_eq!(ino(&volume, "/d/new"), ino(&volume, "/x/y/e/linked"));
    assert!(!here.exists("gone").unwrap() && !here.exists("d/e").unwrap());
    assert!(!there.exists("d/mine").unwrap());
    // What is there is not done again, and the branch goes on.
    assert_eq!(commit(&volume, &branch), Committed::Nothing);
    there.write("d/new", b"newer").unwrap();
    let again = commit(&volume, &branch);
    assert!(matches!(again, Committed::Done(_)), "{again:?}");
    assert_eq!(here.read("d/new").unwrap(), b"newer");
    // And it can be undone.
    volume.rollback(&before).unwrap();
    assert_eq!(here.read("d/one").unwrap(), b"one");
    assert_eq!(here.read("d/mine").unwrap(), b"mine");
    assert!(here.exists("gone").unwrap());
    // Then all of it is to be done again.
    let again = commit(&volume, &branch);
    assert!(matches!(again, Committed::Done(_)), "{again:?}");
    assert_eq!(here.read("d/new").unwrap(), b"newer");
    assert_eq!(here.read("d/one").unwrap(), vec![1; 300_000]);
    assert!(!here.exists("gone").unwrap());
    assert_eq!(volume.branches().len(), 1);
}

#[test]
fn a_commit_that_would_lose_something_names_it_and_does_nothing() {
    let (volume, branch) = forked();
    let (here, there) = (volume.root(), branch.root());
    there.write("d/one", b"theirs").unwrap();
    here.write("d/one", b"ours").unwrap();
    there.write("same", b"theirs").unwrap();
    here.write("same", b"ours").unwrap();
    there.remove_file("gone").unwrap();
    here.write("gone", b"changed after all").unwrap();
    there.remove_dir_all("d/e").unwrap();
    here.write("d/e/f", b"in what the branch has removed")
        .unwrap();
    there.write("d/harmless", b"").unwrap();
    let Committed::Conflicts(conflicts) = commit(&volume, &branch) else {
        panic!("there are conflicts");
    };
    let mut paths: Vec<_> = conflicts.iter().map(|c| c.path.to_str().unwrap()).collect();
    paths.dedup();
    assert_eq!(paths, ["d/e", "d/one", "gone", "same"], "{conflicts:?}");
    assert!(!here.exists("d/harmless").unwrap());
    assert_eq!(here.read("d/one").unwrap(), b"ours");
    assert_eq!(volume.branches().len(), 1);
    // The branch is taken for what it is, and what was here is kept.
    let taken = volume.commit_branch(&branch, OnConflict::TakeBranch);
    let Committed::Done(before) = taken.unwrap() else {
        panic!("it was told how");
    };
    assert_eq!(here.read("d/one").unwrap(), b"theirs");
    assert_eq!(here.read("same").unwrap(), b"theirs");
    assert!(!here.exists("gone").unwrap() && !here.exists("d/e").unwrap());
    volume.rollback(&before).unwrap();
    assert_eq!(
        here.read("d/e/f").unwrap(),
        b"in what the branch has removed"
    );
    assert_eq!(here.read("same").unwrap(), b"ours");
}

#[test]
fn directories_that_were_moved_into_each_other_are_a_conflict() {
    let (volume, branch) = forked();
    volume.root().create_dir_all("p/q").unwrap();
    volume.root().create_dir_all("r").unwrap();
    volume.create_branch("two").unwrap();
    let two = volume.branch("two").unwrap();
    two.root().rename("r", "p/q/r").unwrap();
    volume.root().rename("p", "r/p").unwrap();
    let circles = count(Mark::MergeCircle);
    let committed = commit(&volume, &two);
    assert!(count(Mark::MergeCircle) > circles);
    let Committed::Conflicts(conflicts) = committed else {
        panic!("{committed:?}");
    };
    assert_eq!(conflicts[0].path.to_str(), Some("r"), "{conflicts:?}");
    assert!(volume.root().exists("r/p/q").unwrap());
    drop(branch);
}

#[test]
fn a_branch_is_committed_to_another_branch_and_not_to_itself() {
    let (volume, branch) = forked();
    branch.create_branch("child").unwrap();
    let child = volume.branch("child").unwrap();
    child.root().write("d/one", b"from the child").unwrap();
    branch.root().write("d/other", b"other").unwrap();
    assert!(matches!(commit(&branch, &child), Committed::Done(_)));
    assert_eq!(branch.root().read("d/one").unwrap(), b"from the child");
    assert_eq!(volume.root().read("d/one").unwrap(), b"one");
    let itself = branch.commit_branch(&branch, OnConflict::Refuse);
    assert!(matches!(itself, Err(Error::Invalid(_))), "{itself:?}");
    let names: Vec<_> = volume.branches().into_iter().map(|b| b.name).collect();
    assert_eq!(names, ["work", "child"]);
}

/// More blocks than one truncation removes at once.
const MANY: u64 = 1100;

#[test]
fn what_a_branch_has_cut_off_and_not_removed_yet_does_not_come_back_with_a_commit() {
    let volume = Volume::on_sim(options());
    let root = volume.root();
    root.write("big", b"").unwrap();
    let big = volume.find_by_path(b"big").unwrap();
    let block = u64::from(razorfs_format::record::BLOCK);
    for n in 0..MANY {
        volume.write(big, n * block, b"old").unwrap();
    }
    volume.create_branch("work").unwrap();
    let branch = volume.branch("work").unwrap();
    let size = |size| SetAttributes {
        size: Some(size),
        ..SetAttributes::default()
    };
    branch.set_attributes(big, &size(2)).unwrap();
    root.write("other", b"so that this has changed, too")
        .unwrap();
    assert!(matches!(commit(&volume, &branch), Committed::Done(_)));
    assert_eq!(root.read("big").unwrap(), b"ol");
    volume.set_attributes(big, &size(MANY * block)).unwrap();
    for n in 0..MANY {
        let mut found = [7; 3];
        volume.read(big, n * block, &mut found).unwrap();
        let expected = if n == 0 { *b"ol\0" } else { [0; 3] };
        assert_eq!(found, expected, "block {n}");
    }
}

#[test]
fn a_directory_has_the_time_of_access_that_it_was_given_in_what_is_committed_or_restored() {
    let (volume, branch) = forked();
    let early = crate::Time { secs: -3, nanos: 7 };
    let set = SetAttributes {
        atime: Some(early),
        ..SetAttributes::default()
    };
    let dir = ino(&branch, "d/e");
    branch.set_attributes(dir, &set).unwrap();
    volume.root().write("other", b"here").unwrap();
    assert!(matches!(commit(&volume, &branch), Committed::Done(_)));
    assert_eq!(volume.stat(dir).unwrap().atime, early);
    let root = crate::Ino::ROOT;
    volume.set_attributes(root, &set).unwrap();
    volume.sync().unwrap();
    let last = volume.log(0).unwrap().0.last().unwrap().lsn;
    volume.restore(crate::When::Lsn(last)).unwrap();
    assert_eq!(volume.stat(root).unwrap().atime, early);
}

/// What stands for the beginning of the branch was taken for what the volume shows.
#[test]
fn a_moment_after_a_branch_was_made_of_a_snapshot_is_not_what_that_shows() {
    let (volume, _) = forked();
    volume.snapshot("then").unwrap();
    volume.root().write("later", b"not in it").unwrap();
    let past = volume.at_snapshot("then").unwrap();
    past.create_branch("old").unwrap();
    let last = volume.log(0).unwrap().0.last().unwrap().lsn;
    let moment = volume.at_moment(crate::When::Lsn(last)).unwrap();
    assert_eq!(moment.root().read("later").unwrap(), b"not in it");
    let branch = volume.branch("old").unwrap();
    branch.root().write("own", b"of the branch").unwrap();
    volume.sync().unwrap();
    let last = volume.log(0).unwrap().0.last().unwrap().lsn;
    let moment = branch.at_moment(crate::When::Lsn(last)).unwrap();
    assert_eq!(moment.root().read("own").unwrap(), b"of the branch");
    assert!(!moment.root().exists("later").unwrap());
}

#[test]
fn a_moment_is_kept_though_the_snapshot_below_it_was_given_up() {
    let volume = Volume::on_sim(options());
    let root = volume.root();
    let last = || volume.log(0).unwrap().0.last().unwrap().lsn;
    root.write("a", b"one").unwrap();
    volume.snapshot("below").unwrap();
    root.write("a", b"two").unwrap();
    volume.sync().unwrap();
    let then = last();
    root.write("a", b"three").unwrap();
    volume.sync().unwrap();
    volume.delete_snapshot("below").unwrap();
    let gone = count(Mark::MomentOfGone);
    let when = crate::When::Lsn(then);
    volume.snapshot_at("kept", when).unwrap();
    assert!(count(Mark::MomentOfGone) > gone);
    let kept = volume.at_snapshot("kept").unwrap();
    assert_eq!(kept.root().read("a").unwrap(), b"two");
}

#[test]
fn a_moment_whose_data_were_overwritten_is_not_kept_and_that_is_told() {
    let volume = Volume::on_sim(options());
    let root = volume.root();
    volume.snapshot("below").unwrap();
    let mut rng = SimRng::new(5);
    // Nothing that could be made smaller, and stand in the journal.
    let mut bytes = || {
        (0..150_000)
            .map(|_| rng.next_u64() as u8)
            .collect::<Vec<u8>>()
    };
    root.write("a", bytes()).unwrap();
    volume.sync().unwrap();
    let then = volume.log(0).unwrap().0.last().unwrap().lsn;
    for _ in 0..4 {
        root.write("a", bytes()).unwrap();
        volume.sync().unwrap();
        for step in [Step::Checkpoint, Step::Compact, Step::Reap, Step::Clean] {
            while volume.step(step).unwrap() && step != Step::Checkpoint {}
        }
    }
    let overwritten = count(Mark::MomentOverwritten);
    let kept = volume.snapshot_at("kept", crate::When::Lsn(then));
    let Err(Error::NoMoment(why)) = kept else {
        panic!("{kept:?}");
    };
    assert!(why.contains("a: "), "{why}");
    assert!(count(Mark::MomentOverwritten) > overwritten);
    let names: Vec<_> = volume.snapshots().into_iter().map(|s| s.name).collect();
    assert_eq!(names, ["below"]);
}

/// The rest of the truncation is done in the branch, by the reaper.
#[test]
fn a_truncation_that_came_to_its_end_in_a_branch_is_no_change_of_it() {
    let volume = Volume::on_sim(options());
    let root = volume.root();
    root.write("big", b"").unwrap();
    let big = volume.find_by_path(b"big").unwrap();
    let block = u64::from(razorfs_format::record::BLOCK);
    for n in 0..MANY {
        volume.write(big, n * block, b"old").unwrap();
    }
    let size = SetAttributes {
        size: Some(2),
        ..SetAttributes::default()
    };
    volume.set_attributes(big, &size).unwrap();
    volume.create_branch("work").unwrap();
    let branch = volume.branch("work").unwrap();
    let trimming = |volume: &Volume| {
        let flags = volume.stat(big).unwrap().flags;
        flags & razorfs_format::record::inode_flags::TRIMMING != 0
    };
    assert!(trimming(&branch));
    // So that the branch's own goes on.
    while trimming(&branch) && branch.step(Step::Reap).unwrap() {}
    assert!(!trimming(&branch));
    branch.root().write("other", b"of the branch").unwrap();
    volume.write(big, 0, b"BIG").unwrap();
    assert!(matches!(commit(&volume, &branch), Committed::Done(_)));
    assert_eq!(root.read("big").unwrap(), b"BIG");
    assert_eq!(root.read("other").unwrap(), b"of the branch");
}

#[test]
fn a_directory_of_before_1970_keeps_its_time_in_a_commit() {
    let (volume, branch) = forked();
    let early = crate::Time { secs: -3, nanos: 7 };
    let set = SetAttributes {
        mtime: Some(early),
        ..SetAttributes::default()
    };
    let dir = ino(&branch, "d/e");
    branch.set_attributes(dir, &set).unwrap();
    volume.root().write("other", b"here").unwrap();
    assert!(matches!(commit(&volume, &branch), Committed::Done(_)));
    assert_eq!(volume.stat(dir).unwrap().mtime, early);
}

#[test]
fn a_file_without_a_name_in_the_branch_does_not_come_along_with_its_attributes() {
    let (volume, branch) = forked();
    let there = branch.root();
    there.write("nameless", b"new").unwrap();
    let mut open = Vec::new();
    for path in ["nameless", "gone"] {
        open.push(there.open(path).unwrap());
        let ino = branch.find_by_path(path.as_bytes()).unwrap();
        let mode = XattrMode::Create;
        branch.set_xattr(ino, b"user.a", b"value", mode).unwrap();
        there.remove_file(path).unwrap();
    }
    there.write("d/new", b"new").unwrap();
    volume.root().write("d/mine", b"mine").unwrap();
    assert!(matches!(commit(&volume, &branch), Committed::Done(_)));
    assert_eq!(volume.root().read("d/new").unwrap(), b"new");
    assert!(!volume.root().exists("gone").unwrap());
    drop(open);
}

#[test]
fn a_file_that_was_removed_here_and_is_open_is_not_given_a_name_by_a_commit() {
    let (volume, branch) = forked();
    volume.create_branch("between").unwrap();
    let between = volume.branch("between").unwrap();
    branch.root().write("x", b"from the branch").unwrap();
    between.root().write("y", b"").unwrap();
    assert!(matches!(commit(&between, &branch), Committed::Done(_)));
    volume.root().write("z", b"").unwrap();
    assert!(matches!(commit(&volume, &between), Committed::Done(_)));
    let open = volume.root().open("x").unwrap();
    volume.root().remove_file("x").unwrap();
    let committed = commit(&volume, &branch);
    let Committed::Conflicts(conflicts) = committed else {
        panic!("{committed:?}");
    };
    assert_eq!(conflicts[0].path.to_str(), Some("x"), "{conflicts:?}");
    drop(open);
    assert!(!volume.root().exists("x").unwrap());
}

/// With a branch; both have changed something since, so that a commit goes file by file.
fn parted(options: &Options) -> (SimDisk, Volume, Volume) {
    let (disk, env) = (SimDisk::new(), Arc::new(SimEnv::new(1)));
    env.set_tick(1_000_000);
    let create = CreateOptions::from(options);
    Volume::create_on(Arc::new(disk.clone()), env.clone(), &create).unwrap();
    let volume = Volume::open_on(Arc::new(disk.clone()), env, options.clone()).unwrap();
    for file in ["read", "written", "other"] {
        volume.root().write(file, b"before").unwrap();
    }
    volume.create_branch("side").unwrap();
    let side = volume.branch("side").unwrap();
    side.root().write("written", b"in the branch").unwrap();
    volume.root().write("other", b"here").unwrap();
    (disk, volume, side)
}

fn ino(volume: &Volume, path: &str) -> crate::Ino {
    volume.find_by_path(path.as_bytes()).unwrap()
}

/// The changes of 512 files were one transaction, which the journal had no room for.
#[test]
fn many_large_attributes_are_committed_in_several_transactions() {
    let (_, volume, side) = parted(&options());
    for n in 0..40 {
        let name = format!("f{n}");
        side.root().write(&name, b"file").unwrap();
        let value = vec![n; 60_000];
        side.set_xattr(
            ino(&side, &format!("/{name}")),
            b"user.x",
            &value,
            XattrMode::Set,
        )
        .unwrap();
    }
    let done = volume.commit_branch(&side, OnConflict::Refuse).unwrap();
    assert!(matches!(done, Committed::Done(_)), "{done:?}");
    for n in 0..40 {
        let file = ino(&volume, &format!("/f{n}"));
        assert_eq!(*volume.get_xattr(file, b"user.x").unwrap(), vec![n; 60_000]);
    }
    assert_eq!(volume.root().read("other").unwrap(), b"here");
}

/// One block made every commit fail, and nothing said which file was to be left out.
#[test]
fn a_commit_names_the_files_of_which_the_branch_has_lost_something() {
    let options = Options {
        compression: Some(crate::Compression::None),
        geometry: Geometry {
            // What has parity is healed.
            parity_shard: 0,
            ..Geometry::tiny()
        },
        ..options()
    };
    let (disk, volume, side) = parted(&options);
    let mut bytes = vec![0; 100_000];
    SimRng::new(1).fill(&mut bytes);
    side.root().create_dir("dir").unwrap();
    side.root().write("dir/lost", &bytes).unwrap();
    volume.checkpoint().unwrap();
    for (name, len) in disk.files() {
        if name.dir == Dir::Pack {
            for at in (8192..len).step_by(4096) {
                disk.flip_bit(&name, at, 1);
            }
        }
    }
    disk.drop_caches();
    assert!(side.root().read("dir/lost").is_err());
    let found = volume.commit_branch(&side, OnConflict::Refuse).unwrap();
    let Committed::Conflicts(all) = found else {
        panic!("{found:?}");
    };
    let paths: Vec<_> = all.iter().map(|c| c.path.to_str().unwrap()).collect();
    assert_eq!(paths, ["dir/lost"]);
    assert!(all[0].why.contains("damaged"), "{}", all[0].why);
    assert_eq!(volume.root().read("written").unwrap(), b"before");
    assert!(volume.inner.store.internal().0.is_empty());
    // As it says: without the file, or with all that the branch is.
    let rest = volume.clone();
    volume.create_branch("second").unwrap();
    let second = volume.branch("second").unwrap();
    let done = second.commit_branch(&side, OnConflict::TakeBranch).unwrap();
    assert!(matches!(done, Committed::Done(_)), "{done:?}");
    assert_eq!(second.root().read("written").unwrap(), b"in the branch");
    assert!(second.root().read("dir/lost").is_err());
    side.root().remove_file("dir/lost").unwrap();
    let done = rest.commit_branch(&side, OnConflict::Refuse).unwrap();
    assert!(matches!(done, Committed::Done(_)), "{done:?}");
    assert_eq!(volume.root().read("written").unwrap(), b"in the branch");
    assert_eq!(volume.root().read("other").unwrap(), b"here");
}

/// Whoever reads all the time kept a commit from coming to its end before everybody waited.
#[test]
fn that_a_file_was_read_is_no_change_of_a_branch_or_of_its_target() {
    let (_, volume, side) = parted(&options());
    let read = |volume: &Volume, name: &str| {
        volume.set_atime(crate::Atime::Strict);
        let before = volume.stat(ino(volume, name)).unwrap().atime;
        volume.accessed(ino(volume, name));
        assert!(volume.stat(ino(volume, name)).unwrap().atime > before);
    };
    let done = volume.commit_branch(&side, OnConflict::Refuse).unwrap();
    assert!(matches!(done, Committed::Done(_)), "{done:?}");
    read(&side, "/read");
    let done = volume.commit_branch(&side, OnConflict::Refuse).unwrap();
    assert_eq!(done, Committed::Nothing);
    // It goes on from the branch itself, of which nothing is to be remembered then.
    volume.create_branch("second").unwrap();
    let second = volume.branch("second").unwrap();
    second.root().write("more", b"more").unwrap();
    read(&volume, "/read");
    let bases = volume.inner.store.internal().0;
    let done = volume.commit_branch(&second, OnConflict::Refuse).unwrap();
    assert!(matches!(done, Committed::Done(_)), "{done:?}");
    assert_eq!(volume.inner.store.internal().0, bases);
}

/// Whoever remembers names and attributes was told only once all that was of no use any more had
/// been put away.
#[test]
fn a_commit_is_told_as_soon_as_it_can_be_seen() {
    let (_, volume, side) = parted(&options());
    let mut told = Vec::new();
    let mut seen = |safety: &crate::Snapshot| {
        assert_eq!(volume.root().read("written").unwrap(), b"in the branch");
        assert!(!volume.inner.store.internal().1.is_empty());
        // Nobody is kept out.
        volume.root().write("more", b"more").unwrap();
        told.push(safety.name.clone());
    };
    let done = volume.commit_branch_telling(&side, OnConflict::Refuse, &mut seen);
    let Committed::Done(safety) = done.unwrap() else {
        panic!("nothing was done");
    };
    assert_eq!(told, [safety.name]);
    assert_eq!(volume.root().read("more").unwrap(), b"more");
    assert!(volume.inner.store.internal().1.is_empty());
}

/// A stream may have been received by a process that died before it told anybody.
#[test]
fn what_was_before_a_snapshot_is_what_was_at_the_one_before_or_nothing() {
    let volume = World::new().volume;
    for (file, snapshot) in [("a", "first"), ("b", "second"), ("c", "third")] {
        volume.root().write(file, b"new").unwrap();
        volume.snapshot(snapshot).unwrap();
    }
    let stale = |snapshot: &str| {
        let before = volume.before_snapshot(snapshot).unwrap();
        let stale = volume.stale_since(&before).unwrap();
        let mut names: Vec<_> = stale.names.into_iter().map(|(_, name)| name).collect();
        names.sort_unstable();
        names.concat()
    };
    assert_eq!(stale("third"), b"c");
    assert_eq!(stale("second"), b"bc");
    assert_eq!(stale("first"), b"abc", "nothing was before");
    volume.delete_snapshot("first").unwrap();
    assert_eq!(stale("second"), b"bc");
    let missing = volume.before_snapshot("first").map(drop);
    assert!(matches!(missing, Err(Error::NotFound)));
}

#[test]
fn what_a_branch_was_made_of_is_kept_as_a_snapshot_whatever_became_of_both() {
    let mut world = World::new();
    let root = world.volume.root();
    root.write("a", b"then").unwrap();
    root.write("gone", vec![3; 9000]).unwrap();
    world.volume.create_branch("work").unwrap();
    let work = world.volume.branch("work").unwrap();
    work.root().write("a", b"in the branch").unwrap();
    work.root().remove_file("gone").unwrap();
    root.write("b", b"here").unwrap();
    let then = |volume: &Volume, name: &str| {
        let seen = volume.at_snapshot(name).unwrap();
        assert_eq!(seen.root().read("a").unwrap(), b"then");
        assert_eq!(seen.root().read("gone").unwrap(), vec![3; 9000]);
        assert!(!seen.root().exists("b").unwrap());
    };
    let taken = world.volume.snapshot_origin("work", "then").unwrap();
    assert_eq!((taken.inodes, taken.bytes), (3, 9004));
    then(&world.volume, "then");
    world.volume.delete_snapshot("then").unwrap();
    world.volume.checkpoint().unwrap();
    world.volume.step(Step::Release).unwrap();
    // The volume goes on from the branch, and the branch from another point.
    let before = work.snapshot("before").unwrap();
    work.root().write("a", b"again").unwrap();
    work.rollback(&before).unwrap();
    assert!(matches!(commit(&world.volume, &work), Committed::Done(_)));
    world.volume.snapshot_origin("work", "again").unwrap();
    drop((root, work));
    world.crash();
    then(&world.volume, "again");
    world.volume.snapshot_origin("work", "third").unwrap();
    world.volume.checkpoint().unwrap();
    then(&world.volume, "third");
    let missing = world.volume.snapshot_origin("other", "x");
    assert!(matches!(missing, Err(Error::NotFound)), "{missing:?}");
    let taken = world.volume.snapshot_origin("work", "third");
    assert!(matches!(taken, Err(Error::Exists)), "{taken:?}");
}
