//! Two copies of each file: any one file may be destroyed.

use razorfs_disk::{Name, OpenHow};
use razorfs_format::journal::FileHeader;
use razorfs_format::layout::FileName;

use super::*;
use crate::marks::{Mark, count};

/// Destroys one copy of one file of a disk that nobody has open, in any way. `older` is the same
/// disk some time before.
fn destroy(disk: &SimDisk, older: &Image, rng: &mut SimRng) -> String {
    let files = disk.files();
    let journal: Vec<&(Name, u64)> = files.iter().filter(|f| f.0.dir == Dir::Journal).collect();
    let (name, len) = rng.pick(&journal).copied().unwrap().clone();
    let how = rng.below(7);
    let mut image = disk.image();
    match how {
        0 => {
            image.remove(&name);
        }
        1 => image.write(&name, 0, &vec![0; len as usize]),
        2 => {
            let noise = payload(rng, len);
            image.write(&name, 0, &noise);
        }
        3 => {
            image.set_len(&name, rng.below(len + 1));
        }
        4 => {
            let old = older.bytes(&name);
            image.remove(&name);
            if let Some(old) = old {
                image.write(&name, 0, &old);
            }
        }
        5 => {
            // The bytes of another file.
            let other = rng.pick(&journal).copied().unwrap().0.clone();
            let bytes = image.bytes(&other).unwrap();
            image.remove(&name);
            image.write(&name, 0, &bytes);
        }
        _ => {
            for _ in 0..rng.range(1, 20) {
                let at = rng.below(len.max(1));
                let bits = payload(rng, 1);
                image.write(&name, at, &bits);
            }
        }
    }
    disk.restore(&image);
    format!("{name}, in way {how}")
}

/// That all copies are there, and the same.
fn check_equal(disk: &SimDisk, ring: &Ring, what: &str) {
    for slot in ring.files.iter().map(|f| f.slot) {
        let (first, second) = (read(disk, slot, 0), read(disk, slot, 1));
        let sectors = first.chunks_exact(SECTOR).zip(second.chunks_exact(SECTOR));
        let differ: Vec<usize> = sectors
            .enumerate()
            .filter(|(_, (a, b))| a != b)
            .map(|(n, _)| n)
            .collect();
        let lens = (first.len(), second.len());
        assert!(
            differ.is_empty(),
            "{what}: slot {slot}, {lens:?}: {differ:?}"
        );
    }
}

fn read(disk: &SimDisk, slot: u32, copy: u8) -> Vec<u8> {
    let file = disk.open(&host::name(slot, copy), OpenHow::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn with_two_copies_a_power_cut_leaves_a_prefix_no_shorter_than_the_last_sync() {
    for seed in 0..seeds() {
        let mut w = World::with(seed, 2);
        for _ in 0..4 {
            let calls = w.disk.op_count();
            w.disk.cut_after(calls + w.rng.below(120));
            while w.step().is_ok() {}
            w.recover();
            let ring = w.ring.as_ref().unwrap();
            check_equal(&w.disk, ring, &format!("seed {seed}"));
        }
    }
}

#[test]
fn with_two_copies_failing_syncs_and_writes_lose_nothing_that_was_acknowledged() {
    let mut rescues = 0;
    for seed in 0..seeds() {
        let mut w = World::with(seed, 2);
        for _ in 0..3 {
            for _ in 0..30 {
                let counts = w.disk.counts();
                if w.rng.chance(1, 8) {
                    w.disk.fail_sync_at(counts.syncs + w.rng.below(3));
                }
                if w.rng.chance(1, 8) {
                    w.disk.fail_write_at(counts.writes + w.rng.below(3), 0);
                }
                if w.step().is_err() {
                    break;
                }
            }
            rescues += w.rescues;
            w.recover();
        }
    }
    assert!(rescues > 0);
}

/// After a cut any one file is destroyed, the ring is recovered, perhaps cut again on the way, and
/// so on: each time nothing that was acknowledged is missing, and both copies are whole again.
#[test]
fn any_one_file_may_be_destroyed_after_any_cut() {
    let (mut healed, mut made) = (0, 0);
    for seed in 0..4 * seeds() {
        let mut w = World::with(seed, 2);
        let mut older = w.disk.image();
        for round in 0..5 {
            let calls = w.disk.op_count();
            w.disk.cut_after(calls + w.rng.below(120));
            let mut steps = 0;
            while w.step().is_ok() {
                steps += 1;
                if steps == 5 && w.rng.chance(1, 3) {
                    older = w.disk.image();
                }
            }
            w.ring = None;
            w.disk = w.disk.power_cut(&mut w.rng);
            let how = destroy(&w.disk, &older, &mut w.rng);
            println!("seed {seed}, round {round}: {how}");
            let (report, log) = read_only(&w.disk, w.starts[0], None);
            w.check_log(w.starts[0], &report, &log);
            w.starts[1] = w.starts[0];
            let (ring, report, log) = recover(&w.disk, w.starts[0], None).unwrap();
            w.check_log(w.starts[0], &report, &log);
            check_equal(
                &w.disk,
                &ring,
                &format!("seed {seed}, round {round}, {how}"),
            );
            healed += usize::from(!report.healed.is_empty());
            made += usize::from(report.healed.iter().any(|e| e.to_string().contains("none")));
            w.history.truncate(report.last.0 as usize);
            w.acked = report.last.0;
            w.ring = Some(ring);
            older = if w.rng.chance(1, 2) {
                w.disk.image()
            } else {
                older
            };
        }
    }
    assert!(healed > 0 && made > 0, "{healed} healed, {made} made again");
}

/// A copy that is healed halfway and cut counts for what it is; the other one is still whole.
#[test]
fn healing_may_be_cut_at_every_call() {
    for seed in 0..seeds() / 10 {
        let mut w = World::with(seed, 2);
        for _ in 0..40 {
            w.step().unwrap();
        }
        w.sync().unwrap();
        w.ring = None;
        let older = w.disk.image();
        w.disk = w.disk.power_cut(&mut w.rng);
        let how = destroy(&w.disk, &older, &mut w.rng);
        let image = w.disk.image();
        for cut in 0.. {
            let disk = SimDisk::from_image(&image);
            disk.cut_after(cut);
            let done = recover(&disk, w.starts[0], None).is_ok();
            let after = disk.after_cut(&mut w.rng);
            let (ring, report, log) = recover(&after, w.starts[0], None).unwrap();
            println!("seed {seed}, cut {cut}: {how}");
            w.check_log(w.starts[0], &report, &log);
            check_equal(&after, &ring, &how);
            if done {
                break;
            }
        }
    }
}

/// A disk that does not take a sector of one copy any more.
#[test]
fn a_copy_that_cannot_be_healed_is_made_anew() {
    let disk = blank();
    let (mut ring, start) = create_with(&disk, 2);
    for n in 1..4 {
        ring.append(&batch(n, vec![n as u8; 3000])).unwrap();
        ring.sync().unwrap();
    }
    drop(ring);
    for copy in 0..2 {
        let mut image = disk.after_cut_with(|_| 0).image();
        let name = host::name(0, copy);
        let len = image.bytes(&name).unwrap().len();
        image.write(&name, 0, &vec![0xEE; len / 2]);
        let disk = SimDisk::from_image(&image);
        disk.fail_write_at(disk.counts().writes, 0);
        let before = count(Mark::JournalTwinReplaced);
        let (ring, report, _) = recover(&disk, start, None).unwrap();
        assert!(count(Mark::JournalTwinReplaced) > before);
        assert_eq!((report.last, report.read_only), (BatchSeq(3), false));
        assert!(!report.healed.is_empty());
        check_equal(&disk, &ring, "made anew");
        drop(ring);
        // Nothing of it hangs on the other copy.
        let mut alone = disk.after_cut_with(|_| 0).image();
        alone.remove(&host::name(0, 1 - copy));
        let (_, report, _) = recover(&SimDisk::from_image(&alone), start, None).unwrap();
        assert_eq!((report.last, report.read_only), (BatchSeq(3), false));
    }
}

/// Where nothing is needed, one copy is cut off before a sector that is damaged in the other one.
#[test]
fn a_copy_that_was_cut_off_leaves_no_damage_in_the_other_one() {
    for copy in 0..2 {
        let disk = blank();
        let (mut ring, start) = create_with(&disk, 2);
        ring.append(&batch(1, vec![1; 3000])).unwrap();
        ring.sync().unwrap();
        drop(ring);
        let mut image = disk.image();
        let len = image.bytes(&host::name(0, 0)).unwrap().len() as u64;
        image.set_len(&host::name(0, copy), len / 2);
        let at = len - 2 * SECTOR as u64;
        image.write(&host::name(0, 1 - copy), at, &[0xEE; SECTOR]);
        let disk = SimDisk::from_image(&image);
        let (ring, report, _) = recover(&disk, start, None).unwrap();
        assert_eq!((report.last, report.read_only), (BatchSeq(1), false));
        check_equal(&disk, &ring, "cut off");
    }
}

/// What neither copy has whole, but both together, counts: so it must be whole in each before
/// anything builds on it.
#[test]
fn a_batch_of_both_copies_together_is_made_whole_before_the_next_life() {
    let disk = blank();
    let (mut ring, start) = create_with(&disk, 2);
    ring.append(&batch(1, vec![1; 9000])).unwrap();
    ring.sync().unwrap();
    let before = disk.image();
    ring.append(&batch(2, vec![2; 9000])).unwrap();
    ring.sync().unwrap();
    drop(ring);
    let mut image = disk.image();
    // Of batch 2 the first copy keeps the even sectors, the second one the odd ones.
    let names = [host::name(0, 0), host::name(0, 1)];
    for (copy, name) in names.iter().enumerate() {
        let old = before.bytes(name).unwrap();
        let new = image.bytes(name).unwrap();
        for n in (0..new.len() / SECTOR).filter(|n| n % 2 != copy) {
            let range = n * SECTOR..(n + 1) * SECTOR;
            image.write(name, range.start as u64, &old[range]);
        }
    }
    let disk = SimDisk::from_image(&image);
    let (report, _) = read_only(&disk, start, None);
    assert_eq!((report.last, report.read_only), (BatchSeq(2), false));
    let (mut ring, report, _) = recover(&disk, start, None).unwrap();
    assert_eq!(report.last, BatchSeq(2));
    ring.append(&batch(3, vec![3; 10])).unwrap();
    ring.sync().unwrap();
    for name in &names {
        let mut one = disk.after_cut_with(|_| 0).image();
        one.remove(name);
        let one = SimDisk::from_image(&one);
        let (_, report, _) = recover(&one, start, None).unwrap();
        assert_eq!((report.last, report.read_only), (BatchSeq(3), false));
    }
}

/// With one copy this is a lost write at the end of a clean volume, or a torn end.
#[test]
fn a_sector_that_is_gone_in_both_copies_is_noticed() {
    let disk = blank();
    let (mut ring, start) = create_with(&disk, 2);
    for seq in 1..=3 {
        ring.append(&batch(seq, vec![seq as u8; 6000])).unwrap();
        ring.sync().unwrap();
    }
    drop(ring);
    let mut image = disk.image();
    for copy in 0..2 {
        assert!(image.flip_bit(&host::name(0, copy), 2 * UNIT as u64 + 600, 3));
    }
    let disk = SimDisk::from_image(&image);
    let (_, report, log) = recover(&disk, start, None).unwrap();
    assert!(report.read_only && report.healed.is_empty(), "{report:?}");
    assert!(log.len() < 2);
    // Nothing was written over.
    let after = disk.image();
    assert!(
        host::names(&disk, 2)
            .unwrap()
            .iter()
            .all(|n| after.bytes(n) == image.bytes(n))
    );
}

/// A life number that only the destroyed copy named is not given out again.
#[test]
fn no_life_number_comes_twice_though_the_copy_that_named_it_is_gone() {
    let disk = blank();
    let (ring, start) = create_with(&disk, 2);
    drop(ring);
    // A header that reached one copy before the power went.
    let calls = disk.op_count();
    disk.cut_after(calls + 2);
    assert!(recover(&disk, start, None).is_err());
    let image = disk.after_cut_with(|n| n - 1).image();
    let lives = |image: &Image, copy| {
        let disk = SimDisk::from_image(image);
        let bytes = read(&disk, 2, copy);
        let place = Place::new(FileName::journal(2, copy), 0);
        FileHeader::decode(VID, &bytes, place).unwrap().jid
    };
    let used = lives(&image, 0).max(lives(&image, 1));
    let mut lost = image.clone();
    for copy in 0..2 {
        if lives(&image, copy) == used {
            lost.remove(&host::name(2, copy));
            break;
        }
    }
    let (ring, _, _) = recover(&SimDisk::from_image(&lost), start, None).unwrap();
    assert!(
        ring.newest > used.max(Jid(1)),
        "{:?} after {used:?}",
        ring.newest
    );
}
