//! The upstream that most services are like: tonic as it comes, which decodes
//! each call into strings and bytes, takes the sessions and answers. What it
//! costs is what coalescing saves.

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::future::{BoxFuture, Ready, ready};
use prost::Message;
use tokio::net::TcpListener;
use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::http,
    server::{Grpc, NamedService, UnaryService},
    transport::{Server, server::TcpIncoming},
};
use tonic_prost::ProstCodec;
use tower::Service;

use super::{telling, upstream::Counted};

#[derive(Clone, Default)]
struct Sessions {
    counts: Arc<Counts>,
    reply: Reply,
}

#[derive(Debug, Default)]
struct Counts {
    calls: AtomicU64,
    entries: AtomicU64,
}

/// Both forms of the call, as a service that knows both has them.
#[derive(Clone, PartialEq, Message)]
struct Create {
    #[prost(message, repeated, tag = "1")]
    sessions: Vec<Session>,
    #[prost(string, tag = "2")]
    client_id: String,
    #[prost(bytes = "vec", tag = "3")]
    session: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Session {
    #[prost(string, tag = "1")]
    client_id: String,
    #[prost(bytes = "vec", tag = "2")]
    session: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Reply {
    #[prost(bytes = "bytes", tag = "15")]
    padding: bytes::Bytes,
}

/// Serves until its input ends.
pub(crate) async fn serve(reply_bytes: usize) -> anyhow::Result<()> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
    let sessions = Sessions {
        counts: Arc::default(),
        reply: Reply::decode(&*super::upstream::reply(reply_bytes))?,
    };
    let told = Arc::clone(&sessions.counts);
    let ended = telling::told_to_end(listener.local_addr()?, move || {
        let calls = told.calls.load(Ordering::Relaxed);
        io::Result::Ok(Counted {
            calls,
            messages: calls,
            message_bytes: 0,
            entries: Some(told.entries.load(Ordering::Relaxed)),
        })
    })?;
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Server::builder()
        .add_service(sessions)
        .serve_with_incoming_shutdown(incoming, ended)
        .await?;
    Ok(())
}

impl NamedService for Sessions {
    const NAME: &'static str = "meta.service.mqtt.MqttService";
}

impl UnaryService<Create> for Sessions {
    type Response = Reply;
    type Future = Ready<Result<Response<Reply>, Status>>;

    fn call(&mut self, request: Request<Create>) -> Self::Future {
        let create = request.into_inner();
        let single = u64::from(!create.client_id.is_empty());
        let entries = create.sessions.len() as u64 + single;
        self.counts.calls.fetch_add(1, Ordering::Relaxed);
        self.counts.entries.fetch_add(entries, Ordering::Relaxed);
        ready(Ok(Response::new(self.reply.clone())))
    }
}

impl Service<http::Request<Body>> for Sessions {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = self.clone();
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::<Reply, Create>::default());
            Ok(grpc.unary(method, request).await)
        })
    }
}
