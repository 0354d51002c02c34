//! Whole volumes of hostile bytes, opened, read, written and checked.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use razorfs::{FileKind, Ino, NewNode, Step, Volume};
use razorfs_disk::sim::{Image, SimDisk, SimEnv};
use razorfs_format::VolumeId;
use razorfs_format::crc::crc32c;
use razorfs_format::journal::BatchHeader;
use razorfs_format::key::Key;
use razorfs_format::layout::FileName;
use razorfs_format::manifest::{ForkMeta, Manifest, SnapshotMeta};
use razorfs_format::op::{Counter, Mutation, OpType, encode_op};
use razorfs_format::superblock::{SLOT, slots_of};
use razorfs_format::{BatchSeq, Branch, Epoch, Lsn};

use crate::common::forge::{
    Tree, edit_superblock, manifest, name_of, new_volume, put_batch, put_superblock, superblock,
};
use crate::common::{check, dirty, try_open};

use super::Source;

/// A few changed bytes and numbers in `bytes`.
pub fn change(from: &mut Source<'_>, bytes: &mut [u8]) {
    for _ in 0..=from.u8() % 4 {
        let at = usize::from(from.u16()) % bytes.len().max(1);
        let (width, value) = ([1, 1, 4, 8][usize::from(from.u8() % 4)], from.u64());
        for (to, with) in bytes
            .iter_mut()
            .skip(at)
            .zip(value.to_le_bytes())
            .take(width)
        {
            *to = with;
        }
    }
}

/// The checksums of a changed manifest, made right as far as its sections can be found.
fn reseal(vid: VolumeId, id: u64, bytes: &mut [u8]) {
    let crc = |bytes: &[u8], kind: Option<u32>| {
        let seed = [vid.0, id, u64::from(kind.unwrap_or_default())];
        crc32c(&seed[..if kind.is_some() { 3 } else { 2 }], bytes).to_le_bytes()
    };
    let word = |b: &[u8]| u32::from_le_bytes(*b.first_chunk().unwrap());
    let head = crc(&bytes[..44], None);
    bytes[44..48].copy_from_slice(&head);
    let mut at = 48;
    while at + 12 < bytes.len() {
        let (kind, len) = (word(&bytes[at..]), word(&bytes[at + 4..]) as usize);
        let end = at + 8 + len;
        if end + 4 > bytes.len() {
            break;
        }
        let sum = crc(&bytes[at..end], Some(kind));
        bytes[end..end + 4].copy_from_slice(&sum);
        at = end + 4;
    }
    let end = bytes.len() - 4;
    let whole = crc(&bytes[..end], None);
    bytes[end..].copy_from_slice(&whole);
}

fn with_payload(payload: &[u8], edit: impl FnOnce(&mut BatchHeader)) -> Image {
    let mut image = new_volume();
    put_batch(&mut image, 2, 2, payload, edit);
    edit_superblock(&mut image, |s| s.end = BatchSeq(2));
    image
}

/// Any operations, under right checksums.
fn any_operations(from: &mut Source<'_>) -> Image {
    let (lsn, ops) = (from.u64() >> (from.u8() % 64), from.u8());
    with_payload(from.0, |h| {
        h.n_ops = ops.into();
        if lsn & 1 == 1 {
            h.first_lsn = Lsn(lsn);
        }
    })
}

/// A branch that begins, writes and ends, and what is done with snapshots.
fn of_branches() -> Vec<u8> {
    let branch = Branch(1);
    let taken = SnapshotMeta {
        id: 77,
        branch: Branch::HEAD,
        epoch: Epoch(1),
        gone: false,
        time: 5,
        inodes: 3,
        bytes: 1000,
        name: b"taken".as_slice().into(),
    };
    let fork = ForkMeta {
        id: branch,
        parent: Branch::HEAD,
        epoch: Epoch(1),
        time: 5,
        inodes: 3,
        bytes: 1000,
        name: b"work".as_slice().into(),
    };
    let head = |epoch| Mutation::Begin {
        branch: Branch::HEAD,
        epoch: Epoch(epoch),
    };
    let mut out = Vec::new();
    let mut op = |ty, all: &[Mutation]| {
        let mut inner = Vec::new();
        all.iter().for_each(|m| m.encode(&mut inner));
        encode_op(ty, &inner, &mut out);
    };
    let begin = Mutation::Begin {
        branch,
        epoch: Epoch(2),
    };
    let count = Mutation::Count {
        branch,
        counter: Counter::Bytes,
        delta: -5,
    };
    let key = Key::orphan(branch, Ino(17));
    op(OpType::Branch, &[begin]);
    op(OpType::Unlink, &[count, Mutation::Del { key }]);
    let back = Mutation::Back {
        branch,
        id: 77,
        end: Epoch(2),
    };
    op(
        OpType::Snapshot,
        &[head(2), Mutation::Take(taken), Mutation::Fork(fork)],
    );
    op(
        OpType::Snapshot,
        &[head(3), back, Mutation::Prune { branch }],
    );
    out
}

/// A name space whose records were changed, under right checksums, and perhaps branches of it.
fn changed_operations(from: &mut Source<'_>) -> Image {
    let mut payload = Tree::new().payload();
    if from.u8() % 2 == 1 {
        payload.extend(of_branches());
    }
    change(from, &mut payload);
    with_payload(&payload, |_| ())
}

/// Records that decode and contradict each other.
fn changed_records(from: &mut Source<'_>) -> Image {
    let mut tree = Tree::new();
    for _ in 0..=from.u8() % 3 {
        let n = usize::from(from.u8()) % tree.records.len();
        let key = *tree.records.keys().nth(n).unwrap();
        let mut value = tree.records[&key].to_vec();
        change(from, &mut value);
        tree.put(key, &value);
    }
    tree.inodes = i64::from_le_bytes(from.array());
    tree.image()
}

/// A volume with all kinds of records, segments, and a journal to replay; with branches or without.
fn used(branches: bool) -> Image {
    // Making them takes a thousand times longer than most of what is done with them.
    static USED: LazyLock<Image> = LazyLock::new(|| dirty(3));
    static BRANCHED: LazyLock<Image> = LazyLock::new(branched);
    match branches {
        true => BRANCHED.clone(),
        false => USED.clone(),
    }
}

fn branched() -> Image {
    let (disk, env) = (SimDisk::from_image(&dirty(4)), SimEnv::new(5));
    let volume = try_open(&disk, &env).unwrap();
    let write = |volume: &Volume, name: &[u8]| {
        let made = volume.create_node(Ino::ROOT, name, &NewNode::file(0o600));
        volume.write(made.unwrap().ino, 0, &[9; 9000]).unwrap();
    };
    volume.snapshot("s").unwrap();
    for (n, name) in ["one", "two", "three"].into_iter().enumerate() {
        let made = volume.create_branch(name).unwrap();
        write(&volume, format!("head {n}").as_bytes());
        let branch = volume.branch(made).unwrap();
        write(&branch, b"in a branch");
        if n == 1 {
            branch.rollback("s").unwrap();
            volume.checkpoint().unwrap();
        }
    }
    write(&volume.branch("two").unwrap(), b"again");
    volume.sync().unwrap();
    let image = Image::load(&disk).unwrap();
    drop(volume);
    image
}

fn changed_superblock(from: &mut Source<'_>) -> Image {
    let mut image = used(false);
    let newest = superblock(&image);
    let slots = slots_of(newest.generation);
    let mut bytes = newest.encode(slots[0]);
    change(from, &mut bytes[16..208]);
    for slot in slots {
        let crc = crc32c(&[slot as u64], &bytes[..SLOT - 4]);
        bytes[SLOT - 4..].copy_from_slice(&crc.to_le_bytes());
        image.write(&name_of(FileName::Super), (slot * SLOT) as u64, &bytes);
    }
    image
}

fn changed_manifest(from: &mut Source<'_>) -> Image {
    let mut image = used(from.u8() % 2 == 1);
    let mut newest = superblock(&image);
    let mut bytes = manifest(&image, &newest).to_bytes(newest.vid());
    change(from, &mut bytes[24..]);
    reseal(newest.vid(), newest.manifest.id.0, &mut bytes);
    newest.manifest.crc = Manifest::crc(&bytes);
    image.write(&name_of(FileName::Manifest(newest.manifest.id)), 0, &bytes);
    put_superblock(&mut image, &newest);
    image
}

fn changed_files(from: &mut Source<'_>) -> Image {
    let mut image = used(from.u8() % 2 == 1);
    for _ in 0..=from.u8() % 3 {
        let files: Vec<_> = image.files().map(|(n, len)| (n.clone(), len)).collect();
        let (name, len) = &files[usize::from(from.u8()) % files.len()];
        let at = from.u64() % len.max(&1);
        match from.u8() % 8 {
            0 => drop(image.remove(name)),
            1 => drop(image.set_len(name, at)),
            2 => drop(image.set_len(name, len + at)),
            _ => image.write(name, at, &from.array::<16>()),
        }
    }
    image
}

/// Makes a volume of the input and does everything with it. Errors are fine, panics are not.
pub fn volume(data: &[u8]) {
    let mut from = Source(data);
    let image = match from.u8() % 6 {
        0 => any_operations(&mut from),
        1 => changed_operations(&mut from),
        2 => changed_records(&mut from),
        3 => changed_superblock(&mut from),
        4 => changed_manifest(&mut from),
        _ => changed_files(&mut from),
    };
    exercise(&image);
}

/// Checks a volume and does everything with it.
pub fn exercise(image: &Image) {
    let _ = check(image, 3);
    let (disk, env) = (SimDisk::from_image(image), SimEnv::new(1));
    // The disk is no larger than that, whatever the sizes in the volume say.
    disk.set_capacity(Some(64 << 20));
    let Ok(volume) = try_open(&disk, &env) else {
        return;
    };
    walk(&volume);
    for branch in volume.branches() {
        let Ok(branch) = volume.branch(branch) else {
            continue;
        };
        walk(&branch);
        let made = branch.create_node(Ino::ROOT, b"new", &NewNode::file(0o600));
        let _ = made.map(|made| branch.write(made.ino, 0, &[8; 5000]));
        let _ = (branch.unlink(Ino::ROOT, b"a"), branch.step(Step::Reap));
    }
    for snapshot in volume.snapshots() {
        let _ = volume.at_snapshot(snapshot).map(|at| walk(&at));
    }
    if let Some(last) = volume.branches().last() {
        let _ = volume.delete_branch(last);
    }
    let _ = volume.create_branch("one more");
    let made = volume.create_node(Ino::ROOT, b"new", &NewNode::file(0o600));
    if let Ok(made) = made {
        let _ = volume.write(made.ino, 1 << 40, &[7; 5000]);
        for ino in 16..24 {
            // What is in packs is shared with whoever it belongs to.
            let _ = volume.copy_range(Ino(ino), 0, made.ino, ino << 22, 1 << 21);
        }
        let _ = volume.unlink(Ino::ROOT, b"a");
    }
    let steps = [
        Step::Commit,
        Step::Reap,
        Step::Checkpoint,
        Step::Compact,
        Step::Release,
    ];
    for step in steps {
        let _ = volume.step(step);
    }
    if volume.close().is_ok() {
        let _ = try_open(&disk, &env).map(|volume| walk(&volume));
    }
}

fn walk(volume: &Volume) {
    let (mut left, mut seen) = (vec![Ino::ROOT], BTreeSet::new());
    while let Some(dir) = left.pop() {
        if !seen.insert(dir) || seen.len() > 200 {
            continue;
        }
        let _ = (volume.list_xattr(dir), volume.parent_of(dir));
        let _ = volume.collect_children(dir, 0, &mut |entry| {
            if entry.kind == FileKind::Directory {
                left.push(entry.ino);
            } else if seen.len() < 200 && seen.insert(entry.ino) {
                look(volume, entry.ino);
            }
            true
        });
    }
    let _ = (volume.space(), volume.info(), volume.stats());
}

fn look(volume: &Volume, ino: Ino) {
    let Ok(stat) = volume.stat(ino) else {
        return;
    };
    let mut buf = vec![0; 40_000];
    for at in [
        0,
        100_000,
        stat.size / 2,
        stat.size.saturating_sub(5),
        u64::MAX - 7,
    ] {
        let _ = volume.read(ino, at, &mut buf);
        let _ = volume.seek(ino, at, razorfs::SeekFor::Data);
    }
    let _ = (volume.read_link(ino), volume.get_xattr(ino, b"user.note"));
}
