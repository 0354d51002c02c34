//! What the fuzz targets share.

use std::path::Path;

/// Puts inputs to begin with into the corpus of a target, which `cargo fuzz` reads next.
pub fn plant(target: &str, seeds: impl IntoIterator<Item = Vec<u8>>) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    std::fs::create_dir_all(&corpus).expect("a directory for the corpus");
    for (n, seed) in seeds.into_iter().enumerate() {
        std::fs::write(corpus.join(format!("seed-{n:03}")), seed).expect("room for a seed");
    }
}
