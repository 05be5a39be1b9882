//! Spans for batches, sent to an OpenTelemetry collector over OTLP.
//!
//! A batch has a span where one of its callers has one that is recorded, so
//! who starts a trace decides what is traced; and, if the policy says so, one
//! batch in so many beside. The span is the child of the oldest such caller's,
//! so that a call that was alone in its batch is seen whole in one trace, and
//! has a link to each of them: a span has one parent, and a batch has many
//! callers. A thread of the SDK's sends what has ended; when it cannot, spans
//! are dropped and calls go on.

use std::{num::NonZeroU32, thread, time::Duration};

use opentelemetry::{
    Context, InstrumentationScope, KeyValue,
    trace::{
        Link, Span as _, SpanContext, SpanId, SpanKind, Status as SpanStatus, TraceContextExt as _,
        TraceFlags, TraceId, TraceState, Tracer as _, TracerProvider as _,
    },
};
use opentelemetry_otlp::{
    ExporterBuildError, SpanExporter, WithExportConfig as _, WithTonicConfig as _,
};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracer, SdkTracerProvider, Span},
};
use tonic::Status;

use super::{
    collector::{self, CollectorError},
    metrics::closed_by_name,
    note::Sent,
    sending::Sending,
};
use crate::{batch::TraceContext, policy::TracesTo};

/// Most links of a span: OpenTelemetry's own bound. Of more callers the oldest
/// are linked, and how many there were stands beside.
const LINKS_MAX: usize = 128;
/// How long a collector may take to accept what it is sent.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last spans may take to leave when ferry ends.
const LAST_WORDS: Duration = Duration::from_secs(6);

/// Why there are no traces.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// There is no way to the collector.
    #[error("telemetry.traces: {0}")]
    Collector(#[from] CollectorError),
    /// The exporter takes no such settings.
    #[error("telemetry.traces: {0}; the environment's OTEL_ variables have a say in it")]
    Exporter(#[from] ExporterBuildError),
}

/// Makes spans and sends them.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    one_in: Option<NonZeroU32>,
}

impl Traces {
    /// Sends spans to the collector `to`. It must be called inside a tokio
    /// runtime, which carries the connection.
    ///
    /// # Errors
    /// If the endpoint is none, or there are no certificates in its files.
    pub fn to(to: &TracesTo) -> Result<Self, TracesError> {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_channel(collector::channel(to)?)
            .with_metadata(collector::metadata(&to.headers))
            .with_timeout(EXPORT_TIMEOUT)
            .build()?;
        let endpoint = to.endpoint.to_string();
        let provider = SdkTracerProvider::builder()
            // What is recorded has been decided before a span is begun.
            .with_sampler(Sampler::AlwaysOn)
            .with_max_links_per_span(LINKS_MAX as u32)
            .with_resource(Resource::builder().with_service_name("ferry").build())
            .with_batch_exporter(Sending::new(exporter, endpoint))
            .build();
        let scope = InstrumentationScope::builder("ferry").with_version(env!("CARGO_PKG_VERSION"));
        Ok(Self {
            tracer: provider.tracer_with_scope(scope.build()),
            provider,
            one_in: to.one_in,
        })
    }

    /// The span of a batch of `method` that has just been sealed; `None` if
    /// it is not traced. `callers` are those of its callers' spans that are
    /// recorded, the oldest first.
    #[must_use]
    pub fn begin(
        &self,
        method: &str,
        callers: &[TraceContext],
        sent: impl FnOnce() -> Sent,
    ) -> Option<BatchSpan> {
        let one_in = self.one_in.map(NonZeroU32::get);
        if callers.is_empty() && one_in.is_none_or(|calls| fastrand::u32(..calls) != 0) {
            return None;
        }
        let sent = sent();
        let links = callers.iter().take(LINKS_MAX);
        let links = links.map(|caller| Link::with_context(remote(*caller)));
        let builder = self
            .tracer
            .span_builder(method.trim_start_matches('/').to_owned())
            .with_kind(SpanKind::Client)
            .with_links(links.collect())
            .with_attributes([
                KeyValue::new("rpc.system", "grpc"),
                KeyValue::new("ferry.batch.entries", i64::from(sent.entries)),
                KeyValue::new("ferry.batch.closed_by", closed_by_name(sent.closed_by)),
                KeyValue::new("ferry.batch.traced_callers", whole(callers.len())),
                KeyValue::new("ferry.limit", i64::from(sent.limit)),
                KeyValue::new("ferry.in_flight", i64::from(sent.in_flight)),
            ]);
        let parent = callers.first().map_or_else(Context::new, |oldest| {
            Context::new().with_remote_span_context(remote(*oldest))
        });
        Some(BatchSpan(self.tracer.build_with_context(builder, &parent)))
    }

    /// Sends what has ended, and nothing after it. It blocks, at most a few
    /// seconds, while the runtime sends.
    pub fn finish(&self) {
        finish(&self.provider);
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        // Not here: this may be a thread that has calls to answer.
        let provider = self.provider.clone();
        let finishing = thread::Builder::new().name("ferry-traces".to_owned());
        if let Err(error) = finishing.spawn(move || finish(&provider)) {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

fn finish(provider: &SdkTracerProvider) {
    use opentelemetry_sdk::error::OTelSdkError::AlreadyShutdown;
    match provider.shutdown_with_timeout(LAST_WORDS) {
        Ok(()) | Err(AlreadyShutdown) => {}
        Err(error) => tracing::warn!(%error, "the last spans were not sent"),
    }
}

/// A batch's span; dropped before its end, it ends without a status.
#[derive(Debug)]
pub struct BatchSpan(Span);

impl BatchSpan {
    /// Itself, for the upstream to go on from.
    #[must_use]
    pub fn context(&self) -> TraceContext {
        let context = self.0.span_context();
        TraceContext {
            trace: u128::from_be_bytes(context.trace_id().to_bytes()),
            span: u64::from_be_bytes(context.span_id().to_bytes()),
        }
    }

    /// The batch was answered, with `wire` spent on merging it if that is known.
    pub fn end(mut self, failed: Option<&Status>, wire: Option<Duration>) {
        if let Some(wire) = wire {
            let micros = i64::try_from(wire.as_micros()).unwrap_or(i64::MAX);
            self.0.set_attribute(KeyValue::new("ferry.wire_us", micros));
        }
        let code = failed.map_or(0, |status| status.code() as i64);
        let code = KeyValue::new("rpc.grpc.status_code", code);
        self.0.set_attribute(code);
        if let Some(status) = failed {
            let why = status.message().to_owned();
            self.0.set_status(SpanStatus::error(why));
        }
        self.0.end();
    }
}

fn remote(context: TraceContext) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(context.trace.to_be_bytes()),
        SpanId::from_bytes(context.span.to_be_bytes()),
        TraceFlags::SAMPLED,
        true,
        TraceState::NONE,
    )
}

fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
