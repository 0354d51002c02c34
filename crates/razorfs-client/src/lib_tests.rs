//! A volume that nobody serves.

use std::io::ErrorKind;

use razorfs::{CreateOptions, Durability, XattrMode};

use super::*;

fn volume() -> (tempfile::TempDir, std::path::PathBuf) {
    let room = tempfile::tempdir().unwrap();
    let path = room.path().join("v");
    Volume::create(&path, &CreateOptions::default()).unwrap();
    (room, path)
}

fn names(points: io::Result<Vec<Point>>) -> Vec<String> {
    points.unwrap().into_iter().map(|p| p.name).collect()
}

#[test]
fn a_volume_that_nobody_serves_is_opened_here_and_does_the_same() {
    let (_room, path) = volume();
    let client = open(&path, Options::default()).unwrap();
    assert!(!client.is_served());
    let fs = client.root();
    fs.create_dir_all("d/e").unwrap();
    fs.write("d/f", vec![1; 3 << 20]).unwrap();
    fs.set_xattr("d/f", "user.x", b"value", XattrMode::Create)
        .unwrap();
    let again = fs.set_xattr("d/f", "user.x", b"", XattrMode::Create);
    assert_eq!(again.err().unwrap().kind(), ErrorKind::AlreadyExists);
    assert_eq!(fs.xattr("d/f", "user.x").unwrap(), b"value");
    assert_eq!(fs.xattrs("d/f").unwrap(), ["user.x"]);
    fs.remove_xattr("d/f", "user.x").unwrap();
    assert!(fs.xattr("d/f", "user.x").is_err());
    client.snapshot("s").unwrap();
    client.create_branch("b").unwrap();
    let mut tx = fs.transaction();
    tx.write("g", b"g");
    tx.exchange("g", "d/f");
    tx.rename_new("d/e", "e");
    tx.commit(Durability::Synced).unwrap();
    assert_eq!(fs.read("d/f").unwrap(), b"g");
    assert_eq!(
        fs.rename_new("g", "e").err().unwrap().kind(),
        ErrorKind::AlreadyExists
    );
    fs.exchange("g", "d/f").unwrap();
    assert_eq!(fs.read("g").unwrap(), b"g");
    let branch = client.view("b").unwrap().root();
    branch.remove_dir_all("d").unwrap();
    assert!(fs.exists("d/f").unwrap());
    let taken = client.view("s").unwrap().root();
    assert_eq!(taken.read("d/f").unwrap().len(), 3 << 20);
    let refused = taken.write("x", b"").err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem);
    let held = client.delete_branch("b").err().unwrap();
    assert_eq!(held.kind(), ErrorKind::ResourceBusy);
    assert_eq!(names(client.snapshots()), ["s"]);
    assert_eq!(names(client.branches()), ["b"]);
    drop((fs, branch, taken));
    client.clone().close().unwrap();
    assert!(client.root().write("late", b"").is_err());
    drop(client);
    let branch = open(path.parent().unwrap().join("v@b"), Options::default()).unwrap();
    assert!(!branch.root().exists("d").unwrap());
    assert!(branch.root().exists("d").is_ok());
}

#[test]
fn who_comes_second_waits_for_who_has_the_volume_for_a_moment() {
    let (_room, path) = volume();
    let first = open(&path, Options::default()).unwrap();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| {
            let second = open(&path, Options::default()).unwrap();
            assert_eq!(second.root().read("f").unwrap(), b"1");
            second.close().unwrap();
        });
        std::thread::sleep(Duration::from_millis(100));
        first.root().write("f", b"1").unwrap();
        first.close().unwrap();
        second.join().unwrap();
    });
}

#[test]
fn what_is_no_volume_or_served_by_nobody_is_said_so() {
    let (room, path) = volume();
    let none = Client::connect(&path).err().unwrap();
    assert_eq!(none.kind(), ErrorKind::NotConnected);
    let missing = open(room.path().join("none"), Options::default());
    assert_eq!(missing.err().unwrap().kind(), ErrorKind::NotFound);
    let odd = open(room.path(), Options::default()).err().unwrap();
    assert_eq!(odd.kind(), ErrorKind::InvalidInput, "{odd}");
    let view = open(room.path().join("v@none"), Options::default());
    assert_eq!(view.err().unwrap().kind(), ErrorKind::NotFound);
}

#[test]
fn a_daemon_that_hangs_up_or_answers_nonsense_is_an_error_and_not_the_end() {
    use std::os::unix::net::UnixListener;
    let (_room, path) = volume();
    let listener = UnixListener::bind(path.join("razorfs.sock")).unwrap();
    let frame = |text: &[u8]| [&(text.len() as u32).to_le_bytes()[..], text].concat();
    let done = frame(br#"{"v":1,"done":{}}"#);
    let talk = |said: &[&[u8]], hear: bool| {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                for said in said {
                    wire::receive(&mut stream).unwrap();
                    io::Write::write_all(&mut stream, said).unwrap();
                }
            });
            let client = Client::connect(&path);
            match hear {
                true => client.unwrap().root().metadata("f").err().unwrap(),
                false => client.err().unwrap(),
            }
        })
    };
    assert_eq!(talk(&[], false).kind(), ErrorKind::NotConnected);
    let failed = talk(&[&frame(br#"{"v":1,"failed":"no"}"#)], false);
    assert_eq!(failed.to_string(), "no");
    assert!(talk(&[&frame(b"7")], false).to_string().contains("version"));
    let gone = talk(&[&done], true);
    assert!(gone.to_string().contains("has ended"), "{gone}");
    for odd in [
        &b""[..],
        b"\0\0\0\0",
        b"\0\0\0\0too much",
        b"\xff\xff\xff\xff",
    ] {
        let odd = talk(&[&done, &frame(odd)], true).to_string();
        assert!(odd.contains("not understood"), "{odd}");
    }
    assert!(
        talk(&[&done, &u32::MAX.to_le_bytes()], true)
            .to_string()
            .contains("too long")
    );
}
