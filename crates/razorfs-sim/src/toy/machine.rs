//! The disk of the toy, whose power can be cut.

use std::sync::Arc;

use parking_lot::Mutex;
use razorfs::{Ino, Result};

use super::{Bug, ToyFs, ToyMachine};
use crate::model::Model;
use crate::names;
use crate::op::{Fault, Op};
use crate::rng::Rng;
use crate::subject::Machine;

impl Machine for ToyMachine {
    type Fs = ToyFs;

    fn format(&mut self) -> Result<()> {
        Ok(())
    }

    fn open(&mut self) -> Result<ToyFs> {
        let mut disk = self.disk.lock();
        disk.recovering = true;
        disk.call()?;
        disk.call()?;
        disk.recovering = false;
        let mut live = disk.durable.clone();
        live.close_all();
        live.go(None);
        Ok(ToyFs {
            disk: Arc::clone(&self.disk),
            live: Arc::new(Mutex::new(live)),
            place: None,
            of: None,
            left: Mutex::default(),
            held: Mutex::default(),
            bug: self.bug,
        })
    }

    fn arm(&mut self, calls: u64) {
        let mut disk = self.disk.lock();
        disk.cut_at = disk.calls + calls;
    }

    fn disarm(&mut self) {
        self.disk.lock().cut_at = u64::MAX;
    }

    fn is_dead(&self) -> bool {
        self.disk.lock().dead
    }

    fn revive(&mut self, seed: u64) {
        let mut rng = Rng::new(seed);
        let mut disk = self.disk.lock();
        let (kept, bug) = (rng.below(disk.pending.len() + 1), self.bug);
        if bug == Bug::FragileRecovery && disk.recovering {
            disk.durable = Model::default();
        }
        if let Some((op, state)) = kept.checked_sub(1).and_then(|at| disk.pending.get(at)) {
            let (op, mut state) = (op.clone(), state.clone());
            if let (Op::Rename { from, .. }, Bug::TornRename) = (&op, bug) {
                let _ = state.apply(&Op::Unlink(from.clone()), Ino(0), 0);
                if let Some((dir, name, ino)) = op_source(&op, &disk.durable) {
                    state.update(dir, |n| {
                        n.entries.insert(name, ino);
                    });
                }
            }
            if bug == Bug::NotAPrefix && kept >= 2 {
                let skipped = rng.below(kept - 1);
                let mut other = disk.durable.clone();
                for (at, (op, after)) in disk.pending.iter().take(kept).enumerate() {
                    if at != skipped {
                        let _ = other.apply(op, after.highest(), u64::MAX);
                    }
                }
                state = other;
            }
            if bug == Bug::LooseBranches {
                let other = rng.below(disk.pending.len());
                if let Some((_, other)) = disk.pending.get(other) {
                    state.go(None);
                    state.take_others_of(&other.at_home());
                }
            }
            if bug == Bug::LeakedOrphans {
                disk.leaked += state.nodes().filter(|(_, n)| n.nlink == 0).count() as u64;
            }
            disk.durable = state;
        }
        disk.durable.close_all();
        if bug == Bug::ReusedInode {
            let highest = disk.durable.nodes().next_back().map(|n| n.0);
            disk.durable.set_highest(highest.unwrap_or(Ino::ROOT));
        }
        if matches!(bug, Bug::ReusedInode | Bug::ForgottenNumbers) {
            disk.given = disk.durable.highest();
        }
        disk.pending.clear();
        disk.dead = false;
        disk.cut_at = u64::MAX;
        disk.recovering = false;
    }

    fn fault(&mut self, _fault: Fault) {}

    fn calls(&self) -> u64 {
        self.disk.lock().calls
    }

    fn verify(&self) -> std::result::Result<(), String> {
        Ok(())
    }

    fn has_snapshots(&self) -> bool {
        matches!(
            self.bug,
            Bug::None
                | Bug::FleetingSnapshot
                | Bug::UndeadSnapshot
                | Bug::BlindSnapshot
                | Bug::ForgetfulRollback
                | Bug::RollbackReusesInode
        )
    }

    fn has_branches(&self) -> bool {
        matches!(
            self.bug,
            Bug::None
                | Bug::FleetingBranch
                | Bug::UndeadBranch
                | Bug::LooseBranches
                | Bug::LeakyBranch
                | Bug::FleetingMerge
                | Bug::BlindMerge
        )
    }

    fn has_merges(&self) -> bool {
        matches!(self.bug, Bug::None | Bug::FleetingMerge | Bug::BlindMerge)
    }

    fn is_synchronous(&self) -> bool {
        false
    }
}

fn op_source(op: &Op, model: &Model) -> Option<(Ino, names::NameId, Ino)> {
    let Op::Rename { from, .. } = op else {
        return None;
    };
    let dir = model.resolve(&from.dir)?;
    Some((dir, from.name, model.child(dir, from.name)?))
}
