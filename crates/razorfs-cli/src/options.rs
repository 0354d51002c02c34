//! The options of `mount -o`.

use razorfs::{Atime, Durability};
use razorfs_fuse::TransportChoice;
use serde_json::{Value, json};
use tracing::Level;

use crate::autosnap::{Every, Keep};
use crate::failure::{Failure, Result};
use crate::metrics::Endpoint;
use crate::{log, size};

/// What the options say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// When writes are on the disk.
    pub durability: Durability,
    /// No write-back cache in the kernel: a crash leaves an exact prefix of the system calls.
    pub strict_order: bool,
    /// Bytes of the engine's cache.
    pub cache: Option<u64>,
    /// Other users may use the mount.
    pub allow_other: bool,
    /// Nothing is changed.
    pub read_only: bool,
    /// When reading sets the time of access.
    pub atime: Atime,
    /// Access lists are obeyed.
    pub acl: bool,
    /// A process stays that starts another daemon when the one of a mount in the background dies.
    pub keeper: bool,
    /// Which way the kernel's requests come.
    pub transport: TransportChoice,
    /// When automatic snapshots are taken, if they are.
    pub autosnap: Option<Every>,
    /// Which of these are kept.
    pub keep: Option<Keep>,
    /// Where the counters are served, if they are.
    pub metrics: Option<Endpoint>,
    /// Permissions of the socket, which tell what programs may use the volume beside the mount.
    pub socket_mode: Option<u32>,
    /// What is written to the log: this and what is more severe.
    pub log: Option<Level>,
    /// Flags for the kernel, such as `nosuid`.
    pub flags: Vec<String>,
    /// All words, for another process to read.
    pub words: Vec<String>,
}

/// What is shown where an option is unknown.
const LIST: &str = "durability=sync|async|journal-only, order=strict|default, cache=SIZE, \
    allow_other, ro, rw, acl, noacl, keeper, nokeeper, \
    transport=auto|uring|dev, autosnap=TIME|Nops, keep=AGE:all|hourly|daily|weekly,..., \
    metrics=ADDRESS:PORT|PATH, socket_mode=OCTAL, log=error|warn|info|debug|trace, \
    noatime, relatime, strictatime, nosuid, suid, nodev, dev, noexec, exec";

/// What fstab and mount(8) pass along, and what is not for us.
const IGNORED: [&str; 17] = [
    "defaults", "auto", "noauto", "user", "nouser", "users", "nousers", "owner", "noowner",
    "group", "nogroup", "nofail", "fail", "_netdev", "comment", "silent", "loud",
];

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            durability: Durability::default(),
            strict_order: false,
            cache: None,
            allow_other: false,
            read_only: false,
            atime: Atime::Relative,
            acl: true,
            keeper: true,
            transport: TransportChoice::Auto,
            autosnap: None,
            keep: None,
            metrics: None,
            socket_mode: None,
            log: None,
            flags: Vec::new(),
            words: Vec::new(),
        }
    }
}

impl MountOptions {
    /// What cannot be changed while the volume is mounted, for `info`.
    pub fn document(&self) -> Value {
        let durability = match self.durability {
            Durability::Sync => "sync",
            Durability::Async => "async",
            Durability::JournalOnly => "journal-only",
        };
        let order = if self.strict_order {
            "strict"
        } else {
            "default"
        };
        json!({
            "durability": durability,
            "order": order,
            "cache": self.cache,
            "acl": self.acl,
            "keeper": self.is_kept(),
            "autosnap": self.autosnap.map(|every| every.to_string()),
            "keep": self.keep.as_ref().map(ToString::to_string),
            "metrics": self.metrics.as_ref().map(ToString::to_string),
            "socket_mode": self.socket_mode.map(|mode| format!("{mode:04o}")),
            "log": self.log.map(|level| level.to_string().to_lowercase()),
        })
    }

    /// Whether a process stays that starts another daemon. Over io_uring none does: the kernel does
    /// not send requests again that way.
    pub fn is_kept(&self) -> bool {
        self.keeper && self.transport != TransportChoice::Uring
    }

    /// Reads the values of all `-o`, each a list separated by commas.
    pub fn parse(lists: &[String]) -> Result<Self> {
        let mut options = Self::default();
        for option in lists.iter().flat_map(|list| grouped(list.split(','))) {
            options.add(&option)?;
        }
        Ok(options)
    }

    /// Adds a word.
    pub fn add(&mut self, option: &str) -> Result<()> {
        self.apply(option.trim())?;
        self.words.push(option.to_owned());
        Ok(())
    }

    /// The first word that is for the whole volume, which is mounted with `running`, and asks for
    /// something else.
    pub fn is_against<'a>(&'a self, running: &Self) -> Result<Option<&'a str>> {
        for word in &self.words {
            let Some(name) = of_volume(word) else {
                continue;
            };
            let asked = Self::parse(std::slice::from_ref(word))?;
            if asked.document().get(name) != running.document().get(name) {
                return Ok(Some(word));
            }
        }
        Ok(None)
    }

    /// Refuses options that mean nothing together.
    pub fn check(&self) -> Result<()> {
        let why = match (self.autosnap, &self.keep) {
            (None, Some(_)) => {
                "keep is for automatic snapshots: add autosnap=TIME or autosnap=Nops"
            }
            (Some(_), _) if self.read_only => {
                "autosnap is for volumes that change: leave it out, or mount without `ro`"
            }
            _ => return Ok(()),
        };
        Err(Failure::new(format!("mount option {why}")))
    }

    fn apply(&mut self, option: &str) -> Result<()> {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        match (name, value) {
            ("durability", Some("sync")) => self.durability = Durability::Sync,
            ("durability", Some("async")) => self.durability = Durability::Async,
            ("durability", Some("journal-only")) => self.durability = Durability::JournalOnly,
            ("sync", None) => self.durability = Durability::Sync,
            ("async", None) => self.durability = Durability::Async,
            ("order", Some("strict")) => self.strict_order = true,
            ("order", Some("default")) => self.strict_order = false,
            ("cache", Some(value)) => {
                let bytes = size::parse(value)
                    .map_err(|e| Failure::new(format!("mount option cache: {e}")))?;
                self.cache = Some(bytes);
            }
            ("autosnap", Some(value)) => {
                let every = Every::parse(value);
                let every = every.map_err(|e| Failure::new(format!("mount option {name}: {e}")))?;
                self.autosnap = Some(every);
            }
            ("keep", Some(value)) => {
                let keep = Keep::parse(value);
                let keep = keep.map_err(|e| Failure::new(format!("mount option {name}: {e}")))?;
                self.keep = Some(keep);
            }
            ("metrics", Some(value)) => {
                let place = Endpoint::parse(value);
                let place = place.map_err(|e| Failure::new(format!("mount option {name}: {e}")))?;
                self.metrics = Some(place);
            }
            ("socket_mode", Some(value)) => {
                let mode = permissions(value);
                let mode = mode.map_err(|e| Failure::new(format!("mount option {name}: {e}")))?;
                self.socket_mode = Some(mode);
            }
            ("log", Some(value)) => {
                let level = log::level(value);
                let level = level.map_err(|e| Failure::new(format!("mount option {name}: {e}")))?;
                self.log = Some(level);
            }
            ("allow_other", None) => self.allow_other = true,
            ("ro", None) => self.read_only = true,
            ("rw", None) => self.read_only = false,
            ("acl", None) => self.acl = true,
            ("noacl", None) => self.acl = false,
            ("keeper", None) => self.keeper = true,
            ("nokeeper", None) => self.keeper = false,
            ("transport", Some("auto")) => self.transport = TransportChoice::Auto,
            ("transport", Some("uring")) => self.transport = TransportChoice::Uring,
            ("transport", Some("dev")) => self.transport = TransportChoice::Device,
            ("noatime", None) => self.atime = Atime::Never,
            ("relatime" | "atime", None) => self.atime = Atime::Relative,
            ("strictatime", None) => self.atime = Atime::Strict,
            ("nosuid" | "suid" | "nodev" | "dev" | "noexec" | "exec", None) => {
                self.flags.push(name.to_owned());
            }
            _ if option.is_empty() || name.starts_with("x-") || name.starts_with("X-") => {}
            _ if IGNORED.contains(&name) => {}
            _ => {
                let message = format!("unknown mount option {option:?}; there are {LIST}");
                return Err(Failure::new(message));
            }
        }
        Ok(())
    }
}

/// Permission bits as chmod(1) takes them, of which the owner keeps his.
fn permissions(text: &str) -> std::result::Result<u32, String> {
    let digits = text.bytes().all(|b| matches!(b, b'0'..=b'7')) && (3..=4).contains(&text.len());
    let mode = u32::from_str_radix(text, 8).ok().filter(|_| digits);
    match mode {
        Some(mode) if mode & !0o777 == 0 && mode & 0o600 == 0o600 => Ok(mode),
        _ => Err(format!(
            "{text:?} is not 0600 and more for others, such as 0660 or 0666"
        )),
    }
}

/// What an option that is for the whole volume, and not for one of its mounts, is called in the
/// document.
pub fn of_volume(option: &str) -> Option<&str> {
    match option.split_once('=').map_or(option, |(name, _)| name) {
        "sync" | "async" | "durability" => Some("durability"),
        "keeper" | "nokeeper" => Some("keeper"),
        name @ ("order" | "cache" | "autosnap" | "keep" | "metrics" | "socket_mode" | "log") => {
            Some(name)
        }
        _ => None,
    }
}

/// The options of a list, of which one has commas itself: what follows `keep=` and looks like one
/// of its rules belongs to it.
pub fn grouped<'a>(words: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut options: Vec<String> = Vec::new();
    for word in words.map(str::trim) {
        let is_rule = word.contains(':') && !word.contains('=');
        match options.last_mut() {
            Some(last) if is_rule && last.starts_with("keep=") => {
                last.push(',');
                last.push_str(word);
            }
            _ => options.push(word.to_owned()),
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_the_last_one_counts() {
        let lists = [
            "durability=sync,order=strict,cache=64M,noatime".to_owned(),
            "defaults,nofail,x-systemd.automount,rw,ro,nosuid,durability=journal-only".to_owned(),
            "keeper,nokeeper,transport=auto,transport=dev".to_owned(),
        ];
        let options = MountOptions::parse(&lists).unwrap();
        assert_eq!(options.durability, Durability::JournalOnly);
        assert!(options.strict_order && options.read_only && !options.allow_other);
        assert_eq!(options.cache, Some(64 << 20));
        assert_eq!(options.atime, Atime::Never);
        assert!(!options.keeper && !options.is_kept());
        assert_eq!(options.transport, TransportChoice::Device);
        assert_eq!(options.flags, ["nosuid"]);
    }

    #[test]
    fn what_fstab_says_to_the_system_is_not_for_us() {
        let list = "defaults,_netdev,noauto,user=ann,group,nofail,x-systemd.automount,\
            x-systemd.requires=a.mount,X-mount.mkdir=0755,comment=of ann,rw,ro,exec,suid,dev";
        let options = MountOptions::parse(&[list.to_owned()]).unwrap();
        assert!(options.read_only);
        assert_eq!(options.flags, ["exec", "suid", "dev"]);
    }

    #[test]
    fn snapshots_by_themselves_are_read_with_what_is_kept_of_them() {
        let parse = |list: &str| MountOptions::parse(&[list.to_owned()]);
        let options = parse("ro,autosnap=10m,keep=24h:hourly, 7d:daily,noatime").unwrap();
        assert_eq!(options.autosnap, Some(Every::Seconds(600)));
        assert_eq!(
            options.keep.clone().unwrap().to_string(),
            "24h:hourly,7d:daily"
        );
        assert_eq!(options.document()["autosnap"], "10m");
        assert_eq!(options.document()["keep"], "24h:hourly,7d:daily");
        assert!(options.check().is_err(), "read-only");
        assert!(parse("keep=1d:all").unwrap().check().is_err());
        assert!(parse("autosnap=1d").unwrap().check().is_ok());
        assert!(parse("noatime").unwrap().check().is_ok());
        for bad in [
            "autosnap",
            "autosnap=",
            "autosnap=10",
            "keep=",
            "keep=1d",
            "1d:all",
        ] {
            let failure = parse(bad).unwrap_err();
            assert!(failure.message.contains("mount option"), "{failure}");
        }
        // It begins anew with another option.
        assert!(parse("autosnap=1d,keep=1d:all,ro,7d:daily").is_err());
    }

    #[test]
    fn metrics_and_the_level_of_the_log_are_for_the_whole_volume() {
        let parse = |list: &str| MountOptions::parse(&[list.to_owned()]);
        let options = parse("metrics=127.0.0.1:9631,log=debug").unwrap();
        assert_eq!(options.document()["metrics"], "127.0.0.1:9631");
        assert_eq!(options.document()["log"], "debug");
        let other = parse("metrics=/run/m.sock").unwrap();
        assert_eq!(other.is_against(&options), Ok(Some("metrics=/run/m.sock")));
        assert_eq!(parse("log=debug").unwrap().is_against(&options), Ok(None));
        for bad in [
            "metrics",
            "metrics=",
            "metrics=m.sock",
            "log",
            "log=",
            "log=loud",
        ] {
            let failure = parse(bad).unwrap_err();
            assert!(failure.message.contains("mount option"), "{failure}");
        }
    }

    #[test]
    fn the_mode_of_the_socket_is_octal_and_never_shuts_the_owner_out() {
        let parse = |list: &str| MountOptions::parse(&[list.to_owned()]);
        for (text, mode) in [("0660", 0o660), ("666", 0o666), ("0600", 0o600)] {
            let options = parse(&format!("socket_mode={text}")).unwrap();
            assert_eq!(options.socket_mode, Some(mode));
            assert_eq!(options.document()["socket_mode"], format!("{mode:04o}"));
        }
        let group = parse("socket_mode=0660").unwrap();
        let all = parse("socket_mode=0666").unwrap();
        assert_eq!(all.is_against(&group), Ok(Some("socket_mode=0666")));
        assert_eq!(
            parse("socket_mode=660").unwrap().is_against(&group),
            Ok(None)
        );
        for bad in [
            "", "=", "=60", "=0060", "=01660", "=0668", "=00660", "=+660", "=rw",
        ] {
            let failure = parse(&format!("socket_mode{bad}")).unwrap_err();
            assert!(failure.message.contains("mount option"), "{failure}");
        }
    }

    #[test]
    fn nobody_keeps_what_comes_over_io_uring() {
        for (list, kept) in [
            ("", true),
            ("transport=auto", true),
            ("transport=dev", true),
            ("transport=uring", false),
            ("transport=uring,keeper", false),
            ("transport=uring,transport=dev", true),
        ] {
            let options = MountOptions::parse(&[list.to_owned()]).unwrap();
            assert_eq!(options.is_kept(), kept, "{list}");
        }
    }

    #[test]
    fn unknown_options_are_refused_with_the_list() {
        for bad in [
            "frob",
            "durability=maybe",
            "cache=",
            "cache",
            "order=2",
            "ro=1",
            "transport",
            "transport=usb",
        ] {
            let failure = MountOptions::parse(&[bad.to_owned()]).unwrap_err();
            assert!(failure.message.contains("option"), "{failure}");
        }
        let failure = MountOptions::parse(&["frob".to_owned()]).unwrap_err();
        assert!(
            failure
                .message
                .contains("durability=sync|async|journal-only")
        );
    }
}
