//! The engine on the simulated disk.

mod calls;

use std::sync::Arc;

use razorfs::redo::RedoMemory;
use razorfs::{CreateOptions, Durability, Error, Options, Result, Volume};
use razorfs_disk::sim::{Image, SimDisk, SimEnv, SimRng};
use razorfs_disk::{Disk, Env as _, Ram};
use razorfs_format::BatchSeq;

use crate::logged;
use crate::model::Model;
use crate::op::Fault;
use crate::outcomes::{Known, Outcomes};
use crate::rng::{Rng, mix};
use crate::rotten::newest;
pub use crate::setup::Setup;
use crate::subject::Machine;
use crate::twins::{self, Wound};

/// Checks the volume on a disk without the engine; tells what it finds, if anything.
pub type Verify = fn(&Arc<dyn Disk>) -> std::result::Result<(), String>;

/// A simulated disk with a volume on it.
pub struct EngineMachine {
    disk: SimDisk,
    env: SimEnv,
    setup: Setup,
    verify: Option<Verify>,
    calls_before: u64,
    /// What the next cut leaves; a seed says it for those after it.
    outcomes: Option<Outcomes>,
    /// What needs no look, and the sum of what was asked for last.
    known: Option<Known>,
    looked_at: u128,
    /// The disk as it was when its power went, for the other outcomes of that cut.
    dead: Option<(SimDisk, Outcomes)>,
    /// What was done to a copy of the journal, where there are two.
    wound: Wound,
    /// Nothing is done to copies of the journal.
    alone: bool,
    /// What outlives the process, where processes die.
    redo: Option<Arc<Ram>>,
    /// The volume was not made here: it may have been damaged, and repaired, which its log does not
    /// tell.
    is_found: bool,
}

impl EngineMachine {
    /// A new disk.
    #[must_use]
    pub fn new(setup: Setup, verify: Option<Verify>) -> Self {
        Self {
            disk: SimDisk::new(),
            env: SimEnv::new(mix(setup.seed, 4)),
            setup,
            verify,
            calls_before: 0,
            outcomes: None,
            known: None,
            looked_at: 0,
            dead: None,
            wound: Wound::default(),
            alone: false,
            redo: None,
            is_found: false,
        }
    }

    /// Processes die, of which something is left.
    #[must_use]
    pub fn with_deaths(mut self) -> Self {
        self.redo = Some(self.new_memory());
        self
    }

    fn new_memory(&self) -> Arc<Ram> {
        // Of some runs the batches do not fit at once.
        let is_small = mix(self.setup.seed, 8).is_multiple_of(3);
        let bytes = if is_small { 640 << 10 } else { 5 << 20 };
        Arc::new(Ram::new(bytes))
    }

    /// All of these outcomes of the first cut are recovered from.
    #[must_use]
    pub fn with_outcomes(mut self, outcomes: Outcomes) -> Self {
        self.outcomes = Some(outcomes);
        self
    }

    /// What is known is not recovered from again.
    #[must_use]
    pub fn with_known(mut self, known: Known) -> Self {
        self.known = Some(known);
        self
    }

    /// A disk with these files.
    #[must_use]
    pub fn with_image(setup: Setup, image: &Image) -> Self {
        let mut machine = Self::new(setup, None);
        machine.disk = SimDisk::from_image(image);
        machine.is_found = true;
        machine
    }

    /// The disk.
    #[must_use]
    pub const fn disk(&self) -> &SimDisk {
        &self.disk
    }

    /// No file of the journal is destroyed: whoever runs it has other plans.
    #[must_use]
    pub const fn left_alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// The host's cache is gone, and all that it had was written: what the disk did with it shows.
    pub fn lose_cache(&mut self) {
        self.calls_before += self.disk.op_count();
        self.disk = self.disk.power_cut_with(|n| n - 1);
    }

    /// One file of a journal that has two copies is destroyed.
    fn destroy(&mut self, seed: u64) {
        let mut rng = Rng::new(mix(seed, 8));
        let may = self.setup.journal_copies > 1 && self.dead.is_none() && !self.alone;
        if may && rng.chance(60) {
            self.calls_before += self.disk.op_count();
            self.wound.inflict(&self.disk, &mut rng);
        }
    }

    fn options(&self) -> Result<Options> {
        let redo = match &self.redo {
            Some(ram) => {
                let redo = RedoMemory::new(Arc::clone(ram))?;
                // That of the disk, by which the process dies here.
                redo.overlook_failure();
                Some(Arc::new(redo))
            }
            None => None,
        };
        Ok(Options {
            redo,
            durability: self.setup.durability,
            compression: Some(self.setup.compression),
            geometry: self.setup.geometry,
            cache_bytes: self.setup.cache_bytes,
            threads: false,
            ..Options::default()
        })
    }
}

/// An open volume of the engine.
pub struct EngineFs {
    volume: Volume,
}

impl EngineFs {
    /// The last batch that was replayed when the volume was opened on a disk with these files.
    #[must_use]
    pub fn last_replayed(&self, image: &Image) -> BatchSeq {
        let start = newest(image).map_or(0, |s| s.journal.batch.0);
        BatchSeq((start + self.volume.recovery_report().batches).saturating_sub(1))
    }
}

impl Machine for EngineMachine {
    type Fs = EngineFs;

    fn format(&mut self) -> Result<()> {
        let options = CreateOptions {
            compression: self.setup.compression,
            geometry: self.setup.geometry,
            journal_copies: self.setup.journal_copies,
            limit: self.setup.limit,
            parity: self.setup.parity,
            ..CreateOptions::default()
        };
        Volume::create_on(
            Arc::new(self.disk.clone()),
            Arc::new(self.env.clone()),
            &options,
        )
    }

    fn open(&mut self) -> Result<EngineFs> {
        let (disk, env) = (Arc::new(self.disk.clone()), Arc::new(self.env.clone()));
        let volume = Volume::open_on(disk, env, self.options()?)?;
        if self.setup.journal_copies > 1 {
            self.wound.heal();
            match twins::difference(&self.disk) {
                Some(what) if !self.disk.is_off() => return Err(Error::Failed(what.into())),
                _ => {}
            }
        }
        // What is done again after a death is durable a little later.
        if self.redo.is_none()
            && !self.is_found
            && let Some(wrong) = logged::check(&volume)
        {
            return Err(Error::Failed(wrong.into()));
        }
        Ok(EngineFs { volume })
    }

    fn arm(&mut self, calls: u64) {
        if self.setup.journal_copies > 1 && mix(self.setup.seed, calls).is_multiple_of(2) {
            self.wound.remember(&self.disk);
        }
        self.disk.cut_after(self.disk.op_count() + calls);
    }

    fn disarm(&mut self) {
        self.disk.cut_after(u64::MAX);
    }

    fn is_dead(&self) -> bool {
        matches!(self.disk.space(), Err(e) if SimDisk::is_power_off(&e))
    }

    fn revive(&mut self, seed: u64) {
        self.calls_before += self.disk.op_count();
        if self.redo.is_some() {
            self.redo = Some(self.new_memory());
        }
        self.disk = match self.outcomes.take() {
            Some(outcomes) => {
                let after = outcomes.cut(&self.disk);
                self.dead = Some((self.disk.clone(), outcomes));
                after
            }
            None => self.disk.power_cut(&mut SimRng::new(seed)),
        };
        self.destroy(seed);
    }

    fn rest(&mut self) {
        self.destroy(mix(self.setup.seed, self.disk.op_count()));
    }

    fn die(&mut self, seed: u64) -> bool {
        let dies = self.redo.is_some() && !seed.is_multiple_of(6);
        if dies {
            self.calls_before += self.disk.op_count();
            self.disk = self.disk.power_cut_with(|versions| versions - 1);
        } else {
            self.revive(seed);
        }
        dies
    }

    fn next_outcome(&mut self) -> bool {
        match &self.dead {
            Some((dead, outcomes)) if outcomes.are_left() => {
                self.disk = outcomes.cut(dead);
                true
            }
            _ => false,
        }
    }

    fn known(&mut self) -> Option<Arc<Model>> {
        let known = self.known.as_ref()?;
        self.looked_at = self.disk.image().sum();
        known.found(self.looked_at)
    }

    fn learn(&mut self, found: &Model) {
        if let Some(known) = &self.known {
            known.learn(self.looked_at, found);
        }
    }

    fn fault(&mut self, fault: Fault) {
        let counts = self.disk.counts();
        let mut rng = Rng::new(mix(self.setup.seed, counts.mutations));
        // A write that fails ends with a sector: none is ever torn inside, and what the journal
        // writes begins with one.
        let part = |rng: &mut Rng| rng.range(0..9000) / 512 * 512;
        match fault {
            Fault::SyncFails(n) if rng.chance(50) => self.disk.fail_sync_at(counts.syncs + n),
            Fault::SyncFails(n) => self.disk.fail_sync_partly_at(counts.syncs + n, rng.next()),
            Fault::Full(n) => self.disk.enospc_at(counts.mutations + n),
            Fault::ShortWrite(n) if rng.chance(50) => {
                self.disk.short_write_at(counts.writes + n, part(&mut rng));
            }
            Fault::ShortWrite(n) => {
                self.disk.fail_write_at(counts.writes + n, part(&mut rng));
            }
            Fault::Capacity(more) => {
                let pages = |len: u64| len.next_multiple_of(4096);
                let used: u64 = self.disk.files().iter().map(|(_, len)| pages(*len)).sum();
                self.disk.set_capacity(Some(used + more));
            }
            Fault::Lie(n) => self.disk.lie_at_sync(counts.syncs + n),
            Fault::LieOfNames(n) => self.disk.lie_at_dir_sync(counts.dir_syncs + n),
            Fault::Lose(n) => self.disk.lose_write_at(counts.writes + n),
            Fault::Misdirect(n) => {
                let files = self.disk.files();
                if let Some((name, len)) = rng.pick(&files) {
                    let at = rng.range(0..len.max(&1).to_owned()) / 512 * 512;
                    self.disk.misdirect_write_at(counts.writes + n, name, at);
                }
            }
            Fault::None => {
                self.disk.clear_faults();
                self.disk.set_capacity(None);
            }
        }
    }

    fn calls(&self) -> u64 {
        self.calls_before + self.disk.op_count()
    }

    fn verify(&self) -> std::result::Result<(), String> {
        match self.verify {
            Some(verify) => {
                let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
                verify(&disk)
            }
            None => Ok(()),
        }
    }

    fn limit(&self) -> Option<u64> {
        self.setup.limit
    }

    fn has_snapshots(&self) -> bool {
        self.setup.snapshots
    }

    fn has_branches(&self) -> bool {
        self.setup.branches
    }

    fn has_merges(&self) -> bool {
        self.setup.merges
    }

    fn has_streams(&self) -> bool {
        self.setup.streams
    }

    fn has_moments(&self) -> bool {
        self.setup.moments
    }

    fn now(&self) -> Option<u64> {
        // A look at the clock moves it.
        self.setup.moments.then(|| self.env.now())
    }

    fn mirror(&self) -> Option<Self> {
        let setup = Setup {
            limit: None,
            seed: mix(self.setup.seed, 18),
            ..self.setup.clone()
        };
        let mut machine = Self::new(setup, self.verify);
        // What its log tells of a stream is no names that follow from each other.
        machine.is_found = true;
        Some(machine)
    }

    fn is_synchronous(&self) -> bool {
        self.setup.durability == Durability::Sync
    }

    fn is_persistent(&self) -> bool {
        !self.disk.files().is_empty()
    }
}

/// Whether an error says that bytes are damaged or the disk failed: what a reader may be told
/// instead of the bytes.
#[must_use]
pub fn is_refusal(error: &Error) -> bool {
    matches!(
        error,
        Error::Corrupt(_)
            | Error::Disk(_)
            | Error::Failed(_)
            | Error::ReadOnly(_)
            | Error::NotAVolume(_)
    )
}
