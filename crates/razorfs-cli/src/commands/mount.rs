//! `razorfs mount`: a volume as a directory.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use razorfs_fuse::Obstacle;
use rustix::fs::{Access, access};

use crate::commands::umount;
use crate::daemon::{self, Job};
use crate::descriptors;
use crate::failure::{COULD_NOT_RUN, Failure, Result, shown};
use crate::keeper;
use crate::mountinfo;
use crate::mounts::Plan;
use crate::options::MountOptions;
use crate::place;
use crate::points;
use crate::program;
use crate::shows::Shows;
use crate::socket::{self, Request};

/// How often a daemon is asked, where one goes meanwhile; and how often it is tried to start one,
/// where somebody else has the volume and may be one that is about to listen.
const ASKED: u32 = 200;
const STARTED: u32 = 40;
const BETWEEN_TRIES: Duration = Duration::from_millis(50);

/// Mounts a volume on a directory
#[derive(clap::Args, Clone, Debug)]
#[command(
    after_help = "Both are created if they are missing. The command returns when the \
directory is usable; a daemon then runs in the background and writes its log to \
VOLUME/razorfs.log. A signal unmounts; while the mount is in use it is taken away and served on,
and a second signal ends the daemon at once. With --snapshot, or as VOLUME@NAME, the volume is
shown, read-only, as it was then; in the mount of a volume all snapshots are below
.razorfs/snapshots, which no directory lists. A branch is mounted as VOLUME@NAME, and can be
written to; nothing of what is done there shows anywhere else.

A volume may be mounted on several directories: what is there now, and each branch, on one of them,
snapshots on as many as you like. One daemon serves all of them; each comes and goes by itself, and
the volume is closed with the last. Options of a further mount are its own, and those that are for
the whole volume are those of the first: durability, order, cache, keeper, autosnap, keep, metrics,
socket_mode, log. A snapshot that is mounted cannot be deleted.

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
  autosnap=Nops            a snapshot after each N operations (10000ops) or a few more: they are
                           counted five times a second, and no two are taken in one second
  keep=AGE:RATE,...        which of these stay: up to that age all, or one hourly, daily or weekly;
                           none that are older (default 1h:all,24h:hourly,7d:daily). Snapshots of
                           other names, and the newest, always stay
  metrics=ADDRESS:PORT     counters for Prometheus, at http://ADDRESS:PORT/metrics
  metrics=PATH             the same over a socket, which only you and root may connect to
  socket_mode=OCTAL        who may connect to VOLUME/razorfs.sock, as chmod takes it (default 0600):
                           with 0660 the programs of its group use the volume beside the mount, and
                           may do anything in it; commands stay with you and root. They must be let
                           through the directory as well (chmod g+x VOLUME)
  log=LEVEL                what razorfs.log gets: error, warn, info, debug or trace (default info,
                           or what RAZORFS_LOG says in the environment)

Examples:
  razorfs mount demo.rzfs mnt
  razorfs mount demo.rzfs mnt -o durability=sync,cache=1G
  razorfs mount demo.rzfs mnt --foreground
  razorfs mount demo.rzfs mnt -o autosnap=10m,keep=24h:hourly,7d:daily
  razorfs mount --snapshot before-import demo.rzfs old
  razorfs mount demo.rzfs@before-import old           the same
  razorfs mount demo.rzfs@attempt-1 work1             a branch"
)]
pub struct Args {
    /// The volume, or VOLUME@NAME for a branch or a snapshot
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
    let job = job(args)?;
    if args.daemon {
        return Ok(daemon::in_background(&job, args.kept));
    }
    if args.kept {
        return keeper::run(&job, &command_line(args, &job, &["--daemon", "--kept"]));
    }
    let is_made = prepare(&job)?;
    let outcome = mount(args, &job);
    if outcome.is_err() && is_made {
        // What was made for nothing goes; if it is in use by now it stays.
        let _ = std::fs::remove_dir(&job.first.dir);
    }
    outcome.map(|()| 0)
}

/// Asks the daemon of the volume, or starts one.
fn mount(args: &Args, job: &Job) -> Result<()> {
    for tries in 0.. {
        if let Some(mut stream) = socket::connect(&job.volume) {
            if args.foreground {
                return Err(has_a_daemon(job));
            }
            match ask(job, &mut stream) {
                Asked::Mounted => return Ok(()),
                Asked::Refused(failure) => return Err(failure),
                // Another one goes on, or the volume is closed by now.
                Asked::Left(_) if tries < ASKED => {}
                Asked::Left(failure) => return Err(failure),
            }
        } else {
            let started = match args.foreground {
                true => daemon::in_foreground(job),
                false => start(args, job),
            };
            match started {
                // In the foreground it has begun to take signals, and is not begun twice.
                Err(failure) if args.foreground => return Err(failure),
                Err(_) if tries < STARTED && place::is_held(&job.volume) => {}
                started => return started,
            }
        }
        std::thread::sleep(BETWEEN_TRIES);
    }
    Ok(())
}

/// What is to be done.
fn job(args: &Args) -> Result<Job> {
    let (volume, name) = match place::at_snapshot(&args.volume) {
        Some((_, name)) if args.snapshot.as_ref().is_some_and(|other| *other != name) => {
            let cause = "two snapshots are named";
            let remedy = "name one, with --snapshot or behind the volume";
            return Err(Failure::with("mount", &args.volume, cause, remedy));
        }
        Some((volume, name)) => (volume, Some(name)),
        None => (args.volume.clone(), args.snapshot.clone()),
    };
    let volume = place::absolute(&volume)?;
    // By the mount point of a volume that is meant.
    let volume = mountinfo::at(&volume).map_or(volume, |mount| mount.volume);
    let mut options = MountOptions::parse(&args.options)?;
    if args.read_only {
        options.add("ro")?;
    }
    let shows = match &args.snapshot {
        Some(name) => Shows::Snapshot(name.clone()),
        None => Shows::named(name.as_deref()),
    };
    // A volume that cannot be written to shows its snapshots, too.
    let no_writes = || access(&volume, Access::WRITE_OK).is_err();
    let read_only = options.read_only || shows.name().is_some() && no_writes();
    options.check()?;
    options.read_only |= shows.is_fixed();
    let first = Plan {
        dir: place::absolute(&args.dir)?,
        shows,
        options,
    };
    Ok(Job {
        volume,
        first,
        read_only,
    })
}

/// What came of asking a daemon for one more mount.
enum Asked {
    Mounted,
    Refused(Failure),
    /// It was gone before it answered, for this reason.
    Left(Failure),
}

/// Has the daemon of the volume mount it once more.
fn ask(job: &Job, stream: &mut UnixStream) -> Asked {
    let dir = &job.first.dir;
    // A daemon that has died since may have mounted it, and another one goes on with it.
    if job.first.is_there(&job.volume) && !place::is_dead(dir) {
        return Asked::Mounted;
    }
    let request = Request::Mount(job.first.wanted());
    match socket::exchange(stream, request, &mut |_| {}) {
        Ok(Ok(_)) if job.first.is_there(&job.volume) => Asked::Mounted,
        Ok(Ok(_)) => Asked::Refused(place::out_of_sight(&job.volume)),
        Ok(Err(failure)) => Asked::Refused(failure),
        Err(e) => Asked::Left(Failure::with(
            "talk to the daemon of",
            &job.volume,
            crate::failure::plain(&e),
            "look at razorfs.log in the volume",
        )),
    }
}

fn has_a_daemon(job: &Job) -> Failure {
    let cause = "a daemon has it mounted, and serves all mounts of it";
    let remedy = "leave out --foreground, or unmount it first";
    Failure::with("mount", &job.volume, cause, remedy)
}

/// Refuses what cannot work, and makes the mount point; says whether it did.
fn prepare(job: &Job) -> Result<bool> {
    descriptors::have_enough()?;
    let (volume, dir) = (&job.volume, &job.first.dir);
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
    if let Some(failure) = place::no_directory("mount", volume) {
        return Err(failure);
    }
    if let Some(name) = job.first.shows.name() {
        points::check_length(volume, name)?;
        let source = PathBuf::from(job.first.shows.source(volume));
        if place::is_volume(&source) {
            let cause = "a volume has that very name";
            let remedy = "read it at .razorfs/snapshots, or rename one of both";
            return Err(Failure::with("mount", source, cause, remedy));
        }
        if !place::is_volume(volume) {
            let cause = "there is no such volume";
            return Err(Failure::with("mount", volume, cause, "check the path"));
        }
    }
    if let Some(mount) = mountinfo::at(dir) {
        if !place::is_dead(dir) {
            let shows = Shows::named(mount.shows.as_deref());
            let cause = match shows.name() {
                None => format!("{} is mounted there", shown(&mount.volume)),
                Some(_) => format!(
                    "{} of {} is mounted there",
                    shows.text(),
                    shown(&mount.volume)
                ),
            };
            let remedy = "unmount it first, or use another directory";
            return Err(Failure::with("mount on", dir, cause, remedy));
        }
        umount::detach_dead(dir, &mount.volume)?;
    }
    if dir.starts_with(volume) || volume.starts_with(dir) {
        let cause = "the mount point and the volume are inside of each other";
        let remedy = "use another directory";
        return Err(Failure::with("mount on", dir, cause, remedy));
    }
    make(dir)
}

/// Makes the mount point, if it is not there; says whether it did.
fn make(dir: &Path) -> Result<bool> {
    match std::fs::metadata(dir) {
        Ok(meta) if meta.is_dir() => Ok(false),
        Ok(_) => {
            let (cause, remedy) = ("it is not a directory", "use another path");
            Err(Failure::with("mount on", dir, cause, remedy))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => match std::fs::create_dir(dir) {
            Ok(()) => Ok(true),
            // By another command.
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(Failure::host("create", dir, &e)),
        },
        Err(e) => Err(Failure::host("mount on", dir, &e)),
    }
}

/// The command line of a process of the mount.
fn command_line(args: &Args, job: &Job, what: &[&str]) -> Vec<OsString> {
    let mut line: Vec<OsString> = vec!["mount".into()];
    line.extend(what.iter().map(OsString::from));
    if args.read_only {
        line.push("--read-only".into());
    }
    if let Some(name) = job.first.shows.snapshot() {
        line.extend(["--snapshot".into(), name.into()]);
    }
    for options in &args.options {
        line.extend(["-o".into(), options.into()]);
    }
    line.push("--".into());
    let source = match job.first.shows.snapshot() {
        Some(_) => job.volume.clone().into(),
        None => job.first.shows.source(&job.volume),
    };
    line.extend([source, job.first.dir.clone().into()]);
    line
}

/// Starts the daemon, and waits until it says that the directory is usable.
fn start(args: &Args, job: &Job) -> Result<()> {
    let failed = |e: std::io::Error| {
        let message = format!("cannot start the daemon: {}", crate::failure::plain(&e));
        Failure::new(message).code(COULD_NOT_RUN)
    };
    // The keeper starts the daemon.
    let what = if job.first.options.is_kept() {
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
        Some(("ready", notices)) => {
            daemon::print_notices(job, &daemon::read_notices(notices));
            Ok(())
        }
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
