#![no_main]

#[path = "../../crates/razorfs-format/tests/bodies/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::run("parity", data));
