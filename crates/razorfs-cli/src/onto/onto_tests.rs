use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::json;

use super::*;
use crate::progress::{Progress, Unit};
use crate::tree::HostTree;

/// What a branch began with, what it has now, and the directory that it is committed to.
struct World {
    _room: tempfile::TempDir,
    before: PathBuf,
    after: PathBuf,
    host: PathBuf,
}

impl World {
    /// All three have what `fill` makes.
    fn new(fill: impl Fn(&Path)) -> Self {
        let room = tempfile::tempdir().unwrap();
        let dir = |name: &str| {
            let dir = room.path().join(name);
            fs::create_dir(&dir).unwrap();
            fill(&dir);
            dir
        };
        Self {
            before: dir("before"),
            after: dir("after"),
            host: dir("host"),
            _room: room,
        }
    }

    /// Commits these paths; `meanwhile` is done between the check and the work. Answers with what
    /// the check found, and what the work stopped at.
    fn commit(
        &self,
        paths: &[&str],
        take: bool,
        meanwhile: impl FnOnce(&Path),
    ) -> (Vec<PathBuf>, Option<PathBuf>) {
        let (before, after) = (HostTree::new(&self.before), HostTree::new(&self.after));
        let host = HostTree::without_links(&self.host).unwrap();
        let sides = Sides {
            before: &before,
            after: &after,
        };
        let change = |path: &&str| json!({"path": format!("/{path}"), "kind": "file"});
        let changes: Vec<Value> = paths.iter().map(change).collect();
        let plan = sides.plan(&changes).unwrap();
        let parts = Parts::of("a-volume");
        parts.sweep(&plan, &host).unwrap();
        let (clashes, seen) = check(&sides, &plan, &host).unwrap();
        let found: Vec<PathBuf> = clashes.iter().map(|clash| clash.path.clone()).collect();
        if !take && !found.is_empty() {
            return (found, None);
        }
        meanwhile(&self.host);
        let mut work = Work {
            sides: &sides,
            plan: &plan,
            host: &host,
            seen,
            parts: &parts,
            progress: &mut Progress::new("commit", Unit::Bytes, true),
            links: HashMap::new(),
            dressed: HashMap::new(),
            unsynced: BTreeSet::new(),
        };
        let stopped = match work.run() {
            Ok(()) => None,
            Err(Stop::Clash(clash)) => Some(clash.path),
            Err(Stop::Failed(failure)) => panic!("{failure}"),
        };
        (found, stopped)
    }

    fn commits(&self, paths: &[&str]) {
        assert_eq!(self.commit(paths, false, |_| ()), (vec![], None));
    }

    fn clashes(&self, paths: &[&str]) -> Vec<PathBuf> {
        self.commit(paths, false, |_| panic!("it is worked")).0
    }
}

fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

fn mode(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn mode_of(path: impl AsRef<Path>) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn what_is_edited_or_made_on_the_host_after_the_check_is_neither_replaced_nor_removed() {
    let fill = |dir: &Path| {
        for name in ["edited", "gone", "kept"] {
            fs::write(dir.join(name), "then").unwrap();
        }
        fs::create_dir(dir.join("emptied")).unwrap();
        fs::write(dir.join("turns"), "then").unwrap();
    };
    let all = [
        "edited", "emptied", "gone", "kept", "new", "newdir", "turns",
    ];
    let world = || {
        let world = World::new(fill);
        let at = |name: &str| world.after.join(name);
        for name in ["edited", "kept", "new"] {
            fs::write(at(name), "from the branch").unwrap();
        }
        fs::remove_file(at("gone")).unwrap();
        fs::remove_dir(at("emptied")).unwrap();
        fs::create_dir(at("newdir")).unwrap();
        fs::remove_file(at("turns")).unwrap();
        fs::create_dir(at("turns")).unwrap();
        world
    };
    // The same size, and a time that is put back.
    let edit = |path: PathBuf| {
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(&path, "mine").unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(time).unwrap();
    };
    for name in ["edited", "gone", "turns"] {
        let world = world();
        let (_, stopped) = world.commit(&all, false, |host| edit(host.join(name)));
        assert_eq!(stopped, Some(name.into()));
        assert_eq!(text(world.host.join(name)), "mine");
        assert!(names(&world.host).iter().all(|name| !name.starts_with('.')));
    }
    for name in ["new", "newdir"] {
        let world = world();
        let (_, stopped) = world.commit(&all, false, |host| {
            fs::write(host.join(name), "mine").unwrap();
        });
        assert_eq!(stopped, Some(name.into()));
        assert_eq!(text(world.host.join(name)), "mine");
        assert!(names(&world.host).iter().all(|name| !name.starts_with('.')));
    }
    let world = world();
    let (_, stopped) = world.commit(&all, false, |host| {
        fs::write(host.join("emptied/mine"), "mine").unwrap();
    });
    assert_eq!(stopped, Some("emptied/mine".into()));
    // What was done stays, and another run does the rest.
    assert_eq!(text(world.host.join("kept")), "from the branch");
    fs::remove_file(world.host.join("emptied/mine")).unwrap();
    world.commits(&all);
    assert_eq!(names(&world.host), names(&world.after));
}

#[test]
fn a_name_that_comes_between_the_look_and_the_rename_stays() {
    let world = World::new(|_| ());
    let host = HostTree::without_links(&world.host).unwrap();
    for name in ["part", "there"] {
        fs::write(world.host.join(name), name).unwrap();
    }
    let (part, there) = (Path::new("part"), Path::new("there"));
    assert!(!host.rename_new(part, there, false).unwrap());
    assert_eq!(text(world.host.join("there")), "there");
    assert!(host.rename_new(part, Path::new("free"), false).unwrap());
    assert_eq!(names(&world.host), ["free", "there"]);
}

#[test]
fn several_names_of_a_file_on_the_host_are_all_replaced_and_removed() {
    let world = World::new(|dir| {
        fs::write(dir.join("a"), "then").unwrap();
        for name in ["b", "c", "d"] {
            fs::hard_link(dir.join("a"), dir.join(name)).unwrap();
        }
    });
    fs::write(world.after.join("a"), "from the branch").unwrap();
    fs::remove_file(world.after.join("c")).unwrap();
    fs::remove_file(world.after.join("d")).unwrap();
    fs::write(world.after.join("d"), "another").unwrap();
    world.commits(&["a", "c", "d"]);
    assert_eq!(names(&world.host), ["a", "b", "d"]);
    let ino = |name: &str| fs::metadata(world.host.join(name)).unwrap().ino();
    assert_eq!(ino("a"), ino("b"));
    assert_eq!(text(world.host.join("b")), "from the branch");
    assert_eq!(text(world.host.join("d")), "another");
}

#[test]
fn a_file_with_several_names_on_the_host_gets_another_mode_at_once() {
    let world = World::new(|dir| {
        fs::write(dir.join("a"), "then").unwrap();
        fs::hard_link(dir.join("a"), dir.join("b")).unwrap();
        mode(dir.join("a"), 0o644);
    });
    mode(world.after.join("a"), 0o600);
    world.commits(&["a", "b"]);
    assert_eq!(mode_of(world.host.join("b")), 0o600);
    // Somebody else's change is none of ours.
    mode(world.after.join("a"), 0o644);
    mode(world.before.join("a"), 0o600);
    let meanwhile = |host: &Path| mode(host.join("b"), 0o640);
    let (_, stopped) = world.commit(&["a", "b"], false, meanwhile);
    assert_eq!(stopped, Some("a".into()));
}

#[test]
fn attributes_that_only_the_host_has_changed_stay() {
    let world = World::new(|dir| {
        for name in ["content", "mode", "d"] {
            match name {
                "d" => fs::create_dir(dir.join(name)).unwrap(),
                _ => fs::write(dir.join(name), "then").unwrap(),
            }
            mode(dir.join(name), 0o755);
            set(&dir.join(name), "user.both", "then");
            set(&dir.join(name), "user.branch", "then");
        }
    });
    let (after, host) = (&world.after, &world.host);
    fs::write(after.join("content"), "from the branch").unwrap();
    mode(after.join("mode"), 0o700);
    mode(after.join("d"), 0o750);
    for name in ["content", "mode", "d"] {
        set(&after.join(name), "user.branch", "new");
        set(&after.join(name), "user.more", "new");
        set(&host.join(name), "user.both", "mine");
        set(&host.join(name), "user.mine", "mine");
    }
    mode(host.join("content"), 0o4711);
    let old = std::time::SystemTime::UNIX_EPOCH;
    let file = fs::File::options().write(true).open(host.join("mode"));
    file.unwrap().set_modified(old).unwrap();
    let same = fs::metadata(world.before.join("mode")).unwrap().modified();
    let file = fs::File::options().write(true).open(after.join("mode"));
    file.unwrap().set_modified(same.unwrap()).unwrap();
    world.commits(&["content", "mode", "d"]);
    assert_eq!(text(host.join("content")), "from the branch");
    assert_eq!(mode_of(host.join("content")), 0o4711);
    assert_eq!(mode_of(host.join("mode")), 0o700);
    assert_eq!(mode_of(host.join("d")), 0o750);
    let time = fs::metadata(host.join("mode")).unwrap().modified().unwrap();
    assert_eq!(time, old);
    for name in ["content", "mode", "d"] {
        for (attribute, value) in [
            ("user.both", "mine"),
            ("user.branch", "new"),
            ("user.mine", "mine"),
            ("user.more", "new"),
        ] {
            assert_eq!(
                get(&host.join(name), attribute),
                value,
                "{name} {attribute}"
            );
        }
    }
}

#[test]
fn an_attribute_that_both_have_changed_is_a_conflict_unless_the_branch_is_to_be_right() {
    let world = World::new(|dir| {
        for name in ["mode", "owner", "same", "xattr"] {
            fs::write(dir.join(name), "then").unwrap();
            mode(dir.join(name), 0o644);
        }
        fs::create_dir(dir.join("d")).unwrap();
        mode(dir.join("d"), 0o755);
    });
    let (after, host) = (&world.after, &world.host);
    mode(after.join("mode"), 0o600);
    mode(host.join("mode"), 0o640);
    mode(after.join("same"), 0o600);
    mode(host.join("same"), 0o600);
    mode(after.join("d"), 0o711);
    mode(host.join("d"), 0o500);
    set(&after.join("xattr"), "user.x", "new");
    set(&host.join("xattr"), "user.x", "mine");
    fs::create_dir(after.join("made")).unwrap();
    mode(after.join("made"), 0o511);
    fs::create_dir(host.join("made")).unwrap();
    mode(host.join("made"), 0o777);
    let all = ["d", "made", "mode", "owner", "same", "xattr"];
    let mut expected: Vec<PathBuf> = ["d", "made", "mode", "xattr"].map(Into::into).to_vec();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(after.join("owner"), Some(1), None).unwrap();
        std::os::unix::fs::chown(host.join("owner"), Some(2), None).unwrap();
        expected.insert(3, "owner".into());
    }
    assert_eq!(world.clashes(&all), expected);
    assert_eq!(mode_of(host.join("mode")), 0o640);
    // A directory that a run which was cut off has made is none.
    mode(host.join("made"), 0o711);
    expected.retain(|path| *path != Path::new("made"));
    assert_eq!(world.clashes(&all), expected);
    assert_eq!(world.commit(&all, true, |_| ()), (expected, None));
    for name in all {
        let of = |dir: &Path| {
            let meta = fs::metadata(dir.join(name)).unwrap();
            (meta.mode(), meta.uid())
        };
        assert_eq!(of(host), of(after), "{name}");
    }
    assert_eq!(get(&host.join("xattr"), "user.x"), "new");
}

#[test]
fn no_file_of_the_user_is_taken_for_an_unfinished_one() {
    let world = World::new(|_| ());
    let mine = [
        ".razorfs-commit.part",
        ".razorfs-commit-another-volume-0123456789abcdef.part",
        ".razorfs-commit-a-volume-0123456789abcde.part",
        ".razorfs-commit-a-volume-0123456789abcdeF.part",
    ];
    for name in mine {
        fs::write(world.host.join(name), "mine").unwrap();
    }
    let left = Parts::of("a-volume").name();
    fs::write(world.host.join(&left), "left").unwrap();
    fs::create_dir(world.host.join(Parts::of("a-volume").name())).unwrap();
    fs::write(world.after.join("new"), "from the branch").unwrap();
    world.commits(&["new"]);
    for name in mine {
        assert_eq!(text(world.host.join(name)), "mine");
    }
    assert_eq!(names(&world.host).len(), mine.len() + 1);
}

fn set(path: &Path, name: &str, value: &str) {
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::lsetxattr(path, name, value.as_bytes(), flags).unwrap();
}

fn get(path: &Path, name: &str) -> String {
    let mut value = vec![0; 64];
    let n = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).unwrap();
    value.truncate(n);
    String::from_utf8(value).unwrap()
}
