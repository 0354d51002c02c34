//! The links from batch to batch.

use std::borrow::Cow;

use razorfs_format::journal::{BatchHeader, LINKED, Link};

use razorfs_format::{BatchSeq, Jid};

use super::reader::{First, Image, Survey};
use super::ring::Ring;

impl Ring {
    /// Whether each batch has a link to the one before it, from now on: the superblock says so.
    pub(crate) fn set_linked(&mut self, linked: bool) {
        self.linked = linked;
        if linked && self.link.is_none() {
            self.link = self.find_link();
        }
    }

    /// The link of the last batch, where nothing was replayed: in the newest file that may have it.
    /// If that is damaged the next batch is the first one of a chain.
    fn find_link(&self) -> Option<Link> {
        let last = BatchSeq(self.next().0.saturating_sub(1));
        if last == BatchSeq(0) {
            return None;
        }
        let survey = Survey::read(&*self.host.disk, self.vid, self.geometry.copies).ok()?;
        let mut lives = survey.files.iter().rev();
        let may_have = |first| matches!(first, First::Batch(first) if first <= last);
        let life = lives.find(|life| may_have(life.first))?;
        let image = Image::load(self.vid, life);
        let mut batches = image.batches();
        let (unit, jid, header) =
            batches.find(|(_, jid, header)| *jid == life.jid && header.seq == last)?;
        image.payload(unit, jid, &header)?.1
    }

    /// The life that was written before `jid` begins: as far as is known, where none is open.
    pub(super) fn life_before(&self, jid: Jid) -> Jid {
        let older = || {
            self.files
                .iter()
                .map(|f| f.jid)
                .filter(|other| *other < jid)
        };
        match &self.active {
            Some(active) => active.jid,
            None => older().max().unwrap_or_default(),
        }
    }

    /// The payload as it is written.
    pub(super) fn with_link<'a>(
        &mut self,
        header: &mut BatchHeader,
        payload: &'a [u8],
    ) -> Cow<'a, [u8]> {
        if !self.linked {
            return Cow::Borrowed(payload);
        }
        header.flags |= LINKED;
        let link = self.link.unwrap_or_default();
        let link = link.next(self.vid, header, payload);
        self.link = Some(link);
        Cow::Owned([payload, &link.0].concat())
    }
}
