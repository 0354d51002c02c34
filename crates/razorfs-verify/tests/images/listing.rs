//! All that can be seen of an image, as text: findings, how it opens, every inode.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

use razorfs::{FileKind, Ino, Volume};
use razorfs_disk::sim::{Image, SimDisk, SimEnv};
use razorfs_format::crc::crc32c;

use crate::common::{check, options};

pub fn of(image: &Image) -> String {
    let mut out = String::new();
    let report = check(image, 3);
    let kinds: BTreeSet<String> = report
        .findings
        .iter()
        .map(|f| format!("{} {} {:?}", f.severity, f.number, f.kind))
        .collect();
    for kind in kinds {
        writeln!(out, "finding: {kind}").unwrap();
    }
    let (disk, env) = (SimDisk::from_image(image), SimEnv::new(5));
    let mut options = options();
    options.read_only = true;
    match Volume::open_on(Arc::new(disk), Arc::new(env), options) {
        Err(e) => writeln!(out, "open: errno {}", e.errno()).unwrap(),
        Ok(volume) => {
            let report = volume.recovery_report();
            writeln!(
                out,
                "open: clean {}, {} operations replayed, torn {}, damaged {}",
                report.clean,
                report.ops,
                report.torn,
                !report.damage.is_empty()
            )
            .unwrap();
            let version = volume.info().version;
            writeln!(out, "version: {}.{}", version.0, version.1).unwrap();
            tree(&volume, Ino::ROOT, "", &mut out);
            for branch in volume.branches() {
                writeln!(
                    out,
                    "branch {} ({}): {} inodes, {} bytes",
                    branch.name, branch.id, branch.inodes, branch.bytes
                )
                .unwrap();
                let branch = volume.branch(branch).unwrap();
                tree(&branch, Ino::ROOT, "", &mut out);
            }
        }
    }
    out
}

fn tree(volume: &Volume, dir: Ino, path: &str, out: &mut String) {
    node(volume, dir, if path.is_empty() { "/" } else { path }, out);
    let mut names = BTreeMap::new();
    let listed = volume.collect_children(dir, 0, &mut |entry| {
        names.insert(entry.name.to_vec(), (entry.ino, entry.kind));
        true
    });
    if let Err(e) = listed {
        writeln!(out, "{path}/: errno {}", e.errno()).unwrap();
    }
    for (name, (ino, kind)) in names {
        let path = format!("{path}/{}", name.escape_ascii());
        if kind == FileKind::Directory {
            tree(volume, ino, &path, out);
        } else {
            node(volume, ino, &path, out);
        }
    }
}

fn node(volume: &Volume, ino: Ino, path: &str, out: &mut String) {
    let stat = match volume.stat(ino) {
        Ok(stat) => stat,
        Err(e) => {
            writeln!(out, "{path}: errno {}", e.errno()).unwrap();
            return;
        }
    };
    write!(
        out,
        "{path}: {} {:o} nlink {} owner {}:{} rdev {} size {} mtime {}.{:09} flags {:#x}",
        ino,
        stat.mode,
        stat.nlink,
        stat.uid,
        stat.gid,
        stat.rdev,
        stat.size,
        stat.mtime.secs,
        stat.mtime.nanos,
        stat.flags
    )
    .unwrap();
    match stat.kind() {
        FileKind::Regular => content(volume, ino, stat.size, out),
        FileKind::Symlink => match volume.read_link(ino) {
            Ok(target) => write!(out, " -> {}", target.escape_ascii()).unwrap(),
            Err(e) => write!(out, " -> errno {}", e.errno()).unwrap(),
        },
        _ => {}
    }
    out.push('\n');
    for name in volume.list_xattr(ino).unwrap_or_default() {
        let value = volume.get_xattr(ino, &name).map_err(|e| e.errno());
        let sum = value.map(|v| format!("{} bytes {:08x}", v.len(), crc32c(&[], &v)));
        writeln!(out, "{path}: {} = {sum:?}", name.escape_ascii()).unwrap();
    }
}

/// Length and checksum of what is not a hole, and the blocks that cannot be read.
fn content(volume: &Volume, ino: Ino, size: u64, out: &mut String) {
    const PIECE: u64 = 16 << 10;
    let mut sum = 0;
    let mut buf = vec![0; PIECE as usize];
    for at in (0..size.min(4 << 20)).step_by(PIECE as usize) {
        match volume.read(ino, at, &mut buf) {
            Ok(n) => sum = crc32c(&[u64::from(sum), at], &buf[..n]),
            Err(e) => write!(out, " errno {} at {at}", e.errno()).unwrap(),
        }
    }
    write!(out, " content {sum:08x}").unwrap();
}
