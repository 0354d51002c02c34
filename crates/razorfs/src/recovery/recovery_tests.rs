//! Which generation counts when superblocks are lost, and which inode numbers are given out when
//! mounts are.

use std::io::IoSlice;
use std::sync::Arc;

use razorfs_disk::os::OsEnv;
use razorfs_disk::sim::{SimDisk, SimEnv};
use razorfs_disk::{Dir, Disk, Name, OpenHow};
use razorfs_format::Branch;
use razorfs_format::crc::crc32c;
use razorfs_format::key::Key;
use razorfs_format::op::Mutation;
use razorfs_format::superblock::names::Set;
use razorfs_format::superblock::{Features, MAGIC, SLOT, Superblock};

use crate::{CreateOptions, Error, Geometry, Ino, NewNode, Options, Result, Step, Volume};

fn options() -> Options {
    Options {
        geometry: Geometry::tiny(),
        threads: false,
        ..Options::default()
    }
}

fn try_open(disk: &SimDisk) -> Result<Volume> {
    Volume::open_on(Arc::new(disk.clone()), Arc::new(SimEnv::new(2)), options())
}

fn open(disk: &SimDisk) -> Volume {
    try_open(disk).unwrap()
}

fn new_disk() -> SimDisk {
    let disk = SimDisk::new();
    let door = Arc::new(disk.clone());
    let env = Arc::new(SimEnv::new(1));
    Volume::create_on(door, env, &CreateOptions::from(&options())).unwrap();
    disk
}

fn create(volume: &Volume, name: &str) -> Ino {
    let node = NewNode::file(0o644);
    let stat = volume.create_node(Ino::ROOT, name.as_bytes(), &node);
    stat.unwrap().ino
}

fn superblocks(disk: &SimDisk) -> Vec<u8> {
    let file = disk.open(&Name::new(Dir::Root, "SUPER"), OpenHow::Read);
    let mut bytes = vec![0; 4 * 4096];
    assert_eq!(file.unwrap().read_at(&mut bytes, 0).unwrap(), bytes.len());
    bytes
}

fn put_superblocks(disk: &SimDisk, bytes: &[u8]) {
    let file = disk.open(&Name::new(Dir::Root, "SUPER"), OpenHow::ReadWrite);
    let file = file.unwrap();
    file.write_at(&[IoSlice::new(bytes)], 0).unwrap();
    file.sync_data().unwrap();
}

/// The disk after the power went and nothing survived that was not synced.
fn cut(disk: &SimDisk) -> SimDisk {
    disk.power_cut_with(|_| 0)
}

fn check_refused(disk: &SimDisk) {
    disk.start_trace();
    let error = try_open(disk).map(drop).unwrap_err();
    assert!(
        matches!(&error, Error::NotAVolume(why) if why.contains("SUPER")),
        "{error}"
    );
    let read_only = Options {
        read_only: true,
        ..options()
    };
    let door = Arc::new(disk.clone());
    assert!(Volume::open_on(door, Arc::new(SimEnv::new(3)), read_only).is_err());
    let changes = disk.take_trace().into_iter();
    let changes: Vec<String> = changes.filter(|call| !call.contains("Sync")).collect();
    assert_eq!(changes, Vec::<String>::new(), "something was changed");
}

/// Has a slot be of a newer major version, as far as that says what all have.
fn make_newer(disk: &SimDisk, slot: usize) {
    let mut all = superblocks(disk);
    let bytes = &mut all[slot * SLOT..(slot + 1) * SLOT];
    bytes.fill(0xA7);
    bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
    bytes[4..8].copy_from_slice(&[2, 0, 3, 0]);
    let crc = crc32c(&[slot as u64], &bytes[..4092]);
    bytes[4092..].copy_from_slice(&crc.to_le_bytes());
    put_superblocks(disk, &all);
}

#[test]
fn a_volume_of_which_any_slot_is_of_a_newer_version_is_refused_and_not_touched() {
    for (slot, marked) in (0..4).flat_map(|slot| [(slot, false), (slot, true)]) {
        let disk = new_disk();
        let volume = open(&disk);
        create(&volume, "a");
        volume.close().unwrap();
        if marked {
            // As if what is there were left of a creation, with nothing else in SUPER.
            put_superblocks(&disk, &[0; 4 * SLOT]);
            let mark = Name::new(Dir::Root, "CREATING");
            disk.open(&mark, OpenHow::CreateNew).unwrap();
        }
        make_newer(&disk, slot);
        let before = disk.files();
        for read_only in [false, true] {
            let options = Options {
                read_only,
                ..options()
            };
            let door = Arc::new(disk.clone());
            let refused = Volume::open_on(door, Arc::new(SimEnv::new(3)), options);
            let error = refused.map(drop).unwrap_err();
            assert!(
                matches!(error, Error::NewerVersion(v) if v.major == 2),
                "{error}"
            );
            let told = error.to_string();
            assert!(told.contains("version 2.3") && told.contains("knows is 1.0"));
        }
        let (door, env) = (Arc::new(disk.clone()), Arc::new(SimEnv::new(4)));
        let created = Volume::create_on(door, env, &CreateOptions::from(&options()));
        assert!(matches!(created, Err(Error::Exists)));
        assert!(!super::is_free(&disk).unwrap());
        assert_eq!(disk.files(), before, "slot {slot}");
    }
}

#[test]
fn a_mount_stops_when_another_host_makes_the_volume_one_of_a_newer_version() {
    let (disk, env) = (new_disk(), Arc::new(SimEnv::new(2)));
    let volume = Volume::open_on(Arc::new(disk.clone()), env.clone(), options()).unwrap();
    create(&volume, "a");
    volume.sync().unwrap();
    make_newer(&disk, 0);
    env.advance(1_000_000_000);
    disk.start_trace();
    create(&volume, "b");
    let error = volume.sync().unwrap_err();
    assert!(
        matches!(&error, Error::Fenced(why) if why.contains("2.3")),
        "{error}"
    );
    assert!(volume.checkpoint().is_err());
    assert_eq!(disk.take_trace(), Vec::<String>::new());
}

#[test]
fn an_older_generation_is_refused_where_the_journal_names_a_newer_one() {
    let disk = new_disk();
    let volume = open(&disk);
    create(&volume, "a");
    volume.checkpoint().unwrap();
    let old = superblocks(&disk);
    // Nothing that the old generation needs goes: it would be opened, without "b" and "c".
    for name in ["b", "c"] {
        create(&volume, name);
        volume.checkpoint().unwrap();
    }
    create(&volume, "d");
    volume.sync().unwrap();
    let disk = cut(&disk);
    put_superblocks(&disk, &old);
    check_refused(&disk);
}

#[test]
fn an_older_generation_is_refused_where_a_manifest_is_of_a_newer_one() {
    let disk = new_disk();
    let volume = open(&disk);
    create(&volume, "a");
    volume.checkpoint().unwrap();
    let old = superblocks(&disk);
    for name in ["b", "c"] {
        create(&volume, name);
        volume.checkpoint().unwrap();
    }
    let disk = cut(&disk);
    put_superblocks(&disk, &old);
    check_refused(&disk);
}

/// The generation before the newest may be the one that the volume was closed with: it says where
/// the journal ended then, which is not where it ends now.
#[test]
fn what_was_done_after_a_clean_close_is_there_without_the_newest_superblock() {
    let disk = new_disk();
    let closed = superblocks(&disk);
    let volume = open(&disk);
    create(&volume, "a");
    volume.sync().unwrap();
    let disk = cut(&disk);
    put_superblocks(&disk, &closed);
    let volume = open(&disk);
    let damage = &volume.recovery_report().damage;
    assert!(
        damage.iter().any(|d| d.contains("generation")),
        "{damage:?}"
    );
    volume.lookup(Ino::ROOT, b"a").unwrap();
}

#[test]
fn the_generation_before_the_newest_gives_the_same_state_and_says_so() {
    let disk = new_disk();
    let volume = open(&disk);
    create(&volume, "a");
    volume.checkpoint().unwrap();
    let old = superblocks(&disk);
    create(&volume, "b");
    volume.checkpoint().unwrap();
    create(&volume, "c");
    volume.sync().unwrap();
    let disk = cut(&disk);
    put_superblocks(&disk, &old);
    let volume = open(&disk);
    for name in ["a", "b", "c"] {
        volume.lookup(Ino::ROOT, name.as_bytes()).unwrap();
    }
    let damage = &volume.recovery_report().damage;
    assert!(damage.iter().any(|d| d.contains("SUPER")), "{damage:?}");
    create(&volume, "d");
    volume.checkpoint().unwrap();
    volume.close().unwrap();
    let volume = open(&disk);
    assert!(volume.recovery_report().damage.is_empty());
    volume.lookup(Ino::ROOT, b"d").unwrap();
}

#[test]
fn inode_numbers_that_several_crashes_lost_are_not_given_out_again() {
    let mut disk = new_disk();
    let volume = open(&disk);
    create(&volume, "a");
    volume.sync().unwrap();
    let mut highest = create(&volume, "lost");
    drop(volume);
    for round in 0..4 {
        disk = cut(&disk);
        let volume = open(&disk);
        assert!(volume.lookup(Ino::ROOT, b"lost").is_err());
        let ino = create(&volume, "lost");
        assert!(ino > highest, "round {round}: {ino} after {highest}");
        highest = ino;
    }
    // Nor after a mount that gives out none and is closed in order.
    disk = cut(&disk);
    open(&disk).close().unwrap();
    let volume = open(&disk);
    assert!(volume.recovery_report().clean);
    assert!(create(&volume, "b") > highest);
    volume.close().unwrap();
    // Closing and opening skips none.
    let volume = open(&disk);
    let ino = create(&volume, "c");
    volume.close().unwrap();
    let volume = open(&disk);
    assert_eq!(create(&volume, "d"), ino.next());
}

#[test]
fn a_volume_whose_very_first_batch_is_damaged_is_refused_and_not_shown_empty() {
    let disk = new_disk();
    let volume = open(&disk);
    create(&volume, "a");
    volume.sync().unwrap();
    let disk = cut(&disk);
    // The first batch stands behind the header of the first file.
    assert!(disk.flip_bit(&Name::new(Dir::Journal, "J-0000"), 4096 + 100, 0));
    let error = try_open(&disk).map(drop).unwrap_err();
    assert!(matches!(error, Error::Corrupt(_)), "{error}");
    assert!(error.to_string().contains("J-0000"), "{error}");
}

/// Writes a file that never had a name, durably, and lets go of it.
fn come_and_go(volume: &Volume) {
    let node = NewNode::file(0o600);
    let ino = volume.create_unnamed(Ino::ROOT, &node).unwrap().ino;
    volume.pin(ino, 1);
    volume.write(ino, 0, &[7; 30_000]).unwrap();
    volume.sync().unwrap();
    volume.unpin(ino, 1);
    while volume.step(Step::Reap).unwrap() {}
}

/// The frames of such a file are of the next epoch, and nothing else is left of that.
fn check_snapshot_after(disk: &SimDisk) {
    let volume = open(disk);
    volume.lookup(Ino::ROOT, b"a").unwrap();
    let seen = volume.at_snapshot("s").unwrap();
    seen.lookup(Ino::ROOT, b"a").unwrap();
    volume.lookup(Ino::ROOT, b"b").unwrap();
    assert!(seen.lookup(Ino::ROOT, b"b").is_err());
    drop(seen);
    volume.rollback("s").unwrap();
    volume.lookup(Ino::ROOT, b"a").unwrap();
    assert!(volume.lookup(Ino::ROOT, b"b").is_err());
    volume.close().unwrap();
    let volume = open(disk);
    volume.lookup(Ino::ROOT, b"a").unwrap();
    volume
        .at_snapshot("s")
        .unwrap()
        .lookup(Ino::ROOT, b"a")
        .unwrap();
}

#[test]
fn a_snapshot_shows_what_was_frozen_though_a_nameless_file_came_and_went_before_a_crash() {
    let disk = new_disk();
    let volume = open(&disk);
    volume.checkpoint().unwrap();
    create(&volume, "a");
    // A checkpoint that does not come to its end.
    assert!(volume.inner.store.freeze(false).unwrap());
    come_and_go(&volume);
    volume.snapshot("s").unwrap();
    create(&volume, "b");
    volume.sync().unwrap();
    check_snapshot_after(&cut(&disk));
}

#[test]
fn the_generation_before_the_newest_shows_snapshots_as_they_were() {
    let disk = new_disk();
    let volume = open(&disk);
    volume.checkpoint().unwrap();
    let old = superblocks(&disk);
    create(&volume, "a");
    volume.checkpoint().unwrap();
    come_and_go(&volume);
    volume.snapshot("s").unwrap();
    create(&volume, "b");
    volume.sync().unwrap();
    let disk = cut(&disk);
    put_superblocks(&disk, &old);
    check_snapshot_after(&disk);
}

#[test]
fn a_snapshot_that_was_deleted_before_a_crash_is_released_though_nobody_writes() {
    let disk = new_disk();
    let volume = open(&disk);
    create(&volume, "a");
    volume.snapshot("s").unwrap();
    volume.checkpoint().unwrap();
    volume.delete_snapshot("s").unwrap();
    let options = Options {
        threads: true,
        ..options()
    };
    let volume = Volume::open_on(Arc::new(cut(&disk)), Arc::new(OsEnv), options).unwrap();
    let left = || volume.inner.store.version.load().timeline.snapshots().len();
    assert!((0..6000).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        left() == 0
    }));
    volume.close().unwrap();
}

/// It went to a part of the memtable that nobody sees.
#[test]
fn what_the_journal_has_of_a_branch_that_never_began_is_refused() {
    for branch in [Branch(1), Branch(7)] {
        let disk = new_disk();
        let volume = open(&disk);
        volume.create_branch("side").unwrap();
        let ino = create(&volume, "file");
        volume.sync().unwrap();
        let store = &volume.inner.store;
        store.journal_unchecked(&Mutation::Del {
            key: Key::inode(branch, ino),
        });
        let found = try_open(&cut(&disk)).map(drop).unwrap_err();
        assert!(matches!(found, Error::Corrupt(_)), "{found}");
        let found = found.to_string();
        let named = format!("of branch {branch}");
        assert!(found.contains("a branch that has begun"), "{found}");
        assert!(found.contains(&named), "{found}");
    }
}

/// A volume with a file `old` that a version has written which has a feature of its own.
fn of_a_later_version(set: Set, name: Option<&str>) -> SimDisk {
    let disk = new_disk();
    let volume = open(&disk);
    create(&volume, "old");
    volume.close().unwrap();
    let mut bytes = superblocks(&disk);
    for (slot, bytes) in bytes.chunks_mut(SLOT).enumerate() {
        let Ok(mut superblock) = Superblock::decode(slot, bytes) else {
            continue;
        };
        let Features {
            ro_compat,
            incompat,
            compat,
        } = &mut superblock.features;
        match set {
            Set::Compat => *compat |= 1 << 40,
            Set::RoCompat => *ro_compat |= 1 << 40,
            Set::Incompat => *incompat |= 1 << 40,
        }
        if let Some(name) = name {
            assert!(superblock.names.add(set, 40, name));
        }
        bytes.copy_from_slice(&superblock.encode(slot));
    }
    put_superblocks(&disk, &bytes);
    disk
}

#[test]
fn a_volume_with_an_unknown_incompatible_feature_is_refused_by_the_name_of_the_feature() {
    for (name, told) in [
        (Some("wider-inodes"), "feature `wider-inodes`;"),
        (None, "feature 0x10000000000;"),
    ] {
        let disk = of_a_later_version(Set::Incompat, name);
        let before = superblocks(&disk);
        let refused = try_open(&disk).err().unwrap().to_string();
        assert!(refused.contains(told), "{refused}");
        assert!(refused.contains("newer razorfs"), "{refused}");
        assert_eq!(superblocks(&disk), before);
    }
}

#[test]
fn a_volume_with_an_unknown_read_only_compatible_feature_can_be_read_and_is_not_written() {
    let disk = of_a_later_version(Set::RoCompat, Some("block-quota"));
    let before = superblocks(&disk);
    let volume = open(&disk);
    assert!(volume.lookup(Ino::ROOT, b"old").is_ok());
    let why = volume.info().read_only.unwrap();
    assert!(why.contains("feature `block-quota`"), "{why}");
    let refused = volume.create_node(Ino::ROOT, b"new", &NewNode::file(0o644));
    assert!(matches!(refused, Err(Error::ReadOnly(_))), "{refused:?}");
    volume.close().unwrap();
    assert_eq!(superblocks(&disk), before);
}

#[test]
fn a_volume_with_an_unknown_compatible_feature_is_written_and_the_name_of_it_stays() {
    let disk = of_a_later_version(Set::Compat, Some("thumbnails"));
    let volume = open(&disk);
    create(&volume, "new");
    volume.close().unwrap();
    for (slot, bytes) in superblocks(&disk).chunks(SLOT).enumerate() {
        let superblock = Superblock::decode(slot, bytes).unwrap();
        assert_eq!(superblock.features.compat, 1 << 40);
        assert_eq!(superblock.names.of(Set::Compat, 1 << 40), "`thumbnails`");
    }
}
