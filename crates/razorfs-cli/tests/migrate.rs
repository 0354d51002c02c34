//! `razorfs migrate`, of a volume that an older version has written.

use std::fs;
use std::path::Path;

use crate::support::{Mount, fails, info, ok};

/// A volume as it is kept for the tests of older versions.
fn unpack(name: &str, to: &Path) {
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/images");
    let file = fs::File::open(images.join(format!("{name}.tar.zst"))).unwrap();
    let mut tar = tar::Archive::new(zstd::Decoder::new(file).unwrap());
    tar.unpack(to).unwrap();
    fs::write(to.join("LOCK"), "").unwrap();
}

#[test]
fn an_older_volume_is_migrated_and_shows_what_it_showed() {
    let mount = Mount::new();
    unpack("1.0-snapshots", &mount.volume);
    let volume = mount.volume.as_os_str();
    let migrate = |options: &[&str]| {
        let mut line = vec!["migrate".as_ref(), volume];
        line.extend(options.iter().map(std::ffi::OsStr::new));
        ok(line)
    };
    let features = || {
        info(&mount.volume)["features"]["incompat"]
            .as_u64()
            .unwrap()
    };
    let before = (features(), info(&mount.volume)["generation"].clone());
    let said = migrate(&["--dry-run"]);
    assert!(
        said.contains("without `linked-batches`; nothing was changed"),
        "{said}"
    );
    assert_eq!(
        (features(), info(&mount.volume)["generation"].clone()),
        before
    );
    // The present, and each snapshot by its name.
    let shown = || {
        let place = mount.volume.display();
        let listed = ok(["snapshot", "list", &place.to_string(), "--json"]);
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        let snapshots = listed["snapshots"].as_array().unwrap().iter();
        let names = snapshots.map(|s| format!("{place}@{}", s["name"].as_str().unwrap()));
        let places = std::iter::once(place.to_string()).chain(names);
        places
            .map(|place| (ok(["ls", "-lR", &format!("{place}:/")]), place))
            .collect::<Vec<_>>()
    };
    let then = shown();
    assert_eq!(then.len(), 5);
    let said = migrate(&["--quiet"]);
    assert!(said.contains("`linked-batches` now"), "{said}");
    assert_eq!(features() & 256, 256);
    assert_eq!(shown(), then);
    let left = fs::read_dir(mount.volume.join("quarantine")).unwrap();
    assert_eq!(left.count(), 0, "the old metadata is gone");
    mount.verify();
    assert!(migrate(&[]).contains("newest version"));
    // It is used as any other.
    mount.mount(&[]);
    let line = fails(1, ["migrate".as_ref(), mount.dir.as_os_str()]);
    assert!(line.contains("umount"), "{line}");
    fs::write(mount.dir.join("after"), "after").unwrap();
    mount.umount();
    mount.verify();
}

#[test]
fn a_damaged_volume_is_not_migrated() {
    let mount = Mount::new();
    unpack("1.0-pack-damaged", &mount.volume);
    for options in [&["--dry-run"][..], &[]] {
        let mut line = vec!["migrate".as_ref(), mount.volume.as_os_str()];
        line.extend(options.iter().map(std::ffi::OsStr::new));
        let said = fails(1, line);
        assert!(said.contains("razorfs repair"), "{said}");
    }
}
