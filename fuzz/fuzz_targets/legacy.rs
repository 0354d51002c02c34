//! Files of the C++ prototype to be imported.
#![no_main]

#[path = "../../crates/razorfs-cli/tests/bodies/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: razorfs_fuzz::plant("legacy", bodies::legacy::seeds()),
    |data: &[u8]| {
        bodies::legacy::legacy(data);
    }
);
