//! gRPC's interoperability service on tonic's server.

use std::{convert::Infallible, net::SocketAddr, pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use http_body_util::BodyExt;
use tokio::net::TcpListener;
use tonic::{
    Code, Request, Response, Status, Streaming, body::Body, codec::CompressionEncoding,
    metadata::MetadataMap, service::Routes, transport::Server,
};
use tower::{ServiceExt, layer::layer_fn, service_fn};

use super::proto::{
    BoolValue, EchoStatus, Empty, Payload, SimpleRequest, SimpleResponse,
    StreamingInputCallRequest, StreamingInputCallResponse, StreamingOutputCallRequest,
    StreamingOutputCallResponse,
    test_service_server::{TestService, TestServiceServer},
};

type Replies = Pin<Box<dyn Stream<Item = Result<StreamingOutputCallResponse, Status>> + Send>>;

/// Serves until the test ends; where.
pub(super) async fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("loopback has free ports");
    let address = listener.local_addr().expect("it is bound");
    let service = TestServiceServer::new(Interop)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    let incoming = stream::unfold(listener, |listener| async {
        let socket = listener.accept().await.map(|(socket, _)| socket);
        Some((socket, listener))
    });
    let layer = layer_fn(|routes: Routes| {
        service_fn(move |request| echo_trailing(routes.clone(), request))
    });
    let server = Server::builder().layer(layer).add_service(service);
    tokio::spawn(server.serve_with_incoming(incoming));
    address
}

struct Interop;

#[tonic::async_trait]
impl TestService for Interop {
    type StreamingOutputCallStream = Replies;
    type FullDuplexCallStream = Replies;

    async fn empty_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Ok(Response::new(Empty {}))
    }

    async fn unary_call(
        &self,
        request: Request<SimpleRequest>,
    ) -> Result<Response<SimpleResponse>, Status> {
        let asked = request.get_ref();
        compressed_as_expected(request.metadata(), asked.expect_compressed.as_ref())?;
        end_as_asked(asked.response_status.as_ref())?;
        let mut response = Response::new(SimpleResponse {
            payload: Some(zeroes(asked.response_size)),
        });
        if !is_true(asked.response_compressed.as_ref()) {
            response.disable_compression();
        }
        echo_initial(request.metadata(), response.metadata_mut());
        Ok(response)
    }

    async fn streaming_output_call(
        &self,
        request: Request<StreamingOutputCallRequest>,
    ) -> Result<Response<Replies>, Status> {
        Ok(Response::new(outputs(request.into_inner())))
    }

    async fn streaming_input_call(
        &self,
        request: Request<Streaming<StreamingInputCallRequest>>,
    ) -> Result<Response<StreamingInputCallResponse>, Status> {
        let metadata = request.metadata().clone();
        let mut requests = request.into_inner();
        let mut size = 0;
        while let Some(asked) = requests.message().await? {
            compressed_as_expected(&metadata, asked.expect_compressed.as_ref())?;
            size += asked.payload.map_or(0, |payload| payload.body.len());
        }
        Ok(Response::new(StreamingInputCallResponse {
            aggregated_payload_size: size.try_into().expect("a small sum"),
        }))
    }

    async fn full_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<Replies>, Status> {
        let sent = request.metadata().clone();
        // Only the case of the sleeping server has a timeout. It sleeps before
        // it says anything, because tonic's timers on both sides end with the
        // reply's head: behind a head that was quicker, nobody would time out.
        if sent.contains_key("grpc-timeout") {
            tokio::time::sleep(ASLEEP).await;
        }
        let replies = request.into_inner().flat_map(|asked| match asked {
            Ok(asked) => outputs(asked),
            Err(status) => failed(status),
        });
        let mut response = Response::new(Box::pin(replies) as Replies);
        echo_initial(&sent, response.metadata_mut());
        Ok(response)
    }

    async fn unimplemented_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Err(Status::unimplemented("no server has it"))
    }
}

fn zeroes(size: i32) -> Payload {
    Payload {
        r#type: 0,
        body: vec![0; size.try_into().expect("a size")],
    }
}

fn is_true(value: Option<&BoolValue>) -> bool {
    value.is_some_and(|value| value.value)
}

/// Far longer than any caller of a sleeping server waits.
const ASLEEP: Duration = Duration::from_secs(5);

/// Each reply that is asked for, after its pause, and the status in the end.
fn outputs(asked: StreamingOutputCallRequest) -> Replies {
    let end = end_as_asked(asked.response_status.as_ref()).err();
    let replies = stream::iter(asked.response_parameters).then(|wanted| async move {
        let pause = u64::try_from(wanted.interval_us).expect("a time");
        tokio::time::sleep(Duration::from_micros(pause)).await;
        Ok(StreamingOutputCallResponse {
            payload: Some(zeroes(wanted.size)),
        })
    });
    Box::pin(replies.chain(stream::iter(end.map(Err))))
}

fn failed(status: Status) -> Replies {
    Box::pin(stream::iter([Err(status)]))
}

fn end_as_asked(asked: Option<&EchoStatus>) -> Result<(), Status> {
    match asked {
        Some(asked) => Err(Status::new(Code::from_i32(asked.code), &*asked.message)),
        None => Ok(()),
    }
}

fn compressed_as_expected(
    metadata: &MetadataMap,
    expected: Option<&BoolValue>,
) -> Result<(), Status> {
    let encoding = metadata.get("grpc-encoding");
    let compressed = encoding.is_some_and(|encoding| encoding != "identity");
    match is_true(expected) && !compressed {
        true => Err(Status::invalid_argument("the message came uncompressed")),
        false => Ok(()),
    }
}

fn echo_initial(sent: &MetadataMap, back: &mut MetadataMap) {
    const KEY: &str = "x-grpc-test-echo-initial";
    if let Some(value) = sent.get(KEY) {
        back.insert(KEY, value.clone());
    }
}

/// tonic's services say nothing in trailers but a status; so the server does.
async fn echo_trailing(
    service: Routes,
    request: http::Request<Body>,
) -> Result<http::Response<Body>, Infallible> {
    const KEY: &str = "x-grpc-test-echo-trailing-bin";
    let sent = request.headers().get(KEY).cloned();
    let response = service.oneshot(request).await?;
    Ok(response.map(|body| {
        Body::new(body.map_frame(move |mut frame| {
            if let (Some(trailers), Some(sent)) = (frame.trailers_mut(), &sent) {
                trailers.insert(KEY, sent.clone());
            }
            frame
        }))
    }))
}
