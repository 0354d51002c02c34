//! The daemon is SIGKILLed under load, again and again.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::random::Random;
use super::stage::{Daemon, Round, Stage, drop_caches};
use crate::run;

/// So many kills a volume: a young one has a small journal, and checkpoints often.
const KILLS_OF_A_VOLUME: u64 = 10;

/// Milliseconds until the kill.
const WINDOW: (u64, u64) = (10, 1200);

/// What has happened in all.
#[derive(Default)]
struct Sum {
    syncs: u64,
    operations: u64,
    recoveries: u64,
}

/// Kills that often.
pub fn main(stage: &Stage, kills: u64, seed: u64) -> Result<(), String> {
    let mut sum = Sum::default();
    let mut cold = true;
    let mut n = 0;
    while n < kills {
        let volume = stage.place.join(format!("volume{n}.rzfs"));
        let mut mount = Daemon::mount(stage, &volume, &[])?;
        let mut old: Option<Round> = None;
        for _ in 0..KILLS_OF_A_VOLUME.min(kills - n) {
            n += 1;
            let of_round = seed.wrapping_add(n);
            let told = |e: String| format!("kill {n}, seed {of_round}: {e}");
            let random = Random(of_round);
            let (again, round) =
                one(stage, mount, random, of_round, old.take(), &mut sum).map_err(told)?;
            cold &= drop_caches();
            (mount, old) = (again, Some(round));
            if n % 50 == 0 {
                println!("kills: {n} of {kills} so far");
            }
        }
        mount.umount()?;
        stage.verify(&volume)?;
        fs::remove_dir_all(&volume).map_err(|e| format!("{}: {e}", volume.display()))?;
    }
    let cache = if cold { "a cold cache" } else { "a new mount" };
    println!(
        "kills: SIGKILL under load {kills} times, {} more while recovering; {} operations begun, \
         {} syncs acknowledged; through {cache} nothing is missing (seed {seed})",
        sum.recoveries, sum.operations, sum.syncs
    );
    Ok(())
}

/// One kill, from a mount to the next.
fn one(
    stage: &Stage,
    mut mount: Daemon,
    mut random: Random,
    seed: u64,
    old: Option<Round>,
    sum: &mut Sum,
) -> Result<(Daemon, Round), String> {
    let round = Round::prepare(stage, &mount, seed, false)?;
    let mut load = stage.load(&round)?;
    let told = std::thread::scope(|scope| {
        // The tree of the round before goes meanwhile, which has no manifest.
        let sweeper = old.map(|old| scope.spawn(move || fs::remove_dir_all(old.dir)));
        std::thread::sleep(Duration::from_millis(random.between(WINDOW.0, WINDOW.1)));
        load.goes_on()?;
        mount.kill()?;
        // It may have ended before, or fail with the mount.
        let _ = sweeper.map(std::thread::ScopedJoinHandle::join);
        load.end()
    })?;
    let (volume, dir) = (mount.volume.clone(), mount.dir.clone());
    mount.detach()?;
    stage.verify(&volume)?;
    while random.one_in(3) {
        let mut recovering = stage.razorfs(&["mount", "--foreground"]);
        recovering.arg(&volume).arg(&dir).stderr(Stdio::null());
        let mut child = recovering.spawn().map_err(|e| e.to_string())?;
        std::thread::sleep(Duration::from_millis(random.below(80)));
        let killed = child.kill().and_then(|()| child.wait());
        killed.map_err(|e| format!("cannot kill the daemon: {e}"))?;
        if is_mounted(&dir.to_string_lossy())? {
            run::check_quietly(stage.razorfs(&["umount"]).arg(&dir))?;
        }
        stage.verify(&volume)?;
        sum.recoveries += 1;
    }
    drop_caches();
    let mount = Daemon::mount(stage, &volume, &[])?;
    round.check(&told)?;
    sum.syncs += told.syncs;
    sum.operations += told.begun.iter().sum::<u64>();
    Ok((mount, round))
}

/// Whether something is mounted there.
pub fn is_mounted(dir: &str) -> Result<bool, String> {
    let table = "/proc/self/mountinfo";
    let mounts = fs::read_to_string(table).map_err(|e| format!("{table}: {e}"))?;
    Ok(mounts
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(dir)))
}

/// The device of what is mounted there.
pub fn device(dir: &str) -> Result<String, String> {
    let said = run::output(Command::new("findmnt").args(["-n", "-o", "SOURCE", dir]))?;
    Ok(said.trim().to_owned())
}
