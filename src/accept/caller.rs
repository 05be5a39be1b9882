//! What a call's head says of its caller: whether it speaks gRPC, how long it
//! waits, who it is, and whether it wants to know what becomes of its call.

use std::{sync::Arc, time::Instant};

use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode, header, request::Parts, uri::Authority,
};

use super::{
    answer::{self, AnswerBody},
    metadata,
};
use crate::{
    batch::TraceContext,
    policy::{Classify, MetadataRules},
    telemetry::{EXPLAIN, TRACEPARENT},
    transport::ClientCertificate,
    upstream::Identity,
};

/// The content type of every gRPC call, which the name of an encoding may follow.
const GRPC: &[u8] = b"application/grpc";

/// When the caller stops waiting: counted from its call's arrival, not from
/// the last byte.
pub(super) fn deadline(headers: &HeaderMap) -> Option<Instant> {
    let timeout = metadata::deadline(headers)?;
    tokio::time::Instant::now().into_std().checked_add(timeout)
}

/// gRPC over HTTP/2 is a POST of `application/grpc`, or of that and the name of
/// an encoding (`+proto`); anything else is told so in HTTP's own terms.
pub(super) fn not_grpc<B>(request: &Request<B>) -> Option<Response<AnswerBody>> {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let content_type = content_type.map_or(&b""[..], |value| value.as_bytes());
    let encoding = content_type.strip_prefix(GRPC);
    if request.method() != http::Method::POST {
        let why = format!("method {}: must be POST, as gRPC is\n", request.method());
        let mut response = answer::http(StatusCode::METHOD_NOT_ALLOWED, why);
        let post = HeaderValue::from_static("POST");
        response.headers_mut().insert(header::ALLOW, post);
        Some(response)
    } else if !matches!(encoding, Some([] | [b'+' | b';', ..])) {
        let why = format!(
            "content-type \"{}\": must be application/grpc; use a gRPC client\n",
            content_type.escape_ascii()
        );
        Some(answer::http(StatusCode::UNSUPPORTED_MEDIA_TYPE, why))
    } else {
        None
    }
}

/// Why a call goes alone whose message is not protobuf.
pub(super) const ENCODING: &str = "encoding";

/// Whether a gRPC call's message is protobuf: what is of another encoding
/// (`+json`) can be read by whoever it is for alone.
pub(super) fn is_protobuf(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE);
    let content_type = content_type.map_or(&b""[..], |value| value.as_bytes());
    let encoding = content_type.strip_prefix(GRPC);
    let encoding = encoding.map(|rest| rest.strip_prefix(b"+proto").unwrap_or(rest));
    matches!(encoding, Some([] | [b';', ..]))
}

/// The call has metadata that no batch can carry.
pub(super) struct Lone;

/// What a batch has to know of a caller.
pub(super) struct Caller {
    /// The metadata that stands for it.
    pub(super) identity: Option<Arc<Identity>>,
    /// To whom its call is addressed, where that counts.
    pub(super) authority: Option<Authority>,
    /// It asks what becomes of its call.
    pub(super) asks: bool,
    /// Its span, where it has one that is recorded.
    pub(super) trace: Option<TraceContext>,
}

/// Reads the metadata once. Nearly all calls have none that counts, and then
/// nothing is allocated.
pub(super) fn caller(rules: &MetadataRules, head: &Parts) -> Result<Caller, Lone> {
    let authority = head.uri.authority().filter(|_| rules.by_authority());
    let mut identity: Option<HeaderMap> = None;
    let (mut asks, mut trace) = (false, None);
    for (name, value) in &head.headers {
        match rules.classify(name.as_str()) {
            Classify::Ignore => match name.as_str() {
                EXPLAIN => asks = true,
                TRACEPARENT => trace = TraceContext::sampled(value.as_bytes()),
                _ => {}
            },
            Classify::Alone => return Err(Lone),
            Classify::Identity => {
                let identity = identity.get_or_insert_default();
                identity.append(name, value.clone());
            }
        }
    }
    let peer = head.extensions.get::<ClientCertificate>();
    let peer = peer.filter(|_| rules.by_certificate());
    if peer.is_some() {
        identity.get_or_insert_default();
    }
    let of_peer = peer.map_or(&[][..], ClientCertificate::digest);
    Ok(Caller {
        identity: identity.map(|headers| Arc::new(Identity::new(headers, of_peer))),
        authority: authority.cloned(),
        asks,
        trace,
    })
}
