//! A scrub: everything that a volume stores is read, object by object, and checked before somebody
//! needs it. What has a twin or parity is healed, what has not is told.
//!
//! It is a machine of small steps, driven by a thread or by whoever has none. It reads without a
//! lock, for what it reads does not change, and looks again under the installer's lock before it
//! writes or tells of anything: an object may have gone, a hole may have been punched. How far it
//! is stands in `SCRUB`, so that it goes on after a crash; what is lost of that is work.

mod look;
#[cfg(test)]
mod scrub_tests;

use std::io::IoSlice;

use crate::sync::Mutex;
use razorfs_disk::{Dir, Disk, OpenHow};
use razorfs_format::VolumeId;
use razorfs_format::layout::FileName;
use razorfs_format::scrub::{FILE_MAX, FINDINGS_MAX, Found, Last, Position, Record, State};

use crate::checkpoint::{Checkpointer, name_of};
use crate::report::{ScrubFinding, ScrubPass, ScrubState, ScrubStatus};
use crate::{Error, Result};

/// How often the position is written down, in nanoseconds.
const SAVE: u64 = 5_000_000_000;
/// How long a step waits at most before it looks whether it is still wanted, in nanoseconds.
const NAP: u64 = 200_000_000;
const SECOND: u128 = 1_000_000_000;

/// What a step did.
pub(crate) enum Stepped {
    /// There is nothing to do.
    Idle,
    /// The next step is due in so many nanoseconds.
    Next(u64),
}

/// The scrub of a volume.
#[derive(Default)]
pub(crate) struct Scrub {
    run: Mutex<Option<Run>>,
}

/// A scrub as it is known since the volume was opened.
struct Run {
    record: Record,
    /// When the next step may begin, on the monotonic clock.
    due: u64,
    saved: u64,
    /// What was done when `began` was, on the monotonic clock: for the rate.
    began: (u64, u64),
}

impl Run {
    fn load(disk: &dyn Disk, vid: VolumeId, now: u64) -> Self {
        let record = read(disk, vid).unwrap_or_default();
        Self {
            due: now,
            saved: now,
            began: (now, record.done),
            record,
        }
    }

    fn found(&mut self, number: u16, object: impl ToString, detail: impl ToString) {
        let (object, detail) = (object.to_string(), detail.to_string());
        tracing::error!(
            number,
            object,
            detail,
            "a scrub found damage that cannot be healed"
        );
        self.record.damaged += 1;
        if self.record.findings.len() < FINDINGS_MAX {
            self.record.findings.push(Found {
                number,
                object,
                detail,
            });
        }
    }
}

/// What stands in `SCRUB`; nothing if that is missing or damaged.
fn read(disk: &dyn Disk, vid: VolumeId) -> Option<Record> {
    let file = disk.open(&name_of(FileName::Scrub), OpenHow::Read).ok()?;
    let len = usize::try_from(file.len().ok()?)
        .ok()
        .filter(|len| *len <= FILE_MAX)?;
    let mut bytes = vec![0; len];
    let got = file.read_at(&mut bytes, 0).ok()?;
    match Record::decode(bytes.get(..got)?, vid) {
        Ok(record) => Some(record),
        Err(e) => {
            tracing::warn!(error = %e, "the next scrub begins at the beginning");
            None
        }
    }
}

impl Checkpointer {
    fn with_scrub<R>(&self, work: impl FnOnce(&mut Run) -> R) -> R {
        let core = &self.core;
        let mut run = self.scrub.run.lock();
        let load = || Run::load(core.disk.as_ref(), core.vid, core.env.monotonic());
        work(run.get_or_insert_with(load))
    }

    /// Begins a scrub, or goes on with one that was paused or interrupted, at `rate` bytes a second
    /// at most; 0: as many as there are. One that is running gets the rate.
    pub fn scrub_start(&self, rate: u64) -> Result<()> {
        self.scrub_set(Some(rate), true)
    }

    /// Goes on with a scrub that was paused; fails if none was.
    pub fn scrub_resume(&self, rate: Option<u64>) -> Result<()> {
        self.scrub_set(rate, false)
    }

    fn scrub_set(&self, rate: Option<u64>, new: bool) -> Result<()> {
        self.core.check_writable()?;
        let now = self.core.env.now();
        self.with_scrub(|run| {
            let record = &mut run.record;
            if record.state == State::Idle {
                if !new {
                    return Err(Error::Invalid("no scrub is paused; start one"));
                }
                *record = Record {
                    started: now,
                    last: record.last,
                    ..Record::default()
                };
            }
            record.state = State::Running;
            record.rate = rate.unwrap_or(record.rate);
            let monotonic = self.core.env.monotonic();
            run.due = monotonic;
            run.began = (monotonic, run.record.done);
            Ok(())
        })?;
        self.scrub_save()
    }

    /// Stops a scrub for a while; answers whether one was running.
    pub fn scrub_pause(&self) -> Result<bool> {
        self.core.check_writable()?;
        let was = self.with_scrub(|run| {
            let was = run.record.state == State::Running;
            if was {
                run.record.state = State::Paused;
            }
            was
        });
        self.scrub_save()?;
        Ok(was)
    }

    /// Writes down how far the scrub is, if there is one.
    pub fn scrub_save(&self) -> Result<()> {
        let core = &self.core;
        // With the installer's, so that nothing is written while the volume is held still.
        let _installer = self.installer.lock();
        let mut run = self.scrub.run.lock();
        let Some(run) = run.as_mut().filter(|run| run.record.started > 0) else {
            return Ok(());
        };
        core.fence.check()?;
        let (tmp, to) = (name_of(FileName::ScrubTmp), name_of(FileName::Scrub));
        match core.disk.remove(&tmp) {
            Err(e) if !e.is_not_found() => return Err(e.into()),
            _ => {}
        }
        let file = core.disk.open(&tmp, OpenHow::CreateNew)?;
        file.write_at(&[IoSlice::new(&run.record.encode(core.vid))], 0)?;
        file.sync_data()?;
        core.disk.rename(&tmp, &to)?;
        core.disk.sync_dir(Dir::Root)?;
        run.saved = core.env.monotonic();
        Ok(())
    }

    /// How far it is.
    pub fn scrub_status(&self) -> ScrubStatus {
        let total = self.scrub_total();
        let now = self.core.env.monotonic();
        self.with_scrub(|run| {
            let record = &run.record;
            let (began, before) = run.began;
            let bytes = u128::from(record.done.saturating_sub(before)) * SECOND;
            let rate = bytes / u128::from(now.saturating_sub(began).max(1));
            let state = match record.state {
                State::Running => ScrubState::Running,
                State::Paused => ScrubState::Paused,
                State::Idle => ScrubState::Idle,
            };
            let found = |found: &Found| ScrubFinding {
                number: found.number,
                object: found.object.clone(),
                detail: found.detail.clone(),
            };
            ScrubStatus {
                state,
                position: look::shown(&record.position),
                done: record.done.min(total),
                total,
                limit: record.rate,
                rate: if record.state == State::Running {
                    u64::try_from(rate).unwrap_or(u64::MAX)
                } else {
                    0
                },
                healed: record.healed,
                damaged: record.damaged,
                findings: record.findings.iter().map(found).collect(),
                started: record.started,
                last: record.last.map(|last| ScrubPass {
                    ended: last.ended,
                    healed: last.healed,
                    damaged: last.damaged,
                }),
            }
        })
    }

    /// One step, if one is due.
    pub fn scrub_step(&self) -> Result<Stepped> {
        let now = self.core.env.monotonic();
        let next = self.with_scrub(|run| match run.record.state {
            State::Running => Some((run.record.position, run.due)),
            State::Paused | State::Idle => None,
        });
        let Some((position, due)) = next else {
            return Ok(Stepped::Idle);
        };
        if due > now {
            return Ok(Stepped::Next((due - now).min(NAP)));
        }
        self.core.check_writable()?;
        let looked = self.look_at(position)?;
        let save = self.with_scrub(|run| {
            for (number, object, detail) in looked.found {
                run.found(number, object, detail);
            }
            let record = &mut run.record;
            record.healed += looked.healed;
            record.done = record.done.saturating_add(looked.bytes);
            match looked.next {
                Some(next) => record.position = next,
                None => {
                    record.state = State::Idle;
                    record.position = Position::default();
                    record.last = Some(Last {
                        ended: self.core.env.now().max(1),
                        healed: record.healed,
                        damaged: record.damaged,
                    });
                    let (healed, damaged) = (record.healed, record.damaged);
                    tracing::info!(healed, damaged, "a scrub came to its end");
                }
            }
            if record.rate > 0 {
                let pause = u128::from(looked.bytes) * SECOND / u128::from(record.rate);
                run.due = now.saturating_add(u64::try_from(pause).unwrap_or(u64::MAX));
            }
            looked.next.is_none() || now.saturating_sub(run.saved) >= SAVE
        });
        if save {
            self.scrub_save()?;
        }
        Ok(Stepped::Next(0))
    }
}
