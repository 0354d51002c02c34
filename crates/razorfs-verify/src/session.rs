//! What all checks share: the disk, the report, reading that goes on after errors.

use std::sync::Arc;

use razorfs_disk::{Dir, Disk, File, Name, OpenHow};
use razorfs_format::layout::FileName;
use razorfs_format::parity::Object;
use razorfs_format::{FormatError, Ino, VolumeId};

use crate::parity::{Damage, HEALS};
use crate::{Checked, Finding, FindingKind, Progress, Report, Result};

/// Damaged frames that are remembered one by one, unless a repair is told otherwise; of 250 bytes
/// each.
pub const BAD_MAX: usize = 100_000;

/// Most findings that a report lists.
const FINDINGS_MAX: usize = 10_000;
/// Largest file that is read at once, in bytes: manifests and segments are far smaller.
pub const WHOLE_MAX: u64 = 1 << 30;
/// What cannot be read is replaced piece by piece; no valid bytes look like this.
const PIECE: usize = 4096;
const FILLER: u8 = 0xA5;

/// The disk's name of a file.
pub fn name_of(file: FileName) -> Name {
    let dir = Dir::from_path(file.dir()).unwrap_or(Dir::Root);
    Name::new(dir, &file.leaf())
}

/// What opening a file gave.
pub enum Opened {
    File(Arc<dyn File>, u64),
    Missing,
    /// It is there, but cannot be opened; there is a finding about it.
    Unreadable,
}

/// A check under way.
pub struct Session<'a> {
    pub disk: &'a dyn Disk,
    /// Known once a superblock was read.
    pub vid: VolumeId,
    pub checked: Checked,
    /// Some metadata could not be read.
    pub incomplete: bool,
    /// Segments whose index is damaged are searched for blocks: somebody repairs.
    pub salvage: bool,
    /// Most damaged frames that are remembered one by one.
    pub bad_max: usize,
    /// What no lower level looks at is looked at, too.
    pub deep: bool,
    /// Whether sealed packs and segments have parity.
    pub parity: bool,
    /// What differs from its parity.
    pub damage: Damage,
    /// Groups of packs that parity heals, with the shards that are damaged.
    pub to_tell: Vec<(Object, u32, Vec<usize>)>,
    level: u8,
    findings: Vec<Finding>,
    dropped: u64,
    /// Findings about inodes, whose paths are looked up in the end.
    about: Vec<(usize, Ino)>,
    /// The snapshot that is being looked at.
    place: Option<String>,
    progress: &'a mut dyn FnMut(Progress),
}

impl<'a> Session<'a> {
    pub fn new(disk: &'a dyn Disk, level: u8, progress: &'a mut dyn FnMut(Progress)) -> Self {
        Self {
            disk,
            vid: VolumeId(0),
            checked: Checked::default(),
            incomplete: false,
            salvage: false,
            bad_max: BAD_MAX,
            deep: level >= 4,
            parity: false,
            damage: Damage::default(),
            to_tell: Vec::new(),
            level,
            findings: Vec::new(),
            dropped: 0,
            about: Vec::new(),
            place: None,
            progress,
        }
    }

    pub fn into_report(mut self) -> Report {
        if self.dropped > 0 {
            let detail = format!("{} more", self.dropped);
            self.findings
                .push(finding(FindingKind::TooMany, "the volume".into(), detail));
        }
        Report {
            level: self.level,
            findings: self.findings,
            checked: self.checked,
        }
    }

    pub fn progress(&mut self, phase: &'static str, done: u64, total: u64) {
        (self.progress)(Progress { phase, done, total });
    }

    /// Reports a finding; answers whether it is listed.
    pub fn find(
        &mut self,
        kind: FindingKind,
        object: impl ToString,
        detail: impl ToString,
    ) -> bool {
        if self.findings.len() >= FINDINGS_MAX {
            self.dropped += 1;
            return false;
        }
        let object = match &self.place {
            Some(place) => format!("{} in {place}", object.to_string()),
            None => object.to_string(),
        };
        self.findings
            .push(finding(kind, object, detail.to_string()));
        true
    }

    /// Reports what a decoder said.
    pub fn find_bad(&mut self, kind: FindingKind, error: &FormatError) {
        let place = error.0.place;
        let object = format!("{} at byte {}", place.file, place.offset);
        let detail = format!(
            "{}: expected {}, got {}",
            error.0.what, error.0.expected, error.0.got
        );
        let listed = self.find(kind, object, detail);
        self.remedy(listed, place.file, place.offset);
    }

    /// The last finding, if it was listed, is about a place: says so if parity heals that.
    fn remedy(&mut self, listed: bool, file: FileName, offset: u64) {
        if listed
            && self.damage.heals(file, offset)
            && let Some(last) = self.findings.last_mut()
        {
            last.remedy = HEALS.into();
        }
    }

    /// Reports a finding about an inode, because of what stands at a place.
    pub fn find_ino_at(
        &mut self,
        kind: FindingKind,
        (ino, part): (Ino, &str),
        (file, offset): (FileName, u64),
        detail: impl ToString,
    ) {
        let before = self.findings.len();
        self.find_ino(kind, ino, part, detail);
        self.remedy(self.findings.len() > before, file, offset);
    }

    /// Reports a finding about an inode; `part` tells which part of it, or is empty.
    pub fn find_ino(&mut self, kind: FindingKind, ino: Ino, part: &str, detail: impl ToString) {
        if self.find(kind, format!("inode {ino}{part}"), detail) {
            self.about.push((self.findings.len() - 1, ino));
        }
    }

    /// What is found from now on is found in a snapshot or a branch, or in the present of the head.
    pub fn look_at(&mut self, place: Option<(&'static str, &[u8])>) {
        self.about.clear();
        self.place = place.map(|(what, name)| {
            let name = String::from_utf8_lossy(name);
            format!("{what} {}", name.escape_default())
        });
    }

    /// The inodes that findings are about.
    pub fn inodes_in_findings(&self) -> impl Iterator<Item = Ino> {
        self.about.iter().map(|(_, ino)| *ino)
    }

    /// Adds the paths of inodes to the findings about them.
    pub fn add_paths(&mut self, path_of: &dyn Fn(Ino) -> Option<String>) {
        for (index, ino) in &self.about {
            if let (Some(finding), Some(path)) = (self.findings.get_mut(*index), path_of(*ino)) {
                finding.object = format!("{} ({path})", finding.object);
            }
        }
    }

    /// The names in a directory; one that is missing has none.
    pub fn list(&self, dir: Dir) -> Result<Vec<Name>> {
        let mut names = match self.disk.list(dir) {
            Err(e) if e.is_not_found() => Vec::new(),
            names => names?,
        };
        names.sort_unstable();
        Ok(names)
    }

    /// Opens a file past the host's cache.
    pub fn open(&mut self, file: FileName) -> Opened {
        let opened = self
            .disk
            .open(&name_of(file), OpenHow::ReadUncached)
            .and_then(|f| f.len().map(|len| (f, len)));
        match opened {
            Ok((f, len)) => Opened::File(f, len),
            Err(e) if e.is_not_found() => Opened::Missing,
            Err(e) => {
                self.find(FindingKind::Unreadable, file, e);
                Opened::Unreadable
            }
        }
    }

    /// Reads at an offset. What cannot be read is reported and replaced by bytes that are never
    /// valid. Answers how much there is: less than asked for at the end of the file.
    pub fn read(&mut self, f: &dyn File, file: FileName, buf: &mut [u8], offset: u64) -> usize {
        let got = match f.read_at(buf, offset) {
            Ok(got) => got.min(buf.len()),
            Err(_) => self.read_pieces(f, file, buf, offset),
        };
        self.checked.bytes += got as u64;
        got
    }

    fn read_pieces(&mut self, f: &dyn File, file: FileName, buf: &mut [u8], offset: u64) -> usize {
        let (mut at, mut got, mut first) = (offset, 0, None);
        for piece in buf.chunks_mut(PIECE) {
            match f.read_at(piece, at) {
                Ok(n) => {
                    got += n;
                    if n < piece.len() {
                        break;
                    }
                }
                Err(e) => {
                    first.get_or_insert((at, e));
                    piece.fill(FILLER);
                    got += piece.len();
                }
            }
            at += piece.len() as u64;
        }
        if let Some((at, e)) = first {
            let listed = self.find(FindingKind::Unreadable, format!("{file} at byte {at}"), e);
            self.remedy(listed, file, at);
        }
        got
    }

    /// All of a file that is `len` bytes long.
    pub fn read_all(&mut self, f: &dyn File, file: FileName, len: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        // In steps: memory follows what is really there.
        const STEP: u64 = 1 << 20;
        while (bytes.len() as u64) < len {
            let start = bytes.len();
            let step = STEP.min(len - start as u64) as usize;
            bytes.resize(start + step, 0);
            let room = bytes.get_mut(start..).unwrap_or_default();
            let got = self.read(f, file, room, start as u64);
            if got < step {
                bytes.truncate(start + got);
                break;
            }
        }
        bytes
    }
}

fn finding(kind: FindingKind, object: String, detail: String) -> Finding {
    Finding {
        kind,
        number: kind.number(),
        severity: kind.severity(),
        object,
        meaning: kind.meaning().into(),
        remedy: kind.remedy().into(),
        detail,
    }
}
