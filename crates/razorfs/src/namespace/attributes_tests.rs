//! Rules of attributes and extended attributes.

use crate::{
    Atime, Error, FileKind, Ino, NewNode, Options, SetAttributes, Stat, Time, Volume, XattrMode,
    inode_flags,
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

fn at(base: Time, secs: i64) -> Time {
    Time {
        secs: base.secs + secs,
        ..base
    }
}

/// The time of access after a look at a file with these times, in seconds from now.
fn accessed(policy: Atime, atime: i64, mtime: i64, ctime: i64) -> (Time, Time) {
    let (v, f) = with_file(0o644);
    let now = v.stat(f).unwrap().btime;
    let times = SetAttributes {
        atime: Some(at(now, atime)),
        mtime: Some(at(now, mtime)),
        ctime: Some(at(now, ctime)),
        ..NONE
    };
    let before = set(&v, f, times);
    v.set_atime(policy);
    v.accessed(f);
    let after = v.stat(f).unwrap();
    assert_eq!((after.mtime, after.ctime), (before.mtime, before.ctime));
    (before.atime, after.atime)
}

#[test]
fn reading_sets_the_time_of_access_as_the_policy_says() {
    let is_set = |policy, atime, mtime, ctime| {
        let (before, after) = accessed(policy, atime, mtime, ctime);
        assert!(after >= before);
        after != before
    };
    // Later than both changes and less than a day old.
    assert!(!is_set(Atime::Relative, -10, -20, -20));
    assert!(is_set(Atime::Relative, -10, -5, -20));
    assert!(is_set(Atime::Relative, -10, -20, -5));
    assert!(is_set(Atime::Relative, -10, -10, -20));
    assert!(is_set(Atime::Relative, -90_000, -100_000, -100_000));
    assert!(is_set(Atime::Strict, -10, -20, -20));
    assert!(!is_set(Atime::Never, -10, -5, -5));
}

#[test]
fn reading_does_not_mind_that_nothing_can_be_written() {
    let v = Volume::for_tests(Options::default());
    v.set_atime(Atime::Strict);
    v.accessed(Ino(77));
    assert!(v.stat(Ino(77)).is_err());
}

const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";

/// A list of tags, permissions and identities.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut out = vec![2, 0, 0, 0];
    for (tag, permissions, id) in entries {
        out.extend_from_slice(&tag.to_le_bytes());
        out.extend_from_slice(&permissions.to_le_bytes());
        out.extend_from_slice(&id.to_le_bytes());
    }
    out
}

fn with_user(owner: u16, user: u16, group: u16, mask: u16, other: u16) -> Vec<u8> {
    let none = u32::MAX;
    acl(&[
        (1, owner, none),
        (2, user, 5),
        (4, group, none),
        (16, mask, none),
        (32, other, none),
    ])
}

#[test]
fn mode_and_access_list_follow_each_other() {
    let (v, f) = with_file(0o2644);
    let list = with_user(7, 6, 4, 6, 1);
    v.set_xattr(f, ACCESS, &list, XattrMode::Set).unwrap();
    assert_eq!(v.stat(f).unwrap().mode & 0o7777, 0o2761);
    let mode = SetAttributes {
        mode: Some(0o640),
        ..NONE
    };
    set(&v, f, mode);
    let now = v.get_xattr(f, ACCESS).unwrap();
    assert_eq!(*now, *with_user(6, 6, 4, 4, 0));
    // A list that says no more than the mode is not kept.
    let none = u32::MAX;
    let plain = acl(&[(1, 6, none), (4, 0, none), (32, 0, none)]);
    v.set_xattr(f, ACCESS, &plain, XattrMode::Set).unwrap();
    assert!(matches!(v.get_xattr(f, ACCESS), Err(Error::NoAttribute)));
    assert_eq!(v.stat(f).unwrap().mode & 0o7777, 0o600);
    assert_eq!(v.stat(f).unwrap().flags & inode_flags::HAS_XATTR, 0);
    // Removing a list leaves the mode.
    v.set_xattr(f, ACCESS, &list, XattrMode::Set).unwrap();
    v.remove_xattr(f, ACCESS).unwrap();
    assert_eq!(v.stat(f).unwrap().mode & 0o7777, 0o761);
    // What is no list is refused, and changes nothing.
    let bad = v.set_xattr(f, ACCESS, &list[..20], XattrMode::Set);
    assert!(matches!(bad, Err(Error::Invalid(_))));
    let on_file = v.set_xattr(f, DEFAULT, &list, XattrMode::Set);
    assert!(matches!(on_file, Err(Error::Invalid(_))));
    assert_eq!(v.stat(f).unwrap().mode & 0o7777, 0o761);
}

#[test]
fn what_is_created_gets_the_default_list_of_its_directory() {
    let v = Volume::for_tests(Options::default());
    let dir = NewNode::directory(0o755);
    let d = v.create_node(Ino::ROOT, b"d", &dir).unwrap().ino;
    let list = with_user(7, 7, 5, 7, 4);
    v.set_xattr(d, DEFAULT, &list, XattrMode::Set).unwrap();
    let masked = |mode, kind| NewNode {
        kind,
        umask: 0o077,
        ..NewNode::file(mode)
    };
    // The umask does not count.
    let file = masked(0o664, FileKind::Regular);
    let f = v.create_node(d, b"f", &file).unwrap();
    assert_eq!(f.mode & 0o7777, 0o664);
    let access = with_user(6, 7, 5, 6, 4);
    assert_eq!(*v.get_xattr(f.ino, ACCESS).unwrap(), *access);
    assert_eq!(v.list_xattr(f.ino).unwrap().len(), 1);
    let unnamed = v.create_unnamed(d, &file).unwrap();
    assert_eq!(*v.get_xattr(unnamed.ino, ACCESS).unwrap(), *access);
    let sub = v.create_node(d, b"s", &masked(0o750, FileKind::Directory));
    let sub = sub.unwrap();
    assert_eq!(sub.mode & 0o7777, 0o750);
    assert_eq!(*v.get_xattr(sub.ino, DEFAULT).unwrap(), *list);
    let access = with_user(7, 7, 5, 5, 0);
    assert_eq!(*v.get_xattr(sub.ino, ACCESS).unwrap(), *access);
    let link = NewNode {
        target: b"x",
        ..masked(0o777, FileKind::Symlink)
    };
    let link = v.create_node(d, b"l", &link).unwrap();
    assert_eq!((link.mode & 0o7777, link.flags), (0o777, 0));
    // Without a list it does.
    let plain = v.create_node(Ino::ROOT, b"f", &file).unwrap();
    assert_eq!((plain.mode & 0o7777, plain.flags), (0o600, 0));
}
