//! Reading of directories.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;

use razorfs_fuse::protocol::opcode;
use rustix::fs::{Dir, Mode, OFlags, open};

use crate::{Mount, each, forget_inodes};

fn open_dir(mount: &Mount, name: &str) -> Dir {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Dir::new(open(mount.path(name), flags, Mode::empty()).unwrap()).unwrap()
}

#[test]
fn a_large_directory_is_read_whole_and_each_entry_once() {
    each(|mount| {
        const N: usize = 3000;
        let names: HashSet<_> = (0..N).map(|n| format!("entry-{n}")).collect();
        for name in &names {
            fs::write(mount.path(name), b"x").unwrap();
        }
        let mut seen = HashSet::new();
        for entry in fs::read_dir(mount.root()).unwrap() {
            let entry = entry.unwrap();
            // The entry's attributes came with it.
            assert_eq!(entry.metadata().unwrap().len(), 1);
            assert!(seen.insert(entry.file_name().into_string().unwrap()));
        }
        assert_eq!(seen, names);
    });
}

#[test]
fn the_attributes_of_a_large_directory_come_in_few_requests() {
    each(|mount| {
        const N: usize = 1000;
        fs::create_dir(mount.path("d")).unwrap();
        for n in 0..N {
            fs::write(mount.path(&format!("d/{n}")), b"").unwrap();
        }
        let Some(_forgotten) = forget_inodes() else {
            return eprintln!("SKIPPED: only root can drop caches");
        };
        let lookups = |m: &Mount| {
            m.statistics.of_kind(opcode::LOOKUP) + m.statistics.of_kind(opcode::GETATTR)
        };
        let before = lookups(mount);
        for entry in fs::read_dir(mount.path("d")).unwrap() {
            entry.unwrap().metadata().unwrap();
        }
        let asked = lookups(mount) - before;
        assert!(asked < N as u64 / 10, "{asked} requests");
    });
}

#[test]
fn a_position_stays_good_while_the_directory_changes() {
    each(|mount| {
        for n in 0..500 {
            fs::write(mount.path(&format!("{n}")), b"").unwrap();
        }
        let mut dir = open_dir(mount, ".");
        let mut first = Vec::new();
        let mut position = 0;
        for entry in dir.by_ref().take(202) {
            let entry = entry.unwrap();
            position = entry.offset();
            first.push(entry.file_name().to_str().unwrap().to_owned());
        }
        assert_eq!(first[..2], [".", ".."]);
        // What has been passed goes, and something comes.
        for name in &first[2..] {
            fs::remove_file(mount.path(name)).unwrap();
        }
        fs::write(mount.path("new"), b"").unwrap();
        // Somebody else lists it, which may fill caches without what is gone.
        assert_eq!(fs::read_dir(mount.root()).unwrap().count(), 301);
        let on: HashSet<_> = dir
            .map(|e| e.unwrap().offset())
            .filter(|&o| o > 255)
            .collect();
        assert!(on.len() >= 300, "{} entries left", on.len());
        let mut dir = open_dir(mount, ".");
        dir.seek(position).unwrap();
        let rest: Vec<_> = dir
            .map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned())
            .filter(|name| name != "new")
            .collect();
        assert_eq!(rest.len(), 300);
        let rest: HashSet<_> = rest.into_iter().collect();
        assert_eq!(rest.len(), 300);
        assert!(first.iter().all(|name| !rest.contains(name)));
    });
}

#[test]
fn dots_lead_to_the_directory_and_the_one_above() {
    each(|mount| {
        fs::create_dir_all(mount.path("a/b")).unwrap();
        let ino = |name| fs::metadata(mount.path(name)).unwrap().ino();
        let mut dots = Vec::new();
        for entry in open_dir(mount, "a/b") {
            let entry = entry.unwrap();
            dots.push((entry.file_name().to_str().unwrap().to_owned(), entry.ino()));
        }
        assert_eq!(
            dots,
            [(".".to_owned(), ino("a/b")), ("..".to_owned(), ino("a"))]
        );
    });
}

#[test]
fn a_directory_listed_again_asks_nothing_until_it_changes() {
    each(|mount| {
        fs::create_dir(mount.path("d")).unwrap();
        for n in 0..100 {
            fs::write(mount.path(&format!("d/{n}")), b"").unwrap();
        }
        let list = || fs::read_dir(mount.path("d")).unwrap().count();
        let asked = || {
            let kinds = [opcode::OPENDIR, opcode::READDIR, opcode::READDIRPLUS];
            kinds.map(|kind| mount.statistics.of_kind(kind))
        };
        // The first only fills the cache if nothing has changed for a moment.
        for _ in 0..3 {
            assert_eq!(list(), 100);
        }
        let before = asked();
        assert_eq!(list(), 100);
        assert_eq!(asked(), before);
        fs::remove_file(mount.path("d/7")).unwrap();
        assert_eq!(list(), 99);
        fs::rename(mount.path("d/8"), mount.path("8")).unwrap();
        assert_eq!(list(), 98);
    });
}
