//! Threads of idle priority that keep the cores from sleeping.
//!
//! They are a process of its own, in a scheduling group of its own that is idle as a whole. Kernels
//! that give each session a group would otherwise weigh the spinners as much as all of the other
//! sessions, such as that of a daemon: an idle thread gives way at once within its group only.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::failure::{At, Result};
use crate::system;

/// The roots of the controller of the processor, of version 1 and 2.
const ROOTS: [&str; 2] = ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup"];
const GROUP: &str = "razorfs-bench-idle";

/// The running process.
pub struct Spinners {
    child: Child,
    /// Whether they give way to everybody at once.
    pub quite_idle: bool,
}

impl Spinners {
    /// Starts it.
    pub fn start() -> Result<Self> {
        let program = std::env::current_exe().when("find this program")?;
        let mut child = Command::new(program)
            .arg("spin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .when("start the spinners")?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            let _ = BufReader::new(out).read_line(&mut line);
        }
        let quite_idle = line.trim() == "idle";
        Ok(Self { child, quite_idle })
    }
}

impl Drop for Spinners {
    fn drop(&mut self) {
        // The end of its input is the end of it, also when this process is killed.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Spins until the end of the input.
pub fn spin() -> Result<()> {
    let _ = rustix::process::setsid();
    let group = ROOTS.iter().find_map(|root| join_group(Path::new(root)));
    if group.is_none() {
        // The next best thing: a session of little weight.
        let _ = fs::write("/proc/self/autogroup", "19");
    }
    let stop = AtomicBool::new(false);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for core in 0..cores {
            let stop = &stop;
            scope.spawn(move || {
                if system::be_idle(core) {
                    while !stop.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                }
            });
        }
        let mut out = std::io::stdout().lock();
        let word = if group.is_some() { "idle" } else { "nice" };
        let _ = writeln!(out, "{word}").and_then(|()| out.flush());
        let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
        stop.store(true, Ordering::Relaxed);
    });
    if let Some(group) = group {
        if let Some(root) = group.parent() {
            let _ = fs::write(root.join("cgroup.procs"), "0");
        }
        let _ = fs::remove_dir(&group);
    }
    Ok(())
}

/// Moves this process to a group of idle priority.
fn join_group(root: &Path) -> Option<PathBuf> {
    let group = root.join(GROUP);
    if !root.join("cgroup.procs").exists() {
        return None;
    }
    let _ = fs::create_dir(&group);
    let joined = fs::write(group.join("cpu.idle"), "1")
        .and_then(|()| fs::write(group.join("cgroup.procs"), "0"));
    if joined.is_ok() {
        return Some(group);
    }
    let _ = fs::remove_dir(&group);
    None
}
