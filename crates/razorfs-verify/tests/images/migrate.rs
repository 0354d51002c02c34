//! Volumes of older versions, written in the newest one: they show what they showed, whenever the
//! power fails meanwhile.

use razorfs_disk::sim::{Image, SimDisk, SimEnv, SimRng};
use razorfs_format::record::inode_flags::TRIMMING;
use razorfs_format::superblock::{LINKED_BATCHES, NEWEST_INCOMPAT};
use razorfs_verify::{LEVEL_MAX, Outcome, RepairError, RepairOptions, repair};

use crate::common::forge::superblock;
use crate::common::{assert_sound, check, image_of, open, told, try_open};
use crate::listing;

fn migrate(disk: &SimDisk, commit: bool) -> Result<Outcome, RepairError> {
    let options = RepairOptions {
        commit,
        upgrade: true,
        ..RepairOptions::default()
    };
    repair(disk, &SimEnv::new(7), &options, &mut |_| true)
}

fn is_newest(image: &Image) -> bool {
    superblock(image).features.incompat & NEWEST_INCOMPAT == NEWEST_INCOMPAT
}

/// All inodes and what is in them; not what a check finds and how the volume opens, nor which
/// truncations are unfinished, as a migration finishes them.
fn shown(image: &Image) -> Vec<String> {
    let lines = listing::of(image);
    let lines = lines.lines().filter(|line| line.starts_with('/'));
    let lines: Vec<String> = lines.map(without_trimming).collect();
    assert!(lines.len() > 3, "{lines:?}");
    lines
}

/// The line of an inode without the flag of a truncation.
fn without_trimming(line: &str) -> String {
    let Some((before, after)) = line.split_once(" flags 0x") else {
        return line.to_owned();
    };
    let (flags, after) = after.split_once(' ').unwrap_or((after, ""));
    let flags = u32::from_str_radix(flags, 16).unwrap() & !TRIMMING;
    format!("{before} flags {flags:#x} {after}")
}

/// What an image holds when it was opened and closed, as `razorfs migrate` does it first.
fn closed(image: &Image) -> Image {
    let (disk, env) = (SimDisk::from_image(image), SimEnv::new(3));
    open(&disk, &env).close().unwrap();
    image_of(&disk)
}

/// The images of older versions that can be migrated.
fn older() -> Vec<(String, Image)> {
    let images = crate::names().into_iter().map(|name| {
        let image = crate::load(&name);
        (name, image)
    });
    let images = images.filter(|(_, image)| check(image, LEVEL_MAX).is_sound());
    let images: Vec<_> = images
        .filter(|(_, image)| !is_newest(image))
        .filter(|(_, image)| {
            let opened = try_open(&SimDisk::from_image(image), &SimEnv::new(1));
            opened.is_ok_and(|volume| volume.branches().is_empty())
        })
        .map(|(name, image)| (name, closed(&image)))
        .collect();
    let names: Vec<&str> = images.iter().map(|(name, _)| name.as_str()).collect();
    for name in [
        "1.0-clean",
        "1.0-parity",
        "1.0-shared",
        "1.0-snapshots",
        "1.0-twins",
    ] {
        assert!(names.contains(&name), "{name} of {names:?}");
    }
    images
}

#[test]
fn a_volume_of_an_older_version_shows_the_same_in_the_newest_one() {
    for (name, image) in older() {
        let disk = SimDisk::from_image(&image);
        let dry = migrate(&disk, false).unwrap();
        assert!(dry.needed && dry.committed.is_none(), "{name}");
        assert_eq!(dry.missing, "`linked-batches`");
        assert_eq!(image_of(&disk).sum(), image.sum(), "{name}: a dry run");
        let done = migrate(&disk, true).unwrap();
        assert!(done.committed.is_some() && done.is_lossless(), "{name}");
        let migrated = image_of(&disk);
        assert!(is_newest(&migrated), "{name}");
        assert_sound(&check(&migrated, LEVEL_MAX));
        assert_eq!(shown(&migrated), shown(&image), "{name}");
        let snapshots = |image: &Image| {
            let volume = open(&SimDisk::from_image(image), &SimEnv::new(4));
            volume
                .snapshots()
                .into_iter()
                .map(|s| s.name)
                .collect::<Vec<_>>()
        };
        assert_eq!(snapshots(&migrated), snapshots(&image), "{name}");
        // What is written from now on is linked.
        let env = SimEnv::new(5);
        let volume = open(&disk, &env);
        crate::common::create_file(&volume, "after the migration");
        volume.sync().unwrap();
        volume.close().unwrap();
        assert_sound(&check(&image_of(&disk), LEVEL_MAX));
        assert!(!migrate(&disk, true).unwrap().needed, "{name}");
    }
}

#[test]
fn a_migration_whose_power_fails_leaves_the_old_volume_or_the_new_one_and_is_run_again() {
    let mut rng = SimRng::new(20_261_130);
    let mut left = [0; 2];
    for (name, image) in older() {
        let expected = shown(&image);
        let disk = SimDisk::from_image(&image);
        let before = disk.op_count();
        migrate(&disk, true).unwrap();
        // At each call of one of them; of the others some.
        let every = if name == "1.0-clean" { 1 } else { 5 };
        for at in (0..=disk.op_count() - before).step_by(every) {
            let disk = SimDisk::from_image(&image);
            disk.cut_after(at);
            // It is cut off, and what it says of that is of no interest.
            let _ = migrate(&disk, true);
            let disk = disk.power_cut(&mut rng);
            let cut = image_of(&disk);
            assert_eq!(shown(&cut), expected, "{name}, cut at {at}");
            left[usize::from(is_newest(&cut))] += 1;
            // What was begun goes when it is opened, as the command does it first.
            let disk = SimDisk::from_image(&closed(&cut));
            let again = migrate(&disk, true).unwrap_or_else(|e| {
                let found = told(&check(&image_of(&disk), LEVEL_MAX));
                panic!(
                    "{name}, cut at {at}: {e}: {found}; {}",
                    told(&check(&cut, LEVEL_MAX))
                )
            });
            assert_ne!(again.needed, is_newest(&cut), "{name}, cut at {at}");
            let migrated = image_of(&disk);
            assert!(is_newest(&migrated));
            assert_eq!(shown(&migrated), expected, "{name}, cut at {at}, run again");
            assert_sound(&check(&migrated, LEVEL_MAX));
        }
    }
    assert!(left[0] > 50 && left[1] > 5, "{left:?}");
}

#[test]
fn what_a_migration_would_lose_or_has_no_place_for_is_refused() {
    let refused = |image: &Image, why: &str| {
        let disk = SimDisk::from_image(image);
        for commit in [false, true] {
            let said = migrate(&disk, commit).unwrap_err().to_string();
            assert!(said.contains(why), "{said}");
        }
        assert_eq!(image_of(&disk).sum(), image.sum(), "{why}");
    };
    refused(&crate::load("1.0-segment-damaged"), "repair");
    refused(&crate::load("1.0-pack-damaged"), "repair");
    refused(&closed(&crate::load("1.0-branches")), "branch");
    let newest = crate::load("1.0-linked");
    assert_eq!(
        superblock(&newest).features.incompat & LINKED_BATCHES,
        LINKED_BATCHES
    );
    let disk = SimDisk::from_image(&newest);
    assert!(!migrate(&disk, true).unwrap().needed);
    assert_eq!(image_of(&disk).sum(), newest.sum());
}
