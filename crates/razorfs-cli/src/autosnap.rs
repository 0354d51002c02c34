//! Snapshots that the daemon of a mount takes by itself, and gives up again as they grow old.
//!
//! Only snapshots that were taken so, which their names tell, are ever given up.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::time::Duration;

use razorfs::{Error, Snapshot};

use crate::clock;
use crate::failure::{Failure, Result};
use crate::mounts::Mounts;
use crate::shows::Shows;

/// What the names begin with; the time follows, as `20261130T054213Z`.
const PREFIX: &str = "auto-";
/// What is kept where `keep=` does not say it.
const KEEP: &str = "1h:all,24h:hourly,7d:daily";
/// How often operations are counted, where their number says when one is due.
const LOOK: Duration = Duration::from_millis(200);
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// How many of the snapshots of some age are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rate {
    All,
    /// One of each so many seconds since 1970.
    OneIn(u64),
}

/// What is kept up to some age.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Rule {
    /// Seconds.
    age: u64,
    rate: Rate,
}

/// Which snapshots are kept: up to the age of each rule as it says, and none that are older than
/// that of the last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Keep {
    /// By age, no two of the same.
    rules: Vec<Rule>,
}

impl Default for Keep {
    fn default() -> Self {
        Self::parse(KEEP).unwrap_or(Self { rules: Vec::new() })
    }
}

/// Reads `90s`, `10m`, `24h` or `7d`: seconds.
pub fn duration(text: &str) -> std::result::Result<u64, String> {
    let bad = || format!("{text:?} is no duration; write for example 90s, 10m, 24h or 7d");
    let unit = text.chars().last().ok_or_else(bad)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => HOUR,
        'd' => DAY,
        _ => return Err(bad()),
    };
    let number = text.strip_suffix(unit).unwrap_or_default();
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    let number: u64 = number.parse().map_err(|_| bad())?;
    // In nanoseconds it has to fit, too.
    let most = u64::MAX / 1_000_000_000;
    let seconds = number
        .checked_mul(seconds)
        .filter(|s| (1..=most).contains(s));
    seconds.ok_or_else(|| format!("{text:?} is no time that could pass"))
}

/// A number of seconds as [`duration`] reads it.
pub fn duration_text(seconds: u64) -> String {
    let (unit, of) = match seconds {
        // A single day is told in hours, as people do.
        _ if seconds.is_multiple_of(DAY) && seconds > DAY => ("d", DAY),
        _ if seconds.is_multiple_of(HOUR) => ("h", HOUR),
        _ if seconds.is_multiple_of(60) => ("m", 60),
        _ => ("s", 1),
    };
    format!("{}{unit}", seconds / of)
}

/// When a snapshot is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Every {
    /// After so many seconds, if something has changed.
    Seconds(u64),
    /// After so many operations.
    Ops(u64),
}

impl Every {
    /// Reads a duration, or a number of operations as `10000ops`.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let Some(number) = text.strip_suffix("ops") else {
            let seconds = duration(text);
            return seconds.map(Self::Seconds).map_err(|e| match e {
                e if e.contains("write for example") => format!("{e}, or 10000ops"),
                e => e,
            });
        };
        let is_plain = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        let number = number.parse().ok().filter(|n| is_plain && *n > 0);
        number.map(Self::Ops).ok_or_else(|| {
            format!("{text:?} is no number of operations; write for example 10000ops")
        })
    }

    /// How long to wait before it is looked at again whether one is due.
    const fn wait(self) -> Duration {
        match self {
            Self::Seconds(seconds) => Duration::from_secs(seconds),
            Self::Ops(_) => LOOK,
        }
    }
}

impl fmt::Display for Every {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seconds(seconds) => f.write_str(&duration_text(*seconds)),
            Self::Ops(ops) => write!(f, "{ops}ops"),
        }
    }
}

impl Keep {
    /// Reads `AGE:RATE,...`, with the rates `all`, `hourly`, `daily` and `weekly`.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let mut rules = Vec::new();
        for rule in text.split(',') {
            let (age, rate) = rule.split_once(':').ok_or_else(|| {
                format!("{rule:?} says not what is kept; write for example 24h:hourly")
            })?;
            let rate = match rate {
                "all" => Rate::All,
                "hourly" => Rate::OneIn(HOUR),
                "daily" => Rate::OneIn(DAY),
                "weekly" => Rate::OneIn(7 * DAY),
                _ => {
                    return Err(format!(
                        "unknown rate {rate:?}; use all, hourly, daily or weekly"
                    ));
                }
            };
            let age = duration(age)?;
            if rules.iter().any(|rule: &Rule| rule.age == age) {
                return Err(format!("two rules are for the age {}", duration_text(age)));
            }
            rules.push(Rule { age, rate });
        }
        rules.sort_by_key(|rule| rule.age);
        Ok(Self { rules })
    }

    /// Which of the snapshots, of which each is known by its name and when it was taken, in
    /// seconds, are given up. That is none of another name, and not the newest.
    fn thin<'a>(&self, now: u64, snapshots: &[(&'a str, u64)]) -> Vec<&'a str> {
        let mut ours: Vec<_> = snapshots.iter().filter(|(name, _)| is_ours(name)).collect();
        ours.sort_by_key(|(name, time)| (*time, *name));
        ours.pop();
        let mut given_up = Vec::new();
        let mut seen = HashSet::new();
        for (name, time) in ours {
            // Of one that a clock has taken in the future the age is nothing.
            let age = now.saturating_sub(*time);
            let is_kept = match self.rules.iter().find(|rule| age <= rule.age) {
                None => false,
                Some(Rule {
                    rate: Rate::All, ..
                }) => true,
                // The oldest of each stays, so that it is there for a slower rate later.
                Some(Rule {
                    rate: Rate::OneIn(span),
                    ..
                }) => seen.insert((*span, time / span)),
            };
            if !is_kept {
                given_up.push(*name);
            }
        }
        given_up
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, rule) in self.rules.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            let rate = match rule.rate {
                Rate::All => "all",
                Rate::OneIn(HOUR) => "hourly",
                Rate::OneIn(DAY) => "daily",
                Rate::OneIn(_) => "weekly",
            };
            write!(f, "{comma}{}:{rate}", duration_text(rule.age))?;
        }
        Ok(())
    }
}

/// Whether this is a name that is given here: a user may have ones that begin alike.
fn is_ours(name: &str) -> bool {
    let Some(stamp) = name.strip_prefix(PREFIX) else {
        return false;
    };
    let shape = |(b, shape): (u8, u8)| match shape {
        b'0' => b.is_ascii_digit(),
        _ => b == shape,
    };
    let pattern = b"00000000T000000Z";
    stamp.len() == pattern.len() && stamp.bytes().zip(pattern.iter().copied()).all(shape)
}

/// What is done by itself in a mount.
pub struct Autosnap {
    /// The volume and its mounts.
    pub mounts: Arc<Mounts>,
    /// When the next one is due.
    pub every: Every,
    /// What is kept.
    pub keep: Keep,
    /// Brings what only the kernel has to the volume.
    pub flush: Box<dyn Fn() -> Result<()> + Send>,
}

/// It goes on until this is dropped.
pub struct Running {
    _stop: Sender<()>,
}

impl Autosnap {
    /// Begins.
    pub fn start(self) -> Result<Running> {
        let (stop, stopped) = channel();
        let work = move || self.run(&stopped);
        std::thread::Builder::new()
            .name("autosnap".into())
            .spawn(work)
            .map_err(|e| Failure::new(format!("cannot start a thread: {e}")))?;
        Ok(Running { _stop: stop })
    }

    fn run(self, stopped: &Receiver<()>) {
        // How many operations there had been when the last one was taken.
        let mut seen = None;
        let mut wait = self.first_wait();
        while stopped.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
            wait = self.every.wait();
            if !self.is_due(seen) {
                continue;
            }
            let done = self.take(&mut seen).and_then(|()| self.thin());
            if stopped.try_recv() == Err(TryRecvError::Disconnected) {
                // The volume may have been closed meanwhile, and that is why it failed.
                return;
            }
            if let Err(e) = done {
                tracing::error!("an automatic snapshot failed and is tried again: {e}");
            }
        }
    }

    /// How long until the next one, which need not be the first: mounts may be short.
    fn first_wait(&self) -> Duration {
        let Every::Seconds(every) = self.every else {
            return self.every.wait();
        };
        let snapshots = self.mounts.volume.snapshots();
        let times = snapshots.iter().filter(|s| is_ours(&s.name)).map(taken);
        let left = times.max().map_or(every, |last| {
            (last.saturating_add(every)).saturating_sub(now())
        });
        Duration::from_secs(left.min(every))
    }

    /// Whether enough operations have been done since the last one, if that is what counts.
    fn is_due(&self, seen: Option<u64>) -> bool {
        match self.every {
            Every::Seconds(_) => true,
            Every::Ops(every) => {
                let since = self
                    .mounts
                    .volume
                    .stats()
                    .ops
                    .saturating_sub(seen.unwrap_or(0));
                since >= every
            }
        }
    }

    fn take(&self, seen: &mut Option<u64>) -> std::result::Result<(), String> {
        // What cannot be brought here now is in the next one; an unmounted volume has nothing left.
        if let Err(failure) = (self.flush)() {
            tracing::warn!("an automatic snapshot lacks what only the kernel has: {failure}");
        }
        let volume = &self.mounts.volume;
        let ops = volume.stats().ops;
        if *seen == Some(ops) {
            return Ok(());
        }
        let stamp = clock::stamp(i64::try_from(now()).unwrap_or(i64::MAX));
        let name = format!("{PREFIX}{stamp}");
        let taken = self.mounts.changing(|| {
            let taken = volume.snapshot(&name);
            if taken.is_ok() {
                self.mounts.snapshot_changed(&name);
            }
            taken
        });
        match taken {
            Ok(_) => {}
            // A clock that was set back, or somebody else.
            Err(Error::Exists) => return Ok(()),
            Err(e) => return Err(format!("{name}: {e}")),
        }
        // Counted before: what was done meanwhile may not be in it.
        *seen = Some(ops);
        Ok(())
    }

    fn thin(&self) -> std::result::Result<(), String> {
        let snapshots = self.mounts.volume.snapshots();
        let known: Vec<(&str, u64)> = snapshots.iter().map(|s| (&*s.name, taken(s))).collect();
        let mut given_up = self.keep.thin(now(), &known).into_iter();
        given_up.try_for_each(|name| self.mounts.changing(|| self.give_up(name)))
    }

    fn give_up(&self, name: &str) -> std::result::Result<(), String> {
        if self.mounts.dir_of(&Shows::Snapshot(name.into())).is_some() {
            // When it is not any more.
            return Ok(());
        }
        match self.mounts.volume.delete_snapshot(name) {
            Ok(()) => self.mounts.snapshot_changed(name),
            // Somebody else was faster.
            Err(Error::NotFound) => {}
            Err(e) => return Err(format!("{name}: {e}")),
        }
        Ok(())
    }
}

/// When it was taken, in seconds since 1970.
fn taken(snapshot: &Snapshot) -> u64 {
    u64::try_from(snapshot.time.secs).unwrap_or(0)
}

fn now() -> u64 {
    crate::env().now() / 1_000_000_000
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn stamp(time: u64) -> String {
        format!("{PREFIX}{}", clock::stamp(time as i64))
    }

    /// Numbers from a seed (splitmix64).
    struct Random(u64);

    impl Random {
        fn below(&mut self, end: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            (z ^ (z >> 31)) % end
        }
    }

    #[test]
    fn durations_are_read_strictly_and_written_the_same() {
        for (text, seconds) in [
            ("1s", 1),
            ("90s", 90),
            ("10m", 600),
            ("24h", 86_400),
            ("7d", 604_800),
        ] {
            assert_eq!(duration(text), Ok(seconds));
            assert_eq!(duration_text(seconds), text);
        }
        for bad in [
            "",
            "s",
            "10",
            "0s",
            "-1s",
            "+1s",
            "1.5h",
            "1h30m",
            "10 m",
            "10M",
            "1w",
            "ä",
            "99999999999999999999s",
            "999999999999999999d",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_of_operations_are_read_strictly_and_written_the_same() {
        for (text, every) in [
            ("10000ops", Every::Ops(10_000)),
            ("1ops", Every::Ops(1)),
            ("10m", Every::Seconds(600)),
        ] {
            assert_eq!(Every::parse(text), Ok(every));
            assert_eq!(every.to_string(), text);
        }
        for bad in [
            "ops", "0ops", "-1ops", "+1ops", "1 ops", "1.5ops", "10", "1op",
        ] {
            let refused = Every::parse(bad).unwrap_err();
            assert!(refused.contains("10000ops"), "{refused}");
        }
    }

    #[test]
    fn rules_are_read_strictly_and_sorted_by_age() {
        let keep = Keep::parse("7d:daily,24h:hourly,60d:weekly,10m:all").unwrap();
        assert_eq!(keep.to_string(), "10m:all,24h:hourly,7d:daily,60d:weekly");
        assert_eq!(Keep::default().to_string(), KEEP);
        for bad in [
            "",
            "24h",
            "24h:",
            ":daily",
            "24h:often",
            "1h:all,",
            "1h:all,60m:daily",
            "1h:all:",
        ] {
            assert!(Keep::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_user_s_snapshots_are_told_from_automatic_ones() {
        assert!(is_ours(&stamp(0)) && is_ours(&stamp(1_796_020_156)));
        for name in [
            "auto-",
            "auto-pilot",
            "auto-20261130T054213Z-2",
            "auto-2026113_T054213Z",
            "20261130T054213Z",
            "my auto-20261130T054213Z",
        ] {
            assert!(!is_ours(name), "{name}");
        }
    }

    #[test]
    fn a_day_is_thinned_to_hours_and_a_week_to_days() {
        let keep = Keep::parse("24h:hourly,7d:daily").unwrap();
        let now = 20_000 * DAY;
        // Each ten minutes for ten days.
        let times: Vec<u64> = (0..1440).map(|n| now - n * 600).collect();
        let names: Vec<String> = times.iter().map(|t| stamp(*t)).collect();
        let all: Vec<_> = names.iter().map(String::as_str).zip(times).collect();
        let gone: HashSet<&str> = keep.thin(now, &all).into_iter().collect();
        let left: Vec<u64> = all
            .iter()
            .filter(|(n, _)| !gone.contains(n))
            .map(|s| s.1)
            .collect();
        let ages: Vec<u64> = left.iter().map(|time| (now - time) / HOUR).collect();
        let mut expected: Vec<u64> = (0..=24).collect();
        expected.extend((2..=7).map(|day| day * 24));
        assert_eq!(ages, expected);
    }

    #[test]
    fn thinning_never_takes_others_nor_the_newest_and_takes_nothing_twice() {
        let seed = crate::env().now();
        thin_at_random(seed);
    }

    /// With the seed 3, two snapshots of one second had one name, and the test failed.
    #[test]
    fn thinning_at_seeds_that_have_failed_before() {
        (0..20).for_each(thin_at_random);
    }

    fn thin_at_random(seed: u64) {
        let mut random = Random(seed);
        for _ in 0..2000 {
            let rates = ["all", "hourly", "daily", "weekly"];
            let mut rules = Vec::new();
            for n in 1..=random.below(4) + 1 {
                let rate = rates[random.below(4) as usize];
                rules.push(format!("{}h:{rate}", n * 50 + random.below(50)));
            }
            let keep = Keep::parse(&rules.join(",")).unwrap();
            let now = 20_000 * DAY + random.below(DAY);
            // A map, as no two snapshots have one name.
            let mut names = BTreeMap::new();
            for n in 0..random.below(60) {
                let time = now + 1000 - random.below(20 * DAY);
                let name = match random.below(3) {
                    0 => format!("auto-mine {n}"),
                    _ => stamp(time),
                };
                names.insert(name, time);
            }
            let all: Vec<_> = names
                .iter()
                .map(|(name, time)| (name.as_str(), *time))
                .collect();
            let gone: HashSet<&str> = keep.thin(now, &all).into_iter().collect();
            let case = format!("seed {seed}: {rules:?} {now} {all:?}");
            assert!(gone.iter().all(|name| is_ours(name)), "{case}");
            let ours: Vec<_> = all.iter().filter(|(name, _)| is_ours(name)).collect();
            if let Some((name, _)) = ours.iter().max_by_key(|(_, time)| *time) {
                assert!(!gone.contains(name), "{case}");
            }
            let left: Vec<_> = all
                .iter()
                .filter(|s| !gone.contains(s.0))
                .copied()
                .collect();
            assert!(keep.thin(now, &left).is_empty(), "{case}");
            // What the rules keep is there: of what falls to one rule, one in each of its spans.
            for (_, time) in &ours {
                let rule = keep
                    .rules
                    .iter()
                    .find(|r| now.saturating_sub(*time) <= r.age);
                let Some(rule) = rule else { continue };
                let span = match rule.rate {
                    Rate::All => 1,
                    Rate::OneIn(span) => span,
                };
                let same = |t: u64| t / span == time / span;
                assert!(left.iter().any(|(n, t)| is_ours(n) && same(*t)), "{case}");
            }
        }
    }
}
