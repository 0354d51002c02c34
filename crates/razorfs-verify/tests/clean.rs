//! Volumes that nothing happened to, closed or not, have no findings worse than notes.

use crate::common::*;
use razorfs::{AllocateMode, Ino, NewNode, SetAttributes, Step};
use razorfs_disk::sim::{SimDisk, SimEnv, SimRng};

#[test]
fn a_new_volume_is_clean() {
    let (disk, env) = (SimDisk::new(), SimEnv::new(1));
    create(&disk, &env);
    let report = check_disk(&disk, 3);
    assert!(report.findings.is_empty(), "{}", told(&report));
    assert_eq!(report.checked.inodes, 1);
    assert_eq!(report.checked.batches, 1);
}

#[test]
fn closed_volumes_have_no_findings() {
    for seed in 0..4 {
        let report = check(&closed(seed), 3);
        assert!(report.findings.is_empty(), "{}", told(&report));
        let c = report.checked;
        for n in [
            c.segments, c.blocks, c.records, c.dirents, c.extents, c.packs, c.frames,
        ] {
            assert!(n > 0, "{c:?}");
        }
        assert_eq!((c.superblock_slots, c.manifests), (4, 2));
    }
}

#[test]
fn unclosed_volumes_are_clean() {
    for seed in 0..4 {
        let report = check(&dirty(seed), 3);
        assert_clean(&report);
        assert!(report.checked.batches > 0);
    }
}

#[test]
fn every_level_holds_the_ones_below() {
    let image = closed(5);
    let before = check(&image, 0).checked;
    assert_eq!((before.segments, before.inodes, before.packs), (0, 0, 0));
    let one = check(&image, 1).checked;
    assert!(one.segments > 0 && one.inodes == 0);
    let two = check(&image, 2).checked;
    assert!(two.inodes > 0 && two.packs == 0);
    assert_eq!(check(&image, 3).checked, check(&image, 4).checked);
    assert_eq!(check(&image, 4), check(&image, 200));
}

#[test]
fn power_cuts_leave_sound_volumes() {
    for seed in 0..40 {
        let (disk, env) = (SimDisk::from_image(&closed(seed % 3)), SimEnv::new(seed));
        let mut rng = Rng(seed);
        let first = disk.op_count();
        disk.cut_after(first + 5 + rng.below(250));
        cut_short(&disk, &env, &mut rng);
        for outcome in 0..3 {
            let left = disk.after_cut(&mut SimRng::new(seed * 10 + outcome));
            let report = check_disk(&left, 3);
            assert_sound(&report);
            // Warnings are about the superblock only.
            let bad = report
                .findings
                .iter()
                .find(|f| f.severity > razorfs_verify::Severity::Note);
            assert!(
                bad.is_none_or(|f| f.number == 102 || f.number == 103),
                "{}",
                told(&report)
            );
            // What verify replays is what the engine replays.
            let volume = open(&left, &env);
            assert_eq!(
                report.checked.batches,
                volume.recovery_report().batches,
                "seed {seed}"
            );
            volume.close().unwrap();
            // What follows the end of a pack stays until the pack is written to again.
            assert_clean(&check_disk(&left, 3));
        }
    }
}

/// Works until the power fails.
fn cut_short(disk: &SimDisk, env: &SimEnv, rng: &mut Rng) {
    let Ok(volume) = try_open(disk, env) else {
        return;
    };
    for i in 0..60u64 {
        let name = format!("cut{i}");
        let Ok(node) = volume.create_node(Ino::ROOT, name.as_bytes(), &NewNode::file(0o644)) else {
            return;
        };
        let len = 1 + rng.below(30_000) as usize;
        let data = rng.bytes(len);
        let _ = volume.write(node.ino, rng.below(200_000), &data);
        if rng.below(3) == 0 {
            let _ = volume.unlink(Ino::ROOT, name.as_bytes());
        }
        let _ = match rng.below(8) {
            0 => volume.step(Step::Checkpoint),
            1 => volume.step(Step::Compact),
            2 | 3 => volume.step(Step::Commit),
            4 => volume.step(Step::Reap),
            5 => volume.step(Step::Grow),
            6 => volume.sync().map(|()| true),
            _ => Ok(true),
        };
        if disk.is_off() {
            return;
        }
    }
}

#[test]
fn long_truncations_of_nameless_files_leave_nothing_wrong() {
    let (disk, env) = (SimDisk::new(), SimEnv::new(1));
    create(&disk, &env);
    let volume = open(&disk, &env);
    let cut = SetAttributes {
        size: Some(5),
        ..SetAttributes::default()
    };
    let far = 400 << 20;
    let sound = || {
        volume.sync().unwrap();
        assert_clean(&check_disk(&disk, 3));
    };
    // Unlinked, then truncated.
    let file = volume
        .create_node(Ino::ROOT, b"a", &NewNode::file(0o644))
        .unwrap()
        .ino;
    volume.write(file, far, b"x").unwrap();
    volume.pin(file, 1);
    volume.unlink(Ino::ROOT, b"a").unwrap();
    volume.set_attributes(file, &cut).unwrap();
    sound();
    volume
        .allocate(file, AllocateMode::Extend, 0, 3 << 20)
        .unwrap();
    sound();
    // Nameless from the beginning, truncated, then linked.
    let file = volume
        .create_unnamed(Ino::ROOT, &NewNode::file(0o644))
        .unwrap()
        .ino;
    volume.pin(file, 1);
    volume.write(file, far, b"x").unwrap();
    volume.set_attributes(file, &cut).unwrap();
    sound();
    volume.link(file, Ino::ROOT, b"b").unwrap();
    sound();
    // Truncated, then unlinked.
    let file = volume
        .create_node(Ino::ROOT, b"c", &NewNode::file(0o644))
        .unwrap()
        .ino;
    volume.write(file, far, b"x").unwrap();
    volume.set_attributes(file, &cut).unwrap();
    volume.pin(file, 1);
    volume.unlink(Ino::ROOT, b"c").unwrap();
    sound();
    volume.close().unwrap();
    let volume = open(&disk, &env);
    while volume.step(Step::Reap).unwrap() {}
    volume.close().unwrap();
    let report = check_disk(&disk, 3);
    assert_clean(&report);
    // The root and what was linked.
    assert_eq!(report.checked.inodes, 2);
}
