//! What a volume that takes no more writes says of it.

use std::sync::Arc;

use razorfs_disk::sim::{SimDisk, SimEnv};

use crate::{CreateOptions, Geometry, Ino, NewNode, Options, Volume};

fn new_volume(disk: &SimDisk) -> Volume {
    let options = Options {
        geometry: Geometry::tiny(),
        threads: false,
        ..Options::default()
    };
    let create = CreateOptions::from(&options);
    Volume::create_on(Arc::new(disk.clone()), Arc::new(SimEnv::new(1)), &create).unwrap();
    Volume::open_on(Arc::new(disk.clone()), Arc::new(SimEnv::new(1)), options).unwrap()
}

/// The cause and the remedy, once, wherever one asks.
fn check(volume: &Volume) -> bool {
    let Some(why) = volume.info().read_only else {
        return false;
    };
    assert_eq!(
        why.matches("stopped taking writes after: ").count(),
        1,
        "{why}"
    );
    assert_eq!(
        why.matches("unmount it and mount it again").count(),
        1,
        "{why}"
    );
    assert_eq!(volume.sync().unwrap_err().to_string(), why);
    let made = volume.create_node(Ino::ROOT, b"more", &NewNode::file(0o644));
    assert_eq!(made.unwrap_err().to_string(), why);
    true
}

#[test]
fn whatever_stopped_the_writes_is_told_once_and_with_the_remedy() {
    let mut stopped = 0;
    for call in 0..30 {
        let disk = SimDisk::new();
        let volume = new_volume(&disk);
        volume
            .create_node(Ino::ROOT, b"file", &NewNode::file(0o644))
            .unwrap();
        // The journal is tried once more elsewhere; a checkpoint fails at once.
        for k in [disk.op_count() + call, disk.op_count() + call + 1] {
            disk.fail_call_at(k);
        }
        let _ = volume.sync().and_then(|()| volume.checkpoint());
        stopped += u32::from(check(&volume));
    }
    assert!(stopped > 2, "{stopped}");
    let volume = new_volume(&SimDisk::new());
    volume.refuse_writes("nobody knows");
    assert!(check(&volume));
}
