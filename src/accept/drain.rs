//! The signal that ends intake, as listeners and connections hear it.

use tokio::sync::watch;

/// Resolves when intake is to stop: it was asked to, or the server is gone.
pub(super) async fn drain_begins(drain: &mut watch::Receiver<bool>) {
    let _ = drain.wait_for(|draining| *draining).await;
}
