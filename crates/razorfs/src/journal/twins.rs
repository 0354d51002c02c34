//! Two copies of a journal file behind the door of one: whatever is written goes to both, and
//! nothing is durable before both have been flushed. An error of one is an error of the pair: the
//! ring goes on in another pair, and uses this one no more.

use std::io::{Error, IoSlice};
use std::ops::Range;
use std::sync::Arc;

use razorfs_disk::{DiskError, DiskOp, File, Result};

use crate::sync::{Condvar, Mutex};

/// The two copies.
pub(super) struct Twins {
    first: Arc<dyn File>,
    second: Arc<dyn File>,
    flusher: Arc<Flusher>,
}

impl Twins {
    pub fn new(first: Arc<dyn File>, second: Arc<dyn File>, flusher: Arc<Flusher>) -> Self {
        Self {
            first,
            second,
            flusher,
        }
    }

    fn both(&self, call: impl Fn(&dyn File) -> Result<()>) -> Result<()> {
        call(&*self.first)?;
        call(&*self.second)
    }
}

impl File for Twins {
    /// For whoever writes: recovery reads each copy for itself, since one may be damaged.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.first.read_at(buf, offset)
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<()> {
        self.both(|f| f.write_at(bufs, offset))
    }

    fn sync_data(&self) -> Result<()> {
        self.flusher.both(&self.first, &self.second)
    }

    fn allocate(&self, range: Range<u64>, zero: bool) -> Result<()> {
        self.both(|f| f.allocate(range.clone(), zero))
    }

    fn punch(&self, range: Range<u64>) -> Result<()> {
        self.both(|f| f.punch(range.clone()))
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.both(|f| f.set_len(len))
    }

    fn len(&self) -> Result<u64> {
        Ok(self.first.len()?.min(self.second.len()?))
    }
}

/// Flushes two files at the same time, while a thread serves for that; otherwise one after the
/// other.
#[derive(Default)]
pub(crate) struct Flusher {
    desk: Mutex<Desk>,
    asked: Condvar,
    answered: Condvar,
}

#[derive(Default)]
struct Desk {
    serving: bool,
    stop: bool,
    /// Somebody waits for an answer, or will.
    busy: bool,
    job: Option<Arc<dyn File>>,
    answer: Option<Result<()>>,
}

impl Flusher {
    fn both(&self, first: &Arc<dyn File>, second: &Arc<dyn File>) -> Result<()> {
        let handed = {
            let mut desk = self.desk.lock();
            let free = desk.serving && !desk.stop && !desk.busy;
            if free {
                desk.busy = true;
                desk.job = Some(Arc::clone(second));
                self.asked.notify_one();
            }
            free
        };
        // The second one is flushed in any case: it may be what is left one day.
        let one = first.sync_data();
        let other = if handed {
            self.answer(second)
        } else {
            second.sync_data()
        };
        one.and(other)
    }

    /// What became of the file that was handed over.
    fn answer(&self, file: &Arc<dyn File>) -> Result<()> {
        let mut desk = self.desk.lock();
        loop {
            if let Some(answer) = desk.answer.take() {
                desk.busy = false;
                return answer;
            }
            if desk.job.take().is_some() {
                // It was not begun: whoever serves is slow, or has ended.
                desk.busy = false;
                drop(desk);
                return file.sync_data();
            }
            if !desk.serving {
                // It may have failed, and then a second flush that succeeds proves nothing.
                desk.busy = false;
                let why = "the thread that flushes the second copy ended";
                let path = "the journal";
                return Err(DiskError::new(DiskOp::Sync, path, Error::other(why)));
            }
            self.answered.wait(&mut desk);
        }
    }

    /// Flushes what it is asked to, until [`Flusher::stop`].
    pub fn serve(&self) {
        let _end = End(self);
        let mut desk = self.desk.lock();
        desk.serving = true;
        while !desk.stop {
            let Some(file) = desk.job.take() else {
                self.asked.wait(&mut desk);
                continue;
            };
            drop(desk);
            let answer = file.sync_data();
            desk = self.desk.lock();
            desk.answer = Some(answer);
            self.answered.notify_all();
        }
    }

    /// Ends [`Flusher::serve`]; whoever syncs then does it alone.
    pub fn stop(&self) {
        self.desk.lock().stop = true;
        self.asked.notify_all();
    }
}

/// However serving ends, nobody waits for it in vain.
struct End<'a>(&'a Flusher);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.desk.lock().serving = false;
        self.0.answered.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use razorfs_disk::sim::SimDisk;
    use razorfs_disk::{Dir, Disk, Name, OpenHow};

    use super::*;

    /// Two files of a disk, and both behind one door.
    fn pair(disk: &SimDisk) -> (Twins, [Name; 2]) {
        disk.create_dirs().unwrap();
        let names = ["J-0000", "J-0000.b"].map(|leaf| Name::new(Dir::Journal, leaf));
        let [first, second] = names
            .each_ref()
            .map(|name| disk.open(name, OpenHow::CreateNew).unwrap());
        disk.sync_dir(Dir::Journal).unwrap();
        (Twins::new(first, second, Arc::default()), names)
    }

    fn write(twins: &Twins, byte: u8) {
        twins.write_at(&[IoSlice::new(&[byte; 700])], 0).unwrap();
    }

    fn durable(disk: &SimDisk, names: &[Name; 2]) -> [Option<Vec<u8>>; 2] {
        let image = disk.image();
        names.each_ref().map(|name| image.bytes(name))
    }

    /// Runs `work` while a thread serves.
    fn served(twins: &Twins, work: impl FnOnce()) {
        let flusher = Arc::clone(&twins.flusher);
        let thread = std::thread::spawn(move || flusher.serve());
        while !twins.flusher.desk.lock().serving {
            std::thread::yield_now();
        }
        work();
        twins.flusher.stop();
        thread.join().unwrap();
    }

    #[test]
    fn both_are_durable_with_a_thread_and_without_before_and_after_it() {
        let disk = SimDisk::new();
        let (twins, names) = pair(&disk);
        let check = |byte: u8| {
            write(&twins, byte);
            twins.sync_data().unwrap();
            let all = Some(vec![byte; 700]);
            assert_eq!(durable(&disk, &names), [all.clone(), all]);
        };
        check(1);
        served(&twins, || (2..200).for_each(check));
        check(201);
    }

    #[test]
    fn a_flush_of_either_that_fails_is_a_failure_of_the_pair() {
        for threads in [false, true] {
            for failing in 0..2 {
                let disk = SimDisk::new();
                let (twins, _) = pair(&disk);
                write(&twins, 1);
                disk.fail_sync_at(disk.counts().syncs + failing);
                let sync = || {
                    twins.sync_data().unwrap_err();
                    twins.sync_data().unwrap();
                };
                if threads {
                    served(&twins, sync)
                } else {
                    sync()
                }
            }
        }
    }
}
