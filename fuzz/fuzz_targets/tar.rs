//! Tars to be imported.
#![no_main]

#[path = "../../crates/razorfs-cli/tests/bodies/mod.rs"]
mod bodies;

use std::path::Path;
use std::sync::LazyLock;

use bodies::Stage;

const NAME: &str = "razorfs-fuzz-tar-";

/// In memory, where there is a place for that.
static STAGE: LazyLock<Stage> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() {
        memory.to_path_buf()
    } else {
        std::env::temp_dir()
    };
    // What earlier runs have left, which never end in order.
    for entry in std::fs::read_dir(&parent).expect("a directory").flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let process = name.strip_prefix(NAME);
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    let dir = parent.join(format!("{NAME}{}", std::process::id()));
    std::fs::create_dir(&dir).expect("a directory of our own");
    Stage::new(&dir)
});

libfuzzer_sys::fuzz_target!(
    init: razorfs_fuzz::plant("tar", bodies::seeds(&STAGE)),
    |data: &[u8]| bodies::tar(&STAGE, data)
);
