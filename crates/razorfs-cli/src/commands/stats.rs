//! `razorfs stats`: what the engine has done since the volume was opened.

use std::path::PathBuf;

use razorfs::{Options, Volume};
use razorfs_fuse::Statistics;
use serde_json::{Map, Value, json};

use crate::commands::{print_json, print_text};
use crate::failure::{Failure, Result};
use crate::latency::Times;
use crate::place::{self, Place};
use crate::prometheus;
use crate::socket::Request;

/// Shows what the engine has done since the volume was opened
#[derive(clap::Args, Debug)]
#[command(
    after_help = "--json prints one object: schema (1) and the counters ops, batches, \
journal_bytes, written_bytes, read_bytes, pack_bytes, segment_bytes, disk_syncs, checkpoints, \
compactions, cleaned_bytes, cleaned_packs, removed_packs, slowed_ns (by how long writers were \
slowed down where space is short), write_amplification (bytes written to journal, packs and \
segments for each byte of file data; null before there was any), dirty_bytes, orphans, \
parity_reads, parity_healed, cache_bytes and cache_limit (of the cache of metadata), \
cache_lookups, cache_misses, journal_used (what the next checkpoint gives back) and \
journal_capacity; of a mounted volume also what the kernel asked for since its daemon began: \
requests (object of a number for each kind that came), requests_failed (but for names that are \
not there), requests_read_bytes, requests_written_bytes, latency (object of an object for each \
kind: sum_ns, all times together, and counts, an array of how many took at most 1024 ns, at most \
twice that, and so on up to 2^33 ns, and at last how many took longer).

--prometheus prints the same, each with the volume as a label, in the text format that Prometheus \
reads: razorfs_NAME, and razorfs_request_seconds as a histogram. `razorfs mount -o metrics=` \
serves it over HTTP. With the collector for text files of the node exporter it is enough to run \
the second of the examples now and then.

Examples:
  razorfs stats mnt
  razorfs stats mnt --prometheus > razorfs.prom.new && mv razorfs.prom.new razorfs.prom"
)]
pub struct Args {
    /// A volume or a mount point
    place: PathBuf,
    /// Prints one JSON document
    #[arg(long, conflicts_with = "prometheus")]
    json: bool,
    /// Prints the text format of Prometheus
    #[arg(long)]
    prometheus: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8> {
    let (document, volume) = match Place::find(&args.place)? {
        Place::Live(mut live) => {
            let document = live.ask(Request::Stats(live.named.clone()))?;
            (document, live.volume)
        }
        Place::Closed(path) => {
            let options = Options {
                read_only: true,
                ..Options::default()
            };
            let volume = place::open(&path, options)?;
            let document = document(&volume, None);
            let closed = volume.close();
            closed.map_err(|e| Failure::engine("close", &path, &e))?;
            (document, path)
        }
    };
    match (args.json, args.prometheus) {
        (true, _) => print_json(&document)?,
        (false, true) => print_text(&prometheus::text(&document, &volume))?,
        (false, false) => print_text(&text(&document))?,
    }
    Ok(0)
}

/// The counters of an open volume, and of the requests of the kernel.
pub fn document(volume: &Volume, requests: Option<&Statistics>) -> Value {
    let stats = volume.stats();
    let mut document = json!({
        "schema": 1,
        "ops": stats.ops,
        "batches": stats.batches,
        "journal_bytes": stats.journal_bytes,
        "written_bytes": stats.written_bytes,
        "read_bytes": stats.read_bytes,
        "pack_bytes": stats.pack_bytes,
        "segment_bytes": stats.segment_bytes,
        "disk_syncs": stats.disk_syncs,
        "checkpoints": stats.checkpoints,
        "compactions": stats.compactions,
        "cleaned_bytes": stats.cleaned_bytes,
        "cleaned_packs": stats.cleaned_packs,
        "removed_packs": stats.removed_packs,
        "slowed_ns": stats.slowed_ns,
        "write_amplification": stats.write_amplification().map(|n| n as f64 / 100.0),
        "dirty_bytes": stats.dirty_bytes,
        "orphans": stats.orphans,
        "parity_reads": stats.parity_reads,
        "parity_healed": stats.parity_healed,
        "cache_bytes": stats.cache_bytes,
        "cache_limit": stats.cache_limit,
        "cache_lookups": stats.cache_lookups,
        "cache_misses": stats.cache_misses,
        "journal_used": stats.journal_used,
        "journal_capacity": stats.journal_capacity,
    });
    if let (Some(requests), Some(fields)) = (requests, document.as_object_mut()) {
        let kinds = requests.requests().into_iter();
        let kinds: Map<String, Value> = kinds.map(|(kind, n)| (kind.into(), n.into())).collect();
        fields.insert("requests".into(), kinds.into());
        fields.insert("requests_failed".into(), requests.failed().into());
        fields.insert("requests_read_bytes".into(), requests.bytes_read().into());
        let written = requests.bytes_written();
        fields.insert("requests_written_bytes".into(), written.into());
        let latencies = requests.latencies().into_iter();
        let latencies = latencies.map(|(kind, latency)| {
            let counts = &latency.counts[..];
            (
                kind.to_owned(),
                json!({"sum_ns": latency.sum, "counts": counts}),
            )
        });
        fields.insert("latency".into(), latencies.collect::<Map<_, _>>().into());
    }
    document
}

/// The document for people.
fn text(document: &Value) -> String {
    let mut text = String::new();
    for (name, value) in document.as_object().into_iter().flatten() {
        if name == "schema" || value.is_null() {
            continue;
        }
        let shown = name.replace('_', " ");
        match (name.as_str(), value.as_object()) {
            (_, None) => text.push_str(&format!("{shown:23} {value}\n")),
            (name, Some(kinds)) => text.extend(kinds.iter().map(|(kind, of_kind)| {
                let shown = format!("{shown}: {kind}");
                match Times::of_document(of_kind).filter(|_| name == "latency") {
                    None => format!("{shown:23} {of_kind}\n"),
                    Some(times) => format!("{shown:23} {times}\n"),
                }
            })),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counter_is_a_line_for_people() {
        let kinds = json!({"lookup": 5, "write": 2});
        let latency = json!({"lookup": {"sum_ns": 6000, "counts": [1, 2]}});
        let document = json!({"schema": 1, "ops": 7, "orphans": 1, "requests": kinds,
            "latency": latency, "write_amplification": null});
        assert_eq!(
            text(&document),
            "latency: lookup         2.0 µs in the mean, 99 % within 2.0 µs\n\
             ops                     7\norphans                 1\n\
             requests: lookup        5\nrequests: write         2\n"
        );
    }

    #[test]
    fn the_counters_of_a_volume_are_all_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v");
        Volume::create(&path, &crate::commands::create::options()).unwrap();
        let volume = Volume::open(&path, Options::default()).unwrap();
        volume.root().write("a", b"some bytes").unwrap();
        volume.sync().unwrap();
        let document = document(&volume, None);
        let number = |key: &str| document[key].as_u64().unwrap();
        assert!(number("journal_used") > 0);
        assert!(number("journal_used") < number("journal_capacity"));
        assert_eq!(number("cache_limit"), Options::default().cache_bytes);
        assert!(number("cache_misses") <= number("cache_lookups"));
        volume.close().unwrap();
    }
}
