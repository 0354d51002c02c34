//! What tests of shared frames begin with, and look at.

use std::sync::Arc;

use razorfs_disk::sim::{SimDisk, SimEnv, SimRng};
use razorfs_format::key::Tag;

use crate::store::What;
use crate::{CreateOptions, Ino, NewNode, Options, Volume};

pub(super) const BLOCK: u64 = 128 * 1024;

pub(super) fn volume() -> Volume {
    Volume::for_tests(Options {
        geometry: crate::Geometry::tiny(),
        ..Options::default()
    })
}

/// The same on a disk that the test goes on with.
pub(super) fn volume_on(disk: &SimDisk) -> Volume {
    let options = Options {
        geometry: crate::Geometry::tiny(),
        threads: false,
        ..Options::default()
    };
    let (disk, env) = (Arc::new(disk.clone()), Arc::new(SimEnv::new(1)));
    let create = CreateOptions::from(&options);
    Volume::create_on(disk.clone(), env.clone(), &create).unwrap();
    Volume::open_on(disk, env, options).unwrap()
}

pub(super) fn create(v: &Volume, name: &[u8]) -> Ino {
    let node = NewNode::file(0o644);
    v.create_node(Ino::ROOT, name, &node).unwrap().ino
}

pub(super) fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    SimRng::new(seed).fill(&mut bytes);
    bytes
}

pub(super) fn read(v: &Volume, ino: Ino) -> Vec<u8> {
    let mut bytes = vec![0xee; v.stat(ino).unwrap().size as usize];
    assert_eq!(v.read(ino, 0, &mut bytes).unwrap(), bytes.len());
    bytes
}

/// Frames that several blocks share, as of the last checkpoint.
pub(super) fn shared(v: &Volume) -> usize {
    let keys = v.inner.store.keys();
    keys.iter().filter(|key| key.tag() == Tag::Shared).count()
}

/// Frames of a block that it shows as shared, and as its own.
pub(super) fn frames(v: &Volume, ino: Ino, block: u64) -> (usize, usize) {
    let layout = v.inner.store.layout(ino, block).unwrap();
    let count = |is: fn(&What) -> bool| layout.runs.iter().filter(|run| is(&run.what)).count();
    (
        count(|what| matches!(what, What::Shared(_))),
        count(|what| matches!(what, What::Own(_))),
    )
}
