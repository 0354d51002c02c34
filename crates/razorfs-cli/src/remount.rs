//! `mount -o remount`: new flags for a mount that stays.
//!
//! mount(8) hands its helper all options, those that the mount has and the new ones after them.

use std::path::Path;

use razorfs::Atime;
use razorfs_fuse::MountOptions as Flags;
use serde_json::Value;

use crate::failure::{Failure, Result};
use crate::mountinfo::{self, Mount};
use crate::options::{MountOptions, grouped, of_volume};
use crate::place;
use crate::socket::{self, Request};

const WHAT: &str = "change the mount on";

/// Changes the flags of the mount on `dir` as the words of `-o` say.
pub fn run(dir: &Path, words: &[&str]) -> Result<u8> {
    let dir = place::absolute(dir)?;
    let Some(mount) = mountinfo::at(&dir) else {
        let remedy = "mount it first, without `remount`";
        return Err(Failure::with(
            WHAT,
            &dir,
            "no volume is mounted there",
            remedy,
        ));
    };
    let info = ask(&mount, Request::Info(Some(dir.clone())))?;
    let flags = new_flags(&mount, words, info.as_ref())?;
    let is_branch = info
        .as_ref()
        .is_some_and(|info| info.get("branch") != Some(&Value::Null));
    if mount.shows.is_some() && !is_branch && !flags.read_only {
        let cause = "what it shows does not change";
        return Err(Failure::with(WHAT, &dir, cause, "leave out `rw`"));
    }
    let opened_read_only = info.is_none_or(|info| info.get("read_only") != Some(&Value::Null));
    if opened_read_only && !flags.read_only {
        let cause = "the volume has been opened read-only";
        let remedy = "unmount it, and mount it without `ro`";
        return Err(Failure::with(WHAT, &dir, cause, remedy));
    }
    razorfs_fuse::remount(&dir, &flags).map_err(|e| Failure::at(WHAT, &dir, e))?;
    ask(&mount, Request::Remounted(dir))?;
    Ok(0)
}

/// Asks the daemon of a mount. One that could not put its socket into the volume, as it may not
/// write there, has none.
fn ask(mount: &Mount, request: Request) -> Result<Option<Value>> {
    let Some(mut stream) = socket::connect(&mount.volume) else {
        return Ok(None);
    };
    socket::ask(&mut stream, &mount.volume, request, &mut |_| {}).map(Some)
}

/// The flags of the mount, changed by the words.
fn new_flags(mount: &Mount, words: &[&str], info: Option<&Value>) -> Result<Flags> {
    let mut flags = flags_of(mount);
    for word in grouped(words.iter().copied()) {
        let word = word.as_str();
        let is_there = mount.options.split(',').any(|option| option == word);
        let is_flag = !matches!(word, "allow_other" | "noallow_other") && flags.set(word);
        if is_flag || is_there || matches!(word, "remount" | "silent" | "loud") {
            continue;
        }
        let asked = MountOptions::parse(&[word.to_owned()])?;
        // What fstab says of the mount comes along.
        if !asked.allow_other && runs_with(&asked, word, info) {
            continue;
        }
        let cause = format!("`{word}` cannot be changed while the volume is mounted");
        let remedy = format!("unmount it, and mount it again with `-o {word}`");
        return Err(Failure::with(WHAT, &mount.dir, cause, remedy));
    }
    Ok(flags)
}

/// Whether the daemon runs with what `word` asks for, if it is for the daemon.
fn runs_with(asked: &MountOptions, word: &str, info: Option<&Value>) -> bool {
    let (name, value) = word.split_once('=').unwrap_or((word, ""));
    let name = match name {
        // Either way is what `auto` asks for.
        "transport" if value == "auto" => return true,
        "transport" => return info.and_then(|info| info.get(name)?.as_str()) == Some(value),
        "acl" | "noacl" => "acl",
        name => match of_volume(name) {
            Some(name) => name,
            None => return true,
        },
    };
    let running = info.and_then(|info| info.get("options")?.get(name));
    running.is_some() && running == asked.document().get(name)
}

/// The flags that a mount has.
fn flags_of(mount: &Mount) -> Flags {
    // The kernel names those that restrict, and neither of the two that ask for times of access.
    let mut flags = Flags {
        suid: true,
        dev: true,
        atime: Atime::Strict,
        ..Flags::default()
    };
    for word in mount.flags.split(',') {
        flags.set(word);
    }
    flags
}

/// What reading does to times of access, as the flags of the mount have it.
pub fn atime_of(dir: &Path) -> Atime {
    match mountinfo::at(dir) {
        // On a mount that must not change nothing does.
        Some(mount) if flags_of(&mount).read_only => Atime::Never,
        Some(mount) => flags_of(&mount).atime,
        None => Atime::Never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn mount() -> Mount {
        Mount {
            dir: "/d".into(),
            source: "/v".into(),
            volume: "/v".into(),
            shows: None,
            flags: "rw,nosuid,noexec,relatime".into(),
            options: "rw,user_id=0,default_permissions,allow_other".into(),
            owner: Some(0),
        }
    }

    #[test]
    fn flags_change_and_the_others_stay() {
        let words = [
            "rw",
            "nosuid",
            "user_id=0",
            "allow_other",
            "remount",
            "ro",
            "exec",
            "noatime",
        ];
        let flags = new_flags(&mount(), &words, None).unwrap();
        assert!(flags.read_only && !flags.suid && flags.dev && flags.exec);
        assert_eq!(flags.atime, Atime::Never);
        let same = new_flags(&mount(), &["remount"], None).unwrap();
        assert!(!same.read_only && !same.suid && same.dev && !same.exec);
        assert_eq!(same.atime, Atime::Relative);
    }

    #[test]
    fn a_transport_is_not_accepted_that_nothing_comes_of() {
        let ask = |word: &str, running: Option<&str>| {
            let info = running.map(|running| json!({"options": {}, "transport": running}));
            let (mount, words) = (mount(), ["remount", word]);
            new_flags(&mount, &words, info.as_ref())
        };
        for running in ["uring", "dev"] {
            for asked in ["uring", "dev", "auto"] {
                let accepted = ask(&format!("transport={asked}"), Some(running)).is_ok();
                assert_eq!(accepted, asked == running || asked == "auto", "{asked}");
            }
        }
        let refused = ask("transport=uring", Some("dev")).unwrap_err().to_string();
        assert!(
            refused.contains("mount it again with `-o transport=uring`"),
            "{refused}"
        );
        // Where nobody can be asked.
        assert!(ask("transport=dev", None).is_err());
        assert!(ask("transport=usb", Some("dev")).is_err());
    }

    #[test]
    fn what_cannot_change_is_refused_unless_it_is_so_already() {
        let options = json!({
            "durability": "sync",
            "order": "default",
            "cache": 65536,
            "acl": true,
            "autosnap": "10m",
            "keep": "24h:hourly,7d:daily",
        });
        let info = json!({"options": options});
        let ask = |word| new_flags(&mount(), &["remount", word], Some(&info));
        for word in [
            "durability=sync",
            "sync",
            "cache=64K",
            "order=default",
            "autosnap=600s",
            "nofail",
            "x-a=b",
        ] {
            assert!(ask(word).is_ok(), "{word}");
        }
        for word in [
            "durability=async",
            "cache=1M",
            "order=strict",
            "autosnap=1h",
            "keep=24h:hourly",
            "noacl",
            "frob",
        ] {
            assert!(ask(word).is_err(), "{word}");
        }
        let words = ["remount", "keep=24h:hourly", "7d:daily"];
        assert!(new_flags(&mount(), &words, Some(&info)).is_ok());
        let mut other = mount();
        other.options = "rw".into();
        assert!(new_flags(&other, &["allow_other"], Some(&info)).is_err());
    }
}
