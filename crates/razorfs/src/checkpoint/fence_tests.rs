//! Two hosts on one shared disk, whose lock does not reach from one to the other.

use std::sync::Arc;

use razorfs_disk::sim::{SimDisk, SimEnv};
use razorfs_disk::{Dir, Disk, File, Guard, LockMode, Name, OpenHow, Result as DiskResult, Space};

use razorfs_format::layout::FileName;
use razorfs_format::{ManifestId, PackId, SegmentId};

use super::name_of;
use crate::{CreateOptions, Error, Geometry, Ino, NewNode, Options, Step, Volume};

/// The disk as another host sees it.
struct OtherHost(SimDisk);

struct NoGuard;

impl Guard for NoGuard {}

impl Disk for OtherHost {
    fn open(&self, name: &Name, how: OpenHow) -> DiskResult<Arc<dyn File>> {
        self.0.open(name, how)
    }
    fn rename(&self, from: &Name, to: &Name) -> DiskResult<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, name: &Name) -> DiskResult<()> {
        self.0.remove(name)
    }
    fn list(&self, dir: Dir) -> DiskResult<Vec<Name>> {
        self.0.list(dir)
    }
    fn sync_dir(&self, dir: Dir) -> DiskResult<()> {
        self.0.sync_dir(dir)
    }
    fn create_dirs(&self) -> DiskResult<()> {
        self.0.create_dirs()
    }
    fn lock(&self, _mode: LockMode) -> DiskResult<Box<dyn Guard>> {
        Ok(Box::new(NoGuard))
    }
    fn space(&self) -> DiskResult<Space> {
        self.0.space()
    }
}

fn options() -> Options {
    Options {
        geometry: Geometry::tiny(),
        compression: Some(crate::Compression::None),
        threads: false,
        ..Options::default()
    }
}

fn first_host(disk: &SimDisk, env: &SimEnv) -> Volume {
    let (disk, env) = (Arc::new(disk.clone()), Arc::new(env.clone()));
    Volume::create_on(disk.clone(), env.clone(), &CreateOptions::from(&options())).unwrap();
    Volume::open_on(disk, env, options()).unwrap()
}

fn second_host(disk: &SimDisk) -> Volume {
    let env = Arc::new(SimEnv::new(2));
    Volume::open_on(Arc::new(OtherHost(disk.clone())), env, options()).unwrap()
}

fn write(volume: &Volume, name: &str, len: usize) -> crate::Result<()> {
    let node = NewNode::file(0o644);
    let ino = volume.create_node(Ino::ROOT, name.as_bytes(), &node)?.ino;
    volume.write(ino, 0, &vec![7; len]).map(|_| ())
}

fn read(volume: &Volume, name: &str) -> Vec<u8> {
    let stat = volume.lookup(Ino::ROOT, name.as_bytes()).unwrap();
    let mut found = vec![0; stat.size as usize];
    assert_eq!(volume.read(stat.ino, 0, &mut found).unwrap(), found.len());
    found
}

/// Nothing on the disk changed since the trace was begun.
fn check_untouched(disk: &SimDisk) {
    assert_eq!(disk.take_trace(), Vec::<String>::new());
}

fn check_fenced(volume: &Volume) {
    let error = write(volume, "late", 1).unwrap_err();
    assert!(
        matches!(&error, Error::Failed(why) if why.contains("another host")),
        "{error}"
    );
}

#[test]
fn a_second_host_is_noticed_before_a_checkpoint_writes_or_removes_anything() {
    let (disk, env) = (SimDisk::new(), SimEnv::new(1));
    let first = first_host(&disk, &env);
    write(&first, "a", 20_000).unwrap();
    first.checkpoint().unwrap();
    write(&first, "b", 20_000).unwrap();
    first.sync().unwrap();
    let second = second_host(&disk);
    write(&second, "c", 20_000).unwrap();
    second.checkpoint().unwrap();
    disk.start_trace();
    let error = first.checkpoint().unwrap_err();
    assert!(matches!(error, Error::Fenced(_)), "{error}");
    check_untouched(&disk);
    check_fenced(&first);
    drop(first);
    second.checkpoint().unwrap();
    for name in ["a", "b", "c"] {
        assert_eq!(read(&second, name), vec![7; 20_000]);
    }
}

#[test]
fn a_second_host_is_noticed_before_a_compaction_writes_or_removes_anything() {
    let (disk, env) = (SimDisk::new(), SimEnv::new(1));
    let first = first_host(&disk, &env);
    for n in 0..7 {
        write(&first, &n.to_string(), 100).unwrap();
        first.checkpoint().unwrap();
    }
    let second = second_host(&disk);
    disk.start_trace();
    let error = first.step(Step::Compact).unwrap_err();
    assert!(matches!(error, Error::Fenced(_)), "{error}");
    check_untouched(&disk);
    check_fenced(&first);
    second.step(Step::Compact).unwrap();
    second.checkpoint().unwrap();
    assert_eq!(read(&second, "6"), vec![7; 100]);
}

#[test]
fn a_host_that_lost_the_volume_stops_writing_batches_within_a_second() {
    let (disk, env) = (SimDisk::new(), SimEnv::new(1));
    let first = first_host(&disk, &env);
    write(&first, "a", 10).unwrap();
    first.sync().unwrap();
    let _second = second_host(&disk);
    env.advance(1_000_000_000);
    disk.start_trace();
    write(&first, "b", 10).unwrap();
    let error = first.sync().unwrap_err();
    assert!(matches!(error, Error::Fenced(_)), "{error}");
    check_untouched(&disk);
    check_fenced(&first);
}

#[test]
fn a_host_that_lost_the_volume_does_not_grow_the_journal() {
    let (disk, env) = (SimDisk::new(), SimEnv::new(1));
    let first = first_host(&disk, &env);
    for n in 0..20 {
        write(&first, &n.to_string(), 10_000).unwrap();
    }
    first.sync().unwrap();
    let _second = second_host(&disk);
    disk.start_trace();
    let error = first.step(Step::Grow).unwrap_err();
    assert!(matches!(error, Error::Fenced(_)), "{error}");
    check_untouched(&disk);
    check_fenced(&first);
}

/// Files that another host made under the next numbers are neither overwritten nor removed, even
/// if its superblock is not to be seen yet.
#[test]
fn a_file_that_is_not_from_this_mount_is_never_overwritten() {
    let next = [
        FileName::Segment(SegmentId(1)),
        FileName::SegmentTmp(SegmentId(1)),
        FileName::Manifest(ManifestId(2)),
        FileName::ManifestTmp(ManifestId(2)),
        FileName::Pack(PackId(1)),
    ];
    for file in next {
        let (disk, env) = (SimDisk::new(), SimEnv::new(1));
        let first = first_host(&disk, &env);
        let foreign = name_of(file);
        let leaf = &*foreign.leaf;
        let file = disk.open(&foreign, OpenHow::CreateNew).unwrap();
        file.write_at(&[std::io::IoSlice::new(b"theirs")], 0)
            .unwrap();
        write(&first, "a", 60_000).unwrap();
        let error = first.checkpoint().unwrap_err();
        assert!(error.to_string().contains(leaf), "{leaf}: {error}");
        check_fenced(&first);
        drop(first);
        let file = disk.open(&foreign, OpenHow::Read).unwrap();
        let mut found = [0; 6];
        assert_eq!(file.read_at(&mut found, 0).unwrap(), 6, "{leaf}");
        assert_eq!(&found, b"theirs", "{leaf}");
    }
}

/// Something else wrote over the superblock: the volume is one still, and its disk failed.
#[test]
fn a_superblock_that_is_gone_while_the_volume_is_in_use_is_an_io_error() {
    for gone in [false, true] {
        let (disk, env) = (SimDisk::new(), SimEnv::new(1));
        let volume = first_host(&disk, &env);
        let node = NewNode::file(0o644);
        volume.create_node(Ino::ROOT, b"a", &node).unwrap();
        let name = Name::new(Dir::Root, "SUPER");
        if gone {
            disk.remove(&name).unwrap();
        } else {
            let file = disk.open(&name, OpenHow::ReadWrite).unwrap();
            let junk = [0x5a; 4 * 4096];
            file.write_at(&[std::io::IoSlice::new(&junk)], 0).unwrap();
        }
        let error = volume.checkpoint().unwrap_err();
        assert_eq!(error.errno(), libc::EIO, "{error}");
        assert!(error.to_string().contains("SUPER"), "{error}");
    }
}
