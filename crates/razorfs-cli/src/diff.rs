//! What differs between two states of a volume, as commands and the daemon hand it on.

use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use razorfs::{Change, ChangeKind, Difference, Volume};
use serde_json::{Value, json};

use crate::commands::ls::kind_name;
use crate::failure::{Failure, Result, shown, shown_bytes};
use crate::points;
use crate::shows::path_from_json;
use crate::size::human;

/// Differences that are handed on at a time.
const SOME: usize = 500;

/// Two states of a volume; `None` is the present.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ends {
    /// The older one.
    pub from: Option<String>,
    /// The newer one.
    pub to: Option<String>,
}

impl Ends {
    /// As a request says it.
    pub fn to_json(&self) -> Value {
        json!({"from": self.from, "to": self.to})
    }

    /// From a request.
    pub fn from_json(value: &Value) -> std::result::Result<Self, String> {
        let end = |name: &str| match value.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(name)) => Ok(Some(name.clone())),
            Some(_) => Err(format!("{name} is not the name of a snapshot")),
        };
        Ok(Self {
            from: end("from")?,
            to: end("to")?,
        })
    }
}

/// Finds what differs, and hands it on in pieces, each an array of documents.
pub fn find(
    volume: &Volume,
    path: &Path,
    ends: &Ends,
    each: &mut dyn FnMut(Value) -> Result<()>,
) -> Result<()> {
    let state = |name: &Option<String>| match name {
        Some(name) => points::view(volume, path, name),
        None => Ok(volume.clone()),
    };
    let (old, new) = (state(&ends.from)?, state(&ends.to)?);
    let changes = old.diff(&new);
    let changes = changes.map_err(|e| Failure::engine("compare states of", path, &e))?;
    for some in changes.chunks(SOME) {
        each(some.iter().map(document).collect())?;
    }
    Ok(())
}

/// A path in a difference, to the byte.
pub fn exact(change: &Value, name: &str) -> Option<PathBuf> {
    let bytes = change.get(format!("{name}_bytes")).and_then(path_from_json);
    bytes.or_else(|| {
        let shown = change.get(name)?.as_str()?;
        Some(shown.strip_prefix('/')?.into())
    })
}

/// One difference.
fn document(change: &Change) -> Value {
    let mut document = plain(change);
    for (name, path) in [("path", Some(&change.path)), ("from", change.from.as_ref())] {
        // What is shown is not the path itself where that has control bytes, or is no text.
        let escaped = path.filter(|path| *path.as_os_str() != *shown(path));
        if let (Some(path), Some(fields)) = (escaped, document.as_object_mut()) {
            let bytes: Value = path.as_os_str().as_bytes().into();
            fields.insert(format!("{name}_bytes"), bytes);
        }
    }
    document
}

fn plain(change: &Change) -> Value {
    let path = |path: &Path| format!("/{}", shown_bytes(path.as_os_str().as_bytes()));
    let word = match change.kind {
        ChangeKind::Added => "added",
        ChangeKind::Removed => "removed",
        ChangeKind::Renamed => "renamed",
        ChangeKind::Changed => "changed",
    };
    json!({
        "change": word,
        "path": path(&change.path),
        "from": change.from.as_deref().map(path),
        "kind": kind_name(change.file),
        "ino": change.ino.0,
        "size_before": change.size_before,
        "size_after": change.size_after,
        "differs": words(change.differs),
    })
}

/// What of a file is another.
fn words(differs: Difference) -> Vec<&'static str> {
    let all = [
        (differs.content, "content"),
        (differs.mode, "mode"),
        (differs.owner, "owner"),
        (differs.attributes, "attributes"),
        (differs.times, "times"),
    ];
    let found = all.into_iter().filter(|(is, _)| *is);
    found.map(|(_, word)| word).collect()
}

/// Colours of a terminal, or none.
#[derive(Clone, Copy)]
pub struct Colours(pub bool);

impl Colours {
    fn paint(self, code: &str, text: &str) -> String {
        match self.0 {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }

    /// A line of a unified diff.
    pub fn patch(self, line: &str) -> String {
        match line.as_bytes().first() {
            Some(b'+') => self.paint("32", line),
            Some(b'-') => self.paint("31", line),
            Some(b'@') => self.paint("36", line),
            _ => line.to_owned(),
        }
    }
}

fn field<'v>(value: &'v Value, name: &str) -> &'v str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// The line of a difference, for people.
pub fn line(change: &Value, colours: Colours) -> String {
    let size = |name: &str| change.get(name).and_then(Value::as_u64);
    let is_file = field(change, "kind") == "file";
    let slash = match field(change, "kind") {
        "directory" => "/",
        _ => "",
    };
    let path = shown_bytes(field(change, "path").as_bytes());
    let (mark, code) = match field(change, "change") {
        "added" => ("A", "32"),
        "removed" => ("D", "31"),
        "renamed" => ("R", "36"),
        _ => ("M", "33"),
    };
    let mut text = format!("{mark} {path}{slash}");
    if mark == "R" {
        let from = shown_bytes(field(change, "from").as_bytes());
        text = format!("R {from}{slash} -> {path}{slash}");
    }
    let mut line = colours.paint(code, &text);
    let differs = change.get("differs").and_then(Value::as_array);
    let words: Vec<&str> = differs
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let sizes = match (mark, size("size_before"), size("size_after")) {
        _ if !is_file => None,
        ("A", _, Some(after)) => Some(human(after)),
        ("D", Some(before), _) => Some(human(before)),
        (_, Some(before), Some(after)) if before != after => {
            Some(format!("{} -> {}", human(before), human(after)))
        }
        _ => None,
    };
    let notes: Vec<String> = words.into_iter().map(str::to_owned).chain(sizes).collect();
    if !notes.is_empty() {
        // Writing to a string cannot fail.
        let _ = write!(line, "  ({})", notes.join(", "));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_what_became_of_a_file() {
        let change = |change: &str, from: Value, before: Value, after: Value, differs: Value| {
            json!({"change": change, "path": "/a b", "from": from, "kind": "file", "ino": 7,
                "size_before": before, "size_after": after, "differs": differs})
        };
        let none = Value::Null;
        let plain = |value: &Value| line(value, Colours(false));
        let added = change("added", none.clone(), none.clone(), json!(2048), json!([]));
        assert_eq!(plain(&added), "A /a b  (2.0 KiB)");
        let removed = change("removed", none.clone(), json!(7), none.clone(), json!([]));
        assert_eq!(plain(&removed), "D /a b  (7 B)");
        let renamed = change("renamed", json!("/x"), json!(7), json!(7), json!(["mode"]));
        assert_eq!(plain(&renamed), "R /x -> /a b  (mode)");
        let changed = change("changed", none, json!(7), json!(9), json!(["content"]));
        assert_eq!(plain(&changed), "M /a b  (content, 7 B -> 9 B)");
        assert!(line(&changed, Colours(true)).starts_with("\x1b[33mM /a b\x1b[0m"));
    }

    #[test]
    fn a_path_that_is_no_text_is_told_to_the_byte() {
        use std::os::unix::ffi::OsStringExt;
        let odd = std::ffi::OsString::from_vec(b"a\n\xff".to_vec());
        for path in [PathBuf::from("a b/c"), PathBuf::from(odd), "".into()] {
            let bytes: Value = path.as_os_str().as_bytes().into();
            let mut told = json!({"path": format!("/{}", shown(&path))});
            if told["path"] != format!("/{}", path.display()) {
                told["path_bytes"] = bytes;
            }
            assert_eq!(exact(&told, "path"), Some(path));
        }
        assert_eq!(exact(&json!({"from": null}), "from"), None);
    }

    #[test]
    fn ends_survive_the_wire() {
        for ends in [
            Ends {
                from: Some("a".into()),
                to: None,
            },
            Ends {
                from: None,
                to: Some("\"\\".into()),
            },
        ] {
            assert_eq!(Ends::from_json(&ends.to_json()), Ok(ends));
        }
        assert!(Ends::from_json(&json!({"from": 7})).is_err());
    }
}
