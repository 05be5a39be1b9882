//! What a call passes before anything of it is received.
//!
//! A call shows its badge in its headers, and is refused by them alone: of a
//! stranger's message not a byte is kept, however large it says that it is.
//! What a member may send is bounded by what it is for: a question is short, a
//! write is not.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tonic::{body::Body, codegen::BoxFuture, server::NamedService};
use tower::Service;

use super::{
    MESSAGE_MAX, RaftServer,
    badge::{Admit, Badge},
};
use crate::proto::raft::raft_server::RaftServer as RaftService;

/// The largest question: a vote, a membership change, a number of a log entry.
const QUESTION_MAX: usize = 64 << 10;

/// The end that answers other nodes, behind its check of who they are.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    badge: Arc<Badge>,
    questions: RaftService<RaftServer>,
    /// Appends, snapshots and writes.
    records: RaftService<RaftServer>,
}

impl Gate {
    pub(crate) fn new(badge: Arc<Badge>, server: RaftServer) -> Self {
        let of = |largest| {
            RaftService::new(server.clone())
                .max_decoding_message_size(largest)
                .max_encoding_message_size(MESSAGE_MAX)
        };
        Self {
            badge,
            questions: of(QUESTION_MAX),
            records: of(MESSAGE_MAX),
        }
    }
}

impl NamedService for Gate {
    const NAME: &'static str = <RaftService<RaftServer> as NamedService>::NAME;
}

impl Service<Request<Body>> for Gate {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // As tonic's own services, which it calls.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = request.uri().path().rsplit('/').next().unwrap_or("");
        let admit = match method {
            "Greet" | "Join" => Admit::Namesakes,
            _ => Admit::Members,
        };
        if let Err(status) = self.badge.admit(request.headers(), admit) {
            return Box::pin(std::future::ready(Ok(status.into_http())));
        }
        match method {
            "Append" | "AppendStream" | "Snapshot" | "Propose" => self.records.call(request),
            _ => self.questions.call(request),
        }
    }
}
