//! Volumes of hostile bytes: whatever they say, opening, reading, writing and checking them ends in
//! an answer.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::bodies;

fn setting(name: &str, otherwise: u64) -> u64 {
    let set = std::env::var(name).ok();
    set.and_then(|s| s.parse().ok()).unwrap_or(otherwise)
}

/// Runs a body over seeded inputs, and says which seed broke it.
fn run(body: fn(&[u8])) {
    let first = setting("RAZORFS_SEED", 1);
    for seed in first..first + setting("RAZORFS_INPUTS", 300) {
        let input = bodies::input(seed);
        let ran = catch_unwind(AssertUnwindSafe(|| body(&input)));
        assert!(ran.is_ok(), "RAZORFS_SEED={seed}: input {input:02x?}");
    }
}

#[test]
fn hostile_volumes_get_an_answer() {
    run(bodies::volume::volume);
}

#[test]
fn hostile_rings_get_an_answer() {
    run(bodies::replay::replay);
}

#[test]
fn hostile_streams_leave_what_was_there_or_a_tree() {
    run(bodies::stream::stream);
}
