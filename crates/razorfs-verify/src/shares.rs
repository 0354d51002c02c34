//! Level 3: the counts of shared frames against the references that are there.
//!
//! A frame has one own reference, which no record counts, or any number of shared ones, each with
//! its origin, which an `S` record counts by blocks. What the journal changes is counted when it
//! is flushed, so the segments are compared among themselves.

use std::collections::BTreeMap;

use razorfs_format::key::{Key, Tag};
use razorfs_format::layout::FileName;
use razorfs_format::pack::frame_len;
use razorfs_format::record::{Fragment, FragmentKind, Shared};
use razorfs_format::{Branch, PackId};

use crate::FindingKind as K;
use crate::extents::part_of;
use crate::namespace::{place_of, unreadable};
use crate::session::Session;
use crate::view::View;

/// A frame that a record counts, or a shared reference names.
struct Frame {
    /// What the record says; nothing if there is none.
    counted: Option<u64>,
    bytes: u64,
    /// Blocks that refer to it.
    found: u64,
}

/// All shared frames.
#[derive(Default)]
pub struct Shares {
    frames: BTreeMap<(PackId, u64), Frame>,
}

impl Shares {
    /// Reads the records of the segments.
    pub fn read(s: &mut Session<'_>, view: &View) -> Self {
        let mut shares = Self::default();
        view.scan(s, Tag::Shared, &mut |s, found| {
            let Some(value) = found.flushed else {
                return;
            };
            let shared = match Shared::decode(value, place_of()) {
                Ok(shared) => shared,
                Err(e) => return unreadable(s, &found.key, &e),
            };
            if found.key.branch() != Branch::HEAD {
                let at = (found.key.pack(), found.key.second());
                s.find(
                    K::SharedCount,
                    object(at),
                    format!("a record {:?}", found.key),
                );
                return;
            }
            let frame = Frame {
                counted: Some(shared.count),
                bytes: shared.bytes,
                found: 0,
            };
            shares
                .frames
                .insert((found.key.pack(), found.key.second()), frame);
        });
        shares
    }

    /// Looks at what a block of the segments refers to. Answers the frames to be counted live: its
    /// own ones, and those shared ones that no block before it has.
    pub fn refer(
        &mut self,
        s: &mut Session<'_>,
        key: &Key,
        fragments: &[Fragment],
    ) -> Vec<(PackId, u64)> {
        let mut refs: Vec<(PackId, u64, u64, bool)> = fragments
            .iter()
            .filter_map(|f| match &f.kind {
                FragmentKind::Pack(r) => {
                    let bytes = frame_len(r.stored_len);
                    Some((r.pack, r.pos, bytes, r.origin.is_some()))
                }
                _ => None,
            })
            .collect();
        refs.sort_unstable();
        refs.dedup();
        let mut live = Vec::new();
        let mut last = None;
        for (pack, pos, bytes, shared) in refs {
            let at = (pack, pos);
            let again = last.replace(at) == Some(at);
            if !shared {
                live.push((pack, bytes));
                if self.frames.contains_key(&at) {
                    own(s, key, at);
                }
                continue;
            }
            if again {
                // The block has a reference of each kind.
                own(s, key, at);
            }
            let frame = self.frames.entry(at).or_insert(Frame {
                counted: None,
                bytes,
                found: 0,
            });
            if frame.found == 0 && !again {
                live.push((pack, bytes));
            }
            if frame.bytes != bytes {
                let detail = format!("expected a frame of {bytes} bytes, got {}", frame.bytes);
                s.find_ino(K::SharedCount, key.ino(), &part_of(key), detail);
                frame.bytes = bytes;
            }
            frame.found += 1;
        }
        live
    }

    /// What is left once all references are known.
    pub fn settle(self, s: &mut Session<'_>) {
        if s.incomplete {
            // What could not be read would be missing.
            return;
        }
        for (at, frame) in self.frames {
            let kind = match frame.counted {
                Some(counted) if counted == frame.found => continue,
                Some(counted) if counted > frame.found => K::SharedCountHigh,
                _ => K::SharedCount,
            };
            let got = match frame.counted {
                Some(Shared::KEPT) => "a count that keeps it for ever".into(),
                Some(counted) => format!("{counted} counted"),
                None => "no count".into(),
            };
            let detail = format!(
                "expected {} blocks that refer to it, got {got}",
                frame.found
            );
            s.find(kind, object(at), detail);
        }
    }
}

fn own(s: &mut Session<'_>, key: &Key, at: (PackId, u64)) {
    let detail = format!(
        "expected a reference with its origin to the shared frame in {}, got one without",
        object(at)
    );
    s.find_ino(K::SharedCount, key.ino(), &part_of(key), detail);
}

fn object(at: (PackId, u64)) -> String {
    format!("{} at byte {}", FileName::Pack(at.0), at.1)
}
