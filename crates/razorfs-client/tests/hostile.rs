//! Programs of hostile bytes: the daemon answers, and whoever else uses the volume is told.
//!
//! ```text
//! RAZORFS_INPUTS=100000 RAZORFS_SEED=7 cargo test -p razorfs-client hostile
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a test fails by panicking"
)]

mod bodies;

fn setting(name: &str, otherwise: u64) -> u64 {
    let set = std::env::var(name).ok();
    set.map_or(otherwise, |set| set.parse().unwrap())
}

#[test]
fn hostile_programs_get_answers_and_the_kernel_is_told_of_all_they_change() {
    let first = setting("RAZORFS_SEED", 1);
    for seed in first..first + setting("RAZORFS_INPUTS", 300) {
        let input = bodies::input(seed);
        let ran = std::panic::catch_unwind(|| bodies::client(&input));
        assert!(ran.is_ok(), "RAZORFS_SEED={seed}");
    }
}
