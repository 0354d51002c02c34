//! Tars of hostile bytes, unpacked into a directory of the host and into a volume: they end in an
//! answer, and nothing outside of the target is touched. Files of the prototype: the same, but
//! their paths are looked at themselves.
//!
//! ```text
//! RAZORFS_INPUTS=100000 RAZORFS_SEED=7 cargo test -p razorfs-cli hostile
//! ```

#[path = "../tests/bodies/mod.rs"]
pub mod bodies;

use std::panic::{AssertUnwindSafe, catch_unwind};

use bodies::{Forger, Stage, unpack_into_volume};

fn setting(name: &str, otherwise: u64) -> u64 {
    let set = std::env::var(name).ok();
    set.map_or(otherwise, |set| set.parse().unwrap())
}

#[test]
fn hostile_tars_get_an_answer_and_stay_inside() {
    let first = setting("RAZORFS_SEED", 1);
    let dir = tempfile::tempdir().unwrap();
    let stage = Stage::new(dir.path());
    let mut done = 0;
    let inputs = setting("RAZORFS_INPUTS", 1500);
    for seed in first..first + inputs {
        let bytes = Forger::new(seed, stage.outside()).tar();
        let ran = catch_unwind(AssertUnwindSafe(|| {
            done += u64::from(stage.unpack(&bytes));
            unpack_into_volume(&bytes);
        }));
        assert!(ran.is_ok(), "RAZORFS_SEED={seed}");
    }
    // Else it would show nothing.
    assert!(
        done * 10 > inputs,
        "only {done} of {inputs} could be unpacked"
    );
}

#[test]
fn seeds_of_fuzzing_stay_inside() {
    let dir = tempfile::tempdir().unwrap();
    let stage = Stage::new(dir.path());
    bodies::seeds(&stage).for_each(|seed| bodies::tar(&stage, &seed));
}

#[test]
fn hostile_files_of_the_prototype_get_an_answer_that_stays_inside() {
    let first = setting("RAZORFS_SEED", 1);
    let inputs = setting("RAZORFS_INPUTS", 3000);
    let mut sound = 0;
    for seed in first..first + inputs {
        let ran = catch_unwind(|| bodies::legacy::legacy(&bodies::legacy::forge(seed)));
        sound += u64::from(ran.unwrap_or_else(|_| panic!("RAZORFS_SEED={seed}")));
    }
    // Else it would show nothing.
    assert!(sound * 10 > inputs, "only {sound} of {inputs} were sound");
}
