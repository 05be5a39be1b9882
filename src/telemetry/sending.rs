//! Says when spans are lost.
//!
//! The SDK sends what it can and drops the rest. Its own log has two lines for
//! each lot of spans that a collector did not take, which is many a second
//! under load; an operator needs one now and then, with a number.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SpanData, SpanExporter},
};

/// At most one line in this time.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// An exporter that tells what it has lost.
#[derive(Debug)]
pub(super) struct Sending<E> {
    exporter: E,
    endpoint: String,
    losses: Mutex<Losses>,
}

impl<E> Sending<E> {
    pub(super) fn new(exporter: E, endpoint: String) -> Self {
        Self {
            exporter,
            endpoint,
            losses: Mutex::default(),
        }
    }
}

impl<E: SpanExporter> SpanExporter for Sending<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len() as u64;
        let sent = self.exporter.export(batch).await;
        if let Err(error) = &sent {
            let mut losses = self.losses.lock().unwrap_or_else(PoisonError::into_inner);
            let now = tokio::time::Instant::now().into_std();
            if let Some(lost) = losses.on_lost(now, spans) {
                let endpoint = &self.endpoint;
                tracing::warn!(endpoint, lost, %error, "spans are lost: the collector took none");
            }
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// Spans that were lost and not told of yet.
#[derive(Debug, Default)]
struct Losses {
    lost: u64,
    told: Option<Instant>,
}

impl Losses {
    /// More are lost; the answer is how many there are to tell of now.
    fn on_lost(&mut self, now: Instant, spans: u64) -> Option<u64> {
        self.lost += spans;
        let due = |told| now.saturating_duration_since(told) >= TELL_EVERY;
        if !self.told.is_none_or(due) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.lost))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lost_span_is_told_of_once_and_however_many_there_are_in_few_lines() {
        let (mut losses, start) = (Losses::default(), Instant::now());
        assert_eq!(losses.on_lost(start, 5), Some(5), "the first at once");
        for second in 1..60 {
            let now = start + Duration::from_secs(second);
            assert_eq!(losses.on_lost(now, 10), None);
        }
        assert_eq!(losses.on_lost(start + TELL_EVERY, 10), Some(600));
    }
}
