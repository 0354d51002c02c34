//! File data.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};

use razorfs_fuse::protocol::opcode;
use rustix::fs::{FallocateFlags, copy_file_range, fallocate};

use crate::{Mount, each, errno};

const MIB: usize = 1 << 20;

fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32)
        .map(|n| (n ^ n >> 8 ^ n >> 13) as u8)
        .collect()
}

fn create(mount: &Mount, name: &str) -> File {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create_new(true)
        .open(mount.path(name))
        .unwrap()
}

#[test]
fn large_writes_go_in_large_requests_and_read_back() {
    each(|mount| {
        let data = pattern(4 * MIB + 12345);
        fs::write(mount.path("f"), &data).unwrap();
        // One request at most for each MiB, and some for the ends.
        let writes = mount.statistics.of_kind(opcode::WRITE);
        assert!(writes <= 8, "{writes} requests");
        let _ = fs::write("/proc/sys/vm/drop_caches", "1");
        let read = fs::read(mount.path("f")).unwrap();
        assert_eq!(read.len(), data.len());
        if mount.keeps_data {
            assert!(read == data);
        }
    });
}

#[test]
fn unaligned_overwrites_append_and_truncate() {
    each(|mount| {
        let mut model = pattern(300_000);
        let file = create(mount, "f");
        file.write_all_at(&model, 0).unwrap();
        file.write_all_at(b"middle", 131_070).unwrap();
        model[131_070..131_076].copy_from_slice(b"middle");
        let mut end = OpenOptions::new()
            .append(true)
            .open(mount.path("f"))
            .unwrap();
        end.write_all(b"tail").unwrap();
        model.extend_from_slice(b"tail");
        file.set_len(200_001).unwrap();
        file.set_len(250_000).unwrap();
        model.truncate(200_001);
        model.resize(250_000, 0);
        let _ = fs::write("/proc/sys/vm/drop_caches", "1");
        let read = fs::read(mount.path("f")).unwrap();
        assert_eq!(read.len(), model.len());
        if mount.keeps_data {
            assert!(read == model);
        }
        // Opening truncates, whatever was opened before.
        drop(
            OpenOptions::new()
                .write(true)
                .truncate(true)
                .open(mount.path("f"))
                .unwrap(),
        );
        assert_eq!(fs::metadata(mount.path("f")).unwrap().len(), 0);
        assert_eq!(fs::read(mount.path("f")).unwrap(), b"");
    });
}

#[test]
fn direct_input_and_output_work() {
    each(|mount| {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .custom_flags(libc::O_DIRECT);
        let file = options.open(mount.path("f")).unwrap();
        let room = vec![0; 3 * 4096];
        let skip = room.as_ptr().align_offset(4096);
        let mut room = room;
        let block = &mut room[skip..skip + 4096];
        block.copy_from_slice(&pattern(4096));
        file.write_all_at(block, 4096).unwrap();
        block.fill(1);
        file.read_exact_at(block, 4096).unwrap();
        if mount.keeps_data {
            assert!(*block == pattern(4096));
        }
        assert_eq!(file.metadata().unwrap().len(), 8192);
    });
}

#[test]
fn fsync_works_on_any_descriptor() {
    each(|mount| {
        let mut file = create(mount, "f");
        file.write_all(b"data").unwrap();
        file.sync_all().unwrap();
        file.sync_data().unwrap();
        File::open(mount.path("f")).unwrap().sync_all().unwrap();
        File::open(mount.root()).unwrap().sync_all().unwrap();
        assert_eq!(mount.statistics.of_kind(opcode::FSYNC), 3);
        assert_eq!(mount.statistics.of_kind(opcode::FSYNCDIR), 1);
    });
}

#[test]
fn opening_and_closing_ask_nothing() {
    each(|mount| {
        fs::write(mount.path("f"), b"data").unwrap();
        drop(File::open(mount.path("f")).unwrap());
        let asked = |m: &Mount| {
            let kinds = [opcode::OPEN, opcode::FLUSH, opcode::RELEASE];
            kinds.map(|kind| m.statistics.of_kind(kind))
        };
        // Nobody waits for the release of what was created, which comes when it comes.
        let released = || mount.statistics.of_kind(opcode::RELEASE) > 0;
        for _ in (0..2000).take_while(|_| !released()) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let before = asked(mount);
        assert!(
            before[0] <= 1 && before[1] <= 1 && before[2] == 1,
            "{before:?}"
        );
        for _ in 0..10 {
            let mut file = File::open(mount.path("f")).unwrap();
            file.read_to_end(&mut Vec::new()).unwrap();
        }
        assert_eq!(asked(mount), before);
    });
}

#[test]
fn fallocate_extends_keeps_and_punches() {
    each(|mount| {
        let file = create(mount, "f");
        file.write_all_at(&pattern(MIB), 0).unwrap();
        let size = || file.metadata().unwrap().len();
        let (keep, punch) = (FallocateFlags::KEEP_SIZE, FallocateFlags::PUNCH_HOLE);
        let zero = FallocateFlags::ZERO_RANGE;
        fallocate(&file, keep, 0, 4 << 20).unwrap();
        assert_eq!(size(), 1 << 20);
        fallocate(&file, FallocateFlags::empty(), 0, 2 << 20).unwrap();
        assert_eq!(size(), 2 << 20);
        fallocate(&file, punch | keep, 100, 200_000).unwrap();
        fallocate(&file, zero, (2 << 20) - 10, 20).unwrap();
        assert_eq!(size(), (2 << 20) + 10);
        let collapse = fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, 4096);
        assert_eq!(errno(collapse), libc::EOPNOTSUPP);
        if mount.keeps_data {
            let mut model = pattern(MIB);
            model[100..200_100].fill(0);
            let mut read = vec![1; MIB];
            file.read_exact_at(&mut read, 0).unwrap();
            assert!(read == model);
        }
    });
}

#[test]
fn holes_are_found() {
    each(|mount| {
        let mut file = create(mount, "f");
        file.write_all_at(&pattern(4096), 4 << 20).unwrap();
        let mut seek = |whence, offset| rustix::fs::seek(&mut file, SeekHow(whence, offset).into());
        assert_eq!(errno(seek(libc::SEEK_DATA, 5 << 20)), libc::ENXIO);
        assert_eq!(errno(seek(libc::SEEK_HOLE, 5 << 20)), libc::ENXIO);
        assert_eq!(seek(libc::SEEK_HOLE, 4 << 20).unwrap(), (4 << 20) + 4096);
        if mount.keeps_data {
            assert_eq!(seek(libc::SEEK_DATA, 0).unwrap(), 4 << 20);
            assert_eq!(seek(libc::SEEK_HOLE, 0).unwrap(), 0);
        }
        assert_eq!(file.seek(SeekFrom::End(0)).unwrap(), (4 << 20) + 4096);
    });
}

struct SeekHow(i32, u64);

impl From<SeekHow> for rustix::fs::SeekFrom {
    fn from(SeekHow(whence, offset): SeekHow) -> Self {
        match whence {
            libc::SEEK_DATA => Self::Data(offset),
            _ => Self::Hole(offset),
        }
    }
}

#[test]
fn ranges_are_copied_within() {
    each(|mount| {
        let data = pattern(MIB);
        let (from, to) = (create(mount, "a"), create(mount, "b"));
        from.write_all_at(&data, 0).unwrap();
        let (mut off_in, mut off_out) = (1000, 5);
        while off_in < MIB as u64 {
            let n = copy_file_range(&from, Some(&mut off_in), &to, Some(&mut off_out), MIB);
            assert!(n.unwrap() > 0);
        }
        assert_eq!(to.metadata().unwrap().len(), (MIB - 1000 + 5) as u64);
        if mount.keeps_data {
            let read = fs::read(mount.path("b")).unwrap();
            assert_eq!(read[..5], [0; 5]);
            assert!(read[5..] == data[1000..]);
        }
    });
}

#[test]
fn shared_mappings_reach_the_file() {
    each(|mount| {
        // A program that maps: whoever has it writes through a mapping and calls msync.
        let script = "import mmap,os,sys\n\
            f=os.open(sys.argv[1],os.O_RDWR|os.O_CREAT)\n\
            os.ftruncate(f,8192)\n\
            m=mmap.mmap(f,8192)\n\
            m[4094:4100]=b'mapped'\n\
            m.flush()\n";
        let python = std::process::Command::new("python3")
            .args(["-c", script])
            .arg(mount.path("f"))
            .status();
        match python {
            Ok(status) => assert!(status.success()),
            Err(_) => return eprintln!("SKIPPED: no python3"),
        }
        let _ = fs::write("/proc/sys/vm/drop_caches", "1");
        let read = fs::read(mount.path("f")).unwrap();
        if mount.keeps_data {
            assert_eq!(read[4094..4100], *b"mapped");
        }
    });
}
