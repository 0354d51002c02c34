//! `razorfs mount`: a volume as a directory.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use razorfs_fuse::Obstacle;

use crate::commands::umount;
use crate::daemon::{self, Job};
use crate::descriptors;
use crate::failure::{COULD_NOT_RUN, Failure, Result, shown};
use crate::keeper;
use crate::mountinfo;
use crate::options::MountOptions;
use crate::place;
use crate::points::{self, word};
use crate::program;
use crate::socket::{self, Request};

/// Mounts a volume on a directory
#[derive(clap::Args, Clone, Debug)]
#[command(
    after_help = "Both are created if they are missing. The command returns when the \
directory is usable; a daemon then runs in the background and writes its log to \
VOLUME/razorfs.log. A signal unmounts; while the mount is in use it is taken away and served on,
and a second signal ends the daemon at once. With --snapshot the volume is shown, read-only, as it
was then; in the mount of a volume all snapshots are below .razorfs/snapshots, which no directory
lists.

Options:
  durability=sync          every operation is on the disk when it returns
  durability=async         within a second, or at fsync (default)
  durability=journal-only  as async, without checkpoints in the background
  order=strict             no write-back in the kernel: a crash leaves an exact prefix of the
                           system calls
  cache=SIZE               RAM for what was read (default 256M)
  allow_other              other users may use the mount
  ro, nosuid, nodev, noexec
  relatime                 reading sets the time of access if that is not later than the last
                           change, or a day old (default)
  strictatime, noatime     always, never
  noacl                    access lists are refused and not obeyed
  nokeeper                 no process stays to start another daemon when the one in the
                           background dies; by default one does, where the kernel can resend
                           requests (Linux 6.9)
  transport=dev            the kernel's requests come over /dev/fuse
  transport=uring          over io_uring, which root must have switched on (`razorfs doctor` says
                           how); without a keeper, as the kernel does not resend those requests
  transport=auto           over /dev/fuse with a keeper; without one over io_uring where that is
                           possible (default)
  autosnap=TIME            a snapshot each TIME (90s, 10m, 24h, 7d) in which something changed,
                           of a name such as auto-20261130T054213Z
  keep=AGE:RATE,...        which of these stay: up to that age all, or one hourly, daily or weekly;
                           none that are older (default 1h:all,24h:hourly,7d:daily). Snapshots of
                           other names, and the newest, always stay

Examples:
  razorfs mount demo.rzfs mnt
  razorfs mount demo.rzfs mnt -o durability=sync,cache=1G
  razorfs mount demo.rzfs mnt --foreground
  razorfs mount demo.rzfs mnt -o autosnap=10m,keep=24h:hourly,7d:daily
  razorfs mount --snapshot before-import demo.rzfs old"
)]
pub struct Args {
    /// The volume
    volume: PathBuf,
    /// The mount point
    dir: PathBuf,
    /// Options, separated by commas
    #[arg(short, value_name = "OPT,...")]
    options: Vec<String>,
    /// Stays in the foreground, logs to standard error; Ctrl-C unmounts
    #[arg(short, long)]
    foreground: bool,
    /// Changes nothing
    #[arg(long)]
    read_only: bool,
    /// Shows the volume as this snapshot has it, and changes nothing
    #[arg(long, value_name = "NAME")]
    snapshot: Option<String>,
    /// Is the daemon of a mount in the background
    #[arg(long, hide = true)]
    daemon: bool,
    /// Is the daemon, or with it on its own the process that starts it, of a mount that is kept
    #[arg(long, hide = true)]
    kept: bool,
}

impl Args {
    /// For mount(8), which has a command line of its own.
    pub fn new(volume: PathBuf, dir: PathBuf, options: Vec<String>) -> Self {
        Self {
            volume,
            dir,
            options,
            foreground: false,
            read_only: false,
            snapshot: None,
            daemon: false,
            kept: false,
        }
    }
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8> {
    let mut options = MountOptions::parse(&args.options)?;
    options.read_only |= args.read_only || args.snapshot.is_some();
    options.check()?;
    let job = Job {
        volume: place::absolute(&args.volume)?,
        dir: place::absolute(&args.dir)?,
        snapshot: args.snapshot.clone(),
        options,
    };
    if args.daemon {
        return Ok(daemon::in_background(&job, args.kept));
    }
    if args.kept {
        return keeper::run(&job, &command_line(args, &job, &["--daemon", "--kept"]));
    }
    prepare(&job)?;
    if args.foreground {
        daemon::in_foreground(&job)?;
    } else {
        start(args, &job)?;
    }
    Ok(0)
}

/// Refuses what cannot work, and makes the mount point.
fn prepare(job: &Job) -> Result<()> {
    descriptors::have_enough()?;
    let device = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse");
    if let Err(e) = device {
        let obstacle = e.raw_os_error().and_then(Obstacle::of_device);
        let failure = match obstacle {
            Some(Obstacle { found, remedy }) => Failure::with("open", "/dev/fuse", found, remedy),
            None => Failure::host("open", Path::new("/dev/fuse"), &e),
        };
        return Err(failure.code(COULD_NOT_RUN));
    }
    if let Some(mut stream) = socket::connect(&job.volume) {
        let info = socket::ask(&mut stream, &job.volume, Request::Info, &mut |_| {})?;
        return Err(in_use(job, &info));
    }
    if let Some((volume, name)) = place::at_snapshot(&job.volume) {
        let cause = "it is a snapshot";
        let (volume, name) = (word(&volume), word(Path::new(&name)));
        let dir = word(&job.dir);
        let remedy = format!("use `razorfs mount --snapshot {name} {volume} {dir}`");
        return Err(Failure::with("mount", &job.volume, cause, remedy));
    }
    if let Some(mount) = mountinfo::at(&job.dir) {
        if !place::is_dead(&job.dir) {
            let cause = format!("{} is mounted there", shown(&mount.volume));
            let remedy = "unmount it first, or use another directory";
            return Err(Failure::with("mount on", &job.dir, cause, remedy));
        }
        umount::detach_dead(&job.dir, &mount.volume)?;
    }
    if job.dir.starts_with(&job.volume) || job.volume.starts_with(&job.dir) {
        let cause = "the mount point and the volume are inside of each other";
        return Err(Failure::with(
            "mount on",
            &job.dir,
            cause,
            "use another directory",
        ));
    }
    match std::fs::metadata(&job.dir) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => {
            let (cause, remedy) = ("it is not a directory", "use another path");
            Err(Failure::with("mount on", &job.dir, cause, remedy))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir(&job.dir).map_err(|e| Failure::host("create", &job.dir, &e))
        }
        Err(e) => Err(Failure::host("mount on", &job.dir, &e)),
    }
}

fn in_use(job: &Job, info: &serde_json::Value) -> Failure {
    let dir = info.get("mounted").and_then(|v| v.as_str()).unwrap_or("?");
    let pid = info.get("pid").and_then(serde_json::Value::as_u64);
    let pid = pid.unwrap_or(0);
    let cause = format!("razorfs (pid {pid}) has it mounted on {dir} already");
    let remedy = match &job.snapshot {
        // One daemon has the volume, and shows all snapshots of it.
        Some(name) => {
            let path = Path::new(dir).join(points::DIRECTORY).join(name);
            format!("read the snapshot at {}", shown(&path))
        }
        None => format!("use it there, or `razorfs umount {dir}` first"),
    };
    Failure::with("mount", &job.volume, cause, remedy)
}

/// The command line of a process of the mount.
fn command_line(args: &Args, job: &Job, what: &[&str]) -> Vec<OsString> {
    let mut line: Vec<OsString> = vec!["mount".into()];
    line.extend(what.iter().map(OsString::from));
    if args.read_only {
        line.push("--read-only".into());
    }
    if let Some(name) = &args.snapshot {
        line.extend(["--snapshot".into(), name.into()]);
    }
    for options in &args.options {
        line.extend(["-o".into(), options.into()]);
    }
    line.push("--".into());
    line.extend([job.volume.clone().into(), job.dir.clone().into()]);
    line
}

/// Starts the daemon, and waits until it says that the directory is usable.
fn start(args: &Args, job: &Job) -> Result<()> {
    let failed = |e: std::io::Error| {
        let message = format!("cannot start the daemon: {}", crate::failure::plain(&e));
        Failure::new(message).code(COULD_NOT_RUN)
    };
    // The keeper starts the daemon.
    let what = if job.options.is_kept() {
        "--kept"
    } else {
        "--daemon"
    };
    let line = command_line(args, job, &[what]);
    descriptors::keep_to_ourselves();
    let mut daemon = program::command()
        .args(line)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let mut said = String::new();
    if let Some(out) = daemon.stdout.take() {
        // One line, and not the end of the stream: the daemon may be unable to let go of it.
        BufReader::new(out).read_line(&mut said).map_err(failed)?;
    }
    match said.split_once(' ') {
        Some(("ready", _)) => Ok(()),
        Some((code, message)) if !message.trim().is_empty() => {
            Err(Failure::new(message).code(code.parse().unwrap_or(1)))
        }
        _ => {
            let status = daemon.wait().map_err(failed)?;
            let log = shown(&job.volume.join(crate::log::NAME));
            let message = format!("the daemon ended at once ({status}); look at {log}");
            Err(Failure::new(message).code(COULD_NOT_RUN))
        }
    }
}
