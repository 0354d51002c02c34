//! Superblock and manifest.
#![no_main]

#[path = "../../crates/razorfs-format/tests/bodies/mod.rs"]
mod bodies;
#[path = "../../crates/razorfs-format/tests/samples/mod.rs"]
mod samples;

libfuzzer_sys::fuzz_target!(
    init: razorfs_fuzz::plant("roots", samples::seeds("roots")),
    |data: &[u8]| bodies::run("roots", data)
);
