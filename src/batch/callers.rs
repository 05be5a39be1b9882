//! Who of a batch's callers still waits.
//!
//! A batch on its way carries everybody that was sealed into it. A service
//! below that holds one for long, because it sends it again after a while,
//! looks here before it does: whoever left meanwhile need not ride along.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use crate::reply::Reply;

/// The replies of one batch: its flight answers them, its service asks them.
pub(super) type Replies<P, E> = Arc<Mutex<Vec<Reply<P, E>>>>;

/// The callers of one batch, in the order of its requests. Clones see the same.
#[derive(Clone, Default)]
pub struct Callers(Option<Arc<dyn Fn(usize) -> bool + Send + Sync>>);

impl Callers {
    /// Callers of whom `has_left` knows, by place, whether they have.
    #[must_use]
    pub fn new(has_left: impl Fn(usize) -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(has_left)))
    }

    pub(super) fn of<P: Send + 'static, E: Send + 'static>(replies: &Replies<P, E>) -> Self {
        // Whoever keeps a batch must not keep its callers waiting: a flight that
        // is lost answers them by letting go of their replies.
        let replies = Arc::downgrade(replies);
        Self::new(move |place| {
            let Some(replies) = replies.upgrade() else {
                return true;
            };
            let replies = replies.lock().unwrap_or_else(PoisonError::into_inner);
            // None are left once the batch has been answered.
            replies.get(place).is_none_or(Reply::has_left)
        })
    }

    /// Whether the caller of the request at `place` has left, or has been
    /// answered already; `false` where nobody knows.
    #[must_use]
    pub fn has_left(&self, place: usize) -> bool {
        self.0.as_ref().is_some_and(|has_left| has_left(place))
    }
}

impl fmt::Debug for Callers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callers").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::channel;

    #[test]
    fn who_has_left_is_known_by_place_and_who_was_answered_counts_as_left() {
        let (first, waits) = channel::<(), ()>();
        let (second, leaves) = channel::<(), ()>();
        let replies = Arc::new(Mutex::new(vec![first, second]));
        let callers = Callers::of(&replies);
        assert_eq!([0, 1].map(|place| callers.has_left(place)), [false; 2]);
        drop(leaves);
        assert_eq!([0, 1].map(|place| callers.has_left(place)), [false, true]);
        replies.lock().unwrap().clear();
        assert!(callers.has_left(0), "it was answered");
        drop(waits);
        assert!(!Callers::default().has_left(0), "nobody knows");
    }
}
