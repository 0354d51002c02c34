//! What a mount shows: the volume as it is now, a branch of it, or as it was.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use razorfs::Volume;
use serde_json::{Value, json};

use crate::failure::Result;
use crate::{branches, points};

/// What a mount shows of its volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Shows {
    /// What is there now.
    Head,
    /// What this snapshot has.
    Snapshot(String),
    /// What is there now in this branch.
    Branch(String),
    /// The snapshot or the branch of this name: whoever has the volume open knows which.
    Named(String),
}

impl Shows {
    /// What `name` stands for behind a volume, as in `VOLUME@NAME`.
    pub fn named(name: Option<&str>) -> Self {
        match name {
            None => Self::Head,
            Some(name) => Self::Named(name.to_owned()),
        }
    }

    /// The name behind the volume, if it has one.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Head => None,
            Self::Snapshot(name) | Self::Branch(name) | Self::Named(name) => Some(name),
        }
    }

    /// What the name stands for in this volume.
    pub fn in_volume(self, volume: &Volume) -> Self {
        match self {
            Self::Named(name) if has_branch(volume, &name) => Self::Branch(name),
            Self::Named(name) => Self::Snapshot(name),
            known => known,
        }
    }

    /// The name of the snapshot, if it is one.
    pub fn snapshot(&self) -> Option<&str> {
        match self {
            Self::Snapshot(name) => Some(name),
            Self::Head | Self::Branch(_) | Self::Named(_) => None,
        }
    }

    /// The name of the branch, if it is one.
    pub fn branch(&self) -> Option<&str> {
        match self {
            Self::Branch(name) => Some(name),
            Self::Head | Self::Snapshot(_) | Self::Named(_) => None,
        }
    }

    /// What a document has in `snapshot` and `branch`.
    pub fn of_document(document: &Value) -> Self {
        let text = |key| document.get(key).and_then(Value::as_str).map(str::to_owned);
        match (text("snapshot"), text("branch")) {
            (Some(name), _) => Self::Snapshot(name),
            (None, Some(name)) => Self::Branch(name),
            (None, None) => Self::Head,
        }
    }

    /// Whether the volume has it.
    pub fn is_there(&self, volume: &Volume) -> bool {
        let has_snapshot = |name: &str| volume.snapshots().iter().any(|s| s.name == name);
        match self {
            Self::Head => true,
            Self::Snapshot(name) => has_snapshot(name),
            Self::Branch(name) => has_branch(volume, name),
            Self::Named(name) => has_branch(volume, name) || has_snapshot(name),
        }
    }

    /// Whether it stays as it is: then it may be mounted several times, and only for reading. What
    /// changes is mounted once, as each mount has caches of its own in the kernel.
    pub const fn is_fixed(&self) -> bool {
        match self {
            Self::Head | Self::Branch(_) | Self::Named(_) => false,
            Self::Snapshot(_) => true,
        }
    }

    /// The volume as it is shown. It stays, whatever is deleted, until the last clone of this is
    /// dropped.
    pub fn of(&self, volume: &Volume, path: &Path) -> Result<Volume> {
        match self {
            Self::Head => Ok(volume.clone()),
            Self::Snapshot(name) => points::snapshot(volume, path, name),
            Self::Branch(name) => branches::open(volume, path, name),
            Self::Named(name) => points::view(volume, path, name),
        }
    }

    /// What the kernel's list of mounts names as the source of one: `VOLUME`, or `VOLUME@NAME`.
    pub fn source(&self, volume: &Path) -> OsString {
        let mut source = volume.as_os_str().to_owned();
        if let Some(name) = self.name() {
            source.push("@");
            source.push(name);
        }
        source
    }

    /// For people, behind `it` or the directory.
    pub fn text(&self) -> String {
        match self {
            Self::Head => "the present".into(),
            Self::Snapshot(name) => format!("the snapshot {name}"),
            Self::Branch(name) => format!("the branch {name}"),
            Self::Named(name) => format!("{name:?}"),
        }
    }

    /// For other processes.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Head => json!({"kind": "head"}),
            Self::Snapshot(name) => json!({"kind": "snapshot", "name": name}),
            Self::Branch(name) => json!({"kind": "branch", "name": name}),
            Self::Named(name) => json!({"kind": "named", "name": name}),
        }
    }

    /// What they meant.
    pub fn from_json(value: &Value) -> Option<Self> {
        let name = || Some(value.get("name")?.as_str()?.to_owned());
        match value.get("kind")?.as_str()? {
            "head" => Some(Self::Head),
            "snapshot" => name().map(Self::Snapshot),
            "branch" => name().map(Self::Branch),
            "named" => name().map(Self::Named),
            _ => None,
        }
    }
}

fn has_branch(volume: &Volume, name: &str) -> bool {
    volume.branches().iter().any(|branch| branch.name == name)
}

/// A path for other processes; one that is no text as its bytes.
pub fn path_to_json(path: &Path) -> Value {
    match path.to_str() {
        Some(text) => text.into(),
        None => path.as_os_str().as_bytes().into(),
    }
}

/// The path that they meant.
pub fn path_from_json(value: &Value) -> Option<PathBuf> {
    if let Some(text) = value.as_str() {
        return Some(text.into());
    }
    let bytes = value.as_array()?.iter();
    let bytes = bytes.map(|byte| byte.as_u64().and_then(|byte| u8::try_from(byte).ok()));
    let bytes: Option<Vec<u8>> = bytes.collect();
    Some(OsString::from_vec(bytes?).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_and_where_survives_the_wire() {
        let name = || "\"ä\\".to_owned();
        let named = [Shows::Snapshot(name()), Shows::Branch(name())];
        for shows in named.into_iter().chain([Shows::Head, Shows::Named(name())]) {
            assert_eq!(Shows::from_json(&shows.to_json()), Some(shows));
        }
        for odd in [json!(null), json!({"kind": "snapshot"}), json!({"kind": 7})] {
            assert_eq!(Shows::from_json(&odd), None, "{odd}");
        }
        for bytes in [&b"/a b/\xc3\xa4"[..], b"/\xff\x01"] {
            let path = PathBuf::from(OsString::from_vec(bytes.to_vec()));
            assert_eq!(path_from_json(&path_to_json(&path)), Some(path));
        }
        for odd in [json!(7), json!([1, 256]), json!(["/"])] {
            assert_eq!(path_from_json(&odd), None, "{odd}");
        }
    }
}
