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

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
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
    _ends: Arc<watch::Sender<()>>,
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

    /// Waits until all of it is over, or until `deadline`.
    pub async fn over(self, deadline: Option<Instant>) {
        let all = async {
            for mut turn in self.0 {
                // Nothing is ever sent: an error says that it is over.
                while turn.changed().await.is_ok() {}
            }
        };
        match deadline {
            None => all.await,
            // Who is too late is told so by the windows.
            Some(deadline) => timeout_at(deadline.into(), all).await.unwrap_or_default(),
        }
    }
}

/// The calls under way, by method and key.
#[derive(Debug, Default)]
pub struct Barriers(Mutex<Turns>);

#[derive(Debug, Default)]
struct Turns {
    held: HashMap<Place, Vec<watch::Receiver<()>>>,
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
            if let Some(held) = turns.held.get_mut(&place) {
                held.retain(is_under_way);
                before.extend(held.iter().cloned());
            }
        }
        if !rule.awaited {
            return (None, Before(before));
        }
        let (ends, turn) = watch::channel(());
        for key in keys {
            let held = turns.held.entry((rule.own, *key)).or_default();
            held.retain(is_under_way);
            held.push(turn.clone());
        }
        turns.taken += keys.len();
        // Seldom enough to cost each call little, often enough that what is
        // over is never most of what is held.
        if turns.taken > turns.held.len() / 2 + 1_024 {
            turns.taken = 0;
            turns.held.retain(|_, held| held.iter().any(is_under_way));
        }
        let ends = Arc::new(ends);
        (Some(Turn { _ends: ends }), Before(before))
    }
}

fn is_under_way(turn: &watch::Receiver<()>) -> bool {
    turn.has_changed().is_ok()
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

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_at_a_barrier_past_its_deadline() {
        let barriers = Barriers::default();
        let [set, delete] = both();
        let _first = barriers.enter(&set, &[1]);
        let now = tokio::time::Instant::now();
        let deadline = now + Duration::from_secs(3);
        let (_, before) = barriers.enter(&delete, &[1]);
        before.over(Some(deadline.into_std())).await;
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
}
