//! A tree of real files, from what is on any machine that builds Rust.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::run;

/// Larger files would make the tests measure the disk.
const MAX_BYTES: u64 = 96 << 10;

/// The tree as a directory of the host, in two halves.
pub struct Source {
    pub dir: PathBuf,
    pub files: usize,
}

impl Source {
    /// Makes a tree of `files` real files below `room`: the first that a walk in order finds in
    /// the sources and documentation of the Rust tool chain and the host; generated ones where
    /// that is not enough. The same on every run on one machine.
    pub fn make(room: &Path, files: usize) -> Self {
        let dir = room.join("source");
        let mut found = BTreeMap::new();
        for root in roots() {
            let name = root.to_string_lossy().replace('/', "_");
            let want = files - found.len();
            collect(&root, Path::new(&name), want, &mut found);
        }
        for (n, (to, from)) in found.iter().enumerate() {
            // Both halves have the shape of the whole.
            let half = if n % 2 == 0 { "first" } else { "second" };
            let to = dir.join(half).join(to);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(from, &to).unwrap();
        }
        for n in found.len()..files {
            let half = if n % 2 == 0 { "first" } else { "second" };
            let to = dir
                .join(half)
                .join(format!("generated/{}/{n}.txt", n / 100));
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            let text = format!("line {n} of a file that no machine had\n");
            fs::write(to, text.repeat(n % 500)).unwrap();
        }
        for half in ["first", "second"] {
            let tar = room.join(format!("{half}.tar"));
            run(Command::new("tar")
                .arg("cf")
                .arg(tar)
                .arg("-C")
                .arg(dir.join(half))
                .arg("."));
        }
        Self { dir, files }
    }

    pub fn half(&self, half: &str) -> PathBuf {
        self.dir.join(half)
    }

    pub fn tar(&self, half: &str) -> PathBuf {
        self.dir.with_file_name(format!("{half}.tar"))
    }
}

fn roots() -> Vec<PathBuf> {
    let mut roots = Vec::new();
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    if let Some(cargo) = cargo.or(home.map(|home| home.join(".cargo"))) {
        roots.push(cargo.join("registry/src"));
    }
    roots.push("/usr/include".into());
    roots.push("/usr/share".into());
    let output = Command::new("rustc").args(["--print", "sysroot"]).output();
    if let Ok(output) = output {
        let sysroot = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        roots.push(sysroot.join("share/doc"));
    }
    roots
}

/// The regular files below `dir`, in order, until there are enough.
fn collect(dir: &Path, name: &Path, want: usize, into: &mut BTreeMap<PathBuf, PathBuf>) {
    let enough = into.len() + want;
    let mut stack = vec![(dir.to_path_buf(), name.to_path_buf())];
    while let Some((path, name)) = stack.pop() {
        if into.len() >= enough {
            return;
        }
        let Ok(meta) = fs::symlink_metadata(&path) else {
            continue;
        };
        if meta.is_dir() {
            let mut below: Vec<_> = fs::read_dir(&path)
                .into_iter()
                .flatten()
                .flatten()
                .collect();
            below.sort_by_key(fs::DirEntry::file_name);
            let below = below.into_iter().rev();
            stack.extend(below.map(|e| (e.path(), name.join(e.file_name()))));
        } else if meta.is_file() && meta.len() <= MAX_BYTES && fs::File::open(&path).is_ok() {
            into.insert(name, path);
        }
    }
}

/// All regular files below `dir`, relative to it.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut stack = vec![PathBuf::new()];
    while let Some(path) = stack.pop() {
        let full = dir.join(&path);
        let meta = fs::symlink_metadata(&full).unwrap();
        if meta.is_dir() {
            let below = fs::read_dir(&full).unwrap();
            stack.extend(below.map(|e| path.join(e.unwrap().file_name())));
        } else if meta.is_file() {
            files.push(path);
        }
    }
    files
}
