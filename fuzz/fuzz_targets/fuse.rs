//! A hostile kernel.
#![no_main]

#[path = "../../crates/razorfs-fuse/tests/bodies/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: razorfs_fuzz::plant("fuse", bodies::seeds()),
    |data: &[u8]| bodies::request(data)
);
