//! Calls that wait for earlier calls of other methods on their keys, where the
//! policy says that those conflict.
//!
//! A call of a method that others wait for has a turn: it lies in the call and
//! in the batch that carries it, and is over when the last of them is dropped,
//! so an answer, a refusal, a caller that leaves its place in a window, and a
//! batch that is late all end it when they should. Who comes later gets
//! what was there before it to wait for, and a turn of its own at once; so
//! calls of one key pass in the order in which they came, and no two wait for
//! each other.
//!
//! Calls of one method and key that nobody was told to wait for between them
//! are one generation, and are waited for as one; a generation is over when
//! those before it are too. So however many are under way, a call waits for
//! one turn a key and a method.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
    time::Instant,
};

use tokio::{sync::watch, time::timeout_at};

use crate::wire::key_hash;

/// A method and a key of it, as hashes: those of two that are alike wait for
/// each other, which costs them a moment and no promise.
type Place = (u64, u64);

/// What a barrier asks of one method's calls.
#[derive(Clone, Debug)]
pub struct BarrierRule {
    own: u64,
    awaited: bool,
    awaits: Vec<u64>,
}

impl BarrierRule {
    /// For calls of `path`, which wait for those of `awaits`; `awaited` says
    /// whether another method's wait for them.
    #[must_use]
    pub fn new<'a>(path: &str, awaited: bool, awaits: impl IntoIterator<Item = &'a str>) -> Self {
        let hash = |path: &str| key_hash([path.as_bytes()]);
        Self {
            own: hash(path),
            awaited,
            awaits: awaits.into_iter().map(hash).collect(),
        }
    }
}

/// The place of one call in the order of its keys, until all clones of it are gone.
#[derive(Clone, Debug)]
pub struct Turn {
    _own: Arc<[Arc<Generation>]>,
}

/// Calls of one method and key that are waited for as one. It is over when it
/// is dropped.
#[derive(Debug, Default)]
struct Generation {
    ends: watch::Sender<()>,
    /// The one after it, which is not over before.
    next: OnceLock<Arc<Self>>,
}

impl Drop for Generation {
    fn drop(&mut self) {
        // One after the other: by itself, a long row would end inside each other.
        let mut next = self.next.take();
        while let Some(mut last) = next.and_then(Arc::into_inner) {
            next = last.next.take();
        }
    }
}

/// The last generation of a place.
#[derive(Debug)]
struct Last {
    generation: Weak<Generation>,
    /// Somebody waits for it, so that nobody joins it any more.
    awaited: bool,
}

impl Last {
    fn is_under_way(&self) -> bool {
        self.generation.strong_count() > 0
    }
}

/// What came before a call.
#[derive(Debug)]
pub struct Before(Vec<watch::Receiver<()>>);

impl Before {
    /// Whether nothing did.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Waits until all of it is over, or until `deadline`; whether it is over.
    pub async fn over(self, deadline: Option<Instant>) -> bool {
        let all = async {
            for mut turn in self.0 {
                // Nothing is ever sent: an error says that it is over.
                while turn.changed().await.is_ok() {}
            }
        };
        match deadline {
            None => {
                all.await;
                true
            }
            Some(deadline) => timeout_at(deadline.into(), all).await.is_ok(),
        }
    }
}

/// The calls under way, by method and key.
#[derive(Debug, Default)]
pub struct Barriers(Mutex<Turns>);

#[derive(Debug, Default)]
struct Turns {
    held: HashMap<Place, Last>,
    /// Turns that were taken since those that are over were looked for.
    taken: usize,
}

impl Barriers {
    /// A call with these keys comes: its turn, if any other waits for it, and
    /// what came before it.
    pub fn enter(&self, rule: &BarrierRule, keys: &[u64]) -> (Option<Turn>, Before) {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = Vec::new();
        for place in rule
            .awaits
            .iter()
            .flat_map(|method| keys.iter().map(|key| (*method, *key)))
        {
            if let Some(last) = turns.held.get_mut(&place)
                && let Some(generation) = last.generation.upgrade()
            {
                last.awaited = true;
                before.push(generation.ends.subscribe());
            }
        }
        if !rule.awaited {
            return (None, Before(before));
        }
        let own = keys.iter().map(|key| turns.join((rule.own, *key)));
        let own = own.collect();
        turns.taken += keys.len();
        // Seldom enough to cost each call little, often enough that what is
        // over is never most of what is held.
        if turns.taken > turns.held.len() / 2 + 1_024 {
            turns.taken = 0;
            turns.held.retain(|_, last| last.is_under_way());
        }
        (Some(Turn { _own: own }), Before(before))
    }
}

impl Turns {
    /// The generation of a call that comes to `place` now.
    fn join(&mut self, place: Place) -> Arc<Generation> {
        let last = self.held.get(&place);
        let under_way = last.and_then(|last| Some((last.awaited, last.generation.upgrade()?)));
        let earlier = match under_way {
            Some((false, open)) => return open,
            Some((true, earlier)) => Some(earlier),
            None => None,
        };
        let own = Arc::<Generation>::default();
        if let Some(earlier) = earlier {
            // It is the last of its place, so it has no other.
            let _ = earlier.next.set(Arc::clone(&own));
        }
        let last = Last {
            generation: Arc::downgrade(&own),
            awaited: false,
        };
        self.held.insert(place, last);
        own
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::*;

    fn both() -> [BarrierRule; 2] {
        [
            BarrierRule::new("/s.S/Set", true, ["/s.S/Delete"]),
            BarrierRule::new("/s.S/Delete", true, ["/s.S/Set"]),
        ]
    }

    #[tokio::test]
    async fn a_call_waits_for_what_came_before_it_on_its_key_and_for_nothing_else() {
        let barriers = Barriers::default();
        let [set, delete] = both();
        let (first, before) = barriers.enter(&set, &[1]);
        assert!(before.is_empty());
        assert!(barriers.enter(&set, &[1]).1.is_empty(), "of its own method");
        assert!(barriers.enter(&delete, &[2]).1.is_empty(), "of another key");
        let (_second, before) = barriers.enter(&delete, &[2, 1]);
        let mut waits = Box::pin(before.over(None));
        assert!((&mut waits).now_or_never().is_none());
        let copy = first.clone();
        drop(first);
        assert!((&mut waits).now_or_never().is_none(), "a copy is under way");
        drop(copy);
        waits.await;
    }

    #[tokio::test]
    async fn calls_of_both_methods_pass_in_the_order_in_which_they_came() {
        let barriers = Barriers::default();
        let [set, delete] = both();
        let mut turns = Vec::new();
        let mut waits = Vec::new();
        for n in 0..6 {
            let rule = if n % 2 == 0 { &set } else { &delete };
            let (turn, before) = barriers.enter(rule, &[7]);
            turns.push(turn);
            waits.push(Box::pin(before.over(None)));
        }
        for n in 0..6 {
            for later in waits.iter_mut().skip(1) {
                assert!(later.now_or_never().is_none(), "{n} is under way");
            }
            waits.remove(0).await;
            turns.remove(0);
        }
    }

    #[test]
    fn a_method_that_waits_for_itself_has_one_call_of_a_key_under_way() {
        let (barriers, rule) = (
            Barriers::default(),
            BarrierRule::new("/s.S/Set", true, ["/s.S/Set"]),
        );
        let (first, before) = barriers.enter(&rule, &[1, 1]);
        assert!(before.is_empty(), "nor does it wait for itself");
        let (_second, before) = barriers.enter(&rule, &[1]);
        let mut waits = Box::pin(before.over(None));
        assert!(waits.as_mut().now_or_never().is_none());
        drop(first);
        assert!(waits.now_or_never().is_some());
        assert!(barriers.enter(&rule, &[2]).1.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_at_a_barrier_past_its_deadline() {
        let barriers = Barriers::default();
        let [set, delete] = both();
        let _first = barriers.enter(&set, &[1]);
        let now = tokio::time::Instant::now();
        let deadline = now + Duration::from_secs(3);
        let (_, before) = barriers.enter(&delete, &[1]);
        assert!(!before.over(Some(deadline.into_std())).await);
        assert_eq!(now.elapsed(), Duration::from_secs(3));
    }

    #[test]
    fn what_is_over_is_let_go() {
        let barriers = Barriers::default();
        let [set, _] = both();
        for key in 0..100_000 {
            let _ = barriers.enter(&set, &[key]);
        }
        let held = barriers.0.lock().expect("nobody panicked").held.len();
        assert!(held < 4_096, "{held}");
    }

    #[tokio::test]
    async fn however_many_calls_of_a_key_are_under_way_each_waits_for_one_turn_a_method() {
        let barriers = Barriers::default();
        let [set, delete] = both();
        let (mut turns, mut awaited) = (Vec::new(), 0);
        for n in 0..10_000 {
            // In twos, so that there are some of one method together as well.
            let rule = if n / 2 % 2 == 0 { &set } else { &delete };
            let (turn, before) = barriers.enter(rule, &[7]);
            turns.push(turn);
            awaited += before.0.len();
        }
        assert!(awaited <= turns.len(), "{awaited}");
    }

    #[tokio::test]
    async fn who_leaves_its_place_lets_nobody_pass_those_before_it() {
        let barriers = Barriers::default();
        let [set, delete] = both();
        let (first, _) = barriers.enter(&set, &[1]);
        // Each came after the first and left before it, in a long row.
        for _ in 0..100_000 {
            drop(barriers.enter(&delete, &[1]));
            drop(barriers.enter(&set, &[1]));
        }
        let (_last, before) = barriers.enter(&delete, &[1]);
        let mut waits = Box::pin(before.over(None));
        assert!(
            (&mut waits).now_or_never().is_none(),
            "the first is under way"
        );
        drop(first);
        waits.await;
    }
}
