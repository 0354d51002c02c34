//! What a repair keeps of snapshots, and what it puts beside of them; and that a check tells which
//! files are hit by what a repair would lose.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::common::forge::{manifest, name_of, superblock};
use crate::common::{
    Rng, assert_clean, check_disk, create, create_file, files, image_of, numbers, open, read,
    settle, try_open,
};
use razorfs::{
    CreateOptions, FileKind, Geometry, Ino, RenameMode, SetAttributes, Step, Volume, XattrMode,
};
use razorfs_disk::sim::{SimDisk, SimEnv};
use razorfs_format::key::Tag;
use razorfs_format::layout::FileName;
use razorfs_format::pack::{Depth, HEADER_LEN, Scanned, scan_frames};
use razorfs_verify::{Hit, Lose, Outcome, RepairOptions, Severity, files_hit, repair};

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

/// Which files a check of this level tells to be hit.
fn hit(disk: &SimDisk, level: u8) -> Option<Hit> {
    let report = check_disk(disk, level);
    files_hit(disk, &report, &mut |_| ()).unwrap()
}

/// The same, which is what a repair would lose.
fn hit_by_data(disk: &SimDisk) -> Hit {
    let (hit, dry) = (hit(disk, 3).unwrap(), run(disk, false));
    assert_eq!(hit.untold, None);
    assert_eq!(
        (&hit.losses, hit.more_losses),
        (&dry.losses, dry.more_losses)
    );
    let lost: Vec<_> = dry
        .snapshots
        .into_iter()
        .filter(|s| !s.losses.is_empty())
        .collect();
    assert_eq!(hit.moments, lost);
    // No data were read, so nothing is known.
    assert!(self::hit(disk, 2).is_none());
    hit
}

#[test]
fn a_check_tells_which_bytes_of_which_file_are_damaged_and_in_which_snapshot() {
    let (disk, _, file) = written(2);
    assert!(hit(&disk, 4).is_none());
    let is_piece = |losses: &[razorfs_verify::Loss]| {
        let told: Vec<String> = losses.iter().map(ToString::to_string).collect();
        let expected = "/file (inode 16): bytes 16384 to 32768: data are lost, and read as zeros";
        assert_eq!(told, [expected]);
    };
    // What a snapshot alone shows is not dead.
    let alone = SimDisk::from_image(&image_of(&disk));
    hurt(&alone, file, 1);
    let of_past = hit_by_data(&alone);
    assert!(of_past.losses.is_empty());
    assert_eq!(
        (&*of_past.moments[0].name, of_past.moments.len()),
        ("s1", 1)
    );
    is_piece(&of_past.moments[0].losses);
    hurt(&disk, file, 2);
    let of_present = hit_by_data(&disk);
    is_piece(&of_present.losses);
    assert!(of_present.moments.is_empty() && of_present.is_any());
    hurt(&disk, file, 0);
    let of_both = hit_by_data(&disk);
    is_piece(&of_both.losses);
    let moments: Vec<&str> = of_both.moments.iter().map(|m| &*m.name).collect();
    assert_eq!((moments, &of_both.branches), (vec!["s0"], &Vec::new()));
    is_piece(&of_both.moments[0].losses);
}

#[test]
fn a_check_tells_of_what_is_damaged_in_a_branch() {
    let (disk, env, file) = written(1);
    let v = open(&disk, &env);
    v.create_branch("busy").unwrap();
    let busy = v.branch("busy").unwrap();
    busy.write(file, 0, &data(79)).unwrap();
    settle(&v);
    drop(busy);
    v.close().unwrap();
    // The branch's is the last one that was written.
    hurt(&disk, file, 2);
    let hit = hit_by_data(&disk);
    assert!(hit.losses.is_empty());
    assert_eq!(hit.branches, ["busy"]);
    let moments: Vec<_> = hit
        .moments
        .iter()
        .map(|m| (&*m.name, m.losses.len()))
        .collect();
    assert_eq!(moments, [("busy", 1)]);
}

#[test]
fn a_check_without_data_tells_which_files_damaged_metadata_hit() {
    let (disk, _, _) = written(1);
    let image = image_of(&disk);
    let segments = manifest(&image, &superblock(&image)).segments;
    for segment in segments.iter().filter(|s| s.tag == Tag::Extent) {
        assert!(disk.flip_bit(&name_of(FileName::Segment(segment.id)), 80, 3));
    }
    let hit = hit(&disk, 1).unwrap();
    let is_file = |l: &razorfs_verify::Loss| l.path.as_deref() == Some("/file");
    assert!(!hit.losses.is_empty() && hit.losses.iter().all(is_file));
    assert!(hit.losses.iter().all(|l| l.what == Lose::Unsure));
    assert_eq!(hit.losses, run(&disk, false).losses);
}

#[test]
fn so_many_files_are_named_and_the_others_counted() {
    let (disk, env) = (SimDisk::new(), SimEnv::new(1));
    create(&disk, &env);
    let v = open(&disk, &env);
    for n in 0..1100 {
        let file = create_file(&v, &format!("file{n}"));
        v.write(file, 0, &Rng(n).bytes(3000)).unwrap();
    }
    v.close().unwrap();
    for (pack, _) in files(&image_of(&disk), razorfs_disk::Dir::Pack) {
        let mut image = disk.image();
        assert!(image.remove(&pack));
        disk.restore(&image);
    }
    for level in [1, 3] {
        let hit = hit(&disk, level).unwrap();
        assert_eq!(
            (hit.losses.len(), hit.more_losses),
            (1000, 100),
            "level {level}"
        );
        assert!(
            hit.losses
                .iter()
                .all(|l| l.what == Lose::Data && l.range == Some(0..3000))
        );
    }
}

/// What all files show; of each that cannot be read, or is in a directory that cannot be, nothing.
fn contents(v: &Volume) -> BTreeMap<Ino, Option<Vec<u8>>> {
    let (mut dirs, mut all) = (vec![Ino::ROOT], BTreeMap::new());
    while let Some(dir) = dirs.pop() {
        let mut found = Vec::new();
        let listed = v.collect_children(dir, 0, &mut |e| {
            found.push((e.ino, e.kind));
            true
        });
        if listed.is_err() {
            all.insert(dir, None);
        }
        for (ino, kind) in found {
            if kind == FileKind::Directory {
                dirs.push(ino);
            } else if kind == FileKind::Regular {
                let mut bytes = v
                    .stat(ino)
                    .map_or(vec![0], |stat| vec![0; stat.size as usize]);
                let is_read = v.stat(ino).is_ok() && v.read(ino, 0, &mut bytes).is_ok();
                all.insert(ino, is_read.then_some(bytes));
            }
        }
    }
    all
}

#[test]
fn a_check_tells_of_each_file_that_cannot_be_read_and_would_not_come_back() {
    let show = |disk: &SimDisk| try_open(disk, &SimEnv::new(5)).map(|v| contents(&v));
    let (mut told_of, mut back) = (0, 0);
    for seed in 0..120 {
        let whole = crate::common::closed(seed % 3);
        let before = show(&SimDisk::from_image(&whole)).unwrap();
        let mut image = whole.clone();
        let mut rng = Rng(seed);
        let dirs = [razorfs_disk::Dir::Meta, razorfs_disk::Dir::Pack];
        let mut all: Vec<_> = dirs.iter().flat_map(|dir| files(&image, *dir)).collect();
        all.retain(|(name, _)| !name.leaf.starts_with("M-"));
        let (name, len) = all[rng.below(all.len() as u64) as usize].clone();
        let byte = rng.below(len);
        assert!(image.flip_bit(&name, byte, 1));
        let disk = SimDisk::from_image(&image);
        let told = hit(&disk, 3).unwrap_or_default();
        let told: BTreeSet<Ino> = told.losses.iter().map(|l| l.ino).collect();
        // A mount takes away what a repair could fall back to.
        let Ok(damaged) = show(&SimDisk::from_image(&image)) else {
            continue;
        };
        let bad: Vec<Ino> = damaged
            .iter()
            .filter(|(_, c)| c.is_none())
            .map(|(i, _)| *i)
            .collect();
        run(&disk, true);
        let after = show(&disk).unwrap();
        for ino in bad {
            if told.contains(&ino) {
                told_of += 1;
                continue;
            }
            // What a repair finds without an index is not lost.
            back += 1;
            assert_eq!(
                after.get(&ino),
                before.get(&ino),
                "seed {seed}: {name} {byte}: {ino}"
            );
        }
    }
    assert!(told_of > 10 && back > 10, "{told_of} {back}");
}

/// A volume with all that a repair can take from: twins, two copies of the journal, parity, and a
/// snapshot of another version of the file.
fn with_everything() -> (SimDisk, Ino) {
    let (disk, env) = (SimDisk::new(), SimEnv::new(1));
    let create = CreateOptions {
        geometry: Geometry::tiny(),
        parity: true,
        journal_copies: 2,
        ..CreateOptions::default()
    };
    let (host, clock) = (Arc::new(disk.clone()), Arc::new(env.clone()));
    Volume::create_on(host, clock, &create).unwrap();
    let v = open(&disk, &env);
    let file = create_file(&v, "file");
    for n in 0..2 {
        v.write(file, 0, &data(n)).unwrap();
        v.step(Step::Checkpoint).unwrap();
        if n == 0 {
            v.snapshot("s0").unwrap();
        }
    }
    // So that the packs of the file are full.
    for n in 0..20 {
        let other = create_file(&v, &format!("other{n}"));
        v.write(other, 0, &data(100 + n)).unwrap();
    }
    settle(&v);
    while v.step(Step::Parity).unwrap() {}
    v.close().unwrap();
    (disk, file)
}

/// Damages the segments of a table, and perhaps their parity.
fn hurt_table(disk: &SimDisk, tag: Tag, parity: bool) {
    let image = image_of(disk);
    let segments = manifest(&image, &superblock(&image)).segments;
    for segment in segments.iter().filter(|s| s.tag == tag) {
        assert!(disk.flip_bit(&name_of(FileName::Segment(segment.id)), 80, 3));
        if parity {
            remove_file(disk, FileName::SegmentParity(segment.id));
        }
    }
}

#[test]
fn a_repair_takes_from_what_has_lost_nothing_first() {
    let (whole, file) = with_everything();
    let copy = || SimDisk::from_image(&image_of(&whole));
    let shows = |disk: &SimDisk, seed| {
        let v = open(disk, &SimEnv::new(6));
        let found = read(&v, file) == data(seed);
        v.close().unwrap();
        found
    };
    // Twins and copies: there is nothing to repair.
    let disk = copy();
    let slot = razorfs_format::superblock::slots_of(superblock(&image_of(&disk)).generation)[0];
    assert!(disk.flip_bit(&name_of(FileName::Super), slot as u64 * 4096 + 40, 1));
    remove_file(&disk, FileName::JournalTwin(0));
    let told = run(&disk, true);
    assert!(!told.needed && told.healed == 0);
    // Parity, of metadata and of data: nothing is lost, and no older version is looked for.
    let disk = copy();
    hurt_table(&disk, Tag::Extent, false);
    hurt(&disk, file, 1);
    let told = run(&disk, true);
    assert!(told.healed > 1 && !told.needed && told.olders.is_empty());
    assert!(shows(&disk, 1));
    // Without it the packs themselves say whose the data are.
    let disk = copy();
    hurt_table(&disk, Tag::Extent, true);
    let told = repaired(&disk);
    assert!(told.losses.iter().all(|l| l.what == Lose::Unsure));
    assert!(shows(&disk, 1));
    // Data that are nowhere else: what the snapshot shows is put beside.
    let disk = copy();
    for pack in manifest(&image_of(&disk), &superblock(&image_of(&disk))).packs {
        if pack.sealed {
            remove_file(&disk, FileName::PackParity(pack.id));
        }
    }
    hurt(&disk, file, 1);
    let told = repaired(&disk);
    let lost: Vec<_> = told.losses.iter().map(|l| (l.what, l.ino)).collect();
    assert_eq!(lost, [(Lose::Data, file)]);
    assert_eq!((told.olders.len(), &*told.olders[0].snapshot), (1, "s0"));
    // Names that are nowhere: the files are in lost+found, with all of their data.
    let disk = copy();
    hurt_table(&disk, Tag::Dirent, true);
    let told = repaired(&disk);
    assert!(
        told.losses
            .iter()
            .any(|l| (l.what, l.ino) == (Lose::Name, file))
    );
    let v = open(&disk, &SimEnv::new(6));
    let found = v.find_by_path(format!("/lost+found/#{file}").as_bytes());
    assert_eq!(found.unwrap(), file);
    v.close().unwrap();
    assert!(shows(&disk, 1));
}

#[test]
fn without_any_manifest_all_segments_give_the_present_and_the_snapshots_are_named_as_lost() {
    let (disk, env, file) = written(2);
    let mut image = image_of(&disk);
    let names = files(&image, razorfs_disk::Dir::Meta);
    for (name, _) in names {
        if name.leaf.starts_with("M-") {
            assert!(image.remove(&name));
        }
    }
    disk.restore(&image);
    let told = run(&disk, true);
    assert!(told.listed && !told.is_lossless());
    assert!(told.snapshots.iter().all(|s| !s.kept));
    assert!(check_disk(&disk, 4).is_sound());
    let v = open(&disk, &env);
    assert!(read(&v, file) == data(2));
    assert!(v.snapshots().is_empty());
    v.close().unwrap();
}
