//! From a run that fails to the few operations that matter: operations are taken out in ever
//! smaller groups as long as the run still fails, then the rest is made simpler.

use crate::driver::Failure;
use crate::op::{Data, Op};

/// A shorter run that fails.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The operations.
    pub ops: Vec<Op>,
    /// How it fails.
    pub failure: Failure,
    /// Runs that were tried.
    pub tries: usize,
}

/// Whether two failures look like one bug.
fn alike(a: &Failure, b: &Failure) -> bool {
    let head = |f: &Failure| -> String {
        let words: String = f.what.chars().filter(|c| !c.is_ascii_digit()).collect();
        words.chars().take(18).collect()
    };
    head(a) == head(b)
}

/// Shrinks `ops`, which fail with `failure`; `run` runs a list. At most `budget` runs are tried.
pub fn shrink(
    ops: &[Op],
    failure: &Failure,
    budget: usize,
    mut run: impl FnMut(&[Op]) -> Option<Failure>,
) -> Shrunk {
    let mut best = Shrunk {
        ops: ops.iter().take(failure.at.max(1)).cloned().collect(),
        failure: failure.clone(),
        tries: 0,
    };
    let mut attempt = |best: &mut Shrunk, ops: Vec<Op>| -> bool {
        if best.tries >= budget {
            return false;
        }
        best.tries += 1;
        match run(&ops) {
            Some(f) if alike(&f, failure) => {
                best.ops = ops.into_iter().take(f.at.max(1)).collect();
                best.failure = f;
                true
            }
            _ => false,
        }
    };
    loop {
        let before = (best.ops.len(), best.tries);
        remove_groups(&mut best, &mut attempt);
        simplify(&mut best, &mut attempt);
        if best.ops.len() == before.0 || best.tries >= budget {
            return best;
        }
    }
}

fn remove_groups(best: &mut Shrunk, attempt: &mut impl FnMut(&mut Shrunk, Vec<Op>) -> bool) {
    let mut group = (best.ops.len() / 2).max(1);
    loop {
        let mut end = best.ops.len();
        while end > 0 {
            let start = end.saturating_sub(group);
            let mut ops = best.ops.clone();
            ops.drain(start..end.min(ops.len()));
            if !ops.is_empty() {
                // With fewer calls to the disk the power has to go earlier.
                let found = attempt(best, ops.clone())
                    || earlier_cuts(&ops).into_iter().any(|ops| attempt(best, ops));
                let _ = found;
            }
            end = start.min(best.ops.len());
        }
        if group == 1 {
            return;
        }
        group /= 2;
    }
}

fn earlier_cuts(ops: &[Op]) -> Vec<Vec<Op>> {
    let last = ops.iter().rposition(|op| matches!(op, Op::Cut { .. }));
    let Some(Op::Cut { calls, seed, again }) = last.and_then(|at| ops.get(at)) else {
        return Vec::new();
    };
    if ops.len() > 40 {
        return Vec::new();
    }
    let mut out = Vec::new();
    for fewer in [1, 2, 3, 5, 8, 13] {
        if let Some(calls) = calls.checked_sub(fewer) {
            let mut ops = ops.to_vec();
            if let Some(op) = last.and_then(|at| ops.get_mut(at)) {
                *op = Op::Cut {
                    calls,
                    seed: *seed,
                    again: again.clone(),
                };
            }
            out.push(ops);
        }
    }
    out
}

fn simplify(best: &mut Shrunk, attempt: &mut impl FnMut(&mut Shrunk, Vec<Op>) -> bool) {
    let mut at = 0;
    while at < best.ops.len() {
        while let Some(op) = best.ops.get(at) {
            let found = simpler(op).into_iter().any(|simple| {
                let mut ops = best.ops.clone();
                if let Some(place) = ops.get_mut(at) {
                    *place = simple;
                }
                attempt(best, ops)
            });
            if !found {
                break;
            }
        }
        at += 1;
    }
}

/// Smaller numbers than this, the smallest first.
fn less(n: u64) -> impl Iterator<Item = u64> {
    [0, n / 2, n & !4095, n.saturating_sub(1)]
        .into_iter()
        .filter(move |m| *m < n)
}

/// Shorter ranges and nearer ones, of whole units of 4 KiB.
fn nearer_ranges(offset: u64, len: u64) -> impl Iterator<Item = (u64, u64)> {
    let shorter = less(len / 4096).filter(|n| *n > 0);
    let nearer = less(offset / 4096).map(move |n| (4096 * n, len));
    shorter.map(move |n| (offset, 4096 * n)).chain(nearer)
}

/// The same cut, earlier, or not followed by others.
fn milder_cuts(calls: u64, seed: u64, again: &[u64]) -> Vec<Op> {
    let undisturbed = (!again.is_empty()).then(|| Op::Cut {
        calls,
        seed,
        again: Vec::new(),
    });
    let earlier = less(calls).map(|calls| Op::Cut {
        calls,
        seed,
        again: again.to_vec(),
    });
    undisturbed.into_iter().chain(earlier).collect()
}

/// The same operation with smaller numbers.
fn simpler(op: &Op) -> Vec<Op> {
    let less_data = |d: Data| {
        let lens = [1, d.len / 2, d.len & !4095].into_iter();
        lens.filter(move |n| *n < d.len)
            .map(move |len| Data { len, ..d })
    };
    match op {
        Op::Write { who, offset, data } => {
            let (a, b) = (who.clone(), who.clone());
            let (offset, data) = (*offset, *data);
            let shorter = less_data(data).map(move |data| Op::Write {
                who: a.clone(),
                offset,
                data,
            });
            let nearer = less(offset).map(move |offset| Op::Write {
                who: b.clone(),
                offset,
                data,
            });
            shorter.chain(nearer).collect()
        }
        Op::Append { who, data } => less_data(*data)
            .map(|data| Op::Append {
                who: who.clone(),
                data,
            })
            .collect(),
        Op::SetXattr {
            who,
            name,
            data,
            mode,
        } => less_data(*data)
            .map(|data| Op::SetXattr {
                who: who.clone(),
                name: *name,
                data,
                mode: *mode,
            })
            .collect(),
        Op::Allocate {
            who,
            mode,
            offset,
            len,
        } => {
            let shorter = less(*len).filter(|n| *n > 0).map(|len| Op::Allocate {
                who: who.clone(),
                mode: *mode,
                offset: *offset,
                len,
            });
            let nearer = less(*offset).map(|offset| Op::Allocate {
                who: who.clone(),
                mode: *mode,
                offset,
                len: *len,
            });
            shorter.chain(nearer).collect()
        }
        Op::Collapse { who, offset, len } => nearer_ranges(*offset, *len)
            .map(|(offset, len)| Op::Collapse {
                who: who.clone(),
                offset,
                len,
            })
            .collect(),
        Op::Insert { who, offset, len } => nearer_ranges(*offset, *len)
            .map(|(offset, len)| Op::Insert {
                who: who.clone(),
                offset,
                len,
            })
            .collect(),
        Op::Cut { calls, seed, again } => milder_cuts(*calls, *seed, again),
        _ => Vec::new(),
    }
}
