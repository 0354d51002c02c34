//! Volumes, mounts and processes for the tests.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

/// The program under test.
pub const RAZORFS: &str = env!("CARGO_BIN_EXE_razorfs");

/// Numbers from a seed (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// At least `from` and less than `to`.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from)
    }
}

/// The seed of this run: `RAZORFS_SEED`, or another one each time.
pub fn seed() -> u64 {
    if let Ok(seed) = std::env::var("RAZORFS_SEED") {
        return seed.parse().unwrap();
    }
    use std::io::Read;
    let mut bytes = [0; 4];
    let mut random = std::fs::File::open("/dev/urandom").unwrap();
    random.read_exact(&mut bytes).unwrap();
    u64::from(u32::from_le_bytes(bytes))
}

/// A place for a test on the disk that the build is on: not a tmpfs.
pub fn room() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Runs the program; answers with what it said.
pub fn razorfs<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    Command::new(RAZORFS)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Runs the program, which must succeed; answers with its standard output.
pub fn ok<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> String {
    let output = razorfs(args);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {err}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Runs the program, which must fail with this code and one line; answers with the line.
pub fn fails<S: AsRef<OsStr>>(code: i32, args: impl IntoIterator<Item = S>) -> String {
    let output = razorfs(args);
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{err}");
    assert_eq!(err.trim_end().lines().count(), 1, "{err}");
    assert!(err.starts_with("razorfs: "), "{err}");
    err
}

/// Runs any program, which must succeed.
pub fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until a condition holds.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("waited a minute until {what}");
}

/// Waits for a process that is about to end, and ends it if it does not.
pub fn reap(mut child: Child) {
    for _ in 0..3000 {
        if child.try_wait().unwrap().is_some() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    panic!("process {} did not end within a minute", child.id());
}

/// Sends a signal to a process.
pub fn signal(pid: u32, name: &str) {
    run(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]));
}

/// Whether anything of a process runs: the first thread may have ended before the others.
pub fn is_alive(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
    threads.into_iter().flatten().flatten().any(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // A zombie does not: whoever inherited it has not looked yet.
        let state = stat.rsplit(") ").next().unwrap_or_default();
        !state.is_empty() && !state.starts_with(['Z', 'X'])
    })
}

/// A volume and its mount point in a room of their own.
pub struct Mount {
    pub room: TempDir,
    pub volume: PathBuf,
    pub dir: PathBuf,
}

impl Mount {
    /// Neither the volume nor the mount point exist yet.
    pub fn new() -> Self {
        let room = room();
        let path = room.path().canonicalize().unwrap();
        Self {
            volume: path.join("volume.rzfs"),
            dir: path.join("mnt"),
            room,
        }
    }

    /// Mounted with options.
    pub fn with(options: &[&str]) -> Self {
        let mount = Self::new();
        mount.mount(options);
        mount
    }

    pub fn mount(&self, options: &[&str]) {
        let mut args: Vec<&OsStr> = vec!["mount".as_ref()];
        args.extend(options.iter().map(OsStr::new));
        args.extend([self.volume.as_os_str(), self.dir.as_os_str()]);
        ok(args);
    }

    pub fn umount(&self) {
        ok(["umount".as_ref(), self.dir.as_os_str()]);
    }

    pub fn sync(&self) {
        ok(["sync".as_ref(), self.dir.as_os_str()]);
    }

    pub fn info(&self) -> Value {
        info(&self.volume)
    }

    /// The daemon.
    pub fn pid(&self) -> u32 {
        let pid = self.info()["pid"].as_u64().unwrap();
        u32::try_from(pid).unwrap()
    }

    /// Mounts it again with a keeper of more patience than usual. Answers whether there is one.
    pub fn again_patiently(&self) -> bool {
        self.umount();
        let mut again = Command::new(RAZORFS);
        again.arg("mount").args([&self.volume, &self.dir]);
        run(again.env("RAZORFS_DEATHS", "1000"));
        let is_kept = self.keeper().is_some();
        if !is_kept {
            eprintln!("skipped: the kernel cannot resend requests, so nobody keeps a mount");
        }
        is_kept
    }

    /// The process that starts another daemon when this one dies, if there is one.
    pub fn keeper(&self) -> Option<u32> {
        let pid = self.info()["keeper"]["pid"].as_u64();
        pid.map(|pid| u32::try_from(pid).unwrap())
    }

    /// Kills the daemon and its keeper, and waits until both are gone: all of it crashes.
    pub fn kill(&self, pid: u32) {
        if let Some(keeper) = self.keeper() {
            signal(keeper, "KILL");
            wait_until("the keeper is gone", || !is_alive(keeper));
        }
        self.kill_daemon(pid);
    }

    /// Kills the daemon alone, and waits until it is gone.
    pub fn kill_daemon(&self, pid: u32) {
        signal(pid, "KILL");
        wait_until("the daemon is gone", || !is_alive(pid));
    }

    /// What is in the log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.volume.join("razorfs.log")).unwrap()
    }

    /// The volume, unmounted, has no damage at the deepest level.
    pub fn verify(&self) {
        let volume = self.volume.as_os_str();
        let said = ok(["verify".as_ref(), "--level=3".as_ref(), volume]);
        // Notes may come before it: a crash leaves things that the next mount removes.
        assert!(
            said.lines().any(|line| line.starts_with("clean:")),
            "{said}"
        );
    }

    /// `PLACE:/path` of the volume.
    pub fn at(&self, path: &str) -> String {
        format!("{}:/{path}", self.volume.display())
    }
}

impl Drop for Mount {
    /// Whatever a failed test has left must not hang the next one.
    fn drop(&mut self) {
        let room = self.volume.parent().unwrap();
        if mounted_below(room).is_empty() {
            return;
        }
        let info = self.info();
        for pid in [&info["keeper"]["pid"], &info["pid"]] {
            if let Some(pid) = pid.as_u64() {
                let mut kill = Command::new("kill");
                let _ = kill.args(["-KILL", &pid.to_string()]).status();
            }
        }
        // One that is being killed may still be asked, and does not answer.
        for _ in 0..100 {
            for dir in mounted_below(room) {
                let _ = razorfs(["umount".as_ref(), dir.as_os_str()]);
            }
            if mounted_below(room).is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The mount points below a directory.
pub fn mounted_below(room: &Path) -> Vec<PathBuf> {
    let mounts = std::fs::read("/proc/self/mountinfo").unwrap();
    let mounts = String::from_utf8_lossy(&mounts);
    let dirs = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let dirs = dirs.filter(|dir| Path::new(dir).starts_with(room));
    dirs.map(PathBuf::from).collect()
}

pub fn info(place: &Path) -> Value {
    let output = razorfs(["info".as_ref(), place.as_os_str(), "--json".as_ref()]);
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

pub fn is_mounted(dir: &Path) -> bool {
    // Mounts of others may have names that are no text.
    let mounts = std::fs::read("/proc/self/mountinfo").unwrap();
    let mounts = String::from_utf8_lossy(&mounts);
    let dir = format!(" {} ", dir.display());
    mounts.lines().any(|line| line.contains(&dir))
}

/// `diff -r` finds nothing.
pub fn same_trees(a: &Path, b: &Path) {
    run(Command::new("diff")
        .args(["-r", "--no-dereference"])
        .args([a, b]));
}
