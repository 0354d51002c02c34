//! What copying shares, and when it does not.

use razorfs_format::op::OpType;
use razorfs_format::record::{FILE_MAX, Fragment, FragmentKind};

use crate::store::What;
use crate::{Durability, Error, Ino, Options, SeekFor, SetAttributes, Step, Volume, inode_flags};

use super::frames_fixture::{BLOCK, bytes, create, frames, read, shared, volume};

#[test]
fn a_frame_is_an_own_one_until_it_is_shared() {
    let v = volume();
    let (f, g) = (create(&v, b"f"), create(&v, b"g"));
    let data = bytes(1, 2 * BLOCK as usize);
    v.write(f, 0, &data).unwrap();
    // What is in RAM is copied.
    v.copy_range(f, 0, g, 0, BLOCK).unwrap();
    assert_eq!(frames(&v, g, 0), (0, 0));
    v.step(Step::Commit).unwrap();
    assert_eq!((frames(&v, f, 0), frames(&v, g, 0)), ((0, 1), (0, 1)));
    v.copy_range(f, 0, g, BLOCK, BLOCK).unwrap();
    assert_eq!((frames(&v, f, 0), frames(&v, g, 1)), ((1, 0), (1, 0)));
    assert_eq!((frames(&v, f, 1), frames(&v, g, 0)), ((0, 1), (0, 1)));
    assert_eq!(shared(&v), 0);
    v.step(Step::Checkpoint).unwrap();
    assert_eq!(shared(&v), 1);
    // All of a frame in its block gets the origin, not only what is copied.
    v.write(f, BLOCK + 50_000, &[1; 1000]).unwrap();
    v.step(Step::Commit).unwrap();
    v.copy_range(f, BLOCK, g, 0, 40_000).unwrap();
    assert_eq!(frames(&v, f, 1), (2, 0));
    v.step(Step::Checkpoint).unwrap();
    assert_eq!(shared(&v), 2);
    for name in [b"f", b"g"] {
        v.unlink(Ino::ROOT, name).unwrap();
        while v.step(Step::Reap).unwrap() {}
        v.step(Step::Checkpoint).unwrap();
    }
    assert_eq!((shared(&v), v.info().pack_live_bytes), (0, 0));
}

#[test]
fn short_parts_of_frames_are_copied() {
    let v = volume();
    let (f, g) = (create(&v, b"f"), create(&v, b"g"));
    let data = bytes(2, 60_000);
    v.write(f, 0, &data).unwrap();
    v.step(Step::Commit).unwrap();
    v.copy_range(f, 100, g, 0, 4095).unwrap();
    assert_eq!((frames(&v, f, 0), frames(&v, g, 0)), ((0, 1), (0, 0)));
    // A thousand bytes are in one block of the target, the rest in the next.
    v.copy_range(f, 0, g, BLOCK - 1000, 6000).unwrap();
    assert_eq!((frames(&v, g, 0), frames(&v, g, 1)), ((0, 0), (1, 0)));
    let got = read(&v, g);
    assert!(got[..4095] == data[100..4195] && got[BLOCK as usize - 1000..] == data[..6000]);
}

/// A flush that writes a block of many pieces anew lets go of its frames. Whoever referred to them
/// between the freezing and the flush would refer to what is given back.
#[test]
fn a_block_that_a_frozen_memtable_will_write_anew_is_copied() {
    let v = volume();
    let (f, g) = (create(&v, b"f"), create(&v, b"g"));
    for n in 0..20 {
        v.write(f, n * 6000, &bytes(n, 5000)).unwrap();
    }
    v.step(Step::Commit).unwrap();
    // Closes the pack, which has nothing else that stays.
    let filler = create(&v, b"filler");
    v.write(filler, 0, &bytes(98, 3 * BLOCK as usize)).unwrap();
    v.step(Step::Commit).unwrap();
    v.unlink(Ino::ROOT, b"filler").unwrap();
    while v.step(Step::Reap).unwrap() {}
    let few = create(&v, b"few");
    v.write(few, 0, &bytes(99, 50_000)).unwrap();
    assert!(v.inner.store.freeze(false).unwrap());
    let steady = |ino| v.inner.store.layout(ino, 0).unwrap().is_steady;
    assert_eq!(frames(&v, f, 0), (0, 20));
    // So few that the target's block is not written anew, too.
    v.copy_range(f, 0, g, 0, 60_000).unwrap();
    v.copy_range(few, 0, g, BLOCK, u64::MAX).unwrap();
    assert!(crate::marks::count(crate::marks::Mark::CopyUnsteady) > 0);
    let of_g = (frames(&v, g, 0), frames(&v, g, 1));
    for n in 0..4 {
        let set = SetAttributes {
            uid: Some(n),
            ..SetAttributes::default()
        };
        v.set_attributes(Ino::ROOT, &set).unwrap();
        v.step(Step::Checkpoint).unwrap();
    }
    assert!(read(&v, g)[..60_000] == read(&v, f)[..60_000]);
    assert_eq!(of_g, ((0, 0), (1, 0)));
    // The block is one frame by now, and shared like any other.
    assert!(steady(f) && frames(&v, f, 0).1 > 0);
    v.copy_range(f, 0, g, 0, u64::MAX).unwrap();
    assert!(frames(&v, g, 0).0 > 0);
    v.step(Step::Checkpoint).unwrap();
    assert!(read(&v, g)[..119_000] == read(&v, f));
}

/// What was seen before the memtable was frozen may be gone with its flush.
#[test]
fn a_reference_of_another_epoch_than_its_look_is_not_committed() {
    let v = volume();
    let (f, g) = (create(&v, b"f"), create(&v, b"g"));
    v.write(f, 0, &bytes(3, 50_000)).unwrap();
    v.step(Step::Commit).unwrap();
    let store = &v.inner.store;
    let layout = store.layout(f, 0).unwrap();
    let mut op = v.inner.begin(OpType::Write).unwrap();
    let What::Own(r) = &layout.runs[0].what else {
        panic!("it is in a pack");
    };
    let kind = FragmentKind::Pack(r.clone());
    let (off, len) = (0, 50_000);
    op.refer(g, 0, Fragment { off, len, kind });
    store.freeze(false).unwrap();
    let (tx, _) = op.into_tx();
    assert!(store.commit_in(tx, Some(layout.epoch)).unwrap().is_none());
    assert_eq!(frames(&v, g, 0), (0, 0));
    assert!(store.layout(f, 0).unwrap().epoch > layout.epoch);
}

#[test]
fn a_copy_obeys_limits_and_flags_and_says_what_is_wrong() {
    let v = Volume::for_tests(Options {
        limit: Some(250_000),
        durability: Durability::Sync,
        ..Options::default()
    });
    let (f, g) = (create(&v, b"f"), create(&v, b"g"));
    v.write(f, 0, &bytes(4, 150_000)).unwrap();
    let copy = |at, len| v.copy_range(f, 0, g, at, len);
    assert!(matches!(copy(0, u64::MAX), Err(Error::LimitReached)));
    assert_eq!(copy(0, 100_000).unwrap(), 100_000);
    assert_eq!(v.info().bytes, 250_000);
    // What does not grow takes nothing.
    assert_eq!(copy(20_000, 80_000).unwrap(), 80_000);
    assert!(matches!(copy(FILE_MAX, 1), Err(Error::FileTooLarge)));
    let flags = |flags| {
        let set = SetAttributes {
            flags: Some(flags),
            ..SetAttributes::default()
        };
        v.set_attributes(g, &set).unwrap();
    };
    flags(inode_flags::APPEND);
    assert!(matches!(copy(5, 9000), Err(Error::NotPermitted(_))));
    flags(inode_flags::IMMUTABLE);
    assert!(matches!(copy(0, 9000), Err(Error::NotPermitted(_))));
    assert!(matches!(
        v.copy_range(f, 0, Ino::ROOT, 0, 1),
        Err(Error::IsADirectory)
    ));
    // Reading takes no permission of the source: it only refers to its frames differently.
    flags(0);
    v.write(g, 0, &bytes(5, 60_000)).unwrap();
    flags(inode_flags::IMMUTABLE);
    let was = v.stat(g).unwrap();
    assert_eq!(v.copy_range(g, 0, f, 0, 60_000).unwrap(), 60_000);
    assert_eq!(v.stat(g).unwrap(), was);
    assert!(read(&v, f)[..60_000] == bytes(5, 60_000));
}

#[test]
fn a_hole_of_many_blocks_is_copied_at_once() {
    let v = volume();
    let (f, g) = (create(&v, b"f"), create(&v, b"g"));
    v.write(f, 1 << 50, b"end").unwrap();
    v.write(g, 3 * BLOCK, &[7; 9000]).unwrap();
    let len = (1 << 50) + 3;
    assert_eq!(v.copy_range(f, 0, g, 100, len).unwrap(), len);
    assert_eq!(v.stat(g).unwrap().size, len + 100);
    assert_eq!(v.seek(g, 0, SeekFor::Data).unwrap(), (1 << 50) + 100);
}
