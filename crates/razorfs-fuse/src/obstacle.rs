//! What keeps this process from mounting, as far as can be told without trying.

use rustix::io::Errno;

/// Something in the way, and what to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Obstacle {
    /// What it is.
    pub found: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

/// The number of CAP_SYS_ADMIN.
const ADMIN: u32 = 21;

impl Obstacle {
    /// What this process lacks for mounting.
    #[must_use]
    pub fn of_this_process() -> Option<Self> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        Self::in_status(&status, rustix::process::geteuid().is_root())
    }

    /// The same of a text like `/proc/self/status`. Root mounts by itself, others through
    /// fusermount3, which is setuid root.
    fn in_status(status: &str, is_root: bool) -> Option<Self> {
        let field = |name: &str| {
            let mut lines = status.lines().filter_map(|line| line.split_once(':'));
            lines.find_map(|(field, value)| (field == name).then_some(value.trim()))
        };
        // What cannot be read is no obstacle.
        let has_admin = |name| {
            let set = field(name).and_then(|set| u64::from_str_radix(set, 16).ok());
            set.is_none_or(|set| set & 1 << ADMIN != 0)
        };
        if is_root {
            return (!has_admin("CapEff")).then_some(Self {
                found: "root lacks CAP_SYS_ADMIN here, as in most containers",
                remedy: "start the container with --cap-add SYS_ADMIN --device /dev/fuse",
            });
        }
        if field("NoNewPrivs") == Some("1") {
            return Some(Self {
                found: "this was started with no_new_privs, under which fusermount3 does not \
                        become root",
                remedy: "start it without (systemd: NoNewPrivileges=no, containers: without \
                         no-new-privileges), or mount as root",
            });
        }
        (!has_admin("CapBnd")).then_some(Self {
            found: "fusermount3 cannot get CAP_SYS_ADMIN here, as in most containers",
            remedy: "start the container with --cap-add SYS_ADMIN --device /dev/fuse",
        })
    }

    /// Why /dev/fuse cannot be opened, where that is known.
    #[must_use]
    pub fn of_device(errno: i32) -> Option<Self> {
        Some(match Errno::from_raw_os_error(errno) {
            Errno::ACCESS => Self {
                found: "its mode does not let you open it",
                remedy: "as root run `chmod 666 /dev/fuse`, as it is on most systems",
            },
            Errno::PERM => Self {
                found: "the container is not allowed to use it",
                remedy: "start the container with --device /dev/fuse",
            },
            Errno::NOENT => Self {
                found: "it is not there",
                remedy: "as root run `modprobe fuse`, or start the container with --device \
                         /dev/fuse",
            },
            Errno::NODEV | Errno::NXIO => Self {
                found: "the kernel has no FUSE",
                remedy: "as root run `modprobe fuse`, or use a kernel that has it",
            },
            _ => return None,
        })
    }
}

impl std::fmt::Display for Obstacle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; {}", self.found, self.remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(effective: &str, bounding: &str, no_new: u8, is_root: bool) -> Option<&'static str> {
        let status = format!(
            "Name:\trazorfs\nCapEff:\t{effective}\nCapBnd:\t{bounding}\nNoNewPrivs:\t{no_new}\n"
        );
        Obstacle::in_status(&status, is_root).map(|obstacle| obstacle.found)
    }

    const ALL: &str = "000001ffffffffff";
    const NONE: &str = "0000000000000000";
    /// What containers leave to root.
    const CONTAINER: &str = "00000000a80425fb";

    #[test]
    fn root_of_a_container_without_the_capability_cannot_mount() {
        assert_eq!(found(ALL, ALL, 0, true), None);
        // Root needs no setuid.
        assert_eq!(found(ALL, ALL, 1, true), None);
        let lacks = found(CONTAINER, CONTAINER, 0, true).unwrap();
        assert!(lacks.contains("CAP_SYS_ADMIN"), "{lacks}");
    }

    #[test]
    fn under_no_new_privs_nobody_but_root_can_mount() {
        assert_eq!(found(NONE, ALL, 0, false), None);
        let lacks = found(NONE, ALL, 1, false).unwrap();
        assert!(lacks.contains("no_new_privs"), "{lacks}");
        let lacks = found(NONE, CONTAINER, 0, false).unwrap();
        assert!(lacks.contains("fusermount3"), "{lacks}");
    }

    #[test]
    fn what_is_not_told_is_no_obstacle() {
        assert_eq!(Obstacle::in_status("", true), None);
        assert_eq!(Obstacle::in_status("CapEff:\tx\n", false), None);
    }

    #[test]
    fn a_device_that_may_not_be_opened_has_two_causes() {
        let remedy = |errno| Obstacle::of_device(errno).unwrap().remedy;
        assert!(remedy(libc::EACCES).contains("chmod"));
        assert!(remedy(libc::EPERM).contains("--device"));
        assert!(!remedy(libc::EPERM).contains("chmod"));
        assert_eq!(Obstacle::of_device(libc::EIO), None);
    }
}
