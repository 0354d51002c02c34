//! Going on where a process has died: what the simulation of deaths does not come to.

use std::sync::Arc;

use razorfs_disk::Ram;
use razorfs_disk::sim::{SimDisk, SimEnv};

use crate::marks::{Mark, count};
use crate::redo::{RedoMemory, as_request};
use crate::{CreateOptions, Error, Geometry, Ino, NewNode, Options, Result, Step, Volume};

struct Machine {
    disk: SimDisk,
    ram: Arc<Ram>,
}

impl Machine {
    fn new() -> Self {
        let machine = Self {
            disk: SimDisk::new(),
            ram: Arc::new(Ram::new(4 << 20)),
        };
        let create = CreateOptions::from(&machine.options());
        let (disk, env) = (Arc::new(machine.disk.clone()), Arc::new(SimEnv::new(1)));
        Volume::create_on(disk, env, &create).unwrap();
        machine
    }

    fn options(&self) -> Options {
        let redo = RedoMemory::new(Arc::clone(&self.ram)).unwrap();
        Options {
            geometry: Geometry::tiny(),
            compression: Some(crate::Compression::None),
            threads: false,
            redo: Some(Arc::new(redo)),
            ..Options::default()
        }
    }

    fn open(&self) -> Result<Volume> {
        let env = SimEnv::new(1);
        env.set_tick(5_000_000);
        Volume::open_on(Arc::new(self.disk.clone()), Arc::new(env), self.options())
    }
}

fn make(volume: &Volume, name: &str) -> Result<Ino> {
    let node = NewNode::file(0o644);
    Ok(volume.create_node(Ino::ROOT, name.as_bytes(), &node)?.ino)
}

/// Everything since the last commit is there, and goes on being there.
#[test]
fn what_no_journal_has_is_there_after_a_death() {
    let machine = Machine::new();
    let volume = machine.open().unwrap();
    assert_eq!(volume.recovery_report().redone, None);
    let ino = make(&volume, "file").unwrap();
    volume.write(ino, 3, &[7; 100_000]).unwrap();
    drop(volume);
    for _ in 0..3 {
        let volume = machine.open().unwrap();
        assert!(volume.recovery_report().redone.is_some());
        let mut found = vec![0; 100_003];
        assert_eq!(volume.read(ino, 0, &mut found).unwrap(), 100_003);
        assert!(found[3..].iter().all(|&byte| byte == 7));
    }
    let volume = machine.open().unwrap();
    volume.nobody_is_left();
    volume.close().unwrap();
    let volume = machine.open().unwrap();
    assert_eq!(volume.recovery_report().redone, None, "nobody has died");
    assert_eq!(volume.stat(ino).unwrap().size, 100_003);
}

/// Nobody was told of the snapshot, whose batch had nothing else, but the batch after it is done
/// again under its number.
#[test]
fn a_snapshot_that_did_not_get_to_the_journal_leaves_no_gap_after_a_death() {
    let mut machine = Machine::new();
    let volume = machine.open().unwrap();
    make(&volume, "before").unwrap();
    volume.sync().unwrap();
    let before = machine.disk.image();
    volume.snapshot("lost").unwrap();
    let later = make(&volume, "later").unwrap();
    drop(volume);
    machine.disk = SimDisk::from_image(&before);
    for _ in 0..2 {
        let volume = machine.open().unwrap();
        assert_eq!(volume.lookup(Ino::ROOT, b"later").unwrap().ino, later);
        assert!(volume.snapshots().is_empty());
    }
    let volume = machine.open().unwrap();
    volume.snapshot("taken").unwrap();
    volume.close().unwrap();
    let volume = machine.open().unwrap();
    assert_eq!(volume.lookup(Ino::ROOT, b"later").unwrap().ino, later);
    assert_eq!(volume.snapshots().len(), 1);
}

#[test]
fn a_batch_that_waits_for_room_on_the_host_waits_on_after_a_death() {
    let machine = Machine::new();
    let volume = machine.open().unwrap();
    let ino = make(&volume, "file").unwrap();
    volume.sync().unwrap();
    let used: u64 = machine.disk.files().iter().map(|(_, len)| len).sum();
    volume.write(ino, 0, &[5; 200_000]).unwrap();
    machine.disk.set_capacity(Some(used));
    assert!(matches!(volume.step(Step::Commit), Err(Error::NoSpace)));
    // And one that is open beside it.
    let rename = crate::RenameMode::Replace;
    let moved = volume.rename(Ino::ROOT, b"file", Ino::ROOT, b"moved", rename);
    moved.unwrap();
    drop(volume);
    let held = count(Mark::ResumeHeld);
    // Twice: nothing of it has got to the journal.
    for _ in 0..2 {
        let volume = machine.open().unwrap();
        assert_eq!(volume.stat(ino).unwrap().size, 200_000);
        assert_eq!(volume.lookup(Ino::ROOT, b"moved").unwrap().ino, ino);
        drop(volume);
    }
    assert!(count(Mark::ResumeHeld) >= held + 2);
    machine.disk.set_capacity(None);
    let volume = machine.open().unwrap();
    volume.close().unwrap();
    let volume = machine.open().unwrap();
    let mut found = vec![0; 200_000];
    volume.read(ino, 0, &mut found).unwrap();
    assert!(found.iter().all(|&byte| byte == 5));
    assert_eq!(volume.lookup(Ino::ROOT, b"moved").unwrap().ino, ino);
}

#[test]
fn what_was_acknowledged_is_not_applied_to_what_another_host_has_written() {
    let machine = Machine::new();
    let volume = machine.open().unwrap();
    make(&volume, "here").unwrap();
    drop(volume);
    let elsewhere = Options {
        redo: None,
        ..machine.options()
    };
    let env = Arc::new(SimEnv::new(2));
    let volume = Volume::open_on(Arc::new(machine.disk.clone()), env, elsewhere).unwrap();
    let there = make(&volume, "there").unwrap();
    volume.close().unwrap();
    let before = machine.disk.files();
    let refused = machine.open().err().unwrap().to_string();
    assert!(refused.contains("opened elsewhere"), "{refused}");
    assert_eq!(machine.disk.files(), before, "nothing was written");
    // Without the memory it is a volume like any other.
    let options = Options {
        redo: None,
        ..machine.options()
    };
    let env = Arc::new(SimEnv::new(3));
    let volume = Volume::open_on(Arc::new(machine.disk.clone()), env, options).unwrap();
    assert_eq!(volume.lookup(Ino::ROOT, b"there").unwrap().ino, there);
    assert!(volume.lookup(Ino::ROOT, b"here").is_err());
}

#[test]
fn a_volume_that_refused_writes_is_not_gone_on_with() {
    let machine = Machine::new();
    let volume = machine.open().unwrap();
    make(&volume, "file").unwrap();
    volume.refuse_writes("for a good reason");
    drop(volume);
    let refused = machine.open().err().unwrap().to_string();
    assert!(refused.contains("for a good reason"), "{refused}");
}

#[test]
fn a_request_that_was_applied_is_known_after_a_death() {
    let machine = Machine::new();
    let volume = machine.open().unwrap();
    let ino = as_request(40, || make(&volume, "file")).unwrap();
    assert_eq!(volume.applied(40), Some(ino.0));
    // One that was refused can be asked again.
    assert!(as_request(42, || make(&volume, "file")).is_err());
    drop(volume);
    let volume = machine.open().unwrap();
    assert_eq!(
        (volume.applied(40), volume.applied(42)),
        (Some(ino.0), None)
    );
    as_request(44, || volume.unlink(Ino::ROOT, b"file")).unwrap();
    volume.sync().unwrap();
    drop(volume);
    let volume = machine.open().unwrap();
    assert_eq!(
        volume.applied(40),
        Some(ino.0),
        "a slot of the first process"
    );
    assert_eq!(volume.applied(44), Some(0));
}

/// It was ordered to end although it was in use, and died before it could say that it had.
#[test]
fn a_volume_that_was_closed_while_it_was_in_use_is_gone_on_with() {
    let machine = Machine::new();
    let volume = machine.open().unwrap();
    let held = make(&volume, "held").unwrap();
    volume.pin(held, 1);
    volume.write(held, 0, &[3; 50_000]).unwrap();
    as_request(40, || volume.unlink(Ino::ROOT, b"held")).unwrap();
    volume.close().unwrap();
    for _ in 0..2 {
        let volume = machine.open().unwrap();
        assert_eq!(volume.applied(40), Some(0));
        while volume.step(Step::Reap).unwrap() {}
        assert_eq!(volume.stat(held).unwrap().size, 50_000);
        assert_eq!(volume.doubtful(), [held]);
        volume.close().unwrap();
    }
    let volume = machine.open().unwrap();
    volume.nobody_is_left();
    volume.close().unwrap();
    let volume = machine.open().unwrap();
    assert_eq!(
        (volume.recovery_report().redone, volume.applied(40)),
        (None, None)
    );
    while volume.step(Step::Reap).unwrap() {}
    assert!(volume.stat(held).is_err());
}

/// Its request comes again as late as it likes: until then the kernel does not know of it.
#[test]
fn what_a_request_without_an_answer_has_made_is_not_removed_before_it_comes_again() {
    let machine = Machine::new();
    let volume = machine.open().unwrap();
    let node = NewNode::file(0o600);
    let unnamed = |number| {
        as_request(number, || volume.create_unnamed(Ino::ROOT, &node))
            .unwrap()
            .ino
    };
    let answered = unnamed(38);
    let seen = unnamed(40);
    drop(volume);
    let volume = machine.open().unwrap();
    while volume.step(Step::Reap).unwrap() {}
    assert_eq!(volume.doubtful().len(), 2);
    // The last request of a thread says that those before it were answered.
    assert!(volume.not_held(answered));
    while volume.step(Step::Reap).unwrap() {}
    assert!(!volume.not_held(seen) && !volume.not_held(seen));
    drop(volume);
    let volume = machine.open().unwrap();
    while volume.step(Step::Reap).unwrap() {}
    assert_eq!(
        (volume.doubtful(), volume.applied(40)),
        (vec![seen], Some(seen.0))
    );
    assert!(!volume.not_held(seen));
    // It comes, is answered, and what it has made is let go.
    volume.pin(seen, 1);
    volume.unpin(seen, 1);
    assert!(volume.not_held(seen));
    while volume.step(Step::Reap).unwrap() {}
    assert!(volume.stat(seen).is_err() && volume.stat(answered).is_err());
}

/// It was answered and forgotten before, and nothing but the slot of its thread is left of it.
#[test]
fn what_nobody_holds_may_go_once_all_requests_have_come_again() {
    let machine = Machine::new();
    let volume = machine.open().unwrap();
    let node = NewNode::file(0o600);
    let unnamed = |volume: &Volume, number| {
        as_request(number, || volume.create_unnamed(Ino::ROOT, &node))
            .unwrap()
            .ino
    };
    let forgotten = unnamed(&volume, 40);
    volume.pin(forgotten, 1);
    volume.unpin(forgotten, 1);
    drop(volume);
    let volume = machine.open().unwrap();
    while volume.step(Step::Reap).unwrap() {}
    assert!(!volume.not_held(forgotten));
    volume.all_came_again();
    assert!(volume.not_held(forgotten));
    while volume.step(Step::Reap).unwrap() {}
    assert!(volume.stat(forgotten).is_err());
    // What is made from now on is known.
    let held = unnamed(&volume, 42);
    volume.pin(held, 1);
    while volume.step(Step::Reap).unwrap() {}
    assert!(volume.stat(held).is_ok() && volume.doubtful().is_empty());
}

/// The kernel holds it, so that it had the answer.
#[test]
fn what_is_held_once_may_go_later() {
    let machine = Machine::new();
    let volume = machine.open().unwrap();
    let node = NewNode::file(0o600);
    let made = as_request(40, || volume.create_unnamed(Ino::ROOT, &node));
    let made = made.unwrap().ino;
    drop(volume);
    let volume = machine.open().unwrap();
    while volume.step(Step::Reap).unwrap() {}
    assert!(!volume.not_held(made));
    volume.held(made);
    assert!(volume.not_held(made));
}

#[test]
fn an_inode_from_before_stays_until_somebody_says_that_it_is_not_held() {
    let machine = Machine::new();
    let volume = machine.open().unwrap();
    let (held, free) = (
        make(&volume, "held").unwrap(),
        make(&volume, "free").unwrap(),
    );
    volume.pin(held, 1);
    volume.unlink(Ino::ROOT, b"held").unwrap();
    drop(volume);
    let volume = machine.open().unwrap();
    while volume.step(Step::Reap).unwrap() {}
    // Nobody knows of this one either.
    volume.unlink(Ino::ROOT, b"free").unwrap();
    let mut doubtful = volume.doubtful();
    doubtful.sort_unstable();
    assert_eq!(doubtful, [held, free]);
    // Its last holder lets go, of more than was counted since.
    volume.pin(held, 1);
    volume.unpin(held, 5);
    assert!(volume.not_held(free) && !volume.not_held(free));
    while volume.step(Step::Reap).unwrap() {}
    assert!(volume.stat(free).is_err() && volume.stat(held).is_ok());
    // A new one needs no question.
    let new = make(&volume, "new").unwrap();
    volume.pin(new, 1);
    volume.unlink(Ino::ROOT, b"new").unwrap();
    volume.unpin(new, 1);
    while volume.step(Step::Reap).unwrap() {}
    assert!(volume.stat(new).is_err());
    assert_eq!(volume.doubtful(), [held]);
    volume.nobody_is_left();
    while volume.step(Step::Reap).unwrap() {}
    assert!(volume.stat(held).is_err() && volume.doubtful().is_empty());
}

/// Operations of the head and of two branches stand between each other in batches that no journal
/// has: each is done again in its own branch, twice.
#[test]
fn operations_of_two_branches_are_done_again_each_in_its_own() {
    let machine = Machine::new();
    let volume = machine.open().unwrap();
    let shared = make(&volume, "shared").unwrap();
    volume.write(shared, 0, &[1; 70_000]).unwrap();
    volume.create_branch("a").unwrap();
    volume.create_branch("b").unwrap();
    let open = |volume: &Volume| (volume.branch("a").unwrap(), volume.branch("b").unwrap());
    let (a, b) = open(&volume);
    // Data, a touch alone, names, counters.
    a.write(shared, 10, &[2; 50_000]).unwrap();
    b.write(shared, 20, &[3; 60_000]).unwrap();
    volume.write(shared, 30, &[4; 100]).unwrap();
    let set = |mode| crate::SetAttributes {
        mode: Some(mode),
        ..crate::SetAttributes::default()
    };
    a.set_attributes(shared, &set(0o600)).unwrap();
    b.set_attributes(shared, &set(0o400)).unwrap();
    let in_a = make(&a, "of a").unwrap();
    // Another batch.
    volume.step(Step::Commit).unwrap();
    let in_b = make(&b, "of b").unwrap();
    b.write(in_b, 0, &[5; 90_000]).unwrap();
    a.unlink(Ino::ROOT, b"shared").unwrap();
    b.set_xattr(in_b, b"user.x", b"y", crate::XattrMode::Set)
        .unwrap();
    let check = |volume: &Volume| {
        let (a, b) = open(volume);
        while a.step(Step::Reap).unwrap() {}
        for ino in a.doubtful() {
            a.not_held(ino);
        }
        while a.step(Step::Reap).unwrap() {}
        assert!(matches!(
            a.lookup(Ino::ROOT, b"shared"),
            Err(Error::NotFound)
        ));
        assert_eq!(a.lookup(Ino::ROOT, b"of a").unwrap().ino, in_a);
        assert!(matches!(a.lookup(Ino::ROOT, b"of b"), Err(Error::NotFound)));
        assert_eq!(b.lookup(Ino::ROOT, b"of b").unwrap().ino, in_b);
        assert_eq!(b.stat(shared).unwrap().mode & 0o7777, 0o400);
        assert_eq!(volume.stat(shared).unwrap().mode & 0o7777, 0o644);
        let bytes = |volume: &Volume, at, len| {
            let mut found = vec![0; len];
            assert_eq!(volume.read(shared, at, &mut found).unwrap(), len);
            found
        };
        assert_eq!(bytes(&b, 20, 60_000), vec![3; 60_000]);
        assert_eq!(bytes(&b, 0, 20), vec![1; 20]);
        assert_eq!(bytes(volume, 30, 100), vec![4; 100]);
        assert_eq!(bytes(volume, 130, 60_000), vec![1; 60_000]);
        let counted: Vec<_> = volume.branches();
        let counted: Vec<_> = counted.iter().map(|b| (b.inodes, b.bytes)).collect();
        assert_eq!(counted, [(2, 0), (3, 160_000)]);
        assert_eq!(&*b.get_xattr(in_b, b"user.x").unwrap(), b"y");
    };
    check_after_deaths(machine, volume, (a, b), &check);
}

fn check_after_deaths(
    machine: Machine,
    volume: Volume,
    branches: (Volume, Volume),
    check: &dyn Fn(&Volume),
) {
    drop(branches);
    drop(volume);
    let volume = machine.open().unwrap();
    let redone = volume.recovery_report().redone;
    assert!(redone.is_some_and(|n| n > 3), "{redone:?}");
    drop(volume);
    let volume = machine.open().unwrap();
    check(&volume);
    volume.nobody_is_left();
    volume.close().unwrap();
    let volume = machine.open().unwrap();
    assert_eq!(volume.recovery_report().redone, None);
    check(&volume);
}

/// In a branch that was opened long after a process went on for another, everything counted as
/// held, what that had made itself too, and nobody ever said otherwise.
#[test]
fn in_a_branch_opened_later_only_what_was_there_at_a_death_may_be_held_from_before() {
    let machine = Machine::new();
    let volume = machine.open().unwrap();
    let old = make(&volume, "old").unwrap();
    let older = make(&volume, "older").unwrap();
    volume.create_branch("side").unwrap();
    volume.create_branch("other").unwrap();
    drop(volume);
    let goes = |volume: &Volume, name: &str, ino: Ino| {
        volume.unlink(Ino::ROOT, name.as_bytes()).unwrap();
        while volume.step(Step::Reap).unwrap() {}
        volume.stat(ino).is_err()
    };
    let volume = machine.open().unwrap();
    let new = make(&volume, "new").unwrap();
    volume.create_branch("later").unwrap();
    let later = volume.branch("later").unwrap();
    assert!(goes(&later, "new", new), "it was not there then");
    let side = volume.branch("side").unwrap();
    side.somebody_comes();
    volume.all_have_come();
    assert!(!goes(&side, "old", old), "whoever came may hold it");
    let other = volume.branch("other").unwrap();
    assert!(goes(&other, "old", old), "nobody came for this one");
    assert!(goes(&volume, "older", older), "nor for this");
    side.nobody_is_left();
    while side.step(Step::Reap).unwrap() {}
    assert!(side.stat(old).is_err());
}
