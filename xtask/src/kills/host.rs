//! Hosts that fail under load: a full disk, a file system that turns read-only, a limit to the
//! size of files. Nothing hangs, the cause is told, and what was acknowledged is there.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::daemon::device;
use super::manifest::Told;
use super::power::{image_of, mount_image, no_loop_device, unmount};
use super::stage::{Daemon, Round, Stage, Working, timed};
use super::{left_out, missing};
use crate::run;

/// Room of the disk that gets full.
const SMALL: u64 = 96 << 20;

/// All of them.
pub fn main(stage: &Stage, seed: u64) -> Result<(), String> {
    match missing(&["prlimit"]) {
        None => limit(stage, seed)?,
        Some(why) => left_out("a limit to the size of files", &why)?,
    }
    let programs = ["mkfs.ext4", "mount", "findmnt", "timeout"];
    if let Some(why) = missing(&programs) {
        return left_out("hosts that fail", &why);
    }
    if let Some(why) = no_loop_device(stage) {
        println!("hosts that fail: left out: {why}");
        return Ok(());
    }
    full(stage, seed)?;
    read_only(stage, seed)
}

/// Everybody of the host fills it, twice, and makes room again; at last the daemon is killed while
/// it is full.
fn full(stage: &Stage, seed: u64) -> Result<(), String> {
    let (image, host) = (stage.place.join("full.img"), stage.dir("full")?);
    image_of(&image, SMALL)?;
    mount_image(&image, &host, "")?;
    let volume = host.join("full.rzfs");
    let filler = host.join("filler");
    let mut mount = Daemon::mount(stage, &volume, &[])?;
    let round = Round::prepare(stage, &mount, seed, true)?;
    let mut load = stage.load(&round)?;
    for _ in 0..2 {
        wait(&mut load, "syncs", |now, then| now.syncs > then.syncs)?;
        fill(&filler)?;
        wait(&mut load, "refusals of a full host", |now, then| {
            now.refused.len() as u64 + now.unsynced > then.refused.len() as u64 + then.unsynced
        })?;
        // Reading goes on.
        super::model::look(&round.dir.join("0")).map_err(|e| format!("a full host: {e}"))?;
        gone(&filler)?;
        wait(&mut load, "syncs with room again", |now, then| {
            now.syncs > then.syncs + 20
        })?;
    }
    fill(&filler)?;
    wait(&mut load, "refusals of a full host", |now, then| {
        now.refused.len() as u64 + now.unsynced > then.refused.len() as u64 + then.unsynced
    })?;
    mount.kill()?;
    let told = load.end()?;
    mount.detach()?;
    stage.verify(&volume)?;
    // Either it can be mounted on the full host, or it is told why not.
    let mut command = Command::new(&stage.razorfs);
    command
        .arg("mount")
        .arg(&volume)
        .arg(stage.dir("mnt-full")?);
    let said = timed(60, &command)?;
    let words = String::from_utf8_lossy(&said.stderr).into_owned();
    if said.status.success() {
        super::stage::timed(60, Command::new(&stage.razorfs).arg("umount").arg(&volume))?;
    } else if !words.contains("space") {
        return Err(format!("mounting on a full host: {}: {words}", said.status));
    }
    gone(&filler)?;
    again(stage, &volume, &round, &told)?;
    unmount(&host)?;
    let how = if said.status.success() {
        "and mounted"
    } else {
        "and refused with its cause"
    };
    println!(
        "kills: full host: {} calls and {} syncs refused with ENOSPC, {} syncs acknowledged; \
         killed while it was full, {how}; nothing is missing",
        told.refused.len(),
        told.unsynced,
        told.syncs
    );
    Ok(())
}

fn fill(path: &Path) -> Result<(), String> {
    let mut file = fs::File::create(path).map_err(|e| format!("{}: {e}", path.display()))?;
    for len in [1 << 20, 4096] {
        let zeros = vec![0; len];
        while file.write_all(&zeros).is_ok() {}
    }
    // Until then its blocks are only reserved.
    let _ = file.sync_all();
    Ok(())
}

fn gone(path: &Path) -> Result<(), String> {
    fs::remove_file(path).map_err(|e| format!("{}: {e}", path.display()))
}

/// Waits until the load was told something new.
fn wait(
    load: &mut Working,
    what: &str,
    is_new: impl Fn(&Told, &Told) -> bool,
) -> Result<(), String> {
    let then = load.goes_on()?;
    for _ in 0..600 {
        if is_new(&load.goes_on()?, &then) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let now = load.told()?;
    Err(format!(
        "no {what} within half a minute: {} acknowledged, {} refused",
        now.syncs, now.unsynced
    ))
}

/// As a new mount everything is there, and can be changed.
fn again(stage: &Stage, volume: &Path, round: &Round, told: &Told) -> Result<(), String> {
    stage.verify(volume)?;
    let mount = Daemon::mount(stage, volume, &[])?;
    round.check(told)?;
    fs::remove_dir_all(&round.dir).map_err(|e| format!("{}: {e}", round.dir.display()))?;
    mount.umount()?;
    stage.verify(volume)
}

/// The host's file system finds an error in itself, and takes no more writes.
fn read_only(stage: &Stage, seed: u64) -> Result<(), String> {
    let (image, host) = (stage.place.join("ro.img"), stage.dir("ro")?);
    image_of(&image, SMALL)?;
    mount_image(&image, &host, "errors=remount-ro")?;
    let device = device(&host.to_string_lossy())?;
    let name = device.trim_start_matches("/dev/");
    let trigger = Path::new("/sys/fs/ext4")
        .join(name)
        .join("trigger_fs_error");
    if !trigger.exists() {
        unmount(&host)?;
        return left_out(
            "a host that turns read-only",
            "no trigger_fs_error of ext4 here",
        );
    }
    let volume = host.join("ro.rzfs");
    let mount = Daemon::mount(stage, &volume, &[])?;
    let round = Round::prepare(stage, &mount, seed, true)?;
    let mut load = stage.load(&round)?;
    wait(&mut load, "syncs", |now, then| now.syncs > then.syncs + 20)?;
    let shown = trigger.display();
    fs::write(&trigger, "razorfs kills").map_err(|e| format!("{shown}: {e}"))?;
    let told = load.end()?;
    refuses(&mount)?;
    let told_of = cause(
        stage,
        &mount,
        &["Read-only file system", "Input/output error"],
    )?;
    mount.detach()?;
    unmount(&host)?;
    mount_image(&image, &host, "")?;
    again(stage, &volume, &round, &told)?;
    unmount(&host)?;
    println!(
        "kills: host turned read-only: {} syncs acknowledged, nothing is missing; told \
         as: {told_of}",
        told.syncs
    );
    Ok(())
}

/// The daemon may not write beyond a length of its files: first one that takes every pack now and
/// then, which it goes on from in another, then one that leaves it nothing.
fn limit(stage: &Stage, seed: u64) -> Result<(), String> {
    let volume = stage.place.join("limit.rzfs");
    let mount = Daemon::mount(stage, &volume, &["prlimit", "--fsize=1500000"])?;
    let round = Round::prepare(stage, &mount, seed, true)?;
    let mut load = stage.load(&round)?;
    wait(&mut load, "syncs", |now, then| now.syncs > then.syncs + 100)?;
    let mut packs = 0;
    for _ in 0..600 {
        packs = mount.log().matches("a pack was given up").count();
        if packs > 1 {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    if packs < 2 {
        return Err("a limit to the size of files: no pack has met it".into());
    }
    load.goes_on()?;
    let pid = mount.pid().to_string();
    let nothing = ["--fsize=4096", "--pid", &pid];
    run::check_quietly(Command::new("prlimit").args(nothing))?;
    let told = load.end()?;
    refuses(&mount)?;
    let told_of = cause(stage, &mount, &["File too large"])?;
    mount.detach()?;
    again(stage, &volume, &round, &told)?;
    println!(
        "kills: limit to the size of files: {packs} packs were given up, {} syncs acknowledged, \
         nothing is missing; without any room told as: {told_of}",
        told.syncs
    );
    Ok(())
}

/// What is synced now is refused: the load may have ended before it met that.
fn refuses(mount: &Daemon) -> Result<(), String> {
    let file = mount.dir.join("refused");
    let mut dd = Command::new("dd");
    dd.args(["if=/dev/zero", "bs=1", "count=1", "conv=fsync"]);
    let done = timed(30, dd.arg(format!("of={}", file.display())))?;
    if done.status.success() {
        let shown = file.display();
        return Err(format!(
            "{shown}: was synced, though the host takes no writes"
        ));
    }
    Ok(())
}

/// What `razorfs info` says of a volume that takes no more writes: why, and what to do. It is
/// read-only, or waits for room that it cannot make. Every call has ended.
fn cause(stage: &Stage, mount: &Daemon, words: &[&str]) -> Result<String, String> {
    let mut info = Command::new(&stage.razorfs);
    let said = timed(30, info.arg("info").arg(&mount.dir))?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let told = |health: &str, remedy: &str| {
        let (_, rest) = said.split_once(&format!("\nhealth      {health}\n"))?;
        let mut why = rest.lines().take_while(|line| line.starts_with(' '));
        why.find(|why| words.iter().any(|word| why.contains(word)) && why.contains(remedy))
            .map(|why| why.trim().to_owned())
    };
    told("read-only", "mount it again")
        .or_else(|| told("failing", "it is tried again"))
        .ok_or_else(|| {
            format!(
                "`razorfs info` does not tell the cause:\n{said}\n{}",
                mount.log()
            )
        })
}
