//! Single bits of a larger volume. To look at all of it after each would take days, so each look is
//! after one bit in each of many packs: none of them can hide another, and each must be told by
//! itself. A bit that is elsewhere, where all depends on it, has a look of its own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use razorfs::{Durability, FileKind};
use razorfs_disk::{Dir, Name};

use crate::attempts::{Outcome, each};
use crate::driver::{Failure, Runner};
use crate::engine::{EngineMachine, Setup};
use crate::flips::{Damage, Victim, try_one};
use crate::names::{COUNT, ODD};
use crate::op::{At, Data, Op, Ref};
use crate::panics::watch;
use crate::rng::{Rng, mix};
use crate::workload::Workload;

/// Operations of a workload before the volume is filled, so that it has records of all kinds.
const OPS: usize = 60;
/// Bytes that are appended at a time.
const PIECE: u32 = 280_000;

/// A closed volume whose files have at least `bytes` in all.
pub fn large(seed: u64, bytes: u64) -> Result<Victim, Failure> {
    let mut setup = Setup::of(seed);
    setup.durability = Durability::Async;
    (setup.limit, setup.parity, setup.journal_copies) = (None, false, 1);
    (setup.snapshots, setup.branches) = (false, false);
    setup.geometry.pack_bytes = 256 << 10;
    setup.geometry.memtable_bytes = 1 << 20;
    setup.geometry.checkpoint_journal = 4 << 20;
    let mut runner = Runner::start(EngineMachine::new(setup.clone(), None))?;
    let mut workload = Workload::small(mix(seed, 5));
    for _ in 0..OPS {
        let op = workload.next(runner.model());
        runner.run(&op)?;
    }
    let mut rng = Rng::new(mix(seed, 9));
    while runner
        .machine()
        .disk()
        .files()
        .iter()
        .map(|f| f.1)
        .sum::<u64>()
        < bytes
    {
        fill(&mut runner, &mut rng)?;
    }
    runner.run(&Op::Reopen)?;
    let mut model = runner.model().clone();
    model.close_all();
    Ok(Victim {
        image: runner.into_machine().disk().image(),
        setup,
        closed: true,
        model,
        before: Vec::new(),
        older: Vec::new(),
    })
}

/// Appends to one file and writes over a part of another, which leaves a dead frame.
fn fill(runner: &mut Runner<EngineMachine>, rng: &mut Rng) -> Result<(), Failure> {
    let mut file = || {
        let name = rng.range(u64::from(ODD)..u64::from(COUNT)) as u16;
        let data = Data {
            seed: rng.next() as u32,
            len: PIECE,
        };
        (name, data)
    };
    let (appended, data) = file();
    let who = |name| Ref::Path(vec![name]);
    runner.run(&Op::Create {
        at: At {
            dir: Ref::Path(Vec::new()),
            name: appended,
        },
        kind: FileKind::Regular,
        mode: 0o644,
        uid: 0,
        gid: 0,
        target: 0,
    })?;
    runner.run(&Op::Append {
        who: who(appended),
        data,
    })?;
    let (over, data) = file();
    runner.run(&Op::Write {
        who: who(over),
        offset: u64::from(data.seed % PIECE),
        data: Data {
            len: data.len / 8,
            ..data
        },
    })
}

/// `count` bits, each as likely as any other, by the looks that they are tried in.
#[must_use]
pub fn looks(victim: &Victim, count: u64, seed: u64) -> Vec<Vec<Damage>> {
    let mut rng = Rng::new(mix(seed, 10));
    let total = victim.image.total_len();
    let mut packs: BTreeMap<Name, Vec<Damage>> = BTreeMap::new();
    let mut looks = Vec::new();
    for _ in 0..count {
        let mut at = rng.range(0..total);
        let bit = rng.range(0..8) as u8;
        for (name, len) in victim.image.files() {
            if at >= len {
                at -= len;
                continue;
            }
            let damage = Damage::Bit(name.clone(), at, bit);
            match name.dir {
                Dir::Pack => packs.entry(name.clone()).or_default().push(damage),
                _ => looks.push(vec![damage]),
            }
            break;
        }
    }
    loop {
        let look: Vec<_> = packs.values_mut().filter_map(Vec::pop).collect();
        if look.is_empty() {
            return looks;
        }
        looks.push(look);
    }
}

/// Tries them with several threads. `tick` sees how many bits were tried.
pub fn run(
    victim: &Victim,
    looks: &[Vec<Damage>],
    jobs: usize,
    tick: impl Fn(u64) + Sync,
) -> Outcome {
    let done = AtomicU64::new(0);
    let unharmed = victim.findings(&victim.image);
    each(looks, jobs, |_, look, out| {
        match look.as_slice() {
            [damage] => try_one(victim, damage, &unharmed, out),
            look => try_together(victim, look, out),
        }
        let now = look.len() as u64;
        tick(done.fetch_add(now, Ordering::Relaxed) + now);
    })
}

/// One bit in each of several packs: what is read is right or refused, and each pack is told.
fn try_together(victim: &Victim, look: &[Damage], out: &mut Outcome) {
    let mut image = victim.image.clone();
    for damage in look {
        damage.apply(victim, &mut image);
    }
    out.tried += look.len() as u64;
    match watch(|| victim.examine(&image, false)).unwrap_or_else(Err) {
        Ok(what) => out.marks.add(what, look.len() as u64),
        Err(what) => out.failures.push(format!("{look:?}: {what}")),
    }
    match watch(|| victim.findings(&image)) {
        Ok(findings) => {
            for damage in look {
                if damage.is_in(&findings) {
                    out.marks.hit("verify told of it");
                } else {
                    let missed = format!("{damage:?}: verify does not tell");
                    out.failures.push(missed);
                }
            }
        }
        Err(panic) => out.failures.push(format!("{look:?}: verify: {panic}")),
    }
}
