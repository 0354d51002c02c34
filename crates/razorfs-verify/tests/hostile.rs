//! Volumes of hostile bytes: whatever they say, opening, reading, writing and checking them ends in
//! an answer.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod bodies;
mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};

use common::Rng;

fn setting(name: &str, otherwise: u64) -> u64 {
    let set = std::env::var(name).ok();
    set.and_then(|s| s.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn hostile_volumes_get_an_answer() {
    let first = setting("RAZORFS_SEED", 1);
    for seed in first..first + setting("RAZORFS_INPUTS", 300) {
        let mut rng = Rng(seed);
        let mut input = vec![seed as u8];
        let len = rng.below(200) as usize;
        input.extend(rng.bytes(len));
        let ran = catch_unwind(AssertUnwindSafe(|| bodies::volume(&input)));
        assert!(ran.is_ok(), "RAZORFS_SEED={seed}: input {input:02x?}");
    }
}
