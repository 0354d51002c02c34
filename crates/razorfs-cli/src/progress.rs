//! Progress of long work: a bar on a terminal, plain lines elsewhere, nothing with `--quiet`.

use std::io::{IsTerminal, Write};

use razorfs_disk::Env;

use crate::size;

/// How often a terminal is redrawn, in nanoseconds.
const REDRAW: u64 = 100_000_000;
/// How often a line is printed elsewhere, in nanoseconds.
const RELINE: u64 = 5_000_000_000;

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Bytes, shown as MiB and so on.
    Bytes,
    /// Things.
    Items,
}

/// Shows progress on standard error.
pub struct Progress {
    what: &'static str,
    unit: Unit,
    show: Show,
    env: Box<dyn Env>,
    start: u64,
    last: u64,
    done: u64,
    total: Option<u64>,
    items: u64,
    drawn: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Show {
    Nothing,
    Lines,
    Bar,
}

impl Progress {
    /// Progress of `what`; shows nothing if `quiet`.
    pub fn new(what: &'static str, unit: Unit, quiet: bool) -> Self {
        let show = if quiet {
            Show::Nothing
        } else if std::io::stderr().is_terminal() {
            Show::Bar
        } else {
            Show::Lines
        };
        let env = crate::env();
        let start = env.monotonic();
        Self {
            what,
            unit,
            show,
            env,
            start,
            last: start,
            done: 0,
            total: None,
            items: 0,
            drawn: false,
        }
    }

    /// How much there is in all.
    pub fn set_total(&mut self, total: u64) {
        self.total = Some(total);
    }

    /// How much is done.
    pub fn set(&mut self, done: u64) {
        self.done = done;
        self.tick();
    }

    /// This much more is done.
    pub fn add(&mut self, more: u64) {
        self.set(self.done.saturating_add(more));
    }

    /// One more file.
    pub fn item(&mut self) {
        self.items += 1;
        self.tick();
    }

    /// The work is over: leaves one line that says how much it was.
    pub fn finish(&mut self) {
        if self.show == Show::Nothing {
            return;
        }
        let seconds = self.seconds();
        let mut line = format!("{}: ", self.what);
        if self.items > 0 {
            line.push_str(&format!("{} files, ", self.items));
        }
        let rate = self.done as f64 / seconds.max(0.001);
        line.push_str(&format!(
            "{} in {seconds:.1} s ({}/s)",
            self.amount(self.done),
            self.amount(rate as u64)
        ));
        self.put(&line, true);
    }

    /// Removes the bar, so that something else can be printed.
    pub fn clear(&mut self) {
        if self.show == Show::Bar && self.drawn {
            let mut err = std::io::stderr().lock();
            let _ = write!(err, "\r\x1b[K").and_then(|()| err.flush());
            self.drawn = false;
        }
    }

    fn tick(&mut self) {
        let pause = match self.show {
            Show::Nothing => return,
            Show::Bar => REDRAW,
            Show::Lines => RELINE,
        };
        let now = self.env.monotonic();
        if now.saturating_sub(self.last) < pause {
            return;
        }
        self.last = now;
        let line = self.line();
        self.put(&line, false);
    }

    fn line(&self) -> String {
        let seconds = self.seconds().max(0.001);
        let rate = self.done as f64 / seconds;
        let mut line = format!("{}: ", self.what);
        match self.total.filter(|t| *t > 0) {
            Some(total) => {
                let part = (self.done as f64 / total as f64).min(1.0);
                if self.show == Show::Bar {
                    let full = (part * 24.0) as usize;
                    let (full, rest) = ("█".repeat(full), "·".repeat(24 - full.min(24)));
                    line.push_str(&format!("{full}{rest} "));
                }
                let left = total.saturating_sub(self.done) as f64 / rate.max(1.0);
                line.push_str(&format!(
                    "{:3.0}% {} of {}, {}/s, {} left",
                    part * 100.0,
                    self.amount(self.done),
                    self.amount(total),
                    self.amount(rate as u64),
                    size::span(left as u64)
                ));
            }
            None => line.push_str(&format!(
                "{}, {}/s, {}",
                self.amount(self.done),
                self.amount(rate as u64),
                size::span(seconds as u64)
            )),
        }
        if self.items > 0 {
            line.push_str(&format!(", {} files", self.items));
        }
        line
    }

    fn amount(&self, n: u64) -> String {
        match self.unit {
            Unit::Bytes => size::human(n),
            Unit::Items => n.to_string(),
        }
    }

    fn seconds(&self) -> f64 {
        self.env.monotonic().saturating_sub(self.start) as f64 / 1e9
    }

    /// Output that fails is no reason to stop the work.
    fn put(&mut self, line: &str, last: bool) {
        let mut err = std::io::stderr().lock();
        let _ = if self.show == Show::Bar {
            self.drawn = true;
            let end = if last { "\n" } else { "" };
            write!(err, "\r\x1b[K{line}{end}").and_then(|()| err.flush())
        } else {
            writeln!(err, "{line}")
        };
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_part_rate_and_time_left() {
        let mut progress = Progress::new("import", Unit::Bytes, true);
        progress.show = Show::Lines;
        progress.last = u64::MAX;
        progress.start = progress.env.monotonic() - 10_000_000_000;
        progress.set_total(4000);
        progress.done = 1000;
        progress.items = 3;
        let line = progress.line();
        assert!(
            line.starts_with("import:  25% 1000 B of 3.9 KiB,"),
            "{line}"
        );
        assert!(line.ends_with(" left, 3 files"), "{line}");
    }
}
