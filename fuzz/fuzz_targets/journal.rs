//! The journal's decoders.
#![no_main]

#[path = "../../crates/razorfs-format/tests/bodies/mod.rs"]
mod bodies;
#[path = "../../crates/razorfs-format/tests/samples/mod.rs"]
mod samples;

libfuzzer_sys::fuzz_target!(
    init: razorfs_fuzz::plant("journal", samples::seeds("journal")),
    |data: &[u8]| bodies::run("journal", data)
);
