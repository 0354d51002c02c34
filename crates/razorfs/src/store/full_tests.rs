//! A full host: what is refused when it is written leaves the volume whole.

use std::sync::Arc;

use razorfs_disk::sim::{SimDisk, SimEnv, SimRng};
use razorfs_disk::{Dir, Disk, Name, OpenHow};
use razorfs_format::layout::FileName;

use crate::marks::{Mark, count};
use crate::{
    AllocateMode, CreateOptions, Durability, Error, Geometry, Ino, NewNode, Options, Result,
    SetAttributes, Step, Volume,
};

fn options() -> Options {
    let geometry = Geometry {
        reserve_bytes: 64 << 10,
        ..Geometry::tiny()
    };
    Options {
        geometry,
        compression: Some(crate::Compression::None),
        threads: false,
        ..Options::default()
    }
}

fn open(disk: &SimDisk) -> Volume {
    let (disk, env) = (Arc::new(disk.clone()), SimEnv::new(1));
    // So fast that the engine looks at the host's space again and again.
    env.set_tick(5_000_000);
    Volume::open_on(disk, Arc::new(env), options()).unwrap()
}

fn new_volume(disk: &SimDisk) -> Volume {
    let create = CreateOptions::from(&options());
    let env = Arc::new(SimEnv::new(1));
    Volume::create_on(Arc::new(disk.clone()), env, &create).unwrap();
    open(disk)
}

fn used(disk: &SimDisk) -> u64 {
    let pages = |len: u64| len.next_multiple_of(4096);
    disk.files().iter().map(|(_, len)| pages(*len)).sum()
}

fn bytes(n: u64) -> Vec<u8> {
    let mut bytes = vec![0; 60_000];
    SimRng::new(n).fill(&mut bytes);
    bytes
}

fn write(volume: &Volume, n: u64) -> Result<()> {
    let name = n.to_string();
    let node = NewNode::file(0o644);
    let ino = volume.create_node(Ino::ROOT, name.as_bytes(), &node)?.ino;
    volume.write(ino, 0, &bytes(n)).map(|_| ())
}

fn check(volume: &Volume, files: impl Iterator<Item = u64>) {
    for n in files {
        let name = n.to_string();
        let ino = volume.lookup(Ino::ROOT, name.as_bytes()).unwrap().ino;
        let mut found = vec![0; 60_000];
        assert_eq!(volume.read(ino, 0, &mut found).unwrap(), found.len());
        assert_eq!(found, bytes(n), "file {n}");
    }
}

fn upkeep(volume: &Volume) {
    for _ in 0..20 {
        let mut busy = false;
        for step in [Step::Commit, Step::Reap, Step::Grow, Step::Compact] {
            busy |= volume.step(step).unwrap();
        }
        if !busy {
            return;
        }
    }
}

/// Writes files until the host is full; answers how many are there.
fn fill(volume: &Volume, from: u64) -> u64 {
    for n in from.. {
        match write(volume, n) {
            Ok(()) => volume.sync().unwrap(),
            Err(Error::NoSpace) => return n,
            Err(e) => panic!("file {n}: {e}"),
        }
        if n % 16 == 0 {
            upkeep(volume);
        }
    }
    unreachable!("the host has an end");
}

#[test]
fn a_full_host_refuses_writes_and_deleting_frees_space() {
    let disk = SimDisk::new();
    let volume = new_volume(&disk);
    disk.set_capacity(Some(8 << 20));
    let mut first = 0;
    for _ in 0..3 {
        let end = fill(&volume, first);
        assert!(end > first + 20, "{first} to {end}");
        assert_eq!(volume.info().read_only, None);
        volume.sync().unwrap();
        check(&volume, first..end);
        // The name of the one that was refused may be there, its bytes are not.
        for n in first..=end {
            let gone = volume.unlink(Ino::ROOT, n.to_string().as_bytes());
            let files = disk.files();
            assert!(
                matches!(gone, Ok(()) | Err(Error::NotFound)),
                "{gone:?}, {} used: {files:?}",
                used(&disk)
            );
        }
        while volume.step(Step::Reap).unwrap() {}
        for _ in 0..3 {
            // What the thread does that a refused write wakes: space comes back with the second
            // generation, and whether one came before depends on how full the journal was.
            volume.inner.store.checkpoint_for_room().unwrap();
            volume
                .create_node(Ino::ROOT, b"x", &NewNode::file(0))
                .unwrap();
            volume.unlink(Ino::ROOT, b"x").unwrap();
            while volume.step(Step::Reap).unwrap() {}
        }
        first = end + 1;
    }
    let end = fill(&volume, first);
    volume.close().unwrap();
    let volume = open(&disk);
    check(&volume, first..end);
}

/// A copy of a journal file is gone, and the host has no room for another.
#[test]
fn a_full_host_has_room_for_a_copy_of_the_journal_in_the_ballast() {
    let disk = SimDisk::new();
    let options = Options {
        geometry: Geometry {
            reserve_bytes: 1 << 20,
            ..Geometry::tiny()
        },
        ..options()
    };
    let create = CreateOptions {
        journal_copies: 2,
        ..CreateOptions::from(&options)
    };
    let host = |disk: &SimDisk| Arc::new(disk.clone());
    let env = || Arc::new(SimEnv::new(1));
    Volume::create_on(host(&disk), env(), &create).unwrap();
    let volume = Volume::open_on(host(&disk), env(), options.clone()).unwrap();
    for n in 0..100 {
        write(&volume, n).unwrap();
        volume.checkpoint().unwrap();
    }
    upkeep(&volume);
    write(&volume, 100).unwrap();
    volume.sync().unwrap();
    drop(volume);
    let disk = disk.after_cut_with(|_| 0);
    let reserve = Name::new(Dir::Root, &FileName::Reserve.leaf());
    let held = |disk: &SimDisk| {
        let found = disk.files().into_iter().find(|(name, _)| *name == reserve);
        found.map(|(_, len)| len).unwrap()
    };
    assert!(held(&disk) >= 1 << 20, "{}", held(&disk));
    let twin = Name::new(Dir::Journal, &FileName::JournalTwin(0).leaf());
    disk.remove(&twin).unwrap();
    disk.sync_dir(Dir::Journal).unwrap();
    disk.set_capacity(Some(1 << 40));
    let taken = (1 << 40) - disk.space().unwrap().free;
    disk.set_capacity(Some(taken));
    let before = count(Mark::RecoveryBallast);
    let volume = Volume::open_on(host(&disk), env(), options).unwrap();
    assert!(count(Mark::RecoveryBallast) > before);
    assert!(volume.info().read_only.is_none());
    check(&volume, 0..101);
    assert_eq!(held(&disk), 0);
}

#[test]
fn a_batch_that_the_host_has_no_room_for_is_held_until_it_has() {
    let disk = SimDisk::new();
    let volume = new_volume(&disk);
    write(&volume, 0).unwrap();
    volume.sync().unwrap();
    volume.checkpoint().unwrap();
    for n in 1..6 {
        write(&volume, n).unwrap();
    }
    // Somebody else fills the host between the write and the sync.
    disk.set_capacity(Some(used(&disk)));
    for _ in 0..3 {
        assert!(matches!(volume.sync(), Err(Error::NoSpace)));
        assert!(matches!(volume.checkpoint(), Err(Error::NoSpace)));
    }
    check(&volume, 0..6);
    assert!(matches!(write(&volume, 6), Err(Error::NoSpace)));
    let _ = volume.unlink(Ino::ROOT, b"6");
    // What was acknowledged is there if the power goes now, and nothing else is.
    check(&open(&disk.after_cut_with(|_| 0)), 0..1);
    disk.set_capacity(None);
    volume.sync().unwrap();
    check(&open(&disk.after_cut_with(|_| 0)), 0..6);
    volume.checkpoint().unwrap();
    volume.close().unwrap();
    check(&open(&disk), 0..6);
}

/// So slow that what others do to the host is seen late.
fn in_mode_sync(disk: &SimDisk) -> Volume {
    new_volume(disk).close().unwrap();
    let options = Options {
        durability: Durability::Sync,
        ..options()
    };
    let env = Arc::new(SimEnv::new(1));
    Volume::open_on(Arc::new(disk.clone()), env, options).unwrap()
}

/// A program appends to a file while others fill the host: the one call during which that shows is
/// told that its change is not durable; those after it are refused before they change anything.
#[test]
fn in_mode_sync_only_the_call_that_found_the_host_full_shows_what_it_did() {
    let disk = SimDisk::new();
    let volume = in_mode_sync(&disk);
    let node = NewNode::file(0o644);
    let ino = volume.create_node(Ino::ROOT, b"a", &node).unwrap().ino;
    disk.set_capacity(Some(used(&disk)));
    let failed = |result: Result<()>| assert!(matches!(result, Err(Error::NoSpace)), "{result:?}");
    failed(volume.write(ino, 0, &bytes(1)).map(|_| ()));
    let size = volume.stat(ino).unwrap().size;
    for _ in 0..3 {
        failed(volume.create_node(Ino::ROOT, b"b", &node).map(|_| ()));
        assert!(matches!(
            volume.lookup(Ino::ROOT, b"b"),
            Err(Error::NotFound)
        ));
        failed(volume.unlink(Ino::ROOT, b"a"));
        volume.lookup(Ino::ROOT, b"a").unwrap();
        failed(volume.write(ino, 100_000, b"more").map(|_| ()));
        assert_eq!(volume.stat(ino).unwrap().size, size);
    }
    disk.set_capacity(None);
    volume.create_node(Ino::ROOT, b"b", &node).unwrap();
    drop(volume);
    let volume = open(&disk.power_cut(&mut SimRng::new(1)));
    assert_eq!(volume.stat(ino).unwrap().size, size);
    volume.lookup(Ino::ROOT, b"b").unwrap();
}

#[test]
fn the_ballast_grows_with_the_volume_and_is_given_back_when_the_host_is_full() {
    let disk = SimDisk::new();
    let volume = new_volume(&disk);
    let reserve = |disk: &SimDisk| {
        let files = disk.files();
        let found = files.iter().find(|(name, _)| &*name.leaf == "RESERVE");
        found.map_or(0, |(_, len)| *len)
    };
    upkeep(&volume);
    assert_eq!(reserve(&disk), 0, "a new volume has none");
    for n in 0..10 {
        write(&volume, n).unwrap();
    }
    volume.checkpoint().unwrap();
    upkeep(&volume);
    assert_eq!(reserve(&disk), 64 << 10);
    write(&volume, 10).unwrap();
    disk.set_capacity(Some(used(&disk) + (4 << 10)));
    volume.sync().unwrap();
    assert_eq!(reserve(&disk), 0);
    check(&volume, 0..11);
    disk.set_capacity(None);
    volume.checkpoint().unwrap();
    upkeep(&volume);
    assert_eq!(reserve(&disk), 64 << 10, "it comes back");
}

#[test]
fn a_checkpoint_that_fails_on_a_full_host_leaves_no_files_behind() {
    let disk = SimDisk::new();
    let volume = new_volume(&disk);
    write(&volume, 0).unwrap();
    volume.sync().unwrap();
    let before = disk.files().len();
    for call in 0..40 {
        disk.enospc_at(disk.op_count() + call);
        let done = volume.checkpoint();
        assert!(matches!(done, Ok(()) | Err(Error::NoSpace)), "{done:?}");
        disk.clear_faults();
        let name = format!("more{call}");
        volume
            .create_node(Ino::ROOT, name.as_bytes(), &NewNode::file(0))
            .unwrap();
        volume.sync().unwrap();
    }
    volume.checkpoint().unwrap();
    volume.close().unwrap();
    let segments = disk.files().len();
    let volume = open(&disk);
    check(&volume, 0..1);
    drop(volume);
    // Opening removes what no generation names: there was at most what waits for a generation.
    assert!(segments <= before + 60);
}

#[test]
fn a_superblock_that_seemed_to_fail_names_what_stays_what_it_was() {
    // Every call of a checkpoint fails once as on a full host; then the checkpoint is tried again
    // and cut off at every call of the second try.
    let image = {
        let disk = SimDisk::new();
        let volume = new_volume(&disk);
        write(&volume, 0).unwrap();
        volume.close().unwrap();
        disk.image()
    };
    for short in 0..40 {
        for cut in (0..40).step_by(3) {
            let disk = SimDisk::from_image(&image);
            let volume = open(&disk);
            write(&volume, 1).unwrap();
            volume.sync().unwrap();
            // The bytes get there, and the call fails all the same.
            disk.short_write_at(disk.counts().writes + short, 1 << 20);
            if volume.checkpoint().is_ok() {
                break;
            }
            disk.clear_faults();
            write(&volume, 2).unwrap();
            volume.sync().unwrap();
            disk.cut_after(disk.op_count() + cut);
            let done = volume.checkpoint().is_ok();
            let after = disk.power_cut(&mut SimRng::new(cut));
            drop(volume);
            let volume = open(&after);
            assert_eq!(volume.info().read_only, None, "write {short}, cut {cut}");
            check(&volume, 0..3);
            if done {
                break;
            }
        }
    }
}

#[test]
fn reserving_more_than_there_is_room_for_is_refused_not_counted() {
    let volume = Volume::for_tests(Options::default());
    let node = NewNode::file(0o644);
    let ino = volume.create_node(Ino::ROOT, b"f", &node).unwrap().ino;
    let huge = i64::MAX as u64 - 4096;
    let refused = volume.allocate(ino, AllocateMode::KeepSize, 0, huge);
    assert!(matches!(refused, Err(Error::NoSpace)), "{refused:?}");
    volume.write(ino, 0, b"and there is room for this").unwrap();
}

#[test]
fn many_holes_in_one_batch_do_not_make_it_too_large_for_the_journal() {
    let disk = SimDisk::new();
    let volume = new_volume(&disk);
    let node = NewNode::file(0o644);
    let ino = volume.create_node(Ino::ROOT, b"f", &node).unwrap().ino;
    let mut model = vec![7; 250_000];
    volume.write(ino, 0, &model).unwrap();
    for at in (1000..249_000).step_by(2000) {
        let hole = at as u64..at as u64 + 50;
        volume
            .allocate(ino, AllocateMode::PunchHole, hole.start, 50)
            .unwrap();
        model[at..at + 50].fill(0);
    }
    volume.sync().unwrap();
    let cut = disk.after_cut_with(|_| 0);
    for volume in [volume, open(&cut)] {
        let mut found = vec![1; model.len()];
        volume.read(ino, 0, &mut found).unwrap();
        assert!(found == model);
        let set = SetAttributes {
            size: Some(0),
            ..SetAttributes::default()
        };
        volume.set_attributes(ino, &set).unwrap();
    }
}

/// The bytes of all packs that are not zero.
fn in_packs(disk: &SimDisk) -> u64 {
    let packs = disk.list(Dir::Pack).unwrap().into_iter();
    let count = packs.map(|name| {
        let file = disk.open(&name, OpenHow::Read).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
        bytes.iter().filter(|b| **b != 0).count() as u64
    });
    count.sum()
}

#[test]
fn what_was_deleted_before_the_volume_was_opened_is_given_back_after_it() {
    let disk = SimDisk::new();
    let volume = new_volume(&disk);
    for n in 0..8 {
        write(&volume, n).unwrap();
        volume.sync().unwrap();
    }
    volume.checkpoint().unwrap();
    for n in [0, 1, 4, 5] {
        volume.unlink(Ino::ROOT, n.to_string().as_bytes()).unwrap();
    }
    upkeep(&volume);
    volume.close().unwrap();
    let before = in_packs(&disk);
    let volume = open(&disk);
    upkeep(&volume);
    assert_eq!(in_packs(&disk), before, "the generation before needs it");
    volume
        .create_node(Ino::ROOT, b"8", &NewNode::file(0o644))
        .unwrap();
    volume.checkpoint().unwrap();
    // Of the pack that is full; the other one is gone on with.
    assert!(in_packs(&disk) < before - 100_000);
    check(&volume, [2, 3, 6, 7].into_iter());
    volume.close().unwrap();
    check(&open(&disk), [2, 3, 6, 7].into_iter());
}
