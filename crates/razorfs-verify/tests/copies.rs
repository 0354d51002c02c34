//! Copies of a volume that are not complete, or were made while it was in use: what they show is
//! right, or an error that says what to do, and nothing is made anew over them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::common::{Rng, check, create, create_file, image_of, open, options, told};
use razorfs::{CreateOptions, Error, Ino, Options, Step, Volume};
use razorfs_disk::Name;
use razorfs_disk::sim::{Image, SimDisk, SimEnv};

/// What each file has held, the newest last.
type Versions = BTreeMap<String, Vec<Vec<u8>>>;

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// Writes a file, all of it at once, and keeps what is in it now.
fn write(volume: &Volume, versions: &mut Versions, n: u64) {
    let name = NAMES[(n % NAMES.len() as u64) as usize];
    let found = volume.find_by_path(name.as_bytes());
    let ino = found.unwrap_or_else(|_| create_file(volume, name));
    let len = [30, 3000, 20_000, 60_000][(n % 4) as usize];
    // No shorter than before, so that all of it is replaced.
    let len = volume.stat(ino).unwrap().size.max(len) as usize;
    let bytes = Rng(n).bytes(len);
    assert_eq!(volume.write(ino, 0, &bytes).unwrap(), len);
    versions.entry(name.to_owned()).or_default().push(bytes);
}

/// A volume of several generations; what was done last is in the journal alone.
fn volume(closed: bool) -> (Image, Versions) {
    let (disk, env) = (SimDisk::new(), SimEnv::new(1));
    create(&disk, &env);
    let volume = open(&disk, &env);
    let mut versions = Versions::new();
    for n in 0..20 {
        write(&volume, &mut versions, n);
        if n % 6 == 5 {
            volume.step(Step::Checkpoint).unwrap();
        }
    }
    volume.sync().unwrap();
    let image = if closed {
        volume.close().unwrap();
        image_of(&disk)
    } else {
        let image = image_of(&disk);
        drop(volume);
        image
    };
    (image, versions)
}

/// The files in an order that a copy may take them in.
fn ordered(image: &Image, order: u64) -> Vec<Name> {
    let mut names: Vec<Name> = image.files().map(|(name, _)| name.clone()).collect();
    names.sort();
    match order {
        0 => {}
        1 => names.reverse(),
        seed => {
            let mut rng = Rng(seed);
            for i in (1..names.len()).rev() {
                names.swap(i, rng.below(i as u64 + 1) as usize);
            }
        }
    }
    names
}

/// The directories alone.
fn emptied(image: &Image) -> Image {
    let mut empty = image.clone();
    for (name, _) in image.files() {
        assert!(empty.remove(name));
    }
    empty
}

/// To what there is, the first files and so much of the next one.
fn part(
    mut copy: Image,
    image: &Image,
    names: &[Name],
    files: usize,
    of_last: (u64, u64),
) -> Image {
    for (n, name) in names.iter().take(files + 1).enumerate() {
        let mut bytes = image.bytes(name).unwrap();
        if n == files {
            bytes.truncate((bytes.len() as u64 * of_last.0 / of_last.1) as usize);
        }
        copy.write(name, 0, &bytes);
    }
    copy
}

fn try_open(image: &Image, read_only: bool) -> razorfs::Result<Volume> {
    let disk = SimDisk::from_image(image);
    let options = Options {
        read_only,
        ..options()
    };
    Volume::open_on(Arc::new(disk), Arc::new(SimEnv::new(2)), options)
}

/// What a file shows, if it is not refused.
fn content(volume: &Volume, name: &str) -> razorfs::Result<Option<Vec<u8>>> {
    let ino: Ino = match volume.find_by_path(name.as_bytes()) {
        Err(Error::NotFound) => return Ok(None),
        found => found?,
    };
    let mut bytes = vec![0; volume.stat(ino)?.size as usize];
    let got = volume.read(ino, 0, &mut bytes)?;
    bytes.truncate(got);
    Ok(Some(bytes))
}

/// That a copy which opens shows what was there, and the newest of it unless it says that it is
/// damaged; and that one which does not open says why. Answers whether it opens.
fn check_copy(copy: &Image, versions: &Versions, exact: bool, what: &str) -> bool {
    let mut opens = false;
    let is_sound = check(copy, 3).is_sound();
    for read_only in [true, false] {
        let volume = match try_open(copy, read_only) {
            Ok(volume) => volume,
            Err(e) => {
                let line = e.to_string();
                assert!(line.contains("`razorfs "), "{what}: no remedy: {line}");
                assert!(!is_sound, "{what}: {line}");
                continue;
            }
        };
        let told = !volume.recovery_report().damage.is_empty();
        assert!(!told || !is_sound, "{what}");
        for name in NAMES {
            let known = &versions[name];
            match content(&volume, name) {
                Err(_) => assert!(!is_sound, "{what}: {name}"),
                Ok(Some(found)) if exact && !told => {
                    assert!(found == *known.last().unwrap(), "{what}: {name} is older");
                }
                Ok(Some(found)) => assert!(known.contains(&found), "{what}: {name} is wrong"),
                Ok(None) => assert!(told || !exact, "{what}: {name} is missing"),
            }
        }
        opens = true;
        let _ = volume.close();
    }
    opens
}

/// Nothing is created where anything of a volume is that could be needed.
fn check_not_created_over(copy: &Image, what: &str) {
    let harmless = |(name, _): (&Name, u64)| ["LOCK", "RESERVE"].contains(&&*name.leaf);
    if copy.files().all(harmless) {
        return;
    }
    let disk = SimDisk::from_image(copy);
    let create = CreateOptions::from(&options());
    let created = Volume::create_on(Arc::new(disk.clone()), Arc::new(SimEnv::new(3)), &create);
    assert!(created.is_err(), "{what}");
    assert_eq!(
        disk.image().sum(),
        SimDisk::from_image(copy).image().sum(),
        "{what}"
    );
}

#[test]
fn a_copy_that_stopped_anywhere_shows_what_is_right_or_says_what_to_do() {
    let (mut opened, mut refused) = (0, 0);
    for closed in [true, false] {
        let (image, versions) = volume(closed);
        let report = check(&image, 3);
        assert!(report.is_sound(), "{}", told(&report));
        for order in 0..6 {
            let names = ordered(&image, order);
            for files in 0..names.len() {
                for of_last in [(0, 1), (1, 2), (99, 100)] {
                    // Directories come with their files, or before.
                    let begun = match order % 2 {
                        0 => emptied(&image),
                        _ => Image::default(),
                    };
                    let copy = part(begun, &image, &names, files, of_last);
                    let what = format!(
                        "closed: {closed}, order {order}: {files} of {} files, and {}/{} of {}",
                        names.len(),
                        of_last.0,
                        of_last.1,
                        names[files]
                    );
                    // The end of a journal that was not closed may be one that was never written.
                    match check_copy(&copy, &versions, closed, &what) {
                        true => opened += 1,
                        false => refused += 1,
                    }
                    check_not_created_over(&copy, &what);
                }
            }
            // All of it is the volume.
            let copy = part(emptied(&image), &image, &names, names.len(), (1, 1));
            assert_eq!(copy.sum(), image.sum());
            assert!(check_copy(&copy, &versions, true, "a whole copy"));
        }
    }
    assert!(opened > 100 && refused > 100, "{opened} {refused}");
}

/// Each file is copied at another moment of a volume in use.
#[test]
fn a_copy_of_a_volume_in_use_never_shows_what_was_not_there() {
    let mut opened = 0;
    for seed in 0..60 {
        let (disk, env) = (SimDisk::new(), SimEnv::new(seed));
        create(&disk, &env);
        let volume = open(&disk, &env);
        let mut versions = Versions::new();
        let mut rng = Rng(seed);
        let mut n = 0;
        for name in NAMES {
            versions.insert(name.to_owned(), Vec::new());
        }
        let go_on = |volume: &Volume, versions: &mut Versions, rng: &mut Rng, n: &mut u64| {
            for _ in 0..rng.below(3) {
                *n += 1;
                write(volume, versions, *n);
                match rng.below(20) {
                    0 => drop(volume.step(Step::Checkpoint).unwrap()),
                    1 => volume.sync().unwrap(),
                    _ => {}
                }
            }
        };
        for _ in 0..8 {
            go_on(&volume, &mut versions, &mut rng, &mut n);
        }
        volume.sync().unwrap();
        let mut copy = emptied(&image_of(&disk));
        for name in ordered(&image_of(&disk), 2 + seed) {
            // It may be gone by the time that its turn comes.
            if let Some(bytes) = image_of(&disk).bytes(&name) {
                copy.write(&name, 0, &bytes);
            }
            go_on(&volume, &mut versions, &mut rng, &mut n);
        }
        drop(volume);
        let what = format!("seed {seed}");
        opened += u64::from(check_copy(&copy, &versions, false, &what));
    }
    // Else nothing was looked at.
    assert!(opened > 5, "{opened}");
}
