//! Importing what the C++ prototype has written.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::bodies::{self as encoder, Known, SAVED};
use crate::support::{Mount, fails, ok, razorfs};

/// A thousand files in directories, with names that are no text among them.
fn thousand() -> Vec<Known> {
    let mut all = vec![Known::directory(1, "/"), Known::directory(2, "/empty")];
    all.extend((0..20).map(|n| Known::directory(3 + n, format!("/dir{n}"))));
    all.extend((0..1000).map(|n| {
        let path = [format!("/dir{}/file{n}", n % 20).as_bytes(), b"\xFE\n"].concat();
        let bytes = vec![n as u8; (n as usize * 37) % 5000];
        Known::file(100 + n, path, bytes)
    }));
    all
}

/// What is below a directory is what the prototype knew, and nothing else.
fn compare(dir: &Path, all: &[Known]) {
    let mut files = 0;
    for known in all.iter().filter(|known| known.path != b"/") {
        let path = dir.join(std::ffi::OsStr::from_bytes(&known.path[1..]));
        match &known.bytes {
            Some(bytes) => assert!(fs::read(&path).unwrap() == *bytes, "{path:?}"),
            None => assert!(path.is_dir(), "{path:?}"),
        }
        files += usize::from(known.bytes.is_some());
    }
    assert_eq!(crate::tree::files_below(dir).len(), files);
}

fn import(from: &Path, to: &str, options: &[&str]) -> std::process::Output {
    let from = from.to_str().unwrap();
    razorfs([&["import", "--quiet", from, to], options].concat())
}

#[test]
fn a_dump_and_a_razr_file_of_a_thousand_files_are_imported_exactly() {
    let all = thousand();
    for (name, bytes) in [
        ("dump", encoder::dump(2000, &all)),
        ("razr", encoder::razr(2000, &all, false)),
    ] {
        let mount = Mount::new();
        let file = mount.room.path().join(name);
        fs::write(&file, bytes).unwrap();
        let volume = mount.volume.to_str().unwrap();
        ok(["import", "--quiet", file.to_str().unwrap(), volume]);
        mount.verify();
        mount.mount(&[]);
        compare(&mount.dir, &all);
        let (made, source) = (mount.dir.join("dir3"), fs::metadata(&file).unwrap());
        let time = fs::metadata(made).unwrap().mtime();
        let expected = match name {
            "razr" => (SAVED / 1000) as i64,
            _ => source.mtime(),
        };
        assert_eq!(time, expected);
        // Again, to a mount, over what is there.
        let output = import(&file, &mount.at("again"), &[]);
        assert!(output.status.success() && output.stderr.is_empty());
        fs::write(mount.dir.join("again/dir0/file0"), b"stays").unwrap();
        assert!(import(&file, &mount.at("again"), &[]).status.success());
        assert_eq!(
            fs::read(mount.dir.join("again/dir0/file0")).unwrap(),
            b"stays"
        );
        fs::remove_file(mount.dir.join("again/dir0/file0")).unwrap();
        compare(&mount.dir.join("again"), &all);
        mount.umount();
    }
}

#[test]
fn a_journal_beside_a_razr_file_counts_up_to_its_first_bad_entry() {
    let mount = Mount::with(&[]);
    let file = mount.room.path().join("razorfs.dat");
    let all = [Known::directory(1, "/"), Known::file(2, "/a", "old")];
    fs::write(&file, encoder::razr(3, &all, false)).unwrap();
    let torn = encoder::deleted(2);
    let journal = [
        encoder::written(2, b"new"),
        encoder::created(3, b"/b", b"more"),
        torn[..30].to_vec(),
    ];
    fs::write(file.with_extension("dat.journal"), journal.concat()).unwrap();
    let output = import(&file, &mount.at("in"), &[]);
    assert_eq!(output.status.code(), Some(0));
    let said = String::from_utf8(output.stderr).unwrap();
    let cut = "razorfs.dat.journal counts up to byte 74, 2 entries: an entry takes 32 bytes, and \
               30 are left; the last 30 bytes are left out\n";
    assert!(said.ends_with(cut), "{said}");
    let now = [Known::file(2, "/a", "new"), Known::file(3, "/b", "more")];
    compare(&mount.dir.join("in"), &now);
    let journal = file.with_extension("dat.journal");
    let line = fails(1, ["import", journal.to_str().unwrap(), &mount.at("no")]);
    assert!(line.contains("name the file that it lies beside"), "{line}");
    mount.umount();
}

#[test]
fn a_damaged_file_is_refused_and_salvaged() {
    let mount = Mount::new();
    let file = mount.room.path().join("razorfs.dat");
    let all = [
        Known::directory(1, "/"),
        Known::file(2, "/lost", "lost"),
        Known::file(3, "/kept", "kept"),
    ];
    let mut bytes = encoder::razr(4, &all, false);
    let inode = 96 + (4 + 1) + (4 + 5) + (4 + 5) + 52;
    bytes[inode + 33] ^= 1;
    fs::write(&file, &bytes).unwrap();
    let volume = mount.volume.to_str().unwrap();
    let line = fails(1, ["import", "-q", file.to_str().unwrap(), volume]);
    let remedy = "`--salvage` imports the files that are whole and lists the rest\n";
    assert!(
        line.contains(": at byte 101, /lost: ") && line.ends_with(remedy),
        "{line}"
    );
    assert!(!mount.volume.exists());
    let output = import(&file, volume, &["--salvage"]);
    assert_eq!(output.status.code(), Some(4));
    let said = String::from_utf8(output.stderr).unwrap();
    let inode = format!("at byte {inode}: an inode's checksum is wrong\n");
    assert!(
        said.contains("left out: ") && said.contains(&inode),
        "{said}"
    );
    assert!(said.contains("at byte 101, /lost: "), "{said}");
    mount.verify();
    mount.mount(&[]);
    compare(&mount.dir, &all[2..]);
    mount.umount();
    // A whole one has nothing that is left out, and a tar is none.
    fs::write(&file, encoder::razr(4, &all, false)).unwrap();
    let output = import(&file, &format!("{volume}:/whole"), &["--salvage"]);
    assert_eq!(output.status.code(), Some(0));
    fs::write(&file, [0; 1024]).unwrap();
    let line = fails(1, ["import", "--salvage", file.to_str().unwrap(), volume]);
    assert!(line.contains("no file of the prototype"), "{line}");
    fs::write(&file, [b'?'; 1024]).unwrap();
    let fresh = mount.room.path().join("fresh.rzfs");
    let fresh = fresh.to_str().unwrap();
    let line = fails(1, ["import", "--salvage", file.to_str().unwrap(), fresh]);
    assert!(line.contains("nothing in it is whole"), "{line}");
    assert!(!Path::new(fresh).exists());
}
