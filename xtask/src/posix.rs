//! `cargo xtask posix`: others' suites on a real mount. pjdfstest asks for each rule of POSIX,
//! fsx mixes all ways to change and read a file and compares every byte.
//!
//! Both are fetched once, at the versions named here, into `target/tools`. As root everything runs
//! in a mount namespace of its own, where mount(8) finds our helper and no other process sees the
//! mounts; as another user the tests that need root are left out, and that is said.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::run;

/// The suites, and their versions: another version has other tests.
const TOOLS: [(&str, &str); 2] = [("pjdfstest", "0.2.2"), ("fsx", "0.3.2")];

/// All tests of pjdfstest, and those of a read-only mount.
const TESTS: usize = 398;
const READ_ONLY_TESTS: usize = 13;

/// Those that do not need root, and the user and group that they run as: nobody, nogroup.
const ORDINARY_TESTS: usize = 254;
const NOBODY: u32 = 65534;

/// What cannot pass, and why.
const LEFT_OUT: [(&str, &str); 1] = [(
    "link::link_count_max",
    "the kernel has no way for FUSE to tell the largest number of links",
)];

/// What pjdfstest is told of us. Tests that remount run by themselves: others leave files open.
const CONFIG: &str = "\
[features]
posix_fallocate = {}
rename_ctime = {}
stat_st_birthtime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.01
";

/// Every operation that fsx has, on a file of several blocks.
const FSX_CONFIG: &str = "\
flen = 1048576
[opsize]
max = 131072
[weights]
close_open = 1
read = 10
write = 10
mapread = 10
mapwrite = 10
invalidate = 1
truncate = 5
fsync = 0.2
fdatasync = 0.2
posix_fallocate = 2
punch_hole = 5
sendfile = 5
posix_fadvise = 2
copy_file_range = 5
";

/// Operations from which on a run of fsx maps less for reading: it keeps each such mapping, and a
/// process may have 65,530.
const FSX_LONG: u64 = 300_000;

/// How fsx runs: options of the mount, seed.
const FSX_RUNS: [(&str, u32); 2] = [("order=default", 1), ("order=strict", 2)];

/// The word that says that the namespace is made.
const INSIDE: &str = "--inside";

/// Runs both suites. `--ops N` is the number of operations of each run of fsx; `--transport T` is
/// the way that requests come, as of `mount -o transport`.
pub fn main(root: &Path, args: &[String]) -> Result<(), String> {
    let mut ops = "20000".to_owned();
    let mut transport = "auto".to_owned();
    let mut inside = false;
    let mut words = args.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--ops" => {
                let n = words.next().and_then(|n| n.parse::<u64>().ok());
                ops = n.ok_or("--ops needs a number")?.to_string();
            }
            "--transport" => {
                let ways = ["auto", "uring", "dev"];
                let way = words.next().filter(|way| ways.contains(&way.as_str()));
                transport = way.ok_or("--transport needs auto, uring or dev")?.clone();
            }
            INSIDE => inside = true,
            _ => return Err(format!("posix: unknown argument {word}")),
        }
    }
    if inside {
        return suites(root, &ops, &transport);
    }
    install(root)?;
    run::check(run::cargo(root, &["build", "-p", "razorfs-cli"]))?;
    if !is_root() {
        return suites(root, &ops, &transport);
    }
    let program = std::env::current_exe().map_err(|e| format!("cannot find myself: {e}"))?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--"]);
    command
        .arg(program)
        .args(["posix", INSIDE, "--ops", &ops, "--transport", &transport])
        .current_dir(root);
    run::check(command)
}

/// Whether root runs this.
pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// Fetches what is missing.
fn install(root: &Path) -> Result<(), String> {
    let tools = root.join("target/tools");
    let list = fs::read_to_string(tools.join(".crates.toml")).unwrap_or_default();
    for (name, version) in TOOLS {
        let is_there = tools.join("bin").join(name).exists();
        if is_there && list.contains(&format!("\"{name} {version} ")) {
            continue;
        }
        if !Path::new("/usr/include/sys/acl.h").exists() {
            return Err("pjdfstest needs the headers of libacl: install libacl1-dev".into());
        }
        let exact = format!("={version}");
        // Built without optimisation, which takes a third of the time; they do little work.
        let args = ["install", name, "--version", &exact, "--locked", "--debug"];
        let mut command = run::cargo(root, &args);
        command.arg("--root").arg(&tools);
        command.env("CARGO_TARGET_DIR", tools.join("build"));
        command.env("CARGO_PROFILE_DEV_DEBUG", "0");
        run::check(command)?;
    }
    Ok(())
}

/// A place that every user may walk to, which goes when it is dropped.
pub struct Place(PathBuf);

impl Place {
    /// Makes it.
    pub fn new() -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("razorfs-posix-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let made = fs::create_dir(&path).and_then(|()| {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
            fs::create_dir(path.join("bin"))
        });
        made.map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What is still mounted there stays, so that it can be looked at.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A volume that is mounted until dropped.
pub struct Mount<'a> {
    razorfs: &'a Path,
    volume: PathBuf,
    dir: PathBuf,
}

impl<'a> Mount<'a> {
    /// Makes and mounts a volume.
    pub fn new(razorfs: &'a Path, place: &Place, options: &str) -> Result<Self, String> {
        let volume = place.0.join("volume.rzfs");
        let dir = place.0.join("mnt");
        let mut command = Command::new(razorfs);
        command.arg("mount").args([&volume, &dir]);
        run::check(with_options(command, options))?;
        Ok(Self {
            razorfs,
            volume,
            dir,
        })
    }

    /// Where it is mounted.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Takes a snapshot, changes things, and goes back: what is tested from here on is a volume
    /// that has epochs which it does not show, and snapshots that hold what it had.
    pub fn go_back(&self) -> Result<(), String> {
        let failed = |e: std::io::Error| format!("{}: {e}", self.dir.display());
        let file = |n: u32| self.dir.join(format!("before-{n}"));
        for n in 0..200 {
            fs::write(file(n), vec![n as u8; 5000]).map_err(failed)?;
        }
        let ask = |args: [&str; 2], name: &str| {
            let mut command = Command::new(self.razorfs);
            let args = args.iter().filter(|arg| !arg.is_empty());
            run::check_quietly(command.args(args).arg(&self.dir).arg(name))
        };
        ask(["snapshot", "create"], "before")?;
        for n in 0..200 {
            fs::remove_file(file(n)).map_err(failed)?;
            fs::write(self.dir.join(format!("after-{n}")), "gone").map_err(failed)?;
        }
        ask(["rollback", ""], "before")?;
        for n in 0..200 {
            let there = fs::read(file(n)).map_err(failed)?;
            if there != vec![n as u8; 5000] {
                return Err(format!("{} is not as it was", file(n).display()));
            }
            fs::remove_file(file(n)).map_err(failed)?;
        }
        Ok(())
    }

    /// Forks the volume, and mounts the branch in its place.
    pub fn onto_branch(self, options: &str) -> Result<Self, String> {
        let mut fork = Command::new(self.razorfs);
        run::check_quietly(fork.args(["branch", "create"]).arg(&self.dir).arg("tested"))?;
        run::check(self.umount())?;
        let mut branch = self.volume.clone().into_os_string();
        branch.push("@tested");
        let mut command = Command::new(self.razorfs);
        command.arg("mount").arg(branch).arg(&self.dir);
        run::check(with_options(command, options))?;
        Ok(self)
    }

    fn umount(&self) -> Command {
        let mut umount = Command::new(self.razorfs);
        umount.arg("umount").arg(&self.dir);
        umount
    }

    /// Unmounts; the volume must be without damage, and goes.
    pub fn end(self) -> Result<(), String> {
        run::check(self.umount())?;
        let mut verify = Command::new(self.razorfs);
        verify.args(["verify", "--quiet", "--level=4"]);
        run::check_quietly(verify.arg(&self.volume))?;
        fs::remove_dir_all(&self.volume).map_err(|e| format!("{}: {e}", self.volume.display()))
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        // After `end` nothing is mounted there, and this says so to nobody.
        let mut umount = Command::new(self.razorfs);
        umount.arg("umount").arg(&self.dir);
        let _ = umount.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

fn with_options(mut command: Command, options: &str) -> Command {
    if !options.is_empty() {
        command.args(["-o", options]);
    }
    command
}

fn suites(root: &Path, ops: &str, transport: &str) -> Result<(), String> {
    let place = Place::new()?;
    let razorfs = root.join("target/debug/razorfs");
    let tools = root.join("target/tools/bin");
    if is_root() {
        // mount(8) calls mount.fuse, which looks for `razorfs` there.
        let link = place.0.join("bin/razorfs");
        std::os::unix::fs::symlink(&razorfs, &link)
            .map_err(|e| format!("{}: {e}", link.display()))?;
        let mut bind = Command::new("mount");
        bind.arg("--bind")
            .arg(place.0.join("bin"))
            .arg("/usr/local/sbin");
        run::check(bind)?;
    }
    let transport = format!("transport={transport}");
    pjdfstest(&tools.join("pjdfstest"), &razorfs, &place, &transport)?;
    if is_root() {
        pjdfstest_of_an_ordinary_user(&tools.join("pjdfstest"), &razorfs, &place)?;
    }
    let mapread = match ops.parse::<u64>() {
        Ok(ops) if ops > FSX_LONG => "mapread = 0.2\n",
        _ => "mapread = 10\n",
    };
    let config = FSX_CONFIG.replace("mapread = 10\n", mapread);
    let config = write(&place, "fsx.toml", &config)?;
    for (n, (options, seed)) in FSX_RUNS.iter().enumerate() {
        let options = format!("{options},{transport}");
        let mut mount = Mount::new(&razorfs, &place, &options)?;
        mount.go_back()?;
        if n % 2 == 1 {
            mount = mount.onto_branch(&options)?;
        }
        let mut fsx = Command::new(tools.join("fsx"));
        fsx.arg("-f").arg(&config).args(["-N", ops]);
        fsx.args(["-S", &seed.to_string(), "-P"]).arg(&place.0);
        run::check_quietly(fsx.arg(mount.dir.join("file")))?;
        println!("fsx: {ops} operations, seed {seed}, {options}: no byte differs");
        mount.end()?;
    }
    Ok(())
}

fn write(place: &Place, name: &str, text: &str) -> Result<PathBuf, String> {
    let path = place.0.join(name);
    fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(path)
}

fn pjdfstest(program: &Path, razorfs: &Path, place: &Place, transport: &str) -> Result<(), String> {
    let users = format!("[dummy_auth]\nentries = [{}]\n", users()?);
    let plain = write(place, "plain.toml", &format!("{CONFIG}{users}"))?;
    let remount = format!("{CONFIG}allow_remount = true\n{users}");
    let remount = write(place, "remount.toml", &remount)?;
    let rights = if is_root() { ",suid,dev" } else { "" };
    let options = format!("{transport}{rights}");
    let mount = Mount::new(razorfs, place, &options)?;
    mount.go_back()?;
    let mount = mount.onto_branch(&options)?;
    let ask = |config: &Path, pattern: &[&str]| {
        let mut command = Command::new(program);
        command.arg("-c").arg(config).arg("-p").arg(&mount.dir);
        // Another file system, for EXDEV.
        command.args(["-s", "/dev/shm"]).args(pattern);
        outcome(command)
    };
    let all = ask(&plain, &[])?;
    if is_root() {
        all.check(TESTS, &|name| {
            name.contains("::erofs_") || LEFT_OUT.iter().any(|(left, _)| *left == name)
        })?;
        let read_only = ask(&remount, &["erofs"])?;
        read_only.check(READ_ONLY_TESTS, &|_| false)?;
        let passed = all.passed + read_only.passed;
        println!("pjdfstest: {passed} of {TESTS} tests pass");
        for (name, why) in LEFT_OUT {
            println!("pjdfstest: {name} is left out: {why}");
        }
    } else {
        println!(
            "pjdfstest: {} of {TESTS} tests pass; the others need root",
            all.passed
        );
    }
    mount.end()
}

/// The tests that do not need root, on a mount of the user nobody.
fn pjdfstest_of_an_ordinary_user(
    program: &Path,
    razorfs: &Path,
    place: &Place,
) -> Result<(), String> {
    let own = place.0.join("nobody");
    let (volume, dir) = (own.join("volume.rzfs"), own.join("mnt"));
    // Copies, as the user may not walk to where they are built.
    let copy = |file: &Path, name: &str| {
        let to = own.join(name);
        let copied = fs::copy(file, &to).map(|_| to);
        copied.map_err(|e| format!("cannot copy {}: {e}", file.display()))
    };
    fs::create_dir(&own).map_err(|e| format!("{}: {e}", own.display()))?;
    let (program, razorfs) = (copy(program, "pjdfstest")?, copy(razorfs, "razorfs")?);
    let config = write(
        place,
        "nobody.toml",
        &format!("{CONFIG}[dummy_auth]\nentries = [{}]\n", users()?),
    )?;
    let id = NOBODY.to_string();
    std::os::unix::fs::chown(&own, Some(NOBODY), Some(NOBODY))
        .map_err(|e| format!("{}: {e}", own.display()))?;
    let as_nobody = |program: &Path| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"]);
        command.arg(program);
        command
    };
    run::check_quietly(as_nobody(&razorfs).arg("mount").args([&volume, &dir]))?;
    let mut all = as_nobody(&program);
    all.arg("-c").arg(&config).arg("-p").arg(&dir);
    all.args(["-s", "/dev/shm"]);
    let all = outcome(all);
    run::check_quietly(as_nobody(&razorfs).arg("umount").arg(&dir))?;
    let all = all?;
    if (all.passed, all.skipped.len()) != (ORDINARY_TESTS, TESTS - ORDINARY_TESTS) {
        return Err(format!(
            "pjdfstest of an ordinary user: {} tests passed, not {ORDINARY_TESTS}; left out: {:?}",
            all.passed, all.skipped
        ));
    }
    println!("pjdfstest: {ORDINARY_TESTS} tests pass for an ordinary user, the others need root");
    let mut verify = as_nobody(&razorfs);
    run::check_quietly(verify.args(["verify", "--quiet", "--level=3"]).arg(&volume))
}

/// What a run of pjdfstest has said.
struct Outcome {
    passed: usize,
    skipped: BTreeSet<String>,
}

impl Outcome {
    /// Exactly those tests that `may` are left out, and all others have passed.
    fn check(&self, total: usize, may: &dyn Fn(&str) -> bool) -> Result<(), String> {
        let skipped: Vec<_> = self.skipped.iter().filter(|name| !may(name)).collect();
        if !skipped.is_empty() {
            return Err(format!("pjdfstest left out {skipped:?}"));
        }
        if self.passed + self.skipped.len() != total {
            let (passed, skipped) = (self.passed, self.skipped.len());
            return Err(format!(
                "pjdfstest: {passed} tests passed and {skipped} were left out; there are {total}"
            ));
        }
        Ok(())
    }
}

/// Runs pjdfstest; a test that fails is an error with all it said.
fn outcome(mut command: Command) -> Result<Outcome, String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("cannot run pjdfstest: {e}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!("pjdfstest failed:\n{said}\n{errors}"));
    }
    let named = |state: &str| {
        let lines = said.lines().filter(|line| !line.starts_with(['\t', ' ']));
        lines
            .filter_map(move |line| {
                let (name, rest) = line.split_once(' ')?;
                (rest.trim() == state).then(|| name.to_owned())
            })
            .collect::<Vec<_>>()
    };
    Ok(Outcome {
        passed: named("ok").len(),
        skipped: named("skipped").into_iter().collect(),
    })
}

/// Two users other than root, with their groups, as pjdfstest wants them.
fn users() -> Result<String, String> {
    let read = |path: &str| fs::read_to_string(path).map_err(|e| format!("{path}: {e}"));
    let (users, groups) = (read("/etc/passwd")?, read("/etc/group")?);
    let mut found = Vec::new();
    for user in ["nobody", "daemon", "bin", "mail"] {
        let group = field(&users, 0, user, 3).and_then(|gid| field(&groups, 2, gid, 0));
        if let Some(group) = group {
            found.push(format!("[\"{user}\", \"{group}\"]"));
        }
    }
    found.truncate(2);
    match found.len() {
        2 => Ok(found.join(", ")),
        _ => Err("/etc/passwd: no two of the users nobody, daemon, bin and mail".into()),
    }
}

/// A field of the line whose field `key` is `value`.
fn field<'a>(list: &'a str, key: usize, value: &str, wanted: usize) -> Option<&'a str> {
    let line = list
        .lines()
        .find(|line| line.split(':').nth(key) == Some(value))?;
    line.split(':').nth(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text of all Rust files below `dir`.
    fn sources(dir: &Path, into: &mut String) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, into);
            } else if path.extension().is_some_and(|e| e == "rs") {
                into.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }

    /// Names of tests are several words; commands, options and single calls are none.
    fn is_a_test(name: &str) -> bool {
        name.contains('_') && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    }

    #[test]
    fn every_test_that_the_page_names_is_there() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let page = fs::read_to_string(root.join("docs/posix.md")).unwrap();
        let mut code = String::new();
        sources(&root.join("crates"), &mut code);
        let mut named = 0;
        for line in page.lines().filter(|line| line.starts_with("| ")) {
            let column = line.trim_end_matches('|').rsplit('|').next().unwrap();
            // What stands between two marks.
            for name in column
                .split('`')
                .skip(1)
                .step_by(2)
                .filter(|name| is_a_test(name))
            {
                assert!(code.contains(&format!("fn {name}()")), "{name}");
                named += 1;
            }
        }
        assert!(named > 40, "{named}");
    }

    #[test]
    fn groups_of_users_are_found() {
        let users = "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n";
        let groups = "root:x:0:\nnogroup:x:65534:\n";
        let gid = field(users, 0, "nobody", 3).unwrap();
        assert_eq!(field(groups, 2, gid, 0), Some("nogroup"));
        assert_eq!(field(users, 0, "daemon", 3), None);
    }

    #[test]
    fn what_is_left_out_must_be_on_the_list() {
        let outcome = |passed, skipped: &[&str]| Outcome {
            passed,
            skipped: skipped.iter().map(|name| (*name).into()).collect(),
        };
        let may = |name: &str| name == "a::b";
        assert!(outcome(2, &["a::b"]).check(3, &may).is_ok());
        assert!(outcome(2, &["a::c"]).check(3, &may).is_err());
        assert!(outcome(1, &["a::b"]).check(3, &may).is_err());
        assert!(outcome(3, &[]).check(3, &may).is_ok());
    }
}
