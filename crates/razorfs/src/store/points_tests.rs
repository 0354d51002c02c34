//! What a snapshot waits for, and what it does not.

use std::sync::Arc;

use razorfs_disk::sim::{SimDisk, SimEnv};

use crate::sync::atomic::Ordering;
use crate::{CreateOptions, Error, Ino, NewNode, Options, Result, Volume};

fn new_volume() -> Volume {
    let (disk, env) = (Arc::new(SimDisk::new()), Arc::new(SimEnv::new(1)));
    let options = Options {
        threads: false,
        ..Options::default()
    };
    let create = CreateOptions::from(&options);
    Volume::create_on(disk.clone(), env.clone(), &create).unwrap();
    Volume::open_on(disk, env, options).unwrap()
}

/// It took more than a second where writers had filled the journal: as long as the checkpoint.
#[test]
fn a_snapshot_waits_for_no_checkpoint_where_writers_have_filled_the_journal() {
    let volume = new_volume();
    let store = &volume.inner.store;
    let before = volume.stats().checkpoints;
    for n in 0.. {
        if !store.limits.fits(store.limits.soft_batch()) {
            break;
        }
        let name = format!("file-{n}");
        let node = NewNode::file(0o644);
        volume
            .create_node(Ino::ROOT, name.as_bytes(), &node)
            .unwrap();
    }
    assert_eq!(volume.stats().checkpoints, before, "writers only fill it");
    for n in 0..8 {
        volume.snapshot(format!("s{n}")).unwrap();
        let name = format!("between-{n}");
        let node = NewNode::directory(0o755);
        volume
            .create_node(Ino::ROOT, name.as_bytes(), &node)
            .unwrap();
    }
    assert_eq!(volume.stats().checkpoints, before);
    volume.close().unwrap();
}

/// What was written while a snapshot placed what came before it had to be placed, too.
#[test]
fn writers_leave_the_batch_small_while_a_snapshot_is_taken() {
    let volume = new_volume();
    let node = NewNode::file(0o644);
    let file = volume.create_node(Ino::ROOT, b"file", &node).unwrap().ino;
    let batches = |step: u64| {
        volume.sync().unwrap();
        let before = volume.stats().batches;
        for n in 0..4 {
            volume.write(file, n * step, &[1; 40 << 10]).unwrap();
        }
        volume.stats().batches - before
    };
    assert_eq!(batches(40 << 10), 0);
    let points = &volume.inner.store.points;
    points.fetch_add(1, Ordering::Relaxed);
    assert_eq!(batches(40 << 10), 3, "each but the last is sealed alone");
    points.fetch_sub(1, Ordering::Relaxed);
    assert_eq!(batches(40 << 10), 0);
    volume.close().unwrap();
}

/// Deleted through another handle, it was held, and read on from, until the branch was closed.
#[test]
fn a_snapshot_deleted_elsewhere_is_not_held_for_the_open_files_of_a_branch() {
    let volume = new_volume();
    volume.create_branch("side").unwrap();
    let branch = volume.branch("side").unwrap();
    branch.snapshot("start").unwrap();
    let node = NewNode::file(0o644);
    let file = branch.create_node(Ino::ROOT, b"file", &node).unwrap().ino;
    branch.write(file, 0, b"gone").unwrap();
    branch.pin(file, 1);
    let safety = branch.rollback("start").unwrap();
    let other = branch.rollback("start").unwrap();
    let mut bytes = [0; 4];
    assert_eq!(branch.read(file, 0, &mut bytes).unwrap(), 4);
    assert_eq!(&bytes, b"gone");
    volume.delete_snapshot(&safety).unwrap();
    assert!(branch.read(file, 0, &mut bytes).is_err());
    assert!(!branch.inner.store.is_viewed(safety.id));
    assert!(branch.inner.store.is_viewed(other.id), "it is another one");
}

/// Each has a view as long as the list of all lines, so that an image with very many branches took
/// the square of their number when it was opened.
#[test]
fn only_the_branches_that_somebody_looks_at_have_views() {
    let volume = new_volume();
    for n in 0..20 {
        let name = format!("b{n}");
        volume.create_branch(&name).unwrap();
        let branch = volume.branch(&name).unwrap();
        let node = NewNode::file(0o644);
        branch.create_node(Ino::ROOT, b"file", &node).unwrap();
    }
    volume.checkpoint().unwrap();
    volume.create_branch("last").unwrap();
    let views = || volume.inner.store.version.load().fork_views();
    assert_eq!(views(), 0);
    for n in [3, 3, 17] {
        let branch = volume.branch(format!("b{n}")).unwrap();
        branch.lookup(Ino::ROOT, b"file").unwrap();
    }
    assert_eq!(views(), 2);
    assert!(volume.lookup(Ino::ROOT, b"file").is_err());
}

/// They could be deleted, looked at and gone back to under a name that nobody can give.
#[test]
fn what_the_volume_keeps_for_itself_has_no_name_for_others() {
    let volume = new_volume();
    volume.inner.store.take(b"-inside").unwrap();
    let unknown = |result: Result<()>| assert!(matches!(result, Err(Error::NotFound)));
    unknown(volume.delete_snapshot("-inside"));
    unknown(volume.at_snapshot("-inside").map(drop));
    unknown(volume.rollback("-inside").map(drop));
    assert_eq!(volume.inner.store.internal().1, [Box::from(*b"-inside")]);
}

/// It was told as having failed, and the branch was gone.
#[test]
fn a_branch_is_deleted_although_what_was_committed_of_it_cannot_go_yet() {
    let volume = new_volume();
    volume.create_branch("side").unwrap();
    let side = volume.branch("side").unwrap();
    let file = NewNode::file(0o644);
    side.create_node(Ino::ROOT, b"file", &file).unwrap();
    volume.create_node(Ino::ROOT, b"here", &file).unwrap();
    let done = volume
        .commit_branch(&side, crate::OnConflict::Refuse)
        .unwrap();
    assert!(matches!(done, crate::Committed::Done(_)), "{done:?}");
    drop(side);
    let store = &volume.inner.store;
    let bases = store.internal().0;
    assert_eq!(bases.len(), 1);
    let held = store.open_branch(bases[0].id).unwrap();
    volume.delete_branch("side").unwrap();
    assert!(volume.branches().is_empty());
    drop(held);
    volume.inner.remove_leftovers().unwrap();
    assert_eq!(store.internal().0, []);
}
