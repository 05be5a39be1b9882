//! Spans of batches, as an OpenTelemetry collector of the test's own gets them.

use std::{
    fs,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use ferry::batch::TraceContext;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tonic::{
    Code, Request, Response, Status,
    transport::{Certificate, Identity, Server, ServerTlsConfig, server::TcpIncoming},
};

use crate::support::{
    authority::Authority,
    client::{CREATE, grpc, old_form, with},
    served::{ANY, Served, one_at_a_time, policy_file},
    soon,
    upstream::{Upstream, refusal},
};

/// Takes spans over OTLP, and keeps them.
struct Collector {
    address: SocketAddr,
    spans: Spans,
    server: JoinHandle<()>,
}

#[derive(Clone, Default)]
struct Spans {
    kept: Arc<Mutex<Vec<Span>>>,
    /// The `authorization` of each request that had one.
    shown: Arc<Mutex<Vec<String>>>,
}

#[tonic::async_trait]
impl TraceService for Spans {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let shown = request.metadata().get("authorization");
        let shown = shown.map(|shown| shown.to_str().expect("it is text").to_owned());
        self.shown.lock().unwrap().extend(shown);
        let resources = request.into_inner().resource_spans;
        let scopes = resources.into_iter().flat_map(|from| from.scope_spans);
        let mut kept = self.kept.lock().unwrap();
        kept.extend(scopes.flat_map(|scope| scope.spans));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start() -> Self {
        Self::on(Server::builder()).await
    }

    /// One that has a certificate of `authority`, and wants one.
    async fn secured(authority: &Authority) -> Self {
        let pem = |name: &str| fs::read(authority.path(name)).expect("it was written");
        authority.sign("collector");
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(
                pem("collector.pem"),
                pem("collector.key"),
            ))
            .client_ca_root(Certificate::from_pem(pem("ca.pem")));
        let server = Server::builder().tls_config(tls);
        Self::on(server.expect("they belong together")).await
    }

    async fn on(mut server: Server) -> Self {
        let listener = TcpListener::bind(ANY).await.expect("loopback has ports");
        let address = listener.local_addr().expect("it is bound");
        let spans = Spans::default();
        let service = TraceServiceServer::new(spans.clone());
        let serving = server
            .add_service(service)
            .serve_with_incoming(TcpIncoming::from(listener));
        Self {
            address,
            spans,
            server: tokio::spawn(async move { serving.await.expect("it serves") }),
        }
    }

    /// What it has been sent once `served` has ended, which sends the rest.
    async fn spans_of(self, served: Served) -> Vec<Span> {
        soon("it drains", served.stack.drain(Duration::from_secs(60))).await;
        self.server.abort();
        std::mem::take(&mut *self.spans.kept.lock().unwrap())
    }
}

/// A sidecar in front of `upstream` that sends spans to `collector`.
async fn traced(upstream: SocketAddr, collector: SocketAddr, more: &str) -> Served {
    traced_to(upstream, &format!("endpoint: 'http://{collector}'{more}")).await
}

async fn traced_to(upstream: SocketAddr, traces: &str) -> Served {
    let yaml = policy_file(ANY, ANY, &one_at_a_time(upstream));
    Served::by(&format!("{yaml}telemetry: {{traces: {{{traces}}}}}\n")).await
}

fn whole(span: &Span, key: &str) -> i64 {
    let attribute = span.attributes.iter().find(|one| one.key == key);
    let value = attribute.and_then(|one| one.value.as_ref()?.value.clone());
    match value {
        Some(Value::IntValue(whole)) => whole,
        other => panic!("{key}: {other:?} in {span:?}"),
    }
}

fn context_of(trace: &[u8], span: &[u8]) -> TraceContext {
    TraceContext {
        trace: u128::from_be_bytes(trace.try_into().expect("16 bytes")),
        span: u64::from_be_bytes(span.try_into().expect("8 bytes")),
    }
}

const OLDEST: TraceContext = TraceContext {
    trace: 0xa1,
    span: 0xa2,
};
const LATER: TraceContext = TraceContext {
    trace: 0xb1,
    span: 0xb2,
};

#[tokio::test]
async fn a_batch_has_a_span_that_is_linked_to_its_traced_callers_and_goes_on_upstream() {
    let (collector, upstream) = (Collector::start().await, Upstream::holding().await);
    let served = traced(upstream.address, collector.address, "").await;
    let line = served.line().await;
    let ask = async |client: &str, context: Option<String>| {
        let metadata = context.as_deref().map(|context| ("traceparent", context));
        let metadata: Vec<_> = metadata.into_iter().collect();
        line.send(with(CREATE, &metadata), old_form(client, b"s"))
            .await
    };
    let unrecorded = LATER.to_string().replace("-01", "-00");
    let first = ask("first", Some(unrecorded.clone())).await;
    upstream.until_batches(1).await;
    let calls = [
        first,
        ask("oldest", Some(OLDEST.to_string())).await,
        ask("unrecorded", Some(unrecorded)).await,
        ask("untraced", None).await,
        ask("later", Some(LATER.to_string())).await,
    ];
    served.until_queued(4).await;
    upstream.answer_all();
    for call in calls {
        let answer = call.answer().await.expect("an answer, not a reset");
        assert_eq!(answer.status().code(), Code::Ok);
    }
    drop(line);
    let spans = collector.spans_of(served).await;
    let [span] = &spans[..] else {
        panic!("of the two batches one had a traced caller: {spans:#?}");
    };
    assert_eq!(span.name, CREATE[1..]);
    assert_eq!(span.kind, SpanKind::Client as i32);
    assert_eq!(
        context_of(&span.trace_id, &span.parent_span_id),
        OLDEST,
        "it is in the trace of its oldest traced caller"
    );
    let links = span.links.iter();
    let links: Vec<_> = links
        .map(|link| context_of(&link.trace_id, &link.span_id))
        .collect();
    assert_eq!(links, [OLDEST, LATER]);
    assert_eq!(whole(span, "ferry.batch.entries"), 4);
    assert_eq!(whole(span, "ferry.limit"), 1);
    assert_eq!(whole(span, "rpc.grpc.status_code"), 0);
    assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
    let sent = upstream.batches();
    let own = context_of(&span.trace_id, &span.span_id).to_string();
    assert_eq!(sent[1].headers["traceparent"], own.as_str());
    assert!(!sent[0].headers.contains_key("traceparent"));
}

#[tokio::test]
async fn a_policy_may_have_untraced_batches_recorded_too_and_a_failed_one_says_so() {
    let (collector, upstream) = (Collector::start().await, Upstream::answering().await);
    let served = traced(upstream.address, collector.address, ", one_in: 1").await;
    let line = served.line().await;
    line.create("good", b"s").await;
    upstream.refuse(refusal());
    let bad = line.ask(grpc(CREATE), old_form("bad", b"s")).await;
    drop(line);
    let spans = collector.spans_of(served).await;
    let [good, failed] = &spans[..] else {
        panic!("two batches: {spans:#?}");
    };
    for span in [good, failed] {
        assert!(span.parent_span_id.is_empty() && span.links.is_empty());
    }
    assert_ne!(good.trace_id, failed.trace_id);
    let code = bad.status().code();
    assert_ne!(code, Code::Ok);
    assert_eq!(whole(failed, "rpc.grpc.status_code"), code as i64);
    let status = failed.status.as_ref().expect("it failed");
    assert_eq!(status.code, StatusCode::Error as i32);
}

/// Spans of every batch, to a collector of `theirs` by the authority `ours`.
async fn traced_inside_tls(ours: &Authority, theirs: &Authority) -> (Vec<Span>, Vec<String>) {
    let (collector, upstream) = (
        Collector::secured(theirs).await,
        Upstream::answering().await,
    );
    ours.sign("ferry");
    fs::write(ours.path("token"), "Bearer of-spans\n").expect("it is writable");
    let traces = format!(
        "endpoint: 'https://{}', one_in: 1, header_files: {{authorization: {}}}, \
         tls: {{ca: {}, cert: {}, key: {}, server_name: localhost}}",
        collector.address,
        ours.path("token"),
        ours.path("ca.pem"),
        ours.path("ferry.pem"),
        ours.path("ferry.key"),
    );
    let served = traced_to(upstream.address, &traces).await;
    served.line().await.create("client", b"s").await;
    let shown = Arc::clone(&collector.spans.shown);
    let spans = collector.spans_of(served).await;
    let shown = std::mem::take(&mut *shown.lock().unwrap());
    (spans, shown)
}

#[tokio::test]
async fn spans_go_inside_tls_with_ferrys_certificate_and_a_header_from_a_file() {
    let authority = Authority::new();
    let (spans, shown) = traced_inside_tls(&authority, &authority).await;
    assert_eq!(spans.len(), 1, "{spans:#?}");
    assert_eq!(shown, ["Bearer of-spans"]);
}

#[tokio::test]
async fn a_collector_that_a_stranger_vouches_for_is_sent_no_span_and_no_header() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (spans, shown) = traced_inside_tls(&ours, &theirs).await;
    assert!(spans.is_empty() && shown.is_empty(), "{spans:#?} {shown:?}");
}

#[tokio::test]
async fn where_no_collector_answers_calls_go_on() {
    let upstream = Upstream::answering().await;
    let nobody = {
        let listener = TcpListener::bind(ANY).await.expect("loopback has ports");
        listener.local_addr().expect("it is bound")
    };
    let served = traced(upstream.address, nobody, ", one_in: 1").await;
    let line = served.line().await;
    for number in 0..100 {
        line.create(&format!("client-{number}"), b"s").await;
    }
}
