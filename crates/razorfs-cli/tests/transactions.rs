//! Several changes by programs, all or none of them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::support::{
    Mount, RAZORFS, fails, is_alive, is_mounted, ok, razorfs, reap, same_trees, signal, wait_until,
};

fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

/// A mounted volume with a file, and a directory beside it.
fn mounted() -> (Mount, String, PathBuf) {
    let mount = Mount::with(&[]);
    fs::write(mount.dir.join("a"), "one").unwrap();
    let place = mount.dir.to_str().unwrap().to_owned();
    let work = mount.dir.with_file_name("work");
    (mount, place, work)
}

fn listed(place: &str) -> Vec<Value> {
    let document = ok(["transaction", "list", place, "--json"]);
    let document: Value = serde_json::from_str(&document).unwrap();
    document["transactions"].as_array().unwrap().clone()
}

fn end(mount: &Mount) {
    mount.umount();
    mount.verify();
}

#[test]
fn nobody_sees_what_is_done_in_a_transaction_until_it_is_committed() {
    let (mount, place, work) = mounted();
    let dir = work.to_str().unwrap();
    assert_eq!(ok(["transaction", "begin", &place, "up", dir]), "up\n");
    fs::write(work.join("a"), "two").unwrap();
    fs::create_dir(work.join("d")).unwrap();
    fs::write(work.join("d/b"), "new").unwrap();
    // What others do meanwhile stays.
    fs::write(mount.dir.join("other"), "other").unwrap();
    assert_eq!(text(mount.dir.join("a")), "one");
    assert!(!mount.dir.join("d").exists() && !work.join("other").exists());
    let all = listed(&place);
    assert_eq!(
        (&all[0]["name"], &all[0]["dir"]),
        (&"up".into(), &dir.into())
    );
    let said = ok(["transaction", "commit", &place, "up"]);
    assert_eq!(text(mount.dir.join("a")), "two");
    assert_eq!(text(mount.dir.join("d/b")), "new");
    assert_eq!(text(mount.dir.join("other")), "other");
    assert!(!is_mounted(&work) && listed(&place).is_empty());
    let undo = said
        .lines()
        .last()
        .unwrap()
        .rsplit_once("razorfs ")
        .unwrap();
    ok(undo.1.split(' '));
    assert_eq!(text(mount.dir.join("a")), "one");
    end(&mount);
}

#[test]
fn of_an_aborted_transaction_nothing_is_there() {
    let (mount, place, work) = mounted();
    let dir = work.to_str().unwrap();
    ok(["transaction", "begin", &place, "up", dir]);
    fs::write(work.join("a"), "two").unwrap();
    fs::write(work.join("b"), "two").unwrap();
    ok(["transaction", "abort", dir]);
    assert_eq!(text(mount.dir.join("a")), "one");
    assert!(!mount.dir.join("b").exists() && !is_mounted(&work));
    assert!(ok(["branch", "list", &place]).starts_with("no branches"));
    assert!(ok(["snapshot", "list", &place]).starts_with("no snapshots"));
    let line = fails(1, ["transaction", "abort", &place, "up"]);
    assert!(line.contains("there is no such transaction"), "{line}");
    ok(["transaction", "begin", &place, "update"]);
    let line = fails(1, ["transaction", "commit", &place, "updat"]);
    assert!(line.contains("perhaps \"update\" is meant"), "{line}");
    // A branch of the user's is none.
    ok(["branch", "create", &place, "mine"]);
    fails(1, ["transaction", "abort", &place, "mine"]);
    assert_eq!(listed(&place).len(), 1);
    end(&mount);
}

#[test]
fn after_a_conflict_the_transaction_is_where_it_was_and_nothing_was_done() {
    let (mount, place, work) = mounted();
    let dir = work.to_str().unwrap();
    ok(["transaction", "begin", &place, "up", dir]);
    fs::write(work.join("a"), "two").unwrap();
    fs::write(work.join("b"), "two").unwrap();
    fs::write(mount.dir.join("a"), "three").unwrap();
    let refused = razorfs(["transaction", "commit", &place, "up", "--json"]);
    assert_eq!(refused.status.code(), Some(1));
    let document: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!(document["conflicts"][0]["path"], "a");
    assert_eq!(document["done"], false);
    assert_eq!(text(mount.dir.join("a")), "three");
    assert!(!mount.dir.join("b").exists());
    assert_eq!(text(work.join("a")), "two");
    let take = [
        "transaction",
        "commit",
        dir,
        "--on-conflict",
        "branch",
        "--no-undo",
    ];
    assert_eq!(ok(take), "committed up\n");
    assert_eq!(text(mount.dir.join("a")), "two");
    assert!(ok(["snapshot", "list", &place]).starts_with("no snapshots"));
    end(&mount);
}

#[test]
fn a_transaction_that_a_program_is_writing_to_is_not_committed() {
    let (mount, place, work) = mounted();
    ok(["transaction", "begin", &place, "up", work.to_str().unwrap()]);
    let open = fs::File::create(work.join("b")).unwrap();
    let line = fails(1, ["transaction", "commit", &place, "up"]);
    assert!(line.contains("cannot unmount"), "{line}");
    assert!(!mount.dir.join("b").exists() && is_mounted(&work));
    drop(open);
    ok(["transaction", "commit", &place, "up"]);
    assert!(mount.dir.join("b").exists());
    end(&mount);
}

#[test]
fn a_transaction_of_a_volume_that_is_not_mounted_is_worked_in_by_commands_or_mounted_alone() {
    let (mount, _, work) = mounted();
    mount.umount();
    let volume = mount.volume.to_str().unwrap();
    let name = ok(["transaction", "begin", volume]);
    let name = name.trim();
    ok(["mkdir", &format!("{volume}@transaction-{name}:/dir")]);
    assert_eq!(ok(["ls", &mount.at("")]), "a\n");
    ok(["transaction", "commit", volume, name]);
    assert_eq!(ok(["ls", &mount.at("")]), "a\ndir\n");
    ok(["transaction", "begin", volume, "x", work.to_str().unwrap()]);
    fs::write(work.join("b"), "b").unwrap();
    ok(["transaction", "commit", work.to_str().unwrap()]);
    assert_eq!(ok(["cat", &mount.at("b")]), "b");
    let line = fails(1, ["transaction", "begin", &format!("{volume}@x")]);
    assert!(line.contains("as it is now"), "{line}");
    mount.verify();
}

/// A `razorfs transaction run` with its script under way; `ready` is a file that the script makes
/// in the transaction.
fn running(place: &str, script: &str) -> (Child, PathBuf) {
    let mut command = Command::new(RAZORFS);
    command.args(["transaction", "run", place, "--", "sh", "-c", script]);
    let child = command.stdin(Stdio::null()).spawn().unwrap();
    let mut dir = None;
    wait_until("the script has begun", || {
        let all = listed(place);
        dir = all
            .iter()
            .find_map(|one| Some(PathBuf::from(one["dir"].as_str()?)));
        dir.as_ref().is_some_and(|dir| dir.join("ready").exists())
    });
    (child, dir.unwrap())
}

#[test]
fn what_a_command_does_is_committed_if_it_succeeds_and_only_then() {
    let (mount, place, _) = mounted();
    let script = "test $PWD = $RAZORFS_TRANSACTION_DIR && rm a && echo new > b";
    let run = |script: &str| {
        let line = [
            "transaction",
            "run",
            &place,
            "--no-undo",
            "--",
            "sh",
            "-c",
            script,
        ];
        razorfs(line).status.code()
    };
    assert_eq!(run(&format!("{script}; exit 7")), Some(7));
    assert_eq!(run(&format!("{script}; kill -9 $$")), Some(137));
    assert_eq!(text(mount.dir.join("a")), "one");
    assert!(!mount.dir.join("b").exists());
    fails(2, ["transaction", "run", &place, "--", "no-such-program"]);
    assert_eq!(run(script), Some(0));
    assert_eq!(text(mount.dir.join("b")), "new\n");
    assert!(!mount.dir.join("a").exists() && listed(&place).is_empty());
    let both = format!("echo x > b; echo y > {place}/b");
    assert_eq!(run(&both), Some(1));
    assert_eq!(text(mount.dir.join("b")), "y\n");
    let name = listed(&place)[0]["name"].as_str().unwrap().to_owned();
    ok(["transaction", "abort", &place, &name]);
    end(&mount);
}

#[test]
fn what_a_command_works_in_is_reached_by_nobody_else() {
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::process::CommandExt;
    let (mount, place, _) = mounted();
    fs::set_permissions(&mount.dir, PermissionsExt::from_mode(0o755)).unwrap();
    let script = "touch ready; until test -e stop; do sleep 0.02; done";
    let (child, dir) = running(&place, script);
    let outer = fs::symlink_metadata(dir.parent().unwrap()).unwrap();
    assert_eq!(outer.mode() & 0o7777, 0o700);
    assert_eq!(outer.uid(), fs::metadata("/proc/self").unwrap().uid());
    if outer.uid() == 0 {
        let mut other = Command::new("ls");
        other.arg(&dir).uid(65_534).gid(65_534);
        let listed = other.output().unwrap();
        assert!(!listed.status.success(), "{listed:?}");
    }
    fs::write(dir.join("stop"), "").unwrap();
    reap(child);
    assert!(!dir.parent().unwrap().exists());
    end(&mount);
}

#[test]
fn a_command_that_is_interrupted_has_done_nothing() {
    let (mount, place, _) = mounted();
    // It ends well when it is asked to, and still nothing of it stays.
    let script = "trap 'exit 0' TERM; rm a; touch ready; while :; do sleep 0.02; done";
    let (mut child, dir) = running(&place, script);
    signal(child.id(), "TERM");
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(128 + 15));
    assert_eq!(text(mount.dir.join("a")), "one");
    assert!(listed(&place).is_empty() && !dir.exists());
    end(&mount);
}

#[test]
fn programs_and_a_daemon_that_die_in_a_transaction_leave_the_volume_as_it_was() {
    let (mount, place, _) = mounted();
    let before = mount.dir.with_file_name("before");
    ok(["cp", "-r", &format!("{place}:/"), before.to_str().unwrap()]);
    mount.sync();
    let script = "rm a; touch ready; n=0; while :; do n=$((n+1)); echo $n > f$((n%50)); done";
    let (mut child, dir) = running(&place, script);
    let shell = fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap();
    let shell: u32 = shell.trim().parse().unwrap();
    let daemon = mount.pid();
    for pid in [child.id(), shell] {
        signal(pid, "KILL");
    }
    child.wait().unwrap();
    wait_until("the script is gone", || !is_alive(shell));
    mount.kill(daemon);
    for dir in [&dir, &mount.dir] {
        ok(["umount".as_ref(), dir.as_os_str()]);
    }
    mount.mount(&[]);
    same_trees(&mount.dir, &before);
    let left = listed(&place);
    assert_eq!((left.len(), &left[0]["dir"]), (1, &Value::Null));
    ok([
        "transaction",
        "abort",
        &place,
        left[0]["name"].as_str().unwrap(),
    ]);
    same_trees(&mount.dir, &before);
    fs::remove_dir(&dir).unwrap();
    fs::remove_dir(dir.parent().unwrap()).unwrap();
    end(&mount);
}

/// The daemon alone, with one that goes on for it: the transaction does, too.
#[test]
fn a_transaction_outlives_its_daemon_and_is_committed_by_the_next() {
    let (mount, place, work) = mounted();
    if !mount.again_patiently() {
        return;
    }
    ok(["transaction", "begin", &place, "up", work.to_str().unwrap()]);
    fs::write(work.join("a"), "two").unwrap();
    mount.kill_daemon(mount.pid());
    fs::write(work.join("b"), "two").unwrap();
    ok(["transaction", "commit", &place, "up"]);
    assert_eq!(
        text(mount.dir.join("a")) + &text(mount.dir.join("b")),
        "twotwo"
    );
    let (child, _) = running(
        &place,
        "touch ready; until test -e stop; do sleep 0.02; done",
    );
    mount.kill_daemon(mount.pid());
    let dir = listed(&place)[0]["dir"].as_str().unwrap().to_owned();
    fs::write(Path::new(&dir).join("stop"), "").unwrap();
    reap(child);
    assert!(mount.dir.join("ready").exists());
    end(&mount);
}
