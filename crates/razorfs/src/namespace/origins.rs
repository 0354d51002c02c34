//! Whose inodes are whose, between volumes that send streams to each other.
//!
//! A file that is received gets a number of this volume, and has the one of the volume where it was
//! made beside it: not each by itself, for numbers are given out in order on both sides, but as
//! runs. A volume that only ever receives from another one has one run, in which both numbers are
//! the same. So no number is used twice, also where a volume was changed and rolled back before it
//! receives; and what was received can be sent on, or back to where it came from.

use razorfs_format::Ino;
use razorfs_format::stream::{INO_END, ORIGINS_MAX, Origin};
use razorfs_format::wire::{Put, Take};

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::{Error, Result};

/// Most runs of a translation: one lies in an attribute.
const RUNS_MAX: usize = 2000;

/// A run of numbers in a stream, and what they are here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Run {
    first: u64,
    count: u64,
    here: u64,
}

/// Most numbers that a stream may have: no volume gives out so many, and whoever forges a stream is
/// not to use them up here.
const SPAN_MAX: u64 = 1 << 40;

/// What the inode numbers of a stream are here.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Translation {
    /// By their first number.
    runs: Vec<Run>,
}

/// What a volume knows of the numbers that it gave to the inodes of others.
pub(super) struct Known<'a> {
    /// This volume.
    pub own: [u8; 16],
    /// What it knows, in the order of its own numbers.
    pub origins: &'a mut Vec<Origin>,
    /// The next number that nobody has.
    pub next: u64,
}

/// Gives out the numbers from the next on up to what `plan` makes of that, also where branches give
/// some out meanwhile. Answers the two, and the rest of the plan.
pub(super) fn give_out<T>(
    counter: &AtomicU64,
    mut plan: impl FnMut(u64) -> Result<(u64, T)>,
) -> Result<(u64, u64, T)> {
    loop {
        let first = counter.load(Ordering::Acquire);
        let (next, planned) = plan(first)?;
        let (done, failed) = (Ordering::AcqRel, Ordering::Acquire);
        if counter.compare_exchange(first, next, done, failed).is_ok() {
            return Ok((first, next, planned));
        }
    }
}

fn too_many() -> Error {
    let why = "the files of the stream went through too many volumes, back and forth; send all of \
               the snapshot to a new volume";
    Error::Stream(why.into())
}

impl Translation {
    /// The number here of one in the stream.
    pub fn here(&self, ino: Ino) -> Option<Ino> {
        if ino == Ino::ROOT {
            return Some(ino);
        }
        let next = self.runs.partition_point(|run| run.first <= ino.0);
        let run = self.runs.get(next.checked_sub(1)?)?;
        let ahead = ino.0 - run.first;
        (ahead < run.count).then_some(Ino(run.here + ahead))
    }

    /// Of a stream of `sender`, whose numbers are below `end`; those that are new get numbers here.
    pub fn new(
        sender: [u8; 16],
        end: u64,
        origins: &[Origin],
        known: &mut Known<'_>,
    ) -> Result<Self> {
        let mut translation = Self::default();
        let mut at = Ino::FIRST.0;
        let first = known.next;
        for origin in origins {
            let own = origin.first.saturating_sub(at);
            translation.add(known, at, own, (sender, at))?;
            let there = (origin.volume, origin.there);
            translation.add(known, origin.first, origin.count, there)?;
            at = origin.first + origin.count;
        }
        translation.add(known, at, end.saturating_sub(at), (sender, at))?;
        if known.next - first > SPAN_MAX {
            let why = "the stream has more numbers of inodes than a volume gives out";
            return Err(Error::Stream(why.into()));
        }
        if translation.runs.len() > RUNS_MAX || known.origins.len() > ORIGINS_MAX {
            return Err(too_many());
        }
        Ok(translation)
    }

    /// The numbers of the stream from `first` on are those of a volume from `there` on.
    fn add(
        &mut self,
        known: &mut Known<'_>,
        mut first: u64,
        mut count: u64,
        (volume, mut there): ([u8; 16], u64),
    ) -> Result<()> {
        while count > 0 {
            if self.runs.len() > RUNS_MAX {
                return Err(too_many());
            }
            let (here, n) = known.find_or_give(volume, there, count)?;
            self.push(Run {
                first,
                count: n,
                here,
            });
            (first, there, count) = (first + n, there + n, count - n);
        }
        Ok(())
    }

    fn push(&mut self, run: Run) {
        match self.runs.last_mut() {
            Some(last)
                if last.first + last.count == run.first && last.here + last.count == run.here =>
            {
                last.count += run.count;
            }
            _ => self.runs.push(run),
        }
    }

    /// The bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for run in &self.runs {
            out.put_varint(run.first);
            out.put_varint(run.count);
            out.put_varint(run.here);
        }
    }

    /// Reads what fills the rest.
    pub fn decode(t: &mut Take<'_>) -> Result<Self> {
        let mut runs = Vec::new();
        while !t.is_empty() {
            runs.push(Run {
                first: t.varint_max(INO_END)?,
                count: t.varint_max(INO_END)?,
                here: t.varint_max(INO_END)?,
            });
        }
        Ok(Self { runs })
    }
}

impl Known<'_> {
    /// What the inodes of a volume from number `there` on are here, and of how many of the `count`
    /// that is the answer. What has no number here gets one.
    fn find_or_give(&mut self, volume: [u8; 16], there: u64, count: u64) -> Result<(u64, u64)> {
        if volume == self.own {
            // They are its own, if it has ever given these numbers out.
            if there.saturating_add(count) > self.next {
                let why = "the stream has files that this volume has never had, as its own";
                return Err(Error::Stream(why.into()));
            }
            return Ok((there, count));
        }
        let of_volume = || self.origins.iter().filter(|o| o.volume == volume);
        let mut holding = of_volume();
        if let Some(o) = holding.find(|o| o.there <= there && there - o.there < o.count) {
            let ahead = there - o.there;
            return Ok((o.first + ahead, count.min(o.count - ahead)));
        }
        let after = of_volume().map(|o| o.there).filter(|t| *t > there).min();
        let count = after.map_or(count, |after| count.min(after - there));
        if self.next.saturating_add(count) > INO_END {
            let why = "the stream has more numbers of inodes than a volume has";
            return Err(Error::Stream(why.into()));
        }
        let here = self.next;
        self.next += count;
        match self.origins.last_mut() {
            Some(last)
                if last.volume == volume
                    && last.first + last.count == here
                    && last.there + last.count == there =>
            {
                last.count += count;
            }
            _ => self.origins.push(Origin {
                first: here,
                count,
                volume,
                there,
            }),
        }
        Ok((here, count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: [u8; 16] = [1; 16];
    const B: [u8; 16] = [2; 16];

    /// A volume's numbers.
    struct Side {
        own: [u8; 16],
        origins: Vec<Origin>,
        next: u64,
    }

    impl Side {
        fn new(own: [u8; 16]) -> Self {
            let (origins, next) = (Vec::new(), Ino::FIRST.0);
            Self { own, origins, next }
        }

        fn receive(&mut self, from: &Self) -> Translation {
            let mut known = Known {
                own: self.own,
                origins: &mut self.origins,
                next: self.next,
            };
            let of = Translation::new(from.own, from.next, &from.origins, &mut known).unwrap();
            self.next = known.next;
            of
        }
    }

    #[test]
    fn a_volume_that_only_receives_has_the_same_numbers() {
        let (mut a, mut b) = (Side::new(A), Side::new(B));
        for _ in 0..5 {
            a.next += 1000;
            let of = b.receive(&a);
            assert_eq!((of.runs.len(), b.origins.len(), b.next), (1, 1, a.next));
            assert_eq!(of.here(Ino(a.next - 1)), Some(Ino(a.next - 1)));
            assert_eq!(of.here(Ino(a.next)), None);
        }
    }

    #[test]
    fn what_comes_back_is_what_was_sent() {
        let (mut a, mut b) = (Side::new(A), Side::new(B));
        a.next += 100;
        let (first, there) = (Ino(50), b.receive(&a));
        let first_there = there.here(first).unwrap();
        // Both go on by themselves.
        a.next += 10;
        b.next += 20;
        let new_there = Ino(b.next - 1);
        let back = a.receive(&b);
        assert_eq!(back.here(first_there), Some(first));
        let new_here = back.here(new_there).unwrap();
        assert!(new_here.0 >= 126, "a number that nobody had: {new_here}");
        // And once more there: the file that was made there has its own number again.
        a.next += 5;
        let again = b.receive(&a);
        assert_eq!(again.here(new_here), Some(new_there));
        assert_eq!(again.here(first), Some(first_there));
        // What was made here meanwhile has a number there that nobody else has.
        let late = again.here(Ino(a.next - 1)).unwrap();
        assert!(late.0 > new_there.0);
    }

    #[test]
    fn no_two_inodes_get_one_number() {
        let mut sides = [Side::new(A), Side::new(B), Side::new([3; 16])];
        for round in 0..40usize {
            let (from, to) = (round * 7 % 3, (round * 7 + 1 + round % 2) % 3);
            sides[from].next += round as u64 % 5;
            sides[to].next += round as u64 % 3;
            let sender = std::mem::replace(&mut sides[from], Side::new([9; 16]));
            let of = sides[to].receive(&sender);
            let all: Vec<_> = (16..sender.next)
                .map(|n| of.here(Ino(n)).unwrap())
                .collect();
            let mut apart = all.clone();
            apart.sort_unstable();
            apart.dedup();
            assert_eq!(apart.len(), all.len());
            assert!(all.iter().all(|ino| ino.0 < sides[to].next));
            sides[from] = sender;
        }
    }

    #[test]
    fn a_stream_cannot_claim_what_is_not_there() {
        let mut origins = Vec::new();
        let mut known = Known {
            own: A,
            origins: &mut origins,
            next: 100,
        };
        let there = Origin {
            first: 16,
            count: 85,
            volume: A,
            there: 16,
        };
        let claimed = Translation::new(B, 101, &[there], &mut known);
        assert!(matches!(claimed, Err(Error::Stream(_))));
        for end in [INO_END, 17 + SPAN_MAX] {
            let most = Translation::new(B, end, &[], &mut known);
            assert!(matches!(most, Err(Error::Stream(_))), "{end}");
        }
    }
}
