use std::os::unix::fs::{MetadataExt, PermissionsExt};

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use std::sync::Arc;

use razorfs::{CreateOptions, Options, Volume};
use razorfs_disk::os::OsEnv;
use razorfs_disk::sim::SimDisk;

use super::*;
use crate::pack::{pack, time_text};
use crate::tree::{HostTree, VolumeTree};

fn round_trip(packing: Packing, from: &Path, to: &Path) {
    let tree = HostTree::new(from);
    let target = Path::new("x.tar");
    let root = Path::new("");
    let bytes = pack(&tree, root, target, Vec::new(), packing, &mut |_, _| Ok(())).unwrap();
    let data = decompress(bytes.as_slice()).unwrap();
    std::fs::create_dir(to).unwrap();
    let tree = HostTree::new(to);
    unpack(data, &tree, root, &mut |_| Ok(())).unwrap();
}

#[test]
fn a_tree_survives_every_packing() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    let long = "l".repeat(200);
    std::fs::create_dir_all(from.join(&long).join("sub")).unwrap();
    let one = from.join(&long).join("sub/one");
    std::fs::write(&one, vec![7; 300_000]).unwrap();
    std::fs::set_permissions(&one, PermissionsExt::from_mode(0o640)).unwrap();
    std::fs::hard_link(&one, from.join("two")).unwrap();
    std::os::unix::fs::symlink("t".repeat(150), from.join("link")).unwrap();
    std::fs::write(from.join("empty"), b"").unwrap();
    std::fs::write(from.join(OsStr::from_bytes(b"odd\xff")), b"x").unwrap();
    for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
        let to = dir.path().join(format!("{packing:?}"));
        round_trip(packing, &from, &to);
        let diff = std::process::Command::new("diff")
            .arg("-r")
            .arg("--no-dereference")
            .args([&from, &to])
            .output()
            .unwrap();
        assert!(diff.status.success(), "{diff:?}");
        let meta = |path: PathBuf| std::fs::symlink_metadata(path).unwrap();
        let (a, b) = (meta(from.join("two")), meta(to.join("two")));
        assert_eq!((a.mode(), a.mtime_nsec()), (b.mode(), b.mtime_nsec()));
        assert_eq!(b.ino(), meta(to.join(&long).join("sub/one")).ino());
        assert_eq!(
            meta(from.join(&long)).mtime_nsec(),
            meta(to.join(&long)).mtime_nsec()
        );
    }
}

#[test]
fn a_tar_that_is_cut_off_leaves_no_half_file() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    std::fs::create_dir(&from).unwrap();
    std::fs::write(from.join("a"), vec![7; 300_000]).unwrap();
    let tree = HostTree::new(&from);
    let root = Path::new("");
    let target = Path::new("x.tar");
    let plain = Packing::Plain;
    let mut bytes = pack(&tree, root, target, Vec::new(), plain, &mut |_, _| Ok(())).unwrap();
    bytes.truncate(200_000);
    let to = dir.path().join("to");
    std::fs::create_dir(&to).unwrap();
    let tree = HostTree::new(&to);
    let failure = unpack(bytes.as_slice(), &tree, root, &mut |_| Ok(())).unwrap_err();
    assert!(failure.message.contains("cut off"), "{failure}");
    assert_eq!(std::fs::read_dir(&to).unwrap().count(), 0);
}

/// Unpacks a tar into a new directory of `dir`, which fails; the directory.
fn refused(bytes: &[u8], dir: &Path) -> PathBuf {
    let to = dir.join("to");
    std::fs::create_dir(&to).unwrap();
    let outcome = unpack(bytes, &HostTree::new(&to), Path::new(""), &mut |_| Ok(()));
    assert!(outcome.is_err());
    to
}

#[test]
fn a_tar_cannot_write_outside_its_root() {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(1);
    let name = b"../evil";
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_cksum();
    builder.append(&header, [7].as_slice()).unwrap();
    let bytes = builder.into_inner().unwrap();
    let dir = tempfile::tempdir().unwrap();
    refused(&bytes, dir.path());
    assert!(!dir.path().join("evil").exists());
}

#[test]
fn a_tar_cannot_write_through_its_own_symbolic_link() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    std::fs::create_dir_all(outside.join("sub")).unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Symlink);
    header.set_size(0);
    builder.append_link(&mut header, "link", &outside).unwrap();
    let mut header = Header::new_gnu();
    header.set_size(1);
    let data = [7].as_slice();
    builder
        .append_data(&mut header, "link/sub/evil", data)
        .unwrap();
    let bytes = builder.into_inner().unwrap();
    refused(&bytes, dir.path());
    assert!(!outside.join("sub/evil").exists());
}

#[test]
fn a_tar_cannot_link_what_is_behind_its_own_symbolic_link() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), b"s").unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    for (kind, name, target) in [
        (EntryType::Symlink, "link", outside.as_path()),
        (EntryType::Link, "mine", Path::new("link/secret")),
    ] {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        builder.append_link(&mut header, name, target).unwrap();
    }
    let bytes = builder.into_inner().unwrap();
    let to = refused(&bytes, dir.path());
    assert!(!to.join("mine").exists());
}

#[test]
fn zeros_of_a_sparse_file_are_not_read_one_by_one() {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_path("f").unwrap();
    header.set_size(3);
    header.set_mode(0o644);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.sparse[0].offset = *b"\x80\0\0\0\0\0\x01\0\0\0\x02\0";
    gnu.sparse[0].numbytes = *b"00000000003\0";
    gnu.set_real_size((1 << 40) + 515);
    header.set_cksum();
    let mut next = Header::new_gnu();
    next.set_path("next").unwrap();
    next.set_size(3);
    next.set_mode(0o644);
    next.set_cksum();
    let mut data = [0; 512];
    data[..3].copy_from_slice(b"end");
    let blocks = [*header.as_bytes(), data, *next.as_bytes(), data, [0; 512]];
    let bytes = blocks.concat();
    let dir = tempfile::tempdir().unwrap();
    let (tree, mut steps) = (HostTree::new(dir.path()), 0);
    unpack(bytes.as_slice(), &tree, Path::new(""), &mut |_| {
        steps += 1;
        Ok(())
    })
    .unwrap();
    assert!(steps < 10, "{steps} pieces");
    let file = std::fs::File::open(dir.path().join("f")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), (1 << 40) + 515);
    let mut end = [0; 3];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut end, (1 << 40) + 512).unwrap();
    assert_eq!(&end, b"end");
    assert_eq!(std::fs::read(dir.path().join("next")).unwrap(), b"end");
}

#[test]
fn what_is_read_of_an_entry_does_not_widen_the_bound_of_the_next_header() {
    let mut file = Header::new_gnu();
    file.set_path("f").unwrap();
    file.set_entry_type(EntryType::Continuous);
    file.set_size(100 << 20);
    file.set_mode(0o644);
    file.set_cksum();
    let mut long = Header::new_gnu();
    long.set_path("././@LongLink").unwrap();
    long.set_entry_type(EntryType::GNULongName);
    long.set_size(1 << 40);
    long.set_cksum();
    let data = std::io::repeat(0).take(100 << 20);
    let tar = file
        .as_bytes()
        .chain(data)
        .chain(long.as_bytes().as_slice());
    let counted = Counted::new(tar.chain(std::io::repeat(b'x')));
    let (count, dir) = (counted.count(), tempfile::tempdir().unwrap());
    let tree = HostTree::new(dir.path());
    let failure = unpack(counted, &tree, Path::new(""), &mut |_| Ok(())).unwrap_err();
    assert!(failure.message.contains("too long"), "{failure}");
    assert!(count.get() < 170 << 20, "{} bytes were read", count.get());
}

#[test]
fn an_owner_that_no_kernel_can_name_is_nobody() {
    let (disk, env) = (SimDisk::new(), Arc::new(OsEnv));
    let create = CreateOptions::default();
    Volume::create_on(Arc::new(disk.clone()), env.clone(), &create).unwrap();
    let volume = Volume::open_on(Arc::new(disk), env, Options::default()).unwrap();
    let (dir, volume) = (tempfile::tempdir().unwrap(), VolumeTree::new(volume, "v"));
    let host = HostTree::new(dir.path());
    for id in [u64::from(u32::MAX), 1 << 32, u64::MAX] {
        let mut header = Header::new_gnu();
        header.set_path(format!("f{id}")).unwrap();
        header.set_size(0);
        header.set_mode(0o644);
        header.set_uid(id);
        header.set_gid(id);
        header.set_cksum();
        let tar = [*header.as_bytes(), [0; 512]].concat();
        for tree in [&host as &dyn Tree, &volume] {
            unpack(tar.as_slice(), tree, Path::new(""), &mut |_| Ok(())).unwrap();
            let meta = tree.meta(Path::new(&format!("f{id}"))).unwrap();
            let root = rustix::process::geteuid().is_root();
            if root || tree.host_path(Path::new("")).is_none() {
                assert_eq!((meta.uid, meta.gid), (65_534, 65_534));
            }
        }
    }
}

#[test]
fn times_are_read_and_written_exactly() {
    for time in [
        Time { secs: 0, nanos: 0 },
        Time {
            secs: 1_700_000_000,
            nanos: 123_456_789,
        },
        Time {
            secs: -2,
            nanos: 250_000_000,
        },
        Time { secs: -1, nanos: 1 },
    ] {
        assert_eq!(time_of(&time_text(time)), Some(time), "{}", time_text(time));
    }
    assert_eq!(time_of("1.5").unwrap().nanos, 500_000_000);
    assert_eq!(time_of("x"), None);
    assert_eq!(
        time_text(Time {
            secs: -2,
            nanos: 250_000_000
        }),
        "-1.750000000"
    );
}

#[test]
fn names_tell_the_packing() {
    let of = |name: &str| Packing::of(Path::new(name));
    assert_eq!(of("a.tar"), Some(Packing::Plain));
    assert_eq!(of("a.TGZ"), Some(Packing::Gzip));
    assert_eq!(of("d.tar.zst"), Some(Packing::Zstd));
    assert_eq!(of("tar"), None);
}

#[test]
fn sparse_files_of_gnu_tar_keep_name_and_content_in_every_format() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    std::fs::create_dir(&from).unwrap();
    let file = std::fs::File::create(from.join("sparse")).unwrap();
    file.set_len(10 << 20).unwrap();
    // More pieces than the list in the header has room for, and than that in the next block.
    for piece in 0..60 {
        file.write_all_at(b"piece", 100_000 + piece * 150_000)
            .unwrap();
    }
    std::fs::write(from.join("then"), b"another").unwrap();
    let tar = |options: &[&str]| {
        let output = std::process::Command::new("tar")
            .args(["-S", "-cf", "-", "-C"])
            .arg(&from)
            .args(options)
            .args(["sparse", "then"])
            .output()
            .unwrap();
        assert!(output.status.success());
        output.stdout
    };
    for (n, options) in [vec!["--format=gnu"], vec!["--format=posix"]]
        .iter()
        .enumerate()
    {
        let bytes = tar(options);
        assert!(bytes.len() < 1 << 20, "it is not sparse");
        let to = dir.path().join(n.to_string());
        std::fs::create_dir(&to).unwrap();
        let tree = HostTree::new(&to);
        unpack(bytes.as_slice(), &tree, Path::new(""), &mut |_| Ok(())).unwrap();
        let content = std::fs::read(to.join("sparse")).unwrap();
        assert!(content == std::fs::read(from.join("sparse")).unwrap());
        assert_eq!(std::fs::read(to.join("then")).unwrap(), b"another");
    }
    for version in ["0.0", "0.1"] {
        let bytes = tar(&["--format=posix", &format!("--sparse-version={version}")]);
        let to = dir.path().join(version);
        std::fs::create_dir(&to).unwrap();
        let tree = HostTree::new(&to);
        let refused = unpack(bytes.as_slice(), &tree, Path::new(""), &mut |_| Ok(()));
        let line = refused.unwrap_err().message;
        assert!(line.contains("--sparse-version=1.0"), "{line}");
        assert_eq!(std::fs::read_dir(&to).unwrap().count(), 0);
    }
}

#[test]
fn a_header_without_end_is_refused_before_it_fills_the_memory() {
    let mut header = tar::Header::new_gnu();
    header.set_path("././@LongLink").unwrap();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(1 << 40);
    header.set_cksum();
    let endless = header.as_bytes().chain(std::io::repeat(b'x'));
    let (counted, dir) = (Counted::new(endless), tempfile::tempdir().unwrap());
    let count = counted.count();
    let tree = HostTree::new(dir.path());
    let refused = unpack(counted, &tree, Path::new(""), &mut |_| Ok(()));
    let line = refused.unwrap_err().message;
    assert!(line.contains("too long"), "{line}");
    assert!(count.get() < 100 << 20);
}

/// A tar of one regular file or directory with this record before it.
fn with_record(key: &str, value: &[u8], name: &str, kind: EntryType) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_pax_extensions([(key, value)]).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_path(name).unwrap();
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_size(0);
    header.set_cksum();
    tar.append(&header, std::io::empty()).unwrap();
    tar.into_inner().unwrap()
}

#[test]
fn a_path_that_would_take_hours_to_make_is_refused_and_a_deep_one_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let tree = HostTree::new(dir.path());
    for (names, fits) in [(1500, true), (2049, false), (100_000, false)] {
        let path = "a/".repeat(names - 1) + "f";
        let tar = with_record("path", path.as_bytes(), "f", EntryType::Regular);
        let done = unpack(tar.as_slice(), &tree, Path::new(""), &mut |_| Ok(()));
        match done {
            Ok(()) => assert!(fits, "{names}"),
            Err(e) => assert!(!fits && e.message.contains("at most"), "{}", e.message),
        }
    }
    let mut steps = 0;
    let path = "b/".repeat(1000) + "f";
    let tar = with_record("path", path.as_bytes(), "f", EntryType::Regular);
    let stopped = unpack(tar.as_slice(), &tree, Path::new(""), &mut |_| {
        steps += 1;
        match steps {
            10 => Err(Failure::new("stopped")),
            _ => Ok(()),
        }
    });
    assert!(stopped.is_err() && steps == 10);
}

#[test]
fn an_attribute_larger_than_any_is_refused_before_it_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let tree = HostTree::new(dir.path());
    let large = vec![b'x'; (64 << 10) + 1];
    let tar = with_record("SCHILY.xattr.user.a", &large, "d/", EntryType::Directory);
    let refused = unpack(tar.as_slice(), &tree, Path::new(""), &mut |_| Ok(()));
    let line = refused.unwrap_err().message;
    assert!(line.contains("65537 bytes"), "{line}");
}

#[test]
fn default_access_lists_do_not_spread_by_unpacking() {
    use razorfs::{Ino, NewNode, Options, Volume, XattrMode};
    let room = tempfile::tempdir().unwrap();
    let volume = |name: &str| {
        let path = room.path().join(name);
        Volume::open_or_create(&path, Options::default()).unwrap()
    };
    let list: [&[u8]; 6] = [
        &[2, 0, 0, 0],
        &[1, 0, 7, 0, 255, 255, 255, 255],
        &[2, 0, 7, 0, 5, 0, 0, 0],
        &[4, 0, 5, 0, 255, 255, 255, 255],
        &[16, 0, 7, 0, 255, 255, 255, 255],
        &[32, 0, 5, 0, 255, 255, 255, 255],
    ];
    let (list, name) = (list.concat(), b"system.posix_acl_default");
    let from = volume("from");
    let dir = NewNode::directory(0o755);
    let d = from.create_node(Ino::ROOT, b"d", &dir).unwrap().ino;
    from.create_node(d, b"plain", &NewNode::file(0o640))
        .unwrap();
    // It came after the file.
    from.set_xattr(d, name, &list, XattrMode::Set).unwrap();
    let tree = VolumeTree::new(from, "from");
    let root = Path::new("");
    let target = Path::new("x.tar");
    let bytes = pack(
        &tree,
        root,
        target,
        Vec::new(),
        Packing::Plain,
        &mut |_, _| Ok(()),
    )
    .unwrap();
    tree.into_volume().close().unwrap();
    let tree = VolumeTree::new(volume("to"), "to");
    unpack(bytes.as_slice(), &tree, root, &mut |_| Ok(())).unwrap();
    let to = tree.into_volume();
    let d = to.find_by_path(b"d").unwrap();
    assert_eq!(*to.get_xattr(d, name).unwrap(), *list);
    let plain = to.find_by_path(b"d/plain").unwrap();
    assert!(to.list_xattr(plain).unwrap().is_empty());
    assert_eq!(to.stat(plain).unwrap().mode & 0o7777, 0o640);
    to.close().unwrap();
}

#[test]
fn holes_are_packed_as_holes_and_gnu_tar_reads_them() {
    use std::os::unix::fs::FileExt;

    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::fs::create_dir(&from).unwrap();
    let long = "n".repeat(150);
    for (name, places) in [
        ("middle", vec![0, 1 << 42]),
        (long.as_str(), vec![1 << 33, 1 << 34]),
        ("nothing", vec![]),
    ] {
        let file = std::fs::File::create(from.join(name)).unwrap();
        // Packing its zeros would take a day.
        file.set_len(1 << 43).unwrap();
        for at in places {
            file.write_all_at(b"data", at).unwrap();
        }
    }
    let check = |to: &Path| {
        for name in ["middle", &long, "nothing"] {
            let file = std::fs::File::open(to.join(name)).unwrap();
            let meta = file.metadata().unwrap();
            assert_eq!(meta.len(), 1 << 43, "{name}");
            assert!(meta.blocks() < 1 << 14, "{name}");
        }
        for (name, at) in [("middle", 0), ("middle", 1 << 42), (&long, 1 << 34)] {
            let file = std::fs::File::open(to.join(name)).unwrap();
            let mut data = [0; 5];
            file.read_exact_at(&mut data, at).unwrap();
            assert_eq!(&data, b"data\0", "{name}");
        }
    };
    round_trip(Packing::Plain, &from, &to);
    check(&to);
    let (root, tree) = (Path::new(""), HostTree::new(&from));
    let plain = Packing::Plain;
    let step = &mut |_, _| Ok(());
    let bytes = pack(&tree, root, Path::new("x.tar"), Vec::new(), plain, step).unwrap();
    assert!(bytes.len() < 1 << 20);
    let (tar, out) = (dir.path().join("x.tar"), dir.path().join("gnu"));
    std::fs::write(&tar, bytes).unwrap();
    std::fs::create_dir(&out).unwrap();
    let mut gnu = std::process::Command::new("tar");
    let done = gnu.arg("-xf").arg(&tar).arg("-C").arg(&out).output();
    let done = done.unwrap();
    assert!(done.status.success(), "{done:?}");
    check(&out);
}
