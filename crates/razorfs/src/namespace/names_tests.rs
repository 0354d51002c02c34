use crate::{Ino, NewNode, Options, Volume};

fn volume() -> Volume {
    Volume::open_or_create("", Options::default()).unwrap()
}

#[test]
fn a_created_file_is_found_written_and_read() {
    let v = volume();
    let stat = v
        .create_node(Ino::ROOT, b"a", &NewNode::file(0o644))
        .unwrap();
    assert_eq!(v.write(stat.ino, 3, b"abc").unwrap(), 3);
    let mut buf = [1; 10];
    assert_eq!(v.read(stat.ino, 0, &mut buf).unwrap(), 6);
    assert_eq!(&buf[..6], b"\0\0\0abc");
    assert_eq!(v.lookup(Ino::ROOT, b"a").unwrap().size, 6);
}
