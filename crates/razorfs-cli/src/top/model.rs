//! Rates, of what the daemon tells at two times.

use std::path::Path;

use serde_json::Value;

use crate::failure::{shown, shown_bytes};
use crate::latency::Times;

/// What the daemon tells at a time.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When, in nanoseconds since some moment.
    pub time: u64,
    /// The document of `razorfs stats`.
    pub stats: Value,
    /// The document of `razorfs info`.
    pub info: Value,
}

/// What came of asking it.
pub enum Heard {
    /// It told.
    Sample(Sample),
    /// It did not, and why.
    Nothing(String),
}

/// What is shown.
pub struct State {
    volume: String,
    every: u64,
    before: Option<Sample>,
    now: Option<Sample>,
    /// Why there is nothing new.
    silence: Option<String>,
    held: bool,
}

/// A kind of requests.
#[derive(Clone, PartialEq, Debug)]
pub struct Kind {
    /// Its name.
    pub name: String,
    /// How many there are in a second.
    pub rate: f64,
    /// How long those took that came between the two times.
    pub times: Times,
    /// How many there were since the daemon began.
    pub all: u64,
}

impl State {
    /// Nothing yet, of a volume that is looked at each so many seconds.
    pub fn new(volume: &Path, every: u64) -> Self {
        Self {
            volume: shown(volume),
            every,
            before: None,
            now: None,
            silence: None,
            held: false,
        }
    }

    /// Takes what was heard; says whether that is to be drawn.
    pub fn hear(&mut self, heard: Heard) -> bool {
        if self.held {
            return false;
        }
        match heard {
            Heard::Nothing(why) => self.silence = Some(shown_bytes(why.as_bytes())),
            Heard::Sample(sample) => {
                self.before = self.now.replace(sample);
                self.silence = None;
            }
        }
        true
    }

    /// Stands still, or goes on.
    pub const fn hold(&mut self) {
        self.held = !self.held;
    }

    /// Whether it stands still.
    pub const fn is_held(&self) -> bool {
        self.held
    }

    /// The volume, for people.
    pub fn volume(&self) -> &str {
        &self.volume
    }

    /// How many seconds lie between two looks.
    pub const fn every(&self) -> u64 {
        self.every
    }

    /// Why there is nothing new, if so.
    pub fn silence(&self) -> Option<&str> {
        self.silence.as_deref()
    }

    /// Whether anything was told at all.
    pub const fn is_known(&self) -> bool {
        self.now.is_some()
    }

    /// A number of `razorfs stats`, by its name.
    pub fn stat(&self, name: &str) -> u64 {
        self.now.as_ref().map_or(0, |now| number(&now.stats, name))
    }

    /// Something of `razorfs info`, by its path.
    pub fn info(&self, path: &str) -> &Value {
        let info = self.now.as_ref().and_then(|now| now.info.pointer(path));
        info.unwrap_or(&Value::Null)
    }

    /// A number of `razorfs info`, by its path.
    pub fn info_number(&self, path: &str) -> u64 {
        self.info(path).as_u64().unwrap_or(0)
    }

    /// A text of `razorfs info`, by its path.
    pub fn info_text(&self, path: &str) -> String {
        let text = self.info(path).as_str().unwrap_or("-");
        shown_bytes(text.as_bytes())
    }

    /// The lines of a list of `razorfs info`.
    pub fn info_lines(&self, path: &str) -> Vec<String> {
        let lines = self.info(path).as_array().into_iter().flatten();
        let lines = lines.filter_map(Value::as_str);
        lines.map(|line| shown_bytes(line.as_bytes())).collect()
    }

    /// By how much a counter of `razorfs stats` grows in a second; one that has begun anew, as
    /// another daemon goes on, since then.
    pub fn rate(&self, name: &str) -> f64 {
        self.per_second(|sample| number(&sample.stats, name))
    }

    /// The requests by kind, the most frequent first.
    pub fn kinds(&self) -> Vec<Kind> {
        let Some(now) = &self.now else {
            return Vec::new();
        };
        let requests = now.stats.get("requests").and_then(Value::as_object);
        let kinds = requests.into_iter().flatten().map(|(name, all)| {
            let pointer = |what: &str| format!("/{what}/{name}");
            let count = |sample: &Sample| {
                let count = sample.stats.pointer(&pointer("requests"));
                count.and_then(Value::as_u64).unwrap_or(0)
            };
            let times = |sample: Option<&Sample>| {
                let times = sample.and_then(|s| s.stats.pointer(&pointer("latency")));
                times.and_then(Times::of_document).unwrap_or_default()
            };
            Kind {
                rate: self.per_second(count),
                times: times(Some(now)).since(&times(self.before.as_ref())),
                all: all.as_u64().unwrap_or(0),
                name: shown_bytes(name.as_bytes()),
            }
        });
        let mut kinds: Vec<Kind> = kinds.collect();
        kinds.sort_by(|a, b| b.rate.total_cmp(&a.rate).then(b.all.cmp(&a.all)));
        kinds
    }

    /// All requests in a second.
    pub fn requests_rate(&self) -> f64 {
        self.kinds().iter().map(|kind| kind.rate).sum()
    }

    /// How many of a hundred blocks that were asked for were in the cache; none if none were.
    pub fn hits(&self) -> Option<f64> {
        let (lookups, misses) = (self.rate("cache_lookups"), self.rate("cache_misses"));
        (lookups > 0.0).then(|| (100.0 * (1.0 - misses / lookups)).clamp(0.0, 100.0))
    }

    fn per_second(&self, of: impl Fn(&Sample) -> u64) -> f64 {
        let (Some(before), Some(now)) = (&self.before, &self.now) else {
            return 0.0;
        };
        let (then, count) = (of(before), of(now));
        let grown = count.checked_sub(then).unwrap_or(count);
        let seconds = now.time.saturating_sub(before.time) as f64 / 1e9;
        match seconds > 0.0 {
            true => grown as f64 / seconds,
            false => 0.0,
        }
    }
}

fn number(document: &Value, name: &str) -> u64 {
    document.get(name).and_then(Value::as_u64).unwrap_or(0)
}
