//! Someone else's service: one batch, one unary call with the merged message.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::{
    HeaderValue, Request, Response, Uri, header,
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body::Body;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use tonic::Status;
use tower::{BoxError, Service};

use super::{
    BatchReply, Call, Led, RemoteClient, Target, late,
    leader::{HOPS, Hint, no_leader},
    reply::{given, of_split},
};
use crate::{
    accept::frame::{self, HEADER, Unary},
    batch::Batch,
    telemetry::TRACEPARENT,
};

/// Sends batches to a remote service.
#[derive(Clone, Debug)]
pub struct Remote {
    client: RemoteClient,
    led: Option<Led>,
    targets: Arc<[Target]>,
    timeout: Duration,
}

impl Remote {
    /// An upstream for the methods of a policy, in its order. A batch without
    /// an answer within `timeout` is DEADLINE_EXCEEDED, and is answered so when
    /// the upstream answers, or after as long again.
    #[must_use]
    pub fn new(client: RemoteClient, targets: Vec<Target>, timeout: Duration) -> Self {
        Self {
            client,
            led: None,
            targets: targets.into(),
            timeout,
        }
    }

    /// The same, and batches go to whichever endpoint leads.
    #[must_use]
    pub fn led(mut self, led: Led) -> Self {
        self.led = Some(led);
        self
    }
}

impl Service<Batch<Call>> for Remote {
    type Response = BatchReply;
    type Error = Status;
    type Future = BoxFuture<'static, Result<BatchReply, Status>>;

    /// Always ready: how much is in flight is the limiter's business.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, batch: Batch<Call>) -> Self::Future {
        let timeout = self.timeout;
        let (client, led) = (self.client.clone(), self.led.clone());
        let targets = Arc::clone(&self.targets);
        Box::pin(async move {
            let target = &targets[batch.requests[0].method];
            // The upstream is told when nobody waits any more; whether it can
            // stop then is its own business.
            let given_up = tokio::time::Instant::now() + timeout;
            let deadline = batch
                .deadline
                .map_or(given_up, |at| given_up.min(at.into()));
            let answer = async {
                match &led {
                    Some(led) => {
                        let patience = target.attempt_timeout.unwrap_or(timeout);
                        ask_leader(led, target, &batch, deadline, patience).await
                    }
                    None => ask(&client, target, &batch, deadline).await,
                }
            };
            split(target, &batch, late(timeout, answer).await?)
        })
    }
}

async fn ask(
    client: &RemoteClient,
    target: &Target,
    batch: &Batch<Call>,
    deadline: tokio::time::Instant,
) -> Result<Bytes, Status> {
    let request = request(target, batch, deadline);
    batch.handed_over.on(tokio::time::Instant::now().into_std());
    let response = client.send(request, Some(deadline)).await?;
    read_reply(response, target.max_reply_bytes).await
}

/// Asks who is thought to lead, and whoever it names instead. One that does
/// not lead took nothing, so asking the next is no second time; one that is
/// silent longer than `patience` is not asked by the next batch.
async fn ask_leader(
    led: &Led,
    target: &Target,
    batch: &Batch<Call>,
    deadline: tokio::time::Instant,
    patience: Duration,
) -> Result<Bytes, Status> {
    for _ in 0..HOPS {
        let until = tokio::time::Instant::now() + patience;
        let answer = led.ask(Some(until), |client| ask(client, target, batch, deadline));
        let answer = answer.await;
        match answer.as_ref().err().and_then(|status| led.learn(status)) {
            None => return answer,
            Some(Hint::Endpoint) => {}
            Some(Hint::Nobody) => break,
        }
    }
    Err(no_leader())
}

/// The reply, as the batch's callers will hear it.
fn split(target: &Target, batch: &Batch<Call>, reply: Bytes) -> Result<BatchReply, Status> {
    let pieces = batch.requests.iter().map(|call| &call.piece);
    let parts = target.plan.split(&reply, pieces);
    parts
        .map(BatchReply::from)
        .map_err(|error| of_split(&error))
}

fn request(
    target: &Target,
    batch: &Batch<Call>,
    deadline: tokio::time::Instant,
) -> Request<Full<Bytes>> {
    let pieces = || batch.requests.iter().map(|call| &call.piece);
    let len = target.plan.merged_len(pieces());
    let mut framed = BytesMut::with_capacity(HEADER + len);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(len).expect("a batch is bounded far below 4 GiB"));
    target.plan.merge(pieces(), &mut framed);

    let mut request = Request::new(Full::new(framed.freeze()));
    *request.method_mut() = http::Method::POST;
    *request.version_mut() = http::Version::HTTP_2;
    *request.uri_mut() = addressed(target, batch.requests[0].authority.as_ref());
    let headers = request.headers_mut();
    if let Some(identity) = &batch.requests[0].identity {
        headers.clone_from(&identity.headers);
    }
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    headers.insert("grpc-timeout", timeout_header(deadline));
    if let Some(trace) = batch.trace {
        let trace = HeaderValue::try_from(trace.to_string());
        headers.insert(TRACEPARENT, trace.expect("digits and dashes"));
    }
    request
}

/// The method, at the host that the batch's callers named, if that counts; the
/// endpoint's own name stands in for none.
fn addressed(target: &Target, host: Option<&Authority>) -> Uri {
    let mut uri = http::uri::Parts::default();
    let path = PathAndQuery::try_from(&*target.path);
    uri.path_and_query = Some(path.expect("a method's path was checked"));
    if host.is_some() {
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = host.cloned();
    }
    Uri::from_parts(uri).expect("scheme, authority and path make a URI")
}

/// What remains until the deadline. gRPC allows eight digits.
fn timeout_header(deadline: tokio::time::Instant) -> HeaderValue {
    let remains = deadline.saturating_duration_since(tokio::time::Instant::now());
    let (value, unit) = match remains.as_micros() {
        micros if micros < 100_000_000 => (micros, 'u'),
        micros => ((micros / 1000).min(99_999_999), 'm'),
    };
    HeaderValue::try_from(format!("{value}{unit}")).expect("digits and a letter")
}

/// The reply's one message; the status stands in the trailers, or in the
/// headers of a reply that has nothing else.
async fn read_reply<B>(response: Response<B>, max_bytes: usize) -> Result<Bytes, Status>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    if response.status() != http::StatusCode::OK {
        return Err(Status::unknown(format!(
            "the upstream answered with HTTP {}: is it a gRPC service?",
            response.status()
        )));
    }
    if let Some(status) = Status::from_header_map(response.headers()) {
        return finish(status, None);
    }
    let body = Limited::new(response.into_body(), max_bytes.saturating_add(HEADER))
        .collect()
        .await;
    let body = body.map_err(|error| {
        let what = match error.is::<LengthLimitError>() {
            true => format!("has more than the {max_bytes} bytes of reply.max_bytes in the policy"),
            false => format!("broke off: {error}"),
        };
        Status::unknown(format!(
            "the upstream's reply {what}; the batch may have taken effect"
        ))
    })?;
    let status = body.trailers().and_then(Status::from_header_map);
    let status =
        status.ok_or_else(|| Status::unknown("the upstream's reply has no grpc-status"))?;
    finish(status, Some(body.to_bytes()))
}

fn finish(mut status: Status, body: Option<Bytes>) -> Result<Bytes, Status> {
    if status.code() != tonic::Code::Ok {
        // The batch's own trailers are no single caller's business.
        *status.metadata_mut() = tonic::metadata::MetadataMap::new();
        return Err(given(status));
    }
    match frame::unary(&body.unwrap_or_default()) {
        Ok(Unary::Message(message)) => Ok(message),
        Ok(Unary::Compressed(_)) => Err(Status::internal(
            "the upstream compressed its reply, which was not offered",
        )),
        Err(error) => Err(Status::internal(format!("the upstream's reply: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    /// An upstream's OK with a message of so many bytes.
    fn reply(bytes: usize) -> Response<impl Body<Data = Bytes, Error = std::convert::Infallible>> {
        let mut framed = BytesMut::new();
        framed.put_u8(0);
        framed.put_u32(u32::try_from(bytes).expect("a test's message is small"));
        framed.put_bytes(7, bytes);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let body = Full::new(framed.freeze());
        Response::new(body.with_trailers(std::future::ready(Some(Ok(trailers)))))
    }

    #[tokio::test]
    async fn a_reply_is_read_up_to_the_policys_bound_and_one_past_it_names_the_key() {
        const BOUND: usize = 5 << 20;
        let read = read_reply(reply(BOUND), BOUND).await;
        assert_eq!(read.map(|message| message.len()).ok(), Some(BOUND));
        let refused = read_reply(reply(BOUND + 1), BOUND).await;
        let status = refused.expect_err("it is past the bound");
        assert_eq!(status.code(), tonic::Code::Unknown);
        assert!(status.message().contains("reply.max_bytes"), "{status}");
    }
}
