//! What is measured: file systems on a directory, and volumes without a mount.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use razorfs::{Options, Volume};

use crate::failure::{At, Result};
use crate::system;
use crate::tree::{HostTree, LibraryTree, Tree};

/// A kind of target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Kind {
    /// ext4 on a loop device over a file; needs root.
    Ext4,
    /// A directory of the host.
    Host,
    /// The server without an engine: a file system in memory that keeps no data.
    Null,
    /// The same over io_uring, which must be switched on.
    NullUring,
    /// A volume, mounted by the command.
    Razorfs,
    /// The same over io_uring.
    RazorfsUring,
    /// A volume in this process.
    Embedded,
}

impl Kind {
    /// All that are measured unless others are named.
    pub const ALL: [Self; 5] = [
        Self::Ext4,
        Self::Host,
        Self::Null,
        Self::Razorfs,
        Self::Embedded,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Host => "host",
            Self::Null => "null",
            Self::NullUring => "null-uring",
            Self::Razorfs => "razorfs",
            Self::RazorfsUring => "razorfs-uring",
            Self::Embedded => "embedded",
        }
    }

    /// Whether it keeps what is written.
    pub const fn keeps_data(self) -> bool {
        !matches!(self, Self::Null | Self::NullUring)
    }
}

/// Where things are.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Directory of this run, on the disk that is measured.
    pub room: PathBuf,
    /// The command `razorfs`.
    pub razorfs: PathBuf,
}

impl Paths {
    /// The file below the loop device.
    pub fn image(&self) -> PathBuf {
        self.room.join("ext4.img")
    }

    /// The volume.
    pub fn volume(&self) -> PathBuf {
        self.room.join("volume.rzfs")
    }

    /// The mount point, or the directory of the host.
    pub fn dir(&self) -> PathBuf {
        self.room.join("mnt")
    }

    /// The tar that is unpacked.
    pub fn source(&self) -> PathBuf {
        self.room.join("source.tar")
    }
}

/// Runs a command; its error says what it printed.
pub fn run(program: &Path, args: &[&Path]) -> Result<()> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .and_then(std::process::Child::wait_with_output)
        .at("run", program)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let verb = args.first().map_or(Path::new(""), |a| *a);
    Err(format!(
        "{} {} failed ({}): {}",
        program.display(),
        verb.display(),
        output.status,
        said.trim()
    ))
}

/// A target that is in use.
pub struct Target {
    kind: Kind,
    paths: Paths,
    tree: Option<Box<dyn Tree>>,
    server: Option<Child>,
    volume: Option<Volume>,
}

impl Target {
    /// Makes an empty one and mounts it.
    pub fn start(kind: Kind, paths: &Paths) -> Result<Self> {
        let mut target = Self {
            kind,
            paths: paths.clone(),
            tree: None,
            server: None,
            volume: None,
        };
        target.remove()?;
        if kind == Kind::Ext4 {
            let mkfs = Path::new("mkfs.ext4");
            let options = "nodiscard,lazy_itable_init=0,lazy_journal_init=0";
            let image = paths.image();
            let args = ["-q", "-F", "-E", options].map(Path::new);
            run(mkfs, &[&args[..], &[&image]].concat())?;
        }
        fs::create_dir_all(paths.dir()).at("make", &paths.dir())?;
        system::drop_caches();
        target.attach()?;
        Ok(target)
    }

    /// Its kind.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Its files.
    pub fn tree(&self) -> Result<&dyn Tree> {
        self.tree.as_deref().ok_or_else(|| "not mounted".into())
    }

    /// Returns when everything is on the disk.
    pub fn sync(&self) -> Result<()> {
        match self.kind {
            Kind::Ext4 | Kind::Host | Kind::Null | Kind::NullUring => {
                system::sync_file_system(&self.paths.dir())
            }
            Kind::Razorfs | Kind::RazorfsUring => {
                run(&self.paths.razorfs, &[Path::new("sync"), &self.paths.dir()])
            }
            Kind::Embedded => match &self.volume {
                Some(volume) => volume.sync().when("sync"),
                None => Err("the volume is closed".into()),
            },
        }
    }

    /// Unmounts, empties the caches, and mounts again. What lives in memory only stays mounted.
    pub fn cold(&mut self) -> Result<()> {
        if !self.kind.keeps_data() {
            system::drop_caches();
            return Ok(());
        }
        self.detach()?;
        if !system::drop_caches() {
            forget_pages(&self.paths.volume());
            forget_pages(&self.paths.dir());
        }
        self.attach()
    }

    /// Unmounts and removes it.
    pub fn finish(mut self) -> Result<()> {
        self.detach()?;
        self.remove()
    }

    fn remove(&self) -> Result<()> {
        for dir in [self.paths.volume(), self.paths.dir()] {
            if dir.exists() {
                fs::remove_dir_all(&dir).at("remove", &dir)?;
            }
        }
        Ok(())
    }

    /// Mounts it, creating what is missing.
    pub fn attach(&mut self) -> Result<()> {
        let dir = self.paths.dir();
        match self.kind {
            Kind::Host => {}
            Kind::Ext4 => {
                let image = self.paths.image();
                let args = [Path::new("-o"), Path::new("loop"), &image, &dir];
                run(Path::new("mount"), &args)?;
            }
            Kind::Null => self.server = Some(serve_null(&dir, "dev")?),
            Kind::NullUring => self.server = Some(serve_null(&dir, "uring")?),
            Kind::Razorfs => {
                let args = [Path::new("mount"), &self.paths.volume(), &dir];
                run(&self.paths.razorfs, &args)?;
            }
            Kind::RazorfsUring => {
                let args = ["mount", "-o", "transport=uring"].map(Path::new);
                let paths = [&*self.paths.volume(), &*dir];
                run(&self.paths.razorfs, &[&args[..], &paths].concat())?;
            }
            Kind::Embedded => {
                let path = self.paths.volume();
                let volume = Volume::open_or_create(&path, Options::default());
                let volume = volume.at("open", &path)?;
                self.tree = Some(Box::new(LibraryTree(volume.clone())));
                self.volume = Some(volume);
                return Ok(());
            }
        }
        self.tree = Some(Box::new(HostTree(dir)));
        Ok(())
    }

    /// Unmounts it; does nothing if it is not mounted.
    pub fn detach(&mut self) -> Result<()> {
        let dir = self.paths.dir();
        if self.tree.take().is_none() {
            return Ok(());
        }
        match self.kind {
            Kind::Host => Ok(()),
            Kind::Ext4 => run(Path::new("umount"), &[&dir]),
            Kind::Razorfs | Kind::RazorfsUring => {
                run(&self.paths.razorfs, &[Path::new("umount"), &dir])
            }
            Kind::Null | Kind::NullUring => {
                razorfs_fuse::mount::unmount(&dir, true).at("unmount", &dir)?;
                match self.server.take() {
                    Some(mut server) => server.wait().map(|_| ()).when("wait for the server"),
                    None => Ok(()),
                }
            }
            Kind::Embedded => match self.volume.take() {
                Some(volume) => volume.close().when("close the volume"),
                None => Ok(()),
            },
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // After an error; the parent looks for what is left.
        let _ = self.detach();
    }
}

/// Takes the pages of the files below `dir` out of the cache, where nobody may empty it.
fn forget_pages(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            forget_pages(&path);
        } else if let Ok(file) = fs::File::open(&path) {
            let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        }
    }
}

fn serve_null(dir: &Path, transport: &str) -> Result<Child> {
    let program = std::env::current_exe().when("find this program")?;
    let mut server = Command::new(program)
        .arg("serve-null")
        .arg(dir)
        .arg(transport)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .when("start the null file system")?;
    let mut line = String::new();
    if let Some(out) = server.stdout.take() {
        let _ = BufReader::new(out).read_line(&mut line);
    }
    if line.trim() == "ready" {
        return Ok(server);
    }
    let _ = server.kill();
    let _ = server.wait();
    Err(format!(
        "the null file system could not be mounted on {}",
        dir.display()
    ))
}

/// The null file system, until it is unmounted.
pub fn null_server(dir: &Path, transport: &str) -> Result<()> {
    use razorfs_fuse::{NullFs, Session, SessionOptions, TransportChoice};
    use std::io::Write;
    let options = SessionOptions {
        transport: match transport {
            "uring" => TransportChoice::Uring,
            _ => TransportChoice::Device,
        },
        ..SessionOptions::default()
    };
    let session = Session::new(std::sync::Arc::new(NullFs::default()), dir, &options);
    let session = session.at("mount on", dir)?;
    let outcome = session.run(|| {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "ready").and_then(|()| out.flush());
    });
    outcome.at("serve", dir)
}
