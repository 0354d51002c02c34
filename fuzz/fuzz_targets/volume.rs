//! Whole volumes.
#![no_main]

#[path = "../../crates/razorfs-verify/tests/bodies/mod.rs"]
mod bodies;
#[path = "../../crates/razorfs-verify/tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::volume(data));
