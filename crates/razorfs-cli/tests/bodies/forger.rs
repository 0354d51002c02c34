//! Tars that say what they should not.

use std::io::Write;
use std::path::Path;

use razorfs_disk::sim::SimRng;
use tar::{EntryType, Header};

/// Makes tars.
pub struct Forger {
    rng: SimRng,
    /// A directory of the host that no tar may reach.
    outside: String,
}

impl Forger {
    /// Whose tars try to reach `outside`.
    pub fn new(seed: u64, outside: &Path) -> Self {
        Self {
            rng: SimRng::new(seed),
            outside: outside.to_str().unwrap().to_owned(),
        }
    }

    fn below(&mut self, n: u64) -> u64 {
        self.rng.next_u64() % n
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn one<'a>(&mut self, of: &[&'a [u8]]) -> &'a [u8] {
        of[self.below(of.len() as u64) as usize]
    }

    fn name(&mut self) -> Vec<u8> {
        let outside = self.outside.clone().into_bytes();
        let name = match self.below(15) {
            0..10 => self.one(&[b"a", b"b", b"d", b"d/e", b"d/e/f", b"link", b"l2", b"out"]),
            10 => self.one(&[
                b"../evil",
                b"d/../../evil",
                b"..",
                b"/",
                b"",
                b".",
                b"./d/./x",
            ]),
            11 | 12 => self.one(&[
                b"link/evil",
                b"out/evil",
                b"out/canary",
                b"link/../evil",
                b"l2/x/y",
            ]),
            13 => self.one(&[
                b"d/",
                b"a/b",
                b"odd\xff\n",
                b"d//g",
                b"d/e/",
                b".razorfs-1-1",
            ]),
            _ => &outside,
        };
        let mut name = name.to_vec();
        match self.below(12) {
            0 => name.extend_from_slice(b"/evil"),
            1 => name.extend(std::iter::repeat_n(b'n', self.below(400) as usize)),
            _ => {}
        }
        name
    }

    /// A number as fields have them, or what is none.
    fn number(&mut self) -> Vec<u8> {
        let n = match self.below(6) {
            0 => self.below(10),
            1 => self.below(1 << 20),
            2 => 1 << self.below(64),
            3 => self.rng.next_u64(),
            4 => u64::MAX,
            _ => {
                return self
                    .one(&[b"", b"-1", b" ", b"9z", b"\x80\0\0\0\0\0\0\x01\0\0\0\0"])
                    .to_vec();
            }
        };
        n.to_string().into_bytes()
    }

    /// Records of an extended header.
    fn extensions(&mut self) -> Vec<u8> {
        let mut records = Vec::new();
        for _ in 0..self.below(5) {
            let key = self.one(&[
                b"path",
                b"linkpath",
                b"size",
                b"mtime",
                b"uid",
                b"GNU.sparse.major",
                b"GNU.sparse.minor",
                b"GNU.sparse.name",
                b"GNU.sparse.realsize",
                b"SCHILY.xattr.user.x",
                b"SCHILY.xattr.security.capability",
                b"GNU.sparse.map",
                b"SCHILY.xattr.system.posix_acl_default",
            ]);
            let value = match self.below(4) {
                0 => self.name(),
                1 => b"1".to_vec(),
                2 => b"0".to_vec(),
                _ => self.number(),
            };
            let rest = key.len() + value.len() + 3;
            let mut len = rest + 1;
            while len.to_string().len() + rest != len {
                len = len.to_string().len() + rest;
            }
            let told = if self.chance(5) {
                self.below(999) as usize
            } else {
                len
            };
            write!(records, "{told} ").unwrap();
            records.extend_from_slice(key);
            records.push(b'=');
            records.extend_from_slice(&value);
            records.push(b'\n');
        }
        records
    }

    fn data(&mut self, kind: u8) -> Vec<u8> {
        match kind {
            b'x' | b'g' => self.extensions(),
            b'L' | b'K' => {
                let mut name = self.name();
                name.push(0);
                name
            }
            _ if self.chance(20) => {
                // The list of a sparse file, or something like it.
                let mut list = Vec::new();
                for _ in 0..self.below(6) {
                    list.extend(self.number());
                    list.push(b'\n');
                }
                list.resize(512, 0);
                list.extend_from_slice(b"data");
                list
            }
            _ => vec![self.below(256) as u8; self.below(3000) as usize],
        }
    }

    fn entry(&mut self, tar: &mut Vec<u8>) {
        let kind =
            self.one(&[b"0000\x00001112225555xxxxgLLKKSS346V7\xff"])[self.below(32) as usize % 31];
        let data = self.data(kind);
        let mut header = if self.chance(70) {
            Header::new_gnu()
        } else {
            Header::new_ustar()
        };
        header.set_entry_type(EntryType::new(kind));
        let (name, link) = (self.name(), self.name());
        let old = header.as_old_mut();
        let fill = |field: &mut [u8], bytes: &[u8]| {
            for (to, from) in field.iter_mut().zip(bytes) {
                *to = *from;
            }
        };
        fill(&mut old.name, &name);
        fill(&mut old.linkname, &link);
        header.set_mode(self.rng.next_u64() as u32 & 0o7777);
        header.set_uid(self.below(3));
        header.set_gid(self.below(3));
        header.set_mtime(self.rng.next_u64() >> self.below(64));
        header.set_size(data.len() as u64);
        if self.chance(10) {
            let size = self.number();
            fill(&mut header.as_old_mut().size, &size);
        }
        if kind == b'S'
            && let Some(gnu) = header.as_gnu_mut()
        {
            let hole = match self.below(3) {
                0 => 1 << 50,
                _ => self.below(1 << 20) / 512 * 512,
            };
            fill(&mut gnu.sparse[0].offset, format!("{hole:011o}").as_bytes());
            let len = format!("{:011o}", data.len());
            fill(&mut gnu.sparse[0].numbytes, len.as_bytes());
            gnu.set_real_size(hole + data.len() as u64);
            gnu.isextended[0] = u8::from(self.chance(5));
        }
        header.set_cksum();
        tar.extend_from_slice(header.as_bytes());
        tar.extend_from_slice(&data);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }

    pub fn tar(&mut self) -> Vec<u8> {
        let mut tar = Vec::new();
        for _ in 0..1 + self.below(7) {
            self.entry(&mut tar);
        }
        if self.chance(60) {
            tar.resize(tar.len() + 1024, 0);
        }
        for _ in 0..self.below(4) * u64::from(self.chance(25)) {
            let at = self.below(tar.len() as u64) as usize;
            tar[at] ^= 1 << self.below(8);
        }
        if self.chance(10) {
            tar.truncate(self.below(tar.len() as u64) as usize);
        }
        match self.below(12) {
            0 => zstd::encode_all(tar.as_slice(), 1).unwrap(),
            1 => {
                let mut gzip = flate2::write::GzEncoder::new(Vec::new(), Default::default());
                gzip.write_all(&tar).unwrap();
                gzip.finish().unwrap()
            }
            _ => tar,
        }
    }
}
