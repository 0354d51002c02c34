//! `cargo xtask man | deb | sbom | deny`: what is shipped beside the program, and what it is made
//! of. All but the first use tools of others, which are installed when they are missing.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run;

/// Where what goes into a package is put together, below the root.
const STAGE: &str = "target/package";
/// The other names of the program.
const NAMES: [&str; 5] = [
    "mount.razorfs",
    "mount.fuse.razorfs",
    "mkfs.razorfs",
    "fsck.razorfs",
    "fsck.fuse.razorfs",
];
/// The shells, and where their completions are looked for.
const SHELLS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/razorfs"),
    ("zsh", "usr/share/zsh/vendor-completions/_razorfs"),
    ("fish", "usr/share/fish/vendor_completions.d/razorfs.fish"),
];

/// Writes the manual pages to `target/man`.
pub fn man(root: &Path) -> Result<(), String> {
    let pages = root.join("target/man");
    // The profile of the tests, so that nothing is built twice.
    let mut command = razorfs(root, "test");
    command.arg("man").arg(&pages);
    run::check(command)?;
    println!("{}: read them with `man -M {0} razorfs`", pages.display());
    Ok(())
}

/// Makes a Debian package of the optimised program, or with `--profile NAME` of another one.
pub fn deb(root: &Path, args: &[String]) -> Result<(), String> {
    let profile = match args {
        [] => "release",
        [option, profile] if option == "--profile" => profile,
        _ => return Err("deb: it takes --profile NAME and nothing else".into()),
    };
    let tool = tool("cargo-deb")?;
    stage(root, profile)?;
    let mut command = Command::new(tool);
    let args = ["--package", "razorfs-cli", "--profile", profile, "--output"];
    command.current_dir(root).args(args).arg("target/package/");
    run::check(command)
}

/// Writes what the program is made of, as CycloneDX has it, beside its manifest and to `target`.
pub fn sbom(root: &Path) -> Result<(), String> {
    let tool = tool("cargo-cyclonedx")?;
    let mut command = Command::new(tool);
    // As cargo would call it.
    command.args(["cyclonedx", "--format", "json", "--target", "all"]);
    command.args(["--override-filename", "razorfs.cdx"]);
    command
        .arg("--manifest-path")
        .arg(root.join("crates/razorfs-cli/Cargo.toml"));
    command.current_dir(root);
    run::check(command)?;
    let mut found = None;
    // There is one for each package of the workspace that the command is made of.
    for package in entries(&root.join("crates"))? {
        let made = package.join("razorfs.cdx.json");
        if made.exists() {
            let here = root.join("target").join("razorfs.cdx.json");
            if package.ends_with("razorfs-cli") {
                copy(&made, &here)?;
                found = Some(here);
            }
            std::fs::remove_file(&made).map_err(|e| format!("{}: {e}", made.display()))?;
        }
    }
    let found = found.ok_or("cargo-cyclonedx has written nothing")?;
    println!("{}", found.display());
    Ok(())
}

/// Checks licences, sources, bans and, unless told otherwise, advisories: these come over the
/// network.
pub fn deny(root: &Path, args: &[String]) -> Result<(), String> {
    let checks: &[&str] = match args {
        [] => &["advisories", "bans", "licenses", "sources"],
        [option] if option == "--offline" => &["bans", "licenses", "sources"],
        _ => return Err("deny: it takes --offline and nothing else".into()),
    };
    let mut command = Command::new(tool("cargo-deny")?);
    command.current_dir(root).arg("check").args(checks);
    run::check(command)
}

/// Puts together what is packed beside the program: links, completions, manual pages.
fn stage(root: &Path, profile: &str) -> Result<(), String> {
    let stage = root.join(STAGE);
    match std::fs::remove_dir_all(&stage) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(format!("{}: {e}", stage.display()));
        }
        _ => {}
    }
    let links = stage.join("usr/sbin");
    create(&links)?;
    for name in NAMES {
        let link = links.join(name);
        std::os::unix::fs::symlink("../bin/razorfs", &link)
            .map_err(|e| format!("{}: {e}", link.display()))?;
    }
    let mut command = razorfs(root, profile);
    command.arg("man").arg(stage.join("usr/share/man"));
    run::check(command)?;
    for (shell, path) in SHELLS {
        let mut command = razorfs(root, profile);
        let script = run::output(command.args(["completions", shell]))?;
        let path = stage.join(path);
        create(path.parent().unwrap_or(&stage))?;
        std::fs::write(&path, script).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

/// Runs the program, built in a profile.
fn razorfs(root: &Path, profile: &str) -> Command {
    let args = [
        "run",
        "--quiet",
        "--package",
        "razorfs-cli",
        "--profile",
        profile,
        "--",
    ];
    run::cargo(root, &args)
}

/// A tool of others, which is installed if it is missing.
fn tool(name: &str) -> Result<PathBuf, String> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let home = std::env::home_dir().map(|home| home.join(".cargo/bin"));
    let find = || {
        let mut dirs = std::env::split_paths(&paths).chain(home.clone());
        dirs.find_map(|dir| Some(dir.join(name)).filter(|path| path.is_file()))
    };
    if let Some(path) = find() {
        return Ok(path);
    }
    println!("installing {name}");
    run::check(run::cargo(Path::new("."), &["install", "--locked", name]))?;
    find().ok_or(format!("{name} was installed, and is not in PATH"))
}

fn create(dir: &Path) -> Result<(), String> {
    std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    create(to.parent().unwrap_or(to))?;
    std::fs::copy(from, to).map_err(|e| format!("{}: {e}", to.display()))?;
    Ok(())
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |e| format!("{}: {e}", dir.display());
    let entries = std::fs::read_dir(dir).map_err(failed)?;
    entries
        .map(|entry| Ok(entry.map_err(failed)?.path()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn text(path: &str) -> String {
        std::fs::read_to_string(crate::root().join(path)).unwrap()
    }

    /// The strings of a list in a file of settings, `key = [ ... ]`.
    fn list(settings: &str, key: &str) -> Vec<String> {
        let from = settings.find(&format!("\n{key} = [")).unwrap();
        let list = settings[from..].split_once('[').unwrap().1;
        let list = list.split_once("\n]").unwrap().0;
        let quoted = list.split('"').skip(1).step_by(2);
        quoted.map(str::to_owned).collect()
    }

    #[test]
    fn whatever_is_packed_is_put_together_or_stands_here() {
        let manifest = text("crates/razorfs-cli/Cargo.toml");
        let assets = list(&manifest, "assets");
        let sources: Vec<&str> = assets.chunks(3).map(|asset| asset[0].as_str()).collect();
        for (_, path) in SHELLS {
            assert!(
                sources.contains(&format!("../../{STAGE}/{path}").as_str()),
                "{path}"
            );
        }
        for source in sources {
            let path = source.strip_prefix("../../").unwrap_or(source);
            let is_made = path.starts_with("target/");
            assert!(is_made || crate::root().join(path).exists(), "{source}");
        }
    }

    /// Whether a licence that a package has is one of these; `OR` leaves the choice.
    fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
        let expression = expression.replace(['(', ')'], "").replace('/', " OR ");
        expression.split(" AND ").all(|choice| {
            let mut choice = choice.split(" OR ");
            choice.any(|licence| allowed.contains(licence.trim()))
        })
    }

    #[test]
    fn every_dependency_has_a_licence_that_we_allow() {
        let settings = text("deny.toml");
        let allowed: BTreeSet<String> = list(&settings, "allow").into_iter().collect();
        let args = ["metadata", "--format-version", "1", "--locked", "--offline"];
        let mut command = run::cargo(&crate::root(), &args);
        // Without the packages of other systems, which may never have been downloaded.
        let said = run::output(command.args(["--filter-platform", "x86_64-unknown-linux-gnu"]));
        let said = match said {
            Ok(said) => said,
            Err(why) => return eprintln!("SKIPPED: {why}"),
        };
        let licences: BTreeSet<&str> = said
            .split("\"license\":\"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .collect();
        assert!(licences.len() > 3, "{licences:?}");
        let odd: Vec<_> = licences
            .iter()
            .filter(|l| !is_allowed(l, &allowed))
            .collect();
        assert!(odd.is_empty(), "{odd:?}");
        assert!(!is_allowed("GPL-3.0-only", &allowed));
        assert!(!is_allowed("MIT AND GPL-3.0-only", &allowed));
    }
}
