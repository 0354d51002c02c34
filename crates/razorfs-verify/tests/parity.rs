//! Volumes with parity: damage is planted, found, and healed by a scrub or a repair.

use crate::common::forge::{name_of, superblock};
use crate::common::parities::{FILES, LEN, content, parity_of, planted, sealed, segment, volume};
use crate::common::{Rng, assert_clean, check, check_disk, image_of, numbers, open, options, told};
use razorfs::{Geometry, Step};
use razorfs_disk::sim::{SimDisk, SimEnv};
use razorfs_disk::{Dir, Name};
use razorfs_format::layout::FileName;
use razorfs_format::parity::Object;
use razorfs_verify::{FindingKind as K, RepairOptions, repair};

fn assert_content(disk: &SimDisk) {
    let volume = open(disk, &SimEnv::new(9));
    assert_eq!(volume.info().read_only, None);
    for n in 0..FILES {
        let ino = volume.find_by_path(format!("file {n}").as_bytes()).unwrap();
        let mut bytes = vec![0; LEN];
        assert_eq!(volume.read(ino, 0, &mut bytes).unwrap(), LEN);
        assert!(bytes == content(n), "file {n}");
    }
    volume.close().unwrap();
}

fn scrub(disk: &SimDisk) -> razorfs::ScrubStatus {
    let volume = open(disk, &SimEnv::new(8));
    volume.scrub_start(0).unwrap();
    while volume.step(Step::Scrub).unwrap() {}
    while volume.step(Step::Parity).unwrap() {}
    let status = volume.scrub_status();
    volume.close().unwrap();
    status
}

#[test]
fn what_is_planted_is_found_from_its_level_on_and_healed() {
    assert_clean(&check(&volume(), 4));
    for (kind, level, image) in planted() {
        for at in 0..=4 {
            let report = check(&image, at);
            let found = numbers(&report).contains(&kind.number());
            assert_eq!(found, at >= level, "{kind:?} at {at}: {}", told(&report));
        }
        // A mount makes this one.
        if kind == K::ParityWrong {
            continue;
        }
        let disk = SimDisk::from_image(&image);
        let status = scrub(&disk);
        assert_eq!(status.damaged, 0, "{kind:?}: {status:?}");
        if kind != K::ParityPending {
            assert!(status.healed > 0, "{kind:?}: {status:?}");
        }
        let report = check_disk(&disk, 4);
        assert!(report.findings.is_empty(), "{kind:?}: {}", told(&report));
        assert_content(&disk);
    }
}

#[test]
fn damage_that_parity_heals_says_so_in_its_remedy() {
    let base = volume();
    for (object, _) in [sealed(&base), segment(&base)] {
        let mut image = base.clone();
        assert!(image.flip_bit(&name_of(object.file()), 4200, 1));
        let report = check(&image, 3);
        let errors = report
            .findings
            .iter()
            .filter(|f| f.severity >= razorfs_verify::Severity::Error);
        let errors: Vec<_> = errors.filter(|f| f.number / 100 != 5).collect();
        assert!(!errors.is_empty());
        for finding in errors {
            assert!(finding.remedy.contains("razorfs scrub"), "{finding:?}");
        }
    }
}

#[test]
fn any_shard_of_any_object_is_healed_by_a_repair_without_a_loss() {
    let base = volume();
    let mut rng = Rng(5);
    let all: Vec<Name> = base.files().map(|(name, _)| name.clone()).collect();
    for name in all {
        let file = FileName::parse(name.dir.path(), &name.leaf);
        let Some(object) = file.and_then(Object::of) else {
            continue;
        };
        if base.bytes(&name_of(object.parity())).is_none() {
            continue;
        }
        let (_, _, shape) = parity_of(&base, object);
        let len = base.bytes(&name).unwrap().len() as u64;
        let run = (shape.shard() as u64).min(len);
        let mut image = base.clone();
        let at = rng.below(len - run + 1);
        image.write(&name, at, &rng.bytes(run as usize));
        let disk = SimDisk::from_image(&image);
        for commit in [false, true] {
            let options = RepairOptions {
                commit,
                ..RepairOptions::default()
            };
            let before = image_of(&disk).bytes(&name);
            let outcome = repair(&disk, &SimEnv::new(1), &options, &mut |_| true).unwrap();
            assert!(
                outcome.healed > 0 && outcome.is_lossless(),
                "{name}: {outcome:#?}"
            );
            let after = image_of(&disk).bytes(&name);
            assert_eq!(after != before, commit, "{name}");
        }
        assert!(image_of(&disk).bytes(&name) == base.bytes(&name), "{name}");
        let report = check_disk(&disk, 4);
        assert!(report.findings.is_empty(), "{name}: {}", told(&report));
        assert_content(&disk);
    }
}

#[test]
fn a_repaired_volume_has_parity_again() {
    let base = volume();
    // More than parity makes up for: the segment of names is lost.
    let (object, len) = segment(&base);
    let mut image = base.clone();
    image.write(&name_of(object.file()), 0, &Rng(1).bytes(len as usize));
    let disk = SimDisk::from_image(&image);
    let options = RepairOptions {
        commit: true,
        ..RepairOptions::default()
    };
    repair(&disk, &SimEnv::new(1), &options, &mut |_| true).unwrap();
    let report = check_disk(&disk, 4);
    let kinds = [K::Quarantined.number(), K::ParityPending.number()];
    let rest = report
        .findings
        .iter()
        .filter(|f| !kinds.contains(&f.number));
    assert_eq!(rest.count(), 0, "{}", told(&report));
    let volume = open(&disk, &SimEnv::new(2));
    while volume.step(Step::Parity).unwrap() {}
    volume.close().unwrap();
    let report = check_disk(&disk, 4);
    let rest = report
        .findings
        .iter()
        .filter(|f| f.number != K::Quarantined.number());
    assert_eq!(rest.count(), 0, "{}", told(&report));
}

#[test]
fn a_lost_twin_and_a_damaged_manifest_are_healed_by_a_scrub() {
    let base = volume();
    let disk = SimDisk::from_image(&base);
    let volume = open(&disk, &SimEnv::new(8));
    let newest = superblock(&image_of(&disk));
    let slot = razorfs_format::superblock::slots_of(newest.generation)[1];
    let at = (slot * razorfs_format::superblock::SLOT) as u64;
    assert!(disk.flip_bit(&name_of(FileName::Super), at + 50, 1));
    let of = name_of(FileName::Manifest(newest.manifest.id));
    assert!(disk.flip_bit(&of, 100, 1));
    volume.scrub_start(0).unwrap();
    while volume.step(Step::Scrub).unwrap() {}
    let status = volume.scrub_status();
    assert_eq!((status.healed, status.damaged), (2, 0), "{status:?}");
    volume.close().unwrap();
    let report = check_disk(&disk, 4);
    assert!(report.findings.is_empty(), "{}", told(&report));
    assert_content(&disk);
}

#[test]
fn a_volume_held_still_has_no_half_made_parity() {
    let base = volume();
    let disk = SimDisk::from_image(&base);
    let mut image = base.clone();
    let (object, _) = sealed(&base);
    assert!(image.remove(&name_of(object.parity())));
    disk.restore(&image);
    let volume = open(&disk, &SimEnv::new(4));
    let report = volume
        .hold_still(|disk| razorfs_verify::verify(disk, 4, &mut |_| ()))
        .unwrap()
        .unwrap();
    assert_eq!(
        numbers(&report),
        [K::ParityPending.number()],
        "{}",
        told(&report)
    );
    assert_eq!(options().geometry, Geometry::tiny());
    let strays = image_of(&disk);
    let mut strays = strays
        .files()
        .filter(|(n, _)| n.dir == Dir::Pack && n.leaf.ends_with("tmp"));
    assert!(strays.next().is_none());
}
