//! `POST /snapshot`: a backup of what a node holds, as it is read.
//!
//! It is guarded as what changes something is: it tells everything.

use std::{io, pin::Pin, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::post,
};
use bytes::Bytes;
use futures_util::{Stream, future::BoxFuture};

/// The bytes of a backup; an error among them says that it is not whole.
pub type Pieces = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Whoever holds something that can be saved.
pub trait Saves: Send + Sync + 'static {
    /// Begins a backup; the answer is why there is none. A `stale` one has what
    /// this node has applied, and asks no other.
    fn save(&self, stale: bool) -> BoxFuture<'static, Result<Pieces, String>>;
}

/// The page, to stand beside the others.
pub(super) fn pages(saves: Arc<dyn Saves>) -> Router {
    Router::new()
        .route("/snapshot", post(snapshot))
        .with_state(saves)
}

async fn snapshot(State(saves): State<Arc<dyn Saves>>, asked: Uri) -> Response {
    let stale = match asked.query() {
        None => false,
        Some("stale=true") => true,
        Some(other) => {
            let why = format!("{other}: must be stale=true, or nothing\n");
            return (StatusCode::BAD_REQUEST, why).into_response();
        }
    };
    match saves.save(stale).await {
        // An error among the pieces ends the connection without an end of the
        // body, so nobody takes a part for the whole.
        Ok(pieces) => Body::from_stream(pieces).into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}
