//! A load beside the test, and the roll call after it: which of the sessions
//! that were acknowledged are not there?

use std::{
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
    num::NonZeroU32,
    sync::Arc,
    thread,
    time::Duration,
};

use ferry::cli::bench::{
    Acknowledged, AfterTimeout, Deadline, Form, Load, LoadError, LoadPlan, Progress, Sessions,
};

use super::{client::Line, until};

/// Callers of a load, on a few connections.
const CALLERS: NonZeroU32 = NonZeroU32::new(64).expect("64 is not zero");
const CONNECTIONS: NonZeroU32 = NonZeroU32::new(4).expect("4 is not zero");
/// Bytes of a session: enough that no two are equal by accident.
const VALUE_BYTES: usize = 64;
/// Sessions of a load that are asked for by name; all are looked for.
const BY_NAME: u64 = 50;

/// A load of single, old-form calls that runs until it is stopped.
pub(crate) struct Loading {
    sessions: Sessions,
    progress: Arc<Progress>,
    load: thread::JoinHandle<(Acknowledged, BTreeMap<String, u64>)>,
}

/// What a load left behind.
pub(crate) struct Loaded {
    pub(crate) sessions: Sessions,
    pub(crate) acknowledged: Acknowledged,
    /// Calls that were answered otherwise, by what they were told.
    pub(crate) errors: BTreeMap<String, u64>,
}

impl Loading {
    /// Starts one whose client ids begin with `prefix`.
    pub(crate) fn start(target: SocketAddr, prefix: &str) -> Self {
        let plan = LoadPlan {
            target,
            form: Form::Legacy,
            batch_size: NonZeroU32::MIN,
            connections: CONNECTIONS,
            concurrency: CALLERS,
            rate: None,
            count: None,
            duration: Some(Duration::from_secs(3_600)),
            timeout: Duration::from_secs(60),
            after_timeout: AfterTimeout::NextSession,
            deadline: Deadline::Kept,
            value_bytes: VALUE_BYTES,
            client_id_prefix: prefix.to_owned(),
        };
        let plan = plan.checked().expect("a plan that makes sense");
        let progress = Arc::new(Progress::default());
        let shown = Arc::clone(&progress);
        let run = move || match Load::run(&plan, &shown) {
            Ok(report) => (report.acknowledged, report.errors),
            // It died before the load began.
            Err(LoadError::Connect { .. }) => Default::default(),
            Err(error) => panic!("{error}"),
        };
        Self {
            sessions: Sessions::new(prefix, VALUE_BYTES),
            progress,
            load: thread::spawn(run),
        }
    }

    /// Waits until so many sessions have been acknowledged.
    pub(crate) async fn until_acknowledged(&self, sessions: u64) {
        until("so many sessions are acknowledged", async || {
            self.progress.done() >= sessions
        })
        .await;
    }

    /// Sessions acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.progress.done()
    }

    /// Ends it; what is in flight counts as not acknowledged.
    pub(crate) fn stop(self) -> Loaded {
        self.progress.stop();
        let (acknowledged, errors) = self.load.join().expect("the load does not panic");
        Loaded {
            sessions: self.sessions,
            acknowledged,
            errors,
        }
    }
}

impl Loaded {
    /// The acknowledged sessions that `line` does not list, byte for byte.
    pub(crate) async fn missing(&self, line: &Line) -> Vec<String> {
        self.missing_with(&[], line).await
    }

    /// The same, asked for with such metadata.
    pub(crate) async fn missing_with(&self, metadata: &[(&str, &str)], line: &Line) -> Vec<String> {
        let listed = line.list_with(metadata, "").await;
        let listed: HashSet<_> = listed.into_iter().collect();
        let every = (self.acknowledged.total() / BY_NAME).max(1);
        let mut missing = Vec::new();
        for (place, number) in (0_u64..).zip(self.acknowledged.iter()) {
            let (client_id, value) = (self.sessions.client_id(number), self.sessions.value(number));
            let there = listed.contains(&value[..]);
            let own = place % every != 0 || line.list_with(metadata, &client_id).await == [value];
            if !there || !own {
                missing.push(client_id);
            }
        }
        missing
    }
}
