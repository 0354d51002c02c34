//! What hostile programs send to a daemon, and what comes of it. The seeded tests and the fuzz
//! target `client` call [`client`].
#![allow(dead_code, reason = "each user takes a part of it")]

pub mod kernel;

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use razorfs::{CreateOptions, Geometry, Options, Step as Work, Volume, XattrMode};
use razorfs_client::wire::{self, Answer, Get, How, Request, Step};
use razorfs_client::{Kind, serve};
use razorfs_disk::sim::{Image, SimDisk, SimEnv};

use kernel::Kernel;

fn options() -> Options {
    Options {
        threads: false,
        geometry: Geometry::tiny(),
        ..Options::default()
    }
}

/// A volume with a few files.
static VOLUME: LazyLock<Image> = LazyLock::new(|| {
    let (disk, env) = (SimDisk::new(), SimEnv::new(1));
    let create = CreateOptions::from(&options());
    Volume::create_on(Arc::new(disk.clone()), Arc::new(env), &create).unwrap();
    let volume = open(&disk);
    let fs = volume.root();
    fs.create_dir_all("d/e").unwrap();
    fs.write("a", b"content of a").unwrap();
    fs.write("d/e/f", vec![7; 9000]).unwrap();
    fs.hard_link("a", "d/twin").unwrap();
    fs.symlink("d/e", "link").unwrap();
    fs.symlink("a", "l2").unwrap();
    fs.symlink("none", "dangling").unwrap();
    fs.symlink("../d/e/none", "d/lost").unwrap();
    volume.snapshot("before").unwrap();
    volume.create_branch("branch").unwrap();
    volume.close().unwrap();
    Image::load(&disk).unwrap()
});

fn open(disk: &SimDisk) -> Volume {
    let env = Arc::new(SimEnv::new(2));
    Volume::open_on(Arc::new(disk.clone()), env, options()).unwrap()
}

/// Bytes as they are, and then requests of a program beside a kernel that remembers everything. The
/// first byte says of which.
pub fn client(data: &[u8]) {
    decoders(data);
    let disk = SimDisk::from_image(&VOLUME);
    let volume = open(&disk);
    let view = match data.first().map(|n| n % 8) {
        Some(6) => volume.branch("branch"),
        Some(7) => volume.at_snapshot("before"),
        _ => Ok(volume.clone()),
    };
    let view = view.unwrap();
    let kernel = Kernel::new(&view);
    let mut stream = Stream {
        input: forged(&mut Source(data.get(1..).unwrap_or_default())),
        kernel: &kernel,
    };
    // An error says that the connection is over, which it is in the end.
    let _ = serve(&view, &mut stream, &kernel);
    drop(kernel);
    drop(view);
    while volume.step(Work::Reap).unwrap() {}
    volume.close().unwrap();
    let report = razorfs_verify::verify(&disk, 4, &mut |_| ()).unwrap();
    let bad: Vec<_> = report.findings.iter().map(ToString::to_string).collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

fn decoders(data: &[u8]) {
    if let Some(request) = Request::decode(data) {
        assert_eq!(request.encode().as_deref(), Some(data));
    }
    if let Some(Answer::Done(rest)) = Answer::decode(data) {
        assert!(rest.len() < data.len());
    }
    let _ = Get(data).stat();
    let _ = wire::entries(&mut Get(data));
    let _ = wire::points(&mut Get(data));
    if let Ok(Some(message)) = wire::receive(&mut &data[..]) {
        assert!(message.len() + 4 <= data.len());
    }
}

/// What the program has sent, and what is looked at when it is answered.
struct Stream<'a> {
    input: io::Cursor<Vec<u8>>,
    kernel: &'a Kernel<'a>,
}

impl Read for Stream<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.input.read(buf)
    }
}

impl Write for Stream<'_> {
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        let answer = wire::receive(&mut &*message)?.unwrap();
        assert!(Answer::decode(&answer).is_some());
        self.kernel.check();
        Ok(message.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Hands out the bytes of an input piece by piece; zeros when they are used up.
pub struct Source<'a>(pub &'a [u8]);

impl Source<'_> {
    fn u8(&mut self) -> u8 {
        let first = self.0.split_first();
        self.0 = first.map_or(&[], |(_, rest)| rest);
        first.map_or(0, |(first, _)| *first)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::from(self.u8()) % n
    }

    fn path(&mut self) -> PathBuf {
        const PATHS: [&str; 25] = [
            "a",
            "b",
            "d",
            "d/e",
            "d/e/f",
            "d/twin",
            "link",
            "link/f",
            "l2",
            "dangling",
            "d/lost",
            "none",
            "d/new",
            "x/y/z",
            "x/y",
            "x",
            "/",
            "",
            ".",
            "..",
            "d/..",
            "d/./e/../twin",
            "link/../twin",
            "a/",
            "nul\0",
        ];
        match self.below(PATHS.len() + 1) {
            25 => "n".repeat(256).into(),
            n => PATHS[n].into(),
        }
    }

    fn data(&mut self) -> Vec<u8> {
        let sizes = [0, 1, 12, 300, 5000, 9000];
        vec![self.u8(); sizes[self.below(sizes.len())]]
    }

    fn offset(&mut self) -> u64 {
        match self.below(8) {
            6 => u64::MAX - u64::from(self.u8()),
            7 => i64::MAX as u64 - u64::from(self.u8()),
            n => n as u64 * 2000,
        }
    }

    fn handle(&mut self) -> u32 {
        u32::from(self.u8() % 5)
    }

    fn name(&mut self) -> Vec<u8> {
        let names: [&[u8]; 5] = [
            b"user.x",
            b"user.y",
            b"",
            b"odd",
            b"system.posix_acl_access",
        ];
        names[self.below(names.len())].to_vec()
    }

    fn point(&mut self) -> (Kind, String) {
        let kind = [Kind::Snapshot, Kind::Branch][self.below(2)];
        let names = ["before", "branch", "s1", "s2", "", "a/b", "."];
        (kind, names[self.below(names.len())].to_owned())
    }

    fn step(&mut self) -> Step {
        let path = self.path();
        match self.below(12) {
            0 => Step::CreateDir(path),
            1 => Step::CreateDirAll(path),
            2 => Step::Write(path, self.data()),
            3 => Step::RemoveFile(path),
            4 => Step::RemoveDir(path),
            5 => Step::RemoveDirAll(path),
            6 => Step::Rename(path, self.path()),
            7 => Step::RenameNew(path, self.path()),
            8 => Step::Exchange(path, self.path()),
            9 => Step::HardLink(path, self.path()),
            10 => Step::Symlink(path, self.path()),
            _ => Step::SetPermissions(path, u32::from(self.u8()) << 8 | 0o600),
        }
    }

    fn request(&mut self) -> Request {
        match self.below(24) {
            0 => Request::Metadata(self.path(), self.below(2) == 0),
            1 => Request::ReadLink(self.path()),
            2 => Request::ReadDir(self.path(), self.offset()),
            3..6 => {
                let (path, bits) = (self.path(), self.u8());
                let mode = u32::from(self.u8()) << 9;
                Request::Open(path, How { bits, mode })
            }
            6 => Request::Close(self.handle()),
            7 => Request::Stat(self.handle()),
            8 => Request::ReadAt(self.handle(), self.offset(), u32::from(self.u8()) << 7),
            9 => Request::WriteAt(self.handle(), self.offset(), self.data()),
            10 => Request::Append(self.handle(), self.data()),
            11 => Request::SetLen(self.handle(), self.offset()),
            12 => Request::Sync,
            13 => Request::GetXattr(self.path(), self.name()),
            14 => {
                let (path, name, value) = (self.path(), self.name(), self.data());
                let modes = [XattrMode::Set, XattrMode::Create, XattrMode::Replace];
                Request::SetXattr(path, name, value, modes[self.below(3)])
            }
            15 => Request::ListXattr(self.path()),
            16 => Request::RemoveXattr(self.path(), self.name()),
            17 => {
                let (kind, name) = self.point();
                match self.below(3) {
                    0 => Request::List(kind),
                    1 => Request::Create(kind, name),
                    _ => Request::Delete(kind, name),
                }
            }
            _ => {
                let steps = (0..=self.below(4)).map(|_| self.step()).collect();
                Request::Change(steps, self.below(4) == 0)
            }
        }
    }
}

fn forged(from: &mut Source<'_>) -> io::Cursor<Vec<u8>> {
    let mut sent = Vec::new();
    while !from.0.is_empty() {
        let message = from.request().encode().unwrap();
        wire::send(&mut sent, &message).unwrap();
    }
    io::Cursor::new(sent)
}

/// Input number `seed`.
pub fn input(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        // SplitMix64.
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) as u8
    };
    (0..200).map(|_| next()).collect()
}

/// What fuzzing begins with.
pub fn seeds() -> impl Iterator<Item = Vec<u8>> {
    (0..40).map(input)
}
