//! The copies of a journal file: each sector is that of the copy which has it, and what one copy
//! lacks is reported.

use std::sync::Arc;

use razorfs_disk::File;
use razorfs_format::journal::{FileHeader, SECTOR, rank};
use razorfs_format::layout::FileName;
use razorfs_format::{Jid, Place, VolumeId};

use crate::FindingKind as K;
use crate::session::{Opened, Session};

const WINDOW: usize = 1 << 20;

/// A copy.
struct Copy {
    name: FileName,
    file: Arc<dyn File>,
    len: u64,
    /// Its header is intact, and of another file: nothing in it counts.
    foreign: bool,
}

/// The copies of one file that are there.
pub struct Copies {
    vid: VolumeId,
    all: Vec<Copy>,
    /// The life that the headers name; the highest of all where none does.
    life: Jid,
    /// Those that are not there.
    pub missing: Vec<FileName>,
}

impl Copies {
    /// Opens them; none if no copy can be opened.
    pub fn open(s: &mut Session<'_>, slot: u32, copies: u8) -> Option<Self> {
        let mut this = Self {
            vid: s.vid,
            all: Vec::new(),
            life: Jid(u32::MAX),
            missing: Vec::new(),
        };
        let mut prepared = None;
        for copy in 0..copies {
            let name = FileName::journal(slot, copy);
            let (file, len) = match s.open(name) {
                Opened::File(file, len) => (file, len),
                Opened::Missing => {
                    this.missing.push(name);
                    continue;
                }
                Opened::Unreadable => continue,
            };
            let mut head = [0; SECTOR];
            let got = s.read(&*file, name, &mut head, 0);
            let head = head.get(..got).unwrap_or_default();
            let header = FileHeader::decode(s.vid, head, Place::new(name, 0)).ok();
            let foreign = copies > 1 && header.is_some_and(|h| h.slot != slot);
            if let Some(header) = header.filter(|_| !foreign) {
                let named = prepared.is_none_or(|(jid, _)| jid < header.jid);
                if named {
                    prepared = Some((header.jid, header.len));
                }
            }
            this.all.push(Copy {
                name,
                file,
                len,
                foreign,
            });
        }
        if this.all.is_empty() {
            return None;
        }
        if copies > 1
            && let Some((life, len)) = prepared
        {
            this.life = life;
            this.compare(s, len);
        }
        Some(this)
    }

    /// The length of the longest.
    pub fn len(&self) -> u64 {
        self.all.iter().map(|c| c.len).max().unwrap_or(0)
    }

    /// Reads from the beginning of a sector on; answers how much there is.
    pub fn read(&self, s: &mut Session<'_>, buf: &mut [u8], at: u64) -> usize {
        let mut got = 0;
        let mut other = Vec::new();
        for copy in self.all.iter().filter(|c| !c.foreign) {
            if got == 0 {
                got = s.read(&*copy.file, copy.name, buf, at);
                continue;
            }
            other.resize(buf.len(), 0);
            let more = s.read(&*copy.file, copy.name, &mut other, at);
            self.merge(buf, got, other.get(..more).unwrap_or_default(), at);
            got = got.max(more);
        }
        got
    }

    /// Takes over what is better in `other`; of `buf` so many bytes are there.
    fn merge(&self, buf: &mut [u8], got: usize, other: &[u8], at: u64) {
        let whole = got / SECTOR;
        let (sectors, _) = buf.as_chunks_mut::<SECTOR>();
        let (others, _) = other.as_chunks::<SECTOR>();
        for (n, (sector, other)) in sectors.iter_mut().zip(others).enumerate() {
            let number = (at / SECTOR as u64) as u32 + n as u32;
            let rank = |bytes| rank(self.vid, self.life, number, bytes);
            if n >= whole || (sector != other && rank(other) > rank(sector)) {
                *sector = *other;
            }
        }
    }

    /// Reports what each copy lacks of the first `len` bytes.
    fn compare(&self, s: &mut Session<'_>, len: u64) {
        let (mut best, mut own) = (vec![0; WINDOW], vec![0; WINDOW]);
        for copy in &self.all {
            if copy.foreign {
                s.find(K::JournalTwinDamaged, copy.name, "the copy of another file");
                continue;
            }
            if copy.len < len {
                let detail = format!("expected {len} bytes, got {}", copy.len);
                s.find(K::JournalTwinDamaged, copy.name, detail);
            }
            let end = len.min(copy.len);
            let (mut damaged, mut older, mut at) = (0u32, 0u32, 0);
            while at < end {
                let room = (end - at).min(WINDOW as u64) as usize;
                let best = best.get_mut(..room).unwrap_or_default();
                let own = own.get_mut(..room).unwrap_or_default();
                self.read(s, best, at);
                s.read(&*copy.file, copy.name, own, at);
                let pairs = best.as_chunks::<SECTOR>().0.iter();
                for (n, (best, own)) in pairs.zip(own.as_chunks::<SECTOR>().0).enumerate() {
                    let number = (at / SECTOR as u64) as u32 + n as u32;
                    let rank = |bytes| rank(self.vid, self.life, number, bytes);
                    match (rank(best), rank(own)) {
                        _ if best == own => {}
                        (best, own) if best <= own => {}
                        (_, None) => damaged += 1,
                        (best, own) if best > own => older += 1,
                        _ => {}
                    }
                }
                at += room as u64;
            }
            if damaged > 0 {
                let detail = format!("{damaged} sectors with a wrong checksum");
                s.find(K::JournalTwinDamaged, copy.name, detail);
            }
            if older > 0 {
                let detail = format!("{older} sectors are older than in the other copy");
                s.find(K::JournalTwinOlder, copy.name, detail);
            }
        }
    }
}
