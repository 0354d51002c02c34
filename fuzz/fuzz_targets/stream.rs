//! Streams of snapshots.
#![no_main]

#[path = "../../crates/razorfs-verify/tests/bodies/mod.rs"]
mod bodies;
#[path = "../../crates/razorfs-verify/tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(
    init: razorfs_fuzz::plant("stream", bodies::seeds()),
    |data: &[u8]| bodies::stream::stream(data)
);
