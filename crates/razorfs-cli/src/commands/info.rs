//! `razorfs info`: what a volume is and how it is.

use std::path::{Path, PathBuf};

use razorfs::{Options, Volume};
use serde_json::{Value, json};

use crate::commands::{print_json, print_text, scrub};
use crate::failure::{Failure, Result};
use crate::place::{self, Place};
use crate::shows::Shows;
use crate::size;
use crate::socket::Request;

/// Shows what a volume is and how it is
#[derive(clap::Args, Debug)]
#[command(
    after_help = "--json prints one object: schema (1), volume, mounted (the mount point or \
null), pid (of the daemon or null), uuid, format, features {compat, ro_compat, incompat}, \
generation, inodes, bytes, snapshots and branches (how many there are), limit (or null), \
segments {count, bytes}, packs {count, bytes, live_bytes}, journal_bytes, parity (null, or \
bytes, missing_packs), scrub (as that of `razorfs scrub`), space {total, free} of the \
volume, recovery {clean, batches, ops, bytes, torn, orphans, redone} when it was opened \
(redone: what a daemon that died had acknowledged and no journal had, or null), keeper \
(null, or {pid (null if it died), restarts}), transport (uring or dev), snapshot and branch \
(that it shows, or null) of the mount, which is the one that was named, or that of what is \
there now, mounts (array of all: dir, snapshot, branch, read_only, transport; absent if \
there are none), damage and healed (arrays of lines), read_only (why, or null), failing \
(array of lines: maintenance whose last try failed, it is tried again), health (ok, failing, \
read-only or damaged). Sizes are in bytes.

Examples:
  razorfs info demo.rzfs
  razorfs info mnt --json | jq .bytes"
)]
pub struct Args {
    /// A volume or a mount point
    place: PathBuf,
    /// Prints one JSON document
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8> {
    let document = of(&args.place)?;
    if args.json {
        print_json(&document)?;
    } else {
        print_text(&text(&document))?;
    }
    Ok(0)
}

/// The document about a place.
pub fn of(place: &Path) -> Result<Value> {
    match Place::find(place)? {
        Place::Live(mut live) => live.ask(Request::Info(live.named.clone())),
        Place::Closed(path) => {
            let options = Options {
                read_only: true,
                ..Options::default()
            };
            let volume = place::open(&path, options)?;
            let document = document(&volume, &path, None);
            let closed = volume.close();
            closed.map_err(|e| Failure::engine("close", &path, &e))?;
            document
        }
    }
}

/// The document about an open volume.
pub fn document(volume: &Volume, path: &Path, mounted: Option<&Path>) -> Result<Value> {
    let info = volume.info();
    let recovery = volume.recovery_report();
    let space = volume
        .space()
        .map_err(|e| Failure::engine("look at", path, &e))?;
    let health = if !recovery.damage.is_empty() {
        "damaged"
    } else if info.read_only.is_some() && mounted.is_some() {
        "read-only"
    } else if !info.failing.is_empty() {
        "failing"
    } else {
        "ok"
    };
    let [compat, ro_compat, incompat] = info.features;
    Ok(json!({
        "schema": 1,
        "volume": crate::failure::shown(path),
        "mounted": mounted.map(crate::failure::shown),
        "pid": mounted.map(|_| std::process::id()),
        "uuid": uuid(info.uuid),
        "format": format!("{}.{}", info.version.0, info.version.1),
        "features": {"compat": compat, "ro_compat": ro_compat, "incompat": incompat},
        "generation": info.generation,
        "inodes": info.inodes,
        "bytes": info.bytes,
        "snapshots": volume.snapshots().len(),
        "branches": volume.branches().len(),
        "limit": info.limit,
        "segments": {"count": info.segments, "bytes": info.segment_bytes},
        "packs": {
            "count": info.packs,
            "bytes": info.pack_bytes,
            "live_bytes": info.pack_live_bytes,
        },
        "journal_bytes": info.journal_bytes,
        "parity": info.parity_bytes.map(|bytes| json!({
            "bytes": bytes,
            "missing_packs": info.parity_missing,
        })),
        "scrub": scrub::document(&volume.scrub_status()),
        "space": {"total": space.total, "free": space.free},
        "recovery": {
            "clean": recovery.clean,
            "batches": recovery.batches,
            "ops": recovery.ops,
            "bytes": recovery.bytes,
            "torn": recovery.torn,
            "orphans": recovery.orphans,
            "redone": recovery.redone,
        },
        "damage": recovery.damage,
        "healed": recovery.healed,
        "read_only": info.read_only,
        "failing": info.failing,
        "health": health,
    }))
}

fn uuid(bytes: [u8; 16]) -> String {
    let mut text = String::new();
    for (n, byte) in bytes.iter().enumerate() {
        if matches!(n, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// The document for people.
fn text(document: &Value) -> String {
    let number = |path: &str| document.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    let bytes = |path: &str| size::human(number(path));
    let word = |path: &str| {
        let value = document.pointer(path).and_then(Value::as_str);
        value.unwrap_or("-").to_owned()
    };
    let mut lines = vec![
        format!("volume      {}", word("/volume")),
        format!("mounted     {}", mounted(document)),
        format!("keeper      {}", keeper(document)),
        format!("requests    {}", transport(document)),
        format!("identity    {}", word("/uuid")),
        format!(
            "format      {}, features {:#x} {:#x} {:#x}, generation {}",
            word("/format"),
            number("/features/compat"),
            number("/features/ro_compat"),
            number("/features/incompat"),
            number("/generation")
        ),
        format!(
            "content     {} inodes, {}",
            number("/inodes"),
            bytes("/bytes")
        ),
        points(document),
        format!(
            "on disk     packs {} ({} of it in use), segments {}, journal {}",
            bytes("/packs/bytes"),
            bytes("/packs/live_bytes"),
            bytes("/segments/bytes"),
            bytes("/journal_bytes")
        ),
        format!(
            "space       {} free of {}",
            bytes("/space/free"),
            bytes("/space/total")
        ),
    ];
    lines.splice(2..2, also_mounted(document));
    if number("/limit") > 0 {
        lines.push(format!("limit       {}", bytes("/limit")));
    }
    if document.pointer("/parity/bytes").is_some() {
        let missing = match number("/parity/missing_packs") {
            0 => String::new(),
            n => format!(", {n} full packs are still without it"),
        };
        lines.push(format!("parity      {}{missing}", bytes("/parity/bytes")));
    }
    lines.push(format!("opened      {}", opened(document)));
    if let Some(scrub) = document.get("scrub") {
        let state = scrub.get("state").and_then(Value::as_str).unwrap_or("idle");
        lines.push(format!(
            "scrub       {state}, last pass {}",
            scrub::last(scrub)
        ));
    }
    lines.push(format!("health      {}", word("/health")));
    let why = document.pointer("/read_only").and_then(Value::as_str);
    if let Some(why) = why.filter(|_| word("/health") != "ok") {
        lines.push(format!("            {why}"));
    }
    let failing = document.pointer("/failing").and_then(Value::as_array);
    for line in failing.into_iter().flatten().filter_map(Value::as_str) {
        lines.push(format!("            {line}; it is tried again"));
    }
    let damage = document.pointer("/damage").and_then(Value::as_array);
    for line in damage.into_iter().flatten().filter_map(Value::as_str) {
        lines.push(format!("            {line}; run `razorfs verify`"));
    }
    let healed = document.pointer("/healed").and_then(Value::as_array);
    for line in healed.into_iter().flatten().filter_map(Value::as_str) {
        lines.push(format!("            {line}; check the disk"));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn points(document: &Value) -> String {
    let number = |key| document.get(key).and_then(Value::as_u64).unwrap_or(0);
    let (snapshots, branches) = (number("snapshots"), number("branches"));
    format!("snapshots   {snapshots}, branches {branches}")
}

/// Where it is mounted, and what is shown there.
fn mounted(document: &Value) -> String {
    let word = |key: &str| document.get(key).and_then(Value::as_str);
    let pid = document.get("pid").and_then(Value::as_u64).unwrap_or(0);
    let shows = Shows::of_document(document);
    match (word("mounted"), &shows) {
        (None, _) => "no".into(),
        (Some(dir), Shows::Head) => format!("{dir}, daemon {pid}"),
        (Some(dir), other) => format!("{dir}, daemon {pid}, shows {}", other.text()),
    }
}

/// Where it is mounted besides, each on a line.
fn also_mounted(document: &Value) -> Vec<String> {
    let named = document.get("mounted").and_then(Value::as_str);
    let mounts = document.get("mounts").and_then(Value::as_array);
    let others = mounts.into_iter().flatten().filter_map(|mount| {
        let word = |key: &str| mount.get(key).and_then(Value::as_str);
        let dir = word("dir").filter(|dir| Some(*dir) != named)?;
        let shows = Shows::of_document(mount).text();
        Some(format!("            {dir}, shows {shows}"))
    });
    others.collect()
}

/// Who starts another daemon if this one dies.
fn keeper(document: &Value) -> String {
    let number = |key| document.pointer(&format!("/keeper/{key}"))?.as_u64();
    let restarts = number("restarts").unwrap_or(0);
    match (
        document.pointer("/mounted").and_then(Value::as_str),
        number("pid"),
    ) {
        (None, _) => "-".into(),
        (Some(_), Some(pid)) => format!("{pid}, {restarts} restarts"),
        (Some(_), None) if document.pointer("/keeper").is_some_and(Value::is_object) => {
            format!("it has died, after {restarts} restarts")
        }
        (Some(_), None) if document.pointer("/options/keeper") == Some(&Value::Bool(true)) => {
            "none: mounted in the foreground, or razorfs.log tells why".into()
        }
        (Some(_), None) => "none, as mounted".into(),
    }
}

/// Which way the kernel's requests come.
fn transport(document: &Value) -> &'static str {
    match document.pointer("/transport").and_then(Value::as_str) {
        Some("uring") => "over io_uring",
        Some(_) => "over /dev/fuse",
        None => "-",
    }
}

fn opened(document: &Value) -> String {
    let recovery = |key: &str| document.pointer(&format!("/recovery/{key}"));
    let number = |key| recovery(key).and_then(Value::as_u64).unwrap_or(0);
    if recovery("clean").and_then(Value::as_bool) == Some(true) {
        return "after a clean end".into();
    }
    let after = match recovery("redone").and_then(Value::as_u64) {
        Some(redone) => format!("the death of a daemon: {redone} transactions done again,"),
        None => "a crash:".into(),
    };
    format!(
        "after {after} {} operations replayed, {} of journal",
        number("ops"),
        size::human(number("bytes"))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_document_is_shown_without_a_panic() {
        assert!(text(&json!({})).contains("mounted     no"));
        assert!(text(&json!({"damage": [1, "x"], "volume": 7})).contains("x; run"));
    }

    #[test]
    fn uuids_have_their_usual_form() {
        let text = uuid([0xab; 16]);
        assert_eq!(text, "abababab-abab-abab-abab-abababababab");
    }
}
