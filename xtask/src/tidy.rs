//! `cargo xtask tidy`: the house rules that neither the compiler nor clippy checks.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Columns of a line.
const MAX_COLUMNS: usize = 100;
/// Lines of a file, its tests not counted.
const MAX_FILE: usize = 600;
/// Lines of a function. The rule says about 70; this is where "about" ends.
const MAX_FUNCTION: usize = 80;

/// Checks the tree under `root`; the error lists every breach on a line of its own.
pub fn main(root: &Path) -> Result<(), String> {
    let mut breaches = Vec::new();
    let mut files = Vec::new();
    for top in ["crates", "xtask"] {
        collect(&root.join(top), &mut files)?;
    }
    files.sort();
    for path in &files {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let shown = path.strip_prefix(root).unwrap_or(path);
        Source::new(&shown.to_string_lossy(), &text).check(&mut breaches);
    }
    dependencies(root, &mut breaches)?;
    if breaches.is_empty() {
        println!("tidy: {} files, nothing to say", files.len());
        return Ok(());
    }
    let mut message = format!("{} breaches of the house rules", breaches.len());
    for breach in breaches {
        let _ = write!(message, "\n  {breach}");
    }
    Err(message)
}

/// All Rust files below `dir`.
fn collect(dir: &Path, into: &mut Vec<PathBuf>) -> Result<(), String> {
    let entries = std::fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    for entry in entries {
        let entry = entry.map_err(|e| format!("{}: {e}", dir.display()))?;
        let path = entry.path();
        if path.is_dir() {
            if entry.file_name() != "target" {
                collect(&path, into)?;
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
    Ok(())
}

/// One file.
struct Source<'a> {
    path: &'a str,
    lines: Vec<&'a str>,
    /// How many lines come before the tests.
    code: usize,
}

impl<'a> Source<'a> {
    fn new(path: &'a str, text: &'a str) -> Self {
        let lines: Vec<&str> = text.lines().collect();
        let code = if is_test_file(path) {
            0
        } else {
            test_module(&lines).unwrap_or(lines.len())
        };
        Self { path, lines, code }
    }

    fn code(&self) -> impl Iterator<Item = (usize, &'a str)> {
        self.lines.iter().copied().take(self.code).enumerate()
    }

    fn check(&self, breaches: &mut Vec<String>) {
        if self.code > MAX_FILE {
            breaches.push(format!(
                "{}: {} lines without its tests; at most {MAX_FILE}",
                self.path, self.code
            ));
        }
        for (n, line) in self.lines.iter().enumerate() {
            let columns = line.chars().count();
            // A row of a table in a comment cannot be wrapped.
            let row =
                line.trim_start().starts_with("//! |") || line.trim_start().starts_with("/// |");
            if columns > MAX_COLUMNS && !row {
                self.say(
                    breaches,
                    n,
                    &format!("{columns} columns; at most {MAX_COLUMNS}"),
                );
            }
            for mark in marks() {
                if line.contains(&mark) {
                    self.say(breaches, n, &format!("leftover mark {mark}"));
                }
            }
        }
        self.functions(breaches);
        self.doors(breaches);
    }

    fn say(&self, breaches: &mut Vec<String>, line: usize, what: &str) {
        breaches.push(format!("{}:{}: {what}", self.path, line + 1));
    }

    /// Functions that do not fit a screen. rustfmt closes a function with a brace in the column
    /// where its first line began, which is all that has to be parsed.
    fn functions(&self, breaches: &mut Vec<String>) {
        let mut open: Option<(usize, usize)> = None;
        for (n, line) in self.code() {
            let indent = line.len() - line.trim_start().len();
            match open {
                Some((start, column)) if indent == column && line.trim_end() == brace(column) => {
                    let lines = n - start + 1;
                    if lines > MAX_FUNCTION {
                        let what = format!("function of {lines} lines; at most {MAX_FUNCTION}");
                        self.say(breaches, start, &what);
                    }
                    open = None;
                }
                None if is_function(line) => open = Some((n, indent)),
                Some((_, column)) if is_function(line) && indent <= column => {
                    open = Some((n, indent));
                }
                _ => {}
            }
        }
    }

    /// What must not happen where.
    fn doors(&self, breaches: &mut Vec<String>) {
        let mut forbid = |words: &[&str], why: &str| {
            for (n, line) in self.code() {
                let code = without_text(line);
                if let Some(word) = words.iter().find(|w| code.contains(**w)) {
                    self.say(breaches, n, &format!("{word}: {why}"));
                }
            }
        };
        let within = |crate_name: &str| {
            self.path
                .strip_prefix("crates/")
                .and_then(|p| p.strip_prefix(crate_name))
                .is_some_and(|p| p.starts_with("/src/"))
        };
        let library = [
            "razorfs-format",
            "razorfs-disk",
            "razorfs",
            "razorfs-verify",
        ];
        let host = self.path.starts_with("crates/razorfs-disk/src/os");
        if library.iter().any(|c| within(c)) && !host {
            let why = "only razorfs-disk/src/os.rs touches the host's files";
            forbid(&["std::fs", "std::os::unix::fs", "rustix::fs"], why);
        }
        if within("razorfs-format") {
            let words = [
                "std::net",
                "std::thread",
                "std::time",
                "std::process",
                "std::env",
            ];
            forbid(&words, "format has no I/O, no threads and no clock");
        }
        if within("razorfs") && !self.path.starts_with("crates/razorfs/src/workers") {
            let words = ["thread::spawn", "thread::Builder", "thread::scope"];
            forbid(&words, "the engine spawns threads in workers/ only");
        }
    }
}

/// A line without its comment and without what stands in quotation marks.
fn without_text(line: &str) -> String {
    let line = line.split("//").next().unwrap_or(line);
    line.split('"').step_by(2).collect::<Vec<_>>().join("\"")
}

/// A closing brace in this column.
fn brace(column: usize) -> String {
    format!("{}}}", " ".repeat(column))
}

/// Whether a function begins on this line.
fn is_function(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let mut next = words.next();
    while let Some(word) = next {
        match word {
            "fn" => return true,
            "const" | "async" | "unsafe" | "extern" | "\"C\"" => {}
            _ if word == "pub" || word.starts_with("pub(") => {}
            _ => return false,
        }
        next = words.next();
    }
    false
}

/// Whether a file holds nothing but tests.
fn is_test_file(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("_tests.rs") || path.ends_with("/tests.rs")
}

/// Where the tests of a file begin: at a module, not at a single import or function.
fn test_module(lines: &[&str]) -> Option<usize> {
    let mut attribute = None;
    for (n, line) in lines.iter().enumerate() {
        if *line == "#[cfg(test)]" {
            attribute = Some(n);
        } else if line.starts_with("mod ") && line.ends_with('{') {
            if attribute.is_some() {
                return attribute;
            }
        } else if !line.starts_with("#[") {
            attribute = None;
        }
    }
    None
}

/// Marks of unfinished work. Put together here, so that this file does not breach its own rule.
fn marks() -> [String; 6] {
    [
        ["TO", "DO"].concat(),
        ["FIX", "ME"].concat(),
        ["XX", "X:"].concat(),
        ["todo", "!("].concat(),
        ["unimplemented", "!("].concat(),
        ["dbg", "!("].concat(),
    ]
}

/// Dependencies point one way: cli → fuse → razorfs → disk, format; cli → client → razorfs;
/// cli → verify → disk, format.
fn dependencies(root: &Path, breaches: &mut Vec<String>) -> Result<(), String> {
    let rules: [(&str, &[&str]); 6] = [
        (
            "razorfs-format",
            &["razorfs", "razorfs-disk", "razorfs-verify", "razorfs-fuse"],
        ),
        (
            "razorfs-disk",
            &[
                "razorfs",
                "razorfs-format",
                "razorfs-verify",
                "razorfs-fuse",
            ],
        ),
        (
            "razorfs",
            &[
                "razorfs-verify",
                "razorfs-client",
                "razorfs-fuse",
                "razorfs-cli",
            ],
        ),
        (
            "razorfs-verify",
            &["razorfs", "razorfs-client", "razorfs-fuse", "razorfs-cli"],
        ),
        (
            "razorfs-client",
            &["razorfs-verify", "razorfs-fuse", "razorfs-cli"],
        ),
        (
            "razorfs-fuse",
            &["razorfs-verify", "razorfs-client", "razorfs-cli"],
        ),
    ];
    for (name, forbidden) in rules {
        let path = root.join("crates").join(name).join("Cargo.toml");
        let text =
            std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        for found in linked(&text) {
            if forbidden.contains(&found.as_str()) {
                breaches.push(format!(
                    "crates/{name}/Cargo.toml: {name} must not link {found}"
                ));
            }
        }
    }
    Ok(())
}

/// The names in `[dependencies]` of a manifest. What only tests use does not count.
fn linked(manifest: &str) -> Vec<String> {
    let mut inside = false;
    let mut names = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.trim() == "[dependencies]";
        } else if inside && let Some(end) = line.find(['.', ' ', '=']) {
            names.push(line.chars().take(end).collect());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaches(path: &str, text: &str) -> Vec<String> {
        let mut breaches = Vec::new();
        Source::new(path, text).check(&mut breaches);
        breaches
    }

    #[test]
    fn long_function_is_reported_where_it_begins() {
        let body = "        x();\n".repeat(MAX_FUNCTION);
        let text = format!("impl A {{\n    pub(crate) const fn f() {{\n{body}    }}\n}}\n");
        let found = breaches("crates/razorfs/src/a.rs", &text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("crates/razorfs/src/a.rs:2:"));
    }

    #[test]
    fn tests_do_not_count_as_code() {
        let tests = "    x();\n".repeat(MAX_FILE);
        let text = format!("fn a() {{}}\n\n#[cfg(test)]\nmod tests {{\n{tests}}}\n");
        assert_eq!(breaches("crates/razorfs/src/a.rs", &text), [""; 0]);
        let text = "x();\n".repeat(MAX_FILE + 1);
        assert_eq!(breaches("crates/razorfs/src/a_tests.rs", &text), [""; 0]);
        assert_eq!(breaches("crates/razorfs/src/a.rs", &text).len(), 1);
    }

    #[test]
    fn doors_are_guarded() {
        let fs = "use std::fs::File;\n";
        assert_eq!(breaches("crates/razorfs/src/a.rs", fs).len(), 1);
        let said = "let x = \"as std::fs has it\"; // std::fs\n";
        assert_eq!(breaches("crates/razorfs/src/a.rs", said).len(), 0);
        assert_eq!(breaches("crates/razorfs-verify/src/a.rs", fs).len(), 1);
        assert_eq!(breaches("crates/razorfs-disk/src/os.rs", fs).len(), 0);
        assert_eq!(breaches("crates/razorfs-cli/src/a.rs", fs).len(), 0);
        let spawn = "std::thread::spawn(f);\n";
        assert_eq!(breaches("crates/razorfs/src/journal/a.rs", spawn).len(), 1);
        assert_eq!(
            breaches("crates/razorfs/src/workers/mod.rs", spawn).len(),
            0
        );
        assert_eq!(breaches("crates/razorfs-format/src/a.rs", spawn).len(), 1);
    }

    #[test]
    fn manifests_are_read() {
        let text =
            "[dependencies]\na.workspace = true\nb-c = \"1\"\n[dev-dependencies]\nd = \"1\"\n";
        assert_eq!(linked(text), ["a", "b-c"]);
    }
}
