//! Volumes of each version of the format, kept in `testdata/images`, behave as they always did.
//!
//! An image is a tar compressed with zstd; the text beside it says what a check finds, how it
//! opens, and all that is in it. `cargo xtask golden --write` adds images that are missing; one
//! that is there is never written again, since it stands for the volumes that users have.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "../common/mod.rs"]
mod common;
mod container;
mod listing;
mod make;
mod migrate;
mod recode;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::OnceLock;

use common::{assert_sound, check, image_of, try_open};
use razorfs::{Ino, NewNode};
use razorfs_disk::sim::{Image, SimDisk, SimEnv};
use razorfs_format::superblock::{MAJOR, MINOR};

fn dir() -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../testdata/images"
    ))
}

/// The names of all images, of all versions; those of this one are there.
fn names() -> BTreeSet<String> {
    static WRITTEN: OnceLock<()> = OnceLock::new();
    WRITTEN.get_or_init(|| {
        if std::env::var_os("RAZORFS_GOLDEN").is_some_and(|how| how == "write") {
            write_missing();
        }
    });
    let names = listed();
    for what in make::NAMES {
        let name = format!("{MAJOR}.{MINOR}-{what}");
        assert!(
            names.contains(&name),
            "{name} is missing: `cargo xtask golden --write`"
        );
    }
    names
}

fn listed() -> BTreeSet<String> {
    let files = std::fs::read_dir(dir()).unwrap();
    let leaf = |f: std::io::Result<std::fs::DirEntry>| f.unwrap().file_name().into_string();
    files
        .filter_map(|f| leaf(f).unwrap().strip_suffix(".tar.zst").map(str::to_owned))
        .collect()
}

fn load(name: &str) -> Image {
    let path = dir().join(format!("{name}.tar.zst"));
    container::unpack(&std::fs::read(path).unwrap())
}

fn write_missing() {
    std::fs::create_dir_all(dir()).unwrap();
    let there = listed();
    if make::NAMES
        .iter()
        .all(|what| there.contains(&format!("{MAJOR}.{MINOR}-{what}")))
    {
        return;
    }
    for (what, image) in make::all() {
        let name = format!("{MAJOR}.{MINOR}-{what}");
        if there.contains(&name) {
            println!("{name} is there and stays as it is");
            continue;
        }
        let file = |ending: &str| dir().join(format!("{name}.{ending}"));
        std::fs::write(file("tar.zst"), container::pack(&image)).unwrap();
        std::fs::write(file("txt"), listing::of(&image)).unwrap();
        println!("{name} written");
    }
}

#[test]
fn golden_images_show_what_they_always_showed() {
    for name in names() {
        let expected = std::fs::read_to_string(dir().join(format!("{name}.txt"))).unwrap();
        let got = listing::of(&load(&name));
        let differ = got.lines().zip(expected.lines()).find(|(a, b)| a != b);
        assert!(got == expected, "{name}: {differ:?}\n\n{got}");
    }
}

/// Whoever changes an encoding without a new version is found out here: what the images of this
/// version hold is encoded as it was.
#[test]
fn golden_images_encode_to_the_same_bytes() {
    let all: Vec<String> = names()
        .into_iter()
        .filter(|name| name.starts_with(&format!("{MAJOR}.{MINOR}-")))
        .collect();
    let mut seen = recode::Seen::default();
    for name in all {
        recode::check(&name, &load(&name), &mut seen);
    }
    seen.assert_complete();
}

#[test]
fn golden_images_can_be_written_and_opened_again() {
    for name in names() {
        let image = load(&name);
        let sound = check(&image, 3).is_sound();
        let (disk, env) = (SimDisk::from_image(&image), SimEnv::new(99));
        let Ok(volume) = try_open(&disk, &env) else {
            continue;
        };
        let made = volume.create_node(Ino::ROOT, b"new", &NewNode::file(0o600));
        let Ok(made) = made else {
            assert!(!sound, "{name} is sound and refuses writes: {made:?}");
            continue;
        };
        let data = b"after all these years ".repeat(2000);
        volume.write(made.ino, 100, &data).unwrap();
        volume.sync().unwrap();
        let killed = image_of(&disk);
        volume.close().unwrap();
        for image in [killed, image_of(&disk)] {
            if sound {
                assert_sound(&check(&image, 3));
            }
            let disk = SimDisk::from_image(&image);
            let volume = try_open(&disk, &env).unwrap();
            let mut read = vec![0; data.len() + 500];
            let ino = volume.lookup(Ino::ROOT, b"new").unwrap().ino;
            assert_eq!(volume.read(ino, 100, &mut read).unwrap(), data.len());
            assert!(read.starts_with(&data), "{name}");
        }
    }
}
