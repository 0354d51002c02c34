//! `cargo xtask golden`: writes the golden bytes and images anew.

use std::path::Path;

use crate::run;

/// Runs the tests that compare golden bytes with `RAZORFS_GOLDEN=write`, which makes them write
/// what they would otherwise compare. What changed shows in `git diff testdata`; a change there
/// is a change of the format and needs a version of its own.
pub fn main(root: &Path, args: &[String]) -> Result<(), String> {
    let mut command = run::cargo(root, &["test", "--workspace", "golden"]);
    command.args(args).env("RAZORFS_GOLDEN", "write");
    run::check_tests(command)?;
    println!("golden files written; look at `git diff testdata` before you commit them");
    Ok(())
}
