//! gRPC's interoperability cases on tonic's client.

use std::{net::SocketAddr, time::Duration};

use futures_util::{StreamExt, future, stream};
use tokio::sync::mpsc;
use tonic::{
    Code, Request, Response, Status, Streaming, codec::CompressionEncoding, metadata::MetadataMap,
    transport::Channel,
};

use super::proto::{
    BoolValue, EchoStatus, Empty, Payload, ResponseParameters, SimpleRequest,
    StreamingInputCallRequest, StreamingOutputCallRequest, StreamingOutputCallResponse,
    test_service_client::TestServiceClient,
    unimplemented_service_client::UnimplementedServiceClient,
};
use crate::support::soon;

const SENT: usize = 271_828;
const WANTED: i32 = 314_159;
const INPUTS: [usize; 4] = [27_182, 8, 1_828, 45_904];
const OUTPUTS: [i32; 4] = [31_415, 9, 2_653, 58_979];
const SPECIAL: &str = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n";
const INITIAL: &str = "x-grpc-test-echo-initial";
const TRAILING: &str = "x-grpc-test-echo-trailing-bin";

/// What the server makes of a message that should have been compressed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Refuses {
    Uncompressed,
    Nothing,
}

type Client = TestServiceClient<Channel>;

/// Plays every case, and returns the names of those that passed: all, since
/// one that does not panics.
pub(super) async fn all(address: SocketAddr, refuses: Refuses) -> Vec<&'static str> {
    let channel = Channel::from_shared(format!("http://{address}")).expect("an address");
    let channel = channel.connect().await.expect("ferry listens");
    let plain = TestServiceClient::new(channel.clone());
    let gzip = plain
        .clone()
        .send_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Gzip);
    let mut passed = Vec::new();
    macro_rules! play {
        ($($case:ident($($argument:expr),*),)*) => {
            $(soon(stringify!($case), $case($($argument),*)).await;
            passed.push(stringify!($case));)*
        };
    }
    play! {
        empty_unary(plain.clone()),
        large_unary(plain.clone()),
        client_compressed_unary(plain.clone(), gzip.clone(), refuses),
        server_compressed_unary(gzip.clone()),
        client_streaming(plain.clone()),
        client_compressed_streaming(plain.clone(), gzip.clone(), refuses),
        server_streaming(plain.clone()),
        server_compressed_streaming(gzip.clone()),
        ping_pong(plain.clone()),
        empty_stream(plain.clone()),
        custom_metadata(plain.clone()),
        status_code_and_message(plain.clone()),
        special_status_message(plain.clone()),
        unimplemented_method(plain.clone()),
        unimplemented_service(channel),
        cancel_after_begin(plain.clone()),
        cancel_after_first_response(plain.clone()),
        timeout_on_sleeping_server(plain),
    }
    passed
}

fn truth(value: bool) -> Option<BoolValue> {
    Some(BoolValue { value })
}

fn zeroes(size: usize) -> Option<Payload> {
    Some(Payload {
        r#type: 0,
        body: vec![0; size],
    })
}

fn large() -> SimpleRequest {
    SimpleRequest {
        response_size: WANTED,
        payload: zeroes(SENT),
        ..SimpleRequest::default()
    }
}

fn output(sizes: &[i32], compressed: &[bool]) -> StreamingOutputCallRequest {
    let parameters = sizes
        .iter()
        .enumerate()
        .map(|(place, size)| ResponseParameters {
            size: *size,
            interval_us: 0,
            compressed: compressed.get(place).and_then(|value| truth(*value)),
        });
    StreamingOutputCallRequest {
        response_parameters: parameters.collect(),
        ..StreamingOutputCallRequest::default()
    }
}

fn size(reply: &StreamingOutputCallResponse) -> i32 {
    let payload = reply.payload.as_ref().expect("a payload");
    payload.body.len().try_into().expect("a size")
}

#[track_caller]
fn fails<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code) -> Status {
    let status = answer.expect_err("it is to fail");
    assert_eq!(status.code(), code, "{status}");
    status
}

async fn empty_unary(mut client: Client) {
    client.empty_call(Empty {}).await.expect("an answer");
}

/// A large call whose reply is as large as it was asked to be.
async fn answered(
    client: &mut Client,
    request: impl tonic::IntoRequest<SimpleRequest>,
) -> MetadataMap {
    let answer = client.unary_call(request).await.expect("an answer");
    let (metadata, reply, _) = answer.into_parts();
    let payload = reply.payload.expect("a payload");
    assert_eq!(payload.body.len(), WANTED as usize);
    metadata
}

async fn large_unary(mut client: Client) {
    answered(&mut client, large()).await;
}

async fn client_compressed_unary(mut plain: Client, mut gzip: Client, refuses: Refuses) {
    let expecting = |value| SimpleRequest {
        expect_compressed: truth(value),
        ..large()
    };
    if refuses == Refuses::Uncompressed {
        let probe = plain.unary_call(expecting(true)).await;
        fails(probe, Code::InvalidArgument);
    }
    answered(&mut gzip, expecting(true)).await;
    answered(&mut plain, expecting(false)).await;
}

async fn server_compressed_unary(mut gzip: Client) {
    for compressed in [true, false] {
        let request = SimpleRequest {
            response_compressed: truth(compressed),
            ..large()
        };
        let metadata = answered(&mut gzip, request).await;
        if compressed {
            assert_eq!(metadata.get("grpc-encoding").expect("it says so"), "gzip");
        }
    }
}

async fn inputs(client: &mut Client, expecting: Option<BoolValue>) -> Result<i32, Status> {
    let request = move |size| StreamingInputCallRequest {
        payload: zeroes(size),
        expect_compressed: expecting,
    };
    let requests = stream::iter(INPUTS.map(request));
    let answer = client.streaming_input_call(requests).await?;
    Ok(answer.into_inner().aggregated_payload_size)
}

async fn client_streaming(mut client: Client) {
    let sum = inputs(&mut client, None).await.expect("an answer");
    assert_eq!(sum, 74_922);
}

async fn client_compressed_streaming(mut plain: Client, mut gzip: Client, refuses: Refuses) {
    if refuses == Refuses::Uncompressed {
        fails(inputs(&mut plain, truth(true)).await, Code::InvalidArgument);
    }
    let sum = inputs(&mut gzip, truth(true)).await.expect("an answer");
    assert_eq!(sum, 74_922);
}

async fn sizes(mut replies: Streaming<StreamingOutputCallResponse>) -> Vec<i32> {
    let mut sizes = Vec::new();
    while let Some(reply) = replies.message().await.expect("a reply") {
        sizes.push(size(&reply));
    }
    sizes
}

async fn server_streaming(mut client: Client) {
    let answer = client.streaming_output_call(output(&OUTPUTS, &[])).await;
    let replies = answer.expect("an answer").into_inner();
    assert_eq!(sizes(replies).await, OUTPUTS);
}

async fn server_compressed_streaming(mut gzip: Client) {
    let request = output(&OUTPUTS[..2], &[true, false]);
    let answer = gzip.streaming_output_call(request).await;
    let answer = answer.expect("an answer");
    let encoding = answer.metadata().get("grpc-encoding");
    assert_eq!(encoding.expect("it says so"), "gzip");
    assert_eq!(sizes(answer.into_inner()).await, OUTPUTS[..2]);
}

type Saying = mpsc::UnboundedSender<StreamingOutputCallRequest>;
type Hearing = Response<Streaming<StreamingOutputCallResponse>>;

/// A bidirectional stream whose requests are said one by one.
async fn dialogue(
    client: &mut Client,
    with: impl FnOnce(&mut MetadataMap),
) -> Result<(Saying, Hearing), Status> {
    let (saying, mut said) = mpsc::unbounded_channel();
    let requests = stream::poll_fn(move |cx| said.poll_recv(cx));
    let mut request = Request::new(requests);
    with(request.metadata_mut());
    Ok((saying, client.full_duplex_call(request).await?))
}

fn say(saying: &Saying, request: StreamingOutputCallRequest) {
    saying.send(request).expect("the call is open");
}

async fn ping_pong(mut client: Client) {
    let opened = dialogue(&mut client, |_| {}).await;
    let (saying, hearing) = opened.expect("an answer");
    let mut hearing = hearing.into_inner();
    for (sent, wanted) in INPUTS.into_iter().zip(OUTPUTS) {
        let request = StreamingOutputCallRequest {
            payload: zeroes(sent),
            ..output(&[wanted], &[])
        };
        say(&saying, request);
        let heard = hearing.message().await.expect("a reply");
        assert_eq!(size(&heard.expect("not the end")), wanted);
    }
    drop(saying);
    assert_eq!(hearing.message().await.expect("a good end"), None);
}

async fn empty_stream(mut client: Client) {
    let opened = client.full_duplex_call(stream::empty()).await;
    let mut hearing = opened.expect("an answer").into_inner();
    assert_eq!(hearing.message().await.expect("a good end"), None);
}

fn mark(metadata: &mut MetadataMap) {
    let initial = "test_initial_metadata_value".parse();
    metadata.insert(INITIAL, initial.expect("a value"));
    let trailing = tonic::metadata::MetadataValue::from_bytes(&[0xab; 3]);
    metadata.insert_bin(TRAILING, trailing);
}

#[track_caller]
fn is_marked(initial: &MetadataMap, trailing: &MetadataMap) {
    let said = initial.get(INITIAL).expect("the initial metadata");
    assert_eq!(said, "test_initial_metadata_value");
    let bytes = trailing.get_bin(TRAILING).expect("the trailing metadata");
    assert_eq!(bytes.to_bytes().expect("well-formed"), &[0xab; 3][..]);
}

async fn custom_metadata(mut client: Client) {
    let mut request = Request::new(large());
    mark(request.metadata_mut());
    // tonic's client puts a unary reply's trailers among its metadata.
    let metadata = answered(&mut client, request).await;
    is_marked(&metadata, &metadata);
    let opened = dialogue(&mut client, mark).await;
    let (saying, hearing) = opened.expect("an answer");
    say(&saying, output(&[WANTED], &[]));
    drop(saying);
    let (initial, mut hearing, _) = hearing.into_parts();
    let heard = hearing.message().await.expect("a reply");
    assert_eq!(size(&heard.expect("not the end")), WANTED);
    assert_eq!(hearing.message().await.expect("a good end"), None);
    let trailing = hearing.trailers().await.expect("a good end");
    is_marked(&initial, &trailing.expect("trailers"));
}

fn ending(message: &str) -> Option<EchoStatus> {
    Some(EchoStatus {
        code: 2,
        message: message.to_owned(),
    })
}

async fn status_code_and_message(mut client: Client) {
    let text = "test status message";
    let request = SimpleRequest {
        response_status: ending(text),
        ..SimpleRequest::default()
    };
    let status = fails(client.unary_call(request).await, Code::Unknown);
    assert_eq!(status.message(), text);
    let request = StreamingOutputCallRequest {
        response_status: ending(text),
        ..StreamingOutputCallRequest::default()
    };
    let answer = client.full_duplex_call(stream::iter([request])).await;
    let ended = match answer {
        Ok(hearing) => hearing.into_inner().message().await,
        Err(status) => Err(status),
    };
    assert_eq!(fails(ended, Code::Unknown).message(), text);
}

async fn special_status_message(mut client: Client) {
    let request = SimpleRequest {
        response_status: ending(SPECIAL),
        ..SimpleRequest::default()
    };
    let status = fails(client.unary_call(request).await, Code::Unknown);
    assert_eq!(status.message(), SPECIAL);
}

async fn unimplemented_method(mut client: Client) {
    let answer = client.unimplemented_call(Empty {}).await;
    fails(answer, Code::Unimplemented);
}

async fn unimplemented_service(channel: Channel) {
    let mut client = UnimplementedServiceClient::new(channel);
    let answer = client.unimplemented_call(Empty {}).await;
    fails(answer, Code::Unimplemented);
}

/// tonic cancels a call by dropping it; that nothing hangs is for the cases
/// after this one to show.
async fn cancel_after_begin(mut client: Client) {
    let call = client.streaming_input_call(stream::pending());
    let soon = tokio::time::sleep(Duration::from_millis(1));
    let first = future::select(Box::pin(call), Box::pin(soon)).await;
    assert!(matches!(first, future::Either::Right(_)), "nobody answers");
}

async fn cancel_after_first_response(mut client: Client) {
    let opened = dialogue(&mut client, |_| {}).await;
    let (saying, hearing) = opened.expect("an answer");
    say(&saying, output(&OUTPUTS[..1], &[]));
    let mut hearing = hearing.into_inner();
    let heard = hearing.next().await.expect("not the end");
    assert_eq!(size(&heard.expect("a reply")), OUTPUTS[0]);
    drop((saying, hearing));
}

async fn timeout_on_sleeping_server(mut client: Client) {
    let mut asked = output(&[31_415], &[]);
    asked.response_parameters[0].interval_us = 5_000_000;
    let mut request = Request::new(stream::iter([asked]).chain(stream::pending()));
    request.set_timeout(Duration::from_millis(1));
    let ended = match client.full_duplex_call(request).await {
        Ok(hearing) => hearing.into_inner().message().await,
        Err(status) => Err(status),
    };
    let status = ended.expect_err("its time is up");
    // tonic's own timer says CANCELLED, a server's DEADLINE_EXCEEDED.
    let late = [Code::DeadlineExceeded, Code::Cancelled];
    assert!(late.contains(&status.code()), "{status}");
}
