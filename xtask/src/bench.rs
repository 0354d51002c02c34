//! `cargo xtask bench`: builds and runs razorfs-bench.

use std::path::Path;

use crate::run;

/// Runs the benchmark with `args`, optimised.
pub fn main(root: &Path, args: &[String]) -> Result<(), String> {
    // The benchmark mounts volumes through the command, so that must be there, and optimised.
    run::check(run::cargo(
        root,
        &["build", "--release", "-p", "razorfs-cli"],
    ))?;
    let mut command = run::cargo(root, &["run", "--release", "-p", "razorfs-bench", "--"]);
    command.args(args);
    run::check(command)
}
