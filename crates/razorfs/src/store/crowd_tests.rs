//! Operations on snapshots and branches while somebody writes more than the journal takes.

use std::sync::Arc;

use razorfs_disk::Env;
use razorfs_disk::sim::{SimDisk, SimEnv};

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::{CreateOptions, Error, Geometry, Ino, NewNode, Options, Result, Volume};

/// A clock that calls somebody in whenever it is looked at.
struct Meddled {
    env: SimEnv,
    meddler: Mutex<Option<Meddler>>,
}

type Meddler = Box<dyn FnMut() -> bool + Send>;

impl Env for Meddled {
    fn now(&self) -> u64 {
        self.env.now()
    }

    fn monotonic(&self) -> u64 {
        // He looks at the clock himself.
        let meddler = self.meddler.lock().take();
        if let Some(mut meddler) = meddler
            && meddler()
        {
            *self.meddler.lock() = Some(meddler);
        }
        self.env.monotonic()
    }

    fn random(&self) -> u64 {
        self.env.random()
    }
}

/// A volume with a branch, in which somebody writes while a batch goes to the journal.
struct Crowded {
    disk: SimDisk,
    env: Arc<Meddled>,
    volume: Volume,
    branch: Volume,
    file: Ino,
}

/// As much as goes to no journal.
const BULK: usize = 200 << 10;

impl Crowded {
    fn new() -> Self {
        let (disk, env) = (SimDisk::new(), SimEnv::new(1));
        let meddler = Mutex::new(None);
        let env = Arc::new(Meddled { env, meddler });
        let create = CreateOptions::from(&Self::options());
        Volume::create_on(Arc::new(disk.clone()), env.clone(), &create).unwrap();
        let volume = Self::open(&disk, env.clone());
        volume.snapshot("start").unwrap();
        volume.create_branch("old").unwrap();
        volume.create_branch("side").unwrap();
        let branch = volume.branch("side").unwrap();
        let node = NewNode::file(0o644);
        let file = branch.create_node(Ino::ROOT, b"bulk", &node).unwrap().ino;
        volume.sync().unwrap();
        Self {
            disk,
            env,
            volume,
            branch,
            file,
        }
    }

    fn options() -> Options {
        Options {
            geometry: Geometry {
                reserve_bytes: 0,
                ..Geometry::tiny()
            },
            compression: Some(crate::Compression::None),
            threads: false,
            ..Options::default()
        }
    }

    fn open(disk: &SimDisk, env: Arc<Meddled>) -> Volume {
        Volume::open_on(Arc::new(disk.clone()), env, Self::options()).unwrap()
    }

    /// The branch writes at `n` of the times at which a batch goes to the journal and others can
    /// write; the last time others fill the host then, if they are to. Answers how often it has.
    fn crowd(&self, n: u64, fills: bool) -> Arc<AtomicU64> {
        let (branch, disk, file) = (self.branch.clone(), self.disk.clone(), self.file);
        let node = NewNode::directory(0o755);
        let name = format!("new-{n}");
        self.volume
            .create_node(Ino::ROOT, name.as_bytes(), &node)
            .unwrap();
        let written = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&written);
        let meddler = move || {
            let store = &branch.inner.store;
            let is_shut = store.gate.try_read().is_none();
            if is_shut
                || store
                    .open
                    .try_lock()
                    .is_none_or(|open| open.dirty_bytes > 0)
            {
                return true;
            }
            let k = count.fetch_add(1, Ordering::Relaxed);
            branch
                .write(file, k * BULK as u64, &vec![k as u8; BULK])
                .unwrap();
            if k + 1 == n && fills {
                disk.set_capacity(Some(used(&disk)));
            }
            k + 1 < n
        };
        *self.env.meddler.lock() = Some(Box::new(meddler));
        written
    }

    fn names(volume: &Volume) -> (Vec<String>, Vec<String>) {
        let snapshots = volume.snapshots().into_iter().map(|s| s.name);
        let branches = volume.branches().into_iter().map(|b| b.name);
        (snapshots.collect(), branches.collect())
    }

    /// What `act` does finds the host full, `n` batches of others having come between: it says so,
    /// it has done nothing then nor later, and the volume goes on.
    fn refuses(n: u64, act: &dyn Fn(&Volume) -> Result<()>) {
        let this = Self::new();
        let before = Self::names(&this.volume);
        let written = this.crowd(n, true);
        let refused = act(&this.volume);
        assert!(matches!(refused, Err(Error::NoSpace)), "{refused:?}");
        assert_eq!(written.load(Ordering::Relaxed), n);
        assert_eq!(Self::names(&this.volume), before);
        this.disk.set_capacity(None);
        this.volume.sync().unwrap();
        assert_eq!(Self::names(&this.volume), before);
        let there = this.disk.after_cut_with(|_| 0);
        let volume = Self::open(&there, this.env.clone());
        assert_eq!(Self::names(&volume), before);
        act(&this.volume).unwrap();
        this.holds(n);
    }

    fn holds(&self, n: u64) {
        let there = self.disk.after_cut_with(|_| 0);
        for volume in [&self.volume, &Self::open(&there, self.env.clone())] {
            let branch = volume.branch("side").unwrap();
            let mut bytes = vec![0; BULK];
            for k in 0..n {
                branch.read(self.file, k * BULK as u64, &mut bytes).unwrap();
                assert!(bytes.iter().all(|byte| *byte == k as u8));
            }
        }
    }
}

fn used(disk: &SimDisk) -> u64 {
    let pages = |len: u64| len.next_multiple_of(4096);
    disk.files().iter().map(|(_, len)| pages(*len)).sum()
}

/// What a branch wrote while the batch before was written came into that of the rollback, which
/// could not be written then: the volume stopped.
#[test]
fn a_rollback_on_a_full_host_is_refused_where_a_branch_writes_meanwhile() {
    for n in [1, 2, 3] {
        Crowded::refuses(n, &|volume| volume.rollback("start").map(drop));
    }
}

/// They were said to have failed, could be seen, and were on the disk once the host had room.
#[test]
fn what_the_host_has_no_room_for_makes_no_snapshot_and_no_branch_and_ends_none() {
    for n in [1, 3] {
        Crowded::refuses(n, &|volume| volume.snapshot("new").map(drop));
        Crowded::refuses(n, &|volume| volume.create_branch("new").map(drop));
        Crowded::refuses(n, &|volume| volume.delete_snapshot("start"));
        Crowded::refuses(n, &|volume| volume.delete_branch("old"));
    }
}

/// Whoever writes as fast as the disk does not keep others from making snapshots.
#[test]
fn a_snapshot_comes_to_an_end_where_somebody_writes_all_the_time() {
    for n in [1, 3, 6] {
        let this = Crowded::new();
        let written = this.crowd(n, false);
        this.volume.rollback("start").unwrap();
        *this.env.meddler.lock() = None;
        let written = written.load(Ordering::Relaxed);
        assert_eq!(written, n.min(3));
        this.holds(written);
        this.volume.close().unwrap();
    }
}
