//! The check must notice what it is there for; no mount is needed for that.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::check::{LOST, check};
use super::load::{Load, history, prepare};
use super::manifest::{COMMITS, Done, Manifest, ROWS, Told, WORKERS};
use super::model::{Model, look};

const SEED: u64 = 7;

/// Something done to a file below a directory.
type Damage = dyn Fn(&Path, &str);

/// Both workers that change files have done that much in a new directory; answers with what one
/// of them has left.
fn worked(dir: &Path, operations: u64) -> Model {
    prepare(dir, SEED, true).unwrap();
    let mut model = Model::default();
    for worker in 0..2 {
        model = Model::default();
        let mut random = history(SEED, worker);
        for _ in 0..operations {
            let op = model.next(&mut random);
            op.run(&dir.join(worker.to_string())).unwrap();
            model.apply(&op);
        }
    }
    model
}

fn told(floor: u64, begun: u64) -> Told {
    Told {
        floor: [floor; WORKERS],
        begun: [begun; WORKERS],
        ..Told::default()
    }
}

#[test]
fn the_model_does_what_the_host_does() {
    let room = TempDir::new().unwrap();
    let dir = room.path().join("x");
    prepare(&dir, SEED, true).unwrap();
    let (dir, mut random) = (dir.join("0"), history(SEED, 0));
    let mut model = Model::default();
    for n in 0..600 {
        let op = model.next(&mut random);
        op.run(&dir).unwrap();
        model.apply(&op);
        assert_eq!(model.seen(), look(&dir).unwrap(), "operation {n}: {op:?}");
    }
}

#[test]
fn any_moment_since_the_acknowledged_one_is_right_and_an_earlier_one_is_a_loss() {
    let room = TempDir::new().unwrap();
    let dir = room.path().join("x");
    worked(&dir, 300);
    for (floor, begun) in [(300, 300), (290, 300), (300, 310), (0, 1000)] {
        check(&dir, &told(floor, begun), SEED, true).unwrap();
    }
    for (floor, begun) in [(301, 310), (0, 299)] {
        let why = check(&dir, &told(floor, begun), SEED, true).unwrap_err();
        assert!(why.starts_with(LOST), "{why}");
    }
}

#[test]
fn a_byte_a_name_or_a_length_that_differs_is_a_loss() {
    let change = |damage: &Damage| {
        let room = TempDir::new().unwrap();
        let dir = room.path().join("x");
        let model = worked(&dir, 300);
        let full = |name: &&&String| !model.content(name).unwrap().is_empty();
        let files = model.files();
        let name = *files.iter().find(full).unwrap();
        damage(&dir.join("1"), name);
        check(&dir, &told(250, 300), SEED, true).unwrap_err()
    };
    let byte = |dir: &Path, name: &str| {
        let mut bytes = fs::read(dir.join(name)).unwrap();
        bytes[0] ^= 1;
        fs::write(dir.join(name), bytes).unwrap();
    };
    let length = |dir: &Path, name: &str| {
        let mut bytes = fs::read(dir.join(name)).unwrap();
        bytes.push(0);
        fs::write(dir.join(name), bytes).unwrap();
    };
    let gone = |dir: &Path, name: &str| fs::remove_file(dir.join(name)).unwrap();
    let more = |dir: &Path, _: &str| fs::write(dir.join("more"), "").unwrap();
    let damages: [&Damage; 4] = [&byte, &length, &gone, &more];
    for damage in damages {
        let why = change(damage);
        assert!(why.starts_with(LOST), "{why}");
    }
}

#[test]
fn a_write_that_was_under_way_may_be_there_up_to_a_page() {
    let (mut random, mut n) = (history(SEED, 0), 0);
    let mut model = Model::default();
    let op = loop {
        let op = model.next(&mut random);
        n += 1;
        if op.parts().len() > 3 {
            break op;
        }
        model.apply(&op);
    };
    let outcome = |floor: u64, cut: usize| {
        let room = TempDir::new().unwrap();
        let dir = room.path().join("x");
        worked(&dir, n - 1);
        op.first(cut).run(&dir.join("0")).unwrap();
        let mut told = told(n - 1, n);
        told.floor[0] = floor;
        check(&dir, &told, SEED, true)
    };
    let page = op.parts()[1].len().unwrap();
    outcome(n - 1, page).unwrap();
    assert!(outcome(n - 1, page + 1).is_err());
    assert!(outcome(n, page).is_err());
    outcome(n, op.len().unwrap()).unwrap();
}

#[test]
fn what_was_refused_is_not_waited_for() {
    let room = TempDir::new().unwrap();
    let dir = room.path().join("x");
    prepare(&dir, SEED, true).unwrap();
    let mut all = told(0, 0);
    for worker in 0..2 {
        let mut random = history(SEED, worker);
        let mut model = Model::default();
        for n in 1..=100 {
            let op = model.next(&mut random);
            if n % 5 == 0 {
                all.refused.insert((worker, n));
            } else {
                op.run(&dir.join(worker.to_string())).unwrap();
                model.apply(&op);
            }
        }
    }
    (all.floor, all.begun) = ([100; WORKERS], [100; WORKERS]);
    check(&dir, &all, SEED, true).unwrap();
    all.refused.clear();
    assert!(check(&dir, &all, SEED, true).is_err());
}

#[test]
fn a_row_or_a_commit_that_is_missing_is_a_loss() {
    let room = TempDir::new().unwrap();
    let dir = room.path().join("x");
    prepare(&dir, SEED, false).unwrap();
    check(&dir, &told(0, 0), SEED, false).unwrap();
    for worker in [ROWS, COMMITS] {
        let mut lost = told(0, 1);
        lost.floor[worker] = 1;
        let why = check(&dir, &lost, SEED, false).unwrap_err();
        assert!(why.starts_with(LOST), "{why}");
    }
}

#[test]
fn an_acknowledgement_covers_what_others_had_done() {
    let room = TempDir::new().unwrap();
    let done = Done::default();
    let (mut first, mut second) = (
        Manifest::create(room.path(), 0).unwrap(),
        Manifest::create(room.path(), 1).unwrap(),
    );
    first.begin(5).unwrap();
    done.set(0, 5);
    second.begin(9).unwrap();
    done.set(1, 8);
    second.acknowledged(done.now()).unwrap();
    done.set(0, 6);
    first
        .refused(6, &std::io::Error::from_raw_os_error(28))
        .unwrap();
    first
        .unsynced(&std::io::Error::from_raw_os_error(28))
        .unwrap();
    first.ended("why not").unwrap();
    let told = Told::read(room.path()).unwrap();
    assert_eq!(told.floor, [5, 8, 0, 0]);
    assert_eq!(told.begun, [5, 9, 0, 0]);
    assert!(told.refused.contains(&(0, 6)));
    assert_eq!((told.syncs, told.unsynced), (1, 1));
    assert_eq!(told.ended, ["worker 0: why not"]);
    fs::write(room.path().join("worker-2"), "acknowledged 1\n").unwrap();
    assert!(Told::read(room.path()).is_err());
}

#[test]
fn a_load_ends_with_its_directory() {
    let room = TempDir::new().unwrap();
    let load = Load {
        dir: room.path().join("x"),
        manifests: room.path().to_path_buf(),
        razorfs: "true".into(),
        seed: SEED,
        files_only: true,
    };
    prepare(&load.dir, SEED, true).unwrap();
    let away = room.path().join("y");
    std::thread::scope(|scope| {
        let working = scope.spawn(|| load.run());
        while Told::read(room.path()).unwrap().syncs < 3 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        fs::rename(&load.dir, &away).unwrap();
        working.join().unwrap().unwrap();
    });
    let told = Told::read(room.path()).unwrap();
    assert_eq!(told.ended.len(), 2, "{told:?}");
    check(&away, &told, SEED, true).unwrap();
}
