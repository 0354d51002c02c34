use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::*;
use crate::Env;
use crate::sim::{SimDisk, SimRng};

fn volume() -> (tempfile::TempDir, OsDisk) {
    let dir = tempfile::tempdir().unwrap();
    let disk = OsDisk::create(dir.path().join("volume")).unwrap();
    disk.create_dirs().unwrap();
    (dir, disk)
}

fn name(leaf: &str) -> Name {
    Name::new(Dir::Pack, leaf)
}

fn write(file: &dyn File, offset: u64, bytes: &[u8]) {
    file.write_at(&[IoSlice::new(bytes)], offset).unwrap();
}

fn contents(file: &dyn File) -> Vec<u8> {
    let mut bytes = vec![0; file.len().unwrap() as usize];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
    bytes
}

fn random_bytes(rng: &mut SimRng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    bytes
}

#[test]
fn directories_are_made_once_and_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, disk) = volume();
    OsDisk::create(disk.path()).unwrap().create_dirs().unwrap();
    for of in Dir::ALL {
        let mode = disk.dir_path(of).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0);
        assert_eq!(disk.list(of).unwrap(), []);
        disk.sync_dir(of).unwrap();
    }
    let missing = OsDisk::new(dir.path().join("missing"));
    let error = missing.list(Dir::Meta).unwrap_err();
    assert!(error.is_not_found());
    assert!(error.path.ends_with("missing/meta") && error.path.starts_with('/'));
    assert!(missing.sync_dir(Dir::Root).unwrap_err().is_not_found());
    assert!(missing.create_dirs().unwrap_err().is_not_found());
    assert!(!missing.path().exists());
    assert!(OsDisk::create(dir.path().join("no/parent")).is_err());
    std::fs::write(dir.path().join("file"), "").unwrap();
    assert!(OsDisk::create(dir.path().join("file")).is_err());
}

#[test]
fn names_are_created_renamed_listed_and_removed() {
    let (_dir, disk) = volume();
    write(
        &*disk.open(&name("a"), OpenHow::CreateNew).unwrap(),
        0,
        b"a",
    );
    let again = disk.open(&name("a"), OpenHow::CreateNew).err().unwrap();
    assert_eq!(again.source.kind(), io::ErrorKind::AlreadyExists);
    assert!(again.path.ends_with("/pack/a"));
    let to = Name::new(Dir::Meta, "b");
    write(
        &*disk.open(&to, OpenHow::CreateNew).unwrap(),
        0,
        b"replaced",
    );
    disk.rename(&name("a"), &to).unwrap();
    std::fs::create_dir(disk.path().join("meta/not-a-file")).unwrap();
    assert_eq!(disk.list(Dir::Pack).unwrap(), []);
    assert_eq!(disk.list(Dir::Meta).unwrap(), std::slice::from_ref(&to));
    let file = disk.open(&to, OpenHow::Read).unwrap();
    assert_eq!(contents(&*file), b"a");
    assert!(file.write_at(&[IoSlice::new(b"x")], 0).is_err());
    disk.remove(&to).unwrap();
    assert!(disk.remove(&to).unwrap_err().is_not_found());
    assert!(
        disk.open(&to, OpenHow::ReadWrite)
            .err()
            .unwrap()
            .is_not_found()
    );
    let space = disk.space().unwrap();
    assert!(space.free <= space.total && space.total > 0);
}

#[test]
fn many_buffers_are_written_whole() {
    let (_dir, disk) = volume();
    let file = disk.open(&name("a"), OpenHow::CreateNew).unwrap();
    let mut rng = SimRng::new(1);
    let pieces: Vec<Vec<u8>> = (0..3 * MAX_BUFS)
        .map(|_| {
            let len = rng.below(60) as usize;
            random_bytes(&mut rng, len)
        })
        .collect();
    let bufs: Vec<IoSlice<'_>> = pieces.iter().map(|p| IoSlice::new(p)).collect();
    file.write_at(&bufs, 0).unwrap();
    file.write_at(&[], 0).unwrap();
    file.write_at(&[IoSlice::new(b""), IoSlice::new(b"")], 99_999_999)
        .unwrap();
    file.sync_data().unwrap();
    assert_eq!(contents(&*file), pieces.concat());
    assert_eq!(file.read_at(&mut [0; 4], file.len().unwrap()).unwrap(), 0);
}

#[test]
fn space_is_allocated_zeroed_and_punched() {
    use std::os::unix::fs::MetadataExt;
    let (_dir, disk) = volume();
    let file = disk.open(&name("a"), OpenHow::CreateNew).unwrap();
    let blocks = || disk.file_path(&name("a")).metadata().unwrap().blocks();
    write(&*file, 0, &[1; 5000]);
    file.allocate(4096..2_500_000, true).unwrap();
    file.sync_data().unwrap();
    assert_eq!(file.len().unwrap(), 2_500_000);
    assert_eq!(contents(&*file)[4090..4100], [1, 1, 1, 1, 1, 1, 0, 0, 0, 0]);
    assert!(blocks() >= 2_500_000 / 512);
    file.allocate(0..3_000_000, false).unwrap();
    assert_eq!(file.len().unwrap(), 3_000_000);
    assert_eq!(contents(&*file)[..4096], [1; 4096]);
    match file.punch(0..1 << 21) {
        Ok(()) => {
            assert_eq!(contents(&*file), vec![0; 3_000_000]);
            file.sync_data().unwrap();
            assert!(blocks() < 2_500_000 / 512);
        }
        Err(e) => assert!(e.is_unsupported(), "{e}"),
    }
    file.set_len(10).unwrap();
    assert_eq!(file.len().unwrap(), 10);
    file.allocate(5..5, true).unwrap();
    file.punch(5..5).unwrap();
}

#[test]
fn uncached_reads_take_any_offset_and_length() {
    let (_dir, disk) = volume();
    let file = disk.open(&name("a"), OpenHow::CreateNew).unwrap();
    let mut rng = SimRng::new(2);
    let bytes = random_bytes(&mut rng, 3 * (1 << 20) + 777);
    write(&*file, 0, &bytes);
    let direct = disk.open(&name("a"), OpenHow::ReadUncached).unwrap();
    // Not synced: what is dirty is seen nevertheless.
    assert!(contents(&*direct) == bytes);
    file.sync_data().unwrap();
    let path = disk.file_path(&name("a"));
    let plain = std::fs::File::open(&path).unwrap();
    let dropping = OsFile {
        file: plain,
        uncached: Some(Uncached::dropping()),
        path,
    };
    for _ in 0..200 {
        let from = rng.below(bytes.len() as u64 + 5000) as usize;
        let most = if rng.chance(1, 10) { 1 << 21 } else { 9000 };
        let mut buf = vec![0xaa; rng.below(most) as usize];
        let want = &bytes[from.min(bytes.len())..(from + buf.len()).min(bytes.len())];
        for file in [&*direct, &dropping as &dyn File] {
            let n = file.read_at(&mut buf, from as u64).unwrap();
            assert!(buf[..n] == *want, "{from}+{}", buf.len());
        }
    }
    assert!(direct.write_at(&[IoSlice::new(b"x")], 0).is_err());
}

#[test]
fn a_second_writer_is_told_who_was_first() {
    let (_dir, disk) = volume();
    let first = disk.lock(LockMode::Exclusive).unwrap();
    for mode in [LockMode::Exclusive, LockMode::Shared] {
        let error = OsDisk::new(disk.path()).lock(mode).err().unwrap();
        let holder = error.holder.unwrap();
        let us = format!("process {} (", std::process::id());
        assert!(
            holder.starts_with(&us) && holder.contains(" since 2"),
            "{holder}"
        );
        assert!(error.path.ends_with("/LOCK"));
    }
    drop(first);
    let one = disk.lock(LockMode::Shared).unwrap();
    let two = disk.lock(LockMode::Shared).unwrap();
    let error = disk.lock(LockMode::Exclusive).err().unwrap();
    // Readers write nothing; the kernel may tell.
    if let Some(holder) = error.holder {
        assert!(
            holder.contains(&format!("process {} (", std::process::id())),
            "{holder}"
        );
    }
    drop((one, two));
    disk.lock(LockMode::Exclusive).unwrap();
    assert_eq!(std::fs::read(disk.path().join("LOCK")).unwrap(), b"");
}

/// What the child of the test below does; alone it does nothing.
#[test]
fn child_that_holds_the_lock() {
    let Some(path) = std::env::var_os("RAZORFS_TEST_LOCK") else {
        return;
    };
    let _guard = OsDisk::new(path).lock(LockMode::Exclusive).unwrap();
    println!("locked");
    io::stdin().lines().next();
    // Ends without dropping the guard, as a killed process does.
    std::process::exit(0);
}

#[test]
fn a_lock_of_another_process_is_named_and_ends_with_it() {
    let (_dir, disk) = volume();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "os::os_tests::child_that_holds_the_lock",
            "--nocapture",
        ])
        .env("RAZORFS_TEST_LOCK", disk.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // The harness may have begun a line of its own.
    while !lines.next().unwrap().unwrap().ends_with("locked") {}
    let holder = disk
        .lock(LockMode::Exclusive)
        .err()
        .unwrap()
        .holder
        .unwrap();
    assert!(
        holder.starts_with(&format!("process {} (", child.id())),
        "{holder}"
    );
    drop(child.stdin.take());
    child.wait().unwrap();
    // What the dead process wrote deceives nobody.
    assert_ne!(std::fs::read(disk.path().join("LOCK")).unwrap(), b"");
    let reader = disk.lock(LockMode::Shared).unwrap();
    let holder = disk.lock(LockMode::Exclusive).err().unwrap().holder;
    assert!(!holder.unwrap_or_default().contains(&child.id().to_string()));
    drop(reader);
    disk.lock(LockMode::Exclusive).unwrap();
}

#[test]
fn a_lock_that_is_handed_over_is_nobody_elses_in_between() {
    let (_dir, disk) = volume();
    assert!(disk.lock_descriptor().is_none());
    let guard = disk.lock(LockMode::Exclusive).unwrap();
    let kept = disk.lock_descriptor().unwrap().unwrap();
    // As a process that dies does, which unlocks nothing.
    std::mem::forget(guard);
    let others = || OsDisk::new(disk.path()).lock(LockMode::Exclusive).is_ok();
    assert!(!others());
    let next = OsDisk::with_lock(disk.path(), kept.try_clone().unwrap());
    let guard = next.lock(LockMode::Exclusive).unwrap();
    assert!(!others());
    // What was handed over is used once.
    assert!(next.lock(LockMode::Exclusive).is_err());
    drop(guard);
    assert!(others());

    let (_dir, foreign) = volume();
    drop(foreign.lock(LockMode::Exclusive).unwrap());
    let refused = OsDisk::with_lock(foreign.path(), kept).lock(LockMode::Exclusive);
    let refused = refused.err().unwrap().to_string();
    assert!(refused.contains("another volume"), "{refused}");
}

#[test]
fn the_clock_goes_on_and_randomness_differs() {
    let (a, b) = (OsEnv.monotonic(), OsEnv.monotonic());
    assert!(a <= b);
    assert!(OsEnv.now() > 1_700_000_000_000_000_000);
    assert_ne!(OsEnv.random(), OsEnv.random());
}

/// What a call answered, in a form that both disks must agree on.
fn answer<T>(result: Result<T>) -> std::result::Result<T, (DiskOp, io::ErrorKind)> {
    result.map_err(|e| (e.op, e.source.kind()))
}

/// One call, the same on both disks, drawn from `rng`.
fn step(
    rng: &mut SimRng,
    disk: &dyn Disk,
    files: &mut BTreeMap<Name, Arc<dyn File>>,
) -> std::result::Result<Vec<u8>, (DiskOp, io::ErrorKind)> {
    let mut any = || {
        let dir = if rng.chance(1, 2) {
            Dir::Pack
        } else {
            Dir::Meta
        };
        Name::new(dir, ["a", "b", "c"][rng.below(3) as usize])
    };
    let (name, other) = (any(), any());
    let from = rng.below(20_000);
    let range = from..from + rng.range(1, 9000);
    let file = files.get(&name).cloned();
    let kind = rng.below(16);
    let bytes = random_bytes(rng, (range.end - range.start) as usize);
    let nothing = |()| Vec::new();
    if let (4.., Some(file)) = (kind, &file) {
        return answer(match kind {
            4..8 => {
                let (a, b) = bytes.split_at(bytes.len() / 3);
                file.write_at(&[IoSlice::new(a), IoSlice::new(b)], from)
                    .map(nothing)
            }
            8 => file.set_len(from).map(nothing),
            9 => file.punch(range).map(nothing),
            10 => file.allocate(range, from.is_multiple_of(2)).map(nothing),
            11 => file.sync_data().map(nothing),
            _ => {
                let mut buf = vec![0; bytes.len()];
                let n = file.read_at(&mut buf, from);
                n.map(|n| buf[..n].to_vec())
            }
        });
    }
    answer(match kind {
        0 => disk.remove(&name).map(nothing),
        1 => disk.rename(&name, &other).map(nothing),
        2 => disk.sync_dir(name.dir).map(nothing),
        3 => disk.list(name.dir).map(|mut names| {
            names.sort();
            format!("{names:?}").into_bytes()
        }),
        _ => {
            let how = match kind % 4 {
                0 => OpenHow::ReadWrite,
                1 => OpenHow::ReadUncached,
                2 => OpenHow::Read,
                _ => OpenHow::CreateNew,
            };
            disk.open(&name, how).map(|file| {
                files.insert(name, file);
                Vec::new()
            })
        }
    })
}

#[test]
fn the_host_and_the_simulation_answer_the_same() {
    for seed in 0..60 {
        let (_dir, host) = volume();
        let sim = SimDisk::new();
        sim.create_dirs().unwrap();
        let mut on_host = BTreeMap::new();
        let mut on_sim = BTreeMap::new();
        let mut rng = SimRng::new(seed);
        for i in 0..300 {
            let mut again = rng.clone();
            let a = step(&mut rng, &host, &mut on_host);
            let b = step(&mut again, &sim, &mut on_sim);
            if a.as_ref()
                .is_err_and(|(_, kind)| *kind == io::ErrorKind::Unsupported)
            {
                eprintln!("skipped: this host cannot punch holes");
                return;
            }
            assert!(
                a == b,
                "seed {seed}, step {i}: host {a:?}, simulation {b:?}"
            );
        }
        for (name, len) in sim.files() {
            let file = host.open(&name, OpenHow::Read).unwrap();
            assert_eq!(file.len().unwrap(), len, "seed {seed}");
            let theirs = contents(&*sim.open(&name, OpenHow::Read).unwrap());
            assert!(contents(&*file) == theirs, "seed {seed}");
        }
    }
}

#[test]
fn a_volume_of_somebody_else_leads_to_no_file_of_the_host() {
    let (dir, disk) = volume();
    let precious = dir.path().join("precious");
    std::fs::write(&precious, "precious").unwrap();
    let root = disk.path();
    for how in [OpenHow::Read, OpenHow::ReadUncached, OpenHow::ReadWrite] {
        let link = root.join("pack/P");
        std::os::unix::fs::symlink(&precious, &link).unwrap();
        let error = disk.open(&name("P"), how).map(drop).unwrap_err();
        assert!(error.to_string().contains("symbolic link"), "{error}");
        std::fs::remove_file(&link).unwrap();
        // Neither does it make us wait.
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &link,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        let error = disk.open(&name("P"), how).map(drop).unwrap_err();
        assert!(error.to_string().contains("regular file"), "{error}");
        std::fs::remove_file(&link).unwrap();
    }
    std::os::unix::fs::symlink(&precious, root.join("LOCK")).unwrap();
    for mode in [LockMode::Shared, LockMode::Exclusive] {
        assert!(disk.lock(mode).is_err());
    }
    std::fs::remove_file(root.join("LOCK")).unwrap();
    std::fs::remove_dir(root.join("pack")).unwrap();
    std::os::unix::fs::symlink(dir.path(), root.join("pack")).unwrap();
    assert!(disk.lock(LockMode::Exclusive).is_err());
    assert_eq!(std::fs::read(&precious).unwrap(), b"precious");
}

#[test]
fn a_volume_that_is_moved_while_it_is_locked_is_not_mistaken_for_another() {
    let (dir, disk) = volume();
    let guard = disk.lock(LockMode::Exclusive).unwrap();
    let moved = dir.path().join("moved");
    std::fs::rename(disk.path(), &moved).unwrap();
    let other = OsDisk::create(disk.path()).unwrap();
    other.create_dirs().unwrap();
    let file = disk.open(&name("P"), OpenHow::CreateNew).unwrap();
    write(&*file, 0, b"ours");
    disk.sync_dir(Dir::Pack).unwrap();
    disk.rename(&name("P"), &name("Q")).unwrap();
    assert_eq!(disk.list(Dir::Pack).unwrap(), [name("Q")]);
    assert_eq!(other.list(Dir::Pack).unwrap(), []);
    assert_eq!(std::fs::read(moved.join("pack/Q")).unwrap(), b"ours");
    // The other one is another one.
    drop(other.lock(LockMode::Exclusive).unwrap());
    // Messages name the path that the volume was opened by.
    let error = disk.open(&name("X"), OpenHow::Read).map(drop).unwrap_err();
    assert!(
        error.path.starts_with(disk.path().to_str().unwrap()),
        "{error}"
    );
    disk.remove(&name("Q")).unwrap();
    drop(guard);
}
