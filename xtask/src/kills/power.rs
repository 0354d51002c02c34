//! The power of the host's disk is cut under a mounted volume.
//!
//! The disk is an export of nbdkit, whose cache filter keeps what is written in a file of its own
//! until it is flushed, as a disk does in its RAM. SIGKILL of nbdkit loses all of that: this is the
//! power cut. nbdfuse shows the export as a file, and a loop device on it carries the file system
//! of the host; so no module of the kernel is needed. That unflushed writes get lost, and that the
//! check notices a disk which loses flushed ones, is shown first.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::check::LOST;
use super::daemon::is_mounted;
use super::manifest::Told;
use super::random::Random;
use super::stage::{Daemon, Round, Stage};
use super::{left_out, missing};
use crate::posix::is_root;
use crate::run;

/// What the disk has room for.
const SIZE: u64 = 256 << 20;

/// Milliseconds until the cut.
const WINDOW: (u64, u64) = (50, 1800);

/// How the host's file system keeps the order of data and metadata.
const HOSTS: [&str; 2] = ["data=ordered", "data=writeback"];

/// What the filter does with a flush.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cache {
    /// Writes down everything that came before.
    Honest,
    /// Nothing, and says that it has.
    Lying,
}

/// Cuts that often.
pub fn main(stage: &Stage, cuts: u64, seed: u64) -> Result<(), String> {
    let programs = ["nbdkit", "nbdfuse", "mkfs.ext4", "mount", "timeout"];
    if let Some(why) = missing(&programs) {
        return left_out("power cuts", &why);
    }
    if let Some(why) = no_loop_device(stage) {
        println!("power cuts: left out: {why}");
        return Ok(());
    }
    let place = stage.dir("power")?;
    unflushed_writes_are_lost(&place)?;
    let switch = Switch::new(&place)?;
    let mut old = None;
    let (mut operations, mut syncs) = (0, 0);
    for n in 0..cuts {
        let of_round = seed.wrapping_add(n);
        let host = HOSTS.get(usize::from(n % 2 == 1)).copied();
        let setup = (Cache::Honest, host.unwrap_or_default());
        let (round, told) = switch
            .cut(stage, setup, of_round, old.take())
            .map_err(|e| format!("power cut {n}, seed {of_round}: {e}"))?;
        syncs += told.syncs;
        operations += told.begun.iter().sum::<u64>();
        old = Some(round);
    }
    let lied = switch.cut(stage, (Cache::Lying, ""), seed.wrapping_add(cuts), None);
    match lied {
        Err(why) if why.contains(LOST) => {}
        Err(why) => return Err(format!("power cut of a disk that lies: {why}")),
        Ok(_) => return Err("the check does not notice a disk that lies".into()),
    }
    println!(
        "kills: power cut under load {cuts} times; {operations} operations begun, {syncs} \
         syncs acknowledged; nothing is missing, and of a disk that lies it is noticed \
         (seed {seed})"
    );
    Ok(())
}

/// Why there is no loop device, if so.
pub fn no_loop_device(stage: &Stage) -> Option<String> {
    if !is_root() {
        return Some("only root may mount a loop device".into());
    }
    let image = stage.place.join("probe.img");
    let dir = stage.dir("probe").ok()?;
    let outcome = image_of(&image, 8 << 20).and_then(|()| {
        mount_image(&image, &dir, "")?;
        unmount(&dir)
    });
    let _ = fs::remove_file(&image);
    outcome.err()
}

/// A new file system in a file.
pub fn image_of(image: &Path, size: u64) -> Result<(), String> {
    let made = fs::File::create(image).and_then(|file| file.set_len(size));
    made.map_err(|e| format!("{}: {e}", image.display()))?;
    run::check_quietly(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(image))
}

/// Mounts what is in a file.
pub fn mount_image(image: &Path, dir: &Path, options: &str) -> Result<(), String> {
    let mut mount = Command::new("mount");
    let options = ["loop", options].join(",");
    let options = options.trim_end_matches(',');
    run::check_quietly(
        mount
            .args(["-t", "ext4", "-o", options])
            .arg(image)
            .arg(dir),
    )
}

/// Unmounts, for good: whoever used it is dead.
pub fn unmount(dir: &Path) -> Result<(), String> {
    let mut last = String::new();
    for _ in 0..100 {
        match run::check_quietly(Command::new("umount").arg(dir)) {
            Ok(()) => return Ok(()),
            Err(why) => last = why,
        }
        if !is_mounted(&dir.to_string_lossy())? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Err(last)
}

/// A disk that has power.
struct Disk {
    dir: PathBuf,
    nbdkit: Child,
    nbdfuse: Child,
}

impl Disk {
    fn on(place: &Path, backing: &Path, cache: Cache) -> Result<Self, String> {
        let dir = place.join("disk");
        fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let socket = place.join("socket");
        let _ = fs::remove_file(&socket);
        let start = |command: &mut Command| {
            command.stdin(Stdio::null()).stdout(Stdio::null());
            // nbdfuse tells at length that the disk is gone.
            let child = command.stderr(Stdio::null()).spawn();
            child.map_err(|e| format!("cannot run {:?}: {e}", command.get_program()))
        };
        let nbdkit = start(
            Command::new("nbdkit")
                .args(["--foreground", "--filter=cache", "--unix"])
                .arg(&socket)
                .args(["file".as_ref(), backing.as_os_str()])
                .arg(match cache {
                    Cache::Honest => "cache=writeback",
                    Cache::Lying => "cache=unsafe",
                })
                .env("TMPDIR", place),
        )?;
        let nbdfuse = Command::new("true").spawn().map_err(|e| e.to_string())?;
        // From here on dropping it ends what runs.
        let mut disk = Self {
            dir,
            nbdkit,
            nbdfuse,
        };
        wait_for("nbdkit", || socket.exists())?;
        let _ = disk.nbdfuse.wait();
        let mut show = Command::new("nbdfuse");
        disk.nbdfuse = start(show.arg(disk.file()).arg("--unix").arg(&socket))?;
        wait_for("nbdfuse", || disk.file().metadata().is_ok())?;
        Ok(disk)
    }

    /// What stands for it.
    fn file(&self) -> PathBuf {
        self.dir.join("disk")
    }

    /// Cuts the power.
    fn cut(&mut self) -> Result<(), String> {
        let cut = self.nbdkit.kill().and_then(|()| self.nbdkit.wait());
        cut.map(drop).map_err(|e| format!("nbdkit: {e}"))
    }

    /// Takes away what shows it.
    fn off(mut self) -> Result<(), String> {
        let _ = self.nbdfuse.kill().and_then(|()| self.nbdfuse.wait());
        unmount(&self.dir)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for child in [&mut self.nbdfuse, &mut self.nbdkit] {
            let _ = child.kill();
            let _ = child.wait();
        }
        if is_mounted(&self.dir.to_string_lossy()) != Ok(false) {
            let _ = Command::new("umount").arg("-l").arg(&self.dir).status();
        }
    }
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) -> Result<(), String> {
    for _ in 0..500 {
        if condition() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(format!("{what} is not there after ten seconds"))
}

/// Without this the rest would prove nothing.
fn unflushed_writes_are_lost(place: &Path) -> Result<(), String> {
    let backing = place.join("control.img");
    let made = fs::File::create(&backing).and_then(|file| file.set_len(1 << 20));
    made.map_err(|e| format!("{}: {e}", backing.display()))?;
    let mut disk = Disk::on(place, &backing, Cache::Honest)?;
    let failed = |e: std::io::Error| format!("control of the power switch: {e}");
    let mut options = fs::OpenOptions::new();
    let file = options.read(true).write(true).open(disk.file());
    let file = file.map_err(failed)?;
    let (flushed, unflushed) = ([1; 4096], [2; 4096]);
    file.write_all_at(&flushed, 8192).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    file.write_all_at(&unflushed, 65536).map_err(failed)?;
    // The disk answers with it, as long as it has power.
    let mut answer = [0; 4096];
    file.read_exact_at(&mut answer, 65536).map_err(failed)?;
    disk.cut()?;
    drop(file);
    disk.off()?;
    let left = fs::read(&backing).map_err(failed)?;
    let _ = fs::remove_file(&backing);
    let holds = |at: usize, bytes: &[u8]| left.get(at..at + 4096) == Some(bytes);
    if answer == unflushed && holds(8192, &flushed) && holds(65536, &[0; 4096]) {
        println!("kills: the power switch loses what was not flushed, and nothing else");
        return Ok(());
    }
    Err("SIGKILL of nbdkit does not lose what was not flushed: no power cut can be made so".into())
}

/// A disk with a volume, whose power can be cut.
struct Switch {
    place: PathBuf,
    backing: PathBuf,
    host: PathBuf,
}

impl Switch {
    fn new(place: &Path) -> Result<Self, String> {
        let backing = place.join("disk.img");
        image_of(&backing, SIZE)?;
        let host = place.join("host");
        fs::create_dir_all(&host).map_err(|e| format!("{}: {e}", host.display()))?;
        Ok(Self {
            place: place.to_path_buf(),
            backing,
            host,
        })
    }

    /// Power on, load, power off, and everything is there when it is on again.
    fn cut(
        &self,
        stage: &Stage,
        (cache, host): (Cache, &str),
        seed: u64,
        old: Option<Round>,
    ) -> Result<(Round, Told), String> {
        let mut random = Random(seed);
        let volume = self.host.join("volume.rzfs");
        let mut disk = Disk::on(&self.place, &self.backing, cache)?;
        mount_image(&disk.file(), &self.host, host)?;
        let mut mount = Daemon::mount(stage, &volume, &[])?;
        if let Some(old) = old {
            let gone = fs::remove_dir_all(&old.dir);
            gone.map_err(|e| format!("{}: {e}", old.dir.display()))?;
        }
        let round = Round::prepare(stage, &mount, seed, false)?;
        let mut load = stage.load(&round)?;
        std::thread::sleep(Duration::from_millis(random.between(WINDOW.0, WINDOW.1)));
        load.goes_on()?;
        disk.cut()?;
        // Nobody has told the daemon: whatever it acknowledges now is a lie, and gets noticed.
        let told = load.end()?;
        mount.kill()?;
        mount.detach()?;
        unmount(&self.host)?;
        disk.off()?;

        let mut disk = Disk::on(&self.place, &self.backing, Cache::Honest)?;
        mount_image(&disk.file(), &self.host, "")?;
        stage.verify(&volume)?;
        let mount = Daemon::mount(stage, &volume, &[])?;
        let outcome = round.check(&told);
        mount.umount()?;
        stage.verify(&volume)?;
        unmount(&self.host)?;
        disk.cut()?;
        disk.off()?;
        outcome.map(|()| (round, told))
    }
}
