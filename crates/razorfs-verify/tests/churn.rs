//! Volumes that were written over again and again are sound at every moment: packs are sealed,
//! emptied, removed and punched, segments are merged.

use crate::common::{Rng, assert_clean, check_disk, create, open, told};
use razorfs::{Ino, NewNode, SetAttributes, Step, Volume, XattrMode};
use razorfs_disk::sim::{SimDisk, SimEnv, SimRng};

struct Churn {
    volume: Volume,
    rng: Rng,
    names: u64,
}

impl Churn {
    /// One random operation; an error means that the power failed.
    fn step(&mut self) -> razorfs::Result<()> {
        let name = format!("n{}", self.rng.below(self.names));
        let name = name.as_bytes();
        let found = self.volume.lookup(Ino::ROOT, name).ok();
        match (self.rng.below(20), found) {
            (0..=4, None) => {
                let node = self
                    .volume
                    .create_node(Ino::ROOT, name, &NewNode::file(0o644))?;
                let len = 1 + self.rng.below(120_000) as usize;
                let bytes = self.rng.bytes(len);
                self.volume.write(node.ino, 0, &bytes)?;
            }
            (0..=4, Some(stat)) => {
                let len = 1 + self.rng.below(60_000) as usize;
                let bytes = self.rng.bytes(len);
                self.volume
                    .write(stat.ino, self.rng.below(300_000), &bytes)?;
            }
            (5, Some(stat)) => {
                let size = Some(self.rng.below(200_000));
                let set = SetAttributes {
                    size,
                    ..SetAttributes::default()
                };
                self.volume.set_attributes(stat.ino, &set)?;
            }
            (6..=7, Some(_)) => self.volume.unlink(Ino::ROOT, name)?,
            (8, Some(stat)) => {
                // The name may be taken.
                let _ = self
                    .volume
                    .link(stat.ino, Ino::ROOT, &[name, b"-too"].concat());
            }
            (9, Some(stat)) => {
                self.volume
                    .set_xattr(stat.ino, b"user.a", b"b", XattrMode::Set)?;
            }
            (10, Some(stat)) => {
                // The attribute may be missing.
                let _ = self.volume.remove_xattr(stat.ino, b"user.a");
            }
            (11, Some(stat)) => {
                // Nameless and held, to be removed at the next mount.
                self.volume.pin(stat.ino, 1);
                self.volume.unlink(Ino::ROOT, name)?;
            }
            (16..=18, Some(stat)) => {
                let other = format!("n{}", self.rng.below(self.names));
                if let Ok(to) = self.volume.lookup(Ino::ROOT, other.as_bytes()) {
                    let (from_off, to_off) = (self.rng.below(50_000), self.rng.below(200_000));
                    let len = 1 + self.rng.below(150_000);
                    let copied = (self.volume).copy_range(stat.ino, from_off, to.ino, to_off, len);
                    match copied {
                        // The file may be the same, and the ranges overlap.
                        Ok(_) | Err(razorfs::Error::Invalid(_)) => {}
                        Err(e) => return Err(e),
                    }
                }
            }
            (12, _) => drop(self.volume.step(Step::Reap)?),
            (13, _) => drop(self.volume.step(Step::Compact)?),
            (14, _) => drop(self.volume.step(Step::Checkpoint)?),
            _ => drop(self.volume.step(Step::Commit)?),
        }
        Ok(())
    }
}

/// Whether a pack has a hole.
fn has_hole(disk: &SimDisk) -> bool {
    let image = crate::common::image_of(disk);
    let mut packs = image
        .files()
        .filter(|(name, _)| name.dir == razorfs_disk::Dir::Pack);
    packs.any(|(name, _)| {
        let bytes = image.bytes(name).unwrap();
        let pages = bytes.chunks(4096).skip(1);
        pages.filter(|page| page.iter().all(|b| *b == 0)).count() > 8
    })
}

#[test]
fn volumes_that_are_written_over_and_over_are_clean() {
    let mut holes = 0;
    for seed in 0..12 {
        let (disk, env) = (SimDisk::new(), SimEnv::new(seed));
        create(&disk, &env);
        for round in 0..5 {
            let volume = open(&disk, &env);
            let rng = Rng(seed * 100 + round);
            let mut churn = Churn {
                volume,
                rng,
                names: 12,
            };
            for _ in 0..80 {
                churn.step().unwrap();
            }
            assert_clean(&check_disk(&disk, 3));
            holes += u32::from(has_hole(&disk));
            if round % 2 == 0 {
                churn.volume.close().unwrap();
                let report = check_disk(&disk, 3);
                assert_clean(&report);
                assert!(
                    report.findings.iter().all(|f| f.number == 609),
                    "{}",
                    told(&report)
                );
            }
        }
    }
    assert!(holes > 0, "no run came to give space of dead frames back");
}

#[test]
fn power_cuts_leave_volumes_sound_that_are_written_over_and_over() {
    for seed in 0..60u64 {
        let (mut disk, env) = (SimDisk::new(), SimEnv::new(seed));
        create(&disk, &env);
        let mut cuts = Rng(seed);
        for round in 0..6 {
            disk.cut_after(disk.op_count() + 10 + cuts.below(400));
            let rng = Rng(seed * 100 + round);
            if let Ok(volume) = crate::common::try_open(&disk, &env) {
                let mut churn = Churn {
                    volume,
                    rng,
                    names: 12,
                };
                while churn.step().is_ok() && !disk.is_off() {}
            }
            disk = disk.power_cut(&mut SimRng::new(seed * 1000 + round));
            let report = check_disk(&disk, 3);
            let told = told(&report);
            assert!(report.is_sound(), "seed {seed} round {round}:\n{told}");
            let expected = |n: u16| [102, 103, 205, 301, 304, 609, 614].contains(&n);
            let odd = report.findings.iter().find(|f| !expected(f.number));
            assert!(odd.is_none(), "seed {seed} round {round}:\n{told}");
            let volume = open(&disk, &env);
            assert_eq!(
                volume.recovery_report().batches,
                report.checked.batches,
                "seed {seed}"
            );
            drop(volume);
            crate::common::assert_sound(&check_disk(&disk, 3));
        }
    }
}
