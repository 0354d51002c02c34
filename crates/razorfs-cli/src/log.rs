//! The log of the daemon: `VOLUME/razorfs.log`, of bounded size.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use razorfs_disk::Env;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Name of the log in the volume.
pub const NAME: &str = "razorfs.log";
/// The level of the log, where no option says it.
const VARIABLE: &str = "RAZORFS_LOG";
/// A log that is larger is set aside as `razorfs.log.1`, which replaces the one before.
const MAX_BYTES: u64 = 1 << 20;

/// Writes events to a file, or to standard error in the foreground.
pub struct Log {
    level: Level,
    /// What is wrong with [`VARIABLE`].
    odd: Option<String>,
    sink: Mutex<Sink>,
    env: Box<dyn Env>,
}

/// The level of a name.
pub fn level(name: &str) -> std::result::Result<Level, String> {
    match name {
        "error" => Ok(Level::ERROR),
        "warn" => Ok(Level::WARN),
        "info" => Ok(Level::INFO),
        "debug" => Ok(Level::DEBUG),
        "trace" => Ok(Level::TRACE),
        _ => Err(format!(
            "there is no level {name:?}; there are error, warn, info, debug and trace"
        )),
    }
}

enum Sink {
    Stderr,
    File { path: PathBuf, file: File, len: u64 },
}

impl Log {
    /// To standard error.
    pub fn to_stderr(asked: Option<Level>, env: Box<dyn Env>) -> Self {
        Self::new(Sink::Stderr, asked, env)
    }

    /// To the log file of a volume.
    pub fn to_volume(
        volume: &Path,
        asked: Option<Level>,
        env: Box<dyn Env>,
    ) -> std::io::Result<Self> {
        let path = volume.join(NAME);
        let file = open(&path)?;
        let len = file.metadata()?.len();
        Ok(Self::new(Sink::File { path, file, len }, asked, env))
    }

    /// With the level that an option asks for, or [`VARIABLE`].
    fn new(sink: Sink, asked: Option<Level>, env: Box<dyn Env>) -> Self {
        let of_environment = std::env::var(VARIABLE).ok();
        let of_environment = of_environment.map(|word| level(&word)).transpose();
        let (level, odd) = match (asked, of_environment) {
            (Some(level), _) | (None, Ok(Some(level))) => (level, None),
            (None, Ok(None)) => (Level::INFO, None),
            (None, Err(odd)) => (Level::INFO, Some(odd)),
        };
        Self {
            level,
            odd,
            sink: Mutex::new(sink),
            env,
        }
    }

    /// Makes it the log of the process; panics are written to it too.
    pub fn install(mut self) {
        let odd = self.odd.take();
        // Only the first subscriber of a process counts, and this is it.
        let _ = tracing::subscriber::set_global_default(self);
        if let Some(odd) = odd {
            tracing::warn!("{VARIABLE}: {odd}; it is info now");
        }
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            tracing::error!("{panic}");
            before(panic);
        }));
    }

    fn line(&self, line: &str) {
        let Ok(mut sink) = self.sink.lock() else {
            return;
        };
        sink.write(line);
    }
}

/// Opens a log for appending. The volume may come from somebody else: a symbolic link would lead
/// what is appended to any file of the host, and a pipe would make us wait.
fn open(path: &Path) -> std::io::Result<File> {
    let file = File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path);
    let foreign = || {
        let text = format!("{NAME} is not a regular file, remove it");
        std::io::Error::new(std::io::ErrorKind::InvalidInput, text)
    };
    match file {
        Ok(file) if file.metadata()?.is_file() => Ok(file),
        Ok(_) => Err(foreign()),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ELOOP | libc::ENXIO)) => Err(foreign()),
        Err(e) => Err(e),
    }
}

impl Sink {
    /// A log that cannot be written must not stop the daemon: errors are dropped.
    fn write(&mut self, line: &str) {
        match self {
            Self::Stderr => eprint!("{line}"),
            Self::File { path, file, len } => {
                if *len > MAX_BYTES {
                    let mut old = path.clone().into_os_string();
                    old.push(".1");
                    if std::fs::rename(&*path, old).is_ok()
                        && let Ok(fresh) = open(path)
                    {
                        *file = fresh;
                    }
                    *len = 0;
                }
                let _ = file.write_all(line.as_bytes());
                *len += line.len() as u64;
            }
        }
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let nanoseconds = self.env.now();
        let seconds = i64::try_from(nanoseconds / 1_000_000_000).unwrap_or_default();
        let mut text = Text(format!(
            "{}.{:03}Z {:5} ",
            crate::size::date(seconds),
            nanoseconds / 1_000_000 % 1000,
            event.metadata().level().as_str(),
        ));
        event.record(&mut text);
        text.0.push('\n');
        self.line(&text.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The fields of an event, in one line.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}").replace('\n', " ");
        let _ = if field.name() == "message" {
            write!(self.0, "{text}")
        } else {
            write!(self.0, " {}={text}", field.name())
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Still;

    impl Env for Still {
        fn now(&self) -> u64 {
            1_500_000_000
        }

        fn monotonic(&self) -> u64 {
            0
        }

        fn random(&self) -> u64 {
            0
        }
    }

    #[test]
    fn a_log_that_leads_elsewhere_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let precious = dir.path().join("precious");
        std::fs::write(&precious, "precious").unwrap();
        std::os::unix::fs::symlink(&precious, dir.path().join(NAME)).unwrap();
        let refused = Log::to_volume(dir.path(), None, Box::new(Still))
            .err()
            .unwrap();
        assert!(refused.to_string().contains("regular file"), "{refused}");
        std::fs::remove_file(dir.path().join(NAME)).unwrap();
        let pipe = rustix::fs::FileType::Fifo;
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, dir.path().join(NAME), pipe, mode, 0).unwrap();
        assert!(Log::to_volume(dir.path(), None, Box::new(Still)).is_err());
        assert_eq!(std::fs::read(&precious).unwrap(), b"precious");
    }

    #[test]
    fn what_is_less_severe_than_asked_for_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::to_volume(dir.path(), level("warn").ok(), Box::new(Still)).unwrap();
        tracing::subscriber::with_default(log, || {
            tracing::info!("of no interest");
            tracing::warn!(path = "a b", "of interest");
        });
        let text = std::fs::read_to_string(dir.path().join(NAME)).unwrap();
        assert_eq!(
            text,
            "1970-01-01 00:00:01.500Z WARN  of interest path=\"a b\"\n"
        );
        assert!(level("loud").unwrap_err().contains("trace"));
    }

    #[test]
    fn the_log_stays_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::to_volume(dir.path(), None, Box::new(Still)).unwrap();
        tracing::subscriber::with_default(log, || {
            for n in 0..40_000 {
                tracing::info!(n, "a line that is long enough to fill the log soon");
            }
        });
        let size = |name| std::fs::metadata(dir.path().join(name)).unwrap().len();
        assert!(size("razorfs.log") <= MAX_BYTES + 200);
        assert!(size("razorfs.log.1") <= MAX_BYTES + 200);
        let text = std::fs::read_to_string(dir.path().join("razorfs.log")).unwrap();
        let last = text.lines().last().unwrap();
        assert_eq!(
            last,
            "1970-01-01 00:00:01.500Z INFO  a line that is long enough to fill the log soon n=39999"
        );
    }
}
