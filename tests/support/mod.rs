//! What the tests of the running system share: a client and an upstream that
//! can be as odd as a test needs, and waiting for an event with a bound.

pub(crate) mod admin;
pub(crate) mod authority;
pub(crate) mod client;
pub(crate) mod etcd;
pub(crate) mod faults;
pub(crate) mod frames;
pub(crate) mod hostile;
pub(crate) mod hot;
pub(crate) mod load;
pub(crate) mod nodes;
pub(crate) mod robustmq;
pub(crate) mod served;
pub(crate) mod slow_disk;
pub(crate) mod upstream;

use std::{env, path::Path, sync::OnceLock, time::Duration};

use tokio::time;

/// The checkout that is tested. As cargo says now: of a target directory that
/// several checkouts share, the test may have been built in another one.
pub(crate) fn root() -> &'static Path {
    static ROOT: OnceLock<String> = OnceLock::new();
    let built_in = || env!("CARGO_MANIFEST_DIR").to_owned();
    Path::new(ROOT.get_or_init(|| env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| built_in())))
}

/// Long enough for a machine that compiles beside it; only a fault waits.
pub(crate) const WITHIN: Duration = Duration::from_secs(60);

/// Between two looks at a condition that nothing announces.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Waits until `condition` holds; `what` names it if it never does.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let held = async {
        while !condition().await {
            time::sleep(LOOK_AGAIN).await;
        }
    };
    soon(what, held).await;
}

/// What `event` comes to; `what` names it if it never happens.
pub(crate) async fn soon<T>(what: &str, event: impl Future<Output = T>) -> T {
    time::timeout(WITHIN, event)
        .await
        .unwrap_or_else(|_| panic!("not within {WITHIN:?}: {what}"))
}
