//! `SUPER` under power cuts and damage.

use razorfs_disk::sim::{SimDisk, SimRng};
use razorfs_format::superblock::names::FeatureNames;
use razorfs_format::superblock::{
    Features, Geometry, JournalStart, ManifestRef, SLOT, State, Superblock, slots_of,
};
use razorfs_format::{BatchSeq, Generation, Jid, Lsn, ManifestId};

use super::*;

fn superblock(generation: u64) -> Superblock {
    Superblock {
        uuid: [7; 16],
        generation: Generation(generation),
        features: Features::default(),
        manifest: ManifestRef {
            id: ManifestId(generation),
            len: 1,
            crc: 2,
        },
        journal: JournalStart {
            jid: Jid(1),
            batch: BatchSeq(1),
        },
        cut: Lsn(1),
        state: State::Dirty,
        flags: 0,
        end: BatchSeq(0),
        nonce: generation,
        hash_key: [9; 16],
        geometry: Geometry::default(),
        names: FeatureNames::default(),
    }
}

fn volume(generations: u64) -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dirs().unwrap();
    SuperFile::create(&disk, &superblock(1)).unwrap();
    for g in 2..=generations {
        SuperFile::write(&disk, &superblock(g)).unwrap();
    }
    disk
}

#[test]
fn a_cut_leaves_the_new_generation_or_the_old_one_and_what_was_there_before_it() {
    for seed in 0..200 {
        let disk = volume(4);
        disk.cut_after(disk.op_count() + seed % 2);
        assert!(SuperFile::write(&disk, &superblock(5)).is_err());
        let disk = disk.power_cut(&mut SimRng::new(seed));
        let read = SuperFile::read_and_heal(&disk).unwrap();
        let g = read.newest.generation.0;
        assert!(g == 4 || g == 5);
        assert_eq!(read.newest, superblock(g));
        if g == 5 {
            assert!(read.slots.iter().flatten().any(|s| *s == superblock(4)));
        }
        // Healed for good, and the next generation can be written.
        let disk = disk.power_cut_with(|_| 0);
        let again = SuperFile::read_and_heal(&disk).unwrap();
        assert_eq!((again.newest, again.healed), (superblock(g), None));
        SuperFile::write(&disk, &superblock(g + 1)).unwrap();
        assert_eq!(SuperFile::read(&disk).unwrap().newest, superblock(g + 1));
    }
}

#[test]
fn damage_to_any_one_slot_costs_nothing() {
    let disk = volume(5);
    for slot in 0..4 {
        for how in 0..2 {
            let at = (slot * SLOT) as u64;
            if how == 0 {
                disk.flip_bit(&name(), at + 200, 1);
            } else {
                disk.fail_reads(&name(), at..at + SLOT as u64);
            }
            let read = SuperFile::read_and_heal(&disk).unwrap();
            assert_eq!(read.newest, superblock(5));
            assert!(read.slots[slot].is_err());
            let newest = slots_of(Generation(5)).contains(&slot);
            assert_eq!(read.healed, newest.then_some(slot));
            if !newest {
                SuperFile::write(&disk, &superblock(4)).unwrap();
            }
            let read = SuperFile::read(&disk).unwrap();
            assert!(read.slots.iter().all(|s| s.is_ok()));
        }
    }
}

#[test]
fn both_newest_twins_lost_is_the_generation_before() {
    let disk = volume(5);
    for slot in slots_of(Generation(5)) {
        disk.flip_bit(&name(), (slot * SLOT) as u64 + 99, 1);
    }
    let read = SuperFile::read(&disk).unwrap();
    assert_eq!(read.newest, superblock(4));
}

#[test]
fn no_superblock_is_no_volume() {
    let disk = SimDisk::new();
    disk.create_dirs().unwrap();
    assert!(matches!(SuperFile::read(&disk), Err(Error::NotAVolume(_))));
    let file = disk.open(&name(), OpenHow::CreateNew).unwrap();
    file.allocate(0..100, true).unwrap();
    assert!(matches!(SuperFile::read(&disk), Err(Error::NotAVolume(_))));
}
