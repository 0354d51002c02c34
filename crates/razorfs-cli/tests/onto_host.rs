//! A branch, committed to a directory of the host.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{Mount, RAZORFS, Random, fails, ok, razorfs, run, same_trees, seed};

fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

/// A volume that was imported from a directory, and a branch of it that is mounted.
struct World {
    mount: Mount,
    /// The directory of the host.
    host: PathBuf,
    /// The branch.
    branch: PathBuf,
}

impl World {
    fn new(fill: impl FnOnce(&Path)) -> Self {
        let mount = Mount::new();
        let host = mount.dir.with_file_name("host");
        let branch = mount.dir.with_file_name("branch");
        fs::create_dir(&host).unwrap();
        fill(&host);
        let volume = mount.volume.to_str().unwrap();
        ok(["import", "-q", host.to_str().unwrap(), volume]);
        ok(["branch", "create", volume, "b"]);
        ok(["mount", &format!("{volume}@b"), branch.to_str().unwrap()]);
        Self {
            mount,
            host,
            branch,
        }
    }

    fn line(&self) -> Vec<String> {
        let (branch, host) = (self.branch.to_str().unwrap(), self.host.to_str().unwrap());
        ["commit", "-q", branch, "--to", host]
            .map(str::to_owned)
            .into()
    }

    fn commit(&self) -> String {
        let done = razorfs(self.line());
        let said = String::from_utf8(done.stdout).unwrap();
        let failed = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{said}{failed}");
        said
    }

    /// What is in the way, a path each.
    fn refused(&self, more: &[&str]) -> Vec<String> {
        let line = self.line().into_iter();
        let line = line.chain(more.iter().map(|word| (*word).to_owned()));
        let refused = razorfs(line.chain(["--json".to_owned()]));
        assert_eq!(refused.status.code(), Some(1));
        let document: Value = serde_json::from_slice(&refused.stdout).unwrap();
        let conflicts = document["conflicts"].as_array().unwrap().iter();
        conflicts
            .map(|c| c["path"].as_str().unwrap().to_owned())
            .collect()
    }

    fn end(self) {
        let list = ok(["snapshot", "list", self.mount.volume.to_str().unwrap()]);
        assert!(list.starts_with("no snapshots"), "{list}");
        ok(["umount".as_ref(), self.branch.as_os_str()]);
        self.mount.verify();
    }
}

/// Name, kind, mode, times and links, but for the times of directories and of links.
fn attributes(root: &Path) -> Vec<String> {
    let dirs = r"-type d -printf '%p %y %m\n'";
    let others = r"-printf '%p %y %m %n %s %T@ %l\n'";
    let script = format!("cd \"$0\" && find . {dirs} -o {others} | sort");
    let listed = run(Command::new("sh").args(["-c", &script]).arg(root));
    listed.lines().map(str::to_owned).collect()
}

#[test]
fn all_that_was_changed_in_a_branch_is_done_in_the_directory_and_nothing_else() {
    let world = World::new(|host| {
        fs::create_dir_all(host.join("d/e")).unwrap();
        for (name, bytes) in [
            ("a", "a"),
            ("b", "b"),
            ("gone", "g"),
            ("d/x", "x"),
            ("d/e/y", "y"),
        ] {
            fs::write(host.join(name), bytes).unwrap();
        }
        fs::create_dir(host.join("turns")).unwrap();
        fs::write(host.join("turns/in"), "in").unwrap();
        fs::write(host.join("grows"), "file").unwrap();
        fs::hard_link(host.join("a"), host.join("a2")).unwrap();
        symlink("a", host.join("link")).unwrap();
        fs::File::create(host.join("sparse"))
            .unwrap()
            .set_len(1 << 34)
            .unwrap();
    });
    let at = |name: &str| world.branch.join(name);
    fs::write(world.host.join("mine"), "not in the volume").unwrap();
    fs::write(at("a"), "another").unwrap();
    // Two names change places, and a directory has another one.
    fs::rename(at("b"), at("c")).unwrap();
    fs::rename(at("a2"), at("b")).unwrap();
    fs::rename(at("d"), at("moved")).unwrap();
    fs::write(at("moved/x"), "longer than before").unwrap();
    fs::remove_file(at("gone")).unwrap();
    fs::remove_dir_all(at("turns")).unwrap();
    fs::write(at("turns"), "a file now").unwrap();
    fs::remove_file(at("grows")).unwrap();
    fs::create_dir_all(at("grows/deep")).unwrap();
    fs::write(at("grows/deep/f"), "f").unwrap();
    fs::remove_file(at("link")).unwrap();
    symlink("moved/x", at("link")).unwrap();
    let sparse = fs::File::options().write(true).open(at("sparse")).unwrap();
    sparse.write_all_at(b"data", 1 << 33).unwrap();
    drop(sparse);
    fs::set_permissions(at("c"), fs::Permissions::from_mode(0o4750)).unwrap();
    fs::set_permissions(at("moved/e"), fs::Permissions::from_mode(0o500)).unwrap();
    fs::write(at("").join(OsStr::from_bytes(b"odd\n\xff")), "odd").unwrap();
    run(Command::new("mkfifo").arg(at("pipe")));
    let told = world.commit();
    assert!(told.starts_with("committed b to "), "{told}");
    assert_eq!(text(world.host.join("mine")), "not in the volume");
    fs::remove_file(world.host.join("mine")).unwrap();
    assert_eq!(attributes(&world.branch), attributes(&world.host));
    for name in [
        "a",
        "b",
        "moved/x",
        "moved/e/y",
        "turns",
        "grows/deep/f",
        "link",
    ] {
        assert_eq!(text(world.host.join(name)), text(at(name)), "{name}");
    }
    let of = |name: &str| fs::metadata(world.host.join(name)).unwrap();
    assert_eq!(of("a").ino(), of("b").ino());
    assert!(of("sparse").blocks() < 1 << 13);
    // Once more, and nothing is replaced.
    let before = of("moved/x").ino();
    world.commit();
    assert_eq!(of("moved/x").ino(), before);
    assert_eq!(attributes(&world.branch), attributes(&world.host));
    world.end();
}

#[test]
fn what_is_another_on_the_host_is_listed_and_nothing_is_done() {
    let world = World::new(|host| {
        fs::create_dir(host.join("d")).unwrap();
        for name in ["a", "b", "c", "same", "d/x"] {
            fs::write(host.join(name), "then").unwrap();
        }
    });
    for name in ["a", "b", "c", "same", "new"] {
        fs::write(world.branch.join(name), "from the branch").unwrap();
    }
    fs::remove_dir_all(world.branch.join("d")).unwrap();
    fs::write(world.host.join("a"), "mine").unwrap();
    fs::remove_file(world.host.join("b")).unwrap();
    fs::remove_file(world.host.join("c")).unwrap();
    fs::create_dir(world.host.join("c")).unwrap();
    fs::write(world.host.join("new"), "mine").unwrap();
    // What is there already is none.
    fs::write(world.host.join("same"), "from the branch").unwrap();
    fs::write(world.host.join("d/mine"), "mine").unwrap();
    let all = ["a", "b", "c", "d/mine", "new"];
    assert_eq!(world.refused(&[]), all);
    assert_eq!(text(world.host.join("a")), "mine");
    assert_eq!(text(world.host.join("d/x")), "then");
    let line = razorfs(world.line());
    let listed = String::from_utf8(line.stdout).unwrap();
    assert!(listed.contains("C /a  (on the host it is not"), "{listed}");
    // What nobody but the host has is not removed, whatever is said.
    assert_eq!(world.refused(&["--on-conflict", "branch"]), ["d/mine"]);
    fs::remove_file(world.host.join("d/mine")).unwrap();
    let mut line = world.line();
    line.extend(["--on-conflict", "branch"].map(str::to_owned));
    ok(line);
    same_trees(&world.branch, &world.host);
    // What was committed is what it counts from the next time, if there is a snapshot of it.
    let branch = world.branch.to_str().unwrap();
    ok(["snapshot", "create", branch, "done"]);
    fs::write(world.branch.join("a"), "later").unwrap();
    assert_eq!(world.refused(&[]), ["a"]);
    let mut line = world.line();
    line.extend(["--since", "done"].map(str::to_owned));
    ok(line);
    assert_eq!(text(world.host.join("a")), "later");
    ok(["snapshot", "delete", branch, "done"]);
    world.end();
}

#[test]
fn a_symbolic_link_on_the_host_does_not_lead_a_commit_out_of_the_directory() {
    let world = World::new(|host| {
        for dir in ["d", "gone"] {
            fs::create_dir_all(host.join(dir).join("e")).unwrap();
            fs::write(host.join(dir).join("e/x"), "then").unwrap();
        }
        fs::write(host.join("f"), "then").unwrap();
    });
    let outside = world.host.with_file_name("outside");
    fs::create_dir_all(outside.join("e")).unwrap();
    fs::write(outside.join("e/x"), "then").unwrap();
    fs::write(outside.join("f"), "then").unwrap();
    fs::write(world.branch.join("d/e/x"), "new").unwrap();
    fs::write(world.branch.join("d/e/y"), "new").unwrap();
    fs::write(world.branch.join("f"), "new").unwrap();
    fs::remove_dir_all(world.branch.join("gone")).unwrap();
    for dir in ["d", "gone"] {
        fs::remove_dir_all(world.host.join(dir)).unwrap();
        symlink(&outside, world.host.join(dir)).unwrap();
    }
    fs::remove_file(world.host.join("f")).unwrap();
    symlink(outside.join("f"), world.host.join("f")).unwrap();
    assert_eq!(world.refused(&[]), ["d", "f", "gone"]);
    assert_eq!(world.refused(&["--on-conflict", "branch"]), ["d"]);
    fs::remove_file(world.host.join("d")).unwrap();
    fs::create_dir_all(world.host.join("d/e")).unwrap();
    let mut line = world.line();
    line.extend(["--on-conflict", "branch"].map(str::to_owned));
    ok(line);
    same_trees(&world.branch, &world.host);
    for name in ["e/x", "f"] {
        assert_eq!(text(outside.join(name)), "then");
    }
    assert!(!outside.join("e/y").exists());
    world.end();
}

#[test]
fn a_conflict_of_attributes_is_listed_and_a_user_keeps_files_of_any_name() {
    let world = World::new(|host| {
        fs::write(host.join("a"), "then").unwrap();
        fs::write(host.join("b"), "then").unwrap();
        fs::write(host.join(".razorfs-commit.part"), "mine").unwrap();
    });
    let mode = |path: PathBuf, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(world.branch.join("a"), 0o600);
    fs::write(world.branch.join("b"), "new").unwrap();
    mode(world.host.join("a"), 0o640);
    assert_eq!(world.refused(&[]), ["a"]);
    mode(world.host.join("a"), 0o644);
    mode(world.host.join("b"), 0o640);
    world.commit();
    let of = |name: &str| fs::metadata(world.host.join(name)).unwrap().mode() & 0o7777;
    assert_eq!((of("a"), of("b")), (0o600, 0o640));
    assert_eq!(text(world.host.join("b")), "new");
    assert_eq!(text(world.host.join(".razorfs-commit.part")), "mine");
    world.end();
}

/// Killed at any moment, each file is as it was or as it is to be.
#[test]
fn a_commit_to_the_host_that_is_killed_leaves_whole_files_and_another_one_finishes() {
    const BYTES: usize = 300_000;
    let world = World::new(|host| {
        for n in 0..60 {
            fs::write(host.join(format!("f{n}")), vec![b'a'; BYTES]).unwrap();
        }
    });
    for n in 0..60 {
        let name = world.branch.join(format!("f{n}"));
        match n % 3 {
            0 => fs::write(name, vec![b'b'; BYTES + 1]).unwrap(),
            1 => fs::rename(name, world.branch.join(format!("g{n}"))).unwrap(),
            _ => fs::remove_file(name).unwrap(),
        }
    }
    let seed = seed();
    eprintln!("RAZORFS_SEED={seed}");
    let mut random = Random(seed);
    for signal in ["KILL", "INT", "KILL", "TERM"] {
        let mut command = Command::new(RAZORFS);
        command
            .args(world.line())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(random.between(1, 150)));
        // It may be done by now.
        let pid = child.id().to_string();
        let _ = Command::new("kill")
            .args([&format!("-{signal}"), &pid])
            .status();
        child.wait().unwrap();
        for entry in fs::read_dir(&world.host).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if name.starts_with(".razorfs-commit-") && name.ends_with(".part") {
                assert_eq!(signal, "KILL");
                continue;
            }
            let bytes = fs::read(&path).unwrap();
            let is_old = bytes == vec![b'a'; BYTES];
            assert!(
                is_old || bytes == vec![b'b'; BYTES + 1],
                "{}",
                path.display()
            );
        }
    }
    world.commit();
    same_trees(&world.branch, &world.host);
    // Those that died could not give their snapshots back, nor their unfinished files.
    world.end();
}

#[test]
fn a_volume_that_is_not_mounted_commits_to_the_host_too() {
    let world = World::new(|host| fs::write(host.join("a"), "then").unwrap());
    fs::write(world.branch.join("a"), "new").unwrap();
    ok(["umount".as_ref(), world.branch.as_os_str()]);
    let at = format!("{}@b", world.mount.volume.display());
    let host = world.host.to_str().unwrap();
    ok(["commit", "-q", &at, "--to", host]);
    assert_eq!(text(world.host.join("a")), "new");
    let nowhere = fails(1, ["commit", &at, "--to", &format!("{host}/none")]);
    assert!(nowhere.contains("no such file or directory"), "{nowhere}");
    let inside = fails(
        1,
        ["commit", &at, "--to", world.mount.volume.to_str().unwrap()],
    );
    assert!(inside.contains("keeps its own files there"), "{inside}");
    world.mount.verify();
}
