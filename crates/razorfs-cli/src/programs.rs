//! Programs that use the volume beside its mounts ([`razorfs_client`]).

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use razorfs::{Asker, Ino, Stale, Volume};
use razorfs_client::{Kind, Moving, Others, Refusal};
use serde_json::json;

use crate::failure::Failure;
use crate::mounts::Mounts;
use crate::points;
use crate::shows::Shows;
use crate::socket;

/// How long the rest of a message may take: whoever is slower holds memory for nothing.
const REST: Duration = Duration::from_secs(30);

/// A program that uses the volume.
pub struct Program {
    /// The volume as it is shown.
    pub volume: Volume,
    /// What that is.
    pub shows: Shows,
    /// Who asks.
    pub who: Asker,
    /// The mounts beside.
    pub mounts: Arc<Mounts>,
    /// Held while one of them is in use for a moment.
    pub in_use: Arc<Mutex<()>>,
}

impl Program {
    /// Serves it until it leaves or dies.
    pub fn serve(self, stream: &mut UnixStream) {
        let greeted = socket::answer(stream, &Ok(json!({})))
            .and_then(|()| stream.set_read_timeout(Some(REST)))
            // One that is stopped, or looked at in a debugger, keeps nobody waiting but itself.
            .and_then(|()| stream.set_write_timeout(None));
        let beside = Beside {
            mounts: &self.mounts,
            shows: &self.shows,
            in_use: &self.in_use,
        };
        // The journal says who it was.
        let serve = || razorfs_client::serve(&self.volume, stream, &beside);
        let pid = self.who.pid;
        if let Err(e) = greeted.and_then(|()| self.who.asks(serve)) {
            tracing::info!(pid, "a program that used the volume is gone: {e}");
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let why = "a request of a program ended with a panic";
            self.mounts.volume.refuse_writes(why);
        }
    }
}

/// The mount that shows the same, if there is one, and who goes by the snapshots and branches.
struct Beside<'a> {
    mounts: &'a Mounts,
    shows: &'a Shows,
    in_use: &'a Mutex<()>,
}

impl Others for Beside<'_> {
    fn are_there(&self) -> bool {
        true
    }

    fn forget(&self, stale: &Stale) {
        self.mounts.changed(self.shows, stale);
    }

    fn have_open(&self, ino: Ino) -> bool {
        self.mounts.has_open(self.shows, ino)
    }

    fn hand_over(&self) -> Result<(), Refusal> {
        let _held = self.in_use.lock();
        self.mounts.hand_over(self.shows).map_err(refusal)
    }

    fn moving(
        &self,
        what: Moving<'_>,
        work: &mut dyn FnMut() -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let (shows, word) = match what.kind {
            Kind::Snapshot => (Shows::Snapshot(what.name.to_owned()), "snapshot"),
            Kind::Branch => (Shows::Branch(what.name.to_owned()), "branch"),
        };
        self.mounts.changing(|| {
            if what.goes
                && let Some(dir) = self.mounts.dir_of(&shows)
            {
                let failure = points::is_mounted(&self.mounts.path, word, what.name, &dir);
                return Err(Refusal {
                    errno: libc::EBUSY,
                    text: failure.message,
                });
            }
            work()?;
            if what.kind == Kind::Snapshot {
                self.mounts.snapshot_changed(what.name);
            }
            Ok(())
        })
    }
}

fn refusal(failure: Failure) -> Refusal {
    Refusal {
        errno: libc::EIO,
        text: failure.message,
    }
}
