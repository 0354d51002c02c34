//! The names of snapshots that are there as long as a commit runs.
//!
//! A command that is killed cannot delete its own, and they keep space. So a name says which
//! process it is of, and the next command deletes those of processes that are gone.

use std::path::Path;

use crate::commands::snapshot;
use crate::failure::{Failure, Result};
use crate::points;
use crate::socket::Points;

/// Makes the names of one command.
pub struct Passing {
    stem: String,
}

/// A process, told from all that there are and were.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Process {
    /// The start of the system.
    boot: String,
    /// The process ids that it is one of.
    namespace: String,
    pid: u32,
    /// When it began.
    began: u64,
}

impl Passing {
    /// For this process.
    pub fn new() -> Result<Self> {
        let own = Process::own()?;
        // Also of two that have come into other namespaces with the same numbers.
        let random = crate::env().random();
        let Process {
            boot,
            namespace,
            pid,
            began,
        } = own;
        Ok(Self {
            stem: format!("commit-{boot}-{namespace}-{pid}-{began}-{random:016x}"),
        })
    }

    /// One of them.
    pub fn name(&self, which: &str) -> String {
        format!("{}-{which}", self.stem)
    }
}

impl Process {
    fn own() -> Result<Self> {
        let failed = |path: &str, e: &std::io::Error| Failure::host("read", path, e);
        let boot = "/proc/sys/kernel/random/boot_id";
        let text = std::fs::read_to_string(boot).map_err(|e| failed(boot, &e))?;
        let namespace = "/proc/self/ns/pid";
        let link = std::fs::read_link(namespace).map_err(|e| failed(namespace, &e))?;
        let link = link.to_string_lossy();
        let pid = std::process::id();
        let missing = || failed("/proc/self/stat", &std::io::ErrorKind::InvalidData.into());
        Ok(Self {
            boot: text
                .chars()
                .filter(char::is_ascii_hexdigit)
                .take(12)
                .collect(),
            namespace: link.chars().filter(char::is_ascii_digit).collect(),
            pid,
            began: began(pid).ok_or_else(missing)?,
        })
    }

    /// The one that a snapshot of this name is of.
    fn of(name: &str) -> Option<Self> {
        let parts: Vec<&str> = name.split('-').collect();
        let ["commit", boot, namespace, pid, began, random, "from" | "to"] = *parts else {
            return None;
        };
        let is_hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
        let is_ours = boot.len() == 12 && random.len() == 16 && is_hex(boot) && is_hex(random);
        is_ours.then_some(())?;
        Some(Self {
            boot: boot.to_owned(),
            namespace: namespace.to_owned(),
            pid: pid.parse().ok()?,
            began: began.parse().ok()?,
        })
    }

    /// Whether it is gone for certain, as `own` can tell: of another start of the system all are,
    /// as only commands of one system use a volume at a time.
    fn is_gone(&self, own: &Self) -> bool {
        if self.boot != own.boot {
            return true;
        }
        self.namespace == own.namespace && began(self.pid) != Some(self.began)
    }
}

/// When a process began, in ticks since the start of the system; `None` if there is none.
fn began(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Its name comes before, and may have anything in it.
    stat.rsplit(") ").next()?.split(' ').nth(19)?.parse().ok()
}

/// Deletes those of commands that are gone.
pub fn sweep(place: &Path) -> Result<()> {
    let own = Process::own()?;
    let document = snapshot::do_at(place, &Points::List)?;
    for name in points::names_in(&document) {
        if Process::of(&name).is_some_and(|process| process.is_gone(&own)) {
            let deleted = snapshot::do_at(place, &Points::Delete(name));
            if let Err(failure) = deleted {
                // It may be mounted. It is in nobody's way, but for the space.
                eprintln!("razorfs: {failure}");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_that_is_known_to_be_gone_loses_its_snapshots() {
        let names = Passing::new().unwrap();
        let other = Passing::new().unwrap();
        assert_ne!(names.name("from"), other.name("from"));
        let own = Process::own().unwrap();
        assert_eq!(Process::of(&names.name("to")), Some(own.clone()));
        assert!(!own.is_gone(&own));
        let later = Process {
            began: own.began + 1,
            ..own.clone()
        };
        assert!(later.is_gone(&own));
        let elsewhere = Process {
            namespace: "7".into(),
            ..later.clone()
        };
        assert!(!elsewhere.is_gone(&own));
        let before = Process {
            boot: "0123456789ab".into(),
            ..elsewhere
        };
        assert!(before.is_gone(&own));
        for name in [
            "commit-from-4711",
            "commit-a-1-1-1-0123456789abcdef-from",
            "before-commit-20261130T105554Z",
            "mine",
        ] {
            assert_eq!(Process::of(name), None, "{name}");
        }
    }
}
