//! `cargo xtask test | posix | programs | kills | fuzz | tidy | golden | bench | man | deb | sbom |
//! deny`: the few commands that the project needs beside cargo's own.

mod bench;
mod fuzz;
mod golden;
mod kills;
mod package;
mod posix;
mod programs;
mod run;
mod test;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const HELP: &str = "\
cargo xtask COMMAND

  test     everything that must hold before a change goes in: formatting, lints, tidy,
           unit and property tests, simulated power cuts, tests on a real mount
             --cuts N   power cuts of the simulation (default 60000)
             --seed S   seed of the simulation and of the mount tests
             --quick    leaves out the simulation, the mount tests and others' suites
  posix    others' suites on a mount: pjdfstest and fsx, which it fetches; part of test
             --ops N    operations of each run of fsx (default 60000)
  programs real programs and their own tests on a mount; part of test. Those named, or all in
           xtask/programs
  kills    the daemon SIGKILLed under load, the power of a host's disk cut, hosts that fail; part
           of test
             --kills N  how often the daemon is killed (default 25)
             --deaths N how often the daemon alone is, with its keeper left (default 10)
             --cuts N   how often the power is cut (default 6)
             --seed S   what happens when
  fuzz     hostile bytes found by coverage, on a nightly toolchain; the targets that are named, or
           all in fuzz/fuzz_targets
             --seconds N  CPU time of each (default 1200)
             --built      with the programs of the last time
  tidy     the house rules that no other tool checks
  golden   compares the golden bytes, and the images under testdata/; --write adds missing ones
  bench    measures; its arguments go to razorfs-bench
  man      writes the manual pages, made of what the commands say of themselves, to target/man
  deb      makes a Debian package in target/package: the program, its other names, manual pages,
           completions, a unit of systemd
             --profile NAME  of the program that is built in this profile (default release)
  sbom     writes what the program is made of to target/razorfs.cdx.json (CycloneDX)
  deny     checks licences, sources, bans and advisories of all dependencies, as deny.toml says
             --offline  without the advisories, which come over the network
           The last three install cargo-deb, cargo-cyclonedx and cargo-deny if they are missing
";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let command = args.next().unwrap_or_default();
    let rest: Vec<String> = args.collect();
    let root = root();
    let outcome = match command.as_str() {
        "test" => test::main(&root, &rest),
        "tidy" => tidy::main(&root),
        "golden" => golden::main(&root, &rest),
        "posix" => posix::main(&root, &rest),
        "programs" => programs::main(&root, &rest),
        "kills" => kills::main(&root, &rest),
        "fuzz" => fuzz::main(&root, &rest),
        "bench" => bench::main(&root, &rest),
        "man" => package::man(&root),
        "deb" => package::deb(&root, &rest),
        "sbom" => package::sbom(&root),
        "deny" => package::deny(&root, &rest),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        _ => Err(format!("no such command: {command:?}\n\n{HELP}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the repository: the directory above this package.
fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_path_buf()
}
