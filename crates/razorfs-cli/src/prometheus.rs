//! Counters as Prometheus reads them.

use std::path::Path;

use razorfs_fuse::Latency;
use serde_json::Value;

use crate::failure::shown;
use crate::latency::Times;

/// Counters that can go down.
const GAUGES: [&str; 7] = [
    "dirty_bytes",
    "orphans",
    "write_amplification",
    "cache_bytes",
    "cache_limit",
    "journal_used",
    "journal_capacity",
];

/// The document of `razorfs stats` about a volume, in the text format, version 0.0.4.
pub fn text(document: &Value, volume: &Path) -> String {
    let volume = format!("volume=\"{}\"", label(&shown(volume)));
    let mut text = String::new();
    for (name, value) in document.as_object().into_iter().flatten() {
        match (name.as_str(), value.as_object()) {
            ("schema", _) => {}
            ("latency", Some(kinds)) => {
                text.push_str("# TYPE razorfs_request_seconds histogram\n");
                for (kind, times) in kinds {
                    if let Some(times) = Times::of_document(times) {
                        let labels = format!("{volume},kind=\"{}\"", label(kind));
                        text.push_str(&histogram(&times, &labels));
                    }
                }
            }
            (name, kinds) => {
                if value.is_null() {
                    continue;
                }
                let (what, suffix) = match GAUGES.contains(&name) {
                    true => ("gauge", ""),
                    false => ("counter", "_total"),
                };
                text.push_str(&format!("# TYPE razorfs_{name}{suffix} {what}\n"));
                let Some(kinds) = kinds else {
                    text.push_str(&format!("razorfs_{name}{suffix}{{{volume}}} {value}\n"));
                    continue;
                };
                text.extend(kinds.iter().map(|(kind, n)| {
                    let kind = label(kind);
                    format!("razorfs_{name}{suffix}{{{volume},kind=\"{kind}\"}} {n}\n")
                }));
            }
        }
    }
    text
}

fn histogram(times: &Times, labels: &str) -> String {
    let mut text = String::new();
    let mut sum = 0;
    for (entry, count) in times.counts.iter().enumerate() {
        sum += count;
        let bound = match Latency::bound(entry) {
            Some(nanoseconds) => format!("{:e}", nanoseconds as f64 / 1e9),
            None => "+Inf".into(),
        };
        let line = format!("razorfs_request_seconds_bucket{{{labels},le=\"{bound}\"}} {sum}\n");
        text.push_str(&line);
    }
    let seconds = times.sum as f64 / 1e9;
    text.push_str(&format!(
        "razorfs_request_seconds_sum{{{labels}}} {seconds}\n"
    ));
    text.push_str(&format!(
        "razorfs_request_seconds_count{{{labels}}} {sum}\n"
    ));
    text
}

/// A label's value within its quotes.
fn label(text: &str) -> String {
    let text = text.replace('\\', "\\\\");
    text.replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn counters_have_types_and_the_volume_as_a_label() {
        let kinds = json!({"lookup": 5, "write": 2});
        let document = json!({"schema": 1, "ops": 7, "orphans": 1, "requests": kinds,
            "write_amplification": null});
        assert_eq!(
            text(&document, Path::new("/a\"b")),
            "# TYPE razorfs_ops_total counter\nrazorfs_ops_total{volume=\"/a\\\"b\"} 7\n\
             # TYPE razorfs_orphans gauge\nrazorfs_orphans{volume=\"/a\\\"b\"} 1\n\
             # TYPE razorfs_requests_total counter\n\
             razorfs_requests_total{volume=\"/a\\\"b\",kind=\"lookup\"} 5\n\
             razorfs_requests_total{volume=\"/a\\\"b\",kind=\"write\"} 2\n"
        );
    }

    #[test]
    fn times_are_a_histogram_that_adds_up() {
        let mut counts = vec![0; 25];
        (counts[0], counts[2], counts[24]) = (3, 4, 1);
        let latency = json!({"read": {"sum_ns": 1_500_000_000u64, "counts": counts}});
        let text = text(&json!({"latency": latency}), Path::new("/v"));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "# TYPE razorfs_request_seconds histogram");
        let labels = "{volume=\"/v\",kind=\"read\"";
        let bucket = |le, n| format!("razorfs_request_seconds_bucket{labels},le=\"{le}\"}} {n}");
        assert_eq!(lines[1], bucket("1.024e-6", 3));
        assert_eq!(lines[3], bucket("4.096e-6", 7));
        assert_eq!(lines[25], bucket("+Inf", 8));
        assert_eq!(
            lines[26],
            format!("razorfs_request_seconds_sum{labels}}} 1.5")
        );
        assert_eq!(
            lines[27],
            format!("razorfs_request_seconds_count{labels}}} 8")
        );
        assert_eq!(lines.len(), 28);
    }
}
