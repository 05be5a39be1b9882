//! The right for one batch to be in flight.
//!
//! A permit is taken from the shared count when it is granted and goes back
//! when it is dropped, whatever happened in between. It belongs to the batch
//! and not to any caller: one who leaves cannot free a slot that the upstream
//! still occupies.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Instant,
};

use super::{
    limiter::{LimitSettings, Limiter, Sent},
    rule::Outcome,
};

/// One limiter and the line of those who wait for its permits.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limiter: Limiter,
    /// First come, first served; a service stands here once at most.
    line: VecDeque<(u64, Waker)>,
    next_ticket: u64,
}

impl Shared {
    pub(super) fn new(limiter: Limiter) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                limiter,
                line: VecDeque::new(),
                next_ticket: 0,
            }),
        })
    }

    /// A ticket under which one service waits.
    pub(super) fn ticket(&self) -> u64 {
        let mut state = self.lock();
        state.next_ticket += 1;
        state.next_ticket
    }

    /// Grants a permit when one is free and nobody waited longer.
    pub(super) fn poll_permit(
        self: &Arc<Self>,
        ticket: u64,
        waited: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Permit> {
        let mut state = self.lock();
        let position = state
            .line
            .iter()
            .position(|(waiting, _)| *waiting == ticket);
        let is_first = position.unwrap_or(state.line.len()) == 0;
        if is_first && state.limiter.try_admit() {
            if position.is_some() {
                state.line.pop_front();
            }
            state.wake_first();
            return Poll::Ready(Permit {
                shared: Some(Arc::clone(self)),
                sent: None,
                waited,
            });
        }
        match position {
            Some(position) => state.line[position].1.clone_from(cx.waker()),
            None => state.line.push_back((ticket, cx.waker().clone())),
        }
        Poll::Pending
    }

    /// A service that waited is gone: whoever stood behind it moves up.
    pub(super) fn leave(&self, ticket: u64) {
        let mut state = self.lock();
        state.line.retain(|(waiting, _)| *waiting != ticket);
        state.wake_first();
    }

    /// Goes by other settings; whoever waits may have become admissible.
    pub(super) fn retune(&self, settings: LimitSettings) {
        let mut state = self.lock();
        state.limiter.retune(settings);
        state.wake_first();
    }

    /// Names a moment that all who share the upstream agree on.
    pub(super) fn align(&self, origin: Instant) {
        self.lock().limiter.align(origin);
    }

    pub(super) fn with<T>(&self, look: impl FnOnce(&Limiter) -> T) -> T {
        look(&self.lock().limiter)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The count stays right even if a waker panicked under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wake_first(&self) {
        if self.limiter.in_flight() < self.limiter.limit()
            && let Some((_, waker)) = self.line.front()
        {
            waker.wake_by_ref();
        }
    }
}

/// The right for one batch to be in flight; RAII.
#[derive(Debug)]
pub struct Permit {
    /// `None` once it has gone back.
    shared: Option<Arc<Shared>>,
    sent: Option<Sent>,
    waited: bool,
}

impl Permit {
    /// The batch leaves now.
    pub(super) fn sent(&mut self, now: Instant, entries: u32, backlog: u64) {
        if let Some(shared) = &self.shared {
            let mut state = shared.lock();
            // Who stands in the line for a permit waits behind this one, too.
            let backlog = backlog.max(state.line.len() as u64);
            self.sent = Some(state.limiter.sent(now, entries, self.waited, backlog));
        }
    }

    /// The batch was answered: the limiter learns from it.
    pub(super) fn answered(mut self, now: Instant, outcome: Outcome) {
        let (Some(shared), Some(sent)) = (self.shared.take(), self.sent) else {
            return;
        };
        let mut state = shared.lock();
        state.limiter.answered(now, sent, outcome);
        state.wake_first();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            let mut state = shared.lock();
            state.limiter.release();
            state.wake_first();
        }
    }
}
