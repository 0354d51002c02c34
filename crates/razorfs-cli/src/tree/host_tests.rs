//! Trees that are deeper than the paths that a kernel takes.

use super::*;
use crate::progress::{Progress, Unit};
use crate::tree::{Copy, CopyOptions, measure};

const DEPTH: usize = 90;

fn name() -> String {
    "d".repeat(200)
}

/// Makes a tree whose deepest file has a path of 18,000 bytes.
fn make(tree: &dyn Tree) -> PathBuf {
    let mut path = PathBuf::new();
    for _ in 0..DEPTH {
        path.push(name());
        let meta = Meta::new(FileKind::Directory, 0o755);
        tree.make(&path, &meta, Path::new("")).unwrap();
    }
    path.push("file");
    let meta = Meta::new(FileKind::Regular, 0o644);
    tree.write(&path, &meta, &mut Bytes(b"deep"), &mut |_| Ok(()))
        .unwrap();
    path
}

struct Bytes(&'static [u8]);

impl Read for Bytes {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buf)
    }
}

impl Source for Bytes {}

fn read(tree: &dyn Tree, path: &Path) -> Vec<u8> {
    let mut content = Vec::new();
    tree.read(path).unwrap().read_to_end(&mut content).unwrap();
    content
}

fn remove(tree: &dyn Tree, file: &Path) {
    tree.remove(file, false).unwrap();
    for dir in file.ancestors().skip(1).filter(|p| *p != Path::new("")) {
        tree.remove(dir, true).unwrap();
    }
}

fn check(from: &HostTree, to: &HostTree) {
    let path = make(from);
    let root = Path::new("");
    assert_eq!(measure(from, root).unwrap(), (4, 1));
    let options = CopyOptions {
        preserve: true,
        recursive: true,
    };
    let mut progress = Progress::new("copy", Unit::Bytes, true);
    let mut copy = Copy::new(from, to, options, &mut progress);
    copy.run(root, root).unwrap();
    assert_eq!(read(to, &path), b"deep");
    assert_eq!(to.find(&path).unwrap().unwrap().size, 4);
    remove(from, &path);
    remove(to, &path);
    assert!(to.list(root).unwrap().is_empty());
}

#[test]
fn a_tree_of_the_host_deeper_than_any_path_is_copied_and_removed() {
    let room = tempfile::tempdir().unwrap();
    let (a, b) = (room.path().join("a"), room.path().join("b"));
    std::fs::create_dir(&a).unwrap();
    check(&HostTree::new(a), &HostTree::new(b));
}

/// A mount is a directory that is held; what is asked of it is the same.
#[test]
fn a_tree_of_a_mount_deeper_than_any_path_is_copied_and_removed() {
    let room = tempfile::tempdir().unwrap();
    let (a, b) = (room.path().join("a"), room.path().join("b"));
    for dir in [&a, &b] {
        std::fs::create_dir(dir).unwrap();
    }
    let of = |dir: &Path| HostTree::of_mount(dir, Path::new("volume")).unwrap();
    check(&of(&a), &of(&b));
}

#[test]
fn steps_are_short_and_lead_the_same_way() {
    let long: PathBuf = std::iter::repeat_n(name(), DEPTH).collect();
    for path in [long.clone(), Path::new("/").join(&long), "a/b".into()] {
        let steps = steps(&path);
        assert!(steps.iter().all(|s| s.as_os_str().len() <= STEP));
        assert_eq!(steps.iter().collect::<PathBuf>(), path);
        assert!(steps.iter().skip(1).all(|s| s.is_relative()));
    }
}
