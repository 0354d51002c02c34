//! Streams where tables are read a few keys at a time, as here.

use std::sync::Arc;

use razorfs_disk::sim::{SimDisk, SimEnv};

use crate::{CreateOptions, Incoming, Options, ReceiveOptions, SendOptions, Step, Volume};

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
