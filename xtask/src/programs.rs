//! `cargo xtask programs`: real programs and their own tests on a real mount, each on a new volume,
//! which must be without damage afterwards. What each does is a script in `xtask/programs`.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::posix::{Mount, Place, is_root};
use crate::run;

/// Runs them all, or those that are named.
pub fn main(root: &Path, args: &[String]) -> Result<(), String> {
    let dir = root.join("xtask/programs");
    let listed = fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut scripts: Vec<_> = listed
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension() == Some(OsStr::new("sh")))
        .collect();
    scripts.sort();
    let known: Vec<_> = scripts.iter().map(|path| name(path)).collect();
    if let Some(unknown) = args.iter().find(|arg| !known.contains(arg)) {
        return Err(format!(
            "programs: {unknown} is none of {}",
            known.join(", ")
        ));
    }
    scripts.retain(|path| args.is_empty() || args.contains(&name(path)));
    if !is_root() {
        println!("programs: left out, for they change owners and users: run this as root");
        return Ok(());
    }
    run::check(run::cargo(root, &["build", "-p", "razorfs-cli"]))?;
    let cache = root.join("target/tools/programs");
    fs::create_dir_all(&cache).map_err(|e| format!("{}: {e}", cache.display()))?;
    let mut complete = Vec::new();
    for script in scripts {
        let missing = missing(&script)?;
        if missing.is_empty() {
            complete.push(script);
        } else if std::env::var_os("CI").is_some() {
            return Err(format!("{}: install {}", name(&script), missing.join(" ")));
        } else {
            let packages = missing.join(" ");
            println!("{}: left out: install {packages}", name(&script));
        }
    }
    two_at_a_time(&complete, |script| one(root, script, &cache))
}

/// They wait for each other's answers most of the time. After a failure none is begun.
fn two_at_a_time(
    scripts: &[PathBuf],
    run: impl Fn(&Path) -> Result<(), String> + Sync,
) -> Result<(), String> {
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Ok(())));
    let lane = || {
        while let Some(script) = scripts.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(e) = run(script) {
                next.store(scripts.len(), Ordering::Relaxed);
                if let Ok(mut failed) = failed.lock() {
                    *failed = Err(e);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(lane);
        lane();
    });
    failed.into_inner().unwrap_or(Ok(()))
}

fn name(script: &Path) -> String {
    let stem = script.file_stem().unwrap_or_default();
    stem.to_string_lossy().into_owned()
}

/// The packages of the commands that a script needs and that are not here.
fn missing(script: &Path) -> Result<Vec<String>, String> {
    let text = fs::read_to_string(script).map_err(|e| format!("{}: {e}", script.display()))?;
    let needs = text.lines().find_map(|line| line.strip_prefix("# needs: "));
    let needs = needs.ok_or_else(|| format!("{}: has no `# needs:`", script.display()))?;
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let here = |command: &str| std::env::split_paths(&paths).any(|dir| dir.join(command).exists());
    let mut missing = Vec::new();
    for need in needs.split_whitespace() {
        let (command, package) = need.split_once('=').unwrap_or((need, need));
        if !here(command) {
            missing.push(package.to_owned());
        }
    }
    Ok(missing)
}

fn one(root: &Path, script: &Path, cache: &Path) -> Result<(), String> {
    let place = Place::new()?;
    let razorfs: PathBuf = root.join("target/debug/razorfs");
    let mount = Mount::new(&razorfs, &place, "allow_other,suid,dev")?;
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail"]).arg(script);
    command.arg(mount.dir()).arg(cache).env("LC_ALL", "C");
    let said = run::output(&mut command)?;
    mount.end()?;
    let last = said.trim_end().lines().last().unwrap_or("done").trim();
    println!("{}: {last}", name(script));
    Ok(())
}
