//! What a repair keeps of snapshots, and what it puts beside of them.

use crate::common::forge::{manifest, name_of, superblock};
use crate::common::{
    Rng, assert_clean, check_disk, create, create_file, image_of, numbers, open, read, settle,
};
use razorfs::{Ino, RenameMode, SetAttributes, Step, Volume, XattrMode};
use razorfs_disk::sim::{SimDisk, SimEnv};
use razorfs_format::key::Tag;
use razorfs_format::layout::FileName;
use razorfs_format::pack::{Depth, HEADER_LEN, Scanned, scan_frames};
use razorfs_verify::{Lose, Outcome, RepairOptions, Severity, repair};

const SIZE: usize = 60_000;

fn data(seed: u64) -> Vec<u8> {
    Rng(seed).bytes(SIZE)
}

/// Writes a file and takes a snapshot, so often; each time all of it is other data.
fn written(times: u64) -> (SimDisk, SimEnv, Ino) {
    let (disk, env) = (SimDisk::new(), SimEnv::new(1));
    create(&disk, &env);
    let v = open(&disk, &env);
    let file = create_file(&v, "file");
    v.set_xattr(file, b"user.note", b"old", XattrMode::Set)
        .unwrap();
    create_file(&v, "other");
    for n in 0..times {
        v.write(file, 0, &data(n)).unwrap();
        v.step(Step::Checkpoint).unwrap();
        v.snapshot(format!("s{n}").as_str()).unwrap();
    }
    v.write(file, 0, &data(times)).unwrap();
    settle(&v);
    v.close().unwrap();
    (disk, env, file)
}

/// Flips a bit in the frame of a file that was written as the `n`th.
fn hurt(disk: &SimDisk, file: Ino, n: usize) {
    let image = image_of(disk);
    let newest = superblock(&image);
    let mut frames = Vec::new();
    for pack in manifest(&image, &newest).packs {
        let name = name_of(FileName::Pack(pack.id));
        let bytes = image.bytes(&name).unwrap();
        let mut read = |buf: &mut [u8], at: u64| -> Result<usize, std::convert::Infallible> {
            let rest = &bytes[(at as usize).min(bytes.len())..];
            let len = rest.len().min(buf.len());
            buf[..len].copy_from_slice(&rest[..len]);
            Ok(len)
        };
        let Ok(()) = scan_frames(
            &mut read,
            newest.vid(),
            pack.id,
            HEADER_LEN..pack.len,
            Depth::Headers,
            &mut |met| {
                if let Scanned::Frame { pos, header, .. } = met
                    && header.identity.ino == file
                {
                    frames.push((header.identity.birth, name.clone(), pos));
                }
                std::ops::ControlFlow::Continue(())
            },
        );
    }
    frames.sort();
    let (_, name, pos) = &frames[n];
    assert!(disk.flip_bit(name, pos + 20_000, 3));
}

fn run(disk: &SimDisk, commit: bool) -> Outcome {
    let options = RepairOptions {
        commit,
        ..RepairOptions::default()
    };
    repair(disk, &SimEnv::new(9), &options, &mut |_| true).unwrap()
}

fn remove_file(disk: &SimDisk, file: FileName) {
    let mut image = disk.image();
    assert!(image.remove(&name_of(file)));
    disk.restore(&image);
}

/// Repairs. A dry run tells the same.
fn repaired(disk: &SimDisk) -> Outcome {
    let (dry, done) = (run(disk, false), run(disk, true));
    assert_eq!(
        (&dry.losses, &dry.snapshots, &dry.olders),
        (&done.losses, &done.snapshots, &done.olders)
    );
    assert!(check_disk(disk, 4).is_sound());
    assert!(!run(disk, true).needed);
    done
}

fn at(v: &Volume, snapshot: &str, file: Ino) -> Vec<u8> {
    read(&v.at_snapshot(snapshot).unwrap(), file)
}

/// Deletes the snapshots, and gives back what they held.
fn delete_all(v: &Volume) {
    for snapshot in v.snapshots() {
        v.delete_snapshot(&snapshot.name).unwrap();
    }
    while v.step(Step::Release).unwrap() {}
    assert!(v.snapshots().is_empty());
}

#[test]
fn what_the_present_alone_has_lost_is_put_beside_as_the_snapshot_shows_it() {
    let (disk, env, file) = written(2);
    hurt(&disk, file, 2);
    let done = repaired(&disk);
    assert!(
        done.losses
            .iter()
            .all(|l| l.what == Lose::Data && l.ino == file)
    );
    assert!(!done.losses.is_empty());
    let kept = |s: &razorfs_verify::Shown| s.kept && s.losses.is_empty();
    assert!(done.snapshots.iter().all(kept), "{done:#?}");
    let names: Vec<&str> = done.snapshots.iter().map(|s| &*s.name).collect();
    assert_eq!(names, ["s0", "s1"]);
    let [older] = &done.olders[..] else {
        panic!("{done:#?}");
    };
    assert_eq!((older.ino, older.of, &*older.snapshot), (file, file, "s1"));
    assert_eq!(older.path.as_deref(), Some("/file"));
    let path = format!("/lost+found/#{file}@s1");
    assert_eq!(older.shown_at, Some(path.clone()));
    let v = open(&disk, &env);
    let beside = v.find_by_path(path.as_bytes()).unwrap();
    let stat = v.stat(beside).unwrap();
    assert_eq!((beside, stat.nlink), (older.shown_by, 1));
    assert_eq!(v.get_xattr(beside, b"user.note").unwrap()[..], *b"old");
    let check = |v: &Volume| assert!(read(v, beside) == data(1));
    check(&v);
    assert!(at(&v, "s0", file) == data(0) && at(&v, "s1", file) == data(1));
    // It does not hang on the snapshot.
    delete_all(&v);
    settle(&v);
    check(&v);
    v.close().unwrap();
    assert_clean_but_for_dead(&disk);
    // Nor does its space stay when it is removed.
    let v = open(&disk, &env);
    let dir = v.find_by_path(b"/lost+found").unwrap();
    v.unlink(dir, format!("#{file}@s1").as_bytes()).unwrap();
    while v.step(Step::Reap).unwrap() {}
    settle(&v);
    v.close().unwrap();
    assert_clean_but_for_dead(&disk);
}

#[test]
fn a_file_that_took_the_name_of_another_one_has_that_as_its_older_version() {
    let (disk, env, old) = written(1);
    let v = open(&disk, &env);
    let new = create_file(&v, "new");
    v.write(new, 0, &data(7)).unwrap();
    let replace = RenameMode::Replace;
    v.rename(Ino::ROOT, b"new", Ino::ROOT, b"file", replace)
        .unwrap();
    while v.step(Step::Reap).unwrap() {}
    settle(&v);
    v.close().unwrap();
    hurt(&disk, new, 0);
    let done = repaired(&disk);
    let [older] = &done.olders[..] else {
        panic!("{done:#?}");
    };
    assert_eq!((older.ino, older.of), (new, old));
    assert_eq!(older.shown_at, Some(format!("/lost+found/#{new}@s0")));
    let v = open(&disk, &env);
    assert!(read(&v, older.shown_by) == data(0));
    delete_all(&v);
    settle(&v);
    assert!(read(&v, older.shown_by) == data(0));
    v.close().unwrap();
    assert_clean_but_for_dead(&disk);
}

/// What was damaged is dead now, and stays damaged.
fn assert_clean_but_for_dead(disk: &SimDisk) {
    let report = check_disk(disk, 4);
    let bad = report
        .findings
        .iter()
        .filter(|f| f.severity > Severity::Note);
    let others = bad.filter(|f| f.number != 606);
    let others: Vec<String> = others.map(ToString::to_string).collect();
    assert!(others.is_empty(), "{others:#?}");
}

#[test]
fn data_that_snapshots_alone_show_are_lost_in_these_and_nowhere_else() {
    let (disk, env, file) = written(3);
    hurt(&disk, file, 1);
    let done = repaired(&disk);
    assert!(done.losses.is_empty() && done.olders.is_empty() && !done.is_lossless());
    let losses: Vec<usize> = done.snapshots.iter().map(|s| s.losses.len()).collect();
    assert_eq!(losses, [0, 1, 0]);
    let lost = &done.snapshots[1].losses[0];
    assert_eq!((lost.what, lost.ino), (Lose::Data, file));
    let v = open(&disk, &env);
    let mut expected = data(1);
    let range = lost.range.clone().unwrap();
    expected[range.start as usize..range.end as usize].fill(0);
    assert!(at(&v, "s1", file) == expected);
    assert!(at(&v, "s0", file) == data(0) && at(&v, "s2", file) == data(2));
    assert!(read(&v, file) == data(3));
    v.rollback("s1").unwrap();
    assert!(read(&v, file) == expected);
    delete_all(&v);
    v.close().unwrap();
    assert_clean_but_for_dead(&disk);
}

#[test]
fn the_newest_snapshot_that_shows_a_file_whole_is_the_one_it_is_taken_from() {
    let (disk, env, file) = written(3);
    // The newest snapshot, and the present.
    hurt(&disk, file, 2);
    hurt(&disk, file, 3);
    let done = repaired(&disk);
    let [older] = &done.olders[..] else {
        panic!("{done:#?}");
    };
    assert_eq!(&*older.snapshot, "s1");
    let v = open(&disk, &env);
    assert!(read(&v, older.shown_by) == data(1));
    // It goes as a whole when it is removed, and so does what the snapshot alone held.
    let dir = v.find_by_path(b"/lost+found").unwrap();
    v.unlink(dir, format!("#{file}@s1").as_bytes()).unwrap();
    while v.step(Step::Reap).unwrap() {}
    settle(&v);
    v.delete_snapshot("s1").unwrap();
    while v.step(Step::Release).unwrap() {}
    v.close().unwrap();
    assert_clean_but_for_dead(&disk);
}

#[test]
fn a_lost_record_of_the_present_leaves_the_snapshot_as_it_was() {
    let (disk, env, file) = written(1);
    let v = open(&disk, &env);
    set_size(&v, file, 100);
    v.step(Step::Checkpoint).unwrap();
    settle(&v);
    v.close().unwrap();
    // All inodes of the runs that came after the snapshot.
    let image = image_of(&disk);
    let manifest = manifest(&image, &superblock(&image));
    let taken = manifest.timeline.snapshots()[0].epoch;
    let young =
        |m: &&razorfs_format::manifest::SegmentMeta| m.tag == Tag::Inode && m.epoch_min > taken;
    let young: Vec<_> = manifest.segments.iter().filter(young).collect();
    assert!(!young.is_empty());
    for meta in young {
        remove_file(&disk, FileName::Segment(meta.id));
    }
    let done = repaired(&disk);
    assert!(
        done.losses
            .iter()
            .any(|l| l.what == Lose::Old && l.ino == file)
    );
    assert!(done.snapshots[0].losses.is_empty());
    let v = open(&disk, &env);
    assert!(at(&v, "s0", file) == data(0));
    v.close().unwrap();
    assert_clean(&check_disk(&disk, 4));
}

fn set_size(v: &Volume, file: Ino, size: u64) {
    let set = SetAttributes {
        size: Some(size),
        ..SetAttributes::default()
    };
    v.set_attributes(file, &set).unwrap();
}

#[test]
fn what_lies_beyond_an_older_size_in_a_snapshot_stays_as_the_present_shows_it() {
    let (disk, env) = (SimDisk::new(), SimEnv::new(1));
    create(&disk, &env);
    let v = open(&disk, &env);
    let file = create_file(&v, "file");
    v.write(file, 0, b"short").unwrap();
    v.step(Step::Checkpoint).unwrap();
    v.snapshot("short").unwrap();
    v.write(file, 0, &data(1)).unwrap();
    v.step(Step::Checkpoint).unwrap();
    v.snapshot("long").unwrap();
    // Another record of the inode.
    v.set_xattr(file, b"user.note", b"new", XattrMode::Set)
        .unwrap();
    v.step(Step::Checkpoint).unwrap();
    v.close().unwrap();
    let image = image_of(&disk);
    let manifest = manifest(&image, &superblock(&image));
    let epochs: Vec<_> = manifest
        .timeline
        .snapshots()
        .iter()
        .map(|s| s.epoch)
        .collect();
    let of_long = |m: &&razorfs_format::manifest::SegmentMeta| {
        m.tag == Tag::Inode && m.epoch_min > epochs[0] && m.epoch_max <= epochs[1]
    };
    let of_long: Vec<_> = manifest.segments.iter().filter(of_long).collect();
    assert!(!of_long.is_empty());
    for meta in of_long {
        remove_file(&disk, FileName::Segment(meta.id));
    }
    let done = repaired(&disk);
    let losses: Vec<bool> = done.snapshots.iter().map(|s| s.losses.is_empty()).collect();
    assert_eq!(losses, [true, false], "{done:#?}");
    let v = open(&disk, &env);
    assert!(at(&v, "long", file) == data(1) && at(&v, "short", file) == b"short");
    assert!(read(&v, file) == data(1));
    // What the present lets go of now is still held by the one that shows it.
    set_size(&v, file, 0);
    settle(&v);
    assert!(at(&v, "long", file) == data(1));
    v.close().unwrap();
    assert_clean(&check_disk(&disk, 4));
}

#[test]
fn a_table_of_what_is_held_that_is_damaged_is_counted_again() {
    let (disk, env, file) = written(3);
    let image = image_of(&disk);
    let manifest = manifest(&image, &superblock(&image));
    let held = manifest.segments.iter().filter(|m| m.tag == Tag::Held);
    let held: Vec<_> = held.map(|m| name_of(FileName::Segment(m.id))).collect();
    assert!(!held.is_empty());
    for name in held {
        assert!(disk.flip_bit(&name, 80, 3));
    }
    let done = repaired(&disk);
    assert!(done.is_lossless(), "{done:#?}");
    let v = open(&disk, &env);
    for n in 0..3 {
        assert!(at(&v, &format!("s{n}"), file) == data(n));
    }
    v.delete_snapshot("s1").unwrap();
    while v.step(Step::Release).unwrap() {}
    v.close().unwrap();
    assert_clean(&check_disk(&disk, 4));
    let v = open(&disk, &env);
    assert!(at(&v, "s0", file) == data(0) && at(&v, "s2", file) == data(2));
    v.close().unwrap();
}

#[test]
fn without_a_superblock_snapshots_show_the_same() {
    let (disk, env, file) = written(2);
    let v = open(&disk, &env);
    v.rollback("s0").unwrap();
    v.write(file, 0, b"another way").unwrap();
    v.close().unwrap();
    let names = |v: &Volume| -> Vec<String> { v.snapshots().into_iter().map(|s| s.name).collect() };
    let v = open(&disk, &env);
    let (before, safety) = (names(&v), names(&v).pop().unwrap());
    v.close().unwrap();
    remove_file(&disk, FileName::Super);
    let done = repaired(&disk);
    assert!(done.rekeyed && done.snapshots.iter().all(|s| s.kept && s.losses.is_empty()));
    let v = open(&disk, &env);
    assert_eq!(names(&v), before);
    assert!(at(&v, "s1", file) == data(1) && at(&v, &safety, file) == data(2));
    let view = v.at_snapshot("s1").unwrap();
    assert_eq!(view.lookup(Ino::ROOT, b"file").unwrap().ino, file);
    drop(view);
    v.rollback(&safety).unwrap();
    assert_eq!(v.lookup(Ino::ROOT, b"file").unwrap().ino, file);
    assert!(read(&v, file) == data(2));
    delete_all(&v);
    v.close().unwrap();
    assert_clean(&check_disk(&disk, 4));
}

/// A branch could be written to while its volume is not whole; what it has is not lost for that.
#[test]
fn what_a_branch_has_is_a_snapshot_of_its_name_after_a_repair() {
    let (disk, env, file) = written(2);
    let v = open(&disk, &env);
    for name in ["idle", "busy"] {
        v.create_branch(name).unwrap();
    }
    let busy = v.branch("busy").unwrap();
    busy.write(file, 0, &data(77)).unwrap();
    create_file(&busy, "new");
    v.write(file, 0, &data(78)).unwrap();
    v.step(Step::Checkpoint).unwrap();
    busy.write(file, 0, &data(79)).unwrap();
    v.sync().unwrap();
    drop(busy);
    let image = image_of(&disk);
    drop(v);
    let disk = SimDisk::from_image(&image);
    // Of the present, as the last frame that was written.
    hurt(&disk, file, 0);
    let told = run(&disk, true);
    assert_eq!(told.branches, ["idle", "busy"]);
    // The frame that was hurt is nobody's now.
    let left = |report| numbers(&report).iter().all(|n| [207, 606].contains(n));
    assert!(left(check_disk(&disk, 4)), "{}", told_of(&disk));
    let v = open(&disk, &env);
    assert!(v.branches().is_empty());
    let at = v.at_snapshot("busy").unwrap();
    assert!(read(&at, file) == data(79));
    assert!(at.find_by_path(b"/new").is_ok() && v.find_by_path(b"/new").is_err());
    assert!(read(&v, file) == data(78));
    let idle = v.at_snapshot("idle").unwrap();
    assert!(read(&idle, file) == data(2));
    // And it can go on.
    at.create_branch("again").unwrap();
    let again = v.branch("again").unwrap();
    again.write(file, 0, b"on").unwrap();
    settle(&v);
    drop((at, idle, again));
    v.close().unwrap();
    assert!(left(check_disk(&disk, 4)), "{}", told_of(&disk));
}

fn told_of(disk: &SimDisk) -> String {
    crate::common::told(&check_disk(disk, 4))
}
