//! A stand-in for RobustMQ's meta service: what it answers to CreateSession,
//! word for word where clients look at the words, and how it ends when it is
//! sent a session that it cannot decode.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use ferry::{accept::frame::framed, proto::mqtt::CreateSessionRequest};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpListener;
use tonic::Status;

use super::client::{CREATE, messages};

/// What a session that it cannot decode begins with.
pub(crate) const UNDECODABLE: &[u8] = b"\xff";

/// One member of a meta cluster.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Where it says that the leader is; `None` where it leads itself.
    elsewhere: Option<String>,
    /// The Raft group's core has ended: every write fails from now on.
    halted: bool,
    /// Client ids in the order in which they were applied, a batch each.
    applied: Vec<Vec<String>>,
    calls: usize,
}

impl Member {
    /// One that leads.
    pub(crate) async fn leading() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("loopback has free ports");
        let member = Self {
            address: listener.local_addr().expect("it is bound"),
            state: Arc::default(),
        };
        let state = Arc::clone(&member.state);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let state = Arc::clone(&state);
                let service = service_fn(move |request| {
                    let state = Arc::clone(&state);
                    async move { Ok::<_, Infallible>(serve(&state, request).await) }
                });
                let server = http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(TokioIo::new(socket), service));
            }
        });
        member
    }

    /// From now on it names `place` as the leader.
    pub(crate) fn follows(&self, place: &str) {
        self.lock().elsewhere = Some(place.to_owned());
    }

    /// From now on it leads.
    pub(crate) fn leads(&self) {
        self.lock().elsewhere = None;
    }

    pub(crate) fn applied(&self) -> Vec<Vec<String>> {
        self.lock().applied.clone()
    }

    pub(crate) fn calls(&self) -> usize {
        self.lock().calls
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}

async fn serve(
    state: &Mutex<State>,
    request: Request<Incoming>,
) -> Response<BoxBody<Bytes, Infallible>> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await;
    let body = messages(body.expect("whole calls come").to_bytes());
    let [message] = &body[..] else {
        panic!("a call is one message");
    };
    let mut state = state.lock().expect("no holder panics");
    state.calls += 1;
    let status = match (&state.elsewhere, path == CREATE) {
        // Any method is a write here, and only the leader takes them.
        (Some(place), _) => not_leader(place),
        (None, true) => create(&mut state, message),
        (None, false) => Status::ok(""),
    };
    let mut frames = Vec::new();
    if status.code() == tonic::Code::Ok {
        frames.push(Ok(Frame::data(framed(b""))));
    }
    let mut trailers = HeaderMap::new();
    status
        .add_header(&mut trailers)
        .expect("a status in headers");
    frames.push(Ok(Frame::trailers(trailers)));
    let stream = futures_util::stream::iter(frames);
    let mut response = Response::new(StreamBody::new(stream).boxed());
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", grpc);
    response
}

fn not_leader(place: &str) -> Status {
    Status::internal(match place {
        "" => "has to forward request to: None, None".to_owned(),
        place => format!(
            "has to forward request to: Some(2), Some(Node {{ node_id: 2, rpc_addr: \"{place}\" }})"
        ),
    })
}

fn create(state: &mut State, message: &[u8]) -> Status {
    let request = match CreateSessionRequest::decode(message) {
        Ok(request) => request,
        Err(error) => {
            return Status::internal(format!("failed to decode Protobuf message: {error}"));
        }
    };
    let field = "meta.service.mqtt.CreateSessionRequest.sessions";
    if request.sessions.is_empty() {
        return Status::invalid_argument(format!("\"{field}\": must have at least 1 items"));
    }
    let empty = |raw: &&ferry::proto::mqtt::CreateSessionRaw| {
        raw.client_id.is_empty() || raw.session.is_empty()
    };
    if let Some(at) = request.sessions.iter().position(|raw| empty(&raw)) {
        return Status::invalid_argument(format!("sessions[{at}]: must not be empty"));
    }
    // Fails in apply, which is the end of the group's core.
    let undecodable =
        |raw: &ferry::proto::mqtt::CreateSessionRaw| raw.session.starts_with(UNDECODABLE);
    state.halted |= request.sessions.iter().any(undecodable);
    if state.halted {
        return Status::internal("raft core has stopped: Failed to deserialize session");
    }
    let clients = request.sessions.into_iter().map(|raw| raw.client_id);
    state.applied.push(clients.collect());
    Status::ok("")
}
