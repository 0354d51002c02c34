//! Volumes, their daemons and the load, as processes that can be killed; and the clock that ends
//! what hangs.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::manifest::Told;
use super::{check, load};
use crate::run;

/// Nothing here takes that long unless it hangs.
const PATIENCE: u64 = 120;

static STEPS: AtomicU64 = AtomicU64::new(0);

/// From now on the process ends, and with it all that it has started, if nothing moves.
pub fn watch() {
    std::thread::spawn(|| {
        let mut last = STEPS.load(Ordering::Relaxed);
        loop {
            std::thread::sleep(Duration::from_secs(PATIENCE));
            let now = STEPS.load(Ordering::Relaxed);
            if now == last {
                eprintln!("xtask: kills: step {now} has not ended within {PATIENCE} s: it hangs");
                std::process::exit(3);
            }
            last = now;
        }
    });
}

/// Something has been done.
pub fn step() {
    STEPS.fetch_add(1, Ordering::Relaxed);
}

/// Where a run keeps its things.
pub struct Stage {
    /// Empty in the beginning.
    pub place: PathBuf,
    /// The command under test.
    pub razorfs: PathBuf,
}

impl Stage {
    /// What is there, for this command.
    pub fn new(place: &Path, razorfs: &Path) -> Self {
        let (place, razorfs) = (place.to_path_buf(), razorfs.to_path_buf());
        Self { place, razorfs }
    }

    /// A directory in it.
    pub fn dir(&self, name: &str) -> Result<PathBuf, String> {
        let dir = self.place.join(name);
        fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        Ok(dir)
    }

    /// The command with these words.
    pub fn razorfs(&self, words: &[&str]) -> Command {
        step();
        let mut command = Command::new(&self.razorfs);
        command.args(words);
        command
    }

    /// The volume is without damage.
    pub fn verify(&self, volume: &Path) -> Result<(), String> {
        let mut verify = self.razorfs(&["verify", "--level=3"]);
        run::check_quietly(verify.arg(volume))
    }

    /// Starts the load on a directory of the mount.
    pub fn load(&self, round: &Round) -> Result<Working, String> {
        let dir = self.dir(&format!("manifests-{}", round.name))?;
        let me = std::env::current_exe().map_err(|e| format!("cannot find myself: {e}"))?;
        let mut command = Command::new(me);
        command.args(["kills", "--load"]);
        command.arg(&round.dir).arg(&dir).arg(&self.razorfs);
        command.args([round.seed.to_string(), round.files_only.to_string()]);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let child = child.map_err(|e| format!("cannot start the load: {e}"))?;
        Ok(Working { child, dir })
    }
}

/// One load: where it works, and from which seed.
pub struct Round {
    pub name: String,
    pub dir: PathBuf,
    pub seed: u64,
    pub files_only: bool,
}

impl Round {
    /// Makes what it starts from, and has it on the disk.
    pub fn prepare(
        stage: &Stage,
        mount: &Daemon,
        seed: u64,
        files_only: bool,
    ) -> Result<Self, String> {
        let name = format!("{}-{seed}", mount.name);
        let dir = mount.dir.join(&name);
        load::prepare(&dir, seed, files_only)?;
        run::check_quietly(stage.razorfs(&["sync"]).arg(&mount.dir))?;
        Ok(Self {
            name,
            dir,
            seed,
            files_only,
        })
    }

    /// Whether all is there that had to be.
    pub fn check(&self, told: &Told) -> Result<(), String> {
        step();
        check::check(&self.dir, told, self.seed, self.files_only)
    }
}

/// A load that works.
pub struct Working {
    child: Child,
    dir: PathBuf,
}

impl Working {
    /// What it has been told so far.
    pub fn told(&self) -> Result<Told, String> {
        step();
        Told::read(&self.dir)
    }

    /// The same of one that works, and has not met an error.
    pub fn goes_on(&mut self) -> Result<Told, String> {
        if let Some(status) = self.child.try_wait().map_err(|e| e.to_string())? {
            return Err(self.failed(status));
        }
        let told = self.told()?;
        if told.ended.is_empty() {
            return Ok(told);
        }
        Err(format!("on a mount that works: {}", told.ended.join("; ")))
    }

    fn failed(&mut self, status: ExitStatus) -> String {
        let mut said = String::new();
        if let Some(mut errors) = self.child.stderr.take() {
            let _ = errors.read_to_string(&mut said);
        }
        format!("the load has ended ({status}): {said}")
    }

    /// Waits until it has ended, which it does when the mount has.
    pub fn end(mut self) -> Result<Told, String> {
        for _ in 0..1200 {
            let ended = self.child.try_wait().map_err(|e| e.to_string())?;
            if let Some(status) = ended {
                if !status.success() {
                    return Err(self.failed(status));
                }
                let told = self.told()?;
                // What it was told is known now.
                let _ = fs::remove_dir_all(&self.dir);
                return Ok(told);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err("the load still works a minute after its mount had ended".into())
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A mounted volume; whatever happens, the daemon is gone when this is.
pub struct Daemon {
    pub name: String,
    pub volume: PathBuf,
    pub dir: PathBuf,
    razorfs: PathBuf,
    /// The keeper, if there is one, then the daemon.
    pids: Vec<u32>,
}

impl Daemon {
    /// Mounts it as people do. `before` stands in front of the command.
    pub fn mount(stage: &Stage, volume: &Path, before: &[&str]) -> Result<Self, String> {
        let name = volume.file_stem().unwrap_or_default().to_string_lossy();
        let dir = stage.dir(&format!("mnt-{name}"))?;
        let mut words = before.to_vec();
        let razorfs = stage.razorfs.to_string_lossy();
        words.extend([&*razorfs, "mount"]);
        let (program, words) = words.split_first().ok_or("no command")?;
        step();
        run::check_quietly(Command::new(program).args(words).arg(volume).arg(&dir))?;
        let mut daemon = Self {
            name: name.into_owned(),
            volume: volume.to_path_buf(),
            dir,
            razorfs: stage.razorfs.clone(),
            pids: Vec::new(),
        };
        let info = daemon.info()?;
        daemon.pids = pids(&info);
        if daemon.pids.is_empty() {
            return Err(format!("no pid in {info}"));
        }
        Ok(daemon)
    }

    /// What the daemon says of the volume.
    pub fn info(&self) -> Result<String, String> {
        step();
        run::output(
            Command::new(&self.razorfs)
                .args(["info", "--json"])
                .arg(&self.dir),
        )
    }

    /// The process; 0 if there is none.
    pub fn pid(&self) -> u32 {
        self.pids.last().copied().unwrap_or(0)
    }

    /// The process that starts another daemon when this one dies; 0 if there is none.
    pub fn keeper(&self) -> u32 {
        match self.pids.as_slice() {
            [keeper, _] => *keeper,
            _ => 0,
        }
    }

    /// What it has written to its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.volume.join("razorfs.log")).unwrap_or_default()
    }

    /// SIGKILL, and back when nothing of it runs.
    pub fn kill(&mut self) -> Result<(), String> {
        step();
        // The keeper first, or it would start another daemon.
        self.pids.drain(..).try_for_each(kill)
    }

    /// Takes away what a killed daemon has left.
    pub fn detach(mut self) -> Result<(), String> {
        self.kill()?;
        step();
        run::check_quietly(Command::new(&self.razorfs).arg("umount").arg(&self.dir))
    }

    /// Unmounts, as people do.
    pub fn umount(mut self) -> Result<(), String> {
        step();
        run::check_quietly(Command::new(&self.razorfs).arg("umount").arg(&self.dir))?;
        self.pids.clear();
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !self.pids.is_empty() {
            let _ = self.kill();
            let mut umount = Command::new(&self.razorfs);
            umount.arg("umount").arg(&self.dir).stderr(Stdio::null());
            let _ = umount.stdout(Stdio::null()).status();
        }
    }
}

/// The processes that `info` names, in the order of its keys: the keeper comes before the daemon.
fn pids(info: &str) -> Vec<u32> {
    let after = info.split("\"pid\":").skip(1);
    let number = |rest: &str| rest.split([',', '}', '\n']).next()?.trim().parse().ok();
    after.filter_map(number).collect()
}

/// SIGKILL to a process that may be gone by then.
pub fn kill_alone(pid: u32) -> Result<(), String> {
    let mut kill = Command::new("kill");
    let output = kill.args(["-KILL", &pid.to_string()]).output();
    output
        .map(drop)
        .map_err(|e| format!("cannot run kill: {e}"))
}

/// SIGKILL to a process, and back when nothing of it runs: the first thread may have ended before
/// the others.
pub fn kill(pid: u32) -> Result<(), String> {
    run::check_quietly(Command::new("kill").args(["-KILL", &pid.to_string()]))?;
    for _ in 0..3000 {
        if !is_alive(pid) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(format!(
        "process {pid} still runs half a minute after SIGKILL"
    ))
}

/// Whether anything of a process runs.
pub fn is_alive(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    threads.into_iter().flatten().flatten().any(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // A zombie does not: whoever inherited it has not looked yet.
        let state = stat.rsplit(") ").next().unwrap_or_default();
        !state.is_empty() && !state.starts_with(['Z', 'X'])
    })
}

/// Has the host forget what it has cached, where that is permitted.
pub fn drop_caches() -> bool {
    fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}

/// What a command has said, both ways, whatever came of it; at most `seconds` long.
pub fn timed(seconds: u32, command: &Command) -> Result<Output, String> {
    step();
    let mut timed = Command::new("timeout");
    timed.args(["-k", "5", &seconds.to_string()]);
    timed.arg(command.get_program()).args(command.get_args());
    let output = timed.stdin(Stdio::null()).output();
    output.map_err(|e| format!("cannot run timeout: {e}"))
}
