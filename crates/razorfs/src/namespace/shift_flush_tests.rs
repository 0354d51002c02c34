//! What moves in files while flushes let go of frames, or fail.

use std::sync::Arc;

use razorfs_disk::sim::{SimDisk, SimEnv, SimRng};
use razorfs_format::key::Tag;

use super::frames_fixture::{create, frames, read};
use crate::{CreateOptions, Geometry, Ino, Options, SetAttributes, Step, Volume};

/// A volume on a disk; its file of 20 pieces, which the next flush writes anew; what that holds.
fn pieces() -> (SimDisk, Volume, Ino, Vec<u8>) {
    let (disk, env) = (SimDisk::new(), Arc::new(SimEnv::new(1)));
    let options = Options {
        geometry: Geometry::tiny(),
        threads: false,
        ..Options::default()
    };
    let new = CreateOptions::from(&options);
    Volume::create_on(Arc::new(disk.clone()), env.clone(), &new).unwrap();
    let v = Volume::open_on(Arc::new(disk.clone()), env, options).unwrap();
    let f = create(&v, b"f");
    let mut data = vec![0; 119_000];
    for (n, piece) in data.chunks_mut(6000).enumerate() {
        SimRng::new(n as u64).fill(&mut piece[..5000]);
        v.write(f, n as u64 * 6000, &piece[..5000]).unwrap();
    }
    v.step(Step::Commit).unwrap();
    // Closes the pack, which has nothing else that stays.
    let mut filler = vec![0; 400_000];
    SimRng::new(99).fill(&mut filler);
    v.write(create(&v, b"filler"), 0, &filler).unwrap();
    v.step(Step::Commit).unwrap();
    v.unlink(Ino::ROOT, b"filler").unwrap();
    while v.step(Step::Reap).unwrap() {}
    assert_eq!(frames(&v, f, 0), (0, 20));
    (disk, v, f, data)
}

fn is_steady(v: &Volume, ino: Ino) -> bool {
    v.inner.store.layout(ino, 0).unwrap().is_steady
}

fn insert(v: &Volume, f: Ino, data: &mut Vec<u8>) {
    v.insert_range(f, 4096, 4096).unwrap();
    data.splice(4096..4096, [0; 4096]);
    assert!(read(v, f) == *data);
}

fn touch(v: &Volume, n: u32) {
    let set = SetAttributes {
        uid: Some(n),
        ..SetAttributes::default()
    };
    v.set_attributes(Ino::ROOT, &set).unwrap();
}

/// What nothing refers to is given back; the file must not need it.
fn outlasts(v: &Volume, f: Ino, data: &[u8]) {
    for n in 0..5 {
        touch(v, n);
        v.step(Step::Checkpoint).unwrap();
        v.step(Step::Compact).unwrap();
        assert!(read(v, f) == data);
    }
    v.unlink(Ino::ROOT, b"f").unwrap();
    while v.step(Step::Reap).unwrap() {}
    v.step(Step::Checkpoint).unwrap();
    let keys = v.inner.store.keys();
    assert!(!keys.iter().any(|key| key.tag() == Tag::Shared));
    assert_eq!(v.info().pack_live_bytes, 0);
}

/// See `a_block_that_a_frozen_memtable_will_write_anew_is_copied`: here it is flushed first.
#[test]
fn a_block_that_a_frozen_memtable_will_write_anew_is_flushed_first() {
    let (_, v, f, mut data) = pieces();
    assert!(v.inner.store.freeze(false).unwrap());
    assert!(!is_steady(&v, f));
    insert(&v, f, &mut data);
    assert!(frames(&v, f, 0).0 > 0);
    assert_eq!(frames(&v, f, 0).1, 0);
    outlasts(&v, f, &data);
}

/// If it cannot be flushed its bytes are written at their new place.
#[test]
fn a_block_that_cannot_be_flushed_first_is_written() {
    let (disk, v, f, mut data) = pieces();
    v.inner.store.allow_sharing().unwrap();
    assert!(v.inner.store.freeze(false).unwrap());
    let checkpoints = v.stats().checkpoints;
    disk.enospc_at(disk.counts().mutations + 1);
    insert(&v, f, &mut data);
    assert_eq!(v.stats().checkpoints, checkpoints);
    assert!(!is_steady(&v, f) && frames(&v, f, 0).0 == 0);
    disk.clear_faults();
    outlasts(&v, f, &data);
}

/// A commit that has to wait for room in the journal lets the memtable be flushed, and with it goes
/// what was seen of a block that is written anew.
#[test]
fn what_was_seen_before_a_flush_for_room_is_looked_at_anew() {
    let (_, v, f, mut data) = pieces();
    v.inner.store.allow_sharing().unwrap();
    let checkpoints = v.stats().checkpoints;
    let mut n = 0;
    while v.inner.store.limits.fits(20 * 160) {
        n += 1;
        touch(&v, n);
        v.step(Step::Commit).unwrap();
    }
    assert_eq!(v.stats().checkpoints, checkpoints);
    assert!(is_steady(&v, f));
    insert(&v, f, &mut data);
    assert!(v.stats().checkpoints > checkpoints);
    outlasts(&v, f, &data);
}
