//! Rules of attributes and extended attributes.

use crate::{
    Error, Ino, NewNode, Options, SetAttributes, Stat, Time, Volume, XattrMode, inode_flags,
};

const NONE: SetAttributes = SetAttributes {
    mode: None,
    uid: None,
    gid: None,
    size: None,
    atime: None,
    mtime: None,
    ctime: None,
    flags: None,
};

fn with_file(mode: u32) -> (Volume, Ino) {
    let v = Volume::for_tests(Options::default());
    let ino = v
        .create_node(Ino::ROOT, b"f", &NewNode::file(mode))
        .unwrap()
        .ino;
    (v, ino)
}

fn set(v: &Volume, ino: Ino, what: SetAttributes) -> Stat {
    v.set_attributes(ino, &what).unwrap()
}

#[test]
fn a_new_owner_loses_setuid_and_setgid() {
    let (v, f) = with_file(0o6755);
    let owner = SetAttributes {
        uid: Some(5),
        ..NONE
    };
    assert_eq!(set(&v, f, owner).mode & 0o7777, 0o755);
    // Setgid without group execution marks mandatory locking, and stays.
    let mode = SetAttributes {
        mode: Some(0o6745),
        ..NONE
    };
    assert_eq!(set(&v, f, mode).mode & 0o7777, 0o6745);
    assert_eq!(set(&v, f, owner).mode & 0o7777, 0o2745);
    // A mode that comes along wins.
    let both = SetAttributes {
        mode: Some(0o6755),
        ..owner
    };
    assert_eq!(set(&v, f, both).mode & 0o7777, 0o6755);
    let d = v
        .create_node(Ino::ROOT, b"d", &NewNode::directory(0o6755))
        .unwrap()
        .ino;
    assert_eq!(set(&v, d, owner).mode & 0o7777, 0o6755);
}

#[test]
fn the_type_cannot_be_changed() {
    let (v, f) = with_file(0o644);
    let mode = SetAttributes {
        mode: Some(0o040_600),
        ..NONE
    };
    assert_eq!(set(&v, f, mode).mode, 0o100_600);
}

#[test]
fn times_are_set_as_given_and_ctime_is_the_present() {
    let (v, f) = with_file(0o644);
    let old = Time { secs: -5, nanos: 1 };
    let before = v.stat(f).unwrap();
    let times = SetAttributes {
        atime: Some(old),
        mtime: Some(old),
        ..NONE
    };
    let stat = set(&v, f, times);
    assert_eq!(
        (stat.atime, stat.mtime, stat.btime),
        (old, old, before.btime)
    );
    assert!(stat.ctime > before.ctime);
    let ctime = SetAttributes {
        ctime: Some(old),
        ..NONE
    };
    assert_eq!(set(&v, f, ctime).ctime, old);
}

#[test]
fn immutable_and_append_only_files_keep_their_attributes() {
    let (v, f) = with_file(0o644);
    let flags = |flags| SetAttributes {
        flags: Some(flags),
        ..NONE
    };
    let mode = SetAttributes {
        mode: Some(0o600),
        ..NONE
    };
    let size = SetAttributes {
        size: Some(0),
        ..NONE
    };
    let time = SetAttributes {
        mtime: Some(Time::default()),
        ..NONE
    };
    let denied = |what| matches!(v.set_attributes(f, &what), Err(Error::NotPermitted(_)));
    set(&v, f, flags(inode_flags::IMMUTABLE));
    assert!(denied(mode) && denied(size) && denied(time));
    assert!(matches!(v.write(f, 0, b"x"), Err(Error::NotPermitted(_))));
    set(&v, f, flags(inode_flags::APPEND));
    assert!(denied(mode) && denied(size) && !denied(time));
    v.append(f, b"abc").unwrap();
    assert!(matches!(v.write(f, 2, b"x"), Err(Error::NotPermitted(_))));
    v.write(f, 3, b"d").unwrap();
    // Users cannot set the engine's own flags.
    assert_eq!(set(&v, f, flags(inode_flags::TRIMMING)).flags, 0);
}

#[test]
fn extended_attributes_are_set_replaced_listed_and_removed() {
    let (v, f) = with_file(0o644);
    let before = v.stat(f).unwrap();
    let set = |name: &[u8], value: &[u8], mode| v.set_xattr(f, name, value, mode);
    assert!(matches!(v.get_xattr(f, b"user.a"), Err(Error::NoAttribute)));
    assert!(matches!(
        set(b"user.a", b"", XattrMode::Replace),
        Err(Error::NoAttribute)
    ));
    set(b"user.a", b"1", XattrMode::Create).unwrap();
    assert!(v.stat(f).unwrap().ctime > before.ctime);
    assert!(matches!(
        set(b"user.a", b"2", XattrMode::Create),
        Err(Error::Exists)
    ));
    set(b"user.a", b"2", XattrMode::Replace).unwrap();
    set(b"user.b", &[7; 65536], XattrMode::Set).unwrap();
    assert_eq!(&*v.get_xattr(f, b"user.a").unwrap(), b"2");
    assert_eq!(v.get_xattr(f, b"user.b").unwrap().len(), 65536);
    let mut names = v.list_xattr(f).unwrap();
    names.sort();
    assert_eq!(names, [Box::from(*b"user.a"), Box::from(*b"user.b")]);
    v.remove_xattr(f, b"user.a").unwrap();
    assert!(matches!(
        v.remove_xattr(f, b"user.a"),
        Err(Error::NoAttribute)
    ));
    assert_eq!(
        v.stat(f).unwrap().flags & inode_flags::HAS_XATTR,
        inode_flags::HAS_XATTR
    );
    v.remove_xattr(f, b"user.b").unwrap();
    assert_eq!(v.stat(f).unwrap().flags & inode_flags::HAS_XATTR, 0);
}

#[test]
fn extended_attributes_have_limits() {
    let (v, f) = with_file(0o644);
    let set = |name: &[u8], value: &[u8]| v.set_xattr(f, name, value, XattrMode::Set);
    assert!(matches!(set(b"", b""), Err(Error::Invalid(_))));
    assert!(matches!(set(&[b'x'; 256], b""), Err(Error::NameTooLong)));
    assert!(matches!(
        set(b"user.a", &[0; 65537]),
        Err(Error::AttributeTooLarge)
    ));
    set(&[b'x'; 255], b"").unwrap();
}
