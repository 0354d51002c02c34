//! Hostile programs beside a mount.
#![no_main]

#[path = "../../crates/razorfs-client/tests/bodies/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: razorfs_fuzz::plant("client", bodies::seeds()),
    |data: &[u8]| bodies::client(data)
);
