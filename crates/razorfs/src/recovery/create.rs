//! Creating a volume.

use std::sync::Arc;

use razorfs_disk::{Dir, Disk, Env, LockMode, OpenHow};
use razorfs_format::key::Key;
use razorfs_format::layout::FileName;
use razorfs_format::manifest::{Counters, Manifest};
use razorfs_format::op::{Counter, Mutation, OpType, encode_op};
use razorfs_format::record::Time;
use razorfs_format::superblock::names::FeatureNames;
use razorfs_format::superblock::{
    Features, JOURNAL_TWINS, ManifestRef, NEWEST_INCOMPAT, PARITY, State, Superblock,
};
use razorfs_format::{
    BatchSeq, Branch, Epoch, Generation, Ino, Lsn, ManifestId, PackId, SegmentId, VolumeId,
};

use super::unfinished;
use crate::checkpoint::name_of;
use crate::checkpoint::superfile::SuperFile;
use crate::journal::{Batch, Ring};
use crate::{CreateOptions, Error, Result, namespace};

/// Writes an empty volume. The mark of a creation comes first and goes last; the superblock is the
/// last file, so what has the mark and no superblock was never a volume.
pub(crate) fn create(disk: Arc<dyn Disk>, env: &dyn Env, options: &CreateOptions) -> Result<()> {
    if !(1..=2).contains(&options.journal_copies) {
        return Err(Error::Invalid("a journal has one copy or two"));
    }
    disk.create_dirs()?;
    let _guard = super::lock(disk.as_ref(), LockMode::Exclusive)?;
    unfinished::begin(disk.as_ref())?;
    let mut uuid = [0; 16];
    let mut hash_key = [0; 16];
    for half in uuid.chunks_mut(8).chain(hash_key.chunks_mut(8)) {
        half.copy_from_slice(&env.random().to_le_bytes());
    }
    let vid = VolumeId(u64::from_le_bytes(*uuid.first_chunk().unwrap_or(&[0; 8])));
    let manifest = write_manifest(disk.as_ref(), vid)?;
    let geometry = super::config::geometry_of(options);
    let (mut ring, start) = Ring::create(Arc::clone(&disk), vid, geometry.journal)?;
    ring.set_linked(true);
    ring.append(&first_batch(env, options, start.batch))?;
    ring.sync()?;
    let superblock = Superblock {
        uuid,
        generation: Generation(1),
        features: Features {
            ro_compat: if options.journal_copies == 2 {
                JOURNAL_TWINS
            } else {
                0
            } | if options.parity { PARITY } else { 0 },
            incompat: NEWEST_INCOMPAT,
            ..Features::default()
        },
        manifest,
        journal: start,
        cut: Lsn(1),
        state: State::Clean,
        flags: 0,
        end: start.batch,
        nonce: env.random(),
        hash_key,
        geometry,
        names: FeatureNames::default(),
    };
    SuperFile::create(disk.as_ref(), &superblock)?;
    unfinished::finish(disk.as_ref())
}

/// The root directory comes into being like everything else: by the journal.
fn first_batch(env: &dyn Env, options: &CreateOptions, seq: BatchSeq) -> Batch {
    let now = Time::from_unix_nanos(env.now());
    let root = namespace::root_inode(now, options);
    let mut mutations = Vec::new();
    let key = Key::inode(Branch::HEAD, Ino::ROOT);
    Mutation::Put {
        key,
        value: root.to_bytes(),
        new: true,
    }
    .encode(&mut mutations);
    Mutation::Count {
        branch: Branch::HEAD,
        counter: Counter::Inodes,
        delta: 1,
    }
    .encode(&mut mutations);
    let mut payload = Vec::new();
    encode_op(OpType::Mkdir, &mutations, &mut payload);
    Batch {
        seq,
        first_lsn: Lsn(1),
        n_ops: 1,
        durable: BatchSeq(0),
        generation: Generation(1),
        wall_ns: env.now(),
        payload,
    }
}

fn write_manifest(disk: &dyn Disk, vid: VolumeId) -> Result<ManifestRef> {
    let id = ManifestId(1);
    let manifest = Manifest {
        id,
        generation: Generation(1),
        segments: Vec::new(),
        packs: Vec::new(),
        counters: Counters {
            next_ino: Ino::FIRST,
            next_segment: SegmentId(1),
            next_pack: PackId(1),
            next_manifest: ManifestId(2),
            inodes: 0,
            bytes: 0,
            epoch: Epoch(0),
            lsn: Lsn(1),
        },
        branches: Vec::new(),
        timeline: Arc::default(),
    };
    let bytes = manifest.to_bytes(vid);
    let crc = Manifest::crc(&bytes);
    let file = disk.open(&name_of(FileName::Manifest(id)), OpenHow::CreateNew)?;
    file.write_at(&[std::io::IoSlice::new(&bytes)], 0)?;
    file.sync_data()?;
    disk.sync_dir(Dir::Meta)?;
    Ok(ManifestRef {
        id,
        len: bytes.len() as u32,
        crc,
    })
}
