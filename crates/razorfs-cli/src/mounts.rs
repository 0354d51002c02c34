//! The mounts that a daemon serves, all of one volume.
//!
//! Each has a handle of the volume, a session with the kernel and caches of its own. They come and
//! go one by one; what changes in one of them, or in the snapshots, is told to those that show it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use razorfs::{
    Atime, BEFORE_COMMIT, BEFORE_RECEIVE, BEFORE_RESTORE, BEFORE_ROLLBACK, Ino, Snapshot, Stale,
    Volume,
};
use razorfs_fuse::{Notifier, Statistics, TransportChoice, forget, forget_snapshot, forget_stale};
use serde_json::{Value, json};

use crate::failure::{COULD_NOT_RUN, Failure, Result, shown};
use crate::handover::Held;
use crate::kept::Keeper;
use crate::options::MountOptions;
use crate::server::{Server, Serving};
use crate::shows::Shows;
use crate::socket::Wanted;
use crate::{memory, mountinfo, place, program, unmount};

/// How often the kernel is asked whether a file is still held, and how long it has in between to
/// let go of what it is at work on.
const HELD: u32 = 20;
const LETTING_GO: Duration = Duration::from_millis(5);

/// What is to be mounted where, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The mount point, a path from the root of the host.
    pub dir: PathBuf,
    /// What is to be seen there.
    pub shows: Shows,
    /// How.
    pub options: MountOptions,
}

impl Plan {
    /// As another process wants it.
    pub fn new(wanted: Wanted) -> Result<Self> {
        let mut options = MountOptions::parse(&wanted.words)?;
        options.read_only |= wanted.shows.is_fixed();
        Ok(Self {
            dir: wanted.dir,
            shows: wanted.shows,
            options,
        })
    }

    /// With what a name stands for in the volume.
    fn in_volume(mut self, volume: &Volume) -> Self {
        self.shows = self.shows.in_volume(volume);
        self.options.read_only |= self.shows.is_fixed();
        self
    }

    /// For another process.
    pub fn wanted(&self) -> Wanted {
        Wanted {
            dir: self.dir.clone(),
            shows: self.shows.clone(),
            words: self.options.words.clone(),
        }
    }

    /// Whether it is what is on its directory: it may have been taken away, as `umount -l` does,
    /// and there may be another one by now.
    pub fn is_there(&self, volume: &Path) -> bool {
        // Not by the volume: it may have been moved.
        let source = self.shows.source(volume);
        mountinfo::at(&self.dir).is_some_and(|mount| mount.source == source)
    }
}

/// A mount that is served.
pub struct Mount {
    /// What is mounted where, and how.
    pub plan: Plan,
    /// The way that requests come, as `transport=` names it.
    pub transport: &'static str,
    /// What it has served.
    pub statistics: Arc<Statistics>,
    notifier: Notifier,
    /// The volume, as it is shown.
    shown: Volume,
    server: Mutex<Option<Server>>,
}

impl Mount {
    /// Waits until no request is being served any more. An error says why it was given up while
    /// the mount was there.
    pub fn finish(&self) -> std::io::Result<()> {
        let server = locked(&self.server).take();
        server.map_or(Ok(()), Server::finish)
    }

    /// What reading does to times of access from now on.
    pub fn set_atime(&self, atime: Atime) {
        self.shown.set_atime(atime);
    }

    /// What `info` shows of it among others.
    fn document(&self) -> Value {
        json!({
            "dir": shown(&self.plan.dir),
            "snapshot": self.plan.shows.snapshot(),
            "branch": self.plan.shows.branch(),
            "read_only": self.plan.options.read_only,
            "transport": self.transport,
        })
    }
}

/// All mounts of a volume.
pub struct Mounts {
    /// The volume.
    pub volume: Volume,
    /// Where it is.
    pub path: PathBuf,
    /// What it is mounted with as a whole.
    pub options: MountOptions,
    /// Whether a daemon that goes on for this one would lose nothing.
    pub loses_nothing: bool,
    /// Who keeps the mounts, if anybody does.
    keeper: Mutex<Option<Keeper>>,
    /// Is called with the number of a mount that has ended.
    ended: Arc<dyn Fn(u64) + Send + Sync>,
    all: Mutex<Known>,
    /// Held while the snapshots change and whoever shows them is told, and while a mount comes:
    /// nobody is missed, and what is about to be mounted is not deleted.
    changing: Mutex<()>,
    /// Held by who commits a branch, which may take long: one after the other does.
    committing: Mutex<()>,
    /// How many do something now that the next daemon has to tell the kernel of, if this one dies.
    going_back: Mutex<usize>,
}

/// While there is one, a daemon that goes on for this one tells the kernel of what may have
/// changed.
pub struct GoingBack<'a>(&'a Mounts);

impl Drop for GoingBack<'_> {
    fn drop(&mut self) {
        let mut n = locked(&self.0.going_back);
        *n -= 1;
        if *n == 0
            && let Some(Err(e)) = self.0.keeper().map(|keeper| keeper.rolls_back(false))
        {
            // Another daemon would tell the kernel more than is needed.
            tracing::warn!("the keeper cannot be told of the end of a rollback: {e}");
        }
    }
}

#[derive(Default)]
struct Known {
    mounts: BTreeMap<u64, Arc<Mount>>,
    /// The largest number that one has had.
    latest: u64,
}

/// A lock whose holder never leaves it half changed.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mounts {
    /// None yet.
    pub fn new(
        volume: Volume,
        path: PathBuf,
        options: MountOptions,
        keeper: Option<Keeper>,
        loses_nothing: bool,
        ended: impl Fn(u64) + Send + Sync + 'static,
    ) -> Self {
        Self {
            volume,
            path,
            options,
            loses_nothing,
            keeper: Mutex::new(keeper),
            ended: Arc::new(ended),
            all: Mutex::default(),
            changing: Mutex::default(),
            committing: Mutex::default(),
            going_back: Mutex::default(),
        }
    }

    /// Who keeps them, if anybody does.
    pub fn keeper(&self) -> Option<Keeper> {
        locked(&self.keeper).clone()
    }

    /// The mounts, oldest first.
    pub fn all(&self) -> Vec<Arc<Mount>> {
        locked(&self.all).mounts.values().cloned().collect()
    }

    /// Those on this directory, or without one all of them, with their numbers.
    pub fn on(&self, dir: Option<&Path>) -> Vec<(u64, Arc<Mount>)> {
        let known = locked(&self.all);
        let of_dir = |mount: &Mount| dir.is_none_or(|dir| mount.plan.dir == dir);
        let all = known.mounts.iter().filter(|(_, mount)| of_dir(mount));
        all.map(|(id, mount)| (*id, Arc::clone(mount))).collect()
    }

    /// The mount of what is there now, if it is mounted.
    pub fn head(&self) -> Option<Arc<Mount>> {
        let mut all = self.all().into_iter();
        all.find(|mount| mount.plan.shows == Shows::Head)
    }

    /// The mount on a directory; without one that of what is there now, or the oldest.
    pub fn meant(&self, dir: Option<&Path>) -> Result<Arc<Mount>> {
        let of_dir = || self.on(dir).into_iter().next().map(|(_, mount)| mount);
        let found = match dir {
            Some(_) => of_dir(),
            None => self.head().or_else(of_dir),
        };
        found.ok_or_else(|| {
            let dir = dir.unwrap_or(&self.path);
            Failure::with("use", dir, "it is not mounted any more", "mount it again")
        })
    }

    /// Mounts once more; the directory is usable when this returns.
    pub fn add(&self, plan: Plan) -> Result<()> {
        let _changing = locked(&self.changing);
        let plan = plan.in_volume(&self.volume);
        self.check(&plan)?;
        let volume = plan.shows.of(&self.volume, &self.path)?;
        let id = {
            let mut known = locked(&self.all);
            known.latest += 1;
            known.latest
        };
        let what = plan.wanted().to_json();
        let held = |connection| Held {
            id,
            what: what.clone(),
            connection,
        };
        let keeper = self.keeper();
        if let Some(keeper) = &keeper {
            keeper.hold(held(None)).map_err(|e| no_keeper(&e))?;
        }
        let served = self.serve(id, &plan, volume, None);
        let kept = served.and_then(|(mut mount, connection)| {
            let loses_nothing = self.loses_nothing && connection.agreed.can_resend();
            let told = match &keeper {
                None => Ok(()),
                Some(keeper) if loses_nothing => keeper.hold(held(Some(connection))),
                Some(keeper) => {
                    locked(&self.keeper).take();
                    tracing::warn!("nobody keeps the mounts: {}", self.why_not());
                    keeper.leave()
                }
            };
            if let Err(e) = told {
                // What nobody is going to serve must not stay.
                unmount::lazily(&plan.dir)?;
                let server = mount
                    .server
                    .get_mut()
                    .unwrap_or_else(PoisonError::into_inner);
                let ended = server.take().map_or(Ok(()), Server::finish);
                ended.map_err(|e| Failure::host("serve", &plan.dir, &e))?;
                return Err(no_keeper(&e));
            }
            Ok(mount)
        });
        let mount = kept.inspect_err(|_| {
            if let Some(keeper) = self.keeper() {
                keeper.gone(id);
            }
        })?;
        tracing::info!(dir = %shown(&plan.dir), options = ?plan.options, "mounted");
        locked(&self.all).mounts.insert(id, Arc::new(mount));
        Ok(())
    }

    fn why_not(&self) -> &'static str {
        match self.loses_nothing {
            true => "the kernel cannot resend requests, which Linux 6.9 and newer do",
            false => "it would lose what was acknowledged, without shared memory",
        }
    }

    fn serve(
        &self,
        id: u64,
        plan: &Plan,
        shown: Volume,
        left: Option<crate::handover::Connection>,
    ) -> Result<(Mount, crate::handover::Connection)> {
        let ended = Arc::clone(&self.ended);
        let serving = Serving {
            shown: shown.clone(),
            volume: &self.path,
            plan,
            id,
            is_kept: self.keeper().is_some(),
        };
        let mut server = Server::start(serving, left, move || ended(id))?;
        let connection = server.connection.take();
        let lost = || Failure::new("the connection to the kernel is lost").code(COULD_NOT_RUN);
        let connection = connection.ok_or_else(lost)?;
        let mount = Mount {
            plan: plan.clone(),
            transport: server.transport,
            statistics: Arc::clone(&server.statistics),
            notifier: server.notifier.clone(),
            shown,
            server: Mutex::new(Some(server)),
        };
        Ok((mount, connection))
    }

    /// Goes on with a mount that a daemon which died has left. One that nobody can go on with is
    /// taken away: that was not usable yet, or shows what is not there any more.
    pub fn go_on(&self, held: Held) -> Result<()> {
        let id = held.id;
        {
            let mut known = locked(&self.all);
            known.latest = known.latest.max(id);
        }
        let odd = || Failure::new("what the keeper has of a mount is not understood");
        let plan = Plan::new(Wanted::from_json(&held.what).ok_or_else(odd)?)?;
        let gone = |why: &str| {
            tracing::error!(dir = %shown(&plan.dir), "a mount cannot be gone on with: {why}");
            if let Some(keeper) = self.keeper() {
                keeper.gone(id);
            }
        };
        let Some(connection) = held.connection else {
            if plan.is_there(&self.path) && place::is_dead(&plan.dir) {
                unmount::lazily(&plan.dir)?;
            }
            gone("the daemon died while it was made");
            return Ok(());
        };
        if !plan.shows.is_there(&self.volume) {
            unmount::lazily(&plan.dir)?;
            gone("there is no such snapshot or branch any more");
            return Ok(());
        }
        let volume = plan.shows.of(&self.volume, &self.path)?;
        let (mount, _) = self.serve(id, &plan, volume, Some(connection))?;
        tracing::info!(dir = %shown(&plan.dir), options = ?plan.options, "mounted");
        locked(&self.all).mounts.insert(id, Arc::new(mount));
        Ok(())
    }

    /// Refuses what cannot be mounted beside the others.
    fn check(&self, plan: &Plan) -> Result<()> {
        let refuse =
            |cause: String, remedy: &str| Err(Failure::with("mount on", &plan.dir, cause, remedy));
        let all = self.all();
        if let Some(word) = plan.options.is_against(&self.options)? {
            let cause = format!("`{word}` is for the whole volume, which is mounted otherwise");
            return refuse(cause, "leave it out, or unmount all of the volume first");
        }
        let same = |mount: &&Arc<Mount>| mount.plan.shows == plan.shows;
        if let Some(other) = all.iter().find(same).filter(|_| !plan.shows.is_fixed()) {
            let dir = shown(&other.plan.dir);
            let (pid, what) = (std::process::id(), plan.shows.text());
            let cause = format!("razorfs (pid {pid}) has {what} mounted on {dir} already");
            let remedy = format!("use it there, or `razorfs umount {dir}` first");
            return refuse(cause, &remedy);
        }
        if all
            .iter()
            .any(|mount| mount.plan.dir == plan.dir && mount.plan.is_there(&self.path))
        {
            let remedy = "unmount it first, or use another directory";
            return refuse("the volume is mounted there already".into(), remedy);
        }
        if !plan.options.read_only
            && let Some(why) = self.volume.info().read_only
        {
            let cause = format!("the volume takes no writes: {why}");
            return refuse(cause, "mount it with `-o ro`, or unmount all of it first");
        }
        let is_kept = self.keeper().is_some();
        if is_kept && plan.options.transport == TransportChoice::Uring {
            let cause = "`transport=uring` is for volumes without a keeper, and this one has one";
            let remedy = "leave it out, or unmount all of the volume and add `nokeeper`";
            return refuse(cause.into(), remedy);
        }
        Ok(())
    }

    /// A mount has ended. It is known no more; an error says why it was given up.
    pub fn ended(&self, id: u64) -> std::io::Result<()> {
        let mount = locked(&self.all).mounts.remove(&id);
        let finished = mount.as_ref().map_or(Ok(()), |mount| mount.finish());
        if let Some(mount) = mount {
            tracing::info!(dir = %shown(&mount.plan.dir), "unmounted");
        }
        if let Some(keeper) = self.keeper() {
            keeper.gone(id);
        }
        memory::give_back();
        finished
    }

    /// Does something to the snapshots, with nobody else doing so and no mount coming meanwhile.
    pub fn changing<T>(&self, change: impl FnOnce() -> T) -> T {
        let _changing = locked(&self.changing);
        change()
    }

    /// The directory on which a snapshot or a branch is mounted, so that it cannot be deleted.
    pub fn dir_of(&self, shows: &Shows) -> Option<PathBuf> {
        let mut all = self.all().into_iter();
        let mount = all.find(|mount| mount.plan.shows == *shows)?;
        Some(mount.plan.dir.clone())
    }

    /// Has what is shown go on from elsewhere, and tells the kernel of it. If this process dies in
    /// between, the next does.
    pub fn roll_back(
        &self,
        shows: &Shows,
        to: &str,
        back: impl FnOnce() -> Result<Value>,
    ) -> Result<Value> {
        let _going = self.goes_back()?;
        let done = back()?;
        // Without one nothing was changed.
        if let Some(safety) = done.get("safety").and_then(Value::as_str) {
            self.goes_on_from(shows, to, safety);
        }
        Ok(done)
    }

    /// The same by what may take long, and keeps nobody else waiting: `work` calls what it is given
    /// with the name of the snapshot of before as soon as the change can be seen.
    pub fn commit(
        &self,
        shows: &Shows,
        from: &str,
        work: impl FnOnce(&mut dyn FnMut(&str)) -> Result<Value>,
    ) -> Result<Value> {
        let _one = locked(&self.committing);
        let _going = self.goes_back()?;
        work(&mut |safety| self.changing(|| self.goes_on_from(shows, from, safety)))
    }

    /// What is shown may become another until the answer is dropped. If this process dies in
    /// between, the next tells the kernel.
    pub fn goes_back(&self) -> Result<GoingBack<'_>> {
        let mut n = locked(&self.going_back);
        if *n == 0
            && let Some(keeper) = self.keeper()
        {
            keeper.rolls_back(true).map_err(|e| no_keeper(&e))?;
        }
        *n += 1;
        Ok(GoingBack(self))
    }

    fn goes_on_from(&self, shows: &Shows, from: &str, safety: &str) {
        tracing::info!(of = shows.text(), from, safety, "it goes on from there");
        self.rolled_back(shows, safety);
        self.snapshot_changed(safety);
    }

    /// A daemon that has died may have gone back, or received a stream, without telling the kernel.
    /// Then it was by the newest rollback of some branch, or the newest snapshot was received; if
    /// not, the kernel forgets more than it would have to.
    pub fn tell_of_newest_rollback(&self) {
        tracing::warn!("a daemon may have died in a rollback");
        let snapshots = self.volume.snapshots();
        let of_head = |s: &&Snapshot| s.branch == 0;
        if let Some(newest) = snapshots.iter().rev().find(of_head) {
            self.is_another(&Shows::Head, self.volume.before_snapshot(newest));
            self.snapshot_changed(&newest.name);
        }
        let before = [
            BEFORE_ROLLBACK,
            BEFORE_COMMIT,
            BEFORE_RECEIVE,
            BEFORE_RESTORE,
        ];
        let is_safety = |s: &&Snapshot| before.iter().any(|before| s.name.starts_with(before));
        // Of each branch: one may be committed to while another goes back.
        let newest: BTreeMap<u32, &Snapshot> = snapshots
            .iter()
            .filter(is_safety)
            .map(|s| (s.branch, s))
            .collect();
        let branches = self.volume.branches();
        for (branch, safety) in newest {
            let mut of = branches.iter().filter(|b| b.id == branch);
            let shows = match (branch, of.next()) {
                (0, _) => Shows::Head,
                (_, Some(branch)) => Shows::Branch(branch.name.clone()),
                // It has gone, and nobody shows it.
                (_, None) => continue,
            };
            self.rolled_back(&shows, &safety.name);
            self.snapshot_changed(&safety.name);
        }
        if let Some(Err(e)) = self.keeper().map(|keeper| keeper.rolls_back(false)) {
            tracing::warn!("the keeper cannot be told of the end of a rollback: {e}");
        }
    }

    /// What is shown is another state than at `safety` from now on.
    fn rolled_back(&self, shows: &Shows, safety: &str) {
        self.is_another(shows, self.volume.at_snapshot(safety));
    }

    /// The same, by what was before.
    pub fn is_another(&self, shows: &Shows, before: razorfs::Result<Volume>) {
        let mut all = self.all().into_iter();
        let Some(mount) = all.find(|mount| mount.plan.shows == *shows) else {
            return;
        };
        let told = before.and_then(|before| forget_stale(&mount.shown, &before, &mount.notifier));
        if let Err(e) = told {
            tracing::error!(
                volume = %shown(&self.path),
                error = %e,
                "the kernel may still show what was before; unmount and mount again"
            );
        }
    }

    /// The mount that shows this, if there is one. One that is just being made is waited for.
    fn showing(&self, shows: &Shows) -> Option<Arc<Mount>> {
        let find = || {
            self.all()
                .into_iter()
                .find(|mount| mount.plan.shows == *shows)
        };
        find().or_else(|| self.changing(find))
    }

    /// Somebody has changed what is shown without its mount.
    pub fn changed(&self, shows: &Shows, stale: &Stale) {
        if let Some(mount) = self.showing(shows) {
            forget(stale, &mount.notifier);
        }
    }

    /// Whether a program has a file open in the mount that shows this. The names of the file have
    /// been forgotten: what else holds it lets go soon.
    pub fn has_open(&self, shows: &Shows, ino: Ino) -> bool {
        let Some(mount) = self.showing(shows) else {
            return false;
        };
        // An error says that it is unmounted meanwhile.
        let holds = || mount.notifier.holds(ino).unwrap_or(false);
        (0..HELD).all(|n| {
            if n > 0 {
                std::thread::sleep(LETTING_GO);
            }
            holds()
        })
    }

    /// Brings what the kernel holds back of what is shown. The mount is in use meanwhile.
    pub fn hand_over(&self, shows: &Shows) -> Result<()> {
        match self.showing(shows) {
            Some(mount) if mount.plan.is_there(&self.path) => program::flush(&mount.plan.dir),
            // Nobody writes.
            _ => Ok(()),
        }
    }

    /// A snapshot of this name has been taken or deleted.
    pub fn snapshot_changed(&self, name: &str) {
        tracing::info!(name, "a snapshot was taken or deleted");
        for mount in self.all() {
            forget_snapshot(name, &mount.notifier);
        }
    }

    /// What `info` shows of all of them.
    pub fn document(&self) -> Value {
        self.all().iter().map(|mount| mount.document()).collect()
    }
}

fn no_keeper(e: &std::io::Error) -> Failure {
    Failure::new(format!("cannot talk to the keeper: {e}")).code(COULD_NOT_RUN)
}

#[cfg(test)]
#[path = "mounts_tests.rs"]
mod tests;
