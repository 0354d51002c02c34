//! Reading what the journal's files still hold, besides recovery and beside a writer.

use std::collections::BTreeMap;

use razorfs_disk::Disk;
use razorfs_format::journal::{BatchHeader, Link};
use razorfs_format::{BatchSeq, Jid, VolumeId};

use super::Batch;
use super::reader::{Image, Survey};
use crate::error::Result;

/// The batches from `from` to `to` that follow each other without a gap and end with `to`, oldest
/// first. What was reused since is gone; a file that is being reused meanwhile ends the run.
pub fn read(
    disk: &dyn Disk,
    vid: VolumeId,
    copies: u8,
    from: BatchSeq,
    to: BatchSeq,
) -> Result<Vec<Batch>> {
    let survey = Survey::read(disk, vid, copies)?;
    let mut found: BTreeMap<BatchSeq, Found> = BTreeMap::new();
    for life in survey.files.iter().filter(|f| f.jid != Jid(0)) {
        let image = Image::load(vid, life);
        for (unit, jid, header) in image.batches() {
            // What an earlier life of the file has left is as good: until now nobody wrote there.
            let newer = found.get(&header.seq).is_none_or(|known| known.jid < jid);
            if !(from..=to).contains(&header.seq) || !newer {
                continue;
            }
            if let Some((payload, link)) = image.payload(unit, jid, &header) {
                let batch = Batch::of(&header, payload);
                let found_here = Found {
                    jid,
                    header,
                    link,
                    batch,
                };
                found.insert(header.seq, found_here);
            }
        }
    }
    let mut run: Vec<Found> = Vec::new();
    for (_, one) in found.into_iter().rev() {
        let is_next = match run.last() {
            None => one.header.seq == to,
            Some(after) => after.follows(vid, &one),
        };
        if !is_next {
            break;
        }
        run.push(one);
    }
    Ok(run.into_iter().rev().map(|found| found.batch).collect())
}

/// A batch in a file.
struct Found {
    jid: Jid,
    header: BatchHeader,
    link: Option<Link>,
    batch: Batch,
}

impl Found {
    /// Whether it was written after the other. A batch that a crash has cut off may have the number
    /// of one that came in its place: what followed that is not linked to it.
    fn follows(&self, vid: VolumeId, before: &Self) -> bool {
        let end = before.header.first_lsn.0;
        let end = end.saturating_add(before.header.n_ops.into());
        let payload = &self.batch.payload;
        let is_linked = |own: Link| match before.link {
            Some(link) => link.next(vid, &self.header, payload) == own || self.is_first(vid, own),
            None => true,
        };
        self.header.seq == before.header.seq.next()
            && self.header.first_lsn.0 == end
            && self.link.is_none_or(is_linked)
    }

    /// Whether what came before it was not known when it was written.
    fn is_first(&self, vid: VolumeId, own: Link) -> bool {
        Link::UNKNOWN.next(vid, &self.header, &self.batch.payload) == own
    }
}
