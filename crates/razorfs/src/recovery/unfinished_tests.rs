//! Power cuts while a volume is created, and volumes that look as if that had happened.

use std::io::IoSlice;
use std::sync::Arc;

use razorfs_disk::sim::{SimDisk, SimEnv, SimRng};
use razorfs_disk::{Dir, Disk, Name, OpenHow};

use super::is_free;
use crate::{CreateOptions, Error, Geometry, Ino, NewNode, Options, Result, Volume};

fn options() -> Options {
    Options {
        geometry: Geometry::tiny(),
        threads: false,
        ..Options::default()
    }
}

fn create(disk: &SimDisk) -> Result<()> {
    let env = Arc::new(SimEnv::new(1));
    Volume::create_on(
        Arc::new(disk.clone()),
        env,
        &CreateOptions::from(&options()),
    )
}

fn open(disk: &SimDisk) -> Result<Volume> {
    Volume::open_on(Arc::new(disk.clone()), Arc::new(SimEnv::new(2)), options())
}

/// That the volume is empty, takes a file, and keeps it over a power cut.
fn check_use(disk: &SimDisk, what: &str) {
    let volume = open(disk).unwrap_or_else(|e| panic!("{what}: {e}"));
    let found = volume.lookup(Ino::ROOT, b"a");
    assert!(matches!(found, Err(Error::NotFound)), "{what}");
    let node = NewNode::file(0o644);
    volume.create_node(Ino::ROOT, b"a", &node).unwrap();
    volume.sync().unwrap();
    let after = disk.power_cut_with(|_| 0);
    let volume = open(&after).unwrap_or_else(|e| panic!("{what}, used and cut: {e}"));
    assert!(volume.lookup(Ino::ROOT, b"a").is_ok(), "{what}");
    drop(volume);
    assert!(matches!(create(&after), Err(Error::Exists)), "{what}");
}

/// What survived either opens empty or is created anew.
fn check_survivor(disk: &SimDisk, what: &str) {
    if let Err(e) = open(disk).map(drop) {
        assert!(
            matches!(e, Error::NotAVolume(_) | Error::Disk(_)),
            "{what}: {e}"
        );
        assert!(is_free(disk).unwrap(), "{what}");
        create(disk).unwrap_or_else(|again| panic!("{what}: {e}; created again: {again}"));
        // The new one is durable.
        check_use(&disk.after_cut_with(|_| 0), what);
    }
    check_use(disk, what);
}

fn steps() -> u64 {
    let disk = SimDisk::new();
    create(&disk).unwrap();
    disk.op_count()
}

#[test]
fn a_power_cut_at_any_step_of_a_creation_leaves_a_volume_or_room_for_one() {
    for step in 0..steps() {
        let disk = SimDisk::new();
        disk.cut_after(step);
        assert!(create(&disk).is_err());
        let all = disk.after_cut_with(|n| n - 1);
        check_survivor(&all, &format!("step {step}, all kept"));
        let none = disk.after_cut_with(|_| 0);
        check_survivor(&none, &format!("step {step}, nothing kept"));
        for seed in 0..8 {
            let some = disk.after_cut(&mut SimRng::new(seed));
            check_survivor(&some, &format!("step {step}, seed {seed}"));
        }
    }
}

#[test]
fn a_second_cut_while_it_is_created_anew_is_survived_as_well() {
    for first in 0..steps() {
        let disk = SimDisk::new();
        disk.cut_after(first);
        assert!(create(&disk).is_err());
        for second in 0..steps() + 8 {
            let mut rng = SimRng::new(first * 100 + second);
            let again = disk.after_cut(&mut rng);
            again.cut_after(second);
            if create(&again).is_err() {
                let what = format!("steps {first} and {second}");
                check_survivor(&again.after_cut(&mut rng), &what);
            }
        }
    }
}

#[test]
fn a_creation_whose_process_ended_is_created_anew_or_opens() {
    for step in 0..steps() {
        let disk = SimDisk::new();
        disk.fail_call_at(step);
        if create(&disk).is_err() {
            disk.clear_faults();
            check_survivor(&disk, &format!("step {step}"));
        }
    }
}

fn used() -> SimDisk {
    let disk = SimDisk::new();
    create(&disk).unwrap();
    let volume = open(&disk).unwrap();
    let node = NewNode::file(0o644);
    volume.create_node(Ino::ROOT, b"a", &node).unwrap();
    volume.close().unwrap();
    disk
}

fn check_kept(disk: &SimDisk, what: &str) {
    let before = disk.files();
    assert!(!is_free(disk).unwrap(), "{what}");
    assert!(create(disk).is_err(), "{what}");
    assert_eq!(disk.files(), before, "{what}");
}

#[test]
fn a_volume_whose_superblocks_are_lost_is_never_created_anew() {
    let name = Name::new(Dir::Root, "SUPER");
    let gone = used();
    gone.remove(&name).unwrap();
    check_kept(&gone, "no SUPER");
    let zeros = used();
    let file = zeros.open(&name, OpenHow::ReadWrite).unwrap();
    file.write_at(&[IoSlice::new(&[0; 4 * 4096])], 0).unwrap();
    check_kept(&zeros, "zeros");
    let empty = used();
    let file = empty.open(&name, OpenHow::ReadWrite).unwrap();
    file.set_len(0).unwrap();
    check_kept(&empty, "an empty SUPER");
}

#[test]
fn not_even_if_it_has_the_mark_of_a_creation() {
    for lost in [true, false] {
        let disk = used();
        let name = Name::new(Dir::Root, "SUPER");
        if lost {
            disk.remove(&name).unwrap();
        }
        let mark = Name::new(Dir::Root, "CREATING");
        disk.open(&mark, OpenHow::CreateNew).unwrap();
        check_kept(&disk, "used, with the mark");
    }
}
