//! Streams where tables are read a few keys at a time, as here.

use std::sync::Arc;

use razorfs_disk::sim::{SimDisk, SimEnv};

use crate::{
    CreateOptions, Incoming, Options, ReceiveOptions, SendOptions, SetAttributes, Step, Volume,
};

fn volume(seed: u64) -> Volume {
    let (disk, env) = (Arc::new(SimDisk::new()), Arc::new(SimEnv::new(seed)));
    let options = Options {
        threads: false,
        ..Options::default()
    };
    let create = CreateOptions::from(&options);
    Volume::create_on(disk.clone(), env.clone(), &create).unwrap();
    Volume::open_on(disk, env, options).unwrap()
}

fn carry(from: &Volume, to: &Volume, name: &str, base: Option<&str>) {
    from.snapshot(name).unwrap();
    let what = SendOptions::Snapshot {
        name: name.into(),
        from: base.map(str::to_owned),
    };
    let mut stream = Vec::new();
    from.send(&what, &mut stream, &mut |_| Ok(())).unwrap();
    let incoming = Incoming::new(stream.as_slice()).unwrap();
    to.receive(incoming, ReceiveOptions::default(), &mut |_| Ok(()))
        .unwrap();
}

/// It was refused as a file that is gone, until the reaper had come by.
#[test]
fn a_file_that_was_removed_a_stream_ago_comes_back_with_the_next_one() {
    let (a, b) = (volume(1), volume(2));
    let fs = a.root();
    fs.write("back", vec![7; 300_000]).unwrap();
    carry(&a, &b, "one", None);
    fs.remove_file("back").unwrap();
    carry(&a, &b, "two", Some("one"));
    assert!(!b.root().exists("back").unwrap());
    a.rollback("one").unwrap();
    let back = a.find_by_path(b"back").unwrap();
    for size in [5, 200_000] {
        let set = SetAttributes {
            size: Some(size),
            ..SetAttributes::default()
        };
        a.set_attributes(back, &set).unwrap();
    }
    carry(&a, &b, "three", Some("two"));
    let found = b.root().read("back").unwrap();
    assert!(found == fs.read("back").unwrap() && found.len() == 200_000);
    assert_eq!(b.space().unwrap().inodes, a.space().unwrap().inodes);
}

/// The snapshot that is taken where the volume goes back first stayed.
#[test]
fn a_receipt_that_a_crash_ended_has_left_no_snapshot_of_what_was_before() {
    let a = volume(1);
    let (disk, env) = (SimDisk::new(), Arc::new(SimEnv::new(2)));
    let options = || Options {
        threads: false,
        ..Options::default()
    };
    let create = CreateOptions::from(&options());
    Volume::create_on(Arc::new(disk.clone()), env.clone(), &create).unwrap();
    let b = Volume::open_on(Arc::new(disk.clone()), env.clone(), options()).unwrap();
    a.root().write("f", b"one").unwrap();
    carry(&a, &b, "one", None);
    b.root().write("own", b"what was before").unwrap();
    b.sync().unwrap();
    a.root().write("f", b"two").unwrap();
    a.snapshot("two").unwrap();
    let what = SendOptions::Snapshot {
        name: "two".into(),
        from: Some("one".into()),
    };
    let mut stream = Vec::new();
    a.send(&what, &mut stream, &mut |_| Ok(())).unwrap();
    let incoming = Incoming::new(stream.as_slice()).unwrap();
    let how = ReceiveOptions { force: true };
    let mut crashed = None;
    let off = b.receive(incoming, how, &mut |_| {
        crashed = Some(disk.power_cut_with(|versions| versions - 1));
        Ok(())
    });
    assert!(off.is_err(), "the disk that was cut is off");
    let names = |volume: &Volume| -> Vec<String> {
        let all = volume.snapshots().into_iter();
        all.map(|s| s.name).collect()
    };
    let again = Volume::open_on(Arc::new(crashed.unwrap()), env, options()).unwrap();
    assert_eq!(names(&again), ["one"]);
    assert_eq!(again.root().read("own").unwrap(), b"what was before");
    let incoming = Incoming::new(stream.as_slice()).unwrap();
    let received = again.receive(incoming, how, &mut |_| Ok(())).unwrap();
    let safety = received.safety.unwrap().name;
    assert_eq!(names(&again), ["one", &safety, "two"]);
    let before = again.at_snapshot(&safety).unwrap();
    assert_eq!(before.root().read("own").unwrap(), b"what was before");
    assert_eq!(again.root().read("f").unwrap(), b"two");
}

/// Some in segments, some of these written over or removed, some in memory alone.
#[test]
fn all_keys_of_all_layers_are_sent() {
    let (a, b) = (volume(1), volume(2));
    let fs = a.root();
    fs.create_dir("d").unwrap();
    for n in 0..60 {
        fs.write(format!("d/{n}"), format!("first {n}")).unwrap();
    }
    a.step(Step::Checkpoint).unwrap();
    for n in (0..60).step_by(3) {
        fs.write(format!("d/{n}"), format!("second {n}")).unwrap();
        fs.remove_file(format!("d/{}", n + 1)).unwrap();
    }
    a.step(Step::Checkpoint).unwrap();
    for n in 60..90 {
        fs.write(format!("d/{n}"), format!("third {n}")).unwrap();
    }
    let same = |name: &str| {
        let (a, b) = (a.at_snapshot(name).unwrap(), b.root());
        for n in 0..100 {
            let path = format!("d/{n}");
            let there = a.root().read(&path).ok();
            assert_eq!(there, b.read(&path).ok(), "{path}");
        }
    };
    carry(&a, &b, "all", None);
    same("all");
    for n in 0..80 {
        fs.write(format!("d/{n}"), format!("fourth {n}")).unwrap();
    }
    carry(&a, &b, "more", Some("all"));
    same("more");
}
