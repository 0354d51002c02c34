//! The main job: a mount is used as people use one, its daemon is killed, and everything that was
//! synced is there.

use std::time::Duration;

use crate::support::{Mount, Random, run, same_trees, seed};
use crate::tree::Source;
use crate::work::{self, Database, Jobs, Writer};

/// How much is done before and while the daemon is killed.
#[derive(Clone, Copy)]
struct Load {
    files: usize,
    modules: usize,
    /// Milliseconds in which the daemon is killed.
    window: u64,
}

/// The whole job: more than 10,000 files.
const WHOLE: Load = Load {
    files: 10_400,
    modules: 20,
    window: 12_000,
};

/// The same in small, for many seeds.
const SMALL: Load = Load {
    files: 300,
    modules: 3,
    window: 2_500,
};

#[test]
fn killed_daemon_loses_nothing_that_was_synced_whole_job() {
    round(seed(), WHOLE);
}

#[test]
fn killed_daemon_loses_nothing_that_was_synced_many_seeds() {
    let first = seed();
    for n in 1..20 {
        round(first + n, SMALL);
    }
}

fn round(seed: u64, load: Load) {
    let mut random = Random(seed);
    let mount = Mount::with(&[]);
    let source = Source::make(mount.room.path(), load.files);
    assert_eq!(source.files, load.files);
    let pid = mount.pid();
    let first = work::directory(&mount.dir, "first");
    let second = work::directory(&mount.dir, "second");
    let synced = work::directory(&mount.dir, "synced");
    let built = work::directory(&mount.dir, "crate");

    // What `razorfs sync` makes durable.
    run(&mut work::unpack(&source.tar("first"), &first));
    work::make_crate(&built, load.modules);
    mount.sync();

    // What goes on while the daemon is killed.
    let database = Database::start(&mount.dir.join("db.sqlite"), 1);
    let writer = Writer::start(&synced, seed);
    let mut commands = vec![work::unpack(&source.tar("second"), &second)];
    commands.extend(work::git_steps(&second));
    commands.push(work::cargo_build(&built));
    let jobs = Jobs::start(commands);
    let delay = random.between(0, load.window);
    std::thread::sleep(Duration::from_millis(delay));
    let rows = database.acked();
    mount.kill(pid);
    let step = jobs.current();
    jobs.finish();
    let acked = writer.finish();
    database.finish();
    println!(
        "RAZORFS_SEED={seed}: killed after {delay} ms in step {step}, with {rows} rows and {} \
         files synced",
        acked.once
    );

    // The mount is dead; taking it away and mounting again recovers.
    mount.umount();
    mount.verify();
    mount.mount(&[]);
    same_trees(&source.half("first"), &first);
    work::check_writer(&synced, seed, &acked);
    let rows = if rows > 0 || mount.dir.join("db.sqlite").exists() {
        work::check_database(&mount.dir.join("db.sqlite"), rows)
    } else {
        0
    };
    work::check_prefixes(&second, &source.half("second"));
    if second.join(".git/objects").exists() && second.join(".git/HEAD").exists() {
        // An exact prefix of what git did holds together, whether it fsynced or not.
        run(&mut work::git(&second, &["fsck", "--no-dangling"]));
    }

    finish(&mount, &source, rows);
}

/// The job to its end, a clean unmount, and everything is there.
fn finish(mount: &Mount, source: &Source, rows: u64) {
    let second = mount.dir.join("second");
    let built = mount.dir.join("crate");
    let database = Database::start(&mount.dir.join("db.sqlite"), rows + 1);
    run(&mut work::unpack(&source.tar("second"), &second));
    let _ = std::fs::remove_dir_all(second.join(".git"));
    for mut command in work::git_steps(&second) {
        run(&mut command);
    }
    run(&mut work::cargo_build(&built));
    let rows = database.acked();
    database.finish();
    mount.umount();
    mount.verify();
    mount.mount(&[]);
    work::check_git(&second);
    std::fs::rename(second.join(".git"), mount.dir.join("git-of-second")).unwrap();
    for half in ["first", "second"] {
        same_trees(&source.half(half), &mount.dir.join(half));
    }
    work::check_database(&mount.dir.join("db.sqlite"), rows);
    run(&mut std::process::Command::new(
        built.join("target/debug/small"),
    ));
    mount.umount();
}
