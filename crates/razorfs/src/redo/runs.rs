//! Which chunks are whose.

use std::collections::VecDeque;
use std::ops::Range;

use razorfs_format::BatchSeq;

use super::Shape;

/// Chunks that are kept however long they are not used.
const KEPT: usize = 16;

/// A row of chunks with records of one batch.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub batch: BatchSeq,
    pub first: usize,
    chunks: usize,
    order: u64,
    /// Words that are taken.
    pub used: usize,
}

/// Where a record goes.
pub(super) struct Place {
    pub at: usize,
    /// The word that says how much of the run is used, and what it says from now on.
    pub tail_at: usize,
    pub tail: u64,
}

/// All chunks.
#[derive(Debug)]
pub(super) struct Runs {
    taken: Vec<bool>,
    /// Oldest first.
    runs: VecDeque<Run>,
    next_order: u64,
    /// No chunk from here on has been used since its memory was given back.
    high: usize,
    /// Something was taken since the last look.
    busy: bool,
}

type Store<'a> = &'a dyn Fn(usize, u64);

impl Runs {
    pub fn new(chunks: usize) -> Self {
        Self {
            taken: vec![false; chunks],
            runs: VecDeque::new(),
            next_order: 1,
            high: 0,
            busy: false,
        }
    }

    pub fn all(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter()
    }

    /// The runs that the memory has.
    pub fn find(&mut self, shape: Shape, load: &dyn Fn(usize) -> u64) -> Result<(), &'static str> {
        let mut runs = Vec::new();
        for first in 0..shape.chunks {
            let at = shape.line(first);
            let batch = load(at);
            if batch != 0 {
                runs.push(Run {
                    batch: BatchSeq(batch),
                    first,
                    order: load(at + 1),
                    chunks: load(at + 2) as usize,
                    used: load(at + 3) as usize,
                });
            }
        }
        runs.sort_unstable_by_key(|run| run.order);
        *self = Self::new(shape.chunks);
        for run in &runs {
            let end = run.first.checked_add(run.chunks);
            let chunks = end.and_then(|end| self.taken.get_mut(run.first..end));
            let chunks = chunks.ok_or("the memory for redo is damaged: a run has no end")?;
            if chunks.contains(&true) || run.used > run.chunks * shape.chunk_words {
                return Err("the memory for redo is damaged: two runs overlap");
            }
            chunks.fill(true);
            self.next_order = run.order.saturating_add(1);
        }
        if !runs.is_sorted_by_key(|run| run.batch) {
            return Err("the memory for redo is damaged: batches are out of order");
        }
        self.runs = runs.into();
        // Whatever the other process has used and not given back.
        self.high = shape.chunks;
        Ok(())
    }

    /// Takes `words` for the batch: in its last run, by making that longer, or in a new one.
    pub fn take(
        &mut self,
        shape: Shape,
        batch: BatchSeq,
        words: usize,
        store: Store<'_>,
    ) -> Option<Place> {
        self.busy = true;
        let fits = self.stretch(shape, batch, words, store);
        if !fits {
            self.begin(shape, batch, words.div_ceil(shape.chunk_words), store)?;
        }
        let run = self.runs.back_mut()?;
        let at = shape.chunk(run.first) + run.used;
        run.used += words;
        Some(Place {
            at,
            tail_at: shape.line(run.first) + 3,
            tail: run.used as u64,
        })
    }

    /// Whether the last run has room, or can have.
    fn stretch(&mut self, shape: Shape, batch: BatchSeq, words: usize, store: Store<'_>) -> bool {
        let Some(run) = self.runs.back_mut().filter(|run| run.batch == batch) else {
            return false;
        };
        let chunks = (run.used + words).div_ceil(shape.chunk_words);
        if chunks <= run.chunks {
            return true;
        }
        let more = run.first + run.chunks..run.first + chunks;
        match self.taken.get_mut(more.clone()) {
            Some(taken) if !taken.contains(&true) => taken.fill(true),
            _ => return false,
        }
        run.chunks = chunks;
        self.high = self.high.max(more.end);
        store(shape.line(run.first) + 2, chunks as u64);
        true
    }

    /// A new run, in the lowest chunks that are free.
    fn begin(
        &mut self,
        shape: Shape,
        batch: BatchSeq,
        chunks: usize,
        store: Store<'_>,
    ) -> Option<()> {
        let mut first = 0;
        loop {
            let row = self.taken.get(first..first + chunks)?;
            match row.iter().rposition(|&taken| taken) {
                None => break,
                Some(at) => first += at + 1,
            }
        }
        self.taken.get_mut(first..first + chunks)?.fill(true);
        self.high = self.high.max(first + chunks);
        let order = self.next_order;
        self.next_order += 1;
        let line = shape.line(first);
        for (n, value) in [order, chunks as u64, 0].into_iter().enumerate() {
            store(line + 1 + n, value);
        }
        store(line, batch.0);
        self.runs.push_back(Run {
            batch,
            first,
            chunks,
            order,
            used: 0,
        });
        Some(())
    }

    /// Frees the runs of all batches up to `through`.
    pub fn free(&mut self, shape: Shape, through: BatchSeq, store: Store<'_>) {
        while self.runs.front().is_some_and(|run| run.batch <= through) {
            let Some(run) = self.runs.pop_front() else {
                return;
            };
            store(shape.line(run.first), 0);
            if let Some(taken) = self.taken.get_mut(run.first..run.first + run.chunks) {
                taken.fill(false);
            }
        }
    }

    /// The chunks whose memory can be given back: nothing was taken since the last call.
    pub fn unused(&mut self) -> Vec<Range<usize>> {
        if std::mem::take(&mut self.busy) || self.high <= KEPT {
            return Vec::new();
        }
        let mut ranges = Vec::new();
        let mut from = KEPT;
        for run in self.by_place() {
            if from < run.first {
                ranges.push(from..run.first.min(self.high));
            }
            from = from.max(run.first + run.chunks);
        }
        if from < self.high {
            ranges.push(from..self.high);
        }
        self.high = from;
        ranges
    }

    fn by_place(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = self.runs.iter().cloned().collect();
        runs.sort_unstable_by_key(|run| run.first);
        runs
    }
}
