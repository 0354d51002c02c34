//! What a power cut keeps: choices, random or one after the other.

use super::SimRng;

/// Decides what a power cut keeps.
pub(super) trait Choose {
    /// The choices that follow are about another file.
    fn next_file(&mut self) {}
    /// A number below `n`, which is at least 2: 0 keeps what was durable, a higher number a
    /// newer version.
    fn choose(&mut self, n: usize) -> usize;
}

/// Choices of a caller.
pub(super) struct Told<F>(pub(super) F);

impl<F: FnMut(usize) -> usize> Choose for Told<F> {
    fn choose(&mut self, n: usize) -> usize {
        (self.0)(n).min(n - 1)
    }
}

/// How much a random cut keeps. Even chances for each sector alone would practically never
/// lose all of one file and keep all of another, which is where ordering bugs show.
#[derive(Clone, Copy)]
enum Mood {
    Nothing,
    Little,
    Even,
    Most,
    Everything,
}

const MOODS: [Mood; 5] = [
    Mood::Nothing,
    Mood::Little,
    Mood::Even,
    Mood::Most,
    Mood::Everything,
];

/// Random choices, in moods.
pub(super) struct Random<'a> {
    rng: &'a mut SimRng,
    mood: Mood,
    /// Whether each file gets its own mood.
    varied: bool,
}

impl<'a> Random<'a> {
    pub(super) fn new(rng: &'a mut SimRng) -> Self {
        let varied = rng.chance(3, 4);
        let mut random = Self {
            rng,
            mood: Mood::Even,
            varied,
        };
        random.draw();
        random
    }

    fn draw(&mut self) {
        self.mood = self.rng.pick(&MOODS).copied().unwrap_or(Mood::Even);
    }
}

impl Choose for Random<'_> {
    fn next_file(&mut self) {
        if self.varied {
            self.draw();
        }
    }

    fn choose(&mut self, n: usize) -> usize {
        let any = self.rng.below(n as u64) as usize;
        match self.mood {
            Mood::Nothing => 0,
            Mood::Little if self.rng.chance(7, 8) => 0,
            Mood::Most if self.rng.chance(7, 8) => n - 1,
            Mood::Everything => n - 1,
            Mood::Little | Mood::Even | Mood::Most => any,
        }
    }
}

/// Counts through every sequence of choices, for exhaustive tests of small cases:
///
/// ```
/// # use razorfs_disk::sim::Choices;
/// let mut choices = Choices::default();
/// let mut seen = Vec::new();
/// while choices.advance() {
///     seen.push((choices.choose(2), choices.choose(3)));
/// }
/// assert_eq!(seen.len(), 6);
/// ```
#[derive(Default, Debug)]
pub struct Choices {
    /// (chosen, of how many), in the order asked for.
    path: Vec<(usize, usize)>,
    at: usize,
    started: bool,
}

impl Choices {
    /// Moves on to the next sequence; false if all were seen.
    pub fn advance(&mut self) -> bool {
        self.at = 0;
        if !self.started {
            self.started = true;
            return true;
        }
        while let Some((chosen, of)) = self.path.pop() {
            if chosen + 1 < of {
                self.path.push((chosen + 1, of));
                return true;
            }
        }
        false
    }

    /// The next choice of this sequence, below `n`.
    pub fn choose(&mut self, n: usize) -> usize {
        let chosen = match self.path.get(self.at) {
            Some((chosen, _)) => *chosen,
            None => {
                self.path.push((0, n));
                0
            }
        };
        self.at += 1;
        chosen
    }
}
