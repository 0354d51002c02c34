//! What is left in the segments once snapshots are released.

use razorfs_format::key::Tag;

use crate::{Ino, NewNode, Options, Step, Volume};

fn held(volume: &Volume) -> usize {
    let version = volume.inner.store.version.load_full();
    let segments = version.levels.segments();
    segments.filter(|s| s.tag == Tag::Held).count()
}

/// Keys of what is held only grow, so nothing newer is merged with the segments that have them:
/// they stayed for ever.
#[test]
fn what_snapshots_held_is_not_listed_for_ever_after_their_release() {
    let volume = Volume::for_tests(Options::default());
    let node = NewNode::file(0o644);
    let ino = volume.create_node(Ino::ROOT, b"a", &node).unwrap().ino;
    for round in 0..20u8 {
        volume.write(ino, 0, &vec![round; 300_000]).unwrap();
        volume.checkpoint().unwrap();
        volume.snapshot(format!("s{round}")).unwrap();
    }
    while volume.step(Step::Compact).unwrap() {}
    assert!(held(&volume) > 0);
    for round in 0..20u8 {
        volume.delete_snapshot(format!("s{round}")).unwrap();
    }
    volume.checkpoint().unwrap();
    while volume.step(Step::Release).unwrap() {}
    assert!(volume.snapshots().is_empty());
    // Level 0 waits for more.
    for round in 0..20u8 {
        volume.write(ino, 0, &vec![round; 300_000]).unwrap();
        volume.checkpoint().unwrap();
        while volume.step(Step::Compact).unwrap() {}
    }
    let version = volume.inner.store.version.load_full();
    let lower = version.levels.segments().filter(|s| s.level > 0);
    assert_eq!(lower.filter(|s| s.tag == Tag::Held).count(), 0);
}

/// Files that were open at a rollback are read from what was before it, which kept that, and the
/// snapshot that was gone back to, until the volume was closed.
#[test]
fn what_was_before_a_rollback_is_released_once_it_is_deleted() {
    let volume = Volume::for_tests(Options::default());
    let node = NewNode::file(0o644);
    let ino = volume.create_node(Ino::ROOT, b"a", &node).unwrap().ino;
    volume.write(ino, 0, &[7; 30_000]).unwrap();
    volume.snapshot("s").unwrap();
    let other = volume.create_node(Ino::ROOT, b"b", &node).unwrap().ino;
    volume.pin(other, 1);
    volume.write(other, 0, &[8; 30_000]).unwrap();
    let before = volume.rollback("s").unwrap();
    let mut byte = [0];
    assert_eq!(volume.read(other, 0, &mut byte).unwrap(), 1);
    for name in [&before.name, "s"] {
        volume.delete_snapshot(name).unwrap();
    }
    volume.checkpoint().unwrap();
    while volume.step(Step::Release).unwrap() {}
    let version = volume.inner.store.version.load_full();
    assert!(version.timeline.snapshots().is_empty());
    assert!(volume.read(other, 0, &mut byte).is_err());
    assert_eq!(volume.read(ino, 0, &mut byte).unwrap(), 1);
}
