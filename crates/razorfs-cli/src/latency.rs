//! How long requests took, of the documents of `razorfs stats`.

use std::fmt;

use razorfs_fuse::Latency;
use serde_json::Value;

/// How long some requests took.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Times {
    /// Nanoseconds of all together.
    pub sum: u64,
    /// How many took how long, as in [`Latency`].
    pub counts: Vec<u64>,
}

impl Times {
    /// What a document has for a kind in `latency`.
    pub fn of_document(document: &Value) -> Option<Self> {
        let counts = document.get("counts")?.as_array()?.iter();
        let counts: Option<Vec<u64>> = counts.map(Value::as_u64).collect();
        Some(Self {
            sum: document.get("sum_ns")?.as_u64()?,
            counts: counts?,
        })
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Those since `before`; all, where counting has begun anew since.
    pub fn since(&self, before: &Self) -> Self {
        let zeros = std::iter::repeat(&0);
        let both = self.counts.iter().zip(before.counts.iter().chain(zeros));
        let counts: Option<Vec<u64>> = both.map(|(now, then)| now.checked_sub(*then)).collect();
        match (counts, self.sum.checked_sub(before.sum)) {
            (Some(counts), Some(sum)) => Self { sum, counts },
            _ => self.clone(),
        }
    }

    /// The mean, in nanoseconds; none of none.
    pub fn mean(&self) -> Option<u64> {
        self.sum.checked_div(self.count())
    }

    /// The time in nanoseconds that so many of a hundred took at most, as exactly as it was
    /// counted; none of none, or where it was longer than is counted.
    pub fn within(&self, percent: u64) -> Option<u64> {
        let all = self.count();
        let wanted = u128::from(all) * u128::from(percent);
        let mut seen = 0u128;
        for (entry, count) in self.counts.iter().enumerate() {
            seen += u128::from(*count) * 100;
            if all > 0 && seen >= wanted {
                return Latency::bound(entry);
            }
        }
        None
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(mean) = self.mean() else {
            return f.write_str("none");
        };
        let within = self.within(99).map_or("more than 8 s".into(), human);
        write!(f, "{} in the mean, 99 % within {within}", human(mean))
    }
}

/// `3.2 µs`, of nanoseconds.
pub fn human(nanoseconds: u64) -> String {
    let mut value = nanoseconds as f64 / 1000.0;
    let mut unit = "µs";
    for next in ["ms", "s"] {
        // So that it is shown with four figures at most.
        if value < 999.95 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn times(sum: u64, counts: &[u64]) -> Times {
        let counts = counts.to_vec();
        Times { sum, counts }
    }

    #[test]
    fn what_most_took_is_told() {
        assert_eq!(times(100, &[99, 0, 1]).within(99), Some(1024));
        assert_eq!(times(100, &[98, 0, 2]).within(99), Some(4096));
        assert_eq!(times(0, &[]).within(99), None);
        assert_eq!(times(0, &[0, 0]).mean(), None);
        let mut slow = vec![0; 25];
        slow[24] = 1;
        let slow = times(9_000_000_000, &slow);
        assert_eq!(slow.within(99), None);
        assert_eq!(
            slow.to_string(),
            "9.0 s in the mean, 99 % within more than 8 s"
        );
        assert_eq!(times(0, &[]).to_string(), "none");
    }

    #[test]
    fn what_was_counted_meanwhile_is_the_difference() {
        let (then, now) = (times(10, &[1, 2]), times(30, &[1, 3, 4]));
        assert_eq!(now.since(&then), times(20, &[0, 1, 4]));
        assert_eq!(then.since(&now), then, "another daemon counts anew");
    }

    #[test]
    fn times_have_a_unit() {
        assert_eq!(human(0), "0.0 µs");
        assert_eq!(human(1536), "1.5 µs");
        assert_eq!(human(999_960), "1.0 ms");
        assert_eq!(human(8_589_934_592), "8.6 s");
    }

    #[test]
    fn odd_documents_have_no_times() {
        for odd in [
            json!(7),
            json!({"sum_ns": 1}),
            json!({"sum_ns": "1", "counts": []}),
            json!({"sum_ns": 1, "counts": [1, -1]}),
        ] {
            assert_eq!(Times::of_document(&odd), None, "{odd}");
        }
    }
}
