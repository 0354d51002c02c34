//! Rules of the calls by path, and of transactions.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::library::OpenOptions;
use crate::{
    Dir, Durability, Error, FileKind, Options, RenameMode, SetAttributes, Step, Volume, inode_flags,
};

fn root() -> Dir {
    Volume::for_tests(Options::default()).root()
}

#[test]
fn a_file_larger_than_any_memory_is_an_error_and_not_the_end() {
    let fs = root();
    fs.create("huge").unwrap().set_len(1 << 62).unwrap();
    assert!(matches!(fs.read("huge"), Err(Error::FileTooLarge)));
}

#[test]
fn files_and_directories_by_path() {
    let fs = root();
    fs.create_dir_all("a/b/c").unwrap();
    fs.create_dir_all("/a/b/c/").unwrap();
    assert!(matches!(fs.create_dir("a/b"), Err(Error::Exists)));
    assert!(matches!(fs.create_dir("x/y"), Err(Error::NotFound)));
    fs.write("a/f", b"one").unwrap();
    fs.write("a/f", b"two!").unwrap();
    assert_eq!(fs.read_to_string("a/b/../f").unwrap(), "two!");
    assert!(matches!(
        fs.create_dir_all("a/f/x"),
        Err(Error::NotADirectory)
    ));
    assert!(matches!(fs.write("a/b", b""), Err(Error::IsADirectory)));
    let b = fs.open_dir("a/b").unwrap();
    b.write("g", b"below").unwrap();
    assert_eq!(fs.read("a/b/g").unwrap(), b"below");
    assert_eq!(b.read("/a/f").unwrap(), b"two!");
    fs.copy("a/f", "a/h").unwrap();
    fs.set_permissions("a/h", 0o600).unwrap();
    let meta = fs.metadata("a/h").unwrap();
    assert_eq!((meta.len(), meta.mode(), meta.is_file()), (4, 0o600, true));
    fs.hard_link("a/h", "a/i").unwrap();
    assert_eq!(fs.metadata("a/i").unwrap().ino(), meta.ino());
    assert!(!fs.exists("a/nothing").unwrap());
    assert!(matches!(fs.remove_dir("a"), Err(Error::NotEmpty)));
    fs.remove_dir_all("a").unwrap();
    assert_eq!(fs.read_dir("/").unwrap().count(), 0);
    assert!(matches!(b.write("late", b""), Err(Error::NotFound)));
}

#[test]
fn symbolic_links_are_followed_but_not_forever() {
    let fs = root();
    fs.create_dir_all("real/deep").unwrap();
    fs.symlink("real", "link").unwrap();
    fs.symlink("../deep/f", "real/deep/rel").unwrap();
    fs.symlink("/real/deep", "abs").unwrap();
    fs.write("link/deep/rel", b"through two").unwrap();
    assert_eq!(fs.read("abs/f").unwrap(), b"through two");
    assert_eq!(fs.read_link("abs").unwrap(), Path::new("/real/deep"));
    assert_eq!(
        fs.symlink_metadata("abs").unwrap().kind(),
        FileKind::Symlink
    );
    assert!(fs.metadata("abs").unwrap().is_dir());
    assert!(matches!(
        fs.remove_dir_all("abs"),
        Err(Error::NotADirectory)
    ));
    fs.symlink("loop", "loop").unwrap();
    assert!(matches!(fs.read("loop"), Err(Error::TooManySymlinks)));
    fs.remove_file("loop").unwrap();
    for i in 0..40 {
        fs.symlink(format!("s{i}"), format!("s{}", i + 1)).unwrap();
    }
    fs.write("s0", b"end").unwrap();
    assert_eq!(fs.read("s40").unwrap(), b"end");
    fs.symlink("s40", "s41").unwrap();
    assert!(matches!(fs.read("s41"), Err(Error::TooManySymlinks)));
}

#[test]
fn an_open_file_reads_writes_and_seeks() {
    let fs = root();
    let mut file = fs.create("f").unwrap();
    file.write_all(b"hello world").unwrap();
    file.seek(SeekFrom::Start(6)).unwrap();
    let mut word = String::new();
    file.read_to_string(&mut word).unwrap();
    assert_eq!(word, "world");
    assert_eq!(file.seek(SeekFrom::End(-5)).unwrap(), 6);
    file.write_all(b"W").unwrap();
    assert!(file.seek(SeekFrom::Current(-100)).is_err());
    file.set_len(8).unwrap();
    file.write_at(b"J", 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(fs.read("f").unwrap(), b"Jello Wo");
    let mut log = OpenOptions::new().append(true).open(&fs, "f").unwrap();
    log.write_all(b"!").unwrap();
    assert!(log.read_at(&mut [0], 0).is_err());
    let reader = OpenOptions::new().read(true).open(&fs, "f").unwrap();
    assert!(reader.write_at(b"x", 0).is_err());
    // An open file outlives its name.
    fs.remove_file("f").unwrap();
    while fs.volume().step(Step::Reap).unwrap() {}
    assert_eq!(reader.metadata().unwrap().len(), 9);
    drop((file, log, reader));
    while fs.volume().step(Step::Reap).unwrap() {}
    assert_eq!(fs.volume().info().inodes, 1);
    let new = OpenOptions::new().write(true).create_new(true);
    new.open(&fs, "n").unwrap();
    assert!(matches!(new.open(&fs, "n"), Err(Error::Exists)));
}

#[test]
fn a_transaction_sees_its_own_steps() {
    let fs = root();
    fs.write("old", b"old").unwrap();
    let mut tx = fs.transaction();
    tx.create_dir_all("d/e").unwrap();
    tx.write("d/e/f", b"first").unwrap();
    tx.write("d/e/f", b"2nd").unwrap();
    tx.hard_link("d/e/f", "d/g").unwrap();
    tx.hard_link("d/g", "d/h").unwrap();
    tx.remove_file("d/e/f").unwrap();
    tx.rename("d/h", "d/e/h").unwrap();
    tx.symlink("d/g", "s").unwrap();
    tx.write("s", b"through").unwrap();
    tx.rename("d", "moved").unwrap();
    tx.remove_file("old").unwrap();
    tx.write("gone", b"and gone").unwrap();
    tx.remove_file("gone").unwrap();
    tx.create_dir("empty").unwrap();
    tx.remove_dir("empty").unwrap();
    tx.set_permissions("moved/g", 0o600).unwrap();
    tx.commit(Durability::Synced).unwrap();
    assert_eq!(fs.read("moved/g").unwrap(), b"through");
    let meta = fs.metadata("moved/e/h").unwrap();
    assert_eq!((meta.stat().nlink, meta.mode(), meta.len()), (2, 0o600, 7));
    let mut names: Vec<_> = fs
        .read_dir("/")
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    names.sort();
    assert_eq!(names, [Path::new("/moved"), Path::new("/s")]);
    // The root, `moved`, `e`, the file and the link.
    let info = fs.volume().info();
    assert_eq!((info.inodes, info.bytes), (5, 7));
    fs.remove_dir_all("moved").unwrap();
    fs.remove_file("s").unwrap();
    while fs.volume().step(Step::Reap).unwrap() {}
    assert_eq!(fs.volume().inner.store.keys().len(), 1);
}

#[test]
fn what_may_only_be_appended_to_is_not_replaced_by_path_either() {
    let fs = root();
    fs.write("log", b"kept").unwrap();
    fs.write("empty", b"").unwrap();
    let set = SetAttributes {
        flags: Some(inode_flags::APPEND),
        ..SetAttributes::default()
    };
    for name in ["log", "empty"] {
        let ino = fs.metadata(name).unwrap().ino();
        fs.volume().set_attributes(ino, &set).unwrap();
        let refused = |result| assert!(matches!(result, Err(Error::NotPermitted(_))), "{name}");
        refused(fs.write(name, b"new"));
        refused(
            OpenOptions::new()
                .write(true)
                .truncate(true)
                .open(&fs, name)
                .map(drop),
        );
        let mut tx = fs.transaction();
        tx.write(name, b"new").unwrap();
        refused(tx.commit(Durability::Async));
    }
    assert_eq!(fs.read("log").unwrap(), b"kept");
}

#[test]
fn a_transaction_that_fails_has_done_nothing() {
    let fs = root();
    fs.write("a", b"a").unwrap();
    fs.create_dir_all("full/x").unwrap();
    let keys = fs.volume().inner.store.keys();
    let mut tx = fs.transaction();
    tx.write("a", b"changed").unwrap();
    tx.write("new", vec![1; 500_000]).unwrap();
    tx.remove_dir("full").unwrap();
    assert!(matches!(tx.commit(Durability::Async), Err(Error::NotEmpty)));
    assert_eq!(fs.volume().inner.store.keys(), keys);
    assert_eq!(fs.read("a").unwrap(), b"a");
    let mut tx = fs.transaction();
    tx.write("big", vec![0; 65 << 20]).unwrap();
    assert!(matches!(
        tx.commit(Durability::Async),
        Err(Error::Invalid(_))
    ));
    assert!(matches!(
        fs.transaction().write("", b""),
        Err(Error::NotFound)
    ));
}

#[test]
fn a_transaction_writes_over_a_file_that_is_being_truncated() {
    let fs = root();
    let file = fs.create("f").unwrap();
    for block in 0..1500 {
        file.write_at(b"old", block << 17).unwrap();
    }
    file.set_len(0).unwrap();
    let mut tx = fs.transaction();
    tx.write("f", vec![7; 400_000]).unwrap();
    tx.commit(Durability::Async).unwrap();
    while fs.volume().step(Step::Reap).unwrap() {}
    assert!(fs.read("f").unwrap() == vec![7; 400_000]);
    for block in 0..1500 {
        file.write_at(b"old", block << 17).unwrap();
    }
    let mut tx = fs.transaction();
    tx.write("f", b"short").unwrap();
    tx.commit(Durability::Async).unwrap();
    while fs.volume().step(Step::Reap).unwrap() {}
    assert_eq!(fs.read("f").unwrap(), b"short");
    assert_eq!(fs.metadata("f").unwrap().stat().blocks, 8);
}

#[test]
fn transactions_on_many_threads_are_each_whole() {
    let fs = root();
    for i in 0..4 {
        fs.write(format!("account-{i}"), 1000_u64.to_le_bytes())
            .unwrap();
    }
    std::thread::scope(|scope| {
        for thread in 0..4_usize {
            let fs = fs.clone();
            scope.spawn(move || {
                for i in 0..200 {
                    let mut tx = fs.transaction();
                    let name = format!("t{thread}-{}", i % 3);
                    tx.create_dir(&name).unwrap();
                    tx.write(format!("{name}/x"), b"x").unwrap();
                    tx.rename(format!("{name}/x"), format!("t{thread}.x"))
                        .unwrap();
                    tx.remove_dir(&name).unwrap();
                    tx.write("shared", format!("{thread} {i}")).unwrap();
                    tx.commit(Durability::Async).unwrap();
                }
            });
        }
    });
    assert_eq!(fs.read_dir("/").unwrap().count(), 4 + 4 + 1);
    assert_eq!(fs.metadata("/").unwrap().stat().nlink, 2);
}

#[test]
fn directories_made_at_once_may_be_deeper_than_the_stack_and_not_than_the_journal() {
    let fs = root();
    // Too much for one operation, which is an error and not the end of the process.
    let deep = fs.create_dir_all("d/".repeat(10_000));
    assert!(matches!(deep, Err(Error::Invalid(_))));
    assert!(!fs.exists("d").unwrap());
    let path = "d/".repeat(200);
    fs.create_dir_all(&path).unwrap();
    assert!(fs.metadata(&path).unwrap().is_dir());
    fs.create_dir_all(format!("{path}e//f/")).unwrap();
    assert!(fs.metadata(format!("{path}e/f")).unwrap().is_dir());
    fs.symlink("d/new", "dangling").unwrap();
    fs.create_dir_all("dangling/x").unwrap();
    assert!(fs.metadata("d/new/x").unwrap().is_dir());
    assert!(matches!(fs.create_dir_all("no/../x"), Err(Error::Exists)));
    assert!(!fs.exists("no").unwrap());
}

#[test]
fn names_are_swapped_or_spare_what_is_there() {
    let fs = root();
    fs.write("a", b"1").unwrap();
    fs.write("b", b"2").unwrap();
    fs.rename_with("a", "b", RenameMode::Exchange).unwrap();
    assert_eq!(fs.read("a").unwrap(), b"2");
    assert!(matches!(
        fs.rename_with("a", "b", RenameMode::NoReplace),
        Err(Error::Exists)
    ));
    let mut tx = fs.transaction();
    tx.rename_with("b", "a", RenameMode::Exchange).unwrap();
    tx.rename_with("b", "c", RenameMode::NoReplace).unwrap();
    tx.commit(Durability::Async).unwrap();
    assert_eq!(fs.read("c").unwrap(), b"2");
    assert!(!fs.exists("b").unwrap());
}

#[test]
fn with_threads_the_reaper_works_by_itself_and_ends_with_the_volume() {
    let volume = Volume::on_sim(Options::default());
    let fs = volume.root();
    let file = fs.create("f").unwrap();
    file.write_at(&vec![1; 3 << 20], 0).unwrap();
    fs.remove_file("f").unwrap();
    assert_eq!(volume.info().inodes, 2);
    drop(file);
    while volume.info().inodes > 1 {
        std::thread::yield_now();
    }
    drop(fs);
    volume.close().unwrap();
}

#[test]
fn a_clone_shares_all_or_says_why_not() {
    let fs = root();
    let data: Vec<u8> = (0..300_000_u32).map(|i| (i * 7 / 5) as u8).collect();
    fs.write("a", &data).unwrap();
    fs.write("b", b"short").unwrap();
    let both = OpenOptions::new().read(true).write(true);
    let (a, b) = (both.open(&fs, "a").unwrap(), both.open(&fs, "b").unwrap());
    b.clone_range(&a, 0, 0, 4096).unwrap();
    let got = fs.read("b").unwrap();
    assert!(got[..5] == *b"short" && got[5..4096] == [0; 4091] && got[4096..] == data);
    b.clone_range(&a, 100_000, 50_000, 0).unwrap();
    assert!(fs.read("b").unwrap()[..50_000] == data[100_000..150_000]);
    for (at, len) in [(0, 300_001), (300_001, 0), (u64::MAX, 5)] {
        let past = b.clone_range(&a, at, len, 0);
        assert!(matches!(past, Err(Error::Invalid(_))), "{at} {len}");
    }
    assert!(matches!(
        a.clone_range(&a, 0, 10, 5),
        Err(Error::Invalid(_))
    ));
    a.clone_range(&a, 0, 100_000, 200_000).unwrap();
    assert!(fs.read("a").unwrap()[200_000..] == data[..100_000]);
    let reader = OpenOptions::new().read(true).open(&fs, "a").unwrap();
    let refused = reader.clone_range(&b, 0, 0, 0);
    assert!(matches!(refused, Err(Error::NotPermitted(_))));
    let elsewhere = root();
    elsewhere.write("a", b"x").unwrap();
    let other = elsewhere.open("a").unwrap();
    let refused = b.clone_range(&other, 0, 0, 0);
    assert!(matches!(refused, Err(Error::Unsupported(_))));
}

#[test]
fn ranges_are_taken_out_and_put_in() {
    let fs = root();
    let mut data: Vec<u8> = (0..300_000_u32).map(|i| (i * 7 / 5) as u8).collect();
    fs.write("a", &data).unwrap();
    let both = OpenOptions::new().read(true).write(true);
    let a = both.open(&fs, "a").unwrap();
    a.sync_data().unwrap();
    a.collapse_range(4096, 131_072).unwrap();
    data.drain(4096..135_168);
    assert!(fs.read("a").unwrap() == data);
    a.insert_range(8192, 12_288).unwrap();
    data.splice(8192..8192, [0; 12_288]);
    assert!(fs.read("a").unwrap() == data);
    assert_eq!(a.metadata().unwrap().len(), data.len() as u64);
    let reader = OpenOptions::new().read(true).open(&fs, "a").unwrap();
    for refused in [reader.collapse_range(0, 4096), reader.insert_range(0, 4096)] {
        assert!(matches!(refused, Err(Error::NotPermitted(_))));
    }
    for refused in [a.collapse_range(0, 1 << 20), a.insert_range(1 << 20, 4096)] {
        assert_eq!(refused.unwrap_err().errno(), libc::EINVAL);
    }
}
