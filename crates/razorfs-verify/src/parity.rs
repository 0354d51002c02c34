//! Parity: what of it is missing or damaged, and which damage it heals.
//!
//! Segments are compared with their parity at level 1, packs at level 3. At level 4 the recovery
//! shards are made again from the object and compared.

use std::collections::BTreeMap;
use std::sync::Arc;

use razorfs_disk::{Dir, Disk, DiskError, DiskOp, File, OpenHow};
use razorfs_format::layout::FileName;
use razorfs_format::manifest::PackMeta;
use razorfs_format::parity::{Group, HEADER_LEN, Lost, Object, Shape, Sums, claimed};
use razorfs_format::{FormatError, VolumeId};

use crate::FindingKind as K;
use crate::roots::Roots;
use crate::session::{Opened, Session, name_of};

/// What to do about damage that parity heals.
pub const HEALS: &str =
    "Parity can heal it: run `razorfs scrub`, or `razorfs repair`. Check the disk.";

/// An object and its parity, open.
pub struct Shards {
    pub shape: Shape,
    object: Arc<dyn File>,
    parity: Arc<dyn File>,
}

/// A group as it is on the disk.
pub struct Condition {
    pub data: Vec<u8>,
    pub bad: Vec<usize>,
    pub bad_recovery: usize,
    record: Vec<u8>,
    sums: Sums,
}

/// Why a group cannot be looked at.
pub enum Broken {
    Disk(DiskError),
    Sums(FormatError),
}

impl Shards {
    /// The parity of an object of which both files are open; `parity` has `len` bytes.
    pub fn new(
        vid: VolumeId,
        object: Object,
        file: Arc<dyn File>,
        parity: Arc<dyn File>,
        len: u64,
    ) -> Result<Self, Broken> {
        let mut header = [0; HEADER_LEN];
        let got = parity.read_at(&mut header, 0).map_err(Broken::Disk)?;
        let header = header.get(..got).unwrap_or_default();
        let shape = Shape::decode(header, vid, object, len).map_err(Broken::Sums)?;
        Ok(Self {
            shape,
            object: file,
            parity,
        })
    }

    fn open(disk: &dyn Disk, vid: VolumeId, object: Object) -> Result<Self, Broken> {
        let open = |name| disk.open(&name_of(name), OpenHow::ReadUncached);
        let file = open(object.file()).map_err(Broken::Disk)?;
        let parity = open(object.parity()).map_err(Broken::Disk)?;
        let len = parity.len().map_err(Broken::Disk)?;
        Self::new(vid, object, file, parity, len)
    }

    /// Reads a group; what cannot be read of it counts as damaged.
    pub fn read(&self, index: u32) -> Result<Condition, Broken> {
        let group = self.shape.group(index);
        let mut record = vec![0; group.record_len()];
        read_or_zero(&*self.parity, &mut record, group.record, self.shape.shard());
        let sums = group.sums(&record).map_err(Broken::Sums)?;
        let range = group.range();
        let mut data = vec![0; group.padded()];
        let len = (range.end - range.start) as usize;
        let room = data.get_mut(..len).unwrap_or_default();
        let missing = read_or_zero(&*self.object, room, range.start, self.shape.shard());
        let bad = group.bad_shards(&sums, &data, &missing);
        let bad_recovery = group.bad_recovery(&sums, &record);
        Ok(Condition {
            data,
            bad,
            bad_recovery,
            record,
            sums,
        })
    }

    /// Heals a group in memory.
    pub fn heal(&self, index: u32, condition: &mut Condition) -> Result<(), Lost> {
        let Condition {
            data,
            bad,
            record,
            sums,
            ..
        } = condition;
        self.shape.group(index).heal(sums, data, bad, record)
    }
}

/// Reads as much as there is, in pieces of `step` bytes where the host fails; answers which pieces
/// are not there.
fn read_or_zero(file: &dyn File, buf: &mut [u8], at: u64, step: usize) -> Vec<usize> {
    let len = buf.len();
    if file.read_at(buf, at).is_ok_and(|got| got == len) {
        return Vec::new();
    }
    let (mut missing, mut from) = (Vec::new(), at);
    for (nth, piece) in buf.chunks_mut(step.max(1)).enumerate() {
        if !matches!(file.read_at(piece, from), Ok(got) if got == piece.len()) {
            piece.fill(0);
            missing.push(nth);
        }
        from += piece.len() as u64;
    }
    missing
}

/// Groups of objects that are damaged, and whether parity heals them.
#[derive(Default)]
pub struct Damage(BTreeMap<Object, (Shape, BTreeMap<u32, bool>)>);

impl Damage {
    fn add(&mut self, shape: Shape, index: u32, heals: bool) {
        let (_, groups) = self
            .0
            .entry(shape.object)
            .or_insert((shape, BTreeMap::new()));
        groups.insert(index, heals);
    }

    /// Whether what is damaged at a place, or right behind it, can be healed.
    pub fn heals(&self, file: FileName, offset: u64) -> bool {
        let Some((shape, groups)) = Object::of(file).and_then(|object| self.0.get(&object)) else {
            return false;
        };
        let here = shape.group_of(offset);
        let near = [groups.get(&here), groups.get(&here.saturating_add(1))];
        near.contains(&Some(&true)) && near.first() != Some(&Some(&false))
    }

    /// Groups that can be healed.
    pub fn healable(&self) -> impl Iterator<Item = (Shape, u32)> {
        let all = self.0.values();
        all.flat_map(|(shape, groups)| {
            let healed = groups.iter().filter(|(_, heals)| **heals);
            healed.map(|(index, _)| (*shape, *index))
        })
    }

    /// Whether a group is one of those.
    fn is_healable(&self, object: Object, index: u32) -> bool {
        let found = self.0.get(&object);
        found.and_then(|(_, groups)| groups.get(&index)) == Some(&true)
    }

    fn shape(&self, object: Object) -> Option<Shape> {
        self.0.get(&object).map(|(shape, _)| *shape)
    }
}

/// Level 1: the parity of segments, before they are looked at.
pub fn segments(s: &mut Session<'_>, roots: &Roots) {
    for meta in &roots.manifest.segments {
        object(s, Object::Segment(meta.id));
    }
}

/// Level 3: that of packs.
pub fn packs(s: &mut Session<'_>, roots: &Roots) {
    let sealed: Vec<PackMeta> = roots
        .manifest
        .packs
        .iter()
        .filter(|p| p.sealed)
        .copied()
        .collect();
    let total = sealed.len() as u64;
    for (done, meta) in (0..).zip(sealed) {
        s.progress("parity", done, total);
        object(s, Object::Pack(meta.id));
    }
}

/// Compares an object with its parity. That one of them is missing is told elsewhere.
fn object(s: &mut Session<'_>, object: Object) {
    let name = object.parity();
    let Opened::File(file, _) = s.open(object.file()) else {
        return;
    };
    let Opened::File(parity, len) = s.open(name) else {
        return;
    };
    let shards = match Shards::new(s.vid, object, file, Arc::clone(&parity), len) {
        Ok(shards) => shards,
        Err(Broken::Sums(e)) => {
            let mut header = [0; HEADER_LEN];
            let got = parity.read_at(&mut header, 0).unwrap_or(0);
            let of = claimed(header.get(..got).unwrap_or_default());
            match of.filter(|of| *of != (s.vid, object)) {
                Some((vid, of)) => {
                    let detail = format!(
                        "expected that of {}, got that of {} in volume {:016x}",
                        object.file(),
                        of.file(),
                        vid.0
                    );
                    s.find(K::ParityForeign, name, detail);
                }
                None => s.find_bad(K::ParityDamaged, &e),
            }
            return;
        }
        Err(Broken::Disk(e)) => {
            s.find(K::Unreadable, name, e);
            return;
        }
    };
    for index in 0..shards.shape.groups() {
        group(s, &shards, index);
    }
}

fn group(s: &mut Session<'_>, shards: &Shards, index: u32) {
    let object = shards.shape.object;
    let at = shards.shape.group(index);
    let place = format!("{} at byte {}", object.parity(), at.record);
    let mut condition = match shards.read(index) {
        Ok(condition) => condition,
        Err(Broken::Sums(e)) => return s.find_bad(K::ParityDamaged, &e),
        Err(Broken::Disk(e)) => {
            s.find(K::Unreadable, place, e);
            return;
        }
    };
    s.checked.bytes += at.range().end - at.range().start;
    if condition.bad_recovery > 0 {
        let detail = format!("{} recovery shards", condition.bad_recovery);
        s.find(K::ParityDamaged, place, detail);
    }
    if condition.bad.is_empty() {
        if s.deep && condition.bad_recovery == 0 {
            recompute(s, &at, &condition);
        }
        return;
    }
    let heals = shards.heal(index, &mut condition).is_ok();
    s.damage.add(shards.shape, index, heals);
    if heals && matches!(object, Object::Segment(_)) {
        tell(s, &at, object, &condition.bad);
    }
    if heals && matches!(object, Object::Pack(_)) {
        s.to_tell.push((object, index, condition.bad));
    }
}

/// Level 4: recovery shards with right sums can still be those of other bytes.
fn recompute(s: &mut Session<'_>, group: &Group, condition: &Condition) {
    let same = group
        .encode(&condition.data)
        .is_ok_and(|record| record == condition.record);
    if !same {
        let object = format!("{} at byte {}", group.file(), group.record);
        s.find(K::ParityWrong, object, "recovery shards that heal nothing");
    }
}

fn tell(s: &mut Session<'_>, group: &Group, object: Object, bad: &[usize]) {
    for nth in bad {
        let at = group.shard_range(*nth).start;
        let place = format!("{} at byte {at}", object.file());
        s.find(K::ShardDamaged, place, "a shard that is not what it was");
    }
}

/// What parity heals of packs, but for space that was given back: `lost` tells whether a file
/// refers to something damaged there.
pub fn tell_packs(s: &mut Session<'_>, lost: &dyn Fn(Object, std::ops::Range<u64>) -> bool) {
    for (object, index, bad) in std::mem::take(&mut s.to_tell) {
        let Some(shape) = s.damage.shape(object) else {
            continue;
        };
        let group = shape.group(index);
        let bad: Vec<usize> = bad
            .into_iter()
            .filter(|nth| {
                let range = group.shard_range(*nth);
                lost(object, range.clone()) || !has_zero_sector(s, object, range)
            })
            .collect();
        tell(s, &group, object, &bad);
    }
}

/// Whether a hole may have been punched here, at least in part.
fn has_zero_sector(s: &mut Session<'_>, object: Object, range: std::ops::Range<u64>) -> bool {
    const SECTOR: u64 = 512;
    let Opened::File(file, _) = s.open(object.file()) else {
        return false;
    };
    let mut bytes = vec![0; (range.end - range.start) as usize];
    let got = s.read(&*file, object.file(), &mut bytes, range.start);
    let skip = (range.start.next_multiple_of(SECTOR) - range.start) as usize;
    let bytes = bytes.get(skip..got).unwrap_or_default();
    bytes
        .chunks_exact(SECTOR as usize)
        .any(|sector| sector.iter().all(|b| *b == 0))
}

/// A disk whose damage is healed while it is read, and that is not changed.
pub struct Healed<'d> {
    pub disk: &'d dyn Disk,
    pub vid: VolumeId,
    pub damage: Arc<Damage>,
}

impl Healed<'_> {
    /// Writes what is healed to the disk; answers how many shards that were.
    pub fn write_back(&self) -> razorfs_disk::Result<u64> {
        let mut healed = 0;
        for (shape, index) in self.damage.healable() {
            let Ok(shards) = Shards::open(self.disk, self.vid, shape.object) else {
                continue;
            };
            let Ok(mut condition) = shards.read(index) else {
                continue;
            };
            if shards.heal(index, &mut condition).is_err() {
                continue;
            }
            let file = self
                .disk
                .open(&name_of(shape.object.file()), OpenHow::ReadWrite)?;
            for nth in &condition.bad {
                let range = shape.group(index).shard_range(*nth);
                let (from, len) = (nth * shape.shard(), (range.end - range.start) as usize);
                let bytes = condition.data.get(from..from + len).unwrap_or_default();
                file.write_at(&[std::io::IoSlice::new(bytes)], range.start)?;
                healed += 1;
            }
            file.sync_data()?;
        }
        Ok(healed)
    }
}

impl Disk for Healed<'_> {
    fn open(&self, name: &razorfs_disk::Name, how: OpenHow) -> razorfs_disk::Result<Arc<dyn File>> {
        let file = self.disk.open(name, how)?;
        let reads = matches!(how, OpenHow::Read | OpenHow::ReadUncached);
        let object = FileName::parse(name.dir.path(), &name.leaf).and_then(Object::of);
        let Some(object) = object.filter(|o| reads && self.damage.shape(*o).is_some()) else {
            return Ok(file);
        };
        let parity = self
            .disk
            .open(&name_of(object.parity()), OpenHow::ReadUncached)?;
        let len = parity.len()?;
        match Shards::new(self.vid, object, Arc::clone(&file), parity, len) {
            Ok(shards) => Ok(Arc::new(HealedFile {
                file,
                shards,
                damage: Arc::clone(&self.damage),
            })),
            Err(_) => Ok(file),
        }
    }
    fn rename(&self, a: &razorfs_disk::Name, b: &razorfs_disk::Name) -> razorfs_disk::Result<()> {
        self.disk.rename(a, b)
    }
    fn remove(&self, name: &razorfs_disk::Name) -> razorfs_disk::Result<()> {
        self.disk.remove(name)
    }
    fn list(&self, dir: Dir) -> razorfs_disk::Result<Vec<razorfs_disk::Name>> {
        self.disk.list(dir)
    }
    fn sync_dir(&self, dir: Dir) -> razorfs_disk::Result<()> {
        self.disk.sync_dir(dir)
    }
    fn create_dirs(&self) -> razorfs_disk::Result<()> {
        self.disk.create_dirs()
    }
    fn lock(
        &self,
        mode: razorfs_disk::LockMode,
    ) -> razorfs_disk::Result<Box<dyn razorfs_disk::Guard>> {
        self.disk.lock(mode)
    }
    fn space(&self) -> razorfs_disk::Result<razorfs_disk::Space> {
        self.disk.space()
    }
}

struct HealedFile {
    file: Arc<dyn File>,
    shards: Shards,
    damage: Arc<Damage>,
}

impl File for HealedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> razorfs_disk::Result<usize> {
        let shape = &self.shards.shape;
        let mut done = 0;
        while done < buf.len() && offset.saturating_add(done as u64) < shape.len {
            let at = offset + done as u64;
            let (index, room) = (shape.group_of(at), buf.get_mut(done..).unwrap_or_default());
            let range = shape.group(index).range();
            let len = room.len().min((range.end - at) as usize);
            let room = room.get_mut(..len).unwrap_or_default();
            let healed = self
                .damage
                .is_healable(shape.object, index)
                .then(|| self.shards.read(index).ok())
                .flatten()
                .and_then(|mut c| self.shards.heal(index, &mut c).ok().map(|()| c.data));
            let from = (at - range.start) as usize;
            match healed.as_ref().and_then(|data| data.get(from..from + len)) {
                Some(bytes) => room.copy_from_slice(bytes),
                None => {
                    let got = self.file.read_at(room, at)?;
                    if got < len {
                        return Ok(done + got);
                    }
                }
            }
            done += len;
        }
        Ok(done)
    }
    fn len(&self) -> razorfs_disk::Result<u64> {
        let last = self.shards.shape.groups().saturating_sub(1);
        match self.damage.is_healable(self.shards.shape.object, last) {
            true => Ok(self.shards.shape.len),
            false => self.file.len(),
        }
    }
    fn write_at(&self, _: &[std::io::IoSlice<'_>], _: u64) -> razorfs_disk::Result<()> {
        Err(self.refused(DiskOp::Write))
    }
    fn sync_data(&self) -> razorfs_disk::Result<()> {
        Err(self.refused(DiskOp::Sync))
    }
    fn allocate(&self, _: std::ops::Range<u64>, _: bool) -> razorfs_disk::Result<()> {
        Err(self.refused(DiskOp::Allocate))
    }
    fn punch(&self, _: std::ops::Range<u64>) -> razorfs_disk::Result<()> {
        Err(self.refused(DiskOp::Punch))
    }
    fn set_len(&self, _: u64) -> razorfs_disk::Result<()> {
        Err(self.refused(DiskOp::SetLen))
    }
}

impl HealedFile {
    fn refused(&self, op: DiskOp) -> DiskError {
        let name = name_of(self.shards.shape.object.file());
        DiskError::on(
            op,
            &name,
            std::io::Error::other("a healed file is only read"),
        )
    }
}
