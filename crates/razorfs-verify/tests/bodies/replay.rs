//! Rings of journal files that somebody forged who can compute checksums, replayed by the ring
//! alone and by the engine.

use std::sync::{Arc, LazyLock};

use razorfs::journal::{Batch, RecoveryReport, Ring};
use razorfs_disk::Name;
use razorfs_disk::sim::{Image, SimDisk, SimEnv};
use razorfs_format::crc::crc32c;
use razorfs_format::journal::{
    BATCH_HEADER, BatchHeader, FileHeader, SECTOR, SECTOR_HEAD, UNIT, UNIT_SECTORS, encode_batch,
    offset,
};
use razorfs_format::layout::FileName;
use razorfs_format::superblock::{State, Superblock};
use razorfs_format::{BatchSeq, Generation, Jid, Lsn, VolumeId};

use super::Source;
use super::volume::{change, exercise};
use crate::common::create_with;
use crate::common::forge::{Tree, edit_superblock, name_of, superblock};

/// Forged things in one ring, at most.
const STEPS: usize = 40;
/// Files of a ring, and lives, that are close enough to meet.
const NEAR: u8 = 6;

/// A new volume with this many copies of its journal.
fn base(copies: u8) -> Image {
    static BASES: LazyLock<[Image; 2]> = LazyLock::new(|| {
        [1, 2].map(|copies| {
            let (disk, env) = (SimDisk::new(), SimEnv::new(78));
            create_with(&disk, &env, copies);
            crate::common::image_of(&disk)
        })
    });
    BASES[usize::from(copies - 1)].clone()
}

/// The payload of a batch that makes a name space.
fn records() -> &'static [u8] {
    static RECORDS: LazyLock<Vec<u8>> = LazyLock::new(|| Tree::new().payload());
    &RECORDS
}

/// The number of a file: one of those that are there, one that is not, or the last.
fn number_of(slot: u8) -> u32 {
    match slot % NEAR {
        5 => u32::MAX,
        slot => slot.into(),
    }
}

struct Forger<'a> {
    from: Source<'a>,
    image: Image,
    vid: VolumeId,
    copies: u8,
    /// Where the next batch goes, if nothing else is said.
    slot: u8,
    jid: Jid,
    unit: u32,
    seq: u64,
}

impl Forger<'_> {
    fn file(&mut self) -> Name {
        let byte = self.from.u8();
        let copy = if byte & 0x80 == 0 { 0 } else { self.copies - 1 };
        name_of(FileName::journal(number_of(byte), copy))
    }

    /// Both copies of a file, most of the time.
    fn files(&mut self, slot: u8) -> Vec<Name> {
        let copies = match self.from.u8() % 8 {
            0 => 0..1,
            1 => self.copies - 1..self.copies,
            _ => 0..self.copies,
        };
        let of = |copy| name_of(FileName::journal(number_of(slot), copy));
        copies.map(of).collect()
    }

    /// A small number, or any.
    fn number(&mut self, near: u64) -> u64 {
        match self.from.u8() {
            byte @ 0..200 => near.wrapping_add(u64::from(byte % 5)).wrapping_sub(1),
            200..220 => u64::from(self.from.u8()),
            220..240 => self.from.u64(),
            byte => u64::MAX >> (byte % 8 * 8),
        }
    }

    fn header(&mut self) {
        self.slot = self.from.u8() % NEAR;
        self.jid = Jid(self.number(self.jid.0.into()) as u32);
        self.unit = 1;
        let header = FileHeader {
            jid: self.jid,
            previous: Jid(self.from.u8().into()),
            slot: match self.from.u8() {
                0..240 => number_of(self.slot),
                other => number_of(other),
            },
            copy: 0,
            len: match self.from.u8() {
                byte @ 0..80 => u64::from(byte % 64 + 2) * UNIT as u64,
                80..240 => 192 << 10,
                240..250 => 1 << 30,
                _ => self.from.u64() % (1 << 31),
            },
        };
        let bytes = header.encode(self.vid);
        for name in self.files(self.slot) {
            self.image.write(&name, 0, &bytes);
        }
    }

    fn payload(&mut self) -> Vec<u8> {
        match self.from.u8() % 4 {
            0 => {
                let len = usize::from(self.from.u16() % 2000);
                self.from.slice(len).to_vec()
            }
            1 => vec![self.from.u8(); usize::from(self.from.u16())],
            2 => records().to_vec(),
            _ => {
                let mut bytes = records().to_vec();
                change(&mut self.from, &mut bytes);
                bytes
            }
        }
    }

    fn batch(&mut self) {
        let payload = self.payload();
        self.seq = self.number(self.seq);
        let mut header = BatchHeader {
            seq: BatchSeq(self.seq),
            first_lsn: Lsn(self.number(self.seq)),
            n_ops: self.number(1) as u32,
            payload_len: 0,
            durable: BatchSeq(self.number(self.seq.wrapping_sub(2))),
            generation: Generation(self.number(1)),
            wall_ns: 0,
            flags: 0,
            payload_crc: 0,
        };
        if self.from.u8() > 200 {
            self.unit = u32::from(self.from.u8() % 64);
        }
        let (mut bytes, first) = (Vec::new(), self.unit * UNIT_SECTORS as u32);
        encode_batch(self.vid, self.jid, first, &mut header, &payload, &mut bytes);
        // Sectors that were never written, or not all of them.
        let whole = match self.from.u8() {
            0..220 => bytes.len(),
            byte => bytes.len() * usize::from(byte - 220) / 40 / SECTOR * SECTOR,
        };
        for name in self.files(self.slot) {
            let at = u64::from(self.unit) * UNIT as u64;
            self.image.write(&name, at, &bytes[..whole]);
        }
        self.unit += (bytes.len() / UNIT) as u32;
    }

    /// Other words in a sector under right checksums.
    fn edit(&mut self) {
        let (name, number) = (self.file(), u32::from(self.from.u16() % 512));
        let at = number as usize * SECTOR;
        let there = self.image.bytes(&name).unwrap_or_default();
        let Some(sector) = there.get(at..at + SECTOR) else {
            return;
        };
        let mut sector = sector.to_vec();
        change(&mut self.from, &mut sector);
        reseal(self.vid, number, &mut sector);
        self.image.write(&name, at as u64, &sector);
    }

    /// Sectors of zeros, of noise, and from elsewhere.
    fn damage(&mut self) {
        let (name, at) = (self.file(), u64::from(self.from.u16() % 512));
        let len = SECTOR * [1, 1, 2, 8, 64][usize::from(self.from.u8() % 5)];
        let bytes = match self.from.u8() % 4 {
            0 | 1 => vec![0; len],
            2 => vec![self.from.u8(); len],
            _ => {
                let (other, from) = (self.file(), usize::from(self.from.u16() % 512) * SECTOR);
                let there = self.image.bytes(&other).unwrap_or_default();
                let mut bytes = there.get(from..).unwrap_or_default().to_vec();
                bytes.truncate(len);
                bytes
            }
        };
        self.image.write(&name, at * SECTOR as u64, &bytes);
    }

    fn host(&mut self) {
        let name = self.file();
        match self.from.u8() % 8 {
            0 => drop(self.image.remove(&name)),
            1 => drop(self.image.set_len(&name, self.from.u16().into())),
            _ => {
                let len = u64::from(self.from.u8() % 64) * UNIT as u64;
                self.image.set_len(&name, len);
            }
        }
    }

    fn start(&mut self) {
        let jid = Jid(self.number(1) as u32);
        let (batch, end) = (BatchSeq(self.number(2)), BatchSeq(self.number(3)));
        let clean = self.from.u8().is_multiple_of(4);
        edit_superblock(&mut self.image, |s| {
            (s.journal.jid, s.journal.batch, s.end) = (jid, batch, end);
            s.state = if clean { State::Clean } else { State::Dirty };
        });
    }

    fn forge(&mut self) {
        for _ in 0..STEPS {
            if self.from.is_empty() {
                break;
            }
            match self.from.u8() % 16 {
                0..3 => self.header(),
                3..9 => self.batch(),
                9..11 => self.edit(),
                11..13 => self.damage(),
                13 => self.host(),
                _ => self.start(),
            }
        }
    }
}

/// Puts the checksums of a sector right: that of a batch's header, and its own.
fn reseal(vid: VolumeId, number: u32, sector: &mut [u8]) {
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().unwrap());
    let (jid, seq_lo) = (word(sector, 4), word(sector, 8));
    let head = &mut sector[SECTOR_HEAD..][..BATCH_HEADER];
    if head.starts_with(b"RZJB") {
        let seq = u64::from_le_bytes(*head[offset::SEQ..].first_chunk().unwrap());
        let seed = [vid.0, u64::from(jid), seq];
        let crc = crc32c(&seed, &head[..offset::HEADER_CRC]);
        head[offset::HEADER_CRC..].copy_from_slice(&crc.to_le_bytes());
    }
    let life = u64::from(jid) << 32 | u64::from(seq_lo);
    let crc = crc32c(&[vid.0, life, u64::from(number)], &sector[SECTOR_HEAD..]);
    sector[..4].copy_from_slice(&crc.to_le_bytes());
}

type Log = Vec<Batch>;

/// Replays without writing.
fn look(disk: &SimDisk, of: &Superblock) -> Option<(RecoveryReport, Log)> {
    let mut log = Log::new();
    let mut apply = |batch: &Batch| {
        log.push(batch.clone());
        Ok(())
    };
    let disk = Arc::new(disk.clone());
    let (copies, end) = (of.geometry.journal.copies, of.clean_end());
    let report = Ring::open_read_only(disk, of.vid(), copies, of.journal, end, &mut apply).ok()?;
    Some((report, log))
}

fn recover(disk: &SimDisk, of: &Superblock) -> Option<(Ring, RecoveryReport, Log)> {
    let mut log = Log::new();
    let mut apply = |batch: &Batch| {
        log.push(batch.clone());
        Ok(())
    };
    let (disk, geometry) = (Arc::new(disk.clone()), of.geometry.journal);
    let (start, end) = (of.journal, of.clean_end());
    let mut agree = |_: &RecoveryReport| Ok(());
    let (ring, report) =
        Ring::recover(disk, of.vid(), geometry, start, end, &mut apply, &mut agree).ok()?;
    Some((ring, report, log))
}

/// Whatever the ring says, it says the same twice, batches follow each other, and what is appended
/// and synced is there at the next replay.
fn replayed(image: &Image) {
    let of = superblock(image);
    let disk = SimDisk::from_image(image);
    disk.set_capacity(Some(64 << 20));
    let seen = look(&disk, &of);
    if let Some((report, log)) = &seen {
        let numbers = (of.journal.batch.0..).zip(log);
        numbers.for_each(|(n, batch)| assert_eq!(batch.seq.0, n));
        assert_eq!(report.batches, log.len() as u64);
        let again = look(&disk, &of).expect("nothing was changed");
        assert_eq!((&again.0, &again.1), (report, log));
    }
    let Some((mut ring, report, log)) = recover(&disk, &of) else {
        return;
    };
    let (_, expected) = seen.expect("writing needs more than reading");
    assert_eq!(log, expected);
    let added = Batch {
        seq: ring.next(),
        first_lsn: Lsn(1),
        n_ops: 1,
        durable: BatchSeq(0),
        generation: Generation(1),
        wall_ns: 5,
        payload: b"added".to_vec(),
    };
    let appended = ring.append(&added).and_then(|()| ring.sync());
    assert!(appended.is_err() || !report.read_only);
    drop(ring);
    if report.read_only {
        return;
    }
    let mut open = of;
    open.state = State::Dirty;
    let (_, log) = look(&disk, &open).expect("it could be read before");
    assert!(log.starts_with(&expected));
    let last = log.get(expected.len());
    let same = last.is_some_and(|b| (b.seq, &b.payload) == (added.seq, &added.payload));
    assert!(same || appended.is_err());
}

/// Makes a ring of the input, replays it, and does everything with the volume.
pub fn replay(data: &[u8]) {
    let mut from = Source(data);
    let shape = from.u8();
    let copies = 1 + (shape & 1);
    let image = base(copies);
    let vid = superblock(&image).vid();
    let mut forger = Forger {
        from,
        image,
        vid,
        copies,
        slot: 0,
        jid: Jid(1),
        unit: 2,
        seq: 1,
    };
    forger.forge();
    let image = forger.image;
    replayed(&image);
    if shape & 2 == 0 {
        exercise(&image);
    }
}
