//! All that a simulated disk is.

use std::collections::BTreeMap;

use rustix::io::Errno;

use super::cut::Choose;
use super::fault::{Faults, power_off, take};
use super::file::SimFileState;
use super::names::{FileId, Names};
use crate::{Dir, DiskError, DiskOp, Name, Result};

/// What a disk without a limit says it holds.
pub(super) const UNLIMITED: u64 = 1 << 44;

/// How many calls there were since the disk was made.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counts {
    /// Calls that change something or make it durable, failed ones included.
    pub mutations: u64,
    /// [`crate::File::write_at`].
    pub writes: u64,
    /// Bytes given to [`crate::File::write_at`].
    pub bytes_written: u64,
    /// [`crate::File::sync_data`].
    pub syncs: u64,
    /// [`crate::Disk::sync_dir`].
    pub dir_syncs: u64,
    /// [`crate::File::read_at`].
    pub reads: u64,
    /// Bytes read by [`crate::File::read_at`].
    pub bytes_read: u64,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) off: bool,
    /// How often the disk was restored: what was opened before is of no use.
    pub(super) life: u64,
    pub(super) cut_at: Option<u64>,
    /// The directories there are, with whether each is durable.
    pub(super) dirs: BTreeMap<Dir, bool>,
    pub(super) names: Names,
    pub(super) files: Vec<SimFileState>,
    pub(super) counts: Counts,
    pub(super) faults: Faults,
    pub(super) capacity: Option<u64>,
    pub(super) writer: bool,
    pub(super) readers: usize,
    pub(super) trace: Option<Vec<String>>,
}

/// Whether a call goes through, or is the one in which the power goes off.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Begun {
    Going,
    Cut,
}

impl Begun {
    /// The answer of a call that did, or left pending, what it should.
    pub(super) fn end(self, op: DiskOp, path: &dyn ToString) -> Result<()> {
        match self {
            Self::Going => Ok(()),
            Self::Cut => Err(DiskError::new(op, path.to_string(), power_off())),
        }
    }
}

pub(super) fn fail<T>(op: DiskOp, name: &Name, errno: Errno) -> Result<T> {
    Err(DiskError::on(op, name, errno.into()))
}

impl State {
    /// For calls that change nothing.
    pub(super) fn powered(&self, op: DiskOp, path: &dyn ToString) -> Result<()> {
        match self.off {
            false => Ok(()),
            true => Err(DiskError::new(op, path.to_string(), power_off())),
        }
    }

    /// Counts a mutating call.
    pub(super) fn begin(
        &mut self,
        op: DiskOp,
        path: &dyn ToString,
        what: impl FnOnce() -> String,
    ) -> Result<Begun> {
        self.powered(op, path)?;
        let call = self.counts.mutations;
        self.counts.mutations += 1;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{call} {op:?} {} {}", path.to_string(), what()));
        }
        if self.cut_at.is_some_and(|at| call >= at) {
            self.turn_off();
            return Ok(Begun::Cut);
        }
        match take(&mut self.faults.calls, call) {
            Some(errno) => Err(DiskError::new(op, path.to_string(), errno.into())),
            None => Ok(Begun::Going),
        }
    }

    pub(super) fn turn_off(&mut self) {
        self.off = true;
        self.writer = false;
        self.readers = 0;
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "files are never taken out of the table"
    )]
    pub(super) fn file(&mut self, file: FileId) -> &mut SimFileState {
        &mut self.files[file]
    }

    pub(super) fn used(&self) -> u64 {
        let counted = self.files.iter().filter(|f| f.counted);
        counted.map(|f| f.live().allocated()).sum()
    }

    pub(super) fn free(&self) -> u64 {
        self.capacity
            .unwrap_or(UNLIMITED)
            .saturating_sub(self.used())
    }

    pub(super) fn add_file(&mut self, file: SimFileState) -> FileId {
        self.files.push(file);
        self.files.len() - 1
    }

    pub(super) fn require_dir(&self, op: DiskOp, name: &Name) -> Result<()> {
        match self.dirs.contains_key(&name.dir) {
            true => Ok(()),
            false => fail(op, name, Errno::NOENT),
        }
    }

    /// Frees the bytes of files that nothing reaches any more.
    pub(super) fn forget_unreachable(&mut self) {
        let names = &self.names;
        let gone = |(id, f): &(FileId, &mut SimFileState)| {
            !f.counted && !f.forgotten && f.handles == 0 && !names.reaches(*id)
        };
        let files = self.files.iter_mut().enumerate();
        files.filter(gone).for_each(|(_, f)| f.forget());
    }

    pub(super) fn after_cut(&self, choose: &mut dyn Choose) -> State {
        let mut dirs = BTreeMap::new();
        for (dir, durable) in &self.dirs {
            if *durable || choose.choose(2) == 1 {
                dirs.insert(*dir, true);
            }
        }
        let mut files = Vec::new();
        let mut names = self.names.cut(choose);
        names.retain(|name, _| dirs.contains_key(&name.dir));
        for id in names.values_mut() {
            if let Some(file) = self.files.get(*id) {
                files.push(SimFileState::durable(file.cut(choose)));
                *id = files.len() - 1;
            }
        }
        State {
            dirs,
            names: Names::durable(names),
            files,
            capacity: self.capacity,
            ..State::default()
        }
    }
}
