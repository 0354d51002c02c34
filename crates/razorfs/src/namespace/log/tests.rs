use std::sync::Arc;

use razorfs_disk::sim::{SimDisk, SimEnv, SimRng};

use super::LogEntry;
use crate::{
    Asker, CreateOptions, Durability, Geometry, Ino, NewNode, Options, RenameMode, SetAttributes,
    Volume,
};

fn options() -> Options {
    Options {
        threads: false,
        ..Options::default()
    }
}

fn open(disk: &SimDisk, options: Options) -> Volume {
    Volume::open_on(Arc::new(disk.clone()), Arc::new(SimEnv::new(1)), options).unwrap()
}

fn new_volume(options: &Options) -> (SimDisk, Volume) {
    let disk = SimDisk::new();
    let env = Arc::new(SimEnv::new(1));
    let create = CreateOptions::from(options);
    Volume::create_on(Arc::new(disk.clone()), env, &create).unwrap();
    let volume = open(&disk, options.clone());
    (disk, volume)
}

/// As a line: what, path, new path.
fn line(entry: &LogEntry) -> String {
    let path = match (&entry.path, &entry.name) {
        (Some(path), _) => path.display().to_string(),
        (None, Some(name)) => format!("?{}", String::from_utf8_lossy(name)),
        (None, None) => "?".to_owned(),
    };
    let to = entry.to.as_ref().map(|to| format!(" > {}", to.display()));
    format!("{} {path}{}", entry.what, to.unwrap_or_default())
}

fn lines(volume: &Volume) -> Vec<String> {
    volume.sync().unwrap();
    volume.log(0).unwrap().0.iter().map(line).collect()
}

fn make(volume: &Volume) -> Ino {
    let root = volume.root();
    root.create_dir_all("a/b").unwrap();
    root.write("a/b/f", b"one").unwrap();
    root.rename("a/b", "c").unwrap();
    root.write("c/f", b"two").unwrap();
    root.remove_file("c/f").unwrap();
    root.remove_dir("c").unwrap();
    volume.find_by_path(b"a").unwrap()
}

/// It told that a directory was removed which it had not told of.
#[test]
fn the_steps_of_a_transaction_are_told_in_their_order() {
    let (_, volume) = new_volume(&options());
    let root = volume.root();
    root.create_dir("d").unwrap();
    root.write("d/old", b"1").unwrap();
    let before = lines(&volume).len();
    let mut tx = root.transaction();
    tx.create_dir("t").unwrap();
    tx.rename("d", "t/e").unwrap();
    tx.remove_file("t/e/old").unwrap();
    tx.write("t/e/new", b"2").unwrap();
    tx.rename("t/e/new", "t/x").unwrap();
    tx.rename("t/x", "t/y").unwrap();
    tx.remove_dir("t/e").unwrap();
    tx.commit(Durability::Synced).unwrap();
    let told = lines(&volume).split_off(before);
    let expected = [
        "mkdir t",
        "rename d > t/e",
        "unlink t/e/old",
        "create t/e/new",
        "rename t/e/new > t/x",
        "rename t/x > t/y",
        "rmdir t/e",
        "write t/y",
    ];
    assert_eq!(told, expected);
}

/// That the first of the names was gone was not told.
#[test]
fn a_file_that_loses_one_name_and_changes_another_in_a_transaction_is_told_of_both() {
    let (_, volume) = new_volume(&options());
    let root = volume.root();
    root.write("b", b"1").unwrap();
    root.hard_link("b", "c").unwrap();
    let before = lines(&volume).len();
    let mut tx = root.transaction();
    tx.remove_file("b").unwrap();
    tx.rename("c", "e").unwrap();
    tx.write("b", b"2").unwrap();
    tx.commit(Durability::Synced).unwrap();
    let told = lines(&volume).split_off(before);
    assert_eq!(told[..3], ["unlink b", "rename c > e", "create b"]);
}

#[test]
fn each_operation_has_the_path_of_its_time() {
    let (_, volume) = new_volume(&options());
    make(&volume);
    let lines = lines(&volume);
    let names = |line: &&String| !line.starts_with("write") && !line.starts_with("trunc");
    let names: Vec<_> = lines.iter().filter(names).map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "mkdir ",
            "mkdir a",
            "mkdir a/b",
            "create a/b/f",
            "rename a/b > c",
            "unlink c/f",
            "rmdir c"
        ]
    );
    volume.close().unwrap();
}

/// An unlink says no more than where in its directory the name stood: so the name is journaled.
#[test]
fn a_name_that_was_older_than_the_journal_is_known_when_it_is_removed() {
    let (disk, volume) = new_volume(&options());
    let root = volume.root();
    root.create_dir_all("old/dir").unwrap();
    root.write("old/dir/file", b"x").unwrap();
    volume.close().unwrap();
    let volume = open(&disk, options());
    let (_, next) = volume.log(0).unwrap();
    volume.root().remove_file("old/dir/file").unwrap();
    volume.root().remove_dir("old/dir").unwrap();
    volume.sync().unwrap();
    let entries = volume.log(next).unwrap().0;
    let lines: Vec<_> = entries.iter().map(line).collect();
    assert_eq!(lines[..2], ["unlink old/dir/file", "rmdir old/dir"]);
    volume.close().unwrap();
}

#[test]
fn the_log_says_who_asked_and_what_was_written() {
    let (disk, volume) = new_volume(&options());
    let asker = Asker {
        uid: 1000,
        gid: 100,
        pid: 4242,
    };
    let file = asker.asks(|| {
        let node = NewNode::file(0o644);
        let file = volume.create_node(Ino::ROOT, b"f", &node).unwrap().ino;
        let mode = SetAttributes {
            mode: Some(0o600),
            ..SetAttributes::default()
        };
        volume.set_attributes(file, &mode).unwrap();
        file
    });
    volume.write(file, 0, &[7; 100_000]).unwrap();
    volume.snapshot("s").unwrap();
    volume.close().unwrap();
    // Also of a volume that is only read.
    let read_only = Options {
        read_only: true,
        ..options()
    };
    let volume = open(&disk, read_only);
    let entries = volume.log(0).unwrap().0;
    let who: Vec<_> = entries.iter().map(|e| (e.what, e.asker)).collect();
    assert_eq!(
        who[1..3],
        [("create", Some(asker)), ("setattr", Some(asker))],
        "{entries:?}"
    );
    let written: Vec<_> = entries.iter().filter(|e| e.what == "write").collect();
    assert_eq!(written.iter().map(|e| e.bytes).sum::<u64>(), 100_000);
    let snapshot = entries.iter().find(|e| e.what == "snapshot").unwrap();
    assert_eq!(snapshot.name.as_deref(), Some(&b"s"[..]));
    let lsns: Vec<_> = entries.iter().map(|e| e.lsn).collect();
    assert!(lsns.is_sorted(), "{lsns:?}");
}

#[test]
fn who_asked_costs_a_few_bytes_of_journal_and_nothing_where_nobody_is_known() {
    let bytes = |asker: Option<Asker>| {
        let (_, volume) = new_volume(&options());
        let before = volume.stats().journal_bytes;
        for n in 0..100 {
            let name = format!("file-{n:04}");
            let node = NewNode::file(0o644);
            let make = || volume.create_node(Ino::ROOT, name.as_bytes(), &node);
            match asker {
                Some(asker) => asker.asks(make).unwrap(),
                None => make().unwrap(),
            };
        }
        volume.sync().unwrap();
        volume.stats().journal_bytes - before
    };
    let asker = Asker {
        uid: 1000,
        gid: 1000,
        pid: 123_456,
    };
    let (none, some) = (bytes(None), bytes(Some(asker)));
    let each = (some - none) / 100;
    assert!((6..=9).contains(&each), "{none} {some}");
    assert!(none / 100 <= 120, "{none}");
}

/// What a journal holds after a power cut is the beginning of what was done.
#[test]
fn after_a_cut_the_log_is_the_beginning_of_what_was_done() {
    let small = Options {
        geometry: Geometry::tiny(),
        ..options()
    };
    let (mut cut_short, mut kept) = (0, 0);
    for seed in 0..40 {
        let (disk, volume) = new_volume(&small);
        let mut done = Vec::new();
        let mut synced = 0;
        for n in 0..30_u64 {
            let name = format!("f{n}");
            volume.root().write(&name, b"").unwrap();
            done.push(format!("create {name}"));
            if n % 5 == 4 {
                let to = format!("g{n}");
                let spot = |name: &str| (Ino::ROOT, name.as_bytes().to_vec());
                let (from, into) = (spot(&name), spot(&to));
                let mode = RenameMode::Replace;
                volume
                    .rename(from.0, &from.1, into.0, &into.1, mode)
                    .unwrap();
                done.push(format!("rename {name} > {to}"));
            }
            if SimRng::new(seed * 100 + n).below(9) == 0 {
                volume.sync().unwrap();
                synced = done.len();
            }
        }
        let disk = disk.power_cut(&mut SimRng::new(seed));
        drop(volume);
        let volume = open(&disk, small.clone());
        let has_name = |e: &&LogEntry| matches!(e.what, "create" | "rename");
        let entries = volume.log(0).unwrap().0;
        let log: Vec<_> = entries.iter().filter(has_name).map(line).collect();
        assert_eq!(log[..], done[..log.len()], "seed {seed}");
        assert!(log.len() >= synced, "seed {seed}: {} {synced}", log.len());
        cut_short += usize::from(log.len() < done.len());
        kept += usize::from(!log.is_empty());
    }
    assert!(cut_short > 10 && kept > 30, "{cut_short} {kept}");
}

/// With the branch before the path.
fn lines_of_branches(volume: &Volume) -> Vec<String> {
    volume.sync().unwrap();
    let branch = |entry: &LogEntry| match &entry.branch {
        Some(branch) => {
            let name = branch.name.as_deref().unwrap_or(b"?");
            format!("@{} ", String::from_utf8_lossy(name))
        }
        None => String::new(),
    };
    let with = |entry: &LogEntry| format!("{}{}", branch(entry), line(entry));
    volume.log(0).unwrap().0.iter().map(with).collect()
}

#[test]
fn what_is_done_in_a_branch_has_the_names_of_the_branch() {
    let (disk, volume) = new_volume(&options());
    let root = volume.root();
    root.create_dir_all("a").unwrap();
    root.write("a/f", b"one").unwrap();
    root.write("a/older", b"one").unwrap();
    volume.create_branch("b").unwrap();
    {
        let branch = volume.branch("b").unwrap();
        branch.root().rename("a", "of-branch").unwrap();
        branch.root().write("of-branch/f", b"two").unwrap();
        branch.root().remove_file("of-branch/older").unwrap();
    }
    root.write("a/f", b"three").unwrap();
    let expected = |lines: &[String]| {
        let after = lines.iter().position(|line| line == "branch ?b").unwrap();
        let after = lines[after + 1..].iter().filter(|l| !l.contains("trunc"));
        after.cloned().collect::<Vec<_>>()
    };
    let done = [
        "@b rename a > of-branch",
        "@b write of-branch/f",
        "@b unlink of-branch/older",
        "write a/f",
        // The data come last in a batch, when they have been placed.
        "@b write of-branch/f",
        "write a/f",
    ];
    assert_eq!(expected(&lines_of_branches(&volume)), done);
    volume.delete_branch("b").unwrap();
    let mut with_end = done.map(str::to_owned).to_vec();
    with_end.push("branch-delete ?b".into());
    assert_eq!(expected(&lines_of_branches(&volume)), with_end);
    volume.close().unwrap();
    let volume = open(&disk, options());
    assert_eq!(expected(&lines_of_branches(&volume)), with_end);
}

#[test]
fn after_a_rollback_names_are_those_from_before() {
    let (_, volume) = new_volume(&options());
    let root = volume.root();
    root.write("f", b"one").unwrap();
    let before = volume.snapshot("s").unwrap();
    root.rename("f", "g").unwrap();
    volume.rollback(&before).unwrap();
    root.write("f", b"two").unwrap();
    let lines = lines(&volume);
    let back = lines
        .iter()
        .position(|l| l.starts_with("rollback"))
        .unwrap();
    assert!(lines[..back].contains(&"rename f > g".into()), "{lines:?}");
    let after: Vec<_> = lines[back + 1..]
        .iter()
        .filter(|l| l.starts_with("write"))
        .collect();
    assert_eq!(after, ["write f"], "{lines:?}");
}
