//! A connection from its first call to its last: carried, looked at now and
//! then, and left.
//!
//! What takes too long is found by a look every so often, and not by a timer
//! for each thing that may: a connection is looked at once a second at most,
//! however many calls it carries.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::{
    crowd::{Idle, Present},
    inline::Inline,
    watched::Watch,
};
use crate::telemetry::Refusal;

/// Why a connection was carried no further.
pub(super) enum Carried<T> {
    /// It ended, as it says.
    Ended(T),
    /// A frame began and never came whole.
    Stuck,
    /// Asked to leave, it did not: its client does not answer.
    Deaf,
}

/// One connection, its streams, and what bounds its life.
pub(super) struct Carry<'a, C> {
    inline: Inline<C>,
    present: &'a Present,
    watch: &'a Watch,
    looks: Interval,
    /// Streams that it had had at the last look.
    taken: u64,
    /// How long it has had none.
    quiet: Duration,
    /// Its place in line to make room for others, while it is idle.
    idle: Option<Idle<'a>>,
    /// Since when it has been asked to leave and has had no stream.
    leaving: Option<Instant>,
}

impl<'a, C: Future + Unpin> Carry<'a, C> {
    pub(super) fn new(inline: Inline<C>, present: &'a Present, watch: &'a Watch) -> Self {
        let every = present.guards().look_every();
        let mut looks = interval_at(Instant::now() + every, every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            inline,
            present,
            watch,
            looks,
            taken: 0,
            quiet: Duration::ZERO,
            idle: None,
            leaving: None,
        }
    }

    /// Carries it to its end. Where `drain` begins, or it is idle for too
    /// long, or while others want in, it is asked to `leave`: GOAWAY first,
    /// what was accepted is still answered. Then it is the client's turn, which
    /// has as long for it as for a frame.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut drain: Pin<&mut impl Future<Output = ()>>,
        mut leave: impl FnMut(&mut C),
    ) -> Poll<Carried<C::Output>> {
        loop {
            let ended = Pin::new(&mut self.inline).poll(cx);
            self.present.has_streams(self.inline.open());
            self.watch.took(self.inline.taken());
            if let Poll::Ready(ended) = ended {
                return Poll::Ready(Carried::Ended(ended));
            }
            let looked = self.looks.poll_tick(cx).is_ready();
            if looked && self.watch.is_half_for(self.present.guards().frame_timeout) {
                return Poll::Ready(Carried::Stuck);
            }
            if let Some(since) = &mut self.leaving {
                if !looked {
                    return Poll::Pending;
                }
                if self.inline.open() > 0 {
                    *since = Instant::now();
                } else if since.elapsed() >= self.present.guards().frame_timeout {
                    return Poll::Ready(Carried::Deaf);
                }
                continue; // asks for the next look
            }
            let unused = looked && self.is_unused();
            let idle = self.idle.as_mut();
            let unwanted = unused || idle.is_some_and(|idle| idle.is_rung(cx));
            if unwanted {
                self.present.refuse(Refusal::Idle);
            }
            if unwanted || drain.as_mut().poll(cx).is_ready() {
                self.leaving = Some(Instant::now());
                self.idle = None;
                leave(self.inline.connection().get_mut());
            } else if !looked {
                return Poll::Pending;
            }
        }
    }

    /// A look: whether there has been no call for too long.
    fn is_unused(&mut self) -> bool {
        let quiet = self.inline.open() == 0 && self.inline.taken() == self.taken;
        self.taken = self.inline.taken();
        if !quiet {
            self.quiet = Duration::ZERO;
            self.idle = None;
            return false;
        }
        self.quiet += self.looks.period();
        let present = self.present;
        self.idle.get_or_insert_with(|| Idle::new(present.crowd()));
        self.quiet >= self.present.guards().idle_timeout
    }
}
