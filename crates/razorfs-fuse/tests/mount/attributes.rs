//! Attributes.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::time::{Duration, SystemTime};

use rustix::fs::{
    AtFlags, CWD, IFlags, StatxFlags, XattrFlags, getxattr, ioctl_getflags, ioctl_setflags,
    listxattr, removexattr, setxattr, statx,
};

use crate::{each, errno};

#[test]
fn statx_tells_the_time_of_creation() {
    each(|mount| {
        fs::write(mount.path("f"), b"12345").unwrap();
        std::thread::sleep(Duration::from_millis(20));
        fs::set_permissions(mount.path("f"), fs::Permissions::from_mode(0o600)).unwrap();
        let want = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let s = statx(CWD, mount.path("f"), AtFlags::empty(), want).unwrap();
        assert_eq!(s.stx_mask & want.bits(), want.bits());
        assert_eq!((s.stx_size, s.stx_mode & 0o7777), (5, 0o600));
        let nanos = |t: rustix::fs::StatxTimestamp| t.tv_sec * 1_000_000_000 + i64::from(t.tv_nsec);
        assert!(nanos(s.stx_ctime) - nanos(s.stx_btime) >= 20_000_000);
        let now = SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos(s.stx_btime) as u64);
        assert!(now.elapsed().unwrap() < Duration::from_secs(60));
    });
}

#[test]
fn times_are_set_and_kept_to_the_nanosecond() {
    each(|mount| {
        let file = File::create(mount.path("f")).unwrap();
        // Before 1970 and beyond 2038 too.
        for secs in [-1_000_000_000i64, 1_600_000_000, 5_000_000_000] {
            let time = |secs: i64| {
                let span = Duration::from_secs(secs.unsigned_abs());
                let epoch = SystemTime::UNIX_EPOCH;
                if secs < 0 { epoch - span } else { epoch + span }
            };
            let times = fs::FileTimes::new()
                .set_accessed(time(secs))
                .set_modified(time(secs + 1) + Duration::from_nanos(123_456_789));
            file.set_times(times).unwrap();
            let stat = fs::metadata(mount.path("f")).unwrap();
            assert_eq!((stat.atime(), stat.mtime()), (secs, secs + 1));
            assert_eq!(stat.mtime_nsec(), 123_456_789);
        }
    });
}

#[test]
fn truncation_changes_the_times() {
    each(|mount| {
        fs::write(mount.path("f"), b"12345").unwrap();
        let before = fs::metadata(mount.path("f")).unwrap().modified().unwrap();
        std::thread::sleep(Duration::from_millis(10));
        File::create(mount.path("f")).unwrap();
        let after = fs::metadata(mount.path("f")).unwrap();
        assert!(after.modified().unwrap() > before);
        assert_eq!(after.len(), 0);
    });
}

#[test]
fn extended_attributes_follow_the_rules() {
    each(|mount| {
        fs::write(mount.path("f"), b"").unwrap();
        let path = mount.path("f");
        let set = |name: &str, value: &[u8], flags| setxattr(&path, name, value, flags);
        let none = XattrFlags::empty();
        let mut small = [0; 2];
        let mut buf = vec![0; 65536];
        assert_eq!(
            errno(getxattr(&path, "user.a", &mut buf[..])),
            libc::ENODATA
        );
        set("user.a", b"value", none).unwrap();
        set("user.b", &vec![7; 60_000], none).unwrap();
        assert_eq!(errno(set("user.a", b"", XattrFlags::CREATE)), libc::EEXIST);
        assert_eq!(
            errno(set("user.c", b"", XattrFlags::REPLACE)),
            libc::ENODATA
        );
        set("user.a", b"other", XattrFlags::REPLACE).unwrap();
        assert_eq!(getxattr(&path, "user.a", &mut buf[..]).unwrap(), 5);
        assert_eq!(buf[..5], *b"other");
        assert_eq!(
            errno(getxattr(&path, "user.a", &mut small[..])),
            libc::ERANGE
        );
        assert_eq!(getxattr(&path, "user.b", &mut buf[..]).unwrap(), 60_000);
        assert_eq!(listxattr(&path, &mut buf[..]).unwrap(), 14);
        removexattr(&path, "user.a").unwrap();
        assert_eq!(errno(removexattr(&path, "user.a")), libc::ENODATA);
    });
}

#[test]
fn what_may_run_with_rights_loses_them_when_it_changes() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("SKIPPED: only root can give files away");
    }
    each(|mount| {
        let path = mount.path("f");
        let mode = || fs::metadata(&path).unwrap().mode() & 0o7777;
        let set = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        fs::write(&path, b"program").unwrap();
        fs::set_permissions(mount.root(), fs::Permissions::from_mode(0o777)).unwrap();
        // As an ordinary user a write clears them, as root it does not.
        for (before, after) in [(0o6777, 0o777), (0o2767, 0o2767), (0o4766, 0o766)] {
            set(before);
            as_nobody(&["sh", "-c", "echo x >> \"$0\""], &path);
            assert_eq!(mode(), after, "{before:o}");
        }
        set(0o6777);
        as_nobody(&["truncate", "-s", "3"], &path);
        assert_eq!(mode(), 0o777);
        set(0o6777);
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(b"y", 0).unwrap();
        assert_eq!(mode(), 0o6777);
        // Giving it away always does.
        chown(&path, Some(1), Some(1)).unwrap();
        assert_eq!(mode(), 0o777);
    });
}

fn as_nobody(command: &[&str], path: &std::path::Path) {
    use std::os::unix::process::CommandExt as _;
    let mut process = std::process::Command::new(command[0]);
    process.args(&command[1..]).arg(path).uid(65534).gid(65534);
    assert!(process.status().unwrap().success());
}

#[test]
fn capabilities_go_with_a_write() {
    each(|mount| {
        let path = mount.path("f");
        fs::write(&path, b"program").unwrap();
        // cap_net_raw, revision 2.
        let mut value = [0; 20];
        value[..8].copy_from_slice(&[1, 0, 0, 2, 0, 0x20, 0, 0]);
        let name = "security.capability";
        if setxattr(&path, name, &value, XattrFlags::empty()).is_err() {
            return eprintln!("SKIPPED: only root can give capabilities");
        }
        let mut buf = [0; 20];
        assert_eq!(getxattr(&path, name, &mut buf[..]).unwrap(), 20);
        fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .write_all_at(b"x", 0)
            .unwrap();
        assert_eq!(errno(getxattr(&path, name, &mut buf[..])), libc::ENODATA);
    });
}

#[test]
fn flags_of_chattr_are_kept() {
    each(|mount| {
        let file = File::create(mount.path("f")).unwrap();
        assert_eq!(ioctl_getflags(&file).unwrap(), IFlags::empty());
        if !rustix::process::geteuid().is_root() {
            return eprintln!("SKIPPED: only root can set them");
        }
        ioctl_setflags(&file, IFlags::APPEND).unwrap();
        assert_eq!(ioctl_getflags(&file).unwrap(), IFlags::APPEND);
        if mount.keeps_data {
            assert_eq!(errno(rustix::fs::ftruncate(&file, 0)), libc::EPERM);
        }
        // The present may be told of it, and no other time.
        let times = fs::FileTimes::new().set_modified(SystemTime::UNIX_EPOCH);
        let refused = file.set_times(times).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        let now = rustix::fs::Timestamps {
            last_access: rustix::fs::Timespec {
                tv_sec: 0,
                tv_nsec: libc::UTIME_NOW,
            },
            last_modification: rustix::fs::Timespec {
                tv_sec: 0,
                tv_nsec: libc::UTIME_NOW,
            },
        };
        rustix::fs::futimens(&file, &now).unwrap();
        ioctl_setflags(&file, IFlags::empty()).unwrap();
        // Compression, and none.
        for flag in [IFlags::COMPRESSED, IFlags::from_bits_retain(0x400)] {
            ioctl_setflags(&file, flag).unwrap();
            assert_eq!(ioctl_getflags(&file).unwrap(), flag);
        }
        ioctl_setflags(&file, IFlags::empty()).unwrap();
        let unknown = ioctl_setflags(&file, IFlags::SYNC);
        assert_eq!(errno(unknown), libc::EOPNOTSUPP);
    });
}

#[test]
fn statfs_tells_space_and_names() {
    each(|mount| {
        let s = rustix::fs::statvfs(mount.root()).unwrap();
        assert_eq!((s.f_namemax, s.f_frsize), (255, 4096));
        assert!(s.f_blocks >= s.f_bfree && s.f_files >= s.f_ffree);
        // What others have on the host is not used by the volume.
        assert!((s.f_blocks - s.f_bfree) * s.f_frsize < 16 << 20);
    });
}
