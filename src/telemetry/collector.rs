//! The way to a collector: a channel of tonic's, with or without TLS.
//!
//! TLS is made by the files that the upstream's is made of, so certificates that
//! are renewed are used for the next connection; tonic's own reads them once.

use std::{io, sync::Arc, time::Duration};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::{
    metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap},
    transport::{Channel, Endpoint, Error},
};

use crate::{
    policy::{SecretHeader, TracesTo},
    transport::{ClientFiles, Fresh, TlsError},
};

/// How long a new connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no way to a collector.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    /// The endpoint is none.
    #[error(transparent)]
    Endpoint(#[from] Error),
    /// It is to be reached by TLS, which the files do not make.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A channel to the collector, which connects when it is used.
pub(super) fn channel(to: &TracesTo) -> Result<Channel, CollectorError> {
    let address = to
        .endpoint
        .authority()
        .expect("the policy's loader saw one");
    // Tonic asks for TLS of its own where it sees https.
    let plain = Endpoint::from_shared(format!("http://{address}"))?;
    let endpoint = plain.connect_timeout(CONNECT_TIMEOUT);
    if !to.is_secure() {
        return Ok(endpoint.connect_lazy());
    }
    let config = Arc::new(Fresh::new(to.tls.clone())?);
    let host = address.host().trim_start_matches('[').trim_end_matches(']');
    let name = to.tls.server_name.as_deref().unwrap_or(host).to_owned();
    let connect = tower::service_fn(move |at: Uri| secured(at, Arc::clone(&config), name.clone()));
    let endpoint = endpoint.origin(to.endpoint.clone());
    Ok(endpoint.connect_with_connector_lazy(connect))
}

async fn secured(
    at: Uri,
    config: Arc<Fresh<ClientFiles, ClientConfig>>,
    name: String,
) -> io::Result<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>> {
    let (host, port) = (at.host().unwrap_or_default(), at.port_u16().unwrap_or(443));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let socket = TcpStream::connect((host, port)).await?;
    let name = ServerName::try_from(name).map_err(io::Error::other)?;
    let connector = TlsConnector::from(config.config());
    Ok(TokioIo::new(connector.connect(name, socket).await?))
}

/// What is sent with every request; marked, so that nothing shows the values.
pub(super) fn metadata(headers: &[SecretHeader]) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    for header in headers {
        let name = header.name.parse::<AsciiMetadataKey>();
        let value = AsciiMetadataValue::try_from(header.value.reveal());
        let proven = "the policy's loader made a header of it";
        let mut value = value.expect(proven);
        value.set_sensitive(true);
        metadata.insert(name.expect(proven), value);
    }
    metadata
}
