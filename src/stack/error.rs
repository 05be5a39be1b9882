//! Why a policy became nothing that serves.

use crate::{accept::ServerError, raft::OpenError, telemetry::TracesError, transport::TlsError};

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ServerError),
    /// A socket that was handed over is none.
    #[error("LISTEN_FDS: {0}; hand over sockets that listen, or none")]
    HandedOver(#[source] std::io::Error),
    /// A socket that was handed over is for no listener.
    #[error("LISTEN_FDS: {0}: nothing in the policy's listen is there; name it, or hand over none")]
    Unlisted(String),
    /// A listener's TLS has no usable key or certificate.
    #[error("listen[{i}].{error}")]
    ServerTls {
        /// Which of the policy's listeners.
        i: usize,
        /// What is wrong with its files.
        error: TlsError,
    },
    /// The upstream's TLS has no usable key or certificate.
    #[error("upstream.{0}")]
    Tls(#[from] TlsError),
    /// The embedded group cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A metric stands twice in one registry.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// Spans have nowhere to go.
    #[error(transparent)]
    Traces(#[from] TracesError),
    /// The embedded group has no such write.
    #[error(
        "method {path}: the embedded groups have no such write; name endpoints in the policy's \
         upstream"
    )]
    NotEmbedded {
        /// The method's path.
        path: String,
    },
    /// There is no group to embed.
    #[error("upstream: embedded, and no group is open; name endpoints, or start ferry again")]
    NoGroup,
}
