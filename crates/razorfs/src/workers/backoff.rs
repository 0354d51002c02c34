//! When maintenance that failed is tried again, and whether its failure is news. Moments are those
//! of the monotonic clock.

use std::time::Duration;

use crate::Error;

/// The first pause after a failure; each one more doubles it.
const FIRST: Duration = Duration::from_millis(500);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(60);

/// The failures in a row of one kind of work.
#[derive(Default)]
pub(super) struct Backoff {
    pause: Duration,
    until: Option<Duration>,
    /// The cause that was told last.
    told: Option<String>,
}

impl Backoff {
    /// Whether it is time for a try. What somebody asked for does not wait.
    pub fn is_due(&self, asked: bool, now: Duration) -> bool {
        asked || self.until.is_none_or(|until| now >= until)
    }

    /// Takes note of a failure; answers whether its cause is another than before.
    pub fn failed(&mut self, error: &Error, now: Duration) -> bool {
        self.pause = (self.pause * 2).clamp(FIRST, LONGEST);
        self.until = Some(now.saturating_add(self.pause));
        let cause = cause(error);
        let news = self.told.as_ref() != Some(&cause);
        self.told = Some(cause);
        news
    }

    /// Takes note of a success; answers whether it ends failures.
    pub fn succeeded(&mut self) -> bool {
        std::mem::take(self).told.is_some()
    }
}

/// What an error says but for the file, which is another one at each try.
fn cause(error: &Error) -> String {
    match error {
        Error::Disk(e) => format!("{:?} {}", e.op, e.source),
        e => e.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use razorfs_disk::{DiskError, DiskOp};

    use super::*;

    fn full(file: &str, errno: i32) -> Error {
        let source = std::io::Error::from_raw_os_error(errno);
        Error::Disk(Arc::new(DiskError::new(DiskOp::Open, file, source)))
    }

    #[test]
    fn pauses_double_up_to_a_minute_and_a_cause_is_told_once() {
        let mut now = Duration::from_secs(7);
        let mut backoff = Backoff::default();
        assert!(backoff.is_due(false, now));
        let mut pauses = Vec::new();
        for n in 0..10 {
            let news = backoff.failed(&full(&format!("meta/{n}"), libc::EMFILE), now);
            assert_eq!(news, n == 0);
            assert!(!backoff.is_due(false, now) && backoff.is_due(true, now));
            let until = backoff.until.unwrap();
            pauses.push((until - now).as_millis());
            now = until;
            assert!(backoff.is_due(false, now));
        }
        assert_eq!(pauses[..4], [500, 1000, 2000, 4000]);
        assert_eq!(pauses[7..], [60_000; 3]);
        assert!(backoff.failed(&full("meta/1", libc::ENOSPC), now));
        assert!(backoff.succeeded() && !backoff.succeeded());
        assert!(backoff.is_due(false, now));
        assert!(backoff.failed(&full("meta/1", libc::ENOSPC), now));
    }
}
