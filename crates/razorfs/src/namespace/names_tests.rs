//! Rules of names: creating, linking, removing, renaming, listing.

use std::collections::BTreeSet;

use razorfs_format::Branch;
use razorfs_format::key::{Key, Tag};
use razorfs_format::op::OpType;
use razorfs_format::record::{Dirent, name_cookie};

use super::Operation;
use crate::{
    Error, FileKind, Ino, NewNode, Options, RenameMode, SetAttributes, Stat, Step, Volume,
    XattrMode, inode_flags,
};

const ROOT: Ino = Ino::ROOT;

fn volume() -> Volume {
    Volume::for_tests(Options::default())
}

fn file(v: &Volume, dir: Ino, name: &str) -> Ino {
    v.create_node(dir, name.as_bytes(), &NewNode::file(0o644))
        .unwrap()
        .ino
}

fn dir(v: &Volume, parent: Ino, name: &str) -> Ino {
    v.create_node(parent, name.as_bytes(), &NewNode::directory(0o755))
        .unwrap()
        .ino
}

fn names(v: &Volume, dir: Ino) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    v.collect_children(dir, 0, &mut |entry| {
        assert!(names.insert(String::from_utf8(entry.name.into()).unwrap()));
        true
    })
    .unwrap();
    names
}

fn keys(v: &Volume, tag: Tag) -> usize {
    let keys = v.inner.store.keys();
    keys.iter().filter(|key| key.tag() == tag).count()
}

fn rename(v: &Volume, from: (Ino, &str), to: (Ino, &str), mode: RenameMode) -> Result<(), Error> {
    v.rename(from.0, from.1.as_bytes(), to.0, to.1.as_bytes(), mode)
}

fn set_flags(v: &Volume, ino: Ino, flags: u32) {
    let set = SetAttributes {
        flags: Some(flags),
        ..SetAttributes::default()
    };
    v.set_attributes(ino, &set).unwrap();
}

#[test]
fn a_new_file_has_one_time_and_its_parent_another() {
    let v = volume();
    let before = v.stat(ROOT).unwrap();
    let stat = v
        .create_node(ROOT, b"a", &NewNode::file(0o100_640))
        .unwrap();
    assert_eq!(stat.mode, 0o100_640);
    assert!(
        [stat.mtime, stat.ctime, stat.btime]
            .iter()
            .all(|t| *t == stat.atime)
    );
    let after = v.stat(ROOT).unwrap();
    assert_eq!((after.mtime, after.ctime), (stat.btime, stat.btime));
    assert!(after.mtime > before.mtime && after.nlink == before.nlink);
}

#[test]
fn names_are_any_bytes_but_slash_and_nul_and_at_most_255() {
    let v = volume();
    let create = |name: &[u8]| v.create_node(ROOT, name, &NewNode::file(0));
    assert!(matches!(create(b""), Err(Error::Invalid(_))));
    assert!(matches!(create(b"a/b"), Err(Error::Invalid(_))));
    assert!(matches!(create(b"a\0b"), Err(Error::Invalid(_))));
    assert!(matches!(create(b"."), Err(Error::Exists)));
    assert!(matches!(create(b".."), Err(Error::Exists)));
    assert!(matches!(create(&[b'x'; 256]), Err(Error::NameTooLong)));
    let longest = create(&[0xff; 255]).unwrap();
    assert_eq!(v.lookup(ROOT, &[0xff; 255]).unwrap(), longest);
    assert!(matches!(create(&[0xff; 255]), Err(Error::Exists)));
    assert!(matches!(
        v.lookup(ROOT, &[b'x'; 256]),
        Err(Error::NameTooLong)
    ));
}

#[test]
fn a_setgid_directory_hands_its_group_down() {
    let v = volume();
    let node = NewNode {
        gid: 7,
        ..NewNode::directory(0o2775)
    };
    let top = v.create_node(ROOT, b"top", &node).unwrap().ino;
    let f = v.create_node(top, b"f", &NewNode::file(0o644)).unwrap();
    let d = v
        .create_node(top, b"d", &NewNode::directory(0o755))
        .unwrap();
    assert_eq!((f.gid, f.mode & 0o7777), (7, 0o644));
    assert_eq!((d.gid, d.mode & 0o7777), (7, 0o2755));
}

#[test]
fn subdirectories_count_as_links_of_their_parent() {
    let v = volume();
    let a = dir(&v, ROOT, "a");
    let b = dir(&v, a, "b");
    file(&v, a, "f");
    assert_eq!(v.stat(a).unwrap().nlink, 3);
    assert_eq!(v.parent_of(b).unwrap(), a);
    assert_eq!(v.lookup(b, b"..").unwrap().ino, a);
    rename(&v, (a, "b"), (ROOT, "b"), RenameMode::Replace).unwrap();
    assert_eq!(
        (v.stat(a).unwrap().nlink, v.stat(ROOT).unwrap().nlink),
        (2, 4)
    );
    assert_eq!(v.parent_of(b).unwrap(), ROOT);
    assert!(matches!(v.rmdir(ROOT, b"a"), Err(Error::NotEmpty)));
    v.rmdir(ROOT, b"b").unwrap();
    assert_eq!(v.stat(ROOT).unwrap().nlink, 3);
}

#[test]
fn names_with_the_same_hash_live_side_by_side() {
    let v = volume();
    let store = &v.inner.store;
    let first = name_cookie(store.hash_key(), b"x");
    let other = file(&v, ROOT, "other");
    // Plants the entry of another name where `x` would go.
    let mut op = Operation::new(&v.inner, OpType::Note, store.now());
    let dirent = Dirent {
        ino: other,
        kind: FileKind::Regular,
        name: b"same hash".as_slice().into(),
    };
    op.put(Key::dirent(Branch::HEAD, ROOT, first), dirent.to_bytes());
    v.inner.commit(op).unwrap();

    let x = file(&v, ROOT, "x");
    assert_eq!(v.find_by_inode(x).unwrap().cookie, first + 1);
    assert_eq!(v.lookup(ROOT, b"x").unwrap().ino, x);
    let mut op = Operation::new(&v.inner, OpType::Note, store.now());
    op.del(Key::dirent(Branch::HEAD, ROOT, first));
    v.inner.commit(op).unwrap();
    assert_eq!(v.lookup(ROOT, b"x").unwrap().ino, x);
    assert!(matches!(
        v.create_node(ROOT, b"x", &NewNode::file(0)),
        Err(Error::Exists)
    ));
    v.unlink(ROOT, b"x").unwrap();
    let again = file(&v, ROOT, "x");
    assert_eq!(v.find_by_inode(again).unwrap().cookie, first);
}

/// A lookup that finds nothing is remembered; whatever makes the name must make that forgotten.
#[test]
fn a_name_that_was_looked_for_in_vain_is_found_once_it_is_there() {
    let v = volume();
    let (a, b) = (dir(&v, ROOT, "a"), dir(&v, ROOT, "b"));
    let miss = |name: &str| {
        for _ in 0..2 {
            assert!(matches!(v.lookup(b, name.as_bytes()), Err(Error::NotFound)));
        }
    };
    let hit = |name: &str, ino: Ino| assert_eq!(v.lookup(b, name.as_bytes()).unwrap().ino, ino);
    miss("made");
    let made = file(&v, b, "made");
    hit("made", made);
    let moved = file(&v, a, "moved");
    miss("moved");
    rename(&v, (a, "moved"), (b, "moved"), RenameMode::Replace).unwrap();
    hit("moved", moved);
    assert!(v.lookup(a, b"moved").is_err());
    miss("linked");
    v.link(made, b, b"linked").unwrap();
    hit("linked", made);
    miss("by-path");
    v.root().write("b/by-path", b"1").unwrap();
    let by_path = v.root().metadata("b/by-path").unwrap().ino();
    hit("by-path", by_path);
    miss("committed");
    let mut tx = v.root().transaction();
    tx.write("b/committed", *b"2").unwrap();
    tx.rename("b/committed", "b/renamed").unwrap();
    tx.commit(crate::Durability::Async).unwrap();
    miss("committed");
    let renamed = v.root().metadata("b/renamed").unwrap().ino();
    hit("renamed", renamed);
    v.unlink(b, b"made").unwrap();
    miss("made");
    hit("linked", made);
}

/// What is remembered of a directory is from before the transaction that asks.
#[test]
fn a_transaction_sees_its_own_names_and_not_those_remembered() {
    let v = volume();
    let root = v.root();
    root.create_dir_all("d/e").unwrap();
    root.write("d/e/old", b"old").unwrap();
    // Everything on the way is remembered now, and one name that is missing.
    assert_eq!(root.read("d/e/old").unwrap(), b"old");
    assert!(root.read("d/new").is_err());
    let mut tx = root.transaction();
    tx.rename("d/e", "d/new").unwrap();
    tx.create_dir("d/e").unwrap();
    tx.write("d/e/old", *b"another").unwrap();
    tx.write("d/new/more", *b"more").unwrap();
    tx.remove_file("d/new/old").unwrap();
    tx.write("d/new/old", *b"third").unwrap();
    tx.commit(crate::Durability::Async).unwrap();
    assert_eq!(root.read("d/e/old").unwrap(), b"another");
    assert_eq!(root.read("d/new/more").unwrap(), b"more");
    assert_eq!(root.read("d/new/old").unwrap(), b"third");
    assert_eq!(names(&v, v.root().metadata("d").unwrap().ino()).len(), 2);
}

#[test]
fn back_links_are_there_only_while_there_are_several_names() {
    let v = volume();
    let d = dir(&v, ROOT, "d");
    let f = file(&v, ROOT, "a");
    assert_eq!(keys(&v, Tag::Link), 0);
    assert_eq!(v.link(f, d, b"b").unwrap().nlink, 2);
    assert_eq!(keys(&v, Tag::Link), 2);
    v.link(f, d, b"c").unwrap();
    // The first name moves, then goes: the inode remembers another that exists.
    rename(&v, (ROOT, "a"), (d, "a"), RenameMode::Replace).unwrap();
    let remembered = |names: &[&str]| {
        let inode = v.find_by_inode(f).unwrap();
        let cookies = names
            .iter()
            .map(|n| name_cookie(v.inner.store.hash_key(), n.as_bytes()));
        inode.parent == d && cookies.into_iter().any(|cookie| cookie == inode.cookie)
    };
    assert!(remembered(&["a"]));
    v.unlink(d, b"a").unwrap();
    assert!(remembered(&["b", "c"]));
    assert_eq!(keys(&v, Tag::Link), 2);
    v.unlink(d, b"c").unwrap();
    assert!(remembered(&["b"]));
    assert_eq!((keys(&v, Tag::Link), v.stat(f).unwrap().nlink), (0, 1));
    assert!(matches!(v.link(d, ROOT, b"x"), Err(Error::NotPermitted(_))));
}

#[test]
fn a_held_file_stays_until_its_last_holder_lets_go() {
    let v = volume();
    let f = file(&v, ROOT, "f");
    v.write(f, 0, b"abc").unwrap();
    v.pin(f, 2);
    v.unlink(ROOT, b"f").unwrap();
    assert_eq!(keys(&v, Tag::Orphan), 1);
    assert!(!v.step(Step::Reap).unwrap());
    v.unpin(f, 1);
    v.write(f, 3, b"def").unwrap();
    assert_eq!(v.stat(f).unwrap().nlink, 0);
    v.unpin(f, 1);
    while v.step(Step::Reap).unwrap() {}
    assert!(matches!(v.stat(f), Err(Error::NotFound)));
    assert_eq!(v.inner.store.keys(), [Key::inode(Branch::HEAD, ROOT)]);
}

#[test]
fn a_file_that_nobody_holds_goes_with_its_name() {
    let v = volume();
    let f = file(&v, ROOT, "f");
    v.write(f, 0, &vec![1; 300_000]).unwrap();
    v.unlink(ROOT, b"f").unwrap();
    assert_eq!(v.inner.store.keys(), [Key::inode(Branch::HEAD, ROOT)]);
    assert_eq!((v.info().inodes, v.info().bytes), (1, 0));
}

#[test]
fn a_large_file_is_left_to_the_reaper() {
    let v = volume();
    let f = file(&v, ROOT, "f");
    for block in 0..40 {
        v.write(f, block << 17, b"x").unwrap();
    }
    v.set_xattr(f, b"user.a", b"1", XattrMode::Set).unwrap();
    v.unlink(ROOT, b"f").unwrap();
    assert_eq!(keys(&v, Tag::Extent), 40);
    while v.step(Step::Reap).unwrap() {}
    assert_eq!(v.inner.store.keys(), [Key::inode(Branch::HEAD, ROOT)]);
}

#[test]
fn an_unnamed_file_lives_while_it_is_held_or_linked() {
    let v = volume();
    let make = || v.create_unnamed(ROOT, &NewNode::file(0o600)).unwrap().ino;
    let (kept, lost) = (make(), make());
    // Nobody holds it yet, but somebody is about to.
    while v.step(Step::Reap).unwrap() {}
    v.pin(kept, 1);
    v.pin(lost, 1);
    assert_eq!(v.link(kept, ROOT, b"kept").unwrap().nlink, 1);
    v.unpin(kept, 1);
    v.unpin(lost, 1);
    while v.step(Step::Reap).unwrap() {}
    assert_eq!(v.lookup(ROOT, b"kept").unwrap().ino, kept);
    assert!(matches!(v.stat(lost), Err(Error::NotFound)));
    assert_eq!(keys(&v, Tag::Orphan), 0);
}

#[test]
fn nothing_is_created_in_a_removed_directory() {
    let v = volume();
    let d = dir(&v, ROOT, "d");
    let f = file(&v, ROOT, "f");
    v.pin(d, 1);
    v.rmdir(ROOT, b"d").unwrap();
    assert!(matches!(
        v.create_node(d, b"x", &NewNode::file(0)),
        Err(Error::NotFound)
    ));
    assert!(matches!(v.link(f, d, b"x"), Err(Error::NotFound)));
    let moved = rename(&v, (ROOT, "f"), (d, "f"), RenameMode::Replace);
    assert!(matches!(moved, Err(Error::NotFound)));
    assert!(names(&v, d).is_empty());
    v.unpin(d, 1);
    while v.step(Step::Reap).unwrap() {}
    assert!(matches!(
        v.create_node(d, b"x", &NewNode::file(0)),
        Err(Error::NotFound)
    ));
}

#[test]
fn rename_replaces_only_what_it_may() {
    let v = volume();
    let (d, e) = (dir(&v, ROOT, "d"), dir(&v, ROOT, "e"));
    let f = file(&v, ROOT, "f");
    file(&v, e, "inside");
    let go = |from, to, mode| rename(&v, (ROOT, from), (ROOT, to), mode);
    assert!(matches!(
        go("f", "d", RenameMode::Replace),
        Err(Error::IsADirectory)
    ));
    assert!(matches!(
        go("d", "f", RenameMode::Replace),
        Err(Error::NotADirectory)
    ));
    assert!(matches!(
        go("d", "e", RenameMode::Replace),
        Err(Error::NotEmpty)
    ));
    assert!(matches!(
        go("d", "f", RenameMode::NoReplace),
        Err(Error::Exists)
    ));
    assert!(matches!(
        go("x", "f", RenameMode::Replace),
        Err(Error::NotFound)
    ));
    assert!(matches!(
        go("f", "x", RenameMode::Exchange),
        Err(Error::NotFound)
    ));
    go("e", "d", RenameMode::Replace).unwrap();
    assert_eq!(v.lookup(ROOT, b"d").unwrap().ino, e);
    assert!(matches!(v.stat(d), Err(Error::NotFound)));
    assert_eq!(v.stat(ROOT).unwrap().nlink, 3);
    // Two names of one file: nothing happens.
    v.link(f, ROOT, b"g").unwrap();
    go("f", "g", RenameMode::Replace).unwrap();
    assert_eq!(names(&v, ROOT), ["d", "f", "g"].map(String::from).into());
}

#[test]
fn a_directory_does_not_move_below_itself() {
    let v = volume();
    let a = dir(&v, ROOT, "a");
    let b = dir(&v, a, "b");
    let c = dir(&v, b, "c");
    for below in [a, b, c] {
        let moved = rename(&v, (ROOT, "a"), (below, "x"), RenameMode::Replace);
        assert!(matches!(moved, Err(Error::Invalid(_))));
    }
    let swapped = rename(&v, (b, "c"), (ROOT, "a"), RenameMode::Exchange);
    assert!(matches!(swapped, Err(Error::Invalid(_))));
    assert_eq!(v.find_by_path(b"/a/b/c").unwrap(), c);
}

#[test]
fn exchange_swaps_files_and_directories() {
    let v = volume();
    let (d, e) = (dir(&v, ROOT, "d"), dir(&v, ROOT, "e"));
    let f = file(&v, d, "f");
    let s = dir(&v, e, "s");
    rename(&v, (d, "f"), (e, "s"), RenameMode::Exchange).unwrap();
    assert_eq!(v.lookup(d, b"f").unwrap().ino, s);
    assert_eq!(v.lookup(e, b"s").unwrap().ino, f);
    assert_eq!((v.stat(d).unwrap().nlink, v.stat(e).unwrap().nlink), (3, 2));
    assert_eq!(v.parent_of(s).unwrap(), d);
    rename(&v, (d, "f"), (d, "f"), RenameMode::Exchange).unwrap();
}

#[test]
fn flags_forbid_what_they_say() {
    let v = volume();
    let d = dir(&v, ROOT, "d");
    let f = file(&v, d, "f");
    let denied = |r: Result<(), Error>| assert!(matches!(r, Err(Error::NotPermitted(_))), "{r:?}");
    let create = |name: &[u8]| v.create_node(d, name, &NewNode::file(0)).map(drop);
    set_flags(&v, d, inode_flags::APPEND);
    create(b"g").unwrap();
    denied(v.unlink(d, b"g"));
    denied(rename(&v, (d, "f"), (ROOT, "f"), RenameMode::Replace));
    set_flags(&v, d, inode_flags::IMMUTABLE);
    denied(create(b"h"));
    denied(v.unlink(d, b"g"));
    denied(v.rmdir(ROOT, b"d"));
    denied(v.set_xattr(d, b"user.a", b"", XattrMode::Set));
    set_flags(&v, d, 0);
    set_flags(&v, f, inode_flags::IMMUTABLE);
    denied(v.link(f, ROOT, b"l").map(drop));
    denied(v.unlink(d, b"f"));
    denied(rename(&v, (d, "g"), (d, "f"), RenameMode::Replace));
    set_flags(&v, f, 0);
    v.unlink(d, b"f").unwrap();
}

#[test]
fn symbolic_links_keep_their_target_and_devices_their_number() {
    let v = volume();
    let link = |target: &[u8], name: &[u8]| {
        let node = NewNode {
            kind: FileKind::Symlink,
            target,
            ..NewNode::file(0o777)
        };
        v.create_node(ROOT, name, &node)
    };
    let stat = link(b"some/where", b"l").unwrap();
    assert_eq!((stat.size, stat.kind()), (10, FileKind::Symlink));
    assert_eq!(&*v.read_link(stat.ino).unwrap(), b"some/where");
    assert!(matches!(link(b"", b"m"), Err(Error::NotFound)));
    assert!(matches!(link(&[b'x'; 4096], b"m"), Err(Error::NameTooLong)));
    link(&[b'x'; 4095], b"m").unwrap();
    let node = NewNode {
        kind: FileKind::CharDevice,
        rdev: 0x0105,
        ..NewNode::file(0o600)
    };
    assert_eq!(v.create_node(ROOT, b"dev", &node).unwrap().rdev, 0x0105);
    assert!(matches!(v.read_link(ROOT), Err(Error::Invalid(_))));
    assert!(matches!(v.find_by_path(b"/l/x"), Err(Error::NotADirectory)));
}

#[test]
fn a_listing_goes_on_after_any_cookie_while_the_directory_changes() {
    let v = volume();
    let stays: BTreeSet<String> = (0..1000).map(|i| format!("stays-{i}")).collect();
    for name in &stays {
        file(&v, ROOT, name);
    }
    let mut seen = BTreeSet::new();
    let mut after = 0;
    for round in 0.. {
        let before = seen.len();
        let mut left = 7;
        v.collect_children(ROOT, after, &mut |entry| {
            after = entry.cookie;
            let name = String::from_utf8(entry.name.into()).unwrap();
            assert!(!name.starts_with("stays") || seen.insert(name));
            left -= 1;
            left > 0
        })
        .unwrap();
        if left > 0 {
            break;
        }
        file(&v, ROOT, &format!("new-{round}"));
        if round > 0 {
            v.unlink(ROOT, format!("new-{}", round - 1).as_bytes())
                .unwrap();
        }
        assert!(seen.len() <= before + 7);
    }
    assert_eq!(seen, stays);
}

#[test]
fn paths_know_dots_and_slashes() {
    let v = volume();
    let a = dir(&v, ROOT, "a");
    let f = file(&v, a, "f");
    for (path, ino) in [
        (b"/".as_slice(), ROOT),
        (b"", ROOT),
        (b"/..", ROOT),
        (b"//a/./f", f),
        (b"a/../a/", a),
    ] {
        assert_eq!(v.find_by_path(path).unwrap(), ino);
    }
    assert!(matches!(
        v.find_by_path(b"/a/f/"),
        Err(Error::NotADirectory)
    ));
    assert!(matches!(
        v.find_by_path(b"/a/f/.."),
        Err(Error::NotADirectory)
    ));
    assert!(matches!(v.find_by_path(b"/a/g"), Err(Error::NotFound)));
}

#[test]
fn a_read_only_volume_changes_nothing() {
    let options = Options {
        read_only: true,
        ..Options::default()
    };
    let v = Volume::for_tests(options);
    let refused = |r: Result<Stat, Error>| assert!(matches!(r, Err(Error::ReadOnly(_))));
    refused(v.create_node(ROOT, b"a", &NewNode::file(0)));
    refused(v.set_attributes(ROOT, &SetAttributes::default()));
    assert!(v.root().read_dir("/").unwrap().next().is_none());
}

#[test]
fn many_threads_move_directories_and_files_without_harm() {
    let v = volume();
    let dirs: Vec<Ino> = (0..4).map(|i| dir(&v, ROOT, &format!("d{i}"))).collect();
    let all: Vec<Ino> = dirs.iter().copied().chain([ROOT]).collect();
    std::thread::scope(|scope| {
        for seed in 1..5_u64 {
            let (v, all) = (&v, &all);
            scope.spawn(move || {
                let mut state = seed;
                let mut next = |n: usize| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(seed);
                    (state >> 33) as usize % n
                };
                for _ in 0..3000 {
                    let (from, to) = (all[next(5)], all[next(5)]);
                    let (a, b) = (format!("d{}", next(8)), format!("d{}", next(8)));
                    let (a, b) = (a.as_bytes(), b.as_bytes());
                    // Any of these may fail; none may break the tree.
                    let _ = match next(6) {
                        0 => v.create_node(from, a, &NewNode::file(0o600)).map(drop),
                        1 => v.unlink(from, a),
                        2 => v.rename(from, a, to, b, RenameMode::Exchange),
                        3 => v
                            .lookup(from, a)
                            .and_then(|s| v.link(s.ino, to, b))
                            .map(drop),
                        _ => v.rename(from, a, to, b, RenameMode::NoReplace),
                    };
                }
            });
        }
    });
    // Every directory is still reached from the root, and every count is right.
    let mut stack = vec![ROOT];
    let mut found = 0;
    while let Some(at) = stack.pop() {
        found += 1;
        let (mut subdirs, mut entries) = (0, 0);
        v.collect_children(at, 0, &mut |entry| {
            entries += 1;
            if entry.kind == FileKind::Directory {
                subdirs += 1;
                assert_eq!(v.parent_of(entry.ino).unwrap(), at);
                stack.push(entry.ino);
            }
            true
        })
        .unwrap();
        let inode = v.find_by_inode(at).unwrap();
        assert_eq!((inode.nlink, inode.entries), (2 + subdirs, entries));
    }
    assert_eq!(found, 5);
}

#[test]
fn temporary_names_leave_no_record_behind() {
    let v = volume();
    v.checkpoint().unwrap();
    let d = dir(&v, ROOT, "d");
    v.checkpoint().unwrap();
    let all = |v: &Volume| {
        let version = v.inner.store.version.load_full();
        let of = |tag| version.active.sorted(Branch::HEAD, tag, |_| ()).len();
        Tag::ALL.map(|tag| if tag == Tag::Inode { 0 } else { of(tag) })
    };
    for round in 0..3 {
        let f = file(&v, d, "temporary");
        v.write(f, 0, &[1; 5000]).unwrap();
        v.set_xattr(f, b"user.a", b"1", XattrMode::Set).unwrap();
        v.remove_xattr(f, b"user.a").unwrap();
        v.link(f, d, b"other").unwrap();
        rename(&v, (d, "other"), (d, "third"), RenameMode::Replace).unwrap();
        v.unlink(d, b"temporary").unwrap();
        v.unlink(d, b"third").unwrap();
        assert_eq!(all(&v), [0; Tag::ALL.len()], "round {round}");
    }
    assert!(matches!(v.lookup(d, b"temporary"), Err(Error::NotFound)));
}

#[test]
fn a_name_that_was_looked_up_is_as_exact_as_one_that_was_not() {
    let v = volume();
    let (a, b) = (dir(&v, ROOT, "a"), dir(&v, Ino::ROOT, "b"));
    let ino = |dir, name: &str| v.lookup(dir, name.as_bytes()).map(|stat| stat.ino);
    let first = file(&v, a, "f");
    assert_eq!(ino(a, "f").unwrap(), first);
    rename(&v, (a, "f"), (b, "f"), RenameMode::Replace).unwrap();
    assert!(ino(a, "f").is_err());
    let second = file(&v, a, "f");
    assert_eq!(
        (ino(a, "f").unwrap(), ino(b, "f").unwrap()),
        (second, first)
    );
    rename(&v, (a, "f"), (b, "f"), RenameMode::Exchange).unwrap();
    assert_eq!(
        (ino(a, "f").unwrap(), ino(b, "f").unwrap()),
        (first, second)
    );
    v.unlink(a, b"f").unwrap();
    assert!(v.find_by_path(b"/a/f").is_err());
    assert_eq!(v.find_by_path(b"/b/f").unwrap(), second);
    v.root().remove_dir_all("b").unwrap();
    assert!(v.find_by_path(b"/b/f").is_err());
    assert!(ino(b, "f").is_err());
}

#[test]
fn a_whiteout_takes_the_place_of_what_moved() {
    let v = volume();
    let (d, to) = (dir(&v, ROOT, "d"), dir(&v, ROOT, "to"));
    let moved = dir(&v, d, "a");
    file(&v, d, "b");
    let target = file(&v, to, "b");
    let mark = |no_replace| RenameMode::Whiteout {
        no_replace,
        uid: 3,
        gid: 4,
    };
    rename(&v, (d, "a"), (to, "a"), mark(true)).unwrap();
    assert_eq!(v.lookup(to, b"a").unwrap().ino, moved);
    assert_eq!(
        (v.stat(d).unwrap().nlink, v.stat(to).unwrap().nlink),
        (2, 3)
    );
    let left = v.lookup(d, b"a").unwrap();
    assert_eq!((left.kind(), left.rdev), (FileKind::CharDevice, 0));
    assert_eq!((left.mode & 0o7777, left.uid, left.gid), (0, 3, 4));
    let refused = rename(&v, (d, "b"), (to, "b"), mark(true));
    assert!(matches!(refused, Err(Error::Exists)));
    rename(&v, (d, "b"), (to, "b"), mark(false)).unwrap();
    assert!(matches!(v.stat(target), Err(Error::NotFound)));
    assert_eq!(names(&v, d), ["a", "b"].map(String::from).into());
    // Onto itself nothing happens.
    rename(&v, (to, "b"), (to, "b"), mark(false)).unwrap();
    assert_eq!(v.lookup(to, b"b").unwrap().kind(), FileKind::Regular);
    // A mark is removed as any other name, and its directory with it.
    for name in ["a", "b"] {
        v.unlink(d, name.as_bytes()).unwrap();
    }
    v.rmdir(ROOT, b"d").unwrap();
}

#[test]
fn a_file_has_65000_names_and_loses_them_again() {
    const N: u32 = 65_000;
    let v = volume();
    let d = dir(&v, ROOT, "d");
    let f = file(&v, d, "0");
    for n in 1..N {
        v.link(f, d, n.to_string().as_bytes()).unwrap();
    }
    assert_eq!(v.stat(f).unwrap().nlink, N);
    assert_eq!(names(&v, d).len(), N as usize);
    for n in 0..N {
        v.unlink(d, n.to_string().as_bytes()).unwrap();
    }
    assert!(matches!(v.stat(f), Err(Error::NotFound)));
    v.rmdir(ROOT, b"d").unwrap();
}
