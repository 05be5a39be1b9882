//! A call of a method that has a barrier waits here for what came before it,
//! and then goes on to the windows. Where no method has one, nothing is looked at.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};
use pin_project_lite::pin_project;
use tonic::Status;

use super::door::Submit;
use crate::{
    batch::BatchError,
    upstream::{BarrierRule, Barriers, Call},
};

/// Takes calls in the order of their keys where their methods have barriers.
#[derive(Clone, Debug)]
pub struct Barred<S> {
    below: Arc<S>,
    /// By method.
    rules: Arc<[Option<BarrierRule>]>,
    barriers: Arc<Barriers>,
}

impl<S> Barred<S> {
    /// In front of `below`; `rules` are the methods', in the policy's order,
    /// and `barriers` are shared with whoever else has calls under way.
    #[must_use]
    pub fn new(below: S, rules: Vec<Option<BarrierRule>>, barriers: Arc<Barriers>) -> Self {
        Self {
            below: Arc::new(below),
            rules: rules.into(),
            barriers,
        }
    }
}

impl<S: Submit> Submit for Barred<S> {
    type Answer = BarredAnswer<S::Answer>;

    fn submit(&self, mut call: Call) -> Self::Answer {
        let Some(rule) = &self.rules[call.method] else {
            return BarredAnswer::of(self.below.submit(call));
        };
        let (turn, before) = self.barriers.enter(rule, call.piece.key_hashes());
        call.turn = turn;
        if before.is_empty() {
            return BarredAnswer::of(self.below.submit(call));
        }
        let below = Arc::clone(&self.below);
        let answer = async move {
            before.over(call.deadline).await;
            below.submit(call).await
        };
        BarredAnswer {
            state: State::Waits {
                answer: answer.boxed(),
            },
        }
    }
}

pin_project! {
    /// The answer to a call, which may wait for others first.
    pub struct BarredAnswer<A> {
        #[pin]
        state: State<A>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<A> {
        Passes { #[pin] answer: A },
        Waits { answer: BoxFuture<'static, Result<Bytes, BatchError<Status>>> },
    }
}

impl<A> BarredAnswer<A> {
    const fn of(answer: A) -> Self {
        Self {
            state: State::Passes { answer },
        }
    }
}

impl<A> Future for BarredAnswer<A>
where
    A: Future<Output = Result<Bytes, BatchError<Status>>>,
{
    type Output = A::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Passes { answer } => answer.poll(cx),
            StateProjection::Waits { answer } => answer.poll_unpin(cx),
        }
    }
}
