use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use razorfs::{CreateOptions, Options, Volume};
use serde_json::json;

use super::Mounts;
use crate::options::MountOptions;
use crate::shows::Shows;

/// A commit may take minutes. Meanwhile the daemon's main thread waited for it as soon as a mount
/// was to come, and with it whoever unmounted, and signals.
#[test]
fn nobody_but_the_next_commit_waits_for_a_commit() {
    let room = tempfile::tempdir().unwrap();
    let path = room.path().join("volume.rzfs");
    Volume::create(&path, &CreateOptions::default()).unwrap();
    let volume = Volume::open(&path, Options::default()).unwrap();
    volume.snapshot("before").unwrap();
    let options = MountOptions::default();
    let mounts = Mounts::new(volume.clone(), path, options, None, true, |_| ());
    let mounts = Arc::new(mounts);
    let (begun, has_begun) = channel();
    let (go_on, may_go_on) = channel::<()>();
    let of_commit = Arc::clone(&mounts);
    let commit = std::thread::spawn(move || {
        of_commit.commit(&Shows::Head, "the branch side", |seen| {
            begun.send(()).unwrap();
            may_go_on.recv().unwrap();
            seen("before");
            Ok(json!({}))
        })
    });
    has_begun.recv().unwrap();
    let (done, is_done) = channel();
    let of_other = Arc::clone(&mounts);
    let other = std::thread::spawn(move || {
        of_other.changing(|| done.send(()).unwrap());
    });
    is_done.recv_timeout(Duration::from_secs(60)).unwrap();
    other.join().unwrap();
    assert!(!commit.is_finished());
    go_on.send(()).unwrap();
    commit.join().unwrap().unwrap();
    volume.close().unwrap();
}
