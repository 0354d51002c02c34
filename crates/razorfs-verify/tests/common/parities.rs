//! Volumes with parity, and damage that is planted in them.

use std::sync::Arc;

use razorfs::{CreateOptions, Geometry, Ino, NewNode, Step, Volume};
use razorfs_disk::Name;
use razorfs_disk::sim::{Image, SimDisk, SimEnv};
use razorfs_format::PackId;
use razorfs_format::parity::{Object, Shape};
use razorfs_verify::FindingKind as K;

use super::forge::{manifest, name_of, superblock};
use super::{Rng, image_of, open};

pub const FILES: u64 = 24;
pub const LEN: usize = 50_000;

pub fn content(n: u64) -> Vec<u8> {
    Rng(n).bytes(LEN)
}

/// A closed volume with parity, several packs and segments.
pub fn volume() -> Image {
    let (disk, env) = (SimDisk::new(), SimEnv::new(3));
    let create = CreateOptions {
        geometry: Geometry::tiny(),
        parity: true,
        ..CreateOptions::default()
    };
    Volume::create_on(Arc::new(disk.clone()), Arc::new(env.clone()), &create).unwrap();
    let volume = open(&disk, &env);
    for n in 0..FILES {
        let name = format!("file {n}");
        let node = NewNode::file(0o644);
        let node = volume.create_node(Ino::ROOT, name.as_bytes(), &node);
        volume.write(node.unwrap().ino, 0, &content(n)).unwrap();
        volume.step(Step::Commit).unwrap();
    }
    volume.step(Step::Checkpoint).unwrap();
    while volume.step(Step::Parity).unwrap() {}
    volume.close().unwrap();
    image_of(&disk)
}

pub fn sealed(image: &Image) -> (Object, u64) {
    let packs = manifest(image, &superblock(image)).packs;
    let pack = packs.iter().find(|p| p.sealed).unwrap();
    (Object::Pack(pack.id), pack.len)
}

pub fn segment(image: &Image) -> (Object, u64) {
    let segments = manifest(image, &superblock(image)).segments;
    let largest = segments.iter().max_by_key(|s| s.bytes).unwrap();
    (Object::Segment(largest.id), largest.bytes)
}

pub fn parity_of(image: &Image, object: Object) -> (Name, Vec<u8>, Shape) {
    let name = name_of(object.parity());
    let bytes = image.bytes(&name).unwrap();
    let vid = superblock(image).vid();
    let shape = Shape::decode(&bytes, vid, object, bytes.len() as u64).unwrap();
    (name, bytes, shape)
}

/// What is planted, at which level it is found, and how.
pub fn planted() -> Vec<(K, u8, Image)> {
    let base = volume();
    let with = |edit: &dyn Fn(&mut Image)| {
        let mut image = base.clone();
        edit(&mut image);
        image
    };
    let (pack, segment) = (sealed(&base).0, segment(&base).0);
    let (of_pack, pack_bytes, shape) = parity_of(&base, pack);
    let (of_segment, segment_bytes, _) = parity_of(&base, segment);
    let group = shape.group(0);
    vec![
        (
            K::ParityMissing,
            1,
            with(&|i| assert!(i.remove(&of_segment))),
        ),
        (K::ParityPending, 1, with(&|i| assert!(i.remove(&of_pack)))),
        (
            K::ParityDamaged,
            3,
            with(&|i| assert!(i.flip_bit(&of_pack, 33, 1))),
        ),
        (
            K::ParityDamaged,
            3,
            with(&|i| assert!(i.flip_bit(&of_pack, group.record + 5, 1))),
        ),
        (
            K::ParityDamaged,
            3,
            with(&|i| {
                let last = group.record + group.record_len() as u64 - 1;
                assert!(i.flip_bit(&of_pack, last, 1));
            }),
        ),
        (
            K::ParityDamaged,
            1,
            with(&|i| assert!(i.set_len(&of_segment, segment_bytes.len() as u64 - 1))),
        ),
        (
            K::ParityForeign,
            3,
            with(&|i| {
                i.set_len(&of_pack, 0);
                i.write(&of_pack, 0, &segment_bytes);
            }),
        ),
        (
            K::ShardDamaged,
            3,
            with(&|i| assert!(i.flip_bit(&name_of(pack.file()), 5000, 1))),
        ),
        (
            K::ShardDamaged,
            1,
            with(&|i| assert!(i.flip_bit(&name_of(segment.file()), 200, 1))),
        ),
        (
            K::ParityWrong,
            4,
            // Recovery shards of other bytes, with right sums over them.
            with(&|i| {
                let object = i.bytes(&name_of(pack.file())).unwrap();
                let mut data = object[..group.padded()].to_vec();
                data[0] ^= 1;
                let other = group.encode(&data).unwrap();
                let mut record = pack_bytes[group.record as usize..][..group.record_len()].to_vec();
                let sums = group.sums_len() - 4;
                record[sums - 8..sums].copy_from_slice(&other[sums - 8..sums]);
                record[sums + 4..].copy_from_slice(&other[sums + 4..]);
                let PackId(id) = match pack {
                    Object::Pack(id) => id,
                    Object::Segment(_) => unreachable!(),
                };
                let vid = superblock(i).vid().0;
                let crc = razorfs_format::crc::crc32c(&[vid, 1, id, 0], &record[..sums]);
                record[sums..sums + 4].copy_from_slice(&crc.to_le_bytes());
                i.write(&of_pack, group.record, &record);
            }),
        ),
    ]
}
