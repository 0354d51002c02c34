use std::sync::Arc;

use razorfs::{CreateOptions, Geometry, Options, Step};
use razorfs_disk::sim::{SimDisk, SimEnv};

use super::*;

fn volume() -> Volume {
    let (disk, env) = (Arc::new(SimDisk::new()), Arc::new(SimEnv::new(1)));
    let options = Options {
        threads: false,
        geometry: Geometry::tiny(),
        ..Options::default()
    };
    let create = CreateOptions::from(&options);
    Volume::create_on(disk.clone(), env.clone(), &create).unwrap();
    Volume::open_on(disk, env, options).unwrap()
}

fn put(volume: &Volume, name: &str, data: &[u8]) -> Ino {
    let made = volume.create_node(Ino::ROOT, name.as_bytes(), &NewNode::file(0o644));
    let ino = made.unwrap().ino;
    volume.write(ino, 0, data).unwrap();
    ino
}

fn walk(fs: &WithSnapshots, path: &str) -> Result<Ino> {
    let mut at = Ino::ROOT;
    for name in path.split('/') {
        at = fs.lookup(at, name.as_bytes())?.ino;
    }
    Ok(at)
}

fn names(fs: &WithSnapshots, dir: Ino) -> Vec<String> {
    let mut names = Vec::new();
    let listed = fs.collect_children(dir, 0, &mut |e| {
        names.push(String::from_utf8_lossy(&e.name).into_owned());
        true
    });
    listed.unwrap();
    names
}

fn content(fs: &WithSnapshots, ino: Ino) -> Vec<u8> {
    let mut data = vec![0; fs.stat(ino).unwrap().size as usize];
    fs.read(ino, 0, &mut data).unwrap();
    data
}

#[test]
fn snapshots_are_seen_below_a_directory_that_is_not_listed() {
    let volume = volume();
    let file = put(&volume, "file", b"before");
    volume.snapshot("one").unwrap();
    volume.write(file, 0, b"after!").unwrap();
    let fs = WithSnapshots::new(volume.clone());
    assert_eq!(names(&fs, Ino::ROOT), ["file"]);
    assert_eq!(names(&fs, walk(&fs, ".razorfs").unwrap()), ["snapshots"]);
    let snapshots = walk(&fs, ".razorfs/snapshots").unwrap();
    assert_eq!(names(&fs, snapshots), ["one"]);
    let one = walk(&fs, ".razorfs/snapshots/one").unwrap();
    assert_eq!(names(&fs, one), ["file"]);
    assert_eq!(fs.parent_of(one).unwrap(), snapshots);
    let old = walk(&fs, ".razorfs/snapshots/one/file").unwrap();
    assert_ne!(old, file);
    assert_eq!(content(&fs, old), b"before");
    assert_eq!(content(&fs, file), b"after!");
    for refused in [
        fs.write(old, 0, b"x").err(),
        fs.create_node(one, b"new", &NewNode::file(0o644)).err(),
        fs.create_node(snapshots, b"new", &NewNode::directory(0o755))
            .err(),
        fs.rename(one, b"file", Ino::ROOT, b"moved", RenameMode::Replace)
            .err(),
        fs.link(old, Ino::ROOT, b"linked").err(),
    ] {
        assert!(matches!(refused, Some(Error::ReadOnly(_))), "{refused:?}");
    }
    assert!(matches!(
        walk(&fs, ".razorfs/snapshots/two"),
        Err(Error::NotFound)
    ));
    // Whoever has such a name of his own keeps it.
    put(&volume, HIDDEN, b"mine");
    assert_eq!(content(&fs, walk(&fs, HIDDEN).unwrap()), b"mine");
}

#[test]
fn a_snapshot_is_let_go_of_when_the_kernel_has_forgotten_it() {
    let volume = volume();
    put(&volume, "file", &[7; 100_000]);
    volume.snapshot("one").unwrap();
    let fs = WithSnapshots::new(volume.clone());
    let one = walk(&fs, ".razorfs/snapshots/one").unwrap();
    let file = walk(&fs, ".razorfs/snapshots/one/file").unwrap();
    fs.pin(one, 1);
    fs.pin(file, 2);
    volume.unlink(Ino::ROOT, b"file").unwrap();
    while volume.step(Step::Reap).unwrap() {}
    volume.delete_snapshot("one").unwrap();
    volume.checkpoint().unwrap();
    assert!(!volume.step(Step::Release).unwrap());
    assert_eq!(content(&fs, file), [7; 100_000]);
    fs.unpin(file, 2);
    assert!(!volume.step(Step::Release).unwrap());
    fs.unpin(one, 1);
    assert!(volume.step(Step::Release).unwrap());
    assert!(matches!(fs.stat(file), Err(Error::RolledBack)));
}

#[test]
fn a_server_that_goes_on_finds_the_nodes_of_the_one_before() {
    let volume = volume();
    put(&volume, "file", b"data");
    volume.snapshot("one").unwrap();
    volume.snapshot("two").unwrap();
    let before = WithSnapshots::new(volume.clone());
    let file = walk(&before, ".razorfs/snapshots/two/file").unwrap();
    drop(before);
    let fs = WithSnapshots::new(volume);
    assert_eq!(content(&fs, file), b"data");
    // Forgotten once more than this one counted: it stays open, and nothing breaks.
    fs.unpin(file, 3);
    assert_eq!(content(&fs, file), b"data");
}

#[test]
fn a_long_list_of_snapshots_goes_on_where_it_was() {
    let volume = volume();
    for n in 0..50 {
        volume.snapshot(format!("s{n:02}")).unwrap();
    }
    let fs = WithSnapshots::new(volume);
    let (mut seen, mut after) = (Vec::new(), 0);
    loop {
        let mut some = Vec::new();
        let listed = fs.collect_children(SNAPSHOTS_NODE, after, &mut |e| {
            some.push(e);
            some.len() < 7
        });
        listed.unwrap();
        let Some(last) = some.last() else { break };
        after = last.cookie;
        seen.extend(some.into_iter().map(|e| e.name));
    }
    let expected: Vec<Box<[u8]>> = (0..50)
        .map(|n| format!("s{n:02}").into_bytes().into())
        .collect();
    assert_eq!(seen, expected);
    assert!(fs.stat(Ino(LISTED + 3)).is_err());
}
