//! Where states go on from: a knot for each moment that more than one of them may have in common.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::Model;

/// A moment that a snapshot, a branch or a commit has made one to go on from.
#[derive(Debug)]
pub struct Knot {
    /// The tree then, and what that goes on from.
    pub state: Model,
    /// What goes on from here may as well go on from the branch that was committed: the two look
    /// alike.
    pub(crate) is_unclear: bool,
}

/// Never the same again.
pub(crate) fn stamp() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Of what may have changed or not, in a way that does not show.
pub(crate) const UNCLEAR: u64 = u64::MAX;

/// The knots on the way to a state, the youngest first.
pub(crate) fn way(state: &Model) -> impl Iterator<Item = &Arc<Knot>> {
    fn next<'k>(knot: &&'k Arc<Knot>) -> Option<&'k Arc<Knot>> {
        let knot: &'k Knot = knot;
        knot.state.line.as_ref()
    }
    std::iter::successors(state.line.as_ref(), next)
}

/// Whether a state goes on from a knot.
pub(crate) fn goes_on_from(state: &Model, knot: &Arc<Knot>) -> bool {
    way(state).any(|k| Arc::ptr_eq(k, knot))
}

/// What two states have in common; none if that is not known for certain.
pub(crate) fn parting(a: &Model, b: &Model) -> Option<Arc<Knot>> {
    let common = way(a).find(|knot| goes_on_from(b, knot))?;
    let is_clear = |state| {
        let mut since = way(state).take_while(|knot| !Arc::ptr_eq(knot, common));
        since.all(|knot| !knot.is_unclear)
    };
    (is_clear(a) && is_clear(b)).then(|| Arc::clone(common))
}

impl Model {
    /// This looks as another state does, and may be either: what was changed in one of the two
    /// only, so that it does not show, may have changed or not.
    pub(crate) fn blur(&mut self, other: &Self) {
        let other = &other.seen_from(self.here());
        self.blur_tree(other);
        self.blur_others(other);
        let both = Arc::make_mut(&mut self.points)
            .iter_mut()
            .zip(other.points());
        both.for_each(|(point, other)| point.state.blur_tree(&other.state));
    }

    /// From here on more than this may go on from what is here now.
    pub(crate) fn tie(&mut self) -> Arc<Knot> {
        let knot = Arc::new(Knot {
            state: self.alone(),
            is_unclear: false,
        });
        self.line = Some(Arc::clone(&knot));
        knot
    }
}
