//! `cargo xtask golden`: compares the golden bytes and images, and adds those that are missing.

use std::path::Path;

use crate::run;

/// Runs the tests that compare golden bytes and images; with `--write` these first write what is
/// missing. An image that is there is never written again: it stands for the volumes of users, and
/// a change of the format needs a version, and images, of its own.
pub fn main(root: &Path, args: &[String]) -> Result<(), String> {
    let write = args.iter().any(|arg| arg == "--write");
    let rest: Vec<&String> = args.iter().filter(|arg| *arg != "--write").collect();
    let mut command = run::cargo(root, &["test", "--workspace", "golden"]);
    command.args(rest);
    if write {
        command.env("RAZORFS_GOLDEN", "write");
    }
    run::check_tests(command)?;
    if write {
        println!("look at `git status testdata` before you commit");
    }
    Ok(())
}
