//! The tower face of the limiter: readiness is the departure signal.
//!
//! [`Limit`] is ready when a permit is free and nobody waited for it longer.
//! The permit travels with the call and goes back with its answer. A clone
//! shares the limiter but holds no permit, so replacing a ready service with
//! its clone gives the permit back, unsampled.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::{
    limiter::{LimitSettings, Limiter},
    permit::{Permit, Shared},
    rule::Outcome,
};

/// What a request weighs for the limiter.
pub trait Load {
    /// Entries it holds.
    fn entries(&self) -> u32 {
        1
    }

    /// Entries that wait behind it, as far as its sender knows.
    fn backlog(&self) -> u64 {
        0
    }
}

/// How the limiter reads an answer.
pub trait Classify<R, E>: Clone {
    /// The outcome of one call.
    fn classify(&self, result: &Result<R, E>) -> Outcome;
}

/// Success is success, and every error is a failure that is no congestion.
#[derive(Clone, Copy, Debug, Default)]
pub struct OkOrFailed;

impl<R, E> Classify<R, E> for OkOrFailed {
    fn classify(&self, result: &Result<R, E>) -> Outcome {
        match result {
            Ok(_) => Outcome::Success,
            Err(_) => Outcome::Failed,
        }
    }
}

/// Puts one limiter in front of a service; every service that this layer
/// builds, and every clone of it, shares that limiter.
#[derive(Clone, Debug)]
pub struct LimitLayer<C = OkOrFailed> {
    shared: Arc<Shared>,
    classify: C,
}

impl LimitLayer {
    /// A limiter that reads answers by [`OkOrFailed`].
    #[must_use]
    pub fn new(settings: LimitSettings) -> Self {
        Self::classified(settings, OkOrFailed)
    }
}

impl<C> LimitLayer<C> {
    /// A limiter that reads answers in the given way.
    #[must_use]
    pub fn classified(settings: LimitSettings, classify: C) -> Self {
        Self {
            shared: Shared::new(Limiter::new(settings)),
            classify,
        }
    }

    /// Names a moment in the past that all who share the upstream agree on, a
    /// whole multiple of 64 s of the time of day, say: at moments counted from
    /// it they look for its unloaded latency together. A rule that knows
    /// nothing of others works without.
    #[must_use]
    pub fn aligned(self, origin: Instant) -> Self {
        self.shared.align(origin);
        self
    }

    /// Goes by other settings from now on, for all services of this layer;
    /// what is in flight still counts.
    pub fn retune(&self, settings: LimitSettings) {
        self.shared.retune(settings);
    }

    /// A look at the limiter's state, for metrics.
    #[must_use]
    pub fn view(&self) -> LimitView {
        LimitView(Arc::clone(&self.shared))
    }
}

impl<S, C: Clone> Layer<S> for LimitLayer<C> {
    type Service = Limit<S, C>;

    fn layer(&self, below: S) -> Self::Service {
        Limit {
            below,
            classify: self.classify.clone(),
            place: Place::new(Arc::clone(&self.shared)),
        }
    }
}

/// Reads a limiter without taking part in it.
#[derive(Clone, Debug)]
pub struct LimitView(Arc<Shared>);

impl LimitView {
    /// The limit, in batches.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.0.with(Limiter::limit)
    }

    /// What the limiter goes by.
    #[must_use]
    pub fn settings(&self) -> LimitSettings {
        self.0.with(Limiter::settings)
    }

    /// Batches that hold a permit.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.0.with(Limiter::in_flight)
    }

    /// The estimated bandwidth-delay product in batches, 0 if unknown.
    #[must_use]
    pub fn bdp(&self) -> f64 {
        self.0.with(|limiter| limiter.rule().bdp())
    }

    /// Latency over unloaded latency, 0 if unknown.
    #[must_use]
    pub fn slowdown(&self) -> f64 {
        self.0.with(|limiter| limiter.rule().slowdown())
    }
}

/// A service behind a limiter.
#[derive(Debug)]
pub struct Limit<S, C = OkOrFailed> {
    below: S,
    classify: C,
    place: Place,
}

impl<S: Clone, C: Clone> Clone for Limit<S, C> {
    fn clone(&self) -> Self {
        Self {
            below: self.below.clone(),
            classify: self.classify.clone(),
            place: Place::new(Arc::clone(&self.place.shared)),
        }
    }
}

/// One service's place in the line for permits.
#[derive(Debug)]
struct Place {
    shared: Arc<Shared>,
    ticket: u64,
    waits: bool,
    granted: Option<Permit>,
}

impl Place {
    fn new(shared: Arc<Shared>) -> Self {
        Self {
            ticket: shared.ticket(),
            shared,
            waits: false,
            granted: None,
        }
    }

    fn poll_granted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.granted.is_none() {
            let permit = self.shared.poll_permit(self.ticket, self.waits, cx);
            self.waits = permit.is_pending();
            self.granted = Some(ready!(permit));
        }
        Poll::Ready(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.waits {
            self.shared.leave(self.ticket);
        }
    }
}

impl<S, C, Req> Service<Req> for Limit<S, C>
where
    S: Service<Req>,
    C: Classify<S::Response, S::Error>,
    Req: Load,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Limited<S::Future, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // The service below first: a permit is not held while it gets ready.
        ready!(self.below.poll_ready(cx))?;
        self.place.poll_granted(cx).map(Ok)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let permit = self.place.granted.take();
        let mut permit = permit.expect("tower: a service is called after it was ready");
        permit.sent(clock(), request.entries(), request.backlog());
        Limited {
            answer: self.below.call(request),
            permit: Some(permit),
            classify: self.classify.clone(),
        }
    }
}

pin_project! {
    /// A call that holds its permit until its answer.
    pub struct Limited<F, C> {
        #[pin]
        answer: F,
        permit: Option<Permit>,
        classify: C,
    }
}

impl<F, R, E, C> Future for Limited<F, C>
where
    F: Future<Output = Result<R, E>>,
    C: Classify<R, E>,
{
    type Output = Result<R, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let limited = self.project();
        let result = ready!(limited.answer.poll(cx));
        if let Some(permit) = limited.permit.take() {
            permit.answered(clock(), limited.classify.classify(&result));
        }
        Poll::Ready(result)
    }
}

fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::limit::Algorithm;

    struct One;

    impl Load for One {
        fn entries(&self) -> u32 {
            1
        }

        fn backlog(&self) -> u64 {
            10
        }
    }

    #[tokio::test(start_paused = true)]
    async fn latency_is_measured_from_send_to_reply_and_never_with_the_wait_before() {
        let work = async |One| {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok::<(), ()>(())
        };
        let layer = LimitLayer::new(LimitSettings {
            algorithm: Algorithm::Little,
            min: 1,
            max: 1,
        });
        let view = layer.view();
        let mut limited = layer.layer(service_fn(work));
        for _ in 0..100 {
            let ready = limited.ready().await.expect("the service never fails");
            // A window that lingers although it might leave.
            tokio::time::sleep(Duration::from_secs(1)).await;
            ready.call(One).await.expect("the service never fails");
        }
        // 10 ms of work a second; with the wait in it, it would be all of it.
        let busy = view.bdp();
        assert!(busy > 0.0 && busy < 0.05, "{busy}");
    }
}
