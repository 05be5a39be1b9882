//! Everybody who is connected to a listener, and what each takes of it.
//!
//! A bound on a sum alone would let whoever comes first shut the others out.
//! So past the bound it is only those who have more than their share that are
//! refused: the sum divided by those who are here. Whoever takes little is
//! always served, and the sum stays below twice its bound.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Waker},
};

use tokio::sync::{Notify, futures::Notified};

use super::guards::Guards;
use crate::{
    telemetry::{Refusal, Refusals},
    transport::Place,
};

/// What is counted of one connection, and of all of them.
#[derive(Debug, Default)]
struct Taken {
    streams: AtomicUsize,
    unfinished_bytes: AtomicUsize,
}

/// All connections of one listener.
#[derive(Debug)]
pub(super) struct Crowd {
    connections: AtomicUsize,
    taken: Taken,
    /// Rung for the connection that has been idle longest.
    room: Notify,
    /// Those that stand in line for it, and were not rung for.
    idle: AtomicUsize,
    refusals: Arc<Refusals>,
}

impl Crowd {
    pub(super) fn new(refusals: Arc<Refusals>) -> Arc<Self> {
        Arc::new(Self {
            connections: AtomicUsize::new(0),
            taken: Taken::default(),
            room: Notify::new(),
            idle: AtomicUsize::new(0),
            refusals,
        })
    }

    /// One more, from `peer`.
    pub(super) fn enter(self: &Arc<Self>, peer: String, guards: Arc<Guards>) -> Arc<Present> {
        self.connections.fetch_add(1, Relaxed);
        Arc::new(Present {
            crowd: Arc::clone(self),
            guards,
            peer,
            taken: Taken::default(),
            suspect: AtomicBool::new(false),
        })
    }

    /// Asks the connection that has been idle longest to leave; whether there
    /// is one.
    pub(super) fn make_room(&self) -> bool {
        let is_one = self.one_idle_less();
        if is_one {
            self.room.notify_one();
        }
        is_one
    }

    fn one_idle_less(&self) -> bool {
        let less = |idle: usize| idle.checked_sub(1);
        self.idle.fetch_update(Relaxed, Relaxed, less).is_ok()
    }

    /// A client was refused before it was let in.
    pub(super) fn refuse(&self, refusal: Refusal, peer: &str) {
        self.refusals.note(refusal, peer);
    }

    /// A client could not be let in at all, at `place`.
    pub(super) fn not_accepted(&self, place: &Place, error: &io::Error) {
        self.refusals.not_accepted(place, error);
    }
}

/// One of them.
#[derive(Debug)]
pub(super) struct Present {
    crowd: Arc<Crowd>,
    guards: Arc<Guards>,
    peer: String,
    taken: Taken,
    suspect: AtomicBool,
}

impl Drop for Present {
    fn drop(&mut self) {
        self.crowd.connections.fetch_sub(1, Relaxed);
        let streams = self.taken.streams.load(Relaxed);
        self.crowd.taken.streams.fetch_sub(streams, Relaxed);
    }
}

impl Present {
    pub(super) fn guards(&self) -> &Guards {
        &self.guards
    }

    pub(super) fn crowd(&self) -> &Crowd {
        &self.crowd
    }

    /// This client, or one of its calls, is refused.
    pub(super) fn refuse(&self, refusal: Refusal) {
        self.crowd.refuse(refusal, &self.peer);
    }

    /// No TLS with this client, and why.
    pub(super) fn refuse_tls(&self, error: &io::Error) {
        self.crowd.refusals.no_tls(&self.peer, error);
    }

    /// So many streams are open on it now. Told once a turn, and not for each
    /// call, since the sum is shared by all threads.
    pub(super) fn has_streams(&self, streams: usize) {
        let before = self.taken.streams.load(Relaxed);
        if streams == before {
            return;
        }
        self.taken.streams.store(streams, Relaxed);
        let sum = &self.crowd.taken.streams;
        match streams.checked_sub(before) {
            Some(more) => sum.fetch_add(more, Relaxed),
            None => sum.fetch_sub(before - streams, Relaxed),
        };
    }

    /// Whether one more stream is too much for the listener, and this
    /// connection has more than its share of them.
    pub(super) fn is_crowding(&self) -> bool {
        let bound = self.guards.max_streams_total;
        self.is_over(bound, |taken| &taken.streams)
    }

    /// Whether calls were reset lately as they were made.
    pub(super) fn suspect(&self, suspect: bool) {
        if self.suspect.load(Relaxed) != suspect {
            self.suspect.store(suspect, Relaxed);
        }
    }

    /// Whether calls of this connection are looked at again before they go
    /// anywhere, since they may have been reset by then.
    pub(super) fn is_suspect(&self) -> bool {
        self.suspect.load(Relaxed)
    }

    fn is_over(&self, bound: usize, of: impl Fn(&Taken) -> &AtomicUsize) -> bool {
        if of(&self.crowd.taken).load(Relaxed) < bound {
            return false;
        }
        let share = bound / self.crowd.connections.load(Relaxed).max(1);
        of(&self.taken).load(Relaxed) >= share
    }
}

/// A connection's place among those that are idle; lost when dropped.
pub(super) struct Idle<'a> {
    crowd: &'a Crowd,
    bell: Pin<Box<Notified<'a>>>,
    rung: bool,
}

impl<'a> Idle<'a> {
    pub(super) fn new(crowd: &'a Crowd) -> Self {
        crowd.idle.fetch_add(1, Relaxed);
        let mut bell = Box::pin(crowd.room.notified());
        bell.as_mut().enable(); // it stands in line from now on
        Self {
            crowd,
            bell,
            rung: false,
        }
    }

    /// Whether it is to make room.
    pub(super) fn is_rung(&mut self, cx: &mut Context<'_>) -> bool {
        self.rung = self.rung || self.bell.as_mut().poll(cx).is_ready();
        self.rung
    }
}

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        // Rung for in this moment, it is counted off already; and a ring that
        // nobody has heard would be the next one's, who is not meant.
        if !self.is_rung(&mut Context::from_waker(Waker::noop())) {
            self.crowd.one_idle_less();
        }
    }
}

/// What a call holds whose message has not come whole.
pub(super) struct Unfinished {
    of: Arc<Present>,
    bytes: usize,
}

impl fmt::Debug for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unfinished")
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl Unfinished {
    pub(super) fn new(of: Arc<Present>) -> Self {
        Self { of, bytes: 0 }
    }

    /// It has come to so many bytes; whether it may go on.
    pub(super) fn grow_to(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        self.bytes += more;
        for taken in [&self.of.taken, &self.of.crowd.taken] {
            taken.unfinished_bytes.fetch_add(more, Relaxed);
        }
        let bound = self.of.guards.max_unfinished_bytes;
        !self.of.is_over(bound, |taken| &taken.unfinished_bytes)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        for taken in [&self.of.taken, &self.of.crowd.taken] {
            taken.unfinished_bytes.fetch_sub(self.bytes, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crowd(guards: &Arc<Guards>, connections: usize) -> (Arc<Crowd>, Vec<Arc<Present>>) {
        let crowd = Crowd::new(Arc::default());
        let enter = |n: usize| crowd.enter(n.to_string(), Arc::clone(guards));
        let present = (0..connections).map(enter).collect();
        (crowd, present)
    }

    #[test]
    fn who_takes_much_is_refused_more_and_who_takes_little_is_not() {
        let guards = Arc::new(Guards {
            max_streams_total: 100,
            ..Guards::default()
        });
        let (_crowd, present) = crowd(&guards, 4);
        present[0].has_streams(97);
        present[1].has_streams(2);
        assert!(!present[0].is_crowding(), "there is room");
        present[2].has_streams(1);
        assert!(present[0].is_crowding());
        assert!(
            !present[1].is_crowding() && !present[2].is_crowding() && !present[3].is_crowding()
        );
        present[0].has_streams(96);
        assert!(!present[0].is_crowding(), "there is room again");
    }

    #[test]
    fn what_a_connection_took_is_free_when_it_is_gone() {
        let guards = Arc::new(Guards {
            max_streams_total: 10,
            max_unfinished_bytes: 10,
            ..Guards::default()
        });
        let (crowd, mut present) = crowd(&guards, 2);
        present[0].has_streams(10);
        let mut half = Unfinished::new(Arc::clone(&present[0]));
        assert!(!half.grow_to(10));
        present[1].has_streams(6);
        assert!(present[1].is_crowding());
        drop(half);
        present.remove(0);
        assert!(!present[0].is_crowding());
        assert_eq!(crowd.taken.unfinished_bytes.load(Relaxed), 0);
        assert_eq!(crowd.taken.streams.load(Relaxed), 6);
    }

    #[tokio::test]
    async fn who_has_been_idle_longest_makes_room() {
        let guards = Arc::new(Guards::default());
        let (crowd, _present) = crowd(&guards, 3);
        assert!(!crowd.make_room(), "nobody is idle");
        let mut cx = Context::from_waker(Waker::noop());
        let (busy, mut first, mut second) =
            (Idle::new(&crowd), Idle::new(&crowd), Idle::new(&crowd));
        assert!(!first.is_rung(&mut cx) && !second.is_rung(&mut cx));
        drop(busy);
        assert!(crowd.make_room());
        assert!(first.is_rung(&mut cx) && !second.is_rung(&mut cx));
        drop(first);
        assert!(crowd.make_room() && !crowd.make_room(), "one is left");
        assert!(second.is_rung(&mut cx));
    }

    #[tokio::test]
    async fn one_that_is_rung_for_as_it_has_a_call_again_takes_no_other_with_it() {
        let (crowd, _present) = crowd(&Arc::default(), 2);
        let mut cx = Context::from_waker(Waker::noop());
        let busy_again = Idle::new(&crowd);
        assert!(crowd.make_room());
        drop(busy_again);
        let mut idle = Idle::new(&crowd);
        assert!(!idle.is_rung(&mut cx), "it is not the one that was asked");
        assert!(crowd.make_room() && !crowd.make_room(), "there is one");
        assert!(idle.is_rung(&mut cx));
    }

    #[test]
    fn half_a_message_counts_as_much_as_has_come_of_it() {
        let guards = Arc::new(Guards {
            max_unfinished_bytes: 100,
            ..Guards::default()
        });
        let (_crowd, present) = crowd(&guards, 2);
        let mut large = Unfinished::new(Arc::clone(&present[0]));
        let mut small = Unfinished::new(Arc::clone(&present[1]));
        assert!(large.grow_to(40) && large.grow_to(90));
        assert!(small.grow_to(10), "the other has more than its share");
        assert!(!large.grow_to(91));
        assert!(small.grow_to(40));
    }
}
