//! `grpc.health.v1`: the sidecar's own, and the upstream's passed through;
//! reflection, which is passed through like everything else.

use std::time::Duration;

use ferry::accept::frame::framed;
use prost::Message;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_client::HealthClient,
};

use crate::support::{
    client::{Line, grpc},
    served::Served,
    soon, until,
    upstream::Upstream,
};

const CHECK: &str = "/grpc.health.v1.Health/Check";
const SERVICE: &str = "meta.service.mqtt.MqttService";

async fn asked(line: &Line, service: &str) -> Result<ServingStatus, Code> {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let answer = line
        .ask(grpc(CHECK), framed(&request.encode_to_vec()))
        .await;
    match answer.status().code() {
        Code::Ok => {
            let [message] = &crate::support::client::messages(answer.body)[..] else {
                panic!("a check has one answer");
            };
            let response = HealthCheckResponse::decode(&message[..]).expect("a response");
            Ok(response.status())
        }
        code => Err(code),
    }
}

async fn own(upstream: std::net::SocketAddr) -> Served {
    Served::before_with(upstream, "version: 1\n", "version: 1\nhealth: own\n").await
}

#[tokio::test]
async fn the_sidecars_own_health_is_its_readiness_and_that_of_what_it_batches() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = nobody.local_addr().expect("it is bound");
    drop(nobody);
    let served = own(address).await;
    let line = served.line().await;
    until("it has found nobody there", async || {
        asked(&line, "").await == Ok(ServingStatus::NotServing)
    })
    .await;
    let upstream = Upstream::answering_at(address).await;
    for service in ["", SERVICE] {
        until("it has found its upstream", async || {
            asked(&line, service).await == Ok(ServingStatus::Serving)
        })
        .await;
    }
    assert_eq!(asked(&line, "no.such.Service").await, Err(Code::NotFound));
    assert_eq!(upstream.batches().len(), 0);
}

#[tokio::test]
async fn a_method_of_health_that_ferry_does_not_answer_is_told_as_such() {
    let upstream = Upstream::answering().await;
    for served in [own(upstream.address).await, Served::embedded().await] {
        let line = served.line().await;
        let list = grpc("/grpc.health.v1.Health/List");
        let status = line.ask(list, framed(&[])).await.status();
        assert_eq!(status.code(), Code::Unimplemented, "{status}");
        assert!(status.message().contains("Check and Watch"), "{status}");
        assert!(!status.message().contains("embedded"), "{status}");
    }
}

#[tokio::test]
async fn an_embedded_groups_health_is_told_by_ferry() {
    let served = Served::embedded().await;
    let line = served.line().await;
    assert_eq!(asked(&line, "").await, Ok(ServingStatus::Serving));
    assert_eq!(asked(&line, SERVICE).await, Ok(ServingStatus::Serving));
}

#[tokio::test]
async fn who_watches_is_told_of_the_drain_and_does_not_hold_it_up() {
    let upstream = Upstream::answering().await;
    let served = own(upstream.address).await;
    let to = format!("http://{}", served.address());
    let mut client = HealthClient::new(channel(to).await);
    let watch = client.watch(HealthCheckRequest::default()).await;
    let mut watch = watch.expect("it can be watched").into_inner();
    let mut told = Vec::new();
    let mut next = async || {
        let change = soon("a change", watch.message()).await;
        change.expect("no error").map(|change| change.status())
    };
    while told.last() != Some(&ServingStatus::Serving) {
        told.push(next().await.expect("it goes on"));
    }
    let cut = tokio::spawn(served.stack.drain(Duration::from_secs(50)));
    assert_eq!(next().await, Some(ServingStatus::NotServing));
    assert_eq!(next().await, None, "it ends with the drain");
    assert_eq!(soon("the drain ends", cut).await.expect("it ends"), 0);
}

#[tokio::test]
async fn an_upstreams_health_service_is_passed_through_unless_the_policy_says_own() {
    let (_reporter, health) = tonic_health::server::health_reporter();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("a descriptor set");
    let server = tonic::transport::Server::builder()
        .add_service(health)
        .add_service(reflection);
    let server = tokio::spawn(server.serve_with_incoming(incoming));
    let (through, own) = (Served::before(address).await, own(address).await);
    let (through_line, own_line) = (through.line().await, own.line().await);
    // The upstream knows itself and not the service; ferry knows the service.
    assert_eq!(asked(&through_line, "").await, Ok(ServingStatus::Serving));
    assert_eq!(asked(&through_line, SERVICE).await, Err(Code::NotFound));
    until("it has found its upstream", async || {
        asked(&own_line, SERVICE).await == Ok(ServingStatus::Serving)
    })
    .await;
    assert_eq!(
        reflected(&through).await,
        ["grpc.health.v1.Health", REFLECTION]
    );
    server.abort();
}

async fn channel(to: String) -> tonic::transport::Channel {
    let endpoint = tonic::transport::Endpoint::from_shared(to).expect("an address");
    endpoint.connect().await.expect("it listens")
}

const REFLECTION: &str = "grpc.reflection.v1.ServerReflection";

/// The services that reflection tells of, through ferry.
async fn reflected(served: &Served) -> Vec<String> {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let to = format!("http://{}", served.address());
    let mut client = ServerReflectionClient::new(channel(to).await);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = client
        .server_reflection_info(futures_util::stream::iter([request]))
        .await;
    let mut answers = answers.expect("it is answered").into_inner();
    let answer = answers
        .message()
        .await
        .expect("no error")
        .expect("an answer");
    match answer.message_response {
        Some(MessageResponse::ListServicesResponse(list)) => {
            let mut names: Vec<_> = list.service.into_iter().map(|it| it.name).collect();
            names.sort_unstable();
            names
        }
        other => panic!("no list: {other:?}"),
    }
}
