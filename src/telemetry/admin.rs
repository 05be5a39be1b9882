//! The admin address: the live page at `/`, `/metrics`, `/live`, `/ready`,
//! `/snapshot` where there is something to save, and for a sidecar what
//! [`Controls`] can do. Loopback by default.

use std::{net::SocketAddr, sync::Arc};

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use prometheus::{Registry, TextEncoder};
use serde::Serialize;
use tokio::{net::TcpListener, sync::watch};

use super::{
    Recent, RecentBatch, Refusals, clients,
    controls::{self, Controls, IsToken},
    page,
    saving::{self, Saves},
};
use crate::{
    accept::ServerError,
    transport::{BindError, Place},
};

/// What the admin pages look at.
pub struct AdminView {
    /// Everything that is counted.
    pub registry: Registry,
    /// The batches that failed or were slow.
    pub recent: Arc<Recent>,
    /// Takes the values of gauges over before a scrape.
    pub refresh: Box<dyn Fn() + Send + Sync>,
    /// Why no call should be sent here now; `None` if any may.
    pub not_ready: Box<dyn Fn() -> Option<String> + Send + Sync>,
    /// What may be seen and done beside; `None` for a node.
    pub controls: Option<Arc<dyn Controls>>,
    /// What counts who could not be let in.
    pub refusals: Arc<Refusals>,
    /// What can be saved, if anything is kept here.
    pub saves: Option<Arc<dyn Saves>>,
}

/// The admin server, until it is dropped.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    _stop: watch::Sender<()>,
}

impl Admin {
    /// Listens on `address`.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub async fn listen(address: SocketAddr, view: AdminView) -> Result<Self, ServerError> {
        let bind = |error| {
            ServerError::Bind(BindError {
                place: Place::Tcp(address),
                error,
            })
        };
        let listener = TcpListener::bind(address).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let (controls, saves) = (view.controls.clone(), view.saves.clone());
        let refusals = Arc::clone(&view.refusals);
        // Without controls there is no token, so nobody knows it.
        let is_token: IsToken = match controls.clone() {
            Some(controls) => Arc::new(move |told| controls.is_token(told)),
            None => Arc::new(|_| false),
        };
        let saving = saves.map(|saves| controls::guarded(saving::pages(saves), is_token.clone()));
        let pages = Router::new()
            .route("/metrics", get(metrics))
            .route("/live", get(|| async { "live\n" }))
            .route("/ready", get(ready))
            .route("/debug/recent", get(recent))
            .merge(page::routes())
            .with_state(Arc::new(view))
            .merge(controls.map_or_else(Router::new, |own| controls::pages(own, is_token)))
            .merge(saving.unwrap_or_default());
        let (stop, stopped) = watch::channel(());
        tokio::spawn(clients::serve(listener, address, pages, refusals, stopped));
        Ok(Self {
            address,
            _stop: stop,
        })
    }

    /// The address it listens on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

async fn metrics(State(view): State<Arc<AdminView>>) -> Result<String, (StatusCode, String)> {
    (view.refresh)();
    TextEncoder::new()
        .encode_to_string(&view.registry.gather())
        .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")))
}

/// What `/debug/recent` answers.
#[derive(Serialize)]
struct RecentAnswer {
    batches: Vec<RecentBatch>,
}

async fn recent(State(view): State<Arc<AdminView>>) -> Json<RecentAnswer> {
    let batches = view.recent.batches(tokio::time::Instant::now().into_std());
    Json(RecentAnswer { batches })
}

async fn ready(State(view): State<Arc<AdminView>>) -> Result<&'static str, (StatusCode, String)> {
    match (view.not_ready)() {
        None => Ok("ready\n"),
        Some(why) => Err((
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready: {why}\n"),
        )),
    }
}
