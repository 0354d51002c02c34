//! Names, blocks, indexes, filters, segments.
#![no_main]

#[path = "../../crates/razorfs-format/tests/bodies/mod.rs"]
mod bodies;
#[path = "../../crates/razorfs-format/tests/samples/mod.rs"]
mod samples;

libfuzzer_sys::fuzz_target!(
    init: razorfs_fuzz::plant("segment", samples::seeds("segment")),
    |data: &[u8]| bodies::run("segment", data)
);
