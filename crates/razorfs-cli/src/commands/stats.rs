//! `razorfs stats`: what the engine has done since the volume was opened.

use std::path::PathBuf;

use razorfs::{Options, Volume};
use razorfs_fuse::Statistics;
use serde_json::{Map, Value, json};

use crate::commands::{print_json, print_text};
use crate::failure::{Failure, Result};
use crate::place::{self, Place};
use crate::socket::Request;

/// Shows what the engine has done since the volume was opened
#[derive(clap::Args, Debug)]
#[command(
    after_help = "--json prints one object: schema (1) and the counters ops, batches, \
journal_bytes, written_bytes, read_bytes, pack_bytes, segment_bytes, disk_syncs, checkpoints, \
compactions, cleaned_bytes, cleaned_packs, removed_packs, slowed_ns (by how long writers were \
slowed down where space is short), write_amplification (bytes written to journal, packs and \
segments for each byte of file data; null before there was any), dirty_bytes, \
orphans, parity_reads, parity_healed; of a mounted volume also what the \
kernel asked for since its daemon began: requests (object of a number for each kind that came), \
requests_failed (but for names that are not there), requests_read_bytes, requests_written_bytes.

Examples:
  razorfs stats mnt
  razorfs stats mnt --prometheus"
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

/// Counters that can go down.
const GAUGES: [&str; 3] = ["dirty_bytes", "orphans", "write_amplification"];

/// Runs the command.
pub fn run(args: &Args) -> Result<u8> {
    let document = match Place::find(&args.place)? {
        Place::Live(mut live) => live.ask(Request::Stats(live.named.clone()))?,
        Place::Closed(path) => {
            let options = Options {
                read_only: true,
                ..Options::default()
            };
            let volume = place::open(&path, options)?;
            let document = document(&volume, None);
            let closed = volume.close();
            closed.map_err(|e| Failure::engine("close", &path, &e))?;
            document
        }
    };
    if args.json {
        print_json(&document)?;
    } else {
        print_text(&text(&document, args.prometheus))?;
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
    });
    if let (Some(requests), Some(fields)) = (requests, document.as_object_mut()) {
        let kinds = requests.requests().into_iter();
        let kinds: Map<String, Value> = kinds.map(|(kind, n)| (kind.into(), n.into())).collect();
        fields.insert("requests".into(), kinds.into());
        fields.insert("requests_failed".into(), requests.failed().into());
        fields.insert("requests_read_bytes".into(), requests.bytes_read().into());
        let written = requests.bytes_written();
        fields.insert("requests_written_bytes".into(), written.into());
    }
    document
}

fn text(document: &Value, prometheus: bool) -> String {
    let mut text = String::new();
    for (name, value) in document.as_object().into_iter().flatten() {
        if name == "schema" || value.is_null() {
            continue;
        }
        if prometheus {
            let (kind, suffix) = if GAUGES.contains(&name.as_str()) {
                ("gauge", "")
            } else {
                ("counter", "_total")
            };
            text.push_str(&format!("# TYPE razorfs_{name}{suffix} {kind}\n"));
            match value.as_object() {
                None => text.push_str(&format!("razorfs_{name}{suffix} {value}\n")),
                Some(kinds) => {
                    text.extend(kinds.iter().map(|(kind, n)| {
                        format!("razorfs_{name}{suffix}{{kind=\"{kind}\"}} {n}\n")
                    }))
                }
            }
            continue;
        }
        let name = name.replace('_', " ");
        match value.as_object() {
            None => text.push_str(&format!("{name:23} {value}\n")),
            Some(kinds) => text.extend(kinds.iter().map(|(kind, n)| {
                let name = format!("{name}: {kind}");
                format!("{name:23} {n}\n")
            })),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prometheus_text_has_types() {
        let kinds = json!({"lookup": 5, "write": 2});
        let document = json!({"schema": 1, "ops": 7, "orphans": 1, "requests": kinds});
        assert_eq!(
            text(&document, true),
            "# TYPE razorfs_ops_total counter\nrazorfs_ops_total 7\n\
             # TYPE razorfs_orphans gauge\nrazorfs_orphans 1\n\
             # TYPE razorfs_requests_total counter\n\
             razorfs_requests_total{kind=\"lookup\"} 5\n\
             razorfs_requests_total{kind=\"write\"} 2\n"
        );
        assert_eq!(
            text(&document, false),
            "ops                     7\norphans                 1\n\
             requests: lookup        5\nrequests: write         2\n"
        );
    }
}
